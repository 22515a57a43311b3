//! The words of the cache's protocol: slots, homes, nonces, versions, values.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{CacheKey, Epoch, Incarnation, NodeId},
    machine::placement::ring::stable_hash,
};

/// Slots into which the keys are divided by their hash: the unit of placement.
pub const SLOTS: u16 = 256;

/// One slot of keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct SlotId(pub u16);

impl SlotId {
    /// The slot of a key. Never changes between versions.
    pub fn of(key: &CacheKey) -> Self {
        Self(u16::try_from(stable_hash(key.as_str().as_bytes()) % u64::from(SLOTS)).unwrap_or(0))
    }
}

/// Who is home to slots: one run of a node, and which of its home machines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HomeId {
    /// The node.
    pub node: NodeId,
    /// Its incarnation: after a restart it is no home until a new epoch says so.
    pub incarnation: Incarnation,
    /// A node may divide its slots among several machines, each with sessions of its own.
    pub group: u16,
}

/// Who is home to a slot from this epoch on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Placed {
    /// The slot.
    pub slot: SlotId,
    /// Grows with each change of the home.
    pub epoch: Epoch,
    /// `None`: nobody now.
    pub home: Option<HomeId>,
}

/// The line that a message is about: a key in one epoch of its slot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LineId {
    /// The key.
    pub key: CacheKey,
    /// The epoch of its slot.
    pub epoch: Epoch,
}

impl LineId {
    /// The slot of the key.
    pub fn slot(&self) -> SlotId {
        SlotId::of(&self.key)
    }
}

/// Names a request, the grant that answered it, or a session: the incarnation of its maker, and a count that only
/// grows within that. Never used twice (R4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Nonce {
    /// Of the node that made it.
    pub incarnation: Incarnation,
    /// Grows.
    pub count: u64,
}

/// Orders all that happens to a key, and never names two values.
///
/// The home counts `seq` for each slot and epoch: at each commit, each grant of E or M, each tombstone. The owner
/// counts `n` for each store that it makes under a grant without asking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Version {
    /// The epoch of the slot.
    pub epoch: Epoch,
    /// Counted by the home.
    pub seq: u64,
    /// Counted by the owner.
    pub n: u64,
}

impl Version {
    /// The one after it under the same grant.
    #[must_use]
    pub fn next_silent(self) -> Self {
        Self { n: self.n + 1, ..self }
    }
}

/// As an ETag: each number as one hexadecimal digit that says how many follow, and those. Texts compare as versions.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for number in [self.epoch.0, self.seq, self.n] {
            let digits = format!("{number:x}");
            write!(f, "{:x}{digits}", digits.len() - 1)?;
        }
        Ok(())
    }
}

/// A text that is no version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a version: expected one that a read or a write has answered")]
pub struct InvalidVersion;

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let mut rest = text;
        let mut number = || {
            let (length, digits) = rest.split_at_checked(1)?;
            let length = usize::try_from(char::to_digit(length.chars().next()?, 16)?).ok()? + 1;
            let (digits, after) = digits.split_at_checked(length)?;
            rest = after;
            u64::from_str_radix(digits, 16).ok()
        };
        let version = (|| Some(Self { epoch: Epoch(number()?), seq: number()?, n: number()? }))();
        // Only one text names a version: none with leading zeros, signs or capitals.
        version.filter(|version| version.to_string() == text).ok_or(InvalidVersion)
    }
}

/// What a key held at a version, as it travels.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Value {
    /// Of the store that made it.
    pub version: Version,
    /// `None`: nothing, since a delete or an expiry.
    pub body: Option<Bytes>,
    /// What remains of its time to live; the receiver counts it from the sending of its own request.
    pub ttl_ms: Option<u64>,
}

/// What a node may do with its line, or all nodes together with a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Right {
    /// S: read.
    Shared,
    /// E: read, the sole copy, and may become M without asking.
    Exclusive,
}

/// The protocol of the cluster (`CACHE_PROTOCOL`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Protocol {
    /// Modified, Exclusive, Shared, Invalid.
    Mesi,
    /// Modified, Owned, Shared, Invalid.
    Mosi,
    /// Modified, Owned, Exclusive, Shared, Invalid.
    Moesi,
}

impl Protocol {
    /// Its name in settings, tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesi => "MESI",
            Self::Mosi => "MOSI",
            Self::Moesi => "MOESI",
        }
    }
}

/// When a store in E or M is acknowledged (`CACHE_WRITE_POLICY`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum WritePolicy {
    /// At once.
    Back,
    /// Once the home has it too.
    Through,
}

impl WritePolicy {
    /// Its name in settings, tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Back => "back",
            Self::Through => "through",
        }
    }
}

/// By how many hundredths two clocks may run apart, at the most.
const DRIFT_PERCENT: u64 = 1;
/// What rounding and the waking of a task may cost.
const MARGIN_MS: u64 = 10;

/// Owners that go on telling the next home of a slot what they have are waited for at most so many leases.
pub(super) const MOST_LEASES_TO_TELL: u64 = 16;

/// How long who asked for a lease of so long may believe in it, from the sending of the request (R2).
pub fn believed_ms(lease_ms: u64) -> u64 {
    (lease_ms - lease_ms * DRIFT_PERCENT / 100).saturating_sub(MARGIN_MS)
}

/// How long who granted it must wait before it is certainly over, from the sending of the grant (R2).
pub fn waited_ms(lease_ms: u64) -> u64 {
    lease_ms + lease_ms * DRIFT_PERCENT / 100 + MARGIN_MS
}
