//! Seeded clients of the cache: they read, write, swap and delete a few keys, one by one and by a prefix, some of them for
//! a while only, and count with others, at one node and then another.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use futures::{FutureExt, future::BoxFuture};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    api::{Answer, Ask, CacheService, Record},
    check::{check, check_kept, check_ttl},
};
use crate::{
    ids::CacheKey,
    node::caches::Version,
    sim::{
        line::Line,
        machine::CachePlan,
        run::{Circumstances, Scenario, Stage},
        violation::Violation,
    },
};

/// What the clients do, and to what cache. Durations are ranges to draw from, in milliseconds.
#[derive(Clone, Debug)]
pub struct Workload {
    /// How the cache keeps its lines.
    pub cache: CachePlan,
    /// How many clients.
    pub clients: usize,
    /// How many keys.
    pub keys: u64,
    /// Between two operations.
    pub think_ms: RangeInclusive<u64>,
    /// After so long a client hangs up.
    pub patience_ms: u64,
    /// Of 100 operations, so many read.
    pub read_percent: u32,
    /// Of 100 operations that change something, so many add to a counter.
    pub add_percent: u32,
    /// Of 100 others, so many make all keys absent that begin alike.
    pub clear_percent: u32,
    /// Of 100 others, so many delete.
    pub delete_percent: u32,
    /// Of 100 others, so many name the version that the client knows.
    pub swap_percent: u32,
    /// Of 100 others, so many store something for a while only.
    pub passing_percent: u32,
    /// For how long.
    pub ttl_ms: RangeInclusive<u64>,
    /// After so many of 100 operations, the client goes on at another node.
    pub moves_percent: u32,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            cache: CachePlan::default(),
            clients: 7,
            keys: 4,
            think_ms: 0..=60,
            patience_ms: 5_000,
            read_percent: 65,
            add_percent: 10,
            clear_percent: 2,
            delete_percent: 10,
            swap_percent: 25,
            passing_percent: 10,
            ttl_ms: 300..=3_000,
            moves_percent: 15,
        }
    }
}

impl Scenario for Workload {
    type Service = CacheService;

    const WORTHLESS_SHARE: usize = 10;
    const WANTED: &'static str = "values read or written";

    fn clients(&self, stage: Stage<CacheService>, seed: u64) -> Vec<BoxFuture<'static, ()>> {
        let (stage, values) = (Arc::new(stage), Arc::new(AtomicU64::new(0)));
        let client = |number| {
            let dice = StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 40));
            let line = Line::new(stage.doors.clone(), dice, self.patience_ms);
            let client =
                Client { workload: self.clone(), stage: Arc::clone(&stage), values: Arc::clone(&values), number, line };
            client.live().boxed()
        };
        (0..self.clients).map(client).collect()
    }

    fn last_words_ms(&self) -> u64 {
        4 * self.patience_ms
    }

    fn is_wanted(record: &Record) -> bool {
        matches!(record.answer, Answer::Read(..) | Answer::Stored(_) | Answer::Counted(..))
    }

    fn check(history: &[Record], _: &Circumstances) -> Vec<Violation> {
        check(history)
    }
}

/// The same where nothing happens for which a value may go.
#[derive(Clone, Debug, Default)]
pub struct Kept(pub Workload);

impl Scenario for Kept {
    type Service = CacheService;

    const WORTHLESS_SHARE: usize = Workload::WORTHLESS_SHARE;
    const WANTED: &'static str = Workload::WANTED;

    fn clients(&self, stage: Stage<CacheService>, seed: u64) -> Vec<BoxFuture<'static, ()>> {
        self.0.clients(stage, seed)
    }

    fn last_words_ms(&self) -> u64 {
        self.0.last_words_ms()
    }

    fn is_wanted(record: &Record) -> bool {
        Workload::is_wanted(record)
    }

    fn check(history: &[Record], _: &Circumstances) -> Vec<Violation> {
        check(history).into_iter().chain(check_kept(history)).chain(check_ttl(history)).collect()
    }
}

struct Client {
    workload: Workload,
    stage: Arc<Stage<CacheService>>,
    /// Every write of the run stores another number.
    values: Arc<AtomicU64>,
    number: usize,
    line: Line<CacheService>,
}

impl Client {
    async fn live(mut self) {
        let mut known: Option<(CacheKey, Version)> = None;
        while self.stage.time.now_ms() < self.stage.until_ms {
            self.line.pause(self.workload.think_ms.clone()).await;
            let ask = self.next(known.as_ref());
            // Asked once only: a write that is repeated elsewhere could be done twice.
            let pending = self.stage.recorder.invoke(self.number, ask.clone());
            let answer = self.line.attempt(ask.clone(), None).await;
            self.stage.recorder.finish(pending, answer.clone(), 1, None);
            if let Answer::Read(_, version) | Answer::Stored(version) = answer {
                known = Some((ask.key().clone(), version));
            }
            let is_of_no_use = matches!(answer, Answer::Refused | Answer::Unknown);
            if self.line.chance(if is_of_no_use { 60 } else { self.workload.moves_percent }) {
                self.line.go_elsewhere();
            }
        }
    }

    fn next(&mut self, known: Option<&(CacheKey, Version)>) -> Ask {
        let number = self.line.draw(0..=self.workload.keys - 1);
        let name = |what: &str| CacheKey::new(format!("{what}-{number}")).expect("a short name is a key");
        let key = name("key");
        if self.line.chance(self.workload.read_percent) {
            return Ask::Get(key);
        }
        if self.line.chance(self.workload.add_percent) {
            return Ask::Add(name("count"));
        }
        if self.line.chance(self.workload.clear_percent) {
            return Ask::Clear(key);
        }
        if self.line.chance(self.workload.delete_percent) {
            return Ask::Delete(key);
        }
        let value = self.values.fetch_add(1, Relaxed);
        match known {
            Some((key, version)) if self.line.chance(self.workload.swap_percent) => {
                Ask::Swap(key.clone(), value, *version)
            }
            _ if self.line.chance(self.workload.passing_percent) => {
                Ask::PutFor(key, value, self.line.draw(self.workload.ttl_ms.clone()))
            }
            _ => Ask::Put(key, value),
        }
    }
}
