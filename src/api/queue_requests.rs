//! The bodies of requests about queues: how each is read, and how OpenAPI describes it.
//!
//! Ranges are the service's to judge, but where a refusal has to name a header, a parameter or the message of
//! a batch as the client wrote it.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use utoipa::ToSchema;

use super::{
    ApiState,
    extract::{BodyRoom, idempotency_key},
    fields::{Fields, FromFields, quote},
    queue_bodies::{EncodingSchema, OnExpirySchema},
};
use crate::{
    config::suffixed_duration,
    error::Error,
    ids::{MessageId, PartitionId, QueueName},
    machine::queue::OnExpiry,
    node::queues::{Consume, DEFAULT_PRIORITY, Publish, QueueSettings, Receive},
    time::millis,
};

/// The longest that a delivery is invisible to others: 12 hours.
const MAX_VISIBILITY_MS: u64 = 43_200_000;
/// The longest that a message, or one that is given back, waits before it is delivered: 7 days.
const MAX_DELAY_MS: u64 = 604_800_000;
/// The greatest priority.
const MAX_PRIORITY: u64 = 9;
/// Most messages or receipts in one call, and most that a consumer has unacknowledged.
const MAX_ITEMS: u64 = 1000;
/// How many messages a consumer has unacknowledged unless it says otherwise.
const DEFAULT_PREFETCH: u64 = 100;
/// How many messages are shown unless the caller says otherwise.
const DEFAULT_SHOWN: u64 = 10;
/// Most bytes of a content type.
const MAX_CONTENT_TYPE_BYTES: usize = 256;
/// Most attributes of one message, and most bytes of all their names and values.
const MAX_ATTRIBUTES: usize = 64;
const MAX_ATTRIBUTES_BYTES: usize = 16 * 1024;

const MESSAGE_ID: HeaderName = HeaderName::from_static("x-message-id");
const DELAY_MS: HeaderName = HeaderName::from_static("x-delay-ms");
const PRIORITY: HeaderName = HeaderName::from_static("x-priority");

/// The body of a call that takes no name for itself: most about queues, and all about the cache.
pub(super) trait KeylessBody: FromFields {
    /// Most bytes of it.
    fn max_bytes(api: &ApiState) -> usize {
        api.max_json_bytes
    }

    /// What bounds all such bodies together, if they may be large. What ends a delivery must not wait for
    /// what is published.
    fn room(_: &ApiState) -> Option<&BodyRoom> {
        None
    }
}

/// A configuration; what is left out has its default.
#[derive(Debug, ToSchema)]
pub(super) struct ConfigureBody {
    /// How long an unconsumed message is kept, in seconds, 1 or more; `MESSAGE_RETENTION_PERIOD` if left out.
    retention_s: Option<u64>,
    /// 0 to 43,200,000; 30,000 if left out.
    visibility_ms: Option<u64>,
    /// 1 or more; 16 if left out. After so many deliveries a message goes to the dead-letter queue.
    max_deliveries: Option<u32>,
    /// Where dead letters go; `<q>.dead` if left out.
    #[schema(value_type = Option<String>)]
    dead_letter: Option<QueueName>,
    /// What happens to a message that was not consumed in time; `drop` if left out.
    #[schema(value_type = Option<OnExpirySchema>)]
    on_expiry: Option<OnExpiry>,
    /// 1 or more: publishes beyond are refused with `queue-full`. No limit if left out.
    max_messages: Option<u64>,
    /// 1 or more, of all bodies together; likewise.
    max_bytes: Option<u64>,
    /// How long the id of a message is remembered, in seconds; 300 if left out.
    dedup_window_s: Option<u64>,
}

impl FromFields for ConfigureBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self {
            retention_s: fields.integer("retention_s")?,
            visibility_ms: fields.integer("visibility_ms")?,
            max_deliveries: small(fields.ranged("max_deliveries", 1..=u64::from(u32::MAX))?),
            dead_letter: fields.parsed("dead_letter")?,
            on_expiry: fields
                .choice("on_expiry", &[("drop", OnExpiry::Drop), ("dead-letter", OnExpiry::DeadLetter)])?,
            max_messages: fields.integer("max_messages")?,
            max_bytes: fields.integer("max_bytes")?,
            dedup_window_s: fields.integer("dedup_window_s")?,
        })
    }
}

impl KeylessBody for ConfigureBody {}

