//! What the owner of a journal has begun and its writer has not taken up yet. The one thing that both hold.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    machine::replication::{Position, Record},
    store::{
        Completion, JournalError, State,
        entry::{Entry, record_len},
    },
};

/// A batch is closed when it has so many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Records that nobody waits for are written when there are so many bytes of them, ...
const LAZY_BYTES: usize = 256 << 10;
/// ... or after so long, if nothing takes them along before.
const LAZY_FOR: Duration = Duration::from_millis(200);

/// Who waits for an operation. What an operation replaces completes with it.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<oneshot::Sender<Result<(), JournalError>>>);

impl Waiters {
    /// Tells them all, in order.
    pub(super) fn tell(self, outcome: &Result<(), JournalError>) {
        for waiter in self.0 {
            // Nobody has to wait.
            let _ = waiter.send(outcome.clone());
        }
    }

    /// Puts others before them.
    pub(super) fn preceded_by(&mut self, mut earlier: Self) {
        earlier.0.append(&mut self.0);
        *self = earlier;
    }
}

/// One operation.
#[derive(Debug)]
enum Begun {
    Append(Vec<Record>, Waiters),
    Lazy(Vec<Record>),
    Truncate(u64, Waiters),
    Replace(Replace),
}

/// A state that replaces the log, or the part of it that it includes.
#[derive(Debug)]
pub(super) struct Replace {
    pub(super) at: Position,
    pub(super) state: State,
    pub(super) keep: Keep,
    pub(super) waiters: Waiters,
}

/// What stays of the records when a state is installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keep {
    /// Those after it.
    Later,
    /// None.
    Nothing,
}

/// Everything anew.
#[derive(Debug)]
pub(super) struct Rebuild {
    pub(super) at: Position,
    pub(super) state: State,
    pub(super) records: Vec<Record>,
    pub(super) waiters: Waiters,
}

/// What the writer does next.
#[derive(Debug)]
pub(super) enum Work {
    /// Write this and sync.
    Batch(Vec<Entry>, Waiters),
    /// Put a state in the place of records.
    Replace(Replace),
    /// Write everything anew.
    Rebuild(Rebuild),
    /// The owner is gone, and everything is done.
    End,
}

/// Why the writer must not go on with what it is at.
#[derive(Debug)]
pub(super) enum Interrupt {
    /// The owner is gone.
    Closed,
    /// The owner has everything written anew.
    Rebuild,
}

