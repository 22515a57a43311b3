//! The saved form of the table: its rows without the indexes, which are made anew and checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{
    LockTable,
    state::{Closed, Hold, Session, SessionKey, Wait, WaitKey},
};
use crate::ids::LockName;

#[derive(Serialize)]
struct Saving<'a> {
    counters: [u64; 4],
    sessions: &'a BTreeMap<SessionKey, Session>,
    holds: &'a BTreeMap<(LockName, SessionKey), Hold>,
    weaker: &'a BTreeMap<(LockName, SessionKey), Hold>,
    waits: &'a BTreeMap<WaitKey, Wait>,
    closed: &'a BTreeMap<LockName, Closed>,
}

#[derive(Deserialize)]
struct Saved {
    counters: [u64; 4],
    sessions: BTreeMap<SessionKey, Session>,
    holds: BTreeMap<(LockName, SessionKey), Hold>,
    weaker: BTreeMap<(LockName, SessionKey), Hold>,
    waits: BTreeMap<WaitKey, Wait>,
    closed: BTreeMap<LockName, Closed>,
}

/// Why a saved table was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
enum Damaged {
    #[error("the saved lock table names a session that it does not contain: restore another snapshot")]
    UnknownSession,
    #[error("the saved lock table has two sessions of one id: restore another snapshot")]
    SessionTwice,
    #[error("the saved lock table has an upgrade of a lock that is not held: restore another snapshot")]
    UpgradeOfNothing,
    #[error("the saved lock table uses a number beyond its counters: restore another snapshot")]
    BeyondCounter,
}

impl Serialize for LockTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Saving {
            counters: [self.token, self.next_session, self.next_wait, self.next_ticket],
            sessions: &self.sessions,
            holds: &self.holds,
            weaker: &self.weaker,
            waits: &self.waits,
            closed: &self.closed,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LockTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(Saved::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl TryFrom<Saved> for LockTable {
    type Error = Damaged;

    fn try_from(saved: Saved) -> Result<Self, Damaged> {
        let [token, next_session, next_wait, next_ticket] = saved.counters;
        let mut table = Self { token, next_session, next_wait, next_ticket, closed: saved.closed, ..Self::default() };
        for (key, session) in saved.sessions {
            if key.0 >= next_session {
                return Err(Damaged::BeyondCounter);
            }
            if table.keys.contains_key(&session.id) {
                return Err(Damaged::SessionTwice);
            }
            // The claims are counted again as the holds and waits come in.
            table.add_session(key, Session { claims: 0, ..session });
        }
        for ((lock, key), hold) in saved.holds {
            table.known(key)?;
            if hold.token.0 > token {
                return Err(Damaged::BeyondCounter);
            }
            table.add_hold(key, &lock, hold);
        }
        if saved.weaker.iter().any(|(row, weaker)| table.holds.get(row).is_none_or(|hold| hold.mode <= weaker.mode)) {
            return Err(Damaged::UpgradeOfNothing);
        }
        table.weaker = saved.weaker;
        for (key, wait) in saved.waits {
            table.known(wait.session)?;
            if key.0 >= next_wait || wait.claims.iter().any(|claim| claim.place.seq >= next_wait) {
                return Err(Damaged::BeyondCounter);
            }
            table.add_wait(key, wait);
        }
        Ok(table)
    }
}

impl LockTable {
    fn known(&self, key: SessionKey) -> Result<(), Damaged> {
        if self.sessions.contains_key(&key) { Ok(()) } else { Err(Damaged::UnknownSession) }
    }
}
