//! The real node in simulation: everything of it but its sockets, files and threads.
//!
//! Each machine keeps what a disk keeps: the record of its cluster, Raft's log and votes and, where it keeps
//! queues, their journals. A crash drops what was not synced of each of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::mpsc;

use super::{
    disks::Disks,
    door::{Api, Farewell, Service},
    world::{Boot, Seat, Site},
};
use crate::{
    clock::Clock,
    ids::{ClusterId, Incarnation, JournalId, NodeId, Role},
    machine::{
        control::ControlState,
        membership::{CacheTerms, ClusterRecord},
        placement::Partitions,
        slots::SlotTable,
    },
    mutant::{self, Mutant},
    node::{
        Node,
        caches::{CacheParts, Protocol, WritePolicy},
        control::{ControlSettings, Search},
        leader::LeaderSettings,
        queues::keeper::StoreSource,
        records::ClusterStore,
        running::{Parts, QueueParts, RaftPart},
    },
    raft::{
        RaftNode, RaftParts, RaftSettings, ReadPolicy,
        memory::{MemoryDisk, Votes},
    },
    store::{
        JournalStore,
        memory::{MemoryDisk as JournalDisk, MemoryStore},
    },
    telemetry::Metrics,
};

/// How long a sync of a simulated disk takes.
const SYNC: Duration = Duration::from_millis(2);
/// Entries that may wait for who follows the log.
const APPLIED: usize = 4_096;
/// The dead lose their vote, and their copies of queues, while others are still being killed.
const MEMBER_DEAD: Duration = Duration::from_secs(3);
/// How long a node that is asked to end may take to hand its duties over.
const GRACE: Duration = Duration::from_secs(3);
/// Snapshots and purges happen often, so that they meet faults.
const SNAPSHOT_ENTRIES: u64 = 200;

/// What the nodes of a cluster are to be.
#[derive(Clone, Copy, Debug)]
pub struct ClusterPlan {
    /// The first so many machines found the cluster, and are its lock managers.
    pub founders: usize,
    /// Whether those who come later are lock managers, too.
    pub latecomers: Latecomers,
    /// Whether all of them keep queues, and how.
    pub queues: Option<QueuePlan>,
    /// Whether all of them are cache nodes, and how.
    pub caches: Option<CachePlan>,
}

/// What machines are that come later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Latecomers {
    /// As the others.
    LockManagers,
    /// They only keep queues, or lines of the cache.
    Workers,
}

/// How the cache does it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CachePlan {
    /// `CACHE_PROTOCOL`.
    pub protocol: Protocol,
    /// `CACHE_WRITE_POLICY`.
    pub policy: WritePolicy,
    /// `CACHE_CAPACITY`.
    pub capacity: usize,
}

impl CachePlan {
    /// With more room than a run has keys.
    pub const fn of(protocol: Protocol, policy: WritePolicy) -> Self {
        Self { protocol, policy, capacity: 64 }
    }
}

impl Default for CachePlan {
    fn default() -> Self {
        Self::of(Protocol::Mesi, WritePolicy::Back)
    }
}

/// How queues are kept.
#[derive(Clone, Copy, Debug)]
pub struct QueuePlan {
    /// How many partitions there are.
    pub partitions: u32,
    /// `QUEUE_REPLICAS`.
    pub replicas: usize,
    /// Records that a primary keeps for those who lag; who lacks more is sent the state.
    pub keep_records: usize,
}

impl ClusterPlan {
    fn roles(&self, index: usize) -> BTreeSet<Role> {
        let manages = index < self.founders || self.latecomers == Latecomers::LockManagers;
        let roles = [
            (Role::LockManager, manages),
            (Role::QueueNode, self.queues.is_some()),
            (Role::CacheNode, self.caches.is_some()),
        ];
        roles.into_iter().filter(|(_, has)| *has).map(|(role, _)| role).collect()
    }

