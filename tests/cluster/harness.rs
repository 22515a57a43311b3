//! Node processes and clusters of them.
//!
//! A [`NodeProcess`] is one data directory and, most of the time, one process. Whatever becomes of the
//! test, its process is killed when the value is dropped, and its log is shown if the test failed.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::ask::{Api, Done, run, syncmesh};

/// How long anything may take that comes about by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Tests that run clusters at a time: more only wait for each other's disk and processors.
const CLUSTERS_AT_A_TIME: usize = 2;
/// Lines of each node's log that a failed test shows.
const SHOWN_LINES: usize = 60;

static CLUSTERS: Semaphore = Semaphore::const_new(CLUSTERS_AT_A_TIME);
static LAST_HOST: AtomicU32 = AtomicU32::new(0);

/// Waits until `look` has what is wanted; what it says meanwhile is told when it never comes.
#[track_caller]
pub(crate) fn eventually<T, Why: Display>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, Why>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        loop {
            match look().await {
                Ok(found) => return found,
                Err(why) if began.elapsed() > PATIENCE => panic!("{caller}: not within {PATIENCE:?}: {what}; {why}"),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// A condition, for [`eventually`].
pub(crate) fn holds(condition: bool, otherwise: impl Display) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise.to_string()) }
}

/// A loopback address that no other node on this machine has: ten bits tell the node, twelve this run of the tests.
fn own_address() -> Ipv4Addr {
    const HOST_BITS: u32 = 10;
    let host = LAST_HOST.fetch_add(1, Ordering::Relaxed) + 1;
    assert!(host < 1 << HOST_BITS, "more than {host} nodes in one run of the tests");
    let run = std::process::id() & 0xfff;
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() | (run << HOST_BITS) | host)
}

/// A node: its settings, its directory, and its process while it runs.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    settings: BTreeMap<String, String>,
    /// Where the process runs: holds its data directory and its log.
    home: PathBuf,
    data_dir: PathBuf,
    address: Ipv4Addr,
    child: Option<Child>,
    pub(crate) api: Api,
}

