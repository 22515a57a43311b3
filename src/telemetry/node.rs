//! What is counted about a node and its place in the cluster: members, leaders, events, partitions of the network.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{Histograms, absence, latency, set};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RestartedLabel {
    restarted: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct NodeLabels {
    peer_id: String,
    roles: String,
    cluster_name: String,
}

/// The members of the cluster as a node knows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemberFigures {
    /// They serve.
    pub up: u64,
    /// They are about to stop.
    pub draining: u64,
    /// They are not heard of.
    pub down: u64,
    /// They have left for good and are still listed.
    pub left: u64,
}

/// A node at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeFigures {
    /// The members that it knows.
    pub members: MemberFigures,
    /// Peers that it is connected to.
    pub peers: u64,
    /// The version of the view that it has installed.
    pub view: u64,
    /// Whether it can serve its roles.
    pub ready: bool,
    /// Whether it knows who leads.
    pub has_leader: bool,
}

/// What is counted about a node. Cheap to clone.
#[derive(Clone)]
pub struct NodeMetrics {
    info: Family<NodeLabels, Gauge>,
    start_time: Gauge<f64, AtomicU64>,
    members: Family<StatusLabel, Gauge>,
    peers: Gauge,
    view: Gauge,
    ready: Gauge,
    has_leader: Gauge,
    leader_changes: Counter,
    leaderless: Histogram,
    unreachable: Gauge,
    partitions: Histogram,
    recovery: Histogram,
    absences: Histograms<RestartedLabel>,
    events: Family<EventLabel, Counter>,
}

impl NodeMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self {
            info: Family::default(),
            start_time: Gauge::default(),
            members: Family::default(),
            peers: Gauge::default(),
            view: Gauge::default(),
            ready: Gauge::default(),
            has_leader: Gauge::default(),
            leader_changes: Counter::default(),
            leaderless: absence(),
            unreachable: Gauge::default(),
            partitions: absence(),
            // From milliseconds on: often there is little left to do.
            recovery: latency(),
            absences: Family::new_with_constructor(absence),
            events: Family::default(),
        };
        metrics.register_place(registry);
        metrics.register_troubles(registry);
        metrics.take_over(&NodeFigures::default());
        for restarted in ["true", "false"] {
            drop(metrics.absences.get_or_create(&RestartedLabel { restarted }));
        }
        metrics
    }

    fn register_place(&self, registry: &mut Registry) {
        registry.register("node_info", "Who this node is: always 1", self.info.clone());
        registry.register_with_unit(
            "node_start_time",
            "When this run of the node began, since the Unix epoch",
            Unit::Seconds,
            self.start_time.clone(),
        );
        registry.register("members", "Members of the cluster as this node knows them, by status", self.members.clone());
        registry.register("peers_connected", "Peers that this node is connected to", self.peers.clone());
        registry.register(
            "view_version",
            "The version of the members and the placement that it heeds",
            self.view.clone(),
        );
        registry.register("ready", "1 while this node can serve its roles, else 0", self.ready.clone());
        registry.register(
            "has_leader",
            "1 while this node knows who leads the lock managers, else 0",
            self.has_leader.clone(),
        );
    }

    fn register_troubles(&self, registry: &mut Registry) {
        registry.register("leader_changes", "New leaders that this node has heard of", self.leader_changes.clone());
        registry.register_with_unit(
            "leaderless",
            "For how long this node knew of no leader, each time that there was one again",
            Unit::Seconds,
            self.leaderless.clone(),
        );
        registry.register(
            "unreachable_members",
            "Members that are up, as far as is known, and to which this node has lost its connection",
            self.unreachable.clone(),
        );
        registry.register_with_unit(
            "partition",
            "For how long this node was cut off from a leader or from members, each time that it was so no more",
            Unit::Seconds,
            self.partitions.clone(),
        );
        registry.register_with_unit(
            "partition_recovery",
            "The part of that from the first member that was reached again until all was well",
            Unit::Seconds,
            self.recovery.clone(),
        );
        registry.register_with_unit(
            "member_absence",
            "For how long members were down that came back: restarted, or not (cut off, or paused)",
            Unit::Seconds,
            self.absences.clone(),
        );
        registry.register("events", "Events that this node has told", self.events.clone());
    }

    /// Who this node is, and when it was started (Unix seconds).
    pub(crate) fn describe(&self, peer_id: String, roles: String, cluster_name: String, started_s: f64) {
        self.info.get_or_create(&NodeLabels { peer_id, roles, cluster_name }).set(1);
        self.start_time.set(started_s);
    }

    /// Takes over how the node is now.
    pub fn take_over(&self, now: &NodeFigures) {
        let MemberFigures { up, draining, down, left } = now.members;
        for (status, members) in [("up", up), ("draining", draining), ("down", down), ("left", left)] {
            set(&self.members.get_or_create(&StatusLabel { status }), members);
        }
        set(&self.peers, now.peers);
        set(&self.view, now.view);
        self.ready.set(i64::from(now.ready));
        self.has_leader.set(i64::from(now.has_leader));
    }

    /// Somebody else leads.
    pub(crate) fn leader_changed(&self) {
        self.leader_changes.inc();
    }

    /// There is a leader again.
    pub(crate) fn was_leaderless(&self, lasted: Duration) {
        self.leaderless.observe(lasted.as_secs_f64());
    }

    /// So many members are up and out of reach.
    pub(crate) fn unreachable(&self, members: usize) {
        set(&self.unreachable, u64::try_from(members).unwrap_or(u64::MAX));
    }

    /// This node is no longer cut off.
    pub(crate) fn healed(&self, lasted: Duration, recovery: Duration) {
        self.partitions.observe(lasted.as_secs_f64());
        self.recovery.observe(recovery.as_secs_f64());
    }

    /// A member that was down is up again, in another run or in the same one.
    pub(crate) fn came_back(&self, lasted: Duration, restarted: bool) {
        let restarted = if restarted { "true" } else { "false" };
        self.absences.get_or_create(&RestartedLabel { restarted }).observe(lasted.as_secs_f64());
    }

    /// These are the events that there are.
    pub(crate) fn know_events(&self, names: impl IntoIterator<Item = &'static str>) {
        for event in names {
            drop(self.events.get_or_create(&EventLabel { event }));
        }
    }

    /// An event was told.
    pub(crate) fn event(&self, event: &'static str) {
        self.events.get_or_create(&EventLabel { event }).inc();
    }
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}
