//! Starts that cannot be, each with its exit code and a line that names the cause.

use std::net::TcpListener;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    ask::{Api, run, syncmesh},
    harness::{Cluster, NodeProcess, Site, eventually, holds},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_a_data_directory_ends_and_names_the_first() {
    let cluster = Cluster::of(1).await;
    let first = &cluster.nodes[0];
    let mut second = cluster.site.node("second").with("DATA_DIR", first.data_dir().display());
    second.launch();
    assert_eq!(second.ended().await.code(), Some(1));
    let log = second.log();
    let pid = first.pid().as_raw_nonzero().to_string();
    assert!(log.contains(&first.data_dir().display().to_string()) && log.contains(&pid), "{log}");
    first.api.grant("printer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_share_a_directory_take_a_slot_each() {
    let site = Site::new().await;
    let shared = site.dir.path().join("shared");
    let mut nodes: Vec<_> = (0..2)
        .map(|nth| site.node(&format!("n{nth}")).with("DATA_SLOTS", "on").with("DATA_DIR", shared.display()))
        .collect();
    let mut peers = Vec::new();
    for (nth, node) in nodes.iter_mut().enumerate() {
        node.use_data_dir(shared.join(format!("slot-{nth}")));
        node.start().await;
        peers.push(node.peer_id());
    }
    assert_ne!(peers[0], peers[1]);
    // The first slot that is free, and whose it is, are found again.
    nodes[0].kill();
    nodes[0].start().await;
    assert_eq!(nodes[0].peer_id(), peers[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let site = Site::new().await;
    let mut node = site.node("node");
    let api = TcpListener::bind((node.ip(), 8080)).unwrap();
    node.launch();
    assert_eq!(node.ended().await.code(), Some(1));
    assert!(node.log().contains(&format!("{}:8080", node.ip())), "{}", node.log());
    drop(api);

    let mut node = site.node("another");
    let _mesh = TcpListener::bind((node.ip(), 4001)).unwrap();
    node.launch();
    assert_eq!(node.ended().await.code(), Some(1));
    assert!(node.log().contains(&node.multiaddr()), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_faults_is_refused_before_anything_is_bound() {
    let site = Site::new().await;
    let mut node = site.node("node");
    node.set("ELECTION_TIMEOUT_MIN", "700");
    node.set("BOOTSTRAP_PEERS", "somewhere");
    node.set("MDNS", "perhaps");
    let done = run(node.piped_command()).await;
    assert_eq!(done.code, 78, "{done:?}");
    for name in ["ELECTION_TIMEOUT_MIN", "BOOTSTRAP_PEERS", "MDNS"] {
        assert!(done.stderr.lines().any(|line| line.contains(name)), "{name} in {}", done.stderr);
    }
    assert_eq!(done.stdout, "");
    assert!(!node.data_dir().exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_that_the_system_chooses_are_told() {
    let site = Site::new().await;
    let mut node = site.node("node").with("LISTEN_ADDRS", "/ip4/127.0.0.1/tcp/0").with("API_ADDR", "127.0.0.1:0");
    node.set("BOOTSTRAP_EXPECT", 1);
    node.launch();
    let told = node.listening().await;
    let listens = told["listen_addrs"][0].as_str().unwrap().to_owned();
    assert!(listens.starts_with("/ip4/127.0.0.1/tcp/") && !listens.ends_with("/0"), "{told}");
    node.ready().await;
    let info = node.api.get("/v1/node").await.ok();
    assert_eq!((&info["listen_addrs"][0], &info["peer_id"]), (&told["listen_addrs"][0], &told["peer_id"]));
    let mut other = site.node("other").with("BOOTSTRAP_PEERS", &listens);
    other.start().await;
    other.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_node_at_once() {
    let mut cluster = Cluster::of(3).await;
    // It cannot drain in peace: nobody answers.
    cluster.nodes[1].signal(Signal::STOP);
    cluster.nodes[2].signal(Signal::STOP);
    cluster.nodes[0].signal(Signal::TERM);
    cluster.nodes[0].says("drains and stops").await;
    cluster.nodes[0].signal(Signal::INT);
    assert_eq!(cluster.nodes[0].ended().await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_on_one_machine_serves_until_it_is_interrupted() {
    let site = Site::new().await;
    let mut dev = site.node("dev");
    let nodes = run_dev(&site, &mut dev, &["--api-port", "0"]).await;
    assert_eq!(nodes.len(), 3);
    let granted = api(&nodes[0]).grant("printer").await;
    assert_eq!(api(&nodes[2]).holder("printer").await, Some(granted));
    let data_dir = std::path::PathBuf::from(nodes[0]["data_dir"].as_str().unwrap());
    assert!(data_dir.exists());
    dev.signal(Signal::INT);
    assert_eq!(dev.ended().await.code(), Some(0));
    assert!(!data_dir.exists(), "its temporary data is gone");
}

/// Starts `dev` in the site's directory, and waits until it tells of its nodes.
async fn run_dev(site: &Site, dev: &mut NodeProcess, flags: &[&str]) -> Vec<Value> {
    let mut command = syncmesh(&[&["dev", "--output", "json"], flags].concat());
    let path = site.dir.path().join("out");
    let out = std::fs::File::create(&path).unwrap();
    let log = std::fs::File::create(site.dir.path().join("dev/log")).unwrap();
    command.current_dir(site.dir.path()).env("TMPDIR", site.dir.path()).stdout(out).stderr(log);
    dev.launch_as(command);
    let line = eventually("it prints its nodes", async || {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.ends_with('\n') { Ok(text) } else { Err(text) }
    })
    .await;
    let told: Value = serde_json::from_str(&line).unwrap();
    told["nodes"].as_array().unwrap().clone()
}

fn api(node: &Value) -> Api {
    Api::new(node["api_url"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_on_one_machine_leaves_or_is_barred_alone() {
    let site = Site::new().await;
    let mut dev = site.node("dev");
    let flags = ["--api-port", "0", "--data-dir", "kept"];
    let nodes = run_dev(&site, &mut dev, &flags).await;
    let call = async |nth: usize, path: &str| {
        let path = format!("/v1/cluster/members/{path}");
        api(&nodes[nth]).call(Method::POST, &path, None).await.unwrap()
    };
    let ends = async |nth: usize| {
        eventually("its API is gone", async || {
            let answer = api(&nodes[nth]).call(Method::GET, "/healthz", None).await;
            answer.map_or(Ok(()), |answer| Err(format!("{answer:?}")))
        })
        .await;
    };
    let peer = |nth: usize| nodes[nth]["peer_id"].as_str().unwrap().to_owned();
    call(0, &format!("{}/remove", peer(2))).await.ok();
    ends(2).await;
    dev.says("was removed from the cluster").await;
    dev_shows(&nodes[0], &peer(2), "left").await;
    call(0, &format!("{}/admit", peer(2))).await.ok();

    call(1, "self/leave").await.ok();
    ends(1).await;
    dev_shows(&nodes[0], &peer(1), "left").await;
    assert!(dev.is_running(), "{}", dev.log());
    // The ones that went may have led.
    eventually("the first grants locks alone", async || {
        let answer = api(&nodes[0]).acquire("paper", 0, 60_000).await;
        holds(answer.is_ok(), format!("{answer:?}"))
    })
    .await;

    dev.signal(Signal::TERM);
    assert_eq!(dev.ended().await.code(), Some(0), "{}", dev.log());
    let again = run_dev(&site, &mut dev, &flags).await;
    assert_eq!((&again[0]["peer_id"], &again[2]["peer_id"]), (&nodes[0]["peer_id"], &nodes[2]["peer_id"]));
    assert_ne!(again[1]["peer_id"], nodes[1]["peer_id"], "who left joins as new");
    dev_shows(&again[0], again[1]["peer_id"].as_str().unwrap(), "up").await;
    assert!(api(&again[1]).holder("paper").await.is_some());

    dev.signal(Signal::TERM);
    dev.signal(Signal::INT);
    assert_eq!(dev.ended().await.code(), Some(130), "a second signal ends it at once");
}

async fn dev_shows(node: &Value, peer: &str, status: &str) {
    eventually("the cluster shows the member", async || {
        let cluster = api(node).cluster().await;
        let found = cluster["members"].as_array().unwrap().iter().find(|member| member["peer_id"] == peer);
        holds(found.is_some_and(|member| member["status"] == status), format!("{peer} in {cluster}"))
    })
    .await;
}
