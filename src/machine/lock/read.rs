//! What readers see of the table, and what a new leader learns from it.

use std::ops::Bound::{Excluded, Included, Unbounded};

use super::{
    HolderView, LockTable, LockView, MAX_PAGE_BYTES, MAX_SHOWN, Mode, SessionView, WaiterView,
    state::{Session, SessionKey},
};
use crate::ids::{FencingToken, LockName, RequestId, SessionId, Tick};

impl LockTable {
    /// A lock that is held, waited for, or closed after the loss of a holder; `None`: free. Of the
    /// holders and of those who wait at most the first [`MAX_SHOWN`] each.
    pub fn view(&self, lock: &LockName) -> Option<LockView> {
        let holders: Vec<HolderView> = self
            .holders(lock)
            .take(MAX_SHOWN)
            .map(|(key, hold)| {
                let session = self.session_row(key);
                HolderView {
                    session: session.id.clone(),
                    owner: session.owner.clone(),
                    fencing_token: hold.token,
                    since: hold.since,
                }
            })
            .collect();
        let mode = self.holders(lock).next().map(|(_, hold)| hold.mode);
        let waiters = self.waiters(lock);
        let free = holders.is_empty() && waiters.is_empty() && !self.closed.contains_key(lock);
        (!free).then(|| LockView { lock: lock.clone(), mode, holders, waiters })
    }

    /// How many places there are in the line of a lock.
    pub fn waiters_of(&self, lock: &LockName) -> usize {
        self.lines.get(lock).map_or(0, |line| line.all.len())
    }

    fn waiters(&self, lock: &LockName) -> Vec<WaiterView> {
        let Some(line) = self.lines.get(lock) else { return Vec::new() };
        let view = |waiter: &super::state::Waiter| {
            let session = self.session_row(waiter.session);
            let since = self.waits.get(&waiter.wait).expect("a place in a line names its wait").since;
            WaiterView { session: session.id.clone(), owner: session.owner.clone(), mode: waiter.mode, since }
        };
        line.all.values().take(MAX_SHOWN).map(view).collect()
    }

    /// Locks in the order of their names: those that begin with `prefix` and come after `after`, at
    /// most `limit`, and fewer where they are large; and, if there are more, the name to go on after.
    pub fn list(&self, prefix: &str, after: Option<&LockName>, limit: usize) -> (Vec<LockView>, Option<LockName>) {
        self.list_within(prefix, after, limit, MAX_PAGE_BYTES)
    }

    pub(super) fn list_within(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
        most_bytes: usize,
    ) -> (Vec<LockView>, Option<LockName>) {
        let (mut page, mut bytes) = (Vec::new(), 0);
        let mut last = after.filter(|after| after.as_str() >= prefix).cloned();
        // A prefix that is no name (empty, or dots) is below every name that it begins.
        let least = LockName::new(prefix).ok();
        while let Some(name) = self.next_name(last.as_ref(), least.as_ref()) {
            if !name.as_str().starts_with(prefix) && name.as_str() > prefix {
                break;
            }
            if let Some(view) = name.as_str().starts_with(prefix).then(|| self.view(name)).flatten() {
                if page.len() >= limit || bytes >= most_bytes {
                    let next = page.last().map(|view: &LockView| view.lock.clone());
                    return (page, next);
                }
                bytes += bytes_of_lock(&view);
                page.push(view);
            }
            last = Some(name.clone());
        }
        (page, None)
    }

    /// The least name with any state after `last`, or from `least` on.
    fn next_name(&self, last: Option<&LockName>, least: Option<&LockName>) -> Option<&LockName> {
        let from = match (last, least) {
            (Some(last), _) => Excluded(last.clone()),
            (None, Some(least)) => Included(least.clone()),
            (None, None) => Unbounded,
        };
        let held_from = match &from {
            Included(name) => Included((name.clone(), SessionKey(0))),
            Excluded(name) => Excluded((name.clone(), SessionKey(u64::MAX))),
            Unbounded => Unbounded,
        };
        let held = self.holds.range((held_from, Unbounded)).next().map(|((name, _), _)| name);
        let waited = self.lines.range((from.clone(), Unbounded)).next().map(|(name, _)| name);
        let closed = self.closed.range((from, Unbounded)).next().map(|(name, _)| name);
        [held, waited, closed].into_iter().flatten().min()
    }

