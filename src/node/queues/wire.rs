//! What nodes say to each other about queues: an operation on its way to a primary, and its answer.
//!
//! Travels as [`ClientAsk::Queue`](crate::node::wire::ClientAsk::Queue) under the client protocol.

use serde::{Deserialize, Serialize};

use super::{limits, types::QueueView};
use crate::{
    error::Error,
    ids::{Epoch, PartitionId, QueueName},
    machine::queue::{Delivery, Figures, Op, OpAnswer, Receipt},
};

/// A question about queues.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum QueueAsk {
    /// Of the primary of a partition.
    At { partition: PartitionId, ask: PartitionAsk },
    /// Of the primary of several: a page of their queues, in the order of names.
    List { partitions: Vec<PartitionId>, range: Range },
}

/// A part of a list of queues.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) prefix: Option<String>,
    pub(crate) after: Option<QueueName>,
    pub(crate) limit: usize,
}

impl Range {
    /// Whether it asks for no more at once than [`limits`] allow.
    pub(crate) fn is_within_limits(&self) -> bool {
        limits::ITEMS.contains(&(self.limit as u64))
    }
}

/// What the primary of a partition is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum PartitionAsk {
    /// An operation that clients may ask for; see [`PartitionAsk::is_for_clients`].
    Do(Op),
    /// A lease for whoever waits for it. Asked again under the same number, what was leased before comes back first.
    Receive { queue: QueueName, max: u32, visibility_ms: Option<u64>, wait_ms: u64, attempt: u64 },
    /// Nobody waits any more for what was asked under this number: what was leased for it comes back.
    Abandon { queue: QueueName, attempt: u64 },
    /// Waits until any of these deliveries is over, and says which are.
    Await { queue: QueueName, receipts: Vec<Receipt>, wait_ms: u64 },
    /// The figures of a queue.
    Stats(QueueName),
    /// What would be delivered next.
    Peek { queue: QueueName, max: u32 },
    /// A page of the partition's queues.
    List(Range),
    /// How much there is in all queues of the partition, for the metrics of its node.
    Figures,
}

impl PartitionAsk {
    /// Whether another node may ask this: what the primary says by itself, nobody else may.
    pub(crate) fn is_for_clients(&self) -> bool {
        !matches!(self, Self::Do(Op::Lease { .. } | Op::Moved { .. } | Op::Timer) | Self::Figures)
    }

    /// Whether it asks for no more at once than [`limits`] allow: whoever asks has checked that, if it is one of us.
    pub(crate) fn is_within_limits(&self) -> bool {
        let some = |items: usize| limits::ITEMS.contains(&(items as u64));
        match self {
            Self::Do(Op::Publish { messages, .. }) => some(messages.len()),
            Self::Do(
                Op::Ack { receipts, .. }
                | Op::Nack { receipts, .. }
                | Op::Extend { receipts, .. }
                | Op::GiveBack { receipts, .. },
            ) => some(receipts.len()),
            Self::Receive { max, wait_ms, .. } => {
                limits::ITEMS.contains(&u64::from(*max)) && limits::WAIT_MS.contains(wait_ms)
            }
            Self::Await { receipts, wait_ms, .. } => some(receipts.len()) && limits::WAIT_MS.contains(wait_ms),
            Self::Peek { max, .. } => limits::ITEMS.contains(&u64::from(*max)),
            Self::List(range) => range.is_within_limits(),
            Self::Do(_) | Self::Abandon { .. } | Self::Stats(_) | Self::Figures => true,
        }
    }

    /// Whether it changes what a client would see.
    pub(crate) fn changes(&self) -> bool {
        matches!(self, Self::Do(op) if !matches!(op, Op::GiveBack { .. }))
    }

    /// The same, when `passed_ms` of its wait are over.
    pub(crate) fn later(&self, passed_ms: u64) -> Self {
        let mut ask = self.clone();
        if let Self::Receive { wait_ms, .. } | Self::Await { wait_ms, .. } = &mut ask {
            *wait_ms = wait_ms.saturating_sub(passed_ms);
        }
        ask
    }

    /// How long it may wait for something to happen, in milliseconds.
    pub(crate) fn wait_ms(&self) -> u64 {
        match self {
            Self::Receive { wait_ms, .. } | Self::Await { wait_ms, .. } => *wait_ms,
            _ => 0,
        }
    }
}

/// The answer to a [`QueueAsk`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum QueueReply {
    /// [`PartitionAsk::Do`].
    Done(OpAnswer),
    /// [`PartitionAsk::Receive`].
    Delivered(Vec<Delivery>),
    /// [`PartitionAsk::Await`]: those that are over.
    Over(Vec<Receipt>),
    /// [`PartitionAsk::Stats`].
    Stats(Box<QueueView>),
    /// [`PartitionAsk::Peek`].
    Peeked(Vec<Delivery>),
    /// A page. `more`: there are further ones after the last.
    Listed { queues: Vec<QueueView>, more: bool, unserved: Vec<PartitionId> },
    /// [`PartitionAsk::Figures`].
    Figures(Figures),
    /// [`PartitionAsk::Abandon`].
    Abandoned,
    /// Certainly not done: this node is not the primary, in the newest epoch that it knows (0: none).
    NotPrimary { epoch: Epoch },
    /// Perhaps done: it ceased to be the primary meanwhile, or lost a copy.
    Unknown,
    /// Refused, or failed.
    Failed(Error),
}
