//! Seeded clients of the queues: producers that publish and repeat what was not answered, and consumers that
//! acknowledge, give back, prolong and forget, until everything that was acknowledged to a producer is consumed.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use super::{
    api::{Answer, Ask, Got, Letter, QueueService, Record, dead_letters},
    check::check,
};
use crate::{
    error::ErrorCode,
    ids::{MessageId, PartitionId, QueueName},
    machine::{
        placement::{Partition, PartitionStatus},
        queue::Receipt,
    },
    sim::{
        door::Door,
        line::Line,
        run::{Circumstances, Scenario, Stage},
        violation::Violation,
    },
};

/// The pause between two looks whether everything is consumed.
const AUDIT: Duration = Duration::from_millis(150);
/// Most messages of a receive in the end.
const DRAINED_AT_ONCE: u32 = 100;
/// After so long without a fault, with all machines up, an operator gives up journals that are lost.
const OPERATOR_MS: u64 = 2_500;
/// And after so long waits no more for one that has not been told to be lost: longer than a call that was made at a bad
/// moment, and its repetition, may take.
const WAITING_MS: u64 = 10_000;

/// What the clients do. Durations are ranges to draw from, in milliseconds.
#[derive(Clone, Debug)]
pub struct Workload {
    /// How many producers, and how many consumers.
    pub producers: usize,
    pub consumers: usize,
    /// How many queues; the last one gives messages up after `max_deliveries`.
    pub queues: usize,
    pub max_deliveries: u32,
    /// Between two publishes, and between two receives.
    pub think_ms: RangeInclusive<u64>,
    /// Messages of a publish, and most of a receive.
    pub batch: RangeInclusive<u64>,
    /// How long a receive waits.
    pub wait_ms: RangeInclusive<u64>,
    /// How long a delivery is invisible to others.
    pub visibility_ms: RangeInclusive<u64>,
    /// How long it takes to process one.
    pub hold_ms: RangeInclusive<u64>,
    /// After so long a client hangs up.
    pub patience_ms: u64,
    /// Of 100 publishes, so many are delayed, and so many are repeated though they were answered.
    pub delayed_percent: u32,
    pub repeated_percent: u32,
    /// Of 100 deliveries, so many are given back, prolonged, forgotten.
    pub nack_percent: u32,
    pub extend_percent: u32,
    pub forget_percent: u32,
    /// How long it may take in the end until everything is consumed.
    pub drain_ms: u64,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            producers: 4,
            consumers: 4,
            queues: 5,
            max_deliveries: 2,
            think_ms: 0..=160,
            batch: 1..=4,
            wait_ms: 0..=400,
            visibility_ms: 600..=1_800,
            hold_ms: 0..=250,
            patience_ms: 2_500,
            delayed_percent: 8,
            repeated_percent: 10,
            nack_percent: 8,
            extend_percent: 8,
            forget_percent: 6,
            drain_ms: 20_000,
        }
    }
}

impl Scenario for Workload {
    type Service = QueueService;

    // Some who keep queues have nothing to say to each other for as long as a short fault lasts.
    const WORTHLESS_SHARE: usize = 6;
    const WANTED: &'static str = "messages taken or given";

    fn clients(&self, stage: Stage<QueueService>, seed: u64) -> Vec<BoxFuture<'static, ()>> {
        let scene = Arc::new(Scene::new(self.clone(), stage));
        let client = |number: usize| {
            let dice = StdRng::seed_from_u64(seed ^ ((number as u64 + 1) << 40));
            let line = Line::new(scene.stage.doors.clone(), dice, scene.workload.patience_ms);
            Client { scene: Arc::clone(&scene), number, line, letters: 0 }
        };
        let producers = (0..self.producers).map(|number| client(number).produce().boxed());
        let consumers =
            (self.producers..self.producers + self.consumers).map(|number| client(number).consume().boxed());
        let auditor = client(self.producers + self.consumers).audit().boxed();
        producers.chain(consumers).chain([auditor]).collect()
    }

    fn last_words_ms(&self) -> u64 {
        // In the end each queue is asked after once more, and its dead letters.
        self.drain_ms + (2 * self.queues as u64 + 4) * self.patience_ms
    }

    fn is_wanted(record: &Record) -> bool {
        match &record.answer {
            Answer::Published(_) => true,
            Answer::Delivered(got) => !got.is_empty(),
            _ => false,
        }
    }

    fn check(history: &[Record], circumstances: &Circumstances) -> Vec<Violation> {
        check(history, circumstances)
    }
}

/// What the clients of a run share.
struct Scene {
    workload: Workload,
    stage: Stage<QueueService>,
    queues: Vec<QueueName>,
    ledger: Mutex<Ledger>,
    drained: AtomicBool,
}

/// What has to be consumed.
#[derive(Default)]
struct Ledger {
    /// Producers that have come to their end: nothing more is due then.
    ended: usize,
    due: BTreeSet<MessageId>,
    /// Perhaps, or certainly.
    consumed: BTreeSet<MessageId>,
}

