//! Small worlds, looked at to their end.
//!
//! `CACHE_MODEL="MOESI back SE,L passes=1 gossip" cargo test --release --lib explore -- --ignored --nocapture` looks at
//! any other one: the protocol, the policy, what each cache does (Store, Put if absent, Load, Evict, Delete, of the first
//! key; with small letters of the second), and how often what befalls them; `apart` puts the second key into a slot of its own.

use super::{
    Begin, Budget, Deed,
    Kind::{self, Delete, Evict, Load, Put, Store},
    Protocol, World, WritePolicy, check, world,
};

/// More states than a small world has.
const MOST_OF_A_SMALL_WORLD: usize = 1_000_000;
/// More states than a larger one has.
const MOST_OF_A_LARGER_WORLD: usize = 20_000_000;

/// What the caches do, and what befalls them.
type Story = (&'static str, &'static [&'static [Kind]], Budget);

pub(super) const CALM: Budget = Budget {
    duplicates: 0,
    passes: 0,
    crashes: 0,
    deposals: 0,
    moves: 0,
    home_evictions: 0,
    abandonments: 0,
    renewals: 0,
    gossip: false,
};

/// Whatever is sent may come late, in another order, or never; with or without gossip.
const SMALL: [Story; 11] = [
    ("beside each other", &[&[Store, Load, Store], &[Load, Store, Load]], Budget { gossip: true, ..CALM }),
    (
        "evictions, a duplicate",
        &[&[Store, Load, Evict], &[Load, Store]],
        Budget { duplicates: 1, gossip: true, ..CALM },
    ),
    ("conditions and deletes", &[&[Store, Delete], &[Load, Put]], Budget { duplicates: 1, gossip: true, ..CALM }),
    ("a crash", &[&[Store, Evict], &[Store, Load]], Budget { crashes: 1, gossip: true, ..CALM }),
    ("a crash, a duplicate", &[&[Store, Load], &[Load]], Budget { crashes: 1, duplicates: 1, ..CALM }),
    ("half a lease", &[&[Store], &[Load]], Budget { passes: 1, ..CALM }),
    ("operations that nobody waits for", &[&[Store, Load], &[Store]], Budget { abandonments: 1, gossip: true, ..CALM }),
    ("an eviction by the home", &[&[Store], &[Load]], Budget { home_evictions: 1, duplicates: 1, ..CALM }),
    ("a successor", &[&[Store, Load], &[Load]], Budget { deposals: 1, ..CALM }),
    ("a successor, a crash", &[&[Store], &[Load]], Budget { deposals: 1, crashes: 1, ..CALM }),
    ("a planned move", &[&[Store, Load], &[Load]], Budget { moves: 1, gossip: true, ..CALM }),
];

/// The same on a larger scale.
const LARGER: [Story; 5] = [
    ("half a lease, evictions", &[&[Store, Load, Evict], &[Load, Store]], Budget { passes: 1, gossip: true, ..CALM }),
    ("three caches", &[&[Store, Load], &[Load, Store], &[Load]], Budget { gossip: true, ..CALM }),
    ("a crash, duplicates", &[&[Store, Evict], &[Load, Store]], Budget { crashes: 1, duplicates: 2, ..CALM }),
    ("a planned move, evictions", &[&[Store, Load, Evict], &[Store, Load]], Budget { moves: 1, ..CALM }),
    ("a successor, half a lease", &[&[Store], &[Load]], Budget { deposals: 1, passes: 1, ..CALM }),
];

fn exhaust(protocol: Protocol, policy: WritePolicy, stories: &[Story], most: usize) {
    for (name, plans, budget) in stories {
        let found = check(world(protocol, policy, plans, budget.clone(), &[]), most);
        eprintln!("{protocol:?} {policy:?}, {name}: {} states, depth {}", found.states, found.depth);
        assert_eq!(found.wrong, None, "{protocol:?}, {policy:?}, {name}: {found:#?}");
        assert!(found.exhausted, "{protocol:?}, {policy:?}, {name}: more than {} states", found.states);
    }
}

#[test]
fn nothing_goes_wrong_in_any_run_of_a_small_world_under_mesi() {
    exhaust(Protocol::Mesi, WritePolicy::Back, &SMALL, MOST_OF_A_SMALL_WORLD);
    exhaust(Protocol::Mesi, WritePolicy::Through, &SMALL, MOST_OF_A_SMALL_WORLD);
}

#[test]
fn nothing_goes_wrong_in_any_run_of_a_small_world_under_mosi() {
    exhaust(Protocol::Mosi, WritePolicy::Back, &SMALL, MOST_OF_A_SMALL_WORLD);
    exhaust(Protocol::Mosi, WritePolicy::Through, &SMALL, MOST_OF_A_SMALL_WORLD);
}

#[test]
fn nothing_goes_wrong_in_any_run_of_a_small_world_under_moesi() {
    exhaust(Protocol::Moesi, WritePolicy::Back, &SMALL, MOST_OF_A_SMALL_WORLD);
    exhaust(Protocol::Moesi, WritePolicy::Through, &SMALL, MOST_OF_A_SMALL_WORLD);
}

#[test]
#[ignore = "takes long, and gigabytes of memory"]
fn nothing_goes_wrong_in_any_run_of_a_larger_world() {
    for protocol in Protocol::ALL {
        exhaust(protocol, WritePolicy::Back, &LARGER, MOST_OF_A_LARGER_WORLD);
        exhaust(protocol, WritePolicy::Through, &LARGER, MOST_OF_A_LARGER_WORLD);
    }
}

fn plan(text: &str) -> Vec<Deed> {
    let kind = |letter: char| match letter.to_ascii_uppercase() {
        'S' => Store,
        'P' => Put,
        'L' => Load,
        'E' => Evict,
        'D' => Delete,
        other => panic!("'{other}' is none of S, P, L, E, D, nor of s, p, l, e, d"),
    };
    text.chars().map(|letter| kind(letter).on(usize::from(letter.is_lowercase()))).collect()
}

#[test]
#[ignore = "looks at the world that CACHE_MODEL names"]
fn explore() {
    let text = std::env::var("CACHE_MODEL").expect("CACHE_MODEL names a world");
    let mut words = text.split_whitespace();
    let protocol = match words.next() {
        Some("MESI") => Protocol::Mesi,
        Some("MOSI") => Protocol::Mosi,
        _ => Protocol::Moesi,
    };
    let policy = if words.next() == Some("through") { WritePolicy::Through } else { WritePolicy::Back };
    let plans: Vec<Vec<Deed>> = words.next().unwrap_or("S,L").split(',').map(plan).collect();
    let (mut budget, mut apart) = (Budget::default(), false);
    for word in words {
        let (name, count) = word.split_once('=').unwrap_or((word, "1"));
        let count: u8 = count.parse().expect("a count is a number");
        match name {
            "duplicates" => budget.duplicates = count,
            "passes" => budget.passes = count,
            "crashes" => budget.crashes = count,
            "deposals" => budget.deposals = count,
            "moves" => budget.moves = count,
            "home_evictions" => budget.home_evictions = count,
            "abandonments" => budget.abandonments = count,
            "renewals" => budget.renewals = count,
            "gossip" => budget.gossip = true,
            "apart" => apart = true,
            other => panic!("{other} does not befall anybody"),
        }
    }
    let most = std::env::var("CACHE_MODEL_STATES").ok().and_then(|most| most.parse().ok());
    let found = check(World::new(Begin { protocol, policy, plans, budget, apart }, &[]), most.unwrap_or(10_000_000));
    eprintln!("{text}: {found:#?}");
    assert_eq!(found.wrong, None);
}
