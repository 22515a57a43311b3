//! `bench cache`: how the cache does under the patterns of sharing that its protocols differ in.
//!
//! Owns the arguments, the runs and their figures; [`workload`] has the clients. How many messages an operation took
//! is counted by the nodes: the difference of two looks at `GET /v1/cache`.

mod workload;
mod zipf;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

use self::workload::{Flow, Shared, Tally};
use super::{Load, TICK, merged, ms, per_second, progress};
use crate::{
    api::cache_bodies::{CacheBody, CacheNodeBody},
    cli::{Context, Failure, OnInterrupt, output::table, remote::percent},
    client::{Client, RemoteCache},
    ids::CacheKey,
    node::caches::Which,
    time::millis,
};

/// Who reads and writes what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Workload {
    /// All clients read all keys, and now and then write one.
    ReadMostly,
    /// Each client reads and then writes keys of its own.
    Private,
    /// One node writes a key, then each of the others reads it.
    ProducerConsumer,
    /// One node after the other reads a key and then writes it.
    Migratory,
    /// As read-mostly, but few keys get most of it.
    Zipf,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::ReadMostly => "read-mostly",
            Self::Private => "private",
            Self::ProducerConsumer => "producer-consumer",
            Self::Migratory => "migratory",
            Self::Zipf => "zipf",
        }
    }

    /// Whether a client uses one key of its own, at all nodes.
    fn goes_round(self) -> bool {
        matches!(self, Self::ProducerConsumer | Self::Migratory)
    }
}

/// The arguments of `bench cache`.
#[derive(Debug, Args)]
pub(in crate::cli) struct BenchCache {
    /// Who reads and writes what.
    #[arg(long, value_enum, value_delimiter = ',')]
    #[arg(default_value = "read-mostly,private,producer-consumer,migratory,zipf")]
    workload: Vec<Workload>,
    #[command(flatten)]
    load: Load,
    /// How many keys; producer-consumer and migratory use one a client.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    keys: u32,
    /// Bytes of a value, 16 or more.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=67_108_864))]
    size: u32,
    /// Of 100 operations of read-mostly and zipf so many write.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    writes: u32,
}

/// Latencies of calls, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Latencies {
    count: u64,
    p50_us: u64,
    p95_us: u64,
    p99_us: u64,
    max_us: u64,
}

impl Latencies {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p95_us: histogram.value_at_quantile(0.95),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        }
    }
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
struct Report {
    workload: Workload,
    protocol: String,
    write_policy: String,
    /// Over how many nodes the clients were spread.
    nodes: usize,
    clients: usize,
    keys: usize,
    size: u32,
    duration_ms: u64,
    operations: u64,
    operations_per_s: f64,
    /// Of reads and writes together.
    #[serde(flatten)]
    latencies: Latencies,
    reads: Latencies,
    writes: Latencies,
    /// Of the reads, those that needed no message by `X-Cache`; null without reads.
    hit_rate: Option<f64>,
    /// Those that all cache nodes sent, the renewals of their sessions too.
    messages_per_operation: f64,
    /// By kind.
    messages: BTreeMap<String, u64>,
    /// Of these messages and their answers.
    bytes_per_operation: f64,
    evictions: u64,
    /// Reads that found nothing.
    absent: u64,
    /// Reads that found an older value than had been acknowledged: a fault of the cache.
    stale: u64,
    failures: u64,
}

#[derive(Debug, Serialize)]
struct Reports {
    runs: Vec<Report>,
}

impl BenchCache {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let nodes = self.load.nodes(context)?;
        let runs = context.block_on(OnInterrupt::Fail, async {
            let mut runs = Vec::new();
            for &workload in &self.workload {
                for &clients in &self.load.clients {
                    runs.push(Run::new(workload, clients, &self, &nodes)?.measure().await?);
                }
            }
            Ok(runs)
        })?;
        context.output.result(&Reports { runs: runs.clone() }, || report_text(&runs))?;
        match runs.iter().map(|run| run.stale).sum::<u64>() {
            0 => Ok(()),
            stale => Err(anyhow!(
                "{stale} reads found an older value than had been acknowledged: that is a fault of the cache, report it \
                 with the logs of the nodes"
            )
            .into()),
        }
    }
}

/// One run.
struct Run<'a> {
    workload: Workload,
    clients: usize,
    bench: &'a BenchCache,
    nodes: Vec<RemoteCache>,
    prefix: String,
    keys: Arc<Vec<CacheKey>>,
}

