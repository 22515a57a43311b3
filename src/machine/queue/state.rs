//! A queue: its messages, and where each of them stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    FORGET_SLACK_MS, MAX_PRIORITY, NewMessage, OFFSET_LIMIT, ORIGIN_WINDOW_S, Origin, QueueConfig, memory::Memory,
    shared::SharedMap,
};
use crate::{
    ids::{MessageId, QueueName, Tick},
    machine::replication::Position,
};

/// One message. There may be millions: what most of them lack is behind one pointer.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Message {
    pub(super) id: MessageId,
    pub(super) body: Bytes,
    pub(super) extra: Option<Box<Extra>>,
    pub(super) enqueued_at: Tick,
    pub(super) place: Place,
    pub(super) deliveries: u32,
    pub(super) priority: u8,
}

/// What a message may have beside its body.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Extra {
    pub(super) content_type: Option<Box<str>>,
    /// In the order of their names.
    pub(super) attributes: Box<[(Box<str>, Box<str>)]>,
    pub(super) origin: Option<Origin>,
}

/// Where a message stands.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(super) enum Place {
    /// It waits to be delivered.
    Ready,
    /// It is not delivered before this time.
    Delayed(Tick),
    /// It is delivered until this time, by this record.
    InFlight(Tick, Position),
}

/// Where a message stands among those that wait: the greater priority first, then the lesser offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rank(u64);

impl Rank {
    pub(super) fn new(priority: u8, offset: u64) -> Self {
        debug_assert!(priority <= MAX_PRIORITY && offset < OFFSET_LIMIT);
        Self(u64::from(MAX_PRIORITY - priority) * OFFSET_LIMIT + offset)
    }

    pub(super) fn offset(self) -> u64 {
        self.0 % OFFSET_LIMIT
    }
}

/// What has happened since the queue was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) redelivered: u64,
    pub(super) acknowledged: u64,
    pub(super) dead_lettered: u64,
    pub(super) expired: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Queue {
    pub(super) name: QueueName,
    /// No other queue of the partition ever had it.
    pub(super) number: u64,
    pub(super) config: QueueConfig,
    pub(super) totals: Totals,
    /// By offset, and so by age.
    pub(super) messages: SharedMap<Arc<Message>>,
    /// Messages before this offset are too old, and there only because they are delivered.
    pub(super) aged: u64,
    pub(super) ids: Memory<MessageId>,
    pub(super) origins: Memory<Origin>,
    // All that follows is made from the above.
    pub(super) ready: BTreeSet<Rank>,
    pub(super) delayed: BTreeSet<(Tick, u64)>,
    pub(super) in_flight: BTreeSet<(Tick, u64)>,
    /// Of all bodies.
    pub(super) bytes: u64,
    /// As the partition has noted it.
    pub(super) due: Option<Tick>,
}

impl Message {
    pub(super) fn new(new: &NewMessage, now: Tick) -> Self {
        let plain = new.content_type.is_none() && new.attributes.is_empty() && new.origin.is_none();
        let extra = || Extra {
            content_type: new.content_type.as_deref().map(Box::from),
            attributes: new
                .attributes
                .iter()
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect(),
            origin: new.origin.clone(),
        };
        Self {
            id: new.id.clone(),
            body: new.body.clone(),
            extra: (!plain).then(|| Box::new(extra())),
            enqueued_at: now,
            place: if new.delay_ms == 0 { Place::Ready } else { Place::Delayed(now.plus_ms(new.delay_ms)) },
            deliveries: 0,
            priority: new.priority.min(MAX_PRIORITY),
        }
    }

    pub(super) fn content_type(&self) -> Option<String> {
        self.extra.as_ref().and_then(|extra| extra.content_type.as_deref()).map(str::to_owned)
    }

