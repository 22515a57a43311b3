//! How the task carries out what the plan wants of the placement of the queues.
//!
//! What is proposed is based on the epochs of the view that is installed, so that a change which comes too late is void.

use std::collections::BTreeMap;

use tracing::debug;

use super::{LOOK, LeaderTask, Outcome};
use crate::{
    ids::{Epoch, NodeId, PartitionId, Role, Tick},
    machine::{
        control::Command,
        membership::Member,
        placement::plan::{self, HasJournal, QueueNode, Situation},
    },
    node::wire::View,
    time::millis,
};

/// How long the effect of a proposal is waited for before the plan is made anew, in milliseconds.
const EFFECT_PATIENCE_MS: u64 = 1_000;

/// What the task remembers about the placement.
#[derive(Debug, Default)]
pub(super) struct PlacementDesk {
    /// Since when each partition has been in its epoch.
    epochs: BTreeMap<PartitionId, (Epoch, Tick)>,
    /// When the plan is to be made again.
    look_at: Tick,
    /// The version of the view on which the last proposal was based, and how long its effect is waited for.
    proposed: Option<(u64, Tick)>,
    proposing: bool,
}

impl PlacementDesk {
    /// A view was installed.
    pub(super) fn saw(&mut self, now: Tick, view: &View) {
        let mut before = std::mem::take(&mut self.epochs);
        for (id, partition) in view.partitions.iter() {
            let known = before.remove(id).filter(|(epoch, _)| *epoch == partition.epoch);
            self.epochs.insert(*id, known.unwrap_or((partition.epoch, now)));
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
    pub(super) fn place_queues(&mut self, now: Tick) {
        let view = self.parts.route.view();
        if !self.placement.is_due(now, view.version) || !self.quorum.is_there() {
            return;
        }
        let changes = self.plan(now, &view, plan::next);
        if changes.is_empty() {
            return;
        }
        debug!(?changes, "changes the placement of the queues");
        self.placement.proposing = true;
        self.placement.proposed = Some((view.version, now.plus_ms(EFFECT_PATIENCE_MS)));
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            // What is lost is wanted again at a later look; what was applied after all makes it void.
            let _ = raft.propose(vec![Command::Placement(changes)]).await;
            Outcome::Placed
        });
    }

    /// How many partitions are still to be moved or filled up.
    pub(super) fn moving(&self, now: Tick, view: &View) -> usize {
        self.plan(now, view, plan::moving)
    }

    fn plan<R>(&self, now: Tick, view: &View, plan: impl Fn(&Situation<'_>) -> R) -> R {
        let queue_node = |(node, member): (&NodeId, &Member)| {
            let since_ms = self.seen.get(node).map_or(0, |(_, since)| now.ms_since(*since));
            let journal = if member.joiner.journal.is_some() { HasJournal::Yes } else { HasJournal::No };
            (*node, QueueNode { liveness: member.liveness, since_ms, journal })
        };
        let keeps_queues = |(_, member): &(&NodeId, &Member)| member.has_role(Role::QueueNode) && member.belongs();
        let in_epoch_ms = self.placement.epochs.iter().map(|(id, (_, since))| (*id, now.ms_since(*since))).collect();
        plan(&Situation {
            partitions: &view.partitions,
            in_epoch_ms: &in_epoch_ms,
            queue_nodes: &view.members.iter().filter(keeps_queues).map(queue_node).collect(),
            replicas: self.parts.settings.queue_replicas,
            dead_after_ms: millis(self.parts.settings.member_dead_timeout),
        })
    }
}
