//! What the cache does when nodes die, come, go, and are cut off.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{Cluster, eventually, get, get_once, key, put, value};
use crate::{
    config::CacheCutOff,
    error::ErrorCode,
    ids::CacheKey,
    node::caches::{Caches, Which},
};

/// A writer of growing numbers, and readers that never see one that is smaller than what was acknowledged before they
/// asked.
struct Watch {
    stop: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<()>,
}

impl Watch {
    fn over(writer: Caches, readers: Vec<Caches>, k: CacheKey) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writes = Arc::clone(&acknowledged);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn({
            let (stop, acknowledged, k) = (Arc::clone(&stop), Arc::clone(&acknowledged), k.clone());
            async move {
                for n in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // One writer: what is not acknowledged may come later, and is never above what follows.
                    if writer.put(k.clone(), value(&n.to_string())).await.is_ok() {
                        acknowledged.store(n, Ordering::SeqCst);
                    }
                }
            }
        });
        for reader in readers {
            let (stop, acknowledged, k) = (Arc::clone(&stop), Arc::clone(&acknowledged), k.clone());
            tasks.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let least = acknowledged.load(Ordering::SeqCst);
                    if let Ok(Some(text)) = get_once(&reader, &k).await {
                        let read: u64 = text.parse().unwrap();
                        assert!(read >= least, "read {read} when {least} was acknowledged");
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        Self { stop, writes, tasks }
    }

    /// So many more writes were acknowledged.
    async fn goes_on(&self, more: u64) {
        let before = self.writes.load(Ordering::SeqCst);
        eventually("writes are acknowledged", async || self.writes.load(Ordering::SeqCst) >= before + more).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_home_dies_another_one_takes_over_and_no_read_is_older() {
    let mut cluster = Cluster::of(4).await;
    let k = cluster.key_at(3, "k");
    let watch = Watch::over(cluster.at(0), vec![cluster.at(1), cluster.at(2)], k.clone());
    watch.goes_on(20).await;
    cluster.kill(3).await;
    watch.goes_on(20).await;
    assert_ne!(cluster.home_of(0, &k), Some(3));
    watch.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_outlives_the_leases_of_a_dead_node_and_names_it() {
    let mut cluster = Cluster::of(3).await;
    let keys: Vec<CacheKey> = (0..300).map(|n| key(&format!("k-{n}"))).collect();
    for k in &keys {
        put(&cluster.at(0), k, "x").await;
        get(&cluster.at(2), k).await.unwrap();
    }
    let elsewhere = keys.iter().filter(|k| cluster.home_of(0, k) != Some(2)).count();
    let dead = cluster.node(2).id();
    cluster.kill(2).await;
    // More keys than are under way at a time: the first of them wait until the lease is over.
    let gone = cluster.at(0).invalidate(Which::All).await.unwrap();
    assert_eq!((gone.invalidated, gone.unanswered), (elsewhere as u64, vec![dead]));
    eventually("nothing is left anywhere", async || {
        cluster.at(1).invalidate(Which::All).await.is_ok_and(|gone| gone.unanswered.is_empty())
    })
    .await;
    for k in &keys {
        assert_eq!(get(&cluster.at(1), k).await.unwrap(), None, "{k}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_owner_dies_its_value_is_gone_and_never_older() {
    let mut cluster = Cluster::of(4).await;
    let k = cluster.key_at(0, "k");
    put(&cluster.at(1), &k, "old").await;
    put(&cluster.at(3), &k, "new").await;
    cluster.kill(3).await;
    let read = async || get_once(&cluster.at(1), &k).await;
    eventually("the key can be read", async || read().await.is_ok()).await;
    assert_ne!(read().await.unwrap().as_deref(), Some("old"));
    put(&cluster.at(1), &k, "newest").await;
    assert_eq!(get(&cluster.at(2), &k).await.unwrap().as_deref(), Some("newest"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_takes_its_share_and_nothing_is_lost_by_that() {
    let mut cluster = Cluster::calm(3).await;
    let keys: Vec<CacheKey> = (0..60).map(|n| key(&format!("k-{n}"))).collect();
    for (n, k) in keys.iter().enumerate() {
        put(&cluster.at(n % 3), k, &n.to_string()).await;
    }
    let watch = Watch::over(cluster.at(0), vec![cluster.at(1), cluster.at(2)], key("watched"));
    let newcomer = cluster.add().await;
    let id = cluster.node(newcomer).id();
    eventually("the newcomer has its share", async || cluster.share(0, id) > 20).await;
    watch.goes_on(10).await;
    watch.end().await;
    for (n, k) in keys.iter().enumerate() {
        let read = get(&cluster.at(newcomer), k).await.unwrap();
        assert_eq!(read, Some(n.to_string()), "{k} was handed over, or its owner told of it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_hands_all_of_it_over() {
    let mut cluster = Cluster::calm(4).await;
    let keys: Vec<CacheKey> = (0..60).map(|n| key(&format!("k-{n}"))).collect();
    for (n, k) in keys.iter().enumerate() {
        put(&cluster.at(n % 4), k, &n.to_string()).await;
    }
    let watch = Watch::over(cluster.at(0), vec![cluster.at(1), cluster.at(2)], cluster.key_at(3, "watched"));
    watch.goes_on(5).await;
    let id = cluster.node(3).id();
    cluster.stop(3).await;
    assert_eq!(cluster.share(0, id), 0);
    watch.goes_on(5).await;
    watch.end().await;
    for (n, k) in keys.iter().enumerate() {
        assert_eq!(get(&cluster.at(n % 3), k).await.unwrap(), Some(n.to_string()), "{k}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_started_again_is_home_to_nothing_until_an_epoch_says_so() {
    let mut cluster = Cluster::of(3).await;
    let k = cluster.key_at(2, "k");
    put(&cluster.at(2), &k, "old").await;
    assert_eq!(get(&cluster.at(0), &k).await.unwrap().as_deref(), Some("old"));
    cluster.kill(2).await;
    cluster.start(2).await;
    cluster.ready().await;
    put(&cluster.at(1), &k, "new").await;
    for index in 0..3 {
        let reads = async || get_once(&cluster.at(index), &k).await.is_ok_and(|read| read.as_deref() == Some("new"));
        eventually("the new value is read", reads).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_homes_stop_and_reads_get_what_was_chosen() {
    let mut cluster = Cluster::with(3, |index, config| {
        config.cache_cut_off = if index == 0 { CacheCutOff::Unavailable } else { CacheCutOff::Miss };
    })
    .await;
    let (own, others) = (cluster.key_at(0, "own"), cluster.key_at(2, "other"));
    put(&cluster.at(0), &own, "a").await;
    put(&cluster.at(0), &others, "b").await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    let at = cluster.at(0);
    eventually("reads are refused", async || {
        let refused =
            |read: Result<Option<String>, crate::error::Error>| read.is_err_and(|e| e.code == ErrorCode::Unavailable);
        refused(get_once(&at, &own).await) && refused(get_once(&at, &others).await)
    })
    .await;
    let refused = at.put(own.clone(), value("c")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    // With a quorum again, it goes on.
    cluster.start(1).await;
    cluster.start(2).await;
    cluster.ready().await;
    put(&cluster.at(1), &own, "d").await;
    eventually("the new value is read", async || {
        get_once(&cluster.at(0), &own).await.is_ok_and(|read| read.as_deref() == Some("d"))
    })
    .await;
}
