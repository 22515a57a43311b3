//! Counts what the cluster decides in the course of a run, as whoever leads knows it.

use std::{collections::BTreeSet, sync::Arc};

use tracing::info;

use super::{
    door::{Door, Service},
    network::Happened,
    world::World,
};
use crate::{
    ids::NodeId,
    machine::{
        placement::Partitions,
        replication::Replica,
        slots::{Came, SlotTable},
    },
};

/// What was known at the last look.
#[derive(Default)]
pub struct Watch {
    voters: BTreeSet<NodeId>,
    placement: Partitions,
    slots: SlotTable,
    homes: BTreeSet<NodeId>,
}

impl Watch {
    /// Compares what is so now with what was.
    pub fn look<S: Service>(&mut self, world: &World<S>) {
        let Some(leader) = world.running().into_iter().map(|index| world.door(index)).find(Door::leads) else { return };
        self.look_at_voters(world, leader.voters());
        self.look_at_placement(world, leader.placement());
        self.look_at_slots(world, leader.slots());
    }

    fn look_at_voters<S: Service>(&mut self, world: &World<S>, now: BTreeSet<NodeId>) {
        if !now.is_empty() && self.voters != now {
            if !self.voters.is_empty() {
                world.network().count(Happened::VotersChanged);
            }
            self.voters = now;
        }
    }

    fn look_at_placement<S: Service>(&mut self, world: &World<S>, now: Partitions) {
        if Arc::ptr_eq(&self.placement, &now) {
            return;
        }
        for (id, partition) in now.iter() {
            let Some(before) = self.placement.get(id).filter(|before| before.epoch < partition.epoch) else { continue };
            let on = |nodes: &mut dyn Iterator<Item = NodeId>| -> Vec<Option<usize>> {
                nodes.map(|node| (0..world.machines()).find(|index| world.node(*index) == node)).collect()
            };
            let of = |replicas: &[Replica]| on(&mut replicas.iter().map(|replica| replica.node));
            info!(
                at_ms = world.now_ms(),
                partition = %id,
                epoch = partition.epoch.0,
                primary = ?of(partition.primary.as_slice()),
                in_sync = ?of(&partition.in_sync),
                holders = ?of(&partition.holders),
                replicas = ?on(&mut partition.replicas.iter().copied()),
                status = ?partition.status,
                "placed on these machines",
            );
            if before.primary != partition.primary {
                world.network().count(Happened::PrimaryChanged);
            }
            if before.in_sync != partition.in_sync {
                world.network().count(Happened::InSyncChanged);
            }
        }
        self.placement = now;
    }

    fn look_at_slots<S: Service>(&mut self, world: &World<S>, now: SlotTable) {
        if Arc::ptr_eq(&self.slots, &now) {
            return;
        }
        let is_first = self.homes.is_empty();
        for (id, slot) in now.iter() {
            let Some(home) = slot.home else { continue };
            if self.homes.insert(home.node) && !is_first {
                world.network().count(Happened::HomeJoined);
            }
            if self.slots.get(id).is_none_or(|before| before.epoch >= slot.epoch || before.home == Some(home)) {
                continue;
            }
            match slot.came {
                Came::Founded => {}
                Came::Lost => world.network().count(Happened::HomeFollowed),
                Came::Handed(_) => world.network().count(Happened::HomeMoved),
            }
        }
        self.slots = now;
    }
}
