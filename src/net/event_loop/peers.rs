//! The connections of the swarm task: dialling, losing, learning addresses, telling the node.

use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroU8,
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify,
    multiaddr::Protocol as Part,
    ping,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{sync::mpsc, time::Instant};

use super::{EventLoop, StatusAge, handshakes::is_of_handshake};
use crate::{
    ids::NodeId,
    net::{
        DiscoveredBy, MeshEvent,
        behaviour::IDENTIFY_PROTOCOL,
        discovery::{Link, without_peer},
        handle::Members,
        transport,
    },
};

/// Addresses that peers say are ours.
const MAX_OBSERVED: usize = 16;
/// Most bytes of the agent string of a peer that are kept.
const MAX_AGENT_BYTES: usize = 128;
/// All known addresses of a peer are dialled at once.
const DIAL_AT_ONCE: NonZeroU8 = NonZeroU8::new(16).expect("16 is not 0");

/// What waits to be told to the node. Calls and broadcasts are dropped when the channel is full;
/// that a peer came or went is kept here, at most two events a peer.
pub(super) struct Outbox {
    events: mpsc::Sender<MeshEvent>,
    waiting: VecDeque<MeshEvent>,
}

impl Outbox {
    pub(super) fn new(events: mpsc::Sender<MeshEvent>) -> Self {
        Self { events, waiting: VecDeque::new() }
    }

    /// Tells it now or not at all.
    #[must_use]
    pub(super) fn offer(&mut self, event: MeshEvent) -> bool {
        self.waiting.is_empty() && self.events.try_send(event).is_ok()
    }

    fn up(&mut self, peer: NodeId) {
        self.keep(peer, MeshEvent::Up(peer));
    }

    fn down(&mut self, peer: NodeId) {
        self.keep(peer, MeshEvent::Down(peer));
    }

    /// Tells it now or later. Where two events of the peer wait already, the new one and the last
    /// undo each other.
    fn keep(&mut self, peer: NodeId, event: MeshEvent) {
        let about = |event: &MeshEvent| matches!(event, MeshEvent::Up(p) | MeshEvent::Down(p) if *p == peer);
        if self.waiting.is_empty() {
            match self.events.try_send(event) {
                Err(mpsc::error::TrySendError::Full(event)) => self.waiting.push_back(event),
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        } else if self.waiting.iter().filter(|event| about(event)).count() < 2 {
            self.waiting.push_back(event);
        } else if let Some(last) = self.waiting.iter().rposition(about) {
            self.waiting.remove(last);
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Waits for room and tells one event. Cancel safe.
    pub(super) async fn flush(&mut self) {
        match self.events.reserve().await {
            Ok(room) => {
                if let Some(event) = self.waiting.pop_front() {
                    room.send(event);
                }
            }
            Err(_) => self.waiting.clear(),
        }
    }
}

impl EventLoop {
    /// Whether a call to a peer without a connection may wait for one: dials it if need be. A peer
    /// that could not be reached the last time is not waited for; it is dialled in its own time.
    pub(super) fn reach(&mut self, peer: NodeId, now: Instant) -> bool {
        if self.barred.contains(&peer) || self.book.is_sent_away(peer, now) {
            return false;
        }
        let Some(known) = self.book.get(peer).filter(|known| known.connected() || !known.addrs().is_empty()) else {
            self.look_for(peer, now);
            return false;
        };
        let failing = known.failing();
        let under_way = known.connected() || known.dialling.is_some();
        let dialled = self.book.may_dial(peer, now) && self.dial(peer, now);
        (under_way || dialled) && !failing
    }

    /// Dials everyone whom the node wants and whose pause is over.
    pub(super) fn dial_due(&mut self, now: Instant) {
        for peer in self.book.due(now) {
            if !self.barred.contains(&peer) {
                self.dial(peer, now);
            }
        }
        for at in 0..self.bootstrap.len() {
            if self.bootstrap[at].due(&self.book, now) {
                self.dial_bootstrap(at, now);
            }
        }
    }

    fn dial(&mut self, peer: NodeId, now: Instant) -> bool {
        let Some(known) = self.book.get_mut(peer) else { return false };
        let addrs = known.addrs();
        if addrs.is_empty() {
            return false;
        }
        // A port of its own: two peers that dial each other from their listening ports at the same
        // moment would meet in one TCP connection that both believe to have opened.
        let opts = DialOpts::peer_id(peer.peer_id())
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .override_dial_concurrency_factor(DIAL_AT_ONCE)
            .addresses(addrs)
            .allocate_new_port()
            .build();
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => {
                known.dialling = Some(id);
                true
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "not dialled");
                known.backoff.failed(now);
                false
            }
        }
    }

    fn dial_bootstrap(&mut self, at: usize, now: Instant) {
        let target = &mut self.bootstrap[at];
        let opts = match target.required {
            Some(peer) => DialOpts::peer_id(peer.peer_id())
                .condition(PeerCondition::Disconnected)
                .addresses(vec![target.addr.clone()])
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(target.addr.clone()).allocate_new_port().build(),
        };
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => target.dialling = Some(id),
            Err(error) => {
                tracing::debug!(addr = %target.addr, %error, "the bootstrap address was not dialled");
                target.backoff.failed(now);
                target.failure = Some(transport::reason(&error));
                self.status_stale = StatusAge::Stale;
            }
        }
    }

