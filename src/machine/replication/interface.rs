//! What a replica is told and what it asks for: the vocabulary of [`Replication::step`](super::Replication::step).

use bytes::Bytes;

use super::{Durability, Message, Position, Record, Replica, Reply};
use crate::{
    ids::{Epoch, NodeId},
    machine::placement::{Partition, PlacementChange},
};

/// What bounds and paces a replica. Times in milliseconds of the boot-time clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Settings {
    /// Most records in one [`Message::Append`].
    pub max_batch_records: usize,
    /// Most bytes of bodies in one [`Message::Append`], but for a single record that is larger.
    pub max_batch_bytes: usize,
    /// Most appends in flight to one follower.
    pub pipeline: usize,
    /// A member of the in-sync set that holds nothing more for so long, though there is more, is taken out.
    pub answer_timeout_ms: u64,
    /// After so long an unanswered message is sent again, an unknown outcome asked for again, and a follower told
    /// what was committed where no append tells it anyway. Grows to 16 times that for a follower that is away.
    pub retry_ms: u64,
    /// A learner that lacks at most so many records is waited for by commits, until it holds all and is proposed for
    /// the in-sync set.
    pub lag_to_grow: u64,
    /// [`Replication::enough_copies`](super::Replication::enough_copies) asks for so many (`QUEUE_MIN_IN_SYNC`).
    pub min_in_sync: usize,
    /// So many committed records are kept in memory for followers that catch up; who lacks more gets the state.
    pub keep_records: usize,
    /// Likewise: at most so many bytes of bodies.
    pub keep_bytes: usize,
    /// Proposals are refused as [`Refusal::Busy`] while so many records are uncommitted.
    pub max_uncommitted_records: usize,
    /// Likewise: so many bytes of bodies.
    pub max_uncommitted_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_batch_records: 256,
            max_batch_bytes: 1 << 20,
            pipeline: 4,
            answer_timeout_ms: 1_000,
            retry_ms: 200,
            lag_to_grow: 1_000,
            min_in_sync: 1,
            keep_records: 10_000,
            keep_bytes: 8 << 20,
            max_uncommitted_records: 4_096,
            max_uncommitted_bytes: 32 << 20,
        }
    }
}

/// What was in the journal when this run of the node opened it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// What the checkpoint includes; the default where there is none.
    pub checkpoint: Position,
    /// The records after it, without gap, all of them durable.
    pub records: Vec<Record>,
    /// The journal syncs, and is not behind the marks that its node keeps beside it
    /// ([`Report::verified`](crate::machine::placement::Report::verified)).
    pub verified: bool,
}

/// What came of an [`Effect::Change`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeOutcome {
    /// Done; the partition as it is now.
    Done(Partition),
    /// Void; the partition as it is now. It was not applied and never will be.
    Void(Partition),
    /// Nobody knows: it may be applied, now or later. It is asked for again.
    Unknown,
}

/// What a replica hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// The control plane committed this placement. One that is not newer than what is known is ignored.
    Placed(Partition),
    /// An operation is to be taken into the log. Answered by [`Effect::Taken`] or [`Effect::Refused`] in this step.
    Propose {
        /// Names it in the answer.
        id: u64,
        /// When its record counts as held.
        durability: Durability,
        /// What it says. Empty: nothing; its commit shows that this replica was still the primary.
        body: Bytes,
    },
    /// A peer asks. Answered, now or later, by at most one [`Effect::Reply`].
    Message {
        /// Who asks: the replica that travelled with the message, on a node that was authenticated.
        from: Replica,
        /// Names the way back.
        call: u64,
        /// What it asks.
        message: Message,
    },
    /// What came of an [`Effect::Send`].
    Reply {
        /// Who was asked.
        to: NodeId,
        /// As in the effect.
        call: u64,
        /// The answer. `None`: none came, whatever the reason.
        reply: Option<Reply>,
    },
    /// This [`Effect::Journal`] or [`Effect::Install`] and all before it are durable.
    Journalled {
        /// As in the effect.
        batch: u64,
    },
    /// The journal can no longer be written, for good: damage, or another process writes it.
    JournalFailed,
    /// What came of an [`Effect::Change`]. Each is answered once.
    Changed {
        /// As in the effect.
        ask: u64,
        /// What.
        outcome: ChangeOutcome,
    },
    /// The state that [`Effect::TakeState`] asked for.
    State {
        /// For whom.
        to: NodeId,
        /// The last record that it includes.
        at: Position,
        /// The state.
        state: Bytes,
    },
    /// [`Replication::deadline`](super::Replication::deadline) has passed.
    Tick,
}

