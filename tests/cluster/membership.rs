//! Members that come, go in an orderly way, are sent away and let back.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    harness::{Cluster, eventually, holds, voters},
    history::{Load, first_after},
};

/// No hand-over takes this long, on however slow a machine.
const HAND_OVER: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_stop_hands_over_first() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let others = (0..3).filter(|nth| *nth != leader).map(|nth| cluster.nodes[nth].api.clone());
    let load = Load::start(others.collect(), 4);
    eventually("clients get locks", async || holds(load.so_far().await.len() > 20, "too few grants")).await;

    let peer = cluster.nodes[leader].peer_id();
    let told = Instant::now();
    cluster.nodes[leader].signal(Signal::TERM);
    let status = cluster.nodes[leader].ended().await;
    let drained = told.elapsed();
    assert_eq!(status.code(), Some(0), "a drained node ends well");
    cluster.shows((leader + 1) % 3, &peer, |member| member["status"] == "down").await;
    eventually("clients get locks", async || {
        let after = load.so_far().await.iter().filter(|grant| grant.asked > told + drained).count();
        holds(after > 20, "too few grants")
    })
    .await;
    let grants = load.checked().await;
    let mut answered: Vec<_> = grants.iter().map(|grant| grant.from).collect();
    answered.sort();
    let gap = answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    println!(
        "SIGTERM of the leader: drained in {drained:?}, longest time without a grant {gap:?}, first acquire after {:?}",
        first_after(&grants, told)
    );
    assert!(gap < HAND_OVER, "nothing was granted for {gap:?}");

    cluster.nodes[leader].start().await;
    cluster.nodes[leader].ready().await;
    cluster.has_voters(leader, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_three_to_five_voters_and_back() {
    let mut cluster = Cluster::of(3).await;
    let held = cluster.nodes[0].api.grant("printer").await;
    for name in ["n3", "n4"] {
        let mut node = cluster.newcomer(name);
        node.launch();
        cluster.nodes.push(node);
    }
    cluster.all_ready().await;
    cluster.has_voters(0, 5).await;

    // The leader goes too, if it is one of them: in compose the newest go, whoever leads.
    for nth in [4, 3] {
        let peer = cluster.nodes[nth].peer_id();
        assert_eq!(cluster.nodes[nth].stop().await, Some(0));
        cluster.shows(0, &peer, |member| member["status"] == "down" && member["raft"] != "voter").await;
    }
    cluster.has_voters(0, 3).await;
    assert_eq!(cluster.nodes[0].api.holder("printer").await, Some(held));
    // Three voters again: one of them may be lost.
    cluster.nodes[2].kill();
    cluster.nodes[0].api.grant("another").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_told_to_stop_at_once_end_well_and_come_back() {
    let mut cluster = Cluster::of(3).await;
    let held = cluster.nodes[0].api.grant("printer").await;
    let told = Instant::now();
    cluster.nodes.iter().for_each(|node| node.signal(Signal::TERM));
    for node in &mut cluster.nodes {
        let status = node.ended().await;
        assert_eq!(status.code(), Some(0), "{} after {:?}: {}", node.name, told.elapsed(), node.log());
    }
    println!("three nodes told to stop at once ended within {:?}", told.elapsed());
    cluster.nodes.iter_mut().for_each(|node| node.launch());
    cluster.all_ready().await;
    cluster.has_voters(0, 3).await;
    assert_eq!(cluster.nodes[1].api.holder("printer").await, Some(held));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_ends_stays_out_and_comes_back_when_admitted() {
    let mut cluster = Cluster::of(3).await;
    let victim = cluster.follower().await;
    let peer = cluster.nodes[victim].peer_id();
    let other = (victim + 1) % 3;
    let done = cluster.nodes[other].cli(&["members", "remove", &peer]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(cluster.nodes[victim].ended().await.code(), Some(1));
    let (log, cure) = (cluster.nodes[victim].log(), format!("syncmesh members admit {peer}"));
    assert!(log.contains("was removed from the cluster") && log.contains(&cure), "{log}");
    cluster.shows(other, &peer, |member| member["status"] == "left").await;
    cluster.has_voters(other, 2).await;

    cluster.nodes[victim].launch();
    assert_eq!(cluster.nodes[victim].ended().await.code(), Some(1), "started again, it is still barred");

    let done = cluster.nodes[other].cli(&["members", "admit", &peer]).await;
    assert_eq!(done.code, 0, "{done:?}");
    cluster.nodes[victim].start().await;
    cluster.nodes[victim].ready().await;
    assert_eq!(cluster.nodes[victim].peer_id(), peer);
    cluster.shows(other, &peer, |member| member["status"] == "up").await;
    cluster.has_voters(other, 3).await;

    let nobody =
        cluster.nodes[other].cli(&["members", "remove", "12D3KooWGjMhNpSnXSqkA1ZVfBsPr7Y5iPpqyMVRGwp3UhCPmtDV"]).await;
    assert_ne!(nobody.code, 0, "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_can_be_removed() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let peer = cluster.nodes[leader].peer_id();
    let other = (leader + 1) % 3;
    let done = cluster.nodes[other].cli(&["members", "remove", &peer]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(cluster.nodes[leader].ended().await.code(), Some(1), "{}", cluster.nodes[leader].log());
    cluster.has_voters(other, 2).await;
    cluster.nodes[other].api.grant("printer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_ends_well_and_joins_as_new() {
    let mut cluster = Cluster::of(3).await;
    let leaver = cluster.follower().await;
    let peer = cluster.nodes[leaver].peer_id();
    let other = (leaver + 1) % 3;
    let done = cluster.nodes[leaver].cli(&["members", "leave"]).await;
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    assert!(done.stdout.starts_with(&format!("{peer} has left the cluster")), "{done:?}");
    let seen = cluster.nodes[other].api.cluster().await;
    let left = |member: &serde_json::Value| member["peer_id"] == *peer && member["status"] == "left";
    assert!(seen["members"].as_array().unwrap().iter().any(left), "it was answered before it had left: {seen}");
    assert_eq!(cluster.nodes[leaver].ended().await.code(), Some(0), "{}", cluster.nodes[leaver].log());
    cluster.shows(other, &peer, |member| member["status"] == "left").await;

    if leaver == 0 {
        let address = cluster.nodes[other].multiaddr();
        cluster.nodes[0].set("BOOTSTRAP_PEERS", address);
    }
    cluster.nodes[leaver].start().await;
    cluster.nodes[leaver].ready().await;
    let new = cluster.nodes[leaver].peer_id();
    assert_ne!(new, peer);
    cluster.shows(other, &new, |member| matches!(member["raft"].as_str(), Some("voter" | "leader"))).await;
    let seen = cluster.nodes[other].api.cluster().await;
    assert_eq!(voters(&seen).len(), 3, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_to_leave_says_whether_it_has_or_why_not() {
    let mut cluster = Cluster::with(1, &[("NODE_ROLES", "lock-manager")]).await;
    for name in ["n1", "n2"] {
        let mut node = cluster.newcomer(name).with("NODE_ROLES", "queue-node");
        node.start().await;
        node.ready().await;
        cluster.nodes.push(node);
    }
    let done = cluster.nodes[1].cli(&["queue", "publish", "jobs", "x"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    eventually("both hold everything", async || {
        let partitions = cluster.nodes[0].api.cluster().await["queue"]["partitions"].clone();
        let whole = |partition: &serde_json::Value| partition["in_sync"].as_array().unwrap().len() == 2;
        holds(partitions.as_array().unwrap().iter().all(whole), partitions)
    })
    .await;
    // The answer waits where it is asked to: another node is asked about the one that leaves.
    let peer = cluster.nodes[1].peer_id();
    let path = format!("/v1/cluster/members/{peer}/leave");
    let answer = cluster.nodes[0].api.post(&path, serde_json::json!({"wait_ms": 25_000})).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(cluster.nodes[1].ended().await.code(), Some(0));

    // Nobody else has what the last one holds.
    let done = cluster.nodes[2].cli(&["--output", "json", "members", "leave"]).await;
    assert_eq!((done.code, done.stdout.as_str()), (5, ""), "{done:?}");
    let problem: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!(problem["type"], "unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("holds what no other node has"), "{problem}");
    assert_eq!(cluster.nodes[2].ended().await.code(), Some(1));

    let done = cluster.nodes[0].cli(&["--output", "json", "members", "leave", "--no-wait"]).await;
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "{}\n", ""), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leadership_goes_where_it_is_told_to_go() {
    let mut cluster = Cluster::of(3).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let to = (leader + 1) % 3;
        let peer = cluster.nodes[to].peer_id();
        let done = cluster.nodes[(leader + 2) % 3].cli(&["members", "transfer-leader", &peer]).await;
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(cluster.leader().await, to);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_is_repeated_under_its_key_moves_the_leadership_once() {
    let mut cluster = Cluster::of(3).await;
    let held = cluster.nodes[0].api.grant("printer").await;
    let before = cluster.leader().await;
    let urls: Vec<_> = cluster.nodes.iter().map(|node| node.api.url.clone()).collect();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |nth: usize, path: &str| {
        let request = http.post(format!("{}{path}", urls[nth])).header("idempotency-key", "once");
        request.send().await.unwrap().status().as_u16()
    };
    let transfer = "/v1/cluster/members/any/transfer-leader";
    assert_eq!(post((before + 1) % 3, transfer).await, 204);
    let after = cluster.leader().await;
    assert_ne!(after, before);
    for nth in 0..3 {
        assert_eq!(post(nth, transfer).await, 204);
    }
    assert_eq!(cluster.leader().await, after);
    let renewal = format!("/v1/sessions/{}/keepalive", held.session);
    assert_eq!(post(0, &renewal).await, 400, "the key was used for something else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_place_in_raft_while_the_leader_changed_joins_again() {
    let mut cluster = Cluster::with(3, &[("MEMBER_DEAD_TIMEOUT", "4s")]).await;
    let mut learner = cluster.newcomer("n3").with("MEMBER_DEAD_TIMEOUT", "4s");
    learner.launch();
    cluster.nodes.push(learner);
    cluster.all_ready().await;
    let peer = cluster.nodes[3].peer_id();
    cluster.shows(0, &peer, |member| member["raft"] == "learner").await;
    cluster.nodes[3].kill();
    cluster.shows(0, &peer, |member| member["raft"].is_null()).await;

    let before = cluster.leader().await;
    let done = cluster.nodes[0].cli(&["members", "transfer-leader"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_ne!(cluster.leader().await, before);
    cluster.nodes[3].start().await;
    cluster.nodes[3].ready().await;
    cluster.shows(0, &peer, |member| member["status"] == "up" && member["raft"] == "learner").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_is_neither_removed_nor_can_it_hand_over() {
    let mut cluster = Cluster::of(1).await;
    let peer = cluster.nodes[0].peer_id();
    let done = cluster.nodes[0].cli(&["members", "remove", &peer]).await;
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("conflict") && done.stderr.contains("start another"), "{done:?}");
    let call = async |path: &str| {
        let path = format!("/v1/cluster/members/{path}");
        cluster.nodes[0].api.call(reqwest::Method::POST, &path, None).await.unwrap()
    };
    let answer = call("self/remove").await;
    assert_eq!((answer.status, answer.slug()), (409, "conflict"), "{answer:?}");
    let answer = call("any/transfer-leader").await;
    assert_eq!((answer.status, answer.slug()), (503, "unavailable"), "{answer:?}");
    assert_eq!(answer.body["outcome"], "not-applied");
    assert!(cluster.nodes[0].is_running());
    cluster.nodes[0].api.grant("printer").await;
}
