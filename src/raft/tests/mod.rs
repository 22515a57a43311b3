//! Tests of the whole adapter: a small replicated state, a mesh of channels, clusters on it.

mod chaos;
mod cluster;
mod files;
mod hostile;
mod suite;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    clock::{Clock, SystemClock},
    ids::{NodeId, Term, Tick},
    net::{CallError, DiscoveredBy, Lane, Mesh, MeshStatus, Protocol, Topic},
    raft::{
        Applied, ProposeError, RaftNode, RaftParts, RaftRole, RaftSettings, Replicated, SnapshotStore,
        memory::MemoryDisk,
    },
};

/// Openraft's storage suite makes its node ids of numbers.
impl From<u64> for NodeId {
    fn from(number: u64) -> Self {
        node(u8::try_from(number).unwrap())
    }
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// Appends what it is told, and answers how much it had.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Journal {
    lines: Vec<String>,
    times: Vec<Tick>,
}

impl Replicated for Journal {
    type Command = String;
    type Answer = u64;
    type Effect = String;

    fn apply(&mut self, at: Tick, _: Term, _: u64, line: String, effects: &mut Vec<String>) -> u64 {
        assert_ne!(line, "a bug");
        effects.push(line.clone());
        self.lines.push(line);
        self.times.push(at);
        self.lines.len() as u64
    }
}

type Node = RaftNode<Journal>;

/// What the cluster's cables do.
#[derive(Debug, Default)]
struct Cables {
    nodes: BTreeMap<NodeId, Node>,
    cut: BTreeSet<(NodeId, NodeId)>,
    largest: usize,
}

/// The mesh of one node: calls the handles of the others, after a little while.
#[derive(Clone, Debug)]
struct ChannelMesh {
    local: NodeId,
    cables: Arc<Mutex<Cables>>,
}

const TRAVEL_TIME: Duration = Duration::from_millis(1);
const CALL_DEADLINE: Duration = Duration::from_secs(10);

impl ChannelMesh {
    /// The node at the other end, once the message is there. A cut cable swallows it.
    async fn travel(&self, from: NodeId, to: NodeId, size: usize) -> Option<Node> {
        sleep(TRAVEL_TIME).await;
        let mut cables = self.cables.lock().unwrap();
        cables.largest = cables.largest.max(size);
        if cables.cut.contains(&(from, to)) { None } else { cables.nodes.get(&to).cloned() }
    }
}

impl Mesh for ChannelMesh {
    fn local(&self) -> NodeId {
        self.local
    }

    fn call(&self, peer: NodeId, _: Protocol, _: Lane, body: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let mesh = self.clone();
        Box::pin(async move {
            let exchange = async {
                let there = mesh.travel(mesh.local, peer, body.len()).await?;
                let answer = there.handle(mesh.local, body).await;
                mesh.travel(peer, mesh.local, answer.len()).await?;
                Some(answer)
            };
            match timeout(CALL_DEADLINE, exchange).await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) if !mesh.cables.lock().unwrap().nodes.contains_key(&peer) => Err(CallError::Unreachable(peer)),
                Ok(None) => {
                    sleep(CALL_DEADLINE).await;
                    Err(CallError::Timeout(peer))
                }
                Err(_) => Err(CallError::Timeout(peer)),
            }
        })
    }

    fn broadcast(&self, _: Topic, _: Bytes) {}

    fn set_members(&self, _: BTreeMap<NodeId, Vec<Multiaddr>>) {}

    fn set_barred(&self, _: Vec<NodeId>) {}

    fn hint(&self, _: NodeId, _: Vec<Multiaddr>, _: DiscoveredBy) {}

    fn offer(&self, _: BTreeSet<String>) {}

    fn seek(&self, _: String) {}

    fn disconnect(&self, _: NodeId) {}

    fn status(&self) -> watch::Receiver<Arc<MeshStatus>> {
        watch::channel(Arc::default()).1
    }
}

