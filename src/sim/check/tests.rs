//! That the checkers accept what is right and find what is wrong. The histories here are made by hand
//! to test the checkers, nothing else.

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use todc_utils::{Action, History, Specification, WGLChecker};

use super::{
    linear::{Search, Timed, Verdict},
    model::{Lock, Op},
    *,
};
use crate::{
    error::ErrorCode,
    ids::{FencingToken, LockName, SessionId},
    machine::lock::Mode::{self, Exclusive, Shared},
    sim::{
        api::{Answer, Ask},
        history::Moment,
    },
};

const TTL_MS: u64 = 1_000;
const LEASE_MS: u64 = 980;

#[derive(Default)]
struct Tale(Vec<Record>);

fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

fn lock() -> LockName {
    LockName::new("l").unwrap()
}

fn granted(token: u64, mode: Mode) -> Answer {
    Answer::Granted { token: FencingToken(token), mode }
}

fn held(by: &[&str]) -> Answer {
    Answer::Held { holders: by.iter().map(|name| session(name)).collect() }
}

fn shown(mode: Option<Mode>, holders: &[(&str, u64)]) -> Answer {
    Answer::Shown { mode, holders: holders.iter().map(|(name, token)| (session(name), FencingToken(*token))).collect() }
}

impl Tale {
    fn says(mut self, ms: (u64, u64), ask: Ask, answer: Answer) -> Self {
        let order = 2 * self.0.len() as u64 + 1;
        let returned = (answer != Answer::Unknown).then_some(Moment { ms: ms.1, order: order + 1 });
        let renews = matches!(answer, Answer::Opened { .. } | Answer::Alive { .. });
        let lease_until_ms = renews.then_some(ms.0 + LEASE_MS);
        let invoked = Moment { ms: ms.0, order };
        let unanswered = u32::from(answer == Answer::Unknown);
        self.0.push(Record { client: 0, ask, invoked, returned, answer, unanswered, lease_until_ms });
        self
    }

    fn opens(self, ms: (u64, u64), name: &str) -> Self {
        self.says(ms, Ask::Open { ttl_ms: TTL_MS }, Answer::Opened { session: session(name), ttl_ms: TTL_MS })
    }

    fn acquires(self, ms: (u64, u64), name: &str, mode: Mode, answer: Answer) -> Self {
        self.says(ms, Ask::Acquire { session: session(name), lock: lock(), mode, wait_ms: 0 }, answer)
    }

    /// It was asked before, under the same key, and that was not answered.
    fn repeatedly(mut self) -> Self {
        self.0.last_mut().unwrap().unanswered += 1;
        self
    }

    fn releases(self, ms: (u64, u64), name: &str, answer: Answer) -> Self {
        self.says(ms, Ask::Release { session: session(name), lock: lock() }, answer)
    }

    fn keeps(self, ms: (u64, u64), name: &str, answer: Answer) -> Self {
        self.says(ms, Ask::KeepAlive(session(name)), answer)
    }

    fn shows(self, ms: (u64, u64), answer: Answer) -> Self {
        self.says(ms, Ask::Show(lock()), answer)
    }

    /// `a` and `b` have sessions that were opened at 0 ms.
    fn of_two() -> Self {
        Self::default().opens((0, 1), "a").opens((0, 1), "b")
    }

    fn overlaps(&self) -> bool {
        !belief::check(&self.0).is_empty()
    }

    fn has_bad_tokens(&self) -> bool {
        !tokens::check(&self.0).is_empty()
    }

    fn is_linearizable(&self) -> bool {
        let found = linear::check(&self.0);
        assert!(!matches!(found.as_slice(), [Violation::Undecided(_), ..]), "{found:?}");
        found.is_empty()
    }

    fn is_right(&self) -> bool {
        let found = check(&self.0);
        found.iter().for_each(|violation| println!("{violation}"));
        found.is_empty()
    }
}

const ALIVE: Answer = Answer::Alive { ttl_ms: TTL_MS };