impl Scene {
    fn new(workload: Workload, stage: Stage<QueueService>) -> Self {
        let name = |number| QueueName::new(format!("queue-{number}")).expect("a short name");
        let queues = (0..workload.queues).map(name).collect();
        Self { workload, stage, queues, ledger: Mutex::default(), drained: AtomicBool::new(false) }
    }

    fn fragile(&self) -> &QueueName {
        self.queues.last().expect("there are some")
    }

    fn now_ms(&self) -> u64 {
        self.stage.time.now_ms()
    }

    /// Queues, and where their dead letters go.
    fn all(&self) -> Vec<QueueName> {
        self.queues.iter().cloned().chain(self.queues.iter().map(dead_letters)).collect()
    }

    fn with_ledger<R>(&self, change: impl FnOnce(&mut Ledger) -> R) -> R {
        change(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_over(&self) -> bool {
        self.drained.load(Relaxed) || self.now_ms() > self.stage.until_ms + self.workload.drain_ms
    }
}

struct Client {
    scene: Arc<Scene>,
    number: usize,
    line: Line<QueueService>,
    letters: u64,
}

/// How an operation is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tries {
    One,
    Several,
}

impl Client {
    /// Asks and takes down the one operation that this is to the client.
    async fn ask(&mut self, ask: Ask, tries: Tries) -> Answer {
        let recorder = self.scene.stage.recorder.clone();
        let pending = recorder.invoke(self.number, ask.clone());
        let (answer, unanswered) = match tries {
            Tries::Several => self.line.ask(ask, None).await,
            Tries::One => {
                let answer = self.line.attempt(ask, None).await;
                let unanswered = u32::from(answer == Answer::Unknown);
                if unanswered > 0 || matches!(answer, Answer::Refused(_)) {
                    self.line.go_elsewhere();
                }
                (answer, unanswered)
            }
        };
        recorder.finish(pending, answer.clone(), unanswered, None);
        answer
    }

    /// A producer's whole life.
    async fn produce(mut self) {
        let scene = Arc::clone(&self.scene);
        let mut configured = self.number > 0;
        while scene.now_ms() < scene.stage.until_ms {
            if !configured {
                let ask =
                    Ask::Configure { queue: scene.fragile().clone(), max_deliveries: scene.workload.max_deliveries };
                configured = self.ask(ask, Tries::Several).await == Answer::Configured;
            }
            self.line.pause(scene.workload.think_ms.clone()).await;
            let place = self.line.draw(0..=scene.queues.len() as u64 - 1);
            let queue = scene.queues[usize::try_from(place).expect("a few")].clone();
            let letters = self.write();
            let ask = Ask::Publish { queue, letters };
            self.publish(ask.clone()).await;
            if self.line.chance(scene.workload.repeated_percent) {
                self.publish(ask).await;
            }
        }
        scene.with_ledger(|ledger| ledger.ended += 1);
    }

    async fn publish(&mut self, ask: Ask) {
        let Ask::Publish { letters, .. } = &ask else { return };
        let ids: Vec<MessageId> = letters.iter().map(|letter| letter.id.clone()).collect();
        if let Answer::Published(_) = self.ask(ask, Tries::Several).await {
            self.scene.with_ledger(|ledger| {
                let new = ids.into_iter().filter(|id| !ledger.consumed.contains(id)).collect::<Vec<_>>();
                ledger.due.extend(new);
            });
        }
    }

    fn write(&mut self) -> Vec<Letter> {
        let workload = self.scene.workload.clone();
        let letter = |this: &mut Self| {
            this.letters += 1;
            let id = MessageId::new(format!("m{}-{}", this.number, this.letters)).expect("a short name");
            let delayed = this.line.chance(workload.delayed_percent);
            let delay_ms = if delayed { this.line.draw(1..=500) } else { 0 };
            Letter { id, priority: u8::try_from(this.line.draw(3..=5)).expect("a digit"), delay_ms }
        };
        (0..self.line.draw(workload.batch.clone())).map(|_| letter(self)).collect()
    }

    /// A consumer's whole life.
    async fn consume(mut self) {
        let scene = Arc::clone(&self.scene);
        let workload = &scene.workload;
        while scene.now_ms() < scene.stage.until_ms {
            self.line.pause(workload.think_ms.clone()).await;
            // One place more than there are queues: for dead letters.
            let place = usize::try_from(self.line.draw(0..=scene.queues.len() as u64)).expect("a few");
            let queue = scene.queues.get(place).cloned().unwrap_or_else(|| dead_letters(scene.fragile()));
            let got = self.receive(&queue).await;
            if !got.is_empty() {
                self.process(&queue, got).await;
            }
        }
        let all = scene.all();
        for turn in self.number.. {
            if scene.is_over() {
                return;
            }
            let queue = &all[turn % all.len()];
            let got = self.receive_most(queue).await;
            self.ack(queue, got).await;
            self.line.pause(0..=40).await;
        }
    }

