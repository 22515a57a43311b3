//! Where the answers of a machine go: to the task beside it, or to a peer whose question is open.

use std::collections::HashMap;

use serde::Serialize;
use tokio::sync::oneshot;

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
    open: HashMap<u64, Way<T>>,
    sweep_at: usize,
    bounds: Bounds,
}

impl<T: Serialize> Ways<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { calls: 0, open: HashMap::new(), sweep_at: FIRST_SWEEP, bounds }
    }

    /// A call for a question; `None` where too many are open: dropped, it is refused.
    pub(super) fn open(&mut self, way: Way<T>) -> Option<u64> {
        if self.open.len() >= self.sweep_at {
            self.open.retain(|_, way| !way.is_gone());
            self.sweep_at = (self.open.len() * 2).clamp(FIRST_SWEEP, MAX_OPEN);
        }
        if self.open.len() >= MAX_OPEN {
            self.bounds.hit("cache.questions");
            return None;
        }
        self.calls += 1;
        self.open.insert(self.calls, way);
        Some(self.calls)
    }

    /// A call for what is only told: nobody reads its answer.
    pub(super) fn told(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// The machine answers.
    pub(super) fn answer(&mut self, call: u64, answer: T, reach: Reach) {
        match self.open.remove(&call) {
            // Who hung up meanwhile needs no answer.
            Some(Way::Here(reply)) => _ = reply.send((answer, reach)),
            Some(Way::There(slot)) => slot.answer(encode(&answer)),
            Some(Way::Waiting(deferred)) => deferred.complete(encode(&answer)),
            None => {}
        }
    }

    /// The machine has not answered yet: a peer is told to wait.
    pub(super) fn defer(&mut self, call: u64) {
        match self.open.remove(&call) {
            Some(Way::There(slot)) => _ = self.open.insert(call, Way::Waiting(slot.defer())),
            Some(way) => _ = self.open.insert(call, way),
            None => {}
        }
    }
}