    pub(super) fn on_connected(&mut self, peer_id: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let Ok(peer) = NodeId::try_from(peer_id) else {
            tracing::warn!(%peer_id, "a peer without an ed25519 key was sent away");
            self.swarm.close_connection(id);
            return;
        };
        self.handshakes.succeeded();
        let outbound = endpoint.is_dialer();
        let addr = without_peer(endpoint.get_remote_address().clone());
        // Whom this node did not mean to dial, Kademlia has dialled for an answer.
        let mut source = if outbound { DiscoveredBy::Kademlia } else { DiscoveredBy::Inbound };
        if let Some(target) = self.bootstrap.iter_mut().find(|target| target.dialling == Some(id)) {
            target.dialling = None;
            target.failure = None;
            target.leads_to = Some(peer);
            source = DiscoveredBy::Bootstrap;
        }
        let known = self.book.meet_connected(peer, source);
        if known.dialling == Some(id) {
            known.dialling = None;
        }
        if outbound {
            known.hear(addr.clone());
        }
        let first = !known.connected();
        known.links.push(Link { id, addr: addr.clone(), outbound, since: Instant::now() });
        if first {
            tracing::info!(%peer, %addr, outbound, "connected");
            self.outbox.up(peer);
        }
        self.status_stale = StatusAge::Stale;
        self.pump_all(peer);
    }

    pub(super) fn on_disconnected(&mut self, peer_id: PeerId, id: ConnectionId, cause: Option<String>) {
        let Ok(peer) = NodeId::try_from(peer_id) else { return };
        let Some(known) = self.book.get_mut(peer) else { return };
        let now = Instant::now();
        let Some(at) = known.links.iter().position(|link| link.id == id) else { return };
        let link = known.links.remove(at);
        self.status_stale = StatusAge::Stale;
        if known.connected() {
            return;
        }
        known.rtt = None;
        known.backoff.ended(link.since, now);
        for target in self.bootstrap.iter_mut().filter(|target| target.leads_to == Some(peer)) {
            target.backoff.ended(link.since, now);
        }
        tracing::info!(%peer, cause = cause.as_deref().unwrap_or("closed"), "disconnected");
        self.outbox.down(peer);
        self.dial_due(now);
        if self.book.get(peer).is_some_and(|known| known.dialling.is_none()) {
            self.fail_waiting(peer);
        }
    }

    pub(super) fn on_dial_error(&mut self, peer_id: Option<PeerId>, id: ConnectionId, error: &DialError) {
        let now = Instant::now();
        if is_of_handshake(error) {
            self.handshakes.failed(now);
        }
        if let Some(target) = self.bootstrap.iter_mut().find(|target| target.dialling == Some(id)) {
            target.dialling = None;
            target.backoff.failed(now);
            target.failure = Some(transport::reason(error));
            self.status_stale = StatusAge::Stale;
            if let DialError::LocalPeerId { .. } = error {
                tracing::info!(addr = %target.addr, "this bootstrap address is our own");
                target.ourselves = true;
            } else if target.backoff.worth_telling() {
                let (reason, hint) = (transport::reason(error), key_hint(error));
                tracing::warn!(addr = %target.addr, reason, "no connection to this bootstrap address: trying on{hint}");
            }
        }
        let Some(peer) = peer_id.and_then(|peer_id| NodeId::try_from(peer_id).ok()) else { return };
        let Some(known) = self.book.get_mut(peer) else { return };
        if known.dialling == Some(id) {
            known.dialling = None;
            known.backoff.failed(now);
            self.status_stale = StatusAge::Stale;
            tracing::debug!(%peer, %error, "not reached");
        }
        if !known.connected() && known.dialling.is_none() {
            self.fail_waiting(peer);
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, connection_id, info } = event else { return };
        let Ok(peer) = NodeId::try_from(peer_id) else { return };
        if info.protocol_version != IDENTIFY_PROTOCOL {
            tracing::debug!(%peer, protocol = %info.protocol_version, "a peer that is not of Syncmesh");
        }
        let Some(known) = self.book.get_mut(peer) else { return };
        known.agent = printable(&info.agent_version);
        known.tell(info.listen_addrs.into_iter().filter(dialable).collect());
        let outbound = known.links.iter().any(|link| link.id == connection_id && link.outbound);
        let (member, addrs) = (known.is_member(), known.addrs());
        self.observe(info.observed_addr, outbound);
        if member {
            self.fill_table(peer, addrs);
        }
        self.status_stale = StatusAge::Stale;
    }

