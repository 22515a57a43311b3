//! A replica that follows: it takes what the primary of the epoch that it knows sends, and nothing from anybody else.

use super::{Answer, Effect, Message, Position, Record, Replica, Replication, Reply, Rule, install::Incoming};
use crate::ids::Epoch;

/// Most messages that are kept aside because they came before what they follow.
const MAX_EARLY: usize = 16;
/// Most calls whose answers wait for the journal.
const MAX_WAITING: usize = 64;

/// What a replica knows as a follower.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Following {
    /// Up to here its log was compared with that of this epoch's primary, and is the same. 0: nowhere yet.
    pub(super) matched: u64,
    /// It said that only a state can mend it.
    pub(super) diverged: bool,
    /// Came before the placement, or the append, that they follow.
    early: Vec<Early>,
    /// Calls that are answered once everything up to a record is held.
    waiting: Vec<(u64, u64)>,
    /// A state that is being received.
    pub(super) incoming: Option<Incoming>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Early {
    from: Replica,
    call: u64,
    message: Message,
}

/// What became of an append.
enum Taking {
    /// The logs are the same up to its end.
    Matched,
    /// It does not fit: say this.
    Refused(Answer),
    /// The one before it is missing.
    Gap,
}

impl Replication {
    /// A peer asks.
    pub(super) fn message(&mut self, from: Replica, call: u64, message: Message, effects: &mut Vec<Effect>) {
        let epoch = message.epoch();
        if epoch > self.view.epoch {
            effects.push(Effect::PullView { epoch });
        }
        self.take(Early { from, call, message }, effects);
        self.take_early(effects);
    }

    /// What was kept aside is looked at again, as long as that leads somewhere.
    pub(super) fn take_early(&mut self, effects: &mut Vec<Effect>) {
        loop {
            let before = (self.following.matched, self.following.early.len());
            for early in std::mem::take(&mut self.following.early) {
                self.take(early, effects);
            }
            if before == (self.following.matched, self.following.early.len()) {
                break;
            }
        }
        self.answer_held(effects);
    }

    fn take(&mut self, early: Early, effects: &mut Vec<Effect>) {
        let (from, call, epoch) = (early.from, early.call, early.message.epoch());
        if epoch > self.view.epoch && self.rules.keep(Rule::NewerEpochAwaitsView) {
            return self.keep_aside(early, effects);
        }
        if self.durable.failed() {
            return self.answer(call, Answer::Busy, effects);
        }
        if !self.follows(from, epoch) {
            return self.answer(call, Answer::Stale { epoch: self.view.epoch.max(self.log.last().epoch) }, effects);
        }
        match early.message {
            Message::Install { at, offset, total, ref chunk, .. } => {
                let incoming = Incoming { from, at, total, bytes: chunk.to_vec() };
                self.take_state(call, offset, incoming, effects);
            }
            Message::Append { prev, ref records, committed, .. } => match self.take_records(prev, records, effects) {
                Taking::Matched => {
                    let end = prev.seq + records.len() as u64;
                    self.following.matched = self.following.matched.max(end);
                    self.answer_once_held(end, call, effects);
                    let compared = match self.rules.keep(Rule::CommittedWhereCompared) {
                        true => self.following.matched,
                        false => self.log.last().seq,
                    };
                    self.commit(committed.min(compared), effects);
                }
                Taking::Gap if self.following.matched > 0 => self.keep_aside(early, effects),
                Taking::Gap => self.answer(call, Answer::Mismatch { last: self.log.last() }, effects),
                Taking::Refused(answer) => {
                    self.following.diverged |= answer == Answer::Diverged;
                    self.answer(call, answer, effects);
                }
            },
        }
    }

    /// Whether this is the primary that this replica follows, in the epoch that it knows.
    fn follows(&self, from: Replica, epoch: Epoch) -> bool {
        // After a restart its own records may be of a newer epoch than the placement that it has got to know.
        let refuses_older = self.rules.keep(Rule::OwnRecordsAreNotNewer) && self.rules.keep(Rule::OlderEpochRefused);
        let is_older = epoch < self.log.last().epoch && refuses_older;
        // And while the earlier run counts, what this one holds may be all that there is of it.
        let counts_as_another = self.view.holder(&self.me.node).is_some_and(|member| member != self.me);
        let may_speak = !counts_as_another || !self.rules.keep(Rule::EarlierRunHasLeft);
        if is_older || !may_speak || !self.view.concerns(&self.me.node) {
            return false;
        }
        if self.is_primary() && epoch == self.view.epoch {
            return false;
        }
        let right = epoch == self.view.epoch && self.view.primary == Some(from);
        right
            || (epoch < self.view.epoch && !self.rules.keep(Rule::OlderEpochRefused))
            || (epoch > self.view.epoch && !self.rules.keep(Rule::NewerEpochAwaitsView))
    }

