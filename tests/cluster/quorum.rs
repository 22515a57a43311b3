//! A minority refuses, at once and plainly.

use std::time::Duration;

use crate::harness::{Cluster, NodeProcess};

/// How long a node without a quorum may take to say so.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// Everything that needs a quorum is refused with `no-quorum` in time.
async fn refuses(survivor: &NodeProcess, session: &str) {
    let api = &survivor.api;
    let mut slowest = Duration::ZERO;
    for round in 0..3 {
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
            assert!(answer.took() < REFUSED_WITHIN, "{what} in round {round} was refused after {:?}", answer.took());
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
