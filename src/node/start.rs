//! Brings together what a production node is made of: data directory, identity, sockets, log.

use std::{io, path::Path, sync::Arc, time::Duration};

use libp2p::Multiaddr;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    Node,
    caches::{CacheParts, CutOff},
    control::{ControlSettings, Search},
    leader::LeaderSettings,
    observe,
    queues::{Sizes, Tuning, keeper::StoreSource},
    records::{RecordFile, raft_dir},
    running::{Parts, QueueParts, RaftPart},
};
use crate::{
    clock::{Clock, SystemClock},
    config::{CacheCutOff, CacheProtocol, CacheWritePolicy, Config, LockReads},
    ids::{ClusterId, NodeId, Role},
    machine::{
        cache,
        control::ControlState,
        membership::{CacheTerms, ClusterRecord},
        replication::Settings as ReplicationSettings,
    },
    net::{
        Mdns, Mesh, NetError, NetLimits, NetSettings, Protocol,
        identity::{DataDir, DataDirError, Identity, Slots},
    },
    raft::{
        DiskLog, RaftNode, RaftParts, RaftSettings, RaftStartError, RaftStorageError, ReadPolicy, SnapshotFile,
        existing_log_id,
    },
    store::{JournalStore, file::FileStore, redis::RedisStore},
    telemetry::{Metrics, RaftMetrics},
    time::millis,
};

/// Entries of the log that may wait for those who follow it.
const APPLIED_BUFFER: usize = 4_096;
/// The lease of a member, in hundredths of `FAILURE_TIMEOUT`: it is over before its silence is noticed.
const MEMBER_LEASE_PERCENT: u64 = 65;
/// A node heartbeats so many times within the failure timeout.
const HEARTBEATS_PER_TIMEOUT: u32 = 5;

/// Most bytes of a message: a delivery takes no further one beyond 8 MiB, and must fit an answer of 17 MiB.
const MOST_MESSAGE_BYTES: usize = 8 << 20;
/// Most bytes of one publish, which must fit a request of 17 MiB.
const MOST_PUBLISH_BYTES: usize = 16 << 20;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Raft's log or snapshot cannot be used.
    #[error(transparent)]
    Log(#[from] RaftStorageError),
    /// Raft did not start.
    #[error(transparent)]
    Raft(#[from] RaftStartError),
    /// The mesh did not start.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The record of the cluster cannot be used.
    #[error(transparent)]
    Record(#[from] io::Error),
    /// The data directory is of another cluster than the settings.
    #[error("{0}")]
    OtherCluster(String),
}

pub(super) async fn start(config: Config) -> Result<Node, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let slots = if config.data_slots.is_on() { Slots::On } else { Slots::Off };
    let dir = DataDir::open(&config.data_dir, slots)?;
    let records = RecordFile::new(dir.path());
    let record = records.load()?;
    let has_left = records.has_left();
    if let Some(record) = &record {
        check_record(record, &config, dir.path())?;
    }
    let (identity, log) = open_identity(&dir)?;
    let record = record.filter(|_| !identity.fresh);
    let metrics = Metrics::new();
    let net = net_settings(&config, &identity);
    let (mesh, mesh_events, net_task) = start_net(net, &metrics).await?;
    let dial = dial_addrs(&config, &identity, &mesh.status().borrow().listen_addrs);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        peer = %identity.node_id,
        identity = if identity.fresh { "new" } else { "known" },
        roles = %texts(&config.node_roles),
        data_dir = %dir.path().display(),
        dial = %texts(&dial),
        "starts"
    );
    let raft = match config.has_role(Role::LockManager) {
        true => {
            let log = log.counted_by(metrics.raft().clone());
            Some(start_raft(&config, &identity, log, dir.path(), &mesh, (&clock, metrics.raft())).await?)
        }
        false => None,
    };
    let parts = Parts {
        control: control_settings(&config, &identity, has_left),
        leader: LeaderSettings {
            failure_timeout: config.failure_timeout,
            member_dead_timeout: config.member_dead_timeout,
            member_forget_timeout: forget_after(&config, record.as_ref()),
            queue_replicas: usize::try_from(config.queue_replicas).unwrap_or(usize::MAX),
        },
        reads: reads(&config),
        lock_delay_ms: millis(config.lock_delay),
        mesh,
        mesh_events,
        net: Some(net_task),
        clock,
        raft,
        queues: queue_parts(&config, identity.node_id, dir.path()),
        caches: cache_parts(&config),
        records: Arc::new(records),
        record,
        fresh_id: ClusterId(rand::random()),
        metrics,
        data_dir: Some(dir.path().to_owned()),
        held: Some(dir),
    };
    Ok(Node::of(parts))
}

/// Most bytes of a value of the cache: with what goes along with it, it must fit a message of 9 MiB between caches.
const MOST_VALUE_BYTES: usize = 8 << 20;