#[test]
fn locks_that_are_handed_over_shared_and_looked_at_are_right() {
    let tale = Tale::of_two()
        .acquires((10, 20), "a", Exclusive, granted(1, Exclusive))
        .acquires((21, 30), "b", Exclusive, held(&["a"]))
        .shows((31, 32), shown(Some(Exclusive), &[("a", 1)]))
        .releases((40, 50), "a", Answer::Released)
        .acquires((51, 60), "b", Shared, granted(2, Shared))
        .acquires((61, 70), "a", Shared, granted(3, Shared))
        .acquires((71, 80), "a", Shared, granted(3, Shared))
        .shows((81, 82), shown(Some(Shared), &[("b", 2), ("a", 3)]))
        .releases((90, 95), "b", Answer::Released)
        .acquires((96, 99), "a", Exclusive, granted(4, Exclusive))
        .releases((100, 105), "b", Answer::NotHolder);
    assert!(tale.is_right());
}

#[test]
fn two_that_believe_to_hold_exclusively_are_found() {
    let tale = Tale::of_two().acquires((10, 20), "a", Exclusive, granted(1, Exclusive)).acquires(
        (15, 30),
        "b",
        Exclusive,
        granted(2, Exclusive),
    );
    assert!(tale.overlaps() && !tale.is_linearizable());
    let mixed = Tale::of_two().acquires((10, 20), "a", Shared, granted(1, Shared)).acquires(
        (15, 30),
        "b",
        Exclusive,
        granted(2, Exclusive),
    );
    assert!(mixed.overlaps() && !mixed.is_linearizable());
}

#[test]
fn belief_ends_when_the_release_is_asked_for_not_when_it_is_answered() {
    let handover = |asked| {
        Tale::of_two()
            .acquires((10, 20), "a", Exclusive, granted(1, Exclusive))
            .releases((asked, 90), "a", Answer::Released)
            .acquires((25, 40), "b", Exclusive, granted(2, Exclusive))
    };
    assert!(handover(30).is_right());
    assert!(handover(50).overlaps());
    let release_unknown = Tale::of_two()
        .acquires((10, 20), "a", Exclusive, granted(1, Exclusive))
        .releases((30, 0), "a", Answer::Unknown)
        .acquires((25, 40), "b", Exclusive, granted(2, Exclusive));
    assert!(release_unknown.is_right());
}

#[test]
fn belief_ends_at_the_holders_own_deadline_which_keep_alives_move() {
    let second_grant = |at: u64, kept: bool| {
        let tale = Tale::of_two().acquires((10, 20), "a", Exclusive, granted(1, Exclusive));
        let tale = if kept { tale.keeps((500, 510), "a", ALIVE) } else { tale };
        tale.keeps((600, 601), "b", ALIVE).acquires((at - 5, at), "b", Exclusive, granted(2, Exclusive))
    };
    assert!(second_grant(LEASE_MS - 1, false).overlaps());
    assert!(!second_grant(LEASE_MS + 1, false).overlaps());
    assert!(second_grant(LEASE_MS + 400, true).overlaps());
    assert!(!second_grant(LEASE_MS + 501, true).overlaps());
}

#[test]
fn a_grant_that_is_heard_of_after_the_deadline_makes_nobody_believe() {
    let tale = Tale::of_two()
        .keeps((900, 901), "b", ALIVE)
        .acquires((10, 1_500), "a", Exclusive, granted(1, Exclusive))
        .acquires((1_300, 1_310), "b", Exclusive, granted(2, Exclusive));
    assert!(!tale.overlaps());
    assert!(tale.is_linearizable(), "a's session expired between the two grants");
}

#[test]
fn tokens_that_do_not_grow_are_found() {
    let tokens = |first, second| {
        Tale::of_two()
            .acquires((10, 20), "a", Exclusive, granted(first, Exclusive))
            .releases((30, 40), "a", Answer::Released)
            .acquires((50, 60), "b", Exclusive, granted(second, Exclusive))
    };
    assert!(!tokens(7, 8).has_bad_tokens());
    assert!(tokens(8, 7).has_bad_tokens() && !tokens(8, 7).is_linearizable());
    assert!(tokens(7, 7).has_bad_tokens());
}

