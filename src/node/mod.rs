//! The node: owns every task, starts, drains and stops them.
//!
//! ```text
//!  applications ──► locks ──► gateway ─┬─► authority (here, if this node leads) ──► raft
//!                                      └─► exchange ──► mesh ──► the leader's dispatch ──► authority
//!  mesh ──► dispatch ─┬─► raft            leader task: sessions, members, voters, lock events
//!                     ├─► control task    control task: founding, joining, heartbeats, view
//!                     └─► exchange
//! ```
//!
//! [`Node`] is the handle. Everything that a production node is made of besides (data directory,
//! sockets, files) is brought together in [`start`]; the simulation brings its own.

mod authority;
pub mod backup;
pub mod caches;
mod collect;
pub(crate) mod control;
mod dispatch;
mod drain;
mod events;
mod gateway;
mod guard;
mod hints;
#[cfg(test)]
mod hostile;
pub(crate) mod leader;
mod leaving;
mod limits;
mod lock_events;
pub mod locks;
mod observe;
mod observe_caches;
mod observe_queues;
mod parking;
mod probe;
pub mod queues;
#[cfg(test)]
mod recording;
pub(crate) mod records;
pub mod recovery;
mod rendezvous;
mod requests;
mod route;
pub(crate) mod running;
mod start;
pub mod status;
mod wire;

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::sync::mpsc;

pub use self::{
    guard::{LockBuilder, LockGuard},
    probe::{PeerInfoError, peer_info},
    running::End,
    start::StartError,
};
use crate::{
    config::Config,
    error::{Error, ErrorCode, Outcome},
    ids::{NodeId, QueueName},
    machine::{
        control::ChangeBody,
        membership::{Liveness, MemberChange},
    },
    node::{
        caches::{Cache, Caches},
        locks::{IdempotencyKey, Locks},
        queues::{Queue, Queues},
        running::Running,
        status::{ClusterEvent, ClusterView, NodeInfo, Readiness},
        wire::{ClientAsk, ClientReply, ControlCall, ControlReply, Leader},
    },
    telemetry::{RecentLogs, recent_logs},
};

/// How long handing over the leadership may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(10);

/// Where a stream of events begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResumeFrom {
    /// With the next one.
    Now,
    /// After the one with this id.
    After(u64),
    /// After one whose id was never ours.
    Elsewhere,
    /// With the last so many of those that are still known.
    Recent(usize),
}

/// A stream of events.
#[derive(Debug)]
pub struct EventStream {
    /// Set when the `Last-Event-ID` that was asked for is no longer (or never was) known: the client
    /// has missed events and is told so by a `reset` with this id, from which the stream goes on.
    pub reset: Option<u64>,
    /// The events from there on. Ends when the node stops or the reader falls too far behind.
    pub events: mpsc::Receiver<ClusterEvent>,
}

/// A running node. Cheap to clone; the node runs until it is stopped or [ends](Node::ended).
#[derive(Clone, Debug)]
pub struct Node {
    running: Arc<Running>,
}

