//! Mutual exclusion as the holders see it.
//!
//! A client believes to hold a lock from the answer that grants it until it asks to give it back or
//! to close the session, hears that the session is dead, or reaches the deadline of its last answered
//! keep-alive by its own clock. Grants that were never heard of make nobody believe anything.

use std::collections::BTreeMap;

use super::Violation;
use crate::{
    ids::{LockName, SessionId},
    machine::lock::Mode,
    sim::{
        api::{Answer, Ask, Record},
        history::Moment,
    },
};

struct Belief<'a> {
    record: &'a Record,
    session: &'a SessionId,
    mode: Mode,
    from: Moment,
    until: Moment,
}

pub(super) fn check(history: &[Record]) -> Vec<Violation> {
    let mut by_lock: BTreeMap<&LockName, Vec<Belief<'_>>> = BTreeMap::new();
    for record in history {
        if let Some((lock, belief)) = belief(record, history) {
            by_lock.entry(lock).or_default().push(belief);
        }
    }
    let mut violations = Vec::new();
    for (lock, mut beliefs) in by_lock {
        beliefs.sort_by_key(|belief| belief.from);
        for (index, one) in beliefs.iter().enumerate() {
            for other in beliefs[index + 1..].iter().take_while(|other| other.from < one.until) {
                let shared = one.mode == Mode::Shared && other.mode == Mode::Shared;
                if !shared && one.session != other.session {
                    violations.push(Violation::Overlap(format!(
                        "{lock} was believed held until {} ms by {} and from {} ms by {}",
                        one.until.ms,
                        one.record.tell(),
                        other.from.ms,
                        other.record.tell(),
                    )));
                }
            }
        }
    }
    violations
}

fn belief<'a>(record: &'a Record, history: &'a [Record]) -> Option<(&'a LockName, Belief<'a>)> {
    let (Ask::Acquire { session, lock, .. }, Answer::Granted { mode, .. }) = (&record.ask, &record.answer) else {
        return None;
    };
    let from = record.returned?;
    let mut until = lease_end(session, from, history)?;
    for other in history.iter().filter(|other| other.ask.session() == Some(session)) {
        let ends = match (&other.ask, &other.answer) {
            (_, Answer::SessionExpired) => other.returned,
            (Ask::Close(_), _) => Some(other.invoked),
            (Ask::Release { lock: released, .. }, _) if released == lock => Some(other.invoked),
            _ => None,
        };
        // What the session gave back before it was granted this does not end it, unless that may
        // still be on its way.
        let answered_before = |end: &Moment| *end <= from && !other.is_unknown() && other.ask.lock().is_some();
        if let Some(end) = ends.filter(|end| !answered_before(end)) {
            until = until.min(end);
        }
    }
    (until > from).then_some((lock, Belief { record, session, mode: *mode, from, until }))
}

/// Until when the client believes in the session without a gap from `from` on.
fn lease_end(session: &SessionId, from: Moment, history: &[Record]) -> Option<Moment> {
    let renewal = |record: &Record| {
        let renewed = match &record.answer {
            Answer::Opened { session, .. } => session,
            Answer::Alive { .. } => record.ask.session()?,
            _ => return None,
        };
        (renewed == session).then_some((record.returned?, Moment::start_of(record.lease_until_ms?)))
    };
    let mut renewals: Vec<(Moment, Moment)> = history.iter().filter_map(renewal).collect();
    renewals.sort();
    let mut until = renewals.iter().filter(|(heard, _)| *heard <= from).map(|(_, until)| *until).max()?;
    for (heard, extended) in renewals {
        if heard > from && heard < until {
            until = until.max(extended);
        }
    }
    Some(until)
}
