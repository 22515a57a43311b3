//! A primary: it takes proposals into the log, and sends the log to those that follow.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::{
    Answer, Durability, Effect, Message, Position, Record, Refusal, Replica, Replication, Reply, Rule,
    changes::Joiner,
    follower::{Flight, Follower, Mode},
    install::Transfer,
};
use crate::ids::{NodeId, Tick};

/// From the epoch in which a replica became the primary, through directly following epochs with it, to the end of that.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Reign {
    /// The number of its first record.
    pub(super) first: u64,
    pub(super) serving: bool,
    pub(super) followers: BTreeMap<NodeId, Follower>,
    /// Record number and proposal of what was taken and is not committed.
    pub(super) proposals: VecDeque<(u64, u64)>,
    /// A learner that commits wait for.
    pub(super) joiner: Option<Joiner>,
    /// The state on its way to a learner: one at a time, for it is in memory as a whole.
    pub(super) transfer: Option<Transfer>,
}

impl Reign {
    pub(super) fn serving(&self) -> bool {
        self.serving
    }

    /// What a learner will have once it has the state, or less.
    pub(super) fn pinned(&self) -> Option<u64> {
        self.transfer.as_ref().map(Transfer::at)
    }
}

impl Replication {
    /// This replica became the primary: it keeps all of its log, and adds a first record of its own.
    pub(super) fn begin_reign(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        let (last, epoch) = (self.log.last(), self.view.epoch);
        let first = Position { epoch, seq: last.seq + 1 };
        assert!(epoch > last.epoch, "no record is older than the reign that made it");
        let followers = self.view.others(&self.me.node).into_iter();
        self.reign = Some(Reign {
            first: first.seq,
            serving: !self.rules.keep(Rule::FirstRecordBeforeServing),
            followers: followers.map(|node| (node, Follower::new(now, self.view.holder(&node), first.seq))).collect(),
            proposals: VecDeque::new(),
            joiner: None,
            transfer: None,
        });
        if !self.rules.keep(Rule::FirstRecordBeforeServing) {
            effects.push(Effect::Serving);
        }
        self.append(vec![Record { position: first, durability: Durability::Synced, body: Bytes::new() }], effects);
    }

    /// The directly following epoch has this primary, too: what is known of those that follow stays known.
    pub(super) fn renew_reign(&mut self, now: Tick) {
        let nodes = self.view.others(&self.me.node);
        let (view, log) = (&self.view, &self.log);
        let Some(reign) = &mut self.reign else { return };
        reign.joiner = None;
        reign.followers.retain(|node, _| nodes.contains(node));
        for node in nodes {
            let named = view.holder(&node);
            let afresh = || Follower::new(now, named, log.last().seq + 1);
            let follower = reign.followers.entry(node).or_insert_with(afresh);
            if named.is_some() && follower.replica != named {
                *follower = afresh();
            }
            follower.begin_again();
            follower.progress = now;
            follower.pause = None;
        }
        let followers = &reign.followers;
        reign.transfer = reign
            .transfer
            .take()
            .filter(|transfer| followers.get(&transfer.to()).is_some_and(|follower| follower.mode == Mode::Install));
    }

    /// This replica serves no longer. What was taken may still be committed, by whoever follows.
    pub(super) fn end_reign(&mut self, effects: &mut Vec<Effect>) {
        let Some(reign) = self.reign.take() else { return };
        let refused = reign.proposals.iter().map(|(_, id)| Effect::Refused { id: *id, why: Refusal::Deposed });
        effects.extend(refused);
        if reign.serving {
            effects.push(Effect::Stopped);
        }
    }

    pub(super) fn propose(
        &mut self,
        now: Tick,
        id: u64,
        durability: Durability,
        body: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        let epoch = self.view.epoch;
        let (records, bytes) = self.log.uncommitted();
        let full = records >= self.settings.max_uncommitted_records || bytes >= self.settings.max_uncommitted_bytes;
        let why = match &mut self.reign {
            None => Refusal::NotPrimary { epoch },
            Some(reign) if !reign.serving => Refusal::NotServing,
            Some(_) if full => Refusal::Busy,
            Some(reign) => {
                let last = self.log.last();
                let position = Position { epoch, seq: last.seq + 1 };
                reign.proposals.push_back((position.seq, id));
                for follower in reign.followers.values_mut().filter(|follower| follower.held >= last.seq) {
                    follower.progress = now;
                }
                effects.push(Effect::Taken { id, position });
                self.append(vec![Record { position, durability, body }], effects);
                return;
            }
        };
        effects.push(Effect::Refused { id, why });
    }

    /// What a follower answered, or that it did not.
    pub(super) fn reply(&mut self, now: Tick, to: NodeId, call: u64, reply: Option<Reply>, effects: &mut Vec<Effect>) {
        let keeps_names = self.rules.keep(Rule::AnswerAsNamed);
        let counted: BTreeSet<Replica> = self.counted().into_iter().collect();
        let Some(reign) = &mut self.reign else { return };
        let Some(follower) = reign.followers.get_mut(&to) else { return };
        let Some(flight) = follower.flights.remove(&call) else { return };
        let Some(Reply { from, answer }) = reply else {
            follower.begin_again();
            follower.pause(now, &self.settings);
            return;
        };
        if from.node != to {
            return;
        }
        if follower.replica != Some(from) && keeps_names {
            let is_counted = follower.replica.is_some_and(|replica| counted.contains(&replica));
            let is_newer = follower.replica.is_none_or(|replica| replica.incarnation < from.incarnation);
            if is_counted || !is_newer {
                // Who is counted is somebody else, and will never answer again: that shows by its silence.
                follower.pause(now, &self.settings);
                return;
            }
            let next = follower.next;
            *follower = Follower::new(now, Some(from), next);
        }
        self.answered(now, to, flight, answer, effects);
    }

