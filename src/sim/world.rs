//! Processes and machines: one tokio runtime per process, all moved in lockstep, a millisecond of true
//! time at a time.
//!
//! A runtime per process makes the faults those of an operating system: **kill** drops everything the
//! process spawned at once, wherever it was; **stop** (SIGSTOP) lets nothing of it run while time goes
//! on, and at its end every timer is late; **suspend** (a laptop's lid) does not even move its timers,
//! only [`Clock::now`](crate::clock::Clock::now) has moved on. Its timers run at its machine's rate.
//! Messages that arrive meanwhile lie in its buffers, as they would in a kernel's.
//!
//! Driven from a plain thread, never from inside a runtime.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{runtime::Runtime, sync::mpsc, task::JoinHandle, time::Instant};

use super::{
    clock::{SimClock, WorldTime},
    disks::{Disks, NoDisks},
    door::{Api, Door, Farewell, Service},
    network::{Happened, SimNetwork, Weather},
};
use crate::{
    clock::Clock,
    ids::{Incarnation, NodeId, Tick},
    machine::{placement::Partition, replication::Replica},
    net::{Mesh, MeshEvent},
};

/// Everything that a process is given when it starts.
#[derive(Debug)]
pub struct Seat {
    /// Which machine of the world, from 0.
    pub index: usize,
    /// Its node id, the same after a restart, another one on another disk.
    pub node: NodeId,
    /// How many disks the machine had before this one.
    pub disk: u64,
    /// How often it was started before. What the last process had not synced is lost: `boot` tells
    /// its store so when this is not 0.
    pub restarts: u64,
    /// For whatever it draws; another one at each start.
    pub seed: u64,
    /// Its end of the mesh.
    pub mesh: Arc<dyn Mesh>,
    /// What the mesh tells it.
    pub events: mpsc::Receiver<MeshEvent>,
    /// Its machine's clock.
    pub clock: Arc<SimClock>,
}

/// Starts a node in its own runtime. What must survive it, the closure keeps by `Seat::index`. Every
/// task of the node must be spawned on the current runtime.
pub type Boot<S> = Arc<dyn Fn(Seat) -> BoxFuture<'static, Arc<dyn Api<S>>>>;

/// What the machines of a world are made of.
pub struct Site<S: Service> {
    /// Starts their processes.
    pub boot: Boot<S>,
    /// What survives these, as far as faults reach it.
    pub disks: Arc<dyn Disks>,
}

impl<S: Service> From<Boot<S>> for Site<S> {
    fn from(boot: Boot<S>) -> Self {
        Self { boot, disks: Arc::new(NoDisks) }
    }
}

/// A process that ended, however it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Death {
    /// When, in milliseconds of true time.
    pub at_ms: u64,
    /// Everything that it had in its memory, of queues too, was in another one's as well.
    pub spared: bool,
}

/// How a process is kept from running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// SIGSTOP: its timers are late afterwards.
    Stop,
    /// The machine sleeps: its timers never noticed, only `CLOCK_BOOTTIME` did.
    Suspend,
}

/// A runtime whose tokio clock follows a machine's clock.
struct Host {
    runtime: Runtime,
    /// Where its tokio clock began, and what the machine's clock showed then.
    began: (Instant, Tick),
    /// How long it was suspended, by the machine's clock.
    asleep_ms: u64,
}

impl Host {
    fn new(now: Tick) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can be built");
        let began = (runtime.block_on(async { Instant::now() }), now);
        Self { runtime, began, asleep_ms: 0 }
    }

    fn tokio_time(&self, now: Tick) -> Instant {
        self.began.0 + Duration::from_millis(now.ms_since(self.began.1) - self.asleep_ms)
    }

    /// Lets it run until its tokio clock shows what its machine's clock shows.
    fn run_to(&self, now: Tick) {
        let until = self.tokio_time(now);
        self.runtime.block_on(async move { tokio::time::sleep_until(until).await });
    }

    /// Lets it wake up with its tokio clock moved at once.
    fn wake(&mut self, now: Tick, pause: Pause) {
        let target = self.tokio_time(now);
        let missed = self.runtime.block_on(async move {
            let missed = target.saturating_duration_since(Instant::now());
            if pause == Pause::Stop {
                tokio::time::advance(missed).await;
            }
            missed
        });
        if pause == Pause::Suspend {
            self.asleep_ms += u64::try_from(missed.as_millis()).expect("a run lasts minutes");
        }
    }
}

struct Process {
    host: Host,
    main: JoinHandle<Result<(), String>>,
    paused: Option<Pause>,
    /// It was asked to end.
    retiring: bool,
}

