//! Brings together what the cache is on a node: the handle on every node, the tasks and the door on a cache node.

use std::sync::{Arc, atomic::AtomicU64};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    Caches,
    cache::{self, CacheTask},
    counters::Counters,
    door::Door,
    forward::Forward,
    home::{HomeParts, HomeTask},
    link::Link,
    service::Here,
    table::Table,
};
use crate::{
    clock::Clock,
    ids::{Incarnation, NodeId},
    machine::{
        cache::{HomeId, HomeSettings, Protocol, Settings, WritePolicy},
        membership::{CacheTerms, ClusterRecord},
    },
    net::{Mesh, Protocol as Wire, deferred::Exchange},
    node::{control::MemberLease, gateway::Gateway, hints::ViewPull, requests::OpenRequests, route::Route},
    telemetry::{Bounds, CacheMetrics},
};

/// What may wait for a task at a time.
const INBOX: usize = 8_192;
/// Bytes of values in one answer about what is left of a slot; what is in one message fits 9 MiB.
const RECOVERED_BYTES: usize = 8 << 20;
/// Most lines in one.
const RECOVERED_LINES: usize = 512;
/// A home keeps so many entries for each line of `CACHE_CAPACITY`: homes have unequal shares of the keys.
const ENTRIES_PER_LINE: usize = 2;

/// What a read gets that can reach no home (`CACHE_CUT_OFF`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CutOff {
    /// A miss.
    Miss,
    /// The error `unavailable`.
    Unavailable,
}

/// The cache's part of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheParts {
    /// Whether it is a cache node.
    pub(crate) role: bool,
    /// `CACHE_CAPACITY`.
    pub(crate) capacity: usize,
    /// Most bytes of a value.
    pub(crate) value_bytes: usize,
    /// `CACHE_PROTOCOL`.
    pub(crate) protocol: Protocol,
    /// `CACHE_WRITE_POLICY`.
    pub(crate) policy: WritePolicy,
    /// `CACHE_CUT_OFF`.
    pub(crate) cut_off: CutOff,
}

impl CacheParts {
    /// Of a node that is no cache node, with the defaults.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self {
            role: false,
            capacity: 10_000,
            value_bytes: 1 << 20,
            protocol: Protocol::Mesi,
            policy: WritePolicy::Back,
            cut_off: CutOff::Unavailable,
        }
    }
}

/// What it is set up with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) me: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) route: Route,
    pub(crate) pull: ViewPull,
    pub(crate) gateway: Gateway,
    /// For operations of other nodes' clients.
    pub(crate) client: Exchange,
    pub(crate) requests: Arc<OpenRequests>,
    pub(crate) lease: watch::Receiver<MemberLease>,
    pub(crate) record: watch::Receiver<Option<ClusterRecord>>,
    pub(crate) bounds: Bounds,
    pub(crate) metrics: CacheMetrics,
    pub(crate) stop: CancellationToken,
}

/// A task by its name.
type Task = (&'static str, BoxFuture<'static, ()>);

/// Sets the cache up: the handle, the door, and the tasks, which the caller runs.
pub(crate) fn set_up(parts: CacheParts, setup: Setup) -> (Caches, Door, Vec<Task>) {
    let forward = Forward::new(&setup);
    if !parts.role {
        return (Caches::new(parts, setup, None, forward), Door::shut(), Vec::new());
    }
    let (exchange, asked, exchange_task) =
        Exchange::new(Arc::clone(&setup.mesh), Wire::Coherence, setup.bounds.clone());
    let (cache, cache_inbox) = mpsc::channel(INBOX);
    let (wanted, cache_wanted) = mpsc::channel(INBOX);
    let (home, home_inbox) = mpsc::channel(INBOX);
    let counters = Arc::new(Counters::default());
    let link = Link {
        me: setup.me,
        exchange: exchange.clone(),
        requests: Arc::clone(&setup.requests),
        cache,
        home: home.clone(),
        bounds: setup.bounds.clone(),
        counters: Arc::clone(&counters),
    };
    let table = Arc::new(Table::new(parts.capacity, Arc::clone(&setup.clock)));
    let door = Door::open(exchange, link.clone(), setup.route.clone(), setup.pull.clone(), setup.bounds.clone());
    let tasks = vec![
        ("coherence-exchange", until(setup.stop.clone(), exchange_task.run())),
        ("coherence", door.clone().run(asked, setup.stop.clone()).boxed()),
        (
            "cache",
            run_cache(
                parts,
                &setup,
                link.clone(),
                Arc::clone(&table),
                Arc::clone(&counters),
                (cache_inbox, cache_wanted),
            ),
        ),
        ("cache-home", run_home(parts, &setup, link, Arc::clone(&counters), home_inbox)),
    ];
    let metrics = setup.metrics.clone();
    let here = Here { table, counters, metrics, cache: wanted, home, operations: Arc::new(AtomicU64::new(0)) };
    (Caches::new(parts, setup, Some(here), forward), door, tasks)
}

