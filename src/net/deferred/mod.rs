//! Questions whose answers take their time: no exchange of the mesh waits for anything.
//!
//! Owns the repetition, batching, cancelling and remembering that make a question with a late answer
//! out of short exchanges. What cannot be answered at once is answered "deferred" and completed by a
//! message of the answerer's own, which takes slots that new questions cannot take; the asker repeats
//! an open question by its id, so that a lost completion costs one interval and not an answer. A peer
//! that does not know what is repeated says so and does not begin anew: who restarted cannot say that the
//! question had no effect.
//! Used by the services that forward operations; knows the [`Mesh`] and nothing of libp2p, so that it
//! runs in simulation too. It never interprets a question: services must be idempotent by
//! [`RequestId`], because a question may reach them again after this node forgot its answer.
//!
//! Every node has one [`Exchange`] per protocol, which both asks and answers:
//!
//! ```text
//! ask ──► asking ──► outgoing (batches per peer and lane) ──► Mesh::call ──► on_call ──► serving ──► Asked
//!  ▲                                                                                                  │
//!  └── Now, or Deferred and later Complete ◄──────────────────────────────────── AnswerSlot ◄─────────┘
//! ```

mod asking;
mod outgoing;
mod serving;
mod slot;
mod task;
#[cfg(test)]
mod tests;
mod wire;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::{
    slot::{AnswerSlot, Asked, Deferred},
    task::ExchangeTask,
};
use super::{CallError, Inbound, Lane, Mesh, Protocol};
use crate::{
    ids::{NodeId, RequestId},
    telemetry::Bounds,
};

/// A deferred question is repeated after so long, give or take a quarter.
pub const REASK: Duration = Duration::from_secs(1);
/// Questions that may be open at once.
const MAX_OPEN: usize = 65_536;
/// Commands, calls and questions in the channels of one exchange.
const CHANNEL: usize = 4096;

/// Most bytes of an answer under a protocol: it may have to travel in a message of the answerer's own.
pub const fn most_answer(protocol: Protocol) -> usize {
    wire::most_body(protocol.limits().request_bytes)
}

/// Why a question has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// The only message with the question failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The question was taken up, or may have been, and the last repetition of it failed: the peer may
    /// have acted on it.
    #[error("the question was taken up and its answer is lost: {0}")]
    Lost(CallError),
    /// The peer gave the question up, does not answer such questions, or is another process than the one
    /// that took it up: nothing is open there, and it may have been acted upon.
    #[error("the peer does not take the question, or no longer knows it")]
    Refused,
    /// The peer has too many questions open; this one was not taken up.
    #[error("the peer has too many questions open")]
    Overloaded,
    /// This node has too many questions open; this one was not sent.
    #[error("this node has more than {MAX_OPEN} questions open")]
    TooManyOpen,
    /// A question of that id is open already.
    #[error("a question of that id is open already")]
    AlreadyOpen,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// What the task is told.
#[derive(Debug)]
enum Command {
    Ask(Question),
    Repeat { peer: NodeId },
}

/// A question on its way to the task.
#[derive(Debug)]
struct Question {
    peer: NodeId,
    id: RequestId,
    lane: Lane,
    body: Bytes,
    answer: oneshot::Sender<Result<Bytes, AskError>>,
    /// Cancelled when nobody waits any more.
    abandoned: CancellationToken,
}

/// The handle to one protocol's questions. Cheap to clone; the task ends when all are dropped.
#[derive(Clone, Debug)]
pub struct Exchange {
    protocol: Protocol,
    commands: mpsc::Sender<Command>,
    calls: mpsc::Sender<Inbound>,
    bounds: Bounds,
}

impl Exchange {
    /// Makes the exchange of one protocol: the handle, the questions of peers, and the task, which
    /// the caller runs. `bounds` counts its bounds that are hit.
    pub fn new(mesh: Arc<dyn Mesh>, protocol: Protocol, bounds: Bounds) -> (Self, mpsc::Receiver<Asked>, ExchangeTask) {
        let (commands, commands_in) = mpsc::channel(CHANNEL);
        let (calls, calls_in) = mpsc::channel(CHANNEL);
        let (asked, asked_out) = mpsc::channel(CHANNEL);
        let task = ExchangeTask::new(mesh, protocol, commands_in, calls_in, asked, bounds.clone());
        (Self { protocol, commands, calls, bounds }, asked_out, task)
    }

    /// Asks `peer` and awaits the final answer, however long it takes: bound it by a timeout of your
    /// own. Dropped before, the question is cancelled at the peer. `lane` says whether the question
    /// may wait behind others ([`Lane::Ask`]) or ends somebody's wait.
    ///
    /// # Errors
    /// See [`AskError`]. After an error the same id may be asked again, of the same peer or another.
    pub async fn ask(&self, peer: NodeId, id: RequestId, lane: Lane, body: Bytes) -> Result<Bytes, AskError> {
        let limit = wire::most_body(self.protocol.limits().request_bytes);
        if body.len() > limit {
            return Err(CallError::TooLarge { size: body.len(), limit }.into());
        }
        let (answer, answered) = oneshot::channel();
        let abandoned = CancellationToken::new();
        let _cancel: DropGuard = abandoned.clone().drop_guard();
        let question = Question { peer, id, lane, body, answer, abandoned };
        self.commands.send(Command::Ask(question)).await.map_err(|_| AskError::Stopped)?;
        answered.await.unwrap_or(Err(AskError::Stopped))
    }

    /// Repeats all open questions of `peer` at once: its connection was lost, or is back.
    pub async fn repeat(&self, peer: NodeId) {
        self.command(Command::Repeat { peer }).await;
    }

    /// Takes a call of this protocol from the mesh. Where the task does not keep up, it is refused.
    pub fn on_call(&self, call: Inbound) {
        debug_assert_eq!(call.protocol, self.protocol, "calls are dispatched by protocol");
        if self.calls.try_send(call).is_err() {
            self.bounds.hit("exchange.calls");
            tracing::debug!(protocol = self.protocol.label(), "a call was refused: too many wait");
        }
    }

    async fn command(&self, command: Command) {
        // Err says that the task has ended, and all questions with it.
        let _ = self.commands.send(command).await;
    }
}

/// The questions in what one peer sends to another: for tests that count them.
#[cfg(test)]
pub(crate) fn questions(request: &[u8]) -> Vec<Bytes> {
    let question = |message| match message {
        wire::Message::Ask(_, body) => Some(body),
        _ => None,
    };
    wire::decode(request).unwrap_or_default().into_iter().filter_map(question).collect()
}
