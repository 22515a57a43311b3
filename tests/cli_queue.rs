//! The queue commands as a person or a script meets them: the real program against a cluster of the real
//! program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dev_cluster;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use dev_cluster::{DevCluster, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn texts<'a>(list: &'a Value, member: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|item| item[member].as_str().unwrap()).collect()
}

#[test]
fn what_is_published_at_one_node_is_received_once_at_another() {
    let cluster = DevCluster::of(2);
    let one = cluster.done(0, &["queue", "publish", "jobs", "résumé", "--id", "m-1", "--content-type", "text/plain"]);
    assert_eq!((&one["id"], &one["duplicate"]), (&json!("m-1"), &json!(false)));
    let again = cluster.done(1, &["queue", "publish", "jobs", "other", "--id", "m-1"]);
    let expected = json!({"id": "m-1", "partition": one["partition"], "offset": one["offset"], "duplicate": true});
    assert_eq!(again, expected);
    let some = cluster.done(1, &["queue", "publish", "jobs", "two", "three", "--attribute", "k=v"]);
    assert_eq!(some["results"].as_array().unwrap().len(), 2);

    let received = cluster.done(1, &["queue", "receive", "jobs", "--max", "10", "--visibility", "10m"]);
    let messages = &received["messages"];
    assert_eq!(texts(messages, "body"), ["résumé", "two", "three"]);
    let first = &messages[0];
    assert_eq!(
        (&first["id"], &first["content_type"], &first["encoding"], &first["deliveries"], &first["priority"]),
        (&json!("m-1"), &json!("text/plain"), &json!("utf-8"), &json!(1), &json!(4))
    );
    assert_eq!((&messages[1]["attributes"], &messages[1]["content_type"]), (&json!({"k": "v"}), &Value::Null));
    let (empty, code) = cluster.json(0, &["queue", "receive", "jobs"]);
    assert_eq!((empty, code), (json!({"messages": []}), 3));

    let receipts = texts(messages, "receipt");
    let acknowledged = cluster.done(0, &["queue", "ack", "jobs", receipts[0]]);
    assert_eq!(acknowledged, json!({"done": [receipts[0]], "failed": []}));
    let extended = cluster.done(1, &["queue", "extend", "jobs", receipts[1], "--visibility", "1h"]);
    assert_eq!(extended["done"], json!([receipts[1]]));
    let given_back = cluster.done(0, &["queue", "nack", "jobs", receipts[2], "--delay", "0s"]);
    assert_eq!(given_back["done"], json!([receipts[2]]));
    let (late, code) = cluster.json(0, &["queue", "ack", "jobs", receipts[2], "nonsense"]);
    let failed = |receipt: &str| json!({"receipt": receipt, "type": "receipt-expired"});
    assert_eq!(code, 4, "{late}");
    for receipt in [receipts[2], "nonsense"] {
        assert!(late["failed"].as_array().unwrap().contains(&failed(receipt)), "{late}");
    }
    let second_time = cluster.done(0, &["queue", "receive", "jobs", "--wait", "10s"]);
    assert_eq!(
        (&second_time["messages"][0]["body"], &second_time["messages"][0]["deliveries"]),
        (&json!("three"), &json!(2))
    );
}

#[test]
fn lines_of_stdin_come_out_as_lines_of_consume_in_order() {
    let cluster = DevCluster::of(2);
    let lines: String = (0..2500).map(|number| format!("line {number}\n")).collect();
    let published = cluster.run_with_input(0, &["queue", "publish", "lines", "-"], lines.as_bytes());
    // A repeated batch says that some were there already.
    let said = String::from_utf8(published.stdout).unwrap();
    assert_eq!((published.status.code(), said.starts_with("published 2500")), (Some(0), true), "{said}");
    let consumed = cluster.run(1, &["queue", "consume", "lines", "--max", "2500", "--visibility", "10m"]);
    assert_eq!(consumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&consumed.stderr));
    assert!(consumed.stdout == lines.as_bytes(), "{} bytes of {}", consumed.stdout.len(), lines.len());
    let left = cluster.done(0, &["queue", "show", "lines"]);
    assert_eq!((&left["depth"], &left["in_flight"]), (&json!(0), &json!(0)), "{left}");

    let document = cluster.run_with_input(1, &["--output", "json", "queue", "publish", "lines", "-"], b"a\n\nb");
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!(document["results"].as_array().unwrap().len(), 3);
    let none = cluster.run_with_input(1, &["--output", "json", "queue", "publish", "lines", "-"], b"");
    assert_eq!(none.stdout, b"{\"results\":[]}\n");
    let peeked = cluster.done(0, &["queue", "peek", "lines"]);
    assert_eq!(texts(&peeked["messages"], "body"), ["a", "", "b"]);
}

