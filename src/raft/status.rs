//! What this lock manager knows of the group, kept current in a watch.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    Instant as _, RaftMetrics, ServerState, alias::WatchReceiverOf, async_runtime::WatchReceiver as _, errors::Fatal,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    ids::{NodeId, Term},
    raft::types::{Replicated, Types},
};

/// What a lock manager is to its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RaftRole {
    /// Receives the log and has no vote. Also one that belongs to no group yet.
    #[default]
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Takes no more part.
    Stopped,
}

/// How far another lock manager is, as its leader knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Follower {
    /// The last index up to which its log is known to equal the leader's. 0: none.
    pub matched: u64,
    /// When the last message that it acknowledged was sent.
    pub acknowledged: Option<Instant>,
}

/// The state of Raft on this node. Indexes are 0 where there is none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RaftStatus {
    /// What this node is.
    pub role: RaftRole,
    /// The term that it is in.
    pub term: Term,
    /// The leader that it follows.
    pub leader: Option<NodeId>,
    /// The last entry in its log.
    pub last_log_index: u64,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// The last entry that it has applied.
    pub applied: u64,
    /// The last entry that its snapshot includes.
    pub snapshot: u64,
    /// Who votes (in a joint configuration: in either half).
    pub voters: BTreeSet<NodeId>,
    /// Who receives the log without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether a change of membership is still under way.
    pub changing: Changing,
    /// On a leader: the other lock managers.
    pub followers: BTreeMap<NodeId, Follower>,
    /// On a leader: when the last message that a quorum acknowledged was sent.
    pub quorum_acknowledged: Option<Instant>,
    /// Why Raft has ended on this node, if a failure ended it.
    pub failed: Option<String>,
}

/// Whether the membership is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Changing {
    /// The membership is committed and not joint.
    #[default]
    Settled,
    /// A change is not committed yet, or its second step is to come.
    UnderWay,
}

impl RaftStatus {
    /// Whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.role == RaftRole::Leader
    }

    /// On a leader: the voter that is best placed to lead next. Heard of within `recent`, then by
    /// how much of the log it has.
    pub fn successor(&self, recent: Duration) -> Option<NodeId> {
        let candidates = self.followers.iter().filter(|(peer, follower)| {
            self.voters.contains(peer) && follower.acknowledged.is_some_and(|at| at.elapsed() < recent)
        });
        candidates.max_by_key(|(_, follower)| follower.matched).map(|(peer, _)| *peer)
    }

    fn of<S: Replicated>(metrics: &RaftMetrics<Types<S>>) -> Self {
        let index = |id: &Option<crate::raft::types::LogId>| id.map_or(0, |id| id.index);
        let instant = |elapsed: Duration| Instant::now().checked_sub(elapsed);
        let membership = metrics.membership_config.membership();
        let joint = membership.get_joint_config().len() > 1;
        let committed = metrics.membership_config == metrics.committed_membership_config;
        let mut followers = BTreeMap::<NodeId, Follower>::new();
        for (peer, matched) in metrics.replication.iter().flatten().filter(|(peer, _)| **peer != metrics.id) {
            followers.entry(*peer).or_default().matched = index(matched);
        }
        for (peer, sent) in metrics.heartbeat.iter().flatten().filter(|(peer, _)| **peer != metrics.id) {
            followers.entry(*peer).or_default().acknowledged = sent.and_then(|sent| instant(sent.elapsed()));
        }
        Self {
            role: match (&metrics.running_state, metrics.state) {
                (Err(_), _) | (_, ServerState::Shutdown) => RaftRole::Stopped,
                (_, ServerState::Learner) => RaftRole::Learner,
                (_, ServerState::Follower) => RaftRole::Follower,
                (_, ServerState::Candidate) => RaftRole::Candidate,
                (_, ServerState::Leader) => RaftRole::Leader,
            },
            term: Term(metrics.current_term),
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            changing: if joint || !committed { Changing::UnderWay } else { Changing::Settled },
            followers,
            quorum_acknowledged: metrics.last_quorum_acked.and_then(|at| instant(at.elapsed())),
            failed: match &metrics.running_state {
                Ok(()) | Err(Fatal::Stopped) => None,
                Err(fatal) => Some(fatal.to_string()),
            },
        }
    }
}

/// Translates openraft's metrics until openraft is gone.
pub(crate) async fn follow<S: Replicated>(
    mut metrics: WatchReceiverOf<Types<S>, RaftMetrics<Types<S>>>,
    status: watch::Sender<RaftStatus>,
) {
    loop {
        let current = RaftStatus::of(&metrics.borrow_and_update());
        status.send_replace(current);
        if metrics.changed().await.is_err() {
            break;
        }
    }
    status.send_modify(|status| status.role = RaftRole::Stopped);
}
