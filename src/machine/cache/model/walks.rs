//! Long random runs of larger worlds: nothing goes wrong in them, and once nothing fails any more every operation ends.

use proptest::{prelude::*, sample::Index};

use super::{
    Begin, Budget,
    Kind::{self, Delete, Evict, Load, Put, Store},
    Protocol, World, WritePolicy,
};

/// Twenty times as many runs as other properties get: each is short.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.saturating_mul(20), ..default }
}

/// What three caches do, and what befalls them.
fn begins() -> impl Strategy<Value = Begin> {
    let kinds = prop_oneof![4 => Just(Load), 3 => Just(Store), 1 => Just(Put), 1 => Just(Delete), 2 => Just(Evict)];
    let deeds = (kinds, prop_oneof![3 => Just(0), 2 => Just(1)]).prop_map(|(kind, key)| kind.on(key));
    let plans = proptest::collection::vec(proptest::collection::vec(deeds, 1..8), 3);
    let protocol = prop_oneof![Just(Protocol::Mesi), Just(Protocol::Mosi), Just(Protocol::Moesi)];
    let policy = prop_oneof![Just(WritePolicy::Back), Just(WritePolicy::Through)];
    (protocol, policy, plans, budgets(), any::<bool>()).prop_map(|(protocol, policy, plans, budget, apart)| Begin {
        protocol,
        policy,
        plans,
        budget,
        apart,
    })
}

fn budgets() -> impl Strategy<Value = Budget> {
    let often = (0..4_u8, 0..8_u8, 0..3_u8, 0..3_u8, 0..3_u8);
    let once = (0..3_u8, 0..3_u8, 0..2_u8, any::<bool>());
    (often, once).prop_map(|((duplicates, passes, crashes, abandonments, renewals), once)| {
        let (deposals, moves, home_evictions, gossip) = once;
        Budget { duplicates, passes, crashes, deposals, moves, home_evictions, abandonments, renewals, gossip }
    })
}

/// Does one thing after the other, as they are drawn from what can happen.
fn walk(begin: Begin, steps: &[Index]) -> World {
    let mut world = World::new(begin, &[]);
    for step in steps {
        let mut actions = Vec::new();
        world.actions(&mut actions);
        if actions.is_empty() {
            break;
        }
        world.happen(step.get(&actions));
    }
    world
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_goes_wrong_in_random_runs_and_every_operation_ends(
        begin in begins(),
        steps in proptest::collection::vec(any::<Index>(), 10..200),
    ) {
        let mut world = walk(begin, &steps);
        prop_assert_eq!(world.wrong, None);
        let waiting = world.come_to_rest();
        prop_assert_eq!(world.wrong, None);
        prop_assert_eq!(waiting, Vec::<(usize, Kind)>::new());
    }
}
