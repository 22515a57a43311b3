//! Long random runs of a [`World`]: nothing goes wrong in them, and once faults end, everybody has everything.

use super::{
    Durability, RoleView, Settings,
    world::{Action, Budget, World},
};
use crate::machine::placement::PartitionStatus;

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    }
}

const OPERATIONS: usize = 40;

fn budget(random: &mut Random) -> Budget {
    let durability = |at| if at { Durability::InMemory } else { Durability::Synced };
    Budget {
        operations: (0..OPERATIONS).map(|_| durability(random.next(3) == 0)).collect(),
        crashes: random.next(8) as u8,
        amnesias: 0,
        suspicions: random.next(6) as u8,
        ticks: 200,
        unknowns: random.next(10) as u8,
        duplicates: 100,
        hand_overs: random.next(4) as u8,
        forgotten: 0,
        calls: None,
    }
}

/// How likely an action is, against the others.
fn weight(action: &Action) -> usize {
    match action {
        Action::Deliver { .. } | Action::Write { .. } | Action::Apply { .. } | Action::View { .. } => 12,
        Action::Propose { .. } | Action::Join { .. } | Action::Trust { .. } | Action::Restart { .. } => 6,
        Action::DeliverAndKeep { .. } | Action::Time { .. } | Action::Unknown { .. } => 2,
        _ => 1,
    }
}

fn choose(random: &mut Random, world: &World) -> Option<Action> {
    let mut actions = Vec::new();
    world.actions(&mut actions);
    let total: usize = actions.iter().map(weight).sum();
    let mut at = random.next(total.max(1));
    actions.into_iter().find(|action| {
        let found = at < weight(action);
        at = at.saturating_sub(weight(action));
        found
    })
}

/// No more faults, and time enough.
fn heal(world: &mut World, nodes: usize) {
    world.end_faults();
    for _ in 0..200 {
        world.settle();
        for node in 0..nodes {
            world.happen(&Action::Time { node });
        }
    }
}

fn run(seed: u64, nodes: usize, settings: Settings) {
    let mut random = Random(seed);
    let mut world = World::new(nodes, nodes, settings, budget(&mut random), &[]);
    for _ in 0..1_500 {
        let Some(action) = choose(&mut random, &world) else { break };
        match action {
            Action::Deliver { envelope } if random.next(8) == 0 => world.lose(envelope),
            action => world.happen(&action),
        }
        assert_eq!(world.wrong, None, "seed {seed}");
    }
    heal(&mut world, nodes);
    assert_eq!(world.wrong, None, "seed {seed}, healed");
    let placement = world.placement();
    assert_eq!(placement.status, PartitionStatus::Serving, "seed {seed}");
    assert_eq!(placement.in_sync.len(), nodes, "seed {seed}: everybody is in sync again: {placement:?}");
    let primary = (0..nodes)
        .find(|at| world.machine(*at).map(|machine| machine.role()) == Some(RoleView::Primary { serving: true }));
    let primary = primary.unwrap_or_else(|| panic!("seed {seed}: somebody serves"));
    let last = world.machine(primary).expect("it runs").last();
    for at in 0..nodes {
        let machine = world.machine(at).expect("it runs");
        assert_eq!((machine.last(), machine.committed()), (last, last), "seed {seed}: node {at} has everything");
        assert_eq!(world.applied(at), world.applied(primary), "seed {seed}: node {at} has applied the same");
    }
}

fn settings() -> Settings {
    Settings { max_batch_records: 3, pipeline: 2, lag_to_grow: 2, keep_records: 4, ..Settings::default() }
}

#[test]
fn two_copies_survive_random_faults_and_are_whole_again() {
    for seed in 0..300 {
        run(seed, 2, settings());
    }
}

#[test]
fn three_copies_survive_random_faults_and_are_whole_again() {
    for seed in 0..300 {
        run(seed, 3, settings());
    }
}
