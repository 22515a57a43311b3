//! Linearizability of each lock (Herlihy and Wing, 1990), by the search of Wing and Gong with Lowe's
//! memory of what was tried (`todc-utils`).
//!
//! Besides what clients asked, each session that touched the lock may end once, by itself, not before
//! its last answered keep-alive allows, and each acquire without an answer may be taken back (a node
//! surrenders a grant that nobody got to hear of). Operations of unknown outcome may take effect at
//! any time from when they were asked, or never.
//!
//! Sessions span locks, so an order is sought for each lock alone: sound, and weaker than for all
//! locks at once.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use todc_utils::{Action, History, Specification, WGLChecker};

use super::{Violation, tell};
use crate::{
    ids::{FencingToken, LockName, SessionId},
    machine::lock::Mode,
    sim::{
        api::{Answer, Ask},
        history::{Moment, Record},
    },
};

/// Most operations on one lock that a search is attempted for.
pub const MAX_OPERATIONS: usize = 200;

/// Steps after which a search is given up.
const MAX_STEPS: u64 = 3_000_000;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Which session, in the order of appearance at the lock.
type Who = u16;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Op {
    Granted { who: Who, mode: Mode, token: FencingToken },
    Held { who: Who, holders: Vec<Who> },
    Deadlock,
    Released { who: Who },
    NotHolder { who: Who },
    Dead { who: Who },
    Shown { mode: Option<Mode>, holders: BTreeMap<Who, FencingToken> },
    End { who: Who },
    MaybeAcquired { who: Who, mode: Mode, ask: usize },
    MaybeSurrendered { who: Who, ask: usize },
    MaybeReleased { who: Who },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Hold {
    mode: Mode,
    /// `None`: nobody has been told of it.
    token: Option<FencingToken>,
    /// The acquire without an answer that got it, as long as its session was not told of the grant.
    unheard: Option<usize>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Lock {
    holds: BTreeMap<Who, Hold>,
    dead: BTreeSet<Who>,
    last_token: FencingToken,
}

impl Lock {
    fn admits(&self, who: Who, mode: Mode) -> bool {
        let compatible = |hold: &Hold| mode == Mode::Shared && hold.mode == Mode::Shared;
        !self.dead.contains(&who) && self.holds.iter().all(|(holder, hold)| *holder == who || compatible(hold))
    }

    /// Whether a session could have been granted this with this token; if so, it holds it now.
    fn grant(&mut self, who: Who, mode: Mode, token: FencingToken) -> bool {
        if let Some(hold) = self.holds.get_mut(&who).filter(|hold| hold.mode == mode) {
            let same = hold.token.is_none_or(|known| known == token);
            (hold.token, hold.unheard) = (Some(token), None);
            self.last_token = self.last_token.max(token);
            return same;
        }
        // An upgrade, or a lock that was not held: a token of its own.
        let fresh = self.admits(who, mode) && token > self.last_token;
        if fresh {
            self.last_token = token;
            self.holds.insert(who, Hold { mode, token: Some(token), unheard: None });
        }
        fresh
    }

    fn grant_unheard(&mut self, who: Who, mode: Mode, ask: usize) {
        let has_it = self.holds.get(&who).is_some_and(|hold| hold.mode == Mode::Exclusive || hold.mode == mode);
        if !has_it && self.admits(who, mode) {
            self.holds.insert(who, Hold { mode, token: None, unheard: Some(ask) });
        }
    }

    fn show(&mut self, mode: Option<Mode>, holders: &BTreeMap<Who, FencingToken>) -> bool {
        let held = self.holds.values().next().map(|hold| hold.mode);
        if held != mode || !self.holds.keys().eq(holders.keys()) {
            return false;
        }
        for (hold, token) in self.holds.values_mut().zip(holders.values()) {
            if hold.token.is_some_and(|known| known != *token) {
                return false;
            }
            hold.token = Some(*token);
            self.last_token = self.last_token.max(*token);
        }
        true
    }

    fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::Granted { who, mode, token } => self.grant(*who, *mode, *token),
            Op::Held { who, holders } => {
                let others = self.holds.keys().any(|holder| holder != who);
                others && !self.dead.contains(who) && holders.iter().all(|holder| self.holds.contains_key(holder))
            }
            Op::Deadlock => true,
            Op::Released { who } => self.holds.remove(who).is_some(),
            Op::NotHolder { who } => !self.holds.contains_key(who),
            Op::Dead { who } => self.dead.contains(who),
            Op::Shown { mode, holders } => self.show(*mode, holders),
            Op::End { who } => {
                self.holds.remove(who);
                self.dead.insert(*who);
                true
            }
            Op::MaybeAcquired { who, mode, ask } => {
                self.grant_unheard(*who, *mode, *ask);
                true
            }
            Op::MaybeSurrendered { who, ask } => {
                if self.holds.get(who).is_some_and(|hold| hold.unheard == Some(*ask)) {
                    self.holds.remove(who);
                }
                true
            }
            Op::MaybeReleased { who } => {
                self.holds.remove(who);
                true
            }
        }
    }
}

