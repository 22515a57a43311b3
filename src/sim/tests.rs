//! The simulation tried on a lock service of one page: a table on machine 0 that the others forward
//! to. It shows that processes die, stop and sleep as they should, that a right service passes and
//! that a wrong one is caught, before any of it is turned on the real nodes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, sleep};

use super::{
    api::{Answer, Ask, LockService},
    clock::MAX_WALL_OFFSET_MS,
    door::Api,
    faults::{FaultKind, FaultPlan},
    network::Weather,
    run::{RunPlan, expect_all_pass, expect_caught, run, seeds},
    violation::Violation,
    workload::Workload,
    world::{Boot, Pause, Seat, World, node_id},
};
use crate::{
    clock::Clock,
    error::ErrorCode,
    ids::{FencingToken, LockName, SessionId, Tick},
    machine::lock::Mode,
    mutant::{self, Mutant},
    net::{Lane, Mesh, MeshEvent, Protocol, Topic},
};

/// The durable state of the one-page service.
#[derive(Default)]
struct Table {
    sessions: BTreeMap<SessionId, (u64, Tick)>,
    locks: BTreeMap<LockName, BTreeMap<SessionId, (Mode, FencingToken)>>,
    answers: HashMap<String, Answer>,
    opened: u64,
    tokens: u64,
}

impl Table {
    fn restarted(&mut self, now: Tick) {
        self.sessions.values_mut().for_each(|(_, renewed)| *renewed = now);
        if mutant::on(Mutant::TokenCounterRestarts) {
            self.tokens = 0;
        }
    }

    fn expire(&mut self, now: Tick) {
        let dead: Vec<_> = self.sessions.iter().filter(|(_, (ttl, from))| now.ms_since(*from) >= *ttl).collect();
        for session in dead.into_iter().map(|(session, _)| session.clone()).collect::<Vec<_>>() {
            self.end(&session);
        }
    }

    fn end(&mut self, session: &SessionId) {
        self.sessions.remove(session);
        for holders in self.locks.values_mut() {
            holders.remove(session);
        }
    }

    fn answer(&mut self, now: Tick, ask: Ask, key: Option<String>) -> Answer {
        self.expire(now);
        if let Some(answer) = key.as_ref().and_then(|key| self.answers.get(key)) {
            return answer.clone();
        }
        let answer = self.apply(now, ask);
        if let Some(key) = key {
            self.answers.insert(key, answer.clone());
        }
        answer
    }

    fn apply(&mut self, now: Tick, ask: Ask) -> Answer {
        let alive = ask.session().is_none_or(|session| self.sessions.contains_key(session));
        let checked = !matches!(ask, Ask::Acquire { .. }) || !mutant::on(Mutant::NoSessionCheckAtApply);
        if !alive && checked {
            return Answer::SessionExpired;
        }
        match ask {
            Ask::Open { ttl_ms } => {
                self.opened += 1;
                let session = SessionId::new(format!("s{}", self.opened)).unwrap();
                self.sessions.insert(session.clone(), (ttl_ms, now));
                Answer::Opened { session, ttl_ms }
            }
            Ask::KeepAlive(session) => {
                let (ttl_ms, renewed) = self.sessions.get_mut(&session).unwrap();
                *renewed = now;
                Answer::Alive { ttl_ms: *ttl_ms }
            }
            Ask::Close(session) => {
                self.end(&session);
                Answer::Closed
            }
            Ask::Acquire { session, lock, mode, .. } => self.acquire(session, lock, mode),
            Ask::Release { session, lock } => {
                let held = self.locks.get_mut(&lock).and_then(|holders| holders.remove(&session));
                if held.is_some() { Answer::Released } else { Answer::NotHolder }
            }
            Ask::Show(lock) => {
                let holders = self.locks.entry(lock).or_default();
                let mode = holders.values().next().map(|(mode, _)| *mode);
                Answer::Shown { mode, holders: holders.iter().map(|(s, (_, token))| (s.clone(), *token)).collect() }
            }
        }
    }

    fn acquire(&mut self, session: SessionId, lock: LockName, mode: Mode) -> Answer {
        let holders = self.locks.entry(lock).or_default();
        if let Some((held, token)) = holders.get(&session).filter(|(held, _)| *held == mode || mode == Mode::Shared) {
            return Answer::Granted { token: *token, mode: *held };
        }
        let fits = |(holder, (held, _)): (&SessionId, &(Mode, FencingToken))| {
            *holder == session || (mode == Mode::Shared && *held == Mode::Shared)
        };
        if !holders.iter().all(fits) {
            return Answer::Held { holders: holders.keys().cloned().collect() };
        }
        self.tokens += 1;
        holders.insert(session, (mode, FencingToken(self.tokens)));
        Answer::Granted { token: FencingToken(self.tokens), mode }
    }
}

