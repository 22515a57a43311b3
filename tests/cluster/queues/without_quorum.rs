//! The queues serve while the lock managers cannot decide anything.

use std::time::Instant;

use super::{
    apart, apis,
    ledger::Memories,
    load::{Consumers, Load},
    warnings,
};
use crate::harness::{eventually, holds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_and_consuming_go_on_while_the_lock_managers_have_no_quorum() {
    let mut cluster = apart(3, 3, &[]).await;
    let partition = cluster.queues(&["load"]).await[0];
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::FromTheStart);
    load.works_after(Instant::now()).await;

    let killed = Instant::now();
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    let left = cluster.nodes[2].api.clone();
    eventually("there is no quorum", async || {
        let shown = left.cluster().await;
        holds(warnings(&shown).contains(&"no-quorum".to_owned()), shown["warnings"].clone())
    })
    .await;
    assert_eq!(left.acquire("printer", 0, 1_000).await.slug(), "no-quorum");
    let without = Instant::now();
    load.works_after(without).await;
    eventually("messages are consumed", async || {
        let consumed = load.so_far().consumed.values().filter(|at| **at > without).count();
        holds(consumed > 100, format!("{consumed} were"))
    })
    .await;
    let (acknowledged, first) = {
        let ledger = load.so_far();
        (ledger.published_after(killed), ledger.first_after(killed).expect("the load went on"))
    };
    println!("no quorum: first acknowledged publish after {first:?}, {acknowledged} acknowledged meanwhile");
    assert_eq!(left.acquire("printer", 0, 1_000).await.slug(), "no-quorum", "there is still none");

    for nth in [0, 1] {
        cluster.nodes[nth].start().await;
    }
    cluster.all_ready().await;
    cluster.whole(2, 2).await;
    // Decisions are made again: one copy may be lost.
    let (primary, _) = cluster.copies(2, partition).await;
    cluster.nodes[primary].kill();
    load.works_after(Instant::now()).await;
    load.checked("no quorum of the lock managers, then kill -9 of the primary", Memories::Kept).await;
}
