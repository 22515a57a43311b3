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
    let primary = cluster.index_of(cluster.queues(0).stats(name(POISONED)).await.unwrap().primary.unwrap());
    let other = (primary + 1) % 3;
    let mut neighbour = None;
    for n in 0..64 {
        let queue = format!("neighbour-{n}");
        let published = cluster.queue(other, &queue).publish(Publish::new("0")).await.unwrap();
        let stats = cluster.queues(other).stats(name(&queue)).await.unwrap();
        if published.partition != first.partition && stats.primary == Some(cluster.node(primary).id()) {
            neighbour = Some((queue, stats.epoch));
            break;
        }
    }
    let (neighbour, epoch) = neighbour.expect("a node is the primary of some other partition too");
    cluster.whole(other, cluster.queues(other).stats(name(&neighbour)).await.unwrap().partition, 2).await;

    mutant::poison(POISONED);
    // Whoever took it up is gone; asked again, somebody else does.
    eventually("the partition is served", async || {
        cluster.queue(other, POISONED).publish(Publish::new("1")).await.is_ok()
    })
    .await;
    assert!(!mutant::takes_poison(POISONED), "nobody panicked");
    let stats = cluster.queues(other).stats(name(POISONED)).await.unwrap();
    assert_ne!(stats.primary, Some(cluster.node(primary).id()));
    assert!(stats.depth >= 2, "{stats:?}");
    cluster.whole(other, first.partition, 1).await;

    // The node runs, serves its other partitions in the same epoch, and says what happened.
    cluster.queue(other, &neighbour).publish(Publish::new("1")).await.unwrap();
    let stats = cluster.queues(other).stats(name(&neighbour)).await.unwrap();
    assert_eq!((stats.primary, stats.epoch), (Some(cluster.node(primary).id()), epoch));
    let said = failed_check(cluster.node(primary)).await.expect("a check that fails");
    assert!(said.contains("a test poisoned this queue") && said.contains("start the node again"), "{said}");
    assert!(cluster.node(primary).metrics_text().contains("syncmesh_queue_partitions_given_up_total 1\n"));
    eventually("every node warns of it", async || is_warned_of(cluster.node(other)).await).await;
    assert_eq!(failed_check(cluster.node(other)).await, None);

    // Started again, it keeps the partition as before.
    cluster.kill(primary).await;
    cluster.start(primary).await;
    cluster.ready().await;
    cluster.whole(other, first.partition, 2).await;
    eventually("nobody warns of it", async || !is_warned_of(cluster.node(other)).await).await;
}
