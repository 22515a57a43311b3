//! Starts that cannot be, each with its exit code and a line that names the cause.

use std::net::TcpListener;

use serde_json::Value;

use crate::{
    ask::run,
    harness::{Cluster, Site},
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
    cluster.nodes[1].signal(rustix::process::Signal::STOP);
    cluster.nodes[2].signal(rustix::process::Signal::STOP);
    cluster.nodes[0].signal(rustix::process::Signal::TERM);
    cluster.nodes[0].says("drains and stops").await;
    cluster.nodes[0].signal(rustix::process::Signal::INT);
    assert_eq!(cluster.nodes[0].ended().await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_on_one_machine_serves_until_it_is_interrupted() {
    let site = Site::new().await;
    let mut node = site.node("dev");
    let mut command = crate::ask::syncmesh(&["dev", "--api-port", "0", "--output", "json"]);
    let out = std::fs::File::create(site.dir.path().join("out")).unwrap();
    let log = std::fs::File::create(site.dir.path().join("dev/log")).unwrap();
    command.current_dir(site.dir.path()).env("TMPDIR", site.dir.path()).stdout(out).stderr(log);
    node.launch_as(command);
    let line = crate::harness::eventually("it prints its nodes", async || {
        let text = std::fs::read_to_string(site.dir.path().join("out")).unwrap();
        if text.ends_with('\n') { Ok(text) } else { Err(text) }
    })
    .await;
    let told: Value = serde_json::from_str(&line).unwrap();
    let nodes = told["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3, "{told}");
    let api = |nth: usize| crate::ask::Api::new(nodes[nth]["api_url"].as_str().unwrap());
    let granted = api(0).grant("printer").await;
    assert_eq!(api(2).holder("printer").await, Some(granted));
    let data_dir = std::path::PathBuf::from(nodes[0]["data_dir"].as_str().unwrap());
    assert!(data_dir.exists());
    node.signal(rustix::process::Signal::INT);
    assert_eq!(node.ended().await.code(), Some(0));
    assert!(!data_dir.exists(), "its temporary data is gone");
}
