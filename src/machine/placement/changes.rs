//! The rules of each change of a partition that somebody serves, or nobody yet.

use std::collections::BTreeMap;

use super::{Change, MAX_REPLICAS, Partition, PartitionStatus, recovery};
use crate::{
    ids::{NodeId, Role},
    machine::{
        membership::{Liveness, Membership},
        replication::Replica,
    },
};

/// These are to keep it. A partition that nobody kept yet begins with those of them that are up.
pub(super) fn place(now: &Partition, members: &Membership, nodes: Vec<NodeId>) -> Change {
    if nodes == now.replicas {
        return Change::None;
    }
    let may_keep = |node: &NodeId| {
        let member = members.members().get(node);
        member.is_some_and(|member| member.belongs() && member.has_role(Role::QueueNode)) || now.replicas.contains(node)
    };
    let distinct = nodes.iter().enumerate().all(|(at, node)| !nodes[..at].contains(node));
    if nodes.is_empty() || nodes.len() > MAX_REPLICAS || !distinct || !nodes.iter().all(may_keep) {
        return Change::Void;
    }
    if !now.is_placed() {
        let in_sync: Vec<Replica> = nodes.iter().filter_map(|node| members.replica(node)).collect();
        return match in_sync.first() {
            Some(first) => {
                let primary = Some(*first);
                let status = PartitionStatus::Serving;
                let holders = in_sync.clone();
                Change::To(Partition { primary, in_sync, holders, replicas: nodes, status, ..now.clone() })
            }
            None => Change::Void,
        };
    }
    let mut after = Partition { replicas: nodes, ..now.clone() };
    // Who is waited for holds what was acknowledged, wherever the partition is to go.
    if now.is_serving() {
        if now.primary.is_none_or(|primary| !after.replicas.contains(&primary.node)) {
            return Change::Void;
        }
        let replicas = &after.replicas;
        after.in_sync.retain(|replica| replicas.contains(&replica.node));
    }
    Change::To(after)
}

/// This member of the in-sync set becomes the primary.
pub(super) fn hand_over(now: &Partition, members: &Membership, to: &NodeId) -> Change {
    match now.in_sync_replica(to) {
        Some(next) if !now.is_serving() || members.replica(to) != Some(*next) => Change::Void,
        Some(next) if now.primary == Some(*next) => Change::None,
        Some(next) => Change::To(Partition { primary: Some(*next), ..now.clone() }),
        None => Change::Void,
    }
}

/// These leave the in-sync set.
pub(super) fn shrink(now: &Partition, away: &[Replica]) -> Change {
    if !now.is_serving() || now.primary.is_none_or(|primary| away.contains(&primary)) {
        return Change::Void;
    }
    let mut after = now.clone();
    after.in_sync.retain(|replica| !away.contains(replica));
    if after.in_sync.len() == now.in_sync.len() { Change::None } else { Change::To(after) }
}

/// Those who are in sync serve without those who were.
pub(super) fn confirm(now: &Partition) -> Change {
    if !now.is_serving() {
        return Change::Void;
    }
    if now.holders == now.in_sync {
        return Change::None;
    }
    Change::To(Partition { holders: now.in_sync.clone(), ..now.clone() })
}

/// This one joins the in-sync set.
pub(super) fn grow(now: &Partition, members: &Membership, joiner: Replica) -> Change {
    let is_wanted = now.replicas.contains(&joiner.node);
    if !now.is_serving() || !is_wanted || members.replica(&joiner.node) != Some(joiner) {
        return Change::Void;
    }
    if now.in_sync.contains(&joiner) {
        return Change::None;
    }
    if now.holders.len() != now.in_sync.len() {
        return Change::Void;
    }
    let mut after = now.clone();
    after.in_sync.push(joiner);
    after.holders.push(joiner);
    Change::To(after)
}

/// What becomes of a partition that is served when something happens to `node`.
pub(super) fn departed(now: &Partition, members: &Membership, node: &NodeId) -> Change {
    let Some(known) = now.in_sync_replica(node).copied().filter(|known| members.replica(node) != Some(*known)) else {
        return Change::None;
    };
    let mut after = now.clone();
    after.in_sync.retain(|replica| *replica != known);
    if after.in_sync.is_empty() {
        let status = PartitionStatus::Waiting { reports: BTreeMap::new() };
        let waiting = Partition { primary: None, in_sync: now.holders.clone(), status, ..now.clone() };
        return match recovery::settle(&waiting, members, None) {
            Change::None | Change::Void => Change::To(waiting),
            settled => settled,
        };
    }
    if now.primary == Some(known) {
        after.primary = successor(&after, members);
    }
    Change::To(after)
}

/// The first of the replicas, in their order, that is in sync; one that is about to stop only where there is no other.
fn successor(partition: &Partition, members: &Membership) -> Option<Replica> {
    let in_order = partition.replicas.iter().filter_map(|node| partition.in_sync_replica(node));
    // Somebody who is in sync and is to keep it no more still holds everything.
    let candidates: Vec<&Replica> = in_order.chain(&partition.in_sync).collect();
    let stays = |replica: &&&Replica| {
        members.members().get(&replica.node).is_some_and(|member| member.liveness == Liveness::Up)
    };
    candidates.iter().find(stays).or(candidates.first()).map(|replica| **replica)
}
