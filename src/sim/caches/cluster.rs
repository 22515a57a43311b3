//! The cache on the real nodes, in simulation.

use futures::{FutureExt, future::BoxFuture};

use super::{
    api::{self, Answer, Ask, CacheService},
    workload::{Kept, Workload},
};
use crate::{
    mutant::{self, Mutant},
    node::{
        Node,
        caches::{Protocol, WritePolicy},
    },
    sim::{
        faults::{FaultKind, FaultPlan},
        machine::{self, CachePlan, ClusterPlan, Latecomers, Serves, show_logs},
        network::{Happened, Weather},
        run::{RunPlan, expect_all_pass, expect_caught, expect_nothing_wrong, seeds},
        violation::Violation,
        world::Site,
    },
};

/// Seeds of an ordinary run. `docs/verification.md` tells of longer ones.
const SEEDS: u64 = 10;
/// Seeds after which a mutant that nothing noticed has survived.
const MUTANT_SEEDS: u64 = 100;

impl Serves for CacheService {
    fn perform(node: &Node, ask: Ask, _key: Option<String>) -> BoxFuture<'static, Answer> {
        let caches = node.caches();
        async move { api::perform(&caches, ask).await }.boxed()
    }
}

fn cluster<W>(plan: &RunPlan<W>, protocol: Protocol, policy: WritePolicy) -> Site<CacheService> {
    machine::cluster(ClusterPlan {
        founders: plan.founders,
        latecomers: Latecomers::Workers,
        queues: None,
        caches: Some(CachePlan { protocol, policy }),
    })
}

/// Three lock managers that are cache nodes, and one or two machines that come later and are cache nodes only.
fn plan(seed: u64) -> RunPlan<Workload> {
    let mix = vec![
        (FaultKind::Kill, 5),
        (FaultKind::Bounce, 2),
        (FaultKind::KillAll, 1),
        (FaultKind::Stop, 5),
        (FaultKind::Suspend, 3),
        (FaultKind::Retire, 3),
        (FaultKind::Leave, 2),
        (FaultKind::Partition, 4),
        (FaultKind::OneWay, 4),
        (FaultKind::Cut, 4),
        (FaultKind::Loss, 2),
        (FaultKind::Slow, 2),
        (FaultKind::Duplicate, 2),
        (FaultKind::WallJump, 1),
    ];
    let faults = FaultPlan {
        mix,
        gap_ms: 300..=3_000,
        lasts_ms: 500..=4_500,
        leader_percent: 40,
        expendable_from: 3,
        ..FaultPlan::default()
    };
    RunPlan {
        machines: 4 + usize::try_from(seed % 2).expect("0 or 1"),
        arrive_every_ms: 1_500,
        wall_offset_ms: 20,
        form_ms: 4_000,
        ordeal_ms: 20_000,
        calm_ms: 10_000,
        faults,
        ..RunPlan::default()
    }
}

/// The same, and no gossip ever arrives.
fn without_gossip(seed: u64) -> RunPlan<Workload> {
    RunPlan { weather: Weather { gossip_loss: 1.0, ..Weather::rough() }, ..plan(seed) }
}

fn survive(plan: fn(u64) -> RunPlan<Workload>, protocol: Protocol, policy: WritePolicy) {
    show_logs();
    let happened = expect_all_pass(&seeds(SEEDS), plan, |plan| cluster(plan, protocol, policy));
    assert!(happened.of(Happened::GossipSent) > 0, "nothing was said: {happened}");
}

#[test]
fn no_read_is_older_whatever_happens_to_the_nodes_of_a_mesi_cache() {
    survive(plan, Protocol::Mesi, WritePolicy::Back);
}

#[test]
fn no_read_is_older_whatever_happens_to_the_nodes_of_a_moesi_cache() {
    survive(plan, Protocol::Moesi, WritePolicy::Back);
}

#[test]
fn no_read_is_older_whatever_happens_to_the_nodes_of_a_mosi_cache_that_writes_through() {
    survive(plan, Protocol::Mosi, WritePolicy::Through);
}

