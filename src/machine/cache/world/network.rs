//! The messages between caches and homes, and what they cost.

use super::World;
use crate::machine::cache::{
    CacheAnswer, CacheRequest, Fetch, FromHome, HomeAnswer, HomeInput, HomeReply, Input, Inv, Previous, ToHome,
};

/// Calls of one run of a cache or home, at the most.
const CALLS: u64 = 10_000;
/// Runs of a cache, at the most.
const RUNS: u64 = 100;

/// What travels. Indices name caches and homes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in super::super) enum Envelope {
    ToHome { from: usize, incarnation: u64, call: u64, message: ToHome },
    HomeReply { to: usize, incarnation: u64, call: u64, reply: HomeReply },
    FromHome { from: usize, to: usize, call: u64, message: FromHome },
    CacheAnswer { to: usize, call: u64, answer: CacheAnswer },
    Fetch { from: usize, incarnation: u64, to: usize, call: u64, message: Fetch },
    Fetched { to: usize, incarnation: u64, call: u64, answer: CacheAnswer },
    Gossip { to: usize, inv: Inv },
}

/// What is counted of what is sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(in super::super) enum Sent {
    /// A question that is answered, by its kind.
    Exchange(&'static str),
    /// A message that is not.
    Notice(&'static str),
    /// A message to all.
    Broadcast,
    /// A value.
    Value,
}

impl Envelope {
    fn counted(&self) -> Option<Sent> {
        match self {
            Self::ToHome { call: 0, message, .. } => Some(Sent::Notice(message.body.kind())),
            Self::ToHome { message, .. } => Some(Sent::Exchange(message.body.kind())),
            Self::FromHome { message, .. } => Some(Sent::Exchange(match message.body {
                CacheRequest::Recall { .. } => "recall",
                CacheRequest::Ask { .. } => "ask",
                CacheRequest::Inv(_) => "inv",
                CacheRequest::Recover { .. } => "recover",
            })),
            Self::Fetch { .. } => Some(Sent::Exchange("fetch")),
            Self::HomeReply { .. } | Self::CacheAnswer { .. } | Self::Fetched { .. } | Self::Gossip { .. } => None,
        }
    }

    /// The cache that sent it to a home, or is to hear it of one.
    pub(in super::super) fn between(&self) -> Option<usize> {
        match self {
            Self::ToHome { from, .. } => Some(*from),
            Self::HomeReply { to, .. } | Self::FromHome { to, .. } | Self::Gossip { to, .. } => Some(*to),
            Self::CacheAnswer { .. } | Self::Fetch { .. } | Self::Fetched { .. } => None,
        }
    }

    fn carries_value(&self) -> bool {
        let of_cache = |answer: &CacheAnswer| match answer {
            CacheAnswer::Surrender { value, .. } => value.is_some(),
            CacheAnswer::Data { .. } | CacheAnswer::Shared { .. } => true,
            _ => false,
        };
        match self {
            Self::ToHome { message, .. } => match &message.body {
                super::super::HomeRequest::Put { value, .. } => value.is_some(),
                super::super::HomeRequest::StoreThrough { .. } => true,
                _ => false,
            },
            Self::HomeReply { reply, .. } => {
                matches!(reply.body, HomeAnswer::Data { .. } | HomeAnswer::Grant { previous: Previous::Was(_), .. })
            }
            Self::CacheAnswer { answer, .. } | Self::Fetched { answer, .. } => of_cache(answer),
            Self::FromHome { .. } | Self::Fetch { .. } | Self::Gossip { .. } => false,
        }
    }
}

impl World {
    pub(super) fn count(&mut self, sent: Sent) {
        self.sent.iter_mut().for_each(|all| all.push(sent));
    }

    pub(super) fn send(&mut self, envelope: Envelope) {
        envelope.counted().into_iter().for_each(|sent| self.count(sent));
        if envelope.carries_value() {
            self.count(Sent::Value);
        }
        self.network.add(envelope);
    }

    /// The answer to a call whose number says who made it.
    pub(super) fn home_answers(&mut self, call: u64, reply: HomeReply) {
        let (run, call) = (call / CALLS, call % CALLS);
        let (to, incarnation) = (usize::try_from(run / RUNS).expect("few caches"), run % RUNS);
        if call != 0 {
            self.send(Envelope::HomeReply { to, incarnation, call, reply });
        }
    }

    pub(super) fn cache_answers(&mut self, _: usize, call: u64, answer: CacheAnswer) {
        let (run, number) = (call / CALLS, call % CALLS);
        let (to, incarnation) = (usize::try_from(run / RUNS).expect("few nodes"), run % RUNS);
        match to.checked_sub(50) {
            Some(home) => self.send(Envelope::CacheAnswer { to: home, call: number, answer }),
            None => self.send(Envelope::Fetched { to, incarnation, call: number, answer }),
        }
    }

    /// Something arrives.
    pub(super) fn deliver(&mut self, envelope: &Envelope) {
        let number = |who: usize, incarnation: u64, call: u64| (who as u64 * RUNS + incarnation) * CALLS + call;
        match envelope.clone() {
            Envelope::ToHome { from, incarnation, call, message } => {
                let home = super::index_of_home(&message.home);
                let call = number(from, incarnation, call);
                let from = super::node(from);
                self.home_hears(home, HomeInput::FromCache { from, call, message });
            }
            Envelope::HomeReply { to, incarnation, call, reply } => {
                if self.caches[to].incarnation == incarnation {
                    self.cache_hears(to, Input::HomeAnswered { call, reply: Some(reply) });
                }
            }
            Envelope::FromHome { from, to, call, message } => {
                let (call, from) = (number(50 + from, 0, call), super::home_id(from).node);
                self.cache_hears(to, Input::FromHome { from, call, message });
            }
            Envelope::CacheAnswer { to, call, answer } => {
                self.home_hears(to, HomeInput::Answered { call, answer: Some(answer) });
            }
            Envelope::Fetch { from, incarnation, to, call, message } => {
                let (call, from) = (number(from, incarnation, call), super::node(from));
                self.cache_hears(to, Input::Fetch { from, call, message });
            }
            Envelope::Fetched { to, incarnation, call, answer } => {
                if self.caches[to].incarnation == incarnation {
                    self.cache_hears(to, Input::OwnerAnswered { call, answer: Some(answer) });
                }
            }
            Envelope::Gossip { to, inv } => self.cache_hears(to, Input::Gossip(inv)),
        }
    }

    /// What would be ignored whenever it came is under way no more.
    pub(super) fn forget_the_void(&mut self) {
        let (caches, homes) = (&self.caches, &self.homes);
        let awaits = |to: usize, incarnation: u64, call: u64| {
            caches[to].incarnation == incarnation && caches[to].machine.awaits(call)
        };
        self.network.0.retain(|_, envelope| match &**envelope {
            Envelope::HomeReply { to, incarnation, call, .. } | Envelope::Fetched { to, incarnation, call, .. } => {
                awaits(*to, *incarnation, *call)
            }
            Envelope::CacheAnswer { to, call, .. } => homes[*to].as_ref().is_some_and(|home| home.awaits(*call)),
            Envelope::ToHome { message, .. } => homes[super::index_of_home(&message.home)].is_some(),
            Envelope::FromHome { .. } | Envelope::Fetch { .. } | Envelope::Gossip { .. } => true,
        });
    }
}
