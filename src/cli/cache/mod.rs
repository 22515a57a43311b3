//! `cache`: every call about the cache, as a command.

mod text;
mod value;

use std::{ffi::OsString, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::{
    Context, Failure, OnInterrupt,
    output::Format,
    remote::{Remote, parse},
};
use crate::{
    api::{
        cache_bodies::{HIT, InvalidatedBody, REMOTE},
        queue_bodies::Encoding,
    },
    client::{Call, RemoteRead, StoreIf, StoreOptions},
    config::suffixed_duration,
    error::{Error, ErrorCode, Outcome},
    ids::{CacheKey, NodeId},
    node::caches::Which,
};

/// Most bytes of a prefix: those of a key.
const MAX_PREFIX_BYTES: usize = 512;

/// Read, store and invalidate values that all cache nodes agree on; look where they are.
#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Write the value of a key to stdout as it is, without a line end; exit code 3 if it is absent.
    ///
    /// It is the latest one that was acknowledged, whichever node is asked. JSON has its version and the state of
    /// the line that it came from.
    Get(Key),
    /// Store a value; exit code 4 if --if-version or --if-absent does not hold.
    ///
    /// Prints its version, which the next --if-version takes. The cache keeps values in memory: what must survive the
    /// loss of its node is to be kept elsewhere too.
    Put(Put),
    /// Make a key absent, also where it is so already.
    Delete(Key),
    /// Add to a value that is an integer; an absent key counts as 0.
    Increment(Increment),
    /// Make keys absent at all nodes, and return when every copy is gone or its lease is over; exit code 5 if a home did
    /// not answer.
    ///
    /// For when what the values were made from has changed behind their back. Values that were stored and not
    /// written elsewhere are gone too. A home that did not answer is named, and what the others had is gone: say it again
    /// once `syncmesh status` shows nobody missing.
    Invalidate(Invalidate),
    /// Where a key is: its home, what that knows of it, and the line of each node.
    ///
    /// `watch -n1 syncmesh cache state KEY` shows how a line moves between the nodes.
    State(Key),
    /// What the caches of all nodes hold, and what they did since they started.
    Stats,
}

/// A key.
#[derive(Debug, Args)]
pub(super) struct Key {
    /// Any text of 1 to 512 bytes.
    #[arg(value_name = "KEY")]
    key: CacheKey,
}

/// The arguments of `cache put`.
#[derive(Debug, Args)]
pub(super) struct Put {
    #[command(flatten)]
    key: Key,
    /// The value; -: all of stdin. What begins with - comes after --.
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    value: OsString,
    /// Absent again after so long, 1ms to 365d [default: never by itself].
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration)]
    ttl: Option<Duration>,
    /// Store it only if the key has this version, as put prints it, and get with --output json.
    #[arg(long, value_name = "VERSION", value_parser = version, conflicts_with = "if_absent")]
    if_version: Option<String>,
    /// Store it only if the key is absent.
    #[arg(long)]
    if_absent: bool,
}

/// The arguments of `cache increment`.
#[derive(Debug, Args)]
pub(super) struct Increment {
    #[command(flatten)]
    key: Key,
    /// What is added; may be negative.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    by: i64,
}

/// The arguments of `cache invalidate`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Invalidate {
    /// One key.
    #[arg(value_name = "KEY")]
    key: Option<CacheKey>,
    /// All keys that begin so.
    #[arg(long, value_name = "TEXT", value_parser = prefix)]
    prefix: Option<String>,
    /// All keys.
    #[arg(long)]
    all: bool,
}

/// A version with or without the quotes that an ETag has.
fn version(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    match !bare.is_empty() && bare.chars().all(|c| c.is_ascii_graphic() && c != '"') {
        true => Ok(bare.to_owned()),
        false => Err("expected a version as put prints it, and get with --output json".to_owned()),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    match text.len() {
        1..=MAX_PREFIX_BYTES => Ok(text.to_owned()),
        0 => Err("it is empty: to invalidate everything, say --all".to_owned()),
        bytes => Err(format!("it has {bytes} bytes: expected 1 to {MAX_PREFIX_BYTES}")),
    }
}

/// What `cache get` prints as JSON.
#[derive(Debug, Serialize)]
struct GotDocument<'a> {
    key: &'a CacheKey,
    value: String,
    encoding: Encoding,
    version: &'a str,
    state: &'a str,
    cache: &'static str,
}

/// What `cache put` prints as JSON.
#[derive(Debug, Serialize)]
struct StoredDocument<'a> {
    key: &'a CacheKey,
    version: &'a str,
}

