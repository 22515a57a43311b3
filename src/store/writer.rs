//! The writer of an open journal: the one task that makes its batches durable, one after the other. What is begun
//! while one is written goes into the next one. What cannot be written is repeated until it can; what cannot be
//! written ever ends all that was begun with the reason.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    ids::PartitionId,
    machine::replication::{Position, Record},
    store::{
        Completion, Journal, JournalError, JournalHealth, State,
        entry::{Entry, record_len},
        health::Health,
        marks::{Mark, Marks},
        pending::{Interrupt, Keep, Pending, Rebuild, Replace, Waiters, Work, pieces},
        slots::Slot,
    },
};

/// The first and the longest pause before what failed is repeated.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// Why a backend did not do something.
#[derive(Debug)]
pub(super) enum Fault {
    /// For now: it is repeated.
    Away(String),
    /// What was durable is so no longer: the owner has to write everything anew.
    Shortened(String),
    /// For ever.
    Final(JournalError),
}

/// What makes the journal of one partition durable. One thing is asked of it at a time, and asked again in exactly
/// the same way after [`Fault::Away`]: it may have been done by then, wholly or in part.
pub(super) trait Backend: fmt::Debug + Send + 'static {
    /// A state that is durable already, and counts only once it is installed.
    type Prepared: Send + Sync + 'static;

    /// Appends a batch; durable when this returns.
    fn write(&mut self, entries: &[Entry]) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Makes a state durable, in the background: other things are asked meanwhile.
    fn prepare(&mut self, at: Position, state: State) -> BoxFuture<'static, Result<Self::Prepared, Fault>>;

    /// Puts a prepared state in the place of the records that it includes, or of all.
    fn install(&mut self, prepared: &Self::Prepared, keep: Keep) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Completes when [`Backend::verify`] should be called.
    fn disturbed(&mut self) -> impl Future<Output = ()> + Send;

    /// Looks whether everything is still there.
    fn verify(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Waits until nothing is under way that was not waited for.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// The owner's end of an open journal.
struct Handle {
    pending: Arc<Pending>,
    health: watch::Receiver<JournalHealth>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("health", &*self.health.borrow()).finish_non_exhaustive()
    }
}

impl Journal for Handle {
    fn health(&self) -> watch::Receiver<JournalHealth> {
        self.health.clone()
    }

    fn append(&mut self, records: Vec<Record>) -> Completion {
        self.pending.append(records)
    }

    fn append_lazily(&mut self, records: Vec<Record>) {
        self.pending.append_lazily(records);
    }

    fn truncate(&mut self, last_seq: u64) -> Completion {
        self.pending.truncate(last_seq)
    }

    fn checkpoint(&mut self, at: Position, state: State) -> Completion {
        self.pending.replace(at, state, Keep::Later)
    }

    fn reset(&mut self, at: Position, state: Bytes) -> Completion {
        self.pending.replace(at, state.into(), Keep::Nothing)
    }

    fn rebuild(&mut self, at: Position, state: State, records: Vec<Record>) -> Completion {
        self.pending.rebuild(at, state, records)
    }

    fn size(&self) -> u64 {
        self.pending.size.load(Ordering::Relaxed)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.pending.close();
    }
}

/// Where a log begins and ends, and which epoch each of its records is of.
#[derive(Debug)]
struct Course {
    /// The checkpoint.
    base: Position,
    last: Position,
    /// Where the epochs begin, after the base.
    epochs: Vec<Position>,
}

impl Course {
    fn new(base: Position, records: &[Record]) -> Self {
        let mut course = Self { base, last: base, epochs: Vec::new() };
        records.iter().for_each(|record| course.push(record.position));
        course
    }

    fn push(&mut self, position: Position) {
        if self.last.epoch != position.epoch {
            self.epochs.push(position);
        }
        self.last = position;
    }

    fn cut(&mut self, last_seq: u64) {
        if last_seq >= self.last.seq {
            return;
        }
        self.epochs.retain(|first| first.seq <= last_seq);
        let epoch = self.epochs.last().map_or(self.base.epoch, |first| first.epoch);
        self.last = Position { epoch, seq: last_seq };
    }

