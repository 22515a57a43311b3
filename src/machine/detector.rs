//! The leader's judgement of who is there, by silence.
//!
//! Members heartbeat to the leader; who is silent for `FAILURE_TIMEOUT` on the leader's monotonic
//! clock is proposed as down, naming the incarnation that was silent. After an election, and when
//! the leader's own timer was late (it may have been the one that was paused), everyone gets a
//! fresh term: a judge that slept must not convict.

use std::collections::BTreeMap;

use crate::ids::{Incarnation, NodeId, Tick};

/// After how many milliseconds a suspicion that could not be committed is raised again.
const RETRY_MS: u64 = 250;

/// A member that is to be proposed as down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suspect {
    /// The silent node.
    pub node: NodeId,
    /// The run of it that is silent.
    pub incarnation: Incarnation,
}

#[derive(Clone, Debug)]
struct Watched {
    incarnation: Incarnation,
    heard: Tick,
    proposed: bool,
}

/// The watch that a leader keeps; empty on everyone else.
#[derive(Clone, Debug)]
pub struct Detector {
    failure_timeout_ms: u64,
    watched: BTreeMap<NodeId, Watched>,
}

impl Detector {
    /// A detector that nobody is watched by yet.
    pub fn new(failure_timeout_ms: u64) -> Self {
        Self { failure_timeout_ms, watched: BTreeMap::new() }
    }

    /// The serving members have changed: watches the new ones from now on, forgets the others.
    pub fn set_members(&mut self, now: Tick, members: impl IntoIterator<Item = (NodeId, Incarnation)>) {
        let mut before = std::mem::take(&mut self.watched);
        for (node, incarnation) in members {
            let watched = match before.remove(&node) {
                Some(known) if known.incarnation == incarnation => known,
                _ => Watched { incarnation, heard: now, proposed: false },
            };
            self.watched.insert(node, watched);
        }
    }

    /// Everyone gets a fresh term: after an election, or when our own timer was late.
    pub fn amnesty(&mut self, now: Tick) {
        for watched in self.watched.values_mut() {
            watched.heard = now;
            watched.proposed = false;
        }
    }

    /// A heartbeat. `false`: this run of the node has been proposed as down, or is not known as
    /// serving; it must join again before it is answered.
    pub fn heard(&mut self, now: Tick, node: NodeId, incarnation: Incarnation) -> bool {
        match self.watched.get_mut(&node) {
            Some(watched) if watched.incarnation == incarnation && !watched.proposed => {
                watched.heard = now;
                true
            }
            _ => false,
        }
    }

    /// When a node was last heard of, or first watched.
    pub fn last_heard(&self, node: NodeId) -> Option<Tick> {
        self.watched.get(&node).map(|watched| watched.heard)
    }

    /// Who has been silent for too long and was not proposed yet.
    pub fn suspects(&mut self, now: Tick) -> Vec<Suspect> {
        let mut suspects = Vec::new();
        for (&node, watched) in &mut self.watched {
            if !watched.proposed && now.ms_since(watched.heard) >= self.failure_timeout_ms {
                watched.proposed = true;
                suspects.push(Suspect { node, incarnation: watched.incarnation });
            }
        }
        suspects
    }

    /// A proposal came to nothing: the node may be heard again, or suspected after [`RETRY_MS`].
    pub fn acquit(&mut self, now: Tick, node: NodeId) {
        if let Some(watched) = self.watched.get_mut(&node) {
            watched.proposed = false;
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

    fn watching() -> Detector {
        let mut detector = Detector::new(2_000);
        detector.set_members(Tick(0), [(ONE, RUN)]);
        detector
    }

    #[test]
    fn silence_for_the_whole_timeout_is_proposed_once() {
        let mut detector = watching();
        assert!(detector.heard(Tick(500), ONE, RUN));
        assert_eq!(detector.suspects(Tick(2_499)), vec![]);
        assert_eq!(detector.suspects(Tick(2_500)), vec![Suspect { node: ONE, incarnation: RUN }]);
        assert_eq!(detector.suspects(Tick(9_000)), vec![]);
    }

    #[test]
    fn no_heartbeat_is_honoured_once_down_is_proposed() {
        let mut detector = watching();
        detector.suspects(Tick(2_000));
        assert!(!detector.heard(Tick(2_001), ONE, RUN));
        detector.acquit(Tick(2_001), ONE);
        assert!(detector.heard(Tick(2_002), ONE, RUN));
    }

    #[test]
    fn a_suspicion_that_could_not_be_committed_is_raised_again_after_a_pause() {
        let mut detector = watching();
        detector.suspects(Tick(5_000));
        detector.acquit(Tick(5_000), ONE);
        assert_eq!(detector.suspects(Tick(5_000 + RETRY_MS - 1)), vec![]);
        assert_eq!(detector.suspects(Tick(5_000 + RETRY_MS)).len(), 1);
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
