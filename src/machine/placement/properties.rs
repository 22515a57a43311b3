//! What holds of the placement whatever happens, and that the plan comes to rest where the ring wants it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    plan::{self, HasJournal, MOVES_AT_ONCE, QueueNode, Situation},
    tests::{World, node, replica},
    *,
};
use crate::{
    ids::{Epoch, Role},
    machine::{
        membership::{Liveness, MemberChange},
        replication::{Position, Replica},
    },
};

const NODES: u8 = 6;
const PARTITIONS: u32 = 4;
const DEAD_AFTER_MS: u64 = 60_000;

#[derive(Clone, Debug)]
enum Move {
    Join(u8),
    /// Its journal is gone.
    JoinAnew(u8),
    Down(u8),
    Drain(u8),
    Leave(u8),
    /// What the plan wants.
    Plan,
    /// The primary takes in who is to keep it.
    Grow(u32),
    Shrink(u32),
    Confirm(u32),
    Report(u32, u8, u64),
    AcceptLoss(u32),
    /// A change as a peer that is not right in the head could make it.
    Odd(u32, u64, PlacementBody),
}

fn bodies() -> impl Strategy<Value = PlacementBody> {
    let n = || 1..=NODES;
    let some = || (n(), 1..4u64).prop_map(|(n, incarnation)| replica(n, incarnation));
    prop_oneof![
        prop::collection::vec(n().prop_map(node), 0..4).prop_map(PlacementBody::Place),
        n().prop_map(|n| PlacementBody::HandOver(node(n))),
        prop::collection::vec(some(), 0..3).prop_map(PlacementBody::Shrink),
        some().prop_map(PlacementBody::Grow),
        (some(), 0..9u64, any::<bool>()).prop_map(|(replica, seq, verified)| {
            PlacementBody::Report(Report { replica, last: Position { epoch: Epoch(1), seq }, verified })
        }),
        Just(PlacementBody::WaitNoLonger),
        Just(PlacementBody::Confirm),
    ]
}

fn moves() -> impl Strategy<Value = Move> {
    let (n, p) = (|| 1..=NODES, || 0..PARTITIONS);
    prop_oneof![
        4 => n().prop_map(Move::Join),
        1 => n().prop_map(Move::JoinAnew),
        3 => n().prop_map(Move::Down),
        1 => n().prop_map(Move::Drain),
        1 => n().prop_map(Move::Leave),
        8 => Just(Move::Plan),
        6 => p().prop_map(Move::Grow),
        2 => p().prop_map(Move::Shrink),
        3 => p().prop_map(Move::Confirm),
        4 => (p(), n(), 0..9u64).prop_map(|(p, n, seq)| Move::Report(p, n, seq)),
        1 => p().prop_map(Move::AcceptLoss),
        3 => (p(), 0..3u64, bodies()).prop_map(|(p, ago, body)| Move::Odd(p, ago, body)),
    ]
}

/// A cluster of which members and partitions change, with what each run of a node was.
struct Play {
    world: World,
    incarnations: BTreeMap<u8, u64>,
    journals: BTreeMap<u8, u128>,
    fresh_journal: u128,
}

impl Play {
    fn new() -> Self {
        let journals = (1..=NODES).map(|n| (n, n.into())).collect();
        Self { world: World::new(PARTITIONS, 0), incarnations: BTreeMap::new(), journals, fresh_journal: 100 }
    }

    fn join(&mut self, n: u8) {
        let incarnation = self.incarnations.entry(n).or_insert(0);
        *incarnation += 1;
        self.world.join_with(n, *incarnation, self.journals[&n]);
    }

    fn apply(&mut self, id: u32, body: PlacementBody) -> PlacementAnswer {
        let partition = PartitionId(id);
        let based_on = self.world.placement.partitions()[&partition].epoch;
        self.world.placement.apply(&self.world.members, PlacementChange { partition, based_on, body })
    }

    fn partition(&self, id: u32) -> Partition {
        self.world.placement.partitions()[&PartitionId(id)].clone()
    }

    /// What a primary that works takes in next: one that is to keep the partition and there.
    fn to_grow(&self, id: u32) -> Option<Replica> {
        let now = self.partition(id);
        if self.is_unconfirmed(id) {
            return None;
        }
        let missing = now.replicas.iter().filter(|node| now.is_serving() && !now.is_in_sync(node));
        missing.filter_map(|node| self.world.members.replica(node)).next()
    }

    fn is_unconfirmed(&self, id: u32) -> bool {
        let now = self.partition(id);
        now.is_serving() && now.holders != now.in_sync
    }

