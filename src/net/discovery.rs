//! Who is known, where they are, and when to dial them again.
//!
//! Owns the address book and the bootstrap addresses, as plain data: the swarm task asks it whom to
//! dial and tells it what came of that. It never dials, and holds no authority: an address is a hint
//! until the handshake has shown who answers there.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr, swarm::ConnectionId};
use tokio::time::Instant;

use super::{DiscoveredBy, NetError, PeerLink, backoff::Backoff};
use crate::ids::NodeId;

/// Peers in the book. Members are always taken; beyond this others are forgotten first, or not taken.
const MAX_PEERS: usize = 1024;
/// Addresses kept of one peer, from each source.
pub(super) const MAX_ADDRS: usize = 16;
/// A peer that the node sent away is not dialled for so long.
const SENT_AWAY: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) id: ConnectionId,
    pub(super) addr: Multiaddr,
    pub(super) outbound: bool,
    pub(super) since: Instant,
}

/// Why the node dials a peer again after it was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    /// By the replicated state.
    Member,
    /// It announces itself on the local network.
    Nearby,
    /// Not at all; only a call dials.
    No,
}

/// What is known of one peer.
#[derive(Clone, Debug)]
pub(super) struct Known {
    keep: Keep,
    source: DiscoveredBy,
    /// Where the replicated state says that it listens.
    registered: Vec<Multiaddr>,
    /// Where it says itself, by identify.
    told: Vec<Multiaddr>,
    /// Where others said, and where a connection worked.
    heard: VecDeque<Multiaddr>,
    pub(super) backoff: Backoff,
    pub(super) dialling: Option<ConnectionId>,
    pub(super) links: Vec<Link>,
    pub(super) agent: String,
    pub(super) rtt: Option<Duration>,
    sent_away_until: Option<Instant>,
}

impl Known {
    fn new(source: DiscoveredBy) -> Self {
        Self {
            keep: Keep::No,
            source,
            registered: Vec::new(),
            told: Vec::new(),
            heard: VecDeque::new(),
            backoff: Backoff::default(),
            dialling: None,
            links: Vec::new(),
            agent: String::new(),
            rtt: None,
            sent_away_until: None,
        }
    }

    pub(super) fn connected(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether the last attempt to reach it failed.
    pub(super) fn failing(&self) -> bool {
        self.backoff.failing()
    }

    pub(super) fn is_member(&self) -> bool {
        self.keep == Keep::Member
    }

    /// Every address worth trying, the likeliest first.
    pub(super) fn addrs(&self) -> Vec<Multiaddr> {
        let mut addrs: Vec<Multiaddr> = Vec::new();
        for addr in self.heard.iter().chain(&self.registered).chain(&self.told) {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        addrs
    }

    pub(super) fn hear(&mut self, addr: Multiaddr) {
        let addr = without_peer(addr);
        self.heard.retain(|known| *known != addr);
        self.heard.push_front(addr);
        self.heard.truncate(MAX_ADDRS);
    }

    /// Takes what the peer says of itself: all of it, and no longer what it said before.
    pub(super) fn tell(&mut self, addrs: Vec<Multiaddr>) {
        self.told = addrs.into_iter().map(without_peer).take(MAX_ADDRS).collect();
        let (told, registered) = (&self.told, &self.registered);
        if !told.is_empty() {
            let live: Vec<_> = self.links.iter().filter(|link| link.outbound).map(|link| link.addr.clone()).collect();
            self.heard.retain(|addr| told.contains(addr) || registered.contains(addr) || live.contains(addr));
        }
    }

    fn may_dial(&self, now: Instant) -> bool {
        self.links.is_empty()
            && self.dialling.is_none()
            && self.backoff.ready(now)
            && self.sent_away_until.is_none_or(|until| now >= until)
    }

    fn link(&self, peer: NodeId) -> Option<PeerLink> {
        let link = self.links.first()?;
        let quic = is_quic(&link.addr);
        Some(PeerLink {
            peer,
            agent: self.agent.clone(),
            addr: link.addr.clone(),
            transport: if quic { "quic" } else { "tcp" },
            outbound: link.outbound,
            rtt: self.rtt,
            discovered_by: self.source,
        })
    }
}

/// The address book.
#[derive(Debug)]
pub(super) struct Book {
    local: NodeId,
    peers: BTreeMap<NodeId, Known>,
}

impl Book {
    pub(super) fn new(local: NodeId) -> Self {
        Self { local, peers: BTreeMap::new() }
    }

    pub(super) fn get(&self, peer: NodeId) -> Option<&Known> {
        self.peers.get(&peer)
    }

    pub(super) fn get_mut(&mut self, peer: NodeId) -> Option<&mut Known> {
        self.peers.get_mut(&peer)
    }

    /// The entry of a peer, made if there is room. Never one for the node itself.
    pub(super) fn meet(&mut self, peer: NodeId, source: DiscoveredBy) -> Option<&mut Known> {
        if peer == self.local {
            return None;
        }
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_PEERS {
            let idle = |known: &Known| known.keep == Keep::No && !known.connected() && known.dialling.is_none();
            let stranger = self.peers.iter().find(|(_, known)| idle(known)).map(|(stranger, _)| *stranger);
            match stranger {
                Some(stranger) => self.peers.remove(&stranger),
                None if source == DiscoveredBy::Members => None,
                None => return None,
            };
        }
        Some(self.peers.entry(peer).or_insert_with(|| Known::new(source)))
    }

    /// Notes a connection however full the book is: connections have their own bound.
    pub(super) fn meet_connected(&mut self, peer: NodeId, source: DiscoveredBy) -> &mut Known {
        self.peers.entry(peer).or_insert_with(|| Known::new(source))
    }

    /// Notes an address that somebody told.
    pub(super) fn hint(&mut self, peer: NodeId, addrs: Vec<Multiaddr>, source: DiscoveredBy) {
        if let Some(known) = self.meet(peer, source) {
            for addr in addrs.into_iter().take(MAX_ADDRS) {
                known.hear(addr);
            }
            if source == DiscoveredBy::Mdns && known.keep == Keep::No {
                known.keep = Keep::Nearby;
            }
        }
    }

    /// A peer is no longer heard of on the local network.
    pub(super) fn gone_from_nearby(&mut self, peer: NodeId) {
        if let Some(known) = self.peers.get_mut(&peer)
            && known.keep == Keep::Nearby
        {
            known.keep = Keep::No;
        }
    }

    /// Takes the members and their addresses, and gives up those who no longer are.
    pub(super) fn set_members(&mut self, members: &BTreeMap<NodeId, Vec<Multiaddr>>) {
        for (peer, known) in &mut self.peers {
            if known.keep == Keep::Member && !members.contains_key(peer) {
                known.keep = Keep::No;
                known.registered.clear();
            }
        }
        for (peer, addrs) in members {
            if let Some(known) = self.meet(*peer, DiscoveredBy::Members) {
                let addrs: Vec<_> = addrs.iter().cloned().map(without_peer).take(MAX_ADDRS).collect();
                if known.registered != addrs {
                    known.registered = addrs;
                    known.backoff.reset();
                }
                known.keep = Keep::Member;
            }
        }
    }

    /// The node wants nothing of this peer for a while.
    pub(super) fn send_away(&mut self, peer: NodeId, now: Instant) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.sent_away_until = Some(now + SENT_AWAY);
        }
    }

