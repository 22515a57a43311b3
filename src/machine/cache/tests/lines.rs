//! What a cache does, effect by effect.

use bytes::Bytes;

use crate::{
    ids::{Epoch, Incarnation, Tick},
    machine::cache::{
        CacheAnswer, CacheRequest, Condition, Effect, Fetch, FromHome, HomeAnswer, HomeReply, HomeRequest, Input,
        Installed, Inv, LineId, LineState, Lines, Nonce, NotOwner, Operation, Outcome, Placed, Previous, Protocol,
        PutAck, RecallTo, Right, Settings, SlotId, ToHome, Value, Version, WritePolicy, believed_ms,
        world::{home_id, key, node},
    },
};

pub(super) const LEASE_MS: u64 = 2_000;
pub(super) const BEGIN: Tick = Tick(50_000);

/// A cache, its clock, and what it is told.
pub(super) struct Cache {
    pub(super) lines: Lines,
    pub(super) now: Tick,
}

pub(super) fn nonce(count: u64) -> Nonce {
    Nonce { incarnation: Incarnation(1), count }
}

/// The first nonce is that of the session.
pub(super) fn session() -> Nonce {
    nonce(1)
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

pub(super) fn reply(body: HomeAnswer) -> HomeReply {
    HomeReply { session: session(), lease_ms: Some(LEASE_MS), moved: vec![], put_acks: vec![], body }
}

pub(super) fn ask(call: u64, body: HomeRequest) -> Effect {
    Effect::AskHome { call, message: ToHome { home: home_id(0), session: session(), body } }
}

pub(super) fn tell(body: HomeRequest) -> Effect {
    Effect::TellHome { message: ToHome { home: home_id(0), session: session(), body } }
}

pub(super) fn done(op: u64, outcome: Outcome) -> Effect {
    Effect::Done { op, outcome }
}

pub(super) fn loaded(op: u64, seq: u64, n: u64, body: &'static str, state: LineState) -> Effect {
    done(op, Outcome::Loaded { version: version(seq, n), body: Bytes::from_static(body.as_bytes()), state })
}

pub(super) fn install(seq: u64, n: u64, body: &'static str, state: LineState) -> Effect {
    let line = Installed {
        state,
        version: version(seq, n),
        body: Some(Bytes::from_static(body.as_bytes())),
        expires: None,
        home: home_id(0),
        session: session(),
    };
    Effect::Install { key: key(), line }
}

pub(super) fn drop_line() -> Effect {
    Effect::Drop { key: key() }
}

pub(super) fn alive_from(sent: Tick) -> Effect {
    Effect::Session { home: home_id(0), session: session(), until: sent.plus_ms(believed_ms(LEASE_MS)) }
}

pub(super) fn store(body: &'static str, condition: Condition) -> Operation {
    Operation::Store { body: Bytes::from_static(body.as_bytes()), ttl_ms: None, condition }
}

impl Cache {
    pub(super) fn new(protocol: Protocol, policy: WritePolicy) -> Self {
        let settings = Settings { protocol, policy, lease_ms: LEASE_MS, max_waiting: 3, ..Settings::default() };
        let mut cache = Self { lines: Lines::new(node(0), Incarnation(1), settings), now: BEGIN };
        let placed = Placed { slot: SlotId::of(&key()), epoch: Epoch(1), home: Some(home_id(0)) };
        assert_eq!(cache.hears(Input::Placed(placed)), []);
        cache
    }

    pub(super) fn hears(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = vec![];
        self.lines.step(self.now, input, &mut effects);
        effects
    }

    pub(super) fn does(&mut self, op: u64, operation: Operation) -> Vec<Effect> {
        self.hears(Input::Operate { op, key: key(), operation })
    }

    pub(super) fn answered(&mut self, call: u64, body: HomeAnswer) -> Vec<Effect> {
        self.hears(Input::HomeAnswered { call, reply: Some(reply(body)) })
    }

    pub(super) fn asked(&mut self, call: u64, body: CacheRequest) -> Vec<Effect> {
        let message = FromHome { home: home_id(0), put_acks: vec![], body };
        self.hears(Input::FromHome { from: home_id(0).node, call, message })
    }

    /// One that has read "a" at version 1, as its sole copy or not.
    pub(super) fn with_line(protocol: Protocol, policy: WritePolicy, right: Right) -> Self {
        let mut cache = Self::new(protocol, policy);
        cache.does(1, Operation::Load);
        let value = value(1, 0, "a");
        cache.answered(1, HomeAnswer::Data { nonce: nonce(2), stamp: version(2, 0), value, right });
        cache
    }

    /// One that has stored "b" over it without asking.
    pub(super) fn with_dirty_line(protocol: Protocol) -> Self {
        let mut cache = Self::with_line(protocol, WritePolicy::Back, Right::Exclusive);
        cache.does(2, store("b", Condition::Always));
        cache
    }

    pub(super) fn state(&self) -> LineState {
        self.lines.view(&key()).state
    }
}

pub(super) fn inv(seq: u64) -> Inv {
    Inv { line: line(), version: version(seq, 0), writer: Some(node(1)), home: home_id(0) }
}

#[test]
fn a_line_that_is_missing_is_asked_for_once_and_all_who_came_meanwhile_get_it() {
    let mut cache = Cache::new(Protocol::Mesi, WritePolicy::Back);
    let get = HomeRequest::GetS { line: line(), nonce: nonce(2), refused: None };
    assert_eq!(cache.does(1, Operation::Load), [ask(1, get)]);
    let sent = cache.now;
    cache.now = cache.now.plus_ms(5);
    assert_eq!(cache.does(2, Operation::Load), []);
    let data =
        HomeAnswer::Data { nonce: nonce(2), stamp: version(2, 0), value: value(1, 0, "a"), right: Right::Exclusive };
    let got = |op| loaded(op, 1, 0, "a", LineState::E);
    assert_eq!(cache.answered(1, data), [alive_from(sent), got(1), got(2), install(1, 0, "a", LineState::E)]);
    assert_eq!(cache.does(3, Operation::Load), [got(3)]);
}

#[test]
fn a_store_into_a_sole_copy_is_no_message_and_readers_see_it_before_it_is_told() {
    let mut cache = Cache::with_line(Protocol::Moesi, WritePolicy::Back, Right::Exclusive);
    let stored = |op, n| done(op, Outcome::Stored { version: version(2, n) });
    assert_eq!(cache.does(2, store("b", Condition::Always)), [install(2, 1, "b", LineState::M), stored(2, 1)]);
    assert_eq!(cache.does(3, store("c", Condition::Always)), [install(2, 2, "c", LineState::M), stored(3, 2)]);
}

#[test]
fn a_store_into_a_shared_line_asks_and_reads_hit_until_somebody_else_writes_first() {
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Back, Right::Shared);
    let upgrade = HomeRequest::GetM { line: line(), nonce: nonce(3), held: Some(nonce(2)), need_value: false };
    assert_eq!(cache.does(2, store("b", Condition::Always)), [ask(2, upgrade)]);
    assert_eq!(cache.does(3, Operation::Load), [loaded(3, 1, 0, "a", LineState::S)]);
    let ack = tell(HomeRequest::InvAck { line: line(), version: version(3, 0) });
    assert_eq!(cache.hears(Input::Gossip(inv(3))), [drop_line(), ack]);
    assert_eq!(cache.state(), LineState::IM);
    assert_eq!(cache.does(4, Operation::Load), [], "it waits for the grant");
    let grant = HomeAnswer::Grant { nonce: nonce(3), stamp: version(4, 0), previous: Previous::Unsaid };
    let stored = done(2, Outcome::Stored { version: version(4, 0) });
    assert_eq!(
        cache.answered(2, grant),
        [install(4, 0, "b", LineState::M), stored, loaded(4, 4, 0, "b", LineState::M)]
    );
}

