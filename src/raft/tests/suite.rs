use openraft::{
    EntryPayload, RaftLogReader, StorageError, Vote,
    storage::{IOFlushed, RaftLogStorage},
    testing::log::{StoreBuilder, Suite},
    type_config::TypeConfigExt,
};
use tempfile::TempDir;

use super::*;
use crate::raft::{
    DiskLog, SnapshotFile, Types,
    apply::Machine,
    memory::{MemoryLog, Votes},
    types::{CommittedLeader, Entry, LogId},
};

async fn machine(snapshots: Arc<dyn SnapshotStore>) -> Machine<Journal> {
    Machine::open(snapshots, mpsc::channel(1).0, Default::default()).await.unwrap()
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
        Ok(((), disk.log(), machine(Arc::new(disk.log())).await))
    }
}

#[tokio::test]
async fn the_log_on_disk_passes_openrafts_suite() {
    Suite::test_all(OnDisk).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_crash_of_the_memory_disk_loses_what_was_not_synced() {
    type Config = Types<Journal>;
    let disk = MemoryDisk::new(Duration::from_millis(5));
    let mut log = disk.log();
    let vote = Vote::new(1, node(1));
    RaftLogStorage::<Config>::save_vote(&mut log, &vote).await.unwrap();
    for index in 0..3 {
        let id = LogId::new(CommittedLeader { term: 1 }, index);
        let entry = Entry::<Journal> { log_id: id, payload: EntryPayload::Blank };
        let (done, synced) = Config::oneshot();
        RaftLogStorage::<Config>::append(&mut log, [entry], IOFlushed::signal(done)).await.unwrap();
        if index < 2 {
            synced.await.unwrap().unwrap();
        }
    }
    assert_eq!(disk.entries(), 3);
    disk.crash();
    assert_eq!(disk.entries(), 2);
    assert!(RaftLogReader::<Config>::read_vote(&mut log).await.is_err(), "the node is dead");
    let mut log = disk.log();
    assert_eq!(RaftLogReader::<Config>::read_vote(&mut log).await.unwrap(), Some(vote));
    disk.set_votes(Votes::Forgotten);
    disk.crash();
    let left = RaftLogReader::<Config>::read_vote(&mut disk.log()).await.unwrap();
    assert_eq!(left, Some(Vote::new(1, NodeId::default())), "of the vote only the last entry's term is left");
}

#[tokio::test]
async fn the_log_in_memory_passes_openrafts_suite() {
    Suite::test_all(InMemory).await.unwrap();
}
