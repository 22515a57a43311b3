//! The leader's judgement of time: which sessions, waits and delays are over (DESIGN.md, section 4,
//! point 6).
//!
//! Every lock manager has one of these, on its own boot-time clock. It judges only while its node leads
//! (waits in line are followed before, too), and what it judges becomes true only by the entries that it
//! proposes ([`LockTimer`]). The node calls [`LeaseKeeper::step`] with what the table caused
//! ([`LeaseInput::from_effect`]), with keep-alives, and when [`LeaseKeeper::deadline`] has passed. It
//! never reads a clock, and decides nothing about locks.
//!
//! # What is guaranteed
//!
//! * **A session is not expired before its holder stops believing.** A holder counts its term from the
//!   moment at which it sent a keep-alive; the deadline here counts from a later moment, at which a
//!   quorum confirmed the leader in a round that began after the keep-alive had come. A new leader
//!   begins every term anew, later still. Whatever is uncertain lengthens a term here, never a belief.
//! * **Once expiry is proposed, no keep-alive is honoured**: it is answered when the entry has been
//!   applied, or judged again when the proposal has certainly failed.
//! * **Frequent elections cannot keep the dead alive.** What is left of a silent session's term is
//!   logged once half of it has passed, and then counts for the next leader, which logs what is left
//!   of that in its turn. A keep-alive after such a remainder was *proposed* is answered only after
//!   the entry that clears it is applied, so that no later leader counts less than was answered;
//!   until then, no more is told of the session's term than that remainder.
//! * **A wait outlasts a change of leader by nothing but the time without one.** Each node counts it from
//!   when it saw it begin, which is never before it did. For waits that it did not see begin, a new
//!   leader takes what is left by the times in the log: too little by as much as two wall clocks
//!   disagree.
//! * **A keep-alive that is being confirmed holds expiry back**, for without a quorum no expiry could
//!   be committed either.
//! * A keep-alive costs no change of the index: a session stands in it at or before its next moment
//!   and is looked at again then.

use crate::{
    ids::{LockName, RequestId, SessionId, Term},
    machine::lock::{LockEffect, LockTimer},
};

mod keeper;
#[cfg(test)]
mod tests;
mod waits;

pub use keeper::LeaseKeeper;

/// Most sessions or requests in one proposal.
pub const MAX_BATCH: usize = 1_000;
/// Most waits, and most other moments, handled in one step; the deadline stays in the past while there
/// are more.
pub const MAX_DUE_PER_STEP: usize = 10_000;
/// Most keep-alives that wait for their answers.
pub const MAX_ASKERS: usize = 1_000_000;
/// After how many milliseconds something that could not be settled is tried again.
pub const RETRY_MS: u64 = 100;
/// Remainders are logged at multiples of this, so that sessions fall silent in common batches.
pub const MARK_GRID_MS: u64 = 250;
/// A remainder below this is not split further.
pub const MIN_SPLIT_MS: u64 = 1_000;

/// What a keeper hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseInput {
    /// This node leads from now on; the table holds these.
    Led {
        /// The term in which it leads.
        term: Term,
        /// Session, full term and logged remainder in milliseconds.
        sessions: Vec<(SessionId, u64, Option<u64>)>,
        /// Request and what is left of its wait by the times in the log, in milliseconds.
        waits: Vec<(RequestId, u64)>,
        /// Lock, ticket and full length in milliseconds.
        delays: Vec<(LockName, u64, u64)>,
    },
    /// This node leads no more.
    Deposed,
    /// The table was replaced as a whole: what began and ended meanwhile was not told here.
    Reset,
    /// A session was opened.
    Opened {
        /// Which.
        session: SessionId,
        /// Its term in milliseconds.
        ttl_ms: u64,
    },
    /// A session was closed or expired.
    Closed {
        /// Which.
        session: SessionId,
    },
    /// The log's remainder for a session changed.
    Remainder {
        /// Which.
        session: SessionId,
        /// The term of the leader that judged so.
        term: Term,
        /// What is left, `None` if that was cleared.
        remainder_ms: Option<u64>,
    },
    /// A wait began.
    WaitBegan {
        /// Whose.
        request: RequestId,
        /// How long it may last, in milliseconds.
        wait_ms: u64,
    },
    /// Waits ended.
    WaitsEnded {
        /// Whose.
        requests: Vec<RequestId>,
    },
    /// A lock was closed for a delay, which replaces an earlier one.
    DelayBegan {
        /// Which lock.
        lock: LockName,
        /// Which delay.
        ticket: u64,
        /// How long, in milliseconds.
        delay_ms: u64,
    },
    /// A session's holder says that it lives.
    KeepAlive {
        /// Which session.
        session: SessionId,
        /// Under which number to answer.
        asker: u64,
    },
    /// A quorum confirmed this leader in a round that began after [`LeaseEffect::BeginQuorumRound`],
    /// and everything committed before has been applied and told here.
    Confirmed {
        /// Which round.
        round: u64,
    },
    /// That round failed.
    Unconfirmed {
        /// Which round.
        round: u64,
    },
    /// A proposal was applied, and its effects told here.
    ProposalApplied {
        /// Which.
        proposal: u64,
    },
    /// A proposal has certainly failed and will never be applied. Of one that notes remainders, it may
    /// be uncertain; but it stands in the log before all that is proposed from now on, or never will.
    ProposalFailed {
        /// Which.
        proposal: u64,
    },
    /// The deadline has passed.
    Due,
    /// This node's own timer was late: it may have missed keep-alives, so all terms begin anew.
    Late,
}

impl LeaseInput {
    /// What an effect of the table means for the judgement of time.
    pub fn from_effect(effect: &LockEffect) -> Option<Self> {
        Some(match effect.clone() {
            LockEffect::Answered { requests, .. } => Self::WaitsEnded { requests },
            LockEffect::SessionOpened { session, ttl_ms } => Self::Opened { session, ttl_ms },
            LockEffect::SessionClosed { session } => Self::Closed { session },
            LockEffect::WaitBegan { request, wait_ms } => Self::WaitBegan { request, wait_ms },
            LockEffect::Closed { lock, ticket, delay_ms } => Self::DelayBegan { lock, ticket, delay_ms },
            LockEffect::Remainder { session, term, remainder_ms } => Self::Remainder { session, term, remainder_ms },
            LockEffect::Event(_) => return None,
        })
    }
}

/// What a keeper wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseEffect {
    /// Propose this entry in the term that it names (a reopening: in any), and report how it went. One
    /// that notes remainders must be proposed only once: a repetition could come after the entry that
    /// clears them.
    Propose {
        /// Under which number to report.
        proposal: u64,
        /// The entry.
        timer: LockTimer,
    },
    /// Confirm the leadership with a quorum, in a round that begins now.
    BeginQuorumRound {
        /// Under which number to report.
        round: u64,
    },
    /// Answer a keep-alive.
    KeepAliveAnswered {
        /// Whose.
        asker: u64,
        /// How.
        outcome: KeepAliveOutcome,
    },
}

/// The answer to a keep-alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepAliveOutcome {
    /// The term begins anew, counted by the holder from when it sent the keep-alive.
    Alive {
        /// The term in milliseconds.
        ttl_ms: u64,
    },
    /// The session is not alive.
    Expired,
    /// This node does not lead: ask the leader.
    NotLeader,
    /// No quorum confirmed this leader: try again.
    Unconfirmed,
    /// Too many keep-alives wait here: try again.
    Overloaded,
}
