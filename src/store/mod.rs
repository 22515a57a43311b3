//! The journals of the queues: what a node keeps of the partitions that it holds.
//!
//! [`JournalStore`] is a node's journal as a whole, [`Journal`] that of one partition. Kept in files in `DATA_DIR`
//! ([`mod@file`]), in Redis ([`redis`]), and in memory for simulations. Each brings a `Backend`, which makes one batch
//! durable at a time; what is the same for all (order, group commit, repeating what failed, marks, health) is
//! `writer`'s, one task for each open journal. The owner of a partition, in `node/queues/`, is the only caller.
//!
//! Nothing here knows what a record says.

mod entry;
pub mod file;
mod frame;
mod health;
mod marks;
mod pending;
pub mod redis;
#[cfg(test)]
#[path = "../../tests/journal/redis_server.rs"]
pub(crate) mod redis_server;
mod replay;
mod slots;
mod state;
mod writer;

#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod suite;

use std::{collections::BTreeSet, fmt, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::state::{Pieces, State};
use crate::{
    ids::{JournalId, NodeId, PartitionId},
    machine::replication::{Position, Record},
};

/// Why a journal cannot be read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JournalError {
    /// What is there is not what was written.
    #[error("the journal of partition {partition} is damaged: {detail}; {cure}")]
    Damaged {
        /// Which.
        partition: PartitionId,
        /// Where, and how it shows.
        detail: String,
        /// What to do.
        cure: &'static str,
    },
    /// The journal of the whole node cannot be used.
    #[error("the journal cannot be used: {0}")]
    Unusable(String),
    /// The disk refuses.
    #[error("the journal of partition {partition} cannot be read or written: {detail}")]
    Disk {
        /// Which.
        partition: PartitionId,
        /// Where and why.
        detail: String,
    },
    /// Redis is away; what was begun is repeated until it is back.
    #[error("the journal cannot be reached: {0}")]
    Away(String),
    /// Another process writes this journal.
    #[error("another process has opened the journal of partition {partition}: {detail}")]
    Fenced {
        /// Which.
        partition: PartitionId,
        /// How it shows.
        detail: String,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// What a journal is and how safe it is, for `status`, `GET /v1/node` and warnings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JournalInfo {
    /// `file` or `redis`.
    pub kind: String,
    /// Whether what it acknowledges survives a loss of power.
    pub durable: bool,
    /// What an operator should know of it: where it is, why it is not durable.
    pub detail: String,
    /// Two journals with the same name here are lost together: Redis' `run_id`.
    pub shared_fate: Option<String>,
}

/// Whether the journal can be written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum JournalHealth {
    /// It can.
    #[default]
    Well,
    /// It cannot, for this reason. Appends that were begun are repeated until it can.
    Away(String),
    /// Something that it acknowledged is no longer in it, for this reason. Nothing completes until its owner has
    /// called [`Journal::rebuild`].
    Shortened(String),
}

/// What is known at its opening of whether a journal still has everything that it acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// It has: it syncs, is undamaged, and is not behind the mark that the node keeps beside it.
    Verified,
    /// Nothing says that it has not, nor that it has, for this reason.
    Unproven(String),
    /// It has not, for this reason. Its owner must not report it as a member of the last in-sync set: what it has may
    /// be shown to an operator, and is filled up by another replica.
    Shortened(String),
}

impl Trust {
    /// What a report to the control plane says.
    pub fn is_verified(&self) -> bool {
        *self == Self::Verified
    }
}

/// Completes when an operation on a journal has been made durable. Operations on one journal complete in the order
/// in which they were begun. Dropping it does not undo the operation.
pub type Completion = BoxFuture<'static, Result<(), JournalError>>;

/// What was in a journal when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// To go on writing.
    pub journal: Box<dyn Journal>,
    /// The last checkpoint: everything up to this position, as one state.
    pub checkpoint: Option<(Position, Bytes)>,
    /// The records after it, without gap, those not counted that were truncated.
    pub records: Vec<Record>,
    /// Whether that is all that was acknowledged.
    pub trust: Trust,
}

/// The journals of one node.
pub trait JournalStore: Send + Sync + fmt::Debug + 'static {
    /// Names what this node has journalled. Another one after a restart says that the earlier journal is gone.
    fn id(&self) -> JournalId;

    /// What it is.
    fn info(&self) -> JournalInfo;

    /// Whether it can be written, kept current: the worst that is true of any open journal.
    fn health(&self) -> watch::Receiver<JournalHealth>;

    /// The partitions of which there is a journal.
    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>, JournalError>>;

    /// Opens the journal of a partition, an empty one if there is none. One at a time may be open; one that was
    /// dropped is waited for.
    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, JournalError>>;

    /// Removes the journal of a partition that this node no longer keeps. It must not be open.
    fn remove(&self, partition: PartitionId) -> BoxFuture<'_, Result<(), JournalError>>;

    /// The partitions of which another node of this cluster has journalled something in the same place; `None`:
    /// nothing of it is there.
    fn journals_of(&self, node: NodeId) -> BoxFuture<'_, Result<Option<BTreeSet<PartitionId>>, JournalError>> {
        let _ = node;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Removes what a node of this cluster that has left for good has journalled in the same place, and tells how
    /// many journals that were. Only once the partitions that [`journals_of`](Self::journals_of) names are in sync
    /// elsewhere. What names the journal as a whole goes first: should the node be there after all, it notices.
    fn forget(&self, node: NodeId) -> BoxFuture<'_, Result<usize, JournalError>> {
        let _ = node;
        Box::pin(std::future::ready(Ok(0)))
    }
}

/// The journal of one partition. Calls take effect in their order; what is begun waits in memory, so the owner bounds
/// how much it begins. Dropping it lets it finish what was begun, unless it is away.
pub trait Journal: Send + fmt::Debug {
    /// Whether this one can be written.
    fn health(&self) -> watch::Receiver<JournalHealth>;

    /// Appends records that follow the last one. Completes once they are as safe as the journal makes anything.
    /// What is appended while a sync is under way is synced together (group commit).
    fn append(&mut self, records: Vec<Record>) -> Completion;

    /// Appends records of [`Durability::InMemory`](crate::machine::replication::Durability::InMemory) without syncing
    /// them: a later [`Journal::append`] covers them.
    fn append_lazily(&mut self, records: Vec<Record>);

    /// Cuts everything after a record number. What follows is appended after it.
    fn truncate(&mut self, last_seq: u64) -> Completion;

    /// Replaces everything by this state, which includes all up to `at`; records after it that were appended
    /// stay. The space of what it replaces is freed. Appends go on meanwhile: what was begun after it may complete
    /// before it. The state is held until then, and made while it is written.
    fn checkpoint(&mut self, at: Position, state: State) -> Completion;

    /// Replaces everything, records after it included: what a copy from elsewhere does.
    fn reset(&mut self, at: Position, state: Bytes) -> Completion;

    /// Writes the journal anew from its owner's memory: the state as of `at`, and every record after it, those
    /// included whose append has not completed. All that was begun before completes together with it. The answer to
    /// [`JournalHealth::Shortened`].
    fn rebuild(&mut self, at: Position, state: State, records: Vec<Record>) -> Completion;

    /// Bytes of the records that it keeps beside the checkpoint: what the next checkpoint is due by.
    fn size(&self) -> u64;
}

/// How long a journal that is away is waited for before publishes are refused.
pub const AWAY_AFTER: Duration = Duration::from_millis(500);
