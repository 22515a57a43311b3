//! What caches and homes say to each other: bodies for an exchange (`net/deferred`), and one for gossip.
//!
//! Each may come never, twice, late, or after later ones. Every message about a line names its key and the epoch of
//! its slot, and the nonce of the request or grant that it is about.

use serde::{Deserialize, Serialize};

use super::{HomeId, LineId, Nonce, Right, SlotId, Value, Version};
use crate::ids::{CacheKey, Epoch, NodeId};

/// A cache to a home. Answered by [`HomeReply`], but for what says that it is not.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ToHome {
    /// The run of the home that is meant.
    pub home: HomeId,
    /// The session of the sender with it. A higher one than the home knows opens it and ends the older.
    pub session: Nonce,
    /// What is asked.
    pub body: HomeRequest,
}

/// What a cache asks of a home.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum HomeRequest {
    /// To read a line.
    GetS {
        /// Which.
        line: LineId,
        /// Of this request.
        nonce: Nonce,
        /// The owner to which an earlier answer redirected, and how that ended.
        refused: Option<Refused>,
    },
    /// To write a line.
    GetM {
        /// Which.
        line: LineId,
        /// Of this request.
        nonce: Nonce,
        /// The grant under which the sender has the line: then this is an Upgrade.
        held: Option<Nonce>,
        /// Whether the old value is needed, where the sender does not have it any more.
        need_value: bool,
    },
    /// The sender has dropped a shared line. Not answered.
    PutS {
        /// Which.
        line: LineId,
        /// The grant that it returns.
        grant: Nonce,
    },
    /// The sender returns its ownership.
    Put {
        /// Which.
        line: LineId,
        /// The grant that it returns (R11).
        grant: Nonce,
        /// Of the line.
        stamp: Version,
        /// Where the line is dirty.
        value: Option<Value>,
    },
    /// The owner stores; it acknowledges the store once the home has it.
    StoreThrough {
        /// Which.
        line: LineId,
        /// The grant under which it stores.
        grant: Nonce,
        /// The stamp of the line with it.
        stamp: Version,
        /// What it stores.
        value: Value,
    },
    /// The sender has no readable copy older than this version. Not answered.
    InvAck {
        /// Which line.
        line: LineId,
        /// Exactly as in the [`Inv`] (R5).
        version: Version,
    },
    /// To extend the session.
    Renew,
}

impl HomeRequest {
    /// The line that it is about.
    pub fn line(&self) -> Option<&LineId> {
        match self {
            Self::GetS { line, .. }
            | Self::GetM { line, .. }
            | Self::PutS { line, .. }
            | Self::Put { line, .. }
            | Self::StoreThrough { line, .. }
            | Self::InvAck { line, .. } => Some(line),
            Self::Renew => None,
        }
    }

    /// Whether it ends somebody's wait, and so must never queue behind what waits (the lane `End` of the mesh).
    pub fn ends_a_wait(&self) -> bool {
        !matches!(self, Self::GetS { .. } | Self::GetM { .. })
    }

    /// Its name, for counters.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::GetS { .. } => "get-s",
            Self::GetM { held: None, .. } => "get-m",
            Self::GetM { held: Some(_), .. } => "upgrade",
            Self::PutS { .. } => "put-s",
            Self::Put { .. } => "put",
            Self::StoreThrough { .. } => "store-through",
            Self::InvAck { .. } => "inv-ack",
            Self::Renew => "renew",
        }
    }
}

/// How a redirected read ended that brought no value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// The owner that was asked.
    pub owner: NodeId,
    /// Its grant, as the home named it.
    pub grant: Nonce,
    /// What it answered; `None`: it could not be reached.
    pub answer: Option<NotOwner>,
}

/// A node does not own the line under the grant that was named, and never will.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct NotOwner {
    /// Its newest session with the home of the line. If it is the session of the grant, the grant never arrived, or
    /// what it brought was given back (R16).
    pub session: Option<Nonce>,
}

/// A line that was surrendered or put has arrived: the value in the sender's buffer is needed no more.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PutAck {
    /// Which line.
    pub line: LineId,
    /// The grant that was returned.
    pub grant: Nonce,
}

/// A home to a cache that asked it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HomeReply {
    /// The session of the asker in which it is answered.
    pub session: Nonce,
    /// For so long from the sending of the request the session is alive; `None`: this answer extends nothing.
    pub lease_ms: Option<u64>,
    /// Slots that are this home's no more since less than a lease: the receiver drops their lines before it extends
    /// anything.
    pub moved: Vec<Moved>,
    /// What came from the asker's buffer, and may go there.
    pub put_acks: Vec<PutAck>,
    /// The answer.
    pub body: HomeAnswer,
}

/// A slot that its home has given up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// The slot.
    pub slot: SlotId,
    /// Lines up to this epoch are void.
    pub epoch: Epoch,
}

