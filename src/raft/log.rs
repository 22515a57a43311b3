//! Raft's log and votes on disk, in the `raft-log` crate.
//!
//! Owns the directory `raft/` of the data directory: the log's random id in `log-id`, the segments
//! in `wal/`. The id ties the log to the node's identity, so that a node whose log was replaced is
//! noticed before it votes twice. Openraft is the only caller once [`DiskLog::open`] has returned.

use std::{
    fmt::{self, Debug},
    fs, io,
    ops::{Bound, RangeBounds},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use raft_log::api::raft_log_writer::RaftLogWriter;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    codec, durable,
    raft::{
        disk::{DiskLogId, DiskPayload, DiskTypes, DiskVote, OnFlushed},
        storage::RaftStorageError,
        types::{Entry, LogId, Replicated, Types, Vote},
    },
    telemetry::RaftMetrics,
};

/// Bytes of recent entries kept in memory: what followers that keep up and the state machine read.
const CACHE_BYTES: usize = 4 << 20;
/// Entries kept in memory, whatever their size.
const CACHE_ENTRIES: usize = 8192;
/// A segment that reaches this is closed; only closed segments can be deleted.
const SEGMENT_BYTES: usize = 16 << 20;
/// For replaying a segment at start.
const READ_BUFFER_BYTES: usize = 256 << 10;
/// Writes waiting for the disk. Above this, appending blocks.
const QUEUE_BYTES: usize = 16 << 20;
/// Most bytes of entries that one read for replication returns (at least one entry).
pub(crate) const READ_BYTES: usize = 1 << 20;

const ID_FILE: &str = "log-id";
const ID_MAGIC: &[u8; 8] = b"SYNCLOG1";
const WAL_DIR: &str = "wal";

type Wal = raft_log::RaftLog<DiskTypes>;

/// The id of the log in `dir`, if one was completely created there.
pub fn existing_log_id(dir: &Path) -> Result<Option<u128>, RaftStorageError> {
    let path = dir.join(ID_FILE);
    let Some(bytes) = durable::read(&path).map_err(RaftStorageError::io(&path))? else { return Ok(None) };
    let checked = bytes.split_at_checked(24).filter(|(content, checksum)| {
        content.starts_with(ID_MAGIC) && *checksum == crc32fast::hash(content).to_be_bytes()
    });
    let Some((content, _)) = checked else {
        return Err(RaftStorageError::corrupt(&path, "its checksum does not match"));
    };
    let mut id = [0; 16];
    id.copy_from_slice(&content[8..]);
    Ok(Some(u128::from_be_bytes(id)))
}

/// The log and the votes of this node, on disk. Clones share it.
#[derive(Clone)]
pub struct DiskLog {
    wal: Arc<Mutex<Wal>>,
    dir: PathBuf,
    /// The first failure of the disk. The thread that writes ends with it, and whoever comes later would
    /// hear of that only.
    failure: Arc<OnceLock<(io::ErrorKind, String)>>,
    metrics: RaftMetrics,
}

