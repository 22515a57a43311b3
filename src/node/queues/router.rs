//! Brings an operation to the primary of a partition, wherever that is, and its answer back.
//!
//! Called by the service on every node, and by partitions that move messages elsewhere. Follows the primary
//! from one epoch to the next, asks again what is safe to ask again (a message has an id by which its second
//! coming is known, an ack that is repeated is done again, a lease that nobody got comes back), and says honestly
//! whether an operation that failed may have had an effect. Needs no quorum of the lock managers: the last
//! placement that was heard of serves until there is a newer one.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    hosting::Hosting,
    wire::{PartitionAsk, QueueAsk, QueueReply},
};
use crate::{
    codec::{decode, encode},
    error::{Error, ErrorCode, Outcome},
    ids::{Epoch, NodeId, PartitionId},
    machine::{
        placement::{Partition, PartitionStatus, partition_of},
        queue::{Op, OpAnswer, QueueRefusal},
        replication::Replica,
    },
    net::{
        CallError, Lane,
        deferred::{AskError, Exchange},
    },
    node::{hints::ViewPull, parking::Parking, requests::OpenRequests, route::Route, wire::ClientAsk},
    time::millis,
};

/// How long an operation looks for a primary that answers before it is refused: a fail-over takes less with the
/// default timeouts, also where the primary was only silent.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a primary that shows that it lives may work on an operation, beyond what it was told to wait.
const WORK: Duration = Duration::from_secs(10);
/// The pause after the first try, so that a node that has just ceased to be the primary is not hammered. Doubled
/// with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between two tries.
const LAST_PAUSE: Duration = Duration::from_millis(160);

/// Every node's way to the primaries. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) me: NodeId,
    pub(crate) route: Route,
    pub(crate) exchange: Exchange,
    pub(crate) requests: Arc<OpenRequests>,
    pub(crate) hosting: Hosting,
    pub(crate) pull: ViewPull,
}

/// What came of asking one primary once.
#[derive(Debug)]
enum Asked {
    Answered(QueueReply),
    /// It may have got the question.
    Unanswered,
    /// It certainly has not.
    Undelivered,
    /// Certainly not taken up: a bound was hit.
    Crowded,
    /// Somebody else is the primary meanwhile, or nobody.
    Superseded,
    /// There is no more time.
    OutOfTime,
}

impl Router {
    /// The partition of a queue. Waits for the view of the cluster where this node has none yet.
    pub(super) async fn partition_of(&self, queue: &crate::ids::QueueName) -> Result<PartitionId, Error> {
        Ok(partition_of(queue, self.partitions().await?))
    }

    /// How many partitions there are.
    pub(super) async fn partitions(&self) -> Result<u32, Error> {
        let mut views = self.route.views();
        let known = timeout(PATIENCE, views.wait_for(|view| !view.partitions.is_empty())).await;
        match known {
            Ok(Ok(view)) => Ok(u32::try_from(view.partitions.len()).unwrap_or(u32::MAX)),
            _ => Err(Error::no_quorum(
                "this node has not joined a cluster yet, nothing was changed: start the founder with BOOTSTRAP_EXPECT, or \
                 name a member in BOOTSTRAP_PEERS",
            )),
        }
    }

    /// The placement of a partition, as this node knows it.
    pub(super) fn placed(&self, partition: PartitionId) -> Option<Partition> {
        self.route.view().partitions.get(&partition).cloned()
    }

