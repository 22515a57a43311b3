//! Starting and stopping a node's end of the mesh.
//!
//! Owns what the node passes in ([`NetSettings`]) and gets back: the [`Mesh`], its events, and the
//! [`NetTask`] to await and to stop. Called once by `node`.

use std::{fmt, sync::Arc, time::Duration};

use libp2p::{Multiaddr, Swarm, identity::Keypair, pnet::PreSharedKey, swarm};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use super::{
    Mesh, MeshEvent, MeshStatus,
    behaviour::Behaviour,
    discovery::{Book, Bootstrap, is_quic},
    event_loop::EventLoop,
    handle::Handle,
    metrics::NetMetrics,
    transport,
};
use crate::{ids::NodeId, telemetry::Bounds};

/// Whether to look for peers on the local network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mdns {
    /// By multicast DNS.
    #[default]
    On,
    /// Not at all.
    Off,
}

/// Bounds on connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetLimits {
    /// Inbound connections whose handshake is under way: what a stranger can occupy.
    pub pending_incoming: u32,
    /// Of these, with one host.
    pub pending_per_host: u32,
    /// Outbound connections whose handshake is under way.
    pub pending_outgoing: u32,
    /// Established connections.
    pub established: u32,
    /// Of these, inbound ones of peers that are no members.
    pub established_strangers: u32,
    /// Established connections with one peer.
    pub established_per_peer: u32,
    /// Events that wait for the node; calls beyond are refused.
    pub events: usize,
    /// Bytes in use above which no new connections are made; none: nine tenths of what there is.
    pub memory_bytes: Option<usize>,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            pending_incoming: 128,
            pending_per_host: 32,
            pending_outgoing: 256,
            established: 1024,
            established_strangers: 512,
            established_per_peer: 8,
            events: 4096,
            memory_bytes: None,
        }
    }
}

/// What a node's end of the mesh needs to know.
#[derive(Clone)]
pub struct NetSettings {
    /// The node's identity: ed25519.
    pub keypair: Keypair,
    /// The cluster's key. With it, a peer without it cannot finish a handshake.
    pub pre_shared_key: Option<PreSharedKey>,
    /// Where to listen; port 0 picks a free one.
    pub listen: Vec<Multiaddr>,
    /// What to tell others instead of the listeners.
    pub announce: Vec<Multiaddr>,
    /// Where to find a cluster: with or without `/p2p/…`, names allowed.
    pub bootstrap: Vec<Multiaddr>,
    /// Discovery on the local network.
    pub mdns: Mdns,
    /// The name and version that identify tells.
    pub agent: String,
    /// Bounds on connections.
    pub limits: NetLimits,
}

impl fmt::Debug for NetSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetSettings")
            .field("peer", &self.keypair.public().to_peer_id())
            .field("private_network", &self.pre_shared_key.is_some())
            .field("listen", &self.listen)
            .field("announce", &self.announce)
            .field("bootstrap", &self.bootstrap)
            .field("mdns", &self.mdns)
            .finish_non_exhaustive()
    }
}

/// Why the mesh did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A listener could not be opened.
    #[error("cannot listen on {addr}: {reason}; free it or choose another LISTEN_ADDRS")]
    Listen {
        /// Where.
        addr: Multiaddr,
        /// Why not.
        reason: String,
    },
    /// A bootstrap address that nobody of ours can answer.
    #[error("the bootstrap address {addr} cannot be used: {reason}; correct BOOTSTRAP_PEERS")]
    Bootstrap {
        /// Which.
        addr: Multiaddr,
        /// Why not.
        reason: String,
    },
    /// QUIC beside a cluster key.
    #[error(
        "{addr} is a QUIC address, and QUIC cannot prove the cluster key: use a TCP address, or no CLUSTER_KEY_FILE"
    )]
    QuicWithKey {
        /// Which address.
        addr: Multiaddr,
    },
    /// A part of libp2p refused its configuration.
    #[error("{what} cannot be set up: {reason}")]
    Setup {
        /// Which part.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The identity is not an ed25519 key.
    #[error("the node's key is not an ed25519 key: remove the identity file to get a new one")]
    Identity,
    /// The swarm task ended by a panic.
    #[error("the network task failed: {0}")]
    Task(#[from] JoinError),
}

/// The swarm task. Dropped, it runs on until its [`CancellationToken`] is cancelled.
#[derive(Debug)]
pub struct NetTask {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl NetTask {
    /// Cancelling this ends the task: it closes its connections first.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Resolves when the task has ended. Before [`stop`](Self::stop) that is a fault. Cancel safe.
    pub async fn ended(&mut self) -> Result<(), NetError> {
        Ok((&mut self.task).await?)
    }

    /// Closes all connections and listeners and waits until that is done.
    pub async fn stop(mut self) -> Result<(), NetError> {
        self.stop.cancel();
        self.ended().await
    }
}

/// Connections stay open without traffic: the mesh is kept, not made anew for each call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// Inbound substreams whose protocol is being negotiated: more than the peers' slots of all protocols.
const NEGOTIATING_STREAMS: usize = 1024;

/// Opens the listeners and starts the swarm task. When this returns, all listeners are bound and
/// [`MeshStatus::listen_addrs`] names them with their ports. Metrics get registered in `registry`
/// under their full names (`syncmesh_…`, `libp2p_…`); `bounds` counts the mesh's bounds that are hit.
///
/// # Errors
/// [`NetError::Listen`] where an address is taken; others for settings that cannot work.
pub async fn start(
    settings: NetSettings,
    registry: &mut Registry,
    bounds: Bounds,
) -> Result<(Arc<dyn Mesh>, mpsc::Receiver<MeshEvent>, NetTask), NetError> {
    let addrs = settings.listen.iter().chain(&settings.announce).chain(&settings.bootstrap);
    if let Some(addr) = addrs.filter(|_| settings.pre_shared_key.is_some()).find(|addr| is_quic(addr)) {
        return Err(NetError::QuicWithKey { addr: addr.clone() });
    }
    let peer_id = settings.keypair.public().to_peer_id();
    let local = NodeId::try_from(peer_id).map_err(|_| NetError::Identity)?;
    let bootstrap: Result<Vec<_>, _> = settings.bootstrap.iter().map(|addr| Bootstrap::new(addr, local)).collect();
    let bootstrap = bootstrap?;
    let metrics = NetMetrics::new(registry, bounds);
    let libp2p_metrics = libp2p::metrics::Metrics::new(registry);
    let transport = transport::build(&settings.keypair, settings.pre_shared_key)?;
    let config = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_TIMEOUT)
        .with_max_negotiating_inbound_streams(NEGOTIATING_STREAMS)
        .with_substream_upgrade_protocol_override(libp2p::core::upgrade::Version::V1Lazy);
    let mut swarm = Swarm::new(transport, Behaviour::new(&settings)?, peer_id, config);
    for addr in &settings.announce {
        swarm.add_external_address(addr.clone());
    }
    let (status_out, status) = watch::channel(Arc::new(MeshStatus::default()));
    let (events, events_out) = mpsc::channel(settings.limits.events);
    let (handle, inbox) = Handle::new(local, status, metrics.clone());
    let stop = CancellationToken::new();
    let mut event_loop =
        EventLoop::new(swarm, Book::new(local), bootstrap, events, status_out, metrics, libp2p_metrics);
    event_loop.listen(&settings.listen).await?;
    let task = tokio::spawn(event_loop.run(inbox, stop.clone()));
    Ok((handle, events_out, NetTask { stop, task }))
}
