//! What a replica does, one input at a time: whole lists of effects.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::{
    ids::{Incarnation, JournalId, NodeId},
    machine::placement::{Partition, PartitionStatus, PlacementBody, PlacementChange, Report},
};

const P: PartitionId = PartitionId(7);
const T: Tick = Tick(5_000);

fn node(at: u8) -> NodeId {
    NodeId::from_bytes([at; 32])
}

fn replica(at: u8) -> Replica {
    Replica { node: node(at), incarnation: Incarnation(1), journal: JournalId(u128::from(at)) }
}

fn at(epoch: u64, seq: u64) -> Position {
    Position { epoch: Epoch(epoch), seq }
}

fn record(epoch: u64, seq: u64, durability: Durability, body: &'static str) -> Record {
    Record { position: at(epoch, seq), durability, body: Bytes::from_static(body.as_bytes()) }
}

fn synced(epoch: u64, seq: u64) -> Record {
    record(epoch, seq, Durability::Synced, "x")
}

fn first(epoch: u64, seq: u64) -> Record {
    record(epoch, seq, Durability::Synced, "")
}

/// Placed on 1, 2 and 3; the first of those in sync is the primary.
fn placed(epoch: u64, in_sync: &[Replica]) -> Partition {
    Partition {
        epoch: Epoch(epoch),
        primary: in_sync.first().copied(),
        in_sync: in_sync.to_vec(),
        holders: in_sync.to_vec(),
        replicas: vec![node(1), node(2), node(3)],
        status: PartitionStatus::Serving,
    }
}

fn waiting(epoch: u64, in_sync: &[Replica], reports: &[Report]) -> Partition {
    let reports = reports.iter().map(|report| (report.replica.node, *report)).collect::<BTreeMap<_, _>>();
    Partition { primary: None, status: PartitionStatus::Waiting { reports }, ..placed(epoch, in_sync) }
}

struct Machine {
    machine: Replication,
    now: Tick,
}

impl Machine {
    fn new(me: Replica, settings: Settings, recovered: Recovered) -> Self {
        Self { machine: Replication::new(me, P, settings, recovered), now: T }
    }

    fn empty(me: Replica) -> Self {
        Self::new(me, Settings::default(), Recovered::default())
    }

    fn does(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.machine.step(self.now, input, &mut effects);
        effects
    }

    fn after(&mut self, ms: u64) -> Vec<Effect> {
        self.now = self.now.plus_ms(ms);
        self.does(Input::Tick)
    }

    /// What one that follows answers.
    fn hears(&mut self, from: Replica, call: u64, answer: Answer) -> Vec<Effect> {
        self.does(Input::Reply { to: from.node, call, reply: Some(Reply { from, answer }) })
    }

    fn append(&mut self, call: u64, epoch: u64, prev: Position, records: Vec<Record>, committed: u64) -> Vec<Effect> {
        let message = Message::Append { epoch: Epoch(epoch), prev, records, committed };
        self.does(Input::Message { from: replica(1), call, message })
    }

    fn proposes(&mut self, id: u64, durability: Durability) -> Vec<Effect> {
        self.does(Input::Propose { id, durability, body: Bytes::from_static(b"x") })
    }
}

fn send(to: u8, call: u64, epoch: u64, prev: Position, records: Vec<Record>, committed: u64) -> Effect {
    Effect::Send { to: node(to), call, message: Message::Append { epoch: Epoch(epoch), prev, records, committed } }
}

fn says(from: u8, call: u64, answer: Answer) -> Effect {
    Effect::Reply { call, reply: Reply { from: replica(from), answer } }
}

fn change(ask: u64, based_on: u64, body: PlacementBody) -> Effect {
    Effect::Change { ask, change: PlacementChange { partition: P, based_on: Epoch(based_on), body } }
}

/// A primary that serves in epoch 1, with 2 in sync and 3 away; calls 1 and 2 were its first.
fn serving() -> Machine {
    let mut it = Machine::empty(replica(1));
    it.does(Input::Placed(placed(1, &[replica(1), replica(2)])));
    it.does(Input::Journalled { batch: 1 });
    it.hears(replica(2), 1, Answer::Held { upto: 1 });
    assert_eq!(it.machine.role(), RoleView::Primary { serving: true });
    it
}

