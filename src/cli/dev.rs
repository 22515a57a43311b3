//! `dev`: a whole cluster in one process, to try things out and to develop against.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    Context, Failure,
    flags::TuningFlags,
    node::{Signals, runtime},
    output::Format,
    serve::Served,
};
use crate::{
    config::{Config, LogFormat, Source, Sources, key},
    ids::NodeId,
    machine::lock::{Mode, Want},
    node::{End, locks::AcquireRequest},
    telemetry,
};

/// How long the cluster may take until locks can be acquired.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node drains when the cluster is stopped.
const GRACE: Duration = Duration::from_secs(4);
/// Logs while `dev` runs, unless RUST_LOG says otherwise: what went wrong only.
const QUIET: &str = "error";

/// Run a whole cluster on this machine, in one process, over real sockets.
#[derive(Debug, Args)]
pub(super) struct Dev {
    /// How many nodes, each with all roles.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    nodes: u16,
    /// The API of the first node; the others take the ports after it. All on free ports if one of them is taken, or
    /// with 0.
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    api_port: u16,
    /// Keep the data here; without it, it is temporary.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    settings: TuningFlags,
}

#[derive(Serialize)]
struct Document {
    nodes: Vec<NodeLine>,
}

#[derive(Serialize)]
struct NodeLine {
    peer_id: NodeId,
    api_url: String,
    listen_addrs: Vec<String>,
    data_dir: Option<PathBuf>,
}

impl Dev {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let sources = context.sources(&self.settings.0).tuning_only();
        let settings = Config::from_sources(&sources)?;
        let filter = if sources.get("RUST_LOG").is_some() { settings.rust_log.as_str() } else { QUIET };
        let format = if settings.log_format == LogFormat::Json { LogFormat::Json } else { LogFormat::Text };
        telemetry::init_logs(format, filter).map_err(anyhow::Error::new)?;
        let temporary = match &self.data_dir {
            Some(_) => None,
            None => Some(TemporaryDir::new()?),
        };
        let root = self.data_dir.clone().or_else(|| temporary.as_ref().map(|dir| dir.0.clone())).unwrap_or_default();
        let runtime = runtime()?;
        let outcome = runtime.block_on(self.serve(context, &sources, &root));
        runtime.shutdown_timeout(Duration::from_millis(100));
        outcome
    }

    async fn serve(&self, context: &Context, sources: &Sources, root: &std::path::Path) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        let started = tokio::select! {
            started = self.start(sources, root) => started?,
            () = signals.next() => return Ok(()),
        };
        let ready = tokio::select! {
            ready = tokio::time::timeout(START_PATIENCE, can_lock(&started)) => ready.is_ok(),
            () = signals.next() => return stop(started).await,
        };
        if !ready {
            stop(started).await?;
            return Err(anyhow::anyhow!(
                "the cluster did not elect a leader within {} s; RUST_LOG=info shows why",
                START_PATIENCE.as_secs()
            )
            .into());
        }
        announce(context, &started)?;
        let mut ends = JoinSet::new();
        for served in &started {
            let node = served.node.clone();
            ends.spawn(async move {
                tokio::select! {
                    end = node.ended() => end,
                    () = node.asked_to_leave() => End::Left,
                }
            });
        }
        let ended = tokio::select! {
            () = signals.next() => None,
            end = ends.join_next() => end.and_then(Result::ok),
        };
        ends.abort_all();
        stop(started).await?;
        match ended {
            None | Some(End::Left) => Ok(()),
            Some(End::Barred(reason) | End::Failed(reason)) => Err(anyhow::anyhow!("a node ended: {reason}").into()),
        }
    }

    async fn start(&self, sources: &Sources, root: &std::path::Path) -> Result<Vec<Served>, Failure> {
        let ports = self.free_ports().await;
        let cluster_key = self.cluster_key(root)?;
        let mut started: Vec<Served> = Vec::new();
        let mut rendezvous = String::new();
        for number in 0..self.nodes {
            let port = ports.map_or(0, |first| first + number);
            let dir = root.join(format!("node-{number}"));
            let mut sources = sources
                .clone()
                .with(Source::Flag, "LISTEN_ADDRS", "/ip4/127.0.0.1/tcp/0")
                .with(Source::Flag, "API_ADDR", &format!("127.0.0.1:{port}"))
                .with(Source::Flag, "DATA_DIR", &dir.display().to_string())
                .with(Source::Flag, "MDNS", "off");
            if number == 0 {
                sources = sources.with(Source::Flag, "BOOTSTRAP_EXPECT", &self.nodes.to_string());
            } else {
                sources = sources.with(Source::Flag, "BOOTSTRAP_PEERS", &rendezvous);
            }
            let mut config = Config::from_sources(&sources)?;
            config.cluster_key = Some(cluster_key);
            let served = Served::start(config, usize::from(self.nodes)).await.map_err(anyhow::Error::new)?;
            let info = served.node.info().await;
            if let Some(addr) = info.listen_addrs.first().filter(|_| number == 0) {
                rendezvous = format!("{addr}/p2p/{}", info.peer_id);
            }
            started.push(served);
        }
        Ok(started)
    }

    /// The first of as many free ports in a row, or none: then each node takes what it gets.
    async fn free_ports(&self) -> Option<u16> {
        let last = self.api_port.checked_add(self.nodes)?;
        if self.api_port == 0 {
            return None;
        }
        for port in self.api_port..last {
            tokio::net::TcpListener::bind(("127.0.0.1", port)).await.ok()?;
        }
        Some(self.api_port)
    }

    /// A key of its own: drawn anew for temporary data, kept beside data that is kept.
    fn cluster_key(&self, root: &std::path::Path) -> Result<libp2p::pnet::PreSharedKey, Failure> {
        let path = root.join("cluster.key");
        if path.exists() {
            return Ok(key::read(&path).map_err(anyhow::Error::new)?);
        }
        std::fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        let key = key::generate().context("the system gives no random numbers")?;
        super::init::write_key(&path, &key)?;
        Ok(key)
    }
}

