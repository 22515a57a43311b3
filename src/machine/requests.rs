//! The memory of answers, which makes retries safe (Ongaro, "Consensus: Bridging Theory and
//! Practice", 2014, section 6.3).
//!
//! Part of the replicated state. The composite machine asks [`AnswerMemory::admit`] before it executes
//! a request and tells [`AnswerMemory::settle`] each final answer. Executes nothing itself.
//!
//! # What is guaranteed
//!
//! * **Each request is executed at most once.** A node numbers its requests and says with each below
//!   which number it wants to hear no more, and of which others (see [`Done`]). The rest is remembered,
//!   waiting or answered; what a node is done with is stale and never executed, so that forgetting it
//!   is safe. A restarted node has a new incarnation, which makes everything of the older one stale.
//! * **One long wait costs no more than one place**, however much is answered meanwhile: of the requests
//!   that are finished above the oldest open one, only the ranges of their numbers are kept.
//! * **An idempotency key gets its first answer for ten minutes** after that was given, whichever node
//!   asks. A repeat while the first request waits is told together with it.
//! * **Nothing is forgotten early.** Where a bound is reached, new requests are refused.
//! * **Giving up undoes exactly what nobody hears of.** [`AnswerMemory::abandon`] says what is left to
//!   undo; it says so once; it forgets a key whose grant is undone, so that a repeat is executed anew
//!   instead of being told of a lock that it does not hold; and a request that is given up before it
//!   arrives is never executed.
//!
//! The caller must refuse the requests of nodes that are no members: of a forgotten node nothing is
//! remembered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, NodeId, RequestId, Tick};

mod ranges;
#[cfg(test)]
mod tests;

pub use ranges::Ranges;

/// Most requests of one node that it has not said it is done with.
pub const MAX_OPEN_PER_NODE: usize = 65_536;
/// Most ranges of finished requests that one request names.
pub const MAX_RANGES_TOLD: usize = 16;
/// Most nodes remembered.
pub const MAX_NODES: usize = 4_096;
/// Most idempotency keys remembered at once.
pub const MAX_KEYS: usize = 200_000;
/// Most requests that wait under one idempotency key.
pub const MAX_REQUESTS_PER_KEY: usize = 64;
/// In which steps the leader counts time, in milliseconds.
pub const STEP_MS: u64 = 10_000;
/// How long the answer under an idempotency key is remembered, in milliseconds of the time that leaders
/// count: ten minutes, and the step in which it was given.
pub const KEY_WINDOW_MS: u64 = 600_000 + STEP_MS;

/// Of which of its requests a node wants to hear no more. What was said once need not be said again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// All below this number.
    pub below: u64,
    /// Some from there on, as the first number of each range and the first after it; at most
    /// [`MAX_RANGES_TOLD`] ranges.
    pub ranges: Vec<(u64, u64)>,
}

/// What to do with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission<A> {
    /// Execute it, then settle it if its answer is final.
    New,
    /// It was answered: this is the answer.
    Repeat(A),
    /// It is being waited for under this request, and told with it.
    Pending(RequestId),
    /// Its node said that it was done with it, or has restarted since: nobody listens.
    Stale,
    /// There is no room to remember it: refuse it.
    Full(MemoryBound),
    /// The idempotency key was used for another request.
    KeyConflict,
}

/// The bounds of the memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum MemoryBound {
    /// [`MAX_NODES`].
    Nodes,
    /// [`MAX_OPEN_PER_NODE`].
    OpenRequests,
    /// [`MAX_KEYS`].
    Keys,
    /// [`MAX_REQUESTS_PER_KEY`].
    RequestsOfAKey,
}

/// What is left to be done about a request that is given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Abandonment<A> {
    /// It waits, and nobody else hears of its end: let the machine abandon the wait of this request
    /// (the first under the same key, where there is one).
    Waiting(RequestId),
    /// It had this answer, which no other request was told: undo it if it is a grant.
    Answered(A),
    /// Others wait for the same or were told the same: do nothing.
    Shared,
    /// It has not come yet, and will not be executed.
    Unseen,
    /// It is stale: nothing is known of it, nothing may be undone.
    Stale,
    /// It has not come yet, and there is no room to remember that it was given up.
    Full(MemoryBound),
}

/// The memory of answers of type `A`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AnswerMemory<A> {
    nodes: BTreeMap<NodeId, NodeMemory<A>>,
    keys: BTreeMap<Arc<str>, Keyed<A>>,
    /// The keys that wait, by the request that is executed for them.
    waiting: BTreeMap<RequestId, Arc<str>>,
    /// The keys that are answered, the oldest answer first.
    answered: BTreeSet<(Tick, Arc<str>)>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct NodeMemory<A> {
    incarnation: Incarnation,
    done_below: u64,
    /// The finished ones from `done_below` on.
    done: Ranges,
    open: BTreeMap<u64, Open<A>>,
}

