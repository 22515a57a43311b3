//! Keeps the partitions that this node is to keep: opens their journals, runs their tasks, and clears away what has
//! gone elsewhere.
//!
//! One task on every queue node. It acts on views: a partition that names this node among its replicas or its in-sync
//! set is kept, and so is any of which there is a journal here, because it may be the last copy. A journal is removed
//! once all the replicas of its partition are in sync and none of them is here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    hosting::Hosting,
    partition::{PartitionHandle, Shared, Start, partition, queues_of},
};
use crate::{
    ids::{ClusterId, Incarnation, PartitionId},
    machine::{
        membership::{ClusterRecord, JournalSafety},
        placement::{Partition, PartitionStatus},
        replication::Replica,
    },
    node::control::OwnJournal,
    store::{JournalError, JournalHealth, JournalInfo, JournalStore, Opened, Trust},
};

/// The pause before a journal that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(2);
/// Journals that are opened at a time.
const OPENED_AT_ONCE: usize = 4;

/// How a node comes by its journals, once it knows its cluster.
#[derive(Clone)]
pub(crate) struct StoreSource(pub(crate) Arc<OpenStore>);

type OpenStore = dyn Fn(ClusterId) -> BoxFuture<'static, Result<Arc<dyn JournalStore>, JournalError>> + Send + Sync;

impl StoreSource {
    /// Of a function that opens them.
    pub(crate) fn new<F>(open: impl Fn(ClusterId) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<dyn JournalStore>, JournalError>> + Send + 'static,
    {
        Self(Arc::new(move |cluster| Box::pin(open(cluster))))
    }
}

impl fmt::Debug for StoreSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSource").finish_non_exhaustive()
    }
}

/// What others may know of this node's journals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journals {
    /// `None`: not open yet, for this reason if one is known.
    pub(crate) info: Option<JournalInfo>,
    pub(crate) trouble: Option<String>,
}

/// What the task is made of.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) incarnation: Incarnation,
    pub(crate) source: StoreSource,
    pub(crate) record: watch::Receiver<Option<ClusterRecord>>,
    pub(crate) hosting: Hosting,
    /// What the partitions share, but for the kind of journal.
    pub(crate) shared: Shared,
    /// For the greeting of the leader.
    pub(crate) own: watch::Sender<Option<OwnJournal>>,
    /// For status and readiness.
    pub(crate) journals: watch::Sender<Journals>,
}

/// What is going on with a partition here.
#[derive(Debug)]
enum Seat {
    Opening,
    Running {
        stop: CancellationToken,
        task: Id,
    },
    /// It has gone elsewhere; its journal is removed once the task has ended.
    Ending {
        task: Id,
    },
    Removing,
    /// It could not be opened.
    Resting {
        until: Instant,
    },
}

#[derive(Debug)]
enum Work {
    Opened(PartitionId, Result<Opened, JournalError>),
    Removed(PartitionId, Result<(), JournalError>),
    Ended,
}

struct Keeping {
    me: Replica,
    store: Arc<dyn JournalStore>,
    shared: Arc<Shared>,
    hosting: Hosting,
    /// Journals that are here, wanted or not.
    here: BTreeSet<PartitionId>,
    seats: BTreeMap<PartitionId, Seat>,
    tasks: JoinSet<Work>,
}

