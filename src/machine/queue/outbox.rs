//! The messages that are to be moved to other queues: neither deliverable nor lost until they have arrived.

use std::{collections::BTreeMap, sync::Arc};

use super::{Move, NewMessage, Origin, shared::SharedMap, state::Message};
use crate::ids::{PartitionId, QueueName};

/// A message on its way.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Outgoing {
    pub(super) from: QueueName,
    pub(super) to: QueueName,
    /// The order in which messages came into the outbox.
    pub(super) seq: u64,
    /// As it is to arrive, without its new origin.
    pub(super) message: Arc<Message>,
}

/// What goes to one destination.
#[derive(Clone, PartialEq, Debug, Default)]
struct Lane {
    /// The offsets, in the order in which they came.
    order: BTreeMap<u64, u64>,
    /// Those before this one were told.
    told: u64,
    /// How many of those have not arrived. Where it is less than the most, all were told.
    under_way: usize,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Outbox {
    /// By offset.
    pub(super) moves: SharedMap<Outgoing>,
    pub(super) next_seq: u64,
    /// Made from the above.
    lanes: BTreeMap<QueueName, Lane>,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.moves.len()
    }

    /// Takes a message; it is to be told if its number comes back.
    pub(super) fn push(
        &mut self,
        offset: u64,
        from: QueueName,
        to: QueueName,
        message: Arc<Message>,
        most_under_way: usize,
    ) -> Option<u64> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let outgoing = Outgoing { from, to, seq, message };
        self.put(offset, outgoing, most_under_way).then_some(offset)
    }

    /// Puts a message into its lane, whether new or from a saved outbox in the order of `seq`.
    pub(super) fn put(&mut self, offset: u64, outgoing: Outgoing, most_under_way: usize) -> bool {
        let lane = self.lanes.entry(outgoing.to.clone()).or_default();
        lane.order.insert(outgoing.seq, offset);
        let tell = lane.under_way < most_under_way;
        if tell {
            lane.told = outgoing.seq + 1;
            lane.under_way += 1;
        }
        self.moves.insert(offset, outgoing);
        tell
    }

    /// Drops a message that has arrived. Comes back: the queue it came from, and the offset of the one
    /// that is to be told in its place.
    pub(super) fn arrived(&mut self, offset: u64) -> Option<(QueueName, Option<u64>)> {
        let outgoing = self.moves.remove(offset)?;
        let lane = self.lanes.get_mut(&outgoing.to)?;
        lane.order.remove(&outgoing.seq);
        let mut next = None;
        if outgoing.seq < lane.told {
            match lane.order.range(lane.told..).next() {
                Some((seq, offset)) => {
                    lane.told = seq + 1;
                    next = Some(*offset);
                }
                None => {
                    lane.under_way -= 1;
                    lane.told = lane.order.last_key_value().map_or(0, |(seq, _)| seq + 1);
                }
            }
        }
        if lane.order.is_empty() {
            self.lanes.remove(&outgoing.to);
        }
        Some((outgoing.from, next))
    }

    /// What was told and has not arrived, by destination.
    pub(super) fn told(&self) -> impl Iterator<Item = u64> {
        self.lanes.values().flat_map(|lane| lane.order.range(..lane.told).map(|(_, offset)| *offset))
    }

    /// The move of a message that is there.
    pub(super) fn to_tell(&self, partition: PartitionId, offset: u64) -> Option<Move> {
        let Outgoing { from, to, message, .. } = self.moves.get(offset)?;
        Some(Move {
            offset,
            to: to.clone(),
            message: NewMessage {
                id: message.id.clone(),
                body: message.body.clone(),
                content_type: message.content_type(),
                attributes: message.attributes(),
                delay_ms: 0,
                priority: message.priority,
                origin: Some(Origin { partition, queue: from.clone(), offset }),
            },
        })
    }
}
