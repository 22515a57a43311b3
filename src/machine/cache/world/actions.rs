//! All that can happen in a world, and how often.

use super::{BEGIN, Cache, Kind, LEASE_MS, MEMBER_LEASE_MS, STEP_MS, World, home_id, node};
use crate::{
    ids::{Epoch, Incarnation},
    machine::{
        cache::{HomeInput, Input, Lines, Start},
        checker::Kept,
    },
};
use std::collections::BTreeMap;

/// Something that can happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) enum Action {
    /// A cache does the next thing of its plan.
    Start { cache: usize },
    /// A message arrives.
    Deliver { envelope: u64 },
    /// A message arrives, and will arrive again.
    DeliverAndKeep { envelope: u64 },
    /// Half a lease passes.
    Pass,
    /// A cache looks what is due.
    CacheTick { cache: usize },
    /// A home looks what is due.
    HomeTick { home: usize },
    /// A cache loses everything and starts anew.
    Crash { cache: usize },
    /// The first home is dead for good.
    CrashHome,
    /// The first home is no member any more, whatever it does: its lease runs out.
    Depose,
    /// The first home is to hand its slot over.
    Stop,
    /// The successor begins.
    Succeed,
    /// A cache hears of the new epoch.
    View { cache: usize },
    /// The first home hears of the new epoch.
    End,
    /// The home gives the line up.
    EvictHome,
    /// Nobody waits any more for the oldest operation of a cache.
    Abandon { cache: usize },
    /// A cache renews its session.
    Renew { cache: usize },
}

/// How often what can happen that does not follow from what did.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(in super::super) struct Budget {
    pub(in super::super) duplicates: u8,
    pub(in super::super) passes: u8,
    pub(in super::super) crashes: u8,
    /// The first home may be deposed, and crash.
    pub(in super::super) deposals: u8,
    /// The first home may hand over.
    pub(in super::super) moves: u8,
    pub(in super::super) home_evictions: u8,
    pub(in super::super) abandonments: u8,
    pub(in super::super) renewals: u8,
    /// Invalidations travel by gossip, too.
    pub(in super::super) gossip: bool,
}

impl Action {
    /// Whether it happens by itself where nothing goes wrong.
    pub(super) fn is_ordinary(&self) -> bool {
        matches!(self, Self::Deliver { .. })
    }
}

impl World {
    /// All that can happen.
    pub(in super::super) fn actions(&self, actions: &mut Vec<Action>) {
        if self.wrong.is_some() {
            return;
        }
        for (cache, of) in self.caches.iter().enumerate() {
            self.actions_of(cache, of, actions);
        }
        for envelope in self.network.0.keys() {
            actions.push(Action::Deliver { envelope: *envelope });
            if self.budget.duplicates > 0 {
                actions.push(Action::DeliverAndKeep { envelope: *envelope });
            }
        }
        for (home, machine) in self.homes.iter().enumerate() {
            // Outside its lease a home does nothing.
            let is_inside_lease = home > 0 || self.now < self.lease_until;
            let due = machine.as_ref().filter(|_| is_inside_lease).and_then(|machine| machine.deadline());
            if due.is_some_and(|due| due <= self.now) {
                actions.push(Action::HomeTick { home });
            }
        }
        if self.budget.passes > 0 {
            actions.push(Action::Pass);
        }
        if self.budget.home_evictions > 0 {
            actions.push(Action::EvictHome);
        }
        self.actions_of_control(actions);
    }

    fn actions_of(&self, cache: usize, of: &Cache, actions: &mut Vec<Action>) {
        // An eviction of nothing is nothing.
        if of.plan.first().is_some_and(|kind| *kind != Kind::Evict || of.table.is_some()) {
            actions.push(Action::Start { cache });
        }
        if of.machine.deadline().is_some_and(|due| due <= self.now) {
            actions.push(Action::CacheTick { cache });
        }
        if self.budget.crashes > 0 {
            actions.push(Action::Crash { cache });
        }
        if self.budget.abandonments > 0 && self.truth.oldest(cache).is_some() {
            actions.push(Action::Abandon { cache });
        }
        if self.budget.renewals > 0 {
            actions.push(Action::Renew { cache });
        }
        if of.machine.epoch_of(Self::slot()) < Some(self.epoch) {
            actions.push(Action::View { cache });
        }
    }

    fn actions_of_control(&self, actions: &mut Vec<Action>) {
        if self.epoch > Epoch(1) {
            if self.homes[0].as_ref().is_some_and(|home| home.is_serving(Self::slot())) {
                actions.push(Action::End);
            }
            return;
        }
        if self.deposed || self.over.is_some() {
            actions.push(Action::Succeed);
        }
        if self.deposed && self.homes[0].is_some() {
            actions.push(Action::CrashHome);
        }
        if !self.deposed && self.over.is_none() {
            if self.budget.deposals > 0 {
                actions.push(Action::Depose);
            }
            if self.budget.moves > 0 {
                actions.push(Action::Stop);
            }
        }
    }

