//! What single requests cause, as whole lists of effects.

use super::{state::SessionKey, *};
use crate::{
    codec::{decode, encode},
    error::CycleEdge,
    ids::{FencingToken, Incarnation, NodeId},
};
use Mode::{Exclusive as X, Shared as S};

pub(super) fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

pub(super) fn lock(name: &str) -> LockName {
    LockName::new(name).unwrap()
}

pub(super) fn id(seq: u64) -> RequestId {
    RequestId { node: NodeId::from_bytes([7; 32]), incarnation: Incarnation(1), seq }
}

pub(super) fn new_session(name: &str) -> NewSession {
    NewSession { session: session(name), ttl_ms: 30_000, owner: "".into() }
}

pub(super) fn acquire(name: &str, wants: &[(&str, Mode)], wait_ms: u64, delay_ms: u64) -> Acquire {
    let wants = wants.iter().map(|(name, mode)| Want { lock: lock(name), mode: *mode }).collect();
    Acquire { session: session(name), open: None, wants, wait_ms, lock_delay_ms: delay_ms }
}

/// A table, its requests counted from 1 and its entries one millisecond apart.
struct Bench {
    table: LockTable,
    seq: u64,
    effects: Vec<LockEffect>,
}

impl Bench {
    fn with(sessions: &[&str]) -> Self {
        let mut bench = Self { table: LockTable::new(), seq: 0, effects: Vec::new() };
        for name in sessions {
            let opened =
                bench.table.request(Tick(0), id(0), LockRequest::OpenSession(new_session(name)), &mut bench.effects);
            assert_eq!(opened, LockAnswer::Opened(new_session(name)));
        }
        bench.effects.clear();
        bench
    }

    fn ask(&mut self, request: LockRequest) -> LockAnswer {
        self.seq += 1;
        self.effects.clear();
        let answer = self.table.request(Tick(self.seq), id(self.seq), request, &mut self.effects);
        let bytes = encode(&self.table);
        let back: LockTable = decode(&bytes).unwrap();
        assert_eq!(back, self.table);
        answer
    }

    fn time(&mut self, timer: LockTimer) {
        self.seq += 1;
        self.effects.clear();
        self.table.timer(Tick(self.seq), Term(1), timer, &mut self.effects);
    }

    fn try_acquire(&mut self, name: &str, wants: &[(&str, Mode)]) -> LockAnswer {
        self.ask(LockRequest::Acquire(acquire(name, wants, 0, 0)))
    }

    fn wait(&mut self, name: &str, wants: &[(&str, Mode)]) -> LockAnswer {
        self.ask(LockRequest::Acquire(acquire(name, wants, 5_000, 0)))
    }

    fn release(&mut self, name: &str, lock_name: &str) -> LockAnswer {
        self.ask(LockRequest::Release { session: session(name), lock: lock(lock_name) })
    }

    fn expire(&mut self, name: &str) {
        self.time(LockTimer::Expire { term: Term(1), sessions: vec![session(name)] });
    }

    /// The effects without the events.
    fn told(&self) -> Vec<LockEffect> {
        self.effects.iter().filter(|effect| !matches!(effect, LockEffect::Event(_))).cloned().collect()
    }
}

fn granted(name: &str, grants: &[(&str, Mode, u64)]) -> LockAnswer {
    let grants = grants
        .iter()
        .map(|(name, mode, token)| Grant { lock: lock(name), mode: *mode, fencing_token: FencingToken(*token) })
        .collect();
    LockAnswer::Granted(Granted { session: session(name), ttl_ms: 30_000, grants })
}

fn refused(refusal: Refusal) -> LockAnswer {
    LockAnswer::Refused(refusal)
}

fn timeout(holders: &[&str]) -> LockAnswer {
    refused(Refusal::Timeout { holders: holders.iter().map(|name| session(name)).collect() })
}

fn answered(requests: &[u64], answer: LockAnswer) -> LockEffect {
    LockEffect::Answered { requests: requests.iter().map(|seq| id(*seq)).collect(), answer }
}

fn deadlock(edges: &[(&str, &str)]) -> LockAnswer {
    let cycle = edges.iter().map(|(name, l)| CycleEdge { session: session(name), lock: lock(l) }).collect();
    refused(Refusal::Deadlock { cycle })
}

