//! A cache node whose network fails, wholly or one way, with lines in its memory; and heals.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    LEASE, ROLES, agree,
    api::{Answer, Ask},
    home_of, key_at,
    load::Load,
    read, settled, shares, stored, value, waited,
};
use crate::{
    ask::Api,
    harness::{Cluster, NodeProcess, Site, eventually, holds},
    namespaces::{Direction, Lan},
};

/// What a write may take beyond the leases that it waits for: as in [`paused`](super::paused).
const MARGIN: Duration = Duration::from_secs(1);
/// From the end of its lease on, a node that is cut off is looked at for so long.
const LOOKED_AT: Duration = Duration::from_millis(1_500);
/// A read may look for a home until the node knows that it is cut off, and one that has begun before may take a little more.
const REFUSED_WITHIN: Duration = Duration::from_secs(4);
/// A write waits longer before it is given up.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(11);

/// What is lost of a node's network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Both,
    OneWay(Direction),
}

/// Nodes on hosts of their own. The processes end before the network goes.
struct Hosts {
    cluster: Cluster,
    lan: Lan,
}

impl Hosts {
    /// Three nodes, of which the last two say this when they are cut off.
    async fn of(name: &str, protocol: &str, cut_off: [&str; 2]) -> Option<Self> {
        let site = Site::new().await;
        let lan = Lan::of(name, 3)?;
        let founder = format!("/ip4/{}/tcp/4001", Lan::address(0));
        let mut nodes = Vec::new();
        for nth in 0..3 {
            let mut node = site.node(&format!("n{nth}"));
            node.set("LISTEN_ADDRS", format!("/ip4/{}/tcp/4001", Lan::address(nth)));
            node.set("API_ADDR", "0.0.0.0:8080");
            node.set(ROLES.0, ROLES.1);
            node.set("CACHE_PROTOCOL", protocol);
            match nth {
                0 => node.set("BOOTSTRAP_EXPECT", 3),
                _ => node.set("CACHE_CUT_OFF", cut_off[nth - 1]),
            }
            if nth > 0 {
                node.set("BOOTSTRAP_PEERS", &founder);
            }
            lan.launch(nth, &mut node);
            nodes.push(node);
        }
        for (nth, node) in nodes.iter_mut().enumerate() {
            node.listening().await;
            node.api = Api::new(&format!("http://{}:8080", lan.wire(nth)));
        }
        for node in &nodes {
            node.ready().await;
        }
        settled(&nodes).await;
        let mut hosts = Self { cluster: Cluster { nodes, site }, lan };
        // So that no election comes on top of what is measured.
        hosts.cluster.led_by(0).await;
        Some(hosts)
    }

    fn begin(&self, victim: usize, fault: Fault) {
        match fault {
            Fault::Both => self.lan.cut_off(victim),
            Fault::OneWay(direction) => self.lan.lose(victim, direction),
        }
    }

    fn end(&self, victim: usize, fault: Fault) {
        match fault {
            Fault::Both => self.lan.heal(victim),
            Fault::OneWay(direction) => self.lan.lose_no_more(victim, direction),
        }
    }
}

/// Whether a node that is cut off may say this to a reader.
fn is_refusal(answer: &Answer, cut_off: &str) -> bool {
    match answer {
        Answer::Miss => cut_off == "miss",
        Answer::Refused { slug } => cut_off == "unavailable" && slug == "unavailable",
        _ => false,
    }
}

/// What it says to those who read, write and look.
async fn serves_nothing(load: &Load, victim: &NodeProcess, keys: &[String], home: &NodeProcess, cut_off: &str) {
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < LOOKED_AT {
        for key in keys {
            let record = read(&load.history, victim, key).await;
            assert!(is_refusal(&record.answer, cut_off), "CACHE_CUT_OFF={cut_off}: {record:?}");
            slowest = slowest.max(record.answered - record.asked);
        }
    }
    let write = victim.api.operate(&victim.name, &keys[0], Ask::Store { value: format!("of {}", victim.name) }).await;
    assert!(matches!(write.answer, Answer::Unknown | Answer::Refused { .. }), "{write:?}");
    let took = write.answered - write.asked;
    println!("  reads were answered within {slowest:?}, a write {:?} after {took:?}", write.answer);
    assert!(slowest < REFUSED_WITHIN && took < GIVEN_UP_WITHIN);
    load.history.add(write);

    let shown = victim.api.whereabouts(&keys[0]).await;
    assert_eq!(shown["home"], home.peer_id(), "the home that it knows of: {shown}");
    assert!(shown["unanswered"].as_array().unwrap().contains(&json!(home.peer_id())), "it was asked in vain: {shown}");
    for line in shown["lines"].as_array().unwrap() {
        assert_eq!((&line["peer"], &line["lease_ms"]), (&json!(victim.peer_id()), &json!(0)), "{shown}");
    }
    let told = victim.api.invalidate_key(&keys[0]).await;
    println!("  an invalidation there: {} after {:?}", told.body, told.took());
    assert_eq!(told.ok(), json!({"invalidated": 0, "unanswered": [home.peer_id()]}));
}

