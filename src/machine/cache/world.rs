//! A small cluster around [`Lines`] and [`Home`]: caches, a home and its successors, two keys, a network that loses,
//! delays, doubles and reorders, crashes, and a clock that moves in steps of half a lease. For the model checker, for
//! scripts, and for counting what is said.
//!
//! Whatever can happen next is an [`Action`]; what must never happen is noted in [`World::wrong`].

mod actions;
mod checks;
mod network;
mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

use bytes::Bytes;

use self::checks::Truth;
pub(super) use self::checks::{GONE, IN_NO_DIRECTORY, NOT_HIGHER, OLDER, STALE, TWO_WRITERS};
pub(super) use self::{
    actions::{Action, Budget},
    network::{Envelope, Sent},
};
use super::{
    Condition, Effect, HandOver, Home, HomeEffect, HomeId, HomeInput, HomeSettings, Input, Installed, Lines, Nonce,
    Operation, Placed, Protocol, Settings, SlotId, Start, WritePolicy,
    rules::{Rule, Rules},
};
use crate::{
    ids::{CacheKey, Epoch, Incarnation, NodeId, Tick},
    machine::checker::{self, Kept, Network},
};

/// The term of a session.
pub(super) const LEASE_MS: u64 = 1_000;
/// So much time passes at once: after two such steps a cache believes its session over and the home does not, after
/// three both do.
pub(super) const STEP_MS: u64 = 500;
/// The term of a home's own lease: over by the next step, if nobody extends it.
const MEMBER_LEASE_MS: u64 = 450;
/// When everything begins.
const BEGIN: Tick = Tick(1_000_000);

/// The keys of a world. Both are in one slot, so that all that is not of a key is shared; or they are apart: the second one
/// is in a slot that stays with the first home, so that sessions with that live on when the other slot has moved.
pub(super) const KEYS: usize = 2;
/// The homes of a world, one after the other.
pub(super) const HOMES: usize = 3;

/// The first key, the second where it is in the same slot, the second where it is apart.
fn keys() -> &'static [CacheKey; KEYS + 1] {
    static NAMED: OnceLock<[CacheKey; KEYS + 1]> = OnceLock::new();
    NAMED.get_or_init(|| {
        let named = |name: &str| CacheKey::new(name).expect("a short name is a key");
        let first = named("k");
        let other = |is_apart: bool| {
            let mut others = (0..).map(|n| named(&format!("k{n}")));
            others.find(|key| (SlotId::of(key) != SlotId::of(&first)) == is_apart).expect("a slot has many keys")
        };
        [first.clone(), other(false), other(true)]
    })
}

/// The first key.
pub(super) fn key() -> CacheKey {
    keys()[0].clone()
}

fn index_of(key: &CacheKey) -> usize {
    keys().iter().position(|known| known == key).expect("a key of this world").min(KEYS - 1)
}

pub(super) fn node(index: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(index).expect("few nodes") + 1; 32])
}

/// The home with this number, on a node of its own behind those of the caches.
pub(super) fn home_id(index: usize) -> HomeId {
    HomeId { node: node(100 + index), incarnation: Incarnation(1), group: 0 }
}

fn index_of_home(id: &HomeId) -> usize {
    (0..HOMES).find(|index| home_id(*index) == *id).expect("a home of this world")
}

/// An operation of a world, and the key that it is on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Deed {
    pub(super) kind: Kind,
    pub(super) key: usize,
}

impl Kind {
    /// On the first key, or another.
    pub(super) const fn on(self, key: usize) -> Deed {
        Deed { kind: self, key }
    }
}

