//! What comes back from homes and owners.

use super::{
    Effect, Lines,
    entry::{Line, Open, Stored, Wish},
    requests::{Call, Callee},
};
use crate::{
    ids::{CacheKey, NodeId, Tick},
    machine::cache::{
        CacheAnswer, Fetch, HomeAnswer, HomeReply, LineId, LineState, Nonce, Previous, PutAck, Refused, Right, Value,
        Version, rules::Rule,
    },
};

/// What a read has brought.
struct Brought {
    stamp: Version,
    value: Value,
    right: Right,
}

impl Lines {
    pub(super) fn home_answered(&mut self, now: Tick, call: u64, reply: Option<HomeReply>, effects: &mut Vec<Effect>) {
        let Some(call) = self.open.remove(&call) else { return };
        let Callee::Home { home, session } = call.to else { return };
        let Some(reply) = reply else {
            self.unanswered(now, &call, effects);
            return;
        };
        reply.moved.iter().for_each(|moved| self.moved(now, home, *moved, effects));
        self.extend(now, home, session, call.sent, &reply, effects);
        self.put_acked(&reply.put_acks);
        match reply.body {
            HomeAnswer::Renewed => {}
            HomeAnswer::SessionOver => self.session_refused(now, home, session, effects),
            body => {
                if let Some(key) = &call.key {
                    self.answered_for(now, key, &call, body, effects);
                    self.settle(now, key, effects);
                }
            }
        }
        reply.put_acks.iter().for_each(|ack| self.settle(now, &ack.line.key, effects));
    }

    fn answered_for(&mut self, now: Tick, key: &CacheKey, call: &Call, body: HomeAnswer, effects: &mut Vec<Effect>) {
        match body {
            HomeAnswer::Data { nonce, stamp, value, right } => {
                self.data(now, key, nonce, call.sent, Brought { stamp, value, right }, effects);
            }
            HomeAnswer::Miss { nonce } => {
                if self.is_open(key, nonce, Wish::Read) {
                    self.missed(key, nonce, effects);
                    self.close(key);
                }
            }
            HomeAnswer::Redirect { nonce, owner, grant } => self.redirected(now, key, nonce, owner, grant, effects),
            HomeAnswer::Grant { nonce, stamp, previous } => {
                self.granted(now, key, (nonce, call.sent), stamp, previous, effects);
            }
            HomeAnswer::PutAck(ack) => self.put_acked(&[ack]),
            HomeAnswer::Stored { grant, stamp, taken } => self.store_answered(key, grant, stamp, taken, effects),
            HomeAnswer::Busy { nonce, retry_ms } => {
                // One that is answered because the same was sent again since says nothing of that.
                if !self.is_sent_since(key, call.sent) {
                    self.put_off(now, key, nonce, retry_ms);
                }
            }
            HomeAnswer::Again { nonce } => {
                // The home says that it never served this nonce and never will, or that what came of it is over.
                if self.open_nonce(key) == Some(nonce) {
                    let was_upgrade = self.close(key).is_some_and(|open| open.wish != Wish::Read);
                    if was_upgrade {
                        self.drop_shared(key, effects);
                    }
                }
            }
            HomeAnswer::NotHome { epoch } => {
                let line_epoch = self.home_of(key).map(|(_, epoch)| epoch);
                if line_epoch < Some(epoch) {
                    let slot = super::SlotId::of(key);
                    effects.push(Effect::PullView { slot, epoch });
                }
                let retry_ms = self.settings.retry_ms;
                self.put_off(now, key, call.nonce, retry_ms);
            }
            HomeAnswer::Renewed | HomeAnswer::SessionOver => {}
        }
    }

    fn open_nonce(&self, key: &CacheKey) -> Option<Nonce> {
        self.keys.get(key)?.open.as_ref().map(|open| open.held.grant)
    }

    /// Whether this answer is to the request that is open (R4).
    fn is_open(&self, key: &CacheKey, nonce: Nonce, wish: Wish) -> bool {
        let Some(open) = self.keys.get(key).and_then(|entry| entry.open.as_ref()) else { return false };
        let fits = matches!((open.wish, wish), (Wish::Read, Wish::Read) | (Wish::Write { .. }, Wish::Write { .. }));
        fits && (open.held.grant == nonce || !self.rules.keep(Rule::AnswerNamesRequest))
    }

    /// A value for a read, from the home or from an owner.
    fn data(
        &mut self,
        now: Tick,
        key: &CacheKey,
        nonce: Nonce,
        sent: Tick,
        brought: Brought,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_open(key, nonce, Wish::Read) {
            return;
        }
        let Some(open) = self.keys.get(key).and_then(|entry| entry.open.clone()) else { return };
        let value = Stored::arrived(brought.value, sent);
        let is_new =
            open.minver.is_none_or(|minver| brought.stamp >= minver) || !self.rules.keep(Rule::DataNotBelowInv);
        if is_new && self.is_alive(now, &open.held) {
            let state = if brought.right == Right::Exclusive { LineState::E } else { LineState::S };
            self.set_line(key, Line::installed(state, brought.stamp, value, &open));
        } else {
            self.serve_joined(now, key, open.held.grant, &value, brought.right, effects);
        }
        self.close(key);
    }

