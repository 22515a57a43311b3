//! What a [`World`](super::World) is made of: journals, and the messages under way.

use std::collections::VecDeque;

use crate::{
    ids::{Epoch, JournalId},
    machine::replication::{Message, Position, Record, Replica, Reply},
};

/// What the journal of one node has, and what it was told and has not done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Disk {
    pub(super) id: JournalId,
    pub(super) at: Position,
    pub(super) state: Vec<u8>,
    pub(super) records: Vec<Record>,
    pub(super) writes: VecDeque<Write>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Write {
    Append { batch: Option<u64>, records: Vec<Record> },
    Cut { last_seq: u64 },
    Reset { batch: u64, at: Position, state: Vec<u8> },
}

impl Disk {
    pub(super) fn empty(id: u128) -> Self {
        Self { id: JournalId(id), at: Position::default(), state: vec![], records: vec![], writes: VecDeque::new() }
    }

    /// Does the next thing; the batch that is durable by that.
    pub(super) fn write(&mut self) -> Option<u64> {
        match self.writes.pop_front()? {
            Write::Append { batch, records } => {
                self.records.extend(records);
                batch
            }
            Write::Cut { last_seq } => {
                self.records.retain(|record| record.position.seq <= last_seq);
                None
            }
            Write::Reset { batch, at, state } => {
                (self.at, self.state, self.records) = (at, state, vec![]);
                Some(batch)
            }
        }
    }
}

/// What travels.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in super::super) enum Envelope {
    Ask { from: Replica, to: usize, call: u64, message: Message },
    Answer { to: usize, incarnation: u64, from: usize, call: u64, reply: Reply },
    Outcome { to: usize, incarnation: u64, ask: u64, epoch: Epoch, done: Option<bool> },
}
