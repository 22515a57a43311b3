//! The queue service as applications see it, on any node.
//!
//! Checks what is asked, gives ids, and has the operation brought to the primary of the queue's partition,
//! wherever that is. Called by the HTTP API and by applications that embed a node. Keeps nothing itself.

use std::sync::Arc;

use tokio::{sync::mpsc, time::Instant};

use super::{
    consume,
    limits::{self, Sizes},
    listing::{self, Listed},
    recover,
    router::Router,
    types::{
        AcceptLoss, Consume, Message, Publish, PublishedMessage, QueuePage, QueueSettings, QueueView, ReceiptsOutcome,
        Receive,
    },
    wire::{PartitionAsk, QueueReply, Range},
};
use crate::{
    clock::Clock,
    error::{Error, ErrorCode},
    ids::{MessageId, PartitionId, QueueName, Tick},
    machine::queue::{Delivery, NewMessage, Op, OpAnswer, Published, QueueConfig, QueueRefusal, Receipt},
    node::{
        gateway::Gateway,
        limits::{check_page, check_range},
        locks::PageRequest,
    },
    telemetry::QueueMetrics,
    time::rfc3339,
};

/// Deliveries that come so much later than they were to be waited for may be of before a pause of this process.
const LATE_MS: u64 = 1_000;

/// The queue service. Cheap to clone.
///
/// Each operation fails with `unavailable` where the primary of the queue's partition does not answer in time;
/// `details.outcome` says whether it may have had an effect. With `unavailable` and `not-applied`, nobody serves
/// the partition now.
#[derive(Clone, Debug)]
pub struct Queues {
    pub(in crate::node) router: Router,
    gateway: Gateway,
    clock: Arc<dyn Clock>,
    sizes: Sizes,
    /// `MESSAGE_RETENTION_PERIOD`, in seconds.
    retention_s: u64,
    metrics: QueueMetrics,
}

impl Queues {
    /// Replaces the whole configuration of a queue, which is made where there is none. What the settings leave
    /// out has its default.
    ///
    /// # Errors
    /// `bad-request`, `queue-full` (the partition has as many queues as it can), `durability-unavailable`,
    /// `unavailable`.
    pub async fn configure(&self, queue: QueueName, settings: QueueSettings) -> Result<QueueConfig, Error> {
        let config = limits::checked_config(&queue, settings, self.retention_s)?;
        match self.operate(&queue, Op::Configure { queue: queue.clone(), config }).await? {
            OpAnswer::Configured(config) => Ok(config),
            answer => Err(unexpected(&queue, answer)),
        }
    }

    /// Takes messages, all or none, and answers once they are in the synced journal of every in-sync copy.
    /// Makes the queue where there is none. In the order of the messages.
    ///
    /// # Errors
    /// `bad-request`; `payload-too-large` (`limit`: `MAX_VALUE_BYTES` of one, `MAX_BATCH_BYTES` of all);
    /// `queue-full`; `durability-unavailable`: nothing was taken; `unavailable`: with `outcome`, and where there
    /// is one message, its `id`, under which it can safely be published again.
    pub async fn publish(&self, queue: QueueName, messages: Vec<Publish>) -> Result<Vec<PublishedMessage>, Error> {
        limits::check_publish(&messages, self.sizes)?;
        let began = Instant::now();
        let messages: Vec<NewMessage> = messages.into_iter().map(new_message).collect();
        let only = (messages.len() == 1).then(|| messages[0].id.clone());
        let outcome = self.publish_as_they_are(&queue, messages).await.map_err(|mut error| {
            if error.code == ErrorCode::Unavailable {
                error.details.id = only;
            }
            error
        });
        self.metrics.publish(began.elapsed());
        outcome
    }

