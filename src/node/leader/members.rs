//! How the task judges members: who is down, who votes, who is forgotten.

use std::collections::BTreeMap;

use tracing::{debug, warn};

use super::{LeaderTask, Outcome, effects::propose_for_certain, handle::view_of};
use crate::{
    ids::{NodeId, Role, Term, Tick},
    machine::{
        autopilot::{self, Candidate, RaftChange, Situation},
        control::Command,
        membership::{Liveness, MemberChange},
        requests::STEP_MS,
    },
    raft::{Changing, RaftStatus},
    time::millis,
};

impl LeaderTask {
    pub(super) fn suspect(&mut self, now: Tick) {
        let Some(term) = self.term_led() else { return };
        self.detector.unreachable(now, &self.links.borrow().unreachable);
        for suspect in self.detector.suspects(now) {
            if suspect.node == self.parts.me {
                self.detector.acquit(now, suspect.node, term);
                continue;
            }
            // One line a silence. A leader that has lost its quorum has to propose it over and over.
            match suspect.again {
                false => {
                    warn!(peer = %suspect.node, "has not been heard of for the failure timeout, or cannot be connected to any more: down")
                }
                true => debug!(peer = %suspect.node, "is still silent, and could not be put down: proposed again"),
            }
            let raft = self.parts.raft.clone();
            let (node, incarnation) = (suspect.node, suspect.incarnation);
            let down = Command::Member(MemberChange::Down { node, incarnation, term: Some(term) });
            self.work.spawn(async move {
                let failed = !propose_for_certain(&raft, down).await;
                Outcome::DownProposed { node, term, failed }
            });
        }
    }

    pub(super) fn read_view(&mut self) {
        self.reading_view = true;
        self.view_stale = false;
        let raft = self.parts.raft.clone();
        self.work.spawn(async move { Outcome::ViewRead(view_of(&raft).map(Box::new)) });
    }

    pub(super) fn watch_members(&mut self, now: Tick) {
        let view = self.parts.route.view();
        let serving = view.members.iter().filter(|(_, member)| member.serves());
        self.detector.set_members(now, serving.map(|(node, member)| (*node, member.joiner.incarnation)));
        let mut before = std::mem::take(&mut self.seen);
        for (node, member) in &view.members {
            let known = before.remove(node).filter(|(liveness, _)| *liveness == member.liveness);
            self.seen.insert(*node, known.unwrap_or((member.liveness, now)));
        }
        self.placement.saw(now, view.partitions.iter().map(|(id, partition)| (*id, partition.epoch)));
        self.slots.saw(now, view.slots.iter().map(|(id, slot)| (*id, slot.epoch)));
    }

    pub(super) fn change_voters(&mut self, now: Tick) {
        if self.changing || now < self.change_at {
            return;
        }
        let view = self.parts.route.view();
        let status = self.status.borrow().clone();
        let halfway = match &status.changing {
            Changing::UnderWay => return,
            Changing::Halfway(voters) => Some(voters.clone()),
            Changing::Settled => None,
        };
        let candidate = |node: &NodeId, liveness: Liveness| Candidate {
            liveness,
            since_ms: self.seen.get(node).map_or(0, |(_, since)| now.ms_since(*since)),
            trails_by: trails_by(&status).get(node).copied(),
        };
        let listed = view.members.iter().filter(|(_, member)| member.has_role(Role::LockManager));
        let mut lock_managers: BTreeMap<_, _> =
            listed.map(|(node, member)| (*node, candidate(node, member.liveness))).collect();
        // A founder that has not joined yet has as long to come as a member that is down.
        for node in &status.voters {
            let since_ms = now.ms_since(self.office_since);
            lock_managers.entry(*node).or_insert(Candidate { liveness: Liveness::Down, since_ms, trails_by: None });
        }
        let situation = Situation {
            leader: self.parts.me,
            lock_managers,
            voters: status.voters.clone(),
            learners: status.learners.clone(),
            halfway,
            dead_after_ms: millis(self.parts.settings.member_dead_timeout),
        };
        let Some(change) = autopilot::decide(&situation) else { return };
        self.changing = true;
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            let outcome = match change.clone() {
                RaftChange::AddLearner(node) => raft.add_learner(node).await.map_err(|error| error.to_string()),
                RaftChange::SetVoters(voters) => raft.change_voters(voters).await.map_err(|error| error.to_string()),
                RaftChange::RemoveLearner(node) => raft.remove_learner(node).await.map_err(|error| error.to_string()),
                RaftChange::HandOver(node) => raft.transfer_leader(node).await.map_err(|error| error.to_string()),
            };
            Outcome::RaftChanged { change, error: outcome.err() }
        });
    }

    /// Counts the time in office, while anything ages by it. What passes while an entry is on its way,
    /// or without a leader, is not counted: what ages, is remembered so much longer.
    pub(super) fn count_time(&mut self, now: Tick, term: Term) {
        if self.counting || now.ms_since(self.counted) < STEP_MS {
            return;
        }
        self.counted = now;
        if !self.quorum.is_there() || !self.parts.raft.with_state(|state, _| state.counts_time()).unwrap_or(false) {
            return;
        }
        self.counting = true;
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            // A step that is lost was not counted.
            let _ = raft.propose(vec![Command::Passed(term)]).await;
            Outcome::Counted
        });
    }

    /// By this node's own boot-time clock since it saw them go: wall clocks may jump.
    pub(super) fn forget(&mut self, now: Tick) {
        if self.forgetting {
            return;
        }
        let limit = millis(self.parts.settings.member_forget_timeout);
        let view = self.parts.route.view();
        let old = view.members.iter().filter(|(node, member)| {
            let gone = self.seen.get(node).is_some_and(|(_, since)| now.ms_since(*since) >= limit);
            gone && !member.serves() && !view.voters.contains(node)
        });
        let old: Vec<_> = old.map(|(node, member)| (*node, member.since)).collect();
        if old.is_empty() {
            return;
        }
        self.forgetting = true;
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            // Tried again at the next look where it failed.
            let _ = raft.propose(vec![Command::Member(MemberChange::Forget(old))]).await;
            Outcome::Forgot
        });
    }
}

pub(super) fn trails_by(status: &RaftStatus) -> BTreeMap<NodeId, u64> {
    let behind = |matched: u64| status.last_log_index.saturating_sub(matched);
    status.followers.iter().map(|(node, follower)| (*node, behind(follower.matched))).collect()
}
