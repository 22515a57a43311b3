//! The ranges of what an application may ask of the queues (API.md, "Ranges"), and the bounds that API.md
//! leaves to us, checked in one place for HTTP and library alike.

use std::ops::RangeInclusive;

use super::{Consume, Publish, QueueSettings, Receive};
use crate::{
    error::{Error, ErrorCode},
    ids::QueueName,
    machine::queue::QueueConfig,
    node::limits::check_range,
};

/// How long a receive may wait, in milliseconds.
pub(super) const WAIT_MS: RangeInclusive<u64> = 0..=60_000;
/// How long a delivery may be invisible to others, in milliseconds: at most 12 hours.
pub(super) const VISIBILITY_MS: RangeInclusive<u64> = 0..=43_200_000;
/// How long a message may wait before it is delivered, in milliseconds: at most 7 days.
pub(super) const DELAY_MS: RangeInclusive<u64> = 0..=604_800_000;
/// Messages of a publish, of a receive and of a peek, receipts, and what a consumer may have out.
pub(super) const ITEMS: RangeInclusive<u64> = 1..=1_000;
/// The greatest priority.
const MAX_PRIORITY: u64 = 9;
/// Most bytes in a content type.
const MAX_CONTENT_TYPE_BYTES: usize = 256;
/// Most attributes of a message.
const MAX_ATTRIBUTES: usize = 64;
/// Most bytes of the names and values of all attributes of a message.
const MAX_ATTRIBUTE_BYTES: usize = 16 * 1024;
/// How long messages may be kept, in seconds: at most ten years.
const RETENTION_S: RangeInclusive<u64> = 1..=315_360_000;
/// How often a message may be delivered.
const DELIVERIES: RangeInclusive<u64> = 1..=1_000_000;
/// How long ids of messages may be remembered, in seconds: at most 7 days.
const DEDUP_S: RangeInclusive<u64> = 0..=604_800;
/// Limits of a queue, in messages or bytes: what JSON carries exactly.
const LIMIT: RangeInclusive<u64> = 1..=(1 << 53) - 1;

/// The settings that bound what a message may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sizes {
    /// `MAX_VALUE_BYTES`.
    pub(crate) value: usize,
    /// `MAX_BATCH_BYTES`.
    pub(crate) batch: usize,
}

pub(super) fn check_items(field: &str, items: usize) -> Result<(), Error> {
    if ITEMS.contains(&(items as u64)) {
        return Ok(());
    }
    let (least, most) = (ITEMS.start(), ITEMS.end());
    Err(Error::bad_request(field, format!("{field} has {items} items: expected {least} to {most}")))
}

pub(super) fn check_publish(messages: &[Publish], sizes: Sizes) -> Result<(), Error> {
    check_items("messages", messages.len())?;
    let mut total = 0;
    for message in messages {
        check_range("delay_ms", message.delay_ms, DELAY_MS)?;
        check_range("priority", u64::from(message.priority), 0..=MAX_PRIORITY)?;
        let content_type = message.content_type.as_ref().map_or(0, String::len);
        if content_type > MAX_CONTENT_TYPE_BYTES {
            return Err(too_long("content_type", content_type, MAX_CONTENT_TYPE_BYTES));
        }
        let named: usize = message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
        if message.attributes.len() > MAX_ATTRIBUTES {
            let detail = format!("a message has {} attributes: at most {MAX_ATTRIBUTES}", message.attributes.len());
            return Err(Error::bad_request("attributes", detail));
        }
        if named > MAX_ATTRIBUTE_BYTES {
            return Err(too_long("attributes", named, MAX_ATTRIBUTE_BYTES));
        }
        if message.body.len() > sizes.value {
            return Err(too_large(
                format!("a message has {} bytes", message.body.len()),
                "MAX_VALUE_BYTES",
                sizes.value,
            ));
        }
        total += message.body.len() + named;
    }
    if total > sizes.batch {
        return Err(too_large(format!("the messages have {total} bytes together"), "MAX_BATCH_BYTES", sizes.batch));
    }
    Ok(())
}

fn too_long(field: &str, bytes: usize, most: usize) -> Error {
    Error::bad_request(field, format!("{field} has {bytes} bytes: at most {most} are allowed"))
}

fn too_large(what: String, setting: &str, limit: usize) -> Error {
    let mut error = Error::new(ErrorCode::PayloadTooLarge, format!("{what}: {setting} allows {limit}"));
    error.details.limit = Some(limit as u64);
    error
}

