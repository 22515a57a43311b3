//! A small cluster around [`Replication`]: nodes with journals, a network that loses, delays, doubles and reorders,
//! and a control plane with the rules of the placement. For the model checker and for random runs.
//!
//! Whatever can happen next is an [`Action`]; what must never happen is noted in [`World::wrong`].

mod actions;
mod control;
mod parts;
mod script;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

pub(super) use self::{
    actions::{Action, Budget},
    control::Asking,
    parts::Envelope,
};
use self::{
    control::{Control, Member},
    parts::{Disk, Write},
};
use super::{
    ChangeOutcome, Durability, Effect, Epoch, Input, PartitionId, Position, Record, Recovered, Replica, Replication,
    RoleView, Settings, Tick,
    rules::{Rule, Rules},
};
use crate::{
    ids::{Incarnation, JournalId, NodeId},
    machine::{
        checker::{self, Kept, Network},
        placement::{Partition, PartitionStatus, PlacementBody, PlacementChange},
    },
};

/// The time at which everything happens but what waits for time to pass.
const NOW: Tick = Tick(1_000_000);
/// So much passes then: longer than all that anybody waits for.
const LONG_MS: u64 = 100_000;

pub(super) fn node(index: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(index).expect("few nodes") + 1; 32])
}

fn index(node: &NodeId) -> usize {
    (0..8).find(|at| self::node(*at) == *node).expect("a node of this world")
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    incarnation: u64,
    /// `None`: it has crashed.
    machine: Option<Kept<Replication>>,
    disk: Kept<Disk>,
    /// The operations that its queues have applied: all that they are.
    applied: Vec<u8>,
    /// What it took and has not answered: place, operation, and how much had been acknowledged before.
    taken: Vec<(Position, u8, usize)>,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct World {
    nodes: Vec<Node>,
    control: Kept<Control>,
    network: Network<Envelope>,
    budget: Kept<Budget>,
    settings: Settings,
    rules: Rules,
    proposed: usize,
    journals: u128,
    /// So many placements have been looked at.
    known: usize,
    /// What was committed, by whomever it was said.
    truth: Vec<(Position, Durability, Option<u8>)>,
    /// What was acknowledged, in order: operation, place, and by whom.
    acknowledged: Vec<(u8, Position, Replica)>,
    /// In which epoch of its placement who acknowledged.
    acknowledging: BTreeSet<(Epoch, Replica)>,
    pub(super) wrong: Option<&'static str>,
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
}

impl World {
    /// So many nodes, of which the first `in_sync` have the partition; the first is its primary.
    pub(super) fn new(nodes: usize, in_sync: usize, settings: Settings, budget: Budget, without: &[Rule]) -> Self {
        let replica =
            |at: usize| Replica { node: node(at), incarnation: Incarnation(1), journal: JournalId(at as u128 + 1) };
        let placed = Partition {
            epoch: Epoch(1),
            primary: Some(replica(0)),
            in_sync: (0..in_sync).map(replica).collect(),
            holders: (0..in_sync).map(replica).collect(),
            replicas: (0..nodes).map(node).collect(),
            status: PartitionStatus::Serving,
        };
        let control = Control {
            history: vec![Arc::new(placed)],
            members: (0..nodes).map(|at| Member { replica: replica(at), up: true }).collect(),
            pending: BTreeMap::new(),
            answers: BTreeMap::new(),
        };
        let mut world = Self {
            nodes: vec![],
            control: Kept::new(control),
            network: Network::default(),
            budget: Kept::new(budget),
            settings,
            rules: Rules { without: without.to_vec() },
            proposed: 0,
            journals: nodes as u128,
            known: 1,
            truth: vec![],
            acknowledged: vec![],
            acknowledging: BTreeSet::new(),
            wrong: None,
        };
        for at in 0..nodes {
            let disk = Kept::new(Disk::empty(at as u128 + 1));
            let fresh = Node { incarnation: 1, machine: None, disk, applied: vec![], taken: vec![] };
            world.nodes.push(fresh);
            world.start(at);
        }
        world
    }

    fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let me = Replica { node: self::node(at), incarnation: Incarnation(node.incarnation), journal: node.disk.id };
        let recovered = Recovered { checkpoint: node.disk.at, records: node.disk.records.clone(), verified: true };
        let mut machine = Replication::new(me, PartitionId(0), self.settings, recovered);
        machine.rules = self.rules.clone();
        node.machine = Some(Kept::new(machine));
        node.applied = node.disk.state.clone();
        node.taken.clear();
    }

    /// The machine of a node, if it runs.
    pub(super) fn machine(&self, at: usize) -> Option<&Replication> {
        self.nodes[at].machine.as_deref()
    }

    /// What the queues of a node have applied.
    pub(super) fn applied(&self, at: usize) -> &[u8] {
        &self.nodes[at].applied
    }

    /// The placement as it is now.
    pub(super) fn placement(&self) -> &Partition {
        self.control.now()
    }

    /// From now on nothing fails any more.
    pub(super) fn end_faults(&mut self) {
        self.budget.change(|budget| *budget = Budget { ticks: u8::MAX, ..Budget::default() });
    }

    /// Something that is under way is lost; of a request to the control plane the outcome is unknown then.
    pub(super) fn lose(&mut self, envelope: u64) {
        let lost = self.network.0.remove(&envelope);
        if let Some(Envelope::Outcome { to, incarnation, ask, epoch, .. }) = lost.as_deref().cloned() {
            self.network.add(Envelope::Outcome { to, incarnation, ask, epoch, done: None });
        }
    }

    /// All that can happen.
    pub(super) fn actions(&self, actions: &mut Vec<Action>) {
        if self.wrong.is_some() {
            return;
        }
        let budget = &self.budget;
        for at in 0..self.nodes.len() {
            self.actions_of(at, actions);
        }
        for envelope in self.network.0.keys() {
            actions.push(Action::Deliver { envelope: *envelope });
            if budget.duplicates > 0 {
                actions.push(Action::DeliverAndKeep { envelope: *envelope });
            }
        }
        for asking in self.control.pending.keys() {
            actions.push(Action::Apply { asking: *asking });
            if budget.forgotten > 0 && self.control.answers.contains_key(asking) {
                actions.push(Action::ApplyAgain { asking: *asking });
            }
            if budget.unknowns > 0 {
                actions.push(Action::Unknown { asking: *asking });
            }
        }
    }

    fn actions_of(&self, at: usize, actions: &mut Vec<Action>) {
        let (node, budget, member) = (&self.nodes[at], &self.budget, self.control.members[at]);
        let Some(machine) = &node.machine else {
            actions.push(Action::Restart { node: at, empty: false });
            if budget.amnesias > 0 {
                actions.push(Action::Restart { node: at, empty: true });
            }
            if member.up {
                actions.push(Action::Suspect { node: at });
            }
            return;
        };
        if self.proposed < budget.operations.len() && machine.role() == (RoleView::Primary { serving: true }) {
            actions.push(Action::Propose { node: at });
        }
        if !node.disk.writes.is_empty() {
            actions.push(Action::Write { node: at });
        }
        if budget.ticks > 0 && machine.deadline().is_some() {
            actions.push(Action::Time { node: at });
        }
        let newer = self.control.history.iter().filter(|partition| partition.epoch > machine.epoch());
        actions.extend(newer.map(|partition| Action::View { node: at, epoch: partition.epoch }));
        if budget.crashes > 0 {
            actions.push(Action::Crash { node: at, written: false });
            if !node.disk.writes.is_empty() {
                actions.push(Action::Crash { node: at, written: true });
            }
        }
        let is_known = member.replica == machine.me();
        if !is_known {
            actions.push(Action::Join { node: at });
        } else if !member.up {
            actions.push(Action::Trust { node: at });
        } else if budget.suspicions > 0 {
            actions.push(Action::Suspect { node: at });
        }
        let now = self.control.now();
        let may_serve = now.in_sync.contains(&machine.me()) && now.primary.is_some_and(|it| it != machine.me());
        if budget.hand_overs > 0 && may_serve {
            actions.push(Action::HandOver { to: at });
        }
    }

    /// Something happens.
    pub(super) fn happen(&mut self, action: &Action) {
        self.take_place(action);
        let mut machines = self.nodes.iter().filter_map(|node| node.machine.as_ref());
        if self.budget.calls.is_some_and(|most| machines.any(|machine| machine.calls > most)) {
            self.wrong = Some("a machine talks without end");
        }
        self.check_holders();
        self.forget_the_void();
    }

    /// What would be ignored whenever it came is under way no more.
    fn forget_the_void(&mut self) {
        let nodes = &self.nodes;
        self.network.0.retain(|_, envelope| match &**envelope {
            Envelope::Ask { .. } => true,
            Envelope::Answer { to, incarnation, from, call, .. } => {
                let machine = nodes[*to].machine.as_ref().filter(|_| nodes[*to].incarnation == *incarnation);
                machine.is_some_and(|machine| machine.awaits(&node(*from), *call))
            }
            Envelope::Outcome { to, incarnation, ask, epoch, .. } => {
                let machine = nodes[*to].machine.as_ref().filter(|_| nodes[*to].incarnation == *incarnation);
                machine.is_some_and(|machine| machine.epoch() < *epoch || machine.asks_for(*ask))
            }
        });
        let is_dead = |asking: &Asking| {
            nodes[asking.from].machine.is_none() || nodes[asking.from].incarnation != asking.incarnation
        };
        let now = self.control.now().epoch;
        let is_void = |asking: &Asking, change: &PlacementChange| is_dead(asking) && change.based_on < now;
        if self.control.pending.iter().any(|(asking, change)| is_void(asking, change)) {
            self.control.change(|control| control.pending.retain(|asking, change| !is_void(asking, change)));
        }
    }

    fn take_place(&mut self, action: &Action) {
        match action {
            Action::Propose { node } => self.propose(*node),
            Action::View { node, epoch } => {
                let partition = self.control.at(*epoch).clone();
                self.input(*node, NOW, Input::Placed(partition));
            }
            Action::Deliver { envelope } => {
                if let Some(envelope) = self.network.0.remove(envelope) {
                    self.deliver(&envelope);
                }
            }
            Action::DeliverAndKeep { envelope } => {
                self.budget.change(|budget| budget.duplicates -= 1);
                let envelope = self.network.0[envelope].clone();
                self.deliver(&envelope);
            }
            Action::Write { node } => {
                if let Some(batch) = self.nodes[*node].disk.change(Disk::write) {
                    self.input(*node, NOW, Input::Journalled { batch });
                }
            }
            Action::Time { node } => {
                self.budget.change(|budget| budget.ticks = budget.ticks.saturating_sub(1));
                self.input(*node, NOW.plus_ms(LONG_MS), Input::Tick);
                if let Some(machine) = &mut self.nodes[*node].machine {
                    machine.change(|machine| machine.rewind(LONG_MS, NOW));
                }
            }
            Action::Apply { asking } => self.apply(*asking),
            Action::ApplyAgain { asking } => {
                self.budget.change(|budget| budget.forgotten -= 1);
                self.control.change(|control| control.answers.remove(asking));
                self.apply(*asking);
            }
            Action::Unknown { asking } => {
                self.budget.change(|budget| budget.unknowns -= 1);
                if self.nodes[asking.from].incarnation == asking.incarnation {
                    let outcome = ChangeOutcome::Unknown;
                    self.input(asking.from, NOW, Input::Changed { ask: asking.ask, outcome });
                }
            }
            Action::Suspect { .. }
            | Action::Trust { .. }
            | Action::HandOver { .. }
            | Action::Crash { .. }
            | Action::Restart { .. }
            | Action::Join { .. } => self.befall(action),
        }
    }

    /// What befalls nodes, or is decided about them.
    fn befall(&mut self, action: &Action) {
        match *action {
            Action::Suspect { node } => {
                if self.nodes[node].machine.is_some() {
                    self.budget.change(|budget| budget.suspicions -= 1);
                }
                self.member_changed(node, |member| member.up = false);
            }
            Action::Trust { node } => self.member_changed(node, |member| member.up = true),
            Action::Join { node } => {
                let replica = self.machine(node).expect("it runs").me();
                self.member_changed(node, |member| *member = Member { replica, up: true });
            }
            Action::HandOver { to } => {
                self.budget.change(|budget| budget.hand_overs -= 1);
                let body = PlacementBody::HandOver(self::node(to));
                let based_on = self.control.now().epoch;
                let change = PlacementChange { partition: PartitionId(0), based_on, body };
                self.control.change(|control| control.apply(&change));
            }
            Action::Crash { node, written } => {
                self.budget.change(|budget| budget.crashes -= 1);
                let node = &mut self.nodes[node];
                node.disk.change(|disk| {
                    while written && !disk.writes.is_empty() {
                        disk.write();
                    }
                    disk.writes.clear();
                });
                node.machine = None;
                node.taken.clear();
            }
            Action::Restart { node, empty } => {
                if empty {
                    self.budget.change(|budget| budget.amnesias -= 1);
                    self.journals += 1;
                    self.nodes[node].disk = Kept::new(Disk::empty(self.journals));
                }
                self.nodes[node].incarnation += 1;
                self.start(node);
            }
            _ => {}
        }
    }

    fn member_changed(&mut self, at: usize, change: impl FnOnce(&mut Member)) {
        self.control.change(|control| {
            change(&mut control.members[at]);
            control.member_changed(&node(at));
        });
        self.after_election();
    }

    /// Where nobody kept its memory, what was only in memory may be lost: what comes after the last record that had
    /// to be synced, unless the winner has applied it.
    fn after_election(&mut self) {
        let known = std::mem::replace(&mut self.known, self.control.history.len());
        let elected = self
            .control
            .history
            .windows(2)
            .skip(known - 1)
            .any(|pair| pair[0].primary.is_none() && pair[1].primary.is_some());
        let Some(winner) = self.control.now().primary.filter(|_| elected) else { return };
        let machine = self.machine(index(&winner.node)).filter(|machine| machine.me() == winner);
        let applied = machine.map_or(0, |machine| machine.committed().seq);
        let synced = self.truth.iter().rposition(|(_, durability, _)| *durability == Durability::Synced);
        let last = applied.max(synced.map_or(0, |at| at as u64 + 1));
        self.truth.truncate(usize::try_from(last).expect("short logs"));
        self.acknowledged.retain(|(_, position, _)| position.seq <= last);
    }

    fn apply(&mut self, asking: Asking) {
        let forgets = self.budget.forgotten > 0;
        let (epoch, done) = self.control.change(|control| control.answer(asking, forgets));
        self.after_election();
        let Asking { from: to, incarnation, ask } = asking;
        self.network.add(Envelope::Outcome { to, incarnation, ask, epoch, done: Some(done) });
    }

    fn propose(&mut self, at: usize) {
        let durability = self.budget.operations[self.proposed];
        let operation = u8::try_from(self.proposed).expect("few operations");
        self.proposed += 1;
        let body = Bytes::copy_from_slice(&[operation]);
        self.input(at, NOW, Input::Propose { id: u64::from(operation), durability, body });
    }

    fn deliver(&mut self, envelope: &Envelope) {
        match envelope {
            Envelope::Ask { from, to, call, message } => {
                let call = (call << 16) | ((from.incarnation.0 & 0xff) << 8) | index(&from.node) as u64;
                self.input(*to, NOW, Input::Message { from: *from, call, message: message.clone() });
            }
            Envelope::Answer { to, incarnation, from, call, reply } => {
                if self.nodes[*to].incarnation == *incarnation {
                    let reply = Some(reply.clone());
                    self.input(*to, NOW, Input::Reply { to: node(*from), call: *call, reply });
                }
            }
            Envelope::Outcome { to, incarnation, ask, epoch, done } => {
                if self.nodes[*to].incarnation == *incarnation {
                    let partition = self.control.at(*epoch).clone();
                    let outcome = match done {
                        Some(true) => ChangeOutcome::Done(partition),
                        Some(false) => ChangeOutcome::Void(partition),
                        None => ChangeOutcome::Unknown,
                    };
                    self.input(*to, NOW, Input::Changed { ask: *ask, outcome });
                }
            }
        }
    }

    fn input(&mut self, at: usize, now: Tick, input: Input) {
        let Some(machine) = &mut self.nodes[at].machine else { return };
        let mut effects = Vec::new();
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            machine.change(|machine| machine.step(now, input, &mut effects));
        }));
        if stepped.is_err() {
            self.wrong = Some("an assertion of the machine failed");
            return;
        }
        for effect in effects {
            self.carry_out(at, effect);
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let me = self.nodes[at].machine.as_ref().expect("it runs").me();
        let incarnation = self.nodes[at].incarnation;
        match effect {
            Effect::Journal { batch, records } => self.write(at, Write::Append { batch: Some(batch), records }),
            Effect::JournalLazily { records } => self.write(at, Write::Append { batch: None, records }),
            Effect::Truncate { last_seq } => self.write(at, Write::Cut { last_seq }),
            Effect::Install { batch, at: upto, state } => {
                self.nodes[at].applied = state.to_vec();
                self.write(at, Write::Reset { batch, at: upto, state: state.to_vec() });
            }
            Effect::Send { to, call, message } => {
                self.network.add(Envelope::Ask { from: me, to: index(&to), call, message });
            }
            Effect::Reply { call, reply } => {
                let (to, incarnation) = ((call & 0xff) as usize, (call >> 8) & 0xff);
                self.network.add(Envelope::Answer { to, incarnation, from: at, call: call >> 16, reply });
            }
            Effect::Commit { records } => records.into_iter().for_each(|record| self.commit(at, record)),
            Effect::Taken { id, position } => {
                let operation = u8::try_from(id).expect("few operations");
                self.nodes[at].taken.push((position, operation, self.acknowledged.len()));
            }
            Effect::Refused { id, .. } => {
                self.nodes[at].taken.retain(|(_, operation, _)| u64::from(*operation) != id);
            }
            Effect::Change { ask, change } => {
                let asking = Asking { from: at, incarnation, ask };
                self.control.change(|control| control.pending.insert(asking, change));
            }
            Effect::TakeState { to } => {
                let position = self.nodes[at].machine.as_ref().expect("it runs").committed();
                let state = Bytes::from(self.nodes[at].applied.clone());
                self.input(at, NOW, Input::State { to, at: position, state });
            }
            Effect::Serving => self.check_serving(at),
            Effect::PullView { .. } | Effect::Stopped => {}
        }
    }

    fn write(&mut self, at: usize, write: Write) {
        self.nodes[at].disk.change(|disk| disk.writes.push_back(write));
    }

    fn commit(&mut self, at: usize, record: Record) {
        let operation = record.body.first().copied();
        let said = (record.position, record.durability, operation);
        let place = usize::try_from(record.position.seq).expect("short logs") - 1;
        match self.truth.get(place) {
            Some(known) if *known != said => self.wrong = Some("two different records were committed in one place"),
            Some(_) => {}
            None if place == self.truth.len() => self.truth.push(said),
            None => self.wrong = Some("a record was committed before the one before it"),
        }
        self.nodes[at].applied.extend(operation);
        let taken = self.nodes[at].taken.iter().position(|(position, ..)| *position == record.position);
        if let Some(taken) = taken {
            let (position, operation, before) = self.nodes[at].taken.remove(taken);
            self.acknowledge(at, position, operation, before);
        }
    }

    fn acknowledge(&mut self, at: usize, position: Position, operation: u8, before: usize) {
        let machine = self.nodes[at].machine.as_ref().expect("it runs");
        let (me, epoch) = (machine.me(), machine.epoch());
        self.acknowledging.insert((epoch, me));
        if self.acknowledging.iter().filter(|(other, _)| *other == epoch).count() > 1 {
            self.wrong = Some("two primaries acknowledged in one epoch");
        }
        if self.acknowledged.iter().take(before).any(|(_, earlier, _)| earlier.seq >= position.seq) {
            self.wrong = Some("what was proposed after an acknowledgement came before it");
        }
        self.acknowledged.push((operation, position, me));
    }

    /// Whoever counts as having everything has it, unless it had to begin anew.
    fn check_holders(&mut self) {
        let holders = &self.control.now().holders;
        let lacks = holders.iter().any(|holder| {
            let node = &self.nodes[index(&holder.node)];
            let machine = node.machine.as_deref().filter(|machine| machine.me() == *holder);
            machine.is_some_and(|machine| {
                let holds = |place: &Position| {
                    place.seq <= machine.log.base().seq || machine.log.position(place.seq) == Some(*place)
                };
                !self.acknowledged.iter().all(|(_, place, _)| holds(place))
            })
        });
        if lacks {
            self.wrong.get_or_insert("a holder lacks what was acknowledged");
        }
    }

    /// Who serves in the newest epoch has applied all that was ever acknowledged.
    fn check_serving(&mut self, at: usize) {
        let node = &self.nodes[at];
        let is_it = self.control.now().primary == node.machine.as_ref().map(|machine| machine.me());
        if is_it && !self.acknowledged.iter().all(|(operation, ..)| node.applied.contains(operation)) {
            self.wrong = Some("a new primary serves without what was acknowledged");
        }
    }
}
