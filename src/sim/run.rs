//! One run from a seed, what came of it, and many runs.
//!
//! `SIM_SEED=n` runs just that seed, `SIM_SEEDS=n` the first n (a test names its default).

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt,
};

use futures::future::BoxFuture;

use super::{
    clock::{MAX_WALL_OFFSET_MS, WorldTime},
    door::{Door, Service},
    faults::{FaultKind, FaultPlan, Ordeal, Schedule, Window},
    history::{Record, Recorder},
    network::{Tally, Weather},
    violation::Violation,
    watch::Watch,
    world::{Death, Site, World},
};

/// The clients of a run, and what must be true of what they saw.
pub trait Scenario: Clone + Default {
    /// What they are clients of.
    type Service: Service;

    /// Of so many runs one may be such that its faults did not happen as planned.
    const WORTHLESS_SHARE: usize;

    /// What they come for, as a word.
    const WANTED: &'static str;

    /// Their programs.
    fn clients(&self, stage: Stage<Self::Service>, seed: u64) -> Vec<BoxFuture<'static, ()>>;

    /// How long they take to come to an end once their time is up, at most, in milliseconds.
    fn last_words_ms(&self) -> u64;

    /// Whether an operation got what clients come for.
    fn is_wanted(record: &Record<Self::Service>) -> bool;

    /// What is wrong with their history. Pure.
    fn check(history: &[Record<Self::Service>], circumstances: &Circumstances) -> Vec<Violation>;
}

/// Where the clients of a run act.
pub struct Stage<S: Service> {
    /// The ways into the nodes.
    pub doors: Vec<Door<S>>,
    /// True time.
    pub time: WorldTime,
    /// Takes down what they see.
    pub recorder: Recorder<S>,
    /// When their time is up, in milliseconds.
    pub until_ms: u64,
}

/// What a checker has to know beside the history.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// Two wall clocks, at any two moments of the run, strayed from each other by no more, in milliseconds.
    pub stray_ms: u64,
    /// Processes that ended.
    pub deaths: Vec<Death>,
}

/// Seeds that passed.
#[derive(Debug)]
pub struct Passed {
    /// Those that count.
    pub seeds: Vec<u64>,
    /// What happened in their runs together.
    pub happened: Tally,
}

/// So many violations of a run are told.
const TOLD_VIOLATIONS: usize = 8;
/// So many runs must have seen each kind of fault that was planned.
const TELLING_RUNS: usize = 40;

/// What a run consists of.
#[derive(Clone, Debug)]
pub struct RunPlan<W> {
    /// How many machines there are in the end.
    pub machines: usize,
    /// So many are there from the beginning. The others come one by one while things go wrong.
    pub founders: usize,
    /// The others come one after the other, so much later each, in milliseconds.
    pub arrive_every_ms: u64,
    /// Wall clocks are off by at most so much at first, in milliseconds.
    pub wall_offset_ms: i64,
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
    pub workload: W,
}

impl<W: Scenario> Default for RunPlan<W> {
    fn default() -> Self {
        Self {
            machines: 3,
            founders: 3,
            arrive_every_ms: 700,
            wall_offset_ms: MAX_WALL_OFFSET_MS,
            form_ms: 5_000,
            ordeal_ms: 20_000,
            calm_ms: 8_000,
            weather: Weather::rough(),
            faults: FaultPlan::default(),
            workload: W::default(),
        }
    }
}

/// What came of a run.
pub struct Report<W: Scenario> {
    /// Its seed.
    pub seed: u64,
    /// What was planned to go wrong.
    pub schedule: Schedule,
    /// What did go wrong, when.
    pub windows: Vec<Window>,
    /// What happened to messages and processes.
    pub tally: Tally,
    /// What the clients saw.
    pub history: Vec<Record<W::Service>>,
    /// From when on there were no faults, in milliseconds of true time.
    pub calm_from_ms: u64,
    /// What is wrong with it.
    pub violations: Vec<Violation>,
}

