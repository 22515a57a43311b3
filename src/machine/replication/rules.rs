//! The rules of the protocol, as switches: a test takes one away and shows that the checker notices.
//!
//! Outside tests every rule is kept, by a constant.

#[cfg(test)]
use crate::mutant::{self, Mutant};

/// A rule that the protocol rests on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Rule {
    /// A replica serves only as the run and with the journal that the placement names.
    ServeAsNamed,
    /// An answer counts for the member of the in-sync set only if that run, with that journal, gave it.
    AnswerAsNamed,
    /// Who is proposed for the in-sync set counts from the proposal.
    GrowCountsFromProposal,
    /// Nobody is proposed before it holds everything that is committed.
    GrowHoldsCommitted,
    /// Who leaves the in-sync set counts until it is known to be confirmed that the others go on without it.
    LeavingCountsUntilConfirmed,
    /// An older epoch than the known one is refused.
    OlderEpochRefused,
    /// An epoch older than that of the replica's own last record is refused, too.
    OwnRecordsAreNotNewer,
    /// A replica takes nothing while an earlier run of it is in the in-sync set.
    EarlierRunHasLeft,
    /// A newer epoch than the known one is taken only after its placement is known.
    NewerEpochAwaitsView,
    /// A replica never cuts what it knows to be committed.
    CommittedIsNeverCut,
    /// A new primary serves only once its own first record is committed.
    FirstRecordBeforeServing,
    /// Committed is what every member holds, not what the primary holds.
    EveryMemberHolds,
    /// What must be synced is held once it is synced: by a backup.
    BackupSyncs,
    /// What must be synced is held once it is synced: by the primary.
    PrimarySyncs,
    /// Records are taken only after the one that they follow.
    PositionsMatch,
    /// A replica answers only for what it has compared with this primary's log in this epoch.
    HeldWhereCompared,
    /// A replica takes as committed only what it has compared with this primary's log in this epoch.
    CommittedWhereCompared,
    /// What was answered in an earlier reign counts no more.
    ReignBeginsAnew,
    /// What is cut from the journal is durable no more, whatever of it was under way.
    CutIsNotDurable,
    /// Nobody who counts is sent a state: it holds everything.
    MembersTakeNoState,
}

#[cfg(test)]
impl Rule {
    /// Whether the whole cluster does without it: a mutant.
    fn is_lacking(self) -> bool {
        match self {
            Self::EveryMemberHolds => mutant::on(Mutant::CommittedByPrimaryAlone),
            Self::LeavingCountsUntilConfirmed => mutant::on(Mutant::ShrinkCountsFromProposal),
            _ => false,
        }
    }

    /// All of them.
    pub(super) const ALL: [Self; 20] = [
        Self::ServeAsNamed,
        Self::AnswerAsNamed,
        Self::GrowCountsFromProposal,
        Self::GrowHoldsCommitted,
        Self::LeavingCountsUntilConfirmed,
        Self::OlderEpochRefused,
        Self::OwnRecordsAreNotNewer,
        Self::EarlierRunHasLeft,
        Self::NewerEpochAwaitsView,
        Self::CommittedIsNeverCut,
        Self::FirstRecordBeforeServing,
        Self::EveryMemberHolds,
        Self::BackupSyncs,
        Self::PrimarySyncs,
        Self::PositionsMatch,
        Self::HeldWhereCompared,
        Self::CommittedWhereCompared,
        Self::ReignBeginsAnew,
        Self::CutIsNotDurable,
        Self::MembersTakeNoState,
    ];
}

/// Which rules are kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Rules {
    #[cfg(test)]
    pub(super) without: Vec<Rule>,
}

impl Rules {
    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "in tests it is asked")]
    pub(super) const fn keep(&self, _: Rule) -> bool {
        true
    }

    #[cfg(test)]
    pub(super) fn keep(&self, rule: Rule) -> bool {
        !self.without.contains(&rule) && !rule.is_lacking()
    }
}