impl NodeProcess {
    /// A node that is not started yet. Listens on an address of its own, and knows nobody.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let address = own_address();
        let home = dir.join(name);
        fs::create_dir_all(&home).unwrap();
        let settings = [
            ("LISTEN_ADDRS", format!("/ip4/{address}/tcp/4001")),
            ("API_ADDR", format!("{address}:8080")),
            ("MDNS", "off".into()),
            ("DATA_DIR", "data".into()),
            ("LOG_FORMAT", "text".into()),
            ("RUST_LOG", std::env::var("NODE_LOG").unwrap_or_else(|_| "info".into())),
        ];
        Self {
            name: name.to_owned(),
            settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            api: Api::new(&format!("http://{address}:8080")),
            data_dir: home.join("data"),
            home,
            address,
            child: None,
        }
    }

    /// With this setting in its environment from the next start on.
    pub(crate) fn with(mut self, name: &str, value: impl Display) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Display) {
        self.settings.insert(name.to_owned(), value.to_string());
    }

    /// Where others find it.
    pub(crate) fn multiaddr(&self) -> String {
        format!("/ip4/{}/tcp/4001", self.address)
    }

    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.address
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    /// Its `DATA_DIR` is elsewhere, or it takes a slot of it.
    pub(crate) fn use_data_dir(&mut self, dir: PathBuf) {
        self.data_dir = dir;
    }

    fn log_file(&self) -> PathBuf {
        self.home.join("log")
    }

    /// All that it has logged, over all its starts.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The command that starts it, with its output directed nowhere yet.
    pub(crate) fn piped_command(&self) -> Command {
        let mut command = syncmesh(&["node"]);
        command.current_dir(&self.home).envs(&self.settings);
        command
    }

    /// Directs what a command writes into the log.
    pub(crate) fn log_into(&self, command: &mut Command) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
    }

    /// Starts the process, and waits for nothing.
    pub(crate) fn launch(&mut self) {
        let mut command = self.piped_command();
        self.log_into(&mut command);
        self.launch_as(command);
    }

    /// Starts it by another command, such as one that changes the network namespace first.
    pub(crate) fn launch_as(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        self.child = Some(command.spawn().unwrap());
    }

    /// Starts the process and waits until it listens.
    pub(crate) async fn start(&mut self) {
        self.launch();
        self.listening().await;
    }

    /// Waits until it has written its `node.json`.
    pub(crate) async fn listening(&mut self) -> Value {
        let pid = self.pid().as_raw_nonzero().get();
        let file = self.data_dir().join("node.json");
        loop {
            let written = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            if let Some(json) = written.filter(|json| json["pid"] == pid) {
                self.api = Api::new(json["api_url"].as_str().unwrap());
                return json;
            }
            let child = self.child.as_mut().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{} ended while it started: {status}\n{}", self.name, self.log());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)))
    }

    /// Whether it was started and not ended by the test.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// kill -9, and nothing of it is left when this returns.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// Waits until the process has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a process that was started");
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("{} has not ended within {PATIENCE:?}", self.name);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGTERM, and the exit code that it leads to.
    pub(crate) async fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().await.code()
    }

    /// Runs a command against this node.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Done {
        run(syncmesh(&[&["--url", &self.api.url], arguments].concat())).await
    }

    /// Its peer id, from the file that it has written.
    pub(crate) fn peer_id(&self) -> String {
        let json: Value = serde_json::from_slice(&fs::read(self.data_dir().join("node.json")).unwrap()).unwrap();
        json["peer_id"].as_str().unwrap().to_owned()
    }

    /// Waits until it says that it can serve.
    pub(crate) async fn ready(&self) {
        let what = format!("{} is ready", self.name);
        eventually(&what, async || {
            let answer = self.api.call(reqwest::Method::GET, "/readyz", None).await.map_err(|e| e.to_string())?;
            holds(answer.status == 200, answer.body)
        })
        .await;
    }

    /// Waits until its events of late have all of these in them; as they were told.
    pub(crate) async fn tells(&self, words: &[&str]) -> String {
        let mut told = String::new();
        let request = self.api.request(reqwest::Method::GET, "/v1/events?recent=1000").timeout(2 * PATIENCE);
        let mut events = request.send().await.unwrap();
        let heard = tokio::time::timeout(PATIENCE, async {
            while !words.iter().all(|word| told.contains(word)) {
                told.push_str(&String::from_utf8_lossy(&events.chunk().await.unwrap().expect("the node runs")));
            }
        });
        let is_whole = heard.await.is_ok();
        assert!(is_whole, "{} did not tell all of {words:?}: {told}", self.name);
        told
    }

    /// Waits until its log has a line with this in it.
    pub(crate) async fn says(&self, words: &str) {
        eventually(&format!("{} says '{words}'", self.name), async || holds(self.log().contains(words), "it does not"))
            .await;
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            println!("---- the log of {} ends so:\n{}", self.name, lines[from..].join("\n"));
        }
    }
}

/// Room for a test's processes, and the directory that they share.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Site {
    /// Waits for its turn: not all tests run clusters at a time.
    pub(crate) async fn new() -> Self {
        let turn = CLUSTERS.acquire().await.unwrap();
        Self { dir: TempDir::new().unwrap(), _turn: turn }
    }

    /// A node of its own.
    pub(crate) fn node(&self, name: &str) -> NodeProcess {
        NodeProcess::new(self.dir.path(), name)
    }

    /// Nodes that will found one cluster, not started yet: the first is the founder.
    pub(crate) fn nodes(&self, count: usize) -> Vec<NodeProcess> {
        let founder = self.node("n0").with("BOOTSTRAP_EXPECT", count);
        let others = (1..count).map(|nth| self.node(&format!("n{nth}")).with("BOOTSTRAP_PEERS", founder.multiaddr()));
        let others: Vec<_> = others.collect();
        [founder].into_iter().chain(others).collect()
    }
}

/// A cluster that serves.
#[derive(Debug)]
pub(crate) struct Cluster {
    // Before the directory: processes end first.
    pub(crate) nodes: Vec<NodeProcess>,
    pub(crate) site: Site,
}

impl Cluster {
    /// kill -9 of all at once: none sees another one gone, and goes on without it.
    pub(crate) fn kill_all(&mut self) {
        self.nodes.iter().for_each(|node| node.signal(Signal::KILL));
        self.nodes.iter_mut().for_each(NodeProcess::kill);
    }

    /// Founds a cluster of so many lock managers, and waits until each can serve.
    pub(crate) async fn of(count: usize) -> Self {
        Self::with(count, &[]).await
    }

