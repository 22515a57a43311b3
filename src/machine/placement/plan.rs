//! What is to be changed next in the placement of the queues.
//!
//! Pure: the leader calls [`next`] when something changed and every now and then, and proposes what it names. All
//! partitions are placed together at first; from then on a few move at a time: the nodes that the ring wants are added,
//! filled up and taken into the in-sync set by the primary, the first of them becomes the primary, and the others are
//! released. When everything is where the ring wants it there is nothing to do.

use std::collections::{BTreeMap, BTreeSet};

use super::{Partition, PartitionStatus, PlacementBody, PlacementChange, Ring};
use crate::{
    ids::{NodeId, PartitionId},
    machine::membership::Liveness,
};

/// A queue node must have been up for so long before it is given anything, in milliseconds; at first all of them, so
/// that those who start together share evenly.
pub const STABLE_MS: u64 = 500;
/// So many partitions move at a time: one alone would spend most of its time waiting for entries and syncs, many would
/// take the network and the disks from the clients.
pub const MOVES_AT_ONCE: usize = 4;
/// A partition that has not come further for so long does not keep others from moving, in milliseconds.
pub const MOVE_PATIENCE_MS: u64 = 30_000;
/// A partition must have been as it is for so long before its primary changes only for an even load, in milliseconds:
/// a node that fails again and again must not take its partitions with it each time.
pub const BALANCE_AFTER_MS: u64 = 5_000;

/// A queue node, as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueNode {
    /// Its liveness in the replicated state.
    pub liveness: Liveness,
    /// For how long it has been so, by the leader's own clock, in milliseconds.
    pub since_ms: u64,
    /// What it has to journal into.
    pub journal: HasJournal,
}

/// Whether a queue node has its journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HasJournal {
    /// It can keep partitions.
    Yes,
    /// Not yet.
    No,
}

/// What a decision is made from.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The placement as it is.
    pub partitions: &'a BTreeMap<PartitionId, Partition>,
    /// For how long each partition has been in its epoch, by the leader's own clock, in milliseconds.
    pub in_epoch_ms: &'a BTreeMap<PartitionId, u64>,
    /// All members that keep queues, there or not; not those who left.
    pub queue_nodes: &'a BTreeMap<NodeId, QueueNode>,
    /// `QUEUE_REPLICAS`.
    pub replicas: usize,
    /// `MEMBER_DEAD_TIMEOUT` in milliseconds.
    pub dead_after_ms: u64,
}

/// The changes that are wanted next, to be proposed in one entry; none where nothing is to be done now.
pub fn next(now: &Situation<'_>) -> Vec<PlacementChange> {
    let planner = Planner::of(now);
    let first = planner.first_placement();
    if !first.is_empty() {
        return first;
    }
    let (mut urgent, mut finishing, mut starting, mut filling) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (id, partition) in now.partitions.iter().filter(|(_, partition)| partition.is_placed()) {
        let change = |body| PlacementChange { partition: *id, based_on: partition.epoch, body };
        match planner.step(*id, partition) {
            Step::Urgent(body) => urgent.push(change(body)),
            Step::Finish(body) => finishing.push(change(body)),
            Step::Start(body) => starting.push((partition.in_sync.len(), *id, change(body))),
            Step::Filling => filling += 1,
            Step::Rest => {}
        }
    }
    if !urgent.is_empty() {
        return urgent;
    }
    if !finishing.is_empty() {
        finishing.truncate(MOVES_AT_ONCE);
        return finishing;
    }
    // Whoever has the fewest copies first.
    starting.sort_by_key(|(copies, id, _)| (*copies, *id));
    starting.into_iter().take(MOVES_AT_ONCE.saturating_sub(filling)).map(|(.., change)| change).collect()
}

/// How many partitions are not as they are to be, and can be brought nearer to it: those that are moved, filled up or
/// handed over, and those whose turn it is not yet. What waits for a node is not among them.
pub fn moving(now: &Situation<'_>) -> usize {
    let planner = Planner::of(now);
    let placed = now.partitions.iter().filter(|(_, partition)| partition.is_placed());
    placed.filter(|(id, partition)| !matches!(planner.step(**id, partition), Step::Rest)).count()
}

