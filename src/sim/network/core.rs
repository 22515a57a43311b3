//! The network's state: who is there, what is on its way, and the dice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{
    mpsc,
    oneshot::{self, error::TryRecvError},
    watch,
};

use super::{
    Frame, Happened, Tally, Weather,
    links::{Link, Pair, Process, address},
};
use crate::{
    ids::NodeId,
    net::{CallError, Inbound, Lane, MeshEvent, MeshStatus, Protocol, Topic},
    sim::clock::WorldTime,
};

/// Events that a process may leave lying: a kernel's and libp2p's buffers together. Calls and
/// broadcasts beyond are lost.
const EVENT_BUFFER: usize = 16_384;

/// Room in that buffer that calls and broadcasts leave for news of connections.
const RESERVED_EVENTS: usize = 1_024;

/// Calls of one lane and protocol to one peer that may be under way.
const CALLS_IN_FLIGHT: usize = 256;

/// Most bytes of a request.
pub(super) const MAX_REQUEST_BYTES: usize = 16 << 20;

/// How long the mesh waits for an answer.
pub(super) const fn deadline(protocol: Protocol) -> Duration {
    Duration::from_secs(match protocol {
        Protocol::Coherence => 2,
        Protocol::Client => 10,
        Protocol::Raft | Protocol::Replication | Protocol::Control => 5,
    })
}

/// A process's end, as the network sees it.
pub(super) struct Port {
    pub(super) life: u64,
    pub(super) events: mpsc::Sender<MeshEvent>,
    pub(super) status: watch::Sender<Arc<MeshStatus>>,
    pub(super) barred: BTreeSet<NodeId>,
    pub(super) offered: BTreeSet<String>,
    /// Calls that the process has been given and owes an answer.
    owed: Vec<Owed>,
}

struct Owed {
    call: u64,
    to: NodeId,
    epoch: u64,
    answer: oneshot::Receiver<Bytes>,
}

struct Call {
    from: Process,
    to: NodeId,
    channel: (Protocol, Lane),
    reply: oneshot::Sender<Result<Bytes, CallError>>,
}

/// A message on its way over a directed link.
struct Parcel {
    from: NodeId,
    to: NodeId,
    epoch: u64,
    /// Its place among what was sent over the directed link.
    place: u64,
    freight: Freight,
}

enum Freight {
    /// A request; `None`: the second copy, whose answer interests nobody.
    Request { call: Option<u64>, protocol: Protocol, body: Bytes },
    /// An answer; `None`: the peer refused.
    Answer { call: u64, body: Option<Bytes> },
    /// A broadcast.
    Gossip { topic: Topic, body: Bytes },
}

enum Due {
    Arrival(Parcel),
    /// The caller itself ends the call.
    End {
        call: u64,
        error: CallError,
    },
}

/// The dice and counters of one directed link: its own, so that what one link draws does not change
/// what another one draws.
struct Lines {
    dice: StdRng,
    sent: u64,
    latest: u64,
}

pub(super) struct Net {
    seed: u64,
    pub(super) time: WorldTime,
    pub(super) weather: Weather,
    pub(super) blocked: BTreeSet<Pair>,
    pub(super) tally: Tally,
    /// What is sent, where somebody wants to look at it.
    pub(super) recorded: Option<Vec<Frame>>,
    pub(super) ports: BTreeMap<NodeId, Port>,
    pub(super) links: BTreeMap<Pair, Link>,
    pub(super) dice: StdRng,
    lines: BTreeMap<Pair, Lines>,
    calls: BTreeMap<u64, Call>,
    /// In order of the time at which they are due, in microseconds.
    queue: BTreeMap<(u64, u64), Due>,
    serial: u64,
}

impl Net {
    pub(super) fn new(seed: u64, time: WorldTime, weather: Weather) -> Self {
        Self {
            seed,
            time,
            weather,
            blocked: BTreeSet::new(),
            tally: Tally::default(),
            recorded: None,
            ports: BTreeMap::new(),
            links: BTreeMap::new(),
            dice: StdRng::seed_from_u64(seed),
            lines: BTreeMap::new(),
            calls: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
        }
    }

