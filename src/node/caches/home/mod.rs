//! What this node does as a home: the task that owns its [`Home`].
//!
//! It heeds each view before it takes up anything else, so that the member's lease, which counts only once a view is
//! heeded, never makes it serve a slot that is another's (R7, R8). The clock is read right before each step. Here is the
//! task and its loop; [`moves`] is how slots are handed over, [`clear`] how an operator's invalidation is carried out,
//! [`room`] which entries are kept.

mod clear;
mod moves;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::{clear::Clears, moves::Moves, room::Room};
use super::{
    calls::{Reach, Way, Ways},
    counters::{Counters, kind_of},
    link::Link,
    placed::{Change, Heeded},
    types::{DirectoryView, Which},
    wire::{Cleared, CoherenceAsk, Part},
};
use crate::{
    clock::Clock,
    codec::encode,
    ids::{CacheKey, NodeId, Role, Tick},
    machine::{
        cache::{
            CacheAnswer, CacheRequest, EntryState, Home, HomeEffect, HomeId, HomeInput, HomeReply, HomeRequest,
            HomeSettings, Inv, InvBatch, Placed, SlotId, Start, ToHome, Version, waited_ms,
        },
        slots::{Came, Slot},
    },
    mutant::{self, Mutant},
    net::{Lane, Mesh, Topic, deferred::AnswerSlot},
    node::{control::MemberLease, gateway::Gateway, hints::ViewPull, route::Route, wire::View},
};

/// Invalidations in one message of gossip, which has room for as many with the longest keys.
const GOSSIP_BATCH: usize = 64;
/// The pause between two looks while nothing may be done: outside the lease, what is due stays so.
const IDLE: Duration = Duration::from_millis(20);
/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What the task is told.
#[derive(Debug)]
pub(in crate::node::caches) enum ToHomeTask {
    /// A cache asks or, without a way back, tells.
    FromCache { from: NodeId, message: ToHome, way: Option<Way<HomeReply>> },
    /// The home before hands over a part of a slot.
    Part { from: NodeId, part: Part, answer: AnswerSlot },
    /// What is known of a key; `None`: this is not its home.
    Entry { key: CacheKey, reply: oneshot::Sender<Option<(Option<Version>, DirectoryView)>> },
    /// To give up all of these in these slots. Dropped where they are another's, or are so meanwhile.
    Clear { which: Which, slots: BTreeSet<SlotId>, reply: oneshot::Sender<Cleared> },
}

/// What the task is made of.
#[derive(Debug)]
pub(in crate::node::caches) struct HomeParts {
    pub(in crate::node::caches) me: HomeId,
    pub(in crate::node::caches) settings: HomeSettings,
    /// The term of a member's lease, in milliseconds.
    pub(in crate::node::caches) member_lease_ms: u64,
    /// Most entries.
    pub(in crate::node::caches) capacity: usize,
    pub(in crate::node::caches) clock: Arc<dyn Clock>,
    pub(in crate::node::caches) mesh: Arc<dyn Mesh>,
    pub(in crate::node::caches) route: Route,
    pub(in crate::node::caches) pull: ViewPull,
    pub(in crate::node::caches) gateway: Gateway,
    pub(in crate::node::caches) link: Link,
    pub(in crate::node::caches) lease: watch::Receiver<MemberLease>,
    pub(in crate::node::caches) counters: Arc<Counters>,
}

/// What ran beside the task and came back.
#[derive(Debug)]
enum Back {
    Answered { call: u64, answer: Option<CacheAnswer> },
    Sent(moves::Sent),
    Committed,
}

#[derive(Debug)]
pub(in crate::node::caches) struct HomeTask {
    parts: HomeParts,
    home: Home,
    heeded: Heeded,
    /// The lease that the machine was given.
    lease_until: Tick,
    ways: Ways<HomeReply>,
    work: FuturesUnordered<BoxFuture<'static, Back>>,
    /// Invalidations that are to be spread.
    invs: Vec<Inv>,
    home_seq: u64,
    room: Room,
    /// Who has been told of a write, and has not acknowledged it: for counting.
    unacked: BTreeMap<CacheKey, (Version, BTreeSet<NodeId>)>,
    moves: Moves,
    clears: Clears,
}

