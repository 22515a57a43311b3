//! The lock service as a pure state machine (DESIGN.md, section 4): sessions, holds, lines.
//!
//! Owns [`LockTable`], the replicated state. The Raft apply loop calls [`LockTable::request`] and
//! [`LockTable::timer`] with committed entries, in their order; readers call the read functions. It
//! never reads a clock, draws nothing at random and does no I/O: the same entries give the same
//! state, the same answers and the same effects on every replica.
//!
//! # What is guaranteed
//!
//! * **Mutual exclusion, in the order of the log.** A lock has one exclusive holder or any number of
//!   shared ones. Only `Step::grant` makes holders, and only after `blocked` said no.
//! * **Tokens grow.** One counter; every grant of every lock draws the next value. Asking again for
//!   what is held, and a downgrade, draw nothing; an upgrade draws.
//! * **First come, first served.** A claim is blocked by every *earlier incompatible* claim in its
//!   line, granted or not, so a shared one never overtakes an exclusive one and a wait for several
//!   locks keeps its place in each line while it holds nothing. Claims on what the session holds
//!   already (upgrades) stand before all others.
//! * **No wait that could be granted is left waiting** when a step ends: each change names the locks
//!   that it touched, and `Step::settle` looks at the heads of those lines until nothing moves.
//! * **A session never waits for itself**: neither its holds nor its other waits block it. A second
//!   acquire with the same wants joins the first; one with other wants is a wait of its own, and gets
//!   a deadlock where it would stand behind someone who stands behind the first.
//! * **No cycle in the wait-for graph, ever** (see `deadlock`).
//! * **Nothing changes where the answer is a refusal.**
//! * **Idle locks cost nothing**: a free, open lock without waiters is in no map.
//!
//! # Lock delay
//!
//! A lock whose holder was lost (expiry, break) with a delay is *closed*: nobody is granted it,
//! upgrades included, until [`LockTimer::Reopen`] names the current ticket. Other shared holders keep
//! what they hold. A further loss while it is closed draws a new ticket with the longer delay.

mod acquire;
mod backup;
mod deadlock;
mod end;
#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
mod read;
mod save;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};

pub use backup::{BadRecord, LockRecord, RecordCounts};
pub use read::Counts;
use state::{Closed, Hold, Line, Session, SessionKey, Wait, WaitKey};
use step::Step;
pub use types::{
    Acquire, Bound, Grant, Granted, HolderView, LockAnswer, LockEffect, LockEvent, LockEventKind, LockRequest,
    LockTimer, LockView, Mode, NewSession, Refusal, SessionView, WaiterView, Want,
};

use crate::ids::{LockName, RequestId, SessionId, Term, Tick};

/// Most holders that a refusal names.
pub const MAX_HOLDERS_TOLD: usize = 16;
/// Most holders of a lock, waiters of it, or locks of a session that a reader is shown: the first ones.
pub const MAX_SHOWN: usize = 1_000;
/// A page of a list that has come to so many bytes ends, whatever limit was asked for.
pub const MAX_PAGE_BYTES: usize = 4 << 20;
/// Most sessions alive at once.
pub const MAX_SESSIONS: usize = 1_000_000;
/// Most holds and places in lines together, so that whatever waits can also be granted.
pub const MAX_LOCKS_HELD: usize = 4_000_000;
/// Most waits at once, each for one lock or several.
pub const MAX_WAITS: usize = 1_000_000;
/// Most places in the line of one lock.
pub const MAX_WAITERS_PER_LOCK: usize = 100_000;
/// Most holds and places of one session: its end is one step, which must not hold up the log.
pub const MAX_LOCKS_PER_SESSION: usize = 65_536;
/// An entry that expires sessions ends no further one once it has ended so many holds and waits.
pub const MAX_ENDED_PER_ENTRY: usize = 10_000;
/// Most waits of one session.
pub const MAX_WAITS_PER_SESSION: usize = 1_024;
/// Most requests that share one wait.
pub const MAX_REQUESTS_PER_WAIT: usize = 64;
/// Most locks in one acquire.
pub const MAX_LOCKS_PER_ACQUIRE: usize = 64;
/// Tokens stay below this, so that JSON carries them exactly.
pub const TOKEN_LIMIT: u64 = 1 << 53;

