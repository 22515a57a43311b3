//! The leader's memory: what a lock manager must remember beside the replicated state.
//!
//! One task on every lock manager owns the judgement of time ([`LeaseKeeper`], [`Detector`]), the
//! answers that are still to come, and the recent lock events. It follows the log on all of them and
//! judges only while it leads. It proposes, and never waits for its own proposals: their outcomes
//! come back to it as messages, so it cannot stop the log that it listens to.

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

use super::{
    lock_events::{LockEvents, Told},
    route::Route,
    wire::{ClientReply, EventCursor, Leader, MembersReport, View},
};
use crate::{
    clock::Clock,
    error::{Error, ErrorCode},
    ids::{Incarnation, LockName, NodeId, RequestId, Role, SessionId, Term, Tick},
    machine::{
        autopilot::{self, Candidate, RaftChange, Situation},
        control::{Command, ControlState, Effect},
        detector::Detector,
        leases::{KeepAliveOutcome, LeaseEffect, LeaseInput, LeaseKeeper},
        lock::{LockAnswer, LockEffect, LockEvent, LockEventKind, LockTimer, Mode},
        membership::{ClusterRecord, Liveness, MemberChange},
    },
    raft::{Applied, ProposeError, RaftNode, RaftStatus},
    telemetry::Metrics,
};

/// Requests to the task that may wait at a time.
const INBOX: usize = 4_096;
/// How often the task looks around when nothing happens.
const LOOK: Duration = Duration::from_millis(200);
/// Pause before a new leader tries again to read what it takes over.
const TAKE_AGAIN: Duration = Duration::from_millis(20);
/// A timer that fires so late was late: whoever is judged by it gets a fresh term.
const LATE_MS: u64 = 500;
/// Pause between two changes of the voters, in milliseconds.
const CHANGE_PAUSE_MS: u64 = 100;
/// Most answers that can be awaited at a time.
const MAX_AWAITED: usize = 1_000_000;

/// The settings that the leader judges by.
#[derive(Clone, Debug)]
pub(crate) struct LeaderSettings {
    pub(crate) failure_timeout: Duration,
    pub(crate) member_dead_timeout: Duration,
    pub(crate) member_forget_timeout: Duration,
}

/// Whether a heartbeat counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LeaderState {
    Heard,
    Unknown,
}

#[derive(Debug)]
struct Registration {
    request: RequestId,
    answer: oneshot::Sender<LockAnswer>,
}

#[derive(Debug)]
enum Ask {
    KeepAlive(SessionId, oneshot::Sender<ClientReply>),
    Remaining(Vec<SessionId>, oneshot::Sender<Vec<Option<u64>>>),
    Events(LockName, EventCursor, oneshot::Sender<Told>),
    Heard(NodeId, Incarnation, oneshot::Sender<LeaderState>),
    Members(oneshot::Sender<MembersReport>),
}

/// How others speak to the task. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LeaderHandle {
    me: NodeId,
    route: Route,
    inbox: mpsc::Sender<Ask>,
    registrations: mpsc::Sender<Registration>,
    led: watch::Receiver<Option<Term>>,
    status: watch::Receiver<RaftStatus>,
    connected: Connected,
    silence: Duration,
    metrics: Metrics,
}

/// Whether a leader has a quorum: connected to it, and acknowledged by it lately. What is appended
/// without one may be committed later, after it was refused.
fn decides(status: &RaftStatus, mesh: &crate::net::MeshStatus, me: NodeId, silence: Duration) -> bool {
    let reached = status.voters.iter().filter(|node| **node == me || mesh.peers.contains_key(node)).count();
    let alone = status.voters.len() == 1 && reached == 1;
    let acknowledged = status.quorum_acknowledged.is_some_and(|at| at.elapsed() < silence);
    status.is_leader() && reached > status.voters.len() / 2 && (alone || acknowledged)
}

/// Who can be reached, as the mesh sees it.
pub(crate) type Connected = watch::Receiver<Arc<crate::net::MeshStatus>>;

impl LeaderHandle {
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    pub(crate) fn metrics(&self) -> &crate::telemetry::LockMetrics {
        self.metrics.locks()
    }

