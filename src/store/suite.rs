//! What every journal must do, whatever it is kept in. [`behaves!`] makes tests of it for one kind.

#![allow(clippy::print_stdout, reason = "runs tell their seeds, and tests why they are skipped")]

use std::ops::RangeInclusive;

use bytes::Bytes;
use futures::{FutureExt, future::join_all};

use crate::{
    ids::{Epoch, PartitionId},
    machine::replication::{Durability, Position, Record},
    store::{JournalError, JournalStore, Trust},
};

/// A place where a journal is kept, which outlives those that open it.
pub(super) trait Site: Sync {
    /// A node starts there.
    fn store(&self) -> impl Future<Output = Box<dyn JournalStore>> + Send;
}

pub(super) const PARTITION: PartitionId = PartitionId(7);

pub(super) fn position(epoch: u64, seq: u64) -> Position {
    Position { epoch: Epoch(epoch), seq }
}

/// Records of one epoch, each with a body that tells them from all others.
pub(super) fn records(epoch: u64, seqs: RangeInclusive<u64>) -> Vec<Record> {
    let durability = |seq: u64| if seq.is_multiple_of(3) { Durability::InMemory } else { Durability::Synced };
    let body = |seq: u64| Bytes::from(format!("{epoch}/{seq} ").repeat(1 + seq as usize % 40));
    let record = |seq| Record { position: position(epoch, seq), durability: durability(seq), body: body(seq) };
    seqs.map(record).collect()
}

pub(super) fn state(text: &str) -> Bytes {
    Bytes::from(format!("the state {text}"))
}

/// What is in the journal, whole and verified.
pub(super) async fn holds(store: &dyn JournalStore, checkpoint: Option<(Position, Bytes)>, records: Vec<Record>) {
    let opened = store.open(PARTITION).await.unwrap();
    assert_eq!((opened.checkpoint, opened.records, opened.trust), (checkpoint, records, Trust::Verified));
}

pub(super) async fn what_was_appended_is_found_again(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    assert_eq!((&opened.checkpoint, &opened.records, &opened.trust), (&None, &vec![], &Trust::Verified));
    opened.journal.append(records(1, 1..=2)).await.unwrap();
    opened.journal.append_lazily(records(1, 3..=3));
    let (four, five) = (opened.journal.append(records(1, 4..=4)), opened.journal.append(records(2, 5..=9)));
    five.await.unwrap();
    four.await.unwrap();
    drop(opened);
    let all = [records(1, 1..=4), records(2, 5..=9)].concat();
    holds(&*store, None, all.clone()).await;
    let id = store.id();
    let store = site.store().await;
    assert_eq!(store.id(), id);
    holds(&*store, None, all).await;
}

pub(super) async fn what_was_begun_is_written_though_nobody_waits_for_it(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    drop(opened.journal.append(records(1, 1..=2)));
    opened.journal.append_lazily(records(1, 3..=3));
    drop(opened);
    holds(&*store, None, records(1, 1..=3)).await;
}

pub(super) async fn records_that_nobody_waits_for_are_written_after_a_while(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append_lazily(records(1, 1..=3));
    while opened.journal.size() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let empty = opened.journal.append(vec![]);
    empty.await.unwrap();
    assert!(opened.journal.size() > 0);
}

pub(super) async fn many_at_once_complete_in_their_order(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    let mut appends: Vec<_> = (1..=1000).map(|seq| opened.journal.append(records(1, seq..=seq))).collect();
    let later = appends.split_off(700);
    appends.pop().expect("there are 700").await.unwrap();
    for earlier in appends {
        assert_eq!(tokio::task::unconstrained(earlier).now_or_never(), Some(Ok(())));
    }
    join_all(later).await.into_iter().for_each(Result::unwrap);
    drop(opened);
    holds(&*store, None, records(1, 1..=1000)).await;
}

pub(super) async fn what_was_cut_is_gone_and_others_take_its_place(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=9)).await.unwrap();
    let cut = opened.journal.truncate(4);
    let append = opened.journal.append(records(2, 5..=6));
    cut.await.unwrap();
    append.await.unwrap();
    opened.journal.truncate(5).await.unwrap();
    drop(opened);
    holds(&*store, None, [records(1, 1..=4), records(2, 5..=5)].concat()).await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.truncate(0).await.unwrap();
    opened.journal.append(records(3, 1..=1)).await.unwrap();
    drop(opened);
    holds(&*store, None, records(3, 1..=1)).await;
}

