//! The leader's judgement of time, as whole lists of effects, and over random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::{Incarnation, NodeId, Tick};

const TTL: u64 = 10_000;

fn session(name: &str) -> SessionId {
    SessionId::new(name).unwrap()
}

fn id(seq: u64) -> RequestId {
    RequestId { node: NodeId::from_bytes([7; 32]), incarnation: Incarnation(1), seq }
}

struct Bench {
    keeper: LeaseKeeper,
}

impl Bench {
    fn leading(sessions: &[(&str, Option<u64>)]) -> Self {
        let mut bench = Self { keeper: LeaseKeeper::new() };
        let sessions = sessions.iter().map(|(name, left)| (session(name), TTL, *left)).collect();
        let led = LeaseInput::Led { term: Term(3), sessions, waits: vec![], delays: vec![] };
        assert_eq!(bench.at(0, led), []);
        bench
    }

    fn at(&mut self, now: u64, input: LeaseInput) -> Vec<LeaseEffect> {
        let mut effects = Vec::new();
        self.keeper.step(Tick(now), input, &mut effects);
        effects
    }

    fn keep_alive(&mut self, now: u64, name: &str, asker: u64) -> Vec<LeaseEffect> {
        self.at(now, LeaseInput::KeepAlive { session: session(name), asker })
    }

    fn left(&self, name: &str, now: u64) -> Option<u64> {
        self.keeper.remaining_ms(&session(name), Tick(now))
    }
}

fn expire(proposal: u64, names: &[&str]) -> LeaseEffect {
    let sessions = names.iter().map(|name| session(name)).collect();
    LeaseEffect::Propose { proposal, timer: LockTimer::Expire { term: Term(3), sessions } }
}

fn remainders(proposal: u64, sessions: &[(&str, Option<u64>)]) -> LeaseEffect {
    let sessions = sessions.iter().map(|(name, left)| (session(name), *left)).collect();
    LeaseEffect::Propose { proposal, timer: LockTimer::Remainders { term: Term(3), sessions } }
}

fn round(round: u64) -> LeaseEffect {
    LeaseEffect::BeginQuorumRound { round }
}

fn told(asker: u64, outcome: KeepAliveOutcome) -> LeaseEffect {
    LeaseEffect::KeepAliveAnswered { asker, outcome }
}

fn alive(asker: u64) -> LeaseEffect {
    told(asker, KeepAliveOutcome::Alive { ttl_ms: TTL })
}

#[test]
fn a_silent_session_is_noted_once_and_then_expired() {
    let mut b = Bench::leading(&[("s", None)]);
    assert_eq!(b.keeper.deadline(), Some(Tick(5_000)));
    assert_eq!(b.at(4_999, LeaseInput::Due), []);
    assert_eq!(b.at(5_000, LeaseInput::Due), [remainders(1, &[("s", Some(5_000))])]);
    assert_eq!(b.keeper.deadline(), Some(Tick(10_000)));
    assert_eq!(b.at(9_999, LeaseInput::Due), []);
    assert_eq!(b.at(10_000, LeaseInput::Due), [expire(2, &["s"])]);
    assert_eq!(b.at(20_000, LeaseInput::Due), []);
    assert_eq!(b.at(20_000, LeaseInput::Closed { session: session("s") }), []);
    assert_eq!(b.left("s", 20_000), None);
}

#[test]
fn a_keep_alive_counts_from_its_confirmation_by_a_round_that_began_after_it() {
    let mut b = Bench::leading(&[("s", None)]);
    assert_eq!(b.keep_alive(1_000, "s", 1), [round(1)]);
    assert_eq!(b.keep_alive(1_001, "s", 2), []);
    assert_eq!(b.at(1_500, LeaseInput::Confirmed { round: 1 }), [alive(1), round(2)]);
    assert_eq!(b.left("s", 1_500), Some(TTL));
    assert_eq!(b.at(1_600, LeaseInput::Confirmed { round: 1 }), []);
    assert_eq!(b.at(1_700, LeaseInput::Confirmed { round: 2 }), [alive(2)]);
    assert_eq!(b.at(5_000, LeaseInput::Due), []);
    assert_eq!(b.keeper.deadline(), Some(Tick(6_750)));
}

