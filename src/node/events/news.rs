//! What one node alone can see, told to all: partitions of the network, its journal away and back, values of its
//! cache that are lost; and from the leader, for those that have no log, locks that were broken.
//!
//! One task on every node. Nothing waits for news to arrive and nothing depends on it: it is told once to those who
//! are connected, and what is too much is dropped and counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    EventKind, Events,
    contact::{Change, Contact, Sight},
};
use crate::{
    clock::Clock,
    codec::encode,
    ids::{LockName, NodeId, Role, SessionId, Tick},
    machine::{
        lock::{LockEvent, LockEventKind},
        membership::Liveness,
    },
    net::{Lane, Mesh, Protocol},
    node::{caches::Caches, control::Standing, queues::keeper::Journals, route::Route, wire::ControlCall},
    store::AWAY_AFTER,
    telemetry::{Bounds, JournalState, Metrics},
    time::millis,
};

/// How often the task looks around.
const LOOK: Duration = Duration::from_millis(250);
/// News that may wait for the task.
const INBOX: usize = 256;
/// Calls that tell others, at a time.
const MAX_TELLING: usize = 1_024;
/// Values that are lost are counted for so long before they are told of.
const GATHER: Duration = Duration::from_secs(1);
/// Most news that a node tells, or hears, in [`BUDGET_WINDOW`].
const MAX_TOLD: u32 = 64;
pub(crate) const MAX_HEARD: u32 = 512;
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Most peers and sessions that are named.
const MAX_NAMED: usize = 16;
/// Most bytes of a text in it.
const MAX_TEXT: usize = 512;

/// What a node tells the others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// It has lost contact with members that are up, as far as it knows, or with any leader.
    CutOff { unreachable: Vec<NodeId>, leaderless: bool },
    /// It is cut off no longer.
    Healed { reached: Vec<NodeId>, lasted_ms: u64, recovery_ms: u64 },
    /// Its journal cannot be written.
    JournalAway { journal: String, reason: String },
    /// It can be again.
    JournalBack { journal: String, lasted_ms: u64 },
    /// Acknowledged values of the cache are gone.
    DirtyLinesLost { lines: u64 },
    /// An operator has taken a lock from its holders. Told by the leader.
    LockBroken { lock: LockName, holders: u64, sessions: Vec<SessionId> },
}

impl News {
    /// The locks that were broken by one entry of the log.
    pub(crate) fn broken_locks(events: &[LockEvent]) -> Vec<Self> {
        let mut broken: BTreeMap<&LockName, Vec<&SessionId>> = BTreeMap::new();
        for event in events.iter().filter(|event| event.kind == LockEventKind::Broken) {
            broken.entry(&event.lock).or_default().push(&event.session);
        }
        let one = |(lock, sessions): (&LockName, Vec<&SessionId>)| Self::LockBroken {
            lock: lock.clone(),
            holders: sessions.len() as u64,
            sessions: sessions.into_iter().take(MAX_NAMED).cloned().collect(),
        };
        broken.into_iter().map(one).collect()
    }

    /// Cuts off what a well-meaning node would not say.
    fn bounded(mut self) -> Self {
        match &mut self {
            Self::CutOff { unreachable: peers, .. } | Self::Healed { reached: peers, .. } => peers.truncate(MAX_NAMED),
            Self::JournalAway { journal, reason } => {
                cut(journal);
                cut(reason);
            }
            Self::JournalBack { journal, .. } => cut(journal),
            Self::LockBroken { sessions, .. } => sessions.truncate(MAX_NAMED),
            Self::DirtyLinesLost { .. } => {}
        }
        self
    }

    /// The event that it is. `seen_by`: whose word it is, unless all lock managers have it from the log.
    pub(crate) fn event(self, seen_by: NodeId) -> (EventKind, Value) {
        match self.bounded() {
            Self::CutOff { unreachable, leaderless } => (
                EventKind::PartitionNoticed,
                json!({ "seen_by": seen_by, "peers": unreachable, "has_leader": !leaderless }),
            ),
            Self::Healed { reached, lasted_ms, recovery_ms } => (
                EventKind::PartitionHealed,
                json!({ "seen_by": seen_by, "peers": reached, "duration_ms": lasted_ms, "recovery_ms": recovery_ms }),
            ),
            Self::JournalAway { journal, reason } => {
                (EventKind::JournalAway, json!({ "seen_by": seen_by, "journal": journal, "reason": reason }))
            }
            Self::JournalBack { journal, lasted_ms } => {
                (EventKind::JournalBack, json!({ "seen_by": seen_by, "journal": journal, "duration_ms": lasted_ms }))
            }
            Self::DirtyLinesLost { lines } => {
                (EventKind::DirtyLinesLost, json!({ "seen_by": seen_by, "lines": lines }))
            }
            Self::LockBroken { lock, holders, sessions } => {
                (EventKind::LockBroken, json!({ "lock": lock, "holders": holders, "sessions": sessions }))
            }
        }
    }
}

