//! Planned moves: a home stops a slot, sends what it has to the next one, and only then has the epoch committed.
//!
//! Until the epoch is committed what was sent is held at both ends: where the next home does not take it, or dies, the
//! slot comes back to the home that it had, in an epoch of its own.

use std::{collections::BTreeMap, time::Duration};

use futures::FutureExt;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use super::{Back, HomeTask};
use crate::{
    codec::encoded_len,
    ids::{Epoch, NodeId, Tick},
    machine::{
        cache::{HandOver, HandedEntry, HomeId, HomeInput, SlotId},
        control::ChangeBody,
        slots::{Slot, SlotAnswer, SlotBody, SlotChange},
    },
    net::Lane,
    node::{
        caches::{
            link::Link,
            wire::{CoherenceAsk, Part, Taken},
        },
        gateway::Gateway,
        route::Route,
        wire::ClientReply,
    },
};

/// Bytes of entries in one part, but for a single one that is larger.
const PART_BYTES: usize = 1 << 20;
/// Most parts of a slot.
const MAX_PARTS: u32 = 65_536;
/// How long a home tries to hand a slot over before it takes it back.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause before a part is sent again, or a change proposed again.
const PAUSE: Duration = Duration::from_millis(50);

/// Slots that come and go.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Those that are to be stopped.
    to_go: BTreeMap<SlotId, (Epoch, HomeId)>,
    /// What was handed over, until the epoch that follows is known.
    held: BTreeMap<SlotId, Held>,
}

/// What was handed over of a slot.
#[derive(Debug)]
struct Held {
    home: HomeId,
    epoch: Epoch,
    /// When the first of it came, which was after it was stopped.
    at: Tick,
    of: u32,
    parts: BTreeMap<u32, Part>,
}

/// What came of sending a slot.
#[derive(Debug)]
pub(super) struct Sent {
    slot: SlotId,
    epoch: Epoch,
    /// Who has all of it; `None`: nobody but this home.
    to: Option<HomeId>,
}

impl Moves {
    /// The view says that a slot is to go elsewhere.
    pub(super) fn is_to_go(&mut self, slot: SlotId, epoch: Epoch, to: HomeId) {
        self.to_go.insert(slot, (epoch, to));
    }

    /// Another home has the slot, or nobody.
    pub(super) fn is_elsewhere(&mut self, slot: SlotId) {
        self.to_go.remove(&slot);
        self.held.remove(&slot);
    }

    /// A part comes from the home of a slot, which is to go to `me`.
    pub(super) fn arrives(&mut self, now: Tick, (me, known): (HomeId, Slot), from: NodeId, part: Part) -> Taken {
        let is_so = known.home == Some(part.home) && known.epoch == part.epoch && known.to == Some(me);
        if !is_so || part.home.node != from || part.part >= part.of || part.of > MAX_PARTS {
            return Taken::No;
        }
        let Part { slot, epoch, home, of, .. } = part;
        let new = || Held { home, epoch, at: now, of, parts: BTreeMap::new() };
        let held = self.held.entry(slot).or_insert_with(new);
        if (held.home, held.epoch, held.of) != (home, epoch, of) {
            *held = new();
        }
        held.parts.insert(part.part, part);
        Taken::Yes
    }

    /// This home holds a slot that it has stopped.
    fn hold(&mut self, now: Tick, parts: &[Part]) {
        let Some(first) = parts.first() else { return };
        let Part { slot, epoch, home, of, .. } = *first;
        let parts = parts.iter().map(|part| (part.part, part.clone())).collect();
        self.held.insert(slot, Held { home, epoch, at: now, of, parts });
    }

    /// What was handed over by the home before this epoch, and when, if all of it is here.
    pub(super) fn take(&mut self, slot: SlotId, epoch: Epoch, by: HomeId) -> Option<(HandOver, Tick)> {
        self.to_go.remove(&slot);
        let held = self.held.remove(&slot)?;
        let is_whole = held.parts.len() == held.of as usize;
        if held.home != by || held.epoch.next() != epoch || !is_whole {
            return None;
        }
        let (mut caches, mut entries) = (Vec::new(), Vec::new());
        for part in held.parts.into_values() {
            caches.extend(part.caches);
            entries.extend(part.entries);
        }
        Some((HandOver { slot, epoch: held.epoch, home: by, caches, entries }, held.at))
    }
}

