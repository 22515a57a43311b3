//! The leader's judgement of who is there, by silence.
//!
//! Members heartbeat to the leader; who is silent for `FAILURE_TIMEOUT` on the leader's monotonic
//! clock is proposed as down, naming the incarnation that was silent. After an election, and when
//! the leader's own timer was late (it may have been the one that was paused), everyone gets a
//! fresh term: a judge that slept must not convict.
//!
//! A process that dies closes its connections: a member whose connection is closed and cannot be opened
//! again for [`LOST_MS`] is not waited for. Who is convicted in error joins again.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Incarnation, NodeId, Term, Tick};

/// After how many milliseconds a suspicion that could not be committed is raised again.
const RETRY_MS: u64 = 250;

/// For how many milliseconds a member may be impossible to connect to before it is proposed as down: a
/// dial that crossed another, or met a node that is just starting, must not convict.
pub const LOST_MS: u64 = 100;

/// A member that is to be proposed as down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suspect {
    /// The silent node.
    pub node: NodeId,
    /// The run of it that is silent.
    pub incarnation: Incarnation,
    /// Whether this run was suspected in this term before, and has not been heard of since: what was proposed then came
    /// to nothing, and there is nothing new to tell.
    pub again: bool,
}

#[derive(Clone, Debug)]
struct Watched {
    incarnation: Incarnation,
    heard: Tick,
    /// Since when it cannot be connected to.
    lost: Option<Tick>,
    proposed: bool,
    /// Whether it has been suspected since it was heard of last.
    suspected: bool,
}

/// The watch that a leader keeps; empty on everyone else.
#[derive(Clone, Debug)]
pub struct Detector {
    failure_timeout_ms: u64,
    /// The term in which is judged.
    term: Term,
    watched: BTreeMap<NodeId, Watched>,
}

impl Detector {
    /// A detector that nobody is watched by yet.
    pub fn new(failure_timeout_ms: u64) -> Self {
        Self { failure_timeout_ms, term: Term(0), watched: BTreeMap::new() }
    }

    /// The serving members have changed: watches the new ones from now on, forgets the others.
    pub fn set_members(&mut self, now: Tick, members: impl IntoIterator<Item = (NodeId, Incarnation)>) {
        let mut before = std::mem::take(&mut self.watched);
        for (node, incarnation) in members {
            let watched = match before.remove(&node) {
                Some(known) if known.incarnation == incarnation => known,
                _ => Watched { incarnation, heard: now, lost: None, proposed: false, suspected: false },
            };
            self.watched.insert(node, watched);
        }
    }

    /// This node leads in `term`: everyone gets a fresh term of silence. What was proposed in another term is void.
    pub fn lead(&mut self, now: Tick, term: Term) {
        self.amnesty(now);
        if std::mem::replace(&mut self.term, term) != term {
            for watched in self.watched.values_mut() {
                watched.proposed = false;
                watched.suspected = false;
            }
        }
    }

    /// Everyone gets a fresh term of silence, because our own timer was late; but for those who are proposed as down
    /// already: that may yet be committed, and until it has come to nothing they must not be answered.
    pub fn amnesty(&mut self, now: Tick) {
        for watched in self.watched.values_mut() {
            watched.heard = now;
            watched.lost = None;
        }
    }

    /// These cannot be connected to now, all others can or are being dialled.
    pub fn unreachable(&mut self, now: Tick, unreachable: &BTreeSet<NodeId>) {
        for (node, watched) in &mut self.watched {
            watched.lost = unreachable.contains(node).then(|| watched.lost.unwrap_or(now));
        }
    }

    /// When somebody who cannot be connected to is to be judged next.
    pub fn deadline(&self) -> Option<Tick> {
        let lost = self.watched.values().filter(|watched| !watched.proposed).filter_map(|watched| watched.lost);
        lost.min().map(|since| since.plus_ms(LOST_MS))
    }

    /// A heartbeat. `false`: this run of the node has been proposed as down, or is not known as
    /// serving; it must join again before it is answered.
    pub fn heard(&mut self, now: Tick, node: NodeId, incarnation: Incarnation) -> bool {
        match self.watched.get_mut(&node) {
            Some(watched) if watched.incarnation == incarnation && !watched.proposed => {
                watched.heard = now;
                watched.lost = None;
                watched.suspected = false;
                true
            }
            _ => false,
        }
    }

    /// When a node was last heard of, or first watched.
    pub fn last_heard(&self, node: NodeId) -> Option<Tick> {
        self.watched.get(&node).map(|watched| watched.heard)
    }

