//! What a home does, effect by effect.

use bytes::Bytes;

use crate::{
    ids::{CacheKey, Epoch, Incarnation, NodeId, Tick},
    machine::cache::{
        CacheAnswer, CacheRequest, EntryState, FromHome, Home, HomeAnswer, HomeEffect, HomeInput, HomeReply,
        HomeRequest, HomeSettings, Inv, LineId, Nonce, NotOwner, Placed, Previous, Protocol, PutAck, RecallTo, Refused,
        Right, SlotId, Start, ToHome, Value, Version, WritePolicy, waited_ms,
        world::{home_id, key, node},
    },
};

pub(super) const LEASE_MS: u64 = 2_000;
pub(super) const BEGIN: Tick = Tick(50_000);

/// A home, its clock, and what it is told.
pub(super) struct Tested {
    pub(super) home: Home,
    pub(super) now: Tick,
    pub(super) calls: u64,
}

pub(super) fn nonce(count: u64) -> Nonce {
    Nonce { incarnation: Incarnation(1), count }
}

pub(super) fn version(seq: u64, n: u64) -> Version {
    Version { epoch: Epoch(1), seq, n }
}

pub(super) fn line() -> LineId {
    LineId { key: key(), epoch: Epoch(1) }
}

pub(super) fn value(seq: u64, n: u64, body: &'static str) -> Value {
    Value { version: version(seq, n), body: Some(Bytes::from_static(body.as_bytes())), ttl_ms: None }
}

pub(super) fn slot() -> SlotId {
    SlotId::of(&key())
}

pub(super) fn placed(epoch: u64, home: usize) -> Placed {
    Placed { slot: slot(), epoch: Epoch(epoch), home: Some(home_id(home)) }
}

pub(super) fn get_s(count: u64) -> HomeRequest {
    HomeRequest::GetS { line: line(), nonce: nonce(count), refused: None }
}

pub(super) fn get_m(count: u64) -> HomeRequest {
    HomeRequest::GetM { line: line(), nonce: nonce(count), held: None, need_value: true }
}

pub(super) fn answer(call: u64, body: HomeAnswer) -> HomeEffect {
    let reply = HomeReply { session: nonce(1), lease_ms: Some(LEASE_MS), moved: vec![], put_acks: vec![], body };
    HomeEffect::Answer { call, reply }
}

/// An answer that extends nothing.
pub(super) fn refuse(call: u64, body: HomeAnswer) -> HomeEffect {
    let reply = HomeReply { session: nonce(1), lease_ms: None, moved: vec![], put_acks: vec![], body };
    HomeEffect::Answer { call, reply }
}

pub(super) fn ask(to: usize, call: u64, body: CacheRequest) -> HomeEffect {
    HomeEffect::Ask { to: node(to), call, message: FromHome { home: home_id(0), put_acks: vec![], body } }
}

pub(super) fn inv(seq: u64, writer: usize) -> Inv {
    Inv { line: line(), version: version(seq, 0), writer: Some(node(writer)), home: home_id(0) }
}

pub(super) fn data(count: u64, stamp: Version, value: Value, right: Right) -> HomeAnswer {
    HomeAnswer::Data { nonce: nonce(count), stamp, value, right }
}

impl Tested {
    pub(super) fn new(protocol: Protocol, policy: WritePolicy) -> Self {
        let settings = HomeSettings { protocol, policy, lease_ms: LEASE_MS, max_waiting: 1, ..HomeSettings::default() };
        let mut tested = Self { home: Home::new(home_id(0), settings), now: BEGIN, calls: 0 };
        tested.hears(HomeInput::Lease { until: Tick(u64::MAX) });
        tested.hears(HomeInput::Begin { placed: placed(1, 0), start: Start::Founded });
        tested
    }

    pub(super) fn hears(&mut self, input: HomeInput) -> Vec<HomeEffect> {
        let mut effects = vec![];
        self.home.step(self.now, input, &mut effects);
        effects
    }

    /// A cache says this in its first session; calls count from 1.
    pub(super) fn said(&mut self, from: usize, body: HomeRequest) -> Vec<HomeEffect> {
        self.said_in(from, nonce(1), body)
    }

    pub(super) fn said_in(&mut self, from: usize, session: Nonce, body: HomeRequest) -> Vec<HomeEffect> {
        self.calls += 1;
        let message = ToHome { home: home_id(0), session, body };
        self.hears(HomeInput::FromCache { from: node(from), call: self.calls, message })
    }

