//! The queue service as applications see it, on any node.
//!
//! Checks what is asked, gives ids, and has the operation brought to the primary of the queue's partition,
//! wherever that is. Called by the HTTP API and by applications that embed a node. Keeps nothing itself.

use tokio::sync::mpsc;

use super::types::{
    AcceptLoss, Consume, Message, Publish, PublishedMessage, QueueSettings, QueueView, ReceiptsOutcome, Receive,
};
use crate::{
    error::{Error, Outcome},
    ids::{PartitionId, QueueName},
    machine::queue::QueueConfig,
    node::locks::{Page, PageRequest},
};

/// The queue service. Cheap to clone.
///
/// Each operation fails with `unavailable` where the primary of the queue's partition does not answer in time;
/// `details.outcome` says whether it may have had an effect. With `unavailable` and `not-applied`, nobody serves
/// the partition now.
#[derive(Clone, Debug)]
pub struct Queues {}

impl Queues {
    /// Replaces the whole configuration of a queue, which is made where there is none. What the settings leave
    /// out has its default.
    ///
    /// # Errors
    /// `bad-request`, `queue-full` (the partition has as many queues as it can), `durability-unavailable`,
    /// `unavailable`.
    pub async fn configure(&self, queue: QueueName, settings: QueueSettings) -> Result<QueueConfig, Error> {
        let _ = (queue, settings);
        Err(not_yet())
    }

    /// Takes messages, all or none, and answers once they are in the synced journal of every in-sync copy.
    /// Makes the queue where there is none. In the order of the messages.
    ///
    /// # Errors
    /// `bad-request`; `payload-too-large` (`limit`: `MAX_VALUE_BYTES` of one, `MAX_BATCH_BYTES` of all);
    /// `queue-full`; `durability-unavailable`: nothing was taken; `unavailable`: with `outcome`, and where that
    /// is `unknown` and there is one message, its `id`, under which it can safely be published again.
    pub async fn publish(&self, queue: QueueName, messages: Vec<Publish>) -> Result<Vec<PublishedMessage>, Error> {
        let _ = (queue, messages);
        Err(not_yet())
    }

    /// Leases messages, the greatest priority first, waiting for the first one for `wait_ms` at the most. Empty
    /// where there was none. Dropping the future gives back what nobody got.
    ///
    /// # Errors
    /// `bad-request`, `not-found`, `unavailable`.
    pub async fn receive(&self, queue: QueueName, receive: Receive) -> Result<Vec<Message>, Error> {
        let _ = (queue, receive);
        Err(not_yet())
    }

    /// Consumes deliveries for good. An ack that is repeated is done again.
    ///
    /// # Errors
    /// `bad-request` (1 to 1,000 receipts), `durability-unavailable`, `unavailable`. What is malformed, expired or
    /// unknown is in `failed`, also where there is no such queue.
    pub async fn ack(&self, queue: QueueName, receipts: Vec<String>) -> Result<ReceiptsOutcome, Error> {
        let _ = (queue, receipts);
        Err(not_yet())
    }

    /// Gives deliveries back: they are delivered again after `delay_ms` (0 to 604,800,000), or after a back-off
    /// that grows with their deliveries.
    ///
    /// # Errors
    /// As [`Queues::ack`].
    pub async fn nack(
        &self,
        queue: QueueName,
        receipts: Vec<String>,
        delay_ms: Option<u64>,
    ) -> Result<ReceiptsOutcome, Error> {
        let _ = (queue, receipts, delay_ms);
        Err(not_yet())
    }

    /// Starts the visibility of deliveries anew, for `visibility_ms` (0 to 43,200,000) or as configured.
    ///
    /// # Errors
    /// As [`Queues::ack`].
    pub async fn extend(
        &self,
        queue: QueueName,
        receipts: Vec<String>,
        visibility_ms: Option<u64>,
    ) -> Result<ReceiptsOutcome, Error> {
        let _ = (queue, receipts, visibility_ms);
        Err(not_yet())
    }

    /// Gives back deliveries that nobody got, at once and uncounted, as if they had not been made: for those that
    /// could not be handed over.
    ///
    /// # Errors
    /// `unavailable`: they come back when their visibility is over.
    pub async fn give_back(&self, queue: QueueName, receipts: Vec<String>) -> Result<(), Error> {
        let _ = (queue, receipts);
        Err(not_yet())
    }

    /// The figures of a queue, and where it is.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub async fn stats(&self, queue: QueueName) -> Result<QueueView, Error> {
        let _ = queue;
        Err(not_yet())
    }

    /// The queues of the cluster in the order of their names.
    ///
    /// # Errors
    /// `bad-request`; `unavailable` where a partition is not served now.
    pub async fn list(&self, page: PageRequest) -> Result<Page<QueueView>, Error> {
        let _ = page;
        Err(not_yet())
    }

    /// The messages that would be delivered next, at most `max` (1 to 1,000), without leasing them.
    ///
    /// # Errors
    /// `bad-request`, `not-found`, `unavailable`.
    pub async fn peek(&self, queue: QueueName, max: u32) -> Result<Vec<Message>, Error> {
        let _ = (queue, max);
        Err(not_yet())
    }

    /// Drops all messages of a queue, delayed and delivered ones too. How many.
    ///
    /// # Errors
    /// `not-found`, `durability-unavailable`, `unavailable`.
    pub async fn purge(&self, queue: QueueName) -> Result<u64, Error> {
        let _ = queue;
        Err(not_yet())
    }

    /// Drops a queue with all its messages and its configuration.
    ///
    /// # Errors
    /// `not-found`, `durability-unavailable`, `unavailable`.
    pub async fn delete(&self, queue: QueueName) -> Result<(), Error> {
        let _ = queue;
        Err(not_yet())
    }

    /// Sends the dead letters of a queue back to it. How many; they arrive one after the other.
    ///
    /// # Errors
    /// `not-found`, `durability-unavailable`, `unavailable`.
    pub async fn redrive(&self, queue: QueueName) -> Result<u64, Error> {
        let _ = queue;
        Err(not_yet())
    }

    /// An operator's last resort for a partition that waits for a journal that is not coming back: whoever has
    /// most of it serves it, and what is missing is lost.
    ///
    /// # Errors
    /// `not-found`: no such partition; `conflict`: it is served, or no journal of it was reported; `no-quorum`,
    /// `unavailable`.
    pub async fn recover(&self, partition: PartitionId, loss: AcceptLoss) -> Result<(), Error> {
        let _ = (partition, loss);
        Err(not_yet())
    }

    /// Messages as they come, with at most `prefetch` out at a time: acknowledged (at whichever node), given back
    /// or over, a delivery makes room for the next. Drop the receiver to stop: what is out stays so until its
    /// visibility is over. An error is the last item: the queue was deleted (`not-found`) or the node stops.
    /// Interruptions of the service are waited out.
    ///
    /// # Errors
    /// `bad-request`, `not-found`, `unavailable`.
    pub async fn consume(
        &self,
        queue: QueueName,
        consume: Consume,
    ) -> Result<mpsc::Receiver<Result<Message, Error>>, Error> {
        let _ = (queue, consume);
        Err(not_yet())
    }
}

fn not_yet() -> Error {
    Error::unavailable(Outcome::NotApplied, "this node serves no queues yet")
}
