//! The routes of the cache, over HTTP, against a cluster of the real program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the tests of the commands need more of it")]
mod dev_cluster;

use dev_cluster::{DevCluster, eventually};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

/// A cluster whose cache has begun at every node, and which a busy machine does not cost its leases.
fn cluster(nodes: usize, protocol: &str) -> DevCluster {
    let patient = ["--failure-timeout", "8s", "--cache-lease", "10s", "--cache-protocol", protocol];
    let cluster = DevCluster::with_settings(nodes, &patient);
    for node in 0..nodes {
        eventually("a value is stored", || cluster.run(node, &["cache", "put", "first", "x"]).status.success());
    }
    cluster
}

fn request(cluster: &DevCluster, node: usize, method: Method, path: &str) -> RequestBuilder {
    reqwest::Client::new().request(method, format!("{}/v1/cache{path}", cluster.url(node)))
}

/// The version that an answer tells.
#[track_caller]
fn tag(response: &Response) -> String {
    let tag = response.headers()["etag"].to_str().unwrap();
    assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    tag.to_owned()
}

async fn put(cluster: &DevCluster, node: usize, path: &str, body: impl Into<reqwest::Body>) -> String {
    let response = request(cluster, node, Method::PUT, path).body(body).send().await.unwrap();
    let (status, tag) = (response.status(), tag(&response));
    assert_eq!((status, response.bytes().await.unwrap().len()), (StatusCode::OK, 0));
    tag
}

async fn get(cluster: &DevCluster, node: usize, path: &str) -> Response {
    request(cluster, node, Method::GET, path).send().await.unwrap()
}

async fn text(cluster: &DevCluster, node: usize, path: &str) -> String {
    let response = get(cluster, node, path).await;
    assert_eq!(response.status(), StatusCode::OK, "{path} at {node}");
    response.text().await.unwrap()
}

