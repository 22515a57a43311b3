//! The journal of a partition, as its task uses it.
//!
//! Remembers what is in the journal and not committed yet, so that a journal that lost something can be written anew
//! from memory, and decides when a checkpoint is due.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, error};

use super::{Done, PartitionTask, batches::Then, requests::journal_away, states};
use crate::{
    error::{Error, Outcome},
    machine::{
        queue::Queues,
        replication::{Durability, Position, Record, Recovered, Replication, RoleView},
    },
    mutant::{self, Mutant},
    node::queues::wire::QueueReply,
    store::{Completion, Journal, JournalHealth, State, Trust},
};

/// A checkpoint is due when so many bytes lie behind the last one, or twice what it took, if that is more.
const CHECKPOINT_BYTES: u64 = 64 * 1024 * 1024;
/// Likewise: so many records.
const CHECKPOINT_RECORDS: u64 = 500_000;

/// The journal and what it holds beyond what is committed.
#[derive(Debug)]
pub(super) struct Keeping {
    journal: Box<dyn Journal>,
    /// In the journal and not committed.
    tail: VecDeque<Record>,
    /// Why it cannot be written now.
    away: Option<String>,
    /// Records and bytes since the last checkpoint.
    records: u64,
    /// What the last state took that was saved, once it is.
    state_bytes: Arc<AtomicU64>,
    /// Since when a checkpoint is being made.
    checkpointing: Option<Instant>,
    /// It can never be written again.
    failed: bool,
}

impl Keeping {
    fn new(journal: Box<dyn Journal>, tail: Vec<Record>, state_bytes: u64) -> Self {
        let records = tail.len() as u64;
        let state_bytes = Arc::new(state_bytes.into());
        Self { journal, tail: tail.into(), away: None, records, state_bytes, checkpointing: None, failed: false }
    }

    pub(super) fn health(&self) -> watch::Receiver<JournalHealth> {
        self.journal.health()
    }

    /// Why nothing can be journalled now.
    pub(super) fn away(&self) -> Option<&str> {
        self.away.as_deref()
    }

    /// It can never be written again.
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    pub(super) fn append(&mut self, records: Vec<Record>) -> Completion {
        self.took(&records);
        self.journal.append(records)
    }

    pub(super) fn append_lazily(&mut self, records: Vec<Record>) {
        self.took(&records);
        self.journal.append_lazily(records);
    }

    fn took(&mut self, records: &[Record]) {
        self.records += records.len() as u64;
        self.tail.extend(records.iter().cloned());
    }

    pub(super) fn truncate(&mut self, last_seq: u64) -> Completion {
        while self.tail.back().is_some_and(|last| last.position.seq > last_seq) {
            self.tail.pop_back();
        }
        self.journal.truncate(last_seq)
    }

    pub(super) fn reset(&mut self, at: Position, state: Bytes) -> Completion {
        self.tail.clear();
        self.records = 0;
        self.state_bytes = Arc::new((state.len() as u64).into());
        self.journal.reset(at, state)
    }

    /// A record is committed, and part of the state from now on.
    pub(super) fn committed(&mut self, record: &Record) {
        while self.tail.front().is_some_and(|first| first.position.seq <= record.position.seq) {
            self.tail.pop_front();
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        let grown = self.journal.size() > CHECKPOINT_BYTES.max(2 * self.state_bytes.load(Ordering::Relaxed));
        self.checkpointing.is_none() && self.away.is_none() && (grown || self.records > CHECKPOINT_RECORDS)
    }

    /// The queues as they are now, to be saved.
    fn saved(&mut self, queues: &Queues) -> State {
        let (state, bytes) = states::saved(queues);
        self.state_bytes = bytes;
        state
    }

    /// A checkpoint was made: how many bytes it took, and how long.
    pub(super) fn checkpointed(&mut self) -> Option<(u64, Duration)> {
        let since = self.checkpointing.take()?;
        Some((self.state_bytes.load(Ordering::Relaxed), since.elapsed()))
    }
}

impl PartitionTask {
    pub(super) fn new(shared: Arc<super::Shared>, start: super::Start) -> Self {
        let super::Start { id, me, opened, queues } = start;
        let crate::store::Opened { journal, checkpoint, records, trust } = opened;
        let trust = if mutant::on(Mutant::ShortenedJournalTrusted) { Trust::Verified } else { trust };
        let (at, state_bytes) = checkpoint.map_or((Position::default(), 0), |(at, state)| (at, state.len() as u64));
        let shortened = matches!(trust, Trust::Shortened(_));
        let recovered = Recovered { checkpoint: at, records: records.clone(), verified: trust.is_verified() };
        Self {
            id,
            replication: Replication::new(me, id, shared.tuning.replication, recovered),
            shared,
            effects: Default::default(),
            inputs: Default::default(),
            loading: None,
            queues,
            applied: at,
            keeping: Keeping::new(journal, records, state_bytes),
            shortened,
            placed: None,
            batches: Default::default(),
            proposed: 0,
            placing: None,
            taken: Default::default(),
            waiting: Default::default(),
            handed: Default::default(),
            calls: Default::default(),
            last_call: 0,
            changes: Default::default(),
            moves: Default::default(),
            rates: Default::default(),
            timer_under_way: false,
            serving: false,
            role: RoleView::None,
            work: Default::default(),
        }
    }

    pub(super) fn on_health(&mut self, health: &JournalHealth) {
        match health {
            JournalHealth::Well => {
                if self.keeping.away.take().is_some() {
                    debug!(partition = self.id.0, "the journal can be written again");
                }
            }
            JournalHealth::Away(reason) => {
                debug!(partition = self.id.0, %reason, "the journal cannot be written: publishes are refused");
                self.keeping.away = Some(reason.clone());
                self.tell_unsynced(reason);
            }
            JournalHealth::Shortened(reason) => {
                error!(partition = self.id.0, %reason, "the journal has lost what it acknowledged: it is written anew from memory");
                self.keeping.away = Some(reason.clone());
                let records = self.keeping.tail.iter().cloned().collect();
                let state = self.keeping.saved(&self.queues);
                let done = self.keeping.journal.rebuild(self.applied, state, records);
                self.begin(async move { Done::Kept { checkpoint: false, outcome: done.await } });
            }
        }
    }

    /// Those whose operations wait for a journal that is away are told that nobody knows what becomes of them.
    fn tell_unsynced(&mut self, reason: &str) {
        for taken in self.taken.values_mut().filter(|taken| taken.durability == Durability::Synced) {
            for (_, then) in &mut taken.entries {
                if let Then::Answer { .. } = then {
                    std::mem::replace(then, Then::Nothing).tell(QueueReply::Failed(Error::unavailable(
                        Outcome::Unknown,
                        format!("the primary's journal went away while the operation was being written: {reason}"),
                    )));
                }
            }
        }
        self.batches.refuse_synced(|then| then.tell(QueueReply::Failed(journal_away(reason))));
    }

    pub(super) fn checkpoint_when_due(&mut self) {
        if !self.keeping.is_checkpoint_due() {
            return;
        }
        debug!(partition = self.id.0, records = self.keeping.records, "makes a checkpoint");
        let state = self.keeping.saved(&self.queues);
        self.keeping.checkpointing = Some(Instant::now());
        self.keeping.records = self.keeping.tail.len() as u64;
        let done = self.keeping.journal.checkpoint(self.applied, state);
        self.begin(async move { Done::Kept { checkpoint: true, outcome: done.await } });
    }
}
