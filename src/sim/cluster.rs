//! Locks on the real nodes, in simulation.

use futures::{FutureExt, future::BoxFuture};

use super::{
    api::{self, Answer, Ask, LockService},
    faults::{FaultKind, FaultPlan},
    machine::{self, ClusterPlan, Latecomers, Serves, show_logs},
    network::Happened,
    run::{RunPlan, every_second, expect_all_pass, expect_caught, expect_nothing_wrong, seeds},
    violation::Violation,
    workload::Workload,
    world::Site,
};
use crate::{
    mutant::{self, Mutant},
    node::Node,
};

/// Seeds of an ordinary run. `docs/verification.md` tells of longer ones.
const SEEDS: u64 = 200;
/// Seeds after which a mutant that nothing noticed has survived.
const MUTANT_SEEDS: u64 = 200;

impl Serves for LockService {
    fn perform(node: &Node, ask: Ask, key: Option<String>) -> BoxFuture<'static, Answer> {
        let locks = node.locks();
        async move { api::perform(&locks, ask, key).await }.boxed()
    }
}

fn cluster(plan: &RunPlan<Workload>) -> Site<LockService> {
    machine::cluster(ClusterPlan {
        founders: plan.founders,
        latecomers: Latecomers::LockManagers,
        queues: None,
        caches: None,
    })
}

/// Three machines stay three, or four or five in the end.
fn with_emptied_disks(seed: u64) -> RunPlan<Workload> {
    RunPlan { machines: 3 + usize::try_from(seed % 3).expect("less than 3"), ..RunPlan::default() }
}

/// The same with disks that keep what was synced.
fn plan(seed: u64) -> RunPlan<Workload> {
    let mut plan = with_emptied_disks(seed);
    plan.faults.mix.retain(|(kind, _)| *kind != FaultKind::Wipe);
    plan
}

fn survive(seeds: Vec<u64>, plan: fn(u64) -> RunPlan<Workload>) {
    show_logs();
    let happened = expect_all_pass(&seeds, plan, cluster).happened;
    assert!(
        happened.of(Happened::VotersChanged) as usize >= seeds.len() / 2,
        "the voters hardly changed in these runs: {happened}"
    );
}

#[test]
fn locks_survive_everything_that_can_happen_to_their_lock_managers() {
    survive(every_second(SEEDS, 0), plan);
}

#[test]
fn locks_survive_everything_else_that_can_happen() {
    survive(every_second(SEEDS, 1), plan);
}

#[test]
#[ignore = "takes as long as the two above: on demand, see docs/verification.md"]
fn locks_survive_lock_managers_that_lose_their_disks() {
    survive(seeds(SEEDS), with_emptied_disks);
}

/// Elections whose winner is cut off at once, over and over.
fn overthrown(seed: u64) -> RunPlan<Workload> {
    let mix = vec![(FaultKind::Coup, 6), (FaultKind::Bounce, 2), (FaultKind::Kill, 2), (FaultKind::Cut, 1)];
    let faults = FaultPlan { mix, gap_ms: 300..=2_500, ..FaultPlan::default() };
    RunPlan { faults, machines: 3, ..plan(seed) }
}

/// The same nodes, seeds and checkers with one guarantee switched off; the seed that shows it passes
/// with the guarantee.
fn is_caught(mutant: Mutant, plan: fn(u64) -> RunPlan<Workload>) {
    show_logs();
    let found = |violation: &Violation| !matches!(violation, Violation::NoProgress(_));
    let seed = mutant::with(Some(mutant), || expect_caught(&seeds(MUTANT_SEEDS), plan, cluster, found));
    expect_nothing_wrong(seed, plan, cluster);
}

#[test]
fn a_lock_manager_that_grants_to_dead_sessions_is_caught() {
    is_caught(Mutant::NoSessionCheckAtApply, plan);
}

#[test]
fn a_lock_manager_whose_tokens_begin_again_is_caught() {
    is_caught(Mutant::TokenCounterRestarts, plan);
}

#[test]
fn a_lock_manager_that_forgets_its_votes_is_caught() {
    is_caught(Mutant::VotesForgottenOnRestart, overthrown);
}
