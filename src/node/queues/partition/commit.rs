//! Applies what is committed, and answers those who wait for it.

use tokio::time::Instant;
use tracing::error;

use super::{
    PartitionTask,
    batches::{HasOp, Kind, Taken, Then},
    states::free,
    waiting::Receiver,
};
use crate::{
    codec::decode,
    machine::{
        queue::{Batch, Counted, Delivery, Op, OpAnswer, QueueEffect, QueueRefusal},
        replication::{Durability, Input, Record},
    },
    node::queues::{
        service::no_such_queue,
        types::QueueView,
        wire::{PartitionAsk, QueueReply, Range},
    },
};

impl PartitionTask {
    /// Applies these records; what is to be told to the replication next, if it goes wrong.
    pub(super) fn commit(&mut self, records: Vec<Record>) -> Option<Input> {
        for record in records {
            self.keeping.committed(&record);
            let taken = self.taken.remove(&record.position);
            let mut effects = Vec::new();
            // A record without a body says nothing to anybody's queues, whatever time it was made at.
            let answers = match (&taken, record.body.is_empty()) {
                (_, true) => Vec::new(),
                (Some(taken), false) => self.queues.apply(record.position, &taken.batch, &mut effects),
                (None, false) => match decode::<Batch>(&record.body) {
                    Ok(batch) => self.queues.apply(record.position, &batch, &mut effects),
                    Err(reason) => {
                        error!(partition = self.id.0, position = ?record.position, %reason, "a record cannot be read");
                        return Some(Input::JournalFailed);
                    }
                },
            };
            self.applied = record.position;
            let discarded = self.queues.take_discarded();
            if !discarded.is_empty() {
                free(discarded);
            }
            if let Some(taken) = taken {
                self.answer_all(taken, answers);
            }
            if self.serving {
                self.heed(record.durability, effects);
            }
        }
        self.checkpoint_when_due();
        None
    }

    fn answer_all(&mut self, taken: Taken, answers: Vec<OpAnswer>) {
        self.batches.landed(taken.durability);
        if taken.durability == Durability::Synced {
            self.shared.metrics.committed(taken.since.elapsed());
        }
        let deleted = taken.batch.ops.iter().filter_map(|op| match op {
            Op::Delete { queue } => Some(queue.clone()),
            _ => None,
        });
        let deleted: Vec<_> = deleted.collect();
        let mut answers = answers.into_iter();
        for (has_op, then) in taken.entries {
            let answer = if has_op == HasOp::Yes { answers.next() } else { None };
            self.answer(then, answer);
        }
        for queue in deleted {
            // Those who waited for it hear that it is gone.
            self.waiting.look(&queue, &self.queues);
            while let Some(receiver) = self.waiting.next(&queue) {
                self.batches.push(Durability::InMemory, None, Then::Look(receiver));
            }
        }
    }

    fn answer(&mut self, then: Then, answer: Option<OpAnswer>) {
        match (then, answer) {
            (Then::Answer { reply, kind }, Some(answer)) => {
                // A copy may have been lost in between: then nobody may be told that it is as safe as it should be.
                let safe = kind == Kind::Other || self.replication.enough_copies();
                let _ = reply.send(if safe { QueueReply::Done(answer) } else { QueueReply::Unknown });
            }
            (Then::Lease(receiver), Some(answer)) => self.leased(receiver, answer),
            (Then::Look(receiver), _) => self.looked(receiver),
            (Then::Watch(watcher), _) => self.waiting.watch(watcher, &self.queues),
            (Then::Read(ask, reply), _) => _ = reply.send(self.read(ask)),
            (Then::Timer, _) => self.timer_under_way = false,
            (Then::Moved(offsets), _) => self.moves.settled(&offsets),
            (Then::Synced(offsets), _) => self.moves_synced(&offsets),
            (Then::Nothing, _) => {}
            (then @ (Then::Answer { .. } | Then::Lease(_)), None) => then.unknown(),
        }
    }

    fn leased(&mut self, receiver: Receiver, answer: OpAnswer) {
        self.waiting.end_lease(&receiver.queue, receiver.max);
        let queue = receiver.queue.clone();
        match answer {
            OpAnswer::Leased(deliveries) if deliveries.is_empty() => {
                if receiver.until > Instant::now() {
                    self.wait(receiver);
                } else {
                    let _ = receiver.reply.send(QueueReply::Delivered(deliveries));
                }
            }
            OpAnswer::Leased(deliveries) => self.hand_over(receiver, deliveries),
            OpAnswer::Refused(QueueRefusal::NoSuchQueue) => {
                let _ = receiver.reply.send(QueueReply::Failed(no_such_queue(&queue)));
            }
            _ => _ = receiver.reply.send(QueueReply::Unknown),
        }
        self.wake(&queue);
    }

