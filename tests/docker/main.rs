//! The container files: that they agree with the program and with each other, and what becomes of a project of
//! containers that is scaled, struck and restarted under load.
//!
//! [`files`] reads files only. All else is one sequence, [`run`], since a project of a dozen containers takes its time to
//! start: it builds the image, brings a project of its own up with `docker-compose`, and removes what it made. Clients are
//! outside the containers and see nothing but the published port; what they were told is checked by the same rules as
//! with plain processes (`tests/cluster`), whose clients these are.
//!
//! ```text
//! cargo test --test docker -- --nocapture          # prints what it measured
//! SYNCMESH_IMAGE=syncmesh cargo test --test docker # with an image that is there: nothing is built
//! COMPOSE="docker compose" cargo test --test docker
//! ```
//!
//! The image that is built stays, as `syncmesh-test`, and with it the layers that make the next build short.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints what it measured")]

#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/ask.rs"]
mod ask;
#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/harness.rs"]
mod harness;
#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/history.rs"]
mod history;

mod caches;
mod compose;
mod engine;
mod faults;
mod files;
mod load;
mod queues;
mod restarts;
mod run;
mod scaling;
mod serving;
