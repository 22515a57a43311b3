//! The queues of one partition, as its log makes them: a pure state machine (DESIGN.md, section 5).
//!
//! Owns [`Queues`]. The task of a partition calls [`Queues::apply`] with the committed records of the
//! partition's log, in their order, on the primary and on the backups alike, and the read functions to
//! answer what changes nothing. It never reads a clock, draws nothing at random and does no I/O: the
//! same records give the same state, the same answers and the same effects on every replica.
//!
//! # What is guaranteed
//!
//! * **Nothing is lost.** A message leaves its queue by an ack, by its age, by a purge, with its queue,
//!   or into the outbox; it leaves the outbox by [`Op::Moved`] only.
//! * **Order.** A lease takes the greatest priority first, the least offset first within a priority. What
//!   is delivered again comes back at its old place.
//! * **One delivery at a time.** While a delivery lasts, its message is delivered to nobody else. It lasts
//!   until it is settled, or until the log says that it is over: [`Op::Timer`] and [`Op::Lease`] do what
//!   is due at their time. So an ack that is late, but comes before that, counts. A visibility of 0 is
//!   over at once.
//! * **A receipt names one delivery.** [`Op::Extend`] keeps it valid, whatever else ends the delivery ends
//!   it. An ack that is repeated is done again while it is among the last [`MAX_ACKS_REMEMBERED`] of the
//!   partition. (Two leases of one message within one record have the same receipt: that takes a
//!   visibility of 0 there.)
//! * **Publishing is all or nothing.** What counts against the limits is all that lies in the queue,
//!   delayed and delivered messages included.
//! * **A moved message is taken once**: it is known by its [`Origin`] while it is there and for
//!   [`ORIGIN_WINDOW_S`] at least. Others are known by their ids for the window of the queue, the last
//!   [`MAX_IDS_REMEMBERED`] of them.
//!
//! # Age
//!
//! The retention counts from the publish, in whole seconds: it is over with the first full second of the
//! wall clock that is not before it, so that a busy queue needs no more than one [`Op::Timer`] a second
//! for it. It holds for delayed messages too. While a message is delivered its age does not matter; if
//! the delivery ends without an ack, it does then.
//!
//! # Dead letters
//!
//! A message whose delivery ends without an ack and that has had `max_deliveries` is put into the outbox
//! towards the dead-letter queue, and so is one that is too old where the queue says so. It carries
//! [`DEAD_LETTER_QUEUE`] and [`DEAD_LETTER_REASON`]. Without a dead-letter queue neither happens: it is
//! delivered again, or dropped because of its age. Queues whose names end with [`DEAD_LETTER_SUFFIX`],
//! and those that a moved message made, have none unless they are configured so. All moves go through the
//! outbox, also those within the partition; [`MAX_MOVES_PER_DESTINATION`] are told at once for each
//! destination, so that one which takes nothing holds up no other.
//!
//! # Bounds
//!
//! A queue remembers at most [`MAX_IDS_REMEMBERED`] ids: where that is less than its window takes, the oldest are
//! forgotten early, and [`Counted::ForgottenEarly`] says so.
//!
//! An operation looks after at most [`MAX_DUE_PER_STEP`] messages whose time has come; what remains is due
//! at once, and [`Queues::deadline`] says so. [`Op::Purge`] and [`Op::Redrive`] take a queue whole; what a
//! purge or [`Op::Delete`] takes away is freed by whoever [takes](Queues::take_discarded) it.
//! [`Queues::snapshot`] takes a moment, whatever is there, and what is saved of it is made and read piece by piece.

mod admin;
mod config;
mod deliver;
mod expire;
mod load;
mod memory;
#[cfg(test)]
mod model;
mod outbox;
#[cfg(test)]
mod properties;
mod publish;
mod read;
mod save;
mod settle;
mod shared;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod types;

use std::collections::{BTreeMap, BTreeSet};

pub use self::{
    admin::Discarded,
    config::{
        DEAD_LETTER_QUEUE, DEAD_LETTER_REASON, DEAD_LETTER_SUFFIX, DEFAULT_DEDUP_WINDOW_S, DEFAULT_MAX_DELIVERIES,
        DEFAULT_VISIBILITY_MS, dead_letter_name,
    },
    load::Loader,
    save::Snapshot,
    settle::{FIRST_BACK_OFF_MS, MAX_BACK_OFF_MS},
    types::*,
};
use self::{
    memory::Acks,
    outbox::Outbox,
    state::Queue,
    step::{Limits, Step},
};
use crate::{
    ids::{PartitionId, QueueName, Tick},
    machine::replication::Position,
};

/// Most queues of a partition.
pub const MAX_QUEUES: usize = 10_000;
/// With so many messages in the outbox, publishes and redrives are refused; what must be moved still is.
pub const MAX_OUTBOX: usize = 1_000_000;
/// Most moves towards one destination that are told and have not arrived.
pub const MAX_MOVES_PER_DESTINATION: usize = 64;
/// Most ids of messages that a queue remembers, and most origins of messages that are gone again.
pub const MAX_IDS_REMEMBERED: usize = 1 << 20;
/// Most acks that a partition remembers.
pub const MAX_ACKS_REMEMBERED: usize = 1 << 16;
/// Most messages that one operation looks after because their time has come.
pub const MAX_DUE_PER_STEP: usize = 10_000;
/// Most messages of one lease or peek.
pub const MAX_LEASED: usize = 1_000;
/// A lease or peek takes no further message once the bodies have so many bytes.
pub const MAX_LEASED_BYTES: usize = 8 << 20;
/// The origin of a moved message is remembered for so long at least, in seconds.
pub const ORIGIN_WINDOW_S: u64 = 3_600;
/// What need not be remembered any more is forgotten so much later, in milliseconds: a window costs no
/// more than one [`Op::Timer`] in this time.
pub const FORGET_SLACK_MS: u64 = 60_000;
/// Offsets stay below this: the rest of the 64 bits takes the priority.
const OFFSET_LIMIT: u64 = 1 << 60;
/// The greatest priority.
const MAX_PRIORITY: u8 = 9;

