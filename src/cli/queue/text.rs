//! Queues and messages as people read them.

use std::time::Duration;

use crate::{
    api::queue_bodies::{
        Encoding, MessageBody, MessageList, PublishedBody, QueueBody, QueueConfigBody, QueueList, ReceiptsAnswer,
    },
    cli::{
        output::table,
        remote::{cell, for_people},
    },
    machine::queue::OnExpiry,
    node::status::{PartitionState, PartitionView},
};

/// Most characters of a body in a table.
const MAX_SHOWN_CHARS: usize = 120;

pub(super) fn published(messages: &[PublishedBody]) -> String {
    let row = |message: &PublishedBody| {
        let duplicate = if message.duplicate { "yes" } else { "-" };
        [message.id.to_string(), message.partition.to_string(), message.offset.to_string(), duplicate.to_owned()]
    };
    table(["ID", "PARTITION", "OFFSET", "DUPLICATE"], messages.iter().map(row))
}

pub(super) fn messages(list: MessageList) -> String {
    let row = |message: MessageBody| {
        [
            message.receipt.clone().unwrap_or_else(|| "-".to_owned()),
            message.id.to_string(),
            message.priority.to_string(),
            message.deliveries.to_string(),
            message.enqueued_at.clone(),
            shown(&message),
        ]
    };
    let header = ["RECEIPT", "ID", "PRIORITY", "DELIVERIES", "ENQUEUED AT", "BODY"];
    table(header, list.messages.into_iter().map(row))
}

/// The beginning of a body.
fn shown(message: &MessageBody) -> String {
    let text = match message.encoding {
        Encoding::Utf8 => message.body.clone(),
        Encoding::Base64 => format!("base64:{}", message.body),
    };
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        None => text,
        Some((end, _)) => format!("{}… ({} characters; --output json has all)", &text[..end], text.chars().count()),
    }
}

pub(super) fn receipts(answer: ReceiptsAnswer, done: &str) -> String {
    let done = answer.done.into_iter().map(|receipt| [receipt, done.to_owned()]);
    let failed = answer.failed.into_iter().map(|failed| [failed.receipt, failed.code.to_string()]);
    table(["RECEIPT", "RESULT"], done.chain(failed))
}

pub(super) fn queues(list: QueueList) -> String {
    let row = |queue: QueueBody| {
        [
            queue.queue.to_string(),
            queue.depth.to_string(),
            queue.in_flight.to_string(),
            queue.delayed.to_string(),
            age(queue.oldest_age_ms),
            queue.dead_lettered.to_string(),
            rate(queue.publish_rate),
            rate(queue.ack_rate),
            queue.partition.to_string(),
            format!("{} of {}", queue.in_sync.len(), queue.replicas.len()),
        ]
    };
    let header =
        ["QUEUE", "DEPTH", "IN FLIGHT", "DELAYED", "OLDEST", "DEAD", "PUBLISHED/S", "ACKED/S", "PARTITION", "IN SYNC"];
    table(header, list.queues.into_iter().map(row))
}

fn age(ms: u64) -> String {
    if ms == 0 { "-".to_owned() } else { for_people(Duration::from_millis(ms)) }
}

fn rate(per_second: f64) -> String {
    format!("{per_second:.1}")
}

pub(super) fn queue(queue: QueueBody) -> String {
    let figures = [
        ("queue", queue.queue.to_string()),
        ("depth", queue.depth.to_string()),
        ("in flight", queue.in_flight.to_string()),
        ("delayed", queue.delayed.to_string()),
        ("oldest", age(queue.oldest_age_ms)),
        ("bytes", queue.bytes.to_string()),
        ("redelivered", queue.redelivered.to_string()),
        ("dead-lettered", queue.dead_lettered.to_string()),
        ("expired", queue.expired.to_string()),
        ("published", format!("{}/s", rate(queue.publish_rate))),
        ("delivered", format!("{}/s", rate(queue.deliver_rate))),
        ("acknowledged", format!("{}/s", rate(queue.ack_rate))),
        ("partition", format!("{} (epoch {})", queue.partition, queue.epoch)),
        ("primary", queue.primary.map_or_else(|| "nobody serves it now".to_owned(), |node| node.to_string())),
        ("replicas", cell(&queue.replicas)),
        ("in sync", cell(&queue.in_sync)),
        ("journal", queue.journal),
    ];
    pairs(figures.into_iter().chain(config_pairs(queue.config)))
}

