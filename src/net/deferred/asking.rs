//! The asker's side: questions of this node that are open at peers.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    time::{Duration, Instant},
};

use super::{AskError, MAX_OPEN, Question, REASK};
use crate::{
    ids::{NodeId, RequestId},
    net::{CallError, Lane},
    telemetry::Bounds,
};

/// Repetitions of a deferred question that may fail in a row before its asker is told.
const MAX_FAILURES: u32 = 3;
/// The pause after the first of them, doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Open {
    peer: NodeId,
    lane: Lane,
    answer: oneshot::Sender<Result<Bytes, AskError>>,
    /// Messages with this question that wait or fly: while there are any, it is not repeated.
    sending: usize,
    accepted: Accepted,
    failures: u32,
    repeat_at: Option<Instant>,
}

/// Whether the peer has said that it keeps the question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Accepted {
    NotYet,
    Deferred,
}

/// What to do next about a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Send it.
    Send { peer: NodeId, lane: Lane, id: RequestId, body: Bytes },
    /// Send it once more.
    Repeat { peer: NodeId, lane: Lane, id: RequestId },
    /// Look at it again then.
    Wake { id: RequestId, at: Instant },
    /// Tell the peer that nobody waits any more.
    Cancel { peer: NodeId, id: RequestId },
    /// Nothing.
    Rest,
}

/// All open questions of this node, and those abandoned while a message with them was still flying:
/// their cancellation must not overtake it.
#[derive(Debug, Default)]
pub(super) struct Asking {
    open: HashMap<RequestId, Open>,
    leaving: HashMap<(NodeId, RequestId), usize>,
    bounds: Bounds,
}

impl Asking {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    pub(super) fn ask(&mut self, question: Question) -> Step {
        let Question { peer, id, lane, body, answer, abandoned } = question;
        if abandoned.is_cancelled() {
            return Step::Rest;
        }
        let refusal = match self.open.get(&id) {
            Some(_) => Some(AskError::AlreadyOpen),
            None if self.open.len() >= MAX_OPEN => {
                self.bounds.hit("exchange.asked");
                Some(AskError::TooManyOpen)
            }
            None => None,
        };
        if let Some(error) = refusal {
            let _ = answer.send(Err(error));
            return Step::Rest;
        }
        self.open.insert(
            id,
            Open { peer, lane, answer, sending: 1, accepted: Accepted::NotYet, failures: 0, repeat_at: None },
        );
        Step::Send { peer, lane, id, body }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn abandon(&mut self, id: RequestId) -> Step {
        match self.open.get(&id) {
            Some(open) if open.answer.is_closed() => {}
            _ => return Step::Rest,
        }
        let Some(open) = self.open.remove(&id) else { return Step::Rest };
        if open.sending > 0 {
            self.leaving.insert((open.peer, id), open.sending);
            return Step::Rest;
        }
        Step::Cancel { peer: open.peer, id }
    }

    /// A message with this question reached the peer, which answered; or did not.
    pub(super) fn replied(
        &mut self,
        peer: NodeId,
        id: RequestId,
        result: Result<Answered, CallError>,
        now: Instant,
    ) -> Step {
        if let Some(flying) = self.leaving.get_mut(&(peer, id)) {
            *flying -= 1;
            if *flying == 0 {
                self.leaving.remove(&(peer, id));
                return Step::Cancel { peer, id };
            }
            return Step::Rest;
        }
        let Some(open) = self.open.get_mut(&id).filter(|open| open.peer == peer) else { return Step::Rest };
        open.sending = open.sending.saturating_sub(1);
        match result {
            Ok(Answered::Deferred) => {
                open.accepted = Accepted::Deferred;
                open.failures = 0;
                open.wake(id, now + REASK.mul_f64(rand::random_range(0.75..=1.25)))
            }
            Ok(Answered::Finally(result)) => {
                self.finish(id, result);
                Step::Rest
            }
            Err(_) if open.accepted == Accepted::Deferred && open.failures + 1 < MAX_FAILURES => {
                open.failures += 1;
                open.wake(id, now + RETRY_FIRST * 2u32.pow(open.failures - 1))
            }
            Err(error) => {
                let taken_up = open.accepted == Accepted::Deferred;
                self.finish(id, Err(if taken_up { AskError::Lost(error) } else { error.into() }));
                Step::Rest
            }
        }
    }

    /// The peer's own message with the final answer.
    pub(super) fn completed(&mut self, peer: NodeId, id: RequestId, answer: Option<Bytes>) {
        if self.open.get(&id).is_some_and(|open| open.peer == peer) {
            self.finish(id, answer.ok_or(AskError::Refused));
        }
    }

    /// Its time has come: repeats it, unless something else happened meanwhile.
    pub(super) fn wake(&mut self, id: RequestId, at: Instant) -> Step {
        match self.open.get_mut(&id) {
            Some(open) if open.repeat_at == Some(at) => open.repeat(id),
            _ => Step::Rest,
        }
    }

    /// The questions that are open at a peer.
    pub(super) fn at(&self, peer: NodeId) -> Vec<RequestId> {
        self.open.iter().filter(|(_, open)| open.peer == peer).map(|(id, _)| *id).collect()
    }

    /// Asks the same peer again, at once, unless the question is on its way already.
    pub(super) fn repeat(&mut self, id: RequestId) -> Step {
        match self.open.get_mut(&id) {
            Some(open) if open.sending == 0 => open.repeat(id),
            _ => Step::Rest,
        }
    }

    fn finish(&mut self, id: RequestId, result: Result<Bytes, AskError>) {
        if let Some(open) = self.open.remove(&id) {
            // Err says that the asker has gone, which its cancellation reports too.
            let _ = open.answer.send(result);
        }
    }
}

impl Open {
    /// Only what was deferred comes to this: what was not ends with its first message.
    fn repeat(&mut self, id: RequestId) -> Step {
        self.sending += 1;
        self.repeat_at = None;
        Step::Repeat { peer: self.peer, lane: self.lane, id }
    }

    fn wake(&mut self, id: RequestId, at: Instant) -> Step {
        self.repeat_at = Some(at);
        Step::Wake { id, at }
    }
}

/// What a peer said to a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answered {
    Deferred,
    Finally(Result<Bytes, AskError>),
}
