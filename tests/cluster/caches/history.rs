//! What clients were told of the cache, and what must be true of it whatever happened meanwhile.
//!
//! Each value is written once, and a version names one value, so the versions tell the order in which the cache believes
//! that everything happened. A history is linearizable if that order agrees with what was seen:
//!
//! * whoever asks after an answer with a version is told that one or a later one, and a write a later one, also where
//!   reads in between were misses;
//! * a value was asked to be written before it is read, and not refused as having no effect;
//! * between the version that a swap names and the one that it makes there is no other.
//!
//! A write of unknown outcome may be read from any moment on, or never. A miss says nothing here: [`History::spurious`] is for
//! where nothing happened for which a value may be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::api::{Answer, Ask, Record};

/// All that was told so far, to whomever. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<Vec<Record>>>);

impl History {
    pub(super) fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, record: Record) {
        self.records().push(record);
    }

    /// Checks everything, and tells the figures.
    #[track_caller]
    pub(super) fn check(&self, what: &str) {
        let records = self.records();
        let wrong = check(&records);
        assert!(wrong.is_empty(), "{what}: {} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
        println!("{what}: {}", Figures::of(&records).tell());
    }

    /// From a moment to the acknowledgement of the first write of a key that was asked for after it.
    pub(super) fn first_write_after(&self, key: &str, moment: Instant) -> Option<Duration> {
        let records = self.records();
        let stored = |record: &&Record| matches!(record.answer, Answer::Stored { .. });
        let after = records.iter().filter(|record| record.key == key && record.asked > moment).filter(stored);
        after.map(|record| record.answered - moment).min()
    }

    /// Misses of keys that had been stored, and that nobody deletes.
    pub(super) fn spurious(&self) -> Vec<Record> {
        let records = self.records();
        let mut stored: BTreeMap<&str, Instant> = BTreeMap::new();
        for record in records.iter().filter(|record| matches!(record.answer, Answer::Stored { .. })) {
            let first = stored.entry(&record.key).or_insert(record.answered);
            *first = record.answered.min(*first);
        }
        let is_gone = |record: &&Record| {
            record.answer == Answer::Miss && stored.get(record.key.as_str()).is_some_and(|first| *first < record.asked)
        };
        records.iter().filter(is_gone).cloned().collect()
    }
}

/// How often what was answered.
#[derive(Default)]
struct Figures {
    read: usize,
    hits: usize,
    misses: usize,
    stored: usize,
    mismatched: usize,
    refused: BTreeMap<String, usize>,
    unknown: usize,
    /// The longest time in which no write of one of the keys was acknowledged.
    gap: Duration,
}

impl Figures {
    fn of(records: &[Record]) -> Self {
        let mut figures = Self::default();
        let mut stored: BTreeMap<&str, Vec<Instant>> = BTreeMap::new();
        for record in records {
            match &record.answer {
                Answer::Read { hit, .. } => {
                    figures.read += 1;
                    figures.hits += usize::from(*hit);
                }
                Answer::Miss => figures.misses += 1,
                Answer::Stored { .. } => {
                    figures.stored += 1;
                    stored.entry(&record.key).or_default().push(record.answered);
                }
                Answer::Mismatch { .. } => figures.mismatched += 1,
                Answer::Refused { slug } => *figures.refused.entry(slug.clone()).or_default() += 1,
                Answer::Unknown => figures.unknown += 1,
            }
        }
        for mut answered in stored.into_values() {
            answered.sort();
            let longest = answered.windows(2).map(|pair| pair[1] - pair[0]).max();
            figures.gap = figures.gap.max(longest.unwrap_or_default());
        }
        figures
    }

    fn tell(&self) -> String {
        let Self { read, hits, misses, stored, mismatched, refused, unknown, gap } = self;
        format!(
            "{read} values read ({hits} from memory), 0 stale; {misses} misses; {stored} writes acknowledged, {mismatched} \
             swaps lost to another; refused without effect: {refused:?}; {unknown} writes of unknown outcome; longest time \
             without an acknowledged write of a key {gap:?}"
        )
    }
}

/// What is wrong with a history.
fn check(records: &[Record]) -> Vec<String> {
    let mut keys: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    records.iter().for_each(|record| keys.entry(&record.key).or_default().push(record));
    let rules = [names, origins, order, swaps];
    keys.values().flat_map(|records| rules.iter().flat_map(|rule| rule(records)).collect::<Vec<_>>()).collect()
}

