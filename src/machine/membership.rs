//! Who belongs to the cluster, as Raft replicates it: the source of every node's *view*.
//!
//! Owns the members with their roles, addresses, incarnations and liveness, and the list of those
//! who are barred. A member's liveness changes only here, by a committed entry; the leader's
//! [`detector`](super::detector) merely proposes. Raft's own membership (who votes) is not kept here:
//! [`autopilot`](super::autopilot) derives the one that is wanted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::replication::Replica;
use crate::ids::{ClusterId, Incarnation, JournalId, NodeId, Role, Term, Tick};

/// Most members that a cluster lists, those who left included.
pub const MAX_MEMBERS: usize = 1_000;
/// Most peers that can be barred at a time.
pub const MAX_BARRED: usize = 10_000;
/// Most addresses that a member may announce.
pub const MAX_ADDRS: usize = 16;
/// Most bytes in what a member says its journal shares its fate with.
const MAX_FATE_BYTES: usize = 128;
/// Most bytes of the reason why a member's journal is away.
const MAX_REASON_BYTES: usize = 512;

/// The birth certificate of a cluster: written once, durably, by its founder, and never changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Drawn at random by the founder.
    pub cluster_id: ClusterId,
    /// `CLUSTER_NAME` of all its nodes.
    pub cluster_name: String,
    /// The lock managers with which Raft begins. Exactly these initialise it.
    pub founders: Vec<NodeId>,
    /// `QUEUE_PARTITIONS` at founding.
    pub queue_partitions: u32,
    /// `CACHE_PROTOCOL` of all its nodes.
    pub cache_protocol: String,
    /// What else its caches agree on.
    #[serde(default)]
    pub cache: CacheTerms,
    /// Unix milliseconds by the founder's clock.
    pub founded_at: Tick,
}

/// What the caches of a cluster agree on: the founder's settings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CacheTerms {
    /// `CACHE_WRITE_POLICY` of all its nodes.
    pub write_policy: String,
    /// `CACHE_LEASE` at founding, in milliseconds: the term of a cache's session with a home. Who gives a lease and who
    /// waits for its end must count alike.
    pub lease_ms: u64,
    /// The term of a member's lease, in milliseconds: 0.65 of `FAILURE_TIMEOUT` at founding.
    pub member_lease_ms: u64,
}

impl Default for CacheTerms {
    fn default() -> Self {
        Self { write_policy: "back".into(), lease_ms: 2_000, member_lease_ms: 1_300 }
    }
}

/// Whether a member is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Liveness {
    /// Serving.
    Up,
    /// Serving, and about to stop: its duties are being handed over.
    Draining,
    /// Silent, or stopped; may come back by itself.
    Down,
    /// Left or was removed: no longer a member, listed for a while.
    Left,
}

/// What a node says of itself when it joins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joiner {
    /// The node.
    pub node: NodeId,
    /// This run of it.
    pub incarnation: Incarnation,
    /// What it does.
    pub roles: Vec<Role>,
    /// Where peers reach it (multiaddrs).
    pub addrs: Vec<String>,
    /// The version of its program.
    pub version: String,
    /// What it journals into: of a queue node, once it has its journal.
    pub journal: Option<JournalId>,
    /// How safe that is.
    pub journal_safety: JournalSafety,
}

#[cfg(test)]
impl Joiner {
    /// This run of a node, of which nothing more is said.
    pub(crate) fn of(node: NodeId, incarnation: u64) -> Self {
        let (roles, addrs, version) = (Vec::new(), Vec::new(), String::new());
        let incarnation = Incarnation(incarnation);
        Self { node, incarnation, roles, addrs, version, journal: None, journal_safety: JournalSafety::default() }
    }

    /// This run of a queue node, with this journal.
    pub(crate) fn of_queue_node(node: NodeId, incarnation: u64, journal: u128) -> Self {
        let (roles, journal) = (vec![Role::QueueNode], Some(JournalId(journal)));
        Self { roles, journal, ..Self::of(node, incarnation) }
    }
}

/// How safe a node's journal is, as far as the others have to know.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct JournalSafety {
    /// What it acknowledges survives a loss of power.
    pub durable: bool,
    /// Journals with the same name here are lost together: the run id of a Redis.
    pub shared_fate: Option<String>,
    /// So many partitions it keeps no longer in this run of the node, because their tasks ended by themselves.
    #[serde(default)]
    pub given_up: u32,
    /// Set while it cannot be written.
    #[serde(default)]
    pub away: Option<JournalAway>,
}

impl JournalSafety {
    /// Whether it is of a size that is kept for each member.
    fn is_bounded(&self) -> bool {
        self.shared_fate.as_ref().is_none_or(|fate| fate.len() <= MAX_FATE_BYTES)
            && self.away.as_ref().is_none_or(|away| away.reason.len() <= MAX_REASON_BYTES)
    }
}

