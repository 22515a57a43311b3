//! The keeper itself: leases and delays by their next moment, keep-alives by round.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    KeepAliveOutcome, LeaseEffect, LeaseInput, MARK_GRID_MS, MAX_ASKERS, MAX_BATCH, MAX_DUE_PER_STEP, MIN_SPLIT_MS,
    RETRY_MS, waits::Waits,
};
use crate::{
    ids::{LockName, RequestId, SessionId, Term, Tick},
    machine::lock::LockTimer,
};

#[derive(Debug)]
struct Lease {
    ttl_ms: u64,
    deadline: Tick,
    /// When to log what is left; `None`: done for this silence.
    mark: Option<Tick>,
    /// Where it stands in the index: at its next moment or before.
    indexed: Option<Tick>,
    /// The earliest moment at which the log's remainder can be over for a next leader, if it may
    /// hold one.
    noted: Option<Tick>,
    /// Whether an entry that notes a remainder is on its way.
    noting: bool,
    /// Whether an entry that clears the remainder is on its way.
    clearing: bool,
    /// Whether an entry that expires it is on its way.
    expiring: bool,
    /// Keep-alives that a round is to confirm.
    asking: usize,
    /// Keep-alives that an entry on its way decides.
    held: Vec<u64>,
}

impl Lease {
    fn next(&self) -> Tick {
        self.mark.map_or(self.deadline, |mark| mark.min(self.deadline))
    }

    /// Takes note of a remainder that may be in the log, beside an earlier one.
    fn note(&mut self, over: Tick) {
        self.noted = Some(self.noted.map_or(over, |noted| noted.min(over)));
    }

    /// Whether to propose now what clears the remainder: not before it is known what became of the
    /// entry that notes it, which the one that clears it must not overtake.
    fn begins_clearing(&mut self) -> bool {
        let begins = !self.held.is_empty() && !self.noting && !self.clearing && !self.expiring;
        self.clearing |= begins;
        begins
    }

    fn begin(&mut self, now: Tick) {
        self.deadline = now.plus_ms(self.ttl_ms);
        self.mark = Some(on_grid(now.plus_ms(self.ttl_ms / 2)));
    }
}

fn on_grid(mark: Tick) -> Tick {
    Tick(mark.0.div_ceil(MARK_GRID_MS).saturating_mul(MARK_GRID_MS))
}

#[derive(Debug)]
struct Delay {
    ticket: u64,
    due: Option<Tick>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Moment {
    Session(SessionId),
    Delay(LockName),
}

/// The leader's judgement of time.
#[derive(Debug, Default)]
pub struct LeaseKeeper {
    term: Option<Term>,
    leases: BTreeMap<SessionId, Lease>,
    waits: Waits,
    delays: BTreeMap<LockName, Delay>,
    index: BTreeSet<(Tick, Moment)>,
    proposals: BTreeMap<u64, LockTimer>,
    next_proposal: u64,
    round: u64,
    /// The keep-alives of the round under way.
    running: Option<Vec<(SessionId, u64)>>,
    /// The keep-alives that came after it began.
    coming: Vec<(SessionId, u64)>,
    askers: usize,
}

/// One step: what the moments and confirmations in it have gathered for proposals.
#[derive(Debug, Default)]
struct Gathered {
    expire: Vec<SessionId>,
    remainders: Vec<(SessionId, Option<u64>)>,
    waits: Vec<RequestId>,
    reopen: Vec<(LockName, u64)>,
}

impl LeaseKeeper {
    /// The keeper of a node that does not lead.
    pub fn new() -> Self {
        Self::default()
    }

    /// When to call [`Self::step`] with [`LeaseInput::Due`]. Never too late, sometimes too early.
    pub fn deadline(&self) -> Option<Tick> {
        self.term?;
        let moment = self.index.first().map(|(at, _)| *at);
        moment.into_iter().chain(self.waits.next()).min()
    }

