//! Reading the saved form of the queues: see [`save`](super::save). What is not saved is made anew, and what is, is
//! checked.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use serde::Deserialize;

use super::{
    MAX_PRIORITY, OFFSET_LIMIT, Origin, Queues, Receipt,
    memory::Memory,
    outbox::Outgoing,
    save::{FORM, Head, LENGTH, QueueHead},
    state::{Extra, Message, Place, Queue, Totals},
    step::Limits,
};
use crate::{
    codec::{Unreadable, decode},
    ids::{MessageId, PartitionId, QueueName, Tick},
    machine::replication::Position,
};

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
    #[error("the saved queues have no end")]
    CutShort,
    #[error("the saved queues go on after their end")]
    GoesOn,
    #[error("parts of the saved queues are missing")]
    PartsMissing,
}

impl From<Damaged> for Unreadable {
    fn from(damaged: Damaged) -> Self {
        Self::new(damaged.to_string())
    }
}

#[derive(Deserialize)]
struct MessageRow(MessageId, Bytes, Option<Box<Extra>>, Tick, Place, u32, u8);

/// What a part says: see `save::Part`.
#[derive(Deserialize)]
enum Part {
    Head(Head),
    Queue(Box<QueueHead>),
    Ids(Vec<(Tick, MessageId, u64)>),
    Origins(Vec<(Tick, Origin, u64)>),
    Messages(Vec<(u64, MessageRow)>),
    Moves(Vec<(u64, QueueName, QueueName, u64, MessageRow)>),
    Acks(Vec<(u64, Position, u64)>),
    End(u64),
}

/// What came last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    Nothing,
    Head,
    Queue,
    Ids,
    Origins,
    Messages,
    Moves,
    Acks,
    End,
}

impl Stage {
    fn of(part: &Part) -> Self {
        match part {
            Part::Head(_) => Self::Head,
            Part::Queue(_) => Self::Queue,
            Part::Ids(_) => Self::Ids,
            Part::Origins(_) => Self::Origins,
            Part::Messages(_) => Self::Messages,
            Part::Moves(_) => Self::Moves,
            Part::Acks(_) => Self::Acks,
            Part::End(_) => Self::End,
        }
    }

    fn may_follow(self, last: Self) -> bool {
        let first = match self {
            Self::Nothing => return false,
            Self::Head => return last == Self::Nothing,
            Self::Queue => return (Self::Head..=Self::Messages).contains(&last),
            Self::Ids | Self::Origins | Self::Messages => Self::Queue,
            Self::Moves | Self::Acks => Self::Head,
            Self::End => return (Self::Head..=Self::Acks).contains(&last),
        };
        (first..=self).contains(&last)
    }
}

/// A queue that is being read.
#[derive(Debug)]
struct Open {
    queue: Queue,
    /// The last message: its offset, and when it was taken.
    last: Option<(u64, Tick)>,
}

/// Reads a saved state part by part, none of which takes longer than some milliseconds. Takes memory in proportion
/// to the bytes, whatever they say.
#[derive(Debug)]
pub struct Loader {
    rest: Bytes,
    queues: Queues,
    stage: Stage,
    parts: u64,
    open: Option<Open>,
    /// By offset; they go into the outbox in the order in which they came.
    moves: Vec<(u64, Outgoing)>,
}

impl Queues {
    /// The state that [`Self::save`] gave, read at once: takes seconds for millions of messages; see [`Loader`].
    ///
    /// # Errors
    /// [`Unreadable`] where the bytes are damaged, of another partition, or of another form.
    pub fn load(partition: PartitionId, saved: &Bytes) -> Result<Self, Unreadable> {
        Self::load_with(partition, Limits::default(), saved)
    }

    pub(super) fn load_with(partition: PartitionId, limits: Limits, saved: &Bytes) -> Result<Self, Unreadable> {
        let mut loader = Loader::with_limits(partition, limits, saved.clone());
        while loader.step()? {}
        loader.finish()
    }
}

impl Loader {
    /// Begins to read what was saved of this partition.
    pub fn new(partition: PartitionId, saved: Bytes) -> Self {
        Self::with_limits(partition, Limits::default(), saved)
    }

