//! What goes into one record: operations that wait while earlier records are under way.
//!
//! Two lines wait side by side: what must be synced (publishes, acks, administration), and what need only be in
//! memory everywhere (leases and what belongs to them, and looks that must not be out of date). Who asks waits for
//! the answer before asking what builds on it, so the order between the lines is free.

use std::collections::VecDeque;

use tokio::{sync::oneshot, time::Instant};

use super::waiting::{Receiver, Watcher};
use crate::{
    ids::Epoch,
    machine::{
        queue::{Batch, Op},
        replication::Durability,
    },
    node::queues::wire::{PartitionAsk, QueueReply},
};

/// Records of one line that are under way before the next one waits and grows.
const PIPELINE: usize = 4;
/// Operations that wait in both lines.
const MAX_PENDING: usize = 8_192;
/// Bytes of messages that wait.
const MAX_PENDING_BYTES: usize = 32 * 1024 * 1024;

/// What is done when an operation has been applied.
#[derive(Debug)]
pub(super) enum Then {
    /// It is answered.
    Answer { reply: oneshot::Sender<QueueReply>, kind: Kind },
    /// What was leased is handed over.
    Lease(Receiver),
    /// Whoever wants to receive is looked after again: now what is seen here is known to be true.
    Look(Receiver),
    /// Likewise who waits for deliveries to be over.
    Watch(Watcher),
    /// Something is read.
    Read(PartitionAsk, oneshot::Sender<QueueReply>),
    /// The timer was dealt with.
    Timer,
    /// These messages need not be moved any more.
    Moved(Vec<u64>),
    /// What decided on moves of these messages is synced.
    Synced(Vec<u64>),
    /// Nothing.
    Nothing,
}

/// Whether an operation needs as many copies as `QUEUE_MIN_IN_SYNC` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Publish,
    Other,
}

impl Then {
    /// It was certainly not done: somebody else is the primary.
    pub(super) fn not_primary(self, epoch: Epoch) {
        self.tell(QueueReply::NotPrimary { epoch });
    }

    /// It may have been done, or will be.
    pub(super) fn unknown(self) {
        self.tell(QueueReply::Unknown);
    }

    pub(super) fn tell(self, reply: QueueReply) {
        let to = match self {
            Self::Answer { reply, .. } | Self::Read(_, reply) => reply,
            Self::Lease(receiver) | Self::Look(receiver) => receiver.reply,
            Self::Watch(watcher) => watcher.reply,
            Self::Timer | Self::Moved(_) | Self::Synced(_) | Self::Nothing => return,
        };
        // Whoever has gone need not be told.
        let _ = to.send(reply);
    }
}

#[derive(Debug)]
struct Pending {
    op: Option<Op>,
    then: Then,
    items: usize,
    bytes: usize,
}

/// Operations whose record is under way.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) durability: Durability,
    pub(super) batch: Batch,
    /// In the order of the operations; those without one come in between.
    pub(super) entries: Vec<(HasOp, Then)>,
    pub(super) since: Instant,
}

/// Whether an entry stands for an operation of the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HasOp {
    Yes,
    No,
}

impl Taken {
    pub(super) fn thens(self) -> impl Iterator<Item = Then> {
        self.entries.into_iter().map(|(_, then)| then)
    }
}

/// Both lines.
#[derive(Debug, Default)]
pub(super) struct Batches {
    synced: Line,
    memory: Line,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Line {
    pending: VecDeque<Pending>,
    under_way: usize,
}

impl Batches {
    /// Takes an operation, or a look, into its line.
    pub(super) fn push(&mut self, durability: Durability, op: Option<Op>, then: Then) {
        let (items, bytes) = op.as_ref().map_or((0, 0), weight);
        self.bytes += bytes;
        self.line(durability).pending.push_back(Pending { op, then, items, bytes });
    }

    /// Whether more may be taken up.
    pub(super) fn has_room(&self) -> bool {
        self.synced.pending.len() + self.memory.pending.len() < MAX_PENDING && self.bytes < MAX_PENDING_BYTES
    }

    /// The next record of a line, if it may go. At least one operation, and no further one that would exceed the
    /// bounds.
    pub(super) fn next(
        &mut self,
        durability: Durability,
        max_items: usize,
        max_bytes: usize,
        batch: impl FnOnce(Vec<Op>) -> Batch,
    ) -> Option<Taken> {
        let line = self.line(durability);
        if line.pending.is_empty() || line.under_way >= PIPELINE {
            return None;
        }
        let (mut ops, mut entries, mut items, mut bytes) = (Vec::new(), Vec::new(), 0, 0);
        while let Some(next) = line.pending.front() {
            if !entries.is_empty() && (items + next.items > max_items || bytes + next.bytes > max_bytes) {
                break;
            }
            let Some(Pending { op, then, items: some, bytes: size }) = line.pending.pop_front() else { break };
            (items, bytes) = (items + some, bytes + size);
            entries.push((if op.is_some() { HasOp::Yes } else { HasOp::No }, then));
            ops.extend(op);
        }
        line.under_way += 1;
        self.bytes -= bytes;
        Some(Taken { durability, batch: batch(ops), entries, since: Instant::now() })
    }