struct Front {
    mesh: Arc<dyn Mesh>,
    table: Option<Arc<Mutex<Table>>>,
    clock: Arc<dyn Clock>,
}

impl Front {
    async fn once(&self, ask: Ask, key: Option<String>) -> Answer {
        if let Some(table) = &self.table {
            return table.lock().unwrap().answer(self.clock.now(), ask, key);
        }
        let body = serde_json::to_vec(&(ask, key)).unwrap();
        match self.mesh.call(node_id(0), Protocol::Client, Lane::Ask, body.into()).await {
            Ok(body) => serde_json::from_slice(&body).unwrap(),
            Err(error) if error.may_have_arrived() => Answer::Unknown,
            Err(_) => Answer::Refused(ErrorCode::Unavailable),
        }
    }
}

impl Api<LockService> for Front {
    fn perform(&self, ask: Ask, key: Option<String>) -> BoxFuture<'_, Answer> {
        async move {
            let Ask::Acquire { wait_ms, .. } = ask else { return self.once(ask, key).await };
            let (over, mut perhaps) = (Instant::now() + Duration::from_millis(wait_ms), false);
            for attempt in 0.. {
                let key = key.as_ref().map(|key| format!("{key}/{attempt}"));
                let answer = self.once(ask.clone(), key).await;
                perhaps |= answer == Answer::Unknown;
                match answer {
                    Answer::Held { .. } if !perhaps && Instant::now() < over => sleep(Duration::from_millis(20)).await,
                    Answer::Held { .. } if perhaps => return Answer::Unknown,
                    _ => return answer,
                }
            }
            unreachable!("the wait is over at some time")
        }
        .boxed()
    }

    fn leads(&self) -> bool {
        self.table.is_some()
    }
}

/// A cluster of the one-page service.
fn one_page() -> Boot<LockService> {
    let disk = Arc::new(Mutex::new(Table::default()));
    Arc::new(move |seat: Seat| {
        let disk = Arc::clone(&disk);
        async move {
            let Seat { index, node, restarts, seed, mesh, mut events, clock, disk: _ } = seat;
            assert_eq!(mesh.local(), node);
            let table = (index == 0).then_some(disk);
            if let Some(table) = table.as_ref().filter(|_| restarts > 0) {
                table.lock().unwrap().restarted(clock.now());
            }
            let front = Arc::new(Front { mesh, table, clock });
            let chatter = Arc::clone(&front.mesh);
            tokio::spawn(async move {
                sleep(Duration::from_millis(seed % 50)).await;
                loop {
                    chatter.broadcast(Topic::View, Bytes::from_static(b"I am here"));
                    sleep(Duration::from_millis(50)).await;
                }
            });
            let server = Arc::clone(&front);
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    let MeshEvent::Call(call) = event else { continue };
                    let (ask, key) = serde_json::from_slice(&call.body).unwrap();
                    let answer = server.once(ask, key).await;
                    let _ = call.reply.send(Bytes::from(serde_json::to_vec(&answer).unwrap()));
                }
            });
            front as Arc<dyn Api<LockService>>
        }
        .boxed()
    })
}

/// One page elects nobody and is found under its first id only. It sends little: faults last long enough
/// to meet something.
fn plan() -> RunPlan<Workload> {
    let mut faults = FaultPlan { lasts_ms: 1_000..=4_000, ..FaultPlan::default() };
    faults.mix.retain(|(kind, _)| !matches!(kind, FaultKind::Coup | FaultKind::Wipe));
    RunPlan { form_ms: 500, ordeal_ms: 40_000, faults, ..RunPlan::default() }
}

#[test]
fn a_right_service_passes_under_every_kind_of_fault() {
    expect_all_pass(&seeds(25), |_| plan(), |_| one_page());
}

#[test]
fn a_service_whose_tokens_begin_anew_is_caught() {
    mutant::with(Some(Mutant::TokenCounterRestarts), || {
        expect_caught(&seeds(10), |_| plan(), |_| one_page(), |v| matches!(v, Violation::Token(_)));
    });
}

