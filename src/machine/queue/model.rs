//! The queues once more, in the plainest form: lists that are searched from end to end.
//!
//! The machine is held against it in `properties`. It shares no code with the machine but the vocabulary
//! and the defaults of configurations; what waits, what is due and what is remembered is found by looking
//! at everything.

use super::{step::Limits, types::*, *};
use crate::ids::MessageId;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Stands {
    Ready,
    Delayed(u64),
    Out(u64, Position),
}

#[derive(Clone, Debug)]
struct Letter {
    offset: u64,
    new: NewMessage,
    at: u64,
    deliveries: u32,
    stands: Stands,
    /// A timer has found it too old while it was delivered.
    judged: bool,
}

#[derive(Clone, Debug)]
struct Line {
    name: QueueName,
    number: u64,
    config: QueueConfig,
    letters: Vec<Letter>,
    /// What was taken lately: the id, the offset, the time.
    ids: Vec<(MessageId, u64, u64)>,
    /// What was moved here: the origin, the offset, the time, and whether it is remembered only because
    /// the message is there.
    origins: Vec<(Origin, u64, u64, bool)>,
    stats: QueueStats,
}

#[derive(Clone, Debug)]
struct Outgoing {
    from: QueueName,
    to: QueueName,
    offset: u64,
    message: NewMessage,
    told: bool,
}

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

impl Letter {
    fn origin_queue(&self) -> Option<&QueueName> {
        self.new.origin.as_ref().map(|origin| &origin.queue)
    }

    fn shown(&self, receipt: Option<Receipt>, visible_at: u64) -> Delivery {
        Delivery {
            id: self.new.id.clone(),
            offset: self.offset,
            receipt,
            body: self.new.body.clone(),
            content_type: self.new.content_type.clone(),
            attributes: self.new.attributes.clone(),
            priority: self.new.priority,
            deliveries: self.deliveries,
            enqueued_at: Tick(self.at),
            visible_at: Tick(visible_at),
        }
    }
}

impl Line {
    fn too_old_at(&self, letter: &Letter) -> u64 {
        let at = letter.at + self.config.retention_s * 1_000;
        at.div_ceil(1_000) * 1_000
    }

    fn windows_ms(&self) -> (u64, u64) {
        (self.config.dedup_window_s * 1_000, self.config.dedup_window_s.max(ORIGIN_WINDOW_S) * 1_000)
    }

    /// The messages in the order in which they would be delivered.
    fn waiting(&self) -> Vec<&Letter> {
        let mut waiting: Vec<_> = self.letters.iter().filter(|letter| letter.stands == Stands::Ready).collect();
        waiting.sort_by_key(|letter| (9 - letter.new.priority, letter.offset));
        waiting
    }

    fn deadline(&self) -> Option<u64> {
        let ends = self.letters.iter().filter_map(|letter| match letter.stands {
            Stands::Ready => None,
            Stands::Delayed(until) | Stands::Out(until, _) => Some(until),
        });
        let ages = self.letters.iter().filter(|letter| !letter.judged).map(|letter| self.too_old_at(letter));
        let (ids, origins) = self.windows_ms();
        let ids = self.ids.iter().map(|(_, _, at)| at + ids + FORGET_SLACK_MS);
        let origins =
            self.origins.iter().filter(|(.., kept)| !kept).map(|(_, _, at, _)| at + origins + FORGET_SLACK_MS);
        ends.chain(ages).chain(ids).chain(origins).min()
    }

    fn exhausted(&self, letter: &Letter) -> bool {
        let most = self.config.max_deliveries.map(|most| most.max(1));
        self.config.dead_letter.is_some() && most.is_some_and(|most| letter.deliveries >= most)
    }

    fn find(&self, receipt: Receipt) -> Option<usize> {
        self.letters.iter().position(
            |letter| matches!(letter.stands, Stands::Out(_, lease) if receipt == Receipt { offset: letter.offset, lease }),
        )
    }
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

    fn lease(
        &mut self,
        done: &mut Done,
        index: usize,
        lease: Position,
        max: usize,
        visibility_ms: Option<u64>,
    ) -> OpAnswer {
        self.what_is_due(done, index);
        // What an earlier configuration would have delivered once more, as far as it comes up.
        let mut deliveries = Vec::new();
        let mut bytes = 0;
        let until = self.now + visibility_ms.unwrap_or(self.lines[index].config.visibility_ms);
        while deliveries.len() < max.min(self.limits.leased) && bytes < self.limits.leased_bytes {
            let line = &mut self.lines[index];
            let Some(offset) = line.waiting().first().map(|letter| letter.offset) else { break };
            let at = line.letters.iter().position(|letter| letter.offset == offset).unwrap();
            if line.exhausted(&line.letters[at]) {
                self.dead_letter(done, index, at, "max-deliveries");
                continue;
            }
            let letter = &mut line.letters[at];
            letter.deliveries += 1;
            letter.stands = Stands::Out(until, lease);
            bytes += letter.new.body.len();
            let delivery = letter.shown(Some(Receipt { offset, lease }), until);
            line.stats.delivered += 1;
            *done.counts.entry(Counted::Delivered).or_default() += 1;
            if delivery.deliveries > 1 {
                line.stats.redelivered += 1;
                *done.counts.entry(Counted::Redelivered).or_default() += 1;
            }
            deliveries.push(delivery);
        }
        if until == self.now {
            deliveries.iter().for_each(|delivery| self.time_out(done, index, delivery.offset));
        }
        OpAnswer::Leased(deliveries)
    }

