//! The table as a backup has it: one record a session, hold and delay, by the names that people know.
//!
//! Waits are not in it: whoever waits asks again. A restored session has its full term before it, a restored hold its
//! token and its beginning; nobody can surrender it any more, because who asked for it asked another cluster.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    LockTable, MAX_LOCKS_HELD, MAX_LOCKS_PER_SESSION, MAX_SESSIONS, Mode, TOKEN_LIMIT,
    state::{Closed, Hold, KEPT, Session, SessionKey, conflict},
};
use crate::ids::{FencingToken, LockName, RequestId, SessionId, Tick};

/// The longest term of a session and the longest delay of a lock, in milliseconds: what the API lets anybody ask for.
const MAX_TERM_MS: u64 = 3_600_000;
/// Most bytes in the name of a session's owner.
const MAX_OWNER_BYTES: usize = 512;

/// One row of a table in a backup. A hold comes after its session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockRecord {
    /// A session that is alive: its id, whose it is, its term in milliseconds.
    #[serde(rename = "s")]
    Session(SessionId, Arc<str>, u64),
    /// A lock that is held: by which session, how, under which token, since when, and for how many milliseconds it stays
    /// closed if that holder is lost.
    #[serde(rename = "h")]
    Hold(LockName, SessionId, Mode, FencingToken, Tick, u32),
    /// A lock that stays closed after the loss of a holder, for so many milliseconds.
    #[serde(rename = "d")]
    Delay(LockName, u64),
}

/// How many records of each kind a table makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RecordCounts {
    /// Sessions.
    pub sessions: u64,
    /// Holds: a shared lock has several.
    pub holds: u64,
    /// Locks that stay closed for a while.
    pub delays: u64,
}

/// Why a record cannot be part of the table that is being built.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadRecord {
    /// The session is there already.
    #[error("the session '{0}' is in it twice")]
    SessionTwice(SessionId),
    /// The hold is there already, or excludes another one.
    #[error("the lock '{0}' is held by several who exclude each other")]
    HeldTwice(LockName),
    /// The session of a hold is not there.
    #[error("the lock '{lock}' is held by the session '{session}', which is not in it")]
    UnknownSession {
        /// What is held.
        lock: LockName,
        /// By whom.
        session: SessionId,
    },
    /// The token was not granted yet.
    #[error("the lock '{0}' is held under a token beyond the counter")]
    TokenBeyondCounter(LockName),
    /// A term, a delay or an owner's name is longer than any can be.
    #[error("a term, a delay or the name of an owner is longer than any can be")]
    OutOfRange,
    /// More than a table takes.
    #[error("it has more sessions or locks than a cluster takes")]
    TooMany,
}

impl LockTable {
    /// An empty table to be filled with the records of a backup, whose counter of tokens stood here.
    pub fn of_backup(token: u64) -> Self {
        Self { token: token.min(TOKEN_LIMIT - 1), ..Self::default() }
    }

    /// Whether anybody could miss something if this table were replaced: there is a session, or a lock that stays closed.
    /// Locks are held and waited for by sessions only; the counter of tokens is never given up.
    pub fn has_state(&self) -> bool {
        !self.sessions.is_empty() || !self.closed.is_empty()
    }

    /// How many records [`Self::records`] makes.
    pub fn record_counts(&self) -> RecordCounts {
        let count = |length: usize| length as u64;
        RecordCounts {
            sessions: count(self.sessions.len()),
            holds: count(self.holds.len()),
            delays: count(self.closed.len()),
        }
    }

