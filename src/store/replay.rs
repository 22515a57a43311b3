//! What a journal amounts to: its entries, read in order, as the records that are left.

use crate::{
    machine::replication::{Position, Record},
    store::entry::Entry,
};

/// Takes the entries that are kept beside a checkpoint, oldest first. Those that the checkpoint covers may be among
/// them, or have been freed already.
#[derive(Debug)]
pub(super) struct Replay {
    checkpoint: Position,
    records: Vec<Record>,
    /// The number of the last record, once one or a truncation has been read.
    last: Option<u64>,
}

impl Replay {
    pub(super) fn new(checkpoint: Position) -> Self {
        Self { checkpoint, records: Vec::new(), last: None }
    }

    /// # Errors
    /// Which record is missing.
    pub(super) fn take(&mut self, entry: Entry) -> Result<(), String> {
        match entry {
            Entry::Records(records) => records.into_iter().try_for_each(|record| self.record(record)),
            Entry::Truncate { last_seq } => {
                let kept = self.records.partition_point(|record| record.position.seq <= last_seq);
                self.records.truncate(kept);
                let known = self.last.unwrap_or(self.checkpoint.seq);
                if last_seq <= known {
                    self.last = Some(last_seq);
                }
                Ok(())
            }
        }
    }

    fn record(&mut self, record: Record) -> Result<(), String> {
        let (seq, covered) = (record.position.seq, self.checkpoint.seq);
        let follows = match self.last {
            Some(last) => seq == last + 1,
            None => seq <= covered + 1,
        };
        if !follows {
            let last = self.last.unwrap_or(covered);
            return Err(format!("record {seq} follows record {last}: those between them are missing"));
        }
        self.last = Some(seq);
        if seq > covered {
            self.records.push(record);
        }
        Ok(())
    }

    /// The records after the checkpoint.
    ///
    /// # Errors
    /// The log ends before its checkpoint does.
    pub(super) fn end(self) -> Result<Vec<Record>, String> {
        match self.last {
            Some(last) if last < self.checkpoint.seq => {
                Err(format!("it ends with record {last}, and its checkpoint covers {}", self.checkpoint.seq))
            }
            _ => Ok(self.records),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::Epoch, machine::replication::Durability};

    fn position(seq: u64) -> Position {
        Position { epoch: Epoch(1), seq }
    }

    fn records(seqs: impl IntoIterator<Item = u64>) -> Entry {
        let record =
            |seq| Record { position: position(seq), durability: Durability::Synced, body: bytes::Bytes::new() };
        Entry::Records(seqs.into_iter().map(record).collect())
    }

    fn replay(checkpoint: u64, entries: impl IntoIterator<Item = Entry>) -> Result<Vec<u64>, String> {
        let mut replay = Replay::new(position(checkpoint));
        entries.into_iter().try_for_each(|entry| replay.take(entry))?;
        Ok(replay.end()?.iter().map(|record| record.position.seq).collect())
    }

    #[test]
    fn what_was_cut_or_is_covered_by_the_checkpoint_is_left_out() {
        let cut = |last_seq| Entry::Truncate { last_seq };
        assert_eq!(replay(0, []), Ok(vec![]));
        assert_eq!(replay(0, [records(1..4), cut(2), records(3..5)]), Ok(vec![1, 2, 3, 4]));
        assert_eq!(replay(3, [records(1..4), cut(2), records(3..6)]), Ok(vec![4, 5]));
        assert_eq!(replay(3, [cut(2), records(3..6)]), Ok(vec![4, 5]));
        assert_eq!(replay(7, [records(5..7), records(7..8)]), Ok(vec![]));
        assert_eq!(replay(7, []), Ok(vec![]));
        assert_eq!(replay(2, [records(3..9), cut(100)]), Ok((3..9).collect()));
    }

    #[test]
    fn a_gap_is_told() {
        assert!(replay(0, [records([1, 3])]).unwrap_err().contains("record 3 follows record 1"));
        assert!(replay(4, [records([6])]).is_err());
        assert!(replay(4, [records([1, 2, 3])]).is_err());
        assert!(replay(0, [records([1, 2]), records([2])]).is_err());
    }
}
