//! What each protocol costs, counted: how many messages and values an operation takes. What these figures
//! should be is in the specification of the protocol, "What E and O buy".

use crate::machine::cache::{
    Protocol, WritePolicy,
    world::{Begin, Budget, Kind, Sent, World},
};

use Sent::{Broadcast, Exchange, Notice, Value};

/// Three caches that have done nothing, and gossip.
fn world(protocol: Protocol, policy: WritePolicy) -> World {
    let budget = Budget { gossip: true, ..Budget::default() };
    let mut world = World::new(Begin { protocol, policy, plans: vec![vec![]; 3], budget, apart: false }, &[]);
    world.sent = Some(vec![]);
    world
}

/// What it costs that a cache does something, after the others did these.
fn cost(protocol: Protocol, policy: WritePolicy, before: &[(usize, Kind)], cache: usize, kind: Kind) -> Vec<Sent> {
    let mut world = world(protocol, policy);
    before.iter().for_each(|(cache, kind)| world.does_all(*cache, *kind));
    world.take_sent();
    world.does_all(cache, kind);
    assert_eq!(world.wrong, None);
    world.take_sent()
}

/// The same for each protocol under `back`.
fn costs(before: &[(usize, Kind)], cache: usize, kind: Kind) -> [Vec<Sent>; 3] {
    Protocol::ALL.map(|protocol| cost(protocol, WritePolicy::Back, before, cache, kind))
}

/// The home has a value, and no cache has.
const HOME_HAS_IT: [(usize, Kind); 2] = [(2, Kind::Store), (2, Kind::Evict)];
const GET_S: Sent = Exchange("get-s");

#[test]
fn a_load_that_hits_costs_nothing() {
    let before = [HOME_HAS_IT[0], HOME_HAS_IT[1], (0, Kind::Load)];
    assert_eq!(costs(&before, 0, Kind::Load), [vec![], vec![], vec![]]);
}

#[test]
fn a_load_of_what_the_home_has_is_one_exchange_and_one_value() {
    let one = || vec![GET_S, Value];
    assert_eq!(costs(&HOME_HAS_IT, 0, Kind::Load), [one(), one(), one()]);
}

#[test]
fn a_load_of_what_another_cache_owns_is_two_exchanges_and_the_value_crosses_twice_in_mesi_only() {
    let before = [(1, Kind::Store)];
    let by_owner = || vec![Exchange("fetch"), GET_S, Value];
    let by_home = vec![GET_S, Exchange("recall"), Value, Value];
    assert_eq!(costs(&before, 0, Kind::Load), [by_home, by_owner(), by_owner()]);
}

#[test]
fn a_clean_line_of_another_cache_crosses_once_in_every_protocol() {
    let before = [HOME_HAS_IT[0], HOME_HAS_IT[1], (1, Kind::Load)];
    // Where there is no E it is the home's to give. What is clean is surrendered without a value: the home has it.
    let by_home = vec![GET_S, Exchange("recall"), Value];
    let by_owner = vec![Exchange("fetch"), GET_S, Value];
    assert_eq!(costs(&before, 0, Kind::Load), [by_home, vec![GET_S, Value], by_owner]);
}

#[test]
fn the_next_load_by_a_third_is_one_exchange_in_mesi_and_two_where_the_owner_supplies() {
    let before = [(1, Kind::Store), (0, Kind::Load)];
    let by_owner = || vec![Exchange("fetch"), GET_S, Value];
    assert_eq!(costs(&before, 2, Kind::Load), [vec![GET_S, Value], by_owner(), by_owner()]);
}

#[test]
fn a_store_by_the_only_reader_costs_nothing_where_there_is_e() {
    let before = [HOME_HAS_IT[0], HOME_HAS_IT[1], (0, Kind::Load)];
    assert_eq!(costs(&before, 0, Kind::Store), [vec![], vec![Exchange("upgrade")], vec![]]);
}

