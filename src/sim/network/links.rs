//! Connections: when they come up, when they break, and who hears of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::RngExt;
use tokio::sync::mpsc::error::TrySendError;

use super::{Happened, core::Net};
use crate::{
    ids::NodeId,
    net::{CallError, DiscoveredBy, MeshEvent, PeerLink},
};

/// A process: its id and which one under that id.
pub(super) type Process = (NodeId, u64);

/// Two ids, the smaller first.
pub(super) type Pair = (NodeId, NodeId);

/// The connection between two ids.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Counts connections; a message belongs to one of them.
    pub(super) epoch: u64,
    /// The processes that are connected.
    pub(super) ends: Option<(Process, Process)>,
    /// When the pending change (coming up, being given up) takes place, in milliseconds.
    due_ms: Option<u64>,
    /// One side closed it and nobody has asked for the other since.
    declined: bool,
}

/// The pair of two ids.
pub(super) fn pair(a: NodeId, b: NodeId) -> Pair {
    if a < b { (a, b) } else { (b, a) }
}

/// What a link should do next.
enum Change {
    None,
    Connect,
    BreakNow,
    BreakWhenDetected,
}

impl Net {
    /// The current connection's number, where both ends are still connected by it as far as `from`
    /// can know.
    pub(super) fn epoch_from(&self, from: Process, to: NodeId) -> Option<u64> {
        let link = self.links.get(&pair(from.0, to))?;
        let (a, b) = link.ends?;
        (a == from || b == from).then_some(link.epoch)
    }

    /// Whether a message of that connection can still arrive at the process that it was sent to.
    pub(super) fn reaches(&self, from: NodeId, to: NodeId, epoch: u64) -> bool {
        let link = self.links.get(&pair(from, to));
        let Some((a, b)) = link.filter(|link| link.epoch == epoch).and_then(|link| link.ends) else { return false };
        let receiver = if a.0 == to { a } else { b };
        self.alive(receiver)
    }

    fn alive(&self, process: Process) -> bool {
        self.ports.get(&process.0).is_some_and(|port| port.life == process.1)
    }

    /// Somebody wants to be connected to these, whatever was closed before.
    pub(super) fn want(&mut self, node: NodeId, peers: impl IntoIterator<Item = NodeId>) {
        for peer in peers {
            if let Some(link) = self.links.get_mut(&pair(node, peer)) {
                link.declined = false;
            }
        }
    }

    /// Offers exactly these from now on.
    pub(super) fn offer(&mut self, from: Process, topics: BTreeSet<String>) {
        if let Some(port) = self.ports.get_mut(&from.0).filter(|port| port.life == from.1) {
            port.offered = topics;
        }
    }

    /// Somebody wants to be connected to whoever offers this.
    pub(super) fn seek(&mut self, node: NodeId, topic: &str) {
        let offering = self.ports.iter().filter(|(peer, port)| **peer != node && port.offered.contains(topic));
        let offering: Vec<NodeId> = offering.map(|(peer, _)| *peer).collect();
        self.want(node, offering);
    }

    /// Bars exactly these from now on.
    pub(super) fn bar(&mut self, from: Process, barred: Vec<NodeId>) {
        if let Some(port) = self.ports.get_mut(&from.0).filter(|port| port.life == from.1) {
            port.barred = barred.into_iter().collect();
        }
    }

    /// Closes the connection until somebody asks for it.
    pub(super) fn disconnect(&mut self, from: Process, peer: NodeId) {
        if self.epoch_from(from, peer).is_some() {
            let pair = pair(from.0, peer);
            self.break_link(pair);
            self.links.entry(pair).or_default().declined = true;
        }
    }

