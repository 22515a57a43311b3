//! Taking messages, all or none.

use std::collections::BTreeMap;

use super::{
    Counted, NewMessage, OFFSET_LIMIT, OpAnswer, Origin, Published, QueueConfig, QueueEffect, QueueRefusal, Queues,
    state::{Message, Place, Queue},
    step::Step,
};
use crate::ids::{MessageId, QueueName};

impl Queues {
    pub(super) fn publish(
        &mut self,
        name: &QueueName,
        messages: &[NewMessage],
        retention_s: u64,
        effects: &mut Vec<QueueEffect>,
    ) -> Result<OpAnswer, QueueRefusal> {
        let moved = messages.iter().any(|message| message.origin.is_some());
        // What was moved is taken even so: two partitions that wait for each other would wait for ever.
        if !moved && self.outbox.len() >= self.limits.outbox {
            return Err(QueueRefusal::PartitionFull);
        }
        if OFFSET_LIMIT - self.next_offset <= messages.len() as u64 {
            return Err(QueueRefusal::PartitionFull);
        }
        self.make(name, || match moved {
            true => QueueConfig::of_dead_letters(retention_s),
            false => QueueConfig::defaults(name, retention_s),
        })?;
        self.at_queue(name, effects, |queue, step| queue.publish(step, messages))
            .unwrap_or(Err(QueueRefusal::NoSuchQueue))
            .map(OpAnswer::Published)
    }
}

/// By what a message is known: its origin if it was moved, else its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Id(&'a MessageId),
    Origin(&'a Origin),
}

impl<'a> Key<'a> {
    fn of(message: &'a NewMessage) -> Self {
        message.origin.as_ref().map_or(Self::Id(&message.id), Self::Origin)
    }
}

impl Queue {
    fn publish(&mut self, step: &mut Step<'_>, messages: &[NewMessage]) -> Result<Vec<Published>, QueueRefusal> {
        let taken = self.judge(step, messages);
        let new = || messages.iter().zip(&taken).filter(|(_, published)| !published.duplicate);
        let (count, bytes) =
            new().fold((0u64, 0u64), |(count, bytes), (message, _)| (count + 1, bytes + message.body.len() as u64));
        let over = |now: u64, more: u64, most: Option<u64>| most.is_some_and(|most| now.saturating_add(more) > most);
        if count > 0
            && (over(self.messages.len() as u64, count, self.config.max_messages)
                || over(self.bytes, bytes, self.config.max_bytes))
        {
            return Err(QueueRefusal::QueueFull);
        }
        for (message, published) in new() {
            self.take(step, message, published.offset);
        }
        *step.next_offset += count;
        self.totals.published += count;
        step.count(Counted::Published, count);
        step.count(Counted::Duplicate, taken.len() as u64 - count);
        Ok(taken)
    }

    /// Which messages are new, and the offset that each has or will have.
    fn judge(&self, step: &Step<'_>, messages: &[NewMessage]) -> Vec<Published> {
        let mut next = *step.next_offset;
        let mut in_batch = BTreeMap::new();
        let mut judged = Vec::with_capacity(messages.len());
        for message in messages {
            let key = Key::of(message);
            let earlier = self.known(step, key).or_else(|| in_batch.get(&key).copied());
            let offset = earlier.unwrap_or(next);
            if earlier.is_none() {
                next += 1;
                if messages.len() > 1 && (message.origin.is_some() || self.config.dedup_window_s > 0) {
                    in_batch.insert(key, offset);
                }
            }
            judged.push(Published { id: message.id.clone(), offset, duplicate: earlier.is_some() });
        }
        judged
    }

    fn known(&self, step: &Step<'_>, key: Key<'_>) -> Option<u64> {
        let (known, window_ms) = match key {
            Key::Id(id) => (self.ids.get(id)?, self.id_window_ms()),
            Key::Origin(origin) => (self.origins.get(origin)?, self.origin_window_ms()),
        };
        // An origin is known while its message is there, too.
        let is_there = || matches!(key, Key::Origin(_)) && self.messages.contains_key(known.offset);
        (known.at.plus_ms(window_ms) > step.now || is_there()).then_some(known.offset)
    }

    fn take(&mut self, step: &mut Step<'_>, new: &NewMessage, offset: u64) {
        let message = Message::new(new, step.now);
        if message.place == Place::Ready {
            step.ready();
        }
        match &new.origin {
            Some(origin) => self.origins.remember(origin.clone(), offset, step.now),
            None if self.config.dedup_window_s > 0 => self.ids.remember(message.id.clone(), offset, step.now),
            None => {}
        }
        self.add(offset, message);
        self.forget_beyond_limit(step);
    }

    /// Forgets the oldest of what is remembered, where that is too much, and tells what of it was to be remembered still.
    fn forget_beyond_limit(&mut self, step: &mut Step<'_>) {
        while self.ids.len() > step.limits.ids {
            let early = self.ids.oldest().is_some_and(|at| at.plus_ms(self.id_window_ms()) > step.now);
            self.ids.forget_oldest(|_| false);
            step.count(Counted::ForgottenEarly, u64::from(early));
        }
        while self.origins.len() > step.limits.ids {
            let window_ms = self.origin_window_ms();
            let early = self.origins.order().front().is_some_and(|oldest| {
                oldest.at.plus_ms(window_ms) > step.now && !self.messages.contains_key(oldest.offset)
            });
            self.origins.forget_oldest(|offset| self.messages.contains_key(offset));
            step.count(Counted::ForgottenEarly, u64::from(early));
        }
    }
}
