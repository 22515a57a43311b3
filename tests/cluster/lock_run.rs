//! `lock run` against a real cluster, end to end.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::{
    ask::{Api, Done, run, syncmesh},
    harness::{Cluster, eventually, holds},
};

async fn locked(api: &Api, flags: &[&str], script: &str) -> Done {
    let arguments = [&["--url", &api.url, "lock", "run", "printer"], flags, &["--", "sh", "-c", script]].concat();
    run(syncmesh(&arguments)).await
}

/// A `lock run` whose script has written its process id, and is killed with the value.
struct Running {
    child: Child,
    script: Pid,
    dir: TempDir,
}

impl Running {
    /// `script` runs after `$$` was written into `pid` in its working directory.
    async fn start(api: &Api, flags: &[&str], script: &str) -> Self {
        Self::prepared(api, flags, ":", script).await
    }

    /// Likewise, and all that is in `first` was done before.
    async fn prepared(api: &Api, flags: &[&str], first: &str, script: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let script = format!("{first}; echo $$ > pid.new; mv pid.new pid; {script}");
        let arguments = [&["--url", &api.url, "lock", "run", "printer"], flags, &["--", "sh", "-c", &script]].concat();
        let stderr = fs::File::create(dir.path().join("stderr")).unwrap();
        let child = syncmesh(&arguments).current_dir(dir.path()).stderr(stderr).spawn().unwrap();
        let file = dir.path().join("pid");
        let pid = eventually("the script runs", async || fs::read_to_string(&file)).await;
        let script = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        Self { child, script, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("lock run ends", async || child.try_wait().unwrap().ok_or("it runs")).await
    }

    fn script_runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.script.as_raw_nonzero()));
        test_kill_process(self.script).is_ok() && stat.is_ok_and(|stat| !stat.contains(") Z "))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.script_runs() {
            let _ = kill_process(self.script, Signal::KILL);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_under_its_lock_and_its_end_is_passed_on() {
    let cluster = Cluster::of(1).await;
    let api = &cluster.nodes[0].api;
    let done = locked(api, &[], "echo $SYNCMESH_LOCK $SYNCMESH_SESSION $SYNCMESH_FENCING_TOKEN; exit 7").await;
    assert_eq!(done.code, 7, "{done:?}");
    let words: Vec<_> = done.stdout.split_whitespace().collect();
    let [lock, session, token] = words[..] else { panic!("{done:?}") };
    assert_eq!(lock, "printer");
    assert!(!session.is_empty() && token.parse::<u64>().unwrap() > 0);
    assert_eq!(api.holder("printer").await, None, "it was given back");
    let next = api.grant("printer").await;
    assert!(next.token > token.parse().unwrap());
    api.release("printer", &next.session).await.ok();

    assert_eq!(locked(api, &[], "true").await.code, 0);
    assert_eq!(locked(api, &[], "kill -USR1 $$").await.code, 128 + 10);
    assert_eq!(locked(api, &[], "kill -9 $$").await.code, 137);
    for (command, code) in [("/nonexistent/command", 127), ("/etc/passwd", 126)] {
        let done = run(syncmesh(&["--url", &api.url, "lock", "run", "printer", "--", command])).await;
        assert_eq!(done.code, code, "{done:?}");
    }
    let held = api.grant("printer").await;
    let done = locked(api, &["--wait", "200ms"], "true").await;
    assert_eq!(done.code, 124, "{done:?}");
    api.release("printer", &held.session).await.ok();
    let done = run(syncmesh(&["--url", "http://127.0.0.1:1", "lock", "run", "printer", "--", "true"])).await;
    assert_eq!(done.code, 125, "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_command_waits_for_the_first() {
    let cluster = Cluster::of(3).await;
    let mut first =
        Running::start(&cluster.nodes[0].api, &[], "while ! test -e go; do sleep 0.02; done; : > done").await;
    let api = cluster.nodes[1].api.clone();
    let marker = first.file("done");
    let second = tokio::spawn(async move {
        locked(&api, &["--wait", "60s"], &format!("test -e {} && echo after", marker.display())).await
    });
    let api = &cluster.nodes[2].api;
    eventually("the second stands in line", async || {
        let shown = api.show("printer").await;
        holds(shown.body["waiters"].as_array().map(Vec::len) == Some(1), shown.body)
    })
    .await;
    fs::write(first.file("go"), "").unwrap();
    assert_eq!(first.ended().await.code(), Some(0));
    let second = second.await.unwrap();
    assert_eq!((second.code, second.stdout.as_str()), (0, "after\n"), "{second:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_keeps_its_lock_for_longer_than_a_term_and_over_a_fail_over() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.nodes[(leader + 1) % 3].api.clone();
    let mut running = Running::start(&follower, &["--ttl", "12s"], "while ! test -e go; do sleep 0.05; done").await;
    let held = follower.holder("printer").await.unwrap();
    cluster.nodes[leader].kill();
    let killed = Instant::now();
    eventually("a term and the term that a new leader gives are over", async || {
        assert!(running.script_runs(), "{}", fs::read_to_string(running.file("stderr")).unwrap());
        holds(killed.elapsed() > Duration::from_secs(25), "not yet")
    })
    .await;
    assert_eq!(follower.holder("printer").await, Some(held));
    fs::write(running.file("go"), "").unwrap();
    assert_eq!(running.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_lock_is_lost_is_ended() {
    let cluster = Cluster::of(3).await;
    let [one, two] = [0, 1].map(|nth| cluster.nodes[nth].api.clone());
    let mut running =
        Running::prepared(&one, &[], "trap ': > terminated; exit 0' TERM", "while :; do sleep 0.02; done").await;
    let done = run(syncmesh(&["--url", &two.url, "lock", "break", "printer"])).await;
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(running.ended().await.code(), Some(125));
    assert!(running.file("terminated").exists(), "it was asked to end first");
    assert!(!running.script_runs());

    let mut stubborn = Running::prepared(&one, &["--ttl", "3s"], "trap '' TERM", "while :; do sleep 0.02; done").await;
    run(syncmesh(&["--url", &two.url, "lock", "break", "printer"])).await;
    assert_eq!(stubborn.ended().await.code(), Some(125));
    assert!(!stubborn.script_runs(), "then it was killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_ended_before_its_lease_when_no_node_answers() {
    let mut cluster = Cluster::of(1).await;
    let mut running = Running::start(&cluster.nodes[0].api, &["--ttl", "2s"], "while :; do sleep 0.02; done").await;
    let began = Instant::now();
    cluster.nodes[0].kill();
    assert_eq!(running.ended().await.code(), Some(125));
    assert!(!running.script_runs());
    // Its term may have been renewed right before the kill.
    assert!(began.elapsed() < Duration::from_millis(2_200), "ended only after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_are_passed_on_and_kill_9_leaves_no_command_behind() {
    let cluster = Cluster::of(1).await;
    let api = &cluster.nodes[0].api;
    let mut running = Running::prepared(api, &[], "trap 'exit 42' TERM", "while :; do sleep 0.02; done").await;
    kill_process(Pid::from_child(&running.child), Signal::TERM).unwrap();
    assert_eq!(running.ended().await.code(), Some(42));
    assert_eq!(api.holder("printer").await, None);

    let mut running = Running::start(api, &["--ttl", "3s"], "exec sleep 1000").await;
    kill_process(Pid::from_child(&running.child), Signal::KILL).unwrap();
    assert_eq!(running.ended().await.signal(), Some(9));
    eventually("the command is gone too", async || holds(!running.script_runs(), "it runs")).await;
    eventually("the lock is free once the term is over", async || {
        holds(api.holder("printer").await.is_none(), "it is held")
    })
    .await;
}
