//! The recent events of all locks, for those who watch one.
//!
//! Owned by the [leader task](super::leader) of every lock manager. Positions are the same on all of
//! them, because they follow from the log: a watcher that changes to another leader goes on where it
//! was, or is told that it missed something.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

use super::wire::EventCursor;
use crate::{ids::LockName, machine::lock::LockEvent};

/// Most events that are kept for those who come back.
const MAX_EVENTS: usize = 16_384;
/// Most watchers that wait at a time.
const MAX_WATCHERS: usize = 10_000;
/// Most events in one answer.
const MAX_TOLD: usize = 1_000;

/// What a watcher is told. Dropped: what it asked for is not known here.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Told {
    /// Events, and where to go on.
    News(Vec<LockEvent>, EventCursor),
    /// Nothing has happened yet, and as many wait for news as may: look again later.
    TooMany,
}

#[derive(Debug)]
struct Watcher {
    after: EventCursor,
    told: oneshot::Sender<Told>,
}

/// A ring of events, and those who wait for the next ones.
#[derive(Debug, Default)]
pub(super) struct LockEvents {
    ring: VecDeque<(EventCursor, LockEvent)>,
    /// Nothing after this position is missing from the ring.
    complete_after: EventCursor,
    watchers: BTreeMap<LockName, Vec<Watcher>>,
    waiting: usize,
}

impl LockEvents {
    /// The state was replaced as a whole: what happened up to this entry is not known event by event.
    pub(super) fn reset(&mut self, index: u64) {
        self.ring.clear();
        self.complete_after = EventCursor { index, nth: u32::MAX };
        self.watchers.clear();
        self.waiting = 0;
    }

    /// The events of one entry of the log.
    pub(super) fn push(&mut self, index: u64, events: impl IntoIterator<Item = LockEvent>) {
        let mut touched = Vec::new();
        for (nth, event) in (0u32..).zip(events) {
            touched.push(event.lock.clone());
            self.ring.push_back((EventCursor { index, nth }, event));
        }
        while self.ring.len() > MAX_EVENTS {
            if let Some((dropped, _)) = self.ring.pop_front() {
                self.complete_after = dropped;
            }
        }
        for lock in touched {
            let watchers = self.watchers.remove(&lock).unwrap_or_default();
            // Before the first is told: who has to wait on may have all who wait counted anew.
            self.waiting -= watchers.len();
            for watcher in watchers {
                self.tell(&lock, watcher);
            }
        }
    }

    /// Somebody wants the events of a lock after a position: now, or when there are some.
    pub(super) fn watch(&mut self, lock: LockName, after: EventCursor, told: oneshot::Sender<Told>) {
        if after < self.complete_after {
            return;
        }
        self.tell(&lock, Watcher { after, told });
    }

    fn tell(&mut self, lock: &LockName, watcher: Watcher) {
        let from = self.ring.partition_point(|(at, _)| *at <= watcher.after);
        let mine = self.ring.range(from..).filter(|(_, event)| event.lock == *lock);
        let events: Vec<_> = mine.take(MAX_TOLD).cloned().collect();
        match events.last() {
            Some((last, _)) => {
                let next = *last;
                // Who hung up meanwhile needs no answer.
                let _ = watcher.told.send(Told::News(events.into_iter().map(|(_, event)| event).collect(), next));
            }
            None => self.wait(lock, watcher),
        }
    }

    fn wait(&mut self, lock: &LockName, watcher: Watcher) {
        if self.waiting >= MAX_WATCHERS {
            self.watchers.retain(|_, watchers| {
                watchers.retain(|watcher| !watcher.told.is_closed());
                !watchers.is_empty()
            });
            self.waiting = self.watchers.values().map(Vec::len).sum();
        }
        if self.waiting < MAX_WATCHERS {
            self.waiting += 1;
            self.watchers.entry(lock.clone()).or_default().push(watcher);
        } else {
            let _ = watcher.told.send(Told::TooMany);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{SessionId, Tick},
        machine::lock::{LockEventKind, Mode},
    };

    fn event(lock: &str) -> LockEvent {
        LockEvent {
            kind: LockEventKind::Released,
            lock: LockName::new(lock).expect("a name"),
            session: SessionId::new("s").expect("an id"),
            owner: "".into(),
            mode: Mode::Exclusive,
            fencing_token: None,
            at: Tick(0),
            lasted_ms: 0,
        }
    }

    fn ask(events: &mut LockEvents, lock: &str, after: EventCursor) -> oneshot::Receiver<Told> {
        let (told, answer) = oneshot::channel();
        events.watch(LockName::new(lock).expect("a name"), after, told);
        answer
    }

    fn news(mut answer: oneshot::Receiver<Told>) -> (Vec<LockEvent>, EventCursor) {
        match answer.try_recv() {
            Ok(Told::News(events, next)) => (events, next),
            other => panic!("no news: {other:?}"),
        }
    }

    #[test]
    fn a_watcher_hears_of_its_own_lock_only_and_goes_on_from_there() {
        let mut events = LockEvents::default();
        let mut answer = ask(&mut events, "a", EventCursor { index: 4, nth: u32::MAX });
        events.push(5, [event("b")]);
        assert!(answer.try_recv().is_err(), "nothing happened to that lock");
        events.push(6, [event("b"), event("a")]);
        let (told, next) = news(answer);
        assert_eq!(told, vec![event("a")]);
        assert_eq!(next, EventCursor { index: 6, nth: 1 });
        events.push(7, [event("a")]);
        assert_eq!(news(ask(&mut events, "a", next)).0.len(), 1);
    }

    #[test]
    fn who_comes_when_too_many_wait_is_told_so_until_one_has_hung_up() {
        let mut events = LockEvents::default();
        let mut waiting: Vec<_> = (0..MAX_WATCHERS).map(|_| ask(&mut events, "a", EventCursor::default())).collect();
        assert_eq!(ask(&mut events, "b", EventCursor::default()).try_recv(), Ok(Told::TooMany));
        waiting.pop();
        let mut let_in = ask(&mut events, "b", EventCursor::default());
        assert_eq!(let_in.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    }

    #[test]
    fn those_who_wait_for_what_is_to_come_later_are_counted_once() {
        let mut events = LockEvents::default();
        let later = EventCursor { index: 9, nth: u32::MAX };
        let waiting: Vec<_> = (0..MAX_WATCHERS).map(|_| ask(&mut events, "a", later)).collect();
        let newcomers: Vec<_> = (0..3).map(|_| ask(&mut events, "a", later)).collect();
        events.push(5, [event("a")]);
        assert_eq!(events.waiting, waiting.len());
        drop(newcomers);
        events.push(10, [event("a")]);
        assert_eq!(events.waiting, 0);
        assert!(waiting.into_iter().all(|answer| news(answer).0.len() == 1));
    }

    #[test]
    fn who_missed_something_is_told_so_by_silence_at_once() {
        let mut events = LockEvents::default();
        for index in 0..=MAX_EVENTS as u64 + 1 {
            events.push(index, [event("a")]);
        }
        let mut answer = ask(&mut events, "a", EventCursor::default());
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        events.reset(99_999);
        let mut answer = ask(&mut events, "a", EventCursor { index: 99_998, nth: 0 });
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
