//! What a service holds while a peer's question is open with it.

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::ids::RequestId;

/// A peer's question. The service answers, defers, or drops the slot to refuse.
#[derive(Debug)]
pub struct Asked {
    /// Who asks ([`RequestId::node`], authenticated), and which question it is.
    pub id: RequestId,
    /// The question.
    pub body: Bytes,
    /// Where the answer goes.
    pub answer: AnswerSlot,
}

/// Where the answer to one question goes. Dropped, the question is refused.
#[derive(Debug)]
pub struct AnswerSlot {
    outcome: oneshot::Sender<Outcome>,
    cancelled: CancellationToken,
}

impl AnswerSlot {
    /// Answers. If it is soon enough, the answer travels back in the same exchange.
    pub fn answer(self, body: Bytes) {
        // Err says that the question was cancelled.
        let _ = self.outcome.send(Outcome::Now(body));
    }

    /// Says that the answer will take its time.
    pub fn defer(self) -> Deferred {
        let (answer, later) = oneshot::channel();
        let _ = self.outcome.send(Outcome::Later(later));
        Deferred { answer, cancelled: self.cancelled }
    }

    /// Resolves when the asker no longer waits.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}

/// An answer that is owed. Dropped, the question is given up: the asker hears "refused".
#[derive(Debug)]
pub struct Deferred {
    answer: oneshot::Sender<Bytes>,
    cancelled: CancellationToken,
}

impl Deferred {
    /// Whether the asker waits no longer.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Gives the answer.
    pub fn complete(self, body: Bytes) {
        // Err says that the question was cancelled.
        let _ = self.answer.send(body);
    }

    /// Resolves when the asker no longer waits.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}

impl Asked {
    /// A question for the service, and where its first word is heard.
    pub(super) fn new(id: RequestId, body: Bytes, cancelled: CancellationToken) -> (Self, oneshot::Receiver<Outcome>) {
        let (outcome, first) = oneshot::channel();
        (Self { id, body, answer: AnswerSlot { outcome, cancelled } }, first)
    }
}

/// The first word of a service to a question.
#[derive(Debug)]
pub(super) enum Outcome {
    Now(Bytes),
    Later(oneshot::Receiver<Bytes>),
}