pub(super) fn check_receive(receive: &Receive) -> Result<(), Error> {
    check_range("max", u64::from(receive.max), ITEMS)?;
    check_range("wait_ms", receive.wait_ms, WAIT_MS)?;
    check_visibility(receive.visibility_ms)
}

pub(super) fn check_consume(consume: &Consume) -> Result<(), Error> {
    check_range("prefetch", u64::from(consume.prefetch), ITEMS)?;
    check_visibility(consume.visibility_ms)
}

pub(super) fn check_visibility(visibility_ms: Option<u64>) -> Result<(), Error> {
    visibility_ms.map_or(Ok(()), |ms| check_range("visibility_ms", ms, VISIBILITY_MS))
}

pub(super) fn check_delay(delay_ms: Option<u64>) -> Result<(), Error> {
    delay_ms.map_or(Ok(()), |ms| check_range("delay_ms", ms, DELAY_MS))
}

/// The configuration that the settings ask for, whole.
pub(super) fn checked_config(
    queue: &QueueName,
    settings: QueueSettings,
    retention_s: u64,
) -> Result<QueueConfig, Error> {
    let optional = |field, value: Option<u64>, range| value.map_or(Ok(()), |value| check_range(field, value, range));
    optional("retention_s", settings.retention_s, RETENTION_S)?;
    optional("visibility_ms", settings.visibility_ms, VISIBILITY_MS)?;
    optional("max_deliveries", settings.max_deliveries.map(u64::from), DELIVERIES)?;
    optional("max_messages", settings.max_messages, LIMIT)?;
    optional("max_bytes", settings.max_bytes, LIMIT)?;
    optional("dedup_window_s", settings.dedup_window_s, DEDUP_S)?;
    if settings.dead_letter.as_ref() == Some(queue) {
        return Err(Error::bad_request("dead_letter", "a queue cannot be its own dead-letter queue: name another one"));
    }
    let defaults = QueueConfig::defaults(queue, retention_s);
    Ok(QueueConfig {
        retention_s: settings.retention_s.unwrap_or(defaults.retention_s),
        visibility_ms: settings.visibility_ms.unwrap_or(defaults.visibility_ms),
        max_deliveries: settings.max_deliveries.or(defaults.max_deliveries),
        dead_letter: settings.dead_letter.or(defaults.dead_letter),
        on_expiry: settings.on_expiry.unwrap_or(defaults.on_expiry),
        max_messages: settings.max_messages,
        max_bytes: settings.max_bytes,
        dedup_window_s: settings.dedup_window_s.unwrap_or(defaults.dedup_window_s),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { value: 10, batch: 25 };

    #[test]
    fn a_publish_at_its_limits_passes_and_names_what_goes_beyond() {
        let of = |bytes: usize| Publish::new(vec![0u8; bytes]);
        assert_eq!(check_publish(&[of(10), of(10), of(5)], SIZES), Ok(()));
        for (messages, limit) in [(vec![of(11)], 10), (vec![of(10), of(10), of(6)], 25)] {
            let error = check_publish(&messages, SIZES).unwrap_err();
            assert_eq!((error.code, error.details.limit), (ErrorCode::PayloadTooLarge, Some(limit)));
        }
        let odd = [
            ("messages", vec![]),
            ("delay_ms", vec![Publish { delay_ms: 604_800_001, ..of(1) }]),
            ("priority", vec![Publish { priority: 10, ..of(1) }]),
            ("content_type", vec![Publish { content_type: Some("x".repeat(257)), ..of(1) }]),
            ("attributes", vec![Publish { attributes: [("x".into(), "y".repeat(16 * 1024))].into(), ..of(1) }]),
        ];
        for (field, messages) in odd {
            let error = check_publish(&messages, SIZES).unwrap_err();
            assert_eq!(error.details.field.as_deref(), Some(field));
        }
    }

    #[test]
    fn what_a_configuration_leaves_out_has_its_default() {
        let queue = QueueName::new("jobs").unwrap();
        let config = checked_config(&queue, QueueSettings::default(), 60).unwrap();
        assert_eq!(config, QueueConfig::defaults(&queue, 60));
        let own = QueueSettings { dead_letter: Some(queue.clone()), ..QueueSettings::default() };
        assert_eq!(checked_config(&queue, own, 60).unwrap_err().details.field.as_deref(), Some("dead_letter"));
    }
}
