//! Queue nodes that come, go, and come back with empty disks: partitions move, messages stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    Placed, apart, apis, cluster_of,
    ledger::Memories,
    load::{Consumers, Load},
    partitions,
};
use crate::{
    ask::Api,
    harness::{Cluster, eventually, holds},
};

const PARTITIONS: usize = 16;
/// A placement that has been whole for so long has settled: a move takes less from one step to the next.
const CALM: Duration = Duration::from_secs(2);

/// Waits until all partitions are where they are to be; who keeps which.
async fn settled(cluster: &Cluster) -> BTreeMap<u64, BTreeSet<String>> {
    let (mut known, mut since): (Vec<Placed>, _) = (Vec::new(), Instant::now());
    eventually("the partitions have settled", async || {
        let mut placed = partitions(&cluster.nodes[0].api.cluster().await);
        // Who of them serves may still change, for an even load.
        placed.iter_mut().for_each(|placed| placed.primary = None);
        if placed != known || !placed.iter().all(|placed| placed.is_whole(2)) {
            (known, since) = (placed, Instant::now());
        }
        holds(since.elapsed() > CALM && !known.is_empty(), format!("{known:?}"))
    })
    .await;
    known.into_iter().map(|placed| (placed.id, placed.replicas)).collect()
}

/// Names of the events that a node tells, as they come.
fn events(api: &Api) -> Arc<Mutex<Vec<String>>> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let (request, telling) = (api.request(reqwest::Method::GET, "/v1/events"), Arc::clone(&told));
    tokio::spawn(async move {
        // A stream lasts as long as the test.
        let mut response = request.timeout(Duration::from_secs(3_600)).send().await.unwrap();
        let mut text = String::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((line, rest)) = text.split_once('\n') {
                if let Some(name) = line.strip_prefix("event: ") {
                    telling.lock().unwrap().push(name.to_owned());
                }
                text = rest.to_owned();
            }
        }
    });
    told
}

