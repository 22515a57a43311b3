//! What a cache keeps of all keys, by the slots they are in: what becomes of a slot is done without a look at the others.

use std::collections::BTreeMap;

use super::entry::Key;
use crate::{ids::CacheKey, machine::cache::SlotId};

/// A map from keys to what is kept of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Keys {
    /// None is empty. Boxed: the nodes of a tree are not full.
    slots: BTreeMap<SlotId, BTreeMap<CacheKey, Box<Key>>>,
    count: usize,
}

impl Keys {
    /// How many keys.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn contains_key(&self, key: &CacheKey) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn get(&self, key: &CacheKey) -> Option<&Key> {
        self.slots.get(&SlotId::of(key))?.get(key).map(|entry| &**entry)
    }

    pub(super) fn get_mut(&mut self, key: &CacheKey) -> Option<&mut Key> {
        self.slots.get_mut(&SlotId::of(key))?.get_mut(key).map(|entry| &mut **entry)
    }

    /// What is kept of a key, made where there is nothing.
    pub(super) fn entry(&mut self, key: &CacheKey) -> &mut Key {
        let slot = self.slots.entry(SlotId::of(key)).or_default();
        // A key is copied only where it is new.
        if !slot.contains_key(key) {
            slot.insert(key.clone(), Box::default());
            self.count += 1;
        }
        slot.get_mut(key).expect("it was just made")
    }

    pub(super) fn remove(&mut self, key: &CacheKey) {
        let id = SlotId::of(key);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.remove(key).is_some() {
            self.count -= 1;
        }
        if slot.is_empty() {
            self.slots.remove(&id);
        }
    }

    /// All of them, slot by slot.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&CacheKey, &Key)> {
        self.slots.values().flatten().map(|(key, entry)| (key, &**entry))
    }

    /// Those of a slot, in their order.
    pub(super) fn of_slot(&self, slot: SlotId) -> impl Iterator<Item = (&CacheKey, &Key)> {
        self.slots.get(&slot).into_iter().flatten().map(|(key, entry)| (key, &**entry))
    }
}
