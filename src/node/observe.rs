//! Gathers what a node says of itself and of its cluster, from the snapshots that the tasks publish.
//!
//! Reads only. Answers without a quorum too: with what this node knows, and a warning.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    caches::{CacheNodeView, Caches},
    control::{Standing, VERSION, why_not_found},
    drain,
    gateway::Gateway,
    leaving::Leaving,
    observe_caches::{self, cache_warnings},
    observe_queues::{placement, queue_warnings},
    queues::keeper::Journals,
    route::Route,
    status::{
        CacheSummary, Check, ClusterView, DrainView, MemberStatus, MemberView, NO_QUORUM, NodeInfo, PeerView,
        QueueNodeView, RaftStanding, RaftView, Readiness, Warning,
    },
    wire::{ClientAsk, ClientReply, Hello, Leader, MembersReport},
};
use crate::{
    clock::Clock,
    ids::{ClusterId, NodeId, Role, Tick},
    machine::{
        control::ControlState,
        membership::{ClusterRecord, Liveness, Member},
    },
    net::{Mesh, MeshStatus, PeerLink},
    raft::{RaftNode, RaftRole, RaftStatus},
    time::{millis, rfc3339},
};

/// How long somebody who looks at the cluster waits for a leader to answer.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// How long for the figures of the caches: each is waited for, a node that is silent too.
const CACHES_PATIENCE: Duration = Duration::from_secs(3);

/// What never changes while a node runs.
#[derive(Clone, Debug)]
pub(crate) struct Fixed {
    pub(crate) cluster_name: String,
    pub(crate) cache_protocol: String,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) announce: Vec<String>,
    pub(crate) started: Tick,
}

/// Everything there is to look at. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    pub(crate) fixed: Arc<Fixed>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) route: Route,
    pub(crate) raft: Option<RaftNode<ControlState>>,
    pub(crate) greeted: watch::Receiver<Arc<BTreeMap<NodeId, Hello>>>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) record: watch::Receiver<Option<ClusterRecord>>,
    pub(crate) journals: watch::Receiver<Journals>,
    pub(crate) caches: Caches,
    /// Whether the node leaves for good: its API is there until it has.
    pub(crate) leaving: Leaving,
    /// Cancelled when it hands its duties over.
    pub(crate) draining: CancellationToken,
}

/// What a node calls itself towards its peers.
pub(crate) fn agent() -> String {
    format!("syncmesh/{VERSION}")
}

impl Observer {
    fn cluster_id(&self) -> Option<ClusterId> {
        self.record.borrow().as_ref().map(|record| record.cluster_id)
    }

    fn is_pure_gateway(&self) -> bool {
        self.fixed.roles.iter().all(|role| *role == Role::Bootstrap)
    }