    /// Connects and disconnects what is due.
    pub(super) fn turn_links(&mut self) {
        let nodes: Vec<NodeId> = self.ports.keys().copied().collect();
        for (index, &a) in nodes.iter().enumerate() {
            for &b in &nodes[index + 1..] {
                self.links.entry((a, b)).or_default();
            }
        }
        let pairs: Vec<Pair> = self.links.keys().copied().collect();
        for pair in pairs {
            let now = self.time.now_ms();
            let (change, wait) = match self.change(pair) {
                Change::None => {
                    self.links.entry(pair).or_default().due_ms = None;
                    continue;
                }
                Change::BreakNow => (Change::BreakNow, 0..=0),
                Change::BreakWhenDetected => (Change::BreakWhenDetected, self.weather.detect_ms.clone()),
                Change::Connect => (Change::Connect, self.weather.dial_ms.clone()),
            };
            let wait = self.dice.random_range(wait);
            let due = self.links.entry(pair).or_default().due_ms.get_or_insert(now + wait);
            if matches!(change, Change::BreakNow) || *due <= now {
                match change {
                    Change::Connect => self.connect(pair),
                    _ => self.break_link(pair),
                }
            }
        }
    }

    fn change(&self, (a, b): Pair) -> Change {
        let Some(link) = self.links.get(&(a, b)) else { return Change::None };
        let blocked = self.blocked.contains(&(a, b)) || self.blocked.contains(&(b, a));
        let bars = |one: NodeId, other: NodeId| self.ports.get(&one).is_some_and(|port| port.barred.contains(&other));
        let barred = bars(a, b) || bars(b, a);
        match link.ends {
            Some(_) if barred => Change::BreakNow,
            Some(_) if blocked => Change::BreakWhenDetected,
            Some((a, b)) if !self.alive(a) || !self.alive(b) => Change::BreakNow,
            None if !barred && !blocked && !link.declined && [a, b].iter().all(|n| self.ports.contains_key(n)) => {
                Change::Connect
            }
            _ => Change::None,
        }
    }

    fn connect(&mut self, pair: Pair) {
        let life = |node| self.ports.get(node).map_or(0, |port| port.life);
        let ends = ((pair.0, life(&pair.0)), (pair.1, life(&pair.1)));
        let link = self.links.entry(pair).or_default();
        link.epoch += 1;
        (link.ends, link.due_ms) = (Some(ends), None);
        self.tally.count(Happened::LinkUp);
        for (end, peer) in [(ends.0, pair.1), (ends.1, pair.0)] {
            let outbound = end.0 == pair.0;
            self.tell(end, MeshEvent::Up(peer));
            self.show_peers(end, |peers| {
                peers.insert(peer, described(peer, outbound));
            });
        }
    }

    fn break_link(&mut self, pair: Pair) {
        let link = self.links.entry(pair).or_default();
        link.due_ms = None;
        let Some(ends) = link.ends.take() else { return };
        self.tally.count(Happened::LinkDown);
        for (end, peer) in [(ends.0, pair.1), (ends.1, pair.0)] {
            self.fail_calls(end, peer, &CallError::Broken(peer));
            self.tell(end, MeshEvent::Down(peer));
            self.show_peers(end, |peers| {
                peers.remove(&peer);
            });
        }
    }

    fn tell(&mut self, (node, life): Process, event: MeshEvent) {
        let Some(port) = self.ports.get(&node).filter(|port| port.life == life) else { return };
        if let Err(TrySendError::Full(event)) = port.events.try_send(event) {
            panic!("{node} no longer takes the events of its mesh: no room for {event:?}");
        }
    }

    fn show_peers(&mut self, (node, life): Process, change: impl FnOnce(&mut BTreeMap<NodeId, PeerLink>)) {
        if let Some(port) = self.ports.get(&node).filter(|port| port.life == life) {
            port.status.send_modify(|status| change(&mut Arc::make_mut(status).peers));
        }
    }
}

fn described(peer: NodeId, outbound: bool) -> PeerLink {
    PeerLink {
        peer,
        agent: "syncmesh-sim".into(),
        addr: address(peer),
        transport: "tcp",
        outbound,
        rtt: None,
        discovered_by: DiscoveredBy::Mdns,
    }
}

/// Where a process says that it listens.
pub(super) fn address(node: NodeId) -> libp2p::Multiaddr {
    let [a, b, ..] = *node.as_bytes();
    libp2p::Multiaddr::empty()
        .with(libp2p::multiaddr::Protocol::Ip4([10, 0, a, b].into()))
        .with(libp2p::multiaddr::Protocol::Tcp(4001))
}
