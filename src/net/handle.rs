//! The libp2p implementation of [`Mesh`]: a node's side of the channels to the swarm task.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use libp2p::Multiaddr;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    CallError, DiscoveredBy, Lane, Mesh, MeshStatus, Protocol, Topic, broadcast::MAX_BODY_BYTES, metrics::NetMetrics,
};
use crate::ids::NodeId;

/// Members and where they listen.
pub(super) type Members = BTreeMap<NodeId, Vec<Multiaddr>>;

/// A call on its way to the swarm task, which always answers it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) peer: NodeId,
    pub(super) protocol: Protocol,
    pub(super) lane: Lane,
    pub(super) body: Bytes,
    pub(super) reply: oneshot::Sender<Result<Bytes, CallError>>,
}

/// What else the swarm task is asked to do. Each may be lost when the channel is full: callers
/// repeat what matters, and the count of hit bounds tells.
#[derive(Debug)]
pub(super) enum Order {
    Broadcast(Topic, Bytes),
    Hint(NodeId, Vec<Multiaddr>, DiscoveredBy),
    Disconnect(NodeId),
    Seek(String),
}

/// The receiving ends, for the swarm task.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) asks: mpsc::Receiver<Call>,
    pub(super) ends: mpsc::Receiver<Call>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) members: watch::Receiver<Members>,
    pub(super) offered: watch::Receiver<BTreeSet<String>>,
    pub(super) barred: watch::Receiver<Vec<NodeId>>,
}

/// Calls and orders between the node's tasks and the swarm task.
const CHANNEL: usize = 1024;

#[derive(Debug)]
pub(super) struct Handle {
    local: NodeId,
    asks: mpsc::Sender<Call>,
    ends: mpsc::Sender<Call>,
    orders: mpsc::Sender<Order>,
    members: watch::Sender<Members>,
    offered: watch::Sender<BTreeSet<String>>,
    barred: watch::Sender<Vec<NodeId>>,
    status: watch::Receiver<Arc<MeshStatus>>,
    metrics: NetMetrics,
}

impl Handle {
    pub(super) fn new(
        local: NodeId,
        status: watch::Receiver<Arc<MeshStatus>>,
        metrics: NetMetrics,
    ) -> (Arc<Self>, Inbox) {
        let (asks, asks_in) = mpsc::channel(CHANNEL);
        let (ends, ends_in) = mpsc::channel(CHANNEL);
        let (orders, orders_in) = mpsc::channel(CHANNEL);
        let (members, members_in) = watch::channel(Members::new());
        let (offered, offered_in) = watch::channel(BTreeSet::new());
        let (barred, barred_in) = watch::channel(Vec::new());
        let inbox = Inbox {
            asks: asks_in,
            ends: ends_in,
            orders: orders_in,
            members: members_in,
            offered: offered_in,
            barred: barred_in,
        };
        (Arc::new(Self { local, asks, ends, orders, members, offered, barred, status, metrics }), inbox)
    }

    fn order(&self, order: Order) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.orders.try_send(order) {
            self.metrics.bound("net.orders");
        }
    }
}

/// Hands a call to the swarm task and awaits its answer.
async fn call(
    channel: mpsc::Sender<Call>,
    peer: NodeId,
    protocol: Protocol,
    lane: Lane,
    body: Bytes,
) -> Result<Bytes, CallError> {
    let limits = protocol.limits();
    if body.len() > limits.request_bytes {
        return Err(CallError::TooLarge { size: body.len(), limit: limits.request_bytes });
    }
    let (reply, answer) = oneshot::channel();
    match channel.send_timeout(Call { peer, protocol, lane, body, reply }, limits.deadline).await {
        Ok(()) => answer.await.unwrap_or(Err(CallError::Broken(peer))),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(CallError::Busy(peer)),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(CallError::Unreachable(peer)),
    }
}

impl Mesh for Handle {
    fn local(&self) -> NodeId {
        self.local
    }

    fn call(
        &self,
        peer: NodeId,
        protocol: Protocol,
        lane: Lane,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        if peer == self.local {
            return std::future::ready(Err(CallError::Unreachable(peer))).boxed();
        }
        let channel = match lane {
            Lane::Ask => self.asks.clone(),
            Lane::End => self.ends.clone(),
        };
        let metrics = self.metrics.clone();
        async move {
            let began = Instant::now();
            let result = call(channel, peer, protocol, lane, body).await;
            if let Err(CallError::TooLarge { .. }) = result {
                metrics.bound("net.request-bytes");
            }
            metrics.called(protocol, &result, began.elapsed());
            result
        }
        .boxed()
    }

    fn broadcast(&self, topic: Topic, body: Bytes) {
        if body.len() > MAX_BODY_BYTES {
            self.metrics.bound("net.broadcast-bytes");
            tracing::error!(topic = topic.name(), bytes = body.len(), "a broadcast exceeds {MAX_BODY_BYTES} bytes");
            return;
        }
        self.order(Order::Broadcast(topic, body));
    }

    fn set_members(&self, members: Members) {
        self.members.send_if_modified(|now| {
            let differs = *now != members;
            *now = members;
            differs
        });
    }

    fn set_barred(&self, barred: Vec<NodeId>) {
        self.barred.send_replace(barred);
    }

    fn hint(&self, peer: NodeId, addrs: Vec<Multiaddr>, source: DiscoveredBy) {
        self.order(Order::Hint(peer, addrs, source));
    }

    fn offer(&self, topics: BTreeSet<String>) {
        self.offered.send_if_modified(|now| {
            let differs = *now != topics;
            *now = topics;
            differs
        });
    }

    fn seek(&self, topic: String) {
        self.order(Order::Seek(topic));
    }

    fn disconnect(&self, peer: NodeId) {
        self.order(Order::Disconnect(peer));
    }

    fn status(&self) -> watch::Receiver<Arc<MeshStatus>> {
        self.status.clone()
    }
}