fn until(stop: CancellationToken, task: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, ()> {
    async move {
        tokio::select! { () = task => {}, () = stop.cancelled() => {} }
    }
    .boxed()
}

/// Waits for the terms of the cluster; `None`: the node stops first.
async fn terms(mut record: watch::Receiver<Option<ClusterRecord>>, stop: &CancellationToken) -> Option<CacheTerms> {
    tokio::select! {
        record = record.wait_for(Option::is_some) => record.ok()?.as_ref().map(|record| record.cache.clone()),
        () = stop.cancelled() => None,
    }
}

fn run_cache(
    parts: CacheParts,
    setup: &Setup,
    link: Link,
    table: Arc<Table>,
    counters: Arc<Counters>,
    (inbox, wanted): (mpsc::Receiver<cache::ToCache>, mpsc::Receiver<cache::ToCache>),
) -> BoxFuture<'static, ()> {
    let Setup { me, incarnation, clock, route, pull, record, stop, .. } = setup;
    let (me, incarnation, record, stop) = (*me, *incarnation, record.clone(), stop.clone());
    let (clock, route, pull) = (Arc::clone(clock), route.clone(), pull.clone());
    async move {
        let Some(terms) = terms(record, &stop).await else { return };
        let settings = Settings {
            protocol: parts.protocol,
            policy: parts.policy,
            lease_ms: terms.lease_ms,
            renew_ms: terms.lease_ms / 3,
            patience_ms: terms.lease_ms,
            retry_ms: (terms.lease_ms / 8).clamp(10, 250),
            max_recovered: RECOVERED_LINES,
            max_recovered_bytes: RECOVERED_BYTES,
            ..Settings::default()
        };
        let (capacity, incarnation) = (parts.capacity, incarnation);
        let parts = cache::TaskParts { me, incarnation, settings, capacity, clock, route, pull, link, table, counters };
        CacheTask::new(parts).run(inbox, wanted, stop).await;
    }
    .boxed()
}

fn run_home(
    parts: CacheParts,
    setup: &Setup,
    link: Link,
    counters: Arc<Counters>,
    inbox: mpsc::Receiver<super::home::ToHomeTask>,
) -> BoxFuture<'static, ()> {
    let me = HomeId { node: setup.me, incarnation: setup.incarnation, group: 0 };
    let Setup { clock, mesh, route, pull, gateway, lease, record, stop, .. } = setup;
    let (clock, mesh, route, pull) = (Arc::clone(clock), Arc::clone(mesh), route.clone(), pull.clone());
    let (gateway, lease, record, stop) = (gateway.clone(), lease.clone(), record.clone(), stop.clone());
    async move {
        let Some(terms) = terms(record, &stop).await else { return };
        let settings = HomeSettings {
            protocol: parts.protocol,
            policy: parts.policy,
            lease_ms: terms.lease_ms,
            ..HomeSettings::default()
        };
        let capacity = parts.capacity.saturating_mul(ENTRIES_PER_LINE);
        let member_lease_ms = terms.member_lease_ms;
        let parts = HomeParts {
            me,
            settings,
            member_lease_ms,
            capacity,
            clock,
            mesh,
            route,
            pull,
            gateway,
            link,
            lease,
            counters,
        };
        HomeTask::new(parts).run(inbox, stop).await;
    }
    .boxed()
}
