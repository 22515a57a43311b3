use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::PathBuf,
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::machine::replication::Record;
use crate::store::{
    JournalHealth, Trust,
    suite::{self, PARTITION, Site, holds, position, records, state},
};

struct OnDisk(TempDir);

impl OnDisk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    async fn file_store(&self) -> FileStore {
        FileStore::open(self.0.path()).await.unwrap()
    }

    /// A file of the partition.
    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("queues/p-0007").join(name)
    }

    /// The names in the partition's folder.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.file(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Site for OnDisk {
    async fn store(&self) -> Box<dyn JournalStore> {
        Box::new(self.file_store().await)
    }
}

suite::behaves!(Some(OnDisk::new()));

/// Appends records one by one, each in a frame of its own.
async fn append_each(store: &FileStore, seqs: std::ops::RangeInclusive<u64>) {
    let mut opened = store.open(PARTITION).await.unwrap();
    for seq in seqs {
        opened.journal.append(records(1, seq..=seq)).await.unwrap();
    }
}

#[tokio::test]
async fn wherever_the_file_ends_what_was_synced_before_is_there() {
    let site = OnDisk::new();
    append_each(&site.file_store().await, 1..=12).await;
    let path = site.file("segment-00000001");
    let whole = fs::read(&path).unwrap();
    let head = crate::store::frame::len(1);
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut kept = 0;
    for end in (head..=written).chain([written + 1, written + 600]) {
        fs::write(&path, &whole[..end]).unwrap();
        let opened = site.file_store().await.open(PARTITION).await.unwrap();
        let count = opened.records.len() as u64;
        assert_eq!(opened.records, records(1, 1..=count), "cut at {end}");
        assert!(count >= kept, "cut at {end}");
        kept = count;
        // What the mark says is missing is not taken for whole.
        assert_eq!(matches!(opened.trust, Trust::Shortened(_)), count < 12, "cut at {end}: {:?}", opened.trust);
    }
    assert_eq!(kept, 12);
    // It is written on where it was cut.
    fs::write(&path, &whole[..written - 1]).unwrap();
    let mut opened = site.file_store().await.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 12..=14)).await.unwrap();
    drop(opened);
    holds(&site.file_store().await, None, records(1, 1..=14)).await;
}

#[tokio::test]
async fn every_flipped_byte_is_noticed_and_named() {
    let site = OnDisk::new();
    let store = site.file_store().await;
    append_each(&store, 1..=6).await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.checkpoint(position(1, 2), state("2").into()).await.unwrap();
    drop((opened, store));
    for name in ["segment-00000001", "checkpoint-00000001"] {
        let path = site.file(name);
        let whole = fs::read(&path).unwrap();
        let written = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let store = site.file_store().await;
        for at in 0..written {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let error = store.open(PARTITION).await.unwrap_err();
            let JournalError::Damaged { partition, detail, .. } = &error else { panic!("byte {at}: {error}") };
            assert_eq!(*partition, PARTITION);
            assert!(detail.contains(path.to_str().unwrap()) && detail.contains("offset"), "byte {at}: {detail}");
        }
        fs::write(&path, &whole).unwrap();
    }
    holds(&site.file_store().await, Some((position(1, 2), state("2"))), records(1, 3..=6)).await;
}

#[tokio::test]
async fn a_missing_file_is_noticed() {
    let site = OnDisk::new();
    let store = site.file_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    let big = |seq| vec![Record { body: vec![seq as u8; 5 << 20].into(), ..records(1, seq..=seq).remove(0) }];
    for seq in 1..=4 {
        opened.journal.append(big(seq)).await.unwrap();
    }
    drop(opened);
    assert_eq!(site.names(), ["segment-00000001", "segment-00000002", "segment-00000003", "segment-00000004"]);
    for missing in 1..=4 {
        let (path, aside) = (site.file(&format!("segment-{missing:08}")), site.file("aside"));
        fs::rename(&path, &aside).unwrap();
        match store.open(PARTITION).await {
            Err(JournalError::Damaged { .. }) if missing < 4 => {}
            // The last one leaves no trace in the files: its mark does.
            Ok(Opened { trust: Trust::Shortened(_), .. }) if missing == 4 => {}
            other => panic!("without segment {missing}: {other:?}"),
        }
        fs::rename(&aside, &path).unwrap();
    }
    let mut opened = store.open(PARTITION).await.unwrap();
    assert_eq!(opened.records, (1..=4).flat_map(big).collect::<Vec<_>>());
    opened.journal.checkpoint(position(1, 3), state("3").into()).await.unwrap();
    drop(opened);
    holds(&store, Some((position(1, 3), state("3"))), big(4)).await;
    assert_eq!(site.names(), ["checkpoint-00000001", "segment-00000004", "segment-00000005"]);
}

