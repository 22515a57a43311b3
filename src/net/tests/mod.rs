//! Real nodes on loopback, each on a free port. Conditions are awaited, nothing sleeps.

mod connections;
mod kademlia;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use libp2p::{Multiaddr, identity::Keypair, multiaddr, pnet::PreSharedKey};
use prometheus_client::registry::Registry;
use tokio::{
    io::AsyncWriteExt,
    sync::mpsc,
    time::{Instant, timeout},
};

use super::*;
use crate::telemetry::Bounds;

const PATIENCE: Duration = Duration::from_secs(15);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

fn settings() -> NetSettings {
    NetSettings {
        keypair: Keypair::generate_ed25519(),
        pre_shared_key: Some(PreSharedKey::new([7; 32])),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        announce: Vec::new(),
        bootstrap: Vec::new(),
        mdns: Mdns::Off,
        agent: "syncmesh/test".to_owned(),
        limits: NetLimits::default(),
    }
}

/// An address where nobody listens, for who must know it before it listens.
fn free_addr() -> Multiaddr {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
}

/// The same address by its name.
fn named(addr: &Multiaddr) -> Multiaddr {
    addr.replace(0, |_| Some(multiaddr::Protocol::Dns4("localhost".into()))).unwrap()
}

struct TestNode {
    mesh: Arc<dyn Mesh>,
    events: mpsc::Receiver<MeshEvent>,
    task: NetTask,
    registry: Registry,
    bounds: Bounds,
}

impl TestNode {
    async fn start(settings: NetSettings) -> Self {
        let bounds = Bounds::default();
        let mut registry = Registry::default();
        let (mesh, events, task) = start(settings, &mut registry, bounds.clone()).await.unwrap();
        Self { mesh, events, task, registry, bounds }
    }

    async fn joining(other: &Self) -> Self {
        Self::start(NetSettings { bootstrap: vec![other.addr()], ..settings() }).await
    }

    fn id(&self) -> NodeId {
        self.mesh.local()
    }

    fn addr(&self) -> Multiaddr {
        self.mesh.status().borrow().listen_addrs[0].clone()
    }

    async fn next(&mut self, what: &str) -> MeshEvent {
        soon(what, self.events.recv()).await.expect("the swarm task runs")
    }

    async fn up(&mut self, peer: NodeId) {
        while !matches!(self.next("a peer to come up").await, MeshEvent::Up(up) if up == peer) {}
    }

    async fn down(&mut self, peer: NodeId) {
        while !matches!(self.next("a peer to go down").await, MeshEvent::Down(down) if down == peer) {}
    }

    async fn inbound(&mut self) -> Inbound {
        loop {
            if let MeshEvent::Call(call) = self.next("a call").await {
                return call;
            }
        }
    }

    /// The sum of all counters and gauges whose line begins so.
    fn metric(&self, line: &str) -> f64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let values =
            text.lines().filter(|l| l.starts_with(line)).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    /// Answers every call with its own body.
    fn echoing(mut self) -> (Arc<dyn Mesh>, NetTask) {
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                if let MeshEvent::Call(call) = event {
                    let _ = call.reply.send(call.body);
                }
            }
        });
        (self.mesh, self.task)
    }

    async fn knows(&self, what: &str, condition: impl Fn(&MeshStatus) -> bool) {
        let mut status = self.mesh.status();
        soon(what, status.wait_for(|status| condition(status))).await.unwrap();
    }
}

fn members(nodes: &[&TestNode]) -> BTreeMap<NodeId, Vec<Multiaddr>> {
    nodes.iter().map(|node| (node.id(), vec![node.addr()])).collect()
}

