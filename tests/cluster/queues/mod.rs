//! Queues kept by real processes, in files and in real Redis servers, while things go wrong under load.
//!
//! [`load`] publishes and consumes at every node, [`ledger`] holds what was answered and what must be true of it
//! whatever happened; the cases are beside them, by what goes wrong. Each prints its figures.

mod api;
mod ledger;
mod load;

mod killed;
mod moved;
mod redis_away;
mod redis_loss;
mod stopped;
mod stopped_all;
mod without_quorum;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::load::VISIBILITY;
use crate::{
    ask::Api,
    harness::{Cluster, NodeProcess, Site, eventually, holds},
};

/// Few, so that a run is short; more than one, so that nodes keep different ones.
const PARTITIONS: usize = 4;

fn apis(nodes: &[NodeProcess]) -> Vec<Api> {
    nodes.iter().map(|node| node.api.clone()).collect()
}

/// Starts nodes with these settings, so many of which keep queues, and waits until each partition has its copies.
async fn started(site: Site, mut nodes: Vec<NodeProcess>, keepers: usize, settings: &[(&str, &str)]) -> Cluster {
    for node in &mut nodes {
        node.set("QUEUE_PARTITIONS", PARTITIONS);
        settings.iter().for_each(|(name, value)| node.set(name, value));
    }
    let cluster = Cluster::start(site, nodes).await;
    let replicas =
        settings.iter().find(|(name, _)| *name == "QUEUE_REPLICAS").map_or(2, |(_, value)| value.parse().unwrap());
    cluster.whole(0, keepers.min(replicas)).await;
    cluster
}

/// Nodes with all roles.
async fn cluster_of(count: usize, settings: &[(&str, &str)]) -> Cluster {
    let site = Site::new().await;
    let nodes = site.nodes(count);
    started(site, nodes, count, settings).await
}

/// The same with a journal in this Redis each.
async fn cluster_in_redis(urls: &[String], settings: &[(&str, &str)]) -> Cluster {
    let site = Site::new().await;
    let mut nodes = site.nodes(urls.len());
    nodes.iter_mut().zip(urls).for_each(|(node, url)| node.set("REDIS_URL", url));
    started(site, nodes, urls.len(), settings).await
}

/// Lock managers, and beside them nodes that do nothing but keep queues.
async fn apart(lock_managers: usize, queue_nodes: usize, settings: &[(&str, &str)]) -> Cluster {
    let site = Site::new().await;
    let mut nodes = site.nodes(lock_managers);
    nodes.iter_mut().for_each(|node| node.set("NODE_ROLES", "lock-manager"));
    let founder = nodes[0].multiaddr();
    for nth in 0..queue_nodes {
        let node = site.node(&format!("q{nth}")).with("NODE_ROLES", "queue-node");
        nodes.push(node.with("BOOTSTRAP_PEERS", &founder));
    }
    started(site, nodes, queue_nodes, settings).await
}

/// A partition, as the cluster shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Placed {
    id: u64,
    primary: Option<String>,
    in_sync: BTreeSet<String>,
    replicas: BTreeSet<String>,
    status: String,
}

impl Placed {
    fn of(shown: &Value) -> Self {
        let names =
            |list: &Value| list.as_array().unwrap().iter().map(|peer| peer.as_str().unwrap().to_owned()).collect();
        Self {
            id: shown["id"].as_u64().unwrap(),
            primary: shown["primary"].as_str().map(str::to_owned),
            in_sync: names(&shown["in_sync"]),
            replicas: names(&shown["replicas"]),
            status: shown["status"].as_str().unwrap().to_owned(),
        }
    }

    fn is_whole(&self, copies: usize) -> bool {
        self.status == "serving" && self.in_sync.len() == copies && self.in_sync == self.replicas
    }
}

/// All partitions as the cluster shows them; none while a node has no leader to ask.
fn partitions(cluster: &Value) -> Vec<Placed> {
    cluster["queue"]["partitions"].as_array().unwrap().iter().map(Placed::of).collect()
}

/// The codes of what an operator ought to look at.
fn warnings(cluster: &Value) -> Vec<String> {
    let code = |warning: &Value| warning["code"].as_str().unwrap().to_owned();
    cluster["warnings"].as_array().unwrap().iter().map(code).collect()
}

impl Cluster {
    /// The queues of a load, made with its visibility, and the partition of each.
    async fn queues(&self, names: &[&str]) -> Vec<u64> {
        let api = &self.nodes[0].api;
        let mut partitions = Vec::new();
        for name in names {
            api.configure(name, json!({"visibility_ms": u64::try_from(VISIBILITY.as_millis()).unwrap()})).await.ok();
            partitions.push(api.stats(name).await.ok()["partition"].as_u64().unwrap());
        }
        partitions
    }

    /// A partition, as soon as a node knows of it.
    async fn partition(&self, asked: usize, id: u64) -> Placed {
        eventually("a node knows the partition", async || {
            let cluster = self.nodes[asked].api.cluster().await;
            partitions(&cluster).into_iter().find(|placed| placed.id == id).ok_or(cluster)
        })
        .await
    }

    /// Waits until a node shows all partitions with so many copies, where they are to be.
    async fn whole(&self, asked: usize, copies: usize) {
        eventually(&format!("all partitions have {copies} copies"), async || {
            let cluster = self.nodes[asked].api.cluster().await;
            let placed = partitions(&cluster);
            let up = |peer: &String| self.nodes.iter().any(|node| node.runs() && node.peer_id() == *peer);
            let is_so = !placed.is_empty()
                && placed.iter().all(|placed| placed.is_whole(copies) && placed.in_sync.iter().all(up));
            holds(is_so, cluster["queue"].clone())
        })
        .await;
    }

    /// Which node has this peer id.
    fn node_of(&self, peer: &str) -> usize {
        self.nodes.iter().position(|node| node.runs() && node.peer_id() == peer).unwrap()
    }

    /// The primary and the only backup of a partition.
    async fn copies(&self, asked: usize, partition: u64) -> (usize, usize) {
        let placed = self.partition(asked, partition).await;
        let primary = placed.primary.expect("it is served");
        let backup = placed.in_sync.iter().find(|peer| **peer != primary).expect("it has a backup");
        (self.node_of(&primary), self.node_of(backup))
    }

    /// Waits until another node than this shows somebody else as the primary of a partition.
    async fn fails_over(&self, from: usize, partition: u64) {
        let (peer, asked) = (self.nodes[from].peer_id(), (from + 1) % self.nodes.len());
        eventually("there is another primary", async || {
            let placed = self.partition(asked, partition).await;
            holds(placed.primary.as_ref().is_some_and(|primary| *primary != peer), format!("{placed:?}"))
        })
        .await;
    }
}
