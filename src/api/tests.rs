//! The edge over real sockets: what it refuses, and how. Nothing here needs a cluster: what passes
//! the edge meets a node that has none.

mod caches;
mod dashboard;
mod queues;

use std::{net::SocketAddr, path::Path, sync::Arc};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{problem::PROBLEM_JSON, *};
use crate::config::{Config, Switch};

/// A node that waits for a cluster: whatever reaches its lock service is answered `no-quorum`.
async fn waiting_node(data_dir: &Path) -> Node {
    let config = Config {
        data_dir: data_dir.to_owned(),
        listen_addrs: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        mdns: Switch::Off,
        ..Config::default()
    };
    Node::start(config).await.unwrap()
}

/// The slug of a request that has passed the edge.
const PASSED: &str = "no-quorum";

struct Edge {
    addr: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    _data_dir: TempDir,
}

async fn edge(settings: ApiSettings) -> Edge {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let data_dir = TempDir::new().unwrap();
    let node = waiting_node(data_dir.path()).await;
    let served = tokio::spawn(serve(listener, node, settings, shutdown.clone()));
    Edge { addr, shutdown, served, _data_dir: data_dir }
}

async fn open_edge() -> Edge {
    edge(ApiSettings::default()).await
}

impl Edge {
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        reqwest::Client::new().request(method, format!("http://{}{path}", self.addr))
    }

    async fn post(&self, path: &str, body: &str) -> Refused {
        refused(self.request(Method::POST, path).body(body.to_owned())).await
    }

    async fn put(&self, path: &str, body: &str) -> Refused {
        refused(self.request(Method::PUT, path).body(body.to_owned())).await
    }

    async fn get(&self, path: &str) -> Refused {
        refused(self.request(Method::GET, path)).await
    }

    /// Sends bytes as they are and reads what comes back until the end.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

#[derive(Debug)]
struct Refused {
    headers: reqwest::header::HeaderMap,
    problem: Value,
}

impl Refused {
    fn slug(&self) -> &str {
        self.problem["type"].as_str().unwrap()
    }

    #[track_caller]
    fn is(&self, slug: &str, field: &str) {
        assert_eq!((self.slug(), self.problem["field"].as_str().unwrap_or("")), (slug, field), "{self:?}");
    }
}

/// Sends a request that is refused, and checks that the refusal is a problem document.
async fn refused(request: reqwest::RequestBuilder) -> Refused {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    assert_eq!(headers["content-type"], "application/problem+json");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status.as_u16());
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
    }
    Refused { headers, problem }
}

