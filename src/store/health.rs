//! What is told of whether the journals can be written: of each, and the worst of all.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use crate::{ids::PartitionId, store::JournalHealth};

/// The health of a store: of itself (`None`) and of each open journal.
#[derive(Debug)]
pub(super) struct Board {
    all: Mutex<BTreeMap<Option<PartitionId>, JournalHealth>>,
    worst: watch::Sender<JournalHealth>,
}

impl Board {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { all: Mutex::default(), worst: watch::Sender::new(JournalHealth::Well) })
    }

    /// The worst of all, kept current.
    pub(super) fn worst(&self) -> watch::Receiver<JournalHealth> {
        self.worst.subscribe()
    }

    /// Says how one is.
    pub(super) fn set(&self, of: Option<PartitionId>, health: JournalHealth) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if health == JournalHealth::Well {
            all.remove(&of);
        } else {
            all.insert(of, health);
        }
        let worst = all.values().max_by_key(|health| rank(health)).cloned().unwrap_or_default();
        self.worst.send_if_modified(|now| {
            let changed = *now != worst;
            *now = worst;
            changed
        });
    }
}

fn rank(health: &JournalHealth) -> u8 {
    match health {
        JournalHealth::Well => 0,
        JournalHealth::Away(_) => 1,
        JournalHealth::Shortened(_) => 2,
    }
}

/// The health of one journal; well again when it is dropped.
#[derive(Debug)]
pub(super) struct Health {
    board: Arc<Board>,
    partition: PartitionId,
    own: watch::Sender<JournalHealth>,
}

impl Health {
    pub(super) fn new(board: Arc<Board>, partition: PartitionId) -> Self {
        Self { board, partition, own: watch::Sender::new(JournalHealth::Well) }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<JournalHealth> {
        self.own.subscribe()
    }

    /// Says how it is, once for each change.
    pub(super) fn set(&self, health: JournalHealth) {
        let changed = self.own.send_if_modified(|now| {
            let changed = *now != health;
            now.clone_from(&health);
            changed
        });
        if !changed {
            return;
        }
        let partition = self.partition;
        match &health {
            JournalHealth::Well => tracing::debug!(partition = partition.0, "the journal can be written again"),
            JournalHealth::Away(why) => {
                tracing::debug!(partition = partition.0, "the journal cannot be written: {why}")
            }
            JournalHealth::Shortened(why) => {
                tracing::error!(partition = partition.0, "the journal has lost what it had acknowledged: {why}");
            }
        }
        self.board.set(Some(partition), health);
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.board.set(Some(self.partition), JournalHealth::Well);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_all_is_told_until_each_is_well_or_closed() {
        let board = Board::new();
        let worst = board.worst();
        let (one, two) = (Health::new(board.clone(), PartitionId(1)), Health::new(board.clone(), PartitionId(2)));
        one.set(JournalHealth::Away("full".into()));
        two.set(JournalHealth::Shortened("gone".into()));
        board.set(None, JournalHealth::Away("away".into()));
        assert_eq!(*worst.borrow(), JournalHealth::Shortened("gone".into()));
        assert_eq!(*one.subscribe().borrow(), JournalHealth::Away("full".into()));
        two.set(JournalHealth::Well);
        assert!(matches!(&*worst.borrow(), JournalHealth::Away(_)));
        board.set(None, JournalHealth::Well);
        drop(one);
        assert_eq!(*worst.borrow(), JournalHealth::Well);
    }
}
