//! Requests about the cache: how each is read, and how OpenAPI describes it.
//!
//! A value is the raw body of its request; how long it lives stands in the query, and on which condition it is stored
//! in the headers that HTTP has for that (RFC 9110, section 13.1).

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use bytes::Bytes;
use utoipa::ToSchema;

use super::{
    ApiState,
    extract::{TakenRoom, read_into},
    fields::{Fields, FromFields, quote},
    problem::Problem,
    queue_extract::refuse_name,
    queue_requests::{KeylessBody, one_header},
};
use crate::{
    config::suffixed_duration,
    error::Error,
    ids::{CacheKey, Epoch},
    machine::cache::Version,
    node::caches::{Only, Put, Which},
    time::millis,
};

/// The longest that a value lives if it is to be absent by itself: 365 days.
const MAX_TTL_MS: u64 = 31_536_000_000;

/// Most bytes of a prefix: those of a key.
const MAX_PREFIX_BYTES: usize = 512;

/// A version that no value has: what a client names that no answer has told it.
const NEVER: Version = Version { epoch: Epoch(u64::MAX), seq: u64::MAX, n: u64::MAX };

/// A value to store: the body as it is, described by query and headers.
#[derive(Debug)]
pub(super) struct RawValue {
    pub(super) put: Put,
    /// Kept until the call is answered.
    pub(super) _room: TakenRoom,
}

impl FromRequest<ApiState> for RawValue {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let described = described_value(parts.uri.query(), &parts.headers)?;
        let (body, room) = read_into(&parts.headers, body, api.max_value_bytes, Some(&api.room)).await?;
        Ok(Self { put: Put { body, ..described }, _room: room })
    }
}

/// The value that query and headers describe, without its body.
fn described_value(query: Option<&str>, headers: &HeaderMap) -> Result<Put, Error> {
    refuse_name(headers)?;
    let mut fields = Fields::from_query(query.unwrap_or(""))?;
    let ttl_ms = ttl(&mut fields)?;
    fields.finish()?;
    Ok(Put { body: Bytes::new(), ttl_ms, only: condition(headers)? })
}

fn ttl(fields: &mut Fields) -> Result<Option<u64>, Error> {
    let Some(text) = fields.text("ttl")? else { return Ok(None) };
    let duration = suffixed_duration(&quote(&text)).map_err(|why| Error::bad_request("ttl", why))?;
    let ttl_ms = millis(duration);
    match ttl_ms {
        1..=MAX_TTL_MS => Ok(Some(ttl_ms)),
        _ => Err(Error::bad_request("ttl", format!("ttl is {}: expected 1ms to 365d", quote(&text)))),
    }
}

/// On which condition a value is to be stored.
fn condition(headers: &HeaderMap) -> Result<Only, Error> {
    let version = one_header(headers, &header::IF_MATCH, "If-Match")?;
    let absent = one_header(headers, &header::IF_NONE_MATCH, "If-None-Match")?;
    match (version, absent) {
        (None, None) => Ok(Only::Always),
        (Some(version), None) => named_version(&version).map(Only::If),
        (None, Some(star)) if star.trim() == "*" => Ok(Only::IfAbsent),
        (None, Some(_)) => {
            let detail = "If-None-Match takes * alone: the value is stored where the key is absent";
            Err(Error::bad_request("If-None-Match", detail))
        }
        (Some(_), Some(_)) => {
            let detail = "If-Match and If-None-Match cannot both hold: give one of them";
            Err(Error::bad_request("If-None-Match", detail))
        }
    }
}

/// The version in an entity tag. To clients it is opaque: a tag that never was one matches nothing.
fn named_version(tag: &str) -> Result<Version, Error> {
    let is_tag_character = |c: char| !c.is_control() && c != '"' && c != ' ';
    let version = tag.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match version.filter(|version| !version.is_empty() && version.chars().all(is_tag_character)) {
        Some(version) => Ok(version.parse().unwrap_or(NEVER)),
        None => {
            let detail = format!("If-Match is '{}': expected one version in quotes, as an ETag tells it", quote(tag));
            Err(Error::bad_request("If-Match", detail))
        }
    }
}

/// A call that is not conditional: who says that it is must not be misunderstood.
#[derive(Debug)]
pub(super) struct Unconditional;

impl FromRequestParts<ApiState> for Unconditional {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        for (name, field) in [(header::IF_MATCH, "If-Match"), (header::IF_NONE_MATCH, "If-None-Match")] {
            if parts.headers.contains_key(name) {
                let detail = format!("{field} is for the PUT of a value: this call is not conditional");
                return Err(Error::bad_request(field, detail).into());
            }
        }
        Ok(Self)
    }
}

/// Adds to an integer.
#[derive(Debug, ToSchema)]
pub(super) struct IncrementBody {
    /// What is added, of 64 bits with a sign; 1 if left out.
    pub(super) by: Option<i64>,
}

impl FromFields for IncrementBody {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        Ok(Self { by: fields.signed("by")? })
    }
}

impl KeylessBody for IncrementBody {}

/// Says what is to be absent everywhere: exactly one of these.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the request: it is read into what it stands for")]
pub(super) struct InvalidateBody {
    /// One key.
    #[schema(value_type = Option<String>)]
    key: Option<CacheKey>,
    /// All keys that begin so, 1 to 512 bytes.
    prefix: Option<String>,
    /// True: all keys.
    all: Option<bool>,
}

