//! The bodies of answers about the cache, as API.md words them.
//!
//! The server writes them and the client reads them, so that the two cannot drift apart. Values are no bodies of
//! these: they travel as raw bytes, with what is said of them in headers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ids::{CacheKey, NodeId},
    machine::cache::{LineState, Version},
    node::caches::{
        CacheNodeView, CacheView, Counted, DirectoryView, Invalidated, InvalidationCounts, KeyState, LineView,
        LinesByState, StallCounts,
    },
};

/// The header that says whether a value came from the memory of the node that was called.
pub const X_CACHE: &str = "x-cache";

/// The header with the state of the line that a value came from.
pub const X_CACHE_STATE: &str = "x-cache-state";

/// What [`X_CACHE`] says where no message left the node that was called.
pub const HIT: &str = "hit";

/// What it says elsewhere.
pub const REMOTE: &str = "remote";

/// An integer that was added to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CountedBody {
    /// What it is now.
    pub value: i64,
    /// As this version, which is compared for equality only.
    pub version: String,
}

impl From<Counted> for CountedBody {
    fn from(counted: Counted) -> Self {
        Self { value: counted.value, version: counted.version.to_string() }
    }
}

/// What came of an invalidation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct InvalidatedBody {
    /// How many keys that had a line somewhere have none now: every copy is gone, or its lease is over.
    pub invalidated: u64,
    /// Nodes that did not answer.
    #[schema(value_type = Vec<String>)]
    pub unanswered: Vec<NodeId>,
}

impl From<Invalidated> for InvalidatedBody {
    fn from(outcome: Invalidated) -> Self {
        Self { invalidated: outcome.invalidated, unanswered: outcome.unanswered }
    }
}

/// What its home knows of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DirectoryBody {
    /// `I`: no line; `S`: copies; `E/M`: one owner; `O`: an owner with sharers.
    pub state: String,
    /// Who may write it.
    #[schema(value_type = Option<String>)]
    pub owner: Option<NodeId>,
    /// Who has a copy beside the owner.
    #[schema(value_type = Vec<String>)]
    pub sharers: Vec<NodeId>,
}

impl From<DirectoryView> for DirectoryBody {
    fn from(view: DirectoryView) -> Self {
        let DirectoryView { state, owner, sharers } = view;
        Self { state, owner, sharers }
    }
}

/// One node's line of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LineBody {
    /// The node.
    #[schema(value_type = String)]
    pub peer: NodeId,
    /// `M`, `O`, `E` or `S`; while a request is under way also `IS`, `IM`, `SM`, `OM`, and `EI`, `OI`, `MI` while it is
    /// being returned.
    #[schema(value_type = String)]
    pub state: LineState,
    /// Of its value.
    pub version: String,
    /// What remains of the session under which it is readable, in milliseconds.
    pub lease_ms: u64,
    /// RFC 3339: from then on it is absent.
    pub expires_at: Option<String>,
}

impl From<LineView> for LineBody {
    fn from(view: LineView) -> Self {
        let LineView { peer, state, version, lease_ms, expires_at } = view;
        Self { peer, state, version: version.to_string(), lease_ms, expires_at }
    }
}

/// Where a key is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyStateBody {
    /// The key.
    #[schema(value_type = String)]
    pub key: CacheKey,
    /// The node that is home to it; null: nobody now.
    #[schema(value_type = Option<String>)]
    pub home: Option<NodeId>,
    /// The newest version that the home knows: an owner may have a newer one.
    pub version: Option<String>,
    /// What the home knows.
    pub directory: DirectoryBody,
    /// The lines that there are.
    pub lines: Vec<LineBody>,
    /// Who did not answer: their lines are not shown, and of a home that is silent the directory is not known.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub unanswered: Vec<NodeId>,
}