    /// Sessions in the order of their ids, after `after`, at most `limit`, and fewer where they are
    /// large; and, if there are more, the id to go on after.
    pub fn sessions(&self, after: Option<&SessionId>, limit: usize) -> (Vec<SessionView>, Option<SessionId>) {
        let from = after.map_or(Unbounded, |after| Excluded(after.clone()));
        let (mut page, mut bytes) = (Vec::new(), 0);
        for (_, key) in self.keys.range((from, Unbounded)) {
            if page.len() >= limit || bytes >= MAX_PAGE_BYTES {
                let next = page.last().map(|view: &SessionView| view.session.clone());
                return (page, next);
            }
            let view = self.session_view(*key, self.session_row(*key));
            bytes += bytes_of_session(&view);
            page.push(view);
        }
        (page, None)
    }

    /// A session, if it is alive, with at most the first [`MAX_SHOWN`] of its locks.
    pub fn session(&self, session: &SessionId) -> Option<SessionView> {
        let key = self.key_of(session)?;
        Some(self.session_view(key, self.session_row(key)))
    }

    fn session_view(&self, key: SessionKey, row: &Session) -> SessionView {
        SessionView {
            session: row.id.clone(),
            owner: row.owner.clone(),
            ttl_ms: row.ttl_ms,
            remainder_ms: row.remainder_ms,
            locks: self.locks_of(key).take(MAX_SHOWN).cloned().collect(),
        }
    }

    /// Every live session with its term and what the log says is left of it, for a new leader.
    pub fn terms(&self) -> impl Iterator<Item = (SessionId, u64, Option<u64>)> + '_ {
        self.sessions.values().map(|row| (row.id.clone(), row.ttl_ms, row.remainder_ms))
    }

    /// Every request that waits, with what is left of its wait at `at`, in milliseconds, for a new
    /// leader. Like the times of entries, `at` is of a wall clock; one that is behind them says nothing.
    pub fn waits(&self, at: Tick) -> impl Iterator<Item = (RequestId, u64)> + '_ {
        let askers = self.waits.values().flat_map(|wait| &wait.askers);
        askers.map(move |asker| (asker.request, asker.wait_ms.saturating_sub(at.ms_since(asker.since))))
    }

    /// Every closed lock, with the ticket of its delay and its full length in milliseconds, for a new
    /// leader.
    pub fn delays(&self) -> impl Iterator<Item = (LockName, u64, u64)> + '_ {
        self.closed.iter().map(|(lock, closed)| (lock.clone(), closed.ticket, closed.delay_ms))
    }

    /// The last token that was granted.
    pub fn token(&self) -> FencingToken {
        FencingToken(self.token)
    }

    /// Whether the session is alive and holds the lock at least so strongly.
    pub fn holds(&self, session: &SessionId, lock: &LockName, mode: Mode) -> bool {
        self.key_of(session).and_then(|key| self.hold(key, lock)).is_some_and(|hold| hold.mode >= mode)
    }

    /// How many sessions, held locks, waits and closed locks there are, for metrics.
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len(),
            held: self.holds.len(),
            waits: self.waits.len(),
            closed: self.closed.len(),
        }
    }
}

/// What the fields of an item and their encoding take beside its names, at most.
const FIELDS: usize = 128;

fn bytes_of_lock(view: &LockView) -> usize {
    let person = |session: &SessionId, owner: &str| session.as_str().len() + owner.len() + FIELDS;
    let holders: usize = view.holders.iter().map(|holder| person(&holder.session, &holder.owner)).sum();
    let waiters: usize = view.waiters.iter().map(|waiter| person(&waiter.session, &waiter.owner)).sum();
    view.lock.as_str().len() + FIELDS + holders + waiters
}

fn bytes_of_session(view: &SessionView) -> usize {
    let locks: usize = view.locks.iter().map(|lock| lock.as_str().len() + FIELDS).sum();
    view.session.as_str().len() + view.owner.len() + FIELDS + locks
}

/// The size of the lock state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Live sessions.
    pub sessions: usize,
    /// Holds: a lock with three shared holders counts three times.
    pub held: usize,
    /// Waits, for one lock or several.
    pub waits: usize,
    /// Locks that wait for their delay to pass.
    pub closed: usize,
}
