//! How a node stops: hands its duties over, says so, and closes its connections last.

use std::{convert::Infallible, sync::PoisonError, time::Duration};

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
        cache::HomeId,
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
/// The pause before lines of the cache that have not arrived are given back again.
const LINES: Duration = Duration::from_millis(50);
/// How long a node gives lines of the cache back where no other stays that could take them.
const ALONE: Duration = Duration::from_secs(1);
/// How often a node that drains says what is still to go.
const PROGRESS: Duration = Duration::from_secs(1);
/// What is left of the grace for saying that the node stops once something could not be handed over in time.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Stops the node within `grace`.
pub(super) async fn stop(node: &Running, grace: Duration) -> Drained {
    let handed_over = drain(node, grace.saturating_sub(CLOSING.min(grace / 4))).await;
    let closed = timeout(CLOSING, close(node)).await;
    if closed.is_ok() { handed_over } else { Drained::Cut }
}

/// Partitions of the queues that a node which drains is still needed for.
pub(super) fn partitions_here(view: &View, node: NodeId, leaves: bool) -> usize {
    if leaves { missed(view, node).count() } else { needed(view, node).count() }
}

/// Slots of the cache that a node is home to, or that are on their way to it.
pub(super) fn slots_here(view: &View, node: NodeId) -> usize {
    let is_here = |home: Option<HomeId>| home.is_some_and(|home| home.node == node);
    view.slots.values().filter(|slot| is_here(slot.home) || is_here(slot.to)).count()
}

/// Whether a view knows that a node stops: nothing more is placed there from then on.
fn knows_that_it_stops(view: &View, node: NodeId) -> bool {
    view.members.get(&node).is_none_or(|member| member.liveness != Liveness::Up)
}

/// Hands over what the node does for the others within this time, once, and tells those who wait what came of its leaving.
pub(super) async fn drain(node: &Running, within: Duration) -> Drained {
    let mut drained = node.drained.lock().await;
    if let Some(drained) = *drained {
        return drained;
    }
    node.draining.cancel();
    let deadline = Instant::now() + within;
    let until = deadline.checked_sub(LAST_WORDS.min(within / 8)).unwrap_or(deadline);
    // Boxed: whoever stops a node is not to meet the depth of its futures.
    let handed_over = timeout_at(deadline, hand_over(node, until).boxed()).await.unwrap_or(Drained::Cut);
    if handed_over == Drained::Cut && !node.leaving.is_asked() {
        warn!("could not hand everything over in time: the others will notice by silence");
    }
    if node.leaving.is_asked() {
        // Where there was a better reason, it was told.
        let departure = match handed_over {
            Drained::Whole => Departure::Left,
            Drained::Cut => Departure::Not("it did not get to leave in time: start it and try again".to_owned()),
        };
        let told = departure.clone();
        let is_news = node.departure.send_if_modified(|known| known.is_none() && known.replace(departure).is_none());
        if let (true, Departure::Not(why)) = (is_news, told) {
            warn!("{why}");
        }
    }
    *drained.insert(handed_over)
}

/// It does not leave, or not whole, for this reason.
fn stays(node: &Running, why: String) -> Drained {
    warn!("{why}");
    node.departure.send_replace(Some(Departure::Not(why)));
    Drained::Cut
}

async fn hand_over(node: &Running, until: Instant) -> Drained {
    // What failed has nothing to hand over; the sooner its connections close, the sooner others take over.
    if node.stop.is_cancelled() {
        return Drained::Whole;
    }
    let leaves = node.leaving.is_asked();
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
        if leaves {
            return stays(node, "it stays a member: there is no leader that could let it go".to_owned());
        }
        give_lines_back_without_leader(node).await;
        return Drained::Whole;
    }
    step_down(node).await;
    if must_lose_vote(node) && !lose_vote(node).await && !leaves {
        warn!("still has a vote and stops: it counts as down until it is back");
    }
    let handing = async { tokio::join!(hand_queues_over(node, leaves, until), hand_cache_over(node, until)) };
    let (queues, cache) = tokio::select! {
        handed_over = handing => handed_over,
        never = tell_progress(node, leaves) => match never {},
        // As when all nodes are stopped at once. Who leaves waits on, since it must not go with what only it has.
        () = leaderless(node), if !leaves => {
            warn!("there is no leader any more under whom others could take over: its queues wait until it is back");
            give_lines_back_without_leader(node).await;
            return Drained::Whole;
        }
    };
    if leaves {
        let why = match queues {
            Queues::HandedOver => return leave(node).await,
            Queues::FewerCopies => {
                "it stays a member: other nodes have not taken all of its queues over in the time that it had (`--deadline`). \
                 Look with `syncmesh status` whether they are short of something, start this one again and try again"
            }
            Queues::OnlyHere => {
                "it stays a member: it holds what no other node has of the queues. Start another queue node, start this one \
                 again and try again, or give up what is queued here with `syncmesh members remove`"
            }
        };
        return stays(node, why.to_owned());
    }
    // It can have been elected since.
    if another_voter_stays(&node.gateway.route().view(), node.id) {
        step_down(node).await;
    }
    tell_leader(node, ControlCall::Stop { incarnation }).await;
    if queues == Queues::HandedOver && cache == Slots::HandedOver { Drained::Whole } else { Drained::Cut }
}

