//! The lines of this node as readers see them: hits without any task, from memory that many threads read.
//!
//! Written by the [cache task](super::cache) alone, read by everyone. A reader takes the line out of the table *first*,
//! then the [end](super::ends) of the session under which it came, and reads the clock last: it is a hit only if that is
//! before the end. So the end of a session makes all its lines unreadable at once. The table also decides which lines stay: quick_cache's S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023),
//! with a bound on their number; whom it puts out is told to the task, which gives the line back to its home.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use quick_cache::{DefaultHashBuilder, Equivalent, Lifecycle, OptionsBuilder, UnitWeighter, sync::Cache};

use super::{
    ends::{EndOf, Ends, EndsWriter},
    types::Read,
};
use crate::{
    clock::Clock,
    ids::{CacheKey, Tick},
    machine::cache::{HomeId, Installed, LineState, Nonce, Version},
    mutant::{self, Mutant},
};

/// Below so many lines one shard keeps the bound exact; above, shards keep threads apart.
const SHARDED_FROM: usize = 1_024;
/// Into so many shards.
const SHARDS: usize = 16;

/// A line as readers find it: in the table itself, for one memory access less.
#[derive(Clone, Debug)]
struct Readable {
    state: LineState,
    version: Version,
    /// `None`: the key is known to be absent.
    body: Option<Bytes>,
    expires: Option<Tick>,
    session: EndOf,
}

/// A key by its text, so that a hit makes no key: it hashes as a [`CacheKey`] does.
#[derive(Hash)]
struct Named<'a>(&'a str);

impl Equivalent<CacheKey> for Named<'_> {
    fn equivalent(&self, key: &CacheKey) -> bool {
        self.0 == key.as_str()
    }
}

/// Notes who has to go.
#[derive(Clone, Copy, Debug)]
struct PutOut;

impl Lifecycle<CacheKey, Readable> for PutOut {
    type RequestState = Vec<CacheKey>;

    fn on_evict(&self, gone: &mut Vec<CacheKey>, key: CacheKey, _: Readable) {
        gone.push(key);
    }
}

/// Counts in so many places that threads do not wait for each other.
const STRIPES: usize = 16;

/// A counter with a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

/// Counts hits, each thread in its own place as far as there are enough.
#[derive(Debug, Default)]
struct Hits([Stripe; STRIPES]);

impl Hits {
    fn count(&self) {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static PLACE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        PLACE.with(|place| self.0[*place].0.fetch_add(1, Ordering::Relaxed));
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}

/// The table. Shared by all readers of a node.
pub(super) struct Table {
    lines: Cache<CacheKey, Readable, UnitWeighter, DefaultHashBuilder, PutOut>,
    ends: Arc<Ends>,
    clock: Arc<dyn Clock>,
    hits: Hits,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("lines", &self.lines.len()).finish_non_exhaustive()
    }
}

impl Table {
    /// For at most so many lines, at least one.
    pub(super) fn new(capacity: usize, clock: Arc<dyn Clock>) -> Self {
        let shards = if capacity < SHARDED_FROM { 1 } else { SHARDS };
        // Each shard is bounded by itself: rounded up, they would hold more together.
        let capacity = (capacity - capacity % shards).max(1);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(capacity)
            .weight_capacity(capacity as u64)
            .build()
            .expect("the number of items and their weight are given");
        let lines = Cache::with_options(options, UnitWeighter, DefaultHashBuilder::default(), PutOut);
        Self { lines, ends: Arc::new(Ends::new()), clock, hits: Hits::default() }
    }

    /// Reads a line, if that needs no message: the value, or that there is none. `None`: nothing that may be read.
    #[inline]
    pub(super) fn read(&self, key: &str) -> Option<Option<Read>> {
        let line = self.lines.get(&Named(key))?;
        let end = self.ends.end(line.session);
        let now = self.clock.now();
        let is_over = now >= end && !mutant::on(Mutant::LinesOutliveSessions);
        if is_over || line.expires.is_some_and(|expires| now >= expires) {
            return None;
        }
        self.hits.count();
        Some(line.body.map(|body| Read { version: line.version, body, state: line.state, hit: true }))
    }

    /// How many reads were hits.
    pub(super) fn hits(&self) -> u64 {
        self.hits.sum()
    }

    /// How many lines there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }
}

/// The task's side of the table: sessions, and what is installed and dropped.
#[derive(Debug)]
pub(super) struct TableWriter {
    table: Arc<Table>,
    ends: EndsWriter,
}

impl TableWriter {
    /// Of an empty table.
    pub(super) fn new(table: Arc<Table>) -> Self {
        let ends = EndsWriter::new(Arc::clone(&table.ends));
        Self { table, ends }
    }

    /// A session with a home is alive until then. What came under another one may not be read any more.
    pub(super) fn session(&mut self, home: HomeId, session: Nonce, until: Tick) {
        self.ends.set(home, session, until);
    }

    /// A home is none any more, and nothing is held of it.
    pub(super) fn forget(&mut self, keep: impl Fn(&HomeId) -> bool) {
        self.ends.forget(keep);
    }

    /// From now on the line may be read so. Whoever has to go for it is told; it may not be read any more.
    pub(super) fn install(&mut self, key: CacheKey, line: Installed) -> Vec<CacheKey> {
        let Installed { state, version, body, expires, home, session } = line;
        // Of a session that is not known to be alive nothing may be read.
        let session = self.ends.of(&home, session);
        let mut gone = Vec::new();
        let readable = Readable { state, version, body, expires, session };
        let installed = key.clone();
        self.table.lines.insert_with_lifecycle(key, readable, &mut gone);
        // What was there under this key before is told too, and has only changed.
        if gone.contains(&installed) && self.table.lines.contains_key(&installed) {
            gone.retain(|key| *key != installed);
        }
        gone
    }

