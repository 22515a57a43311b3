//! Readers and writers of a few keys at every node, who go on whatever happens.
//!
//! Each client stays at its node: what a node that was paused, cut off or replaced tells must hold like anything else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    api::{Answer, Ask},
    history::History,
};
use crate::{
    ask::Api,
    harness::{NodeProcess, eventually, holds},
};

/// At each node.
const CLIENTS: u64 = 3;
/// Between two operations of one client: load, and not all that the machine can do.
const PACE: Duration = Duration::from_millis(4);
/// After a refusal, before the next operation.
const PAUSE: Duration = Duration::from_millis(20);
/// Of ten operations of a client, so many write.
const STORES: u64 = 2;
/// And so many write if nobody else has since the client knows of the key.
const SWAPS: u64 = 1;
/// By so many acknowledged writes of each key, and values read at each node, a load shows that it works.
const ENOUGH: usize = 5;

/// The clients.
#[derive(Debug)]
pub(super) struct Load {
    stop: CancellationToken,
    clients: JoinSet<()>,
    keys: Vec<String>,
    values: Arc<AtomicU64>,
    pub(super) history: History,
}

#[derive(Debug)]
struct Client {
    who: String,
    nth: u64,
    api: Api,
    keys: Vec<String>,
    values: Arc<AtomicU64>,
    history: History,
    stop: CancellationToken,
}

impl Load {
    /// Clients at each of these nodes.
    pub(super) fn start(nodes: &[NodeProcess], keys: &[String]) -> Self {
        let mut load = Self {
            stop: CancellationToken::new(),
            clients: JoinSet::new(),
            keys: keys.to_vec(),
            values: Arc::default(),
            history: History::default(),
        };
        nodes.iter().for_each(|node| load.join(node));
        load
    }

    /// Clients at a further node.
    pub(super) fn join(&mut self, node: &NodeProcess) {
        for nth in 0..CLIENTS {
            let client = Client {
                who: format!("{}/{nth}", node.name),
                nth,
                api: node.api.clone(),
                keys: self.keys.clone(),
                values: Arc::clone(&self.values),
                history: self.history.clone(),
                stop: self.stop.clone(),
            };
            self.clients.spawn(client.work());
        }
    }

    /// Waits until all keys have been written after a moment, and read at each of these nodes.
    pub(super) async fn works_after(&self, moment: Instant, nodes: &[&NodeProcess]) {
        eventually("all keys are written, and read at all nodes", async || {
            let records = self.history.records();
            let after = || records.iter().filter(|record| record.asked > moment);
            for key in &self.keys {
                let stored = |answer: &Answer| matches!(answer, Answer::Stored { .. });
                let stores = after().filter(|record| record.key == *key && stored(&record.answer)).count();
                holds(stores >= ENOUGH, format!("{key} was written {stores} times"))?;
            }
            for NodeProcess { name, .. } in nodes.iter().copied() {
                let is_there = |who: &str| who.split_once('/').is_some_and(|(node, _)| node == name);
                let read = |answer: &Answer| matches!(answer, Answer::Read { .. });
                let reads = after().filter(|record| is_there(&record.who) && read(&record.answer)).count();
                holds(reads >= ENOUGH, format!("{reads} values were read at {name}"))?;
            }
            Ok::<_, String>(())
        })
        .await;
    }

    /// Ends the load; checks all that its clients were told.
    pub(super) async fn checked(mut self, what: &str) -> History {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.history.check(what);
        self.history
    }
}

impl Client {
    async fn work(self) {
        // The version of each key that was told last.
        let mut seen: Vec<Option<String>> = vec![None; self.keys.len()];
        for round in 0.. {
            if self.stop.is_cancelled() {
                return;
            }
            let nth = usize::try_from(round).unwrap() % self.keys.len();
            let record = self.api.operate(&self.who, &self.keys[nth], self.next(round, seen[nth].take())).await;
            let pause = match &record.answer {
                Answer::Read { version, .. } | Answer::Stored { version } => {
                    seen[nth] = Some(version.clone());
                    PACE
                }
                Answer::Miss | Answer::Mismatch { .. } => PACE,
                Answer::Refused { .. } | Answer::Unknown => PAUSE,
            };
            self.history.add(record);
            tokio::select! { () = tokio::time::sleep(pause) => {}, () = self.stop.cancelled() => {} }
        }
    }

    /// What the client does in a round. Writes come in another order at each client, so that all pairs of operations
    /// meet.
    fn next(&self, round: u64, seen: Option<String>) -> Ask {
        let dice = (round * 7 + self.nth * 3 + round / 10) % 10;
        let value = || format!("v{}", self.values.fetch_add(1, Ordering::Relaxed));
        match seen {
            Some(from) if dice < SWAPS => Ask::Swap { value: value(), from },
            _ if dice < SWAPS + STORES => Ask::Store { value: value() },
            _ => Ask::Read,
        }
    }
}
