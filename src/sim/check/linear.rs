//! Linearizability of each lock (Herlihy and Wing, 1990), by just-in-time linearization (Lowe,
//! "Testing for linearizability", 2017, section 3): operations take effect no sooner than an answer
//! needs them to.
//!
//! Besides what clients asked, each session that touched the lock may end once, by itself, not before
//! its last answered keep-alive allows, and each acquire without an answer may be taken back (a node
//! surrenders a grant that nobody got to hear of): also one that was asked again until it was answered,
//! before that answer. Operations of unknown outcome may take effect at any time from when they were
//! asked, or never.
//!
//! Sessions span locks, so an order is sought for each lock alone: sound, and weaker than for all
//! locks at once. The search of Wing and Gong (`todc-utils`) takes minutes where many outcomes are
//! unknown; the tests hold this one against it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Violation,
    model::{Lock, Op, Who},
};
use crate::{
    ids::{LockName, SessionId},
    sim::{
        api::{Answer, Ask, Record},
        history::Moment,
    },
};

/// Steps after which a search is given up.
const MAX_STEPS: usize = 2_000_000;

pub(super) fn check(history: &[Record]) -> Vec<Violation> {
    let locks: BTreeSet<&LockName> = history.iter().filter_map(|record| record.ask.lock()).collect();
    locks.into_iter().filter_map(|lock| check_lock(lock, history)).collect()
}

fn check_lock(lock: &LockName, history: &[Record]) -> Option<Violation> {
    let about = |until: Option<Moment>| {
        let concerned = history.iter().filter(|r| r.ask.lock() == Some(lock) && until.is_none_or(|u| r.invoked <= u));
        concerned.map(|record| format!("\n    {}", record.tell())).collect::<String>()
    };
    match Search::new(Projection::of(lock, history).finish()).run() {
        Verdict::Linearizable => None,
        Verdict::Not { answered } => {
            let at = answered.ms;
            let told = about(Some(answered));
            Some(Violation::NotLinearizable(format!("nothing explains an answer about {lock} at {at} ms:{told}")))
        }
        Verdict::Undecided => Some(Violation::Undecided(format!("too many orders to try for {lock}:{}", about(None)))),
    }
}

/// An operation and when it may have taken effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Timed {
    pub(super) from: Moment,
    /// `None`: any time after.
    pub(super) until: Option<Moment>,
    /// Whether it certainly did, because somebody was told so.
    pub(super) certain: bool,
    pub(super) op: Op,
}

impl Timed {
    /// It took effect before its answer.
    pub(super) fn answered(from: Moment, until: Moment, op: Op) -> Self {
        Self { from, until: Some(until), certain: true, op }
    }

    /// It may have taken effect, up to a moment if there is one.
    pub(super) fn perhaps(from: Moment, until: Option<Moment>, op: Op) -> Self {
        Self { from, until, certain: false, op }
    }
}

/// What a search came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Linearizable,
    /// The answer at this moment has no explanation.
    Not {
        answered: Moment,
    },
    Undecided,
}

/// One way in which things may have come so far.
#[derive(Clone, Debug)]
struct Config {
    lock: Lock,
    /// Operations that took effect and have yet to be answered.
    open: BTreeSet<usize>,
    /// Operations without an answer that took effect, and whose they are.
    unheard: BTreeSet<(usize, Who)>,
}

impl Config {
    /// Whether everything that can follow the other can follow this: what took effect unheard in the
    /// other only may still do so here, or never. What a session that is over in the other might
    /// still have done is nothing that the other could do; here the session can end just as well.
    /// `mourned`: whose end the answer needs that is to be explained now.
    fn dominates(&self, other: &Self, mourned: Option<Who>) -> bool {
        let (lock, theirs) = (&self.lock, &other.lock);
        lock.holds == theirs.holds
            && self.open == other.open
            && lock.last_token <= theirs.last_token
            && lock.dead.is_subset(&theirs.dead)
            && mourned.is_none_or(|who| lock.dead.contains(&who) == theirs.dead.contains(&who))
            && self.unheard.iter().all(|unheard| other.unheard.contains(unheard) || theirs.dead.contains(&unheard.1))
    }
}

/// The search: moments in order, and at each answer all ways in which its operation may have taken
/// effect by then, after as few others as possible; likewise, and without it, at the last moment of
/// what may have taken effect unheard.
pub(super) struct Search {
    operations: Vec<Timed>,
    steps: usize,
}

impl Search {
    pub(super) fn new(operations: Vec<Timed>) -> Self {
        Self { operations, steps: 0 }
    }

