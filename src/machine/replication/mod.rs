//! Primary-backup replication of one partition's log, with epochs and an in-sync set: a pure state machine.

mod interface;
mod messages;
mod types;

pub use self::{interface::*, messages::*, types::*};
use crate::ids::{Epoch, PartitionId, Tick};

/// One replica of one partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replication {
    me: Replica,
    partition: PartitionId,
    settings: Settings,
}

impl Replication {
    /// A replica with what its journal held. It does nothing before the first [`Input::Placed`].
    ///
    /// One machine for a partition in one run of a node: a second one could hold less than the first has answered
    /// for, under the same name. (After the partition was given away and its journal removed, another one is fine.)
    pub fn new(me: Replica, partition: PartitionId, settings: Settings, recovered: Recovered) -> Self {
        let _ = recovered;
        Self { me, partition, settings }
    }

    /// Takes one input; what is to be done is appended to `effects`, to be done in that order.
    pub fn step(&mut self, now: Tick, input: Input, effects: &mut Vec<Effect>) {
        let _ = (now, input, effects, self.partition, self.settings);
    }

    /// When [`Input::Tick`] is due, on the clock of [`Replication::step`].
    pub fn deadline(&self) -> Option<Tick> {
        None
    }

    /// Who this is.
    pub fn me(&self) -> Replica {
        self.me
    }

    /// What it is for its partition.
    pub fn role(&self) -> RoleView {
        RoleView::None
    }

    /// The newest epoch that it knows.
    pub fn epoch(&self) -> Epoch {
        Epoch(0)
    }

    /// The primary of that epoch.
    pub fn primary(&self) -> Option<Replica> {
        None
    }

    /// The last record that is known to be committed, and so was applied.
    pub fn committed(&self) -> Position {
        Position::default()
    }

    /// The last record.
    pub fn last(&self) -> Position {
        Position::default()
    }

    /// Whether a publish is as safe as `QUEUE_MIN_IN_SYNC` asks: ask before it is proposed, and again before its
    /// commit is told as a success (a copy may have been lost in between).
    pub fn enough_copies(&self) -> bool {
        false
    }
}
