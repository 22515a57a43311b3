//! Serves what only the leader can: changes, linearizable reads, joins and heartbeats.
//!
//! Stateless but for its handles; what must be remembered between requests is owned by the
//! [leader task](super::leader). On a node that does not lead, everything is answered `NotLeader`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::sync::{Mutex, oneshot};

use super::{
    backup::exports::Exports,
    leader::{LeaderHandle, LeaderState, view_of},
    limits::check_page,
    lock_events::Told,
    locks::{Page, SessionInfo},
    parking::Parking,
    wire::{BackupAsk, ClientAsk, ClientReply, ControlCall, ControlReply, EventCursor, Leader, Read, Refused},
};
use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::{Incarnation, LockName, NodeId, SessionId},
    machine::{
        control::{Answer, Change, ChangeBody, Command, ControlState},
        lock::{Bound, LockAnswer, LockRequest, Refusal},
        membership::{Joiner, Member, MemberAnswer, MemberChange},
    },
    raft::{ProposeError, RaftNode, ReadError, ReadPolicy, TransferError},
    telemetry::Bounds,
};

/// How long a watch waits for an event before it is answered without one.
const WATCH_WAIT: Duration = Duration::from_secs(20);

/// What a lock manager serves to everyone. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    raft: RaftNode<ControlState>,
    leader: LeaderHandle,
    reads: ReadPolicy,
    exports: Exports,
    bounds: Bounds,
    /// Held from the look at who can be done without until that is decided: of two at once neither would know of the other.
    removals: Arc<Mutex<()>>,
}

impl Authority {
    /// The authority of a lock manager.
    pub(crate) fn new(
        raft: RaftNode<ControlState>,
        leader: LeaderHandle,
        exports: Exports,
        reads: ReadPolicy,
        bounds: Bounds,
    ) -> Self {
        Self { raft, leader, reads, exports, bounds, removals: Arc::default() }
    }

    fn not_leader(&self) -> Option<Leader> {
        self.leader.route().leader().filter(|leader| leader.node != self.leader.me())
    }

    /// Serves an operation of a client that came by way of `from`; `parking` is told when it waits for others.
    pub(crate) async fn serve(&self, from: NodeId, ask: ClientAsk, parking: &Parking) -> ClientReply {
        if !self.leader.can_decide() {
            return ClientReply::NotLeader(self.not_leader());
        }
        match ask {
            ClientAsk::Change(change) if change.request.node != from => ClientReply::Failed(Error::new(
                ErrorCode::Forbidden,
                format!("{from} asked in the name of {}", change.request.node),
            )),
            ClientAsk::Change(change) => self.change(change, parking).await,
            ClientAsk::KeepAlive(session) => match self.leader.keep_alive(session).await {
                Some(reply) => reply,
                None => ClientReply::NotLeader(self.not_leader()),
            },
            ClientAsk::Read(read) => self.read(read).await.unwrap_or_else(|error| self.read_failed(&error)),
            ClientAsk::Watch { lock, after } => {
                self.watch(lock, after, parking).await.unwrap_or_else(|error| self.read_failed(&error))
            }
            ClientAsk::Queue(_) => ClientReply::Failed(Error::bad_request("queue", "queues are served by primaries")),
            ClientAsk::Cache(_) => {
                ClientReply::Failed(Error::bad_request("cache", "the cache is served by cache nodes"))
            }
            ClientAsk::Transfer(to) => match hand_over(&self.raft, to).await {
                Ok(()) => ClientReply::Done,
                Err(reason) => ClientReply::Failed(Error::unavailable(reason.outcome(), reason.to_string())),
            },
            ClientAsk::Backup(ask) => self.backup(ask).await.unwrap_or_else(|error| self.read_failed(&error)),
            ClientAsk::Members => match self.raft.read_barrier(self.reads).await {
                Ok(()) => match self.leader.members().await {
                    Some(report) => ClientReply::Members(Box::new(report)),
                    None => ClientReply::NotLeader(self.not_leader()),
                },
                Err(error) => self.read_failed(&error),
            },
        }
    }

