//! What a home keeps of one key: its copy, who has it, and the transaction that is under way.

use std::collections::{BTreeMap, VecDeque};

use litemap::LiteMap;

use crate::{
    ids::{NodeId, Tick},
    machine::cache::{EntryState, Nonce, RecallTo, Refused, Stored, Version},
};

/// Who has the line, with the right to write it or the duty to supply it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Owner {
    pub(super) node: NodeId,
    /// Of its grant.
    pub(super) nonce: Nonce,
    /// Under which it was granted.
    pub(super) session: Nonce,
    /// The version of its grant.
    pub(super) stamp: Version,
    /// It has said that it does not have it.
    pub(super) is_dead: bool,
    /// The grant under which it owned the line already, where this one is an upgrade: until that arrives, what it has is
    /// under the one before, and the home's copy may be older (R16 is of grants to those who owned nothing).
    pub(super) before: Option<Nonce>,
}

impl Owner {
    /// Whether what it has may be under this grant.
    pub(super) fn holds(&self, grant: Nonce) -> bool {
        self.nonce == grant || self.before == Some(grant)
    }
}

/// Who has a copy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sharer {
    pub(super) nonce: Nonce,
    pub(super) session: Nonce,
}

/// A request of a cache, or of the home itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Asked {
    pub(super) from: NodeId,
    pub(super) call: u64,
    pub(super) session: Nonce,
    pub(super) nonce: Nonce,
    pub(super) what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum What {
    Read {
        refused: Option<Refused>,
    },
    Write {
        held: Option<Nonce>,
        need_value: bool,
    },
    /// The entry goes. Asked by no cache: the rest of the request means nothing.
    Evict,
}

/// A sharer whose acknowledgement is awaited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Unacked {
    pub(super) session: Nonce,
    pub(super) again: Again,
}

/// When something is said again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Again {
    pub(super) at: Tick,
    pub(super) pause_ms: u64,
}

impl Again {
    pub(super) fn first(now: Tick, pause_ms: u64) -> Self {
        Self { at: now.plus_ms(pause_ms), pause_ms }
    }

    /// Whether it is due; then it is put off, for twice as long as the last time.
    pub(super) fn is_due(&mut self, now: Tick, most_ms: u64) -> bool {
        if now < self.at {
            return false;
        }
        self.pause_ms = (self.pause_ms * 2).min(most_ms.max(1));
        self.at = now.plus_ms(self.pause_ms);
        true
    }
}

/// The owner whose answer to a Recall is awaited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Recalling {
    pub(super) owner: Owner,
    pub(super) to: RecallTo,
    pub(super) again: Again,
}

/// Sharers that are asked for the value, one after the other, since the owner is dead.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Asking {
    pub(super) left: VecDeque<(NodeId, Sharer)>,
    /// Until then the first of them is waited for: what it has may be larger than what its way takes.
    pub(super) until: Tick,
    pub(super) again: Again,
}

/// A transaction.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Busy {
    pub(super) asked: Asked,
    /// Of the write that is pending.
    pub(super) version: Option<Version>,
    pub(super) unacked: BTreeMap<NodeId, Unacked>,
    pub(super) recall: Option<Recalling>,
    pub(super) asking: Option<Asking>,
}

impl Busy {
    pub(super) fn new(asked: Asked) -> Self {
        Self { asked, version: None, unacked: BTreeMap::new(), recall: None, asking: None }
    }

    pub(super) fn is_over(&self) -> bool {
        self.unacked.is_empty() && self.recall.is_none() && self.asking.is_none()
    }
}

/// All that a home keeps of a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Entry {
    /// The highest version that was given to anything of the key.
    pub(super) stamp: Version,
    /// The home's copy: current where there is no owner, and what was before the owner's grant where there is one.
    pub(super) copy: Option<Stored>,
    pub(super) owner: Option<Owner>,
    /// Few, as a rule: a sorted list takes a third of what a tree would.
    pub(super) sharers: LiteMap<NodeId, Sharer>,
    /// The highest nonce of each cache that was served, or waits (R14).
    pub(super) served: LiteMap<NodeId, Nonce>,
    /// Seldom there, and large.
    pub(super) busy: Option<Box<Busy>>,
    pub(super) waiting: VecDeque<Asked>,
    /// The last store that the owner wrote through.
    pub(super) through: Option<Version>,
}

impl Entry {
    /// The state as the tables name it.
    pub(super) fn state(&self) -> EntryState {
        match (&self.busy, &self.owner) {
            (Some(_), _) => EntryState::Busy,
            (None, Some(_)) => EntryState::Owned,
            (None, None) if self.sharers.is_empty() => EntryState::I,
            (None, None) => EntryState::S,
        }
    }

    /// Whether it goes, now or in its turn.
    pub(super) fn is_leaving(&self) -> bool {
        let under_way = self.busy.as_ref().map(|busy| &busy.asked);
        under_way.into_iter().chain(&self.waiting).any(|asked| asked.what == What::Evict)
    }

    /// Whether nothing is lost by forgetting it, but for who was served last.
    pub(super) fn is_idle(&self, now: Tick) -> bool {
        self.state() == EntryState::I
            && self.waiting.is_empty()
            && self.copy.as_ref().is_none_or(|copy| copy.body_at(now).is_none())
    }
}
