//! A mesh in memory, on the simulation's time, with faults drawn from a seed.
//!
//! [`SimNetwork::join`] gives a process its end of the mesh; [`SimNetwork::turn`] delivers what is due
//! and is called once a millisecond by the world, never from inside a node. Everything that joined is
//! reachable for everything else unless a link is blocked or a peer barred, as on a LAN with mDNS.
//!
//! A *link* is a connection between two processes. It comes up a dial's time after both can reach
//! each other, breaks at once when a process dies, and breaks a detection's time after a partition
//! began, in both directions or only one; until then messages vanish and calls time out. A message
//! belongs to the link on which it was sent: it never reaches the next process under the same id.

mod core;
mod links;
mod tally;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot, watch};

use self::core::Net;
pub use self::tally::{Happened, Tally};
use super::clock::WorldTime;
use crate::{
    ids::NodeId,
    net::{CallError, DiscoveredBy, Lane, Mesh, MeshEvent, MeshStatus, Protocol, Topic},
};

/// How the network treats messages. Probabilities are per message, delays one way in microseconds.
#[derive(Clone, PartialEq, Debug)]
pub struct Weather {
    /// A request or an answer vanishes.
    pub loss: f64,
    /// A broadcast does not reach a peer.
    pub gossip_loss: f64,
    /// A request arrives twice.
    pub duplicate: f64,
    /// A message takes `slow_us` instead of `delay_us`.
    pub slow: f64,
    /// Of an ordinary message.
    pub delay_us: RangeInclusive<u64>,
    /// Of a slow one.
    pub slow_us: RangeInclusive<u64>,
    /// From the beginning of a partition until the connection is given up, in milliseconds.
    pub detect_ms: RangeInclusive<u64>,
    /// From the moment at which two peers can reach each other until they are connected, in
    /// milliseconds.
    pub dial_ms: RangeInclusive<u64>,
}

impl Weather {
    /// A LAN: nothing is lost.
    pub fn calm() -> Self {
        Self {
            loss: 0.0,
            gossip_loss: 0.0,
            duplicate: 0.0,
            slow: 0.0,
            delay_us: 200..=3_000,
            slow_us: 20_000..=600_000,
            detect_ms: 1_000..=7_000,
            dial_ms: 1..=300,
        }
    }

    /// A bad day: what every run is exposed to throughout, beside the scheduled faults.
    pub fn rough() -> Self {
        Self { loss: 0.005, gossip_loss: 0.2, duplicate: 0.01, slow: 0.005, delay_us: 200..=8_000, ..Self::calm() }
    }
}

/// What one process sends to another, or to all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A request; a second copy of it is not sent by anybody.
    Request {
        /// Under which.
        protocol: Protocol,
        /// As on the wire.
        body: Bytes,
    },
    /// The answer to one.
    Answer {
        /// Of the request.
        protocol: Protocol,
        /// As on the wire.
        body: Bytes,
    },
    /// A broadcast, once for all peers.
    Broadcast {
        /// About what.
        topic: Topic,
        /// As on the wire.
        body: Bytes,
    },
}

/// The network of one run. Cheap to clone.
#[derive(Clone)]
pub struct SimNetwork(Arc<Mutex<Net>>);

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNetwork").finish_non_exhaustive()
    }
}

impl SimNetwork {
    /// An empty network.
    pub fn new(seed: u64, time: WorldTime, weather: Weather) -> Self {
        Self(Arc::new(Mutex::new(Net::new(seed, time, weather))))
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        self.0.lock().expect("no code under test runs while the network is locked")
    }

    /// A process comes up under this id. One that still runs under it is cut off.
    pub fn join(&self, node: NodeId) -> (Arc<dyn Mesh>, mpsc::Receiver<MeshEvent>) {
        let (life, events, status) = self.net().join(node);
        (Arc::new(SimMesh { network: self.clone(), node, life, status }), events)
    }

    /// The process under this id is gone: its peers' connections to it break.
    pub fn kill(&self, node: NodeId) {
        self.net().leave(node);
    }

    /// Replaces the set of blocked directed links: nothing passes from the first to the second.
    pub fn set_blocked(&self, blocked: impl IntoIterator<Item = (NodeId, NodeId)>) {
        self.net().blocked = blocked.into_iter().collect();
    }

    /// Changes the weather for what is sent from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.net().weather = weather;
    }

    /// Takes up answers, delivers what is due, connects and disconnects. Once per millisecond.
    pub fn turn(&self) {
        self.net().turn();
    }

    /// Counts something that happened outside the network.
    pub fn count(&self, what: Happened) {
        self.net().tally.count(what);
    }

    /// What was sent since this was asked the last time; from the first time on it is kept.
    pub fn take_recorded(&self) -> Vec<Frame> {
        self.net().recorded.replace(Vec::new()).unwrap_or_default()
    }

    /// What happened so far.
    pub fn tally(&self) -> Tally {
        self.net().tally.clone()
    }
}

/// One process's end.
#[derive(Debug)]
struct SimMesh {
    network: SimNetwork,
    node: NodeId,
    life: u64,
    status: watch::Receiver<Arc<MeshStatus>>,
}

impl Mesh for SimMesh {
    fn local(&self) -> NodeId {
        self.node
    }

    fn call(
        &self,
        peer: NodeId,
        protocol: Protocol,
        lane: Lane,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let (network, from) = (self.network.clone(), (self.node, self.life));
        async move {
            let (reply, answer) = oneshot::channel();
            network.net().call(from, peer, (protocol, lane), body, reply);
            answer.await.unwrap_or(Err(CallError::Broken(peer)))
        }
        .boxed()
    }

    fn broadcast(&self, topic: Topic, body: Bytes) {
        self.network.net().broadcast((self.node, self.life), topic, &body);
    }

    fn set_members(&self, members: BTreeMap<NodeId, Vec<Multiaddr>>) {
        self.network.net().want(self.node, members.into_keys());
    }

    fn set_barred(&self, barred: Vec<NodeId>) {
        self.network.net().bar((self.node, self.life), barred);
    }

    fn hint(&self, peer: NodeId, _addrs: Vec<Multiaddr>, _source: DiscoveredBy) {
        self.network.net().want(self.node, [peer]);
    }

    fn offer(&self, topics: BTreeSet<String>) {
        self.network.net().offer((self.node, self.life), topics);
    }

    fn seek(&self, topic: String) {
        self.network.net().seek(self.node, &topic);
    }

    fn disconnect(&self, peer: NodeId) {
        self.network.net().disconnect((self.node, self.life), peer);
    }

    fn status(&self) -> watch::Receiver<Arc<MeshStatus>> {
        self.status.clone()
    }
}
