//! The lock service once more, in the plainest form: lists that are searched from end to end.
//!
//! The table is held against it in `properties`. It shares no code with the table but the vocabulary,
//! grants by trying every wait until none can be granted, and looks for cycles in the whole graph.

use super::{Mode, types::*};
use crate::ids::{FencingToken, LockName, RequestId, SessionId, Term, Tick};

#[derive(Clone, Debug)]
pub(super) struct ModelHold {
    pub(super) lock: LockName,
    pub(super) session: SessionId,
    pub(super) mode: Mode,
    pub(super) token: u64,
    since: Tick,
    delay_ms: u64,
    /// Requests that were told of the token; `None`: it was used since.
    told: Option<usize>,
    /// What an upgrade replaced.
    weaker: Option<Box<ModelHold>>,
}

#[derive(Clone, Debug)]
pub(super) struct ModelClaim {
    pub(super) lock: LockName,
    pub(super) mode: Mode,
    /// Holders' claims first, then by arrival.
    pub(super) place: (bool, u64),
}

#[derive(Clone, Debug)]
pub(super) struct ModelWait {
    pub(super) session: SessionId,
    pub(super) claims: Vec<ModelClaim>,
    askers: Vec<(RequestId, u64)>,
    since: Tick,
    delay_ms: u64,
    opened: bool,
}

#[derive(Clone, Debug)]
struct ModelSession {
    id: SessionId,
    opened_with: Option<u64>,
}

/// All that is told about a step but events and cycles.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Told {
    Answered(Vec<RequestId>, LockAnswer),
    Opened(SessionId),
    Closed(SessionId),
    WaitBegan(RequestId, u64),
    Delay(LockName, u64, u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    sessions: Vec<ModelSession>,
    pub(super) holds: Vec<ModelHold>,
    /// In the order of arrival.
    pub(super) waits: Vec<ModelWait>,
    closed: Vec<(LockName, u64, u64)>,
    pub(super) token: u64,
    places: u64,
    tickets: u64,
    told: Vec<Told>,
}

pub(super) const TTL: u64 = 30_000;

fn clash(one: Mode, other: Mode) -> bool {
    one == Mode::Exclusive || other == Mode::Exclusive
}

impl Model {
    fn alive(&self, session: &SessionId) -> bool {
        self.sessions.iter().any(|row| row.id == *session)
    }

    fn mode_of(&self, session: &SessionId, lock: &LockName) -> Option<Mode> {
        self.holds.iter().find(|hold| hold.session == *session && hold.lock == *lock).map(|hold| hold.mode)
    }

    /// The sessions in the way of a claim: other holders, others before it in line.
    fn in_the_way(&self, session: &SessionId, claim: &ModelClaim) -> (Vec<SessionId>, Vec<SessionId>) {
        if self.mode_of(session, &claim.lock).is_some_and(|mode| mode >= claim.mode) {
            return (vec![], vec![]);
        }
        let holders = self
            .holds
            .iter()
            .filter(|hold| hold.lock == claim.lock && hold.session != *session && clash(hold.mode, claim.mode))
            .map(|hold| hold.session.clone())
            .collect();
        let mut before = Vec::new();
        for wait in self.waits.iter().filter(|wait| wait.session != *session) {
            for other in &wait.claims {
                if other.lock == claim.lock && other.place < claim.place && clash(other.mode, claim.mode) {
                    before.push(wait.session.clone());
                }
            }
        }
        (holders, before)
    }

    fn free(&self, session: &SessionId, claims: &[ModelClaim]) -> bool {
        claims.iter().all(|claim| {
            let held = self.mode_of(session, &claim.lock).is_some_and(|mode| mode >= claim.mode);
            let (holders, before) = self.in_the_way(session, claim);
            let closed = self.closed.iter().any(|(lock, ..)| *lock == claim.lock);
            held || (!closed && holders.is_empty() && before.is_empty())
        })
    }

    /// Who waits for whom: every pair of sessions.
    fn edges(&self) -> Vec<(SessionId, SessionId)> {
        let mut edges = Vec::new();
        for wait in &self.waits {
            for claim in &wait.claims {
                let (holders, before) = self.in_the_way(&wait.session, claim);
                edges.extend(holders.into_iter().chain(before).map(|other| (wait.session.clone(), other)));
            }
        }
        edges
    }

