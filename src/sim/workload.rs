//! Seeded clients of the lock service: they open sessions, acquire, hold, release, look, retry,
//! forget what they held, and note down everything that they asked and were told.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinHandle, time::sleep};

use super::{
    api::{Answer, Ask, LockService, Record},
    check::check,
    clock::{MAX_WALL_OFFSET_MS, SimClock},
    line::Line,
    run::{Circumstances, Scenario, Stage},
    violation::Violation,
};
use crate::{
    clock::Clock,
    ids::{LockName, SessionId, Tick},
    machine::lock::Mode,
};

/// How far a client's clock and the servers' may stray from each other (DESIGN.md section 4, point 7).
pub const EPSILON_PERCENT: u64 = 1;

/// What a client takes off its session's term beside that, in milliseconds.
pub const MARGIN_MS: u64 = 5;

/// Operations after which a lock is left alone and the next one takes its place.
const OPERATIONS_PER_LOCK: u64 = 110;

/// What the clients do. Durations are ranges to draw from, in milliseconds.
#[derive(Clone, Debug)]
pub struct Workload {
    /// How many clients.
    pub clients: usize,
    /// How many locks are in use at a time.
    pub locks: u64,
    /// Term of a session.
    pub ttl_ms: RangeInclusive<u64>,
    /// Between two rounds.
    pub think_ms: RangeInclusive<u64>,
    /// How long a lock is held.
    pub hold_ms: RangeInclusive<u64>,
    /// How long an acquire waits, when it waits.
    pub wait_ms: RangeInclusive<u64>,
    /// After so long a client hangs up.
    pub patience_ms: u64,
    /// Of 100 acquires, so many are shared.
    pub shared_percent: u32,
    /// Of 100 acquires, so many wait in line.
    pub waiting_percent: u32,
    /// Of 100 rounds, so many only look.
    pub show_percent: u32,
    /// Of 100 sessions, so many are never kept alive.
    pub lazy_percent: u32,
    /// Of 100 holds, so many end by the client's crash: nothing is released, nothing kept alive.
    pub crash_percent: u32,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            clients: 6,
            locks: 3,
            ttl_ms: 500..=2_500,
            think_ms: 0..=120,
            hold_ms: 0..=400,
            wait_ms: 50..=2_000,
            patience_ms: 3_000,
            shared_percent: 30,
            waiting_percent: 70,
            show_percent: 15,
            lazy_percent: 10,
            crash_percent: 8,
        }
    }
}

impl Scenario for Workload {
    type Service = LockService;

    const WORTHLESS_SHARE: usize = 20;
    const WANTED: &'static str = "grants";

    fn clients(&self, stage: Stage<LockService>, seed: u64) -> Vec<BoxFuture<'static, ()>> {
        let scene = Scene::new(self.clone(), stage);
        (0..self.clients).map(|number| Arc::clone(&scene).client(number, seed).boxed()).collect()
    }

    fn last_words_ms(&self) -> u64 {
        6 * self.patience_ms
    }

    fn is_wanted(record: &Record) -> bool {
        matches!(record.answer, Answer::Granted { .. })
    }

    fn check(history: &[Record], _: &Circumstances) -> Vec<Violation> {
        check(history)
    }
}

/// What the clients of a run share.
struct Scene {
    workload: Workload,
    stage: Stage<LockService>,
    uses: Vec<AtomicU64>,
}

impl Scene {
    fn new(workload: Workload, stage: Stage<LockService>) -> Arc<Self> {
        let uses = (0..workload.locks).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { workload, stage, uses })
    }

    /// One client's whole life.
    async fn client(self: Arc<Self>, number: usize, seed: u64) {
        let mut dice = StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 40));
        let clock = Arc::new(SimClock::draw(self.stage.time.clone(), MAX_WALL_OFFSET_MS, &mut dice));
        let line = Line::new(self.stage.doors.clone(), dice, self.workload.patience_ms);
        let caller = Caller { scene: Arc::clone(&self), number, clock, line, keys: 0 };
        Client { caller, live: None }.live().await;
    }

    fn lock(&self, dice: &mut StdRng) -> LockName {
        let place = dice.random_range(0..self.uses.len());
        let generation = self.uses[place].fetch_add(1, Relaxed) / (OPERATIONS_PER_LOCK / 2);
        LockName::new(format!("lock-{place}.{generation}")).expect("a short name")
    }
}

/// How a client asks: over which line, by which clock, under which keys.
struct Caller {
    scene: Arc<Scene>,
    number: usize,
    clock: Arc<SimClock>,
    line: Line<LockService>,
    keys: u64,
}

