//! The queue service: what applications use on every node, and what a queue node does for the others.
//!
//! ```text
//!  applications ──► Queues ──► router ─┬─► hosting (here, if this node is the primary) ──► partition task
//!                                      └─► exchange ──► mesh ──► the primary's hosting ──► partition task
//!  views ──► keeper: opens journals, starts and ends the partition tasks
//!  mesh ──► dispatch ──► hosting ──► partition task: replication between replicas
//! ```
//!
//! [`Queues`] is the handle of every node: it checks what is asked, gives messages their ids, and finds the
//! primary of the queue's partition. [`Queue`] and [`Delivery`] are the same for applications that embed a
//! node. A node with the role `queue-node` runs a keeper, and one task for each partition that it keeps.

mod consume;
pub(crate) mod hosting;
pub(crate) mod keeper;
mod library;
mod limits;
mod listing;
mod partition;
mod recover;
pub(crate) mod router;
mod service;
#[cfg(test)]
mod tests;
mod types;
pub(crate) mod wire;

pub use self::{
    library::{Deliveries, Delivery, Queue},
    service::Queues,
    types::*,
};
pub(crate) use self::{
    limits::Sizes,
    partition::{Shared, Tuning},
};