#[test]
fn tokens_grow_over_all_locks() {
    let ask = Ask::Acquire { session: session("b"), lock: LockName::new("m").unwrap(), mode: Exclusive, wait_ms: 0 };
    let tale = Tale::of_two().acquires((10, 20), "a", Exclusive, granted(8, Exclusive)).says(
        (30, 40),
        ask,
        granted(3, Exclusive),
    );
    assert!(tale.has_bad_tokens() && tale.is_linearizable());
}

#[test]
fn grants_that_overlap_in_time_may_have_their_tokens_in_any_order() {
    let tale = Tale::of_two().acquires((10, 60), "a", Shared, granted(8, Shared)).acquires(
        (20, 50),
        "b",
        Shared,
        granted(7, Shared),
    );
    assert!(tale.is_right());
}

#[test]
fn a_repeated_acquire_may_tell_of_the_token_that_an_unanswered_one_got() {
    let again = |unanswered| {
        let tale = Tale::of_two();
        let tale = if unanswered { tale.acquires((10, 0), "a", Shared, Answer::Unknown) } else { tale };
        tale.acquires((20, 30), "b", Shared, granted(6, Shared)).acquires((40, 50), "a", Shared, granted(5, Shared))
    };
    assert!(again(true).is_right());
    assert!(again(false).has_bad_tokens() && !again(false).is_linearizable());
}

#[test]
fn an_unanswered_acquire_explains_a_lock_that_is_held_and_one_that_is_free() {
    let then = |answer: Answer| {
        Tale::of_two().acquires((10, 0), "a", Exclusive, Answer::Unknown).acquires((20, 30), "b", Exclusive, answer)
    };
    assert!(then(held(&["a"])).is_right());
    assert!(then(granted(1, Exclusive)).is_right());
    let nobody = Tale::of_two().acquires((20, 30), "b", Exclusive, held(&["a"]));
    assert!(!nobody.is_linearizable(), "nobody had asked for it");
    let surrendered = then(held(&["a"])).acquires((40, 50), "b", Exclusive, granted(2, Exclusive));
    assert!(surrendered.is_right(), "the node gave back what nobody heard of");
}

#[test]
fn an_unanswered_upgrade_is_taken_back_to_what_was_held_before() {
    let upgraded = |before: Answer| {
        Tale::of_two()
            .acquires((10, 20), "a", Shared, before)
            .acquires((30, 0), "a", Exclusive, Answer::Unknown)
            .shows((40, 50), shown(Some(Exclusive), &[("a", 2)]))
    };
    let of_a = || upgraded(granted(1, Shared));
    assert!(of_a().shows((60, 70), shown(Some(Shared), &[("a", 1)])).is_right());
    assert!(of_a().acquires((60, 70), "b", Shared, granted(3, Shared)).is_right());
    assert!(!of_a().shows((60, 70), shown(None, &[])).is_linearizable(), "the session was told that it holds it");
    let another = of_a().shows((60, 70), shown(Some(Shared), &[("a", 3)]));
    assert!(!another.is_linearizable(), "it is the hold that it was");
    let told = of_a().acquires((52, 58), "a", Exclusive, granted(2, Exclusive));
    assert!(!told.shows((60, 70), shown(Some(Shared), &[("a", 1)])).is_linearizable(), "somebody heard of it");
}

#[test]
fn an_unanswered_release_happened_or_not_but_not_both() {
    let start = || {
        Tale::of_two().acquires((10, 20), "a", Exclusive, granted(1, Exclusive)).releases((30, 0), "a", Answer::Unknown)
    };
    assert!(start().shows((40, 50), shown(Some(Exclusive), &[("a", 1)])).is_right());
    assert!(start().shows((40, 50), shown(None, &[])).is_right());
    let both = start().shows((40, 50), shown(None, &[])).shows((60, 70), shown(Some(Exclusive), &[("a", 1)]));
    assert!(!both.is_linearizable());
}

#[test]
fn a_refused_operation_changed_nothing() {
    let refused = Answer::Refused(ErrorCode::NoQuorum);
    let tale = Tale::of_two().acquires((10, 20), "a", Exclusive, refused).shows((30, 40), shown(None, &[]));
    assert!(tale.is_right());
    let refused = Answer::Refused(ErrorCode::NoQuorum);
    let tale =
        Tale::of_two().acquires((10, 20), "a", Exclusive, refused).shows((30, 40), shown(Some(Exclusive), &[("a", 1)]));
    assert!(!tale.is_linearizable());
}