    /// A cluster whose nodes all have these settings.
    pub(crate) async fn with(count: usize, settings: &[(&str, &str)]) -> Self {
        let site = Site::new().await;
        let mut nodes = site.nodes(count);
        for node in &mut nodes {
            settings.iter().for_each(|(name, value)| node.set(name, value));
        }
        Self::start(site, nodes).await
    }

    /// Starts these nodes and waits until each can serve.
    pub(crate) async fn start(site: Site, nodes: Vec<NodeProcess>) -> Self {
        let mut cluster = Self { nodes, site };
        cluster.nodes.iter_mut().for_each(NodeProcess::launch);
        cluster.all_ready().await;
        cluster
    }

    pub(crate) async fn all_ready(&mut self) {
        for node in &mut self.nodes {
            node.listening().await;
        }
        for node in &self.nodes {
            node.ready().await;
        }
    }

    /// A further node that finds the cluster through its first, not started yet.
    pub(crate) fn newcomer(&self, name: &str) -> NodeProcess {
        self.site.node(name).with("BOOTSTRAP_PEERS", self.nodes[0].multiaddr())
    }

    /// The running nodes' leader, once those that run agree on a running one.
    pub(crate) async fn leader(&mut self) -> usize {
        let nodes = &mut self.nodes;
        eventually("the running nodes agree on a leader", async || {
            let mut leaders = Vec::new();
            for node in nodes.iter_mut().filter(|node| node.child.is_some()) {
                let cluster = node.api.cluster().await;
                leaders.push(cluster["leader"].as_str().unwrap_or_default().to_owned());
            }
            leaders.dedup();
            let [leader] = &leaders[..] else { return Err(format!("they name {leaders:?}")) };
            let running = nodes.iter().position(|node| node.child.is_some() && node.peer_id() == *leader);
            running.ok_or_else(|| format!("{leader} does not run"))
        })
        .await
    }

    /// Sees to it that a node leads, however often elections come between.
    pub(crate) async fn led_by(&mut self, nth: usize) {
        let (peer, began) = (self.nodes[nth].peer_id(), Instant::now());
        while self.leader().await != nth {
            let told = self.nodes[nth].cli(&["members", "transfer-leader", &peer]).await;
            assert!(began.elapsed() < PATIENCE, "{peer} does not lead: {told:?}");
        }
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&mut self) -> usize {
        let leader = self.leader().await;
        (0..self.nodes.len()).find(|nth| *nth != leader && self.nodes[*nth].child.is_some()).unwrap()
    }

    /// Waits until node `asked` shows that the member is so.
    pub(crate) async fn shows(&self, asked: usize, peer: &str, member: impl Fn(&Value) -> bool) {
        let node = &self.nodes[asked];
        eventually("the cluster shows a member as expected", async || {
            let cluster = node.api.cluster().await;
            let found = cluster["members"].as_array().unwrap().iter().find(|shown| shown["peer_id"] == peer);
            holds(found.is_some_and(&member), format!("{peer} in {cluster}"))
        })
        .await;
    }

    /// Waits until node `asked` shows so many voters, all of which run, and the change that led there is committed.
    pub(crate) async fn has_voters(&self, asked: usize, count: usize) {
        let node = &self.nodes[asked];
        let runs = |peer: &str| self.nodes.iter().any(|node| node.runs() && node.peer_id() == peer);
        eventually(&format!("there are {count} voters, and they run"), async || {
            let cluster = node.api.cluster().await;
            let voters = voters(&cluster);
            holds(voters.len() == count && voters.iter().all(|peer| runs(peer)), cluster)
        })
        .await;
        // What is shown is in the leader's log; what comes after it there and is granted commits it.
        let granted = node.api.grant("settled").await;
        node.api.release("settled", &granted.session).await.ok();
    }
}

/// The members that vote.
pub(crate) fn voters(cluster: &Value) -> Vec<&str> {
    let members = cluster["members"].as_array().unwrap().iter();
    members
        .filter(|member| matches!(member["raft"].as_str(), Some("voter" | "leader")))
        .map(|member| member["peer_id"].as_str().unwrap())
        .collect()
}

/// Tells `tests/run` that a test cannot run here, and why.
pub(crate) fn skipped(reason: &str) {
    println!("skipped: {reason}");
    if let Ok(list) = std::env::var("SYNCMESH_SKIPPED") {
        let mut list = std::fs::OpenOptions::new().append(true).open(list).expect("tests/run made the list");
        std::io::Write::write_all(&mut list, format!("{reason}\n").as_bytes()).expect("the list can be written");
    }
}
