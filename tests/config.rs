//! The configuration as people meet it: flags, environment, `.env`, exit codes, what is printed where.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command as Process, Stdio},
};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// The program in an empty directory, with an empty environment.
fn syncmesh(directory: &TempDir) -> Command {
    let mut command = Command::cargo_bin("syncmesh").expect("the program is built with its tests");
    command.current_dir(directory.path()).env_clear();
    command
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).expect("stdout is UTF-8")
}

/// Exit code and the lines of stderr; stdout must be empty.
fn failure(command: &mut Command) -> (i32, Vec<String>) {
    let output = command.assert().failure().get_output().clone();
    assert!(output.stdout.is_empty(), "only results go to stdout: {}", String::from_utf8_lossy(&output.stdout));
    let stderr = String::from_utf8(output.stderr).expect("stderr is UTF-8");
    (output.status.code().expect("no signal"), stderr.lines().map(str::to_owned).collect())
}

/// One setting of `config show --output json`.
fn shown(command: &mut Command, name: &str) -> Value {
    let text = stdout(command.args(["--output", "json"]));
    assert_eq!(text.lines().count(), 1, "JSON is one line");
    let document: Value = serde_json::from_str(&text).expect("stdout is JSON");
    let settings = document["settings"].as_array().expect("`settings` is a list");
    settings.iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("{name} is not shown")).clone()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("the file exists").permissions().mode() & 0o777
}

#[test]
fn check_reports_every_fault_at_once_and_exits_with_78() {
    let directory = tempdir().unwrap();
    fs::write(directory.path().join(".env"), "CACHE_PROTOCOL=MEOW\nHEARTBEAT_INTERVAL=200\nUNKNOWN=x\n").unwrap();
    let flags = ["--shutdown-grace", "1500ms", "--listen", "nowhere", "--cache-capacity", "-1"];
    let mut command = syncmesh(&directory);
    command.env("QUEUE_REPLICAS", "9").env("API_TOKEN", "not one word");
    let (code, lines) = failure(command.args(["config", "check"]).args(flags));
    assert_eq!(code, 78);
    for (name, value, source) in [
        ("CACHE_PROTOCOL", "MEOW", ".env"),
        ("HEARTBEAT_INTERVAL", "200", ".env"),
        ("QUEUE_REPLICAS", "9", "environment"),
        ("API_TOKEN", "<redacted>", "environment"),
        ("SHUTDOWN_GRACE", "1500ms", "flag --shutdown-grace"),
        ("LISTEN_ADDRS", "nowhere", "flag --listen-addrs"),
        ("CACHE_CAPACITY", "-1", "flag --cache-capacity"),
    ] {
        let beginning = format!("{name}={value} ({source}): expected ");
        let found: Vec<_> = lines.iter().filter(|line| line.starts_with(&beginning)).collect();
        assert_eq!(found.len(), 1, "{beginning}\n{}", lines.join("\n"));
    }
    assert_eq!(lines.len(), 7, "{lines:?}");
}

#[test]
fn with_json_the_faults_are_one_problem_document() {
    let directory = tempdir().unwrap();
    let (code, lines) = failure(
        syncmesh(&directory).args(["config", "check", "--output", "json", "--mdns", "maybe", "--role", "cook"]),
    );
    assert_eq!((code, lines.len()), (78, 1));
    let problem: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(problem["type"], "bad-request");
    assert_eq!(problem["faults"].as_array().unwrap().len(), 2);
}

