//! `lock run`: holds a lock while a command runs, and ends the command before the lock is lost.
//!
//! The command runs in a process group of its own ([`child`]) with the terminal, where there is one
//! ([`terminal`]). This process renews the session and passes signals on ([`signals`]). It counts its
//! lease as the holder does ([`crate::client::RemoteGuard`]) and begins to end the command early enough
//! that nothing of it runs when the servers may grant the lock to another. When this process is killed
//! instead, its [`guardian`] ends the command.

mod child;
mod guardian;
mod signals;
mod terminal;

use std::{ffi::OsString, time::Duration};

use clap::Args;
use rustix::process::Signal;
use tokio::time::sleep;

pub(super) use self::{child::ExecChild, guardian::WatchGroup, terminal::GiveTerminal};
use self::{
    child::{Change, Child},
    guardian::Guardian,
    signals::Signals,
    terminal::Terminal,
};
use super::{Context, Failure, lock::Wanted, remote::Remote};
use crate::{
    client::{ClientError, RemoteGuard},
    clock::{Clock, SystemClock},
    config::suffixed_duration,
    error::{Error, ErrorCode},
    ids::Tick,
};

/// The term of a session unless `--ttl` says otherwise.
pub(super) const DEFAULT_TTL: Duration = Duration::from_secs(30);

/// `lock run` itself failed, or the lock was lost.
const EXIT_FAILED: u8 = 125;

/// The lock was not granted within `--wait`.
const EXIT_TIMED_OUT: u8 = 124;

/// By how much the KILL comes before the end of the lease: what it takes to wake, and to kill a group.
const KILL_MARGIN: Duration = Duration::from_millis(50);

/// How long giving the lock back may take: it ends with its term anyway.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the rest of a group is looked for after its leader has ended.
const GROUP_POLL: Duration = Duration::from_millis(20);

/// Hold a lock while a command runs.
///
/// CMD runs in a process group of its own, with SYNCMESH_LOCK, SYNCMESH_SESSION and
/// SYNCMESH_FENCING_TOKEN in its environment. Signals are passed on to the group. When the lock
/// is lost (a break, an expired session, no node that answers), the group gets TERM and,
/// --kill-after later or when the lease ends, KILL. What CMD leaves running in its group when it
/// ends is ended too.
///
/// If `lock run` is killed with -9, the kernel kills CMD, and a process that was started beside it
/// ends what is left of the group: TERM, and --kill-after later KILL. Neither reaches what has made
/// a process group or session of its own (setsid, a daemon, the jobs of an interactive shell) or
/// runs as another user. Nor can a `lock run` that is stopped with SIGSTOP end anything: check the
/// fencing token where it matters.
///
/// Exit code: CMD's, 128+n if signal n ended it; 124 the wait timed out; 125 the lock was lost or
/// `lock run` failed; 126 CMD cannot be executed; 127 CMD was not found. As with every command, 2
/// is wrong usage and 78 an invalid configuration: then CMD was not started.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct LockRun {
    #[command(flatten)]
    wanted: Wanted,
    /// How long after this machine's death another gets the lock.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = suffixed_duration)]
    ttl: Duration,
    /// How long CMD has between TERM and KILL; at most a third of --ttl is used.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = suffixed_duration)]
    kill_after: Duration,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How the command came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ending {
    /// By itself, or by a signal that was passed on.
    Ended {
        /// As a shell says it.
        code: u8,
    },
    /// Because the lock was lost.
    LockLost,
}

