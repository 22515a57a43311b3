//! What dies, hangs and comes back while clients work.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    ask::{Api, Granted, LONG_TTL_MS},
    harness::{Cluster, NodeProcess, eventually, holds},
    history::{Belief, CONTENDED, Load, first_after},
};

const CLIENTS: usize = 6;
/// Grants by which a load shows that it works.
const ENOUGH: usize = 60;
/// No fail-over takes this long, on however slow a machine.
const FAIL_OVER: Duration = Duration::from_secs(10);

fn apis(nodes: &[NodeProcess]) -> Vec<Api> {
    nodes.iter().map(|node| node.api.clone()).collect()
}

/// Waits until the load has got so many grants that were asked for after a moment.
async fn works_after(load: &Load, moment: Instant) {
    eventually("clients get locks", async || {
        let after: Vec<Belief> = load.so_far().await.into_iter().filter(|grant| grant.asked > moment).collect();
        let contended = after.iter().filter(|grant| grant.lock == CONTENDED).count();
        holds(after.len() >= ENOUGH && contended > 0, format!("{} grants, {contended} contended", after.len()))
    })
    .await;
}

async fn killed_under_load_and_back(mut cluster: Cluster, victim: usize, who: &str) {
    let load = Load::start(apis(&cluster.nodes), CLIENTS);
    works_after(&load, Instant::now()).await;
    let killed = Instant::now();
    cluster.nodes[victim].kill();
    works_after(&load, killed).await;
    let others = (victim + 1) % 3;
    cluster.shows(others, &cluster.nodes[victim].peer_id(), |member| member["status"] == "down").await;

    let peer = cluster.nodes[victim].peer_id();
    let restarted = Instant::now();
    cluster.nodes[victim].start().await;
    cluster.nodes[victim].ready().await;
    assert_eq!(cluster.nodes[victim].peer_id(), peer);
    cluster.shows(others, &peer, |member| member["status"] == "up").await;
    works_after(&load, restarted).await;

    let grants = load.checked().await;
    let gap = first_after(&grants, killed).expect("the load went on");
    let own: Vec<_> = grants.iter().filter(|grant| grant.lock != CONTENDED).cloned().collect();
    let contended: Vec<_> = grants.iter().filter(|grant| grant.lock == CONTENDED).cloned().collect();
    println!(
        "kill -9 of {who}: first acquire after {gap:?} (own lock {:?}, contended lock {:?}); {} grants checked",
        first_after(&own, killed).unwrap_or_default(),
        first_after(&contended, killed).unwrap_or_default(),
        grants.len()
    );
    assert!(gap < FAIL_OVER, "the first acquire after kill -9 of {who} took {gap:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_survive_kill_9_of_the_leader_under_load() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    killed_under_load_and_back(cluster, leader, "the leader").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_survive_kill_9_of_a_follower_under_load() {
    let mut cluster = Cluster::of(3).await;
    let follower = cluster.follower().await;
    killed_under_load_and_back(cluster, follower, "a follower").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_for_longer_than_a_lease_serves_nothing_stale() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let [old, other] = [leader, (leader + 1) % 3].map(|nth| cluster.nodes[nth].api.clone());
    let first: Granted = old.acquire("printer", 0, 3_000).await.ok().into();
    old.keep_alive(&first.session).await.ok();

    cluster.nodes[leader].signal(Signal::STOP);
    let stopped = Instant::now();
    let second: Granted = other.acquire("printer", 30_000, 60_000).await.ok().into();
    println!("the lock of a leader that stands still goes to the next after {:?}", stopped.elapsed());
    assert!(second.token > first.token);

    // Asked while it stands still: these are the first things that it sees when it goes on.
    let (keep, shown) = (old.clone(), old.clone());
    let session = first.session.clone();
    let keep_alive = tokio::spawn(async move { keep.keep_alive(&session).await });
    let show = tokio::spawn(async move { shown.holder("printer").await });
    let session = first.session.clone();
    let stale = old.clone();
    let release = tokio::spawn(async move { stale.release("printer", &session).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.nodes[leader].signal(Signal::CONT);

    assert_eq!(show.await.unwrap(), Some(second.clone()), "as the resumed leader shows it");
    let kept = keep_alive.await.unwrap();
    assert_eq!((kept.status, kept.slug()), (410, "session-expired"), "{kept:?}");
    let released = release.await.unwrap();
    assert_eq!(released.slug(), "session-expired", "{released:?}");
    assert_eq!(old.holder("printer").await, Some(second.clone()));
    assert_eq!(old.acquire("printer", 0, 1_000).await.slug(), "lock-timeout");
    old.release("printer", &second.session).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_killed_at_once_and_started_again_have_lost_nothing() {
    let mut cluster = Cluster::of(3).await;
    let mut held = Vec::new();
    for nth in 0..30 {
        held.push(cluster.nodes[nth % 3].api.grant(&format!("lock-{nth}")).await);
    }
    let last = held.last().unwrap().token;
    cluster.kill_all();
    cluster.nodes.iter_mut().for_each(NodeProcess::launch);
    cluster.all_ready().await;

    let api = cluster.nodes[0].api.clone();
    for (nth, granted) in held.iter().enumerate() {
        assert_eq!(api.holder(&format!("lock-{nth}")).await.as_ref(), Some(granted));
    }
    let listed = api.get("/v1/sessions").await.ok();
    let sessions = listed["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), held.len());
    let is_whole = |session: &Value| session["expires_in_ms"].as_u64() > Some(LONG_TTL_MS - 60_000);
    assert!(sessions.iter().all(is_whole), "{listed}");
    assert_eq!(api.acquire("lock-0", 0, 1_000).await.slug(), "lock-timeout");
    assert!(api.grant("one-more").await.token > last);
    let body = api.release("lock-0", &held[0].session).await;
    assert_eq!(body.status, 204, "{body:?}");
    assert!(cluster.nodes[1].api.grant("lock-0").await.token > last);
    assert_eq!(api.get("/v1/locks?limit=1000").await.ok()["locks"].as_array().map(Vec::len), Some(31));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_at_another_address_is_found_again() {
    let mut cluster = Cluster::of(3).await;
    cluster.nodes[0].api.grant("paper").await;
    // The founder: the others name its old address, and it names nobody.
    cluster.nodes[0].kill();
    let free = cluster.site.node("elsewhere").ip();
    cluster.nodes[0].set("LISTEN_ADDRS", format!("/ip4/{free}/tcp/0"));
    cluster.nodes[0].start().await;
    cluster.nodes[0].ready().await;
    let peer = cluster.nodes[0].peer_id();
    cluster
        .shows(1, &peer, |member| {
            member["status"] == "up" && member["addrs"][0].to_string().contains(&free.to_string())
        })
        .await;
    cluster.nodes[1].kill();
    cluster.nodes[0].api.grant("printer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_a_repeated_request_survives_the_leader() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let acquire = async |api: &Api| {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.post(format!("{}/v1/locks/printer/acquire", api.url)).header("idempotency-key", "once");
        let answer = request.json(&json!({"ttl_ms": 60_000})).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str::<serde_json::Value>(&answer.text().await.unwrap()).unwrap())
    };
    let (status, first) = acquire(&cluster.nodes[leader].api).await;
    assert_eq!(status, 200, "{first}");
    cluster.nodes[leader].kill();
    let other = (leader + 1) % 3;
    cluster.leader().await;
    let (status, again) = acquire(&cluster.nodes[other].api).await;
    assert_eq!(status, 200, "{again}");
    for field in ["session", "fencing_token", "lock", "mode"] {
        assert_eq!(again[field], first[field], "{field}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_in_time_though_the_leader_dies_meanwhile() {
    const WAIT: Duration = Duration::from_secs(12);
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let api = cluster.nodes[(leader + 1) % 3].api.clone();
    api.grant("printer").await;
    let wait_ms = u64::try_from(WAIT.as_millis()).unwrap();
    let waits = api.clone();
    let waiting = tokio::spawn(async move { waits.acquire("printer", wait_ms, 60_000).await });
    // The later the leader dies, the plainer it is whether the next one begins the wait anew.
    tokio::time::sleep(WAIT * 2 / 3).await;
    assert_eq!(api.show("printer").await.ok()["waiters"].as_array().map(Vec::len), Some(1));
    cluster.nodes[leader].kill();
    let answer = waiting.await.unwrap();
    assert_eq!(answer.slug(), "lock-timeout", "{answer:?}");
    let took = answer.took();
    println!("a wait of {WAIT:?} whose leader died ended after {took:?}");
    assert!(took >= WAIT && took < WAIT * 3 / 2, "a wait of {WAIT:?} ended after {took:?}");
}