/// Cuts a text at the end of a character.
fn cut(text: &mut String) {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}

/// So many in a window, and no more.
#[derive(Debug)]
pub(crate) struct Budget {
    most: u32,
    used: u32,
    until: Instant,
}

impl Budget {
    /// Nothing is used yet.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, used: 0, until: Instant::now() + BUDGET_WINDOW }
    }

    /// Whether there is room for one more.
    pub(crate) fn take(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.until {
            *self = Self { used: 0, until: now + BUDGET_WINDOW, ..*self };
        }
        let has_room = self.used < self.most;
        self.used += u32::from(has_room);
        has_room
    }
}

/// How others have the task tell something. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct NewsDesk {
    inbox: mpsc::Sender<News>,
    bounds: Bounds,
}

impl NewsDesk {
    /// The desk, and what is handed in there.
    pub(crate) fn new(bounds: Bounds) -> (Self, mpsc::Receiver<News>) {
        let (inbox, handed_in) = mpsc::channel(INBOX);
        (Self { inbox, bounds }, handed_in)
    }

    /// Has it told, unless there is too much already.
    pub(crate) fn tell(&self, news: News) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.inbox.try_send(news) {
            self.bounds.hit("node.news");
        }
    }
}

/// What the task is made of.
#[derive(Debug)]
pub(crate) struct NewsParts {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) route: Route,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) journals: watch::Receiver<Journals>,
    pub(crate) caches: Caches,
    pub(crate) metrics: Metrics,
    /// `FAILURE_TIMEOUT`.
    pub(crate) patience: Duration,
    /// Cancelled once the node drains: what it loses then is no news.
    pub(crate) draining: CancellationToken,
}

/// A journal that cannot be written.
#[derive(Debug)]
struct Away {
    since: Instant,
    told: bool,
}

struct NewsTask {
    parts: NewsParts,
    contact: Contact,
    away: Option<Away>,
    lost: u64,
    gathering_until: Option<Instant>,
    budget: Budget,
    telling: JoinSet<()>,
}

/// Looks, and tells, until `stop`.
pub(crate) async fn run(parts: NewsParts, mut inbox: mpsc::Receiver<News>, stop: CancellationToken) {
    let mut task = NewsTask {
        contact: Contact::new(millis(parts.patience)),
        parts,
        away: None,
        lost: 0,
        gathering_until: None,
        budget: Budget::new(MAX_TOLD),
        telling: JoinSet::new(),
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(_) = task.telling.join_next() => {}
            Some(news) = inbox.recv() => task.tell(news),
            _ = look.tick() => task.look(),
        }
    }
}

impl NewsTask {
    fn look(&mut self) {
        if *self.parts.standing.borrow() == Standing::Member && !self.parts.draining.is_cancelled() {
            self.look_at_contact();
        }
        self.look_at_journal();
        self.look_at_cache();
    }

    fn look_at_contact(&mut self) {
        let me = self.parts.mesh.local();
        let view = self.parts.route.view();
        let up = view.members.iter().filter(|(node, member)| **node != me && member.liveness == Liveness::Up);
        let sight = Sight {
            up: up.map(|(node, _)| *node).collect(),
            connected: self.parts.mesh.status().borrow().peers.keys().copied().collect(),
            has_leader: self.parts.route.leader().is_some(),
        };
        let change = self.contact.look(self.parts.clock.now(), &sight);
        self.parts.metrics.node().unreachable(self.contact.unreachable());
        match change {
            None => {}
            Some(Change::Noticed { unreachable, leaderless }) => {
                let unreachable: Vec<NodeId> = unreachable.into_iter().collect();
                let peers = names(&unreachable);
                warn!(%peers, leader = !leaderless, "cut off: lost members that are up as far as is known, or any leader");
                self.tell(News::CutOff { unreachable, leaderless });
            }
            Some(Change::Healed { reached, lasted_ms, recovery_ms }) => {
                let reached: Vec<NodeId> = reached.into_iter().collect();
                let peers = names(&reached);
                info!(%peers, lasted_ms, recovery_ms, "cut off no longer");
                let (lasted, recovery) = (Duration::from_millis(lasted_ms), Duration::from_millis(recovery_ms));
                self.parts.metrics.node().healed(lasted, recovery);
                self.tell(News::Healed { reached, lasted_ms, recovery_ms });
            }
        }
    }

