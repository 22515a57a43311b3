//! Identifiers as types, so that a lock's name can never stand where a queue's is meant.
//!
//! Owns the validation of names (UTF-8, 1 to [`MAX_NAME_BYTES`] bytes, neither `.` nor `..`) and the
//! textual form of each id. A leaf: everything may use it, it uses nothing of the crate.

use std::{fmt, str::FromStr, sync::Arc};

use libp2p::{PeerId, identity};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most bytes in the name of a lock or queue, or in a cache key.
pub const MAX_NAME_BYTES: usize = 512;

/// A node's identity: its ed25519 public key. Shown as the libp2p peer id made from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// The node that owns this public key.
    pub fn from_public_key(key: &identity::ed25519::PublicKey) -> Self {
        Self(key.to_bytes())
    }

    /// The raw public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// An id from raw bytes, which need not be a valid key: for simulations and tests.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The peer id under which libp2p knows this node.
    pub fn peer_id(&self) -> PeerId {
        // The identity multihash of the protobuf encoding: key type 1 (ed25519), 32 bytes of key.
        let mut bytes = [0u8; 38];
        bytes[..6].copy_from_slice(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20]);
        bytes[6..].copy_from_slice(&self.0);
        PeerId::from_bytes(&bytes).expect("an identity multihash of 36 bytes is a valid peer id")
    }
}

/// Why a peer id or name was refused; the text says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// A peer id that is not an inlined ed25519 key.
    #[error("'{0}' is not the peer id of a Syncmesh node: expected one that begins with 12D3KooW")]
    PeerId(String),
    /// An empty name.
    #[error("the name is empty: expected 1 to {MAX_NAME_BYTES} bytes")]
    Empty,
    /// A name that is too long.
    #[error("the name has {0} bytes: at most {MAX_NAME_BYTES} are allowed")]
    TooLong(usize),
    /// `.` or `..`, which HTTP clients would resolve away.
    #[error("'.' and '..' are not names")]
    Dots,
    /// A session id with other characters, or of another length, than the server makes.
    #[error("a session id has 1 to 64 characters of A-Z a-z 0-9 _ -")]
    Session,
}

impl TryFrom<PeerId> for NodeId {
    type Error = InvalidId;

    fn try_from(peer: PeerId) -> Result<Self, InvalidId> {
        let bytes = peer.to_bytes();
        match bytes.as_slice() {
            [0x00, 0x24, 0x08, 0x01, 0x12, 0x20, key @ ..] if key.len() == 32 => {
                let mut id = [0u8; 32];
                id.copy_from_slice(key);
                Ok(Self(id))
            }
            _ => Err(InvalidId::PeerId(peer.to_string())),
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer_id().fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse::<PeerId>().map_err(|_| InvalidId::PeerId(text.to_owned()))?.try_into()
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            let bytes = bytes::Bytes::deserialize(deserializer)?;
            Ok(Self(bytes.as_ref().try_into().map_err(|_| D::Error::custom("a node id has 32 bytes"))?))
        }
    }
}

fn check_name(name: &str) -> Result<(), InvalidId> {
    match name {
        "" => Err(InvalidId::Empty),
        "." | ".." => Err(InvalidId::Dots),
        long if long.len() > MAX_NAME_BYTES => Err(InvalidId::TooLong(long.len())),
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidId> {
                let name: String = name.into();
                $check(&name)?;
                Ok(Self(name.into()))
            }

            /// The text of it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(name: String) -> Result<Self, InvalidId> {
                Self::new(name)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(name: &str) -> Result<Self, InvalidId> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name!(
    /// The name of a lock.
    LockName,
    check_name
);

name!(
    /// The name of a queue.
    QueueName,
    check_name
);

name!(
    /// A key of the cache.
    CacheKey,
    check_name
);

name!(
    /// The id of a message: its publisher's, or made by the node that took it.
    MessageId,
    check_name
);

/// One of the shards into which the queues are divided by the hash of their names: the unit of
/// placement, replication and journalling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// Ascending partitions in short: `3`, `5`, `8-13`.
    pub fn ranges(partitions: impl IntoIterator<Item = Self>) -> Vec<String> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for Self(number) in partitions {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => runs.push((number, number)),
            }
        }
        let run = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
        runs.into_iter().map(run).collect()
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Grows with each committed change of who serves a partition or a slot. What names an older one than
/// its receiver knows is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies what a node has journalled, from when its journal was made: another id after a restart
/// says that the earlier journal is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JournalId(pub u128);

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<JournalId> for String {
    fn from(id: JournalId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for JournalId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match (text.len(), u128::from_str_radix(&text, 16)) {
            (32, Ok(id)) => Ok(Self(id)),
            _ => Err(format!("'{text}' is not the id of a journal: expected 32 hexadecimal digits")),
        }
    }
}

fn check_session(id: &str) -> Result<(), InvalidId> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
    if (1..=64).contains(&id.len()) && id.bytes().all(allowed) { Ok(()) } else { Err(InvalidId::Session) }
}

name!(
    /// A session of the lock service, made by the node that opened it: opaque, `[A-Za-z0-9_-]{1,64}`.
    SessionId,
    check_session
);

/// Identifies a cluster for good: drawn at random when it is founded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for ClusterId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match (text.len(), u128::from_str_radix(&text, 16)) {
            (32, Ok(id)) => Ok(Self(id)),
            _ => Err(format!("'{text}' is not a cluster id: expected 32 hexadecimal digits")),
        }
    }
}

/// Counts the starts of a node, so that a peer before and after a restart are told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Orders all grants of the cluster, for ever: a resource that refuses smaller tokens than the
/// greatest it has seen is safe from holders that do not know yet that they lost the lock
/// (Kleppmann, "How to do distributed locking", 2016). Below 2^53, so that JSON carries it exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct FencingToken(pub u64);

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Raft term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Term(pub u64);

/// Milliseconds: of the Unix epoch where a log entry carries it (the proposer's wall clock, made
/// monotone when applied), of `CLOCK_BOOTTIME` where a node measures durations. Never mix the two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Tick(pub u64);

impl Tick {
    /// This moment and so many milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// So many milliseconds before this moment.
    #[must_use]
    pub fn minus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// Milliseconds since `earlier`, 0 if it is not earlier.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One request of one node: `seq` grows within an incarnation. Doubles as the id under which a
/// deferred answer is completed, and as the name under which the replicated state remembers the
/// answer (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RequestId {
    /// The node that asks.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its count of requests.
    pub seq: u64,
}

/// What a node does for the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Votes in Raft and serves locks.
    LockManager,
    /// Keeps queue partitions.
    QueueNode,
    /// Keeps cache lines and is home to cache slots.
    CacheNode,
    /// Founder, rendezvous and gateway.
    Bootstrap,
}

impl Role {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::LockManager, Self::QueueNode, Self::CacheNode, Self::Bootstrap];

    /// The name in settings, tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LockManager => "lock-manager",
            Self::QueueNode => "queue-node",
            Self::CacheNode => "cache-node",
            Self::Bootstrap => "bootstrap",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            format!("'{text}' is not a role: expected lock-manager, queue-node, cache-node or bootstrap")
        })
    }
}
