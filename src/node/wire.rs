//! What nodes say to each other under [`Protocol::Control`] and [`Protocol::Client`].
//!
//! [`Protocol::Control`]: crate::net::Protocol::Control
//! [`Protocol::Client`]: crate::net::Protocol::Client

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    caches::wire::CacheAsk,
    events::news::News,
    locks::{Page, PageRequest, SessionInfo},
    queues::wire::QueueAsk,
};
use crate::{
    error::Error,
    ids::{Incarnation, LockName, NodeId, RequestId, Role, SessionId, Term, Tick},
    machine::{
        backup::{BackupHeader, RestoreAnswer},
        control::Change,
        lock::{LockAnswer, LockEvent, LockView},
        membership::{ClusterRecord, Joiner, MAX_ADDRS, Member},
        placement::{Partitions, PlacementAnswer, packed},
        slots::{SlotAnswer, SlotTable, packed as packed_slots},
    },
};

/// What a node tells every peer that it meets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) incarnation: Incarnation,
    pub(crate) cluster_name: String,
    pub(crate) cache_protocol: String,
    pub(crate) cache_write_policy: String,
    pub(crate) roles: Vec<Role>,
    pub(crate) version: String,
    pub(crate) record: Option<ClusterRecord>,
    pub(crate) leader: Option<Leader>,
    /// Where the node itself is reached.
    pub(crate) addrs: Vec<String>,
    /// Lock managers that it is connected to, and where they are reached: founders must find each
    /// other before there is a view to tell them.
    pub(crate) acquainted: Vec<(NodeId, Vec<String>)>,
}

impl Hello {
    /// Drops what a well-meaning peer would not say, before it is kept or passed on.
    pub(crate) fn bound(&mut self) {
        let fits = |addr: &String| addr.len() <= MAX_ADDR_BYTES;
        self.addrs.retain(fits);
        self.addrs.truncate(MAX_ADDRS);
        self.acquainted.truncate(MAX_ACQUAINTED);
        for (_, addrs) in &mut self.acquainted {
            addrs.retain(fits);
            addrs.truncate(MAX_ADDRS);
        }
        self.roles.truncate(Role::ALL.len());
    }
}

/// Most bytes of an address.
const MAX_ADDR_BYTES: usize = 512;
/// Most acquaintances that a greeting tells of.
pub(crate) const MAX_ACQUAINTED: usize = 64;

/// Who leads, as far as somebody knows. The greater term is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Leader {
    pub(crate) term: Term,
    pub(crate) node: NodeId,
}

/// The members and the placement of queues and cache as of a version: what every node acts on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) version: u64,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) barred: Vec<NodeId>,
    /// Who votes and who only follows, as Raft has it.
    pub(crate) voters: Vec<NodeId>,
    pub(crate) learners: Vec<NodeId>,
    /// Who keeps the queues. Shared with the replicated state where this node has it.
    #[serde(with = "packed")]
    pub(crate) partitions: Partitions,
    /// Who is home to the slots of the cache. Likewise shared.
    #[serde(with = "packed_slots")]
    pub(crate) slots: SlotTable,
}

/// What a leader broadcasts when it has installed a newer view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ViewHint {
    pub(crate) term: Term,
    pub(crate) version: u64,
}

/// A request under the control protocol. `Hello`, `Join` and `Info` are open to every peer that the
/// transport admits, the rest to members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ControlCall {
    /// Greets; is greeted back.
    Hello(Box<Hello>),
    /// Asks the leader to be a member.
    Join(Box<Joiner>),
    /// Tells the leader that this run of the node is there, and which view it has installed.
    Heartbeat { incarnation: Incarnation, view: u64 },
    /// Tells the leader that this run of the node is about to stop.
    Drain { incarnation: Incarnation },
    /// Tells the leader that this run of the node stops now.
    Stop { incarnation: Incarnation },
    /// Asks a member to leave: it drains, is removed, and its process ends.
    PleaseLeave,
    /// The same, within this time: it stays a member where that is not enough.
    LeaveWithin { deadline_ms: u64 },
    /// Asks what the node says of itself: the body of `GET /v1/node`.
    Info,
    /// Asks what its process has logged last.
    Logs,
    /// Tells what only the sender can see, for the events. Whoever does not hear of it does not.
    News(Box<News>),
}

/// The answer to a [`ControlCall`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ControlReply {
    Hello(Box<Hello>),
    /// Joined; the view has it.
    Joined(Box<View>),
    /// The heartbeat counts. It renews the asker's lease as a member, from when it was sent, once the asker has installed
    /// the view of this version, which comes along where the asker's is older.
    Alive {
        leader: Leader,
        version: u64,
        view: Option<Box<View>>,
    },
    /// The leader does not know this run of the node as serving: it must join (again).
    JoinFirst,
    /// Ask somebody else.
    NotLeader(Option<Leader>),
    Done,
    /// JSON.
    Info(String),
    /// Lines, and how many went before them. As one text: a list of short ones takes many times its bytes in memory.
    Logs {
        text: String,
        forgotten: u64,
    },
    /// Refused for good, for this reason.
    Refused(Refused),
    /// Not done, perhaps later.
    Failed(Error),
}

