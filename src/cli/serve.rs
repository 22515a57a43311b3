//! Runs a node with its HTTP edge: what `node` and `dev` share.

use std::{io, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    api::{self, ApiSettings, MAX_CONNECTIONS},
    config::{Config, Resolved},
    node::{Drained, Node, StartError},
};

/// How long requests under way may go on once the node drains.
const API_DRAIN: Duration = Duration::from_secs(3);
/// How long a node that leaves for good may take where nobody gave it a deadline: what it keeps of the queues is copied first, and `SHUTDOWN_GRACE` is
/// for those who are told to stop.
pub(super) const LEAVE_GRACE: Duration = Duration::from_secs(600);

/// Why a node with its API did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// The API's address cannot be had.
    #[error(
        "the HTTP API cannot listen on {addr}: set API_ADDR to a free address, or stop what listens there \
         (`ss -ltnp` shows it)"
    )]
    Listen {
        /// The address.
        addr: String,
        /// Why not.
        source: io::Error,
    },
    /// The node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// `node.json` cannot be written.
    #[error("cannot write node.json into the data directory: {0}")]
    NodeFile(io::Error),
}

/// A node that serves HTTP.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) node: Node,
    pub(super) api_url: String,
    stop_api: CancellationToken,
    api: JoinHandle<io::Result<()>>,
}

impl Served {
    /// Binds the API, starts the node, serves.
    pub(super) async fn start(config: Config, resolved: Vec<Resolved>) -> Result<Self, ServeError> {
        let addr = config.api_addr.as_str();
        let listen = |source| ServeError::Listen { addr: addr.to_owned(), source };
        let listener = TcpListener::bind(addr).await.map_err(listen)?;
        Self::start_on(listener, config, resolved, 1).await
    }

    /// Starts the node and serves its API here. `resolved`: its settings as they are to be shown; `nodes`: how many nodes
    /// this process runs.
    pub(super) async fn start_on(
        listener: TcpListener,
        config: Config,
        resolved: Vec<Resolved>,
        nodes: usize,
    ) -> Result<Self, ServeError> {
        let addr = config.api_addr.as_str().to_owned();
        let listen = |source| ServeError::Listen { addr: addr.clone(), source };
        let port = listener.local_addr().map_err(listen)?.port();
        let api_url = api_url(&config, port);
        if config.api_token.is_none() && !config.api_addr.is_loopback() {
            warn!(
                addr,
                "the HTTP API listens beyond this machine and asks for no token: whoever reaches it can do everything; set \
                 API_TOKEN"
            );
        }
        let token = config.api_token.clone();
        // A number of bytes beyond the address space is no limit.
        let bytes = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        let (max_value_bytes, max_batch_bytes) = (bytes(config.max_value_bytes), bytes(config.max_batch_bytes));
        let node = Node::start(config).await?;
        node.write_node_file(&api_url).await.map_err(ServeError::NodeFile)?;
        info!(url = %api_url, "serves the HTTP API");
        let metrics = node.metrics().clone();
        let max_connections = room_for_connections(nodes);
        let settings = ApiSettings {
            token,
            config: resolved,
            max_value_bytes,
            max_batch_bytes,
            max_connections,
            drain: API_DRAIN,
            metrics,
            ..ApiSettings::default()
        };
        let stop_api = CancellationToken::new();
        let api = tokio::spawn(api::serve(listener, node.clone(), settings, stop_api.clone()));
        Ok(Self { node, api_url, stop_api, api })
    }

    /// Ends the API, then drains and stops the node. Who leaves for good has all of its time for handing over, and is
    /// asked how far it is, and what came of it: its API goes last.
    pub(super) async fn stop(self, grace: Duration) -> Drained {
        let began = tokio::time::Instant::now();
        if self.node.is_leaving() {
            self.node.drain(grace).await;
        }
        self.stop_api.cancel();
        // A panic in it has ended its connections already.
        let _ = self.api.await;
        self.node.stop(grace.saturating_sub(began.elapsed())).await
    }
}

/// How many connections the API of each node may take: half of the files that this process may open, so
/// that a flood of clients leaves the log and the mesh theirs.
fn room_for_connections(nodes: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // Where the soft limit cannot be raised, it is what there is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
    // None is no limit.
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = usize::try_from(files / 2).unwrap_or(usize::MAX) / nodes.max(1);
    if room < MAX_CONNECTIONS {
        warn!(
            files,
            connections = room,
            "this process may open few files, so the API takes fewer connections than {MAX_CONNECTIONS}: raise the limit \
             (ulimit -n, LimitNOFILE)"
        );
    }
    room.min(MAX_CONNECTIONS)
}

fn api_url(config: &Config, port: u16) -> String {
    let url = config.api_addr.client_url();
    match url.rsplit_once(':') {
        Some((host, _)) if config.api_addr.port() == 0 => format!("{host}:{port}"),
        _ => url,
    }
}