    /// What is left of a session's term, in milliseconds, and no more than the next leader would give
    /// it; `None` if it is not known here.
    pub fn remaining_ms(&self, session: &SessionId, now: Tick) -> Option<u64> {
        let lease = self.leases.get(session)?;
        let over = lease.noted.map_or(lease.deadline, |noted| noted.min(lease.deadline));
        Some(if lease.expiring { 0 } else { over.ms_since(now) })
    }

    /// Takes an input at boot time `now`, which never goes back; appends what is to be done.
    pub fn step(&mut self, now: Tick, input: LeaseInput, effects: &mut Vec<LeaseEffect>) {
        let mut gathered = Gathered::default();
        match input {
            LeaseInput::Led { term, sessions, waits, delays } => {
                self.depose(effects);
                self.term = Some(term);
                self.lead(now, sessions, waits, delays);
            }
            LeaseInput::Deposed => self.depose(effects),
            LeaseInput::KeepAlive { session, asker } => self.keep_alive(session, asker, effects),
            LeaseInput::WaitBegan { request, wait_ms } => self.waits.begin(request, now.plus_ms(wait_ms)),
            LeaseInput::WaitsEnded { requests } => requests.iter().for_each(|request| self.waits.end(request)),
            // What a leader knows it took over from a later state.
            LeaseInput::Reset if self.term.is_none() => self.waits = Waits::default(),
            _ if self.term.is_none() => {}
            LeaseInput::Reset => {}
            LeaseInput::Opened { session, ttl_ms } => self.open(now, session, ttl_ms, None),
            LeaseInput::Closed { session } => self.close(&session, effects),
            LeaseInput::Remainder { session, remainder_ms: Some(left), .. } => {
                if let Some(lease) = self.leases.get_mut(&session) {
                    lease.note(now.plus_ms(left));
                }
            }
            LeaseInput::Remainder { session, term, remainder_ms: None } => self.cleared(&session, term, effects),
            LeaseInput::DelayBegan { lock, ticket, delay_ms } => {
                self.time_delay(lock, ticket, now.plus_ms(delay_ms));
            }
            LeaseInput::Confirmed { round } => self.confirmed(now, round, &mut gathered, effects),
            LeaseInput::Unconfirmed { round } => self.unconfirmed(round, effects),
            LeaseInput::ProposalApplied { proposal } => self.applied(now, proposal, &mut gathered),
            LeaseInput::ProposalFailed { proposal } => self.failed(now, proposal, &mut gathered, effects),
            LeaseInput::Due => self.due(now, &mut gathered),
            LeaseInput::Late => self.begin_anew(now),
        }
        self.propose_all(gathered, effects);
        self.begin_round(effects);
    }

    fn lead(
        &mut self,
        now: Tick,
        sessions: Vec<(SessionId, u64, Option<u64>)>,
        waits: Vec<(RequestId, u64)>,
        delays: Vec<(LockName, u64, u64)>,
    ) {
        for (session, ttl_ms, remainder_ms) in sessions {
            self.open(now, session, ttl_ms, remainder_ms);
        }
        self.waits.resume(now, waits);
        for (lock, ticket, delay_ms) in delays {
            self.time_delay(lock, ticket, now.plus_ms(delay_ms));
        }
    }

    fn begin_anew(&mut self, now: Tick) {
        let sessions: Vec<SessionId> = self.leases.keys().cloned().collect();
        for session in sessions {
            if let Some(lease) = self.leases.get_mut(&session).filter(|lease| !lease.expiring) {
                lease.begin(now);
                self.index_in_time(&session);
            }
        }
    }

    fn depose(&mut self, effects: &mut Vec<LeaseEffect>) {
        let running = self.running.take().unwrap_or_default();
        let coming = std::mem::take(&mut self.coming);
        let held = std::mem::take(&mut self.leases).into_values().flat_map(|lease| lease.held);
        let askers: Vec<u64> = running.into_iter().chain(coming).map(|(_, asker)| asker).chain(held).collect();
        self.answer_all(askers, KeepAliveOutcome::NotLeader, effects);
        self.term = None;
        self.delays.clear();
        self.index.clear();
        self.proposals.clear();
    }

