//! One entry being applied: what it touched, and the grants that follow from it.

use std::collections::BTreeSet;

use super::{
    Grant, Granted, LockAnswer, LockEffect, LockEvent, LockEventKind, LockTable, Mode,
    state::{Claim, Closed, Hold, KEPT, SessionKey, Wait, WaitKey, conflict},
};
use crate::ids::{FencingToken, LockName, Tick};

/// The application of one entry.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) table: &'a mut LockTable,
    pub(super) at: Tick,
    pub(super) effects: &'a mut Vec<LockEffect>,
    /// Locks that came nearer to being grantable.
    pub(super) touched: BTreeSet<LockName>,
    /// Waits whose session holds more than before.
    pub(super) hopeful: BTreeSet<WaitKey>,
}

/// A grant about to be made.
#[derive(Debug)]
pub(super) struct NewGrant<'a> {
    pub(super) session: SessionKey,
    pub(super) claims: &'a [Claim],
    pub(super) delay_ms: u32,
    /// How many requests hear of it.
    pub(super) told: usize,
    /// How long they waited.
    pub(super) waited_ms: u64,
}

impl LockTable {
    /// Whether the session must still wait for this claim. What it holds already, and its own other
    /// claims, are not in its way.
    pub(super) fn blocked(&self, session: SessionKey, claim: &Claim) -> bool {
        if self.satisfied(session, claim) {
            return false;
        }
        if self.closed.contains_key(&claim.lock) || self.other_holders(session, claim).next().is_some() {
            return true;
        }
        let Some(line) = self.lines.get(&claim.lock) else { return false };
        line.in_the_way(claim.mode, None, claim.place).any(|waiter| waiter.session != session)
    }

    /// Whether the session holds what it claims.
    pub(super) fn satisfied(&self, session: SessionKey, claim: &Claim) -> bool {
        self.hold(session, &claim.lock).is_some_and(|hold| hold.mode >= claim.mode)
    }

    /// The holders that are in the way of a claim.
    pub(super) fn other_holders(&self, session: SessionKey, claim: &Claim) -> impl Iterator<Item = SessionKey> {
        let mode = claim.mode;
        self.holders(&claim.lock)
            .filter(move |(holder, hold)| *holder != session && conflict(hold.mode, mode))
            .map(|(holder, _)| holder)
    }

    /// Marks, as far as a line's head goes, the waits that a change of this lock may have freed.
    ///
    /// With an exclusive holder only its own waits can be; otherwise the shared claims at the head,
    /// the first exclusive one, and further claims of the session that made it: everyone else behind
    /// is blocked by it. So this looks at what it can grant, and at shared claims at the head that
    /// wait for yet another lock; the rest of a long line costs nothing.
    fn heads(&self, lock: &LockName, into: &mut BTreeSet<WaitKey>) {
        let Some(line) = self.lines.get(lock) else { return };
        if self.closed.contains_key(lock) {
            return;
        }
        let mut chief = self.holders(lock).next().filter(|(_, hold)| hold.mode == Mode::Exclusive).map(|(key, _)| key);
        if chief.is_none() {
            for waiter in line.all.values() {
                into.insert(waiter.wait);
                if waiter.mode == Mode::Exclusive {
                    chief = Some(waiter.session);
                    break;
                }
            }
        }
        if let Some(session) = chief {
            into.extend(self.waits_of(session));
        }
    }
}

impl<'a> Step<'a> {
    pub(super) fn new(table: &'a mut LockTable, at: Tick, effects: &'a mut Vec<LockEffect>) -> Self {
        Self { table, at, effects, touched: BTreeSet::new(), hopeful: BTreeSet::new() }
    }

    /// Grants everything that can be granted now, the earliest arrival first.
    ///
    /// Two waits that can both be granted never hinder each other (the later would be blocked by the
    /// earlier's place in a common line), so the order decides over nothing but the tokens. A grant
    /// frees nobody else: the hold is in the way of exactly those for whom the claim was. It may free
    /// other waits of its own session: an upgrade passes the line in which another of them stands.
    pub(super) fn settle(&mut self) {
        while !self.touched.is_empty() || !self.hopeful.is_empty() {
            let mut hopeful = std::mem::take(&mut self.hopeful);
            for lock in std::mem::take(&mut self.touched) {
                self.table.heads(&lock, &mut hopeful);
            }
            for key in hopeful {
                let free = self
                    .table
                    .waits
                    .get(&key)
                    .is_some_and(|wait| !wait.claims.iter().any(|claim| self.table.blocked(wait.session, claim)));
                if free {
                    self.grant_wait(key);
                }
            }
        }
    }

