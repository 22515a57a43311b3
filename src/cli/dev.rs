//! `dev`: a whole cluster in one process, to try things out and to develop against.

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde::Serialize;
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Context, Failure,
    flags::TuningFlags,
    node::{INTERRUPTED, Signals, runtime},
    output::Format,
    serve::{LEAVE_GRACE, Served},
};
use crate::{
    config::{Config, LogFormat, Source, Sources, key},
    ids::NodeId,
    machine::lock::{Mode, Want},
    node::{Drained, End, locks::AcquireRequest},
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
            () = signals.next() => return stop(started, &mut signals).await,
        };
        if !ready {
            stop(started, &mut signals).await?;
            return Err(anyhow!(
                "the cluster did not elect a leader within {} s; RUST_LOG=info shows why",
                START_PATIENCE.as_secs()
            )
            .into());
        }
        announce(context, &started)?;
        Cluster::of(started).run(context, &mut signals).await
    }

    async fn start(&self, sources: &Sources, root: &std::path::Path) -> Result<Vec<Served>, Failure> {
        let listeners = self.listeners().await.context("no free ports for the HTTP APIs on 127.0.0.1")?;
        let cluster_key = self.cluster_key(root)?;
        let mut started: Vec<Served> = Vec::new();
        let mut rendezvous = String::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            let addr = listener.local_addr().context("a listener does not know its address")?;
            let dir = root.join(format!("node-{number}"));
            let mut sources = sources
                .clone()
                .with(Source::Flag, "LISTEN_ADDRS", "/ip4/127.0.0.1/tcp/0")
                .with(Source::Flag, "API_ADDR", &addr.to_string())
                .with(Source::Flag, "DATA_DIR", &dir.display().to_string())
                .with(Source::Flag, "MDNS", "off");
            if number == 0 {
                sources = sources.with(Source::Flag, "BOOTSTRAP_EXPECT", &self.nodes.to_string());
            } else {
                sources = sources.with(Source::Flag, "BOOTSTRAP_PEERS", &rendezvous);
            }
            let (mut config, resolved) = Config::with_resolved(&sources)?;
            config.cluster_key = Some(cluster_key);
            let served = Served::start_on(listener, config, resolved, usize::from(self.nodes));
            let served = served.await.map_err(anyhow::Error::new)?;
            let info = served.node.info().await;
            if let Some(addr) = info.listen_addrs.first().filter(|_| number == 0) {
                rendezvous = format!("{addr}/p2p/{}", info.peer_id);
            }
            started.push(served);
        }
        Ok(started)
    }

    /// A listener for each API: on ports in a row, or if one of them is taken, on whatever is free. They
    /// stay bound, so that nobody else gets one of them meanwhile.
    async fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        let bind = async |port_of: &dyn Fn(u16) -> Option<u16>| {
            let mut listeners = Vec::new();
            for number in 0..self.nodes {
                let port = port_of(number).ok_or(io::ErrorKind::AddrNotAvailable)?;
                listeners.push(TcpListener::bind(("127.0.0.1", port)).await?);
            }
            io::Result::Ok(listeners)
        };
        if self.api_port != 0
            && let Ok(listeners) = bind(&|number| self.api_port.checked_add(number)).await
        {
            return Ok(listeners);
        }
        bind(&|_| Some(0)).await
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

/// Stops nodes; a second signal ends the process at once.
async fn stop(nodes: impl IntoIterator<Item = Served>, signals: &mut Signals) -> Result<(), Failure> {
    let stopping: JoinSet<_> = nodes.into_iter().map(|served| served.stop(GRACE)).collect();
    tokio::select! {
        _ = stopping.join_all() => Ok(()),
        () = signals.next() => Err(Failure::Exit(INTERRUPTED)),
    }
}

/// The nodes that run, each of which may end by itself without the others.
#[derive(Debug)]
struct Cluster {
    running: BTreeMap<NodeId, Served>,
    /// What has become of those that ended by themselves.
    ends: JoinSet<(NodeId, End)>,
    /// Those that leave the others.
    leaving: JoinSet<(NodeId, End, Drained)>,
}

impl Cluster {
    fn of(started: Vec<Served>) -> Self {
        let ends = started.iter().map(|served| {
            let node = served.node.clone();
            async move {
                tokio::select! {
                    end = node.ended() => (node.id(), end),
                    () = node.asked_to_leave() => (node.id(), End::Left),
                }
            }
        });
        let ends = ends.collect();
        let running = started.into_iter().map(|served| (served.node.id(), served)).collect();
        Self { running, ends, leaving: JoinSet::new() }
    }

    /// Serves until a signal, or until no node is left.
    async fn run(mut self, context: &Context, signals: &mut Signals) -> Result<(), Failure> {
        let mut last = End::Left;
        while !self.running.is_empty() || !self.leaving.is_empty() {
            tokio::select! {
                biased;
                () = signals.next() => return self.stop(signals).await,
                Some(Ok((id, end))) = self.ends.join_next() => self.ended(id, end),
                Some(Ok((id, end, drained))) = self.leaving.join_next() => {
                    tell_of_end(context, id, &end, drained);
                    last = end;
                }
            }
        }
        match last {
            End::Left => Ok(()),
            End::Barred(_) | End::Failed(_) => Err(anyhow!("no node of the cluster is left").into()),
        }
    }

    /// Its API and its tasks go, the others stay.
    fn ended(&mut self, id: NodeId, end: End) {
        if let Some(served) = self.running.remove(&id) {
            let grace = served.node.leaves_within().unwrap_or(LEAVE_GRACE);
            self.leaving.spawn(async move { (id, end, served.stop(grace).await) });
        }
    }

    async fn stop(mut self, signals: &mut Signals) -> Result<(), Failure> {
        self.ends.abort_all();
        // Who leaves needs the others until its vote is gone.
        let left = async { while self.leaving.join_next().await.is_some() {} };
        tokio::select! {
            _ = tokio::time::timeout(GRACE, left) => {}
            () = signals.next() => return Err(Failure::Exit(INTERRUPTED)),
        }
        stop(self.running.into_values(), signals).await
    }
}

fn tell_of_end(context: &Context, id: NodeId, end: &End, drained: Drained) {
    match end {
        End::Left if drained == Drained::Whole => context.output.note(&format!(
            "{id} has left the cluster and ended; the others go on. Started again with its data it joins as new."
        )),
        End::Left => {
            let error = anyhow!("{id} has ended, but could not leave the cluster in time: RUST_LOG=warn shows why");
            context.output.report(&error.into());
        }
        End::Barred(reason) | End::Failed(reason) => {
            context.output.report(&anyhow!("{id} has ended, the others go on: {reason}").into());
        }
    }
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
