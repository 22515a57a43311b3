//! What the cache side is told and what it asks for: the vocabulary of [`Lines::step`](super::Lines::step).

use bytes::Bytes;

use crate::{
    ids::{CacheKey, Epoch, NodeId, Tick},
    machine::cache::{
        CacheAnswer, Fetch, FromHome, HomeId, HomeReply, Inv, LineState, Nonce, Placed, Protocol, SlotId, ToHome,
        Version, WritePolicy,
    },
};

/// What bounds and paces a cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Settings {
    /// `CACHE_PROTOCOL`, the same in the whole cluster.
    pub protocol: Protocol,
    /// `CACHE_WRITE_POLICY`.
    pub policy: WritePolicy,
    /// `CACHE_LEASE`: the term of a session. How long one is alive counts by what the home names; how long a load may
    /// join a request, by this.
    pub lease_ms: u64,
    /// A session is renewed so long after the last request: a third of the term.
    pub renew_ms: u64,
    /// After so long a request that has no answer is given up and made anew: the home may be waiting for others.
    pub patience_ms: u64,
    /// After so long what failed, or has no answer that does not wait for others, is said again.
    pub retry_ms: u64,
    /// So long a surrendered value waits for its acknowledgement to come along with another message, before it is Put.
    pub put_after_ms: u64,
    /// Most operations that wait for one key.
    pub max_waiting: usize,
    /// Most lines in one answer to [`Recover`](crate::machine::cache::CacheRequest::Recover).
    pub max_recovered: usize,
    /// Most bytes of their values, but for a single key.
    pub max_recovered_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Mesi,
            policy: WritePolicy::Back,
            lease_ms: 2_000,
            renew_ms: 666,
            patience_ms: 2_000,
            retry_ms: 250,
            put_after_ms: 50,
            max_waiting: 1_024,
            max_recovered: 64,
            max_recovered_bytes: 1 << 20,
        }
    }
}

/// What is asked of a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// To read it.
    Load,
    /// To store a value.
    Store {
        /// The value.
        body: Bytes,
        /// Its time to live.
        ttl_ms: Option<u64>,
        /// On which condition.
        condition: Condition,
    },
    /// To add to an integer. What is absent counts as 0; the time to live stays.
    Increment {
        /// How much.
        by: i64,
    },
    /// To make it absent. Every copy is gone, or its lease is over, when it is done.
    Delete,
}

/// On which condition something is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Condition {
    /// On none.
    Always,
    /// The key has this version (`If-Match`).
    Version(Version),
    /// The key is absent (`If-None-Match: *`).
    Absent,
}

/// What came of an operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It was read.
    Loaded {
        /// Of the value.
        version: Version,
        /// The value.
        body: Bytes,
        /// The state of the line.
        state: LineState,
    },
    /// There is no value.
    Miss,
    /// It was stored.
    Stored {
        /// As this.
        version: Version,
    },
    /// It is absent.
    Deleted,
    /// It was added.
    Incremented {
        /// What it is now.
        value: i64,
        /// As this.
        version: Version,
    },
    /// The condition does not hold; nothing was changed.
    Mismatch {
        /// What it has; `None`: it is absent.
        version: Option<Version>,
    },
    /// The value is no integer, or the sum is too large; nothing was changed.
    NotAnInteger,
    /// Too many operations wait for this key; nothing was changed.
    Busy,
    /// Whether it was stored is unknown: the session with the home ended before its answer came (policy `through`).
    Unknown,
}

/// What a cache hears.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// Who is home to a slot. What is not newer than what is known is ignored.
    Placed(Placed),
    /// Somebody here wants something of a key. Answered, now or later, by one [`Effect::Done`], unless it is abandoned.
    Operate {
        /// Names it in the answer. Never used twice.
        op: u64,
        /// The key.
        key: CacheKey,
        /// What.
        operation: Operation,
    },
    /// Nobody waits for this operation any more. A load is forgotten; a write may still be done.
    Abandon {
        /// As in the operation.
        op: u64,
        /// Its key.
        key: CacheKey,
    },
    /// This line has to make room. One that is busy goes as soon as it is not.
    Evict {
        /// The key.
        key: CacheKey,
    },
    /// A home asks. Answered, now or later, by at most one [`Effect::Answer`].
    FromHome {
        /// From which node: authenticated.
        from: NodeId,
        /// Names the way back.
        call: u64,
        /// What.
        message: FromHome,
    },
    /// Another cache reads a line that is owned here. Likewise.
    Fetch {
        /// From which node.
        from: NodeId,
        /// Names the way back.
        call: u64,
        /// What.
        message: Fetch,
    },
    /// An invalidation came by gossip.
    Gossip(Inv),
    /// Gossip of this home was lost: its session is renewed at once.
    GossipGap(HomeId),
    /// What came of an [`Effect::AskHome`]; `None`: no answer came, whatever the reason.
    HomeAnswered {
        /// As in the effect.
        call: u64,
        /// The answer.
        reply: Option<HomeReply>,
    },
    /// What came of an [`Effect::AskOwner`]; likewise.
    OwnerAnswered {
        /// As in the effect.
        call: u64,
        /// The answer.
        answer: Option<CacheAnswer>,
    },
    /// [`Lines::deadline`](super::Lines::deadline) has passed.
    Tick,
}

/// A line as it may be read without asking the machine: while its session is alive, and until it expires.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Installed {
    /// Its state.
    pub state: LineState,
    /// Of the value.
    pub version: Version,
    /// The value; `None`: the key is known to be absent.
    pub body: Option<Bytes>,
    /// From then on it is absent.
    pub expires: Option<Tick>,
    /// Readable while this session of this home is alive.
    pub home: HomeId,
    /// See there.
    pub session: Nonce,
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Ask a home; tell [`Input::HomeAnswered`].
    AskHome {
        /// Names it in the answer. Never used twice by one machine.
        call: u64,
        /// The node is in it.
        message: ToHome,
    },
    /// Tell a home what it does not answer.
    TellHome {
        /// The node is in it.
        message: ToHome,
    },
    /// Ask the owner of a line; tell [`Input::OwnerAnswered`].
    AskOwner {
        /// Whom.
        to: NodeId,
        /// As in [`Effect::AskHome`].
        call: u64,
        /// What.
        message: Fetch,
    },
    /// Answer a call.
    Answer {
        /// Which.
        call: u64,
        /// What.
        answer: CacheAnswer,
    },
    /// An operation is over.
    Done {
        /// As given.
        op: u64,
        /// How.
        outcome: Outcome,
    },
    /// From now on the line may be read so. Of a store: before anybody is told that it is done.
    Install {
        /// The key.
        key: CacheKey,
        /// The line, in place of what was there.
        line: Installed,
    },
    /// From now on the line may not be read. Done before anything that follows it.
    Drop {
        /// The key.
        key: CacheKey,
    },
    /// A session with a home; what was installed under another one of it may not be read any more.
    Session {
        /// The home.
        home: HomeId,
        /// The session.
        session: Nonce,
        /// It is alive before this moment, read after the line was.
        until: Tick,
    },
    /// A value that was acknowledged here is gone: the session ended, or the home died, before anybody else had it.
    DirtyLost {
        /// The key.
        key: CacheKey,
    },
    /// Somebody knows a newer epoch of this slot: get the placement, and tell [`Input::Placed`].
    PullView {
        /// The slot.
        slot: SlotId,
        /// At least this one.
        epoch: Epoch,
    },
}
