//! How connections come about, are bounded, and come back.

use futures::StreamExt;
use libp2p::swarm::{self, Swarm, SwarmEvent, dial_opts::DialOpts, dummy};

use super::*;

#[tokio::test]
async fn nodes_without_a_key_also_speak_quic() {
    let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()];
    let open = || NetSettings { pre_shared_key: None, listen: listen.clone(), ..settings() };
    let first = TestNode::start(open()).await;
    let mut second = TestNode::start(NetSettings { bootstrap: vec![first.addr()], ..open() }).await;
    let a = first.id();
    second.up(a).await;
    assert_eq!(second.mesh.status().borrow().peers[&a].transport, "quic");
    let _first = first.echoing();
    assert_eq!(ask(&second.mesh, a, "hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn quic_beside_a_key_is_refused_and_says_why() {
    let quic: Multiaddr = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
    let listen = NetSettings { listen: vec![quic.clone()], ..settings() };
    let bootstrap = NetSettings { bootstrap: vec![quic], ..settings() };
    for settings in [listen, bootstrap] {
        let error = start(settings, &mut Registry::default(), Bounds::default()).await.unwrap_err().to_string();
        assert!(error.contains("/quic-v1") && error.contains("CLUSTER_KEY_FILE"), "{error}");
    }
}

#[tokio::test]
async fn a_cluster_is_found_by_a_name_with_and_without_the_peer_behind_it() {
    let first = TestNode::start(settings()).await;
    let by_name = named(&first.addr());
    let with_peer = by_name.clone().with(multiaddr::Protocol::P2p(first.id().peer_id()));
    for addr in [by_name, with_peer] {
        let mut second = TestNode::start(NetSettings { bootstrap: vec![addr.clone()], ..settings() }).await;
        second.up(first.id()).await;
        assert_eq!(second.mesh.status().borrow().peers[&first.id()].discovered_by, DiscoveredBy::Bootstrap, "{addr}");
    }
}

#[tokio::test]
async fn a_bootstrap_address_is_dialled_until_somebody_listens_there() {
    let at = free_addr();
    let mut second = TestNode::start(NetSettings { bootstrap: vec![at.clone()], ..settings() }).await;
    soon("several dials in vain", async {
        while second.metric("libp2p_swarm_outgoing_connection_error_total") < 4.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let first = TestNode::start(NetSettings { listen: vec![at], ..settings() }).await;
    second.up(first.id()).await;
}

#[tokio::test]
async fn whom_a_bootstrap_address_leads_to_is_known_when_the_connection_is_closed() {
    let first = TestNode::start(settings()).await;
    let (a, at) = (first.id(), first.addr());
    let mut second = TestNode::start(NetSettings { bootstrap: vec![at.clone()], ..settings() }).await;
    second.up(a).await;
    assert_eq!(second.mesh.status().borrow().bootstrap, BTreeSet::from([a]));
    first.task.stop().await.unwrap();
    second.down(a).await;
    second.knows("nobody answers there", |status| status.unanswered.iter().any(|(addr, _)| *addr == at)).await;
    assert_eq!(second.mesh.status().borrow().bootstrap, BTreeSet::from([a]));
}

/// Stops a node; it comes back under its identity at another port, and dials these.
async fn moved(node: TestNode, keypair: Keypair, bootstrap: Vec<Multiaddr>) -> TestNode {
    let before = node.addr();
    node.task.stop().await.unwrap();
    let node = TestNode::start(NetSettings { keypair, bootstrap, ..settings() }).await;
    assert_ne!(node.addr(), before);
    node
}

#[tokio::test]
async fn an_address_that_changed_is_learned_from_the_one_who_moved() {
    let keypair = Keypair::generate_ed25519();
    let first = TestNode::start(NetSettings { keypair: keypair.clone(), ..settings() }).await;
    let mut second = TestNode::start(settings()).await;
    let (a, b) = (first.id(), second.id());
    second.mesh.set_members(members(&[&first, &second]));
    second.up(a).await;
    let mut first = moved(first, keypair, vec![second.addr()]).await;
    second.up(a).await;
    let told = first.addr();
    second.knows("who it is", |status| status.peers.get(&a).is_some_and(|link| !link.agent.is_empty())).await;
    // Its connection is gone, and it does not dial: the other one finds it where it is now.
    first.mesh.disconnect(b);
    second.down(a).await;
    second.up(a).await;
    first.up(b).await;
    let link = second.mesh.status().borrow().peers[&a].clone();
    assert!(link.outbound && link.addr == told, "{link:?} is not at {told}");
}

#[tokio::test]
async fn an_address_that_changed_is_learned_from_others() {
    let keypair = Keypair::generate_ed25519();
    let first = TestNode::start(NetSettings { keypair: keypair.clone(), ..settings() }).await;
    let a = first.id();
    let third = TestNode::joining(&first).await;
    let mut second = TestNode::joining(&third).await;
    let known = members(&[&first, &third]);
    for node in [&second, &third] {
        node.mesh.set_members(known.clone());
    }
    second.up(a).await;
    // The one who moved dials the third only, and knows of no members.
    let first = moved(first, keypair, vec![third.addr()]).await;
    second.down(a).await;
    second.up(a).await;
    assert_eq!(second.mesh.status().borrow().peers[&a].addr, first.addr());
}

/// A peer that only makes connections: so many, all under one identity.
async fn flood(keypair: &Keypair, to: &Multiaddr, count: usize) -> Swarm<dummy::Behaviour> {
    let transport = transport::build(keypair, settings().pre_shared_key).unwrap();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
    let mut swarm = Swarm::new(transport, dummy::Behaviour, keypair.public().to_peer_id(), config);
    for _ in 0..count {
        let opts = DialOpts::unknown_peer_id().address(to.clone());
        swarm.dial(opts.allocate_new_port().build()).unwrap();
    }
    let mut made = 0;
    while made < count {
        let ended = soon("a connection to come up or be refused", swarm.select_next_some()).await;
        made += usize::from(matches!(
            ended,
            SwarmEvent::ConnectionEstablished { .. } | SwarmEvent::OutgoingConnectionError { .. }
        ));
    }
    swarm
}

/// Inbound connections that a node has.
fn inbound(node: &TestNode) -> f64 {
    node.metric("libp2p_swarm_connections_established_total")
        - node.metric("libp2p_swarm_connections_duration_seconds_count")
}

#[tokio::test]
async fn the_connections_of_one_peer_are_bounded_and_others_get_in() {
    let limits = NetLimits { established_per_peer: 4, ..NetLimits::default() };
    let first = TestNode::start(NetSettings { limits, ..settings() }).await;
    let _peer = flood(&Keypair::generate_ed25519(), &first.addr(), 30).await;
    soon("the flood to be refused", async {
        while first.bounds.hits("net.connections") < 26 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(inbound(&first), 4.0);
    let mut friend = TestNode::joining(&first).await;
    friend.up(first.id()).await;
}

#[tokio::test]
async fn strangers_take_no_room_from_members() {
    let limits = NetLimits { established_strangers: 6, ..NetLimits::default() };
    let first = TestNode::start(NetSettings { limits, ..settings() }).await;
    let mut strangers = Vec::new();
    for _ in 0..10 {
        strangers.push(flood(&Keypair::generate_ed25519(), &first.addr(), 1).await);
    }
    soon("four strangers to be refused", async {
        while first.bounds.hits("net.connections") < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut member = TestNode::start(settings()).await;
    first.mesh.set_members(BTreeMap::from([(member.id(), Vec::new())]));
    member.mesh.hint(first.id(), vec![first.addr()], DiscoveredBy::Members);
    member.mesh.set_members(members(&[&first]));
    member.up(first.id()).await;
}

#[tokio::test]
async fn handshakes_that_a_host_leaves_open_are_bounded_and_end() {
    let limits = NetLimits { pending_per_host: 5, ..NetLimits::default() };
    let first = TestNode::start(NetSettings { limits, ..settings() }).await;
    let port = first.addr().iter().find_map(|part| match part {
        multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap());
    }
    soon("all but five to be refused", async {
        while first.bounds.hits("net.connections") < 15 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // From the same host: it gets in once the silent ones have been given up, and they still hold on.
    let mut friend = TestNode::joining(&first).await;
    friend.up(first.id()).await;
    assert_eq!(silent.len(), 20);
}

#[tokio::test]
async fn a_node_that_is_short_of_memory_takes_no_new_connections() {
    let limits = NetLimits { memory_bytes: Some(1), ..NetLimits::default() };
    let first = TestNode::start(NetSettings { limits, ..settings() }).await;
    let second = TestNode::joining(&first).await;
    soon("a refusal", async {
        while first.bounds.hits("net.connections") < 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(second.mesh.status().borrow().peers.is_empty());
}