impl LockRun {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        // Not Context::block_on: Ctrl-C is the command's here. One thread, because the kernel ties the
        // parent-death signal to the thread that started the child.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(context, &Failure::Other(error.into())))?;
        runtime.block_on(self.hold(context, &remote))
    }

    async fn hold(self, context: &Context, remote: &Remote) -> Result<(), Failure> {
        let mut signals = Signals::listen().map_err(|error| failed(context, &Failure::Other(error.into())))?;
        let guardian = Guardian::start(grace(self.kill_after, self.ttl));
        let guardian = guardian.map_err(|error| failed(context, &Failure::Other(error)))?;
        let guard = self.acquire(context, remote, &mut signals).await?;
        let ending = match self.start(context, &guard, guardian) {
            Ok((child, guardian)) => Ok(self.supervise(context, &guard, child, guardian, &mut signals).await),
            Err(error) => Err(failed(context, &Failure::Other(error))),
        };
        let released = tokio::time::timeout(RELEASE_TIMEOUT, guard.release()).await;
        let ending = ending?;
        if !matches!(released, Ok(Ok(()))) && ending != Ending::LockLost {
            context.output.note("syncmesh: the lock could not be given back; it is free when its term is over");
        }
        match ending {
            Ending::Ended { code: 0 } => Ok(()),
            Ending::Ended { code } => Err(Failure::Exit(code)),
            Ending::LockLost => Err(Failure::Exit(EXIT_FAILED)),
        }
    }

    /// Waits in line; a signal to end leaves it.
    async fn acquire(&self, context: &Context, remote: &Remote, signals: &mut Signals) -> Result<RemoteGuard, Failure> {
        let mut builder = remote.client.lock(self.wanted.name.clone()).ttl(self.ttl).wait(self.wanted.wait);
        if self.wanted.shared {
            builder = builder.shared();
        }
        let acquired = tokio::select! {
            biased;
            signal = signals.next_to_end() => return Err(Failure::Exit(exit_code_of_signal(signal.as_raw()))),
            acquired = builder.owner(owner()).acquire() => acquired,
        };
        acquired.map_err(|error: ClientError| {
            let timed_out = error.error.code == ErrorCode::LockTimeout;
            let exit = failed(context, &error.into());
            if timed_out { Failure::Exit(EXIT_TIMED_OUT) } else { exit }
        })
    }

    /// Starts the command, with the guardian watching over its group before it can have any children.
    fn start(
        &self,
        context: &Context,
        guard: &RemoteGuard,
        mut guardian: Guardian,
    ) -> anyhow::Result<(Child, Guardian)> {
        guardian.ready()?;
        let child = Child::start(&self.command, guard, context.output.format())?;
        if let Err(error) = guardian.watch(child.group()) {
            child.signal(Signal::KILL);
            child.reap();
            return Err(error);
        }
        Ok((child, guardian))
    }

    /// Stays with the command until nothing of its group is left.
    async fn supervise(
        &self,
        context: &Context,
        guard: &RemoteGuard,
        mut child: Child,
        guardian: Guardian,
        signals: &mut Signals,
    ) -> Ending {
        let terminal = Terminal::of_stdin();
        terminal.give_to(child.group());
        let grace = grace(self.kill_after, self.ttl);
        let lost = guard.lost_within(grace + KILL_MARGIN);
        let mut lost = std::pin::pin!(lost);
        let ending = loop {
            tokio::select! {
                biased;
                change = child.changed() => match change {
                    Change::Ended { code } => break Ending::Ended { code },
                    // Whoever stops a holder keeps everybody waiting: it goes on.
                    Change::Suspended => {
                        context.output.note("syncmesh: a command that holds a lock cannot be suspended");
                        child.signal(Signal::CONT);
                    }
                },
                signal = signals.next() => {
                    if signal == Signal::CONT {
                        terminal.give_to(child.group());
                    }
                    child.signal(signal);
                }
                why = lost.as_mut() => {
                    let detail = format!("{why}; the lock is lost and the command is ended");
                    context.output.report(&Error::new(ErrorCode::SessionExpired, detail).into());
                    break Ending::LockLost;
                }
            }
        };
        let believed_until = guard.believed_until();
        end_group(&mut child, kill_at(SystemClock.now(), believed_until, grace), believed_until).await;
        terminal.take_back(child.group());
        guardian.dismiss();
        child.reap();
        ending
    }
}

/// Ends what is left of a group: TERM now, KILL at `kill_at`. The lock is not given back before all of
/// it is gone (a process may be in the middle of a system call), unless the lease ends first.
async fn end_group(child: &mut Child, kill_at: Tick, believed_until: Tick) {
    if child.is_group_alive() {
        child.signal(Signal::TERM);
        // A stopped process hears TERM only once it goes on.
        child.signal(Signal::CONT);
    }
    while child.is_group_alive() && SystemClock.now() < kill_at {
        let left = Duration::from_millis(kill_at.ms_since(SystemClock.now()));
        sleep(left.min(GROUP_POLL)).await;
    }
    if child.is_group_alive() {
        child.signal(Signal::KILL);
    }
    child.ended().await;
    while child.is_group_alive() && SystemClock.now() < believed_until {
        sleep(GROUP_POLL).await;
    }
}

/// How long the command has between TERM and KILL. A short term leaves two thirds to keep-alives.
fn grace(kill_after: Duration, ttl: Duration) -> Duration {
    kill_after.min(ttl / 3)
}

/// When to KILL a group that gets TERM now: when its grace is over, or just before the lease is.
fn kill_at(now: Tick, believed_until: Tick, grace: Duration) -> Tick {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let lease_end = Tick(believed_until.0.saturating_sub(ms(KILL_MARGIN)));
    now.plus_ms(ms(grace)).min(lease_end)
}

/// 128 + n, as shells say it.
fn exit_code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Reports a failure of our own, which has an exit code of its own.
fn failed(context: &Context, failure: &Failure) -> Failure {
    context.output.report(failure);
    Failure::Exit(EXIT_FAILED)
}

/// Whom people see as the holder: this machine and process.
fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::believed_until;

    #[test]
    fn the_kill_comes_when_the_grace_is_over() {
        let lease = believed_until(Tick(0), 30_000);
        assert_eq!(kill_at(Tick(1000), lease, Duration::from_secs(5)), Tick(6000));
    }

    #[test]
    fn the_kill_comes_before_the_lease_ends_however_long_the_grace() {
        let lease = believed_until(Tick(0), 30_000);
        for kill_after_ms in [0, 1, 5000, 30_000, 3_600_000] {
            let grace = grace(Duration::from_millis(kill_after_ms), Duration::from_secs(30));
            // TERM goes out when lost_within(grace + margin) resolves.
            let term_at = Tick(lease.0 - u64::try_from((grace + KILL_MARGIN).as_millis()).unwrap());
            assert!(term_at.0 >= 15_000, "keep-alives have had their chance by {term_at:?}");
            assert!(kill_at(term_at, lease, grace) < lease, "--kill-after {kill_after_ms}ms");
        }
    }

    #[test]
    fn a_lease_that_is_over_leaves_no_grace() {
        assert!(kill_at(Tick(50_000), Tick(40_000), Duration::from_secs(5)) < Tick(50_000));
    }

    #[test]
    fn signals_become_exit_codes_as_in_a_shell() {
        assert_eq!(exit_code_of_signal(Signal::KILL.as_raw()), 137);
        assert_eq!(exit_code_of_signal(Signal::INT.as_raw()), 130);
    }
}