impl<'a> Run<'a> {
    fn new(workload: Workload, clients: usize, bench: &'a BenchCache, nodes: &[Client]) -> Result<Self, Failure> {
        let prefix = format!("bench-{}-{:08x}-", std::process::id(), rand::random::<u32>());
        let count = if workload.goes_round() { clients } else { clients.max(bench.keys as usize) };
        let key = |number| CacheKey::new(format!("{prefix}{number}")).context("a made-up key is valid");
        let keys = (0..count).map(key).collect::<Result<Vec<_>, _>>()?;
        let nodes = nodes.iter().map(Client::cache).collect();
        Ok(Self { workload, clients, bench, nodes, prefix, keys: Arc::new(keys) })
    }

    async fn measure(&self) -> Result<Report, Failure> {
        self.store_all().await?;
        let before = self.nodes[0].stats().await?;
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        let distribution = (self.workload == Workload::Zipf).then(|| Arc::new(zipf::Zipf::over(self.keys.len())));
        for number in 0..self.clients {
            let flow = self.flow(number, &shared);
            let (writes, distribution) = (self.bench.writes, distribution.clone());
            match self.workload {
                Workload::ReadMostly | Workload::Zipf => drop(clients.spawn(flow.mixed(writes, distribution))),
                Workload::Private => drop(clients.spawn(flow.private(self.clients))),
                Workload::ProducerConsumer => drop(clients.spawn(flow.producer_consumer())),
                Workload::Migratory => drop(clients.spawn(flow.migratory())),
            }
        }
        let (elapsed, tallies) = self.watch(&shared, &mut clients).await?;
        let after = self.nodes[0].stats().await?;
        // What is not invalidated makes room when there is need of it.
        let _ = self.nodes[0].invalidate(&Which::Prefix(self.prefix.clone())).await;
        Ok(self.report(elapsed, &tallies, &before, &after))
    }

    /// A client, which begins at one of the nodes.
    fn flow(&self, number: usize, shared: &Arc<Shared>) -> Flow {
        let mut nodes = self.nodes.clone();
        nodes.rotate_left(number % self.nodes.len());
        Flow::new(number, nodes, Arc::clone(&self.keys), self.bench.size as usize, Arc::clone(shared))
    }

