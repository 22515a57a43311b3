//! Values that many worlds of a model checker share, with their hashes. For tests.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// A value that is shared by the worlds in which it is the same, with its hash.
#[derive(Clone, Debug)]
pub(in crate::machine) struct Kept<T> {
    pub(in crate::machine) hash: u64,
    pub(in crate::machine) value: Arc<T>,
}

impl<T: Clone + Hash> Kept<T> {
    pub(in crate::machine) fn new(value: T) -> Self {
        Self { hash: hash_of(&value), value: Arc::new(value) }
    }

    pub(in crate::machine) fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let value = Arc::make_mut(&mut self.value);
        let result = change(value);
        self.hash = hash_of(value);
        result
    }
}

pub(in crate::machine) fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl<T> Eq for Kept<T> {}

impl<T> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<T> std::ops::Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