    fn rebase(&mut self, base: Position) {
        self.epochs.retain(|first| first.seq > base.seq);
        self.base = base;
    }
}

/// What a writer is started with.
pub(super) struct Start<B> {
    pub(super) partition: PartitionId,
    pub(super) backend: B,
    pub(super) health: Health,
    pub(super) slot: Slot,
    pub(super) marks: Option<Arc<Marks>>,
    /// How often the journal has been opened, where that is counted.
    pub(super) opened: u64,
}

/// Starts the writer of a journal that was read: this is its checkpoint, and these are the records after it.
pub(super) fn start<B: Backend>(start: Start<B>, checkpoint: Position, records: &[Record]) -> Box<dyn Journal> {
    let pending = Arc::new(Pending::default());
    let size = records.iter().map(|record| record_len(record) as u64).sum();
    pending.set_size(size);
    let handle = Handle { pending: Arc::clone(&pending), health: start.health.subscribe() };
    let course = Course::new(checkpoint, records);
    let mark = course.last;
    let writer = Writer { start, pending, course, mark, size, checkpoint: None };
    tokio::spawn(writer.run());
    Box::new(handle)
}

/// A checkpoint that is being prepared. Given up when dropped.
struct Preparing<P> {
    at: Position,
    state: State,
    waiters: Waiters,
    /// Bytes of the records that had been written when it was begun.
    covers: u64,
    task: JoinHandle<Result<P, Fault>>,
}

struct Writer<B: Backend> {
    start: Start<B>,
    pending: Arc<Pending>,
    course: Course,
    /// What was marked last.
    mark: Position,
    /// Bytes of the records that were written since the last checkpoint was begun.
    size: u64,
    checkpoint: Option<Preparing<B::Prepared>>,
}

/// Why an operation is not repeated any more.
enum Stop {
    Interrupted(Interrupt),
    Failed(JournalError),
}

