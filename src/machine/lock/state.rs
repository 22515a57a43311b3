//! The rows of the lock table and the upkeep of its indexes.
//!
//! Everything here keeps the maps of [`LockTable`] consistent with each other and decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{LockTable, Mode};
use crate::ids::{FencingToken, LockName, RequestId, SessionId, Tick};

/// A session's row: the order in which sessions were opened. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct SessionKey(pub(super) u64);

/// A wait's row: the order of arrival. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct WaitKey(pub(super) u64);

/// A live session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) owner: Arc<str>,
    pub(super) ttl_ms: u64,
    pub(super) remainder_ms: Option<u64>,
    /// The first token of the acquire that opened it.
    pub(super) opened_with: Option<FencingToken>,
    /// Holds and places in lines.
    pub(super) claims: u32,
}

/// [`Hold::told`] of a grant that can no longer be surrendered.
pub(super) const KEPT: u16 = u16::MAX;

/// One session's hold of one lock. Saved as a row of numbers, for there may be millions.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(from = "HoldRow", into = "HoldRow")]
pub(super) struct Hold {
    pub(super) token: FencingToken,
    pub(super) since: Tick,
    /// Milliseconds for which the lock is closed if this holder is lost; up to 49 days.
    pub(super) delay_ms: u32,
    /// How many requests were told of this token and have not surrendered it; [`KEPT`]: it was used.
    pub(super) told: u16,
    pub(super) mode: Mode,
}

type HoldRow = (u64, u64, u32, u16, bool);

impl From<HoldRow> for Hold {
    fn from((token, since, delay_ms, told, exclusive): HoldRow) -> Self {
        let mode = if exclusive { Mode::Exclusive } else { Mode::Shared };
        Self { token: FencingToken(token), since: Tick(since), delay_ms, told, mode }
    }
}

impl From<Hold> for HoldRow {
    fn from(hold: Hold) -> Self {
        (hold.token.0, hold.since.0, hold.delay_ms, hold.told, hold.mode == Mode::Exclusive)
    }
}

/// Claims on a lock that the session holds already stand before those of new arrivals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) enum Rank {
    Holding,
    Arrived,
}

/// A place in a line; the smaller, the earlier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) rank: Rank,
    pub(super) seq: u64,
}

/// One lock that a wait is for, and its place in that lock's line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) lock: LockName,
    pub(super) mode: Mode,
    pub(super) place: Place,
}

/// One of the requests that share a wait.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Asker {
    pub(super) request: RequestId,
    /// When it asked, which may be later than the wait began.
    pub(super) since: Tick,
    pub(super) wait_ms: u64,
}

/// A session's wait for one lock, or for all of several at once.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Wait {
    pub(super) session: SessionKey,
    pub(super) since: Tick,
    pub(super) delay_ms: u32,
    /// Whether the session was made for it, and goes with it if it ends without a grant.
    pub(super) opened_session: bool,
    pub(super) claims: Vec<Claim>,
    pub(super) askers: Vec<Asker>,
}

/// A lock that waits for its delay to pass.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Closed {
    pub(super) ticket: u64,
    pub(super) delay_ms: u64,
}

/// Who stands at a place.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Waiter {
    pub(super) session: SessionKey,
    pub(super) wait: WaitKey,
    pub(super) mode: Mode,
}

/// The line of one lock. The exclusive places are kept apart too, so that what blocks a shared claim
/// is found without walking past other shared ones.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Line {
    pub(super) all: BTreeMap<Place, Waiter>,
    pub(super) exclusive: BTreeSet<Place>,
}

impl Line {
    /// Those from `from` on and before `to` who are in the way of a claim of `mode`.
    pub(super) fn in_the_way(
        &self,
        mode: Mode,
        from: Option<Place>,
        to: Place,
    ) -> Box<dyn Iterator<Item = Waiter> + '_> {
        let range = (from.map_or(Unbounded, std::ops::Bound::Included), Excluded(to));
        if from.is_some_and(|from| from >= to) {
            return Box::new(std::iter::empty());
        }
        match mode {
            Mode::Exclusive => Box::new(self.all.range(range).map(|(_, waiter)| *waiter)),
            Mode::Shared => Box::new(self.exclusive.range(range).filter_map(|place| self.all.get(place).copied())),
        }
    }
}

/// Whether two sessions cannot have these modes at once.
pub(super) fn conflict(one: Mode, other: Mode) -> bool {
    one == Mode::Exclusive || other == Mode::Exclusive
}

impl LockTable {
    pub(super) fn key_of(&self, session: &SessionId) -> Option<SessionKey> {
        self.keys.get(session).copied()
    }

