//! What the task remembers of a plan that it carries out step by step: since when that which is placed has been in its
//! epoch, when to look again, and the proposal whose effect is awaited.

use std::collections::BTreeMap;

use super::LOOK;
use crate::{
    ids::{Epoch, Tick},
    time::millis,
};

/// How long the effect of a proposal is waited for before the plan is made anew, in milliseconds.
const EFFECT_PATIENCE_MS: u64 = 1_000;

/// Of a plan that places what these ids name. One proposal is under way at a time.
#[derive(Debug)]
pub(super) struct Desk<Id> {
    epochs: BTreeMap<Id, (Epoch, Tick)>,
    /// When the plan is to be made again.
    look_at: Tick,
    /// The version of the view on which the last proposal was based, and how long its effect is waited for.
    proposed: Option<(u64, Tick)>,
    proposing: bool,
}

impl<Id> Default for Desk<Id> {
    fn default() -> Self {
        Self { epochs: BTreeMap::new(), look_at: Tick::default(), proposed: None, proposing: false }
    }
}

impl<Id: Ord + Copy> Desk<Id> {
    /// A view was installed, with these epochs.
    pub(super) fn saw(&mut self, now: Tick, epochs: impl Iterator<Item = (Id, Epoch)>) {
        let before = std::mem::take(&mut self.epochs);
        self.epochs = epochs
            .map(|(id, epoch)| {
                let known = before.get(&id).copied().filter(|(known, _)| *known == epoch);
                (id, known.unwrap_or((epoch, now)))
            })
            .collect();
        self.look_at = now;
    }

    /// Whether the plan is to be made now, from this version of the view.
    pub(super) fn is_due(&mut self, now: Tick, version: u64) -> bool {
        let awaits_effect = self.proposed.is_some_and(|(on, until)| on == version && now < until);
        if self.proposing || awaits_effect || now < self.look_at {
            return false;
        }
        self.look_at = now.plus_ms(millis(LOOK));
        true
    }

    /// Something is proposed on the base of this version of the view.
    pub(super) fn proposes(&mut self, now: Tick, version: u64) {
        self.proposing = true;
        self.proposed = Some((version, now.plus_ms(EFFECT_PATIENCE_MS)));
    }

    /// What was proposed has been answered, or is lost.
    pub(super) fn proposed(&mut self) {
        self.proposing = false;
    }

    /// For how long each has been in its epoch, in milliseconds.
    pub(super) fn in_epoch_ms(&self, now: Tick) -> BTreeMap<Id, u64> {
        self.epochs.iter().map(|(id, (_, since))| (*id, now.ms_since(*since))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(now: Tick) -> Tick {
        now.plus_ms(millis(LOOK))
    }

    #[test]
    fn an_epoch_lasts_until_another_is_seen() {
        let mut desk = Desk::default();
        desk.saw(Tick(10), [(1, Epoch(1)), (2, Epoch(1))].into_iter());
        desk.saw(Tick(30), [(1, Epoch(1)), (2, Epoch(2))].into_iter());
        assert_eq!(desk.in_epoch_ms(Tick(50)), BTreeMap::from([(1, 40), (2, 20)]));
        desk.saw(Tick(60), [(2, Epoch(2))].into_iter());
        assert_eq!(desk.in_epoch_ms(Tick(60)), BTreeMap::from([(2, 30)]));
    }

    #[test]
    fn one_proposal_is_under_way_and_its_effect_is_awaited_for_a_while() {
        let mut desk = Desk::<u8>::default();
        assert!(desk.is_due(Tick(0), 7));
        assert!(!desk.is_due(Tick(0), 7), "it was just looked");
        desk.proposes(Tick(0), 7);
        let now = look(Tick(0));
        assert!(!desk.is_due(now, 7), "it is not answered");
        desk.proposed();
        assert!(!desk.is_due(now, 7), "its effect is not seen");
        assert!(desk.is_due(now, 8), "it is");
        let late = look(Tick(EFFECT_PATIENCE_MS)).max(look(now));
        assert!(desk.is_due(late, 7), "it is not expected any more");
    }
}
