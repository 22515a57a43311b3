//! What this node does as a cache: the task that owns its [`Lines`].
//!
//! Every miss and every write goes through it; hits do not, they read the [table](super::table), which this task alone
//! writes. The clock is read right before each step: a store is made inside the session only (R12). [`census`] counts
//! what becomes of lines.

mod census;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::census::{Cause, Census};
use super::{
    calls::{Reach, Way, Ways},
    counters::Counters,
    link::Link,
    placed::{Change, Heeded},
    table::{Table, TableWriter},
    types::{CacheNodeView, LineView},
    wire::CoherenceAsk,
};
use crate::{
    clock::Clock,
    ids::{CacheKey, Incarnation, NodeId},
    machine::cache::{
        CacheAnswer, CacheRequest, Effect, Fetch, FromHome, HomeId, HomeReply, HomeRequest, Input, InvBatch, LineState,
        Lines, Operation, Outcome, Placed, Settings, ToHome,
    },
    net::Lane,
    node::{hints::ViewPull, route::Route},
    time::rfc3339,
};

/// As many keys as there may be lines, but at least and at most so many, that are in flight, buffered or waited for may be
/// kept beside the lines: further ones are refused.
const BESIDE: std::ops::RangeInclusive<usize> = 1_024..=65_536;
/// Most homes whose gossip is followed.
const MOST_HOMES: usize = 4_096;
/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Keys of which anything may be kept where there may be so many lines.
pub(in crate::node::caches) fn most_keys(capacity: usize) -> usize {
    capacity.saturating_add(capacity.clamp(*BESIDE.start(), *BESIDE.end()))
}

/// How an operation ended, and whether others were asked.
pub(in crate::node::caches) type Ended = (Outcome, Reach);

/// What the task is told.
#[derive(Debug)]
pub(in crate::node::caches) enum ToCache {
    /// Somebody here wants something of a key.
    Operate { op: u64, key: CacheKey, operation: Operation, reply: oneshot::Sender<Ended> },
    /// And waits for it no longer.
    Abandon { op: u64, key: CacheKey },
    /// A home asks.
    FromHome { from: NodeId, message: FromHome, way: Way<CacheAnswer> },
    /// Another cache reads what is owned here.
    Fetch { from: NodeId, message: Fetch, way: Way<CacheAnswer> },
    /// Invalidations of one home.
    Gossip(InvBatch),
    /// The line of a key, for those who look.
    Line { key: CacheKey, reply: oneshot::Sender<Option<LineView>> },
    /// The figures, for those who look.
    Stats { reply: oneshot::Sender<Box<CacheNodeView>> },
    /// To give all lines back; how many are left.
    GiveBack { reply: oneshot::Sender<usize> },
}

/// What the task is made of.
#[derive(Debug)]
pub(in crate::node::caches) struct TaskParts {
    pub(in crate::node::caches) me: NodeId,
    pub(in crate::node::caches) incarnation: Incarnation,
    pub(in crate::node::caches) settings: Settings,
    /// `CACHE_CAPACITY`.
    pub(in crate::node::caches) capacity: usize,
    pub(in crate::node::caches) clock: Arc<dyn Clock>,
    pub(in crate::node::caches) route: Route,
    pub(in crate::node::caches) pull: ViewPull,
    pub(in crate::node::caches) link: Link,
    pub(in crate::node::caches) table: Arc<Table>,
    pub(in crate::node::caches) counters: Arc<Counters>,
}

/// An answer to what was asked.
#[derive(Debug)]
enum Back {
    OfHome { call: u64, key: Option<CacheKey>, reply: Option<(HomeReply, Reach)> },
    OfOwner { call: u64, answer: Option<CacheAnswer> },
    Told,
}

/// The operations on a key that are under way.
#[derive(Debug)]
struct Flight {
    operations: usize,
    reach: Reach,
}

#[derive(Debug)]
struct Waiting {
    key: CacheKey,
    /// Of a read: why it will be a miss, if it is one.
    why: Option<&'static str>,
    reply: oneshot::Sender<Ended>,
}

#[derive(Debug)]
pub(in crate::node::caches) struct CacheTask {
    parts: TaskParts,
    lines: Lines,
    table: TableWriter,
    heeded: Heeded,
    ways: Ways<CacheAnswer>,
    calls: FuturesUnordered<BoxFuture<'static, Back>>,
    operations: HashMap<u64, Waiting>,
    flights: HashMap<CacheKey, Flight>,
    /// The last number of gossip that was heard of each home.
    heard: BTreeMap<HomeId, u64>,
    /// Lines that have to make room.
    put_out: Vec<CacheKey>,
    census: Census,
    phase: Phase,
}

