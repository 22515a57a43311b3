//! Real nodes on loopback: what a client of the library sees of the cache.

mod bounds;
mod failure;
mod service;

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::{Caches, Only, Put};
use crate::{
    config::{Config, Switch},
    error::{Error, ErrorCode},
    ids::{CacheKey, NodeId, Role},
    machine::cache::{SlotId, Version},
    node::Node,
};

/// How long anything may take here; the machine is shared.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is to be different of a node.
type Change = dyn Fn(usize, &mut Config);

/// Nodes of one cluster.
struct Cluster {
    nodes: Vec<Option<Node>>,
    dirs: Vec<TempDir>,
    rendezvous: Vec<String>,
    founders: usize,
    change: Box<Change>,
}

impl Cluster {
    /// So many nodes, once all slots have a home.
    async fn of(nodes: usize) -> Self {
        Self::with(nodes, |_, _| {}).await
    }

    /// The same, with leases so long that nothing is lost where this machine is held up.
    async fn calm(nodes: usize) -> Self {
        Self::calm_with(nodes, |_, _| {}).await
    }

    async fn calm_with(nodes: usize, change: impl Fn(usize, &mut Config) + 'static) -> Self {
        Self::with(nodes, move |index, config| {
            (config.failure_timeout, config.cache_lease) = (Duration::from_secs(5), Duration::from_secs(30));
            change(index, config);
        })
        .await
    }

    async fn with(nodes: usize, change: impl Fn(usize, &mut Config) + 'static) -> Self {
        if let Ok(filter) = std::env::var("TEST_LOG") {
            let _ = crate::telemetry::init_logs(crate::config::LogFormat::Text, &filter);
        }
        let mut cluster = Self {
            nodes: Vec::new(),
            dirs: Vec::new(),
            rendezvous: Vec::new(),
            founders: nodes,
            change: Box::new(change),
        };
        for _ in 0..nodes {
            cluster.add().await;
        }
        cluster.ready().await;
        cluster
    }

    /// One more node.
    async fn add(&mut self) -> usize {
        self.nodes.push(None);
        self.dirs.push(TempDir::new().unwrap());
        let index = self.nodes.len() - 1;
        self.start(index).await;
        index
    }

    /// Starts a node, for the first time or again.
    async fn start(&mut self, index: usize) {
        let config = self.config(index);
        let node = started(config).await;
        self.rendezvous.push(format!("{}/p2p/{}", node.listen_addrs()[0], node.id()));
        self.nodes[index] = Some(node);
    }

    fn config(&self, index: usize) -> Config {
        let mut config = Config {
            data_dir: self.dirs[index].path().to_owned(),
            listen_addrs: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            mdns: Switch::Off,
            node_roles: [Role::LockManager, Role::CacheNode].into(),
            bootstrap_expect: (index == 0).then(|| u32::try_from(self.founders).unwrap()),
            bootstrap_peers: self.rendezvous.iter().map(|addr| addr.parse().unwrap()).collect(),
            ..Config::default()
        };
        (self.change)(index, &mut config);
        config
    }

    /// Waits until all nodes that run are members, and each slot has a home that every node knows.
    async fn ready(&self) {
        for node in self.nodes.iter().flatten() {
            eventually("all slots have a home", async || {
                let view = node.running.gateway.route().view();
                node.readiness().await.ready && view.slots.len() == 256 && view.slots.values().all(|s| s.home.is_some())
            })
            .await;
        }
    }

    fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().unwrap()
    }

    fn at(&self, index: usize) -> Caches {
        self.node(index).caches()
    }

    /// Which node is home to a key, as a node knows it.
    fn home_of(&self, asked: usize, key: &CacheKey) -> Option<usize> {
        let view = self.node(asked).running.gateway.route().view();
        let home = view.slots.get(&SlotId::of(key))?.home?;
        self.index_of(home.node)
    }

    fn index_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.as_ref().is_some_and(|node| node.id() == id))
    }

    /// A key whose home is this node.
    fn key_at(&self, index: usize, name: &str) -> CacheKey {
        let key = |n| CacheKey::new(format!("{name}-{n}")).unwrap();
        (0..).map(key).find(|key| self.home_of(index, key) == Some(index)).unwrap()
    }

    /// How many slots a node is home to, as another one knows it.
    fn share(&self, asked: usize, of: NodeId) -> usize {
        let view = self.node(asked).running.gateway.route().view();
        view.slots.values().filter(|slot| slot.home.is_some_and(|home| home.node == of)).count()
    }

    /// Ends a node at once: it says goodbye to nobody, and nothing of it goes on.
    async fn kill(&mut self, index: usize) {
        let node = self.nodes[index].take().unwrap();
        node.running.kill().await;
    }

    /// Stops a node as SIGTERM does.
    async fn stop(&mut self, index: usize) {
        let node = self.nodes[index].take().unwrap();
        node.stop(Duration::from_secs(20)).await;
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

fn key(name: &str) -> CacheKey {
    CacheKey::new(name).unwrap()
}

fn value(body: &str) -> Put {
    Put { body: Bytes::copy_from_slice(body.as_bytes()), ttl_ms: None, only: Only::Always }
}

/// Puts until it is acknowledged.
async fn put(cache: &Caches, key: &CacheKey, body: &str) -> Version {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match cache.put(key.clone(), value(body)).await {
            Ok(version) => return version,
            Err(error) if Instant::now() < deadline => drop(error),
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// What is read, as text, as soon as it can be: a machine that is held up may be without a leader, and homes, for a while.
async fn get(cache: &Caches, key: &CacheKey) -> Result<Option<String>, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match get_once(cache, key).await {
            Err(error) if error.code == ErrorCode::Unavailable && Instant::now() < deadline => {}
            outcome => return outcome,
        }
    }
}

/// What is read now, as text.
async fn get_once(cache: &Caches, key: &CacheKey) -> Result<Option<String>, Error> {
    let read = cache.get(key.clone()).await?;
    Ok(read.map(|read| String::from_utf8(read.body.to_vec()).unwrap()))
}