impl CacheCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        context.block_on(OnInterrupt::Fail, self.call(&remote))
    }

    async fn call(self, remote: &Remote) -> Result<(), Failure> {
        match self {
            Self::Get(Key { key }) => get(remote, &key).await,
            Self::Put(put) => put.call(remote).await,
            Self::Delete(Key { key }) => remote.act(&Call::delete_key(&key), "deleted").await,
            Self::Increment(Increment { key: Key { key }, by }) => {
                remote.show(&Call::increment_key(&key, by), |counted| text::counted(&key, &counted)).await
            }
            Self::Invalidate(invalidate) => invalidate.call(remote).await,
            Self::State(Key { key }) => remote.show(&Call::key_state(&key), |state| text::state(&state)).await,
            Self::Stats => remote.show(&Call::cache(), |cache| text::stats(&cache)).await,
        }
    }
}

async fn get(remote: &Remote, key: &CacheKey) -> Result<(), Failure> {
    let absent = || Error::new(ErrorCode::NotFound, "the key is absent from the cache");
    let read = remote.client.cache().get(key).await?.ok_or_else(absent)?;
    match remote.output.format() {
        Format::Text => remote.output.raw(&read.body),
        Format::Json => remote.output.result(&document(key, &read), String::new),
    }
}

fn document<'a>(key: &'a CacheKey, read: &'a RemoteRead) -> GotDocument<'a> {
    let (value, encoding) = value::as_text(&read.body);
    let cache = if read.hit { HIT } else { REMOTE };
    GotDocument { key, value, encoding, version: &read.version, state: &read.state, cache }
}

impl Put {
    async fn call(self, remote: &Remote) -> Result<(), Failure> {
        let only = match (self.if_version, self.if_absent) {
            (Some(version), _) => StoreIf::Version(version),
            (None, true) => StoreIf::Absent,
            (None, false) => StoreIf::Always,
        };
        let body = value::given(self.value).await?;
        let key = self.key.key;
        let version = remote.client.cache().put(&key, body, &StoreOptions { ttl: self.ttl, only }).await?;
        let document = StoredDocument { key: &key, version: &version };
        remote.output.result(&document, || text::stored(&key, &version))
    }
}

impl Invalidate {
    fn which(self) -> Result<Which, Failure> {
        match (self.key, self.prefix, self.all) {
            (Some(key), None, false) => Ok(Which::Key(key)),
            (None, Some(prefix), false) => Ok(Which::Prefix(prefix)),
            (None, None, true) => Ok(Which::All),
            _ => Err(Failure::Usage("give exactly one of KEY, --prefix and --all".to_owned())),
        }
    }

    async fn call(self, remote: &Remote) -> Result<(), Failure> {
        let text = remote.client.text(&Call::invalidate(&self.which()?)).await?;
        let body: InvalidatedBody = parse(&text)?;
        remote.print(&text, |_: Value| text::invalidated(&body))?;
        if body.unanswered.is_empty() { Ok(()) } else { Err(incomplete(&body.unanswered).into()) }
    }
}

/// Whose keys may not be gone.
fn incomplete(unanswered: &[NodeId]) -> Error {
    let nodes = unanswered.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
    let detail = format!(
        "{nodes} did not answer: keys that are at home there may not be gone. Run it again when `syncmesh status` shows them up"
    );
    Error::unavailable(Outcome::Unknown, detail)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_shown_as_text_where_it_is_one() {
        let key = CacheKey::new("a/b").unwrap();
        let read = |body: &'static [u8], hit| RemoteRead {
            body: Bytes::from_static(body),
            version: "0102".into(),
            state: "S".into(),
            hit,
        };
        let shown = |read: &RemoteRead| serde_json::to_value(document(&key, read)).unwrap();
        let expected = json!({
            "key": "a/b", "value": "zwölf", "encoding": "utf-8", "version": "0102", "state": "S", "cache": "hit",
        });
        assert_eq!(shown(&read("zwölf".as_bytes(), true)), expected);
        let binary = shown(&read(b"\xff\x00", false));
        assert_eq!(
            (&binary["value"], &binary["encoding"], &binary["cache"]),
            (&json!("/wA="), &json!("base64"), &json!("remote"))
        );
    }

    #[test]
    fn a_version_is_taken_with_and_without_its_quotes() {
        assert_eq!(version("\"0102\"").unwrap(), "0102");
        assert_eq!(version("0102").unwrap(), "0102");
        for bad in ["", "\"\"", "a b", "a\"b", "é", "\n"] {
            assert!(version(bad).is_err(), "{bad:?}");
        }
        assert!(prefix("").is_err() && prefix(&"p".repeat(513)).is_err() && prefix("a/").is_ok());
    }
}
