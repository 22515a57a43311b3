//! A cluster in one process of the real program, and the program as its client.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take that comes about by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// `syncmesh dev`, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct DevCluster {
    process: Child,
    urls: Vec<String>,
}

impl DevCluster {
    /// Starts as many nodes and waits until a queue can be published to.
    pub(crate) fn of(nodes: usize) -> Self {
        Self::with_settings(nodes, &[])
    }

    pub(crate) fn with_settings(nodes: usize, flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_syncmesh"))
            .args(["--output", "json", "dev", "--api-port", "0", "--nodes", &nodes.to_string()])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        let url = |node: &Value| node["api_url"].as_str().unwrap().to_owned();
        let cluster = Self { process, urls: started["nodes"].as_array().unwrap().iter().map(url).collect() };
        eventually("a node keeps the first queue", || {
            cluster.run(0, &["queue", "publish", "first", "x"]).status.success()
        });
        cluster
    }

    /// The URL of a node.
    pub(crate) fn url(&self, node: usize) -> &str {
        &self.urls[node]
    }

    /// The program, about to talk to a node.
    pub(crate) fn command(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncmesh"));
        command.args(["--url", self.url(node)]).args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, node: usize, arguments: &[&str]) -> Output {
        self.command(node, arguments).output().unwrap()
    }

    /// Runs a command that gets this on stdin.
    pub(crate) fn run_with_input(&self, node: usize, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(node, arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writing = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        // A program that has had enough hangs up.
        let _ = writing.join().unwrap();
        output
    }

    /// The document that a command prints, and its exit code.
    pub(crate) fn json(&self, node: usize, arguments: &[&str]) -> (Value, i32) {
        let output = self.run(node, &[&["--output", "json"], arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        (serde_json::from_str(&text).unwrap(), output.status.code().unwrap())
    }

    /// The document of a command that does not fail.
    pub(crate) fn done(&self, node: usize, arguments: &[&str]) -> Value {
        let (document, code) = self.json(node, arguments);
        assert_eq!(code, 0, "{arguments:?}: {document}");
        document
    }

    /// The slug of a command that is refused, and its exit code.
    pub(crate) fn refusal(&self, node: usize, arguments: &[&str]) -> (String, i32) {
        let output = self.run(node, &[&["--output", "json"], arguments].concat());
        let problem: Value =
            serde_json::from_slice(&output.stderr).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"));
        (problem["type"].as_str().unwrap().to_owned(), output.status.code().unwrap())
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        // It removes its data when it is asked to end.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if matches!(self.process.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
