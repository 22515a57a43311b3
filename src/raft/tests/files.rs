use std::{
    fs,
    path::{Path, PathBuf},
};

use openraft::{EntryPayload, RaftLogReader, Vote, storage::RaftLogStorage, type_config::TypeConfigExt};
use tempfile::TempDir;

use super::*;
use crate::raft::{
    Batch, DiskLog, RaftStorageError, SnapshotFile, Types,
    apply::Machine,
    existing_log_id,
    snapshot::{self, Header},
    types::{CommittedLeader, Entry, LogId, Membership, SnapshotMeta},
};

const ID: u128 = 0x1234_5678;

/// The last thing that a log was told.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Append,
    Vote,
    Commit,
    Truncate,
    Purge,
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeader { term }, index)
}

fn entry(index: u64) -> Entry<Journal> {
    let batch = Batch { at: Tick(index), commands: vec![format!("line {index}")] };
    Entry::<Journal> { log_id: id(1, index), payload: EntryPayload::Normal(batch) }
}

async fn append(log: &mut DiskLog, index: u64) {
    let (done, on_disk) = Types::<Journal>::oneshot();
    let callback = openraft::storage::IOFlushed::<Types<Journal>>::signal(done);
    log.append([entry(index)], callback).await.unwrap();
    on_disk.await.unwrap().unwrap();
}

async fn save_vote(log: &mut DiskLog, term: u64) {
    RaftLogStorage::<Types<Journal>>::save_vote(log, &Vote::new(term, node(1))).await.unwrap();
}

/// The indexes of the entries and the term of the vote.
type Contents = (Vec<u64>, Option<u64>);

/// What a log holds.
async fn contents(log: &mut DiskLog) -> Contents {
    let entries = RaftLogReader::<Types<Journal>>::try_get_log_entries(log, ..).await.unwrap();
    for found in &entries {
        let (EntryPayload::Normal(found), EntryPayload::Normal(expected)) =
            (&found.payload, entry(found.log_id.index).payload)
        else {
            panic!("{found:?}")
        };
        assert_eq!(*found, expected);
    }
    let vote = RaftLogReader::<Types<Journal>>::read_vote(log).await.unwrap();
    (entries.iter().map(|entry| entry.log_id.index).collect(), vote.map(|vote| vote.leader_id.term))
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("wal")).unwrap().map(|file| file.unwrap().path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "wal")).collect();
    segments.sort();
    segments
}

impl Ending {
    fn may_look_torn(self) -> bool {
        matches!(self, Self::Commit | Self::Truncate | Self::Purge)
    }
}

/// A log of one segment, and for each thing it was told the length after it and what it then held.
struct Written {
    dir: TempDir,
    states: Vec<(usize, Contents)>,
    bytes: Vec<u8>,
}

impl Written {
    async fn new(ending: Ending) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut log = DiskLog::create(dir.path(), ID).unwrap();
        let segment = segments(dir.path())[0].clone();
        let mut states = Vec::new();
        for step in 0..=8 {
            match step {
                0 => {}
                4 => save_vote(&mut log, 4).await,
                _ => append(&mut log, if step < 4 { step - 1 } else { step - 2 }).await,
            }
            states.push((fs::read(&segment).unwrap().len(), contents(&mut log).await));
        }
        match ending {
            Ending::Append => append(&mut log, 7).await,
            Ending::Vote => save_vote(&mut log, 5).await,
            Ending::Commit => RaftLogStorage::<Types<Journal>>::save_committed(&mut log, Some(id(1, 3))).await.unwrap(),
            Ending::Truncate => {
                RaftLogStorage::<Types<Journal>>::truncate_after(&mut log, Some(id(1, 3))).await.unwrap()
            }
            Ending::Purge => RaftLogStorage::<Types<Journal>>::purge(&mut log, id(1, 3)).await.unwrap(),
        }
        let after = contents(&mut log).await;
        drop(log);
        let bytes = fs::read(&segment).unwrap();
        states.push((bytes.len(), after));
        Self { dir, states, bytes }
    }

    /// Opens a copy whose segment is `bytes`.
    fn open(&self, bytes: &[u8]) -> (TempDir, Result<DiskLog, RaftStorageError>) {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("wal")).unwrap();
        fs::copy(self.dir.path().join("log-id"), copy.path().join("log-id")).unwrap();
        let name = segments(self.dir.path())[0].file_name().unwrap().to_owned();
        fs::write(copy.path().join("wal").join(name), bytes).unwrap();
        let opened = DiskLog::open(copy.path(), ID);
        (copy, opened)
    }
}

