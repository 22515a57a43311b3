//! `lock`: every call about locks, as a command. `lock run` has a folder of its own.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    Context, Failure, OnInterrupt, SettingFlags, lock_run,
    output::{one_line, table},
    remote::{Remote, cell, for_people},
};
use crate::{
    api::bodies::{BrokenBody, GrantBody, LockBody, LockEventBody, LockList, SessionBody},
    client::{AcquireOptions, Call, ServerEvent},
    config::suffixed_duration,
    ids::{LockName, SessionId},
    machine::lock::{Mode, Want},
};

/// The variable that stands in for `--session`.
const SESSION_VARIABLE: &str = "SYNCMESH_SESSION";

/// Acquire, release, watch and break locks.
#[derive(Debug, Subcommand)]
pub(super) enum LockCommand {
    /// Acquire a lock, print its session and token, and exit; nothing renews it.
    ///
    /// It is held until its term is over: `lock keepalive SESSION` starts the term anew, `lock release NAME
    /// --session SESSION` gives it back. To hold it while something runs, use `lock run`. Exit code 4 if it
    /// was not granted within --wait.
    Acquire(Acquire),
    /// Give a lock back.
    Release(Holder),
    /// Start the term of a session anew.
    Keepalive(KeepAlive),
    /// The locks that are held or waited for.
    List(List),
    /// Who holds a lock and who waits for it; exit code 3 if it is free and nobody waits.
    Show(Named),
    /// What happens to a lock, as it happens, until Ctrl-C.
    Watch(Named),
    /// Take a lock from all its holders by force.
    ///
    /// For a holder that hangs: the next in line gets the lock at once, or after the lock's delay. The old
    /// holder hears of it if it watches, as `lock run` does, and may go on for a moment if it does not: what
    /// the lock protects is safe only where it checks the fencing token. `lock show NAME` says who holds it.
    Break(Named),
    Run(lock_run::LockRun),
    /// What `run` starts in place of the command.
    #[command(hide = true)]
    ExecChild(lock_run::ExecChild),
    /// What `run` starts to end the command where it cannot itself.
    #[command(hide = true)]
    WatchGroup(lock_run::WatchGroup),
    /// What `run` starts to get the terminal back.
    #[command(hide = true)]
    GiveTerminal(lock_run::GiveTerminal),
}

/// How a lock is wanted.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// The lock: any text of 1 to 512 bytes.
    #[arg(value_name = "NAME")]
    pub(super) name: LockName,
    /// Together with other shared holders.
    #[arg(long)]
    pub(super) shared: bool,
    /// How long to wait in line; 0s: not at all.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = suffixed_duration)]
    pub(super) wait: Duration,
}

impl Wanted {
    fn want(&self) -> Want {
        let mode = if self.shared { Mode::Shared } else { Mode::Exclusive };
        Want { lock: self.name.clone(), mode }
    }
}

/// The arguments of `lock acquire`.
#[derive(Debug, Args)]
pub(super) struct Acquire {
    #[command(flatten)]
    wanted: Wanted,
    /// The term of the session that is made [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration, conflicts_with = "session")]
    ttl: Option<Duration>,
    /// The session that is to hold it; one is made without. Not beside --ttl [env: SYNCMESH_SESSION].
    #[arg(long, value_name = "ID")]
    session: Option<SessionId>,
}

/// A lock and its holder.
#[derive(Debug, Args)]
pub(super) struct Holder {
    #[command(flatten)]
    named: Named,
    /// The session that holds it [env: SYNCMESH_SESSION].
    #[arg(long, value_name = "ID")]
    session: Option<SessionId>,
}

/// The arguments of `lock keepalive`.
#[derive(Debug, Args)]
pub(super) struct KeepAlive {
    /// The session [env: SYNCMESH_SESSION].
    #[arg(value_name = "SESSION")]
    positional: Option<SessionId>,
    /// The session, as a flag.
    #[arg(long, value_name = "ID", conflicts_with = "positional")]
    session: Option<SessionId>,
}

/// The arguments of `lock list`.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only names that begin so.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
}

/// A lock.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The lock.
    #[arg(value_name = "NAME")]
    name: LockName,
}

