//! Hands what comes from the mesh to whom it is for. Never waits for anybody's work.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    authority::Authority,
    caches::{
        Caches, Door,
        wire::{CacheAsk, CacheReply},
    },
    control::ControlEvent,
    hints::Hinted,
    parking::Parking,
    queues::{
        hosting::Hosting,
        wire::{QueueAsk, QueueReply},
    },
    route::Route,
    wire::{ClientAsk, ClientReply, Hello},
};
use crate::{
    codec::{decode, encode},
    error::{Error, Outcome},
    ids::NodeId,
    machine::control::ControlState,
    net::{
        Inbound, MeshEvent, Protocol, Topic,
        deferred::{AnswerSlot, Asked, Exchange, most_answer},
    },
    raft::RaftNode,
    telemetry::Bounds,
};

/// Raft requests from peers that are served at a time; further ones are refused, and repeated.
const MAX_RAFT_CALLS: usize = 1_024;
/// Operations of peers that are served at a time. Those who wait for a lock count.
const MAX_OPERATIONS: usize = 262_144;

/// Where calls go.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) control: mpsc::Sender<ControlEvent>,
    pub(super) client: Exchange,
    pub(super) raft: Option<RaftNode<ControlState>>,
    pub(super) hints: mpsc::Sender<Hinted>,
    pub(super) hosting: Hosting,
    pub(super) door: Door,
    pub(super) route: Route,
    /// Peers whose greeting matched: of our cluster, or of none yet.
    pub(super) greeted: watch::Receiver<Arc<BTreeMap<NodeId, Hello>>>,
    pub(super) bounds: Bounds,
}

impl Dispatch {
    /// Runs until `stop` or until the mesh ends.
    pub(super) async fn run(self, mut events: mpsc::Receiver<MeshEvent>, stop: CancellationToken) {
        let mut raft_calls = JoinSet::new();
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = raft_calls.join_next() => continue,
                event = events.recv() => event,
            };
            let Some(event) = event else { return };
            match event {
                MeshEvent::Up(peer) => self.tell_control(ControlEvent::Up(peer)).await,
                MeshEvent::Down(peer) => {
                    self.client.repeat(peer).await;
                    self.door.repeat(peer).await;
                    if let Some(raft) = self.raft.clone() {
                        raft_calls.spawn(async move { raft.leader_lost(peer).await });
                    }
                    self.tell_control(ControlEvent::Down(peer)).await;
                }
                MeshEvent::Call(call) => self.call(call, &mut raft_calls),
                // Lost where hints are not read fast enough: nothing depends on one.
                MeshEvent::Gossip { from, topic: Topic::View, body } => _ = self.hints.try_send((from, body)),
                MeshEvent::Gossip { from, topic: Topic::Invalidations, body } => self.door.on_gossip(from, &body),
            }
        }
    }

    async fn tell_control(&self, event: ControlEvent) {
        // The control task outlives this one, but for a node that is stopping.
        let _ = self.control.send(event).await;
    }

    fn call(&self, call: Inbound, raft_calls: &mut JoinSet<()>) {
        match call.protocol {
            // Dropping a call refuses it: the asker repeats what matters.
            Protocol::Control => {
                if self.control.try_send(ControlEvent::Call(call)).is_err() {
                    self.bounds.hit("node.control-calls");
                }
            }
            Protocol::Raft => self.raft_call(call, raft_calls),
            Protocol::Client if self.route.is_member(call.from) => self.client.on_call(call),
            Protocol::Replication if self.route.is_member(call.from) => self.hosting.on_replication(call),
            Protocol::Coherence => self.door.on_call(call),
            Protocol::Client | Protocol::Replication => {
                debug!(peer = %call.from, protocol = ?call.protocol, "refused a call");
            }
        }
    }

    /// Any peer of our cluster may speak Raft, but those who were removed: a joiner knows no members
    /// yet, and a lagging voter must not refuse newer ones.
    fn raft_call(&self, call: Inbound, raft_calls: &mut JoinSet<()>) {
        let ours = self.greeted.borrow().contains_key(&call.from) && !self.route.view().barred.contains(&call.from);
        let Some(raft) = self.raft.clone().filter(|_| ours) else { return };
        if raft_calls.len() >= MAX_RAFT_CALLS {
            self.bounds.hit("node.raft-calls");
            return;
        }
        raft_calls.spawn(async move {
            let answer = raft.handle(call.from, call.body).await;
            // Who asks may have gone meanwhile.
            let _ = call.reply.send(answer);
        });
    }
}