    /// A record of a line is no longer under way.
    pub(super) fn landed(&mut self, durability: Durability) {
        let line = self.line(durability);
        line.under_way = line.under_way.saturating_sub(1);
    }

    /// Those whose operations are to be synced and have not been proposed leave, but for what nobody waits for.
    pub(super) fn refuse_synced(&mut self, tell: impl Fn(Then)) {
        let pending = std::mem::take(&mut self.synced.pending);
        for one in pending {
            if let Then::Answer { .. } = one.then {
                self.bytes -= one.bytes;
                tell(one.then);
            } else {
                self.synced.pending.push_back(one);
            }
        }
    }

    /// Empties both lines.
    pub(super) fn drain(&mut self) -> VecDeque<Then> {
        self.bytes = 0;
        let Self { synced, memory, .. } = self;
        (synced.under_way, memory.under_way) = (0, 0);
        synced.pending.drain(..).chain(memory.pending.drain(..)).map(|pending| pending.then).collect()
    }

    fn line(&mut self, durability: Durability) -> &mut Line {
        match durability {
            Durability::Synced => &mut self.synced,
            Durability::InMemory => &mut self.memory,
        }
    }
}

/// How much of a record an operation takes: messages or receipts, and bytes.
fn weight(op: &Op) -> (usize, usize) {
    match op {
        Op::Publish { messages, .. } => {
            let bytes = messages.iter().map(|message| message.body.len() + MESSAGE_BYTES).sum();
            (messages.len(), bytes)
        }
        Op::Ack { receipts, .. }
        | Op::Nack { receipts, .. }
        | Op::Extend { receipts, .. }
        | Op::GiveBack { receipts, .. } => (receipts.len(), receipts.len() * RECEIPT_BYTES),
        Op::Moved { offsets } => (offsets.len(), offsets.len() * RECEIPT_BYTES),
        _ => (1, MESSAGE_BYTES),
    }
}

/// What a message takes beside its body, about.
const MESSAGE_BYTES: usize = 128;
/// What a receipt takes, about.
const RECEIPT_BYTES: usize = 32;

/// What must survive the loss of all memories is synced.
pub(super) fn durability(op: &Op) -> Durability {
    match op {
        Op::Lease { .. } | Op::Extend { .. } | Op::GiveBack { .. } | Op::Timer => Durability::InMemory,
        _ => Durability::Synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{QueueName, Tick},
        machine::{queue::Receipt, replication::Position},
    };

    fn acks(receipts: usize) -> Op {
        let receipt = Receipt { offset: 1, lease: Position::default() };
        Op::Ack { queue: QueueName::new("q").unwrap(), receipts: vec![receipt; receipts] }
    }

    fn batch(ops: Vec<Op>) -> Batch {
        Batch { at: Tick(1), retention_s: 1, ops }
    }

    #[test]
    fn operations_wait_while_records_are_under_way_and_then_go_together() {
        let mut batches = Batches::default();
        for _ in 0..PIPELINE {
            batches.push(Durability::Synced, Some(acks(1)), Then::Nothing);
            assert_eq!(batches.next(Durability::Synced, 10, 1000, batch).unwrap().batch.ops.len(), 1);
        }
        for receipts in [4, 4, 4] {
            batches.push(Durability::Synced, Some(acks(receipts)), Then::Nothing);
        }
        assert!(batches.next(Durability::Synced, 10, 1000, batch).is_none());
        batches.landed(Durability::Synced);
        assert_eq!(batches.next(Durability::Synced, 10, 1000, batch).unwrap().batch.ops, [acks(4), acks(4)]);
        batches.landed(Durability::Synced);
        assert_eq!(batches.next(Durability::Synced, 3, 1, batch).unwrap().batch.ops, [acks(4)], "one always goes");
        assert_eq!(batches.bytes, 0);
    }

    #[test]
    fn leases_do_not_wait_for_what_is_synced() {
        let mut batches = Batches::default();
        batches.push(Durability::Synced, Some(acks(1)), Then::Nothing);
        batches.push(Durability::InMemory, None, Then::Nothing);
        let look = batches.next(Durability::InMemory, 10, 1000, batch).unwrap();
        assert_eq!((look.batch.ops.len(), look.entries.len()), (0, 1));
    }
}
