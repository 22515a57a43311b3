//! Which change of Raft's membership is wanted next.
//!
//! Pure: the leader calls [`decide`] when something changed and every now and then, and carries out
//! the one change that it names. New lock managers become learners, then voters once they have caught
//! up and been stable; at most [`MAX_VOTERS`], an odd number preferred. The dead lose their vote where
//! the rest keeps a quorum, and are replaced where there is somebody.

use std::collections::{BTreeMap, BTreeSet};

use super::membership::Liveness;
use crate::ids::NodeId;

/// Most voters; further lock managers stay learners, ready to replace one.
pub const MAX_VOTERS: usize = 7;
/// A voter that drains is demoted only while more live voters than this are left.
pub const FEWEST_AFTER_DRAIN: usize = 3;
/// A learner that is at most so many log entries behind has caught up.
pub const CAUGHT_UP_ENTRIES: u64 = 128;
/// A learner must have been there for so long before it votes, in milliseconds.
pub const STABLE_MS: u64 = 2_000;

/// A lock manager, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its liveness in the replicated state.
    pub liveness: Liveness,
    /// For how long it has been so, by the leader's own clock, in milliseconds.
    pub since_ms: u64,
    /// Log entries that it is behind; none while unknown.
    pub trails_by: Option<u64>,
}

/// What a decision is made from.
#[derive(Clone, Debug)]
pub struct Situation {
    /// The leader that asks.
    pub leader: NodeId,
    /// All lock managers listed, and the voters that are not: founders that have not joined yet are
    /// down since this leader took office.
    pub lock_managers: BTreeMap<NodeId, Candidate>,
    /// Who votes now.
    pub voters: BTreeSet<NodeId>,
    /// Who only follows now.
    pub learners: BTreeSet<NodeId>,
    /// The voters to which a change leads that a former leader left half done.
    pub halfway: Option<BTreeSet<NodeId>>,
    /// `MEMBER_DEAD_TIMEOUT` in milliseconds.
    pub dead_after_ms: u64,
}

/// The change that is wanted next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RaftChange {
    /// Begin to send the log to this node.
    AddLearner(NodeId),
    /// Make exactly these the voters; who loses its vote stays a learner.
    SetVoters(BTreeSet<NodeId>),
    /// Stop sending the log to this node.
    RemoveLearner(NodeId),
    /// Have this voter lead.
    HandOver(NodeId),
}

/// The next change, if any is wanted and safe. What was left half done is finished first: until then
/// both the old and the new voters are needed for everything. A leader without a vote, or that has left, hands over next:
/// it must not change what it is itself no part of. (Who lost its vote and had not heard that this was committed can be elected yet.)
pub fn decide(now: &Situation) -> Option<RaftChange> {
    let finish = || now.halfway.clone().map(RaftChange::SetVoters);
    let hand_over = || now.voter_instead_of_leader().map(RaftChange::HandOver);
    finish()
        .or_else(hand_over)
        .or_else(|| now.newcomer())
        .or_else(|| now.departure())
        .or_else(|| now.promotion())
        .or_else(|| now.parity())
}

impl Situation {
    fn is(&self, node: &NodeId, wanted: Liveness) -> bool {
        self.lock_managers.get(node).is_some_and(|candidate| candidate.liveness == wanted)
    }

    /// Dead for long, gone for good, or never listed.
    fn is_lost(&self, node: &NodeId) -> bool {
        match self.lock_managers.get(node) {
            None => true,
            Some(candidate) => match candidate.liveness {
                Liveness::Left => true,
                Liveness::Down => candidate.since_ms >= self.dead_after_ms,
                Liveness::Up | Liveness::Draining => false,
            },
        }
    }

    fn live(&self, voters: &BTreeSet<NodeId>) -> usize {
        voters.iter().filter(|node| self.is(node, Liveness::Up) || self.is(node, Liveness::Draining)).count()
    }

    /// Whether a set of voters can decide with those who are live.
    fn keeps_quorum(&self, voters: &BTreeSet<NodeId>) -> bool {
        !voters.is_empty() && self.live(voters) > voters.len() / 2
    }

    /// Learners that may vote, the most stable first.
    fn ready(&self) -> Vec<NodeId> {
        let ready = |node: &&NodeId| {
            self.lock_managers.get(*node).is_some_and(|candidate| {
                candidate.liveness == Liveness::Up
                    && candidate.since_ms >= STABLE_MS
                    && candidate.trails_by.is_some_and(|entries| entries <= CAUGHT_UP_ENTRIES)
            })
        };
        let mut nodes: Vec<_> = self.learners.iter().filter(ready).copied().collect();
        nodes.sort_by_key(|node| std::cmp::Reverse(self.lock_managers[node].since_ms));
        nodes
    }

