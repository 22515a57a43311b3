//! How whoever serves a question says that its answer has to wait for somebody else.

use std::sync::Arc;

use tokio::sync::Notify;

/// Told once a question waits for what others will do. The exchange that brought it is then answered without it: it is not
/// to be held back for an answer that will not come soon, with all that follows in line behind it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parking(Arc<Notify>);

impl Parking {
    /// The question waits from here on.
    pub(crate) fn park(&self) {
        self.0.notify_one();
    }

    /// Resolves once it does.
    pub(crate) async fn parked(&self) {
        self.0.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::{
        config::{Config, Switch},
        ids::{LockName, QueueName},
        machine::{
            control::{Change, ChangeBody},
            lock::{Acquire, LockRequest, Mode, Want},
            placement::partition_of,
            queue::Receipt,
        },
        node::{
            Node,
            queues::{
                Publish,
                wire::{PartitionAsk, QueueAsk, QueueReply},
            },
            wire::{ClientAsk, ClientReply},
        },
    };

    const PATIENCE: Duration = Duration::from_secs(20);
    const LONG_MS: u64 = 60_000;

    /// A cluster of one, once it does everything.
    async fn lone_node() -> (Node, TempDir) {
        let data_dir = TempDir::new().unwrap();
        let config = Config {
            data_dir: data_dir.path().to_owned(),
            listen_addrs: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            mdns: Switch::Off,
            bootstrap_expect: Some(1),
            queue_partitions: 1,
            ..Config::default()
        };
        let node = Node::start(config).await.unwrap();
        let ready = async {
            while !node.readiness().await.ready {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready).await.expect("a cluster of one founds itself");
        (node, data_dir)
    }

    /// That a question is parked while its answer is still to come.
    async fn waits<T: std::fmt::Debug>(served: impl Future<Output = T>, parking: &Parking) {
        let parked = async {
            tokio::select! {
                answer = served => panic!("answered without waiting: {answer:?}"),
                () = parking.parked() => {}
            }
        };
        timeout(PATIENCE, parked).await.expect("it says that it waits");
    }

    /// That a question is answered, and was never parked.
    async fn is_answered<T>(served: impl Future<Output = T>, parking: &Parking) -> T {
        let answer = timeout(PATIENCE, served).await.expect("it is answered");
        let parked = futures::FutureExt::now_or_never(parking.parked());
        assert!(parked.is_none(), "it did not wait for anybody");
        answer
    }

    #[tokio::test]
    async fn a_receive_and_a_consumer_that_wait_say_so() {
        let (node, _data_dir) = lone_node().await;
        let queue = QueueName::new("jobs").unwrap();
        node.queue(queue.clone()).publish(Publish::new("one")).await.unwrap();
        let hosting = &node.running.queues.router.hosting;
        let ask = |ask| QueueAsk::At { partition: partition_of(&queue, 1), ask };
        let receive = |attempt, wait_ms| {
            ask(PartitionAsk::Receive { queue: queue.clone(), max: 1, visibility_ms: None, wait_ms, attempt })
        };
        let parking = Parking::default();
        let delivered = is_answered(hosting.serve(receive(1, LONG_MS), &parking), &parking).await;
        let QueueReply::Delivered(messages) = delivered else { panic!("{delivered:?}") };
        let receipts: Vec<Receipt> = messages.iter().filter_map(|message| message.receipt).collect();
        assert_eq!(receipts.len(), 1);

        let over = ask(PartitionAsk::Await { queue: queue.clone(), receipts, wait_ms: LONG_MS });
        waits(hosting.serve(over, &parking), &parking).await;
        waits(hosting.serve(receive(2, LONG_MS), &parking), &parking).await;
        is_answered(hosting.serve(receive(3, 0), &parking), &parking).await;
    }

    #[tokio::test]
    async fn an_acquire_and_a_watch_that_wait_say_so() {
        let (node, _data_dir) = lone_node().await;
        let (locks, running) = (node.locks(), &node.running);
        let lock = LockName::new("report").unwrap();
        let _held = locks.lock(lock.clone()).acquire().await.unwrap();
        let authority = running.authority.as_ref().unwrap();
        let session = locks.open_session(None, None, None).await.unwrap().session;
        let acquire = |wait_ms| {
            let wants = vec![Want { lock: lock.clone(), mode: Mode::Exclusive }];
            let acquire = Acquire { session: session.clone(), open: None, wants, wait_ms, lock_delay_ms: 0 };
            let request = running.gateway.begin();
            let body = ChangeBody::Lock(LockRequest::Acquire(acquire));
            let change = Change { request: request.id(), done: request.done(), key: None, body };
            (request, ClientAsk::Change(change))
        };
        let parking = Parking::default();
        let (_open, ask) = acquire(LONG_MS);
        waits(authority.serve(node.id(), ask, &parking), &parking).await;
        let (_open, ask) = acquire(0);
        is_answered(authority.serve(node.id(), ask, &parking), &parking).await;

        let watch = |after| ClientAsk::Watch { lock: lock.clone(), after };
        let first = is_answered(authority.serve(node.id(), watch(None), &parking), &parking).await;
        let ClientReply::Watched { next, .. } = first else { panic!("{first:?}") };
        waits(authority.serve(node.id(), watch(Some(next)), &parking), &parking).await;
    }
}