    /// Leases messages, the greatest priority first, waiting for the first one for `wait_ms` at the most. Empty
    /// where there was none. Dropping the future gives back what nobody got.
    ///
    /// # Errors
    /// `bad-request`, `not-found`, `unavailable`.
    pub async fn receive(&self, queue: QueueName, receive: Receive) -> Result<Vec<Message>, Error> {
        limits::check_receive(&receive)?;
        let partition = self.router.partition_of(&queue).await?;
        let _timed = self.metrics.operation("receive");
        let attempt = Attempt::begin(&self.router, partition, &queue);
        let Receive { max, wait_ms, visibility_ms } = receive;
        let asked = self.clock.now();
        let ask = PartitionAsk::Receive { queue: queue.clone(), max, visibility_ms, wait_ms, attempt: attempt.number };
        let reply = self.router.ask(partition, ask).await;
        if let Ok(QueueReply::Delivered(deliveries)) = &reply
            && let late_ms = self.clock.now().ms_since(asked).saturating_sub(wait_ms)
            && is_over(deliveries.iter().map(|delivery| delivery.visible_at), visibility_ms, late_ms, self.clock.wall())
        {
            // What is not over after all is given back.
            return Ok(Vec::new());
        }
        if !reply.as_ref().is_err_and(|error| error.code == ErrorCode::Unavailable) {
            // It arrived, or there was nothing.
            attempt.settled();
        }
        match reply? {
            QueueReply::Delivered(deliveries) => Ok(deliveries.into_iter().map(message).collect()),
            reply => Err(mistaken(&reply)),
        }
    }

    /// Consumes deliveries for good. An ack that is repeated is done again.
    ///
    /// # Errors
    /// `bad-request` (1 to 1,000 receipts), `durability-unavailable`, `unavailable`. What is malformed, expired or
    /// unknown is in `failed`, also where there is no such queue.
    pub async fn ack(&self, queue: QueueName, receipts: Vec<String>) -> Result<ReceiptsOutcome, Error> {
        self.settle("ack", &queue, receipts, |queue, receipts| Op::Ack { queue, receipts }).await
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
        limits::check_delay(delay_ms)?;
        self.settle("nack", &queue, receipts, |queue, receipts| Op::Nack { queue, receipts, delay_ms }).await
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
        limits::check_visibility(visibility_ms)?;
        self.settle("extend", &queue, receipts, |queue, receipts| Op::Extend { queue, receipts, visibility_ms }).await
    }

    /// Gives back deliveries that nobody got, at once and uncounted, as if they had not been made: for those that
    /// could not be handed over.
    ///
    /// # Errors
    /// `unavailable`: they come back when their visibility is over.
    pub async fn give_back(&self, queue: QueueName, receipts: Vec<String>) -> Result<(), Error> {
        let receipts: Vec<Receipt> = receipts.iter().filter_map(|text| text.parse().ok()).collect();
        if !receipts.is_empty() {
            self.operate(&queue, Op::GiveBack { queue: queue.clone(), receipts }).await?;
        }
        Ok(())
    }