#[test]
fn a_new_primary_serves_once_all_hold_its_first_record() {
    let mut it = Machine::empty(replica(1));
    assert_eq!(
        it.does(Input::Placed(placed(1, &[replica(1), replica(2)]))),
        [
            Effect::Journal { batch: 1, records: vec![first(1, 1)] },
            send(2, 1, 1, at(0, 0), vec![first(1, 1)], 0),
            send(3, 2, 1, at(0, 0), vec![first(1, 1)], 0),
        ]
    );
    assert_eq!(it.proposes(1, Durability::Synced), [Effect::Refused { id: 1, why: Refusal::NotServing }]);
    assert_eq!(it.hears(replica(2), 1, Answer::Held { upto: 1 }), []);
    assert_eq!(
        it.does(Input::Journalled { batch: 1 }),
        [Effect::Commit { records: vec![first(1, 1)] }, Effect::Serving]
    );
}

#[test]
fn a_proposal_is_committed_when_both_journals_have_it() {
    let mut it = serving();
    assert_eq!(
        it.proposes(9, Durability::Synced),
        [
            Effect::Taken { id: 9, position: at(1, 2) },
            Effect::Journal { batch: 2, records: vec![synced(1, 2)] },
            send(2, 3, 1, at(1, 1), vec![synced(1, 2)], 1),
        ]
    );
    assert_eq!(it.does(Input::Journalled { batch: 2 }), []);
    assert_eq!(it.hears(replica(2), 3, Answer::Held { upto: 2 }), [Effect::Commit { records: vec![synced(1, 2)] }]);
    assert_eq!(it.after(200), [send(2, 4, 1, at(1, 2), vec![], 2), send(3, 5, 1, at(0, 0), vec![first(1, 1)], 2),]);
}

#[test]
fn what_is_in_memory_waits_for_nothing_but_what_is_before_it() {
    let mut it = serving();
    let lease = record(1, 2, Durability::InMemory, "x");
    assert_eq!(
        it.proposes(9, Durability::InMemory),
        [
            Effect::Taken { id: 9, position: at(1, 2) },
            Effect::JournalLazily { records: vec![lease.clone()] },
            send(2, 3, 1, at(1, 1), vec![lease.clone()], 1),
        ]
    );
    assert_eq!(it.hears(replica(2), 3, Answer::Held { upto: 2 }), [Effect::Commit { records: vec![lease] }]);
    it.proposes(10, Durability::Synced);
    it.proposes(11, Durability::InMemory);
    assert_eq!(it.hears(replica(2), 4, Answer::Held { upto: 3 }), []);
    assert_eq!(it.hears(replica(2), 5, Answer::Held { upto: 4 }), []);
    let both = vec![synced(1, 3), record(1, 4, Durability::InMemory, "x")];
    assert_eq!(it.does(Input::Journalled { batch: 2 }), [Effect::Commit { records: both }]);
}

#[test]
fn no_more_appends_are_in_flight_than_the_pipeline_takes() {
    let mut it = serving();
    let sends = |effects: Vec<Effect>| effects.iter().filter(|effect| matches!(effect, Effect::Send { .. })).count();
    let sent: Vec<usize> = (0..6).map(|id| sends(it.proposes(id, Durability::Synced))).collect();
    assert_eq!(sent, [1, 1, 1, 1, 0, 0]);
    assert_eq!(
        it.hears(replica(2), 3, Answer::Held { upto: 2 }),
        [send(2, 7, 1, at(1, 5), vec![synced(1, 6), synced(1, 7)], 1)]
    );
}

#[test]
fn what_is_uncommitted_is_bounded() {
    let settings = Settings { max_uncommitted_records: 2, ..Settings::default() };
    let mut it = Machine { machine: Replication { settings, ..serving().machine }, now: T };
    it.proposes(1, Durability::Synced);
    it.proposes(2, Durability::Synced);
    assert_eq!(it.proposes(3, Durability::InMemory), [Effect::Refused { id: 3, why: Refusal::Busy }]);
}

#[test]
fn a_backup_answers_once_what_must_be_synced_is() {
    let mut it = Machine::empty(replica(2));
    it.does(Input::Placed(placed(1, &[replica(1), replica(2)])));
    assert_eq!(
        it.append(70, 1, at(0, 0), vec![first(1, 1)], 0),
        [Effect::Journal { batch: 1, records: vec![first(1, 1)] }]
    );
    let lease = record(1, 2, Durability::InMemory, "x");
    assert_eq!(
        it.append(71, 1, at(1, 1), vec![lease.clone()], 1),
        [Effect::JournalLazily { records: vec![lease.clone()] }, Effect::Commit { records: vec![first(1, 1)] }]
    );
    assert_eq!(
        it.does(Input::Journalled { batch: 1 }),
        [says(2, 70, Answer::Held { upto: 2 }), says(2, 71, Answer::Held { upto: 2 })]
    );
    assert_eq!(
        it.append(72, 1, at(1, 2), vec![], 2),
        [Effect::Commit { records: vec![lease] }, says(2, 72, Answer::Held { upto: 2 })]
    );
}

