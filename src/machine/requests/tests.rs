//! What is admitted, repeated and undone; and that over random histories nothing happens twice.

use proptest::prelude::*;

use super::*;
use crate::codec::{decode, encode};

type Memory = AnswerMemory<u32>;
const GONE: u32 = 0;

fn id(node: u8, incarnation: u64, seq: u64) -> RequestId {
    RequestId { node: NodeId::from_bytes([node; 32]), incarnation: Incarnation(incarnation), seq }
}

fn below(below: u64) -> Done {
    Done { below, ranges: vec![] }
}

fn admit(memory: &mut Memory, request: RequestId, key: Option<(&str, u64)>) -> Admission<u32> {
    let admission = memory.admit(Tick(1), request, &below(0), key);
    let bytes = encode(memory);
    assert_eq!(&decode::<Memory>(&bytes).unwrap(), memory);
    admission
}

#[test]
fn a_retry_gets_the_first_answer() {
    let mut memory = Memory::new();
    assert_eq!(admit(&mut memory, id(1, 1, 5), None), Admission::New);
    assert_eq!(admit(&mut memory, id(1, 1, 5), None), Admission::Pending(id(1, 1, 5)));
    assert_eq!(memory.settle(Tick(1), id(1, 1, 5), 42), [id(1, 1, 5)]);
    assert_eq!(admit(&mut memory, id(1, 1, 5), None), Admission::Repeat(42));
    assert_eq!(admit(&mut memory, id(2, 1, 5), None), Admission::New);
}

#[test]
fn what_a_node_is_done_with_is_forgotten_and_never_executed() {
    let mut memory = Memory::new();
    for seq in 1..=3 {
        admit(&mut memory, id(1, 1, seq), None);
        memory.settle(Tick(1), id(1, 1, seq), 42);
    }
    assert_eq!(memory.admit(Tick(1), id(1, 1, 4), &below(3), None), Admission::New);
    assert_eq!(admit(&mut memory, id(1, 1, 2), None), Admission::Stale);
    assert_eq!(admit(&mut memory, id(1, 1, 3), None), Admission::Repeat(42));
    assert_eq!(memory.nodes[&id(1, 1, 1).node].open.len(), 2);
    assert_eq!(memory.abandon(id(1, 1, 2), GONE), Abandonment::Stale);
}

#[test]
fn one_long_wait_does_not_fill_the_memory_of_what_is_finished_meanwhile() {
    let mut memory = Memory::new();
    let done = |ranges: &[(u64, u64)]| Done { below: 1, ranges: ranges.to_vec() };
    assert_eq!(memory.admit(Tick(1), id(1, 1, 1), &done(&[]), None), Admission::New);
    for seq in 2..MAX_OPEN_PER_NODE as u64 + 100 {
        assert_eq!(memory.admit(Tick(1), id(1, 1, seq), &done(&[(2, seq)]), None), Admission::New);
        memory.settle(Tick(1), id(1, 1, seq), 42);
    }
    assert_eq!(memory.nodes[&id(1, 1, 1).node].open.len(), 2);
    assert_eq!(admit(&mut memory, id(1, 1, 1), None), Admission::Pending(id(1, 1, 1)));
    assert_eq!(admit(&mut memory, id(1, 1, 2), None), Admission::Stale);
    assert_eq!(memory.abandon(id(1, 1, 2), GONE), Abandonment::Stale);
}

#[test]
fn a_restart_makes_older_requests_stale() {
    let mut memory = Memory::new();
    admit(&mut memory, id(1, 1, 5), None);
    assert_eq!(admit(&mut memory, id(1, 2, 1), None), Admission::New);
    assert_eq!(admit(&mut memory, id(1, 1, 6), None), Admission::Stale);
    assert_eq!(memory.abandon(id(1, 1, 5), GONE), Abandonment::Stale);
    memory.settle(Tick(1), id(1, 1, 5), 42);
    assert_eq!(admit(&mut memory, id(1, 2, 5), None), Admission::New);
}

