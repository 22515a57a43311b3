//! The cache in simulation: readers and writers at all nodes, and what must be true of what they saw.
//!
//! ```text
//! cluster    the runs, and mutants that must be caught
//!  ├ workload  clients that read, write, add and delete a few keys, at one node and another
//!  ├ check     no read is older than what was acknowledged before, and the order of writes is one
//!  └ api       what is asked and told
//! costs      what each operation sends, counted on the wire
//! ```

mod api;
mod check;
mod cluster;
mod costs;
mod workload;
