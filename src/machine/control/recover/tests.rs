use super::*;
use crate::{
    ids::{ClusterId, Epoch, Incarnation, PartitionId},
    machine::{
        cache::{SLOTS, SlotId},
        control::Command,
        membership::{CacheTerms, ClusterRecord, Joiner},
        placement::{PartitionStatus, PlacementBody, PlacementChange},
        slots::Came,
    },
};

const NOW: Tick = Tick(1_700_000_000_000);

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn joiner(n: u8, roles: &[Role]) -> Joiner {
    Joiner { roles: roles.to_vec(), ..Joiner::of_queue_node(node(n), 1, n.into()) }
}

fn all_roles() -> [Role; 3] {
    [Role::LockManager, Role::QueueNode, Role::CacheNode]
}

/// Three nodes that do everything and one that keeps queues only; each of three partitions is kept by two of them.
fn cluster() -> ControlState {
    let mut state = ControlState::default();
    let record = ClusterRecord {
        cluster_id: ClusterId(1),
        cluster_name: String::new(),
        founders: vec![],
        queue_partitions: 4,
        cache_protocol: String::new(),
        cache: CacheTerms::default(),
        founded_at: NOW,
    };
    let place = |partition, nodes: [u8; 2]| PlacementChange {
        partition: PartitionId(partition),
        based_on: Epoch(0),
        body: PlacementBody::Place(nodes.map(node).to_vec()),
    };
    let joins = (1..=3).map(|n| joiner(n, &all_roles())).chain([joiner(4, &[Role::QueueNode])]);
    let commands = [Command::Found(Box::new(record))]
        .into_iter()
        .chain(joins.map(|joiner| Command::Member(MemberChange::Join(joiner))))
        .chain([Command::Placement(vec![place(0, [1, 2]), place(1, [2, 3]), place(2, [2, 4])])]);
    for command in commands {
        state.apply(NOW, Term(1), command, &mut Vec::new());
    }
    state
}

fn voters() -> BTreeSet<NodeId> {
    (1..=3).map(node).collect()
}

#[test]
fn everything_that_fences_goes_up_beyond_what_can_have_been_lost() {
    let mut state = cluster();
    let before = state.clone();
    let recovery = state.recover(NOW, node(1), &voters()).expect("it can be");
    assert_eq!(recovery.token, state.locks().token().0);
    assert!(recovery.token >= before.locks().token().0 + (1 << 32));
    for (id, partition) in state.placement().partitions().iter() {
        assert!(partition.epoch.0 >= before.placement().partitions()[id].epoch.0 + RECOVERY_JUMP, "{id:?}");
    }
    for id in (0..SLOTS).map(SlotId) {
        let slot = state.slots().slot(id);
        assert!(slot.epoch.0 >= before.slots().slot(id).epoch.0 + RECOVERY_JUMP, "{id:?}");
        assert_eq!((slot.home, slot.came), (None, Came::Lost));
    }
    assert!(state.view_version() >= before.view_version() + RECOVERY_JUMP);
}

#[test]
fn all_other_lock_managers_are_barred_and_whoever_has_no_part_in_raft_stays() {
    let mut state = cluster();
    let unlisted = node(9);
    let voted = voters().into_iter().chain([unlisted]).collect();
    let recovery = state.recover(NOW, node(1), &voted).expect("it can be");
    assert_eq!((recovery.barred, recovery.stay), (vec![node(2), node(3), unlisted], vec![node(4)]));
    for barred in [node(2), node(3), unlisted] {
        assert!(state.members().barred().contains_key(&barred));
        let again = Joiner::of(barred, 2);
        let answer = state.apply(NOW, Term(2), Command::Member(MemberChange::Join(again)), &mut Vec::new());
        assert_eq!(answer, super::super::Answer::Member(MemberAnswer::Barred));
    }
    assert!(state.members().members()[&node(1)].belongs() && state.members().members()[&node(4)].belongs());
}

#[test]
fn a_partition_waits_for_those_who_stay_and_is_lost_where_nobody_does() {
    let mut state = cluster();
    let recovery = state.recover(NOW, node(1), &voters()).expect("it can be");
    assert_eq!((recovery.partitions_waiting, recovery.partitions_lost), (2, 1));
    let status = |id| state.placement().partitions()[&PartitionId(id)].status.clone();
    assert!(matches!(status(0), PartitionStatus::Waiting { .. }), "kept by the survivor");
    assert_eq!(status(1), PartitionStatus::JournalLost);
    assert!(matches!(status(2), PartitionStatus::Waiting { .. }), "kept by a queue node");
    assert!(state.placement().partitions().values().all(|partition| partition.primary.is_none()));
}

#[test]
fn of_those_who_stay_the_one_with_the_most_goes_on_though_another_never_stopped() {
    use crate::machine::{
        placement::{PlacementAnswer, Report},
        replication::{Position, Replica},
    };
    let mut state = cluster();
    // By what is known here, 1 and 4 are in sync; in truth 1 was put out, which is in no log that is left.
    let place = PlacementChange {
        partition: PartitionId(3),
        based_on: Epoch(0),
        body: PlacementBody::Place(vec![node(1), node(4)]),
    };
    state.apply(NOW, Term(1), Command::Placement(vec![place]), &mut Vec::new());
    state.recover(NOW, node(1), &voters()).expect("it can be");
    let report = |state: &mut ControlState, n: u8, seq| {
        let based_on = state.placement().partitions()[&PartitionId(3)].epoch;
        let replica = Replica { incarnation: Incarnation(1), ..state.members().replica(&node(n)).expect("it serves") };
        let last = Position { epoch: Epoch(1), seq };
        let body = PlacementBody::Report(Report { replica, last, verified: true });
        let change = PlacementChange { partition: PartitionId(3), based_on, body };
        state.place(&mut Vec::new(), |placement, members| placement.apply(members, change))
    };
    assert!(matches!(report(&mut state, 1, 5), PlacementAnswer::Done(now) if now.primary.is_none()));
    let served = report(&mut state, 4, 9);
    assert!(
        matches!(&served, PlacementAnswer::Done(now) if now.primary.map(|primary| primary.node) == Some(node(4))),
        "{served:?}"
    );
}

#[test]
fn who_was_never_of_a_cluster_or_is_none_of_it_any_more_recovers_nothing() {
    assert_eq!(ControlState::default().recover(NOW, node(1), &voters()), Err(NotRecoverable::NoCluster));
    let mut state = cluster();
    state.apply(NOW, Term(1), Command::Member(MemberChange::Remove(node(1))), &mut Vec::new());
    assert_eq!(state.recover(NOW, node(1), &voters()), Err(NotRecoverable::NoMember));
}