/// What a partition needs next.
enum Step {
    /// At once, whatever else is under way.
    Urgent(PlacementBody),
    /// Its move goes on.
    Finish(PlacementBody),
    /// Its move begins.
    Start(PlacementBody),
    /// Somebody is being filled up.
    Filling,
    /// Nothing, or nothing that can be done now.
    Rest,
}

struct Planner<'a> {
    now: &'a Situation<'a>,
    ring: Ring,
}

impl<'a> Planner<'a> {
    fn of(now: &'a Situation<'a>) -> Self {
        let known: BTreeSet<&NodeId> = now.partitions.values().flat_map(|partition| &partition.replicas).collect();
        let belongs = |(id, node): &(&NodeId, &QueueNode)| {
            let is_known = known.contains(id);
            match (node.liveness, node.journal) {
                (Liveness::Up, HasJournal::Yes) => is_known || node.since_ms >= STABLE_MS,
                // It keeps its place until it is dead.
                (Liveness::Up, HasJournal::No) | (Liveness::Down, _) => is_known && node.since_ms < now.dead_after_ms,
                (Liveness::Draining | Liveness::Left, _) => false,
            }
        };
        let ring = Ring::new(now.queue_nodes.iter().filter(belongs).map(|(id, _)| *id));
        Self { now, ring }
    }

    fn wanted(&self, id: PartitionId) -> Vec<NodeId> {
        self.ring.owners(id, self.now.replicas)
    }

    fn is(&self, node: &NodeId, liveness: Liveness) -> bool {
        self.now.queue_nodes.get(node).is_some_and(|node| node.liveness == liveness)
    }

    /// Whether it can be filled up now.
    fn is_ready(&self, node: &NodeId) -> bool {
        self.is(node, Liveness::Up) && self.now.queue_nodes[node].journal == HasJournal::Yes
    }

    fn is_dead(&self, node: &NodeId) -> bool {
        self.now.queue_nodes.get(node).is_none_or(|node| match node.liveness {
            Liveness::Left => true,
            Liveness::Down => node.since_ms >= self.now.dead_after_ms,
            Liveness::Up | Liveness::Draining => false,
        })
    }

    /// All partitions that nobody keeps yet, once those who are there have been there for a moment.
    fn first_placement(&self) -> Vec<PlacementChange> {
        let ready = || self.now.queue_nodes.iter().filter(|(id, _)| self.is_ready(id));
        if ready().any(|(_, node)| node.since_ms < STABLE_MS) {
            return Vec::new();
        }
        let place = |(id, partition): (&PartitionId, &Partition)| {
            let owners = self.wanted(*id);
            let can_begin = !partition.is_placed() && owners.iter().any(|node| self.is_ready(node));
            let change =
                || PlacementChange { partition: *id, based_on: partition.epoch, body: PlacementBody::Place(owners) };
            can_begin.then(change)
        };
        self.now.partitions.iter().filter_map(place).collect()
    }

    fn step(&self, id: PartitionId, partition: &Partition) -> Step {
        let wanted = self.wanted(id);
        match partition.primary {
            Some(primary) if partition.is_serving() => self.step_of_served(id, partition, &primary.node, &wanted),
            _ => self.step_of_waiting(partition, &wanted),
        }
    }

