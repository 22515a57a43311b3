//! The journal in a real Redis, which the tests start.

use std::time::Instant;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;
use crate::machine::replication::Position;
use crate::store::redis_server::RedisServer;
use crate::store::suite::{self, PARTITION, Site, holds, position, records, state};

/// A Redis, and the `DATA_DIR` of a node.
struct InRedis {
    redis: RedisServer,
    data_dir: TempDir,
}

const CLUSTER: ClusterId = ClusterId(5);
const NODE: NodeId = NodeId::from_bytes([1; 32]);

impl InRedis {
    fn new() -> Option<Self> {
        Self::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Option<Self> {
        let redis = RedisServer::start_with(settings)?;
        Some(Self { redis, data_dir: TempDir::new().unwrap() })
    }

    async fn redis_store(&self) -> RedisStore {
        RedisStore::open(&self.redis.url(), CLUSTER, NODE, self.data_dir.path()).await.unwrap()
    }

    fn keys(&self) -> Keys {
        Keys::new(CLUSTER, NODE)
    }
}

impl Site for InRedis {
    async fn store(&self) -> Box<dyn JournalStore> {
        Box::new(self.redis_store().await)
    }
}

suite::behaves!(InRedis::new(), flavor = "multi_thread", worker_threads = 2);

/// Waits until the health is as it should be, and tells how long that took.
async fn becomes(health: &mut watch::Receiver<JournalHealth>, wanted: fn(&JournalHealth) -> bool) -> Duration {
    let since = Instant::now();
    let waited = timeout(Duration::from_secs(10), health.wait_for(wanted)).await.map(|found| found.is_ok());
    assert_eq!(waited, Ok(true), "{:?}", *health.borrow());
    since.elapsed()
}

fn is_away(health: &JournalHealth) -> bool {
    matches!(health, JournalHealth::Away(_))
}

fn is_well(health: &JournalHealth) -> bool {
    *health == JournalHealth::Well
}

fn is_shortened(health: &JournalHealth) -> bool {
    matches!(health, JournalHealth::Shortened(_))
}

#[tokio::test]
async fn a_redis_that_is_killed_is_away_until_it_is_back_and_nothing_is_lost_or_doubled() {
    let Some(mut site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    let mut health = store.health();
    let mut last = 0;
    for _ in 0..5 {
        // Some are under way when it is killed.
        let appends: Vec<_> = (1..=200).map(|nth| opened.journal.append(records(1, last + nth..=last + nth))).collect();
        last += 200;
        opened.journal.append(records(1, last + 1..=last + 1)).await.unwrap();
        let mut under_way = opened.journal.append(records(1, last + 2..=last + 2));
        last += 2;
        site.redis.kill();
        let noticed = becomes(&mut health, is_away).await;
        assert!(noticed < Duration::from_millis(500), "{noticed:?}");
        let more = opened.journal.append(records(1, last + 1..=last + 1));
        last += 1;
        let _ = futures::poll!(&mut under_way);
        site.redis.launch();
        becomes(&mut health, is_well).await;
        more.await.unwrap();
        under_way.await.unwrap();
        futures::future::join_all(appends).await.into_iter().for_each(Result::unwrap);
    }
    drop(opened);
    holds(&store, None, records(1, 1..=last)).await;
}

#[tokio::test]
async fn a_redis_that_stands_still_is_away_and_goes_on_where_it_was() {
    let Some(site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=1)).await.unwrap();
    let mut health = store.health();
    let mut last = 1;
    // Shorter and longer than the connections are kept.
    for still in [Duration::from_millis(600), Duration::from_secs(4)] {
        site.redis.pause();
        let mut append = opened.journal.append(records(1, last + 1..=last + 3));
        let noticed = becomes(&mut health, is_away).await;
        assert!(noticed < Duration::from_millis(550), "{noticed:?}");
        sleep(still).await;
        assert!(futures::poll!(&mut append).is_pending());
        site.redis.go_on();
        append.await.unwrap();
        last += 3;
        becomes(&mut health, is_well).await;
        opened.journal.append(records(1, last + 1..=last + 1)).await.unwrap();
        last += 1;
    }
    drop(opened);
    holds(&store, None, records(1, 1..=last)).await;
}

#[tokio::test]
async fn an_emptied_redis_is_noticed_at_once_and_written_anew_by_the_owner() {
    let Some(site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=20)).await.unwrap();
    opened.journal.checkpoint(position(1, 10), state("10").into()).await.unwrap();
    let mut other = store.open(PartitionId(9)).await.unwrap();
    other.journal.append(records(1, 1..=3)).await.unwrap();
    let (mut own, mut all) = (opened.journal.health(), store.health());
    let () = site.redis.ask(&["FLUSHALL"]);
    let noticed = becomes(&mut own, is_shortened).await;
    assert!(noticed < Duration::from_millis(500), "{noticed:?}");
    becomes(&mut all, is_shortened).await;
    let mut append = opened.journal.append(records(1, 21..=22));
    sleep(Duration::from_millis(500)).await;
    assert!(futures::poll!(&mut append).is_pending());

