//! Who a node is after a restart, and what it does with a disk that it cannot trust.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{Cluster, eventually, holds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_the_same_with_its_data_and_new_without() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.nodes[2].peer_id();
    assert_eq!(cluster.nodes[2].stop().await, Some(0));
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
    assert_eq!(cluster.nodes[2].peer_id(), first);

    cluster.nodes[2].kill();
    fs::remove_dir_all(cluster.nodes[2].data_dir().join("raft")).unwrap();
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
    let second = cluster.nodes[2].peer_id();
    assert_ne!(second, first, "a voter that forgot its votes must not vote again");
    cluster.shows(0, &first, |member| member["status"] != "up").await;

    cluster.nodes[2].kill();
    fs::remove_dir_all(cluster.nodes[2].data_dir()).unwrap();
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
    let third = cluster.nodes[2].peer_id();
    assert!(third != first && third != second);
    cluster.shows(0, &third, |member| member["status"] == "up").await;
    cluster.nodes[2].api.grant("printer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_but_one_may_lose_their_disks_one_after_the_other() {
    let mut cluster = Cluster::with(3, &[("MEMBER_DEAD_TIMEOUT", "1")]).await;
    let held = cluster.nodes[0].api.grant("printer").await;
    for nth in [1, 2] {
        cluster.nodes[nth].kill();
        fs::remove_dir_all(cluster.nodes[nth].data_dir()).unwrap();
        cluster.nodes[nth].start().await;
        let peer = cluster.nodes[nth].peer_id();
        cluster.shows(0, &peer, |member| matches!(member["raft"].as_str(), Some("voter" | "leader"))).await;
        cluster.has_voters(0, 3).await;
    }
    cluster.nodes[0].kill();
    eventually("the replaced nodes serve what was there before", async || {
        let shown = cluster.nodes[1].api.show("printer").await;
        holds(shown.is_ok() && shown.body["holders"][0]["session"] == held.session.as_str(), format!("{shown:?}"))
    })
    .await;
}

fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_dir.join("raft/wal")).unwrap().map(|entry| entry.unwrap().path());
    let mut wal: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "wal")).collect();
    wal.sort();
    wal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_named_and_never_served() {
    let mut cluster = Cluster::of(3).await;
    let mut held = Vec::new();
    for nth in 0..20 {
        held.push(cluster.nodes[0].api.grant(&format!("lock-{nth}")).await);
    }
    cluster.nodes[2].kill();
    let wal = segments(&cluster.nodes[2].data_dir());
    let mut bytes = fs::read(&wal[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&wal[0], &bytes).unwrap();
    cluster.nodes[2].launch();
    assert_eq!(cluster.nodes[2].ended().await.code(), Some(1));
    let log = cluster.nodes[2].log();
    assert!(log.contains("cannot be trusted") && log.contains("move its DATA_DIR away"), "{log}");

    // The cure that it names.
    let dir = cluster.nodes[2].data_dir();
    fs::rename(&dir, dir.with_extension("damaged")).unwrap();
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
    for (nth, granted) in held.iter().enumerate() {
        assert_eq!(cluster.nodes[2].api.holder(&format!("lock-{nth}")).await.as_ref(), Some(granted));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_of_the_log_is_cut_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::of(3).await;
    let held = cluster.nodes[0].api.grant("printer").await;
    cluster.nodes[2].kill();
    let last = segments(&cluster.nodes[2].data_dir()).pop().unwrap();
    // A write that was under way when the power went.
    let mut bytes = fs::read(&last).unwrap();
    bytes.extend_from_slice(&[0; 7]);
    fs::write(&last, &bytes).unwrap();
    cluster.nodes[2].start().await;
    cluster.nodes[2].ready().await;
    assert_eq!(cluster.nodes[2].api.holder("printer").await, Some(held));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_identity_is_named_and_not_replaced() {
    let mut cluster = Cluster::of(1).await;
    let node = &mut cluster.nodes[0];
    assert_eq!(node.stop().await, Some(0));
    let file = node.data_dir().join("identity.json");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    node.launch();
    assert_eq!(node.ended().await.code(), Some(1));
    let log = node.log();
    assert!(log.contains("identity.json") && log.contains("is damaged"), "{log}");
    let secret = String::from_utf8(whole.clone()).unwrap();
    let secret = secret.split('"').skip_while(|word| *word != "secret_key").nth(2).unwrap().to_owned();
    assert!(!log.contains(&secret[..16]), "the log shows the secret key");
    fs::write(&file, whole).unwrap();
    node.start().await;
    node.ready().await;
}
