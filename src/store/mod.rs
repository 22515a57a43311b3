//! The journals of the queues: what a node keeps of the partitions that it holds.
//!
//! [`JournalStore`] is a node's journal as a whole, [`Journal`] that of one partition. Implemented by files in
//! `DATA_DIR`, by Redis, and in memory for simulations.

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    ids::{JournalId, PartitionId},
    machine::replication::{Position, Record},
};

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
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
    /// The disk refuses.
    #[error("the journal of partition {partition} cannot be written: {source}")]
    Disk {
        /// Which.
        partition: PartitionId,
        /// Why.
        source: io::Error,
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
}

/// The journals of one node.
pub trait JournalStore: Send + Sync + fmt::Debug + 'static {
    /// Names what this node has journalled. Another one after a restart says that the earlier journal is gone.
    fn id(&self) -> JournalId;

    /// What it is.
    fn info(&self) -> JournalInfo;

    /// Whether it can be written, kept current. Also tells (by [`JournalHealth::Well`] again) that it is back.
    fn health(&self) -> watch::Receiver<JournalHealth>;

    /// The partitions of which there is a journal.
    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>, JournalError>>;

    /// Opens the journal of a partition, an empty one if there is none. One at a time may be open.
    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, JournalError>>;

    /// Removes the journal of a partition that this node no longer keeps.
    fn remove(&self, partition: PartitionId) -> BoxFuture<'_, Result<(), JournalError>>;
}

/// The journal of one partition. Calls take effect in their order.
pub trait Journal: Send + fmt::Debug {
    /// Appends records that follow the last one. Completes once they are as safe as the journal makes anything.
    /// What is appended while a sync is under way is synced together (group commit).
    fn append(&mut self, records: Vec<Record>) -> Completion;

    /// Appends records of [`Durability::InMemory`](crate::machine::replication::Durability::InMemory) without syncing
    /// them: a later [`Journal::append`] covers them.
    fn append_lazily(&mut self, records: Vec<Record>);

    /// Cuts everything after a record number. What follows is appended after it.
    fn truncate(&mut self, last_seq: u64) -> Completion;

    /// Replaces everything by this state, which includes all up to `at`; records after it that were appended
    /// stay. The space of what it replaces is freed.
    fn checkpoint(&mut self, at: Position, state: Bytes) -> Completion;

    /// Replaces everything, records after it included: what a copy from elsewhere does.
    fn reset(&mut self, at: Position, state: Bytes) -> Completion;

    /// Bytes that it takes now: what a checkpoint is due by.
    fn size(&self) -> u64;
}

/// How long a journal that is away is waited for before publishes are refused.
pub const AWAY_AFTER: Duration = Duration::from_millis(500);