#[test]
fn what_is_computed_needs_the_value_before() {
    let mut cache = Cache::new(Protocol::Mesi, WritePolicy::Back);
    let get = HomeRequest::GetM { line: line(), nonce: nonce(2), held: None, need_value: true };
    assert_eq!(cache.does(1, Operation::Increment { by: 2 }), [ask(1, get)]);
    let sent = cache.now;
    let previous = Previous::Was(value(1, 0, "40"));
    let grant = HomeAnswer::Grant { nonce: nonce(2), stamp: version(2, 0), previous };
    let sum = done(1, Outcome::Incremented { value: 42, version: version(2, 0) });
    assert_eq!(cache.answered(1, grant), [alive_from(sent), install(2, 0, "42", LineState::M), sum]);
    assert_eq!(cache.does(2, Operation::Increment { by: i64::MAX }), [done(2, Outcome::NotAnInteger)]);
}

#[test]
fn a_condition_that_does_not_hold_needs_no_right_to_write() {
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Back, Right::Shared);
    let mismatch = |op| [done(op, Outcome::Mismatch { version: Some(version(1, 0)) })];
    assert_eq!(cache.does(2, store("b", Condition::Version(version(9, 0)))), mismatch(2));
    assert_eq!(cache.does(3, store("b", Condition::Absent)), mismatch(3));
    assert_eq!(cache.does(4, Operation::Increment { by: 1 }), [done(4, Outcome::NotAnInteger)]);
    assert_eq!(cache.state(), LineState::S);
}

