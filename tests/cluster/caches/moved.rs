//! Cache nodes that come, stop and leave under load: homes move, and no value is gone by that.

use std::time::{Duration, Instant};

use super::{
    ROLES, agree, api::Answer, cluster_of, history::History, home_of, key_at, load::Load, lost, read, settled, stored,
};
use rustix::process::Signal;

use crate::harness::{Cluster, NodeProcess, eventually, holds};

/// Values that are stored once, each by another node, and only looked at.
const AT_REST: usize = 48;

/// So often two nodes are stopped at once.
const ROUNDS: usize = 5;
/// So long that a busy machine does not cost a node its lease: a value may not be gone by that, then, either.
const PATIENT: [(&str, &str); 3] = [("CACHE_LEASE", "15s"), ("FAILURE_TIMEOUT", "15s"), ("SHUTDOWN_GRACE", "60s")];

struct Case {
    cluster: Cluster,
    load: Load,
    keys: Vec<String>,
    at_rest: Vec<String>,
    protocol: &'static str,
}

impl Case {
    /// So many nodes, with load at all of them.
    async fn of(count: usize, protocol: &'static str) -> Self {
        let cluster = cluster_of(count, protocol, &PATIENT).await;
        let (mut keys, history) = (Vec::new(), History::default());
        for home in &cluster.nodes {
            keys.push(key_at(home, "load").await);
        }
        let at_rest: Vec<String> = (0..AT_REST).map(|nth| format!("at-rest-{nth}")).collect();
        for (nth, key) in at_rest.iter().enumerate() {
            stored(&history, &cluster.nodes[nth % count], key, &format!("value {nth}")).await;
        }
        let load = Load::start(&cluster.nodes, &keys);
        history.records().iter().for_each(|record| load.history.add(record.clone()));
        Self { cluster, load, keys, at_rest, protocol }
    }

    fn running(&self) -> Vec<&NodeProcess> {
        self.cluster.nodes.iter().filter(|node| node.runs()).collect()
    }

    /// All goes on, all that is at rest is where it can be read, and nothing was lost.
    async fn goes_on(&self, what: &str) {
        settled(&self.cluster.nodes).await;
        self.load.works_after(Instant::now(), &self.running()).await;
        for (nth, key) in self.at_rest.iter().enumerate() {
            let running = self.running();
            let node = running[nth % running.len()];
            let mut record = read(&self.load.history, node, key).await;
            for _ in 0..20 {
                if matches!(record.answer, Answer::Refused { .. }) {
                    record = read(&self.load.history, node, key).await;
                }
            }
            let expected = format!("value {nth}");
            assert!(
                matches!(&record.answer, Answer::Read { value, .. } if *value == expected),
                "{}, {what}: {expected} is gone: {record:?}",
                self.protocol
            );
        }
        self.nothing_is_gone(what).await;
    }

    async fn nothing_is_gone(&self, what: &str) {
        let lost = lost(self.running()[0]).await;
        assert_eq!(lost, 0, "{}, {what}: values were lost", self.protocol);
        let gone = self.load.history.spurious();
        assert!(gone.is_empty(), "{}, {what}: {} reads missed what was stored: {gone:?}", self.protocol, gone.len());
    }

    fn slowest(&self, since: Instant) -> Duration {
        let records = self.load.history.records();
        let slow = records.iter().filter(|record| record.asked > since).map(|record| record.answered - record.asked);
        slow.max().unwrap_or_default()
    }
}

