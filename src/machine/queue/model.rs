//! The queues once more, in the plainest form: lists that are searched from end to end.
//!
//! The machine is held against it in `properties`. It shares no code with the machine but the vocabulary
//! and the defaults of configurations; what waits, what is due and what is remembered is found by looking
//! at everything.

mod deliver;
mod line;

use self::line::{Letter, Line, Outgoing, Stands};
use super::{step::Limits, types::*, *};
use crate::ids::MessageId;
/// What one operation did to one queue.
#[derive(Default)]
struct Done {
    moves: Vec<QueueEffect>,
    counts: BTreeMap<Counted, u64>,
    ready: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    partition: PartitionId,
    limits: Limits,
    now: u64,
    next_offset: u64,
    next_number: u64,
    lines: Vec<Line>,
    outbox: Vec<Outgoing>,
    acks: Vec<(Receipt, u64)>,
}
impl Model {
    pub(super) fn new(partition: PartitionId, limits: Limits) -> Self {
        Self { partition, limits, now: 0, next_offset: 0, next_number: 0, lines: vec![], outbox: vec![], acks: vec![] }
    }

    pub(super) fn apply(&mut self, lease: Position, batch: &Batch) -> (Vec<OpAnswer>, Vec<QueueEffect>) {
        self.now = self.now.max(batch.at.0);
        let mut effects = Vec::new();
        let answers = batch.ops.iter().map(|op| self.operation(lease, batch.retention_s, op, &mut effects)).collect();
        (answers, effects)
    }

    pub(super) fn deadline(&self) -> Option<Tick> {
        self.lines.iter().filter_map(Line::deadline).min().map(Tick)
    }

    pub(super) fn names(&self) -> Vec<QueueName> {
        let mut names: Vec<_> = self.lines.iter().map(|line| line.name.clone()).collect();
        names.sort();
        names
    }

    pub(super) fn stats(&self, name: &QueueName, now: Tick) -> Option<QueueStats> {
        let line = self.lines.iter().find(|line| line.name == *name)?;
        let count =
            |wanted: &dyn Fn(Stands) -> bool| line.letters.iter().filter(|letter| wanted(letter.stands)).count() as u64;
        Some(QueueStats {
            config: line.config.clone(),
            depth: count(&|stands| match stands {
                Stands::Ready => true,
                Stands::Delayed(until) | Stands::Out(until, _) => until <= now.0,
            }),
            in_flight: count(&|stands| matches!(stands, Stands::Out(until, _) if until > now.0)),
            delayed: count(&|stands| matches!(stands, Stands::Delayed(until) if until > now.0)),
            oldest_age_ms: line.letters.iter().map(|letter| now.0.saturating_sub(letter.at)).max().unwrap_or(0),
            bytes: line.letters.iter().map(|letter| letter.new.body.len() as u64).sum(),
            ..line.stats.clone()
        })
    }

    pub(super) fn peek(&self, name: &QueueName, max: usize) -> Option<Vec<Delivery>> {
        let line = self.lines.iter().find(|line| line.name == *name)?;
        Some(line.waiting().into_iter().take(max).map(|letter| letter.shown(None, 0)).collect())
    }

    pub(super) fn outbox(&self) -> Vec<Move> {
        let mut told: Vec<_> = self.outbox.iter().filter(|outgoing| outgoing.told).collect();
        told.sort_by_key(|outgoing| outgoing.to.clone());
        told.into_iter().map(Outgoing::to_tell).collect()
    }

    /// The offsets of all messages that are neither acknowledged, nor gone with their age or queue, nor moved.
    pub(super) fn offsets(&self) -> Vec<u64> {
        let mut offsets: Vec<u64> = self.outbox.iter().map(|outgoing| outgoing.offset).collect();
        offsets.extend(self.lines.iter().flat_map(|line| &line.letters).map(|letter| letter.offset));
        offsets.sort_unstable();
        offsets
    }

    fn operation(&mut self, lease: Position, retention_s: u64, op: &Op, effects: &mut Vec<QueueEffect>) -> OpAnswer {
        let mut done = Done::default();
        let (name, answer) = match op {
            Op::Publish { queue, messages } => (queue, self.publish(&mut done, queue, messages, retention_s)),
            Op::Configure { queue, config } => (queue, self.configure(queue, config)),
            Op::Timer => {
                self.timer(effects);
                return OpAnswer::Done;
            }
            Op::Moved { offsets } => {
                self.moved(offsets, effects);
                return OpAnswer::Done;
            }
            Op::Lease { queue, .. }
            | Op::Ack { queue, .. }
            | Op::Nack { queue, .. }
            | Op::Extend { queue, .. }
            | Op::GiveBack { queue, .. }
            | Op::Purge { queue }
            | Op::Delete { queue }
            | Op::Redrive { queue, .. } => (queue, self.of_a_queue(&mut done, lease, queue, op)),
        };
        self.tell(name, done, effects);
        answer
    }

