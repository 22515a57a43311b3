//! An operator's invalidation: all entries of this home that it names go, and every copy with them.
//!
//! Slot by slot, for as long as one answer may take: whoever asked asks for the rest then, and so hears that it goes on.
//! A slot's keys are noted when it is its turn, so that keys that are new do not keep it from its end; and a key that is
//! written without a pause goes in its turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::sync::oneshot;

use super::HomeTask;
use crate::{
    ids::{CacheKey, Tick},
    machine::cache::{HomeInput, SlotId},
    node::caches::{types::Which, wire::Cleared},
};

/// Keys of one invalidation that are under way at a time.
const AT_ONCE: usize = 64;
/// Most invalidations at a time.
const MOST: usize = 16;
/// After this no further slot is begun before the next answer, in milliseconds.
const STEP_MS: u64 = 1_000;

/// The invalidations that are under way.
#[derive(Debug, Default)]
pub(super) struct Clears(Vec<Clear>);

#[derive(Debug)]
struct Clear {
    which: Which,
    /// Until when a further slot may be begun.
    until: Tick,
    /// Slots with which it has not begun.
    slots: BTreeSet<SlotId>,
    /// Slots of which all keys were noted.
    noted: BTreeSet<SlotId>,
    todo: VecDeque<CacheKey>,
    under_way: BTreeMap<CacheKey, Phase>,
    cleared: u64,
    reply: oneshot::Sender<Cleared>,
}

/// How far a key has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// It is to go.
    Wanted,
    /// Its copies are being recalled, or will be in its turn.
    Begun,
    /// It is gone.
    Over,
}

impl Which {
    /// Whether it names the key.
    pub(in crate::node::caches) fn names(&self, key: &CacheKey) -> bool {
        match self {
            Self::Key(one) => one == key,
            Self::Prefix(prefix) => key.as_str().starts_with(prefix.as_str()),
            Self::All => true,
        }
    }
}

impl HomeTask {
    pub(super) fn clear(&mut self, which: Which, slots: BTreeSet<SlotId>, reply: oneshot::Sender<Cleared>) {
        if self.clears.0.len() >= MOST {
            self.parts.link.bounds.hit("cache.invalidations");
            return;
        }
        let until = self.parts.clock.now().plus_ms(STEP_MS);
        let (noted, todo, under_way) = (BTreeSet::new(), VecDeque::new(), BTreeMap::new());
        self.clears.0.push(Clear { which, until, slots, noted, todo, under_way, cleared: 0, reply });
    }

    /// Goes on with all of them; those that are over, or have come far enough for an answer, are answered.
    pub(super) fn go_on_clearing(&mut self) {
        for mut clear in std::mem::take(&mut self.clears.0) {
            let is_mine = |slot: &SlotId| self.heeded.slot(*slot).home == Some(self.parts.me);
            if clear.reply.is_closed() || !clear.slots.iter().chain(&clear.noted).all(is_mine) {
                continue;
            }
            self.go_on(&mut clear);
            let is_idle = clear.todo.is_empty() && clear.under_way.is_empty();
            if is_idle && (clear.slots.is_empty() || self.parts.clock.now() >= clear.until) {
                // Who hung up needs no answer.
                let _ = clear.reply.send(Cleared { invalidated: clear.cleared, left: clear.slots });
            } else {
                self.clears.0.push(clear);
            }
        }
    }

    /// Notes the keys of the next slots, until there is enough to do. One that is recovering is waited for, and so is the
    /// lease: outside it another home may have keys that are not known here.
    fn note_keys(&self, clear: &mut Clear) {
        while clear.todo.len() < AT_ONCE
            && self.parts.clock.now() < clear.until.min(self.lease_until)
            && let Some(slot) = clear.slots.first().copied().filter(|slot| self.home.is_serving(*slot))
        {
            let keys = self.home.keys_of(slot).filter(|key| clear.which.names(key));
            clear.todo.extend(keys.cloned());
            clear.slots.remove(&slot);
            clear.noted.insert(slot);
        }
    }

    fn go_on(&mut self, clear: &mut Clear) {
        loop {
            let keys: Vec<CacheKey> = clear.under_way.keys().cloned().collect();
            for key in keys {
                let before = clear.under_way[&key];
                match self.phase_after(&key, before) {
                    Phase::Over => {
                        clear.under_way.remove(&key);
                        clear.cleared += 1;
                    }
                    after => _ = clear.under_way.insert(key, after),
                }
            }
            self.note_keys(clear);
            let room = AT_ONCE - clear.under_way.len();
            let more: Vec<CacheKey> = clear.todo.drain(..room.min(clear.todo.len())).collect();
            if more.is_empty() {
                return;
            }
            clear.under_way.extend(more.into_iter().map(|key| (key, Phase::Wanted)));
        }
    }

    fn phase_after(&mut self, key: &CacheKey, before: Phase) -> Phase {
        if !self.home.is_serving(SlotId::of(key)) {
            // It is on its way to another home with all that is known of it, or comes back.
            return Phase::Wanted;
        }
        if before == Phase::Wanted {
            self.step(HomeInput::Evict { key: key.clone(), in_turn: true });
        }
        match self.home.view(key) {
            Some(view) if view.is_leaving => Phase::Begun,
            // It is still there: outside the lease nothing goes.
            Some(_) if before == Phase::Wanted => Phase::Wanted,
            // What is there came after it.
            _ => Phase::Over,
        }
    }
}
