//! Slots that get another home: nothing of an older epoch is read or written any more (R8); what was owned is kept for
//! the new home, which may ask for it (R6, R12).

use super::{
    Effect, Lines,
    entry::{Awaiting, Buffered},
    sessions,
};
use crate::{
    ids::{CacheKey, Epoch, Tick},
    machine::cache::{
        CacheAnswer, HomeId, MOST_LEASES_TO_TELL, Moved, Nonce, Placed, RecoveredLine, SlotId, rules::Rule,
    },
};

impl Lines {
    /// Installs an epoch of a slot, if it is a newer one.
    pub(super) fn placed(&mut self, now: Tick, placed: Placed, effects: &mut Vec<Effect>) {
        if self.slots.get(&placed.slot).is_some_and(|known| known.epoch >= placed.epoch) {
            return;
        }
        self.slots.insert(placed.slot, placed);
        self.end_epochs(now, placed.slot, placed.epoch, effects);
    }

    /// The home itself says that it has given the slot up.
    pub(super) fn moved(&mut self, now: Tick, home: HomeId, moved: Moved, effects: &mut Vec<Effect>) {
        let Some(known) = self.slots.get_mut(&moved.slot) else { return };
        if known.home != Some(home) || known.epoch > moved.epoch {
            return;
        }
        known.home = None;
        effects.push(Effect::PullView { slot: moved.slot, epoch: moved.epoch.next() });
        self.end_epochs(now, moved.slot, moved.epoch.next(), effects);
    }

