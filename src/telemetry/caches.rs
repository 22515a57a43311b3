//! What is counted about the cache of this node.
//!
//! The cache counts by itself, as it has to for `GET /v1/cache`; its figures are taken over each time the metrics are
//! read, so that both say the same.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Histograms, Timed, WhatLabel, latency, set};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct CauseLabel {
    cause: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ChangeLabel {
    change: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

/// What can stall.
const OPERATIONS: [&str; 4] = ["get", "put", "delete", "increment"];
/// Why reads miss.
const MISS_CAUSES: [&str; 5] = ["cold", "evicted", "invalidated", "expired", "lease-lost"];

/// The figures of one node's cache since it started. Each text is a word from the code.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CacheFigures<'a> {
    /// Lines that it may hold.
    pub capacity: u64,
    /// Lines that it holds.
    pub entries: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Lines by state.
    pub lines: [(&'static str, u64); 4],
    /// Reads that no message was needed for.
    pub hits: u64,
    /// Reads that needed one and got a value: some of the misses.
    pub remote_hits: u64,
    /// Reads that needed one, by cause.
    pub misses: Vec<(&'a str, u64)>,
    /// Lines that had to make room.
    pub evictions: u64,
    /// Keys that had to make room in the directory.
    pub directory_evictions: u64,
    /// Changes of state, as `S>M`.
    pub transitions: Vec<(&'a str, u64)>,
    /// Acknowledged values that are gone.
    pub dirty_lost: u64,
    /// What became of invalidations.
    pub invalidations: [(&'static str, u64); 6],
    /// Messages sent, by kind.
    pub messages: Vec<(&'a str, u64)>,
    /// Bytes of these and of answers.
    pub sent_bytes: u64,
}

/// What is counted about the cache, without its keys. Cheap to clone.
#[derive(Clone)]
pub struct CacheMetrics {
    capacity: Gauge,
    entries: Gauge,
    bytes: Gauge,
    lines: Family<StateLabel, Gauge>,
    hits: Counter,
    remote_hits: Counter,
    misses: Family<CauseLabel, Counter>,
    evictions: Counter,
    directory_evictions: Counter,
    transitions: Family<ChangeLabel, Counter>,
    dirty_lost: Counter,
    invalidations: Family<WhatLabel, Counter>,
    messages: Family<KindLabel, Counter>,
    sent_bytes: Counter,
    stalls: Histograms<OperationLabel>,
}

impl CacheMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            capacity: Gauge::default(),
            entries: Gauge::default(),
            bytes: Gauge::default(),
            lines: Family::default(),
            hits: Counter::default(),
            remote_hits: Counter::default(),
            misses: Family::default(),
            evictions: Counter::default(),
            directory_evictions: Counter::default(),
            transitions: Family::default(),
            dirty_lost: Counter::default(),
            invalidations: Family::default(),
            messages: Family::default(),
            sent_bytes: Counter::default(),
            stalls: Family::new_with_constructor(latency),
        };
        registry.register("cache_capacity", "Lines that the cache may hold", metrics.capacity.clone());
        registry.register("cache_entries", "Lines that the cache holds", metrics.entries.clone());
        registry.register_with_unit(
            "cache_size",
            "Size of the values that the cache holds",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register("cache_lines", "Lines that the cache holds, by state", metrics.lines.clone());
        registry.register("cache_hits", "Reads that no message was needed for", metrics.hits.clone());
        registry.register(
            "cache_remote_hits",
            "Reads that a message was needed for and that got a value from a home or another cache",
            metrics.remote_hits.clone(),
        );
        registry.register("cache_misses", "Reads that a message was needed for, by cause", metrics.misses.clone());
        registry.register("cache_evictions", "Lines that had to make room", metrics.evictions.clone());
        registry.register(
            "cache_directory_evictions",
            "Keys that had to make room in the directory of this home",
            metrics.directory_evictions.clone(),
        );
        registry.register("cache_transitions", "Changes of the state of lines", metrics.transitions.clone());
        registry.register(
            "cache_dirty_lost",
            "Acknowledged values that are gone because their owner died or lost its session",
            metrics.dirty_lost.clone(),
        );
        registry.register(
            "cache_invalidations",
            "Invalidations, by what became of them",
            metrics.invalidations.clone(),
        );
        registry.register("cache_messages", "Messages of the cache that were sent, by kind", metrics.messages.clone());
        registry.register_with_unit(
            "cache_sent",
            "Size of the messages and answers of the cache that were sent, without their envelopes",
            Unit::Bytes,
            metrics.sent_bytes.clone(),
        );
        registry.register_with_unit(
            "cache_stall",
            "Time of operations that had to wait for others: a home, another cache, or leases",
            Unit::Seconds,
            metrics.stalls.clone(),
        );
        for operation in OPERATIONS {
            drop(metrics.stalls.get_or_create(&OperationLabel { operation }));
        }
        for cause in MISS_CAUSES {
            drop(metrics.misses.get_or_create(&CauseLabel { cause: cause.to_owned() }));
        }
        metrics
    }

    /// An operation (`get`, `put`, `delete`, `increment`) had to wait for other nodes for so long.
    pub fn waited(&self, operation: &'static str, waited: Duration) {
        self.stalls.get_or_create(&OperationLabel { operation }).observe(waited.as_secs_f64());
    }

    /// Such an operation begins to wait for another node.
    pub fn stalled(&self, operation: &'static str) -> Timed {
        Timed::new(self.stalls.get_or_create(&OperationLabel { operation }).clone())
    }

    /// Takes over what the cache has counted.
    pub fn take_over(&self, figures: &CacheFigures<'_>) {
        for (gauge, value) in
            [(&self.capacity, figures.capacity), (&self.entries, figures.entries), (&self.bytes, figures.bytes)]
        {
            set(gauge, value);
        }
        for (state, count) in figures.lines {
            set(&self.lines.get_or_create(&StateLabel { state }), count);
        }
        raise(&self.hits, figures.hits);
        raise(&self.remote_hits, figures.remote_hits);
        raise(&self.evictions, figures.evictions);
        raise(&self.directory_evictions, figures.directory_evictions);
        raise(&self.sent_bytes, figures.sent_bytes);
        raise(&self.dirty_lost, figures.dirty_lost);
        for (cause, count) in &figures.misses {
            raise(&self.misses.get_or_create(&CauseLabel { cause: (*cause).to_owned() }), *count);
        }
        for (change, count) in &figures.transitions {
            raise(&self.transitions.get_or_create(&ChangeLabel { change: (*change).to_owned() }), *count);
        }
        for (what, count) in figures.invalidations {
            raise(&self.invalidations.get_or_create(&WhatLabel { what }), count);
        }
        for (kind, count) in &figures.messages {
            raise(&self.messages.get_or_create(&KindLabel { kind: (*kind).to_owned() }), *count);
        }
    }
}

/// A counter never goes back, whichever of two readers of the metrics comes last.
fn raise(counter: &Counter, value: u64) {
    counter.inner().fetch_max(value, Ordering::Relaxed);
}

impl fmt::Debug for CacheMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheMetrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn the_metrics_say_what_the_cache_has_counted_and_never_go_back() {
        let metrics = Metrics::new();
        let figures = CacheFigures {
            capacity: 100,
            entries: 7,
            bytes: 700,
            lines: [("M", 1), ("O", 0), ("E", 2), ("S", 4)],
            hits: 50,
            remote_hits: 6,
            misses: vec![("cold", 5), ("invalidated", 2)],
            evictions: 3,
            directory_evictions: 2,
            transitions: vec![("S>M", 9)],
            dirty_lost: 1,
            invalidations: [
                ("sent", 4),
                ("received", 3),
                ("acknowledged", 2),
                ("repeated", 1),
                ("expired", 0),
                ("missed", 5),
            ],
            messages: vec![("get-s", 11)],
            sent_bytes: 1_100,
        };
        metrics.caches().take_over(&figures);
        metrics.caches().take_over(&CacheFigures { hits: 40, ..figures.clone() });
        let text = metrics.encode();
        for line in [
            "syncmesh_cache_capacity 100",
            "syncmesh_cache_entries 7",
            "syncmesh_cache_size_bytes 700",
            r#"syncmesh_cache_lines{state="S"} 4"#,
            "syncmesh_cache_hits_total 50",
            "syncmesh_cache_remote_hits_total 6",
            r#"syncmesh_cache_misses_total{cause="cold"} 5"#,
            "syncmesh_cache_evictions_total 3",
            "syncmesh_cache_directory_evictions_total 2",
            "syncmesh_cache_sent_bytes_total 1100",
            r#"syncmesh_cache_invalidations_total{what="missed"} 5"#,
            r#"syncmesh_cache_transitions_total{change="S>M"} 9"#,
            "syncmesh_cache_dirty_lost_total 1",
            r#"syncmesh_cache_invalidations_total{what="repeated"} 1"#,
            r#"syncmesh_cache_messages_total{kind="get-s"} 11"#,
            r#"syncmesh_cache_stall_seconds_count{operation="put"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
