//! A queue through which many messages pass while one old message stays: what it costs is bounded by what is unconsumed,
//! in files and in Redis. How long a partition with a million messages takes to come back, and how long a call waits at
//! most while checkpoints are made.
//!
//! ```sh
//! MESSAGES=10000000 cargo test --profile profiling --test queue_bounded -- --nocapture
//! cargo test --profile profiling --test queue_bounded -- --ignored --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and tells its figures")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../journal/redis_server.rs"]
mod redis_server;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use redis_server::RedisServer;
use syncmesh::{
    Config, Node,
    config::{Secret, Switch},
    ids::QueueName,
    node::queues::{Publish, Queue, QueueSettings, Receive},
};
use tempfile::TempDir;

/// Messages that pass, unless `MESSAGES` says otherwise.
const MESSAGES: u64 = 500_000;
/// How many are published, and consumed, at a time.
const BATCH: u32 = 1_000;
const BODY: usize = 1_000;
const MIB: u64 = 1 << 20;
/// What a journal may take beside what is unconsumed: 64 MiB lie behind a checkpoint when the next is due, what comes
/// while that is made lies beside it, and Redis has pages of its own.
const BOUND: u64 = 160 * MIB;
const WINDOW_S: u64 = 5;
const GRACE: Duration = Duration::from_secs(10);

fn messages() -> u64 {
    std::env::var("MESSAGES").map_or(MESSAGES, |messages| messages.parse().expect("MESSAGES is a number"))
}