#[test]
fn a_version_survives_being_granted_without_a_store() {
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Back, Right::Exclusive);
    let stored = done(2, Outcome::Stored { version: version(2, 1) });
    assert_eq!(
        cache.does(2, store("b", Condition::Version(version(1, 0)))),
        [install(2, 1, "b", LineState::M), stored],
        "the grant of E is newer than the value, whose version is what it was"
    );
}

#[test]
fn a_shared_line_is_dropped_before_that_is_acknowledged_and_who_has_nothing_is_silent_to_gossip() {
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Back, Right::Shared);
    let ack = |seq| tell(HomeRequest::InvAck { line: line(), version: version(seq, 0) });
    assert_eq!(cache.hears(Input::Gossip(inv(2))), [], "the line is not older than that");
    assert_eq!(cache.hears(Input::Gossip(inv(3))), [drop_line(), ack(3)]);
    assert_eq!(cache.hears(Input::Gossip(inv(4))), []);
    let noted = Effect::Answer { call: 7, answer: CacheAnswer::Noted };
    assert_eq!(cache.asked(7, CacheRequest::Inv(inv(4))), [ack(4), noted]);
}

#[test]
fn an_owner_ignores_invalidations_and_gives_up_what_is_recalled() {
    let mut cache = Cache::with_dirty_line(Protocol::Mesi);
    assert_eq!(cache.hears(Input::Gossip(inv(3))), []);
    let recall = |grant| CacheRequest::Recall { line: line(), grant, to: RecallTo::Invalid };
    let surrender = CacheAnswer::Surrender { stamp: version(2, 1), value: Some(value(2, 1, "b")) };
    let answer = |call, answer| Effect::Answer { call, answer };
    assert_eq!(cache.asked(7, recall(nonce(2))), [drop_line(), answer(7, surrender.clone())]);
    assert_eq!(cache.asked(8, recall(nonce(2))), [answer(8, surrender)], "again, from the buffer");
    let not = CacheAnswer::NotOwner(NotOwner { session: Some(session()) });
    assert_eq!(cache.asked(9, recall(nonce(77))), [answer(9, not.clone())]);
    let message =
        FromHome { home: home_id(0), put_acks: vec![PutAck { line: line(), grant: nonce(2) }], body: recall(nonce(2)) };
    let hears = Input::FromHome { from: home_id(0).node, call: 10, message };
    assert_eq!(cache.hears(hears), [answer(10, not)], "what has arrived is needed no more");
    assert!(cache.lines.is_empty());
}

#[test]
fn a_surrendered_value_is_put_where_nobody_says_that_it_arrived() {
    let mut cache = Cache::with_dirty_line(Protocol::Moesi);
    cache.asked(7, CacheRequest::Recall { line: line(), grant: nonce(2), to: RecallTo::Invalid });
    cache.now = cache.lines.deadline().expect("it waits for the acknowledgement");
    let put = HomeRequest::Put { line: line(), grant: nonce(2), stamp: version(2, 1), value: Some(value(2, 1, "b")) };
    assert_eq!(cache.hears(Input::Tick), [ask(2, put)]);
    cache.answered(2, HomeAnswer::PutAck(PutAck { line: line(), grant: nonce(2) }));
    assert!(cache.lines.is_empty());
}

