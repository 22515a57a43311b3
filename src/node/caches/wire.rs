//! What nodes say to each other about the cache: messages of the protocol under
//! [`Protocol::Coherence`](crate::net::Protocol::Coherence), and what applications ask of a cache node by way of another
//! node, which travels as [`ClientAsk::Cache`](crate::node::wire::ClientAsk::Cache) under the client protocol.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::types::{CacheNodeView, Counted, DirectoryView, LineView, Put, Read, Which};
use crate::{
    error::Error,
    ids::{CacheKey, Epoch, NodeId},
    machine::cache::{Fetch, FromHome, HandedEntry, HomeId, SlotId, ToHome, Version},
};

/// A question between cache nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum CoherenceAsk {
    /// A cache to a home. Answered by a [`HomeReply`](crate::machine::cache::HomeReply), or [`Noted`].
    Home(ToHome),
    /// A home to a cache. Answered by a [`CacheAnswer`](crate::machine::cache::CacheAnswer).
    Cache(FromHome),
    /// A cache to the owner of a line. Likewise.
    Owner(Fetch),
    /// A home to the next one. Answered by [`Taken`].
    HandOver(Part),
}

/// The answer to what is only told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Noted;

/// Whether the next home has taken a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Taken {
    /// It has it, and holds it until the epoch is committed.
    Yes,
    /// It does not know (yet) that it is to have the slot.
    No,
}

/// A part of what a home hands over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) slot: SlotId,
    /// The epoch that has ended.
    pub(crate) epoch: Epoch,
    /// The home that it had.
    pub(crate) home: HomeId,
    /// Which part, from 0.
    pub(crate) part: u32,
    /// Of so many.
    pub(crate) of: u32,
    /// Who had a session; with the first part.
    pub(crate) caches: Vec<NodeId>,
    pub(crate) entries: Vec<HandedEntry>,
}

/// What is asked of a cache node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum CacheAsk {
    Get(CacheKey),
    Put(CacheKey, Put),
    Delete(CacheKey),
    Increment(CacheKey, i64),
    /// The home of these slots: gives up all that it has of these; answered once every copy is gone, or its lease over.
    /// What takes long is answered bit by bit, see [`Cleared`].
    Clear {
        which: Which,
        slots: BTreeSet<SlotId>,
    },
    /// The home of a key.
    Entry(CacheKey),
    /// Its own line of a key.
    Line(CacheKey),
    Stats,
}

impl CacheAsk {
    /// Whether it changes what a client would see.
    pub(crate) fn changes(&self) -> bool {
        matches!(self, Self::Put(..) | Self::Delete(_) | Self::Increment(..) | Self::Clear { .. })
    }
}

/// How far an invalidation has come at one home.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cleared {
    /// Keys that are gone, with every copy.
    pub(crate) invalidated: u64,
    /// Slots with which it has not begun: it took too long for one answer.
    pub(crate) left: BTreeSet<SlotId>,
}

/// The answer to a [`CacheAsk`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum CacheReply {
    /// Get.
    Read(Option<Read>),
    /// Put.
    Stored(Version),
    /// Delete.
    Deleted,
    /// Increment.
    Counted(Counted),
    /// Clear.
    Cleared(Cleared),
    /// Entry: what it knows; `None`: it is not home to the key now.
    Entry(Option<(Option<Version>, DirectoryView)>),
    /// Line.
    Line(Option<LineView>),
    /// Stats.
    Stats(Box<CacheNodeView>),
    /// Certainly not done: this node is no cache node.
    NoCache,
    /// Refused, or failed.
    Failed(Error),
}
