//! What a queue is like unless it was told otherwise, and the names around dead letters.

use super::{OnExpiry, QueueConfig};
use crate::{
    ids::{MAX_NAME_BYTES, QueueName},
    machine::placement::stable_hash,
};

/// How long a delivery is invisible to others by default, in milliseconds.
pub const DEFAULT_VISIBILITY_MS: u64 = 30_000;
/// After how many deliveries a message is a dead letter by default.
pub const DEFAULT_MAX_DELIVERIES: u32 = 16;
/// How long the id of a message is remembered by default, in seconds.
pub const DEFAULT_DEDUP_WINDOW_S: u64 = 300;
/// How the name of a dead-letter queue ends unless it was chosen.
pub const DEAD_LETTER_SUFFIX: &str = ".dead";
/// The attribute of a dead letter that names the queue from which it comes. A redrive takes it off.
pub const DEAD_LETTER_QUEUE: &str = "x-dead-letter-queue";
/// The attribute of a dead letter that says why it is one: `max-deliveries` or `expired`. A redrive takes
/// it off.
pub const DEAD_LETTER_REASON: &str = "x-dead-letter-reason";

impl QueueConfig {
    /// What a queue of this name has unless it was told otherwise: one of dead letters, by its name, has
    /// no dead-letter queue itself, so that nothing goes round in circles.
    pub fn defaults(queue: &QueueName, retention_s: u64) -> Self {
        if queue.as_str().ends_with(DEAD_LETTER_SUFFIX) {
            return Self::of_dead_letters(retention_s);
        }
        Self {
            max_deliveries: Some(DEFAULT_MAX_DELIVERIES),
            dead_letter: Some(dead_letter_name(queue)),
            ..Self::of_dead_letters(retention_s)
        }
    }

    /// What a queue has that was made for messages which were moved.
    pub fn of_dead_letters(retention_s: u64) -> Self {
        Self {
            retention_s,
            visibility_ms: DEFAULT_VISIBILITY_MS,
            max_deliveries: None,
            dead_letter: None,
            on_expiry: OnExpiry::Drop,
            max_messages: None,
            max_bytes: None,
            dedup_window_s: DEFAULT_DEDUP_WINDOW_S,
        }
    }
}

/// The dead-letter queue of a queue that names none: `<queue>.dead`. Where that is too long, as much of
/// the name as fits, `~`, and the hash of the whole name in 16 hexadecimal digits come before `.dead`.
pub fn dead_letter_name(queue: &QueueName) -> QueueName {
    let name = queue.as_str();
    let text = if name.len() + DEAD_LETTER_SUFFIX.len() <= MAX_NAME_BYTES {
        format!("{name}{DEAD_LETTER_SUFFIX}")
    } else {
        let end = format!("~{:016x}{DEAD_LETTER_SUFFIX}", stable_hash(name.as_bytes()));
        let room = MAX_NAME_BYTES - end.len();
        let begin = (0..=room).rev().find_map(|length| name.get(..length)).unwrap_or_default();
        format!("{begin}{end}")
    };
    QueueName::new(text).expect("it is cut to the length of a name, and ends like no dots")
}