#[test]
fn a_recall_that_overtakes_its_grant_waits_for_it_and_the_store_comes_first() {
    let mut cache = Cache::new(Protocol::Mesi, WritePolicy::Back);
    cache.does(1, store("b", Condition::Always));
    let sent = cache.now;
    let recall = CacheRequest::Recall { line: line(), grant: nonce(2), to: RecallTo::Invalid };
    assert_eq!(cache.asked(7, recall), []);
    let grant = HomeAnswer::Grant { nonce: nonce(2), stamp: version(2, 0), previous: Previous::Unsaid };
    let surrender = CacheAnswer::Surrender { stamp: version(2, 0), value: Some(value(2, 0, "b")) };
    assert_eq!(
        cache.answered(1, grant),
        [
            alive_from(sent),
            install(2, 0, "b", LineState::M),
            done(1, Outcome::Stored { version: version(2, 0) }),
            drop_line(),
            Effect::Answer { call: 7, answer: surrender },
        ]
    );
}

#[test]
fn when_its_session_ends_nothing_is_read_or_written_and_what_is_dirty_is_put_under_the_next() {
    let mut cache = Cache::with_dirty_line(Protocol::Mesi);
    cache.now = BEGIN.plus_ms(believed_ms(LEASE_MS));
    let put = HomeRequest::Put { line: line(), grant: nonce(2), stamp: version(2, 1), value: Some(value(2, 1, "b")) };
    let next = nonce(3);
    let of_next = |call, body| Effect::AskHome { call, message: ToHome { home: home_id(0), session: next, body } };
    assert_eq!(
        cache.does(3, store("c", Condition::Always)),
        [Effect::Session { home: home_id(0), session: next, until: Tick(0) }, drop_line(), of_next(2, put)],
        "the store waits for the buffer"
    );
    assert_eq!(cache.state(), LineState::MI);
    let ack = HomeReply { session: next, ..reply(HomeAnswer::PutAck(PutAck { line: line(), grant: nonce(2) })) };
    let get = HomeRequest::GetM { line: line(), nonce: nonce(4), held: None, need_value: false };
    let alive = Effect::Session { home: home_id(0), session: next, until: cache.now.plus_ms(believed_ms(LEASE_MS)) };
    assert_eq!(cache.hears(Input::HomeAnswered { call: 2, reply: Some(ack) }), [alive, of_next(3, get)]);
}

#[test]
fn a_session_is_renewed_after_a_third_of_its_term() {
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Back, Right::Shared);
    cache.now = cache.lines.deadline().expect("a line is held");
    assert_eq!(cache.now, BEGIN.plus_ms(Settings::default().renew_ms));
    assert_eq!(cache.hears(Input::Tick), [ask(2, HomeRequest::Renew)]);
    let sent = cache.now;
    cache.now = cache.now.plus_ms(100);
    assert_eq!(cache.answered(2, HomeAnswer::Renewed), [alive_from(sent)]);
}

#[test]
fn a_busy_answer_to_the_call_before_does_not_bring_the_next_one_forward() {
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Back, Right::Shared);
    cache.does(2, store("b", Condition::Always));
    let Settings { renew_ms, patience_ms, .. } = Settings::default();
    for (call, renewals) in (3..).zip(1..=patience_ms / renew_ms) {
        cache.now = BEGIN.plus_ms(renewals * renew_ms);
        assert_eq!(cache.hears(Input::Tick), [ask(call, HomeRequest::Renew)]);
        cache.answered(call, HomeAnswer::Renewed);
    }
    cache.now = BEGIN.plus_ms(patience_ms);
    let upgrade = HomeRequest::GetM { line: line(), nonce: nonce(3), held: Some(nonce(2)), need_value: false };
    assert_eq!(cache.hears(Input::Tick), [ask(6, upgrade)]);
    let due = cache.lines.deadline();
    let busy = |call| {
        let busy = HomeAnswer::Busy { nonce: nonce(3), retry_ms: 20 };
        Input::HomeAnswered { call, reply: Some(HomeReply { lease_ms: None, ..reply(busy) }) }
    };
    assert_eq!(cache.hears(busy(2)), []);
    assert_eq!(cache.lines.deadline(), due);
    assert_eq!(cache.hears(busy(6)), []);
    assert_eq!(cache.lines.deadline(), Some(cache.now.plus_ms(20)));
}

