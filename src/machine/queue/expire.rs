//! What time does: deliveries and delays that are over, age, and what need not be remembered any more.

use std::sync::Arc;

use super::{
    Counted, DEAD_LETTER_QUEUE, DEAD_LETTER_REASON, OnExpiry, QueueEffect, Queues,
    state::{Extra, Message, Place, Queue},
    step::Step,
};
use crate::ids::{QueueName, Tick};

/// Why a message became a dead letter.
#[derive(Clone, Copy)]
pub(super) enum Reason {
    MaxDeliveries,
    Expired,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::MaxDeliveries => "max-deliveries",
            Self::Expired => "expired",
        }
    }
}

impl Queues {
    /// Does what is due, of the queue that waits longest first.
    pub(super) fn timer(&mut self, effects: &mut Vec<QueueEffect>) {
        let mut budget = self.limits.due;
        while budget > 0
            && let Some((at, name)) = self.due.first().cloned()
            && at <= self.now
        {
            let left = self.at_queue(&name, effects, |queue, step| {
                step.with_budget(budget);
                queue.do_what_is_due(step);
                step.budget()
            });
            // Whatever is due costs something, or it would be due for ever.
            debug_assert!(left.is_some_and(|left| left < budget), "a queue was due and did nothing");
            budget = left.unwrap_or(0).min(budget - 1);
        }
    }
}

impl Queue {
    pub(super) fn do_what_is_due(&mut self, step: &mut Step<'_>) {
        while let Some((until, offset)) = self.in_flight.first().copied()
            && until <= step.now
            && step.spend()
        {
            self.time_out(step, offset);
        }
        while let Some((until, offset)) = self.delayed.first().copied()
            && until <= step.now
            && step.spend()
        {
            self.place(offset, Place::Ready);
            step.ready();
        }
        while let Some((offset, message)) = self.messages.first_from(self.aged)
            && self.too_old_at(message.enqueued_at) <= step.now
            && step.spend()
        {
            let delivered = matches!(message.place, Place::InFlight(..));
            self.aged = offset + 1;
            if !delivered {
                self.expire(step, offset);
            }
        }
        let over =
            |oldest: Option<Tick>, window_ms: u64, now: Tick| oldest.is_some_and(|at| at.plus_ms(window_ms) <= now);
        while over(self.ids.oldest(), self.id_window_ms(), step.now) && step.spend() {
            self.ids.forget_oldest(|_| false);
        }
        while over(self.origins.oldest(), self.origin_window_ms(), step.now) && step.spend() {
            self.origins.forget_oldest(|offset| self.messages.contains_key(offset));
        }
    }

    /// A message is too old.
    pub(super) fn expire(&mut self, step: &mut Step<'_>, offset: u64) {
        match (&self.config.dead_letter, self.config.on_expiry) {
            (Some(to), OnExpiry::DeadLetter) => self.dead_letter(step, offset, to.clone(), Reason::Expired),
            _ => {
                self.remove(offset);
                self.totals.expired += 1;
                step.count(Counted::Expired, 1);
            }
        }
    }

    pub(super) fn dead_letter(&mut self, step: &mut Step<'_>, offset: u64, to: QueueName, reason: Reason) {
        let Some(mut message) = self.remove(offset) else { return };
        let why = [(DEAD_LETTER_QUEUE, self.name.as_str()), (DEAD_LETTER_REASON, reason.as_str())];
        Arc::make_mut(&mut message).describe(&why);
        self.totals.dead_lettered += 1;
        step.count(Counted::DeadLettered, 1);
        step.send(offset, self.name.clone(), to, message);
    }
}

impl Message {
    /// The message as it is moved: with these attributes about dead letters instead of any others.
    pub(super) fn describe(&mut self, about: &[(&str, &str)]) {
        let Extra { content_type, attributes, .. } = self.extra.take().map(|extra| *extra).unwrap_or_default();
        let mut attributes: Vec<_> = attributes
            .into_vec()
            .into_iter()
            .filter(|(name, _)| ![DEAD_LETTER_QUEUE, DEAD_LETTER_REASON].contains(&name.as_ref()))
            .chain(about.iter().map(|(name, value)| (Box::from(*name), Box::from(*value))))
            .collect();
        attributes.sort();
        if content_type.is_some() || !attributes.is_empty() {
            self.extra = Some(Box::new(Extra { content_type, attributes: attributes.into(), origin: None }));
        }
    }
}
