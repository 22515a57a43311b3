//! What becomes of the journals of partitions that have gone elsewhere, and of nodes that have left.

use std::{collections::BTreeSet, fs, time::Duration};

use super::{Cluster, eventually};
use crate::{
    config::Secret,
    ids::{NodeId, PartitionId},
    node::{Drained, queues::Publish},
    store::redis_server::RedisServer,
};

/// How long a node that leaves has.
const GRACE: Duration = Duration::from_secs(40);

/// So many that each node keeps some, whatever its id.
const PARTITIONS: u32 = 32;

impl Cluster {
    /// A message in many queues, so that all partitions hold something.
    async fn fill(&self) {
        for n in 0..64 {
            self.queue(0, &format!("filled-{n}")).publish(Publish::new("x")).await.unwrap();
        }
    }

    /// The partitions that a node has to do with, as it knows it itself.
    fn kept_by(&self, index: usize) -> BTreeSet<PartitionId> {
        let (id, view) = (self.node(index).id(), self.node(index).running.gateway.route().view());
        view.partitions.iter().filter(|(_, placed)| placed.concerns(&id)).map(|(id, _)| *id).collect()
    }

    /// The partitions of which there is a journal in a node's `DATA_DIR`.
    fn folders_of(&self, index: usize) -> BTreeSet<PartitionId> {
        let names =
            fs::read_dir(self.dirs[index].path().join("queues")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| Some(PartitionId(name.to_str()?.strip_prefix("p-")?.parse().ok()?))).collect()
    }

    /// A node leaves for good.
    async fn leave(&mut self, index: usize) -> NodeId {
        let node = self.nodes[index].take().unwrap();
        node.leave(node.id(), 0, None, None).await.unwrap();
        assert_eq!(node.stop(GRACE).await, Drained::Whole);
        node.id()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_partitions_that_have_gone_elsewhere_are_removed() {
    let mut cluster = Cluster::with(3, |config| config.queue_partitions = PARTITIONS).await;
    cluster.fill().await;
    let newcomer = cluster.nodes.len();
    let before: Vec<_> = (0..newcomer).map(|index| cluster.folders_of(index)).collect();
    cluster.nodes.push(None);
    cluster.dirs.push(tempfile::TempDir::new().unwrap());
    cluster.start(newcomer).await;
    cluster.ready().await;
    eventually("the new node keeps something", async || !cluster.kept_by(newcomer).is_empty()).await;
    eventually("all is where it is to be", async || cluster.node(0).cluster().await.queue.moving == Some(0)).await;
    eventually("every node has the journals of what it keeps, and no others", async || {
        (0..=newcomer).all(|index| cluster.folders_of(index) == cluster.kept_by(index))
    })
    .await;
    let gone = |index: &usize| !before[*index].is_subset(&cluster.folders_of(*index));
    assert!((0..newcomer).any(|index| gone(&index)), "nothing has moved: {before:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_that_left_has_in_redis_is_removed_and_what_is_of_others_stays() {
    let Some(redis) = RedisServer::start() else { return };
    let url = redis.url();
    let mut cluster = Cluster::with(4, move |config| {
        config.redis_url = Some(Secret::new(url.clone()));
        config.queue_partitions = PARTITIONS;
        // Whoever is down is replaced soon: until then its partitions lack a copy.
        config.member_dead_timeout = Duration::from_secs(2);
    })
    .await;
    cluster.fill().await;
    let own = |id: NodeId| redis.keys(&format!("*:journal:{id}:*"));
    let cluster_id = cluster.node(0).info().await.cluster_id.unwrap();
    // Of another cluster, and of a node that is not listed: it may have been down for long, and come back.
    let foreign = "syncmesh:{00000000000000000000000000000007}:journal:somebody:0".to_owned();
    let unlisted = format!("syncmesh:{{{cluster_id}}}:journal:{}:0", NodeId::from_bytes([7; 32]));
    for key in [&foreign, &unlisted] {
        let _: String = redis.ask(&["XADD", key, "1-0", "e", "x"]);
    }
    let down = cluster.node(3).id();
    cluster.kill(3).await;
    let downs = own(down);
    assert!(downs.len() > 1, "{downs:?}");

    // Its own keeper removes what has gone elsewhere, but for the id.
    assert!(own(cluster.node(2).id()).len() > 1);
    let left = cluster.leave(2).await;
    eventually("nothing of the node that left is there", async || own(left).is_empty()).await;
    assert_eq!(own(down), downs, "it is only down, and may come back with it");
    let others = redis.keys("*");
    assert!(others.contains(&foreign) && others.contains(&unlisted), "{others:?}");
}