    /// Compares records with the log and takes those that are new.
    fn take_records(&mut self, prev: Position, records: &[Record], effects: &mut Vec<Effect>) -> Taking {
        let (base, last, committed) = (self.log.base(), self.log.last(), self.log.committed());
        if prev.seq > last.seq {
            return Taking::Gap;
        }
        if !is_consecutive(prev, records) {
            return Taking::Refused(Answer::Busy);
        }
        let end = prev.seq + records.len() as u64;
        if end < base.seq {
            let known = end <= self.following.matched;
            return if known { Taking::Matched } else { Taking::Refused(Answer::Diverged) };
        }
        let theirs = std::iter::once(prev).chain(records.iter().map(|record| record.position));
        let kept = theirs.filter(|position| position.seq >= base.seq && position.seq <= last.seq);
        let compare = |theirs: &Position| self.log.position(theirs.seq) != Some(*theirs);
        let differs = kept.into_iter().find(compare);
        match differs {
            None => {}
            Some(_) if !self.rules.keep(Rule::PositionsMatch) => {}
            Some(at) if at.seq <= committed && self.rules.keep(Rule::CommittedIsNeverCut) => {
                return Taking::Refused(Answer::Diverged);
            }
            Some(at) if at.seq == prev.seq => {
                let agreeable = self.log.agreeable(prev.seq.saturating_sub(1), prev.epoch);
                return Taking::Refused(agreeable.map_or(Answer::Diverged, |last| Answer::Mismatch { last }));
            }
            Some(at) => self.cut(at.seq - 1, effects),
        }
        let last = self.log.last().seq;
        let new: Vec<Record> = records.iter().filter(|record| record.position.seq > last).cloned().collect();
        self.append(new, effects);
        Taking::Matched
    }

    /// Removes what no primary will ever commit.
    fn cut(&mut self, last_seq: u64, effects: &mut Vec<Effect>) {
        self.log.cut(last_seq);
        if self.rules.keep(Rule::CutIsNotDurable) {
            self.durable.cut(last_seq);
        }
        effects.push(Effect::Truncate { last_seq });
    }

    /// Answers once everything up to a record is held.
    pub(super) fn answer_once_held(&mut self, end: u64, call: u64, effects: &mut Vec<Effect>) {
        self.following.waiting.push((end, call));
        if self.following.waiting.len() > MAX_WAITING {
            let (_, oldest) = self.following.waiting.remove(0);
            self.answer(oldest, Answer::Busy, effects);
        }
    }

    pub(super) fn answer_held(&mut self, effects: &mut Vec<Effect>) {
        if self.following.waiting.is_empty() || self.durable.failed() {
            return;
        }
        let mut upto = self.held(Rule::BackupSyncs);
        if self.rules.keep(Rule::HeldWhereCompared) {
            upto = upto.min(self.following.matched);
        }
        for (end, call) in std::mem::take(&mut self.following.waiting) {
            if end <= upto {
                self.answer(call, Answer::Held { upto }, effects);
            } else {
                self.following.waiting.push((end, call));
            }
        }
    }

    /// Nobody waits for what was asked in an earlier epoch, and what was compared in it says nothing now.
    pub(super) fn follow_anew(&mut self, effects: &mut Vec<Effect>) {
        let epoch = self.view.epoch;
        for (_, call) in std::mem::take(&mut self.following.waiting) {
            self.answer(call, Answer::Stale { epoch }, effects);
        }
        self.following.matched = 0;
        self.following.diverged = false;
    }

    fn keep_aside(&mut self, early: Early, effects: &mut Vec<Effect>) {
        self.following.early.push(early);
        if self.following.early.len() > MAX_EARLY {
            let oldest = self.following.early.remove(0);
            self.answer(oldest.call, Answer::Busy, effects);
        }
    }

    pub(super) fn answer(&self, call: u64, answer: Answer, effects: &mut Vec<Effect>) {
        effects.push(Effect::Reply { call, reply: Reply { from: self.me, answer } });
    }
}

/// Whether these follow each other, and the one before them.
fn is_consecutive(prev: Position, records: &[Record]) -> bool {
    let mut before = prev;
    records.iter().all(|record| {
        let last = std::mem::replace(&mut before, record.position);
        record.position.seq == last.seq + 1 && record.position.epoch >= last.epoch
    })
}