/// Waits until a lock can be acquired through every node.
async fn can_lock(started: &[Served]) {
    for (number, served) in started.iter().enumerate() {
        loop {
            let lock = crate::ids::LockName::new(format!("syncmesh-dev-{number}")).expect("a short name is a name");
            let request = AcquireRequest {
                session: None,
                wants: vec![Want { lock, mode: Mode::Exclusive }],
                wait_ms: 0,
                ttl_ms: None,
                lock_delay_ms: None,
                owner: Some("syncmesh dev".into()),
            };
            let locks = served.node.locks();
            if let Ok(granted) = locks.acquire(request, None).await
                && locks.close_session(granted.session, None).await.is_ok()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn announce(context: &Context, started: &[Served]) -> Result<(), Failure> {
    let mut nodes = Vec::new();
    for served in started {
        let status = served.node.listen_addrs();
        nodes.push(NodeLine {
            peer_id: served.node.id(),
            api_url: served.api_url.clone(),
            listen_addrs: status,
            data_dir: served.node.data_dir(),
        });
    }
    let document = Document { nodes };
    context.output.result(&document, || text(&document))?;
    if context.output.format() == Format::Text {
        context.output.note("Ctrl-C stops the cluster.\n");
    }
    Ok(())
}

fn text(document: &Document) -> String {
    use std::fmt::Write;
    let mut text = format!("A cluster of {} nodes is up, locks can be acquired.\n\n", document.nodes.len());
    for node in &document.nodes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}  {}", node.api_url, node.peer_id);
    }
    let url = |at: usize| document.nodes[at % document.nodes.len()].api_url.as_str();
    let _ = write!(
        text,
        "\nTry, in another terminal:\n\
         \n  syncmesh --url {} lock run nightly-job --wait 10s -- sleep 5\n\
         \n  syncmesh --url {} lock list\n\
         \n  curl -X POST {}/v1/locks/my-lock/acquire -H 'content-type: application/json' -d '{{\"ttl_ms\":10000}}'\n\n",
        url(0),
        url(1),
        url(2),
    );
    text
}

async fn stop(started: Vec<Served>) -> Result<(), Failure> {
    let mut stopping = JoinSet::new();
    for served in started {
        stopping.spawn(served.stop(GRACE));
    }
    stopping.join_all().await;
    Ok(())
}

/// A directory that goes with the cluster.
#[derive(Debug)]
struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("syncmesh-dev-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
