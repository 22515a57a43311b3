//! What transactions wait for: acknowledgements, surrenders, values; said again by unicast to those that are silent, and
//! not waited for beyond the end of a session.

use super::{
    Home, HomeEffect, Question, Returned,
    entry::{Again, Asked, Asking, Owner, What},
};
use crate::{
    ids::{CacheKey, NodeId, Tick},
    machine::cache::{CacheRequest, Inv, Nonce, RecallTo, SlotId, Stored, rules::Rule, waited_ms},
};

impl Home {
    /// Asks live sharers for the value of a line whose owner is dead.
    pub(super) fn ask_sharers(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) {
        let again = Again::first(now, self.settings.repeat_ms * 2);
        let until = self.patience_with_a_sharer(now);
        let Some(entry) = self.entry(key) else { return };
        let left = entry.sharers.iter().map(|(node, sharer)| (*node, *sharer)).collect();
        if let Some(busy) = self.begin_busy(key, asked) {
            busy.asking = Some(Asking { left, until, again });
            self.ask_next(key, effects);
        }
    }

    fn patience_with_a_sharer(&self, now: Tick) -> Tick {
        now.plus_ms(waited_ms(self.settings.lease_ms))
    }

    fn ask_next(&mut self, key: &CacheKey, effects: &mut Vec<HomeEffect>) {
        let line = self.line(key);
        let asking = self.entry(key).and_then(|entry| entry.busy.as_ref()).and_then(|busy| busy.asking.as_ref());
        let Some((node, sharer)) = asking.and_then(|asking| asking.left.front().copied()) else { return };
        let question = Question::Ask { key: key.clone(), node, grant: sharer.nonce };
        self.ask(node, question, CacheRequest::Ask { line, grant: sharer.nonce }, effects);
    }

    /// A sharer's value is what the dead owner had: no owner stores while others share.
    pub(super) fn shared_value(
        &mut self,
        now: Tick,
        key: &CacheKey,
        of: (NodeId, Nonce),
        returned: Returned,
        effects: &mut Vec<HomeEffect>,
    ) {
        let Some(entry) = self.entry(key) else { return };
        let Some(busy) = entry.busy.as_mut() else { return };
        let is_it = busy
            .asking
            .as_ref()
            .and_then(|asking| asking.left.front())
            .is_some_and(|(asked, sharer)| (*asked, sharer.nonce) == of);
        if is_it {
            busy.asking = None;
            entry.owner = None;
            entry.stamp = entry.stamp.max(returned.stamp);
            entry.copy = returned.value.map(|value| Stored::arrived(value, now));
            self.progress(now, key, effects);
        }
    }

    /// A sharer has no value.
    pub(super) fn next_sharer(
        &mut self,
        now: Tick,
        key: &CacheKey,
        node: NodeId,
        grant: Nonce,
        effects: &mut Vec<HomeEffect>,
    ) {
        let until = self.patience_with_a_sharer(now);
        let asking = self.entry(key).and_then(|entry| entry.busy.as_mut()).and_then(|busy| busy.asking.as_mut());
        let Some(asking) = asking else { return };
        if asking.left.front().is_some_and(|(asked, sharer)| (*asked, sharer.nonce) == (node, grant)) {
            asking.left.pop_front();
            asking.until = until;
            self.ask_next(key, effects);
            self.progress(now, key, effects);
        }
    }

    pub(super) fn ask_recall(&mut self, key: &CacheKey, owner: Owner, to: RecallTo, effects: &mut Vec<HomeEffect>) {
        let grant = owner.nonce;
        let body = CacheRequest::Recall { line: self.line(key), grant, to };
        self.ask(owner.node, Question::Recall { key: key.clone(), node: owner.node, grant }, body, effects);
    }

    /// Looks whether a transaction still waits for anybody, and goes on where it does not.
    pub(super) fn progress(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<HomeEffect>) {
        self.wait_for_the_dead_no_more(now, key, effects);
        let Some(entry) = self.entry(key) else { return };
        if !entry.busy.as_ref().is_some_and(|busy| busy.is_over()) {
            return;
        }
        let Some(busy) = entry.busy.take() else { return };
        self.busy.remove(key);
        match busy.version {
            Some(version) => self.complete_write(now, key, busy.asked, version, effects),
            // It waited for the owner only, and is served anew.
            None => self.serve(now, key, busy.asked, effects),
        }
        self.serve_waiting(now, key, effects);
    }