    fn open(&mut self, now: Tick, session: SessionId, ttl_ms: u64, remainder_ms: Option<u64>) {
        self.unindex_session(&session);
        let mut lease = Lease {
            ttl_ms,
            deadline: now,
            mark: None,
            indexed: None,
            noted: remainder_ms.map(|left| now.plus_ms(left)),
            noting: false,
            clearing: false,
            expiring: false,
            asking: 0,
            held: Vec::new(),
        };
        lease.begin(now);
        if let Some(left) = remainder_ms {
            lease.deadline = now.plus_ms(left);
            lease.mark = (left >= MIN_SPLIT_MS).then(|| on_grid(now.plus_ms(left / 2)));
        }
        let at = lease.next();
        self.leases.insert(session.clone(), lease);
        self.index_session(&session, at);
    }

    fn close(&mut self, session: &SessionId, effects: &mut Vec<LeaseEffect>) {
        self.unindex_session(session);
        if let Some(lease) = self.leases.remove(session) {
            self.answer_all(lease.held, KeepAliveOutcome::Expired, effects);
        }
    }

    /// Only this leader's own entry counts: an earlier leader's, committed late, stands in the log
    /// before any remainder that this one may have proposed.
    fn cleared(&mut self, session: &SessionId, term: Term, effects: &mut Vec<LeaseEffect>) {
        let Some(lease) = self.leases.get_mut(session) else { return };
        if self.term != Some(term) || !lease.clearing {
            return;
        }
        lease.clearing = false;
        lease.noted = None;
        let (held, ttl_ms) = (std::mem::take(&mut lease.held), lease.ttl_ms);
        self.answer_all(held, KeepAliveOutcome::Alive { ttl_ms }, effects);
    }

    fn keep_alive(&mut self, session: SessionId, asker: u64, effects: &mut Vec<LeaseEffect>) {
        let refuse = |outcome| LeaseEffect::KeepAliveAnswered { asker, outcome };
        if self.term.is_none() {
            return effects.push(refuse(KeepAliveOutcome::NotLeader));
        }
        if self.askers >= MAX_ASKERS {
            return effects.push(refuse(KeepAliveOutcome::Overloaded));
        }
        self.askers += 1;
        // An unknown session is confirmed too: another leader, or an entry that is not applied here
        // yet, may know it.
        if let Some(lease) = self.leases.get_mut(&session) {
            if lease.expiring {
                return lease.held.push(asker);
            }
            lease.asking += 1;
        }
        self.coming.push((session, asker));
    }

    fn begin_round(&mut self, effects: &mut Vec<LeaseEffect>) {
        if self.running.is_none() && !self.coming.is_empty() {
            self.round += 1;
            self.running = Some(std::mem::take(&mut self.coming));
            effects.push(LeaseEffect::BeginQuorumRound { round: self.round });
        }
    }

    fn confirmed(&mut self, now: Tick, round: u64, gathered: &mut Gathered, effects: &mut Vec<LeaseEffect>) {
        for (session, asker) in self.end_round(round) {
            let Some(lease) = self.leases.get_mut(&session) else {
                self.answer_all(vec![asker], KeepAliveOutcome::Expired, effects);
                continue;
            };
            lease.asking = lease.asking.saturating_sub(1);
            if lease.expiring {
                lease.held.push(asker);
                continue;
            }
            lease.begin(now);
            self.index_in_time(&session);
            let Some(lease) = self.leases.get_mut(&session) else { continue };
            if lease.noted.is_none() {
                let ttl_ms = lease.ttl_ms;
                self.answer_all(vec![asker], KeepAliveOutcome::Alive { ttl_ms }, effects);
                continue;
            }
            lease.held.push(asker);
            if lease.begins_clearing() {
                gathered.remainders.push((session, None));
            }
        }
    }

    fn unconfirmed(&mut self, round: u64, effects: &mut Vec<LeaseEffect>) {
        let ended = self.end_round(round);
        for (session, _) in &ended {
            if let Some(lease) = self.leases.get_mut(session) {
                lease.asking = lease.asking.saturating_sub(1);
            }
        }
        let askers = ended.into_iter().map(|(_, asker)| asker).collect();
        self.answer_all(askers, KeepAliveOutcome::Unconfirmed, effects);
    }

