//! Publishers and consumers at every node, who go on whatever happens.
//!
//! A publisher whose message has an unknown outcome publishes it again under the same id, at the next node, until it
//! is acknowledged; what was refused as having no effect it gives up, and it must never come. A consumer acknowledges
//! what it gets, again and again until it is told what became of that.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ledger::{Delivered, Ledger, Memories, Published, Refusal};
use crate::{
    ask::{Answer, Api},
    harness::{PATIENCE, eventually, holds},
};

/// How long a delivery is out: who loses one waits for so long.
pub(super) const VISIBILITY: Duration = Duration::from_secs(4);
const PUBLISHERS: usize = 4;
const CONSUMERS: usize = 3;
/// Acknowledged publishes by which a load shows that it works.
const ENOUGH: usize = 200;
/// Refused publishes by which an outage shows.
const REFUSALS: usize = 50;
/// Between two publishes of one publisher: load, and not all that the machine can do.
const PACE: Duration = Duration::from_millis(4);
/// Before the next try.
const PAUSE: Duration = Duration::from_millis(20);
const RECEIVED_AT_ONCE: usize = 20;
const WAIT_MS: u64 = 300;

/// When the consumers come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Consumers {
    FromTheStart,
    /// All that is published stays queued until the load is checked.
    AtTheEnd,
}

/// The clients.
#[derive(Debug)]
pub(super) struct Load {
    nodes: Vec<Api>,
    queues: Vec<String>,
    publishers: Crew,
    consumers: Crew,
    ledger: Arc<Mutex<Ledger>>,
}

/// Clients of one kind.
#[derive(Debug, Default)]
struct Crew {
    stop: CancellationToken,
    clients: JoinSet<()>,
}

impl Crew {
    async fn ended(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
    }
}

/// What all clients have.
#[derive(Debug)]
struct Client {
    nodes: Vec<Api>,
    /// Which of the nodes is asked.
    turn: usize,
    queue: String,
    ledger: Arc<Mutex<Ledger>>,
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Begins. Each client turns to the next node where one fails it.
    pub(super) fn start(nodes: Vec<Api>, queues: &[&str], consumers: Consumers) -> Self {
        let mut load = Self {
            nodes,
            queues: queues.iter().map(|&queue| queue.to_owned()).collect(),
            publishers: Crew::default(),
            consumers: Crew::default(),
            ledger: Arc::new(Mutex::new(Ledger::new())),
        };
        for nth in 0..PUBLISHERS.max(queues.len()) {
            let (client, stop) = (load.client(nth), load.publishers.stop.clone());
            load.publishers.clients.spawn(client.publish_on(nth, stop));
        }
        if consumers == Consumers::FromTheStart {
            load.consume();
        }
        load
    }

    fn client(&self, nth: usize) -> Client {
        Client {
            nodes: self.nodes.clone(),
            turn: nth,
            queue: self.queues[nth % self.queues.len()].clone(),
            ledger: Arc::clone(&self.ledger),
        }
    }

    fn consume(&mut self) {
        for nth in 0..CONSUMERS.max(self.queues.len()) {
            // Not at the node at which the queue's publisher begins.
            let (client, stop) = (Client { turn: nth + 1, ..self.client(nth) }, self.consumers.stop.clone());
            self.consumers.clients.spawn(client.consume_on(stop));
        }
    }

    /// What was answered so far.
    pub(super) fn so_far(&self) -> MutexGuard<'_, Ledger> {
        locked(&self.ledger)
    }

    /// Waits until enough publishes that were asked for after a moment have been acknowledged.
    pub(super) async fn works_after(&self, moment: Instant) {
        eventually("publishes are acknowledged", async || {
            let ledger = self.so_far();
            let after = ledger.published_after(moment);
            holds(after >= ENOUGH, format!("{after}, the last refusal is {:?}", ledger.refusals.last()))
        })
        .await;
    }

    /// Waits until publishes are refused after a moment, because they could not be made durable; after what time the
    /// first one was.
    pub(super) async fn is_refused_after(&self, moment: Instant) -> Duration {
        eventually("publishes are refused", async || {
            let refused = self.so_far().not_durable(moment).count();
            holds(refused >= REFUSALS, format!("{refused} were"))
        })
        .await;
        let ledger = self.so_far();
        ledger.not_durable(moment).map(|refusal| refusal.answered - moment).min().expect("there are some")
    }

    /// Ends the publishers, waits until all that was acknowledged has come and nothing is left, ends the consumers,
    /// and checks what they all were told.
    pub(super) async fn checked(mut self, what: &str, memories: Memories) -> Ledger {
        self.publishers.ended().await;
        if self.consumers.clients.is_empty() {
            self.consume();
        }
        eventually("all that was acknowledged is delivered", async || {
            let ledger = self.so_far();
            let missing = ledger.missing();
            holds(
                missing.is_empty(),
                format!("{what}: {} of {} have not come: {missing:?}", missing.len(), ledger.published.len()),
            )
        })
        .await;
        for queue in &self.queues {
            eventually("the queues are empty", async || self.is_empty(queue).await).await;
        }
        self.consumers.ended().await;
        let ledger = self.so_far().clone();
        ledger.check(what, memories);
        ledger
    }

    async fn is_empty(&self, queue: &str) -> Result<(), String> {
        for node in &self.nodes {
            if let Ok(answer) = node.call(reqwest::Method::GET, &format!("/v1/queues/{queue}"), None).await
                && answer.is_ok()
            {
                let left = ["depth", "in_flight", "delayed"].map(|what| answer.body[what].as_u64().unwrap());
                return holds(left == [0; 3], format!("{queue}: {left:?}"));
            }
        }
        Err(format!("no node tells of {queue}"))
    }
}

