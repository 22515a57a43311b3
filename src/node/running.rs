//! What a running node is made of, and how its tasks are kept together.
//!
//! [`assemble`] wires the tasks to each other, over whatever mesh, clock and disk it is given: the
//! real ones in [`start`](super::start), simulated ones in tests. If one task ends or panics, the node
//! ends: half a node is worse than none.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    Departure, Drained,
    authority::Authority,
    backup::exports::exports,
    caches::{self, CacheParts, Caches},
    control::{self, ControlParts, ControlSettings, MemberLease, Standing},
    dispatch::{self, Dispatch, Server},
    events::{
        Events,
        follow::follow,
        news::{self, NewsDesk, NewsParts},
    },
    gateway::Gateway,
    hints::{self, ViewHints, ViewPull},
    leader::{self, LeaderParts, LeaderSettings},
    leaving::Leaving,
    locks::Locks,
    observe::{Fixed, Observer},
    queues::{
        Queues, Shared, Sizes, Tuning,
        hosting::Hosting,
        keeper::{Journals, Keeper, StoreSource},
        router::Router,
    },
    records::ClusterStore,
    rendezvous::Rendezvous,
    requests::OpenRequests,
    route::Route,
    wire::{ControlCall, ControlReply},
};
use crate::{
    clock::Clock,
    durable,
    ids::{ClusterId, NodeId},
    machine::{
        control::{ControlState, Effect},
        membership::ClusterRecord,
    },
    net::{CallError, Mesh, MeshEvent, NetTask, Protocol, deferred::Exchange},
    raft::{Applied, RaftNode, ReadPolicy},
    telemetry::Metrics,
};

/// How long the answers of a node that stops may take to leave it.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Control events that may wait.
const CONTROL_INBOX: usize = 4_096;

/// Why a node ended by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It left the cluster for good.
    Left,
    /// The cluster does not take it as it is; the text names the cure.
    Barred(String),
    /// Something broke; the text says what.
    Failed(String),
}

/// The lock manager's part of a node.
#[derive(Debug)]
pub(crate) struct RaftPart {
    pub(crate) raft: RaftNode<ControlState>,
    pub(crate) applied: mpsc::Receiver<Applied<Effect>>,
}

/// The queues' part of a node.
#[derive(Debug)]
pub(crate) struct QueueParts {
    pub(crate) sizes: Sizes,
    pub(crate) tuning: Tuning,
    /// Set on queue nodes: where their journals come from.
    pub(crate) source: Option<StoreSource>,
}

#[cfg(test)]
impl QueueParts {
    /// Of a node that keeps queues in these journals, or none.
    pub(crate) fn of(source: Option<StoreSource>) -> Self {
        let sizes = Sizes { value: 1 << 20, batch: 8 << 20 };
        let replication = crate::machine::replication::Settings::default();
        let tuning = Tuning { batch_items: 256, batch_bytes: sizes.batch, retention_s: 345_600, replication };
        Self { sizes, tuning, source }
    }
}

/// What a node is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) control: ControlSettings,
    pub(crate) leader: LeaderSettings,
    pub(crate) reads: ReadPolicy,
    pub(crate) lock_delay_ms: u64,
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) mesh_events: mpsc::Receiver<MeshEvent>,
    pub(crate) net: Option<NetTask>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) raft: Option<RaftPart>,
    pub(crate) queues: QueueParts,
    pub(crate) caches: CacheParts,
    pub(crate) records: Arc<dyn ClusterStore>,
    pub(crate) record: Option<ClusterRecord>,
    pub(crate) fresh_id: ClusterId,
    pub(crate) metrics: Metrics,
    pub(crate) data_dir: Option<PathBuf>,
    /// Kept for as long as the node runs: the lock on the data directory.
    pub(crate) held: Option<crate::net::identity::DataDir>,
}

/// The state behind a [`Node`](super::Node).
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: NodeId,
    pub(crate) settings: ControlSettings,
    pub(crate) locks: Locks,
    pub(crate) queues: Queues,
    pub(crate) caches: Caches,
    pub(crate) gateway: Gateway,
    pub(crate) observer: Observer,
    pub(crate) events: Events,
    pub(crate) hosting: Hosting,
    pub(crate) metrics: Metrics,
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) raft: Option<RaftNode<ControlState>>,
    pub(crate) authority: Option<Authority>,
    pub(crate) records: Arc<dyn ClusterStore>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) leaving: Leaving,
    /// From when on this run of the node says no more that it is there.
    pub(crate) draining: CancellationToken,
    /// What came of handing over, once that was done.
    pub(crate) drained: tokio::sync::Mutex<Option<Drained>>,
    /// What came of leaving, once that is known.
    pub(crate) departure: watch::Sender<Option<Departure>>,
    /// Ends the tasks.
    pub(crate) stop: CancellationToken,
    failed: watch::Receiver<Option<String>>,
    /// The swarm is the last to go: what drains still needs it.
    pub(crate) net: Option<NetStop>,
    pub(crate) held: std::sync::Mutex<Option<crate::net::identity::DataDir>>,
    pub(crate) supervisor: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Ends the swarm, and tells when it has ended.
