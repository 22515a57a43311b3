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

/// Queues in the order of their names.
pub(super) struct Listed {
    pub(super) queues: Vec<QueueView>,
    /// Whether there are further ones.
    pub(super) more: bool,
    /// Partitions that nobody serves now, in the order of their numbers.
    pub(super) unserved: Vec<PartitionId>,
}

/// A page of the queues, of those partitions that are served.
///
/// # Errors
/// `unavailable` where none is.
pub(super) async fn list(router: &Router, range: Range) -> Result<Listed, Error> {
    let count = router.partitions().await?;
    let deadline = Instant::now() + PATIENCE;
    let mut left: Vec<PartitionId> = (0..count).map(PartitionId).collect();
    let all = left.len();
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
        unserved.sort_unstable();
        let is_over = unserved.is_empty() || Instant::now() >= deadline;
        if is_over && !unserved.is_empty() && unserved.len() == all {
            return Err(Error::unavailable(
                Outcome::NotApplied,
                "nobody serves a partition of the queues now: `syncmesh status` shows why",
            ));
        }
        if is_over {
            return Ok(Listed { queues, more, unserved });
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
