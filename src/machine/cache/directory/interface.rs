//! What a home is told and what it asks for: the vocabulary of [`Home::step`](super::Home::step).

use serde::{Deserialize, Serialize};

use crate::{
    ids::{CacheKey, Epoch, NodeId, Tick},
    machine::cache::{
        CacheAnswer, FromHome, HomeId, HomeReply, Inv, Nonce, Placed, Protocol, SlotId, ToHome, Value, WritePolicy,
    },
};

/// What bounds and paces a home.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HomeSettings {
    /// `CACHE_PROTOCOL`, the same in the whole cluster.
    pub protocol: Protocol,
    /// `CACHE_WRITE_POLICY`, the same in the whole cluster.
    pub policy: WritePolicy,
    /// `CACHE_LEASE`: the term of a session. A successor counts the same.
    pub lease_ms: u64,
    /// After so long an invalidation is repeated by unicast to those that are silent; at least 20, and the p99 of the
    /// gossip's round trip. Doubles each time, up to a quarter of the lease.
    pub repeat_ms: u64,
    /// Most requests that wait for one line, or for the recovery of one slot.
    pub max_waiting: usize,
    /// What [`HomeAnswer::Busy`](crate::machine::cache::HomeAnswer::Busy) advises.
    pub busy_retry_ms: u64,
    /// Most caches that have sessions.
    pub max_sessions: usize,
    /// Most nonces of one session that are remembered of lines that its cache does not share (R14).
    pub max_forgotten: usize,
}

impl Default for HomeSettings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Mesi,
            policy: WritePolicy::Back,
            lease_ms: 2_000,
            repeat_ms: 20,
            max_waiting: 256,
            busy_retry_ms: 20,
            max_sessions: 4_096,
            max_forgotten: 1_024,
        }
    }
}

/// How a home begins with a slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Start {
    /// Nobody was home to it before.
    Founded,
    /// The home before died, or may have.
    Fresh {
        /// All caches that may have had sessions with it.
        caches: Vec<NodeId>,
        /// After so long the lease of that home itself is certainly over.
        old_lease_over_ms: u64,
    },
    /// The home before stopped, and handed it over.
    Handed {
        /// What it said.
        over: HandOver,
        /// So long ago it stopped, at the least.
        stopped_ms_ago: u64,
    },
}

/// A slot on its way to another home.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HandOver {
    /// The slot.
    pub slot: SlotId,
    /// The epoch that has ended.
    pub epoch: Epoch,
    /// The home that it had.
    pub home: HomeId,
    /// Who had a session.
    pub caches: Vec<NodeId>,
    /// The directory and the values.
    pub entries: Vec<HandedEntry>,
}

/// A line on its way to another home.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HandedEntry {
    /// The key.
    pub key: CacheKey,
    /// The home's copy.
    pub value: Option<Value>,
    /// Who owned it: then the copy may be old.
    pub owner: Option<HandedOwner>,
}

/// The owner of a line on its way to another home.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HandedOwner {
    /// The node.
    pub node: NodeId,
    /// Its grant.
    pub grant: Nonce,
    /// Under which session that was.
    pub session: Nonce,
    /// The grant that it had before, where this one is an upgrade, which may not have arrived.
    #[serde(default)]
    pub before: Option<Nonce>,
}

/// What a home hears.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum HomeInput {
    /// This machine is home to a slot from now on. What is not newer than what is known is ignored.
    Begin {
        /// Names this home.
        placed: Placed,
        /// With what.
        start: Start,
    },
    /// Another one is home to a slot, or nobody: this one is it no more.
    End(Placed),
    /// The lease of this node as a member: it serves and grants before this moment only (R7). Given only once all
    /// placements that the lease's giver knew of were.
    Lease {
        /// On the clock of [`Home::step`](super::Home::step).
        until: Tick,
    },
    /// A planned move: end what is pending, serve nothing new. Answered by [`HomeEffect::Stopped`].
    Stop {
        /// The slot.
        slot: SlotId,
    },
    /// A node is no member any more, and nothing of it is let in: its session is forgotten, where that is over.
    Forget {
        /// Which.
        node: NodeId,
    },
    /// A cache asks or tells. Answered, now or later, by at most one [`HomeEffect::Answer`].
    FromCache {
        /// From which node: authenticated.
        from: NodeId,
        /// Names the way back.
        call: u64,
        /// What.
        message: ToHome,
    },
    /// What came of a [`HomeEffect::Ask`]; `None`: no answer came, whatever the reason.
    Answered {
        /// As in the effect.
        call: u64,
        /// The answer.
        answer: Option<CacheAnswer>,
    },
    /// This entry goes: all copies are recalled, and the value is gone.
    Evict {
        /// The key.
        key: CacheKey,
        /// Whether it waits for its turn where a transaction is under way, or is left alone.
        in_turn: bool,
    },
    /// [`Home::deadline`](super::Home::deadline) has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum HomeEffect {
    /// Answer a call.
    Answer {
        /// Which.
        call: u64,
        /// What.
        reply: HomeReply,
    },
    /// Ask a cache; tell [`HomeInput::Answered`].
    Ask {
        /// Whom.
        to: NodeId,
        /// Names it in the answer. Never used twice by one machine.
        call: u64,
        /// What.
        message: FromHome,
    },
    /// Spread this by gossip, in a batch with others.
    Broadcast {
        /// What.
        inv: Inv,
    },
    /// The slot is stopped: nothing of it is served here any more. Only now the next epoch may be committed.
    Stopped {
        /// For the next home.
        over: HandOver,
    },
    /// A slot is served from now on.
    Serving {
        /// The slot.
        slot: SlotId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// A value that was acknowledged is gone: its owner died, or was away for longer than its session.
    DirtyLost {
        /// The key.
        key: CacheKey,
        /// Who owned it.
        owner: NodeId,
    },
    /// Somebody knows a newer epoch of this slot.
    PullView {
        /// The slot.
        slot: SlotId,
        /// At least this one.
        epoch: Epoch,
    },
}