#[test]
fn a_repeated_append_changes_nothing() {
    let mut it = Machine::empty(replica(2));
    it.does(Input::Placed(placed(1, &[replica(1), replica(2)])));
    it.append(70, 1, at(0, 0), vec![first(1, 1), synced(1, 2)], 0);
    it.does(Input::Journalled { batch: 1 });
    assert_eq!(it.append(71, 1, at(0, 0), vec![first(1, 1)], 0), [says(2, 71, Answer::Held { upto: 2 })]);
}

#[test]
fn an_append_that_comes_too_early_is_kept_until_the_one_before_it_came() {
    let mut it = Machine::empty(replica(2));
    it.does(Input::Placed(placed(1, &[replica(1), replica(2)])));
    it.append(70, 1, at(0, 0), vec![first(1, 1)], 0);
    assert_eq!(it.append(72, 1, at(1, 2), vec![synced(1, 3)], 1), []);
    assert_eq!(
        it.append(71, 1, at(1, 1), vec![synced(1, 2)], 1),
        [
            Effect::Journal { batch: 2, records: vec![synced(1, 2)] },
            Effect::Commit { records: vec![first(1, 1)] },
            Effect::Journal { batch: 3, records: vec![synced(1, 3)] },
        ]
    );
}

#[test]
fn a_backup_refuses_an_older_epoch_and_learns_of_a_newer_one_before_it_follows() {
    let mut it = Machine::empty(replica(3));
    it.does(Input::Placed(placed(2, &[replica(1), replica(3)])));
    assert_eq!(it.append(70, 1, at(0, 0), vec![first(1, 1)], 0), [says(3, 70, Answer::Stale { epoch: Epoch(2) })]);
    assert_eq!(it.append(71, 3, at(0, 0), vec![first(3, 1)], 0), [Effect::PullView { epoch: Epoch(3) }]);
    assert_eq!(
        it.does(Input::Placed(placed(3, &[replica(1), replica(3)]))),
        [Effect::Journal { batch: 1, records: vec![first(3, 1)] }]
    );
    assert_eq!(it.does(Input::Journalled { batch: 1 }), [says(3, 71, Answer::Held { upto: 1 })]);
}

#[test]
fn a_restarted_backup_follows_nobody_older_than_its_own_records_nor_beside_its_earlier_run() {
    let again = Replica { incarnation: Incarnation(2), ..replica(2) };
    let recovered = Recovered { records: vec![first(1, 1), first(3, 2)], ..Recovered::default() };
    let mut it = Machine::new(again, Settings::default(), recovered);
    let refuses = |call, epoch| {
        let answer = Answer::Stale { epoch: Epoch(epoch) };
        [Effect::Reply { call, reply: Reply { from: again, answer } }]
    };
    it.does(Input::Placed(placed(2, &[replica(1), replica(3)])));
    assert_eq!(it.append(70, 2, at(1, 1), vec![synced(2, 2)], 2), refuses(70, 3));
    it.does(Input::Placed(placed(4, &[replica(1), replica(2)])));
    assert_eq!(it.append(71, 4, at(3, 2), vec![first(4, 3)], 2), refuses(71, 4));
    it.does(Input::Placed(placed(5, &[replica(1)])));
    assert_eq!(
        it.append(72, 5, at(3, 2), vec![first(4, 3)], 2),
        [
            Effect::Journal { batch: 1, records: vec![first(4, 3)] },
            Effect::Commit { records: vec![first(1, 1), first(3, 2)] },
        ]
    );
}

