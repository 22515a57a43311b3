//! `bench queue`: publishes, deliveries and acknowledgements as fast as they are answered, and latency at
//! a given rate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

use super::{FAILURE_PAUSE, Load, TICK, histogram, merged, micros, ms, per_second, progress};
use crate::{
    cli::{Context, Failure, OnInterrupt, output::table},
    client::{Client, ClientError, RemoteDeliveries, RemoteQueue},
    ids::QueueName,
    node::queues::{Consume, Publish, Receive},
    time::millis,
};

/// Messages that a consumer of the latency has unacknowledged.
const PREFETCH: u32 = 100;

/// How long messages under way may still arrive once the publishers have stopped.
const LAST_ARRIVALS: Duration = Duration::from_secs(5);

/// Receipts that wait to be acknowledged.
const ACKS_AHEAD: usize = 1000;

/// How long a consumer waits for more before it takes the queue for empty, in milliseconds.
const EMPTY_AFTER_MS: u64 = 100;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// One message a call.
    Publish,
    /// Several messages a call.
    Batch,
    /// Several messages received and acknowledged.
    Consume,
    /// From publish to delivery, at a rate.
    Latency,
}

/// The arguments of `bench queue`.
#[derive(Debug, Args)]
pub(in crate::cli) struct BenchQueue {
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "publish,batch,consume,latency")]
    mode: Vec<Mode>,
    #[command(flatten)]
    load: Load,
    /// Bytes of a message, 16 or more; several numbers make several runs.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "256")]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=67_108_864))]
    size: Vec<u32>,
    /// Messages of a batch, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    /// Over how many queues the clients are spread.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    queues: u32,
    /// Messages a second of all publishers together, for the latency.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
}

/// One line of the result. Latencies are of one call, or with `latency` of one message.
#[derive(Clone, Debug, Serialize)]
struct Report {
    mode: Mode,
    clients: usize,
    size: u32,
    duration_ms: u64,
    messages: u64,
    messages_per_s: f64,
    p50_us: u64,
    p95_us: u64,
    p99_us: u64,
    max_us: u64,
    failures: u64,
}

#[derive(Debug, Serialize)]
struct Reports {
    runs: Vec<Report>,
}

impl BenchQueue {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let nodes = self.load.nodes(context)?;
        let runs = context.block_on(OnInterrupt::Fail, async {
            let mut runs = Vec::new();
            for &mode in &self.mode {
                for &size in &self.size {
                    for &clients in &self.load.clients {
                        let run =
                            Run { mode, size, clients, bench: &self, queues: queues(&nodes, clients, self.queues)? };
                        runs.push(run.measure().await?);
                    }
                }
            }
            Ok(runs)
        })?;
        context.output.result(&Reports { runs: runs.clone() }, || report_text(&runs))
    }
}

/// The queue of each client, at the node of each client.
fn queues(nodes: &[Client], clients: usize, count: u32) -> Result<Vec<RemoteQueue>, Failure> {
    let run = format!("bench-{}-{}", std::process::id(), rand::random::<u32>());
    let mut queues = Vec::with_capacity(clients);
    for index in 0..clients {
        let name = QueueName::new(format!("{run}-{}", index % count as usize)).context("a made-up name is valid")?;
        queues.push(nodes[index % nodes.len()].queue(name));
    }
    Ok(queues)
}

/// What the clients of one run share.
#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    messages: AtomicU64,
    /// With the latency: what was published, of which `messages` have arrived.
    published: AtomicU64,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn all_arrived(&self) -> bool {
        self.messages.load(Ordering::Relaxed) >= self.published.load(Ordering::Relaxed)
    }

    fn add(&self, messages: usize) {
        self.messages.fetch_add(messages as u64, Ordering::Relaxed);
    }
}

/// What one client did.
#[derive(Debug)]
struct Tally {
    latencies: Histogram<u64>,
    failures: u64,
}

impl Tally {
    fn new() -> Self {
        Self { latencies: histogram(), failures: 0 }
    }

    /// Counts one call; whether it went well.
    async fn record<T>(&mut self, began: Instant, answer: Result<T, ClientError>) -> Option<T> {
        match answer {
            Ok(answer) => {
                self.latencies.saturating_record(micros(began.elapsed()));
                Some(answer)
            }
            Err(_) => {
                self.failures += 1;
                sleep(FAILURE_PAUSE).await;
                None
            }
        }
    }
}

type Clients = JoinSet<Tally>;

/// One run.
struct Run<'a> {
    mode: Mode,
    size: u32,
    clients: usize,
    bench: &'a BenchQueue,
    queues: Vec<RemoteQueue>,
}

