//! The state of the queues, as a whole, on its way to a learner that lacks records which are no longer kept.

use bytes::Bytes;

use super::{Answer, Effect, MAX_CHUNK_BYTES, Message, Position, Replica, Replication, Rule, follower::Flight};
use crate::ids::{NodeId, Tick};

/// From when a state is asked for until it has arrived, so many times as much of the log is kept, so that the learner
/// can go on from there.
pub(super) const PINNED_FACTOR: usize = 8;
/// After so many messages in its turn that were not answered, another learner has its turn.
const MAX_FAILURES: u32 = 3;
/// Most bytes of a state.
const MAX_STATE_BYTES: u64 = 8 << 30;

/// A state that is being sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Transfer {
    to: NodeId,
    /// What had failed with the learner when its turn began. That does not end its turn: two learners that are both away
    /// would take it from each other without end.
    failures_before: u32,
    /// What was committed when the state was asked for: it goes at least as far.
    asked_at: u64,
    /// `None`: it was asked for.
    state: Option<(Position, Bytes)>,
    /// So many bytes have arrived.
    arrived: usize,
}

impl Transfer {
    pub(super) fn to(&self) -> NodeId {
        self.to
    }

    /// The record that the learner will have once it has the state, or one before that.
    pub(super) fn at(&self) -> u64 {
        self.state.as_ref().map_or(self.asked_at, |(at, _)| at.seq)
    }

    pub(super) fn received(&mut self, upto: u64) {
        let length = self.state.as_ref().map_or(0, |(_, state)| state.len());
        self.arrived = usize::try_from(upto).map_or(length, |upto| upto.min(length));
    }
}

/// A state that is being received.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Incoming {
    pub(super) from: Replica,
    pub(super) at: Position,
    pub(super) total: u64,
    /// Without gap from the beginning.
    pub(super) bytes: Vec<u8>,
}

impl Replication {
    /// Sends the next part of the state, or asks for the state first.
    pub(super) fn send_state(&mut self, now: Tick, to: NodeId, effects: &mut Vec<Effect>) {
        let (epoch, committed, call) = (self.view.epoch, self.log.committed(), self.calls + 1);
        let Some(reign) = &mut self.reign else { return };
        let is_stuck = |transfer: &Transfer| {
            let failures = reign.followers.get(&transfer.to).map(|follower| follower.failures);
            failures.is_none_or(|failures| failures > transfer.failures_before.saturating_add(MAX_FAILURES))
        };
        if reign.transfer.as_ref().is_some_and(|transfer| transfer.to != to && is_stuck(transfer)) {
            reign.transfer = None;
        }
        let Some(follower) = reign.followers.get_mut(&to) else { return };
        let Some(transfer) = &reign.transfer else {
            let failures_before = follower.failures;
            reign.transfer = Some(Transfer { to, failures_before, asked_at: committed, state: None, arrived: 0 });
            effects.push(Effect::TakeState { to });
            return;
        };
        let Some((at, state)) = transfer.state.as_ref().filter(|_| transfer.to == to && follower.flights.is_empty())
        else {
            return;
        };
        let chunk = state.slice(transfer.arrived..state.len().min(transfer.arrived + MAX_CHUNK_BYTES));
        let (at, offset, total) = (*at, transfer.arrived as u64, state.len() as u64);
        follower.flights.insert(call, Flight { sent: now, end: at.seq, committed });
        follower.sent = now;
        self.calls = call;
        effects.push(Effect::Send { to, call, message: Message::Install { epoch, at, offset, total, chunk } });
    }

    /// The state that was asked for.
    pub(super) fn state_taken(&mut self, to: NodeId, at: Position, state: Bytes) {
        let kept = at.seq >= self.log.base().seq && at.seq <= self.log.committed();
        let Some(reign) = &mut self.reign else { return };
        match &mut reign.transfer {
            Some(transfer) if transfer.to == to && transfer.state.is_none() && kept => {
                transfer.state = Some((at, state));
            }
            // Too old already to go on from it: another one is asked for.
            Some(transfer) if transfer.to == to && transfer.state.is_none() => reign.transfer = None,
            _ => {}
        }
    }

    /// A part of a state arrived: `incoming` with its bytes alone, which begin at `offset`.
    pub(super) fn take_state(&mut self, call: u64, offset: u64, incoming: Incoming, effects: &mut Vec<Effect>) {
        let Incoming { at, total, .. } = incoming;
        let (matched, diverged) = (self.following.matched, self.following.diverged);
        let has_it = at.seq <= matched || self.log.position(at.seq) == Some(at);
        // What it has answered for, it keeps, whatever comes late; beyond that it has something else.
        if at.seq < matched || (has_it && !diverged) {
            // As an append without records after that position.
            self.following.incoming = None;
            self.following.matched = self.following.matched.max(at.seq);
            return self.answer_once_held(at.seq, call, effects);
        }
        let is_member = self.view.holders.contains(&self.me) && self.rules.keep(Rule::MembersTakeNoState);
        if is_member || total > MAX_STATE_BYTES || incoming.bytes.len() as u64 > total {
            return self.answer(call, Answer::Busy, effects);
        }
        let received = self.following.incoming.take();
        let is_same = |known: &Incoming| (known.from, known.at, known.total) == (incoming.from, at, total);
        let mut known = received.filter(is_same).unwrap_or_else(|| Incoming { bytes: Vec::new(), ..incoming.clone() });
        if known.bytes.len() as u64 == offset {
            known.bytes.extend_from_slice(&incoming.bytes);
        }
        if known.bytes.len() as u64 >= total {
            return self.install(call, at, Bytes::from(known.bytes), effects);
        }
        let upto = known.bytes.len() as u64;
        self.following.incoming = Some(known);
        self.answer(call, Answer::Received { upto }, effects);
    }

    fn install(&mut self, call: u64, at: Position, state: Bytes, effects: &mut Vec<Effect>) {
        self.log.reset(at);
        let batch = self.durable.reset(at.seq);
        self.following.matched = at.seq;
        self.following.diverged = false;
        effects.push(Effect::Install { batch, at, state });
        self.answer_once_held(at.seq, call, effects);
    }
}
