//! The routes of the queues, over HTTP, against a cluster of the real program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the tests of the commands need more of it")]
mod dev_cluster;

use std::time::{Duration, Instant};

use dev_cluster::DevCluster;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header::HeaderValue};
use serde_json::{Value, json};

/// A node as an HTTP client sees it.
struct Api<'a> {
    cluster: &'a DevCluster,
    node: usize,
}

impl<'a> Api<'a> {
    fn of(cluster: &'a DevCluster, node: usize) -> Self {
        Self { cluster, node }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        reqwest::Client::new().request(method, format!("{}/v1/queues{path}", self.cluster.url(self.node)))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    /// The answer to a call that succeeds.
    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let response = self.request(method, path).json(&body).send().await.unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert!(status.is_success(), "{path}: {body}");
        body
    }

    async fn publish(&self, queue: &str, body: &str) -> Value {
        answer(self.post(&format!("/{queue}/messages")).body(body.to_owned()), 201).await
    }

    async fn receive(&self, queue: &str, options: Value) -> Vec<Value> {
        let received = self.call(Method::POST, &format!("/{queue}/receive"), options).await;
        received["messages"].as_array().unwrap().clone()
    }
}

async fn answer(request: RequestBuilder, status: u16) -> Value {
    let response = request.send().await.unwrap();
    let found = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(found, StatusCode::from_u16(status).unwrap(), "{body}");
    body
}

fn bodies(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["body"].as_str().unwrap()).collect()
}

