//! How a home begins with a slot: after another home, nothing is granted before every cache has let go of what that one
//! granted, or cannot read it any more (R6, R6b).

use std::collections::{BTreeMap, VecDeque};

use super::{
    HandOver, HandedOwner, Home, HomeEffect, Phase, Question, Slot, Start,
    entry::{Again, Asked, Entry, Owner},
};
use crate::{
    ids::{CacheKey, Epoch, NodeId, Tick},
    machine::cache::{
        CacheRequest, HomeId, MOST_LEASES_TO_TELL, Nonce, Placed, RecoveredLine, SlotId, Stored, Version, WritePolicy,
        rules::Rule, waited_ms,
    },
};

/// A slot that another home had before.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Recovering {
    /// The lease of the old home is over then (R6b).
    begin_at: Tick,
    /// Every lease that it granted is over then.
    end_at: Tick,
    /// The caches that have not let go, and up to which key their lines are here.
    silent: BTreeMap<NodeId, Silent>,
    /// The home that handed its directory over, if one did.
    pub(super) handed: Option<HomeId>,
    /// The requests that wait, in order.
    pub(super) waiting: VecDeque<(CacheKey, Asked)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Silent {
    after: Option<CacheKey>,
    again: Again,
}

impl Home {
    /// This home has a slot from now on. Epochs are installed in order (R8).
    pub(super) fn begin(&mut self, now: Tick, placed: Placed, start: Start, effects: &mut Vec<HomeEffect>) {
        if placed.epoch <= self.known_epoch(placed.slot) || placed.home != Some(self.me) {
            return;
        }
        self.end(now, Placed { home: None, ..placed }, effects);
        self.elsewhere.remove(&placed.slot);
        let phase = match &start {
            Start::Founded => Phase::Serving,
            Start::Fresh { caches, old_lease_over_ms } => {
                let begin_at = now.plus_ms(*old_lease_over_ms);
                let end_at = begin_at.plus_ms(waited_ms(self.settings.lease_ms));
                Phase::Recovering(self.recovering(caches, begin_at, end_at, None))
            }
            Start::Handed { over, stopped_ms_ago } => {
                // Nobody reads any more one lease after it was stopped. Who owned something is given as long to say what it
                // had, however long the hand-over has taken: it is there, and only its value is not.
                let lease_ms = waited_ms(self.settings.lease_ms);
                let is_owned = over.entries.iter().any(|entry| entry.owner.is_some());
                let ends_in = lease_ms.saturating_sub(if is_owned { 0 } else { *stopped_ms_ago });
                Phase::Recovering(self.recovering(&over.caches, now, now.plus_ms(ends_in), Some(over.home)))
            }
        };
        let mut slot = Slot::new(placed.epoch, phase);
        if let Start::Handed { over, stopped_ms_ago } = start {
            // What has a time to live did not stop to age on its way.
            slot.take_over(now.minus_ms(stopped_ms_ago), over);
        }
        self.slots.insert(placed.slot, slot);
        self.recover_what_is_due(now, effects);
    }

    fn recovering(&self, caches: &[NodeId], begin_at: Tick, end_at: Tick, handed: Option<HomeId>) -> Recovering {
        let begin_at = if self.rules.keep(Rule::RecoverAfterOldLease) { begin_at } else { Tick(0) };
        let again = Again { at: begin_at, pause_ms: self.settings.repeat_ms };
        let silent = caches.iter().map(|node| (*node, Silent { after: None, again })).collect();
        let silent = if self.rules.keep(Rule::RecoverFromAll) { silent } else { BTreeMap::new() };
        Recovering { begin_at, end_at, silent, handed, waiting: VecDeque::new() }
    }

