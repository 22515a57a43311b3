//! A node without any peer, for tests of what stands above the node.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use tokio::sync::{mpsc, watch};

use super::{
    Node,
    control::ControlSettings,
    leader::LeaderSettings,
    records::ClusterStore,
    running::{Parts, assemble},
};
use crate::{
    clock::SystemClock,
    ids::{ClusterId, Incarnation, NodeId, Role},
    machine::membership::ClusterRecord,
    net::{CallError, DiscoveredBy, Lane, Mesh, MeshStatus, Protocol, Topic},
    raft::ReadPolicy,
    telemetry::Metrics,
};

/// A mesh in which nobody else is.
#[derive(Debug)]
struct Nobody {
    status: watch::Sender<Arc<MeshStatus>>,
}

impl Mesh for Nobody {
    fn local(&self) -> NodeId {
        NodeId::from_bytes([1; 32])
    }

    fn call(&self, peer: NodeId, _: Protocol, _: Lane, _: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move { Err(CallError::Unreachable(peer)) })
    }

    fn broadcast(&self, _: Topic, _: Bytes) {}
    fn set_members(&self, _: BTreeMap<NodeId, Vec<Multiaddr>>) {}
    fn set_barred(&self, _: Vec<NodeId>) {}
    fn hint(&self, _: NodeId, _: Vec<Multiaddr>, _: DiscoveredBy) {}
    fn disconnect(&self, _: NodeId) {}

    fn status(&self) -> watch::Receiver<Arc<MeshStatus>> {
        self.status.subscribe()
    }
}

/// A disk that keeps nothing.
#[derive(Debug)]
struct NoDisk;

impl ClusterStore for NoDisk {
    fn save(&self, _: ClusterRecord) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn retire(&self) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A gateway that knows nobody and never will. Needs a runtime around it.
pub(crate) fn alone() -> Node {
    let (events, mesh_events) = mpsc::channel(1);
    // Kept for ever, as the real mesh keeps its end.
    std::mem::forget(events);
    let parts = Parts {
        control: ControlSettings {
            incarnation: Incarnation(1),
            cluster_name: "default".into(),
            cache_protocol: "MESI".into(),
            queue_partitions: 64,
            roles: [Role::Bootstrap].into(),
            expect: None,
            announce: Vec::new(),
            heartbeat: Duration::from_secs(1),
        },
        leader: LeaderSettings {
            failure_timeout: Duration::from_secs(2),
            member_dead_timeout: Duration::from_secs(60),
            member_forget_timeout: Duration::from_secs(86_400),
        },
        reads: ReadPolicy::Index,
        lock_delay_ms: 0,
        mesh: Arc::new(Nobody { status: watch::Sender::default() }),
        mesh_events,
        net: None,
        clock: Arc::new(SystemClock),
        raft: None,
        records: Arc::new(NoDisk),
        record: None,
        fresh_id: ClusterId(1),
        metrics: Metrics::new(),
        data_dir: None,
        held: None,
    };
    Node { running: Arc::new(assemble(parts)) }
}