    fn cache_parts(&self) -> CacheParts {
        match self.caches {
            Some(CachePlan { protocol, policy, capacity }) => {
                CacheParts { role: true, capacity, protocol, policy, ..CacheParts::none() }
            }
            None => CacheParts::none(),
        }
    }

    fn queue_parts(&self, disk: &Disk) -> QueueParts {
        let Some(plan) = self.queues else { return QueueParts::of(None) };
        let journal = Arc::clone(&disk.journal);
        let source = StoreSource::new(move |_| {
            let store: Arc<dyn JournalStore> = Arc::new(MemoryStore::open(&journal));
            async move { Ok(store) }
        });
        let mut parts = QueueParts::of(Some(source));
        parts.tuning.replication.keep_records = plan.keep_records;
        parts
    }
}

/// What survives a machine's processes.
#[derive(Clone, Debug)]
struct Disk {
    raft: MemoryDisk,
    journal: Arc<JournalDisk>,
    record: Arc<Mutex<Kept>>,
}

/// Where the cluster is remembered.
#[derive(Debug, Default)]
struct Kept {
    record: Option<ClusterRecord>,
    has_left: bool,
}

impl Disk {
    fn new(journal: JournalId) -> Self {
        Self { raft: MemoryDisk::new(SYNC), journal: JournalDisk::new(journal, SYNC), record: Arc::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClusterStore for Disk {
    fn save(&self, record: ClusterRecord) -> BoxFuture<'static, io::Result<()>> {
        let disk = self.clone();
        async move {
            tokio::time::sleep(SYNC).await;
            disk.kept().record = Some(record);
            Ok(())
        }
        .boxed()
    }

    fn retire(&self) -> BoxFuture<'static, io::Result<()>> {
        let disk = self.clone();
        async move {
            tokio::time::sleep(SYNC).await;
            *disk.kept() = Kept { record: None, has_left: true };
            Ok(())
        }
        .boxed()
    }
}

/// The disks of all machines.
#[derive(Debug)]
struct Shelf {
    keeps_queues: bool,
    disks: Mutex<BTreeMap<(usize, u64), Disk>>,
}

impl Shelf {
    fn disk(&self, index: usize, disk: u64) -> Disk {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        // An emptied journal takes the next number.
        let journal = JournalId(((index as u128 + 1) << 96) | (u128::from(disk) << 64));
        disks.entry((index, disk)).or_insert_with(|| Disk::new(journal)).clone()
    }
}

impl Disks for Shelf {
    fn journal(&self, index: usize, disk: u64) -> Option<Arc<JournalDisk>> {
        self.keeps_queues.then(|| self.disk(index, disk).journal)
    }

    fn has_left(&self, index: usize, disk: u64) -> bool {
        self.disk(index, disk).kept().has_left
    }
}

/// A service of a node, as its clients reach it.
pub trait Serves: Service {
    /// Has the node do what is asked.
    fn perform(node: &Node, ask: Self::Ask, key: Option<String>) -> BoxFuture<'static, Self::Answer>;
}

struct SimNode(Node);

impl<S: Serves> Api<S> for SimNode {
    fn perform(&self, ask: S::Ask, key: Option<String>) -> BoxFuture<'_, S::Answer> {
        S::perform(&self.0, ask, key)
    }

    fn leads(&self) -> bool {
        self.0.leads()
    }

    fn led_term(&self) -> Option<u64> {
        self.0.led_term()
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.0.voters()
    }

    fn placement(&self) -> Partitions {
        self.0.placement()
    }

    fn slots(&self) -> SlotTable {
        self.0.slots()
    }

    fn retire(&self, farewell: Farewell) -> BoxFuture<'_, ()> {
        async move {
            if farewell == Farewell::ForGood {
                self.0.leave(self.0.id(), 0, None, None).await.expect("it asks itself");
            }
            // What could not be handed over in time, the others notice by silence.
            let _ = self.0.stop(GRACE).await;
        }
        .boxed()
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        async {
            tokio::select! {
                error = self.0.ended() => format!("{error:?}"),
                // A real node goes on with its other partitions; here it is a finding.
                reason = self.0.gave_up() => reason,
            }
        }
        .boxed()
    }
}