/// The replicated state of the queues of a partition.
#[derive(Clone, PartialEq, Debug)]
pub struct Queues {
    partition: PartitionId,
    /// The greatest time of any batch: the present, as far as the log knows.
    now: Tick,
    next_offset: u64,
    /// Tells a queue from an earlier one of its name.
    next_number: u64,
    queues: BTreeMap<QueueName, Queue>,
    outbox: Outbox,
    acks: Acks,
    /// When each queue has something to do. Made from the above.
    due: BTreeSet<(Tick, QueueName)>,
    limits: Limits,
    discarded: Discarded,
}

impl Queues {
    /// A partition without queues.
    pub fn new(partition: PartitionId) -> Self {
        Self::with_limits(partition, Limits::default())
    }

    fn with_limits(partition: PartitionId, limits: Limits) -> Self {
        Self {
            partition,
            now: Tick(0),
            next_offset: 0,
            next_number: 0,
            queues: BTreeMap::new(),
            outbox: Outbox::default(),
            acks: Acks::default(),
            due: BTreeSet::new(),
            limits,
            discarded: Discarded::default(),
        }
    }

    /// Applies a committed record. The answers are in the order of the operations; what they cause is
    /// appended to `effects`.
    pub fn apply(&mut self, position: Position, batch: &Batch, effects: &mut Vec<QueueEffect>) -> Vec<OpAnswer> {
        drop(self.take_discarded());
        self.now = self.now.max(batch.at);
        batch
            .ops
            .iter()
            .map(|op| self.operation(position, batch.retention_s, op, effects).unwrap_or_else(OpAnswer::Refused))
            .collect()
    }

    /// When an [`Op::Timer`] is due, in Unix milliseconds; not later than the last applied time where
    /// work is left over.
    pub fn deadline(&self) -> Option<Tick> {
        self.due.first().map(|(at, _)| *at)
    }

    fn operation(
        &mut self,
        position: Position,
        retention_s: u64,
        op: &Op,
        effects: &mut Vec<QueueEffect>,
    ) -> Result<OpAnswer, QueueRefusal> {
        match op {
            Op::Publish { queue, messages } => self.publish(queue, messages, retention_s, effects),
            Op::Lease { queue, max, visibility_ms } => self
                .at_queue(queue, effects, |queue, step| queue.lease(step, position, *max, *visibility_ms))
                .map(OpAnswer::Leased)
                .ok_or(QueueRefusal::NoSuchQueue),
            Op::Ack { queue, receipts } => Ok(self.settle(queue, receipts, effects, Queue::ack)),
            Op::Nack { queue, receipts, delay_ms } => {
                Ok(self.settle(queue, receipts, effects, |queue, step, receipt| queue.nack(step, receipt, *delay_ms)))
            }
            Op::Extend { queue, receipts, visibility_ms } => {
                Ok(self.settle(queue, receipts, effects, |queue, step, receipt| {
                    queue.extend(step, receipt, *visibility_ms)
                }))
            }
            Op::GiveBack { queue, receipts } => {
                self.settle(queue, receipts, effects, Queue::give_back);
                Ok(OpAnswer::Done)
            }
            Op::Configure { queue, config } => self.configure(queue, config, retention_s, effects),
            Op::Purge { queue } => self.purge(queue, effects),
            Op::Delete { queue } => self.delete(queue).map(|()| OpAnswer::Done),
            Op::Redrive { queue, to } => self.redrive(queue, to, effects),
            Op::Moved { offsets } => {
                self.moved(offsets, effects);
                Ok(OpAnswer::Done)
            }
            Op::Timer => {
                self.timer(effects);
                Ok(OpAnswer::Done)
            }
        }
    }

    /// Does something to a queue, tells what came of it, and notes when the queue has to do next.
    fn at_queue<R>(
        &mut self,
        name: &QueueName,
        effects: &mut Vec<QueueEffect>,
        change: impl FnOnce(&mut Queue, &mut Step<'_>) -> R,
    ) -> Option<R> {
        let queue = self.queues.get_mut(name)?;
        let mut step = Step::new(
            self.partition,
            self.now,
            self.limits,
            &mut self.outbox,
            &mut self.acks,
            &mut self.next_offset,
            effects,
        );
        let result = change(queue, &mut step);
        step.tell(&queue.name, !queue.ready.is_empty());
        let due = queue.next_due();
        if due != queue.due {
            if let Some(at) = queue.due {
                self.due.remove(&(at, queue.name.clone()));
            }
            if let Some(at) = due {
                self.due.insert((at, queue.name.clone()));
            }
            queue.due = due;
        }
        Some(result)
    }

    /// The queue of this name, made with this configuration where there is none.
    fn make(&mut self, name: &QueueName, config: impl FnOnce() -> QueueConfig) -> Result<(), QueueRefusal> {
        if self.queues.contains_key(name) {
            return Ok(());
        }
        if self.queues.len() >= self.limits.queues {
            return Err(QueueRefusal::PartitionFull);
        }
        self.queues.insert(name.clone(), Queue::new(name.clone(), self.next_number, config()));
        self.next_number += 1;
        Ok(())
    }
}
