//! One run from a seed, what came of it, and many runs.
//!
//! `SIM_SEED=n` runs just that seed, `SIM_SEEDS=n` the first n (a test names its default).

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt,
};

use super::{
    api::{Answer, Door},
    check::{Violation, check},
    faults::{FaultKind, FaultPlan, Ordeal, Schedule, Window},
    history::{Record, Recorder},
    network::{Happened, Tally, Weather},
    workload::{Scene, Workload},
    world::{Boot, World},
};
use crate::ids::NodeId;

/// Of so many runs one may be such that its faults did not happen as planned.
const WORTHLESS_SHARE: usize = 20;

/// What a run consists of.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// How many machines there are in the end.
    pub machines: usize,
    /// So many are there from the beginning. The others come one by one while things go wrong.
    pub founders: usize,
    /// How long the nodes have to form a cluster before the clients come, in milliseconds.
    pub form_ms: u64,
    /// How long the faults go on, in milliseconds.
    pub ordeal_ms: u64,
    /// How long the clients go on without faults; in it the service must be back, in milliseconds.
    pub calm_ms: u64,
    /// The network without faults.
    pub weather: Weather,
    /// The faults.
    pub faults: FaultPlan,
    /// The clients.
    pub workload: Workload,
}

impl Default for RunPlan {
    fn default() -> Self {
        Self {
            machines: 3,
            founders: 3,
            form_ms: 5_000,
            ordeal_ms: 20_000,
            calm_ms: 8_000,
            weather: Weather::rough(),
            faults: FaultPlan::default(),
            workload: Workload::default(),
        }
    }
}

/// What came of a run.
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What was planned to go wrong.
    pub schedule: Schedule,
    /// What did go wrong, when.
    pub windows: Vec<Window>,
    /// What happened to messages and processes.
    pub tally: Tally,
    /// What the clients saw.
    pub history: Vec<Record>,
    /// From when on there were no faults, in milliseconds of true time.
    pub calm_from_ms: u64,
    /// What is wrong with it.
    pub violations: Vec<Violation>,
}

/// Runs one seed and judges it.
pub fn run(seed: u64, plan: &RunPlan, boot: Boot) -> Report {
    let mut world = World::new(seed, plan.machines, plan.weather.clone(), boot);
    (0..plan.founders).for_each(|index| world.start(index));
    world.run_for(plan.form_ms);

    let calm_from_ms = plan.form_ms + plan.ordeal_ms;
    let schedule = Schedule::draw(seed, &plan.faults, plan.machines, plan.form_ms, calm_from_ms);
    let mut ordeal = Ordeal::new(schedule.clone(), plan.weather.clone(), calm_from_ms);
    let recorder = Recorder::new(world.time().clone());
    let doors = (0..plan.machines).map(|index| world.door(index)).collect();
    let until_ms = calm_from_ms + plan.calm_ms;
    let scene = Scene::new(plan.workload.clone(), doors, world.time().clone(), recorder.clone(), until_ms);
    let clients: Vec<_> = (0..plan.workload.clients)
        .map(|number| world.spawn_client(std::sync::Arc::clone(&scene).client(number, seed)))
        .collect();
    let mut latecomers =
        (plan.founders..plan.machines).map(|index| (plan.form_ms + arrival_ms(index), index)).peekable();
    let mut voters = BTreeSet::new();
    while world.time().now_ms() < until_ms {
        while let Some((_, index)) = latecomers.next_if(|(at_ms, _)| *at_ms <= world.time().now_ms()) {
            world.start(index);
        }
        ordeal.turn(&mut world);
        world.step();
        watch_voters(&world, &mut voters);
    }
    let last_words_ms = 6 * plan.workload.patience_ms;
    let ended = world.run_until(last_words_ms, |_| clients.iter().all(tokio::task::JoinHandle::is_finished));
    assert!(ended, "seed {seed}: a client did not end");

    let history = recorder.history();
    let (windows, tally) = (ordeal.windows().to_vec(), world.network().tally());
    let mut report = Report { seed, schedule, windows, tally, history, calm_from_ms, violations: Vec::new() };
    report.violations = check(&report.history);
    report.violations.extend(world.failures().iter().cloned().map(Violation::NodeFailed));
    if report.grants_since(calm_from_ms) == 0 {
        report.violations.push(Violation::NoProgress("no lock was granted after the faults were over".into()));
    }
    report
}

/// When a machine that is not there from the beginning comes, in milliseconds from when the clients do.
fn arrival_ms(index: usize) -> u64 {
    index as u64 * 700
}

/// Counts changes of the voters, as whoever leads knows them.
fn watch_voters(world: &World, known: &mut BTreeSet<NodeId>) {
    let leader = world.running().into_iter().map(|index| world.door(index)).find(Door::leads);
    let now = leader.map(|door| door.voters()).unwrap_or_default();
    if !now.is_empty() && *known != now {
        if !known.is_empty() {
            world.network().count(Happened::VotersChanged);
        }
        *known = now;
    }
}