#[test]
fn after_a_remainder_was_proposed_a_keep_alive_waits_for_the_entry_that_clears_it() {
    let mut b = Bench::leading(&[("s", None)]);
    b.at(5_000, LeaseInput::Due);
    b.keep_alive(6_000, "s", 1);
    assert_eq!(b.at(6_001, LeaseInput::Confirmed { round: 1 }), []);
    assert_eq!(b.left("s", 6_001), Some(3_999), "the next leader gives it no more");
    let noted = LeaseInput::Remainder { session: session("s"), term: Term(3), remainder_ms: Some(5_000) };
    assert_eq!(b.at(6_002, noted), []);
    let clearing = [remainders(2, &[("s", None)])];
    assert_eq!(b.at(6_002, LeaseInput::ProposalApplied { proposal: 1 }), clearing);
    assert_eq!(b.left("s", 6_002), Some(3_998));
    let cleared = LeaseInput::Remainder { session: session("s"), term: Term(3), remainder_ms: None };
    assert_eq!(b.at(6_003, cleared), [alive(1)]);
    assert_eq!(b.left("s", 6_003), Some(TTL - 2));
    b.keep_alive(6_004, "s", 2);
    assert_eq!(b.at(6_005, LeaseInput::Confirmed { round: 2 }), [alive(2)]);
}

#[test]
fn what_became_of_a_remainder_is_known_before_it_is_cleared() {
    let mut b = Bench::leading(&[("s", None)]);
    b.at(5_000, LeaseInput::Due);
    b.keep_alive(6_000, "s", 1);
    assert_eq!(b.at(6_001, LeaseInput::Confirmed { round: 1 }), []);
    let clearing = [remainders(2, &[("s", None)])];
    assert_eq!(b.at(6_002, LeaseInput::ProposalFailed { proposal: 1 }), clearing);
    assert_eq!(b.left("s", 6_002), Some(3_998), "it may be in the log all the same");
    assert_eq!(b.at(6_250, LeaseInput::Due), [], "no further one crosses the entry that clears");
}

#[test]
fn who_is_left_by_an_entry_that_ends_as_much_as_one_may_is_judged_again() {
    let mut b = Bench::leading(&[("s", Some(500)), ("t", Some(500))]);
    assert_eq!(b.at(500, LeaseInput::Due), [expire(1, &["s", "t"])]);
    assert_eq!(b.at(501, LeaseInput::Closed { session: session("s") }), []);
    assert_eq!(b.at(501, LeaseInput::ProposalApplied { proposal: 1 }), []);
    assert_eq!(b.at(501, LeaseInput::Due), [expire(2, &["t"])]);
}

#[test]
fn nothing_is_noted_while_an_entry_that_clears_is_on_its_way() {
    let mut b = Bench::leading(&[("s", Some(4_000))]);
    b.keep_alive(1_000, "s", 1);
    assert_eq!(b.at(1_001, LeaseInput::Confirmed { round: 1 }), [remainders(1, &[("s", None)])]);
    for now in [6_250, 11_001, 11_102] {
        assert_eq!(b.at(now, LeaseInput::Due), []);
    }
    let cleared = LeaseInput::Remainder { session: session("s"), term: Term(3), remainder_ms: None };
    assert_eq!(b.at(11_103, cleared), [alive(1)]);
    assert_eq!(b.at(11_300, LeaseInput::Due), [expire(2, &["s"])]);
}

#[test]
fn a_new_leader_gives_the_remainder_and_notes_what_is_left_of_it() {
    let mut b = Bench::leading(&[("s", Some(4_000))]);
    assert_eq!(b.left("s", 0), Some(4_000));
    assert_eq!(b.at(2_000, LeaseInput::Due), [remainders(1, &[("s", Some(2_000))])]);
    assert_eq!(b.at(4_000, LeaseInput::Due), [expire(2, &["s"])]);
}