/// A journal that cannot be written: its Redis does not answer, its disk is full.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JournalAway {
    /// Since when, in Unix milliseconds by its node's clock.
    pub since: Tick,
    /// Why, as its node says.
    pub reason: String,
}

impl JournalAway {
    /// With a reason that is cut to the size that others take.
    pub fn new(since: Tick, mut reason: String) -> Self {
        let end = (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or(0));
        Self { since, reason }
    }
}

/// A member, as the replicated state has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// What it said when it joined.
    pub joiner: Joiner,
    /// Whether it is there.
    pub liveness: Liveness,
    /// Since when, in Unix milliseconds.
    pub since: Tick,
}

impl Member {
    /// Whether it has this role.
    pub fn has_role(&self, role: Role) -> bool {
        self.joiner.roles.contains(&role)
    }

    /// Whether it belongs to the cluster, there or not.
    pub fn belongs(&self) -> bool {
        self.liveness != Liveness::Left
    }

    /// Whether it can be asked something.
    pub fn serves(&self) -> bool {
        matches!(self.liveness, Liveness::Up | Liveness::Draining)
    }

    /// What it is to the queues, while it serves: `None` for a node that keeps none, or has no journal yet.
    pub fn replica(&self) -> Option<Replica> {
        let Joiner { node, incarnation, journal, .. } = &self.joiner;
        let keeps_queues = self.serves() && self.has_role(Role::QueueNode);
        journal.filter(|_| keeps_queues).map(|journal| Replica { node: *node, incarnation: *incarnation, journal })
    }
}

/// A change of membership, as an entry carries it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberChange {
    /// A node starts, comes back, or says something new of itself.
    Join(Joiner),
    /// A node is about to stop. Void for another incarnation.
    Drain {
        /// The node.
        node: NodeId,
        /// This run of it.
        incarnation: Incarnation,
    },
    /// The leader has not heard of a node, or the node said that it stops. Void for another
    /// incarnation and, where `term` is given, in another term than the one that judged.
    Down {
        /// The node.
        node: NodeId,
        /// This run of it.
        incarnation: Incarnation,
        /// The term of the leader that judged; none where the node itself said so.
        term: Option<Term>,
    },
    /// A node leaves for good.
    Leave(NodeId),
    /// An operator removes and bars a node.
    Remove(NodeId),
    /// An operator lifts the bar.
    Admit(NodeId),
    /// Those who have been down or gone for long are no longer listed. Each with the moment since
    /// which it was so, to be void for one that has come back.
    Forget(Vec<(NodeId, Tick)>),
}

/// What came of a [`MemberChange`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberAnswer {
    /// It is so now (and may have been before).
    Done,
    /// The node is barred: an operator must `members admit` it first.
    Barred,
    /// A newer run of the node is known.
    OlderIncarnation,
    /// This run of the node has left; only the next one may join.
    HasLeft,
    /// There is no such member.
    NotFound,
    /// [`MAX_MEMBERS`] or [`MAX_BARRED`] is reached.
    Full,
    /// Too many or too long addresses, or too long a name of its journal's fate or reason of its absence.
    Malformed,
}

/// What happened to a member, for events and for those who act on the view.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberNews {
    /// The node.
    pub node: NodeId,
    /// What it is now; `None`: no longer listed.
    pub liveness: Option<Liveness>,
}

/// The members and the barred. The version grows with every change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Membership {
    version: u64,
    members: BTreeMap<NodeId, Member>,
    barred: BTreeMap<NodeId, Tick>,
}

impl Membership {
    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Everyone listed, in the order of ids.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// What a node is to the queues, while it serves.
    pub fn replica(&self, node: &NodeId) -> Option<Replica> {
        self.members.get(node).and_then(Member::replica)
    }

    /// Who is barred, since when.
    pub fn barred(&self) -> &BTreeMap<NodeId, Tick> {
        &self.barred
    }

    /// Applies a change. `at` is the entry's time, `entry_term` its term.
    pub fn change(
        &mut self,
        at: Tick,
        entry_term: Term,
        change: MemberChange,
        news: &mut Vec<MemberNews>,
    ) -> MemberAnswer {
        match change {
            MemberChange::Join(joiner) => self.join(at, joiner, news),
            MemberChange::Drain { node, incarnation } => self.fade(at, node, incarnation, Liveness::Draining, news),
            MemberChange::Down { node, incarnation, term } => match term {
                Some(term) if term != entry_term => MemberAnswer::Done,
                _ => self.fade(at, node, incarnation, Liveness::Down, news),
            },
            MemberChange::Leave(node) => self.leave(at, node, news),
            MemberChange::Remove(node) => self.remove(at, node, news),
            MemberChange::Admit(node) => match self.barred.remove(&node) {
                Some(_) => {
                    // The view has changed, though the member has not.
                    self.tell(node, self.members.get(&node).map(|member| member.liveness), news);
                    MemberAnswer::Done
                }
                None if self.members.contains_key(&node) => MemberAnswer::Done,
                None => MemberAnswer::NotFound,
            },
            MemberChange::Forget(nodes) => {
                for (node, since) in nodes {
                    self.forget(node, since, news);
                }
                MemberAnswer::Done
            }
        }
    }

