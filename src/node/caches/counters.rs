//! What the tasks of a cache node count, for those who look.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use super::types::InvalidationCounts;
use crate::machine::cache::CacheRequest;

/// What is sent, by kind; messages that stay on the node are not counted.
const KINDS: [&str; 15] = [
    "get-s",
    "get-m",
    "upgrade",
    "put-s",
    "put",
    "store-through",
    "inv-ack",
    "renew",
    "fetch",
    "recall",
    "ask",
    "invalidate",
    "recover",
    "hand-over",
    "broadcast",
];

/// Counts one thing.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Shared by the tasks of a node.
#[derive(Debug, Default)]
pub(super) struct Counters {
    messages: [Count; KINDS.len()],
    /// As a home: invalidations, for each sharer.
    pub(super) sent: Count,
    /// As a cache: invalidations that were heard.
    pub(super) received: Count,
    /// As a home.
    pub(super) acknowledged: Count,
    /// As a home: said again by unicast.
    pub(super) repeated: Count,
    /// As a home: ended by a lease.
    pub(super) expired: Count,
    /// Acknowledged values that are gone.
    pub(super) dirty_lost: Count,
}

impl Counters {
    /// A message left the node.
    pub(super) fn sent_message(&self, kind: &str) {
        if let Some(at) = KINDS.iter().position(|known| *known == kind) {
            self.messages[at].add(1);
        }
    }

    pub(super) fn messages(&self) -> BTreeMap<String, u64> {
        let all = KINDS.iter().zip(&self.messages);
        all.filter(|(_, count)| count.get() > 0).map(|(kind, count)| ((*kind).to_owned(), count.get())).collect()
    }

    pub(super) fn invalidations(&self) -> InvalidationCounts {
        InvalidationCounts {
            sent: self.sent.get(),
            received: self.received.get(),
            acknowledged: self.acknowledged.get(),
            repeated: self.repeated.get(),
            expired: self.expired.get(),
        }
    }
}

/// What a home asks a cache, as a kind of message.
pub(super) fn kind_of(request: &CacheRequest) -> &'static str {
    match request {
        CacheRequest::Recall { .. } => "recall",
        CacheRequest::Ask { .. } => "ask",
        CacheRequest::Inv(_) => "invalidate",
        CacheRequest::Recover { .. } => "recover",
    }
}
