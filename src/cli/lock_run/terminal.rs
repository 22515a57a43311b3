//! The terminal's foreground, handed to the command's process group and back.
//!
//! Only a process in the foreground group may hand the foreground over without being stopped. So it is
//! this process that gives it away, and a process started in the command's group that gives it back.

use std::{
    io::stdin,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::anyhow;
use clap::Args;
use rustix::{
    process::{Pid, getpgrp},
    termios::{isatty, tcgetpgrp, tcsetpgrp},
};

use super::Failure;

/// The terminal at stdin, if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    present: bool,
}

/// Whether this process may read from the terminal and hand it over.
fn in_foreground() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
}

impl Terminal {
    /// Looks whether stdin is a terminal.
    pub(super) fn of_stdin() -> Self {
        Self { present: isatty(stdin()) }
    }

    /// Gives the foreground to a group, if it is ours to give.
    pub(super) fn give_to(self, group: Pid) {
        if self.present
            && in_foreground()
            && let Err(error) = tcsetpgrp(stdin(), group)
        {
            tracing::debug!(%error, "the command did not get the terminal");
        }
    }

    /// Takes the foreground back from a group whose leader has ended but is not reaped yet.
    pub(super) fn take_back(self, group: Pid) {
        if !self.present || !tcgetpgrp(stdin()).is_ok_and(|foreground| foreground == group) {
            return;
        }
        let given_back = Command::new("/proc/self/exe")
            .args(["lock", "give-terminal", "--to"])
            .arg(getpgrp().as_raw_nonzero().to_string())
            .process_group(group.as_raw_nonzero().get())
            .stdin(Stdio::inherit())
            .stdout(Stdio::null())
            .status();
        if !given_back.as_ref().is_ok_and(std::process::ExitStatus::success) {
            tracing::debug!(?given_back, "the terminal's foreground could not be taken back");
        }
    }
}

/// Gives the terminal at stdin to another group of the session.
#[derive(Debug, Args)]
pub(in crate::cli) struct GiveTerminal {
    #[arg(long)]
    to: i32,
}

impl GiveTerminal {
    pub(in crate::cli) fn run(self) -> Result<(), Failure> {
        let group = Pid::from_raw(self.to).ok_or_else(|| anyhow!("0 is no process group"))?;
        tcsetpgrp(stdin(), group).map_err(|error| anyhow!(error).context("the terminal cannot be handed over"))?;
        Ok(())
    }
}
