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

use super::{api::Record, violation::Violation};

/// All checks.
pub fn check(history: &[Record]) -> Vec<Violation> {
    let mut violations = belief::check(history);
    violations.extend(tokens::check(history));
    violations.extend(linear::check(history));
    violations
}
