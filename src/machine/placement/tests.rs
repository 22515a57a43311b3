//! The rules of the placement, one by one.

use super::*;
use crate::{
    codec::{decode, encode},
    ids::{Epoch, JournalId, Term, Tick},
    machine::{
        membership::{Joiner, MemberChange},
        replication::{Position, Replica},
    },
};

pub(super) const P: PartitionId = PartitionId(0);

pub(super) fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

/// The run of node `n` with its own journal.
pub(super) fn replica(n: u8, incarnation: u64) -> Replica {
    let (node, incarnation) = (node(n), Incarnation(incarnation));
    Replica { node, incarnation, journal: JournalId(n.into()) }
}

fn nodes(of: &[u8]) -> Vec<NodeId> {
    of.iter().map(|n| node(*n)).collect()
}

/// Members and placement, changed as the replicated state does it.
#[derive(Clone, Default)]
pub(super) struct World {
    pub(super) members: Membership,
    pub(super) placement: Placement,
}

impl World {
    /// So many partitions, and queue nodes from 1 on that are up.
    pub(super) fn new(partitions: u32, queue_nodes: u8) -> Self {
        let mut world = Self::default();
        world.placement.found(partitions);
        (1..=queue_nodes).for_each(|n| world.join(n, 1));
        world
    }

    /// One partition on these nodes of three, all in sync.
    fn placed(on: &[u8]) -> Self {
        let mut world = Self::new(1, 3);
        assert!(matches!(world.now(PlacementBody::Place(nodes(on))), PlacementAnswer::Done(_)));
        world
    }

    pub(super) fn member(&mut self, change: MemberChange) {
        let mut news = Vec::new();
        self.members.change(Tick(0), Term(1), change, &mut news);
        news.iter().for_each(|item| self.placement.member_changed(&self.members, &item.node));
    }

    pub(super) fn join(&mut self, n: u8, incarnation: u64) {
        self.join_with(n, incarnation, n.into());
    }

    pub(super) fn join_with(&mut self, n: u8, incarnation: u64, journal: u128) {
        self.member(MemberChange::Join(Joiner::of_queue_node(node(n), incarnation, journal)));
    }

    pub(super) fn down(&mut self, n: u8) {
        let Some(member) = self.members.members().get(&node(n)) else { return };
        let incarnation = member.joiner.incarnation;
        self.member(MemberChange::Down { node: node(n), incarnation, term: None });
    }

    pub(super) fn drain(&mut self, n: u8) {
        let Some(member) = self.members.members().get(&node(n)) else { return };
        let incarnation = member.joiner.incarnation;
        self.member(MemberChange::Drain { node: node(n), incarnation });
    }

    fn partition(&self) -> &Partition {
        &self.placement.partitions()[&P]
    }

    /// Changes the partition as it is now.
    fn now(&mut self, body: PlacementBody) -> PlacementAnswer {
        let based_on = self.partition().epoch;
        self.placement.apply(&self.members, PlacementChange { partition: P, based_on, body })
    }

    fn is_done(&mut self, body: PlacementBody) -> bool {
        let before = self.partition().epoch;
        match self.now(body) {
            PlacementAnswer::Done(now) => {
                assert!(now.epoch > before, "a change without a new epoch");
                true
            }
            _ => false,
        }
    }

    /// The primary goes on without those who are not in sync any more.
    fn confirm(&mut self) {
        assert!(self.is_done(PlacementBody::Confirm));
    }

    fn report(&mut self, n: u8, incarnation: u64, seq: u64) -> PlacementAnswer {
        let last = Position { epoch: Epoch(1), seq };
        self.now(PlacementBody::Report(Report { replica: replica(n, incarnation), last, verified: true }))
    }

    fn primary(&self) -> Option<Replica> {
        self.partition().primary
    }
}

#[test]
fn a_partition_begins_with_those_who_are_up() {
    let mut world = World::new(1, 3);
    world.down(2);
    assert!(world.is_done(PlacementBody::Place(nodes(&[2, 3]))));
    assert_eq!((world.primary(), &world.partition().in_sync), (Some(replica(3, 1)), &vec![replica(3, 1)]));
    assert_eq!(world.partition().replicas, nodes(&[2, 3]));
    assert!(World::new(1, 3).is_done(PlacementBody::Place(nodes(&[1]))));
}

