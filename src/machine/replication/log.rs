//! The part of a partition's log that is kept in memory: everything uncommitted, and some of what was committed.
//!
//! Knows nothing of epochs' meaning, of followers or of the journal: positions, records, and what of them is held.

use std::collections::VecDeque;

use super::{Durability, Position, Record};
use crate::ids::Epoch;

/// The end of the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Log {
    /// The record before the first one kept. It was committed.
    base: Position,
    /// Without gap, in order.
    records: VecDeque<Record>,
    /// What must be synced and is not: numbers of records, and of the base where a state replaced everything.
    unsynced: VecDeque<u64>,
    /// Bytes of the bodies of the committed ones, and of the others.
    committed_bytes: usize,
    uncommitted_bytes: usize,
    /// The number of the last record that is known to be committed.
    committed: u64,
}

impl Log {
    pub(super) fn new(checkpoint: Position, records: Vec<Record>) -> Self {
        let mut log = Self::after(checkpoint);
        for record in records {
            log.push(record);
        }
        log.unsynced.clear();
        log
    }

    /// Nothing, after this position.
    fn after(base: Position) -> Self {
        Self {
            base,
            records: VecDeque::new(),
            unsynced: VecDeque::new(),
            committed_bytes: 0,
            uncommitted_bytes: 0,
            committed: base.seq,
        }
    }

    pub(super) fn base(&self) -> Position {
        self.base
    }

    pub(super) fn last(&self) -> Position {
        self.records.back().map_or(self.base, |record| record.position)
    }

    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    pub(super) fn uncommitted(&self) -> (usize, usize) {
        (self.records.len() - self.index(self.committed), self.uncommitted_bytes)
    }

    /// The position of a record, if it is kept or the one before.
    pub(super) fn position(&self, seq: u64) -> Option<Position> {
        match seq.checked_sub(self.base.seq)? {
            0 => Some(self.base),
            ahead => Some(self.records.get(usize::try_from(ahead - 1).ok()?)?.position),
        }
    }

    /// How many of the kept records have numbers up to this one.
    fn index(&self, seq: u64) -> usize {
        usize::try_from(seq.saturating_sub(self.base.seq)).map_or(self.records.len(), |at| at.min(self.records.len()))
    }

    pub(super) fn push(&mut self, record: Record) {
        assert_eq!(record.position.seq, self.last().seq + 1, "the log has no gap");
        assert!(record.position.epoch >= self.last().epoch, "the epochs of a log never go back");
        if record.durability == Durability::Synced {
            self.unsynced.push_back(record.position.seq);
        }
        self.uncommitted_bytes += record.body.len();
        self.records.push_back(record);
    }

    /// Removes everything after a record.
    pub(super) fn cut(&mut self, last_seq: u64) {
        assert!(last_seq >= self.committed, "what is committed is never cut");
        while self.last().seq > last_seq {
            let Some(cut) = self.records.pop_back() else { break };
            self.uncommitted_bytes -= cut.body.len();
        }
        while self.unsynced.back().is_some_and(|seq| *seq > last_seq) {
            self.unsynced.pop_back();
        }
    }

    /// Replaces everything by a state.
    pub(super) fn reset(&mut self, at: Position) {
        *self = Self::after(at);
        self.unsynced.push_back(at.seq);
    }

    /// The journal has everything up to this record.
    pub(super) fn synced(&mut self, upto: u64) {
        while self.unsynced.front().is_some_and(|seq| *seq <= upto) {
            self.unsynced.pop_front();
        }
    }

    /// Records after this one, as many as one message takes; at least one, if there is any.
    pub(super) fn after_seq(&self, seq: u64, max_records: usize, max_bytes: usize) -> Vec<Record> {
        let mut bytes = 0;
        self.records
            .range(self.index(seq)..)
            .take(max_records.max(1))
            .take_while(|record| {
                let first = bytes == 0;
                bytes += record.body.len() + 1;
                first || bytes <= max_bytes
            })
            .cloned()
            .collect()
    }

    /// The last record that is held, as everything before it is.
    pub(super) fn held(&self) -> u64 {
        self.unsynced.front().map_or(self.last().seq, |seq| seq - 1)
    }

    /// The last position that is neither after this number nor of a later epoch: where a log that has this one may
    /// still agree. `None`: not here.
    pub(super) fn agreeable(&self, seq: u64, epoch: Epoch) -> Option<Position> {
        let kept = self.records.iter().take(self.index(seq)).rev().map(|record| record.position);
        let all = kept.chain((self.base.seq <= seq).then_some(self.base));
        all.into_iter().find(|position| position.epoch <= epoch)
    }

    /// Notes that everything up to this record is committed; what is new of that.
    pub(super) fn commit(&mut self, upto: u64) -> Vec<Record> {
        assert!(upto <= self.last().seq, "only what is there can be committed");
        let news = self.index(self.committed)..self.index(upto);
        let news: Vec<Record> = self.records.range(news).cloned().collect();
        let bytes: usize = news.iter().map(|record| record.body.len()).sum();
        self.uncommitted_bytes -= bytes;
        self.committed_bytes += bytes;
        self.committed = self.committed.max(upto);
        news
    }

    /// Forgets the oldest committed records beyond what is to be kept.
    pub(super) fn trim(&mut self, keep_records: usize, keep_bytes: usize) {
        while self.base.seq < self.committed
            && (self.index(self.committed) > keep_records || self.committed_bytes > keep_bytes)
        {
            let Some(gone) = self.records.pop_front() else { break };
            self.committed_bytes -= gone.body.len();
            self.base = gone.position;
        }
    }
}