    /// Whether the node sent that peer away a short while ago.
    pub(super) fn is_sent_away(&self, peer: NodeId, now: Instant) -> bool {
        self.peers.get(&peer).and_then(|known| known.sent_away_until).is_some_and(|until| now < until)
    }

    /// Peers to dial now: those worth keeping, without a connection, whose pause is over.
    pub(super) fn due(&self, now: Instant) -> Vec<NodeId> {
        let due = self.peers.iter().filter(|(_, known)| known.keep != Keep::No && known.may_dial(now));
        due.map(|(peer, _)| *peer).collect()
    }

    /// Whether a call may dial this peer now.
    pub(super) fn may_dial(&self, peer: NodeId, now: Instant) -> bool {
        self.peers.get(&peer).is_some_and(|known| known.may_dial(now))
    }

    /// Members without a working address.
    pub(super) fn lost_members(&self) -> impl Iterator<Item = NodeId> {
        let lost = |known: &Known| {
            known.keep == Keep::Member && !known.connected() && (known.failing() || known.addrs().is_empty())
        };
        self.peers.iter().filter(move |(_, known)| lost(known)).map(|(peer, _)| *peer)
    }

    /// Whether the replicated state has named any member yet.
    pub(super) fn knows_members(&self) -> bool {
        self.peers.values().any(Known::is_member)
    }

    /// Connected peers, and where they can be dialled.
    pub(super) fn connected_addrs(&self) -> Vec<(NodeId, Vec<Multiaddr>)> {
        let connected = self.peers.iter().filter(|(_, known)| known.connected());
        connected.map(|(peer, known)| (*peer, known.addrs())).collect()
    }

    /// Members that are not connected and were dialled in vain.
    pub(super) fn unreachable(&self) -> BTreeSet<NodeId> {
        let unreachable = |known: &Known| known.is_member() && !known.connected() && known.failing();
        self.peers.iter().filter(|(_, known)| unreachable(known)).map(|(peer, _)| *peer).collect()
    }

    /// Connected peers, for people.
    pub(super) fn links(&self) -> BTreeMap<NodeId, PeerLink> {
        self.peers.iter().filter_map(|(peer, known)| Some((*peer, known.link(*peer)?))).collect()
    }
}