/// Runs one seed and judges it.
pub fn run<W: Scenario>(seed: u64, plan: &RunPlan<W>, site: impl Into<Site<W::Service>>) -> Report<W> {
    let mut world = World::new(seed, plan.machines, plan.weather.clone(), plan.wall_offset_ms, site);
    (0..plan.founders).for_each(|index| world.start(index));
    world.run_for(plan.form_ms);

    let calm_from_ms = plan.form_ms + plan.ordeal_ms;
    let schedule = Schedule::draw(seed, &plan.faults, plan.machines, plan.form_ms, calm_from_ms);
    let mut ordeal = Ordeal::new(schedule.clone(), &plan.faults, plan.weather.clone(), calm_from_ms);
    let recorder = Recorder::new(world.time().clone());
    let until_ms = calm_from_ms + plan.calm_ms;
    let stage = Stage {
        doors: (0..plan.machines).map(|index| world.door(index)).collect(),
        time: world.time().clone(),
        recorder: recorder.clone(),
        until_ms,
    };
    let programs = plan.workload.clients(stage, seed);
    let clients: Vec<_> = programs.into_iter().map(|program| world.spawn_client(program)).collect();
    let arrival_ms = |index| plan.form_ms + index as u64 * plan.arrive_every_ms;
    let mut latecomers = (plan.founders..plan.machines).map(|index| (arrival_ms(index), index)).peekable();
    let mut watch = Watch::default();
    while world.time().now_ms() < until_ms {
        while let Some((_, index)) = latecomers.next_if(|(at_ms, _)| *at_ms <= world.time().now_ms()) {
            world.start(index);
        }
        ordeal.turn(&mut world);
        world.step();
        watch.look(&world);
    }
    let last_words_ms = plan.workload.last_words_ms();
    let ended = world.run_until(last_words_ms, |_| clients.iter().all(tokio::task::JoinHandle::is_finished));
    assert!(ended, "seed {seed}: a client did not end");

    let history = recorder.history();
    let (windows, tally) = (ordeal.windows().to_vec(), world.network().tally());
    let mut report = Report { seed, schedule, windows, tally, history, calm_from_ms, violations: Vec::new() };
    let stray_ms = 2 * plan.wall_offset_ms.unsigned_abs() + ordeal.jumped_ms();
    report.violations = W::check(&report.history, &Circumstances { stray_ms, deaths: world.deaths().to_vec() });
    report.violations.extend(world.failures().iter().cloned().map(Violation::NodeFailed));
    if report.wanted_since(calm_from_ms) == 0 {
        let none = format!("there were no {} after the faults were over", W::WANTED);
        report.violations.push(Violation::NoProgress(none));
    }
    report
}