    /// Every key has a value before the run. A cluster that cannot be reached is an error, not a run without
    /// operations.
    async fn store_all(&self) -> Result<(), Failure> {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            clients.spawn(self.flow(number, &shared).store_share(self.clients));
        }
        let bar = progress(format!("{}, {} values", self.workload.name(), self.keys.len()), Duration::ZERO);
        bar.set_length(self.keys.len() as u64);
        while !clients.is_empty() {
            tokio::select! {
                Some(ended) = clients.join_next() => ended.context("a client of the benchmark panicked")??,
                () = sleep(TICK) => bar.set_position(shared.operations.load(Ordering::Relaxed)),
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Lets the clients work for as long as the run lasts; how long it took, and what they did.
    async fn watch(&self, shared: &Shared, clients: &mut JoinSet<Tally>) -> Result<(Duration, Vec<Tally>), Failure> {
        let duration = self.bench.load.duration;
        let bar = progress(format!("{}, {} clients", self.workload.name(), self.clients), duration);
        let began = Instant::now();
        while began.elapsed() < duration {
            sleep(TICK.min(duration.saturating_sub(began.elapsed()))).await;
            bar.set_position(millis(began.elapsed()));
            bar.set_message(format!("{} operations", shared.operations.load(Ordering::Relaxed)));
        }
        shared.over.store(true, Ordering::Relaxed);
        let mut tallies = Vec::new();
        while let Some(ended) = clients.join_next().await {
            tallies.push(ended.context("a client of the benchmark panicked")?);
        }
        let elapsed = began.elapsed();
        bar.finish_and_clear();
        Ok((elapsed, tallies))
    }

    fn report(&self, elapsed: Duration, tallies: &[Tally], before: &CacheBody, after: &CacheBody) -> Report {
        let reads = merged(tallies.iter().map(|tally| &tally.reads));
        let writes = merged(tallies.iter().map(|tally| &tally.writes));
        let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
        let operations = reads.len() + writes.len();
        let messages = grown_by(before, after);
        Report {
            workload: self.workload,
            protocol: after.protocol.clone(),
            write_policy: after.write_policy.clone(),
            nodes: self.nodes.len(),
            clients: self.clients,
            keys: self.keys.len(),
            size: self.bench.size,
            duration_ms: millis(elapsed),
            operations,
            operations_per_s: per_second(operations, elapsed),
            latencies: Latencies::of(&merged([&reads, &writes].into_iter())),
            hit_rate: share(sum(|tally| tally.hits), reads.len()),
            reads: Latencies::of(&reads),
            writes: Latencies::of(&writes),
            messages_per_operation: share(messages.values().sum(), operations).unwrap_or(0.0),
            messages,
            bytes_per_operation: share(sent_bytes(before, after), operations).unwrap_or(0.0),
            evictions: evictions(after).saturating_sub(evictions(before)),
            absent: sum(|tally| tally.absent),
            stale: sum(|tally| tally.stale),
            failures: sum(|tally| tally.failures),
        }
    }
}

/// To four decimals.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0)
}

fn evictions(cache: &CacheBody) -> u64 {
    cache.nodes.iter().map(|node| node.evictions).sum()
}

/// How many bytes the nodes have sent since. One that was started anew counts from nothing.
fn sent_bytes(before: &CacheBody, after: &CacheBody) -> u64 {
    let more = |node: &CacheNodeBody| {
        let earlier = before.nodes.iter().find(|earlier| earlier.peer == node.peer);
        let sent_before = earlier.map(|earlier| earlier.sent_bytes).filter(|sent| *sent <= node.sent_bytes);
        node.sent_bytes - sent_before.unwrap_or(0)
    };
    after.nodes.iter().map(more).sum()
}

/// How many messages of each kind the nodes have sent since. One that was started anew counts from nothing.
fn grown_by(before: &CacheBody, after: &CacheBody) -> BTreeMap<String, u64> {
    let mut grown = BTreeMap::new();
    for node in &after.nodes {
        let earlier = before.nodes.iter().find(|earlier| earlier.peer == node.peer);
        let count = |of: &CacheNodeBody, kind: &str| of.messages.get(kind).copied().unwrap_or(0);
        for (kind, sent) in &node.messages {
            let sent_before = earlier.map_or(0, |earlier| count(earlier, kind));
            let more = if sent_before > *sent { *sent } else { sent - sent_before };
            if more > 0 {
                *grown.entry(kind.clone()).or_default() += more;
            }
        }
    }
    grown
}

fn report_text(runs: &[Report]) -> String {
    let row = |run: &Report| {
        [
            run.workload.name().to_owned(),
            format!("{} {}", run.protocol, run.write_policy),
            run.clients.to_string(),
            format!("{:.1}", run.operations_per_s),
            percent(run.hit_rate),
            format!("{:.2}", run.messages_per_operation),
            format!("{:.0}", run.bytes_per_operation),
            ms(run.latencies.p50_us),
            ms(run.latencies.p95_us),
            ms(run.latencies.p99_us),
            ms(run.latencies.max_us),
            ms(run.writes.p50_us),
            ms(run.writes.p99_us),
            run.absent.to_string(),
            run.stale.to_string(),
            run.failures.to_string(),
        ]
    };
    let header = [
        "WORKLOAD",
        "PROTOCOL",
        "CLIENTS",
        "OPS/S",
        "HIT RATE",
        "MESSAGES/OP",
        "BYTES/OP",
        "P50",
        "P95",
        "P99",
        "MAX",
        "WRITE P50",
        "WRITE P99",
        "ABSENT",
        "STALE",
        "FAILED",
    ];
    table(header, runs.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::cache_bodies::{InvalidationsBody, LinesBody},
        ids::NodeId,
    };

    fn cache(nodes: &[(u8, &[(&str, u64)])]) -> CacheBody {
        let node = |(n, messages): &(u8, &[(&str, u64)])| CacheNodeBody {
            peer: NodeId::from_bytes([*n; 32]),
            capacity: 1,
            entries: 0,
            bytes: 0,
            lines: LinesBody::default(),
            hits: 0,
            remote_hits: 0,
            misses: 0,
            misses_by_cause: BTreeMap::new(),
            evictions: u64::from(*n),
            directory_evictions: 0,
            transitions: BTreeMap::new(),
            dirty_lost: 0,
            invalidations: InvalidationsBody::default(),
            messages: messages.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            sent_bytes: 100 * messages.iter().map(|(_, count)| count).sum::<u64>(),
            stalls: BTreeMap::new(),
        };
        let nodes = nodes.iter().map(node).collect();
        CacheBody { protocol: "MESI".into(), write_policy: "back".into(), nodes, unanswered: Vec::new() }
    }

    #[test]
    fn messages_are_counted_from_the_first_look_to_the_second() {
        let before = cache(&[(1, &[("get-s", 10), ("inv", 5)]), (2, &[("get-s", 100)])]);
        let after = cache(&[(1, &[("get-s", 13), ("inv", 5), ("get-m", 1)]), (2, &[("get-s", 4)]), (3, &[("inv", 2)])]);
        let expected = BTreeMap::from([("get-s".to_owned(), 7), ("get-m".to_owned(), 1), ("inv".to_owned(), 2)]);
        assert_eq!(grown_by(&before, &after), expected);
        assert_eq!(sent_bytes(&before, &after), 400 + 400 + 200);
        assert_eq!(evictions(&after), 6);
    }

    #[test]
    fn a_share_of_nothing_is_none() {
        assert_eq!((share(1, 3), share(0, 0)), (Some(0.3333), None));
    }
}
