//! Slots that go to another home: planned, with all that is known of them, or because somebody else has them.

use std::collections::BTreeMap;

use super::{HandOver, HandedEntry, HandedOwner, Home, HomeEffect, Phase, entry::Owner};
use crate::{
    ids::{CacheKey, Epoch, Tick},
    machine::cache::{EntryState, HomeAnswer, Moved, Placed, SlotId, rules::Rule, waited_ms},
};

/// The slots that were given up since less than a lease: no session is extended without its cache hearing of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Moves(BTreeMap<SlotId, (Epoch, Tick)>);

impl Moves {
    /// What every answer says.
    pub(super) fn told(&self, now: Tick) -> Vec<Moved> {
        let moved = self.0.iter().filter(|(_, (_, until))| now < *until);
        moved.map(|(slot, (epoch, _))| Moved { slot: *slot, epoch: *epoch }).collect()
    }
}

impl Home {
    /// No transaction of the slot begins any more.
    pub(super) fn stop(&mut self, slot: SlotId) {
        if let Some(here) = self.slots.get_mut(&slot).filter(|here| matches!(here.phase, Phase::Serving)) {
            here.phase = Phase::Stopping;
        }
    }

    /// Hands over the slots that are stopping and in which nothing is pending.
    pub(super) fn finish_stopping(&mut self, now: Tick, effects: &mut Vec<HomeEffect>) {
        let is_done = |slot: &super::Slot| {
            matches!(slot.phase, Phase::Stopping) && slot.entries.values().all(|entry| entry.busy.is_none())
        };
        let done: Vec<SlotId> = self.slots.iter().filter(|(_, slot)| is_done(slot)).map(|(slot, _)| *slot).collect();
        for slot in done {
            let Some(here) = self.slots.remove(&slot) else { continue };
            self.gone(now, slot, here.epoch);
            let entries = here.entries.into_iter().map(|(key, entry)| HandedEntry {
                key,
                value: entry.copy.map(|copy| copy.sent(now)),
                owner: entry.owner.map(|Owner { node, nonce: grant, session, before, .. }| HandedOwner {
                    node,
                    grant,
                    session,
                    before,
                }),
            });
            let alive = self.sessions.iter().filter(|(_, session)| session.until.is_some_and(|until| now < until));
            let caches = alive.map(|(node, _)| *node).collect();
            let over = HandOver { slot, epoch: here.epoch, home: self.me, caches, entries: entries.collect() };
            effects.push(HomeEffect::Stopped { over });
        }
    }

    fn gone(&mut self, now: Tick, slot: SlotId, epoch: Epoch) {
        self.elsewhere.insert(slot, epoch);
        self.moves.0.retain(|_, (_, until)| now < *until);
        self.moves.0.insert(slot, (epoch, now.plus_ms(waited_ms(self.settings.lease_ms))));
    }

    /// Somebody else has the slot, or nobody: nothing of the older epoch is served here any more (R8).
    pub(super) fn end(&mut self, now: Tick, placed: Placed, effects: &mut Vec<HomeEffect>) {
        if placed.epoch <= self.known_epoch(placed.slot) || !self.rules.keep(Rule::EpochFence) {
            return;
        }
        let before = self.slots.remove(&placed.slot);
        if let Some(here) = &before {
            self.gone(now, placed.slot, here.epoch);
        }
        self.elsewhere.insert(placed.slot, placed.epoch);
        let Some(here) = before else { return };
        let not_home = HomeAnswer::NotHome { epoch: placed.epoch };
        if let Phase::Recovering(recovering) = here.phase {
            for (_, asked) in recovering.waiting {
                self.refuse(asked.call, asked.session, not_home.clone(), effects);
            }
        }
        for (key, entry) in here.entries {
            self.drop_entry(&key, &entry, &not_home, effects);
        }
    }

    /// An entry goes with its slot: whoever waits is told so.
    fn drop_entry(
        &mut self,
        key: &CacheKey,
        entry: &super::Entry,
        not_home: &HomeAnswer,
        effects: &mut Vec<HomeEffect>,
    ) {
        self.busy.remove(key);
        for session in self.sessions.values_mut() {
            session.owes.remove(key);
        }
        let busy = entry.busy.as_ref().map(|busy| busy.asked).filter(|_| entry.state() == EntryState::Busy);
        let asked = busy.into_iter().chain(entry.waiting.iter().copied());
        for asked in asked.filter(|asked| asked.what != super::What::Evict) {
            self.refuse(asked.call, asked.session, not_home.clone(), effects);
        }
    }
}