#[test]
fn what_cannot_be_placed_is_void() {
    let mut world = World::placed(&[1, 2]);
    for wrong in [vec![], nodes(&[1, 1]), nodes(&[1, 9]), nodes(&[2, 3])] {
        assert!(!world.is_done(PlacementBody::Place(wrong)), "nobody, twice, a stranger, without the primary");
    }
    world.member(MemberChange::Join(Joiner::of(node(4), 1)));
    assert!(!world.is_done(PlacementBody::Place(nodes(&[1, 4]))), "no queue node");
}

#[test]
fn a_change_that_is_based_on_another_epoch_is_void() {
    let mut world = World::placed(&[1, 2]);
    let before = world.placement.clone();
    for based_on in [Epoch(0), Epoch(2)] {
        let change = PlacementChange { partition: P, based_on, body: PlacementBody::HandOver(node(2)) };
        let answer = world.placement.apply(&world.members, change);
        assert_eq!(answer, PlacementAnswer::Void(before.partitions()[&P].clone()));
    }
    let change = PlacementChange { partition: PartitionId(1), based_on: Epoch(0), body: PlacementBody::AcceptLoss };
    assert_eq!(world.placement.apply(&world.members, change), PlacementAnswer::NoSuchPartition);
    assert_eq!(world.placement, before);
}

#[test]
fn a_primary_that_goes_down_is_followed_by_the_first_in_sync_of_the_ring_at_once() {
    let mut world = World::placed(&[1, 3, 2]);
    assert!(world.is_done(PlacementBody::Shrink(vec![replica(3, 1)])));
    let before = world.partition().epoch;
    world.down(1);
    assert_eq!(world.primary(), Some(replica(2, 1)), "3 comes first, but does not hold everything");
    assert_eq!((world.partition().in_sync.len(), world.partition().epoch), (1, before.next()));
}

#[test]
fn who_is_about_to_stop_is_chosen_only_where_there_is_nobody_else() {
    let mut world = World::placed(&[1, 2, 3]);
    world.drain(2);
    world.down(1);
    assert_eq!(world.primary(), Some(replica(3, 1)));
    world.down(3);
    assert_eq!(world.primary(), Some(replica(2, 1)));
}

#[test]
fn a_node_that_was_restarted_is_in_no_in_sync_set_until_the_primary_takes_it_in() {
    let mut world = World::placed(&[1, 2]);
    world.join(1, 2);
    assert_eq!((world.primary(), world.partition().in_sync.len()), (Some(replica(2, 1)), 1));
    assert!(!world.is_done(PlacementBody::Grow(replica(1, 1))), "that run is over");
    assert!(!world.is_done(PlacementBody::Grow(replica(3, 1))), "it is not to keep it");
    assert!(!world.is_done(PlacementBody::Grow(replica(1, 2))), "its earlier run still counts");
    world.confirm();
    assert!(world.is_done(PlacementBody::Grow(replica(1, 2))));
    assert_eq!(world.partition().in_sync, [replica(2, 1), replica(1, 2)]);
}

#[test]
fn another_journal_in_the_same_run_counts_as_a_restart() {
    let mut world = World::placed(&[1, 2]);
    world.join_with(2, 1, 77);
    assert_eq!(world.partition().in_sync, [replica(1, 1)]);
}

#[test]
fn whoever_is_released_leaves_the_in_sync_set() {
    let mut world = World::placed(&[1, 2]);
    assert!(world.is_done(PlacementBody::Place(nodes(&[1, 2, 3]))));
    assert!(world.is_done(PlacementBody::Grow(replica(3, 1))));
    assert!(world.is_done(PlacementBody::HandOver(node(3))));
    assert!(world.is_done(PlacementBody::Place(nodes(&[3, 2]))));
    assert_eq!(world.partition().in_sync, [replica(2, 1), replica(3, 1)]);
    assert_eq!(world.primary(), Some(replica(3, 1)));
}

#[test]
fn a_primary_cannot_be_shrunk_away_and_who_is_not_in_sync_cannot_take_over() {
    let mut world = World::placed(&[1, 2]);
    assert!(!world.is_done(PlacementBody::Shrink(vec![replica(1, 1)])));
    assert!(!world.is_done(PlacementBody::HandOver(node(3))));
    assert!(world.is_done(PlacementBody::Shrink(vec![replica(2, 1)])));
    assert!(!world.is_done(PlacementBody::HandOver(node(2))));
}

