//! The mesh as the services see it: calls to peers, broadcasts, and a stream of events.
//!
//! [`Mesh`] is implemented by libp2p ([`event_loop`](self)) and by the simulated network. It carries
//! bytes between peers: it names no lock, queue or key.

mod admission;
mod backoff;
mod behaviour;
mod broadcast;
pub mod deferred;
mod discovery;
mod event_loop;
mod handle;
pub mod identity;
mod metrics;
pub mod probe;
mod rpc;
mod start;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use libp2p::Multiaddr;
use tokio::sync::{oneshot, watch};

pub use self::{
    rpc::Limits,
    start::{Mdns, NetError, NetLimits, NetSettings, NetTask, start},
};
use crate::ids::NodeId;

/// One request-response protocol per concern, so that one flood cannot starve another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// Raft between lock managers.
    Raft,
    /// Queue replication.
    Replication,
    /// Cache coherence.
    Coherence,
    /// Information, joining, heartbeats, views.
    Control,
    /// Client operations on their way to the peer that serves them.
    Client,
}

/// What is broadcast. One topic per concern, never one per key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Topic {
    /// Cache invalidations.
    Invalidations,
    /// "The view changed": a hint to ask for it.
    View,
}

/// Which send slots a call may take. What ends a wait must never queue behind those who wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// New requests.
    Ask,
    /// Answers, acknowledgements, releases, keep-alives: has slots that `Ask` cannot take.
    End,
}

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// Certainly not delivered: no connection could be had.
    #[error("{0} cannot be reached")]
    Unreachable(NodeId),
    /// Certainly not delivered: too many calls to this peer are under way.
    #[error("too many calls to {0} are under way")]
    Busy(NodeId),
    /// Certainly not delivered: the request exceeds the protocol's limit.
    #[error("the request has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes of the request.
        size: usize,
        /// Most bytes of a request of this protocol.
        limit: usize,
    },
    /// Perhaps delivered: no answer within the protocol's deadline.
    #[error("{0} did not answer in time")]
    Timeout(NodeId),
    /// Perhaps delivered: the connection broke before the answer came.
    #[error("the connection to {0} was lost before it answered")]
    Broken(NodeId),
    /// Delivered and not answered: the peer refuses such calls from us.
    #[error("{0} refused the call")]
    Refused(NodeId),
}

impl CallError {
    /// Whether the peer may have acted on the request.
    pub fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Broken(_))
    }
}

/// A call from a peer. Answer it soon: no exchange waits for anything but this node's own work.
/// Dropped unanswered, it is refused.
#[derive(Debug)]
pub struct Inbound {
    /// Who asks. Authenticated by the transport.
    pub from: NodeId,
    /// Under which protocol.
    pub protocol: Protocol,
    /// The request, within the protocol's limit.
    pub body: Bytes,
    /// Where the answer goes: at least one byte, because an answer of none says "refused".
    pub reply: oneshot::Sender<Bytes>,
}

/// What the mesh tells the node.
#[derive(Debug)]
pub enum MeshEvent {
    /// The first connection to a peer is up.
    Up(NodeId),
    /// The last connection to a peer is gone.
    Down(NodeId),
    /// A peer calls.
    Call(Inbound),
    /// A peer broadcasts.
    Gossip {
        /// Who published it (signed).
        from: NodeId,
        /// Where.
        topic: Topic,
        /// What.
        body: Bytes,
    },
}

/// How a peer was first heard of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each variant is the source")]
pub enum DiscoveredBy {
    Bootstrap,
    Mdns,
    Kademlia,
    Members,
    Inbound,
}

/// One connected peer, for people.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerLink {
    /// The peer.
    pub peer: NodeId,
    /// What it says it runs (identify).
    pub agent: String,
    /// The address at the other end.
    pub addr: Multiaddr,
    /// `tcp` or `quic`.
    pub transport: &'static str,
    /// Whether we dialled.
    pub outbound: bool,
    /// Round-trip time by ping.
    pub rtt: Option<Duration>,
    /// How it was found.
    pub discovered_by: DiscoveredBy,
}

