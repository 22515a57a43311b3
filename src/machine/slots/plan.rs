//! What is to be changed next in the placement of the cache's slots.
//!
//! Pure: the leader calls [`next`] when something changed and every now and then, and proposes what it names. All slots
//! are placed together at first; from then on a few move at a time to where the ring wants them, so that a node that
//! joins takes about its share, and one that is about to stop gives all of its away.

use std::collections::BTreeMap;

use super::{Slot, SlotBody, SlotChange};
use crate::{
    ids::NodeId,
    machine::{
        cache::{HomeId, SLOTS, SlotId},
        membership::Liveness,
        placement::Ring,
    },
};

/// A cache node must have been up for so long before it is given anything, in milliseconds; at first all of them, so
/// that those who start together share evenly.
pub const STABLE_MS: u64 = 500;
/// It must have been up for so long before slots are taken from others for it, in milliseconds: a node that fails again
/// and again must not take them with it each time.
pub const MOVE_AFTER_MS: u64 = 2_000;
/// So many slots move at a time: while one does, its keys wait.
pub const MOVES_AT_ONCE: usize = 16;
/// A slot must have been in its epoch for so long before it moves for an even load, in milliseconds: a move that came
/// to nothing is not tried again at once.
pub const REST_MS: u64 = 5_000;
/// Likewise away from a home that is about to stop.
pub const URGENT_REST_MS: u64 = 250;

/// A cache node, as the leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheNode {
    /// This run of it.
    pub home: HomeId,
    /// Its liveness in the replicated state.
    pub liveness: Liveness,
    /// For how long it has been so, by the leader's own clock, in milliseconds.
    pub since_ms: u64,
}

/// What a decision is made from.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The slots as they are.
    pub slots: &'a BTreeMap<SlotId, Slot>,
    /// For how long each has been in its epoch, by the leader's own clock, in milliseconds.
    pub in_epoch_ms: &'a BTreeMap<SlotId, u64>,
    /// The cache nodes that serve.
    pub nodes: &'a BTreeMap<NodeId, CacheNode>,
}

/// The changes that are wanted next, to be proposed in one entry; none where nothing is to be done now.
pub fn next(now: &Situation<'_>) -> Vec<SlotChange> {
    let places = places(now);
    if places.is_empty() { moves(now) } else { places }
}

/// How many slots are not where they are to be.
pub fn moving(now: &Situation<'_>) -> usize {
    let ring = ring(now, 0);
    all(now).filter(|(id, slot)| wanted(now, &ring, *id).is_some_and(|wanted| slot.home != Some(wanted))).count()
}

fn all<'a>(now: &'a Situation<'_>) -> impl Iterator<Item = (SlotId, Slot)> + 'a {
    (0..SLOTS).map(|id| (SlotId(id), now.slots.get(&SlotId(id)).copied().unwrap_or_default()))
}

/// The ring of those that are up, and have been for so long.
fn ring(now: &Situation<'_>, since_ms: u64) -> Ring {
    let is_home = |id: &NodeId| now.slots.values().any(|slot| slot.home.is_some_and(|home| home.node == *id));
    let counts = |(id, node): &(&NodeId, &CacheNode)| {
        node.liveness == Liveness::Up && (node.since_ms >= since_ms || is_home(id))
    };
    Ring::new(now.nodes.iter().filter(counts).map(|(id, _)| *id))
}

fn wanted(now: &Situation<'_>, ring: &Ring, slot: SlotId) -> Option<HomeId> {
    Some(now.nodes.get(&ring.home_of(slot)?)?.home)
}

/// Slots that nobody is home to.
fn places(now: &Situation<'_>) -> Vec<SlotChange> {
    let is_first = now.slots.is_empty();
    let up = || now.nodes.values().filter(|node| node.liveness == Liveness::Up);
    if is_first && up().any(|node| node.since_ms < STABLE_MS) {
        return Vec::new();
    }
    let ring = ring(now, 0);
    let orphans = all(now).filter(|(_, slot)| slot.home.is_none());
    let place = |(id, slot): (SlotId, Slot)| {
        let home = wanted(now, &ring, id)?;
        Some(SlotChange { slot: id, based_on: slot.epoch, body: SlotBody::Place(home) })
    };
    orphans.filter_map(place).collect()
}

/// Slots that are to go elsewhere; those whose home is about to stop first.
fn moves(now: &Situation<'_>) -> Vec<SlotChange> {
    let ring = ring(now, MOVE_AFTER_MS);
    let under_way = now.slots.values().filter(|slot| slot.to.is_some()).count();
    let is_draining = |home: HomeId| now.nodes.get(&home.node).is_some_and(|node| node.liveness == Liveness::Draining);
    let mut moves = Vec::new();
    for (id, slot) in all(now) {
        let Some(home) = slot.home.filter(|_| slot.to.is_none()) else { continue };
        let Some(to) = wanted(now, &ring, id).filter(|to| *to != home) else { continue };
        let is_urgent = is_draining(home);
        let rest_ms = if is_urgent { URGENT_REST_MS } else { REST_MS };
        if now.in_epoch_ms.get(&id).copied().unwrap_or(0) >= rest_ms {
            moves.push((!is_urgent, SlotChange { slot: id, based_on: slot.epoch, body: SlotBody::Move(to) }));
        }
    }
    moves.sort_by_key(|(later, change)| (*later, change.slot));
    moves.into_iter().take(MOVES_AT_ONCE.saturating_sub(under_way)).map(|(_, change)| change).collect()
}
