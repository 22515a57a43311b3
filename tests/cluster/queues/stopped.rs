//! A primary that stands still for so long that another one takes its place, and then goes on.

use std::{collections::BTreeMap, time::Instant};

use rustix::process::Signal;
use tokio::task::JoinSet;

use super::{
    apis, cluster_of,
    ledger::Memories,
    load::{Consumers, Load},
};

/// Publishes that wait at the node that stands still: the first thing that it sees when it goes on.
const WAITING: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_primary_that_goes_on_acknowledges_nothing_by_itself() {
    let cluster = cluster_of(3, &[]).await;
    let partition = cluster.queues(&["load"]).await[0];
    let (primary, _) = cluster.copies(0, partition).await;
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::FromTheStart);
    load.works_after(Instant::now()).await;

    let stopped = Instant::now();
    cluster.nodes[primary].signal(Signal::STOP);
    cluster.fails_over(primary, partition).await;
    println!("SIGSTOP of the primary: another one is there after {:?}", stopped.elapsed());
    let mut waiting = JoinSet::new();
    for nth in 0..WAITING {
        let stale = cluster.nodes[primary].api.clone();
        waiting.spawn(async move {
            let id = format!("waiting-{nth}");
            let outcome = stale.publish("load", &id).await;
            (id, outcome)
        });
    }
    load.works_after(Instant::now()).await;
    let first = load.so_far().first_after(stopped).expect("the load went on");
    cluster.nodes[primary].signal(Signal::CONT);

    let mut answers = BTreeMap::<String, usize>::new();
    while let Some(answered) = waiting.join_next().await {
        let (id, outcome) = answered.unwrap();
        let told = outcome
            .as_ref()
            .map_or_else(|_| "no answer".to_owned(), |answer| format!("{} {}", answer.status, answer.slug()));
        *answers.entry(told).or_default() += 1;
        // What it acknowledges now must be where everything else is: delivered, in a place of its own.
        load.beside("load", &id, &outcome);
    }
    println!(
        "SIGSTOP of the primary: first acknowledged publish after {first:?}; the {WAITING} publishes that waited at it were \
         told when it went on: {answers:?}"
    );
    cluster.nodes[primary].ready().await;
    cluster.whole((primary + 1) % 3, 2).await;
    load.works_after(Instant::now()).await;
    load.checked("SIGSTOP of the primary", Memories::Kept).await;
}
