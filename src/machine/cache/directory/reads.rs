//! Requests for a line: in order, one transaction at a time; and what readers get.

use super::{
    Home, HomeEffect, Phase,
    entry::{Asked, Busy, Entry, Owner, Sharer, What},
    nonces::Order,
};
use crate::{
    ids::{CacheKey, Tick},
    machine::cache::{
        EntryAct, EntryEvent, HomeAnswer, NotOwner, RecallTo, Refused, Right, SlotId, Version, WritePolicy, entry_act,
        rules::Rule,
    },
};

impl Asked {
    fn event(&self) -> EntryEvent {
        if matches!(self.what, What::Read { .. }) { EntryEvent::GetS } else { EntryEvent::GetM }
    }
}

impl Home {
    /// A GetS, GetM or Upgrade.
    pub(super) fn request(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) {
        let Some(slot) = self.slot_of(key) else { return };
        match &slot.phase {
            Phase::Serving => {}
            // Nothing may be granted yet; a miss grants nothing (R6). What was handed over is not gone, so it waits.
            Phase::Recovering(recovering) => {
                if matches!(asked.what, What::Read { .. }) && recovering.handed.is_none() {
                    let body = HomeAnswer::Miss { nonce: asked.nonce };
                    self.reply(now, asked.from, asked.call, asked.session, body, effects);
                } else {
                    self.wait_for_recovery(now, key, asked, effects);
                }
                return;
            }
            Phase::Stopping => {
                self.busy_answer(&asked, effects);
                return;
            }
        }
        match self.order_of(key, &asked) {
            Order::Late => {
                let body = HomeAnswer::Again { nonce: asked.nonce };
                self.refuse(asked.call, asked.session, body, effects);
            }
            Order::Again => self.repeated(now, key, asked, effects),
            Order::Next => self.next_request(now, key, asked, effects),
        }
    }

    fn next_request(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) {
        let (most, protocol) = (self.settings.max_waiting, self.settings.protocol);
        let keep_order = self.rules.keep(Rule::NoGrantWhileBusy);
        let Some(slot) = self.slot_of(key) else { return };
        let entry = slot.entries.entry(key.clone()).or_default();
        let defers = entry_act(protocol, entry.state(), asked.event()) == Some(EntryAct::Defer);
        let is_open = !defers || (!keep_order && matches!(asked.what, What::Read { .. }));
        // What this cache asked before it has given up; what it asks now takes that place in the line.
        let mut before = entry.waiting.iter_mut().filter(|waiting| waiting.what != What::Evict);
        let given_up = before.find(|waiting| waiting.from == asked.from);
        let given_up = given_up.map(|waiting| std::mem::replace(waiting, asked));
        if given_up.is_none() && !is_open && entry.waiting.len() >= most {
            self.busy_answer(&asked, effects);
            return;
        }
        entry.served.insert(asked.from, asked.nonce);
        if given_up.is_none() && !is_open {
            entry.waiting.push_back(asked);
        }
        if let Some(given_up) = given_up {
            self.busy_answer(&given_up, effects);
            return;
        }
        if is_open {
            self.serve(now, key, asked, effects);
            self.serve_waiting(now, key, effects);
        }
    }

    /// Says that the question is not answered; whoever still wants to know asks again.
    pub(super) fn busy_answer(&mut self, asked: &Asked, effects: &mut Vec<HomeEffect>) {
        let body = HomeAnswer::Busy { nonce: asked.nonce, retry_ms: self.settings.busy_retry_ms };
        self.refuse(asked.call, asked.session, body, effects);
    }

    /// The same request again: it gets the same answer.
    fn repeated(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) {
        let Some(entry) = self.entry(key) else { return };
        let busy = entry.busy.as_mut().map(|busy| &mut busy.asked);
        let same = |waiting: &&mut Asked| {
            waiting.what != What::Evict && waiting.from == asked.from && waiting.nonce == asked.nonce
        };
        if let Some(waiting) = busy.into_iter().chain(entry.waiting.iter_mut()).find(same) {
            let before = std::mem::replace(&mut waiting.call, asked.call);
            let before = Asked { call: before, ..asked };
            self.busy_answer(&before, effects);
            return;
        }
        if entry.busy.is_some() && entry.owner.is_none_or(|owner| owner.node != asked.from) {
            // What it was given may be on its way out by now (R9).
            self.busy_answer(&asked, effects);
            return;
        }
        let is_owner = entry.owner.is_some_and(|owner| owner.node == asked.from && owner.nonce == asked.nonce);
        let is_sharer = entry.sharers.get(&asked.from).is_some_and(|sharer| sharer.nonce == asked.nonce);
        let body = match (asked.what, is_owner) {
            (What::Read { .. }, true) => {
                entry.owner.and_then(|owner| Self::data(entry, asked, owner.stamp, Right::Exclusive, now))
            }
            (What::Write { .. }, true) => {
                let (stamp, nonce) = (entry.owner.map_or(entry.stamp, |owner| owner.stamp), asked.nonce);
                Some(HomeAnswer::Grant { nonce, stamp, previous: Self::previous(entry, asked, now) })
            }
            (What::Read { .. }, false) if is_sharer => match entry.owner {
                Some(Owner { node, nonce: grant, .. }) => {
                    Some(HomeAnswer::Redirect { nonce: asked.nonce, owner: node, grant })
                }
                None => Self::data(entry, asked, entry.stamp, Right::Shared, now),
            },
            _ => None,
        };
        match body {
            Some(body) => self.reply(now, asked.from, asked.call, asked.session, body, effects),
            // It was served, and what came of it is over.
            None => self.refuse(asked.call, asked.session, HomeAnswer::Again { nonce: asked.nonce }, effects),
        }
    }