    fn tell(&self, name: &QueueName, done: Done, effects: &mut Vec<QueueEffect>) {
        effects.extend(done.moves);
        for (what, messages) in done.counts.into_iter().filter(|(_, messages)| *messages > 0) {
            effects.push(QueueEffect::Count { queue: name.clone(), what, messages });
        }
        let waits = self.lines.iter().any(|line| line.name == *name && !line.waiting().is_empty());
        if done.ready && waits {
            effects.push(QueueEffect::Ready(name.clone()));
        }
    }

    fn of_a_queue(&mut self, done: &mut Done, lease: Position, name: &QueueName, op: &Op) -> OpAnswer {
        let Some(index) = self.lines.iter().position(|line| line.name == *name) else {
            return match op {
                Op::Ack { receipts, .. } | Op::Nack { receipts, .. } | Op::Extend { receipts, .. } => {
                    OpAnswer::Receipts { done: vec![], expired: receipts.clone() }
                }
                Op::GiveBack { .. } => OpAnswer::Done,
                _ => OpAnswer::Refused(QueueRefusal::NoSuchQueue),
            };
        };
        match op {
            Op::Lease { max, visibility_ms, .. } => self.lease(done, index, lease, *max as usize, *visibility_ms),
            Op::Ack { receipts, .. } => receipts_told(receipts, |receipt| self.ack(done, index, receipt)),
            Op::Nack { receipts, delay_ms, .. } => {
                receipts_told(receipts, |receipt| self.nack(done, index, receipt, *delay_ms))
            }
            Op::Extend { receipts, visibility_ms, .. } => {
                receipts_told(receipts, |receipt| self.extend(done, index, receipt, *visibility_ms))
            }
            Op::GiveBack { receipts, .. } => {
                receipts.iter().for_each(|receipt| self.give_back(done, index, *receipt));
                OpAnswer::Done
            }
            Op::Purge { .. } => {
                let count = self.lines[index].letters.drain(..).count() as u64;
                done.counts.insert(Counted::Purged, count);
                OpAnswer::Purged(count)
            }
            Op::Delete { .. } => {
                self.lines.remove(index);
                OpAnswer::Done
            }
            Op::Redrive { to, .. } => self.redrive(done, index, to),
            _ => unreachable!("no operation of one queue that is there: {op:?}"),
        }
    }

    fn find_or_make(&mut self, name: &QueueName, config: QueueConfig) -> Option<usize> {
        if let Some(index) = self.lines.iter().position(|line| line.name == *name) {
            return Some(index);
        }
        if self.lines.len() == self.limits.queues {
            return None;
        }
        let stats = QueueStats {
            queue: name.clone(),
            config: config.clone(),
            depth: 0,
            in_flight: 0,
            delayed: 0,
            oldest_age_ms: 0,
            redelivered: 0,
            dead_lettered: 0,
            expired: 0,
            bytes: 0,
            published: 0,
            delivered: 0,
            acknowledged: 0,
        };
        let number = self.next_number;
        self.next_number += 1;
        let (letters, ids, origins) = (vec![], vec![], vec![]);
        self.lines.push(Line { name: name.clone(), number, config, letters, ids, origins, stats });
        Some(self.lines.len() - 1)
    }

