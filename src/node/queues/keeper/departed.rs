//! Clears away what nodes that have left for good have journalled in the same place as this one.
//!
//! In Redis a journal outlives the `DATA_DIR` of its node: whoever left joins as new, under another name, and never
//! looks at it again. So those who stay remove it, each in its own Redis; a node that left cannot be relied on to, since
//! it may have been removed when it was dead. One node at a time, at most one in a look of the keeper.
//!
//! Never removed: what is of a node that is only down, or not listed (it may be back), of one that any partition names
//! (the last in-sync set of one that nobody serves too), and what is not in sync elsewhere. The leader is asked first,
//! because a view may be old, and a node that is still connected has not ended yet. Should one come back under its old
//! name in just that moment (it was removed and is admitted again), it notices that its journal is gone as it notices
//! that any Redis was emptied: the id goes first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, info};

use super::seats::is_whole;
use crate::{
    ids::{NodeId, PartitionId, Tick},
    machine::membership::Liveness,
    node::{
        queues::partition::Shared,
        wire::{ClientAsk, ClientReply, View},
    },
    store::JournalStore,
};

/// The pause before what could not be removed is looked at again.
const PAUSE: Duration = Duration::from_secs(20);

/// What became of the journals of a node.
#[derive(Debug)]
pub(super) struct Forgotten {
    node: NodeId,
    /// When it left: another time, another node.
    since: Tick,
    /// How many were removed, `None`: there was nothing; or why they are still there.
    outcome: Result<Option<usize>, String>,
}

/// Whose journals have been cleared away, and when the next are looked at.
pub(super) struct Departed {
    me: NodeId,
    store: Arc<dyn JournalStore>,
    shared: Arc<Shared>,
    done: BTreeMap<NodeId, Tick>,
    /// Not before then.
    later: BTreeMap<NodeId, Instant>,
    under_way: bool,
}

impl Departed {
    pub(super) fn new(me: NodeId, store: Arc<dyn JournalStore>, shared: Arc<Shared>) -> Self {
        let (done, later) = (BTreeMap::new(), BTreeMap::new());
        Self { me, store, shared, done, later, under_way: false }
    }

    /// What is to be done now, for one node.
    pub(super) fn next(&mut self, now: Instant) -> Option<impl Future<Output = Forgotten> + Send + use<>> {
        let view = self.shared.route.view();
        self.done.retain(|node, since| left_at(&view, *node) == Some(*since));
        self.later.retain(|node, _| left_at(&view, *node).is_some());
        if self.under_way {
            return None;
        }
        let connected = self.shared.mesh.status().borrow().clone();
        let is_due = |node: &NodeId| {
            let is_later = self.later.get(node).is_some_and(|at| *at > now);
            *node != self.me && !self.done.contains_key(node) && !is_later && !connected.peers.contains_key(node)
        };
        let mut left = view.members.keys().filter_map(|node| Some((*node, left_at(&view, *node)?)));
        let (node, since) = left.find(|(node, _)| is_due(node))?;
        self.under_way = true;
        let (store, shared) = (Arc::clone(&self.store), Arc::clone(&self.shared));
        Some(async move { Forgotten { node, since, outcome: forget(&*store, &shared, node, since).await } })
    }

    /// It was done, or could not be.
    pub(super) fn done(&mut self, now: Instant, forgotten: Forgotten) {
        self.under_way = false;
        let Forgotten { node, since, outcome } = forgotten;
        match outcome {
            Ok(None) => {
                self.later.remove(&node);
                self.done.insert(node, since);
            }
            Ok(Some(journals)) => {
                info!(peer = %node, journals, "has left the cluster for good: its journals were removed");
                // If its process has not ended after all, it writes once more.
                self.later.insert(node, now + PAUSE);
            }
            Err(reason) => {
                debug!(%node, reason, "has left, and its journals stay for now");
                self.later.insert(node, now + PAUSE);
            }
        }
    }
}

/// Since when a node has left for good, if it has.
fn left_at(view: &View, node: NodeId) -> Option<Tick> {
    view.members.get(&node).filter(|member| member.liveness == Liveness::Left).map(|member| member.since)
}

async fn forget(store: &dyn JournalStore, shared: &Shared, node: NodeId, since: Tick) -> Result<Option<usize>, String> {
    let journals = store.journals_of(node).await.map_err(|reason| reason.to_string())?;
    let Some(journals) = journals else { return Ok(None) };
    let view = match shared.gateway.ask(ClientAsk::Members, Duration::ZERO).await {
        Ok(ClientReply::Members(report)) => report.view,
        other => return Err(format!("no leader confirms that it has left: {other:?}")),
    };
    may_forget(&view, node, since, &journals)?;
    store.forget(node).await.map(Some).map_err(|reason| reason.to_string())
}

