//! Readers and writers of the cache, and the check of what they were told.

#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/caches/api.rs"]
mod api;
#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/caches/history.rs"]
mod history;
#[allow(dead_code, reason = "the tests of processes use the rest")]
#[path = "../cluster/caches/load.rs"]
mod load;

use std::time::Instant;

use crate::harness::NodeProcess;

/// So many, in slots of their own, have homes on all cache nodes.
const KEYS: usize = 12;

/// Clients at one node.
#[derive(Debug)]
pub(crate) struct Load(load::Load);

impl Load {
    /// Begins, with keys that have this in their names.
    pub(crate) fn start(node: &NodeProcess, name: &str) -> Self {
        let keys: Vec<String> = (0..KEYS).map(|nth| format!("{name}-{nth}")).collect();
        Self(load::Load::start(std::slice::from_ref(node), &keys))
    }

    /// Waits until all keys have been written after a moment, and read.
    pub(crate) async fn works_after(&self, moment: Instant, node: &NodeProcess) {
        self.0.works_after(moment, &[node]).await;
    }

    /// Ends the load; checks what its clients were told. How many values were gone that nobody deleted.
    pub(crate) async fn checked(self, what: &str, node: &NodeProcess) -> usize {
        let gone = self.0.checked(&format!("{what}, cache")).await.spurious();
        gone.iter().for_each(|record| println!("{what}, cache: a value was gone: {record:?}"));
        if !gone.is_empty() {
            println!("{what}, cache: what the nodes that are there say: {}", node.api.caches().await);
        }
        gone.len()
    }
}
