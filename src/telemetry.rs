//! Logs and metrics: the set-up of `tracing`, the one Prometheus registry, and the handles to count with.
//!
//! `cli` sets up the logs once a process; each node has a [`Metrics`] of its own. A leaf: it knows
//! nothing of what is counted but the names. Every label is a word from the code, a status or a mode, so
//! the number of series is bounded; never a name that a client chose.

mod caches;

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

pub use self::caches::{CacheFigures, CacheMetrics};
use crate::config::LogFormat;

/// What talks too much at `info`: added where RUST_LOG is unset or a bare level. A list of directives
/// stands as it is.
const QUIET: &str = "libp2p=warn,libp2p_swarm=warn,libp2p_mdns=error,libp2p_gossipsub=warn,libp2p_kad=error,\
                     libp2p_request_response=error,multistream_select=warn,yamux=warn,quinn=warn,netlink_proto=warn,\
                     openraft=error,raft_log=warn,chunked_wal=warn,hyper=warn,hyper_util=warn";

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is no list of directives.
    #[error("RUST_LOG={filter} is not a list of directives such as info or warn,syncmesh=debug")]
    Filter {
        /// The filter.
        filter: String,
    },
    /// Somebody else set up logs in this process already.
    #[error("logs are already set up in this process")]
    Already,
}

/// Sends logs to stderr: once a process, before anything is worth a line.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt().with_env_filter(log_filter(filter)?).with_writer(io::stderr);
    let done = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        // On a terminal the default stands, which looks at NO_COLOR.
        LogFormat::Text if io::stderr().is_terminal() => builder.try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    done.map_err(|_| LogError::Already)
}

fn log_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let is_talkative = filter.parse::<LevelFilter>().is_ok_and(|bare| bare > LevelFilter::ERROR);
    let directives = if is_talkative { format!("{filter},{QUIET}") } else { filter.to_owned() };
    EnvFilter::builder().parse(directives).map_err(|_| LogError::Filter { filter: filter.to_owned() })
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct HttpLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ModeLabel {
    mode: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct WhatLabel {
    what: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct BoundLabel {
    bound: &'static str,
}

/// Counts how often each bound was hit: of a channel, map, retry, batch, wait or request. Cheap to
/// clone, and handed to whoever keeps a bound; all of a node's are one family of metrics.
#[derive(Clone, Default, Debug)]
pub struct Bounds(Family<BoundLabel, Counter>);

impl Bounds {
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

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// 100 µs to about 26 s.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 10))
}

/// 1 ms to about 70 minutes.
fn lock_time() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 12))
}

/// 1 to 1,024 records.
fn batch_size() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

/// 1 to 4,096 waiters.
fn line_length() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 13))
}

/// The metrics of one node, all named `syncmesh_…`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Locked to register and to be scraped only: the handles below do not go through it. The first is
    /// this module's own, the others name their metrics in full.
    registries: Arc<Mutex<Vec<Registry>>>,
    http_requests: Family<HttpLabels, Counter>,
    http_seconds: Histograms<RouteLabel>,
    bounds: Bounds,
    locks: LockMetrics,
    queues: QueueMetrics,
    caches: CacheMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with every family of the program in it, all at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("syncmesh");
        let http_requests = Family::default();
        let http_seconds: Histograms<RouteLabel> = Family::new_with_constructor(latency);
        let bounds = Bounds::default();
        registry.register("http_requests", "HTTP requests by method, route and status", http_requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's head to its answer's",
            Unit::Seconds,
            http_seconds.clone(),
        );
        registry.register("bound_hits", "How often a bound refused or delayed work", bounds.0.clone());
        let locks = LockMetrics::registered(&mut registry);
        let queues = QueueMetrics::registered(&mut registry);
        let caches = CacheMetrics::registered(&mut registry);
        let registries = Arc::new(Mutex::new(vec![registry]));
        Self { registries, http_requests, http_seconds, bounds, locks, queues, caches }
    }

    /// Takes in what others count themselves, such as libp2p, under names of their own.
    pub fn attach(&self, registry: Registry) {
        self.registries.lock().unwrap_or_else(PoisonError::into_inner).push(registry);
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        for registry in self.registries.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text::encode_registry(&mut out, registry).expect("writing to a String cannot fail");
        }
        text::encode_eof(&mut out).expect("writing to a String cannot fail");
        out
    }

    /// An HTTP request was answered. `route` is the template of the route, never a path that a client
    /// sent; a method that HTTP does not name counts as `other`.
    pub fn http_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let method = KNOWN_METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        self.http_requests.get_or_create(&HttpLabels { method, route: route.to_owned(), status }).inc();
        self.http_seconds.get_or_create(&RouteLabel { route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// Where each bound that was hit is counted.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// What is counted about locks.
    pub fn locks(&self) -> &LockMetrics {
        &self.locks
    }

    /// What is counted about queues.
    pub fn queues(&self) -> &QueueMetrics {
        &self.queues
    }

    /// What is counted about the cache.
    pub fn caches(&self) -> &CacheMetrics {
        &self.caches
    }
}

const KNOWN_METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"];

/// What is counted about locks. Cheap to clone.
#[derive(Clone)]
pub struct LockMetrics {
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
    fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
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
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

impl fmt::Debug for LockMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockMetrics").finish_non_exhaustive()
    }
}

