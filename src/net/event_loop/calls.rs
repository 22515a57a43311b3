//! The exchanges of the swarm task: which call goes out when, and where answers go.
//!
//! Per peer and protocol a call takes a slot or waits in line. What ends a wait has slots of its own.
//! Every call gets exactly one answer: the peer's, or the error that says whether it may have arrived.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::request_response::{Event, Message, OutboundFailure, OutboundRequestId, ResponseChannel};
use tokio::{
    sync::oneshot,
    time::{Duration, Instant},
};

use super::EventLoop;
use crate::{
    ids::NodeId,
    net::{CallError, Inbound, Lane, MeshEvent, Protocol, handle::Call, rpc::RpcEvent},
};

type Reply = oneshot::Sender<Result<Bytes, CallError>>;

/// A call in line.
struct Waiting {
    body: Bytes,
    reply: Reply,
    until: Instant,
}

/// A call that was given to libp2p. It keeps its slot until libp2p is done with it, even when its
/// caller was told of a timeout before.
struct InFlight {
    peer: NodeId,
    lane: Lane,
    reply: Option<Reply>,
    until: Instant,
}

/// The slots and lines of one protocol to one peer.
#[derive(Default)]
struct Lanes {
    asking: usize,
    ending: usize,
    asks: VecDeque<Waiting>,
    ends: VecDeque<Waiting>,
}

impl Lanes {
    fn line(&mut self, lane: Lane) -> &mut VecDeque<Waiting> {
        match lane {
            Lane::Ask => &mut self.asks,
            Lane::End => &mut self.ends,
        }
    }

    fn taken(&mut self, lane: Lane) -> &mut usize {
        match lane {
            Lane::Ask => &mut self.asking,
            Lane::End => &mut self.ending,
        }
    }

    /// The next call that has a slot, with its lane. Calls that end a wait go first.
    fn next(&mut self, protocol: Protocol) -> Option<(Lane, Waiting)> {
        let limits = protocol.limits();
        while self.asking + self.ending < limits.ask_slots + limits.end_slots {
            let lane = if self.ends.is_empty() { Lane::Ask } else { Lane::End };
            if lane == Lane::Ask && self.asking >= limits.ask_slots {
                return None;
            }
            let waiting = self.line(lane).pop_front()?;
            if !waiting.reply.is_closed() {
                *self.taken(lane) += 1;
                return Some((lane, waiting));
            }
        }
        None
    }

    fn is_idle(&self) -> bool {
        self.asking == 0 && self.ending == 0 && self.asks.is_empty() && self.ends.is_empty()
    }
}

/// An answer of this node on its way out; `None` refuses.
pub(super) type Answer = (Protocol, ResponseChannel<Bytes>, Option<Bytes>);

/// All exchanges.
#[derive(Default)]
pub(super) struct Calls {
    lanes: HashMap<(NodeId, Protocol), Lanes>,
    in_flight: HashMap<(Protocol, OutboundRequestId), InFlight>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl Calls {
    /// The next answer that the node has given. `None` while it owes none.
    pub(super) async fn next_answer(&mut self) -> Option<Answer> {
        self.answers.next().await
    }
}

impl EventLoop {
    /// Sends a call, or puts it in line, or fails it at once.
    pub(super) fn on_call(&mut self, call: Call) {
        let Call { peer, protocol, lane, body, reply } = call;
        let now = Instant::now();
        if !self.swarm.behaviour_mut().rpc(protocol).is_connected(&peer.peer_id()) && !self.reach(peer, now) {
            answer(reply, Err(CallError::Unreachable(peer)));
            return;
        }
        let limits = protocol.limits();
        let line = self.calls.lanes.entry((peer, protocol)).or_default().line(lane);
        if line.len() >= limits.queued {
            self.metrics.bound("net.calls");
            answer(reply, Err(CallError::Busy(peer)));
            return;
        }
        line.push_back(Waiting { body, reply, until: now + limits.deadline });
        self.pump(peer, protocol);
    }

    /// Gives libp2p every call in line that has a slot.
    pub(super) fn pump(&mut self, peer: NodeId, protocol: Protocol) {
        let Some(lanes) = self.calls.lanes.get_mut(&(peer, protocol)) else { return };
        let rpc = self.swarm.behaviour_mut().rpc(protocol);
        let peer_id = peer.peer_id();
        if rpc.is_connected(&peer_id) {
            while let Some((lane, waiting)) = lanes.next(protocol) {
                let id = rpc.send_request(&peer_id, waiting.body);
                let flight = InFlight { peer, lane, reply: Some(waiting.reply), until: waiting.until };
                self.calls.in_flight.insert((protocol, id), flight);
            }
        }
        if lanes.is_idle() {
            self.calls.lanes.remove(&(peer, protocol));
        }
    }

    /// A connection is up: what waited for it goes out.
    pub(super) fn pump_all(&mut self, peer: NodeId) {
        for protocol in Protocol::ALL {
            self.pump(peer, protocol);
        }
    }

