//! Shorthands to bring a [`World`] to where something is to begin.

use super::{Action, Asking, Envelope, World, index};

impl World {
    /// Whatever is under way arrives and is done, until nothing is left but waiting.
    pub(in super::super) fn settle(&mut self) {
        loop {
            let mut actions = Vec::new();
            self.actions(&mut actions);
            let next = actions.into_iter().find(Action::is_ordinary);
            match next {
                Some(action) => self.happen(&action),
                None => return,
            }
        }
    }

    /// What this node asked that one arrives, oldest first.
    pub(in super::super) fn asks_arrive(&mut self, asker: usize, asked: usize) {
        let mut asks: Vec<(u64, u64)> = Vec::new();
        for (key, envelope) in &self.network.0 {
            match &**envelope {
                Envelope::Ask { from, to, call, .. } if (index(&from.node), *to) == (asker, asked) => {
                    asks.push((*call, *key));
                }
                _ => {}
            }
        }
        asks.sort_unstable();
        asks.iter().for_each(|(_, envelope)| self.happen(&Action::Deliver { envelope: *envelope }));
    }

    /// What that node answered this one arrives.
    pub(in super::super) fn answers_arrive(&mut self, answerer: usize, asker: usize) {
        let is_one = |envelope: &Envelope| matches!(envelope, Envelope::Answer { to, from, .. } if (*from, *to) == (answerer, asker));
        let answers: Vec<u64> = self.network.0.iter().filter(|(_, it)| is_one(it)).map(|(key, _)| *key).collect();
        answers.iter().for_each(|envelope| self.happen(&Action::Deliver { envelope: *envelope }));
    }

    /// The journal of a node does all that it was told.
    pub(in super::super) fn journal(&mut self, node: usize) {
        while !self.nodes[node].disk.writes.is_empty() {
            self.happen(&Action::Write { node });
        }
    }

    /// A node gets to know the newest placement.
    pub(in super::super) fn look(&mut self, node: usize) {
        let epoch = self.control.now().epoch;
        self.happen(&Action::View { node, epoch });
    }

    /// The control plane answers the requests of a node, which does not hear of it.
    pub(in super::super) fn requests_apply(&mut self, node: usize) {
        let askings: Vec<Asking> = self.control.pending.keys().filter(|it| it.from == node).copied().collect();
        askings.iter().for_each(|asking| self.happen(&Action::Apply { asking: *asking }));
    }

    /// The control plane answers the requests of a node, and it hears of that.
    pub(in super::super) fn requests_answered(&mut self, node: usize) {
        self.requests_apply(node);
        self.outcomes_arrive(node);
    }

    /// The requests of a node have an outcome that it does not know.
    pub(in super::super) fn requests_unknown(&mut self, node: usize) {
        let askings: Vec<Asking> = self.control.pending.keys().filter(|it| it.from == node).copied().collect();
        askings.iter().for_each(|asking| self.happen(&Action::Unknown { asking: *asking }));
    }

    /// What a node asked the control plane for is answered.
    pub(in super::super) fn outcomes_arrive(&mut self, node: usize) {
        let is_one = |envelope: &Envelope| matches!(envelope, Envelope::Outcome { to, .. } if *to == node);
        let outcomes: Vec<u64> = self.network.0.iter().filter(|(_, it)| is_one(it)).map(|(key, _)| *key).collect();
        outcomes.iter().for_each(|envelope| self.happen(&Action::Deliver { envelope: *envelope }));
    }
}
