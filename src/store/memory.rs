//! The journal in memory, for simulations: a disk that outlives the node that writes it, syncs in a time of its own
//! (on a paused clock too), loses what was not synced when the node crashes, and can be away or lose its tail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::watch, time::sleep};

use crate::{
    ids::{JournalId, PartitionId},
    machine::replication::{Position, Record},
    store::{
        JournalError, JournalHealth, JournalInfo, JournalStore, Opened, State, Trust,
        entry::Entry,
        health::{Board, Health},
        pending::Keep,
        replay::Replay,
        slots::Slots,
        writer::{Backend, Fault, Start, start},
    },
};

/// What is on the disk of one node.
#[derive(Debug)]
pub(crate) struct MemoryDisk {
    inner: Mutex<Disk>,
    /// Told of what happens to the disk beside what is written.
    disturbed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Disk {
    id: JournalId,
    partitions: BTreeMap<PartitionId, Kept>,
    /// Why it cannot be written.
    away: Option<String>,
    sync_for: Duration,
    /// Counts the nodes that wrote it: what another one had under way does not get there.
    run: u64,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    checkpoint: Option<(Position, Bytes)>,
    records: Vec<Record>,
    /// How far it had got.
    mark: Position,
    /// Something that was synced is gone, and its writer has to notice.
    lost: bool,
}

impl Kept {
    fn base(&self) -> Position {
        self.checkpoint.as_ref().map(|(at, _)| *at).unwrap_or_default()
    }

    fn last(&self) -> Position {
        self.records.last().map_or(self.base(), |record| record.position)
    }
}

impl MemoryDisk {
    /// An empty disk, which takes so long for each sync.
    pub(crate) fn new(id: JournalId, sync_for: Duration) -> Arc<Self> {
        let inner = Disk { id, partitions: BTreeMap::new(), away: None, sync_for, run: 0 };
        Arc::new(Self { inner: Mutex::new(inner), disturbed: watch::Sender::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disturb(&self, change: impl FnOnce(&mut Disk)) {
        change(&mut self.lock());
        self.disturbed.send_modify(|count| *count += 1);
    }

    /// The node that writes it ends here: what it has not synced is lost.
    pub(crate) fn crash(&self) {
        self.disturb(|disk| disk.run += 1);
    }

    /// It cannot be written for this reason; `None`: it can again.
    pub(crate) fn set_away(&self, why: Option<&str>) {
        self.disturb(|disk| disk.away = why.map(str::to_owned));
    }

    /// How long a sync takes from now on.
    pub(crate) fn set_sync_for(&self, sync_for: Duration) {
        self.disturb(|disk| disk.sync_for = sync_for);
    }

    /// The last records of a partition are gone, though they were synced: as many as these, at most all after its
    /// checkpoint.
    pub(crate) fn lose_tail(&self, partition: PartitionId, count: usize) {
        self.disturb(|disk| {
            if let Some(kept) = disk.partitions.get_mut(&partition) {
                let left = kept.records.len().saturating_sub(count);
                kept.lost |= left < kept.records.len();
                kept.records.truncate(left);
            }
        });
    }

    /// As [`Self::lose_tail`], of every partition on it.
    pub(crate) fn lose_tails(&self, count: usize) {
        let partitions: Vec<PartitionId> = self.lock().partitions.keys().copied().collect();
        partitions.into_iter().for_each(|partition| self.lose_tail(partition, count));
    }

    /// Whether there is anything to lose.
    pub(crate) fn has_records(&self) -> bool {
        self.lock().partitions.values().any(|kept| !kept.records.is_empty())
    }

    /// Whether it cannot be written.
    pub(crate) fn is_away(&self) -> bool {
        self.lock().away.is_some()
    }

    /// Names what is on it.
    pub(crate) fn id(&self) -> JournalId {
        self.lock().id
    }

    /// Whether everything that was synced is there.
    pub(crate) fn is_intact(&self) -> bool {
        self.lock().partitions.values().all(|kept| !kept.lost && kept.last() >= kept.mark)
    }

    /// Everything is gone; a node that starts on it finds a new, empty journal. Only while no node runs on it.
    pub(crate) fn wipe(&self, id: JournalId) {
        self.disturb(|disk| {
            disk.id = id;
            disk.partitions.clear();
        });
    }
}

/// The journals of a node, on a [`MemoryDisk`].
#[derive(Debug)]
pub(crate) struct MemoryStore {
    disk: Arc<MemoryDisk>,
    run: u64,
    id: JournalId,
    board: Arc<Board>,
    slots: Slots,
}

impl MemoryStore {
    /// A node starts on this disk. One that did before has crashed.
    pub(crate) fn open(disk: &Arc<MemoryDisk>) -> Self {
        disk.crash();
        let (run, id) = {
            let inner = disk.lock();
            (inner.run, inner.id)
        };
        Self { disk: Arc::clone(disk), run, id, board: Board::new(), slots: Slots::default() }
    }
}

impl JournalStore for MemoryStore {
    fn id(&self) -> JournalId {
        self.id
    }

    fn info(&self) -> JournalInfo {
        let detail = "a simulated disk".to_owned();
        JournalInfo { kind: "memory".to_owned(), durable: true, detail, shared_fate: None }
    }

    fn health(&self) -> watch::Receiver<JournalHealth> {
        self.board.worst()
    }

    fn partitions(&self) -> BoxFuture<'_, Result<Vec<PartitionId>, JournalError>> {
        let partitions = self.disk.lock().partitions.keys().copied().collect();
        std::future::ready(Ok(partitions)).boxed()
    }

    fn open(&self, partition: PartitionId) -> BoxFuture<'_, Result<Opened, JournalError>> {
        async move {
            let slot = self.slots.take(partition).await?;
            let (kept, trust) = {
                let mut disk = self.disk.lock();
                let kept = disk.partitions.entry(partition).or_default();
                kept.lost = false;
                let missing = kept.last() < kept.mark;
                let trust = if missing { Trust::Shortened("its tail was lost".to_owned()) } else { Trust::Verified };
                (kept.clone(), trust)
            };
            let backend = MemoryLog {
                partition,
                run: self.run,
                disturbed: self.disk.disturbed.subscribe(),
                disk: Arc::clone(&self.disk),
            };
            let health = Health::new(Arc::clone(&self.board), partition);
            let beginning = Start { partition, backend, health, slot, marks: None, opened: 0 };
            let journal = start(beginning, kept.base(), &kept.records);
            Ok(Opened { journal, checkpoint: kept.checkpoint, records: kept.records, trust })
        }
        .boxed()
    }

    fn remove(&self, partition: PartitionId) -> BoxFuture<'_, Result<(), JournalError>> {
        async move {
            let _slot = self.slots.take(partition).await?;
            self.disk.lock().partitions.remove(&partition);
            Ok(())
        }
        .boxed()
    }
}

#[derive(Debug)]
struct MemoryLog {
    disk: Arc<MemoryDisk>,
    partition: PartitionId,
    run: u64,
    disturbed: watch::Receiver<u64>,
}

/// Waits as long as a sync takes, then looks whether the disk can be written, by this node.
async fn sync(disk: &MemoryDisk, run: u64) -> Result<MutexGuard<'_, Disk>, Fault> {
    let sync_for = disk.lock().sync_for;
    sleep(sync_for).await;
    let inner = disk.lock();
    match &inner.away {
        _ if inner.run != run => Err(Fault::Final(JournalError::Closed)),
        Some(why) => Err(Fault::Away(why.clone())),
        None => Ok(inner),
    }
}

