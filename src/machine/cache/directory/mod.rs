//! The home side: the directory of some slots, and the sessions of the caches with it. A pure state machine.
//!
//! Owned by a task of the node that is home to the slots. It orders all that happens to a key: one transaction at a
//! time ([`reads`], [`writes`]), for which it invalidates sharers and recalls owners ([`pending`]); what comes back from
//! owners is in [`returns`]. It alone knows the sessions ([`sessions`]), so that "acknowledged, or the session is dead"
//! has one judge. A slot begins in [`recovery`] and is given away in [`moves`].

mod entry;
mod interface;
mod moves;
mod nonces;
mod pending;
mod reads;
mod recovery;
mod returns;
mod sessions;
mod writes;

use std::collections::{BTreeMap, BTreeSet};

pub use self::interface::*;
use self::{
    entry::{Asked, Entry, What},
    moves::Moves,
    recovery::Recovering,
    returns::Returned,
    sessions::Session,
};
use super::{
    EntryState, FromHome, HomeAnswer, HomeId, HomeRequest, LineId, Nonce, PutAck, SlotId, ToHome, Version,
    rules::{Rule, Rules},
};
use crate::ids::{CacheKey, Epoch, NodeId, Tick};

/// The home of some slots.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Home {
    me: HomeId,
    settings: HomeSettings,
    /// The member's lease of this node (R7).
    lease_until: Tick,
    slots: BTreeMap<SlotId, Slot>,
    /// The newest epoch that is known of slots that are not here.
    elsewhere: BTreeMap<SlotId, Epoch>,
    moves: Moves,
    sessions: BTreeMap<NodeId, Session>,
    /// How many calls were made.
    calls: u64,
    /// What is asked of caches, by call.
    open: BTreeMap<u64, Question>,
    /// The keys with a transaction under way.
    busy: BTreeSet<CacheKey>,
    pub(in crate::machine::cache) rules: Rules,
}

/// One slot in one epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Slot {
    epoch: Epoch,
    versions: Versions,
    phase: Phase,
    /// Boxed: the nodes of a tree are not full.
    entries: BTreeMap<CacheKey, Box<Entry>>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Recovering(Recovering),
    Serving,
    /// What is pending ends, nothing begins.
    Stopping,
}

/// What was asked of a cache, and has no answer yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Question {
    Recall { key: CacheKey, node: NodeId, grant: Nonce },
    Ask { key: CacheKey, node: NodeId, grant: Nonce },
    Recover { slot: SlotId, epoch: Epoch, node: NodeId },
    Inv,
}

/// An entry, for those who look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryView {
    /// Its state.
    pub state: EntryState,
    /// The highest version that was given to anything of the key.
    pub stamp: Version,
    /// Who owns it.
    pub owner: Option<NodeId>,
    /// Who shares it.
    pub sharers: Vec<NodeId>,
    /// Whether the home has a copy of its own, current or not.
    pub has_copy: bool,
    /// Whether it is on its way out: copies are being recalled, or will be in its turn, and the value goes.
    pub is_leaving: bool,
}

impl Home {
    /// A home without slots, outside any lease.
    pub fn new(me: HomeId, settings: HomeSettings) -> Self {
        Self {
            me,
            settings,
            lease_until: Tick(0),
            slots: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            moves: Moves::default(),
            sessions: BTreeMap::new(),
            calls: 0,
            open: BTreeMap::new(),
            busy: BTreeSet::new(),
            rules: Rules::default(),
        }
    }

    /// Takes one input; what is to be done is appended to `effects`, to be done in that order. `now` was read after
    /// the input came.
    pub fn step(&mut self, now: Tick, input: HomeInput, effects: &mut Vec<HomeEffect>) {
        match input {
            HomeInput::Begin { placed, start } => self.begin(now, placed, start, effects),
            HomeInput::End(placed) => self.end(now, placed, effects),
            HomeInput::Lease { until } => self.lease_until = self.lease_until.max(until),
            HomeInput::Stop { slot } => self.stop(slot),
            HomeInput::Forget { node } => self.forget_session(now, &node),
            HomeInput::FromCache { from, call, message } => self.heard(now, from, call, message, effects),
            HomeInput::Answered { call, answer } => self.answered(now, call, answer, effects),
            HomeInput::Evict { key, in_turn } => self.evict(now, &key, in_turn, effects),
            HomeInput::Tick => {}
        }
        if self.is_inside_lease(now) {
            self.do_what_is_due(now, effects);
        }
    }

    /// When [`HomeInput::Tick`] is due, on the clock of [`Home::step`].
    pub fn deadline(&self) -> Option<Tick> {
        self.pending_due().into_iter().chain(self.recovery_due()).min()
    }

    /// What is known of a key.
    pub fn view(&self, key: &CacheKey) -> Option<EntryView> {
        let entry = self.slots.get(&SlotId::of(key))?.entries.get(key)?;
        Some(EntryView {
            state: entry.state(),
            stamp: entry.stamp,
            owner: entry.owner.map(|owner| owner.node),
            sharers: entry.sharers.keys().copied().collect(),
            has_copy: entry.copy.is_some(),
            is_leaving: entry.is_leaving(),
        })
    }

    /// The caches that have, or had, a session.
    pub fn caches(&self) -> impl Iterator<Item = &NodeId> {
        self.sessions.keys()
    }

