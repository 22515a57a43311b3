//! Sessions with homes: every line is readable for as long as the session under which it came is alive.

use super::{
    Effect, Lines, Outcome,
    entry::{Held, Line},
};
use crate::{
    ids::{CacheKey, Tick},
    machine::cache::{HomeId, HomeReply, HomeRequest, Nonce, believed_ms, rules::Rule},
};

/// For so many leases the next home of a slot may still ask what this node was granted by the one before.
const FORGET_AFTER_LEASES: u64 = 64;

/// A session with one home.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Session {
    pub(super) number: Nonce,
    /// It is alive before this moment; `None`: no answer has come yet.
    pub(super) until: Option<Tick>,
    /// When it is renewed, if nothing else does that before.
    pub(super) renew_at: Tick,
    /// How many lines are held, and how many requests are open.
    pub(super) uses: usize,
    /// Until then it is renewed for the sake of lines whose slots it has given up: they are told to the next homes only
    /// while it is alive.
    pub(super) tells_until: Option<Tick>,
}

impl Session {
    /// Whether it is renewed when that is due.
    fn is_used(&self) -> bool {
        self.uses > 0 || self.tells_until.is_some_and(|until| self.renew_at < until)
    }
}

/// A store whose answer will not come any more.
pub(super) fn unknown(line: Line, effects: &mut Vec<Effect>) {
    if let Some(op) = line.through.and_then(|through| through.op) {
        effects.push(Effect::Done { op, outcome: Outcome::Unknown });
    }
}

impl Lines {
    /// The session under which a home is asked now.
    pub(super) fn session_with(&mut self, now: Tick, home: HomeId) -> Nonce {
        if let Some(session) = self.homes.get(&home) {
            return session.number;
        }
        let number = self.next_nonce();
        let renew_at = now.plus_ms(self.settings.renew_ms);
        self.homes.insert(home, Session { number, until: None, renew_at, uses: 0, tells_until: None });
        number
    }

    pub(super) fn is_alive(&self, now: Tick, held: &Held) -> bool {
        self.alive_until(held).is_some_and(|until| now < until)
    }

    pub(super) fn alive_until(&self, held: &Held) -> Option<Tick> {
        self.homes.get(&held.home).filter(|session| session.number == held.session)?.until
    }

    /// The session under which a home is asked now, if it was asked anything.
    pub(super) fn newest_session(&self, home: HomeId) -> Option<Nonce> {
        self.homes.get(&home).map(|session| session.number)
    }

    /// The home says that the session is alive, from the sending of what it answers (R2).
    pub(super) fn extend(
        &mut self,
        now: Tick,
        home: HomeId,
        session: Nonce,
        sent: Tick,
        reply: &HomeReply,
        effects: &mut Vec<Effect>,
    ) {
        let from = if self.rules.keep(Rule::LeaseFromSending) { sent } else { now };
        let Some(lease_ms) = reply.lease_ms else { return };
        let until = from.plus_ms(believed_ms(lease_ms));
        let Some(known) = self.homes.get_mut(&home).filter(|known| known.number == session) else { return };
        if reply.session == session && known.until.is_none_or(|before| before < until) {
            known.until = Some(until);
            effects.push(Effect::Session { home, session, until });
        }
    }

    /// The sessions whose time is over end: what was held under them may not be read or written any more.
    pub(super) fn end_sessions(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        if !self.rules.keep(Rule::StoreInsideSession) {
            return;
        }
        let over = self.homes.iter().filter(|(_, session)| session.until.is_some_and(|until| until <= now));
        let over: Vec<HomeId> = over.map(|(home, _)| *home).collect();
        over.into_iter().for_each(|home| self.session_over(now, home, effects));
        self.forget_unanswered(now);
    }

