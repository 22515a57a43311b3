//! What this node itself wants of its lines: loads, stores, conditions, counters, deletes.
//!
//! An operation is decided by the value alone ([`decide`]); whether the line may serve it is the protocol's table. An
//! operation is never sent to an owner: this node becomes one, then computes.

use bytes::Bytes;

use super::{
    Condition, Effect, Lines, Operation, Outcome,
    entry::{Key, Line, Pending, Stored, Through, Wish},
};
use crate::{
    ids::{CacheKey, Tick},
    machine::cache::{
        HomeRequest, LineAct, LineEvent, LineId, LineState, Right, Version, WritePolicy, line_move, rules::Rule,
    },
};

/// What a request is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanting {
    Read,
    Write { need_value: bool },
}

/// What a value makes of an operation.
enum Decision {
    /// Nothing is stored.
    Over(Outcome),
    /// This is stored; a failure is the answer instead.
    Store { body: Option<Bytes>, expires: Option<Tick> },
}

/// What an operation does to this value.
fn decide(operation: &Operation, line: &Line, now: Tick) -> Decision {
    let value = &line.value;
    let body = value.body_at(now);
    let mismatch = || Decision::Over(Outcome::Mismatch { version: body.map(|_| value.version) });
    match operation {
        Operation::Load => Decision::Over(loaded(line.state, value, now)),
        Operation::Store { condition: Condition::Absent, .. } if body.is_some() => mismatch(),
        Operation::Store { condition: Condition::Version(version), .. }
            if body.is_none() || value.version != *version =>
        {
            mismatch()
        }
        Operation::Store { body, ttl_ms, .. } => {
            Decision::Store { body: Some(body.clone()), expires: ttl_ms.map(|ms| now.plus_ms(ms)) }
        }
        // What has expired here may not have everywhere.
        Operation::Delete if value.body.is_none() && !line.unknown => Decision::Over(Outcome::Deleted),
        Operation::Delete => Decision::Store { body: None, expires: None },
        Operation::Increment { by } => match body.map_or(Some(0), integer).and_then(|number| number.checked_add(*by)) {
            Some(sum) => {
                let expires = body.and(value.expires);
                Decision::Store { body: Some(Bytes::from(sum.to_string())), expires }
            }
            None => Decision::Over(Outcome::NotAnInteger),
        },
    }
}

fn integer(body: &Bytes) -> Option<i64> {
    std::str::from_utf8(body).ok()?.parse().ok()
}

pub(super) fn loaded(state: LineState, value: &Stored, now: Tick) -> Outcome {
    match value.body_at(now) {
        Some(body) => Outcome::Loaded { version: value.version, body: body.clone(), state },
        None => Outcome::Miss,
    }
}

/// What is told of a store that is done.
fn stored(operation: &Operation, version: Version, body: Option<&Bytes>) -> Outcome {
    match operation {
        Operation::Increment { .. } => {
            Outcome::Incremented { value: body.and_then(integer).unwrap_or_default(), version }
        }
        Operation::Delete => Outcome::Deleted,
        Operation::Load | Operation::Store { .. } => Outcome::Stored { version },
    }
}

impl Operation {
    fn event(&self) -> LineEvent {
        if matches!(self, Self::Load) { LineEvent::Load } else { LineEvent::Store }
    }

    /// Whether it stores whatever the key holds, and without looking at it.
    fn is_blind(&self) -> bool {
        matches!(self, Self::Store { condition: Condition::Always, .. } | Self::Delete)
    }
}

impl Lines {
    pub(super) fn operate(
        &mut self,
        now: Tick,
        op: u64,
        key: CacheKey,
        operation: Operation,
        effects: &mut Vec<Effect>,
    ) {
        let most = self.settings.max_waiting;
        let entry = self.entry(&key);
        if entry.pending.len() >= most {
            effects.push(Effect::Done { op, outcome: Outcome::Busy });
            return;
        }
        entry.pending.push_back(Pending { op: Some(op), operation, joined: None, came_before: false });
        self.settle(now, &key, effects);
    }