    fn with_limits(partition: PartitionId, limits: Limits, saved: Bytes) -> Self {
        let queues = Queues::with_limits(partition, limits);
        Self { rest: saved, queues, stage: Stage::Nothing, parts: 0, open: None, moves: Vec::new() }
    }

    /// Reads a part; whether there are more.
    ///
    /// # Errors
    /// [`Unreadable`] where the bytes are damaged, of another partition, or of another form.
    pub fn step(&mut self) -> Result<bool, Unreadable> {
        if self.rest.len() < LENGTH {
            return Err(Damaged::CutShort.into());
        }
        let length = self.rest.get_u32_le() as usize;
        if length > self.rest.len() {
            return Err(Damaged::CutShort.into());
        }
        let part: Part = decode(&self.rest.split_to(length))?;
        let stage = Stage::of(&part);
        if !stage.may_follow(self.stage) {
            return Err(Damaged::Order.into());
        }
        self.stage = stage;
        self.take(part)?;
        self.parts += 1;
        Ok(stage != Stage::End)
    }

    /// The queues, once [`Self::step`] has said that there is no more.
    ///
    /// # Errors
    /// [`Unreadable`] where the parts do not fit together.
    pub fn finish(mut self) -> Result<Queues, Unreadable> {
        if self.stage != Stage::End {
            return Err(Damaged::CutShort.into());
        }
        self.fill_outbox()?;
        let queues = &self.queues;
        let offsets = queues.queues.values().flat_map(|queue| queue.messages.iter().map(|(offset, _)| offset));
        let mut offsets: Vec<u64> = offsets.chain(queues.outbox.moves.iter().map(|(offset, _)| offset)).collect();
        offsets.sort_unstable();
        if !offsets.is_sorted_by(|one, other| one < other) {
            return Err(Damaged::Twice.into());
        }
        Ok(self.queues)
    }

    fn take(&mut self, part: Part) -> Result<(), Damaged> {
        match part {
            Part::Head(head) => self.take_head(&head),
            Part::Queue(head) => self.open(*head),
            Part::Ids(rows) => match &mut self.open {
                Some(open) => remember(&mut open.queue.ids, rows, self.queues.now, self.queues.next_offset),
                None => Err(Damaged::Order),
            },
            Part::Origins(rows) => match &mut self.open {
                Some(open) => remember(&mut open.queue.origins, rows, self.queues.now, self.queues.next_offset),
                None => Err(Damaged::Order),
            },
            Part::Messages(rows) => match &mut self.open {
                Some(open) => rows.into_iter().try_for_each(|(offset, row)| {
                    let message = row.restore(self.queues.now, offset, self.queues.next_offset)?;
                    open.take(offset, message)
                }),
                None => Err(Damaged::Order),
            },
            Part::Moves(rows) => self.close().and_then(|()| self.take_moves(rows)),
            Part::Acks(rows) => self.close().and_then(|()| self.take_acks(rows)),
            Part::End(parts) => match (self.close()?, self.rest.is_empty()) {
                ((), true) if parts == self.parts => Ok(()),
                ((), true) => Err(Damaged::PartsMissing),
                ((), false) => Err(Damaged::GoesOn),
            },
        }
    }

    fn take_head(&mut self, head: &Head) -> Result<(), Damaged> {
        if head.form != FORM {
            return Err(Damaged::Form(head.form));
        }
        if head.partition != self.queues.partition {
            return Err(Damaged::Partition(head.partition));
        }
        if [head.next_offset, head.next_number, head.next_seq].iter().any(|next| *next > OFFSET_LIMIT) {
            return Err(Damaged::BeyondCounter);
        }
        self.queues.now = head.now;
        self.queues.next_offset = head.next_offset;
        self.queues.next_number = head.next_number;
        self.queues.outbox.next_seq = head.next_seq;
        Ok(())
    }

