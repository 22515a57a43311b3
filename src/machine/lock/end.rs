//! How holds, waits and sessions end.

use super::{
    Grant, Granted, LockAnswer, LockEffect, LockEventKind, MAX_ENDED_PER_ENTRY, Mode, Refusal,
    state::{Hold, KEPT, Place, Rank, SessionKey, WaitKey, Waiter},
    step::Step,
};
use crate::ids::{FencingToken, LockName, RequestId, SessionId, Term};

impl Step<'_> {
    pub(super) fn close(&mut self, session: &SessionId) -> Result<LockAnswer, Refusal> {
        let key = self.table.key_of(session).ok_or(Refusal::SessionExpired)?;
        self.end_session(key, LockEventKind::Released);
        Ok(LockAnswer::Closed)
    }

    pub(super) fn expire(&mut self, sessions: &[SessionId]) {
        let mut ended = 0;
        for session in sessions {
            let Some(key) = self.table.key_of(session).filter(|_| ended < MAX_ENDED_PER_ENTRY) else { continue };
            ended += self.table.session_row(key).claims as usize;
            self.end_session(key, LockEventKind::Expired);
        }
    }

    /// Ends a session with its waits and holds; `kind` says how the holds ended.
    fn end_session(&mut self, key: SessionKey, kind: LockEventKind) {
        let waits: Vec<WaitKey> = self.table.waits_of(key).collect();
        for wait in waits {
            let Some(wait) = self.end_wait(wait) else { continue };
            let requests = wait.askers.into_iter().map(|asker| asker.request).collect();
            let answer = LockAnswer::Refused(Refusal::SessionExpired);
            self.effects.push(LockEffect::Answered { requests, answer });
        }
        let locks: Vec<LockName> = self.table.locks_of(key).cloned().collect();
        for lock in locks {
            let hold = self.end_hold(kind, key, &lock);
            if let (Some(hold), LockEventKind::Expired) = (hold, kind) {
                self.close_lock(&lock, hold.delay_ms);
            }
        }
        if let Some(session) = self.table.remove_session(key) {
            self.effects.push(LockEffect::SessionClosed { session: session.id });
        }
    }

    pub(super) fn remainders(&mut self, term: Term, sessions: Vec<(SessionId, Option<u64>)>) {
        for (session, remainder_ms) in sessions {
            let Some(key) = self.table.key_of(&session) else { continue };
            self.table.session_row_mut(key).remainder_ms = remainder_ms;
            self.effects.push(LockEffect::Remainder { session, term, remainder_ms });
        }
    }

    /// Each is told who was in its way before any of them left: what the others make room for is too late.
    pub(super) fn waits_over(&mut self, requests: Vec<RequestId>) {
        let refusal = |request: RequestId| {
            let wait = self.table.waits.get(self.table.waiting.get(&request)?)?;
            Some((request, self.table.timeout(wait.session, &wait.claims)))
        };
        let over: Vec<_> = requests.into_iter().filter_map(refusal).collect();
        for (request, refusal) in over {
            self.leave(request, refusal);
        }
    }

    pub(super) fn reopen(&mut self, lock: LockName, ticket: u64) {
        if self.table.closed.get(&lock).is_some_and(|closed| closed.ticket == ticket) {
            self.table.closed.remove(&lock);
            self.touched.insert(lock);
        }
    }

    /// One request gives up its wait, which ends if no other request shares it.
    pub(super) fn leave(&mut self, request: RequestId, refusal: Refusal) {
        let Some(key) = self.table.waiting.get(&request).copied() else { return };
        let wait = self.table.waits.get_mut(&key).expect("a request that waits names its wait");
        if wait.askers.len() == 1 {
            return self.refuse_wait(key, refusal);
        }
        wait.askers.retain(|asker| asker.request != request);
        self.table.waiting.remove(&request);
        let answer = LockAnswer::Refused(refusal);
        self.effects.push(LockEffect::Answered { requests: vec![request], answer });
    }

    fn refuse_wait(&mut self, key: WaitKey, refusal: Refusal) {
        let Some(wait) = self.end_wait(key) else { return };
        let requests = wait.askers.into_iter().map(|asker| asker.request).collect();
        self.effects.push(LockEffect::Answered { requests, answer: LockAnswer::Refused(refusal) });
        if wait.opened_session {
            self.end_session(wait.session, LockEventKind::Released);
        }
    }

    pub(super) fn release(&mut self, session: &SessionId, lock: &LockName) -> Result<LockAnswer, Refusal> {
        let key = self.table.key_of(session).ok_or(Refusal::SessionExpired)?;
        self.end_hold(LockEventKind::Released, key, lock).ok_or(Refusal::NotHolder)?;
        self.stand_in_line_again(lock, &[key]);
        Ok(LockAnswer::Released)
    }

    pub(super) fn downgrade(&mut self, session: &SessionId, lock: &LockName) -> Result<LockAnswer, Refusal> {
        let key = self.table.key_of(session).ok_or(Refusal::SessionExpired)?;
        let hold = self.table.hold_mut(key, lock).ok_or(Refusal::NotHolder)?;
        let before = std::mem::replace(&mut hold.mode, Mode::Shared);
        // Whoever downgrades has heard of the grant: it is no longer anybody's to surrender.
        hold.told = KEPT;
        let hold = *hold;
        self.table.weaker.remove(&(lock.clone(), key));
        let grant = Grant { lock: lock.clone(), mode: Mode::Shared, fencing_token: hold.token };
        let answer = LockAnswer::Granted(self.granted(key, vec![grant]));
        if before == Mode::Exclusive {
            self.event(LockEventKind::Granted, lock, key, &hold, 0);
            self.touched.insert(lock.clone());
            self.stand_in_line_again(lock, &[key]);
        }
        Ok(answer)
    }

    pub(super) fn break_lock(&mut self, lock: &LockName) -> LockAnswer {
        let holders: Vec<SessionKey> = self.table.holders(lock).map(|(session, _)| session).collect();
        let ended: Vec<Hold> =
            holders.iter().filter_map(|key| self.end_hold(LockEventKind::Broken, *key, lock)).collect();
        self.close_lock(lock, ended.iter().map(|hold| hold.delay_ms).max().unwrap_or(0));
        let broken = holders.iter().map(|key| self.table.session_row(*key).id.clone()).collect();
        self.stand_in_line_again(lock, &holders);
        LockAnswer::Broken(broken)
    }

    pub(super) fn surrender(&mut self, granted: &Granted) {
        let Some(key) = self.table.key_of(&granted.session) else { return };
        let opened_with = self.table.session_row(key).opened_with;
        for grant in &granted.grants {
            let row = (grant.lock.clone(), key);
            if let Some(weaker) = self.table.weaker.get_mut(&row)
                && unheard(weaker, grant.fencing_token)
            {
                self.table.weaker.remove(&row);
            }
            let Some(hold) = self.table.holds.get_mut(&row) else { continue };
            if !unheard(hold, grant.fencing_token) {
                continue;
            }
            if let Some(weaker) = self.table.weaker.remove(&row) {
                self.weaken(key, &grant.lock, weaker);
                continue;
            }
            if opened_with == Some(grant.fencing_token) {
                return self.end_session(key, LockEventKind::Released);
            }
            self.end_hold(LockEventKind::Released, key, &grant.lock);
            self.stand_in_line_again(&grant.lock, &[key]);
        }
    }

    /// Takes back an upgrade: the session holds again what it held before.
    fn weaken(&mut self, key: SessionKey, lock: &LockName, weaker: Hold) {
        self.table.add_hold(key, lock, weaker);
        self.event(LockEventKind::Granted, lock, key, &weaker, 0);
        self.touched.insert(lock.clone());
        self.stand_in_line_again(lock, &[key]);
    }

    /// Sessions lost a hold, or some of its strength, on which waits of theirs may have counted: such
    /// a wait needs the lock like any other arrival now, from the end of the line if it stood before
    /// the arrivals, and ends where that closes a cycle (see `deadlock`, cases 3 and 4).
    fn stand_in_line_again(&mut self, lock: &LockName, sessions: &[SessionKey]) {
        let mut affected = Vec::new();
        for session in sessions {
            let waits: Vec<WaitKey> = self.table.waits_of(*session).collect();
            affected
                .extend(waits.into_iter().filter(|wait| self.replace_claim(*wait, lock)).map(|wait| (*session, wait)));
        }
        for (session, wait) in affected {
            if let Some(cycle) = self.table.cycle_through(session, &[wait]) {
                self.refuse_wait(wait, Refusal::Deadlock { cycle });
            }
        }
    }

    /// Moves a wait's claim on a lock that its session no longer holds behind all others. Returns
    /// whether the wait claims that lock at all.
    fn replace_claim(&mut self, key: WaitKey, lock: &LockName) -> bool {
        let table = &mut *self.table;
        let Some(mut wait) = table.waits.remove(&key) else { return false };
        let claim = wait.claims.iter_mut().find(|claim| claim.lock == *lock);
        let claims_it = claim.is_some();
        if let Some(claim) = claim
            && claim.place.rank == Rank::Holding
            && table.hold(wait.session, lock).is_none()
        {
            table.remove_place(claim);
            claim.place = Place { rank: Rank::Arrived, seq: table.next_wait };
            table.next_wait += 1;
            table.add_place(claim, Waiter { session: wait.session, wait: key, mode: claim.mode });
        }
        table.waits.insert(key, wait);
        claims_it
    }
}

/// Takes note that one request did not hear of this token. Returns whether now none has.
fn unheard(hold: &mut Hold, token: FencingToken) -> bool {
    if hold.token != token || hold.told == KEPT {
        return false;
    }
    hold.told = hold.told.saturating_sub(1);
    hold.told == 0
}
