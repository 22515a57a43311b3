//! What goes wrong in a run: a schedule drawn from the seed, and its application to a [`World`].
//!
//! Faults overlap. What several of them do to links and weather adds up; at most one of them at a time
//! has a machine's process. Whatever happens, all is well again at the end of the schedule.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{
    network::{Happened, Weather},
    world::{Pause, World},
};
use crate::ids::NodeId;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FaultKind {
    /// A process is killed and started again after the duration.
    Kill,
    /// A process is killed and started again within milliseconds, several times.
    Bounce,
    /// All processes are killed and started again after the duration.
    KillAll,
    /// A process is stopped (SIGSTOP) for the duration.
    Stop,
    /// A machine is suspended for the duration.
    Suspend,
    /// A process is asked to hand its duties over and to end (SIGTERM), killed if it has not done so
    /// after the duration, and started again.
    Retire,
    /// A machine gets an empty disk while all are up, and joins as new after the duration. Once in a
    /// run at most: what a quorum had synced is not lost then.
    Wipe,
    /// The leader is killed, and whoever is elected next is cut off at that moment, while all others
    /// are killed and started again: they must remember whom they have just voted for.
    Coup,
    /// The machines are parted in two; nothing passes.
    Partition,
    /// Nothing passes from one machine to some others; the other direction works.
    OneWay,
    /// Nothing passes between two machines, which both reach the others (a partial partition:
    /// Alquraan et al., "An Analysis of Network-Partitioning Failures in Cloud Systems", 2018).
    Cut,
    /// Many messages are lost.
    Loss,
    /// Many messages take long.
    Slow,
    /// Many requests arrive twice.
    Duplicate,
    /// A wall clock jumps, forward or back.
    WallJump,
}

impl FaultKind {
    /// Whether it takes processes, each of which one fault can have at a time.
    fn hits_processes(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::Bounce
                | Self::KillAll
                | Self::Stop
                | Self::Suspend
                | Self::Retire
                | Self::Wipe
                | Self::Coup
        )
    }

    /// Whether it needs an occasion, which a run may never offer.
    pub fn needs_an_occasion(self) -> bool {
        matches!(self, Self::Wipe | Self::Coup)
    }

    /// What the tally must show if a fault of this kind really happened.
    pub fn evidence(self) -> &'static [Happened] {
        match self {
            Self::Kill | Self::Bounce | Self::KillAll => &[Happened::Killed, Happened::Restarted],
            Self::Stop => &[Happened::Stopped],
            Self::Retire => &[Happened::Retired],
            Self::Wipe => &[Happened::Wiped],
            Self::Coup => &[Happened::Overthrown],
            Self::Suspend => &[Happened::Suspended],
            Self::Partition | Self::OneWay | Self::Cut => &[Happened::Blocked],
            Self::Loss => &[Happened::RequestLost, Happened::AnswerLost],
            Self::Slow => &[Happened::DelayedLong, Happened::Reordered],
            Self::Duplicate => &[Happened::Duplicated],
            Self::WallJump => &[Happened::WallJumped],
        }
    }
}

/// One fault of a schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// When it begins, in milliseconds of true time.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds.
    pub lasts_ms: u64,
    /// Whom it hits.
    pub victims: Vec<usize>,
    /// Whether the first victim is replaced by whoever leads when it begins.
    pub aim: Aim,
}

/// How the first victim is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// By the dice, when the schedule is drawn.
    Anyone,
    /// Whoever believes to lead when the fault begins.
    Leader,
}

/// How faults are drawn.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// Kinds and how likely each is, relative to the others.
    pub mix: Vec<(FaultKind, u32)>,
    /// From the beginning of one fault to that of the next, in milliseconds.
    pub gap_ms: RangeInclusive<u64>,
    /// How long one lasts, in milliseconds.
    pub lasts_ms: RangeInclusive<u64>,
    /// Of 100 faults with one main victim, so many aim at the leader.
    pub leader_percent: u32,
}