impl<A> NodeMemory<A> {
    fn new(incarnation: Incarnation) -> Self {
        Self { incarnation, done_below: 0, done: Ranges::default(), open: BTreeMap::new() }
    }

    fn forget(&mut self, done: &Done) {
        if done.below > self.done_below {
            self.done_below = done.below;
            self.open = self.open.split_off(&done.below);
            self.done.cut(done.below);
        }
        for (from, end) in done.ranges.iter().take(MAX_RANGES_TOLD) {
            let from = self.done_below.max(*from);
            // Between the requests that a node has open there is no room for more ranges.
            if from >= *end || self.done.count() >= MAX_OPEN_PER_NODE {
                continue;
            }
            self.done.insert(from, *end);
            let finished: Vec<u64> = self.open.range(from..*end).map(|(seq, _)| *seq).collect();
            finished.iter().for_each(|seq| drop(self.open.remove(seq)));
        }
    }

    fn is_done_with(&self, seq: u64) -> bool {
        seq < self.done_below || self.done.contains(seq)
    }
}

/// A request that its node still wants to hear of; without an answer, it waits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Open<A> {
    answer: Option<A>,
    key: Option<Arc<str>>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Keyed<A> {
    fingerprint: u64,
    first: RequestId,
    /// Who waits for the answer, or was told it.
    askers: Vec<RequestId>,
    /// Whether more were told than are remembered.
    crowded: bool,
    answer: Option<(Tick, A)>,
}

impl<A> Default for AnswerMemory<A> {
    fn default() -> Self {
        Self { nodes: BTreeMap::new(), keys: BTreeMap::new(), waiting: BTreeMap::new(), answered: BTreeSet::new() }
    }
}

impl<A: Clone> AnswerMemory<A> {
    /// An empty memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges a request at the time `at`, as leaders have counted it. Its node wants to hear no more of what it
    /// is `done` with; `key` is its idempotency key with the fingerprint of its content.
    pub fn admit(&mut self, at: Tick, request: RequestId, done: &Done, key: Option<(&str, u64)>) -> Admission<A> {
        self.forget_old_keys(at);
        let node = match self.node(request, done) {
            Ok(node) => node,
            Err(refused) => return refused,
        };
        if let Some(open) = node.open.get(&request.seq) {
            let (answer, key) = (open.answer.clone(), open.key.clone());
            return match answer {
                Some(answer) => Admission::Repeat(answer),
                None => Admission::Pending(self.first_of(request, key)),
            };
        }
        if node.open.len() >= MAX_OPEN_PER_NODE {
            return Admission::Full(MemoryBound::OpenRequests);
        }
        let Some((key, fingerprint)) = key else {
            node.open.insert(request.seq, Open { answer: None, key: None });
            return Admission::New;
        };
        self.admit_key(request, key, fingerprint)
    }

    /// The memory of the request's node, brought up to the request's incarnation and what it is `done` with.
    fn node(&mut self, request: RequestId, done: &Done) -> Result<&mut NodeMemory<A>, Admission<A>> {
        if !self.nodes.contains_key(&request.node) && self.nodes.len() >= MAX_NODES {
            return Err(Admission::Full(MemoryBound::Nodes));
        }
        let new = || NodeMemory::new(request.incarnation);
        let node = self.nodes.entry(request.node).or_insert_with(new);
        if request.incarnation < node.incarnation {
            return Err(Admission::Stale);
        }
        if request.incarnation > node.incarnation {
            *node = new();
        }
        node.forget(done);
        if node.is_done_with(request.seq) { Err(Admission::Stale) } else { Ok(node) }
    }

    /// The request that is executed for this one.
    fn first_of(&self, request: RequestId, key: Option<Arc<str>>) -> RequestId {
        key.and_then(|key| self.keys.get(&key)).map_or(request, |keyed| keyed.first)
    }

    fn admit_key(&mut self, request: RequestId, key: &str, fingerprint: u64) -> Admission<A> {
        let Some((name, _)) = self.keys.get_key_value(key) else { return self.new_key(request, key, fingerprint) };
        let name = name.clone();
        let keyed = self.keys.get_mut(key).expect("the key was found above");
        if keyed.fingerprint != fingerprint {
            return Admission::KeyConflict;
        }
        let answer = keyed.answer.as_ref().map(|(_, answer)| answer.clone());
        let crowded = keyed.askers.len() >= MAX_REQUESTS_PER_KEY;
        if crowded && answer.is_none() {
            return Admission::Full(MemoryBound::RequestsOfAKey);
        }
        if crowded {
            keyed.crowded = true;
        } else {
            keyed.askers.push(request);
        }
        let first = keyed.first;
        self.remember(request, Open { answer: answer.clone(), key: Some(name) });
        answer.map_or(Admission::Pending(first), Admission::Repeat)
    }

