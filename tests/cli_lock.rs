//! The lock commands as a person or a script meets them: the real program against a node that answers
//! as it is told. What a cluster answers is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake_node;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use fake_node::{FakeNode, TOKEN};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

fn syncmesh(node: &FakeNode, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncmesh"));
    command.args(["--url", &node.url()]).args(arguments).env_remove("SYNCMESH_SESSION").stdin(Stdio::null());
    command
}

fn run(node: &FakeNode, arguments: &[&str]) -> Output {
    syncmesh(node, arguments).output().unwrap()
}

fn run_under_lock(node: &FakeNode, script: &str) -> Output {
    run(node, &["lock", "run", "a/b", "--", "sh", "-c", script])
}

/// Starts `lock run` and waits for the first line that the script prints.
fn start_under_lock(node: &FakeNode, flags: &[&str], script: &str) -> (Child, String) {
    let arguments = [&["lock", "run", "a"], flags, &["--", "sh", "-c", script]].concat();
    let mut child = syncmesh(node, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

/// Whether a process runs; a zombie that nobody reaps here does not.
fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_ok() && stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_command_knows_its_lock_and_its_code_is_passed_on() {
    let node = FakeNode::granting();
    let output = run_under_lock(&node, "echo $SYNCMESH_LOCK $SYNCMESH_SESSION $SYNCMESH_FENCING_TOKEN; exit 7");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("a/b s-1 {TOKEN}\n"));
    assert_eq!(output.status.code(), Some(7));
    assert!(node.session_was_closed());
    assert_eq!(run_under_lock(&node, "exit 0").status.code(), Some(0));
}

#[test]
fn a_command_that_a_signal_ended_is_128_and_the_signal() {
    let node = FakeNode::granting();
    assert_eq!(run_under_lock(&node, "kill -9 $$").status.code(), Some(137));
    assert_eq!(run_under_lock(&node, "kill -TERM $$").status.code(), Some(143));
}

#[test]
fn a_command_that_cannot_be_run_is_126_or_127() {
    let node = FakeNode::granting();
    let missing = run(&node, &["lock", "run", "a", "--", "/nonexistent/command"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("/nonexistent/command cannot be run"));
    assert_eq!(run(&node, &["lock", "run", "a", "--", "/etc/passwd"]).status.code(), Some(126));
    assert!(node.session_was_closed());
}

#[test]
fn with_json_why_a_command_cannot_be_run_is_a_problem_document() {
    let node = FakeNode::granting();
    for (command, code) in [("/nonexistent/command", 127), ("/etc/passwd", 126)] {
        let output = run(&node, &["--output", "json", "lock", "run", "a", "--", command]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        let problem: Value = serde_json::from_str(&stderr).unwrap_or_else(|error| panic!("{error}: {stderr}"));
        assert_eq!((output.status.code(), problem["type"].as_str()), (Some(code), Some("bad-request")), "{stderr}");
        assert!(problem["detail"].as_str().unwrap().contains(command), "{stderr}");
    }
}

#[test]
fn a_lock_that_is_not_granted_runs_nothing() {
    let script = "echo it ran";
    for (status, slug, code) in [(409, "lock-timeout", 124), (409, "lock-deadlock", 125), (503, "no-quorum", 125)] {
        let output = run_under_lock(&FakeNode::refusing(status, slug), script);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), [].as_slice()), "{slug}");
    }
    let mut unreachable = Command::new(env!("CARGO_BIN_EXE_syncmesh"));
    unreachable.args(["--url", "http://127.0.0.1:1", "lock", "run", "a", "--", "sh", "-c", script]);
    assert_eq!(unreachable.output().unwrap().status.code(), Some(125));
    assert_eq!(run(&FakeNode::granting(), &["lock", "run", "a"]).status.code(), Some(2));
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let node = FakeNode::granting();
    for (name, signal) in [("TERM", Signal::TERM), ("INT", Signal::INT), ("HUP", Signal::HUP), ("USR1", Signal::USR1)] {
        let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.05; done");
        let (mut child, _) = start_under_lock(&node, &[], &script);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9), "{name}");
    }
}

