//! SIGSTOP of a node that shares a line, or owns it, while another one writes it; SIGCONT, and what the node says first.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{
    LEASE, agree,
    api::{Answer, Ask, Record, refusal, version_in},
    cluster_of,
    history::History,
    key_at,
    load::Load,
    read, settled, shares, stored, waited,
};
use crate::{
    ask::Api,
    harness::{Cluster, NodeProcess, eventually, holds},
};

/// Requests of each key that lie in the sockets of a node before it goes on.
const WAITING: usize = 16;
/// Clients that ask as fast as they can from the moment on at which it goes on, and for how long.
const IMPATIENT: usize = 4;
const HURRY: Duration = Duration::from_millis(1_500);
/// What a write may take beyond the leases that it waits for: a question that was lost is asked again after a quarter of a
/// lease at the latest, and tasks of a busy machine run late by as much.
const MARGIN: Duration = Duration::from_secs(1);
/// Pauses of nodes under load: within a lease, about as long, and so long that the node is down meanwhile.
const PAUSES_MS: [u64; 4] = [400, 1_900, 2_100, 4_000];

/// Reads that were sent to a node, byte for byte, before it went on.
struct Sent {
    who: String,
    key: String,
    stream: TcpStream,
    asked: Instant,
}

impl Sent {
    async fn to(node: &NodeProcess, key: &str) -> Self {
        let mut stream = TcpStream::connect((node.ip(), 8080)).await.unwrap();
        let request = format!("GET /v1/cache/{key} HTTP/1.1\r\nhost: {}:8080\r\nconnection: close\r\n\r\n", node.ip());
        let asked = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        Self { who: format!("{}, while it was stopped", node.name), key: key.to_owned(), stream, asked }
    }

    async fn answer(mut self) -> Record {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).await.unwrap();
        let answered = Instant::now();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
        let mut lines = head.lines();
        let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<_, _> = lines.filter_map(|line| line.split_once(": ")).collect();
        let answer = if status == 200 {
            let version = version_in(headers["etag"]);
            Answer::Read { value: body.to_owned(), version, hit: headers["x-cache"] == "hit" }
        } else {
            refusal(status, &serde_json::from_str(body).unwrap())
        };
        Record { who: self.who, key: self.key, ask: Ask::Read, answer, asked: self.asked, answered }
    }
}

/// How often what was answered.
fn told(records: &[Record]) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for record in records {
        let what = match &record.answer {
            Answer::Read { value, .. } => format!("'{value}'"),
            Answer::Miss => "a miss".to_owned(),
            Answer::Refused { slug } => slug.clone(),
            other => panic!("a read was answered {other:?}"),
        };
        *told.entry(what).or_default() += 1;
    }
    told
}

/// Asks for keys as fast as it goes, from now on.
async fn impatient(node: &NodeProcess, keys: &[&str]) -> Vec<Record> {
    let mut clients = JoinSet::new();
    for _ in 0..IMPATIENT {
        let (api, who) = (node.api.clone(), format!("{}, as it woke", node.name));
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        clients.spawn(async move {
            let (began, mut records) = (Instant::now(), Vec::new());
            while began.elapsed() < HURRY {
                for key in &keys {
                    records.push(api.operate(&who, key, Ask::Read).await);
                }
            }
            records
        });
    }
    clients.join_all().await.concat()
}

/// What a key's home and the caches say of it is as documented, also while a node does not answer.
fn check_shown(shown: &Value, key: &str, home: &NodeProcess, silent: &[&str]) {
    assert_eq!(shown["unanswered"], json!(silent), "{shown}");
    assert_eq!((&shown["key"], &shown["home"]), (&json!(key), &json!(home.peer_id())), "{shown}");
    let state = shown["directory"]["state"].as_str().unwrap();
    assert!(["I", "S", "E/M", "O"].contains(&state), "{shown}");
    for line in shown["lines"].as_array().unwrap() {
        assert!(line["peer"].is_string() && line["state"].is_string() && line["lease_ms"].is_u64(), "{shown}");
    }
}

fn peers_of(lines: &Value) -> Vec<&str> {
    lines.as_array().unwrap().iter().map(|line| line["peer"].as_str().unwrap()).collect()
}