    /// From now on the line may not be read.
    pub(super) fn drop_line(&mut self, key: &CacheKey) {
        if !mutant::on(Mutant::DroppedLinesAreRead) {
            // Not `remove`: of a line that is not there any more it would forget that it was, and S3-FIFO takes who comes
            // back after it was put out for one that is asked for often.
            self.table.lines.remove_if(key, |_| true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ids::{Epoch, Incarnation, NodeId};

    #[derive(Debug, Default)]
    struct Hand(Mutex<u64>);

    impl Hand {
        fn set(&self, ms: u64) {
            *self.0.lock().unwrap() = ms;
        }
    }

    impl Clock for Hand {
        fn now(&self) -> Tick {
            Tick(*self.0.lock().unwrap())
        }

        fn wall(&self) -> Tick {
            self.now()
        }
    }

    fn home() -> HomeId {
        HomeId { node: NodeId::from_bytes([1; 32]), incarnation: Incarnation(1), group: 0 }
    }

    fn session(count: u64) -> Nonce {
        Nonce { incarnation: Incarnation(1), count }
    }

    fn line(body: Option<&'static str>, count: u64) -> Installed {
        Installed {
            state: LineState::S,
            version: Version { epoch: Epoch(1), seq: 1, n: 0 },
            body: body.map(|body| Bytes::from_static(body.as_bytes())),
            expires: None,
            home: home(),
            session: session(count),
        }
    }

    fn key(name: &str) -> CacheKey {
        CacheKey::new(name).unwrap()
    }

    fn table(capacity: usize) -> (Arc<Hand>, Arc<Table>, TableWriter) {
        let clock = Arc::new(Hand::default());
        let table = Arc::new(Table::new(capacity, clock.clone()));
        (clock, Arc::clone(&table), TableWriter::new(table))
    }

    #[test]
    fn a_line_is_read_while_its_session_lives() {
        let (clock, table, mut writer) = table(4);
        writer.session(home(), session(1), Tick(100));
        writer.install(key("k"), line(Some("a"), 1));
        writer.install(key("absent"), line(None, 1));
        clock.set(99);
        assert!(matches!(table.read("k"), Some(Some(read)) if read.body == "a" && read.hit));
        assert_eq!(table.read("absent"), Some(None));
        clock.set(100);
        assert_eq!(table.read("k"), None);
        writer.session(home(), session(1), Tick(200));
        assert!(matches!(table.read("k"), Some(Some(_))), "it was extended");
        writer.session(home(), session(2), Tick(300));
        assert_eq!(table.read("k"), None, "it came under another session");
        writer.install(key("k"), line(Some("b"), 1));
        assert_eq!(table.read("k"), None, "under one that is over");
        assert_eq!(table.hits(), 3);
    }

    #[test]
    fn what_was_dropped_or_has_expired_is_not_read() {
        let (clock, table, mut writer) = table(4);
        writer.session(home(), session(1), Tick(100));
        writer.install(key("k"), Installed { expires: Some(Tick(50)), ..line(Some("a"), 1) });
        clock.set(49);
        assert!(matches!(table.read("k"), Some(Some(_))));
        clock.set(50);
        assert_eq!(table.read("k"), None);
        writer.install(key("k"), line(Some("b"), 1));
        writer.drop_line(&key("k"));
        assert_eq!(table.read("k"), None);
    }

    #[test]
    fn a_line_that_only_changes_does_not_have_to_go() {
        for capacity in [1, 100, 5_000] {
            let (_, table, mut writer) = table(capacity);
            writer.session(home(), session(1), Tick(100));
            for body in ["a", "b", "c"] {
                assert_eq!(writer.install(key("k"), line(Some(body), 1)), [], "of {capacity}");
                assert!(matches!(table.read("k"), Some(Some(read)) if read.body == body));
            }
        }
    }

    #[test]
    fn who_comes_back_after_it_was_put_out_stays_though_many_come_once() {
        const CAPACITY: usize = 100;
        let (_, table, mut writer) = table(CAPACITY);
        writer.session(home(), session(1), Tick(100));
        let install = |writer: &mut TableWriter, name: &str| {
            let gone = writer.install(key(name), line(Some("a"), 1));
            // As its task does, which gives back what has to go.
            gone.iter().for_each(|gone| writer.drop_line(gone));
            gone
        };
        let gone =
            (0..=CAPACITY).flat_map(|n| install(&mut writer, &format!("first {n}"))).last().expect("one too many");
        assert_eq!(table.read(gone.as_str()), None);
        install(&mut writer, gone.as_str());
        (0..2 * CAPACITY).for_each(|n| drop(install(&mut writer, &format!("once {n}"))));
        assert!(table.read(gone.as_str()).is_some());
    }

    #[test]
    fn there_are_never_more_lines_than_there_may_be_and_each_that_goes_is_told() {
        for capacity in [1, 2, 7, 100, 5_000] {
            let (_, table, mut writer) = table(capacity);
            writer.session(home(), session(1), Tick(100));
            let mut gone = 0;
            for n in 0..2 * capacity {
                gone += writer.install(key(&n.to_string()), line(Some("a"), 1)).len();
                assert!(table.len() <= capacity);
            }
            assert_eq!(gone + table.len(), 2 * capacity, "of {capacity}");
        }
    }
}