impl From<ConfigureBody> for QueueSettings {
    fn from(body: ConfigureBody) -> Self {
        let ConfigureBody {
            retention_s,
            visibility_ms,
            max_deliveries,
            dead_letter,
            on_expiry,
            max_messages,
            max_bytes,
            dedup_window_s,
        } = body;
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

/// A number that its range keeps within 32 bits.
fn small(number: Option<u64>) -> Option<u32> {
    number.map(|number| u32::try_from(number).expect("the range ends below 2^32"))
}

fn priority_of(number: Option<u64>) -> u8 {
    number.map_or(DEFAULT_PRIORITY, |number| u8::try_from(number).expect("a priority is at most 9"))
}

/// How the body of a message is written in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encoding {
    Utf8,
    Base64,
}

/// One message of a batch.
#[derive(Debug, ToSchema)]
pub(super) struct BatchMessage {
    /// What it says, in this encoding.
    #[schema(value_type = String)]
    body: Bytes,
    /// `utf-8` if left out.
    #[schema(value_type = Option<EncodingSchema>)]
    #[allow(dead_code, reason = "describes the request: the body is decoded as it is read")]
    encoding: Option<Encoding>,
    /// Kept with it.
    content_type: Option<String>,
    /// A second message of the same id within the window is a duplicate; one is made where there is none.
    #[schema(value_type = Option<String>)]
    id: Option<MessageId>,
    /// 0 to 604,800,000; 0 if left out.
    delay_ms: Option<u64>,
    /// 0 to 9, 9 first; 4 if left out.
    priority: Option<u8>,
    /// At most 64, of 16 KiB together.
    attributes: BTreeMap<String, String>,
}

impl BatchMessage {
    fn read(fields: &mut Fields) -> Result<Self, Error> {
        let encoding = fields.choice("encoding", &[("utf-8", Encoding::Utf8), ("base64", Encoding::Base64)])?;
        let body = fields.text("body")?.ok_or_else(|| fields.missing("body"))?;
        let body = match encoding {
            None | Some(Encoding::Utf8) => Bytes::from(body),
            Some(Encoding::Base64) => STANDARD
                .decode(&body)
                .map_err(|error| fields.refuse("body", &format!("is not base64 (RFC 4648, section 4): {error}")))?
                .into(),
        };
        let content_type = fields.text("content_type")?;
        if content_type.as_ref().is_some_and(|kind| kind.len() > MAX_CONTENT_TYPE_BYTES) {
            return Err(fields.refuse("content_type", &format!("has more than {MAX_CONTENT_TYPE_BYTES} bytes")));
        }
        let attributes = fields.text_map("attributes")?;
        check_attributes(&attributes).map_err(|why| fields.refuse("attributes", &why))?;
        Ok(Self {
            body,
            encoding,
            content_type,
            id: fields.parsed("id")?,
            delay_ms: fields.ranged("delay_ms", 0..=MAX_DELAY_MS)?,
            priority: fields.ranged("priority", 0..=MAX_PRIORITY)?.map(|number| priority_of(Some(number))),
            attributes,
        })
    }
}

fn check_attributes(attributes: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    if attributes.len() > MAX_ATTRIBUTES || bytes > MAX_ATTRIBUTES_BYTES {
        return Err(format!(
            "holds {} attributes of {bytes} bytes: at most {MAX_ATTRIBUTES} of {MAX_ATTRIBUTES_BYTES} bytes are allowed",
            attributes.len()
        ));
    }
    Ok(())
}

impl From<BatchMessage> for Publish {
    fn from(message: BatchMessage) -> Self {
        Self {
            body: message.body,
            content_type: message.content_type,
            id: message.id,
            delay_ms: message.delay_ms.unwrap_or(0),
            priority: message.priority.unwrap_or(DEFAULT_PRIORITY),
            attributes: message.attributes,
        }
    }
}

/// Publishes several messages, all or none.
#[derive(Debug, ToSchema)]
pub(super) struct BatchBody {
    /// 1 to 1,000.
    messages: Vec<BatchMessage>,
}

impl FromFields for BatchBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        let items = fields.objects("messages")?;
        check_length(fields, "messages", items.len())?;
        let mut messages = Vec::with_capacity(items.len());
        for mut item in items {
            messages.push(BatchMessage::read(&mut item)?);
            item.finish()?;
        }
        Ok(Self { messages })
    }
}

impl KeylessBody for BatchBody {
    fn max_bytes(api: &ApiState) -> usize {
        api.max_batch_bytes
    }

    fn room(api: &ApiState) -> Option<&BodyRoom> {
        Some(&api.room)
    }
}

impl BatchBody {
    pub(super) fn into_messages(self) -> Vec<Publish> {
        self.messages.into_iter().map(Publish::from).collect()
    }
}

