//! What one operation works with besides the queue that it is about.

use std::sync::Arc;

use super::{
    Counted, MAX_ACKS_REMEMBERED, MAX_DUE_PER_STEP, MAX_IDS_REMEMBERED, MAX_LEASED, MAX_LEASED_BYTES,
    MAX_MOVES_PER_DESTINATION, MAX_OUTBOX, MAX_QUEUES, QueueEffect, memory::Acks, outbox::Outbox, state::Message,
};
use crate::ids::{PartitionId, QueueName, Tick};

/// The bounds; smaller ones are for tests only, since all replicas must have the same.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Limits {
    pub(super) queues: usize,
    pub(super) outbox: usize,
    pub(super) moves_per_destination: usize,
    pub(super) ids: usize,
    pub(super) acks: usize,
    pub(super) due: usize,
    pub(super) leased: usize,
    pub(super) leased_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queues: MAX_QUEUES,
            outbox: MAX_OUTBOX,
            moves_per_destination: MAX_MOVES_PER_DESTINATION,
            ids: MAX_IDS_REMEMBERED,
            acks: MAX_ACKS_REMEMBERED,
            due: MAX_DUE_PER_STEP,
            leased: MAX_LEASED,
            leased_bytes: MAX_LEASED_BYTES,
        }
    }
}

const COUNTED: [Counted; 12] = [
    Counted::Published,
    Counted::Duplicate,
    Counted::Delivered,
    Counted::Redelivered,
    Counted::Acknowledged,
    Counted::Returned,
    Counted::TimedOut,
    Counted::DeadLettered,
    Counted::Expired,
    Counted::Purged,
    Counted::Moved,
    Counted::ForgottenEarly,
];

/// One operation on one queue under way.
pub(super) struct Step<'a> {
    partition: PartitionId,
    pub(super) now: Tick,
    pub(super) limits: Limits,
    pub(super) outbox: &'a mut Outbox,
    pub(super) acks: &'a mut Acks,
    pub(super) next_offset: &'a mut u64,
    effects: &'a mut Vec<QueueEffect>,
    counts: [u64; COUNTED.len()],
    became_ready: bool,
    /// How many messages may still be looked after.
    budget: usize,
}

impl<'a> Step<'a> {
    pub(super) fn new(
        partition: PartitionId,
        now: Tick,
        limits: Limits,
        outbox: &'a mut Outbox,
        acks: &'a mut Acks,
        next_offset: &'a mut u64,
        effects: &'a mut Vec<QueueEffect>,
    ) -> Self {
        let counts = [0; COUNTED.len()];
        Self {
            partition,
            now,
            limits,
            outbox,
            acks,
            next_offset,
            effects,
            counts,
            became_ready: false,
            budget: limits.due,
        }
    }

    pub(super) fn count(&mut self, what: Counted, messages: u64) {
        self.counts[what as usize] += messages;
    }

    /// Something can be delivered now.
    pub(super) fn ready(&mut self) {
        self.became_ready = true;
    }

    /// Goes on with what is left of another step's budget.
    pub(super) fn with_budget(&mut self, budget: usize) {
        self.budget = budget;
    }

    pub(super) fn budget(&self) -> usize {
        self.budget
    }

    /// Whether one more message may be looked after.
    pub(super) fn spend(&mut self) -> bool {
        let left = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        left
    }

    /// Puts a message on its way.
    pub(super) fn send(&mut self, offset: u64, from: QueueName, to: QueueName, message: Arc<Message>) {
        let told = self.outbox.push(offset, from, to, message, self.limits.moves_per_destination);
        let told = told.and_then(|offset| self.outbox.to_tell(self.partition, offset));
        self.effects.extend(told.map(QueueEffect::Move));
    }

    /// Tells what happened to the queue, in which something waits now or not.
    pub(super) fn tell(self, queue: &QueueName, waits: bool) {
        for (what, messages) in COUNTED.into_iter().zip(self.counts).filter(|(_, messages)| *messages > 0) {
            self.effects.push(QueueEffect::Count { queue: queue.clone(), what, messages });
        }
        if self.became_ready && waits {
            self.effects.push(QueueEffect::Ready(queue.clone()));
        }
    }
}