    fn data(entry: &Entry, asked: Asked, stamp: Version, right: Right, now: Tick) -> Option<HomeAnswer> {
        let copy = entry.copy.as_ref().filter(|copy| copy.body_at(now).is_some())?;
        Some(HomeAnswer::Data { nonce: asked.nonce, stamp, value: copy.sent(now), right })
    }

    /// Serves what waits, as far as no transaction is under way.
    pub(super) fn serve_waiting(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<HomeEffect>) {
        while let Some(entry) = self.entry(key)
            && entry.busy.is_none()
            && let Some(next) = entry.waiting.pop_front()
        {
            self.serve(now, key, next, effects);
        }
        self.forget_if_idle(now, key);
    }

    /// An entry of which nothing is left is forgotten.
    pub(super) fn forget_if_idle(&mut self, now: Tick, key: &CacheKey) {
        let Some(slot) = self.slot_of(key) else { return };
        if slot.entries.get(key).is_some_and(|entry| entry.is_idle(now))
            && let Some(entry) = slot.entries.remove(key)
        {
            self.remember_served(key, &entry);
        }
    }

    /// Serves a request; no transaction is under way.
    pub(super) fn serve(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) {
        if asked.what != What::Evict && !self.may_answer(now, &asked.from, asked.session) {
            self.refuse(asked.call, asked.session, HomeAnswer::SessionOver, effects);
            return;
        }
        self.strike_the_dead(now, key);
        let asked = self.hear_of_owner(key, asked);
        if self.owner_in_the_way(now, key, asked, effects) {
            return;
        }
        let Some(state) = self.entry(key).map(|entry| entry.state_for_service()) else { return };
        match entry_act(self.settings.protocol, state, asked.event()) {
            Some(EntryAct::GrantExclusive) => self.give_data(now, key, asked, Right::Exclusive, effects),
            Some(EntryAct::Share) => self.give_data(now, key, asked, Right::Shared, effects),
            Some(EntryAct::Redirect) => self.redirect(now, key, asked, effects),
            Some(EntryAct::RecallShared) => self.recall_for(now, key, asked, RecallTo::Shared, effects),
            Some(EntryAct::Grant | EntryAct::Invalidate | EntryAct::InvalidateAndRecall) => {
                self.begin_write(now, key, asked, effects);
            }
            _ => {}
        }
    }

    fn strike_the_dead(&mut self, now: Tick, key: &CacheKey) {
        let Some(entry) = self.slots.get(&SlotId::of(key)).and_then(|slot| slot.entries.get(key)) else { return };
        let dead = entry.sharers.iter().filter(|(node, sharer)| !self.is_alive(now, node, sharer.session));
        let dead: Vec<_> = dead.map(|(node, _)| *node).collect();
        if let Some(entry) = self.entry(key) {
            entry.sharers.retain(|node, _| !dead.contains(node));
        }
    }

    /// What a reader says of the owner to which it was sent is as if the owner had said so.
    fn hear_of_owner(&mut self, key: &CacheKey, asked: Asked) -> Asked {
        let What::Read { refused: Some(Refused { owner: node, grant, answer: Some(not) }) } = asked.what else {
            return asked;
        };
        let owner = self.entry(key).and_then(|entry| entry.owner);
        if owner.is_some_and(|owner| (owner.node, owner.nonce) == (node, grant)) {
            self.not_owner(key, not);
        }
        Asked { what: What::Read { refused: None }, ..asked }
    }

    /// An owner says that it does not have the line (R16): in the session of its grant, that never arrived and never
    /// will, and the home's copy is current. Else it is dead.
    pub(super) fn not_owner(&mut self, key: &CacheKey, not: NotOwner) {
        let keep = self.rules.keep(Rule::NotOwnerNamesSession);
        let Some(entry) = self.entry(key) else { return };
        let Some(owner) = entry.owner.as_mut() else { return };
        if not.session == Some(owner.session) && keep {
            // What never arrived was an upgrade: it owns the line as it did before.
            entry.owner = owner.before.map(|before| Owner { nonce: before, before: None, ..*owner });
        } else {
            owner.is_dead = true;
        }
    }

