//! What a queue remembers of messages that it has taken, and a partition of deliveries that were
//! acknowledged, so that what is repeated is known.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::Receipt;
use crate::{ids::Tick, machine::replication::Position};

/// The message of a key, as far as it is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) offset: u64,
    /// When it was taken.
    pub(super) at: Tick,
    /// It is remembered only because the message is still there.
    pub(super) kept: bool,
}

/// Keys of messages, forgotten in the order in which they came.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Memory<K> {
    pub(super) known: BTreeMap<K, Known>,
    /// Those that are not `kept`, oldest first, and some that came again since and stand further back too.
    pub(super) order: VecDeque<(Tick, K)>,
}

impl<K> Default for Memory<K> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<K: Ord + Clone> Memory<K> {
    pub(super) fn get(&self, key: &K) -> Option<Known> {
        self.known.get(key).copied()
    }

    /// When the oldest one was taken of those that are to be forgotten.
    pub(super) fn oldest(&self) -> Option<Tick> {
        self.order.front().map(|(at, _)| *at)
    }

    pub(super) fn remember(&mut self, key: K, offset: u64, at: Tick) {
        self.order.push_back((at, key.clone()));
        self.known.insert(key, Known { offset, at, kept: false });
    }

    /// Forgets the oldest one; keeps it in mind if it is there still.
    pub(super) fn forget_oldest(&mut self, is_there: impl FnOnce(u64) -> bool) {
        let Some((at, key)) = self.order.pop_front() else { return };
        match self.known.get_mut(&key) {
            // It came again since.
            Some(known) if known.at != at || known.kept => {}
            Some(known) if is_there(known.offset) => known.kept = true,
            _ => {
                self.known.remove(&key);
            }
        }
    }

    /// The message is gone: forgets its key if it was remembered only because of it.
    pub(super) fn release(&mut self, key: &K, offset: u64) {
        if self.known.get(key).is_some_and(|known| known.kept && known.offset == offset) {
            self.known.remove(key);
        }
    }

    /// All messages are gone.
    pub(super) fn release_all(&mut self) {
        self.known.retain(|_, known| !known.kept);
    }
}

/// The last deliveries that were acknowledged. A message is acknowledged once, so its offset names it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Acks {
    /// With the record that leased it, and the number of its queue.
    pub(super) known: BTreeMap<u64, (Position, u64)>,
    pub(super) order: VecDeque<u64>,
}

impl Acks {
    pub(super) fn remember(&mut self, receipt: Receipt, queue: u64, most: usize) {
        if self.known.insert(receipt.offset, (receipt.lease, queue)).is_none() {
            self.order.push_back(receipt.offset);
        }
        while self.order.len() > most {
            if let Some(offset) = self.order.pop_front() {
                self.known.remove(&offset);
            }
        }
    }

    pub(super) fn knows(&self, receipt: Receipt, queue: u64) -> bool {
        self.known.get(&receipt.offset) == Some(&(receipt.lease, queue))
    }
}
