//! What a client asks of the cache over HTTP, and how it takes what it is told.

use std::time::Instant;

use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};

use crate::ask::{Answer as Told, Api};

/// What is asked of a key. Each value that is written is written once in a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    Read,
    Store {
        value: String,
    },
    /// If the key has this version.
    Swap {
        value: String,
        from: String,
    },
}

impl Ask {
    /// What it writes.
    pub(super) fn value(&self) -> Option<&str> {
        match self {
            Self::Read => None,
            Self::Store { value } | Self::Swap { value, .. } => Some(value),
        }
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Read {
        value: String,
        version: String,
        hit: bool,
    },
    Miss,
    Stored {
        version: String,
    },
    /// Not stored: the key has this version.
    Mismatch {
        version: Option<String>,
    },
    /// There was certainly no effect.
    Refused {
        slug: String,
    },
    /// It may have had its effect, or may have it yet.
    Unknown,
}

/// One operation of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Who asked, and where.
    pub(super) who: String,
    pub(super) key: String,
    pub(super) ask: Ask,
    pub(super) answer: Answer,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

fn path_of(key: &str) -> String {
    format!("/v1/cache/{key}")
}

/// An entity tag without its quotes.
pub(super) fn version_in(tag: &str) -> String {
    let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    version.unwrap_or_else(|| panic!("an entity tag without quotes: {tag}")).to_owned()
}

/// What a failure says of its effect.
pub(super) fn refusal(status: u16, body: &Value) -> Answer {
    let slug = body["type"].as_str().unwrap_or_default();
    match (slug, body["outcome"].as_str()) {
        ("not-found", _) => Answer::Miss,
        ("version-mismatch", _) => Answer::Mismatch { version: body["version"].as_str().map(str::to_owned) },
        ("no-quorum", _) | ("unavailable", Some("not-applied")) => Answer::Refused { slug: slug.to_owned() },
        ("unavailable", Some("unknown")) => Answer::Unknown,
        _ => panic!("an answer that nothing explains: {status} {body}"),
    }
}

async fn told(ask: &Ask, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = response.text().await?;
    if status != StatusCode::OK {
        return Ok(refusal(status.as_u16(), &serde_json::from_str(&body).unwrap_or(Value::String(body))));
    }
    let version = version_in(&header(header::ETAG.as_str()));
    Ok(match ask {
        Ask::Read => Answer::Read { value: body, version, hit: header("x-cache") == "hit" },
        Ask::Store { .. } | Ask::Swap { .. } => Answer::Stored { version },
    })
}

impl Api {
    /// Does one operation, at a node that may be dying.
    pub(super) async fn operate(&self, who: &str, key: &str, ask: Ask) -> Record {
        let request = match &ask {
            Ask::Read => self.request(Method::GET, &path_of(key)),
            Ask::Store { value } => self.request(Method::PUT, &path_of(key)).body(value.clone()),
            Ask::Swap { value, from } => {
                let request = self.request(Method::PUT, &path_of(key)).body(value.clone());
                request.header(header::IF_MATCH, format!("\"{from}\""))
            }
        };
        let asked = Instant::now();
        let answer = told(&ask, request).await.unwrap_or_else(|error| match ask {
            // It never got there, or changes nothing.
            _ if error.is_connect() => Answer::Refused { slug: "nobody listens".to_owned() },
            Ask::Read => Answer::Refused { slug: "no answer".to_owned() },
            Ask::Store { .. } | Ask::Swap { .. } => Answer::Unknown,
        });
        let answered = Instant::now();
        Record { who: who.to_owned(), key: key.to_owned(), ask, answer, asked, answered }
    }

    /// Where a key is.
    pub(super) async fn whereabouts(&self, key: &str) -> Value {
        self.get(&format!("{}/state", path_of(key))).await.ok()
    }

    /// Makes keys absent: `{key}`, `{prefix}` or `{all}`.
    pub(super) async fn invalidate(&self, which: Value) -> Told {
        self.post("/v1/cache:invalidate", which).await
    }

    /// The figures of all caches.
    pub(super) async fn caches(&self) -> Value {
        self.get("/v1/cache").await.ok()
    }

    /// The same of one key.
    pub(super) async fn invalidate_key(&self, key: &str) -> Told {
        self.invalidate(json!({ "key": key })).await
    }
}