#[test]
fn the_command_ends_before_the_lease_does_when_keep_alives_fail() {
    let node = FakeNode::granting();
    // A shell that ignores TERM, and so does the child that outlives it in the group.
    let script = "trap '' TERM; sleep 100 & echo $!; while :; do sleep 0.05; done";
    let ttl = Duration::from_secs(3);
    let (mut child, straggler) = start_under_lock(&node, &["--ttl", "3s", "--kill-after", "10s"], script);
    node.fail_keep_alives();
    eventually("the end of the command", || !is_running(pid(&straggler)));
    let ended = node.since_last_keep_alive();
    assert!(ended < ttl, "the command ran {ended:?} after the last keep-alive, the lease lasts {ttl:?}");
    assert!(ended > ttl / 2, "the command was ended after {ended:?}, before keep-alives had their chance");
    assert_eq!(child.wait().unwrap().code(), Some(125));
    let mut stderr = String::new();
    child.stderr.unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("the lock is lost"), "{stderr}");
}

#[test]
fn the_command_ends_when_an_operator_breaks_the_lock() {
    let node = FakeNode::granting();
    let (mut child, shell) = start_under_lock(&node, &[], "echo $$; while :; do sleep 0.05; done");
    node.break_lock();
    assert_eq!(child.wait().unwrap().code(), Some(125));
    assert!(!is_running(pid(&shell)));
}

#[test]
fn the_command_does_not_outlive_a_lock_run_that_is_killed() {
    let node = FakeNode::granting();
    let (mut child, shell) = start_under_lock(&node, &[], "echo $$; while :; do sleep 0.05; done");
    assert!(is_running(pid(&shell)));
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the end of the command", || !is_running(pid(&shell)));
}

#[test]
fn what_a_command_leaves_in_its_group_ends_before_the_lock_is_given_back() {
    let node = FakeNode::granting();
    let output = run_under_lock(&node, "sleep 100 >/dev/null 2>&1 & echo $!; exit 3");
    assert_eq!(output.status.code(), Some(3));
    assert!(!is_running(pid(String::from_utf8(output.stdout).unwrap().trim())));
}

