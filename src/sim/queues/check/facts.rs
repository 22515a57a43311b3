//! A history of queues, by message and by delivery.

use std::collections::BTreeMap;

use crate::{
    ids::{MessageId, QueueName},
    machine::queue::Receipt,
    sim::queues::api::{Answer, Ask, Got, Record, dead_letters},
};

/// What became of a publish.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fate {
    /// Each time that it was asked for, it was certainly not done.
    Refused,
    Unknown,
    Acknowledged,
}

/// A message that somebody wanted to publish.
#[derive(Debug)]
pub(super) struct Sent<'a> {
    pub(super) queue: &'a QueueName,
    pub(super) first: &'a Record,
    pub(super) fate: Fate,
    /// As answers named it, with whether it was said to be there already.
    pub(super) offsets: Vec<u64>,
}

/// One delivery of one message that a client got to see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivered<'a> {
    pub(super) queue: &'a QueueName,
    pub(super) got: &'a Got,
    pub(super) by: &'a Record,
    pub(super) visibility_ms: u64,
}

/// Something that was said of a delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    pub(super) what: What,
    /// Whether it took effect; `None`: unknown.
    pub(super) done: Option<bool>,
    pub(super) by: &'a Record,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Ack,
    Nack,
    Extend { visibility_ms: u64 },
}

/// A history in order.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    pub(super) sent: BTreeMap<&'a MessageId, Sent<'a>>,
    /// By queue and message, in the order of their leases.
    pub(super) deliveries: BTreeMap<(QueueName, MessageId), Vec<Delivered<'a>>>,
    /// By queue and delivery, in the order in which it was said.
    pub(super) said: BTreeMap<(QueueName, Receipt), Vec<Said<'a>>>,
    pub(super) receives: Vec<(&'a QueueName, &'a [Got])>,
    /// What each queue held when that was last asked.
    pub(super) holds: BTreeMap<QueueName, &'a Answer>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(history: &'a [Record]) -> Self {
        let mut facts = Self::default();
        history.iter().for_each(|record| facts.note(record));
        for deliveries in facts.deliveries.values_mut() {
            deliveries.sort_by_key(|delivery| delivery.got.receipt.lease);
        }
        facts
    }

    fn note(&mut self, record: &'a Record) {
        match (&record.ask, &record.answer) {
            (Ask::Publish { queue, letters }, answer) => {
                for (place, letter) in letters.iter().enumerate() {
                    let sent = self.sent.entry(&letter.id).or_insert_with(|| Sent {
                        queue,
                        first: record,
                        fate: Fate::Refused,
                        offsets: Vec::new(),
                    });
                    match answer {
                        Answer::Published(taken) => {
                            sent.fate = Fate::Acknowledged;
                            sent.offsets.extend(taken.get(place).map(|(offset, _)| *offset));
                        }
                        Answer::Refused(_) => {}
                        _ => sent.fate = sent.fate.max(Fate::Unknown),
                    }
                }
            }
            (Ask::Receive { queue, visibility_ms, .. }, Answer::Delivered(got)) => {
                self.receives.push((queue, got));
                for one in got {
                    let delivered = Delivered { queue, got: one, by: record, visibility_ms: *visibility_ms };
                    self.deliveries.entry((queue.clone(), one.id.clone())).or_default().push(delivered);
                }
            }
            (Ask::Ack { queue, receipts }, _) => self.say(queue, receipts, What::Ack, record),
            (Ask::Nack { queue, receipts, .. }, _) => self.say(queue, receipts, What::Nack, record),
            (Ask::Extend { queue, receipts, visibility_ms }, _) => {
                self.say(queue, receipts, What::Extend { visibility_ms: *visibility_ms }, record);
            }
            (Ask::Stats(queue), answer) => _ = self.holds.insert(queue.clone(), answer),
            (Ask::Receive { .. } | Ask::Configure { .. } | Ask::Recover(_), _) => {}
        }
    }

    fn say(&mut self, queue: &'a QueueName, receipts: &'a [Receipt], what: What, by: &'a Record) {
        for receipt in receipts {
            let done = match &by.answer {
                Answer::Settled { done, .. } if done.contains(receipt) => Some(true),
                // An ack that nodes repeat among themselves is known again. What else they repeat may find that it
                // ended the delivery itself.
                Answer::Settled { .. } if what != What::Ack => None,
                Answer::Settled { .. } => Some(false),
                Answer::Refused(_) => Some(false),
                _ => None,
            };
            self.said.entry((queue.clone(), *receipt)).or_default().push(Said { what, done, by });
        }
    }

    /// What was said of a delivery.
    pub(super) fn said_of(&self, queue: &QueueName, receipt: Receipt) -> &[Said<'a>] {
        self.said.get(&(queue.clone(), receipt)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The deliveries of a message in a queue.
    pub(super) fn of_message(&self, queue: &QueueName, id: &MessageId) -> &[Delivered<'a>] {
        self.deliveries.get(&(queue.clone(), id.clone())).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a delivery was acknowledged: `None` if nobody knows.
    pub(super) fn acknowledged(&self, delivery: &Delivered<'a>) -> Option<bool> {
        let acks = self.said_of(delivery.queue, delivery.got.receipt).iter().filter(|said| said.what == What::Ack);
        let outcomes: Vec<Option<bool>> = acks.map(|said| said.done).collect();
        let worst = if outcomes.contains(&None) { None } else { Some(false) };
        if outcomes.contains(&Some(true)) { Some(true) } else { worst }
    }

    /// The queue of a message and that of its dead letters, where it was delivered.
    pub(super) fn everywhere(&self, sent: &Sent<'a>, id: &MessageId) -> Vec<Delivered<'a>> {
        let dead = dead_letters(sent.queue);
        [sent.queue, &dead].into_iter().flat_map(|queue| self.of_message(queue, id)).copied().collect()
    }
}