pub(super) async fn a_checkpoint_takes_the_place_of_what_it_includes(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=200)).await.unwrap();
    let before = opened.journal.size();
    let checkpoint = opened.journal.checkpoint(position(1, 150), state("150").into());
    let append = opened.journal.append(records(1, 201..=210));
    append.await.unwrap();
    checkpoint.await.unwrap();
    assert!(opened.journal.size() < before, "{} of {before}", opened.journal.size());
    drop(opened);
    holds(&*store, Some((position(1, 150), state("150"))), records(1, 151..=210)).await;

    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.truncate(160).await.unwrap();
    opened.journal.append(records(2, 161..=170)).await.unwrap();
    let superseded = opened.journal.checkpoint(position(1, 155), state("155").into());
    let newest = opened.journal.checkpoint(position(2, 170), state("170").into());
    newest.await.unwrap();
    superseded.await.unwrap();
    // An older one changes nothing.
    opened.journal.checkpoint(position(1, 140), state("140").into()).await.unwrap();
    drop(opened);
    holds(&*store, Some((position(2, 170), state("170"))), vec![]).await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(2, 171..=172)).await.unwrap();
    drop(opened);
    holds(&*store, Some((position(2, 170), state("170"))), records(2, 171..=172)).await;
}

pub(super) async fn a_large_state_comes_back_whole(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=3)).await.unwrap();
    let large: Bytes = (0..3_500_000u32).map(|nth| (nth / 7 % 251) as u8).collect();
    opened.journal.checkpoint(position(1, 2), large.clone().into()).await.unwrap();
    drop(opened);
    holds(&*store, Some((position(1, 2), large)), records(1, 3..=3)).await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.checkpoint(position(1, 3), Bytes::new().into()).await.unwrap();
    drop(opened);
    holds(&*store, Some((position(1, 3), Bytes::new())), vec![]).await;
}

pub(super) async fn a_reset_leaves_nothing_of_what_was_there(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=20)).await.unwrap();
    let checkpoint = opened.journal.checkpoint(position(1, 10), state("10").into());
    let reset = opened.journal.reset(position(2, 15), state("15"));
    let append = opened.journal.append(records(3, 16..=17));
    append.await.unwrap();
    reset.await.unwrap();
    checkpoint.await.unwrap();
    drop(opened);
    holds(&*store, Some((position(2, 15), state("15"))), records(3, 16..=17)).await;
    // Backwards, and far ahead.
    for (epoch, at) in [(4, 2), (5, 1000)] {
        let mut opened = store.open(PARTITION).await.unwrap();
        opened.journal.reset(position(epoch, at), state("again")).await.unwrap();
        drop(opened);
        holds(&*store, Some((position(epoch, at), state("again"))), vec![]).await;
    }
}

pub(super) async fn a_rebuild_takes_along_what_was_begun_before_it(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=20)).await.unwrap();
    let append = opened.journal.append(records(1, 21..=25));
    let rebuild = opened.journal.rebuild(position(1, 4), state("4").into(), records(1, 5..=25));
    let later = opened.journal.append(records(1, 26..=26));
    later.await.unwrap();
    rebuild.await.unwrap();
    append.await.unwrap();
    drop(opened);
    holds(&*store, Some((position(1, 4), state("4"))), records(1, 5..=26)).await;
}

pub(super) async fn a_journal_has_one_writer_and_is_found_until_it_is_removed(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    assert!(matches!(store.open(PARTITION).await, Err(JournalError::Fenced { .. })));
    assert!(matches!(store.remove(PARTITION).await, Err(JournalError::Fenced { .. })));
    opened.journal.append(records(1, 1..=3)).await.unwrap();
    opened.journal.checkpoint(position(1, 2), state("2").into()).await.unwrap();
    let other = store.open(PartitionId(0)).await.unwrap();
    assert_eq!(store.partitions().await.unwrap(), [PartitionId(0), PARTITION]);
    drop((opened, other));
    store.remove(PARTITION).await.unwrap();
    store.remove(PARTITION).await.unwrap();
    assert_eq!(store.partitions().await.unwrap(), [PartitionId(0)]);
    holds(&*store, None, vec![]).await;
}

pub(super) async fn a_record_that_does_not_follow_is_refused_with_all_after_it(site: impl Site) {
    let store = site.store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=3)).await.unwrap();
    let gap = opened.journal.append(records(1, 5..=5)).await;
    assert!(matches!(gap, Err(JournalError::Unusable(_))), "{gap:?}");
    assert_eq!(opened.journal.append(records(1, 4..=4)).await, gap);
    drop(opened);
    holds(&*store, None, records(1, 1..=3)).await;
}