    fn open(&mut self, head: QueueHead) -> Result<(), Damaged> {
        self.close()?;
        let QueueHead { name, number, config, totals, aged } = head;
        let Totals { published, delivered, redelivered, acknowledged, dead_lettered, expired } = totals;
        let all = [published, delivered, redelivered, acknowledged, dead_lettered, expired];
        if all.iter().any(|total| *total > OFFSET_LIMIT)
            || aged > self.queues.next_offset
            || number >= self.queues.next_number
        {
            return Err(Damaged::BeyondCounter);
        }
        self.open = Some(Open { queue: Queue { totals, aged, ..Queue::new(name, number, config) }, last: None });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Damaged> {
        let Some(Open { mut queue, .. }) = self.open.take() else { return Ok(()) };
        queue.due = queue.next_due();
        self.queues.due.extend(queue.due.map(|at| (at, queue.name.clone())));
        match self.queues.queues.insert(queue.name.clone(), queue) {
            None => Ok(()),
            Some(_) => Err(Damaged::Twice),
        }
    }

    fn take_moves(&mut self, rows: Vec<(u64, QueueName, QueueName, u64, MessageRow)>) -> Result<(), Damaged> {
        for (offset, from, to, seq, row) in rows {
            if seq >= self.queues.outbox.next_seq {
                return Err(Damaged::BeyondCounter);
            }
            let message = Arc::new(row.restore(self.queues.now, offset, self.queues.next_offset)?);
            self.moves.push((offset, Outgoing { from, to, seq, message }));
        }
        Ok(())
    }

    fn take_acks(&mut self, rows: Vec<(u64, Position, u64)>) -> Result<(), Damaged> {
        let most = self.queues.limits.acks;
        let mut all_new = true;
        for (offset, lease, queue) in rows {
            all_new &= self.queues.acks.remember(Receipt { offset, lease }, queue, most);
        }
        if all_new { Ok(()) } else { Err(Damaged::Twice) }
    }

    fn fill_outbox(&mut self) -> Result<(), Damaged> {
        if !self.moves.is_sorted_by(|(one, _), (other, _)| one < other) {
            return Err(Damaged::Order);
        }
        self.moves.sort_by_key(|(_, outgoing)| outgoing.seq);
        if !self.moves.is_sorted_by(|(_, one), (_, other)| one.seq < other.seq) {
            return Err(Damaged::Twice);
        }
        for (offset, outgoing) in std::mem::take(&mut self.moves) {
            self.queues.outbox.put(offset, outgoing, self.queues.limits.moves_per_destination);
        }
        Ok(())
    }
}

fn remember<K: Ord + Clone>(
    memory: &mut Memory<K>,
    rows: Vec<(Tick, K, u64)>,
    now: Tick,
    next_offset: u64,
) -> Result<(), Damaged> {
    for (at, key, offset) in rows {
        if offset >= next_offset || at > now {
            return Err(Damaged::BeyondCounter);
        }
        if memory.order().back().is_some_and(|last| last.offset >= offset || last.at > at) {
            return Err(Damaged::Order);
        }
        memory.remember(key, offset, at);
    }
    Ok(())
}

impl Open {
    fn take(&mut self, offset: u64, message: Message) -> Result<(), Damaged> {
        let Self { queue, last } = self;
        if last.is_some_and(|(earlier, at)| offset <= earlier || message.enqueued_at < at) {
            return Err(Damaged::Order);
        }
        if offset < queue.aged && !matches!(message.place, Place::InFlight(..)) {
            return Err(Damaged::Order);
        }
        // It is known while it is there, also if it is not remembered any more.
        if let Some(origin) = message.origin()
            && !queue.origins.keep(origin, offset, message.enqueued_at)
        {
            return Err(Damaged::Missing);
        }
        *last = Some((offset, message.enqueued_at));
        queue.add(offset, message);
        Ok(())
    }
}

impl MessageRow {
    fn restore(self, now: Tick, offset: u64, next_offset: u64) -> Result<Message, Damaged> {
        let Self(id, body, extra, enqueued_at, place, deliveries, priority) = self;
        if priority > MAX_PRIORITY || enqueued_at > now || offset >= next_offset {
            return Err(Damaged::BeyondCounter);
        }
        Ok(Message { id, body, extra, enqueued_at, place, deliveries, priority })
    }
}
