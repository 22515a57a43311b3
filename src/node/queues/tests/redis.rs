//! What the service does when the Redis that all nodes share goes away, and comes back with less.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use self::redis_server::RedisServer;
use super::{Cluster, PATIENCE, eventually, name};
use crate::{
    config::Secret,
    error::{ErrorCode, Outcome},
    node::queues::{Publish, Receive},
};

#[allow(dead_code, reason = "the tests of the journal need more of it")]
#[path = "../../../../tests/journal/redis_server.rs"]
mod redis_server;

async fn received(cluster: &Cluster, index: usize, queue: &str) -> usize {
    let receive = Receive { max: 1_000, wait_ms: 0, visibility_ms: Some(0) };
    cluster.queues(index).receive(name(queue), receive).await.map_or(0, |messages| messages.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_publishes_are_refused_soon_and_with_it_they_go_on_by_themselves() {
    let Some(mut redis) = RedisServer::start() else { return };
    let url = redis.url();
    let cluster = Cluster::with(3, move |config| config.redis_url = Some(Secret::new(url.clone()))).await;
    assert_eq!(cluster.node(0).info().await.queue.unwrap().journal, "redis");
    let queue = cluster.queue(0, "away");
    let first = queue.publish(Publish::new("0")).await.unwrap();
    cluster.whole(0, first.partition, 2).await;

    redis.kill();
    let mut acknowledged = 1;
    let refused = async {
        loop {
            match queue.publish(Publish::new("?")).await {
                Ok(_) => acknowledged += 1,
                Err(error) if error.code == ErrorCode::DurabilityUnavailable => return error,
                // What was begun before it was noticed: nobody knows.
                Err(error) => {
                    assert_eq!(error.details.outcome, Some(Outcome::Unknown), "{error}");
                    assert!(error.details.id.is_some());
                }
            }
        }
    };
    timeout(PATIENCE, refused).await.unwrap();
    let began = Instant::now();
    assert_eq!(queue.publish(Publish::new("?")).await.unwrap_err().code, ErrorCode::DurabilityUnavailable);
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());

    redis.launch();
    eventually("publishes go on", async || queue.publish(Publish::new("on")).await.is_ok()).await;
    assert!(received(&cluster, 1, "away").await > acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_is_filled_from_memory() {
    let Some(redis) = RedisServer::start() else { return };
    let url = redis.url();
    let cluster = Cluster::with(3, move |config| config.redis_url = Some(Secret::new(url.clone()))).await;
    for n in 0..20 {
        cluster.queue(n % 3, "flushed").publish(Publish::new(format!("{n}"))).await.unwrap();
    }
    let _: String = redis.ask(&["FLUSHALL"]);
    let more = async || cluster.queue(1, "flushed").publish(Publish::new("more")).await.is_ok();
    eventually("publishes go on", more).await;
    assert!(received(&cluster, 2, "flushed").await > 20);
    eventually("the journals are there again", async || !redis.keys("*").is_empty()).await;
}
