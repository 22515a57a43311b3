//! kill -9 of the node that alone has a value, and of one that shares it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    LEASE, agree, api::Answer, cluster_of, history::History, key_at, lost, read, settled, stored, value, waited,
};
use crate::{
    ask::Api,
    harness::{Cluster, NodeProcess, eventually, holds},
};

/// What a home says in its log of a value that is gone with its owner.
const GONE: &str = "a value is gone that only its owner had";
/// Values that only the one that is killed has.
const DIRTY: usize = 4;
/// What a read may take beyond the lease of an owner that is dead.
const MARGIN: Duration = Duration::from_secs(1);

/// A cluster, and which of its nodes is home, does nothing but ask, and will be killed.
struct Case {
    cluster: Cluster,
    home: usize,
    other: usize,
    victim: usize,
    history: History,
}

impl Case {
    async fn of(protocol: &str, policy: &str) -> Self {
        let mut cluster = cluster_of(3, protocol, &[("CACHE_WRITE_POLICY", policy)]).await;
        // So that no election comes on top of what is measured.
        let home = cluster.leader().await;
        let (other, victim) = ((home + 1) % 3, (home + 2) % 3);
        Self { cluster, home, other, victim, history: History::default() }
    }

    fn node(&self, nth: usize) -> &NodeProcess {
        &self.cluster.nodes[nth]
    }

    /// Keys that all nodes have read, and the one that will be killed has written since.
    async fn written(&self, begin: &str, count: usize) -> Vec<String> {
        let mut keys = Vec::new();
        for nth in 0..count {
            let key = key_at(self.node(self.home), &format!("{begin}-{nth}")).await;
            stored(&self.history, self.node(self.other), &key, &format!("{key}: old")).await;
            for node in &self.cluster.nodes {
                assert_eq!(value(&self.history, node, &key).await, Some(format!("{key}: old")));
            }
            stored(&self.history, self.node(self.victim), &key, &format!("{key}: new")).await;
            let shown = self.node(self.home).api.whereabouts(&key).await;
            assert_eq!(shown["directory"]["owner"], self.node(self.victim).peer_id(), "{shown}");
            keys.push(key);
        }
        keys
    }

    fn kill(&mut self) -> Instant {
        self.cluster.nodes[self.victim].kill();
        Instant::now()
    }

    /// How often the logs of those who run say of a key that its value is gone.
    fn said_gone(&self, key: &str) -> usize {
        let is_it = |line: &&str| line.contains(GONE) && line.contains(&format!("key={key} "));
        let of = |nth: usize| self.node(nth).log().lines().filter(is_it).count();
        of(self.home) + of(self.other)
    }
}

/// A counter of the metrics.
async fn metric(api: &Api, name: &str) -> u64 {
    let text = api.get("/metrics").await.ok();
    let text = text.as_str().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in the metrics")).parse().unwrap()
}

async fn dirty_lines_die(protocol: &str) {
    let mut case = Case::of(protocol, "back").await;
    let keys = case.written("dirty", DIRTY).await;
    let shared = case.written("shared", 1).await.remove(0);
    // Under MESI this writes it back; under MOSI and MOESI the owner keeps what it owes, and another one has it too.
    assert_eq!(value(&case.history, case.node(case.other), &shared).await, Some(format!("{shared}: new")));
    assert_eq!(lost(case.node(case.home)).await, 0);

    let killed = case.kill();
    let (home, other) = (case.node(case.home), case.node(case.other));
    for key in &keys {
        for node in [other, home] {
            let record = read(&case.history, node, key).await;
            assert_eq!(record.answer, Answer::Miss, "only the one that died had it: {record:?}");
        }
    }
    let took = killed.elapsed();
    println!("{protocol}, kill -9 of an owner: its {DIRTY} values were misses at all nodes after {took:?}");
    assert!(took <= waited(LEASE) + MARGIN, "{took:?} is more than its lease and what may come on top of it");
    assert_eq!(value(&case.history, other, &shared).await, Some(format!("{shared}: new")), "another one has it");
    assert_eq!(value(&case.history, home, &shared).await, Some(format!("{shared}: new")), "it can be had from there");

    // Looked at until here, and a little longer: it is counted once, and told once.
    let expected = DIRTY as u64;
    eventually("what was lost is counted", async || {
        let (shown, told) = (lost(home).await, metric(&home.api, "syncmesh_cache_dirty_lost_total").await);
        holds(shown == expected && told == expected, format!("{shown} in GET /v1/cache, {told} in the metrics"))
    })
    .await;
    home.tells(&["event: dirty-lines-lost"]).await;
    for key in &keys {
        eventually("the log tells of it", async || holds(case.said_gone(key) > 0, key)).await;
    }
    for key in &keys {
        stored(&case.history, other, key, &format!("{key}: newest")).await;
        assert_eq!(value(&case.history, home, key).await, Some(format!("{key}: newest")));
        assert_eq!(case.said_gone(key), 1, "{key} was lost once");
    }
    assert_eq!(case.said_gone(&shared), 0, "it was not lost");
    assert_eq!(lost(home).await, expected);

    let (victim, mut all) = (case.victim, keys);
    all.push(shared);
    case.cluster.nodes[victim].start().await;
    case.cluster.nodes[victim].ready().await;
    agree(&case.history, &case.cluster.nodes, &all).await;
    case.history.check(&format!("{protocol}, kill -9 of an owner"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_dead_owner_had_is_a_miss_and_never_older_under_mesi() {
    dirty_lines_die("MESI").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_dead_owner_had_is_a_miss_and_never_older_under_mosi() {
    dirty_lines_die("MOSI").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_dead_owner_had_is_a_miss_and_never_older_under_moesi() {
    dirty_lines_die("MOESI").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_through_nothing_acknowledged_is_lost_with_an_owner() {
    let mut case = Case::of("MOESI", "through").await;
    let keys = case.written("kept", DIRTY).await;
    let killed = case.kill();
    let (home, other) = (case.node(case.home), case.node(case.other));
    for key in &keys {
        for node in [other, home] {
            let record = read(&case.history, node, key).await;
            assert!(
                matches!(&record.answer, Answer::Read { value, .. } if *value == format!("{key}: new")),
                "it was acknowledged when the home had it: {record:?}"
            );
        }
    }
    println!("through, kill -9 of an owner: all values were read at all nodes after {:?}", killed.elapsed());
    assert_eq!(lost(home).await, 0);
    settled(&case.cluster.nodes).await;
    let told = home.api.invalidate(json!({"prefix": "kept"})).await.ok();
    assert_eq!(told, json!({"invalidated": DIRTY, "unanswered": []}));
    case.history.check("through, kill -9 of an owner");
}
