//! What is new in the placement of the slots since a task looked last.

use std::sync::Arc;

use crate::machine::{
    cache::SlotId,
    slots::{Slot, SlotTable},
};

/// A slot that is otherwise now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) slot: SlotId,
    pub(super) before: Slot,
    pub(super) after: Slot,
}

impl Change {
    /// Whether it is in another epoch now.
    pub(super) fn is_new_epoch(&self) -> bool {
        self.before.epoch != self.after.epoch
    }
}

/// The slots as a task has heeded them.
#[derive(Debug, Default)]
pub(super) struct Heeded(SlotTable);

impl Heeded {
    /// The slots that are otherwise now, as they were and as they are.
    pub(super) fn changes(&mut self, now: &SlotTable) -> Vec<Change> {
        if Arc::ptr_eq(&self.0, now) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.0, Arc::clone(now));
        let change = |(id, after): (&SlotId, &Slot)| {
            let before = before.get(id).copied().unwrap_or_default();
            (before != *after).then_some(Change { slot: *id, before, after: *after })
        };
        now.iter().filter_map(change).collect()
    }

    /// A slot as it was heeded.
    pub(super) fn slot(&self, id: SlotId) -> Slot {
        self.0.get(&id).copied().unwrap_or_default()
    }
}
