//! What a node holds is bounded, many readers make one request, and large values do not hold up small ones.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{task::JoinSet, time::Instant};

use super::{Cluster, PATIENCE, get, key, put, value};
use crate::{
    error::{ErrorCode, Outcome},
    ids::CacheKey,
    node::caches::{Caches, cache::most_keys},
};

impl Cluster {
    /// So many keys whose home is this node.
    fn keys_at(&self, index: usize, count: usize) -> Vec<CacheKey> {
        let keys = (0..).map(|n| key(&format!("k-{n}")));
        keys.filter(|key| self.home_of(index, key) == Some(index)).take(count).collect()
    }
}

/// What is read, once it can be: this machine may be busy.
async fn read(cache: &Caches, key: &CacheKey) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match get(cache, key).await {
            Ok(read) => return read,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_bounded_and_what_is_too_much_is_refused_at_once() {
    const TOO_MANY: usize = 20;
    let mut cluster = Cluster::calm_with(2, |_, config| config.cache_capacity = 50).await;
    let keys = cluster.keys_at(1, most_keys(50) + TOO_MANY);
    // Its home answers nothing any more: whatever is asked of it stays in flight.
    cluster.kill(1).await;
    let mut puts = JoinSet::new();
    for k in keys {
        let cache = cluster.at(0);
        puts.spawn(async move { cache.put(k, value("a")).await });
    }
    for _ in 0..TOO_MANY {
        let refused = puts.join_next().await.unwrap().unwrap().unwrap_err();
        let told = (refused.code, refused.details.outcome);
        assert_eq!(told, (ErrorCode::Unavailable, Some(Outcome::NotApplied)), "{refused:?}");
        assert!(refused.detail.contains("too many operations"), "{refused:?}");
    }
    puts.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_has_no_more_entries_than_it_may_have_and_recalls_what_goes() {
    // The home keeps twice as many entries as it may have lines, and sixteen whose copies are being recalled.
    const MOST: usize = 2 * 20 + 16;
    let cluster =
        Cluster::calm_with(3, |index, config| config.cache_capacity = if index == 0 { 20 } else { 2_000 }).await;
    let keys = cluster.keys_at(0, 150);
    for (n, k) in keys.iter().enumerate() {
        put(&cluster.at(1), k, &n.to_string()).await;
        assert_eq!(read(&cluster.at(2), k).await, Some(n.to_string()));
    }
    let known = async || {
        let mut known = 0;
        for k in &keys {
            known += usize::from(cluster.at(0).state(k.clone()).await.unwrap().version.is_some());
        }
        known
    };
    let known_now = known().await;
    assert!(known_now <= MOST, "{known_now} entries");
    // Who has a line that its home does not know would read what is older than this.
    for (n, k) in keys.iter().enumerate() {
        let newer = format!("newer {n}");
        put(&cluster.at(0), k, &newer).await;
        for index in 0..3 {
            let found = read(&cluster.at(index), k).await;
            assert!(found.is_none() || found.as_ref() == Some(&newer), "{k} at {index}: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_all_the_time_is_not_put_out_by_what_is_read_once() {
    let cluster = Cluster::calm_with(1, |_, config| config.cache_capacity = 50).await;
    let cache = cluster.at(0);
    let hot: Vec<CacheKey> = (0..10).map(|n| key(&format!("hot-{n}"))).collect();
    for k in &hot {
        put(&cache, k, "hot").await;
    }
    // Of a hit its home hears nothing: by what it hears, these are the oldest.
    for n in 0..400 {
        put(&cache, &key(&format!("cold-{n}")), "cold").await;
        for k in &hot {
            assert_eq!(read(&cache, k).await.as_deref(), Some("hot"), "{k} after {n} others");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_readers_of_a_line_that_is_not_here_make_one_request() {
    let cluster = Cluster::calm(2).await;
    let k = cluster.key_at(0, "k");
    put(&cluster.at(0), &k, "a").await;
    let requests = async || {
        let stats = cluster.at(1).stats_here().await.unwrap();
        stats.messages.get("get-s").copied().unwrap_or_default()
    };
    let before = requests().await;
    let mut readers = JoinSet::new();
    for _ in 0..100 {
        let (cache, k) = (cluster.at(1), k.clone());
        readers.spawn(async move { get(&cache, &k).await });
    }
    for read in readers.join_all().await {
        assert_eq!(read.unwrap().as_deref(), Some("a"));
    }
    assert_eq!(requests().await - before, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_on_their_way_do_not_hold_up_small_ones() {
    const LARGE: usize = 6;
    const BYTES: usize = 512 << 10;
    let cluster = Cluster::calm(2).await;
    let keys = cluster.keys_at(0, LARGE + 500);
    let (large, small) = keys.split_at(LARGE);
    for k in large {
        put(&cluster.at(0), k, &"x".repeat(BYTES)).await;
    }
    for k in small {
        put(&cluster.at(0), k, "small").await;
    }
    let arrived = Arc::new(AtomicUsize::new(0));
    let mut reading = JoinSet::new();
    for k in large {
        let (k, cache, arrived) = (k.clone(), cluster.at(1), Arc::clone(&arrived));
        reading.spawn(async move {
            assert_eq!(read(&cache, &k).await.unwrap().len(), BYTES);
            arrived.fetch_add(1, Ordering::SeqCst);
        });
    }
    let mut before_the_last = 0;
    for k in small {
        assert_eq!(read(&cluster.at(1), k).await.as_deref(), Some("small"));
        if arrived.load(Ordering::SeqCst) == LARGE {
            break;
        }
        before_the_last += 1;
    }
    assert!(before_the_last > 0, "a small value, asked for after {LARGE} large ones, came after all of them");
    reading.join_all().await;
}
