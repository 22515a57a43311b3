//! What a hit of the cache costs in a process that embeds a node, how often it is one, and what a line takes in memory.
//!
//! `cargo bench --bench cache_hit`, or with `-- 'a hit'` the times alone. One node, which is home to all keys; keys are drawn by Zipf's law with exponent 0.99.
//! That a hit makes no system call: `strace -f -c` over `cargo bench --bench cache_hit -- --hits N` for two N tells the same
//! number of them. Memory is what the kernel counts for a process (Linux only).
#![allow(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::{
    collections::BTreeSet,
    env, fs,
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use futures::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use syncmesh::{
    Config, Node,
    clock::{Clock, SystemClock},
    config::Switch,
    ids::Role,
    node::caches::{Cache, Read},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Reads that are drawn beforehand, and read over and over.
const DRAWN: usize = 1 << 20;
/// Keys of which a part has room.
const MANY_KEYS: usize = 1_000_000;
const VALUE: &[u8] = b"a small value";

/// A cluster of one, and what it runs on.
struct Bench {
    runtime: Runtime,
    node: Node,
    _dir: TempDir,
}

impl Bench {
    fn of(capacity: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let (runtime, dir) = (runtime.expect("a runtime"), TempDir::new().expect("a directory"));
        let config = Config {
            data_dir: dir.path().to_owned(),
            listen_addrs: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
            mdns: Switch::Off,
            node_roles: BTreeSet::from([Role::LockManager, Role::CacheNode]),
            bootstrap_expect: Some(1),
            cache_capacity: u64::try_from(capacity).expect("a capacity"),
            ..Config::default()
        };
        let node = runtime.block_on(async {
            let node = Node::start(config).await.expect("it starts");
            // Homes are placed once the cluster is founded.
            while node.cache().put("first", "x").await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            node
        });
        Self { runtime, node, _dir: dir }
    }

    /// With a small value under each of these keys.
    fn filled(capacity: usize, keys: &[String]) -> Self {
        let bench = Self::of(capacity);
        let cache = bench.node.cache();
        bench.runtime.block_on(async {
            for key in keys {
                cache.put(key, Bytes::copy_from_slice(VALUE)).await.expect("it stores");
            }
        });
        bench
    }
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key-{n:012}")).collect()
}

/// Draws of 0..count, by Zipf's law; which key is how frequent does not follow from its number.
fn drawn(count: usize, draws: usize, seed: u64) -> Vec<u32> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += 1.0 / (rank as f64).powf(0.99);
            sum
        })
        .collect();
    let mut shuffled: Vec<u32> = (0..u32::try_from(count).expect("few keys")).collect();
    for at in (1..count).rev() {
        shuffled.swap(at, dice.random_range(0..=at));
    }
    let mut draw = || {
        let at = dice.random_range(0.0..sum);
        shuffled[sums.partition_point(|below| *below < at).min(count - 1)]
    };
    (0..draws).map(|_| draw()).collect()
}

/// A read that has to be a hit: it waits for nothing.
fn hit(cache: &Cache, key: &str) -> Read {
    let read = cache.get(key).now_or_never().expect("a hit waits for nothing");
    read.expect("a hit is never refused").expect("all keys have values")
}

fn hits(c: &mut Criterion) {
    let mut group = c.benchmark_group("a hit, zipf 0.99");
    group.throughput(Throughput::Elements(1));
    for lines in [10_000, 100_000] {
        let (keys, order) = (keys(lines), drawn(lines, DRAWN, 1));
        // S3-FIFO in sixteen shards: some room to spare keeps all lines.
        let bench = Bench::filled(lines * 5 / 4, &keys);
        let cache = bench.node.cache();
        let mut next = (0..DRAWN).cycle();
        group.bench_function(format!("{lines} lines"), |b| {
            b.iter(|| black_box(hit(&cache, &keys[order[next.next().expect("without end")] as usize])));
        });
        // What the table is made of, with the same keys and values and nothing around it: what this machine takes for that.
        let alone = quick_cache::sync::Cache::new(lines * 5 / 4);
        keys.iter().for_each(|key| alone.insert(key.clone(), Bytes::copy_from_slice(VALUE)));
        group.bench_function(format!("{lines} lines, quick_cache alone"), |b| {
            b.iter(|| black_box(alone.get(&keys[order[next.next().expect("without end")] as usize])));
        });
        // And with a read of the clock, which is what an answer that may not be stale takes at the least.
        group.bench_function(format!("{lines} lines, quick_cache and the clock"), |b| {
            b.iter(|| {
                let value = alone.get(&keys[order[next.next().expect("without end")] as usize]);
                black_box((value, SystemClock.now()))
            });
        });
        for threads in [1, 2] {
            let (took, reads) = by_threads(&cache, &keys, threads);
            let rate = reads as f64 / took.as_secs_f64() / 1e6;
            println!("{lines} lines, {threads} threads: {rate:.2} million hits a second together");
        }
    }
    group.finish();
}

