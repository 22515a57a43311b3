//! What is said of the placement of the queues: the part of `GET /v1/cluster`, and what an operator should look at.

use std::collections::BTreeMap;

use super::{
    observe::warning,
    status::{PartitionState, PartitionView, QueuePlacement, Warning},
    wire::{MembersReport, View},
};
use crate::{
    ids::{NodeId, PartitionId, Role},
    machine::{
        membership::{Joiner, JournalAway, Liveness, Member},
        placement::{Partition, PartitionStatus},
    },
    time::rfc3339,
};

/// Most partitions that a warning names.
const MAX_NAMED: usize = 64;

/// Whether a partition is served.
pub(super) fn state(partition: &Partition) -> PartitionState {
    match partition.status {
        _ if !partition.is_placed() => PartitionState::Unplaced,
        PartitionStatus::Serving => PartitionState::Serving,
        PartitionStatus::Waiting { .. } => PartitionState::Waiting,
        PartitionStatus::JournalLost => PartitionState::JournalLost,
    }
}

/// Whether somebody who is to keep a partition has not all of it yet.
pub(super) fn is_filling(partition: &Partition) -> bool {
    partition.is_serving() && partition.replicas.iter().any(|node| !partition.is_in_sync(node))
}

/// Where the queues are. `moving`: of how many partitions the leader knows that they are not where they are to be.
pub(super) fn placement(view: &View, moving: Option<usize>) -> QueuePlacement {
    let shown = |(id, partition): (&PartitionId, &Partition)| PartitionView {
        id: id.0,
        primary: partition.primary.map(|primary| primary.node),
        replicas: partition.replicas.clone(),
        in_sync: partition.in_sync.iter().map(|replica| replica.node).collect(),
        epoch: partition.epoch.0,
        status: state(partition),
    };
    QueuePlacement { partitions: view.partitions.iter().map(shown).collect(), moving }
}

/// What is wrong with the queues, by what the leader knows.
pub(super) fn queue_warnings(report: &MembersReport, warnings: &mut Vec<Warning>) {
    let view = &report.view;
    let queue_nodes: Vec<&Member> =
        view.members.values().filter(|member| member.has_role(Role::QueueNode) && member.belongs()).collect();
    let in_state =
        |wanted| view.partitions.iter().filter(move |(_, partition)| state(partition) == wanted).map(|(id, _)| *id);
    if queue_nodes.is_empty() {
        // A cluster for locks alone is as good as any: only what was placed is missed.
        if view.partitions.values().any(Partition::is_placed) {
            warnings.push(warning(
                "queue-no-nodes",
                "no queue node is a member: queues are not served; start nodes with the role queue-node",
            ));
        }
    } else if !queue_nodes.iter().any(|member| member.replica().is_some())
        && let Some(unplaced) = named(in_state(PartitionState::Unplaced))
    {
        warnings.push(warning(
            "queue-no-nodes",
            format!(
                "{unplaced} not placed yet: no queue node is up with its journal. Start one, and look at the journals of \
                 those that run (`syncmesh peer-info`)"
            ),
        ));
    }
    if let Some(waiting) = named(in_state(PartitionState::Waiting)) {
        warnings.push(warning("queue-waiting", waiting_detail(view, &waiting)));
    }
    if let Some(lost) = named(in_state(PartitionState::JournalLost)) {
        warnings.push(warning(
            "queue-journal-lost",
            format!(
                "{lost} not served: every node that held all of it has lost its journal or left for good. Bring a journal \
                 back if there is one, and start its node with it; or go on with what is left: `syncmesh queue recover \
                 PARTITION --accept-loss`"
            ),
        ));
    }
    under_replicated(report, &queue_nodes, warnings);
    shared_fate(&queue_nodes, warnings);
    not_durable(&queue_nodes, warnings);
    away(&queue_nodes, warnings);
    given_up(&queue_nodes, warnings);
}

fn waiting_detail(view: &View, waiting: &str) -> String {
    let awaited = view.partitions.values().filter(|partition| state(partition) == PartitionState::Waiting);
    let mut nodes: Vec<NodeId> = awaited.flat_map(|partition| &partition.in_sync).map(|replica| replica.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let nodes = nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "{waiting} not served: only {nodes} held everything that was acknowledged at last, and must come back with its \
         journal: start those of them that are down. Who stays away is waited for no longer after MEMBER_DEAD_TIMEOUT, or \
         once it is removed (`syncmesh members remove PEER`); what is not served then: \
         `syncmesh queue recover PARTITION --accept-loss`"
    )
}

