//! Every run of a small [`World`], by the model checker: nothing goes wrong in any of them; and with one rule taken
//! away, something does.
//!
//! Where it takes too many steps from the beginning to the point at which a rule matters, the world begins shortly
//! before that. Without a rule taken away nothing goes wrong from there on either, as far as the checker looks.

use std::collections::BTreeSet;

use super::{
    Durability::{self, InMemory, Synced},
    Settings,
    rules::Rule,
    world::{Action, Budget, World},
};
use crate::{ids::Epoch, machine::checker::check};

fn settings() -> Settings {
    Settings { max_batch_records: 8, pipeline: 2, lag_to_grow: 1, ..Settings::default() }
}

fn world(nodes: usize, in_sync: usize, budget: Budget, without: &[Rule]) -> World {
    World::new(nodes, in_sync, settings(), budget, without)
}

fn operations(kinds: &str) -> Vec<Durability> {
    kinds.chars().map(|kind| if kind == 's' { Synced } else { InMemory }).collect()
}

/// The first two nodes serve; the third one, if there is one, does too.
fn serving(nodes: usize, budget: Budget, without: &[Rule]) -> World {
    let mut world = world(nodes, nodes, budget, without);
    (0..nodes).for_each(|node| world.look(node));
    world.settle();
    world
}

/// One synced operation was acknowledged by both of two.
fn acknowledged(budget: Budget, without: &[Rule]) -> World {
    let mut world = serving(2, Budget { operations: operations("s"), ..budget }, without);
    world.happen(&Action::Propose { node: 0 });
    world.asks_arrive(0, 1);
    world
}

/// A deposed primary cuts what it had begun to journal, takes what its successor says, and crashes.
fn cut_while_journalling(without: &[Rule]) -> World {
    let budget = Budget { operations: operations("sss"), hand_overs: 1, crashes: 2, amnesias: 1, ..Budget::default() };
    let mut world = serving(2, budget, without);
    world.happen(&Action::Propose { node: 0 });
    world.happen(&Action::Propose { node: 0 });
    world.happen(&Action::HandOver { to: 1 });
    world.look(1);
    world.look(0);
    world.asks_arrive(1, 0);
    world.happen(&Action::Write { node: 0 });
    world.happen(&Action::Write { node: 0 });
    world.answers_arrive(0, 1);
    world.journal(1);
    world.happen(&Action::Propose { node: 1 });
    world.journal(1);
    world.asks_arrive(1, 0);
    world.answers_arrive(0, 1);
    world.happen(&Action::Crash { node: 0, written: false });
    world.happen(&Action::Restart { node: 0, empty: false });
    world
}

/// The first primary is it again, and did not see that another one was in between, who made the third replica cut.
fn primary_again(without: &[Rule]) -> World {
    let budget = Budget { operations: operations("ss"), hand_overs: 2, suspicions: 2, ..Budget::default() };
    let mut world = serving(3, budget, without);
    world.happen(&Action::Propose { node: 0 });
    world.asks_arrive(0, 1);
    world.asks_arrive(0, 2);
    world.journal(1);
    world.happen(&Action::Propose { node: 0 });
    world.asks_arrive(0, 2);
    world.journal(0);
    world.journal(2);
    world.answers_arrive(2, 0);
    world.happen(&Action::HandOver { to: 1 });
    world.look(1);
    world.look(2);
    world.asks_arrive(1, 2);
    world.happen(&Action::HandOver { to: 0 });
    world.look(0);
    world.look(1);
    world.asks_arrive(0, 1);
    world.journal(1);
    world.answers_arrive(1, 0);
    world
}

