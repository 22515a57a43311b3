//! What a cache keeps of one key: the line, the request that is open for it, what is on its way out, who waits.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Operation, Outcome};
use crate::{
    ids::{Epoch, Tick},
    machine::cache::{HomeId, LineState, Nonce, RecallTo, Refused, Value, Version},
};

/// A value with its time to live on this node's clock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::machine::cache) struct Stored {
    pub(in crate::machine::cache) version: Version,
    pub(in crate::machine::cache) body: Option<Bytes>,
    pub(in crate::machine::cache) expires: Option<Tick>,
}

impl Stored {
    /// What travelled, counted from the sending of the request.
    pub(in crate::machine::cache) fn arrived(value: Value, sent: Tick) -> Self {
        let expires = value.ttl_ms.map(|ms| sent.plus_ms(ms));
        Self { version: value.version, body: value.body, expires }
    }

    /// As it travels.
    pub(in crate::machine::cache) fn sent(&self, now: Tick) -> Value {
        let ttl_ms = self.expires.map(|expires| expires.ms_since(now));
        let body = self.body_at(now).cloned();
        Value { version: self.version, ttl_ms: body.as_ref().and(ttl_ms), body }
    }

    /// The value, unless it has expired.
    pub(in crate::machine::cache) fn body_at(&self, now: Tick) -> Option<&Bytes> {
        self.body.as_ref().filter(|_| self.expires.is_none_or(|expires| now < expires))
    }
}

/// A line in a stable state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Line {
    /// S, E, O or M.
    pub(super) state: LineState,
    /// All that happened to the key up to here is known; not below the version of the value.
    pub(super) stamp: Version,
    pub(super) value: Stored,
    /// The store under this grant makes the value known: until then nobody reads.
    pub(super) unknown: bool,
    /// The home's copy is older.
    pub(super) dirty: bool,
    /// The grant's own version is still free, for the first store.
    pub(super) fresh: bool,
    pub(super) held: Held,
    /// A store that the home was told of and has not acknowledged.
    pub(super) through: Option<Box<Through>>,
    /// It goes as soon as it can.
    pub(super) evict: bool,
    /// What readers see is what is here.
    pub(super) published: bool,
}

/// Of whom something is held, and as what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Held {
    pub(super) home: HomeId,
    pub(super) session: Nonce,
    pub(super) epoch: Epoch,
    pub(super) grant: Nonce,
}

/// A store under the policy `through`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Through {
    pub(super) stamp: Version,
    pub(super) value: Stored,
    /// `None`: nobody waits for it any more.
    pub(super) op: Option<u64>,
    pub(super) outcome: Outcome,
    pub(super) again_at: Tick,
}

/// What an open request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Wish {
    /// GetS.
    Read,
    /// GetM or, with a line under this grant, Upgrade.
    Write {
        /// The line's.
        held: Option<Nonce>,
        need_value: bool,
    },
}

/// A request to the home that has no answer yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Open {
    pub(super) wish: Wish,
    /// Of whom the line will be held, under the request's nonce.
    pub(super) held: Held,
    pub(super) sent: Tick,
    /// When it is asked again, if nothing comes.
    pub(super) again_at: Tick,
    /// Data below it is not installed (R3).
    pub(super) minver: Option<Version>,
    /// No load may join it from this moment on (R3b).
    pub(super) joinable_until: Tick,
}

/// An operation that waits.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Pending {
    /// `None`: nobody waits for it any more.
    pub(super) op: Option<u64>,
    pub(super) operation: Operation,
    /// The request whose answer it takes, whatever that is.
    pub(super) joined: Option<Nonce>,
    /// It waited already when that request was sent.
    pub(super) came_before: bool,
}

/// A line that is on its way out.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Buffered {
    /// EI, OI or MI.
    pub(super) state: LineState,
    pub(super) stamp: Version,
    pub(super) value: Stored,
    pub(super) dirty: bool,
    pub(super) held: Held,
    /// The home recalled it, and may have it.
    pub(super) surrendered: bool,
    /// It was Put or surrendered: whoever is home now may have it, and have gone on.
    pub(super) released: bool,
    /// The home of this epoch was told of it, in answer to its Recover.
    pub(super) offered: Option<Epoch>,
    /// When it is Put, again; `None`: its epoch is over.
    pub(super) put_at: Option<Tick>,
}

impl Buffered {
    /// Whether it has an acknowledged value that no home was ever given.
    pub(super) fn is_owed(&self) -> bool {
        self.dirty && !self.released && self.offered.is_none()
    }
}

/// A question that waits for the end of the request that it names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Awaiting {
    pub(super) call: u64,
    pub(super) epoch: Epoch,
    pub(super) grant: Nonce,
    pub(super) what: Wanted,
}

/// What is wanted of an owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Wanted {
    Recall(RecallTo),
    /// By the request with this nonce.
    Fetch(Nonce),
}

/// All that is kept of a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Key {
    pub(super) line: Option<Line>,
    /// Boxed, as what else is there seldom: most of what is kept are lines at rest.
    pub(super) open: Option<Box<Open>>,
    /// By the grant.
    pub(super) buffer: BTreeMap<Nonce, Buffered>,
    pub(super) pending: VecDeque<Pending>,
    pub(super) deferred: Vec<Awaiting>,
    /// How the last redirected read ended, for the next request.
    pub(super) refused: Option<Refused>,
    /// When something is due.
    pub(super) wake: Option<Tick>,
}

impl Key {
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_none()
            && self.open.is_none()
            && self.buffer.is_empty()
            && self.pending.is_empty()
            && self.deferred.is_empty()
    }

    /// The state as the tables name it.
    pub(super) fn state(&self) -> LineState {
        let line = self.line.as_ref().map(|line| line.state);
        match (&self.open, line) {
            (Some(open), line) => open_state(open, line),
            (None, Some(state)) => state,
            (None, None) => {
                let leaving = self.buffer.values().rfind(|entry| !entry.surrendered && entry.put_at.is_some());
                leaving.map_or(LineState::I, |entry| entry.state)
            }
        }
    }

    /// The state of what a grant's name stands for.
    pub(super) fn state_of(&self, epoch: Epoch, grant: Nonce) -> LineState {
        let is_it = |held: &Held| held.epoch == epoch && held.grant == grant;
        if let Some(open) = self.open.as_ref().filter(|open| is_it(&open.held)) {
            return open_state(open, self.line.as_ref().map(|line| line.state));
        }
        if let Some(line) = self.line.as_ref().filter(|line| is_it(&line.held)) {
            return line.state;
        }
        self.buffer.get(&grant).filter(|entry| is_it(&entry.held)).map_or(LineState::I, |entry| entry.state)
    }

    /// When something of it is due.
    pub(super) fn due(&self) -> Option<Tick> {
        let open = self.open.as_ref().map(|open| open.again_at);
        let through = self.line.as_ref().and_then(|line| line.through.as_ref()).map(|through| through.again_at);
        let puts = self.buffer.values().filter_map(|entry| entry.put_at);
        open.into_iter().chain(through).chain(puts).min()
    }
}

fn open_state(open: &Open, line: Option<LineState>) -> LineState {
    match (open.wish, line) {
        (Wish::Read, _) => LineState::IS,
        (Wish::Write { .. }, Some(LineState::S)) => LineState::SM,
        (Wish::Write { .. }, Some(LineState::O)) => LineState::OM,
        (Wish::Write { .. }, _) => LineState::IM,
    }
}