    /// The figures of a queue, and where it is.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub async fn stats(&self, queue: QueueName) -> Result<QueueView, Error> {
        let partition = self.router.partition_of(&queue).await?;
        match self.router.ask(partition, PartitionAsk::Stats(queue)).await? {
            QueueReply::Stats(view) => Ok(*view),
            reply => Err(mistaken(&reply)),
        }
    }

    /// The queues of the cluster in the order of their names, but for those of partitions that are not served now.
    ///
    /// # Errors
    /// `bad-request`; `unavailable` where no partition is served now.
    pub async fn list(&self, page: PageRequest) -> Result<QueuePage, Error> {
        check_page(&page)?;
        let after = match page.after {
            Some(after) => Some(QueueName::new(after).map_err(|error| Error::bad_request("after", error.to_string()))?),
            None => None,
        };
        let range = Range { prefix: page.prefix, after, limit: page.limit };
        let Listed { queues, more, unserved } = listing::list(&self.router, range).await?;
        let next = queues.last().filter(|_| more).map(|last| last.queue.to_string());
        Ok(QueuePage { items: queues, next, unserved })
    }

    /// The messages that would be delivered next, at most `max` (1 to 1,000), without leasing them.
    ///
    /// # Errors
    /// `bad-request`, `not-found`, `unavailable`.
    pub async fn peek(&self, queue: QueueName, max: u32) -> Result<Vec<Message>, Error> {
        check_range("max", u64::from(max), limits::ITEMS)?;
        let partition = self.router.partition_of(&queue).await?;
        match self.router.ask(partition, PartitionAsk::Peek { queue, max }).await? {
            QueueReply::Peeked(deliveries) => Ok(deliveries.into_iter().map(message).collect()),
            reply => Err(mistaken(&reply)),
        }
    }

    /// Drops all messages of a queue, delayed and delivered ones too. How many.
    ///
    /// # Errors
    /// `not-found`, `durability-unavailable`, `unavailable`.
    pub async fn purge(&self, queue: QueueName) -> Result<u64, Error> {
        match self.operate(&queue, Op::Purge { queue: queue.clone() }).await? {
            OpAnswer::Purged(messages) => Ok(messages),
            answer => Err(unexpected(&queue, answer)),
        }
    }

    /// Drops a queue with all its messages and its configuration.
    ///
    /// # Errors
    /// `not-found`, `durability-unavailable`, `unavailable`.
    pub async fn delete(&self, queue: QueueName) -> Result<(), Error> {
        match self.operate(&queue, Op::Delete { queue: queue.clone() }).await? {
            OpAnswer::Done => Ok(()),
            answer => Err(unexpected(&queue, answer)),
        }
    }

    /// Sends the dead letters of a queue back to it. How many; they arrive one after the other.
    ///
    /// # Errors
    /// `not-found`, `durability-unavailable`, `unavailable`.
    pub async fn redrive(&self, queue: QueueName) -> Result<u64, Error> {
        let Some(dead_letters) = self.stats(queue.clone()).await?.config.dead_letter else { return Ok(0) };
        match self.operate(&dead_letters, Op::Redrive { queue: dead_letters.clone(), to: queue.clone() }).await {
            Ok(OpAnswer::Redriven(messages)) => Ok(messages),
            // Nothing has died yet.
            Ok(OpAnswer::Refused(QueueRefusal::NoSuchQueue)) => Ok(0),
            Ok(answer) => Err(unexpected(&dead_letters, answer)),
            Err(error) => Err(error),
        }
    }

    /// An operator's last resort for a partition that waits for a journal that is not coming back: whoever has
    /// most of it serves it, and what is missing is lost.
    ///
    /// # Errors
    /// `not-found`: no such partition; `conflict`: it is served, or no journal of it was reported; `no-quorum`,
    /// `unavailable`.
    pub async fn recover(&self, partition: PartitionId, loss: AcceptLoss) -> Result<(), Error> {
        let AcceptLoss = loss;
        recover::accept_loss(&self.router, &self.gateway, partition).await
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
        limits::check_consume(&consume)?;
        let partition = self.router.partition_of(&queue).await?;
        consume::start(self.clone(), partition, queue, consume).await
    }

    /// The service of a node.
    pub(crate) fn new(
        router: Router,
        gateway: Gateway,
        clock: Arc<dyn Clock>,
        sizes: Sizes,
        retention_s: u64,
        metrics: QueueMetrics,
    ) -> Self {
        Self { router, gateway, clock, sizes, retention_s, metrics }
    }

    /// Publishes messages that have their ids, or come from elsewhere.
    pub(super) async fn publish_as_they_are(
        &self,
        queue: &QueueName,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<PublishedMessage>, Error> {
        let partition = self.router.partition_of(queue).await?;
        let op = Op::Publish { queue: queue.clone(), messages };
        match self.router.ask(partition, PartitionAsk::Do(op)).await? {
            QueueReply::Done(OpAnswer::Published(published)) => {
                let place = |Published { id, offset, duplicate }| PublishedMessage {
                    id,
                    partition: partition.0,
                    offset,
                    duplicate,
                };
                Ok(published.into_iter().map(place).collect())
            }
            QueueReply::Done(answer) => Err(unexpected(queue, answer)),
            reply => Err(mistaken(&reply)),
        }
    }

    async fn operate(&self, queue: &QueueName, op: Op) -> Result<OpAnswer, Error> {
        let partition = self.router.partition_of(queue).await?;
        match self.router.ask(partition, PartitionAsk::Do(op)).await? {
            QueueReply::Done(answer) => Ok(answer),
            reply => Err(mistaken(&reply)),
        }
    }

    /// Has receipts settled. What is no receipt at all is not asked about.
    async fn settle(
        &self,
        name: &'static str,
        queue: &QueueName,
        receipts: Vec<String>,
        op: impl FnOnce(QueueName, Vec<Receipt>) -> Op,
    ) -> Result<ReceiptsOutcome, Error> {
        let _timed = self.metrics.operation(name);
        limits::check_items("receipts", receipts.len())?;
        let mut outcome = ReceiptsOutcome::default();
        let mut known = Vec::new();
        for text in receipts {
            match text.parse() {
                Ok(receipt) => known.push(receipt),
                Err(()) => outcome.failed.push(text),
            }
        }
        if known.is_empty() {
            return Ok(outcome);
        }
        match self.operate(queue, op(queue.clone(), known)).await? {
            OpAnswer::Receipts { done, expired } => {
                outcome.done = done.iter().map(ToString::to_string).collect();
                outcome.failed.extend(expired.iter().map(ToString::to_string));
                Ok(outcome)
            }
            answer => Err(unexpected(queue, answer)),
        }
    }
}