/// A node with lines is cut off, is looked at, and is back.
async fn cut_off_and_healed(hosts: &mut Hosts, what: &str, victim: usize, fault: Fault, cut_off: &str) {
    let nodes = &hosts.cluster.nodes;
    let (home, other) = (&nodes[0], &nodes[3 - victim]);
    let mut keys = Vec::new();
    for node in nodes {
        keys.push(key_at(node, &format!("load-{what}")).await);
    }
    let watched = key_at(home, &format!("watched-{what}")).await;
    let load = Load::start(nodes, &keys);
    stored(&load.history, home, &watched, &format!("{watched}: old")).await;
    for node in nodes {
        assert_eq!(value(&load.history, node, &watched).await, Some(format!("{watched}: old")));
    }
    load.works_after(Instant::now(), &nodes.iter().collect::<Vec<_>>()).await;
    shares(&load.history, &nodes[victim], &watched).await;

    hosts.begin(victim, fault);
    let cut = Instant::now();
    let record = other.api.operate(&other.name, &watched, Ask::Store { value: format!("{watched}: new") }).await;
    assert!(matches!(record.answer, Answer::Stored { .. }), "{record:?}");
    let took = record.answered - record.asked;
    load.history.add(record);
    println!("{what}: a write of what the node shares was acknowledged after {took:?}");
    // A home extends no session whose cache has owed it an acknowledgement for half a lease; until then it may.
    let extended = if fault == Fault::OneWay(Direction::ToHost) { LEASE / 2 } else { Duration::ZERO };
    assert!(took <= extended + waited(LEASE) + MARGIN, "{took:?}");
    let at_once = read(&load.history, &nodes[victim], &watched).await;
    assert!(is_refusal(&at_once.answer, cut_off), "its lease was waited for: {at_once:?}");

    // What it has of any home, itself too, is over by now.
    tokio::time::sleep_until((cut + waited(LEASE)).into()).await;
    let mut looked_at = vec![watched.clone()];
    looked_at.extend(keys.iter().cloned());
    serves_nothing(&load, &nodes[victim], &looked_at, home, cut_off).await;
    load.works_after(cut, &[home, other]).await;
    let [of_it, of_another] =
        [victim, 0].map(|nth| load.history.first_write_after(&keys[nth], cut).expect("all are written"));
    println!(
        "  first acknowledged write of a key that it was home to after {of_it:?}, of another after {of_another:?}"
    );
    let peer = nodes[victim].peer_id();
    eventually("others are homes to what it was home to", async || {
        let home = home_of(home, &keys[victim]).await;
        holds(home.as_ref().is_some_and(|home| *home != peer), format!("{home:?}"))
    })
    .await;
    let shown = home.api.whereabouts(&watched).await;
    let lines = shown["lines"].as_array().unwrap();
    assert!(lines.iter().all(|line| line["peer"] != peer.as_str()), "it cannot be asked: {shown}");

    hosts.end(victim, fault);
    let healed = Instant::now();
    nodes[victim].ready().await;
    load.works_after(healed, &nodes.iter().collect::<Vec<_>>()).await;
    println!("  healed, it serves after {:?}", healed.elapsed());
    if fault == Fault::Both {
        nodes[victim].tells(&["event: partition-noticed", "event: partition-healed"]).await;
    }
    settled(nodes).await;
    let history = load.checked(what).await;
    keys.push(watched);
    agree(&history, nodes, &keys).await;
    history.check("  and when all is quiet");
    hosts.cluster.led_by(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_serves_nothing_after_its_lease_and_is_coherent_when_it_is_back() {
    let Some(mut hosts) = Hosts::of("c", "MESI", ["unavailable", "miss"]).await else { return };
    cut_off_and_healed(&mut hosts, "cut-off", 1, Fault::Both, "unavailable").await;
    cut_off_and_healed(&mut hosts, "cut-off-miss", 2, Fault::Both, "miss").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hears_nothing_or_is_not_heard_serves_nothing_after_its_lease() {
    let Some(mut hosts) = Hosts::of("w", "MOESI", ["miss", "unavailable"]).await else { return };
    if !hosts.lan.can_lose() {
        return;
    }
    let (deaf, mute) = (Fault::OneWay(Direction::ToHost), Fault::OneWay(Direction::FromHost));
    cut_off_and_healed(&mut hosts, "hears-nothing", 1, deaf, "miss").await;
    cut_off_and_healed(&mut hosts, "is-not-heard", 2, mute, "unavailable").await;
}