fn under_replicated(report: &MembersReport, queue_nodes: &[&Member], warnings: &mut Vec<Warning>) {
    let wanted = report.queue_replicas;
    let short = |partition: &&Partition| partition.is_serving() && partition.in_sync.len() < wanted;
    let short: Vec<&Partition> = report.view.partitions.values().filter(short).collect();
    let Some(fewest) = short.iter().map(|partition| partition.in_sync.len()).min() else { return };
    let up = queue_nodes.iter().filter(|member| member.liveness == Liveness::Up).count();
    let cure = if up < wanted {
        format!("Queue nodes that are up: {up}. Start {} more, it is filled up by itself", wanted - up)
    } else {
        "Who is up and lacks something is filled up by itself (TO FILL UP); the place of a node that is down is taken by \
         another one after MEMBER_DEAD_TIMEOUT, or once it is removed"
            .to_owned()
    };
    let all = report.view.partitions.len();
    let copies = if fewest == 1 { "one copy" } else { "fewer copies" };
    warnings.push(warning(
        "queue-under-replicated",
        format!(
            "{} of {all} partitions have less than QUEUE_REPLICAS={wanted} copies in sync, some of them {copies}: what only \
             one node holds is lost with it. {cure}",
            short.len()
        ),
    ));
}

/// Journals that are lost together, in a cluster that has more than one.
fn shared_fate(queue_nodes: &[&Member], warnings: &mut Vec<Warning>) {
    let mut fates: BTreeMap<&str, usize> = BTreeMap::new();
    for member in queue_nodes.iter().filter(|member| member.serves()) {
        if let Some(fate) = &member.joiner.journal_safety.shared_fate {
            *fates.entry(fate).or_default() += 1;
        }
    }
    if let Some((_, nodes)) = fates.into_iter().find(|(_, nodes)| *nodes > 1) {
        warnings.push(warning(
            "queue-shared-redis",
            format!(
                "{nodes} queue nodes journal into one Redis: their copies protect against the loss of nodes, not of that \
                 Redis. Give each queue node a Redis of its own (REDIS_URL), or none, for the embedded journal"
            ),
        ));
    }
}

fn not_durable(queue_nodes: &[&Member], warnings: &mut Vec<Warning>) {
    let unsafe_one =
        |member: &&&Member| member.serves() && member.joiner.journal.is_some() && !member.joiner.journal_safety.durable;
    if let Some(member) = queue_nodes.iter().find(unsafe_one) {
        warnings.push(warning(
            "queue-not-durable",
            format!(
                "the journal of {} does not survive a loss of power: set its Redis to `appendonly yes`, `appendfsync always` \
                 and `maxmemory-policy noeviction`",
                member.joiner.node
            ),
        ));
    }
}

/// Journals that cannot be written.
fn away(queue_nodes: &[&Member], warnings: &mut Vec<Warning>) {
    for member in queue_nodes.iter().filter(|member| member.serves()) {
        let Joiner { node, journal_safety, .. } = &member.joiner;
        let Some(JournalAway { since, reason }) = &journal_safety.away else { continue };
        warnings.push(warning(
            "queue-journal-away",
            format!(
                "the journal of {node} cannot be used since {}: {reason}. What needs it is refused until it is back: start \
                 that Redis again and look at the network to it, or make room where the disk is full; the node then goes on \
                 by itself",
                rfc3339(*since)
            ),
        ));
    }
}

/// Tasks of partitions that ended by themselves.
fn given_up(queue_nodes: &[&Member], warnings: &mut Vec<Warning>) {
    for member in queue_nodes.iter().filter(|member| member.serves() && member.joiner.journal_safety.given_up > 0) {
        let Joiner { node, journal_safety, .. } = &member.joiner;
        warnings.push(warning(
            "queue-partition-failed",
            format!(
                "{node} keeps {} of its partitions no longer: their tasks ended by themselves, which is a bug; others serve \
                 them where there are copies. `syncmesh --url … health --ready` at that node and its log say what happened: \
                 report it, and start the node again",
                journal_safety.given_up
            ),
        ));
    }
}