    pub(super) fn is_owner_dead(&self, now: Tick, owner: &Owner) -> bool {
        owner.is_dead || !self.is_alive(now, &owner.node, owner.session)
    }

    /// Deals with an owner that is dead, or is the asker itself, or cannot be reached by it. Whether the request has
    /// to wait for that.
    fn owner_in_the_way(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) -> bool {
        let Some(entry) = self.entry(key) else { return true };
        let Some(owner) = entry.owner else { return false };
        let sharers = entry.sharers.len();
        if self.is_owner_dead(now, &owner) {
            let is_clean = self.settings.policy == WritePolicy::Through;
            if sharers > 0 && !is_clean && asked.what != What::Evict {
                self.ask_sharers(now, key, asked, effects);
                return true;
            }
            self.bury_owner(key, effects);
            return false;
        }
        let upgrades = matches!(asked.what, What::Write { held: Some(held), .. } if owner.holds(held));
        let is_asker = asked.what != What::Evict && owner.node == asked.from && !upgrades;
        let unreachable = matches!(
            asked.what,
            What::Read { refused: Some(refused) } if (refused.owner, refused.grant) == (owner.node, owner.nonce)
        );
        if is_asker || unreachable {
            self.recall_for(now, key, asked, RecallTo::Invalid, effects);
            return true;
        }
        false
    }

    /// A dead owner may have stored: under `back` the home's copy is void, and the value is gone.
    pub(super) fn bury_owner(&mut self, key: &CacheKey, effects: &mut Vec<HomeEffect>) {
        let is_clean = self.settings.policy == WritePolicy::Through;
        let Some(slot) = self.slot_of(key) else { return };
        let Some(entry) = slot.entries.get_mut(key) else { return };
        let Some(owner) = entry.owner.take() else { return };
        if !is_clean {
            (entry.copy, entry.stamp) = (None, slot.versions.next());
            effects.push(HomeEffect::DirtyLost { key: key.clone(), owner: owner.node });
        }
    }

    /// A read of a line that nobody owns.
    fn give_data(&mut self, now: Tick, key: &CacheKey, asked: Asked, right: Right, effects: &mut Vec<HomeEffect>) {
        let keep = self.rules.keep(Rule::SharerBeforeAnswer);
        let Some(slot) = self.slot_of(key) else { return };
        let Some(entry) = slot.entries.get_mut(key) else { return };
        // Whatever it had before, it asks for anew.
        entry.sharers.remove(&asked.from);
        if right == Right::Exclusive && entry.copy.as_ref().is_some_and(|copy| copy.body_at(now).is_some()) {
            entry.stamp = slot.versions.next();
        }
        let stamp = entry.stamp;
        let Some(body) = Self::data(entry, asked, stamp, right, now) else {
            self.reply(now, asked.from, asked.call, asked.session, HomeAnswer::Miss { nonce: asked.nonce }, effects);
            return;
        };
        let Asked { from, nonce, session, .. } = asked;
        if right == Right::Exclusive {
            entry.owner = Some(Owner { node: from, nonce, session, stamp, is_dead: false, before: None });
        } else if keep {
            entry.sharers.insert(from, Sharer { nonce, session });
        }
        self.reply(now, from, asked.call, session, body, effects);
    }

    /// A read of a line that another cache owns, which supplies it.
    fn redirect(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) {
        let keep = self.rules.keep(Rule::SharerBeforeAnswer);
        let Some(entry) = self.entry(key) else { return };
        let Some(owner) = entry.owner else { return };
        let Asked { from, nonce, session, .. } = asked;
        if keep {
            entry.sharers.insert(from, Sharer { nonce, session });
        }
        let body = HomeAnswer::Redirect { nonce, owner: owner.node, grant: owner.nonce };
        self.reply(now, from, asked.call, session, body, effects);
    }

    /// Makes the entry busy with a request.
    pub(super) fn begin_busy(&mut self, key: &CacheKey, asked: Asked) -> Option<&mut Busy> {
        self.busy.insert(key.clone());
        let entry = self.entry(key)?;
        Some(entry.busy.insert(Box::new(Busy::new(asked))))
    }
}

impl Entry {
    /// The state in which a request finds it that is served now.
    fn state_for_service(&self) -> super::EntryState {
        match (&self.owner, self.sharers.is_empty()) {
            (Some(_), _) => super::EntryState::Owned,
            (None, false) => super::EntryState::S,
            (None, true) => super::EntryState::I,
        }
    }
}