#[test]
fn ctrl_c_ends_consume_with_0_and_what_was_written_is_acknowledged() {
    let cluster = DevCluster::of(1);
    cluster.done(0, &["queue", "publish", "q", "two\nlines"]);
    let mut consume =
        cluster.command(0, &["--output", "json", "queue", "consume", "q"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(consume.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&first["event"], &first["body"]), (&json!("message"), &json!("two\nlines")));
    kill_process(Pid::from_child(&consume), Signal::INT).unwrap();
    assert_eq!(consume.wait().unwrap().code(), Some(0));
    let left = cluster.done(0, &["queue", "show", "q"]);
    assert_eq!((&left["depth"], &left["in_flight"]), (&json!(0), &json!(0)), "{left}");

    // Without acknowledgements no more than the prefetch are out.
    for _ in 0..3 {
        cluster.done(0, &["queue", "publish", "q", "x"]);
    }
    let mut consume = cluster
        .command(0, &["queue", "consume", "q", "--no-ack", "--prefetch", "2", "--visibility", "10m"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<String> =
        BufReader::new(consume.stdout.as_mut().unwrap()).lines().take(2).map(Result::unwrap).collect();
    assert_eq!(lines, ["x", "x"]);
    let left = cluster.done(0, &["queue", "show", "q"]);
    assert_eq!((&left["depth"], &left["in_flight"]), (&json!(1), &json!(2)), "{left}");
    kill_process(Pid::from_child(&consume), Signal::INT).unwrap();
    assert_eq!(consume.wait().unwrap().code(), Some(0));
}

#[test]
fn queues_are_configured_shown_emptied_and_deleted() {
    let cluster = DevCluster::of(2);
    let config = cluster.done(
        0,
        &[
            "queue",
            "configure",
            "a/b",
            "--visibility",
            "5s",
            "--max-deliveries",
            "1",
            "--max-messages",
            "2",
            "--on-expiry",
            "dead-letter",
            "--retention",
            "1d",
        ],
    );
    let expected = json!({
        "retention_s": 86_400, "visibility_ms": 5000, "max_deliveries": 1, "dead_letter": "a/b.dead",
        "on_expiry": "dead-letter", "max_messages": 2, "max_bytes": null, "dedup_window_s": 300,
    });
    assert_eq!(config, expected);
    cluster.done(1, &["queue", "publish", "a/b", "x", "y"]);
    assert_eq!(cluster.refusal(0, &["queue", "publish", "a/b", "z"]), ("queue-full".to_owned(), 5));
    let shown = cluster.done(0, &["queue", "show", "a/b"]);
    assert_eq!((&shown["config"], &shown["depth"], &shown["bytes"]), (&expected, &json!(2), &json!(2)));
    eventually("it has a primary and two copies", || {
        let shown = cluster.done(0, &["queue", "show", "a/b"]);
        shown["primary"].is_string() && shown["in_sync"].as_array().unwrap().len() == 2
    });

    // A delivery that fails is the last one: the message goes to the dead letters, and comes back.
    let received = cluster.done(1, &["queue", "receive", "a/b"]);
    let receipt = received["messages"][0]["receipt"].as_str().unwrap();
    cluster.done(1, &["queue", "nack", "a/b", receipt, "--delay", "0s"]);
    let dead = ["queue", "peek", "a/b.dead"];
    eventually("the message is a dead letter", || cluster.run(0, &dead).status.success());
    assert_eq!(texts(&cluster.done(0, &dead)["messages"], "body"), ["x"]);
    assert_eq!(cluster.done(1, &["queue", "redrive", "a/b"]), json!({"redriven": 1}));
    eventually("the dead letter is back", || cluster.done(0, &["queue", "show", "a/b"])["depth"] == 2);

    let names =
        |list: &Value| texts(&list["queues"], "queue").iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&cluster.done(1, &["queue", "list"])), ["a/b", "a/b.dead", "first"]);
    assert_eq!(names(&cluster.done(1, &["queue", "list", "--prefix", "a/"])), ["a/b", "a/b.dead"]);
    assert_eq!(cluster.done(0, &["queue", "purge", "a/b"]), json!({"purged": 2}));
    assert_eq!(cluster.json(0, &["queue", "peek", "a/b"]), (json!({"messages": []}), 3));
    assert_eq!(cluster.done(0, &["queue", "delete", "a/b"]), json!({}));
    for command in ["show", "receive", "peek", "purge", "delete", "redrive"] {
        assert_eq!(cluster.refusal(1, &["queue", command, "a/b"]), ("not-found".to_owned(), 3), "{command}");
    }
    let (late, code) = cluster.json(0, &["queue", "ack", "a/b", receipt]);
    assert_eq!((&late["done"], code), (&json!([]), 4), "{late}");

    let table = String::from_utf8(cluster.run(0, &["queue", "list"]).stdout).unwrap();
    assert!(table.starts_with("QUEUE") && table.lines().any(|line| line.starts_with("first ")), "{table}");
}

#[test]
fn a_partition_that_is_served_is_not_given_up() {
    let cluster = DevCluster::of(1);
    let asked = cluster.run(0, &["queue", "recover", "0"]);
    let said = String::from_utf8(asked.stderr).unwrap();
    assert_eq!((asked.status.code(), said.contains("is served")), (Some(2), true), "{said}");
    assert_eq!(cluster.refusal(0, &["queue", "recover", "0", "--accept-loss"]), ("conflict".to_owned(), 1));
    assert_eq!(cluster.refusal(0, &["queue", "recover", "9999", "--accept-loss"]), ("not-found".to_owned(), 3));
}

#[test]
fn a_benchmark_of_queues_reports_every_run_and_leaves_nothing() {
    let cluster = DevCluster::of(1);
    let report = cluster.done(
        0,
        &["bench", "queue", "--duration", "500ms", "--clients", "1,2", "--size", "32", "--batch", "10", "--rate", "50"],
    );
    let runs = report["runs"].as_array().unwrap();
    let modes: Vec<Value> = runs.iter().map(|run| json!([run["mode"], run["clients"]])).collect();
    let expected: Vec<Value> = ["publish", "batch", "consume", "latency"]
        .iter()
        .flat_map(|mode| [1, 2].map(|clients| json!([mode, clients])))
        .collect();
    assert_eq!(modes, expected);
    for run in runs {
        assert!(run["messages"].as_u64().unwrap() > 0 && run["failures"] == 0, "{run}");
        assert!(run["p50_us"].as_u64() <= run["p99_us"].as_u64() && run["p99_us"].as_u64() <= run["max_us"].as_u64());
    }
    assert_eq!(texts(&cluster.done(0, &["queue", "list"])["queues"], "queue"), ["first"]);
}

#[test]
fn arguments_that_make_no_sense_are_2_and_no_node_is_5() {
    let code = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncmesh"));
        command
            .args(["--url", "http://127.0.0.1:1"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .status
            .code()
    };
    for usage in [
        &["queue", "publish", "q"][..],
        &["queue", "publish", "q", "-", "x"],
        &["queue", "publish", "q", "x", "y", "--id", "m"],
        &["queue", "publish", "q", "x", "--priority", "10"],
        &["queue", "publish", "q", "x", "--delay", "5"],
        &["queue", "publish", "..", "x"],
        &["queue", "publish", "q", "x", "--attribute", "novalue"],
        &["queue", "ack", "q"],
        &["queue", "configure", "q", "--retention", "1500ms"],
        &["queue", "receive", "q", "--wait", "1"],
        &["bench", "queue", "--size", "8"],
        &["bench", "queue", "--duration", "0s"],
    ] {
        assert_eq!(code(usage), Some(2), "{usage:?}");
    }
    for unreachable in [
        &["queue", "publish", "q", "x"][..],
        &["queue", "receive", "q"],
        &["queue", "consume", "q"],
        &["queue", "list"],
        &["queue", "ack", "q", "r"],
        &["queue", "recover", "1"],
        &["bench", "queue", "--duration", "1s"],
    ] {
        assert_eq!(code(unreachable), Some(5), "{unreachable:?}");
    }
}