#[test]
fn no_read_is_older_where_no_gossip_arrives() {
    survive(without_gossip, Protocol::Mesi, WritePolicy::Back);
}

/// Nobody dies and nothing is lost but gossip; two nodes join, and take their shares of the slots.
fn growing(_: u64) -> RunPlan<Kept> {
    let weather = Weather { gossip_loss: 0.2, duplicate: 0.02, delay_us: 200..=8_000, ..Weather::calm() };
    let faults = FaultPlan { mix: vec![(FaultKind::Duplicate, 1), (FaultKind::WallJump, 1)], ..FaultPlan::default() };
    let workload = Kept(Workload { keys: 24, ..Workload::default() });
    RunPlan {
        machines: 5,
        arrive_every_ms: 1_500,
        wall_offset_ms: 20,
        form_ms: 4_000,
        ordeal_ms: 12_000,
        calm_ms: 6_000,
        weather,
        faults,
        workload,
        ..RunPlan::default()
    }
}

#[test]
fn no_value_is_gone_where_nodes_only_join() {
    show_logs();
    for (protocol, policy) in [(Protocol::Mesi, WritePolicy::Back), (Protocol::Moesi, WritePolicy::Through)] {
        expect_all_pass(&seeds(SEEDS / 4), growing, |plan| cluster(plan, protocol, policy));
    }
}

/// The same nodes, seeds and checkers with one guarantee switched off; the seed that shows it passes with the guarantee.
fn is_caught(mutant: Mutant, plan: fn(u64) -> RunPlan<Workload>) {
    show_logs();
    let site = |plan: &RunPlan<Workload>| cluster(plan, Protocol::Mesi, WritePolicy::Back);
    let found = |violation: &Violation| matches!(violation, Violation::NotLinearizable(_) | Violation::Order(_));
    let seed = mutant::with(Some(mutant), || expect_caught(&seeds(MUTANT_SEEDS), plan, site, found));
    expect_nothing_wrong(seed, plan, site);
}

/// Homes that are cut off, or do not run, for so long that others take their place, while clients still reach them.
fn deposed(seed: u64) -> RunPlan<Workload> {
    let mix = vec![
        (FaultKind::Partition, 4),
        (FaultKind::OneWay, 2),
        (FaultKind::Cut, 2),
        (FaultKind::Stop, 2),
        (FaultKind::Suspend, 1),
    ];
    let ordinary = plan(seed);
    RunPlan { faults: FaultPlan { mix, lasts_ms: 3_000..=6_000, ..ordinary.faults }, ..ordinary }
}

/// Homes that are cut off for as long as it takes to replace them, while clients stay with them and read what they have.
fn cut_off(seed: u64) -> RunPlan<Workload> {
    let mix = vec![(FaultKind::Partition, 4), (FaultKind::Cut, 2)];
    let ordinary = plan(seed);
    let workload = Workload { clients: 10, keys: 12, think_ms: 0..=15, moves_percent: 2, ..Workload::default() };
    let faults = FaultPlan { mix, gap_ms: 500..=1_500, lasts_ms: 3_000..=5_000, ..ordinary.faults };
    RunPlan { faults, workload, ..ordinary }
}

#[test]
fn a_cache_that_reads_lines_after_their_session_is_caught() {
    is_caught(Mutant::LinesOutliveSessions, deposed);
}

#[test]
fn a_home_that_goes_on_after_its_lease_is_caught() {
    is_caught(Mutant::HomesOutliveLeases, deposed);
}

#[test]
#[ignore = "takes some thirty seeds, a minute and a half: on demand, see docs/verification.md"]
fn a_home_that_does_not_wait_for_the_one_before_is_caught() {
    is_caught(Mutant::SuccessorsDoNotWait, cut_off);
}

#[test]
fn a_cache_that_reads_what_it_gave_up_is_caught() {
    is_caught(Mutant::DroppedLinesAreRead, plan);
}