#[test]
fn json_is_the_body_as_it_came_and_errors_are_problems() {
    let node = FakeNode::granting();
    let json_of = |arguments: &[&str]| {
        let output = run(&node, &[&["--output", "json"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let grant = json_of(&["lock", "acquire", "a", "--shared", "--ttl", "5s"]);
    let expected =
        json!({"lock": "a", "mode": "shared", "session": "s-1", "fencing_token": TOKEN, "expires_in_ms": 5000});
    assert_eq!(grant, expected);
    assert_eq!(json_of(&["lock", "release", "a", "--session", "s-1"]), json!({}));
    let names: Vec<Value> =
        json_of(&["lock", "list"])["locks"].as_array().unwrap().iter().map(|lock| lock["lock"].clone()).collect();
    assert_eq!(names, ["a", "b"]);
    let refused = run(&FakeNode::refusing(409, "lock-timeout"), &["--output", "json", "lock", "acquire", "a"]);
    assert_eq!(refused.status.code(), Some(4));
    let problem: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!((&problem["type"], &problem["holders"]), (&json!("lock-timeout"), &json!(["other"])));
}

#[test]
fn the_session_may_come_from_the_environment_and_must_come_from_somewhere() {
    let node = FakeNode::granting();
    assert_eq!(run(&node, &["lock", "release", "a"]).status.code(), Some(2));
    assert_eq!(run(&node, &["lock", "keepalive"]).status.code(), Some(2));
    let with_variable = syncmesh(&node, &["lock", "release", "a"]).env("SYNCMESH_SESSION", "s-1").output().unwrap();
    assert_eq!(with_variable.status.code(), Some(0));
    assert_eq!(run(&node, &["lock", "keepalive", "s-1"]).status.code(), Some(0));
}

#[test]
fn a_watch_prints_one_object_a_line_with_the_event_in_it() {
    let node = FakeNode::granting();
    let mut watch =
        syncmesh(&node, &["--output", "json", "lock", "watch", "a"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let first = next();
    assert_eq!((&first["event"], &first["holders"][0]["session"]), (&json!("state"), &json!("s-1")));
    node.break_lock();
    assert_eq!(next()["event"], "broken");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn ctrl_c_ends_a_watch_with_0() {
    let node = FakeNode::granting();
    let mut watch = syncmesh(&node, &["lock", "watch", "a"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    kill_process(Pid::from_child(&watch), Signal::INT).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn a_benchmark_reports_every_run_as_json() {
    let node = FakeNode::granting();
    let arguments = ["--output", "json", "bench", "lock", "--duration", "200ms", "--clients", "1,3", "--mode", "one"];
    let output = run(&node, &arguments);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["clients"].clone()).collect::<Vec<_>>(), [1, 3]);
    for run in runs {
        assert!(run["pairs"].as_u64().unwrap() > 0 && run["failures"] == 0, "{run}");
        assert!(run["p50_us"].as_u64() <= run["p99_us"].as_u64() && run["p99_us"].as_u64() <= run["max_us"].as_u64());
    }
}

#[test]
fn without_a_node_a_command_exits_with_5_and_a_health_check_with_1() {
    let code = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncmesh"));
        let output =
            command.args(["--url", "http://127.0.0.1:1", "--output", "json"]).args(arguments).output().unwrap();
        let problem: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(problem["type"], "unavailable");
        assert!(problem["detail"].as_str().unwrap().contains("http://127.0.0.1:1"));
        output.status.code().unwrap()
    };
    for arguments in [&["status"][..], &["members"], &["peer-info"], &["events"], &["lock", "list"]] {
        assert_eq!(code(arguments), 5, "{arguments:?}");
    }
    assert_eq!(code(&["health"]), 1);
    assert_eq!(code(&["health", "--ready"]), 1);
}

#[test]
fn a_watch_that_nobody_reads_any_more_ends_well_though_nothing_happens() {
    let node = FakeNode::granting();
    for format in ["text", "json"] {
        let mut watch = syncmesh(&node, &["--output", format, "lock", "watch", "a"]);
        let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(watch.stdout.take().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains("state"), "{line}");
        assert_eq!(watch.try_wait().unwrap(), None);
        drop(reader);
        eventually("the watch ends", || watch.try_wait().unwrap().is_some());
        assert_eq!(watch.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_term_beside_a_session_is_refused_wherever_the_session_comes_from() {
    let node = FakeNode::granting();
    let flag = run(&node, &["lock", "acquire", "a", "--session", "abc", "--ttl", "5s"]);
    let variable = syncmesh(&node, &["lock", "acquire", "a", "--ttl", "5s"]).env("SYNCMESH_SESSION", "abc").output();
    let variable = variable.unwrap();
    assert_eq!((flag.status.code(), variable.status.code()), (Some(2), Some(2)), "{variable:?}");
    assert!(variable.stdout.is_empty() && String::from_utf8_lossy(&variable.stderr).contains("SYNCMESH_SESSION"));
}

#[test]
fn a_health_check_ends_with_0_or_1_however_it_is_used() {
    let code = |arguments: &[&str], url: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncmesh"));
        command.args(arguments).env("SYNCMESH_URL", url).output().unwrap().status.code()
    };
    let nowhere = "http://127.0.0.1:1";
    assert_eq!(code(&["health", "--bogus"], nowhere), Some(1));
    assert_eq!(code(&["--output", "json", "health", "--ready", "surplus"], nowhere), Some(1));
    assert_eq!(code(&["health"], "no url"), Some(1));
    assert_eq!(code(&["health", "--help"], nowhere), Some(0));
    assert_eq!(code(&["status", "--bogus"], nowhere), Some(2));
    assert_eq!(code(&["lock", "run", "health"], nowhere), Some(2));
    assert_eq!(code(&["lock", "run", "a", "--", "true"], "no url"), Some(78));
}

/// The processes of a group that run.
fn members(group: Pid) -> Vec<String> {
    let stats = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.unwrap().path().join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let belongs = fields.get(2) == Some(&group.as_raw_nonzero().to_string().as_str());
        (belongs && fields[0] != "Z").then(|| stat.clone())
    });
    stats.collect()
}

#[test]
fn kill_9_leaves_nothing_of_the_group_behind() {
    let node = FakeNode::granting();
    // Grandchildren: one that ends when asked, and one that does not.
    let script = "sleep 78 & sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & echo $$; wait";
    let (mut child, leader) = start_under_lock(&node, &["--kill-after", "300ms"], script);
    let group = pid(&leader);
    eventually("the grandchildren run", || members(group).len() >= 3);
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    eventually("nothing of the group is left", || members(group).is_empty());
}

#[test]
fn a_command_that_has_ended_leaves_no_guardian_behind() {
    let node = FakeNode::granting();
    let (mut child, _) = start_under_lock(&node, &[], "echo here; exec sleep 78");
    let guardians = |of: u32| {
        let entries = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let is_one = |path: &std::path::PathBuf| {
            let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
            let command = std::fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            command.contains("watch-group") && stat.contains(&format!(") S {of} "))
        };
        entries.filter(is_one).collect::<Vec<_>>()
    };
    // It has just been told whom to watch, and sleeps in a moment.
    eventually("the guardian waits", || guardians(child.id()).len() == 1);
    let own = guardians(child.id());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
    assert!(!own[0].exists(), "it was reaped");
}