    fn step_of_served(&self, id: PartitionId, partition: &Partition, primary: &NodeId, wanted: &[NodeId]) -> Step {
        let stays = |node: &&NodeId| partition.is_in_sync(node) && self.is(node, Liveness::Up);
        if self.is(primary, Liveness::Draining)
            && let Some(heir) = wanted.iter().chain(&partition.replicas).find(stays)
        {
            return Step::Urgent(PlacementBody::HandOver(*heir));
        }
        if wanted.is_empty() {
            return Step::Rest;
        }
        let newcomers = self.newcomers(partition, wanted);
        let kept: Vec<NodeId> = partition
            .replicas
            .iter()
            .filter(|node| partition.is_in_sync(node) || !self.is_dead(node))
            .copied()
            .collect();
        if !newcomers.is_empty() {
            return Step::Start(PlacementBody::Place(in_order(wanted, &[kept, newcomers].concat())));
        }
        let in_epoch_ms = self.now.in_epoch_ms.get(&id).copied().unwrap_or(0);
        let missing = || wanted.iter().filter(|node| !partition.is_in_sync(node));
        if missing().any(|node| self.is_ready(node)) && in_epoch_ms < MOVE_PATIENCE_MS {
            return Step::Filling;
        }
        if missing().next().is_some() {
            let gone = kept.len() < partition.replicas.len();
            return if gone { Step::Finish(PlacementBody::Place(in_order(wanted, &kept))) } else { Step::Rest };
        }
        match wanted[0] {
            first if !wanted.contains(primary) => Step::Finish(PlacementBody::HandOver(first)),
            _ if partition.replicas != wanted => Step::Finish(PlacementBody::Place(wanted.to_vec())),
            first if first != *primary && in_epoch_ms >= BALANCE_AFTER_MS => {
                Step::Finish(PlacementBody::HandOver(first))
            }
            _ => Step::Rest,
        }
    }

    /// Whoever may hold something stays; those who are to keep it later may come already, and where nothing is left an
    /// operator can begin anew with them.
    fn step_of_waiting(&self, partition: &Partition, wanted: &[NodeId]) -> Step {
        if let PartitionStatus::Waiting { reports } = &partition.status {
            let has_reported =
                |node: &NodeId, journal| reports.get(node).is_some_and(|report| report.replica.journal == journal);
            let mut silent = partition.in_sync.iter().filter(|member| !has_reported(&member.node, member.journal));
            let is_verified = partition
                .in_sync
                .iter()
                .any(|member| has_reported(&member.node, member.journal) && reports[&member.node].verified);
            if is_verified && silent.all(|member| self.is_dead(&member.node)) {
                return Step::Urgent(PlacementBody::WaitNoLonger);
            }
        }
        let listed = |node: &&NodeId| self.now.queue_nodes.contains_key(node);
        let kept: Vec<NodeId> = partition.replicas.iter().filter(listed).copied().collect();
        let newcomers = self.newcomers(partition, wanted);
        let changes = !newcomers.is_empty() || kept.len() < partition.replicas.len();
        let nodes = in_order(wanted, &[kept, newcomers].concat());
        if changes && !nodes.is_empty() { Step::Urgent(PlacementBody::Place(nodes)) } else { Step::Rest }
    }

    fn newcomers(&self, partition: &Partition, wanted: &[NodeId]) -> Vec<NodeId> {
        let is_newcomer = |node: &&NodeId| !partition.replicas.contains(node) && self.is_ready(node);
        wanted.iter().filter(is_newcomer).copied().collect()
    }
}

