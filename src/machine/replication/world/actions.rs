//! What can happen in a [`World`](super::World), and how often.

use super::Asking;
use crate::{ids::Epoch, machine::replication::Durability};

/// What may still happen, how often.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(in super::super) struct Budget {
    /// Operations, in this order.
    pub(in super::super) operations: Vec<Durability>,
    pub(in super::super) crashes: u8,
    pub(in super::super) amnesias: u8,
    /// A node is thought to be down that is not.
    pub(in super::super) suspicions: u8,
    pub(in super::super) ticks: u8,
    pub(in super::super) unknowns: u8,
    pub(in super::super) duplicates: u8,
    pub(in super::super) hand_overs: u8,
    /// The memory of the control plane of what it answered fails.
    pub(in super::super) forgotten: u8,
    /// More calls than these a machine makes only if it talks without end.
    pub(in super::super) calls: Option<u64>,
}

/// What happens next.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in super::super) enum Action {
    Propose {
        node: usize,
    },
    Deliver {
        envelope: u64,
    },
    DeliverAndKeep {
        envelope: u64,
    },
    Write {
        node: usize,
    },
    Time {
        node: usize,
    },
    View {
        node: usize,
        epoch: Epoch,
    },
    Apply {
        asking: Asking,
    },
    /// The same request once more, as if it were another.
    ApplyAgain {
        asking: Asking,
    },
    Unknown {
        asking: Asking,
    },
    Suspect {
        node: usize,
    },
    Trust {
        node: usize,
    },
    HandOver {
        to: usize,
    },
    Crash {
        node: usize,
        written: bool,
    },
    Restart {
        node: usize,
        empty: bool,
    },
    Join {
        node: usize,
    },
}

impl Action {
    /// Nothing fails by it, and no time passes.
    pub(in super::super) fn is_ordinary(&self) -> bool {
        matches!(
            self,
            Self::Deliver { .. }
                | Self::Write { .. }
                | Self::View { .. }
                | Self::Apply { .. }
                | Self::Trust { .. }
                | Self::Restart { empty: false, .. }
                | Self::Join { .. }
        )
    }
}
