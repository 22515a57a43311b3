//! Answers for the cache where no cache is served.

use super::{CacheNodeView, CacheView, Counted, Invalidated, KeyState, Put, Read, Which};
use crate::{
    error::{Error, Outcome},
    ids::CacheKey,
    machine::cache::{Protocol, Version, WritePolicy},
};

/// The cache service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caches;

fn unserved<T>() -> Result<T, Error> {
    Err(Error::unavailable(Outcome::NotApplied, "not served by this build"))
}

#[allow(missing_docs, clippy::missing_errors_doc, clippy::unused_async, reason = "stands in for the service")]
impl Caches {
    pub async fn get(&self, _: CacheKey) -> Result<Option<Read>, Error> {
        unserved()
    }

    pub async fn put(&self, _: CacheKey, _: Put) -> Result<Version, Error> {
        unserved()
    }

    pub async fn delete(&self, _: CacheKey) -> Result<(), Error> {
        unserved()
    }

    pub async fn increment(&self, _: CacheKey, _: i64) -> Result<Counted, Error> {
        unserved()
    }

    pub async fn invalidate(&self, _: Which) -> Result<Invalidated, Error> {
        unserved()
    }

    pub async fn state(&self, _: CacheKey) -> Result<KeyState, Error> {
        unserved()
    }

    pub async fn stats(&self) -> Result<CacheView, Error> {
        unserved()
    }

    pub async fn stats_here(&self) -> Option<CacheNodeView> {
        None
    }

    pub fn protocol(&self) -> Protocol {
        Protocol::Mesi
    }

    pub fn write_policy(&self) -> WritePolicy {
        WritePolicy::Back
    }
}