    fn new_key(&mut self, request: RequestId, key: &str, fingerprint: u64) -> Admission<A> {
        if self.keys.len() >= MAX_KEYS {
            return Admission::Full(MemoryBound::Keys);
        }
        let key: Arc<str> = key.into();
        let askers = vec![request];
        let keyed = Keyed { fingerprint, first: request, askers, crowded: false, answer: None };
        self.keys.insert(key.clone(), keyed);
        self.waiting.insert(request, key.clone());
        self.remember(request, Open { answer: None, key: Some(key) });
        Admission::New
    }

    fn remember(&mut self, request: RequestId, open: Open<A>) {
        let node = self.nodes.get_mut(&request.node).expect("an admitted request's node is remembered");
        node.open.insert(request.seq, open);
    }

    /// Remembers the final answer to a request, and returns all requests that it is to be told to.
    pub fn settle(&mut self, at: Tick, request: RequestId, answer: A) -> Vec<RequestId> {
        let Some(key) = self.waiting.remove(&request) else {
            self.answer_open(request, &answer);
            return vec![request];
        };
        let keyed = self.keys.get_mut(&key).expect("a key that waits is remembered");
        keyed.answer = Some((at, answer.clone()));
        let askers = keyed.askers.clone();
        self.answered.insert((at, key));
        for asker in &askers {
            self.answer_open(*asker, &answer);
        }
        askers
    }

    fn answer_open(&mut self, request: RequestId, answer: &A) {
        if let Some(open) = self.open_mut(request)
            && open.answer.is_none()
        {
            open.answer = Some(answer.clone());
        }
    }

    fn open_mut(&mut self, request: RequestId) -> Option<&mut Open<A>> {
        let node = self.nodes.get_mut(&request.node).filter(|node| node.incarnation == request.incarnation)?;
        node.open.get_mut(&request.seq)
    }

    /// The asker of a request has gone. From now on its answer is `gone`; the return value says what
    /// is to be undone. The entry that asks for this has been admitted, as a request of its own from
    /// the same node.
    pub fn abandon(&mut self, request: RequestId, gone: A) -> Abandonment<A> {
        let Some(node) = self.nodes.get_mut(&request.node) else { return Abandonment::Stale };
        if request.incarnation != node.incarnation || node.is_done_with(request.seq) {
            return Abandonment::Stale;
        }
        let Some(open) = node.open.get_mut(&request.seq) else {
            // The request that abandons was admitted, and may have taken the last place.
            if node.open.len() > MAX_OPEN_PER_NODE {
                return Abandonment::Full(MemoryBound::OpenRequests);
            }
            node.open.insert(request.seq, Open { answer: Some(gone), key: None });
            return Abandonment::Unseen;
        };
        let before = match (&open.key, open.answer.take()) {
            (None, None) => {
                // Its wait is about to end, and then settles with the answer that the machine gives.
                return Abandonment::Waiting(request);
            }
            (_, before) => before,
        };
        open.answer = Some(gone);
        let Some(key) = open.key.take() else {
            return before.map_or(Abandonment::Stale, Abandonment::Answered);
        };
        self.abandon_key(request, &key)
    }

    fn abandon_key(&mut self, request: RequestId, key: &Arc<str>) -> Abandonment<A> {
        let Some(keyed) = self.keys.get_mut(key) else { return Abandonment::Shared };
        let told = keyed.askers.len();
        keyed.askers.retain(|asker| *asker != request);
        if keyed.crowded || !keyed.askers.is_empty() || keyed.askers.len() == told {
            return Abandonment::Shared;
        }
        let keyed = self.keys.remove(key).expect("the key was found above");
        match keyed.answer {
            None => {
                self.waiting.remove(&keyed.first);
                Abandonment::Waiting(keyed.first)
            }
            Some((at, answer)) => {
                self.answered.remove(&(at, key.clone()));
                Abandonment::Answered(answer)
            }
        }
    }

    /// A node was removed from the cluster for good.
    pub fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// Whether it remembers what it will forget when time has passed.
    pub fn ages(&self) -> bool {
        !self.answered.is_empty()
    }

    /// Forgets the keys that were answered too long before `at`.
    pub fn forget_old_keys(&mut self, at: Tick) {
        while let Some((since, _)) = self.answered.first()
            && at >= since.plus_ms(KEY_WINDOW_MS)
        {
            let Some((_, key)) = self.answered.pop_first() else { return };
            self.keys.remove(&key);
        }
    }
}
