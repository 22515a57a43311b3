//! When the sessions with homes end, as readers see it: a cell for each home, which many threads read without a lock.
//!
//! Written by the [cache task](super::cache) alone. A line names its cell and its session; a cell that has gone to another
//! session by now, or to another home, says that the line's is over. A session's number is never used twice (R4), so that a
//! cell may be used again whatever lines still name it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    ids::Tick,
    machine::cache::{HomeId, Nonce},
};

/// So many homes have cells; lines of further ones are read by way of the task.
const CELLS: u16 = 4_096;

/// The newest session with one home.
#[derive(Debug, Default)]
struct Cell {
    /// Its number; 0: none.
    session: AtomicU64,
    /// In milliseconds of the node's clock; 0 once it is over.
    end: AtomicU64,
}

/// The session under which a line came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EndOf {
    cell: u16,
    session: u64,
}

impl EndOf {
    /// One that is over.
    pub(super) const OVER: Self = Self { cell: 0, session: 0 };
}

/// The cells. Shared by all readers of a node.
#[derive(Debug)]
pub(super) struct Ends(Box<[Cell]>);

impl Ends {
    /// None of them in use.
    pub(super) fn new() -> Self {
        Self((0..CELLS).map(|_| Cell::default()).collect())
    }

    /// When a session ends; 0 once it is over.
    ///
    /// The number is looked at before and after: if it is the same, the end between is of that session, as the next one
    /// writes its number before its end.
    pub(super) fn end(&self, of: EndOf) -> Tick {
        let cell = &self.0[usize::from(of.cell)];
        if cell.session.load(Ordering::Acquire) != of.session {
            return Tick(0);
        }
        let end = cell.end.load(Ordering::Acquire);
        let is_same = cell.session.load(Ordering::Acquire) == of.session;
        Tick(if is_same { end } else { 0 })
    }
}

/// The task's side of the cells.
#[derive(Debug)]
pub(super) struct EndsWriter {
    ends: Arc<Ends>,
    cells: BTreeMap<HomeId, u16>,
    free: Vec<u16>,
}

impl EndsWriter {
    /// Of cells that nobody uses yet.
    pub(super) fn new(ends: Arc<Ends>) -> Self {
        Self { ends, cells: BTreeMap::new(), free: (0..CELLS).rev().collect() }
    }

    /// A session with a home is alive until then; the one before it is over.
    pub(super) fn set(&mut self, home: HomeId, session: Nonce, until: Tick) {
        let Some(cell) = self.cells.get(&home).copied().or_else(|| self.free.pop()) else { return };
        self.cells.insert(home, cell);
        let cell = &self.ends.0[usize::from(cell)];
        if cell.session.load(Ordering::Relaxed) != session.count {
            cell.end.store(0, Ordering::Release);
            cell.session.store(session.count, Ordering::Release);
        }
        cell.end.store(until.0, Ordering::Release);
    }

    /// What a line that came under this session is to name.
    pub(super) fn of(&self, home: &HomeId, session: Nonce) -> EndOf {
        let newest = |cell: &u16| self.ends.0[usize::from(*cell)].session.load(Ordering::Relaxed);
        let cell = self.cells.get(home).copied().filter(|cell| newest(cell) == session.count);
        cell.map_or(EndOf::OVER, |cell| EndOf { cell, session: session.count })
    }

    /// The cells of homes that are not to be kept and whose sessions are over are free.
    pub(super) fn forget(&mut self, keep: impl Fn(&HomeId) -> bool) {
        let (ends, free) = (&self.ends, &mut self.free);
        self.cells.retain(|home, at| {
            let cell = &ends.0[usize::from(*at)];
            let stays = keep(home) || cell.end.load(Ordering::Relaxed) != 0;
            if !stays {
                cell.session.store(0, Ordering::Release);
                free.push(*at);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, thread};

    use super::*;
    use crate::ids::{Incarnation, NodeId};

    fn home(n: u16) -> HomeId {
        HomeId { node: NodeId::from_bytes([1; 32]), incarnation: Incarnation(1), group: n }
    }

    fn session(count: u64) -> Nonce {
        Nonce { incarnation: Incarnation(1), count }
    }

    fn cells() -> (Arc<Ends>, EndsWriter) {
        let ends = Arc::new(Ends::new());
        (Arc::clone(&ends), EndsWriter::new(ends))
    }

    #[test]
    fn a_session_is_over_when_the_next_one_of_its_home_begins() {
        let (ends, mut writer) = cells();
        assert_eq!(writer.of(&home(1), session(1)), EndOf::OVER);
        writer.set(home(1), session(1), Tick(100));
        let first = writer.of(&home(1), session(1));
        assert_eq!((ends.end(first), ends.end(EndOf::OVER)), (Tick(100), Tick(0)));
        writer.set(home(1), session(1), Tick(200));
        assert_eq!(ends.end(first), Tick(200));
        writer.set(home(1), session(2), Tick(300));
        let second = writer.of(&home(1), session(2));
        assert_eq!((ends.end(first), ends.end(second)), (Tick(0), Tick(300)));
        assert_eq!(writer.of(&home(1), session(1)), EndOf::OVER);
    }

    #[test]
    fn cells_of_homes_that_are_gone_are_used_again_and_say_nothing_of_those_before() {
        let (ends, mut writer) = cells();
        let mut before = Vec::new();
        for n in 1..=u64::from(CELLS) * 3 {
            let home = home(u16::try_from(n).unwrap());
            writer.set(home, session(n), Tick(n));
            before.push(writer.of(&home, session(n)));
            assert_eq!(ends.end(before[before.len() - 1]), Tick(n));
            writer.forget(|_| false);
            assert_eq!(ends.end(before[before.len() - 1]), Tick(n), "it is not over yet");
            writer.set(home, session(n), Tick(0));
            writer.forget(|_| false);
        }
        assert!(before.iter().all(|of| ends.end(*of) == Tick(0)));
        assert_eq!((writer.cells.len(), writer.free.len()), (0, usize::from(CELLS)));
    }

    #[test]
    fn lines_of_more_homes_than_there_are_cells_are_not_read_here() {
        let (ends, mut writer) = cells();
        for n in 0..CELLS {
            writer.set(home(n), session(u64::from(n) + 1), Tick(100));
        }
        let one_more = session(u64::from(CELLS) + 1);
        writer.set(home(CELLS), one_more, Tick(100));
        assert_eq!(ends.end(writer.of(&home(CELLS), one_more)), Tick(0));
        assert_eq!(ends.end(writer.of(&home(7), session(8))), Tick(100));
    }

    #[test]
    fn no_reader_sees_the_end_of_another_session() {
        const SESSIONS: u64 = 200_000;
        let (ends, mut writer) = cells();
        let of = |count| EndOf { cell: 0, session: count };
        let (is_over, seen) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // Follow the writer.
                    let newest = ends.0[0].session.load(Ordering::Relaxed).max(1);
                    let end = ends.end(of(newest)).0;
                    assert!(end == 0 || end == newest * 10, "session {newest} ends at {end}");
                    seen.fetch_add(u64::from(end != 0), Ordering::Relaxed);
                }
            });
            for count in 1..=SESSIONS {
                writer.set(home(1), session(count), Tick(count * 10));
            }
            // The last one stays: whoever comes late sees it.
            while seen.load(Ordering::Relaxed) == 0 && !reader.is_finished() {
                thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
    }
}