struct Machine<S: Service> {
    node: NodeId,
    disk: u64,
    clock: Arc<SimClock>,
    door: Door<S>,
    process: Option<Process>,
    starts: u64,
}

/// A cluster and its clients.
pub struct World<S: Service> {
    time: WorldTime,
    network: SimNetwork,
    machines: Vec<Machine<S>>,
    clients: Host,
    site: Site<S>,
    deaths: Vec<Death>,
    seed: u64,
    dice: StdRng,
    failures: Vec<String>,
}

/// The node id of a machine on its first disk.
pub fn node_id(index: usize) -> NodeId {
    node_id_on(index, 0)
}

fn node_id_on(index: usize, disk: u64) -> NodeId {
    let mut bytes = [0xA5; 32];
    bytes[..8].copy_from_slice(&(index as u64 + 1).to_be_bytes());
    bytes[8..16].copy_from_slice(&disk.to_be_bytes());
    NodeId::from_bytes(bytes)
}

impl<S: Service> World<S> {
    /// So many machines, whose processes have yet to be started, and whose wall clocks are off by at most
    /// `wall_ms`.
    pub fn new(seed: u64, machines: usize, weather: Weather, wall_ms: i64, site: impl Into<Site<S>>) -> Self {
        let time = WorldTime::default();
        let mut dice = StdRng::seed_from_u64(seed ^ 0x776f_726c_6400);
        let machines = (0..machines)
            .map(|index| Machine {
                node: node_id(index),
                disk: 0,
                clock: Arc::new(SimClock::draw(time.clone(), wall_ms, &mut dice)),
                door: Door::default(),
                process: None,
                starts: 0,
            })
            .collect();
        let network = SimNetwork::new(seed, time.clone(), weather);
        let clients = Host::new(Tick(0));
        let site = site.into();
        Self { clients, time, network, machines, site, deaths: Vec::new(), seed, dice, failures: Vec::new() }
    }

    /// True time.
    pub fn time(&self) -> &WorldTime {
        &self.time
    }

    /// The mesh.
    pub fn network(&self) -> &SimNetwork {
        &self.network
    }

    /// Nodes that ended by themselves, and why.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// How many machines there are.
    pub fn machines(&self) -> usize {
        self.machines.len()
    }

    /// The way into a machine's node.
    pub fn door(&self, index: usize) -> Door<S> {
        self.machines[index].door.clone()
    }

    /// What survives processes, as far as faults reach it.
    pub fn disks(&self) -> Arc<dyn Disks> {
        Arc::clone(&self.site.disks)
    }

    /// Processes that ended, and when.
    pub fn deaths(&self) -> &[Death] {
        &self.deaths
    }

    /// Which disk of a machine is in use, counted from 0.
    pub fn disk(&self, index: usize) -> u64 {
        self.machines[index].disk
    }

    /// How often a machine's process was started.
    pub fn starts(&self, index: usize) -> u64 {
        self.machines[index].starts
    }

    /// The node id that a machine has now.
    pub fn node(&self, index: usize) -> NodeId {
        self.machines[index].node
    }

    /// The machines whose process runs, those not counted that are stopped or about to end.
    pub fn running(&self) -> Vec<usize> {
        let up = |process: &Process| process.paused.is_none() && !process.retiring;
        let runs = |index: &usize| self.machines[*index].process.as_ref().is_some_and(up);
        (0..self.machines.len()).filter(runs).collect()
    }

    /// Starts a machine's process, unless it has one.
    pub fn start(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if machine.process.is_some() {
            return;
        }
        if self.site.disks.has_left(index, machine.disk) {
            machine.disk += 1;
            machine.node = node_id_on(index, machine.disk);
            self.network.count(Happened::Left);
        }
        let restarts = machine.starts;
        machine.starts += 1;
        if restarts > 0 {
            self.network.count(Happened::Restarted);
        }
        let (mesh, events) = self.network.join(machine.node);
        let clock = Arc::clone(&machine.clock);
        let seed = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((index as u64) << 32) ^ restarts;
        let host = Host::new(clock.now());
        let (node, disk) = (machine.node, machine.disk);
        let boot = (self.site.boot)(Seat { index, node, disk, restarts, seed, mesh, events, clock });
        let main = host.runtime.spawn(machine.door.serve(boot));
        machine.process = Some(Process { host, main, paused: None, retiring: false });
    }

    /// Asks a machine's process to hand its duties over and to end (SIGTERM, or to leave the cluster), if it
    /// has one.
    pub fn retire(&mut self, index: usize, farewell: Farewell) {
        let machine = &mut self.machines[index];
        if let Some(process) = &mut machine.process {
            process.retiring = true;
            machine.door.retire(farewell);
            self.network.count(Happened::Retired);
        }
    }

