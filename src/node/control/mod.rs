//! Finds, founds or joins the cluster, and stays a member of it.
//!
//! One task on every node owns the [`Founding`], the greetings of its peers and its own standing. It
//! speaks [`ControlCall`](super::wire::ControlCall) with peers, heartbeats to the leader, and installs
//! the view that comes back. On a lock manager the [leader task](super::leader) installs views from the
//! log as well.
//!
//! Here is the task and its loop. [`greeting`] is how it gets to know its peers, [`founding`] how it
//! comes by a cluster, [`membership`] what it tells the leader and hears from it, [`serving`] what it
//! answers to the calls of peers.

mod founding;
mod greeting;
mod membership;
mod serving;

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
use tracing::{debug, error};

use self::membership::Told;
pub(crate) use self::{founding::why_not_found, membership::tell};
use super::{
    authority::Authority,
    events::{
        Events,
        news::{Budget, MAX_HEARD},
    },
    leaving::Leaving,
    observe::Observer,
    records::ClusterStore,
    route::Route,
    wire::{ControlReply, Hello, Leader, Refused},
};
use crate::{
    clock::Clock,
    codec::decode,
    ids::{ClusterId, Incarnation, JournalId, NodeId, Role, Tick},
    machine::{
        control::ControlState,
        founding::Founding,
        membership::{CacheTerms, ClusterRecord, Joiner, JournalSafety},
    },
    net::{CallError, Inbound, Mesh},
    raft::RaftNode,
    telemetry::Bounds,
};

/// How often the task looks around.
const LOOK: Duration = Duration::from_millis(100);
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
        /// Why it cannot be of the cluster that it met at a bootstrap address, if it met one.
        refused: Option<String>,
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

/// The lease of this node as a member: what it does for others under a lease of its own, it does within this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct MemberLease {
    /// It is over then, on this node's clock.
    pub(crate) until: Tick,
    /// It counts only once the view of this version, which is installed, is heeded.
    pub(crate) view: u64,
}

/// A queue node's journal, as far as the others have to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OwnJournal {
    /// `None`: it could not be opened yet.
    pub(crate) id: Option<JournalId>,
    pub(crate) safety: JournalSafety,
}

/// Who this node is, for greetings and founding.
#[derive(Clone, Debug)]
pub(crate) struct ControlSettings {
    pub(crate) incarnation: Incarnation,
    pub(crate) cluster_name: String,
    pub(crate) cache_protocol: String,
    pub(crate) cache: CacheTerms,
    pub(crate) queue_partitions: u32,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) expect: Option<usize>,
    pub(crate) announce: Vec<String>,
    pub(crate) heartbeat: Duration,
    pub(crate) search: Search,
    /// Its journal, once there is something to say of it; each change of it makes the node join again.
    pub(crate) journal: watch::Receiver<Option<OwnJournal>>,
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
    pub(crate) lease: watch::Sender<MemberLease>,
    pub(crate) events: Events,
    pub(crate) bounds: Bounds,
    /// Whether this node has been asked to leave for good.
    pub(crate) leaving: Leaving,
    /// Cancelled when the node drains: it does not join again, but is heard of until it stops.
    pub(crate) draining: CancellationToken,
}

#[derive(Debug)]
enum Done {
    Greeted(NodeId, Result<ControlReply, CallError>),
    Stored(Result<(), String>),
    Initialised(Result<(), String>),
    Told { leader: Leader, call: Told, sent: Tick, outcome: Result<ControlReply, CallError> },
    Served,
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
    /// The last of them that was met at a bootstrap address.
    refused: Option<String>,
    /// Barred peers that are connected all the same, and since when that is known.
    barred: BTreeMap<NodeId, Instant>,
    joined_as: Option<Joiner>,
    telling: bool,
    told_at: Instant,
    said_at: Option<Instant>,
    served: usize,
    /// How much news of others is told.
    heard: Budget,
    work: JoinSet<Done>,
}

/// Runs the task until `stop`, or until the node can be a member no more.
pub(crate) async fn run(parts: ControlParts, mut events: mpsc::Receiver<ControlEvent>, stop: CancellationToken) {
    let founding = founding::of(&parts);
    let mut task = ControlTask {
        parts,
        founding,
        peers: BTreeMap::new(),
        found_at: None,
        warned: BTreeSet::new(),
        refused: None,
        barred: BTreeMap::new(),
        joined_as: None,
        telling: false,
        told_at: Instant::now(),
        said_at: None,
        served: 0,
        heard: Budget::new(MAX_HEARD),
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
    fn me(&self) -> NodeId {
        self.parts.mesh.local()
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
            Done::Told { leader, call, sent, outcome } => {
                self.telling = false;
                self.answered(leader, (call, sent), outcome);
            }
            Done::Served => self.served -= 1,
        }
    }

    fn look(&mut self) {
        self.greet_again();
        self.send_barred_away();
        let standing = self.parts.standing.borrow().clone();
        match standing {
            Standing::Left | Standing::Barred(_) => return,
            Standing::Looking { .. } => self.say_so(),
            Standing::Joining | Standing::Member => {}
        }
        self.found_when_due();
        if self.founding.record().is_some() && !self.telling {
            self.tell_leader();
        }
    }
}

fn reply(outcome: Result<bytes::Bytes, CallError>) -> Result<ControlReply, CallError> {
    let unreadable = ControlReply::Refused(Refused::Malformed);
    outcome.map(|bytes| decode(&bytes).unwrap_or(unreadable))
}
