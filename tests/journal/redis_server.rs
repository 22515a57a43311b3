//! A redis-server of a test's own, on a free loopback port, with its files in a temporary directory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a server has to start and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a journal wants of its server.
const DURABLE: &[(&str, &str)] =
    &[("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction"), ("save", "")];

/// A server, killed when dropped.
pub(crate) struct RedisServer {
    dir: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl RedisServer {
    /// One that syncs each command; none with a line that says why, unless all tests are required.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// One with these settings beside or instead of those.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Option<Self> {
        let version = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if let Err(error) = version {
            skipped(&format!("needs redis-server: {error}"));
            return None;
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let settings = DURABLE.iter().chain(settings).map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut server = Self { dir: TempDir::new().unwrap(), port, settings, child: None };
        server.launch();
        Some(server)
    }

    /// Starts it, on the files that are there, and waits until it answers.
    pub(crate) fn launch(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--daemonize", "no"]);
        command.arg("--dir").arg(self.dir.path());
        for (name, value) in &self.settings {
            command.arg(format!("--{name}")).arg(value);
        }
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < deadline, "redis-server does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it is there and has loaded its data.
    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else { return false };
        let mut answer = [0; 5];
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && (&answer == b"+PONG" || answer.starts_with(b"-NOAU"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().expect("it runs"));
        kill_process(pid, signal).unwrap();
    }

    /// As a crash of the process does it.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.take().unwrap().wait().unwrap();
    }

    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it something.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection: Connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut connection).unwrap()
    }

    /// The keys that match.
    pub(crate) fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", pattern]);
        keys.sort();
        keys
    }

    /// The file that commands are appended to. While it is down.
    pub(crate) fn appended(&self) -> PathBuf {
        let files = fs::read_dir(self.dir.path().join("appendonlydir")).unwrap();
        let mut found: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        found.retain(|path| path.to_str().unwrap().ends_with(".incr.aof"));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// Cuts its file to so many bytes, as a power failure does with what was not synced. While it is down.
    pub(crate) fn cut(&self, length: u64) {
        assert!(self.child.is_none());
        OpenOptions::new().write(true).open(self.appended()).unwrap().set_len(length).unwrap();
    }

    /// A copy of all its files. While it is down.
    pub(crate) fn back_up(&self) -> TempDir {
        assert!(self.child.is_none());
        let copy = TempDir::new().unwrap();
        copy_all(&self.dir.path().join("appendonlydir"), &copy.path().join("appendonlydir"));
        copy
    }

    /// Puts a copy in the place of its files. While it is down.
    pub(crate) fn put_back(&self, copy: &TempDir) {
        assert!(self.child.is_none());
        fs::remove_dir_all(self.dir.path().join("appendonlydir")).unwrap();
        copy_all(&copy.path().join("appendonlydir"), &self.dir.path().join("appendonlydir"));
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Tells `tests/run` that a test cannot run here, and why; where all are required it fails.
fn skipped(reason: &str) {
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "cannot run here and is required: {reason}");
    eprintln!("skipped: {reason}");
    if let Ok(list) = std::env::var("SYNCMESH_SKIPPED") {
        let mut list = OpenOptions::new().append(true).open(list).expect("tests/run made the list");
        list.write_all(format!("{reason}\n").as_bytes()).expect("the list can be written");
    }
}
