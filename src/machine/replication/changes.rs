//! What a replica asks of the control plane: to shrink, confirm and grow the in-sync set, to give the partition away, and
//! to take note of how far its journal goes.

use super::{
    ChangeOutcome, Effect, Replica, Replication, Rule,
    follower::{Follower, Mode},
};
use crate::{
    ids::{Epoch, NodeId, Tick},
    machine::placement::{PlacementBody, PlacementChange, Report},
};

/// After how many doublings the pause before a learner is waited for again grows no further: a slow one is not to hold
/// up commits again and again.
const MAX_DOUBLINGS: u32 = 6;

/// A request to the control plane that has no certain answer yet. One at a time: what names the same epoch is void
/// anyhow once one of them is done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Asked {
    ask: u64,
    based_on: Epoch,
    wish: Wish,
    /// Its outcome is unknown: when it is asked for again.
    again: Option<Tick>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Wish {
    Shrink(Vec<Replica>),
    Confirm,
    Grow(Replica),
    HandOver(NodeId),
    Report,
}

/// A learner that commits wait for, because it lacks little.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Joiner {
    pub(super) replica: Replica,
    since: Tick,
    /// It is proposed for the in-sync set, and may be in it.
    proposed: bool,
}

impl Asked {
    pub(super) fn again_at(&self) -> Option<Tick> {
        self.again
    }

    /// Who is proposed to leave the in-sync set.
    pub(super) fn leaving(&self) -> &[Replica] {
        match &self.wish {
            Wish::Shrink(leaving) => leaving,
            _ => &[],
        }
    }
}

impl Replication {
    fn ask(&mut self, wish: Wish, effects: &mut Vec<Effect>) {
        self.asks += 1;
        let asked = Asked { ask: self.asks, based_on: self.view.epoch, wish, again: None };
        effects.push(self.change(&asked));
        self.asked = Some(asked);
    }

    fn change(&self, asked: &Asked) -> Effect {
        let body = match &asked.wish {
            Wish::Shrink(leaving) => PlacementBody::Shrink(leaving.clone()),
            Wish::Confirm => PlacementBody::Confirm,
            Wish::Grow(joiner) => PlacementBody::Grow(*joiner),
            Wish::HandOver(to) => PlacementBody::HandOver(*to),
            Wish::Report => {
                PlacementBody::Report(Report { replica: self.me, last: self.log.last(), verified: self.verified })
            }
        };
        let change = PlacementChange { partition: self.partition, based_on: asked.based_on, body };
        Effect::Change { ask: asked.ask, change }
    }

    /// What is unknown is asked for again.
    pub(super) fn ask_again(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        if let Some(mut asked) = self.asked.take() {
            if asked.again.is_some_and(|again| again <= now) {
                asked.again = None;
                effects.push(self.change(&asked));
            }
            self.asked = Some(asked);
        }
    }

    /// The control plane answered, or did not.
    pub(super) fn changed(&mut self, now: Tick, ask: u64, outcome: ChangeOutcome, effects: &mut Vec<Effect>) {
        let is_current = self.asked.as_ref().is_some_and(|asked| asked.ask == ask);
        match outcome {
            ChangeOutcome::Unknown => {
                if let Some(asked) = self.asked.as_mut().filter(|_| is_current) {
                    asked.again = Some(now.plus_ms(self.settings.retry_ms));
                }
            }
            ChangeOutcome::Done(partition) => {
                if is_current && partition.epoch <= self.view.epoch {
                    self.reported |= self.asked.as_ref().is_some_and(|asked| asked.wish == Wish::Report);
                    self.asked = None;
                }
                self.placed(now, &partition, effects);
            }
            ChangeOutcome::Void(partition) => {
                if is_current && partition.epoch <= self.view.epoch {
                    self.refused(now);
                }
                self.placed(now, &partition, effects);
            }
        }
    }

    /// What was asked does not fit, as things are now.
    fn refused(&mut self, now: Tick) {
        let Some(asked) = self.asked.take() else { return };
        match asked.wish {
            Wish::Grow(joiner) => self.give_up(joiner, now),
            Wish::Shrink(away) => {
                let followers = self.reign.iter_mut().flat_map(|reign| reign.followers.values_mut());
                for follower in followers.filter(|follower| follower.replica.is_some_and(|it| away.contains(&it))) {
                    follower.progress = now;
                }
            }
            // That may change without a new epoch: another request, later.
            Wish::Report | Wish::HandOver(_) | Wish::Confirm => {
                self.asks += 1;
                let again = Some(now.plus_ms(self.settings.answer_timeout_ms));
                self.asked = Some(Asked { ask: self.asks, again, ..asked });
            }
        }
    }

    /// This learner holds up commits no longer.
    fn give_up(&mut self, joiner: Replica, now: Tick) {
        let Some(reign) = &mut self.reign else { return };
        reign.joiner = None;
        if let Some(follower) = reign.followers.get_mut(&joiner.node) {
            let pause_ms = self.settings.answer_timeout_ms << follower.given_up.min(MAX_DOUBLINGS);
            follower.given_up = follower.given_up.saturating_add(1);
            follower.not_grown_before = Some(now.plus_ms(pause_ms));
        }
    }

