//! Keeps the partitions that this node is to keep: opens their journals, runs their tasks, and clears away what has
//! gone elsewhere.
//!
//! One task on every queue node. Here is how it comes by the node's journals; [`seats`] says which partitions are
//! kept, [`given_up`] what becomes of one whose task ended by itself, and [`departed`] of the journals of nodes that
//! have left.

mod departed;
mod given_up;
mod seats;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{departed::Departed, seats::Keeping};
use super::{hosting::Hosting, partition::Shared};
use crate::{
    ids::{ClusterId, Incarnation, PartitionId},
    machine::{
        membership::{ClusterRecord, JournalSafety},
        replication::Replica,
    },
    node::control::OwnJournal,
    store::{JournalError, JournalInfo, JournalStore},
};

/// The pause before a journal that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(2);

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
    /// Partitions that this run of the node keeps no longer, because their tasks ended by themselves.
    pub(crate) given_up: BTreeMap<PartitionId, String>,
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
        self.journals.send_replace(Journals { info: Some(info.clone()), ..Journals::default() });
        let safety = JournalSafety { durable: info.durable, shared_fate: info.shared_fate, given_up: 0 };
        self.own.send_replace(Some(OwnJournal { id: me.journal, safety }));
        let here = loop {
            match store.partitions().await {
                Ok(here) => break here.into_iter().collect(),
                Err(reason) => warn!(%reason, "the journals cannot be listed yet"),
            }
            tokio::time::sleep(REOPEN).await;
        };
        let shared = Arc::new(shared);
        let keeping = Keeping {
            me,
            departed: Departed::new(me.node, Arc::clone(&store), Arc::clone(&shared)),
            store,
            shared,
            hosting: self.hosting,
            here,
            seats: BTreeMap::new(),
            tasks: JoinSet::new(),
            own: self.own,
            journals: self.journals,
            stop,
        };
        keeping.run(health).await
    }

    async fn open_store(&self) -> Option<Arc<dyn JournalStore>> {
        let mut record = self.record.clone();
        let cluster = record.wait_for(Option::is_some).await.ok()?.as_ref()?.cluster_id;
        loop {
            match (self.source.0)(cluster).await {
                Ok(store) => return Some(store),
                Err(reason) => {
                    error!(%reason, "this node keeps no queues: its journal cannot be opened; it tries again");
                    self.journals.send_replace(Journals { trouble: Some(reason.to_string()), ..Journals::default() });
                }
            }
            tokio::time::sleep(REOPEN).await;
        }
    }
}
