//! The saved form of the queues: messages, memories and counters without what is made from them, which is
//! made anew and checked.

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    MAX_PRIORITY, OFFSET_LIMIT, Queues, Receipt,
    memory::{Known, Memory},
    outbox::Outgoing,
    state::{Extra, Message, Place, Queue, Totals},
    step::Limits,
};
use crate::{
    codec::{Unreadable, decode, encode},
    ids::{MessageId, PartitionId, QueueName, Tick},
    machine::replication::Position,
};

/// Told apart from later forms.
const FORM: u32 = 1;

/// Why a saved state was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
enum Damaged {
    #[error("the saved queues have form {0}, and this version reads {FORM}: run the version that saved them")]
    Form(u32),
    #[error("the saved queues are those of partition {0}")]
    Partition(PartitionId),
    #[error("the saved queues use a number beyond their counters")]
    BeyondCounter,
    #[error("the saved queues have two of one name or number")]
    Twice,
    #[error("the saved queues are not in their order")]
    Order,
    #[error("the saved queues remember a message that is not there")]
    Missing,
}

/// Rows that are saved one by one, as they are found.
struct Rows<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Rows<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

#[derive(Serialize)]
struct MessageRow<'a>(&'a MessageId, &'a Bytes, &'a Option<Box<Extra>>, Tick, Place, u32, u8);

impl<'a> From<&'a Message> for MessageRow<'a> {
    fn from(message: &'a Message) -> Self {
        let Message { id, body, extra, enqueued_at, place, deliveries, priority } = message;
        Self(id, body, extra, *enqueued_at, *place, *deliveries, *priority)
    }
}

#[derive(Deserialize)]
struct SavedMessage(MessageId, Bytes, Option<Box<Extra>>, Tick, Place, u32, u8);

#[derive(Deserialize)]
struct SavedMemory<K> {
    /// With the offset, unless the key came again since.
    order: Vec<(Tick, K, Option<u64>)>,
    kept: Vec<(K, Known)>,
}

#[derive(Deserialize)]
struct SavedQueue {
    name: QueueName,
    number: u64,
    config: super::QueueConfig,
    totals: Totals,
    aged: u64,
    messages: Vec<(u64, SavedMessage)>,
    ids: SavedMemory<MessageId>,
    origins: SavedMemory<super::Origin>,
}

#[derive(Deserialize)]
struct Saved {
    form: u32,
    partition: PartitionId,
    now: Tick,
    next_offset: u64,
    next_number: u64,
    next_seq: u64,
    queues: Vec<SavedQueue>,
    outbox: Vec<(u64, QueueName, QueueName, u64, SavedMessage)>,
    acks: Vec<(u64, Position, u64)>,
}

impl<K: Serialize + Ord> Serialize for Memory<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Saving<O, K> {
            order: O,
            kept: K,
        }
        let order = self.order.iter().map(|(at, key)| {
            let known = self.known.get(key).filter(|known| known.at == *at && !known.kept);
            (at, key, known.map(|known| known.offset))
        });
        let kept = self.known.iter().filter(|(_, known)| known.kept);
        Saving { order: Rows(order), kept: Rows(kept) }.serialize(serializer)
    }
}

impl Serialize for Queue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Saving<'a, M> {
            name: &'a QueueName,
            number: u64,
            config: &'a super::QueueConfig,
            totals: Totals,
            aged: u64,
            messages: M,
            ids: &'a Memory<MessageId>,
            origins: &'a Memory<super::Origin>,
        }
        Saving {
            name: &self.name,
            number: self.number,
            config: &self.config,
            totals: self.totals,
            aged: self.aged,
            messages: Rows(self.messages.iter().map(|(offset, message)| (offset, MessageRow::from(&**message)))),
            ids: &self.ids,
            origins: &self.origins,
        }
        .serialize(serializer)
    }
}

impl Serialize for Queues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Saving<Q, O, A> {
            form: u32,
            partition: PartitionId,
            now: Tick,
            next_offset: u64,
            next_number: u64,
            next_seq: u64,
            queues: Q,
            outbox: O,
            acks: A,
        }
        let outbox = self.outbox.moves.iter().map(|(offset, outgoing)| {
            let Outgoing { from, to, seq, message } = outgoing;
            (offset, from, to, seq, MessageRow::from(&**message))
        });
        let acks = self.acks.order.iter().map(|offset| {
            let (lease, queue) = self.acks.known.get(offset).copied().unwrap_or_default();
            (offset, lease, queue)
        });
        Saving {
            form: FORM,
            partition: self.partition,
            now: self.now,
            next_offset: self.next_offset,
            next_number: self.next_number,
            next_seq: self.outbox.next_seq,
            queues: Rows(self.queues.values()),
            outbox: Rows(outbox),
            acks: Rows(acks),
        }
        .serialize(serializer)
    }
}

impl Queues {
    /// All of the state, for a checkpoint or for a replica that is behind.
    pub fn save(&self) -> Bytes {
        encode(self)
    }

    /// The state that [`Self::save`] gave. Takes memory in proportion to the bytes, whatever they say.
    ///
    /// # Errors
    /// [`Unreadable`] where the bytes are damaged, of another partition, or of another form.
    pub fn load(partition: PartitionId, saved: &Bytes) -> Result<Self, Unreadable> {
        Self::load_with(partition, Limits::default(), saved)
    }