#[tokio::test]
async fn bodies_are_checked_field_by_field() {
    let edge = open_edge().await;
    let cases = [
        ("/v1/sessions", r#"{"ttl_ms":-1}"#, "ttl_ms"),
        ("/v1/sessions", r#"{"ttl_ms":1e99}"#, "ttl_ms"),
        ("/v1/sessions", r#"{"ttl_ms":"30s"}"#, "ttl_ms"),
        ("/v1/sessions", r#"{"ttl":5}"#, "ttl"),
        ("/v1/sessions", r#"{"owner":5}"#, "owner"),
        ("/v1/sessions", "[]", "body"),
        ("/v1/sessions", "{", "body"),
        ("/v1/locks/a/acquire", r#"{"mode":"Exclusive"}"#, "mode"),
        ("/v1/locks/a/acquire", r#"{"session":""}"#, "session"),
        ("/v1/locks/a/acquire", r#"{"session":7}"#, "session"),
        ("/v1/locks/a/acquire", r#"{"wait_ms":18446744073709551616}"#, "wait_ms"),
        ("/v1/locks/a/acquire", r#"{"lock":"a"}"#, "lock"),
        ("/v1/locks/a/release", "{}", "session"),
        ("/v1/locks/a/release", "", "session"),
        ("/v1/locks/a/downgrade", r#"{"session":"s","mode":"shared"}"#, "mode"),
        ("/v1/locks:acquire", "{}", "locks"),
        ("/v1/locks:acquire", r#"{"locks":{}}"#, "locks"),
        ("/v1/locks:acquire", r#"{"locks":["a"]}"#, "locks[0]"),
        ("/v1/locks:acquire", r#"{"locks":[{"name":"a"},{"name":".."}]}"#, "locks[1].name"),
        ("/v1/locks:acquire", r#"{"locks":[{"name":"a","mode":1}]}"#, "locks[0].mode"),
        ("/v1/locks:acquire", r#"{"locks":[{"lock":"a"}]}"#, "locks[0].name"),
        ("/v1/sessions/s/keepalive", r#"{"ttl_ms":5}"#, "ttl_ms"),
    ];
    for (path, body, field) in cases {
        edge.post(path, body).await.is("bad-request", field);
    }
}

#[tokio::test]
async fn names_are_decoded_and_checked() {
    let edge = open_edge().await;
    edge.post(&format!("/v1/locks/{}/acquire", "n".repeat(513)), "").await.is("bad-request", "name");
    for malformed in ["%ff", "%", "%2", "%zz", "a%"] {
        edge.post(&format!("/v1/locks/{malformed}/acquire"), "").await.is("bad-request", "name");
    }
    edge.post("/v1/locks//acquire", "").await.is("bad-request", "name");
    edge.post("/v1/sessions/a%2Fb/keepalive", "").await.is("bad-request", "id");
    edge.post("/v1/cluster/members/nobody/remove", "").await.is("bad-request", "peer");
    edge.post("/v1/cluster/members/any/remove", "").await.is("bad-request", "peer");
    // Clients resolve dots away, so this one speaks for itself.
    for dots in ["..", "%2e%2E", "."] {
        let request = format!("GET /v1/locks/{dots} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(edge.raw(request.as_bytes()).await.contains("'.' and '..' are not names"), "{dots}");
    }
    // A slash and every byte of a name of 512 bytes reach the service, which is idle here.
    let longest = "%2F".repeat(512);
    edge.post(&format!("/v1/locks/{longest}/acquire"), "").await.is(PASSED, "");
    edge.post("/v1/locks/a/b/acquire", "").await.is("not-found", "");
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let edge = open_edge().await;
    let long = format!("/v1/{}", "a".repeat(50_000));
    for path in ["/v2", "/v1", "/v1/cluster/snapshots", "/v1/locks%3Aacquire", &long] {
        let refusal = refused(edge.request(Method::GET, path)).await;
        refusal.is("not-found", "");
        assert!(refusal.problem["detail"].as_str().unwrap().len() < 300, "{refusal:?}");
    }
    let wrong = refused(edge.request(Method::PUT, "/v1/sessions")).await;
    wrong.is("method-not-allowed", "");
    let allowed = wrong.headers["allow"].to_str().unwrap();
    assert!(allowed.contains("POST") && allowed.contains("GET"), "{allowed}");
    refused(edge.request(Method::DELETE, "/healthz")).await.is("method-not-allowed", "");
}

#[tokio::test]
async fn queries_are_checked() {
    let edge = open_edge().await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=18446744073709551616", "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=..", "after"),
        ("lmit=1", "lmit"),
        ("prefix=%ff", "query"),
    ] {
        refused(edge.request(Method::GET, &format!("/v1/locks?{query}"))).await.is("bad-request", field);
    }
    refused(edge.request(Method::GET, &format!("/v1/locks?after={}", "a".repeat(513))))
        .await
        .is("bad-request", "after");
    refused(edge.request(Method::GET, "/v1/sessions?after=a%20b")).await.is("bad-request", "after");
    refused(edge.request(Method::GET, "/v1/locks?after=")).await.is(PASSED, "");
    refused(edge.request(Method::GET, "/v1/sessions?prefix=a")).await.is("bad-request", "prefix");
    edge.post("/v1/locks/a/acquire?wait_ms=5", "").await.is("bad-request", "wait_ms");
    refused(edge.request(Method::GET, "/v1/locks?limit=1000&prefix=a%2Fb&after=a")).await.is(PASSED, "");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_refusal_is_read() {
    let edge = open_edge().await;
    let huge = "x".repeat(8 * 1024 * 1024);
    let refusal = edge.post("/v1/sessions", &huge).await;
    refusal.is("payload-too-large", "");
    assert_eq!(refusal.problem["limit"], MAX_JSON_BYTES);
    let chunks = futures::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 65_536])));
    let chunked = edge.request(Method::POST, "/v1/sessions").body(reqwest::Body::wrap_stream(chunks));
    refused(chunked).await.is("payload-too-large", "");
}

#[tokio::test]
async fn content_types_other_than_json_are_refused() {
    let edge = open_edge().await;
    let send = |kind: &'static str| {
        refused(edge.request(Method::POST, "/v1/sessions").header("content-type", kind).body("{}"))
    };
    for bad in ["text/plain", "multipart/form-data; boundary=x", "application/xml", "\u{e9}"] {
        send(bad).await.is("bad-request", "content-type");
    }
    for good in ["application/json; charset=utf-8", "application/JSON", "application/x-www-form-urlencoded"] {
        send(good).await.is(PASSED, "");
    }
}

#[tokio::test]
async fn idempotency_keys_are_visible_characters() {
    let edge = open_edge().await;
    let send = |key: String| refused(edge.request(Method::POST, "/v1/sessions").header("idempotency-key", key));
    for bad in [String::new(), "a b".to_owned(), "k".repeat(256), "ключ".to_owned()] {
        send(bad).await.is("bad-request", "Idempotency-Key");
    }
    send("k".repeat(255)).await.is(PASSED, "");
    for read in
        ["/v1/locks", "/v1/locks/a", "/v1/sessions", "/v1/node", "/v1/cluster", "/v1/events", "/v1/locks/a/watch"]
    {
        let read = edge.request(Method::GET, read).header("idempotency-key", "k");
        refused(read).await.is("bad-request", "Idempotency-Key");
    }
}

#[tokio::test]
async fn the_token_guards_v1_and_nothing_else() {
    let edge = edge(ApiSettings { token: Some(Secret::new("s3cret")), ..ApiSettings::default() }).await;
    let with = |value: &'static str| refused(edge.request(Method::GET, "/v1/locks").header("authorization", value));
    for bad in ["Bearer s3creT", "Bearer s3cre", "Bearer ", "Basic s3cret", "s3cret", "Bearer s3cret2"] {
        let refusal = with(bad).await;
        refusal.is("unauthorized", "");
        assert_eq!(refusal.headers["www-authenticate"], "Bearer");
    }
    with("Bearer s3cret").await.is(PASSED, "");
    refused(edge.request(Method::GET, "/v1/nothing")).await.is("unauthorized", "");
    for open in ["/healthz", "/metrics", "/openapi.json"] {
        assert_eq!(edge.request(Method::GET, open).send().await.unwrap().status(), StatusCode::OK, "{open}");
    }
}

#[tokio::test]
async fn pages_of_another_origin_are_refused() {
    let edge = open_edge().await;
    let with = |origin: String| refused(edge.request(Method::GET, "/v1/locks").header("origin", origin));
    for foreign in ["null", "http://example.org", "https://localhost", ""] {
        with(foreign.to_owned()).await.is("forbidden", "");
    }
    with(format!("https://{}", edge.addr)).await.is("forbidden", "");
    with(format!("http://{}", edge.addr)).await.is(PASSED, "");
}

#[tokio::test]
async fn the_description_lists_every_route_and_every_reference_resolves() {
    let edge = open_edge().await;
    let document: Value = edge.request(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
    let mut described = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        described.extend(item.as_object().unwrap().keys().map(|method| format!("{method} {path}")));
    }
    described.sort();
    let mut expected = [
        "post /v1/sessions",
        "get /v1/sessions",
        "post /v1/sessions/{id}/keepalive",
        "delete /v1/sessions/{id}",
        "post /v1/locks/{name}/acquire",
        "post /v1/locks/{name}/downgrade",
        "post /v1/locks/{name}/release",
        "post /v1/locks:acquire",
        "get /v1/locks",
        "get /v1/locks/{name}",
        "delete /v1/locks/{name}",
        "get /v1/locks/{name}/watch",
        "put /v1/queues/{q}",
        "get /v1/queues/{q}",
        "delete /v1/queues/{q}",
        "post /v1/queues/{q}/messages",
        "post /v1/queues/{q}/messages:batch",
        "post /v1/queues/{q}/receive",
        "get /v1/queues/{q}/consume",
        "post /v1/queues/{q}/ack",
        "post /v1/queues/{q}/nack",
        "post /v1/queues/{q}/extend",
        "get /v1/queues/{q}/peek",
        "post /v1/queues/{q}/purge",
        "post /v1/queues/{q}/redrive",
        "get /v1/queues",
        "post /v1/queues:recover",
        "get /v1/cache/{key}",
        "put /v1/cache/{key}",
        "delete /v1/cache/{key}",
        "post /v1/cache/{key}/increment",
        "get /v1/cache/{key}/state",
        "post /v1/cache:invalidate",
        "get /v1/cache",
        "get /v1/node",
        "get /v1/node/logs",
        "get /v1/node/config",
        "get /v1/cluster/members/{peer}/node",
        "get /v1/cluster/members/{peer}/logs",
        "get /v1/cluster",
        "get /v1/events",
        "post /v1/cluster/members/{peer}/remove",
        "post /v1/cluster/members/{peer}/admit",
        "post /v1/cluster/members/{peer}/leave",
        "post /v1/cluster/members/{peer}/transfer-leader",
        "get /v1/cluster/snapshot",
        "put /v1/cluster/snapshot",
        "get /",
        "get /healthz",
        "get /readyz",
        "get /metrics",
        "get /openapi.json",
    ];
    expected.sort();
    assert_eq!(described, expected);
    let takes_key = |path: &str, method: &str| {
        let parameters = document["paths"][path][method]["parameters"].as_array();
        parameters.into_iter().flatten().filter(|parameter| parameter["name"] == "Idempotency-Key").count()
    };
    assert_eq!(takes_key("/v1/sessions", "post"), 1);
    assert_eq!(takes_key("/v1/queues/{q}/messages", "post"), 1);
    assert_eq!(takes_key("/v1/queues/{q}/ack", "post"), 0);
    assert_eq!((takes_key("/v1/cache/{key}", "put"), takes_key("/v1/cache:invalidate", "post")), (0, 0));
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in document.to_string().split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name} is not described");
    }
    assert_eq!(document["components"]["securitySchemes"]["bearer"], json!({"type": "http", "scheme": "bearer"}));
}

#[tokio::test]
async fn requests_are_counted_by_the_template_of_their_route() {
    let metrics = Metrics::new();
    let edge = edge(ApiSettings { metrics: metrics.clone(), ..ApiSettings::default() }).await;
    edge.post("/v1/locks/a%2Fb/acquire", "{").await;
    edge.post("/nowhere", "").await;
    let method = Method::from_bytes(b"BREW").unwrap();
    refused(edge.request(method, "/healthz")).await;
    let text = metrics.encode();
    for (method, route, status) in
        [("POST", "/v1/locks/{name}/acquire", 400), ("POST", "unmatched", 404), ("other", "/healthz", 405)]
    {
        let line = format!(r#"{{method="{method}",route="{route}",status="{status}"}} 1"#);
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_node_tells_its_settings_without_secrets_and_what_it_logged() {
    let sources = crate::config::Sources::default().with(crate::config::Source::EnvFile, "API_TOKEN", "s3cret");
    let config = crate::config::Config::resolve(&sources).unwrap();
    let edge = edge(ApiSettings { config, ..ApiSettings::default() }).await;
    let get = async |path: &str| -> Value {
        let answer = edge.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    };
    let shown = get("/v1/node/config").await;
    let settings = shown["settings"].as_array().unwrap();
    let token = settings.iter().find(|setting| setting["name"] == "API_TOKEN").unwrap();
    assert_eq!((&token["value"], &token["source"]), (&json!("<redacted>"), &json!(".env")));
    assert!(!shown.to_string().contains("s3cret"), "{shown}");
    for logs in ["/v1/node/logs", "/v1/cluster/members/self/logs"] {
        let logs = get(logs).await;
        assert!(logs["lines"].is_array() && logs["forgotten"].is_u64(), "{logs}");
    }
    let me = get("/v1/node").await["peer_id"].clone();
    assert_eq!(get("/v1/cluster/members/self/node").await["peer_id"], me);
    let stranger = crate::ids::NodeId::from_bytes([9; 32]);
    edge.get(&format!("/v1/cluster/members/{stranger}/logs")).await.is("not-found", "");
    edge.get("/v1/cluster/members/any/logs").await.is("bad-request", "peer");
    edge.get("/v1/cluster/members/nobody/node").await.is("bad-request", "peer");
}

#[tokio::test]
async fn a_handler_that_panics_costs_one_answer_only() {
    let router =
        Router::<ApiState>::new().route("/boom", axum::routing::get(async || -> &'static str { panic!("no") }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let data_dir = TempDir::new().unwrap();
    let state = ApiState(Arc::new(Api {
        node: waiting_node(data_dir.path()).await,
        token: None,
        config: Vec::new(),
        max_json_bytes: 1,
        max_value_bytes: 1,
        max_batch_bytes: 1,
        room: extract::BodyRoom::of(1),
        metrics: Metrics::new(),
        templates: extract::RouteTemplates::default(),
        description: Bytes::new(),
        shutdown: CancellationToken::new(),
    }));
    let app = router.layer(middleware::from_fn_with_state(state.clone(), gate::gate)).with_state(state);
    tokio::spawn(async move { axum::serve(listener, app).await });
    for _ in 0..2 {
        refused(reqwest::Client::new().get(format!("http://{addr}/boom"))).await.is("internal", "");
    }
}

#[tokio::test]
async fn garbage_is_answered_with_400_and_the_next_client_is_served() {
    let edge = open_edge().await;
    assert!(edge.raw(b"\x00\x01\x02 garbage\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert_eq!(edge.request(Method::GET, "/healthz").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn connections_over_the_limit_are_refused_until_one_ends() {
    let metrics = Metrics::new();
    let settings = ApiSettings { max_connections: 2, metrics: metrics.clone(), ..ApiSettings::default() };
    let edge = edge(settings).await;
    // A served request says that both connections have been accepted.
    let first = TcpStream::connect(edge.addr).await.unwrap();
    let second = reqwest::Client::new();
    let healthz = format!("http://{}/healthz", edge.addr);
    assert_eq!(second.get(&healthz).send().await.unwrap().status(), StatusCode::OK);
    let refusal = refused(edge.request(Method::GET, "/v1/locks")).await;
    refusal.is("unavailable", "");
    assert_eq!(
        (&refusal.problem["outcome"], &refusal.headers["retry-after"]),
        (&json!("not-applied"), &"1".parse().unwrap())
    );
    assert!(metrics.encode().contains(r#"syncmesh_bound_hits_total{bound="api.connections"} 1"#));
    drop((first, second));
    let served = async {
        while !edge.request(Method::GET, "/healthz").send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), served).await.expect("there is room again");
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_a_problem_too() {
    let edge = open_edge().await;
    let long_target = format!("GET /v1/locks/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let many_fields: String = (0..300).map(|nth| format!("x-{nth}: y\r\n")).collect();
    let many_fields = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many_fields}\r\n");
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".as_slice(), 400),
        (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 400),
        (b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (long_target.as_bytes(), 414),
        (many_fields.as_bytes(), 431),
    ] {
        let answer = edge.raw(bytes).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains(PROBLEM_JSON), "{answer}");
        let problem: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&problem["type"], &problem["status"]), (&json!("bad-request"), &json!(status)), "{answer}");
    }
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let edge = open_edge().await;
    for (head, status) in [
        ("GET /healthz HTTP/1.1\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400),
        ("GET /healthz HTTP/1.0\r\n", 200),
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n", 200),
    ] {
        let answer = edge.raw(format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
        assert!(answer.split(' ').nth(1) == Some(&status.to_string()), "{head}: {answer}");
    }
}

#[tokio::test]
async fn a_stream_of_events_that_is_reset_says_from_where_it_can_be_resumed() {
    let edge = open_edge().await;
    let events = |last: String| edge.request(Method::GET, "/v1/events").header("last-event-id", last).send();
    let mut ids = Vec::new();
    for never_ours in ["garbage", "-1", "", "5", "99999999999999999999"] {
        let mut stream = events(never_ours.to_owned()).await.unwrap();
        let first = stream.chunk().await.unwrap().unwrap();
        let text = std::str::from_utf8(&first).unwrap();
        assert!(text.starts_with("event: reset\n"), "{never_ours}: {text}");
        ids.push(text.split("id: ").nth(1).unwrap().lines().next().unwrap().to_owned());
    }
    assert!(ids.iter().all(|id| *id == ids[0] && id.parse::<u64>().unwrap() < 1 << 53), "{ids:?}");
    let resumed = events(ids[0].clone()).await.unwrap();
    edge.shutdown.cancel();
    assert_eq!(resumed.text().await.unwrap(), "", "nothing happened since, and nothing was missed");
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_ends() {
    let edge = open_edge().await;
    let client = reqwest::Client::new();
    assert!(client.get(format!("http://{}/healthz", edge.addr)).send().await.unwrap().status().is_success());
    edge.shutdown.cancel();
    edge.served.await.unwrap().unwrap();
    assert!(client.get(format!("http://{}/healthz", edge.addr)).send().await.is_err());
}
