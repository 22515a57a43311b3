//! What docs/metrics.md says of the metrics is what the nodes of a cluster say, and the other way round; and a node
//! that works says nothing in its log.
//!
//! The tables are read from the document, the metrics from `/metrics` of a running cluster, the bounds from the sources.
//! No list of metrics stands here.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it waits for")]

#[allow(dead_code, reason = "shared with the tests of the commands")]
mod dev_cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use reqwest::Method;
use serde_json::Value;

use dev_cluster::{DevCluster, eventually};

/// A family of metrics: its type, and the names of its labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn document() -> String {
    fs::read_to_string(project("docs/metrics.md")).unwrap()
}

/// The cells of the rows of all tables below this heading, up to the next one.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let from = document.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let rest = &document[from + 4..];
    let section = rest.find("\n## ").map_or(rest, |end| &rest[..end]);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| {
        let row = row.replace("\\|", "/");
        row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    rows.map(cells).collect()
}

/// What stands in backticks in a cell.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The families that the document tells of: every row of five cells of which the first is a metric.
fn documented() -> Families {
    let document = document();
    let mut families = Families::new();
    for row in document.lines().filter(|line| line.starts_with("| `syncmesh_")) {
        let row = row.replace("\\|", "/");
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "name, type, labels, meaning, look when: {row}");
        let [name] = &code(cells[0])[..] else { panic!("one name in the first cell: {row}") };
        assert!(!cells[3].is_empty(), "{name} has no meaning");
        let family = (cells[1].to_owned(), code(cells[2]).into_iter().collect());
        assert_eq!(families.insert(name.clone(), family), None, "{name} stands there twice");
    }
    families
}

/// The families in the text of a node, by the names that their samples have (of a histogram, without the ending).
fn families(text: &str) -> Families {
    let mut types = BTreeMap::new();
    let mut families = Families::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            types.insert(name.to_owned(), kind.to_owned());
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (name, labels) = sample(line);
        let endings = ["", "_total", "_info", "_bucket", "_sum", "_count"];
        let family = endings.iter().find_map(|ending| {
            let family = name.strip_suffix(ending)?;
            Some((family, types.get(family)?, *ending))
        });
        let (family, kind, ending) = family.unwrap_or_else(|| panic!("{name} has no TYPE"));
        let shown = if matches!(ending, "_total" | "_info") { name } else { family };
        let known = families.entry(shown.to_owned()).or_insert_with(|| (kind.clone(), BTreeSet::new()));
        known.1.extend(labels.into_keys().filter(|label| label != "le" || ending != "_bucket"));
    }
    families
}

/// Name and labels of a line such as `name{a="x",b="y"} 1`.
fn sample(line: &str) -> (&str, BTreeMap<String, String>) {
    let Some((name, rest)) = line.split_once('{') else { return (line.split_once(' ').unwrap().0, BTreeMap::new()) };
    let labels = rest.rsplit_once('}').unwrap().0;
    let mut all = BTreeMap::new();
    for label in labels.split("\",") {
        let (label, value) = label.split_once("=\"").unwrap();
        all.insert(label.to_owned(), value.trim_end_matches('"').to_owned());
    }
    (name, all)
}

/// Speaks HTTP, and waits for the answer.
struct Http {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

impl Http {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, client: reqwest::Client::new() }
    }

    /// The status and the body of the answer; 0 where there is none.
    fn ask(&self, method: Method, url: &str, body: &'static str) -> (u16, String) {
        let request = self.client.request(method, url).header("content-type", "application/json").body(body);
        self.runtime.block_on(async {
            let Ok(answer) = request.send().await else { return (0, String::new()) };
            (answer.status().as_u16(), answer.text().await.unwrap_or_default())
        })
    }

    fn succeeds(&self, method: Method, url: &str, body: &'static str) -> bool {
        (200..300).contains(&self.ask(method, url, body).0)
    }
}

/// `/metrics` of a node.
fn metrics(http: &Http, cluster: &DevCluster, node: usize) -> String {
    let (status, text) = http.ask(Method::GET, &format!("{}/metrics", cluster.url(node)), "");
    assert_eq!(status, 200, "{text}");
    text
}

/// One of everything that is counted under labels which come with the first event.
fn use_everything(cluster: &DevCluster) {
    cluster.done(0, &["lock", "acquire", "a"]);
    cluster.done(0, &["queue", "publish", "q", "x"]);
    // At one node, then at another: messages between caches, and changes of state.
    cluster.done(0, &["cache", "put", "k", "v"]);
    for node in [1, 2, 0] {
        cluster.done(node, &["cache", "get", "k"]);
    }
}