impl Run<'_> {
    async fn measure(&self) -> Result<Report, Failure> {
        // A cluster that cannot be reached is an error, not a run without messages.
        let mut made = std::collections::BTreeSet::new();
        for queue in self.queues.iter().filter(|queue| made.insert(queue.name().clone())) {
            queue.configure(&Default::default()).await?;
        }
        if self.mode == Mode::Consume {
            let mut publishers = JoinSet::new();
            let shared = Arc::new(Shared::default());
            self.spawn(&mut publishers, |queue| batches(queue, self.body(), self.bench.batch, Arc::clone(&shared)));
            self.watch("to be consumed", &shared, &mut publishers).await?;
        }
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        let batch = self.bench.batch;
        match self.mode {
            Mode::Publish => self.spawn(&mut clients, |queue| singles(queue, self.body(), Arc::clone(&shared))),
            Mode::Batch => self.spawn(&mut clients, |queue| batches(queue, self.body(), batch, Arc::clone(&shared))),
            Mode::Consume => self.spawn(&mut clients, |queue| consume(queue, batch, Arc::clone(&shared))),
            Mode::Latency => self.spawn_latency(&mut clients, &shared).await?,
        }
        let (elapsed, tallies) = self.watch("", &shared, &mut clients).await?;
        for queue in self.queues.iter().filter(|queue| made.remove(queue.name())) {
            // What is not deleted goes when it is too old.
            let _ = queue.delete().await;
        }
        Ok(self.report(elapsed, shared.messages.load(Ordering::Relaxed), &tallies))
    }

    fn body(&self) -> Bytes {
        vec![b'x'; self.size as usize].into()
    }

    fn spawn<F: Future<Output = Tally> + Send + 'static>(
        &self,
        clients: &mut Clients,
        client: impl Fn(RemoteQueue) -> F,
    ) {
        for queue in &self.queues {
            clients.spawn(client(queue.clone()));
        }
    }

    /// As many consumers as publishers, which share the rate.
    async fn spawn_latency(&self, clients: &mut Clients, shared: &Arc<Shared>) -> Result<(), Failure> {
        let mut consumers = Vec::with_capacity(self.queues.len());
        for queue in &self.queues {
            consumers.push((queue, queue.consume(&Consume { prefetch: PREFETCH, visibility_ms: None }).await?));
        }
        // Not before all listen: opening their streams is no latency of a message.
        let origin = Instant::now();
        for (queue, deliveries) in consumers {
            clients.spawn(deliver(queue.clone(), deliveries, origin, Arc::clone(shared)));
        }
        let interval = Duration::from_secs_f64(self.clients as f64 / f64::from(self.bench.rate));
        for (index, queue) in self.queues.iter().enumerate() {
            // The publishers take turns.
            let first = interval.mul_f64(index as f64 / self.clients as f64);
            let pace = Pace { origin, first, interval };
            clients.spawn(publish_paced(queue.clone(), pace, self.size as usize, Arc::clone(shared)));
        }
        Ok(())
    }

    /// Lets the clients work for as long as the run lasts; how long it took, and what they did.
    async fn watch(
        &self,
        what: &str,
        shared: &Shared,
        clients: &mut Clients,
    ) -> Result<(Duration, Vec<Tally>), Failure> {
        let duration = self.bench.load.duration;
        let name = format!("{:?}, {} clients, {} bytes {what}", self.mode, self.clients, self.size).to_lowercase();
        let bar = progress(name, duration);
        let began = Instant::now();
        let mut tallies = Vec::new();
        // Consumers end when the queue is empty.
        while began.elapsed() < duration && !clients.is_empty() {
            tokio::select! {
                Some(ended) = clients.join_next() => tallies.push(ended.context("a client of the benchmark panicked")?),
                () = sleep(TICK.min(duration.saturating_sub(began.elapsed()))) => {}
            }
            bar.set_position(millis(began.elapsed()));
            bar.set_message(format!("{} messages", shared.messages.load(Ordering::Relaxed)));
        }
        let elapsed = began.elapsed();
        shared.over.store(true, Ordering::Relaxed);
        while let Some(ended) = clients.join_next().await {
            tallies.push(ended.context("a client of the benchmark panicked")?);
        }
        bar.finish_and_clear();
        Ok((elapsed, tallies))
    }

    fn report(&self, elapsed: Duration, messages: u64, tallies: &[Tally]) -> Report {
        let latencies = merged(tallies.iter().map(|tally| &tally.latencies));
        Report {
            mode: self.mode,
            clients: self.clients,
            size: self.size,
            duration_ms: millis(elapsed),
            messages,
            messages_per_s: per_second(messages, elapsed),
            p50_us: latencies.value_at_quantile(0.5),
            p95_us: latencies.value_at_quantile(0.95),
            p99_us: latencies.value_at_quantile(0.99),
            max_us: latencies.max(),
            failures: tallies.iter().map(|tally| tally.failures).sum(),
        }
    }
}

/// Publishes one message after the other.
async fn singles(queue: RemoteQueue, body: Bytes, shared: Arc<Shared>) -> Tally {
    let (mut tally, message) = (Tally::new(), Publish::new(body));
    while !shared.is_over() {
        let began = Instant::now();
        if tally.record(began, queue.publish(&message).await).await.is_some() {
            shared.add(1);
        }
    }
    tally
}

