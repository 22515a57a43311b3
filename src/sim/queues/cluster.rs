//! Queues on the real nodes, in simulation.

use futures::{FutureExt, future::BoxFuture};

use super::{
    api::{self, Answer, Ask, QueueService},
    workload::Workload,
};
use crate::{
    mutant::{self, Mutant},
    node::Node,
    sim::{
        faults::{FaultKind, FaultPlan},
        machine::{self, ClusterPlan, Latecomers, QueuePlan, Serves, show_logs},
        network::Happened,
        run::{RunPlan, every_second, expect_all_pass, expect_caught, expect_nothing_wrong, seeds},
        violation::Violation,
        world::Site,
    },
};

/// Seeds of an ordinary run, so many that more than two hundred count. `docs/verification.md` tells of longer ones.
const SEEDS: u64 = 240;
/// Seeds after which a mutant that nothing noticed has survived.
const MUTANT_SEEDS: u64 = 60;

impl Serves for QueueService {
    fn perform(node: &Node, ask: Ask, _key: Option<String>) -> BoxFuture<'static, Answer> {
        let queues = node.queues();
        async move { api::perform(&queues, ask).await }.boxed()
    }
}

fn cluster(plan: &RunPlan<Workload>) -> Site<QueueService> {
    machine::cluster(ClusterPlan {
        founders: plan.founders,
        latecomers: Latecomers::Workers,
        queues: Some(QueuePlan { partitions: 4, replicas: 2, keep_records: 40 }),
        caches: None,
    })
}

/// Three lock managers that keep queues, and one or two machines that come later and keep queues only.
fn plan(seed: u64) -> RunPlan<Workload> {
    let mix = vec![
        (FaultKind::Kill, 5),
        (FaultKind::Bounce, 2),
        (FaultKind::KillAll, 2),
        (FaultKind::Stop, 4),
        (FaultKind::Suspend, 2),
        (FaultKind::Retire, 2),
        (FaultKind::Wipe, 1),
        (FaultKind::Leave, 2),
        (FaultKind::Partition, 4),
        (FaultKind::OneWay, 4),
        (FaultKind::Cut, 3),
        (FaultKind::Loss, 2),
        (FaultKind::Slow, 2),
        (FaultKind::Duplicate, 2),
        (FaultKind::WallJump, 1),
        (FaultKind::JournalAway, 3),
        (FaultKind::JournalCut, 2),
        (FaultKind::JournalBehind, 2),
        (FaultKind::JournalEmpty, 2),
        (FaultKind::Stranded, 1),
    ];
    let faults = FaultPlan {
        mix,
        gap_ms: 300..=2_500,
        lasts_ms: 500..=2_500,
        leader_percent: 60,
        expendable_from: 3,
        jump_percent: 20,
    };
    RunPlan {
        machines: 4 + usize::try_from(seed % 2).expect("0 or 1"),
        arrive_every_ms: 300,
        wall_offset_ms: 20,
        form_ms: 2_500,
        ordeal_ms: 10_000,
        calm_ms: 1_000,
        faults,
        ..RunPlan::default()
    }
}

/// Primaries that are cut off for so long that others take their place, while clients still reach them.
fn deposed(seed: u64) -> RunPlan<Workload> {
    let mix = vec![(FaultKind::Partition, 4), (FaultKind::Cut, 1), (FaultKind::OneWay, 1)];
    with_faults(seed, FaultPlan { mix, lasts_ms: 2_500..=4_500, ..plan(seed).faults })
}

/// Journals that come back with less while the only other one stays away, over and over.
fn stranded(seed: u64) -> RunPlan<Workload> {
    let mix = vec![(FaultKind::Stranded, 4), (FaultKind::JournalBehind, 1)];
    with_faults(seed, FaultPlan { mix, gap_ms: 200..=1_500, ..plan(seed).faults })
}

fn with_faults(seed: u64, faults: FaultPlan) -> RunPlan<Workload> {
    RunPlan { faults, ..plan(seed) }
}

/// The same nodes, seeds and checkers with one guarantee switched off; the seed that shows it passes with the
/// guarantee.
fn is_caught(mutant: Mutant, plan: fn(u64) -> RunPlan<Workload>) {
    show_logs();
    let found = |violation: &Violation| !matches!(violation, Violation::NoProgress(_));
    let seed = mutant::with(Some(mutant), || expect_caught(&seeds(MUTANT_SEEDS), plan, cluster, found));
    expect_nothing_wrong(seed, plan, cluster);
}

fn survive(seeds: Vec<u64>) {
    show_logs();
    let happened = expect_all_pass(&seeds, plan, cluster).happened;
    assert!(
        happened.of(Happened::PrimaryChanged) as usize >= seeds.len(),
        "the partitions hardly changed hands in these runs: {happened}"
    );
}

#[test]
fn queues_survive_everything_that_can_happen_to_their_nodes() {
    survive(every_second(SEEDS, 0));
}

#[test]
fn queues_survive_everything_else_that_can_happen() {
    survive(every_second(SEEDS, 1));
}

#[test]
fn a_primary_that_does_not_wait_for_the_others_is_caught() {
    is_caught(Mutant::CommittedByPrimaryAlone, plan);
}

#[test]
fn a_primary_that_goes_on_without_a_copy_before_it_may_is_caught() {
    is_caught(Mutant::ShrinkCountsFromProposal, deposed);
}

#[test]
fn an_ack_that_is_answered_too_early_is_caught() {
    is_caught(Mutant::AckedBeforeCommit, plan);
}

#[test]
fn a_journal_that_lost_its_tail_and_is_trusted_is_caught() {
    is_caught(Mutant::ShortenedJournalTrusted, stranded);
}
