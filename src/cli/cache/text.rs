//! The cache as people read it.

use std::collections::BTreeMap;

use crate::{
    api::cache_bodies::{
        CacheBody, CacheNodeBody, CountedBody, InvalidatedBody, InvalidationsBody, KeyStateBody, LineBody, LinesBody,
        StallsBody,
    },
    cli::{
        output::{one_line, table},
        remote::{cell, percent},
    },
    ids::CacheKey,
};

pub(super) fn stored(key: &CacheKey, version: &str) -> String {
    table(["KEY", "VERSION"], [[key.to_string(), version.to_owned()]])
}

pub(super) fn counted(key: &CacheKey, counted: &CountedBody) -> String {
    table(["KEY", "VALUE", "VERSION"], [[key.to_string(), counted.value.to_string(), counted.version.clone()]])
}

pub(super) fn invalidated(body: &InvalidatedBody) -> String {
    let keys = if body.invalidated == 1 { "1 key" } else { &format!("{} keys", body.invalidated) };
    let mut text = format!("invalidated {keys}\n");
    if !body.unanswered.is_empty() {
        text.push_str(&format!("did not answer: {}\n", cell(&body.unanswered)));
    }
    text
}

pub(super) fn state(state: &KeyStateBody) -> String {
    let or_none = |text: Option<String>, none: &str| text.unwrap_or_else(|| none.to_owned());
    let mut text = pairs([
        ("key", state.key.to_string()),
        ("home", or_none(state.home.map(|node| node.to_string()), "nobody now: the slot waits for a cache node")),
        ("version", or_none(state.version.clone(), "-")),
        ("directory", directory(state)),
        ("owner", or_none(state.directory.owner.map(|node| node.to_string()), "-")),
        ("sharers", cell(&state.directory.sharers)),
    ]);
    if !state.unanswered.is_empty() {
        text.push_str(&pairs([("silent", cell(&state.unanswered))]));
    }
    if state.lines.is_empty() {
        text.push_str("lines          none\n");
        return text;
    }
    text.push('\n');
    text.push_str(&lines(&state.lines));
    text
}

/// What the home has in its directory, where it says so.
fn directory(state: &KeyStateBody) -> String {
    if state.home.is_some_and(|home| state.unanswered.contains(&home)) {
        return "not known: the home did not answer".to_owned();
    }
    format!("{}: {}", state.directory.state, meaning(&state.directory.state))
}

/// What the state of a directory entry says.
fn meaning(state: &str) -> &'static str {
    match state {
        "I" => "no node has a line",
        "S" => "copies, all of the value that the home has",
        "E/M" => "one node may write it without asking",
        "O" => "one node owns it, others have copies",
        _ => "a request is under way",
    }
}

