//! The leader's memory: what a lock manager must remember beside the replicated state.
//!
//! One task on every lock manager owns the judgement of time ([`LeaseKeeper`], [`Detector`]), the
//! answers that are still to come, and the recent lock events. It follows the log on all of them and
//! judges only while it leads. It proposes, and never waits for its own proposals: their outcomes
//! come back to it as messages, so it cannot stop the log that it listens to.
//!
//! Here is the task and its loop. [`handle`] is how others speak to it, [`office`] how it comes to lead
//! and ceases to, [`effects`] what it does about what was applied, [`members`] how it judges members and
//! voters, [`placement`] how it places the queues, [`slots`] how it places the slots of the cache; a [`desk`] is what each
//! of these two remembers.

mod desk;
mod effects;
mod handle;
mod members;
mod office;
mod placement;
mod slots;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    desk::Desk,
    handle::{Ask, Registration},
    office::{Office, Quorum},
};
pub(crate) use self::{
    effects::session_expired,
    handle::{LeaderHandle, LeaderState, view_of},
};
use super::{
    events::{Events, news::NewsDesk},
    lock_events::LockEvents,
    route::Route,
    wire::{ClientReply, Leader, View},
};
use crate::{
    clock::Clock,
    ids::{Incarnation, NodeId, PartitionId, RequestId, Term, Tick},
    machine::{
        autopilot::RaftChange,
        cache::SlotId,
        control::{ControlState, Effect},
        detector::Detector,
        leases::{LeaseInput, LeaseKeeper},
        lock::LockAnswer,
        membership::{ClusterRecord, Liveness},
    },
    raft::{Applied, RaftNode, RaftStatus},
    telemetry::Metrics,
    time::millis,
};

/// Requests to the task that may wait at a time.
const INBOX: usize = 4_096;
/// How often the task looks around when nothing happens.
const LOOK: Duration = Duration::from_millis(200);
/// A timer that fires so late was late: whoever is judged by it gets a fresh term.
const LATE_MS: u64 = 500;
/// Pause between two changes of the voters, in milliseconds.
const CHANGE_PAUSE_MS: u64 = 100;

/// The settings that the leader judges by.
#[derive(Clone, Debug)]
pub(crate) struct LeaderSettings {
    pub(crate) failure_timeout: Duration,
    pub(crate) member_dead_timeout: Duration,
    pub(crate) member_forget_timeout: Duration,
    /// Copies of each partition of the queues.
    pub(crate) queue_replicas: usize,
}

/// Who can be reached, as the mesh sees it.
pub(crate) type Connected = watch::Receiver<Arc<crate::net::MeshStatus>>;

/// What ran beside the task and came back.
#[derive(Debug)]
enum Outcome {
    TookOffice { term: Term, state: Option<Box<Office>> },
    TimerProposed { proposal: u64, applied: bool },
    DownProposed { node: NodeId, term: Term, failed: bool },
    Round { round: u64, confirmed: bool },
    RaftChanged { change: RaftChange, error: Option<String> },
    ViewRead(Option<Box<View>>),
    Forgot,
    Placed,
    SlotsPlaced,
    Counted,
}

/// What the task is made of.
#[derive(Debug)]
pub(crate) struct LeaderParts {
    pub(crate) me: NodeId,
    /// This run of it.
    pub(crate) incarnation: Incarnation,
    pub(crate) raft: RaftNode<ControlState>,
    pub(crate) applied: mpsc::Receiver<Applied<Effect>>,
    pub(crate) route: Route,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: LeaderSettings,
    pub(crate) connected: Connected,
    pub(crate) record: watch::Receiver<Option<ClusterRecord>>,
    pub(crate) metrics: Metrics,
    pub(crate) events: Events,
    pub(crate) news: NewsDesk,
}

#[derive(Debug)]
struct LeaderTask {
    parts: LeaderParts,
    status: watch::Receiver<RaftStatus>,
    quorum: Quorum,
    led: watch::Sender<Option<Term>>,
    /// Whom the mesh reaches.
    links: Connected,
    leases: LeaseKeeper,
    detector: Detector,
    events: LockEvents,
    awaited: HashMap<RequestId, oneshot::Sender<LockAnswer>>,
    /// At this size those who hung up are swept out.
    awaited_swept: usize,
    keepalives: HashMap<u64, oneshot::Sender<ClientReply>>,
    next_keepalive: u64,
    /// Entries up to here are included in what the office was taken over with.
    office_index: u64,
    seen: BTreeMap<NodeId, (Liveness, Tick)>,
    /// Whom Raft named as the leader when it was looked at last.
    named: Option<Leader>,
    /// When the office was taken.
    office_since: Tick,
    /// The last entry of which effects were told.
    told_index: u64,
    /// What was applied up to here is no news: this run of the node caught up with it. `None`: it still does.
    caught_up: Option<u64>,
    /// The term for which the office is being taken over.
    taking: Option<Term>,
    changing: bool,
    /// When the next change of the voters may be tried.
    change_at: Tick,
    forgetting: bool,
    placement: Desk<PartitionId>,
    slots: Desk<SlotId>,
    /// Whether an entry that says that time has passed is on its way.
    counting: bool,
    /// Up to when time was counted.
    counted: Tick,
    reading_view: bool,
    view_stale: bool,
    work: JoinSet<Outcome>,
}

