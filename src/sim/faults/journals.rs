//! Faults of the journals of queues: away, cut, behind, empty.

use super::{Fault, FaultKind};
use crate::{
    ids::JournalId,
    sim::{door::Service, network::Happened, world::World},
    store::memory::MemoryDisk,
};

/// Most records that a journal loses of each partition.
const MOST_LOST: u64 = 40;

/// Lets the journals be away that the active faults want to be so, and no others.
pub(super) fn set_away<S: Service>(world: &World<S>, active: &[Fault]) {
    for index in 0..world.machines() {
        let Some(journal) = world.disks().journal(index, world.disk(index)) else { continue };
        let away = active.iter().any(|fault| fault.kind == FaultKind::JournalAway && fault.victims.contains(&index));
        if away != journal.is_away() {
            journal.set_away(away.then_some("its Redis is away"));
            if away {
                world.network().count(Happened::JournalAway);
            }
        }
    }
}

/// Takes what a journal had synced, while another one has all of it. Whether there was anything to take.
pub(super) fn lose<S: Service>(world: &mut World<S>, fault: &mut Fault) -> bool {
    let victim = fault.victims[0];
    let Some(journal) = world.disks().journal(victim, world.disk(victim)) else { return false };
    let records = usize::try_from(1 + fault.at_ms % MOST_LOST).expect("a few");
    if !world.running().contains(&victim) || !journal.has_records() {
        return false;
    }
    match fault.kind {
        FaultKind::JournalCut => {
            journal.lose_tails(records);
            world.network().count(Happened::JournalCut);
        }
        FaultKind::JournalEmpty => {
            world.kill(victim);
            journal.wipe(JournalId(journal.id().0 + 1));
            world.network().count(Happened::JournalEmptied);
        }
        FaultKind::JournalBehind => fall_behind(world, victim, &journal, records),
        _ => {
            let Some(other) = in_sync_with(world, victim) else { return false };
            fault.victims = vec![victim, other];
            world.kill(other);
            fall_behind(world, victim, &journal, records);
        }
    }
    true
}

fn fall_behind<S: Service>(world: &mut World<S>, victim: usize, journal: &MemoryDisk, records: usize) {
    world.kill(victim);
    journal.lose_tails(records);
    world.network().count(Happened::JournalBehind);
}

/// Another machine that is in sync of a partition together with this one, and nobody else.
fn in_sync_with<S: Service>(world: &World<S>, victim: usize) -> Option<usize> {
    let (node, placement) = (world.node(victim), world.door(victim).placement());
    let both = placement.values().find(|partition| partition.in_sync.len() == 2 && partition.is_in_sync(&node))?;
    let other = both.in_sync.iter().find(|replica| replica.node != node)?;
    (0..world.machines()).find(|index| world.node(*index) == other.node)
}