/// One bootstrap address.
#[derive(Debug)]
pub(super) struct Bootstrap {
    /// Without the peer id.
    pub(super) addr: Multiaddr,
    /// Who must answer there, where the address says so.
    pub(super) required: Option<NodeId>,
    /// Who answered there.
    pub(super) leads_to: Option<NodeId>,
    pub(super) dialling: Option<ConnectionId>,
    pub(super) backoff: Backoff,
    /// Why the last dial failed.
    pub(super) failure: Option<String>,
    /// The node itself listens there.
    pub(super) ourselves: bool,
}

impl Bootstrap {
    /// Reads an address with or without `/p2p/…`.
    pub(super) fn new(addr: &Multiaddr, local: NodeId) -> Result<Self, NetError> {
        let required = peer_of(addr)
            .map(NodeId::try_from)
            .transpose()
            .map_err(|error| NetError::Bootstrap { addr: addr.clone(), reason: error.to_string() })?;
        Ok(Self {
            addr: without_peer(addr.clone()),
            required,
            leads_to: None,
            dialling: None,
            backoff: Backoff::default(),
            failure: None,
            ourselves: required == Some(local),
        })
    }

    /// Whom it leads to: who answered there last, connected or not, or else whom it names.
    pub(super) fn peer(&self) -> Option<NodeId> {
        self.leads_to.or(self.required)
    }

    /// Whether it leads to nobody who is connected.
    pub(super) fn is_unanswered(&self, book: &Book) -> bool {
        let peer = self.peer();
        let answers = peer.and_then(|peer| book.get(peer)).is_some_and(Known::connected);
        !self.ourselves && !answers
    }

    /// Whether to dial it now.
    pub(super) fn due(&self, book: &Book, now: Instant) -> bool {
        let peer = self.peer();
        let met = |known: &Known| known.connected() || known.dialling.is_some();
        let settled = peer.is_some_and(|peer| book.get(peer).is_some_and(met) || book.is_sent_away(peer, now));
        !self.ourselves && !settled && self.dialling.is_none() && self.backoff.ready(now)
    }
}

/// Whether an address is for QUIC.
pub(super) fn is_quic(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, multiaddr::Protocol::QuicV1 | multiaddr::Protocol::Quic))
}

/// The peer that an address ends with.
pub(super) fn peer_of(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(multiaddr::Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// An address without the peer that it ends with.
pub(super) fn without_peer(mut addr: Multiaddr) -> Multiaddr {
    if peer_of(&addr).is_some() {
        addr.pop();
    }
    addr
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn addr(port: usize) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn the_book_is_bounded_but_members_always_fit() {
        let mut book = Book::new(peer(0));
        let id = |n: usize| {
            let mut bytes = [1u8; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            NodeId::from_bytes(bytes)
        };
        for n in 0..MAX_PEERS + 50 {
            book.hint(id(n), (0..100).map(addr).collect(), DiscoveredBy::Kademlia);
        }
        assert_eq!(book.peers.len(), MAX_PEERS);
        assert!(book.peers.values().all(|known| known.addrs().len() <= MAX_ADDRS));
        book.set_members(&BTreeMap::from([(peer(9), vec![addr(1)])]));
        assert_eq!(book.due(Instant::now()), vec![peer(9)]);
    }

    #[test]
    fn a_members_new_address_replaces_the_old_one_and_is_tried_at_once() {
        let mut book = Book::new(peer(0));
        book.set_members(&BTreeMap::from([(peer(1), vec![addr(1)]), (peer(0), vec![addr(7)])]));
        let now = Instant::now();
        book.get_mut(peer(1)).unwrap().backoff.failed(now);
        assert!(book.due(now).is_empty());
        book.set_members(&BTreeMap::from([(peer(1), vec![addr(2)])]));
        assert_eq!(book.due(now), vec![peer(1)]);
        assert_eq!(book.get(peer(1)).unwrap().addrs(), vec![addr(2)]);
        assert!(book.get(peer(0)).is_none(), "the node itself is not in its own book");
    }

    #[test]
    fn what_a_peer_says_of_itself_ends_what_others_said_before() {
        let mut known = Known::new(DiscoveredBy::Inbound);
        known.hear(addr(1));
        known.tell(vec![addr(2)]);
        assert_eq!(known.addrs(), vec![addr(2)]);
    }

    #[test]
    fn a_bootstrap_address_that_names_ourselves_is_never_due() {
        let local = NodeId::try_from(libp2p::identity::Keypair::generate_ed25519().public().to_peer_id()).unwrap();
        let own = addr(1).with(multiaddr::Protocol::P2p(local.peer_id()));
        let bootstrap = Bootstrap::new(&own, local).unwrap();
        assert!(!bootstrap.due(&Book::new(local), Instant::now()));
    }
}
