//! The queue service: what applications use on every node, and what a queue node does for the others.

mod types;

pub use self::types::*;