/// What an operation of a world does; every store stores another value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Kind {
    Load,
    /// Whatever the key holds.
    Store,
    /// Where the key is absent, so that the old value is needed.
    Put,
    Delete,
    Evict,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Cache {
    machine: Kept<Lines>,
    incarnation: u64,
    /// What readers see without asking the machine.
    table: [Option<Installed>; KEYS],
    /// The sessions as readers see them.
    sessions: BTreeMap<HomeId, (Nonce, Tick)>,
    /// What it will do, in this order.
    plan: Vec<Deed>,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct World {
    pub(super) now: Tick,
    caches: Vec<Cache>,
    /// `None`: it has crashed.
    homes: Vec<Option<Kept<Home>>>,
    network: Network<Envelope>,
    budget: Budget,
    rules: Rules,
    /// The epoch that was committed last.
    epoch: Epoch,
    /// Which homes are no members any more: their leases are not extended. One that handed its slot over stays a member, as
    /// if it were home to others: sessions with it live on.
    deposed: [bool; HOMES],
    /// When the own leases of the homes end, or have ended.
    leases: [Tick; HOMES],
    /// When the home of now stopped, and with what.
    over: Option<(Tick, HandOver)>,
    ops: u64,
    /// Whether the second key is in a slot of its own.
    apart: bool,
    /// Whether a line that is in no directory is wrong, too, or only what comes of it.
    pub(super) looks_at_directory: bool,
    truths: [Truth; KEYS],
    /// Everything that was sent, where it is counted.
    pub(super) sent: Option<Vec<Sent>>,
    pub(super) wrong: Option<&'static str>,
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub(super) struct Begin {
    pub(super) protocol: Protocol,
    pub(super) policy: WritePolicy,
    /// What each cache will do.
    pub(super) plans: Vec<Vec<Deed>>,
    pub(super) budget: Budget,
    /// Whether the second key is in a slot of its own, which stays with the first home.
    pub(super) apart: bool,
}

impl checker::World for World {
    type Action = Action;

    fn actions(&self, actions: &mut Vec<Action>) {
        self.actions(actions);
    }

    fn happen(&mut self, action: &Action) {
        self.happen(action);
    }

    fn wrong(&self) -> Option<&'static str> {
        self.wrong
    }

    fn tell(&self, action: &Action) -> String {
        self.arriving(action).map_or_else(|| format!("{action:?}"), |envelope| format!("{envelope:?}"))
    }
}

impl World {
    pub(super) fn new(begin: Begin, without: &[Rule]) -> Self {
        let rules = Rules { without: without.to_vec() };
        let mut world = Self {
            now: BEGIN,
            caches: vec![],
            homes: vec![],
            network: Network::default(),
            budget: begin.budget,
            rules: rules.clone(),
            epoch: Epoch(1),
            deposed: [false; HOMES],
            leases: [BEGIN; HOMES],
            over: None,
            ops: 0,
            apart: begin.apart,
            looks_at_directory: true,
            truths: Default::default(),
            sent: None,
            wrong: None,
        };
        let settings = HomeSettings {
            protocol: begin.protocol,
            policy: begin.policy,
            lease_ms: LEASE_MS,
            repeat_ms: STEP_MS / 2,
            max_waiting: 8,
            busy_retry_ms: STEP_MS,
            max_sessions: 8,
            // Of what is forgotten only a bound is remembered.
            max_forgotten: 0,
        };
        for index in 0..HOMES {
            let mut home = Home::new(home_id(index), settings);
            home.rules = rules.clone();
            world.homes.push(Some(Kept::new(home)));
        }
        let lease_settings = Settings {
            protocol: begin.protocol,
            policy: begin.policy,
            lease_ms: LEASE_MS,
            // Renewals are actions of their own.
            renew_ms: 100 * LEASE_MS,
            patience_ms: STEP_MS,
            retry_ms: STEP_MS,
            put_after_ms: STEP_MS,
            ..Settings::default()
        };
        for (index, plan) in begin.plans.into_iter().enumerate() {
            let mut lines = Lines::new(node(index), Incarnation(1), lease_settings);
            lines.rules = rules.clone();
            let machine = Kept::new(lines);
            let sessions = BTreeMap::new();
            world.caches.push(Cache { machine, incarnation: 1, table: Default::default(), sessions, plan });
            world.cache_begins(index);
        }
        world.extend_leases();
        for placed in world.founded() {
            world.home_hears(0, HomeInput::Begin { placed, start: Start::Founded });
        }
        world
    }

    /// The key with this number.
    pub(super) fn nth_key(&self, index: usize) -> CacheKey {
        keys()[if self.apart && index > 0 { KEYS } else { index }].clone()
    }

    pub(super) fn slot() -> SlotId {
        SlotId::of(&keys()[0])
    }

    /// The placement of an epoch: the first home has the first, its successor the second, and so on.
    fn placed(&self, epoch: u64) -> Placed {
        let index = usize::try_from(epoch - 1).expect("few epochs");
        Placed { slot: Self::slot(), epoch: Epoch(epoch), home: Some(home_id(index)) }
    }

    /// What the first home has at first.
    fn founded(&self) -> Vec<Placed> {
        let first = self.placed(1);
        let aside = Placed { slot: SlotId::of(&keys()[KEYS]), ..first };
        if self.apart { vec![first, aside] } else { vec![first] }
    }

    /// Which home a key has now.
    fn home_of(&self, key: usize) -> usize {
        if self.apart && key > 0 { 0 } else { self.home_now() }
    }

    /// A cache that has just started hears of slots. It may hear of the newest epoch late.
    fn cache_begins(&mut self, index: usize) {
        for placed in self.founded() {
            self.cache_hears(index, Input::Placed(placed));
        }
    }

    /// Which home has the epoch that was committed last.
    fn home_now(&self) -> usize {
        usize::try_from(self.epoch.0 - 1).expect("few epochs")
    }

    /// The home of now, and those before that are members, hear so.
    fn extend_leases(&mut self) {
        let until = self.now.plus_ms(MEMBER_LEASE_MS);
        for home in 0..=self.home_now() {
            if !self.deposed[home] {
                self.leases[home] = until;
                self.home_hears(home, HomeInput::Lease { until });
            }
        }
    }

    fn is_deposed(&self) -> bool {
        self.deposed[self.home_now()]
    }

    /// Something has happened after which any value may be gone.
    fn all_may_be_gone(&mut self) {
        self.truths.iter_mut().for_each(|truth| truth.may_be_gone = true);
    }

    fn cache_hears(&mut self, index: usize, input: Input) {
        let now = self.now;
        let mut effects = Vec::new();
        self.caches[index].machine.change(|machine| machine.step(now, input, &mut effects));
        effects.into_iter().for_each(|effect| self.cache_does(index, effect));
        self.check();
    }

    fn cache_does(&mut self, index: usize, effect: Effect) {
        let incarnation = self.caches[index].incarnation;
        match effect {
            Effect::AskHome { call, message } => {
                self.send(Envelope::ToHome { from: index, incarnation, call, message });
            }
            Effect::TellHome { message } => self.send(Envelope::ToHome { from: index, incarnation, call: 0, message }),
            Effect::AskOwner { to, call, message } => {
                let to = self.cache_at(&to);
                self.send(Envelope::Fetch { from: index, incarnation, to, call, message });
            }
            Effect::Answer { call, answer } => self.cache_answers(index, call, answer),
            Effect::Done { op, outcome } => self.done(op, outcome),
            Effect::Install { key, line } => self.caches[index].table[index_of(&key)] = Some(line),
            Effect::Drop { key } => self.caches[index].table[index_of(&key)] = None,
            Effect::Session { home, session, until } => {
                self.caches[index].sessions.insert(home, (session, until));
            }
            Effect::DirtyLost { .. } | Effect::PullView { .. } => {}
        }
    }

    fn home_hears(&mut self, index: usize, input: HomeInput) {
        let now = self.now;
        let Some(home) = &mut self.homes[index] else { return };
        let mut effects = Vec::new();
        home.change(|home| home.step(now, input, &mut effects));
        effects.into_iter().for_each(|effect| self.home_does(index, effect));
        self.check();
    }

    fn home_does(&mut self, index: usize, effect: HomeEffect) {
        match effect {
            HomeEffect::Answer { call, reply } => self.home_answers(call, reply),
            HomeEffect::Ask { to, call, message } => {
                let to = self.cache_at(&to);
                self.send(Envelope::FromHome { from: index, to, call, message });
            }
            HomeEffect::Broadcast { inv } => {
                self.count(Sent::Broadcast);
                if self.budget.gossip {
                    let all = 0..self.caches.len();
                    all.for_each(|to| self.network.add(Envelope::Gossip { to, inv: inv.clone() }));
                }
            }
            HomeEffect::Stopped { over } => self.over = Some((self.now, over)),
            HomeEffect::Serving { .. } | HomeEffect::DirtyLost { .. } | HomeEffect::PullView { .. } => {}
        }
    }

    fn cache_at(&self, id: &NodeId) -> usize {
        (0..self.caches.len()).find(|index| node(*index) == *id).expect("a cache of this world")
    }

    /// A cache does the next thing of its plan.
    fn start(&mut self, index: usize) {
        let deed = self.caches[index].plan.remove(0);
        let key = self.nth_key(deed.key);
        if deed.kind == Kind::Evict {
            self.cache_hears(index, Input::Evict { key });
            return;
        }
        self.ops += 1;
        let op = self.ops;
        let body = Bytes::from(vec![u8::try_from(op).expect("few operations")]);
        let operation = match deed.kind {
            Kind::Store => Operation::Store { body, ttl_ms: None, condition: Condition::Always },
            Kind::Put => Operation::Store { body, ttl_ms: None, condition: Condition::Absent },
            Kind::Delete => Operation::Delete,
            Kind::Load | Kind::Evict => Operation::Load,
        };
        self.started(op, index, deed);
        self.cache_hears(index, Input::Operate { op, key, operation });
    }

    /// The caches that a successor has to ask.
    fn all_caches(&self) -> Vec<NodeId> {
        (0..self.caches.len()).map(node).collect()
    }

    /// What a cache has and may read now.
    pub(super) fn readable(&self, index: usize, key: usize) -> Option<&Installed> {
        let cache = &self.caches[index];
        let line = cache.table[key].as_ref()?;
        let (session, until) = cache.sessions.get(&line.home)?;
        (*session == line.session && self.now < *until).then_some(line)
    }

    /// The homes that grant lines of the slot that moves now, by their own account.
    fn serving(&self) -> BTreeSet<usize> {
        (0..self.homes.len())
            .filter(|index| self.homes[*index].as_ref().is_some_and(|home| home.is_serving(Self::slot())))
            .collect()
    }
}
