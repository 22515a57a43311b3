//! Roles on the mesh: says what this node does, and looks for lock managers while it can reach none.
//!
//! One task on every node. What it finds is a hint: the mesh connects to it, and the control task
//! greets it like anybody else.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::route::Route;
use crate::{
    ids::{ClusterId, Role},
    machine::membership::ClusterRecord,
    net::Mesh,
};

/// How often the task looks whether the leader can be reached.
const LOOK: Duration = Duration::from_secs(1);
/// For so long no leader can be reached before lock managers are looked for: an election takes less.
const LOST_FOR: Duration = Duration::from_secs(2);
/// How often they are looked for then.
const SEEK_EVERY: Duration = Duration::from_secs(5);

/// What the task is made of.
#[derive(Debug)]
pub(super) struct Rendezvous {
    pub(super) mesh: Arc<dyn Mesh>,
    pub(super) route: Route,
    pub(super) record: watch::Receiver<Option<ClusterRecord>>,
    pub(super) roles: BTreeSet<Role>,
    /// Cancelled when the node drains: it offers nothing any more.
    pub(super) draining: CancellationToken,
}

impl Rendezvous {
    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let (mut seek_at, mut withdrawn) = (None::<Instant>, false);
        let draining = self.draining.clone();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.record.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = draining.cancelled(), if !withdrawn => {
                    withdrawn = true;
                    self.mesh.offer(BTreeSet::new());
                }
                Ok(()) = self.record.changed(), if !withdrawn => self.offer(),
                now = look.tick() => {
                    let due = *seek_at.get_or_insert(now + LOST_FOR);
                    if self.reaches_the_leader() {
                        seek_at = None;
                    } else if now >= due {
                        self.seek();
                        seek_at = Some(now + SEEK_EVERY);
                    }
                }
            }
        }
    }

    fn cluster(&self) -> Option<ClusterId> {
        self.record.borrow().as_ref().map(|record| record.cluster_id)
    }

    fn offer(&mut self) {
        let Some(cluster) = self.cluster() else { return };
        self.mesh.offer(self.roles.iter().map(|role| topic(cluster, *role)).collect());
    }

    fn reaches_the_leader(&self) -> bool {
        self.route.leader().is_some_and(|leader| {
            leader.node == self.mesh.local() || self.mesh.status().borrow().peers.contains_key(&leader.node)
        })
    }

    fn seek(&self) {
        if let Some(cluster) = self.cluster() {
            debug!("no leader can be reached: looks for lock managers on the mesh");
            self.mesh.seek(topic(cluster, Role::LockManager));
        }
    }
}

/// Under which name the nodes of a cluster that have a role are found.
fn topic(cluster: ClusterId, role: Role) -> String {
    format!("/syncmesh/{cluster}/role/{role}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{Term, Tick},
        node::{
            recording::{Recording, node},
            wire::Leader,
        },
    };

    fn record() -> ClusterRecord {
        ClusterRecord {
            cluster_id: ClusterId(7),
            cluster_name: "default".into(),
            founders: Vec::new(),
            queue_partitions: 64,
            cache_protocol: "MESI".into(),
            cache: Default::default(),
            founded_at: Tick(0),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn roles_are_offered_and_lock_managers_sought_while_no_leader_can_be_reached() {
        let mesh = Arc::new(Recording::default());
        let (route, known) = (Route::new(), watch::Sender::new(None));
        let draining = CancellationToken::new();
        let task = Rendezvous {
            mesh: mesh.clone(),
            route: route.clone(),
            record: known.subscribe(),
            roles: BTreeSet::from([Role::QueueNode, Role::CacheNode]),
            draining: draining.clone(),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(task.run(stop.clone()));
        let sought = || mesh.sought.lock().unwrap().len();
        tokio::time::sleep(SEEK_EVERY * 3).await;
        assert_eq!((sought(), mesh.offered.lock().unwrap().len()), (0, 0), "of which cluster?");

        known.send_replace(Some(record()));
        tokio::time::sleep(SEEK_EVERY * 2).await;
        let name = format!("/syncmesh/{}/role", ClusterId(7));
        let roles = BTreeSet::from([format!("{name}/queue-node"), format!("{name}/cache-node")]);
        assert_eq!(*mesh.offered.lock().unwrap(), roles);
        assert_eq!(mesh.sought.lock().unwrap().last(), Some(&format!("{name}/lock-manager")));

        // A leader that cannot be reached is as good as none; one that can be is enough.
        route.learn(Leader { term: Term(1), node: node(2) });
        let before = sought();
        tokio::time::sleep(SEEK_EVERY * 2).await;
        assert!(sought() > before);
        mesh.connect(node(2));
        tokio::time::sleep(LOOK * 2).await;
        let before = sought();
        tokio::time::sleep(SEEK_EVERY * 3).await;
        assert_eq!(sought(), before);

        // Elections that end soon are none of its business.
        route.doubt(Leader { term: Term(1), node: node(2) });
        tokio::time::sleep(LOST_FOR / 2).await;
        route.learn(Leader { term: Term(2), node: node(1) });
        tokio::time::sleep(SEEK_EVERY * 3).await;
        assert_eq!(sought(), before);

        // Who drains is not to be found by what it does any more, whatever becomes known then.
        draining.cancel();
        tokio::time::sleep(LOOK).await;
        known.send_replace(Some(record()));
        tokio::time::sleep(LOOK).await;
        assert_eq!(*mesh.offered.lock().unwrap(), BTreeSet::new());
        stop.cancel();
        running.await.unwrap();
    }
}