    fn end_round(&mut self, round: u64) -> Vec<(SessionId, u64)> {
        if round == self.round { self.running.take().unwrap_or_default() } else { Vec::new() }
    }

    fn answer_all(&mut self, askers: Vec<u64>, outcome: KeepAliveOutcome, effects: &mut Vec<LeaseEffect>) {
        self.askers -= askers.len();
        effects.extend(askers.into_iter().map(|asker| LeaseEffect::KeepAliveAnswered { asker, outcome }));
    }

    fn due(&mut self, now: Tick, gathered: &mut Gathered) {
        gathered.waits = self.waits.over(now, MAX_DUE_PER_STEP);
        for _ in 0..MAX_DUE_PER_STEP {
            if self.index.first().is_none_or(|(at, _)| *at > now) {
                return;
            }
            let Some((_, moment)) = self.index.pop_first() else { return };
            match moment {
                Moment::Session(session) => self.session_due(now, session, gathered),
                Moment::Delay(lock) => {
                    if let Some(delay) = self.delays.get_mut(&lock) {
                        delay.due = None;
                        gathered.reopen.push((lock, delay.ticket));
                    }
                }
            }
        }
    }

    fn session_due(&mut self, now: Tick, session: SessionId, gathered: &mut Gathered) {
        let Some(lease) = self.leases.get_mut(&session).filter(|lease| !lease.expiring) else { return };
        lease.indexed = None;
        let again = if lease.deadline <= now {
            if lease.asking == 0 && lease.held.is_empty() {
                lease.expiring = true;
                return gathered.expire.push(session);
            }
            now.plus_ms(RETRY_MS)
        } else if lease.mark.is_some_and(|mark| mark <= now) {
            // A remainder on its way would cross the entry that clears the last one.
            if lease.asking > 0 || lease.noting || lease.clearing {
                lease.mark = Some(now.plus_ms(RETRY_MS));
            } else {
                lease.mark = None;
                lease.noting = true;
                lease.note(lease.deadline);
                gathered.remainders.push((session.clone(), Some(lease.deadline.ms_since(now))));
            }
            lease.next()
        } else {
            lease.next()
        };
        self.index_session(&session, again);
    }

    fn propose_all(&mut self, gathered: Gathered, effects: &mut Vec<LeaseEffect>) {
        let Some(term) = self.term else { return };
        for sessions in gathered.expire.chunks(MAX_BATCH) {
            self.propose(LockTimer::Expire { term, sessions: sessions.to_vec() }, effects);
        }
        for sessions in gathered.remainders.chunks(MAX_BATCH) {
            self.propose(LockTimer::Remainders { term, sessions: sessions.to_vec() }, effects);
        }
        for requests in gathered.waits.chunks(MAX_BATCH) {
            self.propose(LockTimer::WaitsOver { term, requests: requests.to_vec() }, effects);
        }
        for (lock, ticket) in gathered.reopen {
            self.propose(LockTimer::Reopen { lock, ticket }, effects);
        }
    }

    fn propose(&mut self, timer: LockTimer, effects: &mut Vec<LeaseEffect>) {
        self.next_proposal += 1;
        let proposal = self.next_proposal;
        self.proposals.insert(proposal, timer.clone());
        effects.push(LeaseEffect::Propose { proposal, timer });
    }

    fn applied(&mut self, now: Tick, proposal: u64, gathered: &mut Gathered) {
        match self.proposals.remove(&proposal) {
            // Those of many holds are left for the next entry.
            Some(LockTimer::Expire { sessions, .. }) => {
                sessions.into_iter().for_each(|session| self.expiry_failed(session, now));
            }
            Some(LockTimer::Remainders { sessions, .. }) => {
                for (session, _) in sessions.into_iter().filter(|(_, left)| left.is_some()) {
                    self.noted(session, gathered);
                }
            }
            Some(LockTimer::Reopen { lock, ticket })
                if self.delays.get(&lock).is_some_and(|delay| delay.ticket == ticket) =>
            {
                self.delays.remove(&lock);
            }
            Some(LockTimer::WaitsOver { .. } | LockTimer::Reopen { .. }) | None => {}
        }
    }

