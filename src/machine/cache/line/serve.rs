//! What others ask of lines: invalidations, recalls, fetches. Served at once from what is here, but for what names a
//! request that is still open: that waits for its end.

use super::{
    Effect, Lines,
    entry::{Awaiting, Wanted},
};
use crate::{
    ids::{CacheKey, Epoch, NodeId, Tick},
    machine::cache::{
        CacheAnswer, CacheRequest, Fetch, FromHome, HomeRequest, Inv, LineAct, LineEvent, LineId, LineMove, LineState,
        Nonce, NotOwner, Placed, RecallTo, SlotId, line_move, rules::Rule,
    },
};

/// Most questions that wait for the end of a key's request; what is asked beyond them is asked again.
const MAX_AWAITING: usize = 64;

/// How an invalidation came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// To all: who has nothing stays silent.
    Gossip,
    /// To one that is waited for.
    Unicast,
}

impl Lines {
    pub(super) fn asked_by_home(
        &mut self,
        now: Tick,
        from: NodeId,
        call: u64,
        message: FromHome,
        effects: &mut Vec<Effect>,
    ) {
        if message.home.node != from {
            return;
        }
        self.put_acked(&message.put_acks);
        message.put_acks.iter().for_each(|ack| self.settle(now, &ack.line.key, effects));
        match message.body {
            CacheRequest::Recall { line, grant, to } => {
                self.wanted(
                    now,
                    &line.key,
                    Awaiting { call, epoch: line.epoch, grant, what: Wanted::Recall(to) },
                    effects,
                );
                self.settle(now, &line.key, effects);
            }
            CacheRequest::Ask { line, grant } => {
                let answer = self.shared(now, &line, grant);
                effects.push(Effect::Answer { call, answer });
            }
            CacheRequest::Inv(inv) => {
                self.invalidate(now, &inv, Way::Unicast, effects);
                effects.push(Effect::Answer { call, answer: CacheAnswer::Noted });
            }
            CacheRequest::Recover { slot, epoch, after, before } => {
                self.placed(now, Placed { slot, epoch, home: Some(message.home) }, effects);
                self.recover(now, call, (slot, epoch), after.as_ref(), before, effects);
            }
        }
    }

    pub(super) fn fetch(&mut self, now: Tick, call: u64, fetch: &Fetch, effects: &mut Vec<Effect>) {
        let Fetch { line, grant, nonce } = fetch;
        let what = Wanted::Fetch(*nonce);
        self.wanted(now, &line.key, Awaiting { call, epoch: line.epoch, grant: *grant, what }, effects);
        self.settle(now, &line.key, effects);
    }

    /// The value of a shared line, for a home whose owner of it is dead.
    fn shared(&self, now: Tick, id: &LineId, grant: Nonce) -> CacheAnswer {
        let line = self.keys.get(&id.key).and_then(|entry| entry.line.as_ref());
        let is_it = |line: &&super::Line| line.held.epoch == id.epoch && line.held.grant == grant;
        match line.filter(is_it) {
            Some(line) if line.state == LineState::S && self.is_alive(now, &line.held) => {
                CacheAnswer::Shared { stamp: line.stamp, value: line.value.sent(now) }
            }
            _ => CacheAnswer::No,
        }
    }

    /// Something is wanted of the owner under a grant.
    fn wanted(&mut self, now: Tick, key: &CacheKey, wanted: Awaiting, effects: &mut Vec<Effect>) {
        let known = self.slots.get(&SlotId::of(key)).map_or(Epoch(0), |placed| placed.epoch);
        if wanted.epoch < known && self.rules.keep(Rule::EpochFence) {
            // What is left of that epoch belongs to the home of this one (R8).
            effects.push(Effect::Answer { call: wanted.call, answer: CacheAnswer::Noted });
            return;
        }
        let state = self.keys.get(key).map_or(LineState::I, |entry| entry.state_of(wanted.epoch, wanted.grant));
        let event = match wanted.what {
            Wanted::Recall(to) => LineEvent::recall(to),
            Wanted::Fetch(_) => LineEvent::Fetch,
        };
        let Some(line_move) = line_move(self.settings.protocol, state, event) else {
            effects.push(Effect::Answer { call: wanted.call, answer: CacheAnswer::Noted });
            return;
        };
        if line_move.act == LineAct::Await || self.is_storing(key, wanted.grant) {
            let deferred = &mut self.entry(key).deferred;
            if deferred.len() < MAX_AWAITING {
                deferred.push(wanted);
            } else {
                effects.push(Effect::Answer { call: wanted.call, answer: CacheAnswer::Noted });
            }
            return;
        }
        let answer = match wanted.what {
            Wanted::Recall(_) => self.surrender(now, key, wanted.grant, line_move, effects),
            Wanted::Fetch(nonce) => self.supply(now, key, wanted.grant, nonce, line_move, effects),
        };
        effects.push(Effect::Answer { call: wanted.call, answer });
    }

    /// Whether the owner under this grant has told the home of a store, and waits for its answer: what it holds is
    /// about to change.
    fn is_storing(&self, key: &CacheKey, grant: Nonce) -> bool {
        let line = self.keys.get(key).and_then(|entry| entry.line.as_ref());
        line.is_some_and(|line| line.held.grant == grant && line.through.is_some())
    }

    /// Those that waited for the end of a request are answered once it has ended.
    pub(super) fn answer_deferred(&mut self, now: Tick, key: &CacheKey, effects: &mut Vec<Effect>) {
        let Some(entry) = self.keys.get_mut(key).filter(|entry| !entry.deferred.is_empty()) else { return };
        for wanted in std::mem::take(&mut entry.deferred) {
            self.wanted(now, key, wanted, effects);
        }
    }