fn event(kind: LockEventKind, name: &str, mode: Mode, token: Option<u64>, at: u64, lasted_ms: u64) -> LockEffect {
    LockEffect::Event(LockEvent {
        kind,
        lock: lock("a"),
        session: session(name),
        owner: "".into(),
        mode,
        fencing_token: token.map(FencingToken),
        at: Tick(at),
        lasted_ms,
    })
}

#[test]
fn a_release_grants_the_next_waiter_in_the_same_entry() {
    let mut b = Bench::with(&["s", "t"]);
    assert_eq!(b.try_acquire("s", &[("a", X)]), granted("s", &[("a", X, 1)]));
    assert_eq!(b.effects, [event(LockEventKind::Granted, "s", X, Some(1), 1, 0)]);
    assert_eq!(b.wait("t", &[("a", X)]), LockAnswer::Waiting);
    assert_eq!(
        b.effects,
        [event(LockEventKind::Waiting, "t", X, None, 2, 0), LockEffect::WaitBegan { request: id(2), wait_ms: 5_000 }]
    );
    assert_eq!(b.release("s", "a"), LockAnswer::Released);
    assert_eq!(
        b.effects,
        [
            event(LockEventKind::Released, "s", X, Some(1), 3, 2),
            event(LockEventKind::Granted, "t", X, Some(2), 3, 1),
            answered(&[2], granted("t", &[("a", X, 2)]))
        ]
    );
}

#[test]
fn a_shared_request_does_not_overtake_a_waiting_exclusive_one() {
    let mut b = Bench::with(&["s", "t", "u", "v"]);
    b.try_acquire("s", &[("a", S)]);
    assert_eq!(b.wait("t", &[("a", X)]), LockAnswer::Waiting);
    assert_eq!(b.wait("u", &[("a", S)]), LockAnswer::Waiting);
    assert_eq!(b.wait("v", &[("a", S)]), LockAnswer::Waiting);
    assert_eq!(b.try_acquire("u", &[("a", S)]), timeout(&["s"]));
    b.release("s", "a");
    assert_eq!(b.told(), [answered(&[2], granted("t", &[("a", X, 2)]))]);
    b.release("t", "a");
    let both = [answered(&[3], granted("u", &[("a", S, 3)])), answered(&[4], granted("v", &[("a", S, 4)]))];
    assert_eq!(b.told(), both);
}

#[test]
fn a_waiter_that_leaves_lets_those_behind_it_go_on() {
    let mut b = Bench::with(&["s", "t", "u"]);
    b.try_acquire("s", &[("a", S)]);
    b.wait("t", &[("a", X)]);
    b.wait("u", &[("a", S)]);
    assert_eq!(b.ask(LockRequest::Abandon { request: id(2) }), LockAnswer::Abandoned);
    let left = answered(&[2], refused(Refusal::Abandoned));
    assert_eq!(b.told(), [left, answered(&[3], granted("u", &[("a", S, 2)]))]);
}

#[test]
fn asking_again_for_what_is_held_gives_the_same_token() {
    let mut b = Bench::with(&["s"]);
    b.try_acquire("s", &[("a", X)]);
    assert_eq!(b.try_acquire("s", &[("a", X)]), granted("s", &[("a", X, 1)]));
    assert_eq!(b.try_acquire("s", &[("a", S)]), granted("s", &[("a", X, 1)]));
    assert_eq!(b.effects, []);
    let down = b.ask(LockRequest::Downgrade { session: session("s"), lock: lock("a") });
    assert_eq!(down, granted("s", &[("a", S, 1)]));
    assert_eq!(b.ask(LockRequest::Downgrade { session: session("s"), lock: lock("a") }), down);
    assert_eq!(b.try_acquire("s", &[("a", X)]), granted("s", &[("a", X, 2)]));
}

#[test]
fn an_upgrade_goes_before_the_line_and_draws_a_new_token() {
    let mut b = Bench::with(&["s", "t", "u"]);
    b.try_acquire("s", &[("a", S)]);
    b.try_acquire("t", &[("a", S)]);
    b.wait("u", &[("a", X)]);
    assert_eq!(b.wait("s", &[("a", X)]), LockAnswer::Waiting);
    assert_eq!(b.wait("t", &[("a", X)]), deadlock(&[("t", "a"), ("s", "a")]));
    b.release("t", "a");
    assert_eq!(b.told(), [answered(&[4], granted("s", &[("a", X, 3)]))]);
    b.ask(LockRequest::Downgrade { session: session("s"), lock: lock("a") });
    assert_eq!(b.try_acquire("s", &[("a", X)]), granted("s", &[("a", X, 4)]));
    b.release("s", "a");
    assert_eq!(b.told(), [answered(&[3], granted("u", &[("a", X, 5)]))]);
}

