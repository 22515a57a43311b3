//! How the task gets to know its peers: it greets them, and remembers what they say of themselves.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{ControlTask, Done, Standing, VERSION, reply};
use crate::{
    codec::encode,
    ids::{NodeId, Role},
    machine::{
        founding::{Candidacy, FoundingEffect, Mismatch, Report},
        membership::MAX_ADDRS,
    },
    net::{DiscoveredBy, Lane, Protocol},
    node::wire::{ControlCall, Hello, Leader, MAX_ACQUAINTED},
};

/// How often peers are greeted again while this node knows no cluster or no leader.
const GREET_AGAIN: Duration = Duration::from_millis(400);
/// How long a barred peer may stay connected: long enough to be told so, to drain in vain and to end.
const BARRED_STAY: Duration = Duration::from_secs(20);

impl ControlTask {
    pub(super) fn hello(&self) -> Hello {
        let settings = &self.parts.settings;
        Hello {
            incarnation: settings.incarnation,
            cluster_name: settings.cluster_name.clone(),
            cache_protocol: settings.cache_protocol.clone(),
            roles: settings.roles.iter().copied().collect(),
            version: VERSION.to_owned(),
            record: self.founding.record().cloned(),
            leader: self.parts.route.leader(),
            addrs: self.addrs(),
            acquainted: self.acquainted(),
        }
    }

    /// Where this node tells others to find it.
    pub(super) fn addrs(&self) -> Vec<String> {
        let announced = &self.parts.settings.announce;
        if !announced.is_empty() {
            return announced.iter().take(MAX_ADDRS).cloned().collect();
        }
        let status = self.parts.mesh.status().borrow().clone();
        status.listen_addrs.iter().take(MAX_ADDRS).map(ToString::to_string).collect()
    }

    fn acquainted(&self) -> Vec<(NodeId, Vec<String>)> {
        let greeted = self.parts.greeted.borrow();
        let lock_managers = greeted.iter().filter(|(_, hello)| hello.roles.contains(&Role::LockManager));
        lock_managers.take(MAX_ACQUAINTED).map(|(peer, hello)| (*peer, hello.addrs.clone())).collect()
    }

    /// Connects to those whom a peer of ours knows and we do not.
    fn meet(&self, acquainted: &[(NodeId, Vec<String>)]) {
        for (peer, addrs) in acquainted.iter().take(MAX_ACQUAINTED) {
            if *peer != self.me() && !self.peers.contains_key(peer) {
                let addrs = addrs.iter().take(MAX_ADDRS).filter_map(|addr| addr.parse().ok()).collect();
                self.parts.mesh.hint(*peer, addrs, DiscoveredBy::Members);
            }
        }
    }

    pub(super) fn greet(&mut self, peer: NodeId) {
        let Some(greeted) = self.peers.get_mut(&peer) else { return };
        *greeted = Some(Instant::now());
        let hello = encode(&ControlCall::Hello(Box::new(self.hello())));
        let call = self.parts.mesh.call(peer, Protocol::Control, Lane::End, hello);
        self.work.spawn(async move { Done::Greeted(peer, reply(call.await)) });
    }

    /// What a peer says of itself. Of the barred nothing is believed.
    pub(super) fn heard(&mut self, peer: NodeId, mut hello: Hello) {
        if self.parts.route.view().barred.contains(&peer) {
            return;
        }
        hello.bound();
        let report = Report {
            cluster_name: hello.cluster_name.clone(),
            cache_protocol: hello.cache_protocol.clone(),
            lock_manager: Candidacy::of(&hello.roles),
            record: hello.record.clone(),
        };
        let same_cluster = hello.record.is_some();
        let leader = hello.leader;
        let mut effects = Vec::new();
        self.founding.heard(self.parts.clock.wall(), peer, report, &mut effects);
        let refused = effects.iter().any(|effect| matches!(effect, FoundingEffect::Refuse(_)));
        // A stranger to a cluster has to change; of two strangers nobody knows which.
        if let Some(FoundingEffect::Refuse(mismatch @ Mismatch::CacheProtocol { .. })) = effects.first()
            && same_cluster
            && self.founding.record().is_none()
        {
            self.parts.standing.send_replace(Standing::Barred(mismatch.to_string()));
        }
        if !refused && self.peers.contains_key(&peer) {
            self.meet(&hello.acquainted);
            self.parts.greeted.send_modify(|greeted| {
                Arc::make_mut(greeted).insert(peer, hello);
            });
            if let Some(leader) = leader.filter(|_| same_cluster) {
                self.learn(leader);
            }
        }
        self.perform(effects);
    }

    /// A peer says who leads. A lock manager that follows somebody takes it as a confirmation only.
    pub(super) fn learn(&self, leader: Leader) {
        let followed = self.parts.raft.as_ref().and_then(|raft| {
            let status = raft.status().borrow().clone();
            status.leader.map(|node| Leader { term: status.term, node })
        });
        if followed.is_none_or(|followed| followed == leader) {
            self.parts.route.learn(leader);
        }
    }

    /// Sends the barred away once they have had the time to be told. They may come back to be told
    /// again: a bar that was lifted meanwhile is not known everywhere at once.
    pub(super) fn send_barred_away(&mut self) {
        let (view, now) = (self.parts.route.view(), Instant::now());
        let here = view.barred.iter().filter(|peer| self.peers.contains_key(peer));
        let since = |peer: &NodeId| self.barred.get(peer).copied().unwrap_or(now);
        self.barred = here.map(|peer| (*peer, since(peer))).collect();
        for (peer, _) in self.barred.iter().filter(|(_, since)| since.elapsed() >= BARRED_STAY) {
            self.parts.mesh.disconnect(*peer);
        }
    }

    /// Greets those who have not answered, and everyone while there is no cluster or no leader.
    pub(super) fn greet_again(&mut self) {
        let lost = self.founding.record().is_none() || self.parts.route.leader().is_none();
        let greeted = self.parts.greeted.borrow().clone();
        let due = |(peer, at): (&NodeId, &Option<Instant>)| {
            let wanted = lost || !greeted.contains_key(peer);
            (wanted && at.is_none_or(|at| at.elapsed() >= GREET_AGAIN)).then_some(*peer)
        };
        let due: Vec<_> = self.peers.iter().filter_map(due).collect();
        due.into_iter().for_each(|peer| self.greet(peer));
    }
}
