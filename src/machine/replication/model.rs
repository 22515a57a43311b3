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

fn world(nodes: usize, in_sync: usize, budget: Budget, without: Option<Rule>) -> World {
    World::new(nodes, in_sync, settings(), budget, without)
}

fn explore(name: &str, begin: World) {
    let started = Instant::now();
    let checker = Runs { begin }
        .checker()
        .threads(2)
        .timeout(Duration::from_secs(std::env::var("T").map_or(60, |t| t.parse().unwrap())))
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states, {} unique, depth {}, {:?}, done {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed(),
        checker.is_done()
    );
    if let Some(path) = checker.discovery("nothing goes wrong") {
        println!("{:?}", path.last_state().wrong);
        for action in path.into_actions() {
            println!("   {action:?}");
        }
        panic!("{name}");
    }
}

#[test]
fn try_one() {
    let ops = |n: &str| -> Vec<Durability> { n.chars().map(|c| if c == 's' { Synced } else { InMemory }).collect() };
    let get = |n: &str| std::env::var(n).ok();
    let num = |n: &str| get(n).map_or(0, |v| v.parse().unwrap());
    let budget = Budget {
        operations: ops(&get("OPS").unwrap_or_default()),
        crashes: num("CRASH"),
        amnesias: num("AMN"),
        suspicions: num("SUS"),
        ticks: num("TICKS"),
        unknowns: num("UNK"),
        duplicates: num("DUP"),
        hand_overs: num("HO"),
        forgotten: num("FORG"),
    };
    let nodes = num("NODES") as usize;
    let in_sync = num("SYNC") as usize;
    explore("try", world(nodes, in_sync, budget, None));
}