    /// Whether any session waits for itself, by way of any others.
    pub(super) fn has_cycle(&self) -> bool {
        let edges = self.edges();
        self.sessions.iter().any(|row| {
            let mut reached: Vec<&SessionId> = vec![&row.id];
            let mut next = 0;
            while let Some(from) = reached.get(next).copied() {
                for (_, to) in edges.iter().filter(|(source, _)| source == from) {
                    if *to == row.id {
                        return true;
                    }
                    if !reached.contains(&to) {
                        reached.push(to);
                    }
                }
                next += 1;
            }
            false
        })
    }

    /// Whether a wait could be granted that was left waiting.
    pub(super) fn has_forgotten_wait(&self) -> bool {
        self.waits.iter().any(|wait| self.free(&wait.session, &wait.claims))
    }

    fn settle(&mut self, at: Tick) {
        while let Some(n) = self.waits.iter().position(|wait| self.free(&wait.session, &wait.claims)) {
            let wait = self.waits.remove(n);
            let grants = self.grant(at, &wait.session, &wait.claims, wait.delay_ms, wait.askers.len(), wait.opened);
            let requests = wait.askers.iter().map(|(request, _)| *request).collect();
            self.told.push(Told::Answered(requests, grants));
        }
    }

    fn grant(
        &mut self,
        at: Tick,
        session: &SessionId,
        claims: &[ModelClaim],
        delay_ms: u64,
        told: usize,
        opened: bool,
    ) -> LockAnswer {
        let mut grants = Vec::new();
        for ModelClaim { lock, mode, .. } in claims {
            let found = self.holds.iter_mut().find(|hold| hold.session == *session && hold.lock == *lock);
            let hold = match found {
                Some(hold) if hold.mode >= *mode => {
                    hold.told = hold.told.map(|before| before + told);
                    hold.delay_ms = hold.delay_ms.max(delay_ms);
                    hold.clone()
                }
                found => {
                    self.token += 1;
                    let weaker = found.map(|hold| Box::new(hold.clone()));
                    let before = weaker.as_ref().map_or(0, |hold| hold.delay_ms);
                    let hold = ModelHold {
                        lock: lock.clone(),
                        session: session.clone(),
                        mode: *mode,
                        token: self.token,
                        since: at,
                        delay_ms: delay_ms.max(before),
                        told: Some(told),
                        weaker,
                    };
                    self.holds.retain(|hold| hold.session != *session || hold.lock != *lock);
                    self.holds.push(hold.clone());
                    hold
                }
            };
            grants.push(Grant { lock: lock.clone(), mode: hold.mode, fencing_token: FencingToken(hold.token) });
        }
        if opened && let Some(row) = self.sessions.iter_mut().find(|row| row.id == *session) {
            row.opened_with = grants.first().map(|grant| grant.fencing_token.0);
        }
        LockAnswer::Granted(Granted { session: session.clone(), ttl_ms: TTL, grants })
    }

    fn acquire(&mut self, at: Tick, request: RequestId, acquire: &Acquire) -> LockAnswer {
        let session = &acquire.session;
        match (&acquire.open, self.alive(session)) {
            (Some(_), true) => return LockAnswer::Refused(Refusal::SessionTaken),
            (None, false) => return LockAnswer::Refused(Refusal::SessionExpired),
            _ => {}
        }
        let place = self.places;
        let claims: Vec<ModelClaim> = acquire
            .wants
            .iter()
            .map(|Want { lock, mode }| {
                let arrived = self.mode_of(session, lock).is_none();
                ModelClaim { lock: lock.clone(), mode: *mode, place: (arrived, place) }
            })
            .collect();
        let opened = acquire.open.is_some();
        let before = self.clone();
        if opened {
            self.sessions.push(ModelSession { id: session.clone(), opened_with: None });
            self.told.push(Told::Opened(session.clone()));
        }
        if self.free(session, &claims) {
            let answer = self.grant(at, session, &claims, acquire.lock_delay_ms, 1, opened);
            return self.unless_cycle(before, answer);
        }
        if acquire.wait_ms == 0 {
            *self = before;
            return LockAnswer::Refused(self.timeout(session, &claims));
        }
        let asker = (request, acquire.wait_ms);
        let same = |wait: &ModelWait| {
            let has = |claim: &ModelClaim| {
                wait.claims.iter().any(|other| other.lock == claim.lock && other.mode == claim.mode)
            };
            wait.session == *session && wait.claims.len() == claims.len() && claims.iter().all(has)
        };
        self.told.push(Told::WaitBegan(request, acquire.wait_ms));
        if let Some(n) = self.waits.iter().position(same) {
            self.waits[n].askers.push(asker);
            self.waits[n].delay_ms = self.waits[n].delay_ms.max(acquire.lock_delay_ms);
            return LockAnswer::Waiting;
        }
        self.places += 1;
        self.waits.push(ModelWait {
            session: session.clone(),
            claims,
            askers: vec![asker],
            since: at,
            delay_ms: acquire.lock_delay_ms,
            opened,
        });
        self.unless_cycle(before, LockAnswer::Waiting)
    }