    fn wait_for_the_dead_no_more(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<HomeEffect>) {
        let all_count = self.rules.keep(Rule::SharersAcknowledge);
        let Some(mut busy) = self.entry(key).and_then(|entry| entry.busy.take()) else { return };
        let dead =
            busy.unacked.iter().filter(|(node, unacked)| !all_count || !self.is_alive(now, node, unacked.session));
        let dead: Vec<NodeId> = dead.map(|(node, _)| *node).collect();
        for node in &dead {
            busy.unacked.remove(node);
            self.owes_no_more(node, key);
            if let Some(entry) = self.entry(key) {
                entry.sharers.remove(node);
            }
        }
        let owner = self.entry(key).and_then(|entry| entry.owner);
        let is_owner_dead = owner.is_some_and(|owner| self.is_owner_dead(now, &owner));
        if let Some(recall) = busy.recall
            && (is_owner_dead || owner.is_none())
        {
            self.owes_no_more(&recall.owner.node, key);
            busy.recall = None;
        }
        if let Some(asking) = &mut busy.asking {
            // Who is alive and does not tell its value is passed over, as one that has none.
            while let Some((node, sharer)) = asking.left.front()
                && (asking.until <= now || !self.is_alive(now, node, sharer.session))
            {
                asking.left.pop_front();
                asking.until = self.patience_with_a_sharer(now);
            }
            if asking.left.is_empty() || owner.is_none() {
                busy.asking = None;
                // Nobody has the value. Who shares it may yet get what was on its way to it.
                self.bury_owner(key, effects);
            }
        }
        // A write comes after whatever the owner had; nobody needs that any more.
        let in_the_way = busy.version.is_some() && busy.recall.is_none() && is_owner_dead;
        if in_the_way && owner.is_some_and(|owner| owner.node != busy.asked.from || busy.asked.what == What::Evict) {
            self.bury_owner(key, effects);
        }
        if let Some(entry) = self.entry(key) {
            entry.busy = Some(busy);
        }
    }

    /// A session has ended or begun: whoever waited for it goes on.
    pub(super) fn progress_all(&mut self, now: Tick, effects: &mut Vec<HomeEffect>) {
        let keys: Vec<CacheKey> = self.busy.iter().cloned().collect();
        keys.iter().for_each(|key| self.progress(now, key, effects));
    }

    /// Says again what is due, and goes on where a session has ended.
    pub(super) fn do_what_is_due(&mut self, now: Tick, effects: &mut Vec<HomeEffect>) {
        let keys: Vec<CacheKey> = self.busy.iter().cloned().collect();
        for key in &keys {
            self.progress(now, key, effects);
            self.say_again(now, key, effects);
        }
        self.recover_what_is_due(now, effects);
        self.finish_stopping(now, effects);
    }

    fn say_again(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<HomeEffect>) {
        let (most_ms, line, home) = (self.settings.lease_ms / 4, self.line(key), self.me);
        let Some(busy) = self.entry(key).and_then(|entry| entry.busy.as_mut()) else { return };
        let writer = (busy.asked.what != What::Evict).then_some(busy.asked.from);
        let silent =
            busy.unacked.iter_mut().filter_map(|(node, unacked)| unacked.again.is_due(now, most_ms).then_some(*node));
        let silent: Vec<NodeId> = silent.collect();
        let version = busy.version;
        let recall = busy.recall.as_mut().and_then(|recall| recall.again.is_due(now, most_ms).then_some(*recall));
        let ask = busy.asking.as_mut().is_some_and(|asking| asking.again.is_due(now, most_ms));
        if let Some(version) = version {
            for node in silent {
                let inv = Inv { line: line.clone(), version, writer, home };
                self.ask(node, Question::Inv, CacheRequest::Inv(inv), effects);
            }
        }
        if let Some(recall) = recall {
            self.ask_recall(key, recall.owner, recall.to, effects);
        }
        if ask {
            self.ask_next(key, effects);
        }
    }

    /// When something is said again, or the session of somebody who is waited for ends.
    pub(super) fn pending_due(&self) -> Option<Tick> {
        let busy = self.busy.iter().filter_map(|key| self.slots.get(&SlotId::of(key))?.entries.get(key)?.busy.as_ref());
        let times = busy.flat_map(|busy| {
            let unacked = busy
                .unacked
                .iter()
                .flat_map(|(node, unacked)| [Some(unacked.again.at), self.alive_until(node, unacked.session)]);
            let recall = busy
                .recall
                .iter()
                .flat_map(|recall| [Some(recall.again.at), self.alive_until(&recall.owner.node, recall.owner.session)]);
            let asking = busy.asking.iter().flat_map(|asking| {
                let (node, sharer) = asking.left.front().copied().unzip();
                let ends = node.zip(sharer).and_then(|(node, sharer)| self.alive_until(&node, sharer.session));
                [Some(asking.again.at), Some(asking.until), ends]
            });
            unacked.chain(recall).chain(asking).flatten().collect::<Vec<_>>()
        });
        times.min()
    }
}