async fn come_and_go(protocol: &'static str) {
    let mut case = Case::of(3, protocol).await;
    case.goes_on("at first").await;

    let began = Instant::now();
    let mut newcomer = case.cluster.newcomer("n3").with("CACHE_PROTOCOL", protocol);
    [ROLES].iter().chain(&PATIENT).for_each(|(name, value)| newcomer.set(name, value));
    newcomer.start().await;
    newcomer.ready().await;
    case.load.join(&newcomer);
    case.cluster.nodes.push(newcomer);
    case.goes_on("a node came").await;
    let came = case.cluster.nodes[3].peer_id();
    let mut moved = 0;
    for key in &case.at_rest {
        moved += usize::from(home_of(&case.cluster.nodes[0], key).await.as_ref() == Some(&came));
    }
    assert!(moved > 0 && moved < AT_REST / 2, "{moved} of {AT_REST} keys moved to the newcomer");
    println!(
        "{protocol}, a fourth cache node: {moved} of {AT_REST} keys moved to it, {:?} from its start until all was read \
         again; slowest operation {:?}",
        began.elapsed(),
        case.slowest(began)
    );

    let stopper = case.cluster.follower().await;
    let asked = Instant::now();
    assert_eq!(case.cluster.nodes[stopper].stop().await, Some(0), "{}", case.cluster.nodes[stopper].log());
    let took = asked.elapsed();
    case.goes_on("a node was stopped").await;
    println!("{protocol}, SIGTERM: its process ended after {took:?}; slowest operation {:?}", case.slowest(asked));
    case.cluster.nodes[stopper].start().await;
    case.cluster.nodes[stopper].ready().await;
    case.goes_on("it was started again").await;

    let asked = Instant::now();
    let leaver = &mut case.cluster.nodes[3];
    let done = leaver.cli(&["members", "leave"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(leaver.ended().await.code(), Some(0), "{}", leaver.log());
    let took = asked.elapsed();
    eventually("it has left", async || {
        let cluster = case.cluster.nodes[0].api.cluster().await;
        let members = cluster["members"].as_array().unwrap().clone();
        holds(members.iter().any(|member| member["peer_id"] == came && member["status"] == "left"), cluster)
    })
    .await;
    case.goes_on("a node left").await;
    println!("{protocol}, leave: its process ended after {took:?}; slowest operation {:?}", case.slowest(asked));

    let Case { cluster, load, keys, at_rest, .. } = case;
    let history = load.checked(&format!("{protocol}, nodes that come, stop and leave")).await;
    agree(&history, &cluster.nodes, &[keys, at_rest].concat()).await;
    assert_eq!(history.spurious(), [], "no value may be gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand, on a machine with nothing else to do: without processor time a node loses its sessions, and values with them"]
async fn nodes_come_stop_and_leave_and_no_value_is_old_or_gone_under_mesi() {
    come_and_go("MESI").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand, on a machine with nothing else to do: without processor time a node loses its sessions, and values with them"]
async fn nodes_come_stop_and_leave_and_no_value_is_old_or_gone_under_moesi() {
    come_and_go("MOESI").await;
}

/// Homes hand over to each other while both of them stop, and lock managers, the leader perhaps, with them.
async fn two_stop_at_once(protocol: &'static str) {
    let mut case = Case::of(5, protocol).await;
    case.goes_on("at first").await;
    for round in 0..ROUNDS {
        let stopped = [round % 5, (round + 1) % 5];
        let asked = Instant::now();
        stopped.iter().for_each(|nth| case.cluster.nodes[*nth].signal(Signal::TERM));
        for nth in stopped {
            let node = &mut case.cluster.nodes[nth];
            assert_eq!(node.ended().await.code(), Some(0), "{}", node.log());
        }
        let took = asked.elapsed();
        case.goes_on(&format!("{stopped:?} stopped at once")).await;
        println!("{protocol}, {stopped:?} were stopped at once: {took:?}; slowest operation {:?}", case.slowest(asked));
        for nth in stopped {
            case.cluster.nodes[nth].start().await;
        }
        for nth in stopped {
            case.cluster.nodes[nth].ready().await;
        }
        case.goes_on("they were started again").await;
    }
    let Case { cluster, load, keys, at_rest, .. } = case;
    let history = load.checked(&format!("{protocol}, two that stop at once")).await;
    agree(&history, &cluster.nodes, &[keys, at_rest].concat()).await;
    assert_eq!(history.spurious(), [], "no value may be gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand, on a machine with nothing else to do: minutes long, and without processor time a node loses its sessions"]
async fn two_nodes_stop_at_once_and_no_value_is_old_or_gone() {
    two_stop_at_once("MESI").await;
}
