//! Lists the queues of all partitions, from all who serve some.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use tokio::time::Instant;

use super::{
    hosting::cut,
    router::Router,
    types::QueueView,
    wire::{QueueAsk, QueueReply, Range},
};
use crate::{
    error::{Error, Outcome},
    ids::{NodeId, PartitionId},
};

/// How long partitions that are not served are looked for again.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause before it.
const PAUSE: Duration = Duration::from_millis(50);

/// A page of the queues in the order of their names, and whether there are further ones.
pub(super) async fn list(router: &Router, range: Range) -> Result<(Vec<QueueView>, bool), Error> {
    let count = router.partitions().await?;
    let deadline = Instant::now() + PATIENCE;
    let mut left: Vec<PartitionId> = (0..count).map(PartitionId).collect();
    let (mut queues, mut more) = (Vec::new(), false);
    loop {
        let (asked, mut unserved) = by_primary(router, &left);
        let answers = asked.into_iter().map(|(node, partitions)| {
            let ask = QueueAsk::List { partitions: partitions.clone(), range: range.clone() };
            async move { (partitions, router.ask_node(node, ask).await) }
        });
        for (partitions, reply) in join_all(answers).await {
            match reply {
                Some(QueueReply::Listed { queues: some, more: further, unserved: not_here }) => {
                    queues.extend(some);
                    more |= further;
                    more |= cut(&mut queues, range.limit);
                    unserved.extend(not_here);
                }
                _ => unserved.extend(partitions),
            }
        }
        if unserved.is_empty() {
            return Ok((queues, more));
        }
        if Instant::now() >= deadline {
            let names = unserved.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(Error::unavailable(
                Outcome::NotApplied,
                format!(
                    "the list would lack the queues of partitions {names}, which nobody serves now: `syncmesh status` shows why"
                ),
            ));
        }
        left = unserved;
        tokio::time::sleep(PAUSE).await;
    }
}

fn by_primary(router: &Router, partitions: &[PartitionId]) -> (BTreeMap<NodeId, Vec<PartitionId>>, Vec<PartitionId>) {
    let view = router.route.view();
    let (mut asked, mut unserved) = (BTreeMap::<NodeId, Vec<PartitionId>>::new(), Vec::new());
    for partition in partitions {
        match view.partitions.get(partition).and_then(|placed| placed.primary) {
            Some(primary) => asked.entry(primary.node).or_default().push(*partition),
            None => unserved.push(*partition),
        }
    }
    (asked, unserved)
}
