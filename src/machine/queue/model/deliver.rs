//! What becomes of the messages of the plain model: delivered, settled, moved, and found due by a timer.

use super::*;

impl Model {
    pub(super) fn lease(
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

    pub(super) fn ack(&mut self, done: &mut Done, index: usize, receipt: Receipt) -> bool {
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

    pub(super) fn nack(&mut self, done: &mut Done, index: usize, receipt: Receipt, delay_ms: Option<u64>) -> bool {
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

    pub(super) fn extend(
        &mut self,
        done: &mut Done,
        index: usize,
        receipt: Receipt,
        visibility_ms: Option<u64>,
    ) -> bool {
        let line = &mut self.lines[index];
        let Some(at) = line.find(receipt) else { return false };
        match visibility_ms.unwrap_or(line.config.visibility_ms) {
            0 => self.time_out(done, index, receipt.offset),
            ms => line.letters[at].stands = Stands::Out(self.now + ms, receipt.lease),
        }
        true
    }

    pub(super) fn give_back(&mut self, done: &mut Done, index: usize, receipt: Receipt) {
        let line = &mut self.lines[index];
        let Some(at) = line.find(receipt) else { return };
        line.stats.delivered -= 1;
        if line.letters[at].deliveries > 1 {
            line.stats.redelivered -= 1;
        }
        line.letters[at].deliveries -= 1;
        self.put_back(done, index, at, self.now);
    }

    pub(super) fn time_out(&mut self, done: &mut Done, index: usize, offset: u64) {
        let at = self.lines[index].letters.iter().position(|letter| letter.offset == offset).unwrap();
        *done.counts.entry(Counted::TimedOut).or_default() += 1;
        self.put_back(done, index, at, self.now);
    }

    pub(super) fn put_back(&mut self, done: &mut Done, index: usize, at: usize, from: u64) {
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

    pub(super) fn expire(&mut self, done: &mut Done, index: usize, at: usize) {
        let line = &mut self.lines[index];
        if line.config.on_expiry == OnExpiry::DeadLetter && line.config.dead_letter.is_some() {
            return self.dead_letter(done, index, at, "expired");
        }
        line.letters.remove(at);
        line.stats.expired += 1;
        *done.counts.entry(Counted::Expired).or_default() += 1;
    }

    pub(super) fn dead_letter(&mut self, done: &mut Done, index: usize, at: usize, why: &str) {
        let line = &mut self.lines[index];
        let mut letter = line.letters.remove(at);
        let (from, to) = (line.name.clone(), line.config.dead_letter.clone().unwrap());
        line.stats.dead_lettered += 1;
        *done.counts.entry(Counted::DeadLettered).or_default() += 1;
        letter.new.attributes.insert("x-dead-letter-queue".into(), from.to_string());
        letter.new.attributes.insert("x-dead-letter-reason".into(), why.into());
        self.send(done, from, to, letter);
    }

    pub(super) fn send(&mut self, done: &mut Done, from: QueueName, to: QueueName, letter: Letter) {
        let under_way = self.outbox.iter().filter(|outgoing| outgoing.to == to && outgoing.told).count();
        let origin = Origin { partition: self.partition, queue: from.clone(), offset: letter.offset };
        let message = NewMessage { delay_ms: 0, origin: Some(origin), ..letter.new };
        let told = under_way < self.limits.moves_per_destination;
        let outgoing = Outgoing { from, to, offset: letter.offset, message, told };
        done.moves.extend(told.then(|| QueueEffect::Move(outgoing.to_tell())));
        self.outbox.push(outgoing);
    }

    pub(super) fn redrive(&mut self, done: &mut Done, index: usize, to: &QueueName) -> OpAnswer {
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

    pub(super) fn moved(&mut self, offsets: &[u64], effects: &mut Vec<QueueEffect>) {
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

    pub(super) fn timer(&mut self, effects: &mut Vec<QueueEffect>) {
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

    pub(super) fn what_is_due(&mut self, done: &mut Done, index: usize) {
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