/// A node that shares `shared` and owns `owned` and `alone`, neither of them written back, is stopped, and the first two are
/// written elsewhere; then it goes on.
async fn a_sharer_and_owner_sleeps(cluster: &mut Cluster, protocol: &str) {
    let leader = cluster.leader().await;
    let nodes = &cluster.nodes;
    let [home, writer, sleeper] = [&nodes[leader], &nodes[(leader + 1) % 3], &nodes[(leader + 2) % 3]];
    let history = History::default();
    let (shared, owned) = (key_at(home, "shared").await, key_at(home, "owned").await);
    let (alone, other) = (key_at(home, "alone").await, key_at(home, "other").await);
    stored(&history, writer, &shared, "shared: old").await;
    stored(&history, writer, &other, "other: old").await;
    for node in nodes {
        for (key, old) in [(&shared, "shared: old"), (&other, "other: old")] {
            let told = read(&history, node, key).await.answer;
            assert!(matches!(&told, Answer::Read { value, .. } if value == old), "{key} at {}: {told:?}", node.name);
        }
    }
    for (key, old) in [(&owned, "owned: old"), (&alone, "alone: old")] {
        stored(&history, home, key, &format!("{old}er")).await;
        stored(&history, sleeper, key, old).await;
    }
    let peer = sleeper.peer_id();
    let shown = writer.api.whereabouts(&owned).await;
    assert_eq!(shown["directory"]["owner"], peer.as_str(), "the node owns the line: {shown}");
    shares(&history, sleeper, &shared).await;
    let shown = writer.api.whereabouts(&shared).await;
    check_shown(&shown, &shared, home, &[]);
    assert!(peers_of(&shown["lines"]).contains(&peer.as_str()), "the node shares the line: {shown}");

    sleeper.signal(Signal::STOP);
    let stopped = Instant::now();
    let writes = async |key: &str, new: &str| {
        let record = writer.api.operate(&writer.name, key, Ask::Store { value: new.to_owned() }).await;
        assert!(matches!(record.answer, Answer::Stored { .. }), "{record:?}");
        history.add(record.clone());
        record.answered - record.asked
    };
    let reads = async |key: &str| {
        let record = read(&history, writer, key).await;
        (record.answer, record.answered - record.asked)
    };
    let looks = async || {
        let shown = writer.api.whereabouts(&shared).await;
        check_shown(&shown, &shared, home, &[&peer]);
        assert!(!peers_of(&shown["lines"]).contains(&peer.as_str()), "a node that is stopped answers nobody: {shown}");
    };
    let invalidates = async || home.api.invalidate_key(&other).await;
    let (of_shared, of_owned, of_alone, (), of_other) = tokio::join!(
        writes(&shared, "shared: new"),
        writes(&owned, "owned: new"),
        reads(&alone),
        looks(),
        invalidates()
    );
    println!(
        "{protocol}, SIGSTOP of a sharer and owner: a write of what it shares was acknowledged after {of_shared:?}, of what it \
         owns after {of_owned:?}; a read of what only it has was answered {of_alone:?}; an invalidation after {:?}",
        of_other.took()
    );
    // The home grants nothing to a node that is stopped, so the leases that it waits for were granted before.
    let most = waited(LEASE) + MARGIN;
    for took in [of_shared, of_owned, of_other.took()] {
        assert!(took <= most, "{took:?} is more than the lease and what may come on top of it, {most:?}");
    }
    assert_eq!(of_other.clone().ok(), json!({"invalidated": 1, "unanswered": []}), "its home did answer");
    assert!(!matches!(&of_alone.0, Answer::Read { value, .. } if value != "alone: old"), "{of_alone:?}");

    let keys = [&*shared, &*owned, &*alone, &*other];
    let mut waiting = Vec::new();
    for key in keys {
        for _ in 0..WAITING {
            waiting.push(Sent::to(sleeper, key).await);
        }
    }
    sleeper.signal(Signal::CONT);
    println!("{protocol}: it was stopped for {:?}", stopped.elapsed());
    let mut answers = JoinSet::new();
    waiting.into_iter().for_each(|sent| drop(answers.spawn(sent.answer())));
    let hurried = impatient(sleeper, &keys).await;
    let answers = answers.join_all().await;
    println!("{protocol}: what lay in its sockets was answered {:?}", told(&answers));
    println!("{protocol}: what was asked as it woke was answered {:?}", told(&hurried));
    answers.iter().chain(&hurried).for_each(|record| history.add(record.clone()));
    for record in answers.iter().chain(&hurried).filter(|record| record.key == other) {
        assert!(!matches!(record.answer, Answer::Read { .. }), "invalidated, and not written since: {record:?}");
    }
    sleeper.ready().await;
    agree(&history, nodes, &keys.map(str::to_owned)).await;
    history.check(&format!("{protocol}, SIGSTOP of a sharer and owner"));
}

