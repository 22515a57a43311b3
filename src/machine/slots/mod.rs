//! Which node is home to which slot of the cache, as Raft replicates it.
//!
//! Owns the epoch and the home of each slot, and where it is to go. Changed only by committed entries: by
//! [`SlotChange`]s, and by what happens to members, so that whoever follows a home that died is chosen when the entry
//! that says so is applied. What is wanted is not decided here: [`plan`] says it to the leader. [`packed`] is how all of
//! it travels.
//!
//! A home is one run of a node: after a restart it is home to nothing until a new epoch says so. An epoch has at most
//! one home, for good. How a home is to begin with a slot stands beside it ([`Came`]): a home that follows one that may
//! be alive waits until that one's leases are over, counted from when it hears of its epoch. That is long enough because
//! a member's lease is given only by a leader that has applied all that was committed before the lease was asked for,
//! and taken only once the view that it names is installed: after an epoch is known anywhere, the home before gets no
//! lease that was asked for later.

pub mod packed;
pub mod plan;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::packed::{SlotTable, table};
use super::{
    cache::{HomeId, SlotId},
    membership::{Liveness, Member, Membership},
    placement::Ring,
};
use crate::ids::{Epoch, Incarnation, NodeId, Role};

/// How a home is to begin with a slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Came {
    /// Nobody was home to it before.
    #[default]
    Founded,
    /// The home before died, or may have: nothing of it is left, and it may be alive for a while.
    Lost,
    /// The home before stopped, and handed over what it had.
    Handed(HomeId),
}

/// Who is home to a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Slot {
    /// Grows with each change of the home.
    pub epoch: Epoch,
    /// `None`: nobody can be, or it was not placed yet (epoch 0).
    pub home: Option<HomeId>,
    /// How the home begins.
    pub came: Came,
    /// To whom the home is to hand it over.
    pub to: Option<HomeId>,
}

/// A change of one slot. Void unless the slot is still in the epoch on which it is based.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotChange {
    /// Which.
    pub slot: SlotId,
    /// The epoch that its proposer knew.
    pub based_on: Epoch,
    /// What.
    pub body: SlotBody,
}

/// What changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SlotBody {
    /// The leader: a slot that nobody is home to gets this home.
    Place(HomeId),
    /// The leader: the home is to hand it over to this one, which is not about to stop. No new epoch.
    Move(HomeId),
    /// The home itself: it has stopped, and this one has all that it had: the one that it was to hand over to, or, where
    /// that did not come about, itself.
    Handed(HomeId),
}

/// What came of a [`SlotChange`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SlotAnswer {
    /// Done; the slot is in this epoch now.
    Done(Epoch),
    /// Void: the slot is in this epoch, which is another one, or the change does not fit it.
    Void(Epoch),
}

/// What a member is to the cache's slots.
pub fn home_of(member: &Member) -> Option<HomeId> {
    let is_home = member.serves() && member.has_role(Role::CacheNode);
    is_home.then_some(HomeId { node: member.joiner.node, incarnation: member.joiner.incarnation, group: 0 })
}

/// All slots that were ever placed. The version grows with every change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Slots {
    version: u64,
    #[serde(with = "packed")]
    table: SlotTable,
}

impl Slots {
    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All of them, shared.
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    /// A slot; one that was never placed is in epoch 0.
    pub fn slot(&self, slot: SlotId) -> Slot {
        self.table.get(&slot).copied().unwrap_or_default()
    }

    /// Whether this run of a node may ask for a change. What is void anyhow may be asked by anyone: the answer is how a
    /// home hears that it is none any more.
    pub fn may_come_from(&self, node: &NodeId, incarnation: Incarnation, change: &SlotChange) -> bool {
        let now = self.slot(change.slot);
        let is_home = now.home.is_some_and(|home| home.node == *node && home.incarnation == incarnation);
        matches!(change.body, SlotBody::Handed(_)) && (is_home || now.epoch != change.based_on)
    }

