//! Linearizable reads: proof of leadership, shared by everyone who waits for one.
//!
//! One task asks openraft for a ReadIndex round (Ongaro, "Consensus: Bridging Theory and Practice",
//! 2014, section 6.4) at a time. Who comes while a round is under way waits for the next one, since
//! only a round that began later says anything about its own moment.

use std::time::Duration;

use openraft::{
    LinearizerOption, Raft,
    errors::{LinearizableReadError, RaftError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    ids::NodeId,
    raft::{
        apply::Machine,
        types::{Replicated, Types},
    },
};

/// Reads waiting for a round. More wait to be let in.
const MAX_WAITING: usize = 4096;

/// How a read makes sure that no newer state exists elsewhere. The greater relies on more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum ReadPolicy {
    /// A quorum confirms the leader. Relies on no clock.
    #[default]
    Index,
    /// A quorum confirmed the leader within the last election timeout. Relies on clocks that run at
    /// about the same rate.
    Lease,
}

/// Why this node may not serve a read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead.
    #[error("this lock manager does not lead")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// It believes to lead and no quorum confirms it.
    #[error("no quorum of the lock managers confirms this leader")]
    NoQuorum,
    /// This node is stopping.
    #[error("this lock manager is stopping")]
    Stopped,
}

impl From<super::Stopped> for ReadError {
    fn from(_: super::Stopped) -> Self {
        Self::Stopped
    }
}

/// The index up to which the state must be applied before the read.
pub(crate) type Confirmed = Result<u64, ReadError>;

/// The task that runs the rounds.
pub(crate) struct Rounds<S: Replicated> {
    raft: Raft<Types<S>, Machine<S>>,
    waiting: mpsc::Receiver<oneshot::Sender<Confirmed>>,
    deadline: Duration,
}

impl<S: Replicated> Rounds<S> {
    pub(crate) fn new(
        raft: Raft<Types<S>, Machine<S>>,
        deadline: Duration,
    ) -> (mpsc::Sender<oneshot::Sender<Confirmed>>, Self) {
        let (sender, waiting) = mpsc::channel(MAX_WAITING);
        (sender, Self { raft, waiting, deadline })
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut readers = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                count = self.waiting.recv_many(&mut readers, MAX_WAITING) => if count == 0 {
                    return;
                }
            }
            let index = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(self.deadline);
            let confirmed = confirm(&self.raft, index, self.deadline).await;
            for reader in readers.drain(..) {
                _ = reader.send(confirmed.clone());
            }
        }
    }
}

/// Asks openraft whether this node leads.
pub(crate) async fn confirm<S: Replicated>(
    raft: &Raft<Types<S>, Machine<S>>,
    how: impl Into<LinearizerOption>,
    deadline: Duration,
) -> Confirmed {
    match timeout(deadline, raft.get_read_linearizer(how)).await {
        Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
            Err(ReadError::NotLeader { leader: forward.leader_id })
        }
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => Err(ReadError::NoQuorum),
        Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
    }
}
