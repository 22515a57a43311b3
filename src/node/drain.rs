//! How a node stops: hands its duties over, says so, and closes its connections last.

use std::{sync::PoisonError, time::Duration};

use futures::FutureExt;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::{
    Departure, Drained,
    authority::hand_over as hand_over_leadership,
    control::Standing,
    running::{LOOK, Running},
    wire::{ControlCall, ControlReply, View},
};
use crate::{
    ids::{NodeId, Role},
    machine::{
        autopilot::FEWEST_AFTER_DRAIN,
        control::ChangeBody,
        membership::{Liveness, Member, MemberChange},
        placement::{Partition, PartitionStatus},
    },
};

/// What is left for closing connections and files after the hand-over.
const CLOSING: Duration = Duration::from_secs(3);
/// How long one step of the hand-over may take before the next is tried.
const STEP: Duration = Duration::from_secs(6);
/// How long the steps of the hand-over look for a leader, all together: without one there is nobody to
/// hand anything to.
const LEADERLESS: Duration = Duration::from_secs(3);
/// How long a node waits for others to take over the slots of the cache that it is home to.
const SLOTS: Duration = Duration::from_secs(10);
/// What is left of the grace for saying that the node stops once its queues could not be handed over in time.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Stops the node within `grace`.
pub(super) async fn stop(node: &Running, grace: Duration) -> Drained {
    let handed_over = drain(node, grace).await;
    let closed = timeout(CLOSING, close(node)).await;
    if closed.is_ok() { handed_over } else { Drained::Cut }
}

/// Hands over what the node does for the others, once, and tells those who wait what came of its leaving. Of `grace`,
/// so much is left as closing takes.
pub(super) async fn drain(node: &Running, grace: Duration) -> Drained {
    let mut drained = node.drained.lock().await;
    if let Some(drained) = *drained {
        return drained;
    }
    node.draining.cancel();
    let deadline = Instant::now() + grace.saturating_sub(CLOSING.min(grace / 4));
    // Boxed: whoever stops a node is not to meet the depth of its futures.
    let handed_over = timeout_at(deadline, hand_over(node, deadline).boxed()).await.unwrap_or(Drained::Cut);
    if handed_over == Drained::Cut {
        warn!("could not hand everything over in time: the others will notice by silence");
    }
    if node.asked_to_leave.is_cancelled() {
        // Where there was a better reason, it was told.
        let departure = match handed_over {
            Drained::Whole => Departure::Left,
            Drained::Cut => Departure::Not("it did not get to leave in time: start it and try again".to_owned()),
        };
        node.departure.send_if_modified(|known| known.is_none() && known.replace(departure).is_none());
    }
    *drained.insert(handed_over)
}

/// It does not leave, or not whole, for this reason.
fn stays(node: &Running, why: String) -> Drained {
    warn!("{why}");
    node.departure.send_replace(Some(Departure::Not(why)));
    Drained::Cut
}

async fn hand_over(node: &Running, deadline: Instant) -> Drained {
    // What failed has nothing to hand over; the sooner its connections close, the sooner others take over.
    if node.stop.is_cancelled() {
        return Drained::Whole;
    }
    let leaves = node.asked_to_leave.is_cancelled();
    let ended = matches!(*node.observer.standing.borrow(), Standing::Left | Standing::Barred(_));
    if ended || node.observer.record.borrow().is_none() {
        return Drained::Whole;
    }
    // Who is the only one has nobody to hand anything to.
    if serving_others(node) == 0 {
        return if leaves { forget(node).await } else { Drained::Whole };
    }
    let incarnation = node.settings.incarnation;
    if !tell_leader(node, ControlCall::Drain { incarnation }).await {
        // Without a leader nothing can change hands; a vote must not be thrown away then.
        return match leaves {
            true => stays(node, "it stays a member: there is no leader that could let it go".to_owned()),
            false => Drained::Whole,
        };
    }
    step_down(node).await;
    if must_lose_vote(node) && !lose_vote(node).await && !leaves {
        warn!("still has a vote and stops: it counts as down until it is back");
    }
    let (queues, ()) = tokio::join!(hand_queues_over(node, leaves, deadline), hand_cache_over(node, deadline));
    if leaves {
        let why = match queues {
            Queues::HandedOver => return leave(node).await,
            Queues::FewerCopies => {
                "it stays a member: other nodes have not taken all of its queues over in time. Look what they are short of \
                 with `syncmesh status`, start this one again and try again"
            }
            Queues::OnlyHere => {
                "it stays a member: it holds what no other node has of the queues. Start another queue node, start this one \
                 again and try again, or give up what is queued here with `syncmesh members remove`"
            }
        };
        return stays(node, why.to_owned());
    }
    tell_leader(node, ControlCall::Stop { incarnation }).await;
    if queues == Queues::HandedOver { Drained::Whole } else { Drained::Cut }
}

