//! Primary-backup replication of one partition's log, with epochs and an in-sync set: a pure state machine.

mod types;

pub use self::types::*;
