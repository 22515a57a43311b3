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

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    api::{Answer, Ask, Door},
    clock::{SimClock, WorldTime},
    history::Recorder,
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

/// What the clients of a run share.
pub struct Scene {
    workload: Workload,
    doors: Vec<Door>,
    time: WorldTime,
    recorder: Recorder,
    until_ms: u64,
    uses: Vec<AtomicU64>,
}

impl Scene {
    /// Clients that go on until a moment of true time, over any of these doors.
    pub fn new(workload: Workload, doors: Vec<Door>, time: WorldTime, recorder: Recorder, until_ms: u64) -> Arc<Self> {
        let uses = (0..workload.locks).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { workload, doors, time, recorder, until_ms, uses })
    }

    /// One client's whole life.
    pub async fn client(self: Arc<Self>, number: usize, seed: u64) {
        let mut dice = StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 40));
        let clock = Arc::new(SimClock::draw(self.time.clone(), &mut dice));
        let at = dice.random_range(0..self.doors.len());
        let caller = Caller { scene: Arc::clone(&self), number, clock, dice, at, keys: 0 };
        Client { caller, live: None }.live().await;
    }

    fn lock(&self, dice: &mut StdRng) -> LockName {
        let place = dice.random_range(0..self.uses.len());
        let generation = self.uses[place].fetch_add(1, Relaxed) / (OPERATIONS_PER_LOCK / 2);
        LockName::new(format!("lock-{place}.{generation}")).expect("a short name")
    }
}

/// How a client asks: at which node, with which patience, under which keys.
struct Caller {
    scene: Arc<Scene>,
    number: usize,
    clock: Arc<SimClock>,
    dice: StdRng,
    at: usize,
    keys: u64,
}

impl Caller {
    fn draw(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.dice.random_range(range)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.dice.random_ratio(percent, 100)
    }

    async fn pause(&mut self, range: RangeInclusive<u64>) {
        let ms = self.draw(range);
        sleep(Duration::from_millis(ms)).await;
    }

    /// Asks, perhaps again elsewhere, and takes down the one operation that this is to the client.
    async fn ask(&mut self, ask: Ask) -> Answer {
        let recorder = self.scene.recorder.clone();
        let pending = recorder.invoke(self.number, ask.clone());
        let sent = self.clock.now();
        let (answer, unanswered) = self.attempts(ask).await;
        let lease_until_ms = match &answer {
            Answer::Opened { ttl_ms, .. } | Answer::Alive { ttl_ms } => {
                Some(self.clock.true_ms(deadline(sent, *ttl_ms)))
            }
            _ => None,
        };
        recorder.finish(pending, answer.clone(), unanswered, lease_until_ms);
        answer
    }

    /// The answer, and how many attempts had none.
    async fn attempts(&mut self, ask: Ask) -> (Answer, u32) {
        let keyed = !matches!(ask, Ask::KeepAlive(_) | Ask::Show(_));
        self.keys += 1;
        let key = keyed.then(|| format!("{}-{}", self.number, self.keys));
        let mut unanswered = 0;
        for attempt in 1..=3 {
            let answer = self.attempt(ask.clone(), key.clone()).await;
            match &answer {
                Answer::Unknown => unanswered += 1,
                Answer::Refused(_) => {}
                _ => return (answer, unanswered),
            }
            self.at = self.dice.random_range(0..self.scene.doors.len());
            // A keep-alive that was sent again counts from when it was first sent: too careful.
            if attempt == 3 || !self.chance(60) {
                return (if unanswered > 0 { Answer::Unknown } else { answer }, unanswered);
            }
            self.pause(5..=150).await;
        }
        unreachable!("the last attempt returns")
    }

    async fn attempt(&mut self, ask: Ask, key: Option<String>) -> Answer {
        // The way to the node and back; sometimes the client gets to its answer late.
        self.pause(0..=2).await;
        let door = self.scene.doors[self.at].clone();
        let patience = Duration::from_millis(self.scene.workload.patience_ms);
        let answer = timeout(patience, door.perform(ask, key)).await.unwrap_or(Answer::Unknown);
        if self.chance(1) {
            self.pause(50..=1_500).await
        } else {
            self.pause(0..=2).await
        }
        answer
    }

    fn fork(&mut self) -> Self {
        let dice = StdRng::seed_from_u64(self.dice.random());
        let (scene, clock) = (Arc::clone(&self.scene), Arc::clone(&self.clock));
        // Keys of its own: it asks nothing that takes one.
        Self { scene, number: self.number, clock, dice, at: self.at, keys: 0 }
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
        while self.caller.scene.time.now_ms() < self.caller.scene.until_ms {
            self.caller.pause(workload.think_ms.clone()).await;
            let lock = self.caller.scene.lock(&mut self.caller.dice);
            if self.caller.chance(workload.show_percent) {
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
            let ttl_ms = self.caller.draw(ttl);
            let Answer::Opened { session, ttl_ms } = self.caller.ask(Ask::Open { ttl_ms }).await else { return None };
            let keeper = if self.caller.chance(lazy) {
                None
            } else {
                Some(tokio::spawn(keep_alive(self.caller.fork(), session.clone(), ttl_ms)))
            };
            self.live = Some(Live { session, keeper });
        }
        self.live.as_ref().map(|live| live.session.clone())
    }

    async fn round(&mut self, session: SessionId, lock: LockName, workload: &Workload) {
        let mode = if self.caller.chance(workload.shared_percent) { Mode::Shared } else { Mode::Exclusive };
        let waits = self.caller.chance(workload.waiting_percent);
        let wait_ms = if waits { self.caller.draw(workload.wait_ms.clone()) } else { 0 };
        let acquire = Ask::Acquire { session: session.clone(), lock: lock.clone(), mode, wait_ms };
        match self.caller.ask(acquire).await {
            Answer::Granted { .. } => {}
            Answer::SessionExpired => return self.live = None,
            // It may hold the lock or get it any moment: look, or give the session up.
            Answer::Unknown if self.caller.chance(50) => return self.close().await,
            _ => return,
        }
        self.caller.pause(workload.hold_ms.clone()).await;
        if self.caller.chance(workload.crash_percent) {
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
