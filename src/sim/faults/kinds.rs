//! The kinds of faults, and how it shows that one happened.

use rand::{Rng, RngExt};

use crate::sim::network::Happened;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FaultKind {
    /// A process is killed and started again after the duration.
    Kill,
    /// A process is killed and started again within milliseconds, several times.
    Bounce,
    /// All processes are killed and started again after the duration.
    KillAll,
    /// A process is stopped (SIGSTOP) for the duration.
    Stop,
    /// A machine is suspended for the duration.
    Suspend,
    /// A process is asked to hand its duties over and to end (SIGTERM), killed if it has not done so
    /// after the duration, and started again.
    Retire,
    /// A machine gets an empty disk while all are up, and joins as new after the duration. Once in a
    /// run at most: what a quorum had synced is not lost then.
    Wipe,
    /// The leader is killed, and whoever is elected next is cut off at that moment, while all others
    /// are killed and started again: they must remember whom they have just voted for.
    Coup,
    /// The machines are parted in two; nothing passes.
    Partition,
    /// Nothing passes from one machine to some others; the other direction works.
    OneWay,
    /// Nothing passes between two machines, which both reach the others (a partial partition:
    /// Alquraan et al., "An Analysis of Network-Partitioning Failures in Cloud Systems", 2018).
    Cut,
    /// Many messages are lost.
    Loss,
    /// Many messages take long.
    Slow,
    /// Many requests arrive twice.
    Duplicate,
    /// A wall clock jumps, forward or back.
    WallJump,
    /// A node leaves the cluster for good, and joins as a new one after the duration. Not a founder.
    Leave,
    /// Journals cannot be written: a Redis is away that one or several machines use.
    JournalAway,
    /// A journal loses its tail while its node runs, which writes it anew from memory.
    JournalCut,
    /// A process is killed, and started again after the duration on a journal that has lost its tail.
    JournalBehind,
    /// A process is killed, and started again after the duration on an empty journal.
    JournalEmpty,
    /// Two processes are killed. One is started again once both are known to be down, on a journal that has
    /// lost its tail; the other one after the duration, longer than the dead are waited for, on a journal that
    /// has everything.
    Stranded,
}

impl FaultKind {
    /// Whether it takes processes, each of which one fault can have at a time.
    pub(super) fn hits_processes(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::Bounce
                | Self::KillAll
                | Self::Stop
                | Self::Suspend
                | Self::Retire
                | Self::Wipe
                | Self::Coup
                | Self::Leave
                | Self::JournalBehind
                | Self::JournalEmpty
                | Self::Stranded
        )
    }

    /// Whether it needs an occasion, which a run may never offer.
    pub fn needs_an_occasion(self) -> bool {
        matches!(self, Self::Wipe | Self::Coup | Self::Leave) || self.loses_journal()
    }

    /// Whether a journal loses what it had synced: another one must have all of it.
    pub(super) fn loses_journal(self) -> bool {
        matches!(self, Self::JournalCut | Self::JournalBehind | Self::JournalEmpty | Self::Stranded)
    }

    /// Whether the machine comes back as another node.
    pub(super) fn takes_identities(self) -> bool {
        matches!(self, Self::Wipe | Self::Leave)
    }

    /// How long it lasts at least, in milliseconds.
    pub(super) fn lasts_at_least_ms(self) -> u64 {
        match self {
            // It takes an election, and one that others may hold up.
            Self::Coup => 3_000,
            // Longer than the dead are waited for, and some for those who decide that.
            Self::Stranded => 5_500,
            // It takes a drain.
            Self::Leave => 2_500,
            _ => 0,
        }
    }

    /// How many machines it hits.
    pub(super) fn victims(self, machines: usize, dice: &mut impl Rng) -> usize {
        match self {
            Self::Partition => dice.random_range(1..=machines.div_ceil(2)).min(machines - 1),
            Self::OneWay => dice.random_range(2..=machines),
            Self::JournalAway => dice.random_range(1..=machines),
            Self::KillAll => machines,
            Self::Cut | Self::Stranded => 2,
            Self::Loss | Self::Slow | Self::Duplicate => 0,
            _ => 1,
        }
    }

    /// What the tally must show if a fault of this kind really happened.
    pub fn evidence(self) -> &'static [Happened] {
        match self {
            Self::Kill | Self::Bounce | Self::KillAll => &[Happened::Killed, Happened::Restarted],
            Self::Stop => &[Happened::Stopped],
            Self::Retire => &[Happened::Retired],
            Self::Wipe => &[Happened::Wiped],
            Self::Coup => &[Happened::Overthrown],
            Self::Suspend => &[Happened::Suspended],
            Self::Partition | Self::OneWay | Self::Cut => &[Happened::Blocked],
            Self::Loss => &[Happened::RequestLost, Happened::AnswerLost],
            Self::Slow => &[Happened::DelayedLong, Happened::Reordered],
            Self::Duplicate => &[Happened::Duplicated],
            Self::WallJump => &[Happened::WallJumped],
            Self::Leave => &[Happened::Left],
            Self::JournalAway => &[Happened::JournalAway],
            Self::JournalCut => &[Happened::JournalCut],
            Self::JournalBehind | Self::Stranded => &[Happened::JournalBehind],
            Self::JournalEmpty => &[Happened::JournalEmptied],
        }
    }
}