/// Server-sent events as they come.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &"text/event-stream".parse().unwrap())
        );
        Self { response, text: String::new() }
    }

    /// The name, id and data of the next one.
    async fn next(&mut self) -> (String, u64, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
                let found = field("event").map(|name| {
                    (
                        name.to_owned(),
                        field("id").unwrap().parse().unwrap(),
                        serde_json::from_str(field("data").unwrap()).unwrap(),
                    )
                });
                self.text = rest.to_owned();
                match found {
                    Some(event) => return event,
                    None => continue,
                }
            }
            let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn is_silent_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.next()).await.is_err()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_comes_back_as_it_was_published() {
    let cluster = DevCluster::of(2);
    let (here, there) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    let published = answer(
        here.post("/a%2Fb/messages")
            .header("content-type", "application/x-thing; v=1")
            .header("x-message-id", HeaderValue::from_bytes("m/é 1".as_bytes()).unwrap())
            .header("x-priority", "9")
            .body(vec![0xff, 0x00]),
        201,
    )
    .await;
    let (partition, offset) = (published["partition"].as_u64().unwrap(), published["offset"].as_u64().unwrap());
    assert_eq!(published, json!({"id": "m/é 1", "partition": partition, "offset": offset, "duplicate": false}));
    let received = there.receive("a%2Fb", json!({})).await;
    let message = &received[0];
    let receipt = message["receipt"].as_str().unwrap();
    assert!(
        receipt.len() <= 256 && receipt.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.~".contains(&c)),
        "{receipt}"
    );
    let enqueued_at = message["enqueued_at"].as_str().unwrap();
    assert!(enqueued_at.starts_with("20") && enqueued_at.ends_with('Z') && enqueued_at.contains('T'), "{enqueued_at}");
    let expected = json!({
        "id": "m/é 1", "receipt": receipt, "body": "/wA=", "encoding": "base64", "content_type": "application/x-thing; v=1",
        "attributes": {}, "priority": 9, "deliveries": 1, "enqueued_at": enqueued_at,
    });
    assert_eq!(*message, expected);

    // A name for the call is a name for the message.
    let keyed = || here.post("/keyed/messages").header("idempotency-key", "k-1").body("x");
    let first = answer(keyed(), 201).await;
    let second = answer(keyed(), 201).await;
    assert_eq!((&first["id"], &first["duplicate"], &second["duplicate"]), (&json!("k-1"), &json!(false), &json!(true)));
    assert_eq!(first["offset"], second["offset"]);
    let made = there.publish("keyed", "y").await;
    assert!(made["id"].as_str().is_some_and(|id| !id.is_empty()), "{made}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_by_priority_then_in_order_and_not_before_their_delay() {
    let cluster = DevCluster::of(1);
    let api = Api::of(&cluster, 0);
    let batch = json!({"messages": [
        {"body": "late", "delay_ms": 4000, "priority": 9}, {"body": "low", "priority": 0}, {"body": "first"},
        {"body": "second"}, {"body": "aGlnaA==", "encoding": "base64", "priority": 9, "attributes": {"k": "v"}},
    ]});
    let began = Instant::now();
    let published = api.call(Method::POST, "/q/messages:batch", batch).await;
    assert_eq!(published["results"].as_array().unwrap().len(), 5);
    let peeked = api.call(Method::GET, "/q/peek?max=10", json!(null)).await;
    let peeked = peeked["messages"].as_array().unwrap();
    assert_eq!(bodies(peeked), ["high", "first", "second", "low"]);
    assert!(peeked[0].get("receipt").is_none_or(Value::is_null), "{peeked:?}");
    let received = api.receive("q", json!({"max": 10})).await;
    assert_eq!(bodies(&received), ["high", "first", "second", "low"]);
    assert_eq!(received[0]["attributes"], json!({"k": "v"}));
    let late = api.receive("q", json!({"wait_ms": 10_000})).await;
    assert_eq!(bodies(&late), ["late"]);
    assert!(began.elapsed() >= Duration::from_millis(4000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_is_not_acknowledged_comes_again_when_its_visibility_is_over() {
    let cluster = DevCluster::of(2);
    let (here, there) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    here.publish("q", "x").await;
    let first = here.receive("q", json!({"visibility_ms": 700})).await;
    let again = there.receive("q", json!({"wait_ms": 20_000})).await;
    assert_eq!((&again[0]["body"], &again[0]["deliveries"]), (&json!("x"), &json!(2)));
    let receipt = |messages: &[Value]| messages[0]["receipt"].clone();
    let late = there.call(Method::POST, "/q/ack", json!({"receipts": [receipt(&first)]})).await;
    let failed = json!([{"receipt": receipt(&first), "type": "receipt-expired"}]);
    assert_eq!(late, json!({"done": [], "failed": failed}));
    let in_time = here.call(Method::POST, "/q/ack", json!({"receipts": [receipt(&again)]})).await;
    assert_eq!(in_time, json!({"done": [receipt(&again)], "failed": []}));
    assert_eq!(there.receive("q", json!({})).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_says_when_to_come_back_and_takes_a_batch_whole_or_not() {
    let cluster = DevCluster::of(1);
    let api = Api::of(&cluster, 0);
    api.call(Method::PUT, "/small", json!({"max_messages": 2, "max_bytes": 10})).await;
    api.publish("small", "one").await;
    let batch = json!({"messages": [{"body": "two"}, {"body": "three"}]});
    for refused in
        [api.post("/small/messages:batch").json(&batch), api.post("/small/messages").body("more than ten bytes")]
    {
        let response = refused.send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["retry-after"]),
            (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
        );
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["type"], "queue-full");
    }
    assert_eq!(api.call(Method::GET, "/small", json!(null)).await["depth"], 1);
    // The limit of one message counts in a batch too, decoded.
    let large = json!({"messages": [{"body": "x"}, {"body": "x".repeat(1024 * 1024 + 1)}]});
    let problem = answer(api.post("/other/messages:batch").json(&large), 413).await;
    assert_eq!((&problem["type"], &problem["limit"]), (&json!("payload-too-large"), &json!(1024 * 1024)));
    assert_eq!(answer(api.request(Method::GET, "/other"), 404).await["type"], "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_has_no_more_than_its_prefetch_and_gets_more_for_each_ack() {
    let cluster = DevCluster::of(2);
    let (here, there) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    for number in 0..3 {
        here.publish("q", &number.to_string()).await;
    }
    let mut events = Events::open(there.request(Method::GET, "/q/consume?prefetch=2&visibility=10m")).await;
    let (name, first_id, first) = events.next().await;
    let (_, second_id, second) = events.next().await;
    assert_eq!((name.as_str(), &first["body"], &second["body"]), ("message", &json!("0"), &json!("1")));
    assert!(first_id < second_id);
    assert!(events.is_silent_for(Duration::from_millis(500)).await);
    here.call(Method::POST, "/q/ack", json!({"receipts": [first["receipt"]]})).await;
    assert_eq!(events.next().await.2["body"], "2");
    here.call(Method::POST, "/q/ack", json!({"receipts": [second["receipt"]]})).await;
    here.publish("q", "3").await;
    assert_eq!(events.next().await.2["body"], "3");
    // A queue that goes is the end of it.
    assert_eq!(here.request(Method::DELETE, "/q").send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let (name, _, problem) = events.next().await;
    assert_eq!((name.as_str(), &problem["type"]), ("error", &json!("not-found")));
    let problem = answer(there.request(Method::GET, "/q/consume"), 404).await;
    assert_eq!(problem["type"], "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_gets_what_comes_and_takes_nothing_when_it_hangs_up() {
    let cluster = DevCluster::of(2);
    let (here, there) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    here.call(Method::PUT, "/q", json!({})).await;
    let waiting = there.post("/q/receive").json(&json!({"wait_ms": 30_000}));
    let waiting = tokio::spawn(async move { answer(waiting, 200).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    here.publish("q", "awaited").await;
    assert_eq!(waiting.await.unwrap()["messages"][0]["body"], "awaited");

    let hangs_up = there.post("/q/receive").json(&json!({"wait_ms": 30_000})).timeout(Duration::from_millis(500));
    assert!(hangs_up.send().await.unwrap_err().is_timeout());
    here.publish("q", "for somebody else").await;
    let received = here.receive("q", json!({"wait_ms": 10_000})).await;
    assert_eq!((&received[0]["body"], &received[0]["deliveries"]), (&json!("for somebody else"), &json!(1)));

    let began = Instant::now();
    assert_eq!(there.receive("q", json!({"wait_ms": 700})).await, Vec::<Value>::new());
    assert!(began.elapsed() >= Duration::from_millis(700));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_listed_page_by_page_in_the_order_of_their_names() {
    let cluster = DevCluster::of(2);
    let (here, there) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    for name in ["zeta", "alpha", "m%2F1"] {
        here.publish(name, "x").await;
    }
    let (mut names, mut path) = (Vec::new(), "?limit=1".to_owned());
    loop {
        let page = there.call(Method::GET, &path, json!(null)).await;
        let queues = page["queues"].as_array().unwrap();
        names.extend(queues.iter().map(|queue| queue["queue"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        assert_eq!(queues.len(), 1);
        path = format!("?limit=1&after={}", next.replace('/', "%2F"));
    }
    assert_eq!(names, ["alpha", "first", "m/1", "zeta"]);
    let one = there.call(Method::GET, "/m%2F1", json!(null)).await;
    for member in [
        "queue",
        "config",
        "depth",
        "in_flight",
        "delayed",
        "oldest_age_ms",
        "redelivered",
        "dead_lettered",
        "bytes",
        "publish_rate",
        "deliver_rate",
        "ack_rate",
        "partition",
        "primary",
        "replicas",
        "in_sync",
        "epoch",
        "journal",
    ] {
        assert!(one.get(member).is_some(), "{member} in {one}");
    }
}
