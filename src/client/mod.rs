//! The client of the HTTP API: what an application elsewhere, and the command line, talk through.
//!
//! [`Client`] sends a [`Call`] to one node and gives back the text of the answer or its typed form.
//! It keeps no state but a pool of connections, and never repeats a call by itself. A lock that is to
//! be held for longer than its first term is a [`RemoteGuard`]. Knows `api` only by the shapes of the
//! bodies.

mod caches;
mod calls;
mod events;
mod guard;
mod queues;
mod snapshots;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::{Method, StatusCode, header, header::HeaderMap};
use serde::de::DeserializeOwned;

use self::calls::Payload;
pub use self::{
    caches::{RemoteCache, RemoteRead, StoreIf, StoreOptions},
    calls::{AcquireOptions, Call},
    events::{EventParser, ServerEvent, ServerEvents},
    guard::{LockBuilder, RemoteGuard},
    queues::{RemoteDeliveries, RemoteQueue},
    snapshots::BackupBytes,
};
use crate::{
    api::{
        bodies::{BrokenBody, GrantBody, LockBody, LockList, MultiGrantBody, SessionBody, SessionList},
        problem::Problem,
    },
    config::Secret,
    error::{Error, ErrorCode, Outcome},
    ids::{LockName, NodeId, SessionId},
    machine::lock::Want,
    node::status::{ClusterView, NodeInfo, Readiness},
};

/// How long a connection may take to come about, one lost packet included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an idle connection is kept: well below the 30 s after which a node closes it, so that no
/// call is sent into a connection that is being closed.
const POOL_IDLE: Duration = Duration::from_secs(10);

/// Most bytes of an answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A call that failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{error}")]
pub struct ClientError {
    /// What failed, and what to do.
    pub error: Error,
    /// The problem document on one line: the node's own where it sent one.
    pub document: String,
}

impl From<Error> for ClientError {
    fn from(error: Error) -> Self {
        let document = serde_json::to_string(&Problem::from(error.clone()));
        Self { document: document.expect("a problem is a plain struct with string keys"), error }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        error.error
    }
}

/// What a node answered, of whatever status.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// A client of one node. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    base: String,
    token: Option<Secret>,
}

impl Client {
    /// A client of the node at `url` (`http://host:port`, or only `host:port`). Connects to nothing yet.
    ///
    /// # Errors
    /// `bad-request` for a URL that is none, or one of another scheme: nodes speak plain HTTP.
    pub fn new(url: &str, token: Option<Secret>) -> Result<Self, ClientError> {
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let base = with_scheme.trim_end_matches('/').to_owned();
        let refuse = |why: &str| {
            Error::bad_request("url", format!("'{url}' is not the URL of a node: {why}; expected http://host:port"))
        };
        let parsed = reqwest::Url::parse(&base).map_err(|error| refuse(&error.to_string()))?;
        if parsed.scheme() != "http" {
            return Err(refuse("nodes speak plain HTTP").into());
        }
        if parsed.host_str().is_none() || parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(refuse("it has no host, or has a query or a fragment").into());
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .map_err(Error::internal)?;
        Ok(Self { http, base, token })
    }

    /// The URL that calls go to.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Sends a call and gives back the body of its answer as it came; empty for an empty answer.
    ///
    /// # Errors
    /// The node's problem; `unavailable` where there is no connection or no answer in time.
    pub async fn text(&self, call: &Call) -> Result<String, ClientError> {
        let answer = self.answer(call).await?;
        self.utf8(answer.body)
    }

    /// Sends a call and reads its answer.
    ///
    /// # Errors
    /// As [`Client::text`]; `internal` for an answer of another shape.
    pub async fn json<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ClientError> {
        let text = self.text(call).await?;
        serde_json::from_str(&text).map_err(|error| {
            ClientError::from(Error::internal(format!("{} sent an answer of another shape: {error}", self.base)))
        })
    }

    /// The answer to a call that succeeds.
    async fn answer(&self, call: &Call) -> Result<Answer, ClientError> {
        let answer = self.exchange(call).await?;
        if !answer.status.is_success() {
            return Err(self.problem(answer.status, &answer.body));
        }
        Ok(answer)
    }