    /// Where the leader has no vote, or has left, the voter that is up and has most of the log. (Who leaves can be made the
    /// leader yet, by an election or by hand. One that drains hands over itself.)
    fn voter_instead_of_leader(&self) -> Option<NodeId> {
        if self.voters.contains(&self.leader) && !self.is(&self.leader, Liveness::Left) {
            return None;
        }
        let up = self.voters.iter().filter(|node| self.is(node, Liveness::Up));
        up.min_by_key(|node| self.lock_managers[*node].trails_by.unwrap_or(u64::MAX)).copied()
    }

    fn newcomer(&self) -> Option<RaftChange> {
        let known = |node: &NodeId| *node == self.leader || self.voters.contains(node) || self.learners.contains(node);
        let newcomer = |(node, candidate): &(&NodeId, &Candidate)| candidate.liveness == Liveness::Up && !known(node);
        self.lock_managers.iter().find(newcomer).map(|(node, _)| RaftChange::AddLearner(*node))
    }

    fn departure(&self) -> Option<RaftChange> {
        if let Some(learner) = self.learners.iter().find(|node| **node != self.leader && self.is_lost(node)) {
            return Some(RaftChange::RemoveLearner(*learner));
        }
        let lost = self.voters.iter().find(|node| **node != self.leader && self.is_lost(node));
        let draining = || {
            let spare = self.live(&self.voters) > FEWEST_AFTER_DRAIN || !self.ready().is_empty();
            self.voters.iter().find(|node| spare && **node != self.leader && self.is(node, Liveness::Draining))
        };
        let leaving = lost.or_else(draining)?;
        let mut voters = self.voters.clone();
        voters.remove(leaving);
        if let Some(replacement) = self.ready().first() {
            voters.insert(*replacement);
        }
        self.keeps_quorum(&voters).then_some(RaftChange::SetVoters(voters))
    }

    fn promotion(&self) -> Option<RaftChange> {
        let ready = self.ready();
        let most = (self.voters.len() + ready.len()).min(MAX_VOTERS);
        let target = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
        if target <= self.voters.len() {
            return None;
        }
        let voters: BTreeSet<_> =
            self.voters.iter().copied().chain(ready.into_iter().take(target - self.voters.len())).collect();
        self.keeps_quorum(&voters).then_some(RaftChange::SetVoters(voters))
    }