    fn unless_cycle(&mut self, before: Self, answer: LockAnswer) -> LockAnswer {
        if self.has_cycle() {
            *self = before;
            return LockAnswer::Refused(Refusal::Deadlock { cycle: vec![] });
        }
        answer
    }

    /// Holders in the order in which their sessions were opened.
    fn timeout(&self, session: &SessionId, claims: &[ModelClaim]) -> Refusal {
        let blocked = claims.iter().find(|claim| !self.free(session, std::slice::from_ref(claim)));
        let others = |claim: &ModelClaim| {
            let of_lock = self.holds.iter().filter(|hold| hold.lock == claim.lock && hold.session != *session);
            of_lock.map(|hold| hold.session.clone()).collect()
        };
        let holders: Vec<_> = blocked.map_or(vec![], others);
        let order = self.sessions.iter().map(|row| row.id.clone());
        Refusal::Timeout { holders: order.filter(|id| holders.contains(id)).collect() }
    }

    fn leave(&mut self, request: RequestId, refusal: Refusal) {
        let asks = |wait: &ModelWait| wait.askers.iter().any(|(asker, _)| *asker == request);
        let Some(n) = self.waits.iter().position(asks) else { return };
        self.told.push(Told::Answered(vec![request], LockAnswer::Refused(refusal)));
        self.waits[n].askers.retain(|(asker, _)| *asker != request);
        if self.waits[n].askers.is_empty() {
            let wait = self.waits.remove(n);
            if wait.opened {
                self.end_session(&wait.session, false);
            }
        }
    }

    fn end_session(&mut self, session: &SessionId, lost: bool) {
        for wait in std::mem::take(&mut self.waits) {
            if wait.session == *session {
                let requests = wait.askers.iter().map(|(request, _)| *request).collect();
                self.told.push(Told::Answered(requests, LockAnswer::Refused(Refusal::SessionExpired)));
            } else {
                self.waits.push(wait);
            }
        }
        let mut held: Vec<ModelHold> = self.holds.iter().filter(|hold| hold.session == *session).cloned().collect();
        held.sort_by(|one, other| one.lock.cmp(&other.lock));
        self.holds.retain(|hold| hold.session != *session);
        for hold in held.iter().filter(|_| lost) {
            self.delay(&hold.lock, hold.delay_ms);
        }
        self.sessions.retain(|row| row.id != *session);
        self.told.push(Told::Closed(session.clone()));
    }

    fn delay(&mut self, lock: &LockName, delay_ms: u64) {
        if delay_ms > 0 {
            let before = self.closed.iter().find(|(closed, ..)| closed == lock).map_or(0, |(.., delay)| *delay);
            self.closed.retain(|(closed, ..)| closed != lock);
            self.tickets += 1;
            let row = (lock.clone(), self.tickets, before.max(delay_ms));
            self.told.push(Told::Delay(row.0.clone(), row.1, row.2));
            self.closed.push(row);
        }
    }

    fn lose(&mut self, lock: &LockName, sessions: &[SessionId]) {
        self.holds.retain(|hold| hold.lock != *lock || !sessions.contains(&hold.session));
        self.stand_again(lock, sessions);
    }