    /// The office that this node holds, once it has taken it up.
    pub(crate) fn led(&self) -> Option<Leader> {
        self.led.borrow().map(|term| Leader { term, node: self.me })
    }

    /// Whether this node leads and is connected to a quorum: else it must not even append, because
    /// what is in its log may be committed later, after it was refused.
    pub(crate) fn can_decide(&self) -> bool {
        self.led.borrow().is_some() && decides(&self.status.borrow(), &self.connected.borrow(), self.me, self.silence)
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(ask(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Listens for the final answer of a request that may wait.
    pub(crate) async fn await_answer(&self, request: RequestId) -> Option<oneshot::Receiver<LockAnswer>> {
        let (reply, answer) = oneshot::channel();
        self.registrations.send(Registration { request, answer: reply }).await.ok()?;
        Some(answer)
    }

    pub(crate) async fn keep_alive(&self, session: SessionId) -> Option<ClientReply> {
        self.ask(|reply| Ask::KeepAlive(session, reply)).await
    }

    pub(crate) async fn remaining_ms(&self, session: SessionId) -> Option<u64> {
        self.remaining_of(vec![session]).await.pop().flatten()
    }

    /// What is left of each session's term, in milliseconds.
    pub(crate) async fn remaining_of(&self, sessions: Vec<SessionId>) -> Vec<Option<u64>> {
        let count = sessions.len();
        self.ask(|reply| Ask::Remaining(sessions, reply)).await.unwrap_or_else(|| vec![None; count])
    }

    /// The events of a lock after a position, once there are some; `None` if they are not known.
    pub(crate) async fn events_after(&self, lock: LockName, after: EventCursor) -> Option<Told> {
        self.ask(|reply| Ask::Events(lock, after, reply)).await
    }

    /// A heartbeat came. `None`: this node does not lead.
    pub(crate) async fn heard(&self, node: NodeId, incarnation: Incarnation) -> Option<LeaderState> {
        self.ask(|reply| Ask::Heard(node, incarnation, reply)).await
    }

    /// `None`: this node does not lead.
    pub(crate) async fn members(&self) -> Option<MembersReport> {
        self.ask(Ask::Members).await
    }
}

/// What ran beside the task and came back.
#[derive(Debug)]
enum Outcome {
    TookOffice { term: Term, state: Option<Box<Office>> },
    TimerProposed { proposal: u64, applied: bool },
    DownProposed { node: NodeId, failed: bool },
    Round { round: u64, confirmed: bool },
    RaftChanged { change: RaftChange, error: Option<String> },
    ViewRead(Option<Box<View>>),
    Forgot,
}

/// What a new leader takes over from the replicated state.
#[derive(Debug)]
struct Office {
    index: u64,
    sessions: Vec<(SessionId, u64, Option<u64>)>,
    waits: Vec<(RequestId, u64)>,
    delays: Vec<(LockName, u64, u64)>,
}

/// What the task is made of.
#[derive(Debug)]
pub(crate) struct LeaderParts {
    pub(crate) me: NodeId,
    pub(crate) raft: RaftNode<ControlState>,
    pub(crate) applied: mpsc::Receiver<Applied<Effect>>,
    pub(crate) route: Route,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: LeaderSettings,
    pub(crate) connected: Connected,
    pub(crate) record: watch::Receiver<Option<ClusterRecord>>,
    pub(crate) metrics: Metrics,
}

#[derive(Debug)]
struct LeaderTask {
    parts: LeaderParts,
    status: watch::Receiver<RaftStatus>,
    led: watch::Sender<Option<Term>>,
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
    /// The term for which the office is being taken over.
    taking: Option<Term>,
    changing: bool,
    /// When the next change of the voters may be tried.
    change_at: Tick,
    forgetting: bool,
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
    let handle = LeaderHandle {
        me: parts.me,
        route: parts.route.clone(),
        inbox,
        registrations,
        led: led_watch,
        status: status.clone(),
        connected: parts.connected.clone(),
        silence: parts.raft.settings().election_max * 3,
        metrics: parts.metrics.clone(),
    };
    let failure_timeout_ms = u64::try_from(parts.settings.failure_timeout.as_millis()).unwrap_or(u64::MAX);
    let task = LeaderTask {
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
        taking: None,
        changing: false,
        change_at: Tick::default(),
        forgetting: false,
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
            let planned = expected.plus_ms(u64::try_from(wake.as_millis()).unwrap_or(0));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = self.status.changed() => self.status_changed(),
                // In this order: who listens for an answer registers before it is proposed, and what
                // was applied is known before anyone who was told of it asks again.
                Some(registration) = registered.recv() => self.register(registration),
                Some(news) = self.parts.applied.recv() => self.applied(news),
                Some(ask) = asks.recv() => self.asked(ask),
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
        let deadline = self.leases.deadline().map(|at| Duration::from_millis(at.ms_since(now).max(1)));
        deadline.map_or(LOOK, |deadline| deadline.min(LOOK))
    }

    fn term_led(&self) -> Option<Term> {
        *self.led.borrow()
    }

    /// Judges: sessions, members, voters.
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
        self.forget();
    }

    /// A leader without a quorum does not recommend itself.
    fn tell_whether_it_decides(&self, term: Term) {
        let me = Leader { term, node: self.parts.me };
        let silence = self.parts.raft.settings().election_max * 3;
        if decides(&self.status.borrow(), &self.parts.connected.borrow(), me.node, silence) {
            self.parts.route.learn(me);
        } else {
            self.parts.route.doubt(me);
        }
    }

    fn status_changed(&mut self) {
        let status = self.status.borrow_and_update().clone();
        // Raft goes on naming the last leader until there is another: that is no news of it.
        let named = status.leader.map(|node| Leader { term: status.term, node });
        if named != self.named && status.leader != Some(self.parts.me) {
            self.parts.route.set(status.term, status.leader);
        }
        self.named = named;
        let view = self.parts.route.view();
        if !view.voters.iter().eq(&status.voters) || !view.learners.iter().eq(&status.learners) {
            self.view_stale = true;
        }
        let leads = status.leader == Some(self.parts.me) && status.is_leader();
        match self.term_led() {
            Some(term) if !leads || term != status.term => self.leave_office(),
            None if leads => self.take_office(status.term),
            _ => {}
        }
    }

    /// Reads what there is to judge once everything that earlier leaders committed is applied.
    fn take_office(&mut self, term: Term) {
        if self.taking.replace(term) == Some(term) {
            return;
        }
        let raft = self.parts.raft.clone();
        let record = self.parts.record.borrow().clone();
        self.work.spawn(async move {
            let office = async {
                raft.read_barrier(crate::raft::ReadPolicy::Index).await.ok()?;
                // The first leader of a cluster says in the log which one it is, before it grants anything.
                if raft.with_state(|state, _| state.cluster().is_none()).ok()? {
                    raft.propose(vec![Command::Found(Box::new(record?))]).await.ok()?;
                }
                let read = |state: &ControlState, index: u64| Office {
                    index,
                    sessions: state.locks().terms().collect(),
                    waits: state.locks().waits().collect(),
                    delays: state.locks().delays().collect(),
                };
                raft.with_state(read).ok()
            };
            let state = office.await.map(Box::new);
            if state.is_none() {
                // Tried again while this node leads: no quorum confirms it now.
                tokio::time::sleep(TAKE_AGAIN).await;
            }
            Outcome::TookOffice { term, state }
        });
    }

    fn took_office(&mut self, term: Term, office: Option<Box<Office>>) {
        let status = self.status.borrow().clone();
        self.taking = None;
        let leads = status.is_leader() && status.term == term && self.term_led().is_none();
        // What was told meanwhile is not in what was read.
        let Some(office) = office.filter(|office| office.index >= self.told_index) else {
            if leads {
                self.take_office(term);
            }
            return;
        };
        if !leads {
            return;
        }
        info!(term = term.0, sessions = office.sessions.len(), waits = office.waits.len(), "leads the lock managers");
        self.office_index = office.index;
        let Office { sessions, waits, delays, .. } = *office;
        self.leases_step(LeaseInput::Led { term, sessions, waits, delays });
        let now = self.parts.clock.now();
        self.watch_members(now);
        self.detector.amnesty(now);
        self.office_since = now;
        self.led.send_replace(Some(term));
        self.parts.route.learn(Leader { term, node: self.parts.me });
    }

    fn leave_office(&mut self) {
        info!("no longer leads the lock managers");
        self.led.send_replace(None);
        self.leases_step(LeaseInput::Deposed);
        // Dropped senders tell those who wait to ask the next leader.
        self.awaited.clear();
        self.keepalives.clear();
    }

    fn register(&mut self, registration: Registration) {
        if self.awaited.len() >= self.awaited_swept {
            self.awaited.retain(|_, reply| !reply.is_closed());
            self.awaited_swept = (self.awaited.len() * 2).max(INBOX);
        }
        if self.awaited.len() < MAX_AWAITED {
            self.awaited.insert(registration.request, registration.answer);
        }
    }

    fn asked(&mut self, ask: Ask) {
        let now = self.parts.clock.now();
        match ask {
            Ask::KeepAlive(session, reply) => {
                if self.term_led().is_some() {
                    self.next_keepalive += 1;
                    let asker = self.next_keepalive;
                    self.keepalives.insert(asker, reply);
                    self.leases_step(LeaseInput::KeepAlive { session, asker });
                }
            }
            // Who hung up meanwhile needs no answer.
            Ask::Remaining(sessions, reply) => {
                let left = |session: &SessionId| self.leases.remaining_ms(session, now);
                let _ = reply.send(sessions.iter().map(left).collect());
            }
            Ask::Events(lock, after, reply) => self.events.watch(lock, after, reply),
            Ask::Heard(node, incarnation, reply) => {
                if self.term_led().is_some() {
                    let heard = self.detector.heard(now, node, incarnation);
                    let _ = reply.send(if heard { LeaderState::Heard } else { LeaderState::Unknown });
                }
            }
            Ask::Members(reply) => {
                if let Some(term) = self.term_led() {
                    let _ = reply.send(self.report(term, now));
                }
            }
        }
    }

    fn report(&self, term: Term, now: Tick) -> MembersReport {
        let wall = self.parts.clock.wall();
        let view = (*self.parts.route.view()).clone();
        let last_seen = view.members.iter().map(|(node, member)| {
            let heard = self.detector.last_heard(*node).map(|at| Tick(wall.0.saturating_sub(now.ms_since(at))));
            (*node, heard.unwrap_or(member.since))
        });
        let last_seen = last_seen.collect();
        let trails_by = trails_by(&self.status.borrow());
        MembersReport { leader: Leader { term, node: self.parts.me }, last_seen, trails_by, view }
    }

    fn applied(&mut self, news: Applied<Effect>) {
        match news {
            Applied::Reset { index } => {
                self.told_index = index;
                self.events.reset(index);
                self.view_stale = true;
            }
            Applied::Entry { index, effects, .. } => {
                if !effects.is_empty() {
                    self.told_index = index;
                }
                let mut events = Vec::new();
                for effect in effects {
                    match effect {
                        Effect::Lock(LockEffect::Event(event)) => events.push(event),
                        Effect::Lock(effect) => self.lock_effect(index, effect),
                        Effect::Member(_) => self.view_stale = true,
                    }
                }
                events.iter().for_each(|event| self.count(event));
                self.events.push(index, events);
            }
        }
    }

    fn count(&self, event: &LockEvent) {
        let locks = self.parts.metrics.locks();
        let lasted = Duration::from_millis(event.lasted_ms);
        match event.kind {
            LockEventKind::Granted => locks.granted(mode_name(event.mode), lasted),
            LockEventKind::Released | LockEventKind::Broken => locks.ended(lasted),
            LockEventKind::Expired => {
                locks.ended(lasted);
                locks.expired();
            }
            LockEventKind::Waiting => {
                let waiters = |state: &ControlState, _: u64| state.locks().waiters_of(&event.lock);
                let length = self.parts.raft.with_state(waiters).unwrap_or(0);
                locks.joined_line(u32::try_from(length).unwrap_or(u32::MAX));
            }
        }
    }

    fn lock_effect(&mut self, index: u64, effect: LockEffect) {
        if let LockEffect::Answered { requests, answer } = &effect {
            for request in requests {
                if let Some(reply) = self.awaited.remove(request) {
                    // Who hung up has abandoned the request, which is settled by an entry of its own.
                    let _ = reply.send(answer.clone());
                }
            }
        }
        if index > self.office_index
            && let Some(input) = LeaseInput::from_effect(&effect)
        {
            self.leases_step(input);
        }
    }

    fn leases_step(&mut self, input: LeaseInput) {
        let now = self.parts.clock.now();
        let mut effects = Vec::new();
        self.leases.step(now, input, &mut effects);
        for effect in effects {
            self.lease_effect(effect);
        }
    }

    fn lease_effect(&mut self, effect: LeaseEffect) {
        match effect {
            LeaseEffect::Propose { proposal, timer } => self.propose_timer(proposal, timer),
            LeaseEffect::BeginQuorumRound { round } => {
                let raft = self.parts.raft.clone();
                self.work.spawn(async move { Outcome::Round { round, confirmed: raft.quorum_round().await.is_ok() } });
            }
            LeaseEffect::KeepAliveAnswered { asker, outcome } => {
                if let Some(reply) = self.keepalives.remove(&asker) {
                    // Who asked may have hung up.
                    let _ = reply.send(match outcome {
                        KeepAliveOutcome::Alive { ttl_ms } => ClientReply::Kept { ttl_ms },
                        KeepAliveOutcome::Expired => ClientReply::Failed(session_expired()),
                        KeepAliveOutcome::NotLeader | KeepAliveOutcome::Unconfirmed | KeepAliveOutcome::Overloaded => {
                            ClientReply::NotLeader(None)
                        }
                    });
                }
            }
        }
    }

    /// Proposes until the outcome is certain: a timer's entry may be applied twice without harm.
    fn propose_timer(&mut self, proposal: u64, timer: LockTimer) {
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            let applied = propose_for_certain(&raft, Command::Timer(timer)).await;
            Outcome::TimerProposed { proposal, applied }
        });
    }