    async fn receive(&mut self, queue: &QueueName) -> Vec<Got> {
        let workload = self.scene.workload.clone();
        let ask = Ask::Receive {
            queue: queue.clone(),
            max: u32::try_from(self.line.draw(workload.batch)).expect("a few"),
            wait_ms: self.line.draw(workload.wait_ms),
            visibility_ms: self.line.draw(workload.visibility_ms),
        };
        match self.ask(ask, Tries::One).await {
            Answer::Delivered(got) => got,
            _ => Vec::new(),
        }
    }

    /// Whatever there is now.
    async fn receive_most(&mut self, queue: &QueueName) -> Vec<Got> {
        let visibility_ms = self.line.draw(self.scene.workload.visibility_ms.clone());
        let ask = Ask::Receive { queue: queue.clone(), max: DRAINED_AT_ONCE, wait_ms: 0, visibility_ms };
        match self.ask(ask, Tries::One).await {
            Answer::Delivered(got) => got,
            _ => Vec::new(),
        }
    }

    async fn process(&mut self, queue: &QueueName, got: Vec<Got>) {
        let workload = self.scene.workload.clone();
        self.line.pause(workload.hold_ms.clone()).await;
        let (mut done, mut longer, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for one in got {
            if self.line.chance(workload.nack_percent) {
                back.push(one);
            } else if self.line.chance(workload.forget_percent) {
                // Nothing more is heard of it.
            } else if self.line.chance(workload.extend_percent) {
                longer.push(one);
            } else {
                done.push(one);
            }
        }
        if !longer.is_empty() {
            let visibility_ms = self.line.draw(workload.visibility_ms);
            let ask = Ask::Extend { queue: queue.clone(), receipts: receipts(&longer), visibility_ms };
            self.ask(ask, Tries::One).await;
            self.line.pause(workload.hold_ms).await;
        }
        if !back.is_empty() {
            let delay_ms = self.line.draw(0..=300);
            let ask = Ask::Nack { queue: queue.clone(), receipts: receipts(&back), delay_ms };
            self.ask(ask, Tries::One).await;
        }
        done.extend(longer);
        self.ack(queue, done).await;
    }

    async fn ack(&mut self, queue: &QueueName, got: Vec<Got>) {
        if got.is_empty() {
            return;
        }
        let ask = Ask::Ack { queue: queue.clone(), receipts: receipts(&got) };
        let answer = self.ask(ask, Tries::Several).await;
        let is_over = |one: &&Got| match &answer {
            Answer::Settled { done, .. } => done.contains(&one.receipt),
            Answer::Unknown => true,
            _ => false,
        };
        self.scene.with_ledger(|ledger| {
            for one in got.iter().filter(is_over) {
                ledger.due.remove(&one.id);
                ledger.consumed.insert(one.id.clone());
            }
        });
    }

    /// Says when everything is consumed, and asks in the end what the queues hold.
    async fn audit(mut self) {
        let scene = Arc::clone(&self.scene);
        while scene.now_ms() < scene.stage.until_ms {
            sleep(AUDIT).await;
        }
        loop {
            let last = scene.is_over();
            let calm_ms = scene.now_ms().saturating_sub(scene.stage.until_ms);
            if !last && calm_ms > OPERATOR_MS {
                self.recover(calm_ms > WAITING_MS).await;
            }
            let producers = scene.workload.producers;
            if last || scene.with_ledger(|ledger| ledger.ended == producers && ledger.due.is_empty()) {
                let mut empty = true;
                for queue in scene.all() {
                    let tries = if last { Tries::One } else { Tries::Several };
                    let answer = self.ask(Ask::Stats(queue), tries).await;
                    empty &= matches!(answer, Answer::Holds(0) | Answer::Refused(ErrorCode::NotFound));
                }
                if last || empty {
                    return scene.drained.store(true, Relaxed);
                }
            }
            sleep(AUDIT).await;
        }
    }
}

impl Client {
    /// What is not served by now waits for a journal that is gone: an operator has to say so. The faults were such
    /// that another one has everything, so nothing is lost by that. Who is there may still have to say so: what waits is
    /// recovered only where that is `overdue`.
    async fn recover(&mut self, overdue: bool) {
        let placement = self.scene.stage.doors.iter().map(Door::placement).max_by_key(|known| known.len());
        let is_given_up = |partition: &Partition| match &partition.status {
            PartitionStatus::Serving => false,
            PartitionStatus::Waiting { .. } => overdue,
            PartitionStatus::JournalLost => true,
        };
        let unserved = |(id, partition): (&PartitionId, &Partition)| is_given_up(partition).then_some(*id);
        let unserved: Vec<PartitionId> = placement.iter().flat_map(|known| known.iter()).filter_map(unserved).collect();
        for partition in unserved {
            self.ask(Ask::Recover(partition), Tries::One).await;
        }
    }
}

fn receipts(got: &[Got]) -> Vec<Receipt> {
    got.iter().map(|one| one.receipt).collect()
}
