//! What of other clusters is in the same Redis: counted and named, never touched.

use std::collections::BTreeSet;

use crate::ids::ClusterId;

/// Most clusters that are named.
const MAX_NAMED: usize = 4;

/// Keys of other clusters that were found at the start.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    keys: usize,
    /// Some of those clusters.
    clusters: BTreeSet<ClusterId>,
}

impl Foreign {
    /// Counts a key that looks like ours and is of no node of our cluster.
    pub(super) fn add(&mut self, key: &str) {
        self.keys += 1;
        let named = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        if let Some(cluster) = named.and_then(|(id, _)| ClusterId::try_from(id.to_owned()).ok())
            && self.clusters.len() < MAX_NAMED
        {
            self.clusters.insert(cluster);
        }
    }

    /// What an operator should know of them, and what to do; nothing where there are none.
    pub(super) fn told(&self, redis: &str) -> Option<String> {
        if self.keys == 0 {
            return None;
        }
        let named: Vec<_> = self.clusters.iter().map(ToString::to_string).collect();
        Some(format!(
            "{} keys of other clusters ({}) are in Redis at {redis}: left alone. Give each cluster a Redis of its own; of a \
             cluster that is gone for good delete them: `redis-cli --scan --pattern 'syncmesh:{{CLUSTER}}:journal:*' | xargs \
             -r redis-cli unlink`",
            self.keys,
            named.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_clusters_are_named_and_the_cure_with_them() {
        let mut foreign = Foreign::default();
        assert_eq!(foreign.told("r"), None);
        foreign.add(&format!("syncmesh:{{{}}}:journal:p:0", ClusterId(6)));
        foreign.add("syncmesh:{\u{1b}[2J}:journal:x");
        let told = foreign.told("127.0.0.1:6379/0").unwrap();
        assert!(
            told.starts_with(&format!("2 keys of other clusters ({}) are in Redis at 127", ClusterId(6))),
            "{told}"
        );
        assert!(told.contains("--pattern 'syncmesh:{CLUSTER}:journal:*'"), "{told}");
    }
}
