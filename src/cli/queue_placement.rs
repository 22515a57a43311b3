//! How `status` shows where the queues are.

use std::collections::BTreeMap;

use super::output::table;
use crate::{
    ids::NodeId,
    node::status::{PartitionState, PartitionView, QueuePlacement},
};

/// What a queue node keeps.
#[derive(Clone, Copy, Default)]
struct Share {
    primaries: usize,
    in_sync: usize,
    filling: usize,
}

/// How many partitions are served, in a few words; nothing before one is placed.
pub(super) fn summary(queue: &QueuePlacement) -> Option<String> {
    let count = |wanted| queue.partitions.iter().filter(|partition| partition.status == wanted).count();
    let all = queue.partitions.len();
    if all == count(PartitionState::Unplaced) {
        return None;
    }
    let served = || queue.partitions.iter().filter(|partition| partition.status == PartitionState::Serving);
    let mut text = format!("{} of {all} partitions served", served().count());
    if let Some(fewest) = served().map(|partition| partition.in_sync.len()).min() {
        let short = served().filter(|partition| partition.in_sync.len() == fewest).count();
        let copies = if fewest == 1 { "1 copy".to_owned() } else { format!("{fewest} copies") };
        text.push_str(&match short == served().count() {
            true => format!(", each with {copies} in sync"),
            false => format!(", {short} of them with {copies} in sync, the others with more"),
        });
    }
    let others = [
        (count(PartitionState::Waiting), "waiting for a node"),
        (count(PartitionState::JournalLost), "with lost journals"),
        (count(PartitionState::Unplaced), "not placed yet"),
    ];
    for (count, what) in others.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!(", {count} {what}"));
    }
    // Where no leader was asked, what can be seen is what is being filled up.
    let moving = queue.moving.unwrap_or_else(|| served().filter(|partition| is_filling(partition)).count());
    if moving > 0 {
        text.push_str(&format!("; moving {moving} of {all}"));
    }
    Some(text)
}

fn is_filling(partition: &PartitionView) -> bool {
    partition.replicas.iter().any(|node| !partition.in_sync.contains(node))
}

/// What each queue node keeps, as a table; nothing where none keeps anything.
pub(super) fn shares(queue: &QueuePlacement) -> String {
    let mut shares: BTreeMap<NodeId, Share> = BTreeMap::new();
    for partition in &queue.partitions {
        if let Some(primary) = partition.primary {
            shares.entry(primary).or_default().primaries += 1;
        }
        for node in &partition.in_sync {
            shares.entry(*node).or_default().in_sync += 1;
        }
        for node in partition.replicas.iter().filter(|node| !partition.in_sync.contains(node)) {
            shares.entry(*node).or_default().filling += 1;
        }
    }
    if shares.is_empty() {
        return String::new();
    }
    let row = |(node, share): (&NodeId, &Share)| {
        [node.to_string(), share.primaries.to_string(), share.in_sync.to_string(), share.filling.to_string()]
    };
    table(["QUEUE NODE", "PRIMARY OF", "IN SYNC", "TO FILL UP"], shares.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn partition(id: u32, replicas: &[u8], in_sync: &[u8], status: PartitionState) -> PartitionView {
        let nodes = |nodes: &[u8]| nodes.iter().map(|n| node(*n)).collect::<Vec<_>>();
        let primary = (status == PartitionState::Serving).then(|| node(in_sync[0]));
        PartitionView { id, primary, replicas: nodes(replicas), in_sync: nodes(in_sync), epoch: 1, status }
    }

    #[test]
    fn a_calm_placement_is_one_short_sentence() {
        let partitions = vec![
            partition(0, &[1, 2], &[1, 2], PartitionState::Serving),
            partition(1, &[2, 3], &[2, 3], PartitionState::Serving),
        ];
        let text = summary(&QueuePlacement { partitions, moving: Some(0) });
        assert_eq!(text.as_deref(), Some("2 of 2 partitions served, each with 2 copies in sync"));
    }

    #[test]
    fn what_is_not_as_it_should_be_is_counted() {
        let partitions = vec![
            partition(0, &[1, 2], &[1], PartitionState::Serving),
            partition(1, &[2, 3], &[2, 3], PartitionState::Serving),
            partition(2, &[2, 3], &[2], PartitionState::Waiting),
        ];
        let mut queue = QueuePlacement { partitions, moving: None };
        let expected =
            "2 of 3 partitions served, 1 of them with 1 copy in sync, the others with more, 1 waiting for a node";
        assert_eq!(summary(&queue), Some(format!("{expected}; moving 1 of 3")));
        for (moving, said) in [(0, ""), (2, "; moving 2 of 3")] {
            queue.moving = Some(moving);
            assert_eq!(summary(&queue), Some(format!("{expected}{said}")));
        }
        assert_eq!(shares(&queue).lines().count(), 4, "{}", shares(&queue));
    }

    #[test]
    fn a_cluster_without_queues_says_nothing_of_them() {
        let partitions = vec![partition(0, &[], &[], PartitionState::Unplaced)];
        let queue = QueuePlacement { partitions, moving: None };
        assert_eq!((summary(&queue), shares(&queue)), (None, String::new()));
    }
}