impl Report {
    /// Fault windows and the operations that overlapped them, by kind.
    pub fn overlaps(&self) -> BTreeMap<FaultKind, (usize, usize)> {
        let mut overlaps = BTreeMap::new();
        for window in &self.windows {
            let during = |record: &&Record| {
                let returned = record.returned.is_none_or(|returned| returned.ms >= window.from_ms);
                record.invoked.ms <= window.until_ms && returned
            };
            let (windows, operations): &mut (usize, usize) = overlaps.entry(window.kind).or_default();
            *windows += 1;
            *operations += self.history.iter().filter(during).count();
        }
        overlaps
    }

    /// Why the run proves nothing, if it does not: it does not count then, however it ended.
    pub fn worthless(&self) -> Option<String> {
        let overlaps = self.overlaps();
        for (kind, planned) in self.schedule.kinds().into_iter().filter(|(kind, _)| !kind.needs_an_occasion()) {
            let (happened, operations) = overlaps.get(&kind).copied().unwrap_or_default();
            if happened == 0 || operations == 0 {
                return Some(format!("{planned} {kind:?} planned, {happened} happened, over {operations} operations"));
            }
            if let Some(evidence) = kind.evidence().iter().find(|evidence| self.tally.of(**evidence) == 0) {
                return Some(format!("{happened} {kind:?} and no {evidence:?}"));
            }
        }
        let (grants, operations) = (self.grants_since(0), self.history.len());
        (grants < operations / 20).then(|| format!("only {grants} of {operations} operations were grants"))
    }

    fn grants_since(&self, from_ms: u64) -> usize {
        let granted = |r: &&Record| r.invoked.ms >= from_ms && matches!(r.answer, Answer::Granted { .. });
        self.history.iter().filter(granted).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = self.history.iter().filter(|record| record.is_unknown()).count();
        let granted = self.grants_since(0);
        write!(f, "seed {}: {} operations, {granted} grants, {unknown} unknown", self.seed, self.history.len())?;
        write!(f, ", {} of the grants in the calm", self.grants_since(self.calm_from_ms))?;
        for (kind, (windows, operations)) in self.overlaps() {
            write!(f, "; {windows} {kind:?} over {operations}")?;
        }
        write!(f, " [{}]", self.tally)
    }
}

/// The seeds that this test is to run: the first `default_count` unless the environment says otherwise.
pub fn seeds(default_count: u64) -> Vec<u64> {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect("SIM_SEED and SIM_SEEDS are numbers"));
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SIM_SEEDS").unwrap_or(default_count)).collect(),
    }
}

/// Runs these seeds with a fresh cluster each; panics at the first that fails, with everything that is
/// needed to look into it, and if more than one in [`WORTHLESS_SHARE`] does not count, or a kind of
/// fault was in none of those that do. What happened in all of them together.
pub fn expect_all_pass(
    seeds: &[u64],
    plan: impl Fn(u64) -> RunPlan,
    mut cluster: impl FnMut(&RunPlan) -> Boot,
) -> Tally {
    let (mut sum, mut planned) = (Tally::default(), BTreeSet::new());
    let mut seen: BTreeMap<FaultKind, (usize, usize)> = BTreeMap::new();
    let mut worthless = 0;
    for &seed in seeds {
        let plan = plan(seed);
        planned.extend(plan.faults.mix.iter().map(|(kind, _)| *kind));
        let report = run(seed, &plan, cluster(&plan));
        println!("{report}");
        if !report.violations.is_empty() {
            let list: Vec<String> = report.violations.iter().map(|violation| format!("\n  {violation}")).collect();
            panic!("SIM_SEED={seed} fails:{}\nfaults:\n{}", list.concat(), report.schedule);
        }
        if let Some(reason) = report.worthless() {
            println!("seed {seed} does not count: {reason}");
            worthless += 1;
            continue;
        }
        sum.add(&report.tally);
        for (kind, (windows, operations)) in report.overlaps() {
            let sum = seen.entry(kind).or_default();
            *sum = (sum.0 + windows, sum.1 + operations);
        }
    }
    let counted = seeds.len() - worthless;
    println!("{counted} seeds passed, {worthless} do not count; faults and operations during them: {seen:?}");
    assert!(worthless * WORTHLESS_SHARE <= seeds.len(), "{worthless} of {} runs do not count", seeds.len());
    for kind in planned.iter().filter(|_| counted >= WORTHLESS_SHARE) {
        let happened = seen.contains_key(kind) && kind.evidence().iter().all(|evidence| sum.of(*evidence) > 0);
        assert!(happened, "no seed brought about {kind:?}");
    }
    println!("in sum: {sum}");
    sum
}

/// Runs these seeds until one fails as `caught` demands, and says which: for clusters with a guarantee
/// switched off. Panics if none does.
pub fn expect_caught(
    seeds: &[u64],
    plan: impl Fn(u64) -> RunPlan,
    mut cluster: impl FnMut(&RunPlan) -> Boot,
    caught: impl Fn(&Violation) -> bool,
) -> u64 {
    for (tried, &seed) in seeds.iter().enumerate() {
        let plan = plan(seed);
        let report = run(seed, &plan, cluster(&plan));
        if let Some(violation) = report.violations.iter().find(|violation| caught(violation)) {
            println!("caught by seed {seed}, the {}th: {violation}", tried + 1);
            return seed;
        }
    }
    panic!("{} seeds did not notice that the guarantee was off", seeds.len());
}
