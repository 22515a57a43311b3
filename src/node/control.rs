//! Finds, founds or joins the cluster, and stays a member of it.
//!
//! One task on every node owns the [`Founding`], the greetings of its peers and its own standing. It
//! speaks [`ControlCall`] with peers, heartbeats to the leader, and installs the view that comes back.
//! On a lock manager the [leader task](super::leader) installs views from the log as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    authority::Authority,
    observe::Observer,
    records::ClusterStore,
    route::Route,
    wire::{ControlCall, ControlReply, Hello, Leader, MAX_ACQUAINTED, Refused},
};
use crate::{
    clock::Clock,
    codec::{decode, encode},
    ids::{ClusterId, Incarnation, NodeId, Role},
    machine::{
        control::ControlState,
        founding::{Candidacy, Founder, Founding, FoundingEffect, Mismatch, Report},
        membership::{ClusterRecord, Joiner, Liveness, MAX_ADDRS},
    },
    net::{CallError, DiscoveredBy, Inbound, Lane, Mesh, Protocol},
    raft::RaftNode,
};

/// How often the task looks around.
const LOOK: Duration = Duration::from_millis(100);
/// How often peers are greeted again while this node knows no cluster or no leader.
const GREET_AGAIN: Duration = Duration::from_millis(400);
/// How long a founder looks for a cluster that is there already before it founds one.
const LOOK_FIRST: Duration = Duration::from_millis(1_500);
/// How often a node without a cluster says so.
const SAY_SO: Duration = Duration::from_secs(10);
/// Most control calls from peers that are served at a time; further ones are refused.
const MAX_SERVED: usize = 1_024;
/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What this node is in its cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// No cluster was found or founded yet.
    Looking {
        /// Lock managers here without a cluster, this node included if it is one.
        lock_managers: usize,
        /// How many of them this node waits for, if it is the founder.
        expect: Option<usize>,
    },
    /// Knows its cluster, not a member (again) yet.
    Joining,
    /// A member.
    Member,
    /// Left for good: the process ends, and joins as new when it is started again.
    Left,
    /// Can never be a member as it is: the process ends with this message.
    Barred(String),
}

/// What the dispatcher hands to the task.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    Up(NodeId),
    Down(NodeId),
    Call(Inbound),
}

/// Whether a node has somewhere to look for a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Search {
    /// Bootstrap addresses or the local network.
    Elsewhere,
    /// It can only be found by others.
    Nowhere,
}

/// Who this node is, for greetings and founding.
#[derive(Clone, Debug)]
pub(crate) struct ControlSettings {
    pub(crate) incarnation: Incarnation,
    pub(crate) cluster_name: String,
    pub(crate) cache_protocol: String,
    pub(crate) queue_partitions: u32,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) expect: Option<usize>,
    pub(crate) announce: Vec<String>,
    pub(crate) heartbeat: Duration,
    pub(crate) search: Search,
}

/// What the task is made of.
#[derive(Debug)]
pub(crate) struct ControlParts {
    pub(crate) settings: ControlSettings,
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) route: Route,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) authority: Option<Authority>,
    pub(crate) raft: Option<RaftNode<ControlState>>,
    pub(crate) records: Arc<dyn ClusterStore>,
    pub(crate) fresh_id: ClusterId,
    pub(crate) observer: Observer,
    pub(crate) known_record: watch::Sender<Option<ClusterRecord>>,
    pub(crate) greeted: watch::Sender<Arc<BTreeMap<NodeId, Hello>>>,
    pub(crate) standing: watch::Sender<Standing>,
    /// Cancelled when this node has been asked to leave for good.
    pub(crate) asked_to_leave: CancellationToken,
    /// Cancelled when the node drains: it does not join again, and its silence is explained.
    pub(crate) draining: CancellationToken,
}

#[derive(Debug)]
enum Done {
    Greeted(NodeId, Result<ControlReply, CallError>),
    Stored(Result<(), String>),
    Initialised(Result<(), String>),
    Told { leader: Leader, call: Told, outcome: Result<ControlReply, CallError> },
    Served,
}

/// What was told to a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Join,
    Heartbeat,
}

