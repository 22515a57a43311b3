//! Where to turn: who leads, and who belongs to the cluster, as far as this node knows.
//!
//! Written by the control task and by whoever is told of a newer leader; read by everyone.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::wire::{Leader, View};
use crate::{
    ids::{Incarnation, NodeId, Term},
    machine::membership::Member,
};

/// What is known of the leader. A term without a leader is one in which the last one known was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Known {
    term: Term,
    leader: Option<NodeId>,
    /// Since when nobody, or this one, is known to lead.
    since: Instant,
}

impl Known {
    /// Takes over who leads, if that is news.
    fn become_known(&mut self, term: Term, leader: Option<NodeId>) -> bool {
        let news = (self.term, self.leader) != (term, leader);
        if news {
            let goes_on = self.leader.is_none() && leader.is_none();
            *self = Self { term, leader, since: if goes_on { self.since } else { Instant::now() } };
        }
        news
    }
}

/// Read-mostly snapshots of the leader and of the view. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    leader: Arc<watch::Sender<Known>>,
    view: Arc<watch::Sender<Arc<View>>>,
}

impl Route {
    /// A node that knows nobody yet.
    pub(crate) fn new() -> Self {
        let nobody = Known { term: Term::default(), leader: None, since: Instant::now() };
        Self { leader: Arc::new(watch::Sender::new(nobody)), view: Arc::new(watch::Sender::default()) }
    }

    /// The leader, as far as is known.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let known = *self.leader.borrow();
        known.leader.map(|node| Leader { term: known.term, node })
    }

    /// The latest term that was heard of.
    pub(crate) fn term(&self) -> Term {
        self.leader.borrow().term
    }

    /// Somebody says who leads. Older news than what is known is dropped, unless the one known has
    /// failed: a term that somebody made up must not blind this node for good.
    pub(crate) fn learn(&self, said: Leader) {
        self.leader.send_if_modified(|known| {
            let newer = said.term > known.term || known.leader.is_none();
            newer && known.become_known(said.term, Some(said.node))
        });
    }

    /// Raft on this very node says who leads, or that nobody does: that is beyond doubt.
    pub(crate) fn set(&self, term: Term, leader: Option<NodeId>) {
        self.leader.send_if_modified(|known| known.become_known(term, leader));
    }

    /// This leader does not answer, or does not lead: wait for news.
    pub(crate) fn doubt(&self, leader: Leader) {
        self.leader.send_if_modified(|known| {
            let current = known.term == leader.term && known.leader == Some(leader.node);
            current && known.become_known(known.term, None)
        });
    }

    /// For how long nobody has been known to lead.
    pub(crate) fn leaderless_for(&self) -> Duration {
        let known = *self.leader.borrow();
        known.leader.map_or_else(|| known.since.elapsed(), |_| Duration::ZERO)
    }

    /// Waits until somebody is known to lead.
    pub(crate) async fn some_leader(&self, patience: Duration) -> Option<Leader> {
        let mut changes = self.leader.subscribe();
        let wait = async {
            let known = *changes.wait_for(|known| known.leader.is_some()).await.ok()?;
            known.leader.map(|node| Leader { term: known.term, node })
        };
        tokio::time::timeout(patience, wait).await.ok().flatten()
    }

    /// Waits until somebody else is known to lead, or the same in another term.
    pub(crate) async fn other_leader_than(&self, leader: Leader) {
        let mut changes = self.leader.subscribe();
        let other = |known: &Known| known.leader.is_some_and(|node| Leader { term: known.term, node } != leader);
        if changes.wait_for(other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The view that this node has installed.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// News of the view.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// News of the leader.
    pub(crate) fn leaders(&self) -> watch::Receiver<Known> {
        self.leader.subscribe()
    }

    /// Installs a view unless a newer one is installed.
    pub(crate) fn install(&self, view: View) -> bool {
        self.view.send_if_modified(|installed| {
            let newer = view.version > installed.version
                || (view.version == installed.version
                    && (view.voters != installed.voters || view.learners != installed.learners));
            if newer {
                *installed = Arc::new(view);
            }
            newer
        })
    }

    /// Whether this peer is a member that has not left.
    pub(crate) fn is_member(&self, peer: NodeId) -> bool {
        self.view.borrow().members.get(&peer).is_some_and(|member| member.belongs())
    }

    /// Whether this run of a node has left for good.
    pub(crate) fn has_left(&self, node: NodeId, run: Incarnation) -> bool {
        let left = |member: &Member| !member.belongs() && member.joiner.incarnation == run;
        self.view.borrow().members.get(&node).is_some_and(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(term: u64, node: u8) -> Leader {
        Leader { term: Term(term), node: NodeId::from_bytes([node; 32]) }
    }

    #[test]
    fn old_news_of_the_leader_is_dropped() {
        let route = Route::new();
        route.learn(leader(2, 1));
        route.learn(leader(1, 9));
        assert_eq!(route.leader(), Some(leader(2, 1)));
    }

    #[test]
    fn a_doubted_leader_can_be_confirmed_or_replaced() {
        let route = Route::new();
        route.learn(leader(2, 1));
        route.doubt(leader(1, 1));
        assert_eq!(route.leader(), Some(leader(2, 1)), "a doubt about an earlier term");
        route.doubt(leader(2, 1));
        assert_eq!(route.leader(), None);
        route.learn(leader(2, 1));
        assert_eq!(route.leader(), Some(leader(2, 1)));
        route.learn(leader(3, 4));
        assert_eq!(route.leader(), Some(leader(3, 4)));
    }

    #[test]
    fn a_term_that_was_made_up_does_not_blind_for_good() {
        let route = Route::new();
        route.learn(leader(u64::MAX, 9));
        route.doubt(leader(u64::MAX, 9));
        route.learn(leader(3, 4));
        assert_eq!(route.leader(), Some(leader(3, 4)));
        route.learn(leader(u64::MAX, 9));
        route.set(Term(3), Some(NodeId::from_bytes([4; 32])));
        assert_eq!(route.leader(), Some(leader(3, 4)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_is_missed_is_missed_since_it_was_lost() {
        let route = Route::new();
        let second = Duration::from_secs(1);
        tokio::time::advance(second).await;
        assert_eq!(route.leaderless_for(), second);
        route.learn(leader(1, 1));
        tokio::time::advance(second).await;
        assert_eq!(route.leaderless_for(), Duration::ZERO);
        route.doubt(leader(1, 1));
        tokio::time::advance(second).await;
        // A later term without a leader either.
        route.set(Term(2), None);
        tokio::time::advance(second).await;
        assert_eq!(route.leaderless_for(), second * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_leader_hears_of_it_or_gives_up() {
        let route = Route::new();
        assert_eq!(route.some_leader(Duration::from_millis(10)).await, None);
        let waiting = tokio::spawn({
            let route = route.clone();
            async move { route.some_leader(Duration::from_secs(9)).await }
        });
        route.learn(leader(1, 1));
        assert_eq!(waiting.await.expect("no panic"), Some(leader(1, 1)));
    }
}
