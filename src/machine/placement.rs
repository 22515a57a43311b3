//! Which nodes keep which partition of the queues, as Raft replicates it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Epoch, NodeId, PartitionId, QueueName},
    machine::replication::{Position, Replica},
};

/// Whether a partition is served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionStatus {
    /// Its primary serves it.
    Serving,
    /// Nobody that holds all of it is there: it waits for the members of its last in-sync set, of whom
    /// these have said how far their journal goes.
    Waiting {
        /// By node; the positions are the ends of their logs.
        reports: BTreeMap<NodeId, Report>,
    },
    /// All members of its last in-sync set have come back without their journal, or left for good.
    JournalLost,
}

/// How far a journal goes after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Whose, now.
    pub replica: Replica,
    /// The end of its log.
    pub last: Position,
    /// It syncs, and is not behind the marks that its node keeps beside it: nothing that it
    /// acknowledged is missing.
    pub verified: bool,
}

/// Who keeps a partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Partition {
    /// Grows with each change of the rest.
    pub epoch: Epoch,
    /// Who orders its operations. `None`: nobody can now.
    pub primary: Option<Replica>,
    /// Who holds everything that was acknowledged, the primary included; where there is no primary, who
    /// did at last.
    pub in_sync: Vec<Replica>,
    /// Who is to keep it, by the ring. Those that are not in sync are being filled up.
    pub replicas: Vec<NodeId>,
    /// Whether it is served.
    pub status: PartitionStatus,
}

/// A change of one partition. Void unless the partition is still in the epoch on which it is based.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlacementChange {
    /// Which.
    pub partition: PartitionId,
    /// The epoch that its proposer knew.
    pub based_on: Epoch,
    /// What.
    pub body: PlacementBody,
}

/// What changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlacementBody {
    /// The judge of the leader: these are to keep it. A partition that nobody kept yet begins with those of
    /// them that are up. Who is no longer named leaves the in-sync set; void for a primary.
    Place(Vec<NodeId>),
    /// The judge: this member of the in-sync set becomes the primary.
    HandOver(NodeId),
    /// The primary: these do not answer and leave the in-sync set.
    Shrink(Vec<Replica>),
    /// The primary: this one holds everything now and joins the in-sync set.
    Grow(Replica),
    /// A node that was in the last in-sync set says how far its journal goes.
    Report(Report),
    /// The judge: those of the last in-sync set that stay away are waited for no longer, if a verified
    /// journal is there.
    WaitNoLonger,
    /// An operator: whoever has most of it serves it, what is missing is lost.
    AcceptLoss,
}

/// What came of a [`PlacementChange`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PlacementAnswer {
    /// Done; the partition as it is now.
    Done(Partition),
    /// Void: the partition is in another epoch, or the change does not fit it.
    Void(Partition),
    /// There is no such partition.
    NoSuchPartition,
    /// Nothing is known that could be accepted: no node has reported a journal.
    NothingToAccept,
}

/// The partition of a queue, among so many. Never changes between versions.
pub fn partition_of(queue: &QueueName, partitions: u32) -> PartitionId {
    PartitionId(u32::try_from(stable_hash(queue.as_str().as_bytes()) % u64::from(partitions.max(1))).unwrap_or(0))
}

/// A hash that never changes: FNV-1a of 64 bits, with the finaliser of SplitMix64 so that similar names
/// spread over all bits.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let fnv =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let mut mixed: u64 = fnv;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
