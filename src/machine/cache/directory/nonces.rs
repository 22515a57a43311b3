//! Which requests of a cache were served: in increasing order for a key, and each once (R14).

use std::collections::BTreeMap;

use super::{
    Home,
    entry::{Asked, Entry},
};
use crate::{
    ids::{CacheKey, NodeId},
    machine::cache::{Nonce, SlotId, rules::Rule},
};

/// What was served under a session, of lines of which nothing else is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Nonces {
    /// All up to here may have been served.
    floor: Nonce,
    of_keys: BTreeMap<CacheKey, Nonce>,
    in_order: BTreeMap<Nonce, CacheKey>,
}

impl From<Nonce> for Nonces {
    /// Nonces are made after the session under which they are used.
    fn from(session: Nonce) -> Self {
        Self { floor: session, of_keys: BTreeMap::new(), in_order: BTreeMap::new() }
    }
}

impl Nonces {
    /// The highest that may have been served for a key.
    fn highest(&self, key: &CacheKey) -> Nonce {
        self.of_keys.get(key).copied().unwrap_or(self.floor)
    }

    fn remember(&mut self, key: &CacheKey, nonce: Nonce, most: usize) {
        if nonce <= self.highest(key) {
            return;
        }
        if let Some(before) = self.of_keys.insert(key.clone(), nonce) {
            self.in_order.remove(&before);
        }
        self.in_order.insert(nonce, key.clone());
        if self.in_order.len() > most
            && let Some((nonce, key)) = self.in_order.pop_first()
        {
            self.of_keys.remove(&key);
            self.floor = self.floor.max(nonce);
        }
    }
}

/// How a request compares with what its cache asked before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// It is the next.
    Next,
    /// It is the last one, again.
    Again,
    /// A later one came before it, or may have.
    Late,
}

impl Home {
    pub(super) fn order_of(&self, key: &CacheKey, asked: &Asked) -> Order {
        if !self.rules.keep(Rule::NonceServedOnce) {
            return Order::Next;
        }
        let entry = self.slots.get(&SlotId::of(key)).and_then(|slot| slot.entries.get(key));
        let served = entry.and_then(|entry| entry.served.get(&asked.from).copied());
        let remembered = self.sessions.get(&asked.from).map(|session| session.nonces.highest(key));
        // The first that an entry serves is above all that is remembered. From then on what was forgotten of other keys says
        // nothing of this one: else what was served, and is asked again, would pass for what never was.
        let highest =
            if self.rules.keep(Rule::EntryKnowsServed) { served.or(remembered) } else { served.max(remembered) };
        match highest {
            Some(before) if asked.nonce < before => Order::Late,
            Some(before) if asked.nonce == before && served == Some(before) => Order::Again,
            Some(before) if asked.nonce == before => Order::Late,
            _ => Order::Next,
        }
    }

    /// An entry goes: what was served of it is remembered with the sessions.
    pub(super) fn remember_served(&mut self, key: &CacheKey, entry: &Entry) {
        let most = self.settings.max_forgotten;
        let remember = |(node, nonce): (&NodeId, &Nonce)| {
            if let Some(session) = self.sessions.get_mut(node) {
                session.nonces.remember(key, *nonce, most);
            }
        };
        entry.served.iter().for_each(remember);
    }
}
