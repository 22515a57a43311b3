//! What receivers say about their deliveries: done, not done, not yet done.

use super::{
    Counted, OpAnswer, QueueEffect, Queues, Receipt,
    expire::Reason,
    state::{Place, Queue},
    step::Step,
};
use crate::ids::{QueueName, Tick};

/// How long the first nack that names no delay puts a message off, in milliseconds; each delivery doubles it.
pub const FIRST_BACK_OFF_MS: u64 = 1_000;
/// No nack puts a message off for longer than this unless it says so, in milliseconds.
pub const MAX_BACK_OFF_MS: u64 = 300_000;

impl Queues {
    pub(super) fn settle(
        &mut self,
        name: &QueueName,
        receipts: &[Receipt],
        effects: &mut Vec<QueueEffect>,
        settle: impl Fn(&mut Queue, &mut Step<'_>, Receipt) -> bool,
    ) -> OpAnswer {
        let settled = self
            .at_queue(name, effects, |queue, step| receipts.iter().partition(|receipt| settle(queue, step, **receipt)));
        let (done, expired) = settled.unwrap_or_else(|| (vec![], receipts.to_vec()));
        OpAnswer::Receipts { done, expired }
    }
}

/// The delay before a message is delivered again that has been delivered so often.
fn back_off_ms(deliveries: u32) -> u64 {
    let doublings = deliveries.saturating_sub(1).min(63);
    FIRST_BACK_OFF_MS.saturating_mul(1 << doublings).min(MAX_BACK_OFF_MS)
}

impl Queue {
    fn lasts(&self, receipt: Receipt) -> bool {
        let place = self.messages.get(receipt.offset).map(|message| message.place);
        matches!(place, Some(Place::InFlight(_, lease)) if lease == receipt.lease)
    }

    pub(super) fn ack(&mut self, step: &mut Step<'_>, receipt: Receipt) -> bool {
        if !self.lasts(receipt) {
            return step.acks.knows(receipt, self.number);
        }
        self.remove(receipt.offset);
        self.totals.acknowledged += 1;
        step.count(Counted::Acknowledged, 1);
        step.acks.remember(receipt, self.number, step.limits.acks);
        true
    }

    pub(super) fn nack(&mut self, step: &mut Step<'_>, receipt: Receipt, delay_ms: Option<u64>) -> bool {
        if !self.lasts(receipt) {
            return false;
        }
        let deliveries = self.messages.get(receipt.offset).map_or(0, |message| message.deliveries);
        step.count(Counted::Returned, 1);
        self.put_back(step, receipt.offset, step.now.plus_ms(delay_ms.unwrap_or_else(|| back_off_ms(deliveries))));
        true
    }

    pub(super) fn extend(&mut self, step: &mut Step<'_>, receipt: Receipt, visibility_ms: Option<u64>) -> bool {
        if !self.lasts(receipt) {
            return false;
        }
        let until = step.now.plus_ms(visibility_ms.unwrap_or(self.config.visibility_ms));
        if until <= step.now {
            self.time_out(step, receipt.offset);
        } else {
            self.place(receipt.offset, Place::InFlight(until, receipt.lease));
        }
        true
    }

    pub(super) fn give_back(&mut self, step: &mut Step<'_>, receipt: Receipt) -> bool {
        if !self.lasts(receipt) {
            return false;
        }
        let Some(message) = self.message_mut(receipt.offset) else { return false };
        let again = message.deliveries > 1;
        message.deliveries = message.deliveries.saturating_sub(1);
        self.totals.delivered = self.totals.delivered.saturating_sub(1);
        self.totals.redelivered = self.totals.redelivered.saturating_sub(u64::from(again));
        self.put_back(step, receipt.offset, step.now);
        true
    }

    /// The visibility of a delivery is over.
    pub(super) fn time_out(&mut self, step: &mut Step<'_>, offset: u64) {
        step.count(Counted::TimedOut, 1);
        self.put_back(step, offset, step.now);
    }

    /// A message that was delivered is to be delivered again from this time on, unless it is too old or
    /// has been delivered too often.
    pub(super) fn put_back(&mut self, step: &mut Step<'_>, offset: u64, from: Tick) {
        let Some(message) = self.messages.get(offset) else { return };
        if self.too_old_at(message.enqueued_at) <= step.now {
            self.expire(step, offset);
        } else if let Some(to) = self.exhausted(message.deliveries).cloned() {
            self.dead_letter(step, offset, to, Reason::MaxDeliveries);
        } else if from <= step.now {
            self.place(offset, Place::Ready);
            step.ready();
        } else {
            self.place(offset, Place::Delayed(from));
        }
    }
}