/// Makes the task and the handle to it; the caller spawns the task.
pub(crate) fn leader(parts: LeaderParts, stop: CancellationToken) -> (LeaderHandle, impl Future<Output = ()> + use<>) {
    let (inbox, asks) = mpsc::channel(INBOX);
    let (registrations, registered) = mpsc::channel(INBOX);
    let (led, led_watch) = watch::channel(None);
    let status = parts.raft.status();
    let handle = LeaderHandle::new(&parts, inbox, registrations, led_watch);
    let failure_timeout_ms = millis(parts.settings.failure_timeout);
    let task = LeaderTask {
        quorum: Quorum::new(&parts),
        links: parts.connected.clone(),
        parts,
        status,
        led,
        leases: LeaseKeeper::default(),
        detector: Detector::new(failure_timeout_ms),
        events: LockEvents::default(),
        awaited: HashMap::new(),
        awaited_swept: INBOX,
        keepalives: HashMap::new(),
        next_keepalive: 0,
        office_index: 0,
        seen: BTreeMap::new(),
        named: None,
        office_since: Tick::default(),
        told_index: 0,
        caught_up: None,
        taking: None,
        changing: false,
        change_at: Tick::default(),
        forgetting: false,
        placement: Desk::default(),
        slots: Desk::default(),
        counting: false,
        counted: Tick::default(),
        reading_view: false,
        view_stale: true,
        work: JoinSet::new(),
    };
    (handle, task.run(registered, asks, stop))
}

impl LeaderTask {
    async fn run(
        mut self,
        mut registered: mpsc::Receiver<Registration>,
        mut asks: mpsc::Receiver<Ask>,
        stop: CancellationToken,
    ) {
        let mut expected = self.parts.clock.now();
        loop {
            let wake = self.wake_after(self.parts.clock.now());
            let planned = expected.plus_ms(millis(wake));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = self.status.changed() => self.status_changed(),
                // In this order: who listens for an answer registers before it is proposed, and what
                // was applied is known before anyone who was told of it asks again.
                Some(registration) = registered.recv() => self.register(registration),
                Some(news) = self.parts.applied.recv() => self.applied(news),
                Some(ask) = asks.recv() => self.asked(ask),
                Ok(()) = self.links.changed() => {}
                Some(done) = self.work.join_next() => {
                    self.done(done.expect("work of the leader task neither panics nor is aborted"));
                }
                () = tokio::time::sleep(wake) => {}
            }
            let woke = self.parts.clock.now();
            // Late by any part of the loop: this process did not run, and must not judge others by the
            // time that passed.
            if woke.ms_since(planned) > LATE_MS {
                warn!(late_ms = woke.ms_since(planned), "this process was held up: all leases start anew");
                self.leases_step(LeaseInput::Late);
                self.detector.amnesty(woke);
            }
            expected = woke;
            self.look(woke);
        }
    }

    fn wake_after(&self, now: Tick) -> Duration {
        let first = self.leases.deadline().into_iter().chain(self.detector.deadline()).min();
        first.map_or(LOOK, |at| Duration::from_millis(at.ms_since(now).max(1)).min(LOOK))
    }

    fn term_led(&self) -> Option<Term> {
        *self.led.borrow()
    }

    /// Judges: sessions, members, voters, queues.
    fn look(&mut self, now: Tick) {
        if self.view_stale && !self.reading_view {
            self.read_view();
        }
        let Some(term) = self.term_led() else { return };
        self.tell_whether_it_decides(term);
        if self.leases.deadline().is_some_and(|at| at <= now) {
            self.leases_step(LeaseInput::Due);
        }
        self.suspect(now);
        self.change_voters(now);
        self.forget(now);
        self.place_queues(now);
        self.place_slots(now);
        self.count_time(now, term);
    }

    fn done(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::TookOffice { term, state } => self.took_office(term, state),
            Outcome::TimerProposed { proposal, applied: true } => {
                self.leases_step(LeaseInput::ProposalApplied { proposal });
            }
            Outcome::TimerProposed { proposal, applied: false } => {
                self.leases_step(LeaseInput::ProposalFailed { proposal });
            }
            Outcome::DownProposed { node, term, failed: true } => {
                self.detector.acquit(self.parts.clock.now(), node, term);
            }
            Outcome::DownProposed { .. } => {}
            Outcome::Round { round, confirmed: true } => self.leases_step(LeaseInput::Confirmed { round }),
            Outcome::Round { round, confirmed: false } => self.leases_step(LeaseInput::Unconfirmed { round }),
            Outcome::RaftChanged { change, error } => {
                self.changing = false;
                self.change_at = self.parts.clock.now().plus_ms(CHANGE_PAUSE_MS);
                match error {
                    None => info!(?change, "changed who votes, or who leads"),
                    Some(error) => debug!(?change, %error, "could not change the voters yet"),
                }
            }
            Outcome::ViewRead(view) => {
                self.reading_view = false;
                match view {
                    Some(view) => {
                        self.parts.route.install(*view);
                        self.watch_members(self.parts.clock.now());
                    }
                    None => self.view_stale = true,
                }
            }
            Outcome::Forgot => self.forgetting = false,
            Outcome::Placed => self.placement.proposed(),
            Outcome::SlotsPlaced => self.slots.proposed(),
            Outcome::Counted => {
                self.counting = false;
                self.counted = self.parts.clock.now();
            }
        }
    }
}
