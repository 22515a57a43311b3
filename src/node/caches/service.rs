//! The cache service as applications see it, on any node.
//!
//! Checks what is asked, and has it done by this node's cache where it has one, else by another's. Called by the HTTP
//! API, by applications that embed a node, and by the dispatcher for other nodes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    cache::{Ended, ToCache},
    calls::Reach,
    counters::{Counters, operation_of},
    forward::Forward,
    home::ToHomeTask,
    setup::{CacheParts, CutOff, Setup},
    table::Table,
    types::{Counted, Only, Put, Read},
    wire::{CacheAsk, CacheReply},
};
use crate::{
    clock::Clock,
    error::{Error, ErrorCode, Outcome as Effect},
    ids::{CacheKey, NodeId, Tick},
    machine::{
        cache::{Condition, Operation, Outcome, Protocol, Version, WritePolicy},
        membership::ClusterRecord,
    },
    node::{control::MemberLease, limits::check_range, parking::Parking, route::Route},
    telemetry::CacheMetrics,
};

/// How long a read looks for a home that answers.
const READ_PATIENCE: Duration = Duration::from_secs(3);
/// How long a write may take beyond the leases that it may have to outlive.
const WRITE_PATIENCE: Duration = Duration::from_secs(4);
/// The patience of either at a node that has heard of no leader for longer than its lease: most homes have none either.
const CUT_OFF_PATIENCE: (Duration, Duration) = (Duration::from_millis(600), Duration::from_secs(3));
/// What another node may take beyond the patience of the one that it asks.
const ON_THE_WAY: Duration = Duration::from_secs(1);
/// Range of a time to live, in milliseconds.
const TTL_MS: std::ops::RangeInclusive<u64> = 1..=365 * 86_400_000;

/// The cache service. Cheap to clone.
///
/// A read returns the latest acknowledged write or nothing, and never an older value. Each operation fails with
/// `unavailable` where it cannot be done in time; `details.outcome` says whether it may have had an effect.
#[derive(Clone, Debug)]
pub struct Caches {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) me: NodeId,
    pub(super) parts: CacheParts,
    /// Set on cache nodes.
    pub(super) here: Option<Here>,
    pub(super) forward: Forward,
    pub(super) route: Route,
    record: watch::Receiver<Option<ClusterRecord>>,
    lease: watch::Receiver<MemberLease>,
    clock: Arc<dyn Clock>,
    metrics: CacheMetrics,
}

/// The cache of this node.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) table: Arc<Table>,
    pub(super) counters: Arc<Counters>,
    pub(super) metrics: CacheMetrics,
    pub(super) cache: mpsc::Sender<ToCache>,
    pub(super) home: mpsc::Sender<ToHomeTask>,
    pub(super) operations: Arc<AtomicU64>,
}

/// Says that nobody waits for an operation any more, unless it is over.
struct Abandon<'a> {
    here: &'a Here,
    op: u64,
    key: Option<CacheKey>,
    operation: &'static str,
    since: Instant,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.here.stalled(self.operation, self.since);
            // Where the task has too much to do, it finds that nobody listens when the operation is over.
            let _ = self.here.cache.try_send(ToCache::Abandon { op: self.op, key });
        }
    }
}

impl Here {
    /// Has the cache task do something; `None`: it was not done in time.
    async fn operate(&self, key: CacheKey, operation: Operation, patience: Duration) -> Option<Ended> {
        let op = self.operations.fetch_add(1, Ordering::Relaxed);
        let (reply, ended) = oneshot::channel();
        let (kind, since) = (operation_of(&operation), Instant::now());
        let mut abandon = Abandon { here: self, op, key: Some(key.clone()), operation: kind, since };
        let done = async {
            self.cache.send(ToCache::Operate { op, key, operation, reply }).await.ok()?;
            ended.await.ok()
        };
        let ended = timeout(patience, done).await.ok().flatten();
        if let Some((_, reach)) = &ended {
            abandon.key = None;
            if *reach == Reach::Elsewhere {
                self.stalled(kind, since);
            }
        }
        ended
    }

    /// An operation has waited for others since then.
    fn stalled(&self, operation: &'static str, since: Instant) {
        let waited = since.elapsed();
        self.counters.stalled(operation, waited);
        self.metrics.waited(operation, waited);
    }
}

impl Caches {
    pub(super) fn new(parts: CacheParts, setup: Setup, here: Option<Here>, forward: Forward) -> Self {
        let Setup { me, route, record, lease, clock, metrics, .. } = setup;
        Self { inner: Arc::new(Inner { me, parts, here, forward, route, record, lease, clock, metrics }) }
    }