impl MemoryLog {
    async fn change(&mut self, mends: Keep, change: impl FnOnce(&mut Kept) + Send) -> Result<(), Fault> {
        let mut disk = sync(&self.disk, self.run).await?;
        let kept = disk.partitions.entry(self.partition).or_default();
        if kept.lost && mends == Keep::Later {
            return Err(Fault::Shortened("its tail was lost".to_owned()));
        }
        kept.lost = false;
        change(kept);
        kept.mark = kept.last();
        Ok(())
    }
}

impl Backend for MemoryLog {
    type Prepared = (Position, Bytes);

    async fn write(&mut self, entries: &[Entry]) -> Result<(), Fault> {
        self.change(Keep::Later, |kept| {
            let mut replay = Replay::new(kept.base());
            let before = Entry::Records(std::mem::take(&mut kept.records));
            for entry in std::iter::once(before).chain(entries.iter().cloned()) {
                replay.take(entry).expect("the writer checks what follows what");
            }
            kept.records = replay.end().expect("nothing that a checkpoint covers is cut");
        })
        .await
    }

    fn prepare(&mut self, at: Position, state: State) -> BoxFuture<'static, Result<Self::Prepared, Fault>> {
        let (disk, run) = (Arc::clone(&self.disk), self.run);
        async move {
            let whole: Vec<Bytes> = state.chunks(usize::MAX).collect();
            sync(&disk, run).await.map(|_| (at, whole.concat().into()))
        }
        .boxed()
    }

    async fn install(&mut self, prepared: &Self::Prepared, keep: Keep) -> Result<(), Fault> {
        let (at, state) = prepared.clone();
        self.change(keep, |kept| {
            kept.records.retain(|record| keep == Keep::Later && record.position.seq > at.seq);
            kept.checkpoint = Some((at, state));
        })
        .await
    }

    async fn disturbed(&mut self) {
        if self.disturbed.changed().await.is_err() {
            std::future::pending().await
        }
    }

    async fn verify(&mut self) -> Result<(), Fault> {
        let disk = self.disk.lock();
        match &disk.away {
            _ if disk.run != self.run => Err(Fault::Final(JournalError::Closed)),
            Some(why) => Err(Fault::Away(why.clone())),
            None if disk.partitions.get(&self.partition).is_none_or(|kept| kept.lost) => {
                Err(Fault::Shortened("its tail was lost".to_owned()))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::{self, PARTITION, Site, holds, position, records, state};

    #[derive(Debug)]
    struct InMemory(Arc<MemoryDisk>);

    impl InMemory {
        fn new() -> Self {
            Self(MemoryDisk::new(JournalId(7), Duration::from_millis(1)))
        }
    }

    impl Site for InMemory {
        async fn store(&self) -> Box<dyn JournalStore> {
            Box::new(MemoryStore::open(&self.0))
        }
    }

    suite::behaves!(Some(InMemory::new()), start_paused = true);

    #[tokio::test(start_paused = true)]
    async fn a_crash_loses_what_was_not_synced_and_nothing_else() {
        let site = InMemory::new();
        let mut opened = site.store().await.open(PARTITION).await.unwrap();
        opened.journal.append(records(1, 1..=3)).await.unwrap();
        site.0.set_sync_for(Duration::from_secs(1));
        let unsynced = opened.journal.append(records(1, 4..=5));
        sleep(Duration::from_millis(500)).await;
        site.0.crash();
        assert_eq!(unsynced.await, Err(JournalError::Closed));
        let opened = site.store().await.open(PARTITION).await.unwrap();
        assert_eq!((opened.records, opened.trust), (records(1, 1..=3), Trust::Verified));
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_away_nothing_completes_and_then_everything_does() {
        let site = InMemory::new();
        let store = site.store().await;
        let mut opened = store.open(PARTITION).await.unwrap();
        let (mut own, mut all) = (opened.journal.health(), store.health());
        site.0.set_away(Some("full"));
        let mut append = opened.journal.append(records(1, 1..=3));
        let away = JournalHealth::Away("full".to_owned());
        own.wait_for(|health| *health == away).await.unwrap();
        all.wait_for(|health| *health == away).await.unwrap();
        assert!(futures::poll!(&mut append).is_pending());
        site.0.set_away(None);
        append.await.unwrap();
        assert_eq!((&*own.borrow(), &*all.borrow()), (&JournalHealth::Well, &JournalHealth::Well));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_tail_is_noticed_at_once_and_mended_by_a_rebuild_only() {
        let site = InMemory::new();
        let store = site.store().await;
        let mut opened = store.open(PARTITION).await.unwrap();
        opened.journal.append(records(1, 1..=9)).await.unwrap();
        site.0.lose_tail(PARTITION, 2);
        let mut health = opened.journal.health();
        health.wait_for(|health| matches!(health, JournalHealth::Shortened(_))).await.unwrap();
        let mut append = opened.journal.append(records(1, 10..=10));
        sleep(Duration::from_secs(9)).await;
        assert!(futures::poll!(&mut append).is_pending());
        opened.journal.rebuild(position(1, 4), state("4").into(), records(1, 5..=10)).await.unwrap();
        append.await.unwrap();
        assert_eq!(*health.borrow(), JournalHealth::Well);
        drop(opened);
        holds(&*store, Some((position(1, 4), state("4"))), records(1, 5..=10)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_tail_that_was_lost_meanwhile_shows_when_it_is_opened() {
        let site = InMemory::new();
        let mut opened = site.store().await.open(PARTITION).await.unwrap();
        opened.journal.append(records(1, 1..=9)).await.unwrap();
        drop(opened);
        site.0.lose_tail(PARTITION, 2);
        let opened = site.store().await.open(PARTITION).await.unwrap();
        assert_eq!(opened.records, records(1, 1..=7));
        assert!(matches!(opened.trust, Trust::Shortened(_)));
        site.0.wipe(JournalId(8));
        let store = site.store().await;
        assert_eq!((store.id(), store.partitions().await), (JournalId(8), Ok(vec![])));
    }
}