/// Whether nobody needs, or may come back for, what this node has journalled of these partitions.
fn may_forget(view: &View, node: NodeId, since: Tick, journals: &BTreeSet<PartitionId>) -> Result<(), String> {
    if left_at(view, node) != Some(since) {
        return Err("it has come back".to_owned());
    }
    if let Some((id, _)) = view.partitions.iter().find(|(_, placed)| placed.concerns(&node)) {
        return Err(format!("partition {id} still names it"));
    }
    let elsewhere = |id: &&PartitionId| view.partitions.get(id).is_some_and(is_whole);
    match journals.iter().find(|id| !elsewhere(id)) {
        Some(id) => Err(format!("partition {id} is not in sync elsewhere yet")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::Epoch,
        machine::{
            membership::{Joiner, Member},
            placement::{Partition, PartitionStatus},
            replication::Replica,
        },
    };

    const GONE: u8 = 9;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn replica(n: u8) -> Replica {
        Member { joiner: Joiner::of_queue_node(node(n), 1, n.into()), liveness: Liveness::Up, since: Tick(0) }
            .replica()
            .unwrap()
    }

    fn partition(replicas: &[u8], in_sync: &[u8], status: PartitionStatus) -> Partition {
        let in_sync: Vec<Replica> = in_sync.iter().map(|n| replica(*n)).collect();
        let primary = in_sync.first().copied().filter(|_| status == PartitionStatus::Serving);
        let replicas = replicas.iter().map(|n| node(*n)).collect();
        Partition { epoch: Epoch(1), primary, holders: in_sync.clone(), in_sync, replicas, status }
    }

    /// Whether the journals of node 9 of partition 0 may go, where this is how it is, and partition 1 besides.
    fn may(liveness: Liveness, zero: Partition, one: Partition) -> bool {
        let member = Member { joiner: Joiner::of_queue_node(node(GONE), 1, 9), liveness, since: Tick(5) };
        let partitions = Arc::new(BTreeMap::from([(PartitionId(0), zero), (PartitionId(1), one)]));
        let view = View { members: BTreeMap::from([(node(GONE), member)]), partitions, ..View::default() };
        may_forget(&view, node(GONE), Tick(5), &BTreeSet::from([PartitionId(0)])).is_ok()
    }

    #[test]
    fn only_what_is_in_sync_elsewhere_and_of_a_node_that_has_left_may_go() {
        let whole = || partition(&[1, 2], &[1, 2], PartitionStatus::Serving);
        assert!(may(Liveness::Left, whole(), whole()));
        for liveness in [Liveness::Up, Liveness::Draining, Liveness::Down] {
            assert!(!may(liveness, whole(), whole()), "{liveness:?}: it may come back with it");
        }
        let short = partition(&[1, 2], &[1], PartitionStatus::Serving);
        assert!(!may(Liveness::Left, short.clone(), whole()), "one copy is still to be made");
        assert!(may(Liveness::Left, whole(), short), "it has no journal of that one");
    }

    #[test]
    fn a_node_of_any_last_in_sync_set_keeps_its_journals() {
        let whole = || partition(&[1, 2], &[1, 2], PartitionStatus::Serving);
        for status in [PartitionStatus::JournalLost, PartitionStatus::Waiting { reports: BTreeMap::new() }] {
            assert!(!may(Liveness::Left, whole(), partition(&[1, 2], &[GONE], status.clone())), "{status:?}");
            assert!(!may(Liveness::Left, partition(&[1, 2], &[1], status), whole()), "it may be the last copy");
        }
        assert!(!may(Liveness::Left, whole(), partition(&[1, GONE], &[1], PartitionStatus::Serving)));
    }

    #[test]
    fn a_node_that_came_back_and_left_again_is_looked_at_anew() {
        let member =
            Member { joiner: Joiner::of_queue_node(node(GONE), 2, 9), liveness: Liveness::Left, since: Tick(8) };
        let view = View { members: BTreeMap::from([(node(GONE), member)]), ..View::default() };
        assert!(may_forget(&view, node(GONE), Tick(5), &BTreeSet::new()).is_err());
        assert!(may_forget(&view, node(GONE), Tick(8), &BTreeSet::new()).is_ok());
    }
}