#[derive(Debug)]
struct ControlTask {
    parts: ControlParts,
    founding: Founding,
    /// Connected peers, and when each was greeted last.
    peers: BTreeMap<NodeId, Option<Instant>>,
    /// When a founder that may yet meet a cluster stops to look for one.
    found_at: Option<Instant>,
    /// Mismatches that were warned of.
    warned: BTreeSet<NodeId>,
    joined_as: Option<Joiner>,
    telling: bool,
    told_at: Instant,
    said_at: Option<Instant>,
    served: usize,
    work: JoinSet<Done>,
}

/// Runs the task until `stop`, or until the node can be a member no more.
pub(crate) async fn run(parts: ControlParts, mut events: mpsc::Receiver<ControlEvent>, stop: CancellationToken) {
    let settings = &parts.settings;
    let lock_manager =
        if settings.roles.contains(&Role::LockManager) { Candidacy::LockManager } else { Candidacy::Other };
    let founder = Founder {
        me: parts.mesh.local(),
        lock_manager,
        cluster_name: settings.cluster_name.clone(),
        cache_protocol: settings.cache_protocol.clone(),
        queue_partitions: settings.queue_partitions,
        expect: settings.expect,
        fresh_id: parts.fresh_id,
    };
    let founding = Founding::new(founder, parts.known_record.borrow().clone());
    let mut task = ControlTask {
        parts,
        founding,
        peers: BTreeMap::new(),
        found_at: None,
        warned: BTreeSet::new(),
        joined_as: None,
        telling: false,
        told_at: Instant::now(),
        said_at: None,
        served: 0,
        work: JoinSet::new(),
    };
    let mut views = task.parts.route.views();
    // What the log of an earlier run held may have been installed already.
    views.mark_changed();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    task.begin();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(done) = task.work.join_next() => {
                task.done(done.expect("work of the control task neither panics nor is aborted"));
            }
            Some(event) = events.recv() => task.event(event),
            Ok(()) = views.changed() => task.view_changed(),
            _ = look.tick() => task.look(),
        }
    }
}

impl ControlTask {
    /// Acts on what the disk holds. A founder without a record that has somewhere to look for a cluster
    /// looks there first.
    fn begin(&mut self) {
        let mut effects = Vec::new();
        let wall = self.parts.clock.wall();
        if self.founding.record().is_none() && self.parts.settings.search == Search::Elsewhere {
            self.found_at = Some(Instant::now() + LOOK_FIRST);
        } else {
            self.founding.may_found(wall, &mut effects);
        }
        self.founding.started(&mut effects);
        self.perform(effects);
    }

    /// The search is over, once everyone here has said whether there is a cluster.
    fn found_when_due(&mut self) {
        let Some(at) = self.found_at else { return };
        let greeted = self.parts.greeted.borrow().clone();
        let all_heard = self.peers.keys().all(|peer| greeted.contains_key(peer) || self.warned.contains(peer));
        if Instant::now() >= at && (all_heard || at.elapsed() > LOOK_FIRST) {
            self.found_at = None;
            let mut effects = Vec::new();
            self.founding.may_found(self.parts.clock.wall(), &mut effects);
            self.perform(effects);
        }
    }

    fn me(&self) -> NodeId {
        self.parts.mesh.local()
    }

    fn hello(&self) -> Hello {
        let settings = &self.parts.settings;
        Hello {
            incarnation: settings.incarnation,
            cluster_name: settings.cluster_name.clone(),
            cache_protocol: settings.cache_protocol.clone(),
            roles: settings.roles.iter().copied().collect(),
            version: VERSION.to_owned(),
            record: self.founding.record().cloned(),
            leader: self.parts.route.leader(),
            addrs: self.addrs(),
            acquainted: self.acquainted(),
        }
    }

    /// Where this node tells others to find it.
    fn addrs(&self) -> Vec<String> {
        let announced = &self.parts.settings.announce;
        if !announced.is_empty() {
            return announced.iter().take(MAX_ADDRS).cloned().collect();
        }
        let status = self.parts.mesh.status().borrow().clone();
        status.listen_addrs.iter().take(MAX_ADDRS).map(ToString::to_string).collect()
    }

