//! The command that runs under a lock: its start, its process group, its end.
//!
//! Safe Rust cannot run code between fork and exec. So what is started is this program again, as
//! [`ExecChild`], which asks the kernel for the parent-death signal, makes sure that its parent still
//! lives, and then becomes the command. Its zombie is kept until the group is gone, so that the number
//! of the group cannot come to mean another.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt,
    process::{self, Command},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use rustix::{
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpgrp, getppid, kill_process_group,
        set_parent_process_death_signal, waitid,
    },
    termios::{isatty, tcgetpgrp},
};
use tokio::signal::unix::{self, SignalKind};

use super::{Context, Failure, exit_code_of_signal};
use crate::{cli::output::Format, client::RemoteGuard};

/// The command cannot be executed.
const EXIT_NOT_EXECUTABLE: u8 = 126;

/// The command was not found.
const EXIT_NOT_FOUND: u8 = 127;

/// How often, and how many times, a child looks whether the terminal is its own yet.
const TERMINAL_POLL: Duration = Duration::from_millis(1);
const TERMINAL_POLLS: u32 = 1000;

/// What became of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// It has ended.
    Ended {
        /// As a shell says it.
        code: u8,
    },
    /// Somebody pressed Ctrl-Z.
    Suspended,
}

/// The running command and its process group.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    pid: Pid,
    /// Says when there is something to ask the kernel about.
    changes: unix::Signal,
}

impl Child {
    /// Starts the command. That it cannot be executed shows in its exit code.
    pub(super) fn start(command: &[OsString], guard: &RemoteGuard, format: Format) -> anyhow::Result<Self> {
        // Before the start, so that no change is missed.
        let changes = unix::signal(SignalKind::child())?;
        let mut launcher = Command::new("/proc/self/exe");
        launcher.args(["lock", "exec-child", "--parent"]).arg(process::id().to_string());
        if format == Format::Json {
            launcher.args(["--output", "json"]);
        }
        if isatty(io::stdin()) && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp()) {
            launcher.arg("--await-terminal");
        }
        let process = launcher
            .arg("--")
            .args(command)
            .env("SYNCMESH_LOCK", guard.lock().as_str())
            .env("SYNCMESH_SESSION", guard.session().as_str())
            .env("SYNCMESH_FENCING_TOKEN", guard.token().0.to_string())
            .process_group(0)
            .spawn()
            .context("no process can be started")?;
        let pid = Pid::from_child(&process);
        Ok(Self { process, pid, changes })
    }

    /// The process group.
    pub(super) fn group(&self) -> Pid {
        self.pid
    }

    /// Signals the whole group. That nobody is left to hear it is no error.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process_group(self.pid, signal) {
            tracing::debug!(%error, ?signal, "the command's group heard no signal");
        }
    }

    /// The next change. Safe to cancel.
    pub(super) async fn changed(&mut self) -> Change {
        loop {
            if let Some(code) = self.exit_code() {
                return Change::Ended { code };
            }
            if self.was_suspended() {
                return Change::Suspended;
            }
            if self.changes.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Resolves when the command itself has ended.
    pub(super) async fn ended(&mut self) {
        while !matches!(self.changed().await, Change::Ended { .. }) {}
    }

    /// The exit code once the command has ended; leaves its zombie.
    fn exit_code(&self) -> Option<u8> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.pid), options).ok()??;
        Some(exit_code(&status))
    }

    /// Whether the terminal has stopped it since the last look. One that reads the terminal from the
    /// background, or is sent STOP, stays stopped: the first would only stop again.
    fn was_suspended(&self) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::Pid(self.pid), options).ok().flatten();
        status.and_then(|status| status.stopping_signal()) == Some(Signal::TSTP.as_raw())
    }

    /// Whether anything in the group still runs.
    pub(super) fn is_group_alive(&self) -> bool {
        is_group_alive(self.pid)
    }

    /// Lets the zombie go. The group's number is free from here on.
    pub(super) fn reap(mut self) {
        if let Err(error) = self.process.wait() {
            tracing::debug!(%error, "the command was reaped by somebody else");
        }
    }
}

fn exit_code(status: &WaitIdStatus) -> u8 {
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
    code.or_else(|| status.terminating_signal().map(exit_code_of_signal)).unwrap_or(u8::MAX)
}

/// Whether anything in a process group still runs. Where `/proc` does not say, it may.
pub(super) fn is_group_alive(group: Pid) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return true };
    let group = group.as_raw_nonzero().get();
    entries.filter_map(Result::ok).any(|entry| {
        let is_process = entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
        is_process && fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| is_running_member(&stat, group))
    })
}

/// Whether a line of `/proc/<pid>/stat` is of a process of this group that is no zombie. The name in
/// parentheses may contain anything, so what counts comes after the last one.
fn is_running_member(stat: &str, group: i32) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_whitespace();
    let state = fields.next();
    let of_group = fields.nth(1).and_then(|field| field.parse().ok());
    of_group == Some(group) && !matches!(state, Some("Z" | "X") | None)
}

/// Becomes a command that does not outlive its parent.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExecChild {
    #[arg(long)]
    parent: i32,
    /// Begin only once the terminal is ours.
    #[arg(long)]
    await_terminal: bool,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl ExecChild {
    pub(in crate::cli) fn run(self, context: &Context) -> Result<(), Failure> {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| {
            let error = anyhow!(error).context("the kernel refuses a parent-death signal");
            super::failed(context, &error.into())
        })?;
        // The parent may have died before the kernel was asked.
        if getppid() != Pid::from_raw(self.parent) {
            return Err(Failure::Exit(super::EXIT_FAILED));
        }
        if self.await_terminal {
            await_terminal();
        }
        let (program, arguments) = self.command.split_first().expect("clap demands a command");
        let error = Command::new(program).args(arguments).exec();
        let not_found = error.kind() == io::ErrorKind::NotFound;
        context.output.report(&Failure::Usage(format!("{} cannot be run: {error}", program.display())));
        Err(Failure::Exit(if not_found { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE }))
    }
}

/// A command that reads from the terminal before it has it would be stopped.
fn await_terminal() {
    for _ in 0..TERMINAL_POLLS {
        if tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp()) {
            return;
        }
        thread::sleep(TERMINAL_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_group_are_told_from_zombies_and_strangers() {
        assert!(is_running_member("12 (sleep) S 1 77 77 0", 77));
        assert!(is_running_member("12 (a) b) (c) R 1 77 77 0", 77));
        assert!(!is_running_member("12 (sleep) Z 1 77 77 0", 77));
        assert!(!is_running_member("12 (sleep) S 77 1 77 0", 77));
        assert!(!is_running_member("garbage", 77));
    }
}
