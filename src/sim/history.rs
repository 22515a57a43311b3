//! What clients asked and were told, on the true time line. What they were not told stays unknown.

use std::sync::{Arc, Mutex};

use super::{clock::WorldTime, door::Service};

/// A moment of a run: true time, and the order of what happened within one millisecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Moment {
    /// True time in milliseconds.
    pub ms: u64,
    /// Grows with each moment that was recorded; 0: the very beginning of the millisecond.
    pub order: u64,
}

impl Moment {
    /// The very beginning of a millisecond.
    pub fn start_of(ms: u64) -> Self {
        Self { ms, order: 0 }
    }
}

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Record<S: Service> {
    /// Whose.
    pub client: usize,
    /// What was asked.
    pub ask: S::Ask,
    /// When it was first asked.
    pub invoked: Moment,
    /// When the answer was there; `None`: no answer, or one that does not tell the outcome.
    pub returned: Option<Moment>,
    /// The answer, [`Service::UNKNOWN`] without one.
    pub answer: S::Answer,
    /// How often it was asked, under the same key, without an answer.
    pub unanswered: u32,
    /// After an answer that grants a lease (an open, a keep-alive): until when (true time) the client believes
    /// in it, by its own clock and DESIGN.md section 4, point 7.
    pub lease_until_ms: Option<u64>,
}

impl<S: Service> Record<S> {
    /// Whether it may have taken effect unseen.
    pub fn is_unknown(&self) -> bool {
        self.answer == S::UNKNOWN
    }

    /// One line about it.
    pub fn tell(&self) -> String {
        let returned = self.returned.map_or("never".to_owned(), |moment| moment.ms.to_string());
        format!("client {} {}..{returned} ms {:?} -> {:?}", self.client, self.invoked.ms, self.ask, self.answer)
    }
}

/// Takes down what happens. Cheap to clone.
#[derive(Debug)]
pub struct Recorder<S: Service> {
    time: WorldTime,
    notes: Arc<Mutex<Notes<S>>>,
}

impl<S: Service> Clone for Recorder<S> {
    fn clone(&self) -> Self {
        Self { time: self.time.clone(), notes: Arc::clone(&self.notes) }
    }
}

#[derive(Debug)]
struct Notes<S: Service> {
    order: u64,
    records: Vec<Record<S>>,
}

/// An operation that is under way.
#[derive(Debug)]
pub struct Pending(usize);

impl<S: Service> Recorder<S> {
    /// An empty history.
    pub fn new(time: WorldTime) -> Self {
        Self { time, notes: Arc::new(Mutex::new(Notes { order: 0, records: Vec::new() })) }
    }

    /// A client is about to ask.
    pub fn invoke(&self, client: usize, ask: S::Ask) -> Pending {
        let mut notes = self.notes.lock().expect("no panic while locked");
        let invoked = notes.moment(&self.time);
        let (answer, unanswered) = (S::UNKNOWN, 1);
        let record = Record { client, ask, invoked, returned: None, answer, unanswered, lease_until_ms: None };
        notes.records.push(record);
        Pending(notes.records.len() - 1)
    }

    /// It was answered (or not: [`Service::UNKNOWN`]), after it was `unanswered` so often.
    pub fn finish(&self, pending: Pending, answer: S::Answer, unanswered: u32, lease_until_ms: Option<u64>) {
        let mut notes = self.notes.lock().expect("no panic while locked");
        let returned = notes.moment(&self.time);
        let record = &mut notes.records[pending.0];
        record.unanswered = unanswered;
        if answer != S::UNKNOWN {
            (record.returned, record.answer, record.lease_until_ms) = (Some(returned), answer, lease_until_ms);
        }
    }

    /// Everything so far, in the order of invocation. What is under way has an unknown outcome.
    pub fn history(&self) -> Vec<Record<S>> {
        self.notes.lock().expect("no panic while locked").records.clone()
    }
}

impl<S: Service> Notes<S> {
    fn moment(&mut self, time: &WorldTime) -> Moment {
        self.order += 1;
        Moment { ms: time.now_ms(), order: self.order }
    }
}
