//! One call to a peer by its address, without being a node: what `syncmesh peer-info ADDRESS` does.
//!
//! Owns a swarm of its own with a throw-away identity for the time of one call. It speaks identify,
//! ping and control, accepts nothing, and joins nothing.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::TransportError,
    identify,
    identity::Keypair,
    ping,
    pnet::PreSharedKey,
    request_response::{Event, Message, OutboundFailure},
    swarm::{self, DialError, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
};
use tokio::time::timeout;

use super::{
    Protocol,
    behaviour::IDENTIFY_PROTOCOL,
    discovery::{peer_of, without_peer},
    event_loop::printable,
    rpc::{self, Rpc},
    transport,
};
use crate::ids::NodeId;

/// How long the identification and the first ping may take once the call is answered.
const EXTRAS_TIMEOUT: Duration = Duration::from_secs(2);
/// The connection outlives the exchange.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a probe found.
#[derive(Clone, PartialEq, Debug)]
pub struct Probed {
    /// Who answered.
    pub peer: NodeId,
    /// What it says it runs.
    pub agent: Option<String>,
    /// The protocols that it says it speaks.
    pub protocols: Vec<String>,
    /// The address that worked.
    pub addr: Multiaddr,
    /// Our address as the peer sees it.
    pub observed: Option<Multiaddr>,
    /// The round-trip time by ping.
    pub rtt: Option<Duration>,
    /// The answer to the call.
    pub answer: Bytes,
}

/// Why a probe found nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProbeError {
    /// The address is of no form that can be dialled.
    #[error("{addr} cannot be dialled: expected /ip4/…/tcp/…, /ip6/…/tcp/… or /dns/…/tcp/…{}", quic_hint(*.key))]
    Undiallable {
        /// Where.
        addr: Multiaddr,
        /// With which key.
        key: KeyUse,
    },
    /// Nobody answers at that address.
    #[error(
        "{addr} cannot be reached: {reason}. Is a node running there? `syncmesh peer-info` beside it shows where it listens"
    )]
    Unreachable {
        /// Where.
        addr: Multiaddr,
        /// Why not.
        reason: String,
    },
    /// Somebody answers, but the handshake fails: the usual reason is another cluster key.
    #[error("{addr} accepts connections, but the handshake {key} fails ({reason}): {}", key_hint(*.key))]
    Handshake {
        /// Where.
        addr: Multiaddr,
        /// With which key.
        key: KeyUse,
        /// What failed.
        reason: String,
    },
    /// Another peer answers than the address names.
    #[error("at {addr} answers {obtained}, which is another peer than the address names")]
    WrongPeer {
        /// Where.
        addr: Multiaddr,
        /// Who.
        obtained: PeerId,
    },
    /// The peer does not answer the call.
    #[error("{peer} is connected but does not answer: {reason}")]
    NoAnswer {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// It took too long.
    #[error("{addr} did not answer within {within:?}: is it a Syncmesh node, and is it alive?")]
    Timeout {
        /// Where.
        addr: Multiaddr,
        /// How long it was given.
        within: Duration,
    },
}

/// Whether a probe proves that it knows a cluster key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyUse {
    /// It does.
    Key,
    /// There is none.
    NoKey,
}

impl fmt::Display for KeyUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "with this cluster key",
            Self::NoKey => "without a cluster key",
        })
    }
}

fn key_hint(key: KeyUse) -> &'static str {
    match key {
        KeyUse::Key => {
            "the peer has another cluster key, or none, or is no Syncmesh node; CLUSTER_KEY_FILE or --cluster-key-file names \
             the file with its key"
        }
        KeyUse::NoKey => {
            "the peer wants its cluster key, or is no Syncmesh node; CLUSTER_KEY_FILE or --cluster-key-file names the file \
             with its key"
        }
    }
}

fn quic_hint(key: KeyUse) -> &'static str {
    match key {
        KeyUse::Key => "; QUIC is there without a cluster key only",
        KeyUse::NoKey => ", or /ip4/…/udp/…/quic-v1",
    }
}

/// What a probe speaks.
#[derive(NetworkBehaviour)]
struct ProbeBehaviour {
    /// Who is at the other end.
    identify: identify::Behaviour,
    /// The round-trip time.
    ping: ping::Behaviour,
    /// The call.
    control: Rpc,
}

