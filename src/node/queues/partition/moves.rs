//! Sends messages to other queues: dead letters, and those that are redriven.
//!
//! The queue machine tells what is to be moved and keeps it until it is told that it has arrived; what is lost on the
//! way is told again. The queue at the other end knows a message by its origin, so that none arrives twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{Done, PartitionTask, batches::Then};
use crate::{
    error::ErrorCode,
    ids::QueueName,
    machine::{
        queue::{Move, NewMessage, Op},
        replication::Durability,
    },
    node::queues::service::Queues as Service,
};

/// The pause before what did not arrive is sent again.
const PAUSE: Duration = Duration::from_secs(1);
/// Most bytes of messages that travel together.
const TOGETHER_BYTES: usize = 4 * 1024 * 1024;

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// By offset, until it is known here that it has arrived.
    under_way: BTreeSet<u64>,
    retry_at: Option<Instant>,
}

impl Moves {
    /// The log says that these have arrived.
    pub(super) fn settled(&mut self, offsets: &[u64]) {
        for offset in offsets {
            self.under_way.remove(offset);
        }
    }

    /// The log does not: they are moved again, which does no harm.
    pub(super) fn not_settled(&mut self, offsets: &[u64]) {
        self.settled(offsets);
        self.retry_at = Some(Instant::now() + PAUSE);
    }

    /// Somebody else sends them.
    pub(super) fn stop(&mut self) {
        *self = Self::default();
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }
}

impl PartitionTask {
    /// Sends what is not on its way yet.
    pub(super) fn begin_moves(&mut self, moves: Vec<Move>) {
        let mut by_queue = BTreeMap::<QueueName, Vec<(u64, NewMessage)>>::new();
        for Move { offset, to, message } in moves {
            if self.moves.under_way.insert(offset) {
                by_queue.entry(to).or_default().push((offset, message));
            }
        }
        for (to, messages) in by_queue {
            let service = self.shared.service.clone();
            let offsets = messages.iter().map(|(offset, _)| *offset).collect();
            self.begin(async move { Done::Moved { offsets, arrived: send_all(&service, &to, messages).await } });
        }
    }

    /// Some have arrived, others may have.
    pub(super) fn moved(&mut self, offsets: &[u64], arrived: Vec<u64>) {
        if !self.serving {
            return;
        }
        if arrived.len() < offsets.len() {
            let missing: Vec<u64> = offsets.iter().filter(|offset| !arrived.contains(offset)).copied().collect();
            self.moves.not_settled(&missing);
        }
        if !arrived.is_empty() {
            let op = Op::Moved { offsets: arrived.clone() };
            self.batches.push(Durability::Synced, Some(op), Then::Moved(arrived));
        }
    }

    pub(super) fn retry_moves(&mut self) {
        if self.serving && self.moves.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.moves.retry_at = None;
            self.begin_moves(self.queues.outbox());
        }
    }
}

/// Publishes messages as they are; which have arrived.
async fn send_all(service: &Service, to: &QueueName, messages: Vec<(u64, NewMessage)>) -> Vec<u64> {
    let mut arrived = Vec::new();
    for part in parts(messages) {
        let (offsets, messages): (Vec<u64>, Vec<NewMessage>) = part.into_iter().unzip();
        match service.publish_as_they_are(to, messages.clone()).await {
            Ok(_) => arrived.extend(offsets),
            // There may be room for some of them.
            Err(error) if error.code == ErrorCode::QueueFull && messages.len() > 1 => {
                for (offset, message) in offsets.into_iter().zip(messages) {
                    if service.publish_as_they_are(to, vec![message]).await.is_err() {
                        return arrived;
                    }
                    arrived.push(offset);
                }
            }
            Err(error) => {
                tracing::debug!(queue = %to, %error, "messages could not be moved yet");
                return arrived;
            }
        }
    }
    arrived
}

fn parts(messages: Vec<(u64, NewMessage)>) -> Vec<Vec<(u64, NewMessage)>> {
    let mut parts: Vec<Vec<(u64, NewMessage)>> = Vec::new();
    let mut bytes = 0;
    for (offset, message) in messages {
        let size = message.body.len();
        match parts.last_mut().filter(|_| bytes + size <= TOGETHER_BYTES) {
            Some(part) => part.push((offset, message)),
            None => {
                parts.push(vec![(offset, message)]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    parts
}
