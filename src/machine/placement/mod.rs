//! Which nodes keep which partition of the queues, as Raft replicates it.
//!
//! Owns the epochs, primaries, in-sync sets and replicas of all partitions. Changed only by committed entries: by
//! [`PlacementChange`]s, and by what happens to members, so that whoever follows a primary that died is chosen when
//! the entry that says so is applied. What is wanted is not decided here: [`plan`] says it to the leader.
//!
//! Here is the state and what changes it, in [`changes`] the rules of each change, in [`recovery`] what follows when
//! nobody who holds everything is left; [`ring`] says who a partition belongs to, [`packed`] how all of it travels.

mod changes;
pub mod packed;
pub mod plan;
mod recovery;
pub mod ring;
mod types;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{
    packed::Partitions,
    ring::{Ring, partition_of, stable_hash},
    types::*,
};
use super::{membership::Membership, replication::Replica};
use crate::ids::{Epoch, Incarnation, NodeId, PartitionId};

/// Most partitions of a cluster: the greatest `QUEUE_PARTITIONS`.
pub const MAX_PARTITIONS: u32 = 1_024;
/// Most nodes that a partition can be given to: the greatest `QUEUE_REPLICAS`, twice while they are exchanged.
pub const MAX_REPLICAS: usize = 14;

/// Reports of those who are to keep a partition, by node.
type Reports = BTreeMap<NodeId, Report>;

/// All partitions. The version grows with every change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Placement {
    version: u64,
    #[serde(with = "packed")]
    partitions: Partitions,
    /// What was reported of partitions whose journals are lost: an operator may accept it.
    lost: BTreeMap<PartitionId, Reports>,
}

impl Placement {
    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All of them, shared.
    pub fn partitions(&self) -> &Partitions {
        &self.partitions
    }

    /// The cluster was founded: so many partitions, at most [`MAX_PARTITIONS`], which nobody keeps yet.
    pub fn found(&mut self, partitions: u32) {
        let ids = (0..partitions.min(MAX_PARTITIONS)).map(PartitionId);
        self.partitions = Arc::new(ids.map(|id| (id, Partition::unplaced())).collect());
        self.version += 1;
    }

    /// Whether this run of a node may ask for a change. What is void anyhow may be asked by anyone: the answer is
    /// how a primary hears that it was deposed.
    pub fn may_come_from(&self, node: &NodeId, incarnation: Incarnation, change: &PlacementChange) -> bool {
        match &change.body {
            PlacementBody::AcceptLoss => true,
            PlacementBody::Report(Report { replica, .. }) => {
                replica.node == *node && replica.incarnation == incarnation
            }
            PlacementBody::Shrink(_) | PlacementBody::Confirm | PlacementBody::Grow(_) | PlacementBody::HandOver(_) => {
                self.partitions
                    .get(&change.partition)
                    .is_none_or(|now| now.epoch != change.based_on || now.is_primary(node, incarnation))
            }
            PlacementBody::Place(_) | PlacementBody::WaitNoLonger => false,
        }
    }

    /// Applies a change.
    pub fn apply(&mut self, members: &Membership, change: PlacementChange) -> PlacementAnswer {
        let PlacementChange { partition: id, based_on, body } = change;
        let Some(now) = self.partitions.get(&id) else { return PlacementAnswer::NoSuchPartition };
        if now.epoch != based_on {
            return PlacementAnswer::Void(now.clone());
        }
        let lost = self.lost.get(&id);
        let outcome = match body {
            PlacementBody::Place(nodes) => changes::place(now, members, nodes),
            PlacementBody::HandOver(to) => changes::hand_over(now, members, &to),
            PlacementBody::Shrink(away) => changes::shrink(now, &away),
            PlacementBody::Confirm => changes::confirm(now),
            PlacementBody::Grow(joiner) => changes::grow(now, members, joiner),
            PlacementBody::Report(report) => recovery::report(now, members, lost, report),
            PlacementBody::WaitNoLonger => recovery::wait_no_longer(now),
            PlacementBody::AcceptLoss => {
                if let Some(node) = recovery::awaited_though_up(now, members) {
                    return PlacementAnswer::Awaited(node);
                }
                match recovery::accept_loss(now, members, lost) {
                    Change::Void if !now.is_serving() => return PlacementAnswer::NothingToAccept,
                    change => change,
                }
            }
        };
        let is_void = outcome == Change::Void;
        self.change(id, outcome);
        let now = self.partitions[&id].clone();
        if is_void { PlacementAnswer::Void(now) } else { PlacementAnswer::Done(now) }
    }

    /// Something happened to a member: who is gone, or somebody else now, is in sync no more, and whoever was waited
    /// for may be waited for in vain.
    pub fn member_changed(&mut self, members: &Membership, node: &NodeId) {
        let ids: Vec<PartitionId> = self.partitions.iter().filter(|(_, p)| p.is_placed()).map(|(id, _)| *id).collect();
        for id in ids {
            let now = &self.partitions[&id];
            let outcome = match now.status {
                PartitionStatus::Serving => changes::departed(now, members, node),
                PartitionStatus::Waiting { .. } | PartitionStatus::JournalLost => {
                    recovery::settle(now, members, self.lost.get(&id))
                }
            };
            self.change(id, outcome);
        }
    }

    /// What is known of the partitions may be old: whoever decided on them is gone. All of them get an epoch that nobody
    /// can have had, and those that somebody kept wait for all who may have everything, by what is known here: whoever has
    /// the most of it goes on. Nobody counts as one that never stopped, because what it was may have changed unheard.
    pub fn recover(&mut self, members: &Membership, epochs: u64) {
        let partitions = Arc::make_mut(&mut self.partitions);
        let mut settled = Vec::new();
        for (id, partition) in partitions.iter_mut() {
            partition.epoch = Epoch(partition.epoch.0 + epochs);
            if !partition.is_placed() || partition.status == PartitionStatus::JournalLost {
                continue;
            }
            let mut holders: Vec<Replica> = Vec::new();
            for replica in partition.holders.iter().chain(&partition.in_sync) {
                let known = Replica { incarnation: Incarnation(0), ..*replica };
                if !holders.contains(&known) {
                    holders.push(known);
                }
            }
            let status = PartitionStatus::Waiting { reports: BTreeMap::new() };
            *partition = Partition { primary: None, in_sync: holders.clone(), holders, status, ..partition.clone() };
            settled.push((*id, recovery::settle(partition, members, None)));
        }
        for (id, outcome) in settled {
            self.change(id, outcome);
        }
        self.version += epochs;
    }

    fn change(&mut self, id: PartitionId, change: Change) {
        let (mut after, reports) = match change {
            Change::None | Change::Void => return,
            Change::Noted(reports) => {
                self.lost.insert(id, reports);
                return;
            }
            Change::To(after) => (after, None),
            Change::Lost(after, reports) => (after, Some(reports)),
        };
        match reports {
            Some(reports) => _ = self.lost.insert(id, reports),
            None => _ = self.lost.remove(&id),
        }
        let partitions = Arc::make_mut(&mut self.partitions);
        if let Some(before) = partitions.get(&id) {
            after.epoch = before.epoch.next();
        }
        partitions.insert(id, after);
        self.version += 1;
    }
}

/// What becomes of a partition. The epoch is set by whoever installs it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    /// It is so already.
    None,
    /// The change does not fit.
    Void,
    /// This.
    To(Partition),
    /// Its journals are lost, but for what these would have.
    Lost(Partition, Reports),
    /// It stays as it is, with these reports kept beside it.
    Noted(Reports),
}