#[test]
fn what_another_primary_left_uncommitted_is_cut() {
    let recovered = Recovered { records: vec![first(1, 1), synced(1, 2), synced(1, 3)], ..Recovered::default() };
    let mut it = Machine::new(replica(2), Settings::default(), recovered);
    it.does(Input::Placed(placed(2, &[replica(1), replica(2)])));
    assert_eq!(it.append(70, 2, at(1, 4), vec![first(2, 5)], 1), [says(2, 70, Answer::Mismatch { last: at(1, 3) })]);
    assert_eq!(
        it.append(71, 2, at(1, 1), vec![first(2, 2)], 1),
        [
            Effect::Truncate { last_seq: 1 },
            Effect::Journal { batch: 1, records: vec![first(2, 2)] },
            Effect::Commit { records: vec![first(1, 1)] },
        ]
    );
    assert_eq!(it.machine.last(), at(2, 2));
}

#[test]
fn what_is_committed_is_never_cut() {
    let recovered = Recovered { checkpoint: at(1, 2), records: vec![synced(1, 3)], verified: true };
    let mut it = Machine::new(replica(2), Settings::default(), recovered);
    it.does(Input::Placed(placed(2, &[replica(1)])));
    assert_eq!(it.append(70, 2, at(1, 1), vec![first(2, 2)], 2), [says(2, 70, Answer::Diverged)]);
    assert_eq!(it.machine.last(), at(1, 3));
}

#[test]
fn who_does_not_answer_leaves_but_counts_until_that_is_done() {
    let mut it = serving();
    it.proposes(9, Durability::Synced);
    it.does(Input::Journalled { batch: 2 });
    let asks: Vec<Effect> =
        it.after(1_000).into_iter().filter(|effect| !matches!(effect, Effect::Send { .. })).collect();
    assert_eq!(asks, [change(1, 1, PlacementBody::Shrink(vec![replica(2)]))]);
    it.does(Input::Changed { ask: 1, outcome: ChangeOutcome::Unknown });
    let again: Vec<Effect> =
        it.after(200).into_iter().filter(|effect| !matches!(effect, Effect::Send { .. })).collect();
    assert_eq!(again, [change(1, 1, PlacementBody::Shrink(vec![replica(2)]))]);
    let done = it.does(Input::Changed { ask: 1, outcome: ChangeOutcome::Done(placed(2, &[replica(1)])) });
    assert_eq!(done[0], Effect::Commit { records: vec![synced(1, 2)] });
    assert_eq!(it.machine.role(), RoleView::Primary { serving: true });
    assert_eq!(it.proposes(10, Durability::Synced)[0], Effect::Taken { id: 10, position: at(2, 3) });
}

#[test]
fn a_learner_is_waited_for_from_when_it_is_proposed() {
    let mut it = serving();
    assert_eq!(it.hears(replica(3), 2, Answer::Held { upto: 1 }), [change(1, 1, PlacementBody::Grow(replica(3)))]);
    it.proposes(9, Durability::Synced);
    it.does(Input::Journalled { batch: 2 });
    assert_eq!(it.hears(replica(2), 3, Answer::Held { upto: 2 }), []);
    assert_eq!(it.hears(replica(3), 4, Answer::Held { upto: 2 }), [Effect::Commit { records: vec![synced(1, 2)] }]);
    it.proposes(10, Durability::Synced);
    it.does(Input::Journalled { batch: 3 });
    it.hears(replica(2), 5, Answer::Held { upto: 3 });
    let void = ChangeOutcome::Void(placed(1, &[replica(1), replica(2)]));
    assert_eq!(it.does(Input::Changed { ask: 1, outcome: void }), [Effect::Commit { records: vec![synced(1, 3)] }]);
}

#[test]
fn a_learner_that_trails_holds_up_nothing() {
    let mut it = Machine::new(replica(1), Settings { lag_to_grow: 1, ..Settings::default() }, Recovered::default());
    it.does(Input::Placed(placed(1, &[replica(1), replica(2)])));
    it.does(Input::Journalled { batch: 1 });
    it.hears(replica(2), 1, Answer::Held { upto: 1 });
    for id in 2..6 {
        it.proposes(id, Durability::InMemory);
        let call = id + 1;
        assert_eq!(it.hears(replica(2), call, Answer::Held { upto: id }).len(), 1, "record {id} is committed");
    }
    let effects = it.hears(replica(3), 2, Answer::Held { upto: 1 });
    assert!(effects.iter().all(|effect| matches!(effect, Effect::Send { .. })), "it is not proposed: {effects:?}");
}

