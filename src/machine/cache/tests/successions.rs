//! What a home does with a slot that goes, or comes, effect by effect.

use super::directory::{
    BEGIN, LEASE_MS, Tested, answer, ask, data, get_m, get_s, nonce, placed, refuse, slot, value, version,
};
use crate::{
    ids::{Epoch, Tick},
    machine::cache::{
        CacheAnswer, CacheRequest, HandOver, HandedEntry, HandedOwner, Home, HomeAnswer, HomeEffect, HomeInput,
        HomeReply, HomeRequest, HomeSettings, Moved, Previous, Protocol, RecoveredLine, Right, Start, waited_ms,
        world::{home_id, key, node},
    },
};

#[test]
fn a_slot_is_handed_over_with_its_values_and_owners_and_every_answer_says_so() {
    let mut tested = Tested::with_value(Protocol::Mesi);
    let entry = |owner| HandedEntry { key: key(), value: Some(value(1, 0, "a")), owner };
    let over = |entries| HandOver { slot: slot(), epoch: Epoch(1), home: home_id(0), caches: vec![node(9)], entries };
    assert_eq!(tested.hears(HomeInput::Stop { slot: slot() }), [HomeEffect::Stopped { over: over(vec![entry(None)]) }]);
    let not_home = HomeAnswer::NotHome { epoch: Epoch(1) };
    assert_eq!(tested.said(0, get_s(2)), [refuse(11, not_home)]);
    let moved = vec![Moved { slot: slot(), epoch: Epoch(1) }];
    let reply = |call: u64, moved| {
        let body = HomeAnswer::Renewed;
        let reply = HomeReply { session: nonce(1), lease_ms: Some(LEASE_MS), moved, put_acks: vec![], body };
        HomeEffect::Answer { call, reply }
    };
    assert_eq!(tested.said(0, HomeRequest::Renew), [reply(12, moved)]);
    tested.now = BEGIN.plus_ms(waited_ms(LEASE_MS) - 1);
    tested.said(0, HomeRequest::Renew);
    tested.now = BEGIN.plus_ms(waited_ms(LEASE_MS));
    assert_eq!(tested.said(0, HomeRequest::Renew), [reply(14, vec![])], "nobody has a line of it any more");
}

/// A home that begins after another one.
fn successor(start: Start) -> (Tested, Vec<HomeEffect>) {
    let settings = HomeSettings { lease_ms: LEASE_MS, ..HomeSettings::default() };
    let mut tested = Tested { home: Home::new(home_id(0), settings), now: BEGIN, calls: 0 };
    tested.hears(HomeInput::Lease { until: Tick(u64::MAX) });
    let effects = tested.hears(HomeInput::Begin { placed: placed(1, 0), start });
    (tested, effects)
}

fn recover(after: bool) -> CacheRequest {
    CacheRequest::Recover { slot: slot(), epoch: Epoch(1), after: after.then(key), before: None }
}

fn recovered(lines: Vec<RecoveredLine>) -> CacheAnswer {
    CacheAnswer::Recovered { lines, session: None }
}

#[test]
fn a_successor_waits_for_the_old_lease_and_asks_all_before_it_grants() {
    let (mut tested, effects) = successor(Start::Fresh { caches: vec![node(0), node(1)], old_lease_over_ms: 300 });
    assert_eq!(effects, []);
    assert_eq!(tested.said(2, get_s(2)), [answer(1, HomeAnswer::Miss { nonce: nonce(2) })]);
    assert_eq!(tested.said(2, get_m(3)), [], "it waits");
    assert_eq!(tested.home.deadline(), Some(BEGIN.plus_ms(300)));
    tested.now = BEGIN.plus_ms(300);
    assert_eq!(tested.hears(HomeInput::Tick), [ask(0, 1, recover(false)), ask(1, 2, recover(false))]);
    let told = RecoveredLine { key: key(), grant: nonce(7), released: false, value: value(0, 5, "b") };
    assert_eq!(tested.answered(1, recovered(vec![told])), [ask(0, 3, recover(true))]);
    assert_eq!(tested.answered(2, recovered(vec![])), []);
    let serving = HomeEffect::Serving { slot: slot(), epoch: Epoch(1) };
    let grant = HomeAnswer::Grant { nonce: nonce(3), stamp: version(2, 0), previous: Previous::Was(value(0, 5, "b")) };
    assert_eq!(tested.answered(3, recovered(vec![])), [serving, answer(2, grant)]);
}

#[test]
fn who_does_not_let_go_is_waited_for_as_long_as_the_old_home_may_have_granted() {
    let (mut tested, _) = successor(Start::Fresh { caches: vec![node(0)], old_lease_over_ms: 300 });
    tested.now = BEGIN.plus_ms(300 + waited_ms(LEASE_MS) - 1);
    assert_eq!(tested.hears(HomeInput::Tick), [ask(0, 1, recover(false))]);
    tested.now = BEGIN.plus_ms(300 + waited_ms(LEASE_MS));
    assert_eq!(tested.hears(HomeInput::Tick), [HomeEffect::Serving { slot: slot(), epoch: Epoch(1) }]);
}

