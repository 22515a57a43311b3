//! How the task carries out what the plan wants of the slots of the cache.
//!
//! What is proposed is based on the epochs of the view that is installed, so that a change which comes too late is void.

use tracing::debug;

use super::{LeaderTask, Outcome};
use crate::{
    ids::Tick,
    machine::{
        control::Command,
        slots::{
            home_of,
            plan::{self, CacheNode, Situation},
        },
    },
    node::wire::View,
};

impl LeaderTask {
    /// Proposes the next step, one at a time.
    pub(super) fn place_slots(&mut self, now: Tick) {
        let view = self.parts.route.view();
        if !self.slots.is_due(now, view.version) || !self.quorum.is_there() {
            return;
        }
        let changes = self.plan_slots(now, &view, plan::next);
        if changes.is_empty() {
            return;
        }
        debug!(changes = changes.len(), first = ?changes[0], "changes the homes of the cache");
        self.slots.proposes(now, view.version);
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            // What is lost is wanted again at a later look; what was applied after all makes it void.
            let _ = raft.propose(vec![Command::Slots(changes)]).await;
            Outcome::SlotsPlaced
        });
    }

    /// How many slots are not where they are to be.
    pub(super) fn slots_moving(&self, now: Tick, view: &View) -> usize {
        self.plan_slots(now, view, plan::moving)
    }

    fn plan_slots<R>(&self, now: Tick, view: &View, plan: impl Fn(&Situation<'_>) -> R) -> R {
        let nodes = view.members.iter().filter_map(|(node, member)| {
            let since_ms = self.seen.get(node).map_or(0, |(_, since)| now.ms_since(*since));
            Some((*node, CacheNode { home: home_of(member)?, liveness: member.liveness, since_ms }))
        });
        let in_epoch_ms = &self.slots.in_epoch_ms(now);
        plan(&Situation { slots: &view.slots, in_epoch_ms, nodes: &nodes.collect() })
    }
}