    fn stand_again(&mut self, lock: &LockName, sessions: &[SessionId]) {
        let mut affected = Vec::new();
        for session in sessions {
            let holds = self.mode_of(session, lock).is_some();
            for wait in self.waits.iter_mut().filter(|wait| wait.session == *session) {
                let first = wait.askers[0].0;
                for claim in wait.claims.iter_mut().filter(|claim| claim.lock == *lock) {
                    affected.push(first);
                    if !claim.place.0 && !holds {
                        claim.place = (true, self.places);
                        self.places += 1;
                    }
                }
            }
        }
        // The wait to blame is one without which there are fewer sessions on cycles; with the waits
        // affected asked in order, that is the first through which its session waits for itself.
        for first in affected {
            let Some(n) = self.waits.iter().position(|wait| wait.askers[0].0 == first) else { continue };
            if self.waits_for_itself(n) {
                let wait = self.waits.remove(n);
                let requests = wait.askers.iter().map(|(request, _)| *request).collect();
                let refusal = Refusal::Deadlock { cycle: vec![] };
                self.told.push(Told::Answered(requests, LockAnswer::Refused(refusal)));
                if wait.opened {
                    self.end_session(&wait.session, false);
                }
            }
        }
    }

    /// Whether a session waits for itself by way of this wait.
    fn waits_for_itself(&self, n: usize) -> bool {
        let wait = &self.waits[n];
        let edges = self.edges();
        let direct = wait.claims.iter().flat_map(|claim| {
            let (holders, before) = self.in_the_way(&wait.session, claim);
            holders.into_iter().chain(before)
        });
        let mut reached: Vec<SessionId> = direct.collect();
        let mut next = 0;
        while let Some(from) = reached.get(next).cloned() {
            if from == wait.session {
                return true;
            }
            for (_, to) in edges.iter().filter(|(source, _)| *source == from) {
                if !reached.contains(to) {
                    reached.push(to.clone());
                }
            }
            next += 1;
        }
        false
    }

    pub(super) fn request(&mut self, at: Tick, request: RequestId, input: &LockRequest) -> (LockAnswer, Vec<Told>) {
        let refused = LockAnswer::Refused;
        let answer = match input {
            LockRequest::OpenSession(new) if self.alive(&new.session) => refused(Refusal::SessionTaken),
            LockRequest::OpenSession(new) => {
                self.sessions.push(ModelSession { id: new.session.clone(), opened_with: None });
                self.told.push(Told::Opened(new.session.clone()));
                LockAnswer::Opened(new.clone())
            }
            LockRequest::Acquire(acquire) => self.acquire(at, request, acquire),
            LockRequest::CloseSession(session)
            | LockRequest::Release { session, .. }
            | LockRequest::Downgrade { session, .. }
                if !self.alive(session) =>
            {
                refused(Refusal::SessionExpired)
            }
            LockRequest::CloseSession(session) => {
                self.end_session(session, false);
                LockAnswer::Closed
            }
            LockRequest::Release { session, lock } | LockRequest::Downgrade { session, lock }
                if self.mode_of(session, lock).is_none() =>
            {
                refused(Refusal::NotHolder)
            }
            LockRequest::Release { session, lock } => {
                self.lose(lock, std::slice::from_ref(session));
                LockAnswer::Released
            }
            LockRequest::Downgrade { session, lock } => self.downgrade(session, lock),
            LockRequest::Break(lock) => self.break_lock(lock),
            LockRequest::Abandon { request, .. } => {
                self.leave(*request, Refusal::Abandoned);
                LockAnswer::Abandoned
            }
        };
        self.settle(at);
        (answer, std::mem::take(&mut self.told))
    }

    fn downgrade(&mut self, session: &SessionId, lock: &LockName) -> LockAnswer {
        let before = self.mode_of(session, lock);
        let mut grants = Vec::new();
        for hold in self.holds.iter_mut().filter(|hold| hold.session == *session && hold.lock == *lock) {
            hold.mode = Mode::Shared;
            hold.told = None;
            hold.weaker = None;
            let fencing_token = FencingToken(hold.token);
            grants.push(Grant { lock: lock.clone(), mode: Mode::Shared, fencing_token });
        }
        if before == Some(Mode::Exclusive) {
            self.stand_again(lock, std::slice::from_ref(session));
        }
        LockAnswer::Granted(Granted { session: session.clone(), ttl_ms: TTL, grants })
    }