/// Says again and again what the node is still needed for.
async fn tell_progress(node: &Running, leaves: bool) -> Infallible {
    loop {
        tokio::time::sleep(PROGRESS).await;
        let view = node.gateway.route().view();
        let (partitions, slots) = (partitions_here(&view, node.id, leaves), slots_here(&view, node.id));
        info!(partitions, slots, "hands over: what is still to go");
    }
}

/// What became of the slots of the cache that a node was home to, and of the lines that it held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slots {
    /// Others are home to them and have their lines back, or nobody is there to take them.
    HandedOver,
    /// Some of them, or some lines, are still here.
    Kept,
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
async fn hand_queues_over(node: &Running, leaves: bool, until: Instant) -> Queues {
    let mut views = node.gateway.route().views();
    let me = node.id;
    let done = |view: &View| partitions_here(view, me, leaves) == 0;
    let settled = views.wait_for(|view| {
        let is_moot = !others_take_queues(view, me);
        knows_that_it_stops(view, me) && (done(view) || is_moot)
    });
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

/// Of what something could be lost if this node went for good now: partitions of which it counts as holding everything,
/// or has said how far its journal goes while they wait for others. If those do not come back, it may have most.
fn missed(view: &View, node: NodeId) -> impl Iterator<Item = &Partition> {
    view.partitions.values().filter(move |partition| partition.is_held_by(&node) || has_reported(partition, &node))
}

/// Waits until this node is home to no slot of the cache, where others can be, and gives its lines back to their homes.
/// What does not come about costs values that only this node has, and the others the time that its leases last.
async fn hand_cache_over(node: &Running, until: Instant) -> Slots {
    let mut views = node.gateway.route().views();
    let me = node.id;
    let mut outcome = Slots::HandedOver;
    let gone = views.wait_for(|view| {
        let is_moot = !others_take_slots(view, me);
        knows_that_it_stops(view, me) && (slots_here(view, me) == 0 || is_moot)
    });
    if timeout_at(until, gone).await.is_err() {
        outcome = Slots::Kept;
        warn!("could not hand all slots of the cache over: their keys are not served until its leases are over");
    }
    let lines = give_lines_back(node, until).await;
    // Where nobody is there to take them, they are lost with the last one.
    if lines > 0 && others_take_slots(&node.gateway.route().view(), me) {
        outcome = Slots::Kept;
        warn!("could not give all lines of the cache back: what only this node has is lost");
    }
    outcome
}

/// Homes take lines without a leader, for as long as they last themselves.
async fn give_lines_back_without_leader(node: &Running) {
    if give_lines_back(node, Instant::now() + ALONE).await > 0 {
        warn!("could not give all lines of the cache back: what only this node has is lost");
    }
}

/// Gives the lines of the cache back again and again, until then; how many are still here. Where nobody else is a cache
/// node they are offered for a moment only.
async fn give_lines_back(node: &Running, until: Instant) -> usize {
    let began = Instant::now();
    loop {
        let lines = node.caches.give_back().await;
        let is_alone = began.elapsed() >= ALONE && !others_take_slots(&node.gateway.route().view(), node.id);
        if lines == 0 || is_alone || Instant::now() >= until {
            return lines;
        }
        tokio::time::sleep(LINES).await;
    }
}

fn others_take_slots(view: &View, node: NodeId) -> bool {
    let is_up = |member: &Member| member.liveness == Liveness::Up && member.has_role(Role::CacheNode);
    view.members.iter().any(|(id, member)| *id != node && is_up(member))
}

fn has_reported(partition: &Partition, node: &NodeId) -> bool {
    matches!(&partition.status, PartitionStatus::Waiting { reports } if reports.contains_key(node))
}

/// Partitions that this node serves, or that are held by no other that stays.
fn needed(view: &View, node: NodeId) -> impl Iterator<Item = &Partition> {
    let stays = move |id: &NodeId| view.members.get(id).is_some_and(|member| member.liveness == Liveness::Up);
    view.partitions.values().filter(move |partition| partition.is_in_sync(&node)).filter(move |partition| {
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

/// Ends once no leader has answered for as long as one is looked for: nothing changes hands any more. A leader that is
/// new hears so that this node drains.
async fn leaderless(node: &Running) {
    let call = ControlCall::Drain { incarnation: node.settings.incarnation };
    while tell_leader(node, call.clone()).await {
        tokio::time::sleep(LEADERLESS).await;
    }
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

/// Whether there is a voter beside this node that could lead and does not go itself.
fn another_voter_stays(view: &View, me: NodeId) -> bool {
    let stays = |id: &NodeId| view.members.get(id).is_some_and(|member| member.liveness == Liveness::Up);
    view.voters.iter().any(|id| *id != me && stays(id))
}

async fn lose_vote(node: &Running) -> bool {
    let Some(raft) = &node.raft else { return true };
    let mut status = raft.status();
    let mut views = node.gateway.route().views();
    let mut leads = raft.status();
    let lost = async {
        loop {
            // An election, or somebody's command, can have made it the leader meanwhile: no leader takes its own vote.
            if another_voter_stays(&node.gateway.route().view(), node.id) {
                step_down(node).await;
            }
            tokio::select! {
                // Either source may be the first to know: this node's own log, or the leader's view.
                _ = status.wait_for(|status| !status.voters.is_empty() && !status.voters.contains(&node.id)) => return,
                _ = views.wait_for(|view| !view.voters.is_empty() && !view.voters.contains(&node.id)) => return,
                _ = leads.wait_for(|status| status.is_leader()) => {}
            }
            tokio::time::sleep(PROGRESS).await;
        }
    };
    // Who leaves may have to hand over first.
    let patience = if node.leaving.is_asked() { 2 * STEP } else { STEP };
    let lost = timeout(patience, lost).await.is_ok();
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
        ids::{Epoch, Incarnation, PartitionId, Tick},
        machine::{
            cache::SlotId,
            membership::{Joiner, Member},
            placement::Report,
            replication::{Position, Replica},
            slots::{Slot, table},
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
        let missed = |holders: &[u8]| {
            partitions_here(&view(partition(&[1], holders, PartitionStatus::Serving)), node(2), true) == 1
        };
        assert!(missed(&[1, 2]), "it is in sync no more, but nobody has served without it");
        assert!(!missed(&[1]));
    }

    #[test]
    fn who_has_said_what_it_has_of_a_partition_that_waits_stays() {
        let report = Report { replica: replica(2), last: Position::default(), verified: true };
        let waiting = |reports| view(partition(&[1], &[1], PartitionStatus::Waiting { reports }));
        assert_eq!(partitions_here(&waiting([(node(2), report)].into()), node(2), true), 1);
        assert_eq!(partitions_here(&waiting(BTreeMap::new()), node(2), true), 0, "it has nothing");
    }

    #[test]
    fn who_stops_waits_for_the_slots_that_are_on_their_way_to_it() {
        let home = |n: u8| HomeId { node: node(n), incarnation: Incarnation(1), group: 0 };
        let slot = |at, to| Slot { home: Some(home(at)), to, ..Slot::default() };
        let here = |slot| slots_here(&View { slots: table([(SlotId(0), slot)]), ..View::default() }, node(2));
        assert_eq!([here(slot(2, None)), here(slot(1, Some(home(2)))), here(slot(1, Some(home(3))))], [1, 1, 0]);
    }

    #[test]
    fn a_view_from_before_the_leader_heard_of_it_says_nothing() {
        let mut view = view(partition(&[1], &[1], PartitionStatus::Serving));
        assert!(!knows_that_it_stops(&view, node(2)));
        view.members.get_mut(&node(2)).unwrap().liveness = Liveness::Draining;
        assert!(knows_that_it_stops(&view, node(2)));
    }

    #[test]
    fn who_only_stops_is_needed_as_a_primary_and_as_the_only_one_that_stays() {
        let is_needed = |in_sync: &[u8], n| {
            needed(&view(partition(in_sync, in_sync, PartitionStatus::Serving)), node(n)).count() == 1
        };
        assert!(is_needed(&[1, 2], 1));
        assert!(!is_needed(&[1, 2], 2));
        assert!(is_needed(&[2], 2));
    }
}
