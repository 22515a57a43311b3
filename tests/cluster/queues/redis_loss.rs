//! A Redis that comes back with less than it had: emptied, with its tail cut, with an older data set.

use std::{collections::BTreeSet, fs, time::Instant};

use serde_json::Value;

use super::{
    Placed, apis, cluster_in_redis,
    ledger::Memories,
    load::{Consumers, Load},
    warnings,
};
use crate::{
    harness::{Cluster, NodeProcess, eventually, holds},
    redis_server::RedisServer,
};

/// What a node says of a journal that it finds shorter than it was.
const LACKS: &str = "a journal lacks what it acknowledged";

async fn three_in_redis() -> Option<(Vec<RedisServer>, Cluster)> {
    let servers: Vec<RedisServer> = (0..3).map(|_| RedisServer::start()).collect::<Option<_>>()?;
    let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
    Some((servers, cluster_in_redis(&urls, &[]).await))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_forgets_while_its_node_runs_is_written_anew_from_memory() {
    let Some((mut servers, mut cluster)) = three_in_redis().await else { return };
    let partition = cluster.queues(&["load"]).await[0];
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::AtTheEnd);
    load.works_after(Instant::now()).await;
    let (primary, backup) = cluster.copies(0, partition).await;

    let emptied = Instant::now();
    let _: String = servers[primary].ask(&["FLUSHALL"]);
    cluster.nodes[primary].says("has lost the journal of this node").await;
    cluster.nodes[primary].says("is whole again").await;
    load.works_after(emptied).await;

    servers[backup].kill();
    let older = servers[backup].back_up();
    servers[backup].launch();
    cluster.whole(0, 2).await;
    load.works_after(Instant::now()).await;
    servers[backup].kill();
    servers[backup].put_back(&older);
    servers[backup].launch();
    cluster.nodes[backup].says("the journal has lost what it acknowledged: it is written anew from memory").await;
    cluster.whole(0, 2).await;
    load.works_after(Instant::now()).await;

    // What was written anew is what they begin with.
    cluster.kill_all();
    cluster.nodes.iter_mut().for_each(NodeProcess::launch);
    cluster.all_ready().await;
    cluster.whole(0, 2).await;
    for node in &cluster.nodes {
        assert!(!node.log().contains(LACKS), "{} found its journal short", node.name);
    }
    load.checked("FLUSHALL under the primary, an older data set under the backup, then all killed", Memories::Lost)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_redis_lost_its_tail_with_it_is_named_and_filled_up_from_the_other() {
    let Some((mut servers, mut cluster)) = three_in_redis().await else { return };
    let partition = cluster.queues(&["load"]).await[0];
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::AtTheEnd);
    load.works_after(Instant::now()).await;

    // A machine that loses its power, and what its Redis had not really synced.
    let (lost, other) = cluster.copies(0, partition).await;
    cluster.nodes[lost].kill();
    servers[lost].kill();
    let length = fs::metadata(servers[lost].appended()).unwrap().len();
    servers[lost].cut(length * 2 / 3);
    servers[lost].launch();
    cluster.nodes[lost].start().await;
    cluster.nodes[lost].says(LACKS).await;
    cluster.whole(other, 2).await;
    load.works_after(Instant::now()).await;

    // The one that had everything is gone with its Redis: now the other has.
    let (primary, backup) = cluster.copies(other, partition).await;
    assert!([primary, backup].contains(&lost), "it keeps the partition again");
    let other = if primary == lost { backup } else { primary };
    cluster.nodes[other].kill();
    servers[other].kill();
    load.works_after(Instant::now()).await;
    load.checked("a Redis without its tail, filled up from the other copy, which is lost then", Memories::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_of_all_a_copy_whose_redis_lost_its_tail_does_not_win() {
    let Some((mut servers, mut cluster)) = three_in_redis().await else { return };
    let partition = cluster.queues(&["load"]).await[0];
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::AtTheEnd);
    load.works_after(Instant::now()).await;
    let (short, whole) = cluster.copies(0, partition).await;
    cluster.kill_all();
    servers[short].kill();
    let length = fs::metadata(servers[short].appended()).unwrap().len();
    servers[short].cut(length * 2 / 3);
    servers[short].launch();

    // Whoever came back first has left the in-sync set: the last member may be either of them.
    for nth in (0..3).filter(|nth| *nth != short) {
        cluster.nodes[nth].launch();
    }
    cluster.nodes[whole].listening().await;
    let expected = ["waiting".to_owned(), "serving".to_owned()];
    let holder = cluster.nodes[whole].peer_id();
    eventually("the copy that is whole serves, or is not enough by itself", async || {
        let placed = cluster.partition(whole, partition).await;
        let serves = placed.primary.as_ref() == Some(&holder) && placed.in_sync.len() == 1;
        holds(expected.contains(&placed.status) && (serves || placed.primary.is_none()), format!("{placed:?}"))
    })
    .await;
    cluster.nodes[short].start().await;
    cluster.nodes[short].says(LACKS).await;
    let serves = |placed: &Placed| placed.status == "serving" && placed.in_sync.contains(&holder);
    let mut came = String::new();
    eventually("the copy that is whole serves, or the partition is journal-lost", async || {
        let placed = cluster.partition(whole, partition).await;
        came.clone_from(&placed.status);
        holds(serves(&placed) || placed.status == "journal-lost", format!("{placed:?}"))
    })
    .await;
    if came == "journal-lost" {
        // The short one was waited for, as it might have served alone; nobody can know that it did not.
        let done = cluster.nodes[whole].cli(&["queue", "recover", &partition.to_string(), "--accept-loss"]).await;
        assert_eq!(done.code, 0, "{done:?}");
        eventually("the copy that is whole serves", async || {
            let placed = cluster.partition(whole, partition).await;
            holds(serves(&placed), format!("{placed:?}"))
        })
        .await;
    }
    cluster.all_ready().await;
    cluster.whole(whole, 2).await;
    println!("all killed, one Redis without its tail: the partition was {came} once that node was back");
    load.checked("all killed, one Redis without its tail", Memories::Lost).await;
}

/// A cluster of one, whose only partition that matters is this one.
struct OnlyCopy {
    cluster: Cluster,
    redis: RedisServer,
    partition: u64,
}

impl OnlyCopy {
    fn node(&self) -> &NodeProcess {
        &self.cluster.nodes[0]
    }

    async fn publish(&self, ids: impl Iterator<Item = String>) -> BTreeSet<String> {
        let mut published = BTreeSet::new();
        for id in ids {
            let publish = async || self.node().api.publish("kept", &id).await.unwrap();
            eventually("a publish is acknowledged", async || {
                let answer = publish().await;
                holds(answer.is_ok(), format!("{answer:?}"))
            })
            .await;
            published.insert(id);
        }
        published
    }

    /// The node is started again on what its Redis has now, and does not serve it.
    async fn does_not_serve(&mut self) {
        self.cluster.nodes[0].start().await;
        let api = self.node().api.clone();
        eventually("the partition is journal-lost", async || {
            let placed = self.cluster.partition(0, self.partition).await;
            holds(placed.status == "journal-lost", format!("{placed:?}"))
        })
        .await;
        let shown = api.cluster().await;
        assert!(warnings(&shown).contains(&"queue-journal-lost".to_owned()), "{shown}");
        for answer in [api.publish("kept", "refused").await.unwrap(), api.receive("kept", 10, 0).await.unwrap()] {
            assert_eq!(
                (answer.slug(), &answer.body["outcome"]),
                ("unavailable", &Value::from("not-applied")),
                "{answer:?}"
            );
            assert!(answer.body["detail"].to_string().contains("queue recover"), "{answer:?}");
        }
    }

    /// An operator gives up what is missing; what is received then.
    async fn is_recovered(&self) -> BTreeSet<String> {
        let partition = self.partition.to_string();
        let asked = self.node().cli(&["queue", "recover", &partition]).await;
        assert_eq!(asked.code, 2, "nothing is given up without being told to: {asked:?}");
        let done = self.node().cli(&["queue", "recover", &partition, "--accept-loss"]).await;
        assert_eq!(done.code, 0, "{done:?}");
        self.publish(["after".to_owned()].into_iter()).await;
        let received = self.node().api.receive("kept", 100, 0).await.unwrap().ok();
        let messages = received["messages"].as_array().unwrap();
        messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_only_copy_that_lost_something_is_served_again_when_an_operator_accepts_the_loss() {
    let Some(redis) = RedisServer::start() else { return };
    let cluster = cluster_in_redis(&[redis.url()], &[("QUEUE_REPLICAS", "1")]).await;
    let partition = cluster.queues(&["kept"]).await[0];
    let mut only = OnlyCopy { cluster, redis, partition };
    let earlier = only.publish((0..20).map(|nth| format!("earlier-{nth}"))).await;
    only.redis.kill();
    let older = only.redis.back_up();
    only.redis.launch();
    let later = only.publish((0..20).map(|nth| format!("later-{nth}"))).await;

    only.cluster.nodes[0].kill();
    only.redis.kill();
    only.redis.put_back(&older);
    only.redis.launch();
    only.does_not_serve().await;
    only.node().says(LACKS).await;
    let expected: BTreeSet<String> = earlier.iter().cloned().chain(["after".to_owned()]).collect();
    assert_eq!(only.is_recovered().await, expected);
    println!("an older data set under the only copy: {} messages given up, {} kept", later.len(), earlier.len());

    only.cluster.nodes[0].kill();
    let _: String = only.redis.ask(&["FLUSHALL"]);
    only.does_not_serve().await;
    assert_eq!(only.is_recovered().await, ["after".to_owned()].into());
}
