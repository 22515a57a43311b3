//! What the service does when nodes fail.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{Cluster, PATIENCE, name};
use crate::{
    error::{ErrorCode, Outcome},
    ids::Role,
    node::queues::{Publish, Receive},
};

/// Receives everything that is there, acknowledges it through `index`, and counts deliveries by body.
async fn drain(cluster: &Cluster, index: usize, queue: &str, expected: usize) -> BTreeMap<String, u32> {
    let mut seen = BTreeMap::new();
    let began = Instant::now();
    while seen.len() < expected {
        assert!(began.elapsed() < PATIENCE, "only {} of {expected} messages came", seen.len());
        let receive = Receive { max: 100, wait_ms: 500, visibility_ms: None };
        let Ok(messages) = cluster.queues(index).receive(name(queue), receive).await else { continue };
        let receipts: Vec<String> = messages.iter().map(|message| message.receipt.clone()).collect();
        for message in messages {
            *seen.entry(String::from_utf8(message.body.to_vec()).unwrap()).or_insert(0) += 1;
        }
        if !receipts.is_empty() {
            cluster.queues(index).ack(name(queue), receipts).await.unwrap();
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_with_the_primary() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.queue(0, "safe").publish(Publish::new("0")).await.unwrap();
    cluster.whole(0, first.partition, 2).await;
    let view = cluster.queues(0).stats(name("safe")).await.unwrap();
    let primary = cluster.index_of(view.primary.unwrap());
    let other = (primary + 1) % 3;
    for n in 1..50 {
        cluster.queue(n % 3, "safe").publish(Publish::new(format!("{n}"))).await.unwrap();
    }
    cluster.kill(primary).await;
    let began = Instant::now();
    let mut acknowledged = 50;
    let mut gap = None;
    for n in 50..80 {
        match cluster.queue(other, "safe").publish(Publish::new(format!("{n}"))).await {
            Ok(_) => {
                gap.get_or_insert(began.elapsed());
                acknowledged += 1;
            }
            Err(error) => panic!("a publish was refused ({:?}): {error}", error.details.outcome),
        }
    }
    let gap = gap.unwrap();
    assert!(gap < Duration::from_secs(6), "no publish was acknowledged for {gap:?}");
    println!("the first publish after the loss of the primary took {gap:?}");
    let seen = drain(&cluster, other, "safe", acknowledged).await;
    assert_eq!(seen.len(), 80);
    assert!(seen.values().all(|deliveries| *deliveries == 1), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_when_all_nodes_start_again() {
    let mut cluster = Cluster::of(3).await;
    let mut partition = 0;
    for n in 0..30 {
        partition = cluster.queue(n % 3, "kept").publish(Publish::new(format!("{n}"))).await.unwrap().partition;
    }
    let taken = cluster
        .queues(0)
        .receive(name("kept"), Receive { max: 10, wait_ms: 0, visibility_ms: Some(3_600_000) })
        .await
        .unwrap();
    let receipts = taken.into_iter().map(|message| message.receipt).collect();
    assert_eq!(cluster.queues(1).ack(name("kept"), receipts).await.unwrap().done.len(), 10);
    for index in 0..3 {
        cluster.kill(index).await;
    }
    for index in 0..3 {
        cluster.start(index).await;
    }
    cluster.ready().await;
    cluster.whole(0, partition, 2).await;
    let seen = drain(&cluster, 0, "kept", 20).await;
    assert_eq!(seen.keys().map(|body| body.parse::<u32>().unwrap()).min(), Some(10), "consumed means gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_copies_that_were_asked_for_publishes_are_refused_and_consumers_served() {
    let mut cluster = Cluster::with(3, |config| config.queue_min_in_sync = 2).await;
    let first = cluster.queue(0, "careful").publish(Publish::new("0")).await.unwrap();
    cluster.whole(0, first.partition, 2).await;
    let view = cluster.queues(0).stats(name("careful")).await.unwrap();
    let primary = cluster.index_of(view.primary.unwrap());
    let backup = view.in_sync.iter().map(|node| cluster.index_of(*node)).find(|index| *index != primary).unwrap();
    cluster.kill(backup).await;
    cluster.whole(primary, first.partition, 1).await;
    let error = cluster.queue(primary, "careful").publish(Publish::new("1")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::DurabilityUnavailable, "{error}");
    assert_ne!(error.details.outcome, Some(Outcome::Unknown));
    assert_eq!(drain(&cluster, primary, "careful", 1).await.len(), 1);
    cluster.start(backup).await;
    cluster.whole(primary, first.partition, 2).await;
    cluster.queue(primary, "careful").publish(Publish::new("2")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_the_in_sync_set_serves_and_a_copy_that_is_lost_then_stops_it_openly() {
    let mut cluster = Cluster::with(3, |config| match &mut config.bootstrap_expect {
        Some(expect) => {
            *expect = 1;
            config.node_roles = [Role::LockManager].into();
        }
        None => config.node_roles = [Role::QueueNode].into(),
    })
    .await;
    let first = cluster.queue(1, "alone").publish(Publish::new("0")).await.unwrap();
    cluster.whole(1, first.partition, 2).await;
    cluster.kill(0).await;
    for n in 1..20 {
        cluster.queue(1 + n % 2, "alone").publish(Publish::new(format!("{n}"))).await.unwrap();
    }
    assert_eq!(drain(&cluster, 1, "alone", 20).await.len(), 20);

    let primary = cluster.index_of(cluster.queues(1).stats(name("alone")).await.unwrap().primary.unwrap());
    cluster.kill(3 - primary).await;
    let error = cluster.queue(primary, "alone").publish(Publish::new("lost?")).await.unwrap_err();
    assert_eq!((error.code, error.details.outcome), (ErrorCode::Unavailable, Some(Outcome::Unknown)), "{error}");
    let began = Instant::now();
    let error = cluster.queue(primary, "alone").publish(Publish::new("refused")).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::DurabilityUnavailable, "{error}");
    assert!(began.elapsed() < Duration::from_secs(1));
}