impl Caller {
    /// Asks, perhaps again elsewhere, and takes down the one operation that this is to the client.
    async fn ask(&mut self, ask: Ask) -> Answer {
        let recorder = self.scene.stage.recorder.clone();
        let pending = recorder.invoke(self.number, ask.clone());
        let sent = self.clock.now();
        let keyed = !matches!(ask, Ask::KeepAlive(_) | Ask::Show(_));
        self.keys += 1;
        let key = keyed.then(|| format!("{}-{}", self.number, self.keys));
        let (answer, unanswered) = self.line.ask(ask, key).await;
        let lease_until_ms = match &answer {
            // A keep-alive that was sent again counts from when it was first sent: too careful.
            Answer::Opened { ttl_ms, .. } | Answer::Alive { ttl_ms } => {
                Some(self.clock.true_ms(deadline(sent, *ttl_ms)))
            }
            _ => None,
        };
        recorder.finish(pending, answer.clone(), unanswered, lease_until_ms);
        answer
    }

    fn fork(&mut self) -> Self {
        let (scene, clock) = (Arc::clone(&self.scene), Arc::clone(&self.clock));
        // Keys of its own: it asks nothing that takes one.
        Self { scene, number: self.number, clock, line: self.line.fork(), keys: 0 }
    }
}

/// When the client stops believing in a session that it renewed by a request sent then.
fn deadline(sent: Tick, ttl_ms: u64) -> Tick {
    sent.plus_ms(ttl_ms - (ttl_ms * EPSILON_PERCENT).div_ceil(100) - MARGIN_MS)
}

struct Live {
    session: SessionId,
    keeper: Option<JoinHandle<()>>,
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

struct Client {
    caller: Caller,
    live: Option<Live>,
}

impl Client {
    async fn live(mut self) {
        let workload = self.caller.scene.workload.clone();
        while self.caller.scene.stage.time.now_ms() < self.caller.scene.stage.until_ms {
            self.caller.line.pause(workload.think_ms.clone()).await;
            let lock = self.caller.scene.lock(self.caller.line.dice());
            if self.caller.line.chance(workload.show_percent) {
                self.caller.ask(Ask::Show(lock)).await;
            } else if let Some(session) = self.session().await {
                self.round(session, lock, &workload).await;
            }
        }
        self.close().await;
    }

    async fn session(&mut self) -> Option<SessionId> {
        let ended = |live: &Live| live.keeper.as_ref().is_some_and(JoinHandle::is_finished);
        if self.live.as_ref().is_some_and(ended) {
            self.live = None;
        }
        if self.live.is_none() {
            let (ttl, lazy) = (self.caller.scene.workload.ttl_ms.clone(), self.caller.scene.workload.lazy_percent);
            let ttl_ms = self.caller.line.draw(ttl);
            let Answer::Opened { session, ttl_ms } = self.caller.ask(Ask::Open { ttl_ms }).await else { return None };
            let keeper = if self.caller.line.chance(lazy) {
                None
            } else {
                Some(tokio::spawn(keep_alive(self.caller.fork(), session.clone(), ttl_ms)))
            };
            self.live = Some(Live { session, keeper });
        }
        self.live.as_ref().map(|live| live.session.clone())
    }

    async fn round(&mut self, session: SessionId, lock: LockName, workload: &Workload) {
        let mode = if self.caller.line.chance(workload.shared_percent) { Mode::Shared } else { Mode::Exclusive };
        let waits = self.caller.line.chance(workload.waiting_percent);
        let wait_ms = if waits { self.caller.line.draw(workload.wait_ms.clone()) } else { 0 };
        let acquire = Ask::Acquire { session: session.clone(), lock: lock.clone(), mode, wait_ms };
        match self.caller.ask(acquire).await {
            Answer::Granted { .. } => {}
            Answer::SessionExpired => return self.live = None,
            // It may hold the lock or get it any moment: look, or give the session up.
            Answer::Unknown if self.caller.line.chance(50) => return self.close().await,
            _ => return,
        }
        self.caller.line.pause(workload.hold_ms.clone()).await;
        if self.caller.line.chance(workload.crash_percent) {
            return self.live = None;
        }
        match self.caller.ask(Ask::Release { session, lock }).await {
            Answer::SessionExpired | Answer::NotHolder => self.live = None,
            // It may be released any moment, even after it was acquired anew: not in this session.
            Answer::Unknown => self.close().await,
            _ => {}
        }
    }

    async fn close(&mut self) {
        if let Some(live) = self.live.take() {
            let session = live.session.clone();
            drop(live);
            self.caller.ask(Ask::Close(session)).await;
        }
    }
}

async fn keep_alive(mut caller: Caller, session: SessionId, ttl_ms: u64) {
    loop {
        sleep(Duration::from_millis(ttl_ms / 4)).await;
        if caller.ask(Ask::KeepAlive(session.clone())).await == Answer::SessionExpired {
            return;
        }
    }
}
