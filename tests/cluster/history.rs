//! Load on a cluster, and what must hold of its grants whatever happens meanwhile.
//!
//! A client believes in its grant from the answer on, until it sends the release or until its session's
//! term is over, counted from when it sent the acquire. No two beliefs in one exclusive lock may overlap.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{sync::Mutex, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::ask::{Api, Granted};

/// The term of the clients' sessions: who loses an answer blocks a lock for no longer.
const TTL_MS: u64 = 2_000;
/// How long a client stands in line.
const WAIT_MS: u64 = 5_000;
/// The lock that all clients want; each has one of its own besides.
pub(crate) const CONTENDED: &str = "contended";

/// One grant, as its holder knows of it.
#[derive(Clone, Debug)]
pub(crate) struct Belief {
    pub(crate) lock: String,
    pub(crate) token: u64,
    pub(crate) asked: Instant,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

/// Clients that acquire and release until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    stop: CancellationToken,
    clients: JoinSet<()>,
    grants: Arc<Mutex<Vec<Belief>>>,
}

impl Load {
    /// So many clients, each of which turns to the next node where one fails it.
    pub(crate) fn start(nodes: Vec<Api>, clients: usize) -> Self {
        let stop = CancellationToken::new();
        let grants = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for nth in 0..clients {
            let client = Client { nth, nodes: nodes.clone(), turn: nth, grants: Arc::clone(&grants) };
            let stop = stop.clone();
            tasks.spawn(async move { client.work(&stop).await });
        }
        Self { stop, clients: tasks, grants }
    }

    /// The grants so far.
    pub(crate) async fn so_far(&self) -> Vec<Belief> {
        self.grants.lock().await.clone()
    }

    /// Ends the load; checks all of its grants.
    pub(crate) async fn checked(mut self) -> Vec<Belief> {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let grants = self.so_far().await;
        check(&grants);
        grants
    }
}

struct Client {
    nth: usize,
    nodes: Vec<Api>,
    /// Which of the nodes is asked.
    turn: usize,
    grants: Arc<Mutex<Vec<Belief>>>,
}

impl Client {
    async fn work(mut self, stop: &CancellationToken) {
        let own = format!("own-{}", self.nth);
        while !stop.is_cancelled() {
            self.cycle(&own).await;
            self.cycle(CONTENDED).await;
        }
    }

    async fn cycle(&mut self, lock: &str) {
        let api = self.nodes[self.turn % self.nodes.len()].clone();
        let asked = Instant::now();
        let body = json!({"wait_ms": WAIT_MS, "ttl_ms": TTL_MS});
        let answer = api.call(reqwest::Method::POST, &format!("/v1/locks/{lock}/acquire"), Some(body)).await;
        let answer = match answer {
            Ok(answer) if answer.is_ok() => answer,
            Ok(answer) => {
                let expected = ["lock-timeout", "no-quorum", "unavailable", "session-expired"];
                assert!(expected.contains(&answer.slug()), "an acquire was refused by {answer:?}");
                self.turn += 1;
                return;
            }
            Err(_) => {
                self.turn += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
                return;
            }
        };
        let Granted { session, token } = answer.body.clone().into();
        tokio::time::sleep(Duration::from_millis(2)).await;
        let until = Instant::now().min(asked + Duration::from_millis(TTL_MS));
        let grant = Belief { lock: lock.to_owned(), token, asked, from: answer.answered, until };
        self.grants.lock().await.push(grant);
        for _ in 0..=self.nodes.len() {
            let api = &self.nodes[self.turn % self.nodes.len()];
            let closed = api.call(reqwest::Method::DELETE, &format!("/v1/sessions/{session}"), None).await;
            if closed.is_ok_and(|answer| answer.is_ok() || answer.slug() == "session-expired") {
                return;
            }
            self.turn += 1;
        }
    }
}

/// No overlap, and tokens in the order of the grants.
fn check(grants: &[Belief]) {
    let mut locks: BTreeMap<&str, Vec<&Belief>> = BTreeMap::new();
    grants.iter().for_each(|grant| locks.entry(&grant.lock).or_default().push(grant));
    for (lock, mut beliefs) in locks {
        beliefs.sort_by_key(|belief| belief.from);
        for pair in beliefs.windows(2) {
            let [earlier, later] = pair else { unreachable!("windows of two") };
            assert!(earlier.until <= later.from, "two hold '{lock}': {earlier:?}, {later:?}");
            assert!(earlier.token < later.token, "tokens of '{lock}' go back: {earlier:?}, {later:?}");
        }
    }
    let mut by_token: Vec<_> = grants.iter().collect();
    by_token.sort_by_key(|grant| grant.token);
    for pair in by_token.windows(2) {
        assert!(pair[0].token < pair[1].token, "one token twice: {pair:?}");
    }
    tokens_follow_time(&by_token);
}

/// Whoever asks after another was answered gets the greater token, whatever the lock.
fn tokens_follow_time(by_token: &[&Belief]) {
    let mut earliest_answer_above: Option<&Belief> = None;
    for grant in by_token.iter().rev() {
        if let Some(above) = earliest_answer_above {
            assert!(above.from >= grant.asked, "{grant:?} was asked for after {above:?} had been answered");
        }
        if earliest_answer_above.is_none_or(|above| grant.from < above.from) {
            earliest_answer_above = Some(grant);
        }
    }
}

/// From a moment to the answer to the first acquire that was asked for after it.
pub(crate) fn first_after(grants: &[Belief], moment: Instant) -> Option<Duration> {
    grants.iter().filter(|grant| grant.asked >= moment).map(|grant| grant.from - moment).min()
}