impl Default for FaultPlan {
    fn default() -> Self {
        let mix = vec![
            (FaultKind::Kill, 6),
            (FaultKind::Bounce, 4),
            (FaultKind::KillAll, 1),
            (FaultKind::Stop, 4),
            (FaultKind::Suspend, 2),
            (FaultKind::Retire, 3),
            (FaultKind::Wipe, 1),
            (FaultKind::Coup, 1),
            (FaultKind::Partition, 5),
            (FaultKind::OneWay, 4),
            (FaultKind::Cut, 2),
            (FaultKind::Loss, 2),
            (FaultKind::Slow, 2),
            (FaultKind::Duplicate, 1),
            (FaultKind::WallJump, 1),
        ];
        Self { mix, gap_ms: 200..=2_500, lasts_ms: 250..=4_000, leader_percent: 60 }
    }
}

/// The faults of one run, in the order in which they begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule(pub Vec<Fault>);

impl Schedule {
    /// Draws the faults between two moments; all of them are over at the second.
    pub fn draw(seed: u64, plan: &FaultPlan, machines: usize, from_ms: u64, until_ms: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed ^ 0x6661_756c_7473);
        let (mut faults, mut at_ms) = (Vec::new(), from_ms);
        loop {
            at_ms += dice.random_range(plan.gap_ms.clone());
            if at_ms >= until_ms {
                return Self(faults);
            }
            let mut kind = weighted(&plan.mix, &mut dice);
            if kind == FaultKind::Wipe && faults.iter().any(|fault: &Fault| fault.kind == FaultKind::Wipe) {
                kind = FaultKind::Kill;
            }
            let mut lasts_ms = dice.random_range(plan.lasts_ms.clone()).min(until_ms - at_ms);
            if kind == FaultKind::Coup {
                // It takes an election, and one that others may hold up.
                lasts_ms = lasts_ms.max(COUP_MS);
                if at_ms + lasts_ms > until_ms {
                    continue;
                }
            }
            let aim = if dice.random_ratio(plan.leader_percent, 100) { Aim::Leader } else { Aim::Anyone };
            faults.push(Fault { kind, at_ms, lasts_ms, victims: victims(kind, machines, &mut dice), aim });
        }
    }

    /// How many of each kind.
    pub fn kinds(&self) -> BTreeMap<FaultKind, usize> {
        let mut kinds = BTreeMap::new();
        for fault in &self.0 {
            *kinds.entry(fault.kind).or_default() += 1;
        }
        kinds
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            let Fault { kind, at_ms, lasts_ms, victims, aim } = fault;
            writeln!(f, "  {at_ms:>6} ms, for {lasts_ms:>4} ms: {kind:?} of {victims:?} ({aim:?})")?;
        }
        Ok(())
    }
}

fn weighted(mix: &[(FaultKind, u32)], dice: &mut impl Rng) -> FaultKind {
    let mut left = dice.random_range(0..mix.iter().map(|(_, weight)| weight).sum());
    for (kind, weight) in mix {
        if left < *weight {
            return *kind;
        }
        left -= weight;
    }
    unreachable!("the dice stay below the sum of the weights")
}

fn victims(kind: FaultKind, machines: usize, dice: &mut impl Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..machines).collect();
    for index in (1..machines).rev() {
        all.swap(index, dice.random_range(0..=index));
    }
    let count = match kind {
        FaultKind::Partition => dice.random_range(1..=machines.div_ceil(2)).min(machines - 1),
        FaultKind::OneWay => dice.random_range(2..=machines),
        FaultKind::KillAll => machines,
        FaultKind::Cut => 2,
        FaultKind::Loss | FaultKind::Slow | FaultKind::Duplicate => 0,
        _ => 1,
    };
    all.truncate(count);
    all
}

/// A fault that happened: when, really.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// What kind.
    pub kind: FaultKind,
    /// From when, in milliseconds of true time.
    pub from_ms: u64,
    /// Until when.
    pub until_ms: u64,
}

/// The faults of a schedule on their way through a run.
pub struct Ordeal {
    weather: Weather,
    upcoming: std::iter::Peekable<std::vec::IntoIter<Fault>>,
    /// Due, with no process to hit that no other fault has.
    waiting: Vec<Fault>,
    active: Vec<Fault>,
    windows: Vec<Window>,
    /// Whom each coup that is under way has cut off, by when it began.
    overthrown: BTreeMap<u64, usize>,
    /// The highest term in which anyone led so far.
    led: u64,
    /// When all must be well again.
    until_ms: u64,
}

/// How long a coup lasts at least, in milliseconds.
const COUP_MS: u64 = 3_000;

/// How long a bounced process runs before it is killed again, and how long it is dead, in ms.
const BOUNCE_MS: u64 = 40;

