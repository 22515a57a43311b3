//! Raft, for whatever state it is given: the log, the votes, the group of lock managers.
//!
//! An adapter around openraft. [`RaftNode`] is what the node holds: it proposes commands, confirms
//! reads, changes the membership and answers other lock managers. Knows no lock, no member and no
//! transport: commands come from `machine`, bytes travel over [`Mesh`].
//!
//! ```text
//! propose -> Proposer -> openraft -> DiskLog           (propose.rs, log.rs)
//!                            |-----> Peer -> Mesh      (network.rs)       Mesh -> Inbound -> openraft
//!                            '-----> Machine -> Applied -> the node       (apply.rs)
//! ```

mod apply;
mod disk;
mod inbound;
mod log;
mod members;
#[cfg(test)]
pub(crate) mod memory;
mod network;
mod propose;
mod read;
mod recover;
mod snapshot;
mod state;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod types;

use std::{
    fmt::{self, Debug},
    marker::PhantomData,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use openraft::{Config, Raft, SnapshotPolicy, StepDownPolicy, storage::RaftLogStorage};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::{
    apply::Applied,
    log::{DiskLog, existing_log_id},
    members::{MembershipError, TransferError},
    propose::{MAX_BATCH_BYTES, MAX_BATCH_COMMANDS, MAX_QUEUED_PROPOSALS, ProposeError},
    read::{ReadError, ReadPolicy},
    recover::{Extent, Remains},
    snapshot::{SnapshotFile, SnapshotStore},
    status::{Changing, Follower, RaftRole, RaftStatus},
    storage::RaftStorageError,
    types::{Batch, Replicated, Types},
};
use crate::{
    clock::Clock,
    ids::NodeId,
    net::Mesh,
    raft::{
        apply::{Current, Machine},
        inbound::Inbound,
        network::{ENVELOPE_BYTES, Elections, Peers},
        propose::{Proposals, Proposer, quorum_lost},
        read::{Confirmed, Rounds, confirm},
    },
    telemetry::RaftMetrics,
    time::millis,
};

/// How long sending and installing a snapshot may take.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(120);
/// Entries in one request, whatever their size.
const MAX_APPEND_ENTRIES: u64 = 512;
/// How openraft waits before it asks again a peer that could not be reached.
const BACKOFF: &str = "20ms 40ms 80ms ...200ms";

/// What decides how Raft behaves on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RaftSettings {
    /// The shortest time without a leader after which a follower asks for votes.
    pub election_min: Duration,
    /// The longest one, and how long an acknowledgement by a quorum counts.
    pub election_max: Duration,
    /// How often a leader tells that it is there.
    pub heartbeat: Duration,
    /// What reads may rely on. With [`ReadPolicy::Lease`], a lost connection to the leader is no
    /// reason to elect another before its lease is over.
    pub reads: ReadPolicy,
    /// Entries after which a snapshot is built.
    pub snapshot_entries: u64,
    /// Entries kept although a snapshot includes them, for followers that lag a little.
    pub kept_entries: u64,
    /// Most bytes of a request of the mesh's raft protocol.
    pub max_request_bytes: usize,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            heartbeat: Duration::from_millis(75),
            reads: ReadPolicy::Index,
            snapshot_entries: 20_000,
            kept_entries: 2_000,
            max_request_bytes: 1 << 20,
        }
    }
}

impl RaftSettings {
    fn config(&self) -> Result<Config, RaftStartError> {
        let config = Config {
            cluster_name: "syncmesh".to_owned(),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            heartbeat_interval: millis(self.heartbeat),
            install_snapshot_timeout: millis(SNAPSHOT_DEADLINE),
            max_payload_entries: MAX_APPEND_ENTRIES,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            replication_lag_threshold: self.snapshot_entries.saturating_add(self.kept_entries),
            max_in_snapshot_log_to_keep: self.kept_entries,
            purge_batch_size: 256.min(self.kept_entries.max(1)),
            removed_leader_step_down: StepDownPolicy::After(millis(self.election_min)),
            enable_pre_vote: Some(true),
            // Followers write an entry while the leader does, not after it.
            broadcast_submitted_on_append: Some(true),
            // A leader that crashed may lack entries that a quorum of the others has acknowledged.
            // Were it to lead on in the same term, it would write others under the same log ids.
            enable_leader_restore: Some(false),
            backoff: BACKOFF.to_owned(),
            ..Config::default()
        };
        config.validate().map_err(|error| RaftStartError::Settings(error.to_string()))
    }
}

