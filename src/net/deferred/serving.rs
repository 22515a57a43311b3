//! The answerer's side: questions of peers that are open here, and the answers of late.
//!
//! Owns one entry per question, from its first arrival until its answer is forgotten, so that a
//! repetition neither reaches the service twice nor gets another answer. Exchanges that wait for a
//! first word of the service wait [`GRACE`] at most.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    slot::{Asked, Outcome},
    wire::{self, MAX_BATCH, MESSAGE_OVERHEAD, Reply},
};
use crate::{
    ids::RequestId,
    net::{Limits, Protocol},
    telemetry::Bounds,
};

/// How long an exchange is held back for an answer that is about to come: one commit, typically.
const GRACE: Duration = Duration::from_millis(20);
/// Questions that may be open here.
const MAX_SERVING: usize = 262_144;
/// How long an answer is remembered: beyond any repetition that may still be on its way.
const MEMORY_AGE: Duration = Duration::from_secs(30);
/// An open question that its asker has not repeated for so long is cancelled: the asker is gone.
const SILENCE: Duration = Duration::from_secs(15);
/// Answers that are remembered.
const MEMORY_COUNT: usize = 65_536;
/// Bytes of answers that are remembered.
const MEMORY_BYTES: usize = 32 * 1024 * 1024;

/// A place in an exchange that has not been answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    batch: u64,
    index: usize,
}

#[derive(Debug)]
enum Entry {
    /// The service has it. `turn` tells a question from an earlier one of the same id.
    Open { turn: u64, place: Option<Place>, heard: Instant, cancelled: CancellationToken },
    /// Answered, or given up.
    Finished(Option<Bytes>),
}

/// One exchange that waits for first words.
#[derive(Debug)]
struct Batch {
    reply: oneshot::Sender<Bytes>,
    replies: Vec<Option<Reply>>,
    /// Whose places are here.
    waiting: Vec<RequestId>,
    bytes: usize,
}

/// News from the service.
#[derive(Debug)]
pub(super) enum Progress {
    First { id: RequestId, turn: u64, outcome: Option<Outcome> },
    Last { id: RequestId, turn: u64, body: Option<Bytes> },
}

/// The questions of all peers.
#[derive(Debug)]
pub(super) struct Serving {
    limits: Limits,
    asked: mpsc::Sender<Asked>,
    bounds: Bounds,
    entries: HashMap<RequestId, Entry>,
    open: usize,
    finished: VecDeque<(RequestId, Instant, usize)>,
    finished_bytes: usize,
    batches: HashMap<u64, Batch>,
    turns: u64,
    news: FuturesUnordered<BoxFuture<'static, Progress>>,
}

/// A completion that has to be sent.
pub(super) type Completion = (RequestId, Option<Bytes>);

impl Serving {
    pub(super) fn new(protocol: Protocol, asked: mpsc::Sender<Asked>, bounds: Bounds) -> Self {
        Self {
            limits: protocol.limits(),
            asked,
            bounds,
            entries: HashMap::new(),
            open: 0,
            finished: VecDeque::new(),
            finished_bytes: 0,
            batches: HashMap::new(),
            turns: 0,
            news: FuturesUnordered::new(),
        }
    }

    /// The next news from the service. `None` while nothing is open.
    pub(super) async fn news(&mut self) -> Option<Progress> {
        self.news.next().await
    }

    /// Opens an exchange of so many messages.
    pub(super) fn begin(&mut self, messages: usize, reply: oneshot::Sender<Bytes>) -> u64 {
        self.turns += 1;
        self.batches.insert(self.turns, Batch { reply, replies: vec![None; messages], waiting: Vec::new(), bytes: 0 });
        self.turns
    }

    /// Closes the exchange if all is said, else names the moment at which it is closed anyway.
    pub(super) fn settle(&mut self, batch: u64, now: Instant) -> Option<Instant> {
        self.send_if_complete(batch);
        self.batches.contains_key(&batch).then_some(now + GRACE)
    }

    /// Says one thing in an exchange.
    pub(super) fn say(&mut self, batch: u64, index: usize, reply: Reply) {
        if let Some(batch) = self.batches.get_mut(&batch) {
            batch.replies[index] = Some(reply);
        }
    }

