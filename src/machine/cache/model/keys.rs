//! Two keys of one slot, which share sessions, calls, nonces and what a successor is told, or of two slots, which share the
//! sessions; and homes that follow one another twice. Most begin where something is held already, since it takes too
//! many steps to get there.

use super::{
    Budget, Deed,
    Kind::{Delete, Evict, Load, Put, Store},
    Protocol, World, WritePolicy, check,
    small::CALM,
};
use crate::machine::cache::world::{Action, Begin};

/// More states than any of the worlds with two keys generates.
const MOST: usize = 200_000;
/// So many are looked at where homes follow one another: these worlds have more.
const MOST_OF_A_SUCCESSION: usize = 10_000;

/// Two caches that did this, one thing after the other.
fn after(protocol: Protocol, policy: WritePolicy, before: &[(usize, Deed)], apart: bool) -> World {
    let (plans, budget) = (vec![vec![]; 2], Budget { gossip: true, ..CALM });
    let mut world = World::new(Begin { protocol, policy, plans, budget, apart }, &[]);
    before.iter().for_each(|(cache, deed)| world.does_all_of(*cache, *deed));
    world
}

/// The first cache owns the first key, and shares the second, which the second one wrote.
const OWNED_AND_SHARED: [(usize, Deed); 3] = [(0, Store.on(0)), (1, Store.on(1)), (0, Load.on(1))];

/// The first cache owns the first key, and the second one shares it.
const OWNED: [(usize, Deed); 2] = [(0, Store.on(0)), (1, Load.on(0))];

/// A story of worlds: its name, what was done before, what the caches do, and what befalls them.
type Story = (&'static str, &'static [(usize, Deed)], &'static [&'static [Deed]], Budget);

const STORIES: [Story; 11] = [
    (
        "two keys beside each other",
        &[],
        &[&[Store.on(0), Load.on(1)], &[Store.on(1), Load.on(0)]],
        Budget { gossip: true, ..CALM },
    ),
    (
        "two keys, a duplicate",
        &OWNED_AND_SHARED,
        &[&[Store.on(1)], &[Load.on(0), Store.on(1)]],
        Budget { duplicates: 1, ..CALM },
    ),
    (
        "two keys, evictions",
        &OWNED_AND_SHARED,
        &[&[Evict.on(0), Load.on(1), Load.on(0)], &[Store.on(1), Load.on(0)]],
        CALM,
    ),
    (
        "two keys, a crash",
        &OWNED_AND_SHARED,
        &[&[Load.on(0), Load.on(1)], &[Store.on(1)]],
        Budget { crashes: 1, ..CALM },
    ),
    ("two keys, half a lease", &OWNED_AND_SHARED, &[&[Load.on(0)], &[Store.on(1)]], Budget { passes: 1, ..CALM }),
    ("two keys, a delete", &OWNED_AND_SHARED, &[&[Put.on(1), Load.on(0)], &[Delete.on(0), Delete.on(1)]], CALM),
    (
        "two keys, an eviction by the home",
        &OWNED_AND_SHARED,
        &[&[Load.on(1)], &[Load.on(0)]],
        Budget { home_evictions: 1, ..CALM },
    ),
    ("two keys, a planned move", &OWNED_AND_SHARED, &[&[Load.on(1)], &[Load.on(0)]], Budget { moves: 1, ..CALM }),
    (
        "an owner upgrades, and nobody waits",
        &OWNED,
        &[&[Store.on(0)], &[Load.on(0)]],
        Budget { passes: 1, abandonments: 1, ..CALM },
    ),
    (
        "an owner upgrades for nothing, and evicts",
        &OWNED,
        &[&[Store.on(0), Evict.on(0)], &[Load.on(0)]],
        Budget { abandonments: 1, duplicates: 1, ..CALM },
    ),
    ("an owner upgrades, a planned move", &OWNED, &[&[Store.on(0)], &[Load.on(0)]], Budget { moves: 1, ..CALM }),
];

/// Keys of two slots, of which one stays with the first home.
const APART: [Story; 2] = [
    (
        "two slots beside each other",
        &OWNED_AND_SHARED,
        &[&[Load.on(1), Evict.on(0)], &[Store.on(1), Load.on(0)]],
        Budget { duplicates: 1, ..CALM },
    ),
    ("two slots, a planned move", &OWNED_AND_SHARED, &[&[Load.on(1)], &[Load.on(0)]], Budget { moves: 1, ..CALM }),
];

/// How a slot came to its third home, or to its second one: what is done about homes before the checker looks, with time
/// between, and what may happen yet.
type Succession = (&'static str, &'static [Step], &'static [&'static [Deed]], Budget);

/// Something that happens to homes.
#[derive(Clone, Copy, Debug)]
enum Step {
    Depose,
    /// It hands over.
    Stop,
    Succeed,
    Half,
    /// Whoever runs looks what is due, and all that is said arrives.
    Settle,
    /// The same, but nothing arrives at this cache, or is heard of it.
    Deaf(usize),
    /// This cache hears of the newest epoch, but for longer than a lease not of its home: with the first one it renews its
    /// session.
    Away(usize),
    /// This cache hears of the newest epoch, and renews its session with the first home.
    Renew(usize),
}

use Step::{Away, Deaf, Depose, Half, Renew, Settle, Stop, Succeed};