    /// Asks the primary of a partition.
    pub(super) async fn ask(&self, partition: PartitionId, ask: PartitionAsk) -> Result<QueueReply, Error> {
        let started = Instant::now();
        let last_moment = started + Duration::from_millis(ask.wait_ms()) + WORK;
        let mut patience = started + PATIENCE;
        let mut pause = FIRST_PAUSE;
        let mut perhaps = false;
        loop {
            let Some(placed) = self.placed(partition) else {
                return Err(Error::new(ErrorCode::NotFound, format!("there is no partition {partition}")));
            };
            let Some(primary) = placed.primary.filter(|_| placed.status == PartitionStatus::Serving) else {
                if timeout_at(patience, self.newer_than(partition, placed.epoch)).await.is_err() {
                    return Err(unserved(partition, &placed, perhaps));
                }
                continue;
            };
            let asked_at = Instant::now();
            let now = ask.later(millis(started.elapsed()));
            let outcome = tokio::select! {
                biased;
                outcome = self.ask_once(primary.node, partition, now) => outcome,
                () = self.other_primary_than(partition, primary) => Asked::Superseded,
                () = tokio::time::sleep_until(last_moment) => Asked::OutOfTime,
            };
            perhaps |= ask.changes() && outcome.may_have_arrived();
            if asked_at.elapsed() > Duration::from_millis(1_500) {
                // It was there to be asked: a question that lasts is repeated every second.
                patience = Instant::now() + PATIENCE;
            }
            match outcome {
                Asked::Answered(QueueReply::NotPrimary { epoch }) if epoch > placed.epoch => {
                    self.pull.pull();
                    let _ = timeout(LAST_PAUSE, self.newer_than(partition, placed.epoch)).await;
                }
                Asked::Answered(QueueReply::NotPrimary { .. } | QueueReply::Unknown)
                | Asked::Unanswered
                | Asked::Undelivered => {
                    let _ = timeout(pause, self.newer_than(partition, placed.epoch)).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Asked::Answered(QueueReply::Failed(error)) => return Err(honest(error, perhaps)),
                // The room may be taken by what an earlier try has stored.
                Asked::Answered(QueueReply::Done(OpAnswer::Refused(
                    QueueRefusal::QueueFull | QueueRefusal::PartitionFull,
                ))) if perhaps => return Err(silent(partition, primary.node, perhaps)),
                Asked::Answered(reply) => return Ok(reply),
                Asked::Crowded => return Err(crowded(perhaps)),
                Asked::Superseded => patience = patience.max(Instant::now() + PATIENCE / 2),
                Asked::OutOfTime => return Err(silent(partition, primary.node, perhaps)),
            }
            if Instant::now() >= patience.min(last_moment) {
                return Err(silent(partition, primary.node, perhaps));
            }
        }
    }

    /// Tells the primary something, once: if it does not get to hear of it, that does no harm.
    pub(super) async fn tell(&self, partition: PartitionId, ask: PartitionAsk) {
        if let Some(primary) = self.placed(partition).and_then(|placed| placed.primary) {
            self.ask_once(primary.node, partition, ask).await;
        }
    }

    /// Asks one node, once, for part of a list; `None` where it does not answer.
    pub(super) async fn ask_node(&self, node: NodeId, ask: QueueAsk) -> Option<QueueReply> {
        match self.send(node, Lane::Ask, ask).await {
            Asked::Answered(reply) => Some(reply),
            _ => None,
        }
    }

    async fn ask_once(&self, node: NodeId, partition: PartitionId, ask: PartitionAsk) -> Asked {
        self.send(node, lane(&ask), QueueAsk::At { partition, ask }).await
    }

    async fn send(&self, node: NodeId, lane: Lane, ask: QueueAsk) -> Asked {
        if node == self.me {
            return Asked::Answered(self.hosting.serve(ask, &Parking::default()).await);
        }
        // Every question has an id of its own: one that was cancelled cannot be asked again.
        let question = self.requests.question();
        match self.exchange.ask(node, question, lane, encode(&ClientAsk::Queue(Box::new(ask)))).await {
            Ok(bytes) => decode(&bytes).map_or(Asked::Unanswered, Asked::Answered),
            Err(AskError::TooManyOpen | AskError::Overloaded | AskError::Call(CallError::Busy(_))) => Asked::Crowded,
            Err(AskError::Call(error)) if !error.may_have_arrived() => Asked::Undelivered,
            Err(AskError::AlreadyOpen) => Asked::Undelivered,
            // Also what was refused, or open when this node stopped, may have been begun.
            Err(AskError::Call(_) | AskError::Lost(_) | AskError::Refused | AskError::Stopped) => Asked::Unanswered,
        }
    }

    /// Waits for a newer placement of the partition.
    async fn newer_than(&self, partition: PartitionId, epoch: Epoch) {
        self.wait_until(partition, |placed| placed.epoch > epoch).await;
    }

    async fn other_primary_than(&self, partition: PartitionId, primary: Replica) {
        self.wait_until(partition, |placed| placed.primary != Some(primary)).await;
    }

    async fn wait_until(&self, partition: PartitionId, is_so: impl Fn(&Partition) -> bool) {
        let mut views = self.route.views();
        let seen = views.wait_for(|view| view.partitions.get(&partition).is_some_and(&is_so)).await.is_ok();
        if !seen {
            std::future::pending::<()>().await;
        }
    }
}

impl Asked {
    fn may_have_arrived(&self) -> bool {
        matches!(self, Self::Unanswered | Self::Superseded | Self::OutOfTime | Self::Answered(QueueReply::Unknown))
    }
}

/// What ends a delivery must not queue behind those who wait for one.
fn lane(ask: &PartitionAsk) -> Lane {
    match ask {
        PartitionAsk::Do(Op::Ack { .. } | Op::Nack { .. } | Op::Extend { .. } | Op::GiveBack { .. })
        | PartitionAsk::Abandon { .. } => Lane::End,
        _ => Lane::Ask,
    }
}

fn outcome(perhaps: bool) -> Outcome {
    if perhaps { Outcome::Unknown } else { Outcome::NotApplied }
}

/// What was not applied this time may have been applied by an earlier try.
fn honest(mut error: Error, perhaps: bool) -> Error {
    if perhaps && error.details.outcome == Some(Outcome::NotApplied) {
        error.details.outcome = Some(Outcome::Unknown);
    }
    if perhaps && error.code == ErrorCode::DurabilityUnavailable {
        return Error::unavailable(
            Outcome::Unknown,
            format!(
                "an earlier try was not answered and may have been applied; another one was refused: {}",
                error.detail
            ),
        );
    }
    error
}

fn crowded(perhaps: bool) -> Error {
    Error::unavailable(
        outcome(perhaps),
        "too many operations are under way at this node or at the primary: try again later",
    )
}

fn silent(partition: PartitionId, node: NodeId, perhaps: bool) -> Error {
    let effect = if perhaps {
        "the operation may have been applied: look, or repeat it (a publish under the same message id)"
    } else {
        "nothing was changed: try again"
    };
    Error::unavailable(
        outcome(perhaps),
        format!(
            "{node}, the primary of partition {partition}, does not serve it now; {effect}. `syncmesh status` shows who is missing"
        ),
    )
}

/// Nobody serves the partition.
fn unserved(partition: PartitionId, placed: &Partition, perhaps: bool) -> Error {
    let effect = if perhaps { "an earlier try may have been applied" } else { "nothing was changed" };
    let names =
        |nodes: &mut dyn Iterator<Item = NodeId>| nodes.map(|node| node.to_string()).collect::<Vec<_>>().join(", ");
    let reason = match &placed.status {
        _ if placed.replicas.is_empty() => {
            "no node keeps it yet: start nodes with the role queue-node, or wait a moment if they have just started"
                .to_owned()
        }
        PartitionStatus::JournalLost => format!(
            "all that kept it have come back without their journals; bring the journals back, or give up what is lost with \
             `syncmesh queue recover {partition} --accept-loss`"
        ),
        PartitionStatus::Waiting { reports } => {
            let away = placed.in_sync.iter().map(|replica| replica.node).filter(|node| !reports.contains_key(node));
            format!(
                "it waits for the journals of {}: start these nodes again; if one is gone for good, remove it with `syncmesh \
                 members remove`",
                names(&mut away.into_iter())
            )
        }
        PartitionStatus::Serving => "it has no primary now: another one is being chosen".to_owned(),
    };
    Error::unavailable(outcome(perhaps), format!("partition {partition} is not served, {effect}: {reason}"))
}
