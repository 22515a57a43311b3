//! No read is older than what was acknowledged before it was asked, and all operations on a key have one order.
//!
//! A value may be gone at any time, for the reasons that the cache's protocol names, and come back where nobody could be
//! asked for it: a miss says nothing here. What remains is an atomic register whose writes all differ, for which the test
//! of Gibbons and Korach ("Testing Shared Memories", SIAM J. Comput. 26(4), 1997, theorem 4.1) is exact: each value has a
//! *zone*, from the first end to the last beginning of the operations that wrote or read it. It is *forward* where these
//! are in this order, and then nothing else was there between; else *backward*. No two forward zones overlap, and no
//! backward zone lies within a forward one. A delete is a write of something that nobody reads. Of a counter, whose values
//! do not all differ, each is one more than the one of the version before it, but for what nobody was told of and where it
//! began again.

use std::collections::{BTreeMap, BTreeSet};

use super::api::{Answer, Ask, Record};
use crate::{
    ids::CacheKey,
    node::caches::Version,
    sim::{history::Moment, violation::Violation},
};

/// What was written: a value, or nothing, by one delete.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Written {
    Value(u64),
    Nothing(usize),
}

/// The operations on one value.
#[derive(Clone, Debug)]
struct Zone {
    /// When it was begun to be written; `None`: nobody did.
    asked: Option<Moment>,
    first_end: Option<Moment>,
    last_begin: Moment,
}

impl Zone {
    fn note(zones: &mut BTreeMap<Written, Self>, what: Written, begin: Moment, end: Option<Moment>, writes: Writes) {
        let zone = zones.entry(what).or_insert(Self { asked: None, first_end: None, last_begin: begin });
        zone.last_begin = zone.last_begin.max(begin);
        zone.first_end = zone.first_end.into_iter().chain(end).min();
        if writes == Writes::Yes {
            zone.asked = Some(begin);
        }
    }

    /// Nothing else was there from then until then.
    fn forward(&self) -> Option<(Moment, Moment)> {
        self.first_end.filter(|end| *end < self.last_begin).map(|end| (end, self.last_begin))
    }