fn check_length(fields: &Fields, name: &str, length: usize) -> Result<(), Error> {
    if (1..=MAX_ITEMS).contains(&(length as u64)) {
        return Ok(());
    }
    Err(fields.refuse(name, &format!("has {length} items: expected 1 to {MAX_ITEMS}")))
}

/// Receives messages.
#[derive(Debug, ToSchema)]
pub(super) struct ReceiveBody {
    /// 1 to 1,000; 1 if left out.
    max: Option<u32>,
    /// 0 to 60,000: how long to wait for the first one; 0 if left out.
    wait_ms: Option<u64>,
    /// 0 to 43,200,000; the queue's if left out.
    visibility_ms: Option<u64>,
}

impl FromFields for ReceiveBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self {
            max: small(fields.ranged("max", 1..=MAX_ITEMS)?),
            wait_ms: fields.integer("wait_ms")?,
            visibility_ms: fields.integer("visibility_ms")?,
        })
    }
}

impl KeylessBody for ReceiveBody {}

impl From<ReceiveBody> for Receive {
    fn from(body: ReceiveBody) -> Self {
        Self { max: body.max.unwrap_or(1), wait_ms: body.wait_ms.unwrap_or(0), visibility_ms: body.visibility_ms }
    }
}

/// Names deliveries that are acknowledged, given back or extended.
#[derive(Debug, ToSchema)]
pub(super) struct ReceiptsBody {
    /// 1 to 1,000.
    pub(super) receipts: Vec<String>,
    /// For nack, 0 to 604,800,000: delivered again after so long; after a back-off that grows if left out.
    pub(super) delay_ms: Option<u64>,
    /// For extend, 0 to 43,200,000: invisible for so long from now; as the queue is configured if left out.
    pub(super) visibility_ms: Option<u64>,
}

impl FromFields for ReceiptsBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self {
            receipts: fields.texts("receipts")?,
            delay_ms: fields.ranged("delay_ms", 0..=MAX_DELAY_MS)?,
            visibility_ms: fields.ranged("visibility_ms", 0..=MAX_VISIBILITY_MS)?,
        })
    }
}

impl KeylessBody for ReceiptsBody {}

/// Gives a partition up whose journal is lost, in favour of what is left of it.
#[derive(Debug, ToSchema)]
pub(super) struct RecoverBody {
    /// The partition, as `GET /v1/cluster` lists it.
    #[schema(value_type = u32)]
    pub(super) partition: PartitionId,
    /// Must be true: messages that only the lost journals held are gone then.
    #[allow(dead_code, reason = "describes the request: it is refused as it is read unless it is true")]
    accept_loss: bool,
}

impl FromFields for RecoverBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        let partition = fields.ranged("partition", 0..=u64::from(u32::MAX))?;
        let partition = small(partition).ok_or_else(|| fields.missing("partition"))?;
        match fields.flag("accept_loss")? {
            Some(true) => Ok(Self { partition: PartitionId(partition), accept_loss: true }),
            _ => Err(fields.refuse("accept_loss", "must be true: what only the lost journals held is gone then")),
        }
    }
}

impl KeylessBody for RecoverBody {}

/// A body that says nothing.
#[derive(Debug)]
pub(super) struct Nothing;

impl FromFields for Nothing {
    fn from_fields(_: &mut Fields) -> Result<Self, Error> {
        Ok(Self)
    }
}

impl KeylessBody for Nothing {}

/// What a consumer asks for in its query string.
#[derive(Debug)]
pub(super) struct ConsumeQuery {
    prefetch: u32,
    visibility_ms: Option<u64>,
}

impl From<ConsumeQuery> for Consume {
    fn from(query: ConsumeQuery) -> Self {
        Self { prefetch: query.prefetch, visibility_ms: query.visibility_ms }
    }
}

impl FromFields for ConsumeQuery {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self { prefetch: count(fields, "prefetch", DEFAULT_PREFETCH)?, visibility_ms: visibility(fields)? })
    }
}

/// How many messages are to be shown.
#[derive(Debug)]
pub(super) struct PeekQuery {
    pub(super) max: u32,
}

impl FromFields for PeekQuery {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self { max: count(fields, "max", DEFAULT_SHOWN)? })
    }
}

fn count(fields: &mut Fields, name: &str, default: u64) -> Result<u32, Error> {
    let number = fields.query_integer(name)?.unwrap_or(default);
    let number = fields.in_range(name, number, 1..=MAX_ITEMS)?;
    Ok(u32::try_from(number).expect("at most 1,000"))
}

