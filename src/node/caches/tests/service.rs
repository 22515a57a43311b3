//! What the cache does where nothing goes wrong.

use std::{collections::BTreeSet, time::Duration};

use tokio::task::JoinSet;

use super::{Cluster, PATIENCE, eventually, get, key, put, value};
use crate::{
    config::{CacheProtocol, CacheWritePolicy},
    error::ErrorCode,
    ids::Role,
    machine::cache::LineState,
    node::caches::{Only, Put, Which},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_stores_all_others_read_and_a_hit_needs_no_message() {
    let cluster = Cluster::calm(3).await;
    let home = 0;
    let k = cluster.key_at(home, "k");
    let version = put(&cluster.at(1), &k, "a").await;
    for index in 0..3 {
        let ready = cluster.node(index).readiness().await;
        let check = ready.checks.iter().find(|check| check.name == "cache").expect("it is a cache node");
        assert!(check.ok && check.detail.starts_with("256 of 256 slots of the cache have a home, "), "{check:?}");
        let read = cluster.at(index).get(k.clone()).await.unwrap().unwrap();
        assert_eq!((read.version, &read.body[..]), (version, &b"a"[..]));
    }
    let again = cluster.at(2).get(k.clone()).await.unwrap().unwrap();
    assert!(again.hit && again.state == LineState::S, "{again:?}");
    let newer = put(&cluster.at(2), &k, "b").await;
    assert!(newer > version);
    for index in 0..3 {
        assert_eq!(get(&cluster.at(index), &k).await.unwrap().as_deref(), Some("b"), "no read is older");
    }
    let state = cluster.at(1).state(k.clone()).await.unwrap();
    assert_eq!(state.home, Some(cluster.node(home).id()));
    assert_eq!(state.lines.len(), 3, "{state:?}");
    let stats = cluster.at(0).stats().await.unwrap();
    assert_eq!((stats.nodes.len(), stats.unanswered.len()), (3, 0));
    assert!(stats.nodes.iter().map(|node| node.invalidations.sent).sum::<u64>() >= 2, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_serves_by_itself_and_every_read_is_a_hit() {
    let cluster = Cluster::calm(1).await;
    let cache = cluster.at(0);
    let k = key("k");
    assert_eq!(cache.get(k.clone()).await.unwrap(), None);
    let version = put(&cache, &k, "1").await;
    let read = cache.get(k.clone()).await.unwrap().unwrap();
    assert!(read.hit && read.version == version && read.state == LineState::M);
    assert_eq!(cache.increment(k.clone(), 41).await.unwrap().value, 42);
    cache.delete(k.clone()).await.unwrap();
    assert_eq!(cache.get(k.clone()).await.unwrap(), None);
    assert_eq!(cache.increment(k.clone(), -1).await.unwrap().value, -1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_counters_and_times_to_live_hold_on_every_node() {
    let cluster = Cluster::calm(3).await;
    let k = key("k");
    let only = |only| Put { only, ..value("a") };
    let version = cluster.at(0).put(k.clone(), only(Only::IfAbsent)).await.unwrap();
    let refused = cluster.at(1).put(k.clone(), only(Only::IfAbsent)).await.unwrap_err();
    assert_eq!((refused.code, refused.details.version), (ErrorCode::VersionMismatch, Some(version.to_string())));
    let newer = cluster.at(2).put(k.clone(), only(Only::If(version))).await.unwrap();
    let refused = cluster.at(0).put(k.clone(), only(Only::If(version))).await.unwrap_err();
    assert_eq!(refused.details.version, Some(newer.to_string()));
    let not_a_number = cluster.at(1).increment(k.clone(), 1).await.unwrap_err();
    assert_eq!(not_a_number.code, ErrorCode::BadRequest);
    let absent = cluster.at(1).put(key("nothing"), only(Only::If(version))).await.unwrap_err();
    assert_eq!((absent.code, absent.details.version), (ErrorCode::VersionMismatch, None));

    let counter = key("counter");
    let mut adding = tokio::task::JoinSet::new();
    for index in 0..3 {
        let (cache, counter) = (cluster.at(index), counter.clone());
        adding.spawn(async move {
            for _ in 0..20 {
                cache.increment(counter.clone(), 1).await.unwrap();
            }
        });
    }
    adding.join_all().await;
    assert_eq!(get(&cluster.at(0), &counter).await.unwrap().as_deref(), Some("60"));

    let short = Put { ttl_ms: Some(3_000), ..value("soon gone") };
    cluster.at(0).put(key("short"), short).await.unwrap();
    assert!(get(&cluster.at(1), &key("short")).await.unwrap().is_some());
    for index in 0..3 {
        let gone = async || get(&cluster.at(index), &key("short")).await.unwrap().is_none();
        eventually("the value expires", gone).await;
    }
    let too_large = Put { body: vec![0; (1 << 20) + 1].into(), ..value("") };
    let refused = cluster.at(0).put(k, too_large).await.unwrap_err();
    assert_eq!((refused.code, refused.details.limit), (ErrorCode::PayloadTooLarge, Some(1 << 20)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_and_policy_reads_what_was_written_last() {
    for (protocol, policy) in [
        (CacheProtocol::Mosi, CacheWritePolicy::Back),
        (CacheProtocol::Moesi, CacheWritePolicy::Back),
        (CacheProtocol::Moesi, CacheWritePolicy::Through),
    ] {
        let cluster = Cluster::calm_with(3, move |_, config| {
            (config.cache_protocol, config.cache_write_policy) = (protocol, policy);
        })
        .await;
        for round in 0..12 {
            let k = key(&format!("k-{}", round % 4));
            let text = round.to_string();
            put(&cluster.at(round % 3), &k, &text).await;
            for index in 0..3 {
                let read = get(&cluster.at((round + index) % 3), &k).await.unwrap();
                assert_eq!(read.as_ref(), Some(&text), "{protocol:?} {policy:?}, round {round}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_lines_are_kept_than_there_may_be_and_none_is_lost_by_that() {
    let cluster = Cluster::calm_with(2, |_, config| config.cache_capacity = 50).await;
    for n in 0..80 {
        put(&cluster.at(0), &key(&n.to_string()), &n.to_string()).await;
    }
    for n in 0..80 {
        let read = get(&cluster.at(1), &key(&n.to_string())).await.unwrap();
        assert_eq!(read, Some(n.to_string()), "it is at its home, or still here");
    }
    for node in cluster.at(0).stats().await.unwrap().nodes {
        assert!(node.entries <= 50 && node.evictions >= 30, "{node:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_keys_that_are_absent_cost_nobody_a_value() {
    let cluster = Cluster::calm_with(2, |_, config| config.cache_capacity = 50).await;
    let (there, absent) = (|n: usize| key(&format!("there-{n}")), |n: usize| key(&format!("absent-{n}")));
    for n in 0..80 {
        put(&cluster.at(0), &there(n), &n.to_string()).await;
    }
    for n in 0..1_000 {
        assert_eq!(get(&cluster.at(1), &absent(n)).await.unwrap(), None);
    }
    for n in 0..80 {
        assert_eq!(get(&cluster.at(0), &there(n)).await.unwrap(), Some(n.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_invalidates_is_gone_everywhere() {
    let cluster = Cluster::calm(3).await;
    for n in 0..40 {
        let k = key(&format!("{}-{n}", if n % 2 == 0 { "even" } else { "odd" }));
        put(&cluster.at(n % 3), &k, "x").await;
        get(&cluster.at((n + 1) % 3), &k).await.unwrap();
    }
    let gone = cluster.at(0).invalidate(Which::Prefix("even-".into())).await.unwrap();
    assert_eq!((gone.invalidated, gone.unanswered.len()), (20, 0));
    let one = cluster.at(1).invalidate(Which::Key(key("odd-1"))).await.unwrap();
    assert_eq!(one.invalidated, 1);
    for index in 0..3 {
        assert_eq!(get(&cluster.at(index), &key("even-0")).await.unwrap(), None);
        assert_eq!(get(&cluster.at(index), &key("odd-1")).await.unwrap(), None);
        assert_eq!(get(&cluster.at(index), &key("odd-3")).await.unwrap().as_deref(), Some("x"));
    }
    let all = cluster.at(2).invalidate(Which::All).await.unwrap();
    assert_eq!(all.invalidated, 19);
    assert_eq!(get(&cluster.at(0), &key("odd-3")).await.unwrap(), None);
    assert_eq!(cluster.at(0).invalidate(Which::Key(key("nothing"))).await.unwrap().invalidated, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_cache_has_another_one_serve_it() {
    let cluster = Cluster::calm_with(3, |index, config| {
        if index == 2 {
            config.node_roles = [Role::LockManager].into();
        }
    })
    .await;
    let outside = cluster.at(2);
    assert!(outside.stats_here().await.is_none());
    let version = put(&outside, &key("k"), "a").await;
    let read = outside.get(key("k")).await.unwrap().unwrap();
    assert_eq!((read.version, read.hit), (version, false));
    assert_eq!(get(&cluster.at(0), &key("k")).await.unwrap().as_deref(), Some("a"));
    let refused = outside.put(key("k"), Put { only: Only::IfAbsent, ..value("b") }).await.unwrap_err();
    assert_eq!((refused.code, refused.details.version), (ErrorCode::VersionMismatch, Some(version.to_string())));
    assert_eq!(outside.increment(key("n"), 2).await.unwrap().value, 2);
    outside.delete(key("k")).await.unwrap();
    assert_eq!(get(&outside, &key("k")).await.unwrap(), None);
    let nodes: BTreeSet<_> = outside.stats().await.unwrap().nodes.into_iter().map(|node| node.peer).collect();
    assert_eq!(nodes, [cluster.node(0).id(), cluster.node(1).id()].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_protocol_or_policy_is_refused_and_told_the_cure() {
    let mut cluster = Cluster::calm(1).await;
    for (wrong, cure) in [(0, "CACHE_PROTOCOL=MESI"), (1, "CACHE_WRITE_POLICY=back")] {
        cluster.change = Box::new(move |index, config| match (index, wrong) {
            (0, _) => {}
            (_, 0) => config.cache_protocol = CacheProtocol::Moesi,
            _ => config.cache_write_policy = CacheWritePolicy::Through,
        });
        let index = cluster.add().await;
        let end = tokio::time::timeout(PATIENCE, cluster.node(index).ended()).await.unwrap();
        let crate::node::End::Barred(why) = end else { panic!("{end:?}") };
        assert!(why.contains(cure), "{why}");
        cluster.node(index).stop(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_all_nodes_write_without_a_pause_is_invalidated() {
    let cluster = Cluster::calm(3).await;
    let k = cluster.key_at(0, "k");
    let mut writers = JoinSet::new();
    for index in [0, 0, 1, 1, 2, 2] {
        let (cache, k) = (cluster.at(index), k.clone());
        writers.spawn(async move {
            loop {
                put(&cache, &k, "a").await;
            }
        });
    }
    for _ in 0..5 {
        put(&cluster.at(1), &k, "b").await;
        let gone = cluster.at(2).invalidate(Which::Key(k.clone())).await.unwrap();
        assert_eq!((gone.invalidated, gone.unanswered), (1, vec![]));
    }
    assert!(writers.try_join_next().is_none(), "they go on writing");
    writers.shutdown().await;
}
