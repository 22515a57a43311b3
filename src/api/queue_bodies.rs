//! The bodies of answers about queues, as API.md words them.
//!
//! The server writes them and the client reads them, so that the two cannot drift apart.

use std::collections::BTreeMap;

use base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    ids::{Epoch, MessageId, NodeId, PartitionId, QueueName},
    machine::queue::{OnExpiry, QueueConfig},
    node::queues::{Message, PublishedMessage, QueuePage, QueueView, ReceiptsOutcome},
};

/// The configuration of a queue, whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueConfigBody {
    /// How long an unconsumed message is kept, in seconds.
    pub retention_s: u64,
    /// How long a delivery is invisible to others unless the receiver says otherwise, in milliseconds.
    pub visibility_ms: u64,
    /// After so many deliveries a message goes to the dead-letter queue; null: never.
    pub max_deliveries: Option<u32>,
    /// Where dead letters go; null where they stay: the queue is one of dead letters itself.
    #[schema(value_type = Option<String>)]
    pub dead_letter: Option<QueueName>,
    /// What happens to a message that was not consumed in time.
    #[schema(value_type = OnExpirySchema)]
    pub on_expiry: OnExpiry,
    /// Most messages; null: no limit of its own.
    pub max_messages: Option<u64>,
    /// Most bytes of all bodies together, likewise.
    pub max_bytes: Option<u64>,
    /// How long the id of a message is remembered, in seconds.
    pub dedup_window_s: u64,
}

impl From<QueueConfig> for QueueConfigBody {
    fn from(config: QueueConfig) -> Self {
        let QueueConfig {
            retention_s,
            visibility_ms,
            max_deliveries,
            dead_letter,
            on_expiry,
            max_messages,
            max_bytes,
            dedup_window_s,
        } = config;
        Self {
            retention_s,
            visibility_ms,
            max_deliveries,
            dead_letter,
            on_expiry,
            max_messages,
            max_bytes,
            dedup_window_s,
        }
    }
}

/// What happens to a message that was not consumed in time.
#[derive(ToSchema)]
#[schema(as = OnExpiry, rename_all = "kebab-case")]
#[allow(dead_code, reason = "describes machine::queue::OnExpiry, which knows nothing of OpenAPI")]
pub(super) enum OnExpirySchema {
    Drop,
    DeadLetter,
}

/// A message that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PublishedBody {
    /// Its id: the publisher's, or made by the node.
    #[schema(value_type = String)]
    pub id: MessageId,
    /// The partition of its queue.
    pub partition: u32,
    /// Its place there: grows with each message.
    pub offset: u64,
    /// Whether one of that id was there already: then this is the first one's place.
    pub duplicate: bool,
}

impl From<PublishedMessage> for PublishedBody {
    fn from(message: PublishedMessage) -> Self {
        let PublishedMessage { id, partition, offset, duplicate } = message;
        Self { id, partition, offset, duplicate }
    }
}

/// The messages of a batch that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PublishedList {
    /// In the order of the request.
    pub results: Vec<PublishedBody>,
}

/// How the body of a message is written in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Encoding {
    /// As text.
    #[serde(rename = "utf-8")]
    Utf8,
    /// In base64 (RFC 4648, section 4).
    #[serde(rename = "base64")]
    Base64,
}

/// How the body of a message is written.
#[derive(ToSchema)]
#[schema(as = Encoding)]
#[allow(dead_code, reason = "describes Encoding, whose names are not identifiers")]
pub(super) enum EncodingSchema {
    #[schema(rename = "utf-8")]
    Utf8,
    #[schema(rename = "base64")]
    Base64,
}

/// A message that was delivered, or is shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageBody {
    /// Its id.
    #[schema(value_type = String)]
    pub id: MessageId,
    /// Names this delivery, for ack, nack and extend. Not with peek.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// What it says, in this encoding.
    pub body: String,
    /// `utf-8` where the body is that, else `base64`.
    #[schema(value_type = EncodingSchema)]
    pub encoding: Encoding,
    /// As published; null where none was named.
    pub content_type: Option<String>,
    /// As published.
    pub attributes: BTreeMap<String, String>,
    /// 0 to 9, 9 first.
    pub priority: u8,
    /// How often it was delivered, this time included.
    pub deliveries: u32,
    /// RFC 3339.
    pub enqueued_at: String,
}

impl MessageBody {
    /// The bytes that it says.
    ///
    /// # Errors
    /// A body that is not in the encoding it names.
    pub fn decoded(self) -> Result<Bytes, DecodeError> {
        match self.encoding {
            Encoding::Utf8 => Ok(self.body.into()),
            Encoding::Base64 => STANDARD.decode(self.body).map(Bytes::from),
        }
    }
}

/// Bytes as JSON carries them: as text where they are UTF-8.
fn encoded(body: Bytes) -> (String, Encoding) {
    match String::from_utf8(body.into()) {
        Ok(text) => (text, Encoding::Utf8),
        Err(error) => (STANDARD.encode(error.as_bytes()), Encoding::Base64),
    }
}

impl From<Message> for MessageBody {
    fn from(message: Message) -> Self {
        let (body, encoding) = encoded(message.body);
        Self {
            id: message.id,
            receipt: Some(message.receipt).filter(|receipt| !receipt.is_empty()),
            body,
            encoding,
            content_type: message.content_type,
            attributes: message.attributes,
            priority: message.priority,
            deliveries: message.deliveries,
            enqueued_at: message.enqueued_at,
        }
    }
}

/// What was received, or is shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageList {
    /// The greatest priority first, the oldest first within a priority; empty when there is none.
    pub messages: Vec<MessageBody>,
}

