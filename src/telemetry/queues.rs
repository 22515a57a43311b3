//! What is counted about queues and their journals.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::{Histograms, Timed, WhatLabel, absence, latency, set};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct PlaceLabel {
    place: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

/// What can happen to messages.
const WHAT: [&str; 12] = [
    "published",
    "duplicate",
    "delivered",
    "redelivered",
    "acknowledged",
    "returned",
    "timed-out",
    "dead-lettered",
    "expired",
    "purged",
    "moved",
    "forgotten-early",
];

/// What is asked of a queue beside publishing.
const OPERATIONS: [&str; 4] = ["receive", "ack", "nack", "extend"];

/// The queues of this node at one moment: of the partitions that it is the primary of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueFigures {
    /// Queues.
    pub queues: u64,
    /// Messages that wait to be delivered.
    pub ready: u64,
    /// Messages that are delivered and neither settled nor over.
    pub in_flight: u64,
    /// Messages that are not to be delivered yet.
    pub delayed: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The age of the oldest one, in milliseconds.
    pub oldest_ms: u64,
    /// Partitions that this node is the primary of.
    pub primaries: u64,
    /// Partitions of which this node has an in-sync copy.
    pub backups: u64,
    /// Partitions of the whole cluster that are served.
    pub serving: u64,
    /// Partitions of the whole cluster that wait for a node.
    pub waiting: u64,
    /// Partitions of the whole cluster whose journal is lost.
    pub journal_lost: u64,
    /// Partitions of the whole cluster that lack copies.
    pub filling: u64,
}

/// Whether a node's journal can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalState {
    /// It can, or there is none.
    Well,
    /// It cannot.
    Away,
}

/// 1 to 1,024 records.
fn batch_size() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

/// What is counted about queues, without their names: there may be any number of them. Cheap to clone.
#[derive(Clone)]
pub struct QueueMetrics {
    messages: Family<WhatLabel, Counter>,
    publish_seconds: Histogram,
    operation_seconds: Histograms<OperationLabel>,
    commit_seconds: Histogram,
    journal_records: Histogram,
    replication_records: Histogram,
    given_up: Counter,
    append_seconds: Histogram,
    away: Gauge,
    away_seconds: Histogram,
    queues: Gauge,
    depth: Family<PlaceLabel, Gauge>,
    bytes: Gauge,
    oldest_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    kept: Family<RoleLabel, Gauge>,
    partitions: Family<StatusLabel, Gauge>,
}

