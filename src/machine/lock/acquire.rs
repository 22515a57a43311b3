//! Sessions opened, locks acquired, lines joined.

use super::{
    Acquire, Bound, LockAnswer, LockEffect, LockEvent, LockEventKind, LockTable, MAX_HOLDERS_TOLD, MAX_LOCKS_HELD,
    MAX_LOCKS_PER_ACQUIRE, MAX_LOCKS_PER_SESSION, MAX_REQUESTS_PER_WAIT, MAX_SESSIONS, MAX_WAITERS_PER_LOCK, MAX_WAITS,
    MAX_WAITS_PER_SESSION, Mode, NewSession, Refusal, Want,
    state::{Asker, Claim, Place, Rank, Session, SessionKey, Wait, WaitKey},
    step::{NewGrant, Step},
};
use crate::{
    error::CycleEdge,
    ids::{RequestId, SessionId},
    mutant::{self, Mutant},
};

/// The term of a session that only a mutant makes.
const MUTANT_TTL_MS: u64 = 30_000;

/// An acquire whose session is alive, or about to be opened.
#[derive(Debug)]
struct Entrant {
    request: RequestId,
    session: SessionKey,
    opens: Option<NewSession>,
    claims: Vec<Claim>,
    wait_ms: u64,
    delay_ms: u32,
}

impl LockTable {
    /// Each lock that is claimed, once, in the order of the wants and with its place to be.
    fn claims(&self, session: SessionKey, wants: Vec<Want>) -> Vec<Claim> {
        let mut claims: Vec<Claim> = Vec::with_capacity(wants.len());
        for Want { lock, mode } in wants {
            if let Some(same) = claims.iter_mut().find(|claim| claim.lock == lock) {
                same.mode = same.mode.max(mode);
                continue;
            }
            let rank = if self.hold(session, &lock).is_some() { Rank::Holding } else { Rank::Arrived };
            claims.push(Claim { lock, mode, place: Place { rank, seq: self.next_wait } });
        }
        claims
    }

    /// Who else holds the first lock that is not to be had, be it that only those who wait for it are
    /// in the way.
    pub(super) fn timeout(&self, session: SessionKey, claims: &[Claim]) -> Refusal {
        let holders: Vec<SessionId> = claims
            .iter()
            .find(|claim| self.blocked(session, claim))
            .into_iter()
            .flat_map(|claim| self.holders(&claim.lock))
            .filter(|(holder, _)| *holder != session)
            .take(MAX_HOLDERS_TOLD)
            .map(|(holder, _)| self.session_row(holder).id.clone())
            .collect();
        Refusal::Timeout { holders }
    }

    /// The wait that the same session has in line for the same locks in the same modes.
    fn same_wait(&self, session: SessionKey, claims: &[Claim]) -> Option<WaitKey> {
        let wanted = |claim: &Claim| claims.iter().any(|own| own.lock == claim.lock && own.mode == claim.mode);
        self.waits_of(session).find(|key| {
            self.waits.get(key).is_some_and(|wait| wait.claims.len() == claims.len() && wait.claims.iter().all(wanted))
        })
    }

    fn room_for_session(&self, new: &NewSession) -> Result<(), Refusal> {
        if self.keys.contains_key(&new.session) {
            return Err(Refusal::SessionTaken);
        }
        within(self.sessions.len() + 1, MAX_SESSIONS, Bound::Sessions)
    }

    /// A lock that is held already needs no more room, unless in a line. One that is closed takes the room of the hold that
    /// was lost.
    fn room_for_claims(&self, session: SessionKey, added: usize) -> Result<(), Refusal> {
        let own = self.sessions.get(&session).map_or(0, |row| row.claims as usize);
        within(self.holds.len() + self.places + self.closed.len() + added, MAX_LOCKS_HELD, Bound::LocksHeld)?;
        within(own + added, MAX_LOCKS_PER_SESSION, Bound::LocksOfASession)
    }

