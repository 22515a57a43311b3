//! The bodies of requests about locks and sessions: how each is read, and how OpenAPI describes it.

use utoipa::ToSchema;

use super::{
    bodies::ModeSchema,
    fields::{Fields, FromFields},
};
use crate::{
    error::Error,
    ids::{LockName, SessionId},
    machine::lock::{Mode, Want},
    node::locks::AcquireRequest,
};

/// Most bytes in the owner of a session.
const MAX_OWNER_BYTES: usize = 512;

const MODES: [(&str, Mode); 2] = [("exclusive", Mode::Exclusive), ("shared", Mode::Shared)];

fn owner(fields: &mut Fields) -> Result<Option<String>, Error> {
    let owner = fields.text("owner")?;
    match owner.as_ref().map(String::len) {
        Some(length) if length > MAX_OWNER_BYTES => {
            let detail = format!("the owner has {length} bytes: at most {MAX_OWNER_BYTES} are allowed");
            Err(Error::bad_request("owner", detail))
        }
        _ => Ok(owner),
    }
}

/// Opens a session.
#[derive(Debug, ToSchema)]
pub(super) struct OpenSessionBody {
    /// 500 to 3,600,000; 30,000 if left out.
    pub(super) ttl_ms: Option<u64>,
    /// Whom people see as the holder.
    pub(super) owner: Option<String>,
}

impl FromFields for OpenSessionBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self { ttl_ms: fields.integer("ttl_ms")?, owner: owner(fields)? })
    }
}

/// Names the session that releases or downgrades.
#[derive(Debug, ToSchema)]
pub(super) struct HolderRequestBody {
    /// The holder.
    #[schema(value_type = String)]
    pub(super) session: SessionId,
}

impl FromFields for HolderRequestBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self { session: fields.required_parsed("session")? })
    }
}

/// Acquires one lock.
#[derive(Debug, ToSchema)]
pub(super) struct AcquireBody {
    /// One is made where there is none.
    #[schema(value_type = Option<String>)]
    session: Option<SessionId>,
    /// `exclusive` if left out.
    #[schema(value_type = Option<ModeSchema>)]
    mode: Option<Mode>,
    /// 0 to 600,000; 0 (refuse at once) if left out.
    wait_ms: Option<u64>,
    /// 500 to 3,600,000; only without `session`.
    ttl_ms: Option<u64>,
    /// How long the lock stays closed if its holder is lost.
    lock_delay_ms: Option<u64>,
    /// Only without `session`.
    owner: Option<String>,
}

impl FromFields for AcquireBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self {
            session: fields.parsed("session")?,
            mode: fields.choice("mode", &MODES)?,
            wait_ms: fields.integer("wait_ms")?,
            ttl_ms: fields.integer("ttl_ms")?,
            lock_delay_ms: fields.integer("lock_delay_ms")?,
            owner: owner(fields)?,
        })
    }
}

impl AcquireBody {
    /// The request for this lock.
    pub(super) fn for_lock(self, lock: LockName) -> AcquireRequest {
        AcquireRequest {
            session: self.session,
            wants: vec![Want { lock, mode: self.mode.unwrap_or_default() }],
            wait_ms: self.wait_ms.unwrap_or(0),
            ttl_ms: self.ttl_ms,
            lock_delay_ms: self.lock_delay_ms,
            owner: self.owner,
        }
    }
}

/// One lock of a multi-acquire.
#[derive(Debug, ToSchema)]
pub(super) struct WantedLock {
    /// The lock.
    #[schema(value_type = String)]
    name: LockName,
    /// `exclusive` if left out.
    #[schema(value_type = Option<ModeSchema>)]
    mode: Option<Mode>,
}

/// Acquires several locks, all or none.
#[derive(Debug, ToSchema)]
pub(super) struct MultiAcquireBody {
    /// 1 to 64, each once.
    locks: Vec<WantedLock>,
    /// One is made where there is none.
    #[schema(value_type = Option<String>)]
    session: Option<SessionId>,
    /// 0 to 600,000; 0 (refuse at once) if left out.
    wait_ms: Option<u64>,
    /// 500 to 3,600,000; only without `session`.
    ttl_ms: Option<u64>,
    /// How long the locks stay closed if their holder is lost.
    lock_delay_ms: Option<u64>,
    /// Only without `session`.
    owner: Option<String>,
}

impl FromFields for MultiAcquireBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        let mut locks = Vec::new();
        for mut wanted in fields.objects("locks")? {
            let name = wanted.required_parsed("name")?;
            let mode = wanted.choice("mode", &MODES)?;
            wanted.finish()?;
            locks.push(WantedLock { name, mode });
        }
        Ok(Self {
            locks,
            session: fields.parsed("session")?,
            wait_ms: fields.integer("wait_ms")?,
            ttl_ms: fields.integer("ttl_ms")?,
            lock_delay_ms: fields.integer("lock_delay_ms")?,
            owner: owner(fields)?,
        })
    }
}

impl From<MultiAcquireBody> for AcquireRequest {
    fn from(body: MultiAcquireBody) -> Self {
        let want = |wanted: WantedLock| Want { lock: wanted.name, mode: wanted.mode.unwrap_or_default() };
        Self {
            session: body.session,
            wants: body.locks.into_iter().map(want).collect(),
            wait_ms: body.wait_ms.unwrap_or(0),
            ttl_ms: body.ttl_ms,
            lock_delay_ms: body.lock_delay_ms,
            owner: body.owner,
        }
    }
}
