//! How the tasks of cache nodes speak to each other: over the mesh, or, where both are on this node, over a channel.
//!
//! Whatever is said may be lost, on the mesh as where a channel is full: the machines say again what matters.

use std::{sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    cache::ToCache,
    calls::{Reach, Way},
    counters::Counters,
    home::ToHomeTask,
    wire::{CoherenceAsk, Noted},
};
use crate::{
    codec::{decode, encode},
    ids::NodeId,
    machine::cache::{CacheAnswer, FromHome, HomeReply, ToHome},
    net::{Lane, deferred::Exchange},
    node::requests::OpenRequests,
    telemetry::Bounds,
};

/// How long an answer is waited for: the machines have asked anew by then.
const QUESTION: Duration = Duration::from_secs(6);

/// A task's way to all others. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) me: NodeId,
    pub(super) exchange: Exchange,
    pub(super) requests: Arc<OpenRequests>,
    pub(super) cache: mpsc::Sender<ToCache>,
    pub(super) home: mpsc::Sender<ToHomeTask>,
    pub(super) bounds: Bounds,
    pub(super) counters: Arc<Counters>,
}

impl Link {
    /// Asks a peer.
    pub(super) async fn ask<T: DeserializeOwned>(self, to: NodeId, lane: Lane, ask: CoherenceAsk) -> Option<T> {
        let (question, body) = (self.requests.question(), encode(&ask));
        self.counters.sent_bytes.add(body.len() as u64);
        let answer = timeout(QUESTION, self.exchange.ask(to, question, lane, body)).await;
        decode(&answer.ok()?.ok()?).ok()
    }

    /// Tells a peer what it does not answer.
    pub(super) async fn tell(self, to: NodeId, ask: CoherenceAsk) {
        let _ = self.ask::<Noted>(to, Lane::End, ask).await;
    }

    /// Asks the home task of this node.
    pub(super) fn ask_home_here(&self, message: ToHome) -> impl Future<Output = Option<(HomeReply, Reach)>> + use<> {
        let (reply, answer) = oneshot::channel();
        self.to_home(ToHomeTask::FromCache { from: self.me, message, way: Some(Way::Here(reply)) });
        async { answer.await.ok() }
    }

    /// Asks the cache task of this node.
    pub(super) fn ask_cache_here(&self, message: FromHome) -> impl Future<Output = Option<CacheAnswer>> + use<> {
        let (reply, answer) = oneshot::channel();
        self.to_cache(ToCache::FromHome { from: self.me, message, way: Way::Here(reply) });
        async { Some(answer.await.ok()?.0) }
    }

    pub(super) fn to_home(&self, said: ToHomeTask) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.home.try_send(said) {
            self.bounds.hit("cache.home-inbox");
        }
    }

    pub(super) fn to_cache(&self, said: ToCache) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.cache.try_send(said) {
            self.bounds.hit("cache.inbox");
        }
    }
}