    fn acquainted(&self) -> Vec<(NodeId, Vec<String>)> {
        let greeted = self.parts.greeted.borrow();
        let lock_managers = greeted.iter().filter(|(_, hello)| hello.roles.contains(&Role::LockManager));
        lock_managers.take(MAX_ACQUAINTED).map(|(peer, hello)| (*peer, hello.addrs.clone())).collect()
    }

    /// Connects to those whom a peer of ours knows and we do not.
    fn meet(&self, acquainted: &[(NodeId, Vec<String>)]) {
        for (peer, addrs) in acquainted.iter().take(MAX_ACQUAINTED) {
            if *peer != self.me() && !self.peers.contains_key(peer) {
                let addrs = addrs.iter().take(MAX_ADDRS).filter_map(|addr| addr.parse().ok()).collect();
                self.parts.mesh.hint(*peer, addrs, DiscoveredBy::Members);
            }
        }
    }

    fn event(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Up(peer) => {
                self.peers.insert(peer, None);
                self.greet(peer);
            }
            ControlEvent::Down(peer) => {
                self.peers.remove(&peer);
                self.founding.gone(peer);
                self.parts.greeted.send_modify(|greeted| {
                    Arc::make_mut(greeted).remove(&peer);
                });
                if let Some(leader) = self.parts.route.leader().filter(|leader| leader.node == peer) {
                    self.parts.route.doubt(leader);
                }
            }
            ControlEvent::Call(call) => self.serve(call),
        }
    }

    fn greet(&mut self, peer: NodeId) {
        let Some(greeted) = self.peers.get_mut(&peer) else { return };
        *greeted = Some(Instant::now());
        let hello = encode(&ControlCall::Hello(Box::new(self.hello())));
        let call = self.parts.mesh.call(peer, Protocol::Control, Lane::End, hello);
        self.work.spawn(async move { Done::Greeted(peer, reply(call.await)) });
    }

    /// What a peer says of itself.
    fn heard(&mut self, peer: NodeId, mut hello: Hello) {
        hello.bound();
        let lock_manager =
            if hello.roles.contains(&Role::LockManager) { Candidacy::LockManager } else { Candidacy::Other };
        let report = Report {
            cluster_name: hello.cluster_name.clone(),
            cache_protocol: hello.cache_protocol.clone(),
            lock_manager,
            record: hello.record.clone(),
        };
        let same_cluster = hello.record.is_some();
        let leader = hello.leader;
        let mut effects = Vec::new();
        self.founding.heard(self.parts.clock.wall(), peer, report, &mut effects);
        let refused = effects.iter().any(|effect| matches!(effect, FoundingEffect::Refuse(_)));
        // A stranger to a cluster has to change; of two strangers nobody knows which.
        if let Some(FoundingEffect::Refuse(mismatch @ Mismatch::CacheProtocol { .. })) = effects.first()
            && same_cluster
            && self.founding.record().is_none()
        {
            self.parts.standing.send_replace(Standing::Barred(mismatch.to_string()));
        }
        if !refused && self.peers.contains_key(&peer) {
            self.meet(&hello.acquainted);
            self.parts.greeted.send_modify(|greeted| {
                Arc::make_mut(greeted).insert(peer, hello);
            });
            if let Some(leader) = leader.filter(|_| same_cluster) {
                self.learn(leader);
            }
        }
        self.perform(effects);
    }

    /// A peer says who leads. A lock manager that follows somebody takes it as a confirmation only.
    fn learn(&self, leader: Leader) {
        let followed = self.parts.raft.as_ref().and_then(|raft| {
            let status = raft.status().borrow().clone();
            status.leader.map(|node| Leader { term: status.term, node })
        });
        if followed.is_none_or(|followed| followed == leader) {
            self.parts.route.learn(leader);
        }
    }

    fn perform(&mut self, effects: Vec<FoundingEffect>) {
        for effect in effects {
            match effect {
                FoundingEffect::Store(record) => {
                    let records = Arc::clone(&self.parts.records);
                    self.work.spawn(async move { Done::Stored(records.save(record).await.map_err(|e| e.to_string())) });
                }
                FoundingEffect::Announce => {
                    if let Some(record) = self.founding.record() {
                        info!(cluster = %record.cluster_id, name = %record.cluster_name, "belongs to the cluster");
                    }
                    let peers: Vec<_> = self.peers.keys().copied().collect();
                    peers.into_iter().for_each(|peer| self.greet(peer));
                }
                FoundingEffect::Initialise(voters) => {
                    if let Some(raft) = self.parts.raft.clone() {
                        self.work.spawn(async move { Done::Initialised(initialise(&raft, voters).await) });
                    }
                }
                FoundingEffect::Refuse(mismatch) => self.refuse(&mismatch),
            }
        }
    }

    fn refuse(&mut self, mismatch: &Mismatch) {
        let (Mismatch::Name { peer, .. } | Mismatch::Cluster { peer, .. } | Mismatch::CacheProtocol { peer, .. }) =
            mismatch;
        if self.warned.len() < MAX_SERVED && self.warned.insert(*peer) {
            warn!(%peer, "refused: {mismatch}");
        }
        self.parts.mesh.disconnect(*peer);
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Greeted(peer, Ok(ControlReply::Hello(hello))) => self.heard(peer, *hello),
            Done::Greeted(peer, outcome) => {
                debug!(%peer, ?outcome, "was not greeted back");
                if let Some(greeted) = self.peers.get_mut(&peer) {
                    *greeted = greeted.map(|at| at.min(Instant::now()));
                }
            }
            Done::Stored(Ok(())) => {
                let mut effects = Vec::new();
                self.founding.stored(&mut effects);
                self.parts.known_record.send_replace(self.founding.record().cloned());
                self.parts.standing.send_replace(Standing::Joining);
                self.perform(effects);
            }
            Done::Stored(Err(reason)) => {
                error!(%reason, "cannot write the record of the cluster");
                self.parts.standing.send_replace(Standing::Barred(format!(
                    "cannot write the record of the cluster into DATA_DIR: {reason}; make room or mend its permissions"
                )));
            }
            Done::Initialised(outcome) => {
                if let Err(reason) = outcome {
                    error!(%reason, "could not initialise Raft");
                }
            }
            Done::Told { leader, call, outcome } => {
                self.telling = false;
                self.answered(leader, call, outcome);
            }
            Done::Served => self.served -= 1,
        }
    }

    fn answered(&mut self, leader: Leader, call: Told, outcome: Result<ControlReply, CallError>) {
        match outcome {
            Ok(ControlReply::Joined(view)) => {
                self.parts.route.install(*view);
                if *self.parts.standing.borrow() != Standing::Member {
                    info!(leader = %leader.node, "is a member of the cluster");
                }
                self.parts.standing.send_replace(Standing::Member);
            }
            Ok(ControlReply::Alive { leader, view }) => {
                self.learn(leader);
                if let Some(view) = view {
                    self.parts.route.install(*view);
                }
            }
            Ok(ControlReply::JoinFirst) => self.joined_as = None,
            Ok(ControlReply::Refused(reason @ (Refused::Barred | Refused::OlderIncarnation | Refused::Full))) => {
                self.barred(reason);
            }
            Ok(ControlReply::NotLeader(other)) => {
                debug!(leader = %leader.node, ?other, ?call, "does not lead, or cannot decide");
                self.forget_join(call);
                self.parts.route.doubt(leader);
                if let Some(other) = other {
                    self.learn(other);
                }
            }
            Ok(reply) => {
                self.forget_join(call);
                debug!(?reply, ?call, "the leader could not do it now");
            }
            Err(reason) => {
                self.forget_join(call);
                debug!(%reason, ?call, "the leader was not reached");
                self.parts.route.doubt(leader);
            }
        }
    }

    fn forget_join(&mut self, call: Told) {
        if call == Told::Join {
            self.joined_as = None;
        }
    }

    fn barred(&mut self, reason: Refused) {
        error!(%reason, "refused by the cluster");
        self.parts.standing.send_replace(Standing::Barred(reason.to_string()));
    }

    fn look(&mut self) {
        self.greet_again();
        let standing = self.parts.standing.borrow().clone();
        match standing {
            Standing::Left | Standing::Barred(_) => return,
            Standing::Looking { .. } => self.say_so(),
            Standing::Joining | Standing::Member => {}
        }
        self.found_when_due();
        if self.founding.record().is_some() && !self.telling && !self.parts.draining.is_cancelled() {
            self.tell_leader();
        }
    }

    /// Greets those who have not answered, and everyone while there is no cluster or no leader.
    fn greet_again(&mut self) {
        let lost = self.founding.record().is_none() || self.parts.route.leader().is_none();
        let greeted = self.parts.greeted.borrow().clone();
        let due = |(peer, at): (&NodeId, &Option<Instant>)| {
            let wanted = lost || !greeted.contains_key(peer);
            (wanted && at.is_none_or(|at| at.elapsed() >= GREET_AGAIN)).then_some(*peer)
        };
        let due: Vec<_> = self.peers.iter().filter_map(due).collect();
        due.into_iter().for_each(|peer| self.greet(peer));
    }

    fn say_so(&mut self) {
        let lock_managers = self.founding.lock_managers_waiting();
        let expect = self.founding.expect();
        let standing = Standing::Looking { lock_managers, expect };
        self.parts.standing.send_if_modified(|known| {
            let news = *known != standing;
            *known = standing;
            news
        });
        if self.said_at.is_some_and(|at| at.elapsed() < SAY_SO) {
            return;
        }
        // A node that has just started gives its peers a moment before it complains.
        if self.said_at.replace(Instant::now()).is_none() {
            return;
        }
        match expect {
            Some(expect) => warn!(
                "waits for lock managers before it founds the cluster: {lock_managers} of BOOTSTRAP_EXPECT={expect} are \
                 here; start the others with this node in BOOTSTRAP_PEERS"
            ),
            None => warn!(
                peers = self.peers.len(),
                "has no cluster yet and waits: exactly one node must be started with BOOTSTRAP_EXPECT=n to found one, or \
                 BOOTSTRAP_PEERS must name a member of one"
            ),
        }
    }

    fn joiner(&self) -> Joiner {
        let settings = &self.parts.settings;
        Joiner {
            node: self.me(),
            incarnation: settings.incarnation,
            roles: settings.roles.iter().copied().collect(),
            addrs: self.addrs(),
            version: VERSION.to_owned(),
        }
    }

    fn tell_leader(&mut self) {
        let Some(leader) = self.parts.route.leader() else { return };
        let joiner = self.joiner();
        let (call, told) = if self.joined_as.as_ref() == Some(&joiner) {
            if self.told_at.elapsed() < self.parts.settings.heartbeat {
                return;
            }
            let view = self.parts.route.view().version;
            (ControlCall::Heartbeat { incarnation: joiner.incarnation, view }, Told::Heartbeat)
        } else {
            self.joined_as = Some(joiner.clone());
            (ControlCall::Join(Box::new(joiner)), Told::Join)
        };
        self.telling = true;
        self.told_at = Instant::now();
        let (me, authority) = (self.me(), self.parts.authority.clone());
        let mesh = Arc::clone(&self.parts.mesh);
        let (route, patience) = (self.parts.route.clone(), self.parts.settings.heartbeat * 2);
        self.work.spawn(async move {
            // A leader that is silent must not keep this node from telling the next one.
            let outcome = tokio::select! {
                outcome = tell(&*mesh, authority.as_ref(), me, leader.node, call) => outcome,
                () = route.other_leader_than(leader) => Err(CallError::Timeout(leader.node)),
                () = tokio::time::sleep(patience) => Err(CallError::Timeout(leader.node)),
            };
            Done::Told { leader, call: told, outcome }
        });
    }

    fn view_changed(&mut self) {
        let view = self.parts.route.view();
        let me = self.me();
        let belongs = view.members.iter().filter(|(node, member)| **node != me && member.belongs());
        let addrs = belongs.map(|(node, member)| {
            let addrs = member.joiner.addrs.iter().filter_map(|addr| addr.parse().ok());
            (*node, addrs.collect())
        });
        self.parts.mesh.set_members(addrs.collect());
        // A view from before this run may be older than an admission: then the leader has the word.
        if view.barred.contains(&me) && *self.parts.standing.borrow() == Standing::Member {
            return self.barred(Refused::Barred);
        }
        let mine = view.members.get(&me);
        if mine.is_some_and(|mine| {
            mine.liveness == Liveness::Left && mine.joiner.incarnation == self.parts.settings.incarnation
        }) {
            self.parts.standing.send_replace(Standing::Left);
        }
    }

    /// What is not for everyone. The barred are let in so far that they can be told.
    fn refusal(&self, from: NodeId, call: &ControlCall) -> Option<ControlReply> {
        let asks_the_leader = matches!(call, ControlCall::Join(_) | ControlCall::Heartbeat { .. });
        match call {
            _ if asks_the_leader && self.parts.route.view().barred.contains(&from) => {
                Some(ControlReply::Refused(Refused::Barred))
            }
            ControlCall::Hello(_) | ControlCall::Info => None,
            // Whoever joins has been greeted as one of this cluster, or of none.
            ControlCall::Join(_) if self.parts.greeted.borrow().contains_key(&from) => None,
            ControlCall::Heartbeat { .. } if !self.parts.route.is_member(from) => Some(ControlReply::JoinFirst),
            ControlCall::Drain { .. }
            | ControlCall::Stop { .. }
            | ControlCall::Heartbeat { .. }
            | ControlCall::PleaseLeave
                if self.parts.route.is_member(from) =>
            {
                None
            }
            _ => Some(ControlReply::NotLeader(self.parts.route.leader())),
        }
    }

    fn serve(&mut self, inbound: Inbound) {
        let Inbound { from, body, reply, .. } = inbound;
        let call = match decode::<ControlCall>(&body) {
            Ok(call) => call,
            Err(reason) => {
                debug!(peer = %from, %reason, "sent what cannot be read");
                let _ = reply.send(encode(&ControlReply::Refused(Refused::Malformed)));
                return;
            }
        };
        if let Some(refusal) = self.refusal(from, &call) {
            debug!(peer = %from, ?call, ?refusal, "refused a control call");
            // Who asks needs no answer once it has gone.
            let _ = reply.send(encode(&refusal));
            return;
        }
        match call {
            ControlCall::Hello(hello) => {
                self.peers.entry(from).or_insert_with(|| Some(Instant::now()));
                // Who asks needs no answer once it has gone.
                let _ = reply.send(encode(&ControlReply::Hello(Box::new(self.hello()))));
                self.heard(from, *hello);
            }
            ControlCall::PleaseLeave => {
                info!(by = %from, "was asked to leave the cluster");
                self.parts.asked_to_leave.cancel();
                let _ = reply.send(encode(&ControlReply::Done));
            }
            call if self.served < MAX_SERVED => {
                self.served += 1;
                let (authority, observer) = (self.parts.authority.clone(), self.parts.observer.clone());
                let leader = self.parts.route.leader();
                self.work.spawn(async move {
                    let answer = match (call, authority) {
                        (ControlCall::Info, _) => ControlReply::Info(observer.info_json()),
                        (call, Some(authority)) => authority.control(from, call).await,
                        (_, None) => ControlReply::NotLeader(leader),
                    };
                    let _ = reply.send(encode(&answer));
                    Done::Served
                });
            }
            // Dropping the reply refuses the call.
            _ => {}
        }
    }
}

/// Founders initialise once; on any later start their log says that it was done.
async fn initialise(raft: &RaftNode<ControlState>, voters: Vec<NodeId>) -> Result<(), String> {
    let outcome = raft.initialize(voters.into_iter().collect()).await;
    // Done in an earlier run, or another founder was faster and has asked for our vote.
    match raft.is_initialized().await {
        Ok(true) => Ok(()),
        _ => outcome.map_err(|error| error.to_string()),
    }
}

fn reply(outcome: Result<bytes::Bytes, CallError>) -> Result<ControlReply, CallError> {
    let unreadable = ControlReply::Refused(Refused::Malformed);
    outcome.map(|bytes| decode(&bytes).unwrap_or(unreadable))
}

/// Tells the leader something, be it this node itself or a peer.
pub(crate) async fn tell(
    mesh: &dyn Mesh,
    authority: Option<&Authority>,
    me: NodeId,
    leader: NodeId,
    call: ControlCall,
) -> Result<ControlReply, CallError> {
    match authority {
        Some(authority) if leader == me => Ok(authority.control(me, call).await),
        _ => reply(mesh.call(leader, Protocol::Control, Lane::End, encode(&call)).await),
    }
}