impl Debug for DiskLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskLog").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl DiskLog {
    /// Creates an empty log with this id in `dir`, which may exist. Durable when it returns.
    pub fn create(dir: &Path, log_id: u128) -> Result<Self, RaftStorageError> {
        if existing_log_id(dir)?.is_some() {
            return Err(RaftStorageError::corrupt(dir, "there is a log already"));
        }
        let wal_dir = dir.join(WAL_DIR);
        fs::create_dir_all(&wal_dir).map_err(RaftStorageError::io(&wal_dir))?;
        let log = Self::open_wal(dir)?;
        {
            let wal = log.wal();
            let state = wal.log_state();
            if state.vote().is_some() || state.last().is_some() {
                return Err(RaftStorageError::corrupt(dir, "there is a log without its id file"));
            }
        }
        let mut id = [0; 24];
        id[..8].copy_from_slice(ID_MAGIC);
        id[8..].copy_from_slice(&log_id.to_be_bytes());
        let file = [&id[..], &crc32fast::hash(&id).to_be_bytes()].concat();
        durable::sync_dir(&wal_dir).map_err(RaftStorageError::io(&wal_dir))?;
        durable::replace(&dir.join(ID_FILE), &file).map_err(RaftStorageError::io(dir))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            durable::sync_dir(parent).map_err(RaftStorageError::io(parent))?;
        }
        Ok(log)
    }

    /// Opens the log in `dir`, which must have this id. Cuts a torn tail (what was written and not
    /// yet synced); any other damage is an error.
    pub fn open(dir: &Path, log_id: u128) -> Result<Self, RaftStorageError> {
        let found = existing_log_id(dir)?;
        if found != Some(log_id) {
            let what = match found {
                None => "its log is missing".to_owned(),
                Some(other) => format!("its log is {other:032x}, this node's is {log_id:032x}"),
            };
            return Err(RaftStorageError::corrupt(dir, what));
        }
        let wal_dir = dir.join(WAL_DIR);
        let has_segment = fs::read_dir(&wal_dir)
            .map_err(RaftStorageError::io(&wal_dir))?
            .filter_map(Result::ok)
            .any(|file| file.path().extension().is_some_and(|ending| ending == "wal"));
        if !has_segment {
            return Err(RaftStorageError::corrupt(&wal_dir, "its segments are missing"));
        }
        Self::open_wal(dir)
    }

    fn open_wal(dir: &Path) -> Result<Self, RaftStorageError> {
        let wal_dir = dir.join(WAL_DIR);
        let Some(path) = wal_dir.to_str() else {
            return Err(RaftStorageError::corrupt(&wal_dir, "its path is not UTF-8"));
        };
        let mut config = raft_log::Config::new(path);
        config.log_cache_capacity = Some(CACHE_BYTES);
        config.log_cache_max_items = Some(CACHE_ENTRIES);
        config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
        config.wal.chunk_max_size = Some(SEGMENT_BYTES);
        config.wal.flush_queue_max_bytes = Some(QUEUE_BYTES);
        // Proposals and replication are batched above; waiting for more here only adds latency.
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        let wal = Wal::open(Arc::new(config)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied | io::ErrorKind::StorageFull => {
                RaftStorageError::io(&wal_dir)(error)
            }
            _ => RaftStorageError::corrupt(&wal_dir, error),
        })?;
        let log = Self {
            wal: Arc::new(Mutex::new(wal)),
            dir: dir.to_owned(),
            failure: Arc::default(),
            metrics: RaftMetrics::default(),
        };
        log.sync_what_was_found().map_err(RaftStorageError::io(&wal_dir))?;
        Ok(log)
    }

    /// What a process wrote that was killed before it synced is read from memory, and not on disk yet. Raft takes what it
    /// finds for durable, and acknowledges it when a leader sends it again.
    fn sync_what_was_found(&self) -> io::Result<()> {
        let (done, on_disk) = std::sync::mpsc::channel();
        self.write(|wal| wal.flush(true, Some(OnFlushed::new(move |result| _ = done.send(result)))))?;
        on_disk.recv().unwrap_or_else(|_| Err(io::Error::other("the log was closed")))
    }

    /// Counts there from now on.
    #[must_use]
    pub fn counted_by(mut self, metrics: RaftMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Locked for the length of one call: readers and the writer are openraft's tasks.
    fn wal(&self) -> MutexGuard<'_, Wal> {
        self.wal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads entries from `start` to before `end`, stopping after `limit` bytes.
    pub(crate) fn read<S: Replicated>(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<Entry<S>>> {
        let wal = self.wal();
        decoded::<S>(wal.read(start, end).map(|entry| entry.map(|(id, payload)| (id.into(), payload.0))), limit)
    }

    /// The vote, what is known to be committed, and the last entry.
    pub(crate) fn extent(&self) -> (Option<Vote>, Option<LogId>, Option<LogId>) {
        let wal = self.wal();
        let state = wal.log_state();
        let id = |id: Option<&DiskLogId>| id.copied().map(LogId::from);
        (state.vote().map(|vote| vote.0), id(state.committed()), id(state.last()))
    }

    /// Writes the vote of a node that is recovered, while nothing else uses the log.
    pub(crate) async fn save_recovered_vote(&self, vote: DiskVote) -> Result<(), RaftStorageError> {
        self.flushed(|wal| wal.save_vote(vote).map(drop)).await.map_err(RaftStorageError::io(&self.dir))
    }

    /// Writes and does not wait for the disk. What fails names the directory and the cure.
    fn write(&self, write: impl FnOnce(&mut Wal) -> io::Result<()>) -> io::Result<()> {
        write(&mut self.wal()).map_err(self.named())
    }

    /// Waits until everything written so far is on disk.
    async fn flushed(&self, write: impl FnOnce(&mut Wal) -> io::Result<()>) -> io::Result<()> {
        let (done, on_disk) = oneshot::channel();
        self.write(|wal| {
            write(wal)?;
            wal.flush(true, Some(OnFlushed::new(|result| _ = done.send(result))))
        })?;
        let closed = |_| Err(io::Error::other("the log was closed"));
        on_disk.await.unwrap_or_else(closed).map_err(self.named())
    }

    /// For what nobody waits for: notes a failure, so that it is known when the next write fails.
    fn noting(&self) -> impl FnOnce() -> OnFlushed + use<> {
        let named = self.named();
        || OnFlushed::new(|result| _ = result.map_err(named))
    }

    /// Makes of an error the one that was the first, with the directory and the cure.
    fn named(&self) -> impl FnOnce(io::Error) -> io::Error + use<> {
        let (named, failure) = (RaftStorageError::io(&self.dir.join(WAL_DIR)), Arc::clone(&self.failure));
        move |error| {
            let (kind, text) = failure.get_or_init(|| {
                let error = io::Error::from(named(error));
                (error.kind(), error.to_string())
            });
            io::Error::new(*kind, text.clone())
        }
    }
}

/// The entries of these payloads, up to the one that brings them to more than `limit` bytes; at least
/// one if there is one.
pub(crate) fn decoded<S: Replicated>(
    payloads: impl Iterator<Item = io::Result<(LogId, Bytes)>>,
    limit: usize,
) -> io::Result<Vec<Entry<S>>> {
    let mut entries = Vec::new();
    let mut size = 0;
    for entry in payloads {
        let (log_id, payload) = entry?;
        size += payload.len();
        if size > limit && !entries.is_empty() {
            break;
        }
        entries.push(Entry::<S> { log_id, payload: codec::decode(&payload)? });
    }
    Ok(entries)
}

/// The half-open range of indexes that `range` means.
pub(crate) fn index_range(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl<S: Replicated> RaftLogReader<Types<S>> for DiskLog {
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
        Ok(self.wal().log_state().vote().map(|vote| vote.0))
    }
}

impl<S: Replicated> RaftLogStorage<Types<S>> for DiskLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<S>>> {
        let wal = self.wal();
        let state = wal.log_state();
        let id = |id: Option<&DiskLogId>| id.copied().map(LogId::from);
        Ok(LogState { last_purged_log_id: id(state.purged()), last_log_id: id(state.last()) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = DiskVote(*vote);
        self.flushed(|wal| wal.save_vote(vote).map(drop)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let noted = self.noting();
        self.write(|wal| {
            let state = wal.log_state();
            // What is remembered here only saves the state machine from starting out older than it was:
            // a log id that the log does not hold yet can wait for the next call.
            let news = committed.map(DiskLogId::from).min(state.last().copied());
            match news {
                Some(news) if Some(&news) > state.committed() => {
                    wal.commit(news)?;
                    wal.flush(false, Some(noted()))
                }
                _ => Ok(()),
            }
        })
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.wal().log_state().committed().copied().map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<S>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry<S>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        for entry in entries {
            records.push((DiskLogId::from(entry.log_id), DiskPayload(codec::encode(&entry.payload))));
        }
        let named = self.named();
        let (metrics, began) = (self.metrics.clone(), Instant::now());
        let flushed = OnFlushed::new(move |result: io::Result<()>| {
            if result.is_ok() {
                metrics.appended(began.elapsed());
            }
            callback.io_completed(result.map_err(named));
        });
        self.write(|wal| {
            wal.append(records)?;
            wal.flush(true, Some(flushed))
        })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let noted = self.noting();
        self.write(|wal| {
            if last.map(DiskLogId::from) >= wal.log_state().last().copied() {
                return Ok(());
            }
            wal.truncate(last.map_or(0, |last| last.index + 1))?;
            wal.flush(false, Some(noted()))
        })
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let noted = self.noting();
        self.write(|wal| {
            wal.purge(upto.into())?;
            wal.flush(false, Some(noted()))
        })
    }
}
