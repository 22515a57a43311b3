//! The rules of the protocol, as switches: a test takes one away and shows that the checker notices.
//!
//! Outside tests every rule is kept, by a constant.

/// A rule that the protocol rests on. The numbers are those of the protocol's specification.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Rule {
    /// R1: a write is granted only once each sharer has acknowledged it or is certainly dead.
    SharersAcknowledge,
    /// R2: the cache counts its lease from the sending of its request.
    LeaseFromSending,
    /// R3: data is installed only if it is not older than the highest invalidation seen.
    DataNotBelowInv,
    /// R3b: a load joins an open request only before any invalidation of its key came.
    JoinBeforeInv,
    /// R4: an answer counts only for the open request that it names.
    AnswerNamesRequest,
    /// R5: an acknowledgement counts only for exactly the version that is pending.
    AckNamesVersion,
    /// R6: a new home waits for all caches before it grants anything.
    RecoverFromAll,
    /// R6b: and it does not begin that before the lease of the old home is over.
    RecoverAfterOldLease,
    /// R7: a home serves inside its own lease only.
    HomeInsideLease,
    /// R8: what names an older epoch of a slot is refused.
    EpochFence,
    /// R9: nothing of a key is granted while a write of it is pending.
    NoGrantWhileBusy,
    /// R10: a reader counts as a sharer from before its answer is sent.
    SharerBeforeAnswer,
    /// R11: a Put counts only under the grant of the owner.
    PutNamesGrant,
    /// R12: a store reads the clock, and needs a session that is alive.
    StoreInsideSession,
    /// R12: a new home takes a line only from an owner whose session is alive.
    RecoverInsideSession,
    /// R13: an owner in O or M ignores invalidations.
    OwnerIgnoresInv,
    /// R14: the nonces of one cache for one key are served in increasing order, each once.
    NonceServedOnce,
    /// R15: an Upgrade is not given up while its session lives and its line is there.
    UpgradeNotGivenUp,
    /// R16: a dirty value that was surrendered stays in the buffer until its PutAck.
    SurrenderedStaysBuffered,
    /// R16: of a live session, NotOwner says that the grant never arrived, and the home keeps its copy.
    NotOwnerNamesSession,
    /// Beyond the first specification: a miss is told to those only who came before the request was sent.
    MissBeforeSending,
    /// Beyond the first specification: a dirty value is surrendered even where the next store does not need it.
    DirtyIsSurrendered,
    /// Beyond the first specification: no load joins a request of an earlier session.
    JoinWithinSession,
    /// Beyond the first specification: until the grant of an Upgrade arrives, an owner owns the line as before.
    UpgradeKeepsGrant,
    /// Beyond the first specification: what no home asked for is told to the next home only, not to one after that.
    UntoldForNextHome,
    /// Beyond the first specification: what an owner had that its home had not is owed after its Upgrade too.
    UpgradeKeepsDirty,
    /// R14, as what is remembered is bounded: what an entry served of a cache counts, not what was forgotten of other keys.
    EntryKnowsServed,
}

#[cfg(test)]
impl Rule {
    /// All of them.
    pub(super) const ALL: [Self; 27] = [
        Self::SharersAcknowledge,
        Self::LeaseFromSending,
        Self::DataNotBelowInv,
        Self::JoinBeforeInv,
        Self::AnswerNamesRequest,
        Self::AckNamesVersion,
        Self::RecoverFromAll,
        Self::RecoverAfterOldLease,
        Self::HomeInsideLease,
        Self::EpochFence,
        Self::NoGrantWhileBusy,
        Self::SharerBeforeAnswer,
        Self::PutNamesGrant,
        Self::StoreInsideSession,
        Self::RecoverInsideSession,
        Self::OwnerIgnoresInv,
        Self::NonceServedOnce,
        Self::UpgradeNotGivenUp,
        Self::SurrenderedStaysBuffered,
        Self::NotOwnerNamesSession,
        Self::MissBeforeSending,
        Self::DirtyIsSurrendered,
        Self::JoinWithinSession,
        Self::UpgradeKeepsGrant,
        Self::UntoldForNextHome,
        Self::UpgradeKeepsDirty,
        Self::EntryKnowsServed,
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
        !self.without.contains(&rule)
    }
}
