//! What concerns more than one cache node: where a key is, figures of all, invalidations by an operator.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    Caches,
    cache::ToCache,
    home::ToHomeTask,
    service::Here,
    types::{CacheNodeView, CacheView, DirectoryView, Invalidated, KeyState, Which},
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

/// Whom to ask for that, and of which of their slots. `None` where somebody is missing: a slot that never had a home has
/// no lines, one that has lost its home may have some.
fn homes_of(which: &Which, slots: &BTreeMap<SlotId, Slot>) -> Option<BTreeMap<NodeId, BTreeSet<SlotId>>> {
    let is_of = |slot: &SlotId| !matches!(which, Which::Key(key) if SlotId::of(key) != *slot);
    let mut homes: BTreeMap<NodeId, BTreeSet<SlotId>> = BTreeMap::new();
    for (id, slot) in slots.iter().filter(|(id, _)| is_of(id)) {
        homes.entry(slot.home?.node).or_default().insert(*id);
    }
    (!homes.is_empty()).then_some(homes)
}

impl Caches {
    /// Makes keys absent everywhere: every copy is gone, or its lease over, when this returns, but at homes that are
    /// named as unanswered.
    ///
    /// # Errors
    /// `bad-request`, `no-quorum` (this node has not joined a cluster), `unavailable` (nobody is home to a key now).
    pub async fn invalidate(&self, which: Which) -> Result<Invalidated, Error> {
        if let Which::Prefix(prefix) = &which
            && !(1..=MAX_NAME_BYTES).contains(&prefix.len())
        {
            let detail = format!("the prefix has {} bytes: expected 1 to {MAX_NAME_BYTES}", prefix.len());
            return Err(Error::bad_request("prefix", detail));
        }
        self.in_a_cluster()?;
        let Some(homes) = homes_of(&which, &self.inner.route.view().slots) else {
            return Err(Error::unavailable(
                crate::error::Outcome::NotApplied,
                "no node is home to it now: start nodes with the role cache-node, or wait a moment if they have just \
                 started; nothing was changed",
            ));
        };
        let patience = self.patience_now();
        let (mut invalidated, mut unanswered) = (0, Vec::new());
        let at_home = |(node, slots)| self.clear_at(node, which.clone(), slots, patience);
        let mut cleared = stream::iter(homes).map(at_home).buffer_unordered(AT_ONCE);
        while let Some((node, keys, is_over)) = cleared.next().await {
            invalidated += keys;
            if !is_over {
                unanswered.push(node);
            }
        }
        unanswered.sort_unstable();
        Ok(Invalidated { invalidated, unanswered })
    }

    /// Has a home clear these slots, bit by bit for as long as it gets on; how many keys are gone, and whether all are.
    async fn clear_at(
        &self,
        node: NodeId,
        which: Which,
        mut slots: BTreeSet<SlotId>,
        patience: Duration,
    ) -> (NodeId, u64, bool) {
        let (mut invalidated, mut got_on) = (0, Instant::now());
        loop {
            let ask = CacheAsk::Clear { which: which.clone(), slots: slots.clone() };
            let Some(CacheReply::Cleared(cleared)) = self.ask_one(node, &ask, patience).await else {
                return (node, invalidated, false);
            };
            invalidated += cleared.invalidated;
            let asked = slots.len();
            // Whatever it says, no more than it was asked for.
            slots.retain(|slot| cleared.left.contains(slot));
            if slots.len() < asked {
                got_on = Instant::now();
            }
            if slots.is_empty() || got_on.elapsed() >= patience {
                return (node, invalidated, slots.is_empty());
            }
        }
    }

