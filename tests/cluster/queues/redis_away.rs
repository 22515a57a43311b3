//! The Redis that is the journal of queue nodes is killed, and comes back with all that it had.

use std::time::{Duration, Instant};

use super::{
    apis, cluster_in_redis,
    ledger::{Ledger, Memories},
    load::{Consumers, Load},
    warnings,
};
use crate::{
    harness::{NodeProcess, eventually, holds},
    redis_server::RedisServer,
};

/// A refusal takes less, on however slow a machine: it waits for nothing.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// Between two moments nothing that was asked for then was acknowledged, and refusals came at once.
fn check_outage(ledger: &Ledger, what: &str, first: Duration, from: Instant, to: Instant) {
    let within = |asked: Instant, answered: Instant| asked > from && answered < to;
    let acknowledged = ledger.published.iter().filter(|published| within(published.asked, published.answered));
    assert_eq!(acknowledged.count(), 0, "{what}: publishes were acknowledged without a journal");
    let once = from + first;
    let slowest = ledger.not_durable(once).filter(|refusal| refusal.asked > once && refusal.answered < to);
    let slowest = slowest.map(|refusal| refusal.answered - refusal.asked).max().expect("there were some");
    let resumed = ledger.first_after(to).expect("it went on");
    println!(
        "{what}: first refused after {first:?}, from then on within {slowest:?}; back again, the first acknowledged after \
         {resumed:?}"
    );
    assert!(first < REFUSED_WITHIN && slowest < REFUSED_WITHIN, "refused after {first:?}, then within {slowest:?}");
}

/// The code of the warning that a node's journal cannot be used.
const AWAY: &str = "queue-journal-away";

/// What a node says of the journal of another one, once it knows that it is away.
async fn warned_of(asked: &NodeProcess, whose: &str) -> String {
    eventually("a node knows whose journal is away", async || {
        let shown = asked.api.cluster().await;
        let told = shown["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|warning| warning["code"] == AWAY && warning["detail"].as_str().unwrap().contains(whose));
        told.map(|warning| warning["detail"].as_str().unwrap().to_owned()).ok_or(shown.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_redis_that_all_share_publishes_are_refused_until_it_is_back() {
    let Some(mut redis) = RedisServer::start() else { return };
    let cluster = cluster_in_redis(&vec![redis.url(); 3], &[]).await;
    let shown = cluster.nodes[0].api.cluster().await;
    assert!(warnings(&shown).contains(&"queue-shared-redis".to_owned()), "{shown}");
    cluster.queues(&["load"]).await;
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::FromTheStart);
    load.works_after(Instant::now()).await;

    redis.kill();
    let killed = Instant::now();
    let first = load.is_refused_after(killed).await;
    eventually("a node tells that it is not ready, and why", async || {
        let health = cluster.nodes[0].cli(&["health", "--ready"]).await;
        holds(health.code == 1 && health.stdout.contains("Redis at"), format!("{health:?}"))
    })
    .await;
    let listed = cluster.nodes[0].api.call(reqwest::Method::GET, "/v1/queues", None).await.unwrap();
    assert!(listed.is_ok() || listed.slug() == "unavailable", "of what is served, if anything is: {listed:?}");
    let back = Instant::now();
    redis.launch();
    load.works_after(back).await;
    for node in &cluster.nodes {
        node.ready().await;
    }
    cluster.whole(0, 2).await;
    let ledger = load.checked("the Redis of all killed", Memories::Kept).await;
    check_outage(&ledger, "the Redis of all killed", first, killed, back);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_redis_of_a_backup_is_gone_without_and_that_of_a_primary_is_waited_for() {
    let servers: Option<Vec<RedisServer>> = (0..3).map(|_| RedisServer::start()).collect();
    let Some(mut servers) = servers else { return };
    let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
    let cluster = cluster_in_redis(&urls, &[]).await;
    let shown = cluster.nodes[0].api.cluster().await;
    assert!(!warnings(&shown).contains(&"queue-shared-redis".to_owned()), "{shown}");
    let partition = cluster.queues(&["load"]).await[0];
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::FromTheStart);
    load.works_after(Instant::now()).await;

    let (_, backup) = cluster.copies(0, partition).await;
    let killed = Instant::now();
    servers[backup].kill();
    load.works_after(killed).await;
    let first = load.so_far().first_after(killed).expect("the load went on");
    println!("the Redis of the backup killed: first acknowledged publish after {first:?}");
    servers[backup].launch();
    cluster.whole(0, 2).await;

    load.works_after(Instant::now()).await;
    let (primary, _) = cluster.copies(0, partition).await;
    let killed = Instant::now();
    servers[primary].kill();
    let first = load.is_refused_after(killed).await;
    let other = &cluster.nodes[(primary + 1) % 3];
    let named = warned_of(other, &cluster.nodes[primary].peer_id()).await;
    assert!(named.contains("since 20") && named.contains("cannot be reached"), "{named}");
    let back = Instant::now();
    servers[primary].launch();
    load.works_after(back).await;
    cluster.whole(0, 2).await;
    eventually("nobody warns of a journal that is back", async || {
        let shown = other.api.cluster().await;
        if warnings(&shown).contains(&AWAY.to_owned()) { Err(shown) } else { Ok(()) }
    })
    .await;
    // Of the node that it happened to, and of one that it was told.
    for node in [&cluster.nodes[primary], other] {
        node.tells(&["event: journal-away", "event: journal-back"]).await;
    }
    let ledger = load.checked("the Redis of the backup, then that of the primary killed", Memories::Kept).await;
    check_outage(&ledger, "the Redis of the primary killed", first, killed, back);
}
