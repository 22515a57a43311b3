//! The partitions that this node keeps, as others see them: where operations and replication go.
//!
//! Read by the router, by the dispatcher, and by whoever serves peers' operations; written by the
//! [keeper](super::keeper) alone. On a node that keeps no queues it is empty.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    partition::PartitionHandle,
    types::QueueView,
    wire::{PartitionAsk, QueueAsk, QueueReply, Range},
};
use crate::{
    codec::{decode, encode},
    error::{Error, Outcome},
    ids::{Epoch, PartitionId},
    machine::{
        queue::Figures,
        replication::{Message, Replica},
    },
    net::Inbound,
    node::{hints::ViewPull, parking::Parking},
    telemetry::Bounds,
};

/// Partitions of which a list is made at a time.
const LISTED_AT_ONCE: usize = 16;
/// A partition that takes longer, as when its journal is away, is not served.
const LISTED_WITHIN: Duration = Duration::from_secs(2);

/// A question for the task of a partition.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) ask: PartitionAsk,
    /// Closed when nobody waits any more.
    pub(super) reply: oneshot::Sender<QueueReply>,
    /// Told when the answer waits for others.
    pub(super) parking: Parking,
}

/// A message of a peer's replica for the task of a partition.
#[derive(Debug)]
pub(super) struct PeerCall {
    pub(super) from: Replica,
    pub(super) message: Message,
    pub(super) reply: oneshot::Sender<Bytes>,
}

/// The tasks of the partitions that this node keeps. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Hosting {
    table: Arc<watch::Sender<Arc<BTreeMap<PartitionId, PartitionHandle>>>>,
    pull: ViewPull,
    bounds: Bounds,
}

impl Hosting {
    /// Nothing is kept yet.
    pub(crate) fn new(pull: ViewPull, bounds: Bounds) -> Self {
        Self { table: Arc::new(watch::Sender::default()), pull, bounds }
    }

    pub(super) fn insert(&self, partition: PartitionId, handle: PartitionHandle) {
        self.table.send_modify(|table| _ = Arc::make_mut(table).insert(partition, handle));
    }

    pub(super) fn remove(&self, partition: PartitionId) {
        self.table.send_modify(|table| _ = Arc::make_mut(table).remove(&partition));
    }

    pub(super) fn handle(&self, partition: PartitionId) -> Option<PartitionHandle> {
        self.table.borrow().get(&partition).cloned()
    }

    /// Serves a question that came from a client of this node or by way of another one; `parking` is told when it waits
    /// for others.
    pub(crate) async fn serve(&self, ask: QueueAsk, parking: &Parking) -> QueueReply {
        match ask {
            QueueAsk::At { ask, .. } if !ask.is_for_clients() => {
                QueueReply::Failed(Error::bad_request("op", "only the primary itself may say this"))
            }
            QueueAsk::At { partition, ask } if ask.is_within_limits() => self.ask(partition, ask, parking).await,
            QueueAsk::List { partitions, range } if range.is_within_limits() => self.list(partitions, range).await,
            QueueAsk::At { .. } | QueueAsk::List { .. } => {
                QueueReply::Failed(Error::bad_request("items", "more is asked for at once than is allowed"))
            }
        }
    }

    async fn ask(&self, partition: PartitionId, ask: PartitionAsk, parking: &Parking) -> QueueReply {
        let Some(handle) = self.handle(partition) else {
            return QueueReply::NotPrimary { epoch: Epoch(0) };
        };
        let (reply, answered) = oneshot::channel();
        match handle.asks.try_send(Asked { ask, reply, parking: parking.clone() }) {
            Ok(()) => answered.await.unwrap_or(QueueReply::Unknown),
            Err(mpsc::error::TrySendError::Closed(_)) => QueueReply::NotPrimary { epoch: Epoch(0) },
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.bounds.hit("queues.operations");
                QueueReply::Failed(Error::unavailable(
                    Outcome::NotApplied,
                    format!("too many operations on partition {partition} are under way: try again later"),
                ))
            }
        }
    }

    async fn list(&self, partitions: Vec<PartitionId>, range: Range) -> QueueReply {
        let one = |partition| {
            let range = range.clone();
            async move {
                let parking = Parking::default();
                let asked = timeout(LISTED_WITHIN, self.ask(partition, PartitionAsk::List(range), &parking));
                (partition, asked.await.unwrap_or(QueueReply::Unknown))
            }
        };
        let mut pages = stream::iter(partitions).map(one).buffer_unordered(LISTED_AT_ONCE);
        let (mut queues, mut more, mut unserved) = (Vec::new(), false, Vec::new());
        while let Some((partition, reply)) = pages.next().await {
            match reply {
                QueueReply::Listed { queues: some, more: further, .. } => {
                    queues.extend(some);
                    more |= further;
                    more |= cut(&mut queues, range.limit);
                }
                _ => unserved.push(partition),
            }
        }
        QueueReply::Listed { queues, more, unserved }
    }

    /// How much there is in the queues that this node is the primary of.
    pub(crate) async fn figures(&self) -> Figures {
        let kept: Vec<PartitionId> = self.table.borrow().keys().copied().collect();
        let one = |partition| self.ask_figures(partition);
        let mut all = stream::iter(kept).map(one).buffer_unordered(LISTED_AT_ONCE);
        let mut sum = Figures::default();
        while let Some(one) = all.next().await {
            sum.queues += one.queues;
            sum.ready += one.ready;
            sum.in_flight += one.in_flight;
            sum.delayed += one.delayed;
            sum.bytes += one.bytes;
            sum.oldest_age_ms = sum.oldest_age_ms.max(one.oldest_age_ms);
        }
        sum
    }

    /// Nothing, where another node is the primary.
    async fn ask_figures(&self, partition: PartitionId) -> Figures {
        match self.ask(partition, PartitionAsk::Figures, &Parking::default()).await {
            QueueReply::Figures(figures) => figures,
            _ => Figures::default(),
        }
    }

    /// Takes a message of a member's replica. Where this node does not keep the partition, or cannot keep up, it is
    /// refused, and sent again.
    pub(crate) fn on_replication(&self, call: Inbound) {
        let Some((partition, body)) = split(&call.body) else { return };
        let Some(handle) = self.handle(partition) else {
            // Whoever asks knows of a placement that this node does not know yet.
            return self.pull.pull();
        };
        let Ok((from, message)) = decode::<(Replica, Message)>(body) else { return };
        if from.node != call.from {
            return;
        }
        let taken = handle.peers.try_send(PeerCall { from, message, reply: call.reply });
        if let Err(mpsc::error::TrySendError::Full(_)) = taken {
            self.bounds.hit("queues.replication");
        }
    }
}

/// Keeps the first ones by name; whether any was cut off.
pub(super) fn cut(queues: &mut Vec<QueueView>, limit: usize) -> bool {
    queues.sort_by(|a, b| a.queue.cmp(&b.queue));
    let too_many = queues.len() > limit;
    queues.truncate(limit);
    too_many
}

/// What travels in a replication call: the partition's number, so that it can be handed on unread, and what is
/// said to it.
pub(super) fn join(partition: PartitionId, from: Replica, message: &Message) -> Bytes {
    let body = encode(&(from, message));
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&partition.0.to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes.into()
}

fn split(bytes: &[u8]) -> Option<(PartitionId, &[u8])> {
    let (number, body) = bytes.split_first_chunk::<4>()?;
    Some((PartitionId(u32::from_be_bytes(*number)), body))
}