/// Those of the ring in its order, then the rest.
fn in_order(wanted: &[NodeId], nodes: &[NodeId]) -> Vec<NodeId> {
    let first = wanted.iter().filter(|node| nodes.contains(node));
    let rest = nodes.iter().filter(|node| !wanted.contains(node));
    first.chain(rest).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::Epoch,
        machine::placement::{
            Report,
            tests::{node, replica},
        },
    };

    /// A partition on `ring` nodes of three, and what the leader sees of it.
    struct Scene {
        partitions: BTreeMap<PartitionId, Partition>,
        nodes: BTreeMap<NodeId, QueueNode>,
        in_epoch_ms: u64,
        replicas: usize,
    }

    const P: PartitionId = PartitionId(0);
    const LONG_MS: u64 = 50_000;
    const DEAD_AFTER_MS: u64 = 60_000;

    impl Scene {
        fn unplaced(nodes: u8) -> Self {
            let up = || QueueNode { liveness: Liveness::Up, since_ms: LONG_MS, journal: HasJournal::Yes };
            let nodes = (1..=nodes).map(|n| (node(n), up())).collect();
            let partitions = BTreeMap::from([(P, Partition::unplaced())]);
            Self { partitions, nodes, in_epoch_ms: LONG_MS, replicas: 2 }
        }

        /// As the ring wants it.
        fn calm(nodes: u8) -> Self {
            let mut scene = Self::unplaced(nodes);
            let wanted = scene.wanted();
            let in_sync: Vec<_> = wanted.iter().map(|node| replica(node.as_bytes()[0], 1)).collect();
            let partition = scene.partition();
            *partition = Partition {
                epoch: Epoch(1),
                primary: in_sync.first().copied(),
                holders: in_sync.clone(),
                in_sync,
                replicas: wanted,
                status: PartitionStatus::Serving,
            };
            scene
        }

        fn wanted(&self) -> Vec<NodeId> {
            Ring::new(self.nodes.keys().copied()).owners(P, self.replicas)
        }

        fn partition(&mut self) -> &mut Partition {
            self.partitions.get_mut(&P).expect("the only one")
        }

        fn set(&mut self, node: NodeId, liveness: Liveness, since_ms: u64) {
            let known = self.nodes.get_mut(&node).expect("listed");
            (known.liveness, known.since_ms) = (liveness, since_ms);
        }

        fn with<R>(&self, plan: impl Fn(&Situation<'_>) -> R) -> R {
            plan(&Situation {
                partitions: &self.partitions,
                in_epoch_ms: &self.partitions.keys().map(|id| (*id, self.in_epoch_ms)).collect(),
                queue_nodes: &self.nodes,
                replicas: self.replicas,
                dead_after_ms: DEAD_AFTER_MS,
            })
        }

        fn moving(&self) -> usize {
            self.with(moving)
        }

        fn next(&self) -> Option<PlacementBody> {
            let mut changes = self.with(next);
            assert!(changes.len() <= 1);
            changes.pop().map(|change| change.body)
        }
    }

    #[test]
    fn nothing_is_placed_before_everyone_who_is_there_has_been_there_for_a_moment() {
        let mut scene = Scene::unplaced(3);
        assert_eq!(scene.next(), Some(PlacementBody::Place(scene.wanted())));
        scene.set(node(2), Liveness::Up, STABLE_MS - 1);
        assert_eq!(scene.next(), None);
        scene.set(node(2), Liveness::Down, 0);
        assert!(scene.next().is_some(), "who went down again is not waited for");
        assert_eq!(Scene::unplaced(0).next(), None);
    }

    #[test]
    fn a_calm_placement_is_left_alone() {
        assert_eq!(Scene::calm(3).next(), None);
        assert_eq!(Scene::calm(1).next(), None, "one copy where there is one node");
    }

    #[test]
    fn who_is_down_keeps_its_place_and_who_is_dead_is_replaced() {
        let mut scene = Scene::calm(3);
        let [first, second] = scene.wanted()[..] else { panic!("two") };
        let other = (1..=3).map(node).find(|node| *node != first && *node != second).expect("the third");
        scene.partition().in_sync.truncate(1);
        scene.set(second, Liveness::Down, DEAD_AFTER_MS - 1);
        assert_eq!(scene.next(), None);
        scene.set(second, Liveness::Down, DEAD_AFTER_MS);
        assert_eq!(scene.next(), Some(PlacementBody::Place(vec![first, other])));
    }

    #[test]
    fn who_is_about_to_stop_hands_over_first_and_is_replaced_then() {
        let mut scene = Scene::calm(3);
        let [first, second] = scene.wanted()[..] else { panic!("two") };
        let other = (1..=3).map(node).find(|node| *node != first && *node != second).expect("the third");
        scene.set(first, Liveness::Draining, 0);
        assert_eq!(scene.next(), Some(PlacementBody::HandOver(second)));
        scene.partition().primary = Some(replica(second.as_bytes()[0], 1));
        assert_eq!(scene.next(), Some(PlacementBody::Place(vec![second, other, first])));
        scene.partition().replicas = vec![second, other, first];
        scene.in_epoch_ms = 0;
        assert_eq!(scene.next(), None, "the copy is made");
        let copy = replica(other.as_bytes()[0], 1);
        scene.partition().in_sync.push(copy);
        assert_eq!(scene.next(), Some(PlacementBody::Place(vec![second, other])));
    }

    #[test]
    fn what_is_still_to_be_moved_is_counted_until_all_is_where_it_is_to_be() {
        let mut scene = Scene::calm(3);
        let [first, second] = scene.wanted()[..] else { panic!("two") };
        let other = (1..=3).map(node).find(|node| *node != first && *node != second).expect("the third");
        assert_eq!(scene.moving(), 0);
        scene.set(second, Liveness::Draining, 0);
        assert_eq!(scene.moving(), 1, "its copy is to be made elsewhere");
        scene.partition().replicas = vec![first, other, second];
        scene.in_epoch_ms = 0;
        assert_eq!(scene.moving(), 1, "it is being made");
        let copy = replica(other.as_bytes()[0], 1);
        scene.partition().in_sync.push(copy);
        assert_eq!(scene.moving(), 1, "the old one is to be released");
        scene.partition().replicas = vec![first, other];
        scene.partition().in_sync.remove(1);
        assert_eq!(scene.moving(), 0);
        scene.set(other, Liveness::Down, 0);
        scene.partition().in_sync.truncate(1);
        assert_eq!(scene.moving(), 0, "nothing can be done before it is back, or dead");
    }

    #[test]
    fn the_only_copy_of_who_is_about_to_stop_stays_until_there_is_another() {
        let mut scene = Scene::calm(1);
        scene.set(node(1), Liveness::Draining, 0);
        assert_eq!(scene.next(), None);
    }

    #[test]
    fn a_primary_changes_for_an_even_load_only_where_it_has_been_calm() {
        let mut scene = Scene::calm(3);
        let [first, second] = scene.wanted()[..] else { panic!("two") };
        scene.partition().primary = Some(replica(second.as_bytes()[0], 1));
        scene.in_epoch_ms = BALANCE_AFTER_MS - 1;
        assert_eq!(scene.next(), None);
        scene.in_epoch_ms = BALANCE_AFTER_MS;
        assert_eq!(scene.next(), Some(PlacementBody::HandOver(first)));
    }

    #[test]
    fn moves_that_stand_still_do_not_hold_up_the_others_for_ever() {
        let mut scene = Scene::calm(2);
        let [first, _] = scene.wanted()[..] else { panic!("two") };
        let other = PartitionId(99);
        let alone = Partition {
            replicas: vec![first],
            in_sync: vec![replica(first.as_bytes()[0], 1)],
            ..scene.partition().clone()
        };
        scene.partition().in_sync.truncate(1);
        let still = scene.partition().clone();
        scene.partitions.extend((0..MOVES_AT_ONCE as u32).map(|id| (PartitionId(id), still.clone())));
        scene.partitions.insert(other, alone);
        scene.in_epoch_ms = MOVE_PATIENCE_MS - 1;
        assert_eq!(scene.next(), None, "as many as may move stand still");
        scene.in_epoch_ms = MOVE_PATIENCE_MS;
        assert!(matches!(scene.next(), Some(PlacementBody::Place(nodes)) if nodes.len() == 2));
    }

    #[test]
    fn the_dead_are_not_waited_for_where_a_verified_journal_is_there() {
        let mut scene = Scene::calm(2);
        let [first, second] = scene.wanted()[..] else { panic!("two") };
        let own = replica(first.as_bytes()[0], 1);
        let report = Report { replica: own, last: Default::default(), verified: true };
        scene.partition().primary = None;
        scene.partition().status = PartitionStatus::Waiting { reports: [(first, report)].into() };
        scene.set(second, Liveness::Down, DEAD_AFTER_MS - 1);
        assert_eq!(scene.next(), None);
        scene.set(second, Liveness::Down, DEAD_AFTER_MS);
        assert_eq!(scene.next(), Some(PlacementBody::WaitNoLonger));
    }

    #[test]
    fn whoever_may_hold_something_of_a_partition_that_waits_stays() {
        let mut scene = Scene::calm(3);
        let [first, second] = scene.wanted()[..] else { panic!("two") };
        let other = (1..=3).map(node).find(|node| *node != first && *node != second).expect("the third");
        scene.partition().primary = None;
        scene.partition().in_sync.truncate(1);
        scene.partition().status = PartitionStatus::JournalLost;
        scene.partition().replicas = vec![other, first];
        assert_eq!(scene.next(), Some(PlacementBody::Place(vec![first, second, other])));
        scene.partition().replicas = vec![first, second, other];
        assert_eq!(scene.next(), None);
    }
}
