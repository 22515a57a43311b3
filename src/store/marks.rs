//! Marks: how far each journal had got, kept beside it in `DATA_DIR/queues/marks`, so that one that comes back with
//! less is noticed.
//!
//! A mark is written after what it marks is durable, and is not synced itself: it may be behind, never ahead. So a
//! journal that ends before its mark has lost something; one that does not may still have, if the mark was lost as
//! well.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    durable,
    ids::{Epoch, JournalId, PartitionId},
    machine::replication::Position,
    store::Trust,
};

/// Bytes of a slot and of the head. One sector holds several, none lies across two.
const SLOT: usize = 64;
const MAGIC: &[u8; 8] = b"smmarks1";

/// How far the journal of a partition had got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Mark {
    /// The end of its log, at least.
    pub(super) last: Position,
    /// How often it had been opened, where that is counted.
    pub(super) opened: u64,
}

/// What the slot of a partition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Marked {
    /// This.
    At(Mark),
    /// Nothing, nor was there ever anything.
    Never,
    /// What was there is lost.
    Lost,
}

/// The file of marks of one journal.
#[derive(Debug)]
pub(super) struct Marks {
    file: File,
    path: PathBuf,
    /// Whether these marks are as old as the journal: what has none was never written.
    complete: bool,
}

impl Marks {
    /// Opens the marks of this journal, or begins anew where they are another's, or none. `fresh`: the journal was
    /// made just now.
    pub(super) fn open(path: &Path, journal: JournalId, fresh: bool) -> io::Result<Self> {
        let kept = durable::read(path)?.and_then(|bytes| read_head(&bytes)).filter(|(of, _)| *of == journal);
        let complete = match kept {
            Some((_, complete)) if !fresh => complete,
            _ => {
                durable::replace(path, &head(journal, fresh))?;
                fresh
            }
        };
        let file = OpenOptions::new().read(true).write(true).mode(0o600).open(path)?;
        Ok(Self { file, path: path.to_owned(), complete })
    }

    /// How far this partition had got.
    pub(super) fn get(&self, partition: PartitionId) -> Marked {
        let mut slot = [0; SLOT];
        match self.file.read_exact_at(&mut slot, offset(partition)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => slot = [0; SLOT],
            Err(_) => return Marked::Lost,
        }
        if slot == [0; SLOT] {
            return if self.complete { Marked::Never } else { Marked::Lost };
        }
        let number = |nth: usize| u64_at(&slot, nth * 8);
        if number(3) != u64::from(crc32fast::hash(&slot[..24])) {
            return Marked::Lost;
        }
        Marked::At(Mark { last: Position { epoch: Epoch(number(0)), seq: number(1) }, opened: number(2) })
    }

    /// The partitions whose journals had got anywhere.
    pub(super) fn known(&self) -> Vec<PartitionId> {
        let slots = self.file.metadata().map_or(0, |metadata| metadata.len() / SLOT as u64);
        let partitions = (1..slots).filter_map(|slot| u32::try_from(slot - 1).ok()).map(PartitionId);
        partitions.filter(|of| matches!(self.get(*of), Marked::At(mark) if mark.last.seq > 0)).collect()
    }

    /// What is to be thought of a journal that ends here and is undamaged.
    pub(super) fn judge(&self, partition: PartitionId, last: Position) -> Trust {
        match self.get(partition) {
            Marked::At(mark) if last < mark.last => Trust::Shortened(format!(
                "it ends with record {} of epoch {}, and had got to record {} of epoch {}",
                last.seq, last.epoch, mark.last.seq, mark.last.epoch
            )),
            Marked::At(_) | Marked::Never => Trust::Verified,
            Marked::Lost => Trust::Unproven(format!("its mark in {} is gone", self.path.display())),
        }
    }

    /// Remembers how far it has got. That this fails is told in the log only: the journal itself has it.
    pub(super) fn set(&self, partition: PartitionId, mark: Mark) {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(&mark.last.epoch.0.to_le_bytes());
        slot[8..16].copy_from_slice(&mark.last.seq.to_le_bytes());
        slot[16..24].copy_from_slice(&mark.opened.to_le_bytes());
        let checksum = u64::from(crc32fast::hash(&slot[..24]));
        slot[24..32].copy_from_slice(&checksum.to_le_bytes());
        self.write(partition, &slot);
    }

    /// Remembers that it is about to be cut, and is durable when it returns: a cut is no loss.
    pub(super) fn lower(&self, partition: PartitionId, mark: Mark) {
        self.set(partition, mark);
        if let Err(error) = self.file.sync_data() {
            tracing::debug!(partition = partition.0, "the mark in {} cannot be synced: {error}", self.path.display());
        }
    }

    /// Forgets a partition that is kept no longer.
    pub(super) fn clear(&self, partition: PartitionId) {
        self.set(partition, Mark::default());
    }

    fn write(&self, partition: PartitionId, slot: &[u8; SLOT]) {
        if let Err(error) = self.file.write_all_at(slot, offset(partition)) {
            tracing::debug!(partition = partition.0, "the mark in {} cannot be written: {error}", self.path.display());
        }
    }
}

fn offset(partition: PartitionId) -> u64 {
    (u64::from(partition.0) + 1) * SLOT as u64
}

fn head(journal: JournalId, complete: bool) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend(journal.0.to_le_bytes());
    head.push(u8::from(complete));
    head.extend(crc32fast::hash(&head).to_le_bytes());
    head.resize(SLOT, 0);
    head
}

fn read_head(bytes: &[u8]) -> Option<(JournalId, bool)> {
    let head_of = |journal, complete| (head(journal, complete) == bytes[..SLOT]).then_some((journal, complete));
    let id = bytes.get(8..24).filter(|_| bytes.len() >= SLOT)?;
    let journal = JournalId(u128::from_le_bytes(id.try_into().ok()?));
    head_of(journal, true).or_else(|| head_of(journal, false))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { last: Position { epoch: Epoch(4), seq: 77 }, opened: 2 };

    #[test]
    fn a_mark_is_found_again_by_the_same_journal_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let marks = Marks::open(&path, JournalId(7), true).unwrap();
        assert_eq!(marks.get(PartitionId(3)), Marked::Never);
        marks.set(PartitionId(3), MARK);
        let marks = Marks::open(&path, JournalId(7), false).unwrap();
        assert_eq!(marks.get(PartitionId(3)), Marked::At(MARK));
        assert_eq!(marks.get(PartitionId(2)), Marked::Never);
        assert_eq!(marks.get(PartitionId(1000)), Marked::Never);
        marks.clear(PartitionId(3));
        assert_eq!(marks.get(PartitionId(3)), Marked::At(Mark::default()));

        let marks = Marks::open(&path, JournalId(8), false).unwrap();
        assert_eq!(marks.get(PartitionId(3)), Marked::Lost);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Marks::open(&path, JournalId(7), false).unwrap().get(PartitionId(3)), Marked::Lost);
    }

    #[test]
    fn a_damaged_mark_counts_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        Marks::open(&path, JournalId(7), true).unwrap().set(PartitionId(0), MARK);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..SLOT + 32 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(Marks::open(&path, JournalId(7), false).unwrap().get(PartitionId(0)), Marked::Lost, "{at}");
        }
    }
}