impl From<Vec<Message>> for MessageList {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages: messages.into_iter().map(MessageBody::from).collect() }
    }
}

/// A receipt of which nothing came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FailedReceipt {
    /// As it was given.
    pub receipt: String,
    /// `receipt-expired`: malformed, unknown, or its visibility is over.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub code: ErrorCode,
}

/// What came of receipts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ReceiptsAnswer {
    /// In time.
    pub done: Vec<String>,
    /// Too late, or never given.
    pub failed: Vec<FailedReceipt>,
}

impl From<ReceiptsOutcome> for ReceiptsAnswer {
    fn from(outcome: ReceiptsOutcome) -> Self {
        let failed = |receipt| FailedReceipt { receipt, code: ErrorCode::ReceiptExpired };
        Self { done: outcome.done, failed: outcome.failed.into_iter().map(failed).collect() }
    }
}

/// A queue: how it is configured, what is in it, who keeps it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueBody {
    /// The queue.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// How it is configured.
    pub config: QueueConfigBody,
    /// What waits to be delivered; without what is delayed or in flight.
    pub depth: u64,
    /// What is delivered and neither acknowledged nor over.
    pub in_flight: u64,
    /// What is not to be delivered yet.
    pub delayed: u64,
    /// The age of the oldest unconsumed message, in milliseconds; 0 where there is none.
    pub oldest_age_ms: u64,
    /// Deliveries beyond the first of a message, since the queue was made.
    pub redelivered: u64,
    /// Messages that went to the dead-letter queue, since the queue was made.
    pub dead_lettered: u64,
    /// Messages that were dropped because of their age, since the queue was made.
    pub expired: u64,
    /// Bytes of the bodies of all its messages.
    pub bytes: u64,
    /// Messages a second, over the last seconds.
    pub publish_rate: f64,
    /// Deliveries a second, likewise.
    pub deliver_rate: f64,
    /// Acknowledgements a second, likewise.
    pub ack_rate: f64,
    /// The partition that it lies in.
    pub partition: u32,
    /// Who serves it; null while nobody does.
    #[schema(value_type = Option<String>)]
    pub primary: Option<NodeId>,
    /// Who keeps it.
    #[schema(value_type = Vec<String>)]
    pub replicas: Vec<NodeId>,
    /// Who has all that is acknowledged.
    #[schema(value_type = Vec<String>)]
    pub in_sync: Vec<NodeId>,
    /// Grows with each change of who serves it.
    #[schema(value_type = u64)]
    pub epoch: Epoch,
    /// The primary's journal: `file` or `redis`.
    pub journal: String,
}

impl From<QueueView> for QueueBody {
    fn from(view: QueueView) -> Self {
        Self {
            queue: view.queue,
            config: view.config.into(),
            depth: view.depth,
            in_flight: view.in_flight,
            delayed: view.delayed,
            oldest_age_ms: view.oldest_age_ms,
            redelivered: view.redelivered,
            dead_lettered: view.dead_lettered,
            expired: view.expired,
            bytes: view.bytes,
            publish_rate: view.publish_rate,
            deliver_rate: view.deliver_rate,
            ack_rate: view.ack_rate,
            partition: view.partition,
            primary: view.primary,
            replicas: view.replicas,
            in_sync: view.in_sync,
            epoch: Epoch(view.epoch),
            journal: view.journal,
        }
    }
}

/// A page of queues.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueList {
    /// In the order of their names.
    pub queues: Vec<QueueBody>,
    /// For `after`, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Partitions that nobody serves now: their queues are missing. In the order of their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<u32>)]
    pub unserved: Vec<PartitionId>,
}

impl From<QueuePage> for QueueList {
    fn from(page: QueuePage) -> Self {
        let QueuePage { items, next, unserved } = page;
        Self { queues: items.into_iter().map(QueueBody::from).collect(), next, unserved }
    }
}

/// How many messages were dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PurgedBody {
    /// Delayed and delivered ones included.
    pub purged: u64,
}

/// How many dead letters return.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RedrivenBody {
    /// Of this queue.
    pub redriven: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &'static [u8]) -> Message {
        Message {
            id: MessageId::new("m").unwrap(),
            receipt: String::new(),
            body: Bytes::from_static(body),
            content_type: None,
            attributes: BTreeMap::new(),
            priority: 4,
            deliveries: 1,
            enqueued_at: "2026-01-01T00:00:00.000Z".to_owned(),
        }
    }

    #[test]
    fn bodies_are_text_where_they_can_be_and_come_back_as_they_were() {
        for (bytes, text, encoding) in [
            (b"".as_slice(), "", Encoding::Utf8),
            ("zwölf\n\u{0}".as_bytes(), "zwölf\n\u{0}", Encoding::Utf8),
            (b"\xff\x00", "/wA=", Encoding::Base64),
        ] {
            let body = MessageBody::from(message(bytes));
            assert_eq!((body.body.as_str(), body.encoding), (text, encoding));
            assert_eq!(body.decoded().unwrap(), bytes);
        }
        let json = serde_json::to_value(MessageBody::from(message(b"\xff"))).unwrap();
        assert_eq!(json["encoding"], "base64");
        assert_eq!(json["content_type"], serde_json::Value::Null);
        assert!(json.get("receipt").is_none(), "{json}");
    }

    #[test]
    fn a_receipt_that_failed_says_why() {
        let outcome = ReceiptsOutcome { done: vec!["a".into()], failed: vec!["b".into()] };
        let json = serde_json::to_value(ReceiptsAnswer::from(outcome)).unwrap();
        let expected = serde_json::json!({"done": ["a"], "failed": [{"receipt": "b", "type": "receipt-expired"}]});
        assert_eq!(json, expected);
    }
}
