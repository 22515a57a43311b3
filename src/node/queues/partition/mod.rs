//! One partition that this node keeps: the task that owns its replica, its queues, its journal, and those who wait.
//!
//! ```text
//!  asks ──► admission ──► batches ──► Replication::step ─┬─► journal ──► Journalled ──┐
//!             │              ▲                           ├─► peers ────► Reply ───────┤
//!             ▼              │                           └─► Commit ──► Queues::apply ◄┘
//!          waiting ──────────┘ (there is something to lease)                │
//!             ▲                                                             ▼
//!             └──────────── Ready ◄──────────────── effects, and the answers to those who asked
//! ```
//!
//! Started and ended by the [keeper](super::keeper). Everything is answered when it is applied, so an answer says
//! what is committed. Here is the loop; [`requests`] says what is taken up, [`batches`] what goes into one record,
//! [`perform`] carries out what the machines want, [`commit`] applies and answers, [`waiting`] keeps those who wait,
//! [`moves`] sends messages to other queues, [`keeping`] looks after the journal, [`states`] after whole states.

mod batches;
mod commit;
mod keeping;
mod moves;
mod perform;
mod rates;
mod requests;
mod states;
mod waiting;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

pub(super) use self::states::load;
use self::{
    batches::{Batches, Taken, Then},
    keeping::Keeping,
    moves::Moves,
    rates::Rates,
    states::{Loading, free},
    waiting::{Handed, Waiting},
};
use super::{
    hosting::{Asked, PeerCall},
    service::Queues as Service,
};
use crate::{
    clock::Clock,
    ids::{Epoch, PartitionId, Tick},
    machine::{
        placement::{Partition, PartitionStatus},
        queue::Queues,
        replication::{ChangeOutcome, Effect, Input, Position, Replica, Replication, Reply, RoleView, Settings},
    },
    net::Mesh,
    node::{gateway::Gateway, hints::ViewPull, requests::OpenRequest, route::Route},
    store::JournalError,
    telemetry::{Bounds, QueueMetrics},
};

/// Operations that wait to be taken up.
const ASKS: usize = 4_096;
/// Messages of peers that wait to be read.
const PEERS: usize = 256;
/// Operations that are taken up before a record is made of them.
const TAKEN_AT_ONCE: usize = 512;
/// Calls of peers that are not answered yet; the oldest goes first.
const MAX_CALLS: usize = 1_024;
/// The wall clock may jump: a deadline by it is looked at so often at least.
const LOOK: Duration = Duration::from_millis(500);

/// Where a partition is asked. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct PartitionHandle {
    pub(super) asks: mpsc::Sender<Asked>,
    pub(super) peers: mpsc::Sender<PeerCall>,
}

/// What bounds a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// `QUEUE_BATCH_SIZE`: most messages in one record.
    pub(crate) batch_items: usize,
    /// `MAX_BATCH_BYTES`: most bytes in one record.
    pub(crate) batch_bytes: usize,
    /// `MESSAGE_RETENTION_PERIOD`, in seconds.
    pub(crate) retention_s: u64,
    /// Of the replication.
    pub(crate) replication: Settings,
}

/// What all partitions of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) route: Route,
    pub(crate) gateway: Gateway,
    pub(crate) service: Service,
    pub(crate) pull: ViewPull,
    pub(crate) tuning: Tuning,
    pub(crate) metrics: QueueMetrics,
    pub(crate) bounds: Bounds,
    /// `file` or `redis`.
    pub(crate) journal_kind: String,
}

/// What was begun and is done now.
#[derive(Debug)]
enum Done {
    Journalled {
        batch: u64,
        outcome: Result<(), JournalError>,
    },
    /// A cut, a checkpoint, a rebuilding.
    Kept {
        checkpoint: bool,
        outcome: Result<(), JournalError>,
    },
    Replied {
        to: crate::ids::NodeId,
        call: u64,
        reply: Option<Reply>,
    },
    Changed {
        ask: u64,
        outcome: ChangeOutcome,
    },
    /// A state that the replication has asked for.
    State {
        to: crate::ids::NodeId,
        at: Position,
        state: Bytes,
    },
    Moved {
        offsets: Vec<u64>,
        arrived: Vec<u64>,
    },
}