    /// The entry that notes a session's remainder is in its place in the log, or nowhere: what clears
    /// it can be proposed.
    fn noted(&mut self, session: SessionId, gathered: &mut Gathered) {
        let Some(lease) = self.leases.get_mut(&session) else { return };
        lease.noting = false;
        if lease.begins_clearing() {
            gathered.remainders.push((session, None));
        }
    }

    /// Takes back what a proposal anticipated, and tries again a little later.
    fn failed(&mut self, now: Tick, proposal: u64, gathered: &mut Gathered, effects: &mut Vec<LeaseEffect>) {
        let again = now.plus_ms(RETRY_MS);
        match self.proposals.remove(&proposal) {
            None => {}
            Some(LockTimer::Expire { sessions, .. }) => {
                for session in sessions {
                    self.expiry_failed(session, again);
                }
            }
            Some(LockTimer::Remainders { sessions, .. }) => {
                for (session, left) in sessions {
                    match left {
                        Some(_) => self.remainder_failed(session, again, gathered),
                        None => self.clearing_failed(&session, effects),
                    }
                }
            }
            Some(LockTimer::WaitsOver { requests, .. }) => {
                requests.into_iter().for_each(|request| self.waits.again(request, again));
            }
            Some(LockTimer::Reopen { lock, ticket }) => self.reopening_failed(lock, ticket, again),
        }
    }

    fn reopening_failed(&mut self, lock: LockName, ticket: u64, again: Tick) {
        if self.delays.get(&lock).is_some_and(|delay| delay.ticket == ticket) {
            self.time_delay(lock, ticket, again);
        }
    }

    fn expiry_failed(&mut self, session: SessionId, again: Tick) {
        let Some(lease) = self.leases.get_mut(&session).filter(|lease| lease.expiring) else { return };
        lease.expiring = false;
        let held = std::mem::take(&mut lease.held);
        lease.asking += held.len();
        self.coming.extend(held.into_iter().map(|asker| (session.clone(), asker)));
        self.index_session(&session, again);
    }

    fn remainder_failed(&mut self, session: SessionId, again: Tick, gathered: &mut Gathered) {
        let Some(lease) = self.leases.get_mut(&session) else { return };
        // It may be in the log all the same, or an older one, so the session still counts as noted.
        lease.mark = Some(again);
        self.index_in_time(&session);
        self.noted(session, gathered);
    }

    fn clearing_failed(&mut self, session: &SessionId, effects: &mut Vec<LeaseEffect>) {
        let Some(lease) = self.leases.get_mut(session) else { return };
        lease.clearing = false;
        let held = std::mem::take(&mut lease.held);
        self.answer_all(held, KeepAliveOutcome::Unconfirmed, effects);
    }

    fn time_delay(&mut self, lock: LockName, ticket: u64, due: Tick) {
        let before = self.delays.insert(lock.clone(), Delay { ticket, due: Some(due) });
        if let Some(Delay { due: Some(due), .. }) = before {
            self.index.remove(&(due, Moment::Delay(lock.clone())));
        }
        self.index.insert((due, Moment::Delay(lock)));
    }

    fn index_session(&mut self, session: &SessionId, at: Tick) {
        if let Some(lease) = self.leases.get_mut(session) {
            lease.indexed = Some(at);
            self.index.insert((at, Moment::Session(session.clone())));
        }
    }

    /// A session's next moment has changed: leaves it in the index where it is, unless that is too late.
    fn index_in_time(&mut self, session: &SessionId) {
        let Some(lease) = self.leases.get(session).filter(|lease| !lease.expiring) else { return };
        let (next, indexed) = (lease.next(), lease.indexed);
        if indexed.is_none_or(|indexed| indexed > next) {
            self.unindex_session(session);
            self.index_session(session, next);
        }
    }

    fn unindex_session(&mut self, session: &SessionId) {
        if let Some(at) = self.leases.get_mut(session).and_then(|lease| lease.indexed.take()) {
            self.index.remove(&(at, Moment::Session(session.clone())));
        }
    }
}
