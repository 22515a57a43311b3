//! What is looked at without changing anything.

use std::ops::Bound;

use super::{
    Delivery, Figures, MAX_LEASED, MAX_LEASED_BYTES, Move, QueueConfig, QueueStats, Queues, Receipt,
    state::{Place, Queue, Rank},
};
use crate::ids::{PartitionId, QueueName, Tick};

impl Queues {
    /// Whose queues these are.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// How many messages a lease at this time could deliver, at most: those whose delay or visibility is
    /// over by then are counted, some of which may turn out to be too old or delivered too often.
    /// Takes time in proportion to what is over and not yet done; see [`Self::has_deliverable`].
    pub fn deliverable(&self, queue: &QueueName, now: Tick) -> u64 {
        self.queues.get(queue).map_or(0, |queue| queue.depth(now))
    }

    /// Whether [`Self::deliverable`] is more than nothing, in constant time.
    pub fn has_deliverable(&self, queue: &QueueName, now: Tick) -> bool {
        let over = |first: Option<&(Tick, u64)>| first.is_some_and(|(until, _)| *until <= now);
        self.queues.get(queue).is_some_and(|queue| {
            !queue.ready.is_empty() || over(queue.delayed.first()) || over(queue.in_flight.first())
        })
    }

    /// The configuration of a queue.
    pub fn config(&self, queue: &QueueName) -> Option<&QueueConfig> {
        self.queues.get(queue).map(|queue| &queue.config)
    }

    /// The figures of a queue at this time.
    pub fn stats(&self, queue: &QueueName, now: Tick) -> Option<QueueStats> {
        self.queues.get(queue).map(|queue| queue.stats(now))
    }

    /// How much there is in all queues at this time. Takes time in proportion to their number.
    pub fn figures(&self, now: Tick) -> Figures {
        let mut sum = Figures::default();
        for queue in self.queues.values() {
            let stats = queue.stats(now);
            sum.queues += 1;
            sum.ready += stats.depth;
            sum.in_flight += stats.in_flight;
            sum.delayed += stats.delayed;
            sum.bytes += stats.bytes;
            sum.oldest_age_ms = sum.oldest_age_ms.max(stats.oldest_age_ms);
        }
        sum
    }

    /// The names of the queues, in order.
    pub fn names(&self) -> impl Iterator<Item = &QueueName> {
        self.queues.keys()
    }

    /// At most `limit` names after this one, in order.
    pub fn range(&self, after: Option<&QueueName>, limit: usize) -> Vec<QueueName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.queues.range((from, Bound::Unbounded)).take(limit).map(|(name, _)| name.clone()).collect()
    }

    /// What waits to be delivered, in the order in which it would be, without leasing it: at most `max`
    /// messages, and [`MAX_LEASED`], and none further once they have [`MAX_LEASED_BYTES`].
    pub fn peek(&self, queue: &QueueName, max: usize) -> Option<Vec<Delivery>> {
        let queue = self.queues.get(queue)?;
        let mut bytes = 0;
        let mut shown = Vec::new();
        for offset in queue.ready.iter().map(|rank: &Rank| rank.offset()).take(max.min(MAX_LEASED)) {
            let Some(message) = queue.messages.get(offset).filter(|_| bytes < MAX_LEASED_BYTES) else { break };
            bytes += message.body.len();
            shown.push(message.shown(offset, None, Tick(0)));
        }
        Some(shown)
    }

    /// Whether this delivery lasts: it is neither settled nor, as far as the log says, over.
    pub fn is_out(&self, queue: &QueueName, receipt: &Receipt) -> bool {
        let message = self.queues.get(queue).and_then(|queue| queue.messages.get(receipt.offset));
        message.is_some_and(|message| matches!(message.place, Place::InFlight(_, lease) if lease == receipt.lease))
    }

    /// What was told to be moved and has not arrived: for each destination at most
    /// [`MAX_MOVES_PER_DESTINATION`](super::MAX_MOVES_PER_DESTINATION), in the order in which they came.
    pub fn outbox(&self) -> Vec<Move> {
        self.outbox.told().filter_map(|offset| self.outbox.to_tell(self.partition, offset)).collect()
    }

    /// How many messages are in the outbox, told or not.
    pub fn outbox_len(&self) -> usize {
        self.outbox.len()
    }
}

impl Queue {
    fn over(&self, now: Tick) -> (u64, u64) {
        let last = (now, u64::MAX);
        (self.delayed.range(..=last).count() as u64, self.in_flight.range(..=last).count() as u64)
    }

    fn depth(&self, now: Tick) -> u64 {
        let (delayed, in_flight) = self.over(now);
        self.ready.len() as u64 + delayed + in_flight
    }

    fn stats(&self, now: Tick) -> QueueStats {
        let (delayed_over, in_flight_over) = self.over(now);
        QueueStats {
            queue: self.name.clone(),
            config: self.config.clone(),
            depth: self.ready.len() as u64 + delayed_over + in_flight_over,
            in_flight: self.in_flight.len() as u64 - in_flight_over,
            delayed: self.delayed.len() as u64 - delayed_over,
            oldest_age_ms: self.messages.first_from(0).map_or(0, |(_, message)| now.ms_since(message.enqueued_at)),
            redelivered: self.totals.redelivered,
            dead_lettered: self.totals.dead_lettered,
            expired: self.totals.expired,
            bytes: self.bytes,
            published: self.totals.published,
            delivered: self.totals.delivered,
            acknowledged: self.totals.acknowledged,
        }
    }
}