/// Why a node cannot be, or is no longer, a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refused {
    /// An operator removed it.
    #[error("this node was removed from the cluster and is barred")]
    Barred,
    /// A newer run of it is known: two processes share one identity.
    #[error(
        "a newer run of this node is a member: another process uses a copy of this data directory; stop one of them and \
         delete its DATA_DIR"
    )]
    OlderIncarnation,
    /// It has left for good, and ends.
    #[error("this run of the node has left the cluster for good: started again it joins as new")]
    HasLeft,
    /// The cluster lists as many members as it can.
    #[error("the cluster lists as many members as it can (1,000): remove some with `syncmesh members remove PEER`")]
    Full,
    /// Only members may ask this.
    #[error("only members of the cluster may ask this")]
    NotAMember,
    /// The request cannot be read.
    #[error("the request cannot be read: its sender runs an incompatible version or is no Syncmesh node")]
    Malformed,
}

impl Refused {
    /// The reason as the node that was refused says it, with the command that helps.
    pub(crate) fn told_by(self, refused: NodeId) -> String {
        match self {
            Self::Barred => format!("{self}: `syncmesh members admit {refused}` at any member lifts the bar"),
            _ => self.to_string(),
        }
    }
}

/// An operation on its way to the leader, under the client protocol.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "changes are most of what is asked: the others may be as large")]
pub(crate) enum ClientAsk {
    /// A change, remembered under its id: asking again is safe.
    Change(Change),
    /// Starts the term of a session anew.
    KeepAlive(SessionId),
    /// A linearizable read.
    Read(Read),
    /// Waits for events of a lock after a position in the log of events.
    Watch { lock: LockName, after: Option<EventCursor> },
    /// Asks the leader to hand its leadership over.
    Transfer(Option<NodeId>),
    /// What the leader knows of the members.
    Members,
    /// A backup of the replicated state.
    Backup(BackupAsk),
    /// About queues: of the primary of a partition, not of the leader. Answered by a
    /// [`QueueReply`](super::queues::wire::QueueReply).
    Queue(Box<QueueAsk>),
    /// About the cache: of a cache node, not of the leader. Answered by a
    /// [`CacheReply`](super::caches::wire::CacheReply).
    Cache(Box<CacheAsk>),
}

/// A backup is fetched in parts, all of the moment in which it was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum BackupAsk {
    /// Freezes what there is, after everything that was acknowledged before.
    Begin,
    /// The content of one part.
    Part { id: u64, number: u32 },
}

/// A linearizable read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Read {
    Lock(LockName),
    Locks(PageRequest),
    Sessions(PageRequest),
}

/// A position in the log of lock events, the same on all lock managers: index of the entry and
/// number of the event within it. Events after it have not been seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EventCursor {
    pub(crate) index: u64,
    pub(crate) nth: u32,
}

/// The answer to a [`ClientAsk`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ClientReply {
    /// Certainly not done here: ask this one.
    NotLeader(Option<Leader>),
    /// Certainly not done here: this leader has too much to do, and goes on leading.
    Busy,
    /// Perhaps done: leadership was lost meanwhile. Ask again under the same id.
    Unknown,
    /// The answer of the lock machine; with it, what is left of the term of the session it is about.
    Lock {
        answer: LockAnswer,
        expires_in_ms: Option<u64>,
    },
    /// The session lives, with its full term.
    Kept {
        ttl_ms: u64,
    },
    View(Option<LockView>),
    Locks(Page<LockView>),
    Sessions(Page<SessionInfo>),
    /// What has happened since, or the state where that is no longer known.
    Watched {
        state: Option<LockView>,
        events: Vec<LockEvent>,
        next: EventCursor,
    },
    Members(Box<MembersReport>),
    /// What came of a change of placement.
    Placement(Box<PlacementAnswer>),
    /// What came of a change of a slot.
    Slot(SlotAnswer),
    /// Noted under its key, at first by this request, in this term.
    Noted {
        first: RequestId,
        term: Term,
    },
    /// The backup is frozen, and is fetched under this id.
    BackupBegun {
        id: u64,
        header: Box<BackupHeader>,
    },
    /// The content of a part.
    BackupPart(Bytes),
    /// What came of a step of a restore.
    Restore(RestoreAnswer),
    Done,
    Failed(Error),
}

/// What the leader knows of the members beside the view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MembersReport {
    pub(crate) leader: Leader,
    pub(crate) view: View,
    /// When each was last heard of, in Unix milliseconds.
    pub(crate) last_seen: BTreeMap<NodeId, Tick>,
    /// How many entries each follower is behind.
    pub(crate) trails_by: BTreeMap<NodeId, u64>,
    /// `QUEUE_REPLICAS` of the leader; 0 where no leader was asked.
    pub(crate) queue_replicas: usize,
    /// Partitions of the queues that are not where they are to be, and that can be moved or filled up now.
    pub(crate) moving: usize,
    /// Slots of the cache whose home is not the one that they are to have.
    #[serde(default)]
    pub(crate) slots_moving: usize,
}