/// What the mesh knows of itself and of those it is connected to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MeshStatus {
    /// Where we listen.
    pub listen_addrs: Vec<Multiaddr>,
    /// What peers say our address is.
    pub observed_addrs: Vec<Multiaddr>,
    /// The protocols that we speak.
    pub protocols: Vec<String>,
    /// Connected peers.
    pub peers: BTreeMap<NodeId, PeerLink>,
    /// Members whose connection could not be opened when it was tried last: evidence that their process
    /// is gone where it was there a moment ago.
    pub unreachable: BTreeSet<NodeId>,
    /// Whether handshakes with others fail again and again, in or out.
    pub handshakes_fail: bool,
    /// Peers to whom the bootstrap addresses lead, connected or not.
    pub bootstrap: BTreeSet<NodeId>,
    /// Bootstrap addresses that lead to nobody who is connected, with why the last dial failed, once one has.
    pub unanswered: Vec<(Multiaddr, Option<String>)>,
}

impl MeshStatus {
    /// What to look at first where peers are missed, as the end of a message; often nothing.
    pub fn key_hint(&self) -> &'static str {
        match self.handshakes_fail {
            true => {
                "; handshakes with others fail again and again: most likely one of us has another cluster key, or none \
                 (CLUSTER_KEY_FILE)"
            }
            false => "",
        }
    }

    /// The bootstrap addresses at which nobody answers, and why, for people; `None` where all do, or there are none.
    pub fn unanswered_text(&self) -> Option<String> {
        let one = |(addr, reason): &(Multiaddr, Option<String>)| {
            format!("{addr} ({})", reason.as_deref().unwrap_or("not yet"))
        };
        let told: Vec<String> = self.unanswered.iter().take(MAX_UNANSWERED_TOLD).map(one).collect();
        let further = self.unanswered.len() - told.len();
        let more = if further == 0 { String::new() } else { format!(" and at {further} more") };
        (!told.is_empty()).then(|| format!("{}{more}", told.join(", ")))
    }
}

/// Most bootstrap addresses that a message names.
const MAX_UNANSWERED_TOLD: usize = 4;

/// Most bytes of a topic that is offered or sought.
pub const MAX_TOPIC_BYTES: usize = 256;
/// Most topics that a node offers.
pub const MAX_TOPICS: usize = 16;

/// A node's end of the mesh. Cheap to clone behind an [`Arc`].
pub trait Mesh: Send + Sync + fmt::Debug + 'static {
    /// This node.
    fn local(&self) -> NodeId;

    /// Calls a peer and awaits its answer. Connects first if need be and an address is known. Two
    /// calls may arrive in any order. Calls to oneself are answered [`CallError::Unreachable`].
    fn call(
        &self,
        peer: NodeId,
        protocol: Protocol,
        lane: Lane,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Tells everyone who listens, perhaps, sometime: a hint that may be lost. What is broadcast within
    /// a millisecond travels together.
    fn broadcast(&self, topic: Topic, body: Bytes);

    /// The members of the cluster and where they listen, by the replicated state: the mesh keeps
    /// connected to them, re-dialling for ever, fills Kademlia with them and with nobody else.
    fn set_members(&self, members: BTreeMap<NodeId, Vec<Multiaddr>>);

    /// Peers that are barred: connections are closed and refused.
    fn set_barred(&self, barred: Vec<NodeId>);

    /// Tries an address that somebody told us, without knowing whether it works.
    fn hint(&self, peer: NodeId, addrs: Vec<Multiaddr>, source: DiscoveredBy);

    /// Publishes, again and again, that this node offers these, and no longer what it offered before.
    /// What a topic means is for the services. Members alone keep such records, and only of members.
    fn offer(&self, topics: BTreeSet<String>);

    /// Looks for peers that offer this and connects to those whom it finds: hints, which may be old, and
    /// have no authority. Finds nobody where nobody is connected. Repeat it for as long as it matters.
    fn seek(&self, topic: String);

    /// Closes all connections to a peer (another cluster's, an incompatible one).
    fn disconnect(&self, peer: NodeId);

    /// The state of the mesh, kept current.
    fn status(&self) -> watch::Receiver<Arc<MeshStatus>>;
}
