//! The one error of the public surface, and its stable slugs.
//!
//! An [`ErrorCode`] is the HTTP problem `type`, decides the HTTP status and the exit code of the CLI,
//! and labels metrics. Everything that crosses an edge is an [`Error`]; modules below keep typed
//! errors of their own and convert here. Errors also travel between nodes, so they serialise.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{LockName, MessageId, SessionId};

/// The stable names of everything that can go wrong (API.md lists when each is used).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each variant is its slug, which the API documentation explains")]
pub enum ErrorCode {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    NotHolder,
    LockTimeout,
    LockDeadlock,
    ReceiptExpired,
    SessionExpired,
    VersionMismatch,
    PayloadTooLarge,
    QueueFull,
    Internal,
    NoQuorum,
    DurabilityUnavailable,
    Unavailable,
}

impl ErrorCode {
    /// The slug.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::Conflict => "conflict",
            Self::NotHolder => "not-holder",
            Self::LockTimeout => "lock-timeout",
            Self::LockDeadlock => "lock-deadlock",
            Self::ReceiptExpired => "receipt-expired",
            Self::SessionExpired => "session-expired",
            Self::VersionMismatch => "version-mismatch",
            Self::PayloadTooLarge => "payload-too-large",
            Self::QueueFull => "queue-full",
            Self::Internal => "internal",
            Self::NoQuorum => "no-quorum",
            Self::DurabilityUnavailable => "durability-unavailable",
            Self::Unavailable => "unavailable",
        }
    }

    /// A short human title, the same for every occurrence (RFC 9457, section 3.1.3).
    pub fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request is malformed or out of range",
            Self::Unauthorized => "A valid API token is required",
            Self::Forbidden => "Requests from that origin are not allowed",
            Self::NotFound => "There is no such thing",
            Self::MethodNotAllowed => "That method is not allowed here",
            Self::Conflict => "The request conflicts with the state of the cluster",
            Self::NotHolder => "The session does not hold the lock",
            Self::LockTimeout => "The lock was not granted in time",
            Self::LockDeadlock => "Waiting would close a cycle",
            Self::ReceiptExpired => "The delivery is over",
            Self::SessionExpired => "The session is not alive",
            Self::VersionMismatch => "The version is another one",
            Self::PayloadTooLarge => "The body is too large",
            Self::QueueFull => "The queue is full",
            Self::Internal => "Something is wrong on our side",
            Self::NoQuorum => "The lock managers have no reachable leader",
            Self::DurabilityUnavailable => "The message cannot be made durable now",
            Self::Unavailable => "The serving peer did not answer",
        }
    }

    /// The HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict | Self::NotHolder | Self::LockTimeout | Self::LockDeadlock | Self::ReceiptExpired => 409,
            Self::SessionExpired => 410,
            Self::VersionMismatch => 412,
            Self::PayloadTooLarge => 413,
            Self::QueueFull => 429,
            Self::Internal => 500,
            Self::NoQuorum | Self::DurabilityUnavailable | Self::Unavailable => 503,
        }
    }

    /// The exit code of the command line.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotFound => 3,
            Self::SessionExpired
            | Self::NotHolder
            | Self::LockTimeout
            | Self::LockDeadlock
            | Self::ReceiptExpired
            | Self::VersionMismatch => 4,
            Self::QueueFull | Self::NoQuorum | Self::DurabilityUnavailable | Self::Unavailable => 5,
            _ => 1,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One edge of a cycle in the wait-for graph: this session holds, or waits ahead for, this lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CycleEdge {
    /// The session that waits.
    pub session: SessionId,
    /// The lock that it waits for.
    pub lock: LockName,
}

/// Whether an operation that failed may have had an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It certainly had none.
    NotApplied,
    /// It may have had one: repeat it with the same idempotency key, or look.
    Unknown,
}

/// The members that a problem document carries beside the standard ones (API.md, table of errors).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// `bad-request`: the field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// `lock-timeout`: who holds the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<SessionId>>,
    /// `lock-deadlock`: the cycle that waiting would close.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle: Option<Vec<CycleEdge>>,
    /// `payload-too-large`: the limit in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// `unavailable`: whether it may have had an effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// `unavailable`, of a publish of one message: its id, under which it can safely be published again, whatever the
    /// outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<MessageId>,
    /// `version-mismatch`: the version that the key has, as a text; `None` where it is absent, which a problem document
    /// says as null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A failed operation: what kind, what happened and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    /// The stable slug.
    pub code: ErrorCode,
    /// The fact and the cure, for a person.
    pub detail: String,
    /// What a program needs to know beside the slug.
    pub details: Box<Details>,
}

impl Error {
    /// An error without further members.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), details: Box::default() }
    }

    /// `bad-request` about one field.
    pub fn bad_request(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorCode::BadRequest, detail);
        error.details.field = Some(field.into());
        error
    }

    /// `unavailable`, saying whether there may have been an effect.
    pub fn unavailable(outcome: Outcome, detail: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorCode::Unavailable, detail);
        error.details.outcome = Some(outcome);
        error
    }

    /// `version-mismatch`: the key has this version, or is absent, and nothing was changed.
    pub fn version_mismatch(version: Option<String>, detail: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorCode::VersionMismatch, detail);
        error.details.version = version;
        error
    }

    /// `no-quorum`: nothing was changed.
    pub fn no_quorum(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::NoQuorum, detail)
    }

    /// `internal`: a fault of ours.
    pub fn internal(detail: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Internal, format!("{detail}; please report this, with the log of the node"))
    }
}
/// What an operator can do about a file system that refuses, as the end of a message.
pub(crate) fn disk_cure(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "free space on that disk (or enlarge it) and start the node again: nothing that was acknowledged is lost"
        }
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            "make it writable for the user that runs the node, and start the node again"
        }
        _ => "see to that disk, and start the node again: with its data, or without as a new one",
    }
}