    pub(super) fn answered(&mut self, call: u64, answer: CacheAnswer) -> Vec<HomeEffect> {
        self.hears(HomeInput::Answered { call, answer: Some(answer) })
    }

    /// A home that has "a", which the last cache stored and returned; three calls were made.
    pub(super) fn with_value(protocol: Protocol) -> Self {
        let mut tested = Self::new(protocol, WritePolicy::Back);
        tested.said(9, get_m(2));
        let body =
            HomeRequest::Put { line: line(), grant: nonce(2), stamp: version(1, 0), value: Some(value(1, 0, "a")) };
        tested.said(9, body);
        tested.calls = 10;
        tested
    }

    /// The same, shared by two caches: without E.
    pub(super) fn with_sharers() -> Self {
        let mut tested = Self::with_value(Protocol::Mosi);
        tested.said(0, get_s(2));
        tested.said(1, get_s(2));
        tested.calls = 20;
        tested
    }

    pub(super) fn state(&self) -> Option<(EntryState, Option<NodeId>, Vec<NodeId>)> {
        self.home.view(&key()).map(|view| (view.state, view.owner, view.sharers))
    }
}

#[test]
fn what_is_absent_is_a_miss_and_leaves_no_trace() {
    let mut tested = Tested::new(Protocol::Mesi, WritePolicy::Back);
    assert_eq!(tested.said(0, get_s(2)), [answer(1, HomeAnswer::Miss { nonce: nonce(2) })]);
    assert_eq!(tested.state(), None);
    assert_eq!(tested.said(0, get_s(2)), [refuse(2, HomeAnswer::Again { nonce: nonce(2) })], "it was served");
}

#[test]
fn the_first_reader_gets_the_sole_copy_where_there_is_e() {
    let mut mesi = Tested::with_value(Protocol::Mesi);
    let exclusive = data(2, version(2, 0), value(1, 0, "a"), Right::Exclusive);
    assert_eq!(mesi.said(0, get_s(2)), [answer(11, exclusive.clone())]);
    assert_eq!(mesi.state(), Some((EntryState::Owned, Some(node(0)), vec![])));
    assert_eq!(mesi.said(0, get_s(2)), [answer(12, exclusive)], "the same again");
    let mut mosi = Tested::with_value(Protocol::Mosi);
    let shared = data(2, version(1, 0), value(1, 0, "a"), Right::Shared);
    assert_eq!(mosi.said(0, get_s(2)), [answer(11, shared)]);
    assert_eq!(mosi.state(), Some((EntryState::S, None, vec![node(0)])));
}

#[test]
fn in_mesi_a_second_reader_waits_for_the_owner_to_give_the_value() {
    let mut tested = Tested::with_value(Protocol::Mesi);
    tested.said(0, get_s(2));
    let recall = CacheRequest::Recall { line: line(), grant: nonce(2), to: RecallTo::Shared };
    assert_eq!(tested.said(1, get_s(2)), [ask(0, 1, recall)]);
    let surrender = CacheAnswer::Surrender { stamp: version(2, 3), value: Some(value(2, 3, "b")) };
    assert_eq!(tested.answered(1, surrender), [answer(12, data(2, version(2, 3), value(2, 3, "b"), Right::Shared))]);
    assert_eq!(tested.state(), Some((EntryState::S, None, vec![node(0), node(1)])));
    let renewed = HomeEffect::Answer {
        call: 13,
        reply: HomeReply {
            session: nonce(1),
            lease_ms: Some(LEASE_MS),
            moved: vec![],
            put_acks: vec![PutAck { line: line(), grant: nonce(2) }],
            body: HomeAnswer::Renewed,
        },
    };
    assert_eq!(tested.said(0, HomeRequest::Renew), [renewed], "what it surrendered has arrived");
}

#[test]
fn where_there_is_o_a_second_reader_is_sent_to_the_owner_and_counts_as_a_sharer() {
    let mut tested = Tested::with_value(Protocol::Moesi);
    tested.said(0, get_s(2));
    let redirect = HomeAnswer::Redirect { nonce: nonce(2), owner: node(0), grant: nonce(2) };
    assert_eq!(tested.said(1, get_s(2)), [answer(12, redirect)]);
    assert_eq!(tested.state(), Some((EntryState::Owned, Some(node(0)), vec![node(1)])));
}

