//! A mesh for tests of single tasks: remembers what it is asked for, and answers every call alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use tokio::sync::watch;

use crate::{
    ids::NodeId,
    net::{CallError, DiscoveredBy, Lane, Mesh, MeshStatus, PeerLink, Protocol, Topic},
};

/// The mesh of node 1.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// What every call is answered; where there is none, nobody can be reached.
    pub(super) answer: Option<Bytes>,
    pub(super) called: Mutex<Vec<NodeId>>,
    pub(super) told: Mutex<Vec<(Topic, Bytes)>>,
    pub(super) offered: Mutex<BTreeSet<String>>,
    pub(super) sought: Mutex<Vec<String>>,
    pub(super) status: watch::Sender<Arc<MeshStatus>>,
}

impl Recording {
    /// From now on it is connected to this peer, and to nobody else.
    pub(super) fn connect(&self, peer: NodeId) {
        let link = PeerLink {
            peer,
            agent: String::new(),
            addr: Multiaddr::empty(),
            transport: "tcp",
            outbound: true,
            rtt: None,
            discovered_by: DiscoveredBy::Members,
        };
        let peers = BTreeMap::from([(peer, link)]);
        self.status.send_replace(Arc::new(MeshStatus { peers, ..MeshStatus::default() }));
    }
}

/// Nodes of a test.
pub(super) fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

impl Mesh for Recording {
    fn local(&self) -> NodeId {
        node(1)
    }

    fn call(&self, peer: NodeId, _: Protocol, _: Lane, _: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>> {
        self.called.lock().unwrap().push(peer);
        Box::pin(std::future::ready(self.answer.clone().ok_or(CallError::Unreachable(peer))))
    }

    fn broadcast(&self, topic: Topic, body: Bytes) {
        self.told.lock().unwrap().push((topic, body));
    }

    fn set_members(&self, _: BTreeMap<NodeId, Vec<Multiaddr>>) {}

    fn set_barred(&self, _: Vec<NodeId>) {}

    fn hint(&self, _: NodeId, _: Vec<Multiaddr>, _: DiscoveredBy) {}

    fn offer(&self, topics: BTreeSet<String>) {
        *self.offered.lock().unwrap() = topics;
    }

    fn seek(&self, topic: String) {
        self.sought.lock().unwrap().push(topic);
    }

    fn disconnect(&self, _: NodeId) {}

    fn status(&self) -> watch::Receiver<Arc<MeshStatus>> {
        self.status.subscribe()
    }
}