#[test]
fn an_upgrade_ends_other_waits_of_its_session_for_the_same() {
    let mut b = Bench::with(&["s", "t", "u"]);
    b.try_acquire("t", &[("a", X)]);
    b.wait("s", &[("a", S), ("b", S)]);
    b.wait("u", &[("b", X)]);
    assert_eq!(b.try_acquire("u", &[("b", S)]), granted("u", &[("b", S, 2)]));
    let upgraded = granted("u", &[("b", X, 3)]);
    assert_eq!(b.try_acquire("u", &[("b", X)]), upgraded);
    assert_eq!(b.told(), [answered(&[3], upgraded)]);
}

#[test]
fn a_downgrade_lets_the_shared_waiters_in() {
    let mut b = Bench::with(&["s", "t"]);
    b.try_acquire("s", &[("a", X)]);
    b.wait("t", &[("a", S)]);
    b.ask(LockRequest::Downgrade { session: session("s"), lock: lock("a") });
    assert_eq!(b.told(), [answered(&[2], granted("t", &[("a", S, 2)]))]);
}

#[test]
fn the_same_wait_is_joined_and_each_asker_is_timed_alone() {
    let mut b = Bench::with(&["s", "t"]);
    b.try_acquire("s", &[("a", X)]);
    b.wait("t", &[("a", X)]);
    assert_eq!(b.wait("t", &[("a", X)]), LockAnswer::Waiting);
    assert_eq!(b.effects, [LockEffect::WaitBegan { request: id(3), wait_ms: 5_000 }]);
    assert_eq!(b.table.view(&lock("a")).unwrap().waiters.len(), 1);
    b.time(LockTimer::WaitsOver { term: Term(1), requests: vec![id(2)] });
    assert_eq!(b.effects, [answered(&[2], timeout(&["s"]))]);
    b.wait("t", &[("a", X)]);
    b.release("s", "a");
    assert_eq!(b.told(), [answered(&[3, 5], granted("t", &[("a", X, 2)]))]);
}

#[test]
fn waits_that_end_together_are_each_told_who_was_in_the_way() {
    let mut b = Bench::with(&["s", "t", "u"]);
    b.try_acquire("s", &[("a", S)]);
    b.wait("t", &[("a", X)]);
    b.wait("u", &[("a", S)]);
    b.time(LockTimer::WaitsOver { term: Term(1), requests: vec![id(2), id(3)] });
    assert_eq!(b.effects, [answered(&[2], timeout(&["s"])), answered(&[3], timeout(&["s"]))]);
}

#[test]
fn several_locks_come_together_or_not_at_all_and_block_those_behind() {
    let mut b = Bench::with(&["s", "t", "u", "v"]);
    b.try_acquire("s", &[("b", X)]);
    assert_eq!(b.try_acquire("t", &[("a", X), ("b", X)]), timeout(&["s"]));
    assert_eq!(b.wait("t", &[("a", X), ("b", X), ("c", S)]), LockAnswer::Waiting);
    assert_eq!(b.table.view(&lock("a")).unwrap().holders, []);
    assert_eq!(b.wait("u", &[("a", S)]), LockAnswer::Waiting);
    assert_eq!(b.try_acquire("v", &[("c", S)]), granted("v", &[("c", S, 2)]));
    b.release("s", "b");
    assert_eq!(b.told(), [answered(&[3], granted("t", &[("a", X, 3), ("b", X, 4), ("c", S, 5)]))]);
    b.release("t", "a");
    assert_eq!(b.told(), [answered(&[4], granted("u", &[("a", S, 6)]))]);
}