impl Node {
    /// Starts a node: takes its data directory, listens, and looks for its cluster. Returns once it
    /// listens; [`Node::readiness`] tells when it can serve.
    ///
    /// # Errors
    /// [`StartError`] names what could not be had, and the cure.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        // Boxed, as what follows: whoever embeds a node is not to meet the depth of its futures.
        start::start(config).boxed().await
    }

    /// A node of these parts.
    pub(crate) fn of(parts: running::Parts) -> Self {
        Self { running: Arc::new(running::assemble(parts)) }
    }

    /// Whether this node leads the lock managers and has taken up its office.
    #[cfg(test)]
    pub(crate) fn leads(&self) -> bool {
        self.running.gateway.route().leader().is_some_and(|leader| leader.node == self.id())
    }

    /// The Raft term that this node leads.
    #[cfg(test)]
    pub(crate) fn led_term(&self) -> Option<u64> {
        let status = self.running.raft.as_ref()?.status();
        let status = status.borrow();
        status.is_leader().then_some(status.term.0)
    }

    /// Who votes among the lock managers by this node's log; none while a change of them is under way.
    #[cfg(test)]
    pub(crate) fn voters(&self) -> std::collections::BTreeSet<NodeId> {
        let Some(raft) = &self.running.raft else { return Default::default() };
        let status = raft.status().borrow().clone();
        if status.changing == crate::raft::Changing::Settled { status.voters } else { Default::default() }
    }

    /// Who keeps which partition of the queues, as this node knows it.
    #[cfg(test)]
    pub(crate) fn placement(&self) -> crate::machine::placement::Partitions {
        self.running.gateway.route().view().partitions.clone()
    }

    /// Who is home to which slot of the cache, as this node knows it.
    #[cfg(test)]
    pub(crate) fn slots(&self) -> crate::machine::slots::SlotTable {
        self.running.gateway.route().view().slots.clone()
    }

    /// Waits until a partition is given up because its task ended by itself, and says why.
    #[cfg(test)]
    pub(crate) async fn gave_up(&self) -> String {
        let mut journals = self.running.observer.journals.clone();
        let gave_up = journals.wait_for(|journals| !journals.given_up.is_empty()).await;
        let Some(said) = gave_up.ok().map(|journals| format!("partitions were given up: {:?}", journals.given_up))
        else {
            return std::future::pending().await;
        };
        said
    }

    /// The lock service.
    pub fn locks(&self) -> Locks {
        self.running.locks.clone()
    }

    /// The queue service.
    pub fn queues(&self) -> Queues {
        self.running.queues.clone()
    }

    /// The cache service.
    pub fn caches(&self) -> Caches {
        self.running.caches.clone()
    }

    /// The cache, for an application that embeds this node.
    pub fn cache(&self) -> Cache {
        Cache::new(self.caches())
    }

    /// One queue.
    pub fn queue(&self, name: QueueName) -> Queue {
        Queue::new(self.queues(), name)
    }

    /// What this node says of itself.
    pub async fn info(&self) -> NodeInfo {
        self.running.observer.info().await
    }

    /// What this node knows of the cluster, from the leader where one can be reached.
    pub async fn cluster(&self) -> ClusterView {
        self.running.observer.cluster(&self.running.gateway).await
    }

    /// What a member says of itself: this node, or one that is asked over the mesh.
    ///
    /// # Errors
    /// `not-found`; `unavailable` where it does not answer.
    pub async fn member_info(&self, peer: NodeId) -> Result<NodeInfo, Error> {
        if peer == self.id() {
            return Ok(self.info().await);
        }
        match self.ask_member(peer, ControlCall::Info).await? {
            ControlReply::Info(json) => serde_json::from_str(&json).map_err(|_| of_another_version(peer)),
            _ => Err(of_another_version(peer)),
        }
    }

    /// What a member's process has logged last: this node's, or that of one that is asked over the mesh.
    ///
    /// # Errors
    /// `not-found`; `unavailable` where it does not answer.
    pub async fn member_logs(&self, peer: NodeId) -> Result<RecentLogs, Error> {
        if peer == self.id() {
            return Ok(recent_logs());
        }
        match self.ask_member(peer, ControlCall::Logs).await? {
            ControlReply::Logs { text, forgotten } => Ok(RecentLogs::of_text(&text, forgotten)),
            ControlReply::NotLeader(_) => {
                let detail = format!("{peer} does not know this node as a member: ask it itself");
                Err(Error::unavailable(Outcome::NotApplied, detail))
            }
            _ => Err(of_another_version(peer)),
        }
    }

    async fn ask_member(&self, peer: NodeId, call: ControlCall) -> Result<ControlReply, Error> {
        if !self.running.gateway.route().view().members.contains_key(&peer) {
            return Err(no_such_member());
        }
        self.running
            .control(peer, call)
            .await
            .map_err(|error| Error::unavailable(Outcome::NotApplied, format!("{peer} does not answer: {error}")))
    }

    /// Whether it can serve its roles now.
    pub async fn readiness(&self) -> Readiness {
        self.running.observer.readiness()
    }

    /// The cluster's events, as this node comes to know them, from there on.
    pub async fn events(&self, from: ResumeFrom) -> EventStream {
        self.running.events.stream(from)
    }

    /// Removes and bars a member.
    ///
    /// # Errors
    /// `not-found`, `no-quorum`, `unavailable`.
    pub async fn remove_member(&self, peer: NodeId, key: Option<IdempotencyKey>) -> Result<(), Error> {
        self.change(ChangeBody::Member(MemberChange::Remove(peer)), key).await
    }

    /// Lifts the bar.
    ///
    /// # Errors
    /// `not-found`, `no-quorum`, `unavailable`.
    pub async fn admit_member(&self, peer: NodeId, key: Option<IdempotencyKey>) -> Result<(), Error> {
        self.change(ChangeBody::Member(MemberChange::Admit(peer)), key).await
    }

    /// A member leaves for good: it is asked to drain, to be removed, and to end its process. Another
    /// member is asked over the mesh and must be up; to take out a dead one, remove it. With a `wait_ms` (0 to
    /// 600,000) the answer comes once it has left. With a `deadline_ms` (1,000 to 86,400,000; 600,000 without) it has so
    /// long to hand its duties over, and stays a member where that is not enough. Who asks first sets it.
    ///
    /// # Errors
    /// `not-found`, `unavailable` (also where it has not left within the wait, or stays a member); with a key also
    /// `no-quorum`.
    pub async fn leave(
        &self,
        peer: NodeId,
        wait_ms: u64,
        deadline_ms: Option<u64>,
        key: Option<IdempotencyKey>,
    ) -> Result<(), Error> {
        limits::check_key(key.as_ref())?;
        limits::check_range("wait_ms", wait_ms, limits::WAIT_MS)?;
        if let Some(deadline_ms) = deadline_ms {
            limits::check_range("deadline_ms", deadline_ms, limits::LEAVE_DEADLINE_MS)?;
        }
        self.ask_to_leave(peer, deadline_ms, key).await?;
        if wait_ms == 0 {
            return Ok(());
        }
        let left = tokio::time::timeout(Duration::from_millis(wait_ms), self.left(peer));
        left.await.unwrap_or_else(|_| {
            let detail =
                format!("{peer} goes on leaving, and had not left within {wait_ms} ms: `syncmesh members list`");
            Err(Error::unavailable(Outcome::Unknown, detail))
        })
    }

    /// Waits until a member that was asked to leave has left, or is known to stay.
    async fn left(&self, peer: NodeId) -> Result<(), Error> {
        let stays = |why: &str| Err(Error::unavailable(Outcome::Unknown, format!("{peer} has not left: {why}")));
        if peer == self.id() {
            let mut departure = self.running.departure.subscribe();
            return match departure.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Departure::Left)) => Ok(()),
                Ok(Some(Departure::Not(why))) => stays(why),
                Ok(None) | Err(_) => stays("it ended"),
            };
        }
        let liveness = |view: &wire::View| view.members.get(&peer).map_or(Liveness::Left, |member| member.liveness);
        let mut views = self.running.gateway.route().views();
        let ended = views.wait_for(|view| matches!(liveness(view), Liveness::Left | Liveness::Down)).await;
        match ended.as_deref().map(|view| liveness(view)) {
            Ok(Liveness::Left) => Ok(()),
            _ => stays("it went down; its log says why. Start it again, or remove it with `syncmesh members remove`"),
        }
    }

    async fn ask_to_leave(
        &self,
        peer: NodeId,
        deadline_ms: Option<u64>,
        key: Option<IdempotencyKey>,
    ) -> Result<(), Error> {
        let repeated = self.running.gateway.noted_before(key).await?.is_some();
        if peer == self.id() {
            self.running.leaving.ask(deadline_ms.map(Duration::from_millis));
            return Ok(());
        }
        let route = self.running.gateway.route();
        if !route.is_member(peer) {
            // What has left since it was asked to is listed for a while.
            let has_left = repeated && route.view().members.contains_key(&peer);
            return if has_left { Ok(()) } else { Err(no_such_member()) };
        }
        let call = deadline_ms.map_or(ControlCall::PleaseLeave, |deadline_ms| ControlCall::LeaveWithin { deadline_ms });
        match self.running.control(peer, call).await {
            Ok(ControlReply::Done) => Ok(()),
            _ => Err(Error::unavailable(
                Outcome::Unknown,
                format!("{peer} does not answer: if it is gone for good, use `syncmesh members remove {peer}`"),
            )),
        }
    }

    /// Hands Raft's leadership to `to`, or to whoever is most up to date. A repetition under the same
    /// key does nothing, and tells whether the leadership is where it was to go.
    ///
    /// # Errors
    /// `not-found`, `no-quorum`, `unavailable`.
    pub async fn transfer_leader(&self, to: Option<NodeId>, key: Option<IdempotencyKey>) -> Result<(), Error> {
        limits::check_key(key.as_ref())?;
        let route = self.running.gateway.route();
        if to.is_some_and(|to| !route.is_member(to)) {
            return Err(no_such_member());
        }
        if let Some(noted) = self.running.gateway.noted_before(key).await? {
            let arrived = |leader: Leader| to.map_or(leader.term > noted, |to| leader.node == to);
            return if route.leader().is_some_and(arrived) { Ok(()) } else { Err(gateway::hand_over_unknown()) };
        }
        if let (Some(to), Some(leader)) = (to, route.leader())
            && leader.node == to
        {
            return Ok(());
        }
        let is_draining =
            |node: &NodeId| route.view().members.get(node).is_some_and(|member| member.liveness == Liveness::Draining);
        if let Some(to) = to.filter(is_draining) {
            let detail = format!("{to} is about to go, and would only hand the leadership on: name another voter");
            return Err(Error::unavailable(Outcome::NotApplied, detail));
        }
        match self.running.gateway.ask(ClientAsk::Transfer(to), TRANSFER_PATIENCE).await? {
            ClientReply::Done => Ok(()),
            reply => Err(Error::internal(format!("the leader gave an answer to something else: {reply:?}"))),
        }
    }

    async fn change(&self, body: ChangeBody, key: Option<IdempotencyKey>) -> Result<(), Error> {
        limits::check_key(key.as_ref())?;
        let request = self.running.gateway.begin();
        match self.running.gateway.change(&request, key, body, Duration::ZERO).await? {
            ClientReply::Done => Ok(()),
            reply => Err(Error::internal(format!("the leader gave an answer to something else: {reply:?}"))),
        }
    }

    /// All metrics in the Prometheus text format (OpenMetrics).
    pub async fn metrics_text(&self) -> String {
        collect::metrics_text(&self.running).await
    }

    /// The handles to this node's metrics.
    pub fn metrics(&self) -> &crate::telemetry::Metrics {
        &self.running.metrics
    }

    /// This node's own id.
    pub fn id(&self) -> NodeId {
        self.running.id
    }

    /// Where this node listens (multiaddrs).
    pub fn listen_addrs(&self) -> Vec<String> {
        self.running.mesh.status().borrow().listen_addrs.iter().map(ToString::to_string).collect()
    }

    /// Where this node keeps its data: with `DATA_SLOTS=on`, its slot. None in simulation.
    pub fn data_dir(&self) -> Option<PathBuf> {
        self.running.data_dir.clone()
    }

    /// Writes `node.json` into the data directory, for scripts that start nodes.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub async fn write_node_file(&self, api_url: &str) -> std::io::Result<()> {
        self.running.write_node_file(api_url).await
    }

    /// Waits until the node ends by itself: it left, was removed, or failed.
    pub async fn ended(&self) -> End {
        self.running.ended().await
    }

    /// Waits until this node has been asked to leave the cluster for good; whoever runs it then calls
    /// [`Node::stop`].
    pub async fn asked_to_leave(&self) {
        self.running.leaving.asked().await;
    }

    /// Whether it was asked to.
    pub(crate) fn is_leaving(&self) -> bool {
        self.running.leaving.is_asked()
    }

    /// How long it may take, where whoever asked it said so.
    pub(crate) fn leaves_within(&self) -> Option<Duration> {
        self.running.leaving.within()
    }

    /// Hands its duties over, as [`Node::stop`] does first, and leaves it running until that is called.
    pub(crate) async fn drain(&self, grace: Duration) -> Drained {
        drain::drain(&self.running, grace).await
    }

    /// Drains and stops the node: hands its duties over, tells the leader, closes its connections. A
    /// node that was asked to leave is removed for good. `true`: all of it within `grace`.
    pub async fn stop(&self, grace: Duration) -> Drained {
        drain::stop(&self.running, grace).boxed().await
    }
}

/// Whether a stop got to hand everything over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// All duties were handed over.
    Whole,
    /// Time ran out first; nothing acknowledged is lost, but the others notice by silence.
    Cut,
}

/// What came of leaving for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Departure {
    /// It is a member no more.
    Left,
    /// Something is left to be done, or it is still a member.
    Not(String),
}

fn of_another_version(peer: NodeId) -> Error {
    let detail = format!("{peer} answers something that this node cannot read: does it run another version?");
    Error::unavailable(Outcome::NotApplied, detail)
}

fn no_such_member() -> Error {
    Error::new(ErrorCode::NotFound, "there is no such member: `syncmesh members list` shows them all")
}