    /// Everything that a backup has of it: the sessions in the order in which they were opened, the holds in the order of
    /// their locks, the delays.
    pub fn records(&self) -> impl Iterator<Item = LockRecord> + '_ {
        let sessions = self
            .sessions
            .values()
            .map(|session| LockRecord::Session(session.id.clone(), session.owner.clone(), session.ttl_ms));
        let holds = self.holds.iter().map(|((lock, key), hold)| {
            let session = self.session_row(*key).id.clone();
            LockRecord::Hold(lock.clone(), session, hold.mode, hold.token, hold.since, hold.delay_ms)
        });
        let delays = self.closed.iter().map(|(lock, closed)| LockRecord::Delay(lock.clone(), closed.delay_ms));
        sessions.chain(holds).chain(delays)
    }

    /// Adds a record to a table that is being built.
    ///
    /// # Errors
    /// [`BadRecord`]; nothing was added.
    pub fn add_record(&mut self, record: LockRecord) -> Result<(), BadRecord> {
        match record {
            LockRecord::Session(id, owner, ttl_ms) => self.add_saved_session(id, owner, ttl_ms),
            LockRecord::Hold(lock, session, mode, token, since, delay_ms) => {
                if u64::from(delay_ms) > MAX_TERM_MS {
                    return Err(BadRecord::OutOfRange);
                }
                self.add_saved_hold(lock, session, Hold { token, since, delay_ms, told: KEPT, mode })
            }
            LockRecord::Delay(lock, delay_ms) => {
                if delay_ms == 0 || delay_ms > MAX_TERM_MS {
                    return Err(BadRecord::OutOfRange);
                }
                if self.closed.len() >= MAX_LOCKS_HELD {
                    return Err(BadRecord::TooMany);
                }
                // Its ticket is drawn when the table is put in place.
                self.closed.insert(lock, Closed { ticket: 0, delay_ms });
                Ok(())
            }
        }
    }

    fn add_saved_session(&mut self, id: SessionId, owner: Arc<str>, ttl_ms: u64) -> Result<(), BadRecord> {
        if ttl_ms == 0 || ttl_ms > MAX_TERM_MS || owner.len() > MAX_OWNER_BYTES {
            return Err(BadRecord::OutOfRange);
        }
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(BadRecord::TooMany);
        }
        if self.keys.contains_key(&id) {
            return Err(BadRecord::SessionTwice(id));
        }
        let key = SessionKey(self.next_session);
        self.next_session += 1;
        let (remainder_ms, opened_with, claims) = (None, None, 0);
        self.add_session(key, Session { id, owner, ttl_ms, remainder_ms, opened_with, claims });
        Ok(())
    }

    fn add_saved_hold(&mut self, lock: LockName, session: SessionId, hold: Hold) -> Result<(), BadRecord> {
        let Some(key) = self.key_of(&session) else { return Err(BadRecord::UnknownSession { lock, session }) };
        if hold.token.0 > self.token {
            return Err(BadRecord::TokenBeyondCounter(lock));
        }
        if self.holders(&lock).any(|(holder, held)| holder == key || conflict(held.mode, hold.mode)) {
            return Err(BadRecord::HeldTwice(lock));
        }
        let claims = self.session_row(key).claims as usize;
        if self.holds.len() >= MAX_LOCKS_HELD || claims >= MAX_LOCKS_PER_SESSION {
            return Err(BadRecord::TooMany);
        }
        self.add_hold(key, &lock, hold);
        Ok(())
    }

    /// Puts a table that was built from a backup in the place of this one. All sessions of before are over, and all their
    /// holds and waits: these requests wait no more. Tokens count on from the greater of both counters.
    pub fn replace_with(&mut self, mut restored: Self) -> Vec<RequestId> {
        let waited: Vec<RequestId> = self.waiting.keys().copied().collect();
        // What was numbered before never means something of now.
        restored.token = restored.token.max(self.token);
        restored.next_session = restored.next_session.max(self.next_session);
        restored.next_wait = self.next_wait;
        restored.next_ticket = self.next_ticket;
        for closed in restored.closed.values_mut() {
            restored.next_ticket += 1;
            closed.ticket = restored.next_ticket;
        }
        *self = restored;
        waited
    }

    /// What the log says is left of any session's term says nothing any more: each has its full term before it.
    pub fn forget_remainders(&mut self) {
        self.sessions.values_mut().for_each(|session| session.remainder_ms = None);
    }
}
