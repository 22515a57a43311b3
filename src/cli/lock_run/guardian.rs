//! What stays behind when `lock run` is killed with -9, and ends what is left of the command's group.
//!
//! The kernel then kills the command, but not its children. So `lock run` starts this program once more,
//! as [`WatchGroup`], in a session of its own: what ends the group or the terminal of `lock run` does not
//! end it. It reads a pipe whose other end is `lock run`'s alone; the end of what is to be read is the end
//! of `lock run`. It never acts while `lock run` lives.

use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt as _,
    process::{self, ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process_group, setsid};

use super::{Context, Failure, GROUP_POLL, child::is_group_alive, failed, signals::Signals};
use crate::{
    clock::{Clock, SystemClock},
    time::millis,
};

/// What the guardian says once nothing but KILL can end it.
const READY: u8 = b'\n';
/// What it is told when it is not needed any more.
const DISMISSED: u8 = b'.';

/// The guardian, as `lock run` knows it. Without a group to watch, it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Guardian {
    process: process::Child,
    orders: ChildStdin,
}

impl Guardian {
    /// Starts it, and waits for nothing. `kill_after`: how long the group has between TERM and KILL.
    pub(super) fn start(kill_after: Duration) -> anyhow::Result<Self> {
        let mut guardian = Command::new("/proc/self/exe");
        guardian.arg0("syncmesh").args(["lock", "watch-group", "--kill-after-ms"]).arg(millis(kill_after).to_string());
        let mut process = guardian
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("no process can be started")?;
        let orders = process.stdin.take().expect("its stdin is a pipe");
        Ok(Self { process, orders })
    }

    /// Waits until it is ready to be given a group.
    pub(super) fn ready(&mut self) -> anyhow::Result<()> {
        let said = self.process.stdout.as_mut().expect("its stdout is a pipe");
        let mut byte = [0];
        said.read_exact(&mut byte).context("the process that is to watch over the command has ended")
    }

    /// From now on this group is ended with `lock run`.
    pub(super) fn watch(&mut self, group: Pid) -> anyhow::Result<()> {
        let group = group.as_raw_nonzero().get().to_ne_bytes();
        self.orders.write_all(&group).context("the process that is to watch over the command has ended")
    }

    /// Nothing is left to watch. Before the leader of the group is reaped, so that its number means no other.
    pub(super) fn dismiss(mut self) {
        let dismissed = self.orders.write_all(&[DISMISSED]);
        if let Err(error) = dismissed.and_then(|()| self.process.wait()) {
            tracing::debug!(%error, "the guardian was gone before it was dismissed");
        }
    }
}

/// Ends a process group when the process at the other end of stdin has ended.
#[derive(Debug, Args)]
pub(in crate::cli) struct WatchGroup {
    #[arg(long)]
    kill_after_ms: u64,
}

impl WatchGroup {
    pub(in crate::cli) fn run(self, context: &Context) -> Result<(), Failure> {
        let fail = |error: anyhow::Error| failed(context, &error.into());
        setsid().map_err(|error| fail(anyhow!(error).context("no session of its own")))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| fail(error.into()))?;
        let _entered = runtime.enter();
        // Caught, and nothing else: it ends with `lock run`.
        let _signals = Signals::listen().map_err(|error| fail(error.into()))?;
        context.output.raw(&[READY])?;
        let mut orders = io::stdin().lock();
        let mut group = [0; size_of::<i32>()];
        let Ok(()) = orders.read_exact(&mut group) else { return Ok(()) };
        let group = Pid::from_raw(i32::from_ne_bytes(group)).ok_or_else(|| fail(anyhow!("0 is no process group")))?;
        if orders.read_exact(&mut [0]).is_err() {
            end(group, self.kill_after_ms);
        }
        Ok(())
    }
}

/// TERM, and KILL for what is there later. Once nothing is left its number may come to mean another
/// group: then nothing is signalled any more.
fn end(group: Pid, kill_after_ms: u64) {
    let signal = |signal| {
        // What has ended meanwhile, or is not ours to end, hears nothing.
        let _ = kill_process_group(group, signal);
    };
    if !is_group_alive(group) {
        return;
    }
    signal(Signal::TERM);
    // A stopped process hears TERM only once it goes on.
    signal(Signal::CONT);
    let kill_at = SystemClock.now().plus_ms(kill_after_ms);
    while is_group_alive(group) {
        if SystemClock.now() >= kill_at {
            return signal(Signal::KILL);
        }
        thread::sleep(GROUP_POLL);
    }
}