    pub(super) fn run(mut self) -> Verdict {
        let ends = self.operations.iter().enumerate().filter_map(|(index, t)| Some((t.until?, t.certain, index)));
        let mut ends: Vec<(Moment, bool, usize)> = ends.collect();
        ends.sort();
        let start = Config { lock: Lock::default(), open: BTreeSet::new(), unheard: BTreeSet::new() };
        let mut configs = vec![start];
        for (moment, certain, index) in ends {
            let without = if certain { Vec::new() } else { configs.clone() };
            configs = self.explain(configs, without, moment, index);
            if self.steps > MAX_STEPS {
                return Verdict::Undecided;
            }
            if configs.is_empty() {
                return Verdict::Not { answered: moment };
            }
        }
        Verdict::Linearizable
    }

    /// All configurations in which the operation has taken effect before its last moment, beside those
    /// `without` it.
    fn explain(&mut self, configs: Vec<Config>, without: Vec<Config>, moment: Moment, index: usize) -> Vec<Config> {
        let begun = |timed: &Timed| timed.from < moment && timed.until.is_none_or(|until| until >= moment);
        // That a session is over stays true, so its discovery need not take effect before its answer.
        let can_wait = |op: &Op| matches!(op, Op::Dead { .. } | Op::Deadlock);
        let candidates: Vec<usize> = (0..self.operations.len())
            .filter(|i| begun(&self.operations[*i]) && (*i == index || !can_wait(&self.operations[*i].op)))
            .collect();
        let named: BTreeSet<Who> = if self.operations[index].certain {
            candidates.iter().flat_map(|i| self.named(*i)).collect()
        } else {
            // What took effect by its last moment may be needed by whatever comes after.
            let open = |i: &usize| self.operations[*i].until.is_none_or(|until| until >= moment);
            (0..self.operations.len()).filter(open).flat_map(|i| self.named(i)).collect()
        };
        let mourned = match self.operations[index].op {
            Op::Dead { who } => Some(who),
            _ => None,
        };
        let (mut explained, mut seen, mut todo) = (without, Vec::new(), VecDeque::from(configs));
        while let Some(mut config) = todo.pop_front() {
            if config.open.remove(&index) || config.unheard.iter().any(|(unheard, _)| *unheard == index) {
                keep(&mut explained, config, mourned);
                continue;
            }
            if !keep(&mut seen, config.clone(), mourned) {
                continue;
            }
            for &next in &candidates {
                self.steps += 1;
                todo.extend(self.effect(&config, next, &named));
            }
            if self.steps > MAX_STEPS {
                break;
            }
        }
        explained
    }

    /// Whose holds an answered operation can need: an acquire that nobody heard of can wait with its
    /// effect until one does, because whoever it would have kept out it keeps out then.
    fn named(&self, index: usize) -> Vec<Who> {
        match &self.operations[index].op {
            Op::Granted { who, .. } | Op::Released { who } => vec![*who],
            Op::Held { holders, .. } => holders.clone(),
            Op::Shown { holders, .. } => holders.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    fn effect(&self, config: &Config, index: usize, named: &BTreeSet<Who>) -> Option<Config> {
        let Timed { certain, op, .. } = &self.operations[index];
        if *certain {
            if config.open.contains(&index) {
                return None;
            }
        } else {
            let (who, holds) = (op.who()?, |who| config.lock.holds.contains_key(&who));
            let idle = match op {
                Op::MaybeAcquired { .. } => !named.contains(&who) && !holds(who),
                Op::MaybeSurrendered { .. } | Op::MaybeReleased { .. } => !holds(who),
                _ => false,
            };
            if idle || config.unheard.contains(&(index, who)) {
                return None;
            }
        }
        let mut next = config.clone();
        if !next.lock.apply(op) {
            return None;
        }
        match (certain, op.who()) {
            (false, Some(who)) => next.unheard.insert((index, who)),
            _ => next.open.insert(index),
        };
        Some(next)
    }
}

/// Adds a configuration unless one that is there dominates it; drops those that it dominates.
fn keep(configs: &mut Vec<Config>, config: Config, mourned: Option<Who>) -> bool {
    if configs.iter().any(|other| other.dominates(&config, mourned)) {
        return false;
    }
    configs.retain(|other| !config.dominates(other, mourned));
    configs.push(config);
    true
}

/// What concerns one lock: from when, until when (`None`: for ever) each operation may take effect.
struct Projection<'a> {
    history: &'a [Record],
    sessions: BTreeMap<&'a SessionId, Who>,
    timed: Vec<Timed>,
}

impl<'a> Projection<'a> {
    fn of(lock: &LockName, history: &'a [Record]) -> Self {
        let mut this = Self { history, sessions: BTreeMap::new(), timed: Vec::new() };
        for (index, record) in history.iter().enumerate() {
            if record.ask.lock() == Some(lock) && !record.is_void() {
                this.add(index, record);
            }
        }
        this
    }

