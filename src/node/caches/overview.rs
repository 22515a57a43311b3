//! What concerns more than one cache node: where a key is, figures of all, invalidations by an operator.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt, stream};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Caches,
    cache::ToCache,
    home::ToHomeTask,
    service::Here,
    types::{CacheNodeView, CacheView, DirectoryView, Invalidated, KeyState, LineView, Which},
    wire::{CacheAsk, CacheReply},
};
use crate::{
    error::{Error, ErrorCode},
    ids::{CacheKey, MAX_NAME_BYTES, NodeId},
    machine::{cache::SlotId, slots::Slot},
    node::parking::Parking,
};

/// How long somebody who looks waits for a node.
const LOOK: Duration = Duration::from_secs(2);
/// So many nodes are asked at a time.
const AT_ONCE: usize = 32;
/// How often a node gives its lines back before it stops, and how long it waits in between.
const GIVE_BACK: (usize, Duration) = (20, Duration::from_millis(50));

impl Caches {
    /// Makes keys absent everywhere: every copy is gone, or its lease over, when this returns, but at homes that are
    /// named as unanswered.
    ///
    /// # Errors
    /// `bad-request`, `unavailable` (nobody is home to a key now).
    pub async fn invalidate(&self, which: Which) -> Result<Invalidated, Error> {
        if let Which::Prefix(prefix) = &which
            && !(1..=MAX_NAME_BYTES).contains(&prefix.len())
        {
            let detail = format!("the prefix has {} bytes: expected 1 to {MAX_NAME_BYTES}", prefix.len());
            return Err(Error::bad_request("prefix", detail));
        }
        let view = self.inner.route.view();
        let home_of = |slot: &Slot| slot.home.map(|home| home.node);
        let homes: BTreeSet<NodeId> = match &which {
            Which::Key(key) => view.slots.get(&SlotId::of(key)).and_then(home_of).into_iter().collect(),
            Which::Prefix(_) | Which::All => view.slots.values().filter_map(home_of).collect(),
        };
        if homes.is_empty() {
            return Err(Error::unavailable(
                crate::error::Outcome::NotApplied,
                "no node is home to it now: start nodes with the role cache-node, or wait a moment if they have just \
                 started; nothing was changed",
            ));
        }
        let patience = self.write_patience();
        let (mut invalidated, mut unanswered) = (0, Vec::new());
        for (node, reply) in self.ask_all(homes, &CacheAsk::Clear(which), patience).await {
            match reply {
                Some(CacheReply::Cleared(cleared)) => invalidated += cleared.invalidated,
                _ => unanswered.push(node),
            }
        }
        Ok(Invalidated { invalidated, unanswered })
    }

    /// Where a key is.
    ///
    /// # Errors
    /// None now; what cannot be found out is left out.
    pub async fn state(&self, key: CacheKey) -> Result<KeyState, Error> {
        let home = self.inner.route.view().slots.get(&SlotId::of(&key)).and_then(|slot| slot.home);
        let home = home.map(|home| home.node);
        let entries = self.ask_all(home, &CacheAsk::Entry(key.clone()), LOOK).await;
        let known = entries.into_iter().find_map(|(_, reply)| match reply {
            Some(CacheReply::Entry(entry)) => entry,
            _ => None,
        });
        let nothing = || DirectoryView { state: "I".into(), owner: None, sharers: Vec::new() };
        let (version, directory) = known.unwrap_or_else(|| (None, nothing()));
        let all = self.ask_all(self.inner.forward.cache_nodes(), &CacheAsk::Line(key.clone()), LOOK).await;
        let lines: Vec<LineView> = all
            .into_iter()
            .filter_map(|(_, reply)| match reply {
                Some(CacheReply::Line(line)) => line,
                _ => None,
            })
            .collect();
        Ok(KeyState { key, home, version, directory, lines })
    }

