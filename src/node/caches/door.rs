//! Lets in what peers say about the cache: checks who may say what, and hands it to the task that it is for.
//!
//! Who asks has to be a member that serves: what a node that is down was granted is over when its session is. A home is
//! believed where the view says that it is the home. What names an epoch that this node does not know yet waits for the
//! view, for a moment; whoever is turned away says it again.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    cache::ToCache,
    calls::Way,
    home::ToHomeTask,
    link::Link,
    wire::{CoherenceAsk, Noted},
};
use crate::{
    codec::{decode, encode},
    ids::{Epoch, NodeId},
    machine::{
        cache::{CacheRequest, FromHome, HomeId, HomeRequest, InvBatch, SlotId},
        slots::Slot,
    },
    net::{
        Inbound,
        deferred::{AnswerSlot, Asked, Exchange},
    },
    node::{hints::ViewPull, route::Route, wire::View},
    telemetry::Bounds,
};

/// How long a message waits for the view that it names.
const VIEW_PATIENCE: Duration = Duration::from_millis(500);
/// Most messages that wait for a view.
const MAX_WAITING: usize = 1_024;

/// The door of a node; one that is no cache node lets nothing in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Door(Option<Open>);

#[derive(Clone, Debug)]
struct Open {
    exchange: Exchange,
    link: Link,
    route: Route,
    pull: ViewPull,
    bounds: Bounds,
}

/// Whether a message may be handed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Now,
    /// It names an epoch that is not known yet.
    Once(SlotId, Epoch),
    Never,
}

impl Door {
    /// Of a node that is no cache node.
    pub(super) fn shut() -> Self {
        Self(None)
    }

    pub(super) fn open(exchange: Exchange, link: Link, route: Route, pull: ViewPull, bounds: Bounds) -> Self {
        Self(Some(Open { exchange, link, route, pull, bounds }))
    }

    /// Takes a call of the coherence protocol. Dropped, it is refused.
    pub(crate) fn on_call(&self, call: Inbound) {
        match &self.0 {
            Some(open) if open.serves(call.from) => open.exchange.on_call(call),
            _ => debug!(peer = %call.from, "refused a message about the cache"),
        }
    }

    /// Takes gossip. Nothing depends on it.
    pub(crate) fn on_gossip(&self, from: NodeId, body: &Bytes) {
        let Some(open) = self.0.as_ref().filter(|open| open.serves(from)) else { return };
        let Ok(batch) = decode::<InvBatch>(body) else { return };
        let view = open.route.view();
        let said =
            |inv: &crate::machine::cache::Inv| open.of_home(&view, from, inv.home, (inv.line.slot(), inv.line.epoch));
        let verdicts: Vec<Verdict> = batch.invs.iter().map(said).collect();
        if verdicts.iter().all(|verdict| *verdict == Verdict::Now) {
            open.link.to_cache(ToCache::Gossip(batch));
        } else if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Once(..))) {
            // It comes again by unicast.
            open.pull.pull();
        }
    }

    /// The connection to a peer was lost: what is open there is asked again.
    pub(crate) async fn repeat(&self, peer: NodeId) {
        if let Some(open) = &self.0 {
            open.exchange.repeat(peer).await;
        }
    }

    /// Hands on the questions of peers, until `stop`.
    pub(super) async fn run(self, mut asked: mpsc::Receiver<Asked>, stop: CancellationToken) {
        let Some(open) = self.0 else { return };
        let mut waiting = JoinSet::new();
        loop {
            let Asked { id, body, answer } = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(_) = waiting.join_next() => continue,
                question = asked.recv() => match question {
                    Some(question) => question,
                    None => return,
                },
            };
            let Ok(ask) = decode::<CoherenceAsk>(&body) else { continue };
            match open.verdict(id.node, &ask) {
                Verdict::Now => open.hand_on(id.node, ask, answer),
                Verdict::Never => debug!(peer = %id.node, "is not believed about the cache"),
                Verdict::Once(..) if waiting.len() >= MAX_WAITING => open.bounds.hit("cache.views"),
                Verdict::Once(slot, epoch) => {
                    let open = open.clone();
                    waiting.spawn(async move { open.hand_on_once(id.node, ask, answer, (slot, epoch)).await });
                }
            }
        }
    }
}