/// The operations that have been begun.
#[derive(Debug, Default)]
pub(super) struct Pending {
    inner: Mutex<Inner>,
    /// Wakes the writer.
    begun: Notify,
    /// What the journal takes: the writer's word.
    pub(super) size: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Begun>,
    /// How many in the queue somebody waits for.
    awaited: usize,
    lazy_bytes: usize,
    lazy_since: Option<Instant>,
    rebuild: Option<Rebuild>,
    closed: bool,
    failed: Option<JournalError>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, operation: impl FnOnce(Waiters) -> Begun) -> Completion {
        let (done, completed) = oneshot::channel();
        let waiters = Waiters(vec![done]);
        let mut inner = self.lock();
        if let Some(error) = inner.failed.clone() {
            waiters.tell(&Err(error));
        } else {
            inner.queue.push_back(operation(waiters));
            inner.awaited += 1;
        }
        drop(inner);
        self.begun.notify_one();
        completion(completed)
    }

    pub(super) fn append(&self, records: Vec<Record>) -> Completion {
        let mut pieces = pieces(records);
        let last = pieces.pop().unwrap_or_default();
        for piece in pieces {
            // Complete before the last one: nobody needs to wait for them.
            drop(self.begin(|waiters| Begun::Append(piece, waiters)));
        }
        self.begin(|waiters| Begun::Append(last, waiters))
    }

    pub(super) fn append_lazily(&self, records: Vec<Record>) {
        let mut inner = self.lock();
        if inner.failed.is_none() {
            inner.lazy_bytes += records.iter().map(record_len).sum::<usize>();
            inner.lazy_since.get_or_insert_with(Instant::now);
            inner.queue.push_back(Begun::Lazy(records));
        }
        drop(inner);
        self.begun.notify_one();
    }

    pub(super) fn truncate(&self, last_seq: u64) -> Completion {
        self.begin(|waiters| Begun::Truncate(last_seq, waiters))
    }

    pub(super) fn replace(&self, at: Position, state: State, keep: Keep) -> Completion {
        self.begin(|waiters| Begun::Replace(Replace { at, state, keep, waiters }))
    }

    pub(super) fn rebuild(&self, at: Position, state: State, records: Vec<Record>) -> Completion {
        let (done, completed) = oneshot::channel();
        let mut waiters = Waiters::default();
        let mut inner = self.lock();
        if let Some(earlier) = inner.rebuild.take() {
            waiters = earlier.waiters;
        }
        for begun in std::mem::take(&mut inner.queue) {
            match begun {
                Begun::Append(_, Waiters(of)) | Begun::Truncate(_, Waiters(of)) => waiters.0.extend(of),
                Begun::Replace(Replace { waiters: Waiters(of), .. }) => waiters.0.extend(of),
                Begun::Lazy(_) => {}
            }
        }
        (inner.awaited, inner.lazy_bytes, inner.lazy_since) = (0, 0, None);
        waiters.0.push(done);
        if let Some(error) = inner.failed.clone() {
            waiters.tell(&Err(error));
        } else {
            inner.rebuild = Some(Rebuild { at, state, records, waiters });
        }
        drop(inner);
        self.begun.notify_one();
        completion(completed)
    }

    /// The owner is gone.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.begun.notify_one();
    }

    /// Nothing can be written any more: all that was begun, and all that will be, ends with this.
    pub(super) fn fail(&self, error: &JournalError) {
        let mut inner = self.lock();
        inner.failed = Some(error.clone());
        let queue = std::mem::take(&mut inner.queue);
        let rebuild = inner.rebuild.take();
        drop(inner);
        for begun in queue {
            match begun {
                Begun::Append(_, waiters) | Begun::Truncate(_, waiters) => waiters.tell(&Err(error.clone())),
                Begun::Replace(replace) => replace.waiters.tell(&Err(error.clone())),
                Begun::Lazy(_) => {}
            }
        }
        if let Some(rebuild) = rebuild {
            rebuild.waiters.tell(&Err(error.clone()));
        }
    }

    /// Hands the waiters of what the writer was at to the rebuild that replaces it.
    pub(super) fn hand_over(&self, waiters: Waiters) {
        if let Some(rebuild) = &mut self.lock().rebuild {
            rebuild.waiters.preceded_by(waiters);
        }
    }

    /// The next work, as soon as there is some. Nothing is lost if it is dropped while it waits.
    pub(super) async fn next(&self) -> Work {
        loop {
            let ripe_at = match self.lock().next() {
                Ok(work) => return work,
                Err(ripe_at) => ripe_at,
            };
            match ripe_at {
                None => self.begun.notified().await,
                Some(at) => tokio::select! {
                    () = self.begun.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    /// Waits until the writer must not go on with what it is at.
    pub(super) async fn interrupted(&self) -> Interrupt {
        loop {
            {
                let inner = self.lock();
                if inner.closed {
                    return Interrupt::Closed;
                }
                if inner.rebuild.is_some() {
                    return Interrupt::Rebuild;
                }
            }
            self.begun.notified().await;
        }
    }

    pub(super) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }
}

impl Inner {
    /// The next work, or when to look again.
    fn next(&mut self) -> Result<Work, Option<Instant>> {
        if let Some(rebuild) = self.rebuild.take() {
            return Ok(Work::Rebuild(rebuild));
        }
        let ripe_at = self.lazy_since.map(|since| since + LAZY_FOR);
        let ripe = self.lazy_bytes >= LAZY_BYTES || ripe_at.is_some_and(|at| at <= Instant::now());
        if self.awaited == 0 && !(self.closed || ripe) {
            return Err(ripe_at);
        }
        match self.queue.pop_front() {
            None if self.closed => Ok(Work::End),
            None => Err(None),
            Some(Begun::Replace(replace)) => {
                self.awaited -= 1;
                Ok(Work::Replace(replace))
            }
            Some(first) => Ok(self.batch(first)),
        }
    }

    fn batch(&mut self, first: Begun) -> Work {
        let (mut entries, mut waiters, mut bytes) = (Vec::new(), Waiters::default(), 0);
        let mut begun = Some(first);
        while let Some(operation) = begun.take() {
            let entry = match operation {
                Begun::Append(records, Waiters(of)) => {
                    self.awaited -= 1;
                    waiters.0.extend(of);
                    Entry::Records(records)
                }
                Begun::Lazy(records) => {
                    self.lazy_bytes -= records.iter().map(record_len).sum::<usize>();
                    Entry::Records(records)
                }
                Begun::Truncate(last_seq, Waiters(of)) => {
                    self.awaited -= 1;
                    waiters.0.extend(of);
                    Entry::Truncate { last_seq }
                }
                Begun::Replace(_) => unreachable!("only what is not a Replace is taken up here"),
            };
            bytes += entry.encoded_len();
            entries.push(entry);
            begun = match self.queue.front() {
                Some(Begun::Append(records, _) | Begun::Lazy(records))
                    if bytes + records.iter().map(record_len).sum::<usize>() <= BATCH_BYTES =>
                {
                    self.queue.pop_front()
                }
                Some(Begun::Truncate(..)) => self.queue.pop_front(),
                _ => None,
            };
        }
        if self.lazy_bytes == 0 {
            self.lazy_since = None;
        }
        Work::Batch(entries, waiters)
    }
}

/// Cuts what is too much for one batch; a record that is so by itself stays whole.
pub(super) fn pieces(records: Vec<Record>) -> Vec<Vec<Record>> {
    let (mut pieces, mut bytes) = (Vec::<Vec<Record>>::new(), 0);
    for record in records {
        let more = record_len(&record);
        match pieces.last_mut() {
            Some(piece) if bytes + more <= BATCH_BYTES => piece.push(record),
            _ => {
                bytes = 0;
                pieces.push(vec![record]);
            }
        }
        bytes += more;
    }
    pieces
}

fn completion(completed: oneshot::Receiver<Result<(), JournalError>>) -> Completion {
    completed.map(|outcome| outcome.unwrap_or(Err(JournalError::Closed))).boxed()
}