    /// A primary takes out who does not answer, and takes in who holds everything.
    pub(super) fn change_in_sync(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        let followers = self.reign.iter_mut().flat_map(|reign| reign.followers.values_mut());
        for follower in followers.filter(|follower| follower.not_grown_before.is_some_and(|before| before <= now)) {
            follower.not_grown_before = None;
        }
        if self.asked.is_some() {
            return;
        }
        let away: Vec<Replica> =
            self.view.in_sync.iter().filter(|member| self.is_overdue(now, member)).copied().collect();
        if !away.is_empty() {
            return self.ask(Wish::Shrink(away), effects);
        }
        if self.is_unconfirmed() {
            if self.all_hold_the_beginning() {
                self.ask(Wish::Confirm, effects);
            }
            return;
        }
        let Some(reign) = &self.reign else { return };
        match reign.joiner {
            None => {
                let fit = reign.followers.values().find(|follower| self.is_fit(now, follower)).and_then(|f| f.replica);
                let Some(reign) = self.reign.as_mut().filter(|reign| reign.serving) else { return };
                reign.joiner = fit.map(|replica| Joiner { replica, since: now, proposed: false });
                if fit.is_some() {
                    self.propose_joiner(now, effects);
                }
            }
            Some(_) => self.propose_joiner(now, effects),
        }
    }

    /// Whether somebody who is not in sync any more still counts.
    fn is_unconfirmed(&self) -> bool {
        self.view.holders.len() > self.view.in_sync.len()
    }

    /// Whether all who are in sync have taken something of this primary: only who serves is to replace who has served.
    fn all_hold_the_beginning(&self) -> bool {
        let Some(reign) = &self.reign else { return false };
        self.view.in_sync.iter().all(|replica| self.held_by(reign, replica) >= reign.first)
    }

    /// Nothing is committed any more that the joiner does not hold: once it holds what is, it is proposed.
    fn propose_joiner(&mut self, now: Tick, effects: &mut Vec<Effect>) {
        let committed = self.log.committed();
        let Some(reign) = &mut self.reign else { return };
        let Some(joiner) = reign.joiner.as_mut().filter(|joiner| !joiner.proposed) else { return };
        let replica = joiner.replica;
        let follower = reign.followers.get(&replica.node).filter(|follower| follower.replica == Some(replica));
        let Some(follower) = follower else { return reign.joiner = None };
        if follower.held >= committed || !self.rules.keep(Rule::GrowHoldsCommitted) {
            joiner.proposed = true;
            self.ask(Wish::Grow(replica), effects);
        } else if joiner.since.plus_ms(self.settings.answer_timeout_ms) <= now {
            self.give_up(replica, now);
        }
    }

    /// Whether this learner is worth waiting for.
    fn is_fit(&self, now: Tick, follower: &Follower) -> bool {
        let Some(replica) = follower.replica else { return false };
        let lag = self.log.last().seq.saturating_sub(follower.held);
        self.view.replicas.contains(&replica.node)
            && self.view.holder(&replica.node).is_none()
            && follower.mode == Mode::Stream
            && (lag <= self.settings.lag_to_grow || !self.rules.keep(Rule::GrowHoldsCommitted))
            && follower.not_grown_before.is_none_or(|before| before <= now)
    }

    /// When a follower that lacks something has made no progress for too long.
    pub(super) fn overdue_at(&self, follower: &Follower) -> Option<Tick> {
        let is_member = follower.replica.is_some_and(|replica| self.view.in_sync.contains(&replica));
        (is_member && self.asked.is_none() && follower.held < self.log.last().seq)
            .then(|| follower.progress.plus_ms(self.settings.answer_timeout_ms))
    }

    fn is_overdue(&self, now: Tick, member: &Replica) -> bool {
        let follower = self.reign.as_ref().and_then(|reign| reign.followers.get(&member.node));
        follower.and_then(|follower| self.overdue_at(follower)).is_some_and(|overdue| overdue <= now)
    }

    /// When a learner may be proposed again, or is waited for no longer.
    pub(super) fn grow_due(&self) -> Option<Tick> {
        let reign = self.reign.as_ref().filter(|_| self.asked.is_none())?;
        match reign.joiner {
            Some(joiner) => (!joiner.proposed).then(|| joiner.since.plus_ms(self.settings.answer_timeout_ms)),
            None => reign.followers.values().filter_map(|follower| follower.not_grown_before).min(),
        }
    }

    /// This replica can journal no longer: somebody else is to serve, and whoever serves does without it.
    pub(super) fn journal_failed(&mut self, effects: &mut Vec<Effect>) {
        self.durable.fail();
        if self.is_primary() {
            self.end_reign(effects);
            self.resign(effects);
        }
    }

    pub(super) fn resign(&mut self, effects: &mut Vec<Effect>) {
        let next = self.view.in_sync.iter().find(|replica| replica.node != self.me.node).map(|replica| replica.node);
        if let Some(next) = next {
            self.ask(Wish::HandOver(next), effects);
        }
    }

    /// Nobody serves: whoever has a journal says how far it goes.
    pub(super) fn report(&mut self, effects: &mut Vec<Effect>) {
        let Some(reported) = &self.view.reported else { return };
        let is_known = self.reported || reported.contains(&self.me);
        if !is_known && self.asked.is_none() && !self.durable.failed() && self.view.concerns(&self.me.node) {
            self.ask(Wish::Report, effects);
        }
    }
}

#[cfg(test)]
impl Asked {
    pub(super) fn ask(&self) -> u64 {
        self.ask
    }

    pub(super) fn rewind(&mut self, back: impl Fn(&mut Tick)) {
        self.again.iter_mut().for_each(back);
    }
}

#[cfg(test)]
impl Joiner {
    pub(super) fn rewind(&mut self, back: impl Fn(&mut Tick)) {
        back(&mut self.since);
    }
}