#[test]
fn the_last_one_that_went_is_waited_for_and_serves_again_once_it_has_reported() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.confirm();
    world.down(2);
    let waiting = PartitionStatus::Waiting { reports: BTreeMap::new() };
    assert_eq!((world.primary(), &world.partition().status), (None, &waiting));
    assert_eq!(world.partition().in_sync, [replica(2, 1)], "whom it waits for");
    world.join(1, 2);
    assert!(matches!(world.report(1, 2, 900), PlacementAnswer::Done(_)), "noted");
    assert_eq!(world.primary(), None, "it may have missed something");
    world.join(2, 2);
    assert!(matches!(world.report(2, 1, 7), PlacementAnswer::Void(_)), "that run is over");
    assert!(matches!(world.report(2, 2, 7), PlacementAnswer::Done(_)));
    assert_eq!((world.primary(), &world.partition().in_sync), (Some(replica(2, 2)), &vec![replica(2, 2)]));
    assert!(world.partition().is_serving());
}

#[test]
fn a_report_ends_with_the_run_that_made_it_and_a_repeated_one_changes_nothing() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.confirm();
    world.down(2);
    world.join(1, 2);
    world.report(1, 2, 5);
    let before = world.placement.clone();
    assert!(matches!(world.report(1, 2, 5), PlacementAnswer::Done(_)));
    assert_eq!(world.placement, before);
    world.join(1, 3);
    assert_eq!(world.partition().status, PartitionStatus::Waiting { reports: BTreeMap::new() });
}

#[test]
fn a_copy_that_had_everything_is_chosen_where_the_last_one_in_sync_served_nothing_and_lost_its_journal() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    assert_eq!(world.partition().in_sync, [replica(2, 1)]);
    assert!(world.partition().concerns(&node(1)), "it is not let go");
    world.down(2);
    assert_eq!(world.partition().in_sync, [replica(1, 1), replica(2, 1)], "either holds everything");
    world.join_with(2, 2, 99);
    world.join(1, 2);
    world.report(1, 2, 8);
    assert_eq!(world.primary(), Some(replica(1, 2)));
}

#[test]
fn once_it_is_confirmed_that_a_primary_goes_on_alone_nobody_else_is_chosen() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.confirm();
    assert_eq!(world.partition().holders, [replica(2, 1)]);
    let before = world.partition().clone();
    assert_eq!(world.now(PlacementBody::Confirm), PlacementAnswer::Done(before), "once is enough");
    world.down(2);
    world.join(1, 2);
    world.report(1, 2, 8);
    world.join_with(2, 2, 99);
    assert_eq!((world.primary(), &world.partition().status), (None, &PartitionStatus::JournalLost));
}

#[test]
fn who_never_stopped_serves_at_once_and_whoever_may_have_as_much_counts_until_that_is_confirmed() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.down(2);
    world.join(2, 1);
    world.report(2, 1, 7);
    assert_eq!((world.primary(), world.partition().in_sync.len()), (Some(replica(2, 1)), 1), "1 is not waited for");
    assert_eq!(world.partition().holders, [replica(2, 1), replica(1, 1)]);
    world.join_with(2, 2, 99);
    assert_eq!(world.primary(), None);
    world.join(1, 2);
    world.report(1, 2, 7);
    assert_eq!(world.primary(), Some(replica(1, 2)));
}

#[test]
fn a_journal_is_lost_once_everyone_has_left_or_come_back_without_it() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.confirm();
    world.down(2);
    world.join_with(2, 2, 99);
    assert_eq!(world.partition().status, PartitionStatus::JournalLost);
    assert_eq!(world.primary(), None);
    world.join_with(2, 3, 2);
    assert_eq!(world.partition().status, PartitionStatus::Waiting { reports: BTreeMap::new() }, "it was found again");
    world.member(MemberChange::Leave(node(2)));
    assert_eq!(world.partition().status, PartitionStatus::JournalLost);
}

