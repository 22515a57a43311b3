//! How clusters come to be, and who is not let into them.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    ask::{run, syncmesh},
    harness::{Cluster, NodeProcess, Site, eventually, holds, voters},
};

/// Foundings at once are repeated so many times.
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_founded_at_once_make_exactly_one_cluster_each_time() {
    for round in 0..ROUNDS {
        let cluster = Cluster::of(5).await;
        let mut ids = BTreeSet::new();
        for node in &cluster.nodes {
            let what = format!("round {round}: {} sees five voters", node.name);
            let seen = eventually(&what, async || {
                let seen = node.api.cluster().await;
                let members = seen["members"].as_array().unwrap().len();
                if (members, voters(&seen).len()) == (5, 5) { Ok(seen) } else { Err(seen) }
            })
            .await;
            ids.insert(seen["cluster_id"].as_str().unwrap().to_owned());
            assert!(!node.log().contains("ERROR"), "round {round}: {}", node.log());
        }
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
        cluster.nodes[round % 5].api.grant("printer").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_founders_keep_their_votes_from_the_beginning() {
    // The last one comes late: nobody takes its vote meanwhile.
    let site = Site::new().await;
    let mut nodes = site.nodes(3);
    for node in &mut nodes {
        node.start().await;
    }
    for node in &nodes {
        node.ready().await;
    }
    for node in &nodes {
        assert!(!node.log().contains("changed who votes"), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_alone_is_a_cluster_of_one() {
    let cluster = Cluster::of(1).await;
    let api = &cluster.nodes[0].api;
    let granted = api.grant("printer").await;
    let seen = api.cluster().await;
    assert_eq!(seen["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(seen["members"][0]["raft"], "leader");
    assert!(seen["warnings"].as_array().unwrap().iter().any(|warning| warning["code"] == "single-voter"), "{seen}");
    api.release("printer", &granted.session).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_cluster_waits_says_so_and_refuses() {
    let site = Site::new().await;
    let mut node = site.node("alone");
    node.start().await;
    let ready = node.api.get("/readyz").await;
    assert_eq!((ready.status, &ready.body["ready"]), (503, &Value::Bool(false)), "{ready:?}");
    assert_eq!(node.api.get("/healthz").await.status, 200);
    let answer = node.api.acquire("printer", 0, 30_000).await;
    assert_eq!((answer.status, answer.slug()), (503, "no-quorum"), "{answer:?}");
    assert!(answer.body["detail"].as_str().unwrap().contains("BOOTSTRAP"), "{answer:?}");
    assert_eq!(node.cli(&["health", "--ready"]).await.code, 1);
    assert_eq!(node.cli(&["health"]).await.code, 0);
    assert_eq!(node.cli(&["lock", "acquire", "printer"]).await.code, 5);
    node.says("has no cluster yet and waits").await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_waits_for_as_many_as_it_expects() {
    let site = Site::new().await;
    let mut nodes = site.nodes(3);
    nodes[0].start().await;
    nodes[1].start().await;
    eventually("the founder counts two of three", async || {
        let ready = nodes[0].api.get("/readyz").await;
        holds(ready.status == 503 && ready.body.to_string().contains("2 of BOOTSTRAP_EXPECT=3"), ready.body)
    })
    .await;
    nodes[2].start().await;
    for node in &nodes {
        node.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pure_gateway_is_ready_once_it_listens_and_forwards() {
    let site = Site::new().await;
    let mut gateway = site.node("gateway").with("NODE_ROLES", "bootstrap").with("BOOTSTRAP_EXPECT", 3);
    gateway.start().await;
    gateway.ready().await;
    assert_eq!(gateway.api.acquire("printer", 0, 30_000).await.slug(), "no-quorum");

    let managers = (0..3).map(|nth| site.node(&format!("n{nth}")).with("BOOTSTRAP_PEERS", gateway.multiaddr()));
    let mut managers: Vec<_> = managers.collect();
    managers.iter_mut().for_each(NodeProcess::launch);
    for node in &mut managers {
        node.listening().await;
        node.ready().await;
    }
    let granted = eventually("the gateway forwards", async || {
        let answer = gateway.api.acquire("printer", 0, 30_000).await;
        if answer.is_ok() { Ok(crate::ask::Granted::from(answer.body)) } else { Err(answer.body) }
    })
    .await;
    assert_eq!(managers[1].api.holder("printer").await, Some(granted.clone()));
    gateway.api.keep_alive(&granted.session).await.ok();
    gateway.api.release("printer", &granted.session).await.ok();
    let seen = gateway.api.cluster().await;
    assert_eq!((seen["members"].as_array().map(Vec::len), voters(&seen).len()), (Some(4), 3), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_key_gets_nowhere_and_hears_why() {
    let site = Site::new().await;
    let mut keys = Vec::new();
    for name in ["ours", "theirs"] {
        let dir = site.dir.path().join(name);
        assert_eq!(run(syncmesh(&["init", dir.to_str().unwrap()])).await.code, 0);
        keys.push(dir.join("cluster.key"));
    }
    let mut nodes = site.nodes(2);
    for node in &mut nodes {
        node.set("CLUSTER_KEY_FILE", keys[0].display());
        node.launch();
    }
    let mut stranger = site.node("stranger").with("BOOTSTRAP_PEERS", nodes[0].multiaddr());
    stranger.set("CLUSTER_KEY_FILE", keys[1].display());
    let mut keyless = site.node("keyless").with("BOOTSTRAP_PEERS", nodes[0].multiaddr());
    stranger.start().await;
    keyless.start().await;
    for node in &mut nodes {
        node.listening().await;
        node.ready().await;
    }
    for refused in [&stranger, &keyless] {
        refused.says("CLUSTER_KEY_FILE").await;
        refused.says("no connection to this bootstrap address").await;
        eventually("a node that is not ready names the key as the likely cause", async || {
            let ready = refused.api.get("/readyz").await;
            assert_eq!(ready.status, 503, "{ready:?}");
            holds(ready.body["checks"][1]["detail"].to_string().contains("CLUSTER_KEY_FILE"), ready.body)
        })
        .await;
        assert_eq!(refused.api.get("/v1/node").await.ok()["cluster_id"], Value::Null);
    }
    assert_eq!(nodes[0].api.cluster().await["members"].as_array().map(Vec::len), Some(2));

    let address = nodes[0].multiaddr();
    let ask = |key: &std::path::Path| {
        let mut command = syncmesh(&["--output", "json", "peer-info", &address]);
        command.env("CLUSTER_KEY_FILE", key);
        command
    };
    let wrong = run(ask(&keys[1])).await;
    assert_eq!(wrong.code, 5, "{wrong:?}");
    assert!(wrong.stderr.contains("CLUSTER_KEY_FILE"), "{wrong:?}");
    let right = run(ask(&keys[0])).await;
    assert_eq!(right.code, 0, "{right:?}");
    let info: Value = serde_json::from_str(&right.stdout).unwrap();
    assert_eq!(info["peer_id"], nodes[0].peer_id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_another_name_are_refused() {
    let cluster = Cluster::of(1).await;
    let mut other = cluster.newcomer("other").with("CLUSTER_NAME", "staging");
    other.start().await;
    for node in [&other, &cluster.nodes[0]] {
        node.says("set CLUSTER_NAME alike on all nodes of a cluster").await;
    }
    let ready = other.api.get("/readyz").await;
    let said = ready.body["checks"][1]["detail"].to_string();
    assert!(ready.status == 503 && said.contains("to 'staging': set CLUSTER_NAME alike"), "{ready:?}");
    assert_eq!(cluster.nodes[0].api.cluster().await["members"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_bootstrap_peers_do_not_answer_names_them_and_asks_for_no_founder() {
    let site = Site::new().await;
    let mut node = site.node("lost").with("BOOTSTRAP_PEERS", "/ip4/127.0.0.1/tcp/1");
    node.start().await;
    eventually("it says who does not answer, and why", async || {
        let (ready, cluster) = (node.api.get("/readyz").await, node.api.cluster().await);
        let said = [&ready.body["checks"][1]["detail"], &cluster["warnings"][0]["detail"]].map(ToString::to_string);
        let named = |text: &String| text.contains("/ip4/127.0.0.1/tcp/1 (") && text.contains("refused");
        holds(said.iter().all(named), format!("{said:?}"))
    })
    .await;
    let ready = node.cli(&["health", "--ready"]).await;
    assert!(ready.code == 1 && !ready.stdout.contains("BOOTSTRAP_EXPECT"), "{ready:?}");
    node.says("has no cluster yet and waits: nobody answers at /ip4/127.0.0.1/tcp/1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_cache_protocol_ends_and_says_which_to_set() {
    let cluster = Cluster::of(1).await;
    let mut other = cluster.newcomer("other").with("CACHE_PROTOCOL", "MOESI");
    other.launch();
    assert_eq!(other.ended().await.code(), Some(1));
    assert!(other.log().contains("set CACHE_PROTOCOL=MESI here"), "{}", other.log());
    cluster.nodes[0].api.grant("printer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_that_meet_stay_two() {
    let site = Site::new().await;
    let mut one = site.node("one").with("BOOTSTRAP_EXPECT", 1);
    let mut two = site.node("two").with("BOOTSTRAP_EXPECT", 1);
    let mut ids = Vec::new();
    for node in [&mut one, &mut two] {
        node.start().await;
        node.ready().await;
        ids.push(node.api.cluster().await["cluster_id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(two.stop().await, Some(0));
    two.set("BOOTSTRAP_PEERS", one.multiaddr());
    two.start().await;
    two.ready().await;
    for node in [&one, &two] {
        node.says("belongs to another cluster of the same name").await;
    }
    for (node, id) in [&one, &two].into_iter().zip(&ids) {
        let seen = node.api.cluster().await;
        assert_eq!((&seen["cluster_id"], seen["members"].as_array().map(Vec::len)), (id, Some(1)));
        node.api.grant("printer").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_without_a_record_joins_the_cluster_that_it_meets() {
    let cluster = Cluster::of(1).await;
    let mut founder = cluster.newcomer("founder").with("BOOTSTRAP_EXPECT", 2);
    founder.start().await;
    founder.ready().await;
    let seen = founder.api.cluster().await;
    assert_eq!(seen["cluster_id"], cluster.nodes[0].api.cluster().await["cluster_id"]);
    assert_eq!(seen["members"].as_array().map(Vec::len), Some(2), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_another_cluster_name_is_refused_at_start() {
    let mut cluster = Cluster::of(1).await;
    let node = &mut cluster.nodes[0];
    assert_eq!(node.stop().await, Some(0));
    node.set("CLUSTER_NAME", "staging");
    node.launch();
    assert_eq!(node.ended().await.code(), Some(1));
    assert!(node.log().contains("set CLUSTER_NAME=default"), "{}", node.log());
    assert!(fs::exists(node.data_dir().join("identity.json")).unwrap());
}
