//! How the task comes to lead, and ceases to.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::info;

use super::{Connected, LeaderParts, LeaderTask, Outcome};
use crate::{
    ids::{LockName, NodeId, RequestId, SessionId, Term},
    machine::{
        control::{Command, ControlState},
        leases::LeaseInput,
    },
    node::wire::Leader,
    raft::{RaftStatus, ReadPolicy},
};

/// Pause before a new leader tries again to read what it takes over.
const TAKE_AGAIN: Duration = Duration::from_millis(20);

/// What a new leader takes over from the replicated state.
#[derive(Debug)]
pub(super) struct Office {
    index: u64,
    sessions: Vec<(SessionId, u64, Option<u64>)>,
    waits: Vec<(RequestId, u64)>,
    delays: Vec<(LockName, u64, u64)>,
}

/// What tells a leader whether it has a quorum.
#[derive(Clone, Debug)]
pub(super) struct Quorum {
    me: NodeId,
    status: watch::Receiver<RaftStatus>,
    connected: Connected,
    /// How long ago the last acknowledgement may be.
    silence: Duration,
}

impl Quorum {
    pub(super) fn new(parts: &LeaderParts) -> Self {
        let silence = parts.raft.settings().election_max * 3;
        Self { me: parts.me, status: parts.raft.status(), connected: parts.connected.clone(), silence }
    }

    /// Whether this node leads and has one: connected to it, and acknowledged by it lately. What is
    /// appended without one may be committed later, after it was refused.
    pub(super) fn is_there(&self) -> bool {
        let (status, mesh) = (self.status.borrow(), self.connected.borrow());
        let reached = status.voters.iter().filter(|node| **node == self.me || mesh.peers.contains_key(node)).count();
        let alone = status.voters.len() == 1 && reached == 1;
        let acknowledged = status.quorum_acknowledged.is_some_and(|at| at.elapsed() < self.silence);
        status.is_leader() && reached > status.voters.len() / 2 && (alone || acknowledged)
    }
}

impl LeaderTask {
    /// A leader without a quorum does not recommend itself.
    pub(super) fn tell_whether_it_decides(&self, term: Term) {
        let me = Leader { term, node: self.parts.me };
        if self.quorum.is_there() {
            self.parts.route.learn(me);
        } else {
            self.parts.route.doubt(me);
        }
    }

    pub(super) fn status_changed(&mut self) {
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
    pub(super) fn take_office(&mut self, term: Term) {
        if self.taking.replace(term) == Some(term) {
            return;
        }
        let (raft, clock) = (self.parts.raft.clone(), Arc::clone(&self.parts.clock));
        let record = self.parts.record.borrow().clone();
        self.work.spawn(async move {
            let office = async {
                raft.read_barrier(ReadPolicy::Index).await.ok()?;
                // The first leader of a cluster says in the log which one it is, before it grants anything.
                if raft.with_state(|state, _| state.cluster().is_none()).ok()? {
                    raft.propose(vec![Command::Found(Box::new(record?))]).await.ok()?;
                }
                let wall = clock.wall();
                let read = |state: &ControlState, index: u64| Office {
                    index,
                    sessions: state.locks().terms().collect(),
                    waits: state.locks().waits(wall).collect(),
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

    pub(super) fn took_office(&mut self, term: Term, office: Option<Box<Office>>) {
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
        self.detector.lead(now, term);
        self.office_since = now;
        self.counted = now;
        self.led.send_replace(Some(term));
        self.parts.route.learn(Leader { term, node: self.parts.me });
    }

    fn leave_office(&mut self) {
        let term = self.led.borrow().map_or(0, |term| term.0);
        info!(term, "no longer leads the lock managers");
        self.lay_down();
    }

    /// Judges nothing any more, and serves nobody.
    pub(super) fn lay_down(&mut self) {
        self.led.send_replace(None);
        self.leases_step(LeaseInput::Deposed);
        // Dropped senders tell those who wait to ask the next leader.
        self.awaited.clear();
        self.keepalives.clear();
    }
}
