//! Real nodes on loopback, with journals in files: what a client of the library sees.

mod departed;
mod failure;
mod redis;
mod service;
mod survival;

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::{Queue, Queues};
use crate::{
    config::{Config, Switch},
    ids::{NodeId, PartitionId, QueueName},
    node::Node,
};

/// How long anything may take here; the machine is shared.
const PATIENCE: Duration = Duration::from_secs(40);

/// Nodes of one cluster, each with all roles.
struct Cluster {
    nodes: Vec<Option<Node>>,
    dirs: Vec<TempDir>,
    rendezvous: Vec<String>,
    change: Box<dyn Fn(&mut Config)>,
}

impl Cluster {
    /// So many nodes, once all of them are ready.
    async fn of(nodes: usize) -> Self {
        Self::with(nodes, |_| {}).await
    }

    async fn with(nodes: usize, change: impl Fn(&mut Config) + 'static) -> Self {
        if let Ok(filter) = std::env::var("TEST_LOG") {
            let _ = crate::telemetry::init_logs(crate::config::LogFormat::Text, &filter);
        }
        let dirs = (0..nodes).map(|_| TempDir::new().unwrap()).collect();
        let mut cluster = Self { nodes: vec![None; nodes], dirs, rendezvous: Vec::new(), change: Box::new(change) };
        for index in 0..nodes {
            cluster.start(index).await;
        }
        cluster.ready().await;
        cluster
    }

    /// Starts a node, for the first time or again.
    async fn start(&mut self, index: usize) {
        let mut config = Config {
            data_dir: self.dirs[index].path().to_owned(),
            listen_addrs: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            mdns: Switch::Off,
            queue_partitions: 8,
            bootstrap_expect: (index == 0).then(|| u32::try_from(self.nodes.len()).unwrap()),
            bootstrap_peers: self.rendezvous.iter().map(|addr| addr.parse().unwrap()).collect(),
            ..Config::default()
        };
        (self.change)(&mut config);
        let node = started(config).await;
        self.rendezvous.push(format!("{}/p2p/{}", node.listen_addrs()[0], node.id()));
        self.nodes[index] = Some(node);
    }

    async fn ready(&self) {
        for node in self.nodes.iter().flatten() {
            eventually("all nodes are ready", async || node.readiness().await.ready).await;
        }
    }

    fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().unwrap()
    }

    fn queue(&self, index: usize, name: &str) -> Queue {
        self.node(index).queue(QueueName::new(name).unwrap())
    }

    fn queues(&self, index: usize) -> Queues {
        self.node(index).queues()
    }

    /// Which node has this id.
    fn index_of(&self, id: NodeId) -> usize {
        self.nodes.iter().position(|node| node.as_ref().is_some_and(|node| node.id() == id)).unwrap()
    }

    /// Ends a node at once: it says goodbye to nobody, and nothing of it goes on.
    async fn kill(&mut self, index: usize) {
        let node = self.nodes[index].take().unwrap();
        node.running.kill().await;
    }

    /// How many copies of the partition are in sync, as a node knows it.
    fn copies(&self, index: usize, partition: u32) -> usize {
        let view = self.node(index).running.gateway.route().view();
        view.partitions.get(&PartitionId(partition)).map_or(0, |placed| placed.in_sync.len())
    }

    async fn whole(&self, index: usize, partition: u32, copies: usize) {
        eventually("the partition has its copies", async || self.copies(index, partition) == copies).await;
    }
}

/// Starts a node. What was killed in this very process may hold its log for another moment.
async fn started(config: Config) -> Node {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Node::start(config.clone()).await {
            Ok(node) => return node,
            Err(error) if Instant::now() < deadline && format!("{error:?}").contains("already locked") => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Waits until it is so.
async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let so = async {
        while !is_so().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("it never came to be that {what}"));
}

fn name(text: &str) -> QueueName {
    QueueName::new(text).unwrap()
}