    fn room_in_line(&self, session: SessionKey, claims: &[Claim]) -> Result<(), Refusal> {
        self.room_for_claims(session, claims.len())?;
        within(self.waits.len() + 1, MAX_WAITS, Bound::Waits)?;
        within(self.waits_of(session).count() + 1, MAX_WAITS_PER_SESSION, Bound::WaitsOfASession)?;
        claims.iter().try_for_each(|claim| {
            let waiters = self.lines.get(&claim.lock).map_or(0, |line| line.all.len());
            within(waiters + 1, MAX_WAITERS_PER_LOCK, Bound::WaitersOfALock)
        })
    }

    /// What a grant at once of upgrades would do to those in line; see `deadlock`, case 2.
    fn cycle_by_upgrade(&mut self, session: SessionKey, claims: &[Claim]) -> Option<Vec<CycleEdge>> {
        let waits: Vec<WaitKey> = self.waits_of(session).collect();
        let upgrades: Vec<&Claim> = claims
            .iter()
            .filter(|claim| self.hold(session, &claim.lock).is_some_and(|hold| hold.mode < claim.mode))
            .collect();
        if waits.is_empty() || upgrades.is_empty() {
            return None;
        }
        self.set_modes(session, &upgrades, Mode::Exclusive);
        let cycle = self.cycle_through(session, &waits);
        self.set_modes(session, &upgrades, Mode::Shared);
        cycle
    }

    fn set_modes(&mut self, session: SessionKey, claims: &[&Claim], mode: Mode) {
        for claim in claims {
            if let Some(hold) = self.hold_mut(session, &claim.lock) {
                hold.mode = mode;
            }
        }
    }
}

fn within(count: usize, most: usize, what: Bound) -> Result<(), Refusal> {
    if count <= most { Ok(()) } else { Err(Refusal::Full { what }) }
}

