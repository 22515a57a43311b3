//! Processes that keep queues are killed with kill -9, and come back with their disks.

use std::time::Instant;

use super::{
    apis, cluster_of,
    ledger::Memories,
    load::{Consumers, Load},
};
use crate::harness::{Cluster, NodeProcess, eventually};

/// Kills a node and starts it again, each time under load, until all copies are there again.
async fn killed_and_back(cluster: &mut Cluster, load: &Load, victim: usize, who: &str) {
    load.works_after(Instant::now()).await;
    let killed = Instant::now();
    cluster.nodes[victim].kill();
    load.works_after(killed).await;
    let first = load.so_far().first_after(killed).expect("the load went on");
    println!("kill -9 of {who}: first acknowledged publish after {first:?}");
    cluster.nodes[victim].start().await;
    cluster.nodes[victim].ready().await;
    let other = (victim + 1) % cluster.nodes.len();
    cluster.whole(other, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_with_a_primary_whether_or_not_it_leads_the_lock_managers_too() {
    let mut cluster = cluster_of(3, &[]).await;
    let partition = cluster.queues(&["load"]).await[0];
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::FromTheStart);
    let (primary, backup) = cluster.copies(0, partition).await;
    cluster.led_by(backup).await;
    killed_and_back(&mut cluster, &load, primary, "the primary").await;
    let (primary, _) = cluster.copies(0, partition).await;
    cluster.led_by(primary).await;
    killed_and_back(&mut cluster, &load, primary, "the primary, which leads the lock managers").await;
    load.checked("kill -9 of the primary, twice", Memories::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_with_a_backup() {
    let mut cluster = cluster_of(3, &[]).await;
    let partition = cluster.queues(&["load"]).await[0];
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::FromTheStart);
    let (_, backup) = cluster.copies(0, partition).await;
    killed_and_back(&mut cluster, &load, backup, "the backup").await;
    load.checked("kill -9 of the backup", Memories::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_consumed_comes_back_when_all_are_killed_at_once() {
    let mut cluster = cluster_of(3, &[]).await;
    let queues = ["a", "b", "c", "d"];
    cluster.queues(&queues).await;
    let load = Load::start(apis(&cluster.nodes), &queues, Consumers::FromTheStart);
    load.works_after(Instant::now()).await;
    let killed = Instant::now();
    cluster.kill_all();
    cluster.nodes.iter_mut().for_each(NodeProcess::launch);
    cluster.all_ready().await;
    load.works_after(Instant::now()).await;
    let first = load.so_far().first_after(killed).expect("the load went on");
    println!("kill -9 of all: first acknowledged publish after {first:?}");
    cluster.whole(0, 2).await;
    let consumed = load.so_far().consumed.values().filter(|at| **at < killed).count();
    assert!(consumed > 0, "nothing had been consumed");
    println!("kill -9 of all: {consumed} messages had been consumed");
    load.checked("kill -9 of all", Memories::Lost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_the_queues_has_what_is_served_and_names_the_partitions_that_it_lacks() {
    let mut cluster = cluster_of(3, &[("QUEUE_REPLICAS", "1"), ("QUEUE_PARTITIONS", "16")]).await;
    let names: Vec<String> = (0..32).map(|nth| format!("listed-{nth:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let kept_in = cluster.queues(&names).await;
    let primary = cluster.partition(0, kept_in[0]).await.primary.expect("it is served");
    let victim = cluster.node_of(&primary);
    cluster.nodes[victim].kill();
    let asked = &cluster.nodes[(victim + 1) % 3];
    let list = eventually("a list lacks what the node kept", async || {
        let answer = asked.api.get("/v1/queues").await;
        if answer.body["unserved"].is_array() { Ok(answer.body) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let lacks: Vec<u64> = list["unserved"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert!(lacks.is_sorted() && lacks.contains(&kept_in[0]), "{list}");
    let listed: Vec<&str> =
        list["queues"].as_array().unwrap().iter().map(|queue| queue["queue"].as_str().unwrap()).collect();
    let served = names.iter().zip(&kept_in).filter(|(_, partition)| !lacks.contains(partition));
    assert_eq!(listed, served.map(|(name, _)| *name).collect::<Vec<_>>());
    let done = asked.cli(&["queue", "list"]).await;
    assert!(done.code == 5 && done.stderr.contains("the list is not whole"), "{done:?}");
    assert!(listed.iter().all(|name| done.stdout.contains(name)), "{done:?}");
    let done = asked.cli(&["--output", "json", "queue", "list"]).await;
    assert!(done.code == 5 && done.stdout.contains(r#""unserved":["#), "{done:?}");
    assert!(done.stderr.contains(r#""type":"unavailable""#), "{done:?}");
}