    /// Sessions of which nothing was heard for many leases, with homes that have no slot any more, are forgotten.
    fn forget_unanswered(&mut self, now: Tick) {
        let patience_ms = FORGET_AFTER_LEASES.saturating_mul(self.settings.lease_ms);
        let is_old = |session: &Session| {
            session.until.is_none() && session.uses == 0 && session.renew_at.plus_ms(patience_ms) <= now
        };
        let slots = &self.slots;
        self.homes.retain(|home, session| !is_old(session) || slots.values().any(|placed| placed.home == Some(*home)));
    }

    /// The home does not take that session any more.
    pub(super) fn session_refused(&mut self, now: Tick, home: HomeId, session: Nonce, effects: &mut Vec<Effect>) {
        if self.homes.get(&home).is_some_and(|known| known.number == session) {
            self.session_over(now, home, effects);
        }
    }

    fn session_over(&mut self, now: Tick, home: HomeId, effects: &mut Vec<Effect>) {
        let number = self.next_nonce();
        let Some(session) = self.homes.get_mut(&home) else { return };
        (session.number, session.until, session.tells_until) = (number, None, None);
        effects.push(Effect::Session { home, session: number, until: Tick(0) });
        let keys: Vec<CacheKey> = self.keys.iter().map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.end_holding(now, key, home, effects);
        }
        // Only now requests go out, under the new session.
        for key in &keys {
            self.put_again(now, key, effects);
            self.settle(now, key, effects);
        }
        let is_placed = self.slots.values().any(|placed| placed.home == Some(home));
        if !is_placed && self.homes.get(&home).is_some_and(|session| session.uses == 0) {
            self.homes.remove(&home);
        }
    }

    /// What was held of a home under a session that is over, and what was asked under it.
    fn end_holding(&mut self, now: Tick, key: &CacheKey, home: HomeId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        // A stranded line counts only while its session is alive.
        let lost = entry.buffer.values().any(|kept| kept.held.home == home && kept.put_at.is_none() && kept.is_owed());
        entry.buffer.retain(|_, kept| kept.held.home != home || kept.put_at.is_some());
        entry.buffer.values_mut().filter(|kept| kept.held.home == home).for_each(|kept| kept.put_at = Some(now));
        if lost {
            effects.push(Effect::DirtyLost { key: key.clone() });
        }
        let again_at = now.plus_ms(self.settings.patience_ms);
        let entry = self.entry(key);
        if entry.open.as_ref().is_some_and(|open| open.held.home == home) {
            if self.rules.keep(Rule::JoinWithinSession) {
                self.close(key);
            } else if let Some(open) = self.entry(key).open.as_mut() {
                open.again_at = again_at;
            }
        }
        let is_held =
            self.keys.get(key).and_then(|entry| entry.line.as_ref()).is_some_and(|line| line.held.home == home);
        if is_held && let Some(line) = self.drop_line(key, effects) {
            self.keep_in_buffer(key, &line, Some(now));
            unknown(line, effects);
        }
    }

    /// Renews a session at once.
    pub(super) fn renew(&mut self, now: Tick, home: HomeId, effects: &mut Vec<Effect>) {
        if self.homes.contains_key(&home) {
            self.ask_home(now, home, None, HomeRequest::Renew, effects);
        }
    }

    pub(super) fn renew_in_time(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        let due = self.homes.iter().filter(|(_, session)| session.is_used() && session.renew_at <= now);
        let due: Vec<HomeId> = due.map(|(home, _)| *home).collect();
        due.into_iter().for_each(|home| self.renew(now, home, effects));
    }

    pub(super) fn sessions_due(&self) -> Option<Tick> {
        let ends = self.homes.values().filter_map(|session| session.until);
        let renewals = self.homes.values().filter(|session| session.is_used()).map(|session| session.renew_at);
        ends.chain(renewals).min()
    }

    /// Every request renews.
    pub(super) fn asked(&mut self, now: Tick, home: HomeId) {
        let renew_ms = self.settings.renew_ms;
        if let Some(session) = self.homes.get_mut(&home) {
            session.renew_at = now.plus_ms(renew_ms);
        }
    }
}