    async fn backup(&self, ask: BackupAsk) -> Result<ClientReply, ReadError> {
        let outcome = match ask {
            BackupAsk::Begin => {
                self.raft.read_barrier(self.reads).await?;
                self.exports.begin().await.map(|(id, header)| ClientReply::BackupBegun { id, header: Box::new(header) })
            }
            BackupAsk::Part { id, number } => self.exports.part(id, number).await.map(ClientReply::BackupPart),
        };
        Ok(outcome.unwrap_or_else(ClientReply::Failed))
    }

    fn read_failed(&self, error: &ReadError) -> ClientReply {
        match error {
            ReadError::NotLeader { .. } | ReadError::NoQuorum => ClientReply::NotLeader(self.not_leader()),
            ReadError::Stopped => ClientReply::NotLeader(None),
        }
    }

    async fn change(&self, change: Change, parking: &Parking) -> ClientReply {
        let _one_at_a_time = match &change.body {
            ChangeBody::Member(MemberChange::Remove(node)) => {
                let removals = self.removals.lock().await;
                if !self.can_do_without(*node) {
                    return ClientReply::Failed(needed(*node));
                }
                Some(removals)
            }
            _ => None,
        };
        let request = change.request;
        let may_wait = matches!(&change.body, ChangeBody::Lock(LockRequest::Acquire(acquire)) if acquire.wait_ms > 0);
        // Registered before it is proposed, so that no grant can come before somebody listens.
        let waiting = if may_wait { self.leader.await_answer(request).await } else { None };
        let answer = match self.propose(Command::Change(Box::new(change))).await {
            Ok(answer) => answer,
            Err(ProposeError::NotLeader { .. } | ProposeError::Stopped) => {
                return ClientReply::NotLeader(self.not_leader());
            }
            Err(ProposeError::Busy) => return ClientReply::Busy,
            Err(ProposeError::Unknown) => return ClientReply::Unknown,
            Err(error @ ProposeError::TooLarge { .. }) => {
                return ClientReply::Failed(Error::new(ErrorCode::PayloadTooLarge, error.to_string()));
            }
        };
        match answer {
            Answer::Lock(LockAnswer::Refused(Refusal::Deadlock { cycle })) => {
                self.leader.metrics().deadlock();
                self.lock_reply(LockAnswer::Refused(Refusal::Deadlock { cycle })).await
            }
            Answer::Lock(LockAnswer::Waiting) => match waiting {
                Some(waiting) => {
                    parking.park();
                    match waiting.await {
                        Ok(answer) => self.lock_reply(answer).await,
                        Err(oneshot::error::RecvError { .. }) => ClientReply::Unknown,
                    }
                }
                None => ClientReply::Unknown,
            },
            Answer::Lock(answer) => self.lock_reply(answer).await,
            Answer::Member(answer) => member_reply(&answer),
            Answer::Placement(answer) => ClientReply::Placement(Box::new(answer)),
            Answer::Slot(answer) => ClientReply::Slot(answer),
            Answer::Restore(answer) => ClientReply::Restore(answer),
            Answer::Refused(error) => ClientReply::Failed(error),
            Answer::Noted { first, term } => ClientReply::Noted { first, term },
            Answer::None => ClientReply::Done,
        }
    }

    /// Whether those who vote can still decide without a member that is to be removed.
    fn can_do_without(&self, node: NodeId) -> bool {
        let voters = self.raft.status().borrow().voters.clone();
        let serves =
            |state: &ControlState, voter: &NodeId| state.members().members().get(voter).is_some_and(Member::serves);
        // A Raft that has ended says the same to whoever proposes.
        self.raft
            .with_state(|state, _| keeps_quorum_without(node, &voters, |voter| serves(state, voter)))
            .unwrap_or(true)
    }

    async fn lock_reply(&self, answer: LockAnswer) -> ClientReply {
        let expires_in_ms = match &answer {
            LockAnswer::Granted(granted) => self.leader.remaining_ms(granted.session.clone()).await,
            _ => None,
        };
        ClientReply::Lock { answer, expires_in_ms }
    }