#[test]
fn a_grant_to_a_session_that_was_known_dead_is_found() {
    let tale = Tale::of_two().keeps((1_200, 1_210), "a", Answer::SessionExpired).acquires(
        (1_220, 1_230),
        "a",
        Exclusive,
        granted(1, Exclusive),
    );
    assert!(!tale.is_linearizable());
}

#[test]
fn a_dead_session_that_is_still_shown_as_holder_is_found() {
    let tale = Tale::of_two()
        .acquires((10, 20), "a", Exclusive, granted(1, Exclusive))
        .keeps((1_200, 1_210), "a", Answer::SessionExpired)
        .shows((1_220, 1_230), shown(Some(Exclusive), &[("a", 1)]));
    assert!(!tale.is_linearizable());
}

#[test]
fn a_session_that_expired_too_early_is_found() {
    let lost_at = |ms| {
        Tale::of_two().acquires((10, 20), "a", Exclusive, granted(1, Exclusive)).shows((ms, ms + 1), shown(None, &[]))
    };
    assert!(!lost_at(900).is_linearizable());
    assert!(lost_at(1_010).is_linearizable());
    let kept = Tale::of_two()
        .acquires((10, 20), "a", Exclusive, granted(1, Exclusive))
        .keeps((800, 810), "a", ALIVE)
        .shows((1_010, 1_011), shown(None, &[]));
    assert!(!kept.is_linearizable());
}

#[test]
fn a_stale_look_is_found() {
    let tale = Tale::of_two()
        .acquires((10, 20), "a", Exclusive, granted(1, Exclusive))
        .releases((30, 40), "a", Answer::Released)
        .acquires((50, 60), "b", Exclusive, granted(2, Exclusive))
        .shows((70, 80), shown(Some(Exclusive), &[("a", 1)]));
    assert!(!tale.is_linearizable());
}

#[test]
fn a_lock_refused_although_it_was_free_is_found() {
    assert!(!Tale::of_two().acquires((10, 20), "a", Exclusive, held(&[])).is_linearizable());
}

/// The search of Wing and Gong, on the same specification.
struct LockSpec;

impl Specification for LockSpec {
    type State = Lock;
    type Operation = Op;

    fn init() -> Lock {
        Lock::default()
    }

    fn apply(op: &Op, state: &Lock) -> (bool, Lock) {
        let mut next = state.clone();
        if next.apply(op) { (true, next) } else { (false, state.clone()) }
    }
}

/// Whether it finds an order for any choice of those that may have taken effect up to a moment.
fn wing_and_gong(operations: &[Timed]) -> bool {
    let (passing, lasting): (Vec<&Timed>, Vec<&Timed>) =
        operations.iter().partition(|timed| !timed.certain && timed.until.is_some());
    (0..1u32 << passing.len()).any(|choice| {
        let chosen = passing.iter().enumerate().filter(|(nth, _)| choice >> nth & 1 == 1).map(|(_, timed)| *timed);
        wing_and_gong_of(lasting.iter().copied().chain(chosen))
    })
}

fn wing_and_gong_of<'a>(operations: impl Iterator<Item = &'a Timed>) -> bool {
    let mut events = Vec::new();
    for (process, Timed { from, until, op, .. }) in operations.enumerate() {
        events.push(((false, Some(*from)), process, Action::Call(op.clone())));
        events.push(((until.is_none(), *until), process, Action::Response(op.clone())));
    }
    events.sort_by_key(|(moment, ..)| *moment);
    if events.is_empty() {
        return true;
    }
    let actions = events.into_iter().map(|(_, process, action)| (process, action)).collect();
    WGLChecker::<LockSpec>::is_linearizable(History::from_actions(actions))
}