#[test]
fn what_was_given_up_counts_only_where_the_directory_says_who_owned_it() {
    let told = || RecoveredLine { key: key(), grant: nonce(7), released: true, value: value(0, 5, "b") };
    let (mut fresh, _) = successor(Start::Fresh { caches: vec![node(0)], old_lease_over_ms: 0 });
    fresh.answered(1, recovered(vec![told()]));
    fresh.answered(2, recovered(vec![]));
    assert!(fresh.home.is_serving(slot()));
    assert_eq!(fresh.state(), None);

    let owner = HandedOwner { node: node(0), grant: nonce(7), session: nonce(6), before: None };
    let entry = HandedEntry { key: key(), value: Some(value(0, 1, "a")), owner: Some(owner) };
    let over =
        HandOver { slot: slot(), epoch: Epoch(0), home: home_id(1), caches: vec![node(0)], entries: vec![entry] };
    let (mut handed, effects) = successor(Start::Handed { over: over.clone(), stopped_ms_ago: 0 });
    let asked = CacheRequest::Recover { slot: slot(), epoch: Epoch(1), after: None, before: Some(home_id(1)) };
    assert_eq!(effects, [ask(0, 1, asked)]);
    handed.answered(1, recovered(vec![told()]));
    handed.answered(2, recovered(vec![]));
    assert_eq!(handed.said(1, get_s(2)), [answer(1, data(2, version(3, 0), value(0, 5, "b"), Right::Exclusive))]);

    let (mut never, _) = successor(Start::Handed { over: over.clone(), stopped_ms_ago: 0 });
    never.answered(1, CacheAnswer::Recovered { lines: vec![], session: Some(nonce(6)) });
    assert_eq!(
        never.said(1, get_s(2)),
        [answer(1, data(2, version(2, 0), value(0, 1, "a"), Right::Exclusive))],
        "the grant never arrived, so what was handed over is current"
    );

    // An owner is given a lease from now to say what it had; where nobody owns anything, the leases that were granted
    // before the slot was stopped are all that is waited for.
    let serving = HomeEffect::Serving { slot: slot(), epoch: Epoch(1) };
    let (mut silent, _) = successor(Start::Handed { over: over.clone(), stopped_ms_ago: 500 });
    silent.now = BEGIN.plus_ms(waited_ms(LEASE_MS) - 1);
    assert!(!silent.hears(HomeInput::Tick).contains(&serving));
    silent.now = BEGIN.plus_ms(waited_ms(LEASE_MS));
    let lost = HomeEffect::DirtyLost { key: key(), owner: node(0) };
    assert_eq!(silent.hears(HomeInput::Tick), [lost, serving.clone()]);
    assert_eq!(silent.state(), None);
    // An upgrade that has not arrived: what its owner has is under the grant before, and the copy is older.
    let upgrade = HandedOwner { grant: nonce(9), before: Some(nonce(7)), ..owner };
    let entry = HandedEntry { owner: Some(upgrade), ..over.entries[0].clone() };
    let upgraded =
        || Start::Handed { over: HandOver { entries: vec![entry.clone()], ..over.clone() }, stopped_ms_ago: 0 };
    let (mut before, _) = successor(upgraded());
    before.answered(1, recovered(vec![told()]));
    before.answered(2, CacheAnswer::Recovered { lines: vec![], session: Some(nonce(6)) });
    assert_eq!(before.said(1, get_s(2)), [answer(1, data(2, version(3, 0), value(0, 5, "b"), Right::Exclusive))]);
    let (mut nothing, _) = successor(upgraded());
    let lost = HomeEffect::DirtyLost { key: key(), owner: node(0) };
    let answered = nothing.answered(1, CacheAnswer::Recovered { lines: vec![], session: Some(nonce(6)) });
    assert_eq!(answered, [lost, HomeEffect::Serving { slot: slot(), epoch: Epoch(1) }], "never the copy");

    // Who goes on telling is waited for a lease more.
    let (mut slow, _) = successor(Start::Handed { over: over.clone(), stopped_ms_ago: 0 });
    slow.now = BEGIN.plus_ms(waited_ms(LEASE_MS) - 1);
    slow.answered(1, recovered(vec![told()]));
    slow.now = BEGIN.plus_ms(waited_ms(LEASE_MS));
    assert!(!slow.hears(HomeInput::Tick).contains(&serving));
    slow.now = BEGIN.plus_ms(2 * waited_ms(LEASE_MS) - 1);
    assert!(slow.hears(HomeInput::Tick).contains(&serving));
    let shared = HandedEntry { owner: None, ..over.entries[0].clone() };
    let (mut silent, _) =
        successor(Start::Handed { over: HandOver { entries: vec![shared], ..over }, stopped_ms_ago: 500 });
    silent.now = BEGIN.plus_ms(waited_ms(LEASE_MS) - 500);
    assert_eq!(silent.hears(HomeInput::Tick), [serving]);
}

#[test]
fn what_a_slot_begins_with_is_taken_outside_the_lease_too() {
    let mut home = Home::new(home_id(1), HomeSettings { lease_ms: LEASE_MS, ..HomeSettings::default() });
    let mut effects = vec![];
    home.step(BEGIN, HomeInput::Lease { until: BEGIN.plus_ms(10) }, &mut effects);
    let start = Start::Fresh { caches: vec![node(0)], old_lease_over_ms: 0 };
    home.step(BEGIN, HomeInput::Begin { placed: placed(2, 1), start }, &mut effects);
    let [HomeEffect::Ask { call, .. }] = effects[..] else { panic!("it asks the cache: {effects:?}") };
    effects.clear();
    let lines = vec![RecoveredLine { key: key(), grant: nonce(2), released: false, value: value(1, 1, "a") }];
    let answer = Some(CacheAnswer::Recovered { lines, session: None });
    home.step(BEGIN.plus_ms(20), HomeInput::Answered { call, answer }, &mut effects);
    assert_eq!(effects, [], "outside its lease it asks and grants nothing");
    let long_after = BEGIN.plus_ms(10 * LEASE_MS);
    home.step(long_after, HomeInput::Lease { until: Tick(u64::MAX) }, &mut effects);
    assert_eq!(effects, [HomeEffect::Serving { slot: slot(), epoch: Epoch(2) }]);
    assert!(home.view(&key()).is_some_and(|view| view.has_copy), "what was told is there");
}
