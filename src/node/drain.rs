//! How a node stops: hands its duties over, says so, and closes its connections last.

use std::{sync::PoisonError, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::{
    Drained,
    authority::hand_over as hand_over_leadership,
    running::{LOOK, Running},
    wire::{ControlCall, ControlReply},
};
use crate::{
    ids::Role,
    machine::{
        autopilot::FEWEST_AFTER_DRAIN,
        control::ChangeBody,
        membership::{Liveness, MemberChange},
    },
};

/// What is left for closing connections and files after the hand-over.
const CLOSING: Duration = Duration::from_secs(3);
/// How long a single step of the hand-over may take before the next is tried.
const STEP: Duration = Duration::from_secs(6);
/// For how long a quorum of the voters has to be out of reach before nobody is expected to answer.
const NOBODY: Duration = Duration::from_secs(1);

/// Stops the node within `grace`.
pub(super) async fn stop(node: &Running, grace: Duration) -> Drained {
    let deadline = Instant::now() + grace.saturating_sub(CLOSING.min(grace / 4));
    let handed_over = timeout_at(deadline, hand_over(node)).await;
    if handed_over.is_err() {
        warn!("could not hand everything over in time: the others will notice by silence");
    }
    let closed = timeout(CLOSING, close(node)).await;
    if handed_over.is_ok() && closed.is_ok() { Drained::Whole } else { Drained::Cut }
}

async fn hand_over(node: &Running) {
    let incarnation = node.settings.incarnation;
    let leaves = node.asked_to_leave.is_cancelled();
    // A node that is the only one has nobody to hand anything to.
    if serving_others(node) > 0 && node.observer.record.borrow().is_some() {
        tell_leader(node, ControlCall::Drain { incarnation }).await;
        step_down(node).await;
        if must_lose_vote(node) {
            lose_vote(node).await;
        }
        if leaves {
            leave(node).await;
        } else {
            tell_leader(node, ControlCall::Stop { incarnation }).await;
        }
    }
    if leaves && let Err(error) = node.records.retire().await {
        warn!(%error, "could not forget the cluster: delete DATA_DIR by hand before this node is started again");
    }
}

fn serving_others(node: &Running) -> usize {
    let view = node.gateway.route().view();
    view.members.iter().filter(|(id, member)| **id != node.id && member.liveness == Liveness::Up).count()
}

async fn tell_leader(node: &Running, call: ControlCall) {
    let told = async {
        loop {
            if let Some(leader) = node.gateway.route().some_leader(LOOK).await
                && let Ok(ControlReply::Done) = node.control(leader.node, call.clone()).await
            {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        told = timeout(STEP, told) => if told.is_err() {
            warn!(?call, "no leader heard of it");
        },
        () = quorum_is_gone(node) => info!(?call, "not told to a leader: too few voters are there for one"),
    }
}

/// Where all nodes of a cluster stop together, the last ones have no leader left to wait for.
async fn quorum_is_gone(node: &Running) {
    let mut since = Instant::now();
    while since.elapsed() < NOBODY {
        tokio::time::sleep(LOOK).await;
        if quorum_in_reach(node) {
            since = Instant::now();
        }
    }
}

fn quorum_in_reach(node: &Running) -> bool {
    let (view, status) = (node.gateway.route().view(), node.mesh.status());
    let connected = &status.borrow().peers;
    let reached = view.voters.iter().filter(|id| **id == node.id || connected.contains_key(id)).count();
    reached * 2 > view.voters.len()
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

/// With more than three live voters the vote is handed back, so that the quorum shrinks with them.
fn must_lose_vote(node: &Running) -> bool {
    let view = node.gateway.route().view();
    let live = view.voters.iter().filter(|id| view.members.get(id).is_some_and(|member| member.serves())).count();
    let spare = view.members.iter().any(|(id, member)| {
        member.liveness == Liveness::Up && member.has_role(Role::LockManager) && !view.voters.contains(id)
    });
    view.voters.contains(&node.id) && (live > FEWEST_AFTER_DRAIN || spare)
}

async fn lose_vote(node: &Running) {
    let mut views = node.gateway.route().views();
    let lost = async {
        // The view comes with the log here, or with the next heartbeat.
        let _ = views.wait_for(|view| !view.voters.contains(&node.id)).await;
    };
    match timeout(STEP, lost).await {
        Ok(()) => info!("handed the vote back"),
        Err(_) => warn!("still had a vote when it stopped"),
    }
}

async fn leave(node: &Running) {
    let request = node.gateway.begin();
    let body = ChangeBody::Member(MemberChange::Leave(node.id));
    match node.gateway.change(&request, None, body, Duration::ZERO).await {
        Ok(_) => info!("left the cluster for good"),
        Err(error) => warn!(%error, "could not leave: remove this node with `syncmesh members remove`"),
    }
}

async fn close(node: &Running) {
    node.stop.cancel();
    if let Some(supervisor) = node.supervisor.lock().await.take() {
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
