//! What is counted about locks.

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

use super::{Histograms, OutcomeLabel, latency, set};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ModeLabel {
    mode: &'static str,
}

/// 1 ms to about 70 minutes.
fn lock_time() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 12))
}

/// 1 to 4,096 waiters.
fn line_length() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 13))
}

/// The outcome of an acquire that is no error.
const GRANTED: &str = "granted";

/// What is counted about locks. Cheap to clone.
#[derive(Clone)]
pub struct LockMetrics {
    acquire_seconds: Histograms<OutcomeLabel>,
    release_seconds: Histogram,
    grants: Family<ModeLabel, Counter>,
    wait_seconds: Histogram,
    hold_seconds: Histogram,
    line_length: Histogram,
    expiries: Counter,
    deadlocks: Counter,
    held: Gauge,
    waiting: Gauge,
    sessions: Gauge,
}

impl LockMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            acquire_seconds: Family::new_with_constructor(lock_time),
            release_seconds: latency(),
            grants: Family::default(),
            wait_seconds: lock_time(),
            hold_seconds: lock_time(),
            line_length: line_length(),
            expiries: Counter::default(),
            deadlocks: Counter::default(),
            held: Gauge::default(),
            waiting: Gauge::default(),
            sessions: Gauge::default(),
        };
        registry.register_with_unit(
            "lock_acquire",
            "Time from an acquire to its answer at the node that was asked, its wait in line included, by outcome",
            Unit::Seconds,
            metrics.acquire_seconds.clone(),
        );
        drop(metrics.acquire_seconds.get_or_create(&OutcomeLabel { outcome: GRANTED }));
        registry.register_with_unit(
            "lock_release",
            "Time from a release to its answer at the node that was asked",
            Unit::Seconds,
            metrics.release_seconds.clone(),
        );
        for mode in ["exclusive", "shared"] {
            drop(metrics.grants.get_or_create(&ModeLabel { mode }));
        }
        registry.register("lock_grants", "Locks granted, by mode", metrics.grants.clone());
        registry.register_with_unit(
            "lock_wait",
            "Time from a request to its grant",
            Unit::Seconds,
            metrics.wait_seconds.clone(),
        );
        registry.register_with_unit(
            "lock_hold",
            "Time from a grant to its end",
            Unit::Seconds,
            metrics.hold_seconds.clone(),
        );
        registry.register("lock_line_length", "Waiters in a line as one more joins it", metrics.line_length.clone());
        registry.register("session_expiries", "Sessions that expired", metrics.expiries.clone());
        registry.register(
            "lock_deadlocks",
            "Requests refused because waiting would close a cycle",
            metrics.deadlocks.clone(),
        );
        registry.register("locks_held", "Locks that are held", metrics.held.clone());
        registry.register("lock_waiters", "Requests that wait in line", metrics.waiting.clone());
        registry.register("sessions", "Sessions that are alive", metrics.sessions.clone());
        metrics
    }

    /// An acquire was answered: with a grant, or a slug of the errors.
    pub fn acquired(&self, refusal: Option<&'static str>, took: Duration) {
        let outcome = refusal.unwrap_or(GRANTED);
        self.acquire_seconds.get_or_create(&OutcomeLabel { outcome }).observe(took.as_secs_f64());
    }

    /// A release was answered, with whatever outcome.
    pub fn released(&self, took: Duration) {
        self.release_seconds.observe(took.as_secs_f64());
    }

    /// A lock was granted in this mode (`exclusive` or `shared`) after waiting so long.
    pub fn granted(&self, mode: &'static str, waited: Duration) {
        self.grants.get_or_create(&ModeLabel { mode }).inc();
        self.wait_seconds.observe(waited.as_secs_f64());
    }

    /// A lock was given back or lost after being held so long.
    pub fn ended(&self, held: Duration) {
        self.hold_seconds.observe(held.as_secs_f64());
    }

    /// A request joined a line, which has so many waiters now.
    pub fn joined_line(&self, length: u32) {
        self.line_length.observe(f64::from(length));
    }

    /// A session expired.
    pub fn expired(&self) {
        self.expiries.inc();
    }

    /// A request was refused because waiting would have closed a cycle.
    pub fn deadlock(&self) {
        self.deadlocks.inc();
    }

    /// How much there is now.
    pub fn set_totals(&self, held: u64, waiting: u64, sessions: u64) {
        for (gauge, value) in [(&self.held, held), (&self.waiting, waiting), (&self.sessions, sessions)] {
            set(gauge, value);
        }
    }
}

impl fmt::Debug for LockMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockMetrics").finish_non_exhaustive()
    }
}