    pub(super) fn join(&mut self, node: NodeId) -> (u64, mpsc::Receiver<MeshEvent>, watch::Receiver<Arc<MeshStatus>>) {
        self.leave(node);
        let life = self.next_serial();
        let (events, inbox) = mpsc::channel(EVENT_BUFFER);
        let listening = MeshStatus { listen_addrs: vec![address(node)], ..MeshStatus::default() };
        let (status, watcher) = watch::channel(Arc::new(listening));
        self.ports.insert(
            node,
            Port { life, events, status, barred: BTreeSet::new(), offered: BTreeSet::new(), owed: Vec::new() },
        );
        (life, inbox, watcher)
    }

    pub(super) fn leave(&mut self, node: NodeId) {
        if self.ports.remove(&node).is_some() {
            self.calls.retain(|_, call| call.from.0 != node);
        }
    }

    pub(super) fn call(
        &mut self,
        from: Process,
        to: NodeId,
        channel: (Protocol, Lane),
        body: Bytes,
        reply: oneshot::Sender<Result<Bytes, CallError>>,
    ) {
        let under_way = self.calls.values().filter(|c| c.from == from && c.to == to && c.channel == channel).count();
        let size = body.len();
        let error = match self.epoch_from(from, to) {
            _ if size > MAX_REQUEST_BYTES => CallError::TooLarge { size, limit: MAX_REQUEST_BYTES },
            _ if under_way >= CALLS_IN_FLIGHT => CallError::Busy(to),
            None => CallError::Unreachable(to),
            Some(epoch) => {
                self.send_request(from, to, channel, epoch, body, reply);
                return;
            }
        };
        // Not at once: whoever repeats without a pause must still let time pass.
        let call = self.next_serial();
        self.calls.insert(call, Call { from, to, channel, reply });
        self.schedule(1_000, Due::End { call, error });
    }

    fn send_request(
        &mut self,
        from: Process,
        to: NodeId,
        channel: (Protocol, Lane),
        epoch: u64,
        body: Bytes,
        reply: oneshot::Sender<Result<Bytes, CallError>>,
    ) {
        let (call, protocol) = (self.next_serial(), channel.0);
        self.tally.count(Happened::RequestSent);
        self.record(|| Frame::Request { protocol, body: body.clone() });
        self.calls.insert(call, Call { from, to, channel, reply });
        let patience = u64::try_from(deadline(protocol).as_micros()).expect("a deadline of seconds");
        self.schedule(patience, Due::End { call, error: CallError::Timeout(to) });

        let (loss, duplicate) = (self.weather.loss, self.weather.duplicate);
        let dice = &mut self.line(from.0, to).dice;
        let lost = dice.random_bool(loss);
        let twice = dice.random_bool(duplicate) && !lost;
        if lost {
            self.tally.count(Happened::RequestLost);
        } else {
            self.send(from.0, to, epoch, Freight::Request { call: Some(call), protocol, body: body.clone() });
        }
        if twice {
            self.send(from.0, to, epoch, Freight::Request { call: None, protocol, body });
        }
    }

    pub(super) fn broadcast(&mut self, from: Process, topic: Topic, body: &Bytes) {
        self.record(|| Frame::Broadcast { topic, body: body.clone() });
        let peers: Vec<NodeId> = self.ports.keys().copied().filter(|peer| *peer != from.0).collect();
        for to in peers {
            let Some(epoch) = self.epoch_from(from, to) else { continue };
            self.tally.count(Happened::GossipSent);
            let loss = self.weather.gossip_loss;
            if self.line(from.0, to).dice.random_bool(loss) {
                self.tally.count(Happened::GossipLost);
            } else {
                self.send(from.0, to, epoch, Freight::Gossip { topic, body: body.clone() });
            }
        }
    }

