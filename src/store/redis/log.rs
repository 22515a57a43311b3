//! Writing the journal of a partition into its stream.
//!
//! One entry is under way at a time, with an id that is known beforehand. Where its answer is missing, the end of
//! the stream tells whether it has arrived: nothing is appended twice, and nothing is left out.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use redis::{cmd, pipe};
use tokio::{sync::watch, time::sleep};

use super::{
    item::{self, Checkpoint, Id, Write},
    link::{Line, Link},
};
use crate::{
    ids::PartitionId,
    machine::replication::Position,
    store::{
        JournalError, State,
        entry::Entry,
        pending::Keep,
        writer::{Backend, Fault},
    },
};

/// A state is written in pieces of so many bytes, ...
const CHUNK_BYTES: usize = 256 << 10;
/// ... so many at a time: other commands are to get between them.
pub(super) const CHUNKS_AT_ONCE: usize = 4;
/// How often an idle journal looks whether its stream is still there.
const LOOK: Duration = Duration::from_secs(3);

/// The field of a stream's entry.
pub(super) const FIELD: &str = "e";

/// The journal of a partition, in Redis.
#[derive(Debug)]
pub(super) struct RedisLog {
    link: Arc<Link>,
    partition: PartitionId,
    stream: String,
    pulse: watch::Receiver<u64>,
    /// Which opening of the stream is ours.
    open: u64,
    /// The one that was tried last: further than `open` while it is not known to have succeeded.
    tried: u64,
    /// The last entry that is known to have arrived.
    last: Id,
    /// The last one that is not an opening.
    previous: Id,
    /// Whether the entry after `last` may have been sent.
    sent: bool,
    /// The connection by which the end of the stream was found as it should be.
    checked: Option<u64>,
    /// The entries that hold batches, with the greatest number of a record in each.
    batches: VecDeque<(Id, u64)>,
    /// The state that counts.
    checkpoint: Option<Checkpoint>,
    /// The keys of states that were begun, and do not count.
    states: Arc<Mutex<States>>,
}

#[derive(Debug, Default)]
struct States {
    attempts: u64,
    keys: Vec<String>,
}

/// What the stream held when it was opened.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) open: u64,
    pub(super) previous: Id,
    pub(super) batches: VecDeque<(Id, u64)>,
    pub(super) checkpoint: Option<Checkpoint>,
}

/// The id of the last entry of a stream, if it has one.
pub(super) async fn end(line: &mut Line, stream: &str) -> Result<Option<Id>, super::link::Trouble> {
    let question = cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1).to_owned();
    let found: Vec<(String, Vec<Bytes>)> = line.ask(&question).await?;
    Ok(found.first().and_then(|(id, _)| id.parse().ok()))
}

impl RedisLog {
    pub(super) fn new(link: Arc<Link>, partition: PartitionId, generation: u64, beginning: Beginning) -> Self {
        let Beginning { open, previous, batches, checkpoint } = beginning;
        Self {
            partition,
            stream: link.keys.stream(partition),
            pulse: link.pulse(),
            link,
            open,
            tried: open,
            last: Id { open, number: 0 },
            previous,
            sent: false,
            checked: Some(generation),
            batches,
            checkpoint,
            states: Arc::default(),
        }
    }

