//! The gateway of a node before leaders that take a question and say what the test has them say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::*;
use crate::{
    ids::Incarnation,
    net::{DiscoveredBy, Inbound, Mesh, MeshStatus, Protocol, Topic, deferred::Asked},
    node::{dispatch::give_answer, parking::Parking},
    telemetry::Bounds,
};

/// Who answers whom, who cannot be reached, and how many messages were sent. Nobody else answers anything.
#[derive(Debug, Default)]
struct Wire {
    calls: AtomicUsize,
    exchanges: Mutex<BTreeMap<NodeId, Exchange>>,
    dead: Mutex<BTreeSet<NodeId>>,
}

#[derive(Debug)]
struct FakeMesh {
    local: NodeId,
    wire: Arc<Wire>,
}

impl Mesh for FakeMesh {
    fn local(&self) -> NodeId {
        self.local
    }

    fn call(
        &self,
        peer: NodeId,
        protocol: Protocol,
        _: Lane,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        self.wire.calls.fetch_add(1, Ordering::Relaxed);
        let exchange = self.wire.exchanges.lock().unwrap().get(&peer).cloned();
        let from = self.local;
        let dead = self.wire.dead.lock().unwrap().contains(&peer);
        async move {
            if dead {
                return Err(CallError::Unreachable(peer));
            }
            let Some(exchange) = exchange else { return std::future::pending().await };
            let (reply, answer) = oneshot::channel();
            exchange.on_call(Inbound { from, protocol, body, reply });
            answer.await.map_err(|_| CallError::Refused(peer))
        }
        .boxed()
    }

    fn broadcast(&self, _: Topic, _: Bytes) {}
    fn set_members(&self, _: BTreeMap<NodeId, Vec<libp2p::Multiaddr>>) {}
    fn set_barred(&self, _: Vec<NodeId>) {}
    fn hint(&self, _: NodeId, _: Vec<libp2p::Multiaddr>, _: DiscoveredBy) {}
    fn disconnect(&self, _: NodeId) {}
    fn offer(&self, _: BTreeSet<String>) {}
    fn seek(&self, _: String) {}
    fn status(&self) -> watch::Receiver<Arc<MeshStatus>> {
        watch::channel(Arc::default()).1
    }
}

/// A process comes up under this id, in place of the one before.
fn start(wire: &Arc<Wire>, local: NodeId) -> (Exchange, mpsc::Receiver<Asked>) {
    let mesh = FakeMesh { local, wire: Arc::clone(wire) };
    let (exchange, asked, task) = Exchange::new(Arc::new(mesh), Protocol::Client, Bounds::default());
    tokio::spawn(task.run());
    wire.exchanges.lock().unwrap().insert(local, exchange.clone());
    (exchange, asked)
}

/// Has a process say to all questions that it does not lead.
fn deny(mut asked: mpsc::Receiver<Asked>) {
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            question.answer.answer(encode(&ClientReply::NotLeader(None)));
        }
    });
}

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn leader(term: u64, n: u8) -> Leader {
    Leader { term: Term(term), node: node(n) }
}

/// The gateway of node 3, which takes node 1 for the leader, its exchange and its wire.
fn gateway() -> (Gateway, Exchange, Arc<Wire>) {
    let wire = Arc::new(Wire::default());
    let (exchange, _) = start(&wire, node(3));
    let route = Route::new();
    route.learn(leader(1, 1));
    let requests = OpenRequests::new(node(3), Incarnation(1));
    (Gateway::new(node(3), route, exchange.clone(), None, requests), exchange, wire)
}

/// Has a change made that waits for nobody.
fn change(gateway: &Gateway) -> JoinHandle<Result<ClientReply, Error>> {
    let gateway = gateway.clone();
    tokio::spawn(async move {
        let request = gateway.begin();
        gateway.change(&request, None, ChangeBody::Intent, Duration::ZERO).await
    })
}

