//! Who keeps a partition, and what changes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Epoch, Incarnation, JournalId, NodeId, PartitionId},
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

impl Report {
    /// The journal of a replica that knows that its journal lacks what it acknowledged: it is not the one that was in
    /// sync, and no report of it counts for more than an operator's choice.
    pub const NOT_WHAT_IT_WAS: JournalId = JournalId(0);
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
    /// Who surely holds everything that was acknowledged: who is in sync, and who was when the primary last
    /// [confirmed](PlacementBody::Confirm) that it goes on without others. Until then nothing is acknowledged that one
    /// of these does not hold; so one of them is enough to go on from, though the others are lost.
    pub holders: Vec<Replica>,
    /// Who is to keep it, by the ring. Those that are not in sync are being filled up.
    pub replicas: Vec<NodeId>,
    /// Whether it is served.
    pub status: PartitionStatus,
}

impl Partition {
    /// One that nobody keeps yet.
    pub fn unplaced() -> Self {
        Self {
            epoch: Epoch(0),
            primary: None,
            in_sync: Vec::new(),
            holders: Vec::new(),
            replicas: Vec::new(),
            status: PartitionStatus::Waiting { reports: BTreeMap::new() },
        }
    }

    /// Whether somebody has kept it: from then on somebody holds what was acknowledged, there or not.
    pub fn is_placed(&self) -> bool {
        !self.in_sync.is_empty()
    }

    /// Whether its primary serves it.
    pub fn is_serving(&self) -> bool {
        self.status == PartitionStatus::Serving
    }

    /// Who of this node is, or was at last, in sync.
    pub fn in_sync_replica(&self, node: &NodeId) -> Option<&Replica> {
        self.in_sync.iter().find(|replica| replica.node == *node)
    }

    /// Whether this node is, or was at last, in sync.
    pub fn is_in_sync(&self, node: &NodeId) -> bool {
        self.in_sync_replica(node).is_some()
    }

    /// Whether this node may hold something that nobody else has, as far as is known.
    pub fn is_held_by(&self, node: &NodeId) -> bool {
        self.holders.iter().any(|replica| replica.node == *node)
    }

    /// Whether this run of a node is its primary.
    pub fn is_primary(&self, node: &NodeId, incarnation: Incarnation) -> bool {
        self.primary.is_some_and(|primary| primary.node == *node && primary.incarnation == incarnation)
    }

    /// Whether this node has to do with it: keeps it, is to keep it, may be needed, or is waited for.
    pub fn concerns(&self, node: &NodeId) -> bool {
        self.replicas.contains(node) || self.is_held_by(node)
    }
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
    /// The judge, or the primary itself, which cannot go on: this member of the in-sync set becomes the
    /// primary.
    HandOver(NodeId),
    /// The primary: these do not answer and leave the in-sync set.
    Shrink(Vec<Replica>),
    /// The primary: everyone in sync holds the beginning of its reign, and it acknowledges from now on what
    /// others do not hold. They are no [holders](Partition::holders) any more.
    Confirm,
    /// The primary: this one holds everything now and joins the in-sync set. Void where that is not confirmed.
    Grow(Replica),
    /// A node that was in the last in-sync set says how far its journal goes. Of another node that is to
    /// keep the partition it counts for [`AcceptLoss`](Self::AcceptLoss) only.
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
    /// This node is up and may have everything: it has only not said yet how far its journal goes.
    Awaited(NodeId),
}