impl HomeTask {
    /// Stops the slots that are to go, as soon as they are served: what is recovering is not stopped before.
    pub(super) fn stop_what_is_to_go(&mut self) {
        if self.moves.to_go.is_empty() {
            return;
        }
        let is_due = |(slot, (epoch, _)): &(&SlotId, &(Epoch, HomeId))| {
            self.home.is_serving(**slot) && self.heeded.slot(**slot).epoch == *epoch
        };
        let slots: Vec<SlotId> = self.moves.to_go.iter().filter(is_due).map(|(slot, _)| *slot).collect();
        for slot in slots {
            self.step(HomeInput::Stop { slot });
        }
    }

    /// A slot is stopped: what it had is sent to the next home.
    pub(super) fn hand_over(&mut self, over: HandOver) {
        let (slot, epoch) = (over.slot, over.epoch);
        let Some((_, to)) = self.moves.to_go.remove(&slot) else { return };
        over.entries.iter().for_each(|entry| self.room.forgotten(&entry.key));
        let parts = in_parts(over);
        self.moves.hold(self.parts.clock.now(), &parts);
        debug!(slot = slot.0, epoch = epoch.0, to = %to.node, parts = parts.len(), "hands a slot over");
        self.parts.counters.sent_message("hand-over");
        let (link, route) = (self.parts.link.clone(), self.parts.route.clone());
        let send = async move {
            let arrived = send_all(&link, &route, to, parts).await;
            Back::Sent(Sent { slot, epoch, to: arrived.then_some(to) })
        };
        self.work.push(send.boxed());
    }

    /// The next home has it, or this one keeps it: only now the epoch is committed.
    pub(super) fn sent(&mut self, sent: Sent) {
        let me = self.parts.me;
        let to = sent.to.unwrap_or(me);
        if to == me {
            info!(slot = sent.slot.0, "the next home did not take the slot: this one goes on with it");
        }
        let (gateway, route) = (self.parts.gateway.clone(), self.parts.route.clone());
        let change = SlotChange { slot: sent.slot, based_on: sent.epoch, body: SlotBody::Handed(to) };
        let commit = async move {
            commit(&gateway, &route, me, change).await;
            Back::Committed
        };
        self.work.push(commit.boxed());
    }
}

/// Cuts what is handed over into parts that fit a message.
fn in_parts(over: HandOver) -> Vec<Part> {
    let HandOver { slot, epoch, home, caches, entries } = over;
    let mut chunks: Vec<Vec<HandedEntry>> = vec![Vec::new()];
    let mut bytes = 0;
    for entry in entries {
        let more = encoded_len(&entry);
        if bytes + more > PART_BYTES && bytes > 0 {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(entry);
        }
    }
    let of = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
    let part = |(part, entries)| Part { slot, epoch, home, part, of, caches: Vec::new(), entries };
    let mut parts: Vec<Part> = (0..of).zip(chunks).map(part).collect();
    parts[0].caches = caches;
    parts
}

/// Sends all parts, each until it is taken; `false`: the next home has not taken them in time, or is none any more.
async fn send_all(link: &Link, route: &Route, to: HomeId, parts: Vec<Part>) -> bool {
    let until = Instant::now() + PATIENCE;
    for part in parts {
        loop {
            let ask = CoherenceAsk::HandOver(part.clone());
            if let Some(Taken::Yes) = link.clone().ask(to.node, Lane::Ask, ask).await {
                break;
            }
            let view = route.view();
            let serves = view.members.get(&to.node).and_then(crate::machine::slots::home_of) == Some(to);
            if !serves || Instant::now() >= until {
                return false;
            }
            sleep(PAUSE).await;
        }
    }
    true
}

