//! The cache from elsewhere: the calls about it, and one handle with typed answers.
//!
//! A version is what a node's ETag says: an opaque text that is compared for equality and given back.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, header, header::HeaderMap};
use serde_json::json;

use super::{
    Call, Client, ClientError,
    calls::{ANSWER_TIMEOUT, encode},
};
use crate::{
    api::cache_bodies::{CacheBody, CountedBody, HIT, InvalidatedBody, KeyStateBody, X_CACHE, X_CACHE_STATE},
    error::{Error, ErrorCode},
    ids::CacheKey,
    node::caches::Which,
    time::millis,
};

/// How long an invalidation may take: of every key, at homes that wait for leases.
const INVALIDATE_TIMEOUT: Duration = Duration::from_secs(120);

fn cache_path(key: &CacheKey, action: &str) -> String {
    format!("/v1/cache/{}{action}", encode(key.as_str()))
}

/// On which condition a value is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum StoreIf {
    /// On none.
    #[default]
    Always,
    /// The key has this version.
    Version(String),
    /// The key is absent.
    Absent,
}

/// What may be said of a value that is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StoreOptions {
    /// Absent again after so long, 1 ms to 365 days; never by itself where there is none.
    pub ttl: Option<Duration>,
    /// On which condition.
    pub only: StoreIf,
}

/// A value that was read through a node elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteRead {
    /// The value.
    pub body: Bytes,
    /// Its version.
    pub version: String,
    /// `M`, `O`, `E` or `S`: the state of the line that it came from; `I` where it was not kept.
    pub state: String,
    /// Whether no message left the node that was called.
    pub hit: bool,
}

impl Call {
    /// `GET /v1/cache/{key}`, for [`RemoteCache::get`].
    pub fn read_key(key: &CacheKey) -> Self {
        Self::get(cache_path(key, ""))
    }

    /// `PUT /v1/cache/{key}`.
    pub fn store_key(key: &CacheKey, body: Bytes, options: &StoreOptions) -> Self {
        let ttl = options.ttl.map(|ttl| format!("{}ms", millis(ttl)));
        let call = Self::new(Method::PUT, cache_path(key, "")).with_query(&[("ttl", ttl.as_deref())]).with_bytes(body);
        match &options.only {
            StoreIf::Always => call,
            StoreIf::Version(version) => call.with_header("if-match", Some(format!("\"{version}\""))),
            StoreIf::Absent => call.with_header("if-none-match", Some("*")),
        }
    }

    /// `DELETE /v1/cache/{key}`.
    pub fn delete_key(key: &CacheKey) -> Self {
        Self::new(Method::DELETE, cache_path(key, ""))
    }

    /// `POST /v1/cache/{key}/increment`.
    pub fn increment_key(key: &CacheKey, by: i64) -> Self {
        Self::post(cache_path(key, "/increment")).with_body(json!({"by": by}))
    }

    /// `POST /v1/cache:invalidate`.
    pub fn invalidate(which: &Which) -> Self {
        let body = match which {
            Which::Key(key) => json!({"key": key.as_str()}),
            Which::Prefix(prefix) => json!({"prefix": prefix}),
            Which::All => json!({"all": true}),
        };
        Self::post("/v1/cache:invalidate").with_body(body).with_timeout(INVALIDATE_TIMEOUT.max(ANSWER_TIMEOUT))
    }

    /// `GET /v1/cache/{key}/state`.
    pub fn key_state(key: &CacheKey) -> Self {
        Self::get(cache_path(key, "/state"))
    }

    /// `GET /v1/cache`.
    pub fn cache() -> Self {
        Self::get("/v1/cache")
    }
}

/// The cache, through a node elsewhere. Cheap to clone. Nothing is repeated by itself: a store or an increment whose
/// outcome is unknown may have been done.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use syncmesh::{Client, client::{StoreIf, StoreOptions}, ids::CacheKey};
///
/// let (cache, key) = (Client::new("http://127.0.0.1:8080", None)?.cache(), CacheKey::new("user/7")?);
/// let hour = StoreOptions { ttl: Some(Duration::from_secs(3600)), only: StoreIf::Absent };
/// cache.put(&key, "Ada", &hour).await?;
/// if let Some(read) = cache.get(&key).await? {
///     let same = StoreOptions { only: StoreIf::Version(read.version), ..StoreOptions::default() };
///     cache.put(&key, "Ada Lovelace", &same).await?; // version-mismatch if somebody wrote meanwhile
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RemoteCache {
    client: Client,
}

impl Client {
    /// The cache.
    pub fn cache(&self) -> RemoteCache {
        RemoteCache { client: self.clone() }
    }
}

