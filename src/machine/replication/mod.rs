//! Primary-backup replication of one partition's log, with epochs and an in-sync set: a pure state machine.
//!
//! Owned by the task of the partition on each node that is to keep it. It orders the operations while its replica is
//! the primary, follows the primary otherwise, and says what is committed: on every replica the same records in the
//! same order. It knows nothing of queues, and reads no clock.
//!
//! # The protocol
//!
//! As PacificA (Lin et al., "PacificA: Replication in Log-Based Distributed Storage Systems", 2008) and Kafka: the
//! control plane names, for each epoch, a primary and the in-sync set; committed is what every member of the set
//! holds. Logs are compared as Raft compares them (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section
//! 3.5): an append names the position before it, and a suffix that differs is cut.
//!
//! * Held is a record that must be synced once it is journalled ([`journalled`]), another one once it is in memory, and
//!   never before the one before it. So an answer to an append, which says up to where everything is held, waits for
//!   the journal exactly where something before it must be synced.
//! * A primary counts who is in the set of the newest placement that it knows, and whom it proposed to grow the set
//!   by ([`commit`], [`changes`]). Whom it proposed to shrink the set by counts until that is known to be done.
//! * A replica follows one primary in one epoch ([`backup`]): it refuses older ones, and keeps what names a newer one
//!   aside until it knows that placement.
//! * A primary of a new *reign* (anything but the directly following epoch with the same primary) begins with a record
//!   of its own, which says nothing, and serves once that is committed. Nothing that was learned of followers in an
//!   earlier reign counts.
//! * Who restarts is somebody else. It follows as a learner: it is filled up by records or, where those are no longer
//!   kept, by the state ([`install`]), and grows the set again.

mod backup;
mod changes;
mod commit;
mod follower;
mod install;
mod interface;
mod journalled;
mod log;
mod messages;
#[cfg(test)]
mod model;
mod placed;
mod primary;
mod rules;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod tests;
mod types;
mod view;
#[cfg(test)]
mod world;

use self::{
    backup::Following,
    changes::Asked,
    journalled::Durable,
    log::Log,
    primary::Reign,
    rules::{Rule, Rules},
    view::View,
};
pub use self::{interface::*, messages::*, types::*};
use crate::ids::{Epoch, PartitionId, Tick};

/// One replica of one partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replication {
    me: Replica,
    partition: PartitionId,
    settings: Settings,
    verified: bool,
    view: View,
    log: Log,
    durable: Durable,
    following: Following,
    /// While this replica is the primary, and can journal.
    reign: Option<Reign>,
    /// What the control plane was asked and has not answered for good.
    asked: Option<Asked>,
    /// How often it was asked for something.
    asks: u64,
    /// In this epoch its report was taken.
    reported: bool,
    /// How many calls were made.
    calls: u64,
    rules: Rules,
}

impl Replication {
    /// A replica with what its journal held. It does nothing before the first [`Input::Placed`].
    ///
    /// One machine for a partition in one run of a node: a second one could hold less than the first has answered
    /// for, under the same name. (After the partition was given away and its journal removed, another one is fine.)
    pub fn new(me: Replica, partition: PartitionId, settings: Settings, recovered: Recovered) -> Self {
        let log = Log::new(recovered.checkpoint, recovered.records);
        Self {
            me,
            partition,
            settings,
            verified: recovered.verified,
            view: View::default(),
            durable: Durable::new(log.last().seq),
            log,
            following: Following::default(),
            reign: None,
            asked: None,
            asks: 0,
            reported: false,
            calls: 0,
            rules: Rules::default(),
        }
    }