fn count(events: &Mutex<Vec<String>>, name: &str) -> usize {
    events.lock().unwrap().iter().filter(|told| *told == name).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_node_that_comes_and_one_that_leaves_move_their_share_and_nothing_else() {
    let count_of_partitions = PARTITIONS.to_string();
    // A heartbeat comes every minute then: who has a part in a move hears of each step without it, also while it drains.
    let settings = [
        ("QUEUE_PARTITIONS", count_of_partitions.as_str()),
        ("FAILURE_TIMEOUT", "300s"),
        ("CACHE_LEASE", "300s"),
        ("SHUTDOWN_GRACE", "120s"),
    ];
    let mut cluster = apart(1, 3, &settings).await;
    let queues = ["a", "b", "c", "d", "e", "f"];
    cluster.queues(&queues).await;
    let before = settled(&cluster).await;
    let told = events(&cluster.nodes[0].api);
    let load = Load::start(apis(&cluster.nodes), &queues, Consumers::FromTheStart);
    load.works_after(Instant::now()).await;

    let mut newcomer = cluster.newcomer("q3").with("NODE_ROLES", "queue-node");
    settings.iter().for_each(|(name, value)| newcomer.set(name, value));
    newcomer.start().await;
    let came = newcomer.peer_id();
    cluster.nodes.push(newcomer);
    eventually("the newcomer keeps partitions", async || {
        let placed = partitions(&cluster.nodes[0].api.cluster().await);
        holds(placed.iter().any(|placed| placed.in_sync.contains(&came)), "it keeps none")
    })
    .await;
    let with_it = settled(&cluster).await;
    load.works_after(Instant::now()).await;
    let moved = with_it.values().filter(|replicas| replicas.contains(&came)).count();
    for (id, replicas) in &with_it {
        let news: Vec<_> = replicas.difference(&before[id]).collect();
        assert!(news.iter().all(|peer| **peer == came), "partition {id} went to {news:?}, who had been there");
    }
    let copies = 2 * PARTITIONS;
    // A quarter, give or take what a ring of so few partitions gives or takes.
    assert!(moved > 0 && moved <= copies / 2, "{moved} of {copies} copies moved to the newcomer");
    let changes = count(&told, "placement-changed");
    assert!(changes > 0, "the events told nothing of it");
    println!("a fourth queue node: {moved} of {copies} copies moved to it, told by {changes} events");

    let leaver = 1;
    let left = cluster.nodes[leaver].peer_id();
    let held = with_it.values().filter(|replicas| replicas.contains(&left)).count();
    let asked = Instant::now();
    let done = cluster.nodes[leaver].cli(&["members", "leave"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(cluster.nodes[leaver].ended().await.code(), Some(0), "{}", cluster.nodes[leaver].log());
    let took = asked.elapsed();
    let without_it = settled(&cluster).await;
    for (id, replicas) in &without_it {
        let stayed: BTreeSet<_> = with_it[id].iter().filter(|peer| **peer != left).cloned().collect();
        let expected = if stayed.len() == 2 { replicas == &stayed } else { replicas.is_superset(&stayed) };
        assert!(expected && !replicas.contains(&left), "partition {id} went from {:?} to {replicas:?}", with_it[id]);
    }
    assert!(count(&told, "member-left") > 0 && count(&told, "placement-changed") > changes, "{told:?}");
    println!("one of four queue nodes left: {held} of {copies} copies moved, its process ended after {took:?}");
    let status = cluster.nodes[0].cli(&["status"]).await;
    assert!(status.stdout.contains("16 of 16 partitions served, each with 2 copies in sync"), "{status:?}");
    load.works_after(Instant::now()).await;
    load.checked("a queue node came and another one left", Memories::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_was_wiped_is_filled_up_as_somebody_new() {
    let mut cluster = cluster_of(3, &[("MEMBER_DEAD_TIMEOUT", "1")]).await;
    let queues = ["a", "b", "c", "d"];
    let of = cluster.queues(&queues).await;
    let load = Load::start(apis(&cluster.nodes), &queues, Consumers::AtTheEnd);
    load.works_after(Instant::now()).await;
    let (wiped, _) = cluster.copies(0, of[0]).await;
    let (before, asked) = (cluster.nodes[wiped].peer_id(), (wiped + 1) % 3);
    let killed = Instant::now();
    cluster.nodes[wiped].kill();
    fs::remove_dir_all(cluster.nodes[wiped].data_dir()).unwrap();
    cluster.nodes[wiped].start().await;
    cluster.nodes[wiped].ready().await;
    assert_ne!(cluster.nodes[wiped].peer_id(), before);
    cluster.has_voters(asked, 3).await;
    cluster.whole(asked, 2).await;
    println!("a wiped node: all partitions have their copies after {:?}", killed.elapsed());
    load.works_after(Instant::now()).await;

    // It holds what it is shown to hold: another one is gone for good.
    cluster.nodes[asked].kill();
    load.works_after(Instant::now()).await;
    cluster.whole(wiped, 2).await;
    load.checked("a node wiped, filled up, and then another one lost", Memories::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_copies_two_may_be_lost_for_good() {
    let mut cluster = apart(1, 3, &[("QUEUE_REPLICAS", "3"), ("MEMBER_DEAD_TIMEOUT", "1")]).await;
    let partition = cluster.queues(&["load"]).await[0];
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::AtTheEnd);
    load.works_after(Instant::now()).await;

    // The primary is one of them. Nothing is written into one copy alone: QUEUE_MIN_IN_SYNC is 2 by default.
    let primary = cluster.node_of(&cluster.partition(0, partition).await.primary.expect("it is served"));
    let other = (1..=3).find(|nth| *nth != primary).unwrap();
    let lost = Instant::now();
    for nth in [primary, other] {
        cluster.nodes[nth].kill();
        fs::remove_dir_all(cluster.nodes[nth].data_dir()).unwrap();
    }
    let refused = load.is_refused_after(lost).await;
    println!("two of three copies lost: refused after {refused:?}");

    let back = Instant::now();
    cluster.nodes[primary].start().await;
    load.works_after(back).await;
    let resumed = load.so_far().first_after(back).expect("the load went on");
    println!(
        "two of three copies lost: a new node is filled up, first acknowledged publish {resumed:?} after its start"
    );
    load.checked("two of three copies lost for good", Memories::Kept).await;
}
