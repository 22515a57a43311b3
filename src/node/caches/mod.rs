//! The cache service: what applications use on every node, and what a cache node does for the others.
//!
//! ```text
//!  applications ──► Caches ─┬─► table: a hit, without any task
//!                           ├─► cache task (here, if this node is a cache node) ──► home task, here or elsewhere
//!                           └─► exchange ──► mesh ──► a cache node's Caches
//!  mesh ──► dispatch ──► door ─┬─► cache task: questions of homes and readers, gossip
//!                              └─► home task: questions of caches, hand-overs
//!  views, member lease ──► cache task, home task
//! ```
//!
//! [`Caches`] is the handle of every node; [`Cache`] the same for applications that embed one. On a node with the role
//! `cache-node`, the [cache task](cache) owns its [`Lines`](crate::machine::cache::Lines) and is the only one that writes
//! the [table] that readers look at; the [home task](home) owns its [`Home`](crate::machine::cache::Home). What
//! they have to say to each other goes through [links](link): over the mesh, or, where both are here, over a channel. The
//! [door] checks who may say what.

mod cache;
mod calls;
mod counters;
mod door;
mod ends;
mod forward;
mod home;
mod library;
mod link;
mod overview;
mod placed;
mod service;
mod setup;
mod table;
#[cfg(test)]
mod tests;
pub mod types;
pub(crate) mod wire;

pub(crate) use self::{
    door::Door,
    setup::{CacheParts, CutOff, Setup, set_up},
};
pub use self::{
    library::Cache,
    service::Caches,
    types::{
        CacheNodeView, CacheView, Counted, DirectoryView, Invalidated, InvalidationCounts, KeyState, LineView,
        LinesByState, Only, Put, Read, StallCounts, Which,
    },
};
pub use crate::machine::cache::{LineState, Protocol, Version, WritePolicy};