#[test]
fn a_deposed_primary_says_that_it_does_not_know() {
    let mut it = serving();
    it.proposes(9, Durability::Synced);
    assert_eq!(
        it.does(Input::Placed(placed(2, &[replica(2), replica(1)]))),
        [Effect::Refused { id: 9, why: Refusal::Deposed }, Effect::Stopped]
    );
    assert_eq!(
        it.proposes(10, Durability::Synced),
        [Effect::Refused { id: 10, why: Refusal::NotPrimary { epoch: Epoch(2) } }]
    );
    assert_eq!(it.hears(replica(2), 3, Answer::Held { upto: 2 }), []);
    assert_eq!(it.machine.role(), RoleView::Backup);
}

#[test]
fn an_answer_of_another_run_does_not_count_for_the_member() {
    let mut it = serving();
    it.proposes(9, Durability::Synced);
    it.does(Input::Journalled { batch: 2 });
    let other = Replica { incarnation: Incarnation(2), ..replica(2) };
    assert_eq!(it.hears(other, 3, Answer::Held { upto: 2 }), []);
    assert_eq!(it.machine.committed(), at(1, 1));
}

#[test]
fn a_primary_that_hears_of_a_newer_epoch_pulls_the_view() {
    let mut it = serving();
    it.proposes(9, Durability::Synced);
    assert_eq!(it.hears(replica(2), 3, Answer::Stale { epoch: Epoch(4) }), [Effect::PullView { epoch: Epoch(4) }]);
}

#[test]
fn a_primary_that_cannot_journal_gives_the_partition_away() {
    let mut it = serving();
    it.proposes(9, Durability::Synced);
    assert_eq!(
        it.does(Input::JournalFailed),
        [
            Effect::Refused { id: 9, why: Refusal::Deposed },
            Effect::Stopped,
            change(1, 1, PlacementBody::HandOver(node(2))),
        ]
    );
}

#[test]
fn a_replica_reports_how_far_its_journal_goes_where_nobody_serves() {
    let recovered = Recovered { records: vec![first(1, 1)], verified: true, ..Recovered::default() };
    let again = Replica { incarnation: Incarnation(2), ..replica(2) };
    let mut it = Machine::new(again, Settings::default(), recovered);
    let report = Report { replica: again, last: at(1, 1), verified: true };
    let set = [replica(1), replica(2)];
    assert_eq!(it.does(Input::Placed(waiting(2, &set, &[]))), [change(1, 2, PlacementBody::Report(report))]);
    assert_eq!(it.machine.role(), RoleView::Waiting);
    let other = Report { replica: replica(1), last: at(1, 1), verified: true };
    assert_eq!(
        it.does(Input::Changed { ask: 1, outcome: ChangeOutcome::Void(waiting(3, &set, &[other])) }),
        [change(2, 3, PlacementBody::Report(report))]
    );
    let both = waiting(4, &set, &[other, report]);
    assert_eq!(it.does(Input::Changed { ask: 2, outcome: ChangeOutcome::Done(both) }), []);
}

#[test]
fn a_learner_that_lacks_too_much_gets_the_state_in_parts() {
    let records = vec![synced(1, 11), synced(1, 12)];
    let recovered = Recovered { checkpoint: at(1, 10), records, verified: true };
    let mut it = Machine::new(replica(1), Settings::default(), recovered);
    it.does(Input::Placed(placed(2, &[replica(1)])));
    it.does(Input::Journalled { batch: 1 });
    assert_eq!(it.hears(replica(2), 1, Answer::Mismatch { last: at(0, 0) }), [Effect::TakeState { to: node(2) }]);
    let state = Bytes::from(vec![1; MAX_CHUNK_BYTES + 10]);
    let total = state.len() as u64;
    let part = |call, offset, chunk| {
        let message = Message::Install { epoch: Epoch(2), at: at(2, 13), offset, total, chunk };
        Effect::Send { to: node(2), call, message }
    };
    assert_eq!(
        it.does(Input::State { to: node(2), at: at(2, 13), state: state.clone() }),
        [part(3, 0, state.slice(..MAX_CHUNK_BYTES))]
    );
    let upto = MAX_CHUNK_BYTES as u64;
    assert_eq!(it.hears(replica(2), 3, Answer::Received { upto }), [part(4, upto, state.slice(MAX_CHUNK_BYTES..))]);
    it.proposes(9, Durability::Synced);
    assert_eq!(
        it.hears(replica(2), 4, Answer::Held { upto: 13 }),
        [change(1, 2, PlacementBody::Grow(replica(2))), send(2, 5, 2, at(2, 13), vec![synced(2, 14)], 13),]
    );
}

