//! Logs and metrics: the set-up of `tracing`, the last lines that were logged, the one Prometheus registry, and the
//! handles to count with.
//!
//! `cli` sets up the logs once a process; each node has a [`Metrics`] of its own. A leaf: it knows
//! nothing of what is counted but the names. Every label is a word from the code, a status or a mode, so
//! the number of series is bounded; never a name that a client chose.

mod bounds;
mod caches;
mod locks;
mod node;
mod process;
mod queues;
mod raft;
mod recent;

use std::{
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
        info::Info,
    },
    registry::{Registry, Unit},
};
use tokio::time::Instant;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

pub use self::{
    bounds::Bounds,
    caches::{CacheFigures, CacheMetrics},
    locks::LockMetrics,
    node::{MemberFigures, NodeFigures, NodeMetrics},
    queues::{JournalState, QueueFigures, QueueMetrics},
    raft::{RaftFigures, RaftMetrics},
    recent::{RecentLogs, recent_logs},
};
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

/// Sends logs to stderr, and keeps the last of them for [`recent_logs`]: once a process, before anything is worth a
/// line.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt().with_env_filter(log_filter(filter)?).with_writer(|| recent::Tee);
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
struct WhatLabel {
    what: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Observes in a histogram how long it has lived, once it is dropped: also where whoever waited gave up.
#[derive(Debug)]
#[must_use = "it measures until it is dropped"]
pub struct Timed {
    histogram: Histogram,
    since: Instant,
}

impl Timed {
    fn new(histogram: Histogram) -> Self {
        Self { histogram, since: Instant::now() }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        self.histogram.observe(self.since.elapsed().as_secs_f64());
    }
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// 100 µs to about 26 s.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 10))
}

/// 50 ms to about 3.6 hours: how long something was missing.
fn absence() -> Histogram {
    Histogram::new(exponential_buckets(0.05, 2.0, 19))
}

/// The metrics of one node, all named `syncmesh_…`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

/// Whatever is counted, by what it is about.
#[derive(Debug)]
struct Families {
    /// Locked to register and to be scraped only: the handles below do not go through it. The first is
    /// this module's own, the others name their metrics in full.
    registries: Mutex<Vec<Registry>>,
    http_requests: Family<HttpLabels, Counter>,
    http_seconds: Histograms<RouteLabel>,
    bounds: Bounds,
    locks: LockMetrics,
    queues: QueueMetrics,
    caches: CacheMetrics,
    raft: RaftMetrics,
    node: NodeMetrics,
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
        registry.register("build", "What runs here", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        bounds.register(&mut registry);
        let locks = LockMetrics::registered(&mut registry);
        let queues = QueueMetrics::registered(&mut registry);
        let caches = CacheMetrics::registered(&mut registry);
        let raft = RaftMetrics::registered(&mut registry);
        let node = NodeMetrics::registered(&mut registry);
        registry.register_collector(Box::new(process::Process));
        let registries = Mutex::new(vec![registry]);
        Self(Arc::new(Families { registries, http_requests, http_seconds, bounds, locks, queues, caches, raft, node }))
    }

    /// Takes in what others count themselves, such as libp2p, under names of their own.
    pub fn attach(&self, registry: Registry) {
        self.0.registries.lock().unwrap_or_else(PoisonError::into_inner).push(registry);
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        for registry in self.0.registries.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text::encode_registry(&mut out, registry).expect("writing to a String cannot fail");
        }
        text::encode_eof(&mut out).expect("writing to a String cannot fail");
        out
    }

    /// An HTTP request was answered. `route` is the template of the route, never a path that a client
    /// sent; a method that HTTP does not name counts as `other`.
    pub fn http_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let method = KNOWN_METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        self.0.http_requests.get_or_create(&HttpLabels { method, route: route.to_owned(), status }).inc();
        self.0.http_seconds.get_or_create(&RouteLabel { route: route.to_owned() }).observe(took.as_secs_f64());
    }

    /// Where each bound that was hit is counted.
    pub fn bounds(&self) -> &Bounds {
        &self.0.bounds
    }

    /// What is counted about locks.
    pub fn locks(&self) -> &LockMetrics {
        &self.0.locks
    }

    /// What is counted about queues.
    pub fn queues(&self) -> &QueueMetrics {
        &self.0.queues
    }

    /// What is counted about the cache.
    pub fn caches(&self) -> &CacheMetrics {
        &self.0.caches
    }

    /// What is counted about Raft.
    pub fn raft(&self) -> &RaftMetrics {
        &self.0.raft
    }

    /// What is counted about the node and its place in the cluster.
    pub fn node(&self) -> &NodeMetrics {
        &self.0.node
    }
}

const KNOWN_METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"];

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