#[test]
fn no_keep_alive_is_honoured_once_expiry_is_proposed() {
    let mut b = Bench::leading(&[("s", None), ("t", None)]);
    b.at(5_000, LeaseInput::Due);
    assert_eq!(b.at(10_000, LeaseInput::Due), [expire(2, &["s", "t"])]);
    assert_eq!(b.keep_alive(10_001, "s", 1), []);
    assert_eq!(b.keep_alive(10_001, "t", 2), []);
    assert_eq!(b.at(10_002, LeaseInput::Late), []);
    assert_eq!(b.left("s", 10_002), Some(0));
    let gone = [told(1, KeepAliveOutcome::Expired)];
    assert_eq!(b.at(10_003, LeaseInput::Closed { session: session("s") }), gone);
    assert_eq!(b.at(10_004, LeaseInput::ProposalFailed { proposal: 2 }), [round(1)]);
    assert_eq!(b.at(10_005, LeaseInput::Confirmed { round: 1 }), []);
    let cleared = [remainders(3, &[("t", None)])];
    assert_eq!(b.at(10_005, LeaseInput::ProposalApplied { proposal: 1 }), cleared);
    let cleared = LeaseInput::Remainder { session: session("t"), term: Term(3), remainder_ms: None };
    assert_eq!(b.at(10_006, cleared), [alive(2)]);
}

#[test]
fn a_keep_alive_that_is_being_confirmed_holds_expiry_back() {
    let mut b = Bench::leading(&[("s", None)]);
    b.at(5_000, LeaseInput::Due);
    b.keep_alive(9_999, "s", 1);
    assert_eq!(b.at(10_000, LeaseInput::Due), []);
    let failed = [told(1, KeepAliveOutcome::Unconfirmed)];
    assert_eq!(b.at(10_001, LeaseInput::Unconfirmed { round: 1 }), failed);
    assert_eq!(b.keeper.deadline(), Some(Tick(10_100)));
    assert_eq!(b.at(10_100, LeaseInput::Due), [expire(2, &["s"])]);
}

#[test]
fn an_unknown_session_is_refused_only_by_a_confirmed_leader() {
    let mut b = Bench::leading(&[]);
    assert_eq!(b.keep_alive(1, "s", 1), [round(1)]);
    let expired = [told(1, KeepAliveOutcome::Expired)];
    assert_eq!(b.at(2, LeaseInput::Confirmed { round: 1 }), expired);
    b.keep_alive(3, "s", 2);
    b.at(4, LeaseInput::Opened { session: session("s"), ttl_ms: TTL });
    assert_eq!(b.at(5, LeaseInput::Confirmed { round: 2 }), [alive(2)]);
}

#[test]
fn who_is_deposed_answers_everyone_so_and_forgets_everything() {
    let mut b = Bench::leading(&[("s", None)]);
    b.keep_alive(1, "s", 1);
    b.keep_alive(1, "s", 2);
    let not_leader = |asker| told(asker, KeepAliveOutcome::NotLeader);
    assert_eq!(b.at(2, LeaseInput::Deposed), [not_leader(1), not_leader(2)]);
    assert_eq!(b.keep_alive(3, "s", 3), [not_leader(3)]);
    assert_eq!(b.at(4, LeaseInput::Confirmed { round: 1 }), []);
    assert_eq!(b.keeper.deadline(), None);
}

#[test]
fn a_late_timer_gives_every_term_anew() {
    let mut b = Bench::leading(&[("s", Some(500)), ("t", None)]);
    assert_eq!(b.at(60_000, LeaseInput::Late), []);
    assert_eq!(b.at(60_000, LeaseInput::Due), []);
    assert_eq!(
        (b.left("s", 60_000), b.left("t", 60_000)),
        (Some(0), Some(TTL)),
        "the next leader gives what the log says"
    );
}

