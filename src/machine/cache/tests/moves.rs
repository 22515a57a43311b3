//! The machine of the lines held to the tables: each state, each thing that can happen to it, and each that cannot.

use super::lines::{Cache, inv, line, nonce, store, value, version};
use crate::machine::cache::{
    CacheAnswer, CacheRequest, Condition, Effect, Fetch, HomeAnswer, Input, LineAct, LineEvent, LineState, Operation,
    Previous, Protocol, RecallTo, Right, WritePolicy, line_move,
    world::{key, node},
};

/// The call of whoever asks.
const ASKED: u64 = 77;
/// The operation that happens.
const OP: u64 = 99;

/// A cache whose line is in this state, and the nonce of what it is held, was held, or is asked for under.
fn in_state(protocol: Protocol, state: LineState) -> (Cache, u64) {
    let new = || Cache::new(protocol, WritePolicy::Back);
    let shared = || Cache::with_line(protocol, WritePolicy::Back, Right::Shared);
    let modified = || {
        let mut cache = new();
        cache.does(1, store("a", Condition::Always));
        let grant = HomeAnswer::Grant { nonce: nonce(2), stamp: version(2, 0), previous: Previous::Unsaid };
        cache.answered(1, grant);
        cache
    };
    let owned = || {
        let mut cache = modified();
        cache.hears(fetch(2));
        cache
    };
    let evicted = |mut cache: Cache| {
        cache.hears(Input::Evict { key: key() });
        cache
    };
    let exclusive = || Cache::with_line(protocol, WritePolicy::Back, Right::Exclusive);
    let then = |mut cache: Cache, operation| {
        cache.does(50, operation);
        cache
    };
    match state {
        LineState::I => (new(), 2),
        LineState::S => (shared(), 2),
        LineState::E => (exclusive(), 2),
        LineState::O => (owned(), 2),
        LineState::M => (modified(), 2),
        LineState::IS => (then(new(), Operation::Load), 2),
        LineState::IM => (then(new(), store("b", Condition::Always)), 2),
        LineState::SM => (then(shared(), store("b", Condition::Always)), 3),
        LineState::OM => (then(owned(), store("b", Condition::Always)), 3),
        LineState::EI => (evicted(exclusive()), 2),
        LineState::OI => (evicted(owned()), 2),
        LineState::MI => (evicted(modified()), 2),
    }
}

fn fetch(grant: u64) -> Input {
    let message = Fetch { line: line(), grant: nonce(grant), nonce: nonce(40) };
    Input::Fetch { from: node(1), call: ASKED, message }
}

fn happens(cache: &mut Cache, event: LineEvent, named: u64) -> Vec<Effect> {
    let recall = |to| CacheRequest::Recall { line: line(), grant: nonce(named), to };
    match event {
        LineEvent::Load => cache.does(OP, Operation::Load),
        LineEvent::Store => cache.does(OP, store("c", Condition::Always)),
        LineEvent::Evict => cache.hears(Input::Evict { key: key() }),
        LineEvent::Inv => cache.hears(Input::Gossip(inv(30))),
        LineEvent::RecallShared => cache.asked(ASKED, recall(RecallTo::Shared)),
        LineEvent::RecallInvalid => cache.asked(ASKED, recall(RecallTo::Invalid)),
        LineEvent::Fetch => cache.hears(fetch(named)),
    }
}

/// What was answered to whoever asked.
fn answer(effects: &[Effect]) -> Option<&CacheAnswer> {
    effects.iter().find_map(|effect| match effect {
        Effect::Answer { call: ASKED, answer } => Some(answer),
        _ => None,
    })
}

/// Whether the effects are those of what is to be done.
fn shows(act: LineAct, effects: &[Effect]) -> bool {
    let asks = |kind: &str| {
        effects.iter().any(|effect| matches!(effect, Effect::AskHome { message, .. } if message.body.kind() == kind))
    };
    let tells = |kind: &str| {
        effects.iter().any(|effect| matches!(effect, Effect::TellHome { message } if message.body.kind() == kind))
    };
    let is_over = effects.iter().any(|effect| matches!(effect, Effect::Done { op: OP, .. }));
    match act {
        LineAct::Hit => is_over && !asks("get-s") && !asks("get-m") && !asks("upgrade"),
        LineAct::GetS => asks("get-s") && !is_over,
        LineAct::GetM => asks("get-m") && !is_over,
        LineAct::Upgrade => asks("upgrade") && !is_over,
        LineAct::Join | LineAct::Wait => !is_over,
        LineAct::PutS => tells("put-s") && effects.contains(&Effect::Drop { key: key() }),
        LineAct::Put => asks("put") && effects.contains(&Effect::Drop { key: key() }),
        LineAct::Ack | LineAct::AckRaise => tells("inv-ack"),
        LineAct::Ignore => effects.is_empty(),
        LineAct::NotOwner => matches!(answer(effects), Some(CacheAnswer::NotOwner(_))),
        LineAct::Surrender | LineAct::SurrenderAgain => {
            matches!(answer(effects), Some(CacheAnswer::Surrender { .. }))
        }
        LineAct::FromBuffer => {
            matches!(answer(effects), Some(CacheAnswer::Surrender { .. } | CacheAnswer::Data { .. }))
        }
        LineAct::Supply => matches!(answer(effects), Some(CacheAnswer::Data { .. })),
        LineAct::Await => answer(effects).is_none(),
    }
}

