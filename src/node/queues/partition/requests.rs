//! What the task takes up, and what it refuses at once.

use tokio::time::{Duration, Instant};

use super::{
    PartitionTask,
    batches::{Kind, Then, durability},
    waiting::{Receiver, Watcher},
};
use crate::{
    codec::encode,
    error::{Error, ErrorCode},
    machine::{
        queue::{Batch, Op, OpAnswer},
        replication::{Durability, Input, RoleView},
    },
    mutant::{self, Mutant},
    node::queues::{
        hosting::Asked,
        wire::{PartitionAsk, QueueReply},
    },
};

/// A record that is under way for so long has come to a stop: a silent copy is taken out sooner.
const STALLED_AFTER: Duration = Duration::from_secs(3);

impl PartitionTask {
    pub(super) fn on_ask(&mut self, asked: Asked) {
        let Asked { ask, reply, parking } = asked;
        // Whoever is about to serve takes operations up already.
        if self.keeping.failed() || !matches!(self.replication.role(), RoleView::Primary { .. }) {
            let epoch = self.replication.epoch();
            let _ = reply.send(QueueReply::NotPrimary { epoch });
            return;
        }
        match ask {
            PartitionAsk::Do(op) => self.operate(op, reply),
            PartitionAsk::Receive { queue, max, visibility_ms, wait_ms, attempt } => {
                if self.handed.is_gone(attempt) {
                    let _ = reply.send(QueueReply::Delivered(Vec::new()));
                    return;
                }
                self.give_back_handed(&queue, attempt);
                let until = Instant::now() + Duration::from_millis(wait_ms);
                self.receive(Receiver { queue, max, visibility_ms, until, attempt, reply, parking });
            }
            PartitionAsk::Abandon { queue, attempt } => {
                self.give_back_handed(&queue, attempt);
                self.waiting.abandon(attempt);
                self.handed.abandoned(attempt, Instant::now());
                let _ = reply.send(QueueReply::Abandoned);
            }
            PartitionAsk::Figures => {
                let _ = reply.send(QueueReply::Figures(self.queues.figures(self.wall())));
            }
            PartitionAsk::Await { queue, receipts, wait_ms } => {
                let until = Instant::now() + Duration::from_millis(wait_ms);
                self.batches.push(
                    Durability::InMemory,
                    None,
                    Then::Watch(Watcher { queue, receipts, until, reply, parking }),
                );
            }
            read @ (PartitionAsk::Stats(_) | PartitionAsk::Peek { .. } | PartitionAsk::List(_)) => {
                self.batches.push(Durability::InMemory, None, Then::Read(read, reply));
            }
        }
    }

    fn operate(&mut self, op: Op, reply: tokio::sync::oneshot::Sender<QueueReply>) {
        let kind = if matches!(op, Op::Publish { .. }) { Kind::Publish } else { Kind::Other };
        if let Op::Publish { queue, .. } = &op {
            assert!(!mutant::takes_poison(queue.as_str()), "a test poisoned this queue");
        }
        let durability = durability(&op);
        let refusal = match durability {
            Durability::InMemory => None,
            Durability::Synced => self.why_not_durable(kind),
        };
        match refusal {
            Some(error) => _ = reply.send(QueueReply::Failed(error)),
            None => match op {
                Op::Ack { ref receipts, .. } if mutant::on(Mutant::AckedBeforeCommit) => {
                    let answer = OpAnswer::Receipts { done: receipts.clone(), expired: Vec::new() };
                    let _ = reply.send(QueueReply::Done(answer));
                    self.batches.push(durability, Some(op), Then::Nothing);
                }
                op => self.batches.push(durability, Some(op), Then::Answer { reply, kind }),
            },
        }
    }

    /// Why nothing can be made durable now, or not as durable as it should be.
    fn why_not_durable(&self, kind: Kind) -> Option<Error> {
        if let Some(reason) = self.keeping.away() {
            return Some(journal_away(reason));
        }
        if self.is_stalled() {
            return Some(self.stalled());
        }
        (kind == Kind::Publish && !self.replication.enough_copies()).then(|| self.too_few_copies())
    }

    /// Whether nothing has been committed for so long that what comes now had better not be begun.
    fn is_stalled(&self) -> bool {
        self.taken.first_key_value().is_some_and(|(_, oldest)| oldest.since.elapsed() > STALLED_AFTER)
    }

