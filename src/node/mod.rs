//! The node: owns every task, starts, drains and stops them.

pub mod locks;
mod wire;
pub mod status;

use tokio::sync::mpsc;

use crate::{
    error::Error,
    ids::NodeId,
    node::{
        locks::{IdempotencyKey, Locks},
        status::{ClusterEvent, ClusterView, NodeInfo, Readiness},
    },
};

/// Where a stream of events begins.
#[derive(Debug)]
pub struct EventStream {
    /// Set when the `Last-Event-ID` that was asked for is no longer (or never was) known: the client
    /// has missed events and is told so by a `reset`.
    pub reset: bool,
    /// The events from there on. Ends when the node stops or the reader falls too far behind.
    pub events: mpsc::Receiver<ClusterEvent>,
}

/// A running node. Cheap to clone; the node runs until it is stopped.
#[derive(Clone, Debug)]
pub struct Node {}

impl Node {
    /// The lock service.
    pub fn locks(&self) -> Locks {
        Locks {}
    }

    /// What this node says of itself.
    pub async fn info(&self) -> NodeInfo {
        unreachable!("contract")
    }

    /// What this node knows of the cluster, from the leader where one can be reached.
    pub async fn cluster(&self) -> ClusterView {
        unreachable!("contract")
    }

    /// Whether it can serve its roles now.
    pub async fn readiness(&self) -> Readiness {
        unreachable!("contract")
    }

    /// The cluster's events, as this node comes to know them, after `last_id` or from now.
    pub async fn events(&self, last_id: Option<u64>) -> EventStream {
        let _ = last_id;
        unreachable!("contract")
    }

    /// Removes and bars a member.
    pub async fn remove_member(&self, peer: NodeId, key: Option<IdempotencyKey>) -> Result<(), Error> {
        let _ = (peer, key);
        Err(Error::internal("contract"))
    }

    /// Lifts the bar.
    pub async fn admit_member(&self, peer: NodeId, key: Option<IdempotencyKey>) -> Result<(), Error> {
        let _ = (peer, key);
        Err(Error::internal("contract"))
    }

    /// A member leaves for good: it drains, is removed, and its process ends.
    pub async fn leave(&self, peer: NodeId, key: Option<IdempotencyKey>) -> Result<(), Error> {
        let _ = (peer, key);
        Err(Error::internal("contract"))
    }

    /// Hands Raft's leadership to `to`, or to whoever is most up to date.
    pub async fn transfer_leader(&self, to: Option<NodeId>, key: Option<IdempotencyKey>) -> Result<(), Error> {
        let _ = (to, key);
        Err(Error::internal("contract"))
    }

    /// All metrics in the Prometheus text format (OpenMetrics).
    pub fn metrics_text(&self) -> String {
        String::new()
    }

    /// This node's own id.
    pub fn id(&self) -> NodeId {
        NodeId::default()
    }
}