impl Step<'_> {
    pub(super) fn open(&mut self, new: NewSession) -> Result<LockAnswer, Refusal> {
        self.table.room_for_session(&new)?;
        self.add_session(new.clone());
        Ok(LockAnswer::Opened(new))
    }

    fn add_session(&mut self, new: NewSession) -> SessionKey {
        let key = SessionKey(self.table.next_session);
        self.table.next_session += 1;
        let NewSession { session, ttl_ms, owner } = new;
        self.effects.push(LockEffect::SessionOpened { session: session.clone(), ttl_ms });
        let row = Session { id: session, owner, ttl_ms, remainder_ms: None, opened_with: None, claims: 0 };
        self.table.add_session(key, row);
        key
    }

    pub(super) fn acquire(&mut self, request: RequestId, acquire: Acquire) -> Result<LockAnswer, Refusal> {
        if self.table.waiting.contains_key(&request) {
            return Ok(LockAnswer::Waiting);
        }
        let Acquire { session, open, wants, wait_ms, lock_delay_ms } = acquire;
        within(wants.len(), MAX_LOCKS_PER_ACQUIRE, Bound::LocksOfAnAcquire)?;
        let key = match &open {
            Some(new) => {
                self.table.room_for_session(new)?;
                SessionKey(self.table.next_session)
            }
            None => match self.table.key_of(&session) {
                Some(key) => key,
                None if mutant::on(Mutant::NoSessionCheckAtApply) => {
                    self.add_session(NewSession { session, ttl_ms: MUTANT_TTL_MS, owner: "".into() })
                }
                None => return Err(Refusal::SessionExpired),
            },
        };
        let claims = self.table.claims(key, wants);
        let delay_ms = u32::try_from(lock_delay_ms).unwrap_or(u32::MAX);
        let entrant = Entrant { request, session: key, opens: open, claims, wait_ms, delay_ms };
        if !entrant.claims.iter().any(|claim| self.table.blocked(key, claim)) {
            return self.grant_at_once(entrant);
        }
        if wait_ms == 0 {
            return Err(self.table.timeout(key, &entrant.claims));
        }
        match self.table.same_wait(key, &entrant.claims) {
            Some(wait) => self.join(wait, entrant),
            None => self.get_in_line(entrant),
        }
    }

    fn grant_at_once(&mut self, entrant: Entrant) -> Result<LockAnswer, Refusal> {
        let Entrant { session, opens, claims, delay_ms, .. } = entrant;
        let added = claims.iter().filter(|claim| self.table.hold(session, &claim.lock).is_none()).count();
        self.table.room_for_claims(session, added)?;
        if let Some(cycle) = self.table.cycle_by_upgrade(session, &claims) {
            return Err(Refusal::Deadlock { cycle });
        }
        let opened = opens.is_some();
        if let Some(new) = opens {
            self.add_session(new);
        }
        let grants = self.grant(NewGrant { session, claims: &claims, delay_ms, told: 1, waited_ms: 0 });
        if opened {
            self.table.session_row_mut(session).opened_with = grants.first().map(|grant| grant.fencing_token);
        }
        Ok(LockAnswer::Granted(self.granted(session, grants)))
    }

    /// The same session asks again for what it waits for: one wait, several who hear of its end.
    fn join(&mut self, key: WaitKey, entrant: Entrant) -> Result<LockAnswer, Refusal> {
        let since = self.at;
        let wait = self.table.waits.get_mut(&key).expect("the wait was found in this step");
        within(wait.askers.len() + 1, MAX_REQUESTS_PER_WAIT, Bound::RequestsOfAWait)?;
        wait.askers.push(Asker { request: entrant.request, since, wait_ms: entrant.wait_ms });
        wait.delay_ms = wait.delay_ms.max(entrant.delay_ms);
        self.table.waiting.insert(entrant.request, key);
        self.effects.push(LockEffect::WaitBegan { request: entrant.request, wait_ms: entrant.wait_ms });
        Ok(LockAnswer::Waiting)
    }

    fn get_in_line(&mut self, entrant: Entrant) -> Result<LockAnswer, Refusal> {
        let Entrant { request, session, opens, claims, wait_ms, delay_ms } = entrant;
        self.table.room_in_line(session, &claims)?;
        let key = WaitKey(self.table.next_wait);
        let opened_session = opens.is_some();
        match opens {
            Some(new) => drop(self.add_session(new)),
            None => self.refuse_cycle(key, session, &claims)?,
        }
        self.table.next_wait += 1;
        for claim in claims.iter().filter(|claim| !self.table.satisfied(session, claim)) {
            let row = self.table.session_row(session);
            self.effects.push(LockEffect::Event(LockEvent {
                kind: LockEventKind::Waiting,
                lock: claim.lock.clone(),
                session: row.id.clone(),
                owner: row.owner.clone(),
                mode: claim.mode,
                fencing_token: None,
                at: self.at,
                lasted_ms: 0,
            }));
        }
        let askers = vec![Asker { request, since: self.at, wait_ms }];
        self.table.add_wait(key, Wait { session, since: self.at, delay_ms, opened_session, claims, askers });
        self.effects.push(LockEffect::WaitBegan { request, wait_ms });
        Ok(LockAnswer::Waiting)
    }

    /// Refuses a wait that would close a cycle; it stands in line only while that is searched.
    fn refuse_cycle(&mut self, key: WaitKey, session: SessionKey, claims: &[Claim]) -> Result<(), Refusal> {
        if !self.table.may_be_waited_for(session, claims) {
            return Ok(());
        }
        let (claims, askers) = (claims.to_vec(), Vec::new());
        let probe = Wait { session, since: self.at, delay_ms: 0, opened_session: false, claims, askers };
        self.table.add_wait(key, probe);
        // An upgrade puts the session before others in a line, so older waits of it can close a cycle
        // with the new edges too.
        let waits: Vec<WaitKey> = self.table.waits_of(session).collect();
        let cycle = self.table.cycle_through(session, &waits);
        self.table.remove_wait(key);
        cycle.map_or(Ok(()), |cycle| Err(Refusal::Deadlock { cycle }))
    }
}