#[tokio::test]
async fn a_segment_is_sealed_though_a_crash_came_before_its_reserved_space_was_given_back() {
    let site = OnDisk::new();
    let store = site.file_store().await;
    let big = |seqs: std::ops::RangeInclusive<u64>| {
        let bodies = records(1, seqs).into_iter();
        bodies.map(|record| Record { body: vec![7; 3 << 20].into(), ..record }).collect::<Vec<_>>()
    };
    let mut opened = store.open(PARTITION).await.unwrap();
    for seq in 1..=4 {
        opened.journal.append(big(seq..=seq)).await.unwrap();
    }
    drop(opened);
    let sealed = site.file("segment-00000001");
    let whole = fs::metadata(&sealed).unwrap().len();
    let reserved = OpenOptions::new().write(true).open(&sealed).unwrap();
    reserved.set_len(whole + 4_096).unwrap();
    holds(&store, None, big(1..=4)).await;
    assert_eq!(fs::metadata(&sealed).unwrap().len(), whole, "it is given back now");
    reserved.set_len(whole + 4_096).unwrap();
    reserved.write_at(b"x", whole + 100).unwrap();
    let error = store.open(PARTITION).await.unwrap_err();
    assert!(error.to_string().contains("segment-00000001"), "anything else is damage: {error}");
}

#[tokio::test]
async fn what_a_crash_leaves_between_the_steps_of_a_checkpoint_costs_nothing() {
    let site = OnDisk::new();
    let store = site.file_store().await;
    append_each(&store, 1..=9).await;
    let before = fs::read(site.file("segment-00000001")).unwrap();
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.reset(position(2, 5), state("5")).await.unwrap();
    drop(opened);
    holds(&store, Some((position(2, 5), state("5"))), vec![]).await;
    assert_eq!(site.names(), ["checkpoint-00000001", "segment-00000002"]);
    // An old segment that was not removed, and a state that was not finished.
    fs::write(site.file("segment-00000001"), before).unwrap();
    fs::write(site.file("checkpoint-9.tmp"), "half").unwrap();
    holds(&store, Some((position(2, 5), state("5"))), vec![]).await;
    assert_eq!(site.names(), ["checkpoint-00000001", "segment-00000002"]);
}

#[tokio::test]
async fn ten_thousand_records_with_checkpoints_take_bounded_space() {
    let site = OnDisk::new();
    let store = site.file_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    let body = vec![7; 10_000];
    for round in 0..100 {
        let new = records(1, round * 100 + 1..=round * 100 + 100);
        let new = new.into_iter().map(|record| Record { body: body.clone().into(), ..record }).collect();
        opened.journal.append(new).await.unwrap();
        opened.journal.checkpoint(position(1, round * 100 + 90), state("").into()).await.unwrap();
        // What is replaced is removed beside the writer: a file that has just gone takes nothing.
        let files = site.names();
        let taken: u64 = files.iter().filter_map(|name| site.file(name).metadata().ok()).map(|file| file.len()).sum();
        assert!(taken < 6 << 20, "round {round}: {taken} bytes in {:?}", site.names());
    }
    assert!(opened.journal.size() < 2 << 20, "{}", opened.journal.size());
}

#[tokio::test]
async fn a_journal_without_its_id_is_not_taken_for_a_new_one() {
    let site = OnDisk::new();
    append_each(&site.file_store().await, 1..=2).await;
    let id = site.0.path().join("queues/journal-id");
    let text = fs::read(&id).unwrap();
    fs::remove_file(&id).unwrap();
    let error = FileStore::open(site.0.path()).await.unwrap_err();
    assert!(error.to_string().contains("journal-id is missing"), "{error}");
    fs::write(&id, "12").unwrap();
    assert!(FileStore::open(site.0.path()).await.is_err());
    fs::write(&id, text).unwrap();
    holds(&site.file_store().await, None, records(1, 1..=2)).await;

    fs::remove_dir_all(site.0.path().join("queues/p-0007")).unwrap();
    let opened = site.file_store().await.open(PARTITION).await.unwrap();
    assert!(matches!(opened.trust, Trust::Shortened(_)), "{:?}", opened.trust);
}