    /// A request for a line of a slot that is not served yet.
    pub(super) fn wait_for_recovery(&mut self, now: Tick, key: &CacheKey, asked: Asked, effects: &mut Vec<HomeEffect>) {
        let most = self.settings.max_waiting;
        let phase = self.slot_of(key).map(|slot| &mut slot.phase);
        let Some(Phase::Recovering(recovering)) = phase else { return };
        if recovering.waiting.len() >= most {
            self.busy_answer(&asked, effects);
            return;
        }
        let mut before = recovering.waiting.iter_mut();
        let before = before.find(|(other, before)| other == key && before.from == asked.from);
        match before {
            Some((_, before)) => {
                // Of two requests of a cache for a key the later one counts.
                let later = before.nonce.max(asked.nonce);
                let given_up = if before.nonce == later { asked } else { std::mem::replace(before, asked) };
                self.busy_answer(&given_up, effects);
            }
            None => recovering.waiting.push_back((key.clone(), asked)),
        }
        self.recover_what_is_due(now, effects);
    }

    /// A cache has installed the new epoch, and tells the lines that it owned.
    pub(super) fn recovered(
        &mut self,
        now: Tick,
        (slot, epoch): (SlotId, Epoch),
        node: NodeId,
        lines: Vec<RecoveredLine>,
        session: Option<Nonce>,
        effects: &mut Vec<HomeEffect>,
    ) {
        let must_live = self.rules.keep(Rule::RecoverInsideSession);
        let Some(here) = self.slots.get_mut(&slot).filter(|here| here.epoch == epoch) else { return };
        let Phase::Recovering(recovering) = &mut here.phase else { return };
        let Some(silent) = recovering.silent.get_mut(&node) else { return };
        let handed = recovering.handed.is_some();
        let last = lines.last().map(|line| line.key.clone());
        match last {
            // An answer to a question that was asked before: what it tells is here.
            Some(last) if silent.after.as_ref().is_some_and(|after| last <= *after) => return,
            Some(last) => {
                silent.after = Some(last);
                silent.again.at = now;
            }
            None => {
                recovering.silent.remove(&node);
                here.nothing_more(node, session);
            }
        }
        lines.into_iter().for_each(|line| here.take_line(now, node, line, handed, must_live));
        self.goes_on_telling(now, node);
        self.recover_what_is_due(now, effects);
    }

    /// Who has just told of one slot is about to tell of the others that were handed over: it is waited for a lease more,
    /// since giving its values up would be all that the waiting could be saved for. Not for ever.
    fn goes_on_telling(&mut self, now: Tick, node: NodeId) {
        let lease_ms = waited_ms(self.settings.lease_ms);
        for slot in self.slots.values_mut() {
            if let Phase::Recovering(recovering) = &mut slot.phase
                && recovering.handed.is_some()
                && recovering.silent.contains_key(&node)
            {
                let most = recovering.begin_at.plus_ms(MOST_LEASES_TO_TELL.saturating_mul(lease_ms));
                recovering.end_at = recovering.end_at.max(now.plus_ms(lease_ms).min(most));
            }
        }
    }

    pub(super) fn recover_what_is_due(&mut self, now: Tick, effects: &mut Vec<HomeEffect>) {
        let slots: Vec<SlotId> = self.slots.keys().copied().collect();
        for slot in slots {
            let most_ms = self.settings.lease_ms / 4;
            let Some(here) = self.slots.get_mut(&slot) else { continue };
            let epoch = here.epoch;
            let Phase::Recovering(recovering) = &mut here.phase else { continue };
            if now < recovering.begin_at || now >= self.lease_until {
                continue;
            }
            if recovering.silent.is_empty() || now >= recovering.end_at {
                self.serve_slot(now, slot, effects);
                continue;
            }
            let due = recovering.silent.iter_mut().filter(|(_, silent)| silent.again.at <= now);
            let due: Vec<(NodeId, Option<CacheKey>)> = due
                .map(|(node, silent)| {
                    silent.again.is_due(now, most_ms);
                    (*node, silent.after.clone())
                })
                .collect();
            let before = recovering.handed;
            for (node, after) in due {
                let question = Question::Recover { slot, epoch, node };
                self.ask(node, question, CacheRequest::Recover { slot, epoch, after, before }, effects);
            }
        }
    }