/// What an [`InvalidateBody`] stands for.
#[derive(Debug)]
pub(super) struct Invalidate(pub(super) Which);

impl FromFields for Invalidate {
    fn from_fields(fields: &mut Fields) -> Result<Self, Error> {
        let (key, prefix, all) = (fields.parsed("key")?, fields.text("prefix")?, fields.flag("all")?);
        match (key, prefix, all) {
            (Some(key), None, None) => Ok(Self(Which::Key(key))),
            (None, Some(prefix), None) => {
                check_prefix(fields, &prefix)?;
                Ok(Self(Which::Prefix(prefix)))
            }
            (None, None, Some(true)) => Ok(Self(Which::All)),
            (None, None, Some(false)) => Err(fields.refuse("all", "must be true, or left out for key or prefix")),
            (None, None, None) => {
                Err(Error::bad_request("key", "what is to be invalidated is missing: give key, prefix or all"))
            }
            (_, prefix, all) => {
                let second = if prefix.is_some() && all.is_none() { "prefix" } else { "all" };
                Err(fields.refuse(second, "is one too many: give exactly one of key, prefix and all"))
            }
        }
    }
}

impl KeylessBody for Invalidate {}

/// An empty prefix would be everything, by a variable that was not set.
fn check_prefix(fields: &Fields, prefix: &str) -> Result<(), Error> {
    match prefix.len() {
        0 => Err(fields.refuse("prefix", "is empty: to invalidate everything, say {\"all\":true}")),
        1..=MAX_PREFIX_BYTES => Ok(()),
        bytes => Err(fields.refuse("prefix", &format!("has {bytes} bytes: expected 1 to {MAX_PREFIX_BYTES}"))),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn field<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        result.unwrap_err().details.field.unwrap()
    }

    #[test]
    fn a_value_lives_as_long_as_its_query_says() {
        let ttl = |query: &str| described_value(Some(query), &HeaderMap::new()).map(|put| put.ttl_ms);
        assert_eq!(ttl("").unwrap(), None);
        for (query, ms) in [("ttl=1ms", 1), ("ttl=90s", 90_000), ("ttl=365d", MAX_TTL_MS)] {
            assert_eq!(ttl(query).unwrap(), Some(ms), "{query}");
        }
        for bad in ["ttl=0ms", "ttl=366d", "ttl=5", "ttl=", "ttl=-1s", "ttl=1.5s", "ttl=1y", "ttl=1s&ttl=2s"] {
            assert_eq!(field(ttl(bad)), "ttl", "{bad}");
        }
        assert_eq!(field(ttl("ttl_ms=5")), "ttl_ms");
    }

    #[test]
    fn conditions_are_one_quoted_version_or_a_star() {
        let only = |pairs: &[(&'static str, &str)]| described_value(None, &headers(pairs)).map(|put| put.only);
        let version = Version { epoch: Epoch(2), seq: 300, n: 1 };
        assert_eq!(only(&[]).unwrap(), Only::Always);
        assert_eq!(only(&[("if-match", &format!("\"{version}\""))]).unwrap(), Only::If(version));
        assert_eq!(only(&[("if-match", "\"not-a-version\"")]).unwrap(), Only::If(NEVER));
        assert_eq!(only(&[("if-none-match", "*")]).unwrap(), Only::IfAbsent);
        for bad in ["*", "x", "", "\"", "\"\"", "W/\"000000\"", "\"a\", \"b\"", "\"a b\"", "\"a\"\"b\""] {
            assert_eq!(field(only(&[("if-match", bad)])), "If-Match", "{bad}");
        }
        assert_eq!(field(only(&[("if-match", "\"a\""), ("if-match", "\"a\"")])), "If-Match");
        for bad in ["\"000000\"", "", "**"] {
            assert_eq!(field(only(&[("if-none-match", bad)])), "If-None-Match", "{bad}");
        }
        assert_eq!(field(only(&[("if-match", "\"a\""), ("if-none-match", "*")])), "If-None-Match");
        assert_eq!(field(only(&[("idempotency-key", "k")])), "Idempotency-Key");
    }

    #[test]
    fn exactly_one_of_three_is_to_be_absent() {
        let read = |json: &str| {
            let mut fields = Fields::from_json(json.as_bytes())?;
            let Invalidate(which) = Invalidate::from_fields(&mut fields)?;
            fields.finish().map(|()| which)
        };
        assert_eq!(read(r#"{"key":"a"}"#).unwrap(), Which::Key(CacheKey::new("a").unwrap()));
        assert_eq!(read(r#"{"prefix":"a/","key":null}"#).unwrap(), Which::Prefix("a/".into()));
        assert_eq!(read(r#"{"all":true}"#).unwrap(), Which::All);
        for (bad, expected) in [
            ("{}", "key"),
            (r#"{"key":".."}"#, "key"),
            (r#"{"prefix":""}"#, "prefix"),
            (r#"{"all":false}"#, "all"),
            (r#"{"all":"yes"}"#, "all"),
            (r#"{"key":"a","prefix":"b"}"#, "prefix"),
            (r#"{"key":"a","all":true}"#, "all"),
            (r#"{"prefix":"a","all":true}"#, "all"),
            (r#"{"keys":["a"],"all":true}"#, "keys"),
        ] {
            assert_eq!(field(read(bad)), expected, "{bad}");
        }
        assert_eq!(field(read(&format!(r#"{{"prefix":"{}"}}"#, "p".repeat(513)))), "prefix");
    }
}
