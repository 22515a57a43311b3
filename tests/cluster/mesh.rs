//! What travels on the mesh beside calls: hints of the view, and records of roles.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::harness::{Cluster, NodeProcess, eventually, holds};

/// So slow that no heartbeat comes within a test's patience: a node heartbeats five times in it.
const SLOW: &[(&str, &str)] = &[("FAILURE_TIMEOUT", "600000"), ("CACHE_LEASE", "600000")];
/// A fifth of the heartbeat interval that this makes.
const SOON: Duration = Duration::from_secs(24);

async fn metric(node: &NodeProcess, line: &str) -> f64 {
    let answer = node.api.call(Method::GET, "/metrics", None).await.unwrap();
    let text = answer.body.as_str().unwrap_or_default().to_owned();
    text.lines().filter(|l| l.starts_with(line)).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_members_is_known_everywhere_long_before_the_next_heartbeat() {
    let cluster = Cluster::with(3, SLOW).await;
    // It follows no log: all that it knows of the members, it was told.
    let mut cache = cluster.newcomer("cache").with("NODE_ROLES", "cache-node");
    SLOW.iter().for_each(|(name, value)| cache.set(name, value));
    cache.start().await;
    cache.ready().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut events = http.get(format!("{}/v1/events", cache.api.url)).send().await.unwrap();
    let mut newcomer = cluster.newcomer("late").with("NODE_ROLES", "queue-node");
    SLOW.iter().for_each(|(name, value)| newcomer.set(name, value));
    newcomer.start().await;
    newcomer.ready().await;
    let (joined, peer) = (Instant::now(), newcomer.peer_id());
    let heard = tokio::time::timeout(SOON, async {
        let mut told = String::new();
        while !(told.contains("member-up") && told.contains(&peer)) {
            told.push_str(&String::from_utf8_lossy(&events.chunk().await.unwrap().expect("the node runs")));
        }
    });
    assert!(heard.await.is_ok(), "no hint within {SOON:?}");
    println!("a member that follows no log knows of a newcomer {:?} after it has joined", joined.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_catches_up_with_the_log_tells_nothing_of_what_happened_before_it_came() {
    let mut cluster = Cluster::of(3).await;
    let api = cluster.nodes[0].api.clone();
    let broken = async |lock: &str| {
        api.grant(lock).await;
        api.call(Method::DELETE, &format!("/v1/locks/{lock}"), None).await.unwrap().ok();
    };
    broken("long-ago").await;
    let mut newcomer = cluster.newcomer("late");
    newcomer.start().await;
    newcomer.ready().await;
    cluster.nodes.push(newcomer);
    // Of four lock managers three vote.
    let peer = cluster.nodes[3].peer_id();
    cluster.shows(0, &peer, |member| member["raft"] == "learner" && member["trails_by"] == 0).await;
    broken("just-now").await;
    let told = cluster.nodes[3].tells(&["just-now"]).await;
    assert!(!told.contains("long-ago"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_keep_each_others_records_of_roles() {
    let cluster = Cluster::of(3).await;
    for node in &cluster.nodes {
        eventually("records were kept, and none refused", async || {
            let kept = metric(node, "libp2p_kad_inbound_requests_total{request=\"AddProvider\"}").await;
            let refused = metric(node, "syncmesh_bound_hits_total{bound=\"net.kad").await;
            // Three roles of each of the two others.
            holds(kept >= 6.0 && refused == 0.0, format!("{kept} kept, {refused} refused"))
        })
        .await;
    }
}