#[test]
fn the_document_and_the_nodes_say_the_same() {
    // Leases that a busy machine does not cost the nodes.
    let cluster = DevCluster::with_settings(3, &["--failure-timeout", "8s", "--cache-lease", "10s"]);
    use_everything(&cluster);
    let http = Http::new();
    let texts: Vec<String> = (0..3).map(|node| metrics(&http, &cluster, node)).collect();
    let all = families(&texts.concat());
    let (theirs, ours): (Families, Families) = all.into_iter().partition(|(name, _)| name.starts_with("libp2p_"));
    let documented = documented();
    let differences: Vec<String> = ours
        .keys()
        .chain(documented.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter(|name| ours.get(*name) != documented.get(*name))
        .map(|name| format!("{name}: the nodes say {:?}, docs/metrics.md {:?}", ours.get(name), documented.get(name)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));

    let prefixes: Vec<String> = rows(&document(), "libp2p").iter().flat_map(|row| code(&row[0])).collect();
    assert!(!prefixes.is_empty());
    for name in theirs.keys() {
        assert!(prefixes.iter().any(|prefix| name.starts_with(prefix)), "docs/metrics.md does not tell of {name}");
    }
    for prefix in &prefixes {
        assert!(theirs.keys().any(|name| name.starts_with(prefix)), "no node has a {prefix}…");
    }
    bounds_are_documented(&texts[0]);
    // Each node learns of the others, and of what it keeps, at a moment of its own.
    let mut missing = None;
    eventually("everything is counted", || {
        let texts: Vec<String> = (0..3).map(|node| metrics(&http, &cluster, node)).collect();
        let found = what_is_not_counted(&texts);
        if found != missing {
            println!("not counted: {found:?}");
            missing = found;
        }
        missing.is_none()
    });
}

/// The bounds of the document are those of the nodes, and those of the sources.
fn bounds_are_documented(text: &str) {
    let lines = text.lines().filter(|line| line.starts_with("syncmesh_bound_hits_total{"));
    let shown: BTreeSet<String> = lines.map(|line| sample(line).1["bound"].clone()).collect();
    let table: BTreeSet<String> = rows(&document(), "Bounds").iter().flat_map(|row| code(&row[0])).collect();
    assert_eq!(shown, table, "what the nodes say, and what docs/metrics.md says");
    let mut hit = BTreeSet::new();
    each_source(&project("src"), &mut |source| hit.extend(bounds_in(source)));
    assert_eq!(hit, shown, "what the sources hit, and what the nodes say from the start (telemetry/bounds.rs)");
}

/// Names of bounds that are hit in a source: the first text after `hit(`, `bound(`, `overloaded(` or `Bound::… =>`. They
/// have a dot in them; what is told to people has none.
fn bounds_in(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    for before in [".hit(\"", ".bound(\"", ".overloaded(\""] {
        found.extend(code.split(before).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    for line in code.lines().filter(|line| line.trim_start().starts_with("Bound::")) {
        found.extend(line.split_once("=> \"").map(|(_, rest)| rest.split('"').next().unwrap().to_owned()));
    }
    found.retain(|name| name.contains('.'));
    found
}

fn each_source(folder: &Path, look: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => each_source(&path, look),
            false => look(&fs::read_to_string(&path).unwrap()),
        }
    }
}

/// The first of the counts that this very test has brought about which is not there.
fn what_is_not_counted(texts: &[String]) -> Option<String> {
    let value = |text: &str, sample: &str| -> f64 {
        let line = text.lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit_once(' ')).map_or(0.0, |(_, value)| value.parse().unwrap())
    };
    let sum = |sample: &str| texts.iter().map(|text| value(text, sample)).sum::<f64>();
    for (sample, at_least) in [
        ("syncmesh_lock_acquire_seconds_count{outcome=\"granted\"}", 1.0),
        ("syncmesh_queue_messages_total{what=\"published\"}", 2.0),
        ("syncmesh_queue_depth{place=\"ready\"}", 2.0),
        ("syncmesh_queue_partitions_kept{role=\"primary\"}", 64.0),
        ("syncmesh_queue_journal_append_seconds_count", 2.0),
        ("syncmesh_raft_append_seconds_count", 3.0),
        ("syncmesh_raft_commit_seconds_count", 1.0),
        ("syncmesh_raft_elections_total", 1.0),
        ("syncmesh_raft_proposals_total{outcome=\"committed\"}", 1.0),
        // The first read. The second needs no message where it is made at the home.
        ("syncmesh_cache_remote_hits_total", 1.0),
        ("syncmesh_cache_stall_seconds_count{operation=\"get\"}", 1.0),
        ("syncmesh_rpc_calls_total{protocol=\"raft\",outcome=\"answered\"}", 1.0),
        ("syncmesh_rpc_call_seconds_count{protocol=\"raft\"}", 1.0),
        ("syncmesh_leader_changes_total", 3.0),
        ("syncmesh_events_total{event=\"member-up\"}", 3.0),
    ] {
        if sum(sample) < at_least {
            return Some(format!("{sample} is {}, at least {at_least} is expected", sum(sample)));
        }
    }
    let leaders = sum("syncmesh_raft_role{role=\"leader\"}");
    if (leaders - 1.0).abs() > f64::EPSILON {
        return Some(format!("{leaders} lead"));
    }
    let of_each = [
        ("syncmesh_has_leader", 0.0),
        ("syncmesh_ready", 0.0),
        ("syncmesh_members{status=\"up\"}", 2.0),
        ("syncmesh_peers_connected", 1.0),
        ("syncmesh_raft_term", 0.0),
        ("syncmesh_raft_applied_index", 0.0),
        ("syncmesh_process_resident_memory_bytes", 1e6),
    ];
    let of_each = texts.iter().flat_map(|text| of_each.map(|(sample, more_than)| (text, sample, more_than)));
    of_each
        .filter(|(text, sample, more_than)| value(text, sample) <= *more_than)
        .map(|(text, sample, more_than)| {
            format!("{sample} of a node is {}, not more than {more_than}", value(text, sample))
        })
        .next()
}