#[test]
fn waits_and_delays_are_timed_and_tried_again_when_the_proposal_fails() {
    let mut b = Bench::leading(&[]);
    let lock = LockName::new("a").unwrap();
    for (request, wait_ms) in [(id(1), 100), (id(2), 200), (id(3), 50)] {
        b.at(0, LeaseInput::WaitBegan { request, wait_ms });
    }
    b.at(1, LeaseInput::WaitsEnded { requests: vec![id(3)] });
    b.at(0, LeaseInput::DelayBegan { lock: lock.clone(), ticket: 1, delay_ms: 150 });
    b.at(0, LeaseInput::DelayBegan { lock: lock.clone(), ticket: 2, delay_ms: 250 });
    let over = |proposal, seq| LeaseEffect::Propose {
        proposal,
        timer: LockTimer::WaitsOver { term: Term(3), requests: vec![id(seq)] },
    };
    let reopen =
        |proposal| LeaseEffect::Propose { proposal, timer: LockTimer::Reopen { lock: lock.clone(), ticket: 2 } };
    assert_eq!(b.at(100, LeaseInput::Due), [over(1, 1)]);
    assert_eq!(b.at(100, LeaseInput::ProposalFailed { proposal: 1 }), []);
    assert_eq!(
        b.at(200, LeaseInput::Due),
        [LeaseEffect::Propose {
            proposal: 2,
            timer: LockTimer::WaitsOver { term: Term(3), requests: vec![id(1), id(2)] },
        },]
    );
    assert_eq!(b.at(250, LeaseInput::Due), [reopen(3)]);
    b.at(251, LeaseInput::ProposalFailed { proposal: 3 });
    assert_eq!(b.at(351, LeaseInput::Due), [reopen(4)]);
    b.at(352, LeaseInput::ProposalApplied { proposal: 4 });
    assert_eq!(b.keeper.deadline(), None);
}

#[derive(Clone, Debug)]
enum Move {
    KeepAlive(u8),
    /// Somebody is told what is left of a term.
    Ask(u8),
    Confirm,
    Unconfirm,
    Apply,
    Fail,
    /// It is not known what became of the first proposal, if it notes a remainder.
    LoseSight,
    Late,
    NewLeader,
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => (0..3u8).prop_map(Move::KeepAlive),
        2 => (0..3u8).prop_map(Move::Ask),
        3 => Just(Move::Confirm),
        1 => Just(Move::Unconfirm),
        3 => Just(Move::Apply),
        1 => Just(Move::Fail),
        1 => Just(Move::LoseSight),
        1 => Just(Move::Late),
        1 => Just(Move::NewLeader),
        6 => (0..2_500u64).prop_map(Move::Pass),
    ]
}

/// A log of proposals in order, holders who believe from when they sent, and one leader after the
/// other.
#[derive(Default)]
struct World {
    keeper: LeaseKeeper,
    now: u64,
    term: u64,
    /// What was proposed and may still be applied, by which leader.
    log: Vec<(u64, u64, LockTimer)>,
    rounds: Vec<u64>,
    /// What the log says: alive, with its remainder.
    sessions: BTreeMap<SessionId, Option<u64>>,
    /// Until when each holder believes.
    belief: BTreeMap<SessionId, u64>,
    sent: BTreeMap<u64, (SessionId, u64)>,
    asker: u64,
    expired: usize,
}

impl World {
    fn step(&mut self, input: LeaseInput) {
        let mut effects = Vec::new();
        self.keeper.step(Tick(self.now), input, &mut effects);
        for effect in effects {
            match effect {
                LeaseEffect::Propose { proposal, timer } => self.log.push((self.term, proposal, timer)),
                LeaseEffect::BeginQuorumRound { round } => self.rounds.push(round),
                LeaseEffect::KeepAliveAnswered { asker, outcome } => {
                    let (session, sent) = self.sent.remove(&asker).expect("each asker is answered once");
                    if let KeepAliveOutcome::Alive { ttl_ms } = outcome {
                        assert!(self.sessions.contains_key(&session), "a dead session was kept alive");
                        let belief = self.belief.entry(session).or_default();
                        *belief = (*belief).max(sent + ttl_ms);
                    }
                }
            }
        }
    }