    /// A question arrives; perhaps not for the first time.
    pub(super) fn ask(&mut self, id: RequestId, body: Bytes, batch: u64, index: usize, now: Instant) {
        self.forget(now);
        if self.entries.contains_key(&id) {
            return self.recall(id, batch, index, now);
        }
        if self.open >= MAX_SERVING {
            return self.overloaded("exchange.served", batch, index);
        }
        let cancelled = CancellationToken::new();
        let (asked, first) = Asked::new(id, body, cancelled.clone());
        match self.asked.try_send(asked) {
            Ok(()) => self.open(id, Place { batch, index }, cancelled, first, now),
            Err(mpsc::error::TrySendError::Full(_)) => self.overloaded("exchange.questions", batch, index),
            Err(mpsc::error::TrySendError::Closed(_)) => self.say(batch, index, Reply::Refused),
        }
    }

    /// A question that was deferred is repeated. Where it is not known any more, it is not taken for a new
    /// one: it may have been acted upon, and an answer of now ("I do not lead") would deny that.
    pub(super) fn repeat(&mut self, id: RequestId, batch: u64, index: usize, now: Instant) {
        self.forget(now);
        self.recall(id, batch, index, now);
    }

    /// Says what has become of a question.
    fn recall(&mut self, id: RequestId, batch: u64, index: usize, now: Instant) {
        let reply = match self.entries.get_mut(&id) {
            Some(Entry::Open { heard, .. }) => {
                *heard = now;
                Reply::Deferred
            }
            Some(Entry::Finished(Some(answer))) => {
                let answer = answer.clone();
                return self.say_answer(id, answer, batch, index);
            }
            Some(Entry::Finished(None)) | None => Reply::Refused,
        };
        self.say(batch, index, reply);
    }

    fn overloaded(&mut self, bound: &'static str, batch: u64, index: usize) {
        self.bounds.hit(bound);
        self.say(batch, index, Reply::Overloaded);
    }

    /// Says a remembered answer, or, where the exchange has no room for it, lets it be asked again:
    /// the repetition will find room.
    fn say_answer(&mut self, id: RequestId, answer: Bytes, batch: u64, index: usize) {
        if !self.fits(batch, answer.len()) {
            tracing::debug!(?id, "an answer waits for an exchange with more room");
            return self.say(batch, index, Reply::Deferred);
        }
        if let Some(batch) = self.batches.get_mut(&batch) {
            batch.bytes += answer.len();
        }
        self.say(batch, index, Reply::Now(answer));
    }

    fn fits(&self, batch: u64, bytes: usize) -> bool {
        let room = self.limits.response_bytes - MAX_BATCH * MESSAGE_OVERHEAD;
        self.batches.get(&batch).is_some_and(|batch| batch.bytes + bytes <= room)
    }

    fn open(
        &mut self,
        id: RequestId,
        place: Place,
        cancelled: CancellationToken,
        first: oneshot::Receiver<Outcome>,
        now: Instant,
    ) {
        self.turns += 1;
        let turn = self.turns;
        self.open += 1;
        if let Some(batch) = self.batches.get_mut(&place.batch) {
            batch.waiting.push(id);
        }
        self.entries.insert(id, Entry::Open { turn, place: Some(place), heard: now, cancelled: cancelled.clone() });
        self.news.push(
            async move {
                tokio::select! {
                    outcome = first => Progress::First { id, turn, outcome: outcome.ok() },
                    () = cancelled.cancelled() => Progress::First { id, turn, outcome: None },
                }
            }
            .boxed(),
        );
    }

    /// The service said something. What it owes to an exchange that is over goes out as a completion.
    pub(super) fn on_news(&mut self, progress: Progress, now: Instant) -> Option<Completion> {
        match progress {
            Progress::First { id, turn, outcome } => {
                let (place, cancelled) = self.current(id, turn)?;
                match outcome {
                    Some(Outcome::Later(later)) => {
                        self.await_answer(id, turn, later, cancelled);
                        self.speak(id, place, Reply::Deferred);
                        None
                    }
                    Some(Outcome::Now(body)) => self.finish(id, place, Some(body), now),
                    None => self.finish(id, place, None, now),
                }
            }
            Progress::Last { id, turn, body } => {
                let (place, _) = self.current(id, turn)?;
                self.finish(id, place, body, now)
            }
        }
    }

    fn current(&self, id: RequestId, turn: u64) -> Option<(Option<Place>, CancellationToken)> {
        match self.entries.get(&id) {
            Some(Entry::Open { turn: open, place, cancelled, .. }) if *open == turn => {
                Some((*place, cancelled.clone()))
            }
            _ => None,
        }
    }

    fn await_answer(
        &mut self,
        id: RequestId,
        turn: u64,
        later: oneshot::Receiver<Bytes>,
        cancelled: CancellationToken,
    ) {
        self.news.push(
            async move {
                tokio::select! {
                    body = later => Progress::Last { id, turn, body: body.ok() },
                    () = cancelled.cancelled() => Progress::Last { id, turn, body: None },
                }
            }
            .boxed(),
        );
    }

