//! The wait-for graph over sessions, and why it never has a cycle.
//!
//! A session waits for another if one of its waits claims a lock (that it does not already hold
//! strongly enough) and the other holds that lock in a conflicting mode, **or stands before it in
//! that line with a conflicting claim**: who waits behind a waiter waits for it. These are exactly
//! the conditions under which `LockTable::blocked` keeps a wait from being granted, but for the lock
//! delay, which waits for time and for no session. So a session on no cycle is only ever kept by
//! sessions that are free to act.
//!
//! Edges begin in four ways only; each is searched from the session that all of its new edges touch,
//! so that any new cycle runs through it, and what would close one is refused:
//!
//! 1. **A wait gets in line.** Its session waits for those before it; and, for an upgrade, which
//!    stands before all arrivals, those arrivals wait for it.
//! 2. **An upgrade is granted at once**, so that shared claims in the line, which could stand beside
//!    a shared holder, now wait for an exclusive one. (Only if the session also waits elsewhere.)
//! 3. **A hold that a wait of the same session counted on is released, broken or weakened.** The
//!    claim, if it stood before the arrivals, goes to the end of the line, and may close a cycle:
//!    then that wait ends with `Deadlock`.
//! 4. Several sessions lose holds to one break: as 3, one after the other. Refusals only remove
//!    edges, so that the last graph is part of each one that was searched.
//!
//! Everything else adds none. A grant from the line turns a claim into a hold of the same mode: those
//! in conflict behind it waited for the claim already, and there is none in conflict before it, or it
//! would not have been granted. A grant at once finds nobody in conflict in the line at all. A
//! downgrade, release, timeout or end of a session only removes edges, but for case 3. Joining adds
//! a request, not a wait.
//!
//! The search is breadth first, so the cycle told is a shortest one. Each line and each set of holders
//! is walked once for each mode, whoever waits there, so its cost is bounded by what the requester
//! waits for directly or through others, not by its square.

use std::collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry};

use super::{
    LockTable, Mode,
    state::{Claim, Place, SessionKey, WaitKey},
};
use crate::{error::CycleEdge, ids::LockName};

/// A walk through the wait-for graph, back to where it began.
#[derive(Debug)]
struct Search<'a> {
    table: &'a LockTable,
    start: SessionKey,
    /// By whom and for which lock each session was found to be waited for.
    reached: BTreeMap<SessionKey, (SessionKey, &'a LockName)>,
    queue: VecDeque<SessionKey>,
    /// How far each line has been walked.
    walked: BTreeMap<(&'a LockName, Mode), Place>,
    holders_seen: BTreeSet<(&'a LockName, Mode)>,
}

impl LockTable {
    /// A shortest cycle through a session that begins with one of these waits of it.
    pub(super) fn cycle_through(&self, start: SessionKey, waits: &[WaitKey]) -> Option<Vec<CycleEdge>> {
        let mut search = Search {
            table: self,
            start,
            reached: BTreeMap::new(),
            queue: VecDeque::new(),
            walked: BTreeMap::new(),
            holders_seen: BTreeSet::new(),
        };
        search.run(waits)
    }

    /// Whether anybody may wait for this session: if not, no wait of it closes a cycle.
    pub(super) fn may_be_waited_for(&self, session: SessionKey, claims: &[Claim]) -> bool {
        self.waits_of(session).next().is_some()
            || claims.iter().any(|claim| self.hold(session, &claim.lock).is_some())
            || self.locks_of(session).any(|lock| self.lines.contains_key(lock))
    }
}

impl<'a> Search<'a> {
    fn run(&mut self, waits: &[WaitKey]) -> Option<Vec<CycleEdge>> {
        for wait in waits {
            self.follow(self.start, *wait);
        }
        while let Some(session) = self.queue.pop_front() {
            for wait in self.table.waits_of(session) {
                if let Some(lock) = self.follow(session, wait) {
                    return Some(self.told(session, lock));
                }
            }
        }
        None
    }

    /// Reaches all whom a wait waits for. Returns the lock over which it waits for the start.
    fn follow(&mut self, session: SessionKey, wait: WaitKey) -> Option<&'a LockName> {
        let table = self.table;
        let row = table.waits.get(&wait)?;
        for claim in &row.claims {
            if table.satisfied(session, claim) {
                continue;
            }
            if self.follow_holders(session, claim) || self.follow_line(session, claim) {
                return Some(&claim.lock);
            }
        }
        None
    }

    fn follow_holders(&mut self, session: SessionKey, claim: &'a Claim) -> bool {
        // The walk from the start leaves out the start's own holds and claims, which the others must
        // still find; so it is not remembered.
        if session != self.start && !self.holders_seen.insert((&claim.lock, claim.mode)) {
            return false;
        }
        let table = self.table;
        table.other_holders(session, claim).any(|holder| self.reach(session, holder, &claim.lock))
    }

    fn follow_line(&mut self, session: SessionKey, claim: &'a Claim) -> bool {
        let table = self.table;
        let Some(line) = table.lines.get(&claim.lock) else { return false };
        let walked = self.walked.get(&(&claim.lock, claim.mode)).copied();
        if session != self.start && walked.is_none_or(|walked| walked < claim.place) {
            self.walked.insert((&claim.lock, claim.mode), claim.place);
        }
        line.in_the_way(claim.mode, walked, claim.place)
            .any(|waiter| waiter.session != session && self.reach(session, waiter.session, &claim.lock))
    }

    /// Notes that one session waits for another; says whether that other is the start.
    fn reach(&mut self, from: SessionKey, to: SessionKey, lock: &'a LockName) -> bool {
        if to == self.start {
            return true;
        }
        if let Entry::Vacant(unknown) = self.reached.entry(to) {
            unknown.insert((from, lock));
            self.queue.push_back(to);
        }
        false
    }

    fn told(&self, last: SessionKey, lock: &LockName) -> Vec<CycleEdge> {
        let edge = |session: SessionKey, lock: &LockName| CycleEdge {
            session: self.table.session_row(session).id.clone(),
            lock: lock.clone(),
        };
        let mut cycle = vec![edge(last, lock)];
        let mut session = last;
        while let Some((from, lock)) = self.reached.get(&session) {
            cycle.push(edge(*from, lock));
            session = *from;
        }
        cycle.reverse();
        cycle
    }
}