#[test]
fn waiting_behind_a_waiter_counts_as_waiting_for_it() {
    let mut b = Bench::with(&["s", "t", "u"]);
    b.try_acquire("s", &[("a", S)]);
    b.try_acquire("u", &[("b", X)]);
    b.wait("t", &[("a", X), ("b", X)]);
    assert_eq!(b.wait("u", &[("a", S)]), deadlock(&[("u", "a"), ("t", "b")]));
    assert_eq!(b.effects, []);
    assert_eq!(b.wait("s", &[("b", X)]), deadlock(&[("s", "b"), ("t", "a")]));
}

#[test]
fn a_cycle_through_three_sessions_is_told_in_order() {
    let mut b = Bench::with(&["s", "t", "u"]);
    for (name, held) in [("s", "a"), ("t", "b"), ("u", "c")] {
        b.try_acquire(name, &[(held, X)]);
    }
    b.wait("s", &[("b", X)]);
    b.wait("t", &[("c", X)]);
    assert_eq!(b.wait("u", &[("a", X)]), deadlock(&[("u", "a"), ("s", "b"), ("t", "c")]));
}

#[test]
fn an_upgrade_at_once_that_would_close_a_cycle_is_refused() {
    let mut b = Bench::with(&["s", "y", "z"]);
    b.try_acquire("s", &[("l", S)]);
    b.try_acquire("y", &[("n", X)]);
    b.try_acquire("z", &[("m", X)]);
    assert_eq!(b.wait("y", &[("l", S), ("m", X)]), LockAnswer::Waiting);
    assert_eq!(b.wait("s", &[("n", X)]), LockAnswer::Waiting);
    assert_eq!(b.try_acquire("s", &[("l", X)]), deadlock(&[("s", "n"), ("y", "l")]));
    assert_eq!(b.table.view(&lock("l")).unwrap().mode, Some(S));
}

#[test]
fn a_wait_that_counted_on_a_released_hold_goes_to_the_end_of_that_line() {
    let mut b = Bench::with(&["s", "t", "u"]);
    b.try_acquire("s", &[("a", X)]);
    b.try_acquire("u", &[("b", X)]);
    b.wait("s", &[("a", X), ("b", X)]);
    b.wait("t", &[("a", X)]);
    b.release("s", "a");
    assert_eq!(b.told(), [answered(&[4], granted("t", &[("a", X, 3)]))]);
    b.release("u", "b");
    assert_eq!(b.told(), []);
    b.release("t", "a");
    assert_eq!(b.told(), [answered(&[3], granted("s", &[("a", X, 4), ("b", X, 5)]))]);
}

#[test]
fn a_release_that_would_close_a_cycle_ends_the_wait_that_counted_on_it() {
    let mut b = Bench::with(&["s", "t", "u"]);
    b.try_acquire("s", &[("a", X), ("c", X)]);
    b.try_acquire("u", &[("b", X)]);
    b.wait("s", &[("a", X), ("b", X)]);
    b.wait("t", &[("a", X), ("c", X)]);
    assert_eq!(b.release("s", "a"), LockAnswer::Released);
    assert_eq!(b.told(), [answered(&[3], deadlock(&[("s", "a"), ("t", "c")]))]);
}

#[test]
fn the_end_of_a_session_frees_everything_it_had() {
    let mut b = Bench::with(&["s", "t"]);
    b.try_acquire("s", &[("a", X), ("b", S)]);
    b.try_acquire("t", &[("c", X)]);
    b.wait("s", &[("c", X)]);
    assert_eq!(b.ask(LockRequest::CloseSession(session("s"))), LockAnswer::Closed);
    let closed = LockEffect::SessionClosed { session: session("s") };
    assert_eq!(b.told(), [answered(&[3], refused(Refusal::SessionExpired)), closed]);
    assert_eq!(b.release("t", "c"), LockAnswer::Released);
    assert_eq!(b.table.list("", None, 10), (vec![], None));
    for gone in [LockRequest::CloseSession(session("s")), LockRequest::Acquire(acquire("s", &[("a", X)], 0, 0))] {
        assert_eq!(b.ask(gone), refused(Refusal::SessionExpired));
    }
    assert_eq!(b.release("s", "a"), refused(Refusal::SessionExpired));
    assert_eq!(b.release("t", "a"), refused(Refusal::NotHolder));
}

