//! The lock service as applications see it, on any node.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    ids::{FencingToken, LockName, SessionId},
    machine::lock::{LockEvent, LockView, Mode, Want},
};

/// A client's own name for a request, so that a repeat within ten minutes gets the first answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// As the client sent it, 1 to 255 bytes.
    pub key: String,
    /// A digest of the request, so that another request under the same key is noticed.
    pub fingerprint: u64,
}

/// A session and its term.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionTerm {
    /// The session.
    pub session: SessionId,
    /// Its full term, in milliseconds.
    pub ttl_ms: u64,
}

/// What an acquire asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcquireRequest {
    /// The session that is to hold the locks; one is made where there is none.
    pub session: Option<SessionId>,
    /// The locks: one, or all or none of several.
    pub wants: Vec<Want>,
    /// How long to wait in line, in milliseconds.
    pub wait_ms: u64,
    /// The term of a session that is made for this; only without `session`.
    pub ttl_ms: Option<u64>,
    /// How long the locks stay closed if their holder is lost; `None`: the setting `LOCK_DELAY`.
    pub lock_delay_ms: Option<u64>,
    /// Whom people see as holder; only without `session`.
    pub owner: Option<String>,
}

/// One lock of an acquire that was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcquiredLock {
    /// The lock.
    pub lock: LockName,
    /// The mode in which it is held.
    pub mode: Mode,
    /// The token.
    pub fencing_token: FencingToken,
}

/// An acquire that was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acquired {
    /// The holder.
    pub session: SessionId,
    /// How long the session lasts from now unless it is kept alive, in milliseconds.
    pub expires_in_ms: u64,
    /// In the order of the request.
    pub locks: Vec<AcquiredLock>,
}

/// A session as people see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// The session.
    pub session: SessionId,
    /// Whose it is.
    pub owner: String,
    /// Its full term, in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it, in milliseconds.
    pub expires_in_ms: u64,
    /// The locks that it holds, in the order of their names.
    pub locks: Vec<LockName>,
}

/// One page of a list in the order of names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
}

/// Which part of a list is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageRequest {
    /// Only names that begin so.
    pub prefix: Option<String>,
    /// Only what comes after this name.
    pub after: Option<String>,
    /// At most so many, 1 to 1,000.
    pub limit: usize,
}

/// What a watcher of one lock hears: its state first, then what happens to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchItem {
    /// The state from which the events go on.
    State(LockView),
    /// An event.
    Event(LockEvent),
}

/// The lock service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Locks {}

impl Locks {
    /// Opens a session of `ttl_ms` (500 to 3,600,000; default 30,000).
    pub async fn open_session(
        &self,
        ttl_ms: Option<u64>,
        owner: Option<String>,
        key: Option<IdempotencyKey>,
    ) -> Result<SessionTerm, Error> {
        let _ = (ttl_ms, owner, key);
        Err(Error::internal("contract"))
    }

    /// Starts the term of a session anew.
    pub async fn keep_alive(&self, session: SessionId) -> Result<SessionTerm, Error> {
        let _ = session;
        Err(Error::internal("contract"))
    }

    /// Closes a session: its locks are released, its waits cancelled.
    pub async fn close_session(&self, session: SessionId, key: Option<IdempotencyKey>) -> Result<(), Error> {
        let _ = (session, key);
        Err(Error::internal("contract"))
    }

    /// The sessions (`prefix` is not used).
    pub async fn sessions(&self, page: PageRequest) -> Result<Page<SessionInfo>, Error> {
        let _ = page;
        Err(Error::internal("contract"))
    }

    /// Acquires one lock, or all or none of several. Dropping the future gives the request up: it
    /// leaves the line, or releases exactly the grant that nobody got to hear of.
    pub async fn acquire(&self, request: AcquireRequest, key: Option<IdempotencyKey>) -> Result<Acquired, Error> {
        let _ = (request, key);
        Err(Error::internal("contract"))
    }

    /// From exclusive to shared, keeping the token.
    pub async fn downgrade(
        &self,
        session: SessionId,
        lock: LockName,
        key: Option<IdempotencyKey>,
    ) -> Result<Acquired, Error> {
        let _ = (session, lock, key);
        Err(Error::internal("contract"))
    }

    /// Gives a lock back.
    pub async fn release(
        &self,
        session: SessionId,
        lock: LockName,
        key: Option<IdempotencyKey>,
    ) -> Result<(), Error> {
        let _ = (session, lock, key);
        Err(Error::internal("contract"))
    }

    /// An operator's force release: takes the lock from all its holders and names them.
    pub async fn break_lock(&self, lock: LockName, key: Option<IdempotencyKey>) -> Result<Vec<SessionId>, Error> {
        let _ = (lock, key);
        Err(Error::internal("contract"))
    }

    /// The locks that are held or waited for, linearizable.
    pub async fn list(&self, page: PageRequest) -> Result<Page<LockView>, Error> {
        let _ = page;
        Err(Error::internal("contract"))
    }

    /// One lock, linearizable; `None` when it is free and nobody waits.
    pub async fn show(&self, lock: LockName) -> Result<Option<LockView>, Error> {
        let _ = lock;
        Err(Error::internal("contract"))
    }

    /// Watches one lock: its state, then its events, with a fresh state after a gap. Ends when the
    /// node stops. Bounded: a watcher that does not keep up gets a fresh state instead of events.
    pub async fn watch(&self, lock: LockName) -> Result<tokio::sync::mpsc::Receiver<WatchItem>, Error> {
        let _ = lock;
        Err(Error::internal("contract"))
    }
}