    /// No connection can be had: what waited for it was certainly not sent.
    pub(super) fn fail_waiting(&mut self, peer: NodeId) {
        for protocol in Protocol::ALL {
            let Some(lanes) = self.calls.lanes.get_mut(&(peer, protocol)) else { continue };
            for waiting in lanes.asks.drain(..).chain(lanes.ends.drain(..)) {
                answer(waiting.reply, Err(CallError::Unreachable(peer)));
            }
            if lanes.is_idle() {
                self.calls.lanes.remove(&(peer, protocol));
            }
        }
    }

    /// Ends the calls whose deadline is over.
    pub(super) fn expire_calls(&mut self, now: Instant) {
        for flight in self.calls.in_flight.values_mut() {
            if now >= flight.until
                && let Some(reply) = flight.reply.take()
            {
                answer(reply, Err(CallError::Timeout(flight.peer)));
            }
        }
        for ((peer, protocol), lanes) in &mut self.calls.lanes {
            let connected = self.swarm.behaviour_mut().rpc(*protocol).is_connected(&peer.peer_id());
            let error = if connected { CallError::Busy(*peer) } else { CallError::Unreachable(*peer) };
            for line in [&mut lanes.asks, &mut lanes.ends] {
                while line.front().is_some_and(|first| now >= first.until || first.reply.is_closed()) {
                    if let Some(waiting) = line.pop_front() {
                        answer(waiting.reply, Err(error.clone()));
                    }
                }
            }
        }
        self.calls.lanes.retain(|_, lanes| !lanes.is_idle());
    }

    /// What libp2p reports of the exchanges of one protocol.
    pub(super) fn on_rpc(&mut self, protocol: Protocol, event: RpcEvent) {
        match event {
            Event::Message { message: Message::Response { request_id, response }, .. } => {
                self.end_call(protocol, request_id, |peer| {
                    if response.is_empty() { Err(CallError::Refused(peer)) } else { Ok(response) }
                });
            }
            Event::OutboundFailure { request_id, error, .. } => {
                tracing::debug!(protocol = protocol.label(), %error, "a call failed");
                self.end_call(protocol, request_id, |peer| Err(failure(peer, &error)));
            }
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                if let Ok(from) = NodeId::try_from(peer) {
                    self.on_request(from, protocol, request, channel);
                }
            }
            Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, protocol = protocol.label(), %error, "an answer did not get out");
            }
            Event::ResponseSent { .. } => {}
        }
    }

    fn end_call(
        &mut self,
        protocol: Protocol,
        id: OutboundRequestId,
        result: impl FnOnce(NodeId) -> Result<Bytes, CallError>,
    ) {
        let Some(flight) = self.calls.in_flight.remove(&(protocol, id)) else { return };
        if let Some(reply) = flight.reply {
            answer(reply, result(flight.peer));
        }
        if let Some(lanes) = self.calls.lanes.get_mut(&(flight.peer, protocol)) {
            *lanes.taken(flight.lane) -= 1;
        }
        self.pump(flight.peer, protocol);
    }

    /// A peer calls: the node gets it, or, if it does not keep up, nobody does.
    fn on_request(&mut self, from: NodeId, protocol: Protocol, body: Bytes, channel: ResponseChannel<Bytes>) {
        let (reply, answer) = oneshot::channel();
        if !self.outbox.offer(MeshEvent::Call(Inbound { from, protocol, body, reply })) {
            self.metrics.bound("net.events");
            return;
        }
        // The peer has given up after the deadline, so nothing is owed to it beyond.
        let within = tokio::time::timeout(protocol.limits().deadline + Duration::from_secs(1), answer);
        self.calls.answers.push(async move { (protocol, channel, within.await.ok().and_then(Result::ok)) }.boxed());
    }

    /// The node has answered a peer, or dropped the question.
    pub(super) fn on_answer(&mut self, (protocol, channel, body): Answer) {
        let Some(body) = body else { return };
        let limit = protocol.limits().response_bytes;
        if body.len() > limit {
            self.metrics.bound("net.answer-bytes");
            tracing::error!(protocol = protocol.label(), bytes = body.len(), limit, "an answer is too large");
            return;
        }
        // Err says that the peer is gone or has given up.
        let _ = self.swarm.behaviour_mut().rpc(protocol).send_response(channel, body);
    }
}

/// Tells a caller, who may have given up.
fn answer(reply: Reply, result: Result<Bytes, CallError>) {
    let _ = reply.send(result);
}

fn failure(peer: NodeId, error: &OutboundFailure) -> CallError {
    match error {
        OutboundFailure::DialFailure => CallError::Unreachable(peer),
        OutboundFailure::Timeout => CallError::Timeout(peer),
        OutboundFailure::ConnectionClosed | OutboundFailure::Io(_) => CallError::Broken(peer),
        OutboundFailure::UnsupportedProtocols => CallError::Refused(peer),
    }
}
