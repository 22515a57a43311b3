//! The cache side: one node's lines towards all homes, and its sessions with them. A pure state machine.
//!
//! Owned by the cache task of the node. What it does when something happens to a line is looked up in
//! [`line_move`](super::line_move); this folder carries it out: operations of this node ([`operate`]), answers of homes and owners
//! ([`answers`]), questions of homes and readers ([`serve`]), evictions and the write-back buffer ([`buffer`]),
//! sessions ([`sessions`]), and slots that move ([`slots`]).

mod answers;
mod buffer;
mod entry;
mod interface;
mod keys;
mod operate;
mod requests;
mod serve;
mod sessions;
mod slots;

use std::collections::{BTreeMap, BTreeSet};

pub(in crate::machine::cache) use self::entry::Stored;
pub use self::interface::*;
use self::{
    entry::{Key, Line},
    keys::Keys,
    requests::Call,
    sessions::Session,
};
use super::{HomeId, LineState, Nonce, Placed, SlotId, Version, rules::Rules};
use crate::ids::{CacheKey, Epoch, Incarnation, NodeId, Tick};

/// One node's lines.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Lines {
    me: NodeId,
    incarnation: Incarnation,
    settings: Settings,
    /// How many nonces were made.
    nonces: u64,
    /// How many calls were made.
    calls: u64,
    homes: BTreeMap<HomeId, Session>,
    slots: BTreeMap<SlotId, Placed>,
    keys: Keys,
    /// When something of a key is due.
    due: BTreeSet<(Tick, CacheKey)>,
    open: BTreeMap<u64, Call>,
    pub(in crate::machine::cache) rules: Rules,
}

/// A line, for those who look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineView {
    /// Its state.
    pub state: LineState,
    /// Of the value, where there is a line.
    pub version: Option<Version>,
    /// What of the key is known to be in order up to here.
    pub stamp: Option<Version>,
    /// The grant under which it is held.
    pub grant: Option<Nonce>,
    /// The epoch in which it is held.
    pub epoch: Option<Epoch>,
    /// Until when it may be read.
    pub alive_until: Option<Tick>,
    /// From then on the value is gone.
    pub expires: Option<Tick>,
    /// Whether the home's copy is older.
    pub dirty: bool,
}

impl Lines {
    /// The lines of a run of a node: none yet. One machine for a run: a second one would use the nonces again.
    pub fn new(me: NodeId, incarnation: Incarnation, settings: Settings) -> Self {
        Self {
            me,
            incarnation,
            settings,
            nonces: 0,
            calls: 0,
            homes: BTreeMap::new(),
            slots: BTreeMap::new(),
            keys: Keys::default(),
            due: BTreeSet::new(),
            open: BTreeMap::new(),
            rules: Rules::default(),
        }
    }

    /// Takes one input; what is to be done is appended to `effects`, to be done in that order. `now` was read after
    /// the input came.
    pub fn step(&mut self, now: Tick, input: Input, effects: &mut Vec<Effect>) {
        self.end_sessions(now, effects);
        match input {
            Input::Placed(placed) => self.placed(now, placed, effects),
            Input::Operate { op, key, operation } => self.operate(now, op, key, operation, effects),
            Input::Abandon { op, key } => self.abandon(op, &key),
            Input::Evict { key } => self.evict(now, &key, effects),
            Input::FromHome { from, call, message } => self.asked_by_home(now, from, call, message, effects),
            Input::Fetch { call, message, .. } => self.fetch(now, call, &message, effects),
            Input::Gossip(inv) => {
                self.invalidate(now, &inv, serve::Way::Gossip, effects);
            }
            Input::GossipGap(home) => self.renew(now, home, effects),
            Input::HomeAnswered { call, reply } => self.home_answered(now, call, reply, effects),
            Input::OwnerAnswered { call, answer } => self.owner_answered(now, call, answer, effects),
            Input::Tick => {}
        }
        self.do_what_is_due(now, effects);
    }

    /// When [`Input::Tick`] is due, on the clock of [`Lines::step`].
    pub fn deadline(&self) -> Option<Tick> {
        let keys = self.due.first().map(|(at, _)| *at);
        keys.into_iter().chain(self.sessions_due()).min()
    }

    /// How many keys it keeps anything of: lines, and what is pinned, dirty or in flight.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it keeps nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether it keeps anything of a key.
    pub fn keeps(&self, key: &CacheKey) -> bool {
        self.keys.contains_key(key)
    }

    /// The keys that it keeps anything of, with their states.
    pub fn states(&self) -> impl Iterator<Item = (&CacheKey, LineState)> {
        self.keys.iter().map(|(key, entry)| (key, entry.state()))
    }

