//! `members leave`: asks a node to leave, and waits until it has.
//!
//! The node itself tells what came of it: it answers the call that waits, and serves its API until then. How far it is,
//! it is asked beside that.

use std::{convert::Infallible, ops::RangeInclusive, time::Duration};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Context, Failure, remote::Remote};
use crate::{
    client::{Call, ClientError},
    config::suffixed_duration,
    ids::NodeId,
    node::status::{ClusterView, DrainView},
};

/// How long a node takes at most where nobody gave it a deadline, and the longest that one call waits.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a node may be given.
const DEADLINE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// How long after the deadline the node may take to say what came of it.
const BEYOND: Duration = Duration::from_secs(10);
/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(250);
/// The bar.
const TEMPLATE: &str = "leaving: {msg} {wide_bar} {elapsed}";

/// The arguments of `members leave`.
#[derive(Debug, Args)]
pub(super) struct Leave {
    /// Ask only, and do not wait until the node has left.
    #[arg(long)]
    no_wait: bool,
    /// How long the node may take to hand its duties over, 1s to 24h; where that is not enough it stays a member, and
    /// its process ends with 1.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = deadline)]
    deadline: Duration,
}

/// A duration that a node takes for a deadline: what it would refuse is wrong usage, and is told before it is asked.
fn deadline(text: &str) -> Result<Duration, String> {
    let deadline = suffixed_duration(text)?;
    if DEADLINE.contains(&deadline) { Ok(deadline) } else { Err("expected 1s to 24h".to_owned()) }
}

impl Leave {
    pub(super) fn run(self, context: &Context, remote: &Remote) -> Result<(), Failure> {
        context.block_on_to_the_end(async {
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => {
                    if !self.no_wait {
                        remote.output.note(
                            "waits no longer; the node goes on leaving, if it was asked to already: `syncmesh members list` at another \
                             one shows it",
                        );
                    }
                    Err(Failure::Interrupted)
                }
                done = self.leave(remote) => done,
            }
        })
    }

    /// Waits longer than one call may, where the deadline is longer. The node is asked once: the repetition only waits.
    async fn until_it_has(&self, remote: &Remote) -> Result<(), ClientError> {
        let began = Instant::now();
        loop {
            let (asked, rest) = (Instant::now(), self.deadline.saturating_sub(began.elapsed()).saturating_add(BEYOND));
            let left = remote.client.leave(rest.min(PATIENCE), Some(self.deadline)).await;
            // What was answered sooner is what came of it.
            let is_answer = left.is_ok() || asked.elapsed() < PATIENCE || began.elapsed() >= self.deadline;
            if is_answer || !still_leaves(remote).await {
                return left;
            }
        }
    }

    async fn leave(&self, remote: &Remote) -> Result<(), Failure> {
        if self.no_wait {
            let call = Call::leave(Duration::ZERO, Some(self.deadline));
            return remote.act(&call, "the node leaves the cluster").await;
        }
        let node = remote.client.node().await?.peer_id;
        let held = held_by(node, &remote.client.cluster().await?);
        let bar = remote.output.bar(0, TEMPLATE);
        bar.set_message("asked to");
        let left = tokio::select! {
            left = self.until_it_has(remote) => left,
            never = follow(remote, &bar) => match never {},
        };
        bar.finish_and_clear();
        left?;
        remote.output.result(&json!({}), || format!("{node} has left the cluster{}; its process ends\n", moved(held)))
    }
}

/// Whether the node goes on leaving though the call that waited is over.
async fn still_leaves(remote: &Remote) -> bool {
    remote.client.node().await.is_ok_and(|node| node.drain.is_some_and(|drain| drain.leaves))
}

/// Shows how far it is. A look that fails is no news: the node may have left meanwhile.
async fn follow(remote: &Remote, bar: &ProgressBar) -> Infallible {
    let mut most = 0;
    loop {
        sleep(LOOK).await;
        if let Ok(Some(drain)) = remote.client.node().await.map(|node| node.drain) {
            let left = (drain.partitions + drain.slots) as u64;
            most = left.max(most);
            bar.set_length(most);
            bar.set_position(most - left);
            bar.set_message(still_to_go(&drain));
        }
    }
}

/// What a node that leaves still does for the others.
pub(super) fn still_to_go(drain: &DrainView) -> String {
    let duties = [(drain.leads, "the leadership"), (drain.votes, "its vote")];
    let duties = duties.into_iter().filter(|(has, _)| *has).map(|(_, duty)| duty.to_owned());
    let counts = [(drain.partitions, "partitions of queues"), (drain.slots, "slots of the cache")];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let left: Vec<String> = duties.chain(counts).collect();
    if left.is_empty() { "all handed over".to_owned() } else { format!("{} to go", left.join(", ")) }
}

/// How many partitions of the queues a node keeps a copy of.
fn held_by(node: NodeId, cluster: &ClusterView) -> usize {
    cluster.queue.partitions.iter().filter(|partition| partition.in_sync.contains(&node)).count()
}

fn moved(held: usize) -> String {
    match held {
        0 => String::new(),
        1 => ", and the partition that it kept is with the others".to_owned(),
        held => format!(", and the {held} partitions that it kept are with the others"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::{CacheSummary, PartitionState, PartitionView, QueuePlacement};

    #[test]
    fn a_deadline_that_no_node_takes_is_wrong_usage() {
        for given in ["1s", "1000ms", "10m", "24h"] {
            assert!(deadline(given).is_ok(), "{given}");
        }
        for given in ["0s", "999ms", "86401s", "25h"] {
            assert_eq!(deadline(given), Err("expected 1s to 24h".to_owned()), "{given}");
        }
        assert!(deadline("10").unwrap_err().contains("suffix"));
    }

    #[test]
    fn what_is_still_to_go_is_said_duty_by_duty() {
        let mut drain = DrainView { leaves: true, leads: true, votes: true, partitions: 3, slots: 85 };
        assert_eq!(
            still_to_go(&drain),
            "the leadership, its vote, 3 partitions of queues, 85 slots of the cache to go"
        );
        drain = DrainView { leads: false, votes: false, partitions: 0, ..drain };
        assert_eq!(still_to_go(&drain), "85 slots of the cache to go");
        assert_eq!(still_to_go(&DrainView { slots: 0, ..drain }), "all handed over");
    }

    #[test]
    fn what_is_still_to_be_handed_over_is_what_the_node_holds_a_copy_of() {
        let node = |n: u8| NodeId::from_bytes([n; 32]);
        let partition = |id, in_sync: &[u8]| PartitionView {
            id,
            primary: Some(node(in_sync[0])),
            replicas: vec![node(1), node(2)],
            in_sync: in_sync.iter().map(|n| node(*n)).collect(),
            epoch: 1,
            status: PartitionState::Serving,
        };
        let partitions = vec![partition(0, &[1, 2]), partition(1, &[2]), partition(2, &[2, 1])];
        let cluster = ClusterView {
            cluster_id: None,
            cluster_name: String::new(),
            epoch: 1,
            term: 1,
            leader: None,
            leaderless_ms: None,
            members: Vec::new(),
            queue: QueuePlacement { partitions, moving: None },
            cache: CacheSummary::default(),
            warnings: Vec::new(),
        };
        assert_eq!((held_by(node(1), &cluster), held_by(node(2), &cluster), held_by(node(3), &cluster)), (2, 3, 0));
    }
}