/// Asks for a hand-over, and hears of node 2 as the leader before the answer of node 1 comes.
async fn superseded(to: Option<NodeId>) -> (Result<ClientReply, Error>, usize) {
    let (gateway, _, wire) = gateway();
    let asked = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.ask(ClientAsk::Transfer(to), WORK).await }
    });
    while wire.calls.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(RETRY).await;
    }
    gateway.route().learn(leader(2, 2));
    let outcome = asked.await.expect("no panic");
    (outcome, wire.calls.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_to_anybody_is_done_once_somebody_else_leads() {
    assert_eq!(superseded(None).await, (Ok(ClientReply::Done), 1));
    assert_eq!(superseded(Some(node(2))).await, (Ok(ClientReply::Done), 1));
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_to_one_that_another_won_is_not_repeated_and_its_outcome_unknown() {
    let (outcome, calls) = superseded(Some(node(4))).await;
    assert_eq!(outcome.expect_err("node 4 does not lead").details.outcome, Some(Outcome::Unknown));
    assert_eq!(calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_all_refuse_at_once_was_not_made() {
    let (gateway, _, wire) = gateway();
    let (_, asked) = start(&wire, node(1));
    deny(asked);
    let refused = change(&gateway).await.expect("no panic").expect_err("nobody leads");
    assert_eq!(refused.code, ErrorCode::NoQuorum);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_took_a_change_up_and_restarts_leaves_its_outcome_unknown() {
    let (gateway, exchange, wire) = gateway();
    let (_, mut asked) = start(&wire, node(1));
    let changed = change(&gateway);
    let taken_up = asked.recv().await.expect("the leader is asked").answer.defer();
    // Longer than an exchange waits for a first word: the gateway knows that it was deferred.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (_, asked) = start(&wire, node(1));
    deny(asked);
    exchange.repeat(node(1)).await;
    let refused = changed.await.expect("no panic").expect_err("nobody leads");
    assert_eq!((refused.code, refused.details.outcome), (ErrorCode::Unavailable, Some(Outcome::Unknown)));
    drop(taken_up);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_a_leader_had_taken_up_goes_on_though_the_next_election_takes_two_rounds() {
    let (gateway, exchange, wire) = gateway();
    let (_, mut asked) = start(&wire, node(1));
    let waiting = tokio::spawn({
        let gateway = gateway.clone();
        async move {
            let request = gateway.begin();
            gateway.change(&request, None, ChangeBody::Intent, WORK).await
        }
    });
    let taken_up = asked.recv().await.expect("the leader is asked").answer.defer();
    tokio::time::sleep(Duration::from_millis(4_200)).await;
    wire.dead.lock().unwrap().insert(node(1));
    exchange.repeat(node(1)).await;
    tokio::time::sleep(PATIENCE * 2).await;
    assert!(!waiting.is_finished(), "it was given up");
    let (_, mut asked) = start(&wire, node(2));
    gateway.route().learn(leader(2, 2));
    asked.recv().await.expect("the next leader is asked").answer.answer(encode(&ClientReply::Done));
    assert_eq!(waiting.await.expect("no panic"), Ok(ClientReply::Done));
    drop(taken_up);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_hold_nobody_up_who_asks_after_them() {
    let (gateway, _, wire) = gateway();
    let (_, mut asked) = start(&wire, node(1));
    // More than exchanges may be in flight.
    let waiting: Vec<_> = (0..8).map(|_| change(&gateway)).collect();
    let (mut released, mut giving) = (Vec::new(), Vec::new());
    for _ in &waiting {
        let question = asked.recv().await.expect("the leader is asked");
        let (release, done) = oneshot::channel();
        released.push(release);
        giving.push(tokio::spawn(async move {
            let parking = Parking::default();
            parking.park();
            let served = async { done.await.map_or_else(|_| Bytes::new(), |()| encode(&ClientReply::Done)) };
            give_answer(served, question.answer, &parking).await;
        }));
    }
    let began = Instant::now();
    let quick = change(&gateway);
    asked.recv().await.expect("it is asked").answer.answer(encode(&ClientReply::Done));
    assert_eq!(quick.await.expect("no panic"), Ok(ClientReply::Done));
    assert_eq!(began.elapsed(), Duration::ZERO, "it waited behind the others");
    released.into_iter().for_each(|release| release.send(()).expect("it is served"));
    for waited in waiting {
        assert_eq!(waited.await.expect("no panic"), Ok(ClientReply::Done));
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_first_who_ask_after_a_leader_was_lost_wait_for_the_next() {
    let (gateway, _, wire) = gateway();
    let (_, asked) = start(&wire, node(2));
    deny(asked);
    gateway.route().doubt(leader(1, 1));
    let asked = Instant::now();
    assert_eq!(change(&gateway).await.unwrap().unwrap_err().code, ErrorCode::NoQuorum);
    assert_eq!(asked.elapsed(), PATIENCE, "an election may be under way");

    tokio::time::advance(RETRY).await;
    let asked = Instant::now();
    assert_eq!(change(&gateway).await.unwrap().unwrap_err().code, ErrorCode::NoQuorum);
    assert!(asked.elapsed() <= Duration::from_millis(100), "refused after {:?}", asked.elapsed());

    // Once there is one, it is asked, and the next to be lost is waited for again.
    gateway.route().learn(leader(2, 2));
    let asked = Instant::now();
    assert_eq!(change(&gateway).await.unwrap().unwrap_err().code, ErrorCode::NoQuorum);
    assert!(asked.elapsed() >= PATIENCE, "refused after {:?}", asked.elapsed());
}
