//! Whether a history is one that a correct lock service could have produced.
//!
//! Pure functions of the history: they know neither the nodes nor the faults. Each returns what it
//! found wrong, in words that name the operations.

mod belief;
mod linear;
mod model;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;

use super::history::Record;

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
            Self::NoProgress(detail) => ("progress", detail),
            Self::NodeFailed(detail) => ("failed node", detail),
        };
        write!(f, "{what}: {detail}")
    }
}

/// All checks.
pub fn check(history: &[Record]) -> Vec<Violation> {
    let mut violations = belief::check(history);
    violations.extend(tokens::check(history));
    violations.extend(linear::check(history));
    violations
}

/// One line about an operation.
fn tell(record: &Record) -> String {
    let returned = record.returned.map_or("never".to_owned(), |moment| moment.ms.to_string());
    format!("client {} {}..{returned} ms {:?} -> {:?}", record.client, record.invoked.ms, record.ask, record.answer)
}