async fn json_of(request: RequestBuilder, status: u16) -> Value {
    let response = request.send().await.unwrap();
    let found = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(found, StatusCode::from_u16(status).unwrap(), "{body}");
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reads_what_any_node_has_written_and_the_second_time_from_its_memory() {
    for protocol in ["MESI", "MOSI", "MOESI"] {
        let cluster = cluster(3, protocol);
        for round in 0..30 {
            let value = format!("{protocol} {round}");
            let version = put(&cluster, round % 3, "/shared%2Fkey", value.clone()).await;
            for node in 0..3 {
                let read = get(&cluster, node, "/shared%2Fkey").await;
                let state = read.headers()["x-cache-state"].to_str().unwrap().to_owned();
                assert!(["M", "O", "E", "S"].contains(&state.as_str()), "{state}");
                assert!(["hit", "remote"].contains(&read.headers()["x-cache"].to_str().unwrap()));
                assert_eq!(
                    (tag(&read), read.headers()["content-type"].to_str().unwrap()),
                    (version.clone(), "application/octet-stream")
                );
                assert_eq!(read.text().await.unwrap(), value, "{protocol}, node {node}");
            }
        }
        let mut hits = 0;
        for node in [0, 1, 2].repeat(10) {
            hits += usize::from(get(&cluster, node, "/shared%2Fkey").await.headers()["x-cache"] == "hit");
        }
        assert!(hits > 20, "{protocol}: {hits} of 30");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_may_be_anything_and_is_stored_on_the_condition_that_it_names() {
    let cluster = cluster(2, "MESI");
    let binary = [0xff, 0x00, b'\n'];
    put(&cluster, 0, "/binary", binary.to_vec()).await;
    put(&cluster, 0, "/empty", "").await;
    assert_eq!(get(&cluster, 1, "/binary").await.bytes().await.unwrap(), &binary[..]);
    assert_eq!(text(&cluster, 1, "/empty").await, "");

    let refused = |path: &'static str, name: &'static str, value: String| {
        json_of(request(&cluster, 1, Method::PUT, path).header(name, value).body("other"), 412)
    };
    let problem = refused("/k", "if-match", "\"no-such-version\"".into()).await;
    assert_eq!((&problem["type"], problem.get("version")), (&json!("version-mismatch"), Some(&Value::Null)));
    let created = request(&cluster, 0, Method::PUT, "/k").header("if-none-match", "*").body("one");
    let first = tag(&created.send().await.unwrap());
    let bare = |tag: &str| json!(tag.trim_matches('"'));
    assert_eq!(refused("/k", "if-none-match", "*".into()).await["version"], bare(&first));
    assert_eq!(refused("/k", "if-match", "\"no-such-version\"".into()).await["version"], bare(&first));
    let changed = request(&cluster, 1, Method::PUT, "/k").header("if-match", &first).body("two").send().await.unwrap();
    let second = tag(&changed);
    assert_ne!(first, second);
    assert_eq!(refused("/k", "if-match", first).await["version"], bare(&second));
    assert_eq!(text(&cluster, 0, "/k").await, "two");

    let too_long = request(&cluster, 0, Method::PUT, "/k").body(vec![b'x'; 1024 * 1024 + 1]);
    assert_eq!(json_of(too_long, 413).await["limit"], 1024 * 1024);
    for _ in 0..2 {
        let deleted = request(&cluster, 1, Method::DELETE, "/k").send().await.unwrap();
        assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    }
    assert_eq!(json_of(request(&cluster, 0, Method::GET, "/k"), 404).await["type"], "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_absent_when_its_time_is_over() {
    let cluster = cluster(2, "MOESI");
    put(&cluster, 0, "/long?ttl=365d", "x").await;
    put(&cluster, 0, "/short?ttl=4s", "x").await;
    assert_eq!(text(&cluster, 1, "/short").await, "x");
    let state = json_of(request(&cluster, 1, Method::GET, "/short/state"), 200).await;
    assert!(state["lines"].as_array().unwrap().iter().any(|line| line["expires_at"].is_string()), "{state}");
    for node in 0..2 {
        eventually("the value has expired", || cluster.run(node, &["cache", "get", "short"]).status.code() == Some(3));
    }
    assert_eq!(text(&cluster, 1, "/long").await, "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_at_all_nodes_at_once_are_all_counted() {
    let cluster = cluster(3, "MESI");
    let increment = |node: usize, path: &str, body: Value| request(&cluster, node, Method::POST, path).json(&body);
    let all = (0..45).map(|number| json_of(increment(number % 3, "/n/increment", json!({})), 200));
    let mut values: Vec<i64> =
        futures::future::join_all(all).await.iter().map(|counted| counted["value"].as_i64().unwrap()).collect();
    values.sort_unstable();
    assert_eq!(values, (1..=45).collect::<Vec<_>>());
    let less = json_of(increment(1, "/n/increment", json!({"by": -50})), 200).await;
    assert_eq!(less["value"], -5);
    assert_eq!(text(&cluster, 2, "/n").await, "-5");
    assert_eq!(less["version"], json!(tag(&get(&cluster, 2, "/n").await).trim_matches('"')));
    for (value, by) in [("text", 1), ("9223372036854775807", 1), ("-9223372036854775808", -1)] {
        put(&cluster, 0, "/n", value).await;
        let problem = json_of(increment(1, "/n/increment", json!({"by": by})), 400).await;
        assert_eq!(problem["type"], "bad-request", "{value}");
        assert_eq!(text(&cluster, 2, "/n").await, value);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_invalidated_is_gone_at_every_node() {
    let cluster = cluster(3, "MOSI");
    let invalidate = |body: Value| {
        let url = format!("{}/v1/cache:invalidate", cluster.url(2));
        json_of(reqwest::Client::new().post(url).json(&body), 200)
    };
    for key in ["a%2F1", "a%2F2", "b"] {
        put(&cluster, 0, &format!("/{key}"), "x").await;
        for node in 0..3 {
            text(&cluster, node, &format!("/{key}")).await;
        }
    }
    assert_eq!(invalidate(json!({"prefix": "a/"})).await, json!({"invalidated": 2, "unanswered": []}));
    for node in 0..3 {
        for key in ["/a%2F1", "/a%2F2"] {
            assert_eq!(get(&cluster, node, key).await.status(), StatusCode::NOT_FOUND);
        }
        assert_eq!(text(&cluster, node, "/b").await, "x");
    }
    assert_eq!(invalidate(json!({"key": "b"})).await["invalidated"], 1);
    assert_eq!(invalidate(json!({"key": "b"})).await["invalidated"], 0);
    put(&cluster, 1, "/b", "again").await;
    invalidate(json!({"all": true})).await;
    assert_eq!(get(&cluster, 0, "/b").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_states_of_a_key_and_the_figures_of_the_caches_can_be_seen_at_any_node() {
    let cluster = cluster(2, "MESI");
    let state =
        |node: usize, key: &'static str| json_of(request(&cluster, node, Method::GET, &format!("/{key}/state")), 200);
    let unknown = state(0, "unknown").await;
    assert_eq!(
        (&unknown["key"], &unknown["version"], &unknown["lines"]),
        (&json!("unknown"), &Value::Null, &json!([]))
    );
    assert_eq!(unknown["directory"], json!({"state": "I", "owner": null, "sharers": []}));

    put(&cluster, 0, "/k", "x").await;
    let written = state(1, "k").await;
    assert_eq!(
        (&written["directory"]["state"], written["lines"].as_array().unwrap().len()),
        (&json!("E/M"), 1),
        "{written}"
    );
    assert_eq!(
        (&written["lines"][0]["state"], &written["lines"][0]["peer"]),
        (&json!("M"), &written["directory"]["owner"])
    );
    text(&cluster, 1, "/k").await;
    let shared = state(0, "k").await;
    let lines = shared["lines"].as_array().unwrap();
    assert_eq!((&shared["directory"]["state"], lines.len()), (&json!("S"), 2), "{shared}");
    for line in lines {
        assert_eq!((&line["state"], &line["version"]), (&json!("S"), &shared["version"]), "{shared}");
        assert!(
            line["lease_ms"].as_u64().unwrap() > 0
                && shared["directory"]["sharers"].as_array().unwrap().contains(&line["peer"])
        );
    }

    text(&cluster, 1, "/k").await;
    let stats = json_of(request(&cluster, 0, Method::GET, ""), 200).await;
    assert_eq!(
        (&stats["protocol"], &stats["write_policy"], &stats["unanswered"]),
        (&json!("MESI"), &json!("back"), &json!([]))
    );
    let nodes = stats["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2, "{stats}");
    let sum = |member: &str| nodes.iter().map(|node| node[member].as_u64().unwrap()).sum::<u64>();
    assert!(sum("hits") > 0 && sum("misses") > 0 && sum("entries") > 0, "{stats}");
    assert!(nodes.iter().any(|node| !node["messages"].as_object().unwrap().is_empty()), "{stats}");

    let at = |path: &str| reqwest::Client::new().get(format!("{}{path}", cluster.url(1)));
    let node = json_of(at("/v1/node"), 200).await;
    assert_eq!((&node["cache"]["protocol"], &node["cache"]["capacity"]), (&json!("MESI"), &json!(10_000)), "{node}");
    let view = json_of(at("/v1/cluster"), 200).await;
    assert!(view["cache"]["hit_rate"].as_f64().is_some() && view["cache"]["lines"]["S"].as_u64() >= Some(2), "{view}");
    let metrics = at("/metrics").send().await.unwrap().text().await.unwrap();
    for name in
        ["syncmesh_cache_hits_total ", "syncmesh_cache_lines{state=\"S\"}", "syncmesh_cache_messages_total{kind="]
    {
        assert!(metrics.contains(name), "{name}");
    }
    let status = String::from_utf8(cluster.run(0, &["status"]).stdout).unwrap();
    assert!(status.contains("\ncache    MESI, hit rate "), "{status}");
    let info = String::from_utf8(cluster.run(0, &["peer-info"]).stdout).unwrap();
    assert!(info.contains("\ncache       MESI, writes back, hit rate "), "{info}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_benchmark_finds_no_read_that_is_older_than_what_was_acknowledged() {
    let cluster = cluster(3, "MOESI");
    let also = format!("{},{}", cluster.url(1), cluster.url(2));
    let report =
        cluster.done(0, &["bench", "cache", "--also", &also, "--clients", "6", "--duration", "1s", "--keys", "60"]);
    for run in report["runs"].as_array().unwrap() {
        assert_eq!((&run["stale"], &run["failures"], &run["absent"]), (&json!(0), &json!(0), &json!(0)), "{run}");
        assert!(run["operations"].as_u64().unwrap() > 0 && run["hit_rate"].is_f64(), "{run}");
    }
    let gone = cluster.done(1, &["cache", "invalidate", "--prefix", "bench-"]);
    assert_eq!(gone["invalidated"], 0, "the benchmark leaves nothing");
}