#[derive(Clone, Debug)]
pub(crate) struct NetStop {
    stop: CancellationToken,
    ended: watch::Receiver<Option<String>>,
}

impl NetStop {
    fn watch(mut net: NetTask) -> Self {
        let (ended, ended_watch) = watch::channel(None);
        let stop = net.stop_token();
        tokio::spawn(async move {
            let reason = net.ended().await.err().map_or_else(|| "the mesh ended".to_owned(), |error| error.to_string());
            ended.send_replace(Some(reason));
        });
        Self { stop, ended: ended_watch }
    }

    async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| "the mesh ended".to_owned())
    }

    /// Closes all connections and listeners.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.ended().await;
    }
}

/// Wires a node together and starts its tasks.
pub(crate) fn assemble(mut parts: Parts) -> Running {
    let stop = CancellationToken::new();
    let route = Route::new();
    let id = parts.mesh.local();
    let bounds = parts.metrics.bounds().clone();
    let mut tasks = Tasks::default();
    let (greeted, greeted_watch) = watch::channel(Arc::new(BTreeMap::new()));
    let looking = Standing::Looking { lock_managers: 0, expect: parts.control.expect, refused: None };
    let first = if parts.record.is_some() { Standing::Joining } else { looking };
    let (standing, standing_watch) = watch::channel(first);
    let (known_record, record_watch) = watch::channel(parts.record);
    let events = Events::new(bounds.clone(), parts.metrics.node().clone(), parts.clock.wall());
    let (news, handed_in) = NewsDesk::new(bounds.clone());
    let failure_timeout = parts.leader.failure_timeout;

    let (raft, authority) = match parts.raft {
        Some(RaftPart { raft, applied }) => {
            let leader_parts = LeaderParts {
                me: id,
                incarnation: parts.control.incarnation,
                raft: raft.clone(),
                applied,
                route: route.clone(),
                clock: Arc::clone(&parts.clock),
                settings: parts.leader,
                connected: parts.mesh.status(),
                record: record_watch.clone(),
                metrics: parts.metrics.clone(),
                events: events.clone(),
                news,
            };
            let (handle, task) = leader::leader(leader_parts, stop.clone());
            tasks.spawn("leader", task);
            let (exports, export_task) = exports(raft.clone(), Arc::clone(&parts.clock), bounds.clone());
            tasks.spawn("backups", export_task.run(stop.clone()));
            let watched = raft.clone();
            tasks.spawn_fallible("raft", stop.clone(), async move { watched.fatal().await });
            (Some(raft.clone()), Some(Authority::new(raft, handle, exports, parts.reads, bounds.clone())))
        }
        None => (None, None),
    };

    let (own_journal, own_journal_watch) = watch::channel(None);
    parts.control.journal = own_journal_watch;
    let (journals, journals_watch) = watch::channel(Journals::default());
    let pull = ViewPull::default();
    let hosting = Hosting::new(pull.clone(), bounds.clone());
    let hosted = hosting.clone();
    let (exchange, asked, exchange_task) = Exchange::new(Arc::clone(&parts.mesh), Protocol::Client, bounds.clone());
    let answered = CancellationToken::new();
    let all_answered = answered.clone();
    tasks.spawn("exchange", async move {
        let last_words = async {
            all_answered.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! { () = exchange_task.run() => {}, () = last_words => {} }
    });
    let requests = OpenRequests::new(id, parts.control.incarnation);
    let gateway = Gateway::new(id, route.clone(), exchange.clone(), authority.clone(), Arc::clone(&requests));
    let (lease, lease_watch) = watch::channel(MemberLease::default());
    let (caches, door, cache_tasks) = caches::set_up(
        parts.caches,
        caches::Setup {
            me: id,
            incarnation: parts.control.incarnation,
            clock: Arc::clone(&parts.clock),
            mesh: Arc::clone(&parts.mesh),
            route: route.clone(),
            pull: pull.clone(),
            gateway: gateway.clone(),
            client: exchange.clone(),
            requests: Arc::clone(&requests),
            lease: lease_watch,
            record: record_watch.clone(),
            bounds: bounds.clone(),
            metrics: parts.metrics.caches().clone(),
            stop: stop.clone(),
        },
    );
    cache_tasks.into_iter().for_each(|(name, task)| tasks.spawn(name, task));
    let server =
        Server { authority: authority.clone(), hosting: hosting.clone(), caches: caches.clone(), route: route.clone() };
    tasks.spawn("operations", dispatch::serve(asked, server, bounds.clone(), stop.clone(), answered));

    let (leaving, draining) = (Leaving::default(), CancellationToken::new());
    let observer = Observer {
        fixed: Arc::new(Fixed {
            cluster_name: parts.control.cluster_name.clone(),
            cache_protocol: parts.control.cache_protocol.clone(),
            roles: parts.control.roles.clone(),
            announce: parts.control.announce.clone(),
            started: parts.clock.now(),
        }),
        clock: Arc::clone(&parts.clock),
        mesh: Arc::clone(&parts.mesh),
        route: route.clone(),
        raft: raft.clone(),
        greeted: greeted_watch.clone(),
        standing: standing_watch,
        record: record_watch,
        journals: journals_watch,
        caches: caches.clone(),
        leaving: leaving.clone(),
        draining: draining.clone(),
    };
    let control_parts = ControlParts {
        settings: parts.control.clone(),
        mesh: Arc::clone(&parts.mesh),
        route: route.clone(),
        clock: Arc::clone(&parts.clock),
        authority: authority.clone(),
        raft: raft.clone(),
        records: Arc::clone(&parts.records),
        fresh_id: parts.fresh_id,
        observer: observer.clone(),
        known_record,
        greeted,
        standing,
        lease,
        events: events.clone(),
        bounds: bounds.clone(),
        leaving: leaving.clone(),
        draining: draining.clone(),
    };
    let (control, control_events) = mpsc::channel(CONTROL_INBOX);
    tasks.spawn("control", control::run(control_parts, control_events, stop.clone()));
    let (hints, hinted) = mpsc::channel(hints::INBOX);
    let view_hints = ViewHints {
        pull: pull.clone(),
        mesh: Arc::clone(&parts.mesh),
        route: route.clone(),
        authority: authority.clone(),
        incarnation: parts.control.incarnation,
    };
    tasks.spawn("view-hints", view_hints.run(hinted, stop.clone()));
    let dispatch = Dispatch {
        control,
        client: exchange.clone(),
        raft: raft.clone(),
        hints,
        hosting: hosting.clone(),
        door,
        route: route.clone(),
        greeted: greeted_watch,
        bounds: bounds.clone(),
    };
    tasks.spawn("dispatch", dispatch.run(parts.mesh_events, stop.clone()));
    let rendezvous = Rendezvous {
        mesh: Arc::clone(&parts.mesh),
        route: route.clone(),
        record: observer.record.clone(),
        roles: parts.control.roles.clone(),
        draining: draining.clone(),
    };
    tasks.spawn("rendezvous", rendezvous.run(stop.clone()));
    let router =
        Router { me: id, route: route.clone(), exchange, requests, hosting: hosting.clone(), pull: pull.clone() };
    let queue_metrics = parts.metrics.queues().clone();
    let QueueParts { sizes, tuning, source } = parts.queues;
    let queues = Queues::new(
        router,
        gateway.clone(),
        Arc::clone(&parts.clock),
        sizes,
        tuning.retention_s,
        queue_metrics.clone(),
    );
    if let Some(source) = source {
        let keeper = Keeper {
            incarnation: parts.control.incarnation,
            source,
            record: observer.record.clone(),
            hosting,
            shared: Shared {
                mesh: Arc::clone(&parts.mesh),
                clock: Arc::clone(&parts.clock),
                route: route.clone(),
                gateway: gateway.clone(),
                service: queues.clone(),
                pull,
                tuning,
                metrics: queue_metrics,
                bounds: parts.metrics.bounds().clone(),
                journal_kind: String::new(),
            },
            own: own_journal,
            journals,
        };
        let keeper_stop = stop.clone();
        tasks.spawn_fallible("queues", CancellationToken::new(), keeper.run(keeper_stop));
    }
    let node_metrics = parts.metrics.node().clone();
    tasks.spawn("events", follow(events.clone(), route.clone(), Arc::clone(&parts.clock), node_metrics, stop.clone()));
    let news_parts = NewsParts {
        mesh: Arc::clone(&parts.mesh),
        route: route.clone(),
        clock: Arc::clone(&parts.clock),
        events: events.clone(),
        standing: observer.standing.clone(),
        journals: observer.journals.clone(),
        caches: caches.clone(),
        metrics: parts.metrics.clone(),
        patience: failure_timeout,
        draining: draining.clone(),
    };
    let roles: Vec<String> = parts.control.roles.iter().map(ToString::to_string).collect();
    let started_s = Duration::from_millis(parts.clock.wall().0).as_secs_f64();
    let cluster_name = parts.control.cluster_name.clone();
    parts.metrics.node().describe(id.to_string(), roles.join(","), cluster_name, started_s);
    tasks.spawn("news", news::run(news_parts, handed_in, stop.clone()));

    let (supervisor, failed) = tasks.supervise(stop.clone());
    Running {
        id,
        settings: parts.control,
        locks: Locks::new(gateway.clone(), parts.clock, parts.lock_delay_ms, parts.metrics.locks().clone()),
        queues,
        caches,
        gateway,
        observer,
        events,
        hosting: hosted,
        metrics: parts.metrics,
        mesh: parts.mesh,
        raft,
        authority,
        records: parts.records,
        data_dir: parts.data_dir,
        leaving,
        draining,
        drained: tokio::sync::Mutex::default(),
        departure: watch::Sender::default(),
        stop,
        failed,
        net: parts.net.map(NetStop::watch),
        held: std::sync::Mutex::new(parts.held),
        supervisor: tokio::sync::Mutex::new(Some(supervisor)),
    }
}

impl Running {
    /// Waits until the node can no longer be what it is.
    pub(crate) async fn ended(&self) -> End {
        let mut standing = self.observer.standing.clone();
        let mut failed = self.failed.clone();
        tokio::select! {
            // A failure ends the tasks that tell the rest: it is looked for first.
            biased;
            reason = failed.wait_for(Option::is_some) => {
                let reason = reason.ok().and_then(|reason| reason.clone());
                End::Failed(reason.unwrap_or_else(|| "the node was stopped".into()))
            }
            standing = standing.wait_for(|standing| matches!(standing, Standing::Left | Standing::Barred(_))) => {
                match standing.as_deref() {
                    Ok(Standing::Barred(reason)) => End::Barred(reason.clone()),
                    Ok(_) => End::Left,
                    Err(_) => End::Failed("the node was stopped".into()),
                }
            }
            reason = self.net_ended() => End::Failed(reason),
        }
    }

    /// Ends everything at once, as a process that is killed does: nobody is told.
    #[cfg(test)]
    pub(crate) async fn kill(&self) {
        if let Some(net) = &self.net {
            net.close().await;
        }
        self.stop.cancel();
        if let Some(supervisor) = self.supervisor.lock().await.take() {
            let _ = supervisor.await;
        }
        if let Some(raft) = &self.raft {
            raft.shutdown().await;
        }
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }

    async fn net_ended(&self) -> String {
        match &self.net {
            Some(net) => net.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Asks a peer something under the control protocol, or this node itself where it leads.
    pub(crate) async fn control(&self, peer: NodeId, call: ControlCall) -> Result<ControlReply, CallError> {
        control::tell(&*self.mesh, self.authority.as_ref(), self.id, peer, call).await
    }

    pub(crate) async fn write_node_file(&self, api_url: &str) -> io::Result<()> {
        let Some(dir) = self.data_dir.clone() else { return Ok(()) };
        let listen = self.mesh.status().borrow().listen_addrs.clone();
        let content = serde_json::json!({
            "pid": std::process::id(),
            "peer_id": self.id,
            "api_url": api_url,
            "listen_addrs": listen,
        });
        let text = content.to_string();
        let write = move || durable::replace(&dir.join("node.json"), text.as_bytes());
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }
}

/// The tasks of a node, by name.
#[derive(Debug, Default)]
struct Tasks {
    set: JoinSet<(&'static str, Option<String>)>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            (name, None)
        });
    }

    /// A task that ends only by a failure, which it tells.
    fn spawn_fallible(
        &mut self,
        name: &'static str,
        stop: CancellationToken,
        task: impl Future<Output = String> + Send + 'static,
    ) {
        self.set.spawn(async move {
            tokio::select! {
                reason = task => (name, Some(reason)),
                () = stop.cancelled() => (name, None),
            }
        });
    }

    /// Watches over all of them: the first that ends before `stop` ends the node.
    fn supervise(mut self, stop: CancellationToken) -> (tokio::task::JoinHandle<()>, watch::Receiver<Option<String>>) {
        let (failed, failed_watch) = watch::channel(None);
        let supervisor = tokio::spawn(async move {
            while let Some(ended) = self.set.join_next().await {
                if stop.is_cancelled() {
                    continue;
                }
                let reason = match ended {
                    Ok((name, Some(reason))) => format!("{name}: {reason}"),
                    Ok((name, None)) => format!("the {name} task ended: this is a bug"),
                    Err(panic) => format!("a task panicked ({panic}): this is a bug"),
                };
                error!(%reason, "the node cannot go on");
                failed.send_replace(Some(reason));
                stop.cancel();
            }
        });
        (supervisor, failed_watch)
    }
}

/// A pause between two looks of whoever waits for something to change elsewhere.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