/// Operations in an order that a seed decides, compared with a plain list after each opening.
pub(super) async fn does_as_a_plain_list_does(site: impl Site, seed: u64) {
    println!("seed {seed}");
    let mut random = seed;
    let mut below = |limit: u64| {
        // Numerical Recipes' linear congruential generator; its upper bits.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let (mut checkpoint, mut list, mut epoch) = (None::<(Position, Bytes)>, Vec::<Record>::new(), 1);
    let mut store = site.store().await;
    for round in 0..12 {
        let mut opened = store.open(PARTITION).await.unwrap();
        assert_eq!((&opened.checkpoint, &opened.records), (&checkpoint, &list), "round {round}");
        assert_eq!(opened.trust, Trust::Verified, "round {round}");
        let mut begun = Vec::new();
        for _ in 0..below(30) {
            let base = checkpoint.as_ref().map(|(at, _)| *at).unwrap_or_default();
            let last = list.last().map_or(base, |record| record.position);
            match below(20) {
                0..=8 => {
                    let new = records(epoch, last.seq + 1..=last.seq + below(6));
                    begun.push(opened.journal.append(new.clone()));
                    list.extend(new);
                }
                9..=11 => {
                    let new = records(epoch, last.seq + 1..=last.seq + 1);
                    opened.journal.append_lazily(new.clone());
                    list.extend(new);
                }
                12..=13 => {
                    let to = base.seq + below(list.len() as u64 + 1);
                    begun.push(opened.journal.truncate(to));
                    list.truncate((to - base.seq) as usize);
                    epoch += 1;
                }
                14..=16 => {
                    let covered = below(list.len() as u64 + 1) as usize;
                    let at = list[..covered].last().map_or(base, |record| record.position);
                    let text = format!("{epoch}/{at:?}");
                    begun.push(opened.journal.checkpoint(at, state(&text).into()));
                    if at.seq > base.seq {
                        checkpoint = Some((at, state(&text)));
                        list.drain(..covered);
                    }
                    // The model knows no moment at which a checkpoint is not yet there.
                    join_all(begun.drain(..)).await.into_iter().for_each(Result::unwrap);
                }
                17 => {
                    epoch += 1;
                    let at = position(epoch, below(last.seq + 10));
                    begun.push(opened.journal.reset(at, state("reset")));
                    (checkpoint, list) = (Some((at, state("reset"))), Vec::new());
                }
                18 => {
                    begun.push(opened.journal.rebuild(base, state("rebuilt").into(), list.clone()));
                    checkpoint = Some((base, state("rebuilt")));
                }
                _ => join_all(begun.drain(..)).await.into_iter().for_each(Result::unwrap),
            }
        }
        drop(opened);
        join_all(begun).await.into_iter().for_each(Result::unwrap);
        if below(2) == 0 {
            // Opened once more, so that the writer has ended.
            drop(store.open(PARTITION).await.unwrap());
            store = site.store().await;
        }
    }
}

/// Tests of a kind of journal: `$site` gives an `Option` of a new [`Site`], `None` where it cannot be had here.
macro_rules! behaves {
    ($site:expr $(, $($attribute:tt)+)?) => {
        suite::behaves!(@each ($site) ($($($attribute)+)?)
            what_was_appended_is_found_again
            what_was_begun_is_written_though_nobody_waits_for_it
            records_that_nobody_waits_for_are_written_after_a_while
            many_at_once_complete_in_their_order
            what_was_cut_is_gone_and_others_take_its_place
            a_checkpoint_takes_the_place_of_what_it_includes
            a_large_state_comes_back_whole
            a_reset_leaves_nothing_of_what_was_there
            a_rebuild_takes_along_what_was_begun_before_it
            a_journal_has_one_writer_and_is_found_until_it_is_removed
            a_record_that_does_not_follow_is_refused_with_all_after_it
        );

        #[tokio::test($($($attribute)+)?)]
        async fn does_as_a_plain_list_does() {
            for seed in 1..=20 {
                let Some(site) = $site else { return };
                suite::does_as_a_plain_list_does(site, seed).await;
            }
        }
    };
    (@each ($site:expr) $attributes:tt $($test:ident)+) => {
        $(suite::behaves!(@one ($site) $attributes $test);)+
    };
    (@one ($site:expr) ($($attribute:tt)*) $test:ident) => {
        #[tokio::test($($attribute)*)]
        async fn $test() {
            let Some(site) = $site else { return };
            suite::$test(site).await;
        }
    };
}

pub(super) use behaves;

/// Tells `tests/run` that a test cannot run here, and why; where all are required it fails.
pub(super) fn skipped(reason: &str) {
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "cannot run here and is required: {reason}");
    println!("skipped: {reason}");
    if let Ok(list) = std::env::var("SYNCMESH_SKIPPED") {
        let mut list = std::fs::OpenOptions::new().append(true).open(list).expect("tests/run made the list");
        std::io::Write::write_all(&mut list, format!("{reason}\n").as_bytes()).expect("the list can be written");
    }
}
