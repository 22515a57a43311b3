use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::*;
use crate::raft::{DiskLog, SnapshotFile, Types, apply::Machine, memory::MemoryLog};

async fn machine(snapshots: Arc<dyn SnapshotStore>) -> Machine<Journal> {
    Machine::open(snapshots, mpsc::channel(1).0).await.unwrap()
}

struct OnDisk;

impl StoreBuilder<Types<Journal>, DiskLog, Machine<Journal>, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, DiskLog, Machine<Journal>), StorageError<Types<Journal>>> {
        let dir = tempfile::tempdir().unwrap();
        let log = DiskLog::create(&dir.path().join("raft"), 7).unwrap();
        let machine = machine(Arc::new(SnapshotFile::new(dir.path()))).await;
        Ok((dir, log, machine))
    }
}

struct InMemory;

impl StoreBuilder<Types<Journal>, MemoryLog, Machine<Journal>> for InMemory {
    async fn build(&self) -> Result<((), MemoryLog, Machine<Journal>), StorageError<Types<Journal>>> {
        let disk = MemoryDisk::default();
        Ok(((), disk.log(), machine(Arc::new(disk)).await))
    }
}

#[tokio::test]
async fn the_log_on_disk_passes_openrafts_suite() {
    Suite::test_all(OnDisk).await.unwrap();
}

#[tokio::test]
async fn the_log_in_memory_passes_openrafts_suite() {
    Suite::test_all(InMemory).await.unwrap();
}