/// Publishes one batch after the other.
async fn batches(queue: RemoteQueue, body: Bytes, size: u32, shared: Arc<Shared>) -> Tally {
    let (mut tally, messages) = (Tally::new(), vec![Publish::new(body); size as usize]);
    while !shared.is_over() {
        let began = Instant::now();
        if let Some(published) = tally.record(began, queue.publish_all(&messages).await).await {
            shared.add(published.len());
        }
    }
    tally
}

/// Receives and acknowledges until the queue is empty or the time over.
async fn consume(queue: RemoteQueue, batch: u32, shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::new();
    let receive = Receive { max: batch, wait_ms: EMPTY_AFTER_MS, visibility_ms: None };
    while !shared.is_over() {
        let began = Instant::now();
        let received = async {
            let messages = queue.receive(&receive).await?;
            let receipts: Vec<String> = messages.into_iter().filter_map(|message| message.receipt).collect();
            if receipts.is_empty() {
                return Ok(None);
            }
            queue.ack(&receipts).await.map(Some)
        };
        match received.await {
            Ok(None) => break,
            Ok(Some(answer)) => {
                tally.failures += answer.failed.len() as u64;
                shared.add(answer.done.len());
                tally.latencies.saturating_record(micros(began.elapsed()));
            }
            Err(error) => drop(tally.record::<()>(began, Err(error)).await),
        }
    }
    tally
}

/// When a publisher's messages are due.
#[derive(Clone, Copy, Debug)]
struct Pace {
    origin: Instant,
    first: Duration,
    interval: Duration,
}

/// Publishes each message when it is due, or as soon after it as the one before is answered. The message says
/// when it was due, so that a cluster that stalls is not excused.
async fn publish_paced(queue: RemoteQueue, pace: Pace, size: usize, shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::new();
    let mut due = pace.first;
    while !shared.is_over() {
        sleep_until((pace.origin + due).into()).await;
        let mut body = format!("{:016}", micros(due)).into_bytes();
        body.resize(size, b'x');
        match queue.publish(&Publish::new(body)).await {
            Ok(_) => _ = shared.published.fetch_add(1, Ordering::Relaxed),
            Err(_) => {
                tally.failures += 1;
                sleep(FAILURE_PAUSE).await;
            }
        }
        due += pace.interval;
    }
    tally
}

/// Takes messages as they come and acknowledges them beside.
async fn deliver(queue: RemoteQueue, mut deliveries: RemoteDeliveries, origin: Instant, shared: Arc<Shared>) -> Tally {
    let mut tally = Tally::new();
    let (acks, receipts) = mpsc::channel(ACKS_AHEAD);
    let acking = tokio::spawn(acknowledge(queue, receipts));
    let mut heard = Instant::now();
    loop {
        let message = match timeout(TICK, deliveries.next()).await {
            Err(_) if shared.is_over() && (shared.all_arrived() || heard.elapsed() > LAST_ARRIVALS) => break,
            Err(_) => continue,
            Ok(Ok(Some(message))) => message,
            Ok(_) => {
                tally.failures += 1;
                break;
            }
        };
        heard = Instant::now();
        let due = message.body.get(..16).and_then(|due| due.parse().ok()).map(Duration::from_micros);
        tally.latencies.saturating_record(micros(origin.elapsed().saturating_sub(due.unwrap_or_default())));
        shared.add(1);
        let Some(receipt) = message.receipt else { continue };
        if acks.send(receipt).await.is_err() {
            break;
        }
    }
    drop(acks);
    let failed = timeout(LAST_ARRIVALS, acking).await;
    tally.failures += failed.ok().and_then(Result::ok).unwrap_or(1);
    tally
}

/// Acknowledges what has come, as much as there is at a time; how many were too late.
async fn acknowledge(queue: RemoteQueue, mut receipts: mpsc::Receiver<String>) -> u64 {
    let (mut failures, mut some) = (0, Vec::new());
    while receipts.recv_many(&mut some, ACKS_AHEAD).await > 0 {
        match queue.ack(&some).await {
            Ok(answer) => failures += answer.failed.len() as u64,
            Err(_) => failures += some.len() as u64,
        }
        some.clear();
    }
    failures
}

fn report_text(runs: &[Report]) -> String {
    let row = |run: &Report| {
        [
            format!("{:?}", run.mode).to_lowercase(),
            run.clients.to_string(),
            run.size.to_string(),
            format!("{:.1}", run.messages_per_s),
            ms(run.p50_us),
            ms(run.p95_us),
            ms(run.p99_us),
            ms(run.max_us),
            run.failures.to_string(),
        ]
    };
    table(["MODE", "CLIENTS", "BYTES", "MESSAGES/S", "P50", "P95", "P99", "MAX", "FAILED"], runs.iter().map(row))
}
