//! Syncmesh: distributed locks, queues and a coherent cache in one peer-to-peer program.

pub mod clock;
pub mod error;
pub mod ids;
pub mod machine;
#[doc(hidden)]
pub mod mutant;
pub mod net;
pub mod node;
#[cfg(test)]
mod sim;
