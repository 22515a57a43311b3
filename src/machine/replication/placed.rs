//! A newer placement: who this replica is in it, and what of its knowledge outlasts the change.

use super::{Effect, Replication, Rule, view::View};
use crate::{ids::Tick, machine::placement::Partition};

impl Replication {
    /// The control plane committed this placement.
    pub(super) fn placed(&mut self, now: Tick, partition: &Partition, effects: &mut Vec<Effect>) {
        if partition.epoch <= self.view.epoch {
            return;
        }
        let was_primary = self.reign.is_some();
        let follows_directly = partition.epoch == self.view.epoch.next();
        self.view = View::new(partition);
        // What was asked was based on an older epoch: it is done, or void.
        self.asked = None;
        self.reported = false;
        self.follow_anew(effects);
        let stays = was_primary && self.is_primary();
        if stays && (follows_directly || !self.rules.keep(Rule::ReignBeginsAnew)) {
            self.renew_reign(now);
        } else {
            self.end_reign(effects);
            if self.is_primary() && self.durable.failed() {
                self.resign(effects);
            } else if self.is_primary() {
                self.begin_reign(now, effects);
            }
        }
        self.take_early(effects);
    }
}
