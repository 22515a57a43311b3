//! What an operator sees of nodes that are gone, and of nodes that go.

use std::{
    fs::File,
    process::Child,
    time::{Duration, Instant},
};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    ask::{Api, syncmesh},
    harness::{Cluster, NodeProcess, PATIENCE, eventually, holds},
};

/// The line of a table that begins with this peer.
fn row<'a>(table: &'a str, peer: &str) -> &'a str {
    table.lines().find(|line| line.starts_with(peer)).unwrap_or_else(|| panic!("{peer} in {table}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_stays_listed_with_when_it_was_last_seen() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    let gone = cluster.nodes[first].peer_id();
    let before = cluster.nodes[leader].cli(&["members"]).await;
    assert!(row(&before.stdout, &cluster.nodes[leader].peer_id()).contains("  leader  "), "{before:?}");

    cluster.nodes[first].kill();
    cluster.shows(leader, &gone, |member| member["status"] == "down").await;
    let shown = cluster.nodes[leader].api.cluster().await;
    let members = shown["members"].as_array().unwrap();
    let seen =
        members.iter().find(|member| member["peer_id"] == *gone).unwrap()["last_seen"].as_str().unwrap().to_owned();
    let listed = cluster.nodes[leader].cli(&["members", "list"]).await;
    assert!(listed.stdout.starts_with("PEER ") && listed.stdout.lines().next().unwrap().contains("LAST SEEN"));
    assert!(
        row(&listed.stdout, &gone).contains("  down  ") && row(&listed.stdout, &gone).contains(&seen),
        "{listed:?}"
    );
    let status = cluster.nodes[leader].cli(&["status"]).await.stdout;
    assert!(status.contains(&format!("warning  member-down: {gone} is down since ")), "{status}");
    assert!(status.contains(&format!("`syncmesh members remove {gone}`")), "{status}");

    // Without a quorum it is said what nobody can tell, and what was known before is still shown.
    cluster.nodes[second].kill();
    let survivor = &cluster.nodes[leader];
    let status = eventually("the survivor says that there is no quorum", async || {
        let status = survivor.cli(&["status"]).await;
        if status.code == 0 && status.stdout.starts_with("verdict  no quorum") {
            Ok(status.stdout)
        } else {
            Err(status.stdout)
        }
    })
    .await;
    assert!(status.contains("\nunknown  only a leader could tell: which members are up"), "{status}");
    assert!(row(&status, &gone).contains("  unseen  ") && row(&status, &gone).contains("20"), "{status}");
    let info = survivor.cli(&["peer-info"]).await;
    assert!(info.code == 0 && info.stdout.contains("ready       no: `syncmesh health --ready`"), "{info:?}");
    assert!(info.stdout.contains("raft        ") && info.stdout.contains("peers       none connected"), "{info:?}");
}

/// A command that goes on until Ctrl-C, and the file that it writes to.
fn watching(node: &NodeProcess, dir: &tempfile::TempDir, command: &str) -> (Child, std::path::PathBuf) {
    let path = dir.path().join(command);
    let mut watch = syncmesh(&["--url", &node.api.url, command, "--watch"]);
    (watch.stdout(File::create(&path).unwrap()).spawn().unwrap(), path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_watches_sees_the_node_go_and_come_back() {
    let mut cluster = Cluster::of(1).await;
    let dir = tempfile::TempDir::new().unwrap();
    let looks = [("status", "verdict  "), ("members", "PEER "), ("peer-info", "peer id ")];
    let mut watches: Vec<_> =
        looks.iter().map(|(command, begin)| (watching(&cluster.nodes[0], &dir, command), *begin)).collect();
    let seen = |path: &std::path::Path, begin: &str| std::fs::read_to_string(path).unwrap().matches(begin).count();
    let further = async |watches: &[((Child, std::path::PathBuf), &str)]| {
        for ((_, path), begin) in watches {
            let before = seen(path, begin);
            eventually("it looks again", async || holds(seen(path, begin) > before, before)).await;
        }
    };
    further(&watches).await;
    cluster.nodes[0].kill();
    cluster.nodes[0].start().await;
    further(&watches).await;
    for ((watch, path), _) in &mut watches {
        kill_process(Pid::from_child(watch), Signal::INT).unwrap();
        let began = Instant::now();
        let status = loop {
            if let Some(status) = watch.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "{path:?} does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.code(), Some(0), "{path:?}");
    }
    let refused = cluster.nodes[0].cli(&["members", "--watch", "transfer-leader"]).await;
    assert!(refused.code == 2 && refused.stderr.contains("--watch is for the list"), "{refused:?}");
}

const KEYS: usize = 150;

async fn store(api: &Api, key: &str, value: &str) -> bool {
    let request = api.request(Method::PUT, &format!("/v1/cache/{key}")).body(value.to_owned());
    Api::send(request).await.is_ok_and(|answer| answer.is_ok())
}

/// Everything that was stored under these names is there, at this node.
async fn all_there(api: &Api, of: &str) {
    for nth in 0..KEYS {
        let answer = Api::send(api.request(Method::GET, &format!("/v1/cache/{of}-{nth}"))).await.unwrap();
        let value = answer.body.as_str().map_or_else(|| answer.body.to_string(), str::to_owned);
        assert_eq!((answer.status, value), (200, format!("{of}{nth}")), "{of}-{nth}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_node_has_in_its_cache_is_handed_over_before_it_stops_or_leaves() {
    // Leases that a busy machine does not break: what is lost with them is another matter.
    let mut cluster = Cluster::with(3, &[("FAILURE_TIMEOUT", "8s"), ("CACHE_LEASE", "15s")]).await;
    let (stops, leaves, stays) = (1, 2, 0);
    for (nth, of) in [(stops, "s"), (leaves, "l")] {
        let api = cluster.nodes[nth].api.clone();
        for key in 0..KEYS {
            let (name, value) = (format!("{of}-{key}"), format!("{of}{key}"));
            eventually("a value is stored", async || holds(store(&api, &name, &value).await, &name)).await;
        }
    }
    // Others go on meanwhile.
    let load = {
        let api = cluster.nodes[stays].api.clone();
        tokio::spawn(async move {
            for nth in 0.. {
                store(&api, &format!("load-{}", nth % 20), "x").await;
            }
        })
    };
    cluster.nodes[stops].signal(Signal::TERM);
    assert_eq!(cluster.nodes[stops].ended().await.code(), Some(0), "{}", cluster.nodes[stops].log());
    all_there(&cluster.nodes[stays].api, "s").await;

    let done = cluster.nodes[leaves].cli(&["members", "leave", "--deadline", "2m"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert_eq!(cluster.nodes[leaves].ended().await.code(), Some(0), "{}", cluster.nodes[leaves].log());
    load.abort();
    all_there(&cluster.nodes[stays].api, "l").await;
    all_there(&cluster.nodes[stays].api, "s").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_hand_over_within_its_deadline_says_so_and_stays_a_member() {
    // The one that is to take over is stopped, and not given up for as long as this takes.
    let settings = [("NODE_ROLES", "lock-manager"), ("FAILURE_TIMEOUT", "30s"), ("CACHE_LEASE", "40s")];
    let mut cluster = Cluster::with(1, &settings).await;
    for name in ["n1", "n2"] {
        let mut node = cluster.newcomer(name).with("NODE_ROLES", "queue-node");
        settings[1..].iter().for_each(|(name, value)| node.set(name, value));
        node.start().await;
        node.ready().await;
        cluster.nodes.push(node);
    }
    eventually("both hold everything", async || {
        let partitions = cluster.nodes[0].api.cluster().await["queue"]["partitions"].clone();
        let whole = |partition: &Value| partition["in_sync"].as_array().unwrap().len() == 2;
        holds(partitions.as_array().unwrap().iter().all(whole), partitions)
    })
    .await;
    let leaver = cluster.nodes[1].peer_id();
    for (deadline, range) in [(json!(999), "1000 to 86400000"), (json!(86_400_001), "1000 to 86400000")] {
        let answer =
            cluster.nodes[1].api.post("/v1/cluster/members/self/leave", json!({"deadline_ms": deadline})).await;
        assert_eq!((answer.status, answer.body["field"].as_str()), (400, Some("deadline_ms")), "{answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains(range), "{answer:?}");
    }
    cluster.nodes[2].signal(Signal::STOP);
    let done = cluster.nodes[1].cli(&["--output", "json", "members", "leave", "--deadline", "4s"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (5, ""), "{done:?}");
    assert!(done.stderr.contains("stays a member"), "{done:?}");
    assert!(done.took < Duration::from_secs(20), "{done:?}");
    assert_eq!(cluster.nodes[1].ended().await.code(), Some(1), "{}", cluster.nodes[1].log());
    assert!(cluster.nodes[1].log().contains("hands over: what is still to go"), "{}", cluster.nodes[1].log());
    cluster.nodes[2].signal(Signal::CONT);
    cluster.shows(0, &leaver, |member| member["status"] != "left").await;
}
