//! `bench lock`: load against a running cluster, through the same client that applications use.
//!
//! Each client opens a session, then acquires and releases as fast as it is answered. What fails is
//! counted and shown, never hidden in an average.

use std::{
    io::{IsTerminal, stderr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

use super::{Context, Failure, OnInterrupt, output::table};
use crate::{
    client::{AcquireOptions, Call, Client, ClientError},
    config::suffixed_duration,
    error::ErrorCode,
    ids::{LockName, SessionId},
    machine::lock::{Mode, Want},
};

/// The longest that a client waits for its turn.
const WAIT: Duration = Duration::from_secs(60);

/// The term of a client's session, kept alive at a third of it.
const TTL: Duration = Duration::from_secs(30);

/// The pause of a client after a failure, so that a failing cluster is not flooded.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// Most clients at a time.
const MAX_CLIENTS: usize = 4096;

/// Latencies are recorded in microseconds up to two minutes, to three digits.
const MAX_LATENCY_US: u64 = 120_000_000;

/// What to put under load.
#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Pairs of acquire and release.
    Lock(BenchLock),
}

/// Who contends for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Contention {
    /// Each client has a lock of its own.
    Own,
    /// One exclusive lock for all.
    One,
    /// One lock that all hold together.
    Shared,
}

/// The arguments of `bench lock`.
#[derive(Debug, Args)]
pub(super) struct BenchLock {
    /// A lock of its own for each client, one lock for all, or one that all hold together.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "own,one,shared")]
    mode: Vec<Contention>,
    /// How many clients; several numbers make several runs.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<usize>,
    /// How long each run lasts.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = suffixed_duration)]
    duration: Duration,
    /// More nodes over which the clients are spread, beside --url.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    also: Vec<String>,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
struct Report {
    mode: Contention,
    clients: usize,
    duration_ms: u64,
    pairs: u64,
    pairs_per_s: f64,
    p50_us: u64,
    p95_us: u64,
    p99_us: u64,
    max_us: u64,
    /// Jain's index over the clients' pairs: 1 is perfectly fair, 1/clients is one client only.
    jain: f64,
    failures: u64,
}

#[derive(Debug, Serialize)]
struct Reports {
    runs: Vec<Report>,
}

impl BenchCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let Self::Lock(bench) = self;
        bench.run(context)
    }
}

impl BenchLock {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if self.duration.is_zero() {
            return Err(Failure::Usage("--duration must be longer than 0".to_owned()));
        }
        if let Some(bad) = self.clients.iter().find(|clients| !(1..=MAX_CLIENTS).contains(*clients)) {
            return Err(Failure::Usage(format!("--clients {bad}: expected 1 to {MAX_CLIENTS}")));
        }
        let target = context.target()?;
        let mut nodes = vec![Client::new(&target.url, target.token.clone())?];
        for url in &self.also {
            nodes.push(Client::new(url, target.token.clone())?);
        }
        let runs = context.block_on(OnInterrupt::Fail, async {
            let mut runs = Vec::new();
            for &mode in &self.mode {
                for &clients in &self.clients {
                    runs.push(measure(mode, clients, self.duration, &nodes).await?);
                }
            }
            Ok(runs)
        })?;
        context.output.result(&Reports { runs: runs.clone() }, || report_text(&runs))
    }
}

/// What the clients of one run share.
#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    pairs: AtomicU64,
}

/// What one client did.
#[derive(Debug)]
struct Tally {
    latencies: Histogram<u64>,
    pairs: u64,
    failures: u64,
}

async fn measure(mode: Contention, clients: usize, duration: Duration, nodes: &[Client]) -> Result<Report, Failure> {
    let name = format!("bench-{}-{}", std::process::id(), rand::random::<u32>());
    let shared = Arc::new(Shared::default());
    let mut opened = Vec::with_capacity(clients);
    for index in 0..clients {
        let client = nodes[index % nodes.len()].clone();
        let session = client.open_session(Some(TTL), Some("syncmesh bench")).await?.session;
        opened.push((client, session));
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (index, (client, session)) in opened.into_iter().enumerate() {
        let lock = if mode == Contention::Own { format!("{name}-{index}") } else { name.clone() };
        let lock = LockName::new(lock).context("a made-up name is a valid one")?;
        let wanted = if mode == Contention::Shared { Mode::Shared } else { Mode::Exclusive };
        tasks.spawn(load(client, session, Want { lock, mode: wanted }, Arc::clone(&shared)));
    }
    let bar = progress(mode, clients, duration);
    while began.elapsed() < duration {
        sleep(TICK.min(duration.saturating_sub(began.elapsed()))).await;
        bar.set_position(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        bar.set_message(format!("{} pairs", shared.pairs.load(Ordering::Relaxed)));
    }
    shared.over.store(true, Ordering::Relaxed);
    let elapsed = began.elapsed();
    let mut tallies = Vec::with_capacity(clients);
    while let Some(tally) = tasks.join_next().await {
        tallies.push(tally.context("a client of the benchmark panicked")??);
    }
    bar.finish_and_clear();
    Ok(report(mode, elapsed, &tallies))
}

fn progress(mode: Contention, clients: usize, duration: Duration) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}").expect("the template above is valid");
    bar.with_style(style).with_prefix(format!("{mode:?}, {clients} clients").to_lowercase())
}

