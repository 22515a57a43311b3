//! The protocols, as pure state machines: no async, no clock, no randomness, no I/O, no channel.
//!
//! Each has the form `step(now, input, &mut effects)`. Time, random numbers and fresh ids come in
//! with the input; what is to be done comes out as values. So every protocol can be run by a test, a
//! simulation or a model checker exactly as it runs in a node.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod autopilot;
pub mod backup;
pub mod cache;
#[cfg(test)]
mod checker;
pub mod control;
pub mod detector;
pub mod founding;
pub mod leases;
pub mod lock;
pub mod membership;
pub mod placement;
pub mod queue;
pub mod replication;
pub mod requests;
pub mod slots;
