//! What the replicas of a partition say to each other.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Position, Record, Replica};
use crate::ids::Epoch;

/// Most bytes of a state in one [`Message::Install`].
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

/// What a primary asks of those that follow it. Each may arrive never, twice, or after later ones.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Take these records after the one at `prev`. None: say whether you hold that one.
    Append {
        /// In which the sender is the primary.
        epoch: Epoch,
        /// What comes before them.
        prev: Position,
        /// Without gap.
        records: Vec<Record>,
        /// The number of the last committed record.
        committed: u64,
    },
    /// Take this part of the state of the queues, which replaces what you have.
    Install {
        /// In which the sender is the primary.
        epoch: Epoch,
        /// The last record that the state includes.
        at: Position,
        /// Where the part begins, in bytes.
        offset: u64,
        /// How many bytes the state has.
        total: u64,
        /// At most [`MAX_CHUNK_BYTES`].
        chunk: Bytes,
    },
}

impl Message {
    /// The epoch in which its sender is the primary.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Append { epoch, .. } | Self::Install { epoch, .. } => *epoch,
        }
    }
}

/// An answer, and whose.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Who answers.
    pub from: Replica,
    /// What.
    pub answer: Answer,
}

/// What a replica answers to a [`Message`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It holds everything up to this record of the sender's: taken in order, and synced where a record asks for it.
    Held {
        /// Its number.
        upto: u64,
    },
    /// It does not hold the record before these.
    Mismatch {
        /// The greatest of its positions at which the logs may still agree.
        last: Position,
    },
    /// What it has applied is not what the sender has: only a state can mend it.
    Diverged,
    /// It has so many bytes of the state.
    Received {
        /// From the beginning.
        upto: u64,
    },
    /// The sender is not the primary any more, or the receiver does not keep this partition.
    Stale {
        /// The newest epoch that the receiver knows.
        epoch: Epoch,
    },
    /// It cannot take this now: ask again later.
    Busy,
}
