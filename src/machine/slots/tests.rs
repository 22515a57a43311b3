//! Slots through founding, death, joining, draining: one home an epoch, moves that end, shares that are fair.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Came, Slot, SlotAnswer, SlotBody, SlotChange, Slots, home_of,
    plan::{self, CacheNode, MOVES_AT_ONCE, Situation},
};
use crate::{
    codec,
    ids::{Epoch, Incarnation, NodeId, Role, Term, Tick},
    machine::{
        cache::{HomeId, SLOTS, SlotId},
        membership::{Joiner, MemberChange, Membership},
    },
};

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn home(n: u8, incarnation: u64) -> HomeId {
    HomeId { node: node(n), incarnation: Incarnation(incarnation), group: 0 }
}

/// Members and slots, with a leader that has all the time.
#[derive(Default)]
struct Cluster {
    members: Membership,
    slots: Slots,
    /// Every home that an epoch of a slot ever had.
    homes: BTreeMap<(SlotId, Epoch), HomeId>,
}

impl Cluster {
    /// So many cache nodes, and everything where it is to be.
    fn of(nodes: u8) -> Self {
        let mut cluster = Self::default();
        (1..=nodes).for_each(|n| cluster.join(n, 1));
        cluster.settle();
        cluster
    }

    fn change(&mut self, change: MemberChange) {
        let mut news = Vec::new();
        self.members.change(Tick(1), Term(1), change, &mut news);
        news.iter().for_each(|news| self.slots.member_changed(&self.members, &news.node));
        self.look();
    }

    fn join(&mut self, n: u8, incarnation: u64) {
        let roles = vec![Role::CacheNode];
        self.change(MemberChange::Join(Joiner { roles, ..Joiner::of(node(n), incarnation) }));
    }

    fn down(&mut self, n: u8, incarnation: u64) {
        self.change(MemberChange::Down { node: node(n), incarnation: Incarnation(incarnation), term: None });
    }

    fn drain(&mut self, n: u8, incarnation: u64) {
        self.change(MemberChange::Drain { node: node(n), incarnation: Incarnation(incarnation) });
    }

    fn apply(&mut self, change: SlotChange) -> SlotAnswer {
        let answer = self.slots.apply(&self.members, change);
        self.look();
        answer
    }

    /// No epoch has two homes, and no home is one that does not serve.
    fn look(&mut self) {
        for (id, slot) in self.slots.table().iter() {
            let Some(home) = slot.home else { continue };
            let first = *self.homes.entry((*id, slot.epoch)).or_insert(home);
            assert_eq!(first, home, "{id:?} has two homes in {:?}", slot.epoch);
            assert!(super::is_home_now(&self.members, home), "{id:?} has a home that is none");
        }
    }