#[test]
fn what_is_left_of_a_wait_counts_from_when_each_request_asked_and_is_never_less_than_nothing() {
    let mut b = Bench::with(&["s", "t"]);
    b.try_acquire("s", &[("a", X)]);
    b.wait("t", &[("a", X)]);
    b.wait("t", &[("a", X)]);
    let left = |at| b.table.waits(Tick(at)).collect::<Vec<_>>();
    assert_eq!(left(0), [(id(2), 5_000), (id(3), 5_000)], "a wall clock that is behind the log says nothing");
    assert_eq!(left(3), [(id(2), 4_999), (id(3), 5_000)]);
    assert_eq!(left(5_002), [(id(2), 0), (id(3), 1)]);
    assert_eq!(left(90_000), [(id(2), 0), (id(3), 0)]);
}

#[test]
fn a_judgement_of_another_term_is_void() {
    let mut b = Bench::with(&["s", "t"]);
    b.try_acquire("s", &[("a", X)]);
    b.wait("t", &[("a", X)]);
    let before = b.table.clone();
    b.time(LockTimer::Expire { term: Term(2), sessions: vec![session("s")] });
    b.time(LockTimer::WaitsOver { term: Term(2), requests: vec![id(2)] });
    b.time(LockTimer::Remainders { term: Term(2), sessions: vec![(session("s"), Some(5))] });
    assert_eq!(b.table, before);
    b.time(LockTimer::Remainders { term: Term(1), sessions: vec![(session("s"), Some(5))] });
    assert_eq!(b.effects, [LockEffect::Remainder { session: session("s"), term: Term(1), remainder_ms: Some(5) }]);
    assert_eq!(b.table.session(&session("s")).unwrap().remainder_ms, Some(5));
}

#[test]
fn a_lost_lock_stays_closed_until_its_own_delay_is_over() {
    let mut b = Bench::with(&["s", "t", "u"]);
    b.ask(LockRequest::Acquire(acquire("s", &[("a", S)], 0, 700)));
    b.ask(LockRequest::Acquire(acquire("t", &[("a", S)], 0, 500)));
    b.expire("s");
    let closed = |ticket| LockEffect::Closed { lock: lock("a"), ticket, delay_ms: 700 };
    assert_eq!(b.told(), [closed(1), LockEffect::SessionClosed { session: session("s") }]);
    assert_eq!(b.try_acquire("u", &[("a", S)]), timeout(&["t"]));
    assert_eq!(b.try_acquire("t", &[("a", S)]), granted("t", &[("a", S, 2)]));
    assert_eq!(b.ask(LockRequest::Break(lock("a"))), LockAnswer::Broken(vec![session("t")]));
    assert_eq!(b.told(), [closed(2)]);
    assert_eq!(b.wait("u", &[("a", X)]), LockAnswer::Waiting);
    b.time(LockTimer::Reopen { lock: lock("a"), ticket: 1 });
    assert_eq!(b.told(), []);
    b.time(LockTimer::Reopen { lock: lock("a"), ticket: 2 });
    assert_eq!(b.told(), [answered(&[7], granted("u", &[("a", X, 3)]))]);
    assert_eq!(b.table.delays().count(), 0);
}

#[test]
fn a_clean_release_never_delays() {
    let mut b = Bench::with(&["s", "t"]);
    b.ask(LockRequest::Acquire(acquire("s", &[("a", X)], 0, 700)));
    b.release("s", "a");
    assert_eq!(b.try_acquire("t", &[("a", X)]), granted("t", &[("a", X, 2)]));
}

#[test]
fn a_session_opened_by_an_acquire_goes_with_it_unless_it_is_granted() {
    let mut b = Bench::with(&["s"]);
    let fresh = |wait_ms| {
        let acquire = acquire("n", &[("a", X)], wait_ms, 0);
        LockRequest::Acquire(Acquire { open: Some(new_session("n")), ..acquire })
    };
    b.try_acquire("s", &[("a", X)]);
    assert_eq!(b.ask(fresh(0)), timeout(&["s"]));
    assert_eq!(b.effects, []);
    assert_eq!(b.ask(fresh(9)), LockAnswer::Waiting);
    assert_eq!(b.told()[0], LockEffect::SessionOpened { session: session("n"), ttl_ms: 30_000 });
    assert_eq!(b.ask(fresh(9)), refused(Refusal::SessionTaken));
    b.time(LockTimer::WaitsOver { term: Term(1), requests: vec![id(3)] });
    assert_eq!(b.told(), [answered(&[3], timeout(&["s"])), LockEffect::SessionClosed { session: session("n") }]);
    b.release("s", "a");
    assert_eq!(b.ask(fresh(0)), granted("n", &[("a", X, 2)]));
    let LockAnswer::Granted(unheard) = granted("n", &[("a", X, 2)]) else { unreachable!() };
    b.table.surrender(Tick(9), &unheard, &mut b.effects);
    assert_eq!(b.effects.last(), Some(&LockEffect::SessionClosed { session: session("n") }));
    assert_eq!(b.table.view(&lock("a")), None);
}

