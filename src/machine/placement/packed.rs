//! The partitions as they travel and are kept: with everyone named once, and by a number from then on.
//!
//! A view goes to every node with every change of placement, so its size counts: 64 partitions of three nodes are
//! some hundred bytes a node and some twenty a partition.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{Partition, PartitionStatus, Report};
use crate::{
    ids::{Epoch, NodeId, PartitionId},
    machine::replication::{Position, Replica},
};

/// All partitions. Those who share them share the memory.
pub type Partitions = Arc<BTreeMap<PartitionId, Partition>>;

/// Everyone, and what refers to them by their numbers.
#[derive(Default, Serialize, Deserialize)]
struct Packed {
    nodes: Vec<NodeId>,
    replicas: Vec<Replica>,
    partitions: Vec<(PartitionId, Epoch, PackedPartition)>,
}

/// Primary, in-sync set, holders that are not in it, replicas, status.
type PackedPartition = (Option<u32>, Vec<u32>, Vec<u32>, Vec<u32>, PackedStatus);

#[derive(Serialize, Deserialize)]
enum PackedStatus {
    #[serde(rename = "s")]
    Serving,
    #[serde(rename = "w")]
    Waiting(Vec<(u32, Epoch, u64, bool)>),
    #[serde(rename = "l")]
    JournalLost,
}

/// Numbers things in the order in which they come.
struct Numbers<T>(BTreeMap<T, u32>);

impl<T: Ord + Copy> Numbers<T> {
    fn of(&mut self, item: &T) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(*item).or_insert(next)
    }

    fn into_table(self) -> Vec<T> {
        let mut table: Vec<_> = self.0.into_iter().collect();
        table.sort_unstable_by_key(|(_, number)| *number);
        table.into_iter().map(|(item, _)| item).collect()
    }
}

/// Packs them: for `#[serde(with)]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(partitions: &Partitions, serializer: S) -> Result<S::Ok, S::Error> {
    let (mut nodes, mut replicas) = (Numbers(BTreeMap::new()), Numbers(BTreeMap::new()));
    let mut packed = Vec::with_capacity(partitions.len());
    for (id, partition) in partitions.iter() {
        let status = match &partition.status {
            PartitionStatus::Serving => PackedStatus::Serving,
            PartitionStatus::JournalLost => PackedStatus::JournalLost,
            PartitionStatus::Waiting { reports } => PackedStatus::Waiting(
                reports
                    .values()
                    .map(|report| {
                        let Position { epoch, seq } = report.last;
                        (replicas.of(&report.replica), epoch, seq, report.verified)
                    })
                    .collect(),
            ),
        };
        let primary = partition.primary.map(|primary| replicas.of(&primary));
        let in_sync = partition.in_sync.iter().map(|replica| replicas.of(replica)).collect();
        let only_holders = partition.holders.iter().filter(|holder| !partition.in_sync.contains(holder));
        let holders = only_holders.map(|replica| replicas.of(replica)).collect();
        let kept_by = partition.replicas.iter().map(|node| nodes.of(node)).collect();
        packed.push((*id, partition.epoch, (primary, in_sync, holders, kept_by, status)));
    }
    let (nodes, replicas) = (nodes.into_table(), replicas.into_table());
    Packed { nodes, replicas, partitions: packed }.serialize(serializer)
}

/// Unpacks them: for `#[serde(with)]`.
///
/// # Errors
/// Those of the deserializer, and where a partition refers to somebody who is not named.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Partitions, D::Error> {
    let Packed { nodes, replicas, partitions } = Packed::deserialize(deserializer)?;
    let unknown = || D::Error::custom("a partition refers to somebody who is not named");
    let node = |number: u32| nodes.get(number as usize).copied().ok_or_else(unknown);
    let replica = |number: u32| replicas.get(number as usize).copied().ok_or_else(unknown);
    let mut unpacked = BTreeMap::new();
    for (id, epoch, (primary, in_sync, holders, kept_by, status)) in partitions {
        let status = match status {
            PackedStatus::Serving => PartitionStatus::Serving,
            PackedStatus::JournalLost => PartitionStatus::JournalLost,
            PackedStatus::Waiting(reports) => {
                let report = |(number, epoch, seq, verified)| {
                    let replica = replica(number)?;
                    Ok((replica.node, Report { replica, last: Position { epoch, seq }, verified }))
                };
                PartitionStatus::Waiting { reports: reports.into_iter().map(report).collect::<Result<_, _>>()? }
            }
        };
        let in_sync: Vec<Replica> = in_sync.into_iter().map(replica).collect::<Result<_, _>>()?;
        let only_holders: Vec<Replica> = holders.into_iter().map(replica).collect::<Result<_, _>>()?;
        let partition = Partition {
            epoch,
            primary: primary.map(replica).transpose()?,
            holders: in_sync.iter().copied().chain(only_holders).collect(),
            in_sync,
            replicas: kept_by.into_iter().map(node).collect::<Result<_, _>>()?,
            status,
        };
        unpacked.insert(id, partition);
    }
    Ok(Arc::new(unpacked))
}