    /// Kills a machine's process and replaces its disk by an empty one.
    pub fn wipe(&mut self, index: usize) {
        self.kill(index);
        let machine = &mut self.machines[index];
        machine.disk += 1;
        machine.node = node_id_on(index, machine.disk);
        self.network.count(Happened::Wiped);
    }

    /// Kills a machine's process (kill -9), if it has one.
    pub fn kill(&mut self, index: usize) {
        if self.end(index) {
            self.network.count(Happened::Killed);
        }
    }

    fn end(&mut self, index: usize) -> bool {
        if self.machines[index].process.is_none() {
            return false;
        }
        let spared = self.is_whole();
        self.deaths.push(Death { at_ms: self.time.now_ms(), spared });
        let machine = &mut self.machines[index];
        let Some(process) = machine.process.take() else { return false };
        machine.door.shut();
        self.network.kill(machine.node);
        process.host.runtime.shutdown_background();
        true
    }

    /// Keeps a machine's process from running, if it runs.
    pub fn pause(&mut self, index: usize, pause: Pause) {
        let process = self.machines[index].process.as_mut();
        if let Some(process) = process.filter(|process| process.paused.is_none()) {
            process.paused = Some(pause);
            self.network.count(if pause == Pause::Stop { Happened::Stopped } else { Happened::Suspended });
        }
    }

    /// Lets it go on, if it was kept from running.
    pub fn resume(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if let Some(process) = &mut machine.process
            && let Some(pause) = process.paused.take()
        {
            process.host.wake(machine.clock.now(), pause);
        }
    }

    /// Whether any one process or journal can be lost and all that the queues acknowledged, and all leases, are
    /// still with another: every machine that was ever started runs, all say the same of the placement, and
    /// each partition is in sync on two of them at least as they are now.
    pub fn is_whole(&self) -> bool {
        let started: Vec<usize> = (0..self.machines.len()).filter(|index| self.starts(*index) > 0).collect();
        if self.running() != started {
            return false;
        }
        let Some(placement) = started.first().map(|index| self.door(*index).placement()) else { return false };
        let agreed = started.iter().all(|index| self.door(*index).placement() == placement);
        let is_current = |replica: &Replica| {
            let index = started.iter().find(|index| self.node(**index) == replica.node);
            index.is_some_and(|index| {
                let journal = self.site.disks.journal(*index, self.disk(*index));
                let intact = journal.is_some_and(|journal| journal.id() == replica.journal && journal.is_intact());
                intact && replica.incarnation == Incarnation(self.starts(*index))
            })
        };
        let safe = |partition: &Partition| {
            partition.is_serving() && partition.in_sync.len() > 1 && partition.in_sync.iter().all(is_current)
        };
        agreed && !placement.is_empty() && placement.values().all(safe)
    }

    /// Since the world began, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.time.now_ms()
    }

    /// Sets a machine's wall clock.
    pub fn jump_wall(&mut self, index: usize, ms: i64) {
        self.machines[index].clock.jump_wall(ms);
        self.network.count(Happened::WallJumped);
    }

    /// Runs a client's program beside the nodes: on a runtime that no fault touches, at true time.
    pub fn spawn_client(&self, client: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.clients.runtime.spawn(client)
    }

    /// One millisecond.
    pub fn step(&mut self) {
        self.time.tick();
        self.network.turn();
        let first = self.dice.random_range(0..self.machines.len());
        for offset in 0..self.machines.len() {
            let index = (first + offset) % self.machines.len();
            let machine = &mut self.machines[index];
            let Some(process) = machine.process.as_mut().filter(|process| process.paused.is_none()) else { continue };
            process.host.run_to(machine.clock.now());
            if process.main.is_finished() {
                let end = (&mut process.main).now_or_never();
                if let Some(Err(_) | Ok(Err(_))) = &end {
                    let at_ms = self.time.now_ms();
                    self.failures.push(format!("the node of machine {index} ended by itself at {at_ms} ms: {end:?}"));
                }
                self.end(index);
            }
        }
        self.clients.run_to(Tick(self.time.now_ms()));
    }

    /// Some milliseconds.
    pub fn run_for(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    /// Runs until `done`, at most `ms`; whether it came to be.
    pub fn run_until(&mut self, ms: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        for _ in 0..ms {
            if done(self) {
                return true;
            }
            self.step();
        }
        done(self)
    }
}

impl<S: Service> Drop for World<S> {
    fn drop(&mut self) {
        for machine in &mut self.machines {
            if let Some(process) = machine.process.take() {
                machine.door.shut();
                process.host.runtime.shutdown_background();
            }
        }
    }
}