    fn plan(&self, in_epoch_ms: u64) -> Vec<PlacementChange> {
        let partitions = self.world.placement.partitions();
        let listed = self.world.members.members().iter();
        let keeps = listed.filter(|(_, member)| member.has_role(Role::QueueNode) && member.belongs());
        let queue_node = |liveness| QueueNode { liveness, since_ms: 10_000, journal: HasJournal::Yes };
        plan::next(&Situation {
            partitions,
            in_epoch_ms: &partitions.keys().map(|id| (*id, in_epoch_ms)).collect(),
            queue_nodes: &keeps.map(|(id, member)| (*id, queue_node(member.liveness))).collect(),
            replicas: 2,
            dead_after_ms: DEAD_AFTER_MS,
        })
    }

    fn carry_out(&mut self, changes: Vec<PlacementChange>) {
        for change in changes {
            let answer = self.world.placement.apply(&self.world.members, change.clone());
            assert!(matches!(answer, PlacementAnswer::Done(_)), "the plan wants what is void: {change:?}, {answer:?}");
        }
    }

    fn make(&mut self, step: Move) {
        match step {
            Move::Join(n) => self.join(n),
            Move::JoinAnew(n) => {
                self.fresh_journal += 1;
                self.journals.insert(n, self.fresh_journal);
                self.join(n);
            }
            Move::Down(n) => self.world.down(n),
            Move::Drain(n) => self.world.drain(n),
            Move::Leave(n) => self.world.member(MemberChange::Leave(node(n))),
            Move::Plan => {
                let changes = self.plan(10_000);
                self.carry_out(changes);
            }
            Move::Grow(id) => {
                if let Some(joiner) = self.to_grow(id) {
                    assert!(matches!(self.apply(id, PlacementBody::Grow(joiner)), PlacementAnswer::Done(_)));
                }
            }
            Move::Shrink(id) => {
                let now = self.partition(id);
                let away = now.in_sync.iter().find(|replica| now.primary.is_some_and(|primary| primary != **replica));
                if let Some(away) = away.copied() {
                    assert!(matches!(self.apply(id, PlacementBody::Shrink(vec![away])), PlacementAnswer::Done(_)));
                }
            }
            Move::Confirm(id) => _ = self.apply(id, PlacementBody::Confirm),
            Move::Report(id, n, seq) => {
                if let Some(replica) = self.world.members.replica(&node(n)) {
                    let last = Position { epoch: Epoch(1), seq };
                    self.apply(id, PlacementBody::Report(Report { replica, last, verified: seq % 2 == 0 }));
                }
            }
            Move::AcceptLoss(id) => _ = self.apply(id, PlacementBody::AcceptLoss),
            Move::Odd(id, ago, body) => {
                let partition = PartitionId(id);
                let based_on = Epoch(self.partition(id).epoch.0.saturating_sub(ago));
                let change = PlacementChange { partition, based_on, body };
                self.world.placement.apply(&self.world.members, change);
            }
        }
    }
}

/// What may become of a partition in one step.
fn check_step(before: &Partition, after: &Partition, step: &Move, members: &Membership) {
    if before == after {
        return;
    }
    // Epochs only grow, so no two states of a partition, and no two primaries, share one.
    assert!(after.epoch > before.epoch, "{before:?} became {after:?} in the same epoch");
    check_state(after, members);
    let newcomers: Vec<&Replica> = after.holders.iter().filter(|replica| !before.holders.contains(replica)).collect();
    let first = !before.is_placed();
    let elected = !before.is_serving() && after.is_serving();
    let grown = matches!(step, Move::Grow(_) | Move::Odd(_, _, PlacementBody::Grow(_)));
    assert!(newcomers.is_empty() || first || elected || grown, "{newcomers:?} came in by {step:?}");
    assert!(!elected || first || after.in_sync.len() == 1, "who is elected serves alone at first");
    if before.is_placed() && !after.is_serving() {
        assert_eq!(before.holders, after.in_sync, "whom it waits for stays known");
    }
    let forgotten = before.holders.iter().any(|holder| !after.holders.contains(holder));
    let confirmed = matches!(step, Move::Confirm(_) | Move::Odd(_, _, PlacementBody::Confirm));
    assert!(!forgotten || confirmed || elected, "{before:?} became {after:?} by {step:?}");
}