/// What a [`RaftNode`] is made of.
#[derive(Debug)]
pub struct RaftParts<S: Replicated, L> {
    /// This node.
    pub id: NodeId,
    /// How it behaves.
    pub settings: RaftSettings,
    /// Its log and votes.
    pub log: L,
    /// Its snapshot.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// The way to the others.
    pub mesh: Arc<dyn Mesh>,
    /// What is counted.
    pub metrics: RaftMetrics,
    /// Stamps proposals with its wall clock.
    pub clock: Arc<dyn Clock>,
    /// Is told what was applied, just after the proposer got its answer. Applying waits for room in
    /// it, so its reader must never await a proposal.
    pub listener: mpsc::Sender<Applied<S::Effect>>,
}

/// Why Raft did not start.
#[derive(Debug, thiserror::Error)]
pub enum RaftStartError {
    /// The log or the snapshot cannot be used.
    #[error(transparent)]
    Storage(#[from] RaftStorageError),
    /// The settings contradict each other.
    #[error("the Raft settings do not fit together: {0}")]
    Settings(String),
    /// The log and the snapshot do not make a state together.
    #[error("the replicated state could not be restored: {0}")]
    Restore(String),
}

/// The state cannot be read: Raft has stopped on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this lock manager is stopping")]
pub struct Stopped;

struct Inner<S: Replicated> {
    id: NodeId,
    settings: RaftSettings,
    inbound: Arc<Inbound<S>>,
    current: Arc<RwLock<Current<S>>>,
    applied: watch::Receiver<u64>,
    proposals: Proposals<S>,
    rounds: mpsc::Sender<oneshot::Sender<Confirmed>>,
    status: watch::Receiver<RaftStatus>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Cancelled when a task has ended without which nothing is proposed or read.
    lost: CancellationToken,
    stopped: AtomicBool,
}

/// A lock manager's part in Raft. Cheap to clone; runs until [`RaftNode::shutdown`].
pub struct RaftNode<S: Replicated> {
    inner: Arc<Inner<S>>,
}

impl<S: Replicated> Clone for RaftNode<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<S: Replicated> Debug for RaftNode<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftNode").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl<S: Replicated> RaftNode<S> {
    /// Restores the state from snapshot and log, tells the listener [`Applied::Reset`], and takes
    /// part from then on.
    pub async fn start<L>(parts: RaftParts<S, L>) -> Result<Self, RaftStartError>
    where
        L: RaftLogStorage<Types<S>>,
    {
        let settings = parts.settings;
        let config = Arc::new(settings.config()?);
        let metrics = parts.metrics;
        let machine = Machine::open(parts.snapshots, parts.listener.clone(), metrics.clone()).await?;
        let (current, applied, live) = (machine.current(), machine.progress(), machine.live());
        let peers = Peers {
            mesh: parts.mesh,
            max_request_bytes: settings.max_request_bytes,
            patience: settings.election_max,
            elections: Elections::new(metrics.clone()),
            state: PhantomData,
        };
        let raft = Raft::build(parts.id, config, peers, parts.log, machine)
            .await
            .map_err(|error| RaftStartError::Restore(error.to_string()))?;
        #[cfg(test)]
        if crate::mutant::on(crate::mutant::Mutant::TokenCounterRestarts) {
            current.write().unwrap_or_else(PoisonError::into_inner).state.lose_counters();
        }
        live.store(true, Ordering::Release);
        let index = *applied.borrow();
        _ = parts.listener.send(Applied::Reset { index }).await;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (status_sender, status) = watch::channel(RaftStatus::default());
        tasks.spawn(status::follow::<S>(raft.metrics(), status_sender));
        let max_bytes = settings.max_request_bytes.saturating_sub(ENVELOPE_BYTES);
        let silence = settings.election_max.mul_f32(1.5);
        let (proposals, proposer) =
            Proposer::new(raft.clone(), max_bytes, parts.clock, status.clone(), (silence, metrics));
        let lost = CancellationToken::new();
        tasks.spawn(or_lost(proposer.run(stop.clone()), lost.clone().drop_guard()));
        let (rounds, task) = Rounds::new(raft.clone(), settings.election_max);
        tasks.spawn(or_lost(task.run(stop.clone()), lost.clone().drop_guard()));
        tasks.close();
        raft.run();
        let inner = Inner {
            id: parts.id,
            settings,
            inbound: Inbound::new(raft),
            current,
            applied,
            proposals,
            rounds,
            status,
            stop,
            tasks,
            lost,
            stopped: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// How it behaves.
    pub fn settings(&self) -> &RaftSettings {
        &self.inner.settings
    }

    fn raft(&self) -> &Raft<Types<S>, Machine<S>> {
        &self.inner.inbound.raft
    }

    /// Proposes commands, which are applied together and in this order, and returns their answers
    /// once they are committed and applied here.
    pub async fn propose(&self, commands: Vec<S::Command>) -> Result<Vec<S::Answer>, ProposeError> {
        self.inner.proposals.propose(commands).await
    }

    /// Waits until the local state includes everything that was acknowledged anywhere before this
    /// call. The lease is relied upon only where [`RaftSettings::reads`] allows it.
    pub async fn read_barrier(&self, policy: ReadPolicy) -> Result<(), ReadError> {
        let index = match policy.min(self.inner.settings.reads) {
            ReadPolicy::Index => self.round().await?,
            ReadPolicy::Lease => {
                confirm(self.raft(), openraft::ReadPolicy::LeaseRead, self.inner.settings.election_max).await?
            }
        };
        let mut applied = self.inner.applied.clone();
        let caught_up = applied.wait_for(|applied| *applied >= index);
        tokio::select! {
            biased;
            seen = timeout(SNAPSHOT_DEADLINE, caught_up) => match seen {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(ReadError::Stopped),
                Err(_) => Err(ReadError::NoQuorum),
            },
            () = self.quorum_lost() => Err(ReadError::NoQuorum),
        }
    }

    /// Waits until a quorum has confirmed, in a round that began after this call, that this node
    /// leads.
    pub async fn quorum_round(&self) -> Result<(), ReadError> {
        self.round().await.map(drop)
    }

    async fn round(&self) -> Confirmed {
        let (reply, confirmed) = oneshot::channel();
        self.inner.rounds.send(reply).await.map_err(|_| ReadError::Stopped)?;
        confirmed.await.unwrap_or(Err(ReadError::Stopped))
    }

    async fn quorum_lost(&self) {
        quorum_lost(self.status(), self.inner.settings.election_max.mul_f32(1.5)).await;
    }

    /// Reads the state as this node has it, with the index of the last entry in it. Linearizable
    /// only after [`RaftNode::read_barrier`]. Applying waits meanwhile: be short.
    pub fn with_state<T>(&self, read: impl FnOnce(&S, u64) -> T) -> Result<T, Stopped> {
        if self.inner.stopped.load(Ordering::Acquire) {
            return Err(Stopped);
        }
        let current = self.inner.current.read().unwrap_or_else(PoisonError::into_inner);
        Ok(read(&current.state, current.index()))
    }

    /// What this node knows of the group, kept current.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.inner.status.clone()
    }

    /// The index of the last applied entry, kept current.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.clone()
    }

