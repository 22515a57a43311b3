//! How a cluster comes to be, exactly once.
//!
//! Founding is where Raft set-ups go wrong: two nodes that each believe they start the cluster make
//! two. So there is one founder, the node that was given `BOOTSTRAP_EXPECT=n`: once n lock managers
//! have reported it writes the [`ClusterRecord`] durably, once, and hands it out; every recipient
//! stores it and hands it on; the founders named in it, and nobody else, initialise Raft with
//! exactly that membership. A founder that meets any cluster of its name joins that one instead.
//!
//! Driven by `node/control/`, which performs the effects and speaks to the peers.

use std::collections::BTreeMap;

use super::membership::{CacheTerms, ClusterRecord};
use crate::ids::{ClusterId, NodeId, Role, Tick};

/// Most peers without a cluster that are remembered.
const MAX_REPORTS: usize = 1_000;

/// What this node brings to a founding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founder {
    /// This node.
    pub me: NodeId,
    /// Whether it is a lock manager itself.
    pub lock_manager: Candidacy,
    /// `CLUSTER_NAME`.
    pub cluster_name: String,
    /// `CACHE_PROTOCOL`.
    pub cache_protocol: String,
    /// `CACHE_WRITE_POLICY`, and the terms of leases.
    pub cache: CacheTerms,
    /// `QUEUE_PARTITIONS`.
    pub queue_partitions: u32,
    /// `BOOTSTRAP_EXPECT`; none on all nodes but one.
    pub expect: Option<usize>,
    /// The id that the cluster gets if this node founds it.
    pub fresh_id: ClusterId,
}

/// Whether a node can be one of the founders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Candidacy {
    /// A lock manager.
    LockManager,
    /// Anything else.
    Other,
}

impl Candidacy {
    /// What the roles of a node make it.
    pub fn of<'a>(roles: impl IntoIterator<Item = &'a Role>) -> Self {
        if roles.into_iter().any(|role| *role == Role::LockManager) { Self::LockManager } else { Self::Other }
    }
}

/// What a peer says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Its cluster's name.
    pub cluster_name: String,
    /// Its cache protocol.
    pub cache_protocol: String,
    /// When its caches acknowledge a write.
    pub cache_write_policy: String,
    /// Whether it can be a founder.
    pub lock_manager: Candidacy,
    /// Its cluster, if it has one.
    pub record: Option<ClusterRecord>,
}

/// Why two nodes cannot be of one cluster.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Mismatch {
    /// Another `CLUSTER_NAME`.
    #[error(
        "{peer} belongs to the cluster named '{theirs}', this node to '{ours}': set CLUSTER_NAME alike on all nodes of a cluster"
    )]
    Name {
        /// The peer.
        peer: NodeId,
        /// Its cluster's name.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Two clusters of one name.
    #[error(
        "{peer} belongs to another cluster of the same name ({theirs}, ours is {ours}): two nodes were given BOOTSTRAP_EXPECT, or a data directory of another cluster is in use; to move a node over, stop it, move its DATA_DIR away and start it again"
    )]
    Cluster {
        /// The peer.
        peer: NodeId,
        /// Its cluster.
        theirs: ClusterId,
        /// Ours.
        ours: ClusterId,
    },
    /// Another `CACHE_PROTOCOL`.
    #[error(
        "the cluster of {peer} has CACHE_PROTOCOL={theirs}, this node {ours}: all nodes must agree, set CACHE_PROTOCOL={theirs} here"
    )]
    CacheProtocol {
        /// The peer.
        peer: NodeId,
        /// Its cluster's protocol.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Another `CACHE_WRITE_POLICY`.
    #[error(
        "the cluster of {peer} has CACHE_WRITE_POLICY={theirs}, this node {ours}: all nodes must agree, set CACHE_WRITE_POLICY={theirs} here"
    )]
    CacheWritePolicy {
        /// The peer.
        peer: NodeId,
        /// Its cluster's policy.
        theirs: String,
        /// Ours.
        ours: String,
    },
}

impl Mismatch {
    /// With whom.
    pub fn peer(&self) -> NodeId {
        match self {
            Self::Name { peer, .. }
            | Self::Cluster { peer, .. }
            | Self::CacheProtocol { peer, .. }
            | Self::CacheWritePolicy { peer, .. } => *peer,
        }
    }