    /// The figures of all cache nodes.
    ///
    /// # Errors
    /// None now; who does not answer is named.
    pub async fn stats(&self) -> Result<CacheView, Error> {
        let (mut nodes, mut unanswered) = (Vec::new(), Vec::new());
        for (node, reply) in self.ask_all(self.inner.forward.cache_nodes(), &CacheAsk::Stats, LOOK).await {
            match reply {
                Some(CacheReply::Stats(view)) => nodes.push(*view),
                _ => unanswered.push(node),
            }
        }
        Ok(CacheView { protocol: self.protocol(), write_policy: self.write_policy(), nodes, unanswered })
    }

    /// The figures of this node; `None` where it is no cache node.
    ///
    /// # Errors
    /// `unavailable`: its cache has not begun, or the node stops.
    pub async fn stats_here(&self) -> Option<CacheNodeView> {
        let here = self.inner.here.as_ref()?;
        match self.look(here, CacheAsk::Stats).await {
            CacheReply::Stats(view) => Some(*view),
            _ => None,
        }
    }

    /// Gives all lines of this node back to their homes, for a while: it is about to stop.
    pub(crate) async fn give_back(&self) {
        let Some(here) = &self.inner.here else { return };
        let (tries, pause) = GIVE_BACK;
        for _ in 0..tries {
            let (reply, left) = oneshot::channel();
            let sent = here.cache.send(ToCache::GiveBack { reply }).await.is_ok();
            if !sent || matches!(timeout(LOOK, left).await, Ok(Ok(0)) | Err(_)) {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks nodes the same, this one too, in any order; `None` of those that do not answer.
    async fn ask_all(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        ask: &CacheAsk,
        patience: Duration,
    ) -> Vec<(NodeId, Option<CacheReply>)> {
        let one = |node: NodeId| async move {
            if node != self.inner.me {
                return (node, self.inner.forward.ask_node(node, ask, patience).await);
            }
            let served = timeout(patience, self.serve(ask.clone(), &Parking::default())).await;
            (node, served.ok())
        };
        let nodes: Vec<NodeId> = nodes.into_iter().collect();
        let mut answers: Vec<_> = stream::iter(nodes).map(one).buffer_unordered(AT_ONCE).collect().await;
        answers.sort_by_key(|(node, _)| *node);
        answers
    }

    /// What this node knows by itself.
    pub(super) async fn look(&self, here: &Here, ask: CacheAsk) -> CacheReply {
        match ask {
            CacheAsk::Clear(which) => {
                let (reply, cleared) = oneshot::channel();
                let asked = here.home.send(ToHomeTask::Clear { which, reply }).await.is_ok();
                match timeout(self.write_patience(), cleared).await {
                    Ok(Ok(invalidated)) if asked => {
                        CacheReply::Cleared(Invalidated { invalidated, unanswered: Vec::new() })
                    }
                    _ => failed(),
                }
            }
            CacheAsk::Entry(key) => {
                let (reply, entry) = oneshot::channel();
                let asked = here.home.send(ToHomeTask::Entry { key, reply }).await.is_ok();
                match timeout(LOOK, entry).await {
                    Ok(Ok(entry)) if asked => CacheReply::Entry(entry),
                    _ => failed(),
                }
            }
            CacheAsk::Line(key) => {
                let (reply, line) = oneshot::channel();
                let asked = here.cache.send(ToCache::Line { key, reply }).await.is_ok();
                match timeout(LOOK, line).await {
                    Ok(Ok(line)) if asked => CacheReply::Line(line),
                    _ => failed(),
                }
            }
            _ => {
                let (reply, stats) = oneshot::channel();
                let asked = here.cache.send(ToCache::Stats { reply }).await.is_ok();
                match timeout(LOOK, stats).await {
                    Ok(Ok(stats)) if asked => CacheReply::Stats(stats),
                    _ => failed(),
                }
            }
        }
    }
}

fn failed() -> CacheReply {
    CacheReply::Failed(Error::new(ErrorCode::Unavailable, "the cache of this node does not answer now: try again"))
}