    /// Reads a key. A hit is served from this process's memory, without a message or a system call.
    ///
    /// # Errors
    /// `unavailable` where no home can be reached (with `CACHE_CUT_OFF=miss` that is a miss).
    pub async fn get(&self, key: CacheKey) -> Result<Option<Read>, Error> {
        if let Some(here) = &self.inner.here {
            return match here.table.read(key.as_str()) {
                Some(read) => Ok(read),
                None => self.get_here(here, key).await,
            };
        }
        if let Err(error) = self.in_a_cluster() {
            return self.cut_off(error);
        }
        let _stalled = self.inner.metrics.stalled("get");
        match self.inner.forward.ask(&CacheAsk::Get(key), READ_PATIENCE + ON_THE_WAY).await {
            Ok(CacheReply::Read(read)) => Ok(read.map(|read| Read { hit: false, ..read })),
            Err(error) if error.code == ErrorCode::Unavailable => self.cut_off(error),
            outcome => Err(other(outcome)),
        }
    }

    /// Reads a key if a line that is here serves it. What is no key is in no line.
    #[inline]
    pub(super) fn hit(&self, key: &str) -> Option<Option<Read>> {
        self.inner.here.as_ref()?.table.read(key)
    }

    /// Stores a value. Acknowledged, it is what every read returns from then on.
    ///
    /// # Errors
    /// `bad-request`; `payload-too-large` (`limit`: `MAX_VALUE_BYTES`); `version-mismatch` (`version`: the one that the
    /// key has); `unavailable`.
    pub async fn put(&self, key: CacheKey, put: Put) -> Result<Version, Error> {
        let most = self.inner.parts.value_bytes;
        if put.body.len() > most {
            let detail = format!("the value has {} bytes: at most {most} are taken (MAX_VALUE_BYTES)", put.body.len());
            let mut error = Error::new(ErrorCode::PayloadTooLarge, detail);
            error.details.limit = u64::try_from(most).ok();
            return Err(error);
        }
        if let Some(ttl_ms) = put.ttl_ms {
            check_range("ttl", ttl_ms, TTL_MS)?;
        }
        if self.inner.here.is_none() {
            self.in_a_cluster()?;
            let _stalled = self.inner.metrics.stalled("put");
            return match self.inner.forward.ask(&CacheAsk::Put(key, put), self.write_patience() + ON_THE_WAY).await {
                Ok(CacheReply::Stored(version)) => Ok(version),
                outcome => Err(other(outcome)),
            };
        }
        let Put { body, ttl_ms, only } = put;
        let condition = match only {
            Only::Always => Condition::Always,
            Only::If(version) => Condition::Version(version),
            Only::IfAbsent => Condition::Absent,
        };
        match self.write(key, Operation::Store { body, ttl_ms, condition }).await? {
            Outcome::Stored { version } => Ok(version),
            outcome => Err(refused(outcome)),
        }
    }

