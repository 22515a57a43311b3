//! Counts what the cluster decides in the course of a run, as whoever leads knows it.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    door::{Door, Service},
    network::Happened,
    world::World,
};
use crate::{ids::NodeId, machine::placement::Partitions};

/// What was known at the last look.
#[derive(Default)]
pub struct Watch {
    voters: BTreeSet<NodeId>,
    placement: Partitions,
}

impl Watch {
    /// Compares what is so now with what was.
    pub fn look<S: Service>(&mut self, world: &World<S>) {
        let Some(leader) = world.running().into_iter().map(|index| world.door(index)).find(Door::leads) else { return };
        self.look_at_voters(world, leader.voters());
        self.look_at_placement(world, leader.placement());
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
            if before.primary != partition.primary {
                world.network().count(Happened::PrimaryChanged);
            }
            if before.in_sync != partition.in_sync {
                world.network().count(Happened::InSyncChanged);
            }
        }
        self.placement = now;
    }
}
