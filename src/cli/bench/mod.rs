//! `bench`: load against a running cluster, through the same client that applications use.
//!
//! Owns what the benchmarks share: who puts the load, for how long, and how figures are kept. What fails
//! is counted and shown, never hidden in an average.

mod cache;
mod lock;
mod queue;

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Context, Failure};
use crate::{client::Client, config::suffixed_duration, time::millis};

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
    Lock(lock::BenchLock),
    /// Publishes, deliveries and acknowledgements.
    ///
    /// publish: one message a call. batch: --batch of them a call. consume: receives and acknowledges --batch at
    /// a time what was published before, for as long as there is some. latency: from the moment a message was
    /// due to be published, --rate of them a second, to its delivery. The queues are deleted afterwards.
    Queue(queue::BenchQueue),
    /// Reads and writes of the cache, by the ways in which nodes share.
    ///
    /// Name the APIs of the other nodes with --also: what the protocols differ in is what happens between nodes.
    /// read-mostly and zipf: the clients of each node read all keys and write --writes of 100. private: each client
    /// reads and then writes keys of its own; with more --keys than CACHE_CAPACITY their lines have to come back,
    /// and E spares their stores a message. producer-consumer: each client writes a key at one node and reads it at
    /// each of the others, where O spares the owner's value its way to the home. migratory: reads and then writes a
    /// key at one node after the other. Messages are those that all cache nodes count, renewals of sessions too.
    /// Exit code 1 if a read found an older value than had been acknowledged. The keys are invalidated afterwards.
    Cache(cache::BenchCache),
}

impl BenchCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Lock(bench) => bench.run(context),
            Self::Queue(bench) => bench.run(context),
            Self::Cache(bench) => bench.run(context),
        }
    }
}

/// Who puts the load, and for how long.
#[derive(Debug, Args)]
struct Load {
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

impl Load {
    /// A client of each node.
    fn nodes(&self, context: &Context) -> Result<Vec<Client>, Failure> {
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
        Ok(nodes)
    }
}

fn progress(what: String, duration: Duration) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(millis(duration));
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}").expect("the template above is valid");
    bar.with_style(style).with_prefix(what)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).expect("the bounds are valid constants")
}

fn merged<'a>(all: impl Iterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut sum = histogram();
    for one in all {
        sum.add(one).expect("all histograms have the same bounds");
    }
    sum
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(MAX_LATENCY_US)
}

/// To one decimal.
fn per_second(count: u64, elapsed: Duration) -> f64 {
    (count as f64 / elapsed.as_secs_f64() * 10.0).round() / 10.0
}

fn ms(us: u64) -> String {
    format!("{:.2}ms", us as f64 / 1000.0)
}