/// Why a proposal was not taken, or what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Certainly not taken: this replica is not the primary, as of this epoch.
    NotPrimary {
        /// The newest epoch that it knows.
        epoch: Epoch,
    },
    /// Certainly not taken: it is the primary, but what its predecessor left is not committed yet.
    NotServing,
    /// Certainly not taken: too much is uncommitted.
    Busy,
    /// It was taken, but this replica serves no longer: whether it will be committed is unknown.
    Deposed,
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Append these to the journal; tell [`Input::Journalled`] once they are durable.
    Journal {
        /// Grows from one effect to the next.
        batch: u64,
        /// They follow the last one.
        records: Vec<Record>,
    },
    /// Append these to the journal without syncing them.
    JournalLazily {
        /// They follow the last one.
        records: Vec<Record>,
    },
    /// Cut everything after this record from the journal. None of it was committed.
    Truncate {
        /// The last one that stays.
        last_seq: u64,
    },
    /// Ask a peer; tell [`Input::Reply`]. The message travels with this partition and this replica.
    Send {
        /// Whom.
        to: NodeId,
        /// Names it in the reply. Never used twice by one machine.
        call: u64,
        /// What.
        message: Message,
    },
    /// Answer a peer's call.
    Reply {
        /// Which.
        call: u64,
        /// What.
        reply: Reply,
    },
    /// Apply these to the queues, in order. They follow what was applied before: the checkpoint, the last
    /// [`Effect::Install`], or the last of these.
    Commit {
        /// Those with an empty body say nothing to the queues.
        records: Vec<Record>,
    },
    /// The proposal has this position: it is answered when the record is committed, unless it is refused as
    /// [`Refusal::Deposed`] before.
    Taken {
        /// As proposed.
        id: u64,
        /// Its record's place.
        position: Position,
    },
    /// The proposal was not taken, or nobody knows what becomes of it.
    Refused {
        /// As proposed.
        id: u64,
        /// Why.
        why: Refusal,
    },
    /// Ask the control plane for this; tell [`Input::Changed`], once.
    ///
    /// An outcome that was unknown is asked for again under the same number. All of the same number are *one* request
    /// to the control plane, which answers a repetition from its memory: were it applied a second time, a replica
    /// could be declared in sync after it was given up.
    Change {
        /// Names the request.
        ask: u64,
        /// What is asked.
        change: PlacementChange,
    },
    /// Save the queues as of the last applied record, and tell [`Input::State`]; it may take its time.
    TakeState {
        /// For whom.
        to: NodeId,
    },
    /// Replace the queues by this state, and the journal ([`Journal::reset`](crate::store::Journal::reset)); tell
    /// [`Input::Journalled`] once that is durable.
    Install {
        /// As in [`Effect::Journal`].
        batch: u64,
        /// The last record that it includes.
        at: Position,
        /// The state.
        state: Bytes,
    },
    /// Somebody knows a newer epoch: get the placement, and tell [`Input::Placed`].
    PullView {
        /// At least this one.
        epoch: Epoch,
    },
    /// This replica serves from now on: what it has applied includes everything that was ever acknowledged.
    Serving,
    /// It serves no longer. What was taken and is uncommitted has been refused.
    Stopped,
}

/// What a replica is for its partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RoleView {
    /// It orders the operations.
    Primary {
        /// Whether it takes proposals.
        serving: bool,
    },
    /// It holds everything that was acknowledged.
    Backup,
    /// It is being filled up.
    Learner,
    /// Nobody is the primary.
    Waiting,
    /// It is not to keep this partition, as far as it knows.
    None,
}