/// A replica that served alone restarts, and a placement from before that is still under way, with what its primary
/// of then had sent.
fn restarted_behind_its_records(without: &[Rule]) -> World {
    let budget = Budget {
        operations: operations("ss"),
        hand_overs: 1,
        suspicions: 2,
        crashes: 1,
        ticks: 1,
        ..Budget::default()
    };
    let mut world = serving(2, budget, without);
    world.happen(&Action::Suspect { node: 1 });
    world.happen(&Action::Trust { node: 1 });
    world.look(0);
    world.requests_answered(0);
    world.look(1);
    world.asks_arrive(0, 1);
    world.answers_arrive(1, 0);
    world.requests_apply(0);
    world.happen(&Action::Propose { node: 0 });
    world.happen(&Action::HandOver { to: 1 });
    world.happen(&Action::Suspect { node: 0 });
    world.look(1);
    world.journal(1);
    world.requests_answered(1);
    world.happen(&Action::Propose { node: 1 });
    world.journal(1);
    world.happen(&Action::Crash { node: 1, written: true });
    world.happen(&Action::Restart { node: 1, empty: false });
    world.happen(&Action::View { node: 1, epoch: Epoch(3) });
    world.asks_arrive(0, 1);
    world.journal(1);
    world.happen(&Action::Join { node: 1 });
    world
}

/// A primary was deposed, and what it sent last comes late to a backup of its successor.
fn deposed(without: &[Rule]) -> World {
    let budget = Budget { operations: operations("s"), suspicions: 2, ..Budget::default() };
    let mut world = serving(3, budget, without);
    world.happen(&Action::Propose { node: 0 });
    world.happen(&Action::Suspect { node: 0 });
    world.look(1);
    world.look(2);
    world.asks_arrive(1, 2);
    world.journal(1);
    world.journal(2);
    world.answers_arrive(2, 1);
    world.requests_answered(1);
    world.look(2);
    world.asks_arrive(0, 2);
    world.journal(2);
    world
}

/// What was only in memory is lost with the memory of all that counted, but for one that had been left out.
fn memory_lost(without: &[Rule]) -> World {
    let budget = Budget { operations: operations("m"), suspicions: 1, crashes: 1, ticks: 1, ..Budget::default() };
    let mut world = serving(2, budget, without);
    world.happen(&Action::Propose { node: 0 });
    world.asks_arrive(0, 1);
    world.answers_arrive(1, 0);
    world.happen(&Action::Time { node: 0 });
    world.asks_arrive(0, 1);
    world.happen(&Action::Suspect { node: 1 });
    world.look(0);
    world.requests_answered(0);
    world.happen(&Action::Crash { node: 0, written: false });
    world.happen(&Action::Restart { node: 0, empty: false });
    world.happen(&Action::Join { node: 0 });
    world
}

/// A successor is named, of which a backup does not know.
fn unknown_successor(without: &[Rule]) -> World {
    let budget = Budget { operations: operations("ss"), hand_overs: 1, suspicions: 1, ..Budget::default() };
    let mut world = serving(3, budget, without);
    world.happen(&Action::HandOver { to: 1 });
    world.look(1);
    world
}

/// A request to grow, of unknown outcome, was void when it was repeated: its learner is not counted any more.
fn given_up(without: &[Rule]) -> World {
    let budget = Budget { operations: operations("s"), suspicions: 2, unknowns: 1, forgotten: 1, ..Budget::default() };
    let mut world = world(2, 1, budget, without);
    world.look(0);
    world.look(1);
    world.journal(0);
    world.asks_arrive(0, 1);
    world.journal(1);
    world.answers_arrive(1, 0);
    world.requests_unknown(0);
    world.happen(&Action::Suspect { node: 1 });
    world.requests_apply(0);
    world.outcomes_arrive(0);
    world.happen(&Action::Trust { node: 1 });
    world
}

/// A primary alone, and a learner that it grows the set by.
fn growing(without: &[Rule]) -> World {
    world(2, 1, Budget { operations: operations("s"), suspicions: 1, ..Budget::default() }, without)
}