impl From<KeyState> for KeyStateBody {
    fn from(state: KeyState) -> Self {
        let KeyState { key, home, version, directory, lines, unanswered } = state;
        Self {
            key,
            home,
            version: version.as_ref().map(Version::to_string),
            directory: directory.into(),
            lines: lines.into_iter().map(LineBody::from).collect(),
            unanswered,
        }
    }
}

/// How many lines are in each state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names of the states")]
pub struct LinesBody {
    pub m: u64,
    pub o: u64,
    pub e: u64,
    pub s: u64,
}

impl From<LinesByState> for LinesBody {
    fn from(lines: LinesByState) -> Self {
        Self { m: lines.modified, o: lines.owned, e: lines.exclusive, s: lines.shared }
    }
}

/// What became of a node's invalidations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct InvalidationsBody {
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

impl From<InvalidationCounts> for InvalidationsBody {
    fn from(counts: InvalidationCounts) -> Self {
        let InvalidationCounts { sent, received, acknowledged, repeated, expired, missed } = counts;
        Self { sent, received, acknowledged, repeated, expired, missed }
    }
}

/// How long operations of one kind had to wait for others: a home, another cache, or leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct StallsBody {
    /// How many had to, those included that were given up.
    pub count: u64,
    /// All their waits together, in microseconds.
    pub total_us: u64,
    /// The longest, in microseconds.
    pub max_us: u64,
}

impl From<StallCounts> for StallsBody {
    fn from(counts: StallCounts) -> Self {
        let StallCounts { count, total_us, max_us } = counts;
        Self { count, total_us, max_us }
    }
}

/// A cache node's figures since it started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CacheNodeBody {
    /// The node.
    #[schema(value_type = String)]
    pub peer: NodeId,
    /// `CACHE_CAPACITY`.
    pub capacity: u64,
    /// Lines that it holds.
    pub entries: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// By state.
    pub lines: LinesBody,
    /// Reads that no message was needed for.
    pub hits: u64,
    /// Reads that needed one and got the value from its home or from another cache. They are among the misses.
    pub remote_hits: u64,
    /// Reads that needed one.
    pub misses: u64,
    /// The same by cause: `cold` (never here), `evicted`, `invalidated`, `expired`, `lease-lost`.
    pub misses_by_cause: BTreeMap<String, u64>,
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
    pub invalidations: InvalidationsBody,
    /// Messages sent, by kind.
    pub messages: BTreeMap<String, u64>,
    /// Bytes of these and of the answers to others' messages, without the envelopes they travel in.
    #[serde(default)]
    pub sent_bytes: u64,
    /// How long operations had to wait for others: `get`, `put`, `delete`, `increment`.
    pub stalls: BTreeMap<String, StallsBody>,
}

impl From<CacheNodeView> for CacheNodeBody {
    fn from(view: CacheNodeView) -> Self {
        Self {
            peer: view.peer,
            capacity: view.capacity,
            entries: view.entries,
            bytes: view.bytes,
            lines: view.lines.into(),
            hits: view.hits,
            remote_hits: view.remote_hits,
            misses: view.misses.values().sum(),
            misses_by_cause: view.misses,
            evictions: view.evictions,
            directory_evictions: view.directory_evictions,
            transitions: view.transitions,
            dirty_lost: view.dirty_lost,
            invalidations: view.invalidations.into(),
            messages: view.messages,
            sent_bytes: view.sent_bytes,
            stalls: view.stalls.into_iter().map(|(operation, counts)| (operation, counts.into())).collect(),
        }
    }
}

/// The cache of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct CacheBody {
    /// `CACHE_PROTOCOL`: `MESI`, `MOSI` or `MOESI`.
    pub protocol: String,
    /// `CACHE_WRITE_POLICY`: `back` or `through`.
    pub write_policy: String,
    /// The cache nodes that answered.
    pub nodes: Vec<CacheNodeBody>,
    /// Those that did not.
    #[schema(value_type = Vec<String>)]
    pub unanswered: Vec<NodeId>,
}

