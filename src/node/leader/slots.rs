//! How the task carries out what the plan wants of the slots of the cache.
//!
//! What is proposed is based on the epochs of the view that is installed, so that a change which comes too late is void.

use std::collections::BTreeMap;

use tracing::debug;

use super::{LOOK, LeaderTask, Outcome};
use crate::{
    ids::{Epoch, Tick},
    machine::{
        cache::SlotId,
        control::Command,
        slots::{
            home_of,
            plan::{self, CacheNode, Situation},
        },
    },
    node::wire::View,
    time::millis,
};

/// How long the effect of a proposal is waited for before the plan is made anew, in milliseconds.
const EFFECT_PATIENCE_MS: u64 = 1_000;

/// What the task remembers about the slots.
#[derive(Debug, Default)]
pub(super) struct SlotDesk {
    /// Since when each slot has been in its epoch.
    epochs: BTreeMap<SlotId, (Epoch, Tick)>,
    /// When the plan is to be made again.
    look_at: Tick,
    /// The version of the view on which the last proposal was based, and how long its effect is waited for.
    proposed: Option<(u64, Tick)>,
    proposing: bool,
}

impl SlotDesk {
    /// A view was installed.
    pub(super) fn saw(&mut self, now: Tick, view: &View) {
        let mut before = std::mem::take(&mut self.epochs);
        for (id, slot) in view.slots.iter() {
            let known = before.remove(id).filter(|(epoch, _)| *epoch == slot.epoch);
            self.epochs.insert(*id, known.unwrap_or((slot.epoch, now)));
        }
        self.look_at = now;
    }

    pub(super) fn proposed(&mut self) {
        self.proposing = false;
    }

    /// Whether the plan is to be made now, from this version of the view.
    fn is_due(&mut self, now: Tick, version: u64) -> bool {
        let awaits_effect = self.proposed.is_some_and(|(on, until)| on == version && now < until);
        if self.proposing || awaits_effect || now < self.look_at {
            return false;
        }
        self.look_at = now.plus_ms(millis(LOOK));
        true
    }
}

impl LeaderTask {
    /// Proposes the next step, one at a time.
    pub(super) fn place_slots(&mut self, now: Tick) {
        let view = self.parts.route.view();
        if !self.slots.is_due(now, view.version) || !self.quorum.is_there() {
            return;
        }
        let nodes = view.members.iter().filter_map(|(node, member)| {
            let since_ms = self.seen.get(node).map_or(0, |(_, since)| now.ms_since(*since));
            Some((*node, CacheNode { home: home_of(member)?, liveness: member.liveness, since_ms }))
        });
        let nodes = nodes.collect();
        let in_epoch_ms = self.slots.epochs.iter().map(|(id, (_, since))| (*id, now.ms_since(*since))).collect();
        let changes = plan::next(&Situation { slots: &view.slots, in_epoch_ms: &in_epoch_ms, nodes: &nodes });
        if changes.is_empty() {
            return;
        }
        debug!(changes = changes.len(), first = ?changes[0], "changes the homes of the cache");
        self.slots.proposing = true;
        self.slots.proposed = Some((view.version, now.plus_ms(EFFECT_PATIENCE_MS)));
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            // What is lost is wanted again at a later look; what was applied after all makes it void.
            let _ = raft.propose(vec![Command::Slots(changes)]).await;
            Outcome::SlotsPlaced
        });
    }
}