#[test]
fn the_machine_does_with_each_state_and_event_what_the_table_says() {
    let mut pairs = 0;
    for protocol in Protocol::ALL {
        for state in LineState::ALL.into_iter().filter(|state| state.is_of(protocol)) {
            for event in LineEvent::ALL {
                let (mut cache, named) = in_state(protocol, state);
                let what = format!("{protocol:?}, {event:?} in {}", state.as_str());
                assert_eq!(cache.state(), state, "{what}: how it began");
                let before = cache.lines.clone();
                let effects = happens(&mut cache, event, named);
                match line_move(protocol, state, event) {
                    Some(expected) => {
                        // By gossip those are told too who have nothing to acknowledge: they stay silent.
                        let has_none = matches!(state, LineState::I | LineState::EI | LineState::OI | LineState::MI);
                        let silent = has_none && event == LineEvent::Inv;
                        assert!(silent || shows(expected.act, &effects), "{what}: {expected:?}, {effects:?}");
                        assert_eq!(cache.state(), after(state, event, expected.next), "{what}: {effects:?}");
                    }
                    // Nobody who keeps the protocol asks that: it is said so, and nothing changes.
                    None if event == LineEvent::Evict => assert_eq!(effects, [], "{what}"),
                    None => {
                        assert_eq!(effects, [Effect::Answer { call: ASKED, answer: CacheAnswer::Noted }], "{what}");
                        assert_eq!(cache.lines.view(&key()), before.view(&key()), "{what}");
                    }
                }
                pairs += 1;
            }
        }
    }
    assert_eq!(pairs, (9 + 10 + 12) * 7, "all of them");
}

/// Where the state is not what the table says, because two things are in one place.
fn after(state: LineState, event: LineEvent, next: LineState) -> LineState {
    match (state, event) {
        // Surrendered, it stays in the buffer (R16), but for whoever looks it is gone.
        (LineState::M | LineState::O, LineEvent::RecallInvalid) => LineState::I,
        (LineState::OI | LineState::MI | LineState::EI, LineEvent::RecallShared | LineEvent::RecallInvalid) => {
            LineState::I
        }
        _ => next,
    }
}

#[test]
fn what_names_another_grant_than_the_lines_gets_not_owner() {
    for protocol in Protocol::ALL {
        for state in [LineState::S, LineState::E, LineState::O, LineState::M, LineState::MI] {
            if !state.is_of(protocol) {
                continue;
            }
            for event in [LineEvent::RecallShared, LineEvent::RecallInvalid, LineEvent::Fetch] {
                let (mut cache, _) = in_state(protocol, state);
                let effects = happens(&mut cache, event, 31);
                let expected = line_move(protocol, LineState::I, event).map(|_| ());
                let is_not_owner = matches!(answer(&effects), Some(CacheAnswer::NotOwner(_)));
                let is_noted = matches!(answer(&effects), Some(CacheAnswer::Noted));
                let told = (expected.is_some(), is_not_owner, is_noted);
                assert!(matches!(told, (true, true, false) | (false, false, true)), "{protocol:?} {state:?} {event:?}");
                assert_eq!(cache.state(), state, "{protocol:?} {event:?}");
            }
        }
    }
}

#[test]
fn what_names_the_line_under_an_upgrade_is_served_at_once() {
    for protocol in Protocol::ALL {
        let (mut cache, _) = in_state(protocol, LineState::SM);
        let effects = happens(&mut cache, LineEvent::RecallInvalid, 2);
        assert!(matches!(answer(&effects), Some(CacheAnswer::NotOwner(_))), "{protocol:?}: {effects:?}");
        if protocol.has_owned() {
            let (mut cache, _) = in_state(protocol, LineState::OM);
            let effects = happens(&mut cache, LineEvent::RecallInvalid, 2);
            let expected = CacheAnswer::Surrender { stamp: version(2, 0), value: Some(value(2, 0, "a")) };
            assert_eq!(answer(&effects), Some(&expected), "{protocol:?}: {effects:?}");
            assert_eq!(cache.state(), LineState::IM, "{protocol:?}");
        }
    }
}
