//! A backup of the replicated state: what is in it, how it lies in a file, and how it is put back.
//!
//! A backup holds what applications put into the control plane and cannot make again: sessions, holds, delays, and the
//! counter of the fencing tokens. It does not hold members, bars, placement or the memory of answers: those are of the
//! machines of one cluster, and a backup is also put into another one. Queues are in their journals, the cache is in memory.
//!
//! [`mod@file`] is the form of the file, with its checksums; [`Restoring`] is what the replicated state keeps of a backup that
//! is being put back. It comes in several entries, because an entry has a bound; it is staged beside the state, checked
//! row by row as it comes, and takes the place of the lock table in the entry that ends it.

pub mod file;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::lock::{LockRecord, LockTable, RecordCounts, TOKEN_LIMIT};
use crate::ids::{ClusterId, RequestId, Term, Tick};

/// How long a backup may lie staged without being ended, in milliseconds of the time that leaders count.
pub const STAGED_MS: u64 = 600_000;
/// The greatest counter of tokens that a backup may have: a cluster must be able to count on from beyond it.
const MAX_SAVED_TOKEN: u64 = TOKEN_LIMIT - (1 << 33);

/// What a backup says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupHeader {
    /// Of which cluster it is.
    pub cluster_id: ClusterId,
    /// The name of that cluster.
    pub cluster_name: String,
    /// The version of the program that made it.
    pub version: String,
    /// When it was made, in Unix milliseconds by the clock of the leader.
    pub created_at: Tick,
    /// The leader's term.
    pub term: Term,
    /// The last entry of the log that is in it.
    pub applied_index: u64,
    /// The counter of fencing tokens.
    pub token: u64,
    /// How many records there are.
    pub counts: RecordCounts,
    /// In how many parts.
    pub parts: u32,
}

/// What a backup may be put into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Onto {
    /// Only a cluster without sessions and locks.
    EmptyState,
    /// Any cluster: what it has is given up.
    AnyState,
}

/// One step of putting a backup back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RestoreStep {
    /// The beginning. Takes the place of one that was begun before.
    Begin {
        /// What the backup says of itself.
        header: Box<BackupHeader>,
        /// What it may be put into.
        onto: Onto,
    },
    /// Its next part.
    Part {
        /// The request that began it.
        restore: RequestId,
        /// Which part, from 0.
        number: u32,
        /// What is in it.
        records: Vec<LockRecord>,
    },
    /// All parts are there: what they make takes the place of the lock table.
    Finish {
        /// The request that began it.
        restore: RequestId,
        /// What it may be put into.
        onto: Onto,
    },
    /// It is given up.
    Cancel {
        /// The request that began it.
        restore: RequestId,
    },
}

/// What came of a [`RestoreStep`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RestoreAnswer {
    /// Done; there is more to come.
    Taken,
    /// Put back.
    Restored(Restored),
    /// Refused: the cluster has so much, and it was not said that it may be given up. Nothing was changed.
    Occupied(RecordCounts),
    /// Refused: it was given up, or another one was begun meanwhile. Nothing was changed.
    Superseded,
    /// Refused: it contradicts itself. Nothing was changed.
    Bad(String),
}

/// What was put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// What there is now.
    pub counts: RecordCounts,
    /// What there was before.
    pub replaced: RecordCounts,
    /// Where the tokens count on from.
    pub token: u64,
}

/// A backup on its way into the state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Restoring {
    id: RequestId,
    /// By the time that leaders count.
    begun: Tick,
    parts: u32,
    next: u32,
    counts: RecordCounts,
    table: LockTable,
}

impl Restoring {
    /// Begins with nothing but what the backup says of itself.
    ///
    /// # Errors
    /// Why it cannot be a backup.
    pub fn begin(id: RequestId, begun: Tick, header: &BackupHeader) -> Result<Self, String> {
        if header.token > MAX_SAVED_TOKEN {
            return Err(format!("its counter of fencing tokens is {}: at most {MAX_SAVED_TOKEN} can be", header.token));
        }
        let table = LockTable::of_backup(header.token);
        Ok(Self { id, begun, parts: header.parts, next: 0, counts: header.counts, table })
    }

    /// Which one it is.
    pub fn is(&self, id: RequestId) -> bool {
        self.id == id
    }

    /// Whether it has lain for too long.
    pub fn is_stale(&self, now: Tick) -> bool {
        now >= self.begun.plus_ms(STAGED_MS)
    }

    /// Takes its next part.
    ///
    /// # Errors
    /// Why it does not fit. What was taken of it is void with the whole.
    pub fn part(&mut self, number: u32, records: Vec<LockRecord>) -> Result<(), String> {
        if number != self.next || number >= self.parts {
            return Err(format!("part {number} came in place of part {} of {}", self.next, self.parts));
        }
        for record in records {
            self.table.add_record(record).map_err(|bad| bad.to_string())?;
        }
        self.next += 1;
        Ok(())
    }

    /// The table that it makes, once it is whole.
    ///
    /// # Errors
    /// What is missing.
    pub fn finish(self) -> Result<LockTable, String> {
        let found = self.table.record_counts();
        if self.next != self.parts || found != self.counts {
            let of = |counts: RecordCounts| {
                format!("{} sessions, {} holds, {} delays", counts.sessions, counts.holds, counts.delays)
            };
            return Err(format!(
                "it has {} in {} parts, and promised {} in {}",
                of(found),
                self.next,
                of(self.counts),
                self.parts
            ));
        }
        Ok(self.table)
    }
}