    /// `GET /v1/node`.
    pub(crate) async fn info(&self) -> NodeInfo {
        let cache = self.cache_here().await;
        let (protocol, policy) = (self.caches.protocol(), self.caches.write_policy());
        let mesh = self.mesh.status().borrow().clone();
        let greeted = self.greeted.borrow().clone();
        let texts = |addrs: &[libp2p::Multiaddr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        NodeInfo {
            peer_id: self.mesh.local(),
            agent: agent(),
            version: VERSION.to_owned(),
            cluster_id: self.cluster_id(),
            cluster_name: self.fixed.cluster_name.clone(),
            roles: self.fixed.roles.iter().copied().collect(),
            ready: self.readiness().ready,
            uptime_ms: self.clock.now().ms_since(self.fixed.started),
            listen_addrs: texts(&mesh.listen_addrs),
            announce_addrs: self.fixed.announce.clone(),
            observed_addrs: texts(&mesh.observed_addrs),
            protocols: mesh.protocols.clone(),
            peers: mesh.peers.values().map(|link| peer_view(link, greeted.get(&link.peer))).collect(),
            raft: self.raft.as_ref().map(|raft| self.raft_view(&raft.status().borrow())),
            queue: self.queue_view(),
            cache: cache.map(|view| observe_caches::node_info(&view, protocol, policy)),
            drain: self.draining.is_cancelled().then(|| self.drain_view()),
            leaderless_ms: self.route.leader().is_none().then(|| millis(self.route.leaderless_for())),
        }
    }

    /// Of a cache node that answers.
    pub(crate) async fn cache_here(&self) -> Option<CacheNodeView> {
        tokio::time::timeout(LOOK_PATIENCE, self.caches.stats_here()).await.ok().flatten()
    }

    /// Of a queue node whose journal is open.
    fn queue_view(&self) -> Option<QueueNodeView> {
        let info = self.journals.borrow().info.clone()?;
        let (me, view) = (self.mesh.local(), self.route.view());
        let mut queue =
            QueueNodeView { journal: info.kind, durable: info.durable, primaries: Vec::new(), backups: Vec::new() };
        for (id, placed) in view.partitions.iter() {
            if placed.primary.is_some_and(|primary| primary.node == me) {
                queue.primaries.push(*id);
            } else if placed.in_sync.iter().any(|replica| replica.node == me) {
                queue.backups.push(*id);
            }
        }
        Some(queue)
    }

    /// What a node that drains is still needed for.
    fn drain_view(&self) -> DrainView {
        let (me, view, leaves) = (self.mesh.local(), self.route.view(), self.leaving.is_asked());
        DrainView {
            leaves,
            leads: self.route.leader().is_some_and(|leader| leader.node == me),
            votes: view.voters.contains(&me),
            partitions: drain::partitions_here(&view, me, leaves),
            slots: drain::slots_here(&view, me),
        }
    }

    /// Whether a queue node can write its journal.
    fn journal_check(&self) -> Option<Check> {
        if !self.fixed.roles.contains(&Role::QueueNode) {
            return None;
        }
        let journals = self.journals.borrow();
        let (ok, detail) = match (&journals.info, &journals.trouble) {
            (_, Some(trouble)) => (false, format!("the journal of the queues cannot be used: {trouble}")),
            (Some(info), None) => (true, format!("{}: {}", info.kind, info.detail)),
            (None, None) => (false, "the journal of the queues is opened once the cluster is known".to_owned()),
        };
        Some(Check { name: "journal".into(), ok, detail })
    }

    /// Whether the queues have been given to nodes, by a leader that is there to say so.
    fn placement_check(&self) -> Option<Check> {
        if !self.fixed.roles.contains(&Role::QueueNode) {
            return None;
        }
        let view = self.route.view();
        let placed = view.partitions.values().filter(|placed| !placed.replicas.is_empty()).count();
        let detail = format!("{placed} of {} partitions of the queues are placed", view.partitions.len());
        let (ok, detail) = match self.route.leader() {
            Some(_) => (placed > 0 && placed == view.partitions.len(), detail),
            None => (false, format!("as last known, {}: {detail}", leaderless(self.route.leaderless_for()))),
        };
        Some(Check { name: "queues".into(), ok, detail })
    }

    /// Whether a cache node is inside its lease, without which it is home to nothing, and slots of the cache have homes.
    fn slots_check(&self) -> Option<Check> {
        if !self.fixed.roles.contains(&Role::CacheNode) {
            return None;
        }
        let view = self.route.view();
        let homes = view.slots.values().filter_map(|slot| slot.home);
        let here = homes.clone().filter(|home| home.node == self.mesh.local()).count();
        let placed = homes.count();
        let (ok, detail) = if self.caches.is_cut_off() {
            let detail = "outside its lease, and so home to nothing, since no leader was heard of for longer than that lasts: \
                          `syncmesh status` shows who is missing";
            (false, detail.to_owned())
        } else {
            (
                placed > 0,
                format!("{placed} of {} slots of the cache have a home, {here} of them here", view.slots.len()),
            )
        };
        Some(Check { name: "cache".into(), ok, detail })
    }

    /// Whether this run of a queue node has given partitions up: no line where it has not.
    fn given_up_check(&self) -> Option<Check> {
        let journals = self.journals.borrow();
        let (id, reason) = journals.given_up.first_key_value()?;
        let detail = format!(
            "{} of the partitions are kept here no longer, because their tasks ended by themselves, such as partition {id}: \
             {reason}. That is a bug: report it with this node's log, and start the node again",
            journals.given_up.len()
        );
        Some(Check { name: "partitions".into(), ok: false, detail })
    }

    /// The body of `GET /v1/node` as one line of JSON.
    pub(crate) async fn info_json(&self) -> String {
        serde_json::to_string(&self.info().await).expect("plain data with string keys has a JSON form")
    }

    fn raft_view(&self, status: &RaftStatus) -> RaftView {
        // Raft goes on naming a leader that is gone, or has lost its quorum, until another one is elected.
        let known = self.route.leader().map(|leader| leader.node);
        RaftView {
            role: role_name(status.role).to_owned(),
            has_quorum: status.is_leader().then(|| known == Some(self.mesh.local())),
            term: status.term.0,
            leader: status.leader.filter(|leader| known == Some(*leader)),
            last_log_index: status.last_log_index,
            committed_index: status.committed,
            applied_index: status.applied,
            voters: status.voters.iter().copied().collect(),
            learners: status.learners.iter().copied().collect(),
        }
    }

    /// `GET /readyz`.
    pub(crate) fn readiness(&self) -> Readiness {
        let listening = !self.mesh.status().borrow().listen_addrs.is_empty();
        let mesh = Check {
            name: "mesh".into(),
            ok: listening,
            detail: format!("listens, {} peers connected", self.mesh.status().borrow().peers.len()),
        };
        let cluster = self.cluster_check();
        // A gateway's work is to be found, also by those who found the cluster: what becomes of the
        // cluster is told, and does not count.
        let mut checks = vec![mesh, cluster];
        let roles = [self.journal_check(), self.placement_check(), self.given_up_check(), self.slots_check()];
        let ready =
            checks[0].ok && (checks[1].ok || self.is_pure_gateway()) && roles.iter().flatten().all(|check| check.ok);
        checks.extend(roles.into_iter().flatten());
        Readiness { ready, checks }
    }

    fn cluster_check(&self) -> Check {
        let mesh = self.mesh.status().borrow().clone();
        let hint = mesh.key_hint();
        let (ok, detail) = match &*self.standing.borrow() {
            Standing::Looking { lock_managers, expect: Some(expect), .. } => {
                (false, format!("waits for lock managers: {lock_managers} of BOOTSTRAP_EXPECT={expect} are here{hint}"))
            }
            Standing::Looking { expect: None, refused, .. } => {
                let why = why_not_found(refused.as_deref(), &mesh);
                let why = why.as_deref().unwrap_or("start a founder with BOOTSTRAP_EXPECT, or set BOOTSTRAP_PEERS");
                (false, format!("no cluster found: {why}{hint}"))
            }
            Standing::Joining => (false, format!("joins its cluster: no leader has answered yet{hint}")),
            Standing::Member if self.leaving.is_asked() => (false, "leaves the cluster".into()),
            Standing::Member => match self.route.leader() {
                Some(leader) => (true, format!("member, the leader is {}", leader.node)),
                None => (false, "member, but no leader can be reached: `syncmesh status` shows who is missing".into()),
            },
            Standing::Left => (false, "has left the cluster".into()),
            Standing::Barred(reason) => (false, reason.clone()),
        };
        Check { name: "cluster".into(), ok, detail }
    }

    /// `GET /v1/cluster`: as the leader sees it, where it can be reached.
    pub(crate) async fn cluster(&self, gateway: &Gateway) -> ClusterView {
        let asked = tokio::time::timeout(LOOK_PATIENCE, gateway.ask(ClientAsk::Members, Duration::ZERO));
        let (asked, (cache, silent)) = tokio::join!(asked, self.cache_summary());
        match asked {
            Ok(Ok(ClientReply::Members(report))) => {
                let mut warnings = Vec::new();
                down_warnings(report.view.members.values(), &mut warnings);
                voter_warning(report.view.voters.len(), &mut warnings);
                queue_warnings(&report, &mut warnings);
                cache_warnings(&report.view, &silent, &mut warnings);
                self.cluster_view(Some(report.leader), &report, cache, warnings)
            }
            _ => self.unconfirmed(cache),
        }
    }

    /// How the caches do, and who of them did not answer.
    async fn cache_summary(&self) -> (CacheSummary, Vec<NodeId>) {
        match tokio::time::timeout(CACHES_PATIENCE, self.caches.stats()).await {
            Ok(Ok(view)) => (observe_caches::summary(&view), view.unanswered),
            _ => {
                let protocol = self.fixed.cache_protocol.clone();
                (CacheSummary { protocol, ..CacheSummary::default() }, Vec::new())
            }
        }
    }

    /// What this node knows by itself: the members that it last heard of, and whom it is connected to.
    fn unconfirmed(&self, cache: CacheSummary) -> ClusterView {
        let mut view = (*self.route.view()).clone();
        // Of those that were gone already when a leader was there, it is known since when.
        let gone = view.members.iter().filter(|(_, member)| !member.serves());
        let last_seen = gone.map(|(node, member)| (*node, member.since)).collect();
        let connected = self.mesh.status().borrow().clone();
        let is_here = |node: &NodeId| *node == self.mesh.local() || connected.peers.contains_key(node);
        let mut away = Vec::new();
        for (node, member) in view.members.iter_mut().filter(|(_, member)| member.liveness != Liveness::Left) {
            member.liveness = if is_here(node) { Liveness::Up } else { Liveness::Down };
            if !is_here(node) {
                away.push(*node);
            }
        }
        let here = view.voters.iter().filter(|node| is_here(node)).count();
        let no_quorum = no_quorum(&self.standing.borrow(), &connected, here, view.voters.len());
        let mut warnings = vec![warning(NO_QUORUM, no_quorum)];
        if !away.is_empty() {
            let away = away.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
            let detail =
                format!("this node has no connection to {away}: start them again, or look at the network between");
            warnings.push(warning("not-connected", detail));
        }
        voter_warning(view.voters.len(), &mut warnings);
        let leader = Leader::default();
        let trails_by = BTreeMap::new();
        let report =
            MembersReport { leader, view, last_seen, trails_by, queue_replicas: 0, moving: 0, slots_moving: 0 };
        self.cluster_view(None, &report, cache, warnings)
    }

    fn cluster_view(
        &self,
        leader: Option<Leader>,
        known: &MembersReport,
        cache: CacheSummary,
        warnings: Vec<Warning>,
    ) -> ClusterView {
        let view = &known.view;
        let member = |(node, member): (&NodeId, &Member)| {
            let standing = match () {
                () if leader.is_some_and(|leader| leader.node == *node) => Some(RaftStanding::Leader),
                () if view.voters.contains(node) => Some(RaftStanding::Voter),
                () if view.learners.contains(node) => Some(RaftStanding::Learner),
                () => None,
            };
            member_view(node, member, standing, known)
        };
        ClusterView {
            cluster_id: self.cluster_id(),
            cluster_name: self.fixed.cluster_name.clone(),
            epoch: view.version,
            term: leader.map_or(self.route.term(), |leader| leader.term).0,
            leader: leader.map(|leader| leader.node),
            leaderless_ms: leader.is_none().then(|| millis(self.route.leaderless_for())),
            members: view.members.iter().map(member).collect(),
            queue: placement(view, leader.map(|_| known.moving)),
            cache: CacheSummary { moving: leader.map(|_| known.slots_moving), ..cache },
            warnings,
        }
    }
}

/// For how long nobody has been known to lead, in words.
fn leaderless(lasted: Duration) -> String {
    format!("without a leader for {} s", lasted.as_secs())
}

/// Why there is no leader, as far as a node can tell that has `here` of the `voters` in sight.
fn no_quorum(standing: &Standing, mesh: &MeshStatus, here: usize, voters: usize) -> String {
    let needed = voters / 2 + 1;
    if let Standing::Looking { expect: None, refused, .. } = standing
        && let Some(why) = why_not_found(refused.as_deref(), mesh)
    {
        return format!("this node has not joined a cluster yet: {why}");
    }
    match standing {
        _ if voters == 0 => {
            "this node has not joined a cluster yet: start the founder with BOOTSTRAP_EXPECT, or name a \
                             member in BOOTSTRAP_PEERS; `syncmesh peer-info` shows whom this node is connected to"
                .into()
        }
        Standing::Left | Standing::Barred(_) => {
            "this node is no member any more, and no leader answers it: ask another node".into()
        }
        _ if here < needed => format!(
            "no leader answers: this node reaches {here} of {voters} voting lock managers, itself included where it is \
             one, and {needed} are needed. Locks cannot be acquired, released or kept alive"
        ),
        _ => format!(
            "no leader answers, though this node reaches {here} of {voters} voting lock managers: they elect one now, or do \
             not reach each other. Look again in a few seconds"
        ),
    }
}

pub(super) fn warning(code: &str, detail: impl Into<String>) -> Warning {
    Warning { code: code.into(), detail: detail.into() }
}

fn down_warnings<'a>(members: impl Iterator<Item = &'a Member>, warnings: &mut Vec<Warning>) {
    for member in members.filter(|member| member.liveness == Liveness::Down) {
        let detail = format!(
            "{} is down since {}: start it again. One that was stopped for good is listed no longer after \
             MEMBER_FORGET_TIMEOUT; `syncmesh members remove {0}` takes it out now, and bars it until it is admitted again",
            member.joiner.node,
            rfc3339(member.since)
        );
        warnings.push(warning("member-down", detail));
    }
}