/// What is true of every partition.
fn check_state(partition: &Partition, members: &Membership) {
    let is_there = |replica: &Replica| members.replica(&replica.node) == Some(*replica);
    match (partition.primary, &partition.status) {
        (Some(primary), PartitionStatus::Serving) => {
            assert!(partition.in_sync.contains(&primary), "a primary that is not in sync: {partition:?}");
            assert!(partition.in_sync.iter().all(is_there), "somebody in sync is not there: {partition:?}");
        }
        (None, PartitionStatus::Waiting { reports }) => {
            assert!(reports.values().all(|report| is_there(&report.replica)), "{partition:?}");
        }
        (None, PartitionStatus::JournalLost) => {}
        _ => panic!("neither served nor waiting: {partition:?}"),
    }
    let mut nodes: Vec<NodeId> = partition.holders.iter().map(|replica| replica.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), partition.holders.len(), "a node counts twice: {partition:?}");
    assert!(partition.in_sync.iter().all(|replica| partition.holders.contains(replica)), "{partition:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_partition_is_in_order(history in prop::collection::vec(moves(), 1..80)) {
        let mut play = Play::new();
        (1..=3).for_each(|n| play.join(n));
        let first = play.plan(10_000);
        play.carry_out(first);
        for step in history {
            let before = play.world.placement.clone();
            play.make(step.clone());
            let after = &play.world.placement;
            prop_assert!(after.version() >= before.version());
            prop_assert_eq!(after.version() == before.version(), after.partitions() == before.partitions());
            for (id, now) in after.partitions().iter() {
                check_step(&before.partitions()[id], now, &step, &play.world.members);
                check_state(now, &play.world.members);
            }
        }
    }

    #[test]
    fn a_partition_is_served_while_anyone_in_sync_is_there(history in prop::collection::vec(moves(), 1..80)) {
        let mut play = Play::new();
        (1..=3).for_each(|n| play.join(n));
        let first = play.plan(10_000);
        play.carry_out(first);
        for step in history {
            let before = play.world.placement.clone();
            play.make(step);
            for (id, now) in play.world.placement.partitions().iter().filter(|(_, now)| !now.is_serving()) {
                let known = &before.partitions()[id].in_sync;
                let was_served = before.partitions()[id].is_serving();
                let left = known.iter().filter(|replica| play.world.members.replica(&replica.node) == Some(**replica));
                prop_assert!(!was_served || left.count() == 0, "{:?} is not served", now);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_plan_comes_to_rest_where_the_ring_wants_it(history in prop::collection::vec(moves(), 0..60)) {
        let mut play = Play::new();
        (1..=3).for_each(|n| play.join(n));
        let first = play.plan(10_000);
        play.carry_out(first);
        history.into_iter().for_each(|step| play.make(step));
        // From here on everyone is there or gone for good, and primaries do their work.
        for n in 1..=NODES {
            match play.world.members.members().get(&node(n)).map(|member| member.liveness) {
                Some(Liveness::Down | Liveness::Draining) => play.world.member(MemberChange::Leave(node(n))),
                Some(Liveness::Up | Liveness::Left) | None => {}
            }
        }
        (1..=2).for_each(|n| play.join(n));
        for id in 0..PARTITIONS {
            (1..=NODES).for_each(|n| play.make(Move::Report(id, n, 0)));
        }
        for round in 0.. {
            (0..PARTITIONS).for_each(|id| play.make(Move::Confirm(id)));
            let changes = play.plan(10_000);
            prop_assert!(round < 40 * PARTITIONS, "endless moves: {:?}", changes);
            let grown = (0..PARTITIONS).find(|id| play.to_grow(*id).is_some());
            let lost = (0..PARTITIONS).find(|id| !play.partition(*id).is_serving());
            if changes.is_empty() && grown.is_none() && lost.is_none() {
                break;
            }
            play.carry_out(changes);
            grown.into_iter().for_each(|id| play.make(Move::Grow(id)));
            lost.into_iter().for_each(|id| play.make(Move::AcceptLoss(id)));
        }
        let up = play.world.members.members().iter().filter(|(_, member)| member.replica().is_some());
        let ring = Ring::new(up.map(|(id, _)| *id));
        for (id, now) in play.world.placement.partitions().iter() {
            let wanted = ring.owners(*id, 2);
            prop_assert!(now.is_serving(), "{:?}", now);
            prop_assert_eq!(&now.replicas, &wanted);
            prop_assert_eq!(now.primary.map(|primary| primary.node), wanted.first().copied());
            prop_assert_eq!(now.in_sync.len(), wanted.len());
        }
    }
}

#[test]
fn few_partitions_move_at_a_time_when_nodes_come() {
    for joins in 1..=4 {
        let mut play = Play::new();
        (1..=2).for_each(|n| play.join(n));
        let first = play.plan(10_000);
        play.carry_out(first);
        (3..3 + joins).for_each(|n| play.join(n));
        let is_filling = |play: &Play, id: &u32| play.to_grow(*id).is_some();
        for _ in 0..40 * PARTITIONS {
            let changes = play.plan(10_000);
            assert!(changes.len() <= MOVES_AT_ONCE);
            play.carry_out(changes);
            (0..PARTITIONS).for_each(|id| play.make(Move::Confirm(id)));
            let filling: Vec<u32> = (0..PARTITIONS).filter(|id| is_filling(&play, id)).collect();
            assert!(filling.len() <= MOVES_AT_ONCE, "{:?} move together", filling);
            if let Some(id) = filling.first() {
                if filling.len() == MOVES_AT_ONCE {
                    assert_eq!(play.plan(10_000), vec![], "it waits for a copy");
                }
                play.make(Move::Grow(*id));
            }
        }
        assert_eq!(play.plan(10_000), vec![]);
    }
}