    /// Whether a slot is served here: its recovery is over, and it is not stopped.
    pub fn is_serving(&self, slot: SlotId) -> bool {
        self.slots.get(&slot).is_some_and(|slot| matches!(slot.phase, Phase::Serving))
    }

    /// The keys of a slot that something is known of.
    pub fn keys_of(&self, slot: SlotId) -> impl Iterator<Item = &CacheKey> {
        self.slots.get(&slot).into_iter().flat_map(|slot| slot.entries.keys())
    }

    fn is_inside_lease(&self, now: Tick) -> bool {
        now < self.lease_until || !self.rules.keep(Rule::HomeInsideLease)
    }

    /// A cache asks or tells.
    fn heard(&mut self, now: Tick, from: NodeId, call: u64, message: ToHome, effects: &mut Vec<HomeEffect>) {
        let session = message.session;
        let epoch = message.body.line().map(|line| self.known_epoch(line.slot()));
        let not_home = HomeAnswer::NotHome { epoch: epoch.unwrap_or_default() };
        if message.home != self.me || !self.is_inside_lease(now) {
            self.refuse(call, session, not_home, effects);
            return;
        }
        if !self.admit_session(now, from, session, effects) {
            self.refuse(call, session, HomeAnswer::SessionOver, effects);
            return;
        }
        let Some(line) = message.body.line().cloned() else {
            self.reply(now, from, call, session, HomeAnswer::Renewed, effects);
            return;
        };
        if !self.is_here(&line, effects) {
            self.refuse(call, session, not_home, effects);
            return;
        }
        self.about_line(
            now,
            Asked { from, call, session, nonce: Nonce::default(), what: What::Evict },
            line,
            message.body,
            effects,
        );
    }

    fn about_line(&mut self, now: Tick, asked: Asked, line: LineId, body: HomeRequest, effects: &mut Vec<HomeEffect>) {
        let Asked { from, call, session, .. } = asked;
        let key = &line.key;
        match body {
            HomeRequest::GetS { nonce, refused, .. } => {
                self.request(now, key, Asked { nonce, what: What::Read { refused }, ..asked }, effects);
            }
            HomeRequest::GetM { nonce, held, need_value, .. } => {
                self.request(now, key, Asked { nonce, what: What::Write { held, need_value }, ..asked }, effects);
            }
            HomeRequest::PutS { grant, .. } => self.put_shared(now, from, key, grant, effects),
            HomeRequest::InvAck { version, .. } => self.acknowledged(now, from, key, version, effects),
            HomeRequest::Put { grant, stamp, value, .. } => {
                self.put(now, from, key, grant, Returned { stamp, value }, effects);
                let body = HomeAnswer::PutAck(PutAck { line, grant });
                self.reply(now, from, call, session, body, effects);
            }
            HomeRequest::StoreThrough { grant, stamp, value, .. } => {
                let taken = self.store_through(now, from, key, (grant, session), stamp, value);
                self.reply(now, from, call, session, HomeAnswer::Stored { grant, stamp, taken }, effects);
            }
            HomeRequest::Renew => {}
        }
    }

    /// The newest epoch of a slot that is known here.
    fn known_epoch(&self, slot: SlotId) -> Epoch {
        let here = self.slots.get(&slot).map(|slot| slot.epoch);
        here.max(self.elsewhere.get(&slot).copied()).unwrap_or_default()
    }

    /// Whether a line is of a slot that is here, in its epoch (R8).
    fn is_here(&self, line: &LineId, effects: &mut Vec<HomeEffect>) -> bool {
        let slot = line.slot();
        if line.epoch > self.known_epoch(slot) {
            effects.push(HomeEffect::PullView { slot, epoch: line.epoch });
        }
        self.slots.get(&slot).is_some_and(|slot| slot.epoch == line.epoch)
    }

    fn slot_of(&mut self, key: &CacheKey) -> Option<&mut Slot> {
        self.slots.get_mut(&SlotId::of(key))
    }

    fn entry(&mut self, key: &CacheKey) -> Option<&mut Entry> {
        self.slot_of(key)?.entries.get_mut(key).map(Box::as_mut)
    }

    fn line(&self, key: &CacheKey) -> LineId {
        LineId { key: key.clone(), epoch: self.known_epoch(SlotId::of(key)) }
    }

    /// Asks a cache.
    fn ask(&mut self, to: NodeId, question: Question, body: super::CacheRequest, effects: &mut Vec<HomeEffect>) {
        self.calls += 1;
        let put_acks = self.take_put_acks(&to);
        self.open.insert(self.calls, question);
        effects.push(HomeEffect::Ask { to, call: self.calls, message: FromHome { home: self.me, put_acks, body } });
    }
}

impl Slot {
    fn new(epoch: Epoch, phase: Phase) -> Self {
        let last = Version { epoch, seq: 0, n: 0 };
        Self { epoch, versions: Versions { last }, phase, entries: BTreeMap::new() }
    }
}

/// Counts the versions of a slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Versions {
    last: Version,
}

impl Versions {
    /// One above all that were given in the slot.
    fn next(&mut self) -> Version {
        self.last.seq += 1;
        self.last
    }
}

#[cfg(test)]
impl Home {
    /// Whether the answer to this call says anything.
    pub(in crate::machine::cache) fn awaits(&self, call: u64) -> bool {
        self.open.contains_key(&call)
    }
}