    /// Four live voters survive no more than three do, and need one more answer for each write.
    fn parity(&self) -> Option<RaftChange> {
        let count = self.voters.len();
        let all_up = self.voters.iter().all(|node| self.is(node, Liveness::Up));
        if count <= FEWEST_AFTER_DRAIN || !count.is_multiple_of(2) || !all_up {
            return None;
        }
        let mut voters = self.voters.clone();
        let last = *voters.iter().rev().find(|node| **node != self.leader)?;
        voters.remove(&last);
        Some(RaftChange::SetVoters(voters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn set(nodes: &[u8]) -> BTreeSet<NodeId> {
        nodes.iter().map(|n| node(*n)).collect()
    }

    /// Voters and learners that are all up, stable and caught up; node 0 leads.
    fn calm(voters: &[u8], learners: &[u8]) -> Situation {
        let candidate = Candidate { liveness: Liveness::Up, since_ms: 60_000, trails_by: Some(0) };
        Situation {
            leader: node(0),
            lock_managers: voters.iter().chain(learners).map(|n| (node(*n), candidate.clone())).collect(),
            voters: set(voters),
            learners: set(learners),
            halfway: None,
            dead_after_ms: 60_000,
        }
    }

    fn with(mut situation: Situation, n: u8, liveness: Liveness, since_ms: u64) -> Situation {
        let trails_by = Some(0);
        situation.lock_managers.insert(node(n), Candidate { liveness, since_ms, trails_by });
        situation
    }

    #[test]
    fn a_calm_cluster_of_odd_size_is_left_alone() {
        assert_eq!(decide(&calm(&[0, 1, 2], &[])), None);
        assert_eq!(decide(&calm(&[0], &[1])), None, "two voters would survive less than one");
    }

    #[test]
    fn what_a_former_leader_left_half_done_is_finished_first() {
        let left = Situation { halfway: Some(set(&[0, 1])), ..with(calm(&[0, 1, 2], &[]), 3, Liveness::Up, 0) };
        assert_eq!(decide(&left), Some(RaftChange::SetVoters(set(&[0, 1]))));
    }

    #[test]
    fn a_newcomer_becomes_a_learner_first() {
        let situation = with(calm(&[0, 1, 2], &[]), 3, Liveness::Up, 0);
        assert_eq!(decide(&situation), Some(RaftChange::AddLearner(node(3))));
    }

    #[test]
    fn two_learners_make_five_voters_but_one_waits() {
        assert_eq!(decide(&calm(&[0, 1, 2], &[3])), None);
        assert_eq!(decide(&calm(&[0, 1, 2], &[3, 4])), Some(RaftChange::SetVoters(set(&[0, 1, 2, 3, 4]))));
    }

    #[test]
    fn a_learner_that_trails_or_has_just_come_does_not_vote() {
        let mut trailing = calm(&[0, 1], &[2]);
        trailing.lock_managers.get_mut(&node(2)).expect("listed").trails_by = Some(CAUGHT_UP_ENTRIES + 1);
        assert_eq!(decide(&trailing), None);
        assert_eq!(decide(&with(calm(&[0, 1], &[2]), 2, Liveness::Up, STABLE_MS - 1)), None);
    }

    #[test]
    fn there_are_never_more_than_seven_voters() {
        assert_eq!(decide(&calm(&[0, 1, 2, 3, 4, 5, 6], &[7, 8])), None);
    }

    #[test]
    fn the_silent_keep_their_vote_and_the_dead_lose_it() {
        let silent = with(calm(&[0, 1, 2], &[]), 2, Liveness::Down, 59_999);
        assert_eq!(decide(&silent), None);
        let dead = with(calm(&[0, 1, 2], &[]), 2, Liveness::Down, 60_000);
        assert_eq!(decide(&dead), Some(RaftChange::SetVoters(set(&[0, 1]))));
    }

    #[test]
    fn the_dead_are_replaced_where_there_is_somebody() {
        let dead = with(calm(&[0, 1, 2], &[3]), 2, Liveness::Down, 60_000);
        assert_eq!(decide(&dead), Some(RaftChange::SetVoters(set(&[0, 1, 3]))));
    }

    #[test]
    fn nobody_loses_a_vote_where_the_rest_could_not_decide() {
        let mut situation = calm(&[0, 1, 2, 3, 4], &[]);
        for n in [2, 3, 4] {
            situation = with(situation, n, Liveness::Down, 90_000);
        }
        assert_eq!(decide(&situation), None);
    }

    #[test]
    fn scaling_from_five_to_three_demotes_those_who_drain() {
        let situation = with(calm(&[0, 1, 2, 3, 4], &[]), 4, Liveness::Draining, 10);
        assert_eq!(decide(&situation), Some(RaftChange::SetVoters(set(&[0, 1, 2, 3]))));
        let situation = with(calm(&[0, 1, 2, 3], &[]), 3, Liveness::Draining, 10);
        assert_eq!(decide(&situation), Some(RaftChange::SetVoters(set(&[0, 1, 2]))));
        let situation = with(calm(&[0, 1, 2], &[]), 2, Liveness::Draining, 10);
        assert_eq!(decide(&situation), None, "three is the fewest that are left by themselves");
    }

    #[test]
    fn who_left_is_removed() {
        let situation = with(calm(&[0, 1, 2], &[3]), 3, Liveness::Left, 10);
        assert_eq!(decide(&situation), Some(RaftChange::RemoveLearner(node(3))));
        let situation = with(calm(&[0, 1, 2], &[]), 1, Liveness::Left, 10);
        assert_eq!(decide(&situation), Some(RaftChange::SetVoters(set(&[0, 2]))));
    }

    #[test]
    fn a_leader_that_has_left_hands_over_and_one_that_drains_or_is_taken_for_down_does_not() {
        for (liveness, hands_over) in [(Liveness::Draining, false), (Liveness::Left, true), (Liveness::Down, false)] {
            let mut situation = with(calm(&[0, 1, 2], &[]), 0, liveness, 1);
            situation.lock_managers.get_mut(&node(1)).expect("listed").trails_by = Some(9);
            let wanted = hands_over.then_some(RaftChange::HandOver(node(2)));
            assert_eq!(decide(&situation), wanted, "{liveness:?}");
            for n in [1, 2] {
                situation = with(situation, n, Liveness::Draining, 1);
            }
            assert_eq!(decide(&situation), None, "nobody is there to take over");
        }
    }

    #[test]
    fn a_leader_without_a_vote_hands_over_and_never_removes_itself() {
        let mut situation = with(calm(&[1, 2, 3], &[0]), 1, Liveness::Down, 90_000);
        situation.lock_managers.get_mut(&node(2)).expect("listed").trails_by = Some(9);
        assert_eq!(decide(&situation), Some(RaftChange::HandOver(node(3))), "it is up and has most");
        let halfway = Situation { halfway: Some(set(&[1, 2, 3])), ..situation.clone() };
        assert_eq!(decide(&halfway), Some(RaftChange::SetVoters(set(&[1, 2, 3]))));
        for n in [2, 3] {
            situation = with(situation, n, Liveness::Down, 90_000);
        }
        for liveness in [Liveness::Up, Liveness::Down, Liveness::Left] {
            let mut alone = with(situation.clone(), 0, liveness, 90_000);
            assert_eq!(decide(&alone), None, "nobody is there to take over");
            alone.learners.clear();
            assert_eq!(decide(&alone), None);
        }
    }

    #[test]
    fn four_calm_voters_become_three() {
        assert_eq!(decide(&calm(&[0, 1, 2, 3], &[])), Some(RaftChange::SetVoters(set(&[0, 1, 2]))));
    }
}