    /// Whether it is about a setting that the node which is no member yet has to change.
    pub fn is_of_settings(&self) -> bool {
        matches!(self, Self::CacheProtocol { .. } | Self::CacheWritePolicy { .. })
    }
}

/// What is to be done, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FoundingEffect {
    /// Write the record durably, then call [`Founding::stored`].
    Store(ClusterRecord),
    /// Initialise Raft with exactly these voters, unless its log says that this was done.
    Initialise(Vec<NodeId>),
    /// Tell everyone connected what cluster we belong to now.
    Announce,
    /// Have nothing to do with this peer.
    Refuse(Mismatch),
}

/// The state of a node that looks for, founds, or has its cluster.
#[derive(Clone, Debug)]
pub struct Founding {
    founder: Founder,
    record: Option<ClusterRecord>,
    storing: Option<ClusterRecord>,
    waiting: BTreeMap<NodeId, Candidacy>,
    search: Search,
}

/// Whether a founder still looks for a cluster that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Search {
    UnderWay,
    Over,
}

impl Founding {
    /// A node that starts with what its disk holds. It founds nothing before [`Founding::may_found`].
    pub fn new(founder: Founder, record: Option<ClusterRecord>) -> Self {
        Self { founder, record, storing: None, waiting: BTreeMap::new(), search: Search::UnderWay }
    }

    /// The search for a cluster is over: none was found so far.
    pub fn may_found(&mut self, wall: Tick, effects: &mut Vec<FoundingEffect>) {
        self.search = Search::Over;
        self.found_if_complete(wall, effects);
    }

    /// The cluster, once its record is on this node's disk.
    pub fn record(&self) -> Option<&ClusterRecord> {
        self.record.as_ref()
    }

    /// How many lock managers without a cluster are here, this node included if it is one.
    pub fn lock_managers_waiting(&self) -> usize {
        self.candidates().count()
    }

    /// How many lock managers this node waits for before it founds a cluster.
    pub fn expect(&self) -> Option<usize> {
        self.founder.expect
    }

