//! Containers are killed, paused and cut off under load, one of each service at a time; the rest goes on.

use std::{collections::BTreeMap, fmt, time::Instant};

use crate::{
    compose::{DEAD_S, Project, SCALED},
    engine::docker,
    harness::{holds, voters},
    load::Load,
    serving::{COPIES, cluster, peers, settles, up},
};

const COUNT: usize = 3;

/// What is done to a container, and undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// `docker kill`: docker does not start it again by itself, `docker-compose up` does.
    Killed,
    /// Its process dies by itself, as docker sees it: the restart policy brings it back.
    Crashed,
    Paused,
    /// Off the network, and on it again under another address.
    CutOff,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::Crashed => "crashed",
            Self::Paused => "paused",
            Self::CutOff => "cut off",
        })
    }
}

/// Which of the lock managers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Which {
    Leader,
    Follower,
}

/// All faults, one after the other: each ends in a cluster that serves.
pub(crate) async fn all(project: &Project) {
    let load = Load::start(project, "faults").await;
    for (fault, which) in [
        (Fault::Killed, Which::Leader),
        (Fault::Paused, Which::Follower),
        (Fault::CutOff, Which::Leader),
        (Fault::Paused, Which::Leader),
        (Fault::CutOff, Which::Follower),
        (Fault::Crashed, Which::Follower),
    ] {
        strike(project, &load, fault, which).await;
    }
    the_dead_are_done_without(project, &load).await;
    without_redis(project, &load).await;
    without_gateway(project, &load).await;
    load.checked("containers killed, crashed, paused and cut off").await;
}

/// A container of each service: the leader or another lock manager, and any of the others.
async fn chosen(project: &Project, which: Which) -> BTreeMap<&'static str, String> {
    let mut leader = None;
    settles("somebody leads", async || {
        let seen = cluster(&project.gateway.api).await?;
        leader = seen["leader"].as_str().map(str::to_owned);
        holds(leader.is_some(), seen)
    })
    .await;
    let mut chosen = BTreeMap::new();
    for service in SCALED {
        let peers = project.peers(service).await;
        let is_so =
            |peer: &String| service != "lock-manager" || (Some(peer) == leader.as_ref()) == (which == Which::Leader);
        let (_, container) = peers.into_iter().find(|(peer, _)| is_so(peer)).expect("it is there");
        chosen.insert(service, container);
    }
    chosen
}

/// One container of each service at once.
async fn strike(project: &Project, load: &Load<'_>, fault: Fault, which: Which) {
    let containers = chosen(project, which).await;
    let struck = Instant::now();
    for container in containers.values() {
        inflict(project, fault, container).await;
    }
    if fault != Fault::Crashed {
        is_noticed(project, COUNT - 1).await;
        load.works_after(struck).await;
        load.tell_first_after(struck, &format!("{which:?}, a queue node and a cache node {fault}")).await;
    }
    for (service, container) in &containers {
        heal(project, fault, service, container).await;
    }
    let healed = Instant::now();
    let took = project.serves(COUNT).await;
    println!("{fault} and back: all in place after {took:.1?}");
    load.works_after(healed).await;
}

async fn inflict(project: &Project, fault: Fault, container: &str) {
    match fault {
        Fault::Killed => drop(docker(&["kill", container]).await),
        Fault::Crashed => {
            let before = restarts(container).await;
            project.crash(container).await;
            settles("docker starts it again", async || holds(restarts(container).await > before, before)).await;
        }
        Fault::Paused => drop(docker(&["pause", container]).await),
        Fault::CutOff => drop(docker(&["network", "disconnect", &project.network(), container]).await),
    }
}

async fn heal(project: &Project, fault: Fault, service: &str, container: &str) {
    match fault {
        Fault::Killed => drop(project.up(COUNT).await),
        Fault::Crashed => {}
        Fault::Paused => drop(docker(&["unpause", container]).await),
        Fault::CutOff => {
            drop(docker(&["network", "connect", "--alias", service, &project.network(), container]).await);
        }
    }
}

async fn restarts(container: &str) -> u64 {
    docker(&["inspect", "--format", "{{.RestartCount}}", container]).await.parse().unwrap()
}

/// Waits until so many of each service are up.
async fn is_noticed(project: &Project, count: usize) {
    settles(&format!("{count} of each are up"), async || {
        let cluster = cluster(&project.gateway.api).await?;
        let counts = SCALED.map(|role| up(&cluster, role).len());
        holds(counts == [count; SCALED.len()], format!("{counts:?} are"))
    })
    .await;
}

/// Who stays away has no vote and keeps nothing after a while, without a person's doing.
async fn the_dead_are_done_without(project: &Project, load: &Load<'_>) {
    let containers = chosen(project, Which::Follower).await;
    for container in containers.values() {
        inflict(project, Fault::Killed, container).await;
    }
    is_noticed(project, COUNT - 1).await;
    let took = settles("the rest goes on without the dead", async || {
        let cluster = cluster(&project.gateway.api).await?;
        holds(voters(&cluster).len() == COUNT - 1, format!("{} vote", voters(&cluster).len()))?;
        let keepers = up(&cluster, "queue-node");
        for partition in cluster["queue"]["partitions"].as_array().unwrap() {
            let replicas = peers(partition, "replicas");
            let is_so =
                replicas.len() == COPIES && replicas == peers(partition, "in_sync") && replicas.is_subset(&keepers);
            holds(is_so, partition)?;
        }
        Ok(())
    })
    .await;
    println!("the dead had no vote and kept no queue any more {took:.1?} later (MEMBER_DEAD_TIMEOUT={DEAD_S})");
    load.works_after(Instant::now()).await;
    project.up(COUNT).await;
    project.serves(COUNT).await;
}

/// While Redis is away publishes are refused; locks and cache do not notice.
async fn without_redis(project: &Project, load: &Load<'_>) {
    let redis = project.container("redis").await;
    let killed = Instant::now();
    docker(&["kill", &redis]).await;
    let first = load.queues.is_refused_after(killed).await;
    let granted = project.gateway.api.grant("without-redis").await;
    project.gateway.api.release("without-redis", &granted.session).await.ok();
    let back = Instant::now();
    project.up(COUNT).await;
    load.works_after(back).await;
    println!("redis killed: publishes refused after {first:.2?}");
    load.tell_first_after(back, "redis back").await;
    project.serves(COUNT).await;
}

/// The gateway is all that these clients know; behind it everything goes on.
async fn without_gateway(project: &Project, load: &Load<'_>) {
    let gateway = project.container("bootstrap").await;
    let struck = Instant::now();
    inflict(project, Fault::Crashed, &gateway).await;
    project.serves(COUNT).await;
    load.works_after(struck).await;
    load.tell_first_after(struck, "the gateway crashed").await;
    let took = project.compose(&["restart", "bootstrap"]).await;
    let back = Instant::now();
    project.serves(COUNT).await;
    load.works_after(back).await;
    println!("docker-compose restart bootstrap took {took:.1?}");
}
