//! Whom the swarm lets in while many come at once: strangers never take the room of members.
//!
//! A behaviour beside libp2p's own limits, which count connections whoever they are from. One host may
//! occupy only a part of the handshakes that are under way, and those who are not members only a part
//! of the connections. Told by the swarm task who the members are.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    fmt, fs,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};

use super::NetLimits;
use crate::ids::NodeId;

/// The bounds, and what counts against them.
#[derive(Debug)]
pub(super) struct Admission {
    per_host: u32,
    strangers: u32,
    members: BTreeSet<NodeId>,
    /// Inbound handshakes under way.
    pending: HashMap<ConnectionId, Host>,
    /// Inbound connections of peers that were no members when they came.
    established: HashMap<ConnectionId, PeerId>,
}

/// What counts as one host: an address, or a network of 64 bits, all of which one machine may have.
type Host = Option<IpAddr>;

/// Why a connection was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Denied {
    HandshakesOfHost(u32),
    Strangers(u32),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HandshakesOfHost(most) => write!(f, "more than {most} handshakes with one host are under way"),
            Self::Strangers(most) => write!(f, "more than {most} peers that are no members are connected"),
        }
    }
}

impl std::error::Error for Denied {}

impl Admission {
    pub(super) fn new(limits: &NetLimits) -> Self {
        Self {
            per_host: limits.pending_per_host,
            strangers: limits.established_strangers,
            members: BTreeSet::new(),
            pending: HashMap::new(),
            established: HashMap::new(),
        }
    }

    /// Takes who belongs to the cluster. They no longer count as strangers.
    pub(super) fn set_members(&mut self, members: impl IntoIterator<Item = NodeId>) {
        self.members = members.into_iter().collect();
        let members = &self.members;
        self.established.retain(|_, peer| !is_member(members, peer));
    }

    fn let_in(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), Denied> {
        let host = host(remote);
        let here = self.pending.values().filter(|pending| **pending == host).count();
        if here >= self.per_host as usize {
            return Err(Denied::HandshakesOfHost(self.per_host));
        }
        self.pending.insert(id, host);
        Ok(())
    }

    fn welcome(&mut self, id: ConnectionId, peer: PeerId) -> Result<(), Denied> {
        self.pending.remove(&id);
        if is_member(&self.members, &peer) {
            return Ok(());
        }
        if self.established.len() >= self.strangers as usize {
            return Err(Denied::Strangers(self.strangers));
        }
        self.established.insert(id, peer);
        Ok(())
    }

    fn forget(&mut self, id: ConnectionId) {
        self.pending.remove(&id);
        self.established.remove(&id);
    }
}

fn is_member(members: &BTreeSet<NodeId>, peer: &PeerId) -> bool {
    NodeId::try_from(*peer).is_ok_and(|peer| members.contains(&peer))
}

fn host(addr: &Multiaddr) -> Host {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => ip.into(),
            None => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        }),
        _ => None,
    }
}

impl NetworkBehaviour for Admission {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.let_in(id, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.welcome(id, peer).map(|()| dummy::ConnectionHandler).map_err(ConnectionDenied::new)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ListenFailure(failure) => self.forget(failure.connection_id),
            FromSwarm::ConnectionClosed(closed) => self.forget(closed.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// The memory that the process's control group allows it, where there is a bound: a container does not
/// see it in the machine's total.
pub(super) fn allowed_memory() -> Option<usize> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    files.iter().find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;

    fn admission(pending_per_host: u32, established_strangers: u32) -> Admission {
        Admission::new(&NetLimits { pending_per_host, established_strangers, ..NetLimits::default() })
    }

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    #[test]
    fn one_host_occupies_a_part_of_the_handshakes_only() {
        let mut admission = admission(2, 9);
        let (one, same, other) = ("/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/2", "/ip4/10.0.0.2/tcp/1");
        assert_eq!(admission.let_in(id(1), &addr(one)), Ok(()));
        assert_eq!(admission.let_in(id(2), &addr(same)), Ok(()));
        assert_eq!(admission.let_in(id(3), &addr(one)), Err(Denied::HandshakesOfHost(2)));
        assert_eq!(admission.let_in(id(4), &addr(other)), Ok(()));
        // One that has succeeded or failed makes room.
        admission.welcome(id(1), peer()).unwrap();
        assert_eq!(admission.let_in(id(5), &addr(one)), Ok(()));
        admission.forget(id(2));
        assert_eq!(admission.let_in(id(6), &addr(one)), Ok(()));
        assert_eq!(admission.let_in(id(7), &addr(one)), Err(Denied::HandshakesOfHost(2)));
    }

    #[test]
    fn a_machine_has_many_addresses_and_is_one_host() {
        assert_eq!(host(&addr("/ip6/2001:db8::1/tcp/1")), host(&addr("/ip6/2001:db8::ffff:2/tcp/1")));
        assert_ne!(host(&addr("/ip6/2001:db8::1/tcp/1")), host(&addr("/ip6/2001:db8:0:1::1/tcp/1")));
        assert_eq!(host(&addr("/ip6/::ffff:10.0.0.1/tcp/1")), host(&addr("/ip4/10.0.0.1/tcp/9")));
    }

    #[test]
    fn strangers_take_a_part_of_the_connections_only_and_members_all() {
        let mut admission = admission(9, 2);
        let (member, strangers) = (peer(), [peer(), peer(), peer()]);
        admission.set_members([NodeId::try_from(member).unwrap()]);
        assert_eq!(admission.welcome(id(1), strangers[0]), Ok(()));
        assert_eq!(admission.welcome(id(2), strangers[1]), Ok(()));
        assert_eq!(admission.welcome(id(3), strangers[2]), Err(Denied::Strangers(2)));
        assert_eq!(admission.welcome(id(4), member), Ok(()));
        admission.forget(id(1));
        assert_eq!(admission.welcome(id(5), strangers[2]), Ok(()));
        assert_eq!(admission.welcome(id(6), strangers[0]), Err(Denied::Strangers(2)));
        // A stranger that joins makes room for another.
        admission.set_members(strangers[1..].iter().map(|peer| NodeId::try_from(*peer).unwrap()));
        assert_eq!(admission.welcome(id(7), strangers[0]), Ok(()));
    }
}
