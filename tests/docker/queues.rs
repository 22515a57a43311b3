//! Publishers and consumers of queues, and the check of what they were told.

#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/queues/api.rs"]
mod api;
#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/queues/ledger.rs"]
mod ledger;
#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/queues/load.rs"]
mod load;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::json;

use self::{
    ledger::Memories,
    load::{Consumers, VISIBILITY},
};
use crate::{
    ask::Api,
    harness::{eventually, holds},
};

/// So many, in partitions of their own, have primaries on all queue nodes.
const QUEUES: usize = 6;

/// Clients at one node.
#[derive(Debug)]
pub(crate) struct Load(load::Load);

impl Load {
    /// Begins, with queues that have this in their names.
    pub(crate) async fn start(api: &Api, name: &str) -> Self {
        let queues: Vec<String> = (0..QUEUES).map(|nth| format!("{name}-{nth}")).collect();
        for queue in &queues {
            let visibility_ms = u64::try_from(VISIBILITY.as_millis()).unwrap();
            api.configure(queue, json!({ "visibility_ms": visibility_ms })).await.ok();
        }
        let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
        Self(load::Load::start(vec![api.clone()], &queues, Consumers::FromTheStart))
    }

    /// Waits until enough publishes that were asked for after a moment have been acknowledged.
    pub(crate) async fn works_after(&self, moment: Instant) {
        self.0.works_after(moment).await;
    }

    /// Waits until publishes are refused for want of a journal; after what time the first one was.
    pub(crate) async fn is_refused_after(&self, moment: Instant) -> Duration {
        self.0.is_refused_after(moment).await
    }

    /// From a moment to the acknowledgement of the first publish that was asked for after it.
    pub(crate) fn first_after(&self, moment: Instant) -> Option<Duration> {
        self.0.so_far().first_after(moment)
    }

    /// Ends the load; checks what its clients were told.
    pub(crate) async fn checked(self, what: &str) {
        self.0.checked(&format!("{what}, queues"), Memories::Kept).await;
    }
}

/// Publishes messages with these ids, which are their bodies too.
pub(crate) async fn publish(api: &Api, queue: &str, ids: &BTreeSet<String>) {
    for id in ids {
        api.publish(queue, id).await.unwrap().ok();
    }
}

/// Receives and acknowledges until a queue has nothing left: just these messages come.
pub(crate) async fn consume(api: &Api, queue: &str, ids: &BTreeSet<String>) {
    let mut came = BTreeSet::new();
    eventually("all messages come", async || {
        let received = api.receive(queue, 100, 500).await.unwrap().ok();
        let messages = received["messages"].as_array().unwrap();
        let receipts: Vec<&str> = messages.iter().map(|message| message["receipt"].as_str().unwrap()).collect();
        if !receipts.is_empty() {
            let acknowledged = api.acknowledge(queue, &receipts).await.unwrap().ok();
            assert_eq!(acknowledged["failed"].as_array().unwrap().len(), 0, "{acknowledged}");
        }
        came.extend(messages.iter().map(|message| message["body"].as_str().unwrap().to_owned()));
        let stats = api.stats(queue).await.ok();
        let is_empty = stats["depth"] == 0 && stats["in_flight"] == 0;
        holds(is_empty && came.len() >= ids.len(), format!("{} of {} came, {stats}", came.len(), ids.len()))
    })
    .await;
    assert_eq!(came, *ids);
}