fn voter_warning(voters: usize, warnings: &mut Vec<Warning>) {
    match voters {
        0 => {}
        1 => warnings.push(warning(
            "single-voter",
            "one lock manager votes: its loss stops the locks; start two more, they become voters by themselves",
        )),
        even if even % 2 == 0 => warnings.push(warning(
            "even-voters",
            format!("{even} lock managers vote, which survives no more losses than {} would: start one more", even - 1),
        )),
        _ => {}
    }
}

fn member_view(node: &NodeId, member: &Member, raft: Option<RaftStanding>, known: &MembersReport) -> MemberView {
    MemberView {
        peer_id: *node,
        roles: member.joiner.roles.clone(),
        addrs: member.joiner.addrs.clone(),
        status: match member.liveness {
            Liveness::Up | Liveness::Draining => MemberStatus::Up,
            Liveness::Down => MemberStatus::Down,
            Liveness::Left => MemberStatus::Left,
        },
        raft,
        trails_by: known.trails_by.get(node).copied(),
        version: member.joiner.version.clone(),
        last_seen: known.last_seen.get(node).map(|at| rfc3339(*at)),
    }
}

fn peer_view(link: &PeerLink, hello: Option<&Hello>) -> PeerView {
    PeerView {
        peer_id: link.peer,
        agent: link.agent.clone(),
        roles: hello.map(|hello| hello.roles.clone()).unwrap_or_default(),
        addr: link.addr.to_string(),
        transport: link.transport.to_owned(),
        direction: if link.outbound { "outbound" } else { "inbound" }.to_owned(),
        rtt_ms: link.rtt.map(|rtt| u64::try_from(rtt.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)),
        discovered_by: link.discovered_by,
    }
}

pub(super) fn role_name(role: RaftRole) -> &'static str {
    match role {
        RaftRole::Learner => "learner",
        RaftRole::Follower => "follower",
        RaftRole::Candidate => "candidate",
        RaftRole::Leader => "leader",
        RaftRole::Stopped => "stopped",
    }
}
