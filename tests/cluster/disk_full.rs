//! Disks that are really full: nothing acknowledged is lost, and the node says what to do.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    ask::Granted,
    harness::{Cluster, Site, eventually, holds},
};

/// Enough for the log of a lock manager and the journals of its share of the queues, and soon filled.
const DISK_BYTES: usize = 64 << 20;

/// A file system of its own. Needs root.
#[derive(Debug)]
struct TinyDisk {
    dir: TempDir,
}

impl TinyDisk {
    /// None with a line that says why, unless all tests are required.
    fn mount() -> Option<Self> {
        let disk = Self { dir: TempDir::new().unwrap() };
        let options = format!("size={DISK_BYTES},mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(disk.dir.path())
            .stdin(Stdio::null())
            .output();
        let reason = match mounted {
            Ok(output) if output.status.success() => return Some(disk),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(
            std::env::var("REQUIRE_ALL").as_deref() != Ok("1"),
            "a file system of its own is required and cannot be mounted: {reason}"
        );
        crate::harness::skipped(&format!("needs to mount a tmpfs: {reason}"));
        None
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Leaves no block free.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        let error = loop {
            if let Err(error) = filler.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let unmount = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
        if !unmount.is_ok_and(|status| status.success()) {
            println!("{} stays mounted", self.dir.path().display());
        }
    }
}

/// A cluster of which each node has a small disk of its own.
struct Small {
    // Before the disks: processes end first.
    cluster: Cluster,
    disks: Vec<TinyDisk>,
    /// Every lock that was granted to a client that got the answer.
    acknowledged: Vec<(String, Granted)>,
}

impl Small {
    async fn three() -> Option<Self> {
        let disks = (0..3).map(|_| TinyDisk::mount()).collect::<Option<Vec<_>>>()?;
        let site = Site::new().await;
        let mut nodes = site.nodes(3);
        for (node, disk) in nodes.iter_mut().zip(&disks) {
            node.set("DATA_DIR", disk.data_dir().display());
            node.use_data_dir(disk.data_dir());
            node.launch();
        }
        let mut cluster = Cluster { nodes, site };
        cluster.all_ready().await;
        let mut small = Self { cluster, disks, acknowledged: Vec::new() };
        small.acquire(0, 20).await;
        assert_eq!(small.acknowledged.len(), 20);
        Some(small)
    }

    /// Asks a node for so many locks and remembers what it granted; the slugs of its refusals.
    async fn acquire(&mut self, asked: usize, count: usize) -> Vec<String> {
        let mut refused = Vec::new();
        for nth in 0..count {
            let name = format!("lock-{}-{nth}", self.acknowledged.len());
            let body = serde_json::json!({"ttl_ms": 3_600_000, "owner": "o".repeat(100)});
            let path = format!("/v1/locks/{name}/acquire");
            let call = self.cluster.nodes[asked].api.call(reqwest::Method::POST, &path, Some(body));
            match call.await {
                Ok(answer) if answer.is_ok() => self.acknowledged.push((name, answer.body.into())),
                Ok(answer) => refused.push(answer.slug().to_owned()),
                Err(_) => refused.push("no connection".to_owned()),
            }
        }
        refused
    }

    /// Asks one node until another has ended by itself.
    async fn acquire_until_it_ends(&mut self, asked: usize, ends: usize) {
        eventually("a node does not go on without a disk", async || {
            self.acquire(asked, 1).await;
            holds(!self.cluster.nodes[ends].is_running(), format!("{} grants", self.acknowledged.len()))
        })
        .await;
    }

    /// It has ended with code 1, and told since it had logged so much which directory wants room.
    async fn ended_and_said_why(&mut self, nth: usize, since: usize) {
        let node = &mut self.cluster.nodes[nth];
        assert_eq!(node.ended().await.code(), Some(1), "{}", node.log());
        says_what_to_do(&node.log()[since..], &self.disks[nth].data_dir());
    }

    /// Every node knows of every grant that was acknowledged.
    async fn has_lost_nothing(&mut self) {
        for node in &self.cluster.nodes {
            eventually(&format!("{} serves", node.name), async || {
                let answer = node.api.get("/v1/locks?limit=1").await;
                holds(answer.is_ok(), format!("{answer:?}"))
            })
            .await;
            let listed = node.api.get("/v1/locks").await.ok();
            let locks = listed["locks"].as_array().unwrap();
            for (name, granted) in &self.acknowledged {
                let shown = locks.iter().find(|lock| lock["lock"] == name.as_str());
                let token = shown.map(|lock| lock["holders"][0]["fencing_token"].as_u64());
                assert_eq!(token, Some(Some(granted.token)), "{name} at {}", node.name);
            }
        }
    }
}

fn says_what_to_do(log: &str, data_dir: &Path) {
    let dir = data_dir.to_str().unwrap();
    let words = ["No space left on device", dir, "free space", "start the node again"];
    assert!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "{log}");
}

async fn one_of_three_runs_out_of_disk(mut small: Small, full: usize) {
    let other = (full + 1) % 3;
    small.disks[full].fill();
    small.acquire_until_it_ends(other, full).await;
    small.ended_and_said_why(full, 0).await;
    eventually("the others go on", async || {
        let refused = small.acquire(other, 10).await;
        holds(refused.is_empty(), format!("{refused:?}"))
    })
    .await;

    // Still full: it does not come up, and says the same.
    let said = small.cluster.nodes[full].log().len();
    small.cluster.nodes[full].launch();
    small.ended_and_said_why(full, said).await;

    small.disks[full].make_room();
    small.cluster.nodes[full].start().await;
    small.cluster.nodes[full].ready().await;
    let peer = small.cluster.nodes[full].peer_id();
    small.cluster.shows(other, &peer, |member| member["status"] == "up" && member["trails_by"] == 0).await;
    small.has_lost_nothing().await;
    // It votes and serves as before: another may be lost now.
    small.cluster.nodes[other].kill();
    small.cluster.nodes[full].api.grant("one-more").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_ends_and_the_others_go_on() {
    let Some(mut small) = Small::three().await else { return };
    let leader = small.cluster.leader().await;
    one_of_three_runs_out_of_disk(small, leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_is_full_ends_and_the_others_go_on() {
    let Some(mut small) = Small::three().await else { return };
    let follower = small.cluster.follower().await;
    one_of_three_runs_out_of_disk(small, follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_disks_are_full_all_is_refused_and_nothing_acknowledged_is_lost() {
    let Some(mut small) = Small::three().await else { return };
    small.disks.iter().for_each(TinyDisk::fill);
    let mut refused = Vec::new();
    eventually("at most one goes on: left alone, a node has nothing to write", async || {
        for asked in 0..3 {
            refused.extend(small.acquire(asked, 1).await);
        }
        let running = small.cluster.nodes.iter_mut().filter_map(|node| node.is_running().then_some(())).count();
        holds(running < 2, format!("{running} run"))
    })
    .await;
    refused.sort_unstable();
    refused.dedup();
    let clear = ["no connection", "no-quorum", "unavailable"];
    assert!(refused.iter().all(|slug| clear.contains(&slug.as_str())), "{refused:?}");
    let running: Vec<_> = (0..3).filter(|nth| small.cluster.nodes[*nth].is_running()).collect();
    for nth in 0..3 {
        if running.contains(&nth) {
            small.cluster.nodes[nth].kill();
        } else {
            small.ended_and_said_why(nth, 0).await;
        }
    }
    let granted = small.acknowledged.len();
    println!("all disks full: {granted} grants acknowledged, then {refused:?}; {} went on", running.len());

    small.disks.iter().for_each(TinyDisk::make_room);
    small.cluster.nodes.iter_mut().for_each(|node| node.launch());
    small.cluster.all_ready().await;
    small.has_lost_nothing().await;
    small.cluster.nodes[0].api.grant("one-more").await;
}
