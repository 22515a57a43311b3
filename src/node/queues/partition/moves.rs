//! Sends messages to other queues: dead letters, and those that are redriven.
//!
//! The queue machine tells what is to be moved and keeps it until it is told that it has arrived; what is lost on the
//! way is told again. The queue at the other end knows a message by its origin, so that none arrives twice.
//!
//! A timer or a lease may find that a message is a dead letter, in a record that is held in memory only. That must
//! be synced before the other queue hears of it: else it could be undone by the loss of all memories, and the message
//! were in both.

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
    /// By offset: what is not known to be synced yet.
    unsynced: BTreeSet<u64>,
    /// A record is under way that is synced after all of these.
    syncing: bool,
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

    /// All records before the one that these waited for are synced.
    fn synced(&mut self, offsets: &[u64]) {
        self.syncing = false;
        for offset in offsets {
            self.unsynced.remove(offset);
        }
    }

    /// That record was not taken.
    pub(super) fn not_synced(&mut self) {
        self.syncing = false;
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
    /// Sends these once the record that decided on them is synced everywhere, as all before it.
    pub(super) fn begin_moves_once_synced(&mut self, moves: Vec<Move>) {
        self.moves.unsynced.extend(moves.iter().map(|one| one.offset));
        self.sync_moves();
    }

    fn sync_moves(&mut self) {
        if self.moves.syncing || self.moves.unsynced.is_empty() {
            return;
        }
        self.moves.syncing = true;
        let waiting = self.moves.unsynced.iter().copied().collect();
        // It says nothing.
        let op = Op::Moved { offsets: Vec::new() };
        self.batches.push(Durability::Synced, Some(op), Then::Synced(waiting));
    }

    /// These need not wait any more.
    pub(super) fn moves_synced(&mut self, offsets: &[u64]) {
        self.moves.synced(offsets);
        self.begin_moves(self.queues.outbox());
        self.sync_moves();
    }

    /// Sends what is not on its way yet.
    pub(super) fn begin_moves(&mut self, moves: Vec<Move>) {
        let mut by_queue = BTreeMap::<QueueName, Vec<(u64, NewMessage)>>::new();
        for Move { offset, to, message } in moves {
            if !self.moves.unsynced.contains(&offset) && self.moves.under_way.insert(offset) {
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
            self.sync_moves();
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
