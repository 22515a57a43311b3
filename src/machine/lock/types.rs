//! The vocabulary of the lock machine: what an entry of the log can ask, what comes of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    error::CycleEdge,
    ids::{FencingToken, LockName, RequestId, SessionId, Term, Tick},
};

/// How a lock is held or wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Together with other shared holders.
    Shared,
    /// Alone.
    #[default]
    Exclusive,
}

impl Mode {
    /// The word for it in JSON, metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }
}

/// One lock wanted, in one mode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Want {
    /// The lock.
    pub lock: LockName,
    /// The mode.
    pub mode: Mode,
}

/// A session to be opened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewSession {
    /// Its id, drawn at random by the node that serves the request.
    pub session: SessionId,
    /// Its term in milliseconds.
    pub ttl_ms: u64,
    /// Whom people see as the holder; empty if the client named nobody.
    pub owner: Arc<str>,
}

/// A request for one lock or, all or none, for several.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acquire {
    /// The session that is to hold them.
    pub session: SessionId,
    /// Set where that session is to be made by this very entry; its id equals `session`. Where the
    /// request is refused, or its wait ends without a grant, the session is closed again.
    pub open: Option<NewSession>,
    /// 1 to 64 distinct locks.
    pub wants: Vec<Want>,
    /// How long to wait in line; 0: refuse at once.
    pub wait_ms: u64,
    /// How long the locks stay closed if their holder is lost.
    pub lock_delay_ms: u64,
}

/// What a client, by way of the node that serves it, asks of the lock service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockRequest {
    /// Open a session.
    OpenSession(NewSession),
    /// Close a session: release its locks, end its waits.
    CloseSession(SessionId),
    /// Acquire, perhaps wait.
    Acquire(Acquire),
    /// From exclusive to shared, keeping the token.
    Downgrade {
        /// The holder.
        session: SessionId,
        /// The lock.
        lock: LockName,
    },
    /// Give a lock back.
    Release {
        /// The holder.
        session: SessionId,
        /// The lock.
        lock: LockName,
    },
    /// An operator's force release of all its holders.
    Break(LockName),
    /// The asker of `request` has gone, or its time is up: leave the line if nobody else asked for
    /// the same wait, and otherwise do nothing. Where the request was granted already, what was
    /// granted stands in the memory of answers: the caller of the table asks that first and calls
    /// [`super::LockTable::surrender`].
    Abandon {
        /// The acquire that is given up.
        request: RequestId,
    },
}

/// What the leader's own judgement of time puts into the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockTimer {
    /// These sessions were not kept alive; they end in this order, as many as an entry may end. Void unless the entry's term is `term`.
    Expire {
        /// The term of the leader that judged.
        term: Term,
        /// The sessions.
        sessions: Vec<SessionId>,
    },
    /// So much of its term is left to each of these silent sessions, whoever leads next; `None`: it
    /// has been heard again. Void unless the entry's term is `term`.
    Remainders {
        /// The term of the leader that judged.
        term: Term,
        /// Session and milliseconds left.
        sessions: Vec<(SessionId, Option<u64>)>,
    },
    /// These waits have lasted as long as they may. Void unless the entry's term is `term`.
    WaitsOver {
        /// The term of the leader that judged.
        term: Term,
        /// The requests.
        requests: Vec<RequestId>,
    },
    /// The delay of a lost holder's lock is over.
    Reopen {
        /// The lock.
        lock: LockName,
        /// Which delay, as [`LockEffect::Closed`] named it.
        ticket: u64,
    },
}

impl LockTimer {
    /// Whether it says of a session what is left of its term.
    pub fn notes_remainders(&self) -> bool {
        matches!(self, Self::Remainders { sessions, .. } if sessions.iter().any(|(_, left)| left.is_some()))
    }
}

/// A lock that has been granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// The lock.
    pub lock: LockName,
    /// The mode in which it is held now.
    pub mode: Mode,
    /// The token.
    pub fencing_token: FencingToken,
}

/// What a session got: the answer to an acquire or a downgrade.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Granted {
    /// The holder.
    pub session: SessionId,
    /// The holder's term in milliseconds.
    pub ttl_ms: u64,
    /// In the order of the request.
    pub grants: Vec<Grant>,
}

/// The answer to a [`LockRequest`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockAnswer {
    /// The session is open.
    Opened(NewSession),
    /// The session, released locks and all, is closed.
    Closed,
    /// Granted.
    Granted(Granted),
    /// In line. The final answer comes as [`LockEffect::Answered`] under the id of the request.
    Waiting,
    /// Given back.
    Released,
    /// Taken from these sessions.
    Broken(Vec<SessionId>),
    /// The wait is over, or was over before.
    Abandoned,
    /// Refused.
    Refused(Refusal),
}

