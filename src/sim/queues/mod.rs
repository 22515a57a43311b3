//! Queues in simulation: producers, consumers, and what must be true of what they saw.
//!
//! ```text
//! cluster    the runs, and mutants that must be caught
//!  ├ workload  producers, and consumers that acknowledge, give back, prolong, forget, and drain it all in the end
//!  ├ check     nothing lost, nothing invented, nothing that was consumed there again, no two deliveries at a time
//!  └ api       what is asked and told
//! ```

mod api;
mod check;
mod cluster;
mod workload;
