//! Kademlia in the swarm task: where peers are, and who offers what.
//!
//! Owns what this node offers, what it looks for, and the rhythm of both. The table holds members and
//! nobody else. A node that knows no members yet asks the peers that it is connected to, and serves
//! nobody. What comes back is a hint: it is dialled, and whoever answers has yet to be greeted.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    num::NonZeroUsize,
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    kad::{
        Behaviour, BucketInserts, Config, Event, GetProvidersOk, InboundRequest, Mode, ProviderRecord, QueryId,
        QueryResult, RecordKey, StoreInserts,
        store::{MemoryStore, MemoryStoreConfig, RecordStore},
    },
    swarm::{
        DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use super::EventLoop;
use crate::{
    ids::NodeId,
    net::{DiscoveredBy, MAX_TOPIC_BYTES, MAX_TOPICS, discovery::MAX_ADDRS, handle::Members},
};

/// Kademlia's name on the wire.
const PROTOCOL: StreamProtocol = StreamProtocol::new("/syncmesh/kad/1");
/// A query gives up after this.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Copies of a provider record: at most this many peers are asked to keep one.
const REPLICATION: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");
/// What this node offers is published again after so long: it may have been lost with those who kept it.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before it is published after a change: a newcomer's record is kept by those who know it as a member.
const PUBLISH_SOON: Duration = Duration::from_secs(1);
/// A record that is not published again is forgotten after so long.
const RECORD_TTL: Duration = Duration::from_secs(600);
/// Topics of which records are kept for others.
const MAX_KEPT_TOPICS: usize = 64;
/// Records that are kept of one topic.
const MAX_KEPT_PROVIDERS: usize = 32;
/// Peers that are dialled because one answer names them.
const MAX_FOUND: usize = 8;
/// At most one peer is looked for in this time.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// Peers that were called without a known address and are looked for.
const MAX_MISSING: usize = 64;
/// They are looked for so long after the call.
const MISSING_FOR: Duration = Duration::from_secs(30);

/// What the swarm task remembers about Kademlia.
#[derive(Debug)]
pub(super) struct Rendezvous {
    offered: BTreeSet<String>,
    publish_at: Instant,
    ask_at: Instant,
    /// Peers that were called and whose address is unknown, and until when they are looked for.
    missing: BTreeMap<NodeId, Instant>,
    /// The query for providers that is under way.
    seeking: Option<QueryId>,
}

impl Rendezvous {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { offered: BTreeSet::new(), publish_at: now, ask_at: now, missing: BTreeMap::new(), seeking: None }
    }
}

/// Makes the behaviour, which inserts and keeps nothing by itself.
pub(in crate::net) fn behaviour(local: PeerId) -> Behaviour<MemoryStore> {
    let mut config = Config::new(PROTOCOL);
    config
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_query_timeout(QUERY_TIMEOUT)
        .set_replication_factor(REPLICATION)
        .set_provider_record_ttl(Some(RECORD_TTL))
        // Published by this module, and nothing else is stored.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        // The table is filled from the replicated state, not by walking.
        .set_periodic_bootstrap_interval(None);
    let store = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_provided_keys: MAX_KEPT_TOPICS,
        max_providers_per_key: MAX_KEPT_PROVIDERS,
    };
    let mut kad = Behaviour::with_config(local, MemoryStore::with_config(local, store), config);
    kad.set_mode(Some(Mode::Client));
    kad
}