#[test]
fn a_journal_that_is_not_what_it_was_wins_only_by_an_operators_choice() {
    let shortened = |n, incarnation, seq| {
        let replica = Replica { journal: Report::NOT_WHAT_IT_WAS, ..replica(n, incarnation) };
        PlacementBody::Report(Report { replica, last: Position { epoch: Epoch(1), seq }, verified: false })
    };
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.confirm();
    world.down(2);
    world.join(2, 2);
    assert!(world.is_done(shortened(2, 2, 7)));
    assert_eq!(world.partition().status, PartitionStatus::JournalLost, "it was the last one in sync");
    assert_eq!(world.now(shortened(1, 1, 9)), PlacementAnswer::Void(world.partition().clone()), "it is not there");
    world.join(2, 3);
    assert!(
        matches!(world.partition().status, PartitionStatus::Waiting { .. }),
        "another run may find what was missing"
    );
    world.now(shortened(2, 3, 7));
    assert!(world.is_done(PlacementBody::AcceptLoss));
    assert_eq!(world.primary(), Some(replica(2, 3)));
}

#[test]
fn a_journal_that_is_what_it_was_wins_against_a_longer_one_that_is_not() {
    let mut world = World::placed(&[1, 2]);
    let partitions = Arc::make_mut(&mut world.placement.partitions);
    let waiting = PartitionStatus::Waiting { reports: BTreeMap::new() };
    let partition = partitions.get_mut(&P).expect("placed");
    *partition = Partition { primary: None, status: waiting, ..partition.clone() };
    world.join(1, 2);
    world.join(2, 2);
    let not_what_it_was = Replica { journal: Report::NOT_WHAT_IT_WAS, ..replica(1, 2) };
    let last = Position { epoch: Epoch(1), seq: 9 };
    assert!(world.is_done(PlacementBody::Report(Report { replica: not_what_it_was, last, verified: false })));
    assert_eq!(world.primary(), None);
    world.report(2, 2, 8);
    assert_eq!(world.primary(), Some(replica(2, 2)));
}

#[test]
fn the_last_copy_that_leaves_for_good_is_lost_at_once() {
    let mut world = World::placed(&[1]);
    world.member(MemberChange::Remove(node(1)));
    assert_eq!(world.partition().status, PartitionStatus::JournalLost);
}

#[test]
fn an_operator_who_accepts_the_loss_gets_the_longest_journal_there_is() {
    let mut world = World::placed(&[1, 2, 3]);
    world.down(1);
    world.down(2);
    world.confirm();
    world.down(3);
    assert_eq!(world.now(PlacementBody::AcceptLoss), PlacementAnswer::NothingToAccept);
    world.join(1, 2);
    world.join(2, 2);
    world.report(1, 2, 5);
    world.member(MemberChange::Leave(node(3)));
    assert_eq!(world.partition().status, PartitionStatus::JournalLost);
    world.report(2, 2, 8);
    assert!(world.is_done(PlacementBody::AcceptLoss));
    assert_eq!((world.primary(), world.partition().is_serving()), (Some(replica(2, 2)), true));
    assert!(matches!(world.now(PlacementBody::AcceptLoss), PlacementAnswer::Void(_)), "there is nothing lost any more");
}

#[test]
fn who_is_up_and_only_has_not_reported_yet_is_not_given_up() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.down(2);
    world.join(1, 2);
    world.report(1, 2, 5);
    world.join(2, 2);
    let before = world.partition().clone();
    assert_eq!(world.now(PlacementBody::AcceptLoss), PlacementAnswer::Awaited(node(2)));
    assert_eq!(*world.partition(), before);
    world.down(2);
    assert!(world.is_done(PlacementBody::AcceptLoss), "it is gone again, with what it has");
    assert_eq!(world.primary(), Some(replica(1, 2)));
}

#[test]
fn who_was_out_of_sight_for_a_moment_has_still_said_what_it_has() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.confirm();
    world.down(2);
    world.join(1, 2);
    world.join_with(2, 2, 9);
    assert_eq!(world.partition().status, PartitionStatus::JournalLost, "2 was the last one in sync");
    world.report(1, 2, 8);
    let emptied = Replica { journal: JournalId(9), ..replica(2, 2) };
    world.now(PlacementBody::Report(Report { replica: emptied, last: Position::default(), verified: true }));
    world.down(1);
    world.join(1, 2);
    assert!(world.is_done(PlacementBody::AcceptLoss));
    assert_eq!(world.primary(), Some(replica(1, 2)), "it has everything");
}

