//! Those who wait: for messages, and for deliveries to be over. And what was handed over lately.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{LOOK, PartitionTask};
use crate::{
    ids::{Epoch, QueueName},
    machine::queue::{Queues, Receipt},
    node::{parking::Parking, queues::wire::QueueReply},
};

/// Receivers and watchers that may wait in one partition.
const MAX_WAITING: usize = 65_536;
/// How long it is remembered who got what: beyond any repetition of a question.
const HANDED_FOR: Duration = Duration::from_secs(15);
/// How many of those are remembered.
const MAX_HANDED: usize = 65_536;

/// Somebody who wants to receive.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) queue: QueueName,
    pub(super) max: u32,
    pub(super) visibility_ms: Option<u64>,
    pub(super) until: Instant,
    pub(super) attempt: u64,
    pub(super) reply: oneshot::Sender<QueueReply>,
    pub(super) parking: Parking,
}

/// Somebody who wants to know when deliveries are over.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) queue: QueueName,
    pub(super) receipts: Vec<Receipt>,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<QueueReply>,
    pub(super) parking: Parking,
}

/// All who wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    receivers: BTreeMap<u64, Receiver>,
    /// In the order in which they came.
    lines: BTreeMap<QueueName, VecDeque<u64>>,
    deadlines: BTreeMap<(Instant, u64), ()>,
    last: u64,
    watchers: BTreeMap<QueueName, Vec<Watcher>>,
    watching: usize,
    /// When all watchers are looked after.
    look_at: Option<Instant>,
    /// How many messages are being leased, at most.
    leasing: BTreeMap<QueueName, u64>,
}

impl Waiting {
    /// Lets a receiver wait, unless too many do.
    pub(super) fn join(&mut self, receiver: Receiver) -> Result<(), Receiver> {
        if self.receivers.len() >= MAX_WAITING {
            return Err(receiver);
        }
        self.last += 1;
        self.lines.entry(receiver.queue.clone()).or_default().push_back(self.last);
        self.deadlines.insert((receiver.until, self.last), ());
        self.receivers.insert(self.last, receiver);
        Ok(())
    }

    /// The one who has waited longest for this queue.
    pub(super) fn next(&mut self, queue: &QueueName) -> Option<Receiver> {
        let line = self.lines.get_mut(queue)?;
        let mut found = None;
        while let Some(number) = line.pop_front() {
            if let Some(receiver) = self.receivers.remove(&number) {
                self.deadlines.remove(&(receiver.until, number));
                if !receiver.reply.is_closed() {
                    found = Some(receiver);
                    break;
                }
            }
        }
        if line.is_empty() {
            self.lines.remove(queue);
        }
        found
    }

    /// Those whose time is up.
    fn expired(&mut self, now: Instant) -> Vec<Receiver> {
        let mut expired = Vec::new();
        while let Some(((at, number), ())) = self.deadlines.first_key_value().map(|(key, ())| (*key, ())) {
            if at > now {
                break;
            }
            self.deadlines.remove(&(at, number));
            if let Some(receiver) = self.receivers.remove(&number) {
                self.leave_line(&receiver.queue, number);
                expired.push(receiver);
            }
        }
        expired
    }

    fn leave_line(&mut self, queue: &QueueName, number: u64) {
        if let Some(line) = self.lines.get_mut(queue) {
            // They came in order, and so do most of their deadlines: it is near the front.
            if let Some(place) = line.iter().position(|waits| *waits == number) {
                line.remove(place);
            }
            if line.is_empty() {
                self.lines.remove(queue);
            }
        }
    }

