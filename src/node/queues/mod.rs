//! The queue service: what applications use on every node, and what a queue node does for the others.
//!
//! ```text
//!  applications ──► Queues ──► router ─┬─► host (here, if this node is the primary) ──► partition task
//!                                      └─► exchange ──► mesh ──► the primary's host ──► partition task
//! ```
//!
//! [`Queues`] is the handle of every node: it checks what is asked, gives messages their ids, and finds the
//! primary of the queue's partition. [`Queue`] and [`Delivery`] are the same for applications that embed a
//! node.

mod library;
mod limits;
mod service;
mod types;

pub use self::{
    library::{Deliveries, Delivery, Queue},
    service::Queues,
    types::*,
};
