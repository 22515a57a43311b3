//! What travels, what is kept, and what is named in the replication of one partition.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Incarnation, JournalId, NodeId};

/// One run of a node, with the journal that it had in it: after a restart, or with another journal, it
/// is somebody else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Replica {
    /// The node.
    pub node: NodeId,
    /// Its run.
    pub incarnation: Incarnation,
    /// What it journals into.
    pub journal: JournalId,
}

/// The place of a record: the epoch in which a primary made it, and its number in the partition's log,
/// from 1. No two records have the same position; of two logs the one that ends with the greater
/// position has everything that was ever committed in either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// The epoch of the primary that made it.
    pub epoch: Epoch,
    /// Its number. 0: before the first one.
    pub seq: u64,
}

/// When a record counts as held by a replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Durability {
    /// Once it is journalled and synced: what must survive the loss of all memories.
    Synced,
    /// Once it is in memory: a lease, whose loss costs a repeated delivery. It is journalled, too, in
    /// order, without waiting.
    InMemory,
}

/// One entry of a partition's log.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its place.
    pub position: Position,
    /// When it counts as held.
    pub durability: Durability,
    /// What it says to the queues ([`Batch`](crate::machine::queue::Batch) in CBOR); empty: nothing.
    pub body: Bytes,
}