impl HomeTask {
    pub(in crate::node::caches) fn new(parts: HomeParts) -> Self {
        Self {
            home: Home::new(parts.me, parts.settings),
            heeded: Heeded::default(),
            lease_until: Tick(0),
            ways: Ways::new(parts.link.bounds.clone(), Arc::clone(&parts.counters)),
            work: FuturesUnordered::new(),
            invs: Vec::new(),
            home_seq: 0,
            room: Room::new(parts.capacity),
            unacked: BTreeMap::new(),
            moves: Moves::default(),
            clears: Clears::default(),
            parts,
        }
    }

    /// Runs until `stop`.
    pub(in crate::node::caches) async fn run(mut self, mut inbox: mpsc::Receiver<ToHomeTask>, stop: CancellationToken) {
        let (mut views, mut lease) = (self.parts.route.views(), self.parts.lease.clone());
        views.mark_changed();
        lease.mark_changed();
        loop {
            let wake = self.wake_after();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = views.changed() => self.heed(),
                Ok(()) = lease.changed() => self.lease_changed(),
                Some(back) = self.work.next(), if !self.work.is_empty() => self.back(back),
                Some(said) = inbox.recv() => self.said(said),
                () = tokio::time::sleep(wake) => self.tick(),
            }
            self.after();
        }
    }

    fn wake_after(&self) -> Duration {
        let now = self.parts.clock.now();
        let Some(at) = self.home.deadline() else { return LOOK };
        let due = Duration::from_millis(at.ms_since(now).max(1)).min(LOOK);
        if now < self.lease_until { due } else { due.max(IDLE) }
    }

    fn tick(&mut self) {
        self.step(HomeInput::Tick);
        let pending: Vec<CacheKey> = self.unacked.keys().cloned().collect();
        pending.iter().for_each(|key| self.count_expired(key));
    }

    /// Takes up the view that is installed.
    fn heed(&mut self) {
        let view = self.parts.route.view();
        for change in self.heeded.changes(&view.slots) {
            let Change { slot, after, .. } = change;
            let is_mine = after.home == Some(self.parts.me);
            let placed = Placed { slot, epoch: after.epoch, home: after.home };
            match (change.is_new_epoch(), is_mine) {
                (true, true) => self.begin(placed, after, &view),
                (true, false) => {
                    self.moves.is_elsewhere(slot);
                    self.home.keys_of(slot).for_each(|key| self.room.forgotten(key));
                    self.step(HomeInput::End(placed));
                }
                (false, _) => {}
            }
            if let (Some(to), true) = (after.to, is_mine) {
                self.moves.is_to_go(slot, after.epoch, to);
            }
        }
        let forgotten = self.home.caches().filter(|node| !view.members.contains_key(node)).copied();
        for node in forgotten.collect::<Vec<_>>() {
            self.step(HomeInput::Forget { node });
        }
    }

    fn begin(&mut self, placed: Placed, slot: Slot, view: &View) {
        let now = self.parts.clock.now();
        let handed = match slot.came {
            Came::Handed(by) => self.moves.take(placed.slot, placed.epoch, by),
            Came::Founded | Came::Lost => {
                // What was to become of an epoch before is void.
                self.moves.is_elsewhere(placed.slot);
                None
            }
        };
        let start = match (slot.came, handed) {
            (Came::Founded, _) => Start::Founded,
            _ if mutant::on(Mutant::SuccessorsDoNotWait) => Start::Founded,
            (_, Some((over, at))) => {
                over.entries.iter().for_each(|entry| self.room.used(&entry.key));
                Start::Handed { over, stopped_ms_ago: now.ms_since(at) }
            }
            // What was handed over is lost: so is what it had.
            (Came::Lost | Came::Handed(_), None) => self.fresh(view),
        };
        debug!(slot = placed.slot.0, epoch = placed.epoch.0, came = ?slot.came, "is home to a slot");
        self.step(HomeInput::Begin { placed, start });
    }

    /// How a home begins after one that may be alive: all members that may have had sessions with it are asked, or
    /// outlived.
    fn fresh(&self, view: &View) -> Start {
        let caches = view.members.iter().filter(|(_, member)| member.has_role(Role::CacheNode));
        Start::Fresh {
            caches: caches.map(|(node, _)| *node).collect(),
            old_lease_over_ms: waited_ms(self.parts.member_lease_ms),
        }
    }

    /// The lease counts only with the view that it names, and all that came before it.
    fn lease_changed(&mut self) {
        let lease = *self.parts.lease.borrow();
        self.heed();
        if self.parts.route.view().version >= lease.view {
            let until = if mutant::on(Mutant::HomesOutliveLeases) { Tick(u64::MAX / 2) } else { lease.until };
            self.lease_until = self.lease_until.max(until);
            self.step(HomeInput::Lease { until });
        }
    }

    fn said(&mut self, said: ToHomeTask) {
        match said {
            ToHomeTask::FromCache { from, message, way } => self.cache_says(from, message, way),
            ToHomeTask::Part { from, part, answer } => {
                let (now, slot) = (self.parts.clock.now(), self.heeded.slot(part.slot));
                let taken = self.moves.arrives(now, (self.parts.me, slot), from, part);
                answer.answer(encode(&taken));
            }
            // Who hung up needs no answer.
            ToHomeTask::Entry { key, reply } => _ = reply.send(self.entry(&key)),
            ToHomeTask::Clear { which, slots, reply } => self.clear(which, slots, reply),
        }
    }

    fn cache_says(&mut self, from: NodeId, message: ToHome, way: Option<Way<HomeReply>>) {
        if let Some(refused) = self.no_room_for(&message) {
            if let Some(call) = way.and_then(|way| self.ways.open(way)) {
                self.ways.answer(call, refused, Reach::Here);
            }
            return;
        }
        if let HomeRequest::InvAck { line, version } = &message.body {
            self.count_ack(from, &line.key, *version);
        }
        let is_used = matches!(&message.body, HomeRequest::GetS { .. } | HomeRequest::GetM { .. });
        let call = match way {
            Some(way) => match self.ways.open(way) {
                Some(call) => call,
                None => return,
            },
            None => self.ways.told(),
        };
        let key = message.body.line().map(|line| line.key.clone());
        self.step(HomeInput::FromCache { from, call, message });
        self.ways.defer(call);
        if let Some(key) = key {
            // Of a key that is absent nothing is kept, however often it is read.
            match self.home.view(&key) {
                None => self.room.forgotten(&key),
                Some(_) if is_used => self.room.used(&key),
                Some(_) => {}
            }
            self.count_expired(&key);
        }
    }

    /// Steps the machine and does what it says; whether others were asked.
    fn step(&mut self, input: HomeInput) -> Reach {
        let mut effects = Vec::new();
        self.home.step(self.parts.clock.now(), input, &mut effects);
        let me = self.parts.me.node;
        let is_said = |effect: &HomeEffect| match effect {
            HomeEffect::Ask { to, .. } => *to != me,
            HomeEffect::Broadcast { .. } => true,
            _ => false,
        };
        let reach = if effects.iter().any(is_said) { Reach::Elsewhere } else { Reach::Here };
        effects.into_iter().for_each(|effect| self.perform(effect, reach));
        reach
    }

    fn perform(&mut self, effect: HomeEffect, reach: Reach) {
        match effect {
            HomeEffect::Answer { call, reply } => self.ways.answer(call, reply, reach),
            HomeEffect::Ask { to, call, message } => self.ask(to, call, message),
            HomeEffect::Broadcast { inv } => self.spread(inv),
            HomeEffect::Stopped { over } => self.hand_over(over),
            HomeEffect::Serving { slot, epoch } => {
                debug!(slot = slot.0, epoch = epoch.0, "serves a slot");
                // Who waited for it may have made entries.
                self.home.keys_of(slot).for_each(|key| self.room.used(key));
            }
            HomeEffect::DirtyLost { key, owner } => {
                self.parts.counters.dirty_lost.add(1);
                info!(%key, peer = %owner, "a value is gone that only its owner had: it died, or was away for too long");
            }
            HomeEffect::PullView { .. } => self.parts.pull.pull(),
        }
    }

    fn ask(&mut self, to: NodeId, call: u64, message: crate::machine::cache::FromHome) {
        let link = self.parts.link.clone();
        if to == self.parts.me.node {
            let answer = link.ask_cache_here(message);
            self.work.push(async move { Back::Answered { call, answer: answer.await } }.boxed());
            return;
        }
        self.parts.counters.sent_message(kind_of(&message.body));
        if matches!(message.body, CacheRequest::Inv(_)) {
            self.parts.counters.repeated.add(1);
        }
        let ask = CoherenceAsk::Cache(message);
        self.work.push(async move { Back::Answered { call, answer: link.ask(to, Lane::End, ask).await } }.boxed());
    }

    fn spread(&mut self, inv: Inv) {
        let sharers = self.home.view(&inv.line.key).map(|view| view.sharers).unwrap_or_default();
        let told: BTreeSet<NodeId> = sharers.into_iter().filter(|node| Some(*node) != inv.writer).collect();
        self.parts.counters.sent.add(told.len() as u64);
        self.count_expired(&inv.line.key);
        if !told.is_empty() {
            self.unacked.insert(inv.line.key.clone(), (inv.version, told));
        }
        self.invs.push(inv);
    }

    fn back(&mut self, back: Back) {
        match back {
            Back::Answered { call, answer } => {
                if let Some(CacheAnswer::Recovered { lines, .. }) = &answer {
                    lines.iter().for_each(|line| self.room.used(&line.key));
                }
                self.step(HomeInput::Answered { call, answer });
            }
            Back::Sent(sent) => self.sent(sent),
            Back::Committed => {}
        }
    }

    /// What follows from whatever happened.
    fn after(&mut self) {
        self.make_room();
        self.stop_what_is_to_go();
        self.go_on_clearing();
        self.gossip();
    }

    /// Tells everyone of the invalidations of this turn; the mesh puts together what comes within a millisecond.
    fn gossip(&mut self) {
        while !self.invs.is_empty() {
            let rest = self.invs.split_off(self.invs.len().min(GOSSIP_BATCH));
            let invs = std::mem::replace(&mut self.invs, rest);
            self.home_seq += 1;
            let batch = InvBatch { home_seq: self.home_seq, invs };
            let body = encode(&batch);
            self.parts.counters.sent_message("broadcast");
            self.parts.counters.sent_bytes.add(body.len() as u64);
            self.parts.mesh.broadcast(Topic::Invalidations, body);
            self.parts.link.to_cache(super::cache::ToCache::Gossip(batch));
        }
    }

    fn entry(&self, key: &CacheKey) -> Option<(Option<Version>, DirectoryView)> {
        if self.heeded.slot(SlotId::of(key)).home != Some(self.parts.me) {
            return None;
        }
        let absent = || DirectoryView { state: "I".into(), owner: None, sharers: Vec::new() };
        let Some(view) = self.home.view(key) else { return Some((None, absent())) };
        let state = match (view.state, view.owner, view.sharers.is_empty()) {
            (EntryState::I, ..) => "I",
            (EntryState::S, ..) | (EntryState::Busy, None, false) => "S",
            (_, Some(_), true) => "E/M",
            (_, Some(_), false) => "O",
            (_, None, _) => "I",
        };
        let directory = DirectoryView { state: state.into(), owner: view.owner, sharers: view.sharers };
        Some((Some(view.stamp), directory))
    }

    fn count_ack(&mut self, from: NodeId, key: &CacheKey, version: Version) {
        if let Some((pending, told)) = self.unacked.get_mut(key)
            && *pending == version
            && told.remove(&from)
        {
            self.parts.counters.acknowledged.add(1);
            if told.is_empty() {
                self.unacked.remove(key);
            }
        }
    }

    /// A write that is over without all acknowledgements was ended by leases.
    fn count_expired(&mut self, key: &CacheKey) {
        let Some((pending, told)) = self.unacked.get(key) else { return };
        let view = self.home.view(key);
        if view.is_none_or(|view| view.state != EntryState::Busy || view.stamp > *pending) {
            self.parts.counters.expired.add(told.len() as u64);
            self.unacked.remove(key);
        }
    }
}