    fn ack(&mut self, done: &mut Done, index: usize, receipt: Receipt) -> bool {
        let line = &mut self.lines[index];
        let Some(at) = line.find(receipt) else {
            let recent = self.acks.iter().rev().take(self.limits.acks);
            return recent.into_iter().any(|acked| *acked == (receipt, line.number));
        };
        line.letters.remove(at);
        line.stats.acknowledged += 1;
        *done.counts.entry(Counted::Acknowledged).or_default() += 1;
        self.acks.push((receipt, line.number));
        true
    }

    fn nack(&mut self, done: &mut Done, index: usize, receipt: Receipt, delay_ms: Option<u64>) -> bool {
        let line = &self.lines[index];
        let Some(at) = line.find(receipt) else { return false };
        let mut back_off = 1_000;
        for _ in 1..line.letters[at].deliveries {
            back_off = (back_off * 2).min(300_000);
        }
        *done.counts.entry(Counted::Returned).or_default() += 1;
        self.put_back(done, index, at, self.now + delay_ms.unwrap_or(back_off));
        true
    }

    fn extend(&mut self, done: &mut Done, index: usize, receipt: Receipt, visibility_ms: Option<u64>) -> bool {
        let line = &mut self.lines[index];
        let Some(at) = line.find(receipt) else { return false };
        match visibility_ms.unwrap_or(line.config.visibility_ms) {
            0 => self.time_out(done, index, receipt.offset),
            ms => line.letters[at].stands = Stands::Out(self.now + ms, receipt.lease),
        }
        true
    }

    fn give_back(&mut self, done: &mut Done, index: usize, receipt: Receipt) {
        let line = &mut self.lines[index];
        let Some(at) = line.find(receipt) else { return };
        line.stats.delivered -= 1;
        if line.letters[at].deliveries > 1 {
            line.stats.redelivered -= 1;
        }
        line.letters[at].deliveries -= 1;
        self.put_back(done, index, at, self.now);
    }

    fn time_out(&mut self, done: &mut Done, index: usize, offset: u64) {
        let at = self.lines[index].letters.iter().position(|letter| letter.offset == offset).unwrap();
        *done.counts.entry(Counted::TimedOut).or_default() += 1;
        self.put_back(done, index, at, self.now);
    }

    fn put_back(&mut self, done: &mut Done, index: usize, at: usize, from: u64) {
        let line = &mut self.lines[index];
        if line.too_old_at(&line.letters[at]) <= self.now {
            self.expire(done, index, at);
        } else if line.exhausted(&line.letters[at]) {
            self.dead_letter(done, index, at, "max-deliveries");
        } else if from <= self.now {
            line.letters[at].stands = Stands::Ready;
            done.ready = true;
        } else {
            line.letters[at].stands = Stands::Delayed(from);
        }
    }

    fn expire(&mut self, done: &mut Done, index: usize, at: usize) {
        let line = &mut self.lines[index];
        if line.config.on_expiry == OnExpiry::DeadLetter && line.config.dead_letter.is_some() {
            return self.dead_letter(done, index, at, "expired");
        }
        line.letters.remove(at);
        line.stats.expired += 1;
        *done.counts.entry(Counted::Expired).or_default() += 1;
    }

    fn dead_letter(&mut self, done: &mut Done, index: usize, at: usize, why: &str) {
        let line = &mut self.lines[index];
        let mut letter = line.letters.remove(at);
        let (from, to) = (line.name.clone(), line.config.dead_letter.clone().unwrap());
        line.stats.dead_lettered += 1;
        *done.counts.entry(Counted::DeadLettered).or_default() += 1;
        letter.new.attributes.insert("x-dead-letter-queue".into(), from.to_string());
        letter.new.attributes.insert("x-dead-letter-reason".into(), why.into());
        self.send(done, from, to, letter);
    }