pub(super) fn config(config: QueueConfigBody) -> String {
    pairs(config_pairs(config))
}

fn config_pairs(config: QueueConfigBody) -> [(&'static str, String); 8] {
    let limit = |limit: Option<u64>| limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    let expiry = match config.on_expiry {
        OnExpiry::Drop => "drop",
        OnExpiry::DeadLetter => "dead-letter",
    };
    [
        ("retention", for_people(Duration::from_secs(config.retention_s))),
        ("visibility", for_people(Duration::from_millis(config.visibility_ms))),
        ("max deliveries", limit(config.max_deliveries.map(u64::from))),
        ("dead letters to", config.dead_letter.map_or_else(|| "-".to_owned(), |queue| queue.to_string())),
        ("on expiry", expiry.to_owned()),
        ("max messages", limit(config.max_messages)),
        ("max bytes", limit(config.max_bytes)),
        ("dedup window", for_people(Duration::from_secs(config.dedup_window_s))),
    ]
}

fn pairs(pairs: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let line = |(name, value): (&str, String)| format!("{name:<15}  {}\n", crate::cli::output::one_line(&value));
    pairs.into_iter().map(line).collect()
}

/// What `recover` is about to give up, and how to say so.
pub(super) fn what_would_be_lost(partition: u32, placed: Option<&PartitionView>) -> String {
    let Some(placed) = placed else {
        return format!("there is no partition {partition}: `syncmesh status` counts those that are not served");
    };
    let last = cell(&placed.in_sync);
    match placed.status {
        PartitionState::Serving => format!("partition {partition} is served: nothing of it is lost"),
        PartitionState::Unplaced => format!("partition {partition} has never been kept: start a queue node"),
        PartitionState::Waiting => format!(
            "partition {partition} waits for {last}, who held all of it: messages that only those hold who have not come \
             back would be lost. Start these nodes again, or their Redis; if that cannot be, say --accept-loss"
        ),
        PartitionState::JournalLost => format!(
            "the journals of partition {partition} are lost: {last}, who held all of it, came back without them or left. \
             What no journal holds any more would be lost. Bring the journals back; if that cannot be, say --accept-loss"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::{MessageId, NodeId};

    fn message(body: &str, encoding: Encoding) -> MessageBody {
        MessageBody {
            id: MessageId::new("m").unwrap(),
            receipt: None,
            body: body.to_owned(),
            encoding,
            content_type: None,
            attributes: BTreeMap::new(),
            priority: 4,
            deliveries: 1,
            enqueued_at: String::new(),
        }
    }

    #[test]
    fn long_bodies_and_binary_ones_say_so() {
        assert_eq!(shown(&message("short", Encoding::Utf8)), "short");
        assert_eq!(shown(&message("/w==", Encoding::Base64)), "base64:/w==");
        let long = shown(&message(&"é".repeat(500), Encoding::Utf8));
        assert!(long.chars().count() < 200 && long.ends_with("… (500 characters; --output json has all)"), "{long}");
    }

    #[test]
    fn a_recovery_says_first_what_it_would_give_up() {
        let placed = |status| PartitionView {
            id: 3,
            primary: None,
            replicas: Vec::new(),
            in_sync: vec![NodeId::default()],
            epoch: 7,
            status,
        };
        for (status, word) in [(PartitionState::Waiting, "waits for"), (PartitionState::JournalLost, "are lost")] {
            let text = what_would_be_lost(3, Some(&placed(status)));
            assert!(text.contains(word) && text.contains("12D3KooW") && text.contains("--accept-loss"), "{text}");
        }
        assert!(what_would_be_lost(3, Some(&placed(PartitionState::Serving))).contains("is served"));
        assert!(what_would_be_lost(99, None).contains("no partition 99"));
    }
}