/// What became of the queues that a node kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Queues {
    /// Others have them, or nobody is there to take them.
    HandedOver,
    /// Others have copies, but not as many as they should, or they may still need this node's.
    FewerCopies,
    /// Nobody else has all of some partition.
    OnlyHere,
}

/// Waits until this node can be done without: the leader moves the partitions of those who drain. Who leaves is to be in
/// no in-sync set any more; who only stops comes back with its copies, so others must have them too, and serve them.
/// Where no other queue node is up there is nobody to wait for.
async fn hand_queues_over(node: &Running, leaves: bool, deadline: Instant) -> Queues {
    let mut views = node.gateway.route().views();
    let me = node.id;
    let until = deadline.checked_sub(LAST_WORDS).unwrap_or(deadline);
    let done = |view: &View| if leaves { !may_be_missed(view, me) } else { !is_needed(view, me) };
    let settled = views.wait_for(|view| done(view) || !others_take_queues(view, me));
    let held = match timeout_at(until, settled).await {
        Ok(Ok(view)) => (view.clone(), true),
        _ => (node.gateway.route().view(), false),
    };
    let (view, settled) = held;
    if done(&view) {
        return Queues::HandedOver;
    }
    let only_here = view.partitions.values().filter(|partition| {
        let alone = partition.is_held_by(&me) && partition.holders.iter().all(|replica| replica.node == me);
        alone || has_reported(partition, &me)
    });
    match (only_here.count(), settled) {
        (0, true) if !leaves => Queues::HandedOver,
        (0, _) => Queues::FewerCopies,
        // Who only stops comes back with what it holds.
        (partitions, true) if !leaves => {
            warn!(partitions, "stops, and nobody else keeps its queues: they are not served until it is back");
            Queues::HandedOver
        }
        (partitions, _) => {
            warn!(partitions, "no other node holds all of them: they are not served until this one is back");
            Queues::OnlyHere
        }
    }
}

/// Whether something could be lost if this node went for good now: it counts as holding everything of some partition,
/// or has said how far its journal goes of one that waits for others. If those do not come back, it may have most.
fn may_be_missed(view: &View, node: NodeId) -> bool {
    view.partitions.values().any(|partition| partition.is_held_by(&node) || has_reported(partition, &node))
}

/// Waits until this node is home to no slot of the cache, where others can be, and gives its lines back to their homes.
/// What does not come about costs values that only this node has, and the others the time that its leases last.
async fn hand_cache_over(node: &Running, deadline: Instant) {
    let mut views = node.gateway.route().views();
    let me = node.id;
    let until = deadline.checked_sub(LAST_WORDS).unwrap_or(deadline).min(Instant::now() + SLOTS);
    let is_home = |view: &View| view.slots.values().any(|slot| slot.home.is_some_and(|home| home.node == me));
    if timeout_at(until, views.wait_for(|view| !is_home(view) || !others_take_slots(view, me))).await.is_err() {
        warn!("could not hand all slots of the cache over: their keys are not served until its leases are over");
    }
    if timeout_at(deadline, node.caches.give_back()).await.is_err() {
        warn!("could not give all lines of the cache back: what only this node has is lost");
    }
}

