//! Nodes on a network of their own: they find each other without being told, and are cut off silently.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    harness::{NodeProcess, Site, eventually, holds},
    namespaces::Lan,
};

/// How long a node without a quorum may take to say so.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// Nodes on the hosts of a network, with no address of each other.
struct Found {
    nodes: Vec<NodeProcess>,
    lan: Lan,
    _site: Site,
}

impl Found {
    async fn three(name: &str) -> Option<Self> {
        let site = Site::new().await;
        let lan = Lan::of(name, 3)?;
        let mut nodes = Vec::new();
        for nth in 0..3 {
            let mut node = site.node(&format!("n{nth}"));
            node.set("MDNS", "on");
            node.set("LISTEN_ADDRS", "/ip4/0.0.0.0/tcp/4001");
            node.set("API_ADDR", "127.0.0.1:8080");
            if nth == 0 {
                node.set("BOOTSTRAP_EXPECT", 3);
            }
            lan.launch(nth, &mut node);
            nodes.push(node);
        }
        for node in &mut nodes {
            node.listening().await;
        }
        let found = Self { nodes, lan, _site: site };
        for nth in 0..3 {
            found.ready(nth).await;
        }
        Some(found)
    }

    async fn ready(&self, nth: usize) {
        eventually(&format!("node {nth} is ready"), async || {
            let done = self.lan.cli(nth, &["health", "--ready"]).await;
            holds(done.code == 0, done.stdout)
        })
        .await;
    }

    /// What a command says on a host, as JSON.
    async fn json(&self, nth: usize, arguments: &[&str]) -> Result<Value, String> {
        let done = self.lan.cli(nth, &[&["--output", "json"], arguments].concat()).await;
        let text = if done.code == 0 { &done.stdout } else { &done.stderr };
        let json = serde_json::from_str(text).unwrap_or(Value::Null);
        if done.code == 0 { Ok(json) } else { Err(format!("{} after {:?}: {}", done.code, done.took, done.stderr)) }
    }

    async fn leader(&self) -> usize {
        eventually("all agree on a leader", async || {
            let mut leaders = Vec::new();
            for nth in 0..3 {
                leaders.push(self.json(nth, &["status"]).await?["leader"].as_str().unwrap_or_default().to_owned());
            }
            leaders.dedup();
            let leader = self.nodes.iter().position(|node| leaders.len() == 1 && node.peer_id() == leaders[0]);
            leader.ok_or(format!("{leaders:?}"))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_on_one_network_find_each_other_without_being_told() {
    let Some(found) = Found::three("d").await else { return };
    let granted = found.json(0, &["lock", "acquire", "printer"]).await.unwrap();
    let shown = found.json(2, &["lock", "show", "printer"]).await.unwrap();
    assert_eq!(shown["holders"][0]["fencing_token"], granted["fencing_token"]);
    let info = found.json(1, &["peer-info"]).await.unwrap();
    let peers = info["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 2, "{info}");
    assert!(peers.iter().any(|peer| peer["discovered_by"] == "mdns"), "{info}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_refuses_and_the_others_go_on() {
    let Some(found) = Found::three("p").await else { return };
    let leader = found.leader().await;
    let other = (leader + 1) % 3;
    let held = found.json(leader, &["lock", "acquire", "printer", "--ttl", "1h"]).await.unwrap();

    found.lan.cut_off(leader);
    let cut = Instant::now();
    let granted =
        eventually("the others go on", async || found.json(other, &["lock", "acquire", "another"]).await).await;
    println!("the others of a leader that was cut off silently acquire after {:?}", cut.elapsed());
    assert!(granted["fencing_token"].as_u64() > held["fencing_token"].as_u64());
    for arguments in [&["lock", "show", "printer"][..], &["lock", "acquire", "third"], &["lock", "list"]] {
        let done = found.lan.cli(leader, arguments).await;
        assert_eq!(done.code, 5, "{done:?}");
        assert!(done.took < REFUSED_WITHIN + Duration::from_millis(500), "{done:?}");
    }
    assert_eq!(found.lan.cli(leader, &["health", "--ready"]).await.code, 1);

    found.lan.heal(leader);
    found.ready(leader).await;
    assert_ne!(found.leader().await, leader, "its term is over");
    let shown = found.json(leader, &["lock", "show", "another"]).await.unwrap();
    assert_eq!(shown["holders"][0]["fencing_token"], granted["fencing_token"]);
    let shown = found.json(other, &["lock", "show", "printer"]).await.unwrap();
    assert_eq!(shown["holders"][0]["session"], held["session"]);
    eventually("it is a member again", async || {
        let seen = found.json(other, &["status"]).await?;
        let members = seen["members"].as_array().cloned().unwrap_or_default();
        holds(members.iter().filter(|member| member["status"] == "up").count() == 3, seen)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cut_off_refuses_and_deposes_nobody_when_it_is_back() {
    let Some(found) = Found::three("f").await else { return };
    let leader = found.leader().await;
    let follower = (leader + 1) % 3;
    let term = found.json(leader, &["status"]).await.unwrap()["term"].clone();
    found.lan.cut_off(follower);
    let peer = found.nodes[follower].peer_id();
    eventually("the leader notices", async || {
        let seen = found.json(leader, &["status"]).await?;
        let members = seen["members"].as_array().cloned().unwrap_or_default();
        holds(members.iter().any(|member| member["peer_id"] == peer.as_str() && member["status"] == "down"), seen)
    })
    .await;
    let done = found.lan.cli(follower, &["lock", "list"]).await;
    assert_eq!(done.code, 5, "{done:?}");
    assert!(done.took < REFUSED_WITHIN + Duration::from_millis(500), "{done:?}");
    found.lan.heal(follower);
    found.ready(follower).await;
    let status = found.json(follower, &["status"]).await.unwrap();
    assert_eq!(status["term"], term, "it asked before it voted");
}