    async fn exchange(&self, call: &Call) -> Result<Answer, ClientError> {
        let unreachable = |error: reqwest::Error| self.unreachable(&error, &call.method);
        let response = self.request(call).timeout(call.timeout).send().await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(unreachable)?;
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                let detail = format!("{} sent an answer of more than {MAX_ANSWER_BYTES} bytes", self.base);
                return Err(Error::internal(detail).into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body: body.into() })
    }

    fn request(&self, call: &Call) -> reqwest::RequestBuilder {
        let mut request = self.http.request(call.method.clone(), format!("{}{}", self.base, call.path));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value.as_bytes());
        }
        match &call.body {
            Some(Payload::Json(body)) => request.json(body),
            Some(Payload::Raw(bytes)) => request.body(bytes.clone()),
            // An empty body is announced, so that no proxy asks for its length.
            None if call.method == Method::POST => request.header(header::CONTENT_LENGTH, 0),
            None => request,
        }
    }

    fn utf8(&self, body: Bytes) -> Result<String, ClientError> {
        String::from_utf8(body.into()).map_err(|_| Error::internal(format!("{} sent no UTF-8", self.base)).into())
    }

    /// The error that a refusal stands for.
    fn problem(&self, status: StatusCode, body: &[u8]) -> ClientError {
        if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
            let document = String::from_utf8_lossy(body).replace(['\r', '\n'], " ");
            return ClientError { error: problem.into(), document };
        }
        let detail =
            format!("{} answered {status} without a problem document: is a Syncmesh node serving there?", self.base);
        if status.is_server_error() {
            return Error::unavailable(Outcome::Unknown, detail).into();
        }
        Error::new(ErrorCode::Internal, detail).into()
    }

    /// The error of a call that got no answer.
    fn unreachable(&self, error: &reqwest::Error, method: &Method) -> ClientError {
        let base = &self.base;
        if error.is_connect() {
            let detail = format!(
                "no node can be reached at {base}: start one there with 'syncmesh node', or name another with \
                 --url or SYNCMESH_URL"
            );
            return Error::unavailable(Outcome::NotApplied, detail).into();
        }
        let what = if error.is_timeout() { "did not answer in time" } else { "broke the connection off" };
        if *method == Method::GET {
            let detail = format!("{base} {what}: the node hangs, or the network between; ask another node");
            return Error::unavailable(Outcome::NotApplied, detail).into();
        }
        let detail = format!("{base} {what}: look at what has become of the call before you repeat it");
        Error::unavailable(Outcome::Unknown, detail).into()
    }
}

/// The calls, typed.
impl Client {
    /// Opens a session.
    ///
    /// # Errors
    /// As [`Client::json`], here and below.
    pub async fn open_session(&self, ttl: Option<Duration>, owner: Option<&str>) -> Result<SessionBody, ClientError> {
        self.json(&Call::open_session(ttl, owner)).await
    }

    /// Starts the term of a session anew.
    pub async fn keep_alive(&self, session: &SessionId) -> Result<SessionBody, ClientError> {
        self.json(&Call::keep_alive(session)).await
    }

    /// Closes a session: its locks are released, its waits cancelled.
    pub async fn close_session(&self, session: &SessionId) -> Result<(), ClientError> {
        self.text(&Call::close_session(session)).await.map(drop)
    }

    /// One page of the sessions that are alive.
    pub async fn sessions(&self, after: Option<&str>) -> Result<SessionList, ClientError> {
        self.json(&Call::sessions(after)).await
    }

    /// Acquires one lock once; for one that is kept alive see [`Client::lock`].
    pub async fn acquire(&self, want: &Want, options: &AcquireOptions) -> Result<GrantBody, ClientError> {
        self.json(&Call::acquire(want, options)).await
    }

    /// Acquires several locks, all or none.
    pub async fn acquire_many(&self, wants: &[Want], options: &AcquireOptions) -> Result<MultiGrantBody, ClientError> {
        self.json(&Call::acquire_many(wants, options)).await
    }

    /// From exclusive to shared, keeping the token.
    pub async fn downgrade(&self, lock: &LockName, session: &SessionId) -> Result<GrantBody, ClientError> {
        self.json(&Call::downgrade(lock, session)).await
    }