/// What is counted about queues, without their names: there may be any number of them. Cheap to clone.
#[derive(Clone)]
pub struct QueueMetrics {
    messages: Family<WhatLabel, Counter>,
    publish_seconds: Histogram,
    commit_seconds: Histogram,
    journal_records: Histogram,
    replication_records: Histogram,
    given_up: Counter,
}

impl QueueMetrics {
    fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            messages: Family::default(),
            publish_seconds: latency(),
            commit_seconds: latency(),
            journal_records: batch_size(),
            replication_records: batch_size(),
            given_up: Counter::default(),
        };
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
        metrics
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_are_in_one_text_under_one_prefix() {
        let metrics = Metrics::new();
        metrics.http_request("GET", "/v1/locks/{name}", 200, Duration::from_millis(3));
        metrics.http_request("BREW", "/v1/locks/{name}", 405, Duration::from_millis(1));
        metrics.clone().bounds().hit("net.calls");
        metrics.locks().granted("shared", Duration::from_millis(1500));
        metrics.locks().set_totals(3, 2, 1);
        let text = metrics.encode();
        for line in [
            r#"syncmesh_http_requests_total{method="GET",route="/v1/locks/{name}",status="200"} 1"#,
            r#"syncmesh_http_requests_total{method="other",route="/v1/locks/{name}",status="405"} 1"#,
            r#"syncmesh_bound_hits_total{bound="net.calls"} 1"#,
            r#"syncmesh_lock_grants_total{mode="shared"} 1"#,
            "syncmesh_lock_wait_seconds_sum 1.5",
            "syncmesh_locks_held 3",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let foreign = text.lines().find(|line| !line.starts_with('#') && !line.starts_with("syncmesh_"));
        assert_eq!(foreign, None);
    }

    #[test]
    fn what_others_count_stands_in_the_same_text() {
        let metrics = Metrics::new();
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("libp2p_extra", "An extra one", counter.clone());
        metrics.attach(registry);
        counter.inc();
        let text = metrics.encode();
        assert!(text.contains("libp2p_extra_total 1\n"));
        assert_eq!(text.matches("# EOF").count(), 1);
    }

    #[test]
    fn noisy_crates_are_held_to_warnings_unless_directives_are_given() {
        let shown = |filter: &str| log_filter(filter).unwrap().to_string();
        for bare in ["info", "DEBUG"] {
            assert!(shown(bare).contains("openraft=error") && shown(bare).contains("chunked_wal=warn"), "{bare}");
        }
        assert_eq!(shown("debug,openraft=trace"), "openraft=trace,debug");
        assert_eq!(shown("error"), "error");
        assert!(matches!(log_filter("syncmesh=loud"), Err(LogError::Filter { .. })));
    }
}
