//! Whether a history is one that the queues may have produced, by what they promise (docs/guarantees.md).
//!
//! Pure functions of the history and of when processes ended. Outcomes that clients were not told are unknown: what
//! may have been published may be delivered or not, what may have been acknowledged may come back or not.
//!
//! Receipts say more than times do: the record that leased a message has a place in its partition's log, and these
//! places are in one order over all fail-overs. So what was leased after a delivery that was acknowledged is told
//! apart however the answers overlapped.
//!
//! That messages of a queue come first in, first out over several receives is not checked: a lease that nobody got
//! to hear of may have had the older one in the meantime.

mod facts;
mod rules;
#[cfg(test)]
mod tests;

use self::facts::Facts;
use super::api::Record;
use crate::sim::{run::Circumstances, violation::Violation};

/// All checks.
pub fn check(history: &[Record], circumstances: &Circumstances) -> Vec<Violation> {
    let facts = Facts::of(history);
    let mut violations = rules::nothing_is_lost(&facts);
    violations.extend(rules::nothing_is_invented(&facts));
    violations.extend(rules::consumed_is_gone(&facts));
    violations.extend(rules::one_delivery_at_a_time(&facts, circumstances));
    violations.extend(rules::one_place_each(&facts));
    violations.extend(rules::one_receive_is_in_order(&facts));
    violations
}
