//! Where the answers of a machine go: to the task beside it, or to a peer whose question is open.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::oneshot;

use super::counters::Counters;
use crate::{
    codec::encode,
    net::deferred::{AnswerSlot, Deferred},
    telemetry::Bounds,
};

/// Most questions that a task has open for others.
const MAX_OPEN: usize = 65_536;
/// At this number those who wait no longer are swept out for the first time.
const FIRST_SWEEP: usize = 1_024;

/// Whether others had to be asked for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// No message left this node.
    Here,
    /// One did, or may have.
    Elsewhere,
}

/// The way back of one question.
#[derive(Debug)]
pub(super) enum Way<T> {
    /// The task beside it.
    Here(oneshot::Sender<(T, Reach)>),
    /// A peer that has heard nothing yet.
    There(AnswerSlot),
    /// A peer that was told to wait.
    Waiting(Deferred),
}

impl<T> Way<T> {
    fn is_gone(&self) -> bool {
        match self {
            Self::Here(reply) => reply.is_closed(),
            Self::There(_) => false,
            Self::Waiting(deferred) => deferred.is_cancelled(),
        }
    }
}

/// The ways back of all open questions, by the call that the machine knows them by.
#[derive(Debug)]
pub(super) struct Ways<T> {
    calls: u64,
    /// With whether others were asked for the answer.
    open: HashMap<u64, (Way<T>, Reach)>,
    sweep_at: usize,
    bounds: Bounds,
    counters: Arc<Counters>,
}

impl<T: Serialize> Ways<T> {
    pub(super) fn new(bounds: Bounds, counters: Arc<Counters>) -> Self {
        Self { calls: 0, open: HashMap::new(), sweep_at: FIRST_SWEEP, bounds, counters }
    }

    /// A call for a question; `None` where too many are open: dropped, it is refused.
    pub(super) fn open(&mut self, way: Way<T>) -> Option<u64> {
        if self.open.len() >= self.sweep_at {
            self.open.retain(|_, (way, _)| !way.is_gone());
            self.sweep_at = (self.open.len() * 2).clamp(FIRST_SWEEP, MAX_OPEN);
        }
        if self.open.len() >= MAX_OPEN {
            self.bounds.hit("cache.questions");
            return None;
        }
        self.calls += 1;
        self.open.insert(self.calls, (way, Reach::Here));
        Some(self.calls)
    }

    /// A call for what is only told: nobody reads its answer.
    pub(super) fn told(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// The machine answers, in a step that asked others or not.
    pub(super) fn answer(&mut self, call: u64, answer: T, reach: Reach) {
        let Some((way, before)) = self.open.remove(&call) else { return };
        let reach = if before == Reach::Elsewhere { before } else { reach };
        match way {
            // Who hung up meanwhile needs no answer.
            Way::Here(reply) => _ = reply.send((answer, reach)),
            Way::There(slot) => slot.answer(self.counted(&answer)),
            Way::Waiting(deferred) => deferred.complete(self.counted(&answer)),
        }
    }

    /// An answer, as it leaves this node.
    fn counted(&self, answer: &T) -> Bytes {
        let body = encode(answer);
        self.counters.sent_bytes.add(body.len() as u64);
        body
    }

    /// The machine has not answered yet: a peer is told to wait. What is waited for comes from elsewhere, or may.
    pub(super) fn defer(&mut self, call: u64) {
        let Some((way, _)) = self.open.remove(&call) else { return };
        let way = match way {
            Way::There(slot) => Way::Waiting(slot.defer()),
            way => way,
        };
        self.open.insert(call, (way, Reach::Elsewhere));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_came_from_elsewhere_if_others_were_asked_or_it_had_to_be_waited_for() {
        let mut ways = Ways::<u8>::new(Bounds::default(), Arc::default());
        for (waits, reach, expected) in [
            (false, Reach::Here, Reach::Here),
            (false, Reach::Elsewhere, Reach::Elsewhere),
            (true, Reach::Here, Reach::Elsewhere),
        ] {
            let (reply, mut answered) = oneshot::channel();
            let call = ways.open(Way::Here(reply)).unwrap();
            if waits {
                ways.defer(call);
            }
            ways.answer(call, 7, reach);
            assert_eq!(answered.try_recv().unwrap(), (7, expected), "waits: {waits}, {reach:?}");
        }
    }
}
