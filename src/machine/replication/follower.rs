//! How far one follower of a primary has come, and what it is to be sent next. Says nothing to anyone by itself.

use std::collections::BTreeMap;

use super::{Position, Replica, Settings, log::Log};
use crate::ids::Tick;

/// After how many doublings the pause of a follower that is away grows no further.
const MAX_DOUBLINGS: u32 = 4;

/// What is known of where its log agrees with the primary's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Mode {
    /// Nothing certain: one append at a time finds out.
    Probe,
    /// Up to `next`: appends follow each other without waiting.
    Stream,
    /// The records that it lacks are not kept: it needs the state.
    Install,
}

/// A message to it that is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Flight {
    pub(super) sent: Tick,
    /// The last record that it holds if it takes the message.
    pub(super) end: u64,
    /// What the message says about commits.
    pub(super) committed: u64,
}

/// One that follows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Follower {
    /// Who it is: as the placement names it or, of a learner, as it named itself.
    pub(super) replica: Option<Replica>,
    pub(super) mode: Mode,
    /// It said, in this primary's reign, that it holds everything up to here.
    pub(super) held: u64,
    /// The number of the next record to be sent.
    pub(super) next: u64,
    pub(super) flights: BTreeMap<u64, Flight>,
    /// It knows of this much that it is committed.
    pub(super) told: u64,
    /// When something was last sent.
    pub(super) sent: Tick,
    /// When it last came closer to holding everything, or did hold everything.
    pub(super) progress: Tick,
    /// Nothing is sent before.
    pub(super) pause: Option<Tick>,
    /// How many messages in a row were not answered, or not as wished.
    pub(super) failures: u32,
    /// It is not proposed for the in-sync set before.
    pub(super) not_grown_before: Option<Tick>,
    /// How often it was waited for in vain.
    pub(super) given_up: u32,
}

impl Follower {
    pub(super) fn new(now: Tick, replica: Option<Replica>, next: u64) -> Self {
        Self {
            replica,
            mode: Mode::Probe,
            held: 0,
            next,
            flights: BTreeMap::new(),
            told: 0,
            sent: now,
            progress: now,
            pause: None,
            failures: 0,
            not_grown_before: None,
            given_up: 0,
        }
    }

    /// What is in flight was answered in vain, or not at all: from what is certain, once more.
    ///
    /// Never from further on, though it may have taken more than it holds: it keeps aside what leaves a gap.
    pub(super) fn begin_again(&mut self) {
        self.flights.clear();
        if self.mode == Mode::Stream {
            (self.mode, self.next) = (Mode::Probe, self.held + 1);
        }
    }

    /// It is away, or cannot go on: it is asked again after a while.
    pub(super) fn pause(&mut self, now: Tick, settings: &Settings) {
        self.pause = Some(now.plus_ms(self.retry_ms(settings)));
        self.failures = self.failures.saturating_add(1);
    }

    fn retry_ms(&self, settings: &Settings) -> u64 {
        settings.retry_ms << self.failures.min(MAX_DOUBLINGS)
    }

    /// When the oldest message counts as lost.
    pub(super) fn lost_at(&self, settings: &Settings) -> Option<Tick> {
        self.flights.values().map(|flight| flight.sent).min().map(|sent| sent.plus_ms(self.retry_ms(settings)))
    }

    /// It holds everything up to here, as it says.
    pub(super) fn holds(&mut self, now: Tick, flight: Flight, upto: u64) {
        if upto > self.held {
            self.held = upto;
            self.progress = now;
        }
        if upto >= flight.end {
            self.told = self.told.max(flight.committed.min(upto));
            if self.mode != Mode::Stream {
                self.mode = Mode::Stream;
                self.next = flight.end + 1;
            }
        }
        self.next = self.next.max(self.held + 1);
        self.failures = 0;
        self.pause = None;
    }

    /// It does not hold what an append follows; its log may agree up to this position.
    pub(super) fn differs(&mut self, now: Tick, settings: &Settings, log: &Log, last: Position) {
        if last.seq < self.held {
            // Said before it held what it holds now.
            self.pause(now, settings);
            return;
        }
        self.flights.clear();
        let agrees = log.agreeable(last.seq, last.epoch);
        let next = agrees.map(|position| position.seq.max(self.held) + 1);
        if self.mode == Mode::Probe && next.is_none_or(|next| next < self.next) {
            self.progress = now;
        }
        match next {
            Some(next) => (self.mode, self.next) = (Mode::Probe, next),
            None => self.mode = Mode::Install,
        }
        self.failures = 0;
        self.pause = None;
    }
}

#[cfg(test)]
impl Follower {
    pub(super) fn rewind(&mut self, back: impl Fn(&mut Tick)) {
        let flights = self.flights.values_mut().map(|flight| &mut flight.sent);
        let moments = [&mut self.sent, &mut self.progress];
        flights.chain(moments).chain(&mut self.pause).chain(&mut self.not_grown_before).for_each(back);
        (self.failures, self.given_up) = (0, 0);
    }
}