enum Op<'a, P> {
    Write(&'a [Entry]),
    Install(&'a P, Keep),
    Verify,
}

enum Step<P> {
    Work(Work),
    Prepared(Result<P, Fault>),
    Verify,
}

impl<B: Backend> Writer<B> {
    async fn run(mut self) {
        loop {
            let step = tokio::select! {
                biased;
                prepared = prepared(&mut self.checkpoint) => Step::Prepared(prepared),
                work = self.pending.next() => Step::Work(work),
                () = self.start.backend.disturbed() => Step::Verify,
            };
            let done = match step {
                Step::Work(Work::Batch(entries, waiters)) => self.batch(entries, waiters).await,
                Step::Work(Work::Replace(replace)) => self.replace(replace).await,
                Step::Work(Work::Rebuild(rebuild)) => self.rebuild(rebuild).await,
                Step::Work(Work::End) => return self.give_up().await,
                Step::Prepared(prepared) => self.prepared(prepared).await,
                Step::Verify => self.insist(Op::Verify).await.map_err(|stop| (stop, Waiters::default())),
            };
            match done {
                Ok(()) => self.pending.set_size(self.size),
                Err((Stop::Interrupted(Interrupt::Rebuild), waiters)) => self.pending.hand_over(waiters),
                Err((Stop::Interrupted(Interrupt::Closed), _)) => return self.give_up().await,
                Err((Stop::Failed(error), waiters)) => {
                    self.start.health.set(JournalHealth::Away(error.to_string()));
                    waiters.tell(&Err(error.clone()));
                    self.pending.fail(&error);
                    // Nothing is asked of the backend any more; what is begun is refused by `pending`.
                    while !matches!(self.pending.interrupted().await, Interrupt::Closed) {}
                    return self.give_up().await;
                }
            }
        }
    }

    async fn give_up(mut self) {
        if let Some(preparing) = self.checkpoint.take() {
            preparing.task.abort();
        }
        self.start.backend.close().await;
        // Another writer may begin.
        drop(self.start.slot);
    }

    /// Asks the backend until it has done it, or there is no point in going on.
    async fn insist(&mut self, op: Op<'_, B::Prepared>) -> Result<(), Stop> {
        let mut pause = RETRY.0;
        loop {
            let outcome = match &op {
                Op::Write(entries) => self.start.backend.write(entries).await,
                Op::Install(prepared, keep) => self.start.backend.install(prepared, *keep).await,
                Op::Verify => self.start.backend.verify().await,
            };
            match outcome {
                Ok(()) => {
                    self.start.health.set(JournalHealth::Well);
                    return Ok(());
                }
                Err(fault) => self.stall(fault, &mut pause).await?,
            }
        }
    }

    /// Waits until what failed should be repeated.
    async fn stall(&mut self, fault: Fault, pause: &mut Duration) -> Result<(), Stop> {
        match fault {
            Fault::Away(why) => {
                self.start.health.set(JournalHealth::Away(why));
                if let Ok(interrupt) = timeout(*pause, self.pending.interrupted()).await {
                    return Err(Stop::Interrupted(interrupt));
                }
                *pause = (*pause * 2).min(RETRY.1);
                Ok(())
            }
            Fault::Shortened(why) => {
                self.start.health.set(JournalHealth::Shortened(why));
                Err(Stop::Interrupted(self.pending.interrupted().await))
            }
            Fault::Final(error) => Err(Stop::Failed(error)),
        }
    }

    async fn batch(&mut self, entries: Vec<Entry>, waiters: Waiters) -> Result<(), (Stop, Waiters)> {
        let mut lowest = self.mark;
        for entry in &entries {
            match entry {
                Entry::Records(records) => {
                    for record in records {
                        if record.position.seq != self.course.last.seq + 1 {
                            return Err((Stop::Failed(self.does_not_follow(record.position)), waiters));
                        }
                        self.course.push(record.position);
                    }
                }
                Entry::Truncate { last_seq } => {
                    self.course.cut(*last_seq);
                    lowest = lowest.min(self.course.last);
                }
            }
        }
        self.lower_mark(lowest).await;
        if let Err(stop) = self.insist(Op::Write(&entries)).await {
            return Err((stop, waiters));
        }
        self.size += entries.iter().map(|entry| entry.encoded_len() as u64).sum::<u64>();
        self.pending.set_size(self.size);
        self.set_mark();
        waiters.tell(&Ok(()));
        Ok(())
    }

    fn does_not_follow(&self, position: Position) -> JournalError {
        let (partition, last) = (self.start.partition, self.course.last.seq);
        JournalError::Unusable(format!("record {} of partition {partition} does not follow {last}", position.seq))
    }

    async fn replace(&mut self, replace: Replace) -> Result<(), (Stop, Waiters)> {
        let Replace { at, state, keep, mut waiters } = replace;
        if keep == Keep::Later && at.seq <= self.course.last.seq {
            if let Some(earlier) = self.checkpoint.take() {
                // The later one covers it.
                earlier.task.abort();
                waiters.preceded_by(earlier.waiters);
            }
            if at.seq > self.course.base.seq {
                self.prepare(at, state, waiters, self.size);
            } else {
                waiters.tell(&Ok(()));
            }
            return Ok(());
        }
        self.reset(at, state, &mut waiters).await.map_err(|stop| (stop, std::mem::take(&mut waiters)))?;
        self.set_mark();
        waiters.tell(&Ok(()));
        Ok(())
    }

    async fn rebuild(&mut self, rebuild: Rebuild) -> Result<(), (Stop, Waiters)> {
        let Rebuild { at, state, records, mut waiters } = rebuild;
        let outcome = self.anew(at, state, records, &mut waiters).await;
        outcome.map_err(|stop| (stop, std::mem::take(&mut waiters)))?;
        self.set_mark();
        waiters.tell(&Ok(()));
        Ok(())
    }

    /// The mark stays as it is until all of it is there, so that half of it is not taken for whole.
    async fn anew(
        &mut self,
        at: Position,
        state: State,
        records: Vec<Record>,
        waiters: &mut Waiters,
    ) -> Result<(), Stop> {
        self.install_now(at, state, waiters).await?;
        for batch in pieces(records) {
            for record in &batch {
                if record.position.seq != self.course.last.seq + 1 {
                    return Err(Stop::Failed(self.does_not_follow(record.position)));
                }
                self.course.push(record.position);
            }
            self.size += batch.iter().map(|record| record_len(record) as u64).sum::<u64>();
            self.insist(Op::Write(&[Entry::Records(batch)])).await?;
        }
        Ok(())
    }

    async fn reset(&mut self, at: Position, state: State, waiters: &mut Waiters) -> Result<(), Stop> {
        self.lower_mark(at.min(self.mark)).await;
        self.install_now(at, state, waiters).await
    }

    /// Replaces everything by a state.
    async fn install_now(&mut self, at: Position, state: State, waiters: &mut Waiters) -> Result<(), Stop> {
        if let Some(checkpoint) = self.checkpoint.take() {
            checkpoint.task.abort();
            waiters.preceded_by(checkpoint.waiters);
        }
        let mut pause = RETRY.0;
        let prepared = loop {
            match self.start.backend.prepare(at, state.clone()).await {
                Ok(prepared) => break prepared,
                Err(fault) => self.stall(fault, &mut pause).await?,
            }
        };
        self.insist(Op::Install(&prepared, Keep::Nothing)).await?;
        self.course = Course::new(at, &[]);
        self.size = 0;
        Ok(())
    }

    fn prepare(&mut self, at: Position, state: State, waiters: Waiters, covers: u64) {
        let task = tokio::spawn(self.start.backend.prepare(at, state.clone()));
        self.checkpoint = Some(Preparing { at, state, waiters, covers, task });
    }

    fn prepare_again(&mut self, mut preparing: Preparing<B::Prepared>) {
        let prepare = self.start.backend.prepare(preparing.at, preparing.state.clone());
        preparing.task = tokio::spawn(async move {
            sleep(RETRY.1).await;
            prepare.await
        });
        self.checkpoint = Some(preparing);
    }

    async fn prepared(&mut self, outcome: Result<B::Prepared, Fault>) -> Result<(), (Stop, Waiters)> {
        let Some(preparing) = self.checkpoint.take() else { return Ok(()) };
        match outcome {
            Ok(prepared) => {
                if let Err(stop) = self.insist(Op::Install(&prepared, Keep::Later)).await {
                    return Err((stop, preparing.waiters));
                }
                self.course.rebase(preparing.at);
                self.size -= preparing.covers;
                self.pending.set_size(self.size);
                preparing.waiters.tell(&Ok(()));
                Ok(())
            }
            Err(Fault::Away(why) | Fault::Shortened(why)) => {
                // Appends go on without it.
                tracing::debug!(partition = self.start.partition.0, "a checkpoint cannot be written yet: {why}");
                self.prepare_again(preparing);
                Ok(())
            }
            Err(Fault::Final(error)) => Err((Stop::Failed(error), preparing.waiters)),
        }
    }

    /// Before something is cut: that it is gone then is no loss.
    async fn lower_mark(&mut self, to: Position) {
        if to >= self.mark {
            return;
        }
        self.mark = to;
        if let Some(marks) = self.start.marks.clone() {
            let (partition, mark) = (self.start.partition, self.marked());
            let synced = tokio::task::spawn_blocking(move || marks.lower(partition, mark)).await;
            synced.expect("marking does not panic");
        }
    }

    fn set_mark(&mut self) {
        self.mark = self.course.last;
        if let Some(marks) = &self.start.marks {
            marks.set(self.start.partition, self.marked());
        }
    }

    fn marked(&self) -> Mark {
        Mark { last: self.mark, opened: self.start.opened }
    }
}

/// Completes when the checkpoint that is being prepared is durable, or could not be made so.
async fn prepared<P>(checkpoint: &mut Option<Preparing<P>>) -> Result<P, Fault> {
    match checkpoint {
        None => std::future::pending().await,
        Some(preparing) => match (&mut preparing.task).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Fault::Away(format!("the task that prepares it ended: {error}"))),
        },
    }
}
