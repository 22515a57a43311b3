//! `peer-info`: what a node says of itself.

use std::time::Duration;

use clap::Args;
use libp2p::Multiaddr;

use super::{
    Context, Failure, OnInterrupt,
    flags::KeyFlags,
    leave::still_to_go,
    output::table,
    remote::{Remote, cell, for_people, percent},
    watch::Watch,
};
use crate::{
    client::Call,
    config::Config,
    error::{Error, ErrorCode},
    ids::PartitionId,
    node::status::{CacheNodeInfo, NodeInfo, PeerView, QueueNodeView, RaftView},
};

/// The arguments of `peer-info`.
#[derive(Debug, Args)]
pub(super) struct PeerInfo {
    /// The peer to ask over libp2p; without it, the node at --url.
    #[arg(value_name = "MULTIADDR")]
    addr: Option<Multiaddr>,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    settings: KeyFlags,
}

impl PeerInfo {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.addr {
            None => {
                let remote = Remote::of(context)?;
                self.watch.show(context, &remote, &Call::node(), |body| remote.print(body, |info| text(&info)))
            }
            Some(_) if self.watch.watch => Err(Failure::Usage(
                "--watch is for the node at --url: a peer that is dialled at an address is asked once".to_owned(),
            )),
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
        ("ready", if info.ready { "yes" } else { "no: `syncmesh health --ready` at this node says why" }.to_owned()),
        ("uptime", for_people(Duration::from_millis(info.uptime_ms))),
        ("listens on", cell(&info.listen_addrs)),
        ("announces", cell(&info.announce_addrs)),
        ("is seen at", cell(&info.observed_addrs)),
        ("protocols", cell(&info.protocols)),
    ];
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<11} {value}\n")).collect();
    if let Some(drain) = &info.drain {
        let what = if drain.leaves { "leaves the cluster" } else { "stops" };
        text.push_str(&format!("drains      {what}: {}\n", still_to_go(drain)));
    }
    if let Some(raft) = &info.raft {
        text.push_str(&raft_text(raft));
    }
    if let Some(queue) = &info.queue {
        text.push_str(&queue_text(queue, info.leaderless_ms));
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
    let role = match raft.has_quorum {
        Some(false) => "calls itself the leader without a quorum",
        _ => &raft.role,
    };
    format!(
        "raft        {role} in term {}, leader {leader}\n            log to {}, committed to {}, applied to {}\n            \
         voters {}\n            learners {}\n",
        raft.term,
        raft.last_log_index,
        raft.committed_index,
        raft.applied_index,
        cell(&raft.voters),
        cell(&raft.learners)
    )
}

fn queue_text(queue: &QueueNodeView, leaderless_ms: Option<u64>) -> String {
    let since = |ms| format!(", as last known: without a leader for {}", for_people(Duration::from_millis(ms)));
    format!(
        "queue       {} journal{}{}\n            primary of {} partitions: {}\n            backup of {} partitions: {}\n",
        queue.journal,
        if queue.durable { "" } else { " that may lose what it acknowledged with the machine" },
        leaderless_ms.map(since).unwrap_or_default(),
        queue.primaries.len(),
        ranges(&queue.primaries),
        queue.backups.len(),
        ranges(&queue.backups)
    )
}

/// Numbers that grow, those in a row as one: `0-3,7`.
fn ranges(partitions: &[PartitionId]) -> String {
    cell(&PartitionId::ranges(partitions.iter().copied()))
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
    fn a_queue_node_tells_which_partitions_it_keeps() {
        let partitions = |numbers: &[u32]| numbers.iter().map(|number| PartitionId(*number)).collect();
        let queue = QueueNodeView {
            journal: "file".into(),
            durable: true,
            primaries: partitions(&[0, 1, 2, 7, 9, 10]),
            backups: Vec::new(),
        };
        assert_eq!(
            queue_text(&queue, None),
            "queue       file journal\n            primary of 6 partitions: 0-2,7,9-10\n            backup of 0 partitions: -\n"
        );
        let first_line = queue_text(&queue, Some(12_000)).lines().next().map(str::to_owned);
        let said = "queue       file journal, as last known: without a leader for 12.0s";
        assert_eq!(first_line.as_deref(), Some(said));
    }

    #[test]
    fn a_leader_without_a_quorum_claims_nothing() {
        let raft = RaftView {
            role: "leader".into(),
            has_quorum: Some(false),
            term: 4,
            leader: None,
            last_log_index: 9,
            committed_index: 8,
            applied_index: 8,
            voters: Vec::new(),
            learners: Vec::new(),
        };
        let said = "raft        calls itself the leader without a quorum in term 4, leader none\n";
        assert!(raft_text(&raft).starts_with(said), "{}", raft_text(&raft));
        let confirmed = RaftView { has_quorum: Some(true), ..raft };
        assert!(raft_text(&confirmed).starts_with("raft        leader in term 4"), "{}", raft_text(&confirmed));
    }

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
