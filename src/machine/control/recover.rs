//! The last resort: one lock manager goes on alone with what it has, and nothing of before counts any more.
//!
//! Applied once, offline, to the state that the log of that node makes; the other lock managers are gone, and whatever
//! they decided that this one never heard of is lost. What fences data goes up by more than anything lost can have raised
//! it by: tokens, the epochs of partitions and slots, the version of the view.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ControlState;
use crate::{
    ids::{NodeId, Role, Term, Tick},
    machine::{
        lock::{RecordCounts, token_floor},
        membership::{MemberAnswer, MemberChange},
        placement::PartitionStatus,
    },
};

/// Epochs and the version of the view grow by so much: far beyond what the entries that are lost can have raised them by,
/// and still a number that JSON carries exactly after a million recoveries.
pub const RECOVERY_JUMP: u64 = 1 << 32;

/// What a recovery made of the state, for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recovery {
    /// Who may not come back under its id.
    pub barred: Vec<NodeId>,
    /// Members that stay: they have no part in Raft.
    pub stay: Vec<NodeId>,
    /// What the lock table holds.
    pub locks: RecordCounts,
    /// The last fencing token before.
    pub token_before: u64,
    /// Tokens count on from here.
    pub token: u64,
    /// Partitions of the queues of which somebody who stays, or comes back, may have everything.
    pub partitions_waiting: usize,
    /// Partitions of the queues of which nobody is left who had everything.
    pub partitions_lost: usize,
}

/// Why a state cannot be recovered by this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotRecoverable {
    /// The node never heard what its cluster is.
    #[error("its log does not say what cluster it is of: it never took part in one, so there is nothing to go on with")]
    NoCluster,
    /// The others decided that it is none of them.
    #[error("it left this cluster, or was removed from it, by its own log: use a lock manager that is a member")]
    NoMember,
    /// The list of the barred is full.
    #[error("so many peers are barred already that the lost ones cannot be barred too")]
    TooManyBarred,
}

impl ControlState {
    /// Makes of this state one with which the lock manager `me` goes on alone. `voted` is who had a part in Raft.
    ///
    /// # Errors
    /// [`NotRecoverable`]; use the state no more then.
    pub fn recover(&mut self, at: Tick, me: NodeId, voted: &BTreeSet<NodeId>) -> Result<Recovery, NotRecoverable> {
        if self.cluster.is_none() {
            return Err(NotRecoverable::NoCluster);
        }
        if self.members.barred().contains_key(&me) || !self.members.members().get(&me).is_some_and(|m| m.belongs()) {
            return Err(NotRecoverable::NoMember);
        }
        let token_before = self.locks.token().0;
        self.locks.raise_token(token_floor(token_before, at.0 / 1000));
        self.locks.forget_remainders();
        let barred = self.bar_lock_managers(at, me, voted)?;
        self.members.raise_version(RECOVERY_JUMP);
        self.placement.recover(&self.members, RECOVERY_JUMP);
        self.slots.recover(RECOVERY_JUMP);
        self.restoring = None;
        let partitions = || self.placement.partitions().values().filter(|partition| partition.is_placed());
        let lost = partitions().filter(|partition| partition.status == PartitionStatus::JournalLost).count();
        let stay = self.members.members().iter().filter(|(node, member)| **node != me && member.belongs());
        Ok(Recovery {
            barred,
            stay: stay.map(|(node, _)| *node).collect(),
            locks: self.locks.record_counts(),
            token_before,
            token: self.locks.token().0,
            partitions_waiting: partitions().count() - lost,
            partitions_lost: lost,
        })
    }

    /// All other lock managers, with a vote or without: their logs may hold what this one lacks, and what it decides from
    /// now on contradicts them.
    fn bar_lock_managers(
        &mut self,
        at: Tick,
        me: NodeId,
        voted: &BTreeSet<NodeId>,
    ) -> Result<Vec<NodeId>, NotRecoverable> {
        let listed = self.members.members().iter().filter(|(_, member)| member.has_role(Role::LockManager));
        let all: BTreeSet<NodeId> = listed.map(|(node, _)| *node).chain(voted.iter().copied()).collect();
        let others: Vec<NodeId> = all.into_iter().filter(|node| *node != me).collect();
        for node in &others {
            let mut news = Vec::new();
            match self.members.change(at, Term(0), MemberChange::Remove(*node), &mut news) {
                MemberAnswer::Full => return Err(NotRecoverable::TooManyBarred),
                // Of whom the members know nothing any more: it voted all the same.
                MemberAnswer::NotFound if !self.members.bar(at, *node) => return Err(NotRecoverable::TooManyBarred),
                _ => self.answers.forget(node),
            }
        }
        Ok(others)
    }
}

#[cfg(test)]
mod tests;