impl Ordeal {
    /// `weather`: what the network is like without faults; `until_ms`: when all of them are over.
    pub fn new(schedule: Schedule, weather: Weather, until_ms: u64) -> Self {
        Self {
            weather,
            upcoming: schedule.0.into_iter().peekable(),
            waiting: Vec::new(),
            active: Vec::new(),
            windows: Vec::new(),
            overthrown: BTreeMap::new(),
            led: 0,
            until_ms,
        }
    }

    /// Ends and begins what is due. Once per millisecond.
    pub fn turn(&mut self, world: &mut World) {
        let now = world.time().now_ms();
        let (over, active) = std::mem::take(&mut self.active).into_iter().partition(|f| f.at_ms + f.lasts_ms <= now);
        self.active = active;
        let mut changed = false;
        for fault in &over {
            changed = true;
            end(world, fault);
            self.overthrown.remove(&fault.at_ms);
        }
        changed |= self.overthrow(world);
        let mut due = std::mem::take(&mut self.waiting);
        due.extend(std::iter::from_fn(|| self.upcoming.next_if(|fault| fault.at_ms <= now)));
        for mut fault in due {
            // What has to wait goes on as long, if there is time.
            fault.lasts_ms = fault.lasts_ms.min(self.until_ms.saturating_sub(now));
            fault.at_ms = now;
            match begin(world, fault) {
                Ok(fault) => {
                    let until_ms = fault.at_ms + fault.lasts_ms;
                    self.windows.push(Window { kind: fault.kind, from_ms: now, until_ms });
                    self.active.push(fault);
                    changed = true;
                }
                Err(fault) if fault.lasts_ms > 0 => self.waiting.push(fault),
                Err(_) => {}
            }
        }
        for fault in self.active.iter().filter(|fault| fault.kind == FaultKind::Bounce) {
            match (now / BOUNCE_MS % 2, now % BOUNCE_MS) {
                (0, 0) => fault.victims.iter().for_each(|index| world.kill(*index)),
                (1, 0) => fault.victims.iter().for_each(|index| world.start(*index)),
                _ => {}
            }
        }
        if changed {
            world.network().set_blocked(self.blocked(world));
            world.network().set_weather(self.weather_now());
        }
    }

    /// Cuts off who has just been elected, if a coup waits for that.
    fn overthrow(&mut self, world: &mut World) -> bool {
        let leaders = world.running().into_iter().filter_map(|index| Some((world.door(index).led_term()?, index)));
        let Some((term, elected)) = leaders.max().filter(|(term, _)| *term > self.led) else { return false };
        self.led = term;
        let waiting = |fault: &&Fault| fault.kind == FaultKind::Coup && !self.overthrown.contains_key(&fault.at_ms);
        let Some(coup) = self.active.iter().find(waiting) else { return false };
        self.overthrown.insert(coup.at_ms, elected);
        world.network().count(Happened::Overthrown);
        for other in world.running().into_iter().filter(|index| *index != elected) {
            world.kill(other);
            world.start(other);
        }
        true
    }

    /// What happened when.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    fn blocked(&self, world: &World) -> Vec<(NodeId, NodeId)> {
        let mut blocked = Vec::new();
        for fault in &self.active {
            match fault.kind {
                FaultKind::Partition => {
                    for inside in fault.victims.iter().copied() {
                        for outside in (0..world.machines()).filter(|index| !fault.victims.contains(index)) {
                            blocked.push((world.node(inside), world.node(outside)));
                            blocked.push((world.node(outside), world.node(inside)));
                        }
                    }
                }
                FaultKind::OneWay => {
                    let Some((from, others)) = fault.victims.split_first() else { continue };
                    blocked.extend(others.iter().map(|to| (world.node(*from), world.node(*to))));
                }
                FaultKind::Coup => {
                    let Some(&inside) = self.overthrown.get(&fault.at_ms) else { continue };
                    for outside in (0..world.machines()).filter(|index| *index != inside) {
                        blocked.push((world.node(inside), world.node(outside)));
                        blocked.push((world.node(outside), world.node(inside)));
                    }
                }
                FaultKind::Cut => {
                    let [one, other] = [fault.victims[0], fault.victims[1]].map(|index| world.node(index));
                    blocked.extend([(one, other), (other, one)]);
                }
                _ => {}
            }
        }
        blocked
    }

    fn weather_now(&self) -> Weather {
        let mut weather = self.weather.clone();
        for fault in &self.active {
            match fault.kind {
                FaultKind::Loss => (weather.loss, weather.gossip_loss) = (0.2, 0.9),
                FaultKind::Slow => weather.slow = 0.3,
                FaultKind::Duplicate => weather.duplicate = 0.5,
                _ => {}
            }
        }
        weather
    }
}

