//! Two exchanges over a mesh in memory that loses what a test wants lost, on a paused clock.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    ids::Incarnation,
    net::{DiscoveredBy, MeshStatus, Topic},
};

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Arrives,
    IsLost,
    AnswerIsLost,
    Unreachable,
}

type Policy = Box<dyn Fn(NodeId, NodeId, Lane) -> Fate + Send>;

struct Wire {
    nodes: Mutex<HashMap<NodeId, Exchange>>,
    policy: Mutex<Policy>,
    calls: AtomicUsize,
}

#[derive(Clone)]
struct FakeMesh {
    local: NodeId,
    wire: Arc<Wire>,
}

impl std::fmt::Debug for FakeMesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.local.fmt(f)
    }
}

impl Mesh for FakeMesh {
    fn local(&self) -> NodeId {
        self.local
    }

    fn call(
        &self,
        peer: NodeId,
        protocol: Protocol,
        lane: Lane,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let fate = self.wire.policy.lock().unwrap()(self.local, peer, lane);
        self.wire.calls.fetch_add(1, Ordering::Relaxed);
        let target = self.wire.nodes.lock().unwrap().get(&peer).cloned();
        let from = self.local;
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let lost = async {
                tokio::time::sleep(protocol.limits().deadline).await;
                Err(CallError::Timeout(peer))
            };
            if fate == Fate::Unreachable {
                return Err(CallError::Unreachable(peer));
            }
            let (reply, answer) = oneshot::channel();
            if fate != Fate::IsLost {
                target.ok_or(CallError::Unreachable(peer))?.on_call(Inbound { from, protocol, body, reply });
            }
            if fate != Fate::Arrives {
                return lost.await;
            }
            answer.await.map_err(|_| CallError::Refused(peer))
        }
        .boxed()
    }

    fn broadcast(&self, _: Topic, _: Bytes) {}
    fn set_members(&self, _: std::collections::BTreeMap<NodeId, Vec<libp2p::Multiaddr>>) {}
    fn set_barred(&self, _: Vec<NodeId>) {}
    fn hint(&self, _: NodeId, _: Vec<libp2p::Multiaddr>, _: DiscoveredBy) {}
    fn offer(&self, _: std::collections::BTreeSet<String>) {}
    fn seek(&self, _: String) {}
    fn disconnect(&self, _: NodeId) {}
    fn status(&self) -> watch::Receiver<Arc<MeshStatus>> {
        watch::channel(Arc::default()).1
    }
}

struct Peer {
    id: NodeId,
    exchange: Exchange,
    asked: mpsc::Receiver<Asked>,
}

impl Peer {
    async fn asked(&mut self) -> Asked {
        timeout(Duration::from_secs(60), self.asked.recv()).await.expect("a question arrives").unwrap()
    }

    fn ask(&self, peer: NodeId, seq: u64) -> tokio::task::JoinHandle<Result<Bytes, AskError>> {
        let (exchange, id) = (self.exchange.clone(), self.question(seq));
        tokio::spawn(async move { exchange.ask(peer, id, Lane::Ask, Bytes::from(format!("question {seq}"))).await })
    }

    fn question(&self, seq: u64) -> RequestId {
        RequestId { node: self.id, incarnation: Incarnation(3), seq }
    }

    fn nothing_asked(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }
}

/// So many peers and the wire between them.
fn peers<const N: usize>() -> ([Peer; N], Arc<Wire>) {
    let wire = Arc::new(Wire {
        nodes: Mutex::default(),
        policy: Mutex::new(Box::new(|_, _, _| Fate::Arrives)),
        calls: AtomicUsize::new(0),
    });
    let peers = std::array::from_fn(|n| start(&wire, NodeId::from_bytes([u8::try_from(n).unwrap() + 1; 32])));
    (peers, wire)
}

/// A process comes up under this id, in place of the one before.
fn start(wire: &Arc<Wire>, id: NodeId) -> Peer {
    let mesh = FakeMesh { local: id, wire: wire.clone() };
    let (exchange, asked, task) = Exchange::new(Arc::new(mesh), Protocol::Client, Bounds::default());
    tokio::spawn(task.run());
    wire.nodes.lock().unwrap().insert(id, exchange.clone());
    Peer { id, exchange, asked }
}

