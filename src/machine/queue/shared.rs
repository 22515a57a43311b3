//! Collections whose copies share their parts until one of them changes: copying one takes a moment, whatever it
//! holds, and a change after that copies one part. So a checkpoint is written from a copy while the queues go on.
//!
//! [`SharedMap`] is a B-tree of two levels (the upper one a map of the leaves), [`SharedQueue`] a list of parts.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

/// Most entries of a leaf.
const LEAF: usize = 128;
/// Neighbours are joined where together they have no more than this, and one of them has less than half of it.
const JOINED: usize = LEAF / 2;
/// Entries of a part of a queue.
const PART: usize = 512;

/// A map by number.
#[derive(Clone, Debug)]
pub(super) struct SharedMap<T> {
    /// None is empty. The key is no greater than the first of the leaf, and greater than the last of the one before.
    leaves: BTreeMap<u64, Arc<Vec<(u64, T)>>>,
    len: usize,
}

impl<T> Default for SharedMap<T> {
    fn default() -> Self {
        Self { leaves: BTreeMap::new(), len: 0 }
    }
}

impl<T: PartialEq> PartialEq for SharedMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T> SharedMap<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.leaves().flatten().map(|(key, value)| (*key, value))
    }

    /// Its entries, leaf by leaf.
    pub(super) fn leaves(&self) -> impl Iterator<Item = &[(u64, T)]> {
        self.leaves.values().map(|leaf| leaf.as_slice())
    }

    pub(super) fn get(&self, key: u64) -> Option<&T> {
        let (_, leaf) = self.leaves.range(..=key).next_back()?;
        let at = leaf.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        leaf.get(at).map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: u64) -> bool {
        self.get(key).is_some()
    }

    /// The first entry whose key is not less than this.
    pub(super) fn first_from(&self, key: u64) -> Option<(u64, &T)> {
        let within = self.leaves.range(..=key).next_back().into_iter();
        let after = self.leaves.range((Bound::Excluded(key), Bound::Unbounded)).next();
        let mut leaves = within.chain(after).map(|(_, leaf)| leaf);
        leaves.find_map(|leaf| {
            leaf.get(leaf.partition_point(|(other, _)| *other < key)).map(|(key, value)| (*key, value))
        })
    }
}

impl<T: Clone> SharedMap<T> {
    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let (_, leaf) = self.leaves.range_mut(..=key).next_back()?;
        let at = leaf.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Arc::make_mut(leaf).get_mut(at).map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, key: u64, value: T) -> Option<T> {
        let Some((lowest, leaf)) = self.leaves.range_mut(..=key).next_back() else {
            return self.insert_before_all(key, value);
        };
        match leaf.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => Arc::make_mut(leaf).get_mut(at).map(|(_, old)| std::mem::replace(old, value)),
            Err(at) => {
                let lowest = *lowest;
                self.len += 1;
                if leaf.len() < LEAF {
                    Arc::make_mut(leaf).insert(at, (key, value));
                } else if at == leaf.len() {
                    // What comes in order fills its leaves.
                    self.leaves.insert(key, Arc::new(vec![(key, value)]));
                } else {
                    self.split(lowest, at, (key, value));
                }
                None
            }
        }
    }

    fn insert_before_all(&mut self, key: u64, value: T) -> Option<T> {
        self.len += 1;
        let mut first = match self.leaves.first_entry() {
            Some(first) if first.get().len() < LEAF => first.remove(),
            _ => Arc::default(),
        };
        Arc::make_mut(&mut first).insert(0, (key, value));
        self.leaves.insert(key, first);
        None
    }

    /// Makes two leaves of a full one that takes an entry here.
    fn split(&mut self, lowest: u64, at: usize, entry: (u64, T)) {
        let Some(leaf) = self.leaves.get_mut(&lowest) else { return };
        let lower = Arc::make_mut(leaf);
        lower.insert(at, entry);
        let upper = lower.split_off(lower.len() / 2);
        self.leaves.extend(upper.first().map(|(key, _)| *key).map(|key| (key, Arc::new(upper))));
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        let (lowest, leaf) = self.leaves.range_mut(..=key).next_back()?;
        let at = leaf.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let lowest = *lowest;
        let (_, value) = Arc::make_mut(leaf).remove(at);
        let left = leaf.len();
        self.len -= 1;
        if left == 0 {
            self.leaves.remove(&lowest);
        } else if left < JOINED / 2 {
            self.join(lowest, left);
        }
        Some(value)
    }

    /// Joins a leaf that has become small with a neighbour, if that is small enough.
    fn join(&mut self, lowest: u64, left: usize) {
        let fits = |(key, leaf): (&u64, &Arc<Vec<_>>)| (leaf.len() + left <= JOINED).then_some(*key);
        let before = self.leaves.range(..lowest).next_back().and_then(fits);
        let after = || self.leaves.range((Bound::Excluded(lowest), Bound::Unbounded)).next().and_then(fits);
        let (lower, upper) = match (before, before.is_none().then(after).flatten()) {
            (Some(before), _) => (before, lowest),
            (None, Some(after)) => (lowest, after),
            (None, None) => return,
        };
        let Some(upper) = self.leaves.remove(&upper) else { return };
        if let Some(lower) = self.leaves.get_mut(&lower) {
            Arc::make_mut(lower).extend(Arc::unwrap_or_clone(upper));
        }
    }
}