fn others_take_slots(view: &View, node: NodeId) -> bool {
    let is_up = |member: &Member| member.liveness == Liveness::Up && member.has_role(Role::CacheNode);
    view.members.iter().any(|(id, member)| *id != node && is_up(member))
}

fn has_reported(partition: &Partition, node: &NodeId) -> bool {
    matches!(&partition.status, PartitionStatus::Waiting { reports } if reports.contains_key(node))
}

/// Whether some partition is served by this node, or held by no other that stays.
fn is_needed(view: &View, node: NodeId) -> bool {
    let stays = |id: &NodeId| view.members.get(id).is_some_and(|member| member.liveness == Liveness::Up);
    view.partitions.values().filter(|partition| partition.is_in_sync(&node)).any(|partition| {
        let is_primary = partition.primary.is_some_and(|primary| primary.node == node);
        is_primary || !partition.in_sync.iter().any(|replica| replica.node != node && stays(&replica.node))
    })
}

fn others_take_queues(view: &View, node: NodeId) -> bool {
    view.members.iter().any(|(id, member)| *id != node && member.liveness == Liveness::Up && member.replica().is_some())
}

fn serving_others(node: &Running) -> usize {
    let view = node.gateway.route().view();
    view.members.iter().filter(|(id, member)| **id != node.id && member.liveness == Liveness::Up).count()
}

