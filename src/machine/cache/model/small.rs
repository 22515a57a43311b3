//! Small worlds, looked at to their end.
//!
//! `CACHE_MODEL="MOESI back SE,L passes=1 gossip" cargo test --release --lib explore -- --ignored --nocapture` looks at
//! any other one: the protocol, the policy, what each cache does (Store, Put if absent, Load, Evict, Delete), and how
//! often what befalls them.

use super::{
    Budget,
    Kind::{self, Evict, Load, Store},
    Protocol, WritePolicy, check, world,
};

/// More states than a small world has.
const MOST_OF_A_SMALL_WORLD: usize = 3_000_000;

/// What the caches do, and what befalls them.
type Story = (&'static str, &'static [&'static [Kind]], Budget);

const CALM: Budget = Budget {
    duplicates: 0,
    passes: 0,
    crashes: 0,
    deposals: 0,
    moves: 0,
    home_evictions: 0,
    abandonments: 0,
    renewals: 0,
    gossip: true,
};

/// With gossip and without: whatever is sent may come late, in another order, or never.
const ONE_HOME: [Story; 6] = [
    ("a store and a load beside each other", &[&[Store, Load], &[Load]], CALM),
    ("two stores beside each other", &[&[Store], &[Store, Load]], CALM),
    ("an eviction of what is stored", &[&[Store, Evict], &[Load]], CALM),
    ("a message that comes twice", &[&[Store], &[Load]], Budget { duplicates: 1, ..CALM }),
    ("a crash", &[&[Store], &[Load]], Budget { crashes: 1, ..CALM }),
    ("time", &[&[Store], &[Load]], Budget { passes: 1, ..CALM }),
];

fn exhaust(stories: &[Story]) {
    for policy in [WritePolicy::Back, WritePolicy::Through] {
        for protocol in Protocol::ALL {
            for (name, plans, budget) in stories {
                let found = check(world(protocol, policy, plans, budget.clone(), &[]), MOST_OF_A_SMALL_WORLD);
                println!("{protocol:?} {policy:?} {name}: {} states, depth {}", found.states, found.depth);
                assert_eq!(found.wrong, None, "{protocol:?}, {policy:?}, {name}: {found:#?}");
                assert!(found.exhausted, "{protocol:?}, {policy:?}, {name}: {} states", found.states);
            }
        }
    }
}

#[test]
fn nothing_goes_wrong_in_any_run_with_one_home() {
    exhaust(&ONE_HOME);
}

fn plan(text: &str) -> Vec<Kind> {
    let kind = |letter| match letter {
        'S' => Store,
        'P' => Kind::Put,
        'L' => Load,
        'E' => Evict,
        'D' => Kind::Delete,
        other => panic!("'{other}' is none of S, P, L, E, D"),
    };
    text.chars().map(kind).collect()
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
    let plans: Vec<Vec<Kind>> = words.next().unwrap_or("S,L").split(',').map(plan).collect();
    let mut budget = Budget::default();
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
            other => panic!("{other} does not befall anybody"),
        }
    }
    let plans: Vec<&[Kind]> = plans.iter().map(Vec::as_slice).collect();
    let most = std::env::var("CACHE_MODEL_STATES").ok().and_then(|most| most.parse().ok());
    let found = check(world(protocol, policy, &plans, budget, &[]), most.unwrap_or(10_000_000));
    println!("{text}: {found:#?}");
    assert_eq!(found.wrong, None);
}
