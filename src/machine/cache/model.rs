//! Every run of a small [`World`], by the model checker: nothing goes wrong in any of them; and with one rule taken
//! away, something does.
//!
//! Where it takes too many steps from the beginning to the point at which a rule matters, the world begins shortly
//! before that. Without a rule taken away nothing goes wrong from there on either, as far as the checker looks.

mod mutants;
mod small;
mod walks;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{
    Protocol, WritePolicy,
    rules::Rule,
    world::{Action, Begin, Budget, Kind, World},
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

/// What the checker found out.
#[derive(Debug)]
struct Found {
    wrong: Option<&'static str>,
    /// What led to it.
    path: Vec<String>,
    states: usize,
    depth: usize,
    exhausted: bool,
}

/// Looks at so many states, breadth first. One thread, so that it always finds the same.
fn check(begin: World, most_states: usize) -> Found {
    let checker = Runs { begin }
        .checker()
        .threads(1)
        .target_state_count(most_states)
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let path = checker.discovery("nothing goes wrong");
    Found {
        wrong: path.as_ref().and_then(|path| path.last_state().wrong),
        path: path.map(told).unwrap_or_default(),
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: checker.state_count() < most_states,
    }
}

/// What happened, with the messages that arrived.
fn told(path: stateright::Path<World, Action>) -> Vec<String> {
    let steps = path.into_vec();
    let told = steps.iter().filter_map(|(world, action)| {
        action.as_ref().map(|action| match world.arriving(action) {
            Some(envelope) => format!("{envelope:?}"),
            None => format!("{action:?}"),
        })
    });
    told.collect()
}

/// A world with caches that will do these things.
fn world(protocol: Protocol, policy: WritePolicy, plans: &[&[Kind]], budget: Budget, without: &[Rule]) -> World {
    let plans = plans.iter().map(|plan| plan.to_vec()).collect();
    World::new(Begin { protocol, policy, plans, budget }, without)
}