/// One node after another is stopped for a while under load, the leader of the lock managers too.
async fn naps(cluster: &Cluster, protocol: &str) {
    let nodes = &cluster.nodes;
    // Who slept may have been taken for dead, and its slots are on their way back.
    settled(nodes).await;
    let mut keys = Vec::new();
    for home in nodes {
        keys.push(key_at(home, "load").await);
    }
    let load = Load::start(nodes, &keys);
    let all: Vec<&NodeProcess> = nodes.iter().collect();
    for (nth, pause) in PAUSES_MS.into_iter().enumerate() {
        load.works_after(Instant::now(), &all).await;
        let sleeper = &nodes[nth % nodes.len()];
        sleeper.signal(Signal::STOP);
        // The fault itself, for as long as it is to last.
        tokio::time::sleep(Duration::from_millis(pause)).await;
        sleeper.signal(Signal::CONT);
    }
    load.works_after(Instant::now(), &all).await;
    let history = load.checked(&format!("{protocol}, nodes stopped for up to {PAUSES_MS:?} ms under load")).await;
    agree(&history, nodes, &keys).await;
}

async fn sleepers(protocol: &str) {
    let mut cluster = cluster_of(3, protocol, &[]).await;
    a_sharer_and_owner_sleeps(&mut cluster, protocol).await;
    naps(&cluster, protocol).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sleeps_is_waited_for_no_longer_than_its_lease_and_never_wakes_with_an_old_value_under_mesi() {
    sleepers("MESI").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sleeps_is_waited_for_no_longer_than_its_lease_and_never_wakes_with_an_old_value_under_mosi() {
    sleepers("MOSI").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sleeps_is_waited_for_no_longer_than_its_lease_and_never_wakes_with_an_old_value_under_moesi() {
    sleepers("MOESI").await;
}

/// What an invalidation of all says, as soon as it names nobody.
async fn all_answer(api: &Api) -> u64 {
    eventually("an invalidation is answered by all homes", async || {
        let told = api.invalidate(json!({"all": true})).await.ok();
        let unanswered = told["unanswered"].as_array().unwrap().clone();
        holds(unanswered.is_empty(), format!("{unanswered:?}"))?;
        Ok::<_, String>(told["invalidated"].as_u64().unwrap())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_names_the_homes_that_did_not_answer_until_others_have_their_place() {
    let mut cluster = cluster_of(3, "MESI", &[]).await;
    let leader = cluster.leader().await;
    let nodes = &cluster.nodes;
    let [writer, other, sleeper] = [&nodes[leader], &nodes[(leader + 1) % 3], &nodes[(leader + 2) % 3]];
    let (history, mut keys) = (History::default(), Vec::new());
    for home in nodes {
        let key = key_at(home, "all").await;
        stored(&history, writer, &key, &format!("of {}", home.name)).await;
        assert!(matches!(read(&history, other, &key).await.answer, Answer::Read { .. }));
        keys.push(key);
    }
    sleeper.signal(Signal::STOP);
    let told = writer.api.invalidate(json!({"all": true})).await;
    println!("SIGSTOP of a home: an invalidation of all was answered after {:?}: {}", told.took(), told.body);
    let told = told.ok();
    assert_eq!(told, json!({"invalidated": 2, "unanswered": [sleeper.peer_id()]}));
    for key in [&keys[leader], &keys[(leader + 1) % 3]] {
        for node in [writer, other] {
            assert_eq!(read(&history, node, key).await.answer, Answer::Miss, "{key} at {}", node.name);
        }
    }
    // Others are homes by now, or will be in a moment: what the one that is silent had is gone.
    let began = Instant::now();
    all_answer(&writer.api).await;
    println!("SIGSTOP of a home: one that nobody was missing in came {:?} later", began.elapsed());
    for key in &keys {
        assert_eq!(read(&history, other, key).await.answer, Answer::Miss);
    }
    sleeper.signal(Signal::CONT);
    for record in impatient(sleeper, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await {
        assert!(matches!(record.answer, Answer::Miss | Answer::Refused { .. }), "all were invalidated: {record:?}");
    }
    history.check("an invalidation while a home is stopped");
}
