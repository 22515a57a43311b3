//! What is said to the queues of a partition, and what they answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{Epoch, MessageId, PartitionId, QueueName, Tick},
    machine::replication::Position,
};

/// What happens to a message that was not consumed within its retention.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnExpiry {
    /// It is dropped, and counted.
    #[default]
    Drop,
    /// It is moved to the dead-letter queue.
    DeadLetter,
}

/// The configuration of a queue, whole. A queue that a first publish made has the defaults.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueConfig {
    /// How long an unconsumed message is kept, in seconds.
    pub retention_s: u64,
    /// How long a delivery is invisible to others unless the receiver says otherwise, in milliseconds.
    pub visibility_ms: u64,
    /// After so many deliveries a message is moved to the dead-letter queue instead of delivered again.
    /// `None`: never.
    pub max_deliveries: Option<u32>,
    /// Where dead letters go. `None`: they stay where they are (the queue itself is one of dead letters).
    pub dead_letter: Option<QueueName>,
    /// What happens to a message that was not consumed in time.
    pub on_expiry: OnExpiry,
    /// Most messages, delayed and delivered ones included; `None`: no limit of its own.
    pub max_messages: Option<u64>,
    /// Most bytes of bodies, likewise.
    pub max_bytes: Option<u64>,
    /// How long the id of a message is remembered, in seconds.
    pub dedup_window_s: u64,
}

/// A message as it is published.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewMessage {
    /// Its id: a second one of the same id within the window is a duplicate.
    pub id: MessageId,
    /// What it says.
    pub body: Bytes,
    /// As the publisher named it.
    pub content_type: Option<String>,
    /// As the publisher set them.
    pub attributes: BTreeMap<String, String>,
    /// It is not delivered before so many milliseconds have passed.
    pub delay_ms: u64,
    /// 0 to 9, 9 first.
    pub priority: u8,
    /// Where it comes from, if it was moved: decides about duplicates instead of the id.
    pub origin: Option<Origin>,
}

/// The place from which a message was moved (dead-lettered or redriven). Never two messages have the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Its partition.
    pub partition: PartitionId,
    /// Its queue.
    pub queue: QueueName,
    /// Its offset there.
    pub offset: u64,
}

/// Names one delivery of one message. Opaque to clients; text of at most 256 URL-safe characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// The message.
    pub offset: u64,
    /// The record that leased it: the epoch tells it from one of the same number that was lost.
    pub lease: Position,
}

/// One operation on one queue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    /// Takes messages, all or none. Makes the queue where there is none.
    Publish {
        /// Where to.
        queue: QueueName,
        /// What.
        messages: Vec<NewMessage>,
    },
    /// Leases up to `max` messages that wait to be delivered: the greatest priority first, the oldest
    /// first within a priority. Nothing is no error.
    Lease {
        /// From where.
        queue: QueueName,
        /// At the most so many.
        max: u32,
        /// For how long, unless as configured.
        visibility_ms: Option<u64>,
    },
    /// Consumes deliveries for good.
    Ack {
        /// Of this queue.
        queue: QueueName,
        /// Which.
        receipts: Vec<Receipt>,
    },
    /// Gives deliveries back, to be delivered again after a delay (a back-off where none is given).
    Nack {
        /// Of this queue.
        queue: QueueName,
        /// Which.
        receipts: Vec<Receipt>,
        /// After so long.
        delay_ms: Option<u64>,
    },
    /// Starts the visibility of deliveries anew.
    Extend {
        /// Of this queue.
        queue: QueueName,
        /// Which.
        receipts: Vec<Receipt>,
        /// For how long, unless as configured.
        visibility_ms: Option<u64>,
    },
    /// Gives back deliveries that nobody got, as if they had not been made.
    GiveBack {
        /// Of this queue.
        queue: QueueName,
        /// Which.
        receipts: Vec<Receipt>,
    },
    /// Replaces the configuration. Makes the queue where there is none.
    Configure {
        /// Of this queue.
        queue: QueueName,
        /// To this.
        config: QueueConfig,
    },
    /// Drops all messages.
    Purge {
        /// Of this queue.
        queue: QueueName,
    },
    /// Drops the queue.
    Delete {
        /// This one.
        queue: QueueName,
    },
    /// Sends the dead letters of `to` that lie in `queue` back there.
    Redrive {
        /// Where they lie.
        queue: QueueName,
        /// Whose they are.
        to: QueueName,
    },
    /// Messages that were to be moved have arrived elsewhere: they are dropped here.
    Moved {
        /// Their offsets.
        offsets: Vec<u64>,
    },
    /// Does what is due: visibilities and delays that are over, retention, windows.
    Timer,
}

/// What one record says: operations that are done together, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// The primary's wall clock, in Unix milliseconds; made monotone when applied.
    pub at: Tick,
    /// `MESSAGE_RETENTION_PERIOD` of the primary, for queues that this batch makes, in seconds.
    pub retention_s: u64,
    /// What is done.
    pub ops: Vec<Op>,
}

/// A message that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Its id.
    pub id: MessageId,
    /// Its place in the queue's partition: grows with each message.
    pub offset: u64,
    /// Whether it was there already: then this is the first one's place.
    pub duplicate: bool,
}

