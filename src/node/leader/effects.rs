//! What the task does about what was applied: answers, lock events, and the terms of sessions, waits
//! and delays.

use std::time::Duration;

use tracing::info;

use super::{LOOK, LeaderTask, Outcome};
use crate::{
    error::{Error, ErrorCode},
    machine::{
        control::{Command, ControlState, Effect},
        leases::{KeepAliveOutcome, LeaseEffect, LeaseInput},
        lock::{LockEffect, LockEvent, LockEventKind, LockTimer},
    },
    node::{events::news::News, wire::ClientReply},
    raft::{Applied, ProposeError, RaftNode},
};

impl LeaderTask {
    pub(super) fn applied(&mut self, news: Applied<Effect>) {
        match news {
            Applied::Reset { index } => {
                self.told_index = index;
                self.events.reset(index);
                self.leases_step(LeaseInput::Reset);
                self.view_stale = true;
            }
            Applied::Entry { index, effects, .. } => {
                if !effects.is_empty() {
                    self.told_index = index;
                }
                let (mut events, mut restored) = (Vec::new(), false);
                for effect in effects {
                    match effect {
                        Effect::Lock(LockEffect::Event(event)) => events.push(event),
                        Effect::Lock(effect) => self.lock_effect(index, effect),
                        Effect::Member(_) | Effect::Placement => self.view_stale = true,
                        Effect::Restored => restored = true,
                    }
                }
                if self.is_news(index) {
                    events.iter().for_each(|event| self.count(event));
                    self.tell_broken(&events);
                }
                self.events.push(index, events);
                if restored {
                    self.restored(index);
                }
            }
        }
    }

    /// The lock table is another one: watchers read it anew, and a leader takes its office over again, with the terms of
    /// the sessions that there are now. Who waited is told by the memory of answers when it asks again.
    fn restored(&mut self, index: u64) {
        self.events.reset(index);
        if let Some(term) = self.term_led() {
            info!("the locks and sessions are those of a backup now");
            self.lay_down();
            self.take_office(term);
        }
    }

    fn count(&self, event: &LockEvent) {
        let locks = self.parts.metrics.locks();
        let lasted = Duration::from_millis(event.lasted_ms);
        match event.kind {
            LockEventKind::Granted => locks.granted(event.mode.name(), lasted),
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

    /// Whether an entry came after this run of the node had joined: what is in the log before that, the node catches
    /// up with, and it may be of any age.
    fn is_news(&mut self, index: u64) -> bool {
        if self.caught_up.is_none() {
            let (me, run) = (self.parts.me, self.parts.incarnation);
            let joined = |state: &ControlState, applied: u64| {
                let is_here = state.members().members().get(&me).is_some_and(|member| member.joiner.incarnation == run);
                is_here.then_some(applied)
            };
            self.caught_up = self.parts.raft.with_state(joined).ok().flatten();
        }
        self.caught_up.is_some_and(|caught_up| index > caught_up)
    }

    /// All lock managers know of it; the leader tells the others.
    fn tell_broken(&self, events: &[LockEvent]) {
        let Some(at) = events.first().map(|event| event.at) else { return };
        for news in News::broken_locks(events) {
            if let News::LockBroken { lock, holders, .. } = &news {
                info!(%lock, holders, "an operator broke a lock");
            }
            let (kind, data) = news.clone().event(self.parts.me);
            self.parts.events.push(at, kind, data);
            if self.term_led().is_some() {
                self.parts.news.tell(news);
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

    pub(super) fn leases_step(&mut self, input: LeaseInput) {
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
                        KeepAliveOutcome::Overloaded => ClientReply::Busy,
                        KeepAliveOutcome::NotLeader | KeepAliveOutcome::Unconfirmed => ClientReply::NotLeader(None),
                    });
                }
            }
        }
    }

    /// Proposes until the outcome is certain: a timer's entry may be applied twice without harm. But a
    /// remainder is proposed once, for its repetition could come after the entry that clears it.
    fn propose_timer(&mut self, proposal: u64, timer: LockTimer) {
        let raft = self.parts.raft.clone();
        let once = timer.notes_remainders();
        self.work.spawn(async move {
            let command = Command::Timer(timer);
            let applied = if once {
                raft.propose(vec![command]).await.is_ok()
            } else {
                propose_for_certain(&raft, command).await
            };
            Outcome::TimerProposed { proposal, applied }
        });
    }
}

/// Proposes until the outcome is certain. For entries that may be applied twice without harm and are
/// void in another term. `false`: never applied, or this node leads that term no more.
pub(super) async fn propose_for_certain(raft: &RaftNode<ControlState>, command: Command) -> bool {
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

/// `session-expired`, and what to do about it.
pub(crate) fn session_expired() -> Error {
    Error::new(
        ErrorCode::SessionExpired,
        "the session is not alive: it expired, was closed, or never was; open a new one and acquire again",
    )
}