    pub(super) fn turn(&mut self) {
        self.turn_links();
        self.collect_answers();
        let now_us = self.time.now_ms() * 1_000;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= now_us) {
            match entry.remove() {
                Due::Arrival(parcel) => self.arrive(parcel),
                Due::End { call, error } => {
                    if matches!(error, CallError::Timeout(_)) && self.calls.contains_key(&call) {
                        self.tally.count(Happened::TimedOut);
                    }
                    self.end(call, Err(error));
                }
            }
        }
    }

    /// Ends all calls of a process to a peer.
    pub(super) fn fail_calls(&mut self, from: Process, to: NodeId, error: &CallError) {
        let broken: Vec<u64> =
            self.calls.iter().filter(|(_, c)| c.from == from && c.to == to).map(|(call, _)| *call).collect();
        for call in broken {
            self.end(call, Err(error.clone()));
        }
    }

    fn end(&mut self, call: u64, outcome: Result<Bytes, CallError>) {
        if let Some(call) = self.calls.remove(&call) {
            // A caller that no longer waits has dropped its end.
            let _ = call.reply.send(outcome);
        }
    }

    fn collect_answers(&mut self) {
        let mut ready = Vec::new();
        for (node, port) in &mut self.ports {
            port.owed.retain_mut(|owed| {
                let body = match owed.answer.try_recv() {
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Closed) => None,
                    Ok(body) => Some(body),
                };
                ready.push((*node, owed.to, owed.epoch, owed.call, body));
                false
            });
        }
        for (from, to, epoch, call, body) in ready {
            if let (Some(body), Some(call)) = (&body, self.calls.get(&call)) {
                let protocol = call.channel.0;
                self.record(|| Frame::Answer { protocol, body: body.clone() });
            }
            let loss = self.weather.loss;
            if self.line(from, to).dice.random_bool(loss) {
                self.tally.count(Happened::AnswerLost);
            } else {
                self.send(from, to, epoch, Freight::Answer { call, body });
            }
        }
    }

    fn record(&mut self, frame: impl FnOnce() -> Frame) {
        if let Some(frames) = &mut self.recorded {
            frames.push(frame());
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, epoch: u64, freight: Freight) {
        let Weather { slow, delay_us, slow_us, .. } = self.weather.clone();
        let line = self.line(from, to);
        line.sent += 1;
        let place = line.sent;
        let is_slow = line.dice.random_bool(slow);
        let delay = line.dice.random_range(if is_slow { slow_us } else { delay_us });
        if is_slow {
            self.tally.count(Happened::DelayedLong);
        }
        self.schedule(delay, Due::Arrival(Parcel { from, to, epoch, place, freight }));
    }

    fn arrive(&mut self, parcel: Parcel) {
        let Parcel { from, to, epoch, place, freight } = parcel;
        if !self.reaches(from, to, epoch) {
            return;
        }
        if self.blocked.contains(&(from, to)) {
            self.tally.count(Happened::Blocked);
            return;
        }
        let line = self.line(from, to);
        let overtaken = place < line.latest;
        line.latest = line.latest.max(place);
        if overtaken {
            self.tally.count(Happened::Reordered);
        }
        match freight {
            Freight::Answer { call, body } => {
                self.tally.count(Happened::AnswerDelivered);
                self.end(call, body.ok_or(CallError::Refused(from)));
            }
            Freight::Request { call, protocol, body } => self.deliver_request((from, to, epoch), call, protocol, body),
            Freight::Gossip { topic, body } => {
                self.deliver(to, MeshEvent::Gossip { from, topic, body });
            }
        }
    }

    fn deliver_request(
        &mut self,
        (from, to, epoch): (NodeId, NodeId, u64),
        call: Option<u64>,
        protocol: Protocol,
        body: Bytes,
    ) {
        let (reply, answer) = oneshot::channel();
        if !self.deliver(to, MeshEvent::Call(Inbound { from, protocol, body, reply })) {
            self.tally.count(Happened::RequestLost);
            return;
        }
        self.tally.count(if call.is_some() { Happened::RequestDelivered } else { Happened::Duplicated });
        if let (Some(call), Some(port)) = (call, self.ports.get_mut(&to)) {
            port.owed.push(Owed { call, to: from, epoch, answer });
        }
    }

    fn deliver(&mut self, to: NodeId, event: MeshEvent) -> bool {
        self.ports
            .get(&to)
            .is_some_and(|port| port.events.capacity() > RESERVED_EVENTS && port.events.try_send(event).is_ok())
    }

    fn line(&mut self, from: NodeId, to: NodeId) -> &mut Lines {
        let seed = self.seed;
        self.lines.entry((from, to)).or_insert_with(|| Lines { dice: dice_of(seed, from, to), sent: 0, latest: 0 })
    }

    fn schedule(&mut self, after_us: u64, due: Due) {
        let at = self.time.now_ms() * 1_000 + after_us.max(1);
        let serial = self.next_serial();
        self.queue.insert((at, serial), due);
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

fn dice_of(seed: u64, from: NodeId, to: NodeId) -> StdRng {
    let mut mixed = [0u8; 32];
    mixed[..8].copy_from_slice(&seed.to_le_bytes());
    for (index, byte) in from.as_bytes().iter().chain(to.as_bytes()).enumerate() {
        let place = 8 + index % 24;
        mixed[place] = mixed[place].wrapping_mul(31).wrapping_add(*byte);
    }
    StdRng::from_seed(mixed)
}
