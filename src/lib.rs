//! Syncmesh: distributed locks, queues and a coherent cache in one peer-to-peer program.
//!
//! The crate is the node: [`Node::start`] makes the application itself a peer, and [`Node::locks`],
//! [`Node::queues`] and [`Node::caches`] give it the services. [`Client`] speaks the HTTP API to a node elsewhere. The binary
//! `syncmesh` is [`cli`] around both.
//!
//! # A lock
//!
//! Whoever holds a lock renews it in the background, stops when told that it is lost, and passes the
//! fencing token on to what the lock protects.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use syncmesh::{Config, Node, ids::{FencingToken, LockName}};
//!
//! # async fn write_report(token: FencingToken) {}
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config { bootstrap_expect: Some(1), ..Config::default() };
//! let node = Node::start(config).await?;
//! while !node.readiness().await.ready {
//!     tokio::time::sleep(Duration::from_millis(50)).await;
//! }
//!
//! let report = LockName::new("nightly-report")?;
//! let guard = node.locks().lock(report).wait(Duration::from_secs(60)).acquire().await?;
//! tokio::select! {
//!     () = write_report(guard.token()) => guard.release().await?,
//!     why = guard.lost() => eprintln!("stopped writing: {why}"),
//! }
//! node.stop(Duration::from_secs(10)).await;
//! # Ok(())
//! # }
//! ```
//!
//! The same from elsewhere, over HTTP:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use syncmesh::{Client, ids::LockName};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new("http://127.0.0.1:8080", None)?;
//! let guard = client.lock(LockName::new("nightly-report")?).wait(Duration::from_secs(60)).acquire().await?;
//! println!("held under token {}", guard.token());
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # The house
//!
//! Folders are roles, and imports point one way:
//!
//! ```text
//! main -> cli -> client, api          (commands talk HTTP; only `node` and `dev` start a node)
//!         api -> node
//!         node -> raft, net, store -> machine -> ids
//! leaves for all: ids, error, codec, time, config (data only); clock, lease, telemetry, durable (not for machine)
//! ```
//!
//! * [`machine`]: the protocols, as pure state machines. Nothing there is async, reads a clock, draws
//!   at random or does I/O: `now`, random numbers and fresh ids come in, effects go out as values.
//! * [`raft`]: replicates the state of the control plane ([`machine::control`]) among the lock managers.
//! * [`store`]: the journals of the queues, in files or in Redis.
//! * [`net`]: carries bytes between peers. It names no lock, queue or key, and never imports `raft`.
//! * [`node`]: owns every task, and starts, drains and stops them.
//! * [`api`], [`client`], [`cli`]: the edges.
//!
//! # Invariants
//!
//! * One task owns one state. What is shared between tasks are read-mostly snapshots (`watch`), and
//!   three small tables behind a mutex that is never held across an await: the open requests of a node,
//!   its ring of events, and the last lines that the process has logged.
//! * Every channel, map, retry, batch, wait and request is bounded by a named constant or a setting.
//! * Only `raft/log.rs`, `raft/snapshot.rs`, [`store`], the identity, the cluster record and `node.json` are
//!   written to disk; only [`config`] reads the environment; only `cli/output.rs` prints to stdout.
//!
//! `tests/architecture.rs` holds the code to what can be read off it.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod codec;
pub mod config;
mod durable;
pub mod error;
pub mod ids;
pub mod lease;
pub mod machine;
#[doc(hidden)]
pub mod mutant;
pub mod net;
pub mod node;
pub mod raft;
#[cfg(test)]
mod sim;
pub mod store;
pub mod telemetry;
pub mod time;

pub use client::Client;
pub use config::Config;
pub use node::Node;
