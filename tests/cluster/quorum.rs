//! A minority refuses, at once and plainly.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, NodeProcess, Site};

/// How long a node without a quorum may take to say so.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// The same once it has looked for the next leader in vain, on however slow a machine.
const REFUSED_AT_ONCE_WITHIN: Duration = Duration::from_secs(1);

/// Everything that needs a quorum is refused with `no-quorum` in time.
async fn refuses(survivor: &NodeProcess, session: &str) {
    let api = &survivor.api;
    let mut slowest = Duration::ZERO;
    for round in 0..3 {
        let within = if round == 0 { REFUSED_WITHIN } else { REFUSED_AT_ONCE_WITHIN };
        let asked = [
            ("acquire", api.acquire("another", 0, 30_000).await),
            ("waiting acquire", api.acquire("printer", 20_000, 30_000).await),
            ("show", api.show("printer").await),
            ("keepalive", api.keep_alive(session).await),
            ("release", api.release("printer", session).await),
            ("list", api.get("/v1/locks").await),
        ];
        for (what, answer) in asked {
            assert_eq!(
                (answer.status, answer.slug()),
                (503, "no-quorum"),
                "{what} in round {round} after {:?}: {answer:?}",
                answer.took()
            );
            assert!(answer.took() < within, "{what} in round {round} was refused after {:?}", answer.took());
            slowest = slowest.max(answer.took());
        }
    }
    println!("a minority refused within {slowest:?}");
    let ready = api.get("/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    let cluster = api.cluster().await;
    assert_eq!(cluster["warnings"][0]["code"], "no-quorum", "{cluster}");
    let done = survivor.cli(&["lock", "acquire", "another"]).await;
    assert_eq!(done.code, 5, "{done:?}");
    assert!(done.took < REFUSED_WITHIN, "{done:?}");
    let done = survivor.cli(&["--output", "json", "lock", "show", "printer"]).await;
    assert_eq!(done.code, 5, "{done:?}");
    assert!(done.stderr.contains(r#""type":"no-quorum""#), "{done:?}");
}

/// Whoever looks is told at once that there is no quorum, and of nobody that it is up who was not seen.
async fn says_what_it_knows(survivor: &NodeProcess) {
    let status = survivor.cli(&["status"]).await;
    assert!(status.code == 0 && status.took < REFUSED_WITHIN, "{status:?}");
    assert!(status.stdout.starts_with("verdict  no quorum"), "{status:?}");
    assert!(status.stdout.contains("members  1 of 3 connected to this node"), "{status:?}");
    assert!(status.stdout.contains("queues   last known, without a leader for "), "{status:?}");
    let members = survivor.cli(&["members", "list"]).await;
    assert!(members.code == 0 && members.took < REFUSED_WITHIN, "{members:?}");
    assert!(members.stderr.contains("no leader answers"), "{members:?}");
    assert_eq!(members.stdout.matches("unseen").count(), 2, "{members:?}");
    let cluster = survivor.api.cluster().await;
    assert_eq!((&cluster["leader"], &cluster["warnings"][1]["code"]), (&Value::Null, &"not-connected".into()));
    let me = survivor.peer_id();
    for member in cluster["members"].as_array().unwrap() {
        assert_eq!(member["status"], if member["peer_id"] == *me { "up" } else { "down" }, "{cluster}");
    }
    for (look, code) in [(vec!["health"], 0), (vec!["health", "--ready"], 1), (vec!["peer-info"], 0)] {
        let done = survivor.cli(&look).await;
        assert!(done.code == code && done.took < REFUSED_WITHIN, "{look:?}: {done:?}");
    }
    let ready = survivor.cli(&["health", "--ready"]).await;
    assert!(ready.stdout.contains("fail  queues  as last known, without a leader for "), "{ready:?}");
    let node = survivor.api.get("/v1/node").await.ok();
    let raft = &node["raft"];
    assert!(raft["leader"].is_null() && raft["has_quorum"] != true && node["leaderless_ms"].is_u64(), "{node}");
    let told = survivor.cli(&["peer-info"]).await;
    assert!(!told.stdout.contains("raft        leader in term"), "{told:?}");
    assert!(told.stdout.contains("journal, as last known: without a leader for "), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_not_joined_says_so() {
    let site = Site::new().await;
    let mut node = site.node("lone");
    node.start().await;
    let status = node.cli(&["status"]).await;
    assert!(status.code == 0 && status.took < REFUSED_WITHIN, "{status:?}");
    assert!(status.stdout.starts_with("verdict  no cluster: this node has joined none yet"), "{status:?}");
    assert!(status.stdout.contains("BOOTSTRAP_PEERS"), "the next step: {status:?}");
    for (look, code, told) in [
        (vec!["members", "list"], 0, "no leader answers"),
        (vec!["health", "--ready"], 1, "no cluster found"),
        (vec!["peer-info"], 0, "none yet"),
        (vec!["lock", "list"], 5, "has not joined a cluster yet"),
    ] {
        let done = node.cli(&look).await;
        assert!(done.code == code && done.took < REFUSED_WITHIN, "{look:?}: {done:?}");
        assert!(format!("{}{}", done.stdout, done.stderr).contains(told), "{look:?}: {done:?}");
    }
}

async fn serves_again(mut cluster: Cluster, survivor: usize, session: &str) {
    cluster.nodes[(survivor + 1) % 3].start().await;
    cluster.nodes[survivor].ready().await;
    let api = cluster.nodes[survivor].api.clone();
    assert_eq!(api.holder("printer").await.map(|holder| holder.session).as_deref(), Some(session));
    api.release("printer", session).await.ok();
    assert_eq!(api.holder("another").await, None, "what was refused with no-quorum was not done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_left_alone_refuses_within_two_seconds() {
    let mut cluster = Cluster::of(3).await;
    let survivor = cluster.leader().await;
    let held = cluster.nodes[survivor].api.grant("printer").await;
    cluster.nodes[(survivor + 1) % 3].kill();
    cluster.nodes[(survivor + 2) % 3].kill();
    // A leader that has not noticed yet writes this into its log, where it may be committed later.
    let first = cluster.nodes[survivor].api.acquire("first", 0, 30_000).await;
    let honest = first.slug() == "no-quorum" || (first.slug() == "unavailable" && first.body["outcome"] == "unknown");
    assert!(honest && first.took() < REFUSED_WITHIN, "{first:?} after {:?}", first.took());
    println!("a leader asked right after it was left alone says {} after {:?}", first.slug(), first.took());
    refuses(&cluster.nodes[survivor], &held.session).await;
    says_what_it_knows(&cluster.nodes[survivor]).await;
    serves_again(cluster, survivor, &held.session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_left_alone_refuses_within_two_seconds() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let survivor = (leader + 1) % 3;
    let held = cluster.nodes[survivor].api.grant("printer").await;
    cluster.nodes[leader].kill();
    cluster.nodes[(leader + 2) % 3].kill();
    refuses(&cluster.nodes[survivor], &held.session).await;
    serves_again(cluster, survivor, &held.session).await;
}