    fn break_lock(&mut self, lock: &LockName) -> LockAnswer {
        let held: Vec<ModelHold> = self.holds.iter().filter(|hold| hold.lock == *lock).cloned().collect();
        let order = self.sessions.iter().map(|row| row.id.clone());
        let broken: Vec<SessionId> = order.filter(|id| held.iter().any(|hold| hold.session == *id)).collect();
        self.delay(lock, held.iter().map(|hold| hold.delay_ms).max().unwrap_or(0));
        self.lose(lock, &broken);
        LockAnswer::Broken(broken)
    }

    pub(super) fn timer(&mut self, at: Tick, entry_term: Term, input: &LockTimer) -> Vec<Told> {
        match input {
            LockTimer::Expire { term, sessions } if *term == entry_term => {
                for session in sessions {
                    if self.alive(session) {
                        self.end_session(session, true);
                    }
                }
            }
            LockTimer::WaitsOver { term, requests } if *term == entry_term => {
                let refusal = |request: &RequestId| {
                    let asks = |wait: &&ModelWait| wait.askers.iter().any(|(asker, _)| asker == request);
                    let wait = self.waits.iter().find(asks)?;
                    Some((*request, self.timeout(&wait.session, &wait.claims)))
                };
                let over: Vec<_> = requests.iter().filter_map(refusal).collect();
                for (request, refusal) in over {
                    self.leave(request, refusal);
                }
            }
            LockTimer::Reopen { lock, ticket } => self.closed.retain(|(l, t, _)| l != lock || t != ticket),
            _ => {}
        }
        self.settle(at);
        std::mem::take(&mut self.told)
    }

    pub(super) fn surrender(&mut self, at: Tick, granted: &Granted) -> Vec<Told> {
        let session = &granted.session;
        let opened_with = self.sessions.iter().find(|row| row.id == *session).and_then(|row| row.opened_with);
        for grant in &granted.grants {
            let same = |hold: &&mut ModelHold| hold.session == *session && hold.lock == grant.lock;
            let Some(hold) = self.holds.iter_mut().find(same) else { continue };
            let unheard = |hold: &mut ModelHold| {
                if hold.token == grant.fencing_token.0 {
                    hold.told = hold.told.map(|told| told - 1);
                }
                hold.told == Some(0)
            };
            if hold.weaker.as_deref_mut().is_some_and(unheard) {
                hold.weaker = None;
            }
            if !unheard(hold) {
                continue;
            }
            if let Some(weaker) = hold.weaker.take() {
                *hold = *weaker;
                self.stand_again(&grant.lock, std::slice::from_ref(session));
                continue;
            }
            if opened_with == Some(hold.token) {
                self.end_session(session, false);
                break;
            }
            self.lose(&grant.lock, std::slice::from_ref(session));
        }
        self.settle(at);
        std::mem::take(&mut self.told)
    }

    /// The lock as people see it; owners are empty in these histories.
    pub(super) fn view(&self, lock: &LockName) -> Option<LockView> {
        let mut holders = Vec::new();
        for row in &self.sessions {
            for hold in self.holds.iter().filter(|hold| hold.lock == *lock && hold.session == row.id) {
                let fencing_token = FencingToken(hold.token);
                let since = hold.since;
                holders.push(HolderView { session: row.id.clone(), owner: "".into(), fencing_token, since });
            }
        }
        let mut line: Vec<_> = Vec::new();
        for wait in &self.waits {
            for claim in wait.claims.iter().filter(|claim| claim.lock == *lock) {
                let session = wait.session.clone();
                let view = WaiterView { session, owner: "".into(), mode: claim.mode, since: wait.since };
                line.push((claim.place, view));
            }
        }
        line.sort_by_key(|(place, _)| *place);
        let waiters: Vec<WaiterView> = line.into_iter().map(|(_, view)| view).collect();
        let mode = self.holds.iter().find(|hold| hold.lock == *lock).map(|hold| hold.mode);
        let closed = self.closed.iter().any(|(closed, ..)| closed == lock);
        let free = holders.is_empty() && waiters.is_empty() && !closed;
        (!free).then(|| LockView { lock: lock.clone(), mode, holders, waiters })
    }
}