impl RemoteCache {
    /// The value of a key: the latest that was acknowledged, or none.
    ///
    /// # Errors
    /// As [`Client::json`], here and below.
    pub async fn get(&self, key: &CacheKey) -> Result<Option<RemoteRead>, ClientError> {
        match self.client.answer(&Call::read_key(key)).await {
            Ok(answer) => Ok(Some(RemoteRead {
                version: version_of(&answer.headers)?,
                state: text_of(&answer.headers, X_CACHE_STATE)?.to_owned(),
                hit: text_of(&answer.headers, X_CACHE)? == HIT,
                body: answer.body,
            })),
            Err(error) if error.error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a value; its version.
    ///
    /// # Errors
    /// Also `version-mismatch`, with the version that there is in the details.
    pub async fn put(
        &self,
        key: &CacheKey,
        body: impl Into<Bytes>,
        options: &StoreOptions,
    ) -> Result<String, ClientError> {
        let answer = self.client.answer(&Call::store_key(key, body.into(), options)).await?;
        version_of(&answer.headers)
    }

    /// Makes a key absent, also where it is so already.
    pub async fn delete(&self, key: &CacheKey) -> Result<(), ClientError> {
        self.client.text(&Call::delete_key(key)).await.map(drop)
    }

    /// Adds to a value that is an integer; an absent key counts as 0.
    pub async fn increment(&self, key: &CacheKey, by: i64) -> Result<CountedBody, ClientError> {
        self.client.json(&Call::increment_key(key, by)).await
    }

    /// Makes keys absent everywhere, and returns when every copy is gone or its lease is over.
    pub async fn invalidate(&self, which: &Which) -> Result<InvalidatedBody, ClientError> {
        self.client.json(&Call::invalidate(which)).await
    }

    /// Where a key is.
    pub async fn state(&self, key: &CacheKey) -> Result<KeyStateBody, ClientError> {
        self.client.json(&Call::key_state(key)).await
    }

    /// What all cache nodes hold, and what they did since they started.
    pub async fn stats(&self) -> Result<CacheBody, ClientError> {
        self.client.json(&Call::cache()).await
    }
}

/// The text of a header that the answer must have.
fn text_of<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, ClientError> {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    text.ok_or_else(|| Error::internal(format!("the answer about a key has no header {name}")).into())
}

/// The version in an answer's entity tag.
fn version_of(headers: &HeaderMap) -> Result<String, ClientError> {
    let tag = text_of(headers, header::ETAG.as_str())?;
    let version = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    version.map(str::to_owned).ok_or_else(|| Error::internal(format!("the ETag {tag} is not in quotes")).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::calls::Payload;

    fn key() -> CacheKey {
        CacheKey::new("a/b").unwrap()
    }

    #[test]
    fn a_value_travels_as_it_is_and_what_is_said_of_it_beside_it() {
        let options = StoreOptions { ttl: Some(Duration::from_secs(90)), only: StoreIf::Version("0102".into()) };
        let call = Call::store_key(&key(), "x\0y".into(), &options);
        assert_eq!(call.path, "/v1/cache/a%2Fb?ttl=90000ms");
        assert_eq!(call.body, Some(Payload::Raw("x\0y".into())));
        assert_eq!(call.headers, [("if-match", "\"0102\"".to_owned())]);
        let absent = StoreOptions { only: StoreIf::Absent, ..StoreOptions::default() };
        let call = Call::store_key(&key(), Bytes::new(), &absent);
        assert_eq!((call.path.as_str(), call.headers), ("/v1/cache/a%2Fb", vec![("if-none-match", "*".to_owned())]));
        assert_eq!(Call::key_state(&key()).path, "/v1/cache/a%2Fb/state");
    }

    #[test]
    fn an_invalidation_says_one_of_three() {
        let body = |which: &Which| match Call::invalidate(which).body {
            Some(Payload::Json(body)) => body,
            other => panic!("{other:?}"),
        };
        assert_eq!(body(&Which::Key(key())), json!({"key": "a/b"}));
        assert_eq!(body(&Which::Prefix("a".into())), json!({"prefix": "a"}));
        assert_eq!(body(&Which::All), json!({"all": true}));
    }

    #[test]
    fn a_version_is_what_stands_between_the_quotes() {
        let version = |tag: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, tag.parse().unwrap());
            version_of(&headers).map_err(|error| error.error.code)
        };
        assert_eq!(version("\"0102\""), Ok("0102".to_owned()));
        assert_eq!(version("0102"), Err(ErrorCode::Internal));
        assert_eq!(version_of(&HeaderMap::new()).unwrap_err().error.code, ErrorCode::Internal);
    }
}
