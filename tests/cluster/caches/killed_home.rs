//! kill -9 of the home of keys that are read and written at all nodes.

use std::time::Instant;

use serde_json::json;

use super::{agree, api::Answer, cluster_of, home_of, key_at, load::Load, read, settled, stored};
use crate::harness::{Cluster, NodeProcess, eventually, holds};

/// Kills a node under load and starts it again; what is measured and asked meanwhile.
async fn killed_and_back(cluster: &mut Cluster, load: &Load, keys: &[String], victim: usize, who: &str) {
    let aside = key_at(&cluster.nodes[victim], "aside").await;
    let all: Vec<&NodeProcess> = cluster.nodes.iter().collect();
    stored(&load.history, all[(victim + 1) % 3], &aside, &format!("aside, of {who}")).await;
    load.works_after(Instant::now(), &all).await;

    let peer = cluster.nodes[victim].peer_id();
    assert_eq!(home_of(all[0], &keys[victim]).await.as_ref(), Some(&peer), "homes are where they were at first");

    let killed = Instant::now();
    cluster.nodes[victim].kill();
    let asked = &cluster.nodes[(victim + 1) % 3];
    let told = asked.api.invalidate_key(&aside).await;
    println!("kill -9 of {who}: an invalidation at once was answered after {:?}: {}", told.took(), told.body);
    // The home that died, or the one after it: one of them has answered, or the first is named.
    let unanswered = told.ok()["unanswered"].clone();
    assert!(unanswered == json!([]) || unanswered == json!([peer]), "{unanswered}");
    let others: Vec<&NodeProcess> = cluster.nodes.iter().filter(|node| node.runs()).collect();
    load.works_after(killed, &others).await;
    let [of_it, of_another] = [victim, (victim + 1) % 3]
        .map(|nth| load.history.first_write_after(&keys[nth], killed).expect("all are written"));
    println!(
        "kill -9 of {who}: first acknowledged write of its key after {of_it:?}, of another's after {of_another:?}"
    );
    eventually("the invalidation is answered by all", async || {
        let told = asked.api.invalidate_key(&aside).await.ok();
        holds(told["unanswered"] == json!([]), told)
    })
    .await;
    for node in &others {
        let record = read(&load.history, node, &aside).await;
        assert!(!matches!(record.answer, Answer::Read { .. }), "it was invalidated, and nobody writes it: {record:?}");
    }
    let shown = asked.api.whereabouts(&keys[victim]).await;
    assert_ne!(shown["home"], peer.as_str(), "{shown}");

    cluster.nodes[victim].start().await;
    cluster.nodes[victim].ready().await;
    settled(&cluster.nodes).await;
    load.works_after(Instant::now(), &cluster.nodes.iter().collect::<Vec<_>>()).await;
}

async fn homes_are_killed(protocol: &str, policy: &str) {
    let mut cluster = cluster_of(3, protocol, &[("CACHE_WRITE_POLICY", policy)]).await;
    let mut keys = Vec::new();
    for home in &cluster.nodes {
        keys.push(key_at(home, "load").await);
    }
    let load = Load::start(&cluster.nodes, &keys);
    let follower = cluster.follower().await;
    killed_and_back(&mut cluster, &load, &keys, follower, &format!("a home, {protocol}, {policy}")).await;
    let leader = cluster.leader().await;
    let who = format!("the leader of the lock managers, {protocol}, {policy}");
    killed_and_back(&mut cluster, &load, &keys, leader, &who).await;
    let history = load.checked(&format!("kill -9 of homes, {protocol}, {policy}")).await;
    agree(&history, &cluster.nodes, &keys).await;
    history.check("and when all is quiet");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_older_when_homes_are_killed_under_mesi() {
    homes_are_killed("MESI", "back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_older_when_homes_are_killed_under_mosi() {
    homes_are_killed("MOSI", "through").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_older_when_homes_are_killed_under_moesi() {
    homes_are_killed("MOESI", "back").await;
}