    fn answered(&mut self, now: Tick, to: NodeId, flight: Flight, answer: Answer, effects: &mut Vec<Effect>) {
        let is_member = self.counted().iter().any(|replica| replica.node == to);
        let may_install = !is_member || !self.rules.keep(Rule::MembersTakeNoState);
        let Some(reign) = &mut self.reign else { return };
        let Some(follower) = reign.followers.get_mut(&to) else { return };
        match answer {
            // It can hold no more than was sent to it; if it says so, it is not to be counted on.
            Answer::Held { upto } if upto > self.log.last().seq => follower.pause(now, &self.settings),
            Answer::Held { upto } => {
                follower.holds(now, flight, upto);
                if follower.mode != Mode::Install && reign.transfer.as_ref().is_some_and(|t| t.to() == to) {
                    reign.transfer = None;
                }
            }
            Answer::Mismatch { last } => follower.differs(now, &self.settings, &self.log, last),
            Answer::Diverged if may_install => {
                follower.flights.clear();
                follower.mode = Mode::Install;
            }
            Answer::Received { upto } => {
                if let Some(transfer) = reign.transfer.as_mut().filter(|transfer| transfer.to() == to) {
                    transfer.received(upto);
                    follower.failures = 0;
                }
            }
            Answer::Diverged | Answer::Busy | Answer::Stale { .. } => {
                follower.begin_again();
                follower.pause(now, &self.settings);
            }
        }
        // Who is counted holds all that is committed; the log is kept from there on. Otherwise it does not answer.
        if !may_install && follower.mode == Mode::Install {
            follower.mode = Mode::Probe;
            follower.next = self.log.last().seq + 1;
            follower.pause(now, &self.settings);
        }
        match answer {
            Answer::Stale { epoch } if epoch > self.view.epoch => effects.push(Effect::PullView { epoch }),
            _ => {}
        }
    }

    /// Sends to each follower what it can take now.
    pub(super) fn send(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        let nodes: Vec<NodeId> = self.reign.iter().flat_map(|reign| reign.followers.keys().copied()).collect();
        for node in nodes {
            self.send_to(now, node, effects);
        }
    }

    fn send_to(&mut self, now: Tick, to: NodeId, effects: &mut Vec<Effect>) {
        let settings = self.settings;
        let Some(follower) = self.reign.as_mut().and_then(|reign| reign.followers.get_mut(&to)) else { return };
        if follower.lost_at(&settings).is_some_and(|lost| lost <= now) {
            follower.begin_again();
            follower.failures = follower.failures.saturating_add(1);
        }
        if follower.pause.is_some_and(|until| now < until) {
            return;
        }
        follower.pause = None;
        match follower.mode {
            Mode::Install => self.send_state(now, to, effects),
            Mode::Probe if !follower.flights.is_empty() => {}
            Mode::Probe => self.send_append(now, to, effects),
            Mode::Stream => {
                while self.wants_append(now, &to) {
                    self.send_append(now, to, effects);
                }
            }
        }
    }

    fn wants_append(&self, now: Tick, to: &NodeId) -> bool {
        let Some(follower) = self.reign.as_ref().and_then(|reign| reign.followers.get(to)) else { return false };
        if follower.next <= self.log.last().seq {
            return follower.mode == Mode::Stream && follower.flights.len() < self.settings.pipeline.max(1);
        }
        follower.flights.is_empty() && self.news_due(follower).is_some_and(|due| due <= now)
    }

    /// When a follower is to be told of commits by a message of its own.
    fn news_due(&self, follower: &Follower) -> Option<Tick> {
        let knows_all = follower.told >= self.log.committed();
        (!knows_all && follower.mode == Mode::Stream).then(|| follower.sent.plus_ms(self.settings.retry_ms))
    }

    fn send_append(&mut self, now: Tick, to: NodeId, effects: &mut Vec<Effect>) {
        let (epoch, committed, settings) = (self.view.epoch, self.log.committed(), self.settings);
        let call = self.calls + 1;
        let Some(follower) = self.reign.as_mut().and_then(|reign| reign.followers.get_mut(&to)) else { return };
        let Some(prev) = self.log.position(follower.next - 1) else {
            // What it lacks is not kept any more.
            follower.mode = Mode::Install;
            follower.flights.clear();
            return;
        };
        // Who does not answer is asked, not supplied.
        let max_records = if follower.failures == 0 { settings.max_batch_records } else { 1 };
        let records = self.log.after_seq(prev.seq, max_records, settings.max_batch_bytes);
        let end = prev.seq + records.len() as u64;
        follower.flights.insert(call, Flight { sent: now, end, committed });
        follower.sent = now;
        if follower.mode == Mode::Stream {
            follower.next = end + 1;
        }
        self.calls = call;
        effects.push(Effect::Send { to, call, message: Message::Append { epoch, prev, records, committed } });
    }

    /// When something is due if nothing happens before.
    pub(super) fn reign_deadline(&self) -> Option<Tick> {
        let reign = self.reign.as_ref()?;
        let due = |follower: &Follower| {
            let send = match follower.pause {
                Some(until) => Some(until),
                None => follower.lost_at(&self.settings).or_else(|| self.news_due(follower)),
            };
            send.into_iter().chain(self.overdue_at(follower)).min()
        };
        reign.followers.values().filter_map(due).chain(self.grow_due()).min()
    }
}
