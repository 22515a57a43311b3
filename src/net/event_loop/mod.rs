//! The swarm task: the one place that touches libp2p's swarm.
//!
//! Owns the swarm, the address book, the calls in flight and what waits to be told to the node.
//! `calls` has the exchanges, `peers` the connections, `handshakes` those that were not made, `kademlia` what is asked of the mesh at large. The task never waits for anything but its own
//! inputs: a node that is slow to take its events costs refused calls, not a stalled mesh.

mod calls;
mod handshakes;
pub(super) mod kademlia;
mod peers;

pub(super) use self::peers::printable;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use libp2p::{
    Multiaddr, Swarm, gossipsub, mdns,
    metrics::{Metrics, Recorder},
    swarm::{ListenError, SwarmEvent},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    DiscoveredBy, MeshEvent, MeshStatus, NetError, Protocol, Topic,
    behaviour::{Behaviour, BehaviourEvent},
    broadcast::{self, Broadcasts},
    discovery::{Book, Bootstrap},
    handle::{Inbox, Order},
    metrics::NetMetrics,
    transport,
};
use crate::ids::NodeId;

/// How often due dials and overdue calls are looked for.
const TICK: Duration = Duration::from_millis(50);
/// How long opening the listeners may take.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long closing the connections may take when the task is stopped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct EventLoop {
    swarm: Swarm<Behaviour>,
    book: Book,
    bootstrap: Vec<Bootstrap>,
    calls: calls::Calls,
    outbox: peers::Outbox,
    /// What peers say our address is.
    observed: Vec<Multiaddr>,
    barred: BTreeSet<NodeId>,
    handshakes: handshakes::Handshakes,
    rendezvous: kademlia::Rendezvous,
    broadcasts: Broadcasts,
    status: watch::Sender<Arc<MeshStatus>>,
    status_stale: StatusAge,
    metrics: NetMetrics,
    libp2p_metrics: Metrics,
}

/// Whether the published status is what the swarm task knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StatusAge {
    Current,
    Stale,
}

