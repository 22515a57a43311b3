//! A backup comes back into the state, step by step.

use super::{Answer, ControlState, Effect};
use crate::{
    ids::{RequestId, Tick},
    machine::{
        backup::{Onto, RestoreAnswer, RestoreStep, Restored, Restoring},
        lock::{LockAnswer, Refusal, token_floor},
    },
};

impl ControlState {
    /// One step of putting a backup back. The lock table changes in the last one only, as a whole.
    pub(super) fn restore(
        &mut self,
        at: Tick,
        request: RequestId,
        step: RestoreStep,
        effects: &mut Vec<Effect>,
    ) -> RestoreAnswer {
        match step {
            RestoreStep::Begin { onto, .. } | RestoreStep::Finish { onto, .. } if self.is_occupied(onto) => {
                RestoreAnswer::Occupied(self.locks.record_counts())
            }
            RestoreStep::Begin { header, .. } => match Restoring::begin(request, self.passed, &header) {
                Ok(begun) => {
                    self.restoring = Some(Box::new(begun));
                    RestoreAnswer::Taken
                }
                Err(why) => RestoreAnswer::Bad(why),
            },
            RestoreStep::Part { restore, number, records } => match self.staged(restore) {
                None => RestoreAnswer::Superseded,
                Some(mut restoring) => match restoring.part(number, records) {
                    Ok(()) => {
                        self.restoring = Some(restoring);
                        RestoreAnswer::Taken
                    }
                    Err(why) => RestoreAnswer::Bad(why),
                },
            },
            RestoreStep::Finish { restore, .. } => match self.staged(restore) {
                None => RestoreAnswer::Superseded,
                Some(restoring) => self.put_back(at, *restoring, effects),
            },
            RestoreStep::Cancel { restore } => {
                self.staged(restore);
                RestoreAnswer::Taken
            }
        }
    }

    fn is_occupied(&self, onto: Onto) -> bool {
        onto == Onto::EmptyState && self.locks.has_state()
    }

    /// Takes out what was begun by this request, if that is what is being put back.
    fn staged(&mut self, begun_by: RequestId) -> Option<Box<Restoring>> {
        self.restoring.take_if(|restoring| restoring.is(begun_by))
    }

    fn put_back(&mut self, at: Tick, restoring: Restoring, effects: &mut Vec<Effect>) -> RestoreAnswer {
        let table = match restoring.finish() {
            Ok(table) => table,
            Err(why) => return RestoreAnswer::Bad(why),
        };
        let replaced = self.locks.record_counts();
        let over = Answer::Lock(LockAnswer::Refused(Refusal::SessionExpired));
        for request in self.locks.replace_with(table) {
            self.answers.settle(self.passed, request, over.clone());
        }
        self.locks.raise_token(token_floor(self.locks.token().0, at.0 / 1000));
        effects.push(Effect::Restored);
        let (counts, token) = (self.locks.record_counts(), self.locks.token().0);
        RestoreAnswer::Restored(Restored { counts, replaced, token })
    }
}

#[cfg(test)]
mod tests;
