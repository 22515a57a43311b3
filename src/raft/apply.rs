//! The state machine of Raft: applies committed entries, builds and installs snapshots.
//!
//! Openraft's worker is the only writer of the state; [`Current`] is read by the handle's
//! `with_state`. What applying an entry brings about goes, in the order of the log, to the one
//! channel that the node gave at start. Never proposes anything and never looks at a clock.

use std::{
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{self, AtomicBool},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::{
    EmptyNode, EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine, Snapshot},
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::Instant,
};

use crate::{
    ids::{NodeId, Term, Tick},
    raft::{
        snapshot::{self, Header, SnapshotStore},
        storage::RaftStorageError,
        types::{CommittedLeader, Entry, LogId, Membership, Replicated, SnapshotMeta, Types},
    },
    telemetry::RaftMetrics,
};

/// A snapshot as openraft hands it around.
pub(crate) type Image = Snapshot<CommittedLeader, NodeId, EmptyNode, Bytes>;

/// What listeners on each lock manager are told, in the order of the log.
#[derive(Clone, PartialEq, Debug)]
pub enum Applied<E> {
    /// An entry was applied.
    Entry {
        /// Its term.
        term: Term,
        /// Its index.
        index: u64,
        /// What it brought about. Empty for entries of Raft's own.
        effects: Vec<E>,
    },
    /// The state was replaced (at start, and when a snapshot came): read it anew. Effects of the
    /// entries up to `index` are not told.
    Reset {
        /// The last entry that the state includes.
        index: u64,
    },
}

/// The replicated state and how far it has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current<S> {
    pub(crate) last_applied: Option<LogId>,
    pub(crate) membership: Membership,
    pub(crate) clock: Tick,
    pub(crate) state: S,
}

impl<S> Current<S> {
    pub(crate) fn index(&self) -> u64 {
        self.last_applied.map_or(0, |id| id.index)
    }

    pub(crate) fn header(&self) -> Header {
        let meta = SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() };
        Header { meta, clock: self.clock }
    }
}

/// Keeps images in order: one that is older than the kept one is dropped. (The log is purged up to
/// the newest snapshot, so falling back to an older one would leave a gap.)
#[derive(Clone, Debug)]
struct Images {
    store: Arc<dyn SnapshotStore>,
    newest: Arc<Mutex<Option<LogId>>>,
    metrics: RaftMetrics,
}

impl Images {
    async fn keep(&self, last: Option<LogId>, image: Bytes) -> io::Result<()> {
        let mut newest = self.newest.lock().await;
        if *newest > last {
            return Ok(());
        }
        let (store, bytes) = (Arc::clone(&self.store), image.len());
        blocking(move || Ok(store.keep(&image)?)).await?;
        *newest = last;
        self.metrics.snapshot_of(bytes);
        Ok(())
    }

    async fn load(&self) -> io::Result<Option<Bytes>> {
        let store = Arc::clone(&self.store);
        blocking(move || Ok(store.load()?)).await
    }

