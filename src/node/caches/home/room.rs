//! Room in the directory: a bound on the entries that are kept, and one on those that are on their way out.
//!
//! An entry that has to go recalls its copies first, which may take as long as a lease. Until then it is kept beside the
//! others, and where many are, nothing is begun for a key that is not known here: whoever asks is told to come again.

use std::collections::VecDeque;

use super::HomeTask;
use crate::{
    ids::CacheKey,
    machine::cache::{
        EntryState, HomeAnswer, HomeInput, HomeReply, HomeRequest, Nonce, Recency, Residency, SlotId, ToHome,
    },
};

/// Entries on their way out, at the most: a part of the others, but at least and at most so many.
const LEAVING: std::ops::RangeInclusive<usize> = 16..=256;
/// The part of the others that they may be.
const LEAVING_PART: usize = 8;
/// So many are looked at, and so many sent on their way, in one turn of the task.
const AT_A_TURN: usize = 32;
/// So many entries are passed over because a cache has a copy, before one with copies goes.
const PASSED_OVER: usize = 64;

/// Which entries there are, and which of them go.
#[derive(Debug)]
pub(super) struct Room {
    entries: Recency,
    capacity: usize,
    /// Whose copies are being recalled.
    leaving: VecDeque<CacheKey>,
}

impl Room {
    /// For so many entries, beside those on their way out.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: Recency::new(capacity), capacity, leaving: VecDeque::new() }
    }

    /// An entry is there, and was used just now.
    pub(super) fn used(&mut self, key: &CacheKey) {
        self.entries.installed(key);
    }

    /// There is no entry, or none any more: it takes no room from others.
    pub(super) fn forgotten(&mut self, key: &CacheKey) {
        self.entries.dropped(key);
    }

    fn most_leaving(&self) -> usize {
        (self.capacity / LEAVING_PART).clamp(*LEAVING.start(), *LEAVING.end())
    }

    fn is_full(&self) -> bool {
        self.leaving.len() >= self.most_leaving() && self.entries.len() >= self.capacity
    }
}

impl HomeTask {
    /// The answer to a request for a line that is not known here, where no room is left for it. Nothing becomes of the
    /// request, and nothing is extended by the answer.
    pub(super) fn no_room_for(&self, message: &ToHome) -> Option<HomeReply> {
        let (line, nonce) = asks_for(&message.body)?;
        if !self.room.is_full() || self.home.view(line).is_some() || !self.home.is_serving(SlotId::of(line)) {
            return None;
        }
        self.parts.link.bounds.hit("cache.directory");
        let body = HomeAnswer::Busy { nonce, retry_ms: self.parts.settings.busy_retry_ms };
        let (moved, put_acks) = (Vec::new(), Vec::new());
        Some(HomeReply { session: message.session, lease_ms: None, moved, put_acks, body })
    }

    /// Where there are too many entries, some go. A home does not hear of hits: what no cache has a copy of goes first, in
    /// the order of use.
    pub(super) fn make_room(&mut self) {
        self.look_who_has_left();
        for _ in 0..AT_A_TURN {
            if self.room.leaving.len() >= self.room.most_leaving() {
                return;
            }
            let Some(key) = self.victim() else { return };
            self.parts.counters.directory_evictions.add(1);
            self.step(HomeInput::Evict { key: key.clone(), in_turn: false });
            if self.home.view(&key).is_some() {
                self.room.leaving.push_back(key);
            }
        }
    }

    /// The entry that goes next: that which was not used for longest of those without copies, or, where many in a row
    /// have some, the first of these.
    fn victim(&mut self) -> Option<CacheKey> {
        let first = self.room.entries.victim(0)?;
        let (mut next, mut passed) = (Some(first.clone()), Vec::new());
        while let Some(key) = next.take() {
            if !self.has_copies(&key) {
                passed.iter().for_each(|key| self.room.used(key));
                return Some(key);
            }
            passed.push(key);
            if passed.len() <= PASSED_OVER {
                next = self.room.entries.oldest();
            }
        }
        passed.iter().filter(|key| **key != first).for_each(|key| self.room.used(key));
        Some(first)
    }

    fn has_copies(&self, key: &CacheKey) -> bool {
        self.home.view(key).is_some_and(|view| view.owner.is_some() || !view.sharers.is_empty())
    }

    fn look_who_has_left(&mut self) {
        for _ in 0..AT_A_TURN.min(self.room.leaving.len()) {
            let Some(key) = self.room.leaving.pop_front() else { return };
            match self.home.view(&key) {
                None => {}
                Some(view) if view.state == EntryState::Busy => self.room.leaving.push_back(key),
                // Somebody has asked for it again meanwhile, or was at it before: it goes in its turn.
                Some(_) => self.room.used(&key),
            }
        }
    }
}

/// The line that a request would have an entry made for.
fn asks_for(body: &HomeRequest) -> Option<(&CacheKey, Nonce)> {
    match body {
        HomeRequest::GetS { line, nonce, .. } | HomeRequest::GetM { line, nonce, .. } => Some((&line.key, *nonce)),
        _ => None,
    }
}