    /// Gives a lock back.
    pub async fn release(&self, lock: &LockName, session: &SessionId) -> Result<(), ClientError> {
        self.text(&Call::release(lock, session)).await.map(drop)
    }

    /// Takes a lock from all its holders.
    pub async fn break_lock(&self, lock: &LockName) -> Result<BrokenBody, ClientError> {
        self.json(&Call::break_lock(lock)).await
    }

    /// One lock; `not-found` when it is free and nobody waits.
    pub async fn show_lock(&self, lock: &LockName) -> Result<LockBody, ClientError> {
        self.json(&Call::show_lock(lock)).await
    }

    /// One page of the locks that are held or waited for.
    pub async fn locks(&self, prefix: Option<&str>, after: Option<&str>) -> Result<LockList, ClientError> {
        self.json(&Call::locks(prefix, after)).await
    }

    /// What the node says of itself.
    pub async fn node(&self) -> Result<NodeInfo, ClientError> {
        self.json(&Call::node()).await
    }

    /// What the node knows of the cluster.
    pub async fn cluster(&self) -> Result<ClusterView, ClientError> {
        self.json(&Call::cluster()).await
    }

    /// Removes and bars a member.
    pub async fn remove_member(&self, peer: NodeId) -> Result<(), ClientError> {
        self.text(&Call::remove_member(peer)).await.map(drop)
    }

    /// Lifts the bar.
    pub async fn admit_member(&self, peer: NodeId) -> Result<(), ClientError> {
        self.text(&Call::admit_member(peer)).await.map(drop)
    }

    /// The node drains, leaves for good, and its process ends. Returns at once, or with a `wait` once it has left. Where
    /// the `deadline` is not enough to hand its duties over, it stays a member.
    pub async fn leave(&self, wait: Duration, deadline: Option<Duration>) -> Result<(), ClientError> {
        self.text(&Call::leave(wait, deadline)).await.map(drop)
    }

    /// Hands Raft's leadership to a peer, or to whoever is most up to date.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<(), ClientError> {
        self.text(&Call::transfer_leader(to)).await.map(drop)
    }

    /// Whether the node can serve its roles now: an answer, not an error, either way.
    ///
    /// # Errors
    /// `unavailable` where there is no answer.
    pub async fn readiness(&self) -> Result<Readiness, ClientError> {
        let answer = self.exchange(&Call::readiness()).await?;
        serde_json::from_slice(&answer.body).map_err(|_| self.problem(answer.status, &answer.body))
    }

    /// A lock that is to be held: acquired, then kept alive until it is released or lost.
    pub fn lock(&self, name: LockName) -> LockBuilder {
        LockBuilder::new(self.clone(), name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_no_node_serves_are_refused() {
        for bad in ["https://host:1", "", "http://", "http://host:99999", "http://h/?a=b", "ftp://h"] {
            assert_eq!(Client::new(bad, None).unwrap_err().error.code, ErrorCode::BadRequest, "{bad}");
        }
        assert_eq!(Client::new("localhost:8080", None).unwrap().url(), "http://localhost:8080");
        assert_eq!(Client::new("http://[::1]:8080/", None).unwrap().url(), "http://[::1]:8080");
    }

    #[tokio::test]
    async fn no_connection_is_unavailable_and_names_the_url_and_the_cure() {
        let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = Client::new(&unused.to_string(), None).unwrap().cluster().await.unwrap_err();
        assert_eq!(
            (error.error.code, error.error.details.outcome),
            (ErrorCode::Unavailable, Some(Outcome::NotApplied))
        );
        assert!(error.error.detail.contains(&unused.to_string()) && error.error.detail.contains("--url"));
        assert!(error.document.starts_with(r#"{"type":"unavailable""#), "{}", error.document);
    }

    #[test]
    fn a_problem_is_passed_on_as_it_came() {
        let client = Client::new("host:1", None).unwrap();
        let document = r#"{"type":"not-found","title":"t","status":404,"detail":"d","more":1}"#;
        let error = client.problem(StatusCode::NOT_FOUND, document.as_bytes());
        assert_eq!((error.error.code, error.document.as_str()), (ErrorCode::NotFound, document));
        let proxy = client.problem(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(proxy.error.code, ErrorCode::Unavailable);
    }
}