/// A cluster of one, on what its directory holds.
async fn node(data_dir: &Path, redis: Option<&RedisServer>) -> Node {
    let config = Config {
        data_dir: data_dir.to_owned(),
        listen_addrs: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        mdns: Switch::Off,
        queue_partitions: 1,
        bootstrap_expect: Some(1),
        redis_url: redis.map(|redis| Secret::new(redis.url())),
        ..Config::default()
    };
    let node = Node::start(config).await.unwrap();
    while !node.readiness().await.ready {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node
}

fn jobs(node: &Node) -> Queue {
    node.queue(QueueName::new("jobs").unwrap())
}

async fn publish(node: &Node, count: u32) {
    let batch = (0..count).map(|_| Publish::new(vec![b'x'; BODY])).collect();
    assert_eq!(jobs(node).publish_all(batch).await.unwrap().len(), count as usize);
}

/// Receives and acknowledges a batch.
async fn consume(node: &Node) -> u32 {
    let queue = QueueName::new("jobs").unwrap();
    let receive = Receive { max: BATCH, wait_ms: 0, visibility_ms: None };
    let received = node.queues().receive(queue.clone(), receive).await.unwrap();
    let receipts: Vec<String> = received.into_iter().map(|message| message.receipt).collect();
    let count = receipts.len();
    let acked = node.queues().ack(queue, receipts).await.unwrap();
    assert!(acked.failed.is_empty() && acked.done.len() == count, "{acked:?}");
    u32::try_from(count).unwrap()
}

/// Lets messages pass the one that stays; the most that the journal took, as `taken` sees it.
async fn pass(node: &Node, mut taken: impl FnMut() -> u64) -> u64 {
    let began = Instant::now();
    // Ids are remembered for as long as duplicates are looked for: that grows with the rate, and not with what is
    // unconsumed.
    let settings = QueueSettings { dedup_window_s: Some(WINDOW_S), ..QueueSettings::default() };
    jobs(node).configure(settings).await.unwrap();
    // The old one is out with somebody who takes his time.
    jobs(node).publish(Publish::new("the old one")).await.unwrap();
    let patient = Receive { max: 1, wait_ms: 0, visibility_ms: Some(12 * 3_600_000) };
    let old = node.queues().receive(QueueName::new("jobs").unwrap(), patient).await.unwrap().remove(0);
    let (mut passed, mut most) = (0, 0);
    while passed < messages() {
        publish(node, BATCH).await;
        passed += u64::from(consume(node).await);
        most = most.max(taken());
    }
    let stats = jobs(node).stats().await.unwrap();
    assert_eq!((stats.depth, stats.in_flight), (0, 1), "{stats:?}");
    let took = began.elapsed();
    println!(
        "{passed} messages of {BODY} bytes passed the one that stays in {took:.1?} ({:.0}/s); the journal took {} MiB at most",
        passed as f64 / took.as_secs_f64(),
        most / MIB
    );
    let published = passed * BODY as u64;
    assert!(published > 2 * BOUND, "{published} bytes are too few to show a bound of {BOUND}");
    assert!(most < BOUND, "the journal took {} MiB", most / MIB);
    let acked = node.queues().ack(QueueName::new("jobs").unwrap(), vec![old.receipt]).await.unwrap();
    assert_eq!(acked.done.len(), 1, "the old one was still out: {acked:?}");
    most
}

fn bytes_under(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_under(&entry.path()),
            // A segment that is gone meanwhile takes nothing.
            meta => meta.map_or(0, |meta| meta.len()),
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_in_files_is_bounded_by_what_is_unconsumed() {
    let dir = TempDir::new().unwrap();
    let node = node(dir.path(), None).await;
    let journals = dir.path().join("queues");
    assert!(journals.is_dir(), "{journals:?} is where the journals are");
    let most = pass(&node, || bytes_under(&journals)).await;
    assert!(most > 0, "nothing was journalled");
    node.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_in_redis_is_bounded_by_what_is_unconsumed() {
    let Some(redis) = RedisServer::start() else { return };
    let dir = TempDir::new().unwrap();
    let node = node(dir.path(), Some(&redis)).await;
    let before = used_memory(&redis);
    let most = pass(&node, || used_memory(&redis).saturating_sub(before)).await;
    assert!(most > 0, "nothing was journalled");
    node.stop(GRACE).await;
}

fn used_memory(redis: &RedisServer) -> u64 {
    let info: String = redis.ask(&["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

/// The longest of the calls that publish a batch, or receive and acknowledge it, with the ids of as many messages in the
/// window of the queue as it remembers, and some that nobody consumes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn the_longest_call_beside_checkpoints() {
    tracing_subscriber::fmt().with_env_filter("syncmesh::node::queues=info").init();
    let dir = TempDir::new().unwrap();
    let node = node(dir.path(), None).await;
    let backlog = node.queue(QueueName::new("backlog").unwrap());
    let (mut passed, mut calls) = (0, Vec::new());
    while passed < messages() {
        let began = Instant::now();
        publish(&node, BATCH).await;
        let published = Instant::now();
        passed += u64::from(consume(&node).await);
        calls.extend([published - began, published.elapsed()]);
        if passed % 10_000 == 0 {
            let batch = (0..BATCH).map(|_| Publish::new(vec![b'x'; BODY])).collect();
            let began = Instant::now();
            backlog.publish_all(batch).await.unwrap();
            calls.push(began.elapsed());
        }
    }
    assert_eq!(backlog.stats().await.unwrap().depth, passed / 10);
    calls.sort_unstable();
    let at = |share: f64| calls[((calls.len() - 1) as f64 * share) as usize];
    println!(
        "{passed} messages of {BODY} bytes, and a tenth of that unconsumed: publishing a batch, or consuming it, takes {:.1?} (p50), {:.1?} (p99), {:.1?} at most",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    node.stop(GRACE).await;
}

/// A million messages that nobody has consumed, and a restart.
async fn restart_with_a_million(redis: Option<RedisServer>) {
    let dir = TempDir::new().unwrap();
    let first = node(dir.path(), redis.as_ref()).await;
    let count = 1_000_000;
    for _ in 0..count / u64::from(BATCH) {
        publish(&first, BATCH).await;
    }
    first.stop(GRACE).await;
    drop(first);
    let began = Instant::now();
    let again = node(dir.path(), redis.as_ref()).await;
    let delivered = loop {
        match jobs(&again).receive(1, Duration::from_secs(1)).await {
            Ok(messages) if !messages.is_empty() => break began.elapsed(),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let stats = jobs(&again).stats().await.unwrap();
    assert_eq!(stats.depth + stats.in_flight, count, "{stats:?}");
    println!("{count} messages of {BODY} bytes: {delivered:.2?} from the start of the node to the first delivery");
    again.stop(GRACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn recovery_from_files() {
    restart_with_a_million(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn recovery_from_redis() {
    let redis = RedisServer::start();
    assert!(redis.is_some(), "needs redis-server");
    restart_with_a_million(redis).await;
}