    /// Takes one input; what is to be done is appended to `effects`, to be done in that order.
    pub fn step(&mut self, now: Tick, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Placed(partition) => self.placed(now, &partition, effects),
            Input::Propose { id, durability, body } => self.propose(now, id, durability, body, effects),
            Input::Message { from, call, message } => self.message(from, call, message, effects),
            Input::Reply { to, call, reply } => self.reply(now, to, call, reply, effects),
            Input::Journalled { batch } => self.journalled(batch, effects),
            Input::JournalFailed => self.journal_failed(effects),
            Input::Changed { ask, outcome } => self.changed(now, ask, outcome, effects),
            Input::State { to, at, state } => self.state_taken(to, at, state),
            Input::Tick => {}
        }
        self.go_on(now, effects);
    }

    /// Whatever follows from what is known by now, and from the time.
    fn go_on(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        self.ask_again(now, effects);
        self.report(effects);
        if self.reign.is_some() {
            self.advance(effects);
            self.change_in_sync(now, effects);
            self.send(now, effects);
        }
        let pinned = self.reign.as_ref().and_then(Reign::pinned);
        self.trim(pinned);
    }

    /// When [`Input::Tick`] is due, on the clock of [`Replication::step`].
    pub fn deadline(&self) -> Option<Tick> {
        let ask = self.asked.as_ref().and_then(Asked::again_at);
        ask.into_iter().chain(self.reign_deadline()).min()
    }

    /// Who this is.
    pub fn me(&self) -> Replica {
        self.me
    }

    /// What it is for its partition.
    pub fn role(&self) -> RoleView {
        match self.view.primary {
            Some(_) if self.is_primary() => {
                RoleView::Primary { serving: self.reign.as_ref().is_some_and(Reign::serving) }
            }
            Some(_) if self.view.in_sync.contains(&self.me) => RoleView::Backup,
            Some(_) if self.view.replicas.contains(&self.me.node) => RoleView::Learner,
            None if self.view.concerns(&self.me.node) => RoleView::Waiting,
            _ => RoleView::None,
        }
    }

    /// The newest epoch that it knows.
    pub fn epoch(&self) -> Epoch {
        self.view.epoch
    }

    /// The primary of that epoch.
    pub fn primary(&self) -> Option<Replica> {
        self.view.primary
    }

    /// The last record that is known to be committed, and so was applied.
    pub fn committed(&self) -> Position {
        self.log.position(self.log.committed()).expect("the last committed record is kept, or is the base")
    }

    /// The last record.
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// Whether a publish is as safe as `QUEUE_MIN_IN_SYNC` asks: ask before it is proposed, and again before its
    /// commit is told as a success (a copy may have been lost in between).
    pub fn enough_copies(&self) -> bool {
        self.view.in_sync.len() >= self.settings.min_in_sync
    }

    fn is_primary(&self) -> bool {
        match self.view.primary {
            Some(primary) if self.rules.keep(Rule::ServeAsNamed) => primary == self.me,
            Some(primary) => primary.node == self.me.node,
            None => false,
        }
    }

    /// Up to where this replica holds everything.
    fn held(&self, syncs: Rule) -> u64 {
        if self.rules.keep(syncs) { self.log.held() } else { self.log.last().seq }
    }

    /// Adds records to the log and to the journal.
    fn append(&mut self, records: Vec<Record>, effects: &mut Vec<Effect>) {
        let Some(last) = records.last() else { return };
        let last_seq = last.position.seq;
        let must_sync = records.iter().any(|record| record.durability == Durability::Synced);
        for record in &records {
            self.log.push(record.clone());
        }
        effects.push(if must_sync {
            Effect::Journal { batch: self.durable.begin(last_seq), records }
        } else {
            Effect::JournalLazily { records }
        });
    }

    fn journalled(&mut self, batch: u64, effects: &mut Vec<Effect>) {
        self.durable.complete(batch);
        self.log.synced(self.durable.seq());
        self.answer_held(effects);
    }

    fn trim(&mut self, pinned: Option<u64>) {
        let Settings { keep_records, keep_bytes, .. } = self.settings;
        // A transfer of the state is worth some memory: what comes after it should still be there at its end.
        let factor = match pinned {
            Some(at) if at >= self.log.base().seq => install::PINNED_FACTOR,
            _ => 1,
        };
        self.log.trim(keep_records.saturating_mul(factor), keep_bytes.saturating_mul(factor));
    }
}

#[cfg(test)]
impl Replication {
    /// So much time has passed, and is forgotten: worlds that differ in nothing but the time are the same to a model
    /// checker.
    fn rewind(&mut self, ms: u64, now: Tick) {
        let back = |tick: &mut Tick| *tick = Tick(tick.0.saturating_sub(ms).max(now.0));
        if let Some(reign) = &mut self.reign {
            reign.followers.values_mut().for_each(|follower| follower.rewind(back));
            reign.joiner.iter_mut().for_each(|joiner| joiner.rewind(back));
        }
        self.asked.iter_mut().for_each(|asked| asked.rewind(back));
    }

    /// Whether the answer to this call says anything.
    fn awaits(&self, node: &crate::ids::NodeId, call: u64) -> bool {
        let follower = self.reign.as_ref().and_then(|reign| reign.followers.get(node));
        follower.is_some_and(|follower| follower.flights.contains_key(&call))
    }

    /// Whether the outcome of this request says anything.
    fn asks_for(&self, ask: u64) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.ask() == ask)
    }
}
