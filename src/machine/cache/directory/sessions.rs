//! The sessions of caches, as the home counts them: whose session is dead has nothing that it may read.

use super::{Home, HomeEffect, nonces::Nonces};
use crate::{
    ids::{CacheKey, NodeId, Tick},
    machine::cache::{HomeAnswer, HomeReply, Nonce, PutAck, waited_ms},
};

use std::collections::BTreeMap;

/// Most acknowledgements that travel with one message.
const MAX_PUT_ACKS: usize = 64;

/// The newest session of a cache.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Session {
    pub(super) number: Nonce,
    /// It is alive before this moment; `None`: nothing was answered under it yet.
    pub(super) until: Option<Tick>,
    /// What of it was served, of lines that are forgotten.
    pub(super) nonces: Nonces,
    /// What came from its buffer, and has not been told so.
    pub(super) put_acks: Vec<PutAck>,
    /// The keys for which it owes an acknowledgement or a surrender, and since when.
    pub(super) owes: BTreeMap<CacheKey, Tick>,
}

impl Home {
    /// Takes up the session of a message; `false`: it is over. A higher number ends the session before.
    pub(super) fn admit_session(
        &mut self,
        now: Tick,
        from: NodeId,
        number: Nonce,
        effects: &mut Vec<HomeEffect>,
    ) -> bool {
        match self.sessions.get(&from) {
            Some(known) if number < known.number => false,
            Some(known) if number == known.number => known.until.is_none_or(|until| now < until),
            None if self.sessions.len() >= self.settings.max_sessions => false,
            _ => {
                let nonces = Nonces::from(number);
                let session = Session { number, until: None, nonces, put_acks: Vec::new(), owes: BTreeMap::new() };
                self.sessions.insert(from, session);
                self.progress_all(now, effects);
                true
            }
        }
    }

    /// What is kept of a session that is over is its number, so that nothing of it is served again. Of whoever is no
    /// member any more nothing comes.
    pub(super) fn forget_session(&mut self, now: Tick, node: &NodeId) {
        if self.sessions.get(node).is_some_and(|known| known.until.is_none_or(|until| until <= now)) {
            self.sessions.remove(node);
        }
    }

    /// Whether what was granted under that session may still be read.
    pub(super) fn is_alive(&self, now: Tick, node: &NodeId, session: Nonce) -> bool {
        let known = self.sessions.get(node).filter(|known| known.number == session);
        known.is_some_and(|known| known.until.is_some_and(|until| now < until))
    }

    /// Whether a request under that session may still be answered.
    pub(super) fn may_answer(&self, now: Tick, node: &NodeId, session: Nonce) -> bool {
        let known = self.sessions.get(node).filter(|known| known.number == session);
        known.is_some_and(|known| known.until.is_none_or(|until| now < until))
    }

    /// Until when a session may be alive.
    pub(super) fn alive_until(&self, node: &NodeId, session: Nonce) -> Option<Tick> {
        self.sessions.get(node).filter(|known| known.number == session)?.until
    }

    /// Answers, and extends the session from now on (R2), unless its cache has owed something for too long: what is
    /// extended for ever keeps writers waiting for ever.
    pub(super) fn reply(
        &mut self,
        now: Tick,
        to: NodeId,
        call: u64,
        session: Nonce,
        body: HomeAnswer,
        effects: &mut Vec<HomeEffect>,
    ) {
        if !self.may_answer(now, &to, session) {
            self.refuse(call, session, HomeAnswer::SessionOver, effects);
            return;
        }
        let lease_ms = self.settings.lease_ms;
        let owes_long = self
            .sessions
            .get(&to)
            .is_some_and(|known| known.owes.values().any(|since| now.ms_since(*since) > lease_ms / 2));
        let lease_ms = (!owes_long).then_some(lease_ms);
        if let (Some(known), Some(lease_ms)) = (self.sessions.get_mut(&to), lease_ms) {
            known.until = known.until.max(Some(now.plus_ms(waited_ms(lease_ms))));
        }
        let put_acks = self.take_put_acks(&to);
        let moved = self.moves.told(now);
        effects.push(HomeEffect::Answer { call, reply: HomeReply { session, lease_ms, moved, put_acks, body } });
    }

    /// Answers without extending anything.
    pub(super) fn refuse(&self, call: u64, session: Nonce, body: HomeAnswer, effects: &mut Vec<HomeEffect>) {
        let (moved, put_acks) = (Vec::new(), Vec::new());
        effects.push(HomeEffect::Answer { call, reply: HomeReply { session, lease_ms: None, moved, put_acks, body } });
    }

    pub(super) fn take_put_acks(&mut self, node: &NodeId) -> Vec<PutAck> {
        let Some(session) = self.sessions.get_mut(node) else { return Vec::new() };
        let most = session.put_acks.len().min(MAX_PUT_ACKS);
        session.put_acks.drain(..most).collect()
    }

    /// What came from a cache's buffer may go: it hears so with the next message.
    pub(super) fn acknowledge_put(&mut self, node: &NodeId, key: &CacheKey, grant: Nonce) {
        let line = self.line(key);
        if let Some(session) = self.sessions.get_mut(node)
            // What is not told is Put, and acknowledged then.
            && session.put_acks.len() < 16 * MAX_PUT_ACKS
        {
            session.put_acks.push(PutAck { line, grant });
        }
    }

    pub(super) fn owes(&mut self, now: Tick, node: &NodeId, key: &CacheKey) {
        if let Some(session) = self.sessions.get_mut(node) {
            session.owes.entry(key.clone()).or_insert(now);
        }
    }

    pub(super) fn owes_no_more(&mut self, node: &NodeId, key: &CacheKey) {
        if let Some(session) = self.sessions.get_mut(node) {
            session.owes.remove(key);
        }
    }
}
