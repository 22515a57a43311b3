//! The consistent-hash ring: which nodes a partition belongs to, by nothing but their names.
//!
//! Pure. Each node stands at [`POINTS`] places of a circle; a partition belongs to the first nodes that follow its
//! own place (Karger et al., "Consistent Hashing and Random Trees", STOC 1997). A node that joins takes about one
//! n-th of the partitions and moves nothing else. Its results must never change between versions: all nodes of a
//! cluster agree on them, and a change would move everything.

use crate::{
    ids::{NodeId, PartitionId, QueueName},
    machine::cache::SlotId,
};

/// Places of a node on the ring: more even out the shares of the nodes, and cost as much more to sort.
pub const POINTS: u32 = 128;

/// The places of some nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ring {
    /// In the order of the places; of two nodes at one place the lesser id comes first.
    points: Vec<(u64, NodeId)>,
    nodes: usize,
}

impl Ring {
    /// The ring of these nodes, each named once.
    pub fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let mut points = Vec::new();
        let mut count = 0;
        for node in nodes {
            count += 1;
            points.extend((0..POINTS).map(|point| (place_of_node(&node, point), node)));
        }
        points.sort_unstable();
        Self { points, nodes: count }
    }

    /// The first `count` nodes from the place of a partition on, fewer where there are fewer.
    pub fn owners(&self, partition: PartitionId, count: usize) -> Vec<NodeId> {
        let wanted = count.min(self.nodes);
        let mut owners = Vec::with_capacity(wanted);
        let place = place_of_partition(partition);
        let start = self.points.partition_point(|(at, _)| *at < place);
        for (_, node) in self.points[start..].iter().chain(&self.points[..start]) {
            if owners.len() == wanted {
                break;
            }
            if !owners.contains(node) {
                owners.push(*node);
            }
        }
        owners
    }
}

impl Ring {
    /// The home of a slot of the cache; `None` where there are no nodes.
    pub fn home_of(&self, slot: SlotId) -> Option<NodeId> {
        let mut bytes = *b"slot\0\0";
        bytes[4..].copy_from_slice(&slot.0.to_be_bytes());
        let place = stable_hash(&bytes);
        let next = self.points.partition_point(|(at, _)| *at < place);
        self.points.get(next).or_else(|| self.points.first()).map(|(_, node)| *node)
    }
}

fn place_of_node(node: &NodeId, point: u32) -> u64 {
    let mut bytes = [0; 36];
    bytes[..32].copy_from_slice(node.as_bytes());
    bytes[32..].copy_from_slice(&point.to_be_bytes());
    stable_hash(&bytes)
}

fn place_of_partition(partition: PartitionId) -> u64 {
    let mut bytes = *b"partition\0\0\0\0";
    bytes[9..].copy_from_slice(&partition.0.to_be_bytes());
    stable_hash(&bytes)
}

/// The partition of a queue, among so many. Never changes between versions.
pub fn partition_of(queue: &QueueName, partitions: u32) -> PartitionId {
    PartitionId(u32::try_from(stable_hash(queue.as_str().as_bytes()) % u64::from(partitions.max(1))).unwrap_or(0))
}

/// A hash that never changes: FNV-1a of 64 bits, with the finaliser of SplitMix64 so that similar names
/// spread over all bits.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let fnv =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let mut mixed: u64 = fnv;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const PARTITIONS: u32 = 1024;

    fn node(n: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        NodeId::from_bytes(bytes)
    }

    fn ring(nodes: u32) -> Ring {
        Ring::new((0..nodes).map(node))
    }

    fn owners(ring: &Ring, count: usize) -> Vec<Vec<NodeId>> {
        (0..PARTITIONS).map(|id| ring.owners(PartitionId(id), count)).collect()
    }

    #[test]
    fn the_hash_and_the_ring_are_what_they_were_in_the_first_version() {
        assert_eq!(stable_hash(b""), 17_665_956_581_633_026_203);
        assert_eq!(stable_hash(b"orders"), 5_014_895_673_036_534_313);
        assert_eq!(partition_of(&QueueName::new("orders").unwrap(), 64), PartitionId(41));
        let five = ring(5);
        let first: Vec<Vec<NodeId>> = (0..4).map(|id| five.owners(PartitionId(id), 2)).collect();
        assert_eq!(first, [[4, 2], [4, 2], [3, 0], [0, 1]].map(|owners: [u32; 2]| owners.map(node).to_vec()));
    }

    #[test]
    fn owners_are_distinct_and_as_many_as_there_are_nodes_at_the_most() {
        for (nodes, count) in [(0, 2), (1, 2), (3, 2), (3, 7), (20, 3)] {
            for owners in owners(&ring(nodes), count) {
                let mut distinct = owners.clone();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), owners.len());
                assert_eq!(owners.len(), count.min(nodes as usize));
            }
        }
    }

    #[test]
    fn a_node_that_joins_takes_about_its_share_and_nothing_else_moves() {
        for nodes in [2, 3, 5, 10, 20, 50] {
            for copies in [1, 2, 3] {
                let (before, after) = (owners(&ring(nodes), copies), owners(&ring(nodes + 1), copies));
                let newcomer = node(nodes);
                let mut taken = 0;
                for (before, after) in before.iter().zip(&after) {
                    let others: Vec<_> = after.iter().filter(|node| **node != newcomer).copied().collect();
                    assert_eq!(others, before[..others.len()], "whoever stays keeps its place in the order");
                    taken += after.len() - others.len();
                }
                let copies_now = copies.min(nodes as usize + 1);
                let fair = PARTITIONS as f64 * copies_now as f64 / f64::from(nodes + 1);
                let share = taken as f64 / fair;
                assert!((0.6..1.4).contains(&share), "{nodes} nodes, {copies} copies: {share} of a fair share");
            }
        }
    }

    #[test]
    fn nobody_has_much_more_than_its_share() {
        let mut load = BTreeMap::new();
        for owners in owners(&ring(10), 2) {
            owners.into_iter().for_each(|node| *load.entry(node).or_insert(0_u32) += 1);
        }
        let fair = PARTITIONS * 2 / 10;
        assert!(load.values().all(|partitions| (fair * 6 / 10..fair * 14 / 10).contains(partitions)), "{load:?}");
    }
}