#[test]
fn a_writer_is_granted_the_line_when_each_sharer_has_acknowledged_exactly_its_write() {
    let mut tested = Tested::with_sharers();
    assert_eq!(tested.said(2, get_m(2)), [HomeEffect::Broadcast { inv: inv(2, 2) }]);
    let ack = |seq| HomeRequest::InvAck { line: line(), version: version(seq, 0) };
    assert_eq!(tested.said(0, ack(1)), []);
    assert_eq!(tested.said(0, ack(2)), []);
    let grant = HomeAnswer::Grant { nonce: nonce(2), stamp: version(2, 0), previous: Previous::Was(value(1, 0, "a")) };
    assert_eq!(tested.said(1, ack(2)), [answer(21, grant)]);
    assert_eq!(tested.state(), Some((EntryState::Owned, Some(node(2)), vec![])));
}

#[test]
fn who_is_silent_is_told_by_unicast_less_and_less_often_until_its_session_is_over() {
    let mut tested = Tested::with_sharers();
    tested.said(2, get_m(2));
    tested.said(1, HomeRequest::InvAck { line: line(), version: version(2, 0) });
    let over = tested.now.plus_ms(waited_ms(LEASE_MS));
    let mut repeats = vec![];
    while tested.now < over {
        tested.now = tested.home.deadline().expect("it waits");
        let effects = tested.hears(HomeInput::Tick);
        if tested.now < over {
            let call = repeats.len() as u64 + 1;
            assert_eq!(effects, [ask(0, call, CacheRequest::Inv(inv(2, 2)))]);
            repeats.push(tested.now.ms_since(BEGIN));
        } else {
            let previous = Previous::Was(value(1, 0, "a"));
            let grant = HomeAnswer::Grant { nonce: nonce(2), stamp: version(2, 0), previous };
            assert_eq!(effects, [answer(21, grant)]);
        }
    }
    assert_eq!(repeats, [20, 60, 140, 300, 620, 1_120, 1_620]);
}

#[test]
fn who_owes_an_acknowledgement_for_long_is_answered_but_not_extended() {
    let mut tested = Tested::with_sharers();
    tested.said(2, get_m(2));
    tested.now = BEGIN.plus_ms(LEASE_MS / 2 + 1);
    let effects = tested.said(0, HomeRequest::Renew);
    assert_eq!(effects.first(), Some(&refuse(22, HomeAnswer::Renewed)));
    let effects = tested.said(2, HomeRequest::Renew);
    assert_eq!(effects.first(), Some(&answer(23, HomeAnswer::Renewed)), "who waits is");
}

#[test]
fn requests_wait_in_order_and_no_more_of_them_than_are_set() {
    let mut tested = Tested::with_sharers();
    tested.said(2, get_m(2));
    assert_eq!(tested.said(3, get_s(2)), []);
    let busy = HomeAnswer::Busy { nonce: nonce(2), retry_ms: HomeSettings::default().busy_retry_ms };
    assert_eq!(tested.said(4, get_s(2)), [refuse(23, busy)]);
    let asks_again = tested.said(3, get_s(3));
    let busy = HomeAnswer::Busy { nonce: nonce(2), retry_ms: HomeSettings::default().busy_retry_ms };
    assert_eq!(asks_again, [refuse(22, busy)], "what it asked before is given up");
    tested.said(0, HomeRequest::InvAck { line: line(), version: version(2, 0) });
    let effects = tested.said(1, HomeRequest::InvAck { line: line(), version: version(2, 0) });
    let redirect = HomeAnswer::Redirect { nonce: nonce(3), owner: node(2), grant: nonce(2) };
    assert_eq!(effects.last(), Some(&answer(24, redirect)));
}

#[test]
fn a_put_under_another_grant_changes_nothing() {
    let mut tested = Tested::with_value(Protocol::Mesi);
    tested.said(0, get_m(3));
    let before = tested.home.view(&key());
    let put = HomeRequest::Put { line: line(), grant: nonce(2), stamp: version(1, 0), value: Some(value(1, 0, "z")) };
    let ack = HomeAnswer::PutAck(PutAck { line: line(), grant: nonce(2) });
    assert_eq!(tested.said(0, put), [answer(12, ack)]);
    assert_eq!(tested.home.view(&key()), before);
}

