//! What operators do to a queue as a whole.

use std::sync::Arc;

use super::{
    Counted, DEAD_LETTER_QUEUE, OpAnswer, QueueConfig, QueueEffect, QueueRefusal, Queues,
    state::{Message, Place, Queue},
    step::Step,
};
use crate::ids::QueueName;

impl Queues {
    pub(super) fn configure(
        &mut self,
        name: &QueueName,
        config: &QueueConfig,
        retention_s: u64,
        effects: &mut Vec<QueueEffect>,
    ) -> Result<OpAnswer, QueueRefusal> {
        self.make(name, || QueueConfig::defaults(name, retention_s))?;
        self.at_queue(name, effects, |queue, _| queue.configure(config.clone()))
            .map(OpAnswer::Configured)
            .ok_or(QueueRefusal::NoSuchQueue)
    }

    /// What of it is in the outbox still goes.
    pub(super) fn delete(&mut self, name: &QueueName) -> Result<(), QueueRefusal> {
        let queue = self.queues.remove(name).ok_or(QueueRefusal::NoSuchQueue)?;
        if let Some(at) = queue.due {
            self.due.remove(&(at, queue.name.clone()));
        }
        self.discarded.0.push(queue);
        Ok(())
    }

    pub(super) fn purge(&mut self, name: &QueueName, effects: &mut Vec<QueueEffect>) -> Result<OpAnswer, QueueRefusal> {
        let purged = self.at_queue(name, effects, Queue::purge).ok_or(QueueRefusal::NoSuchQueue)?;
        let count = purged.messages.len() as u64;
        self.discarded.0.push(purged);
        Ok(OpAnswer::Purged(count))
    }

    /// What deleting and purging left to be freed, which may take a moment for each hundred thousand messages. Freed
    /// with the next record, unless it is taken before.
    pub fn take_discarded(&mut self) -> Discarded {
        std::mem::take(&mut self.discarded)
    }

    pub(super) fn redrive(
        &mut self,
        name: &QueueName,
        to: &QueueName,
        effects: &mut Vec<QueueEffect>,
    ) -> Result<OpAnswer, QueueRefusal> {
        if !self.queues.contains_key(name) {
            return Err(QueueRefusal::NoSuchQueue);
        }
        if self.outbox.len() >= self.limits.outbox {
            return Err(QueueRefusal::PartitionFull);
        }
        self.at_queue(name, effects, |queue, step| queue.redrive(step, to))
            .map(OpAnswer::Redriven)
            .ok_or(QueueRefusal::NoSuchQueue)
    }

    pub(super) fn moved(&mut self, offsets: &[u64], effects: &mut Vec<QueueEffect>) {
        for offset in offsets {
            let Some((queue, next)) = self.outbox.arrived(*offset) else { continue };
            let next = next.and_then(|offset| self.outbox.to_tell(self.partition, offset));
            effects.push(QueueEffect::Count { queue, what: Counted::Moved, messages: 1 });
            effects.extend(next.map(QueueEffect::Move));
        }
    }
}

/// Queues and messages that are gone and not freed yet. They are no part of the state.
#[derive(Debug, Default)]
pub struct Discarded(Vec<Queue>);

impl Discarded {
    /// Whether there is nothing to free.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Clone for Discarded {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Discarded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Message {
    /// Whether this is a dead letter of that queue, and not one that came back from it.
    fn is_dead_letter_of(&self, queue: &QueueName) -> bool {
        let marked = |attributes: &[(Box<str>, Box<str>)]| {
            attributes.iter().any(|(name, value)| **name == *DEAD_LETTER_QUEUE && **value == *queue.as_str())
        };
        self.origin().is_some_and(|origin| origin.queue == *queue)
            && self.extra.as_ref().is_some_and(|extra| marked(&extra.attributes))
    }
}

impl Queue {
    fn configure(&mut self, config: QueueConfig) -> QueueConfig {
        if config.retention_s != self.config.retention_s {
            self.aged = 0;
        }
        self.config = config;
        // A queue that is its own would deliver dead letters for ever.
        if self.config.dead_letter.as_ref() == Some(&self.name) {
            self.config.dead_letter = None;
        }
        self.config.clone()
    }

    /// Its messages, as a queue of their own.
    fn purge(&mut self, step: &mut Step<'_>) -> Self {
        let mut purged = Self::new(self.name.clone(), self.number, self.config.clone());
        std::mem::swap(&mut purged.messages, &mut self.messages);
        std::mem::swap(&mut purged.ready, &mut self.ready);
        std::mem::swap(&mut purged.delayed, &mut self.delayed);
        std::mem::swap(&mut purged.in_flight, &mut self.in_flight);
        self.bytes = 0;
        self.origins.release_all();
        step.count(Counted::Purged, purged.messages.len() as u64);
        purged
    }

    /// What is delivered to somebody stays.
    fn redrive(&mut self, step: &mut Step<'_>, to: &QueueName) -> u64 {
        let delivered = |message: &Message| matches!(message.place, Place::InFlight(..));
        let room = step.limits.outbox.saturating_sub(step.outbox.len());
        let offsets: Vec<u64> = self
            .messages
            .iter()
            .filter(|(_, message)| message.is_dead_letter_of(to) && !delivered(message))
            .map(|(offset, _)| offset)
            .take(room)
            .collect();
        for offset in &offsets {
            let Some(mut message) = self.remove(*offset) else { continue };
            Arc::make_mut(&mut message).describe(&[]);
            step.send(*offset, self.name.clone(), to.clone(), message);
        }
        offsets.len() as u64
    }
}