    /// Says something where the question stands, and has it stand nowhere any more.
    fn speak(&mut self, id: RequestId, place: Option<Place>, reply: Reply) {
        if let Some(Entry::Open { place, .. }) = self.entries.get_mut(&id) {
            *place = None;
        }
        if let Some(Place { batch, index }) = place {
            self.say(batch, index, reply);
            self.send_if_complete(batch);
        }
    }

    /// The question has its answer, or is given up.
    fn finish(&mut self, id: RequestId, place: Option<Place>, body: Option<Bytes>, now: Instant) -> Option<Completion> {
        let body = body.filter(|body| {
            let fits = body.len() <= wire::most_body(self.limits.request_bytes);
            if !fits {
                tracing::error!(?id, bytes = body.len(), "an answer is too large to be sent");
            }
            fits
        });
        let room = place.filter(|place| self.fits(place.batch, body.as_ref().map_or(0, Bytes::len)));
        match (&body, room) {
            (Some(body), Some(Place { batch, .. })) => {
                if let Some(batch) = self.batches.get_mut(&batch) {
                    batch.bytes += body.len();
                }
                self.speak(id, place, Reply::Now(body.clone()));
            }
            (Some(_), None) => self.speak(id, place, Reply::Deferred),
            (None, _) => self.speak(id, place, Reply::Refused),
        }
        let told = place.is_some() && (body.is_none() || room.is_some());
        match &body {
            Some(_) => self.remember(id, body.clone(), now),
            // Given up is not remembered: asked again, the service may take it this time.
            None => {
                self.entries.remove(&id);
                self.open -= 1;
            }
        }
        (!told).then_some((id, body))
    }

    fn remember(&mut self, id: RequestId, answer: Option<Bytes>, now: Instant) {
        let bytes = answer.as_ref().map_or(0, Bytes::len);
        if let Some(Entry::Open { .. }) = self.entries.insert(id, Entry::Finished(answer)) {
            self.open -= 1;
        }
        self.finished.push_back((id, now, bytes));
        self.finished_bytes += bytes;
        self.forget(now);
    }

    /// Nobody waits for the answer. Remembered, because the question itself may still arrive.
    pub(super) fn cancel(&mut self, id: RequestId, now: Instant) {
        if let Some(Entry::Finished(_)) = self.entries.get(&id) {
            return;
        }
        if let Some(Entry::Open { place, cancelled, .. }) = self.entries.get(&id) {
            let place = *place;
            cancelled.cancel();
            self.speak(id, place, Reply::Refused);
        }
        self.remember(id, None, now);
    }

    /// Cancels the questions of askers that are gone, and forgets old answers.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.forget(now);
        let before = self.entries.len();
        self.entries.retain(|_, entry| match entry {
            Entry::Open { heard, cancelled, .. } if now.duration_since(*heard) > SILENCE => {
                cancelled.cancel();
                false
            }
            _ => true,
        });
        self.open -= before - self.entries.len();
    }

    fn forget(&mut self, now: Instant) {
        while let Some((id, at, bytes)) = self.finished.front().copied() {
            let young = now.duration_since(at) < MEMORY_AGE;
            if young && self.finished.len() <= MEMORY_COUNT && self.finished_bytes <= MEMORY_BYTES {
                return;
            }
            self.finished.pop_front();
            self.finished_bytes -= bytes;
            self.entries.remove(&id);
        }
    }

    /// An exchange has waited long enough: what has no answer yet is deferred.
    pub(super) fn close(&mut self, batch: u64) {
        if let Some(open) = self.batches.get_mut(&batch) {
            for id in std::mem::take(&mut open.waiting) {
                if let Some(Entry::Open { place, .. }) = self.entries.get_mut(&id) {
                    place.take_if(|place| place.batch == batch);
                }
            }
            for reply in &mut open.replies {
                reply.get_or_insert(Reply::Deferred);
            }
        }
        self.send_if_complete(batch);
    }

    fn send_if_complete(&mut self, id: u64) {
        let complete = |batch: &Batch| batch.replies.iter().all(Option::is_some);
        if self.batches.get(&id).is_some_and(complete)
            && let Some(batch) = self.batches.remove(&id)
        {
            let replies: Vec<Reply> = batch.replies.into_iter().flatten().collect();
            // Err says that the asker's connection is gone.
            let _ = batch.reply.send(wire::encode(&replies));
        }
    }
}
