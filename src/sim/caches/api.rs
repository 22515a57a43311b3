//! The cache as a client reaches it: what is asked, and what is told.

use bytes::Bytes;

use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::CacheKey,
    node::caches::{Caches, Only, Put, Version, Which},
    sim::door::Service,
};

/// The cache.
#[derive(Clone, PartialEq, Debug)]
pub enum CacheService {}

impl Service for CacheService {
    type Ask = Ask;
    type Answer = Answer;

    const UNKNOWN: Answer = Answer::Unknown;
    const NOBODY: Answer = Answer::Refused;

    fn is_refusal(answer: &Answer) -> bool {
        *answer == Answer::Refused
    }
}

/// One operation of one client of the cache.
pub type Record = crate::sim::history::Record<CacheService>;

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// What does it hold?
    Get(CacheKey),
    /// Hold this, which nobody else of the run writes.
    Put(CacheKey, u64),
    /// The same, and be absent again after so many milliseconds.
    PutFor(CacheKey, u64, u64),
    /// Hold this, which nobody else of the run writes, if you hold that version.
    Swap(CacheKey, u64, Version),
    /// Be absent.
    Delete(CacheKey),
    /// Be one more than it is. Of such a key nothing else is asked.
    Add(CacheKey),
    /// Be absent, all keys that begin like this one.
    Clear(CacheKey),
}

impl Ask {
    /// The key, or how the keys begin.
    pub fn key(&self) -> &CacheKey {
        match self {
            Self::Get(key) | Self::Put(key, _) | Self::PutFor(key, ..) | Self::Swap(key, ..) => key,
            Self::Delete(key) | Self::Add(key) | Self::Clear(key) => key,
        }
    }

    /// Whether it is about this key.
    pub fn is_of(&self, key: &CacheKey) -> bool {
        match self {
            Self::Clear(prefix) => key.as_str().starts_with(prefix.as_str()),
            _ => self.key() == key,
        }
    }
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The value, and its version.
    Read(u64, Version),
    /// There is none.
    Miss,
    /// It is stored, as this version.
    Stored(Version),
    /// It is this now, as this version.
    Counted(i64, Version),
    /// Another version is there.
    Mismatch,
    /// It is absent, or all of them are.
    Deleted,
    /// Nothing was done.
    Refused,
    /// Nobody knows whether it was done.
    Unknown,
}

/// Has a node do what is asked.
pub async fn perform(caches: &Caches, ask: Ask) -> Answer {
    let put = |n: u64, ttl_ms, only| Put { body: Bytes::from(n.to_string()), ttl_ms, only };
    match ask {
        Ask::Get(key) => match caches.get(key).await {
            Ok(Some(read)) => {
                let text = std::str::from_utf8(&read.body).expect("clients write numbers");
                Answer::Read(text.parse().expect("clients write numbers"), read.version)
            }
            Ok(None) => Answer::Miss,
            Err(_) => Answer::Refused,
        },
        Ask::Put(key, n) => stored(caches.put(key, put(n, None, Only::Always)).await),
        Ask::PutFor(key, n, ttl_ms) => stored(caches.put(key, put(n, Some(ttl_ms), Only::Always)).await),
        Ask::Swap(key, n, version) => stored(caches.put(key, put(n, None, Only::If(version))).await),
        Ask::Delete(key) => match caches.delete(key).await {
            Ok(()) => Answer::Deleted,
            Err(error) => failed(&error),
        },
        Ask::Add(key) => match caches.increment(key, 1).await {
            Ok(counted) => Answer::Counted(counted.value, counted.version),
            Err(error) => failed(&error),
        },
        Ask::Clear(prefix) => match caches.invalidate(Which::Prefix(prefix.as_str().to_owned())).await {
            Ok(cleared) if cleared.unanswered.is_empty() => Answer::Deleted,
            Ok(_) => Answer::Unknown,
            Err(error) => failed(&error),
        },
    }
}

fn stored(outcome: Result<Version, Error>) -> Answer {
    match outcome {
        Ok(version) => Answer::Stored(version),
        Err(error) if error.code == ErrorCode::VersionMismatch => Answer::Mismatch,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> Answer {
    let not_applied = error.details.outcome == Some(Outcome::NotApplied) || error.code == ErrorCode::NoQuorum;
    if not_applied { Answer::Refused } else { Answer::Unknown }
}
