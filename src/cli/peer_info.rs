//! `peer-info`: what a node says of itself.

use std::time::Duration;

use clap::Args;
use libp2p::Multiaddr;

use super::{
    Context, Failure, OnInterrupt,
    flags::KeyFlags,
    output::table,
    remote::{Remote, cell, for_people},
};
use crate::{
    client::Call,
    config::Config,
    error::{Error, ErrorCode},
    node::status::{NodeInfo, PeerView, RaftView},
};

/// The arguments of `peer-info`.
#[derive(Debug, Args)]
pub(super) struct PeerInfo {
    /// The peer to ask over libp2p; without it, the node at --url.
    #[arg(value_name = "MULTIADDR")]
    addr: Option<Multiaddr>,
    #[command(flatten)]
    settings: KeyFlags,
}

impl PeerInfo {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.addr {
            None => {
                let remote = Remote::of(context)?;
                context.block_on(OnInterrupt::Fail, remote.show(&Call::node(), |info| text(&info)))
            }
            Some(addr) => {
                let config = Config::from_sources(&context.sources(&self.settings.0))?;
                let info = context.block_on(OnInterrupt::Fail, async { probe(&addr, &config).await.map(Some) })?;
                match info {
                    Some(info) => context.output.result(&info, || text(&info)),
                    None => Err(Failure::Interrupted),
                }
            }
        }
    }
}

/// Asks a peer over libp2p, with a throw-away identity and the cluster's key.
async fn probe(addr: &Multiaddr, config: &Config) -> Result<NodeInfo, Failure> {
    let asked = crate::node::peer_info(addr, config.cluster_key).await;
    asked.map_err(|error| Error::new(ErrorCode::Unavailable, error.to_string()).into())
}

/// What a node says of itself, for people.
pub(super) fn text(info: &NodeInfo) -> String {
    let cluster = info.cluster_id.map_or_else(|| "none yet".to_owned(), |id| id.to_string());
    let lines = [
        ("peer id", info.peer_id.to_string()),
        ("agent", format!("{} (version {})", info.agent, info.version)),
        ("cluster", format!("{} ({cluster})", info.cluster_name)),
        ("roles", cell(&info.roles)),
        ("ready", if info.ready { "yes" } else { "no" }.to_owned()),
        ("uptime", for_people(Duration::from_millis(info.uptime_ms))),
        ("listens on", cell(&info.listen_addrs)),
        ("announces", cell(&info.announce_addrs)),
        ("is seen at", cell(&info.observed_addrs)),
        ("protocols", cell(&info.protocols)),
    ];
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect();
    if let Some(raft) = &info.raft {
        text.push_str(&raft_text(raft));
    }
    if info.peers.is_empty() {
        text.push_str("peers       none connected\n");
        return text;
    }
    text.push('\n');
    text.push_str(&peers_text(&info.peers));
    text
}

fn raft_text(raft: &RaftView) -> String {
    let leader = raft.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    format!(
        "raft        {} in term {}, leader {leader}\n            log to {}, committed to {}, applied to {}\n            \
         voters {}\n            learners {}\n",
        raft.role,
        raft.term,
        raft.last_log_index,
        raft.committed_index,
        raft.applied_index,
        cell(&raft.voters),
        cell(&raft.learners)
    )
}

fn peers_text(peers: &[PeerView]) -> String {
    let row = |peer: &PeerView| {
        [
            peer.peer_id.to_string(),
            cell(&peer.roles),
            peer.addr.clone(),
            peer.transport.clone(),
            peer.direction.clone(),
            peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt}ms")),
            format!("{:?}", peer.discovered_by).to_lowercase(),
        ]
    };
    table(["PEER", "ROLES", "ADDRESS", "TRANSPORT", "DIRECTION", "RTT", "FOUND BY"], peers.iter().map(row))
}
