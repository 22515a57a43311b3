//! Every run of a small [`World`], by the model checker: nothing goes wrong in any of them; and with one rule taken
//! away, something does.
//!
//! Where it takes too many steps from the beginning to the point at which a rule matters, the world begins shortly
//! before that. Without a rule taken away nothing goes wrong from there on either, as far as the checker looks.

mod keys;
mod mutants;
mod small;
mod walks;

use super::{
    Protocol, WritePolicy,
    rules::Rule,
    world::{Begin, Budget, Deed, Kind, World},
};
use crate::machine::checker::check;

/// A world with caches that will do these things with the first key.
fn world(protocol: Protocol, policy: WritePolicy, plans: &[&[Kind]], budget: Budget, without: &[Rule]) -> World {
    let plans = plans.iter().map(|plan| plan.iter().map(|kind| kind.on(0)).collect()).collect();
    World::new(Begin { protocol, policy, plans, budget, apart: false }, without)
}