impl LockCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Run(run) => run.run(context),
            Self::ExecChild(child) => child.run(context),
            Self::WatchGroup(group) => group.run(context),
            Self::GiveTerminal(terminal) => terminal.run(),
            Self::Watch(Named { name }) => {
                let remote = Remote::of(context)?;
                context.block_on(OnInterrupt::Succeed, remote.follow(&Call::watch_lock(&name), event_text))
            }
            other => {
                let remote = Remote::of(context)?;
                context.block_on(OnInterrupt::Fail, other.call(context, &remote))
            }
        }
    }

    async fn call(self, context: &Context, remote: &Remote) -> Result<(), Failure> {
        match self {
            Self::Acquire(acquire) => {
                let session = session(context, acquire.session)?;
                if let (Some(session), Some(_)) = (&session, acquire.ttl) {
                    return Err(Failure::Usage(format!(
                        "--ttl is the term of a session that is made, and {SESSION_VARIABLE} names one ({session}): leave \
                         --ttl out, or unset {SESSION_VARIABLE}"
                    )));
                }
                let ttl = acquire.ttl.or_else(|| session.is_none().then_some(lock_run::DEFAULT_TTL));
                let options = AcquireOptions { session, wait: acquire.wanted.wait, ttl, ..AcquireOptions::default() };
                remote.show(&Call::acquire(&acquire.wanted.want(), &options), grant_text).await
            }
            Self::Release(Holder { named: Named { name }, session: given }) => {
                let session = required_session(context, given)?;
                remote.act(&Call::release(&name, &session), "released").await
            }
            Self::Keepalive(KeepAlive { positional, session: given }) => {
                let session = required_session(context, positional.or(given))?;
                remote.show(&Call::keep_alive(&session), session_text).await
            }
            Self::List(List { prefix }) => {
                remote.show_pages("locks", |after| Call::locks(prefix.as_deref(), after), list_text).await
            }
            Self::Show(Named { name }) => remote.show(&Call::show_lock(&name), lock_text).await,
            Self::Break(Named { name }) => remote.show(&Call::break_lock(&name), broken_text).await,
            Self::Run(_) | Self::ExecChild(_) | Self::WatchGroup(_) | Self::GiveTerminal(_) | Self::Watch(_) => {
                unreachable!("run() has taken these")
            }
        }
    }
}

/// `--session`, or the variable.
fn session(context: &Context, given: Option<SessionId>) -> Result<Option<SessionId>, Failure> {
    if given.is_some() {
        return Ok(given);
    }
    let sources = context.sources(&SettingFlags::default());
    let Some((text, source)) = sources.get(SESSION_VARIABLE) else { return Ok(None) };
    let invalid = |error| Failure::Usage(format!("{SESSION_VARIABLE} ({source}): {error}"));
    SessionId::new(text).map(Some).map_err(invalid)
}

fn required_session(context: &Context, given: Option<SessionId>) -> Result<SessionId, Failure> {
    session(context, given)?
        .ok_or_else(|| Failure::Usage(format!("which session? Give --session, or set {SESSION_VARIABLE}")))
}

fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Shared => "shared",
        Mode::Exclusive => "exclusive",
    }
}

fn grant_text(grant: GrantBody) -> String {
    let row = [
        grant.lock.to_string(),
        mode_text(grant.mode).to_owned(),
        grant.session.to_string(),
        grant.fencing_token.0.to_string(),
        for_people(Duration::from_millis(grant.expires_in_ms)),
    ];
    table(["LOCK", "MODE", "SESSION", "TOKEN", "EXPIRES IN"], [row])
}

fn session_text(session: SessionBody) -> String {
    let row = [session.session.to_string(), for_people(Duration::from_millis(session.ttl_ms))];
    table(["SESSION", "TTL"], [row])
}

fn list_text(list: LockList) -> String {
    let row = |lock: LockBody| {
        let holders: Vec<&SessionId> = lock.holders.iter().map(|holder| &holder.session).collect();
        [
            lock.lock.to_string(),
            lock.mode.map_or("free", mode_text).to_owned(),
            cell(&holders),
            lock.waiters.len().to_string(),
        ]
    };
    table(["LOCK", "MODE", "HOLDERS", "WAITING"], list.locks.into_iter().map(row))
}

fn lock_text(lock: LockBody) -> String {
    let mode = lock.mode.map_or("free", mode_text);
    let owner = |owner: String| if owner.is_empty() { "-".to_owned() } else { owner };
    let holders = lock.holders.into_iter().map(|holder| {
        let token = holder.fencing_token.0.to_string();
        ["holds".to_owned(), mode.to_owned(), holder.session.to_string(), owner(holder.owner), token, holder.since]
    });
    let waiters = lock.waiters.into_iter().map(|waiter| {
        let mode = mode_text(waiter.mode).to_owned();
        ["waits".to_owned(), mode, waiter.session.to_string(), owner(waiter.owner), "-".to_owned(), waiter.since]
    });
    table(["STATE", "MODE", "SESSION", "OWNER", "TOKEN", "SINCE"], holders.chain(waiters))
}

fn broken_text(body: BrokenBody) -> String {
    match body.broken.as_slice() {
        [] => "nobody held it\n".to_owned(),
        sessions => format!("taken from {}\n", cell(sessions)),
    }
}

fn event_text(event: &ServerEvent) -> String {
    if event.event == "state" {
        return match serde_json::from_str::<LockBody>(&event.data) {
            Ok(lock) => {
                let mode = lock.mode.map_or("free", mode_text);
                let holders: Vec<_> = lock.holders.iter().map(|holder| &holder.session).collect();
                format!("state     {mode}  held by {}  {} waiting\n", cell(&holders), lock.waiters.len())
            }
            Err(_) => format!("state     {}\n", event.data),
        };
    }
    match serde_json::from_str::<LockEventBody>(&event.data) {
        Ok(body) => {
            let token = body.fencing_token.map_or(String::new(), |token| format!("  token {}", token.0));
            let (mode, at) = (mode_text(body.mode), &body.at);
            format!("{:<8}  {at}  {mode}  {}  {}{token}\n", event.event, body.session, one_line(&body.owner))
        }
        Err(_) => format!("{:<8}  {}\n", event.event, event.data),
    }
}
