//! A disk in memory for tests and simulation: what was not synced is lost in a crash.
//!
//! [`MemoryDisk`] outlives the node that writes to it, as a disk does. Syncing takes tokio's time,
//! so it runs on a paused clock. A crash ends the life of the log handles that were given out: what
//! a dead node's tasks still write goes nowhere.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::time::sleep;

use crate::{
    codec,
    ids::NodeId,
    raft::{
        RaftStorageError, SnapshotStore,
        log::{READ_BYTES, decoded, index_range},
        types::{Entry, LogId, Replicated, Types, Vote},
    },
};

/// What a crash does to votes. Forgetting them breaks Raft: that is for showing that a checker
/// notices. The term of the last entry is remembered: openraft asserts that a vote is no older.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Votes {
    #[default]
    Survive,
    Forgotten,
}

#[derive(Clone, Debug)]
enum Write {
    Vote(Vote),
    Append(LogId, Bytes),
    TruncateFrom(u64),
    Purge(LogId),
    Commit(LogId),
}

#[derive(Clone, Debug, Default)]
struct Contents {
    vote: Option<Vote>,
    entries: BTreeMap<u64, (LogId, Bytes)>,
    purged: Option<LogId>,
    committed: Option<LogId>,
}

impl Contents {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Vote(vote) => self.vote = Some(vote),
            Write::Append(id, payload) => _ = self.entries.insert(id.index, (id, payload)),
            Write::TruncateFrom(index) => _ = self.entries.split_off(&index),
            Write::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = self.purged.max(Some(upto));
            }
            Write::Commit(id) => self.committed = Some(id),
        }
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, (id, _))| *id).or(self.purged)
    }
}

#[derive(Debug, Default)]
struct Disk {
    /// As its node sees it.
    now: Contents,
    /// As a crash leaves it.
    synced: Contents,
    unsynced: VecDeque<(u64, Write)>,
    writes: u64,
    /// Counts crashes.
    life: u64,
    sync_takes: Duration,
    votes: Votes,
    fails: Option<io::ErrorKind>,
    snapshot: Option<Bytes>,
}

/// A disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk {
    disk: Arc<Mutex<Disk>>,
}

impl MemoryDisk {
    /// An empty disk on which a sync takes so long.
    pub(crate) fn new(sync_takes: Duration) -> Self {
        let disk = Self::default();
        disk.locked().sync_takes = sync_takes;
        disk
    }

    fn locked(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log and the snapshot on it, for one life of the node.
    pub(crate) fn log(&self) -> MemoryLog {
        let life = self.locked().life;
        MemoryLog { disk: self.clone(), life }
    }

    /// Loses what was not synced. Handles given out before are dead from now on.
    pub(crate) fn crash(&self) {
        let mut disk = self.locked();
        disk.life += 1;
        disk.unsynced.clear();
        if disk.votes == Votes::Forgotten {
            let voted_for = NodeId::default();
            disk.synced.vote = disk.synced.last().map(|last| Vote::new(last.leader_id.term, voted_for));
        }
        disk.now = disk.synced.clone();
    }

    /// What the next crashes do to votes.
    pub(crate) fn set_votes(&self, votes: Votes) {
        self.locked().votes = votes;
    }

    /// Makes each write fail from now on, or no more.
    pub(crate) fn fail_writes(&self, with: Option<io::ErrorKind>) {
        self.locked().fails = with;
    }

    /// How many entries the log holds.
    pub(crate) fn entries(&self) -> usize {
        self.locked().now.entries.len()
    }
}

/// The snapshot on a [`MemoryDisk`]. Keeping one is durable at once.
impl SnapshotStore for MemoryLog {
    fn load(&self) -> Result<Option<Bytes>, RaftStorageError> {
        Ok(self.alive().map_err(RaftStorageError::io(&self.path()))?.snapshot.clone())
    }

    fn keep(&self, image: &[u8]) -> Result<(), RaftStorageError> {
        self.alive().map_err(RaftStorageError::io(&self.path()))?.snapshot = Some(Bytes::copy_from_slice(image));
        Ok(())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("memory")
    }
}

/// The log and the snapshot on a [`MemoryDisk`].
#[derive(Clone, Debug)]
pub(crate) struct MemoryLog {
    disk: MemoryDisk,
    life: u64,
}

impl MemoryLog {
    fn alive(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.locked();
        if disk.life == self.life { Ok(disk) } else { Err(io::Error::other("this life of the disk is over")) }
    }

    fn write(&self, writes: impl IntoIterator<Item = Write>) -> io::Result<u64> {
        let mut disk = self.alive()?;
        if let Some(kind) = disk.fails {
            return Err(kind.into());
        }
        for write in writes {
            disk.writes += 1;
            let number = disk.writes;
            disk.now.apply(write.clone());
            disk.unsynced.push_back((number, write));
        }
        Ok(disk.writes)
    }

    /// Syncs everything up to a write. Never returns if the disk crashes meanwhile.
    async fn sync(&self, upto: u64) {
        let takes = self.disk.locked().sync_takes;
        if !takes.is_zero() {
            sleep(takes).await;
        }
        let crashed = match self.alive() {
            Ok(mut disk) => {
                while let Some((_, write)) = disk.unsynced.pop_front_if(|(number, _)| *number <= upto) {
                    disk.synced.apply(write);
                }
                false
            }
            Err(_) => true,
        };
        if crashed {
            std::future::pending::<()>().await;
        }
    }

    fn read<S: Replicated>(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry<S>>> {
        let disk = self.alive()?;
        decoded::<S>(disk.now.entries.range(start..end.max(start)).map(|(_, entry)| Ok(entry.clone())), limit)
    }
}

impl<S: Replicated> RaftLogReader<Types<S>> for MemoryLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry<S>>> {
        let (start, end) = index_range(&range);
        self.read::<S>(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry<S>>> {
        self.read::<S>(start, end, READ_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.alive()?.now.vote)
    }
}

impl<S: Replicated> RaftLogStorage<Types<S>> for MemoryLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<S>>> {
        let disk = self.alive()?;
        Ok(LogState { last_purged_log_id: disk.now.purged, last_log_id: disk.now.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let written = self.write([Write::Vote(*vote)])?;
        self.sync(written).await;
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.write(committed.map(Write::Commit)).map(drop)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let disk = self.alive()?;
        Ok(disk.now.committed.min(disk.now.last()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<S>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry<S>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut writes = Vec::new();
        for entry in entries {
            writes.push(Write::Append(entry.log_id, codec::encode(&entry.payload)));
        }
        let written = self.write(writes)?;
        let log = self.clone();
        tokio::spawn(async move {
            log.sync(written).await;
            callback.io_completed(Ok(()));
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.write([Write::TruncateFrom(last.map_or(0, |last| last.index + 1))]).map(drop)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.write([Write::Purge(upto)]).map(drop)
    }
}
