//! Proposing: commands of many callers become few entries.
//!
//! One task owns the queue. While entries are on their way, what comes next is gathered into the
//! following one, up to a limit of commands and bytes. Each caller learns its own answers, or
//! whether its commands certainly had no effect.

use std::{future, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use openraft::{
    Raft,
    errors::{ClientWriteError, RaftError},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    codec::encoded_len,
    ids::NodeId,
    raft::{
        apply::Machine,
        status::{RaftRole, RaftStatus},
        types::{Batch, Replicated, Types},
    },
    telemetry::RaftMetrics,
};

/// Proposals waiting for their turn. More are refused with [`ProposeError::Busy`].
pub const MAX_QUEUED_PROPOSALS: usize = 4096;
/// Most commands in one entry.
pub const MAX_BATCH_COMMANDS: usize = 1024;
/// Most bytes of commands in one entry, unless the protocol's limit is smaller.
pub const MAX_BATCH_BYTES: usize = 256 << 10;
/// Entries on their way to their commit. Two keep the disk busy while the next one is gathered.
const MAX_ENTRIES_IN_FLIGHT: usize = 2;
/// How long an entry may take to be committed while a quorum still acknowledges the leader.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);

/// Why commands were not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Certainly not applied: this node does not lead, or a quorum does not acknowledge it.
    #[error("this lock manager does not lead")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Perhaps applied, now or later: leadership or the quorum was lost on the way.
    #[error("the outcome is unknown: the entry was written and its commit was not confirmed")]
    Unknown,
    /// Certainly not applied: too many proposals are waiting.
    #[error("too many proposals are waiting: at most {MAX_QUEUED_PROPOSALS} may")]
    Busy,
    /// Certainly not applied: the commands exceed what one entry may carry.
    #[error("the commands have {bytes} bytes, an entry carries at most {limit}")]
    TooLarge {
        /// Bytes of the commands.
        bytes: usize,
        /// Most bytes of commands in an entry.
        limit: usize,
    },
    /// Certainly not applied: this node is stopping.
    #[error("this lock manager is stopping")]
    Stopped,
}

/// Commands that wait to be put into an entry.
#[derive(Debug)]
pub(crate) struct Proposal<S: Replicated> {
    commands: Vec<S::Command>,
    bytes: usize,
    reply: oneshot::Sender<Result<Vec<S::Answer>, ProposeError>>,
}

/// Where proposals are handed in.
#[derive(Debug)]
pub(crate) struct Proposals<S: Replicated> {
    queue: mpsc::Sender<Proposal<S>>,
    max_bytes: usize,
    metrics: RaftMetrics,
}

impl<S: Replicated> Proposals<S> {
    /// Hands in commands, which stay together, and waits for their answers.
    pub(crate) async fn propose(&self, commands: Vec<S::Command>) -> Result<Vec<S::Answer>, ProposeError> {
        let outcome = self.hand_in(commands).await;
        self.metrics.proposed(match &outcome {
            Ok(_) => "committed",
            Err(ProposeError::NotLeader { .. }) => "not-leader",
            Err(ProposeError::Unknown) => "unknown",
            Err(ProposeError::Busy | ProposeError::TooLarge { .. }) => "refused",
            Err(ProposeError::Stopped) => "stopped",
        });
        outcome
    }

    async fn hand_in(&self, commands: Vec<S::Command>) -> Result<Vec<S::Answer>, ProposeError> {
        let bytes = encoded_len(&commands);
        if bytes > self.max_bytes || commands.len() > MAX_BATCH_COMMANDS {
            return Err(ProposeError::TooLarge { bytes, limit: self.max_bytes });
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Proposal { commands, bytes, reply }).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        // The proposer drops what it has not sent only when it stops; what it has sent, it answers.
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }
}

/// The task that makes entries of proposals.
pub(crate) struct Proposer<S: Replicated> {
    raft: Raft<Types<S>, Machine<S>>,
    queue: mpsc::Receiver<Proposal<S>>,
    /// Taken from the queue and too large for the entry before.
    next: Option<Proposal<S>>,
    max_bytes: usize,
    clock: Arc<dyn Clock>,
    status: watch::Receiver<RaftStatus>,
    /// How long a leader that hears from no quorum still waits for commits.
    silence: Duration,
    metrics: RaftMetrics,
}