    /// What is over within [`AWAY_AFTER`] has refused nobody, and is no news.
    fn look_at_journal(&mut self) {
        let (journal, trouble) = {
            let journals = self.parts.journals.borrow();
            let kind = journals.info.as_ref().map_or_else(|| "not open".to_owned(), |info| info.kind.clone());
            (kind, journals.trouble.clone())
        };
        let now = Instant::now();
        let queues = self.parts.metrics.queues().clone();
        match (trouble, &mut self.away) {
            (None, None) => {}
            (Some(_), None) => self.away = Some(Away { since: now, told: false }),
            (Some(reason), Some(away)) if !away.told && away.since + AWAY_AFTER <= now => {
                away.told = true;
                queues.journal(JournalState::Away);
                warn!(%journal, %reason, "the journal of the queues cannot be written: what needs it is refused until it can");
                self.tell(News::JournalAway { journal, reason });
            }
            (Some(_), Some(_)) => {}
            (None, Some(away)) => {
                let (lasted, told) = (away.since.elapsed(), away.told);
                self.away = None;
                if told {
                    queues.journal(JournalState::Well);
                    queues.journal_back(lasted);
                    let lasted_ms = millis(lasted);
                    info!(%journal, lasted_ms, "the journal of the queues can be written again");
                    self.tell(News::JournalBack { journal, lasted_ms });
                }
            }
        }
    }

    fn look_at_cache(&mut self) {
        let lost = self.parts.caches.dirty_lost();
        if lost == self.lost {
            return;
        }
        let until = *self.gathering_until.get_or_insert_with(|| Instant::now() + GATHER);
        if Instant::now() < until {
            return;
        }
        self.gathering_until = None;
        let lines = lost.saturating_sub(std::mem::replace(&mut self.lost, lost));
        warn!(
            lines,
            "acknowledged values of the cache are gone: only their owners had them, which died or were away too long"
        );
        self.tell(News::DirtyLinesLost { lines });
    }

    /// Tells it here, and to all who are connected and up. Lock managers have what happens to locks from the log.
    fn tell(&mut self, news: News) {
        let is_in_log = matches!(news, News::LockBroken { .. });
        let me = self.parts.mesh.local();
        if !is_in_log {
            let (kind, data) = news.clone().event(me);
            self.parts.events.push(self.parts.clock.wall(), kind, data);
        }
        if !self.budget.take() {
            return self.parts.metrics.bounds().hit("node.news");
        }
        let body = encode(&ControlCall::News(Box::new(news)));
        let (view, connected) = (self.parts.route.view(), self.parts.mesh.status().borrow().clone());
        for (node, member) in &view.members {
            let has_it = is_in_log && member.has_role(Role::LockManager);
            if has_it || !member.belongs() || !connected.peers.contains_key(node) {
                continue;
            }
            if self.telling.len() >= MAX_TELLING {
                return self.parts.metrics.bounds().hit("node.news");
            }
            let call = self.parts.mesh.call(*node, Protocol::Control, Lane::End, body.clone());
            self.telling.spawn(async move {
                // Who does not hear of it, does not.
                let _ = call.await;
            });
        }
    }
}

/// Tells what a member says.
pub(crate) fn heard(events: &Events, at: Tick, from: NodeId, news: News) {
    let (kind, data) = news.event(from);
    events.push(at, kind, data);
}

fn names(peers: &[NodeId]) -> String {
    let named: Vec<String> = peers.iter().take(MAX_NAMED).map(NodeId::to_string).collect();
    named.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::FencingToken, machine::lock::Mode};

    fn broken(lock: &str, session: &str) -> LockEvent {
        LockEvent {
            kind: LockEventKind::Broken,
            lock: LockName::new(lock).expect("a name"),
            session: SessionId::new(session).expect("an id"),
            owner: "".into(),
            mode: Mode::Shared,
            fencing_token: None::<FencingToken>,
            at: Tick(0),
            lasted_ms: 0,
        }
    }

    #[test]
    fn a_lock_that_was_taken_from_many_is_one_event() {
        let mut events: Vec<LockEvent> = (0..40).map(|n| broken("a", &format!("s{n}"))).collect();
        events.push(LockEvent { kind: LockEventKind::Granted, ..broken("a", "next") });
        events.push(broken("b", "s0"));
        let news = News::broken_locks(&events);
        assert_eq!(news.len(), 2);
        let (kind, data) = news[0].clone().event(NodeId::default());
        assert_eq!((kind.as_str(), &data["lock"], &data["holders"]), ("lock-broken", &json!("a"), &json!(40)));
        assert_eq!(data["sessions"].as_array().expect("a list").len(), MAX_NAMED);
    }

    #[test]
    fn what_a_peer_says_is_cut_to_size() {
        let reason = "ü".repeat(4_000);
        let (_, data) = News::JournalAway { journal: "redis".into(), reason }.event(NodeId::default());
        assert_eq!(data["reason"].as_str().expect("a text").len(), MAX_TEXT);
        let peers = vec![NodeId::default(); 1_000];
        let (_, data) = News::CutOff { unreachable: peers, leaderless: true }.event(NodeId::default());
        assert_eq!(data["peers"].as_array().expect("a list").len(), MAX_NAMED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_comes_back() {
        let mut budget = Budget::new(3);
        assert_eq!([(); 5].map(|()| budget.take()), [true, true, true, false, false]);
        tokio::time::advance(BUDGET_WINDOW).await;
        assert!(budget.take());
    }
}