    fn candidates(&self) -> impl Iterator<Item = NodeId> + '_ {
        let me = (self.founder.lock_manager == Candidacy::LockManager).then_some(self.founder.me);
        let peers = self.waiting.iter().filter(|(_, role)| **role == Candidacy::LockManager).map(|(peer, _)| *peer);
        me.into_iter().chain(peers)
    }

    /// The node has started, with or without a record.
    pub fn started(&mut self, effects: &mut Vec<FoundingEffect>) {
        if let Some(record) = self.record.clone() {
            self.settled(record, effects);
        }
    }

    /// A peer reports.
    pub fn heard(&mut self, wall: Tick, peer: NodeId, report: Report, effects: &mut Vec<FoundingEffect>) {
        if let Some(mismatch) = self.mismatch(peer, &report) {
            self.waiting.remove(&peer);
            return effects.push(FoundingEffect::Refuse(mismatch));
        }
        match report.record {
            Some(record) => {
                self.waiting.remove(&peer);
                if self.record.is_none() && self.storing.is_none() {
                    self.storing = Some(record.clone());
                    effects.push(FoundingEffect::Store(record));
                }
            }
            None if self.waiting.len() < MAX_REPORTS => {
                self.waiting.insert(peer, report.lock_manager);
                self.found_if_complete(wall, effects);
            }
            None => {}
        }
    }

    /// A peer's connection is gone: it counts no more.
    pub fn gone(&mut self, peer: NodeId) {
        self.waiting.remove(&peer);
    }

    /// The record that [`FoundingEffect::Store`] named is durable.
    pub fn stored(&mut self, effects: &mut Vec<FoundingEffect>) {
        if let Some(record) = self.storing.take() {
            self.record = Some(record.clone());
            self.settled(record, effects);
        }
    }

    fn settled(&self, record: ClusterRecord, effects: &mut Vec<FoundingEffect>) {
        effects.push(FoundingEffect::Announce);
        if record.founders.contains(&self.founder.me) {
            effects.push(FoundingEffect::Initialise(record.founders));
        }
    }

    fn found_if_complete(&mut self, wall: Tick, effects: &mut Vec<FoundingEffect>) {
        let Some(expect) = self.founder.expect else { return };
        let has_one = self.record.is_some() || self.storing.is_some();
        if has_one || self.search == Search::UnderWay || self.lock_managers_waiting() < expect {
            return;
        }
        let record = ClusterRecord {
            cluster_id: self.founder.fresh_id,
            cluster_name: self.founder.cluster_name.clone(),
            founders: self.candidates().take(expect).collect(),
            queue_partitions: self.founder.queue_partitions,
            cache_protocol: self.founder.cache_protocol.clone(),
            cache: self.founder.cache.clone(),
            founded_at: wall,
        };
        self.storing = Some(record.clone());
        effects.push(FoundingEffect::Store(record));
    }

    fn mismatch(&self, peer: NodeId, report: &Report) -> Option<Mismatch> {
        let ours = &self.founder;
        if report.cluster_name != ours.cluster_name {
            let theirs = report.cluster_name.clone();
            return Some(Mismatch::Name { peer, theirs, ours: ours.cluster_name.clone() });
        }
        let known = self.record.as_ref().or(self.storing.as_ref());
        if let (Some(theirs), Some(known)) = (&report.record, known)
            && theirs.cluster_id != known.cluster_id
        {
            return Some(Mismatch::Cluster { peer, theirs: theirs.cluster_id, ours: known.cluster_id });
        }
        if report.cache_protocol != ours.cache_protocol {
            let theirs = report.cache_protocol.clone();
            return Some(Mismatch::CacheProtocol { peer, theirs, ours: ours.cache_protocol.clone() });
        }
        if report.cache_write_policy != ours.cache.write_policy {
            let theirs = report.cache_write_policy.clone();
            return Some(Mismatch::CacheWritePolicy { peer, theirs, ours: ours.cache.write_policy.clone() });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn starting(expect: Option<usize>, lock_manager: Candidacy) -> Founding {
        let founder = Founder {
            me: node(0),
            lock_manager,
            cluster_name: "default".into(),
            cache_protocol: "MESI".into(),
            cache: CacheTerms::default(),
            queue_partitions: 64,
            expect,
            fresh_id: ClusterId(42),
        };
        let mut founding = Founding::new(founder, None);
        founding.search = Search::Over;
        founding
    }

    fn report(record: Option<ClusterRecord>) -> Report {
        Report {
            cluster_name: "default".into(),
            cache_protocol: "MESI".into(),
            cache_write_policy: "back".into(),
            lock_manager: Candidacy::LockManager,
            record,
        }
    }

    fn record(id: u128, founders: &[u8]) -> ClusterRecord {
        ClusterRecord {
            cluster_id: ClusterId(id),
            cluster_name: "default".into(),
            founders: founders.iter().map(|n| node(*n)).collect(),
            queue_partitions: 64,
            cache_protocol: "MESI".into(),
            cache: CacheTerms::default(),
            founded_at: Tick(9),
        }
    }

    fn heard(founding: &mut Founding, peer: u8, report: Report) -> Vec<FoundingEffect> {
        let mut effects = Vec::new();
        founding.heard(Tick(9), node(peer), report, &mut effects);
        effects
    }

    fn stored(founding: &mut Founding) -> Vec<FoundingEffect> {
        let mut effects = Vec::new();
        founding.stored(&mut effects);
        effects
    }

    #[test]
    fn the_founder_waits_for_all_and_initialises_only_what_is_on_disk() {
        let mut founding = starting(Some(3), Candidacy::LockManager);
        assert_eq!(heard(&mut founding, 1, report(None)), vec![]);
        assert_eq!(heard(&mut founding, 1, report(None)), vec![], "a peer counts once");
        let founded = record(42, &[0, 1, 2]);
        assert_eq!(heard(&mut founding, 2, report(None)), vec![FoundingEffect::Store(founded.clone())]);
        assert_eq!(heard(&mut founding, 3, report(None)), vec![], "it founds once");
        assert_eq!(stored(&mut founding), vec![FoundingEffect::Announce, FoundingEffect::Initialise(founded.founders)]);
    }

    #[test]
    fn who_has_gone_does_not_count() {
        let mut founding = starting(Some(2), Candidacy::Other);
        heard(&mut founding, 1, report(None));
        founding.gone(node(1));
        assert_eq!(heard(&mut founding, 2, report(None)), vec![]);
    }

    #[test]
    fn a_gateway_founds_without_voting() {
        let mut founding = starting(Some(1), Candidacy::Other);
        assert_eq!(heard(&mut founding, 1, report(None)), vec![FoundingEffect::Store(record(42, &[1]))]);
        assert_eq!(stored(&mut founding), vec![FoundingEffect::Announce]);
    }

    #[test]
    fn a_cluster_of_one_founds_itself() {
        let mut founding = starting(Some(1), Candidacy::LockManager);
        founding.search = Search::UnderWay;
        let mut effects = Vec::new();
        founding.started(&mut effects);
        assert_eq!(effects, vec![], "there may be a cluster that it has not met yet");
        founding.may_found(Tick(9), &mut effects);
        assert_eq!(effects, vec![FoundingEffect::Store(record(42, &[0]))]);
    }

    #[test]
    fn a_founder_that_still_looks_founds_nothing_however_many_report() {
        let mut founding = starting(Some(2), Candidacy::LockManager);
        founding.search = Search::UnderWay;
        assert_eq!(heard(&mut founding, 1, report(None)), vec![]);
        let theirs = record(7, &[5, 6, 1]);
        assert_eq!(heard(&mut founding, 2, report(Some(theirs.clone()))), vec![FoundingEffect::Store(theirs)]);
        let mut effects = Vec::new();
        founding.may_found(Tick(9), &mut effects);
        assert_eq!(effects, vec![]);
    }

    #[test]
    fn a_founder_that_meets_a_cluster_joins_it() {
        let mut founding = starting(Some(2), Candidacy::LockManager);
        let theirs = record(7, &[5, 6, 1]);
        assert_eq!(heard(&mut founding, 1, report(Some(theirs.clone()))), vec![FoundingEffect::Store(theirs)]);
        assert_eq!(heard(&mut founding, 2, report(None)), vec![]);
        assert_eq!(stored(&mut founding), vec![FoundingEffect::Announce]);
    }

    #[test]
    fn nobody_else_ever_founds() {
        let mut founding = starting(None, Candidacy::LockManager);
        for peer in 1..10 {
            assert_eq!(heard(&mut founding, peer, report(None)), vec![]);
        }
    }

    #[test]
    fn another_name_cluster_or_cache_protocol_is_refused_with_the_reason() {
        let mut founding = Founding::new(starting(None, Candidacy::Other).founder, Some(record(7, &[1])));
        let mut other_name = report(None);
        other_name.cluster_name = "staging".into();
        let effects = heard(&mut founding, 1, other_name);
        assert!(matches!(&effects[..], [FoundingEffect::Refuse(Mismatch::Name { .. })]), "{effects:?}");
        let effects = heard(&mut founding, 1, report(Some(record(8, &[1]))));
        assert!(matches!(&effects[..], [FoundingEffect::Refuse(Mismatch::Cluster { .. })]), "{effects:?}");
        let mut moesi = report(Some(record(7, &[1])));
        moesi.cache_protocol = "MOESI".into();
        let effects = heard(&mut founding, 1, moesi);
        assert!(matches!(&effects[..], [FoundingEffect::Refuse(Mismatch::CacheProtocol { .. })]), "{effects:?}");
        let mut through = report(Some(record(7, &[1])));
        through.cache_write_policy = "through".into();
        let effects = heard(&mut founding, 1, through);
        assert!(matches!(&effects[..], [FoundingEffect::Refuse(Mismatch::CacheWritePolicy { .. })]), "{effects:?}");
    }

    #[test]
    fn a_founder_that_died_after_writing_hands_out_the_same_record() {
        let mut founding =
            Founding::new(starting(Some(3), Candidacy::LockManager).founder, Some(record(7, &[0, 1, 2])));
        let mut effects = Vec::new();
        founding.started(&mut effects);
        assert_eq!(
            effects,
            vec![FoundingEffect::Announce, FoundingEffect::Initialise(vec![node(0), node(1), node(2)])]
        );
    }
}
