//! The journals of the queues through processes that are killed, a Redis that comes and goes, and enough records to
//! show that they stay bounded. What each operation does is tested beside the code, in `src/store`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and tells its figures")]

#[allow(dead_code, reason = "the tests beside the code use the rest")]
mod redis_server;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use redis_server::RedisServer;
use syncmesh::{
    ids::{ClusterId, Epoch, NodeId, PartitionId},
    machine::replication::{Durability, Position, Record},
    store::{Journal, JournalHealth, JournalStore, Trust, file::FileStore, redis::RedisStore},
};
use tempfile::TempDir;

const PARTITION: PartitionId = PartitionId(3);

fn position(seq: u64) -> Position {
    Position { epoch: Epoch(1), seq }
}

fn record(seq: u64, bytes: usize) -> Record {
    let mut body = format!("{seq} ").into_bytes();
    body.resize(bytes.max(body.len()), b'x');
    Record { position: position(seq), durability: Durability::Synced, body: body.into() }
}

async fn in_redis(redis: &RedisServer, data_dir: &Path) -> RedisStore {
    RedisStore::open(&redis.url(), ClusterId(5), NodeId::from_bytes([1; 32]), data_dir).await.unwrap()
}

/// Appends records one by one, many under way, with a checkpoint after each round, until `enough` of them
/// are there. How many are.
async fn append_until(journal: &mut dyn Journal, round: u64, mut enough: impl FnMut(u64) -> bool) -> u64 {
    let mut done = 0;
    while !enough(done) {
        let appends: Vec<_> = (done + 1..=done + round).map(|seq| journal.append(vec![record(seq, 100)])).collect();
        join_all(appends).await.into_iter().for_each(Result::unwrap);
        done += round;
        // A few stay beside it.
        let at = done - round.min(10);
        journal.checkpoint(position(at), Bytes::from(format!("up to {at}")).into()).await.unwrap();
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_records_pass_through_a_stream_that_stays_small() {
    let Some(redis) = RedisServer::start() else { return };
    let data_dir = TempDir::new().unwrap();
    let store = in_redis(&redis, data_dir.path()).await;
    let mut opened = store.open(PARTITION).await.unwrap();
    let stream = redis.keys("*:3").remove(0);
    let mut longest = 0;
    append_until(&mut *opened.journal, 2_000, |done| {
        let entries: u64 = redis.ask(&["XLEN", &stream]);
        longest = longest.max(entries);
        assert!(entries <= 100, "{entries} entries after {done} records");
        assert_eq!(redis.keys("*:checkpoint:*").len(), usize::from(done > 0));
        done >= 100_000
    })
    .await;
    drop(opened);
    let opened = store.open(PARTITION).await.unwrap();
    assert_eq!(opened.checkpoint, Some((position(99_990), Bytes::from("up to 99990"))));
    assert_eq!(opened.records, (99_991..=100_000).map(|seq| record(seq, 100)).collect::<Vec<_>>());
    assert_eq!(opened.trust, Trust::Verified);
    println!("at most {longest} entries after a checkpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_pass_a_redis_that_is_killed_and_paused_all_the_time_once_each() {
    let Some(mut redis) = RedisServer::start() else { return };
    let data_dir = TempDir::new().unwrap();
    let store = in_redis(&redis, data_dir.path()).await;
    let mut health = store.health();
    let mut opened = store.open(PARTITION).await.unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let is_enough = Arc::clone(&enough);
    let writer = tokio::spawn(async move {
        append_until(&mut *opened.journal, 1_000, |done| done >= 30_000 && is_enough.load(Ordering::Acquire)).await
    });
    let (mut kills, mut pauses) = (0, 0);
    while kills < 7 {
        tokio::time::sleep(Duration::from_millis(60 + 37 * (kills % 5))).await;
        if kills % 3 == 2 {
            redis.pause();
            health.wait_for(|health| matches!(health, JournalHealth::Away(_))).await.unwrap();
            redis.go_on();
            pauses += 1;
        }
        redis.kill();
        health.wait_for(|health| matches!(health, JournalHealth::Away(_))).await.unwrap();
        redis.launch();
        health.wait_for(|health| *health == JournalHealth::Well).await.unwrap();
        kills += 1;
    }
    enough.store(true, Ordering::Release);
    let total = writer.await.unwrap();
    println!("{total} records, {kills} kills, {pauses} pauses");
    let opened = store.open(PARTITION).await.unwrap();
    assert_eq!(opened.checkpoint, Some((position(total - 10), Bytes::from(format!("up to {}", total - 10)))));
    assert_eq!(opened.records, (total - 9..=total).map(|seq| record(seq, 100)).collect::<Vec<_>>());
    assert_eq!(opened.trust, Trust::Verified);
}

/// Names the `DATA_DIR` of [`the_process_that_is_killed`].
const KILLED_IN: &str = "JOURNAL_TEST_DATA_DIR";

/// Not a test of its own: appends for ever, and says what has completed.
#[tokio::test]
#[ignore = "run by another test, as a process of its own"]
async fn the_process_that_is_killed() {
    let Ok(data_dir) = std::env::var(KILLED_IN) else { return };
    let store = FileStore::open(Path::new(&data_dir)).await.unwrap();
    let mut opened = store.open(PARTITION).await.unwrap();
    let base = opened.checkpoint.map_or(0, |(at, _)| at.seq);
    let mut last = opened.records.last().map_or(base, |record| record.position.seq);
    loop {
        let appends: Vec<_> = (1..=8)
            .map(|nth| opened.journal.append(vec![record(last + nth, 50 + (last as usize * 7919) % 5000)]))
            .collect();
        if last % 1024 == 512 {
            drop(opened.journal.checkpoint(position(last), Bytes::from("state").into()));
        }
        for append in appends {
            append.await.unwrap();
            last += 1;
            eprintln!("completed {last}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_at_any_moment_has_everything_that_completed() {
    let data_dir = TempDir::new().unwrap();
    let mut last = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "the_process_that_is_killed"])
            .env(KILLED_IN, data_dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let enough = last + 300 + 171 * round;
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let Some(number) = line.unwrap().strip_prefix("completed ").and_then(|number| number.parse().ok()) else {
                continue;
            };
            // What it said before it noticed that it was killed counts too.
            if last < enough && number >= enough {
                child.kill().unwrap();
            }
            last = number;
        }
        child.wait().unwrap();
        assert!(last >= enough, "round {round}: it ended by itself after {last}");
        let opened = FileStore::open(data_dir.path()).await.unwrap().open(PARTITION).await.unwrap();
        let base = opened.checkpoint.map_or(0, |(at, _)| at.seq);
        let seqs: Vec<_> = opened.records.iter().map(|record| record.position.seq).collect();
        let end = base + seqs.len() as u64;
        assert_eq!(seqs, (base + 1..=end).collect::<Vec<_>>());
        assert!(end >= last, "round {round}: {last} completed, and {end} are there");
        assert_eq!(opened.trust, Trust::Verified);
        last = end;
    }
}

/// `cargo test --release --test journal -- --ignored --nocapture figures`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn figures() {
    let data_dir = TempDir::new().unwrap();
    let store = FileStore::open(data_dir.path()).await.unwrap();
    measure("file", &store).await;
    reopening("file", &store).await;
    let Some(redis) = RedisServer::start() else { return };
    let store = in_redis(&redis, data_dir.path()).await;
    measure("redis", &store).await;
    reopening("redis", &store).await;
}

async fn measure(kind: &str, store: &dyn JournalStore) {
    let mut opened = store.open(PartitionId(0)).await.unwrap();
    let mut times = Vec::new();
    for seq in 1..=2000 {
        let since = Instant::now();
        opened.journal.append(vec![record(seq, 300)]).await.unwrap();
        times.push(since.elapsed());
    }
    times.sort_unstable();
    println!("{kind}: one append at a time, 300 B: p50 {:?}, p99 {:?}", times[1000], times[1980]);

    for writers in [16, 64, 256] {
        let mut last = opened.journal.size() / 400 + 2000 + 1_000_000 * writers;
        opened.journal.reset(position(last), Bytes::new()).await.unwrap();
        let (since, mut under_way, mut count) = (Instant::now(), std::collections::VecDeque::new(), 0);
        while since.elapsed() < Duration::from_secs(3) {
            while under_way.len() < writers as usize {
                last += 1;
                under_way.push_back(opened.journal.append(vec![record(last, 300)]));
            }
            under_way.pop_front().unwrap().await.unwrap();
            count += 1;
        }
        println!(
            "{kind}: {writers} appends of one record under way: {:.0} records/s",
            count as f64 / since.elapsed().as_secs_f64()
        );
    }
}

async fn reopening(kind: &str, store: &dyn JournalStore) {
    let mut opened = store.open(PartitionId(1)).await.unwrap();
    let since = Instant::now();
    for batch in 0..4000 {
        let append = opened.journal.append((batch * 250 + 1..=batch * 250 + 250).map(|seq| record(seq, 256)).collect());
        if batch % 16 == 15 {
            append.await.unwrap();
        }
    }
    opened.journal.append(vec![]).await.unwrap();
    println!("{kind}: 1,000,000 records of 256 B in batches of 250: {:?}", since.elapsed());
    drop(opened);
    let since = Instant::now();
    let mut opened = store.open(PartitionId(1)).await.unwrap();
    println!("{kind}: opening them: {:?} ({} records)", since.elapsed(), opened.records.len());
    let since = Instant::now();
    opened.journal.checkpoint(position(1_000_000), Bytes::from(vec![7; 256 << 20]).into()).await.unwrap();
    println!("{kind}: a checkpoint of 256 MiB: {:?}", since.elapsed());
    drop(opened);
    let since = Instant::now();
    let opened = store.open(PartitionId(1)).await.unwrap();
    println!("{kind}: opening that: {:?} ({} records)", since.elapsed(), opened.records.len());
}