impl QueueMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            messages: Family::default(),
            publish_seconds: latency(),
            operation_seconds: Family::new_with_constructor(latency),
            commit_seconds: latency(),
            journal_records: batch_size(),
            replication_records: batch_size(),
            given_up: Counter::default(),
            append_seconds: latency(),
            away: Gauge::default(),
            away_seconds: absence(),
            queues: Gauge::default(),
            depth: Family::default(),
            bytes: Gauge::default(),
            oldest_seconds: Gauge::default(),
            kept: Family::default(),
            partitions: Family::default(),
        };
        metrics.register_events(registry);
        metrics.register_figures(registry);
        metrics.take_over(&QueueFigures::default());
        for what in WHAT {
            drop(metrics.messages.get_or_create(&WhatLabel { what }));
        }
        for operation in OPERATIONS {
            drop(metrics.operation_seconds.get_or_create(&OperationLabel { operation }));
        }
        metrics
    }

    fn register_events(&self, registry: &mut Registry) {
        let metrics = self;
        registry.register(
            "queue_messages",
            "Messages of the queues that this node is the primary of, by what happened to them",
            metrics.messages.clone(),
        );
        registry.register_with_unit(
            "queue_publish",
            "Time from a publish to its answer, at the node that was asked",
            Unit::Seconds,
            metrics.publish_seconds.clone(),
        );
        registry.register_with_unit(
            "queue_commit",
            "Time from the proposal of a synced record to its commit, at the primary",
            Unit::Seconds,
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "queue_journal_records",
            "Records in one append to a journal",
            metrics.journal_records.clone(),
        );
        registry.register(
            "queue_replication_records",
            "Records in one message to a replica",
            metrics.replication_records.clone(),
        );
        registry.register(
            "queue_partitions_given_up",
            "Partitions that this node keeps no longer because their tasks ended by themselves",
            metrics.given_up.clone(),
        );
    }

    fn register_figures(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "queue_operation",
            "Time from a request to its answer, at the node that was asked, the wait for a message included",
            Unit::Seconds,
            self.operation_seconds.clone(),
        );
        registry.register_with_unit(
            "queue_journal_append",
            "Time until records handed to the journal were durable",
            Unit::Seconds,
            self.append_seconds.clone(),
        );
        registry.register("queue_journal_away", "1 while the journal cannot be written, else 0", self.away.clone());
        registry.register_with_unit(
            "queue_journal_absence",
            "For how long the journal could not be written, each time that it was back",
            Unit::Seconds,
            self.away_seconds.clone(),
        );
        registry.register("queues", "Queues that this node is the primary of", self.queues.clone());
        registry.register(
            "queue_depth",
            "Messages in the queues that this node is the primary of, by where they stand",
            self.depth.clone(),
        );
        registry.register_with_unit(
            "queue_size",
            "Bytes of the messages in the queues that this node is the primary of",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register_with_unit(
            "queue_oldest",
            "Age of the oldest message that nobody has acknowledged, in the queues that this node is the primary of",
            Unit::Seconds,
            self.oldest_seconds.clone(),
        );
        registry.register("queue_partitions_kept", "Partitions that this node serves or backs up", self.kept.clone());
        registry.register(
            "queue_partitions",
            "Partitions of the whole cluster as this node knows them; one that is served may lack copies as well",
            self.partitions.clone(),
        );
    }

    /// Takes over how the queues are now.
    pub fn take_over(&self, now: &QueueFigures) {
        set(&self.queues, now.queues);
        set(&self.bytes, now.bytes);
        self.oldest_seconds.set(Duration::from_millis(now.oldest_ms).as_secs_f64());
        for (place, messages) in [("ready", now.ready), ("in-flight", now.in_flight), ("delayed", now.delayed)] {
            set(&self.depth.get_or_create(&PlaceLabel { place }), messages);
        }
        for (role, partitions) in [("primary", now.primaries), ("backup", now.backups)] {
            set(&self.kept.get_or_create(&RoleLabel { role }), partitions);
        }
        for (status, partitions) in [
            ("serving", now.serving),
            ("waiting", now.waiting),
            ("journal-lost", now.journal_lost),
            ("filling", now.filling),
        ] {
            set(&self.partitions.get_or_create(&StatusLabel { status }), partitions);
        }
    }

    /// Something is asked of a queue (a word of the code).
    pub fn operation(&self, operation: &'static str) -> Timed {
        Timed::new(self.operation_seconds.get_or_create(&OperationLabel { operation }).clone())
    }

    /// What was handed to the journal is durable.
    pub fn appended(&self, took: Duration) {
        self.append_seconds.observe(took.as_secs_f64());
    }

    /// Whether the journal can be written.
    pub fn journal(&self, state: JournalState) {
        self.away.set(i64::from(state == JournalState::Away));
    }

    /// The journal is back after so long.
    pub fn journal_back(&self, away: Duration) {
        self.away_seconds.observe(away.as_secs_f64());
    }

    /// Something (a word of the code) happened to so many messages.
    pub fn count(&self, what: &'static str, messages: u64) {
        self.messages.get_or_create(&WhatLabel { what }).inc_by(messages);
    }

    /// A publish was answered, with whatever outcome.
    pub fn publish(&self, took: Duration) {
        self.publish_seconds.observe(took.as_secs_f64());
    }

    /// A record that had to be synced was committed.
    pub fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// The task of a partition ended by itself.
    pub fn gave_up(&self) {
        self.given_up.inc();
    }

    /// So many records went into a journal together.
    pub fn journalled(&self, records: usize) {
        self.journal_records.observe(records_of(records));
    }

    /// So many records went to a replica together.
    pub fn replicated(&self, records: usize) {
        self.replication_records.observe(records_of(records));
    }
}

fn records_of(records: usize) -> f64 {
    f64::from(u32::try_from(records).unwrap_or(u32::MAX))
}

impl fmt::Debug for QueueMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueMetrics").finish_non_exhaustive()
    }
}
