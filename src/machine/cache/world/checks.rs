//! What must hold: the invariants of the cache's promise, looked at after each step.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Deed, Kind, World};
use crate::machine::cache::{LineState, Outcome, SlotId, Version};

/// What was promised to whom.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Truth {
    /// The highest version that was acknowledged, or read: nobody may read less.
    acked: Option<Version>,
    /// That was a delete, as far as is known.
    is_deleted: bool,
    /// What each version names.
    named: BTreeMap<Version, Option<Bytes>>,
    pending: BTreeMap<u64, Started>,
    /// Something has happened after which a value may be gone.
    pub(super) may_be_gone: bool,
}

/// An operation that is under way, and what it may not read less than.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Started {
    cache: usize,
    kind: Kind,
    floor: Option<Version>,
}

impl Truth {
    /// The oldest operation of a cache that is under way.
    fn oldest(&self, cache: usize) -> Option<u64> {
        self.pending.iter().find(|(_, started)| started.cache == cache).map(|(op, _)| *op)
    }

    /// Nobody waits for this operation any more.
    pub(super) fn forget(&mut self, op: u64) {
        self.pending.remove(&op);
    }

    /// What is under way, and at which cache.
    fn waiting(&self) -> impl Iterator<Item = (usize, Kind)> {
        self.pending.values().map(|started| (started.cache, started.kind))
    }

    pub(super) fn forget_pending(&mut self, cache: usize) {
        self.pending.retain(|_, started| started.cache != cache);
    }

    /// An operation is over; the error says what is wrong with that.
    fn done(&mut self, op: u64, outcome: Outcome) -> Result<(), &'static str> {
        let Some(started) = self.pending.remove(&op) else { return Ok(()) };
        debug_assert!(started.kind != Kind::Evict, "an eviction has no outcome");
        let must_be_there = started.floor.is_some() && !self.may_be_gone;
        match outcome {
            Outcome::Loaded { version, body, .. } => {
                self.read(&started, version)?;
                self.names(version, Some(body))
            }
            Outcome::Mismatch { version: Some(version) } => self.read(&started, version),
            Outcome::Miss if must_be_there => Err(GONE),
            Outcome::Stored { version } => {
                self.names(version, Some(Bytes::from(vec![u8::try_from(op).expect("few operations")])))?;
                if started.kind == Kind::Put && must_be_there {
                    return Err(GONE);
                }
                if self.acked.is_some_and(|acked| version <= acked) {
                    return Err(NOT_HIGHER);
                }
                self.acked = self.acked.max(Some(version));
                self.is_deleted = false;
                Ok(())
            }
            // It has taken a version that nobody is told: above what was acknowledged before.
            Outcome::Deleted if !self.is_deleted => {
                self.acked = self.acked.map(Version::next_silent);
                self.is_deleted = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn read(&mut self, started: &Started, version: Version) -> Result<(), &'static str> {
        if started.floor.is_some_and(|floor| version < floor) {
            return Err(OLDER);
        }
        self.acked = self.acked.max(Some(version));
        Ok(())
    }

    fn names(&mut self, version: Version, body: Option<Bytes>) -> Result<(), &'static str> {
        let before = self.named.insert(version, body.clone());
        if before.is_some_and(|before| before != body) { Err(TWO_VALUES) } else { Ok(()) }
    }
}

pub(in super::super) const OLDER: &str = "a read returned an older value than was acknowledged";
pub(in super::super) const STALE: &str = "a line is readable that is older than what was acknowledged";
pub(in super::super) const TWO_WRITERS: &str = "a line is readable while another one is writable";
pub(in super::super) const DIFFERENT: &str = "two lines are readable that differ";
pub(in super::super) const TWO_VALUES: &str = "a version names two values";
pub(in super::super) const NOT_HIGHER: &str = "a store was acknowledged below what was acknowledged before";
pub(in super::super) const GONE: &str = "a value is gone for no reason";
pub(in super::super) const IN_NO_DIRECTORY: &str = "a line is readable that is in no directory";

impl World {
    pub(super) fn started(&mut self, op: u64, cache: usize, Deed { kind, key }: Deed) {
        let truth = &mut self.truths[key];
        let floor = truth.acked;
        if kind == Kind::Delete {
            truth.may_be_gone = true;
        }
        truth.pending.insert(op, Started { cache, kind, floor });
    }

    /// The oldest operation of a cache that is under way, and its key.
    pub(super) fn oldest(&self, cache: usize) -> Option<(u64, usize)> {
        let of_keys = self.truths.iter().enumerate();
        of_keys.filter_map(|(key, truth)| Some((truth.oldest(cache)?, key))).min()
    }

    /// What is under way, and at which cache.
    pub(super) fn waiting(&self) -> Vec<(usize, Kind)> {
        self.truths.iter().flat_map(Truth::waiting).collect()
    }

    fn is_wrong(&mut self, what: &'static str) {
        self.wrong.get_or_insert(what);
    }

    /// An operation is over.
    pub(super) fn done(&mut self, op: u64, outcome: Outcome) {
        let Some(truth) = self.truths.iter_mut().find(|truth| truth.pending.contains_key(&op)) else { return };
        if let Err(what) = truth.done(op, outcome) {
            self.is_wrong(what);
        }
    }

    /// Looks at all that can be read.
    pub(super) fn check(&mut self) {
        for key in 0..super::KEYS {
            self.check_key(key);
        }
    }

    fn check_key(&mut self, key: usize) {
        let readable: Vec<(usize, LineState, Version, bool)> = (0..self.caches.len())
            .filter_map(|cache| {
                let line = self.readable(cache, key)?;
                Some((cache, line.state, line.version, line.body.is_some()))
            })
            .collect();
        let acked = self.truths[key].acked;
        for (at, (_, state, version, has_body)) in readable.iter().enumerate() {
            if *has_body && Some(*version) < acked {
                self.is_wrong(STALE);
            }
            for (other, (_, _, other_version, _)) in readable.iter().enumerate().filter(|(other, _)| *other != at) {
                if matches!(state, LineState::E | LineState::M) {
                    self.is_wrong(TWO_WRITERS);
                }
                if other > at && version != other_version {
                    self.is_wrong(DIFFERENT);
                }
            }
        }
        self.check_directory(key, &readable);
    }

    /// Who can read is known to the home of now, once that grants.
    fn check_directory(&mut self, key: usize, readable: &[(usize, LineState, Version, bool)]) {
        let (home, name) = (self.home_of(key), self.nth_key(key));
        if !self.looks_at_directory || readable.is_empty() || self.now >= self.leases[home] {
            return;
        }
        let Some(home) = self.homes[home].as_ref().filter(|home| home.is_serving(SlotId::of(&name))) else { return };
        let view = home.view(&name);
        for (cache, ..) in readable {
            let node = super::node(*cache);
            let is_known = view.as_ref().is_some_and(|view| view.owner == Some(node) || view.sharers.contains(&node));
            if !is_known {
                self.is_wrong(IN_NO_DIRECTORY);
            }
        }
    }
}
