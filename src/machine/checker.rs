//! What the model checks of machines have in common: a look at every run of a small world, values that many worlds
//! share, a network without order. For tests.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use stateright::{Checker, HasDiscoveries, Model, Property};

/// Machines, and what is between them.
pub(in crate::machine) trait World:
    Clone + Debug + PartialEq + Hash + Send + Sync + 'static
{
    /// What can happen.
    type Action: Clone + Debug + PartialEq + Send + Sync;

    /// All that can happen now.
    fn actions(&self, actions: &mut Vec<Self::Action>);

    /// Something happens.
    fn happen(&mut self, action: &Self::Action);

    /// What must never be so.
    fn wrong(&self) -> Option<&'static str>;

    /// An action as it is told where something goes wrong.
    fn tell(&self, action: &Self::Action) -> String {
        format!("{action:?}")
    }
}

/// Worlds that begin like this one.
#[derive(Clone, Debug)]
struct Runs<W> {
    begin: W,
}

impl<W: World> Model for Runs<W> {
    type State = W;
    type Action = W::Action;

    fn init_states(&self) -> Vec<W> {
        vec![self.begin.clone()]
    }

    fn actions(&self, world: &W, actions: &mut Vec<W::Action>) {
        world.actions(actions);
    }

    fn next_state(&self, world: &W, action: W::Action) -> Option<W> {
        let mut next = world.clone();
        next.happen(&action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing goes wrong", |_, world: &W| world.wrong().is_none())]
    }
}

/// What the checker found out.
#[derive(Debug)]
pub(in crate::machine) struct Found {
    pub(in crate::machine) wrong: Option<&'static str>,
    /// What led to it.
    pub(in crate::machine) path: Vec<String>,
    pub(in crate::machine) states: usize,
    pub(in crate::machine) depth: usize,
    pub(in crate::machine) exhausted: bool,
}

/// Looks at so many states, breadth first. One thread, so that it always finds the same.
pub(in crate::machine) fn check<W: World>(begin: W, most_states: usize) -> Found {
    let checker = Runs { begin }
        .checker()
        .threads(1)
        .target_state_count(most_states)
        .finish_when(HasDiscoveries::Any)
        .spawn_bfs()
        .join();
    let path = checker.discovery("nothing goes wrong");
    Found {
        wrong: path.as_ref().and_then(|path| path.last_state().wrong()),
        path: path.map(told).unwrap_or_default(),
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhausted: checker.state_count() < most_states,
    }
}

fn told<W: World>(path: stateright::Path<W, W::Action>) -> Vec<String> {
    let steps = path.into_vec();
    steps.iter().filter_map(|(world, action)| action.as_ref().map(|action| world.tell(action))).collect()
}

/// What is under way, in no order: what is the same is there once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::machine) struct Network<E>(pub(in crate::machine) BTreeMap<u64, Arc<E>>);

impl<E> Default for Network<E> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<E> Hash for Network<E> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.keys().for_each(|key| state.write_u64(*key));
    }
}

impl<E: Hash> Network<E> {
    pub(in crate::machine) fn add(&mut self, envelope: E) {
        self.0.insert(hash_of(&envelope), Arc::new(envelope));
    }
}

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

fn hash_of(value: &impl Hash) -> u64 {
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
