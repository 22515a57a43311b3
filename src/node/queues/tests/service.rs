//! What the service does while nothing fails.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Cluster, PATIENCE, eventually, name};
use crate::{
    error::ErrorCode,
    ids::{MessageId, PartitionId},
    node::{
        locks::PageRequest,
        queues::{AcceptLoss, Consume, Publish, QueueSettings, Receive},
    },
};

fn receive(max: u32, wait_ms: u64) -> Receive {
    Receive { max, wait_ms, visibility_ms: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_published_on_any_node_is_received_and_acknowledged_on_any_other() {
    let cluster = Cluster::of(3).await;
    for (from, to, by) in [(0, 1, 2), (1, 2, 0), (2, 0, 1)] {
        let queue = format!("jobs-{from}");
        let published = cluster.queue(from, &queue).publish(Publish::new("one")).await.unwrap();
        assert!(!published.duplicate);
        let messages = cluster.queues(to).receive(name(&queue), receive(10, 0)).await.unwrap();
        assert_eq!(messages.len(), 1);
        assert_eq!((&messages[0].id, &messages[0].body[..], messages[0].deliveries), (&published.id, &b"one"[..], 1));
        let receipts = vec![messages[0].receipt.clone(), "no receipt".to_owned()];
        let outcome = cluster.queues(by).ack(name(&queue), receipts.clone()).await.unwrap();
        assert_eq!((outcome.done, outcome.failed), (receipts[..1].to_vec(), receipts[1..].to_vec()));
        let view = cluster.queues(from).stats(name(&queue)).await.unwrap();
        assert_eq!((view.depth, view.in_flight, view.redelivered, view.bytes), (0, 0, 0, 0));
    }
    let page = PageRequest { prefix: Some("jobs-".into()), after: None, limit: 2 };
    let first = cluster.queues(0).list(page.clone()).await.unwrap();
    assert_eq!(first.items.iter().map(|view| view.queue.as_str()).collect::<Vec<_>>(), ["jobs-0", "jobs-1"]);
    let rest = cluster.queues(1).list(PageRequest { after: first.next, ..page }).await.unwrap();
    assert_eq!(rest.items.iter().map(|view| view.queue.as_str()).collect::<Vec<_>>(), ["jobs-2"]);
    assert_eq!(rest.next, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_the_service_does_what_it_says() {
    let cluster = Cluster::of(3).await;
    let queues = cluster.queues(0);
    let q = || name("all");

    // What is not there.
    for error in [
        queues.receive(q(), receive(1, 0)).await.unwrap_err(),
        queues.stats(q()).await.unwrap_err(),
        queues.peek(q(), 1).await.unwrap_err(),
        queues.purge(q()).await.unwrap_err(),
        queues.delete(q()).await.unwrap_err(),
        queues.recover(PartitionId(9_999), AcceptLoss).await.unwrap_err(),
    ] {
        assert_eq!(error.code, ErrorCode::NotFound, "{error}");
    }
    assert_eq!(queues.recover(PartitionId(0), AcceptLoss).await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(queues.ack(q(), vec!["1-1-1".into()]).await.unwrap().failed, ["1-1-1"]);

    // Duplicates, limits, priorities.
    let config =
        queues.configure(q(), QueueSettings { max_messages: Some(3), ..QueueSettings::default() }).await.unwrap();
    assert_eq!(config.max_messages, Some(3));
    let id = MessageId::new("same").unwrap();
    let same = Publish { id: Some(id.clone()), ..Publish::new("a") };
    let first = queues.publish(q(), vec![same.clone()]).await.unwrap();
    let again = cluster.queues(1).publish(q(), vec![same]).await.unwrap();
    assert_eq!((first[0].duplicate, again[0].duplicate, again[0].offset), (false, true, first[0].offset));
    queues.publish(q(), vec![Publish { priority: 9, ..Publish::new("b") }, Publish::new("c")]).await.unwrap();
    assert_eq!(queues.publish(q(), vec![Publish::new("d")]).await.unwrap_err().code, ErrorCode::QueueFull);
    let bodies = |messages: &[crate::node::queues::Message]| {
        messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bodies(&queues.peek(q(), 10).await.unwrap()), ["b", "a", "c"]);

    // Give back, nack, extend.
    let got = cluster.queues(2).receive(q(), receive(1, 0)).await.unwrap();
    queues.give_back(q(), vec![got[0].receipt.clone()]).await.unwrap();
    let got = queues.receive(q(), receive(1, 0)).await.unwrap();
    assert_eq!((bodies(&got), got[0].deliveries), (vec!["b".to_owned()], 1));
    let receipts = vec![got[0].receipt.clone()];
    assert_eq!(queues.extend(q(), receipts.clone(), Some(60_000)).await.unwrap().done, receipts);
    assert_eq!(queues.nack(q(), receipts.clone(), Some(0)).await.unwrap().done, receipts);
    assert_eq!(queues.ack(q(), receipts.clone()).await.unwrap().failed, receipts);
    let got = queues.receive(q(), receive(1, 0)).await.unwrap();
    assert_eq!((bodies(&got), got[0].deliveries), (vec!["b".to_owned()], 2));

    assert_eq!(queues.purge(q()).await.unwrap(), 3);
    assert_eq!(queues.redrive(q()).await.unwrap(), 0);
    queues.delete(q()).await.unwrap();
    assert_eq!(queues.stats(q()).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_gets_a_message_at_once_and_who_has_hung_up_gets_none() {
    let cluster = Cluster::of(3).await;
    let q = || name("waits");
    cluster.queues(0).configure(q(), QueueSettings::default()).await.unwrap();
    for waiter in 0..3 {
        // Hangs up.
        let gone = timeout(Duration::from_millis(300), cluster.queues(waiter).receive(q(), receive(1, 30_000))).await;
        assert!(gone.is_err());
        let waiting = {
            let queues = cluster.queues((waiter + 1) % 3);
            tokio::spawn(async move { queues.receive(q(), receive(1, 30_000)).await })
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        cluster.queue(waiter, "waits").publish(Publish::new("now")).await.unwrap();
        let got = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(got.len(), 1);
        assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
        cluster.queues(waiter).ack(q(), vec![got[0].receipt.clone()]).await.unwrap();
    }
    // Nobody comes.
    let began = Instant::now();
    assert_eq!(cluster.queues(0).receive(q(), receive(1, 500)).await.unwrap(), []);
    assert!(began.elapsed() >= Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_has_no_more_out_than_it_asked_for() {
    let cluster = Cluster::of(3).await;
    let q = || name("stream");
    let all: Vec<Publish> = (0..20).map(|n| Publish::new(format!("{n}"))).collect();
    cluster.queues(0).publish(q(), all).await.unwrap();
    let mut items = cluster.queues(1).consume(q(), Consume { prefetch: 3, visibility_ms: None }).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 20 {
        let message = timeout(PATIENCE, items.recv()).await.unwrap().unwrap().unwrap();
        seen.push(String::from_utf8(message.body.to_vec()).unwrap());
        assert!(cluster.queues(2).stats(q()).await.unwrap().in_flight <= 3);
        // Acknowledged elsewhere.
        cluster.queues(2).ack(q(), vec![message.receipt]).await.unwrap();
    }
    assert_eq!(seen, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    cluster.queues(0).delete(q()).await.unwrap();
    let last = timeout(PATIENCE, items.recv()).await.unwrap().unwrap();
    assert_eq!(last.unwrap_err().code, ErrorCode::NotFound);
    assert!(items.recv().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_arrive_once_and_return_when_they_are_redriven() {
    let cluster = Cluster::of(3).await;
    let q = || name("mortal");
    let settings = QueueSettings { max_deliveries: Some(1), ..QueueSettings::default() };
    cluster.queues(0).configure(q(), settings).await.unwrap();
    let all: Vec<Publish> = (0..100).map(|n| Publish::new(format!("{n}"))).collect();
    cluster.queues(0).publish(q(), all).await.unwrap();
    let got = cluster.queues(1).receive(q(), receive(1_000, 0)).await.unwrap();
    let receipts: Vec<String> = got.into_iter().map(|message| message.receipt).collect();
    assert_eq!(cluster.queues(2).nack(q(), receipts, Some(0)).await.unwrap().done.len(), 100);
    let depth = async |queue: &str, depth: u64| {
        let view = cluster.queues(0).stats(name(queue)).await;
        view.is_ok_and(|view| view.depth == depth)
    };
    eventually("all dead letters arrive", async || depth("mortal.dead", 100).await).await;
    assert_eq!(cluster.queues(1).redrive(q()).await.unwrap(), 100);
    eventually("all of them return", async || depth("mortal", 100).await && depth("mortal.dead", 0).await).await;
}
