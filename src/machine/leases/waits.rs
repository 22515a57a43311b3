//! When each wait in line is over.
//!
//! Kept up by every lock manager, leading or not: a wait that was seen to begin is counted from then on
//! this node's own clock, whoever leads meanwhile. What the log's times say counts only for waits that
//! this node did not see begin (it was started later, or got them in a snapshot).

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{RequestId, Tick};

#[derive(Debug, Default)]
pub(super) struct Waits {
    ends: BTreeMap<RequestId, Tick>,
    /// The same by time, without those whose end is proposed.
    index: BTreeSet<(Tick, RequestId)>,
}

impl Waits {
    /// A wait is over at `end`, unless it is ended before.
    pub(super) fn begin(&mut self, request: RequestId, end: Tick) {
        self.end(&request);
        self.ends.insert(request, end);
        self.index.insert((end, request));
    }

    pub(super) fn end(&mut self, request: &RequestId) {
        if let Some(end) = self.ends.remove(request) {
            self.index.remove(&(end, *request));
        }
    }

    /// Looks at a wait again at `at`, if it goes on.
    pub(super) fn again(&mut self, request: RequestId, at: Tick) {
        if self.ends.contains_key(&request) {
            self.begin(request, at);
        }
    }

    /// These waits are all that there are, each with what is left of it by the log's times.
    pub(super) fn resume(&mut self, now: Tick, waits: Vec<(RequestId, u64)>) {
        let seen = std::mem::take(self).ends;
        for (request, left_ms) in waits {
            self.begin(request, seen.get(&request).copied().unwrap_or_else(|| now.plus_ms(left_ms)));
        }
    }

    /// When the next one is over.
    pub(super) fn next(&self) -> Option<Tick> {
        self.index.first().map(|(end, _)| *end)
    }

    /// At most `most` of those that are over. They are not named again unless [`Self::again`] says so.
    pub(super) fn over(&mut self, now: Tick, most: usize) -> Vec<RequestId> {
        let over = std::iter::from_fn(|| {
            self.index.first().filter(|(end, _)| *end <= now)?;
            self.index.pop_first().map(|(_, request)| request)
        });
        over.take(most).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::ids::{Incarnation, NodeId, RequestId, Tick};

    const MINE: Term = Term(3);

    fn id(seq: u64) -> RequestId {
        RequestId { node: NodeId::from_bytes([7; 32]), incarnation: Incarnation(1), seq }
    }

    fn at(keeper: &mut LeaseKeeper, now: u64, input: LeaseInput) -> Vec<LeaseEffect> {
        let mut effects = Vec::new();
        keeper.step(Tick(now), input, &mut effects);
        effects
    }

    fn began(seq: u64, wait_ms: u64) -> LeaseInput {
        LeaseInput::WaitBegan { request: id(seq), wait_ms }
    }

    fn led(waits: &[(u64, u64)]) -> LeaseInput {
        let waits = waits.iter().map(|(seq, left_ms)| (id(*seq), *left_ms)).collect();
        LeaseInput::Led { term: MINE, sessions: vec![], waits, delays: vec![] }
    }

    fn over(proposal: u64, seqs: &[u64]) -> LeaseEffect {
        let requests = seqs.iter().map(|seq| id(*seq)).collect();
        LeaseEffect::Propose { proposal, timer: LockTimer::WaitsOver { term: MINE, requests } }
    }

    #[test]
    fn a_new_leader_ends_a_wait_when_it_is_over_since_it_was_seen_to_begin() {
        let mut keeper = LeaseKeeper::new();
        for (now, input) in [(1_000, began(1, 10_000)), (2_000, began(2, 3_000)), (2_000, began(3, 8_000))] {
            assert_eq!(at(&mut keeper, now, input), []);
        }
        at(&mut keeper, 3_000, LeaseInput::WaitsEnded { requests: vec![id(3)] });
        assert_eq!(keeper.deadline(), None, "another leads");
        assert_eq!(at(&mut keeper, 7_000, LeaseInput::Due), []);
        // What wall clocks say does not matter then, be it too much or too little.
        assert_eq!(at(&mut keeper, 8_000, led(&[(1, 0), (2, 60_000)])), []);
        assert_eq!(at(&mut keeper, 8_000, LeaseInput::Due), [over(1, &[2])]);
        assert_eq!(keeper.deadline(), Some(Tick(11_000)));
        assert_eq!(at(&mut keeper, 10_999, LeaseInput::Due), []);
        assert_eq!(at(&mut keeper, 11_000, LeaseInput::Due), [over(2, &[1])]);
    }

    #[test]
    fn of_a_wait_that_was_not_seen_to_begin_the_log_says_what_is_left() {
        let mut keeper = LeaseKeeper::new();
        assert_eq!(at(&mut keeper, 5_000, led(&[(1, 4_000), (2, 0)])), []);
        assert_eq!(at(&mut keeper, 5_000, LeaseInput::Due), [over(1, &[2])]);
        assert_eq!(at(&mut keeper, 8_999, LeaseInput::Due), []);
        assert_eq!(at(&mut keeper, 9_000, LeaseInput::Due), [over(2, &[1])]);
    }

    #[test]
    fn however_often_leaders_change_a_wait_is_not_prolonged() {
        let mut keeper = LeaseKeeper::new();
        at(&mut keeper, 0, led(&[]));
        at(&mut keeper, 0, began(1, 10_000));
        for now in [2_000, 4_000, 6_000, 8_000] {
            assert_eq!(at(&mut keeper, now, LeaseInput::Deposed), []);
            assert_eq!(at(&mut keeper, now + 500, led(&[(1, 10_000)])), []);
        }
        assert_eq!(at(&mut keeper, 10_000, LeaseInput::Due), [over(1, &[1])]);
        // Deposed before the entry was committed: proposed again in the next office.
        at(&mut keeper, 10_001, LeaseInput::Deposed);
        at(&mut keeper, 10_500, led(&[(1, 10_000)]));
        assert_eq!(at(&mut keeper, 10_500, LeaseInput::Due), [over(2, &[1])]);
    }

    #[test]
    fn after_a_gap_in_the_log_nothing_counts_that_was_seen_before_unless_the_gap_was_led_over() {
        let mut keeper = LeaseKeeper::new();
        at(&mut keeper, 0, began(1, 10_000));
        at(&mut keeper, 1_000, LeaseInput::Reset);
        at(&mut keeper, 2_000, led(&[(1, 9_000)]));
        assert_eq!(keeper.deadline(), Some(Tick(11_000)));
        at(&mut keeper, 3_000, LeaseInput::Reset);
        assert_eq!(keeper.deadline(), Some(Tick(11_000)), "a leader holds what it took over");
    }
}