fn lines(lines: &[LineBody]) -> String {
    let row = |line: &LineBody| {
        [
            line.peer.to_string(),
            line.state.as_str().to_owned(),
            line.version.clone(),
            format!("{}ms", line.lease_ms),
            line.expires_at.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    };
    table(["PEER", "STATE", "VERSION", "LEASE", "EXPIRES AT"], lines.iter().map(row))
}

pub(super) fn stats(cache: &CacheBody) -> String {
    let sum = |count: fn(&CacheNodeBody) -> u64| cache.nodes.iter().map(count).sum::<u64>();
    let (hits, misses) = (sum(|node| node.hits), sum(|node| node.misses));
    let mut figures = vec![
        ("protocol", format!("{}, writes {}", cache.protocol, cache.write_policy)),
        ("hit rate", format!("{} of {} reads", percent(rate(hits, misses)), hits + misses)),
        ("hits", format!("local {hits}, remote {}", sum(|node| node.remote_hits))),
        ("misses", listed(&summed(&cache.nodes, |node| &node.misses_by_cause))),
        ("lines", by_state(&all_lines(&cache.nodes))),
        ("changes", listed(&summed(&cache.nodes, |node| &node.transitions))),
        (
            "evictions",
            format!(
                "{} lines, {} keys of directories",
                sum(|node| node.evictions),
                sum(|node| node.directory_evictions)
            ),
        ),
        ("invalidations", invalidations(&cache.nodes)),
        ("messages", listed(&summed(&cache.nodes, |node| &node.messages))),
        ("sent", format!("{} bytes", sum(|node| node.sent_bytes))),
        ("stalls", stalls(&cache.nodes)),
        ("lost", format!("{} acknowledged values, with their owners", sum(|node| node.dirty_lost))),
    ];
    if !cache.unanswered.is_empty() {
        figures.push(("silent", cell(&cache.unanswered)));
    }
    let mut text = pairs(figures);
    if !cache.nodes.is_empty() {
        text.push('\n');
        text.push_str(&nodes(&cache.nodes));
    }
    text
}

fn nodes(nodes: &[CacheNodeBody]) -> String {
    let row = |node: &CacheNodeBody| {
        [
            node.peer.to_string(),
            format!("{} of {}", node.entries, node.capacity),
            node.bytes.to_string(),
            by_state(&node.lines),
            percent(rate(node.hits, node.misses)),
            node.remote_hits.to_string(),
            node.misses.to_string(),
            node.evictions.to_string(),
            node.dirty_lost.to_string(),
        ]
    };
    let header = ["CACHE NODE", "ENTRIES", "BYTES", "LINES", "HIT RATE", "REMOTE HITS", "MISSES", "EVICTIONS", "LOST"];
    table(header, nodes.iter().map(row))
}

fn rate(hits: u64, misses: u64) -> Option<f64> {
    let reads = hits + misses;
    (reads > 0).then(|| hits as f64 / reads as f64)
}

fn all_lines(nodes: &[CacheNodeBody]) -> LinesBody {
    nodes.iter().fold(LinesBody::default(), |sum, node| LinesBody {
        m: sum.m + node.lines.m,
        o: sum.o + node.lines.o,
        e: sum.e + node.lines.e,
        s: sum.s + node.lines.s,
    })
}

fn by_state(lines: &LinesBody) -> String {
    format!("M {} O {} E {} S {}", lines.m, lines.o, lines.e, lines.s)
}

fn invalidations(nodes: &[CacheNodeBody]) -> String {
    let sum = |count: fn(&InvalidationsBody) -> u64| nodes.iter().map(|node| count(&node.invalidations)).sum::<u64>();
    format!(
        "sent {}, received {}, acknowledged {}, repeated {}, expired {}, missed {}",
        sum(|inv| inv.sent),
        sum(|inv| inv.received),
        sum(|inv| inv.acknowledged),
        sum(|inv| inv.repeated),
        sum(|inv| inv.expired),
        sum(|inv| inv.missed)
    )
}

/// How many operations had to wait for others, for how long on average and at most.
fn stalls(nodes: &[CacheNodeBody]) -> String {
    let mut sums = BTreeMap::<&str, StallsBody>::new();
    for (operation, stalls) in nodes.iter().flat_map(|node| &node.stalls).filter(|(_, stalls)| stalls.count > 0) {
        let sum = sums.entry(operation).or_default();
        sum.count += stalls.count;
        sum.total_us += stalls.total_us;
        sum.max_us = sum.max_us.max(stalls.max_us);
    }
    let ms = |us: f64| format!("{:.1} ms", us / 1_000.0);
    let one = |(operation, StallsBody { count, total_us, max_us }): (&&str, &StallsBody)| {
        format!("{operation} {count} (mean {}, max {})", ms(*total_us as f64 / *count as f64), ms(*max_us as f64))
    };
    let all: Vec<String> = sums.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn summed(nodes: &[CacheNodeBody], of: fn(&CacheNodeBody) -> &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (word, count) in nodes.iter().flat_map(of) {
        *sum.entry(word.clone()).or_default() += count;
    }
    sum
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    let some: Vec<String> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(word, count)| format!("{word} {count}")).collect();
    if some.is_empty() { "none".to_owned() } else { some.join(", ") }
}

fn pairs(pairs: impl IntoIterator<Item = (&'static str, String)>) -> String {
    pairs.into_iter().map(|(name, value)| format!("{name:<13}  {}\n", one_line(&value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::cache_bodies::DirectoryBody, ids::NodeId, machine::cache::LineState};

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn figures(n: u8) -> CacheNodeBody {
        CacheNodeBody {
            peer: node(n),
            capacity: 10_000,
            entries: 3,
            bytes: 30,
            lines: LinesBody { m: 1, o: 0, e: 0, s: 2 },
            hits: 30,
            remote_hits: 4,
            misses: 10,
            misses_by_cause: BTreeMap::from([("cold".into(), 10), ("expired".into(), 0)]),
            evictions: 2,
            directory_evictions: 1,
            transitions: BTreeMap::from([("S>M".into(), 1)]),
            dirty_lost: 0,
            invalidations: InvalidationsBody { sent: 4, ..InvalidationsBody::default() },
            messages: BTreeMap::from([("get-s".into(), 11)]),
            sent_bytes: 1_100,
            stalls: BTreeMap::from([
                ("get".into(), StallsBody { count: 2, total_us: 3_000, max_us: u64::from(n) * 1_000 }),
                ("put".into(), StallsBody::default()),
            ]),
        }
    }

    #[test]
    fn a_key_is_shown_with_its_home_and_every_line() {
        let line =
            LineBody { peer: node(2), state: LineState::S, version: "01".into(), lease_ms: 1900, expires_at: None };
        let mut shown = KeyStateBody {
            key: CacheKey::new("k").unwrap(),
            home: Some(node(1)),
            version: Some("01".into()),
            directory: DirectoryBody { state: "S".into(), owner: None, sharers: vec![node(2)] },
            lines: vec![line],
            unanswered: Vec::new(),
        };
        let said = state(&shown);
        assert!(said.contains(&format!("home           {}\n", node(1))), "{said}");
        assert!(said.contains("directory      S: copies") && said.contains("1900ms"), "{said}");
        assert!(!said.contains("silent"), "{said}");
        shown.unanswered = vec![node(1)];
        let said = state(&shown);
        assert!(said.contains("directory      not known: the home did not answer\n"), "{said}");
        assert!(said.contains(&format!("silent         {}\n", node(1))), "{said}");
        shown.home = None;
        shown.lines.clear();
        let said = state(&shown);
        assert!(said.contains("home           nobody now") && said.ends_with("lines          none\n"), "{said}");
    }

    #[test]
    fn figures_are_summed_and_what_is_silent_is_named() {
        let mut cache = CacheBody {
            protocol: "MESI".into(),
            write_policy: "back".into(),
            nodes: vec![figures(1), figures(2)],
            unanswered: Vec::new(),
        };
        let said = stats(&cache);
        assert!(said.contains("hit rate       75.0% of 80 reads\n"), "{said}");
        assert!(
            said.contains("misses         cold 20\n") && said.contains("lines          M 2 O 0 E 0 S 4\n"),
            "{said}"
        );
        assert!(said.contains("messages       get-s 22\n") && !said.contains("silent"), "{said}");
        assert!(said.contains("hits           local 60, remote 8\n"), "{said}");
        assert!(said.contains("stalls         get 4 (mean 1.5 ms, max 2.0 ms)\n"), "{said}");
        cache.nodes.clear();
        cache.unanswered = vec![node(3)];
        let said = stats(&cache);
        assert!(said.contains("hit rate       - of 0 reads\n") && said.contains("stalls         none\n"), "{said}");
        assert!(said.ends_with(&format!("silent         {}\n", node(3))), "{said}");
    }

    #[test]
    fn an_invalidation_counts_keys_and_names_who_did_not_answer() {
        let body = |invalidated, unanswered| InvalidatedBody { invalidated, unanswered };
        assert_eq!(invalidated(&body(1, Vec::new())), "invalidated 1 key\n");
        let said = invalidated(&body(0, vec![node(1)]));
        assert_eq!(said, format!("invalidated 0 keys\ndid not answer: {}\n", node(1)));
    }
}
