//! Leasing messages: who receives what.

use super::{
    Counted, Delivery, Receipt,
    state::{Message, Place, Queue},
    step::Step,
};
use crate::{ids::Tick, machine::replication::Position};

impl Message {
    /// What a receiver is told of it.
    pub(super) fn shown(&self, offset: u64, receipt: Option<Receipt>, visible_at: Tick) -> Delivery {
        Delivery {
            id: self.id.clone(),
            offset,
            receipt,
            body: self.body.clone(),
            content_type: self.content_type(),
            attributes: self.attributes(),
            priority: self.priority,
            deliveries: self.deliveries,
            enqueued_at: self.enqueued_at,
            visible_at,
        }
    }
}

impl Queue {
    pub(super) fn lease(
        &mut self,
        step: &mut Step<'_>,
        position: Position,
        max: u32,
        visibility_ms: Option<u64>,
    ) -> Vec<Delivery> {
        self.do_what_is_due(step);
        let until = step.now.plus_ms(visibility_ms.unwrap_or(self.config.visibility_ms));
        let most = usize::try_from(max).unwrap_or(usize::MAX).min(step.limits.leased);
        let mut deliveries = Vec::new();
        let mut bytes = 0;
        while deliveries.len() < most && bytes < step.limits.leased_bytes {
            let Some(offset) = self.next_to_deliver(step) else { break };
            self.place(offset, Place::InFlight(until, position));
            let Some(message) = self.message_mut(offset) else { break };
            message.deliveries = message.deliveries.saturating_add(1);
            bytes += message.body.len();
            deliveries.push(message.shown(offset, Some(Receipt { offset, lease: position }), until));
        }
        let again = deliveries.iter().filter(|delivery| delivery.deliveries > 1).count() as u64;
        self.totals.delivered += deliveries.len() as u64;
        self.totals.redelivered += again;
        step.count(Counted::Delivered, deliveries.len() as u64);
        step.count(Counted::Redelivered, again);
        if until <= step.now {
            for delivery in &deliveries {
                self.time_out(step, delivery.offset);
            }
        }
        deliveries
    }

    /// The first message that may be delivered. What is too old, or was delivered too often under an
    /// earlier configuration, goes on the way there.
    fn next_to_deliver(&mut self, step: &mut Step<'_>) -> Option<u64> {
        loop {
            let offset = self.ready.first()?.offset();
            let message = self.messages.get(offset)?;
            let too_old = self.too_old_at(message.enqueued_at) <= step.now;
            let exhausted = self.exhausted(message.deliveries).is_some();
            if !too_old && !exhausted {
                return Some(offset);
            }
            if !step.spend() {
                return None;
            }
            self.put_back(step, offset, step.now);
        }
    }
}