    /// Makes a key absent, also where it is: every copy is gone, or its lease over, when this returns.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn delete(&self, key: CacheKey) -> Result<(), Error> {
        if self.inner.here.is_none() {
            self.in_a_cluster()?;
            let _stalled = self.inner.metrics.stalled("delete");
            return match self.inner.forward.ask(&CacheAsk::Delete(key), self.write_patience() + ON_THE_WAY).await {
                Ok(CacheReply::Deleted) => Ok(()),
                outcome => Err(other(outcome)),
            };
        }
        match self.write(key, Operation::Delete).await? {
            Outcome::Deleted => Ok(()),
            outcome => Err(refused(outcome)),
        }
    }

    /// Adds to an integer, atomically; what is absent counts as 0.
    ///
    /// # Errors
    /// `bad-request` where the value is no signed integer of 64 bits, or the sum would be none; `unavailable`.
    pub async fn increment(&self, key: CacheKey, by: i64) -> Result<Counted, Error> {
        if self.inner.here.is_none() {
            self.in_a_cluster()?;
            let _stalled = self.inner.metrics.stalled("increment");
            let ask = CacheAsk::Increment(key, by);
            return match self.inner.forward.ask(&ask, self.write_patience() + ON_THE_WAY).await {
                Ok(CacheReply::Counted(counted)) => Ok(counted),
                outcome => Err(other(outcome)),
            };
        }
        match self.write(key, Operation::Increment { by }).await? {
            Outcome::Incremented { value, version } => Ok(Counted { value, version }),
            outcome => Err(refused(outcome)),
        }
    }

    /// How many acknowledged values are gone, as far as this node's cache and home have noticed.
    pub(in crate::node) fn dirty_lost(&self) -> u64 {
        self.inner.here.as_ref().map_or(0, |here| here.counters.dirty_lost.get())
    }

    /// `CACHE_PROTOCOL`.
    pub fn protocol(&self) -> Protocol {
        self.inner.parts.protocol
    }

    /// `CACHE_WRITE_POLICY`.
    pub fn write_policy(&self) -> WritePolicy {
        self.inner.parts.policy
    }

    /// Serves what another node asks; `parking` is told when it waits for others.
    pub(crate) async fn serve(&self, ask: CacheAsk, parking: &Parking) -> CacheReply {
        let Some(here) = &self.inner.here else { return CacheReply::NoCache };
        if let CacheAsk::Get(key) = &ask
            && let Some(read) = here.table.read(key.as_str())
        {
            return CacheReply::Read(read);
        }
        parking.park();
        let outcome = match ask {
            CacheAsk::Get(key) => self.get_here(here, key).await.map(CacheReply::Read),
            CacheAsk::Put(key, put) => self.put(key, put).await.map(CacheReply::Stored),
            CacheAsk::Delete(key) => self.delete(key).await.map(|()| CacheReply::Deleted),
            CacheAsk::Increment(key, by) => self.increment(key, by).await.map(CacheReply::Counted),
            look => Ok(self.look(here, look).await),
        };
        outcome.unwrap_or_else(CacheReply::Failed)
    }

    /// A read that the table cannot serve. Each is an operation of its own: the machine decides which may share an
    /// answer (R3b).
    async fn get_here(&self, here: &Here, key: CacheKey) -> Result<Option<Read>, Error> {
        let patience = if self.is_cut_off() { CUT_OFF_PATIENCE.0 } else { READ_PATIENCE };
        let Some((outcome, reach)) = here.operate(key, Operation::Load, patience).await else {
            return self.cut_off(self.unreachable());
        };
        match outcome {
            Outcome::Loaded { version, body, state } => {
                Ok(Some(Read { version, body, state, hit: reach == Reach::Here }))
            }
            Outcome::Miss => Ok(None),
            outcome => Err(refused(outcome)),
        }
    }

    async fn write(&self, key: CacheKey, operation: Operation) -> Result<Outcome, Error> {
        let Some(here) = &self.inner.here else { return Err(Error::internal("a write of a node without a cache")) };
        let ended = here.operate(key, operation, self.patience_now()).await;
        ended.map(|(outcome, _)| outcome).ok_or_else(|| {
            if let Err(error) = self.in_a_cluster() {
                return error;
            }
            let detail = "the home of the key did not answer in time, or has too much to do: the write may have been \
                          applied, or be applied yet; look, or repeat it. `syncmesh status` shows who is missing";
            Error::unavailable(Effect::Unknown, detail)
        })
    }

    /// Whether this node has heard of no leader for so long that it would be no home any more.
    pub(in crate::node) fn is_cut_off(&self) -> bool {
        let until = self.inner.lease.borrow().until;
        until > Tick(0) && self.inner.clock.now() >= until
    }

    /// How long homes are waited for here with what changes something.
    pub(super) fn patience_now(&self) -> Duration {
        if self.is_cut_off() { CUT_OFF_PATIENCE.1 } else { self.write_patience() }
    }

    fn unreachable(&self) -> Error {
        self.in_a_cluster().map_or_else(|error| error, |()| unreachable())
    }

    /// Whether this node has joined one: before, it knows of no home and of no other cache node.
    pub(super) fn in_a_cluster(&self) -> Result<(), Error> {
        if self.inner.record.borrow().is_some() { Ok(()) } else { Err(no_cluster()) }
    }

    /// What a read gets that can reach no home.
    fn cut_off(&self, error: Error) -> Result<Option<Read>, Error> {
        match self.inner.parts.cut_off {
            CutOff::Miss => Ok(None),
            CutOff::Unavailable => Err(error),
        }
    }

    /// A write waits for the lease of a home that died, then for those that it granted.
    pub(super) fn write_patience(&self) -> Duration {
        let terms = self.inner.record.borrow().as_ref().map(|record| record.cache.clone()).unwrap_or_default();
        WRITE_PATIENCE + Duration::from_millis(terms.member_lease_ms + 2 * terms.lease_ms)
    }
}

fn no_cluster() -> Error {
    Error::no_quorum(
        "this node has not joined a cluster yet, nothing was changed: start the founder with BOOTSTRAP_EXPECT, or name a \
         member in BOOTSTRAP_PEERS",
    )
}

fn unreachable() -> Error {
    let detail = "the home of the key cannot be reached, or is none without a quorum of the lock managers: try again, or ask \
                  another node. `syncmesh status` shows who is missing";
    Error::unavailable(Effect::NotApplied, detail)
}

/// The failures among what comes of an operation.
fn refused(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Mismatch { version } => {
            let detail = match version {
                Some(version) => format!("the key has version {version}: nothing was changed; read it again"),
                None => "the key is absent: nothing was changed".to_owned(),
            };
            let mut error = Error::new(ErrorCode::VersionMismatch, detail);
            error.details.version = version.map(|version| version.to_string());
            error
        }
        Outcome::NotAnInteger => Error::bad_request(
            "value",
            "the value is no signed integer of 64 bits, or the sum would be none: nothing was changed",
        ),
        Outcome::Busy => Error::unavailable(
            Effect::NotApplied,
            "too many operations wait for this key or at this node, or it is about to stop: nothing was changed; try again \
             later, or at another node",
        ),
        Outcome::Unknown => Error::unavailable(
            Effect::Unknown,
            "the session with the home of the key ended before it answered: the write may have been applied; look, or \
             repeat it",
        ),
        other => Error::internal(format!("the cache gave an answer to something else: {other:?}")),
    }
}

/// What is not the answer to what was asked.
fn other(outcome: Result<CacheReply, Error>) -> Error {
    match outcome {
        Ok(CacheReply::Failed(error)) | Err(error) => error,
        Ok(reply) => Error::internal(format!("a cache node gave an answer to something else: {reply:?}")),
    }
}
