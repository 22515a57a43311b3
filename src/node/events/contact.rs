//! Whether this node is cut off: from whoever leads, or from members that are said to be up.
//!
//! Pure: is told now and then what the node sees, and says when something has changed. A node cannot know whether the
//! network is broken or the others have died; what it knows is that it had contact, lost it, and has it again. A
//! member that a leader has judged down is no longer missed: that is told of by the view.

use std::collections::BTreeSet;

use crate::ids::{NodeId, Tick};

/// What a node sees at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    /// Members that are up according to the view, without this node.
    pub(super) up: BTreeSet<NodeId>,
    /// Peers that it is connected to.
    pub(super) connected: BTreeSet<NodeId>,
    /// Whether it knows of a leader.
    pub(super) has_leader: bool,
}

/// What has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// It has been cut off for the whole patience.
    Noticed {
        /// Members that cannot be reached.
        unreachable: BTreeSet<NodeId>,
        /// No leader can either.
        leaderless: bool,
    },
    /// It is cut off no longer.
    Healed {
        /// Members that could not be reached and are connected again.
        reached: BTreeSet<NodeId>,
        /// From the first loss until now.
        lasted_ms: u64,
        /// From the first member that was reached again until now.
        recovery_ms: u64,
    },
}

/// A time of being cut off that was told.
#[derive(Debug)]
struct Noticed {
    since: Tick,
    cut_off: BTreeSet<NodeId>,
    was_leaderless: bool,
    /// Since when some of them have been reached again.
    reached_since: Option<Tick>,
}

/// What is remembered from one look to the next.
#[derive(Debug)]
pub(super) struct Contact {
    patience_ms: u64,
    /// Members that this run of the node was connected to.
    met: BTreeSet<NodeId>,
    has_had_leader: bool,
    /// Since when something has been missing.
    missing_since: Option<Tick>,
    noticed: Option<Noticed>,
    unreachable: usize,
}

impl Contact {
    /// Nobody was met yet. What is missing for less than the patience is not told.
    pub(super) fn new(patience_ms: u64) -> Self {
        Self {
            patience_ms,
            met: BTreeSet::new(),
            has_had_leader: false,
            missing_since: None,
            noticed: None,
            unreachable: 0,
        }
    }

    /// How many members are up and were lost.
    pub(super) fn unreachable(&self) -> usize {
        self.unreachable
    }

    /// Looks.
    pub(super) fn look(&mut self, now: Tick, sight: &Sight) -> Option<Change> {
        self.met.extend(sight.connected.intersection(&sight.up));
        self.met.retain(|peer| sight.up.contains(peer) || sight.connected.contains(peer));
        self.has_had_leader |= sight.has_leader;
        let unreachable: BTreeSet<NodeId> = self.met.difference(&sight.connected).copied().collect();
        let leaderless = self.has_had_leader && !sight.has_leader;
        self.unreachable = unreachable.len();
        if unreachable.is_empty() && !leaderless {
            self.missing_since = None;
            return self.noticed.take().and_then(|noticed| noticed.healed(now, sight));
        }
        let since = *self.missing_since.get_or_insert(now);
        match &mut self.noticed {
            Some(noticed) => {
                noticed.go_on(now, &unreachable, leaderless, sight);
                None
            }
            None if now.ms_since(since) >= self.patience_ms => {
                let noticed =
                    Noticed { since, cut_off: unreachable.clone(), was_leaderless: leaderless, reached_since: None };
                self.noticed = Some(noticed);
                Some(Change::Noticed { unreachable, leaderless })
            }
            None => None,
        }
    }
}

impl Noticed {
    fn go_on(&mut self, now: Tick, unreachable: &BTreeSet<NodeId>, leaderless: bool, sight: &Sight) {
        self.cut_off.extend(unreachable);
        self.was_leaderless |= leaderless;
        if self.cut_off.is_disjoint(&sight.connected) {
            self.reached_since = None;
        } else {
            self.reached_since.get_or_insert(now);
        }
    }

