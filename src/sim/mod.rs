//! The cluster in simulation: real services on a simulated mesh, clock and process, under faults that
//! are drawn from a seed, with every client's history recorded and checked. Compiled for tests only.
//!
//! ```text
//! run        seeds, the run itself, its report and verdict
//!  ├ faults    the schedule: what goes wrong when, for whom, how long
//!  ├ history   what clients asked and were told, when; unknown outcomes stay unknown
//!  ├ watch     what the cluster decided meanwhile
//!  └ world     processes (one tokio runtime each) in lockstep; start, kill, stop, suspend
//!     ├ network  the mesh: loss, delay, duplication, reordering, partitions
//!     ├ clock    one clock a machine, each with its own rate and wall clock
//!     ├ door     a service as a client reaches it; line: how a client does that
//!     └ machine  the real node, and the disks that survive it
//!
//! locks: api       what is asked and told
//!        workload  seeded clients that acquire, hold, release, look, crash
//!        check     mutual exclusion by belief, token order, linearizability per lock
//!        cluster   the runs, and mutants that must be caught
//! queues, caches: the same in folders of their own
//! ```
//!
//! The code under test cannot tell that it is here: it gets a [`Mesh`](crate::net::Mesh), a
//! [`Clock`](crate::clock::Clock) and tokio's timers, and keeps what must survive in a store that
//! belongs to the test. Threads (`spawn_blocking`), sockets and files do not exist here.
//!
//! Replays are exact in schedule, workload and each link's dice; what tokio or a hash map draws by
//! itself can still reorder work within a millisecond, so a seed that failed once fails mostly, not
//! always.

#![allow(unreachable_pub, reason = "in here, `pub` means: for the rest of the simulation")]
#![allow(clippy::print_stdout, reason = "runs tell their seeds and faults")]

mod api;
mod caches;
mod check;
mod clock;
mod cluster;
mod disks;
mod door;
mod faults;
mod history;
mod line;
mod machine;
mod network;
mod queues;
mod run;
mod tests;
mod violation;
mod watch;
mod workload;
mod world;
