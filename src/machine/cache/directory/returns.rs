//! What comes back from owners: surrendered, put, written through.

use super::{
    Home, HomeEffect, Question,
    entry::{Entry, Owner, Recalling, Sharer},
};
use crate::{
    ids::{CacheKey, NodeId, Tick},
    machine::cache::{
        CacheAnswer, EntryAct, EntryEvent, Nonce, RecallTo, Stored, Value, Version, entry_act, rules::Rule,
    },
};

/// What an owner gives back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Returned {
    /// The line was last in order up to here.
    pub(super) stamp: Version,
    /// Where it is newer than the home's copy.
    pub(super) value: Option<Value>,
}

impl Home {
    /// What came of a question to a cache.
    pub(super) fn answered(
        &mut self,
        now: Tick,
        call: u64,
        answer: Option<CacheAnswer>,
        effects: &mut Vec<HomeEffect>,
    ) {
        let Some(question) = self.open.remove(&call) else { return };
        // What a slot begins with is taken at any time: nothing is granted of it before the lease is back.
        if !self.is_inside_lease(now) && !matches!(question, Question::Recover { .. }) {
            return;
        }
        match (question, answer) {
            (Question::Recall { key, node, grant }, Some(CacheAnswer::Surrender { stamp, value })) => {
                self.surrendered(now, &key, (node, grant), Returned { stamp, value }, effects);
            }
            (Question::Recall { key, node, grant }, Some(CacheAnswer::NotOwner(not))) => {
                let Some(recall) = self.recalling(&key, (node, grant)) else { return };
                self.owes_no_more(&recall.owner.node, &key);
                self.not_owner(&key, not);
                let owner = self.entry(&key).and_then(|entry| entry.owner);
                if let Some(owner) = owner.filter(|owner| !owner.is_dead && owner.nonce != grant) {
                    self.send_recall(now, &key, owner, recall.to, effects);
                    return;
                }
                if let Some(busy) = self.entry(&key).and_then(|entry| entry.busy.as_mut()) {
                    busy.recall = None;
                }
                self.progress(now, &key, effects);
            }
            (Question::Ask { key, node, grant }, Some(CacheAnswer::Shared { stamp, value })) => {
                self.shared_value(now, &key, (node, grant), Returned { stamp, value: Some(value) }, effects);
            }
            (Question::Ask { key, node, grant }, Some(CacheAnswer::No)) => {
                self.next_sharer(now, &key, node, grant, effects);
            }
            (Question::Recover { slot, epoch, node }, Some(CacheAnswer::Recovered { lines, session })) => {
                self.recovered(now, (slot, epoch), node, lines, session, effects);
            }
            // What is not answered is asked again, in its time.
            _ => {}
        }
    }

    /// The recall that is under way, if it is of this grant.
    fn recalling(&mut self, key: &CacheKey, of: (NodeId, Nonce)) -> Option<Recalling> {
        let busy = self.entry(key)?.busy.as_ref()?;
        busy.recall.filter(|recall| (recall.owner.node, recall.owner.nonce) == of)
    }

    fn surrendered(
        &mut self,
        now: Tick,
        key: &CacheKey,
        of: (NodeId, Nonce),
        returned: Returned,
        effects: &mut Vec<HomeEffect>,
    ) {
        let Some(recall) = self.recalling(key, of) else { return };
        if returned.value.is_some() {
            self.acknowledge_put(&recall.owner.node, key, recall.owner.nonce);
        }
        self.end_recall(now, key, recall, returned, effects);
    }

    fn end_recall(
        &mut self,
        now: Tick,
        key: &CacheKey,
        recall: Recalling,
        Returned { stamp, value }: Returned,
        effects: &mut Vec<HomeEffect>,
    ) {
        let always = self.rules.keep(Rule::DirtyIsSurrendered);
        self.owes_no_more(&recall.owner.node, key);
        let Some(entry) = self.entry(key) else { return };
        let Some(busy) = entry.busy.as_mut() else { return };
        busy.recall = None;
        let is_blind = matches!(busy.asked.what, super::What::Write { need_value: false, .. });
        entry.take(now, Returned { stamp, value: value.filter(|_| always || !is_blind) });
        if recall.to == RecallTo::Shared {
            let Owner { node, nonce, session, .. } = recall.owner;
            entry.sharers.insert(node, Sharer { nonce, session });
        }
        self.progress(now, key, effects);
    }

    /// Somebody returns its ownership: the owner, under its grant, or it is stale (R11). A line whose owner's session
    /// has ended is taken all the same, as long as nobody else was given it (R12).
    pub(super) fn put(
        &mut self,
        now: Tick,
        from: NodeId,
        key: &CacheKey,
        grant: Nonce,
        returned: Returned,
        effects: &mut Vec<HomeEffect>,
    ) {
        let exactly = self.rules.keep(Rule::PutNamesGrant);
        let protocol = self.settings.protocol;
        let Some(entry) = self.entry(key) else { return };
        let is_owner = |owner: Owner| owner.node == from && (owner.nonce == grant || !exactly);
        let event = if entry.owner.is_some_and(is_owner) { EntryEvent::PutByOwner } else { EntryEvent::PutByOther };
        match entry_act(protocol, entry.state(), event) {
            Some(EntryAct::Take) => {
                entry.take(now, returned);
                self.forget_if_idle(now, key);
            }
            Some(EntryAct::CountAsSurrender) => {
                let recall = entry.busy.as_ref().and_then(|busy| busy.recall).filter(|recall| is_owner(recall.owner));
                if let Some(recall) = recall {
                    self.end_recall(now, key, recall, returned, effects);
                    return;
                }
                // The transaction waits for others than the owner.
                entry.take(now, returned);
                self.progress(now, key, effects);
                self.forget_if_idle(now, key);
            }
            _ => {}
        }
    }

    /// The owner stores, and acknowledges that once the home has it: the policy `through`.
    pub(super) fn store_through(
        &mut self,
        now: Tick,
        from: NodeId,
        key: &CacheKey,
        (grant, session): (Nonce, Nonce),
        stamp: Version,
        value: Value,
    ) -> bool {
        let Some(entry) = self.entry(key) else { return false };
        let is_owner =
            |owner: Owner| (owner.node, owner.nonce, owner.session) == (from, grant, session) && !owner.is_dead;
        if !entry.owner.is_some_and(is_owner) {
            return false;
        }
        // The last one again is taken again; an older one is not taken any more, and its sender knows that it was.
        if entry.through.is_none_or(|last| last < stamp) {
            entry.through = Some(stamp);
            entry.stamp = entry.stamp.max(stamp);
            entry.copy = Some(Stored::arrived(value, now));
        }
        true
    }
}

impl Entry {
    /// The owner has given the line back.
    fn take(&mut self, now: Tick, Returned { stamp, value }: Returned) {
        self.owner = None;
        self.stamp = self.stamp.max(stamp);
        if let Some(value) = value {
            self.copy = Some(Stored::arrived(value, now));
        }
    }
}