    fn who(&mut self, session: &'a SessionId) -> Who {
        let next = Who::try_from(self.sessions.len()).expect("a lock sees few sessions");
        *self.sessions.entry(session).or_insert(next)
    }

    fn add(&mut self, ask: usize, record: &'a Record) {
        let op = match (&record.ask, &record.answer) {
            (Ask::Acquire { session, .. }, Answer::Granted { token, mode }) => {
                Op::Granted { who: self.who(session), mode: *mode, token: *token }
            }
            (Ask::Acquire { session, .. }, Answer::Held { holders }) => {
                Op::Held { who: self.who(session), holders: holders.iter().map(|h| self.who(h)).collect() }
            }
            (Ask::Acquire { .. }, Answer::Deadlock) => Op::Deadlock,
            (Ask::Release { session, .. }, Answer::Released) => Op::Released { who: self.who(session) },
            (Ask::Release { session, .. }, Answer::NotHolder) => Op::NotHolder { who: self.who(session) },
            (Ask::Acquire { session, .. } | Ask::Release { session, .. }, Answer::SessionExpired) => {
                Op::Dead { who: self.who(session) }
            }
            (Ask::Show(_), Answer::Shown { mode, holders }) => {
                let holders = holders.iter().map(|(session, token)| (self.who(session), *token)).collect();
                Op::Shown { mode: *mode, holders }
            }
            (_, Answer::Unknown) => return self.add_unheard(ask, record),
            (ask, answer) => panic!("{answer:?} is no answer to {ask:?}"),
        };
        self.add_unheard(ask, record);
        let returned = record.returned.expect("what was answered has returned");
        self.timed.push(Timed::answered(record.invoked, returned, op));
    }

    /// Adds what may have come of each attempt without an answer. What is answered under its key stays as
    /// it was answered, so only an acquire, which is given up when its client hangs up and then executed
    /// anew, may have come to more than that.
    fn add_unheard(&mut self, ask: usize, record: &'a Record) {
        let (from, until) = (record.invoked, record.returned);
        match (&record.ask, until) {
            (Ask::Acquire { session, mode, .. }, _) => {
                let (who, mode) = (self.who(session), *mode);
                for attempt in 0..record.unanswered {
                    let ask = (ask, attempt);
                    self.timed.push(Timed::perhaps(from, until, Op::MaybeAcquired { who, mode, ask }));
                    self.timed.push(Timed::perhaps(from, until, Op::MaybeSurrendered { who, ask }));
                }
            }
            (Ask::Release { session, .. }, None) if record.is_unknown() => {
                let who = self.who(session);
                self.timed.push(Timed::perhaps(from, None, Op::MaybeReleased { who }));
            }
            // A look that was not answered says nothing.
            _ => {}
        }
    }

    /// Adds what the sessions that touched the lock did elsewhere.
    fn finish(mut self) -> Vec<Timed> {
        for (&session, &who) in &self.sessions {
            let of_session = || self.history.iter().filter(|record| record.ask.session() == Some(session));
            self.timed.push(Timed::perhaps(earliest_expiry(session, self.history), None, Op::End { who }));
            for close in of_session().filter(|record| matches!(record.ask, Ask::Close(_))) {
                match close.returned {
                    None => self.timed.push(Timed::perhaps(close.invoked, None, Op::End { who })),
                    Some(returned) if close.answer == Answer::Closed => {
                        self.timed.push(Timed::answered(close.invoked, returned, Op::End { who }));
                    }
                    Some(_) => {}
                }
            }
            let dead = of_session().filter(|record| record.answer == Answer::SessionExpired);
            if let Some((first, returned)) = dead.filter_map(|r| Some((r, r.returned?))).min_by_key(|(_, at)| *at) {
                self.timed.push(Timed::answered(first.invoked, returned, Op::Dead { who }));
            }
        }
        self.timed
    }
}

/// Before this no leader may take the session for dead: its term after the sending of its last
/// keep-alive that was answered, less what two clocks stray from each other.
fn earliest_expiry(session: &SessionId, history: &[Record]) -> Moment {
    let renewals = history.iter().filter_map(|record| match &record.answer {
        Answer::Opened { session: opened, ttl_ms } if opened == session => Some((record.invoked.ms, *ttl_ms)),
        Answer::Alive { ttl_ms } if record.ask.session() == Some(session) => Some((record.invoked.ms, *ttl_ms)),
        _ => None,
    });
    Moment::start_of(renewals.map(|(sent_ms, ttl_ms)| sent_ms + ttl_ms - ttl_ms / 100).max().unwrap_or(0))
}