impl<W: Scenario> Report<W> {
    /// Fault windows and the operations that overlapped them, by kind.
    pub fn overlaps(&self) -> BTreeMap<FaultKind, (usize, usize)> {
        let mut overlaps = BTreeMap::new();
        for window in &self.windows {
            let during = |record: &&Record<W::Service>| {
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
        let (wanted, operations) = (self.wanted_since(0), self.history.len());
        (wanted < operations / 20).then(|| format!("only {wanted} of {operations} operations were {}", W::WANTED))
    }

    fn wanted_since(&self, from_ms: u64) -> usize {
        self.history.iter().filter(|record| record.invoked.ms >= from_ms && W::is_wanted(record)).count()
    }
}

impl<W: Scenario> fmt::Display for Report<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = self.history.iter().filter(|record| record.is_unknown()).count();
        let (wanted, word) = (self.wanted_since(0), W::WANTED);
        write!(f, "seed {}: {} operations, {wanted} {word}, {unknown} unknown", self.seed, self.history.len())?;
        write!(f, ", {} of the {word} in the calm", self.wanted_since(self.calm_from_ms))?;
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

/// Every second seed of those that are to be run, from the first or the second one, so that two tests share
/// the cores.
pub fn every_second(default_count: u64, from: usize) -> Vec<u64> {
    let seeds = seeds(default_count);
    if seeds.len() == 1 && from == 1 { Vec::new() } else { seeds.into_iter().skip(from).step_by(2).collect() }
}

/// Runs these seeds with a fresh cluster each; panics at the first that fails, with everything that is
/// needed to look into it, and if more than one in [`Scenario::WORTHLESS_SHARE`] does not count, or a kind of
/// fault was in none of many that do. Which of them count, and what happened in these together.
pub fn expect_all_pass<W: Scenario, C: Into<Site<W::Service>>>(
    seeds: &[u64],
    plan: impl Fn(u64) -> RunPlan<W>,
    mut cluster: impl FnMut(&RunPlan<W>) -> C,
) -> Passed {
    let (mut sum, mut planned) = (Tally::default(), BTreeSet::new());
    let mut seen: BTreeMap<FaultKind, (usize, usize)> = BTreeMap::new();
    let mut counting = Vec::new();
    for &seed in seeds {
        let plan = plan(seed);
        planned.extend(plan.faults.mix.iter().map(|(kind, _)| *kind));
        let report = run(seed, &plan, cluster(&plan));
        println!("{report}");
        if !report.violations.is_empty() {
            let list = report.violations.iter().take(TOLD_VIOLATIONS).map(|violation| format!("\n  {violation}"));
            let (list, all) = (list.collect::<String>(), report.violations.len());
            panic!("SIM_SEED={seed} fails, {all} violations:{list}\nfaults:\n{}", report.schedule);
        }
        if let Some(reason) = report.worthless() {
            println!("seed {seed} does not count: {reason}");
            continue;
        }
        counting.push(seed);
        sum.add(&report.tally);
        for (kind, (windows, operations)) in report.overlaps() {
            let sum = seen.entry(kind).or_default();
            *sum = (sum.0 + windows, sum.1 + operations);
        }
    }
    let (counted, worthless) = (counting.len(), seeds.len() - counting.len());
    println!("{counted} seeds passed, {worthless} do not count; faults and operations during them: {seen:?}");
    assert!(worthless * W::WORTHLESS_SHARE <= seeds.len(), "{worthless} of {} runs do not count", seeds.len());
    // What needs an occasion may find none, and of a few runs a kind may be in none.
    for kind in planned.iter().filter(|kind| counted >= TELLING_RUNS && !kind.needs_an_occasion()) {
        let happened = seen.contains_key(kind) && kind.evidence().iter().all(|evidence| sum.of(*evidence) > 0);
        assert!(happened, "no seed brought about {kind:?}");
    }
    println!("in sum: {sum}");
    Passed { seeds: counting, happened: sum }
}

/// Runs this seed, which shows nothing wrong. Whether it counts does not matter: what a switched off guarantee made of
/// it did count.
pub fn expect_nothing_wrong<W: Scenario, C: Into<Site<W::Service>>>(
    seed: u64,
    plan: impl Fn(u64) -> RunPlan<W>,
    mut cluster: impl FnMut(&RunPlan<W>) -> C,
) {
    let plan = plan(seed);
    let report = run(seed, &plan, cluster(&plan));
    println!("{report}");
    assert!(
        report.violations.is_empty(),
        "SIM_SEED={seed} fails: {:?}\nfaults:\n{}",
        report.violations,
        report.schedule
    );
}

/// Runs these seeds until one fails as `caught` demands, and says which: for clusters with a guarantee
/// switched off. Panics if none does.
pub fn expect_caught<W: Scenario, C: Into<Site<W::Service>>>(
    seeds: &[u64],
    plan: impl Fn(u64) -> RunPlan<W>,
    mut cluster: impl FnMut(&RunPlan<W>) -> C,
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
