//! All that can happen in a world, and how often.

use super::{BEGIN, Cache, HOMES, KEYS, Kind, LEASE_MS, STEP_MS, World, node};
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
    /// The home of now is dead for good.
    CrashHome,
    /// The home of now is no member any more, whatever it does: its lease runs out.
    Depose,
    /// The home of now is to hand its slot over.
    Stop,
    /// The next one begins.
    Succeed,
    /// A cache hears of the newest epoch.
    View { cache: usize },
    /// A home before hears of the newest epoch.
    End { home: usize },
    /// The home gives a line up.
    EvictHome { key: usize },
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
    /// A home may be deposed, and crash.
    pub(in super::super) deposals: u8,
    /// A home may hand over.
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
            let is_inside_lease = self.now < self.leases[home];
            let due = machine.as_ref().filter(|_| is_inside_lease).and_then(|machine| machine.deadline());
            if due.is_some_and(|due| due <= self.now) {
                actions.push(Action::HomeTick { home });
            }
        }
        if self.budget.passes > 0 {
            actions.push(Action::Pass);
        }
        if self.budget.home_evictions > 0 {
            let has = |key: &usize| {
                *key == 0
                    || self.homes[self.home_of(*key)]
                        .as_ref()
                        .is_some_and(|home| home.view(&self.nth_key(*key)).is_some())
            };
            actions.extend((0..KEYS).filter(has).map(|key| Action::EvictHome { key }));
        }
        self.actions_of_control(actions);
    }

    fn actions_of(&self, cache: usize, of: &Cache, actions: &mut Vec<Action>) {
        // An eviction of nothing is nothing.
        if of.plan.first().is_some_and(|deed| deed.kind != Kind::Evict || of.table[deed.key].is_some()) {
            actions.push(Action::Start { cache });
        }
        if of.machine.deadline().is_some_and(|due| due <= self.now) {
            actions.push(Action::CacheTick { cache });
        }
        if self.budget.crashes > 0 {
            actions.push(Action::Crash { cache });
        }
        if self.budget.abandonments > 0 && self.oldest(cache).is_some() {
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
        let now = self.home_now();
        let before = self.serving().into_iter().filter(|home| *home < now);
        actions.extend(before.map(|home| Action::End { home }));
        if now + 1 == HOMES {
            return;
        }
        if self.is_deposed() || self.over.is_some() {
            actions.push(Action::Succeed);
        }
        if self.is_deposed() && self.homes[now].is_some() {
            actions.push(Action::CrashHome);
        }
        if !self.is_deposed() && self.over.is_none() {
            // A slot that stays where it is needs its home.
            if self.budget.deposals > 0 && !(self.apart && now == 0) {
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
            Action::EvictHome { key } => {
                self.budget.home_evictions = self.budget.home_evictions.saturating_sub(1);
                self.truths[*key].may_be_gone = true;
                let evict = HomeInput::Evict { key: self.nth_key(*key), in_turn: true };
                self.home_hears(self.home_of(*key), evict);
            }
            Action::Abandon { cache } => {
                self.budget.abandonments = self.budget.abandonments.saturating_sub(1);
                let (op, key) = self.oldest(*cache).expect("something is under way");
                self.truths[key].forget(op);
                self.cache_hears(*cache, Input::Abandon { op, key: self.nth_key(key) });
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
                let home = self.home_now();
                self.homes[home] = None;
                self.all_may_be_gone();
            }
            Action::Depose => {
                self.budget.deposals = self.budget.deposals.saturating_sub(1);
                self.deposed[self.home_now()] = true;
            }
            Action::Stop => {
                self.budget.moves = self.budget.moves.saturating_sub(1);
                self.home_hears(self.home_now(), HomeInput::Stop { slot: Self::slot() });
            }
            Action::Succeed => self.succeed(),
            Action::View { cache } => self.cache_hears(*cache, Input::Placed(self.placed(self.epoch.0))),
            Action::End { home } => self.home_hears(*home, HomeInput::End(self.placed(self.epoch.0))),
            _ => {}
        }
    }

    /// The next epoch is committed, and its home hears of it at once.
    fn succeed(&mut self) {
        self.epoch = Epoch(self.epoch.0 + 1);
        let home = self.home_now();
        let start = match self.over.take() {
            Some((stopped, over)) => Start::Handed { over, stopped_ms_ago: self.now.ms_since(stopped) },
            None => {
                self.all_may_be_gone();
                let before = (0..home).filter(|home| self.deposed[*home]).map(|home| self.leases[home]);
                let over = before.max().expect("there was a home before");
                let old_lease_over_ms = over.ms_since(self.now);
                Start::Fresh { caches: self.all_caches(), old_lease_over_ms }
            }
        };
        self.extend_leases();
        self.home_hears(home, HomeInput::Begin { placed: self.placed(self.epoch.0), start });
    }

    fn pass(&mut self) {
        self.budget.passes = self.budget.passes.saturating_sub(1);
        self.now = self.now.plus_ms(STEP_MS);
        self.extend_leases();
        // Somebody's session may have ended, or may end by the time something arrives.
        let is_over = |cache: &Cache| cache.sessions.values().any(|(_, until)| *until <= self.now);
        if self.now >= BEGIN.plus_ms(LEASE_MS) || self.caches.iter().any(is_over) {
            self.all_may_be_gone();
        }
        self.check();
    }

    fn crash(&mut self, cache: usize) {
        self.budget.crashes = self.budget.crashes.saturating_sub(1);
        self.all_may_be_gone();
        self.truths.iter_mut().for_each(|truth| truth.forget_pending(cache));
        let of = &mut self.caches[cache];
        of.incarnation += 1;
        let mut machine = Lines::new(node(cache), Incarnation(of.incarnation), of.machine.settings());
        machine.rules = self.rules.clone();
        of.machine = Kept::new(machine);
        (of.table, of.sessions) = (Default::default(), BTreeMap::new());
        self.cache_begins(cache);
    }
}