    /// These keys are states that were left behind: they are removed at the next checkpoint.
    pub(super) fn leaving(self, keys: Vec<String>) -> Self {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).keys.extend(keys);
        self
    }

    fn next(&self) -> Id {
        Id { open: self.open, number: self.last.number + 1 }
    }

    fn fenced(&self, by: Id) -> Fault {
        let detail = format!("entry {by} of {} in Redis at {}", self.stream, self.link.shown);
        Fault::Final(JournalError::Fenced { partition: self.partition, detail })
    }

    fn shortened(&self, how: &str) -> Fault {
        Fault::Shortened(format!("Redis at {}: {} {how}", self.link.shown, self.stream))
    }

    /// Looks whether the stream ends as it should; whether the entry that was sent has arrived.
    async fn check(&mut self, line: &mut Line) -> Result<(), Fault> {
        let found = end(line, &self.stream).await?;
        match found {
            Some(end) if end.open > self.open => return Err(self.fenced(end)),
            Some(end) if end == self.last => {}
            Some(end) if self.sent && end == self.next() => {}
            Some(end) => return Err(self.shortened(&format!("ends with entry {end}, and had got to {}", self.last))),
            None => return Err(self.shortened("is empty or gone")),
        }
        if let Some(checkpoint) = &self.checkpoint
            && checkpoint.chunks > 0
            && !line.ask::<bool>(&cmd("EXISTS").arg(&checkpoint.key).to_owned()).await?
        {
            return Err(self.shortened(&format!("has lost its checkpoint {}", checkpoint.key)));
        }
        self.checked = Some(line.generation);
        self.link.settled(self.partition);
        if self.sent && found == Some(self.next()) {
            self.arrived(false);
        }
        Ok(())
    }

    /// The entry that was sent is there.
    fn arrived(&mut self, opening: bool) {
        self.last = if opening { Id { open: self.open, number: 0 } } else { self.next() };
        self.sent = false;
        if !opening {
            self.previous = self.last;
        }
    }

    /// Appends an entry and returns its id once it is there. Asked again after a failure, it appends it if it is not.
    async fn put(&mut self, write: &Write<'_>) -> Result<Id, Fault> {
        let id = self.next();
        let mut line = self.link.line().await?;
        if self.checked != Some(line.generation) {
            self.check(&mut line).await?;
            if self.last == id {
                return Ok(id);
            }
        }
        let bytes = item::encode(self.partition, id, self.previous, write);
        let mut append = cmd("XADD");
        append.arg(&self.stream).arg("NOMKSTREAM").arg(id.to_string()).arg(FIELD).arg(bytes);
        self.sent = true;
        match line.ask::<Option<String>>(&append).await {
            Ok(Some(_)) => {
                self.arrived(false);
                Ok(id)
            }
            Ok(None) => {
                self.checked = None;
                Err(self.shortened("is gone"))
            }
            Err(trouble) if trouble.is_old_id() => {
                self.checked = None;
                self.check(&mut line).await?;
                if self.last == id { Ok(id) } else { Err(self.fenced(id)) }
            }
            Err(trouble) => {
                self.checked = None;
                Err(trouble.into())
            }
        }
    }

    /// Opens the stream once more, whatever is in it by now, so that nothing that was sent before arrives late.
    async fn open_anew(&mut self) -> Result<(), Fault> {
        let mut line = self.link.line().await?;
        let end = end(&mut line, &self.stream).await?.unwrap_or_default();
        if end.open > self.tried.max(self.open) {
            return Err(self.fenced(end));
        }
        self.tried = self.tried.max(self.open) + 1;
        self.checked = None;
        open(&mut line, self.partition, &self.stream, self.tried).await?;
        self.open = self.tried;
        self.arrived(true);
        self.checked = Some(line.generation);
        Ok(())
    }

    /// Frees what a checkpoint has replaced. What cannot be freed now is at the next checkpoint.
    async fn free(&mut self) {
        let Ok(mut line) = self.link.line().await else { return };
        let first = self.batches.front().map_or(self.previous, |(id, _)| *id);
        let trim = cmd("XTRIM").arg(&self.stream).arg("MINID").arg("=").arg(first.to_string()).to_owned();
        if line.ask::<u64>(&trim).await.is_err() {
            return;
        }
        let counts = self.checkpoint.as_ref().map(|checkpoint| checkpoint.key.clone());
        let stale: Vec<String> = {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            let (kept, stale) =
                std::mem::take(&mut states.keys).into_iter().partition(|key| Some(key) == counts.as_ref());
            states.keys = kept;
            stale
        };
        if !stale.is_empty() && line.ask::<u64>(&cmd("UNLINK").arg(&stale).to_owned()).await.is_err() {
            self.states.lock().unwrap_or_else(PoisonError::into_inner).keys.extend(stale);
        }
    }
}

