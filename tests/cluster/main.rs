//! Clusters of real processes: the real program, real sockets, real disks, real signals.
//!
//! Nothing of the library is used here: nodes are started as an operator starts them, and asked over
//! HTTP or with the commands. Nodes listen on loopback addresses of their own, so that fixed ports
//! never meet and a node that is started again is found where it was.
//!
//! What a machine cannot do (network namespaces without root, a Redis that is not installed) is skipped with a line that says so;
//! with `REQUIRE_ALL=1` that is a failure.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints what it measured")]

mod ask;
mod bundle;
mod harness;
mod history;
mod namespaces;
#[allow(dead_code, reason = "the tests of the journals use the rest")]
#[path = "../journal/redis_server.rs"]
mod redis_server;
mod stranger;

mod caches;
mod discovery;
mod disk_full;
mod failures;
mod founding;
mod hostile;
mod identity;
mod lock_run;
mod locks;
mod membership;
mod mesh;
mod operator;
mod queues;
mod quorum;
mod recovery;
mod start;