/// Who serves what peers bring. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// Set on lock managers.
    pub(super) authority: Option<Authority>,
    pub(super) hosting: Hosting,
    pub(super) caches: Caches,
    pub(super) route: Route,
}

impl Server {
    async fn serve(&self, from: NodeId, body: &[u8], parking: &Parking, stop: &CancellationToken) -> Bytes {
        match decode::<ClientAsk>(body) {
            Ok(ClientAsk::Queue(ask)) => self.queue(*ask, parking, stop).await,
            Ok(ClientAsk::Cache(ask)) => self.cache(*ask, parking, stop).await,
            Ok(ask) => {
                let Some(authority) = &self.authority else {
                    return encode(&ClientReply::NotLeader(self.route.leader()));
                };
                let reply = tokio::select! {
                    reply = authority.serve(from, ask, parking) => reply,
                    // It may have got into the log already.
                    () = stop.cancelled() => ClientReply::Unknown,
                };
                fitting(encode(&reply)).unwrap_or_else(|error| encode(&ClientReply::Failed(error)))
            }
            Err(reason) => encode(&ClientReply::Failed(Error::bad_request("body", reason.to_string()))),
        }
    }

    async fn cache(&self, ask: CacheAsk, parking: &Parking, stop: &CancellationToken) -> Bytes {
        let reply = tokio::select! {
            reply = self.caches.serve(ask, parking) => reply,
            // It may have been done already.
            () = stop.cancelled() => CacheReply::Failed(Error::unavailable(
                Outcome::Unknown,
                "the cache node that was asked stops: the operation may have been applied; look, or repeat it",
            )),
        };
        fitting(encode(&reply)).unwrap_or_else(|error| encode(&CacheReply::Failed(error)))
    }

    async fn queue(&self, ask: QueueAsk, parking: &Parking, stop: &CancellationToken) -> Bytes {
        let reply = tokio::select! {
            reply = self.hosting.serve(ask, parking) => reply,
            // It may have got into the log already.
            () = stop.cancelled() => QueueReply::Unknown,
        };
        fitting(encode(&reply)).unwrap_or_else(|error| encode(&QueueReply::Failed(error)))
    }
}

/// Serves the operations that peers bring, until `stop`.
pub(super) async fn serve(
    mut asked: mpsc::Receiver<Asked>,
    server: Server,
    bounds: Bounds,
    stop: CancellationToken,
    answered: CancellationToken,
) {
    // Once all that was under way has been answered, the exchange may end.
    let _answered = answered.drop_guard();
    let slots = Arc::new(Semaphore::new(MAX_OPERATIONS));
    let mut operations = JoinSet::new();
    loop {
        let question = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = operations.join_next() => continue,
            question = asked.recv() => question,
        };
        let Some(Asked { id, body, answer }) = question else { break };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            bounds.hit("node.operations");
            continue;
        };
        let (server, stop) = (server.clone(), stop.clone());
        operations.spawn(async move {
            let parking = Parking::default();
            let served = server.serve(id.node, &body, &parking, &stop);
            give_answer(served, answer, &parking).await;
            drop(slot);
        });
    }
    while operations.join_next().await.is_some() {}
}

/// Gives the answer, unless nobody waits for it any more. Once it is known to take its time, the exchange does not wait
/// for it.
pub(super) async fn give_answer(served: impl Future<Output = Bytes>, slot: AnswerSlot, parking: &Parking) {
    tokio::pin!(served);
    tokio::select! {
        biased;
        answer = &mut served => return slot.answer(answer),
        () = parking.parked() => {}
        () = slot.cancelled() => return,
    }
    let deferred = slot.defer();
    tokio::select! {
        answer = served => deferred.complete(answer),
        () = deferred.cancelled() => {}
    }
}

/// An answer that is too large to travel is said to be so: silence would be taken for a lost leader.
fn fitting(answer: Bytes) -> Result<Bytes, Error> {
    let most = most_answer(Protocol::Client);
    if answer.len() <= most {
        return Ok(answer);
    }
    Err(Error::internal(format!("the answer has {} bytes and cannot be told: at most {most} can", answer.len())))
}