/// The partitions in words, with their verb: "partition 3 is", "5 partitions (0-3, 7) are".
fn named(partitions: impl Iterator<Item = PartitionId>) -> Option<String> {
    let ids: Vec<PartitionId> = partitions.collect();
    let runs = PartitionId::ranges(ids.iter().copied());
    match ids.len() {
        0 => None,
        1 => Some(format!("partition {} is", ids[0])),
        count if runs.len() <= MAX_NAMED => Some(format!("{count} partitions ({}) are", runs.join(", "))),
        count => Some(format!("{count} partitions ({}, …) are", runs[..MAX_NAMED].join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ids::{Epoch, Term, Tick},
        machine::membership::JournalSafety,
        node::wire::Leader,
    };

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Queue nodes with their liveness, and one partition of which these are in sync.
    fn report(nodes: &[(u8, Liveness)], in_sync: &[u8], status: PartitionStatus) -> MembersReport {
        let mut members: BTreeMap<NodeId, Member> = BTreeMap::new();
        for (n, liveness) in nodes {
            let mut joiner = Joiner::of_queue_node(node(*n), 1, (*n).into());
            joiner.journal_safety.durable = true;
            members.insert(node(*n), Member { joiner, liveness: *liveness, since: Tick(0) });
        }
        let replica = |n: &u8| Member { liveness: Liveness::Up, ..members[&node(*n)].clone() }.replica();
        let in_sync: Vec<_> = in_sync.iter().filter_map(replica).collect();
        let primary = in_sync.first().copied().filter(|_| status == PartitionStatus::Serving);
        let replicas = in_sync.iter().map(|replica| replica.node).collect();
        let partition = Partition { epoch: Epoch(1), primary, holders: in_sync.clone(), in_sync, replicas, status };
        let partitions = Arc::new(BTreeMap::from([(PartitionId(0), partition)]));
        let view = View { members, partitions, ..View::default() };
        let leader = Leader { term: Term(1), node: node(1) };
        let (last_seen, trails_by) = (BTreeMap::new(), BTreeMap::new());
        MembersReport { leader, view, last_seen, trails_by, queue_replicas: 2, moving: 0, slots_moving: 0 }
    }

    fn codes(report: &MembersReport) -> Vec<String> {
        let mut warnings = Vec::new();
        queue_warnings(report, &mut warnings);
        warnings.into_iter().map(|warning| warning.code).collect()
    }

    const UP: Liveness = Liveness::Up;

    #[test]
    fn a_calm_placement_and_a_cluster_without_queue_nodes_warn_of_nothing() {
        assert!(codes(&report(&[(1, UP), (2, UP)], &[1, 2], PartitionStatus::Serving)).is_empty());
        let unplaced = PartitionStatus::Waiting { reports: BTreeMap::new() };
        assert!(codes(&report(&[], &[], unplaced.clone())).is_empty());
        assert!(codes(&report(&[(1, UP)], &[], unplaced.clone())).is_empty(), "it will be placed in a moment");
        assert_eq!(codes(&report(&[(1, Liveness::Down)], &[], unplaced)), ["queue-no-nodes"]);
    }

    #[test]
    fn what_is_missing_is_said_with_the_next_step() {
        let waiting = PartitionStatus::Waiting { reports: BTreeMap::new() };
        let nodes = [(1, UP), (2, Liveness::Down)];
        assert_eq!(codes(&report(&nodes, &[1], PartitionStatus::Serving)), ["queue-under-replicated"]);
        assert_eq!(codes(&report(&nodes, &[2], waiting)), ["queue-waiting"]);
        assert_eq!(codes(&report(&nodes, &[2], PartitionStatus::JournalLost)), ["queue-journal-lost"]);
    }

    #[test]
    fn journals_that_are_lost_together_or_with_the_power_are_named() {
        let mut shared = report(&[(1, UP), (2, UP)], &[1, 2], PartitionStatus::Serving);
        for member in shared.view.members.values_mut() {
            member.joiner.journal_safety =
                JournalSafety { shared_fate: Some("run".into()), ..JournalSafety::default() };
        }
        assert_eq!(codes(&shared), ["queue-shared-redis", "queue-not-durable"]);
    }

    #[test]
    fn a_node_whose_journal_is_away_is_named_with_the_time_and_the_reason() {
        let mut report = report(&[(1, UP), (2, UP)], &[1, 2], PartitionStatus::Serving);
        let away = JournalAway::new(Tick(0), "Redis at a:1/0 cannot be reached".to_owned());
        report.view.members.get_mut(&node(2)).unwrap().joiner.journal_safety.away = Some(away);
        let mut warnings = Vec::new();
        queue_warnings(&report, &mut warnings);
        let [Warning { code, detail }] = &warnings[..] else { panic!("{warnings:?}") };
        assert_eq!(code, "queue-journal-away");
        let said = format!("the journal of {} cannot be used since 1970-01-01T00:00:00", node(2));
        assert!(detail.starts_with(&said) && detail.contains("a:1/0 cannot be reached"), "{detail}");
        report.view.members.get_mut(&node(2)).unwrap().liveness = Liveness::Down;
        assert!(!codes(&report).contains(&"queue-journal-away".to_owned()), "nobody knows of one that is down");
    }

    #[test]
    fn a_node_that_gave_partitions_up_is_named_as_long_as_it_runs_so() {
        let mut report = report(&[(1, UP), (2, UP)], &[1, 2], PartitionStatus::Serving);
        let failed = report.view.members.get_mut(&node(2)).unwrap();
        failed.joiner.journal_safety.given_up = 3;
        assert_eq!(codes(&report), ["queue-partition-failed"]);
        report.view.members.get_mut(&node(2)).unwrap().liveness = Liveness::Down;
        assert!(!codes(&report).contains(&"queue-partition-failed".to_owned()));
    }
}
