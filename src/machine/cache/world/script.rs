//! Shorthands to bring a [`World`] to where something is to begin.

use super::{Action, Deed, Envelope, Kind, Sent, World};
use crate::machine::cache::{HomeAnswer, HomeRequest};

impl World {
    /// Whatever is under way arrives, until nothing is left but waiting.
    pub(in super::super) fn settle(&mut self) {
        loop {
            let mut actions = Vec::new();
            self.actions(&mut actions);
            match actions.into_iter().find(Action::is_ordinary) {
                Some(action) => self.happen(&action),
                None => return,
            }
        }
    }

    /// Nothing fails any more, and whoever has to hears of the home of now: what is still waited for after many leases.
    pub(in super::super) fn come_to_rest(&mut self) -> Vec<(usize, Kind)> {
        self.budget = super::Budget::default();
        for _ in 0..40 {
            loop {
                let mut actions = Vec::new();
                self.actions(&mut actions);
                let next =
                    actions.into_iter().find(|action| !matches!(action, Action::Start { .. } | Action::CrashHome));
                let Some(next) = next else { break };
                self.happen(&next);
            }
            if self.waiting().is_empty() || self.wrong.is_some() {
                break;
            }
            self.time_passes(1);
        }
        self.waiting()
    }

    /// A cache does this now.
    pub(in super::super) fn does(&mut self, cache: usize, kind: Kind) {
        self.starts(cache, kind.on(0));
    }

    /// The same with any key.
    pub(in super::super) fn starts(&mut self, cache: usize, deed: Deed) {
        self.caches[cache].plan.insert(0, deed);
        self.happen(&Action::Start { cache });
    }

    /// A cache does this, and everything that follows from it happens.
    pub(in super::super) fn does_all(&mut self, cache: usize, kind: Kind) {
        self.does(cache, kind);
        self.settle();
    }

    /// The same with any key.
    pub(in super::super) fn does_all_of(&mut self, cache: usize, deed: Deed) {
        self.starts(cache, deed);
        self.settle();
    }

    /// What is under way and is one of these.
    fn under_way(&self, is_one: impl Fn(&Envelope) -> bool) -> Vec<u64> {
        self.network.0.iter().filter(|(_, envelope)| is_one(envelope)).map(|(key, _)| *key).collect()
    }

    /// All of these arrive.
    pub(in super::super) fn arrive(&mut self, is_one: impl Fn(&Envelope) -> bool) {
        for envelope in self.under_way(is_one) {
            self.happen(&Action::Deliver { envelope });
        }
    }

    /// All of these are lost.
    pub(in super::super) fn lose(&mut self, is_one: impl Fn(&Envelope) -> bool) {
        for envelope in self.under_way(is_one) {
            self.network.0.remove(&envelope);
        }
    }

    /// So many half leases pass.
    pub(in super::super) fn time_passes(&mut self, steps: u8) {
        for _ in 0..steps {
            self.budget.passes += 1;
            self.happen(&Action::Pass);
        }
    }

    /// The homes look what is due, and what may arrive of what is said does; the rest is lost.
    pub(in super::super) fn settle_homes(&mut self, may_arrive: impl Fn(&Envelope) -> bool) {
        for home in 0..super::HOMES {
            self.happen(&Action::HomeTick { home });
        }
        while let Some(envelope) = self.under_way(&may_arrive).first() {
            self.happen(&Action::Deliver { envelope: *envelope });
        }
        self.lose(|_| true);
    }

    /// A cache renews its session with the first home; nothing else arrives.
    pub(in super::super) fn renews(&mut self, cache: usize) {
        self.budget.renewals += 1;
        self.happen(&Action::Renew { cache });
        let is_of_first = |envelope: &Envelope| match envelope {
            Envelope::ToHome { from, message, .. } => {
                *from == cache && message.home == super::home_id(0) && matches!(message.body, HomeRequest::Renew)
            }
            Envelope::HomeReply { to, reply, .. } => *to == cache && matches!(reply.body, HomeAnswer::Renewed),
            _ => false,
        };
        self.arrive(is_of_first);
        self.arrive(is_of_first);
    }

    /// So long that the home of now waits for no session any more, it does not reach this cache, which renews its session with
    /// the first home.
    pub(in super::super) fn is_out_of_reach(&mut self, cache: usize) {
        for _ in 0..3 {
            self.settle_homes(|envelope| envelope.between() != Some(cache));
            self.time_passes(1);
            self.renews(cache);
        }
    }

    pub(in super::super) fn home_ticks(&mut self) {
        self.happen(&Action::HomeTick { home: 0 });
    }

    /// Whatever is under way arrives, but for these.
    pub(in super::super) fn settle_but(&mut self, is_one: impl Fn(&Envelope) -> bool) {
        while let Some(envelope) = self.under_way(|envelope| !is_one(envelope)).first() {
            self.happen(&Action::Deliver { envelope: *envelope });
        }
    }

    /// Copies of these, to arrive again later.
    pub(in super::super) fn copies(&self, is_one: impl Fn(&Envelope) -> bool) -> Vec<Envelope> {
        let all = self.under_way(is_one);
        all.iter().map(|envelope| Envelope::clone(&self.network.0[envelope])).collect()
    }

    /// These are under way, again.
    pub(in super::super) fn inject(&mut self, envelopes: Vec<Envelope>) {
        envelopes.into_iter().for_each(|envelope| self.network.add(envelope));
    }

    /// What was sent since the last time it was asked for.
    pub(in super::super) fn take_sent(&mut self) -> Vec<Sent> {
        let mut sent = self.sent.replace(Vec::new()).unwrap_or_default();
        sent.sort_unstable();
        sent
    }

    /// From here on so much may happen, and these are the plans.
    pub(in super::super) fn with(mut self, budget: super::Budget, plans: &[&[Kind]]) -> Self {
        self.budget = budget;
        for (cache, plan) in self.caches.iter_mut().zip(plans) {
            cache.plan = plan.iter().map(|kind| kind.on(0)).collect();
        }
        self
    }

    /// The same with both keys.
    pub(in super::super) fn with_deeds(mut self, budget: super::Budget, plans: &[&[Deed]]) -> Self {
        self.budget = budget;
        for (cache, plan) in self.caches.iter_mut().zip(plans) {
            cache.plan = plan.to_vec();
        }
        self
    }

    /// What arrives by this.
    pub(in super::super) fn arriving(&self, action: &Action) -> Option<&Envelope> {
        match action {
            Action::Deliver { envelope } | Action::DeliverAndKeep { envelope } => {
                self.network.0.get(envelope).map(std::convert::AsRef::as_ref)
            }
            _ => None,
        }
    }

    /// The first home is a member again, once it has heard that it is no home any more.
    pub(in super::super) fn first_home_returns(&mut self) {
        self.happen(&Action::End { home: 0 });
        let until = self.now.plus_ms(1_000_000);
        self.home_hears(0, super::HomeInput::Lease { until });
    }
}
