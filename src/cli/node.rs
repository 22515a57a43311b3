//! `node`: runs one node until it is told to stop.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::{
    Context, Failure, config,
    flags::SettingFlags,
    serve::{LEAVE_GRACE, Served},
};
use crate::{
    config::{Config, Resolved},
    node::{Drained, End},
    telemetry,
};

/// Exit code after a second signal.
pub(super) const INTERRUPTED: u8 = 130;

/// Run one node.
#[derive(Debug, Args)]
pub(super) struct RunNode {
    /// Only validate and print the configuration.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

impl RunNode {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let sources = context.sources(&self.settings);
        if self.check {
            return config::show(context, &sources);
        }
        let (settings, resolved) = Config::with_resolved(&sources)?;
        telemetry::init_logs(settings.log_format, &settings.rust_log).map_err(anyhow::Error::new)?;
        let runtime = runtime()?;
        let outcome = runtime.block_on(run(settings, resolved));
        // What a second signal or a lost disk left hanging must not hold the process.
        runtime.shutdown_timeout(Duration::from_millis(100));
        outcome
    }
}

/// The runtime of a node.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    Ok(runtime.context("the asynchronous runtime cannot be started")?)
}

async fn run(config: Config, resolved: Vec<Resolved>) -> Result<(), Failure> {
    let grace = config.shutdown_grace;
    let mut signals = Signals::new()?;
    let served = tokio::select! {
        served = Served::start(config, resolved) => served.map_err(anyhow::Error::new)?,
        // There is nothing to drain yet.
        () = signals.next() => return Ok(()),
    };
    let node = served.node.clone();
    let code = tokio::select! {
        () = signals.next() => {
            info!(grace_s = grace.as_secs(), "drains and stops; a second signal ends it at once");
            0
        }
        () = node.asked_to_leave() => 0,
        end = node.ended() => match end {
            End::Left => 0,
            End::Barred(reason) => {
                error!("{reason}");
                1
            }
            End::Failed(reason) => {
                error!("{reason}");
                1
            }
        },
    };
    // The node's own time limits are inside the grace; this is for what hangs in spite of them.
    let leaves = node.is_leaving();
    let limit = if leaves { node.leaves_within().unwrap_or(LEAVE_GRACE) } else { grace };
    let stopped = tokio::select! {
        stopped = tokio::time::timeout(limit, served.stop(limit)) => stopped.unwrap_or(Drained::Cut),
        () = signals.next() => match leaves {
            // Who is told to stop while it leaves has as long as anyone.
            true => tokio::select! {
                stopped = tokio::time::timeout(grace, node.stop(grace)) => stopped.unwrap_or(Drained::Cut),
                () = signals.next() => return Err(Failure::Exit(INTERRUPTED)),
            },
            false => return Err(Failure::Exit(INTERRUPTED)),
        },
    };
    match (code, stopped) {
        (0, Drained::Whole) => Ok(()),
        (0, Drained::Cut) => {
            error!("ends without having handed everything over: the warnings above say why");
            Err(Failure::Exit(1))
        }
        (code, _) => Err(Failure::Exit(code)),
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).context("signals cannot be listened for");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next of either.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