    async fn propose(&self, command: Command) -> Result<Answer, ProposeError> {
        let mut answers = self.raft.propose(vec![command]).await.inspect_err(|error| match error {
            ProposeError::Busy => self.bounds.hit("raft.proposals"),
            ProposeError::TooLarge { .. } => self.bounds.hit("raft.command-bytes"),
            _ => {}
        })?;
        let answer = answers.pop().unwrap_or(Answer::None);
        if let Answer::Lock(LockAnswer::Refused(Refusal::Full { what })) = &answer {
            self.bounds.hit(bound_name(*what));
        }
        Ok(answer)
    }

    async fn read(&self, read: Read) -> Result<ClientReply, ReadError> {
        // The asker has checked it as well, if it is one of us.
        if let Read::Locks(page) | Read::Sessions(page) = &read
            && let Err(error) = check_page(page)
        {
            return Ok(ClientReply::Failed(error));
        }
        self.raft.read_barrier(self.reads).await?;
        match read {
            Read::Lock(name) => {
                self.raft.with_state(|state, _| ClientReply::View(state.locks().view(&name))).map_err(Into::into)
            }
            Read::Locks(page) => {
                let prefix = page.prefix.as_deref().unwrap_or_default();
                let after = page.after.and_then(|after| LockName::new(after).ok());
                let (items, next) =
                    self.raft.with_state(|state, _| state.locks().list(prefix, after.as_ref(), page.limit))?;
                Ok(ClientReply::Locks(Page { items, next: next.map(String::from) }))
            }
            Read::Sessions(page) => {
                let after = page.after.and_then(|after| SessionId::new(after).ok());
                let (views, next) =
                    self.raft.with_state(|state, _| state.locks().sessions(after.as_ref(), page.limit))?;
                let terms = self.leader.remaining_of(views.iter().map(|view| view.session.clone()).collect()).await;
                let info = |(view, left): (crate::machine::lock::SessionView, Option<u64>)| SessionInfo {
                    session: view.session,
                    owner: view.owner.to_string(),
                    ttl_ms: view.ttl_ms,
                    expires_in_ms: left.unwrap_or(view.ttl_ms),
                    locks: view.locks,
                };
                Ok(ClientReply::Sessions(Page {
                    items: views.into_iter().zip(terms).map(info).collect(),
                    next: next.map(String::from),
                }))
            }
        }
    }

    async fn watch(
        &self,
        lock: LockName,
        after: Option<EventCursor>,
        parking: &Parking,
    ) -> Result<ClientReply, ReadError> {
        if let Some(after) = after {
            parking.park();
            match tokio::time::timeout(WATCH_WAIT, self.leader.events_after(lock.clone(), after)).await {
                Ok(Some(Told::News(events, next))) => return Ok(ClientReply::Watched { state: None, events, next }),
                Ok(Some(Told::TooMany)) => {
                    // It hears late of what happens meanwhile, and misses nothing.
                    tokio::time::sleep(WATCH_WAIT).await;
                    return Ok(ClientReply::Watched { state: None, events: Vec::new(), next: after });
                }
                Err(_) => return Ok(ClientReply::Watched { state: None, events: Vec::new(), next: after }),
                Ok(None) => {}
            }
        }
        self.raft.read_barrier(self.reads).await?;
        self.raft
            .with_state(move |state, index| {
                let state = state.locks().view(&lock).unwrap_or_else(|| crate::machine::lock::LockView {
                    lock,
                    mode: None,
                    holders: Vec::new(),
                    waiters: Vec::new(),
                });
                let next = EventCursor { index, nth: u32::MAX };
                ClientReply::Watched { state: Some(state), events: Vec::new(), next }
            })
            .map_err(Into::into)
    }