/// Whether lines are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Serving,
    /// They are given back: what is stored now would be lost.
    Closing,
}

impl CacheTask {
    pub(in crate::node::caches) fn new(parts: TaskParts) -> Self {
        Self {
            lines: Lines::new(parts.me, parts.incarnation, parts.settings),
            table: TableWriter::new(Arc::clone(&parts.table)),
            heeded: Heeded::default(),
            ways: Ways::new(parts.link.bounds.clone(), Arc::clone(&parts.counters)),
            calls: FuturesUnordered::new(),
            operations: HashMap::new(),
            flights: HashMap::new(),
            heard: BTreeMap::new(),
            put_out: Vec::new(),
            census: Census::new(parts.capacity),
            phase: Phase::Serving,
            parts,
        }
    }

    /// Runs until `stop`. What this node's clients want has a channel of its own, so that it never keeps out what others
    /// wait for.
    pub(in crate::node::caches) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<ToCache>,
        mut wanted: mpsc::Receiver<ToCache>,
        stop: CancellationToken,
    ) {
        let mut views = self.parts.route.views();
        views.mark_changed();
        loop {
            let wake = self.wake_after();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = views.changed() => self.heed(),
                Some(back) = self.calls.next(), if !self.calls.is_empty() => self.back(back),
                Some(said) = inbox.recv() => self.said(said),
                Some(said) = wanted.recv() => self.said(said),
                () = tokio::time::sleep(wake) => self.step(Input::Tick, Cause::LeaseLost),
            }
        }
    }

    fn wake_after(&self) -> Duration {
        let now = self.parts.clock.now();
        let due = self.lines.deadline().map(|at| Duration::from_millis(at.ms_since(now).max(1)));
        due.map_or(LOOK, |due| due.min(LOOK))
    }

    /// Takes up the view that is installed.
    fn heed(&mut self) {
        let view = self.parts.route.view();
        for change in self.heeded.changes(&view.slots).into_iter().filter(Change::is_new_epoch) {
            let placed = Placed { slot: change.slot, epoch: change.after.epoch, home: change.after.home };
            self.step(Input::Placed(placed), Cause::Moved);
        }
        let serves = |home: &HomeId| {
            view.members.get(&home.node).is_some_and(|member| member.joiner.incarnation == home.incarnation)
        };
        self.table.forget(serves);
        self.heard.retain(|home, _| serves(home));
    }

    fn said(&mut self, said: ToCache) {
        match said {
            ToCache::Operate { op, key, operation, reply } => self.operate(op, key, operation, reply),
            ToCache::Abandon { op, key } => self.abandon(op, key),
            ToCache::FromHome { from, message, way } => {
                let cause = match &message.body {
                    CacheRequest::Recover { .. } => Cause::Moved,
                    _ => Cause::Invalidated,
                };
                if matches!(message.body, CacheRequest::Inv(_)) {
                    self.parts.counters.received.add(1);
                }
                self.asked(way, cause, |call| Input::FromHome { from, call, message });
            }
            ToCache::Fetch { from, message, way } => {
                self.asked(way, Cause::Invalidated, |call| Input::Fetch { from, call, message });
            }
            ToCache::Gossip(batch) => self.gossip(batch),
            // Who hung up needs no answer.
            ToCache::Line { key, reply } => _ = reply.send(self.line(&key)),
            ToCache::Stats { reply } => _ = reply.send(Box::new(self.stats())),
            ToCache::GiveBack { reply } => {
                self.give_back();
                let _ = reply.send(self.lines.len());
            }
        }
    }

    fn operate(&mut self, op: u64, key: CacheKey, operation: Operation, reply: oneshot::Sender<Ended>) {
        if reply.is_closed() {
            return;
        }
        let is_full = self.lines.len() >= most_keys(self.parts.capacity) && !self.lines.keeps(&key);
        if is_full {
            self.parts.link.bounds.hit("cache.in-flight");
        }
        if is_full || self.phase == Phase::Closing {
            // Who hung up needs no answer.
            let _ = reply.send((Outcome::Busy, Reach::Here));
            return;
        }
        let flight = self.flights.entry(key.clone()).or_insert(Flight { operations: 0, reach: Reach::Here });
        flight.operations += 1;
        let why = (operation == Operation::Load).then(|| self.census.why_missing(&key));
        self.operations.insert(op, Waiting { key: key.clone(), why, reply });
        self.step(Input::Operate { op, key, operation }, Cause::Invalidated);
    }

    fn abandon(&mut self, op: u64, key: CacheKey) {
        if self.operations.remove(&op).is_some() {
            self.landed(&key);
            self.step(Input::Abandon { op, key }, Cause::Invalidated);
        }
    }

    fn asked(&mut self, way: Way<CacheAnswer>, cause: Cause, input: impl FnOnce(u64) -> Input) {
        let Some(call) = self.ways.open(way) else { return };
        self.step(input(call), cause);
        self.ways.defer(call);
    }

    fn gossip(&mut self, batch: InvBatch) {
        let Some(home) = batch.invs.first().map(|inv| inv.home) else { return };
        let last = self.heard.get(&home).copied();
        if self.heard.len() < MOST_HOMES || last.is_some() {
            self.heard.insert(home, last.unwrap_or(0).max(batch.home_seq));
        }
        self.parts.counters.received.add(batch.invs.len() as u64);
        for inv in batch.invs {
            self.step(Input::Gossip(inv), Cause::Invalidated);
        }
        if let Some(last) = last.filter(|last| batch.home_seq > last + 1) {
            self.parts.counters.missed.add(batch.home_seq - last - 1);
            self.step(Input::GossipGap(home), Cause::Invalidated);
        }
    }

    fn back(&mut self, back: Back) {
        match back {
            Back::OfHome { call, key, reply } => {
                let reply = reply.map(|(reply, reach)| {
                    if let Some(key) = key.filter(|_| reach == Reach::Elsewhere) {
                        self.left(&key);
                    }
                    reply
                });
                self.step(Input::HomeAnswered { call, reply }, Cause::LeaseLost);
            }
            Back::OfOwner { call, answer } => self.step(Input::OwnerAnswered { call, answer }, Cause::Invalidated),
            Back::Told => {}
        }
    }

    /// Steps the machine and does what it says; `cause` is why lines go that go by this.
    fn step(&mut self, input: Input, cause: Cause) {
        let mut effects = Vec::new();
        self.lines.step(self.parts.clock.now(), input, &mut effects);
        effects.into_iter().for_each(|effect| self.perform(effect, cause));
        while let Some(key) = self.put_out.pop() {
            self.census.evicted();
            let mut effects = Vec::new();
            self.lines.step(self.parts.clock.now(), Input::Evict { key }, &mut effects);
            effects.into_iter().for_each(|effect| self.perform(effect, Cause::Evicted));
        }
    }

    fn perform(&mut self, effect: Effect, cause: Cause) {
        match effect {
            Effect::AskHome { call, message } => self.ask_home(call, message),
            Effect::TellHome { message } => self.tell_home(message),
            Effect::AskOwner { to, call, message } => {
                self.left(&message.line.key);
                self.parts.counters.sent_message("fetch");
                let (link, ask) = (self.parts.link.clone(), CoherenceAsk::Owner(message));
                let answer = async move { Back::OfOwner { call, answer: link.ask(to, Lane::End, ask).await } };
                self.calls.push(answer.boxed());
            }
            Effect::Answer { call, answer } => self.ways.answer(call, answer, Reach::Here),
            Effect::Done { op, outcome } => self.done(op, outcome),
            Effect::Install { key, line } => {
                self.census.installed(&key, line.state, line.body.as_ref().map_or(0, bytes::Bytes::len));
                self.put_out.extend(self.table.install(key, line));
            }
            Effect::Drop { key } => {
                self.table.drop_line(&key);
                self.census.dropped(&key, cause);
            }
            Effect::Session { home, session, until } => self.table.session(home, session, until),
            Effect::DirtyLost { key } => {
                self.parts.counters.dirty_lost.add(1);
                info!(%key, "a value that was stored here is gone: nobody else had it when its session ended");
            }
            Effect::PullView { .. } => self.parts.pull.pull(),
        }
    }

    fn ask_home(&mut self, call: u64, message: ToHome) {
        let key = message.body.line().map(|line| line.key.clone());
        let (link, to) = (self.parts.link.clone(), message.home.node);
        if to == self.parts.me {
            let reply = link.ask_home_here(message);
            self.calls.push(async move { Back::OfHome { call, key, reply: reply.await } }.boxed());
            return;
        }
        if let Some(key) = &key {
            self.left(key);
        }
        self.parts.counters.sent_message(message.body.kind());
        let lane = lane(&message.body);
        let ask = async move {
            let reply = link.ask(to, lane, CoherenceAsk::Home(message)).await;
            Back::OfHome { call, key, reply: reply.map(|reply| (reply, Reach::Elsewhere)) }
        };
        self.calls.push(ask.boxed());
    }

    fn tell_home(&mut self, message: ToHome) {
        let (link, to) = (self.parts.link.clone(), message.home.node);
        if to == self.parts.me {
            link.to_home(super::home::ToHomeTask::FromCache { from: to, message, way: None });
            return;
        }
        self.parts.counters.sent_message(message.body.kind());
        let tell = async move {
            link.tell(to, CoherenceAsk::Home(message)).await;
            Back::Told
        };
        self.calls.push(tell.boxed());
    }

    fn done(&mut self, op: u64, outcome: Outcome) {
        let Some(Waiting { key, why, reply }) = self.operations.remove(&op) else { return };
        let reach = self.landed(&key);
        match why {
            Some(_) if reach == Reach::Here && matches!(outcome, Outcome::Loaded { .. }) => self.census.hit(),
            Some(why) => {
                self.census.missed(why);
                if matches!(outcome, Outcome::Loaded { .. }) {
                    self.parts.counters.remote_hits.add(1);
                }
            }
            None => {}
        }
        // Who hung up has abandoned it.
        let _ = reply.send((outcome, reach));
    }

    /// A message about the key has left the node.
    fn left(&mut self, key: &CacheKey) {
        if let Some(flight) = self.flights.get_mut(key) {
            flight.reach = Reach::Elsewhere;
        }
    }

    /// An operation on the key is over; whether others were asked for it.
    fn landed(&mut self, key: &CacheKey) -> Reach {
        let Some(flight) = self.flights.get_mut(key) else { return Reach::Here };
        flight.operations -= 1;
        let reach = flight.reach;
        if flight.operations == 0 {
            self.flights.remove(key);
        }
        reach
    }

    fn line(&self, key: &CacheKey) -> Option<LineView> {
        let view = self.lines.view(key);
        let version = view.version?;
        let now = self.parts.clock.now();
        let wall = self.parts.clock.wall();
        let expires_at = |at: crate::ids::Tick| rfc3339(wall.plus_ms(at.ms_since(now)));
        Some(LineView {
            peer: self.parts.me,
            state: view.state,
            version,
            lease_ms: view.alive_until.map_or(0, |until| until.ms_since(now)),
            expires_at: view.expires.filter(|at| *at > now).map(expires_at),
        })
    }

    fn stats(&self) -> CacheNodeView {
        let TaskParts { me, capacity, table, counters, .. } = &self.parts;
        CacheNodeView {
            peer: *me,
            capacity: u64::try_from(*capacity).unwrap_or(u64::MAX),
            entries: table.len() as u64,
            bytes: self.census.bytes(),
            lines: self.census.by_state(),
            hits: table.hits() + self.census.hits(),
            remote_hits: counters.remote_hits.get(),
            misses: self.census.misses(),
            evictions: self.census.evictions(),
            directory_evictions: counters.directory_evictions.get(),
            transitions: self.census.transitions(),
            dirty_lost: counters.dirty_lost.get(),
            invalidations: counters.invalidations(),
            messages: counters.messages(),
            sent_bytes: counters.sent_bytes.get(),
            stalls: counters.stalls(),
        }
    }

    /// Gives all lines back to their homes, and takes no new ones: this node is about to stop.
    fn give_back(&mut self) {
        self.phase = Phase::Closing;
        let is_line = |state: LineState| matches!(state, LineState::S | LineState::E | LineState::O | LineState::M);
        let keys = self.lines.states().filter(|(_, state)| is_line(*state)).map(|(key, _)| key.clone());
        for key in keys.collect::<Vec<_>>() {
            self.step(Input::Evict { key }, Cause::Evicted);
        }
    }
}

/// What ends somebody's wait must not queue behind those who wait.
fn lane(body: &HomeRequest) -> Lane {
    if body.ends_a_wait() { Lane::End } else { Lane::Ask }
}
