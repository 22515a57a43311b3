//! What the queues answer and tell, whole.

mod admin;
mod bounds;
mod dead_letters;
mod delivery;

use bytes::Bytes;

use super::*;
use crate::ids::{Epoch, MessageId};

pub(super) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(super) fn id(name: &str) -> MessageId {
    MessageId::new(name).unwrap()
}

const HERE: PartitionId = PartitionId(7);
/// When each bench begins: a full second.
const START: u64 = 1_000_000;

/// The queues of a partition, and a clock. Each record is checked to leave what can be saved and loaded.
struct Bench {
    queues: Queues,
    at: u64,
    seq: u64,
    effects: Vec<QueueEffect>,
    /// It was not loaded from something damaged.
    sound: bool,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self { queues: Queues::with_limits(HERE, limits), at: START, seq: 0, effects: vec![], sound: true }
    }

    fn all(&mut self, ops: Vec<Op>) -> Vec<OpAnswer> {
        self.seq += 1;
        self.effects.clear();
        let position = Position { epoch: Epoch(2), seq: self.seq };
        let batch = Batch { at: Tick(self.at), retention_s: 3_600, ops };
        let answers = self.queues.apply(position, &batch, &mut self.effects);
        if self.sound {
            let loaded = Queues::load_with(HERE, self.queues.limits, &self.queues.save()).unwrap();
            assert_eq!(loaded, self.queues);
        }
        answers
    }

    fn one(&mut self, op: Op) -> OpAnswer {
        self.all(vec![op]).remove(0)
    }

    fn publish(&mut self, name: &str, messages: Vec<NewMessage>) -> OpAnswer {
        self.one(Op::Publish { queue: queue(name), messages })
    }

    fn lease(&mut self, name: &str, max: u32) -> Vec<Delivery> {
        self.lease_for(name, max, None)
    }

    fn lease_for(&mut self, name: &str, max: u32, visibility_ms: Option<u64>) -> Vec<Delivery> {
        match self.one(Op::Lease { queue: queue(name), max, visibility_ms }) {
            OpAnswer::Leased(deliveries) => deliveries,
            other => panic!("no lease: {other:?}"),
        }
    }

    /// The bodies of what was leased, with how often each was delivered, and the receipts.
    fn receive(&mut self, name: &str, max: u32) -> (Vec<(String, u32)>, Vec<Receipt>) {
        let deliveries = self.lease(name, max);
        let text = |delivery: &Delivery| String::from_utf8(delivery.body.to_vec()).unwrap();
        let told = deliveries.iter().map(|delivery| (text(delivery), delivery.deliveries)).collect();
        (told, deliveries.iter().filter_map(|delivery| delivery.receipt).collect())
    }

    fn ack(&mut self, name: &str, receipts: &[Receipt]) -> OpAnswer {
        self.one(Op::Ack { queue: queue(name), receipts: receipts.to_vec() })
    }

    fn nack(&mut self, name: &str, receipts: &[Receipt], delay_ms: Option<u64>) -> OpAnswer {
        self.one(Op::Nack { queue: queue(name), receipts: receipts.to_vec(), delay_ms })
    }

    fn configure(&mut self, name: &str, change: impl FnOnce(&mut QueueConfig)) {
        let mut config = QueueConfig::defaults(&queue(name), 3_600);
        change(&mut config);
        let answer = self.one(Op::Configure { queue: queue(name), config: config.clone() });
        assert_eq!(answer, OpAnswer::Configured(config));
    }

    fn pass(&mut self, ms: u64) {
        self.at += ms;
    }

    fn stats(&self, name: &str) -> QueueStats {
        self.queues.stats(&queue(name), Tick(self.at)).unwrap()
    }

    /// Depth, in flight, delayed.
    fn standing(&self, name: &str) -> (u64, u64, u64) {
        let stats = self.stats(name);
        (stats.depth, stats.in_flight, stats.delayed)
    }

    /// Everything in the outbox arrives in this partition, too.
    fn deliver_moves(&mut self) -> Vec<Move> {
        let moves = self.queues.outbox();
        for moved in moves.clone() {
            self.all(vec![
                Op::Publish { queue: moved.to, messages: vec![moved.message] },
                Op::Moved { offsets: vec![moved.offset] },
            ]);
        }
        moves
    }
}

/// A message whose id is its body.
fn message(text: &str) -> NewMessage {
    NewMessage {
        id: id(text),
        body: Bytes::copy_from_slice(text.as_bytes()),
        content_type: None,
        attributes: BTreeMap::new(),
        delay_ms: 0,
        priority: 4,
        origin: None,
    }
}

fn messages(texts: &[&str]) -> Vec<NewMessage> {
    texts.iter().map(|text| message(text)).collect()
}

fn published(rows: &[(&str, u64, bool)]) -> OpAnswer {
    let row = |(text, offset, duplicate): &(&str, u64, bool)| Published {
        id: id(text),
        offset: *offset,
        duplicate: *duplicate,
    };
    OpAnswer::Published(rows.iter().map(row).collect())
}

fn settled(done: &[Receipt], expired: &[Receipt]) -> OpAnswer {
    OpAnswer::Receipts { done: done.to_vec(), expired: expired.to_vec() }
}

fn count(name: &str, what: Counted, messages: u64) -> QueueEffect {
    QueueEffect::Count { queue: queue(name), what, messages }
}

fn ready(name: &str) -> QueueEffect {
    QueueEffect::Ready(queue(name))
}

fn told(rows: &[(&str, u32)]) -> Vec<(String, u32)> {
    rows.iter().map(|(text, deliveries)| ((*text).to_owned(), *deliveries)).collect()
}

fn no_such_queue() -> OpAnswer {
    OpAnswer::Refused(QueueRefusal::NoSuchQueue)
}