fn visibility(fields: &mut Fields) -> Result<Option<u64>, Error> {
    let Some(text) = fields.text("visibility")? else { return Ok(None) };
    let duration = suffixed_duration(&quote(&text)).map_err(|why| Error::bad_request("visibility", why))?;
    fields.in_range("visibility", millis(duration), 0..=MAX_VISIBILITY_MS).map(Some)
}

/// The message that these headers describe, without its body.
pub(super) fn described_message(headers: &HeaderMap) -> Result<Publish, Error> {
    let own_name = one_header(headers, &MESSAGE_ID, "X-Message-Id")?;
    let key = idempotency_key(headers)?;
    if own_name.is_some() && key.is_some() {
        let detail = "X-Message-Id and Idempotency-Key both name the message: give one of them";
        return Err(Error::bad_request("Idempotency-Key", detail));
    }
    let id = |field, text: String| {
        MessageId::new(text).map_err(|error| Error::bad_request(field, format!("as the id of a message: {error}")))
    };
    let id = match (own_name, key) {
        (Some(name), _) => Some(id("X-Message-Id", name)?),
        (None, Some(key)) => Some(id("Idempotency-Key", key)?),
        (None, None) => None,
    };
    let delay_ms = number_header(headers, &DELAY_MS, "X-Delay-Ms", MAX_DELAY_MS)?.unwrap_or(0);
    let priority = priority_of(number_header(headers, &PRIORITY, "X-Priority", MAX_PRIORITY)?);
    let content_type = one_header(headers, &header::CONTENT_TYPE, "content-type")?;
    if content_type.as_ref().is_some_and(|kind| kind.len() > MAX_CONTENT_TYPE_BYTES) {
        let detail = format!("the content type has more than {MAX_CONTENT_TYPE_BYTES} bytes");
        return Err(Error::bad_request("content-type", detail));
    }
    Ok(Publish { content_type, id, delay_ms, priority, ..Publish::new(Bytes::new()) })
}

/// The text of a header that is given at most once.
pub(super) fn one_header(headers: &HeaderMap, name: &HeaderName, field: &str) -> Result<Option<String>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::bad_request(field, format!("the {field} header is given twice")));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(|text| Some(text.to_owned()))
        .map_err(|_| Error::bad_request(field, format!("the {field} header is not UTF-8")))
}

fn number_header(headers: &HeaderMap, name: &HeaderName, field: &str, most: u64) -> Result<Option<u64>, Error> {
    let Some(text) = one_header(headers, name, field)? else { return Ok(None) };
    let number = if text.bytes().all(|c| c.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
    number.filter(|number| *number <= most).map(Some).ok_or_else(|| {
        Error::bad_request(field, format!("{field} is '{}': expected an integer from 0 to {most}", quote(&text)))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read<T: FromFields>(json: &str) -> Result<T, Error> {
        let mut fields = Fields::from_json(json.as_bytes())?;
        let body = T::from_fields(&mut fields)?;
        fields.finish()?;
        Ok(body)
    }

    #[test]
    fn a_batch_is_decoded_message_by_message() {
        let batch: BatchBody = read(
            r#"{"messages":[{"body":"é"},{"body":"AP8=","encoding":"base64","id":"a/b","priority":0,"delay_ms":5,
                "content_type":"x/y","attributes":{"k":"v"}}]}"#,
        )
        .unwrap();
        let messages = batch.into_messages();
        assert_eq!(messages[0], Publish::new("é"));
        let expected = Publish {
            body: Bytes::from_static(&[0, 255]),
            content_type: Some("x/y".into()),
            id: Some(MessageId::new("a/b").unwrap()),
            delay_ms: 5,
            priority: 0,
            attributes: BTreeMap::from([("k".into(), "v".into())]),
        };
        assert_eq!(messages[1], expected);
    }

    #[test]
    fn headers_describe_a_message() {
        let headers = |pairs: &[(&'static str, &str)]| -> HeaderMap {
            let pair = |(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            };
            pairs.iter().map(pair).collect()
        };
        let plain = described_message(&HeaderMap::new()).unwrap();
        assert_eq!(plain, Publish::new(""));
        let full = headers(&[("x-message-id", "é"), ("x-delay-ms", "7"), ("x-priority", "9"), ("content-type", "a/b")]);
        let full = described_message(&full).unwrap();
        assert_eq!((full.id.unwrap().as_str(), full.delay_ms, full.priority), ("é", 7, 9));
        assert_eq!(full.content_type.unwrap(), "a/b");
        let keyed = described_message(&headers(&[("idempotency-key", "k-1")])).unwrap();
        assert_eq!(keyed.id.unwrap().as_str(), "k-1");
    }
}
