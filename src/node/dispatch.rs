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
    control::ControlEvent,
    hints::Hinted,
    route::Route,
    wire::{ClientAsk, ClientReply, Hello},
};
use crate::{
    codec::{decode, encode},
    error::Error,
    ids::NodeId,
    machine::control::ControlState,
    net::{
        Inbound, MeshEvent, Protocol, Topic,
        deferred::{Asked, Exchange, most_answer},
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
                    if let Some(raft) = self.raft.clone() {
                        raft_calls.spawn(async move { raft.leader_lost(peer).await });
                    }
                    self.tell_control(ControlEvent::Down(peer)).await;
                }
                MeshEvent::Call(call) => self.call(call, &mut raft_calls),
                // Lost where hints are not read fast enough: nothing depends on one.
                MeshEvent::Gossip { from, topic: Topic::View, body } => _ = self.hints.try_send((from, body)),
                MeshEvent::Gossip { topic: Topic::Invalidations, .. } => {}
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
            Protocol::Client | Protocol::Replication | Protocol::Coherence => {
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

/// Serves the operations that peers bring, until `stop`.
pub(super) async fn serve(
    mut asked: mpsc::Receiver<Asked>,
    authority: Option<Authority>,
    route: Route,
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
        let Some(authority) = authority.clone() else {
            answer.answer(encode(&ClientReply::NotLeader(route.leader())));
            continue;
        };
        let stop = stop.clone();
        operations.spawn(async move {
            let reply = match decode::<ClientAsk>(&body) {
                Ok(ask) => {
                    tokio::select! {
                        reply = authority.serve(id.node, ask) => reply,
                        () = answer.cancelled() => return,
                        // It may have got into the log already.
                        () = stop.cancelled() => ClientReply::Unknown,
                    }
                }
                Err(reason) => ClientReply::Failed(Error::bad_request("body", reason.to_string())),
            };
            answer.answer(encode_answer(&reply));
            drop(slot);
        });
    }
    while operations.join_next().await.is_some() {}
}

/// An answer that is too large to travel is said to be so: silence would be taken for a lost leader.
fn encode_answer(reply: &ClientReply) -> Bytes {
    let (bytes, most) = (encode(reply), most_answer(Protocol::Client));
    if bytes.len() <= most {
        return bytes;
    }
    let detail = format!("the answer has {} bytes and cannot be told: at most {most} can", bytes.len());
    encode(&ClientReply::Failed(Error::internal(detail)))
}
