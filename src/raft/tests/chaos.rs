use std::collections::HashSet;

use super::*;
use crate::raft::ReadPolicy;

/// A small deterministic generator (Marsaglia, "Xorshift RNGs", 2003).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Writes numbered lines at whoever leads and keeps those that were acknowledged.
async fn write_lines(cables: Arc<Mutex<Cables>>, acknowledged: Arc<Mutex<Vec<String>>>, writer: usize) {
    for count in 0.. {
        let line = format!("{writer}.{count}");
        let nodes: Vec<Node> = cables.lock().unwrap().nodes.values().cloned().collect();
        for node in nodes {
            let leads = node.status().borrow().role == RaftRole::Leader;
            if leads && node.propose(vec![line.clone()]).await.is_ok() {
                acknowledged.lock().unwrap().push(line.clone());
                break;
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Kills, restarts and isolates nodes for a while. Returns how often a fault was caused.
async fn disturb(cluster: &mut Cluster, dice: &mut Dice) -> BTreeMap<&'static str, u32> {
    let mut faults = BTreeMap::new();
    for _ in 0..12 {
        sleep(Duration::from_millis(200 + dice.roll(1500))).await;
        let victim = node(u8::try_from(dice.roll(3)).unwrap() + 1);
        let up = cluster.cables.lock().unwrap().nodes.contains_key(&victim);
        let kind = match dice.roll(4) {
            _ if !up => {
                cluster.boot(victim).await;
                continue;
            }
            0 | 1 => {
                cluster.kill(victim).await;
                "kill"
            }
            2 => {
                cluster.isolate(victim);
                "isolate"
            }
            _ => {
                cluster.heal();
                "heal"
            }
        };
        *faults.entry(kind).or_default() += 1;
    }
    cluster.heal();
    for id in (1..=3).map(node) {
        if !cluster.cables.lock().unwrap().nodes.contains_key(&id) {
            cluster.boot(id).await;
        }
    }
    faults
}

/// Runs writers under faults. The first acknowledged line that is missing or doubled in the end, or
/// a difference between nodes.
async fn run(seed: u64) -> (BTreeMap<&'static str, u32>, Result<usize, String>) {
    let settings = RaftSettings { snapshot_entries: 40, kept_entries: 4, ..RaftSettings::default() };
    let mut cluster = Cluster::with(3, settings).await;
    let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
    let writers: Vec<_> = (0..4)
        .map(|writer| tokio::spawn(write_lines(Arc::clone(&cluster.cables), Arc::clone(&acknowledged), writer)))
        .collect();
    let faults = disturb(&mut cluster, &mut Dice(seed)).await;
    let leader = cluster.leader().await;
    for writer in writers {
        writer.abort();
        _ = writer.await;
    }
    eventually("a read", async || leader.read_barrier(ReadPolicy::Index).await.ok()).await;
    let last = lines(&leader);
    let found: HashSet<&String> = last.iter().collect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    if let Some(lost) = acknowledged.iter().find(|line| !found.contains(line)) {
        return (faults, Err(format!("{lost} was acknowledged and is lost")));
    }
    for node in cluster.nodes() {
        eventually("agreement", async || (lines(&node).len() >= last.len()).then_some(())).await;
        if lines(&node)[..last.len()] != last {
            return (faults, Err(format!("{} has another order", node.id())));
        }
    }
    for node in cluster.nodes() {
        node.shutdown().await;
    }
    (faults, Ok(acknowledged.len()))
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_kills_and_partitions() {
    let mut total = BTreeMap::<&str, u32>::new();
    for seed in 1..=8 {
        let (faults, outcome) = run(seed * 0x9e37_79b9).await;
        let acknowledged = outcome.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert!(acknowledged > 50, "seed {seed}: only {acknowledged} lines were acknowledged");
        for (kind, count) in faults {
            *total.entry(kind).or_default() += count;
        }
    }
    eprintln!("faults: {total:?}");
    assert!(total["kill"] > 10 && total["isolate"] > 5, "{total:?}");
}