/// One receive: what was leased for it comes back unless it arrives.
#[derive(Debug)]
struct Attempt {
    router: Router,
    partition: PartitionId,
    queue: QueueName,
    number: u64,
    settled: bool,
}

impl Attempt {
    fn begin(router: &Router, partition: PartitionId, queue: &QueueName) -> Self {
        let (router, queue) = (router.clone(), queue.clone());
        Self { router, partition, queue, number: rand::random(), settled: false }
    }

    fn settled(mut self) {
        self.settled = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let ask = PartitionAsk::Abandon { queue: self.queue.clone(), attempt: self.number };
        let (router, partition) = (self.router.clone(), self.partition);
        // Outside a runtime nobody can say so: what was leased comes back when its visibility is over.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { router.tell(partition, ask).await });
        }
    }
}

fn new_message(publish: Publish) -> NewMessage {
    let made = || MessageId::new(format!("{:032x}", rand::random::<u128>())).expect("32 digits are a name");
    NewMessage {
        id: publish.id.unwrap_or_else(made),
        body: publish.body,
        content_type: publish.content_type,
        attributes: publish.attributes,
        delay_ms: publish.delay_ms,
        priority: publish.priority,
        origin: None,
    }
}

/// Whether deliveries that came so late may be over by now, so that somebody else has them: this process was paused, say.
/// By this node's own time, since the wall clock of the primary, which counts them, may differ. Only where nobody here
/// knows for how long they are, and they came later than any exchange takes, does it have to do.
fn is_over(ends: impl IntoIterator<Item = Tick>, visibility_ms: Option<u64>, late_ms: u64, wall: Tick) -> bool {
    match visibility_ms {
        Some(0) => false,
        Some(visibility) => late_ms >= visibility,
        None => late_ms >= LATE_MS && ends.into_iter().any(|end| end <= wall),
    }
}

fn message(delivery: Delivery) -> Message {
    Message {
        id: delivery.id,
        receipt: delivery.receipt.map(|receipt| receipt.to_string()).unwrap_or_default(),
        body: delivery.body,
        content_type: delivery.content_type,
        attributes: delivery.attributes,
        priority: delivery.priority,
        deliveries: delivery.deliveries,
        enqueued_at: rfc3339(delivery.enqueued_at),
    }
}

/// What the queues answered instead of what was asked.
fn unexpected(queue: &QueueName, answer: OpAnswer) -> Error {
    match answer {
        OpAnswer::Refused(QueueRefusal::NoSuchQueue) => no_such_queue(queue),
        OpAnswer::Refused(QueueRefusal::QueueFull) => Error::new(
            ErrorCode::QueueFull,
            format!(
                "the queue '{queue}' holds as much as its max_messages or max_bytes allow: consume some, or raise its limits"
            ),
        ),
        OpAnswer::Refused(QueueRefusal::PartitionFull) => Error::new(
            ErrorCode::QueueFull,
            format!(
                "the partition of the queue '{queue}' has as many queues, or messages on their way elsewhere, as it can: delete \
                 queues that are not used"
            ),
        ),
        answer => Error::internal(format!("the primary gave an answer to something else: {answer:?}")),
    }
}

pub(super) fn no_such_queue(queue: &QueueName) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no queue '{queue}': a first publish makes it"))
}

fn mistaken(reply: &QueueReply) -> Error {
    Error::internal(format!("the primary gave an answer to something else: {reply:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_may_be_over_and_another_clock_alone_does_not_say_so() {
        let behind = [Tick(5_000)];
        let over = |visibility_ms, late_ms| is_over(behind, visibility_ms, late_ms, Tick(60_000));
        assert!(!over(Some(30_000), 29_999) && over(Some(30_000), 30_000), "by the time that passed here");
        assert!(!over(Some(0), 1 << 20), "it was never to be invisible");
        assert!(!over(None, LATE_MS - 1), "the primary's clock is behind, and nothing was late");
        assert!(over(None, LATE_MS) && !is_over([Tick(60_001)], None, LATE_MS, Tick(60_000)));
    }
}