struct LockSpec;

impl Specification for LockSpec {
    type State = Lock;
    type Operation = Op;

    fn init() -> Lock {
        Lock::default()
    }

    fn apply(op: &Op, state: &Lock) -> (bool, Lock) {
        STEPS.set(STEPS.get() + 1);
        let mut next = state.clone();
        // Over the limit nothing is valid any more, so that the search comes to its end.
        if STEPS.get() <= MAX_STEPS && next.apply(op) { (true, next) } else { (false, state.clone()) }
    }
}

pub(super) fn check(history: &[Record]) -> Vec<Violation> {
    let locks: BTreeSet<&LockName> = history.iter().filter_map(|record| record.ask.lock()).collect();
    locks.into_iter().filter_map(|lock| check_lock(lock, history)).collect()
}

fn check_lock(lock: &LockName, history: &[Record]) -> Option<Violation> {
    let timed = Projection::of(lock, history).finish();
    if timed.len() > 2 * MAX_OPERATIONS {
        return Some(Violation::Undecided(format!("{lock} has {} operations", timed.len())));
    }
    let mut events: Vec<(Option<Moment>, usize, Action<Op>)> = Vec::new();
    for (index, (from, until, op)) in timed.into_iter().enumerate() {
        events.push((Some(from), index, Action::Call(op.clone())));
        events.push((until, index, Action::Response(op)));
    }
    events.sort_by_key(|(moment, index, _)| (moment.is_none(), *moment, *index));
    if events.is_empty() {
        return None;
    }
    STEPS.set(0);
    let actions = events.into_iter().map(|(_, index, action)| (index, action)).collect();
    if WGLChecker::<LockSpec>::is_linearizable(History::from_actions(actions)) {
        return None;
    }
    if STEPS.get() > MAX_STEPS {
        return Some(Violation::Undecided(format!("the search about {lock} was given up after {MAX_STEPS} steps")));
    }
    let about = history.iter().filter(|record| record.ask.lock() == Some(lock));
    let lines: Vec<String> = about.map(|record| format!("\n    {}", tell(record))).collect();
    Some(Violation::NotLinearizable(format!("no order explains what happened to {lock}:{}", lines.concat())))
}

/// What concerns one lock: from when, until when (`None`: for ever) each operation may take effect.
struct Projection<'a> {
    history: &'a [Record],
    sessions: BTreeMap<&'a SessionId, Who>,
    timed: Vec<(Moment, Option<Moment>, Op)>,
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
        let (from, until) = (record.invoked, record.returned);
        let op = match (&record.ask, &record.answer) {
            (Ask::Acquire { session, mode, .. }, Answer::Unknown) => {
                let who = self.who(session);
                self.timed.push((from, None, Op::MaybeSurrendered { who, ask }));
                Op::MaybeAcquired { who, mode: *mode, ask }
            }
            (Ask::Acquire { session, .. }, Answer::Granted { token, mode }) => {
                Op::Granted { who: self.who(session), mode: *mode, token: *token }
            }
            (Ask::Acquire { session, .. }, Answer::Held { holders }) => {
                Op::Held { who: self.who(session), holders: holders.iter().map(|h| self.who(h)).collect() }
            }
            (Ask::Acquire { .. }, Answer::Deadlock) => Op::Deadlock,
            (Ask::Release { session, .. }, Answer::Unknown) => Op::MaybeReleased { who: self.who(session) },
            (Ask::Release { session, .. }, Answer::Released) => Op::Released { who: self.who(session) },
            (Ask::Release { session, .. }, Answer::NotHolder) => Op::NotHolder { who: self.who(session) },
            (Ask::Acquire { session, .. } | Ask::Release { session, .. }, Answer::SessionExpired) => {
                Op::Dead { who: self.who(session) }
            }
            (Ask::Show(_), Answer::Shown { mode, holders }) => {
                let holders = holders.iter().map(|(session, token)| (self.who(session), *token)).collect();
                Op::Shown { mode: *mode, holders }
            }
            // A look that was not answered says nothing.
            (Ask::Show(_), Answer::Unknown) => return,
            (ask, answer) => panic!("{answer:?} is no answer to {ask:?}"),
        };
        self.timed.push((from, until, op));
    }

    /// Adds what the sessions that touched the lock did elsewhere.
    fn finish(mut self) -> Vec<(Moment, Option<Moment>, Op)> {
        for (&session, &who) in &self.sessions {
            let of_session = || self.history.iter().filter(|record| record.ask.session() == Some(session));
            self.timed.push((earliest_expiry(session, self.history), None, Op::End { who }));
            for close in of_session().filter(|record| matches!(record.ask, Ask::Close(_))) {
                if close.is_unknown() || close.answer == Answer::Closed {
                    self.timed.push((close.invoked, close.returned, Op::End { who }));
                }
            }
            let dead = of_session().filter(|record| record.answer == Answer::SessionExpired);
            if let Some(first) = dead.min_by_key(|record| record.returned) {
                self.timed.push((first.invoked, first.returned, Op::Dead { who }));
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
