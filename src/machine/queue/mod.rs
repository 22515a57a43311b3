//! The queues of one partition, as its log makes them: a pure state machine.

mod types;

pub use self::types::*;
