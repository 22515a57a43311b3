//! The signals that `lock run` passes on.

use std::{future::poll_fn, io, task::Poll};

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// What the command is to hear.
const PASSED_ON: [Signal; 8] =
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::WINCH, Signal::CONT];

/// What would stop this process, and with it the renewal of the session: caught, and nothing else.
const KEPT_FROM_US: [Signal; 3] = [Signal::TSTP, Signal::TTIN, Signal::TTOU];

/// The signals as they come. While this lives, none of them has its default effect on this process.
#[derive(Debug)]
pub(super) struct Signals {
    passed_on: Vec<(Signal, unix::Signal)>,
    _kept_from_us: Vec<unix::Signal>,
}

impl Signals {
    /// Begins to catch them.
    pub(super) fn listen() -> io::Result<Self> {
        let listen = |signal: Signal| unix::signal(SignalKind::from_raw(signal.as_raw()));
        let passed_on = PASSED_ON.into_iter().map(|signal| Ok((signal, listen(signal)?)));
        Ok(Self {
            passed_on: passed_on.collect::<io::Result<_>>()?,
            _kept_from_us: KEPT_FROM_US.into_iter().map(listen).collect::<io::Result<_>>()?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.passed_on {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next one that asks a process to end; the others pass unheeded.
    pub(super) async fn next_to_end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].contains(&signal) {
                return signal;
            }
        }
    }
}