#[test]
fn a_grant_that_another_request_was_told_of_is_not_surrendered() {
    let mut b = Bench::with(&["s"]);
    b.try_acquire("s", &[("a", X)]);
    b.try_acquire("s", &[("a", X)]);
    let LockAnswer::Granted(unheard) = granted("s", &[("a", X, 1)]) else { unreachable!() };
    b.table.surrender(Tick(9), &unheard, &mut b.effects);
    assert!(b.table.holds(&session("s"), &lock("a"), X));
    b.table.surrender(Tick(9), &unheard, &mut b.effects);
    assert!(!b.table.holds(&session("s"), &lock("a"), X));
    assert!(b.table.session(&session("s")).is_some());
    b.try_acquire("s", &[("a", X)]);
    b.table.surrender(Tick(9), &unheard, &mut b.effects);
    assert!(b.table.holds(&session("s"), &lock("a"), X), "a later grant has another token");
}

#[test]
fn an_upgrade_that_nobody_heard_of_leaves_what_the_session_had_before() {
    let mut b = Bench::with(&["s", "t"]);
    b.try_acquire("s", &[("a", S)]);
    b.try_acquire("s", &[("a", X)]);
    assert_eq!(b.wait("t", &[("a", S)]), LockAnswer::Waiting);
    let LockAnswer::Granted(unheard) = granted("s", &[("a", X, 2)]) else { unreachable!() };
    b.effects.clear();
    b.table.surrender(Tick(9), &unheard, &mut b.effects);
    assert_eq!(b.told(), [answered(&[3], granted("t", &[("a", S, 3)]))]);
    assert_eq!(b.try_acquire("s", &[("a", S)]), granted("s", &[("a", S, 1)]));
    b.table.surrender(Tick(9), &unheard, &mut b.effects);
    assert!(b.table.holds(&session("s"), &lock("a"), S), "surrendered once");
}

#[test]
fn a_hold_that_was_surrendered_while_it_was_upgraded_does_not_come_back() {
    let mut b = Bench::with(&["s"]);
    b.try_acquire("s", &[("a", S)]);
    b.try_acquire("s", &[("a", X)]);
    for (mode, token) in [(S, 1), (X, 2)] {
        assert!(b.table.holds(&session("s"), &lock("a"), X));
        let LockAnswer::Granted(unheard) = granted("s", &[("a", mode, token)]) else { unreachable!() };
        b.table.surrender(Tick(9), &unheard, &mut b.effects);
    }
    assert_eq!(b.table.view(&lock("a")), None);
}

#[test]
fn an_entry_that_expires_sessions_ends_only_so_many_holds() {
    let mut b = Bench::with(&["s", "t", "u"]);
    for n in 0..MAX_ENDED_PER_ENTRY {
        let wants = [(format!("{n}"), S)];
        let wants: Vec<(&str, Mode)> = wants.iter().map(|(name, mode)| (name.as_str(), *mode)).collect();
        let session = if n == 0 { "s" } else { "t" };
        let acquire = LockRequest::Acquire(acquire(session, &wants, 0, 0));
        b.table.request(Tick(1), id(n as u64), acquire, &mut Vec::new());
    }
    let all = || LockTimer::Expire { term: Term(1), sessions: ["s", "t", "u"].map(session).to_vec() };
    b.time(all());
    let left: Vec<bool> = ["s", "t", "u"].iter().map(|name| b.table.session(&session(name)).is_some()).collect();
    assert_eq!(left, [false, false, true]);
    b.time(all());
    assert!(b.table.session(&session("u")).is_none());
}

