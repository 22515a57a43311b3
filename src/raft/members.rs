//! Changing who votes, and who leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers, EmptyNode,
    errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError},
    raft::TransferLeaderRequest,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::{
    ids::NodeId,
    raft::{
        RaftNode, ReadPolicy,
        status::{RaftRole, RaftStatus},
        types::{Replicated, Types, Vote},
    },
};

/// How long a change of membership may take to be committed.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a transfer of leadership may take.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(5);
/// How many entries a successor may lack when the leader stops to take proposals. It has one
/// election timeout to receive them.
const TRANSFER_LAG: u64 = 64;

/// Why the membership was not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembershipError {
    /// Certainly not changed: this node does not lead.
    #[error("this lock manager does not lead")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Certainly not changed: another change is under way.
    #[error("another change of the lock managers is under way: try again when it is done")]
    InProgress,
    /// Certainly not changed: it makes no sense.
    #[error("the lock managers cannot be changed so: {0}")]
    Refused(String),
    /// Perhaps changed, now or later.
    #[error("the outcome of the change is unknown: look at the members")]
    Unknown,
    /// This node is stopping.
    #[error("this lock manager is stopping")]
    Stopped,
}

/// Why leadership was not handed over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransferError {
    /// This node does not lead.
    #[error("this lock manager does not lead")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// The successor has no vote.
    #[error("{0} has no vote and cannot lead")]
    NotVoter(NodeId),
    /// The successor was not heard of lately, or lacks too much of the log. Nothing was changed.
    #[error("{0} is not ready to lead: it does not answer, or is still catching up")]
    NotReady(NodeId),
    /// Another node was elected.
    #[error("{0} was elected instead")]
    Elsewhere(NodeId),
    /// No new leader was heard of in time.
    #[error("no new leader was heard of within {} s", TRANSFER_DEADLINE.as_secs())]
    Timeout,
    /// This node is stopping.
    #[error("this lock manager is stopping")]
    Stopped,
}

type WriteError<S> = RaftError<Types<S>, ClientWriteError<Types<S>>>;

fn refusal<S: Replicated>(error: &WriteError<S>) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            MembershipError::NotLeader { leader: forward.leader_id }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        )) => MembershipError::InProgress,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(refused)) => {
            MembershipError::Refused(refused.to_string())
        }
        _ => MembershipError::Unknown,
    }
}