/// The task.
pub(super) struct PartitionTask {
    id: PartitionId,
    shared: Arc<Shared>,
    replication: Replication,
    /// What it wants, and what it is to be told: nothing, but while a state is being read.
    effects: VecDeque<Effect>,
    inputs: VecDeque<Input>,
    loading: Option<Loading>,
    queues: Queues,
    /// The last record that the queues have seen.
    applied: Position,
    keeping: Keeping,
    /// The journal that was found lacks what it acknowledged.
    shortened: bool,
    placed: Option<Partition>,
    batches: Batches,
    proposed: u64,
    /// What was proposed in this step and has no place yet.
    placing: Option<(u64, Taken)>,
    taken: BTreeMap<Position, Taken>,
    waiting: Waiting,
    handed: Handed,
    calls: BTreeMap<u64, oneshot::Sender<Bytes>>,
    last_call: u64,
    changes: BTreeMap<u64, Arc<OpenRequest>>,
    moves: Moves,
    rates: Rates,
    timer_under_way: bool,
    serving: bool,
    /// As it was last told of.
    role: RoleView,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
}

/// What a partition starts with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) id: PartitionId,
    pub(super) me: Replica,
    pub(super) opened: crate::store::Opened,
    pub(super) queues: Queues,
}

/// A partition and where it is asked; the caller runs it until `stop`.
pub(super) fn partition(
    shared: Arc<Shared>,
    start: Start,
    stop: CancellationToken,
) -> (PartitionHandle, impl Future<Output = ()> + Send + 'static) {
    let (asks, asks_in) = mpsc::channel(ASKS);
    let (peers, peers_in) = mpsc::channel(PEERS);
    let handle = PartitionHandle { asks, peers };
    // Made by its own task too: what panics here ends no other partition.
    (handle, async move { PartitionTask::new(shared, start).run(asks_in, peers_in, stop).await })
}