    /// Nobody can read what the old home granted: from now on this one grants.
    fn serve_slot(&mut self, now: Tick, slot: SlotId, effects: &mut Vec<HomeEffect>) {
        let is_clean = self.settings.policy == WritePolicy::Through;
        let Some(here) = self.slots.get_mut(&slot) else { return };
        let Phase::Recovering(recovering) = std::mem::replace(&mut here.phase, Phase::Serving) else { return };
        for (key, entry) in &mut here.entries {
            // Who owned it has not told what it had.
            if let Some(owner) = entry.owner.take().filter(|_| !is_clean) {
                entry.copy = None;
                effects.push(HomeEffect::DirtyLost { key: key.clone(), owner: owner.node });
            }
        }
        here.entries.retain(|_, entry| !entry.is_idle(now));
        effects.push(HomeEffect::Serving { slot, epoch: here.epoch });
        for (key, asked) in recovering.waiting {
            self.request(now, &key, asked, effects);
        }
    }

    pub(super) fn recovery_due(&self) -> Option<Tick> {
        let recovering = self.slots.values().filter_map(|slot| match &slot.phase {
            Phase::Recovering(recovering) => Some(recovering),
            Phase::Serving | Phase::Stopping => None,
        });
        let times = recovering.map(|recovering| {
            let again = recovering.silent.values().map(|silent| silent.again.at).min();
            recovering.begin_at.max(again.map_or(recovering.end_at, |again| again.min(recovering.end_at)))
        });
        times.min()
    }
}

impl Slot {
    /// What the home before had when it was stopped.
    fn take_over(&mut self, stopped: Tick, over: HandOver) {
        for handed in over.entries {
            let stamp = self.versions.next();
            let owner = handed.owner.map(|HandedOwner { node, grant: nonce, session, before }| Owner {
                node,
                nonce,
                session,
                stamp,
                is_dead: true,
                before,
            });
            let copy = handed.value.map(|value| Stored::arrived(value, stopped));
            self.entries.insert(handed.key, Box::new(Entry { stamp, copy, owner, ..Entry::default() }));
        }
    }

    /// A cache has told all that it owned. What it does not tell of, and was granted in its newest session, it was never
    /// given, or has given back: then the copy that was handed over is current (R16).
    fn nothing_more(&mut self, node: NodeId, session: Option<Nonce>) {
        for entry in self.entries.values_mut() {
            // An upgrade is of what it had: that is not with it, nor is it with the copy.
            let never_had = |owner: &super::entry::Owner| {
                owner.node == node && Some(owner.session) == session && owner.before.is_none()
            };
            entry.owner = entry.owner.filter(|owner| !never_had(owner));
        }
    }

    /// A line that its owner tells of. Where the old home handed its directory over, that says who owned it; else only
    /// what was never given up counts.
    fn take_line(&mut self, now: Tick, node: NodeId, line: RecoveredLine, handed: bool, must_live: bool) {
        let stamp = self.versions.next();
        let before = self.entries.get_mut(&line.key);
        let counts = match (&before, handed) {
            (Some(entry), true) => entry.owner.is_some_and(|owner| owner.node == node && owner.holds(line.grant)),
            (None, true) => false,
            (_, false) => !line.released || !must_live,
        };
        if !counts {
            return;
        }
        let copy = Some(Stored::arrived(line.value, now));
        match before {
            Some(entry)
                if entry.copy.as_ref().map(version).max(copy.as_ref().map(version)) == copy.as_ref().map(version)
                    || handed =>
            {
                (entry.copy, entry.stamp, entry.owner) = (copy, stamp, None);
            }
            Some(_) => {}
            None => drop(self.entries.insert(line.key, Box::new(Entry { stamp, copy, ..Entry::default() }))),
        }
    }
}

fn version(stored: &Stored) -> Version {
    stored.version
}
