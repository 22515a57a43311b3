//! `peer-info`: what a node says of itself.

use std::time::Duration;

use clap::Args;
use libp2p::Multiaddr;

use super::{
    Context, Failure, OnInterrupt,
    flags::KeyFlags,
    output::table,
    remote::{Remote, cell, for_people, percent},
};
use crate::{
    client::Call,
    config::Config,
    error::{Error, ErrorCode},
    node::status::{CacheNodeInfo, NodeInfo, PeerView, QueueNodeView, RaftView},
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
    if let Some(queue) = &info.queue {
        text.push_str(&queue_text(queue));
    }
    if let Some(cache) = &info.cache {
        text.push_str(&cache_text(cache));
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

fn queue_text(queue: &QueueNodeView) -> String {
    format!(
        "queue       {} journal{}, primary of {} partitions, backup of {}\n",
        queue.journal,
        if queue.durable { "" } else { " that may lose what it acknowledged with the machine" },
        queue.primaries.len(),
        queue.backups.len()
    )
}

fn cache_text(cache: &CacheNodeInfo) -> String {
    let CacheNodeInfo { protocol, write_policy, capacity, entries, lines, hit_rate, dirty_lost } = cache;
    format!(
        "cache       {protocol}, writes {write_policy}, hit rate {}\n            {entries} of {capacity} lines: M {} O {} E {} S \
         {}\n            {dirty_lost} acknowledged values lost with their owners\n",
        percent(*hit_rate),
        lines.m,
        lines.o,
        lines.e,
        lines.s
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::CacheLines;

    #[test]
    fn a_cache_node_tells_of_its_cache() {
        let cache = CacheNodeInfo {
            protocol: "MOESI".into(),
            write_policy: "back".into(),
            capacity: 10_000,
            entries: 7,
            lines: CacheLines { m: 1, o: 2, e: 0, s: 4 },
            hit_rate: Some(0.931),
            dirty_lost: 0,
        };
        let text = cache_text(&cache);
        assert!(text.starts_with("cache       MOESI, writes back, hit rate 93.1%\n"), "{text}");
        assert!(text.contains("7 of 10000 lines: M 1 O 2 E 0 S 4\n"), "{text}");
    }
}