    fn grant_wait(&mut self, key: WaitKey) {
        let Some(wait) = self.end_wait(key) else { return };
        let Wait { session, since, delay_ms, opened_session, claims, askers } = wait;
        let waited_ms = self.at.ms_since(since);
        let grants = self.grant(NewGrant { session, claims: &claims, delay_ms, told: askers.len(), waited_ms });
        if opened_session {
            self.table.session_row_mut(session).opened_with = grants.first().map(|grant| grant.fencing_token);
        }
        let answer = LockAnswer::Granted(self.granted(session, grants));
        let requests = askers.into_iter().map(|asker| asker.request).collect();
        self.effects.push(LockEffect::Answered { requests, answer });
    }

    /// Makes the session the holder of all claims, none of which is blocked.
    pub(super) fn grant(&mut self, new: NewGrant<'_>) -> Vec<Grant> {
        let told = u16::try_from(new.told).unwrap_or(KEPT);
        let mut grants = Vec::with_capacity(new.claims.len());
        for claim in new.claims {
            let held = self.table.hold(new.session, &claim.lock).copied();
            let hold = match held {
                Some(held) if held.mode >= claim.mode => {
                    Hold { delay_ms: held.delay_ms.max(new.delay_ms), told: held.told.saturating_add(told), ..held }
                }
                _ => Hold {
                    token: self.next_token(),
                    since: self.at,
                    delay_ms: new.delay_ms.max(held.map_or(0, |held| held.delay_ms)),
                    told,
                    mode: claim.mode,
                },
            };
            self.table.add_hold(new.session, &claim.lock, hold);
            if let Some(weaker) = held.filter(|held| held.mode < hold.mode) {
                self.table.weaker.insert((claim.lock.clone(), new.session), weaker);
            }
            if held.is_none_or(|held| held.token != hold.token) {
                self.event(LockEventKind::Granted, &claim.lock, new.session, &hold, new.waited_ms);
            }
            grants.push(Grant { lock: claim.lock.clone(), mode: hold.mode, fencing_token: hold.token });
        }
        let mine: Vec<WaitKey> = self.table.waits_of(new.session).collect();
        self.hopeful.extend(mine);
        grants
    }

    fn next_token(&mut self) -> FencingToken {
        self.table.token += 1;
        FencingToken(self.table.token)
    }

    pub(super) fn granted(&self, session: SessionKey, grants: Vec<Grant>) -> Granted {
        let row = self.table.session_row(session);
        Granted { session: row.id.clone(), ttl_ms: row.ttl_ms, grants }
    }

    /// Takes a wait out of its lines, which may let others go on.
    pub(super) fn end_wait(&mut self, key: WaitKey) -> Option<Wait> {
        let wait = self.table.remove_wait(key)?;
        self.touched.extend(wait.claims.iter().map(|claim| claim.lock.clone()));
        Some(wait)
    }

    /// Takes a lock from a holder.
    pub(super) fn end_hold(&mut self, kind: LockEventKind, session: SessionKey, lock: &LockName) -> Option<Hold> {
        let hold = self.table.remove_hold(session, lock)?;
        self.touched.insert(lock.clone());
        self.event(kind, lock, session, &hold, self.at.ms_since(hold.since));
        Some(hold)
    }

    /// Closes a lock whose holder was lost, for the longest delay that has been asked for.
    pub(super) fn close_lock(&mut self, lock: &LockName, delay_ms: u32) {
        if delay_ms == 0 {
            return;
        }
        let before = self.table.closed.get(lock).map_or(0, |closed| closed.delay_ms);
        let delay_ms = before.max(u64::from(delay_ms));
        self.table.next_ticket += 1;
        let ticket = self.table.next_ticket;
        self.table.closed.insert(lock.clone(), Closed { ticket, delay_ms });
        self.effects.push(LockEffect::Closed { lock: lock.clone(), ticket, delay_ms });
    }

    pub(super) fn event(
        &mut self,
        kind: LockEventKind,
        lock: &LockName,
        session: SessionKey,
        hold: &Hold,
        lasted_ms: u64,
    ) {
        let row = self.table.session_row(session);
        self.effects.push(LockEffect::Event(LockEvent {
            kind,
            lock: lock.clone(),
            session: row.id.clone(),
            owner: row.owner.clone(),
            mode: hold.mode,
            fencing_token: Some(hold.token),
            at: self.at,
            lasted_ms,
        }));
    }
}
