//! Backups, and the last resort: what comes back when more than half of the lock managers are lost for good.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use crate::{
    ask::{Done, run, syncmesh},
    harness::{Cluster, Site, eventually, holds},
};

async fn publish(cluster: &Cluster, node: usize, queue: usize) {
    let body = json!({"messages": [{"body": format!("message of {queue}")}]});
    let path = format!("/v1/queues/q{queue}/messages:batch");
    eventually("a message is taken", async || {
        let answer = cluster.nodes[node].api.post(&path, body.clone()).await;
        holds(answer.is_ok(), format!("{answer:?}"))
    })
    .await;
}

/// Partitions of this status, as a node shows them.
fn partitions(cluster: &Value, status: &str) -> BTreeSet<u64> {
    let all = cluster["queue"]["partitions"].as_array().unwrap();
    all.iter().filter(|shown| shown["status"] == status).map(|shown| shown["id"].as_u64().unwrap()).collect()
}

async fn recover(dir: &str, more: &[&str]) -> Done {
    run(syncmesh(&[&["--output", "json", "members", "recover", "--data-dir", dir], more].concat())).await
}

/// All but one are killed, and their disks emptied.
fn lose(cluster: &mut Cluster, survivor: usize) {
    for lost in (0..3).filter(|nth| *nth != survivor) {
        cluster.nodes[lost].kill();
        fs::remove_dir_all(cluster.nodes[lost].data_dir()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_goes_on_alone_and_new_ones_join_it() {
    const QUEUES: usize = 24;
    let survivor = 1;
    let mut cluster = Cluster::with(3, &[("QUEUE_PARTITIONS", "16")]).await;
    for queue in 0..QUEUES {
        publish(&cluster, survivor, queue).await;
    }
    let held = cluster.nodes[survivor].api.grant("held").await;
    let old_peers: Vec<String> = cluster.nodes.iter().map(|node| node.peer_id()).collect();
    lose(&mut cluster, survivor);
    let dir = cluster.nodes[survivor].data_dir().display().to_string();

    let refused = recover(&dir, &["--yes"]).await;
    assert_eq!(refused.code, 1, "it runs: {refused:?}");
    assert!(refused.stderr.contains("locked by another process"), "{refused:?}");
    cluster.nodes[survivor].kill();
    let shown = recover(&dir, &[]).await;
    let plan: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!((shown.code, &plan["recovered"]), (1, &json!(false)), "{shown:?}");
    assert_eq!(plan["barred"].as_array().unwrap().len(), 2, "{plan}");
    let done = recover(&dir, &["--yes"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    println!("recovered: {}", done.stdout.trim());

    cluster.nodes[survivor].start().await;
    let granted = {
        let api = &cluster.nodes[survivor].api;
        eventually("the survivor grants", async || {
            let answer = api.acquire("new", 0, 60_000).await;
            if answer.is_ok() { Ok(crate::ask::Granted::from(answer.ok())) } else { Err(format!("{answer:?}")) }
        })
        .await
    };
    assert!(granted.token > held.token + (1 << 32), "{granted:?} after {held:?}");
    let holder = cluster.nodes[survivor].api.holder("held").await;
    assert_eq!(holder, Some(held.clone()), "who held a lock holds it for another term");

    // What the survivor kept is served again, the rest is said to be lost.
    let all: BTreeSet<u64> = (0..16).collect();
    let lost = eventually("each partition is served or said to be lost", async || {
        let shown = cluster.nodes[survivor].api.cluster().await;
        let (serving, lost) = (partitions(&shown, "serving"), partitions(&shown, "journal-lost"));
        if &serving | &lost == all { Ok(lost) } else { Err(format!("{serving:?} {lost:?}")) }
    })
    .await;
    assert!(!lost.is_empty() && lost != all, "two copies of three nodes: {lost:?}");
    println!("{} of 16 partitions were lost with their two copies", lost.len());

    // The others join as new, and vote again.
    let meet = cluster.nodes[survivor].multiaddr();
    cluster.nodes[0] = cluster.site.node("new");
    for joins in [0, 2] {
        cluster.nodes[joins].set("BOOTSTRAP_PEERS", &meet);
        cluster.nodes[joins].start().await;
        cluster.nodes[joins].ready().await;
        assert!(!old_peers.contains(&cluster.nodes[joins].peer_id()));
    }
    cluster.has_voters(survivor, 3).await;
    let further = cluster.nodes[0].api.grant("further").await;
    assert!(further.token > granted.token);
    for partition in &lost {
        let number = partition.to_string();
        eventually("somebody is there to begin a lost partition anew", async || {
            let accepted = cluster.nodes[2].cli(&["queue", "recover", &number, "--accept-loss"]).await;
            holds(accepted.code == 0, format!("{accepted:?}"))
        })
        .await;
    }
    for queue in 0..QUEUES {
        publish(&cluster, 0, queue).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_none_or_is_of_no_cluster_is_not_recovered() {
    let site = Site::new().await;
    let elsewhere = site.dir.path().join("nothing");
    let done = recover(&elsewhere.display().to_string(), &["--yes"]).await;
    assert_eq!(done.code, 1, "{done:?}");
    assert!(!elsewhere.exists(), "nothing is made");
    let done = run(syncmesh(&["members", "recover"])).await;
    assert_eq!(done.code, 2, "{done:?}");
    let mut lone = site.node("lone");
    lone.start().await;
    lone.kill();
    let done = recover(&lone.data_dir().display().to_string(), &["--yes"]).await;
    assert!(done.code == 1 && done.stderr.contains("belongs to no cluster"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_one_cluster_is_put_back_into_another() {
    let cluster = Cluster::of(1).await;
    let held = cluster.nodes[0].api.grant("printer").await;
    let file = cluster.site.dir.path().join("backup");
    let file = file.to_str().unwrap();
    let saved = cluster.nodes[0].cli(&["--output", "json", "snapshot", "save", file]).await;
    let document: Value = serde_json::from_str(&saved.stdout).unwrap();
    assert_eq!((saved.code, &document["sessions"], &document["locks_held"]), (0, &json!(1), &json!(1)), "{saved:?}");
    let again = cluster.nodes[0].cli(&["snapshot", "save", file]).await;
    assert!(again.code == 1 && again.stderr.contains("--overwrite"), "{again:?}");
    assert_eq!(cluster.nodes[0].cli(&["snapshot", "save", file, "--overwrite"]).await.code, 0);
    let left: Vec<_> = fs::read_dir(cluster.site.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".partial")), "{left:?}");

    let mut other = cluster.site.node("other").with("BOOTSTRAP_EXPECT", 1);
    other.start().await;
    other.ready().await;
    let restored = other.cli(&["snapshot", "restore", file]).await;
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!(other.api.holder("printer").await, Some(held.clone()), "under the token that its holder knows");
    assert_eq!(other.api.keep_alive(&held.session).await.status, 200);
    let next = other.api.grant("another").await;
    assert!(next.token > held.token + (1 << 32), "{next:?} after {held:?}");

    let refused = other.cli(&["snapshot", "restore", file]).await;
    assert!(refused.code == 1 && refused.stderr.contains("--yes"), "{refused:?}");
    let answer = other.api.request(reqwest::Method::PUT, "/v1/cluster/snapshot").body(fs::read(file).unwrap());
    let answer = crate::ask::Api::send(answer).await.unwrap();
    assert_eq!((answer.status, answer.slug()), (409, "conflict"), "{answer:?}");
    assert_eq!(other.api.holder("another").await, Some(next.clone()), "nothing was changed");
    assert_eq!(other.cli(&["snapshot", "restore", file, "--yes"]).await.code, 0);
    assert_eq!(other.api.keep_alive(&next.session).await.status, 410, "whoever held a lock is told");
    let last = other.api.grant("another").await;
    assert!(last.token > next.token, "{last:?} after {next:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_and_changes_nothing() {
    let cluster = Cluster::of(1).await;
    let held = cluster.nodes[0].api.grant("printer").await;
    let file = cluster.site.dir.path().join("backup");
    let saved = cluster.nodes[0].cli(&["snapshot", "save", file.to_str().unwrap()]).await;
    assert_eq!(saved.code, 0, "{saved:?}");
    let good = fs::read(&file).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let mut newer = good.clone();
    newer[7] += 1;
    for (what, bytes) in [
        ("is cut off", &good[..good.len() - 1]),
        ("is damaged", &flipped),
        ("has format", &newer),
        ("no backup", b"{}"),
    ] {
        fs::write(&file, bytes).unwrap();
        let refused = cluster.nodes[0].cli(&["snapshot", "restore", file.to_str().unwrap(), "--yes"]).await;
        assert!(refused.code == 1 && refused.stderr.contains(what), "{what}: {refused:?}");
        let put = cluster.nodes[0].api.request(reqwest::Method::PUT, "/v1/cluster/snapshot?force=true");
        let answer = crate::ask::Api::send(put.body(bytes.to_vec())).await.unwrap();
        assert_eq!((answer.status, answer.slug()), (400, "bad-request"), "{what}: {answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains(what), "{answer:?}");
    }
    assert_eq!(cluster.nodes[0].api.holder("printer").await, Some(held));
}