/// How long it takes that so many threads make four million hits each, and how many they made together.
fn by_threads(cache: &Cache, keys: &[String], threads: u64) -> (Duration, usize) {
    const ROUNDS: usize = 4;
    let orders: Vec<Vec<u32>> = (0..threads).map(|seed| drawn(keys.len(), DRAWN, 2 + seed)).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for order in &orders {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    order.iter().for_each(|at| drop(black_box(hit(cache, &keys[*at as usize]))));
                }
            });
        }
    });
    (began.elapsed(), orders.len() * ROUNDS * DRAWN)
}

/// How often a read is a hit where there is room for a part of the keys, and what is missing is stored.
fn tell_hit_ratio() {
    let (keys, order) = (keys(MANY_KEYS), drawn(MANY_KEYS, 4 * DRAWN, 3));
    for capacity in [MANY_KEYS / 100, MANY_KEYS / 10] {
        let bench = Bench::of(capacity);
        let cache = bench.node.cache();
        let (mut served, mut counted) = (0, 0);
        bench.runtime.block_on(async {
            for (at, key) in order.iter().enumerate() {
                let key = &keys[*key as usize];
                let mut read = Box::pin(cache.get(key));
                let at_once = read.as_mut().now_or_never();
                // The first half fills the table.
                let counts = usize::from(at >= order.len() / 2);
                counted += counts;
                match at_once {
                    Some(_) => served += counts,
                    None if read.await.expect("it reads").is_none() => {
                        cache.put(key, VALUE).await.expect("it stores");
                    }
                    None => {}
                }
            }
        });
        let ratio = f64::from(u32::try_from(served).expect("few")) / f64::from(u32::try_from(counted).expect("few"));
        println!("room for {capacity} of {MANY_KEYS} keys: {ratio:.3} of the reads are hits");
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
}

/// In a process of its own, so that nothing is counted that was given back before.
fn memory_of(capacity: usize, count: usize) -> Option<u64> {
    let arguments = ["--memory".to_owned(), capacity.to_string(), count.to_string()];
    let told = Command::new(env::current_exe().ok()?).args(arguments).output().ok()?;
    String::from_utf8(told.stdout).ok()?.trim().parse().ok()
}

fn tell_memory() {
    const KEYS: usize = 200_000;
    // A home keeps twice as many entries as there may be lines: of the second, all keys are entries and half are lines.
    let (Some(all), Some(half)) = (memory_of(KEYS * 5 / 4, KEYS), memory_of(KEYS / 2, KEYS)) else { return };
    let line = all.saturating_sub(half) * 2 / KEYS as u64;
    let entry = (all / KEYS as u64).saturating_sub(line);
    println!("{KEYS} keys of 16 bytes with values of {}: {} bytes each", VALUE.len(), all / KEYS as u64);
    println!("of these a line at a cache takes {line}, and an entry at the home {entry}");
}

/// What a node took more for so many keys.
fn fill(capacity: usize, count: usize) {
    let keys = keys(count);
    let bench = Bench::of(capacity);
    let before = resident_bytes().unwrap_or_default();
    let cache = bench.node.cache();
    bench.runtime.block_on(async {
        for key in &keys {
            cache.put(key, VALUE).await.expect("it stores");
        }
    });
    println!("{}", resident_bytes().unwrap_or_default().saturating_sub(before));
}

/// So many hits and nothing else, for strace.
fn only_hits(count: usize) {
    let keys = keys(1_000);
    let bench = Bench::filled(2_000, &keys);
    let cache = bench.node.cache();
    let began = Instant::now();
    for n in 0..count {
        black_box(hit(&cache, &keys[n % keys.len()]));
    }
    println!("{count} hits in {:?}", began.elapsed());
}

criterion_group!(cache, hits);

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<usize>().ok());
    if let (Some("--memory"), Some(capacity), Some(count)) =
        (arguments.get(1).map(String::as_str), number(2), number(3))
    {
        return fill(capacity, count);
    }
    if let (Some("--hits"), Some(count)) = (arguments.get(1).map(String::as_str), number(2)) {
        return only_hits(count);
    }
    // Who names benchmarks wants to see those only.
    if arguments.iter().skip(1).all(|argument| argument.starts_with('-')) {
        tell_memory();
        tell_hit_ratio();
    }
    cache();
    Criterion::default().configure_from_args().final_summary();
}
