//! The cache service: what applications use on every node.

mod service;
mod types;

pub use self::{service::Caches, types::*};
