//! What survives the processes of a machine, as far as faults reach it from outside.

use std::sync::Arc;

use crate::store::memory::MemoryDisk;

/// The disks of all machines, by machine and by how many disks it had before.
pub trait Disks {
    /// What the queues are journalled on.
    fn journal(&self, index: usize, disk: u64) -> Option<Arc<MemoryDisk>>;

    /// Whether the node on it has left its cluster for good: whoever starts there is somebody new.
    fn has_left(&self, index: usize, disk: u64) -> bool;
}

/// Machines on which there is nothing of the kind.
pub struct NoDisks;

impl Disks for NoDisks {
    fn journal(&self, _index: usize, _disk: u64) -> Option<Arc<MemoryDisk>> {
        None
    }

    fn has_left(&self, _index: usize, _disk: u64) -> bool {
        false
    }
}
