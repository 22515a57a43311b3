//! Carries out what the replication wants.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    Done, PartitionTask,
    batches::{Taken, Then},
};
use crate::{
    codec::{decode, encode},
    error::{Error, Outcome},
    ids::NodeId,
    machine::{
        placement::{PlacementAnswer, PlacementBody, PlacementChange, Report},
        replication::{ChangeOutcome, Effect, Input, Message, Refusal},
    },
    net::{Lane, Protocol},
    node::queues::{hosting::join, wire::QueueReply},
};

/// Changes of placement that are asked for and whose outcome is not known.
const MAX_CHANGES: usize = 16;

impl PartitionTask {
    /// Tells the replication something, and does what comes of it.
    pub(super) fn step(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.go_on();
    }

    /// Does what is to be done, up to a state that has to be read first.
    pub(super) fn go_on(&mut self) {
        while self.loading.is_none() {
            if let Some(effect) = self.effects.pop_front() {
                let next = self.perform(effect);
                self.inputs.extend(next);
            } else if let Some(input) = self.inputs.pop_front() {
                let mut effects = Vec::new();
                self.replication.step(self.now(), input, &mut effects);
                self.effects.extend(effects);
            } else {
                return;
            }
        }
    }

    /// What is known at once goes back into the replication.
    fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Journal { batch, records } => {
                self.shared.metrics.journalled(records.len());
                let done = self.keeping.append(records);
                let (metrics, began) = (self.shared.metrics.clone(), Instant::now());
                self.begin(async move {
                    let outcome = done.await;
                    if outcome.is_ok() {
                        metrics.appended(began.elapsed());
                    }
                    Done::Journalled { batch, outcome }
                });
            }
            Effect::JournalLazily { records } => self.keeping.append_lazily(records),
            Effect::Truncate { last_seq } => {
                let done = self.keeping.truncate(last_seq);
                self.begin(async move { Done::Kept { checkpoint: false, outcome: done.await } });
            }
            Effect::Send { to, call, message } => self.send(to, call, &message),
            Effect::Reply { call, reply } => {
                if let Some(to) = self.calls.remove(&call) {
                    // Who asked may have given up.
                    let _ = to.send(encode(&reply));
                }
            }
            Effect::Commit { records } => {
                let failed = self.commit(records);
                if failed.is_some() {
                    self.keeping.fail();
                }
                return failed;
            }
            Effect::Taken { id, position } => {
                if let Some((_, taken)) = self.placing.take_if(|(placing, _)| *placing == id) {
                    self.taken.insert(position, taken);
                }
            }
            Effect::Refused { id, why } => self.refused(id, why),
            Effect::Change { ask, change } => self.change(ask, change),
            Effect::TakeState { to } => self.take_state(to),
            Effect::Install { batch, at, state } => self.begin_install(batch, at, state),
            Effect::PullView { epoch } => {
                debug!(partition = self.id.0, epoch = epoch.0, "somebody knows a newer placement");
                self.shared.pull.pull();
            }
            Effect::Serving => self.serve(),
            Effect::Stopped => self.cease(),
        }
        None
    }

    fn send(&mut self, to: NodeId, call: u64, message: &Message) {
        if let Message::Append { records, .. } = message
            && !records.is_empty()
        {
            self.shared.metrics.replicated(records.len());
        }
        let body = join(self.id, self.replication.me(), message);
        let mesh = Arc::clone(&self.shared.mesh);
        self.begin(async move {
            let answer = mesh.call(to, Protocol::Replication, Lane::Ask, body).await;
            Done::Replied { to, call, reply: answer.ok().and_then(|bytes| decode(&bytes).ok()) }
        });
    }

    /// One number is one request to the control plane, however often it has to be asked.
    fn change(&mut self, ask: u64, mut change: PlacementChange) {
        if let PlacementBody::Report(report) = &mut change.body
            && self.shortened
        {
            // It is not what it was: only an operator may decide to go on with it.
            report.replica.journal = Report::NOT_WHAT_IT_WAS;
        }
        let gateway = self.shared.gateway.clone();
        let request = Arc::clone(self.changes.entry(ask).or_insert_with(|| Arc::new(gateway.begin())));
        if self.changes.len() > MAX_CHANGES {
            self.changes.pop_first();
        }
        self.begin(async move {
            let outcome = match gateway.change_placement(&request, change).await {
                Ok(PlacementAnswer::Done(now)) => ChangeOutcome::Done(now),
                Ok(PlacementAnswer::Void(now)) => ChangeOutcome::Void(now),
                other => {
                    debug!(?other, "a change of placement has no known outcome");
                    ChangeOutcome::Unknown
                }
            };
            Done::Changed { ask, outcome }
        });
    }

    fn refused(&mut self, id: u64, why: Refusal) {
        let placing = self.placing.take_if(|(placing, _)| *placing == id);
        let Some((_, taken)) = placing else {
            // What was taken before and is refused now comes with the end of its office.
            return;
        };
        self.batches.landed(taken.durability);
        match why {
            Refusal::NotPrimary { epoch } => self.give_up(taken, |then| then.not_primary(epoch)),
            Refusal::NotServing => {
                let epoch = self.replication.epoch();
                self.give_up(taken, |then| then.not_primary(epoch));
            }
            Refusal::Deposed => self.give_up(taken, Then::unknown),
            Refusal::Busy => {
                self.shared.bounds.hit("queues.uncommitted");
                let busy = || {
                    QueueReply::Failed(Error::unavailable(
                        Outcome::NotApplied,
                        "the copies of this partition do not keep up: try again later",
                    ))
                };
                self.give_up(taken, |then| then.tell(busy()));
            }
        }
    }

    fn give_up(&mut self, taken: Taken, tell: impl Fn(Then)) {
        for then in taken.thens() {
            match &then {
                Then::Timer => self.timer_under_way = false,
                Then::Moved(offsets) => self.moves.not_settled(offsets),
                Then::Synced(_) => self.moves.not_synced(),
                Then::Lease(receiver) => self.waiting.end_lease(&receiver.queue, receiver.max),
                _ => {}
            }
            tell(then);
        }
    }

    fn serve(&mut self) {
        info!(
            partition = self.id.0,
            epoch = self.replication.epoch().0,
            queues = self.queues.names().count(),
            "serves"
        );
        self.serving = true;
        self.timer_under_way = false;
        self.begin_moves(self.queues.outbox());
        self.wake_all();
    }

    fn cease(&mut self) {
        let epoch = self.replication.epoch();
        info!(partition = self.id.0, epoch = epoch.0, "serves no longer");
        self.serving = false;
        self.timer_under_way = false;
        self.moves.stop();
        self.rates.clear();
        self.handed = Default::default();
        self.refuse_all(epoch);
    }
}