impl Open {
    fn serves(&self, peer: NodeId) -> bool {
        self.route.view().members.get(&peer).is_some_and(|member| member.serves())
    }

    /// Whether the view says that a home has a slot.
    fn of_home(&self, view: &View, from: NodeId, home: HomeId, (slot, epoch): (SlotId, Epoch)) -> Verdict {
        let known = view.slots.get(&slot).copied().unwrap_or_default();
        let is_home = |slot: Slot| slot.home == Some(home) && home.node == from;
        match known.epoch {
            known_epoch if epoch > known_epoch => Verdict::Once(slot, epoch),
            known_epoch if epoch == known_epoch && is_home(known) => Verdict::Now,
            _ => Verdict::Never,
        }
    }

    fn verdict(&self, from: NodeId, ask: &CoherenceAsk) -> Verdict {
        let view = self.route.view();
        match ask {
            CoherenceAsk::Home(message) => {
                let named = message.body.line().map(|line| (line.slot(), line.epoch));
                let is_newer =
                    |(slot, epoch): &(SlotId, Epoch)| view.slots.get(slot).is_none_or(|known| known.epoch < *epoch);
                named.filter(is_newer).map_or(Verdict::Now, |(slot, epoch)| Verdict::Once(slot, epoch))
            }
            CoherenceAsk::Cache(message) => self.of_home(&view, from, message.home, named_by(message)),
            // The machine asks for the grant, which only the home can have named.
            CoherenceAsk::Owner(_) => Verdict::Now,
            // The home task looks whether it is to have the slot.
            CoherenceAsk::HandOver(part) if part.home.node == from => Verdict::Now,
            CoherenceAsk::HandOver(_) => Verdict::Never,
        }
    }

    async fn hand_on_once(self, from: NodeId, ask: CoherenceAsk, answer: AnswerSlot, (slot, epoch): (SlotId, Epoch)) {
        self.pull.pull();
        let mut views = self.route.views();
        let knows = |view: &Arc<View>| view.slots.get(&slot).is_some_and(|known| known.epoch >= epoch);
        let is_known = timeout(VIEW_PATIENCE, views.wait_for(knows)).await.is_ok_and(|seen| seen.is_ok());
        if is_known && self.verdict(from, &ask) == Verdict::Now {
            self.hand_on(from, ask, answer);
        }
    }

    fn hand_on(&self, from: NodeId, ask: CoherenceAsk, answer: AnswerSlot) {
        match ask {
            CoherenceAsk::Home(message) => {
                let is_told = matches!(message.body, HomeRequest::PutS { .. } | HomeRequest::InvAck { .. });
                let way = if is_told {
                    answer.answer(encode(&Noted));
                    None
                } else {
                    Some(Way::There(answer))
                };
                self.link.to_home(ToHomeTask::FromCache { from, message, way });
            }
            CoherenceAsk::Cache(message) => {
                self.link.to_cache(ToCache::FromHome { from, message, way: Way::There(answer) });
            }
            CoherenceAsk::Owner(message) => {
                self.link.to_cache(ToCache::Fetch { from, message, way: Way::There(answer) });
            }
            CoherenceAsk::HandOver(part) => self.link.to_home(ToHomeTask::Part { from, part, answer }),
        }
    }
}

/// The slot and the epoch that a home's message is about.
fn named_by(message: &FromHome) -> (SlotId, Epoch) {
    match &message.body {
        CacheRequest::Recall { line, .. } | CacheRequest::Ask { line, .. } => (line.slot(), line.epoch),
        CacheRequest::Inv(inv) => (inv.line.slot(), inv.line.epoch),
        CacheRequest::Recover { slot, epoch, .. } => (*slot, *epoch),
    }
}
