//! The bodies of requests about locks and sessions: how each is read, and how OpenAPI describes it.

use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    bodies::ModeSchema,
    fields::{Canonical, Fields, FromFields},
};
use crate::{
    error::Error,
    ids::{LockName, SessionId},
    machine::lock::{Mode, Want},
    node::locks::{AcquireRequest, DEFAULT_TTL_MS},
};

/// Most bytes in the owner of a session.
const MAX_OWNER_BYTES: usize = 512;

const MODES: [(&str, Mode); 2] = [("exclusive", Mode::Exclusive), ("shared", Mode::Shared)];

/// A mode as requests write it.
fn word(mode: Option<Mode>) -> &'static str {
    match mode.unwrap_or_default() {
        Mode::Exclusive => "exclusive",
        Mode::Shared => "shared",
    }
}

/// Who is to hold, in a [canonical](Canonical::canonical) request: a session, or one that is made so.
/// (What a lock delay that is left out means, each node has in its settings: it stays left out.)
fn holder(session: Option<&SessionId>, ttl_ms: Option<u64>, owner: Option<&str>) -> Value {
    match session {
        Some(session) => json!({"session": session, "ttl_ms": ttl_ms, "owner": owner}),
        None => json!({"ttl_ms": ttl_ms.unwrap_or(DEFAULT_TTL_MS), "owner": owner.unwrap_or_default()}),
    }
}

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

impl Canonical for OpenSessionBody {
    fn canonical(&self) -> Value {
        json!({"ttl_ms": self.ttl_ms.unwrap_or(DEFAULT_TTL_MS), "owner": self.owner.as_deref().unwrap_or_default()})
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

impl Canonical for HolderRequestBody {
    fn canonical(&self) -> Value {
        json!({"session": self.session})
    }
}

/// Asks a member to leave.
#[derive(Debug, ToSchema)]
pub(super) struct LeaveBody {
    /// 0 to 600,000; how long to wait until it has left. 0 (answer once it was asked) if left out.
    pub(super) wait_ms: Option<u64>,
    /// 1,000 to 86,400,000; how long handing its duties over may take before it stays a member. 600,000 if left out.
    pub(super) deadline_ms: Option<u64>,
}

impl FromFields for LeaveBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self { wait_ms: fields.integer("wait_ms")?, deadline_ms: fields.integer("deadline_ms")? })
    }
}

impl Canonical for LeaveBody {
    fn canonical(&self) -> Value {
        json!({"wait_ms": self.wait_ms.unwrap_or(0), "deadline_ms": self.deadline_ms})
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

impl Canonical for AcquireBody {
    fn canonical(&self) -> Value {
        let holder = holder(self.session.as_ref(), self.ttl_ms, self.owner.as_deref());
        json!({
            "mode": word(self.mode),
            "wait_ms": self.wait_ms.unwrap_or(0),
            "lock_delay_ms": self.lock_delay_ms,
            "holder": holder,
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

impl Canonical for MultiAcquireBody {
    fn canonical(&self) -> Value {
        let locks: Vec<_> = self.locks.iter().map(|wanted| json!([wanted.name, word(wanted.mode)])).collect();
        let holder = holder(self.session.as_ref(), self.ttl_ms, self.owner.as_deref());
        json!({
            "locks": locks,
            "wait_ms": self.wait_ms.unwrap_or(0),
            "lock_delay_ms": self.lock_delay_ms,
            "holder": holder,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical<T: Canonical>(body: &str) -> String {
        let mut fields = Fields::from_json(body.as_bytes()).unwrap();
        let request = T::from_fields(&mut fields).unwrap();
        fields.finish().unwrap();
        request.canonical().to_string()
    }

    #[test]
    fn a_request_is_the_same_however_it_is_written() {
        let plain = canonical::<AcquireBody>("");
        let spelled = r#" {"owner": "", "ttl_ms": 30000, "wait_ms" :0, "mode":"exclusive", "session":null, "lock_delay_ms":null}"#;
        for same in ["{}", "{ \n}", r#"{"wait_ms":0}"#, spelled] {
            assert_eq!(canonical::<AcquireBody>(same), plain, "{same}");
        }
        for other in [r#"{"wait_ms":1}"#, r#"{"mode":"shared"}"#, r#"{"session":"s"}"#, r#"{"lock_delay_ms":0}"#] {
            assert_ne!(canonical::<AcquireBody>(other), plain, "{other}");
        }
        assert_eq!(canonical::<OpenSessionBody>(""), canonical::<OpenSessionBody>(r#"{"ttl_ms":30000}"#));
        let many = |locks: &str| canonical::<MultiAcquireBody>(&format!(r#"{{"locks":[{locks}]}}"#));
        assert_eq!(many(r#"{"name":"a"}"#), many(r#"{ "mode":"exclusive", "name":"\u0061" }"#));
        assert_ne!(many(r#"{"name":"a"},{"name":"b"}"#), many(r#"{"name":"b"},{"name":"a"}"#));
    }
}