/// Names of metrics in a text, without the endings of histograms.
fn named(text: &str, known: &Families) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("syncmesh_"));
    let base = |word: &str| {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|ending| word.strip_suffix(ending));
        let of_histogram = family.filter(|family| known.get(*family).is_some_and(|(kind, _)| kind == "histogram"));
        of_histogram.unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let documented = documented();
    let text = fs::read_to_string(project("docs/grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|one| one["type"] == "datasource" && one["name"] == "datasource"));
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id twice: {}", panel["title"]);
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{} shows nothing", panel["title"]);
        for target in targets {
            let names = named(target["expr"].as_str().unwrap(), &documented);
            assert!(!names.is_empty(), "{}: {target}", panel["title"]);
            shown.extend(names);
        }
    }
    let unknown: Vec<&String> = shown.iter().filter(|name| !documented.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "not in docs/metrics.md: {unknown:?}");
}

#[test]
fn the_documents_name_metrics_that_there_are() {
    let documented = documented();
    for path in ["docs/metrics.md", "docs/operations.md", "docs/deployment.md"] {
        let text = fs::read_to_string(project(path)).unwrap();
        let unknown: Vec<String> = named(&text, &documented)
            .into_iter()
            .filter(|name| !documented.contains_key(name))
            // A prefix, as `syncmesh_cache_*`.
            .filter(|name| !(name.ends_with('_') && documented.keys().any(|known| known.starts_with(name))))
            .collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}, which docs/metrics.md does not");
    }
}

/// A node of its own process, of which the log is read line by line.
fn logged(lines: &Arc<Mutex<Vec<Value>>>, dir: &Path) -> (std::process::Child, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_syncmesh"))
        .args(["node", "--bootstrap-expect", "1", "--listen", "/ip4/127.0.0.1/tcp/0", "--api-addr", "127.0.0.1:0"])
        .args(["--mdns", "off", "--rust-log", "info", "--data-dir", dir.join("data").to_str().unwrap()])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (stderr, into) = (process.stderr.take().unwrap(), Arc::clone(lines));
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            into.lock().unwrap().push(line);
        }
    });
    let mut url = String::new();
    eventually("the node says where its API is", || {
        let said = said(lines, "serves the HTTP API");
        url = said.and_then(|line| line["url"].as_str().map(str::to_owned)).unwrap_or_default();
        !url.is_empty()
    });
    (process, url)
}

fn said(lines: &Mutex<Vec<Value>>, message: &str) -> Option<Value> {
    lines.lock().unwrap().iter().find(|line| line["message"] == message).cloned()
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_logs_what_changes_and_nothing_of_what_passes_through_it() {
    let dir = tempfile::tempdir().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let (process, url) = logged(&lines, dir.path());
    let _process = Killed(process);
    let starts = said(&lines, "starts").expect("a node says that it starts");
    assert_eq!(starts["version"], env!("CARGO_PKG_VERSION"));
    let peer = starts["peer"].as_str().unwrap();
    let dial = starts["dial"].as_str().unwrap();
    assert!(dial.starts_with("/ip4/127.0.0.1/tcp/") && dial.ends_with(&format!("/p2p/{peer}")), "{dial}");
    let http = Http::new();
    let done = |method: Method, path: &str, body: &'static str| http.succeeds(method, &format!("{url}{path}"), body);
    let everything = || {
        done(Method::POST, "/v1/locks/a/acquire", "{}")
            && done(Method::POST, "/v1/queues/q/messages", "{}")
            && done(Method::POST, "/v1/queues/q/receive", "{}")
            && done(Method::PUT, "/v1/cache/k", "v")
    };
    let release = || done(Method::DELETE, "/v1/locks/a", "");
    eventually("the node is ready", || done(Method::GET, "/readyz", ""));
    eventually("all services work", || release() && everything() && release());
    // What the start brought about has been said once every partition serves.
    eventually("all partitions serve", || {
        let serving = lines.lock().unwrap().iter().filter(|line| line["message"] == "serves").count();
        serving >= 64
    });
    let before = lines.lock().unwrap().len();
    const ROUNDS: usize = 50;
    for _ in 0..ROUNDS {
        assert!(everything() && release());
    }
    let after = lines.lock().unwrap().clone();
    // An operator's act is told: each round breaks the lock.
    let told: Vec<&Value> =
        after[before..].iter().filter(|line| line["message"] != "an operator broke a lock").collect();
    assert!(told.len() < ROUNDS / 5, "{ROUNDS} rounds, and the log says {told:#?}");
    for line in &after {
        for field in ["timestamp", "level", "message", "target"] {
            assert!(line[field].is_string(), "no {field} in {line}");
        }
    }
}