/// First in, first out.
#[derive(Clone, Debug)]
pub(super) struct SharedQueue<T> {
    parts: VecDeque<Arc<Vec<T>>>,
    /// So many of the first part are gone.
    gone: usize,
    len: usize,
}

impl<T> Default for SharedQueue<T> {
    fn default() -> Self {
        Self { parts: VecDeque::new(), gone: 0, len: 0 }
    }
}

impl<T: PartialEq> PartialEq for SharedQueue<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.parts().flatten().eq(other.parts().flatten())
    }
}

impl<T> SharedQueue<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.parts.front()?.get(self.gone)
    }

    pub(super) fn back(&self) -> Option<&T> {
        self.parts.back()?.last().filter(|_| self.len > 0)
    }

    /// What it holds, part by part.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[T]> {
        let gone = |nth| if nth == 0 { self.gone } else { 0 };
        self.parts.iter().enumerate().map(move |(nth, part)| part.get(gone(nth)..).unwrap_or_default())
    }
}

impl<T: Clone> SharedQueue<T> {
    pub(super) fn push_back(&mut self, value: T) {
        self.len += 1;
        match self.parts.back_mut() {
            Some(last) if last.len() < PART => Arc::make_mut(last).push(value),
            _ => self.parts.push_back(Arc::new(vec![value])),
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let first = self.parts.front()?;
        let value = first.get(self.gone)?.clone();
        self.gone += 1;
        self.len -= 1;
        if self.gone == first.len() {
            self.parts.pop_front();
            self.gone = 0;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl<T> SharedMap<T> {
        /// How its leaves lie, if they lie as they should.
        fn shape(&self) -> Vec<usize> {
            let mut end = None;
            for (lowest, leaf) in &self.leaves {
                assert!(!leaf.is_empty() && leaf.len() <= LEAF);
                assert!(leaf.is_sorted_by(|(one, _), (other, _)| one < other));
                assert!(*lowest <= leaf[0].0 && end.is_none_or(|end| end < *lowest));
                end = leaf.last().map(|(key, _)| *key);
            }
            let shape: Vec<usize> = self.leaves.values().map(|leaf| leaf.len()).collect();
            assert_eq!(shape.iter().sum::<usize>(), self.len);
            shape
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u64),
        Append(u64),
        Remove(u64),
        RemoveMost(u64),
        Change(u64),
        Copy,
    }

    fn act() -> impl Strategy<Value = Act> {
        let key = || 0..2_000u64;
        prop_oneof![
            4 => key().prop_map(Act::Insert),
            3 => (1..300u64).prop_map(Act::Append),
            3 => key().prop_map(Act::Remove),
            1 => (2..40u64).prop_map(Act::RemoveMost),
            3 => key().prop_map(Act::Change),
            1 => Just(Act::Copy),
        ]
    }

    proptest! {
        #[test]
        fn a_map_is_as_one_that_shares_nothing_and_so_are_its_copies(acts in prop::collection::vec(act(), 1..60)) {
            let (mut map, mut plain) = (SharedMap::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (nth, act) in (0u64..).zip(acts) {
                match act {
                    Act::Insert(key) => assert_eq!(map.insert(key, nth), plain.insert(key, nth)),
                    Act::Append(count) => {
                        let next = plain.last_key_value().map_or(0, |(key, _)| key + 1);
                        for key in next..next + count {
                            assert_eq!(map.insert(key, nth), plain.insert(key, nth));
                        }
                    }
                    Act::Remove(key) => assert_eq!(map.remove(key), plain.remove(&key)),
                    Act::RemoveMost(but) => {
                        for key in plain.keys().copied().filter(|key| key % but != 0).collect::<Vec<_>>() {
                            assert_eq!(map.remove(key), plain.remove(&key));
                        }
                        let shape = map.shape();
                        assert!(shape.windows(2).all(|pair| pair[0].max(pair[1]) >= JOINED / 2), "{shape:?}");
                    }
                    Act::Change(key) => {
                        map.get_mut(key).into_iter().for_each(|value| *value += 1_000);
                        plain.get_mut(&key).into_iter().for_each(|value| *value += 1_000);
                    }
                    Act::Copy => copies.push((map.clone(), plain.clone())),
                }
                map.shape();
                let key = nth * 37 % 2_000;
                assert_eq!((map.get(key), map.contains_key(key)), (plain.get(&key), plain.contains_key(&key)));
                assert_eq!(map.first_from(key), plain.range(key..).next().map(|(key, value)| (*key, value)));
            }
            copies.push((map, plain));
            for (map, plain) in copies {
                assert_eq!(map.len(), plain.len());
                assert!(map.iter().eq(plain.iter().map(|(key, value)| (*key, value))));
            }
        }

        #[test]
        fn a_queue_is_as_one_that_shares_nothing_and_so_are_its_copies(
            acts in prop::collection::vec((any::<bool>(), 1..1_200usize), 1..20),
        ) {
            let (mut queue, mut plain, mut copies) = (SharedQueue::default(), VecDeque::new(), Vec::new());
            for (nth, (pushes, count)) in acts.into_iter().enumerate() {
                copies.push((queue.clone(), plain.clone()));
                for n in 0..count {
                    if pushes {
                        queue.push_back((nth, n));
                        plain.push_back((nth, n));
                    } else {
                        assert_eq!(queue.pop_front(), plain.pop_front());
                    }
                }
                assert_eq!((queue.front(), queue.back(), queue.len()), (plain.front(), plain.back(), plain.len()));
            }
            copies.push((queue, plain));
            for (queue, plain) in copies {
                assert!(queue.parts().flatten().eq(plain.iter()));
                let mut again = SharedQueue::default();
                plain.into_iter().for_each(|value| again.push_back(value));
                assert!(again == queue);
            }
        }
    }

    #[test]
    fn what_is_left_of_a_long_map_lies_in_few_leaves_and_is_shared_until_it_changes() {
        let mut map = SharedMap::default();
        (0..100_000).for_each(|key| _ = map.insert(key, key));
        assert_eq!(map.shape().len(), 100_000usize.div_ceil(LEAF));
        (0..100_000).filter(|key| key % 1_000 != 0).for_each(|key| _ = map.remove(key));
        assert!(map.shape().len() <= 6, "{:?}", map.shape());
        let copy = map.clone();
        *map.get_mut(99_000).unwrap() = 0;
        let shared = map.leaves.values().filter(|leaf| Arc::strong_count(leaf) == 2).count();
        assert_eq!(shared, map.shape().len() - 1);
        assert_eq!(copy.get(99_000), Some(&99_000));
    }
}