/// The least token from which a founded or restored cluster counts on: beyond everything that the
/// saved state can have granted after it was saved (2^32 grants), and beyond everything that a lost
/// state can have granted by `unix_seconds` (2^20 grants a second since 1970).
pub fn token_floor(saved: u64, unix_seconds: u64) -> u64 {
    let after_saved = saved.saturating_add(1 << 32);
    let after_lost = unix_seconds.saturating_mul(1 << 20);
    after_saved.max(after_lost).min(TOKEN_LIMIT - 1)
}

/// The replicated state of the lock service.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LockTable {
    token: u64,
    next_session: u64,
    /// Numbers waits and their places in lines: the order of arrival.
    next_wait: u64,
    next_ticket: u64,
    sessions: BTreeMap<SessionKey, Session>,
    holds: BTreeMap<(LockName, SessionKey), Hold>,
    /// What an upgrade replaced: the session has that again if nobody gets to hear of the upgrade.
    weaker: BTreeMap<(LockName, SessionKey), Hold>,
    waits: BTreeMap<WaitKey, Wait>,
    closed: BTreeMap<LockName, Closed>,
    // All that follows is made from the above when a snapshot is read.
    keys: BTreeMap<SessionId, SessionKey>,
    /// `None`, which is never stored, marks the beginning of a session's range.
    held_by: BTreeSet<(SessionKey, Option<LockName>)>,
    waits_of: BTreeSet<(SessionKey, WaitKey)>,
    waiting: BTreeMap<RequestId, WaitKey>,
    lines: BTreeMap<LockName, Line>,
    places: usize,
}

impl LockTable {
    /// An empty table, whose first token is 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a request that was committed at `at`. What it causes is appended to `effects`.
    pub fn request(
        &mut self,
        at: Tick,
        request: RequestId,
        input: LockRequest,
        effects: &mut Vec<LockEffect>,
    ) -> LockAnswer {
        let mut step = Step::new(self, at, effects);
        let result = match input {
            LockRequest::OpenSession(new) => step.open(new),
            LockRequest::CloseSession(session) => step.close(&session),
            LockRequest::Acquire(acquire) => step.acquire(request, acquire),
            LockRequest::Downgrade { session, lock } => step.downgrade(&session, &lock),
            LockRequest::Release { session, lock } => step.release(&session, &lock),
            LockRequest::Break(lock) => Ok(step.break_lock(&lock)),
            LockRequest::Abandon { request } => {
                step.leave(request, Refusal::Abandoned);
                Ok(LockAnswer::Abandoned)
            }
        };
        step.settle();
        result.unwrap_or_else(LockAnswer::Refused)
    }

    /// Applies what the leader's judgement of time put into the log; `entry_term` is the entry's own.
    pub fn timer(&mut self, at: Tick, entry_term: Term, input: LockTimer, effects: &mut Vec<LockEffect>) {
        let mut step = Step::new(self, at, effects);
        match input {
            LockTimer::Expire { term, sessions } if term == entry_term => step.expire(&sessions),
            LockTimer::Remainders { term, sessions } if term == entry_term => step.remainders(term, sessions),
            LockTimer::WaitsOver { term, requests } if term == entry_term => step.waits_over(requests),
            LockTimer::Reopen { lock, ticket } => step.reopen(lock, ticket),
            LockTimer::Expire { .. } | LockTimer::Remainders { .. } | LockTimer::WaitsOver { .. } => {}
        }
        step.settle();
    }

    /// Releases a grant that its asker did not get to hear of, if it is still held under the same
    /// tokens and no other request was told of it; closes the session too where that grant opened it.
    /// Of an upgrade only what it added is released: the session holds what it held before.
    /// Call it at most once for an answer, with the answer that the memory of answers gave.
    pub fn surrender(&mut self, at: Tick, granted: &Granted, effects: &mut Vec<LockEffect>) {
        let mut step = Step::new(self, at, effects);
        step.surrender(granted);
        step.settle();
    }

    /// Counts tokens from the beginning again: what a mutant does.
    #[cfg(test)]
    pub(crate) fn lose_token(&mut self) {
        self.token = 0;
    }

    /// Counts tokens on from at least `floor` (see [`token_floor`]); never back.
    pub fn raise_token(&mut self, floor: u64) {
        self.token = self.token.max(floor);
    }
}
