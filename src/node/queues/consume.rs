//! A consumer: receives what there is room for, and learns from the primary what made room.
//!
//! One task a consumer. Deliveries are acknowledged at whichever node, so only the primary knows which are over:
//! when as many are out as may be, it is asked to say when one is not.

use std::{collections::BTreeSet, time::Duration};

use tokio::sync::mpsc;

use super::{
    service::Queues,
    types::{Consume, Message, Receive},
    wire::{PartitionAsk, QueueReply},
};
use crate::{
    error::{Error, ErrorCode},
    ids::{PartitionId, QueueName},
    machine::queue::Receipt,
};

/// How long one question waits at the primary.
const WAIT: Duration = Duration::from_secs(20);
/// The pause after one that failed.
const PAUSE: Duration = Duration::from_millis(250);
/// Deliveries that wait for whoever consumes them, beside those that it has.
const BUFFER: usize = 1;

type Items = mpsc::Sender<Result<Message, Error>>;

/// Starts to consume. The first question is answered here, so that a queue that is not there is told of at once.
pub(super) async fn start(
    queues: Queues,
    partition: PartitionId,
    queue: QueueName,
    consume: Consume,
) -> Result<mpsc::Receiver<Result<Message, Error>>, Error> {
    let mut consumer = Consumer { queues, partition, queue, consume, out: BTreeSet::new() };
    let first = consumer.receive(Duration::ZERO).await?;
    let (items, receiver) = mpsc::channel(BUFFER);
    tokio::spawn(async move { consumer.run(first, items).await });
    Ok(receiver)
}

struct Consumer {
    queues: Queues,
    partition: PartitionId,
    queue: QueueName,
    consume: Consume,
    /// What was delivered and is not known to be over.
    out: BTreeSet<Receipt>,
}

impl Consumer {
    async fn run(mut self, first: Vec<Message>, items: Items) {
        let mut messages = first;
        loop {
            if !self.hand_over(messages, &items).await {
                return;
            }
            let next = tokio::select! {
                () = items.closed() => return,
                next = self.next() => next,
            };
            messages = match next {
                Ok(messages) => messages,
                Err(error) if error.code == ErrorCode::NotFound => {
                    // Nobody has to listen any more.
                    let _ = items.send(Err(error)).await;
                    return;
                }
                Err(error) => {
                    tracing::debug!(queue = %self.queue, %error, "a consumer waits for its queue to be served");
                    tokio::time::sleep(PAUSE).await;
                    Vec::new()
                }
            };
        }
    }

    async fn next(&mut self) -> Result<Vec<Message>, Error> {
        if self.room() == 0 {
            self.await_room().await?;
            return Ok(Vec::new());
        }
        self.receive(WAIT).await
    }

    fn room(&self) -> u32 {
        self.consume.prefetch.saturating_sub(u32::try_from(self.out.len()).unwrap_or(u32::MAX))
    }

    async fn receive(&mut self, wait: Duration) -> Result<Vec<Message>, Error> {
        let receive =
            Receive { max: self.room(), wait_ms: crate::time::millis(wait), visibility_ms: self.consume.visibility_ms };
        let messages = self.queues.receive(self.queue.clone(), receive).await?;
        self.out.extend(messages.iter().filter_map(|message| message.receipt.parse::<Receipt>().ok()));
        Ok(messages)
    }

    async fn await_room(&mut self) -> Result<(), Error> {
        let receipts = self.out.iter().copied().collect();
        let wait_ms = crate::time::millis(WAIT);
        let ask = PartitionAsk::Await { queue: self.queue.clone(), receipts, wait_ms };
        match self.queues.router.ask(self.partition, ask).await? {
            QueueReply::Over(over) => over.iter().for_each(|receipt| _ = self.out.remove(receipt)),
            reply => return Err(Error::internal(format!("the primary gave an answer to something else: {reply:?}"))),
        }
        Ok(())
    }

    /// Whether somebody still listens. What nobody took comes back at once.
    async fn hand_over(&mut self, messages: Vec<Message>, items: &Items) -> bool {
        let mut messages = messages.into_iter();
        while let Some(message) = messages.next() {
            if let Err(mpsc::error::SendError(unsent)) = items.send(Ok(message)).await {
                let unsent = unsent.ok().into_iter().chain(messages).map(|message| message.receipt).collect();
                // If nobody serves the queue now, they come back when their visibility is over.
                let _ = self.queues.give_back(self.queue.clone(), unsent).await;
                return false;
            }
        }
        true
    }
}