const ENDINGS: [Ending; 5] = [Ending::Append, Ending::Vote, Ending::Commit, Ending::Truncate, Ending::Purge];

#[tokio::test]
async fn a_log_that_was_torn_at_any_length_opens_with_all_that_was_synced() {
    for ending in ENDINGS {
        let written = Written::new(ending).await;
        for length in 0..=written.bytes.len() {
            let (_copy, log) = written.open(&written.bytes[..length]);
            let expected = written.states.iter().rev().find(|(end, _)| *end <= length);
            let expected = expected.map_or_else(|| (Vec::new(), None), |(_, state)| state.clone());
            assert_eq!(contents(&mut log.unwrap()).await, expected, "torn at {length}");
        }
    }
}

#[tokio::test]
async fn every_flipped_byte_of_a_log_is_noticed() {
    for ending in ENDINGS {
        let written = Written::new(ending).await;
        for at in 0..written.bytes.len() {
            for flip in [0x01, 0x02, 0xff] {
                let mut bytes = written.bytes.clone();
                bytes[at] ^= flip;
                let (copy, log) = written.open(&bytes);
                let error = match log {
                    Err(error) => error,
                    Ok(mut log) => {
                        // The kind of the very last record may turn into one of a longer record,
                        // which then looks torn. No vote and no entry is lost so.
                        let (start, before) = &written.states[written.states.len() - 2];
                        assert!(at >= *start && ending.may_look_torn(), "{ending:?}: byte {at} ^ {flip:#x}");
                        assert_eq!(contents(&mut log).await, *before);
                        continue;
                    }
                };
                let text = error.to_string();
                assert!(matches!(error, RaftStorageError::Corrupt { .. }), "{text}");
                assert!(text.contains(copy.path().to_str().unwrap()) && text.contains("DATA_DIR"), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_log_is_kept_apart_from_every_other() {
    let dir = tempfile::tempdir().unwrap();
    let raft = dir.path().join("raft");
    assert_eq!(existing_log_id(&raft).unwrap(), None);
    assert!(matches!(DiskLog::open(&raft, ID), Err(RaftStorageError::Corrupt { .. })));
    let log = DiskLog::create(&raft, ID).unwrap();
    assert!(matches!(DiskLog::open(&raft, ID), Err(RaftStorageError::Io { .. })), "it is locked");
    drop(log);
    assert_eq!(existing_log_id(&raft).unwrap(), Some(ID));
    assert!(DiskLog::create(&raft, ID).is_err(), "there is one already");
    assert!(matches!(DiskLog::open(&raft, ID + 1), Err(RaftStorageError::Corrupt { .. })));
    let file = fs::read(raft.join("log-id")).unwrap();
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        fs::write(raft.join("log-id"), damaged).unwrap();
        assert!(matches!(existing_log_id(&raft), Err(RaftStorageError::Corrupt { .. })));
    }
    fs::write(raft.join("log-id"), &file).unwrap();
    fs::remove_file(&segments(&raft)[0]).unwrap();
    assert!(matches!(DiskLog::open(&raft, ID), Err(RaftStorageError::Corrupt { .. })), "no segments");
}

#[tokio::test]
async fn a_purged_log_frees_its_segments_and_reopens() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DiskLog::create(dir.path(), ID).unwrap();
    let large = |index| {
        let batch = Batch { at: Tick(index), commands: vec!["x".repeat(1 << 20)] };
        Entry::<Journal> { log_id: id(1, index), payload: EntryPayload::Normal(batch) }
    };
    for index in 0..40 {
        let (done, on_disk) = Types::<Journal>::oneshot();
        let callback = openraft::storage::IOFlushed::<Types<Journal>>::signal(done);
        log.append([large(index)], callback).await.unwrap();
        on_disk.await.unwrap().unwrap();
    }
    let before = segments(dir.path()).len();
    assert!(before >= 3, "{before} segments");
    RaftLogStorage::<Types<Journal>>::purge(&mut log, id(1, 38)).await.unwrap();
    save_vote(&mut log, 2).await;
    eventually("the removal", async || (segments(dir.path()).len() == 1).then_some(())).await;
    drop(log);
    let mut log = DiskLog::open(dir.path(), ID).unwrap();
    let state = RaftLogStorage::<Types<Journal>>::get_log_state(&mut log).await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(1, 38)), Some(id(1, 39))));
    let one = RaftLogReader::<Types<Journal>>::limited_get_log_entries(&mut log, 39, 40).await.unwrap();
    assert_eq!(one.len(), 1);
}