#[tokio::test]
async fn a_lost_mark_leaves_it_unproven() {
    let site = OnDisk::new();
    append_each(&site.file_store().await, 1..=2).await;
    fs::remove_file(site.0.path().join("queues/marks")).unwrap();
    let store = site.file_store().await;
    let opened = store.open(PARTITION).await.unwrap();
    assert!(matches!(opened.trust, Trust::Unproven(_)), "{:?}", opened.trust);
    drop(opened);
    append_each(&store, 3..=3).await;
    holds(&store, None, records(1, 1..=3)).await;
}

/// Writes into another file than it should: what a full disk does, without one.
#[tokio::test]
async fn while_the_disk_refuses_appends_wait_and_say_why() {
    let Some(disk) = TinyDisk::mount() else { return };
    let store = FileStore::open(disk.0.path()).await.unwrap();
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=9)).await.unwrap();
    let filler = disk.fill();
    let mut health = store.health();
    let big = vec![Record { body: vec![1; 3 << 20].into(), ..records(1, 10..=10).remove(0) }];
    let mut append = opened.journal.append(big.clone());
    let refused = health.wait_for(|health| *health != JournalHealth::Well).await.unwrap().clone();
    let JournalHealth::Away(why) = refused else { panic!("{refused:?}") };
    assert!(why.contains("No space left on device") && why.contains("free space") && why.contains("p-0007"), "{why}");
    sleep(Duration::from_millis(300)).await;
    assert!(futures::poll!(&mut append).is_pending());
    fs::remove_file(filler).unwrap();
    append.await.unwrap();
    health.wait_for(|health| *health == JournalHealth::Well).await.unwrap();
    drop(opened);
    holds(&store, None, [records(1, 1..=9), big].concat()).await;
}

#[tokio::test]
async fn what_a_full_disk_left_half_written_is_not_taken_for_whole() {
    let Some(disk) = TinyDisk::mount() else { return };
    let store = FileStore::open(disk.0.path()).await.unwrap();
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=9)).await.unwrap();
    disk.fill();
    let mut health = opened.journal.health();
    let append = opened.journal.append(vec![Record { body: vec![1; 3 << 20].into(), ..records(1, 10..=10).remove(0) }]);
    health.wait_for(|health| *health != JournalHealth::Well).await.unwrap();
    drop(opened);
    assert_eq!(append.await, Err(JournalError::Closed));
    holds(&store, None, records(1, 1..=9)).await;
}

/// A file system of its own of 6 MiB. Needs root.
struct TinyDisk(TempDir);

impl TinyDisk {
    fn mount() -> Option<Self> {
        let disk = Self(TempDir::new().unwrap());
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs"])
            .arg(disk.0.path())
            .output();
        let reason = match mount {
            Ok(output) if output.status.success() => return Some(disk),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        suite::skipped(&format!("needs to mount a tmpfs: {reason}"));
        None
    }

    /// Leaves 1 MiB free, and tells what to remove to make room.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filler");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
        let mut at = 0;
        while file.write_all_at(&[0; 4096], at).is_ok() {
            at += 4096;
        }
        file.set_len(at - (1 << 20)).unwrap();
        path
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let site = OnDisk::new();
    fs::write(site.0.path().join("queues"), "a file").unwrap();
    let error = FileStore::open(site.0.path()).await.unwrap_err().to_string();
    assert!(error.contains("queues"), "{error}");
    fs::remove_file(site.0.path().join("queues")).unwrap();
    append_each(&site.file_store().await, 1..=1).await;
    assert_eq!(fs::metadata(site.file("segment-00000001")).unwrap().permissions(), Permissions::from_mode(0o100_600));
    fs::remove_file(site.file("segment-00000001")).unwrap();
    fs::create_dir(site.file("segment-00000001")).unwrap();
    let error = site.file_store().await.open(PARTITION).await.unwrap_err();
    assert!(matches!(error, JournalError::Disk { .. }), "{error}");
}