#[test]
fn a_put_counts_as_the_surrender_that_is_awaited() {
    let mut tested = Tested::with_value(Protocol::Mesi);
    tested.said(0, get_m(2));
    tested.said(1, get_s(2));
    let put = HomeRequest::Put { line: line(), grant: nonce(2), stamp: version(2, 0), value: Some(value(2, 0, "b")) };
    assert_eq!(
        tested.said(0, put),
        [
            answer(12, data(2, version(2, 0), value(2, 0, "b"), Right::Shared)),
            answer(13, HomeAnswer::PutAck(PutAck { line: line(), grant: nonce(2) })),
        ]
    );
}

#[test]
fn a_dead_owner_voids_the_value_under_back_and_not_under_through() {
    for (policy, expected) in [
        (WritePolicy::Back, HomeAnswer::Miss { nonce: nonce(2) }),
        (WritePolicy::Through, data(2, version(2, 0), value(1, 1, "b"), Right::Exclusive)),
    ] {
        let mut tested = Tested::new(Protocol::Mesi, policy);
        tested.said(0, get_m(2));
        if policy == WritePolicy::Through {
            let (grant, stamp) = (nonce(2), version(1, 1));
            tested.said(0, HomeRequest::StoreThrough { line: line(), grant, stamp, value: value(1, 1, "b") });
        }
        tested.now = BEGIN.plus_ms(waited_ms(LEASE_MS));
        tested.calls = 10;
        let effects = tested.said(1, get_s(2));
        let lost = HomeEffect::DirtyLost { key: key(), owner: node(0) };
        if policy == WritePolicy::Back {
            assert_eq!(effects, [lost, answer(11, expected)]);
        } else {
            let HomeAnswer::Data { nonce, value, right, .. } = expected else { unreachable!() };
            assert_eq!(effects, [answer(11, HomeAnswer::Data { nonce, stamp: version(2, 0), value, right })]);
        }
    }
}

#[test]
fn a_line_whose_owner_is_dead_comes_from_a_sharer() {
    let mut tested = Tested::with_value(Protocol::Moesi);
    tested.said(0, get_m(2));
    tested.said(1, get_s(2));
    tested.now = BEGIN.plus_ms(1_500);
    tested.said(1, HomeRequest::Renew);
    tested.now = BEGIN.plus_ms(waited_ms(LEASE_MS));
    tested.calls = 20;
    let asks = CacheRequest::Ask { line: line(), grant: nonce(2) };
    assert_eq!(tested.said(2, get_s(2)), [ask(1, 1, asks)]);
    let shared = CacheAnswer::Shared { stamp: version(2, 4), value: value(2, 4, "b") };
    assert_eq!(tested.answered(1, shared), [answer(21, data(2, version(2, 4), value(2, 4, "b"), Right::Shared))]);
}

#[test]
fn a_sharer_that_lives_and_tells_nothing_is_passed_over_after_a_lease() {
    let mut tested = Tested::with_value(Protocol::Moesi);
    tested.said(0, get_m(2));
    tested.said(1, get_s(2));
    tested.now = BEGIN.plus_ms(1_500);
    tested.said(1, HomeRequest::Renew);
    tested.now = BEGIN.plus_ms(waited_ms(LEASE_MS));
    tested.calls = 20;
    let mut effects = tested.said(2, get_s(2));
    let over = tested.now.plus_ms(waited_ms(LEASE_MS));
    while tested.now < over {
        assert!(matches!(effects[..], [HomeEffect::Ask { to, .. }] if to == node(1)), "{effects:?}");
        tested.said(1, HomeRequest::Renew);
        tested.now = tested.home.deadline().expect("it waits");
        effects = tested.hears(HomeInput::Tick);
    }
    let lost = HomeEffect::DirtyLost { key: key(), owner: node(0) };
    assert_eq!(effects, [lost, answer(21, HomeAnswer::Miss { nonce: nonce(2) })]);
}

#[test]
fn a_grant_that_never_arrived_leaves_the_home_s_copy_as_it_was() {
    let mut tested = Tested::with_value(Protocol::Moesi);
    tested.said(0, get_s(2));
    tested.said(1, get_s(2));
    let not = NotOwner { session: Some(nonce(1)) };
    let refused = Some(Refused { owner: node(0), grant: nonce(2), answer: Some(not) });
    let again = HomeRequest::GetS { line: line(), nonce: nonce(3), refused };
    assert_eq!(
        tested.said(1, again),
        [answer(13, data(3, version(2, 0), value(1, 0, "a"), Right::Shared))],
        "it shares already, so it gets no sole copy"
    );
}