async fn tell_leader(node: &Running, call: ControlCall) -> bool {
    let told = async {
        loop {
            if let Some(leader) = node.gateway.route().some_leader(LOOK).await
                && let Ok(Ok(ControlReply::Done)) =
                    timeout(LEADERLESS / 3, node.control(leader.node, call.clone())).await
            {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let told = timeout(LEADERLESS, told).await.is_ok();
    if !told {
        warn!(?call, "no leader heard of it");
    }
    told
}

/// A leader hands its leadership over first, so that the others need not wait for an election.
async fn step_down(node: &Running) {
    let Some(raft) = &node.raft else { return };
    if !raft.status().borrow().is_leader() {
        return;
    }
    match timeout(STEP, hand_over_leadership(raft, None)).await {
        Ok(Ok(())) => info!("handed the leadership over"),
        Ok(Err(reason)) => warn!(%reason, "could not hand the leadership over"),
        Err(_) => warn!("could not hand the leadership over in time"),
    }
}

/// With more than three live voters, or somebody to replace it, a node hands its vote back before it
/// stops, so that the quorum shrinks with the cluster.
fn must_lose_vote(node: &Running) -> bool {
    let view = node.gateway.route().view();
    let live = view.voters.iter().filter(|id| view.members.get(id).is_some_and(|member| member.serves())).count();
    let spare = view.members.iter().any(|(id, member)| {
        member.liveness == Liveness::Up && member.has_role(Role::LockManager) && !view.voters.contains(id)
    });
    view.voters.contains(&node.id) && (live > FEWEST_AFTER_DRAIN || spare)
}

async fn lose_vote(node: &Running) -> bool {
    let Some(raft) = &node.raft else { return true };
    let mut status = raft.status();
    let mut views = node.gateway.route().views();
    let lost = async {
        tokio::select! {
            // Either source may be the first to know: this node's own log, or the leader's view.
            _ = status.wait_for(|status| !status.voters.is_empty() && !status.voters.contains(&node.id)) => {}
            _ = views.wait_for(|view| !view.voters.is_empty() && !view.voters.contains(&node.id)) => {}
        }
    };
    let lost = timeout(STEP, lost).await.is_ok();
    if lost {
        info!("handed the vote back");
    }
    lost
}

/// Leaves for good. The log may go only when it counts no more: as long as this node has a vote, the
/// others may need it.
async fn leave(node: &Running) -> Drained {
    let request = node.gateway.begin();
    let body = ChangeBody::Member(MemberChange::Leave(node.id));
    let change = node.gateway.change(&request, None, body, Duration::ZERO);
    // Where the answer is lost there is no other: whoever has left is not served any more. It is told so.
    let left = tokio::select! {
        outcome = change => outcome.map(drop),
        () = has_left(node) => Ok(()),
    };
    if let Err(error) = left
        && timeout(LEADERLESS, has_left(node)).await.is_err()
    {
        let why = "it stays a member: start it and try again, or remove it with `syncmesh members remove`";
        return stays(node, format!("{why} ({error})"));
    }
    if node.raft.is_some() && !lose_vote(node).await {
        let why = "it left, but still has a vote: its data stays, so that it can be started again to help the others";
        return stays(node, why.to_owned());
    }
    info!("left the cluster for good");
    forget(node).await
}

async fn has_left(node: &Running) {
    let mut standing = node.observer.standing.clone();
    if standing.wait_for(|standing| *standing == Standing::Left).await.is_err() {
        std::future::pending().await
    }
}

async fn forget(node: &Running) -> Drained {
    match node.records.retire().await {
        Ok(()) => Drained::Whole,
        Err(error) => {
            let why =
                "it left, but could not forget the cluster: delete its DATA_DIR by hand before it is started again";
            stays(node, format!("{why} ({error})"))
        }
    }
}

async fn close(node: &Running) {
    node.stop.cancel();
    if let Some(supervisor) = node.supervisor.lock().await.take() {
        // A panic in it was told already.
        let _ = supervisor.await;
    }
    if let Some(raft) = &node.raft {
        raft.shutdown().await;
    }
    if let Some(net) = &node.net {
        net.close().await;
    }
    node.held.lock().unwrap_or_else(PoisonError::into_inner).take();
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        ids::{Epoch, PartitionId, Tick},
        machine::{
            membership::{Joiner, Member},
            placement::Report,
            replication::{Position, Replica},
        },
    };

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn member(n: u8) -> Member {
        Member { joiner: Joiner::of_queue_node(node(n), 1, n.into()), liveness: Liveness::Up, since: Tick(0) }
    }

    fn replica(n: u8) -> Replica {
        member(n).replica().unwrap()
    }

    fn partition(in_sync: &[u8], holders: &[u8], status: PartitionStatus) -> Partition {
        let replicas = |nodes: &[u8]| nodes.iter().map(|n| replica(*n)).collect::<Vec<_>>();
        Partition {
            epoch: Epoch(1),
            primary: in_sync.first().map(|n| replica(*n)).filter(|_| status == PartitionStatus::Serving),
            in_sync: replicas(in_sync),
            holders: replicas(holders),
            replicas: vec![node(1), node(2)],
            status,
        }
    }

    fn view(partition: Partition) -> View {
        let members = [1, 2, 3].map(|n| (node(n), member(n))).into();
        View { members, partitions: Arc::new(BTreeMap::from([(PartitionId(0), partition)])), ..View::default() }
    }

    #[test]
    fn who_holds_everything_stays_until_the_others_go_on_without_it() {
        let missed = |holders: &[u8]| may_be_missed(&view(partition(&[1], holders, PartitionStatus::Serving)), node(2));
        assert!(missed(&[1, 2]), "it is in sync no more, but nobody has served without it");
        assert!(!missed(&[1]));
    }

    #[test]
    fn who_has_said_what_it_has_of_a_partition_that_waits_stays() {
        let report = Report { replica: replica(2), last: Position::default(), verified: true };
        let waiting = |reports| view(partition(&[1], &[1], PartitionStatus::Waiting { reports }));
        assert!(may_be_missed(&waiting([(node(2), report)].into()), node(2)));
        assert!(!may_be_missed(&waiting(BTreeMap::new()), node(2)), "it has nothing");
    }

    #[test]
    fn who_only_stops_is_needed_as_a_primary_and_as_the_only_one_that_stays() {
        let needed =
            |in_sync: &[u8], n| is_needed(&view(partition(in_sync, in_sync, PartitionStatus::Serving)), node(n));
        assert!(needed(&[1, 2], 1));
        assert!(!needed(&[1, 2], 2));
        assert!(needed(&[2], 2));
    }
}
