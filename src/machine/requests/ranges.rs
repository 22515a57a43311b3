//! A set of numbers, kept as the ranges that they form.
//!
//! Nodes keep in it which of their requests are finished, and the [memory of answers](super) which of
//! them it may forget. Knows nothing of requests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Disjoint ranges that do not touch: the first number of each, and the first number after it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// How many ranges there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether a number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.0.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    /// Adds the numbers from `from` on and below `end`.
    pub fn insert(&mut self, mut from: u64, mut end: u64) {
        if from >= end {
            return;
        }
        while let Some((&start, &stop)) = self.0.range(..=end).next_back()
            && stop >= from
        {
            self.0.remove(&start);
            (from, end) = (from.min(start), end.max(stop));
        }
        self.0.insert(from, end);
    }

    /// Takes out all numbers below `least`.
    pub fn cut(&mut self, least: u64) {
        while let Some(first) = self.0.first_entry().filter(|first| *first.key() < least) {
            let end = first.remove();
            self.insert(least, end);
        }
    }

    /// The ranges that begin at `least` or later, in their order.
    pub fn starting_at(&self, least: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.range(least..).map(|(from, end)| (*from, *end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_what_a_plain_set_holds_and_never_touch(
            steps in prop::collection::vec((any::<bool>(), 0..40u64, 0..8u64), 1..40)
        ) {
            let (mut ranges, mut plain) = (Ranges::default(), BTreeSet::new());
            for (cuts, from, length) in steps {
                if cuts && length == 0 {
                    ranges.cut(from);
                    plain.retain(|number| *number >= from);
                } else {
                    ranges.insert(from, from + length);
                    plain.extend(from..from + length);
                }
                let held: BTreeSet<u64> = (0..50).filter(|number| ranges.contains(*number)).collect();
                prop_assert_eq!(&held, &plain);
                let beginnings = plain.iter().filter(|number| **number == 0 || !plain.contains(&(**number - 1)));
                prop_assert_eq!(ranges.starting_at(0).map(|(from, _)| from).collect::<Vec<_>>(),
                    beginnings.copied().collect::<Vec<_>>());
            }
        }
    }
}
