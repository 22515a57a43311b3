//! Keeps the partitions that this node is to keep: opens their journals, runs their tasks, and clears away what has
//! gone elsewhere.
//!
//! One task on every queue node. Here is how it comes by the node's journals; [`seats`] says which partitions are
//! kept, [`condition`] what others are told of the journals, [`given_up`] what becomes of a partition whose task ended by
//! itself, and [`departed`] of the journals of nodes that have left.

mod condition;
mod departed;
mod given_up;
mod seats;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{condition::Condition, departed::Departed, seats::Keeping};
use super::{hosting::Hosting, partition::Shared};
use crate::{
    ids::{ClusterId, Incarnation, PartitionId},
    machine::{membership::ClusterRecord, replication::Replica},
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
        let mut condition = Condition::new(self.own, self.journals, Arc::clone(&self.shared.clock));
        let Some(store) = (tokio::select! {
            store = open_store(self.record, &self.source, &mut condition) => store,
            () = stop.cancelled() => None,
        }) else {
            return "the node stops".to_owned();
        };
        let info = store.info();
        let me = Replica { node: self.shared.mesh.local(), incarnation: self.incarnation, journal: store.id() };
        info!(journal = %me.journal, kind = %info.kind, durable = info.durable, detail = %info.detail, "keeps queues");
        let health = store.health();
        let shared = Shared { journal_kind: info.kind.clone(), ..self.shared };
        condition.opened(me.journal, info);
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
            condition,
            stop,
        };
        keeping.run(health).await
    }
}

/// Opens the journals once the cluster is known, as often as it takes.
async fn open_store(
    mut record: watch::Receiver<Option<ClusterRecord>>,
    source: &StoreSource,
    condition: &mut Condition,
) -> Option<Arc<dyn JournalStore>> {
    let cluster = record.wait_for(Option::is_some).await.ok()?.as_ref()?.cluster_id;
    loop {
        match (source.0)(cluster).await {
            Ok(store) => return Some(store),
            Err(reason) => {
                error!(%reason, "this node keeps no queues: its journal cannot be opened; it tries again");
                condition.not_opened(reason.to_string());
            }
        }
        tokio::time::sleep(REOPEN).await;
    }
}