#[test]
fn a_valid_configuration_passes_the_check() {
    let directory = tempdir().unwrap();
    assert_eq!(stdout(syncmesh(&directory).args(["config", "check"])), "The configuration is valid.\n");
    assert_eq!(stdout(syncmesh(&directory).args(["config", "check", "--output=json"])), "{}\n");
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default() {
    let directory = tempdir().unwrap();
    let value_and_source = |command: &mut Command| {
        let setting = shown(command.args(["config", "show"]), "FAILURE_TIMEOUT");
        (setting["value"].clone(), setting["source"].as_str().unwrap().to_owned(), setting["unit"].clone())
    };
    let is = |value: u64, source: &str| (Value::from(value), source.to_owned(), Value::from("ms"));

    assert_eq!(value_and_source(&mut syncmesh(&directory)), is(2000, "default"));
    fs::write(directory.path().join(".env"), "FAILURE_TIMEOUT=1s\n").unwrap();
    assert_eq!(value_and_source(&mut syncmesh(&directory)), is(1000, ".env"));
    assert_eq!(value_and_source(syncmesh(&directory).env("FAILURE_TIMEOUT", "")), is(1000, ".env"));
    assert_eq!(value_and_source(syncmesh(&directory).env("FAILURE_TIMEOUT", "900")), is(900, "environment"));
    let mut flag = syncmesh(&directory);
    flag.env("FAILURE_TIMEOUT", "900").args(["config", "show", "--failure-timeout", "800"]);
    let setting = shown(&mut flag, "FAILURE_TIMEOUT");
    assert_eq!((&setting["value"], &setting["source"]), (&Value::from(800), &Value::from("flag")));
}

#[test]
fn another_env_file_can_be_named_and_must_exist() {
    let directory = tempdir().unwrap();
    fs::write(directory.path().join(".env"), "CLUSTER_NAME=one\n").unwrap();
    fs::write(directory.path().join("two.env"), "CLUSTER_NAME=two\n").unwrap();
    let setting = shown(syncmesh(&directory).args(["config", "show", "--env-file", "two.env"]), "CLUSTER_NAME");
    assert_eq!((&setting["value"], &setting["source"]), (&Value::from("two"), &Value::from(".env")));

    let (code, lines) = failure(syncmesh(&directory).args(["--env-file", "three.env", "config", "check"]));
    assert_eq!(code, 78);
    assert!(lines.len() == 1 && lines[0].starts_with("--env-file=three.env"), "{lines:?}");
}

#[test]
fn lists_come_from_flags_that_repeat() {
    let directory = tempdir().unwrap();
    let arguments =
        ["config", "show", "--role", "bootstrap", "--role", "lock-manager", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let roles = shown(syncmesh(&directory).args(arguments), "NODE_ROLES");
    assert_eq!(roles["value"], serde_json::json!(["lock-manager", "bootstrap"]));
    let listeners = shown(syncmesh(&directory).args(arguments), "LISTEN_ADDRS");
    assert_eq!(listeners["value"], serde_json::json!(["/ip4/127.0.0.1/tcp/0"]));
}

#[test]
fn secrets_are_never_printed() {
    let directory = tempdir().unwrap();
    let mut command = syncmesh(&directory);
    command.env("API_TOKEN", "s3cret").env("REDIS_URL", "redis://:s3cret@127.0.0.1:6379");
    let text = stdout(command.args(["config", "show"]));
    assert!(!text.contains("s3cret") && text.contains("<redacted>"), "{text}");

    let in_query = "redis://127.0.0.1:6379/0?password=s3cret";
    let shown = shown(syncmesh(&directory).args(["config", "show", "--redis-url", in_query]), "REDIS_URL");
    assert_eq!(shown["value"], "redis://127.0.0.1:6379/0?password=<redacted>");
}

#[test]
fn wrong_arguments_exit_with_2_and_print_nothing_on_stdout() {
    let directory = tempdir().unwrap();
    for arguments in [&["confg"][..], &["config", "check", "--no-such-flag"], &["config", "check", "--mdns"], &[]] {
        assert_eq!(failure(syncmesh(&directory).args(arguments)).0, 2, "{arguments:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let directory = tempdir().unwrap();
    let mut child = Process::new(assert_cmd::cargo::cargo_bin!("syncmesh"))
        .args(["config", "show"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn init_makes_a_key_that_only_its_owner_reads_and_never_overwrites_it() {
    let directory = tempdir().unwrap();
    let bundle = directory.path().join("bootstrap");
    stdout(syncmesh(&directory).arg("init"));
    let key = fs::read_to_string(bundle.join("cluster.key")).unwrap();
    assert!(key.starts_with("/key/swarm/psk/1.0.0/\n/base16/\n") && key.len() == 96, "{} bytes", key.len());
    assert_eq!(mode(&bundle.join("cluster.key")), 0o600);
    assert_eq!(fs::read_to_string(bundle.join("peers")).unwrap(), "");

    fs::write(bundle.join("peers"), "/ip4/192.0.2.7/tcp/4001\n").unwrap();
    let (code, lines) = failure(syncmesh(&directory).arg("init"));
    assert_eq!(code, 1);
    assert!(lines[0].contains("cluster.key exists"), "{lines:?}");
    assert_eq!(fs::read_to_string(bundle.join("cluster.key")).unwrap(), key);
    assert_eq!(fs::read_to_string(bundle.join("peers")).unwrap(), "/ip4/192.0.2.7/tcp/4001\n");
    assert_eq!(fs::read_dir(&bundle).unwrap().count(), 2, "no drafts are left behind");
}

#[test]
fn the_key_of_the_bundle_is_found_and_an_exposed_one_is_refused() {
    let directory = tempdir().unwrap();
    stdout(syncmesh(&directory).arg("init"));
    let listeners = shown(syncmesh(&directory).args(["config", "show"]), "LISTEN_ADDRS");
    assert_eq!(listeners["value"], serde_json::json!(["/ip4/0.0.0.0/tcp/4001"]));
    let key = directory.path().join("bootstrap/cluster.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let (code, lines) = failure(syncmesh(&directory).args(["config", "check"]));
    assert_eq!(code, 78);
    assert!(lines.len() == 1 && lines[0].starts_with("CLUSTER_KEY_FILE=bootstrap/cluster.key (default)"), "{lines:?}");
}

#[test]
fn the_example_in_the_repository_is_the_one_that_the_program_writes() {
    let directory = tempdir().unwrap();
    let written = stdout(syncmesh(&directory).args(["config", "example"]));
    let committed = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".env.example")).unwrap();
    assert!(committed == written, ".env.example is out of date: cargo run -- config example > .env.example");

    fs::write(directory.path().join(".env"), &written).unwrap();
    stdout(syncmesh(&directory).args(["config", "check"]));
    for line in ["LOCK_MANAGERS=3", "QUEUE_NODES=3", "CACHE_NODES=3", "QUEUE_REPLICAS=2", "# NODE_ROLES=", "# MDNS=on"]
    {
        assert!(written.lines().any(|found| found.starts_with(line)), "{line}");
    }
}