    opened.journal.rebuild(position(1, 10), state("10").into(), records(1, 11..=22)).await.unwrap();
    append.await.unwrap();
    becomes(&mut own, is_well).await;
    // Until the other one is there again, too, nobody is to think that this is the whole journal.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(site.redis.keys("*:id"), Vec::<String>::new());
    assert!(is_shortened(&all.borrow()));
    other.journal.rebuild(Position::default(), Bytes::new().into(), records(1, 1..=3)).await.unwrap();
    becomes(&mut all, is_well).await;
    let id = store.id();
    drop((opened, other));
    holds(&store, Some((position(1, 10), state("10"))), records(1, 11..=22)).await;
    let store = site.redis_store().await;
    assert_eq!(store.id(), id);
    holds(&store, Some((position(1, 10), state("10"))), records(1, 11..=22)).await;
}

#[tokio::test]
async fn a_stream_that_somebody_deletes_is_noticed_by_the_next_append() {
    let Some(site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=2)).await.unwrap();
    let _: i64 = site.redis.ask(&["DEL", &site.keys().stream(PARTITION)]);
    let mut append = opened.journal.append(records(1, 3..=3));
    becomes(&mut opened.journal.health(), is_shortened).await;
    assert!(futures::poll!(&mut append).is_pending());
    opened.journal.rebuild(Position::default(), Bytes::new().into(), records(1, 1..=3)).await.unwrap();
    append.await.unwrap();
}