#[test]
fn a_value_is_gone_when_its_time_is_over_counted_from_the_sending_of_the_request() {
    let mut cache = Cache::new(Protocol::Mesi, WritePolicy::Back);
    cache.does(1, Operation::Load);
    cache.now = BEGIN.plus_ms(40);
    let value = Value { ttl_ms: Some(100), ..value(1, 0, "a") };
    cache.answered(1, HomeAnswer::Data { nonce: nonce(2), stamp: version(2, 0), value, right: Right::Exclusive });
    cache.now = BEGIN.plus_ms(99);
    assert_eq!(cache.does(2, Operation::Load), [loaded(2, 1, 0, "a", LineState::E)]);
    cache.now = BEGIN.plus_ms(100);
    assert_eq!(cache.does(3, Operation::Load), [done(3, Outcome::Miss)]);
    let stored = done(4, Outcome::Stored { version: version(2, 1) });
    assert_eq!(cache.does(4, store("b", Condition::Absent)), [install(2, 1, "b", LineState::M), stored]);
}

#[test]
fn a_store_through_is_seen_and_told_once_the_home_has_it() {
    let mut cache = Cache::with_line(Protocol::Moesi, WritePolicy::Through, Right::Exclusive);
    let through =
        HomeRequest::StoreThrough { line: line(), grant: nonce(2), stamp: version(2, 1), value: value(2, 1, "b") };
    assert_eq!(cache.does(2, store("b", Condition::Always)), [ask(2, through)]);
    assert_eq!(cache.does(3, Operation::Load), [loaded(3, 1, 0, "a", LineState::E)]);
    let recall = CacheRequest::Recall { line: line(), grant: nonce(2), to: RecallTo::Invalid };
    assert_eq!(cache.asked(7, recall), [], "what it holds is about to change");
    let surrender = CacheAnswer::Surrender { stamp: version(2, 1), value: None };
    assert_eq!(
        cache.answered(2, HomeAnswer::Stored { grant: nonce(2), stamp: version(2, 1), taken: true }),
        [
            install(2, 1, "b", LineState::M),
            done(2, Outcome::Stored { version: version(2, 1) }),
            drop_line(),
            Effect::Answer { call: 7, answer: surrender },
        ]
    );
}

#[test]
fn a_store_through_is_not_lost_where_somebody_else_writes_next() {
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Through, Right::Exclusive);
    cache.does(2, store("b", Condition::Always));
    assert_eq!(cache.hears(Input::Gossip(inv(3))), [], "the recall that follows waits for it");
    let stored = HomeAnswer::Stored { grant: nonce(2), stamp: version(2, 1), taken: true };
    let told = done(2, Outcome::Stored { version: version(2, 1) });
    assert_eq!(cache.answered(2, stored), [install(2, 1, "b", LineState::M), told]);
}

#[test]
fn a_store_through_whose_answer_does_not_come_within_the_session_is_of_unknown_outcome() {
    let mut cache = Cache::with_line(Protocol::Moesi, WritePolicy::Through, Right::Exclusive);
    cache.does(2, store("b", Condition::Always));
    cache.now = BEGIN.plus_ms(believed_ms(LEASE_MS));
    let effects = cache.hears(Input::Tick);
    assert!(effects.contains(&done(2, Outcome::Unknown)), "{effects:?}");
    assert_eq!(cache.does(3, Operation::Load).len(), 1, "it is asked for anew");
}

#[test]
fn no_more_operations_wait_for_a_key_than_are_set() {
    let mut cache = Cache::new(Protocol::Mesi, WritePolicy::Back);
    (1..=3).for_each(|op| drop(cache.does(op, Operation::Load)));
    assert_eq!(cache.does(4, Operation::Load), [done(4, Outcome::Busy)]);
}

