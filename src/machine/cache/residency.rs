//! Which lines a node keeps: a bound on their number, and who goes next.
//!
//! The machines hold what is bound by the protocol; this says when something has to make room. A trait, because the
//! best of them is a concurrent one beside the table of lines that many threads read; [`Recency`] is exact and simple.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::CacheKey;

/// What is told of lines that come, are used and go, and names who has to go.
pub trait Residency {
    /// A line is there, or was changed.
    fn installed(&mut self, key: &CacheKey);
    /// It was read or written.
    fn used(&mut self, key: &CacheKey);
    /// It is gone.
    fn dropped(&mut self, key: &CacheKey);
    /// The line that has to go, where there are too many beside `pinned` others: what is in flight, dirty in the
    /// buffer, or asked to go and still there. It is named once, until it is installed again.
    fn victim(&mut self, pinned: usize) -> Option<CacheKey>;
}

/// The least recently used line goes first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recency {
    capacity: usize,
    clock: u64,
    used_at: BTreeMap<CacheKey, u64>,
    order: BTreeSet<(u64, CacheKey)>,
}

impl Recency {
    /// For so many lines, at least one.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), clock: 0, used_at: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// How many lines it counts.
    pub fn len(&self) -> usize {
        self.used_at.len()
    }

    /// Whether it counts none.
    pub fn is_empty(&self) -> bool {
        self.used_at.is_empty()
    }

    /// Takes out the line that was not used for longest, wanted or not.
    pub fn oldest(&mut self) -> Option<CacheKey> {
        let (at, key) = self.order.pop_first()?;
        debug_assert_eq!(self.used_at.get(&key), Some(&at), "both say the same");
        self.used_at.remove(&key);
        Some(key)
    }

    fn touch(&mut self, key: &CacheKey) {
        self.clock += 1;
        if let Some(before) = self.used_at.insert(key.clone(), self.clock) {
            self.order.remove(&(before, key.clone()));
        }
        self.order.insert((self.clock, key.clone()));
    }
}

impl Residency for Recency {
    fn installed(&mut self, key: &CacheKey) {
        self.touch(key);
    }

    fn used(&mut self, key: &CacheKey) {
        if self.used_at.contains_key(key) {
            self.touch(key);
        }
    }

    fn dropped(&mut self, key: &CacheKey) {
        if let Some(at) = self.used_at.remove(key) {
            self.order.remove(&(at, key.clone()));
        }
    }

    fn victim(&mut self, pinned: usize) -> Option<CacheKey> {
        if self.used_at.len() + pinned <= self.capacity {
            return None;
        }
        self.oldest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> CacheKey {
        CacheKey::new(name).expect("a short name is a key")
    }

    #[test]
    fn the_line_that_was_not_used_for_longest_has_to_go() {
        let mut lines = Recency::new(2);
        ["a", "b", "c"].into_iter().for_each(|name| lines.installed(&key(name)));
        lines.used(&key("a"));
        assert_eq!(lines.victim(0), Some(key("b")));
        assert_eq!(lines.victim(0), None, "two are left");
    }

    #[test]
    fn what_is_in_flight_takes_room_from_lines() {
        let mut lines = Recency::new(2);
        ["a", "b"].into_iter().for_each(|name| lines.installed(&key(name)));
        assert_eq!(lines.victim(1), Some(key("a")));
        assert_eq!(lines.victim(1), None);
        assert_eq!(lines.victim(5), Some(key("b")), "no line is left where all room is taken");
        assert_eq!(lines.victim(5), None);
    }

    #[test]
    fn what_was_dropped_is_no_victim() {
        let mut lines = Recency::new(1);
        ["a", "b"].into_iter().for_each(|name| lines.installed(&key(name)));
        lines.dropped(&key("a"));
        lines.used(&key("a"));
        assert_eq!((lines.victim(0), lines.len()), (None, 1));
    }
}
