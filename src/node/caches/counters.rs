//! What the tasks of a cache node count, for those who look.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::types::{InvalidationCounts, StallCounts};
use crate::machine::cache::{CacheRequest, Operation};

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

/// What operations can wait.
const OPERATIONS: [&str; 4] = ["get", "put", "delete", "increment"];

/// Waits of one kind of operation, in microseconds.
#[derive(Debug, Default)]
struct Stalls {
    count: Count,
    total_us: Count,
    max_us: AtomicU64,
}

/// Shared by the tasks of a node, and by those who ask them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    messages: [Count; KINDS.len()],
    /// Bytes of these and of the answers to others' messages, without the envelopes they travel in.
    pub(super) sent_bytes: Count,
    stalls: [Stalls; OPERATIONS.len()],
    /// Reads that others had the value for.
    pub(super) remote_hits: Count,
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
    /// As a cache: batches of gossip that did not come, or too late.
    pub(super) missed: Count,
    /// As a home: keys that had to make room in the directory.
    pub(super) directory_evictions: Count,
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

    /// An operation had to wait for others for so long.
    pub(super) fn stalled(&self, operation: &str, waited: Duration) {
        let Some(at) = OPERATIONS.iter().position(|known| *known == operation) else { return };
        let (stalls, us) = (&self.stalls[at], u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        stalls.count.add(1);
        stalls.total_us.add(us);
        stalls.max_us.fetch_max(us, Ordering::Relaxed);
    }

    pub(super) fn stalls(&self) -> BTreeMap<String, StallCounts> {
        let counts = |stalls: &Stalls| StallCounts {
            count: stalls.count.get(),
            total_us: stalls.total_us.get(),
            max_us: stalls.max_us.load(Ordering::Relaxed),
        };
        OPERATIONS
            .iter()
            .zip(&self.stalls)
            .map(|(operation, stalls)| ((*operation).to_owned(), counts(stalls)))
            .collect()
    }

    pub(super) fn invalidations(&self) -> InvalidationCounts {
        InvalidationCounts {
            sent: self.sent.get(),
            received: self.received.get(),
            acknowledged: self.acknowledged.get(),
            repeated: self.repeated.get(),
            expired: self.expired.get(),
            missed: self.missed.get(),
        }
    }
}

/// The word for an operation among those that can wait.
pub(super) fn operation_of(operation: &Operation) -> &'static str {
    match operation {
        Operation::Load => "get",
        Operation::Store { .. } => "put",
        Operation::Delete => "delete",
        Operation::Increment { .. } => "increment",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_counted_by_operation_with_the_longest_of_each() {
        let counters = Counters::default();
        for ms in [3, 70, 5] {
            counters.stalled("put", Duration::from_millis(ms));
        }
        counters.stalled("get", Duration::from_micros(250));
        let stalls = counters.stalls();
        assert_eq!(stalls["put"], StallCounts { count: 3, total_us: 78_000, max_us: 70_000 });
        assert_eq!(stalls["get"], StallCounts { count: 1, total_us: 250, max_us: 250 });
        assert_eq!(stalls["increment"], StallCounts::default());
    }
}
