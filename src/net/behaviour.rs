//! The protocols of one node, as a table of contents of the wire.
//!
//! Owns the configuration of each libp2p behaviour. The swarm task drives them and reads their events.

use std::time::Duration;

use libp2p::{
    PeerId, allow_block_list, connection_limits, gossipsub, identify,
    identity::Keypair,
    kad, mdns, memory_connection_limits, ping,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use super::{
    Mdns, NetError, NetLimits, NetSettings, Protocol, Topic,
    admission::{self, Admission},
    broadcast::MAX_MESSAGE_BYTES,
    event_loop, rpc,
    rpc::Rpc,
};

/// Everything that a node speaks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    /// Refuses connections beyond the bounds.
    pub(super) limits: connection_limits::Behaviour,
    /// Keeps room for members.
    pub(super) admission: Admission,
    /// Refuses connections while memory is short.
    pub(super) memory: memory_connection_limits::Behaviour,
    /// Refuses barred peers.
    pub(super) barred: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    /// Who is at the other end, and where it listens.
    pub(super) identify: identify::Behaviour,
    /// Round-trip times, and connections that are silently dead.
    pub(super) ping: ping::Behaviour,
    /// Addresses of members.
    pub(super) kad: kad::Behaviour<kad::store::MemoryStore>,
    /// Broadcasts.
    pub(super) gossip: gossipsub::Behaviour,
    /// Peers on the local network.
    pub(super) mdns: Toggle<mdns::tokio::Behaviour>,
    /// Raft between lock managers.
    pub(super) raft: Rpc,
    /// Queue replication.
    pub(super) replication: Rpc,
    /// Cache coherence.
    pub(super) coherence: Rpc,
    /// Information, joining, heartbeats, views.
    pub(super) control: Rpc,
    /// Forwarded client operations.
    pub(super) client: Rpc,
}

/// What identify says that we speak.
pub(super) const IDENTIFY_PROTOCOL: &str = "/syncmesh/1";
/// Pings are frequent, because they also find connections that died without a word.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// A ping unanswered for so long ends its connection.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// What gossipsub adds around a message: signature, key, topic, control messages.
const GOSSIP_ENVELOPE_BYTES: usize = 2 * 1024;
/// A node refuses new connections above this part of the memory that it may use.
const MEMORY_PART: f64 = 0.9;
/// How often mDNS asks again.
const MDNS_QUERY_INTERVAL: Duration = Duration::from_secs(30);

impl Topic {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Invalidations, Self::View];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalidations => "syncmesh/invalidations/1",
            Self::View => "syncmesh/view/1",
        }
    }

    pub(super) fn ident(self) -> gossipsub::IdentTopic {
        gossipsub::IdentTopic::new(self.name())
    }
}

impl Behaviour {
    pub(super) fn new(settings: &NetSettings) -> Result<Self, NetError> {
        let local = settings.keypair.public().to_peer_id();
        Ok(Self {
            limits: connection_limits::Behaviour::new(connection_bounds(&settings.limits)),
            admission: Admission::new(&settings.limits),
            memory: memory_bound(&settings.limits),
            barred: allow_block_list::Behaviour::default(),
            identify: identify::Behaviour::new(
                identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), settings.keypair.public())
                    .with_agent_version(settings.agent.clone())
                    .with_push_listen_addr_updates(true)
                    .with_hide_listen_addrs(!settings.announce.is_empty()),
            ),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
            kad: event_loop::kademlia::behaviour(local),
            gossip: gossip(&settings.keypair)?,
            mdns: local_discovery(settings.mdns, local).into(),
            raft: rpc::behaviour(Protocol::Raft),
            replication: rpc::behaviour(Protocol::Replication),
            coherence: rpc::behaviour(Protocol::Coherence),
            control: rpc::behaviour(Protocol::Control),
            client: rpc::behaviour(Protocol::Client),
        })
    }

    /// The exchanges of one protocol.
    pub(super) fn rpc(&mut self, protocol: Protocol) -> &mut Rpc {
        match protocol {
            Protocol::Raft => &mut self.raft,
            Protocol::Replication => &mut self.replication,
            Protocol::Coherence => &mut self.coherence,
            Protocol::Control => &mut self.control,
            Protocol::Client => &mut self.client,
        }
    }
}

fn connection_bounds(limits: &NetLimits) -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(limits.pending_incoming))
        .with_max_pending_outgoing(Some(limits.pending_outgoing))
        .with_max_established(Some(limits.established))
        .with_max_established_per_peer(Some(limits.established_per_peer))
}

/// A part of what is there, or of what the process's control group allows if that is less.
fn memory_bound(limits: &NetLimits) -> memory_connection_limits::Behaviour {
    let machine = memory_connection_limits::Behaviour::with_max_percentage(MEMORY_PART);
    let group = admission::allowed_memory().map(|bytes| bytes / 10 * 9);
    let bound = limits.memory_bytes.or(group).unwrap_or(usize::MAX).min(machine.max_allowed_bytes());
    memory_connection_limits::Behaviour::with_max_bytes(bound)
}

fn gossip(keypair: &Keypair) -> Result<gossipsub::Behaviour, NetError> {
    let setup = |reason: String| NetError::Setup { what: "gossipsub", reason };
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Strict)
        .max_transmit_size(MAX_MESSAGE_BYTES + GOSSIP_ENVELOPE_BYTES)
        .build()
        .map_err(|e| setup(e.to_string()))?;
    let signed = gossipsub::MessageAuthenticity::Signed(keypair.clone());
    let mut gossip = gossipsub::Behaviour::new(signed, config).map_err(|e| setup(e.to_owned()))?;
    for topic in Topic::ALL {
        gossip.subscribe(&topic.ident()).map_err(|e| setup(e.to_string()))?;
    }
    Ok(gossip)
}

/// mDNS where it is wanted and the machine can do it: without multicast a node still works.
fn local_discovery(mdns: Mdns, local: PeerId) -> Option<mdns::tokio::Behaviour> {
    if mdns == Mdns::Off {
        return None;
    }
    let config = mdns::Config { query_interval: MDNS_QUERY_INTERVAL, ..mdns::Config::default() };
    mdns::tokio::Behaviour::new(config, local)
        .inspect_err(|error| tracing::warn!(%error, "no discovery on the local network: MDNS=off silences this"))
        .ok()
}
