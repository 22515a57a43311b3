//! Brings the metrics up to date before they are read: what is counted by others, or is only true of a moment.

use std::{collections::BTreeSet, time::Duration};

use super::{
    observe::role_name,
    observe_caches,
    observe_queues::{is_filling, state},
    running::Running,
    status::PartitionState,
    wire::View,
};
use crate::{
    ids::NodeId,
    machine::{membership::Liveness, placement::Partition},
    raft::RaftStatus,
    telemetry::{MemberFigures, NodeFigures, QueueFigures, RaftFigures},
};

/// How long the queues may take to say how much there is in them.
const PATIENCE: Duration = Duration::from_secs(1);

/// All metrics of a node, as of now.
pub(super) async fn metrics_text(node: &Running) -> String {
    let metrics = &node.metrics;
    let view = node.gateway.route().view();
    let here = number(node.mesh.status().borrow().peers.len());
    metrics.node().take_over(&NodeFigures {
        members: members(&view),
        peers: here,
        view: view.version,
        ready: node.observer.readiness().ready,
        has_leader: node.gateway.route().leader().is_some(),
    });
    if let Some(raft) = &node.raft {
        metrics.raft().take_over(&raft_figures(&raft.status().borrow()));
        if let Ok(counts) = raft.with_state(|state, _| state.locks().counts()) {
            metrics.locks().set_totals(number(counts.held), number(counts.waits), number(counts.sessions));
        }
    }
    metrics.queues().take_over(&queues(node, &view).await);
    if let Some(view) = node.observer.cache_here().await {
        metrics.caches().take_over(&observe_caches::figures(&view));
    }
    metrics.encode()
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn members(view: &View) -> MemberFigures {
    let count = |liveness| number(view.members.values().filter(|member| member.liveness == liveness).count());
    MemberFigures {
        up: count(Liveness::Up),
        draining: count(Liveness::Draining),
        down: count(Liveness::Down),
        left: count(Liveness::Left),
    }
}

fn raft_figures(status: &RaftStatus) -> RaftFigures {
    let behind = |matched: u64| status.last_log_index.saturating_sub(matched);
    let voters: BTreeSet<&NodeId> = status.voters.iter().collect();
    let followers = status.followers.iter().filter(|(node, _)| voters.contains(node));
    RaftFigures {
        role: role_name(status.role),
        term: status.term.0,
        last_log: status.last_log_index,
        committed: status.committed,
        applied: status.applied,
        snapshot: status.snapshot,
        voters: number(status.voters.len()),
        learners: number(status.learners.len()),
        furthest_behind: followers.map(|(_, follower)| behind(follower.matched)).max().unwrap_or(0),
    }
}

async fn queues(node: &Running, view: &View) -> QueueFigures {
    let here = tokio::time::timeout(PATIENCE, node.hosting.figures()).await.unwrap_or_default();
    let count = |wanted: PartitionState| number(view.partitions.values().filter(|one| state(one) == wanted).count());
    let leads = |one: &&Partition| one.primary.is_some_and(|replica| replica.node == node.id);
    let keeps = |one: &&Partition| one.is_in_sync(&node.id);
    QueueFigures {
        queues: here.queues,
        ready: here.ready,
        in_flight: here.in_flight,
        delayed: here.delayed,
        bytes: here.bytes,
        oldest_ms: here.oldest_age_ms,
        primaries: number(view.partitions.values().filter(leads).count()),
        backups: number(view.partitions.values().filter(|one| keeps(one) && !leads(one)).count()),
        serving: count(PartitionState::Serving),
        waiting: count(PartitionState::Waiting),
        journal_lost: count(PartitionState::JournalLost),
        filling: number(view.partitions.values().filter(|one| is_filling(one)).count()),
    }
}