impl Keeper {
    /// Runs until `stop`, or until the node's journals turn out to be unusable, for the reason given.
    pub(crate) async fn run(self, stop: CancellationToken) -> String {
        let Some(store) = (tokio::select! {
            store = self.open_store() => store,
            () = stop.cancelled() => None,
        }) else {
            return "the node stops".to_owned();
        };
        let info = store.info();
        if !info.durable {
            warn!(
                journal = %info.kind,
                detail = %info.detail,
                "what the queues acknowledge does not survive a loss of power here: messages can be lost"
            );
        }
        let me = Replica { node: self.shared.mesh.local(), incarnation: self.incarnation, journal: store.id() };
        info!(journal = %me.journal, kind = %info.kind, durable = info.durable, detail = %info.detail, "keeps queues");
        let health = store.health();
        let shared = Shared { journal_kind: info.kind.clone(), ..self.shared };
        self.journals.send_replace(Journals { info: Some(info.clone()), trouble: None });
        let safety = JournalSafety { durable: info.durable, shared_fate: info.shared_fate };
        self.own.send_replace(Some(OwnJournal { id: me.journal, safety }));
        let here = loop {
            match store.partitions().await {
                Ok(here) => break here.into_iter().collect(),
                Err(reason) => warn!(%reason, "the journals cannot be listed yet"),
            }
            tokio::time::sleep(REOPEN).await;
        };
        let keeping = Keeping {
            me,
            store,
            shared: Arc::new(shared),
            hosting: self.hosting,
            here,
            seats: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        keeping.run(health, &self.journals, stop).await
    }

    async fn open_store(&self) -> Option<Arc<dyn JournalStore>> {
        let mut record = self.record.clone();
        let cluster = record.wait_for(Option::is_some).await.ok()?.as_ref()?.cluster_id;
        loop {
            match (self.source.0)(cluster).await {
                Ok(store) => return Some(store),
                Err(reason) => {
                    error!(%reason, "this node keeps no queues: its journal cannot be opened; it tries again");
                    self.journals.send_replace(Journals { info: None, trouble: Some(reason.to_string()) });
                }
            }
            tokio::time::sleep(REOPEN).await;
        }
    }
}

impl Keeping {
    async fn run(
        mut self,
        mut health: watch::Receiver<JournalHealth>,
        journals: &watch::Sender<Journals>,
        stop: CancellationToken,
    ) -> String {
        let mut views = self.shared.route.views();
        views.mark_changed();
        let mut look = tokio::time::interval(REOPEN);
        let reason = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break "the node stops".to_owned(),
                Some(done) = self.tasks.join_next_with_id() => match done {
                    Ok((id, work)) => self.done(id, work),
                    Err(panic) => break format!("a partition's task panicked ({panic}): this is a bug"),
                },
                Ok(()) = views.changed() => { views.mark_unchanged(); self.look() }
                Ok(()) = health.changed() => {
                    let trouble = match &*health.borrow_and_update() {
                        JournalHealth::Well => None,
                        JournalHealth::Away(reason) | JournalHealth::Shortened(reason) => Some(reason.clone()),
                    };
                    journals.send_modify(|journals| journals.trouble = trouble);
                }
                _ = look.tick() => self.look(),
            }
        };
        for seat in self.seats.values() {
            if let Seat::Running { stop, .. } = seat {
                stop.cancel();
            }
        }
        // What was begun in the journals is finished.
        while self.tasks.join_next().await.is_some() {}
        reason
    }

    /// Compares what is kept with what is to be kept.
    fn look(&mut self) {
        let view = self.shared.route.view();
        let now = Instant::now();
        let ids: BTreeSet<PartitionId> = view.partitions.keys().copied().chain(self.here.iter().copied()).collect();
        let opening = self.seats.values().filter(|seat| matches!(seat, Seat::Opening)).count();
        let mut free = OPENED_AT_ONCE.saturating_sub(opening);
        for id in ids {
            let placed = view.partitions.get(&id);
            let wanted = placed.is_some_and(|placed| self.is_mine(placed));
            let gone = placed.is_some_and(|placed| !self.is_mine(placed) && is_whole(placed));
            match self.seats.get(&id) {
                None if (wanted || (self.here.contains(&id) && !gone)) && free > 0 => {
                    free -= 1;
                    self.open(id);
                }
                Some(Seat::Resting { until }) if *until <= now && free > 0 => {
                    free -= 1;
                    self.open(id);
                }
                None if gone && self.here.contains(&id) => self.remove(id),
                Some(Seat::Running { stop, task }) if gone => {
                    info!(partition = %id, "has gone elsewhere");
                    let task = *task;
                    stop.cancel();
                    self.hosting.remove(id);
                    self.seats.insert(id, Seat::Ending { task });
                }
                _ => {}
            }
        }
    }

    fn is_mine(&self, placed: &Partition) -> bool {
        placed.replicas.contains(&self.me.node) || placed.in_sync.iter().any(|replica| replica.node == self.me.node)
    }

    fn open(&mut self, id: PartitionId) {
        self.seats.insert(id, Seat::Opening);
        let store = Arc::clone(&self.store);
        self.tasks.spawn(async move { Work::Opened(id, store.open(id).await) });
    }

    fn remove(&mut self, id: PartitionId) {
        self.seats.insert(id, Seat::Removing);
        let store = Arc::clone(&self.store);
        self.tasks.spawn(async move { Work::Removed(id, store.remove(id).await) });
    }

    fn done(&mut self, task: Id, work: Work) {
        match work {
            Work::Opened(id, outcome) => {
                let started = outcome.map_err(|reason| reason.to_string()).and_then(|opened| self.start(id, opened));
                if let Err(reason) = started {
                    error!(partition = %id, %reason, "a journal cannot be opened: this node cannot keep the partition");
                    self.seats.insert(id, Seat::Resting { until: Instant::now() + REOPEN });
                }
                self.look();
            }
            Work::Removed(id, outcome) => {
                match outcome {
                    Ok(()) => _ = self.here.remove(&id),
                    Err(reason) => {
                        warn!(partition = %id, %reason, "a journal that is not needed cannot be removed yet")
                    }
                }
                self.seats.remove(&id);
            }
            Work::Ended => {
                let ended = self.seats.iter().find_map(|(id, seat)| match seat {
                    Seat::Running { task: running, .. } | Seat::Ending { task: running } if *running == task => {
                        Some((*id, matches!(seat, Seat::Ending { .. })))
                    }
                    _ => None,
                });
                match ended {
                    Some((id, true)) => self.remove(id),
                    // One machine for a partition in one run of a node: it does not get a second one.
                    Some((id, false)) => {
                        self.hosting.remove(id);
                        error!(partition = %id, "a partition's task has ended: start the node again to have it kept here");
                    }
                    None => {}
                }
            }
        }
    }

    fn start(&mut self, id: PartitionId, opened: Opened) -> Result<(), String> {
        match &opened.trust {
            Trust::Verified => {}
            Trust::Unproven(why) => warn!(partition = %id, %why, "a journal may lack what it acknowledged"),
            Trust::Shortened(why) => error!(
                partition = %id,
                %why,
                "a journal lacks what it acknowledged: another replica fills it up; if there is none, bring the journal back, or \
                 give up what is lost with `syncmesh queue recover`"
            ),
        }
        let queues = queues_of(id, opened.checkpoint.as_ref())?;
        let start = Start { id, me: self.me, opened, queues };
        let stop = CancellationToken::new();
        let (handle, run): (PartitionHandle, _) = partition(Arc::clone(&self.shared), start, stop.clone());
        let task = self.tasks.spawn(async move {
            run.await;
            Work::Ended
        });
        self.here.insert(id);
        self.hosting.insert(id, handle);
        self.seats.insert(id, Seat::Running { stop, task: task.id() });
        Ok(())
    }
}

/// All who are to keep it have it.
fn is_whole(placed: &Partition) -> bool {
    placed.status == PartitionStatus::Serving
        && !placed.replicas.is_empty()
        && placed.replicas.iter().all(|node| placed.in_sync.iter().any(|replica| replica.node == *node))
}