    /// `None`: all that has changed is that a leader has judged those down that were missed.
    fn healed(self, now: Tick, sight: &Sight) -> Option<Change> {
        let reached: BTreeSet<NodeId> = self.cut_off.intersection(&sight.connected).copied().collect();
        if reached.is_empty() && !self.was_leaderless {
            return None;
        }
        let recovering_since = if self.cut_off.is_empty() { self.since } else { self.reached_since.unwrap_or(now) };
        let (lasted_ms, recovery_ms) = (now.ms_since(self.since), now.ms_since(recovering_since));
        Some(Change::Healed { reached, lasted_ms, recovery_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn nodes(all: &[u8]) -> BTreeSet<NodeId> {
        all.iter().copied().map(node).collect()
    }

    fn sight(up: &[u8], connected: &[u8], has_leader: bool) -> Sight {
        Sight { up: nodes(up), connected: nodes(connected), has_leader }
    }

    /// A node that has met 2 and 3 at the start, with a patience of 2 s.
    fn met() -> Contact {
        let mut contact = Contact::new(2_000);
        assert_eq!(contact.look(Tick(0), &sight(&[2, 3], &[2, 3], true)), None);
        contact
    }

    #[test]
    fn who_is_cut_off_says_so_once_and_how_long_it_took() {
        let mut contact = met();
        let alone = sight(&[2, 3], &[], false);
        assert_eq!(contact.look(Tick(1_000), &alone), None);
        assert_eq!(contact.look(Tick(2_900), &alone), None, "not for long enough");
        let noticed = Change::Noticed { unreachable: nodes(&[2, 3]), leaderless: true };
        assert_eq!(contact.look(Tick(3_000), &alone), Some(noticed));
        assert_eq!((contact.look(Tick(4_000), &alone), contact.unreachable()), (None, 2));
        assert_eq!(contact.look(Tick(9_000), &sight(&[2, 3], &[2], false)), None, "one is back, and no leader");
        let healed = Change::Healed { reached: nodes(&[2, 3]), lasted_ms: 8_500, recovery_ms: 500 };
        assert_eq!(contact.look(Tick(9_500), &sight(&[2, 3], &[2, 3], true)), Some(healed));
        assert_eq!(contact.look(Tick(9_600), &sight(&[2, 3], &[2, 3], true)), None);
    }

    #[test]
    fn what_passes_within_the_patience_is_not_told() {
        let mut contact = met();
        for second in 1..20 {
            // Lost and found, in turn.
            let connected: &[u8] = if second % 2 == 0 { &[2, 3] } else { &[2] };
            assert_eq!(contact.look(Tick(second * 1_000), &sight(&[2, 3], connected, true)), None);
        }
    }

    #[test]
    fn a_member_that_died_is_judged_down_and_not_missed() {
        let mut contact = met();
        assert_eq!(contact.look(Tick(1_000), &sight(&[2, 3], &[2], true)), None);
        assert_eq!(contact.look(Tick(1_500), &sight(&[2], &[2], true)), None);
        assert_eq!(contact.look(Tick(60_000), &sight(&[2], &[2], true)), None);
        assert_eq!(contact.unreachable(), 0);
    }

    #[test]
    fn a_member_that_is_judged_down_late_has_healed_nothing() {
        let mut contact = met();
        contact.look(Tick(1_000), &sight(&[2, 3], &[2], true));
        let noticed = Change::Noticed { unreachable: nodes(&[3]), leaderless: false };
        assert_eq!(contact.look(Tick(3_000), &sight(&[2, 3], &[2], true)), Some(noticed));
        assert_eq!(contact.look(Tick(4_000), &sight(&[2], &[2], true)), None);
    }

    #[test]
    fn a_leader_that_is_missed_is_enough() {
        let mut contact = met();
        let leaderless = sight(&[2, 3], &[2, 3], false);
        contact.look(Tick(1_000), &leaderless);
        let noticed = Change::Noticed { unreachable: nodes(&[]), leaderless: true };
        assert_eq!(contact.look(Tick(3_000), &leaderless), Some(noticed));
        let healed = Change::Healed { reached: nodes(&[]), lasted_ms: 4_000, recovery_ms: 4_000 };
        assert_eq!(contact.look(Tick(5_000), &sight(&[2, 3], &[2, 3], true)), Some(healed));
    }

    #[test]
    fn who_was_never_met_is_not_missed() {
        let mut contact = Contact::new(2_000);
        for at in [0, 5_000] {
            assert_eq!(contact.look(Tick(at), &sight(&[2, 3], &[], false)), None);
        }
    }
}
