//! What a history or a run shows that must not be.

use std::fmt;

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// Two clients believed to hold a lock at once, not both shared.
    Overlap(String),
    /// A fencing token that did not grow, or stood for two grants.
    Token(String),
    /// No order of the operations on a lock explains the answers.
    NotLinearizable(String),
    /// The search for such an order was given up: the history is too wide to say.
    Undecided(String),
    /// A message whose publish was acknowledged is gone.
    Lost(String),
    /// What was delivered was never sent there, or was certainly refused.
    Invented(String),
    /// A message came back after its ack had been answered, or after it had become a dead letter.
    Consumed(String),
    /// A message was delivered again though its delivery had not ended.
    Duplicate(String),
    /// One message has two places in its queue, or messages came out of order.
    Order(String),
    /// The service did not come back after the faults.
    NoProgress(String),
    /// A node ended by itself.
    NodeFailed(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, detail) = match self {
            Self::Overlap(detail) => ("mutual exclusion", detail),
            Self::Token(detail) => ("fencing token", detail),
            Self::NotLinearizable(detail) => ("linearizability", detail),
            Self::Undecided(detail) => ("undecided", detail),
            Self::Lost(detail) => ("lost", detail),
            Self::Invented(detail) => ("invented", detail),
            Self::Consumed(detail) => ("consumed, and there again", detail),
            Self::Duplicate(detail) => ("delivered twice at a time", detail),
            Self::Order(detail) => ("order", detail),
            Self::NoProgress(detail) => ("progress", detail),
            Self::NodeFailed(detail) => ("failed node", detail),
        };
        write!(f, "{what}: {detail}")
    }
}
