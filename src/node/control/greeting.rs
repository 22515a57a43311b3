//! How the task gets to know its peers: it greets them, and remembers what they say of themselves.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{ControlTask, Done, Standing, VERSION, reply};
use crate::{
    codec::encode,
    ids::{NodeId, Role},
    machine::{
        founding::{Candidacy, FoundingEffect, Report},
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
            cache_write_policy: settings.cache.write_policy.clone(),
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
            cache_write_policy: hello.cache_write_policy.clone(),
            lock_manager: Candidacy::of(&hello.roles),
            record: hello.record.clone(),
        };
        let same_cluster = hello.record.is_some();
        let leader = hello.leader;
        let mut effects = Vec::new();
        self.founding.heard(self.parts.clock.wall(), peer, report, &mut effects);
        let refused = effects.iter().any(|effect| matches!(effect, FoundingEffect::Refuse(_)));
        // A stranger to a cluster has to change; of two strangers nobody knows which.
        if let Some(FoundingEffect::Refuse(mismatch)) = effects.first()
            && mismatch.is_of_settings()
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

    /// A peer says who leads.
    pub(super) fn learn(&self, said: Leader) {
        let route = &self.parts.route;
        let followed = self.parts.raft.as_ref().and_then(|raft| {
            let status = raft.status().borrow().clone();
            status.leader.map(|node| Leader { term: status.term, node })
        });
        let relied_on = *self.parts.standing.borrow() == Standing::Member && route.leader() == followed;
        if is_believable(said, followed, relied_on) {
            route.learn(said);
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

/// Whether what a peer says of the leader is believed by a node whose Raft names `followed`, and which
/// relies on that one: it is a member, and the leader has not failed it.
///
/// Who relies on its leader needs nobody to tell it another: Raft will. A lock manager that is no longer
/// in the group is told nothing by Raft, which names the last leader that it knew for ever. It believes
/// a peer, but no term that was over before its own.
fn is_believable(said: Leader, followed: Option<Leader>, relied_on: bool) -> bool {
    followed.is_none_or(|followed| said == followed || (!relied_on && said.term > followed.term))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Term, node::route::Route};

    fn leader(term: u64, node: u8) -> Leader {
        Leader { term: Term(term), node: NodeId::from_bytes([node; 32]) }
    }

    /// What a lock manager does with news, which is a member and whose Raft names this leader.
    fn told(route: &Route, followed: Leader, said: Leader) {
        if is_believable(said, Some(followed), route.leader() == Some(followed)) {
            route.learn(said);
        }
    }

    #[test]
    fn who_follows_a_leader_takes_news_as_a_confirmation_only() {
        assert!(is_believable(leader(3, 1), Some(leader(3, 1)), true));
        assert!(!is_believable(leader(9, 2), Some(leader(3, 1)), true));
        assert!(is_believable(leader(9, 2), None, false), "it follows nobody");
    }

    #[test]
    fn who_was_taken_out_of_the_group_learns_the_next_leader_from_its_peers() {
        let followed = leader(3, 1);
        // It has not joined again.
        assert!(is_believable(leader(4, 2), Some(followed), false));
        // It never heard that it was taken out, and the leader that it knows has failed it.
        let route = Route::new();
        route.set(followed.term, Some(followed.node));
        told(&route, followed, leader(4, 2));
        assert_eq!(route.leader(), Some(followed));
        route.doubt(followed);
        told(&route, followed, leader(2, 9));
        assert_eq!(route.leader(), None, "a term that was over before");
        told(&route, followed, leader(4, 2));
        assert_eq!(route.leader(), Some(leader(4, 2)));
    }

    #[test]
    fn a_term_that_was_made_up_does_not_keep_it_from_the_leader_that_raft_names() {
        let followed = leader(3, 1);
        let route = Route::new();
        route.set(followed.term, Some(followed.node));
        route.doubt(followed);
        told(&route, followed, leader(u64::MAX, 9));
        route.doubt(leader(u64::MAX, 9));
        told(&route, followed, followed);
        told(&route, followed, leader(u64::MAX, 9));
        assert_eq!(route.leader(), Some(followed));
    }
}