impl<S: Replicated> RaftNode<S> {
    /// Founds the group with these voters. All of them may do it, with the same set.
    ///
    /// Refused where there is a log or a vote already.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let members: BTreeMap<NodeId, EmptyNode> = voters.into_iter().map(|id| (id, EmptyNode {})).collect();
        self.raft().initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => {
                MembershipError::Refused("this lock manager belongs to a group already".to_owned())
            }
            RaftError::APIError(refused) => MembershipError::Refused(refused.to_string()),
            RaftError::Fatal(_) => MembershipError::Stopped,
        })
    }

    /// Whether this node has a log or a vote: belongs, or belonged, to a group.
    pub async fn is_initialized(&self) -> Result<bool, MembershipError> {
        self.raft().is_initialized().await.map_err(|_| MembershipError::Stopped)
    }

    /// Lets a node receive the log, without a vote. Returns when that is committed, not when the
    /// node has caught up.
    pub async fn add_learner(&self, id: NodeId) -> Result<(), MembershipError> {
        self.settle(self.raft().add_learner(id, EmptyNode {}, false)).await
    }

    /// Makes exactly these nodes voters, which receive the log already. Who loses its vote goes on
    /// as a learner.
    ///
    /// Refused unless more than half of them were heard of lately: nothing can be decided without them
    /// once the change is in the log, not even that it is taken back.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let recent = self.settings().election_max;
        let heard = |status: &RaftStatus, voter: &NodeId| {
            let acknowledged = status.followers.get(voter).and_then(|follower| follower.acknowledged);
            *voter == self.id() || acknowledged.is_some_and(|at| at.elapsed() < recent)
        };
        let decided = |status: &RaftStatus| match status.role {
            RaftRole::Leader => {
                let heard = voters.iter().filter(|voter| heard(status, voter)).count();
                (heard > voters.len() / 2).then_some(Ok(()))
            }
            RaftRole::Stopped => Some(Err(MembershipError::Stopped)),
            _ => Some(Err(MembershipError::NotLeader { leader: status.leader })),
        };
        let silent = || MembershipError::Refused("more than half of the new voters must be up and in reach".to_owned());
        self.when(decided, Instant::now() + recent).await.unwrap_or_else(|| Err(silent()))?;
        self.settle(self.raft().change_membership(ChangeMembers::ReplaceAllVoters(voters), true)).await
    }

    /// Sends the log no longer to a node that has no vote.
    pub async fn remove_learner(&self, id: NodeId) -> Result<(), MembershipError> {
        self.settle(self.raft().change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false)).await
    }

    async fn settle<T>(&self, change: impl Future<Output = Result<T, WriteError<S>>>) -> Result<(), MembershipError> {
        tokio::select! {
            biased;
            changed = timeout(CHANGE_DEADLINE, change) => match changed {
                Ok(changed) => changed.map(drop).map_err(|error| refusal(&error)),
                Err(_) => Err(MembershipError::Unknown),
            },
            () = self.quorum_lost() => Err(MembershipError::Unknown),
        }
    }

    /// Hands leadership to a voter. Returns once this node has heard of the new leader.
    ///
    /// Openraft stops to take proposals as soon as it is asked, for good: only a new leader ends
    /// that. So it is asked only when the successor answers and has nearly all of the log.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        let deadline = Instant::now() + TRANSFER_DEADLINE;
        let recent = self.settings().election_max;
        let ready = |status: &RaftStatus| match (status.role, status.followers.get(&to)) {
            (RaftRole::Stopped, _) => Some(Err(TransferError::Stopped)),
            (RaftRole::Leader, _) if self.id() == to => Some(Ok(())),
            (RaftRole::Leader, _) if !status.voters.contains(&to) => Some(Err(TransferError::NotVoter(to))),
            (RaftRole::Leader, Some(follower)) => {
                let near = follower.matched + TRANSFER_LAG >= status.last_log_index;
                let alive = follower.acknowledged.is_some_and(|at| at.elapsed() < recent);
                (near && alive).then_some(Ok(()))
            }
            (RaftRole::Leader, None) => None,
            _ => Some(Err(TransferError::NotLeader { leader: status.leader })),
        };
        self.when(ready, deadline).await.unwrap_or(Err(TransferError::NotReady(to)))?;
        if to == self.id() {
            return Ok(());
        }
        let term = self.status().borrow().term;
        self.raft().trigger().transfer_leader(to).await.map_err(|_| TransferError::Stopped)?;
        let elected = |status: &RaftStatus| match status.leader {
            _ if status.role == RaftRole::Stopped => Some(Err(TransferError::Stopped)),
            Some(leader) if status.term > term && leader == to => Some(Ok(())),
            Some(leader) if status.term > term => Some(Err(TransferError::Elsewhere(leader))),
            _ => None,
        };
        self.when(elected, deadline).await.unwrap_or(Err(TransferError::Timeout))
    }

    /// Tells Raft that all connections to a peer closed and could not be opened again. If it leads,
    /// this node stops to honour its lease and asks for votes soon, instead of waiting for an
    /// election timeout. The others grant them only if they, too, have lost that leader.
    ///
    /// Does nothing where reads may rely on the lease ([`RaftSettings::reads`](super::RaftSettings)):
    /// a leader that lives on behind its closed connections counts on it.
    pub async fn leader_lost(&self, peer: NodeId) {
        let followed = |status: &RaftStatus| {
            (status.leader == Some(peer) && status.role == RaftRole::Follower).then_some(status.term)
        };
        let (term, turn) = {
            let status = self.status();
            let status = status.borrow();
            let others = status.voters.iter().filter(|voter| **voter != peer);
            let Some(term) = followed(&status) else { return };
            (term, others.take_while(|voter| **voter < self.id()).count())
        };
        if self.settings().reads == ReadPolicy::Lease || peer == self.id() {
            return;
        }
        // To a node that is not the successor, a transfer of leadership means just this: the lease
        // is over.
        let over = TransferLeaderRequest::new(Vote::new_committed(term.0, peer), peer, None);
        if self.raft().handle_transfer_leader(over).await.is_err() {
            return;
        }
        // One after the other, so that the votes do not split.
        sleep(self.settings().heartbeat / 2 * u32::try_from(turn + 1).unwrap_or(u32::MAX)).await;
        if followed(&self.status().borrow()) == Some(term) {
            _ = self.raft().trigger().elect(true).await;
        }
    }

    /// The first answer that a status gives before the deadline.
    async fn when<T>(&self, answer: impl Fn(&RaftStatus) -> Option<T>, deadline: Instant) -> Option<T> {
        let mut status = self.status();
        let mut found = None;
        let seen = status.wait_for(|status| {
            found = answer(status);
            found.is_some()
        });
        _ = timeout_at(deadline, seen).await;
        found
    }
}
