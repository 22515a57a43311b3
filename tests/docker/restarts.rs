//! The whole project is restarted, stopped, removed and made again: what was acknowledged is there afterwards, unless its
//! volumes were removed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    ask::{Api, Granted},
    compose::{Project, SCALED},
    engine::docker,
    queues,
    serving::cluster,
};

const COUNT: usize = 3;
/// Longer than all restarts take.
const TTL_MS: u64 = 3_600_000;
const QUEUES: [&str; 4] = ["kept-0", "kept-1", "kept-2", "kept-3"];
const MESSAGES: usize = 50;

/// What a cluster was given to keep.
struct Kept {
    cluster_id: Value,
    peers: BTreeSet<String>,
    lock: Granted,
    /// The greatest token so far.
    token: u64,
}

fn ids(queue: &str) -> BTreeSet<String> {
    (0..MESSAGES).map(|nth| format!("{queue}-{nth}")).collect()
}

async fn members(api: &Api) -> BTreeSet<String> {
    let cluster = cluster(api).await.unwrap();
    let members = cluster["members"].as_array().unwrap().iter();
    members.map(|member| member["peer_id"].as_str().unwrap().to_owned()).collect()
}

impl Kept {
    /// Gives it locks and messages.
    async fn give(api: &Api) -> Self {
        for queue in QUEUES {
            queues::publish(api, queue, &ids(queue)).await;
        }
        let lock: Granted = api.acquire("kept", 0, TTL_MS).await.ok().into();
        let cluster_id = cluster(api).await.unwrap()["cluster_id"].clone();
        Self { cluster_id, peers: members(api).await, token: lock.token, lock }
    }

    /// The same cluster of the same members, and the same holder; a new grant has a greater token than all before.
    async fn is_there(&mut self, api: &Api) {
        assert_eq!(cluster(api).await.unwrap()["cluster_id"], self.cluster_id);
        assert_eq!(members(api).await, self.peers);
        assert_eq!(api.holder("kept").await.as_ref(), Some(&self.lock));
        for queue in QUEUES {
            let stats = api.get(&format!("/v1/queues/{queue}")).await.ok();
            assert_eq!(stats["depth"], json!(MESSAGES), "{stats}");
        }
        let granted = api.grant("another").await;
        assert!(granted.token > self.token, "{granted:?} after {}", self.token);
        self.token = granted.token;
        api.release("another", &granted.session).await.ok();
    }

    /// All messages come; none is left.
    async fn must_be_given_back(self, api: &Api) {
        for queue in QUEUES {
            queues::consume(api, queue, &ids(queue)).await;
        }
        api.release("kept", &self.lock.session).await.ok();
    }
}

/// Every way to start all of it again.
pub(crate) async fn all(project: &Project) {
    let api = &project.gateway.api;
    let mut kept = Kept::give(api).await;
    let took = project.compose(&["restart"]).await;
    told("restart", took, project).await;
    kept.is_there(api).await;

    let stopped = project.compose(&["stop"]).await;
    all_ended_well(project).await;
    let started = project.compose(&["start"]).await;
    told("stop, start", stopped + started, project).await;
    kept.is_there(api).await;

    let down = project.compose(&["down"]).await;
    let up = project.up(COUNT).await;
    told("down, up", down + up, project).await;
    kept.is_there(api).await;
    let (old_id, old_peers) = (kept.cluster_id.clone(), kept.peers.clone());
    let (old_token, old_session) = (kept.token, kept.lock.session.clone());
    kept.must_be_given_back(api).await;

    let down = project.compose(&["down", "--volumes"]).await;
    let up = project.up(COUNT).await;
    told("down --volumes, up", down + up, project).await;
    let cluster = cluster(api).await.unwrap();
    assert_ne!(cluster["cluster_id"], old_id, "a new cluster");
    assert!(members(api).await.is_disjoint(&old_peers), "nobody is who it was");
    for queue in QUEUES {
        assert_eq!(api.get(&format!("/v1/queues/{queue}")).await.slug(), "not-found");
    }
    assert_eq!(api.keep_alive(&old_session).await.slug(), "session-expired");
    let granted = api.grant("another").await;
    assert!(granted.token > old_token, "{granted:?} after {old_token}");
    api.release("another", &granted.session).await.ok();
}

async fn told(what: &str, took: std::time::Duration, project: &Project) {
    let served = project.serves(COUNT).await;
    println!("{what}: docker-compose took {took:.1?}, all in place {served:.1?} later");
}

/// Each node heeded SIGTERM and drained within its grace.
async fn all_ended_well(project: &Project) {
    for service in SCALED.into_iter().chain(["bootstrap", "redis"]) {
        for container in project.containers(service).await {
            let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &container]).await;
            assert_eq!(code, "0", "{service} {container}");
        }
    }
}