#[test]
fn a_line_that_is_busy_goes_as_soon_as_it_is_not_and_stays_if_it_was_written_meanwhile() {
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Through, Right::Exclusive);
    cache.does(2, store("b", Condition::Always));
    assert_eq!(cache.hears(Input::Evict { key: key() }), []);
    let stored = HomeAnswer::Stored { grant: nonce(2), stamp: version(2, 1), taken: true };
    let put = HomeRequest::Put { line: line(), grant: nonce(2), stamp: version(2, 1), value: None };
    assert_eq!(
        cache.answered(2, stored),
        [
            install(2, 1, "b", LineState::M),
            done(2, Outcome::Stored { version: version(2, 1) }),
            drop_line(),
            ask(3, put),
        ]
    );
    let mut cache = Cache::with_line(Protocol::Mesi, WritePolicy::Back, Right::Shared);
    cache.does(2, store("b", Condition::Always));
    assert_eq!(cache.hears(Input::Evict { key: key() }), []);
    let grant = HomeAnswer::Grant { nonce: nonce(3), stamp: version(3, 0), previous: Previous::Held };
    let stored = done(2, Outcome::Stored { version: version(3, 0) });
    assert_eq!(cache.answered(2, grant), [install(3, 0, "b", LineState::M), stored]);
}

#[test]
fn a_new_epoch_ends_the_lines_of_the_one_before_and_its_home_may_ask_for_what_was_owned() {
    let mut cache = Cache::with_dirty_line(Protocol::Mesi);
    let slot = SlotId::of(&key());
    let recover = |after| CacheRequest::Recover { slot, epoch: Epoch(2), after, before: Some(home_id(0)) };
    let asks = |cache: &mut Cache, call, after| {
        let message = FromHome { home: home_id(1), put_acks: vec![], body: recover(after) };
        cache.hears(Input::FromHome { from: home_id(1).node, call, message })
    };
    let told =
        crate::machine::cache::RecoveredLine { key: key(), grant: nonce(2), released: false, value: value(2, 1, "b") };
    let answer = |call, lines| {
        let answer = CacheAnswer::Recovered { lines, session: Some(session()) };
        Effect::Answer { call, answer }
    };
    assert_eq!(asks(&mut cache, 7, None), [drop_line(), answer(7, vec![told.clone()])]);
    assert_eq!(asks(&mut cache, 8, None), [answer(8, vec![told])], "the same again");
    assert_eq!(asks(&mut cache, 9, Some(key())), [answer(9, vec![])]);
    assert!(cache.lines.is_empty());
}

#[test]
fn what_was_owned_is_told_to_nobody_once_the_session_with_the_old_home_is_over() {
    let mut cache = Cache::with_dirty_line(Protocol::Mesi);
    let slot = SlotId::of(&key());
    let placed = Placed { slot, epoch: Epoch(2), home: Some(home_id(1)) };
    assert_eq!(cache.hears(Input::Placed(placed)), [drop_line()]);
    cache.now = BEGIN.plus_ms(believed_ms(LEASE_MS));
    let message = FromHome {
        home: home_id(1),
        put_acks: vec![],
        body: CacheRequest::Recover { slot, epoch: Epoch(2), after: None, before: None },
    };
    let answer = Effect::Answer { call: 7, answer: CacheAnswer::Recovered { lines: vec![], session: None } };
    assert_eq!(
        cache.hears(Input::FromHome { from: home_id(1).node, call: 7, message }),
        [
            Effect::Session { home: home_id(0), session: nonce(3), until: Tick(0) },
            Effect::DirtyLost { key: key() },
            answer
        ]
    );
}