    fn suspect(&mut self, now: Tick) {
        let Some(term) = self.term_led() else { return };
        for suspect in self.detector.suspects(now) {
            if suspect.node == self.parts.me {
                self.detector.acquit(now, suspect.node);
                continue;
            }
            warn!(peer = %suspect.node, "has not been heard of for the failure timeout: down");
            let raft = self.parts.raft.clone();
            let (node, incarnation) = (suspect.node, suspect.incarnation);
            let down = Command::Member(MemberChange::Down { node, incarnation, term: Some(term) });
            self.work
                .spawn(async move { Outcome::DownProposed { node, failed: !propose_for_certain(&raft, down).await } });
        }
    }

    fn read_view(&mut self) {
        self.reading_view = true;
        self.view_stale = false;
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            let read = |state: &ControlState, _: u64| {
                let members = state.members();
                (members.version(), members.members().clone(), members.barred().keys().copied().collect::<Vec<_>>())
            };
            let read = raft.with_state(read).ok();
            Outcome::ViewRead(read.map(|(version, members, barred)| {
                let RaftStatus { voters, learners, .. } = raft.status().borrow().clone();
                let (voters, learners) = (voters.into_iter().collect(), learners.into_iter().collect());
                Box::new(View { version, members, barred, voters, learners })
            }))
        });
    }

    fn watch_members(&mut self, now: Tick) {
        let view = self.parts.route.view();
        let serving = view.members.iter().filter(|(_, member)| member.serves());
        self.detector.set_members(now, serving.map(|(node, member)| (*node, member.joiner.incarnation)));
        let mut before = std::mem::take(&mut self.seen);
        for (node, member) in &view.members {
            let known = before.remove(node).filter(|(liveness, _)| *liveness == member.liveness);
            self.seen.insert(*node, known.unwrap_or((member.liveness, now)));
        }
    }

    fn change_voters(&mut self, now: Tick) {
        if self.changing || now < self.change_at {
            return;
        }
        let view = self.parts.route.view();
        let status = self.status.borrow().clone();
        let candidate = |node: &NodeId, liveness: Liveness| Candidate {
            liveness,
            since_ms: self.seen.get(node).map_or(0, |(_, since)| now.ms_since(*since)),
            trails_by: trails_by(&status).get(node).copied(),
        };
        let listed = view.members.iter().filter(|(_, member)| member.has_role(Role::LockManager));
        let mut lock_managers: BTreeMap<_, _> =
            listed.map(|(node, member)| (*node, candidate(node, member.liveness))).collect();
        // A founder that has not joined yet has as long to come as a member that is down.
        for node in &status.voters {
            let since_ms = now.ms_since(self.office_since);
            lock_managers.entry(*node).or_insert(Candidate { liveness: Liveness::Down, since_ms, trails_by: None });
        }
        let situation = Situation {
            leader: self.parts.me,
            lock_managers,
            voters: status.voters.clone(),
            learners: status.learners.clone(),
            dead_after_ms: u64::try_from(self.parts.settings.member_dead_timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let Some(change) = autopilot::decide(&situation) else { return };
        self.changing = true;
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            let outcome = match change.clone() {
                RaftChange::AddLearner(node) => raft.add_learner(node).await,
                RaftChange::SetVoters(voters) => raft.change_voters(voters).await,
                RaftChange::RemoveLearner(node) => raft.remove_learner(node).await,
            };
            Outcome::RaftChanged { change, error: outcome.err().map(|error| error.to_string()) }
        });
    }

    fn forget(&mut self) {
        if self.forgetting {
            return;
        }
        let wall = self.parts.clock.wall();
        let limit = u64::try_from(self.parts.settings.member_forget_timeout.as_millis()).unwrap_or(u64::MAX);
        let view = self.parts.route.view();
        let old = view.members.iter().filter(|(node, member)| {
            !member.serves() && wall.ms_since(member.since) >= limit && !view.voters.contains(node)
        });
        let old: Vec<_> = old.map(|(node, member)| (*node, member.since)).collect();
        if old.is_empty() {
            return;
        }
        self.forgetting = true;
        let raft = self.parts.raft.clone();
        self.work.spawn(async move {
            // Tried again at the next look where it failed.
            let _ = raft.propose(vec![Command::Member(MemberChange::Forget(old))]).await;
            Outcome::Forgot
        });
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
            Outcome::DownProposed { node, failed: true } => self.detector.acquit(self.parts.clock.now(), node),
            Outcome::DownProposed { .. } => {}
            Outcome::Round { round, confirmed: true } => self.leases_step(LeaseInput::Confirmed { round }),
            Outcome::Round { round, confirmed: false } => self.leases_step(LeaseInput::Unconfirmed { round }),
            Outcome::RaftChanged { change, error } => {
                self.changing = false;
                self.change_at = self.parts.clock.now().plus_ms(CHANGE_PAUSE_MS);
                match error {
                    None => info!(?change, "changed the voters"),
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
        }
    }
}

/// Proposes until the outcome is certain. For entries that may be applied twice without harm and are
/// void in another term. `false`: never applied, or this node leads that term no more.
async fn propose_for_certain(raft: &RaftNode<ControlState>, command: Command) -> bool {
    let term = raft.status().borrow().term;
    let mut perhaps = false;
    loop {
        match raft.propose(vec![command.clone()]).await {
            Ok(_) => return true,
            Err(ProposeError::Unknown) => perhaps = true,
            Err(_) => {}
        }
        let leads = {
            let status = raft.status();
            let status = status.borrow();
            status.is_leader() && status.term == term
        };
        if !perhaps || !leads {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn trails_by(status: &RaftStatus) -> BTreeMap<NodeId, u64> {
    let behind = |matched: u64| status.last_log_index.saturating_sub(matched);
    status.followers.iter().map(|(node, follower)| (*node, behind(follower.matched))).collect()
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Shared => "shared",
        Mode::Exclusive => "exclusive",
    }
}

/// `session-expired`, and what to do about it.
pub(crate) fn session_expired() -> Error {
    Error::new(
        ErrorCode::SessionExpired,
        "the session is not alive: it expired, was closed, or never was; open a new one and acquire again",
    )
}