#[tokio::test]
async fn a_damaged_snapshot_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let file = SnapshotFile::new(dir.path());
    let meta = SnapshotMeta { last_log_id: Some(id(1, 7)), last_membership: Membership::default() };
    let header = Header { meta, clock: Tick(5) };
    let state = Journal { lines: vec!["a".to_owned()], times: vec![Tick(5)] };
    let image = snapshot::encode(&header, &state).unwrap();
    file.keep(&image).unwrap();
    let store: Arc<dyn SnapshotStore> = Arc::new(file.clone());
    let open = async || Machine::<Journal>::open(Arc::clone(&store), mpsc::channel(1).0, Default::default()).await;
    let restored = open().await.unwrap();
    assert_eq!(restored.current().read().unwrap().state, state);
    for at in 0..image.len() {
        let mut damaged = image.to_vec();
        damaged[at] ^= 0x10;
        file.keep(&damaged).unwrap();
        assert!(matches!(open().await, Err(RaftStorageError::Corrupt { .. })), "byte {at}");
        file.keep(&image[..at]).unwrap();
        assert!(matches!(open().await, Err(RaftStorageError::Corrupt { .. })), "cut at {at}");
    }
    fs::remove_file(dir.path().join("snapshot")).unwrap();
    assert_eq!(open().await.unwrap().current().read().unwrap().state, Journal::default());
}

#[tokio::test]
async fn a_node_on_disk_restarts_with_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let start = async |log: DiskLog| {
        let parts = RaftParts::<Journal, _> {
            metrics: Default::default(),
            id: node(1),
            settings: RaftSettings { snapshot_entries: 10, kept_entries: 2, ..RaftSettings::default() },
            log,
            snapshots: Arc::new(SnapshotFile::new(dir.path())),
            mesh: Arc::new(ChannelMesh { local: node(1), cables: Arc::default() }),
            clock: Arc::new(SystemClock),
            listener: mpsc::channel(1024).0,
        };
        Node::start(parts).await.unwrap()
    };
    let alone = start(DiskLog::create(dir.path(), ID).unwrap()).await;
    alone.initialize(BTreeSet::from([node(1)])).await.unwrap();
    for n in 0..35 {
        eventually("a commit", async || alone.propose(vec![n.to_string()]).await.ok()).await;
    }
    let before = lines(&alone);
    alone.shutdown().await;
    drop(alone);
    let log = eventually("the lock", async || DiskLog::open(dir.path(), ID).ok()).await;
    let restarted = start(log).await;
    assert_eq!(lines(&restarted), before);
    restarted.shutdown().await;
}
