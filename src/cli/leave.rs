//! `members leave`: asks a node to leave, and waits until it has.
//!
//! The node itself tells what came of it: it answers the one call that waits, and serves its API until then. How far
//! it is, is looked up beside that.

use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::sleep;

use super::{Context, Failure, remote::Remote};
use crate::{client::Call, ids::NodeId, node::status::ClusterView};

/// How long a node may take: longer than any `SHUTDOWN_GRACE` that makes sense.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(250);
/// The bar.
const TEMPLATE: &str = "leaving: {pos} of {len} partitions handed over {wide_bar} {elapsed}";

/// The arguments of `members leave`.
#[derive(Debug, Args)]
pub(super) struct Leave {
    /// Ask only, and do not wait until the node has left.
    #[arg(long)]
    no_wait: bool,
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

    async fn leave(&self, remote: &Remote) -> Result<(), Failure> {
        if self.no_wait {
            return remote.act(&Call::leave(Duration::ZERO), "the node leaves the cluster").await;
        }
        let node = remote.client.node().await?.peer_id;
        let held = held_by(node, &remote.client.cluster().await?);
        let bar = remote.output.bar(held as u64, TEMPLATE);
        let left = tokio::select! {
            left = remote.client.leave(PATIENCE) => left,
            never = follow(remote, node, held, &bar) => match never {},
        };
        bar.finish_and_clear();
        left?;
        remote.output.result(&json!({}), || format!("{node} has left the cluster{}; its process ends\n", moved(held)))
    }
}

/// Shows how far it is. A look that fails is no news: the node may have left meanwhile.
async fn follow(remote: &Remote, node: NodeId, held: usize, bar: &ProgressBar) -> std::convert::Infallible {
    loop {
        sleep(LOOK).await;
        if let Ok(cluster) = remote.client.cluster().await {
            bar.set_position(held.saturating_sub(held_by(node, &cluster)) as u64);
        }
    }
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
            members: Vec::new(),
            queue: QueuePlacement { partitions, moving: None },
            cache: CacheSummary::default(),
            warnings: Vec::new(),
        };
        assert_eq!((held_by(node(1), &cluster), held_by(node(2), &cluster), held_by(node(3), &cluster)), (2, 3, 0));
    }
}