    /// Why it cannot be with the other one.
    fn contradicts(&self, other: &Self) -> bool {
        let Some((from, until)) = self.forward() else { return false };
        match other.forward() {
            Some((other_from, other_until)) => from < other_until && other_from < until,
            None => from < other.last_begin && other.first_end.is_some_and(|end| end < until),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Yes,
    No,
}

/// What is wrong with a history.
pub(super) fn check(history: &[Record]) -> Vec<Violation> {
    let is_of_one = |record: &&Record| !matches!(record.ask, Ask::Clear(_));
    let keys: BTreeSet<&CacheKey> = history.iter().filter(is_of_one).map(|record| record.ask.key()).collect();
    let of = |key: &CacheKey| history.iter().filter(|record| record.ask.is_of(key)).collect::<Vec<_>>();
    keys.into_iter().map(of).flat_map(|records| check_key(&records)).collect()
}

fn check_key(records: &[&Record]) -> Vec<Violation> {
    let mut zones = BTreeMap::new();
    for (number, record) in records.iter().enumerate() {
        let (begin, end) = (record.invoked, record.returned);
        match (&record.ask, &record.answer) {
            (Ask::Get(_), Answer::Read(n, _)) => Zone::note(&mut zones, Written::Value(*n), begin, end, Writes::No),
            (Ask::Put(_, n) | Ask::PutFor(_, n, _) | Ask::Swap(_, n, _), Answer::Stored(_) | Answer::Unknown) => {
                Zone::note(&mut zones, Written::Value(*n), begin, end, Writes::Yes);
            }
            (Ask::Delete(_) | Ask::Clear(_), Answer::Deleted) => {
                Zone::note(&mut zones, Written::Nothing(number), begin, end, Writes::Yes);
            }
            _ => {}
        }
    }
    let mut wrong: Vec<Violation> = zones
        .iter()
        .filter(|(_, zone)| zone.asked.is_none_or(|asked| zone.first_end.is_some_and(|end| end < asked)))
        .map(|(what, _)| Violation::Invented(tell(records, &[*what])))
        .collect();
    let all: Vec<_> = zones.iter().collect();
    for (what, zone) in all.iter().filter(|(_, zone)| zone.forward().is_some()) {
        let other = all.iter().find(|(other, against)| other != what && zone.contradicts(against));
        if let Some((other, _)) = other {
            wrong.push(Violation::NotLinearizable(tell(records, &[**what, **other])));
        }
    }
    wrong.extend(stale(records));
    wrong.extend(check_counter(records));
    wrong
}

/// Nothing that was added is lost or added twice: by their versions, a count is one more than the one before. It may be
/// more by what was added without an answer, and begin again where what was there is gone.
fn check_counter(records: &[&Record]) -> Vec<Violation> {
    let mut counts = Vec::new();
    for record in records.iter().copied() {
        if let Answer::Counted(value, version) = record.answer {
            counts.push((version, value, record));
        }
    }
    counts.sort_unstable_by_key(|(version, ..)| *version);
    let unknown_before = |record: &Record| {
        let may_count = |other: &&&Record| {
            matches!(other.ask, Ask::Add(_)) && other.answer == Answer::Unknown && Some(other.invoked) < record.returned
        };
        i64::try_from(records.iter().filter(may_count).count()).expect("a history is short")
    };
    let mut wrong = Vec::new();
    let mut before: Option<(i64, &Record)> = None;
    for (_, value, record) in counts {
        let more = unknown_before(record);
        let goes_on = before.is_some_and(|(last, _)| (last + 1..=last + 1 + more).contains(&value));
        let begins = (1..=1 + more).contains(&value);
        if !goes_on && !begins {
            let last = before.map_or_else(|| "nothing".to_owned(), |(_, last)| last.tell());
            wrong.push(Violation::NotLinearizable(format!("{} after {last}, {more} unknown", record.tell())));
        }
        before = Some((value, record));
    }
    wrong
}

/// What is left of a time to live is told anew with each message that carries a value, and does not run while that one is
/// on its way.
const TTL_MARGIN_MS: u64 = 500;

/// Where no message is long on its way, nothing is read when its time to live is over.
pub(super) fn check_ttl(history: &[Record]) -> Vec<Violation> {
    let over = history.iter().filter_map(|put| match (&put.ask, put.returned) {
        (Ask::PutFor(_, n, ttl_ms), Some(stored)) => Some((*n, stored.ms + ttl_ms + TTL_MARGIN_MS, put)),
        _ => None,
    });
    let over: BTreeMap<u64, (u64, &Record)> = over.map(|(n, end_ms, put)| (n, (end_ms, put))).collect();
    let late = history.iter().filter_map(|read| {
        let Answer::Read(n, _) = read.answer else { return None };
        let (end_ms, put) = over.get(&n)?;
        (read.invoked.ms > *end_ms).then(|| Violation::Order(format!("{} after {}", read.tell(), put.tell())))
    });
    late.collect()
}

/// Where nothing happens for which a value may go, none does: a miss after a write that was acknowledged needs a delete
/// that may have come between, or a time to live that may be over. Where a value is fetched, that is counted from when it was
/// asked for: it is shorter by as much as all operations on the key took together, at the most.
pub(super) fn check_kept(history: &[Record]) -> Vec<Violation> {
    let is_miss = |record: &&Record| record.answer == Answer::Miss;
    let gone = history.iter().filter(is_miss).filter_map(|miss| {
        let same_key = || history.iter().filter(|record| record.ask.is_of(miss.ask.key()));
        let is_stored = |record: &&Record| {
            matches!(record.answer, Answer::Stored(_)) && record.returned.is_some_and(|end| end < miss.invoked)
        };
        let last = same_key().filter(is_stored).max_by_key(|record| record.invoked)?;
        let fetched_ms = |since: Moment| -> u64 {
            let took_ms = |record: &Record| {
                let end = record.returned.min(miss.returned).or(miss.returned);
                end.map_or(0, |end| end.ms.saturating_sub(record.invoked.max(since).ms))
            };
            same_key().map(took_ms).sum()
        };
        let may_be_absent = |record: &Record| {
            let absent_after_ms = match record.ask {
                Ask::Delete(_) | Ask::Clear(_) => 0,
                Ask::PutFor(_, _, ttl_ms) => ttl_ms.saturating_sub(fetched_ms(record.invoked)),
                _ => return false,
            };
            record.returned.is_none_or(|end| end > last.invoked)
                && miss.returned.is_none_or(|end| record.invoked < end && record.invoked.ms + absent_after_ms <= end.ms)
        };
        let told = || format!("{} after {}", miss.tell(), last.tell());
        (!same_key().any(may_be_absent)).then(|| Violation::Lost(told()))
    });
    gone.collect()
}

/// Versions grow: none that was asked for later is below, or the same as, what was acknowledged before.
fn stale(records: &[&Record]) -> Vec<Violation> {
    let known = |record: &&&Record| match record.answer {
        Answer::Stored(version) | Answer::Read(_, version) | Answer::Counted(_, version) => {
            Some((record.returned?, version))
        }
        _ => None,
    };
    let mut known: Vec<(Moment, Version)> = records.iter().filter_map(|record| known(&record)).collect();
    known.sort_unstable();
    let mut highest = Version::default();
    for (_, version) in &mut known {
        highest = highest.max(*version);
        *version = highest;
    }
    let mut wrong = Vec::new();
    for record in records {
        let before = known.partition_point(|(returned, _)| *returned < record.invoked);
        let Some((_, least)) = before.checked_sub(1).map(|last| known[last]) else { continue };
        let is_older = match record.answer {
            Answer::Read(_, version) => version < least,
            Answer::Stored(version) | Answer::Counted(_, version) => version <= least,
            _ => false,
        };
        if is_older {
            let at = record.invoked;
            let near = records.iter().filter(|other| other.invoked <= at).rev().take(24).collect::<Vec<_>>();
            let lines = near.iter().rev().map(|record| format!("\n    {}", record.tell())).collect::<String>();
            wrong.push(Violation::Order(format!("{} is below {least:?}, after{lines}", record.tell())));
        }
    }
    wrong
}

/// What was asked and told of these, and of all that was written meanwhile.
fn tell(records: &[&Record], what: &[Written]) -> String {
    let is_it = |(number, record): &(usize, &&Record)| {
        let written = match (&record.ask, &record.answer) {
            (Ask::Put(_, n) | Ask::PutFor(_, n, _) | Ask::Swap(_, n, _), _) | (Ask::Get(_), Answer::Read(n, _)) => {
                Written::Value(*n)
            }
            _ => Written::Nothing(*number),
        };
        what.contains(&written)
    };
    let lines = records.iter().enumerate().filter(is_it).map(|(_, record)| format!("\n    {}", record.tell()));
    format!("of {}:{}", records[0].ask.key(), lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn key() -> CacheKey {
        CacheKey::new("k").unwrap()
    }

    fn version(seq: u64) -> Version {
        Version { epoch: Epoch(1), seq, n: 0 }
    }

    fn record(ask: Ask, from: u64, until: u64, answer: Answer) -> Record {
        let moment = |ms| Moment { ms, order: ms };
        let returned = (answer != Answer::Unknown).then(|| moment(until));
        Record { client: 0, ask, invoked: moment(from), returned, answer, unanswered: 0, lease_until_ms: None }
    }

    fn put(n: u64, from: u64, until: u64) -> Record {
        record(Ask::Put(key(), n), from, until, Answer::Stored(version(n)))
    }

    fn get(n: u64, from: u64, until: u64) -> Record {
        record(Ask::Get(key()), from, until, Answer::Read(n, version(n)))
    }

    #[test]
    fn what_was_written_last_may_be_read_and_what_is_written_meanwhile_too() {
        assert_eq!(check(&[put(1, 0, 5), get(1, 6, 7), put(2, 8, 20), get(1, 9, 10), get(2, 11, 12)]), vec![]);
        let miss = record(Ask::Get(key()), 6, 7, Answer::Miss);
        assert_eq!(check(&[put(1, 0, 5), miss, get(1, 8, 9)]), vec![], "a miss says nothing");
    }

    #[test]
    fn a_read_that_is_older_than_what_was_acknowledged_or_read_is_noticed() {
        let old = check(&[put(1, 0, 5), put(2, 6, 8), get(1, 9, 10)]);
        assert!(old.iter().any(|wrong| matches!(wrong, Violation::NotLinearizable(_))), "{old:?}");
        assert!(old.iter().any(|wrong| matches!(wrong, Violation::Order(_))), "{old:?}");
        let back = check(&[put(1, 0, 5), put(2, 6, 30), get(2, 9, 10), get(1, 11, 12)]);
        assert!(!back.is_empty(), "it was newer before");
    }

    #[test]
    fn a_write_of_unknown_outcome_may_come_later_and_only_once() {
        let unknown = |n, from| record(Ask::Put(key(), n), from, 0, Answer::Unknown);
        let versions = |n, v, from, until| record(Ask::Get(key()), from, until, Answer::Read(n, version(v)));
        assert_eq!(check(&[unknown(1, 0), put(2, 6, 8), get(2, 9, 10), versions(1, 3, 11, 12)]), vec![]);
        let twice = check(&[unknown(1, 0), versions(1, 1, 2, 3), put(2, 6, 8), versions(1, 3, 11, 12)]);
        assert!(matches!(&twice[..], [Violation::NotLinearizable(_), ..]), "{twice:?}");
    }

    #[test]
    fn a_value_that_is_gone_without_a_delete_is_noticed_where_it_has_to_stay() {
        let miss = |from, until| record(Ask::Get(key()), from, until, Answer::Miss);
        let delete = |from, until| record(Ask::Delete(key()), from, until, Answer::Deleted);
        assert!(matches!(&check_kept(&[put(1, 0, 5), miss(6, 7)])[..], [Violation::Lost(_)]));
        assert!(matches!(&check_kept(&[delete(0, 1), put(1, 2, 5), miss(6, 7)])[..], [Violation::Lost(_)]));
        assert_eq!(check_kept(&[put(1, 0, 5), delete(6, 20), miss(8, 9)]), vec![]);
        assert_eq!(check_kept(&[put(1, 0, 5), miss(4, 7)]), vec![], "it may have been asked before");
    }

    #[test]
    fn what_lives_for_a_while_stays_for_as_long_and_is_gone_then() {
        let passing = |from, until| record(Ask::PutFor(key(), 1, 1_000), from, until, Answer::Stored(version(1)));
        let miss = |from, until| record(Ask::Get(key()), from, until, Answer::Miss);
        assert_eq!(check_kept(&[passing(0, 5), miss(900, 1_000)]), vec![]);
        let early = |asked| check_kept(&[passing(0, 5), miss(asked, 900)]);
        assert!(matches!(&early(850)[..], [Violation::Lost(_)]), "1,000 less 5 and 50");
        assert_eq!(early(700), vec![], "it may have been on its way for so long");
        let over = check_kept(&[passing(0, 5), put(2, 6, 7), miss(2_000, 2_001)]);
        assert!(matches!(&over[..], [Violation::Lost(_)]), "the later one stays: {over:?}");
        assert_eq!(check_ttl(&[passing(0, 5), get(1, 1_005 + TTL_MARGIN_MS, 9_000)]), vec![]);
        let late = check_ttl(&[passing(0, 5), get(1, 1_006 + TTL_MARGIN_MS, 9_000)]);
        assert!(matches!(&late[..], [Violation::Order(_)]), "{late:?}");
    }

    #[test]
    fn a_count_that_is_lost_or_added_twice_is_noticed() {
        let add = |value, seq, from| record(Ask::Add(key()), from, from + 1, Answer::Counted(value, version(seq)));
        let unknown = record(Ask::Add(key()), 0, 0, Answer::Unknown);
        assert_eq!(check(&[add(1, 1, 0), add(2, 2, 2), add(3, 4, 4)]), vec![]);
        assert_eq!(check(&[add(1, 1, 0), add(2, 2, 2), add(1, 4, 4), add(2, 5, 6)]), vec![], "it began again");
        assert_eq!(check(&[unknown.clone(), add(1, 1, 0), add(2, 2, 2), add(4, 4, 4)]), vec![]);
        for wrong in [vec![add(1, 1, 0), add(2, 2, 2), add(2, 3, 4)], vec![add(1, 1, 0), add(2, 2, 2), add(4, 3, 4)]] {
            let found = check(&wrong);
            assert!(matches!(&found[..], [Violation::NotLinearizable(_)]), "{found:?}");
        }
        let twice = check(&[unknown, add(1, 1, 0), add(2, 2, 2), add(5, 4, 4)]);
        assert!(matches!(&twice[..], [Violation::NotLinearizable(_)]), "{twice:?}");
    }

    #[test]
    fn what_was_made_absent_by_a_prefix_does_not_come_back() {
        let clear = |prefix: &str, from, until| {
            record(Ask::Clear(CacheKey::new(prefix).unwrap()), from, until, Answer::Deleted)
        };
        let back = check(&[put(1, 0, 5), clear("k", 6, 8), get(1, 9, 10)]);
        assert!(matches!(&back[..], [Violation::NotLinearizable(_)]), "{back:?}");
        assert_eq!(check(&[put(1, 0, 5), clear("other", 6, 8), get(1, 9, 10)]), vec![]);
        let miss = record(Ask::Get(key()), 9, 10, Answer::Miss);
        assert_eq!(check_kept(&[put(1, 0, 5), clear("k", 6, 8), miss]), vec![]);
    }

    #[test]
    fn what_was_deleted_does_not_come_back_and_nothing_is_invented() {
        let delete = |from, until| record(Ask::Delete(key()), from, until, Answer::Deleted);
        let back = check(&[put(1, 0, 5), delete(6, 8), get(1, 9, 10)]);
        assert!(matches!(&back[..], [Violation::NotLinearizable(_)]), "{back:?}");
        assert_eq!(check(&[put(1, 0, 5), get(1, 7, 9), delete(6, 8)]), vec![]);
        assert!(matches!(&check(&[get(7, 0, 1)])[..], [Violation::Invented(_)]));
    }
}