#[test]
fn an_upgrade_that_never_arrived_leaves_its_owner_what_it_had() {
    let upgraded = || {
        let mut tested = Tested::with_value(Protocol::Moesi);
        tested.said(0, get_m(2));
        let upgrade = HomeRequest::GetM { line: line(), nonce: nonce(5), held: Some(nonce(2)), need_value: true };
        let grant = HomeAnswer::Grant { nonce: nonce(5), stamp: version(3, 0), previous: Previous::Held };
        assert_eq!(tested.said(0, upgrade.clone()), [answer(12, grant.clone())]);
        assert_eq!(tested.said(0, upgrade), [answer(13, grant)], "asked again, not what the home has");
        tested
    };
    let not = NotOwner { session: Some(nonce(1)) };
    let mut read = upgraded();
    let redirect = |count, grant| HomeAnswer::Redirect { nonce: nonce(count), owner: node(0), grant: nonce(grant) };
    assert_eq!(read.said(1, get_s(2)), [answer(14, redirect(2, 5))]);
    let refused = Some(Refused { owner: node(0), grant: nonce(5), answer: Some(not) });
    let again = HomeRequest::GetS { line: line(), nonce: nonce(3), refused };
    assert_eq!(read.said(1, again), [answer(15, redirect(3, 2))]);

    let mut written = upgraded();
    let recall = |grant| CacheRequest::Recall { line: line(), grant: nonce(grant), to: RecallTo::Invalid };
    assert_eq!(written.said(2, get_m(2)), [ask(0, 1, recall(5))]);
    assert_eq!(written.answered(1, CacheAnswer::NotOwner(not)), [ask(0, 2, recall(2))]);
}

#[test]
fn a_higher_session_ends_the_one_before() {
    let mut tested = Tested::with_sharers();
    tested.said(2, get_m(2));
    tested.said(1, HomeRequest::InvAck { line: line(), version: version(2, 0) });
    let effects = tested.said_in(0, nonce(50), HomeRequest::Renew);
    let grant = HomeAnswer::Grant { nonce: nonce(2), stamp: version(2, 0), previous: Previous::Was(value(1, 0, "a")) };
    let renewed = HomeReply {
        session: nonce(50),
        lease_ms: Some(LEASE_MS),
        moved: vec![],
        put_acks: vec![],
        body: HomeAnswer::Renewed,
    };
    assert_eq!(effects, [answer(21, grant), HomeEffect::Answer { call: 23, reply: renewed }]);
    assert_eq!(tested.said(0, HomeRequest::Renew), [refuse(24, HomeAnswer::SessionOver)]);
}

#[test]
fn the_session_of_who_is_no_member_makes_room_for_another_once_it_is_over() {
    let mut tested = Tested::new(Protocol::Mesi, WritePolicy::Back);
    let settings = HomeSettings { lease_ms: LEASE_MS, max_sessions: 1, ..HomeSettings::default() };
    tested.home = Home::new(home_id(0), settings);
    tested.hears(HomeInput::Lease { until: Tick(u64::MAX) });
    let renews = |tested: &mut Tested, node| tested.said(node, HomeRequest::Renew);
    assert_eq!(renews(&mut tested, 0), [answer(1, HomeAnswer::Renewed)]);
    assert_eq!(renews(&mut tested, 1), [refuse(2, HomeAnswer::SessionOver)], "there is no room");
    tested.hears(HomeInput::Forget { node: node(0) });
    assert_eq!(renews(&mut tested, 1), [refuse(3, HomeAnswer::SessionOver)], "it may read yet what it was granted");
    tested.now = BEGIN.plus_ms(waited_ms(LEASE_MS));
    assert_eq!(renews(&mut tested, 1), [refuse(4, HomeAnswer::SessionOver)], "nothing of it may be served again");
    tested.hears(HomeInput::Forget { node: node(0) });
    assert_eq!(renews(&mut tested, 1), [answer(5, HomeAnswer::Renewed)]);
}

#[test]
fn nothing_is_served_outside_of_the_lease_of_the_node() {
    let settings = HomeSettings::default();
    let mut tested = Tested { home: Home::new(home_id(0), settings), now: BEGIN, calls: 0 };
    tested.hears(HomeInput::Begin { placed: placed(1, 0), start: Start::Founded });
    let not_home = HomeAnswer::NotHome { epoch: Epoch(1) };
    assert_eq!(tested.said(0, get_s(2)), [refuse(1, not_home.clone())]);
    tested.hears(HomeInput::Lease { until: BEGIN.plus_ms(1) });
    assert_eq!(tested.said(0, get_s(2)), [answer(2, HomeAnswer::Miss { nonce: nonce(2) })]);
    tested.now = BEGIN.plus_ms(1);
    assert_eq!(tested.said(0, get_s(3)), [refuse(3, not_home)]);
}