fn ask(node: &Arc<dyn Mesh>, peer: NodeId, body: &'static str) -> BoxFuture<'static, Result<Bytes, CallError>> {
    node.call(peer, Protocol::Control, Lane::Ask, Bytes::from_static(body.as_bytes()))
}

#[tokio::test]
async fn two_nodes_meet_by_address_alone_and_call_each_other() {
    let mut first = TestNode::start(settings()).await;
    let mut second = TestNode::joining(&first).await;
    let (a, b) = (first.id(), second.id());
    second.up(a).await;
    first.up(b).await;
    first
        .knows("the agent and round trip of the peer", |status| {
            status.peers.get(&b).is_some_and(|link| link.agent == "syncmesh/test" && link.rtt.is_some())
        })
        .await;
    assert!(!first.mesh.status().borrow().peers[&b].outbound);
    assert_eq!(second.mesh.status().borrow().peers[&a].discovered_by, DiscoveredBy::Bootstrap);
    let (first, _task) = first.echoing();
    for protocol in Protocol::ALL {
        let answer = second.mesh.call(a, protocol, Lane::End, Bytes::from_static(b"hello")).await;
        assert_eq!(answer.unwrap(), "hello", "{protocol:?}");
    }
    let call = ask(&first, b, "back");
    let answered = async {
        let inbound = second.inbound().await;
        assert_eq!((inbound.from, inbound.protocol, &inbound.body[..]), (a, Protocol::Control, &b"back"[..]));
        inbound.reply.send(Bytes::from_static(b"forth")).unwrap();
    };
    assert_eq!(tokio::join!(call, answered).0.unwrap(), "forth");
    assert_eq!(ask(&first, a, "myself").await, Err(CallError::Unreachable(a)));
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_before_it_is_sent() {
    let mut first = TestNode::start(settings()).await;
    let mut second = TestNode::joining(&first).await;
    second.up(first.id()).await;
    let limit = Protocol::Control.limits().request_bytes;
    let call = |size| second.mesh.call(first.mesh.local(), Protocol::Control, Lane::Ask, vec![1u8; size].into());
    assert_eq!(call(limit + 1).await, Err(CallError::TooLarge { size: limit + 1, limit }));
    let largest = tokio::spawn(call(limit));
    let inbound = first.inbound().await;
    assert_eq!(inbound.body.len(), limit);
    drop(inbound.reply);
    assert_eq!(largest.await.unwrap(), Err(CallError::Refused(first.id())));
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused_whole() {
    let mut first = TestNode::start(settings()).await;
    let mut second = TestNode::joining(&first).await;
    let a = first.id();
    second.up(a).await;
    let call = second.mesh.call(a, Protocol::Raft, Lane::Ask, Bytes::from_static(b"?"));
    let answered = async {
        let inbound = first.inbound().await;
        inbound.reply.send(vec![1; Protocol::Raft.limits().response_bytes + 1].into()).unwrap();
    };
    assert_eq!(tokio::join!(call, answered).0, Err(CallError::Refused(a)));
}

#[tokio::test]
async fn a_peer_with_another_key_or_none_does_not_get_in() {
    let mut first = TestNode::start(settings()).await;
    let strangers = [Some(PreSharedKey::new([8; 32])), None];
    for pre_shared_key in strangers {
        let bootstrap = vec![first.addr()];
        let stranger = TestNode::start(NetSettings { pre_shared_key, bootstrap, ..settings() }).await;
        stranger.mesh.hint(first.id(), vec![first.addr()], DiscoveredBy::Members);
        let refused = ask(&stranger.mesh, first.id(), "let me in");
        assert_eq!(soon("the refusal", refused).await, Err(CallError::Unreachable(first.id())));
        assert!(stranger.mesh.status().borrow().peers.is_empty());
    }
    let mut friend = TestNode::joining(&first).await;
    friend.up(first.id()).await;
    first.up(friend.id()).await;
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let first = TestNode::start(settings()).await;
    let addr = first.addr();
    let port = addr.iter().find_map(|part| if let multiaddr::Protocol::Tcp(port) = part { Some(port) } else { None });
    let mut sockets = Vec::new();
    for n in 0..20u8 {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap();
        socket.write_all(&[n.wrapping_mul(37); 4096]).await.unwrap();
        sockets.push(socket);
    }
    let mut second = TestNode::joining(&first).await;
    second.up(first.id()).await;
    let a = first.id();
    let _first = first.echoing();
    assert_eq!(ask(&second.mesh, a, "still there").await.unwrap(), "still there");
}

#[tokio::test]
async fn a_bootstrap_address_with_the_wrong_peer_leads_nowhere() {
    let first = TestNode::start(settings()).await;
    let other = NodeId::try_from(Keypair::generate_ed25519().public().to_peer_id()).unwrap();
    let wrong = first.addr().with(multiaddr::Protocol::P2p(other.peer_id()));
    let mut second = TestNode::start(NetSettings { bootstrap: vec![wrong], ..settings() }).await;
    let mut third = TestNode::start(NetSettings {
        bootstrap: vec![first.addr().with(multiaddr::Protocol::P2p(first.id().peer_id()))],
        ..settings()
    })
    .await;
    third.up(first.id()).await;
    assert!(second.mesh.status().borrow().peers.is_empty());
    assert!(second.events.try_recv().is_err());
}

#[tokio::test]
async fn an_address_behind_which_somebody_else_listens_does_not_hide_the_right_one() {
    let (mut first, other) = (TestNode::start(settings()).await, TestNode::start(settings()).await);
    let mut second = TestNode::start(settings()).await;
    let addrs = vec![second.addr(), other.addr(), first.addr(), other.addr()];
    second.mesh.set_members(BTreeMap::from([(first.id(), addrs)]));
    second.up(first.id()).await;
    first.up(second.id()).await;
}

#[tokio::test]
async fn a_bootstrap_address_that_is_our_own_is_given_up() {
    let listen = vec![free_addr()];
    let own = named(&listen[0]);
    let first = TestNode::start(NetSettings { listen, bootstrap: vec![own], ..settings() }).await;
    let mut second = TestNode::joining(&first).await;
    second.up(first.id()).await;
    assert_eq!(first.mesh.status().borrow().peers.keys().copied().filter(|peer| *peer == first.id()).count(), 0);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let first = TestNode::start(settings()).await;
    let taken = NetSettings { listen: vec![first.addr()], ..settings() };
    let error = start(taken, &mut Registry::default(), Bounds::default()).await.unwrap_err();
    assert!(error.to_string().contains(&first.addr().to_string()), "{error}");
}

#[tokio::test]
async fn a_peer_that_dies_is_down_at_once_and_up_again_when_it_returns() {
    let keypair = Keypair::generate_ed25519();
    let mut first = TestNode::start(NetSettings { keypair: keypair.clone(), ..settings() }).await;
    let (a, addr) = (first.id(), first.addr());
    let mut second = TestNode::start(settings()).await;
    second.mesh.set_members(BTreeMap::from([(a, vec![addr.clone()])]));
    second.up(a).await;
    first.up(second.id()).await;
    let died = Instant::now();
    first.task.stop().await.unwrap();
    second.down(a).await;
    assert!(died.elapsed() < Duration::from_secs(1), "noticed after {:?}", died.elapsed());
    let failed = soon("a failed call", async {
        loop {
            match ask(&second.mesh, a, "anybody?").await {
                Err(CallError::Unreachable(peer)) => return peer,
                other => assert!(other.is_err(), "{other:?}"),
            }
        }
    });
    assert_eq!(failed.await, a);
    let first = TestNode::start(NetSettings { keypair, listen: vec![addr], ..settings() }).await;
    second.up(a).await;
    let _first = first.echoing();
    assert_eq!(ask(&second.mesh, a, "welcome back").await.unwrap(), "welcome back");
}

#[tokio::test]
async fn calls_beyond_the_slots_wait_in_line_and_beyond_the_line_are_busy() {
    let mut first = TestNode::start(settings()).await;
    let mut second = TestNode::joining(&first).await;
    let a = first.id();
    second.up(a).await;
    let limits = Protocol::Control.limits();
    let mut asks: Vec<_> =
        (0..limits.ask_slots + limits.queued).map(|_| tokio::spawn(ask(&second.mesh, a, "x"))).collect();
    let mut held = Vec::new();
    while held.len() < limits.ask_slots {
        held.push(first.inbound().await);
    }
    soon("the line to be full", async {
        // The spawned calls arrive in their own time; once all have, the next is one too many.
        while ask_now(&second.mesh, a).await != Some(Err(CallError::Busy(a))) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let end = tokio::spawn(second.mesh.call(a, Protocol::Control, Lane::End, Bytes::from_static(b"end")));
    let urgent = first.inbound().await;
    assert_eq!(urgent.body, "end", "what ends a wait has slots of its own");
    urgent.reply.send(Bytes::from_static(b"ok")).unwrap();
    assert_eq!(end.await.unwrap().unwrap(), "ok");
    held.into_iter().for_each(|call| call.reply.send(Bytes::from_static(b"y")).unwrap());
    let _first = first.echoing();
    let mut answered = 0;
    for call in asks.drain(..) {
        answered += usize::from(soon("an answer", call).await.unwrap().is_ok());
    }
    assert!(answered >= limits.ask_slots + limits.queued - 1, "{answered} were answered");
}

/// A call that is given up unless it fails at once.
async fn ask_now(mesh: &Arc<dyn Mesh>, peer: NodeId) -> Option<Result<Bytes, CallError>> {
    timeout(Duration::from_millis(20), ask(mesh, peer, "one too many")).await.ok()
}

#[tokio::test]
async fn a_broadcast_reaches_all_and_names_its_author() {
    let mut first = TestNode::start(settings()).await;
    let mut second = TestNode::joining(&first).await;
    let mut third = TestNode::joining(&first).await;
    second.up(first.id()).await;
    third.up(first.id()).await;
    first.up(second.id()).await;
    let author = second.id();
    for node in [&mut first, &mut third] {
        soon("a broadcast", async {
            loop {
                second.mesh.broadcast(Topic::View, Bytes::from_static(b"changed"));
                let heard = timeout(Duration::from_millis(100), node.events.recv()).await;
                if let Ok(Some(MeshEvent::Gossip { from, topic, body })) = heard {
                    assert_eq!((from, topic, &body[..]), (author, Topic::View, &b"changed"[..]));
                    return;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_late_answer_comes_over_real_connections() {
    let first = TestNode::start(settings()).await;
    let mut second = TestNode::joining(&first).await;
    let (a, b) = (first.id(), second.id());
    second.up(a).await;
    let exchanges = [first, second].map(|mut node| {
        let (exchange, asked, task) = deferred::Exchange::new(node.mesh.clone(), Protocol::Client, Bounds::default());
        tokio::spawn(task.run());
        let calls = exchange.clone();
        tokio::spawn(async move {
            while let Some(event) = node.events.recv().await {
                if let MeshEvent::Call(call) = event {
                    calls.on_call(call);
                }
            }
        });
        (exchange, asked)
    });
    let [(_first, mut asked), (second, _)] = exchanges;
    let id = crate::ids::RequestId { node: b, incarnation: crate::ids::Incarnation(1), seq: 1 };
    let answer = tokio::spawn(async move { second.ask(a, id, Lane::Ask, Bytes::from_static(b"?")).await });
    let question = soon("the question", asked.recv()).await.unwrap();
    assert_eq!(question.id, id);
    question.answer.defer().complete(Bytes::from_static(b"!"));
    assert_eq!(soon("the answer", answer).await.unwrap().unwrap(), "!");
}

#[tokio::test]
async fn a_barred_peer_is_cut_off_and_comes_back_when_admitted() {
    let mut first = TestNode::start(settings()).await;
    let mut second = TestNode::joining(&first).await;
    let (a, b) = (first.id(), second.id());
    second.up(a).await;
    first.up(b).await;
    first.mesh.set_barred(vec![b]);
    first.down(b).await;
    second.down(a).await;
    assert_eq!(ask(&first.mesh, b, "?").await, Err(CallError::Unreachable(b)));
    first.mesh.set_barred(Vec::new());
    first.up(b).await;
}

#[tokio::test]
async fn a_probe_makes_one_call_without_being_a_node() {
    let first = TestNode::start(settings()).await;
    let (a, addr) = (first.id(), first.addr());
    let _first = first.echoing();
    let key = settings().pre_shared_key;
    let hello = Bytes::from_static(b"hello");
    let with_peer = addr.clone().with(multiaddr::Protocol::P2p(a.peer_id()));
    for addr in [&addr, &with_peer] {
        let probed = probe::probe(addr, key, hello.clone(), PATIENCE).await.unwrap();
        assert_eq!((probed.peer, probed.answer, probed.agent.as_deref()), (a, hello.clone(), Some("syncmesh/test")));
        assert!(probed.rtt.is_some() && probed.observed.is_some());
        assert!(probed.protocols.iter().any(|protocol| protocol == "/syncmesh/raft/1"), "{:?}", probed.protocols);
    }
}

#[tokio::test]
async fn a_probe_says_whether_nobody_answers_or_the_handshake_fails_or_it_is_somebody_else() {
    let first = TestNode::start(settings()).await;
    let (key, addr) = (settings().pre_shared_key, first.addr());
    let probe = |addr: Multiaddr, key| async move {
        probe::probe(&addr, key, Bytes::from_static(b"?"), PATIENCE).await.unwrap_err()
    };
    let nobody: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let error = probe(nobody, key).await;
    assert!(matches!(error, probe::ProbeError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("cannot be reached: Connection refused"), "{error}");
    for (wrong, cure) in [(Some(PreSharedKey::new([8; 32])), "another cluster key"), (None, "wants its cluster key")] {
        let error = probe(addr.clone(), wrong).await;
        assert!(matches!(error, probe::ProbeError::Handshake { .. }), "{wrong:?}: {error}");
        let text = error.to_string();
        assert!(text.contains(cure) && text.contains("--cluster-key-file") && !text.contains("()"), "{text}");
    }
    let error = probe("/memory/1".parse().unwrap(), key).await;
    assert!(error.to_string().contains("expected /ip4/…/tcp/…"), "{error}");
    let stranger = Keypair::generate_ed25519().public().to_peer_id();
    let error = probe(addr.with(multiaddr::Protocol::P2p(stranger)), key).await;
    assert!(matches!(error, probe::ProbeError::WrongPeer { .. }), "{error}");
}