/// Connects to `addr`, with the cluster's key if there is one, and makes one call of
/// [`Protocol::Control`].
///
/// # Errors
/// See [`ProbeError`]; within `within`, a second or two of handshakes aside.
pub async fn probe(
    addr: &Multiaddr,
    key: Option<PreSharedKey>,
    request: Bytes,
    within: Duration,
) -> Result<Probed, ProbeError> {
    let unreachable = |reason: String| ProbeError::Unreachable { addr: addr.clone(), reason };
    let key_use = if key.is_some() { KeyUse::Key } else { KeyUse::NoKey };
    let keypair = Keypair::generate_ed25519();
    let transport = transport::build(&keypair, key).map_err(|error| unreachable(error.to_string()))?;
    let behaviour = ProbeBehaviour {
        identify: identify::Behaviour::new(identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())),
        ping: ping::Behaviour::default(),
        control: rpc::behaviour(Protocol::Control),
    };
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    let mut swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config);
    let opts = DialOpts::unknown_peer_id().address(without_peer(addr.clone())).build();
    swarm.dial(opts).map_err(|error| unreachable(transport::reason(&error)))?;
    match timeout(within, converse(&mut swarm, addr, key_use, request)).await {
        Ok(Ok(mut probed)) => {
            let extras = gather_extras(&mut swarm, &mut probed);
            // What is not there by then is left out.
            let _ = timeout(EXTRAS_TIMEOUT, extras).await;
            Ok(probed)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ProbeError::Timeout { addr: addr.clone(), within }),
    }
}

/// Connects and calls.
async fn converse(
    swarm: &mut Swarm<ProbeBehaviour>,
    addr: &Multiaddr,
    key: KeyUse,
    request: Bytes,
) -> Result<Probed, ProbeError> {
    let mut found: Option<Probed> = None;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_of(addr).is_some_and(|peer| peer != peer_id) => {
                return Err(ProbeError::WrongPeer { addr: addr.clone(), obtained: peer_id });
            }
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                let peer = NodeId::try_from(peer_id)
                    .map_err(|error| ProbeError::NoAnswer { peer: peer_id, reason: error.to_string() })?;
                swarm.behaviour_mut().control.send_request(&peer_id, request.clone());
                found = Some(Probed {
                    peer,
                    agent: None,
                    protocols: Vec::new(),
                    addr: endpoint.get_remote_address().clone(),
                    observed: None,
                    rtt: None,
                    answer: Bytes::new(),
                });
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(refused(addr, key, error).await),
            SwarmEvent::ConnectionClosed { peer_id, .. } => {
                return Err(ProbeError::NoAnswer { peer: peer_id, reason: "it closed the connection".to_owned() });
            }
            SwarmEvent::Behaviour(ProbeBehaviourEvent::Control(event)) => {
                if let Some(answer) = answer_of(event)
                    && let Some(mut probed) = found.take()
                {
                    probed.answer = answer?;
                    return Ok(probed);
                }
            }
            SwarmEvent::Behaviour(event) => {
                if let Some(probed) = &mut found {
                    note(probed, event);
                }
            }
            _ => {}
        }
    }
}

/// What came of our call; `None` for what the peer asks of us, such as its greeting.
fn answer_of(event: rpc::RpcEvent) -> Option<Result<Bytes, ProbeError>> {
    Some(match event {
        Event::Message { message: Message::Response { response, .. }, .. } if !response.is_empty() => Ok(response),
        Event::Message { peer, message: Message::Response { .. }, .. } => {
            Err(ProbeError::NoAnswer { peer, reason: "it refused the call".to_owned() })
        }
        Event::OutboundFailure { peer, error, .. } => {
            let reason = match error {
                OutboundFailure::UnsupportedProtocols => "it is not a Syncmesh node".to_owned(),
                error => error.to_string(),
            };
            Err(ProbeError::NoAnswer { peer, reason })
        }
        Event::Message { .. } | Event::InboundFailure { .. } | Event::ResponseSent { .. } => return None,
    })
}

/// Waits until the peer has said who it is and has answered a ping.
async fn gather_extras(swarm: &mut Swarm<ProbeBehaviour>, probed: &mut Probed) {
    while probed.agent.is_none() || probed.rtt.is_none() {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(event) => note(probed, event),
            SwarmEvent::ConnectionClosed { .. } => return,
            _ => {}
        }
    }
}

fn note(probed: &mut Probed, event: ProbeBehaviourEvent) {
    match event {
        ProbeBehaviourEvent::Identify(identify::Event::Received { info, .. }) => {
            probed.agent = Some(printable(&info.agent_version));
            probed.protocols = info.protocols.iter().map(|protocol| printable(protocol.as_ref())).collect();
            probed.observed = Some(info.observed_addr);
        }
        ProbeBehaviourEvent::Ping(ping::Event { result: Ok(rtt), .. }) => probed.rtt = Some(rtt),
        _ => {}
    }
}

/// Tells "nobody there" from "somebody there whose handshake fails", by asking for a bare connection:
/// the errors of the layers do not tell.
async fn refused(addr: &Multiaddr, key: KeyUse, error: DialError) -> ProbeError {
    let (addr, reason) = (addr.clone(), transport::reason(&error));
    match error {
        DialError::Transport(errors)
            if errors.iter().all(|(_, error)| matches!(error, TransportError::MultiaddrNotSupported(_))) =>
        {
            ProbeError::Undiallable { addr, key }
        }
        DialError::Transport(_) => match timeout(EXTRAS_TIMEOUT, transport::tcp_answers(&addr)).await {
            Ok(true) => ProbeError::Handshake { addr, key, reason },
            Ok(false) | Err(_) => ProbeError::Unreachable { addr, reason },
        },
        _ => ProbeError::Unreachable { addr, reason },
    }
}
