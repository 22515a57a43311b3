//! When to try again what failed.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause before dialling again, doubled with each failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// A connection of at least this length counts as a success.
const LASTING: Duration = Duration::from_secs(2);

/// Exponential back-off with jitter: half of the pause is random, so that peers which lost each
/// other at the same moment do not dial at the same moment for ever.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    pub(super) fn failed(&mut self, now: Instant) {
        let full = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MOST);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + full.mul_f64(rand::random_range(0.5..=1.0)));
    }

    pub(super) fn failing(&self) -> bool {
        self.failures > 0
    }

    pub(super) fn ready(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// A connection ended. One that lasted is worth opening again at once; one that did not is a
    /// failure, or two nodes that do not want each other would connect as fast as they can.
    pub(super) fn ended(&mut self, since: Instant, now: Instant) {
        if now.duration_since(since) >= LASTING { self.reset() } else { self.failed(now) }
    }

    /// The failures in a row, when it is time to tell people: the first, and then about each minute.
    pub(super) fn worth_telling(&self) -> bool {
        self.failures % 12 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_a_success_forgets_it() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        for _ in 0..40 {
            backoff.failed(now);
        }
        assert!(!backoff.ready(now + BACKOFF_MOST / 2 - Duration::from_millis(1)));
        assert!(backoff.ready(now + BACKOFF_MOST));
        backoff.reset();
        assert!(backoff.ready(now));
    }

    #[test]
    fn a_connection_that_did_not_last_is_not_opened_again_at_once() {
        let mut backoff = Backoff::default();
        let since = Instant::now();
        backoff.ended(since, since + LASTING);
        assert!(backoff.ready(since + LASTING));
        backoff.ended(since, since + Duration::from_millis(5));
        assert!(!backoff.ready(since + Duration::from_millis(5)));
    }
}