/// Has the change committed, however long that takes: the slot is served by nobody until then.
async fn commit(gateway: &Gateway, route: &Route, me: HomeId, mut change: SlotChange) {
    let is_over = || route.view().slots.get(&change.slot).is_some_and(|slot| slot.epoch > change.based_on);
    while !is_over() {
        let request = gateway.begin();
        match gateway.change(&request, None, ChangeBody::Slot(change), Duration::ZERO).await {
            Ok(ClientReply::Slot(SlotAnswer::Done(_))) => return,
            Ok(ClientReply::Slot(SlotAnswer::Void(epoch))) if epoch > change.based_on => return,
            // The next home died meanwhile.
            Ok(ClientReply::Slot(SlotAnswer::Void(_))) => change.body = SlotBody::Handed(me),
            other => debug!(?other, "the epoch of a slot is not committed yet"),
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{CacheKey, Incarnation},
        machine::{
            cache::{Value, Version},
            slots::Came,
        },
    };

    const SLOT: SlotId = SlotId(3);
    const NOW: Tick = Tick(70);

    fn home(n: u8) -> HomeId {
        HomeId { node: NodeId::from_bytes([n; 32]), incarnation: Incarnation(1), group: 0 }
    }

    /// As the view has it while home 1 is to hand the slot over to home 2.
    fn moving() -> Slot {
        Slot { epoch: Epoch(4), home: Some(home(1)), came: Came::Founded, to: Some(home(2)) }
    }

    /// A slot with so many values of this size.
    fn over(entries: usize, bytes: usize) -> HandOver {
        let entry = |n: usize| HandedEntry {
            key: CacheKey::new(n.to_string()).unwrap(),
            value: Some(Value { version: Version::default(), body: Some(vec![7; bytes].into()), ttl_ms: None }),
            owner: None,
        };
        let entries = (0..entries).map(entry).collect();
        HandOver { slot: SLOT, epoch: Epoch(4), home: home(1), caches: vec![home(9).node], entries }
    }

    fn arrive(moves: &mut Moves, part: Part) -> Taken {
        moves.arrives(NOW, (home(2), moving()), home(1).node, part)
    }

    #[test]
    fn what_is_sent_in_parts_arrives_as_it_was_in_any_order_and_more_than_once() {
        for (entries, bytes, parts) in [(0, 0, 1), (10, 10, 1), (7, PART_BYTES / 2, 7), (3, 2 * PART_BYTES, 3)] {
            let mut moves = Moves::default();
            let sent = in_parts(over(entries, bytes));
            assert_eq!(sent.len(), parts, "{entries} of {bytes} bytes");
            for part in sent.iter().rev().chain(&sent) {
                assert_eq!(arrive(&mut moves, part.clone()), Taken::Yes);
            }
            assert_eq!(moves.take(SLOT, Epoch(5), home(1)), Some((over(entries, bytes), NOW)));
            assert_eq!(moves.take(SLOT, Epoch(5), home(1)), None, "once");
        }
    }

    #[test]
    fn a_slot_of_which_a_part_is_missing_or_which_another_had_is_not_taken_over() {
        let mut moves = Moves::default();
        let parts = in_parts(over(4, PART_BYTES));
        parts.iter().skip(1).for_each(|part| _ = arrive(&mut moves, part.clone()));
        assert_eq!(moves.take(SLOT, Epoch(5), home(1)), None);
        parts.iter().for_each(|part| _ = arrive(&mut moves, part.clone()));
        assert_eq!(moves.take(SLOT, Epoch(6), home(1)), None, "another epoch was between");
        parts.iter().for_each(|part| _ = arrive(&mut moves, part.clone()));
        assert_eq!(moves.take(SLOT, Epoch(5), home(7)), None, "of another home");
    }

    #[test]
    fn nothing_is_taken_that_the_view_does_not_speak_of() {
        let mut moves = Moves::default();
        let part = in_parts(over(1, 1)).remove(0);
        let mut says = |me, slot, from: HomeId| moves.arrives(NOW, (me, slot), from.node, part.clone());
        assert_eq!(says(home(3), moving(), home(1)), Taken::No, "it is to go to another one");
        assert_eq!(says(home(2), Slot { to: None, ..moving() }, home(1)), Taken::No);
        assert_eq!(says(home(2), Slot { epoch: Epoch(5), ..moving() }, home(1)), Taken::No);
        assert_eq!(says(home(2), moving(), home(3)), Taken::No, "from another node than its home");
        assert_eq!(says(home(2), moving(), home(1)), Taken::Yes);
    }
}