#[tokio::test]
async fn a_redis_that_comes_back_without_its_tail_is_noticed_and_written_anew() {
    let Some(mut site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    for seq in 1..=20 {
        opened.journal.append(records(1, seq..=seq)).await.unwrap();
    }
    let mut health = store.health();
    site.redis.kill();
    site.redis.cut(site.redis.appended().metadata().unwrap().len() - 700);
    becomes(&mut health, is_away).await;
    let mut append = opened.journal.append(records(1, 21..=21));
    site.redis.launch();
    becomes(&mut health, is_shortened).await;
    assert!(futures::poll!(&mut append).is_pending());
    opened.journal.rebuild(position(1, 3), state("3").into(), records(1, 4..=21)).await.unwrap();
    append.await.unwrap();
    becomes(&mut health, is_well).await;
    opened.journal.append(records(1, 22..=22)).await.unwrap();
    drop(opened);
    holds(&store, Some((position(1, 3), state("3"))), records(1, 4..=22)).await;
}

#[tokio::test]
async fn a_tail_that_was_lost_while_the_node_was_down_shows_by_its_mark() {
    let Some(mut site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    for seq in 1..=10 {
        opened.journal.append(records(1, seq..=seq)).await.unwrap();
    }
    drop((opened, store));
    site.redis.kill();
    let length = site.redis.appended().metadata().unwrap().len();
    site.redis.cut(length - 900);
    site.redis.launch();
    let opened = site.redis_store().await.open(PARTITION).await.unwrap();
    assert!(matches!(opened.trust, Trust::Shortened(_)), "{:?}", opened.trust);
    let left = opened.records.len() as u64;
    assert!((1..10).contains(&left), "{left}");
    assert_eq!(opened.records, records(1, 1..=left));
}

#[tokio::test]
async fn an_older_backup_is_noticed_whether_the_node_runs_or_not() {
    let Some(mut site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=5)).await.unwrap();
    let mut health = store.health();
    site.redis.kill();
    let backup = site.redis.back_up();
    site.redis.launch();
    opened.journal.append(records(1, 6..=9)).await.unwrap();
    site.redis.kill();
    becomes(&mut health, is_away).await;
    site.redis.put_back(&backup);
    site.redis.launch();
    becomes(&mut health, is_shortened).await;
    drop((opened, store));
    let opened = site.redis_store().await.open(PARTITION).await.unwrap();
    assert!(matches!(opened.trust, Trust::Shortened(_)), "{:?}", opened.trust);
    assert_eq!(opened.records, records(1, 1..=5));
}

#[tokio::test]
async fn a_redis_that_was_emptied_while_the_node_was_down_is_another_journal() {
    let Some(site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let id = store.id();
    store.open(PARTITION).await.unwrap().journal.append(records(1, 1..=5)).await.unwrap();
    drop(store);
    let () = site.redis.ask(&["FLUSHALL"]);
    let store = site.redis_store().await;
    assert_ne!(store.id(), id);
    holds(&store, None, vec![]).await;
}

#[tokio::test]
async fn who_opens_a_journal_shuts_out_who_had_it_before() {
    let Some(site) = InRedis::new() else { return };
    let first = site.redis_store().await;
    let mut of_first = first.open(PARTITION).await.unwrap();
    of_first.journal.append(records(1, 1..=3)).await.unwrap();
    // A copy of the data directory on another machine.
    let elsewhere = TempDir::new().unwrap();
    let second = RedisStore::open(&site.redis.url(), CLUSTER, NODE, elsewhere.path()).await.unwrap();
    assert_eq!(second.id(), first.id());
    let mut of_second = second.open(PARTITION).await.unwrap();
    assert_eq!(of_second.records, records(1, 1..=3));
    assert!(matches!(of_second.trust, Trust::Unproven(_)), "{:?}", of_second.trust);
    let (late, append) = (of_first.journal.append(records(1, 4..=4)), of_second.journal.append(records(2, 4..=5)));
    append.await.unwrap();
    let late = late.await;
    assert!(matches!(late, Err(JournalError::Fenced { .. })), "{late:?}");
    assert_eq!(of_first.journal.append(records(1, 4..=4)).await, late);
    drop(of_second);
    let opened = second.open(PARTITION).await.unwrap();
    assert_eq!(opened.records, [records(1, 1..=3), records(2, 4..=5)].concat());
}

#[tokio::test]
async fn what_redis_is_set_to_is_told() {
    let Some(site) = InRedis::new() else { return };
    let info = site.redis_store().await.info();
    assert_eq!((info.kind.as_str(), info.durable), ("redis", true));
    let run_id: String = site.redis.ask(&["INFO", "server"]);
    assert!(run_id.contains(&format!("run_id:{}", info.shared_fate.unwrap())));

    for (setting, value) in [("appendfsync", "everysec"), ("appendonly", "no"), ("maxmemory-policy", "allkeys-lru")] {
        let Some(site) = InRedis::with(&[(setting, value)]) else { return };
        let store = site.redis_store().await;
        let info = store.info();
        assert!(!info.durable && info.detail.contains(&format!("{setting} is {value}")), "{info:?}");
        let opened = store.open(PARTITION).await.unwrap();
        assert!(matches!(opened.trust, Trust::Unproven(_)), "{:?}", opened.trust);
    }
}

#[tokio::test]
async fn what_redis_is_set_to_while_the_node_runs_is_told_too() {
    let Some(site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let told = async |durable| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while store.info().durable != durable {
            assert!(Instant::now() < deadline, "{:?}", store.info());
            sleep(Duration::from_millis(100)).await;
        }
    };
    let () = site.redis.ask(&["CONFIG", "SET", "appendonly", "no"]);
    told(false).await;
    assert!(store.info().detail.contains("appendonly is no"), "{:?}", store.info());
    let () = site.redis.ask(&["CONFIG", "SET", "appendonly", "yes"]);
    told(true).await;
}

#[tokio::test]
async fn where_redis_may_not_be_asked_it_counts_as_not_durable() {
    let Some(site) = InRedis::new() else { return };
    let () = site.redis.ask(&["ACL", "SETUSER", "queue", "on", ">pass-42", "~*", "+@all", "-config"]);
    let url = format!("redis://queue:pass-42@127.0.0.1:{}/0", site.redis.port());
    let store = RedisStore::open(&url, CLUSTER, NODE, site.data_dir.path()).await.unwrap();
    let info = store.info();
    assert!(!info.durable && info.detail.contains("appendfsync is unknown"), "{info:?}");
    store.open(PARTITION).await.unwrap().journal.append(records(1, 1..=3)).await.unwrap();
    assert!(!format!("{store:?} {info:?}").contains("pass-42"));
}

#[tokio::test]
async fn a_password_is_in_no_error() {
    let Some(mut site) = InRedis::with(&[("requirepass", "the-right-one")]) else { return };
    let open = async |url: String| RedisStore::open(&url, CLUSTER, NODE, site.data_dir.path()).await;
    let port = site.redis.port();
    for url in [format!("redis://:s3cret@127.0.0.1:{port}/0"), format!("http://:s3cret@127.0.0.1:{port}")] {
        let error = open(url).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
    let store = open(format!("redis://:the-right-one@127.0.0.1:{port}/0")).await.unwrap();
    let mut health = store.health();
    site.redis.kill();
    becomes(&mut health, is_away).await;
    let told = format!("{:?} {store:?} {:?}", *health.borrow(), store.info());
    assert!(told.contains(&port.to_string()) && !told.contains("the-right-one"), "{told}");
}

#[tokio::test]
async fn what_belongs_to_others_is_counted_and_left_alone() {
    let Some(site) = InRedis::new() else { return };
    let foreign = Keys::new(ClusterId(6), NODE).stream(PARTITION);
    let neighbour = Keys::new(CLUSTER, NodeId::from_bytes([2; 32])).stream(PARTITION);
    for key in [&foreign, &neighbour] {
        let _: String = site.redis.ask(&["XADD", key, "1-0", "e", "x"]);
    }
    let store = site.redis_store().await;
    assert!(store.info().detail.contains("1 keys of other clusters"), "{:?}", store.info());
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=3)).await.unwrap();
    opened.journal.checkpoint(position(1, 2), state("2").into()).await.unwrap();
    drop(opened);
    assert_eq!(store.partitions().await.unwrap(), [PARTITION]);
    store.remove(PARTITION).await.unwrap();
    let mut left = vec![foreign, neighbour, site.keys().id()];
    left.sort();
    assert_eq!(site.redis.keys("*"), left);
    // A node that has left for good, and not its namesake in another cluster.
    let neighbour = NodeId::from_bytes([2; 32]);
    assert_eq!(store.journals_of(neighbour).await, Ok(Some([PARTITION].into())));
    assert_eq!(store.journals_of(NodeId::from_bytes([3; 32])).await, Ok(None));
    assert_eq!(store.forget(neighbour).await, Ok(1));
    assert_eq!(store.journals_of(neighbour).await, Ok(None));
    assert_eq!(site.redis.keys("*").len(), 2);
}

#[tokio::test]
async fn a_redis_without_memory_makes_appends_wait_and_says_why() {
    let Some(site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    opened.journal.append(records(1, 1..=3)).await.unwrap();
    let () = site.redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut append = opened.journal.append(records(1, 4..=5));
    let mut health = opened.journal.health();
    becomes(&mut health, is_away).await;
    let told = format!("{:?}", *health.borrow());
    assert!(told.contains("maxmemory"), "{told}");
    assert!(futures::poll!(&mut append).is_pending());
    let () = site.redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    append.await.unwrap();
    becomes(&mut health, is_well).await;
    drop(opened);
    holds(&store, None, records(1, 1..=5)).await;
}

#[tokio::test]
async fn what_is_not_what_was_written_is_refused_and_named() {
    let Some(site) = InRedis::new() else { return };
    let store = site.redis_store().await;
    let stream = site.keys().stream(PARTITION);
    let mut opened = store.open(PARTITION).await.unwrap();
    for seq in 1..=4 {
        opened.journal.append(records(1, seq..=seq)).await.unwrap();
    }
    opened.journal.checkpoint(position(1, 1), state("1").into()).await.unwrap();
    drop(opened);
    let checkpoint = site.redis.keys("*:checkpoint:*").remove(0);
    let refused = async |of: &str| {
        let error = store.open(PARTITION).await.unwrap_err();
        let JournalError::Damaged { detail, .. } = &error else { panic!("{error:?}") };
        assert!(detail.contains(of), "{detail}");
    };
    let _: i64 = site.redis.ask(&["COPY", &checkpoint, "aside"]);
    let _: i64 = site.redis.ask(&["HSET", &checkpoint, "0", "the state 2"]);
    refused(&checkpoint).await;
    let _: i64 = site.redis.ask(&["DEL", &checkpoint]);
    refused(&checkpoint).await;
    let () = site.redis.ask(&["RENAME", "aside", &checkpoint]);
    holds(&store, Some((position(1, 1), state("1"))), records(1, 2..=4)).await;
    let _: i64 = site.redis.ask(&["XDEL", &stream, "1-3"]);
    refused(&stream).await;
}

#[tokio::test]
async fn a_state_that_a_crash_left_unfinished_is_removed_by_the_next_checkpoint() {
    let Some(site) = InRedis::new() else { return };
    let left = site.keys().checkpoint(PARTITION, 1, 1);
    let _: i64 = site.redis.ask(&["HSET", &left, "0", "half"]);
    let store = site.redis_store().await;
    let mut opened = store.open(PARTITION).await.unwrap();
    for round in 1..=5 {
        opened.journal.append(records(1, round..=round)).await.unwrap();
        opened.journal.checkpoint(position(1, round), state("x").into()).await.unwrap();
        assert_eq!(site.redis.keys("*:checkpoint:*").len(), 1, "round {round}");
    }
    assert_ne!(site.redis.keys("*:checkpoint:*"), [left]);
}