    fn publish(&mut self, done: &mut Done, name: &QueueName, messages: &[NewMessage], retention_s: u64) -> OpAnswer {
        let moved = messages.iter().any(|new| new.origin.is_some());
        if !moved && self.outbox.len() >= self.limits.outbox {
            return OpAnswer::Refused(QueueRefusal::PartitionFull);
        }
        let config = match moved {
            true => QueueConfig::of_dead_letters(retention_s),
            false => QueueConfig::defaults(name, retention_s),
        };
        let Some(index) = self.find_or_make(name, config) else {
            return OpAnswer::Refused(QueueRefusal::PartitionFull);
        };
        // One after the other into a copy, which counts if all fit. What was known before the batch, and
        // what came earlier in it, is known to all of it.
        let mut line = self.lines[index].clone();
        let mut next = self.next_offset;
        let mut published: Vec<Published> = Vec::new();
        for (n, new) in messages.iter().enumerate() {
            let same = |earlier: &NewMessage| match &new.origin {
                Some(origin) => earlier.origin.as_ref() == Some(origin),
                None => earlier.origin.is_none() && earlier.id == new.id && line.config.dedup_window_s > 0,
            };
            let earlier = messages[..n].iter().position(same).map(|n| published[n].offset);
            let known = self.known(&self.lines[index], new).or(earlier);
            let offset = known.unwrap_or(next);
            published.push(Published { id: new.id.clone(), offset, duplicate: known.is_some() });
            *done.counts.entry(if known.is_some() { Counted::Duplicate } else { Counted::Published }).or_default() += 1;
            if known.is_none() {
                next += 1;
                line.stats.published += 1;
                self.take(done, &mut line, new, offset);
            }
        }
        let bytes: usize = line.letters.iter().map(|letter| letter.new.body.len()).sum();
        let over = line.config.max_messages.is_some_and(|most| line.letters.len() as u64 > most)
            || line.config.max_bytes.is_some_and(|most| bytes as u64 > most);
        if over && next > self.next_offset {
            *done = Done::default();
            return OpAnswer::Refused(QueueRefusal::QueueFull);
        }
        self.lines[index] = line;
        self.next_offset = next;
        OpAnswer::Published(published)
    }

    fn known(&self, line: &Line, new: &NewMessage) -> Option<u64> {
        let (id_window, origin_window) = line.windows_ms();
        let there = |offset: u64| line.letters.iter().any(|letter| letter.offset == offset);
        match &new.origin {
            Some(origin) => line.origins.iter().rev().find_map(|(known, offset, at, kept)| {
                let remembered = !kept && at + origin_window > self.now;
                (known == origin && (remembered || there(*offset))).then_some(*offset)
            }),
            None => line
                .ids
                .iter()
                .rev()
                .find_map(|(known, offset, at)| (*known == new.id && at + id_window > self.now).then_some(*offset)),
        }
    }

    fn take(&self, done: &mut Done, line: &mut Line, new: &NewMessage, offset: u64) {
        match &new.origin {
            Some(origin) => line.origins.push((origin.clone(), offset, self.now, false)),
            None if line.config.dedup_window_s > 0 => line.ids.push((new.id.clone(), offset, self.now)),
            None => {}
        }
        let stands = if new.delay_ms == 0 { Stands::Ready } else { Stands::Delayed(self.now + new.delay_ms) };
        done.ready |= stands == Stands::Ready;
        let new = NewMessage { priority: new.priority.min(9), ..new.clone() };
        line.letters.push(Letter { offset, new, at: self.now, deliveries: 0, stands, judged: false });
        let (id_window, origin_window) = line.windows_ms();
        let mut forgotten_early = 0;
        if line.ids.len() > self.limits.ids {
            let (_, _, at) = line.ids.remove(0);
            forgotten_early += u64::from(at + id_window > self.now);
        }
        if line.origins.iter().filter(|(.., kept)| !kept).count() > self.limits.ids {
            let (_, offset, at, kept) = line.origins.iter_mut().find(|(.., kept)| !kept).unwrap();
            let there = line.letters.iter().any(|letter| letter.offset == *offset);
            *kept = true;
            forgotten_early += u64::from(*at + origin_window > self.now && !there);
        }
        if forgotten_early > 0 {
            *done.counts.entry(Counted::ForgottenEarly).or_default() += forgotten_early;
        }
    }

    fn configure(&mut self, name: &QueueName, config: &QueueConfig) -> OpAnswer {
        let Some(index) = self.find_or_make(name, config.clone()) else {
            return OpAnswer::Refused(QueueRefusal::PartitionFull);
        };
        let line = &mut self.lines[index];
        if line.config.retention_s != config.retention_s {
            line.letters.iter_mut().for_each(|letter| letter.judged = false);
        }
        line.config = config.clone();
        line.config.dead_letter = config.dead_letter.clone().filter(|to| to != name);
        OpAnswer::Configured(line.config.clone())
    }
}

fn receipts_told(receipts: &[Receipt], mut settle: impl FnMut(Receipt) -> bool) -> OpAnswer {
    let (done, expired) = receipts.iter().partition(|receipt| settle(**receipt));
    OpAnswer::Receipts { done, expired }
}