    /// Something happens.
    pub(in super::super) fn happen(&mut self, action: &Action) {
        match action {
            Action::Start { cache } => self.start(*cache),
            Action::Deliver { envelope } => {
                if let Some(envelope) = self.network.0.remove(envelope) {
                    self.deliver(&envelope);
                }
            }
            Action::DeliverAndKeep { envelope } => {
                self.budget.duplicates = self.budget.duplicates.saturating_sub(1);
                let envelope = self.network.0[envelope].clone();
                self.deliver(&envelope);
            }
            Action::Pass => self.pass(),
            Action::CacheTick { cache } => self.cache_hears(*cache, Input::Tick),
            Action::HomeTick { home } => self.home_hears(*home, HomeInput::Tick),
            Action::Crash { cache } => self.crash(*cache),
            Action::EvictHome => {
                self.budget.home_evictions = self.budget.home_evictions.saturating_sub(1);
                self.truth.may_be_gone = true;
                self.home_hears(0, HomeInput::Evict { key: super::key() });
            }
            Action::Abandon { cache } => {
                self.budget.abandonments = self.budget.abandonments.saturating_sub(1);
                let op = self.truth.oldest(*cache).expect("something is under way");
                self.truth.forget(op);
                self.cache_hears(*cache, Input::Abandon { op, key: super::key() });
            }
            Action::Renew { cache } => {
                self.budget.renewals = self.budget.renewals.saturating_sub(1);
                self.cache_hears(*cache, Input::GossipGap(self.placed(1).home.expect("it names one")));
            }
            _ => self.control(action),
        }
        self.forget_the_void();
    }

    /// What the control plane does.
    fn control(&mut self, action: &Action) {
        match action {
            Action::CrashHome => {
                self.homes[0] = None;
                self.truth.may_be_gone = true;
            }
            Action::Depose => {
                self.budget.deposals = self.budget.deposals.saturating_sub(1);
                self.deposed = true;
            }
            Action::Stop => {
                self.budget.moves = self.budget.moves.saturating_sub(1);
                self.home_hears(0, HomeInput::Stop { slot: Self::slot() });
            }
            Action::Succeed => self.succeed(),
            Action::View { cache } => self.cache_hears(*cache, Input::Placed(self.placed(2))),
            Action::End => self.home_hears(0, HomeInput::End(self.placed(2))),
            _ => {}
        }
    }

    /// The next epoch is committed, and its home hears of it at once.
    fn succeed(&mut self) {
        self.epoch = Epoch(2);
        let start = match self.over.take() {
            Some((stopped, over)) => Start::Handed { over, stopped_ms_ago: self.now.ms_since(stopped) },
            None => {
                self.truth.may_be_gone = true;
                let old_lease_over_ms = self.lease_until.ms_since(self.now);
                Start::Fresh { caches: self.all_caches(), old_lease_over_ms }
            }
        };
        self.home_hears(1, HomeInput::Lease { until: self.now.plus_ms(1_000_000) });
        self.home_hears(1, HomeInput::Begin { placed: self.placed(2), start });
    }

    fn pass(&mut self) {
        self.budget.passes = self.budget.passes.saturating_sub(1);
        self.now = self.now.plus_ms(STEP_MS);
        if !self.deposed {
            self.lease_until = self.now.plus_ms(MEMBER_LEASE_MS);
            self.home_hears(0, HomeInput::Lease { until: self.lease_until });
        }
        // Somebody's session may have ended, or may end by the time something arrives.
        let is_over = |cache: &Cache| cache.sessions.values().any(|(_, until)| *until <= self.now);
        if self.now >= BEGIN.plus_ms(LEASE_MS) || self.caches.iter().any(is_over) {
            self.truth.may_be_gone = true;
        }
        self.check();
    }

    fn crash(&mut self, cache: usize) {
        self.budget.crashes = self.budget.crashes.saturating_sub(1);
        self.truth.may_be_gone = true;
        self.truth.forget_pending(cache);
        // It may hear of the newest epoch late.
        let placed = self.placed(1);
        let of = &mut self.caches[cache];
        of.incarnation += 1;
        let mut machine = Lines::new(node(cache), Incarnation(of.incarnation), of.machine.settings());
        machine.rules = self.rules.clone();
        of.machine = Kept::new(machine);
        (of.table, of.sessions) = (None, BTreeMap::new());
        self.cache_hears(cache, Input::Placed(placed));
    }

    /// The home of the epoch that was committed last.
    pub(super) fn home_now(&self) -> super::HomeId {
        home_id(usize::from(self.epoch > Epoch(1)))
    }
}
