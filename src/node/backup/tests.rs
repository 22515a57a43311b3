//! Real nodes on loopback: a backup of many sessions comes in several parts, through a node that does not lead.

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    config::{Config, Switch},
    ids::Role,
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn cluster(count: usize) -> (Vec<Node>, Vec<TempDir>) {
    let (mut nodes, mut dirs, mut peers) = (Vec::<Node>::new(), Vec::new(), Vec::new());
    for index in 0..count {
        dirs.push(TempDir::new().unwrap());
        let config = Config {
            data_dir: dirs[index].path().to_owned(),
            listen_addrs: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            mdns: Switch::Off,
            node_roles: [Role::LockManager].into(),
            bootstrap_expect: (index == 0).then(|| u32::try_from(count).unwrap()),
            bootstrap_peers: peers.clone(),
            ..Config::default()
        };
        let node = Node::start(config).await.unwrap();
        peers.push(format!("{}/p2p/{}", node.listen_addrs()[0], node.id()).parse().unwrap());
        nodes.push(node);
    }
    let began = Instant::now();
    for node in &nodes {
        while !node.readiness().await.ready {
            assert!(began.elapsed() < PATIENCE, "not ready: {:?}", node.readiness().await);
            sleep(Duration::from_millis(20)).await;
        }
    }
    (nodes, dirs)
}

async fn bytes_of(node: &Node) -> Vec<u8> {
    let (mut backup, mut all) = (node.backup().await.unwrap(), Vec::new());
    while let Some(bytes) = backup.next_bytes().await.unwrap() {
        all.extend_from_slice(&bytes);
    }
    all
}

fn header_of(file: &[u8]) -> BackupHeader {
    let mut reader = Reader::default();
    reader.push(file);
    match reader.next_piece().unwrap() {
        Some(Piece::Header(header)) => *header,
        other => panic!("no header: {other:?}"),
    }
}

async fn restore(node: &Node, file: &[u8], onto: Onto) -> Result<Restored, Error> {
    let mut restoration = node.restore(onto);
    for chunk in file.chunks(50_000) {
        restoration.feed(chunk).await?;
    }
    restoration.finish().await
}

/// A file with so many sessions, each with a lock.
fn large(sessions: u64) -> Vec<u8> {
    use crate::{
        ids::{ClusterId, FencingToken, LockName, SessionId, Term, Tick},
        machine::{
            backup::file::encode_parts,
            lock::{LockRecord, Mode, RecordCounts},
        },
    };
    let id = |n: u64| SessionId::new(format!("session-{n}")).unwrap();
    let opened = (0..sessions).map(|n| LockRecord::Session(id(n), "owner".into(), 30_000));
    let held = (0..sessions).map(|n| {
        let lock = LockName::new(format!("lock-{n}")).unwrap();
        LockRecord::Hold(lock, id(n), Mode::Exclusive, FencingToken(n + 1), Tick(1), 0)
    });
    let parts = encode_parts(opened.chain(held));
    let header = BackupHeader {
        cluster_id: ClusterId(1),
        cluster_name: "elsewhere".into(),
        version: "0".into(),
        created_at: Tick(1),
        term: Term(1),
        applied_index: 1,
        token: sessions,
        counts: RecordCounts { sessions, holds: sessions, delays: 0 },
        parts: u32::try_from(parts.len()).unwrap(),
    };
    let (mut writer, start) = Writer::begin(&header);
    let mut file = start.to_vec();
    parts.iter().for_each(|part| file.extend_from_slice(&writer.part(part)));
    file.extend_from_slice(&writer.end());
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_backup_goes_into_one_cluster_and_out_of_it_again_in_parts() {
    const SESSIONS: u64 = 5_000;
    let (nodes, _dirs) = cluster(3).await;
    let follower = nodes.iter().find(|node| !node.leads()).unwrap();
    let other = nodes.iter().rfind(|node| !node.leads()).unwrap();
    let file = large(SESSIONS);
    assert!(header_of(&file).parts > 2);

    let restored = restore(follower, &file, Onto::EmptyState).await.unwrap();
    assert_eq!((restored.counts.sessions, restored.counts.holds), (SESSIONS, SESSIONS));
    let refused = restore(other, &file, Onto::EmptyState).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict, "{refused}");

    let saved = bytes_of(other).await;
    let header = header_of(&saved);
    assert_eq!((header.counts, header.token), (restored.counts, restored.token));
    assert!(header.parts > 2);
    let again = restore(follower, &saved, Onto::AnyState).await.unwrap();
    assert_eq!((again.counts, again.replaced), (restored.counts, restored.counts));
    assert!(again.token >= restored.token + (1 << 32));
    for node in &nodes {
        node.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_off_or_damaged_changes_nothing_and_leaves_room_for_the_next() {
    let (nodes, _dirs) = cluster(1).await;
    let file = large(3_000);
    let cut = restore(&nodes[0], &file[..file.len() - 1], Onto::EmptyState).await.unwrap_err();
    assert!(cut.code == ErrorCode::BadRequest && cut.detail.contains("cut off"), "{cut}");
    let mut damaged = file.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 4;
    let refused = restore(&nodes[0], &damaged, Onto::EmptyState).await.unwrap_err();
    assert!(refused.code == ErrorCode::BadRequest && refused.detail.contains("damaged"), "{refused}");
    assert_eq!(header_of(&bytes_of(&nodes[0]).await).counts.sessions, 0);
    let restored = restore(&nodes[0], &file, Onto::EmptyState).await.unwrap();
    assert_eq!(restored.counts.sessions, 3_000);
    nodes[0].stop(Duration::from_secs(5)).await;
}
