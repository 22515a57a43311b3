//! A node made of answers: keeps values in a map and words its answers as the API does, to be talked to by the real
//! program. It agrees with nobody about them; the cluster's own tests do that.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

/// The id of the one node that there is.
pub(crate) const PEER: &str = "12D3KooWJiG9y87W2QMa48TYVS8L9ierdLeayf1KfatHFNEvu4Gh";

/// What becomes of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stores {
    Kept,
    /// Acknowledged, and forgotten where the key had a value already: what no cache may do.
    Forgotten,
}

#[derive(Debug)]
struct Shelf {
    stores: Stores,
    /// Each value with its version.
    values: Mutex<BTreeMap<String, (Bytes, u64)>>,
    versions: AtomicU64,
    /// As if each read and write took one.
    messages: AtomicU64,
    queries: Mutex<Vec<String>>,
}

/// The node, on a thread of its own.
#[derive(Debug)]
pub(crate) struct FakeCache {
    addr: SocketAddr,
    shelf: Arc<Shelf>,
}

impl FakeCache {
    /// One that keeps what it is given.
    pub(crate) fn keeping() -> Self {
        Self::start(Stores::Kept)
    }

    /// One that acknowledges a store and goes on answering the first value of the key.
    pub(crate) fn forgetting() -> Self {
        Self::start(Stores::Forgotten)
    }

    fn start(stores: Stores) -> Self {
        let shelf = Arc::new(Shelf {
            stores,
            values: Mutex::default(),
            versions: AtomicU64::new(10),
            messages: AtomicU64::new(0),
            queries: Mutex::default(),
        });
        let (send, addr) = std::sync::mpsc::channel();
        let served = Arc::clone(&shelf);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                axum::serve(listener, routes(served)).await.unwrap();
            });
        });
        Self { addr: addr.recv().unwrap(), shelf }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The keys that have a value.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.shelf.values.lock().unwrap().keys().cloned().collect()
    }

    /// The query strings of the stores so far.
    pub(crate) fn queries(&self) -> Vec<String> {
        self.shelf.queries.lock().unwrap().clone()
    }
}

fn routes(shelf: Arc<Shelf>) -> Router {
    Router::new()
        .route("/v1/cache", get(stats))
        .route("/v1/cache:invalidate", post(invalidate))
        .route("/v1/cache/{key}", get(read).put(store).delete(delete))
        .route("/v1/cache/{key}/increment", post(increment))
        .route("/v1/cache/{key}/state", get(state))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(shelf)
}

fn problem(status: u16, slug: &str, more: Value) -> Response {
    let mut body = json!({"type": slug, "title": "t", "status": status, "detail": "as told"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let kind = [("content-type", "application/problem+json")];
    (StatusCode::from_u16(status).unwrap(), kind, body.to_string()).into_response()
}

async fn read(State(shelf): State<Arc<Shelf>>, Path(key): Path<String>) -> Response {
    shelf.messages.fetch_add(1, Ordering::SeqCst);
    let Some((value, version)) = shelf.values.lock().unwrap().get(&key).cloned() else {
        return problem(404, "not-found", json!({}));
    };
    let headers = [("etag", format!("\"{version}\"")), ("x-cache", "hit".into()), ("x-cache-state", "E".into())];
    (headers, value).into_response()
}

async fn store(
    State(shelf): State<Arc<Shelf>>,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    shelf.messages.fetch_add(1, Ordering::SeqCst);
    shelf.queries.lock().unwrap().extend(query);
    let mut values = shelf.values.lock().unwrap();
    let found = values.get(&key).map(|(_, version)| version.to_string());
    let wanted = headers.get("if-match").map(|tag| tag.to_str().unwrap().trim_matches('"').to_owned());
    let holds = match (&wanted, headers.contains_key("if-none-match")) {
        (Some(wanted), _) => found.as_ref() == Some(wanted),
        (None, true) => found.is_none(),
        (None, false) => true,
    };
    if !holds {
        return problem(412, "version-mismatch", json!({"version": found}));
    }
    let version = shelf.versions.fetch_add(1, Ordering::SeqCst);
    if shelf.stores == Stores::Kept || found.is_none() {
        values.insert(key, (body, version));
    }
    [("etag", format!("\"{version}\""))].into_response()
}

async fn delete(State(shelf): State<Arc<Shelf>>, Path(key): Path<String>) -> StatusCode {
    shelf.values.lock().unwrap().remove(&key);
    StatusCode::NO_CONTENT
}

async fn increment(State(shelf): State<Arc<Shelf>>, Path(key): Path<String>, Json(body): Json<Value>) -> Response {
    let mut values = shelf.values.lock().unwrap();
    let (value, version) = values.entry(key).or_insert_with(|| ("0".into(), 0));
    let Some(number) = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok()) else {
        return problem(400, "bad-request", json!({"field": "value"}));
    };
    let number = number + body["by"].as_i64().unwrap();
    *version = shelf.versions.fetch_add(1, Ordering::SeqCst);
    *value = number.to_string().into();
    Json(json!({"value": number, "version": version.to_string()})).into_response()
}

async fn invalidate(State(shelf): State<Arc<Shelf>>, Json(body): Json<Value>) -> Json<Value> {
    let is_meant = |key: &str| match (&body["key"], &body["prefix"], &body["all"]) {
        (Value::String(one), Value::Null, Value::Null) => key == one,
        (Value::Null, Value::String(prefix), Value::Null) => key.starts_with(prefix),
        (Value::Null, Value::Null, Value::Bool(true)) => true,
        _ => panic!("one of key, prefix, all: {body}"),
    };
    let mut values = shelf.values.lock().unwrap();
    let before = values.len();
    values.retain(|key, _| !is_meant(key));
    Json(json!({"invalidated": before - values.len(), "unanswered": []}))
}

async fn state(State(shelf): State<Arc<Shelf>>, Path(key): Path<String>) -> Json<Value> {
    let version = shelf.values.lock().unwrap().get(&key).map(|(_, version)| version.to_string());
    let lines = match &version {
        Some(version) => json!([
            {"peer": PEER, "state": "E", "version": version, "lease_ms": 1900, "expires_at": null}
        ]),
        None => json!([]),
    };
    let directory = match &version {
        Some(_) => json!({"state": "E/M", "owner": PEER, "sharers": []}),
        None => json!({"state": "I", "owner": null, "sharers": []}),
    };
    Json(
        json!({"key": key, "home": PEER, "version": version, "directory": directory, "lines": lines, "unanswered": []}),
    )
}

async fn stats(State(shelf): State<Arc<Shelf>>) -> Json<Value> {
    let entries = shelf.values.lock().unwrap().len();
    let messages = shelf.messages.load(Ordering::SeqCst);
    Json(json!({
        "protocol": "MOESI", "write_policy": "back", "unanswered": [],
        "nodes": [{
            "peer": PEER, "capacity": 10_000, "entries": entries, "bytes": 0,
            "lines": {"M": 0, "O": 0, "E": entries, "S": 0}, "hits": 3, "remote_hits": 1, "misses": 1, "misses_by_cause": {"cold": 1},
            "evictions": 0, "directory_evictions": 0, "transitions": {}, "dirty_lost": 0,
            "invalidations": {"sent": 0, "received": 0, "acknowledged": 0, "repeated": 0, "expired": 0, "missed": 0},
            "messages": {"get-s": messages}, "sent_bytes": 0, "stalls": {"get": {"count": 1, "total_us": 700, "max_us": 700}},
        }],
    }))
}