    /// What the last leader proposed may be committed by the next one all the same.
    fn lead(&mut self) {
        self.rounds.clear();
        let sessions = self.sessions.iter().map(|(session, left)| (session.clone(), TTL, *left)).collect();
        self.term += 1;
        let term = Term(self.term);
        self.step(LeaseInput::Led { term, sessions, waits: vec![], delays: vec![] });
    }

    fn apply(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let (entry_term, proposal, timer) = self.log.remove(0);
        match timer {
            LockTimer::Expire { sessions, .. } => {
                for session in sessions {
                    if self.sessions.remove(&session).is_some() {
                        assert!(self.belief[&session] <= self.now, "expired while its holder believed");
                        self.expired += 1;
                        self.step(LeaseInput::Closed { session });
                    }
                }
            }
            LockTimer::Remainders { sessions, term } => {
                for (session, remainder_ms) in sessions {
                    let Some(left) = self.sessions.get_mut(&session) else { continue };
                    *left = remainder_ms;
                    self.step(LeaseInput::Remainder { session, term, remainder_ms });
                }
            }
            other => panic!("{other:?}"),
        }
        if entry_term == self.term {
            self.step(LeaseInput::ProposalApplied { proposal });
        }
    }

    /// Applies what stood in the log when the leader began.
    fn catch_up(&mut self) {
        while self.log.first().is_some_and(|(term, ..)| *term < self.term) {
            self.apply();
        }
    }

    /// A leader is confirmed, and tells anybody anything, once it has caught up.
    fn confirm(&mut self) {
        self.catch_up();
        let round = self.rounds.remove(0);
        self.step(LeaseInput::Confirmed { round });
    }

    fn make(&mut self, step: Move) {
        match step {
            Move::KeepAlive(n) => {
                let session = session(&n.to_string());
                self.asker += 1;
                self.sent.insert(self.asker, (session.clone(), self.now));
                self.step(LeaseInput::KeepAlive { session, asker: self.asker });
            }
            Move::Ask(n) => {
                self.catch_up();
                let session = session(&n.to_string());
                if let (Some(left), Some(belief)) =
                    (self.keeper.remaining_ms(&session, Tick(self.now)), self.belief.get_mut(&session))
                {
                    *belief = (*belief).max(self.now + left);
                }
            }
            Move::Confirm | Move::Unconfirm if self.rounds.is_empty() => {}
            Move::Confirm => self.confirm(),
            Move::Unconfirm => {
                let round = self.rounds.remove(0);
                self.step(LeaseInput::Unconfirmed { round });
            }
            Move::Apply => self.apply(),
            Move::Fail => {
                if let Some((term, proposal, _)) = self.log.pop()
                    && term == self.term
                {
                    self.step(LeaseInput::ProposalFailed { proposal });
                }
            }
            Move::LoseSight => {
                if let Some((term, proposal, timer)) = self.log.first_mut()
                    && *term == self.term
                    && timer.notes_remainders()
                {
                    let proposal = std::mem::take(proposal);
                    self.step(LeaseInput::ProposalFailed { proposal });
                }
            }
            Move::Late => self.step(LeaseInput::Late),
            Move::NewLeader => self.lead(),
            Move::Pass(ms) => {
                self.now += ms;
                while self.keeper.deadline().is_some_and(|at| at <= Tick(self.now)) {
                    self.step(LeaseInput::Due);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_session_expires_while_its_holder_believes_and_every_silent_one_does(
        history in proptest::collection::vec(moves(), 1..80)
    ) {
        let mut world = World::default();
        for n in 0..3 {
            world.sessions.insert(session(&n.to_string()), None);
            world.belief.insert(session(&n.to_string()), TTL);
        }
        world.lead();
        for step in history {
            world.make(step);
        }
        for _ in 0..40 {
            world.make(Move::Pass(1_000));
            world.make(Move::Unconfirm);
            world.make(Move::Apply);
        }
        prop_assert_eq!(world.expired, 3);
        prop_assert!(world.sent.is_empty(), "unanswered: {:?}", world.sent);
    }
}