    /// Notes at which address a peer has reached us. Of a connection that we opened it shows a port which
    /// nobody listens on.
    fn observe(&mut self, addr: Multiaddr, outbound: bool) {
        let addr = without_peer(addr);
        if !outbound && is_of_socket(&addr) && !self.observed.contains(&addr) {
            self.observed.push(addr);
            // The oldest goes: what is told last is the likeliest to hold.
            self.observed.drain(..self.observed.len().saturating_sub(MAX_OBSERVED));
        }
    }

    pub(super) fn on_ping(&mut self, event: &ping::Event) {
        match &event.result {
            Ok(rtt) => {
                if let Some(known) = NodeId::try_from(event.peer).ok().and_then(|peer| self.book.get_mut(peer)) {
                    known.rtt = Some(*rtt);
                    self.status_stale = StatusAge::Stale;
                }
            }
            Err(ping::Failure::Timeout) => {
                tracing::info!(peer = %event.peer, "a connection is dead: pings stay unanswered");
                self.swarm.close_connection(event.connection);
            }
            Err(error) => tracing::debug!(peer = %event.peer, %error, "ping failed"),
        }
    }

    pub(super) fn on_hint(&mut self, peer: NodeId, addrs: Vec<Multiaddr>, source: DiscoveredBy) {
        self.book.hint(peer, addrs.into_iter().filter(dialable).collect(), source);
        let now = Instant::now();
        if !self.barred.contains(&peer) && self.book.may_dial(peer, now) {
            self.dial(peer, now);
        }
    }

    pub(super) fn on_members(&mut self, members: &Members) {
        self.book.set_members(members);
        self.swarm.behaviour_mut().admission.set_members(members.keys().copied());
        self.on_members_for_kademlia(members);
        self.dial_due(Instant::now());
    }

    pub(super) fn on_barred(&mut self, barred: &[NodeId]) {
        let now: BTreeSet<_> = barred.iter().copied().collect();
        let list = &mut self.swarm.behaviour_mut().barred;
        for peer in self.barred.difference(&now) {
            list.unblock_peer(peer.peer_id());
        }
        for peer in now.difference(&self.barred) {
            list.block_peer(peer.peer_id());
        }
        let blocked: Vec<_> = now.difference(&self.barred).copied().collect();
        self.barred = now;
        for peer in blocked {
            self.fail_waiting(peer);
        }
    }
}

/// Whether an address can lead anywhere: not one that says "any interface".
fn dialable(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Part::Ip4(ip)) => !ip.is_unspecified(),
        Some(Part::Ip6(ip)) => !ip.is_unspecified(),
        Some(Part::Dns(_) | Part::Dns4(_) | Part::Dns6(_)) => true,
        _ => false,
    }
}

/// Whether an address is an IP address with a port, and nothing else.
fn is_of_socket(addr: &Multiaddr) -> bool {
    let parts: Vec<_> = addr.iter().take(4).collect();
    match parts.as_slice() {
        [Part::Ip4(_) | Part::Ip6(_), Part::Tcp(port)] => *port != 0 && dialable(addr),
        [Part::Ip4(_) | Part::Ip6(_), Part::Udp(port), Part::QuicV1] => *port != 0 && dialable(addr),
        _ => false,
    }
}

/// A peer's text, bounded and free of control characters, fit for logs and terminals.
pub(in crate::net) fn printable(text: &str) -> String {
    let mut printable: String = text.chars().filter(|c| !c.is_control()).collect();
    let mut end = printable.len().min(MAX_AGENT_BYTES);
    while !printable.is_char_boundary(end) {
        end -= 1;
    }
    printable.truncate(end);
    printable
}

/// Peers with different cluster keys understand nothing of each other: all that shows is a handshake
/// that fails, or never ends.
fn key_hint(error: &DialError) -> &'static str {
    match is_of_handshake(error) {
        true => {
            "; if a node listens there, it may have another cluster key, or only one of us has one (CLUSTER_KEY_FILE)"
        }
        false => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ip_address_with_a_port_is_one_of_ours_as_others_see_it() {
        let is = |addr: &str| is_of_socket(&addr.parse().unwrap());
        assert!(is("/ip4/10.0.0.1/tcp/4001") && is("/ip6/fe80::1/udp/4001/quic-v1"));
        for noise in ["/ip4/10.0.0.1", "/dns4/n0/tcp/4001", "/ip4/10.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/1", "/memory/1"] {
            assert!(!is(noise), "{noise}");
        }
        assert!(!is("/ip4/10.0.0.1/udp/4001") && !is("/ip4/10.0.0.1/tcp/4001/http"));
    }
}