/// What an answer says of the effect of what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    Done,
    None,
    Unknown,
}

impl Effect {
    pub(super) fn of(answer: &Answer) -> Self {
        match (answer.slug(), answer.body["outcome"].as_str()) {
            _ if answer.is_ok() => Self::Done,
            ("durability-unavailable" | "no-quorum", _) | ("unavailable", Some("not-applied")) => Self::None,
            ("unavailable", Some("unknown")) => Self::Unknown,
            _ => panic!("an answer that nothing explains: {answer:?}"),
        }
    }
}

impl Client {
    fn node(&self) -> &Api {
        &self.nodes[self.turn % self.nodes.len()]
    }

    async fn turn_to_the_next(&mut self) {
        self.turn += 1;
        tokio::time::sleep(PAUSE).await;
    }

    async fn publish_on(mut self, nth: usize, stop: CancellationToken) {
        for number in 0.. {
            if stop.is_cancelled() {
                return;
            }
            self.publish(&format!("{nth}-{number}")).await;
            tokio::time::sleep(PACE).await;
        }
    }

    /// Until it is acknowledged, or certainly was not taken.
    async fn publish(&mut self, id: &str) {
        let (began, mut perhaps) = (Instant::now(), false);
        loop {
            match self.node().publish(&self.queue, id).await {
                Ok(answer) => match Effect::of(&answer) {
                    Effect::Done => return published(&self.ledger, &self.queue, id, &answer),
                    effect => {
                        perhaps |= effect == Effect::Unknown;
                        refused(&self.ledger, &answer);
                    }
                },
                // It never got there.
                Err(error) if error.is_connect() => {}
                Err(_) => perhaps = true,
            }
            self.turn_to_the_next().await;
            if !perhaps {
                locked(&self.ledger).refused.insert(id.to_owned());
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{id} was not acknowledged within {PATIENCE:?}");
        }
    }

    async fn consume_on(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.node().receive(&self.queue, RECEIVED_AT_ONCE, WAIT_MS).await {
                Ok(answer) if Effect::of(&answer) == Effect::Done => self.received(&answer).await,
                _ => self.turn_to_the_next().await,
            }
        }
    }

    async fn received(&mut self, answer: &Answer) {
        let messages = answer.body["messages"].as_array().unwrap();
        let text = |message: &Value, what: &str| message[what].as_str().unwrap().to_owned();
        for message in messages {
            let (id, nth) = (text(message, "id"), message["deliveries"].as_u64().unwrap());
            assert_eq!(message["body"], message["id"], "a message is as it was published");
            let &Answer { asked, answered, .. } = answer;
            locked(&self.ledger).delivered.push(Delivered { id, nth, asked, answered });
        }
        if !messages.is_empty() {
            self.acknowledge(messages).await;
        }
    }

    async fn acknowledge(&mut self, messages: &[Value]) {
        let receipts: Vec<&str> = messages.iter().map(|message| message["receipt"].as_str().unwrap()).collect();
        let began = Instant::now();
        loop {
            match self.node().acknowledge(&self.queue, &receipts).await {
                Ok(answer) if Effect::of(&answer) == Effect::Done => return self.consumed(messages, &answer),
                _ => self.turn_to_the_next().await,
            }
            assert!(began.elapsed() < PATIENCE, "an ack was not answered within {PATIENCE:?}");
        }
    }

    fn consumed(&self, messages: &[Value], answer: &Answer) {
        let done = answer.body["done"].as_array().unwrap();
        let mut ledger = locked(&self.ledger);
        for message in messages {
            if done.contains(&message["receipt"]) {
                let id = message["id"].as_str().unwrap().to_owned();
                ledger.consumed.entry(id).or_insert(answer.answered);
            } else {
                ledger.expired += 1;
            }
        }
    }
}

fn published(ledger: &Mutex<Ledger>, queue: &str, id: &str, answer: &Answer) {
    let number = |what: &str| answer.body[what].as_u64().unwrap();
    let place = (number("partition"), number("offset"));
    let &Answer { asked, answered, .. } = answer;
    let (id, queue) = (id.to_owned(), queue.to_owned());
    locked(ledger).published.push(Published { id, queue, place, asked, answered });
}

fn refused(ledger: &Mutex<Ledger>, answer: &Answer) {
    let &Answer { asked, answered, .. } = answer;
    locked(ledger).refusals.push(Refusal { slug: answer.slug().to_owned(), asked, answered });
}

impl Load {
    /// Counts a message that was published beside the load, once, as one of it.
    pub(super) fn beside(&self, queue: &str, id: &str, outcome: &Result<Answer, reqwest::Error>) {
        match outcome.as_ref().map(|answer| (answer, Effect::of(answer))) {
            Ok((answer, Effect::Done)) => published(&self.ledger, queue, id, answer),
            Ok((answer, effect)) => {
                refused(&self.ledger, answer);
                if effect == Effect::None {
                    self.so_far().refused.insert(id.to_owned());
                }
            }
            Err(_) => {}
        }
    }
}
