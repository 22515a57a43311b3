//! What a node says of itself and of the cluster: the bodies of `GET /v1/node`, `/v1/cluster`,
//! `/readyz` and the events.
//!
//! The shapes only; [`observe`](super::observe) fills them in.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{ClusterId, NodeId, PartitionId, Role},
    net::DiscoveredBy,
};

/// `GET /v1/node`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// This node.
    pub peer_id: NodeId,
    /// Program and version, as identify tells it.
    pub agent: String,
    /// The version of the program.
    pub version: String,
    /// The cluster; `None` until there is one.
    pub cluster_id: Option<ClusterId>,
    /// Its name.
    pub cluster_name: String,
    /// What this node does.
    pub roles: Vec<Role>,
    /// Whether it can serve its roles now.
    pub ready: bool,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Where it listens (multiaddrs).
    pub listen_addrs: Vec<String>,
    /// What it tells others.
    pub announce_addrs: Vec<String>,
    /// What others see.
    pub observed_addrs: Vec<String>,
    /// libp2p protocols.
    pub protocols: Vec<String>,
    /// Connected peers.
    pub peers: Vec<PeerView>,
    /// Only on a lock manager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raft: Option<RaftView>,
    /// Only on a queue node whose journal is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueNodeView>,
    /// Only on a cache node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheNodeInfo>,
    /// Only while it hands its duties over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
    /// Only where no leader is known: for how long, in milliseconds. What it says of the cluster is as of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaderless_ms: Option<u64>,
}

/// How far a node is that drains: what it still does for the others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DrainView {
    /// Whether it leaves for good, and does not only stop.
    pub leaves: bool,
    /// Whether it still leads the lock managers.
    pub leads: bool,
    /// Whether it still has a vote.
    pub votes: bool,
    /// Partitions of the queues that it is still needed for.
    pub partitions: usize,
    /// Slots of the cache that it is still home to.
    pub slots: usize,
}

/// The queues' part of a queue node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "API.md names and explains each field")]
pub struct QueueNodeView {
    /// `file` or `redis`.
    pub journal: String,
    /// Whether what it acknowledges survives a loss of power.
    pub durable: bool,
    /// The partitions that it serves.
    pub primaries: Vec<PartitionId>,
    /// The partitions of which it holds a copy that is in sync.
    pub backups: Vec<PartitionId>,
}

/// The cache's part of a cache node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CacheNodeInfo {
    /// `CACHE_PROTOCOL`.
    pub protocol: String,
    /// `CACHE_WRITE_POLICY`.
    pub write_policy: String,
    /// `CACHE_CAPACITY`.
    pub capacity: u64,
    /// Lines that it holds.
    pub entries: u64,
    /// By state.
    pub lines: CacheLines,
    /// The share of reads that were hits, 0 to 1; null where nothing was read.
    pub hit_rate: Option<f64>,
    /// Acknowledged values that are gone, because their owner died or lost its session.
    #[serde(default)]
    pub dirty_lost: u64,
}

/// A connected peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "API.md names and explains each field")]
pub struct PeerView {
    pub peer_id: NodeId,
    pub agent: String,
    pub roles: Vec<Role>,
    pub addr: String,
    pub transport: String,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// Rounded up.
    pub rtt_ms: Option<u64>,
    pub discovered_by: DiscoveredBy,
}