fn cache_parts(config: &Config) -> CacheParts {
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    CacheParts {
        role: config.has_role(Role::CacheNode),
        capacity: size(config.cache_capacity),
        value_bytes: size(config.max_value_bytes).min(MOST_VALUE_BYTES),
        protocol: match config.cache_protocol {
            CacheProtocol::Mesi => cache::Protocol::Mesi,
            CacheProtocol::Mosi => cache::Protocol::Mosi,
            CacheProtocol::Moesi => cache::Protocol::Moesi,
        },
        policy: match config.cache_write_policy {
            CacheWritePolicy::Back => cache::WritePolicy::Back,
            CacheWritePolicy::Through => cache::WritePolicy::Through,
        },
        cut_off: match config.cache_cut_off {
            CacheCutOff::Miss => CutOff::Miss,
            CacheCutOff::Unavailable => CutOff::Unavailable,
        },
    }
}

/// What the caches of a cluster agree on, where this node founds it.
fn cache_terms(config: &Config) -> CacheTerms {
    CacheTerms {
        write_policy: config.cache_write_policy.as_str().to_owned(),
        lease_ms: millis(config.cache_lease),
        member_lease_ms: millis(config.failure_timeout) * MEMBER_LEASE_PERCENT / 100,
    }
}

/// A member that is gone stays listed for as long as a session of its cache may be alive, however short
/// `MEMBER_FORGET_TIMEOUT` is: a new home asks, or outlives, those who are listed.
fn forget_after(config: &Config, record: Option<&ClusterRecord>) -> Duration {
    let CacheTerms { lease_ms, member_lease_ms, .. } =
        record.map_or_else(|| cache_terms(config), |record| record.cache.clone());
    config.member_forget_timeout.max(Duration::from_millis(member_lease_ms + 2 * lease_ms))
}

fn queue_parts(config: &Config, node: NodeId, dir: &Path) -> QueueParts {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let sizes = Sizes {
        value: size(config.max_value_bytes).min(MOST_MESSAGE_BYTES),
        batch: size(config.max_batch_bytes).min(MOST_PUBLISH_BYTES),
    };
    if size(config.max_value_bytes) > sizes.value || size(config.max_batch_bytes) > sizes.batch {
        warn!(
            "queues take messages of at most {MOST_MESSAGE_BYTES} bytes, and {MOST_PUBLISH_BYTES} in one publish, whatever \
             MAX_VALUE_BYTES and MAX_BATCH_BYTES allow: what is delivered together must fit one message between nodes"
        );
    }
    let tuning = Tuning {
        batch_items: count(config.queue_batch_size),
        batch_bytes: sizes.batch,
        retention_s: config.message_retention_period.as_secs(),
        replication: ReplicationSettings {
            max_batch_records: count(config.queue_batch_size),
            // The silent are judged alike everywhere: whoever is only slow must not cost a copy.
            answer_timeout_ms: millis(config.failure_timeout),
            min_in_sync: count(config.queue_min_in_sync),
            ..ReplicationSettings::default()
        },
    };
    let source = config.has_role(Role::QueueNode).then(|| journals(config, node, dir));
    QueueParts { sizes, tuning, source }
}

/// Where a queue node's journals are: in Redis where there is one, else in files.
fn journals(config: &Config, node: NodeId, dir: &Path) -> StoreSource {
    let (url, dir) = (config.redis_url.clone(), dir.to_owned());
    StoreSource::new(move |cluster| {
        let (url, dir) = (url.clone(), dir.clone());
        async move {
            Ok(match url {
                Some(url) => {
                    Arc::new(RedisStore::open(url.expose(), cluster, node, &dir).await?) as Arc<dyn JournalStore>
                }
                None => Arc::new(FileStore::open(&dir).await?),
            })
        }
    })
}