    pub(super) fn attributes(&self) -> BTreeMap<String, String> {
        let attributes = self.extra.iter().flat_map(|extra| extra.attributes.iter());
        attributes.map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned())).collect()
    }

    pub(super) fn origin(&self) -> Option<&Origin> {
        self.extra.as_ref().and_then(|extra| extra.origin.as_ref())
    }

    fn length(&self) -> u64 {
        self.body.len() as u64
    }
}

impl Queue {
    pub(super) fn new(name: QueueName, number: u64, config: QueueConfig) -> Self {
        Self {
            name,
            number,
            config,
            totals: Totals::default(),
            messages: SharedMap::default(),
            aged: 0,
            ids: Memory::default(),
            origins: Memory::default(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            bytes: 0,
            due: None,
        }
    }

    pub(super) fn add(&mut self, offset: u64, message: Message) {
        self.bytes += message.length();
        self.list(offset, message.priority, message.place);
        self.messages.insert(offset, Arc::new(message));
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<Arc<Message>> {
        let message = self.messages.remove(offset)?;
        self.bytes -= message.length();
        self.unlist(offset, message.priority, message.place);
        if let Some(origin) = message.origin() {
            self.origins.release(origin, offset);
        }
        Some(message)
    }

    /// Puts a message that is there to another place.
    pub(super) fn place(&mut self, offset: u64, to: Place) {
        let Some(message) = self.message_mut(offset) else { return };
        let (priority, from) = (message.priority, message.place);
        message.place = to;
        self.unlist(offset, priority, from);
        self.list(offset, priority, to);
    }

    /// A message, to be changed.
    pub(super) fn message_mut(&mut self, offset: u64) -> Option<&mut Message> {
        self.messages.get_mut(offset).map(Arc::make_mut)
    }

    fn list(&mut self, offset: u64, priority: u8, place: Place) {
        match place {
            Place::Ready => self.ready.insert(Rank::new(priority, offset)),
            Place::Delayed(until) => self.delayed.insert((until, offset)),
            Place::InFlight(until, _) => self.in_flight.insert((until, offset)),
        };
    }

    fn unlist(&mut self, offset: u64, priority: u8, place: Place) {
        match place {
            Place::Ready => self.ready.remove(&Rank::new(priority, offset)),
            Place::Delayed(until) => self.delayed.remove(&(until, offset)),
            Place::InFlight(until, _) => self.in_flight.remove(&(until, offset)),
        };
    }

    /// When a message of this age is too old: the first full second that is not before.
    pub(super) fn too_old_at(&self, enqueued_at: Tick) -> Tick {
        let at = enqueued_at.plus_ms(self.config.retention_s.saturating_mul(1_000));
        Tick(at.0.checked_next_multiple_of(1_000).unwrap_or(u64::MAX))
    }

    pub(super) fn id_window_ms(&self) -> u64 {
        self.config.dedup_window_s.saturating_mul(1_000)
    }

    pub(super) fn origin_window_ms(&self) -> u64 {
        self.config.dedup_window_s.max(ORIGIN_WINDOW_S).saturating_mul(1_000)
    }

    /// Where a message goes that has been delivered so often, if it may not be delivered again.
    pub(super) fn exhausted(&self, deliveries: u32) -> Option<&QueueName> {
        let most = self.config.max_deliveries?.max(1);
        self.config.dead_letter.as_ref().filter(|_| deliveries >= most)
    }

    /// When the queue has something to do by itself.
    pub(super) fn next_due(&self) -> Option<Tick> {
        let aging = self.messages.first_from(self.aged).map(|(_, message)| self.too_old_at(message.enqueued_at));
        let forget = |oldest: Option<Tick>, window_ms: u64| {
            oldest.map(|at| at.plus_ms(window_ms.saturating_add(FORGET_SLACK_MS)))
        };
        [
            self.in_flight.first().map(|(until, _)| *until),
            self.delayed.first().map(|(until, _)| *until),
            aging,
            forget(self.ids.oldest(), self.id_window_ms()),
            forget(self.origins.oldest(), self.origin_window_ms()),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at < Tick(u64::MAX))
        .min()
    }
}