#[test]
fn a_full_memory_refuses_new_requests_and_keeps_old_answers() {
    let mut memory = Memory::new();
    for seq in 0..MAX_OPEN_PER_NODE as u64 {
        assert_eq!(memory.admit(Tick(1), id(1, 1, seq), &below(0), None), Admission::New);
    }
    let full = Admission::Full(MemoryBound::OpenRequests);
    assert_eq!(memory.admit(Tick(1), id(1, 1, 99_999), &below(0), None), full);
    assert_eq!(memory.admit(Tick(1), id(1, 1, 0), &below(0), None), Admission::Pending(id(1, 1, 0)));
    assert_eq!(memory.admit(Tick(1), id(1, 1, 99_999), &below(1), None), Admission::New);
}

#[test]
fn a_key_gets_its_first_answer_at_any_node_for_ten_minutes() {
    let mut memory = Memory::new();
    let key = Some(("k", 1));
    assert_eq!(admit(&mut memory, id(1, 1, 5), key), Admission::New);
    assert_eq!(admit(&mut memory, id(2, 1, 9), key), Admission::Pending(id(1, 1, 5)));
    assert_eq!(admit(&mut memory, id(2, 1, 10), Some(("k", 2))), Admission::KeyConflict);
    assert_eq!(memory.settle(Tick(1), id(1, 1, 5), 42), [id(1, 1, 5), id(2, 1, 9)]);
    assert_eq!(admit(&mut memory, id(2, 1, 9), None), Admission::Repeat(42));
    assert_eq!(admit(&mut memory, id(3, 1, 1), key), Admission::Repeat(42));
    assert_eq!(memory.admit(Tick(KEY_WINDOW_MS), id(3, 1, 2), &below(0), key), Admission::Repeat(42));
    assert_eq!(memory.admit(Tick(KEY_WINDOW_MS + 1), id(3, 1, 3), &below(0), key), Admission::New);
}

#[test]
fn a_key_outlives_the_restart_of_the_node_that_used_it_first() {
    let mut memory = Memory::new();
    admit(&mut memory, id(1, 1, 5), Some(("k", 1)));
    admit(&mut memory, id(1, 2, 1), None);
    assert_eq!(admit(&mut memory, id(2, 1, 1), Some(("k", 1))), Admission::Pending(id(1, 1, 5)));
    memory.settle(Tick(1), id(1, 1, 5), 42);
    assert_eq!(admit(&mut memory, id(2, 1, 1), None), Admission::Repeat(42));
    assert!(memory.waiting.is_empty());
}

#[test]
fn giving_up_undoes_once_what_nobody_else_was_told() {
    let mut memory = Memory::new();
    admit(&mut memory, id(1, 1, 1), None);
    assert_eq!(memory.abandon(id(1, 1, 1), GONE), Abandonment::Waiting(id(1, 1, 1)));
    memory.settle(Tick(1), id(1, 1, 1), GONE);
    assert_eq!(memory.abandon(id(1, 1, 1), GONE), Abandonment::Answered(GONE));
    admit(&mut memory, id(1, 1, 2), None);
    memory.settle(Tick(1), id(1, 1, 2), 42);
    assert_eq!(memory.abandon(id(1, 1, 2), GONE), Abandonment::Answered(42));
    assert_eq!(memory.abandon(id(1, 1, 2), GONE), Abandonment::Answered(GONE));
    assert_eq!(admit(&mut memory, id(1, 1, 2), None), Admission::Repeat(GONE));
}

#[test]
fn a_request_given_up_before_it_arrives_is_not_executed() {
    let mut memory = Memory::new();
    admit(&mut memory, id(1, 1, 2), None);
    assert_eq!(memory.abandon(id(1, 1, 1), GONE), Abandonment::Unseen);
    assert_eq!(admit(&mut memory, id(1, 1, 1), Some(("k", 1))), Admission::Repeat(GONE));
    assert_eq!(admit(&mut memory, id(2, 1, 1), Some(("k", 1))), Admission::New);
}