/// Two that hold everything, either of which may be slow or thought to be down.
fn shrinking(without: &[Rule]) -> World {
    world(2, 2, Budget { operations: operations("s"), suspicions: 1, ticks: 1, ..Budget::default() }, without)
}

/// Two that hold everything, either of which may crash.
fn crashing(without: &[Rule]) -> World {
    world(2, 2, Budget { operations: operations("s"), crashes: 1, ..Budget::default() }, without)
}

/// Both of two acknowledged an operation; then one may crash, and one be thought to be down.
fn acknowledged_by_both(without: &[Rule]) -> World {
    acknowledged(Budget { suspicions: 1, crashes: 1, ..Budget::default() }, without)
}

/// Both of two acknowledged an operation; then both crash, and one of them loses its journal.
fn two_crashes_and_a_lost_journal(without: &[Rule]) -> World {
    acknowledged(Budget { crashes: 2, amnesias: 1, ..Budget::default() }, without)
}

type Begin = fn(&[Rule]) -> World;

const LACKS: &str = "a holder lacks what was acknowledged";
const LOST: &str = "a new primary serves without what was acknowledged";
const DIFFERENT: &str = "two different records were committed in one place";
const ASSERTION: &str = "an assertion of the machine failed";

/// The rules without which something goes wrong, and how that shows first.
const NEEDED: [(Rule, Begin, &str); 15] = [
    (Rule::ServeAsNamed, crashing, ASSERTION),
    (Rule::GrowCountsFromProposal, growing, LACKS),
    (Rule::GrowHoldsCommitted, growing, LACKS),
    (Rule::LeavingCountsUntilConfirmed, shrinking, LACKS),
    (Rule::OlderEpochRefused, deposed, DIFFERENT),
    (Rule::OwnRecordsAreNotNewer, restarted_behind_its_records, LACKS),
    (Rule::NewerEpochAwaitsView, unknown_successor, ASSERTION),
    (Rule::CommittedIsNeverCut, memory_lost, ASSERTION),
    (Rule::FirstRecordBeforeServing, acknowledged_by_both, LOST),
    (Rule::EveryMemberHolds, crashing, LACKS),
    (Rule::BackupSyncs, two_crashes_and_a_lost_journal, LACKS),
    (Rule::PrimarySyncs, acknowledged_by_both, LACKS),
    (Rule::PositionsMatch, crashing, DIFFERENT),
    (Rule::ReignBeginsAnew, primary_again, LACKS),
    (Rule::CutIsNotDurable, cut_while_journalling, DIFFERENT),
];

/// The rules that no run was found to need, as the others are: belts beside braces.
///
/// * An answer from another run of a member: that run takes nothing while the earlier one counts, and what it holds
///   it holds.
/// * Nothing taken beside an earlier run that counts: that one confirmed nothing before its first record was durable, and
///   whoever holds that refuses what is older.
/// * Held, and committed, only where compared: a primary's first append to whoever differs from it always has the
///   first record in which they differ, for that is how it searches.
/// * No state for members: what members hold is never beyond what is kept.
const NOT_SHOWN: [Rule; 5] = [
    Rule::AnswerAsNamed,
    Rule::EarlierRunHasLeft,
    Rule::HeldWhereCompared,
    Rule::CommittedWhereCompared,
    Rule::MembersTakeNoState,
];