impl EventLoop {
    pub(super) fn on_kad(&mut self, event: Event) {
        match event {
            Event::OutboundQueryProgressed { id, result, step, .. } => {
                match result {
                    QueryResult::GetClosestPeers(Ok(found)) => {
                        let found = found.peers.into_iter().map(|found| (found.peer_id, found.addrs));
                        found.for_each(|(peer, addrs)| self.found_peer(peer, addrs));
                    }
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                        self.found_providers(&providers);
                    }
                    _ => {}
                }
                if step.last {
                    self.rendezvous.seeking.take_if(|seeking| *seeking == id);
                    if !self.book.knows_members() {
                        self.sift_table(&Members::new());
                    }
                }
            }
            Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                self.keep_record(record);
            }
            _ => {}
        }
    }

    /// Of the peers near one that was looked for, takes that one.
    fn found_peer(&mut self, peer: PeerId, addrs: Vec<Multiaddr>) {
        let Ok(peer) = NodeId::try_from(peer) else { return };
        if self.rendezvous.missing.remove(&peer).is_some() || self.book.lost_members().any(|lost| lost == peer) {
            self.on_hint(peer, addrs, DiscoveredBy::Kademlia);
        }
    }

    fn found_providers(&mut self, providers: &HashSet<PeerId>) {
        let now = Instant::now();
        for peer in providers.iter().filter_map(|peer| NodeId::try_from(*peer).ok()).take(MAX_FOUND) {
            let met = self.book.meet(peer, DiscoveredBy::Kademlia).is_some();
            if met && !self.barred.contains(&peer) && self.book.may_dial(peer, now) {
                self.dial_found(peer);
            }
        }
    }

    /// Dials at the addresses that the query has brought, beside those that are known.
    fn dial_found(&mut self, peer: NodeId) {
        let Some(known) = self.book.get_mut(peer) else { return };
        let opts = DialOpts::peer_id(peer.peer_id())
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(known.addrs())
            .extend_addresses_through_behaviour()
            .allocate_new_port()
            .build();
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => known.dialling = Some(id),
            // The query may be dialling it already, for an answer.
            Err(DialError::NoAddresses | DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => tracing::debug!(%peer, %error, "found and not dialled"),
        }
    }

    /// Keeps what a member says that it offers. libp2p has checked that it speaks for itself.
    fn keep_record(&mut self, record: ProviderRecord) {
        let provider = NodeId::try_from(record.provider).ok().and_then(|peer| self.book.get(peer));
        let fits = record.key.as_ref().len() <= MAX_TOPIC_BYTES && record.addresses.len() <= MAX_ADDRS;
        if provider.is_some_and(|provider| provider.is_member()) && fits {
            if self.swarm.behaviour_mut().kad.store_mut().add_provider(record).is_err() {
                self.metrics.bound("net.kad-topics");
            }
        } else {
            tracing::debug!(provider = %record.provider, "a record was not kept");
        }
    }

    /// Replaces what this node offers.
    pub(super) fn on_offer(&mut self, offered: BTreeSet<String>) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        for topic in self.rendezvous.offered.difference(&offered) {
            kad.stop_providing(&key(topic));
        }
        let fits = |topic: &String| topic.len() <= MAX_TOPIC_BYTES;
        let bounded: BTreeSet<_> = offered.iter().filter(|topic| fits(topic)).take(MAX_TOPICS).cloned().collect();
        if bounded.len() < offered.len() {
            self.metrics.bound("net.offered-topics");
        }
        self.rendezvous.offered = bounded;
        self.publish_soon();
    }

    fn publish_soon(&mut self) {
        self.rendezvous.publish_at = self.rendezvous.publish_at.min(Instant::now() + PUBLISH_SOON);
    }

    /// Asks who offers this. One such query at a time: callers repeat theirs.
    pub(super) fn on_seek(&mut self, topic: &str) {
        let can = self.rendezvous.seeking.is_none() && self.swarm.connected_peers().next().is_some();
        if can && topic.len() <= MAX_TOPIC_BYTES {
            self.borrow_table();
            self.rendezvous.seeking = Some(self.swarm.behaviour_mut().kad.get_providers(key(topic)));
        }
    }

    /// A peer was called whose address nobody has told yet.
    pub(super) fn look_for(&mut self, peer: NodeId, now: Instant) {
        if self.rendezvous.missing.len() < MAX_MISSING || self.rendezvous.missing.contains_key(&peer) {
            self.rendezvous.missing.insert(peer, now + MISSING_FOR);
        } else {
            self.metrics.bound("net.kad-missing");
        }
    }

    /// Publishes and asks what is due.
    pub(super) fn tend_rendezvous(&mut self, now: Instant) {
        self.rendezvous.missing.retain(|_, until| now < *until);
        if self.swarm.connected_peers().next().is_none() {
            return;
        }
        if now >= self.rendezvous.publish_at && self.book.knows_members() {
            self.rendezvous.publish_at = now + PUBLISH_INTERVAL;
            for topic in &self.rendezvous.offered {
                if self.swarm.behaviour_mut().kad.start_providing(key(topic)).is_err() {
                    self.metrics.bound("net.kad-topics");
                }
            }
        }
        if now >= self.rendezvous.ask_at {
            self.ask_for_one(now);
        }
    }

    /// Asks for one peer that cannot be reached, a different one each time.
    fn ask_for_one(&mut self, now: Instant) {
        let missing = self.rendezvous.missing.keys().copied();
        let lost: Vec<_> = self.book.lost_members().chain(missing).collect();
        if !lost.is_empty() {
            let peer = lost[rand::random_range(0..lost.len())];
            self.borrow_table();
            let kad = &mut self.swarm.behaviour_mut().kad;
            // The query would try it where it is not, and then not believe others where it is.
            kad.remove_peer(&peer.peer_id());
            kad.get_closest_peers(peer.peer_id());
            self.rendezvous.ask_at = now + ASK_INTERVAL;
        }
    }

    /// Takes the members, and nobody else, into the table.
    pub(super) fn on_members_for_kademlia(&mut self, members: &Members) {
        self.sift_table(members);
        let known: Vec<_> = members.keys().filter_map(|peer| Some((*peer, self.book.get(*peer)?.addrs()))).collect();
        for (peer, addrs) in known {
            self.fill_table(peer, addrs);
        }
        // A node that knows no members has nobody to name.
        let mode = if members.is_empty() { Mode::Client } else { Mode::Server };
        let kad = &mut self.swarm.behaviour_mut().kad;
        if kad.mode() != mode {
            kad.set_mode(Some(mode));
        }
        self.publish_soon();
    }

    fn sift_table(&mut self, members: &Members) {
        let strangers: Vec<PeerId> = self.swarm.behaviour_mut().kad.kbuckets().fold(Vec::new(), |mut all, bucket| {
            let peers = bucket.iter().map(|entry| *entry.node.key.preimage());
            all.extend(peers.filter(|peer| !NodeId::try_from(*peer).is_ok_and(|peer| members.contains_key(&peer))));
            all
        });
        for stranger in strangers {
            self.swarm.behaviour_mut().kad.remove_peer(&stranger);
        }
    }

    /// Without members to ask, those who are connected are asked this once.
    fn borrow_table(&mut self) {
        if self.book.knows_members() {
            return;
        }
        for (peer, addrs) in self.book.connected_addrs() {
            self.fill_table(peer, addrs);
        }
    }

    /// Replaces the addresses of one peer in the table.
    pub(super) fn fill_table(&mut self, peer: NodeId, addrs: Vec<Multiaddr>) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.remove_peer(&peer.peer_id());
        for addr in addrs {
            kad.add_address(&peer.peer_id(), addr);
        }
    }
}

fn key(topic: &str) -> RecordKey {
    RecordKey::new(&topic)
}