    /// Under the session that is named nothing of the grant is here, and will not come any more: what is owned is
    /// either here or in the buffer until its PutAck, and leaves both only to the home. So it is named while it is the
    /// newest one, answered or not.
    fn not_owner(&self, key: &CacheKey) -> CacheAnswer {
        let session = self.home_of(key).and_then(|(home, _)| self.newest_session(home));
        CacheAnswer::NotOwner(NotOwner { session })
    }

    fn surrender(
        &mut self,
        now: Tick,
        key: &CacheKey,
        grant: Nonce,
        line_move: LineMove,
        effects: &mut Vec<Effect>,
    ) -> CacheAnswer {
        match line_move.act {
            LineAct::SurrenderAgain => {
                let line = self.entry(key).line.as_ref().expect("its state says that there is a line");
                CacheAnswer::Surrender { stamp: line.stamp, value: Some(line.value.sent(now)) }
            }
            LineAct::FromBuffer => {
                self.mark_surrendered(key, grant);
                let kept = self.entry(key).buffer.get(&grant).expect("its state says that it is in the buffer");
                CacheAnswer::Surrender { stamp: kept.stamp, value: kept.dirty.then(|| kept.value.sent(now)) }
            }
            LineAct::Surrender => {
                let line = self.give_up(key, line_move.next, effects);
                if line.dirty && self.rules.keep(Rule::SurrenderedStaysBuffered) {
                    self.keep_surrendered(now, key, &line);
                }
                CacheAnswer::Surrender { stamp: line.stamp, value: line.dirty.then(|| line.value.sent(now)) }
            }
            _ => self.not_owner(key),
        }
    }

    /// Ends the ownership of a line, which may stay as a shared one; returns it as it was.
    fn give_up(&mut self, key: &CacheKey, next: LineState, effects: &mut Vec<Effect>) -> super::Line {
        if next != LineState::S {
            return self.drop_line(key, effects).expect("its state says that there is a line");
        }
        let line = self.entry(key).line.as_mut().expect("its state says that there is a line");
        let before = line.clone();
        (line.state, line.dirty, line.fresh, line.published) = (LineState::S, false, false, false);
        self.publish(key, effects);
        before
    }

    fn supply(
        &mut self,
        now: Tick,
        key: &CacheKey,
        grant: Nonce,
        nonce: Nonce,
        line_move: LineMove,
        effects: &mut Vec<Effect>,
    ) -> CacheAnswer {
        match line_move.act {
            LineAct::Supply => {
                let line = self.entry(key).line.as_mut().expect("its state says that there is a line");
                if line.state != line_move.next {
                    (line.state, line.fresh, line.published) = (line_move.next, false, false);
                }
                let (stamp, value) = (line.stamp, line.value.sent(now));
                self.publish(key, effects);
                CacheAnswer::Data { nonce, stamp, value }
            }
            LineAct::FromBuffer => {
                let kept = self.entry(key).buffer.get(&grant).expect("its state says that it is in the buffer").clone();
                if self.is_alive(now, &kept.held) {
                    CacheAnswer::Data { nonce, stamp: kept.stamp, value: kept.value.sent(now) }
                } else {
                    self.not_owner(key)
                }
            }
            _ => self.not_owner(key),
        }
    }

    /// Somebody else writes: what is older goes, and the home hears so.
    pub(super) fn invalidate(&mut self, now: Tick, inv: &Inv, way: Way, effects: &mut Vec<Effect>) {
        if inv.writer == Some(self.me) {
            return;
        }
        let LineId { key, epoch } = &inv.line;
        let slot = SlotId::of(key);
        self.placed(now, Placed { slot, epoch: *epoch, home: Some(inv.home) }, effects);
        let concerned = self.keys.get(key).is_some_and(|entry| {
            let line = entry.line.as_ref().is_some_and(|line| line.held.epoch == *epoch && line.stamp < inv.version);
            line || entry.open.as_ref().is_some_and(|open| open.held.epoch == *epoch)
        });
        let acks = if concerned { self.make_way(key, inv, effects) } else { way == Way::Unicast };
        if acks {
            let body = HomeRequest::InvAck { line: inv.line.clone(), version: inv.version };
            self.tell_home(now, inv.home, body, effects);
        }
        self.settle(now, key, effects);
    }

    /// What the table says of an invalidation; whether it is acknowledged.
    fn make_way(&mut self, key: &CacheKey, inv: &Inv, effects: &mut Vec<Effect>) -> bool {
        let state = self.keys.get(key).map_or(LineState::I, |entry| entry.state());
        let Some(LineMove { act, next }) = line_move(self.settings.protocol, state, LineEvent::Inv) else {
            return false;
        };
        let act = if act == LineAct::Ignore && !self.rules.keep(Rule::OwnerIgnoresInv) { LineAct::Ack } else { act };
        // A store that is on its way to the home makes an owner in E one in M: the Recall waits for its answer.
        let line = self.keys.get(key).and_then(|entry| entry.line.as_ref());
        if act == LineAct::Ignore || line.is_some_and(|line| line.through.is_some()) {
            return false;
        }
        if line.is_some_and(|line| line.stamp < inv.version) {
            debug_assert!(act == LineAct::Ack || next == LineState::IM, "no other move drops a line");
            self.drop_line(key, effects);
        }
        let keep_joinable = !self.rules.keep(Rule::JoinBeforeInv);
        if let Some(open) = self.entry(key).open.as_mut().filter(|_| act == LineAct::AckRaise) {
            open.minver = open.minver.max(Some(inv.version));
            if !keep_joinable {
                open.joinable_until = Tick(0);
            }
        }
        true
    }
}

impl RecallTo {
    /// Its name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "S",
            Self::Invalid => "I",
        }
    }
}