impl EventLoop {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        book: Book,
        bootstrap: Vec<Bootstrap>,
        events: mpsc::Sender<MeshEvent>,
        status: watch::Sender<Arc<MeshStatus>>,
        metrics: NetMetrics,
        libp2p_metrics: Metrics,
    ) -> Self {
        Self {
            swarm,
            book,
            bootstrap,
            calls: calls::Calls::default(),
            outbox: peers::Outbox::new(events),
            observed: Vec::new(),
            barred: BTreeSet::new(),
            handshakes: handshakes::Handshakes::default(),
            rendezvous: kademlia::Rendezvous::new(),
            broadcasts: Broadcasts::default(),
            status,
            status_stale: StatusAge::Stale,
            metrics,
            libp2p_metrics,
        }
    }

    /// Opens the listeners and waits until each has an address.
    pub(super) async fn listen(&mut self, addrs: &[Multiaddr]) -> Result<(), NetError> {
        for addr in addrs {
            transport::check_free(addr)
                .map_err(|error| NetError::Listen { addr: addr.clone(), reason: error.to_string() })?;
        }
        let mut opening = HashMap::new();
        for addr in addrs {
            let refused = |reason: String| NetError::Listen { addr: addr.clone(), reason };
            let id = self.swarm.listen_on(addr.clone()).map_err(|e| refused(e.to_string()))?;
            opening.insert(id, addr.clone());
        }
        let deadline = Instant::now() + LISTEN_TIMEOUT;
        while let Some(addr) = opening.values().next().cloned() {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await;
            let Ok(event) = event else {
                return Err(NetError::Listen { addr, reason: "it has no address after 10 s".to_owned() });
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    opening.remove(listener_id);
                }
                SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. }
                | SwarmEvent::ListenerError { listener_id, error } => {
                    if let Some(addr) = opening.get(listener_id) {
                        return Err(NetError::Listen { addr: addr.clone(), reason: error.to_string() });
                    }
                }
                _ => {}
            }
            self.on_event(event);
        }
        while let Some(event) = self.swarm.select_next_some().now_or_never() {
            self.on_event(event);
        }
        self.publish_status();
        Ok(())
    }

    /// Runs until `stop` is cancelled.
    pub(super) async fn run(mut self, mut inbox: Inbox, stop: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            let publish_at = self.broadcasts.due();
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => self.on_tick(),
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(call) = inbox.ends.recv() => self.on_call(call),
                Some(call) = inbox.asks.recv() => self.on_call(call),
                Some(answer) = self.calls.next_answer() => self.on_answer(answer),
                Some(order) = inbox.orders.recv() => self.on_order(order),
                Ok(()) = inbox.members.changed() => {
                    let members = inbox.members.borrow_and_update().clone();
                    self.on_members(&members);
                }
                Ok(()) = inbox.offered.changed() => {
                    let offered = inbox.offered.borrow_and_update().clone();
                    self.on_offer(offered);
                }
                Ok(()) = inbox.barred.changed() => {
                    let barred = inbox.barred.borrow_and_update().clone();
                    self.on_barred(&barred);
                }
                () = sleep_until(publish_at.unwrap_or_else(Instant::now)), if publish_at.is_some() => {
                    self.publish_due(Instant::now());
                }
                () = self.outbox.flush(), if self.outbox.is_waiting() => {}
            }
            if self.status_stale == StatusAge::Stale {
                self.publish_status();
            }
        }
        self.close().await;
    }

    /// Closes all connections, so that peers hear of it at once.
    async fn close(mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Err says that the peer is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let all_closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(CLOSE_TIMEOUT, all_closed).await.is_err() {
            tracing::debug!("some connections were cut instead of closed");
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.expire_calls(now);
        self.dial_due(now);
        self.tend_rendezvous(now);
        if self.handshakes.are_suspicious(now) != self.status.borrow().handshakes_fail {
            self.status_stale = StatusAge::Stale;
        }
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Broadcast(topic, body) => self.broadcast(topic, &body),
            Order::Hint(peer, addrs, source) => self.on_hint(peer, addrs, source),
            Order::Seek(topic) => self.on_seek(&topic),
            Order::Disconnect(peer) => {
                self.book.send_away(peer, Instant::now());
                // Err says that the peer is gone already.
                let _ = self.swarm.disconnect_peer_id(peer.peer_id());
            }
        }
    }

    fn broadcast(&mut self, topic: Topic, body: &Bytes) {
        if let Some(full) = self.broadcasts.add(Instant::now(), topic, body) {
            self.publish(topic, full);
        }
    }

    fn publish_due(&mut self, now: Instant) {
        while let Some((topic, message)) = self.broadcasts.take_due(now) {
            self.publish(topic, message);
        }
    }

    fn publish(&mut self, topic: Topic, message: Vec<u8>) {
        match self.swarm.behaviour_mut().gossip.publish(topic.ident(), message) {
            Ok(_) | Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {}
            Err(gossipsub::PublishError::AllQueuesFull(_)) => self.metrics.bound("net.broadcasts"),
            Err(error) => tracing::warn!(topic = topic.name(), ?error, "a broadcast was not sent"),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        self.libp2p_metrics.record(&event);
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.on_disconnected(peer_id, connection_id, cause.map(|cause| cause.to_string()));
            }
            SwarmEvent::OutgoingConnectionError { peer_id, connection_id, error } => {
                self.on_dial_error(peer_id, connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, peer_id, .. } => {
                let barred = peer_id
                    .and_then(|peer| NodeId::try_from(peer).ok())
                    .is_some_and(|peer| self.barred.contains(&peer));
                match error {
                    ListenError::Denied { .. } if !barred => self.metrics.bound("net.connections"),
                    ListenError::Transport(_) => self.handshakes.failed(Instant::now()),
                    _ => {}
                }
                tracing::debug!(from = %send_back_addr, %error, "an inbound connection failed");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                if self.status.borrow().listen_addrs.is_empty() {
                    // Whoever starts the node says where it listens.
                    tracing::debug!(%address, "listens");
                } else {
                    tracing::info!(%address, "listens on one more address");
                }
                self.status_stale = StatusAge::Stale;
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.status_stale = StatusAge::Stale,
            SwarmEvent::ListenerClosed { addresses, reason: Err(error), .. } => {
                tracing::error!(?addresses, %error, "a listener closed");
                self.status_stale = StatusAge::Stale;
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener reports an error"),
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Limits(never)
            | BehaviourEvent::Admission(never)
            | BehaviourEvent::Memory(never)
            | BehaviourEvent::Barred(never) => match never {},
            BehaviourEvent::Identify(event) => {
                self.libp2p_metrics.record(&event);
                self.on_identify(event);
            }
            BehaviourEvent::Ping(event) => {
                self.libp2p_metrics.record(&event);
                self.on_ping(&event);
            }
            BehaviourEvent::Kad(event) => {
                self.libp2p_metrics.record(&event);
                self.on_kad(event);
            }
            BehaviourEvent::Gossip(event) => {
                self.libp2p_metrics.record(&event);
                self.on_gossip(event);
            }
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Raft(event) => self.on_rpc(Protocol::Raft, event),
            BehaviourEvent::Replication(event) => self.on_rpc(Protocol::Replication, event),
            BehaviourEvent::Coherence(event) => self.on_rpc(Protocol::Coherence, event),
            BehaviourEvent::Control(event) => self.on_rpc(Protocol::Control, event),
            BehaviourEvent::Client(event) => self.on_rpc(Protocol::Client, event),
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message { message, .. } = event else { return };
        let topic = Topic::ALL.into_iter().find(|topic| topic.ident().hash() == message.topic);
        let from = message.source.and_then(|source| NodeId::try_from(source).ok());
        let (Some(topic), Some(from)) = (topic, from) else { return };
        let Some(bodies) = broadcast::bodies(message.data.into()).filter(|_| !self.barred.contains(&from)) else {
            tracing::debug!(%from, topic = topic.name(), "a broadcast was not taken");
            return;
        };
        for body in bodies {
            if !self.outbox.offer(MeshEvent::Gossip { from, topic, body }) {
                self.metrics.bound("net.events");
            }
        }
    }

    fn on_mdns(&mut self, event: mdns::Event) {
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, addr) in found {
                    if let Ok(peer) = NodeId::try_from(peer) {
                        self.book.hint(peer, vec![addr], DiscoveredBy::Mdns);
                    }
                }
                self.dial_due(Instant::now());
            }
            mdns::Event::Expired(gone) => {
                for (peer, _) in gone {
                    if let Ok(peer) = NodeId::try_from(peer)
                        && self
                            .swarm
                            .behaviour()
                            .mdns
                            .as_ref()
                            .is_some_and(|mdns| mdns.discovered_nodes().all(|node| *node != peer.peer_id()))
                    {
                        self.book.gone_from_nearby(peer);
                    }
                }
            }
        }
    }

    fn publish_status(&mut self) {
        let protocols = Protocol::ALL.iter().map(|protocol| protocol.name().to_owned());
        let usual = ["/syncmesh/kad/1", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0", "/meshsub/1.2.0"];
        let mut listen_addrs: Vec<_> = self.swarm.listeners().cloned().collect();
        listen_addrs.sort_by_key(ToString::to_string);
        let unanswered = self.bootstrap.iter().filter(|target| target.is_unanswered(&self.book));
        self.status.send_replace(Arc::new(MeshStatus {
            listen_addrs,
            observed_addrs: self.observed.clone(),
            protocols: protocols.chain(usual.map(str::to_owned)).collect(),
            peers: self.book.links(),
            unreachable: self.book.unreachable(),
            handshakes_fail: self.handshakes.are_suspicious(Instant::now()),
            bootstrap: self.bootstrap.iter().filter_map(Bootstrap::peer).collect(),
            unanswered: unanswered.map(|target| (target.addr.clone(), target.failure.clone())).collect(),
        }));
        self.status_stale = StatusAge::Current;
    }
}