    fn stalled(&self) -> Error {
        Error::new(
            ErrorCode::DurabilityUnavailable,
            format!(
                "partition {} has committed nothing for a while: a copy does not answer, and without a quorum of the lock \
                 managers it cannot be taken out of the in-sync set; or this node was itself stopped until now. Nothing \
                 was accepted; try again, and if that does not help, `syncmesh status` shows who is missing",
                self.id
            ),
        )
    }

    fn too_few_copies(&self) -> Error {
        let in_sync = self.placed.as_ref().map_or(0, |placed| placed.in_sync.len());
        let needed = self.shared.tuning.replication.min_in_sync;
        Error::new(
            ErrorCode::DurabilityUnavailable,
            format!(
                "partition {} has {in_sync} copies in sync and QUEUE_MIN_IN_SYNC asks for {needed}: start the queue nodes \
                 that are down, or wait until another one is filled up; `syncmesh status` shows both",
                self.id
            ),
        )
    }

    /// Gives operations that wait to the replication, as many as may be under way.
    pub(super) fn propose_what_waits(&mut self) {
        if !self.serving {
            return;
        }
        let tuning = self.shared.tuning;
        for durability in [Durability::InMemory, Durability::Synced] {
            loop {
                let at = self.wall();
                let batch = |ops| Batch { at, retention_s: tuning.retention_s, ops };
                let next = self.batches.next(durability, tuning.batch_items, tuning.batch_bytes, batch);
                let Some(taken) = next else { break };
                let nothing = taken.batch.ops.is_empty();
                let body = if nothing { bytes::Bytes::new() } else { encode(&taken.batch) };
                self.proposed += 1;
                let id = self.proposed;
                self.placing = Some((id, taken));
                self.step(Input::Propose { id, durability, body });
                debug_assert!(self.placing.is_none(), "a proposal is taken or refused in its step");
            }
        }
    }

    pub(super) fn propose_timer(&mut self) {
        let due = self.queues.deadline().is_some_and(|at| at <= self.wall());
        if due && self.serving && !self.timer_under_way {
            self.timer_under_way = true;
            self.batches.push(Durability::InMemory, Some(Op::Timer), Then::Timer);
        }
    }

    /// Looks after somebody who wants to receive.
    pub(super) fn receive(&mut self, receiver: Receiver) {
        if receiver.reply.is_closed() {
            return;
        }
        if self.is_worth_a_lease(&receiver.queue) {
            return self.lease(receiver);
        }
        let is_there = self.queues.config(&receiver.queue).is_some();
        if is_there && receiver.until > Instant::now() {
            return self.wait(receiver);
        }
        // That there is nothing must be true when it is said.
        self.batches.push(Durability::InMemory, None, Then::Look(receiver));
    }

    pub(super) fn wait(&mut self, receiver: Receiver) {
        receiver.parking.park();
        if let Err(receiver) = self.waiting.join(receiver) {
            self.shared.bounds.hit("queues.waiting");
            let _ = receiver.reply.send(QueueReply::Failed(Error::unavailable(
                crate::error::Outcome::NotApplied,
                "too many consumers wait for the queues of this partition: use fewer, or receive without wait_ms",
            )));
        }
    }

    /// Whether there may be more than what is being leased already.
    pub(super) fn is_worth_a_lease(&self, queue: &crate::ids::QueueName) -> bool {
        let now = self.wall();
        match self.waiting.leasing(queue) {
            0 => self.queues.has_deliverable(queue, now),
            leasing => self.queues.deliverable(queue, now) > leasing,
        }
    }

    pub(super) fn lease(&mut self, receiver: Receiver) {
        let Receiver { queue, max, visibility_ms, .. } = &receiver;
        self.waiting.begin_lease(queue, *max);
        let op = Op::Lease { queue: queue.clone(), max: *max, visibility_ms: *visibility_ms };
        self.batches.push(Durability::InMemory, Some(op), Then::Lease(receiver));
    }

    /// Who has asked under this number before has not got what was leased then.
    pub(super) fn give_back_handed(&mut self, queue: &crate::ids::QueueName, attempt: u64) {
        if let Some(receipts) = self.handed.take(attempt) {
            let op = Op::GiveBack { queue: queue.clone(), receipts };
            self.batches.push(Durability::InMemory, Some(op), Then::Nothing);
        }
    }
}

pub(super) fn journal_away(reason: &str) -> Error {
    Error::new(
        ErrorCode::DurabilityUnavailable,
        format!("the primary's journal cannot be written, nothing was accepted: {reason}"),
    )
}
