//! What really happened to the messages and processes of a run, counted where it happened.

use std::{collections::BTreeMap, fmt};

/// Something that is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Happened {
    /// A request was sent.
    RequestSent,
    /// A request reached its peer (copies not counted).
    RequestDelivered,
    /// An answer reached the asker.
    AnswerDelivered,
    /// A message was broadcast to a peer.
    GossipSent,
    /// A request vanished.
    RequestLost,
    /// An answer vanished.
    AnswerLost,
    /// A broadcast did not reach a peer.
    GossipLost,
    /// A message took one of the rare long delays.
    DelayedLong,
    /// A request arrived twice.
    Duplicated,
    /// A message arrived after one that was sent later over the same link.
    Reordered,
    /// A message was stopped by a partition.
    Blocked,
    /// A call ended without an answer in time.
    TimedOut,
    /// A connection came up.
    LinkUp,
    /// A connection was lost.
    LinkDown,
    /// A process was killed.
    Killed,
    /// A process was started again.
    Restarted,
    /// A process was stopped (SIGSTOP) and went on later.
    Stopped,
    /// A machine was suspended and went on later.
    Suspended,
    /// A wall clock was set.
    WallJumped,
    /// A process was asked to hand its duties over and to end (SIGTERM).
    Retired,
    /// A machine got an empty disk, and with it a new identity.
    Wiped,
    /// A leader was cut off the moment it was elected, and its voters restarted.
    Overthrown,
    /// The leader said that others vote than before.
    VotersChanged,
    /// A node left the cluster for good, and its machine came back as another one.
    Left,
    /// The journal of a machine could not be written for a while.
    JournalAway,
    /// A journal lost records that it had synced while its node ran.
    JournalCut,
    /// A node came back to a journal that had lost records which it had synced.
    JournalBehind,
    /// A node came back to an empty journal.
    JournalEmptied,
    /// A partition of the queues was given to another primary.
    PrimaryChanged,
    /// Others are in sync of a partition than before.
    InSyncChanged,
    /// A node was home to a slot of the cache for the first time.
    HomeJoined,
    /// A slot of the cache was handed over to another home.
    HomeMoved,
    /// A slot of the cache got another home because the one before died.
    HomeFollowed,
}

/// Counts by kind.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally(BTreeMap<Happened, u64>);

impl Tally {
    /// Counts one.
    pub fn count(&mut self, what: Happened) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Counts what another run counted, too.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(*what).or_default() += count;
        }
    }

    /// How often it happened.
    pub fn of(&self, what: Happened) -> u64 {
        self.0.get(&what).copied().unwrap_or(0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (what, count)) in self.0.iter().enumerate() {
            write!(f, "{}{what:?} {count}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
