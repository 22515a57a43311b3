//! Brings an operation to the leader, wherever it is, and its answer back.
//!
//! Called by the services that applications use ([`super::locks`]) on every node. Retries what is safe
//! to retry (every change carries an id under which its answer is remembered), follows the leader,
//! and says honestly whether an operation that failed may have had an effect.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    authority::Authority,
    parking::Parking,
    requests::{OpenRequest, OpenRequests},
    route::Route,
    wire::{ClientAsk, ClientReply, Leader},
};
use crate::{
    codec::{decode, encode},
    error::{Error, ErrorCode, Outcome},
    ids::{NodeId, Term},
    machine::{
        control::{Change, ChangeBody, IdempotencyKey},
        lock::LockRequest,
        placement::{PlacementAnswer, PlacementChange},
    },
    net::{
        CallError, Lane,
        deferred::{AskError, Exchange},
    },
};

/// How long an operation looks for a leader that answers before it is refused. A fail-over takes less
/// with the default timeouts; a minority must say no within two seconds.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1_700);
/// The same where none has been known for longer than that already: only the first who ask after a
/// loss wait for the next leader.
const LOOK_ONCE: Duration = Duration::from_millis(75);
/// The same for an operation that a leader had taken up when it was lost: to find its outcome is worth the
/// time of a second election where the first one has no winner.
const PATIENCE_ONCE_TAKEN_UP: Duration = Duration::from_secs(5);
/// How long a leader that shows that it lives may work on an operation that waits for nobody.
const WORK: Duration = Duration::from_secs(10);
/// Pause between two tries, so that a leader that has just lost its office is not hammered.
const RETRY: Duration = Duration::from_millis(25);

/// Every node's way to the leader. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    me: NodeId,
    route: Route,
    exchange: Exchange,
    /// Set on lock managers: what serves operations where this node itself leads.
    authority: Option<Authority>,
    requests: Arc<OpenRequests>,
}

/// Whether a failed operation can have had an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effectless {
    /// It changes nothing, whatever happened.
    Always,
    /// It may, once it has left this node.
    UnlessSent,
}

impl Gateway {
    /// The gateway of a node.
    pub(crate) fn new(
        me: NodeId,
        route: Route,
        exchange: Exchange,
        authority: Option<Authority>,
        requests: Arc<OpenRequests>,
    ) -> Self {
        Self { me, route, exchange, authority, requests }
    }

    /// What this node knows of leader and members.
    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// A fresh request of this node.
    pub(crate) fn begin(&self) -> OpenRequest {
        self.requests.begin()
    }

    /// Has a change made, waiting for its turn for `wait` at the most.
    pub(crate) async fn change(
        &self,
        request: &OpenRequest,
        key: Option<IdempotencyKey>,
        body: ChangeBody,
        wait: Duration,
    ) -> Result<ClientReply, Error> {
        let change = Change { request: request.id(), done: request.done(), key, body };
        self.submit(ClientAsk::Change(change), wait, Effectless::UnlessSent).await
    }

    /// Has a partition of the queues placed otherwise.
    pub(crate) async fn change_placement(
        &self,
        request: &OpenRequest,
        change: PlacementChange,
    ) -> Result<PlacementAnswer, Error> {
        match self.change(request, None, ChangeBody::Placement(change), Duration::ZERO).await? {
            ClientReply::Placement(answer) => Ok(*answer),
            reply => Err(Error::internal(format!("the leader gave an answer to something else: {reply:?}"))),
        }
    }

    /// Notes in the replicated state what is about to be done outside it, where it has a key. Gives the
    /// term in which an earlier request under that key was noted.
    pub(crate) async fn noted_before(&self, key: Option<IdempotencyKey>) -> Result<Option<Term>, Error> {
        if key.is_none() {
            return Ok(None);
        }
        let request = self.begin();
        match self.change(&request, key, ChangeBody::Intent, Duration::ZERO).await? {
            ClientReply::Noted { first, term } => Ok((first != request.id()).then_some(term)),
            reply => Err(Error::internal(format!("the leader gave an answer to something else: {reply:?}"))),
        }
    }

