//! Every run of a small [`World`], by the model checker: nothing goes wrong in any of them; and with any one rule
//! taken away, something does.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{
    Durability::{self, InMemory, Synced},
    Settings,
    rules::Rule,
    world::{Action, Budget, World},
};

/// Worlds that begin like this one.
#[derive(Clone, Debug)]
struct Runs {
    begin: World,
}

impl Model for Runs {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.happen(&action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing goes wrong", |_, world: &World| world.wrong.is_none())]
    }
}

fn settings() -> Settings {
    Settings { max_batch_records: 8, pipeline: 2, lag_to_grow: 1, ..Settings::default() }
}

fn world(nodes: usize, in_sync: usize, budget: Budget, without: &[Rule]) -> World {
    World::new(nodes, in_sync, settings(), budget, without)
}

/// What the checker found out.
#[derive(Debug)]
struct Found {
    wrong: Option<&'static str>,
    steps: usize,
    states: usize,
    depth: usize,
    exhausted: bool,
}

fn check(begin: World, most_states: usize) -> Found {
    let checker = Runs { begin }
        .checker()
        .threads(2)
        .target_state_count(most_states)
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let path = checker.discovery("nothing goes wrong");
    Found {
        wrong: path.as_ref().and_then(|path| path.last_state().wrong),
        steps: path.map_or(0, |path| path.into_actions().len()),
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: checker.state_count() < most_states,
    }
}

fn operations(kinds: &str) -> Vec<Durability> {
    kinds.chars().map(|kind| if kind == 's' { Synced } else { InMemory }).collect()
}

#[test]
fn hunt() {
    let b = |kinds: &str, crashes, suspicions, ticks, hand_overs| Budget {
        operations: operations(kinds),
        crashes,
        suspicions,
        ticks,
        hand_overs,
        ..Budget::default()
    };
    let worlds: Vec<(&str, usize, usize, Budget)> = vec![
        ("2/2 s crash", 2, 2, b("s", 1, 0, 0, 0)),
        ("2/2 s sus", 2, 2, b("s", 0, 1, 0, 0)),
        ("2/2 s tick", 2, 2, b("s", 0, 0, 2, 0)),
        ("2/2 s sus tick", 2, 2, b("s", 0, 1, 1, 0)),
        ("2/1 s sus", 2, 1, b("s", 0, 1, 0, 0)),
        ("2/1 s crash", 2, 1, b("s", 1, 0, 0, 0)),
        ("2/2 s crash sus", 2, 2, b("s", 1, 1, 0, 0)),
        ("3/3 s sus", 3, 3, b("s", 0, 1, 0, 0)),
        ("3/3 s ho", 3, 3, b("s", 0, 0, 0, 1)),
    ];
    let most = std::env::var("MOST").map_or(150_000, |t| t.parse().unwrap());
    let only = std::env::var("RULE").ok();
    let started = Instant::now();
    let mut rules: Vec<Vec<Rule>> = vec![vec![]];
    rules.extend(Rule::ALL.iter().map(|rule| vec![*rule]));
    for without in rules {
        if only.as_ref().is_some_and(|only| format!("{without:?}") != *only) {
            continue;
        }
        for (name, nodes, in_sync, budget) in &worlds {
            let found = check(world(*nodes, *in_sync, budget.clone(), &without), most);
            println!("HUNT {without:?} {name}: {found:?} {:?}", started.elapsed());
            if found.wrong.is_some() {
                break;
            }
        }
    }
}
