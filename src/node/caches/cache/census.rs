//! What becomes of the lines of a node, in figures: how many are in which state, why they go, why reads miss.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{ids::CacheKey, machine::cache::LineState, node::caches::types::LinesByState};

/// Why a line went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Cause {
    /// To make room.
    Evicted,
    /// Somebody else wrote, or it was recalled.
    Invalidated,
    /// The session with its home ended.
    LeaseLost,
    /// Its slot has another home.
    Moved,
}

impl Cause {
    /// Its name as the cause of a miss.
    fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Invalidated => "invalidated",
            Self::LeaseLost | Self::Moved => "lease-lost",
        }
    }
}

/// A line that may be read.
#[derive(Clone, Copy, Debug)]
struct Counted {
    state: LineState,
    bytes: usize,
}

/// The figures.
#[derive(Debug)]
pub(super) struct Census {
    lines: HashMap<CacheKey, Counted>,
    bytes: u64,
    by_state: LinesByState,
    /// Why lines went that were here lately, and in which order.
    gone: HashMap<CacheKey, Cause>,
    gone_in_order: VecDeque<CacheKey>,
    /// So many of these are remembered.
    remembered: usize,
    hits: u64,
    misses: BTreeMap<&'static str, u64>,
    evictions: u64,
    transitions: BTreeMap<(LineState, LineState), u64>,
}

impl Census {
    /// Of a cache of so many lines.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            lines: HashMap::new(),
            bytes: 0,
            by_state: LinesByState::default(),
            gone: HashMap::new(),
            gone_in_order: VecDeque::new(),
            remembered: capacity.max(1),
            hits: 0,
            misses: BTreeMap::new(),
            evictions: 0,
            transitions: BTreeMap::new(),
        }
    }

    pub(super) fn installed(&mut self, key: &CacheKey, state: LineState, bytes: usize) {
        let before = self.lines.insert(key.clone(), Counted { state, bytes });
        self.gone.remove(key);
        self.count(before, Some(Counted { state, bytes }));
    }

    pub(super) fn dropped(&mut self, key: &CacheKey, cause: Cause) {
        let Some(before) = self.lines.remove(key) else { return };
        self.count(Some(before), None);
        if self.gone.insert(key.clone(), cause).is_none() {
            self.gone_in_order.push_back(key.clone());
        }
        while self.gone_in_order.len() > self.remembered {
            if let Some(oldest) = self.gone_in_order.pop_front() {
                self.gone.remove(&oldest);
            }
        }
    }

    fn count(&mut self, before: Option<Counted>, after: Option<Counted>) {
        let state = |counted: Option<Counted>| counted.map_or(LineState::I, |counted| counted.state);
        if state(before) != state(after) {
            *self.transitions.entry((state(before), state(after))).or_default() += 1;
        }
        if let Some(before) = before {
            self.bytes -= before.bytes as u64;
            *of_state(&mut self.by_state, before.state) -= 1;
        }
        if let Some(after) = after {
            self.bytes += after.bytes as u64;
            *of_state(&mut self.by_state, after.state) += 1;
        }
    }

    /// A line had to make room.
    pub(super) fn evicted(&mut self) {
        self.evictions += 1;
    }

    /// Why a read that the table could not serve will be a miss, if it is one.
    pub(super) fn why_missing(&self, key: &CacheKey) -> &'static str {
        match self.gone.get(key) {
            Some(cause) => cause.as_str(),
            None if self.lines.contains_key(key) => "expired",
            None => "cold",
        }
    }

    /// A read that the table could not serve was one all the same, since no message left the node.
    pub(super) fn hit(&mut self) {
        self.hits += 1;
    }

    /// A read was a miss, for this reason.
    pub(super) fn missed(&mut self, why: &'static str) {
        *self.misses.entry(why).or_default() += 1;
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn by_state(&self) -> LinesByState {
        self.by_state
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    pub(super) fn misses(&self) -> BTreeMap<String, u64> {
        self.misses.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect()
    }

    pub(super) fn transitions(&self) -> BTreeMap<String, u64> {
        let name = |(from, to): &(LineState, LineState)| format!("{}>{}", from.as_str(), to.as_str());
        self.transitions.iter().map(|(pair, count)| (name(pair), *count)).collect()
    }
}

fn of_state(lines: &mut LinesByState, state: LineState) -> &mut u64 {
    match state {
        LineState::M => &mut lines.modified,
        LineState::O | LineState::OM => &mut lines.owned,
        LineState::E => &mut lines.exclusive,
        _ => &mut lines.shared,
    }
}
