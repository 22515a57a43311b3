use super::*;
use crate::{
    ids::{ClusterId, FencingToken, Incarnation, LockName, NodeId, SessionId, Term},
    machine::{
        backup::{BackupHeader, STAGED_MS},
        control::{Change, ChangeBody, Command},
        lock::{Acquire, LockRecord, LockRequest, Mode, NewSession, RecordCounts, Want},
        membership::{Joiner, MemberChange},
        requests::{Done, STEP_MS},
    },
};

const NODE: NodeId = NodeId::from_bytes([7; 32]);
/// A time of these days, in Unix milliseconds.
const NOW: Tick = Tick(1_700_000_000_000);

fn id(seq: u64) -> RequestId {
    RequestId { node: NODE, incarnation: Incarnation(1), seq }
}

fn session(name: &str) -> SessionId {
    SessionId::new(name).expect("an id")
}

fn lock(name: &str) -> LockName {
    LockName::new(name).expect("a name")
}

fn state() -> ControlState {
    let mut state = ControlState::default();
    let join = Command::Member(MemberChange::Join(Joiner::of(NODE, 1)));
    state.apply(NOW, Term(1), join, &mut Vec::new());
    state
}

fn ask(state: &mut ControlState, seq: u64, body: ChangeBody) -> (Answer, Vec<Effect>) {
    let change = Change { request: id(seq), done: Done::default(), key: None, body };
    let mut effects = Vec::new();
    let answer = state.apply(NOW, Term(1), Command::Change(Box::new(change)), &mut effects);
    (answer, effects)
}

fn acquire(state: &mut ControlState, seq: u64, by: &str, name: &str) -> Answer {
    let open = Some(NewSession { session: session(by), ttl_ms: 30_000, owner: "".into() });
    let wants = vec![Want { lock: lock(name), mode: Mode::Exclusive }];
    let acquire = Acquire { session: session(by), open, wants, wait_ms: 60_000, lock_delay_ms: 0 };
    ask(state, seq, ChangeBody::Lock(LockRequest::Acquire(acquire))).0
}

fn token_of(answer: &Answer) -> FencingToken {
    match answer {
        Answer::Lock(LockAnswer::Granted(granted)) => granted.grants[0].fencing_token,
        other => panic!("not granted: {other:?}"),
    }
}

fn step(state: &mut ControlState, seq: u64, step: RestoreStep) -> (RestoreAnswer, Vec<Effect>) {
    match ask(state, seq, ChangeBody::Restore(step)) {
        (Answer::Restore(answer), effects) => (answer, effects),
        (other, _) => panic!("{other:?}"),
    }
}

fn records(of: &ControlState) -> Vec<LockRecord> {
    of.locks().records().collect()
}

/// The steps that put the locks of another state back, from this request on.
fn steps(of: &ControlState, first: u64, onto: Onto) -> Vec<RestoreStep> {
    let header = BackupHeader {
        cluster_id: ClusterId(1),
        cluster_name: "other".into(),
        version: String::new(),
        created_at: NOW,
        term: Term(1),
        applied_index: 1,
        token: of.locks().token().0,
        counts: of.locks().record_counts(),
        parts: 2,
    };
    let all = records(of);
    let restore = id(first);
    let part = |number: u32, records: &[LockRecord]| RestoreStep::Part { restore, number, records: records.to_vec() };
    vec![
        RestoreStep::Begin { header: Box::new(header), onto },
        part(0, &all[..1]),
        part(1, &all[1..]),
        RestoreStep::Finish { restore, onto },
    ]
}

/// Runs the steps under requests from `first` on, and gives the last answer.
fn restore(state: &mut ControlState, of: &ControlState, first: u64, onto: Onto) -> (RestoreAnswer, Vec<Effect>) {
    let mut last = None;
    for (seq, next) in (first..).zip(steps(of, first, onto)) {
        last = Some(step(state, seq, next));
    }
    last.expect("there are steps")
}

fn saved() -> ControlState {
    let mut saved = state();
    saved.locks.raise_token(token_floor(0, NOW.0 / 1000));
    acquire(&mut saved, 1, "s", "a");
    acquire(&mut saved, 2, "t", "b");
    saved
}

#[test]
fn a_new_cluster_has_the_locks_of_the_backup_and_grants_above_all_of_its_tokens() {
    let (saved, mut new) = (saved(), state());
    let (answer, effects) = restore(&mut new, &saved, 10, Onto::EmptyState);
    let two = RecordCounts { sessions: 2, holds: 2, delays: 0 };
    let token = saved.locks().token().0 + (1 << 32);
    let restored = Restored { counts: two, replaced: RecordCounts::default(), token };
    assert_eq!((answer, effects), (RestoreAnswer::Restored(restored), vec![Effect::Restored]));
    assert_eq!(records(&new), records(&saved), "under the tokens that their holders know");
    let next = token_of(&acquire(&mut new, 20, "u", "c"));
    assert!(next.0 > token, "{next}");
    assert_eq!(acquire(&mut new, 21, "u", "a"), Answer::Lock(LockAnswer::Refused(Refusal::SessionTaken)));
    assert_eq!(acquire(&mut new, 22, "v", "a"), Answer::Lock(LockAnswer::Waiting), "it is held");
}