#[test]
fn a_session_is_renewed_for_what_the_next_home_is_to_be_told() {
    let mut cache = Cache::with_dirty_line(Protocol::Mesi);
    let slot = SlotId::of(&key());
    let placed = Placed { slot, epoch: Epoch(2), home: Some(home_id(1)) };
    assert_eq!(cache.hears(Input::Placed(placed)), [drop_line()]);
    for call in 2..=10 {
        cache.now = cache.lines.deadline().expect("the line is kept");
        assert_eq!(cache.hears(Input::Tick), [ask(call, HomeRequest::Renew)]);
        assert_eq!(cache.answered(call, HomeAnswer::Renewed), [alive_from(cache.now)]);
    }
    assert!(cache.now >= BEGIN.plus_ms(2 * LEASE_MS));
    let body = CacheRequest::Recover { slot, epoch: Epoch(2), after: None, before: None };
    let message = FromHome { home: home_id(1), put_acks: vec![], body };
    let told = cache.hears(Input::FromHome { from: home_id(1).node, call: 7, message });
    let [Effect::Answer { answer: CacheAnswer::Recovered { lines, .. }, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(lines.iter().map(|line| line.grant).collect::<Vec<_>>(), [nonce(2)]);
}

/// Who is told of a line of the first epoch by a cache that hears of these epochs, one after the other.
fn told_after(epochs: &[u64]) -> (Vec<Effect>, CacheAnswer) {
    let mut cache = Cache::with_dirty_line(Protocol::Mesi);
    let slot = SlotId::of(&key());
    let mut effects = Vec::new();
    for epoch in epochs {
        let home = home_id(usize::try_from(*epoch).unwrap());
        effects.extend(cache.hears(Input::Placed(Placed { slot, epoch: Epoch(*epoch), home: Some(home) })));
    }
    let last = *epochs.last().unwrap();
    let home = home_id(usize::try_from(last).unwrap());
    let body = CacheRequest::Recover { slot, epoch: Epoch(last), after: None, before: None };
    let message = FromHome { home, put_acks: vec![], body };
    let mut told = cache.hears(Input::FromHome { from: home.node, call: 7, message });
    match told.pop() {
        Some(Effect::Answer { answer, .. }) if told.is_empty() => (effects, answer),
        other => panic!("{told:?}, {other:?}"),
    }
}

#[test]
fn what_the_next_home_did_not_ask_for_is_told_to_none_after_it_however_long_the_session_lives() {
    let told = |lines: &CacheAnswer| matches!(lines, CacheAnswer::Recovered { lines, .. } if lines.len() == 1);
    let (effects, answer) = told_after(&[2]);
    assert!(effects == [drop_line()] && told(&answer), "{effects:?}, {answer:?}");
    let (effects, answer) = told_after(&[2, 3]);
    assert_eq!(effects, [drop_line(), Effect::DirtyLost { key: key() }]);
    assert!(!told(&answer), "the second home may have served without it: {answer:?}");
    // Nor where the cache hears of both at once.
    let (effects, answer) = told_after(&[3]);
    assert_eq!(effects, [drop_line(), Effect::DirtyLost { key: key() }]);
    assert!(!told(&answer), "the second home may have served all the same: {answer:?}");
}

#[test]
fn what_was_held_under_a_session_that_is_over_does_not_outlive_the_epoch() {
    let mut cache = Cache::with_dirty_line(Protocol::Mesi);
    cache.now = BEGIN.plus_ms(believed_ms(LEASE_MS));
    cache.hears(Input::Tick);
    assert!(cache.lines.keeps(&key()), "its home may be back, and take it");
    let placed = Placed { slot: SlotId::of(&key()), epoch: Epoch(2), home: Some(home_id(1)) };
    assert_eq!(cache.hears(Input::Placed(placed)), [Effect::DirtyLost { key: key() }]);
    assert!(cache.lines.is_empty(), "nobody may be told of it any more");
}

#[test]
fn an_upgrade_for_nothing_leaves_an_owner_owing_what_it_owed() {
    let mut cache = Cache::with_dirty_line(Protocol::Moesi);
    let message = Fetch { line: line(), grant: nonce(2), nonce: nonce(5) };
    cache.hears(Input::Fetch { from: node(3), call: 8, message });
    let owes = |cache: &Cache| {
        let view = cache.lines.view(&key());
        (view.state, view.dirty)
    };
    assert_eq!(owes(&cache), (LineState::O, true));
    let asked = cache.does(9, store("c", Condition::Always));
    let [Effect::AskHome { call, message }] = &asked[..] else { panic!("{asked:?}") };
    let HomeRequest::GetM { nonce, .. } = message.body else { panic!("{message:?}") };
    cache.hears(Input::Abandon { op: 9, key: key() });
    cache.answered(*call, HomeAnswer::Grant { nonce, stamp: version(4, 0), previous: Previous::Held });
    assert_eq!(owes(&cache), (LineState::M, true), "its home has not got it yet");
}
