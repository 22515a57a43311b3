//! Which partitions of a store are open, so that each journal has one writer in this process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::OwnedMutexGuard, time::timeout};

use crate::{ids::PartitionId, store::JournalError};

/// How long the writer of a journal that was dropped has to finish.
const PATIENCE: Duration = Duration::from_secs(2);

/// The partitions' locks: as many as the node has ever kept partitions.
#[derive(Debug, Default)]
pub(super) struct Slots(Mutex<BTreeMap<PartitionId, Arc<tokio::sync::Mutex<()>>>>);

/// Held as long as a journal is open.
pub(super) type Slot = OwnedMutexGuard<()>;

impl Slots {
    /// Takes a partition; waits for a writer that is about to end.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] where the journal is still open.
    pub(super) async fn take(&self, partition: PartitionId) -> Result<Slot, JournalError> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(partition).or_default())
        };
        let fenced = |_| JournalError::Fenced { partition, detail: "this process itself has it open".to_owned() };
        timeout(PATIENCE, lock.lock_owned()).await.map_err(fenced)
    }
}