/// What a home answers.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum HomeAnswer {
    /// To GetS: the value.
    Data {
        /// Of the request.
        nonce: Nonce,
        /// What of the key is known to be in order up to here; not below the version of the value.
        stamp: Version,
        /// The value.
        value: Value,
        /// What may be done with it.
        right: Right,
    },
    /// To GetS: there is no value.
    Miss {
        /// Of the request.
        nonce: Nonce,
    },
    /// To GetS: ask this owner.
    Redirect {
        /// Of the request.
        nonce: Nonce,
        /// Whom.
        owner: NodeId,
        /// Its grant.
        grant: Nonce,
    },
    /// To GetM: the sole right to the line.
    Grant {
        /// Of the request.
        nonce: Nonce,
        /// The version of the store, or of what comes before it: it is not below any that was acknowledged.
        stamp: Version,
        /// What the key held before.
        previous: Previous,
    },
    /// To Put: it is not needed any more, taken or stale.
    PutAck(PutAck),
    /// To StoreThrough: whether the home has it; where it has not, the grant is over.
    Stored {
        /// The grant.
        grant: Nonce,
        /// The stamp of the line with it.
        stamp: Version,
        /// Whether it counts.
        taken: bool,
    },
    /// To Renew.
    Renewed,
    /// Too much waits for this line: ask again after so long, give or take.
    Busy {
        /// Of the request.
        nonce: Nonce,
        /// In milliseconds.
        retry_ms: u64,
    },
    /// Ask again under a new nonce: what came of this one is forgotten, or a later one came before it (R14).
    Again {
        /// Of the request.
        nonce: Nonce,
    },
    /// That session is over: open a new one.
    SessionOver,
    /// It is not home to that slot in that epoch, or not inside its own lease (R7).
    NotHome {
        /// The newest epoch of the slot that it knows.
        epoch: Epoch,
    },
}

/// What a line held before a grant.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Previous {
    /// What the asker's own line holds.
    Held,
    /// Not asked for, or not known.
    Unsaid,
    /// This.
    Was(Value),
}

/// A home to a cache. Answered by [`CacheAnswer`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct FromHome {
    /// Who asks.
    pub home: HomeId,
    /// What came from the buffer of the receiver, and may go there.
    pub put_acks: Vec<PutAck>,
    /// What is asked.
    pub body: CacheRequest,
}

/// What a home asks of a cache.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum CacheRequest {
    /// To give up ownership.
    Recall {
        /// Of which line.
        line: LineId,
        /// Under which grant.
        grant: Nonce,
        /// What may stay.
        to: RecallTo,
    },
    /// For the value of a shared line whose owner is dead.
    Ask {
        /// Which.
        line: LineId,
        /// Under which grant it is shared.
        grant: Nonce,
    },
    /// As by gossip, to one that was silent. Answered by an [`HomeRequest::InvAck`] of its own.
    Inv(Inv),
    /// A new home asks for what is left of a slot (R6): the receiver installs the epoch before it answers.
    Recover {
        /// The slot.
        slot: SlotId,
        /// The epoch of the new home.
        epoch: Epoch,
        /// What was answered up to this key has arrived.
        after: Option<CacheKey>,
        /// The home that handed the slot over, if one did.
        before: Option<HomeId>,
    },
}

/// What may stay of a recalled line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum RecallTo {
    /// A shared copy.
    Shared,
    /// Nothing.
    Invalid,
}

/// A write is pending: what is older must go.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Inv {
    /// Of this line.
    pub line: LineId,
    /// The version of the write.
    pub version: Version,
    /// Who writes; `None`: the home itself gives the line up.
    pub writer: Option<NodeId>,
    /// Who has to hear that it is gone.
    pub home: HomeId,
}

/// Invalidations as they travel by gossip.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct InvBatch {
    /// Grows by one with each batch of a home: a gap is lost gossip, and the receiver renews its session at once.
    pub home_seq: u64,
    /// All of one home.
    pub invs: Vec<Inv>,
}

/// A cache to the owner of a line, to which its home redirected it (MOSI, MOESI). Answered by [`CacheAnswer`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Fetch {
    /// Which line.
    pub line: LineId,
    /// The owner's grant.
    pub grant: Nonce,
    /// Of the reader's request.
    pub nonce: Nonce,
}

/// What a cache answers to a home, or an owner to a reader.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum CacheAnswer {
    /// To Recall: the ownership ends.
    Surrender {
        /// The line was last in order up to here.
        stamp: Version,
        /// Where the line is dirty, or the home's copy is not known to be as new.
        value: Option<Value>,
    },
    /// To Recall and Fetch.
    NotOwner(NotOwner),
    /// To Fetch.
    Data {
        /// Of the reader's request.
        nonce: Nonce,
        /// As in [`HomeAnswer::Data`].
        stamp: Version,
        /// The value.
        value: Value,
    },
    /// To Ask.
    Shared {
        /// As in [`HomeAnswer::Data`].
        stamp: Version,
        /// The value.
        value: Value,
    },
    /// To Ask: there is no such line.
    No,
    /// To Recover: the epoch is installed here.
    Recovered {
        /// Lines that this node owned in the epoch before, and whose session with that home is alive, in the order of
        /// their keys. None: there are no more.
        lines: Vec<RecoveredLine>,
        /// This node's newest session with the home that handed the slot over (R16).
        session: Option<Nonce>,
    },
    /// To Inv: taken note of. To anything else: it cannot be answered here, or not now.
    Noted,
}

/// A line whose owner survived its home.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RecoveredLine {
    /// The key.
    pub key: CacheKey,
    /// The grant of the old home.
    pub grant: Nonce,
    /// It was evicted or surrendered, which nobody has confirmed: only a home that knows that the grant is still the
    /// last one may take it.
    pub released: bool,
    /// What it holds.
    pub value: Value,
}
