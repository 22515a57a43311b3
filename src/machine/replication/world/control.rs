//! The control plane of a [`World`](super::World): the rules of the placement, at their plainest.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::index;
use crate::{
    ids::{Epoch, NodeId},
    machine::{
        placement::{Partition, PartitionStatus, PlacementBody, PlacementChange, Report},
        replication::Replica,
    },
};

/// A run of a node, as the control plane knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Member {
    pub(super) replica: Replica,
    pub(super) up: bool,
}

/// A request to the control plane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(in super::super) struct Asking {
    pub(super) from: usize,
    pub(super) incarnation: u64,
    pub(super) ask: u64,
}

/// The placement of one partition with its history, and who is there.
#[derive(Clone, Debug)]
pub(super) struct Control {
    pub(super) history: Vec<Arc<Partition>>,
    pub(super) members: Vec<Member>,
    pub(super) pending: BTreeMap<Asking, PlacementChange>,
    /// Epoch of the placement after it, and whether it was done.
    pub(super) answers: BTreeMap<Asking, (Epoch, bool)>,
}

impl Hash for Control {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.members.hash(state);
        self.answers.hash(state);
        self.pending.keys().for_each(|asking| asking.hash(state));
        for partition in &self.history {
            (partition.epoch, partition.primary, &partition.in_sync, &partition.holders).hash(state);
            partition.replicas.hash(state);
            if let PartitionStatus::Waiting { reports } = &partition.status {
                reports.values().for_each(|report| (report.replica, report.last).hash(state));
            }
        }
    }
}

impl Control {
    pub(super) fn now(&self) -> &Partition {
        self.history.last().expect("it was placed")
    }

    pub(super) fn at(&self, epoch: Epoch) -> &Partition {
        self.history.iter().find(|partition| partition.epoch == epoch).expect("an epoch that was")
    }

    pub(super) fn replica(&self, node: &NodeId) -> Option<Replica> {
        Some(self.members[index(node)]).filter(|member| member.up).map(|member| member.replica)
    }

    pub(super) fn to(&mut self, change: impl FnOnce(&mut Partition)) {
        let mut next = self.now().clone();
        change(&mut next);
        next.epoch = next.epoch.next();
        self.history.push(Arc::new(next));
    }

    /// Answers a request: from memory, where it was answered before.
    pub(super) fn answer(&mut self, asking: Asking, forgets: bool) -> (Epoch, bool) {
        let change = self.pending[&asking].clone();
        if !forgets {
            self.pending.remove(&asking);
        }
        if let Some(answer) = self.answers.get(&asking) {
            return *answer;
        }
        let done = self.apply(&change);
        let answer = (self.now().epoch, done);
        self.answers.insert(asking, answer);
        answer
    }

    /// Whether it was done.
    pub(super) fn apply(&mut self, change: &PlacementChange) -> bool {
        let now = self.now().clone();
        if now.epoch != change.based_on {
            return false;
        }
        let serving = now.status == PartitionStatus::Serving;
        match &change.body {
            PlacementBody::Shrink(away) if serving && now.primary.is_some_and(|primary| !away.contains(&primary)) => {
                self.to(|next| next.in_sync.retain(|replica| !away.contains(replica)));
            }
            PlacementBody::Confirm if serving => {
                if now.holders != now.in_sync {
                    self.to(|next| next.holders.clone_from(&now.in_sync));
                }
            }
            PlacementBody::Grow(joiner) if serving && self.replica(&joiner.node) == Some(*joiner) => {
                if now.in_sync.contains(joiner) {
                    return true;
                }
                if now.holders != now.in_sync {
                    return false;
                }
                self.to(|next| {
                    next.in_sync.push(*joiner);
                    next.holders.push(*joiner);
                });
            }
            PlacementBody::HandOver(to) if serving => {
                let Some(member) = now.in_sync.iter().find(|replica| replica.node == *to).copied() else {
                    return false;
                };
                if self.replica(to) != Some(member) {
                    return false;
                }
                self.to(|next| next.primary = Some(member));
            }
            PlacementBody::Report(report) => return self.report(*report),
            _ => return false,
        }
        true
    }

    pub(super) fn report(&mut self, report: Report) -> bool {
        let now = self.now().clone();
        let PartitionStatus::Waiting { reports } = &now.status else { return false };
        if self.replica(&report.replica.node) != Some(report.replica) {
            return false;
        }
        let mut reports = reports.clone();
        reports.insert(report.replica.node, report);
        self.to(|next| next.status = PartitionStatus::Waiting { reports });
        self.settle();
        true
    }

    /// Once nobody who holds everything is awaited any more, or one of them has never stopped, the greatest position wins.
    pub(super) fn settle(&mut self) {
        let now = self.now().clone();
        let PartitionStatus::Waiting { reports } = &now.status else { return };
        let mut valid = reports.clone();
        valid.retain(|node, report| self.replica(node) == Some(report.replica));
        let journal = |member: &Replica| self.members[index(&member.node)].replica.journal == member.journal;
        let kept: Vec<&Replica> = now.in_sync.iter().filter(|member| journal(member)).collect();
        let reported: Vec<Report> = kept.iter().filter_map(|member| valid.get(&member.node).copied()).collect();
        let never_stopped = reported.iter().any(|report| now.in_sync.contains(&report.replica));
        if reported.len() < kept.len() && !never_stopped {
            if valid != *reports {
                self.to(|next| next.status = PartitionStatus::Waiting { reports: valid });
            }
            return;
        }
        match reported.iter().max_by_key(|report| report.last) {
            Some(best) => self.to(|next| {
                let others = kept.iter().filter(|member| member.node != best.replica.node).map(|member| **member);
                next.primary = Some(best.replica);
                next.in_sync = vec![best.replica];
                next.holders = std::iter::once(best.replica).chain(others).collect();
                next.status = PartitionStatus::Serving;
            }),
            None => self.to(|next| next.status = PartitionStatus::JournalLost),
        }
    }

    /// Something happened to a node.
    pub(super) fn member_changed(&mut self, node: &NodeId) {
        let now = self.now().clone();
        if now.status != PartitionStatus::Serving {
            return self.settle();
        }
        let gone = now.in_sync.iter().find(|member| member.node == *node && self.replica(node) != Some(**member));
        let Some(gone) = gone.copied() else { return };
        let left: Vec<Replica> = now.in_sync.iter().filter(|member| **member != gone).copied().collect();
        if left.is_empty() {
            self.to(|next| {
                next.primary = None;
                next.in_sync.clone_from(&now.holders);
                next.status = PartitionStatus::Waiting { reports: BTreeMap::new() };
            });
            return self.settle();
        }
        let in_order = now.replicas.iter().find_map(|node| left.iter().find(|member| member.node == *node));
        let successor = in_order.or(left.first()).copied();
        self.to(|next| {
            next.in_sync = left;
            if next.primary == Some(gone) {
                next.primary = successor;
            }
        });
    }
}
