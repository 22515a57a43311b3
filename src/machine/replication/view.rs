//! What a replica knows of the placement of its partition.

use std::collections::BTreeSet;

use super::Replica;
use crate::{
    ids::{Epoch, NodeId},
    machine::placement::{Partition, PartitionStatus},
};

/// A placement, as far as the protocol needs it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct View {
    pub(super) epoch: Epoch,
    pub(super) primary: Option<Replica>,
    pub(super) in_sync: Vec<Replica>,
    /// Who must hold what is committed: who is in sync, and who was until that is confirmed.
    pub(super) holders: Vec<Replica>,
    pub(super) replicas: Vec<NodeId>,
    /// Nobody serves it, and it was placed once: whose journals are known, if that shows.
    pub(super) reported: Option<BTreeSet<Replica>>,
}

impl View {
    pub(super) fn new(partition: &Partition) -> Self {
        let reported = match &partition.status {
            PartitionStatus::Serving => None,
            PartitionStatus::Waiting { reports } => Some(reports.values().map(|report| report.replica).collect()),
            PartitionStatus::JournalLost => Some(BTreeSet::new()),
        };
        Self {
            epoch: partition.epoch,
            primary: partition.primary,
            in_sync: partition.in_sync.clone(),
            holders: partition.holders.clone(),
            replicas: partition.replicas.clone(),
            reported: reported.filter(|_| !partition.in_sync.is_empty()),
        }
    }

    /// Who of this node counts for commits.
    pub(super) fn holder(&self, node: &NodeId) -> Option<Replica> {
        self.holders.iter().find(|replica| replica.node == *node).copied()
    }

    /// Whether this node is to have the partition, or had it at last.
    pub(super) fn concerns(&self, node: &NodeId) -> bool {
        self.replicas.contains(node) || self.holder(node).is_some()
    }

    /// All nodes but this one that have it or are to have it.
    pub(super) fn others(&self, me: &NodeId) -> BTreeSet<NodeId> {
        let holders = self.holders.iter().map(|replica| replica.node);
        self.replicas.iter().copied().chain(holders).filter(|node| node != me).collect()
    }
}
