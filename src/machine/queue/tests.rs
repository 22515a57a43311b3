//! What the queues answer and tell, whole.

use super::*;
use crate::ids::MessageId;

pub(super) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(super) fn id(name: &str) -> MessageId {
    MessageId::new(name).unwrap()
}