    pub(super) fn load_with(partition: PartitionId, limits: Limits, saved: &Bytes) -> Result<Self, Unreadable> {
        let saved: Saved = decode(saved)?;
        saved.restore(partition, limits).map_err(|damaged| Unreadable::new(damaged.to_string()))
    }
}

impl Saved {
    fn restore(self, partition: PartitionId, limits: Limits) -> Result<Queues, Damaged> {
        if self.form != FORM {
            return Err(Damaged::Form(self.form));
        }
        if self.partition != partition {
            return Err(Damaged::Partition(self.partition));
        }
        if [self.next_offset, self.next_number, self.next_seq].iter().any(|next| *next > OFFSET_LIMIT) {
            return Err(Damaged::BeyondCounter);
        }
        let mut queues = Queues::with_limits(partition, limits);
        queues.now = self.now;
        queues.next_offset = self.next_offset;
        queues.next_number = self.next_number;
        queues.outbox.next_seq = self.next_seq;
        for saved in self.queues {
            let mut queue = saved.restore(self.now, self.next_offset)?;
            if queue.number >= self.next_number {
                return Err(Damaged::BeyondCounter);
            }
            queue.due = queue.next_due();
            queues.due.extend(queue.due.map(|at| (at, queue.name.clone())));
            if queues.queues.insert(queue.name.clone(), queue).is_some() {
                return Err(Damaged::Twice);
            }
        }
        let mut outbox = self.outbox;
        outbox.sort_by_key(|(.., seq, _)| *seq);
        if outbox.is_sorted_by(|(.., one, _), (.., other, _)| one < other) {
            for (offset, from, to, seq, message) in outbox {
                if offset >= self.next_offset || seq >= self.next_seq {
                    return Err(Damaged::BeyondCounter);
                }
                let message = Box::new(message.restore(self.now)?);
                if queues.outbox.moves.contains_key(&offset) {
                    return Err(Damaged::Twice);
                }
                queues.outbox.put(offset, Outgoing { from, to, seq, message }, limits.moves_per_destination);
            }
        } else {
            return Err(Damaged::Twice);
        }
        let mut offsets: Vec<u64> = queues.queues.values().flat_map(|queue| queue.messages.keys().copied()).collect();
        offsets.extend(queues.outbox.moves.keys());
        offsets.sort_unstable();
        if !offsets.is_sorted_by(|one, other| one < other) {
            return Err(Damaged::Twice);
        }
        for (offset, lease, queue) in self.acks {
            if queues.acks.known.contains_key(&offset) {
                return Err(Damaged::Twice);
            }
            queues.acks.remember(Receipt { offset, lease }, queue, limits.acks);
        }
        Ok(queues)
    }
}

impl SavedQueue {
    fn restore(self, now: Tick, next_offset: u64) -> Result<Queue, Damaged> {
        let Totals { published, delivered, redelivered, acknowledged, dead_lettered, expired } = self.totals;
        let totals = [published, delivered, redelivered, acknowledged, dead_lettered, expired];
        if totals.iter().any(|total| *total > OFFSET_LIMIT) || self.aged > next_offset {
            return Err(Damaged::BeyondCounter);
        }
        let mut queue = Queue::new(self.name, self.number, self.config);
        queue.totals = self.totals;
        queue.aged = self.aged;
        let mut last = None;
        for (offset, message) in self.messages {
            let message = message.restore(now)?;
            if offset >= next_offset {
                return Err(Damaged::BeyondCounter);
            }
            if last.is_some_and(|(earlier, at)| offset <= earlier || message.enqueued_at < at) {
                return Err(Damaged::Order);
            }
            if offset < self.aged && !matches!(message.place, Place::InFlight(..)) {
                return Err(Damaged::Order);
            }
            last = Some((offset, message.enqueued_at));
            queue.add(offset, message);
        }
        queue.ids = self.ids.restore(now, next_offset)?;
        queue.origins = self.origins.restore(now, next_offset)?;
        let is_there = |known: &Known| queue.messages.contains_key(&known.offset);
        if queue.ids.known.values().any(|known| known.kept)
            || queue.origins.known.values().any(|known| known.kept && !is_there(known))
        {
            return Err(Damaged::Missing);
        }
        Ok(queue)
    }
}

impl<K: Ord + Clone> SavedMemory<K> {
    fn restore(self, now: Tick, next_offset: u64) -> Result<Memory<K>, Damaged> {
        let mut memory = Memory::default();
        if !self.order.is_sorted_by_key(|(at, ..)| *at) || self.order.last().is_some_and(|(at, ..)| *at > now) {
            return Err(Damaged::Order);
        }
        let live = self
            .order
            .iter()
            .filter_map(|(at, key, offset)| offset.map(|offset| (key.clone(), Known { offset, at: *at, kept: false })));
        for (key, known) in live.chain(self.kept.into_iter().map(|(key, known)| (key, Known { kept: true, ..known }))) {
            if known.offset >= next_offset {
                return Err(Damaged::BeyondCounter);
            }
            if memory.known.insert(key, known).is_some() {
                return Err(Damaged::Twice);
            }
        }
        memory.order = self.order.into_iter().map(|(at, key, _)| (at, key)).collect();
        Ok(memory)
    }
}

impl SavedMessage {
    fn restore(self, now: Tick) -> Result<Message, Damaged> {
        let Self(id, body, extra, enqueued_at, place, deliveries, priority) = self;
        if priority > MAX_PRIORITY || enqueued_at > now {
            return Err(Damaged::BeyondCounter);
        }
        Ok(Message { id, body, extra, enqueued_at, place, deliveries, priority })
    }
}