/// What may happen in the worlds that are looked at to their end.
fn small_worlds() -> Vec<(&'static str, World)> {
    let crash = Budget { crashes: 1, calls: Some(MOST_CALLS), ..Budget::default() };
    let suspicion = Budget { suspicions: 1, ..Budget { crashes: 0, ..crash.clone() } };
    let with = |kinds: &str, budget: &Budget| Budget { operations: operations(kinds), ..budget.clone() };
    let slow = Budget { ticks: 2, suspicions: 0, ..suspicion.clone() };
    let handed_over = Budget { hand_overs: 1, duplicates: 2, suspicions: 0, ..suspicion.clone() };
    let handed_over_once = Budget { duplicates: 0, ..handed_over.clone() };
    let world = |nodes, in_sync, budget| world(nodes, in_sync, budget, &[]);
    vec![
        ("two copies, two operations, a crash", world(2, 2, with("ss", &crash))),
        ("two copies, two operations, a suspicion", world(2, 2, with("sm", &suspicion))),
        ("two copies, an operation, two time-outs", world(2, 2, with("s", &slow))),
        ("two copies, an operation, a hand-over, two duplicates", world(2, 2, with("s", &handed_over))),
        ("three copies, an operation, a hand-over", world(3, 3, with("s", &handed_over_once))),
        ("a learner, an operation, a suspicion", world(2, 1, with("s", &suspicion))),
        ("a learner, an operation, a crash", world(2, 1, with("s", &crash))),
        ("three copies, an operation, a suspicion", world(3, 3, with("s", &suspicion))),
    ]
}

#[test]
fn nothing_goes_wrong_in_any_run_of_a_small_cluster() {
    for (name, begin) in small_worlds() {
        let found = check(begin, MOST_OF_A_SMALL_WORLD);
        eprintln!("{name}: {} states, depth {}", found.states, found.depth);
        assert_eq!(found.wrong, None, "{name}: {found:?}");
        assert!(found.exhausted, "{name}: {found:?}");
    }
}

#[test]
fn a_journal_that_is_lost_while_another_copy_counts_costs_nothing() {
    let budget = Budget { crashes: 1, amnesias: 1, suspicions: 1, calls: Some(MOST_CALLS), ..Budget::default() };
    let found = check(acknowledged(budget, &[]), MOST_WITH_A_LOST_JOURNAL);
    assert_eq!(found.wrong, None, "{found:?}");
}

/// A machine that makes more calls than these in a small world talks without end.
const MOST_CALLS: u64 = 30;
/// More states than a small world has: the greatest was seen to have 943,164, all together 1,498,000.
const MOST_OF_A_SMALL_WORLD: usize = 6_000_000;
/// So many are looked at of a world that is too great to be looked at to its end.
const MOST_WITH_A_LOST_JOURNAL: usize = 400_000;
/// More runs than a mutant takes to go wrong.
const MOST_OF_A_MUTANT: usize = 150_000;
/// So many are looked at to see that nothing goes wrong there with all rules.
const MOST_OF_A_BEGINNING: usize = 30_000;

#[test]
fn without_any_one_of_the_rules_something_goes_wrong() {
    let mut others = Vec::new();
    for (rule, begin, wrong) in NEEDED {
        let found = check(begin(&[rule]), MOST_OF_A_MUTANT);
        if found.wrong != Some(wrong) {
            others.push((rule, found));
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    let all: BTreeSet<Rule> = NEEDED.iter().map(|(rule, ..)| *rule).chain(NOT_SHOWN).collect();
    assert_eq!(all, Rule::ALL.into_iter().collect(), "each rule is accounted for");
}

#[test]
fn with_all_rules_nothing_goes_wrong_where_mutants_do() {
    let begins: [Begin; 9] = [
        two_crashes_and_a_lost_journal,
        cut_while_journalling,
        primary_again,
        restarted_behind_its_records,
        deposed,
        memory_lost,
        unknown_successor,
        growing,
        acknowledged_by_both,
    ];
    for (at, begin) in begins.into_iter().enumerate() {
        let found = check(begin(&[]), MOST_OF_A_BEGINNING);
        assert_eq!(found.wrong, None, "beginning {at}: {found:?}");
    }
}

#[test]
fn a_request_that_is_applied_twice_under_one_number_loses_what_was_acknowledged() {
    let found = check(given_up(&[]), MOST_OF_A_MUTANT);
    assert_eq!(found.wrong, Some(LACKS), "the control plane's memory is part of the protocol: {found:?}");
}