    /// Asks something that leaves the replicated state alone, waiting for its answer for `wait` at the
    /// most. Asked again where the answer is lost, but for a hand-over of the leadership.
    pub(crate) async fn ask(&self, ask: ClientAsk, wait: Duration) -> Result<ClientReply, Error> {
        self.submit(ask, wait, Effectless::Always).await
    }

    async fn submit(&self, ask: ClientAsk, wait: Duration, effectless: Effectless) -> Result<ClientReply, Error> {
        let last_moment = Instant::now() + wait + WORK;
        let lost_for_long = self.route.leaderless_for() > PATIENCE;
        let mut patient_until = Instant::now() + if lost_for_long { LOOK_ONCE } else { PATIENCE };
        let mut perhaps = false;
        let mut asked_in_vain = None;
        loop {
            let patience = patient_until.saturating_duration_since(Instant::now());
            let Some(leader) = self.route.some_leader(patience).await else { return Err(self.gave_up(perhaps)) };
            if patience.is_zero() && asked_in_vain == Some(leader) {
                return Err(self.gave_up(perhaps));
            }
            asked_in_vain = Some(leader);
            let asked_at = Instant::now();
            let outcome = tokio::select! {
                () = self.route.other_leader_than(leader) => Asked::Superseded,
                () = tokio::time::sleep_until(last_moment) => Asked::OutOfTime,
                outcome = self.ask_leader(leader, &ask) => outcome,
            };
            if let ClientAsk::Transfer(to) = ask
                && outcome.may_have_arrived()
            {
                return self.handed_over(leader, to).await;
            }
            perhaps |= effectless == Effectless::UnlessSent && outcome.may_have_arrived();
            if let Some(until) = outcome.patient_until(asked_at, leader) {
                patient_until = patient_until.max(until);
            }
            match outcome {
                Asked::Answered(ClientReply::NotLeader(other)) => {
                    self.route.doubt(leader);
                    if let Some(other) = other {
                        self.route.learn(other);
                    }
                }
                Asked::Answered(ClientReply::Unknown) | Asked::Lost | Asked::Unanswered | Asked::Undelivered => {
                    self.route.doubt(leader);
                }
                // Too busy to take it up, and leading all the same.
                Asked::Answered(ClientReply::Busy) | Asked::Crowded => return Err(crowded(perhaps)),
                Asked::Answered(ClientReply::Failed(error)) => return Err(honest(error, perhaps)),
                Asked::Answered(reply) => return Ok(reply),
                // A leader that refuses does not know this node as a member yet: that is no doubt about it.
                Asked::Superseded | Asked::Refused => {}
                Asked::OutOfTime => return Err(self.gave_up(perhaps)),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// What came of a hand-over that `from` may have begun. It is not asked for again: the next leader
    /// would hand over as well. Who leads next tells whether it succeeded.
    async fn handed_over(&self, from: Leader, to: Option<NodeId>) -> Result<ClientReply, Error> {
        let moved = |next: Leader| to.map_or(next.node != from.node, |to| next.node == to);
        let succeeded = async {
            let mut last = from;
            while !moved(last) {
                self.route.other_leader_than(last).await;
                last = self.route.leader().unwrap_or(last);
            }
        };
        match tokio::time::timeout(PATIENCE, succeeded).await {
            Ok(()) => Ok(ClientReply::Done),
            Err(_) => Err(hand_over_unknown()),
        }
    }

    async fn ask_leader(&self, leader: Leader, ask: &ClientAsk) -> Asked {
        if leader.node == self.me {
            return match &self.authority {
                Some(authority) => Asked::Answered(authority.serve(self.me, ask.clone(), &Parking::default()).await),
                None => Asked::Undelivered,
            };
        }
        // Every question has an id of its own: one that was cancelled cannot be asked again.
        let question = self.requests.question();
        match self.exchange.ask(leader.node, question, lane(ask), encode(ask)).await {
            Ok(bytes) => decode(&bytes).map_or(Asked::Unanswered, Asked::Answered),
            Err(AskError::TooManyOpen | AskError::Overloaded | AskError::Call(CallError::Busy(_))) => Asked::Crowded,
            Err(AskError::Call(CallError::Refused(_))) => Asked::Refused,
            Err(AskError::Call(error)) if !error.may_have_arrived() => Asked::Undelivered,
            Err(AskError::AlreadyOpen) => Asked::Undelivered,
            Err(AskError::Lost(_)) => Asked::Lost,
            // Also what was refused, or open when this node stopped, may have been begun.
            Err(AskError::Call(_) | AskError::Refused | AskError::Stopped) => Asked::Unanswered,
        }
    }

    fn gave_up(&self, perhaps_applied: bool) -> Error {
        if perhaps_applied {
            return Error::unavailable(
                Outcome::Unknown,
                "the leader of the lock managers did not answer and may have made the change: look, or repeat the \
                 request with the same Idempotency-Key",
            );
        }
        let mut error = Error::new(
            ErrorCode::NoQuorum,
            "no leader of the lock managers can be reached, nothing was changed: more than half of the voting lock \
             managers must be up and reach each other; `syncmesh status` shows who is missing",
        );
        if self.route.view().members.is_empty() {
            error.detail = "this node has not joined a cluster yet, nothing was changed: start the founder with \
                            BOOTSTRAP_EXPECT, or name a member in BOOTSTRAP_PEERS; `syncmesh peer-info` shows whom \
                            this node is connected to"
                .into();
        }
        error
    }
}

/// What ends somebody's wait must not queue behind those who wait.
fn lane(ask: &ClientAsk) -> Lane {
    match ask {
        ClientAsk::Change(Change {
            body: ChangeBody::Lock(LockRequest::Acquire(_) | LockRequest::OpenSession(_)) | ChangeBody::Restore(_),
            ..
        })
        | ClientAsk::Read(_)
        | ClientAsk::Watch { .. }
        | ClientAsk::Members
        | ClientAsk::Backup(_)
        | ClientAsk::Queue(_)
        | ClientAsk::Cache(_) => Lane::Ask,
        ClientAsk::Change(_) | ClientAsk::KeepAlive(_) | ClientAsk::Transfer(_) => Lane::End,
    }
}

/// What came of asking one leader once.
#[derive(Debug)]
enum Asked {
    Answered(ClientReply),
    /// It had taken the request up, and is gone.
    Lost,
    /// It may have got the request.
    Unanswered,
    /// It certainly has not.
    Undelivered,
    /// Somebody else leads meanwhile.
    Superseded,
    /// Certainly not taken up: this node may not ask (yet).
    Refused,
    /// Certainly not taken up: a bound was hit.
    Crowded,
    /// It may have got the request, and there is no more time.
    OutOfTime,
}

impl Asked {
    fn may_have_arrived(&self) -> bool {
        let lost = matches!(self, Self::Lost | Self::Unanswered | Self::Superseded | Self::OutOfTime);
        lost || matches!(self, Self::Answered(ClientReply::Unknown))
    }

    /// How long to look for the next leader after this, where it says that there was one until lately.
    fn patient_until(&self, asked_at: Instant, asked: Leader) -> Option<Instant> {
        let now = Instant::now();
        match self {
            Self::Superseded => Some(now + PATIENCE),
            Self::Answered(ClientReply::NotLeader(Some(other))) if other.term > asked.term => Some(now + PATIENCE),
            Self::Lost => Some(now + PATIENCE_ONCE_TAKEN_UP),
            // Nobody takes so long to refuse.
            Self::Answered(ClientReply::Unknown) if now - asked_at > PATIENCE * 2 => Some(now + PATIENCE_ONCE_TAKEN_UP),
            _ => None,
        }
    }
}

/// Nobody is seen to lead who would show that a hand-over succeeded.
pub(super) fn hand_over_unknown() -> Error {
    Error::unavailable(
        Outcome::Unknown,
        "it is not known whether the leadership was handed over: `syncmesh status` shows who leads",
    )
}

/// What was not applied this time may have been applied by an earlier try.
fn honest(mut error: Error, perhaps_applied: bool) -> Error {
    if perhaps_applied && error.details.outcome == Some(Outcome::NotApplied) {
        error.details.outcome = Some(Outcome::Unknown);
    }
    error
}

/// Too much is under way here or at the leader.
fn crowded(perhaps_applied: bool) -> Error {
    let outcome = if perhaps_applied { Outcome::Unknown } else { Outcome::NotApplied };
    Error::unavailable(outcome, "too many operations are under way at this node or at the leader: try again later")
}

#[cfg(test)]
mod tests;