    /// When the next one's time is up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let receiver = self.deadlines.first_key_value().map(|((at, _), ())| *at);
        let watchers = (self.watching > 0).then_some(self.look_at).flatten();
        [receiver, watchers].into_iter().flatten().min()
    }

    /// Nobody waits under this number any more.
    pub(super) fn abandon(&mut self, attempt: u64) {
        let found = self.receivers.iter().find(|(_, receiver)| receiver.attempt == attempt).map(|(number, _)| *number);
        if let Some(number) = found
            && let Some(receiver) = self.receivers.remove(&number)
        {
            self.deadlines.remove(&(receiver.until, number));
            self.leave_line(&receiver.queue, number);
        }
    }

    pub(super) fn leasing(&self, queue: &QueueName) -> u64 {
        self.leasing.get(queue).copied().unwrap_or(0)
    }

    pub(super) fn begin_lease(&mut self, queue: &QueueName, max: u32) {
        *self.leasing.entry(queue.clone()).or_default() += u64::from(max);
    }

    pub(super) fn end_lease(&mut self, queue: &QueueName, max: u32) {
        if let Some(leasing) = self.leasing.get_mut(queue) {
            *leasing = leasing.saturating_sub(u64::from(max));
            if *leasing == 0 {
                self.leasing.remove(queue);
            }
        }
    }

    /// Lets a watcher wait unless it can be answered now.
    pub(super) fn watch(&mut self, watcher: Watcher, queues: &Queues) {
        if let Some(watcher) = answered(watcher, queues, Instant::now())
            && self.watching < MAX_WAITING
        {
            watcher.parking.park();
            self.watching += 1;
            self.look_at.get_or_insert(Instant::now() + LOOK);
            self.watchers.entry(watcher.queue.clone()).or_default().push(watcher);
        }
    }

    /// Deliveries of this queue may be over.
    pub(super) fn look(&mut self, queue: &QueueName, queues: &Queues) {
        let Some(watchers) = self.watchers.remove(queue) else { return };
        self.watching -= watchers.len();
        let now = Instant::now();
        let rest: Vec<Watcher> = watchers.into_iter().filter_map(|watcher| answered(watcher, queues, now)).collect();
        if !rest.is_empty() {
            self.watching += rest.len();
            self.watchers.insert(queue.clone(), rest);
        }
    }

    fn look_everywhere(&mut self, queues: &Queues) {
        let names: Vec<QueueName> = self.watchers.keys().cloned().collect();
        names.iter().for_each(|queue| self.look(queue, queues));
        self.look_at = (self.watching > 0).then(|| Instant::now() + LOOK);
    }

    /// Somebody else is the primary: all go there.
    pub(super) fn refuse_all(&mut self, epoch: Epoch) {
        let Self { receivers, watchers, .. } = std::mem::take(self);
        let receivers = receivers.into_values().map(|receiver| receiver.reply);
        let watchers = watchers.into_values().flatten().map(|watcher| watcher.reply);
        for reply in receivers.chain(watchers) {
            let _ = reply.send(QueueReply::NotPrimary { epoch });
        }
    }
}

/// Answers a watcher if there is something to say; gives it back if not.
fn answered(watcher: Watcher, queues: &Queues, now: Instant) -> Option<Watcher> {
    let over: Vec<Receipt> =
        watcher.receipts.iter().filter(|receipt| !queues.is_out(&watcher.queue, receipt)).copied().collect();
    if over.is_empty() && watcher.until > now && !watcher.reply.is_closed() {
        return Some(watcher);
    }
    let _ = watcher.reply.send(QueueReply::Over(over));
    None
}

impl PartitionTask {
    pub(super) fn expire_waits(&mut self) {
        let now = Instant::now();
        for receiver in self.waiting.expired(now) {
            self.receive(receiver);
        }
        if self.waiting.look_at.is_some_and(|at| at <= now) {
            self.waiting.look_everywhere(&self.queues);
        }
    }

    /// Those who came before this replica served have missed what happened since.
    pub(super) fn wake_all(&mut self) {
        let names: Vec<QueueName> = self.waiting.lines.keys().cloned().collect();
        names.iter().for_each(|queue| self.wake(queue));
        self.waiting.look_everywhere(&self.queues);
    }

    /// There may be something for those who wait for this queue.
    pub(super) fn wake(&mut self, queue: &QueueName) {
        while self.is_worth_a_lease(queue) {
            let Some(receiver) = self.waiting.next(queue) else { return };
            self.lease(receiver);
        }
    }
}

/// Who got what lately, and who is known to be gone.
#[derive(Debug, Default)]
pub(super) struct Handed {
    by_attempt: BTreeMap<u64, Vec<Receipt>>,
    gone: BTreeMap<u64, ()>,
    order: VecDeque<(Instant, u64)>,
}

impl Handed {
    pub(super) fn handed(&mut self, attempt: u64, receipts: Vec<Receipt>, now: Instant) {
        self.by_attempt.insert(attempt, receipts);
        self.note(attempt, now);
    }

    /// What was handed to this one, who has not got it.
    pub(super) fn take(&mut self, attempt: u64) -> Option<Vec<Receipt>> {
        self.by_attempt.remove(&attempt)
    }

    /// Whatever is still leased for this one comes back.
    pub(super) fn abandoned(&mut self, attempt: u64, now: Instant) {
        self.gone.insert(attempt, ());
        self.note(attempt, now);
    }

    pub(super) fn is_gone(&self, attempt: u64) -> bool {
        self.gone.contains_key(&attempt)
    }

    fn note(&mut self, attempt: u64, now: Instant) {
        self.order.push_back((now, attempt));
        self.forget(now);
    }

    pub(super) fn forget(&mut self, now: Instant) {
        while let Some((at, attempt)) = self.order.front().copied() {
            if now.duration_since(at) < HANDED_FOR && self.order.len() <= MAX_HANDED {
                break;
            }
            self.order.pop_front();
            self.by_attempt.remove(&attempt);
            self.gone.remove(&attempt);
        }
    }
}
