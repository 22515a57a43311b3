//! Every run of a small [`World`], by the model checker: nothing goes wrong in any of them; and with one rule taken
//! away, something does.
//!
//! Where it takes too many steps from the beginning to the point at which a rule matters, the world begins shortly
//! before that. Without a rule taken away nothing goes wrong from there on either, as far as the checker looks.

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{
    Durability::{self, InMemory, Synced},
    Settings,
    rules::Rule,
    world::{Action, Budget, World},
};
use crate::ids::Epoch;

/// Worlds that begin like this one.
#[derive(Clone, Debug)]
struct Runs {
    begin: World,
}

impl Model for Runs {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.happen(&action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing goes wrong", |_, world: &World| world.wrong.is_none())]
    }
}

/// What the checker found out.
#[derive(Debug)]
struct Found {
    wrong: Option<&'static str>,
    steps: usize,
    states: usize,
    depth: usize,
    exhausted: bool,
}

fn check(begin: World, most_states: usize) -> Found {
    let checker = Runs { begin }
        .checker()
        .threads(2)
        .target_state_count(most_states)
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let path = checker.discovery("nothing goes wrong");
    Found {
        wrong: path.as_ref().and_then(|path| path.last_state().wrong),
        steps: path.map_or(0, |path| path.into_actions().len()),
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: checker.state_count() < most_states,
    }
}

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

/// A deposed primary cuts what it had begun to journal, and takes what its successor says.
fn cut_while_journalling(without: &[Rule]) -> World {
    let budget =
        Budget { operations: operations("sss"), hand_overs: 1, crashes: 1, suspicions: 1, ..Budget::default() };
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

/// The only one left had committed what a primary before it left, and restarts without its own first record.
fn restarted_beside_its_earlier_run(without: &[Rule]) -> World {
    let budget = Budget { operations: operations("s"), hand_overs: 2, suspicions: 2, crashes: 1, ..Budget::default() };
    let mut world = serving(3, budget, without);
    world.happen(&Action::Propose { node: 0 });
    world.asks_arrive(0, 2);
    world.journal(2);
    world.happen(&Action::HandOver { to: 1 });
    world.look(1);
    world.happen(&Action::HandOver { to: 2 });
    world.happen(&Action::Suspect { node: 0 });
    world.happen(&Action::Suspect { node: 1 });
    world.look(2);
    world.happen(&Action::Crash { node: 2, written: false });
    world.happen(&Action::Restart { node: 2, empty: false });
    world.happen(&Action::View { node: 2, epoch: Epoch(2) });
    world.asks_arrive(1, 2);
    world.journal(2);
    world.happen(&Action::Join { node: 2 });
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
    world.look(1);
    world.asks_arrive(0, 1);
    world.answers_arrive(1, 0);
    world.requests_apply(0);
    world.happen(&Action::Propose { node: 0 });
    world.happen(&Action::HandOver { to: 1 });
    world.happen(&Action::Suspect { node: 0 });
    world.look(1);
    world.journal(1);
    world.happen(&Action::Propose { node: 1 });
    world.journal(1);
    world.happen(&Action::Crash { node: 1, written: true });
    world.happen(&Action::Restart { node: 1, empty: false });
    world.happen(&Action::View { node: 1, epoch: Epoch(2) });
    world.asks_arrive(0, 1);
    world.journal(1);
    world.happen(&Action::Join { node: 1 });
    world
}

/// A primary was deposed, and what it sent last is still under way to a backup of its successor.
fn deposed(without: &[Rule]) -> World {
    let budget = Budget { operations: operations("ss"), suspicions: 2, ..Budget::default() };
    let mut world = serving(3, budget, without);
    world.happen(&Action::Propose { node: 0 });
    world.happen(&Action::Suspect { node: 0 });
    world.look(1);
    world.look(2);
    world.asks_arrive(1, 2);
    world.journal(1);
    world.journal(2);
    world.answers_arrive(2, 1);
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

#[test]
fn hunt() {
    let most = std::env::var("MOST").map_or(100_000, |t| t.parse().unwrap());
    let all: Vec<(&str, fn(&[Rule]) -> World, Vec<Rule>)> = vec![
        ("cut", cut_while_journalling, vec![Rule::CutIsNotDurable]),
        ("again", primary_again, vec![Rule::ReignBeginsAnew]),
        ("beside", restarted_beside_its_earlier_run, vec![Rule::EarlierRunHasLeft]),
        ("behind", restarted_behind_its_records, vec![Rule::OwnRecordsAreNotNewer]),
        ("deposed", deposed, vec![Rule::OlderEpochRefused]),
        ("memory", memory_lost, vec![Rule::CommittedIsNeverCut]),
        ("unknown", unknown_successor, vec![Rule::NewerEpochAwaitsView, Rule::PositionsMatch]),
        ("given up", given_up, vec![]),
        (
            "ack",
            |w| acknowledged(Budget { suspicions: 1, crashes: 1, ..Budget::default() }, w),
            vec![
                Rule::BackupSyncs,
                Rule::PrimarySyncs,
                Rule::FirstRecordBeforeServing,
                Rule::EveryMemberHolds,
                Rule::PositionsMatch,
            ],
        ),
    ];
    for (name, begin, rules) in all {
        if std::env::var("WORLD").is_ok_and(|only| only != name) {
            continue;
        }
        let plain = begin(&[]);
        println!("HUNT {name} begins {}", plain.summary());
        println!("HUNT {name} plain: {:?}", check(plain, most));
        for rule in rules {
            println!("HUNT {name} {rule:?}: {:?}", check(begin(&[rule]), most));
        }
    }
    let _ = Epoch(1);
}