    fn planned<R>(&self, plan: impl Fn(&Situation<'_>) -> R) -> R {
        let nodes = self.members.members().iter().filter_map(|(node, member)| {
            let seen = CacheNode { home: home_of(member)?, liveness: member.liveness, since_ms: 60_000 };
            Some((*node, seen))
        });
        let in_epoch_ms = self.slots.table().keys().map(|id| (*id, 60_000)).collect();
        plan(&Situation { slots: self.slots.table(), in_epoch_ms: &in_epoch_ms, nodes: &nodes.collect() })
    }

    /// The homes hand over whatever is to be handed over.
    fn hand_over(&mut self) -> usize {
        let table = self.slots.table().clone();
        let moves: Vec<_> =
            table.iter().filter_map(|(id, slot)| Some((*id, slot.epoch, slot.home?, slot.to?))).collect();
        for (slot, based_on, by, to) in &moves {
            let to = if super::is_home_now(&self.members, *to) { *to } else { *by };
            self.apply(SlotChange { slot: *slot, based_on: *based_on, body: SlotBody::Handed(to) });
        }
        moves.len()
    }

    /// Goes on until there is nothing to be done; how many slots changed hands.
    fn settle(&mut self) -> usize {
        let mut handed = 0;
        for _ in 0..1_000 {
            let changes = self.planned(plan::next);
            handed += self.hand_over();
            if changes.is_empty() && self.planned(plan::next).is_empty() {
                return handed;
            }
            changes.into_iter().for_each(|change| _ = self.apply(change));
        }
        panic!("the moves do not end");
    }

    fn share(&self, n: u8) -> usize {
        self.slots.table().values().filter(|slot| slot.home.is_some_and(|home| home.node == node(n))).count()
    }
}

#[test]
fn all_slots_are_placed_together_and_nobody_has_to_wait() {
    let cluster = Cluster::of(3);
    assert_eq!(cluster.slots.table().len(), usize::from(SLOTS));
    assert!(cluster.slots.table().values().all(|slot| slot.epoch == Epoch(1) && slot.came == Came::Founded));
    assert!((1..=3).all(|n| (51..=120).contains(&cluster.share(n))));
}

#[test]
fn who_died_is_followed_at_once_and_only_where_it_was_home() {
    let mut cluster = Cluster::of(3);
    let before = cluster.slots.table().clone();
    cluster.down(2, 1);
    assert_eq!(cluster.share(2), 0);
    for (id, slot) in cluster.slots.table().iter() {
        if before[id].home == Some(home(2, 1)) {
            assert_eq!((slot.epoch, slot.came), (Epoch(2), Came::Lost));
        } else {
            assert_eq!(slot, &before[id]);
        }
    }
}

#[test]
fn who_comes_back_is_home_to_nothing_until_an_epoch_says_so() {
    let mut cluster = Cluster::of(1);
    cluster.join(1, 2);
    let slot = cluster.slots.slot(SlotId(0));
    assert_eq!(slot, Slot { epoch: Epoch(2), home: Some(home(1, 2)), came: Came::Lost, to: None });
    cluster.down(1, 2);
    assert_eq!(cluster.slots.slot(SlotId(0)).home, None);
    cluster.join(1, 3);
    cluster.settle();
    let slot = cluster.slots.slot(SlotId(0));
    assert_eq!((slot.epoch, slot.home, slot.came), (Epoch(4), Some(home(1, 3)), Came::Lost));
}

#[test]
fn who_joins_takes_about_its_share_by_moves_that_end() {
    let mut cluster = Cluster::of(3);
    let before = cluster.slots.table().clone();
    cluster.join(4, 1);
    assert_eq!(cluster.planned(plan::next).len(), MOVES_AT_ONCE);
    let handed = cluster.settle();
    assert_eq!(handed, cluster.share(4), "nothing else moves");
    assert!((38..=96).contains(&handed), "{handed} of 256");
    for (id, slot) in cluster.slots.table().iter().filter(|(_, slot)| slot.epoch > Epoch(1)) {
        assert_eq!(slot.came, Came::Handed(before[id].home.expect("it was placed")));
    }
    assert_eq!(cluster.planned(plan::moving), 0);
}

#[test]
fn who_is_about_to_stop_gives_all_of_it_away() {
    let mut cluster = Cluster::of(3);
    cluster.drain(1, 1);
    assert!(cluster.share(1) > 0, "it serves until it has handed over");
    cluster.settle();
    assert_eq!(cluster.share(1), 0);
}

#[test]
fn nothing_is_begun_to_be_handed_to_who_is_about_to_stop() {
    let mut cluster = Cluster::of(3);
    cluster.drain(1, 1);
    let moves = cluster.planned(plan::next);
    let (early, late) = moves.split_at(moves.len() / 2);
    early.iter().for_each(|change| _ = cluster.apply(*change));
    // Those that go to node 2 were planned before it was known that it drains, too.
    cluster.drain(2, 1);
    let to_node_2 = |change: &&SlotChange| change.body == SlotBody::Move(home(2, 1));
    assert!(early.iter().any(|change| to_node_2(&change)) && late.iter().any(|change| to_node_2(&change)));
    for change in late.iter().filter(to_node_2) {
        assert_eq!(cluster.apply(*change), SlotAnswer::Void(change.based_on));
    }
    // What was begun comes, and goes on from there.
    cluster.settle();
    assert_eq!((cluster.share(1), cluster.share(2), cluster.share(3)), (0, 0, 256));
    assert!(cluster.slots.table().values().all(|slot| slot.came != Came::Lost));
}

#[test]
fn the_only_one_keeps_its_slots_while_it_stops() {
    let mut cluster = Cluster::of(1);
    cluster.drain(1, 1);
    assert_eq!((cluster.settle(), cluster.share(1)), (0, 256));
}

#[test]
fn a_move_whose_target_died_ends_where_it_began() {
    let mut cluster = Cluster::of(2);
    cluster.join(3, 1);
    let changes = cluster.planned(plan::next);
    let SlotChange { slot, .. } = changes[0];
    changes.into_iter().for_each(|change| _ = cluster.apply(change));
    let before = cluster.slots.slot(slot);
    cluster.down(3, 1);
    let refused = SlotChange { slot, based_on: before.epoch, body: SlotBody::Handed(home(3, 1)) };
    assert_eq!(cluster.apply(refused), SlotAnswer::Void(before.epoch));
    cluster.settle();
    let after = cluster.slots.slot(slot);
    assert_eq!((after.home, after.epoch), (before.home, before.epoch.next()));
    assert_eq!(after.came, Came::Handed(before.home.expect("it has one")));
}

#[test]
fn only_the_home_itself_hands_over_and_only_where_it_is_to() {
    let mut cluster = Cluster::of(2);
    let slot = SlotId(7);
    let now = cluster.slots.slot(slot);
    let by = now.home.expect("placed");
    let other = home(if by.node == node(1) { 2 } else { 1 }, 1);
    let handed = SlotChange { slot, based_on: now.epoch, body: SlotBody::Handed(other) };
    assert!(cluster.slots.may_come_from(&by.node, by.incarnation, &handed));
    assert!(!cluster.slots.may_come_from(&other.node, other.incarnation, &handed));
    assert!(!cluster.slots.may_come_from(&by.node, Incarnation(9), &handed));
    assert_eq!(cluster.apply(handed), SlotAnswer::Void(now.epoch), "nobody wants it to move");
    let stale = SlotChange { based_on: Epoch(0), ..handed };
    assert!(cluster.slots.may_come_from(&other.node, other.incarnation, &stale), "it hears how it is");
    assert_eq!(cluster.apply(stale), SlotAnswer::Void(now.epoch));
}

#[test]
fn slots_survive_the_wire() {
    let mut cluster = Cluster::of(3);
    cluster.join(4, 1);
    cluster.planned(plan::next).into_iter().for_each(|change| _ = cluster.apply(change));
    cluster.hand_over();
    cluster.planned(plan::next).into_iter().for_each(|change| _ = cluster.apply(change));
    let bytes = codec::encode(&cluster.slots);
    assert!(bytes.len() < 5_000, "{} bytes", bytes.len());
    assert_eq!(codec::decode::<Slots>(&bytes).as_ref(), Ok(&cluster.slots));
}

proptest! {
    #[test]
    fn no_epoch_has_two_homes_whatever_happens(steps in prop::collection::vec((0..6_u8, 1..5_u8), 1..40)) {
        let mut cluster = Cluster::of(2);
        let mut runs = BTreeMap::from([(1_u8, 1_u64), (2, 1), (3, 0), (4, 0)]);
        for (what, n) in steps {
            let run = runs[&n];
            match what {
                0 => {
                    runs.insert(n, run + 1);
                    cluster.join(n, run + 1);
                }
                1 => cluster.down(n, run),
                2 => cluster.drain(n, run),
                3 => cluster.planned(plan::next).into_iter().for_each(|change| _ = cluster.apply(change)),
                4 => _ = cluster.hand_over(),
                _ => cluster.change(MemberChange::Leave(node(n))),
            }
        }
        cluster.settle();
        let serving = cluster.members.members().values().any(|member| home_of(member).is_some());
        let placed = cluster.slots.table().values().filter(|slot| slot.home.is_some()).count();
        let up = cluster.members.members().values().any(|m| m.liveness == crate::machine::membership::Liveness::Up);
        if up {
            prop_assert_eq!(placed, 256);
        }
        prop_assert!(serving || placed == 0);
    }
}
