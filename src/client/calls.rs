//! Every call of the API as a value: method, path, body, and how long its answer may take.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    ids::{LockName, NodeId, SessionId},
    machine::lock::Want,
    time::millis,
};

/// How long an answer may take beyond the wait that the call itself asks for. A node answers within
/// its own deadlines; this is for one that does not answer at all.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an answer may take that a node gives from what it knows, or says soon that it cannot: a node
/// that does not answer by then is stuck.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// The same, where the node asks another one first.
const ASKED_ELSEWHERE: Duration = Duration::from_secs(10);

/// One call, ready to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Payload>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) timeout: Duration,
    pub(super) idempotency_key: Option<String>,
}

/// What a call carries.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Payload {
    /// A JSON document.
    Json(Value),
    /// Bytes as they are; a header may name their type.
    Raw(Bytes),
}

/// What an acquire may say beside the locks.
#[derive(Clone, Default, Debug)]
pub struct AcquireOptions {
    /// The session that is to hold; one is made where there is none.
    pub session: Option<SessionId>,
    /// How long to wait in line; zero: refuse at once.
    pub wait: Duration,
    /// The term of a session that is made; only without `session`.
    pub ttl: Option<Duration>,
    /// How long the locks stay closed if their holder is lost.
    pub lock_delay: Option<Duration>,
    /// Whom people see as holder; only without `session`.
    pub owner: Option<String>,
}