    fn join(&mut self, at: Tick, joiner: Joiner, news: &mut Vec<MemberNews>) -> MemberAnswer {
        if self.barred.contains_key(&joiner.node) {
            return MemberAnswer::Barred;
        }
        if joiner.addrs.len() > MAX_ADDRS
            || joiner.addrs.iter().any(|addr| addr.len() > 512)
            || !joiner.journal_safety.is_bounded()
        {
            return MemberAnswer::Malformed;
        }
        let node = joiner.node;
        match self.members.get(&node) {
            Some(known) if known.joiner.incarnation > joiner.incarnation => return MemberAnswer::OlderIncarnation,
            Some(known) if known.joiner == joiner && known.liveness == Liveness::Up => return MemberAnswer::Done,
            Some(known) if known.joiner.incarnation == joiner.incarnation && known.liveness == Liveness::Left => {
                return MemberAnswer::HasLeft;
            }
            // What is being drained by the same run stays so: only a new run may serve again.
            Some(known) if known.joiner.incarnation == joiner.incarnation && known.liveness == Liveness::Draining => {
                return MemberAnswer::Done;
            }
            None if self.members.len() >= MAX_MEMBERS => return MemberAnswer::Full,
            _ => {}
        }
        self.members.insert(node, Member { joiner, liveness: Liveness::Up, since: at });
        self.tell(node, Some(Liveness::Up), news);
        MemberAnswer::Done
    }

    fn fade(
        &mut self,
        at: Tick,
        node: NodeId,
        incarnation: Incarnation,
        to: Liveness,
        news: &mut Vec<MemberNews>,
    ) -> MemberAnswer {
        let Some(member) = self.members.get_mut(&node) else { return MemberAnswer::NotFound };
        if member.joiner.incarnation != incarnation {
            return MemberAnswer::OlderIncarnation;
        }
        if member.liveness != to && member.serves() {
            member.liveness = to;
            member.since = at;
            self.tell(node, Some(to), news);
        }
        MemberAnswer::Done
    }

    fn leave(&mut self, at: Tick, node: NodeId, news: &mut Vec<MemberNews>) -> MemberAnswer {
        let Some(member) = self.members.get_mut(&node) else { return MemberAnswer::NotFound };
        if member.belongs() {
            member.liveness = Liveness::Left;
            member.since = at;
            self.tell(node, Some(Liveness::Left), news);
        }
        MemberAnswer::Done
    }

    fn remove(&mut self, at: Tick, node: NodeId, news: &mut Vec<MemberNews>) -> MemberAnswer {
        if !self.members.contains_key(&node) && !self.barred.contains_key(&node) {
            return MemberAnswer::NotFound;
        }
        if self.barred.len() >= MAX_BARRED && !self.barred.contains_key(&node) {
            return MemberAnswer::Full;
        }
        if self.barred.insert(node, at).is_none() {
            self.version += 1;
        }
        self.leave(at, node, news);
        MemberAnswer::Done
    }

    /// Bars a node that is not listed. `false`: as many are barred as can be.
    pub fn bar(&mut self, at: Tick, node: NodeId) -> bool {
        let there_is_room = self.barred.len() < MAX_BARRED || self.barred.contains_key(&node);
        if there_is_room && self.barred.insert(node, at).is_none() {
            self.version += 1;
        }
        there_is_room
    }

    /// What was decided elsewhere under greater versions than this one's counts no more.
    pub fn raise_version(&mut self, by: u64) {
        self.version += by;
    }

    fn forget(&mut self, node: NodeId, since: Tick, news: &mut Vec<MemberNews>) {
        let Some(member) = self.members.get(&node) else { return };
        if member.since == since && !member.serves() {
            self.members.remove(&node);
            self.tell(node, None, news);
        }
    }

