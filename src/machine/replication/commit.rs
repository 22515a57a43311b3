//! What is committed: what every member of the in-sync set holds, whoever left it before that was confirmed, and whoever
//! is about to join.

use super::{Effect, Replica, Replication, Rule, primary::Reign};

impl Replication {
    /// Who must hold a record before it is committed, this replica included.
    pub(super) fn counted(&self) -> Vec<Replica> {
        let mut counted = self.view.holders.clone();
        if !self.rules.keep(Rule::LeavingCountsUntilConfirmed) {
            let leaving = self.asked.as_ref().map(|asked| asked.leaving()).unwrap_or_default();
            counted.retain(|replica| self.view.in_sync.contains(replica) && !leaving.contains(replica));
        }
        let joiner = self.reign.as_ref().and_then(|reign| reign.joiner);
        counted.extend(joiner.filter(|_| self.rules.keep(Rule::GrowCountsFromProposal)).map(|joiner| joiner.replica));
        counted
    }

    /// A primary commits what it can.
    pub(super) fn advance(&mut self, effects: &mut Vec<Effect>) {
        let Some(reign) = &self.reign else { return };
        let mine = self.held(Rule::PrimarySyncs);
        let upto = match self.rules.keep(Rule::EveryMemberHolds) {
            true => self.counted().iter().map(|replica| self.held_by(reign, replica)).min().unwrap_or(0).min(mine),
            false => mine,
        };
        self.commit(upto, effects);
        let committed = self.log.committed();
        let Some(reign) = &mut self.reign else { return };
        while reign.proposals.front().is_some_and(|(seq, _)| *seq <= committed) {
            reign.proposals.pop_front();
        }
        if !reign.serving && committed >= reign.first {
            reign.serving = true;
            effects.push(Effect::Serving);
        }
    }

    /// Up to where a replica holds everything, as it said in this reign.
    pub(super) fn held_by(&self, reign: &Reign, replica: &Replica) -> u64 {
        if *replica == self.me {
            return self.held(Rule::PrimarySyncs);
        }
        let follower = reign.followers.get(&replica.node);
        let is_it = |known: Option<Replica>| known == Some(*replica) || !self.rules.keep(Rule::AnswerAsNamed);
        follower.filter(|follower| is_it(follower.replica)).map_or(0, |follower| follower.held)
    }

    /// Everything up to this record is committed.
    pub(super) fn commit(&mut self, upto: u64, effects: &mut Vec<Effect>) {
        if upto > self.log.committed() {
            effects.push(Effect::Commit { records: self.log.commit(upto) });
        }
    }
}
