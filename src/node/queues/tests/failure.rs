//! The task of a partition that panics: the partition is given up, and nothing else.

use super::{Cluster, eventually, name};
use crate::{
    mutant,
    node::{Node, queues::Publish},
};

/// The check that fails where partitions were given up.
async fn failed_check(node: &Node) -> Option<String> {
    let readiness = node.readiness().await;
    readiness.checks.into_iter().find(|check| check.name == "partitions" && !check.ok).map(|check| check.detail)
}

async fn is_warned_of(node: &Node) -> bool {
    node.cluster().await.warnings.iter().any(|warning| warning.code == "queue-partition-failed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_panics_is_given_up_and_told_of_while_all_else_is_served() {
    const POISONED: &str = "its-task-panics";
    // So many that each node is the primary of several, whatever its id.
    let mut cluster = Cluster::with(3, |config| config.queue_partitions = 32).await;
    let first = cluster.queue(0, POISONED).publish(Publish::new("0")).await.unwrap();
    cluster.whole(0, first.partition, 2).await;

    mutant::poison(POISONED);
    // Whoever took it up is gone; asked again, somebody else does.
    eventually("the partition is served", async || cluster.queue(0, POISONED).publish(Publish::new("1")).await.is_ok())
        .await;
    assert!(!mutant::takes_poison(POISONED), "nobody panicked");
    let mut failed = Vec::new();
    for index in 0..3 {
        failed.extend(failed_check(cluster.node(index)).await.map(|said| (index, said)));
    }
    let [(primary, said)] = &failed[..] else { panic!("one node gives its copy up: {failed:?}") };
    let (primary, other) = (*primary, (*primary + 1) % 3);
    let stats = cluster.queues(other).stats(name(POISONED)).await.unwrap();
    assert_ne!(stats.primary, Some(cluster.node(primary).id()));
    assert!(stats.depth >= 2, "{stats:?}");
    cluster.whole(other, first.partition, 1).await;

    // The node runs, still serves other partitions, and says what happened.
    let mut neighbours = 0;
    for n in 0..64 {
        let queue = format!("neighbour-{n}");
        cluster.queue(other, &queue).publish(Publish::new("0")).await.unwrap();
        let stats = cluster.queues(other).stats(name(&queue)).await.unwrap();
        neighbours += usize::from(stats.primary == Some(cluster.node(primary).id()));
    }
    assert!(neighbours > 0, "it serves nothing any more");
    assert!(said.contains("a test poisoned this queue") && said.contains("start the node again"), "{said}");
    assert!(cluster.node(primary).metrics_text().await.contains("syncmesh_queue_partitions_given_up_total 1\n"));
    eventually("every node warns of it", async || is_warned_of(cluster.node(other)).await).await;

    // Started again, it keeps the partition as before.
    cluster.kill(primary).await;
    cluster.start(primary).await;
    cluster.ready().await;
    cluster.whole(other, first.partition, 2).await;
    eventually("nobody warns of it", async || !is_warned_of(cluster.node(other)).await).await;
}
