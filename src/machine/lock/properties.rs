//! Random histories: the table against the plain model, step by step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::subsequence};

use super::{
    model::{Model, TTL, Told},
    tests::{id, lock, session},
    *,
};
use crate::{
    codec::{decode, encode},
    ids::FencingToken,
};

const SESSIONS: [&str; 5] = ["p", "q", "r", "s", "t"];
const LOCKS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Move {
    Open(usize),
    Close(usize),
    Acquire { session: usize, fresh: u8, wants: Vec<(usize, Mode)>, wait_ms: u64, delay_ms: u64 },
    Downgrade(usize, usize),
    Release(usize, usize),
    Break(usize),
    Abandon(usize),
    Surrender(usize),
    Expire(Vec<usize>, u64),
    WaitsOver(Vec<usize>, u64),
    Reopen(usize, u64),
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Shared), Just(Mode::Exclusive)]
}

fn wants() -> impl Strategy<Value = Vec<(usize, Mode)>> {
    let one = (0..LOCKS.len(), mode()).prop_map(|want| vec![want]);
    let several = (subsequence((0..LOCKS.len()).collect::<Vec<_>>(), 2..=3), prop::collection::vec(mode(), 3))
        .prop_map(|(locks, modes)| locks.into_iter().zip(modes).collect());
    prop_oneof![2 => one, 1 => several]
}

fn moves() -> impl Strategy<Value = Move> {
    let s = || 0..SESSIONS.len();
    let l = || 0..LOCKS.len();
    let acquire = (
        s(),
        0..8u8,
        wants(),
        prop_oneof![1 => Just(0u64), 4 => Just(5_000)],
        prop_oneof![
            3 => Just(0u64),
            1 => 1..900u64
        ],
    )
        .prop_map(|(session, fresh, wants, wait_ms, delay_ms)| Move::Acquire {
            session,
            fresh,
            wants,
            wait_ms,
            delay_ms,
        });
    prop_oneof![
        2 => s().prop_map(Move::Open),
        1 => s().prop_map(Move::Close),
        16 => acquire,
        2 => (s(), l()).prop_map(|(s, l)| Move::Downgrade(s, l)),
        6 => (s(), l()).prop_map(|(s, l)| Move::Release(s, l)),
        1 => l().prop_map(Move::Break),
        2 => (0..12usize).prop_map(Move::Abandon),
        2 => (0..6usize).prop_map(Move::Surrender),
        1 => (prop::collection::vec(s(), 1..3), 1..=2u64).prop_map(|(s, term)| Move::Expire(s, term)),
        1 => (prop::collection::vec(0..12usize, 1..3), 1..=2u64).prop_map(|(r, term)| Move::WaitsOver(r, term)),
        2 => (l(), 0..3u64).prop_map(|(l, ticket)| Move::Reopen(l, ticket)),
    ]
}

/// The table, the model, and what a watcher has gathered from the events.
struct Pair {
    table: LockTable,
    model: Model,
    seq: u64,
    watched: BTreeMap<(LockName, SessionId), (Mode, FencingToken)>,
    last_token: FencingToken,
    /// What each session was granted of each lock: an upgrade that is taken back gives it the last again.
    tokens: BTreeSet<(LockName, SessionId, FencingToken)>,
    /// Grants by the requests that were told of them and have not surrendered them.
    unheard: Vec<Granted>,
    answered: BTreeSet<RequestId>,
    waiting: BTreeSet<RequestId>,
}