#[test]
fn bounds_refuse_and_change_nothing() {
    let mut b = Bench::with(&["s", "t"]);
    b.try_acquire("s", &[("a", X)]);
    let names: Vec<String> = (0..=MAX_LOCKS_PER_ACQUIRE).map(|n| n.to_string()).collect();
    let many: Vec<(&str, Mode)> = names.iter().map(|name| (name.as_str(), X)).collect();
    assert_eq!(b.try_acquire("t", &many), refused(Refusal::Full { what: Bound::LocksOfAnAcquire }));
    for _ in 0..MAX_REQUESTS_PER_WAIT {
        assert_eq!(b.wait("t", &[("a", X)]), LockAnswer::Waiting);
    }
    let before = b.table.clone();
    assert_eq!(b.wait("t", &[("a", X)]), refused(Refusal::Full { what: Bound::RequestsOfAWait }));
    b.table.session_row_mut(SessionKey(1)).claims = u32::try_from(MAX_LOCKS_PER_SESSION).unwrap();
    let full = Refusal::Full { what: Bound::LocksOfASession };
    let answer =
        b.table.request(Tick(0), id(999), LockRequest::Acquire(acquire("t", &[("b", X)], 0, 0)), &mut Vec::new());
    assert_eq!(answer, refused(full));
    b.table.session_row_mut(SessionKey(1)).claims = 1;
    assert_eq!(b.table, before);
}

#[test]
fn lists_page_in_the_order_of_names() {
    let mut b = Bench::with(&["s", "t"]);
    for name in ["b/2", "a", "b/1", "c", "b/3", "b"] {
        b.try_acquire("s", &[(name, X)]);
    }
    b.wait("t", &[("b/1", X)]);
    let names = |(views, next): (Vec<LockView>, Option<LockName>)| {
        (views.into_iter().map(|view| view.lock.to_string()).collect::<Vec<_>>(), next)
    };
    assert_eq!(names(b.table.list("b/", None, 2)), (vec!["b/1".into(), "b/2".into()], Some(lock("b/2"))));
    assert_eq!(names(b.table.list("b/", Some(&lock("b/2")), 2)), (vec!["b/3".into()], None));
    assert_eq!(b.table.list("", None, 6).0.len(), 6);
    assert_eq!(b.table.list("z", None, 6), (vec![], None));
    let (first, next) = b.table.sessions(None, 1);
    assert_eq!((first[0].locks.len(), next.clone()), (6, Some(session("s"))));
    assert_eq!(b.table.sessions(next.as_ref(), 1).1, None);
}

#[test]
fn readers_are_shown_the_first_thousand() {
    let mut b = Bench::with(&["s"]);
    for n in 0..=MAX_SHOWN {
        let request = LockRequest::Acquire(acquire("s", &[(&format!("{n:04}"), S)], 0, 0));
        b.table.request(Tick(1), id(n as u64), request, &mut Vec::new());
    }
    let shown = b.table.session(&session("s")).unwrap().locks;
    assert_eq!((shown.len(), &shown[0]), (MAX_SHOWN, &lock("0000")));
}

#[test]
fn a_page_ends_before_it_is_too_large() {
    let mut b = Bench::with(&["s", "t"]);
    for name in ["a", "b", "c"] {
        b.try_acquire("s", &[(name, S)]);
        b.try_acquire("t", &[(name, S)]);
    }
    let whole = b.table.list("", None, 3);
    assert_eq!((whole.0.len(), whole.1), (3, None));
    let bytes_of_one = 300;
    let (page, next) = b.table.list_within("", None, 3, 2 * bytes_of_one);
    assert_eq!((page.len(), next.clone()), (2, Some(lock("b"))));
    let (page, next) = b.table.list_within("", next.as_ref(), 3, 2 * bytes_of_one);
    assert_eq!((page.len(), next), (1, None));
}

#[test]
fn tokens_never_go_back() {
    assert_eq!(token_floor(7, 0), 7 + (1 << 32));
    assert_eq!(token_floor(7, 1_800_000_000), 1_800_000_000 << 20);
    assert_eq!(token_floor(u64::MAX, u64::MAX), TOKEN_LIMIT - 1);
    let mut b = Bench::with(&["s"]);
    b.table.raise_token(1_000);
    b.table.raise_token(10);
    assert_eq!(b.try_acquire("s", &[("a", X)]), granted("s", &[("a", X, 1_001)]));
}