/// A fresh cluster of real nodes, the first of which founds it.
pub fn cluster<S: Serves>(plan: ClusterPlan) -> Site<S> {
    let shelf = Arc::new(Shelf { keeps_queues: plan.queues.is_some(), disks: Mutex::default() });
    let disks = Arc::clone(&shelf);
    let boot: Boot<S> = Arc::new(move |seat: Seat| {
        let disk = shelf.disk(seat.index, seat.disk);
        async move { Arc::new(SimNode(start(seat, disk, plan).await)) as Arc<dyn Api<S>> }.boxed()
    });
    Site { boot, disks }
}

async fn start(seat: Seat, disk: Disk, plan: ClusterPlan) -> Node {
    let raft_disk = disk.raft.clone();
    if seat.restarts > 0 {
        if mutant::on(Mutant::VotesForgottenOnRestart) {
            raft_disk.set_votes(Votes::Forgotten);
        }
        raft_disk.crash();
        disk.journal.crash();
    }
    let clock: Arc<dyn Clock> = seat.clock.clone();
    let (roles, queues) = (plan.roles(seat.index), plan.queue_parts(&disk));
    let raft = if roles.contains(&Role::LockManager) { Some(start_raft(&seat, &raft_disk).await) } else { None };
    let record = disk.kept().record.clone();
    Node::of(Parts {
        control: ControlSettings {
            incarnation: Incarnation(seat.restarts + 1),
            cluster_name: "simulated".into(),
            cache_protocol: "MESI".into(),
            cache: CacheTerms::default(),
            queue_partitions: plan.queues.map_or(64, |queues| queues.partitions),
            roles,
            expect: (seat.index == 0).then_some(plan.founders),
            announce: Vec::new(),
            heartbeat: Duration::from_millis(400),
            search: Search::Nowhere,
            journal: tokio::sync::watch::channel(None).1,
        },
        leader: LeaderSettings {
            failure_timeout: Duration::from_secs(2),
            member_dead_timeout: MEMBER_DEAD,
            member_forget_timeout: Duration::from_secs(86_400),
            queue_replicas: plan.queues.map_or(2, |queues| queues.replicas),
        },
        reads: ReadPolicy::Index,
        lock_delay_ms: 0,
        mesh: seat.mesh,
        mesh_events: seat.events,
        net: None,
        clock,
        raft,
        queues,
        caches: plan.cache_parts(),
        records: Arc::new(disk),
        record,
        fresh_id: ClusterId(StdRng::seed_from_u64(seat.seed).random()),
        metrics: Metrics::new(),
        data_dir: None,
        held: None,
    })
}

async fn start_raft(seat: &Seat, disk: &MemoryDisk) -> RaftPart {
    let (listener, applied) = mpsc::channel(APPLIED);
    let log = disk.log();
    let parts = RaftParts {
        metrics: Default::default(),
        id: seat.node,
        settings: RaftSettings {
            snapshot_entries: SNAPSHOT_ENTRIES,
            kept_entries: SNAPSHOT_ENTRIES / 10,
            ..RaftSettings::default()
        },
        snapshots: Arc::new(log.clone()),
        log,
        mesh: Arc::clone(&seat.mesh),
        clock: seat.clock.clone(),
        listener,
    };
    let raft = RaftNode::<ControlState>::start(parts).await.expect("a memory disk is never damaged");
    RaftPart { raft, applied }
}

/// `SIM_LOG=filter` shows the logs of all nodes, as RUST_LOG does for one.
pub fn show_logs() {
    if let Ok(filter) = std::env::var("SIM_LOG") {
        // The first simulation of a process sets them up for all.
        let _ = crate::telemetry::init_logs(crate::config::LogFormat::Text, &filter);
    }
}