    /// What nobody takes any more comes back at once.
    fn hand_over(&mut self, receiver: Receiver, deliveries: Vec<Delivery>) {
        let Receiver { queue, attempt, reply, .. } = receiver;
        let receipts: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.receipt).collect();
        if self.handed.is_gone(attempt) || reply.send(QueueReply::Delivered(deliveries)).is_err() {
            let op = Op::GiveBack { queue, receipts };
            self.batches.push(Durability::InMemory, Some(op), Then::Nothing);
        } else {
            self.handed.handed(attempt, receipts, Instant::now());
        }
    }

    fn looked(&mut self, receiver: Receiver) {
        if self.queues.config(&receiver.queue).is_none() {
            let error = no_such_queue(&receiver.queue);
            let _ = receiver.reply.send(QueueReply::Failed(error));
        } else if self.is_worth_a_lease(&receiver.queue) {
            self.lease(receiver);
        } else if receiver.until > Instant::now() {
            self.wait(receiver);
        } else {
            let _ = receiver.reply.send(QueueReply::Delivered(Vec::new()));
        }
    }

    fn read(&self, ask: PartitionAsk) -> QueueReply {
        match ask {
            PartitionAsk::Stats(queue) => match self.view(&queue) {
                Some(view) => QueueReply::Stats(Box::new(view)),
                None => QueueReply::Failed(no_such_queue(&queue)),
            },
            PartitionAsk::Peek { queue, max } => {
                match self.queues.peek(&queue, usize::try_from(max).unwrap_or(usize::MAX)) {
                    Some(deliveries) => QueueReply::Peeked(deliveries),
                    None => QueueReply::Failed(no_such_queue(&queue)),
                }
            }
            PartitionAsk::List(range) => self.list(&range),
            PartitionAsk::Do(_)
            | PartitionAsk::Receive { .. }
            | PartitionAsk::Abandon { .. }
            | PartitionAsk::Await { .. }
            | PartitionAsk::Figures => QueueReply::Unknown,
        }
    }

    fn list(&self, range: &Range) -> QueueReply {
        let prefix = range.prefix.as_deref().unwrap_or_default();
        let names = self.queues.names().filter(|name| range.after.as_ref().is_none_or(|after| *name > after));
        let mut views: Vec<QueueView> = names
            .filter(|name| name.as_str().starts_with(prefix))
            .take(range.limit.saturating_add(1))
            .filter_map(|name| self.view(name))
            .collect();
        let more = views.len() > range.limit;
        views.truncate(range.limit);
        QueueReply::Listed { queues: views, more, unserved: Vec::new() }
    }

    fn view(&self, queue: &crate::ids::QueueName) -> Option<QueueView> {
        let stats = self.queues.stats(queue, self.wall())?;
        let placed = self.placed.clone()?;
        let rates = self.rates.of(queue, Instant::now());
        Some(QueueView {
            queue: stats.queue,
            config: stats.config,
            depth: stats.depth,
            in_flight: stats.in_flight,
            delayed: stats.delayed,
            oldest_age_ms: stats.oldest_age_ms,
            redelivered: stats.redelivered,
            dead_lettered: stats.dead_lettered,
            expired: stats.expired,
            bytes: stats.bytes,
            publish_rate: rates.published,
            deliver_rate: rates.delivered,
            ack_rate: rates.acknowledged,
            partition: self.id.0,
            primary: placed.primary.map(|primary| primary.node),
            replicas: placed.replicas,
            in_sync: placed.in_sync.iter().map(|replica| replica.node).collect(),
            epoch: placed.epoch.0,
            journal: self.shared.journal_kind.clone(),
        })
    }

    /// What a record has caused, on the primary.
    fn heed(&mut self, durability: Durability, effects: Vec<QueueEffect>) {
        let mut moves = Vec::new();
        for effect in effects {
            match effect {
                QueueEffect::Ready(queue) => self.wake(&queue),
                QueueEffect::Move(one) => moves.push(one),
                QueueEffect::Count { queue, what, messages } => {
                    self.shared.metrics.count(word(what), messages);
                    if what == Counted::ForgottenEarly {
                        self.shared.bounds.hit("queues.ids");
                    }
                    self.rates.count(&queue, what, messages, Instant::now());
                    if !matches!(
                        what,
                        Counted::Published | Counted::Duplicate | Counted::Delivered | Counted::ForgottenEarly
                    ) {
                        self.waiting.look(&queue, &self.queues);
                    }
                }
            }
        }
        match durability {
            Durability::Synced => self.begin_moves(moves),
            Durability::InMemory => self.begin_moves_once_synced(moves),
        }
    }
}

/// What happened to messages, as a label.
fn word(what: Counted) -> &'static str {
    match what {
        Counted::Published => "published",
        Counted::Duplicate => "duplicate",
        Counted::Delivered => "delivered",
        Counted::Redelivered => "redelivered",
        Counted::Acknowledged => "acknowledged",
        Counted::Returned => "returned",
        Counted::TimedOut => "timed-out",
        Counted::DeadLettered => "dead-lettered",
        Counted::Expired => "expired",
        Counted::Purged => "purged",
        Counted::Moved => "moved",
        Counted::ForgottenEarly => "forgotten-early",
    }
}