#[test]
fn where_nobody_has_anything_an_operator_begins_anew_with_somebody_who_is_there() {
    let mut world = World::placed(&[1, 2]);
    world.down(1);
    world.confirm();
    world.member(MemberChange::Leave(node(2)));
    assert_eq!(world.now(PlacementBody::AcceptLoss), PlacementAnswer::NothingToAccept);
    assert!(world.is_done(PlacementBody::Place(nodes(&[1, 3]))));
    assert!(world.is_done(PlacementBody::AcceptLoss));
    assert_eq!(world.primary(), Some(replica(3, 1)));
}

#[test]
fn who_stays_away_is_given_up_only_for_a_verified_journal() {
    let mut world = World::placed(&[1, 2]);
    let partitions = Arc::make_mut(&mut world.placement.partitions);
    let waiting = PartitionStatus::Waiting { reports: BTreeMap::new() };
    let partition = partitions.get_mut(&P).expect("placed");
    *partition = Partition { primary: None, status: waiting, ..partition.clone() };
    world.down(2);
    world.join(1, 2);
    assert!(!world.is_done(PlacementBody::WaitNoLonger));
    let report = |verified| Report { replica: replica(1, 2), last: Position::default(), verified };
    assert!(world.is_done(PlacementBody::Report(report(false))));
    assert!(!world.is_done(PlacementBody::WaitNoLonger));
    assert!(world.is_done(PlacementBody::Report(report(true))));
    assert_eq!(world.primary(), None, "2 may have more");
    assert!(world.is_done(PlacementBody::WaitNoLonger));
    assert_eq!(world.primary(), Some(replica(1, 2)));
}

#[test]
fn a_node_changes_only_what_it_is_the_primary_of_and_reports_only_for_itself() {
    let world = World::placed(&[1, 2]);
    let may = |n, incarnation, based_on, body: &PlacementBody| {
        let change = PlacementChange { partition: P, based_on: Epoch(based_on), body: body.clone() };
        world.placement.may_come_from(&node(n), Incarnation(incarnation), &change)
    };
    let report = PlacementBody::Report(Report { replica: replica(1, 1), last: Position::default(), verified: true });
    let by_primary = [
        PlacementBody::Shrink(vec![]),
        PlacementBody::Confirm,
        PlacementBody::Grow(replica(3, 1)),
        PlacementBody::HandOver(node(2)),
    ];
    for body in by_primary {
        assert!(may(1, 1, 1, &body) && !may(1, 2, 1, &body) && !may(2, 1, 1, &body), "{body:?}");
        assert!(may(2, 1, 0, &body), "it is void, and its answer says who the primary is: {body:?}");
    }
    assert!(may(1, 1, 1, &report) && !may(1, 2, 1, &report) && !may(2, 1, 1, &report));
    assert!(may(9, 9, 1, &PlacementBody::AcceptLoss));
    assert!(!may(1, 1, 1, &PlacementBody::Place(nodes(&[1]))) && !may(1, 1, 1, &PlacementBody::WaitNoLonger));
}

#[test]
fn partitions_travel_in_a_few_bytes_each_and_come_back_as_they_were() {
    let mut world = World::new(64, 3);
    for id in 0..64 {
        let (first, second) = (1 + id as u8 % 3, 1 + (id as u8 + 1) % 3);
        let body = PlacementBody::Place(nodes(&[first, second]));
        let change = PlacementChange { partition: PartitionId(id), based_on: Epoch(0), body };
        assert!(matches!(world.placement.apply(&world.members, change), PlacementAnswer::Done(_)));
    }
    let bytes = encode(&world.placement);
    assert!(bytes.len() < 2_000, "{} bytes", bytes.len());
    assert_eq!(decode(&bytes), Ok(world.placement.clone()));
    world.down(1);
    world.down(2);
    world.down(3);
    world.join(3, 2);
    world.report(3, 2, 9);
    assert_eq!(decode(&encode(&world.placement)), Ok(world.placement));
}

#[test]
fn a_partition_that_refers_to_nobody_is_unreadable() {
    let world = World::placed(&[1, 2]);
    let bytes = encode(&world.placement).to_vec();
    // The two replicas of the only partition, by their numbers in the table.
    let refers = bytes.windows(3).rposition(|three| three == [0x82, 0, 1]).expect("numbers");
    let mut wrong = bytes.clone();
    wrong[refers + 2] = 7;
    assert!(decode::<Placement>(&bytes).is_ok());
    assert!(decode::<Placement>(&wrong).is_err());
}