fn set(wire: &Wire, policy: impl Fn(NodeId, NodeId, Lane) -> Fate + Send + 'static) {
    *wire.policy.lock().unwrap() = Box::new(policy);
}

fn yes() -> Bytes {
    Bytes::from_static(b"yes")
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_there_at_once_takes_one_exchange() {
    let ([a, mut b], wire) = peers();
    let answer = a.ask(b.id, 1);
    let asked = b.asked().await;
    assert_eq!((asked.id, &asked.body[..]), (a.question(1), &b"question 1"[..]));
    asked.answer.answer(yes());
    assert_eq!(answer.await.unwrap(), Ok(yes()));
    assert_eq!(wire.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deferred_answer_comes_by_itself_without_waiting_for_a_repetition() {
    let ([a, mut b], _wire) = peers();
    let answer = a.ask(b.id, 1);
    let deferred = b.asked().await.answer.defer();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!answer.is_finished());
    assert!(b.nothing_asked(), "repetitions do not reach the service");
    let completed = Instant::now();
    deferred.complete(yes());
    assert_eq!(answer.await.unwrap(), Ok(yes()));
    assert!(completed.elapsed() < Duration::from_millis(10), "{:?}", completed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_says_nothing_holds_no_exchange_back() {
    let ([a, mut b], wire) = peers();
    let (slow, quick) = (a.ask(b.id, 1), a.ask(b.id, 2));
    let (first, second) = (b.asked().await, b.asked().await);
    second.answer.answer(yes());
    assert_eq!(timeout(Duration::from_millis(100), quick).await.unwrap().unwrap(), Ok(yes()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(wire.calls.load(Ordering::Relaxed) <= 2, "nothing but the two questions");
    first.answer.answer(yes());
    assert_eq!(slow.await.unwrap(), Ok(yes()));
}

#[tokio::test(start_paused = true)]
async fn a_lost_completion_costs_a_repetition_and_not_the_answer() {
    let ([a, mut b], wire) = peers();
    let server = b.id;
    let answer = a.ask(server, 1);
    let deferred = b.asked().await.answer.defer();
    tokio::time::sleep(Duration::from_millis(100)).await;
    set(&wire, move |from, _, _| if from == server { Fate::IsLost } else { Fate::Arrives });
    deferred.complete(yes());
    let completed = Instant::now();
    assert_eq!(answer.await.unwrap(), Ok(yes()));
    assert!(completed.elapsed() <= REASK.mul_f64(1.3), "{:?}", completed.elapsed());
    assert!(b.nothing_asked(), "the answer was remembered");
}

#[tokio::test(start_paused = true)]
async fn a_question_whose_exchange_was_lost_may_be_asked_again_under_its_id() {
    let ([a, mut b], wire) = peers();
    set(&wire, |_, _, _| Fate::AnswerIsLost);
    let first = a.ask(b.id, 1);
    b.asked().await.answer.answer(yes());
    assert_eq!(first.await.unwrap(), Err(AskError::Call(CallError::Timeout(b.id))));
    set(&wire, |_, _, _| Fate::Arrives);
    assert_eq!(a.ask(b.id, 1).await.unwrap(), Ok(yes()));
    assert!(b.nothing_asked(), "the service answered once");
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_peer_is_told_at_once_for_a_new_question_and_soon_for_a_deferred_one() {
    let ([a, mut b], wire) = peers();
    let open = a.ask(b.id, 1);
    let _deferred = b.asked().await.answer.defer();
    tokio::time::sleep(Duration::from_millis(100)).await;
    set(&wire, |_, _, _| Fate::Unreachable);
    let undelivered = Err(AskError::Call(CallError::Unreachable(b.id)));
    let lost = Err(AskError::Lost(CallError::Unreachable(b.id)));
    assert_eq!(timeout(Duration::from_millis(10), a.ask(b.id, 2)).await.unwrap().unwrap(), undelivered);
    a.exchange.repeat(b.id).await;
    assert_eq!(timeout(Duration::from_millis(500), open).await.unwrap().unwrap(), lost);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_peer_does_not_speak_for_the_process_that_took_the_question_up() {
    let ([a, mut b], wire) = peers();
    let answer = a.ask(b.id, 1);
    let deferred = b.asked().await.answer.defer();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut restarted = start(&wire, b.id);
    a.exchange.repeat(b.id).await;
    assert_eq!(timeout(Duration::from_millis(100), answer).await.unwrap().unwrap(), Err(AskError::Refused));
    assert!(restarted.nothing_asked(), "a repetition is no question of its own");
    drop(deferred);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_cancels_the_question() {
    let ([a, mut b], _wire) = peers();
    let answer = a.ask(b.id, 1);
    let deferred = b.asked().await.answer.defer();
    answer.abort();
    timeout(Duration::from_secs(1), deferred.cancelled()).await.expect("the service hears of it");
    let again = a.ask(b.id, 1).await.unwrap();
    assert_eq!(again, Err(AskError::Refused), "a question that overtakes its own cancellation is not taken up");
}

#[tokio::test(start_paused = true)]
async fn a_question_of_an_asker_that_is_gone_is_cancelled() {
    let ([a, mut b], wire) = peers();
    let _answer = a.ask(b.id, 1);
    let deferred = b.asked().await.answer.defer();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(deferred.cancelled().now_or_never().is_none(), "it is repeated, so it stays");
    set(&wire, |_, _, _| Fate::IsLost);
    timeout(Duration::from_secs(30), deferred.cancelled()).await.expect("silence cancels it");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_drops_a_question_refuses_it_now_or_later() {
    let ([a, mut b], _wire) = peers();
    let now = a.ask(b.id, 1);
    drop(b.asked().await);
    assert_eq!(now.await.unwrap(), Err(AskError::Refused));
    let later = a.ask(b.id, 2);
    let deferred = b.asked().await.answer.defer();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(deferred);
    assert_eq!(timeout(Duration::from_millis(100), later).await.unwrap().unwrap(), Err(AskError::Refused));
    let again = a.ask(b.id, 2);
    b.asked().await.answer.answer(yes());
    assert_eq!(again.await.unwrap(), Ok(yes()), "given up is not remembered");
}

#[tokio::test(start_paused = true)]
async fn many_questions_share_few_exchanges_and_all_get_their_own_answer() {
    let ([a, mut b], wire) = peers();
    let answers: Vec<_> = (0..1000).map(|seq| a.ask(b.id, seq)).collect();
    tokio::spawn(async move {
        while let Some(asked) = b.asked.recv().await {
            asked.answer.answer(Bytes::from(asked.id.seq.to_string()));
        }
    });
    for (seq, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap(), Ok(Bytes::from(seq.to_string())));
    }
    let calls = wire.calls.load(Ordering::Relaxed);
    assert!(calls <= 20, "{calls} exchanges for 1000 questions");
}

#[tokio::test(start_paused = true)]
async fn answers_too_many_for_one_exchange_all_arrive() {
    let ([a, mut b], _wire) = peers();
    let answers: Vec<_> = (0..8).map(|seq| a.ask(b.id, seq)).collect();
    let mut asked = Vec::new();
    while asked.len() < 8 {
        asked.push(b.asked().await);
    }
    let large = Bytes::from(vec![1; 5 * 1024 * 1024]);
    asked.into_iter().for_each(|asked| asked.answer.answer(large.clone()));
    for answer in answers {
        assert_eq!(answer.await.unwrap().map(|body| body.len()), Ok(large.len()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_or_asked_twice_is_refused_here() {
    let ([a, mut b], _wire) = peers();
    let limit = wire::most_body(Protocol::Client.limits().request_bytes);
    let large = a.exchange.ask(b.id, a.question(1), Lane::Ask, vec![0; limit + 1].into()).await;
    assert_eq!(large, Err(AskError::Call(CallError::TooLarge { size: limit + 1, limit })));
    let _open = a.ask(b.id, 2);
    let _asked = b.asked().await;
    assert_eq!(a.ask(b.id, 2).await.unwrap(), Err(AskError::AlreadyOpen));
}

#[tokio::test(start_paused = true)]
async fn garbage_is_refused_and_changes_nothing() {
    let ([a, mut b], wire) = peers();
    let mesh = FakeMesh { local: a.id, wire };
    for garbage in [&b""[..], b"\xff", b"\x81\x00\x00", b"garbage"] {
        let refused = mesh.call(b.id, Protocol::Client, Lane::Ask, Bytes::copy_from_slice(garbage)).await;
        assert_eq!(refused, Err(CallError::Refused(b.id)), "{garbage:?}");
    }
    assert!(b.nothing_asked());
}
