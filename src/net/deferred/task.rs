//! The task of one exchange: it moves messages between the two sides and the mesh.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

use super::{
    AskError, Asked, Command,
    asking::{Answered, Asking, Step},
    outgoing::{Item, Outgoing},
    serving::Serving,
    wire::{self, AskId, Message, Reply},
};
use crate::{
    ids::{NodeId, RequestId},
    net::{CallError, Inbound, Lane, Mesh, Protocol},
    telemetry::Bounds,
};

/// How often a completion or cancellation is sent. Beyond that the asker's repetition has to do.
const MAX_SENDS: u32 = 5;
/// The pause after the first that failed, doubled each time.
const RESEND_FIRST: Duration = Duration::from_millis(100);
/// How often questions of askers that are gone are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// What is to be done at a certain time.
#[derive(Debug)]
enum Due {
    Ask(RequestId),
    CloseBatch(u64),
    Resend(NodeId, Item),
    Sweep,
}

/// An exchange that ended.
struct Landed {
    peer: NodeId,
    lane: Lane,
    batch: Vec<Item>,
    result: Result<Vec<Reply>, CallError>,
}

/// The task behind an [`Exchange`](super::Exchange).
pub struct ExchangeTask {
    mesh: Arc<dyn Mesh>,
    protocol: Protocol,
    commands: mpsc::Receiver<Command>,
    calls: mpsc::Receiver<Inbound>,
    asking: Asking,
    serving: Serving,
    outgoing: Outgoing,
    flying: FuturesUnordered<BoxFuture<'static, Landed>>,
    abandoned: FuturesUnordered<BoxFuture<'static, RequestId>>,
    due: BTreeMap<(Instant, u64), Due>,
    dues: u64,
}

