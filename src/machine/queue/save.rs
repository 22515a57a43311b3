//! The saved form of the queues: messages, memories and counters without what is made from them.
//!
//! It is a row of parts, each the encoding of a [`Part`] after its length (32 bits, little endian): the head, then
//! for each queue its head, what it remembers and its messages, then what is on its way, the acknowledgements, and the
//! end, which counts them. So it is written and read piece by piece: no step takes long, and no piece is large.
//! [`load`](super::load) reads it, and makes anew and checks the rest.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Origin, QueueConfig, Queues,
    memory::{Acked, Taken},
    outbox::Outgoing,
    shared::{SharedMap, SharedQueue},
    state::{Extra, Message, Place, Queue, Totals},
};
use crate::{
    codec,
    ids::{MessageId, PartitionId, QueueName, Tick},
    machine::replication::Position,
};

/// Told apart from other forms.
pub(super) const FORM: u32 = 2;
/// A part has no further message once it has so many bytes of them.
const PART_BYTES: usize = 256 << 10;
/// Bytes of the length before a part.
pub(super) const LENGTH: usize = 4;

/// The counters of the partition.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) form: u32,
    pub(super) partition: PartitionId,
    pub(super) now: Tick,
    pub(super) next_offset: u64,
    pub(super) next_number: u64,
    pub(super) next_seq: u64,
}

/// A queue without what it holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct QueueHead {
    pub(super) name: QueueName,
    pub(super) number: u64,
    pub(super) config: QueueConfig,
    pub(super) totals: Totals,
    pub(super) aged: u64,
}

/// A message: id, body, what else it has, when it was taken, its place, how often it was delivered, its priority.
#[derive(Serialize)]
struct MessageRow<'a>(&'a MessageId, &'a Bytes, &'a Option<Box<Extra>>, Tick, Place, u32, u8);

impl<'a> From<&'a Arc<Message>> for MessageRow<'a> {
    fn from(message: &'a Arc<Message>) -> Self {
        let Message { id, body, extra, enqueued_at, place, deliveries, priority } = &**message;
        Self(id, body, extra, *enqueued_at, *place, *deliveries, *priority)
    }
}