    /// Serves what a node asks of its leader.
    pub(crate) async fn control(&self, from: NodeId, call: ControlCall) -> ControlReply {
        if !self.leader.can_decide() {
            return ControlReply::NotLeader(self.not_leader());
        }
        match call {
            ControlCall::Join(joiner) if joiner.node != from => ControlReply::Refused(Refused::Malformed),
            ControlCall::Join(joiner) => self.join(*joiner).await,
            ControlCall::Heartbeat { incarnation, view } => self.heartbeat(from, incarnation, view).await,
            ControlCall::Drain { incarnation } => self.member(MemberChange::Drain { node: from, incarnation }).await,
            ControlCall::Stop { incarnation } => {
                self.member(MemberChange::Down { node: from, incarnation, term: None }).await
            }
            ControlCall::Hello(_)
            | ControlCall::PleaseLeave
            | ControlCall::LeaveWithin { .. }
            | ControlCall::Info
            | ControlCall::Logs
            | ControlCall::News(_) => ControlReply::Refused(Refused::Malformed),
        }
    }

    async fn join(&self, joiner: Joiner) -> ControlReply {
        match self.propose(Command::Member(MemberChange::Join(joiner))).await {
            Ok(Answer::Member(MemberAnswer::Done)) => match self.leader.members().await {
                Some(report) => ControlReply::Joined(Box::new(report.view)),
                None => ControlReply::NotLeader(self.not_leader()),
            },
            Ok(Answer::Member(answer)) => refused(&answer),
            Ok(_) | Err(ProposeError::NotLeader { .. }) => ControlReply::NotLeader(self.not_leader()),
            Err(error) => ControlReply::Failed(Error::new(ErrorCode::Unavailable, error.to_string())),
        }
    }

    /// The answer renews the asker's member lease, so it waits for a quorum round that began after the heartbeat came: a
    /// leader that was deposed unnoticed renews nothing. And it names a version of the view that has everything that was
    /// committed anywhere before: who was home to a slot and is no more hears of it before its lease is longer.
    async fn heartbeat(&self, from: NodeId, incarnation: Incarnation, installed: u64) -> ControlReply {
        match self.leader.heard(from, incarnation).await {
            None => return ControlReply::NotLeader(self.not_leader()),
            Some(LeaderState::Unknown) => return ControlReply::JoinFirst,
            Some(LeaderState::Heard) => {}
        }
        if self.raft.read_barrier(ReadPolicy::Index).await.is_err() {
            return ControlReply::NotLeader(self.not_leader());
        }
        let Some(leader) = self.leader.led() else { return ControlReply::NotLeader(self.not_leader()) };
        match self.raft.with_state(|state, _| state.view_version()) {
            Ok(version) if version == installed => ControlReply::Alive { leader, version, view: None },
            Ok(_) => match view_of(&self.raft) {
                Some(view) => ControlReply::Alive { leader, version: view.version, view: Some(Box::new(view)) },
                None => ControlReply::NotLeader(None),
            },
            Err(_) => ControlReply::NotLeader(None),
        }
    }

    async fn member(&self, change: MemberChange) -> ControlReply {
        match self.propose(Command::Member(change)).await {
            Ok(_) => ControlReply::Done,
            Err(ProposeError::NotLeader { .. }) => ControlReply::NotLeader(self.not_leader()),
            Err(error) => ControlReply::Failed(Error::new(ErrorCode::Unavailable, error.to_string())),
        }
    }
}

/// Why the leadership was not handed over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum HandOverError {
    /// There is nobody to hand it to.
    #[error("no other voting lock manager is there to lead: `syncmesh members list` shows who votes and who is up")]
    Nobody,
    /// Raft did not do it.
    #[error(transparent)]
    Raft(#[from] TransferError),
}

impl HandOverError {
    /// Whether somebody else may have been asked to lead all the same.
    fn outcome(&self) -> Outcome {
        match self {
            Self::Nobody
            | Self::Raft(TransferError::NotLeader { .. } | TransferError::NotVoter(_) | TransferError::NotReady(_)) => {
                Outcome::NotApplied
            }
            Self::Raft(TransferError::Elsewhere(_) | TransferError::Timeout | TransferError::Stopped) => {
                Outcome::Unknown
            }
        }
    }
}