    pub(super) fn session_row(&self, key: SessionKey) -> &Session {
        self.sessions.get(&key).expect("holds and waits exist only for live sessions")
    }

    pub(super) fn session_row_mut(&mut self, key: SessionKey) -> &mut Session {
        self.sessions.get_mut(&key).expect("holds and waits exist only for live sessions")
    }

    pub(super) fn hold(&self, session: SessionKey, lock: &LockName) -> Option<&Hold> {
        self.holds.get(&(lock.clone(), session))
    }

    pub(super) fn hold_mut(&mut self, session: SessionKey, lock: &LockName) -> Option<&mut Hold> {
        self.holds.get_mut(&(lock.clone(), session))
    }

    /// The holders of a lock, in the order in which their sessions were opened.
    pub(super) fn holders(&self, lock: &LockName) -> impl Iterator<Item = (SessionKey, &Hold)> {
        let from = (lock.clone(), SessionKey(0));
        let to = (lock.clone(), SessionKey(u64::MAX));
        self.holds.range(from..=to).map(|((_, session), hold)| (*session, hold))
    }

    /// The locks that a session holds, in the order of their names.
    pub(super) fn locks_of(&self, session: SessionKey) -> impl Iterator<Item = &LockName> {
        let end = SessionKey(session.0.saturating_add(1));
        self.held_by.range((session, None)..(end, None)).filter_map(|(_, lock)| lock.as_ref())
    }

    /// The waits of a session, the oldest first.
    pub(super) fn waits_of(&self, session: SessionKey) -> impl Iterator<Item = WaitKey> + '_ {
        self.waits_of.range((session, WaitKey(0))..=(session, WaitKey(u64::MAX))).map(|(_, wait)| *wait)
    }

    pub(super) fn add_session(&mut self, key: SessionKey, session: Session) {
        self.keys.insert(session.id.clone(), key);
        self.sessions.insert(key, session);
    }

    pub(super) fn remove_session(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.sessions.remove(&key)?;
        self.keys.remove(&session.id);
        Some(session)
    }

    pub(super) fn add_hold(&mut self, session: SessionKey, lock: &LockName, hold: Hold) {
        if self.holds.insert((lock.clone(), session), hold).is_none() {
            self.held_by.insert((session, Some(lock.clone())));
            self.session_row_mut(session).claims += 1;
        }
    }

    pub(super) fn remove_hold(&mut self, session: SessionKey, lock: &LockName) -> Option<Hold> {
        let row = (lock.clone(), session);
        let hold = self.holds.remove(&row)?;
        self.weaker.remove(&row);
        self.held_by.remove(&(session, Some(lock.clone())));
        self.session_row_mut(session).claims -= 1;
        Some(hold)
    }

    /// Puts a wait into all its lines.
    pub(super) fn add_wait(&mut self, key: WaitKey, wait: Wait) {
        for claim in &wait.claims {
            self.add_place(claim, Waiter { session: wait.session, wait: key, mode: claim.mode });
        }
        for asker in &wait.askers {
            self.waiting.insert(asker.request, key);
        }
        self.waits_of.insert((wait.session, key));
        self.session_row_mut(wait.session).claims += claims_of(&wait);
        self.waits.insert(key, wait);
    }

    /// Takes a wait out of all its lines.
    pub(super) fn remove_wait(&mut self, key: WaitKey) -> Option<Wait> {
        let wait = self.waits.remove(&key)?;
        for claim in &wait.claims {
            self.remove_place(claim);
        }
        for asker in &wait.askers {
            self.waiting.remove(&asker.request);
        }
        self.waits_of.remove(&(wait.session, key));
        self.session_row_mut(wait.session).claims -= claims_of(&wait);
        Some(wait)
    }

    pub(super) fn add_place(&mut self, claim: &Claim, waiter: Waiter) {
        let line = self.lines.entry(claim.lock.clone()).or_default();
        line.all.insert(claim.place, waiter);
        if claim.mode == Mode::Exclusive {
            line.exclusive.insert(claim.place);
        }
        self.places += 1;
    }

    pub(super) fn remove_place(&mut self, claim: &Claim) {
        let Some(line) = self.lines.get_mut(&claim.lock) else { return };
        line.exclusive.remove(&claim.place);
        if line.all.remove(&claim.place).is_some() {
            self.places -= 1;
        }
        if line.all.is_empty() {
            self.lines.remove(&claim.lock);
        }
    }
}

fn claims_of(wait: &Wait) -> u32 {
    u32::try_from(wait.claims.len()).expect("a wait is for at most MAX_LOCKS_PER_ACQUIRE locks")
}
