//! The lock service as a client reaches it: what is asked, and what is told.

use serde::{Deserialize, Serialize};

use super::door::Service;
use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::{FencingToken, LockName, SessionId},
    machine::lock::{Mode, Want},
    node::locks::{AcquireRequest, IdempotencyKey, Locks},
};

/// The lock service.
#[derive(Clone, PartialEq, Debug)]
pub enum LockService {}

impl Service for LockService {
    type Ask = Ask;
    type Answer = Answer;

    const UNKNOWN: Answer = Answer::Unknown;
    const NOBODY: Answer = Answer::Refused(ErrorCode::Unavailable);

    fn is_refusal(answer: &Answer) -> bool {
        matches!(answer, Answer::Refused(_))
    }
}

/// One operation of one client of the locks.
pub type Record = super::history::Record<LockService>;

impl Record {
    /// Whether it certainly changed nothing.
    pub fn is_void(&self) -> bool {
        LockService::is_refusal(&self.answer)
    }
}

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Open a session.
    Open {
        /// Its term, in milliseconds.
        ttl_ms: u64,
    },
    /// Start its term anew.
    KeepAlive(SessionId),
    /// Close it.
    Close(SessionId),
    /// Acquire one lock.
    Acquire {
        /// For whom.
        session: SessionId,
        /// Which.
        lock: LockName,
        /// How.
        mode: Mode,
        /// How long to wait in line, in milliseconds.
        wait_ms: u64,
    },
    /// Give it back.
    Release {
        /// By whom.
        session: SessionId,
        /// Which.
        lock: LockName,
    },
    /// Look at it.
    Show(LockName),
}

impl Ask {
    /// The lock that it is about.
    pub fn lock(&self) -> Option<&LockName> {
        match self {
            Self::Acquire { lock, .. } | Self::Release { lock, .. } | Self::Show(lock) => Some(lock),
            Self::Open { .. } | Self::KeepAlive(_) | Self::Close(_) => None,
        }
    }

    /// The session that it names.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::KeepAlive(session) | Self::Close(session) => Some(session),
            Self::Acquire { session, .. } | Self::Release { session, .. } => Some(session),
            Self::Open { .. } | Self::Show(_) => None,
        }
    }
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The session is open.
    Opened {
        /// Its id.
        session: SessionId,
        /// Its term, in milliseconds.
        ttl_ms: u64,
    },
    /// Its term began anew.
    Alive {
        /// The term, in milliseconds.
        ttl_ms: u64,
    },
    /// The session is closed.
    Closed,
    /// The lock is held.
    Granted {
        /// The token.
        token: FencingToken,
        /// In which mode.
        mode: Mode,
    },
    /// It was not to be had in time.
    Held {
        /// Who holds it.
        holders: Vec<SessionId>,
    },
    /// Waiting would have closed a cycle.
    Deadlock,
    /// It was given back.
    Released,
    /// It was not held by this session.
    NotHolder,
    /// The session is not alive.
    SessionExpired,
    /// The state of the lock; nobody holds it where there are no holders.
    Shown {
        /// How it is held.
        mode: Option<Mode>,
        /// By whom, with which token.
        holders: Vec<(SessionId, FencingToken)>,
    },
    /// Not done, certainly.
    Refused(ErrorCode),
    /// Perhaps done.
    Unknown,
}

/// Does what is asked.
pub async fn perform(locks: &Locks, ask: Ask, key: Option<String>) -> Answer {
    let key = key.map(|key| IdempotencyKey { fingerprint: fingerprint(&ask), key });
    try_to(locks, ask, key).await.unwrap_or_else(refusal)
}

async fn try_to(locks: &Locks, ask: Ask, key: Option<IdempotencyKey>) -> Result<Answer, Error> {
    Ok(match ask {
        Ask::Open { ttl_ms } => {
            let term = locks.open_session(Some(ttl_ms), None, key).await?;
            Answer::Opened { session: term.session, ttl_ms: term.ttl_ms }
        }
        Ask::KeepAlive(session) => Answer::Alive { ttl_ms: locks.keep_alive(session).await?.ttl_ms },
        Ask::Close(session) => {
            locks.close_session(session, key).await?;
            Answer::Closed
        }
        Ask::Acquire { session, lock, mode, wait_ms } => {
            let request = AcquireRequest {
                session: Some(session),
                wants: vec![Want { lock, mode }],
                wait_ms,
                ttl_ms: None,
                lock_delay_ms: Some(0),
                owner: None,
            };
            let acquired = locks.acquire(request, key).await?;
            let [lock] = acquired.locks.as_slice() else { panic!("asked for one lock, got {acquired:?}") };
            Answer::Granted { token: lock.fencing_token, mode: lock.mode }
        }
        Ask::Release { session, lock } => {
            locks.release(session, lock, key).await?;
            Answer::Released
        }
        Ask::Show(lock) => {
            let view = locks.show(lock).await?;
            let mode = view.as_ref().and_then(|view| view.mode);
            let holders = view.map(|view| view.holders).unwrap_or_default();
            Answer::Shown { mode, holders: holders.into_iter().map(|h| (h.session, h.fencing_token)).collect() }
        }
    })
}

fn refusal(error: Error) -> Answer {
    match error.code {
        ErrorCode::SessionExpired => Answer::SessionExpired,
        ErrorCode::NotHolder => Answer::NotHolder,
        ErrorCode::LockDeadlock => Answer::Deadlock,
        ErrorCode::LockTimeout => Answer::Held { holders: error.details.holders.unwrap_or_default() },
        ErrorCode::Unavailable if error.details.outcome != Some(Outcome::NotApplied) => Answer::Unknown,
        ErrorCode::NoQuorum | ErrorCode::Unavailable => Answer::Refused(error.code),
        code => panic!("a well-formed request was answered {code}: {error}"),
    }
}

fn fingerprint(ask: &Ask) -> u64 {
    format!("{ask:?}")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