    fn granted(
        &mut self,
        now: Tick,
        key: &CacheKey,
        (nonce, sent): (Nonce, Tick),
        stamp: Version,
        previous: Previous,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_open(key, nonce, Wish::Write { held: None, need_value: false }) {
            return;
        }
        let Some(entry) = self.keys.get(key) else { return };
        let Some(open) = entry.open.clone() else { return };
        let held = entry.line.as_ref().map(|line| (line.value.clone(), line.dirty));
        // What an owner had not brought back yet it still owes, whether a store follows or not.
        let keep_dirty = self.rules.keep(Rule::UpgradeKeepsDirty);
        let (value, dirty) = match previous {
            Previous::Held => held.map_or((None, false), |(value, dirty)| (Some(value), dirty && keep_dirty)),
            Previous::Was(value) => (Some(Stored::arrived(value, sent)), false),
            Previous::Unsaid => (None, false),
        };
        self.close(key);
        let is_blind = self.keys.get(key).is_some_and(|entry| entry.begins_blind());
        // A grant that cannot be used is as one that never came: the home hears so when it recalls it.
        if !self.is_alive(now, &open.held) || (value.is_none() && !is_blind) {
            self.drop_shared(key, effects);
            return;
        }
        let unknown = value.is_none();
        let value = value.unwrap_or(Stored { version: stamp, body: None, expires: None });
        let line = Line { unknown, dirty, fresh: true, ..Line::installed(LineState::M, stamp, value, &open) };
        self.set_line(key, line);
    }

    /// Whoever was granted a line, or may have been, shares it no more: nobody would invalidate what is here.
    fn drop_shared(&mut self, key: &CacheKey, effects: &mut Vec<Effect>) {
        if self.keys.get(key).and_then(|entry| entry.line.as_ref()).is_some_and(|line| line.state == LineState::S) {
            drop(self.drop_line(key, effects));
        }
    }

    fn redirected(
        &mut self,
        now: Tick,
        key: &CacheKey,
        nonce: Nonce,
        owner: NodeId,
        grant: Nonce,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_open(key, nonce, Wish::Read) {
            return;
        }
        let again_at = now.plus_ms(self.settings.patience_ms);
        let Some(open) = self.keys.get_mut(key).and_then(|entry| entry.open.as_mut()) else { return };
        open.again_at = again_at;
        let epoch = open.held.epoch;
        let sent = open.sent;
        let call = Call { to: Callee::Owner { node: owner, grant }, sent, key: Some(key.clone()), nonce };
        let call = self.call(call);
        let line = LineId { key: key.clone(), epoch };
        effects.push(Effect::AskOwner { to: owner, call, message: Fetch { line, grant, nonce } });
    }

    pub(super) fn owner_answered(
        &mut self,
        now: Tick,
        call: u64,
        answer: Option<CacheAnswer>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(call) = self.open.remove(&call) else { return };
        let (Callee::Owner { node: owner, grant }, Some(key)) = (call.to, &call.key) else { return };
        match answer {
            Some(CacheAnswer::Data { nonce, stamp, value }) => {
                let brought = Brought { stamp, value, right: Right::Shared };
                self.data(now, key, nonce, call.sent, brought, effects);
            }
            Some(CacheAnswer::NotOwner(not)) => {
                self.refused(key, call.nonce, Refused { owner, grant, answer: Some(not) })
            }
            _ => self.refused(key, call.nonce, Refused { owner, grant, answer: None }),
        }
        self.settle(now, key, effects);
    }

    /// The owner that a read was sent to had nothing for it: the home is asked again, and told so.
    fn refused(&mut self, key: &CacheKey, nonce: Nonce, refused: Refused) {
        if self.open_nonce(key) == Some(nonce) && self.close(key).is_some() {
            self.entry(key).refused = Some(refused);
        }
    }

    fn store_answered(&mut self, key: &CacheKey, grant: Nonce, stamp: Version, taken: bool, effects: &mut Vec<Effect>) {
        let Some(line) = self.keys.get(key).and_then(|entry| entry.line.as_ref()) else { return };
        let is_it = |line: &Line| line.through.as_ref().is_some_and(|through| through.stamp == stamp);
        if line.held.grant != grant || !is_it(line) {
            return;
        }
        if taken {
            self.stored_through(key, effects);
            return;
        }
        // The grant is over; whether an earlier sending of the store was taken before that is not known.
        if let Some(line) = self.drop_line(key, effects) {
            super::sessions::unknown(line, effects);
        }
    }

    /// What came from the buffer and has arrived goes.
    pub(super) fn put_acked(&mut self, acks: &[PutAck]) {
        for PutAck { line, grant } in acks {
            let Some(entry) = self.keys.get_mut(&line.key) else { continue };
            if entry.buffer.get(grant).is_some_and(|buffered| buffered.held.epoch == line.epoch) {
                entry.buffer.remove(grant);
            }
        }
    }

    /// No answer came, whatever the reason.
    fn unanswered(&mut self, now: Tick, call: &Call, effects: &mut Vec<Effect>) {
        if let Some(key) = &call.key {
            // At once would be a hot loop. Puts and stores have timers of their own.
            let retry_ms = self.settings.retry_ms;
            self.put_off(now, key, call.nonce, retry_ms);
            self.settle(now, key, effects);
        }
    }
}

impl Line {
    fn installed(state: LineState, stamp: Version, value: Stored, open: &Open) -> Self {
        Self {
            state,
            stamp,
            value,
            unknown: false,
            dirty: false,
            fresh: false,
            held: open.held,
            through: None,
            evict: false,
            published: false,
        }
    }
}