impl<S: Replicated> Proposer<S> {
    pub(crate) fn new(
        raft: Raft<Types<S>, Machine<S>>,
        max_bytes: usize,
        clock: Arc<dyn Clock>,
        status: watch::Receiver<RaftStatus>,
        (silence, metrics): (Duration, RaftMetrics),
    ) -> (Proposals<S>, Self) {
        let max_bytes = max_bytes.min(MAX_BATCH_BYTES);
        let (sender, queue) = mpsc::channel(MAX_QUEUED_PROPOSALS);
        let proposals = Proposals { queue: sender, max_bytes, metrics: metrics.clone() };
        (proposals, Self { raft, queue, next: None, max_bytes, clock, status, silence, metrics })
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut in_flight = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                proposals = self.gather(), if in_flight.len() < MAX_ENTRIES_IN_FLIGHT => match proposals {
                    Some(proposals) => in_flight.push(self.commit(proposals)),
                    None => break,
                }
            }
        }
        self.queue.close();
        for refused in self.next.take().into_iter().chain(std::iter::from_fn(|| self.queue.try_recv().ok())) {
            _ = refused.reply.send(Err(ProposeError::Stopped));
        }
    }

    /// The proposals of the next entry. Cancel-safe: it awaits only the first one.
    async fn gather(&mut self) -> Option<Vec<Proposal<S>>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => self.queue.recv().await?,
        };
        let (mut commands, mut bytes) = (first.commands.len(), first.bytes);
        let mut together = vec![first];
        while let Ok(proposal) = self.queue.try_recv() {
            commands += proposal.commands.len();
            bytes += proposal.bytes;
            if commands > MAX_BATCH_COMMANDS || bytes > self.max_bytes {
                self.next = Some(proposal);
                break;
            }
            together.push(proposal);
        }
        Some(together)
    }

    /// Proposes one entry and tells each caller what became of its commands.
    fn commit(&self, proposals: Vec<Proposal<S>>) -> impl Future<Output = ()> + use<S> {
        let (raft, status, silence) = (self.raft.clone(), self.status.clone(), self.silence);
        let metrics = self.metrics.clone();
        let at = self.clock.wall();
        async move {
            let mut commands = Vec::new();
            let mut callers = Vec::new();
            for proposal in proposals {
                callers.push((proposal.commands.len(), proposal.reply));
                commands.extend(proposal.commands);
            }
            _ = timeout(silence, confirmed(status.clone())).await;
            let (count, began) = (commands.len(), Instant::now());
            let write = raft.client_write(Batch { at, commands });
            let written = tokio::select! {
                biased;
                written = timeout(COMMIT_DEADLINE, write) => written.ok(),
                () = quorum_lost(status, silence) => None,
            };
            let mut answers = match written {
                Some(Ok(response)) => {
                    metrics.committed(count, began.elapsed());
                    response.data.into_iter()
                }
                failed => {
                    let error = failed.and_then(Result::err).map_or(ProposeError::Unknown, |error| refusal(&error));
                    for (_, caller) in callers {
                        _ = caller.send(Err(error.clone()));
                    }
                    return;
                }
            };
            for (count, caller) in callers {
                _ = caller.send(Ok(answers.by_ref().take(count).collect()));
            }
        }
    }
}

/// Waits while this node leads and was never yet acknowledged by a quorum: openraft would refuse
/// what is proposed between a leader's election and its first exchange.
async fn confirmed(mut status: watch::Receiver<RaftStatus>) {
    let fresh = |status: &RaftStatus| {
        status.role == RaftRole::Leader && status.voters.len() > 1 && status.quorum_acknowledged.is_none()
    };
    _ = status.wait_for(|status| !fresh(status)).await;
}

fn refusal<S: Replicated>(error: &RaftError<Types<S>, ClientWriteError<Types<S>>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ProposeError::NotLeader { leader: forward.leader_id }
        }
        // Everything else may come after the entry was written.
        _ => ProposeError::Unknown,
    }
}

/// Waits until no message sent later than `silence` ago was acknowledged by a quorum. Openraft
/// itself keeps entries pending for as long as their leader is not deposed.
pub(crate) async fn quorum_lost(status: watch::Receiver<RaftStatus>, silence: Duration) {
    let mut heard = Instant::now();
    loop {
        let until = heard + silence;
        sleep_until(until).await;
        {
            let status = status.borrow();
            if status.role == RaftRole::Leader && status.voters.len() == 1 {
                break;
            }
            if let Some(acknowledged) = status.quorum_acknowledged {
                heard = heard.max(acknowledged);
            }
        }
        if heard + silence <= Instant::now() {
            return;
        }
    }
    // Alone, it is its own quorum.
    future::pending().await
}
