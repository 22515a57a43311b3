//! Every setting of the program: where it comes from, what it may be, and what it is.
//!
//! [`settings::SETTINGS`] is the one table; flags, environment, `.env.example`, `config show` and
//! validation derive from it. [`Config::from_sources`] turns [`Sources`] (flag over environment over
//! `.env` over default) into a [`Config`], or into *all* that is wrong with them. This is the only
//! module that reads the environment; it never binds, connects or writes anything.

mod check;
mod client;
pub mod example;
pub mod fault;
pub mod key;
mod parse;
mod read;
pub mod settings;
pub mod sources;
#[cfg(test)]
mod tests;
pub mod values;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use libp2p::{Multiaddr, pnet::PreSharedKey};

pub use self::{
    client::{ClientTarget, given_secrets},
    fault::{Fault, Faults},
    parse::suffixed_duration,
    read::Resolved,
    sources::{Source, Sources},
    values::{CacheCutOff, CacheProtocol, CacheWritePolicy, HostPort, LockReads, LogFormat, Secret, Switch},
};
use crate::ids::Role;

/// All settings of one node, validated. The fields are the variables of the environment in snake case.
#[derive(Clone, Debug)]
pub struct Config {
    /// Least time without a leader's heartbeat before an election.
    pub election_timeout_min: Duration,
    /// Most time without a leader's heartbeat before an election.
    pub election_timeout_max: Duration,
    /// How often a leader sends heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence after which a member is down.
    pub failure_timeout: Duration,
    /// After which a dead voter loses its vote and a dead replica is replaced.
    pub member_dead_timeout: Duration,
    /// After which a dead member is no longer listed.
    pub member_forget_timeout: Duration,
    /// How long a lock stays closed after its holder was lost.
    pub lock_delay: Duration,
    /// How linearizable reads are confirmed.
    pub lock_reads: LockReads,
    /// Copies of each message, the primary's included.
    pub queue_replicas: u32,
    /// Publishes are refused below so many in-sync copies.
    pub queue_min_in_sync: u32,
    /// Partitions of the queues; read at founding only.
    pub queue_partitions: u32,
    /// Most messages in one replication and journal batch.
    pub queue_batch_size: u32,
    /// How long an unconsumed message is kept.
    pub message_retention_period: Duration,
    /// Most bytes of one message or cache value.
    pub max_value_bytes: u64,
    /// Most bytes of a batch.
    pub max_batch_bytes: u64,
    /// Lines that this node's cache holds.
    pub cache_capacity: u64,
    /// The coherence protocol.
    pub cache_protocol: CacheProtocol,
    /// When a store is acknowledged.
    pub cache_write_policy: CacheWritePolicy,
    /// Session lease between a cache and a home.
    pub cache_lease: Duration,
    /// What a read gets that can reach no home.
    pub cache_cut_off: CacheCutOff,
    /// What this node does for the others; never empty.
    pub node_roles: BTreeSet<Role>,
    /// Where to find a cluster, with or without `/p2p/…`.
    pub bootstrap_peers: Vec<Multiaddr>,
    /// Given to exactly one node: how many lock managers found the cluster.
    pub bootstrap_expect: Option<u32>,
    /// Nodes of another name are refused.
    pub cluster_name: String,
    /// Where the cluster's key was read from.
    pub cluster_key_file: Option<PathBuf>,
    /// The cluster's pre-shared key, read from `cluster_key_file`. Its `Debug` shows a fingerprint only.
    pub cluster_key: Option<PreSharedKey>,
    /// Discovery on the local network.
    pub mdns: Switch,
    /// Where libp2p listens; never empty.
    pub listen_addrs: Vec<Multiaddr>,
    /// What to tell others when it differs from the listeners.
    pub announce_addrs: Vec<Multiaddr>,
    /// Where the HTTP API listens.
    pub api_addr: HostPort,
    /// The bearer token that `/v1` demands.
    pub api_token: Option<Secret>,
    /// Identity, Raft log, snapshots, embedded journal.
    pub data_dir: PathBuf,
    /// Whether `data_dir` holds slots, of which a node takes the first free one.
    pub data_slots: Switch,
    /// The queue's journal; `None`: the embedded journal. May carry a password.
    pub redis_url: Option<Secret>,
    /// How long a node drains after SIGTERM.
    pub shutdown_grace: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines there are (directives of `tracing`).
    pub rust_log: String,
}

impl Default for Config {
    /// The defaults of the table, without a cluster key.
    fn default() -> Self {
        Self::from_sources(&Sources::default()).expect("the defaults do not contradict each other")
    }
}

impl Config {
    /// The settings, or all that is wrong with them. Reads the cluster's key from its file.
    pub fn from_sources(sources: &Sources) -> Result<Self, Faults> {
        read::read(sources).map(|(config, _)| config)
    }

    /// What every setting has come to, in the order of the table, or all that is wrong.
    pub fn resolve(sources: &Sources) -> Result<Vec<Resolved>, Faults> {
        read::read(sources).map(|(_, resolved)| resolved)
    }

    /// Both: for whoever runs by the settings and is to show them.
    pub fn with_resolved(sources: &Sources) -> Result<(Self, Vec<Resolved>), Faults> {
        read::read(sources)
    }

    /// Whether this node has a role.
    pub fn has_role(&self, role: Role) -> bool {
        self.node_roles.contains(&role)
    }

    /// Whether this node is a gateway only: founder, rendezvous and API, without data of its own.
    pub fn is_pure_gateway(&self) -> bool {
        self.node_roles.iter().all(|role| *role == Role::Bootstrap)
    }
}