/// One client: pairs until the time is over, then its session is closed.
async fn load(client: Client, session: SessionId, want: Want, shared: Arc<Shared>) -> anyhow::Result<Tally> {
    let latencies = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).context("the histogram's bounds are valid")?;
    let mut tally = Tally { latencies, pairs: 0, failures: 0 };
    let options = AcquireOptions { session: Some(session.clone()), wait: WAIT, ..AcquireOptions::default() };
    let acquire = Call::acquire(&want, &options);
    let release = Call::release(&want.lock, &session);
    let mut renewed = Instant::now();
    while !shared.over.load(Ordering::Relaxed) {
        let began = Instant::now();
        match pair(&client, &acquire, &release, &shared).await {
            Ok(true) => {
                tally.pairs += 1;
                shared.pairs.fetch_add(1, Ordering::Relaxed);
                let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(MAX_LATENCY_US);
                tally.latencies.saturating_record(took);
            }
            Ok(false) => break,
            Err(error) if error.error.code == ErrorCode::SessionExpired => return Err(error.into()),
            Err(_) => {
                tally.failures += 1;
                sleep(FAILURE_PAUSE).await;
            }
        }
        if renewed.elapsed() > TTL / 3 && client.keep_alive(&session).await.is_ok() {
            renewed = Instant::now();
        }
    }
    // What is not closed ends with its term.
    let _ = client.close_session(&session).await;
    Ok(tally)
}

/// One pair; `false` if the time was over before the grant.
async fn pair(client: &Client, acquire: &Call, release: &Call, shared: &Shared) -> Result<bool, ClientError> {
    let over = async {
        while !shared.over.load(Ordering::Relaxed) {
            sleep(TICK).await;
        }
    };
    tokio::select! {
        biased;
        granted = client.text(acquire) => granted?,
        () = over => return Ok(false),
    };
    client.text(release).await?;
    Ok(true)
}

fn report(mode: Contention, elapsed: Duration, tallies: &[Tally]) -> Report {
    let mut latencies = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("the bounds are valid constants");
    for tally in tallies {
        latencies.add(&tally.latencies).expect("all histograms have the same bounds");
    }
    let counts: Vec<f64> = tallies.iter().map(|tally| tally.pairs as f64).collect();
    let pairs = tallies.iter().map(|tally| tally.pairs).sum::<u64>();
    Report {
        mode,
        clients: tallies.len(),
        duration_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        pairs,
        pairs_per_s: (pairs as f64 / elapsed.as_secs_f64() * 10.0).round() / 10.0,
        p50_us: latencies.value_at_quantile(0.5),
        p95_us: latencies.value_at_quantile(0.95),
        p99_us: latencies.value_at_quantile(0.99),
        max_us: latencies.max(),
        jain: jain(&counts),
        failures: tallies.iter().map(|tally| tally.failures).sum(),
    }
}

/// Jain's fairness index (Jain, Chiu and Hawe, DEC-TR-301, 1984); 1 where nobody got anything.
fn jain(counts: &[f64]) -> f64 {
    let sum: f64 = counts.iter().sum();
    let squares: f64 = counts.iter().map(|count| count * count).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (counts.len() as f64 * squares) }
}

fn report_text(runs: &[Report]) -> String {
    let ms = |us: u64| format!("{:.2}ms", us as f64 / 1000.0);
    let row = |run: &Report| {
        [
            format!("{:?}", run.mode).to_lowercase(),
            run.clients.to_string(),
            format!("{:.1}", run.pairs_per_s),
            ms(run.p50_us),
            ms(run.p95_us),
            ms(run.p99_us),
            ms(run.max_us),
            format!("{:.4}", run.jain),
            run.failures.to_string(),
        ]
    };
    table(["MODE", "CLIENTS", "PAIRS/S", "P50", "P95", "P99", "MAX", "JAIN", "FAILED"], runs.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_for_equals_and_one_nth_for_a_single_winner() {
        assert_eq!(jain(&[5.0, 5.0, 5.0]), 1.0);
        assert_eq!(jain(&[9.0, 0.0, 0.0]), 1.0 / 3.0);
        assert_eq!(jain(&[0.0, 0.0]), 1.0);
    }
}