    /// Applies a change.
    pub fn apply(&mut self, members: &Membership, change: SlotChange) -> SlotAnswer {
        let SlotChange { slot: id, based_on, body } = change;
        let now = self.slot(id);
        let after = match body {
            _ if now.epoch != based_on || id.0 >= super::cache::SLOTS => None,
            SlotBody::Place(home) => place(now, members, home),
            SlotBody::Move(to) => begin_move(now, members, to),
            SlotBody::Handed(to) => handed(now, members, to),
        };
        match after {
            Some(after) => {
                self.set(id, after);
                SlotAnswer::Done(after.epoch)
            }
            None => SlotAnswer::Void(now.epoch),
        }
    }

    /// Something happened to a member: the slots that it was home to, and is no more, get another home at once where
    /// there is one.
    pub fn member_changed(&mut self, members: &Membership, node: &NodeId) {
        let is_orphan = |slot: &Slot| slot.home.is_some_and(|home| home.node == *node && !is_home_now(members, home));
        let orphans: Vec<(SlotId, Slot)> =
            self.table.iter().filter(|(_, slot)| is_orphan(slot)).map(|(id, slot)| (*id, *slot)).collect();
        if orphans.is_empty() {
            return;
        }
        let heirs = Heirs::of(members);
        for (id, now) in orphans {
            self.set(id, Slot { epoch: now.epoch.next(), home: heirs.of_slot(id), came: Came::Lost, to: None });
        }
    }

    /// Whoever decided on the slots is gone, and may have made somebody home of whom nothing is known here: all of them
    /// get an epoch that nobody can have had, and no home until one is placed, which then waits as after a death.
    pub fn recover(&mut self, epochs: u64) {
        for id in (0..super::cache::SLOTS).map(SlotId) {
            let epoch = Epoch(self.slot(id).epoch.0 + epochs);
            self.set(id, Slot { epoch, home: None, came: Came::Lost, to: None });
        }
        self.version += epochs;
    }

    fn set(&mut self, id: SlotId, after: Slot) {
        Arc::make_mut(&mut self.table).insert(id, after);
        self.version += 1;
    }
}

fn is_home_now(members: &Membership, home: HomeId) -> bool {
    members.members().get(&home.node).and_then(home_of) == Some(home)
}

fn place(now: Slot, members: &Membership, home: HomeId) -> Option<Slot> {
    let came = if now.epoch == Epoch(0) { Came::Founded } else { Came::Lost };
    let may = now.home.is_none() && is_home_now(members, home);
    may.then_some(Slot { epoch: now.epoch.next(), home: Some(home), came, to: None })
}

/// Not to who is about to stop: once it is, it only has to wait for those slots that were already to come to it.
fn begin_move(now: Slot, members: &Membership, to: HomeId) -> Option<Slot> {
    let is_up = members.members().get(&to.node).is_some_and(|member| member.liveness == Liveness::Up);
    let may = now.home.is_some_and(|home| home != to) && now.to.is_none() && is_up && is_home_now(members, to);
    may.then_some(Slot { to: Some(to), ..now })
}

fn handed(now: Slot, members: &Membership, to: HomeId) -> Option<Slot> {
    let by = now.home?;
    let may = now.to.is_some() && (now.to == Some(to) || to == by) && is_home_now(members, to);
    may.then_some(Slot { epoch: now.epoch.next(), home: Some(to), came: Came::Handed(by), to: None })
}

/// Who takes slots over: those that are up, by the ring; those that are about to stop, where there are no others.
struct Heirs {
    ring: Ring,
    homes: BTreeMap<NodeId, HomeId>,
}

impl Heirs {
    fn of(members: &Membership) -> Self {
        let all = || members.members().iter().filter_map(|(node, member)| Some((*node, home_of(member)?, member)));
        let up: BTreeMap<NodeId, HomeId> = all()
            .filter(|(_, _, member)| member.liveness == Liveness::Up)
            .map(|(node, home, _)| (node, home))
            .collect();
        let homes = if up.is_empty() { all().map(|(node, home, _)| (node, home)).collect() } else { up };
        Self { ring: Ring::new(homes.keys().copied()), homes }
    }

    fn of_slot(&self, slot: SlotId) -> Option<HomeId> {
        self.homes.get(&self.ring.home_of(slot)?).copied()
    }
}
