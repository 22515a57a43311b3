//! One queue, for the application that the node is part of.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Consume, Message, Publish, PublishedMessage, QueueSettings, QueueView, Queues, Receive};
use crate::{
    error::{Error, ErrorCode},
    ids::QueueName,
    machine::queue::QueueConfig,
    time::millis,
};

/// One queue. Cheap to clone.
///
/// ```no_run
/// # async fn example(node: syncmesh::Node) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use syncmesh::{ids::QueueName, node::queues::Publish};
///
/// let jobs = node.queue(QueueName::new("jobs")?);
/// jobs.publish(Publish::new("resize 42.png")).await?;
/// for delivery in jobs.receive(10, Duration::from_secs(20)).await? {
///     println!("{:?}", delivery.message().body);
///     delivery.ack().await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    queues: Queues,
    name: QueueName,
}

impl Queue {
    pub(crate) fn new(queues: Queues, name: QueueName) -> Self {
        Self { queues, name }
    }

    /// Its name.
    pub fn name(&self) -> &QueueName {
        &self.name
    }

    /// Publishes one message.
    ///
    /// # Errors
    /// As [`Queues::publish`].
    pub async fn publish(&self, message: Publish) -> Result<PublishedMessage, Error> {
        let mut published = self.queues.publish(self.name.clone(), vec![message]).await?;
        published.pop().ok_or_else(|| Error::internal("a publish of one message was answered without one"))
    }

    /// Publishes several, all or none.
    ///
    /// # Errors
    /// As [`Queues::publish`].
    pub async fn publish_all(&self, messages: Vec<Publish>) -> Result<Vec<PublishedMessage>, Error> {
        self.queues.publish(self.name.clone(), messages).await
    }

    /// Receives at most `max` messages, waiting for the first one for `wait` at the most (up to a minute).
    ///
    /// # Errors
    /// As [`Queues::receive`].
    pub async fn receive(&self, max: u32, wait: Duration) -> Result<Vec<Delivery>, Error> {
        let receive = Receive { max, wait_ms: millis(wait), visibility_ms: None };
        let messages = self.queues.receive(self.name.clone(), receive).await?;
        Ok(messages.into_iter().map(|message| self.delivery(message)).collect())
    }

    /// Receives messages as they come, with at most `prefetch` out at a time.
    ///
    /// # Errors
    /// As [`Queues::consume`].
    pub async fn consume(&self, prefetch: u32) -> Result<Deliveries, Error> {
        let consume = Consume { prefetch, visibility_ms: None };
        let messages = self.queues.consume(self.name.clone(), consume).await?;
        Ok(Deliveries { queue: self.clone(), messages })
    }

    /// Replaces its whole configuration, and makes it where it is not there.
    ///
    /// # Errors
    /// As [`Queues::configure`].
    pub async fn configure(&self, settings: QueueSettings) -> Result<QueueConfig, Error> {
        self.queues.configure(self.name.clone(), settings).await
    }

    /// Its figures, and where it is.
    ///
    /// # Errors
    /// As [`Queues::stats`].
    pub async fn stats(&self) -> Result<QueueView, Error> {
        self.queues.stats(self.name.clone()).await
    }

    fn delivery(&self, message: Message) -> Delivery {
        Delivery { queue: self.clone(), message }
    }
}

/// Deliveries as they come. Drop it to stop.
#[derive(Debug)]
pub struct Deliveries {
    queue: Queue,
    messages: mpsc::Receiver<Result<Message, Error>>,
}

impl Deliveries {
    /// The next one; `None` after the error that ended it.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        let message = self.messages.recv().await?;
        Some(message.map(|message| self.queue.delivery(message)))
    }
}

/// A message that is ours to process until its visibility is over. Dropped, it is delivered again then.
#[derive(Debug)]
pub struct Delivery {
    queue: Queue,
    message: Message,
}

impl Delivery {
    /// What was delivered.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The message is processed: it is not delivered again.
    ///
    /// # Errors
    /// `receipt-expired`: its visibility was over, and somebody else may have it; `unavailable`.
    pub async fn ack(self) -> Result<(), Error> {
        let outcome = self.queue.queues.ack(self.queue.name.clone(), self.receipts()).await?;
        in_time(outcome.failed.is_empty())
    }

    /// The message could not be processed: it is delivered again after `delay`, or after a back-off.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn nack(self, delay: Option<Duration>) -> Result<(), Error> {
        let outcome = self.queue.queues.nack(self.queue.name.clone(), self.receipts(), delay.map(millis)).await?;
        in_time(outcome.failed.is_empty())
    }

    /// Starts its visibility anew, for so long or as configured.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub async fn extend(&self, visibility: Option<Duration>) -> Result<(), Error> {
        let visibility_ms = visibility.map(millis);
        let outcome = self.queue.queues.extend(self.queue.name.clone(), self.receipts(), visibility_ms).await?;
        in_time(outcome.failed.is_empty())
    }

    fn receipts(&self) -> Vec<String> {
        vec![self.message.receipt.clone()]
    }
}

fn in_time(all_done: bool) -> Result<(), Error> {
    if all_done {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::ReceiptExpired,
        "the delivery is over and the message may have been delivered to somebody else: ask for a longer visibility, \
         or extend it in time",
    ))
}
