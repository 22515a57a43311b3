//! What is counted about Raft on this node: its log, its elections, its snapshots.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::{OutcomeLabel, latency, set};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

/// What a node can be to Raft; `none` is one that is no lock manager.
const ROLES: [&str; 6] = ["none", "learner", "follower", "candidate", "leader", "stopped"];
/// What can become of a proposal.
const OUTCOMES: [&str; 5] = ["committed", "not-leader", "unknown", "refused", "stopped"];

/// Raft on this node at one moment. Indexes are 0 where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RaftFigures {
    /// A word from the code.
    pub role: &'static str,
    /// The term.
    pub term: u64,
    /// The last entry of the log.
    pub last_log: u64,
    /// The last one that is known to be committed.
    pub committed: u64,
    /// The last one that was applied.
    pub applied: u64,
    /// The last one that the snapshot includes.
    pub snapshot: u64,
    /// How many vote.
    pub voters: u64,
    /// How many follow without a vote.
    pub learners: u64,
    /// On a leader: how many entries the voter is behind that has the fewest.
    pub furthest_behind: u64,
}

impl Default for RaftFigures {
    fn default() -> Self {
        Self {
            role: "none",
            term: 0,
            last_log: 0,
            committed: 0,
            applied: 0,
            snapshot: 0,
            voters: 0,
            learners: 0,
            furthest_behind: 0,
        }
    }
}

/// What is counted about Raft. Cheap to clone.
#[derive(Clone)]
pub struct RaftMetrics {
    role: Family<RoleLabel, Gauge>,
    term: Gauge,
    last_log: Gauge,
    committed: Gauge,
    applied: Gauge,
    snapshot: Gauge,
    voters: Gauge,
    learners: Gauge,
    furthest_behind: Gauge,
    elections: Counter,
    proposals: Family<OutcomeLabel, Counter>,
    commit_seconds: Histogram,
    entry_commands: Histogram,
    append_seconds: Histogram,
    snapshot_seconds: Histogram,
    snapshot_bytes: Gauge,
    installed: Counter,
}

impl Default for RaftMetrics {
    fn default() -> Self {
        Self {
            role: Family::default(),
            term: Gauge::default(),
            last_log: Gauge::default(),
            committed: Gauge::default(),
            applied: Gauge::default(),
            snapshot: Gauge::default(),
            voters: Gauge::default(),
            learners: Gauge::default(),
            furthest_behind: Gauge::default(),
            elections: Counter::default(),
            proposals: Family::default(),
            commit_seconds: latency(),
            // 1 to 1,024 commands.
            entry_commands: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            append_seconds: latency(),
            snapshot_seconds: latency(),
            snapshot_bytes: Gauge::default(),
            installed: Counter::default(),
        }
    }
}

impl RaftMetrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.register_state(registry);
        metrics.register_work(registry);
        metrics.take_over(&RaftFigures::default());
        for outcome in OUTCOMES {
            drop(metrics.proposals.get_or_create(&OutcomeLabel { outcome }));
        }
        metrics
    }

    fn register_state(&self, registry: &mut Registry) {
        registry.register("raft_role", "1 for what this node is to Raft, 0 for the rest", self.role.clone());
        for (name, help, gauge) in [
            ("raft_term", "The term: it grows with each election", &self.term),
            ("raft_last_log_index", "The last entry in the log of this node", &self.last_log),
            ("raft_committed_index", "The last entry that this node knows to be committed", &self.committed),
            ("raft_applied_index", "The last entry that this node has applied", &self.applied),
            ("raft_snapshot_index", "The last entry that the snapshot of this node includes", &self.snapshot),
            ("raft_voters", "Lock managers that vote", &self.voters),
            ("raft_learners", "Lock managers that follow without a vote", &self.learners),
            (
                "raft_follower_lag_entries",
                "On the leader: entries that the follower lacks that is furthest behind; elsewhere 0",
                &self.furthest_behind,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    fn register_work(&self, registry: &mut Registry) {
        registry.register(
            "raft_elections",
            "Elections in which this node asked the others for votes",
            self.elections.clone(),
        );
        registry.register("raft_proposals", "Proposals to this node by what became of them", self.proposals.clone());
        registry.register_with_unit(
            "raft_commit",
            "Time from the proposal of an entry until it was committed and applied, at the leader",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register("raft_entry_commands", "Commands in one entry of the log", self.entry_commands.clone());
        registry.register_with_unit(
            "raft_append",
            "Time until entries handed to the log of this node were synced to its disk",
            Unit::Seconds,
            self.append_seconds.clone(),
        );
        registry.register_with_unit(
            "raft_snapshot_build",
            "Time to build a snapshot and to sync it to the disk",
            Unit::Seconds,
            self.snapshot_seconds.clone(),
        );
        registry.register_with_unit(
            "raft_snapshot_size",
            "Size of the snapshot of this node",
            Unit::Bytes,
            self.snapshot_bytes.clone(),
        );
        registry.register("raft_snapshots_installed", "Snapshots taken over from a leader", self.installed.clone());
    }

    /// Takes over how Raft is now.
    pub fn take_over(&self, now: &RaftFigures) {
        for role in ROLES {
            self.role.get_or_create(&RoleLabel { role }).set(i64::from(role == now.role));
        }
        for (gauge, value) in [
            (&self.term, now.term),
            (&self.last_log, now.last_log),
            (&self.committed, now.committed),
            (&self.applied, now.applied),
            (&self.snapshot, now.snapshot),
            (&self.voters, now.voters),
            (&self.learners, now.learners),
            (&self.furthest_behind, now.furthest_behind),
        ] {
            set(gauge, value);
        }
    }

    /// This node asks for votes in a new term.
    pub(crate) fn election(&self) {
        self.elections.inc();
    }

    /// So many commands were proposed in one entry, and committed and applied.
    pub(crate) fn committed(&self, commands: usize, took: Duration) {
        self.entry_commands.observe(f64::from(u32::try_from(commands).unwrap_or(u32::MAX)));
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// What has become of a proposal, as a word from the code.
    pub(crate) fn proposed(&self, outcome: &'static str) {
        self.proposals.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Entries are on disk.
    pub(crate) fn appended(&self, took: Duration) {
        self.append_seconds.observe(took.as_secs_f64());
    }

    /// A snapshot was built, and is on disk.
    pub(crate) fn built(&self, took: Duration) {
        self.snapshot_seconds.observe(took.as_secs_f64());
    }

    /// The snapshot has so many bytes now.
    pub(crate) fn snapshot_of(&self, bytes: usize) {
        set(&self.snapshot_bytes, u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// A snapshot of a leader was taken over.
    pub(crate) fn installed(&self) {
        self.installed.inc();
    }
}

impl fmt::Debug for RaftMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftMetrics").finish_non_exhaustive()
    }
}
