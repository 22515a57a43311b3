//! A project of containers, driven by docker-compose as its operators drive it.
//!
//! Its name, its port and its settings are its own, so it meets no other project; whatever becomes of the test, its
//! containers, volumes and network are removed when the value is dropped, and the ends of its logs are shown if the test
//! failed.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    ask::{Done, run},
    engine::{self, command, docker},
    files::text,
    harness::NodeProcess,
};

/// The services that are scaled.
pub(crate) const SCALED: [&str; 3] = ["lock-manager", "queue-node", "cache-node"];
/// The image that is built where none is named.
const IMAGE: &str = "syncmesh-test";
/// Settings other than those of `.env.example`, so that what takes a minute there takes less here.
pub(crate) const DEAD_S: u64 = 8;
pub(crate) const FORGET_S: u64 = 40;
/// And two so that a machine which is busy with sixteen containers has its time: less than `stop_grace_period`, and more
/// than a node may have to wait for a processor, since a node that waits for longer loses its sessions, and values with
/// them.
const GRACE_S: u64 = 55;
const LEASE_MS: u64 = 6_000;
/// Lines of each container's log that a failed test shows.
const SHOWN_LINES: &str = "25";

/// The project.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) name: String,
    program: Vec<String>,
    dir: TempDir,
    /// Where clients outside of the containers find it: the gateway, as the published port.
    pub(crate) gateway: NodeProcess,
}

/// Says that containers cannot be tested here, and why; a failure where all tests are required.
fn skipped(reason: &str) {
    assert!(
        std::env::var("REQUIRE_ALL").as_deref() != Ok("1"),
        "containers are required and cannot be tested: {reason}"
    );
    crate::harness::skipped(&format!("needs docker and docker-compose: {reason}"));
}

impl Project {
    /// A project with its image, of which nothing runs yet; none with a line that says why.
    pub(crate) async fn new() -> Option<Self> {
        let program = match engine::answers().and_then(|()| engine::compose_program()) {
            Ok(program) => program,
            Err(reason) => {
                skipped(&reason);
                return None;
            }
        };
        let named = std::env::var("SYNCMESH_IMAGE").ok().filter(|image| !image.is_empty());
        let project = Self::with_image(program, named.as_deref().unwrap_or(IMAGE));
        engine::base_images().await;
        if named.is_none() {
            let began = Instant::now();
            project.compose(&["build"]).await;
            println!("built the image in {:.0?}", began.elapsed());
        }
        Some(project)
    }

    fn with_image(program: Vec<String>, image: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let example = text(".env.example");
        let tuned = ["MEMBER_DEAD_TIMEOUT", "MEMBER_FORGET_TIMEOUT", "SHUTDOWN_GRACE", "CACHE_LEASE"];
        let kept = example.lines().filter(|line| !tuned.iter().any(|name| line.starts_with(&format!("{name}="))));
        let own = format!(
            "MEMBER_DEAD_TIMEOUT={DEAD_S}\nMEMBER_FORGET_TIMEOUT={FORGET_S}\nSHUTDOWN_GRACE={GRACE_S}\n\
             CACHE_LEASE={LEASE_MS}\n\
             API_PORT={port}\nSYNCMESH_IMAGE={image}\n"
        );
        let settings = kept.map(|line| format!("{line}\n")).collect::<String>() + &own;
        fs::write(dir.path().join("env"), settings).unwrap();
        let mut gateway = NodeProcess::new(dir.path(), "gateway");
        gateway.api = crate::ask::Api::new(&format!("http://127.0.0.1:{port}"));
        Self { name: format!("syncmesh-test-{}", std::process::id()), program, dir, gateway }
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let env_file = self.dir.path().join("env");
        let own = ["-p", &self.name, "-f", "docker-compose.yml", "--env-file", env_file.to_str().unwrap()];
        self.program.iter().map(String::as_str).chain(own).chain(words.iter().copied()).map(str::to_owned).collect()
    }

    async fn try_compose(&self, words: &[&str]) -> Done {
        let words = self.words(words);
        run(command(&words.iter().map(String::as_str).collect::<Vec<_>>())).await
    }

    /// Runs a command of docker-compose; how long it took.
    pub(crate) async fn compose(&self, words: &[&str]) -> Duration {
        let done = self.try_compose(words).await;
        assert_eq!(done.code, 0, "docker-compose {words:?}: {done:?}");
        done.took
    }

    /// `up` with so many containers of each scaled service.
    pub(crate) async fn up(&self, count: usize) -> Duration {
        let scales = SCALED.map(|service| format!("{service}={count}"));
        let scales = scales.iter().flat_map(|scale| ["--scale", scale]);
        self.compose(&["up", "-d", "--no-build"].into_iter().chain(scales).collect::<Vec<_>>()).await
    }

    /// The containers of a service, running or not.
    pub(crate) async fn containers(&self, service: &str) -> Vec<String> {
        let project = format!("label=com.docker.compose.project={}", self.name);
        let service = format!("label=com.docker.compose.service={service}");
        let listed = docker(&["ps", "--all", "--quiet", "--filter", &project, "--filter", &service]).await;
        listed.lines().map(str::to_owned).collect()
    }

    /// The only container of a service.
    pub(crate) async fn container(&self, service: &str) -> String {
        let found = self.containers(service).await;
        let [only] = &found[..] else { panic!("{service}: {found:?}") };
        only.clone()
    }

    /// The network that all containers are on.
    pub(crate) fn network(&self) -> String {
        format!("{}_default", self.name)
    }

    /// Sends a signal to the process of a container from outside, where this user may: docker takes it for a crash.
    pub(crate) async fn crash(&self, container: &str) {
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", container]).await;
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).expect("it runs");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the tests run as a user who may");
    }

    /// A command of the program in a container.
    pub(crate) async fn inside(&self, container: &str, words: &[&str]) -> String {
        docker(&[&["exec", container, "syncmesh"], words].concat()).await
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let compose = |words: &[&str]| {
            let words = self.words(words);
            command(&words.iter().map(String::as_str).collect::<Vec<_>>()).output()
        };
        if std::thread::panicking()
            && let Ok(output) = compose(&["logs", "--no-color", "--tail", SHOWN_LINES])
        {
            println!("---- the logs end so:\n{}", String::from_utf8_lossy(&output.stdout));
        }
        match compose(&["down", "--volumes", "--timeout", "0"]) {
            Ok(output) if output.status.success() => {}
            failed => println!("{} could not be removed: {failed:?}", self.name),
        }
    }
}