#[test]
fn a_key_is_undone_by_the_last_of_its_askers_and_then_free_again() {
    let mut memory = Memory::new();
    let key = Some(("k", 1));
    for answered in [false, true] {
        let seq = u64::from(answered) + 1;
        assert_eq!(admit(&mut memory, id(1, 1, seq), key), Admission::New);
        admit(&mut memory, id(2, 1, seq), key);
        if answered {
            memory.settle(Tick(1), id(1, 1, seq), 42);
        }
        assert_eq!(memory.abandon(id(1, 1, seq), GONE), Abandonment::Shared);
        let undo = if answered { Abandonment::Answered(42) } else { Abandonment::Waiting(id(1, 1, seq)) };
        assert_eq!(memory.abandon(id(2, 1, seq), GONE), undo);
    }
    assert_eq!(admit(&mut memory, id(3, 1, 1), key), Admission::New);
    assert_eq!(memory.waiting.len(), 1);
    assert!(memory.answered.is_empty());
}

#[test]
fn too_many_who_wait_under_one_key_are_refused_and_too_many_told_keep_the_grant() {
    let mut memory = Memory::new();
    let key = Some(("k", 1));
    for seq in 0..MAX_REQUESTS_PER_KEY as u64 {
        admit(&mut memory, id(1, 1, seq), key);
    }
    assert_eq!(admit(&mut memory, id(1, 1, 99), key), Admission::Full(MemoryBound::RequestsOfAKey));
    memory.settle(Tick(1), id(1, 1, 0), 42);
    assert_eq!(admit(&mut memory, id(1, 1, 99), key), Admission::Repeat(42));
    for seq in 0..MAX_REQUESTS_PER_KEY as u64 {
        assert_eq!(memory.abandon(id(1, 1, seq), GONE), Abandonment::Shared);
    }
}

#[derive(Clone, Debug)]
enum Move {
    Send { node: u8, seq: u64, key: Option<u8> },
    Settle(usize),
    Abandon { node: u8, seq: u64 },
    Done { node: u8, below: u64 },
    Finish { node: u8, seq: u64 },
    Restart(u8),
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Move> {
    let request = || (0..3u8, 0..12u64);
    prop_oneof![
        8 => (request(), prop::option::of(0..3u8)).prop_map(|((node, seq), key)| Move::Send { node, seq, key }),
        4 => (0..8usize).prop_map(Move::Settle),
        4 => request().prop_map(|(node, seq)| Move::Abandon { node, seq }),
        1 => request().prop_map(|(node, below)| Move::Done { node, below }),
        2 => request().prop_map(|(node, seq)| Move::Finish { node, seq }),
        1 => (0..3u8).prop_map(Move::Restart),
        1 => (0..KEY_WINDOW_MS).prop_map(Move::Pass),
    ]
}

/// One execution of a request: under which key, who was told or waits, whether it was undone.
#[derive(Debug)]
struct Execution {
    request: RequestId,
    key: Option<u8>,
    answer: Option<(u32, u64)>,
    listeners: BTreeSet<RequestId>,
    undone: bool,
}

/// The outside of a memory: what was executed and who heard of it.
#[derive(Default)]
struct World {
    memory: Memory,
    now: u64,
    incarnation: [u64; 3],
    below: [u64; 3],
    finished: [Ranges; 3],
    executions: Vec<Execution>,
    /// The key under which each request is sent, always the same one.
    keys: BTreeMap<RequestId, Option<u8>>,
}

impl World {
    fn id(&self, node: u8, seq: u64) -> RequestId {
        id(node, self.incarnation[usize::from(node)] + 1, seq)
    }