/// Begins a fault; gives it back if it hits processes and there is none to hit.
fn begin(world: &mut World, mut fault: Fault) -> Result<Fault, Fault> {
    let running = world.running();
    // A former one may believe so, too.
    let leaders = running.iter().copied().filter(|index| world.door(*index).leads());
    let leader = leaders.max_by_key(|index| world.door(*index).led_term());
    if let (Aim::Leader, Some(leader), false) = (fault.aim, leader, fault.victims.is_empty()) {
        let place = fault.victims.iter().position(|victim| *victim == leader);
        if let Some(place) = place { fault.victims.swap(0, place) } else { fault.victims[0] = leader }
    }
    if fault.kind == FaultKind::Wipe && !can_spare_a_disk(world, &running, leader) {
        return Err(fault);
    }
    if fault.kind.hits_processes() {
        // A process that another fault has is left to it.
        fault.victims.retain(|victim| running.contains(victim));
        match (fault.victims.is_empty(), running.first()) {
            (true, None) => return Err(fault),
            (true, Some(other)) => fault.victims.push(*other),
            (false, _) => {}
        }
    }
    for &victim in &fault.victims {
        match fault.kind {
            FaultKind::Kill | FaultKind::KillAll => world.kill(victim),
            FaultKind::Coup => {
                world.kill(victim);
                world.start(victim);
            }
            FaultKind::Stop => world.pause(victim, Pause::Stop),
            FaultKind::Suspend => world.pause(victim, Pause::Suspend),
            FaultKind::Retire => world.retire(victim),
            FaultKind::Wipe => world.wipe(victim),
            FaultKind::WallJump => {
                let ms = i64::try_from(fault.lasts_ms).expect("seconds") * 60;
                world.jump_wall(victim, if fault.at_ms.is_multiple_of(2) { ms } else { -ms });
            }
            _ => {}
        }
    }
    Ok(fault)
}

/// Whether what a quorum has synced is still on a quorum's disks without any one of them, and the
/// others can decide without it: all voters are up and agree on who votes. The leader alone may not have
/// heard of the latest change.
fn can_spare_a_disk(world: &World, running: &[usize], leader: Option<usize>) -> bool {
    let voters = leader.map(|leader| world.door(leader).voters()).unwrap_or_default();
    let mut up = running.iter().filter(|index| voters.contains(&world.node(**index)));
    voters.len() >= 3 && up.clone().count() == voters.len() && up.all(|index| world.door(*index).voters() == voters)
}

fn end(world: &mut World, fault: &Fault) {
    for &victim in &fault.victims {
        match fault.kind {
            FaultKind::Kill | FaultKind::Bounce | FaultKind::KillAll | FaultKind::Wipe => world.start(victim),
            FaultKind::Retire => {
                world.kill(victim);
                world.start(victim);
            }
            FaultKind::Stop | FaultKind::Suspend => world.resume(victim),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64) -> Schedule {
        Schedule::draw(seed, &FaultPlan::default(), 5, 1_000, 30_000)
    }

    #[test]
    fn the_same_seed_draws_the_same_faults_and_another_one_others() {
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_fault_lies_within_its_time_and_names_victims_that_exist() {
        for seed in 0..200 {
            for fault in &draw(seed).0 {
                assert!(fault.at_ms >= 1_000 && fault.at_ms + fault.lasts_ms <= 30_000, "seed {seed}: {fault:?}");
                assert!(fault.victims.iter().all(|victim| *victim < 5), "seed {seed}: {fault:?}");
                let parts = fault.kind != FaultKind::Partition || (1..5).contains(&fault.victims.len());
                assert!(parts, "seed {seed}: a partition of all is none: {fault:?}");
            }
        }
    }

    #[test]
    fn every_kind_is_drawn_by_some_seed() {
        let kinds: std::collections::BTreeSet<_> = (0..50).flat_map(|seed| draw(seed).kinds().into_keys()).collect();
        assert_eq!(kinds.len(), FaultPlan::default().mix.len());
    }
}