/// The version that an answer tells as the newest.
fn version(record: &Record) -> Option<&str> {
    match &record.answer {
        Answer::Read { version, .. } | Answer::Stored { version } => Some(version),
        Answer::Mismatch { version } => version.as_deref(),
        Answer::Miss | Answer::Refused { .. } | Answer::Unknown => None,
    }
}

/// The value and the version that an answer joins.
fn named(record: &Record) -> Option<(&str, &str)> {
    match &record.answer {
        Answer::Read { value, version, .. } => Some((value, version)),
        Answer::Stored { version } => Some((record.ask.value()?, version)),
        _ => None,
    }
}

/// One version is one value, and one value has one version: nothing is written twice.
fn names(records: &[&Record]) -> Vec<String> {
    let (mut values, mut versions) = (BTreeMap::new(), BTreeMap::new());
    let mut wrong = Vec::new();
    for (value, version) in records.iter().filter_map(|record| named(record)) {
        let (before, other) = (*values.entry(version).or_insert(value), *versions.entry(value).or_insert(version));
        if before != value {
            wrong.push(format!("version {version} of {} names {before} and {value}", records[0].key));
        }
        if other != version {
            wrong.push(format!("{value} of {} has the versions {other} and {version}", records[0].key));
        }
    }
    wrong
}

/// What is read was written, before that, and not refused.
fn origins(records: &[&Record]) -> Vec<String> {
    let writes: BTreeMap<&str, &Record> =
        records.iter().filter_map(|record| Some((record.ask.value()?, *record))).collect();
    let is_wrong = |record: &&&Record| {
        let Answer::Read { value, .. } = &record.answer else { return false };
        writes.get(value.as_str()).is_none_or(|write| {
            let is_refused = matches!(write.answer, Answer::Refused { .. } | Answer::Mismatch { .. });
            is_refused || write.asked > record.answered
        })
    };
    let tell = |record: &&Record| format!("read without having been written: {record:?}");
    records.iter().filter(is_wrong).map(tell).collect()
}

/// No answer is older than what had been told when it was asked for.
fn order(records: &[&Record]) -> Vec<String> {
    let mut known: Vec<(Instant, &str, &Record)> =
        records.iter().filter_map(|record| Some((record.answered, version(record)?, *record))).collect();
    known.sort_by_key(|(answered, ..)| *answered);
    for nth in 1..known.len() {
        // Texts of versions compare as versions do.
        if known[nth - 1].1 > known[nth].1 {
            (known[nth].1, known[nth].2) = (known[nth - 1].1, known[nth - 1].2);
        }
    }
    let mut wrong = Vec::new();
    for record in records {
        let before = known.partition_point(|(answered, ..)| *answered < record.asked);
        let Some((_, least, by)) = before.checked_sub(1).map(|last| known[last]) else { continue };
        let is_older = version(record).is_some_and(|version| match record.answer {
            Answer::Stored { .. } => version <= least,
            _ => version < least,
        });
        if is_older {
            let late = record.asked - by.answered;
            wrong.push(format!("STALE: {record:?}\n  was asked {late:?} after the answer of {by:?}"));
        }
    }
    wrong
}

/// Nothing came between what a swap was made from and what it made.
fn swaps(records: &[&Record]) -> Vec<String> {
    let versions: BTreeSet<&str> = records.iter().filter_map(|record| Some(named(record)?.1)).collect();
    let mut wrong = Vec::new();
    for record in records {
        if let (Ask::Swap { from, .. }, Answer::Stored { version }) = (&record.ask, &record.answer)
            && let Some(between) = versions.iter().find(|other| ***other > **from && ***other < **version)
        {
            wrong.push(format!("{between} came between: {record:?}"));
        }
    }
    wrong
}

/// The checker itself.
#[cfg(test)]
mod tests {
    use super::*;

    struct Clients(Instant, Vec<Record>);

    impl Clients {
        fn new() -> Self {
            Self(Instant::now(), Vec::new())
        }

