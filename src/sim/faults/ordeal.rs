//! The faults of a schedule on their way through a run.

use std::collections::BTreeMap;

use super::{Aim, Fault, FaultKind, FaultPlan, Schedule, journals};
use crate::{
    ids::NodeId,
    sim::{
        door::{Farewell, Service},
        network::{Happened, Weather},
        world::{Pause, World},
    },
};

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
    limits: Limits,
}

/// What the faults of a run may do.
#[derive(Clone, Copy)]
struct Limits {
    /// Machines from this one on may leave, or lose their disks.
    expendable_from: usize,
    jump_percent: u64,
}

impl Limits {
    fn jump_ms(self, lasts_ms: u64) -> u64 {
        lasts_ms * self.jump_percent / 100
    }
}

/// How long a bounced process runs before it is killed again, and how long it is dead, in ms.
const BOUNCE_MS: u64 = 40;

/// When the first of two that were killed is back, in milliseconds: by then both are known to be down.
const STRANDED_AFTER_MS: u64 = 1_200;

impl Ordeal {
    /// `weather`: what the network is like without faults; `until_ms`: when all of them are over.
    pub fn new(schedule: Schedule, plan: &FaultPlan, weather: Weather, until_ms: u64) -> Self {
        let limits = Limits { expendable_from: plan.expendable_from, jump_percent: plan.jump_percent };
        Self {
            limits,
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
    pub fn turn<S: Service>(&mut self, world: &mut World<S>) {
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
            match begin(world, self.limits, fault) {
                Ok(fault) => {
                    let until_ms = fault.at_ms + fault.lasts_ms;
                    self.windows.push(Window { kind: fault.kind, from_ms: now, until_ms });
                    self.active.push(fault);
                    changed = true;
                }
                Err(fault) if fault.lasts_ms > fault.kind.lasts_at_least_ms() => self.waiting.push(fault),
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
        for fault in self.active.iter().filter(|fault| fault.kind == FaultKind::Stranded) {
            if now == fault.at_ms + STRANDED_AFTER_MS {
                world.start(fault.victims[0]);
            }
        }
        if changed {
            world.network().set_blocked(self.blocked(world));
            world.network().set_weather(self.weather_now());
            journals::set_away(world, &self.active);
        }
    }

    /// Cuts off who has just been elected, if a coup waits for that.
    fn overthrow<S: Service>(&mut self, world: &mut World<S>) -> bool {
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

    /// By how much all wall clocks together were set.
    pub fn jumped_ms(&self) -> u64 {
        let jumps = self.windows.iter().filter(|window| window.kind == FaultKind::WallJump);
        jumps.map(|window| self.limits.jump_ms(window.until_ms - window.from_ms)).sum()
    }

    fn blocked<S: Service>(&self, world: &World<S>) -> Vec<(NodeId, NodeId)> {
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
                FaultKind::Loss => (weather.loss, weather.gossip_loss) = (0.2, weather.gossip_loss.max(0.9)),
                FaultKind::Slow => weather.slow = 0.3,
                FaultKind::Duplicate => weather.duplicate = 0.5,
                _ => {}
            }
        }
        weather
    }
}

/// Begins a fault; gives it back if there is nobody to hit, or no occasion.
fn begin<S: Service>(world: &mut World<S>, limits: Limits, mut fault: Fault) -> Result<Fault, Fault> {
    let running = world.running();
    // A former one may believe so, too.
    let leaders = running.iter().copied().filter(|index| world.door(*index).leads());
    let leader = leaders.max_by_key(|index| world.door(*index).led_term());
    if let (Aim::Leader, Some(leader), false) = (fault.aim, leader, fault.victims.is_empty()) {
        let place = fault.victims.iter().position(|victim| *victim == leader);
        if let Some(place) = place { fault.victims.swap(0, place) } else { fault.victims[0] = leader }
    }
    if fault.kind.hits_processes() {
        // A process that another fault has is left to it, and so is one that cannot be done without.
        let expendable = |index: &usize| !fault.kind.takes_identities() || *index >= limits.expendable_from;
        fault.victims.retain(|victim| running.contains(victim) && expendable(victim));
        match (fault.victims.is_empty(), running.iter().copied().find(expendable)) {
            (true, None) => return Err(fault),
            (true, Some(other)) => fault.victims.push(other),
            (false, _) => {}
        }
    }
    let may_lose = match fault.kind {
        FaultKind::Wipe => can_spare_a_disk(world, &running, leader, fault.victims[0]),
        kind if kind.loses_journal() => world.is_whole(),
        _ => true,
    };
    if !may_lose {
        return Err(fault);
    }
    if fault.kind.loses_journal() {
        return if journals::lose(world, &mut fault) { Ok(fault) } else { Err(fault) };
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
            FaultKind::Retire => world.retire(victim, Farewell::ComesBack),
            FaultKind::Leave => world.retire(victim, Farewell::ForGood),
            FaultKind::Wipe => world.wipe(victim),
            FaultKind::WallJump => {
                let ms = i64::try_from(limits.jump_ms(fault.lasts_ms)).expect("minutes");
                world.jump_wall(victim, if fault.at_ms.is_multiple_of(2) { ms } else { -ms });
            }
            _ => {}
        }
    }
    Ok(fault)
}

/// Whether what a quorum has synced is still on a quorum's disks without this one, and the others can decide
/// without it: it does not vote, or all voters are up and agree on who votes (the leader alone may not have
/// heard of the latest change). Likewise what was acknowledged of queues, where it keeps any.
fn can_spare_a_disk<S: Service>(world: &World<S>, running: &[usize], leader: Option<usize>, victim: usize) -> bool {
    let voters = leader.map(|leader| world.door(leader).voters()).unwrap_or_default();
    let mut up = running.iter().filter(|index| voters.contains(&world.node(**index)));
    let agreed = up.clone().count() == voters.len() && up.all(|index| world.door(*index).voters() == voters);
    let votes = voters.contains(&world.node(victim));
    let keeps_queues = world.disks().journal(victim, world.disk(victim)).is_some();
    if keeps_queues && !world.is_whole() {
        return false;
    }
    (keeps_queues && !votes) || (voters.len() >= 3 && agreed)
}

fn end<S: Service>(world: &mut World<S>, fault: &Fault) {
    for &victim in &fault.victims {
        match fault.kind {
            FaultKind::Kill
            | FaultKind::Bounce
            | FaultKind::KillAll
            | FaultKind::Wipe
            | FaultKind::JournalBehind
            | FaultKind::JournalEmpty
            | FaultKind::Stranded => world.start(victim),
            FaultKind::Retire | FaultKind::Leave => {
                world.kill(victim);
                world.start(victim);
            }
            FaultKind::Stop | FaultKind::Suspend => world.resume(victim),
            _ => {}
        }
    }
}
