//! Every bound of the program, and how often each was hit.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// The names that there are, so that a bound which was never hit shows as 0. docs/metrics.md tells of each.
const NAMES: [&str; 46] = [
    "api.body-bytes",
    "api.connections",
    "cache.directory",
    "cache.home-inbox",
    "cache.in-flight",
    "cache.inbox",
    "cache.invalidations",
    "cache.questions",
    "cache.views",
    "exchange.asked",
    "exchange.calls",
    "exchange.questions",
    "exchange.served",
    "locks.held",
    "locks.locks-of-a-session",
    "locks.locks-of-an-acquire",
    "locks.requests-of-a-wait",
    "locks.sessions",
    "locks.waiters-of-a-lock",
    "locks.waits",
    "locks.waits-of-a-session",
    "net.answer-bytes",
    "net.broadcast-bytes",
    "net.broadcasts",
    "net.calls",
    "net.connections",
    "net.events",
    "net.kad-missing",
    "net.kad-topics",
    "net.offered-topics",
    "net.orders",
    "net.request-bytes",
    "node.backups",
    "node.control-calls",
    "node.event-stream",
    "node.news",
    "node.news-heard",
    "node.operations",
    "node.raft-calls",
    "queues.ids",
    "queues.operations",
    "queues.replication",
    "queues.uncommitted",
    "queues.waiting",
    "raft.command-bytes",
    "raft.proposals",
];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct BoundLabel {
    bound: &'static str,
}

/// Counts how often each bound was hit: of a channel, map, retry, batch, wait or request. Cheap to
/// clone, and handed to whoever keeps a bound; all of a node's are one family of metrics.
#[derive(Clone, Default, Debug)]
pub struct Bounds(Family<BoundLabel, Counter>);

impl Bounds {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("bound_hits", "How often a bound refused or delayed work", self.0.clone());
        for bound in NAMES {
            drop(self.0.get_or_create(&BoundLabel { bound }));
        }
    }

    /// A bound refused or delayed work. `bound` is its stable name: the part of the program, a dot, what
    /// is bounded.
    pub fn hit(&self, bound: &'static str) {
        self.0.get_or_create(&BoundLabel { bound }).inc();
    }

    /// How often it was hit.
    #[cfg(test)]
    pub(crate) fn hits(&self, bound: &'static str) -> u64 {
        self.0.get_or_create(&BoundLabel { bound }).get()
    }
}