    /// Where a key is.
    ///
    /// # Errors
    /// `no-quorum` (this node has not joined a cluster). Who does not answer is named, and what only that one knows is left
    /// out.
    pub async fn state(&self, key: CacheKey) -> Result<KeyState, Error> {
        self.in_a_cluster()?;
        let home = self.inner.route.view().slots.get(&SlotId::of(&key)).and_then(|slot| slot.home);
        let home = home.map(|home| home.node);
        let (ask_home, ask_line) = (CacheAsk::Entry(key.clone()), CacheAsk::Line(key.clone()));
        let entries = self.ask_all(home, &ask_home, LOOK);
        let all = self.ask_all(self.inner.forward.cache_nodes(), &ask_line, LOOK);
        let (entries, all) = tokio::join!(entries, all);
        let (mut known, mut lines, mut unanswered) = (None, Vec::new(), BTreeSet::new());
        for (node, reply) in entries.into_iter().chain(all) {
            match reply {
                Some(CacheReply::Entry(entry)) => known = entry,
                Some(CacheReply::Line(line)) => lines.extend(line),
                _ => _ = unanswered.insert(node),
            }
        }
        let nothing = || DirectoryView { state: "I".into(), owner: None, sharers: Vec::new() };
        let (version, directory) = known.unwrap_or_else(|| (None, nothing()));
        Ok(KeyState { key, home, version, directory, lines, unanswered: unanswered.into_iter().collect() })
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

    /// Gives all lines of this node back to their homes: it is about to stop. Returns how many are still here, which is
    /// to be asked again until there are none: what is given back is here until its home has said that it has it.
    pub(crate) async fn give_back(&self) -> usize {
        let Some(here) = &self.inner.here else { return 0 };
        let (reply, left) = oneshot::channel();
        // A cache that has ended holds nothing.
        if here.cache.send(ToCache::GiveBack { reply }).await.is_err() {
            return 0;
        }
        timeout(LOOK, left).await.ok().and_then(Result::ok).unwrap_or(usize::MAX)
    }

    /// Asks nodes the same, this one too, in any order; `None` of those that do not answer.
    async fn ask_all(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        ask: &CacheAsk,
        patience: Duration,
    ) -> Vec<(NodeId, Option<CacheReply>)> {
        let one = |node: NodeId| async move { (node, self.ask_one(node, ask, patience).await) };
        let nodes: Vec<NodeId> = nodes.into_iter().collect();
        let mut answers: Vec<_> = stream::iter(nodes).map(one).buffer_unordered(AT_ONCE).collect().await;
        answers.sort_by_key(|(node, _)| *node);
        answers
    }

    /// Asks a node, perhaps this one; `None` where it does not answer.
    async fn ask_one(&self, node: NodeId, ask: &CacheAsk, patience: Duration) -> Option<CacheReply> {
        if node != self.inner.me {
            return self.inner.forward.ask_node(node, ask, patience).await;
        }
        timeout(patience, self.serve(ask.clone(), &Parking::default())).await.ok()
    }

    /// What this node knows by itself.
    pub(super) async fn look(&self, here: &Here, ask: CacheAsk) -> CacheReply {
        match ask {
            CacheAsk::Clear { which, slots } => {
                let (reply, cleared) = oneshot::channel();
                let asked = here.home.send(ToHomeTask::Clear { which, slots, reply }).await.is_ok();
                match timeout(self.write_patience(), cleared).await {
                    Ok(Ok(cleared)) if asked => CacheReply::Cleared(cleared),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{Epoch, Incarnation},
        machine::cache::HomeId,
    };

    #[test]
    fn who_is_asked_to_clear_is_all_that_may_know_of_a_line_or_nobody() {
        let key = CacheKey::new("k").unwrap();
        let slot = SlotId::of(&key);
        let other = SlotId(slot.0 ^ 1);
        let node = NodeId::from_bytes([1; 32]);
        let home = HomeId { node, incarnation: Incarnation(1), group: 0 };
        let placed = Slot { epoch: Epoch(1), home: Some(home), ..Slot::default() };
        let orphaned = Slot { epoch: Epoch(2), ..Slot::default() };
        let (all, one) = (Which::All, Which::Key(key));
        let asks = |which, slots: &[(SlotId, Slot)]| {
            homes_of(which, &slots.iter().copied().collect())
                .map(|homes| homes[&node].iter().copied().collect::<Vec<_>>())
        };
        assert_eq!(asks(&all, &[]), None, "nothing is placed");
        assert_eq!(asks(&all, &[(slot, placed)]), Some(vec![slot]), "the others never had a home");
        assert_eq!(asks(&all, &[(slot, placed), (other, orphaned)]), None, "nobody knows of its lines");
        assert_eq!(asks(&one, &[(slot, placed), (other, orphaned)]), Some(vec![slot]));
        assert_eq!(asks(&one, &[(other, placed)]), None);
    }
}
