//! The bodies of answers about locks and sessions, as API.md words them.
//!
//! The server writes them and the client reads them, so that the two cannot drift apart.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ids::{FencingToken, LockName, SessionId},
    machine::lock::{HolderView, LockEvent, LockView, Mode, WaiterView},
    node::locks::{Acquired, AcquiredLock, SessionInfo, SessionTerm},
    time::rfc3339,
};

/// A session and its term.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SessionBody {
    /// The session.
    #[schema(value_type = String)]
    pub session: SessionId,
    /// Its full term, in milliseconds.
    pub ttl_ms: u64,
}

impl From<SessionTerm> for SessionBody {
    fn from(term: SessionTerm) -> Self {
        Self { session: term.session, ttl_ms: term.ttl_ms }
    }
}

/// One session in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SessionEntry {
    /// The session.
    #[schema(value_type = String)]
    pub session: SessionId,
    /// Whose it is; empty if nobody was named.
    pub owner: String,
    /// Its full term, in milliseconds.
    pub ttl_ms: u64,
    /// What is left of it, in milliseconds.
    pub expires_in_ms: u64,
    /// The locks that it holds: at most the first 1,000.
    #[schema(value_type = Vec<String>)]
    pub locks: Vec<LockName>,
}

impl From<SessionInfo> for SessionEntry {
    fn from(info: SessionInfo) -> Self {
        let SessionInfo { session, owner, ttl_ms, expires_in_ms, locks } = info;
        Self { session, owner, ttl_ms, expires_in_ms, locks }
    }
}

/// A page of sessions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SessionList {
    /// In the order of their ids.
    pub sessions: Vec<SessionEntry>,
    /// For `after`, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One lock that was granted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GrantBody {
    /// The lock.
    #[schema(value_type = String)]
    pub lock: LockName,
    /// The mode in which it is held.
    #[schema(value_type = ModeSchema)]
    pub mode: Mode,
    /// The holder.
    #[schema(value_type = String)]
    pub session: SessionId,
    /// Grows with every grant in the cluster, for ever.
    #[schema(value_type = u64)]
    pub fencing_token: FencingToken,
    /// What is left of the session's term, in milliseconds.
    pub expires_in_ms: u64,
}

impl GrantBody {
    /// The answer to an acquire of one lock.
    pub(super) fn of_one(acquired: Acquired) -> Option<Self> {
        let AcquiredLock { lock, mode, fencing_token } = acquired.locks.into_iter().next()?;
        Some(Self { lock, mode, session: acquired.session, fencing_token, expires_in_ms: acquired.expires_in_ms })
    }
}

/// How a lock is held or wanted.
#[derive(ToSchema)]
#[schema(as = Mode, rename_all = "lowercase")]
#[allow(dead_code, reason = "describes machine::lock::Mode, which knows nothing of OpenAPI")]
pub(super) enum ModeSchema {
    Shared,
    Exclusive,
}

/// One lock of a multi-acquire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GrantedLock {
    /// The lock.
    #[schema(value_type = String)]
    pub lock: LockName,
    /// The mode in which it is held.
    #[schema(value_type = ModeSchema)]
    pub mode: Mode,
    /// Grows with every grant in the cluster, for ever.
    #[schema(value_type = u64)]
    pub fencing_token: FencingToken,
}

/// The answer to a multi-acquire: all of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MultiGrantBody {
    /// The holder.
    #[schema(value_type = String)]
    pub session: SessionId,
    /// What is left of the session's term, in milliseconds.
    pub expires_in_ms: u64,
    /// In the order of the request.
    pub locks: Vec<GrantedLock>,
}

impl From<Acquired> for MultiGrantBody {
    fn from(acquired: Acquired) -> Self {
        let granted =
            |lock: AcquiredLock| GrantedLock { lock: lock.lock, mode: lock.mode, fencing_token: lock.fencing_token };
        Self {
            session: acquired.session,
            expires_in_ms: acquired.expires_in_ms,
            locks: acquired.locks.into_iter().map(granted).collect(),
        }
    }
}

/// A holder of a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct HolderBody {
    /// The session.
    #[schema(value_type = String)]
    pub session: SessionId,
    /// Whose it is.
    pub owner: String,
    /// The token of the grant.
    #[schema(value_type = u64)]
    pub fencing_token: FencingToken,
    /// RFC 3339.
    pub since: String,
}

impl From<HolderView> for HolderBody {
    fn from(holder: HolderView) -> Self {
        Self {
            session: holder.session,
            owner: holder.owner.as_ref().to_owned(),
            fencing_token: holder.fencing_token,
            since: rfc3339(holder.since),
        }
    }
}

/// One who waits for a lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WaiterBody {
    /// The session.
    #[schema(value_type = String)]
    pub session: SessionId,
    /// Whose it is.
    pub owner: String,
    /// The mode wanted.
    #[schema(value_type = ModeSchema)]
    pub mode: Mode,
    /// RFC 3339.
    pub since: String,
}

impl From<WaiterView> for WaiterBody {
    fn from(waiter: WaiterView) -> Self {
        Self {
            session: waiter.session,
            owner: waiter.owner.as_ref().to_owned(),
            mode: waiter.mode,
            since: rfc3339(waiter.since),
        }
    }
}

/// A lock: who holds it and who waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LockBody {
    /// The lock.
    #[schema(value_type = String)]
    pub lock: LockName,
    /// Null when nobody holds it.
    #[schema(value_type = Option<ModeSchema>)]
    pub mode: Option<Mode>,
    /// Who holds it: at most the first 1,000.
    pub holders: Vec<HolderBody>,
    /// Who waits, in order: at most the first 1,000.
    pub waiters: Vec<WaiterBody>,
}

impl From<LockView> for LockBody {
    fn from(view: LockView) -> Self {
        Self {
            lock: view.lock,
            mode: view.mode,
            holders: view.holders.into_iter().map(HolderBody::from).collect(),
            waiters: view.waiters.into_iter().map(WaiterBody::from).collect(),
        }
    }
}

/// A page of locks; one with large items may end before the limit, with `next` to go on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LockList {
    /// In the order of their names.
    pub locks: Vec<LockBody>,
    /// For `after`, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The sessions from which a lock was taken by force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BrokenBody {
    /// Empty if nobody held it.
    #[schema(value_type = Vec<String>)]
    pub broken: Vec<SessionId>,
}

/// What happened to a lock, as its watchers hear it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LockEventBody {
    /// The lock.
    #[schema(value_type = String)]
    pub lock: LockName,
    /// By or to which session.
    #[schema(value_type = String)]
    pub session: SessionId,
    /// Whose it is.
    pub owner: String,
    /// The mode held, wanted or lost.
    #[schema(value_type = ModeSchema)]
    pub mode: Mode,
    /// Not with `waiting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub fencing_token: Option<FencingToken>,
    /// RFC 3339.
    pub at: String,
}

impl From<LockEvent> for LockEventBody {
    fn from(event: LockEvent) -> Self {
        Self {
            lock: event.lock,
            session: event.session,
            owner: event.owner.as_ref().to_owned(),
            mode: event.mode,
            fencing_token: event.fencing_token,
            at: rfc3339(event.at),
        }
    }
}