/// Appends that the stream is opened, for the so manieth time.
pub(super) async fn open(
    line: &mut Line,
    partition: PartitionId,
    stream: &str,
    count: u64,
) -> Result<(), super::link::Trouble> {
    let id = Id { open: count, number: 0 };
    let bytes = item::encode(partition, id, Id::default(), &Write::Opened);
    let append = cmd("XADD").arg(stream).arg(id.to_string()).arg(FIELD).arg(bytes).to_owned();
    line.ask::<String>(&append).await.map(|_| ())
}

impl Backend for RedisLog {
    type Prepared = Checkpoint;

    async fn write(&mut self, entries: &[Entry]) -> Result<(), Fault> {
        let id = self.put(&Write::Batch(entries)).await?;
        let greatest = |entry: &Entry| match entry {
            Entry::Records(records) => records.last().map_or(0, |record| record.position.seq),
            Entry::Truncate { .. } => 0,
        };
        self.batches.push_back((id, entries.iter().map(greatest).fold(0, u64::max)));
        Ok(())
    }

    fn prepare(&mut self, at: Position, state: State) -> BoxFuture<'static, Result<Self::Prepared, Fault>> {
        let (link, states) = (Arc::clone(&self.link), Arc::clone(&self.states));
        let (partition, open) = (self.partition, self.tried);
        async move {
            let mut line = link.line().await?;
            let key = {
                let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
                states.attempts += 1;
                // Each attempt has a key of its own, so that a late command of an earlier one does no harm.
                let key = link.keys.checkpoint(partition, open, states.attempts);
                states.keys.push(key.clone());
                key
            };
            let (mut chunks, mut length, mut hasher) = (0u32, 0u64, crc32fast::Hasher::new());
            let mut state = state.chunks(CHUNK_BYTES).peekable();
            while state.peek().is_some() {
                let mut set = pipe();
                for chunk in state.by_ref().take(CHUNKS_AT_ONCE) {
                    hasher.update(&chunk);
                    length += chunk.len() as u64;
                    set.cmd("HSET").arg(&key).arg(chunks).arg(&chunk[..]).ignore();
                    chunks += 1;
                }
                line.ask::<()>(&set).await?;
            }
            Ok(Checkpoint { at, reset: false, chunks, length, checksum: hasher.finalize(), key })
        }
        .boxed()
    }

    async fn install(&mut self, prepared: &Self::Prepared, keep: Keep) -> Result<(), Fault> {
        let reset = keep == Keep::Nothing;
        if reset {
            // Also the answer to a stream that lost something, which `put` would refuse to write on.
            self.open_anew().await?;
        }
        let checkpoint = Checkpoint { reset, ..prepared.clone() };
        self.put(&Write::Checkpoint(&checkpoint)).await?;
        if reset {
            self.batches.clear();
            self.link.settled(self.partition);
        }
        let at = checkpoint.at.seq;
        while self.batches.front().is_some_and(|(_, greatest)| *greatest <= at) {
            self.batches.pop_front();
        }
        if let Some(earlier) = self.checkpoint.replace(checkpoint) {
            self.states.lock().unwrap_or_else(PoisonError::into_inner).keys.push(earlier.key);
        }
        self.free().await;
        Ok(())
    }

    async fn disturbed(&mut self) {
        tokio::select! {
            // The link outlives the log.
            _ = self.pulse.changed() => {}
            () = sleep(LOOK) => {}
        }
    }

    async fn verify(&mut self) -> Result<(), Fault> {
        let mut line = self.link.line().await?;
        self.check(&mut line).await
    }
}
