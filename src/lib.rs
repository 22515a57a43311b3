//! Syncmesh: distributed locks, queues and a coherent cache in one peer-to-peer program.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod codec;
pub mod config;
pub mod error;
pub mod ids;
pub mod machine;
pub mod net;
pub mod node;
pub mod raft;
pub mod telemetry;
pub mod time;