        fn did(mut self, ask: Ask, answer: Answer, from_ms: u64, until_ms: u64) -> Self {
            let at = |ms| self.0 + Duration::from_millis(ms);
            let (asked, answered) = (at(from_ms), at(until_ms));
            self.1.push(Record { who: "c".into(), key: "k".into(), ask, answer, asked, answered });
            self
        }

        fn stored(self, value: &str, version: &str, from_ms: u64, until_ms: u64) -> Self {
            self.did(Ask::Store { value: value.into() }, Answer::Stored { version: version.into() }, from_ms, until_ms)
        }

        fn read(self, value: &str, version: &str, from_ms: u64, until_ms: u64) -> Self {
            let answer = Answer::Read { value: value.into(), version: version.into(), hit: true };
            self.did(Ask::Read, answer, from_ms, until_ms)
        }

        fn missed(self, from_ms: u64, until_ms: u64) -> Self {
            self.did(Ask::Read, Answer::Miss, from_ms, until_ms)
        }

        fn unknown(self, value: &str, from_ms: u64, until_ms: u64) -> Self {
            self.did(Ask::Store { value: value.into() }, Answer::Unknown, from_ms, until_ms)
        }

        #[track_caller]
        fn must_be_right(self) -> Self {
            assert_eq!(check(&self.1), Vec::<String>::new());
            self
        }

        #[track_caller]
        fn must_be_wrong(self, because: &str) {
            let wrong = check(&self.1);
            assert!(wrong.iter().any(|wrong| wrong.contains(because)), "{wrong:?}");
        }
    }

    #[test]
    fn old_values_are_noticed_also_after_a_miss_and_only_once_they_are_old() {
        let both = || Clients::new().stored("a", "1", 0, 1).stored("b", "2", 2, 9);
        both().read("a", "1", 3, 4).read("b", "2", 5, 6).missed(10, 11).read("b", "2", 12, 13).must_be_right();
        both().read("a", "1", 10, 11).must_be_wrong("STALE");
        both().missed(10, 11).read("a", "1", 12, 13).must_be_wrong("STALE");
        both().read("b", "2", 3, 4).read("a", "1", 5, 6).must_be_wrong("STALE");
        both().stored("c", "2", 10, 11).must_be_wrong("STALE");
    }

    #[test]
    fn what_is_unknown_may_come_late_and_what_is_refused_never() {
        let begun = || Clients::new().unknown("u", 0, 1).stored("a", "1", 2, 3);
        begun().read("u", "2", 4, 5).must_be_right();
        begun().must_be_right();
        begun().read("u", "2", 4, 5).stored("b", "3", 6, 7).read("u", "4", 8, 9).must_be_wrong("has the versions");
        let refused = Answer::Refused { slug: "unavailable".into() };
        let begun = Clients::new().did(Ask::Store { value: "r".into() }, refused, 0, 1);
        begun.read("r", "1", 2, 3).must_be_wrong("without having been written");
        Clients::new().read("x", "1", 0, 1).must_be_wrong("without having been written");
        Clients::new().read("a", "1", 0, 1).stored("a", "1", 2, 3).must_be_wrong("without having been written");
    }

    #[test]
    fn lost_updates_and_versions_of_two_values_are_noticed() {
        let swap = |from: &str| Ask::Swap { value: "s".into(), from: from.into() };
        let stored = || Answer::Stored { version: "4".into() };
        let begun = || Clients::new().stored("a", "1", 0, 1).stored("b", "3", 2, 3);
        begun().did(swap("3"), stored(), 4, 5).must_be_right();
        begun().did(swap("1"), stored(), 4, 5).must_be_wrong("came between");
        let told = |version: &str| Answer::Mismatch { version: Some(version.into()) };
        begun().did(swap("1"), told("3"), 4, 5).must_be_right();
        begun().did(swap("0"), told("1"), 4, 5).must_be_wrong("STALE");
        Clients::new().stored("a", "1", 0, 5).stored("b", "1", 0, 5).must_be_wrong("names");
    }

    #[test]
    fn a_miss_is_spurious_after_a_store() {
        let history = History::default();
        let clients = Clients::new().missed(0, 1).stored("a", "1", 2, 4).missed(3, 5).missed(6, 7).must_be_right();
        let gone = clients.1[3].clone();
        clients.1.into_iter().for_each(|record| history.add(record));
        assert_eq!(history.spurious(), [gone]);
    }
}
