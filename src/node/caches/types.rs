//! What applications say to the cache and are told: the shapes behind HTTP, the command line and the library.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{CacheKey, NodeId},
    machine::cache::{LineState, Protocol, Version, WritePolicy},
};

/// A value that was read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Read {
    /// Its version: the ETag.
    pub version: Version,
    /// The value, shared with the cache.
    pub body: Bytes,
    /// The state of the line at the cache that served it.
    pub state: LineState,
    /// Whether no message left the node that was called.
    pub hit: bool,
}

/// On which condition a value is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Only {
    /// On none.
    #[default]
    Always,
    /// The key has this version (`If-Match`).
    If(Version),
    /// The key is absent (`If-None-Match: *`).
    IfAbsent,
}

/// A value to store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Put {
    /// The value: at most `MAX_VALUE_BYTES`.
    pub body: Bytes,
    /// Absent again after so long: 1 to 31,536,000,000 ms.
    pub ttl_ms: Option<u64>,
    /// On which condition.
    pub only: Only,
}

/// An integer that was added to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// What it is now.
    pub value: i64,
    /// As this version.
    pub version: Version,
}

/// What is to be absent everywhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Which {
    /// One key.
    Key(CacheKey),
    /// All keys that begin so.
    Prefix(String),
    /// All keys.
    All,
}

/// What came of an invalidation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Invalidated {
    /// How many keys that had a line somewhere have none now: every copy is gone, or its lease is over.
    pub invalidated: u64,
    /// Nodes that did not answer.
    pub unanswered: Vec<NodeId>,
}

/// What its home knows of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirectoryView {
    /// `I`, `S`, `E/M` or `O`.
    pub state: String,
    /// Who may write it.
    pub owner: Option<NodeId>,
    /// Who has a copy beside the owner.
    pub sharers: Vec<NodeId>,
}

/// One node's line of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LineView {
    /// The node.
    pub peer: NodeId,
    /// Its state.
    pub state: LineState,
    /// Of its value.
    pub version: Version,
    /// What remains of the session under which it is readable.
    pub lease_ms: u64,
    /// RFC 3339: from then on it is absent.
    pub expires_at: Option<String>,
}

/// Where a key is: the body of `GET /v1/cache/{key}/state`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyState {
    /// The key.
    pub key: CacheKey,
    /// The node that is home to it; `None`: nobody now.
    pub home: Option<NodeId>,
    /// The newest version that the home knows.
    pub version: Option<Version>,
    /// What the home knows.
    pub directory: DirectoryView,
    /// The lines that there are.
    pub lines: Vec<LineView>,
    /// Nodes that did not answer: what is known of the lines that they have is what the home knows, and if it is the home
    /// that is silent, nothing is known of the directory.
    pub unanswered: Vec<NodeId>,
}

/// How many lines are in each state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names of the states")]
pub struct LinesByState {
    #[serde(rename = "M")]
    pub modified: u64,
    #[serde(rename = "O")]
    pub owned: u64,
    #[serde(rename = "E")]
    pub exclusive: u64,
    #[serde(rename = "S")]
    pub shared: u64,
}

/// What became of a node's invalidations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InvalidationCounts {
    /// As a home: told to sharers.
    pub sent: u64,
    /// As a cache: heard, by gossip or unicast.
    pub received: u64,
    /// As a home: acknowledged by sharers.
    pub acknowledged: u64,
    /// As a home: said again by unicast.
    pub repeated: u64,
    /// As a home: ended by a lease instead of an acknowledgement.
    pub expired: u64,
    /// As a cache: batches of gossip that did not come, or too late.
    #[serde(default)]
    pub missed: u64,
}

/// How long operations of one kind had to wait for others: a home, another cache, or leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StallCounts {
    /// How many had to, those included that were given up.
    pub count: u64,
    /// All their waits together, in microseconds.
    pub total_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

/// A cache node's figures since it started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheNodeView {
    /// The node.
    pub peer: NodeId,
    /// `CACHE_CAPACITY`.
    pub capacity: u64,
    /// Lines that it holds.
    pub entries: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// By state.
    pub lines: LinesByState,
    /// Reads that no message was needed for.
    pub hits: u64,
    /// Reads that needed one and got the value from its home or from another cache. They are among the misses.
    pub remote_hits: u64,
    /// Reads that needed one, by cause: `cold` (never here), `evicted`, `invalidated`, `expired`, `lease-lost`.
    pub misses: BTreeMap<String, u64>,
    /// Lines that had to make room.
    pub evictions: u64,
    /// As a home: keys that had to make room in the directory, with their values and all copies.
    #[serde(default)]
    pub directory_evictions: u64,
    /// Changes of state, as `S>M`.
    pub transitions: BTreeMap<String, u64>,
    /// Acknowledged values that are gone, because their owner died or lost its session.
    pub dirty_lost: u64,
    /// Invalidations.
    pub invalidations: InvalidationCounts,
    /// Messages sent, by kind.
    pub messages: BTreeMap<String, u64>,
    /// Bytes of these and of the answers to others' messages, without the envelopes they travel in.
    #[serde(default)]
    pub sent_bytes: u64,
    /// How long operations had to wait for others: `get`, `put`, `delete`, `increment`.
    pub stalls: BTreeMap<String, StallCounts>,
}

/// The cache of the cluster: the body of `GET /v1/cache`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheView {
    /// `CACHE_PROTOCOL`.
    pub protocol: Protocol,
    /// `CACHE_WRITE_POLICY`.
    pub write_policy: WritePolicy,
    /// The cache nodes that answered.
    pub nodes: Vec<CacheNodeView>,
    /// Those that did not.
    pub unanswered: Vec<NodeId>,
}
