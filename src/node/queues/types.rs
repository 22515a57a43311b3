//! What applications say to the queues and are told: the shapes behind HTTP, the command line and the library.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{MessageId, NodeId, PartitionId, QueueName},
    machine::queue::{OnExpiry, QueueConfig},
};

/// A configuration as a client gives it: what is left out has its default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "API.md names and explains each field; QueueConfig has the units")]
pub struct QueueSettings {
    pub retention_s: Option<u64>,
    pub visibility_ms: Option<u64>,
    pub max_deliveries: Option<u32>,
    pub dead_letter: Option<QueueName>,
    pub on_expiry: Option<OnExpiry>,
    pub max_messages: Option<u64>,
    pub max_bytes: Option<u64>,
    pub dedup_window_s: Option<u64>,
}

/// A message to publish.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// What it says.
    pub body: Bytes,
    /// Kept with it.
    pub content_type: Option<String>,
    /// Its id; made where there is none.
    pub id: Option<MessageId>,
    /// Not delivered before so many milliseconds: at most 604,800,000.
    pub delay_ms: u64,
    /// 0 to 9, 9 first; 4 is usual.
    pub priority: u8,
    /// Kept with it.
    pub attributes: BTreeMap<String, String>,
}

impl Publish {
    /// A message of usual priority, without delay.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            content_type: None,
            id: None,
            delay_ms: 0,
            priority: DEFAULT_PRIORITY,
            attributes: BTreeMap::new(),
        }
    }
}

/// The priority of a message that names none.
pub const DEFAULT_PRIORITY: u8 = 4;

/// A message that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "API.md names and explains each field")]
pub struct PublishedMessage {
    pub id: MessageId,
    pub partition: u32,
    pub offset: u64,
    pub duplicate: bool,
}

/// What to receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Receive {
    /// At the most so many, 1 to 1,000.
    pub max: u32,
    /// Waits so long for the first one, in milliseconds: 0 to 60,000.
    pub wait_ms: u64,
    /// Invisible to others for so long, unless as configured: 0 to 43,200,000.
    pub visibility_ms: Option<u64>,
}

/// A message that was delivered or is shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "API.md names and explains each field")]
pub struct Message {
    pub id: MessageId,
    /// Empty where it is only shown.
    pub receipt: String,
    pub body: Bytes,
    pub content_type: Option<String>,
    pub attributes: BTreeMap<String, String>,
    pub priority: u8,
    pub deliveries: u32,
    /// RFC 3339.
    pub enqueued_at: String,
}

/// What came of receipts: which were in time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReceiptsOutcome {
    /// In time.
    pub done: Vec<String>,
    /// Malformed, expired or unknown: `receipt-expired`.
    pub failed: Vec<String>,
}

/// A page of the queues in the order of their names.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct QueuePage {
    /// The queues.
    pub items: Vec<QueueView>,
    /// Where to go on; `None` at the end.
    pub next: Option<String>,
    /// Partitions that nobody serves now: their queues are missing.
    pub unserved: Vec<PartitionId>,
}

/// A queue: the body of `GET /v1/queues/{q}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "API.md names and explains each field")]
pub struct QueueView {
    pub queue: QueueName,
    pub config: QueueConfig,
    pub depth: u64,
    pub in_flight: u64,
    pub delayed: u64,
    pub oldest_age_ms: u64,
    pub redelivered: u64,
    pub dead_lettered: u64,
    pub expired: u64,
    pub bytes: u64,
    /// Messages a second, over the last seconds.
    pub publish_rate: f64,
    pub deliver_rate: f64,
    pub ack_rate: f64,
    pub partition: u32,
    pub primary: Option<NodeId>,
    pub replicas: Vec<NodeId>,
    pub in_sync: Vec<NodeId>,
    pub epoch: u64,
    /// `file` or `redis`; of the primary.
    pub journal: String,
}

/// What to consume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Consume {
    /// At most so many deliveries are out at a time, neither acknowledged nor over: 1 to 1,000.
    pub prefetch: u32,
    /// Invisible to others for so long, unless as configured: 0 to 43,200,000.
    pub visibility_ms: Option<u64>,
}

/// Says that what is missing from a partition may be given up: [`Queues::recover`](super::Queues::recover).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptLoss;
