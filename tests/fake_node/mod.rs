//! A node made of answers: serves just enough of the lock API to be talked to by the real program, and
//! can be told to fail. It decides nothing about locks; the cluster's own tests do that.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{delete, get, post},
};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;

/// The token of every grant.
pub(crate) const TOKEN: u64 = 41;

#[derive(Debug)]
struct Script {
    refuse_acquire: Option<(u16, Value)>,
    keep_alives_fail: AtomicBool,
    last_keep_alive: Mutex<Instant>,
    closed: AtomicBool,
    broken: watch::Sender<bool>,
}

/// The node, on a thread of its own.
#[derive(Debug)]
pub(crate) struct FakeNode {
    pub(crate) addr: SocketAddr,
    script: Arc<Script>,
}

impl FakeNode {
    /// A node that grants every lock.
    pub(crate) fn granting() -> Self {
        Self::start(None)
    }

    /// A node that answers every acquire with this problem.
    pub(crate) fn refusing(status: u16, slug: &str) -> Self {
        let problem = json!({"type": slug, "title": "t", "status": status, "detail": "as told", "holders": ["other"]});
        Self::start(Some((status, problem)))
    }

    fn start(refuse_acquire: Option<(u16, Value)>) -> Self {
        let script = Arc::new(Script {
            refuse_acquire,
            keep_alives_fail: AtomicBool::new(false),
            last_keep_alive: Mutex::new(Instant::now()),
            closed: AtomicBool::new(false),
            broken: watch::Sender::new(false),
        });
        let (send, addr) = std::sync::mpsc::channel();
        let served = Arc::clone(&script);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, routes(served)).await.unwrap();
            });
        });
        Self { addr: addr.recv().unwrap(), script }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on keep-alives get `no-quorum`.
    pub(crate) fn fail_keep_alives(&self) {
        self.script.keep_alives_fail.store(true, Ordering::SeqCst);
    }

    /// An operator breaks the lock.
    pub(crate) fn break_lock(&self) {
        self.script.broken.send_replace(true);
    }

    /// Whether the session was closed.
    pub(crate) fn session_was_closed(&self) -> bool {
        self.script.closed.load(Ordering::SeqCst)
    }

    /// Since the last keep-alive, or acquire, that was answered.
    pub(crate) fn since_last_keep_alive(&self) -> Duration {
        self.script.last_keep_alive.lock().unwrap().elapsed()
    }
}

fn routes(script: Arc<Script>) -> Router {
    Router::new()
        .route("/v1/locks/{name}/acquire", post(acquire))
        .route("/v1/locks/{name}/release", post(|| async { StatusCode::NO_CONTENT }))
        .route("/v1/locks/{name}/watch", get(watch_lock))
        .route("/v1/locks/{name}", get(show))
        .route("/v1/locks", get(list))
        .route("/v1/sessions", post(open_session))
        .route("/v1/sessions/{id}/keepalive", post(keep_alive))
        .route("/v1/sessions/{id}", delete(close))
        .with_state(script)
}

fn problem(status: u16, body: &Value) -> Response {
    let kind = [("content-type", "application/problem+json")];
    (StatusCode::from_u16(status).unwrap(), kind, body.to_string()).into_response()
}

async fn acquire(State(script): State<Arc<Script>>, Path(name): Path<String>, Json(body): Json<Value>) -> Response {
    if let Some((status, body)) = &script.refuse_acquire {
        return problem(*status, body);
    }
    *script.last_keep_alive.lock().unwrap() = Instant::now();
    let grant = json!({
        "lock": name, "mode": body["mode"], "session": "s-1", "fencing_token": TOKEN, "expires_in_ms": body["ttl_ms"],
    });
    Json(grant).into_response()
}

async fn open_session(Json(body): Json<Value>) -> Response {
    (StatusCode::CREATED, Json(json!({"session": "s-1", "ttl_ms": body["ttl_ms"]}))).into_response()
}

async fn keep_alive(State(script): State<Arc<Script>>, Path(session): Path<String>) -> Response {
    if script.keep_alives_fail.load(Ordering::SeqCst) {
        return problem(503, &json!({"type": "no-quorum", "title": "t", "status": 503, "detail": "no leader"}));
    }
    *script.last_keep_alive.lock().unwrap() = Instant::now();
    Json(json!({"session": session, "ttl_ms": 30_000})).into_response()
}

async fn close(State(script): State<Arc<Script>>) -> StatusCode {
    script.closed.store(true, Ordering::SeqCst);
    StatusCode::NO_CONTENT
}

fn state(name: &str) -> Value {
    let holder = json!({"session": "s-1", "owner": "o", "fencing_token": TOKEN, "since": "2026-01-01T00:00:00.000Z"});
    json!({"lock": name, "mode": "exclusive", "holders": [holder], "waiters": []})
}

async fn show(Path(name): Path<String>) -> Json<Value> {
    Json(state(&name))
}

/// Two pages.
async fn list(axum::extract::RawQuery(query): axum::extract::RawQuery) -> Json<Value> {
    match query.as_deref() {
        Some("after=a") => Json(json!({"locks": [state("b")]})),
        _ => Json(json!({"locks": [state("a")], "next": "a"})),
    }
}

async fn watch_lock(
    State(script): State<Arc<Script>>,
    Path(name): Path<String>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let first = Event::default().event("state").id("1").data(state(&name).to_string());
    let mut broken = script.broken.subscribe();
    let event = json!({
        "lock": name, "session": "s-1", "owner": "o", "mode": "exclusive", "fencing_token": TOKEN,
        "at": "2026-01-01T00:00:00.000Z",
    });
    let then = async move {
        broken.wait_for(|broken| *broken).await.unwrap();
        Event::default().event("broken").id("2").data(event.to_string())
    };
    Sse::new(futures::stream::iter([first]).chain(futures::stream::once(then)).map(Ok))
}