    /// What is here of a key.
    pub fn view(&self, key: &CacheKey) -> LineView {
        let entry = self.keys.get(key);
        let line = entry.and_then(|entry| entry.line.as_ref());
        LineView {
            state: entry.map_or(LineState::I, |entry| entry.state()),
            version: line.map(|line| line.value.version),
            stamp: line.map(|line| line.stamp),
            grant: line.map(|line| line.held.grant),
            epoch: line.map(|line| line.held.epoch),
            alive_until: line.and_then(|line| self.alive_until(&line.held)),
            expires: line.and_then(|line| line.value.expires),
            dirty: line.is_some_and(|line| line.dirty),
        }
    }

    /// Whether a hit is served from it at that moment.
    pub fn is_readable(&self, now: Tick, key: &CacheKey) -> bool {
        let line = self.keys.get(key).and_then(|entry| entry.line.as_ref());
        line.is_some_and(|line| !line.unknown && self.is_alive(now, &line.held))
    }

    fn next_nonce(&mut self) -> Nonce {
        self.nonces += 1;
        Nonce { incarnation: self.incarnation, count: self.nonces }
    }

    /// The home of a key, and in which epoch.
    fn home_of(&self, key: &CacheKey) -> Option<(HomeId, Epoch)> {
        let placed = self.slots.get(&SlotId::of(key))?;
        placed.home.map(|home| (home, placed.epoch))
    }

    fn entry(&mut self, key: &CacheKey) -> &mut Key {
        self.keys.entry(key)
    }

    /// Puts a line in the place of what is there.
    fn set_line(&mut self, key: &CacheKey, line: Line) {
        self.take_line(key);
        self.homes.entry(line.held.home).and_modify(|session| session.uses += 1);
        self.entry(key).line = Some(line);
    }

    /// Takes the line away. Readers must be told before anybody else is.
    fn take_line(&mut self, key: &CacheKey) -> Option<Line> {
        let line = self.keys.get_mut(key)?.line.take()?;
        self.homes.entry(line.held.home).and_modify(|session| session.uses -= 1);
        Some(line)
    }

    /// Takes the line away, and tells readers.
    fn drop_line(&mut self, key: &CacheKey, effects: &mut Vec<Effect>) -> Option<Line> {
        let line = self.take_line(key)?;
        effects.push(Effect::Drop { key: key.clone() });
        Some(line)
    }

    /// Tells readers what the line is, if that is new.
    fn publish(&mut self, key: &CacheKey, effects: &mut Vec<Effect>) {
        let Some(line) = self.keys.get_mut(key).and_then(|entry| entry.line.as_mut()) else { return };
        if line.published || line.unknown {
            return;
        }
        line.published = true;
        let installed = Installed {
            state: line.state,
            version: line.value.version,
            body: line.value.body.clone(),
            expires: line.value.expires,
            home: line.held.home,
            session: line.held.session,
        };
        effects.push(Effect::Install { key: key.clone(), line: installed });
    }

    /// Whatever follows for a key from what is known by now.
    fn settle(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        self.advance(now, key, effects);
        self.publish(key, effects);
        self.answer_deferred(now, key, effects);
        self.evict_if_asked(now, key, effects);
        let Some(entry) = self.keys.get_mut(key) else { return };
        let (old, new) = (entry.wake, entry.due());
        if old != new {
            entry.wake = new;
            if let Some(at) = old {
                self.due.remove(&(at, key.clone()));
            }
            if let Some(at) = new {
                self.due.insert((at, key.clone()));
            }
        }
        if self.keys.get(key).is_some_and(|entry| entry.is_empty()) {
            self.keys.remove(key);
        }
    }

    fn do_what_is_due(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        self.renew_in_time(now, effects);
        while let Some((at, key)) = self.due.first().cloned() {
            if at > now {
                break;
            }
            self.ask_again(now, &key, effects);
            self.put_again(now, &key, effects);
            self.settle(now, &key, effects);
            debug_assert!(self.due.first() != Some(&(at, key)), "what was due was put off");
        }
    }
}

#[cfg(test)]
impl Lines {
    /// Whether the answer to this call says anything.
    pub(in crate::machine::cache) fn awaits(&self, call: u64) -> bool {
        self.open.contains_key(&call)
    }

    /// The newest epoch of a slot that it knows.
    pub(in crate::machine::cache) fn epoch_of(&self, slot: SlotId) -> Option<Epoch> {
        self.slots.get(&slot).map(|placed| placed.epoch)
    }

    pub(in crate::machine::cache) fn settings(&self) -> Settings {
        self.settings
    }
}