    /// Who has been silent, or impossible to connect to, for too long and was not proposed yet.
    pub fn suspects(&mut self, now: Tick) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for (&node, watched) in &mut self.watched {
            let silent = now.ms_since(watched.heard) >= self.failure_timeout_ms;
            let lost = watched.lost.is_some_and(|since| now.ms_since(since) >= LOST_MS);
            if !watched.proposed && (silent || lost) {
                watched.proposed = true;
                let again = std::mem::replace(&mut watched.suspected, true);
                suspects.push(Suspect { node, incarnation: watched.incarnation, again });
            }
        }
        suspects
    }

    /// A proposal of that term came to nothing: the node may be heard again, or suspected after [`RETRY_MS`].
    pub fn acquit(&mut self, now: Tick, node: NodeId, term: Term) {
        if let Some(watched) = self.watched.get_mut(&node).filter(|_| term == self.term) {
            watched.proposed = false;
            watched.lost = watched.lost.map(|_| now);
            let silent_ms = self.failure_timeout_ms.saturating_sub(RETRY_MS);
            watched.heard = watched.heard.max(Tick(now.0.saturating_sub(silent_ms)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId::from_bytes([1; 32]);
    const RUN: Incarnation = Incarnation(1);
    const TERM: Term = Term(3);
    const SUSPECT: Suspect = Suspect { node: ONE, incarnation: RUN, again: false };

    fn watching() -> Detector {
        let mut detector = Detector::new(2_000);
        detector.set_members(Tick(0), [(ONE, RUN)]);
        detector.lead(Tick(0), TERM);
        detector
    }

    #[test]
    fn silence_for_the_whole_timeout_is_proposed_once() {
        let mut detector = watching();
        assert!(detector.heard(Tick(500), ONE, RUN));
        assert_eq!(detector.suspects(Tick(2_499)), vec![]);
        assert_eq!(detector.suspects(Tick(2_500)), vec![SUSPECT]);
        assert_eq!(detector.suspects(Tick(9_000)), vec![]);
    }

    #[test]
    fn no_heartbeat_is_honoured_once_down_is_proposed() {
        let mut detector = watching();
        detector.suspects(Tick(2_000));
        assert!(!detector.heard(Tick(2_001), ONE, RUN));
        detector.acquit(Tick(2_001), ONE, TERM);
        assert!(detector.heard(Tick(2_002), ONE, RUN));
    }

    #[test]
    fn a_suspicion_that_could_not_be_committed_is_raised_again_after_a_pause() {
        let mut detector = watching();
        detector.suspects(Tick(5_000));
        detector.acquit(Tick(5_000), ONE, TERM);
        assert_eq!(detector.suspects(Tick(5_000 + RETRY_MS - 1)), vec![]);
        assert_eq!(detector.suspects(Tick(5_000 + RETRY_MS)).len(), 1);
    }

    #[test]
    fn who_is_suspected_again_without_having_been_heard_of_is_no_news() {
        let mut detector = watching();
        let (lost, again) = (BTreeSet::from([ONE]), Suspect { again: true, ..SUSPECT });
        // No quorum takes the proposals: each comes to nothing at once.
        detector.unreachable(Tick(0), &lost);
        assert_eq!(detector.suspects(Tick(LOST_MS)), vec![SUSPECT]);
        for round in 2..10 {
            detector.acquit(Tick((round - 1) * LOST_MS), ONE, TERM);
            detector.unreachable(Tick((round - 1) * LOST_MS), &lost);
            assert_eq!(detector.suspects(Tick(round * LOST_MS)), vec![again]);
        }
        detector.acquit(Tick(1_000), ONE, TERM);
        detector.amnesty(Tick(1_000));
        assert_eq!(detector.suspects(Tick(3_000)), vec![again], "the judge was late, the silence is the same");
        detector.acquit(Tick(3_000), ONE, TERM);
        assert!(detector.heard(Tick(3_001), ONE, RUN));
        assert_eq!(detector.suspects(Tick(5_001)), vec![SUSPECT], "it was there in between");
        detector.lead(Tick(6_000), Term(TERM.0 + 1));
        assert_eq!(detector.suspects(Tick(8_000)), vec![SUSPECT], "another term judges anew");
    }

    #[test]
    fn a_judge_that_was_late_does_not_answer_whom_it_has_proposed() {
        let mut detector = watching();
        assert_eq!(detector.suspects(Tick(2_000)), vec![SUSPECT]);
        detector.amnesty(Tick(9_000));
        assert!(!detector.heard(Tick(9_001), ONE, RUN), "it may be committed yet");
        detector.lead(Tick(9_002), TERM);
        assert!(!detector.heard(Tick(9_003), ONE, RUN), "and is no less in the term that it was proposed in");
        detector.acquit(Tick(9_004), ONE, Term(TERM.0 - 1));
        assert!(!detector.heard(Tick(9_005), ONE, RUN), "what became of another term's says nothing");
        detector.lead(Tick(9_006), Term(TERM.0 + 1));
        assert!(detector.heard(Tick(9_007), ONE, RUN), "in the next term it is void");
    }

    #[test]
    fn who_cannot_be_connected_to_is_not_waited_for() {
        let mut detector = watching();
        let lost = BTreeSet::from([ONE]);
        detector.unreachable(Tick(500), &lost);
        detector.unreachable(Tick(550), &lost);
        assert_eq!(detector.deadline(), Some(Tick(500 + LOST_MS)));
        assert_eq!(detector.suspects(Tick(500 + LOST_MS - 1)), vec![]);
        assert_eq!(detector.suspects(Tick(500 + LOST_MS)), vec![SUSPECT]);
        assert_eq!(detector.deadline(), None);
    }

    #[test]
    fn who_is_heard_of_or_connected_again_in_time_is_not_convicted() {
        let mut detector = watching();
        let lost = BTreeSet::from([ONE]);
        detector.unreachable(Tick(500), &lost);
        detector.heard(Tick(550), ONE, RUN);
        assert_eq!(detector.suspects(Tick(600)), vec![]);
        detector.unreachable(Tick(600), &lost);
        detector.unreachable(Tick(650), &BTreeSet::new());
        assert_eq!(detector.suspects(Tick(800)), vec![]);
    }

    #[test]
    fn a_judge_that_slept_does_not_convict() {
        let mut detector = watching();
        detector.amnesty(Tick(60_000));
        assert_eq!(detector.suspects(Tick(61_999)), vec![]);
    }

    #[test]
    fn a_new_run_gets_a_fresh_term_and_the_old_one_is_not_heard() {
        let mut detector = watching();
        detector.set_members(Tick(1_900), [(ONE, Incarnation(2))]);
        assert_eq!(detector.suspects(Tick(2_100)), vec![]);
        assert!(!detector.heard(Tick(2_100), ONE, RUN));
    }
}
