//! What a node still owes a partition that it has given up: to hand it over.
//!
//! Run by the keeper for a partition whose task panicked or returned. That task was this run's only replica of it, and
//! is not restarted: a second one under the same (node, incarnation, journal) would answer for records that the first
//! held in memory alone, and a machine that panicked on a record would panic on it again. What is in the journal is
//! what a crash of the process at that moment would have left, and is read when the node is started again.
//!
//! A backup is taken out of the in-sync set by the primary, which it answers no longer. A primary has to resign.

use std::{sync::Arc, time::Duration};

use tracing::{debug, info};

use crate::{
    ids::{NodeId, PartitionId},
    machine::{
        membership::Member,
        placement::{PlacementAnswer, PlacementBody, PlacementChange},
        replication::Replica,
    },
    node::{queues::partition::Shared, wire::View},
};

/// The pause before a hand-over that was not done is asked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// Hands one partition over, whenever this node is its primary.
pub(super) struct Resignation {
    partition: PartitionId,
    me: Replica,
    shared: Arc<Shared>,
}

impl Resignation {
    pub(super) fn new(partition: PartitionId, me: Replica, shared: Arc<Shared>) -> Self {
        Self { partition, me, shared }
    }

    /// Runs as long as the node does: it may be made the primary again before it is out of the in-sync set.
    pub(super) async fn run(self) {
        let mut views = self.shared.route.views();
        loop {
            let change = hand_over(&views.borrow_and_update(), self.partition, self.me);
            let Some((heir, change)) = change else {
                if views.changed().await.is_err() {
                    return;
                }
                continue;
            };
            self.ask(heir, change).await;
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn ask(&self, heir: NodeId, change: PlacementChange) {
        let gateway = &self.shared.gateway;
        let request = gateway.begin();
        match gateway.change_placement(&request, change).await {
            Ok(PlacementAnswer::Done(_)) => {
                info!(partition = self.partition.0, peer = %heir, "handed a partition over that was given up");
            }
            outcome => {
                debug!(partition = self.partition.0, peer = %heir, ?outcome, "a partition is not handed over yet")
            }
        }
        // What it is based on may be old.
        self.shared.pull.pull();
    }
}

/// Who is to take a partition over from this replica, if it is the primary and somebody else has everything.
fn hand_over(view: &View, partition: PartitionId, me: Replica) -> Option<(NodeId, PlacementChange)> {
    let placed = view.partitions.get(&partition)?;
    if !placed.is_serving() || placed.primary != Some(me) {
        return None;
    }
    let is_here = |replica: &Replica| view.members.get(&replica.node).and_then(Member::replica) == Some(*replica);
    let heir = placed.in_sync.iter().filter(|replica| replica.node != me.node).find(|replica| is_here(replica))?.node;
    let body = PlacementBody::HandOver(heir);
    Some((heir, PlacementChange { partition, based_on: placed.epoch, body }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        ids::{Epoch, Tick},
        machine::{
            membership::{Joiner, Liveness},
            placement::{Partition, PartitionStatus},
        },
    };

    const P: PartitionId = PartitionId(3);

    fn member(n: u8, liveness: Liveness) -> Member {
        Member { joiner: Joiner::of_queue_node(NodeId::from_bytes([n; 32]), 1, n.into()), liveness, since: Tick(0) }
    }

    fn replica(n: u8) -> Replica {
        member(n, Liveness::Up).replica().unwrap()
    }

    /// Who is asked to take over from node 1, in this in-sync set of which these are down.
    fn heir(primary: u8, in_sync: &[u8], down: &[u8], status: PartitionStatus) -> Option<NodeId> {
        let liveness = |n: &u8| if down.contains(n) { Liveness::Down } else { Liveness::Up };
        let members = in_sync.iter().map(|n| (NodeId::from_bytes([*n; 32]), member(*n, liveness(n)))).collect();
        let in_sync: Vec<Replica> = in_sync.iter().map(|n| replica(*n)).collect();
        let replicas = in_sync.iter().map(|replica| replica.node).collect();
        let placed = Partition {
            epoch: Epoch(7),
            primary: Some(replica(primary)),
            holders: in_sync.clone(),
            in_sync,
            replicas,
            status,
        };
        let view = View { members, partitions: Arc::new(BTreeMap::from([(P, placed)])), ..View::default() };
        let (heir, change) = hand_over(&view, P, replica(1))?;
        assert_eq!(change, PlacementChange { partition: P, based_on: Epoch(7), body: PlacementBody::HandOver(heir) });
        Some(heir)
    }

    #[test]
    fn a_primary_that_gave_up_names_somebody_who_is_there_and_has_everything() {
        let serving = || PartitionStatus::Serving;
        let node = |n| Some(NodeId::from_bytes([n; 32]));
        assert_eq!(heir(1, &[1, 2, 3], &[], serving()), node(2));
        assert_eq!(heir(1, &[1, 2, 3], &[2], serving()), node(3));
        assert_eq!(heir(1, &[1, 2], &[2], serving()), None, "nobody can serve it now");
        assert_eq!(heir(1, &[1], &[], serving()), None);
        assert_eq!(heir(2, &[1, 2], &[], serving()), None, "a backup is taken out by its primary");
        assert_eq!(heir(1, &[1, 2], &[], PartitionStatus::JournalLost), None);
    }
}