    /// Waits until Raft ends by a failure of its storage or a bug, and says why. A node must not go
    /// on without it.
    pub async fn fatal(&self) -> String {
        let (mut status, mut applied) = (self.status(), self.applied());
        let why = tokio::select! {
            biased;
            failed = status.wait_for(|status| status.failed.is_some()) => {
                failed.ok().and_then(|status| status.failed.clone())
            }
            // Openraft does not notice when its state machine panics.
            _ = applied.wait_for(|_| false) => Some("applying an entry failed".to_owned()),
            () = self.inner.lost.cancelled() => Some("proposing or reading failed by a bug".to_owned()),
        };
        if self.inner.stopped.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        why.unwrap_or_else(|| "raft ended without saying why".to_owned())
    }

    /// Answers a request of another lock manager. The mesh vouches for `from`.
    pub async fn handle(&self, from: NodeId, body: Bytes) -> Bytes {
        self.inner.inbound.handle(from, &body).await
    }

    /// Ends Raft on this node. What was acknowledged is on disk; what is under way is answered
    /// [`ProposeError::Unknown`].
    pub async fn shutdown(&self) {
        self.inner.stopped.store(true, Ordering::Release);
        self.inner.stop.cancel();
        _ = self.raft().shutdown().await;
        self.inner.tasks.wait().await;
    }
}

/// A task of which the end is told, also that by a panic.
async fn or_lost<T>(task: impl Future<Output = T>, _lost: DropGuard) -> T {
    task.await
}