#[test]
fn an_entry_that_has_to_make_room_recalls_its_copies_first() {
    let mut tested = Tested::with_sharers();
    let inv = Inv { writer: None, ..inv(2, 0) };
    assert_eq!(tested.hears(HomeInput::Evict { key: key(), in_turn: false }), [HomeEffect::Broadcast { inv }]);
    tested.said(0, HomeRequest::InvAck { line: line(), version: version(2, 0) });
    assert_eq!(tested.said(1, HomeRequest::InvAck { line: line(), version: version(2, 0) }), []);
    assert_eq!(tested.state(), None);
    assert_eq!(tested.said(3, get_s(2)), [answer(23, HomeAnswer::Miss { nonce: nonce(2) })]);
}

#[test]
fn what_an_entry_served_is_known_however_much_is_forgotten_of_others() {
    let mut tested = Tested::new(Protocol::Mesi, WritePolicy::Back);
    let settings = HomeSettings { lease_ms: LEASE_MS, max_forgotten: 1, ..HomeSettings::default() };
    tested.home = Home::new(home_id(0), settings);
    tested.hears(HomeInput::Lease { until: Tick(u64::MAX) });
    tested.hears(HomeInput::Begin { placed: placed(1, 0), start: Start::Founded });
    tested.said(0, get_m(2));
    // The second one waits for the first, and misses others meanwhile.
    tested.said(1, get_m(2));
    let others =
        (0..).map(|n| CacheKey::new(format!("other-{n}")).unwrap()).filter(|other| SlotId::of(other) == slot());
    for (count, key) in (3..6).zip(others) {
        let line = LineId { key, epoch: Epoch(1) };
        let effects = tested.said(1, HomeRequest::GetS { line, nonce: nonce(count), refused: None });
        assert_eq!(effects, [answer(tested.calls, HomeAnswer::Miss { nonce: nonce(count) })]);
    }
    let retry_ms = HomeSettings::default().busy_retry_ms;
    let busy = refuse(2, HomeAnswer::Busy { nonce: nonce(2), retry_ms });
    assert_eq!(tested.said(1, get_m(2)), [busy], "it is the same request, and will be answered");
}

#[test]
fn a_busy_entry_goes_in_its_turn() {
    let mut tested = Tested::with_sharers();
    let is_leaving = |tested: &Tested| tested.home.view(&key()).is_some_and(|view| view.is_leaving);
    let owner = |tested: &Tested| tested.home.view(&key()).and_then(|view| view.owner);
    let recall = CacheRequest::Recall { line: line(), grant: nonce(2), to: RecallTo::Invalid };
    let surrender = |seq| CacheAnswer::Surrender { stamp: version(seq, 1), value: Some(value(seq, 1, "b")) };
    tested.said(2, get_m(2));
    tested.said(3, get_m(2));
    assert_eq!(tested.hears(HomeInput::Evict { key: key(), in_turn: false }), []);
    assert!(!is_leaving(&tested), "it was not to wait");
    for _ in 0..2 {
        assert_eq!(tested.hears(HomeInput::Evict { key: key(), in_turn: true }), []);
        assert!(is_leaving(&tested), "behind two writers");
    }
    (0..2).for_each(|sharer| drop(tested.said(sharer, HomeRequest::InvAck { line: line(), version: version(2, 0) })));
    assert_eq!((owner(&tested), is_leaving(&tested)), (Some(node(2)), true));
    let effects = tested.answered(1, surrender(2));
    assert_eq!((owner(&tested), is_leaving(&tested)), (Some(node(3)), true));
    assert_eq!(effects.last(), Some(&ask(3, 2, recall)), "its own turn has come: {effects:?}");
    tested.said(2, get_s(3));
    let effects = tested.answered(2, surrender(3));
    assert_eq!(tested.state(), None, "nobody has anything: {effects:?}");
    let is_a_miss = |effect: &HomeEffect| matches!(effect, HomeEffect::Answer { reply, .. } if matches!(reply.body, HomeAnswer::Miss { .. }));
    assert!(effects.iter().any(is_a_miss), "who asked later finds nothing: {effects:?}");
}
