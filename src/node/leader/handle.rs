//! How others speak to the leader task: the handle to it, and how the task answers.

use tokio::sync::{mpsc, oneshot, watch};

use super::{INBOX, LeaderParts, LeaderTask, members::trails_by, office::Quorum};
use crate::{
    ids::{Incarnation, LockName, NodeId, RequestId, SessionId, Term, Tick},
    machine::{control::ControlState, leases::LeaseInput, lock::LockAnswer},
    node::{
        lock_events::Told,
        route::Route,
        wire::{ClientReply, EventCursor, Leader, MembersReport, View},
    },
    raft::{RaftNode, RaftStatus},
    telemetry::Metrics,
};

/// Most answers that can be awaited at a time.
const MAX_AWAITED: usize = 1_000_000;

/// Whether a heartbeat counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LeaderState {
    Heard,
    Unknown,
}

#[derive(Debug)]
pub(super) struct Registration {
    pub(super) request: RequestId,
    pub(super) answer: oneshot::Sender<LockAnswer>,
}

#[derive(Debug)]
pub(super) enum Ask {
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
    quorum: Quorum,
    metrics: Metrics,
}

impl LeaderHandle {
    pub(super) fn new(
        parts: &LeaderParts,
        inbox: mpsc::Sender<Ask>,
        registrations: mpsc::Sender<Registration>,
        led: watch::Receiver<Option<Term>>,
    ) -> Self {
        Self {
            me: parts.me,
            route: parts.route.clone(),
            inbox,
            registrations,
            led,
            quorum: Quorum::new(parts),
            metrics: parts.metrics.clone(),
        }
    }

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
        self.led.borrow().is_some() && self.quorum.is_there()
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

impl LeaderTask {
    pub(super) fn register(&mut self, registration: Registration) {
        if self.awaited.len() >= self.awaited_swept {
            self.awaited.retain(|_, reply| !reply.is_closed());
            self.awaited_swept = (self.awaited.len() * 2).max(INBOX);
        }
        if self.awaited.len() < MAX_AWAITED {
            self.awaited.insert(registration.request, registration.answer);
        }
    }

    pub(super) fn asked(&mut self, ask: Ask) {
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
                if let Some(report) = self.term_led().and_then(|term| self.report(term, now)) {
                    let _ = reply.send(report);
                }
            }
        }
    }

    /// From the state itself: the view that is installed may be a moment behind it.
    fn report(&self, term: Term, now: Tick) -> Option<MembersReport> {
        let wall = self.parts.clock.wall();
        let view = view_of(&self.parts.raft)?;
        let last_seen = view.members.iter().map(|(node, member)| {
            // Of who is gone, what all have replicated: the detector forgets it a moment later.
            let heard = self.detector.last_heard(*node).filter(|_| member.serves());
            (*node, heard.map_or(member.since, |at| Tick(wall.0.saturating_sub(now.ms_since(at)))))
        });
        let last_seen = last_seen.collect();
        let trails_by = trails_by(&self.status.borrow());
        let leader = Leader { term, node: self.parts.me };
        let queue_replicas = self.parts.settings.queue_replicas;
        let (moving, slots_moving) = (self.moving(now, &view), self.slots_moving(now, &view));
        Some(MembersReport { leader, last_seen, trails_by, view, queue_replicas, moving, slots_moving })
    }
}

/// Members and placement as the state has them, and who votes by this node's log; `None`: Raft has stopped.
pub(crate) fn view_of(raft: &RaftNode<ControlState>) -> Option<View> {
    let read = |state: &ControlState, _: u64| {
        let members = state.members();
        let barred = members.barred().keys().copied().collect();
        let placement = (state.placement().partitions().clone(), state.slots().table().clone());
        (state.view_version(), members.members().clone(), barred, placement)
    };
    let (version, members, barred, (partitions, slots)) = raft.with_state(read).ok()?;
    let RaftStatus { voters, learners, .. } = raft.status().borrow().clone();
    let (voters, learners) = (voters.into_iter().collect(), learners.into_iter().collect());
    Some(View { version, members, barred, voters, learners, partitions, slots })
}