/// Lock managers on memory disks, connected by channels.
struct Cluster {
    cables: Arc<Mutex<Cables>>,
    disks: BTreeMap<NodeId, MemoryDisk>,
    told: BTreeMap<NodeId, Arc<Mutex<Vec<Applied<String>>>>>,
    settings: RaftSettings,
    clock: Arc<dyn Clock>,
}

impl Cluster {
    fn new(settings: RaftSettings) -> Self {
        let clock = Arc::new(SystemClock);
        Self { cables: Arc::default(), disks: BTreeMap::new(), told: BTreeMap::new(), settings, clock }
    }

    /// A founded cluster of so many voters, with a leader.
    async fn of(voters: u8) -> Self {
        Self::with(voters, RaftSettings::default()).await
    }

    async fn with(voters: u8, settings: RaftSettings) -> Self {
        let mut cluster = Self::new(settings);
        let ids: BTreeSet<NodeId> = (1..=voters).map(node).collect();
        for id in &ids {
            cluster.boot(*id).await;
        }
        cluster.node(node(1)).initialize(ids).await.unwrap();
        cluster.leader().await;
        cluster
    }

    async fn boot(&mut self, id: NodeId) -> Node {
        let disk = self.disks.entry(id).or_insert_with(|| MemoryDisk::new(Duration::from_millis(1))).clone();
        let (listener, mut news) = mpsc::channel(16);
        let told = Arc::new(Mutex::new(Vec::new()));
        self.told.insert(id, Arc::clone(&told));
        tokio::spawn(async move {
            while let Some(applied) = news.recv().await {
                told.lock().unwrap().push(applied);
            }
        });
        let parts = RaftParts {
            metrics: Default::default(),
            id,
            settings: self.settings.clone(),
            log: disk.log(),
            snapshots: Arc::new(disk.log()) as Arc<dyn SnapshotStore>,
            mesh: Arc::new(ChannelMesh { local: id, cables: Arc::clone(&self.cables) }),
            clock: Arc::clone(&self.clock),
            listener,
        };
        let node = Node::start(parts).await.unwrap();
        self.cables.lock().unwrap().nodes.insert(id, node.clone());
        node
    }

    fn node(&self, id: NodeId) -> Node {
        self.cables.lock().unwrap().nodes[&id].clone()
    }

    fn nodes(&self) -> Vec<Node> {
        self.cables.lock().unwrap().nodes.values().cloned().collect()
    }

    /// Stops a node as a power cut does.
    async fn kill(&self, id: NodeId) {
        let node = self.cables.lock().unwrap().nodes.remove(&id).unwrap();
        self.disks[&id].crash();
        node.shutdown().await;
    }

    fn isolate(&self, id: NodeId) {
        let mut cables = self.cables.lock().unwrap();
        let others: Vec<_> = cables.nodes.keys().copied().filter(|other| *other != id).collect();
        cables.cut.extend(others.into_iter().flat_map(|other| [(id, other), (other, id)]));
    }

    fn heal(&self) {
        self.cables.lock().unwrap().cut.clear();
    }

    /// Waits for a leader that a quorum of the reachable nodes follows.
    async fn leader(&self) -> Node {
        eventually("a leader", async || {
            for node in self.nodes() {
                if node.status().borrow().role == RaftRole::Leader && node.quorum_round().await.is_ok() {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// Proposes at whoever leads, until it is certain to be applied once.
    async fn write(&self, line: &str) -> u64 {
        eventually("a commit", async || match self.leader().await.propose(vec![line.to_owned()]).await {
            Ok(answers) => Some(answers[0]),
            Err(ProposeError::Unknown) => panic!("the outcome of {line} is unknown"),
            Err(_) => None,
        })
        .await
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Repeats a question until it has an answer.
async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn lines(node: &Node) -> Vec<String> {
    node.with_state(|journal, _| journal.lines.clone()).unwrap()
}
