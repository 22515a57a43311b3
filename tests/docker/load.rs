//! Load from outside of the containers: locks, queues and the cache at once, all through the published port.

use std::time::Instant;

use crate::{caches, compose::Project, harness::holds, history, queues, serving::settles};

/// Clients that want locks: one in common, and one of its own each.
const LOCKERS: usize = 4;
/// Grants by which a load shows that it works.
const ENOUGH: usize = 20;

/// All clients.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    project: &'a Project,
    locks: history::Load,
    pub(crate) queues: queues::Load,
    caches: caches::Load,
}

impl<'a> Load<'a> {
    /// Begins, with queues and keys that have this in their names.
    pub(crate) async fn start(project: &'a Project, name: &str) -> Self {
        let gateway = &project.gateway;
        let load = Self {
            project,
            queues: queues::Load::start(&gateway.api, name).await,
            locks: history::Load::start(vec![gateway.api.clone()], LOCKERS),
            caches: caches::Load::start(gateway, name),
        };
        load.works_after(Instant::now()).await;
        load
    }

    /// Waits until all kinds of clients have got something done that they began after a moment.
    pub(crate) async fn works_after(&self, moment: Instant) {
        settles("locks are granted", async || {
            let grants = self.locks.so_far().await;
            let after = grants.iter().filter(|grant| grant.asked > moment).count();
            holds(after >= ENOUGH, format!("{after} were"))
        })
        .await;
        self.queues.works_after(moment).await;
        self.caches.works_after(moment, &self.project.gateway).await;
    }

    /// Tells how long after a moment the first grant and the first acknowledged publish came that were asked for then.
    pub(crate) async fn tell_first_after(&self, moment: Instant, what: &str) {
        let grants = self.locks.so_far().await;
        let (lock, publish) = (history::first_after(&grants, moment), self.queues.first_after(moment));
        println!("{what}: first grant after {lock:.2?}, first acknowledged publish after {publish:.2?}");
    }

    /// Ends the load; checks what all clients were told. How many cached values were gone that nobody deleted.
    pub(crate) async fn checked(self, what: &str) -> usize {
        let grants = self.locks.checked().await;
        println!("{what}, locks: {} grants, none overlaps, no token comes twice", grants.len());
        self.queues.checked(what).await;
        let gone = self.caches.checked(what, &self.project.gateway).await;
        println!("{what}, cache: {gone} reads found that a value was gone");
        gone
    }
}