    fn send(&mut self, node: u8, seq: u64, key: Option<u8>) {
        let request = self.id(node, seq);
        let key = *self.keys.entry(request).or_insert(key);
        let name = key.map(|key| key.to_string());
        let (below, finished) = (self.below[usize::from(node)], &self.finished[usize::from(node)]);
        let done = Done { below, ranges: finished.starting_at(0).collect() };
        match self.memory.admit(Tick(self.now), request, &done, name.as_deref().map(|name| (name, 1))) {
            Admission::New => {
                assert!(!finished.contains(seq), "its node is done with it");
                assert!(self.executions.iter().all(|done| done.request != request), "executed twice");
                let now = self.now;
                let stands = |done: &Execution| match done.answer {
                    None => !done.undone,
                    Some((_, at)) => !done.undone && now < at + KEY_WINDOW_MS,
                };
                let again = self.executions.iter().any(|done| key.is_some() && done.key == key && stands(done));
                assert!(!again, "a key was executed twice");
                let listeners = BTreeSet::from([request]);
                self.executions.push(Execution { request, key, answer: None, listeners, undone: false });
            }
            Admission::Repeat(GONE) | Admission::Stale => {}
            Admission::Repeat(answer) => {
                let told = self.executions.iter_mut().find(|done| done.answer.is_some_and(|(a, _)| a == answer));
                let told = told.expect("only answers that were given are repeated");
                assert!(!told.undone, "told of something that was undone");
                assert!(told.request == request || told.key == key);
                told.listeners.insert(request);
            }
            Admission::Pending(first) => {
                let pending = self.executions.iter_mut().find(|done| done.request == first);
                let pending = pending.expect("only what is executed is waited for");
                assert!(pending.answer.is_none() && !pending.undone);
                pending.listeners.insert(request);
            }
            refused => panic!("{refused:?}"),
        }
    }

    fn settle(&mut self, n: usize) {
        let mut waiting = self.executions.iter_mut().filter(|done| done.answer.is_none() && !done.undone);
        let Some(done) = waiting.nth(n) else { return };
        let answer = 100
            + u32::try_from(done.request.seq).unwrap()
            + 100 * u32::from(done.request.node.as_bytes()[0])
            + 1_000 * u32::try_from(done.request.incarnation.0).unwrap();
        done.answer = Some((answer, self.now));
        let told: BTreeSet<RequestId> = self.memory.settle(Tick(self.now), done.request, answer).into_iter().collect();
        // Who abandoned it is not listening; a lone asker that did has ended the wait.
        assert_eq!(told, done.listeners);
    }

    fn abandon(&mut self, node: u8, seq: u64) {
        let request = self.id(node, seq);
        match self.memory.abandon(request, GONE) {
            Abandonment::Waiting(first) => {
                let done = self.executions.iter_mut().find(|done| done.request == first).unwrap();
                assert_eq!(done.listeners, BTreeSet::from([request]), "others wait for it too");
                assert!(done.answer.is_none() && !done.undone);
                done.undone = true;
                done.listeners.clear();
                self.memory.settle(Tick(self.now), first, GONE);
            }
            Abandonment::Answered(GONE) | Abandonment::Unseen | Abandonment::Stale => {}
            full @ Abandonment::Full(_) => panic!("{full:?}"),
            Abandonment::Answered(answer) => {
                let done = self.executions.iter_mut().find(|done| done.answer.is_some_and(|(a, _)| a == answer));
                let done = done.unwrap();
                assert_eq!(done.listeners, BTreeSet::from([request]), "others were told of it too");
                assert!(!done.undone, "undone twice");
                done.undone = true;
            }
            Abandonment::Shared => {
                let Some(Some(key)) = self.keys.get(&request).copied() else { panic!("shared without a key") };
                for done in self.executions.iter_mut().filter(|done| done.key == Some(key)) {
                    done.listeners.remove(&request);
                }
            }
        }
    }

    fn make(&mut self, step: Move) {
        match step {
            Move::Send { node, seq, key } => self.send(node, seq, key),
            Move::Settle(n) => self.settle(n),
            Move::Abandon { node, seq } => self.abandon(node, seq),
            Move::Done { node, below } => {
                let mark = &mut self.below[usize::from(node)];
                *mark = (*mark).max(below.saturating_sub(6));
            }
            Move::Finish { node, seq } => self.finished[usize::from(node)].insert(seq, seq + 1),
            Move::Restart(node) => {
                self.incarnation[usize::from(node)] += 1;
                self.below[usize::from(node)] = 0;
                self.finished[usize::from(node)] = Ranges::default();
            }
            Move::Pass(ms) => self.now += ms,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_executed_or_undone_twice_nor_undone_while_others_hear_of_it(
        history in prop::collection::vec(moves(), 1..80)
    ) {
        let mut world = World::default();
        for step in history {
            world.make(step);
        }
    }
}
