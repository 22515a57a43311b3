//! The cache for applications that embed a node.

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};

use super::{Caches, Counted, Only, Put, Read};
use crate::{
    error::Error,
    ids::{CacheKey, InvalidId},
    machine::cache::Version,
};

/// The coherent cache, as an application that embeds a node uses it. Cheap to clone.
///
/// On a cache node a hit is a read of this process's memory: no message, no lock that writers hold for long, no system
/// call; the value is shared, not copied. What a read returns is never older than the latest acknowledged write.
#[derive(Clone, Debug)]
pub struct Cache {
    caches: Caches,
}

impl Cache {
    pub(crate) fn new(caches: Caches) -> Self {
        Self { caches }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// As [`Caches::get`]; `bad-request` where the key is none.
    #[inline]
    pub async fn get(&self, key: &str) -> Result<Option<Read>, Error> {
        match self.caches.hit(key) {
            Some(read) => Ok(read),
            None => self.miss(key).await,
        }
    }

    /// Reads a key that no line here serves. Boxed, and apart: a hit is not to move the room that a miss needs.
    #[cold]
    fn miss<'a>(&'a self, key: &str) -> BoxFuture<'a, Result<Option<Read>, Error>> {
        match checked(key) {
            Ok(key) => self.caches.get(key).boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    /// Stores a value, whatever the key holds.
    ///
    /// # Errors
    /// As [`Caches::put`].
    pub async fn put(&self, key: &str, body: impl Into<Bytes>) -> Result<Version, Error> {
        self.put_with(key, Put { body: body.into(), ttl_ms: None, only: Only::Always }).await
    }

    /// Stores a value with a time to live or on a condition.
    ///
    /// # Errors
    /// As [`Caches::put`].
    pub async fn put_with(&self, key: &str, put: Put) -> Result<Version, Error> {
        self.caches.put(checked(key)?, put).await
    }

    /// Makes a key absent.
    ///
    /// # Errors
    /// As [`Caches::delete`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        self.caches.delete(checked(key)?).await
    }

    /// Adds to an integer.
    ///
    /// # Errors
    /// As [`Caches::increment`].
    pub async fn increment(&self, key: &str, by: i64) -> Result<Counted, Error> {
        self.caches.increment(checked(key)?, by).await
    }
}

fn checked(key: &str) -> Result<CacheKey, Error> {
    CacheKey::new(key).map_err(|error: InvalidId| Error::bad_request("key", error.to_string()))
}
