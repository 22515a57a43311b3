//! Writes: nobody else has a copy any more when a writer is granted the line.

use super::{
    Home, HomeEffect,
    entry::{Again, Asked, Entry, Owner, Recalling, Unacked, What},
};
use crate::{
    ids::{CacheKey, NodeId, Tick},
    machine::cache::{
        EntryAct, EntryEvent, EntryState, HomeAnswer, Inv, Nonce, Previous, RecallTo, Value, Version, entry_act,
        rules::Rule,
    },
};

impl Home {
    /// Begins a write, or the eviction of the whole entry: invalidates the sharers and recalls the line from its owner.
    pub(super) fn begin_write(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) {
        let repeat_ms = self.settings.repeat_ms;
        let line = self.line(key);
        let Some(slot) = self.slot_of(key) else { return };
        let version = slot.versions.next();
        let Some(entry) = slot.entries.get_mut(key) else { return };
        entry.stamp = version;
        let is_evicted = asked.what == What::Evict;
        let others = entry.sharers.iter().filter(|(node, _)| is_evicted || **node != asked.from);
        let again = Again::first(now, repeat_ms);
        let unacked: Vec<(NodeId, Unacked)> =
            others.map(|(node, sharer)| (*node, Unacked { session: sharer.session, again })).collect();
        let owner = entry.owner.filter(|owner| is_evicted || owner.node != asked.from);
        if !unacked.is_empty() {
            let writer = (!is_evicted).then_some(asked.from);
            effects.push(HomeEffect::Broadcast { inv: Inv { line, version, writer, home: self.me } });
        }
        unacked.iter().for_each(|(node, _)| self.owes(now, node, key));
        let Some(busy) = self.begin_busy(key, asked) else { return };
        busy.version = Some(version);
        busy.unacked = unacked.into_iter().collect();
        if let Some(owner) = owner {
            self.send_recall(now, key, owner, RecallTo::Invalid, effects);
        }
        self.progress(now, key, effects);
    }

    /// Recalls the line from its owner, for a request that is served when that is done.
    pub(super) fn recall_for(
        &mut self,
        now: Tick,
        key: &CacheKey,
        asked: Asked,
        to: RecallTo,
        effects: &mut Vec<HomeEffect>,
    ) {
        let Some(owner) = self.entry(key).and_then(|entry| entry.owner) else { return };
        if self.begin_busy(key, asked).is_some() {
            self.send_recall(now, key, owner, to, effects);
        }
    }

    pub(super) fn send_recall(
        &mut self,
        now: Tick,
        key: &CacheKey,
        owner: Owner,
        to: RecallTo,
        effects: &mut Vec<HomeEffect>,
    ) {
        let again = Again::first(now, self.settings.repeat_ms * 2);
        self.owes(now, &owner.node, key);
        if let Some(busy) = self.entry(key).and_then(|entry| entry.busy.as_mut()) {
            busy.recall = Some(Recalling { owner, to, again });
            self.ask_recall(key, owner, to, effects);
        }
    }

    /// Nobody is waited for any more: the writer is granted the line, or the entry goes.
    pub(super) fn complete_write(
        &mut self,
        now: Tick,
        key: &CacheKey,
        asked: Asked,
        version: Version,
        effects: &mut Vec<HomeEffect>,
    ) {
        let may_answer = self.may_answer(now, &asked.from, asked.session);
        let keep = self.rules.keep(Rule::UpgradeKeepsGrant);
        let Some(entry) = self.entry(key) else { return };
        let previous = Self::previous(entry, asked, now);
        entry.sharers.clear();
        if asked.what == What::Evict {
            (entry.copy, entry.owner) = (None, None);
            return;
        }
        if !may_answer {
            // Nobody writes. What the home has is current: an owner's value is with it, or was voided.
            entry.owner = entry.owner.filter(|owner| owner.node == asked.from);
            self.refuse(asked.call, asked.session, HomeAnswer::SessionOver, effects);
            return;
        }
        let Asked { from: node, nonce, session, .. } = asked;
        let before = entry.owner.filter(|owner| owner.node == node && keep).and(match asked.what {
            What::Write { held, .. } => held,
            _ => None,
        });
        entry.owner = Some(Owner { node, nonce, session, stamp: version, is_dead: false, before });
        entry.through = None;
        let body = HomeAnswer::Grant { nonce, stamp: version, previous };
        self.reply(now, node, asked.call, session, body, effects);
    }

    /// What the writer is told of the value before.
    pub(super) fn previous(entry: &Entry, asked: Asked, now: Tick) -> Previous {
        let What::Write { held, need_value } = asked.what else { return Previous::Unsaid };
        let shares = entry.sharers.get(&asked.from).map(|sharer| sharer.nonce);
        let owner = entry.owner.filter(|owner| owner.node == asked.from);
        if held.is_some_and(|held| shares == Some(held) || owner.is_some_and(|owner| owner.holds(held))) {
            return Previous::Held;
        }
        if !need_value {
            return Previous::Unsaid;
        }
        let absent = Value { version: entry.stamp, body: None, ttl_ms: None };
        Previous::Was(entry.copy.as_ref().map_or(absent, |copy| copy.sent(now)))
    }

    /// A sharer has nothing older than the pending write any more.
    pub(super) fn acknowledged(
        &mut self,
        now: Tick,
        from: NodeId,
        key: &CacheKey,
        version: Version,
        effects: &mut Vec<HomeEffect>,
    ) {
        let exactly = self.rules.keep(Rule::AckNamesVersion);
        let Some(entry) = self.entry(key) else { return };
        let Some(busy) = entry.busy.as_mut().filter(|busy| !exactly || busy.version == Some(version)) else { return };
        if busy.unacked.remove(&from).is_some() {
            entry.sharers.remove(&from);
            self.owes_no_more(&from, key);
            self.progress(now, key, effects);
        }
    }

    /// A sharer has dropped its line.
    pub(super) fn put_shared(
        &mut self,
        now: Tick,
        from: NodeId,
        key: &CacheKey,
        grant: Nonce,
        effects: &mut Vec<HomeEffect>,
    ) {
        let protocol = self.settings.protocol;
        let Some(entry) = self.entry(key) else { return };
        let names_its_grant = entry.sharers.get(&from).is_some_and(|sharer| sharer.nonce == grant);
        if entry_act(protocol, entry.state(), EntryEvent::PutS) != Some(EntryAct::Strike) || !names_its_grant {
            return;
        }
        entry.sharers.remove(&from);
        if entry.busy.as_mut().is_some_and(|busy| busy.unacked.remove(&from).is_some()) {
            self.owes_no_more(&from, key);
            self.progress(now, key, effects);
        }
        self.forget_if_idle(now, key);
    }

    /// The entry goes: whoever has the line gives it up, and the value is gone. What is busy goes in its turn, or stays.
    pub(super) fn evict(&mut self, now: Tick, key: &CacheKey, in_turn: bool, effects: &mut Vec<HomeEffect>) {
        if !self.is_inside_lease(now) || !self.is_serving(super::SlotId::of(key)) {
            return;
        }
        let (session, nonce) = (Nonce::default(), Nonce::default());
        let asked = Asked { from: self.me.node, call: 0, session, nonce, what: What::Evict };
        let Some(entry) = self.entry(key).filter(|entry| !entry.is_leaving()) else { return };
        if entry.state() != EntryState::Busy {
            self.serve(now, key, asked, effects);
            self.forget_if_idle(now, key);
        } else if in_turn {
            entry.waiting.push_back(asked);
        }
    }
}