/// What a part says; `load` reads the same.
#[derive(Serialize)]
enum Part<'a> {
    Head(&'a Head),
    Queue(&'a QueueHead),
    /// When each was taken, and its offset.
    Ids(Vec<(Tick, &'a MessageId, u64)>),
    /// Likewise.
    Origins(Vec<(Tick, &'a Origin, u64)>),
    /// By offset.
    Messages(Vec<(u64, MessageRow<'a>)>),
    /// The offset, from where, to where, and the order in which they came.
    Moves(Vec<(u64, &'a QueueName, &'a QueueName, u64, MessageRow<'a>)>),
    /// The offset, who leased it, and the number of the queue.
    Acks(Vec<(u64, Position, u64)>),
    /// How many parts come before.
    End(u64),
}

/// The queues as they were at one moment, to be saved while they go on: it shares with them what has not changed since.
#[derive(Debug)]
pub struct Snapshot {
    head: Head,
    queues: Vec<Saving>,
    outbox: SharedMap<Outgoing>,
    acks: SharedQueue<Acked>,
}

#[derive(Debug)]
struct Saving {
    head: QueueHead,
    ids: SharedQueue<Taken<MessageId>>,
    origins: SharedQueue<Taken<Origin>>,
    messages: SharedMap<Arc<Message>>,
}

impl Queues {
    /// All of the state, for a checkpoint or for a replica that is behind. Takes some milliseconds for ten million
    /// messages and as many ids. Until it is dropped, the memory of what goes is not freed, and what changes is
    /// copied before, a hundred messages at a time.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            head: Head {
                form: FORM,
                partition: self.partition,
                now: self.now,
                next_offset: self.next_offset,
                next_number: self.next_number,
                next_seq: self.outbox.next_seq,
            },
            queues: self.queues.values().map(Saving::from).collect(),
            outbox: self.outbox.moves.clone(),
            acks: self.acks.order().clone(),
        }
    }

    /// The saved form as a whole: takes seconds for millions of messages; see [`Self::snapshot`].
    pub fn save(&self) -> Bytes {
        self.snapshot().pieces().collect::<Vec<_>>().concat().into()
    }
}

impl From<&Queue> for Saving {
    fn from(queue: &Queue) -> Self {
        Self {
            head: QueueHead {
                name: queue.name.clone(),
                number: queue.number,
                config: queue.config.clone(),
                totals: queue.totals,
                aged: queue.aged,
            },
            ids: queue.ids.order().clone(),
            origins: queue.origins.order().clone(),
            messages: queue.messages.clone(),
        }
    }
}

impl Snapshot {
    /// The saved form, piece by piece: a whole part each, of some 256 KiB, or what one message has, if that is more.
    /// Each takes less than some milliseconds to make.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> + Send {
        let (mut parts, mut count, mut ended) = (self.parts(), 0, false);
        std::iter::from_fn(move || {
            if let Some(part) = parts.next() {
                count += 1;
                return Some(encode(&part));
            }
            let end = (!ended).then(|| encode(&Part::End(count)));
            ended = true;
            end
        })
    }

    fn parts(&self) -> impl Iterator<Item = Part<'_>> + Send {
        let acks = self
            .acks
            .parts()
            .map(|part| part.iter().map(|Acked { receipt, queue }| (receipt.offset, receipt.lease, *queue)).collect());
        std::iter::once(Part::Head(&self.head))
            .chain(self.queues.iter().flat_map(Saving::parts))
            .chain(self.outbox.leaves().flat_map(|leaf| cut(leaf, |outgoing| outgoing.message.body.len())).map(moves))
            .chain(acks.map(Part::Acks))
    }
}

impl Saving {
    fn parts(&self) -> impl Iterator<Item = Part<'_>> + Send {
        let messages = self.messages.leaves().flat_map(|leaf| cut(leaf, |message| message.body.len()));
        std::iter::once(Part::Queue(&self.head))
            .chain(self.ids.parts().map(|part| Part::Ids(taken(part))))
            .chain(self.origins.parts().map(|part| Part::Origins(taken(part))))
            .chain(messages.map(|some| {
                Part::Messages(some.iter().map(|(offset, message)| (*offset, MessageRow::from(message))).collect())
            }))
    }
}

fn taken<K>(part: &[Taken<K>]) -> Vec<(Tick, &K, u64)> {
    part.iter().map(|Taken { at, key, offset }| (*at, key, *offset)).collect()
}

fn moves(some: &[(u64, Outgoing)]) -> Part<'_> {
    Part::Moves(
        some.iter()
            .map(|(offset, Outgoing { from, to, seq, message })| (*offset, from, to, *seq, MessageRow::from(message)))
            .collect(),
    )
}

/// Cuts a leaf where it is too large for one part.
fn cut<T>(leaf: &[(u64, T)], bytes: impl Fn(&T) -> usize + Send) -> impl Iterator<Item = &[(u64, T)]> + Send
where
    T: Sync,
{
    let mut rest = leaf;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |(_, value): &&(u64, T)| {
            let first = sum == 0;
            sum += bytes(value) + 1;
            first || sum <= PART_BYTES
        };
        let count = rest.iter().take_while(fits).count();
        let (some, after) = rest.split_at(count);
        rest = after;
        (!some.is_empty()).then_some(some)
    })
}

fn encode(part: &Part<'_>) -> Bytes {
    let mut bytes = codec::append(vec![0; LENGTH], part);
    let length = u32::try_from(bytes.len() - LENGTH).expect("a part has a message of MAX_BATCH_BYTES at most");
    bytes[..LENGTH].copy_from_slice(&length.to_le_bytes());
    bytes.into()
}
