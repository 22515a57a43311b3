//! Garbage from the network: it gets nowhere, and the cluster goes on.

use std::{
    net::Ipv4Addr,
    process::Command,
    time::{Duration, Instant},
};

use libp2p::identity::Keypair;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    harness::{Cluster, PATIENCE, Site, eventually, holds},
    history::{CONTENDED, Load},
    stranger::{Manners, PROTOCOLS, Stranger},
};

/// So that a leader that gets no processor time beside what the tests do is not replaced for that.
const PATIENT: [(&str, &str); 2] = [("ELECTION_TIMEOUT_MIN", "3s"), ("ELECTION_TIMEOUT_MAX", "6s")];

/// Bytes that look random, the same in each run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state >> 56).expect("eight bits are left")
    };
    (0..length).map(|_| next()).collect()
}

/// Sends bytes and reads what comes back until the node hangs up; none if it does not in time.
async fn send(host: Ipv4Addr, port: u16, bytes: &[u8], patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect((host, port)).await.unwrap();
    // A node may hang up before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let ended = timeout(patience, async {
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            answer.extend_from_slice(&part[..count]);
        }
    });
    ended.await.ok().map(|()| String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_mesh_port_disturbs_nobody() {
    let mut cluster = Cluster::of(3).await;
    let apis: Vec<_> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let hosts: Vec<_> = cluster.nodes.iter().map(|node| node.ip()).collect();
    let load = Load::start(apis, 3);
    let began = Instant::now();
    let mut attacks = tokio::task::JoinSet::new();
    for nth in 0..60_usize {
        let host = hosts[nth % 3];
        attacks.spawn(async move {
            let patience = Duration::from_secs(2);
            let seed = u64::try_from(nth).unwrap();
            match nth % 4 {
                0 => send(host, 4001, &noise(seed, 100_000), patience).await,
                1 => send(host, 4001, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", patience).await,
                // A right beginning, then noise.
                2 => {
                    let bytes = [b"\x13/multistream/1.0.0\n\x07/noise\n".to_vec(), noise(seed, 50_000)].concat();
                    send(host, 4001, &bytes, patience).await
                }
                // Silence.
                _ => send(host, 4001, b"", patience).await,
            };
        });
    }
    while let Some(attack) = attacks.join_next().await {
        attack.unwrap();
    }
    let during = load.so_far().await.len();
    eventually("all clients go on", async || {
        let grants = load.so_far().await;
        let contended = grants.iter().filter(|grant| grant.lock == CONTENDED).count();
        holds(contended > 20, format!("{contended} grants of the contended lock"))
    })
    .await;
    let grants = load.checked().await;
    println!("garbage on the mesh port: {during} grants meanwhile, {} in {:?}", grants.len(), began.elapsed());
    for node in &mut cluster.nodes {
        assert!(node.is_running() && !node.log().contains("panicked"), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_http_port_is_refused_and_nothing_is_lost() {
    let mut cluster = Cluster::of(1).await;
    let (host, api) = (cluster.nodes[0].ip(), cluster.nodes[0].api.clone());
    let held = api.grant("printer").await;
    let patience = Duration::from_secs(5);
    for seed in 0..20 {
        let answer = send(host, 8080, &[noise(seed, 5_000), b"\r\n\r\n".to_vec()].concat(), patience).await;
        let answer = answer.expect("noise is hung up on");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let header = format!("GET /v1/locks HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(1 << 20));
    let answer = send(host, 8080, header.as_bytes(), patience).await.expect("hung up on");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many: String = (0..5_000).map(|nth| format!("x-{nth}: y\r\n")).collect();
    let answer =
        send(host, 8080, format!("GET /v1/locks HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes(), patience).await;
    let answer = answer.expect("hung up on");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");

    for (path, body, field) in [
        ("/v1/locks/a/acquire", json!({"ttl_ms": -1}), "ttl_ms"),
        ("/v1/locks/a/acquire", json!({"ttl_ms": 1e300}), "ttl_ms"),
        ("/v1/locks/a/acquire", json!({"wait_ms": 600_001}), "wait_ms"),
        ("/v1/locks/a/acquire", json!({"colour": "red"}), "colour"),
        ("/v1/locks/a/acquire", json!([]), ""),
        ("/v1/locks/a/acquire", json!({"ttl_ms": u64::MAX}), "ttl_ms"),
        ("/v1/locks/a/acquire", json!({"lock_delay_ms": 3_600_001}), "lock_delay_ms"),
        ("/v1/locks/a/acquire", json!({"session": "s", "ttl_ms": 600}), "ttl_ms"),
        ("/v1/locks/a/acquire", json!({"session": "s", "owner": "o"}), "owner"),
        ("/v1/locks/a/acquire", json!({"owner": "o".repeat(513)}), "owner"),
        ("/v1/sessions", json!({"ttl_ms": 499}), "ttl_ms"),
        ("/v1/sessions", json!({"ttl_ms": 3_600_001}), "ttl_ms"),
        ("/v1/locks:acquire", json!({"locks": []}), "locks"),
        ("/v1/locks:acquire", json!({"locks": vec![json!({"name": "a"}); 65]}), "locks"),
        ("/v1/locks:acquire", json!({"locks": [{"name": "a"}, {"name": "a", "mode": "shared"}]}), "locks"),
    ] {
        let refused = api.post(path, body.clone()).await;
        assert_eq!((refused.status, refused.slug()), (400, "bad-request"), "{body}: {refused:?}");
        assert!(refused.body["field"].as_str().unwrap_or_default().contains(field), "{body}: {refused:?}");
    }
    let long = api.post(&format!("/v1/locks/{}/acquire", "n".repeat(513)), json!({})).await;
    assert_eq!(long.slug(), "bad-request", "{long:?}");
    let large = api.post("/v1/locks/a/acquire", json!({"owner": "o".repeat(32 << 20)})).await;
    assert_eq!(large.slug(), "payload-too-large", "{large:?}");
    let nobody = api.keep_alive("never-was").await;
    assert_eq!(nobody.slug(), "session-expired", "{nobody:?}");
    assert_eq!(api.holder("printer").await, Some(held));
    assert!(cluster.nodes[0].is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_there_are_files_for_are_refused_and_nothing_else_suffers() {
    let site = Site::new().await;
    let mut node = site.node("n0").with("BOOTSTRAP_EXPECT", 1);
    let plain = node.piped_command();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 300 && exec \"$0\" node", env!("CARGO_BIN_EXE_syncmesh")])
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(plain.get_current_dir().unwrap());
    node.log_into(&mut command);
    node.launch_as(command);
    node.listening().await;
    node.ready().await;
    let held = node.api.grant("printer").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect((node.ip(), 8080)).await.unwrap());
    }
    let question = b"GET /v1/locks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let refusal = eventually("a client that asks is told that there is no room", async || {
        let answer = send(node.ip(), 8080, question, PATIENCE).await.unwrap_or_default();
        if answer.starts_with("HTTP/1.1 503") { Ok(answer) } else { Err(answer) }
    })
    .await;
    assert!(refusal.contains(r#""type":"unavailable""#) && refusal.contains("retry-after: 1"), "{refusal}");
    drop(silent);
    eventually("there is room again", async || {
        let answer = node.api.call(reqwest::Method::GET, "/healthz", None).await.map_err(|e| e.to_string())?;
        holds(answer.status == 200, format!("{answer:?}"))
    })
    .await;
    assert_eq!(node.api.holder("printer").await, Some(held));
    // The log had files to write to all the while.
    for nth in 0..20 {
        node.api.grant(&format!("lock-{nth}")).await;
    }
    assert!(node.is_running() && !node.log().contains("ERROR"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_http_clients_keep_nobody_out() {
    let cluster = Cluster::of(1).await;
    let (host, api) = (cluster.nodes[0].ip(), cluster.nodes[0].api.clone());
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect((host, 8080)).await.unwrap();
        stream.write_all(b"POST /v1/locks/a/acquire HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n").await.unwrap();
        slow.push(stream);
    }
    let began = Instant::now();
    for nth in 0..50 {
        api.grant(&format!("lock-{nth}")).await;
    }
    println!("50 grants beside 300 slow clients took {:?}", began.elapsed());
    // A head that does not come is not waited for.
    let mut part = [0; 1024];
    let answered = timeout(PATIENCE, slow[0].read(&mut part)).await;
    let count = answered.expect("a node hangs up on a head that does not come").unwrap_or(0);
    let answer = String::from_utf8_lossy(&part[..count]);
    holds(count == 0 || answer.starts_with("HTTP/1.1 4"), &answer).unwrap();
}

/// What a peer may say under any protocol, and never should.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let control = br#"{"Info":null}"#.to_vec();
    vec![
        ("nothing", Vec::new()),
        ("one byte", vec![1]),
        ("another version", vec![0xff; 100]),
        ("noise", noise(7, 10_000)),
        ("much noise", noise(8, 1_500_000)),
        ("JSON", control),
        // Arrays in arrays: 0x81 begins one of one element.
        ("deep CBOR", vec![0x81; 1_000_000]),
        ("deep CBOR of Raft", [vec![1], vec![0x81; 1_000_000]].concat()),
        // A map, an array and a text that announce 2^63 elements and bytes.
        ("a bomb of a map", vec![0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("a bomb of an array", vec![1, 0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("a bomb of a text", vec![0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        // The text "Info" is a call of its own; a second one behind it makes it garbage.
        ("a call and more", b"\x64Info\x64Info".to_vec()),
    ]
}

/// Megabytes that a process occupies.
fn resident_mb(node: &crate::harness::NodeProcess) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_under_every_protocol_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::with(3, &PATIENT).await;
    let apis: Vec<_> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let before = cluster.nodes[0].api.cluster().await;
    let load = Load::start(apis, 3);
    for (manner, manners) in [("rude", Manners::Says(noise(3, 1_000))), ("like one of them", Manners::good())] {
        for protocol in PROTOCOLS {
            let addr = cluster.nodes[0].multiaddr();
            let stranger = Stranger::dial(&addr, Keypair::generate_ed25519(), protocol, manners.clone()).await;
            for (what, body) in nonsense() {
                let answer = stranger.call(body).await;
                let said = String::from_utf8_lossy(answer.as_deref().unwrap_or_default()).into_owned();
                let refused = said.is_empty() || ["Refused", "Failed"].iter().any(|word| said.contains(word));
                assert!(refused, "{manner}, {protocol}, {what}: {said}");
            }
        }
    }
    eventually("all clients go on", async || {
        let grants = load.so_far().await.len();
        holds(grants > 50, format!("{grants} grants"))
    })
    .await;
    load.checked().await;
    let after = cluster.nodes[0].api.cluster().await;
    assert_eq!((&after["term"], standing(&after)), (&before["term"], standing(&before)));
    for node in &mut cluster.nodes {
        assert!(node.is_running() && !node.log().contains("panicked"), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_its_limit_is_refused_and_what_comes_after_it_answered() {
    let cluster = Cluster::of(1).await;
    let addr = cluster.nodes[0].multiaddr();
    let stranger = Stranger::dial(&addr, Keypair::generate_ed25519(), "/syncmesh/control/1", Manners::good()).await;
    // The control protocol's limit is 2 MiB; this is far beyond that of any.
    let refused = stranger.call(vec![0x81; 40 << 20]).await;
    assert!(refused.as_ref().is_ok_and(Vec::is_empty) || refused.is_err(), "{refused:?}");
    // CBOR of the unit variant "Info": open to every peer.
    let info = stranger.call(b"\x64Info".to_vec()).await.unwrap();
    assert!(String::from_utf8_lossy(&info).contains("peer_id"), "{:?}", String::from_utf8_lossy(&info));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_calls_takes_neither_the_memory_nor_the_locks() {
    let mut cluster = Cluster::of(3).await;
    let apis: Vec<_> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let load = Load::start(apis, 3);
    let flooded = cluster.leader().await;
    let addr = cluster.nodes[flooded].multiaddr();
    let mut strangers = Vec::new();
    for protocol in PROTOCOLS.into_iter().cycle().take(10) {
        strangers.push(Stranger::dial(&addr, Keypair::generate_ed25519(), protocol, Manners::good()).await);
    }
    let mut floods = tokio::task::JoinSet::new();
    for (nth, stranger) in strangers.into_iter().enumerate() {
        floods.spawn(async move {
            let bytes = if nth < PROTOCOLS.len() { 20_000 } else { 300 };
            let calls = (0..400).map(|nth| stranger.call(noise(nth, bytes)));
            futures::future::join_all(calls).await.iter().filter(|answer| answer.is_ok()).count()
        });
    }
    let mut answered = 0;
    while let Some(flood) = floods.join_next().await {
        answered += flood.unwrap();
    }
    let began = Instant::now();
    eventually("all clients go on", async || {
        let after = load.so_far().await.into_iter().filter(|grant| grant.asked > began).count();
        holds(after > 50, format!("{after} grants"))
    })
    .await;
    let grants = load.checked().await.len();
    let most = cluster.nodes.iter().map(resident_mb).max().unwrap();
    println!("a flood of 4,000 calls: {answered} answered or refused, {grants} grants, {most} MB at most");
    assert!(most < 700, "{most} MB");
    for node in &mut cluster.nodes {
        assert!(node.is_running() && !node.log().contains("panicked"), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_names_another_cluster_is_sent_away() {
    let cluster = Cluster::of(1).await;
    let node = &cluster.nodes[0];
    let id = node.api.cluster().await["cluster_id"].as_str().unwrap().to_owned();
    let other = id.chars().rev().collect::<String>();
    assert_ne!(id, other);
    for manners in [Manners::Parrots(id, other), Manners::Parrots("default".into(), "another".into())] {
        let stranger =
            Stranger::dial(&node.multiaddr(), Keypair::generate_ed25519(), "/syncmesh/control/1", manners).await;
        stranger.sent_away().await;
    }
    node.says("refused: ").await;
    assert_eq!(node.api.cluster().await["members"].as_array().map(Vec::len), Some(1));
}

/// Who is what in the cluster. The epoch of its view is no part of it: that grows as the queues move, too.
fn standing(view: &serde_json::Value) -> Vec<(serde_json::Value, serde_json::Value)> {
    let members = view["members"].as_array().unwrap();
    members.iter().map(|member| (member["peer_id"].clone(), member["status"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_that_goes_on_talking_is_heard_by_nobody() {
    let mut cluster = Cluster::with(3, &PATIENT).await;
    let victim = cluster.follower().await;
    let other = (victim + 1) % 3;
    let peer = cluster.nodes[victim].peer_id();
    let done = cluster.nodes[other].cli(&["members", "remove", &peer]).await;
    assert_eq!(done.code, 0, "{done:?}");
    cluster.nodes[victim].ended().await;
    cluster.has_voters(other, 2).await;
    let before = cluster.nodes[other].api.cluster().await;

    // Its key has outlived it.
    let identity = std::fs::read(cluster.nodes[victim].data_dir().join("identity.json")).unwrap();
    let identity: serde_json::Value = serde_json::from_slice(&identity).unwrap();
    let hex = identity["secret_key"].as_str().unwrap();
    let mut secret: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
    let keypair = Keypair::ed25519_from_bytes(&mut secret).unwrap();
    assert_eq!(keypair.public().to_peer_id().to_string(), peer);

    let addr = cluster.nodes[other].multiaddr();
    let dial =
        async |keypair: &Keypair, protocol| Stranger::dial(&addr, keypair.clone(), protocol, Manners::good()).await;
    let said = async |stranger: &Stranger, body: &[u8]| {
        String::from_utf8_lossy(&stranger.call(body.to_vec()).await.unwrap_or_default()).into_owned()
    };
    // A peer that was never a member is told what is wrong with its message, once it has been greeted.
    let removed = dial(&keypair, "/syncmesh/raft/1").await;
    let newcomer = dial(&Keypair::generate_ed25519(), "/syncmesh/raft/1").await;
    eventually("a newcomer's message is read", async || {
        assert_eq!(said(&removed, b"\x01\xa0").await, "");
        let answer = said(&newcomer, b"\x01\xa0").await;
        holds(answer.contains("Refused"), answer)
    })
    .await;
    for _ in 0..20 {
        assert_eq!(said(&removed, b"\x01\xa0").await, "", "it was greeted no later than the newcomer");
    }
    for protocol in ["/syncmesh/client/1", "/syncmesh/replication/1", "/syncmesh/coherence/1"] {
        assert_eq!(said(&dial(&keypair, protocol).await, b"\x01\xa0").await, "", "{protocol}");
    }
    let control = dial(&keypair, "/syncmesh/control/1").await;
    // {"Heartbeat": {"incarnation": 99, "view": 0}}: who was removed is told so.
    let heartbeat = b"\xa1\x69Heartbeat\xa2\x6bincarnation\x18\x63\x64view\x00";
    assert!(said(&control, heartbeat).await.contains("Barred"));
    // {"Drain": …} is for members.
    let drain = b"\xa1\x65Drain\xa1\x6bincarnation\x18\x63";
    assert!(!said(&control, drain).await.contains("Done"));

    let after = cluster.nodes[other].api.cluster().await;
    assert_eq!((&after["term"], standing(&after)), (&before["term"], standing(&before)));
    cluster.nodes[other].api.grant("printer").await;
}
