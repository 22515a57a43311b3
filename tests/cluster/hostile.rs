//! Garbage from the network: it gets nowhere, and the cluster goes on.

use std::{
    net::Ipv4Addr,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    harness::{Cluster, PATIENCE, Site, eventually, holds},
    history::{CONTENDED, Load},
};

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