impl std::fmt::Debug for ExchangeTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeTask").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl ExchangeTask {
    pub(super) fn new(
        mesh: Arc<dyn Mesh>,
        protocol: Protocol,
        commands: mpsc::Receiver<Command>,
        calls: mpsc::Receiver<Inbound>,
        asked: mpsc::Sender<Asked>,
        bounds: Bounds,
    ) -> Self {
        Self {
            mesh,
            protocol,
            commands,
            calls,
            asking: Asking::new(bounds.clone()),
            serving: Serving::new(protocol, asked, bounds),
            outgoing: Outgoing::default(),
            flying: FuturesUnordered::new(),
            abandoned: FuturesUnordered::new(),
            due: BTreeMap::new(),
            dues: 0,
        }
    }

    /// Runs until all handles are dropped.
    pub async fn run(mut self) {
        self.at(Instant::now() + SWEEP, Due::Sweep);
        loop {
            let (wake, _) = self.due.keys().next().copied().expect("the next sweep is always due");
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                Some(call) = self.calls.recv() => self.on_call(call),
                Some(landed) = self.flying.next() => self.on_landed(landed),
                Some(news) = self.serving.news() => {
                    if let Some((id, body)) = self.serving.on_news(news, Instant::now()) {
                        self.send(id.node, Lane::End, Message::Complete(AskId::of(id), body));
                    }
                }
                Some(id) = self.abandoned.next() => {
                    let step = self.asking.abandon(id);
                    self.act(step);
                }
                () = sleep_until(wake) => self.on_due(Instant::now()),
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Ask(question) => {
                let (id, abandoned) = (question.id, question.abandoned.clone());
                self.abandoned.push(async move { abandoned.cancelled_owned().map(|()| id).await }.boxed());
                let step = self.asking.ask(question);
                self.act(step);
            }
            Command::Repeat { peer } => {
                for id in self.asking.at(peer) {
                    let step = self.asking.repeat(id);
                    self.act(step);
                }
            }
        }
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::Send { peer, lane, id, body } => self.send(peer, lane, Message::Ask(AskId::of(id), body)),
            Step::Repeat { peer, lane, id } => self.send(peer, lane, Message::Repeat(AskId::of(id))),
            Step::Wake { id, at } => self.at(at, Due::Ask(id)),
            Step::Cancel { peer, id } => self.send(peer, Lane::End, Message::Cancel(AskId::of(id))),
            Step::Rest => {}
        }
    }

    fn at(&mut self, at: Instant, due: Due) {
        self.dues += 1;
        self.due.insert((at, self.dues), due);
    }

    fn on_due(&mut self, now: Instant) {
        while let Some(first) = self.due.first_entry()
            && first.key().0 <= now
        {
            let ((at, _), due) = first.remove_entry();
            match due {
                Due::Ask(id) => {
                    let step = self.asking.wake(id, at);
                    self.act(step);
                }
                Due::CloseBatch(batch) => self.serving.close(batch),
                Due::Sweep => {
                    self.serving.sweep(now);
                    self.at(now + SWEEP, Due::Sweep);
                }
                Due::Resend(peer, item) => {
                    self.outgoing.push(peer, Lane::End, item);
                    self.fly(peer, Lane::End);
                }
            }
        }
    }

    fn send(&mut self, peer: NodeId, lane: Lane, message: Message) {
        self.outgoing.push(peer, lane, message);
        self.fly(peer, lane);
    }

    /// Sends what may go to a peer.
    fn fly(&mut self, peer: NodeId, lane: Lane) {
        while let Some(batch) = self.outgoing.next(peer, lane) {
            let messages: Vec<&Message> = batch.iter().map(|item| &item.message).collect();
            let call = self.mesh.call(peer, self.protocol, lane, wire::encode(&messages));
            let landing = async move {
                let result = call.await.and_then(|bytes| read_replies(peer, &bytes, batch.len()));
                Landed { peer, lane, batch, result }
            };
            self.flying.push(landing.boxed());
        }
    }

    fn on_landed(&mut self, landed: Landed) {
        let Landed { peer, lane, batch, result } = landed;
        let now = Instant::now();
        self.outgoing.landed(peer, lane);
        match result {
            Ok(replies) => {
                for (item, reply) in batch.into_iter().zip(replies) {
                    if let Message::Ask(id, _) | Message::Repeat(id) = item.message {
                        let step = self.asking.replied(peer, self.own(id), Ok(answered(reply)), now);
                        self.act(step);
                    }
                }
            }
            Err(error) => {
                for item in batch {
                    self.on_failed(peer, item, &error, now);
                }
            }
        }
        self.fly(peer, lane);
    }

    fn on_failed(&mut self, peer: NodeId, mut item: Item, error: &CallError, now: Instant) {
        if let Message::Ask(id, _) | Message::Repeat(id) = item.message {
            let step = self.asking.replied(peer, self.own(id), Err(error.clone()), now);
            self.act(step);
            return;
        }
        item.failures += 1;
        if item.failures < MAX_SENDS {
            self.at(now + RESEND_FIRST * 2u32.pow(item.failures - 1), Due::Resend(peer, item));
        } else {
            tracing::debug!(%peer, %error, "a completion or cancellation was given up");
        }
    }

    /// A peer sends a batch. Dropping the call refuses it whole.
    fn on_call(&mut self, call: Inbound) {
        let messages: Vec<Message> = match wire::decode(&call.body) {
            Ok(messages) => messages,
            Err(error) => {
                tracing::debug!(from = %call.from, protocol = self.protocol.label(), %error, "a batch was refused");
                return;
            }
        };
        let now = Instant::now();
        let batch = self.serving.begin(messages.len(), call.reply);
        for (index, message) in messages.into_iter().enumerate() {
            match message {
                Message::Ask(id, body) => {
                    self.serving.ask(id.by(call.from), body, batch, index, now);
                    continue;
                }
                Message::Repeat(id) => {
                    self.serving.repeat(id.by(call.from), batch, index, now);
                    continue;
                }
                Message::Complete(id, body) => self.asking.completed(call.from, self.own(id), body),
                Message::Cancel(id) => self.serving.cancel(id.by(call.from), now),
            }
            self.serving.say(batch, index, Reply::Noted);
        }
        if let Some(at) = self.serving.settle(batch, now) {
            self.at(at, Due::CloseBatch(batch));
        }
    }

    fn own(&self, id: AskId) -> RequestId {
        id.by(self.mesh.local())
    }
}

fn answered(reply: Reply) -> Answered {
    match reply {
        Reply::Now(body) => Answered::Finally(Ok(body)),
        Reply::Deferred => Answered::Deferred,
        Reply::Refused | Reply::Noted => Answered::Finally(Err(AskError::Refused)),
        Reply::Overloaded => Answered::Finally(Err(AskError::Overloaded)),
    }
}

fn read_replies(peer: NodeId, bytes: &Bytes, expected: usize) -> Result<Vec<Reply>, CallError> {
    match wire::decode(bytes) {
        Ok(replies) if replies.len() == expected => Ok(replies),
        _ => Err(CallError::Broken(peer)),
    }
}