/// Why a request was refused; nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// The session is not alive, known or not.
    SessionExpired,
    /// The session does not hold the lock.
    NotHolder,
    /// Not granted within the wait.
    Timeout {
        /// Who holds the first lock that was not to be had (at most [`super::MAX_HOLDERS_TOLD`]).
        holders: Vec<SessionId>,
    },
    /// Waiting would close this cycle.
    Deadlock {
        /// Each session waits for the next one's lock, the last for the first's.
        cycle: Vec<CycleEdge>,
    },
    /// The asker gave up ([`LockRequest::Abandon`]).
    Abandoned,
    /// A bound was reached: which, and what to do.
    Full {
        /// What is full.
        what: Bound,
    },
    /// The session id is taken by another session.
    SessionTaken,
}

/// The bounds of the replicated lock state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each variant is the thing that is bounded")]
pub enum Bound {
    Sessions,
    LocksHeld,
    WaitersOfALock,
    Waits,
    LocksOfASession,
    WaitsOfASession,
    RequestsOfAWait,
    LocksOfAnAcquire,
}

/// What happened to a lock, for those who watch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockEventKind {
    /// Granted, also by upgrade or downgrade.
    Granted,
    /// Released by its holder or by the closing of its session.
    Released,
    /// Lost by the expiry of its session.
    Expired,
    /// A request got in line.
    Waiting,
    /// Taken by an operator.
    Broken,
}

/// One event of one lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockEvent {
    /// What happened.
    pub kind: LockEventKind,
    /// To which lock.
    pub lock: LockName,
    /// By or to which session.
    pub session: SessionId,
    /// Whose session.
    pub owner: Arc<str>,
    /// The mode held, wanted or lost.
    pub mode: Mode,
    /// The token, but for `waiting`.
    pub fencing_token: Option<FencingToken>,
    /// When, in Unix milliseconds.
    pub at: Tick,
    /// How long the state that ended had lasted: wait before a grant, hold before a loss.
    pub lasted_ms: u64,
}

/// What applying an entry causes outside the replicated state. The leader acts on these; everyone
/// else only feeds watchers and metrics with [`LockEffect::Event`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockEffect {
    /// A wait has ended: tell everyone who asked.
    Answered {
        /// All requests that had joined the wait.
        requests: Vec<RequestId>,
        /// `Granted` or `Refused`.
        answer: LockAnswer,
    },
    /// Begin to judge this session's time.
    SessionOpened {
        /// Which.
        session: SessionId,
        /// Its full term.
        ttl_ms: u64,
    },
    /// Stop judging it.
    SessionClosed {
        /// Which.
        session: SessionId,
    },
    /// Begin to judge this wait's time.
    WaitBegan {
        /// Which.
        request: RequestId,
        /// Its full length.
        wait_ms: u64,
    },
    /// A lost holder's lock stays closed for so long, judged by the leader.
    Closed {
        /// Which lock.
        lock: LockName,
        /// Which delay of it.
        ticket: u64,
        /// How long.
        delay_ms: u64,
    },
    /// The log holds another remainder for this session; `None`: none.
    Remainder {
        /// Which session.
        session: SessionId,
        /// The term of the leader that judged.
        term: Term,
        /// What is left of its term for the next leader, in milliseconds.
        remainder_ms: Option<u64>,
    },
    /// For watchers and metrics.
    Event(LockEvent),
}

/// A lock as people see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockView {
    /// The lock.
    pub lock: LockName,
    /// How it is held; `None` if it is free.
    pub mode: Option<Mode>,
    /// Who holds it.
    pub holders: Vec<HolderView>,
    /// Who waits, in order.
    pub waiters: Vec<WaiterView>,
}

/// A holder as people see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HolderView {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub owner: Arc<str>,
    /// The token of the grant.
    pub fencing_token: FencingToken,
    /// Since when, in Unix milliseconds.
    pub since: Tick,
}

/// A waiter as people see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaiterView {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub owner: Arc<str>,
    /// The mode wanted.
    pub mode: Mode,
    /// Since when, in Unix milliseconds.
    pub since: Tick,
}

/// A session as people see it. How much of its term is left only the leader knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionView {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub owner: Arc<str>,
    /// Its full term.
    pub ttl_ms: u64,
    /// What the log says is left of it, for a session that had fallen silent.
    pub remainder_ms: Option<u64>,
    /// The locks that it holds, in the order of their names.
    pub locks: Vec<LockName>,
}
