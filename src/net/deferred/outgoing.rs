//! What waits to be sent: batches per peer and lane.
//!
//! Messages that come while exchanges are in flight travel together in the next one, because an
//! exchange costs more than a message. Pure bookkeeping: the task sends what [`Outgoing::next`] gives.

use std::collections::{HashMap, VecDeque};

use super::wire::{BATCH_BYTES, MAX_BATCH, Message};
use crate::{ids::NodeId, net::Lane};

/// Exchanges in flight to one peer in one lane.
const IN_FLIGHT: usize = 2;

/// A message, and how often it was sent in vain.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) message: Message,
    pub(super) failures: u32,
}

impl From<Message> for Item {
    fn from(message: Message) -> Self {
        Self { message, failures: 0 }
    }
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Item>,
    in_flight: usize,
}

/// The lines of all peers. Bounded by the questions that are open on either side.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    lines: HashMap<(NodeId, LaneKey), Line>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum LaneKey {
    Ask,
    End,
}

fn key(lane: Lane) -> LaneKey {
    match lane {
        Lane::Ask => LaneKey::Ask,
        Lane::End => LaneKey::End,
    }
}

impl Outgoing {
    pub(super) fn push(&mut self, peer: NodeId, lane: Lane, item: impl Into<Item>) {
        self.lines.entry((peer, key(lane))).or_default().waiting.push_back(item.into());
    }

    /// The next batch to this peer, if it may go now.
    pub(super) fn next(&mut self, peer: NodeId, lane: Lane) -> Option<Vec<Item>> {
        let line = self.lines.get_mut(&(peer, key(lane)))?;
        if line.in_flight >= IN_FLIGHT || line.waiting.is_empty() {
            return None;
        }
        line.in_flight += 1;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(item) = line.waiting.front() {
            bytes += item.message.body_bytes();
            if !batch.is_empty() && (bytes > BATCH_BYTES || batch.len() == MAX_BATCH) {
                break;
            }
            batch.extend(line.waiting.pop_front());
        }
        Some(batch)
    }

    /// An exchange ended.
    pub(super) fn landed(&mut self, peer: NodeId, lane: Lane) {
        if let Some(line) = self.lines.get_mut(&(peer, key(lane))) {
            line.in_flight -= 1;
            if line.in_flight == 0 && line.waiting.is_empty() {
                self.lines.remove(&(peer, key(lane)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{super::wire::AskId, *};
    use crate::ids::Incarnation;

    fn ask(seq: u64, bytes: usize) -> Message {
        Message::Ask(AskId(Incarnation(1), seq), Bytes::from(vec![0; bytes]))
    }

    #[test]
    fn what_comes_while_two_exchanges_fly_travels_together_in_the_third() {
        let peer = NodeId::from_bytes([1; 32]);
        let mut outgoing = Outgoing::default();
        for seq in 0..2 {
            outgoing.push(peer, Lane::Ask, ask(seq, 1));
            assert_eq!(outgoing.next(peer, Lane::Ask).unwrap().len(), 1);
        }
        for seq in 2..10 {
            outgoing.push(peer, Lane::Ask, ask(seq, 1));
        }
        assert!(outgoing.next(peer, Lane::Ask).is_none());
        outgoing.push(peer, Lane::End, Message::Cancel(AskId(Incarnation(1), 1)));
        assert!(outgoing.next(peer, Lane::End).is_some(), "what ends a wait does not queue behind questions");
        outgoing.landed(peer, Lane::Ask);
        assert_eq!(outgoing.next(peer, Lane::Ask).unwrap().len(), 8);
    }

    #[test]
    fn a_batch_is_bounded_by_count_and_bytes_and_a_large_message_goes_alone() {
        let peer = NodeId::from_bytes([1; 32]);
        let mut outgoing = Outgoing::default();
        outgoing.push(peer, Lane::Ask, ask(0, BATCH_BYTES * 2));
        (0..MAX_BATCH as u64 + 1).for_each(|seq| outgoing.push(peer, Lane::Ask, ask(seq, 1)));
        assert_eq!(outgoing.next(peer, Lane::Ask).unwrap().len(), 1);
        assert_eq!(outgoing.next(peer, Lane::Ask).unwrap().len(), MAX_BATCH);
    }
}
