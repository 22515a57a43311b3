//! An operator's invalidation: all entries of this home that it names go, and every copy with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::sync::oneshot;

use super::HomeTask;
use crate::{
    ids::CacheKey,
    machine::cache::{EntryState, HomeInput, SlotId, Version},
    node::caches::types::Which,
};

/// Keys of one invalidation that are under way at a time.
const AT_ONCE: usize = 64;
/// Most invalidations at a time.
const MOST: usize = 16;

/// The invalidations that are under way.
#[derive(Debug, Default)]
pub(super) struct Clears(Vec<Clear>);

#[derive(Debug)]
struct Clear {
    which: Which,
    /// Slots of which the keys are not known yet: they are recovering.
    slots: BTreeSet<SlotId>,
    /// Slots of which all keys were noted.
    noted: BTreeSet<SlotId>,
    todo: VecDeque<CacheKey>,
    under_way: BTreeMap<CacheKey, Phase>,
    cleared: u64,
    reply: oneshot::Sender<u64>,
}

/// How far a key has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Somebody else is busy with it.
    Wanted,
    /// Its copies are being recalled, under this version.
    Begun(Version),
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
    pub(super) fn clear(&mut self, which: Which, reply: oneshot::Sender<u64>) {
        let of_key = |slot: &SlotId| !matches!(&which, Which::Key(key) if SlotId::of(key) != *slot);
        let slots: BTreeSet<SlotId> = (0..crate::machine::cache::SLOTS)
            .map(SlotId)
            .filter(|slot| of_key(slot) && self.heeded.slot(*slot).home == Some(self.parts.me))
            .collect();
        if self.clears.0.len() >= MOST {
            self.parts.link.bounds.hit("cache.invalidations");
            return;
        }
        let (todo, under_way) = (VecDeque::new(), BTreeMap::new());
        self.clears.0.push(Clear { which, slots, noted: BTreeSet::new(), todo, under_way, cleared: 0, reply });
    }

    /// Goes on with all of them; those that are over are answered.
    pub(super) fn go_on_clearing(&mut self) {
        for mut clear in std::mem::take(&mut self.clears.0) {
            let is_mine = |slot: &SlotId| self.heeded.slot(*slot).home == Some(self.parts.me);
            if clear.reply.is_closed() || !clear.slots.iter().chain(&clear.noted).all(is_mine) {
                continue;
            }
            self.note_keys(&mut clear);
            self.go_on(&mut clear);
            if clear.slots.is_empty() && clear.todo.is_empty() && clear.under_way.is_empty() {
                // Who hung up needs no answer.
                let _ = clear.reply.send(clear.cleared);
            } else {
                self.clears.0.push(clear);
            }
        }
    }

    /// Notes the keys of slots that are served by now.
    fn note_keys(&self, clear: &mut Clear) {
        let ready: BTreeSet<SlotId> = clear.slots.iter().filter(|slot| self.home.is_serving(**slot)).copied().collect();
        if ready.is_empty() {
            return;
        }
        let keys = self.home.keys().filter(|key| ready.contains(&SlotId::of(key)) && clear.which.names(key));
        clear.todo.extend(keys.cloned());
        clear.slots.retain(|slot| !ready.contains(slot));
        clear.noted.extend(ready);
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
            let room = AT_ONCE - clear.under_way.len();
            let more: Vec<CacheKey> = clear.todo.drain(..room.min(clear.todo.len())).collect();
            if more.is_empty() {
                return;
            }
            clear.under_way.extend(more.into_iter().map(|key| (key, Phase::Wanted)));
        }
    }

    fn phase_after(&mut self, key: &CacheKey, before: Phase) -> Phase {
        if before == Phase::Wanted {
            let Some(view) = self.home.view(key) else { return Phase::Over };
            if view.state == EntryState::Busy {
                return Phase::Wanted;
            }
            self.step(HomeInput::Evict { key: key.clone() });
            return match self.home.view(key) {
                Some(after) if after.stamp == view.stamp => Phase::Wanted,
                Some(after) if after.state == EntryState::Busy => Phase::Begun(after.stamp),
                _ => Phase::Over,
            };
        }
        let Phase::Begun(version) = before else { return before };
        match self.home.view(key) {
            // One transaction at a time: another one says that this one is over.
            Some(view) if view.state == EntryState::Busy && view.stamp == version => before,
            _ => Phase::Over,
        }
    }
}