    fn send(&mut self, done: &mut Done, from: QueueName, to: QueueName, letter: Letter) {
        let under_way = self.outbox.iter().filter(|outgoing| outgoing.to == to && outgoing.told).count();
        let origin = Origin { partition: self.partition, queue: from.clone(), offset: letter.offset };
        let message = NewMessage { delay_ms: 0, origin: Some(origin), ..letter.new };
        let told = under_way < self.limits.moves_per_destination;
        let outgoing = Outgoing { from, to, offset: letter.offset, message, told };
        done.moves.extend(told.then(|| QueueEffect::Move(outgoing.to_tell())));
        self.outbox.push(outgoing);
    }

    fn redrive(&mut self, done: &mut Done, index: usize, to: &QueueName) -> OpAnswer {
        if self.outbox.len() >= self.limits.outbox {
            return OpAnswer::Refused(QueueRefusal::PartitionFull);
        }
        let mut count = 0;
        let from = self.lines[index].name.clone();
        for mut letter in std::mem::take(&mut self.lines[index].letters) {
            let marked = letter.new.attributes.get("x-dead-letter-queue").is_some_and(|queue| *queue == to.to_string());
            let goes = letter.origin_queue() == Some(to) && marked && !matches!(letter.stands, Stands::Out(..));
            if !goes || self.outbox.len() == self.limits.outbox {
                self.lines[index].letters.push(letter);
                continue;
            }
            letter.new.attributes.retain(|name, _| !name.starts_with("x-dead-letter-"));
            self.send(done, from.clone(), to.clone(), letter);
            count += 1;
        }
        OpAnswer::Redriven(count)
    }

    fn moved(&mut self, offsets: &[u64], effects: &mut Vec<QueueEffect>) {
        for offset in offsets {
            let Some(at) = self.outbox.iter().position(|outgoing| outgoing.offset == *offset) else { continue };
            let Outgoing { from, to, told, .. } = self.outbox.remove(at);
            effects.push(QueueEffect::Count { queue: from, what: Counted::Moved, messages: 1 });
            let next = self.outbox.iter_mut().find(|outgoing| told && outgoing.to == to && !outgoing.told);
            if let Some(next) = next {
                next.told = true;
                effects.push(QueueEffect::Move(next.to_tell()));
            }
        }
    }

    fn timer(&mut self, effects: &mut Vec<QueueEffect>) {
        let due = |line: &Line| line.deadline().filter(|at| *at <= self.now).map(|at| (at, line.name.clone()));
        let mut due: Vec<_> = self.lines.iter().filter_map(due).collect();
        due.sort();
        for (_, name) in due {
            let mut done = Done::default();
            let index = self.lines.iter().position(|line| line.name == name).unwrap();
            self.what_is_due(&mut done, index);
            self.tell(&name, done, effects);
        }
    }

    fn what_is_due(&mut self, done: &mut Done, index: usize) {
        let now = self.now;
        let ended = |wanted: &dyn Fn(Stands) -> Option<u64>, line: &Line| {
            let mut ended: Vec<(u64, u64)> = line
                .letters
                .iter()
                .filter_map(|letter| Some((wanted(letter.stands)?, letter.offset)))
                .filter(|(until, _)| *until <= now)
                .collect();
            ended.sort_unstable();
            ended
        };
        let out = |stands| if let Stands::Out(until, _) = stands { Some(until) } else { None };
        for (_, offset) in ended(&out, &self.lines[index]) {
            self.time_out(done, index, offset);
        }
        let delayed = |stands| if let Stands::Delayed(until) = stands { Some(until) } else { None };
        for (_, offset) in ended(&delayed, &self.lines[index]) {
            let letter = self.lines[index].letters.iter_mut().find(|letter| letter.offset == offset).unwrap();
            letter.stands = Stands::Ready;
            done.ready = true;
        }
        let mut at = 0;
        while at < self.lines[index].letters.len() {
            let line = &mut self.lines[index];
            let too_old = line.too_old_at(&line.letters[at]) <= now;
            if too_old && matches!(line.letters[at].stands, Stands::Out(..)) {
                line.letters[at].judged = true;
            } else if too_old {
                self.expire(done, index, at);
                continue;
            }
            at += 1;
        }
        let line = &mut self.lines[index];
        let (ids, origins) = line.windows_ms();
        line.ids.retain(|(_, _, at)| at + ids > now);
        for (_, _, at, kept) in &mut line.origins {
            *kept |= *at + origins <= now;
        }
    }
}

impl Outgoing {
    fn to_tell(&self) -> Move {
        Move { offset: self.offset, to: self.to.clone(), message: self.message.clone() }
    }
}

fn receipts_told(receipts: &[Receipt], mut settle: impl FnMut(Receipt) -> bool) -> OpAnswer {
    let (done, expired) = receipts.iter().partition(|receipt| settle(**receipt));
    OpAnswer::Receipts { done, expired }
}