    fn tell(&mut self, node: NodeId, liveness: Option<Liveness>, news: &mut Vec<MemberNews>) {
        self.version += 1;
        news.push(MemberNews { node, liveness });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn joiner(n: u8, incarnation: u64) -> Joiner {
        let (roles, addrs) = (vec![Role::LockManager], vec!["/ip4/127.0.0.1/tcp/4001".into()]);
        Joiner { roles, addrs, ..Joiner::of(node(n), incarnation) }
    }

    fn apply(membership: &mut Membership, change: MemberChange) -> (MemberAnswer, Vec<MemberNews>) {
        let mut news = Vec::new();
        let answer = membership.change(Tick(7), Term(1), change, &mut news);
        (answer, news)
    }

    #[test]
    fn a_join_is_told_once() {
        let mut members = Membership::default();
        let (answer, news) = apply(&mut members, MemberChange::Join(joiner(1, 1)));
        assert_eq!(answer, MemberAnswer::Done);
        assert_eq!(news, vec![MemberNews { node: node(1), liveness: Some(Liveness::Up) }]);
        let version = members.version();
        assert_eq!(apply(&mut members, MemberChange::Join(joiner(1, 1))), (MemberAnswer::Done, vec![]));
        assert_eq!(members.version(), version);
    }

    #[test]
    fn a_reason_is_kept_at_the_length_that_its_node_cuts_it_to_and_at_no_other() {
        let mut members = Membership::default();
        let mut joiner = joiner(1, 1);
        let mut away = JournalAway::new(Tick(3), "ü".repeat(4_000));
        joiner.journal_safety.away = Some(away.clone());
        assert_eq!(apply(&mut members, MemberChange::Join(joiner.clone())).0, MemberAnswer::Done);
        away.reason.push('!');
        joiner.journal_safety.away = Some(away);
        assert_eq!(apply(&mut members, MemberChange::Join(joiner)).0, MemberAnswer::Malformed);
    }

    #[test]
    fn a_verdict_about_an_earlier_run_is_void() {
        let mut members = Membership::default();
        apply(&mut members, MemberChange::Join(joiner(1, 2)));
        let down = MemberChange::Down { node: node(1), incarnation: Incarnation(1), term: Some(Term(1)) };
        assert_eq!(apply(&mut members, down), (MemberAnswer::OlderIncarnation, vec![]));
        assert_eq!(apply(&mut members, MemberChange::Join(joiner(1, 1))).0, MemberAnswer::OlderIncarnation);
    }

    #[test]
    fn a_verdict_of_a_leader_whose_term_is_over_is_void() {
        let mut members = Membership::default();
        apply(&mut members, MemberChange::Join(joiner(1, 1)));
        let down = |term| MemberChange::Down { node: node(1), incarnation: Incarnation(1), term: Some(Term(term)) };
        assert_eq!(apply(&mut members, down(0)).1, vec![]);
        assert_eq!(apply(&mut members, down(1)).1, vec![MemberNews { node: node(1), liveness: Some(Liveness::Down) }]);
    }

    #[test]
    fn a_removed_node_is_barred_until_it_is_admitted() {
        let mut members = Membership::default();
        apply(&mut members, MemberChange::Join(joiner(1, 1)));
        assert_eq!(apply(&mut members, MemberChange::Remove(node(1))).0, MemberAnswer::Done);
        assert_eq!(apply(&mut members, MemberChange::Join(joiner(1, 2))).0, MemberAnswer::Barred);
        assert_eq!(apply(&mut members, MemberChange::Admit(node(1))).0, MemberAnswer::Done);
        assert_eq!(apply(&mut members, MemberChange::Join(joiner(1, 2))).0, MemberAnswer::Done);
    }

    #[test]
    fn a_draining_run_does_not_serve_again_but_the_next_one_does() {
        let mut members = Membership::default();
        apply(&mut members, MemberChange::Join(joiner(1, 1)));
        apply(&mut members, MemberChange::Drain { node: node(1), incarnation: Incarnation(1) });
        apply(&mut members, MemberChange::Join(joiner(1, 1)));
        assert_eq!(members.members()[&node(1)].liveness, Liveness::Draining);
        apply(&mut members, MemberChange::Join(joiner(1, 2)));
        assert_eq!(members.members()[&node(1)].liveness, Liveness::Up);
    }

    #[test]
    fn only_who_stayed_away_is_forgotten() {
        let mut members = Membership::default();
        apply(&mut members, MemberChange::Join(joiner(1, 1)));
        apply(&mut members, MemberChange::Forget(vec![(node(1), Tick(7))]));
        assert!(members.members().contains_key(&node(1)), "a serving member is never forgotten");
        apply(&mut members, MemberChange::Leave(node(1)));
        apply(&mut members, MemberChange::Forget(vec![(node(1), Tick(6))]));
        assert!(members.members().contains_key(&node(1)), "it has changed since it was judged");
        apply(&mut members, MemberChange::Forget(vec![(node(1), Tick(7))]));
        assert!(!members.members().contains_key(&node(1)));
    }
}