/// Cycles have many shortest forms; which one is told is checked elsewhere.
fn without_cycle(answer: LockAnswer) -> LockAnswer {
    match answer {
        LockAnswer::Refused(Refusal::Deadlock { cycle }) => {
            let sessions: BTreeSet<&SessionId> = cycle.iter().map(|edge| &edge.session).collect();
            assert!(cycle.len() >= 2 && sessions.len() == cycle.len(), "no simple cycle: {cycle:?}");
            LockAnswer::Refused(Refusal::Deadlock { cycle: vec![] })
        }
        other => other,
    }
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            table: LockTable::new(),
            model: Model::default(),
            seq: 0,
            watched: BTreeMap::new(),
            last_token: FencingToken(0),
            tokens: BTreeSet::new(),
            unheard: Vec::new(),
            answered: BTreeSet::new(),
            waiting: BTreeSet::new(),
        };
        (0..3).for_each(|n| pair.make(Move::Open(n)));
        pair
    }

    fn at(&self) -> Tick {
        Tick(1_000 + self.seq * 7)
    }

    fn recent(&self, back: usize) -> RequestId {
        id(self.seq.saturating_sub(back as u64))
    }

    fn new_session(&self, name: SessionId) -> NewSession {
        NewSession { session: name, ttl_ms: TTL, owner: "".into() }
    }

    fn make(&mut self, step: Move) {
        self.seq += 1;
        let s = |n: usize| session(SESSIONS[n]);
        let l = |n: usize| lock(LOCKS[n]);
        match step {
            Move::Open(n) => self.request(LockRequest::OpenSession(self.new_session(s(n)))),
            Move::Close(n) => self.request(LockRequest::CloseSession(s(n))),
            Move::Acquire { session: n, fresh, wants, wait_ms, delay_ms } => {
                let open = (fresh == 0).then(|| self.new_session(s(n)));
                let wants = wants.into_iter().map(|(n, mode)| Want { lock: l(n), mode }).collect();
                let acquire = Acquire { session: s(n), open, wants, wait_ms, lock_delay_ms: delay_ms };
                self.request(LockRequest::Acquire(acquire));
            }
            Move::Downgrade(n, m) => self.request(LockRequest::Downgrade { session: s(n), lock: l(m) }),
            Move::Release(n, m) => self.request(LockRequest::Release { session: s(n), lock: l(m) }),
            Move::Break(n) => self.request(LockRequest::Break(l(n))),
            Move::Abandon(back) => {
                self.request(LockRequest::Abandon { request: self.recent(back) });
            }
            Move::Surrender(n) => self.surrender(n),
            Move::Expire(ns, term) => {
                self.timer(LockTimer::Expire { term: Term(term), sessions: ns.into_iter().map(s).collect() });
            }
            Move::WaitsOver(backs, term) => {
                let requests = backs.into_iter().map(|back| self.recent(back)).collect();
                self.timer(LockTimer::WaitsOver { term: Term(term), requests });
            }
            Move::Reopen(n, back) => {
                let ticket = self.table.next_ticket.saturating_sub(back);
                self.timer(LockTimer::Reopen { lock: l(n), ticket });
            }
        }
    }

    fn request(&mut self, input: LockRequest) {
        let (before, request, mut effects) = (self.table.clone(), id(self.seq), Vec::new());
        let (expected, told) = self.model.request(self.at(), request, &input);
        let answer = self.table.request(self.at(), request, input, &mut effects);
        match &answer {
            LockAnswer::Refused(_) => {
                assert_eq!(self.table, before, "a refusal changed something");
                assert_eq!(effects, [], "a refusal had effects");
            }
            LockAnswer::Waiting => assert!(self.waiting.insert(request)),
            LockAnswer::Granted(granted) => self.unheard.push(granted.clone()),
            _ => {}
        }
        assert_eq!(without_cycle(answer), expected);
        self.check(effects, &told);
    }

    fn timer(&mut self, input: LockTimer) {
        let mut effects = Vec::new();
        let told = self.model.timer(self.at(), Term(1), &input);
        self.table.timer(self.at(), Term(1), input, &mut effects);
        self.check(effects, &told);
    }

    fn surrender(&mut self, n: usize) {
        if self.unheard.is_empty() {
            return;
        }
        let granted = self.unheard.swap_remove(n % self.unheard.len());
        let mut effects = Vec::new();
        let told = self.model.surrender(self.at(), &granted);
        self.table.surrender(self.at(), &granted, &mut effects);
        self.check(effects, &told);
    }

    fn check(&mut self, effects: Vec<LockEffect>, expected: &[Told]) {
        let told: Vec<Told> = effects.into_iter().filter_map(|effect| self.tell(effect)).collect();
        assert_eq!(told, expected);
        self.check_state();
        let bytes = encode(&self.table);
        let read: LockTable = decode(&bytes).unwrap();
        assert_eq!(read, self.table);
        assert_eq!(encode(&read), bytes);
    }

    fn tell(&mut self, effect: LockEffect) -> Option<Told> {
        Some(match effect {
            LockEffect::Answered { requests, answer } => {
                for request in &requests {
                    assert!(self.waiting.remove(request), "{request:?} was answered but did not wait");
                    assert!(self.answered.insert(*request), "{request:?} was answered twice");
                    if let LockAnswer::Granted(granted) = &answer {
                        self.unheard.push(granted.clone());
                    }
                }
                Told::Answered(requests, without_cycle(answer))
            }
            LockEffect::SessionOpened { session, .. } => Told::Opened(session),
            LockEffect::SessionClosed { session } => Told::Closed(session),
            LockEffect::WaitBegan { request, wait_ms } => Told::WaitBegan(request, wait_ms),
            LockEffect::Closed { lock, ticket, delay_ms } => Told::Delay(lock, ticket, delay_ms),
            LockEffect::Remainder { .. } => panic!("no remainder was logged"),
            LockEffect::Event(event) => {
                self.watch(event);
                return None;
            }
        })
    }

    /// What a watcher can tell from the events alone: no two conflicting holders, growing tokens.
    fn watch(&mut self, event: LockEvent) {
        let key = (event.lock.clone(), event.session.clone());
        match event.kind {
            LockEventKind::Waiting => {}
            LockEventKind::Granted => {
                let token = event.fencing_token.unwrap();
                if self.tokens.insert((key.0.clone(), key.1.clone(), token)) {
                    assert!(token > self.last_token, "the token went back");
                    self.last_token = token;
                }
                let conflicting = |((lock, session), (mode, _)): (&(LockName, SessionId), &(Mode, FencingToken))| {
                    *lock == key.0 && *session != key.1 && (*mode == Mode::Exclusive || event.mode == Mode::Exclusive)
                };
                assert!(!self.watched.iter().any(conflicting), "two holders that exclude each other");
                self.watched.insert(key, (event.mode, token));
            }
            LockEventKind::Released | LockEventKind::Expired | LockEventKind::Broken => {
                let ended = self.watched.remove(&key);
                assert_eq!(ended, Some((event.mode, event.fencing_token.unwrap())));
            }
        }
    }

    fn check_state(&self) {
        for name in LOCKS.map(lock) {
            assert_eq!(self.table.view(&name), self.model.view(&name));
        }
        assert!(!self.model.has_cycle(), "sessions wait for each other in a circle");
        assert!(!self.model.has_forgotten_wait(), "a wait that could be granted waits");
        let waiting: BTreeSet<RequestId> = self.table.waits(Tick(0)).map(|(request, _)| request).collect();
        assert_eq!(waiting, self.waiting);
        assert_eq!(self.table.token().0, self.model.token);
        let held: BTreeMap<_, _> = self
            .model
            .holds
            .iter()
            .map(|hold| ((hold.lock.clone(), hold.session.clone()), (hold.mode, FencingToken(hold.token))))
            .collect();
        assert_eq!(held, self.watched);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_plain_model_does(history in prop::collection::vec(moves(), 1..70)) {
        let mut pair = Pair::new();
        for step in history {
            pair.make(step);
        }
        for n in 0..SESSIONS.len() {
            pair.make(Move::Close(n));
        }
        for n in 0..pair.table.delays().count() {
            let (lock, ticket, _) = pair.table.delays().next().expect("counted above");
            pair.seq += n as u64;
            pair.timer(LockTimer::Reopen { lock, ticket });
        }
        // Whatever happened, an idle table is empty but for its counters.
        prop_assert_eq!(pair.table.counts(), Counts::default());
        prop_assert!(pair.table.held_by.is_empty() && pair.table.waits_of.is_empty());
        prop_assert!(pair.table.waiting.is_empty() && pair.table.lines.is_empty() && pair.table.places == 0);
    }
}