const SUCCESSIONS: [Succession; 8] = [
    ("a successor that has waited", &[Depose, Succeed, Half], &[&[Load.on(0)], &[Store.on(1), Load.on(0)]], CALM),
    (
        "a successor while time passes",
        &[Depose, Succeed],
        &[&[Load.on(0)], &[Store.on(1)]],
        Budget { passes: 1, ..CALM },
    ),
    (
        "a successor that is deposed before it serves",
        &[Depose, Succeed, Depose, Succeed, Half],
        &[&[Load.on(1)], &[Store.on(0)]],
        CALM,
    ),
    (
        "a successor that served one cache, and is deposed",
        &[Depose, Succeed, Half, Deaf(0), Depose, Succeed, Half],
        &[&[Load.on(0)], &[Store.on(1)]],
        CALM,
    ),
    (
        "a planned move, and its new home is deposed",
        &[Stop, Succeed, Settle, Depose, Succeed, Half],
        &[&[Load.on(0)], &[Store.on(1)]],
        CALM,
    ),
    (
        "a planned move whose new home does not reach a cache, and is deposed",
        &[Stop, Succeed, Away(0), Deaf(0), Depose, Succeed, Half, Renew(0)],
        &[&[Load.on(0)], &[Store.on(1), Load.on(0)]],
        CALM,
    ),
    (
        "two planned moves, and the first new home does not reach a cache",
        &[Stop, Succeed, Away(0), Deaf(0), Stop, Succeed],
        &[&[Load.on(0)], &[Store.on(1), Load.on(0)]],
        CALM,
    ),
    (
        "a successor that hands over",
        &[Depose, Succeed, Half, Settle, Stop, Succeed],
        &[&[Load.on(0)], &[Store.on(1)]],
        CALM,
    ),
];

fn exhaust(name: &str, protocol: Protocol, policy: WritePolicy, world: World) {
    let found = check(world, MOST);
    eprintln!("{protocol:?} {policy:?}, {name}: {} states, depth {}", found.states, found.depth);
    assert_eq!(found.wrong, None, "{protocol:?}, {policy:?}, {name}: {found:#?}");
    assert!(found.exhausted, "{protocol:?}, {policy:?}, {name}: more than {} states", found.states);
}

fn exhaust_all(protocol: Protocol) {
    for policy in [WritePolicy::Back, WritePolicy::Through] {
        for (name, before, plans, budget) in STORIES {
            let world = after(protocol, policy, before, false).with_deeds(budget, plans);
            exhaust(name, protocol, policy, world);
        }
        for (name, before, plans, budget) in APART {
            let world = after(protocol, policy, before, true).with_deeds(budget, plans);
            exhaust(name, protocol, policy, world);
        }
    }
}

/// Looks at the successions up to so many states, with both keys in the slot that moves, or, where its first home hands
/// over, with the second one in another slot.
fn follow_all(protocol: Protocol, policy: WritePolicy, most: usize) {
    for (name, steps, plans, budget) in SUCCESSIONS {
        for apart in [false, true] {
            if apart && matches!(steps[0], Depose) {
                continue;
            }
            let mut world = after(protocol, policy, &OWNED_AND_SHARED, apart);
            steps.iter().for_each(|step| happen(&mut world, *step));
            assert_eq!(world.wrong, None, "{name}");
            let found = check(world.with_deeds(budget.clone(), plans), most);
            let end = if found.exhausted { "to the end" } else { "not to the end" };
            let slots = if apart { "two slots" } else { "one slot" };
            eprintln!(
                "{protocol:?} {policy:?}, {name}, {slots}: {} states, depth {}, {end}",
                found.states, found.depth
            );
            assert_eq!(found.wrong, None, "{protocol:?}, {policy:?}, {name}, {slots}: {found:#?}");
            assert!(found.exhausted || found.states > most / 10, "{name}, {slots}: only {} states", found.states);
        }
    }
}

fn happen(world: &mut World, step: Step) {
    match step {
        Depose => world.happen(&Action::Depose),
        Stop => world.happen(&Action::Stop),
        Succeed => world.happen(&Action::Succeed),
        Half => world.time_passes(1),
        Settle => world.settle_homes(|_| true),
        Away(cache) => {
            world.happen(&Action::View { cache });
            world.is_out_of_reach(cache);
        }
        Renew(cache) => {
            world.happen(&Action::View { cache });
            world.renews(cache);
        }
        Deaf(cache) => world.settle_homes(|envelope| envelope.between() != Some(cache)),
    }
}

#[test]
fn nothing_goes_wrong_with_two_keys_under_mesi() {
    exhaust_all(Protocol::Mesi);
}

#[test]
fn nothing_goes_wrong_with_two_keys_under_mosi() {
    exhaust_all(Protocol::Mosi);
}

#[test]
fn nothing_goes_wrong_with_two_keys_under_moesi() {
    exhaust_all(Protocol::Moesi);
}

#[test]
fn nothing_goes_wrong_near_the_beginning_where_homes_follow_one_another_twice() {
    for protocol in [Protocol::Mesi, Protocol::Mosi, Protocol::Moesi] {
        follow_all(protocol, WritePolicy::Back, MOST_OF_A_SUCCESSION);
    }
}

#[test]
#[ignore = "takes long, and gigabytes of memory"]
fn nothing_goes_wrong_further_on_where_homes_follow_one_another_twice() {
    for protocol in [Protocol::Mesi, Protocol::Mosi, Protocol::Moesi] {
        for policy in [WritePolicy::Back, WritePolicy::Through] {
            follow_all(protocol, policy, 100 * MOST_OF_A_SUCCESSION);
        }
    }
}
