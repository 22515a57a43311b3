//! What this crate replicates: the control plane.

use super::types::Replicated;
use crate::{
    ids::{Term, Tick},
    machine::control::{Answer, Command, ControlState, Effect},
};

impl Replicated for ControlState {
    type Command = Command;
    type Answer = Answer;
    type Effect = Effect;

    fn apply(&mut self, at: Tick, term: Term, _: u64, command: Command, effects: &mut Vec<Effect>) -> Answer {
        Self::apply(self, at, term, command, effects)
    }

    #[cfg(test)]
    fn lose_counters(&mut self) {
        self.lose_token();
    }
}
