//! The keys in Redis: all of a cluster in one hash slot, all of a node under one prefix.

use crate::ids::{ClusterId, NodeId, PartitionId};

/// What all journals of all clusters match.
pub(super) const ALL: &str = "syncmesh:{*}:journal:*";

/// The keys of one node of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    cluster: String,
    own: String,
}

impl Keys {
    pub(super) fn new(cluster: ClusterId, node: NodeId) -> Self {
        let cluster = format!("syncmesh:{{{cluster}}}:journal:");
        Self { own: String::new(), cluster }.of(node)
    }

    /// Those of another node of the same cluster.
    pub(super) fn of(&self, node: NodeId) -> Self {
        Self { own: format!("{}{node}:", self.cluster), cluster: self.cluster.clone() }
    }

    /// What all keys of this node match.
    pub(super) fn own_pattern(&self) -> String {
        format!("{}*", self.own)
    }

    /// The journal's id.
    pub(super) fn id(&self) -> String {
        format!("{}id", self.own)
    }

    /// The stream of a partition.
    pub(super) fn stream(&self, partition: PartitionId) -> String {
        format!("{}{partition}", self.own)
    }

    /// A checkpoint of a partition.
    pub(super) fn checkpoint(&self, partition: PartitionId, open: u64, attempt: u64) -> String {
        format!("{}{partition}:checkpoint:{open}-{attempt}", self.own)
    }

    /// What a key is for.
    pub(super) fn tell(&self, key: &str) -> Told {
        let Some(rest) = key.strip_prefix(&self.own) else {
            return if key.starts_with(&self.cluster) { Told::AnotherNode } else { Told::AnotherCluster };
        };
        match rest.split_once(":checkpoint:") {
            Some((partition, _)) => partition.parse().map_or(Told::Unknown, |of| Told::Checkpoint(PartitionId(of))),
            None => rest.parse().map_or(Told::Unknown, |of| Told::Stream(PartitionId(of))),
        }
    }
}

/// What a key is for, as its name tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// The stream of a partition of this node.
    Stream(PartitionId),
    /// A checkpoint of one.
    Checkpoint(PartitionId),
    /// Something else of this node.
    Unknown,
    /// Of another node of this cluster.
    AnotherNode,
    /// Of another cluster.
    AnotherCluster,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_whose_it_is() {
        let node = |byte| NodeId::from_bytes([byte; 32]);
        let keys = Keys::new(ClusterId(5), node(1));
        assert!(
            keys.stream(PartitionId(12)).starts_with("syncmesh:{00000000000000000000000000000005}:journal:12D3Koo")
        );
        assert_eq!(keys.tell(&keys.stream(PartitionId(12))), Told::Stream(PartitionId(12)));
        assert_eq!(keys.tell(&keys.checkpoint(PartitionId(12), 3, 4)), Told::Checkpoint(PartitionId(12)));
        assert_eq!(keys.tell(&keys.id()), Told::Unknown);
        assert_eq!(keys.tell(&Keys::new(ClusterId(5), node(2)).id()), Told::AnotherNode);
        assert_eq!(keys.tell(&Keys::new(ClusterId(6), node(1)).id()), Told::AnotherCluster);
    }
}