    /// Everything of a slot that is older than an epoch ends.
    fn end_epochs(&mut self, now: Tick, slot: SlotId, before: Epoch, effects: &mut Vec<Effect>) {
        let keys: Vec<CacheKey> = self.keys.of_slot(slot).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.end_epoch(key, before, effects);
            self.live_on_for_what_is_stranded(now, key);
        }
        keys.iter().for_each(|key| self.settle(now, key, effects));
    }

    fn end_epoch(&mut self, key: &CacheKey, before: Epoch, effects: &mut Vec<Effect>) {
        let entry = self.entry(key);
        entry.refused = None;
        let is_over = |wanted: &Awaiting| wanted.epoch < before;
        for wanted in entry.deferred.extract_if(.., |wanted| is_over(wanted)) {
            effects.push(Effect::Answer { call: wanted.call, answer: CacheAnswer::Noted });
        }
        if entry.open.as_ref().is_some_and(|open| open.held.epoch < before) {
            self.close(key);
        }
        let is_older = |line: &super::Line| line.held.epoch < before;
        if self.keys.get(key).and_then(|entry| entry.line.as_ref()).is_some_and(is_older)
            && let Some(line) = self.drop_line(key, effects)
        {
            self.keep_in_buffer(key, &line, None);
            sessions::unknown(line, effects);
        }
        self.strand(key, before, effects);
    }

    /// What is in the buffer of an older epoch is kept for the home of this one to ask for, or goes.
    fn strand(&mut self, key: &CacheKey, before: Epoch, effects: &mut Vec<Effect>) {
        let Some(entry) = self.keys.get(key) else { return };
        let gone = entry.buffer.iter().filter(|(_, kept)| kept.held.epoch < before && !self.may_be_told(kept, before));
        let gone: Vec<(Nonce, bool)> = gone.map(|(grant, kept)| (*grant, self.is_lost_at_end(kept))).collect();
        if gone.iter().any(|(_, is_lost)| *is_lost) {
            effects.push(Effect::DirtyLost { key: key.clone() });
        }
        let buffer = &mut self.entry(key).buffer;
        gone.iter().for_each(|(grant, _)| drop(buffer.remove(grant)));
        buffer.values_mut().filter(|kept| kept.held.epoch < before).for_each(|kept| kept.put_at = None);
    }

    /// The sessions under which lines are kept for the next home are renewed though nothing else may need that.
    fn live_on_for_what_is_stranded(&mut self, now: Tick, key: &CacheKey) {
        let until = now.plus_ms(MOST_LEASES_TO_TELL.saturating_mul(self.settings.lease_ms));
        let Some(entry) = self.keys.get(key) else { return };
        for kept in entry.buffer.values().filter(|kept| kept.put_at.is_none()) {
            if let Some(session) = self.homes.get_mut(&kept.held.home) {
                session.tells_until = Some(until);
            }
        }
    }

    /// Whether a home of this epoch may be told of what was held of one before. A home that was told of it may have granted
    /// it to others before it died, and the one that was to be told first may have served without it, while the session lived
    /// on with a home that only gave the slot up. And nobody is told of what was held under a session that is over.
    fn may_be_told(&self, kept: &Buffered, epoch: Epoch) -> bool {
        let any_home = !self.rules.keep(Rule::UntoldForNextHome);
        let is_next = match kept.offered {
            Some(to) => to >= epoch,
            None => any_home || kept.held.epoch.next() >= epoch,
        };
        is_next && (self.is_of_this_session(kept) || !self.rules.keep(Rule::RecoverInsideSession))
    }

    fn is_of_this_session(&self, kept: &Buffered) -> bool {
        self.newest_session(kept.held.home) == Some(kept.held.session)
    }

    /// Whether an acknowledged value goes with what goes at the end of an epoch. A Put that had no answer when its session
    /// ended went to a home that is gone, as a rule.
    fn is_lost_at_end(&self, kept: &Buffered) -> bool {
        let is_put = kept.dirty && !kept.surrendered && kept.offered.is_none();
        kept.is_owed() || (is_put && !self.is_of_this_session(kept))
    }

    /// Tells the new home of the lines that were owned here, while the session with the old one is alive: until then
    /// nobody can have been given them.
    pub(super) fn recover(
        &mut self,
        now: Tick,
        call: u64,
        (slot, epoch): (SlotId, Epoch),
        after: Option<&CacheKey>,
        before: Option<HomeId>,
        effects: &mut Vec<Effect>,
    ) {
        if self.slots.get(&slot).is_none_or(|known| known.epoch != epoch) {
            effects.push(Effect::Answer { call, answer: CacheAnswer::Noted });
            return;
        }
        let (lines, keys) = self.stranded(now, slot, epoch, after);
        let session = before.and_then(|home| self.newest_session(home));
        for (key, is_told) in &keys {
            let buffer = &mut self.entry(key).buffer;
            if *is_told {
                buffer.values_mut().filter(|kept| kept.held.epoch < epoch).for_each(|kept| kept.offered = Some(epoch));
            } else {
                buffer.retain(|_, kept| kept.offered != Some(epoch));
            }
        }
        effects.push(Effect::Answer { call, answer: CacheAnswer::Recovered { lines, session } });
        keys.iter().for_each(|(key, _)| self.settle(now, key, effects));
    }

    /// The next lines after a key, and all keys with something of an older epoch, with whether they are among these.
    fn stranded(
        &self,
        now: Tick,
        slot: SlotId,
        epoch: Epoch,
        after: Option<&CacheKey>,
    ) -> (Vec<RecoveredLine>, Vec<(CacheKey, bool)>) {
        let must_live = self.rules.keep(Rule::RecoverInsideSession);
        let (mut lines, mut keys, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (key, entry) in self.keys.of_slot(slot) {
            let older = entry.buffer.iter().filter(|(_, kept)| kept.held.epoch < epoch && kept.put_at.is_none());
            let is_new = after.is_none_or(|after| key > after);
            if !is_new {
                keys.push((key.clone(), false));
                continue;
            }
            let alive = older.filter(|(_, kept)| !must_live || self.is_alive(now, &kept.held));
            let alive: Vec<RecoveredLine> = alive
                .map(|(grant, kept)| RecoveredLine {
                    key: key.clone(),
                    grant: *grant,
                    released: kept.released,
                    value: kept.value.sent(now),
                })
                .collect();
            if alive.is_empty() {
                continue;
            }
            // One key at least, whatever its size.
            bytes += alive.iter().map(|line| line.value.body.as_ref().map_or(0, bytes::Bytes::len)).sum::<usize>();
            if !lines.is_empty()
                && (lines.len() >= self.settings.max_recovered || bytes > self.settings.max_recovered_bytes)
            {
                break;
            }
            lines.extend(alive);
            keys.push((key.clone(), true));
        }
        (lines, keys)
    }
}