#[test]
fn an_old_backup_does_not_make_tokens_go_back() {
    let (old, mut busy) = (saved(), state());
    busy.locks.raise_token(1 << 52);
    let (answer, _) = restore(&mut busy, &old, 10, Onto::EmptyState);
    assert!(matches!(answer, RestoreAnswer::Restored(Restored { token, .. }) if token > 1 << 52), "{answer:?}");
}

#[test]
fn a_cluster_with_sessions_is_left_alone_unless_they_may_be_given_up() {
    let (saved, mut busy) = (saved(), state());
    let before = token_of(&acquire(&mut busy, 1, "mine", "a"));
    let mine = records(&busy);
    for answer in
        steps(&saved, 10, Onto::EmptyState).into_iter().zip(10..).map(|(next, seq)| step(&mut busy, seq, next))
    {
        assert!(matches!(answer.0, RestoreAnswer::Occupied(_) | RestoreAnswer::Superseded), "{answer:?}");
    }
    assert_eq!(records(&busy), mine);

    let (answer, _) = restore(&mut busy, &saved, 20, Onto::AnyState);
    assert!(
        matches!(answer, RestoreAnswer::Restored(Restored { replaced, .. }) if replaced.sessions == 1),
        "{answer:?}"
    );
    assert_eq!(records(&busy), records(&saved));
    let close = LockRequest::Release { session: session("mine"), lock: lock("a") };
    let over = Answer::Lock(LockAnswer::Refused(Refusal::SessionExpired));
    assert_eq!(ask(&mut busy, 30, ChangeBody::Lock(close)).0, over, "its holder is told");
    assert!(token_of(&acquire(&mut busy, 31, "again", "z")) > before);
}

#[test]
fn who_waits_when_the_table_is_replaced_is_told_that_its_session_is_over() {
    let (saved, mut busy) = (saved(), state());
    acquire(&mut busy, 1, "mine", "a");
    assert_eq!(acquire(&mut busy, 2, "waits", "a"), Answer::Lock(LockAnswer::Waiting));
    restore(&mut busy, &saved, 10, Onto::AnyState);
    let over = Answer::Lock(LockAnswer::Refused(Refusal::SessionExpired));
    assert_eq!(acquire(&mut busy, 2, "waits", "a"), over, "asked again under the same request");
}

#[test]
fn nothing_changes_before_the_last_step_and_nothing_by_what_is_incomplete() {
    let (saved, mut new) = (saved(), state());
    let all = steps(&saved, 10, Onto::EmptyState);
    assert_eq!(step(&mut new, 10, all[0].clone()).0, RestoreAnswer::Taken);
    assert_eq!(step(&mut new, 11, all[1].clone()).0, RestoreAnswer::Taken);
    assert!(new.counts_time() && !new.locks().has_state());
    let (early, _) = step(&mut new, 12, all[3].clone());
    assert!(matches!(early, RestoreAnswer::Bad(_)), "{early:?}");
    assert_eq!(step(&mut new, 13, all[2].clone()).0, RestoreAnswer::Superseded, "it was given up");

    step(&mut new, 20, steps(&saved, 20, Onto::EmptyState).remove(0));
    let (skipped, _) = step(&mut new, 21, steps(&saved, 20, Onto::EmptyState).remove(2));
    assert!(matches!(skipped, RestoreAnswer::Bad(_)), "{skipped:?}");
    assert!(!new.locks().has_state() && new.restoring.is_none());
}

#[test]
fn of_two_restores_the_later_one_counts() {
    let (saved, mut new) = (saved(), state());
    step(&mut new, 10, steps(&saved, 10, Onto::EmptyState).remove(0));
    let (answer, _) = restore(&mut new, &saved, 20, Onto::EmptyState);
    assert!(matches!(answer, RestoreAnswer::Restored(_)));
    assert_eq!(step(&mut new, 30, steps(&saved, 10, Onto::AnyState).remove(1)).0, RestoreAnswer::Superseded);
}

#[test]
fn what_lies_still_for_ten_minutes_is_forgotten() {
    let (saved, mut new) = (saved(), state());
    step(&mut new, 10, steps(&saved, 10, Onto::EmptyState).remove(0));
    for _ in 0..STAGED_MS / STEP_MS {
        assert!(new.restoring.is_some());
        new.apply(NOW, Term(1), Command::Passed(Term(1)), &mut Vec::new());
    }
    assert!(new.restoring.is_none());
}

#[test]
fn a_counter_from_which_nothing_could_be_counted_on_is_refused() {
    let (mut saved, mut new) = (saved(), state());
    saved.locks.raise_token((1 << 53) - 1);
    let (answer, _) = step(&mut new, 10, steps(&saved, 10, Onto::EmptyState).remove(0));
    assert!(matches!(answer, RestoreAnswer::Bad(_)), "{answer:?}");
}