/// The Raft part of a lock manager.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "API.md names and explains each field")]
pub struct RaftView {
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`.
    pub role: String,
    /// Only of a `leader`: whether a quorum has confirmed that lately. Without one it decides nothing, and another may
    /// lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_quorum: Option<bool>,
    pub term: u64,
    /// Who leads and has a quorum, as far as this node knows.
    pub leader: Option<NodeId>,
    pub last_log_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
}

/// `GET /v1/cluster`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster; `None` until there is one.
    pub cluster_id: Option<ClusterId>,
    /// Its name.
    pub cluster_name: String,
    /// The version of the view that this answer was made from.
    pub epoch: u64,
    /// Raft's term, as far as this node knows.
    pub term: u64,
    /// Raft's leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Only where no leader answered: for how long none has been known, in milliseconds. The rest is as of then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaderless_ms: Option<u64>,
    /// The members, in the order of their ids. Where no leader answered, `up` and `down` say only whom
    /// this node is connected to.
    pub members: Vec<MemberView>,
    /// Where the queues are.
    #[serde(default)]
    pub queue: QueuePlacement,
    /// How the cache does.
    #[serde(default)]
    pub cache: CacheSummary,
    /// What an operator ought to look at.
    pub warnings: Vec<Warning>,
}

impl ClusterView {
    /// Whether a leader answered: without one, this is what one node knows by itself.
    pub fn is_confirmed(&self) -> bool {
        !self.warnings.iter().any(|warning| warning.code == NO_QUORUM)
    }
}

/// The code of the warning that no leader answered.
pub(super) const NO_QUORUM: &str = "no-quorum";

/// Where the queues are.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct QueuePlacement {
    /// All partitions, in the order of their numbers; none before the cluster is founded.
    pub partitions: Vec<PartitionView>,
    /// How many of them are still to be moved, filled up or handed over; only a leader knows.
    #[serde(default)]
    pub moving: Option<usize>,
}

/// A partition of the queues.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartitionView {
    /// Its number, from 0.
    pub id: u32,
    /// Who orders its operations; `None` where nobody serves it.
    pub primary: Option<NodeId>,
    /// Who is to keep it.
    pub replicas: Vec<NodeId>,
    /// Who holds everything that was acknowledged; where nobody serves it, who did at last.
    pub in_sync: Vec<NodeId>,
    /// Grows with each change of the rest.
    pub epoch: u64,
    /// Whether it is served.
    pub status: PartitionState,
}

/// Whether a partition is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionState {
    /// No queue node has been there yet.
    Unplaced,
    /// Its primary serves it.
    Serving,
    /// Nobody who holds all of it is there.
    Waiting,
    /// Everybody who held all of it has lost its journal or left.
    JournalLost,
}

impl PartitionState {
    /// The name in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unplaced => "unplaced",
            Self::Serving => "serving",
            Self::Waiting => "waiting",
            Self::JournalLost => "journal-lost",
        }
    }
}

/// How the cache of the whole cluster does.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CacheSummary {
    /// The coherence protocol: `MESI`, `MOSI` or `MOESI`.
    pub protocol: String,
    /// The share of reads that were hits, 0 to 1; null where nothing was read, or no cache node answered.
    pub hit_rate: Option<f64>,
    /// The lines that are held, by state.
    pub lines: CacheLines,
    /// Acknowledged values that are gone, because their owners died or lost their sessions, since the nodes started.
    #[serde(default)]
    pub dirty_lost: u64,
    /// How many slots are still to get the home that they belong to; null where there is no leader to say so.
    #[serde(default)]
    pub moving: Option<usize>,
}

/// Lines by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the states' own names")]
pub struct CacheLines {
    pub m: u64,
    pub o: u64,
    pub e: u64,
    pub s: u64,
}

/// A member.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "API.md names and explains each field")]
pub struct MemberView {
    pub peer_id: NodeId,
    pub roles: Vec<Role>,
    pub addrs: Vec<String>,
    pub status: MemberStatus,
    pub raft: Option<RaftStanding>,
    /// Log entries that it is behind the leader; only the leader knows.
    pub trails_by: Option<u64>,
    pub version: String,
    /// RFC 3339, when the leader last heard of it.
    pub last_seen: Option<String>,
}

/// Whether a member is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberStatus {
    /// Heard of within the failure timeout.
    Up,
    /// Silent; may come back.
    Down,
    /// Left or was removed.
    Left,
}

/// What a member is to Raft.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "Raft's own terms")]
pub enum RaftStanding {
    Leader,
    Voter,
    Learner,
}

/// Something an operator ought to look at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Warning {
    /// A stable slug, such as `no-quorum`, `member-down`, `queue-waiting`, `single-voter`.
    pub code: String,
    /// The fact and the next step.
    pub detail: String,
}

/// `GET /readyz`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether all checks that count are well.
    pub ready: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

/// One check of readiness.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    /// What is looked at.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// The fact, and the cure where it is not well.
    pub detail: String,
}

/// One event of the cluster. `data` is what the stream carries as JSON, `at` included.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClusterEvent {
    /// Grows by one with each event of this node's run.
    pub id: u64,
    /// `member-up`, `member-down`, `leader-changed`, `placement-changed`, …
    pub event: String,
    /// The rest.
    pub data: serde_json::Value,
}