/// A message that was delivered, or is shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// Its id.
    pub id: MessageId,
    /// Its place.
    pub offset: u64,
    /// Names this delivery; none where it is only shown.
    pub receipt: Option<Receipt>,
    /// What it says.
    pub body: Bytes,
    /// As published.
    pub content_type: Option<String>,
    /// As published.
    pub attributes: BTreeMap<String, String>,
    /// As published.
    pub priority: u8,
    /// How often it was delivered, this time included.
    pub deliveries: u32,
    /// When it was taken, in Unix milliseconds.
    pub enqueued_at: Tick,
    /// When this delivery is over, in Unix milliseconds; 0 where it is only shown.
    pub visible_at: Tick,
}

/// Why an operation changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum QueueRefusal {
    /// There is no such queue.
    NoSuchQueue,
    /// The messages exceed what the queue may hold: its `max_messages` or `max_bytes`.
    QueueFull,
    /// The partition holds as many queues, or messages under way, as it can.
    PartitionFull,
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OpAnswer {
    /// [`Op::Publish`]: in the order of the messages.
    Published(Vec<Published>),
    /// [`Op::Lease`].
    Leased(Vec<Delivery>),
    /// [`Op::Ack`], [`Op::Nack`], [`Op::Extend`]: which were in time, and which were not. An ack that
    /// is repeated is done again, as far as it is remembered.
    Receipts {
        /// In time.
        done: Vec<Receipt>,
        /// Expired or unknown.
        expired: Vec<Receipt>,
    },
    /// [`Op::Configure`].
    Configured(QueueConfig),
    /// [`Op::Purge`]: how many messages.
    Purged(u64),
    /// [`Op::Redrive`]: how many messages.
    Redriven(u64),
    /// [`Op::Delete`], [`Op::GiveBack`], [`Op::Moved`], [`Op::Timer`].
    Done,
    /// Nothing was changed.
    Refused(QueueRefusal),
}

/// What applying a batch causes outside the queues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QueueEffect {
    /// There is something to deliver in this queue now, for whoever waits for it.
    Ready(QueueName),
    /// A message is to be published elsewhere; [`Op::Moved`] says that it has arrived. Until then the
    /// effect is told again by [`outbox`](super::Queues::outbox) to each new primary.
    Move(Move),
    /// For the metrics: so many messages of a queue were taken, delivered, acknowledged, …
    Count {
        /// The queue.
        queue: QueueName,
        /// What happened.
        what: Counted,
        /// To how many.
        messages: u64,
    },
}

/// A message on its way to another queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Its offset in this partition: what [`Op::Moved`] names.
    pub offset: u64,
    /// Where to.
    pub to: QueueName,
    /// With its origin.
    pub message: NewMessage,
}

/// What happens to messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "each variant is what happened")]
pub enum Counted {
    Published,
    Duplicate,
    Delivered,
    Redelivered,
    Acknowledged,
    Returned,
    TimedOut,
    DeadLettered,
    Expired,
    Purged,
    Moved,
    /// Ids that were forgotten before their window was over: a repeat of one of them would be taken for new.
    ForgottenEarly,
}

/// How much there is in several queues together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// How many queues.
    pub queues: u64,
    /// What waits to be delivered.
    pub ready: u64,
    /// What is delivered and neither settled nor over.
    pub in_flight: u64,
    /// What is not to be delivered yet.
    pub delayed: u64,
    /// Bytes of all of it.
    pub bytes: u64,
    /// The age of the oldest message, in milliseconds; 0 where there is none.
    pub oldest_age_ms: u64,
}

/// The figures of a queue, as `GET /v1/queues/{q}` tells them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueStats {
    /// The queue.
    pub queue: QueueName,
    /// Its configuration.
    pub config: QueueConfig,
    /// What waits to be delivered; without what is delayed or delivered.
    pub depth: u64,
    /// What is delivered and neither acknowledged nor over.
    pub in_flight: u64,
    /// What is not to be delivered yet.
    pub delayed: u64,
    /// The age of the oldest unconsumed message, in milliseconds; 0 where there is none.
    pub oldest_age_ms: u64,
    /// Deliveries beyond the first of a message, since the queue was made.
    pub redelivered: u64,
    /// Messages that were moved to the dead-letter queue, since the queue was made.
    pub dead_lettered: u64,
    /// Messages that were dropped because of their age, since the queue was made.
    pub expired: u64,
    /// Bytes of the bodies of all its messages.
    pub bytes: u64,
    /// Messages taken, deliveries made and messages acknowledged since the queue was made: the rates come from these.
    pub published: u64,
    /// See `published`.
    pub delivered: u64,
    /// See `published`.
    pub acknowledged: u64,
}

/// The text of a receipt: `epoch-seq-offset` in hexadecimal. The partition comes with the queue.
impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.lease.epoch.0, self.lease.seq, self.offset)
    }
}

impl std::str::FromStr for Receipt {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '-').map(|part| u64::from_str_radix(part, 16));
        match (parts.next(), parts.next(), parts.next()) {
            (Some(Ok(epoch)), Some(Ok(seq)), Some(Ok(offset))) => {
                let receipt = Self { offset, lease: Position { epoch: Epoch(epoch), seq } };
                // One text for one receipt.
                if receipt.to_string() == text { Ok(receipt) } else { Err(()) }
            }
            _ => Err(()),
        }
    }
}
