//! What a cluster is for.

use serde_json::json;

use crate::harness::{Cluster, eventually, holds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_found_a_cluster_and_grant_locks() {
    let cluster = Cluster::of(3).await;
    let [one, two, three] = [0, 1, 2].map(|nth| cluster.nodes[nth].api.clone());
    let first = one.grant("printer").await;
    for api in [&one, &two, &three] {
        assert_eq!(api.holder("printer").await, Some(first.clone()), "as {} sees it", api.url);
    }
    let refused = two.acquire("printer", 0, 30_000).await;
    assert_eq!((refused.status, refused.slug()), (409, "lock-timeout"));
    assert_eq!(refused.body["holders"], json!([first.session]));

    assert_eq!(three.release("printer", &first.session).await.status, 204);
    let second = two.grant("printer").await;
    assert!(second.token > first.token, "{second:?} after {first:?}");
    let elsewhere = three.grant("another").await;
    assert!(elsewhere.token > second.token, "{elsewhere:?} after {second:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_hands_the_lock_to_the_waiter_at_another_node() {
    let cluster = Cluster::of(3).await;
    let [one, two, three] = [0, 1, 2].map(|nth| cluster.nodes[nth].api.clone());
    let first = one.grant("printer").await;
    let waiting = tokio::spawn({
        let two = two.clone();
        async move { two.acquire("printer", 30_000, 30_000).await }
    });
    eventually("the waiter stands in line", async || {
        let shown = three.show("printer").await.ok();
        holds(shown["waiters"].as_array().unwrap().len() == 1, shown)
    })
    .await;
    three.release("printer", &first.session).await.ok();
    let answer = waiting.await.unwrap();
    assert!(answer.is_ok(), "{answer:?}");
    let second = crate::ask::Granted::from(answer.body);
    assert!(second.token > first.token);
    assert_eq!(one.holder("printer").await, Some(second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_hangs_up_leaves_the_line() {
    let cluster = Cluster::of(3).await;
    let [one, two, three] = [0, 1, 2].map(|nth| cluster.nodes[nth].api.clone());
    one.grant("printer").await;
    let waiting = tokio::spawn(async move { two.acquire("printer", 600_000, 30_000).await });
    let waiters = async || three.show("printer").await.ok()["waiters"].as_array().unwrap().len();
    eventually("the waiter stands in line", async || holds(waiters().await == 1, "nobody does")).await;
    waiting.abort();
    eventually("the line is empty", async || holds(waiters().await == 0, "somebody waits")).await;
}
