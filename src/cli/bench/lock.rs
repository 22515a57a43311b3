//! `bench lock`: load against a running cluster, through the same client that applications use.
//!
//! Each client opens a session, then acquires and releases as fast as it is answered. What fails is
//! counted and shown, never hidden in an average.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

use super::{FAILURE_PAUSE, Load, TICK, histogram, merged, micros, ms, per_second, progress};
use crate::{
    cli::{Context, Failure, OnInterrupt, output::table},
    client::{AcquireOptions, Call, Client, ClientError},
    error::ErrorCode,
    ids::{LockName, SessionId},
    machine::lock::{Mode, Want},
};

/// The longest that a client waits for its turn.
const WAIT: Duration = Duration::from_secs(60);

/// The term of a client's session, kept alive at a third of it.
const TTL: Duration = Duration::from_secs(30);

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
pub(in crate::cli) struct BenchLock {
    /// A lock of its own for each client, one lock for all, or one that all hold together.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "own,one,shared")]
    mode: Vec<Contention>,
    #[command(flatten)]
    load: Load,
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

impl BenchLock {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let nodes = self.load.nodes(context)?;
        let runs = context.block_on(OnInterrupt::Fail, async {
            let mut runs = Vec::new();
            for &mode in &self.mode {
                for &clients in &self.load.clients {
                    runs.push(measure(mode, clients, self.load.duration, &nodes).await?);
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
    let bar = progress(format!("{mode:?}, {clients} clients").to_lowercase(), duration);
    while began.elapsed() < duration {
        sleep(TICK.min(duration.saturating_sub(began.elapsed()))).await;
        bar.set_position(crate::time::millis(began.elapsed()));
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

/// One client: pairs until the time is over, then its session is closed.
async fn load(client: Client, session: SessionId, want: Want, shared: Arc<Shared>) -> anyhow::Result<Tally> {
    let mut tally = Tally { latencies: histogram(), pairs: 0, failures: 0 };
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
                tally.latencies.saturating_record(micros(began.elapsed()));
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
    let latencies = merged(tallies.iter().map(|tally| &tally.latencies));
    let counts: Vec<f64> = tallies.iter().map(|tally| tally.pairs as f64).collect();
    let pairs = tallies.iter().map(|tally| tally.pairs).sum::<u64>();
    Report {
        mode,
        clients: tallies.len(),
        duration_ms: crate::time::millis(elapsed),
        pairs,
        pairs_per_s: per_second(pairs, elapsed),
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