impl AcquireOptions {
    fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("session", self.session.as_ref().map(|session| session.as_str().into()));
        put("wait_ms", Some(millis(self.wait).into()));
        put("ttl_ms", self.ttl.map(|ttl| millis(ttl).into()));
        put("lock_delay_ms", self.lock_delay.map(|delay| millis(delay).into()));
        put("owner", self.owner.as_deref().map(Value::from));
        fields
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters, `/` too.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

fn lock_path(lock: &LockName, action: &str) -> String {
    format!("/v1/locks/{}{action}", encode(lock.as_str()))
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        let (body, headers, idempotency_key) = (None, Vec::new(), None);
        Self { method, path: path.into(), body, headers, timeout: ANSWER_TIMEOUT, idempotency_key }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub(super) fn with_body(mut self, body: Value) -> Self {
        self.body = Some(Payload::Json(body));
        self
    }

    pub(super) fn with_bytes(mut self, bytes: Bytes) -> Self {
        self.body = Some(Payload::Raw(bytes));
        self
    }

    pub(super) fn with_header(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.headers.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(super) fn with_query(mut self, parameters: &[(&str, Option<&str>)]) -> Self {
        let given = parameters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let pairs: Vec<String> = given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
        if !pairs.is_empty() {
            self.path = format!("{}?{}", self.path, pairs.join("&"));
        }
        self
    }

    /// The call under the client's own name (1 to 255 visible characters): a repeat within ten minutes
    /// gets the first answer and changes nothing. Only for calls that change sessions, locks or members.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// The call with another bound on the time that its answer may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `POST /v1/sessions`.
    pub fn open_session(ttl: Option<Duration>, owner: Option<&str>) -> Self {
        let options = AcquireOptions { ttl, owner: owner.map(str::to_owned), ..AcquireOptions::default() };
        let mut fields = options.fields();
        fields.remove("wait_ms");
        Self::post("/v1/sessions").with_body(fields.into())
    }

    /// `POST /v1/sessions/{id}/keepalive`.
    pub fn keep_alive(session: &SessionId) -> Self {
        Self::post(format!("/v1/sessions/{session}/keepalive"))
    }

    /// `DELETE /v1/sessions/{id}`.
    pub fn close_session(session: &SessionId) -> Self {
        Self::new(Method::DELETE, format!("/v1/sessions/{session}"))
    }

    /// `GET /v1/sessions`.
    pub fn sessions(after: Option<&str>) -> Self {
        Self::get("/v1/sessions").with_query(&[("after", after)])
    }

    /// `POST /v1/locks/{name}/acquire`.
    pub fn acquire(want: &Want, options: &AcquireOptions) -> Self {
        let mut fields = options.fields();
        fields.insert("mode".to_owned(), want.mode.name().into());
        Self::post(lock_path(&want.lock, "/acquire"))
            .with_body(fields.into())
            .with_timeout(options.wait.saturating_add(ANSWER_TIMEOUT))
    }

    /// `POST /v1/locks:acquire`.
    pub fn acquire_many(wants: &[Want], options: &AcquireOptions) -> Self {
        let mut fields = options.fields();
        let locks = wants.iter().map(|want| json!({"name": want.lock.as_str(), "mode": want.mode.name()})).collect();
        fields.insert("locks".to_owned(), Value::Array(locks));
        Self::post("/v1/locks:acquire")
            .with_body(fields.into())
            .with_timeout(options.wait.saturating_add(ANSWER_TIMEOUT))
    }

    /// `POST /v1/locks/{name}/downgrade`.
    pub fn downgrade(lock: &LockName, session: &SessionId) -> Self {
        Self::post(lock_path(lock, "/downgrade")).with_body(json!({"session": session.as_str()}))
    }

    /// `POST /v1/locks/{name}/release`.
    pub fn release(lock: &LockName, session: &SessionId) -> Self {
        Self::post(lock_path(lock, "/release")).with_body(json!({"session": session.as_str()}))
    }

    /// `DELETE /v1/locks/{name}`.
    pub fn break_lock(lock: &LockName) -> Self {
        Self::new(Method::DELETE, lock_path(lock, ""))
    }

    /// `GET /v1/locks/{name}`.
    pub fn show_lock(lock: &LockName) -> Self {
        Self::get(lock_path(lock, ""))
    }

    /// `GET /v1/locks`.
    pub fn locks(prefix: Option<&str>, after: Option<&str>) -> Self {
        Self::get("/v1/locks").with_query(&[("prefix", prefix), ("after", after)])
    }

    /// `GET /v1/locks/{name}/watch`, for [`Client::events`](super::Client::events).
    pub fn watch_lock(lock: &LockName) -> Self {
        Self::get(lock_path(lock, "/watch"))
    }

    /// `GET /v1/node`.
    pub fn node() -> Self {
        Self::get("/v1/node").with_timeout(LOOK_TIMEOUT)
    }

    /// `GET /v1/cluster`.
    pub fn cluster() -> Self {
        Self::get("/v1/cluster").with_timeout(LOOK_TIMEOUT)
    }

    /// `GET /v1/node/logs`.
    pub fn node_logs() -> Self {
        Self::get("/v1/node/logs").with_timeout(LOOK_TIMEOUT)
    }

    /// `GET /v1/node/config`.
    pub fn node_settings() -> Self {
        Self::get("/v1/node/config").with_timeout(LOOK_TIMEOUT)
    }

    /// `GET /v1/cluster/members/{peer}/node`.
    pub fn member_node(peer: NodeId) -> Self {
        Self::get(format!("/v1/cluster/members/{peer}/node")).with_timeout(ASKED_ELSEWHERE)
    }

    /// `GET /v1/cluster/members/{peer}/logs`.
    pub fn member_logs(peer: NodeId) -> Self {
        Self::get(format!("/v1/cluster/members/{peer}/logs")).with_timeout(ASKED_ELSEWHERE)
    }

    /// `GET /metrics`.
    pub fn metrics() -> Self {
        Self::get("/metrics").with_timeout(LOOK_TIMEOUT)
    }

    /// `GET /v1/events`, for [`Client::events`](super::Client::events).
    pub fn events() -> Self {
        Self::get("/v1/events")
    }

    /// `GET /v1/events` with a `Last-Event-ID`: after that event, or, where it is not known any more, after a `reset`.
    pub fn events_after(last: Option<&str>) -> Self {
        Self::events().with_header("last-event-id", last)
    }

    /// `GET /healthz`.
    pub fn health() -> Self {
        Self::get("/healthz").with_timeout(LOOK_TIMEOUT)
    }

    /// `GET /readyz`.
    pub fn readiness() -> Self {
        Self::get("/readyz").with_timeout(LOOK_TIMEOUT)
    }

    /// `POST /v1/cluster/members/{peer}/remove`.
    pub fn remove_member(peer: NodeId) -> Self {
        Self::post(format!("/v1/cluster/members/{peer}/remove"))
    }

    /// `POST /v1/cluster/members/{peer}/admit`.
    pub fn admit_member(peer: NodeId) -> Self {
        Self::post(format!("/v1/cluster/members/{peer}/admit"))
    }

    /// `POST /v1/cluster/members/self/leave`.
    ///
    /// Answered at once, or with a `wait` once the node has left. `deadline`: how long it may take before it stays.
    pub fn leave(wait: Duration, deadline: Option<Duration>) -> Self {
        let mut fields = Map::new();
        if !wait.is_zero() {
            fields.insert("wait_ms".to_owned(), millis(wait).into());
        }
        if let Some(deadline) = deadline {
            fields.insert("deadline_ms".to_owned(), millis(deadline).into());
        }
        let call = Self::post("/v1/cluster/members/self/leave").with_timeout(wait.saturating_add(ANSWER_TIMEOUT));
        if fields.is_empty() { call } else { call.with_body(fields.into()) }
    }

    /// `POST /v1/cluster/members/{peer}/transfer-leader`.
    pub fn transfer_leader(to: Option<NodeId>) -> Self {
        let peer = to.map_or_else(|| "any".to_owned(), |peer| peer.to_string());
        Self::post(format!("/v1/cluster/members/{peer}/transfer-leader"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::lock::Mode;

    #[test]
    fn names_are_one_segment_of_the_path_whatever_they_contain() {
        let lock = LockName::new("a/b c?é%2F").unwrap();
        assert_eq!(Call::show_lock(&lock).path, "/v1/locks/a%2Fb%20c%3F%C3%A9%252F");
        assert_eq!(Call::locks(Some("a&b"), None).path, "/v1/locks?prefix=a%26b");
        assert_eq!(Call::locks(None, None).path, "/v1/locks");
    }

    #[test]
    fn an_acquire_waits_for_its_answer_longer_than_in_line() {
        let want = Want { lock: LockName::new("a").unwrap(), mode: Mode::Shared };
        let options = AcquireOptions { wait: Duration::from_secs(600), ..AcquireOptions::default() };
        let call = Call::acquire(&want, &options);
        assert!(call.timeout > options.wait);
        assert_eq!(call.body, Some(Payload::Json(json!({"mode": "shared", "wait_ms": 600_000}))));
    }
}
