//! All nodes are told to stop at once, as when a whole project is stopped.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{
    apart, apis,
    ledger::Memories,
    load::{Consumers, Load},
};

/// Less than the grace (`SHUTDOWN_GRACE`, 25 s), which a node that waits in vain uses up.
const SOON: Duration = Duration::from_secs(18);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_stopped_together_with_the_lock_managers_does_not_wait_for_others_to_take_its_queues() {
    let mut cluster = apart(3, 2, &[]).await;
    cluster.queues(&["load"]).await;
    let load = Load::start(apis(&cluster.nodes), &["load"], Consumers::AtTheEnd);
    load.works_after(Instant::now()).await;

    let told = Instant::now();
    cluster.nodes.iter().for_each(|node| node.signal(Signal::TERM));
    for node in &mut cluster.nodes {
        let status = node.ended().await;
        assert_eq!(status.code(), Some(0), "{} did not drain", node.name);
    }
    let took = told.elapsed();
    println!("all stopped at once: ended after {took:.1?}");
    assert!(took < SOON, "{took:?}");

    cluster.nodes.iter_mut().for_each(|node| node.launch());
    cluster.all_ready().await;
    cluster.whole(0, 2).await;
    load.works_after(Instant::now()).await;
    load.checked("all stopped at once", Memories::Lost).await;
}
