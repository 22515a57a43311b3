//! Errors as problem documents (RFC 9457).
//!
//! Owns the document's shape, which the client reads back, and the answer made from it. Whatever a
//! handler, an extractor or axum itself refuses leaves the edge through here.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, Serializer};

use super::fields::quote;
use crate::error::{Details, Error, ErrorCode};

/// The content type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What `Retry-After` tells a client to wait: an election with the default timeouts takes less.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A problem document as it stands in a body.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Problem {
    /// The slug.
    #[serde(rename = "type")]
    pub code: ErrorCode,
    /// The same for every occurrence of the slug.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The fact and the cure.
    #[serde(default)]
    pub detail: String,
    /// The members that API.md names for the slug.
    #[serde(flatten)]
    pub details: Box<Details>,
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(rename = "type")]
            code: ErrorCode,
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(flatten)]
            details: &'a Details,
            /// Where the details have none and the slug promises one: null.
            #[serde(skip_serializing_if = "Option::is_none")]
            version: Option<Option<&'a str>>,
        }
        let is_absent = self.code == ErrorCode::VersionMismatch && self.details.version.is_none();
        let Self { code, title, status, detail, details } = self;
        let version = is_absent.then_some(None);
        Document { code: *code, title, status: *status, detail, details, version }.serialize(serializer)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            code: error.code,
            title: error.code.title().to_owned(),
            status: error.code.http_status(),
            detail: error.detail,
            details: error.details,
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { code: problem.code, detail: problem.detail, details: problem.details }
    }
}

impl Problem {
    /// A whole answer of HTTP/1.1 that ends its connection, for where no request was read.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(self).expect("a problem is a plain struct with string keys");
        let retry = match status {
            StatusCode::SERVICE_UNAVAILABLE => format!("retry-after: {}\r\n", RETRY_AFTER.as_secs()),
            _ => String::new(),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {length}\r\n");
        format!("{head}{retry}connection: close\r\n\r\n{body}").into_bytes()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if self.code == ErrorCode::Internal {
            tracing::error!(detail = %self.detail, "a request failed by a fault of this node");
        }
        let code = self.code;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if status == StatusCode::SERVICE_UNAVAILABLE || code == ErrorCode::QueueFull {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
        }
        if code == ErrorCode::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Turns an error that axum or a layer made, in plain text or empty, into a problem document. Headers
/// that say more than the body, such as `Allow`, stay. Everything else passes.
pub(super) fn normalise(response: Response, method: &axum::http::Method, path: &str) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| {
        // The readiness answer is a 503 with a body of its own.
        kind == PROBLEM_JSON || kind == "application/json"
    });
    if !is_error || is_ours {
        return response;
    }
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => Error::new(
            ErrorCode::MethodNotAllowed,
            format!("{} does not take {}: the Allow header says what it takes", quote(path), quote(method.as_str())),
        ),
        StatusCode::NOT_FOUND => Error::new(ErrorCode::NotFound, format!("nothing is served at {}", quote(path))),
        StatusCode::PAYLOAD_TOO_LARGE => Error::new(ErrorCode::PayloadTooLarge, "the body is too large"),
        other if other.is_client_error() => {
            Error::new(ErrorCode::BadRequest, format!("the request was refused: {other}"))
        }
        other => Error::internal(format!("an answer of {other} without an explanation")),
    };
    let (mut old, _) = response.into_parts();
    let (mut parts, body) = Problem::from(error).into_response().into_parts();
    for stale in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        old.headers.remove(stale);
    }
    parts.headers.extend(old.headers);
    Response::from_parts(parts, Body::new(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::{CycleEdge, Outcome},
        ids::{LockName, SessionId},
    };

    #[test]
    fn a_problem_carries_the_bare_slug_and_its_own_members_only() {
        let mut error = Error::new(ErrorCode::LockDeadlock, "waiting would close a cycle");
        error.details.cycle =
            Some(vec![CycleEdge { session: SessionId::new("s1").unwrap(), lock: LockName::new("a").unwrap() }]);
        let json = serde_json::to_value(Problem::from(error)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "lock-deadlock", "title": "Waiting would close a cycle", "status": 409,
                "detail": "waiting would close a cycle", "cycle": [{"session": "s1", "lock": "a"}],
            })
        );
    }

    #[test]
    fn a_problem_reads_back_as_the_error_it_was() {
        let error = Error::unavailable(Outcome::Unknown, "no answer");
        let text = serde_json::to_string(&Problem::from(error.clone())).unwrap();
        assert_eq!(Error::from(serde_json::from_str::<Problem>(&text).unwrap()), error);
    }

    #[test]
    fn a_mismatch_names_the_version_or_says_null() {
        for (version, expected) in [(Some("0102"), serde_json::json!("0102")), (None, serde_json::Value::Null)] {
            let error = Error::version_mismatch(version.map(str::to_owned), "another one");
            let json = serde_json::to_value(Problem::from(error.clone())).unwrap();
            assert_eq!(json.get("version"), Some(&expected), "{json}");
            assert_eq!(Error::from(serde_json::from_value::<Problem>(json).unwrap()), error);
        }
        let other = serde_json::to_value(Problem::from(Error::no_quorum("no leader"))).unwrap();
        assert_eq!(other.get("version"), None);
    }

    #[test]
    fn headers_say_when_to_come_back_and_how_to_get_in() {
        let answer = |error: Error| Problem::from(error).into_response();
        for error in [
            Error::no_quorum("no leader"),
            Error::unavailable(Outcome::NotApplied, "no answer"),
            Error::new(ErrorCode::DurabilityUnavailable, "no journal"),
            Error::new(ErrorCode::QueueFull, "full"),
        ] {
            assert_eq!(answer(error.clone()).headers()[header::RETRY_AFTER], "1", "{error:?}");
        }
        assert_eq!(answer(Error::new(ErrorCode::Unauthorized, "no")).headers()[header::WWW_AUTHENTICATE], "Bearer");
        assert!(!answer(Error::new(ErrorCode::NotFound, "no")).headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn members_that_a_newer_server_adds_do_not_disturb() {
        let text = r#"{"type":"version-mismatch","title":"t","status":412,"detail":"d","version":null}"#;
        assert_eq!(serde_json::from_str::<Problem>(text).unwrap().code, ErrorCode::VersionMismatch);
    }
}