#[test]
fn a_service_that_grants_to_dead_sessions_is_caught() {
    mutant::with(Some(Mutant::NoSessionCheckAtApply), || {
        let caught = |v: &Violation| matches!(v, Violation::NotLinearizable(_));
        expect_caught(&seeds(10), |_| plan(), |_| one_page(), caught);
    });
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let plan = RunPlan { ordeal_ms: 4_000, calm_ms: 1_000, ..plan() };
    let stories = [0, 1].map(|_| {
        let report = run(3, &plan, one_page());
        (format!("{:?}", report.history), report.tally, report.windows)
    });
    assert!(stories[0] == stories[1]);
}

#[test]
fn a_run_without_faults_has_none_and_one_with_them_names_them() {
    let mix = FaultPlan { mix: vec![(FaultKind::Stop, 1)], ..FaultPlan::default() };
    let report = run(1, &RunPlan { faults: mix, weather: Weather::calm(), ..plan() }, one_page());
    let kinds: Vec<_> = report.overlaps().into_keys().collect();
    assert_eq!(kinds, [FaultKind::Stop]);
    assert!(report.violations.is_empty(), "{:?}", report.violations);
}

/// A world of one machine whose process counts how often its 10 ms timer fired and how late it was
/// at most, by its own clocks.
struct Ticker {
    world: World<LockService>,
    fired: Arc<AtomicU64>,
    latest_ms: Arc<AtomicU64>,
    boottime_gap_ms: Arc<AtomicU64>,
}

fn ticker() -> Ticker {
    let [fired, latest_ms, boottime_gap_ms] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
    let counters = [&fired, &latest_ms, &boottime_gap_ms].map(Arc::clone);
    let boot: Boot<LockService> = Arc::new(move |seat: Seat| {
        let [fired, latest, gap] = counters.clone();
        tokio::task::yield_now()
            .then(move |()| async move {
                let (mesh, clock) = (Arc::clone(&seat.mesh), Arc::clone(&seat.clock));
                tokio::spawn(async move {
                    loop {
                        let (due, before) = (Instant::now() + Duration::from_millis(10), clock.now());
                        tokio::time::sleep_until(due).await;
                        fired.fetch_add(1, Relaxed);
                        latest.fetch_max(due.elapsed().as_millis() as u64, Relaxed);
                        gap.fetch_max(clock.now().ms_since(before), Relaxed);
                    }
                });
                Arc::new(Front { mesh, table: None, clock: seat.clock }) as Arc<dyn Api<LockService>>
            })
            .boxed()
    });
    let mut world = World::new(5, 1, Weather::calm(), MAX_WALL_OFFSET_MS, boot);
    world.start(0);
    world.run_for(1_000);
    Ticker { world, fired, latest_ms, boottime_gap_ms }
}

#[test]
fn timers_run_at_the_rate_of_their_machine() {
    let ticker = ticker();
    let fired = ticker.fired.load(Relaxed);
    assert!((98..=101).contains(&fired), "{fired} times in a second");
    assert!(ticker.latest_ms.load(Relaxed) <= 1 && ticker.boottime_gap_ms.load(Relaxed) <= 12);
}

#[test]
fn a_killed_process_runs_no_more_whatever_it_had_spawned() {
    let mut ticker = ticker();
    ticker.world.kill(0);
    let fired = ticker.fired.load(Relaxed);
    ticker.world.run_for(500);
    assert_eq!(ticker.fired.load(Relaxed), fired);
    ticker.world.start(0);
    ticker.world.run_for(500);
    assert!(ticker.fired.load(Relaxed) > fired + 40);
}

#[test]
fn a_stopped_process_does_nothing_and_is_late_afterwards() {
    let mut ticker = ticker();
    ticker.world.pause(0, Pause::Stop);
    let fired = ticker.fired.load(Relaxed);
    ticker.world.run_for(2_000);
    assert_eq!(ticker.fired.load(Relaxed), fired);
    ticker.world.resume(0);
    ticker.world.run_for(20);
    assert!((fired + 1..fired + 5).contains(&ticker.fired.load(Relaxed)), "it does not catch up");
    assert!(ticker.latest_ms.load(Relaxed) > 1_900 && ticker.boottime_gap_ms.load(Relaxed) > 1_900);
}

#[test]
fn a_suspended_machine_knows_it_only_by_its_boottime() {
    let mut ticker = ticker();
    ticker.world.pause(0, Pause::Suspend);
    ticker.world.run_for(2_000);
    ticker.world.resume(0);
    ticker.world.run_for(50);
    assert!(ticker.latest_ms.load(Relaxed) <= 1, "its timers slept with it");
    assert!(ticker.boottime_gap_ms.load(Relaxed) > 1_900);
}
