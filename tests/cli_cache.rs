//! The cache commands as a person or a script meets them: the real program against a node made of answers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake_cache;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use fake_cache::{FakeCache, PEER};
use serde_json::{Value, json};

/// The program, about to talk to a node.
fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncmesh"));
    command.args(["--url", url]).args(arguments).stdin(Stdio::null());
    command
}

fn run(node: &FakeCache, arguments: &[&str]) -> Output {
    command(&node.url(), arguments).output().unwrap()
}

fn run_with_input(node: &FakeCache, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = command(&node.url(), arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A program that has had enough hangs up.
    let _ = writing.join().unwrap();
    output
}

/// The document of a command that does not fail, on one line.
#[track_caller]
fn done(node: &FakeCache, arguments: &[&str]) -> Value {
    let output = run(node, &[&["--output", "json"], arguments].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The problem of a command that is refused, and its exit code.
#[track_caller]
fn refusal(node: &FakeCache, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = run(node, &[&["--output", "json"], arguments].concat());
    assert!(output.stdout.is_empty(), "{output:?}");
    let problem = serde_json::from_slice(&output.stderr).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (problem, output.status.code())
}

fn text(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_value_comes_out_as_it_went_in_with_no_line_end() {
    let node = FakeCache::keeping();
    assert_eq!(text(&run(&node, &["cache", "put", "a/b", "zwölf"])), "KEY  VERSION\na/b  10\n");
    assert_eq!(run(&node, &["cache", "get", "a/b"]).stdout, "zwölf".as_bytes());
    let expected =
        json!({"key": "a/b", "value": "zwölf", "encoding": "utf-8", "version": "10", "state": "E", "cache": "hit"});
    assert_eq!(done(&node, &["cache", "get", "a/b"]), expected);

    let binary = [0xff, 0x00, b'\n'];
    assert_eq!(run_with_input(&node, &["cache", "put", "bin", "-"], &binary).status.code(), Some(0));
    assert_eq!(run(&node, &["cache", "get", "bin"]).stdout, binary);
    let shown = done(&node, &["cache", "get", "bin"]);
    assert_eq!((&shown["value"], &shown["encoding"]), (&json!("/wAK"), &json!("base64")));

    assert_eq!(done(&node, &["cache", "put", "empty", ""]), json!({"key": "empty", "version": "12"}));
    assert_eq!(run(&node, &["cache", "get", "empty"]).stdout, b"");
    done(&node, &["cache", "put", "short", "x", "--ttl", "90s"]);
    assert_eq!(node.queries(), ["ttl=90000ms"]);
    done(&node, &["cache", "put", "negative", "-5"]);
    done(&node, &["cache", "put", "dashes", "--", "--all"]);
    assert_eq!(run(&node, &["cache", "get", "dashes"]).stdout, b"--all");
}

#[test]
fn a_miss_is_3_and_a_condition_that_does_not_hold_is_4() {
    let node = FakeCache::keeping();
    let (problem, code) = refusal(&node, &["cache", "get", "k"]);
    assert_eq!((&problem["type"], code), (&json!("not-found"), Some(3)));
    let absent = run(&node, &["cache", "get", "k"]);
    assert_eq!((absent.status.code(), absent.stdout.as_slice()), (Some(3), &b""[..]));

    let (problem, code) = refusal(&node, &["cache", "put", "k", "x", "--if-version", "10"]);
    assert_eq!(
        (&problem["type"], problem.get("version"), code),
        (&json!("version-mismatch"), Some(&Value::Null), Some(4))
    );
    let version = done(&node, &["cache", "put", "k", "x", "--if-absent"])["version"].as_str().unwrap().to_owned();
    let (problem, code) = refusal(&node, &["cache", "put", "k", "y", "--if-absent"]);
    assert_eq!((&problem["version"], code), (&json!(version), Some(4)));
    let told = run(&node, &["cache", "put", "k", "y", "--if-version", "1"]);
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains(&format!("it has version {version}")), "{told}");
    // As an ETag writes it, too.
    done(&node, &["cache", "put", "k", "y", "--if-version", &format!("\"{version}\"")]);
    assert_eq!(run(&node, &["cache", "get", "k"]).stdout, b"y");
    assert_eq!(done(&node, &["cache", "delete", "k"]), json!({}));
    assert_eq!(run(&node, &["cache", "get", "k"]).status.code(), Some(3));
    assert_eq!(text(&run(&node, &["cache", "delete", "k"])), "deleted\n");
}

#[test]
fn integers_are_counted_up_and_down() {
    let node = FakeCache::keeping();
    assert_eq!(done(&node, &["cache", "increment", "n"]), json!({"value": 1, "version": "10"}));
    assert_eq!(done(&node, &["cache", "increment", "n", "--by", "-5"])["value"], -4);
    assert_eq!(text(&run(&node, &["cache", "increment", "n", "--by=9"])), "KEY  VALUE  VERSION\nn    5      12\n");
    done(&node, &["cache", "put", "text", "five"]);
    let (problem, code) = refusal(&node, &["cache", "increment", "text"]);
    assert_eq!((&problem["type"], code), (&json!("bad-request"), Some(1)));
}

#[test]
fn an_invalidation_is_of_a_key_a_prefix_or_everything() {
    let node = FakeCache::keeping();
    for key in ["a/1", "a/2", "b", "c"] {
        done(&node, &["cache", "put", key, "x"]);
    }
    assert_eq!(done(&node, &["cache", "invalidate", "b"]), json!({"invalidated": 1, "unanswered": []}));
    assert_eq!(text(&run(&node, &["cache", "invalidate", "--prefix", "a/"])), "invalidated 2 keys\n");
    assert_eq!(node.keys(), ["c"]);
    assert_eq!(done(&node, &["cache", "invalidate", "--all"])["invalidated"], 1);
}

#[test]
fn where_a_key_is_and_how_the_caches_do_can_be_seen() {
    let node = FakeCache::keeping();
    done(&node, &["cache", "put", "k", "x"]);
    let state = done(&node, &["cache", "state", "k"]);
    assert_eq!((&state["directory"]["state"], &state["lines"][0]["state"]), (&json!("E/M"), &json!("E")));
    let shown = text(&run(&node, &["cache", "state", "k"]));
    assert!(shown.contains(&format!("owner          {PEER}\n")) && shown.contains("1900ms"), "{shown}");
    let unknown = text(&run(&node, &["cache", "state", "unknown"]));
    assert!(unknown.contains("directory      I: no node has a line\n"), "{unknown}");
    let stats = done(&node, &["cache", "stats"]);
    assert_eq!(stats["nodes"][0]["misses_by_cause"], json!({"cold": 1}));
    let shown = text(&run(&node, &["cache", "stats"]));
    assert!(shown.starts_with("protocol       MOESI, writes back\nhit rate       75.0% of 4 reads\n"), "{shown}");
}

#[test]
fn a_benchmark_of_the_cache_reports_every_run_and_leaves_nothing() {
    let (one, two) = (FakeCache::keeping(), FakeCache::keeping());
    let report =
        done(&one, &["bench", "cache", "--duration", "300ms", "--clients", "1,3", "--keys", "10", "--size", "16"]);
    let runs = report["runs"].as_array().unwrap();
    let modes: Vec<Value> = runs.iter().map(|run| json!([run["workload"], run["clients"]])).collect();
    let expected: Vec<Value> = ["read-mostly", "private", "producer-consumer", "migratory", "zipf"]
        .iter()
        .flat_map(|workload| [1, 3].map(|clients| json!([workload, clients])))
        .collect();
    assert_eq!(modes, expected);
    for run in runs {
        let operations = run["operations"].as_u64().unwrap();
        assert_eq!(
            (&run["protocol"], &run["failures"], &run["stale"], &run["absent"], &run["hit_rate"]),
            (&json!("MOESI"), &json!(0), &json!(0), &json!(0), &json!(1.0)),
            "{run}"
        );
        assert!(operations > 0 && run["reads"]["count"].as_u64().unwrap() > 0, "{run}");
        // The node counts one message an operation.
        assert_eq!((&run["messages_per_operation"], &run["messages"]), (&json!(1.0), &json!({"get-s": operations})));
        assert!(run["p50_us"].as_u64() <= run["p95_us"].as_u64() && run["p99_us"].as_u64() <= run["max_us"].as_u64());
    }
    // What one of these keeps the other does not know: they are no cluster, and the figures show it.
    let url = two.url();
    let workload = ["bench", "cache", "--workload", "producer-consumer", "--clients", "1", "--duration", "300ms"];
    let apart = done(&one, &[&workload[..], &["--also", &url]].concat());
    let apart = &apart["runs"][0];
    assert_eq!((&apart["nodes"], &apart["absent"]), (&json!(2), &apart["reads"]["count"]), "{apart}");
    let table = text(&run(&one, &workload));
    assert!(table.starts_with("WORKLOAD") && table.contains("producer-consumer  MOESI back  1 "), "{table}");
    assert_eq!(one.keys(), Vec::<String>::new());
}

#[test]
fn a_benchmark_fails_where_a_read_is_older_than_what_was_acknowledged() {
    let node = FakeCache::forgetting();
    for workload in ["private", "producer-consumer", "migratory"] {
        let options = ["--keys", "2", "--clients", "2", "--duration", "1s"];
        let arguments = [&["--output", "json", "bench", "cache", "--workload", workload][..], &options].concat();
        let found = run(&node, &arguments);
        let report: Value = serde_json::from_slice(&found.stdout).unwrap();
        assert!(report["runs"][0]["stale"].as_u64().unwrap() > 0, "{report}");
        let problem: Value = serde_json::from_slice(&found.stderr).unwrap();
        assert_eq!((found.status.code(), &problem["type"]), (Some(1), &json!("internal")), "{problem}");
    }
}

#[test]
fn every_command_has_help() {
    for command in ["get", "put", "delete", "increment", "invalidate", "state", "stats"] {
        let help = Command::new(env!("CARGO_BIN_EXE_syncmesh")).args(["cache", command, "--help"]).output().unwrap();
        let help = text(&help);
        assert!(help.contains(&format!("Usage: syncmesh cache {command}")), "{help}");
    }
    let bench = Command::new(env!("CARGO_BIN_EXE_syncmesh")).args(["bench", "cache", "--help"]).output().unwrap();
    assert!(text(&bench).contains("producer-consumer"));
}

#[test]
fn arguments_that_make_no_sense_are_2_and_no_node_is_5() {
    let code = |arguments: &[&str]| command("http://127.0.0.1:1", arguments).output().unwrap().status.code();
    let long = "k".repeat(513);
    for usage in [
        &["cache"][..],
        &["cache", "get"],
        &["cache", "get", ".."],
        &["cache", "get", ""],
        &["cache", "get", &long],
        &["cache", "put", "k"],
        &["cache", "put", "k", "x", "y"],
        &["cache", "put", "k", "x", "--ttl", "5"],
        &["cache", "put", "k", "x", "--if-version", "1", "--if-absent"],
        &["cache", "put", "k", "x", "--if-version", ""],
        &["cache", "put", "k", "x", "--if-version", "a b"],
        &["cache", "increment", "k", "--by", "x"],
        &["cache", "increment", "k", "--by", "9223372036854775808"],
        &["cache", "invalidate"],
        &["cache", "invalidate", "k", "--all"],
        &["cache", "invalidate", "k", "--prefix", "p"],
        &["cache", "invalidate", "--prefix", "p", "--all"],
        &["cache", "invalidate", "--prefix", ""],
        &["cache", "stats", "k"],
        &["bench", "cache", "--size", "8"],
        &["bench", "cache", "--keys", "0"],
        &["bench", "cache", "--writes", "101"],
        &["bench", "cache", "--workload", "none"],
        &["bench", "cache", "--duration", "0s"],
    ] {
        assert_eq!(code(usage), Some(2), "{usage:?}");
    }
    for unreachable in [
        &["cache", "get", "k"][..],
        &["cache", "put", "k", "x"],
        &["cache", "put", "k", "-5"],
        &["cache", "put", "k", "-"],
        &["cache", "delete", "k"],
        &["cache", "increment", "k", "--by", "-1"],
        &["cache", "invalidate", "--all"],
        &["cache", "state", "k"],
        &["cache", "stats"],
        &["bench", "cache", "--duration", "1s"],
    ] {
        assert_eq!(code(unreachable), Some(5), "{unreachable:?}");
    }
}
