//! How the task carries out what the plan wants of the placement of the queues.
//!
//! What is proposed is based on the epochs of the view that is installed, so that a change which comes too late is void.

use tracing::debug;

use super::{LeaderTask, Outcome};
use crate::{
    ids::{NodeId, Role, Tick},
    machine::{
        control::Command,
        membership::Member,
        placement::plan::{self, HasJournal, QueueNode, Situation},
    },
    node::wire::View,
    time::millis,
};

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
        self.placement.proposes(now, view.version);
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
        plan(&Situation {
            partitions: &view.partitions,
            in_epoch_ms: &self.placement.in_epoch_ms(now),
            queue_nodes: &view.members.iter().filter(keeps_queues).map(queue_node).collect(),
            replicas: self.parts.settings.queue_replicas,
            dead_after_ms: millis(self.parts.settings.member_dead_timeout),
        })
    }
}