#[test]
fn two_learners_that_are_both_away_take_turns_and_not_the_state_from_each_other() {
    let recovered = Recovered { checkpoint: at(1, 10), records: vec![synced(1, 11)], verified: true };
    let mut it = Machine::new(replica(1), Settings::default(), recovered);
    it.does(Input::Placed(placed(2, &[replica(1)])));
    it.does(Input::Journalled { batch: 1 });
    let mut effects = it.hears(replica(2), 1, Answer::Mismatch { last: at(0, 0) });
    effects.extend(it.hears(replica(3), 2, Answer::Mismatch { last: at(0, 0) }));
    let mut turns = Vec::new();
    for _ in 0..40 {
        let mut heeded = 0;
        while let Some(effect) = effects.pop() {
            heeded += 1;
            assert!(heeded < 20, "without end: {effect:?}");
            let next = match effect {
                Effect::TakeState { to } => {
                    turns.push(to);
                    it.does(Input::State { to, at: at(2, 12), state: Bytes::from_static(b"all") })
                }
                Effect::Send { to, call, .. } => it.does(Input::Reply { to, call, reply: None }),
                _ => Vec::new(),
            };
            effects.extend(next);
        }
        effects = it.after(60_000);
    }
    assert!(turns.len() > 4, "{turns:?}");
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "each after the other: {turns:?}");
}

#[test]
fn a_learner_takes_a_state_from_where_it_broke_off_and_answers_once_it_is_durable() {
    let recovered = Recovered { records: vec![synced(1, 1)], ..Recovered::default() };
    let mut it = Machine::new(replica(2), Settings::default(), recovered);
    it.does(Input::Placed(placed(2, &[replica(1)])));
    let part = |call, offset: u64, chunk: &'static [u8]| {
        let message =
            Message::Install { epoch: Epoch(2), at: at(2, 13), offset, total: 5, chunk: Bytes::from_static(chunk) };
        Input::Message { from: replica(1), call, message }
    };
    assert_eq!(it.does(part(70, 3, b"de")), [says(2, 70, Answer::Received { upto: 0 })]);
    assert_eq!(it.does(part(71, 0, b"abc")), [says(2, 71, Answer::Received { upto: 3 })]);
    let state = Bytes::from_static(b"abcde");
    assert_eq!(it.does(part(72, 3, b"de")), [Effect::Install { batch: 1, at: at(2, 13), state }]);
    assert_eq!(it.does(part(73, 3, b"de")), []);
    assert_eq!(
        it.does(Input::Journalled { batch: 1 }),
        [says(2, 72, Answer::Held { upto: 13 }), says(2, 73, Answer::Held { upto: 13 })]
    );
    assert_eq!((it.machine.committed(), it.machine.last()), (at(2, 13), at(2, 13)));
}

#[test]
fn a_cut_record_is_not_durable_when_its_batch_is() {
    let mut it = Machine::empty(replica(2));
    it.does(Input::Placed(placed(1, &[replica(1), replica(2)])));
    it.append(70, 1, at(0, 0), vec![first(1, 1), synced(1, 2)], 0);
    it.does(Input::Placed(placed(2, &[replica(1), replica(2)])));
    it.append(71, 2, at(1, 1), vec![first(2, 2)], 0);
    assert_eq!(it.does(Input::Journalled { batch: 1 }), []);
    assert_eq!(it.does(Input::Journalled { batch: 2 }), [says(2, 71, Answer::Held { upto: 2 })]);
}

#[test]
fn memory_of_what_is_committed_is_bounded() {
    let settings = Settings { keep_records: 3, ..Settings::default() };
    let mut it = Machine::new(replica(1), settings, Recovered::default());
    it.does(Input::Placed(placed(1, &[replica(1)])));
    it.does(Input::Journalled { batch: 1 });
    for id in 2..50 {
        it.proposes(id, Durability::InMemory);
    }
    assert_eq!((it.machine.log.base().seq, it.machine.last().seq), (46, 49));
}

#[test]
fn copies_are_enough_as_the_placement_says() {
    let settings = Settings { min_in_sync: 2, ..Settings::default() };
    let mut it = Machine::new(replica(1), settings, Recovered::default());
    assert!(!it.machine.enough_copies());
    it.does(Input::Placed(placed(1, &[replica(1), replica(2)])));
    assert!(it.machine.enough_copies());
    it.does(Input::Placed(placed(2, &[replica(1)])));
    assert!(!it.machine.enough_copies());
}