#[test]
fn a_store_with_sharers_is_one_exchange_one_broadcast_and_an_acknowledgement_of_each() {
    let [seed, evict] = HOME_HAS_IT;
    let before = [seed, evict, (0, Kind::Load), (1, Kind::Load), (2, Kind::Load)];
    let mosi = vec![Exchange("upgrade"), Notice("inv-ack"), Notice("inv-ack"), Broadcast];
    let [mesi_costs, mosi_costs, moesi_costs] = costs(&before, 0, Kind::Store);
    assert_eq!(mosi_costs, mosi);
    // The first reader was given E: in MESI it shares now, in MOESI it owns what the others share.
    assert_eq!(mesi_costs, mosi);
    assert_eq!(moesi_costs, mosi);
}

#[test]
fn a_store_with_one_other_sharer_waits_for_one_acknowledgement() {
    let [seed, evict] = HOME_HAS_IT;
    let before = [seed, evict, (0, Kind::Load), (1, Kind::Load)];
    let one = || vec![Exchange("upgrade"), Notice("inv-ack"), Broadcast];
    assert_eq!(costs(&before, 0, Kind::Store), [one(), one(), one()]);
}

#[test]
fn a_silent_sharer_is_told_by_unicast_and_by_nothing_else() {
    for protocol in Protocol::ALL {
        let mut world = world(protocol, WritePolicy::Back).with(Budget::default(), &[]);
        for (cache, kind) in [(2, Kind::Store), (2, Kind::Evict), (0, Kind::Load), (1, Kind::Load)] {
            world.does_all(cache, kind);
        }
        world.take_sent();
        world.does_all(0, Kind::Store);
        assert_eq!(world.take_sent(), [Exchange("upgrade"), Broadcast], "gossip is lost, so it waits");
        world.time_passes(1);
        world.home_ticks();
        world.settle();
        assert_eq!(world.take_sent(), [Exchange("inv"), Notice("inv-ack")], "{protocol:?}");
        assert_eq!(world.wrong, None);
        world.does_all(0, Kind::Store);
        assert_eq!(world.take_sent(), [], "{protocol:?}: it has the line");
    }
}

#[test]
fn a_store_of_what_another_cache_owns_is_two_exchanges() {
    let before = [(1, Kind::Store)];
    // What is dirty comes to the home, though this store does not need it: were the grant lost, it would be gone.
    let two = || vec![Exchange("get-m"), Exchange("recall"), Value];
    assert_eq!(costs(&before, 0, Kind::Store), [two(), two(), two()]);
}

#[test]
fn an_eviction_costs_a_notice_or_an_exchange_and_a_value_where_it_is_dirty() {
    let [seed, evict] = HOME_HAS_IT;
    let put = || vec![Exchange("put")];
    let put_value = || vec![Exchange("put"), Value];
    let notice = || vec![Notice("put-s")];
    let first = [seed, evict, (0, Kind::Load)];
    assert_eq!(costs(&first, 0, Kind::Evict), [put(), notice(), put()], "E, S, E");
    let second = [seed, evict, (0, Kind::Load), (1, Kind::Load)];
    assert_eq!(costs(&second, 1, Kind::Evict), [notice(), notice(), notice()], "S");
    assert_eq!(costs(&second, 0, Kind::Evict), [notice(), notice(), put()], "S, S, O without a value: it is clean");
    assert_eq!(costs(&[(0, Kind::Store)], 0, Kind::Evict), [put_value(), put_value(), put_value()], "M");
    let shared = [(0, Kind::Store), (1, Kind::Load)];
    assert_eq!(costs(&shared, 0, Kind::Evict), [notice(), put_value(), put_value()], "S, O dirty, O dirty");
}

#[test]
fn a_store_through_is_one_exchange_with_the_value_and_no_invalidation() {
    let before = [(0, Kind::Store)];
    for protocol in Protocol::ALL {
        let cost = cost(protocol, WritePolicy::Through, &before, 0, Kind::Store);
        assert_eq!(cost, [Exchange("store-through"), Value], "{protocol:?}");
    }
}

#[test]
fn nothing_is_dirty_where_stores_are_written_through() {
    for protocol in Protocol::ALL {
        let cost = cost(protocol, WritePolicy::Through, &[(0, Kind::Store), (0, Kind::Store)], 0, Kind::Evict);
        assert_eq!(cost, [Exchange("put")], "{protocol:?}");
    }
}