impl PartitionTask {
    async fn run(
        mut self,
        mut asks: mpsc::Receiver<Asked>,
        mut peers: mpsc::Receiver<PeerCall>,
        stop: CancellationToken,
    ) {
        let mut views = self.shared.route.views();
        let mut health = self.keeping.health();
        self.on_view();
        self.on_health(&health.borrow_and_update().clone());
        loop {
            let wake = self.next_wake();
            let has_room = self.batches.has_room();
            let is_free = self.loading.is_none();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                queues = Self::loaded(&mut self.loading), if !is_free => self.install(queues),
                Some(call) = peers.recv(), if is_free => self.on_peer(call),
                Some(done) = self.work.next(), if is_free && !self.work.is_empty() => self.on_done(done),
                Ok(()) = views.changed(), if is_free => { views.mark_unchanged(); self.on_view() }
                Ok(()) = health.changed(), if is_free => {
                    let health = health.borrow_and_update().clone();
                    self.on_health(&health);
                }
                Some(asked) = asks.recv(), if is_free && has_room => {
                    self.on_ask(asked);
                    for _ in 1..TAKEN_AT_ONCE {
                        match asks.try_recv() {
                            Ok(asked) if self.batches.has_room() => self.on_ask(asked),
                            Ok(asked) => { self.on_ask(asked); break }
                            Err(_) => break,
                        }
                    }
                }
                () = sleep_until(wake), if is_free => {}
            }
            if self.loading.is_some() {
                continue;
            }
            // Also where there is always something else to do.
            if wake.is_some_and(|at| at <= Instant::now()) {
                self.on_time();
            }
            self.propose_what_waits();
            self.tell_role();
        }
        self.refuse_all(Epoch(0));
        // What was begun is finished, unless the journal is away.
        drop(self.keeping);
        free(self.queues);
    }

    fn now(&self) -> Tick {
        self.shared.clock.now()
    }

    fn wall(&self) -> Tick {
        self.shared.clock.wall()
    }

    /// When something is due that nobody else wakes us for.
    fn next_wake(&self) -> Option<Instant> {
        let from_now = |ms| Instant::now() + Duration::from_millis(ms);
        let replication = self.replication.deadline().map(|at| from_now(at.ms_since(self.now())));
        let timer = self.queues.deadline().filter(|_| self.serving && !self.timer_under_way);
        let timer = timer.map(|at| from_now(at.ms_since(self.wall())).min(Instant::now() + LOOK));
        [replication, timer, self.waiting.deadline(), self.moves.deadline()].into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        if self.replication.deadline().is_some_and(|at| at <= self.now()) {
            self.step(Input::Tick);
        }
        self.propose_timer();
        self.expire_waits();
        self.retry_moves();
        self.handed.forget(Instant::now());
    }

    fn on_view(&mut self) {
        if let Some(placed) = self.shared.route.view().partitions.get(&self.id).cloned() {
            self.place(placed);
        }
    }

    /// A placement was committed.
    fn place(&mut self, placed: Partition) {
        if self.placed.as_ref().is_some_and(|known| known.epoch >= placed.epoch) {
            return;
        }
        self.knows(&placed);
        self.step(Input::Placed(placed));
    }

    /// Who is in sync in this run, where the partition is served, was filled up, or an operator has accepted what it has.
    fn knows(&mut self, placed: &Partition) {
        if placed.status == PartitionStatus::Serving && placed.in_sync.contains(&self.replication.me()) {
            self.shortened = false;
        }
        self.placed = Some(placed.clone());
    }

    fn on_peer(&mut self, call: PeerCall) {
        self.last_call += 1;
        let number = self.last_call;
        self.calls.insert(number, call.reply);
        if self.calls.len() > MAX_CALLS {
            self.calls.pop_first();
        }
        self.step(Input::Message { from: call.from, call: number, message: call.message });
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Journalled { batch, outcome: Ok(()) } => self.step(Input::Journalled { batch }),
            Done::Kept { checkpoint: false, outcome: Ok(()) } => {}
            Done::Kept { checkpoint: true, outcome: Ok(()) } => {
                if let Some((bytes, took)) = self.keeping.checkpointed() {
                    info!(partition = self.id.0, bytes, ?took, "has made a checkpoint");
                }
            }
            Done::Journalled { outcome: Err(reason), .. } | Done::Kept { outcome: Err(reason), .. } => {
                self.journal_failed(&reason);
            }
            Done::Replied { to, call, reply } => self.step(Input::Reply { to, call, reply }),
            Done::State { to, at, state } => self.step(Input::State { to, at, state }),
            Done::Changed { ask, outcome } => {
                if let ChangeOutcome::Done(placed) | ChangeOutcome::Void(placed) = &outcome {
                    self.changes.remove(&ask);
                    if self.placed.as_ref().is_none_or(|known| known.epoch < placed.epoch) {
                        self.knows(placed);
                        // The rest of this node hears of it with the view.
                        self.shared.pull.pull();
                    }
                }
                self.step(Input::Changed { ask, outcome });
            }
            Done::Moved { offsets, arrived } => self.moved(&offsets, arrived),
        }
    }

    fn journal_failed(&mut self, reason: &JournalError) {
        error!(partition = self.id.0, %reason, "a replica can no longer be journalled: it is given up");
        self.keeping.fail();
        self.step(Input::JournalFailed);
        self.refuse_all(self.replication.epoch());
    }

    fn tell_role(&mut self) {
        let role = self.replication.role();
        if self.role != role {
            self.role = role;
            // That it serves, or no longer does, is told by itself.
            let (partition, epoch) = (self.id, self.replication.epoch());
            debug!(partition = partition.0, epoch = epoch.0, ?role, "has another part in a partition");
            if !matches!(role, RoleView::Primary { .. }) {
                // Also who was to be served once this replica would serve goes elsewhere.
                self.refuse_all(self.replication.epoch());
            }
        }
    }

    fn begin(&mut self, work: impl Future<Output = Done> + Send + 'static) {
        self.work.push(work.boxed());
    }

    /// Nobody is served here any more, or yet.
    fn refuse_all(&mut self, epoch: Epoch) {
        let pending: VecDeque<Then> = self.batches.drain();
        let taken = std::mem::take(&mut self.taken);
        for then in pending {
            then.not_primary(epoch);
        }
        for then in taken.into_values().flat_map(Taken::thens) {
            then.unknown();
        }
        self.waiting.refuse_all(epoch);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