/// What other nodes may be given as bootstrap addresses.
fn dial_addrs(config: &Config, identity: &Identity, listening: &[Multiaddr]) -> Vec<Multiaddr> {
    let addrs = if config.announce_addrs.is_empty() { listening } else { &config.announce_addrs };
    addrs.iter().map(|addr| addr.clone().with_p2p(identity.node_id.peer_id()).unwrap_or_else(|addr| addr)).collect()
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

/// Settings that must agree with the cluster that this directory belongs to.
fn check_record(record: &ClusterRecord, config: &Config, dir: &Path) -> Result<(), StartError> {
    let wrong = |setting: &str, ours: &str, theirs: &str| {
        StartError::OtherCluster(format!(
            "{setting} is {ours}, but the data in {} belongs to a cluster with {theirs}: set {setting}={theirs}, or give \
             this node another DATA_DIR to join a new cluster",
            dir.display()
        ))
    };
    let protocol = config.cache_protocol.as_str();
    if record.cluster_name != config.cluster_name {
        return Err(wrong("CLUSTER_NAME", &config.cluster_name, &record.cluster_name));
    }
    if record.cache_protocol != protocol {
        return Err(wrong("CACHE_PROTOCOL", protocol, &record.cache_protocol));
    }
    let policy = config.cache_write_policy.as_str();
    if record.cache.write_policy != policy {
        return Err(wrong("CACHE_WRITE_POLICY", policy, &record.cache.write_policy));
    }
    if record.cache.lease_ms != millis(config.cache_lease) {
        warn!(
            "CACHE_LEASE={} is ignored: the cluster was founded with {} ms",
            millis(config.cache_lease),
            record.cache.lease_ms
        );
    }
    let member_lease_ms = cache_terms(config).member_lease_ms;
    if record.cache.member_lease_ms != member_lease_ms {
        warn!(
            "FAILURE_TIMEOUT={} tells when others are down; the lease of this node as a member stays as the cluster was founded: \
             {} ms, not {member_lease_ms}",
            millis(config.failure_timeout),
            record.cache.member_lease_ms
        );
    }
    if record.queue_partitions != config.queue_partitions {
        warn!(
            "QUEUE_PARTITIONS={} is ignored: the cluster was founded with {}",
            config.queue_partitions, record.queue_partitions
        );
    }
    Ok(())
}

/// The identity, and the log that it belongs to. Every node has a log, be it empty: losing the one
/// means losing the other.
fn open_identity(dir: &DataDir) -> Result<(Identity, DiskLog), StartError> {
    let log_dir = RecordFile::new(dir.path()).make_raft_dir()?;
    let identity = dir.identity(existing_log_id(&log_dir)?)?;
    if !identity.fresh {
        let log = DiskLog::open(&log_dir, identity.log_id)?;
        return Ok((identity, log));
    }
    // A log without its identity is of a node that no longer exists.
    RecordFile::new(dir.path()).set_aside()?;
    RecordFile::new(dir.path()).make_raft_dir()?;
    let log = DiskLog::create(&log_dir, identity.log_id)?;
    Ok((identity, log))
}

fn net_settings(config: &Config, identity: &Identity) -> NetSettings {
    NetSettings {
        keypair: identity.keypair.clone(),
        pre_shared_key: config.cluster_key,
        listen: config.listen_addrs.clone(),
        announce: config.announce_addrs.clone(),
        bootstrap: config.bootstrap_peers.clone(),
        mdns: if config.mdns.is_on() { Mdns::On } else { Mdns::Off },
        agent: observe::agent(),
        limits: NetLimits::default(),
    }
}

type StartedNet = (Arc<dyn Mesh>, mpsc::Receiver<crate::net::MeshEvent>, crate::net::NetTask);

async fn start_net(settings: NetSettings, metrics: &Metrics) -> Result<StartedNet, NetError> {
    if settings.pre_shared_key.is_none() {
        warn!(
            "there is no cluster key: whoever reaches this node can join the cluster. `syncmesh init` makes a key; give all \
             nodes the same one with CLUSTER_KEY_FILE"
        );
    }
    let mut registry = prometheus_client::registry::Registry::default();
    let started = crate::net::start(settings, &mut registry, metrics.bounds().clone()).await;
    metrics.attach(registry);
    started
}

async fn start_raft(
    config: &Config,
    identity: &Identity,
    log: DiskLog,
    dir: &Path,
    mesh: &Arc<dyn Mesh>,
    (clock, metrics): (&Arc<dyn Clock>, &RaftMetrics),
) -> Result<RaftPart, StartError> {
    let (listener, applied) = mpsc::channel(APPLIED_BUFFER);
    let settings = RaftSettings {
        election_min: config.election_timeout_min,
        election_max: config.election_timeout_max,
        heartbeat: config.heartbeat_interval,
        reads: reads(config),
        max_request_bytes: Protocol::Raft.limits().request_bytes,
        ..RaftSettings::default()
    };
    let parts = RaftParts {
        id: identity.node_id,
        settings,
        log,
        snapshots: Arc::new(SnapshotFile::new(&raft_dir(dir))),
        mesh: Arc::clone(mesh),
        metrics: metrics.clone(),
        clock: Arc::clone(clock),
        listener,
    };
    let raft = RaftNode::<ControlState>::start(parts).await?;
    Ok(RaftPart { raft, applied })
}

fn reads(config: &Config) -> ReadPolicy {
    match config.lock_reads {
        LockReads::Index => ReadPolicy::Index,
        LockReads::Lease => ReadPolicy::Lease,
    }
}

fn control_settings(config: &Config, identity: &Identity, has_left: bool) -> ControlSettings {
    let expect = config.bootstrap_expect.and_then(|expect| usize::try_from(expect).ok());
    if has_left && expect.is_some() {
        warn!(
            "BOOTSTRAP_EXPECT is ignored: this node left a cluster and joins as new; to found another one, give it an empty DATA_DIR"
        );
    }
    ControlSettings {
        incarnation: identity.incarnation,
        cluster_name: config.cluster_name.clone(),
        cache_protocol: config.cache_protocol.as_str().to_owned(),
        cache: cache_terms(config),
        queue_partitions: config.queue_partitions,
        roles: config.node_roles.clone(),
        expect: expect.filter(|_| !has_left),
        announce: config.announce_addrs.iter().map(ToString::to_string).collect(),
        heartbeat: config.failure_timeout / HEARTBEATS_PER_TIMEOUT,
        search: if config.bootstrap_peers.is_empty() && !config.mdns.is_on() {
            Search::Nowhere
        } else {
            Search::Elsewhere
        },
        journal: watch::channel(None).1,
    }
}