/// Hands the leadership to `to`, or to whoever is best placed.
pub(super) async fn hand_over(raft: &RaftNode<ControlState>, to: Option<NodeId>) -> Result<(), HandOverError> {
    let successor = || raft.status().borrow().successor(raft.settings().election_max);
    let to = to.or_else(successor).ok_or(HandOverError::Nobody)?;
    Ok(raft.transfer_leader(to).await?)
}

/// Whether a majority of the voters serves without this node: who is removed hears and says nothing any
/// more, so the others must be able to take its vote. Who has no vote is never needed.
fn keeps_quorum_without(node: NodeId, voters: &BTreeSet<NodeId>, serves: impl Fn(&NodeId) -> bool) -> bool {
    let others = voters.iter().filter(|voter| **voter != node);
    !voters.contains(&node) || others.filter(|voter| serves(voter)).count() > voters.len() / 2
}

/// The removal of a member without which the cluster could decide nothing any more.
fn needed(node: NodeId) -> Error {
    Error::new(
        ErrorCode::Conflict,
        format!(
            "{node} is needed: without it no majority of the voting lock managers would be up, and nothing could be \
             decided any more, not even who votes. Nothing was changed. Have it leave instead (`syncmesh members leave` at \
             it), or start another lock manager and wait until it votes, or remove first those that are down (`syncmesh \
             members list`); to end the whole cluster, stop its nodes"
        ),
    )
}

fn refused(answer: &MemberAnswer) -> ControlReply {
    ControlReply::Refused(match answer {
        MemberAnswer::Barred => Refused::Barred,
        MemberAnswer::OlderIncarnation => Refused::OlderIncarnation,
        MemberAnswer::HasLeft => Refused::HasLeft,
        MemberAnswer::Full => Refused::Full,
        MemberAnswer::Done | MemberAnswer::NotFound | MemberAnswer::Malformed => Refused::Malformed,
    })
}

fn member_reply(answer: &MemberAnswer) -> ClientReply {
    match answer {
        MemberAnswer::Done => ClientReply::Done,
        MemberAnswer::NotFound => ClientReply::Failed(Error::new(
            ErrorCode::NotFound,
            "there is no such member: `syncmesh members list` shows them all",
        )),
        other => ClientReply::Failed(Error::new(
            ErrorCode::Conflict,
            format!("the change of membership was refused: {other:?}"),
        )),
    }
}

/// The bounds of the lock table by their names in the metrics.
fn bound_name(bound: Bound) -> &'static str {
    match bound {
        Bound::Sessions => "locks.sessions",
        Bound::LocksHeld => "locks.held",
        Bound::WaitersOfALock => "locks.waiters-of-a-lock",
        Bound::Waits => "locks.waits",
        Bound::LocksOfASession => "locks.locks-of-a-session",
        Bound::WaitsOfASession => "locks.waits-of-a-session",
        Bound::RequestsOfAWait => "locks.requests-of-a-wait",
        Bound::LocksOfAnAcquire => "locks.locks-of-an-acquire",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Whether `removed` can be removed from a group with these voters of whom those are up.
    fn removable(removed: u8, voters: &[u8], up: &[u8]) -> bool {
        let voters = voters.iter().map(|n| node(*n)).collect();
        keeps_quorum_without(node(removed), &voters, |voter| up.iter().any(|n| node(*n) == *voter))
    }

    #[test]
    fn nobody_is_removed_without_whom_the_voters_could_not_decide() {
        assert!(!removable(1, &[1], &[1]), "the only one");
        assert!(!removable(2, &[1, 2], &[1, 2]), "the other alone cannot take its vote");
        assert!(removable(3, &[1, 2, 3], &[1, 2, 3]));
        assert!(removable(3, &[1, 2, 3], &[1, 2]), "the dead one");
        assert!(!removable(2, &[1, 2, 3], &[1, 2]), "one of two would be left, one down");
        assert!(removable(9, &[1], &[1]), "it has no vote");
    }
}