    pub(super) fn abandon(&mut self, op: u64, key: &CacheKey) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        // What is stored is stored, whoever waits: the request that is open for it may count on it.
        entry.pending.retain(|waiting| waiting.op != Some(op) || waiting.operation != Operation::Load);
        entry.pending.iter_mut().filter(|waiting| waiting.op == Some(op)).for_each(|waiting| waiting.op = None);
        let through = entry.line.as_mut().and_then(|line| line.through.as_mut());
        through.into_iter().filter(|through| through.op == Some(op)).for_each(|through| through.op = None);
    }

    /// Does what can be done of what waits for a key, in order, and asks for what the rest needs.
    pub(super) fn advance(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        let mut at = 0;
        while let Some(waiting) = self.keys.get(key).and_then(|entry| entry.pending.get(at)) {
            let waiting = waiting.clone();
            if self.attempt(now, key, &waiting, at, effects) {
                self.entry(key).pending.remove(at);
                // What was done may be what others before it wait for.
                at = 0;
            } else {
                at += 1;
            }
        }
    }

    /// Whether an operation is over, or handed on.
    fn attempt(&mut self, now: Tick, key: &CacheKey, waiting: &Pending, at: usize, effects: &mut Vec<Effect>) -> bool {
        let entry = self.entry(key);
        let state = entry.state();
        let Some(line_move) = line_move(self.settings.protocol, state, waiting.operation.event()) else {
            return false;
        };
        if let Some(line) = self.usable_line(now, key, &waiting.operation) {
            let decision = decide(&waiting.operation, line, now);
            return match decision {
                Decision::Over(outcome) => done(waiting.op, outcome, effects),
                Decision::Store { body, expires } if line_move.act == LineAct::Hit => {
                    self.store(now, key, waiting, body, expires, effects)
                }
                Decision::Store { .. } if line_move.act == LineAct::Upgrade => {
                    self.request(now, key, Wanting::Write { need_value: !waiting.operation.is_blind() }, effects);
                    false
                }
                Decision::Store { .. } => false,
            };
        }
        match line_move.act {
            LineAct::GetS => {
                self.request(now, key, Wanting::Read, effects);
                self.join(now, key, at);
            }
            LineAct::Join => self.join(now, key, at),
            LineAct::GetM => {
                self.request(now, key, Wanting::Write { need_value: !waiting.operation.is_blind() }, effects);
            }
            _ => {}
        }
        false
    }

    /// The line, if it may serve the operation now: the clock was read for each (R12).
    fn usable_line(&self, now: Tick, key: &CacheKey, operation: &Operation) -> Option<&Line> {
        let line = self.keys.get(key)?.line.as_ref()?;
        let of_store = operation.event() == LineEvent::Store && matches!(line.state, LineState::E | LineState::M);
        let is_alive = self.is_alive(now, &line.held) || (of_store && !self.rules.keep(Rule::StoreInsideSession));
        let is_known = !line.unknown || (of_store && operation.is_blind());
        (is_alive && is_known).then_some(line)
    }

    /// A load takes the answer of the open request, if that is not older than the load may read (R3b).
    fn join(&mut self, now: Tick, key: &CacheKey, at: usize) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        let Some(open) = entry.open.as_ref().filter(|open| open.wish == Wish::Read && now < open.joinable_until) else {
            return;
        };
        if let Some(waiting) = entry.pending.get_mut(at) {
            waiting.joined = Some(open.held.grant);
        }
    }

    /// Stores into a line in E or M. Whether that is over or handed on; where another store is on its way to the home,
    /// it waits.
    fn store(
        &mut self,
        now: Tick,
        key: &CacheKey,
        waiting: &Pending,
        body: Option<Bytes>,
        expires: Option<Tick>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let through = self.settings.policy == WritePolicy::Through;
        let again_at = now.plus_ms(self.settings.retry_ms);
        let Some(line) = self.keys.get_mut(key).and_then(|entry| entry.line.as_mut()) else { return false };
        if line.through.is_some() {
            return false;
        }
        let version = if line.fresh { line.stamp } else { line.stamp.next_silent() };
        let outcome = stored(&waiting.operation, version, body.as_ref());
        let value = Stored { version, body, expires };
        if through {
            let through = Through { stamp: version, value, op: waiting.op, outcome, again_at };
            line.through = Some(Box::new(through));
            self.send_through(now, key, effects);
            return true;
        }
        line.take_store(version, value);
        line.dirty = true;
        self.publish(key, effects);
        done(waiting.op, outcome, effects)
    }

    /// Tells the home of the store that is on its way.
    fn send_through(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        let Some(line) = self.keys.get(key).and_then(|entry| entry.line.as_ref()) else { return };
        let Some(through) = &line.through else { return };
        let held = line.held;
        let body = HomeRequest::StoreThrough {
            line: LineId { key: key.clone(), epoch: held.epoch },
            grant: held.grant,
            stamp: through.stamp,
            value: through.value.sent(now),
        };
        self.ask_home(now, held.home, Some((key, held.grant)), body, effects);
    }

    /// Tells the home again of a store that it has not acknowledged for long.
    pub(super) fn store_through_again(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        let again_at = now.plus_ms(self.settings.retry_ms);
        let line = self.keys.get_mut(key).and_then(|entry| entry.line.as_mut());
        let Some(through) = line.and_then(|line| line.through.as_mut()).filter(|through| through.again_at <= now)
        else {
            return;
        };
        through.again_at = again_at;
        self.send_through(now, key, effects);
    }

    /// The home has the store: now it may be seen.
    pub(super) fn stored_through(&mut self, key: &CacheKey, effects: &mut Vec<Effect>) {
        let Some(line) = self.keys.get_mut(key).and_then(|entry| entry.line.as_mut()) else { return };
        let Some(through) = line.through.take() else { return };
        line.take_store(through.stamp, through.value);
        self.publish(key, effects);
        done(through.op, through.outcome, effects);
    }

    /// Serves the loads that joined this request, and nobody else, with what it brought.
    pub(super) fn serve_joined(
        &mut self,
        now: Tick,
        key: &CacheKey,
        nonce: super::Nonce,
        value: &Stored,
        right: Right,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        let state = if right == Right::Exclusive { LineState::E } else { LineState::S };
        let outcome = loaded(state, value, now);
        entry.pending.retain(|waiting| {
            let is_joined = waiting.joined == Some(nonce);
            if is_joined {
                done(waiting.op, outcome.clone(), effects);
            }
            !is_joined
        });
    }

    /// The home has nothing. Nobody is told of a write after that, so a load that came after the request was sent may
    /// have come after a write, too: it asks anew.
    pub(super) fn missed(&mut self, key: &CacheKey, nonce: super::Nonce, effects: &mut Vec<Effect>) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        let keep = self.rules.keep(Rule::MissBeforeSending);
        entry.pending.retain(|waiting| {
            let is_told = waiting.joined == Some(nonce) && (waiting.came_before || !keep);
            if is_told {
                done(waiting.op, Outcome::Miss, effects);
            }
            !is_told
        });
    }
}

impl Line {
    /// The value is this from now on.
    fn take_store(&mut self, stamp: Version, value: Stored) {
        self.stamp = stamp;
        self.value = value;
        self.state = LineState::M;
        (self.fresh, self.unknown, self.published) = (false, false, false);
    }
}

impl Key {
    /// Whether the first that waits would store whatever the key holds.
    pub(super) fn begins_blind(&self) -> bool {
        self.pending
            .iter()
            .find(|waiting| waiting.operation != Operation::Load)
            .is_some_and(|waiting| waiting.operation.is_blind())
    }
}

fn done(op: Option<u64>, outcome: Outcome, effects: &mut Vec<Effect>) -> bool {
    if let Some(op) = op {
        effects.push(Effect::Done { op, outcome });
    }
    true
}