impl From<CacheView> for CacheBody {
    fn from(view: CacheView) -> Self {
        Self {
            protocol: view.protocol.as_str().to_owned(),
            write_policy: view.write_policy.as_str().to_owned(),
            nodes: view.nodes.into_iter().map(CacheNodeBody::from).collect(),
            unanswered: view.unanswered,
        }
    }
}

/// A state as [`X_CACHE_STATE`] names it: a line that waits for the right to write is still what it was, and a value
/// that was not kept has none.
pub(super) fn readable_state(state: LineState) -> &'static str {
    match state {
        LineState::M => "M",
        LineState::O | LineState::OM => "O",
        LineState::E => "E",
        LineState::S | LineState::SM => "S",
        LineState::I | LineState::IS | LineState::IM | LineState::EI | LineState::OI | LineState::MI => "I",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        ids::Epoch,
        machine::cache::{Protocol, WritePolicy},
    };

    fn node() -> NodeId {
        NodeId::from_bytes([1; 32])
    }

    #[test]
    fn versions_are_opaque_texts_and_states_their_own_names() {
        let version = Version { epoch: Epoch(3), seq: 17, n: 0 };
        let line = LineView { peer: node(), state: LineState::SM, version, lease_ms: 1900, expires_at: None };
        let state = KeyState {
            key: CacheKey::new("a/b").unwrap(),
            home: Some(node()),
            version: Some(version),
            directory: DirectoryView { state: "E/M".into(), owner: Some(node()), sharers: Vec::new() },
            lines: vec![line],
            unanswered: vec![node()],
        };
        let json = serde_json::to_value(KeyStateBody::from(state)).unwrap();
        let peer = node().to_string();
        let line =
            json!({"peer": peer, "state": "SM", "version": version.to_string(), "lease_ms": 1900, "expires_at": null});
        let directory = json!({"state": "E/M", "owner": peer, "sharers": []});
        let version = version.to_string();
        assert_eq!(
            json,
            json!({
                "key": "a/b", "home": peer, "version": version, "directory": directory, "lines": [line],
                "unanswered": [peer]
            })
        );
    }

    #[test]
    fn misses_are_one_number_and_their_causes_beside_it() {
        let view = CacheNodeView {
            peer: node(),
            capacity: 10,
            entries: 3,
            bytes: 30,
            lines: LinesByState { modified: 1, owned: 0, exclusive: 0, shared: 2 },
            hits: 7,
            remote_hits: 2,
            misses: BTreeMap::from([("cold".into(), 2), ("evicted".into(), 1)]),
            evictions: 1,
            directory_evictions: 0,
            transitions: BTreeMap::from([("S>M".into(), 1)]),
            dirty_lost: 0,
            invalidations: InvalidationCounts { sent: 5, ..InvalidationCounts::default() },
            messages: BTreeMap::from([("get-s".into(), 3)]),
            sent_bytes: 300,
            stalls: BTreeMap::from([("get".into(), StallCounts { count: 3, total_us: 900, max_us: 500 })]),
        };
        let view = CacheView {
            protocol: Protocol::Moesi,
            write_policy: WritePolicy::Through,
            nodes: vec![view],
            unanswered: Vec::new(),
        };
        let json = serde_json::to_value(CacheBody::from(view)).unwrap();
        assert_eq!((&json["protocol"], &json["write_policy"]), (&json!("MOESI"), &json!("through")));
        let node = &json["nodes"][0];
        assert_eq!((&node["hits"], &node["misses"]), (&json!(7), &json!(3)), "{node}");
        assert_eq!(node["misses_by_cause"], json!({"cold": 2, "evicted": 1}));
        assert_eq!(node["lines"], json!({"M": 1, "O": 0, "E": 0, "S": 2}));
        assert_eq!(node["invalidations"]["sent"], 5);
        assert_eq!(node["remote_hits"], 2);
        assert_eq!(node["stalls"], json!({"get": {"count": 3, "total_us": 900, "max_us": 500}}));
    }
}