fn operation() -> impl Strategy<Value = Op> {
    let (who, mode, token) = (0..3u16, prop_oneof![Just(Shared), Just(Exclusive)], 1..6u64);
    let holders = proptest::collection::btree_map(0..3u16, (1..6u64).prop_map(FencingToken), 0..3);
    (who, mode, token, holders, 0..13u8, 0..3usize).prop_map(|(who, mode, token, holders, kind, ask)| match kind {
        0..=2 => Op::Granted { who, mode, token: FencingToken(token) },
        3 => Op::Held { who, holders: holders.into_keys().collect() },
        4 | 5 => Op::Released { who },
        6 => Op::NotHolder { who },
        7 => Op::Dead { who },
        8 => Op::Shown { mode: (!holders.is_empty()).then_some(mode), holders },
        9 => Op::End { who },
        10 => Op::MaybeAcquired { who, mode, ask: (ask, 0) },
        11 => Op::MaybeSurrendered { who, ask: (ask, 0) },
        _ => Op::MaybeReleased { who },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_search_agrees_with_that_of_wing_and_gong(
        drawn in proptest::collection::vec((0..40u64, 1..12u64, any::<bool>(), operation()), 1..9)
    ) {
        let operations: Vec<Timed> = drawn
            .into_iter()
            .enumerate()
            .map(|(index, (start, length, open, op))| {
                let maybe =
                    matches!(op, Op::MaybeAcquired { .. } | Op::MaybeSurrendered { .. } | Op::MaybeReleased { .. });
                let open = open && (maybe || matches!(op, Op::End { .. }));
                let at = |ms, order| Moment { ms, order: 2 * index as u64 + order };
                let until = (!open).then(|| at(start + length, 1));
                Timed { from: at(start, 0), until, certain: !maybe && !open, op }
            })
            .collect();
        let expected = wing_and_gong(&operations);
        let found = Search::new(operations.clone()).run();
        prop_assert_eq!(found == Verdict::Linearizable, expected, "{:?} {:?}", found, operations);
    }
}

#[test]
fn an_acquire_that_is_repeated_may_have_held_the_lock_before_its_answer_but_not_after() {
    let repeated = |answer| Tale::of_two().acquires((10, 50), "a", Exclusive, answer).repeatedly();
    for answer in [held(&["b"]), granted(3, Exclusive)] {
        let tale = repeated(answer).acquires((20, 25), "b", Exclusive, held(&["a"]));
        let tale = tale.acquires((30, 35), "b", Exclusive, granted(2, Exclusive));
        let seen_once = |tale: Tale| tale.releases((40, 45), "b", Answer::Released);
        if matches!(tale.0[2].answer, Answer::Held { .. }) {
            assert!(tale.is_linearizable());
        } else {
            assert!(seen_once(tale).is_linearizable());
        }
    }
    let late = repeated(held(&["b"])).acquires((20, 35), "b", Exclusive, granted(2, Exclusive));
    let late = late.releases((51, 55), "b", Answer::Released);
    assert!(!late.acquires((60, 65), "b", Exclusive, held(&["a"])).is_linearizable());
}

#[test]
fn each_attempt_that_was_not_answered_may_have_been_executed_once() {
    let attempted = || Tale::of_two().acquires((10, 0), "a", Exclusive, Answer::Unknown);
    let seen_twice = |tale: Tale| {
        tale.acquires((20, 25), "b", Exclusive, held(&["a"]))
            .acquires((30, 35), "b", Exclusive, granted(2, Exclusive))
            .releases((40, 45), "b", Answer::Released)
            .acquires((50, 55), "b", Exclusive, held(&["a"]))
    };
    assert!(!seen_twice(attempted()).is_linearizable());
    assert!(seen_twice(attempted().repeatedly()).is_linearizable());
}

#[test]
fn many_unknown_outcomes_are_no_obstacle() {
    let (mut tale, mut ms) = (Tale::of_two(), 10);
    for n in 0..40 {
        let name = format!("u{n}");
        tale = tale.acquires((ms, 0), &name, if n % 3 == 0 { Shared } else { Exclusive }, Answer::Unknown);
        tale = tale.acquires((ms + 1, ms + 2), "a", Exclusive, granted(2 * n + 1, Exclusive));
        tale = tale.releases((ms + 3, 0), "b", Answer::Unknown);
        tale = tale.releases((ms + 4, ms + 5), "a", Answer::Released);
        ms += 10;
    }
    assert!(tale.is_linearizable());
    let wrong = tale.acquires((ms, ms + 1), "b", Exclusive, granted(3, Exclusive));
    assert!(!wrong.is_linearizable());
}