    fn damaged(&self, error: &io::Error) -> RaftStorageError {
        RaftStorageError::corrupt(&self.store.path(), error)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Openraft's state machine for a replicated state.
#[derive(Debug)]
pub(crate) struct Machine<S: Replicated> {
    current: Arc<RwLock<Current<S>>>,
    progress: watch::Sender<u64>,
    images: Images,
    listener: mpsc::Sender<Applied<S::Effect>>,
    /// Set once the log has been replayed: what is replayed at start is told to nobody.
    live: Arc<AtomicBool>,
}

impl<S: Replicated> Machine<S> {
    /// Reads the latest snapshot.
    pub(crate) async fn open(
        store: Arc<dyn SnapshotStore>,
        listener: mpsc::Sender<Applied<S::Effect>>,
        metrics: RaftMetrics,
    ) -> Result<Self, RaftStorageError> {
        let images = Images { store, newest: Arc::default(), metrics };
        let path = images.store.path();
        let mut current = Current::<S>::default();
        if let Some(image) = images.load().await.map_err(RaftStorageError::io(&path))? {
            images.metrics.snapshot_of(image.len());
            let decoded = blocking(move || snapshot::decode(&image)).await;
            let (header, state) = decoded.map_err(|error| images.damaged(&error))?;
            *images.newest.lock().await = header.meta.last_log_id;
            current = restored(header, state);
        }
        let progress = watch::Sender::new(current.index());
        Ok(Self { current: Arc::new(RwLock::new(current)), progress, images, listener, live: Arc::default() })
    }

    /// The state, for reading.
    pub(crate) fn current(&self) -> Arc<RwLock<Current<S>>> {
        Arc::clone(&self.current)
    }

    /// The index of the last applied entry.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// The switch that ends the silence of the replay.
    pub(crate) fn live(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.live)
    }

    /// Waits for room: the log does not run ahead of its listener without bound. A listener that is
    /// gone is being stopped.
    async fn tell(&self, news: Applied<S::Effect>) {
        if self.live.load(atomic::Ordering::Acquire) {
            _ = self.listener.send(news).await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Current<S>) -> T) -> T {
        change(&mut self.current.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn view(&self) -> Current<S> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) fn restored<S>(header: Header, state: S) -> Current<S> {
    Current {
        last_applied: header.meta.last_log_id,
        membership: header.meta.last_membership,
        clock: header.clock,
        state,
    }
}

/// Applies one entry; answers the commands and collects their effects.
pub(crate) fn apply_entry<S: Replicated>(
    current: &mut Current<S>,
    entry: Entry<S>,
    effects: &mut Vec<S::Effect>,
) -> Vec<S::Answer> {
    let id = entry.log_id;
    current.last_applied = Some(id);
    match entry.payload {
        EntryPayload::Blank => Vec::new(),
        EntryPayload::Membership(membership) => {
            current.membership = Membership::new(Some(id), membership);
            Vec::new()
        }
        EntryPayload::Normal(batch) => {
            current.clock = current.clock.max(batch.at);
            let (at, term) = (current.clock, Term(id.leader_id.term));
            let state = &mut current.state;
            batch.commands.into_iter().map(|command| state.apply(at, term, id.index, command, effects)).collect()
        }
    }
}

impl<S: Replicated> RaftStateMachine<Types<S>> for Machine<S> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder<S>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Ok((current.last_applied, current.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types<S>>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let (index, term) = (entry.log_id.index, Term(entry.log_id.leader_id.term));
            let mut effects = Vec::new();
            let answers = self.change(|current| apply_entry(current, entry, &mut effects));
            self.progress.send_replace(index);
            // Told before it is answered: what a client does next must find the listener informed.
            self.tell(Applied::Entry { term, index, effects }).await;
            if let Some(responder) = responder {
                responder.send(answers);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<S> {
        Builder { view: self.view(), images: self.images.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Bytes) -> io::Result<()> {
        let copy = image.clone();
        let (header, state) = blocking(move || snapshot::decode::<S>(&copy)).await?;
        self.images.keep(meta.last_log_id, image).await?;
        self.images.metrics.installed();
        self.change(|current| *current = restored(header, state));
        let index = meta.last_log_id.map_or(0, |id| id.index);
        self.progress.send_replace(index);
        self.tell(Applied::Reset { index }).await;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Image>> {
        let Some(image) = self.images.load().await? else { return Ok(None) };
        let copy = image.clone();
        let header = blocking(move || snapshot::decode_header(&copy)).await;
        let header = header.map_err(|error| io::Error::from(self.images.damaged(&error)))?;
        Ok(Some(Snapshot { meta: header.meta, snapshot: image }))
    }
}

/// Builds a snapshot from a copy of the state, while entries go on being applied.
#[derive(Debug)]
pub(crate) struct Builder<S> {
    view: Current<S>,
    images: Images,
}

impl<S: Replicated> RaftSnapshotBuilder<Types<S>> for Builder<S> {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Image> {
        let began = Instant::now();
        let header = self.view.header();
        let meta = header.meta.clone();
        let state = std::mem::take(&mut self.view.state);
        let image = blocking(move || snapshot::encode(&header, &state)).await?;
        self.images.keep(meta.last_log_id, image.clone()).await?;
        self.images.metrics.built(began.elapsed());
        Ok(Snapshot { meta, snapshot: image })
    }
}
