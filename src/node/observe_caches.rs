//! What is said of the caches: the parts of `GET /v1/node` and `GET /v1/cluster`, the metrics, and what an operator
//! should look at.

use std::collections::BTreeMap;

use super::{
    caches::{CacheNodeView, CacheView, InvalidationCounts, LinesByState},
    observe::warning,
    status::{CacheLines, CacheNodeInfo, CacheSummary, Warning},
    wire::View,
};
use crate::{
    ids::NodeId,
    machine::{
        cache::{Protocol, WritePolicy},
        membership::Liveness,
    },
    telemetry::CacheFigures,
};

/// Of one cache node.
pub(super) fn node_info(view: &CacheNodeView, protocol: Protocol, write_policy: WritePolicy) -> CacheNodeInfo {
    CacheNodeInfo {
        protocol: protocol.as_str().to_owned(),
        write_policy: write_policy.as_str().to_owned(),
        capacity: view.capacity,
        entries: view.entries,
        lines: lines(view.lines),
        hit_rate: hit_rate(std::slice::from_ref(view)),
        dirty_lost: view.dirty_lost,
    }
}

/// Of all cache nodes that answered.
pub(super) fn summary(view: &CacheView) -> CacheSummary {
    let mut sum = LinesByState::default();
    for node in &view.nodes {
        sum.modified += node.lines.modified;
        sum.owned += node.lines.owned;
        sum.exclusive += node.lines.exclusive;
        sum.shared += node.lines.shared;
    }
    CacheSummary {
        protocol: view.protocol.as_str().to_owned(),
        hit_rate: hit_rate(&view.nodes),
        lines: lines(sum),
        dirty_lost: view.nodes.iter().map(|node| node.dirty_lost).sum(),
        moving: None,
    }
}

fn lines(lines: LinesByState) -> CacheLines {
    CacheLines { m: lines.modified, o: lines.owned, e: lines.exclusive, s: lines.shared }
}

/// To four decimals.
fn hit_rate(nodes: &[CacheNodeView]) -> Option<f64> {
    let hits: u64 = nodes.iter().map(|node| node.hits).sum();
    let misses: u64 = nodes.iter().flat_map(|node| node.misses.values()).sum();
    let reads = hits + misses;
    (reads > 0).then(|| (hits as f64 / reads as f64 * 10_000.0).round() / 10_000.0)
}

/// Members that are up and do not tell of their caches.
pub(super) fn cache_warnings(view: &View, unanswered: &[NodeId], warnings: &mut Vec<Warning>) {
    let is_up = |node: &&NodeId| view.members.get(node).is_some_and(|member| member.liveness == Liveness::Up);
    let silent: Vec<String> = unanswered.iter().filter(is_up).map(NodeId::to_string).collect();
    if !silent.is_empty() {
        warnings.push(warning(
            "cache-silent",
            format!(
                "{} did not say in time how its cache does: it is not in the figures. If that stays so, look at its log, \
                 and with `syncmesh --url … health --ready` at that node",
                silent.join(", ")
            ),
        ));
    }
}

/// The same figures for the metrics.
pub(super) fn figures(view: &CacheNodeView) -> CacheFigures<'_> {
    let LinesByState { modified, owned, exclusive, shared } = view.lines;
    let InvalidationCounts { sent, received, acknowledged, repeated, expired, missed } = view.invalidations;
    CacheFigures {
        capacity: view.capacity,
        entries: view.entries,
        bytes: view.bytes,
        lines: [("M", modified), ("O", owned), ("E", exclusive), ("S", shared)],
        hits: view.hits,
        remote_hits: view.remote_hits,
        misses: words(&view.misses),
        evictions: view.evictions,
        directory_evictions: view.directory_evictions,
        transitions: words(&view.transitions),
        dirty_lost: view.dirty_lost,
        invalidations: [
            ("sent", sent),
            ("received", received),
            ("acknowledged", acknowledged),
            ("repeated", repeated),
            ("expired", expired),
            ("missed", missed),
        ],
        messages: words(&view.messages),
        sent_bytes: view.sent_bytes,
    }
}

fn words(counts: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    counts.iter().map(|(word, count)| (word.as_str(), *count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::Tick,
        machine::membership::{Joiner, Member},
    };

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn cache(n: u8, hits: u64, misses: &[(&str, u64)]) -> CacheNodeView {
        CacheNodeView {
            peer: node(n),
            capacity: 100,
            entries: 3,
            bytes: 30,
            lines: LinesByState { modified: 1, owned: 0, exclusive: 0, shared: 2 },
            hits,
            remote_hits: 0,
            misses: misses.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect(),
            evictions: 0,
            directory_evictions: 0,
            transitions: BTreeMap::new(),
            dirty_lost: 1,
            invalidations: InvalidationCounts::default(),
            messages: BTreeMap::new(),
            sent_bytes: 0,
            stalls: BTreeMap::new(),
        }
    }

    fn view(nodes: Vec<CacheNodeView>) -> CacheView {
        CacheView { protocol: Protocol::Mosi, write_policy: WritePolicy::Back, nodes, unanswered: Vec::new() }
    }

    #[test]
    fn the_cluster_is_the_sum_of_its_caches() {
        let all = summary(&view(vec![cache(1, 5, &[("cold", 1), ("evicted", 2)]), cache(2, 1, &[])]));
        let expected = CacheSummary {
            protocol: "MOSI".into(),
            hit_rate: Some(0.6667),
            lines: CacheLines { m: 2, o: 0, e: 0, s: 4 },
            dirty_lost: 2,
            moving: None,
        };
        assert_eq!(all, expected);
        assert_eq!(summary(&view(vec![cache(1, 0, &[])])).hit_rate, None);
        assert_eq!(summary(&view(Vec::new())).hit_rate, None);
        let one = node_info(&cache(1, 1, &[("cold", 3)]), Protocol::Mesi, WritePolicy::Through);
        assert_eq!((one.hit_rate, one.write_policy.as_str()), (Some(0.25), "through"));
    }

    #[test]
    fn only_members_that_are_up_are_missed() {
        let member = |n, liveness| {
            (node(n), Member { joiner: Joiner::of_queue_node(node(n), 1, n.into()), liveness, since: Tick(0) })
        };
        let members = BTreeMap::from([member(1, Liveness::Up), member(2, Liveness::Down)]);
        let view = View { members, ..View::default() };
        let mut warnings = Vec::new();
        cache_warnings(&view, &[node(2), node(3)], &mut warnings);
        assert_eq!(warnings, []);
        cache_warnings(&view, &[node(1), node(2)], &mut warnings);
        assert!(warnings[0].detail.starts_with(&format!("{} did not say", node(1))), "{warnings:?}");
        assert_eq!((warnings.len(), warnings[0].code.as_str()), (1, "cache-silent"));
    }
}
