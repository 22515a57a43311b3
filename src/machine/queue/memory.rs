//! What a queue remembers of messages that it has taken, and a partition of deliveries that were
//! acknowledged, so that what is repeated is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Receipt, shared::SharedQueue};
use crate::{ids::Tick, machine::replication::Position};

/// The message of a key, as far as it is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Known {
    pub(super) offset: u64,
    /// When it was taken.
    pub(super) at: Tick,
    /// It is remembered only because the message is still there.
    pub(super) kept: bool,
}

/// That a message of a key was taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Taken<K> {
    pub(super) at: Tick,
    pub(super) key: K,
    pub(super) offset: u64,
}

/// Keys of messages, forgotten in the order in which they came.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Memory<K> {
    /// Made from the order, and from the messages that are there.
    known: BTreeMap<K, Known>,
    /// Those that are not `kept`, oldest first, and some that came again since and stand further back too.
    order: SharedQueue<Taken<K>>,
}

impl<K> Default for Memory<K> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), order: SharedQueue::default() }
    }
}

impl<K: Ord + Clone> Memory<K> {
    pub(super) fn get(&self, key: &K) -> Option<Known> {
        self.known.get(key).copied()
    }

    /// How many it will forget some time.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// What it will forget, in that order.
    pub(super) fn order(&self) -> &SharedQueue<Taken<K>> {
        &self.order
    }

    /// When the oldest one was taken of those that are to be forgotten.
    pub(super) fn oldest(&self) -> Option<Tick> {
        self.order.front().map(|taken| taken.at)
    }

    pub(super) fn remember(&mut self, key: K, offset: u64, at: Tick) {
        self.order.push_back(Taken { at, key: key.clone(), offset });
        self.known.insert(key, Known { offset, at, kept: false });
    }

    /// Forgets the oldest one; keeps it in mind if it is there still.
    pub(super) fn forget_oldest(&mut self, is_there: impl FnOnce(u64) -> bool) {
        let Some(Taken { key, offset, .. }) = self.order.pop_front() else { return };
        match self.known.get_mut(&key) {
            // It came again since.
            Some(known) if known.offset != offset => {}
            Some(known) if is_there(offset) => known.kept = true,
            _ => {
                self.known.remove(&key);
            }
        }
    }

    /// Keeps in mind a message that is there. Whether nothing else is known of its key.
    pub(super) fn keep(&mut self, key: &K, offset: u64, at: Tick) -> bool {
        self.known.entry(key.clone()).or_insert(Known { offset, at, kept: true }).offset == offset
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
    /// With the record that leased it, and the number of its queue. Made from the order.
    known: BTreeMap<u64, (Position, u64)>,
    order: SharedQueue<Acked>,
}

/// That a delivery was acknowledged.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Acked {
    pub(super) receipt: Receipt,
    /// The number of its queue.
    pub(super) queue: u64,
}

impl Acks {
    /// The oldest first.
    pub(super) fn order(&self) -> &SharedQueue<Acked> {
        &self.order
    }

    /// Remembers one, unless it is known; whether that was so.
    pub(super) fn remember(&mut self, receipt: Receipt, queue: u64, most: usize) -> bool {
        let is_new = self.known.insert(receipt.offset, (receipt.lease, queue)).is_none();
        if is_new {
            self.order.push_back(Acked { receipt, queue });
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest.receipt.offset);
            }
        }
        is_new
    }

    pub(super) fn knows(&self, receipt: Receipt, queue: u64) -> bool {
        self.known.get(&receipt.offset) == Some(&(receipt.lease, queue))
    }
}
