//! The cache of real processes, while they are paused, killed, cut off, come and go, under each protocol.
//!
//! [`load`] reads and writes at every node, [`history`] checks all that was told; the cases are beside them, by what
//! goes wrong. Each prints its figures.

mod api;
mod history;
mod load;

mod cut_off;
mod killed_home;
mod killed_owner;
mod moved;
mod paused;

use std::{collections::BTreeSet, time::Duration};

use self::{
    api::{Answer, Ask, Record},
    history::History,
};
use crate::harness::{Cluster, NodeProcess, eventually, holds};

/// `CACHE_LEASE`, as it is by default.
const LEASE: Duration = Duration::from_secs(2);
/// Of all nodes.
const ROLES: (&str, &str) = ("NODE_ROLES", "lock-manager,cache-node");
/// Keys by which it is seen where homes are: so many that each node is home to some.
const SAMPLES: usize = 64;
/// So many names are tried until one has the home that is wanted.
const TRIED: usize = 256;

/// How long a lease may be waited for by who has granted it: clocks run apart by 1 %, and tasks wake 10 ms late.
fn waited(lease: Duration) -> Duration {
    lease + lease / 100 + Duration::from_millis(10)
}

/// Nodes that manage locks and keep the cache, but no queues, which would only cost time; their homes have settled.
async fn cluster_of(count: usize, protocol: &str, settings: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::with(count, &[&[ROLES, ("CACHE_PROTOCOL", protocol)], settings].concat()).await;
    settled(&cluster.nodes).await;
    cluster
}

/// The peer that is home to a key, as a node knows.
async fn home_of(asked: &NodeProcess, key: &str) -> Option<String> {
    asked.api.whereabouts(key).await["home"].as_str().map(str::to_owned)
}

/// Waits until no slot is to move any more, each of these nodes is home to some, and all of them know that.
async fn settled(nodes: &[NodeProcess]) {
    let running: Vec<&NodeProcess> = nodes.iter().filter(|node| node.runs()).collect();
    let peers: BTreeSet<String> = running.iter().map(|node| node.peer_id()).collect();
    eventually("the homes have settled", async || {
        let cluster = running[0].api.cluster().await;
        holds(cluster["cache"]["moving"] == 0, &cluster["cache"])?;
        let known = homes(running[0]).await;
        let of_all: BTreeSet<String> = known.iter().flatten().cloned().collect();
        holds(of_all == peers, format!("homes: {known:?}, nodes: {peers:?}"))?;
        for node in &running[1..] {
            let others = homes(node).await;
            holds(others == known, format!("{}: {others:?}, not {known:?}", node.name))?;
        }
        Ok::<_, String>(())
    })
    .await;
}

/// Who is home to each of the samples, as a node knows.
async fn homes(asked: &NodeProcess) -> Vec<Option<String>> {
    let mut homes = Vec::new();
    for nth in 0..SAMPLES {
        homes.push(home_of(asked, &format!("sample-{nth}")).await);
    }
    homes
}

/// Reads until it is a hit, so that the node shares the line now: one without processor time for a while loses its lines.
async fn shares(history: &History, node: &NodeProcess, key: &str) {
    eventually("the node shares the line", async || {
        let record = read(history, node, key).await;
        holds(matches!(record.answer, Answer::Read { hit: true, .. }), format!("{record:?}"))
    })
    .await;
}

/// A key that begins so and is homed at this node.
async fn key_at(home: &NodeProcess, begin: &str) -> String {
    let peer = home.peer_id();
    for nth in 0..TRIED {
        let key = format!("{begin}-{nth}");
        if home_of(home, &key).await.as_ref() == Some(&peer) {
            return key;
        }
    }
    panic!("{} is home to none of {TRIED} keys", home.name)
}

/// Stores a value that nobody else stores, where it can be.
async fn stored(history: &History, node: &NodeProcess, key: &str, value: &str) -> String {
    let record = node.api.operate(&node.name, key, Ask::Store { value: value.to_owned() }).await;
    history.add(record.clone());
    match record.answer {
        Answer::Stored { version } => version,
        other => panic!("{value} was not stored at {}: {other:?}", node.name),
    }
}

/// Reads, and notes what was told.
async fn read(history: &History, node: &NodeProcess, key: &str) -> Record {
    let record = node.api.operate(&node.name, key, Ask::Read).await;
    history.add(record.clone());
    record
}

/// What a node reads, where it can be read.
async fn value(history: &History, node: &NodeProcess, key: &str) -> Option<String> {
    eventually("a node can read", async || match read(history, node, key).await.answer {
        Answer::Read { value, .. } => Ok(Some(value)),
        Answer::Miss => Ok(None),
        other => Err(format!("{other:?}")),
    })
    .await
}

/// All running nodes come to read the same. What is of unknown outcome may be written yet, but then no more.
async fn agree(history: &History, nodes: &[NodeProcess], keys: &[String]) {
    for key in keys {
        eventually("nodes agree", async || {
            let mut values = BTreeSet::new();
            for node in nodes.iter().filter(|node| node.runs()) {
                values.insert(value(history, node, key).await);
            }
            holds(values.len() == 1, format!("nobody writes {key} any more, and nodes read {values:?}"))
        })
        .await;
    }
}

/// The acknowledged values that all caches say are lost.
async fn lost(asked: &NodeProcess) -> u64 {
    let shown = asked.api.caches().await;
    shown["nodes"].as_array().unwrap().iter().map(|node| node["dirty_lost"].as_u64().unwrap()).sum()
}
