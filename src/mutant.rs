//! Guarantees that a test can switch off, to show that the checkers would notice their absence.
//!
//! A leaf: the code under test asks [`on`] where it upholds the guarantee. Outside unit tests the
//! answer is the constant `false`, so that no build that anybody runs contains a mutant. In tests it
//! is a switch of the thread: a simulation runs all its nodes on one thread, so that two simulations
//! side by side do not see each other's. Beside the mutants stands [`takes_poison`], by which a test has the task of a
//! partition panic.

/// One guarantee that can be taken away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mutant {
    /// A grant is no longer checked against a live session when its entry is applied.
    NoSessionCheckAtApply,
    /// The counter of fencing tokens begins anew when a node starts from its log or a snapshot.
    TokenCounterRestarts,
    /// A node that restarts has forgotten for whom it voted.
    VotesForgottenOnRestart,
    /// A primary of queues takes for committed what it holds itself, whatever the others hold.
    CommittedByPrimaryAlone,
    /// A primary of queues goes on without a silent copy before it is confirmed that this one counts no more.
    ShrinkCountsFromProposal,
    /// An ack is answered before it is committed.
    AckedBeforeCommit,
    /// A journal that has lost its tail counts as one that has everything.
    ShortenedJournalTrusted,
    /// A line of the cache is read though the session under which it came is over.
    LinesOutliveSessions,
    /// A home of the cache goes on though its lease as a member is over.
    HomesOutliveLeases,
    /// A home of the cache takes a slot over without waiting for what the one before it granted.
    SuccessorsDoNotWait,
    /// A line of the cache that was given up may still be read.
    DroppedLinesAreRead,
}

/// Whether the guarantee is switched off.
#[cfg(not(test))]
#[must_use]
pub const fn on(_: Mutant) -> bool {
    false
}

/// Whether a task that takes up something for this queue is to panic: once for each `poison`.
#[cfg(not(test))]
#[must_use]
pub const fn takes_poison(_: &str) -> bool {
    false
}

#[cfg(test)]
pub use poison::{poison, takes_poison};
#[cfg(test)]
pub use switch::{on, with};

/// Failures that tests inject into real nodes, whose tasks run on any thread.
#[cfg(test)]
mod poison {
    use std::sync::{Mutex, PoisonError};

    static POISONED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    /// The next task in this process that takes up a publish to this queue panics. No two tests use one name.
    pub fn poison(queue: &str) {
        POISONED.lock().unwrap_or_else(PoisonError::into_inner).push(queue.to_owned());
    }

    /// Whether it is the one.
    pub fn takes_poison(queue: &str) -> bool {
        let mut poisoned = POISONED.lock().unwrap_or_else(PoisonError::into_inner);
        let at = poisoned.iter().position(|name| name == queue);
        at.map(|at| poisoned.swap_remove(at)).is_some()
    }
}

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether the guarantee is switched off on this thread.
    pub fn on(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }

    /// Runs `work` with one guarantee switched off (or none), also if it panics no longer than that.
    pub fn with<R>(mutant: Option<Mutant>, work: impl FnOnce() -> R) -> R {
        struct Restore(Option<Mutant>);
        impl Drop for Restore {
            fn drop(&mut self) {
                ACTIVE.set(self.0);
            }
        }
        let _restore = Restore(ACTIVE.replace(mutant));
        work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_lives_only_as_long_as_the_work_it_was_made_for() {
        assert!(!on(Mutant::TokenCounterRestarts));
        with(Some(Mutant::TokenCounterRestarts), || {
            assert!(on(Mutant::TokenCounterRestarts));
            assert!(!on(Mutant::VotesForgottenOnRestart));
        });
        assert!(!on(Mutant::TokenCounterRestarts));
        let panicked = std::panic::catch_unwind(|| with(Some(Mutant::NoSessionCheckAtApply), || panic!("as tests do")));
        assert!(panicked.is_err());
        assert!(!on(Mutant::NoSessionCheckAtApply));
    }
}
