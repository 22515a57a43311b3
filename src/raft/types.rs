//! The types that openraft is instantiated with.
//!
//! Owns the contract between Raft and what it replicates ([`Replicated`]), and the payload of a log
//! entry ([`Batch`]). Knows no command: the state machine and its commands come from `machine`.

use std::{
    cmp::Ordering,
    fmt::{self, Debug},
    marker::PhantomData,
};

use openraft::{
    EmptyNode, EntryPayload, OptionalSend, RaftTypeConfig, StoredMembership,
    impls::{BoxedErrorSource, InlineBatch, ProgressResponder, TokioRuntime},
    vote::leader_id_std,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::ids::{NodeId, Term, Tick};

/// What Raft replicates: a deterministic state machine.
pub trait Replicated: Default + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// One change of the state.
    type Command: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the proposer of a command is told.
    type Answer: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What happened, for those who listen on every lock manager.
    type Effect: Clone + Debug + Send + 'static;

    /// Applies one command of an entry. `at` is the entry's time, already made monotone: no entry
    /// has an earlier one than the entry before it.
    fn apply(
        &mut self,
        at: Tick,
        term: Term,
        index: u64,
        command: Self::Command,
        effects: &mut Vec<Self::Effect>,
    ) -> Self::Answer;

    /// What a mutant loses when its node starts anew.
    #[cfg(test)]
    fn lose_counters(&mut self) {}
}

/// The payload of a log entry: commands that were proposed together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "C: Serialize", deserialize = "C: DeserializeOwned"))]
pub struct Batch<C> {
    /// The proposer's wall clock.
    pub at: Tick,
    /// In the order in which they are applied.
    pub commands: Vec<C>,
}

impl<C> fmt::Display for Batch<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands of {} ms", self.commands.len(), self.at.0)
    }
}

/// The type configuration of openraft for a replicated state `S`.
pub struct Types<S>(PhantomData<fn() -> S>);

impl<S> Clone for Types<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Types<S> {}

impl<S> Default for Types<S> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<S> Debug for Types<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<S> PartialEq for Types<S> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<S> Eq for Types<S> {}

impl<S> PartialOrd for Types<S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<S> Ord for Types<S> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<S: Replicated> RaftTypeConfig for Types<S> {
    type D = Batch<S::Command>;
    type R = Vec<S::Answer>;
    type NodeId = NodeId;
    type Node = EmptyNode;
    type Term = u64;
    // One leader per term, as in the Raft paper: a term then names its leader, and entries may
    // refer to it.
    type LeaderId = leader_id_std::LeaderId<u64, NodeId>;
    type Vote = Vote;
    type Payload = Payload<S>;
    type Entry = openraft::Entry<CommittedLeader, Self::Payload>;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// A leader whom a quorum elected: its term, of which no other node is leader.
pub(crate) type CommittedLeader = leader_id_std::CommittedLeaderId<u64>;
/// A log id: term and index.
pub(crate) type LogId = openraft::LogId<CommittedLeader>;
/// A vote: term, candidate or leader, and whether a quorum granted it.
pub(crate) type Vote = openraft::Vote<leader_id_std::LeaderId<u64, NodeId>>;
/// Voters and learners as of a log id.
pub(crate) type Membership = StoredMembership<CommittedLeader, NodeId, EmptyNode>;
/// What a snapshot covers.
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, NodeId, EmptyNode>;
/// A log entry.
pub(crate) type Entry<S> = openraft::Entry<CommittedLeader, Payload<S>>;
/// What a log entry carries.
pub(crate) type Payload<S> = EntryPayload<Batch<<S as Replicated>::Command>, NodeId, EmptyNode>;
