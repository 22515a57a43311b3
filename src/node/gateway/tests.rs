//! The gateway of a node before leaders that take a question and say what the test has them say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use super::*;
use crate::{
    ids::Incarnation,
    net::{DiscoveredBy, Mesh, MeshStatus, Protocol, Topic},
    telemetry::Bounds,
};

/// Counts the messages that are sent, and answers none of them.
#[derive(Debug, Default)]
struct DeafMesh {
    calls: AtomicUsize,
}

impl Mesh for DeafMesh {
    fn local(&self) -> NodeId {
        node(3)
    }

    fn call(&self, _: NodeId, _: Protocol, _: Lane, _: Bytes) -> BoxFuture<'static, Result<Bytes, CallError>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        std::future::pending().boxed()
    }

    fn broadcast(&self, _: Topic, _: Bytes) {}
    fn set_members(&self, _: BTreeMap<NodeId, Vec<libp2p::Multiaddr>>) {}
    fn set_barred(&self, _: Vec<NodeId>) {}
    fn hint(&self, _: NodeId, _: Vec<libp2p::Multiaddr>, _: DiscoveredBy) {}
    fn disconnect(&self, _: NodeId) {}
    fn offer(&self, _: BTreeSet<String>) {}
    fn seek(&self, _: String) {}
    fn status(&self) -> watch::Receiver<Arc<MeshStatus>> {
        watch::channel(Arc::default()).1
    }
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn leader(term: u64, n: u8) -> Leader {
    Leader { term: Term(term), node: node(n) }
}

/// The gateway of node 3, which takes node 1 for the leader, and its mesh.
fn gateway() -> (Gateway, Arc<DeafMesh>) {
    let mesh = Arc::new(DeafMesh::default());
    let (exchange, _, task) = Exchange::new(mesh.clone(), Protocol::Client, Bounds::default());
    tokio::spawn(task.run());
    let route = Route::new();
    route.learn(leader(1, 1));
    let requests = OpenRequests::new(node(3), Incarnation(1));
    (Gateway::new(node(3), route, exchange, None, requests), mesh)
}

/// Asks for a hand-over, and hears of node 2 as the leader before the answer of node 1 comes.
async fn superseded(to: Option<NodeId>) -> (Result<ClientReply, Error>, usize) {
    let (gateway, mesh) = gateway();
    let asked = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.ask(ClientAsk::Transfer(to), WORK).await }
    });
    while mesh.calls.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(RETRY).await;
    }
    gateway.route().learn(leader(2, 2));
    let outcome = asked.await.expect("no panic");
    (outcome, mesh.calls.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_to_anybody_is_done_once_somebody_else_leads() {
    assert_eq!(superseded(None).await, (Ok(ClientReply::Done), 1));
    assert_eq!(superseded(Some(node(2))).await, (Ok(ClientReply::Done), 1));
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_to_one_that_another_won_is_not_repeated_and_its_outcome_unknown() {
    let (outcome, calls) = superseded(Some(node(4))).await;
    assert_eq!(outcome.expect_err("node 4 does not lead").details.outcome, Some(Outcome::Unknown));
    assert_eq!(calls, 1);
}
