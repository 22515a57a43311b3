//! When a project serves, and who is who in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    ask::Api,
    compose::{Project, SCALED},
    engine::docker,
    harness::{holds, voters},
};

/// How long anything may take that comes about by itself: sixteen containers share this machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(250);
/// Copies of each partition, the default.
pub(crate) const COPIES: usize = 2;

/// Waits until `look` has what is wanted, and says how long that took.
#[track_caller]
pub(crate) fn settles(what: &str, mut look: impl AsyncFnMut() -> Result<(), String>) -> impl Future<Output = Duration> {
    let caller = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        loop {
            match look().await {
                Ok(()) => return began.elapsed(),
                Err(why) if began.elapsed() > PATIENCE => panic!("{caller}: not within {PATIENCE:?}: {what}; {why}"),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

/// What the gateway shows of the cluster, where it answers.
pub(crate) async fn cluster(api: &Api) -> Result<Value, String> {
    let answer = api.call(reqwest::Method::GET, "/v1/cluster", None).await.map_err(|error| format!("{error:?}"))?;
    if answer.is_ok() { Ok(answer.body) } else { Err(format!("{answer:?}")) }
}

/// The members of a role that are up.
pub(crate) fn up(cluster: &Value, role: &str) -> BTreeSet<String> {
    let members = cluster["members"].as_array().unwrap().iter();
    let is_so = |member: &&Value| {
        member["status"] == "up" && member["roles"].as_array().unwrap().iter().any(|shown| shown == role)
    };
    members.filter(is_so).map(|member| member["peer_id"].as_str().unwrap().to_owned()).collect()
}

/// The peers of a list of a partition, whose order means nothing here.
pub(crate) fn peers(partition: &Value, list: &str) -> BTreeSet<String> {
    let peers = partition[list].as_array().unwrap().iter();
    peers.map(|peer| peer.as_str().unwrap().to_owned()).collect()
}

/// Whether so many of each scaled service serve with all that they should have.
pub(crate) fn is_whole(cluster: &Value, count: usize) -> Result<(), String> {
    let warnings = cluster["warnings"].as_array().unwrap().iter();
    // One Redis is what this project has; who was scaled away is down.
    let expected = ["queue-shared-redis", "member-down"];
    let others: Vec<&Value> =
        warnings.filter(|warning| !expected.contains(&warning["code"].as_str().unwrap())).collect();
    holds(others.is_empty(), format!("{others:?}"))?;
    holds(cluster["leader"].is_string(), "there is no leader")?;
    for (role, wanted) in SCALED.map(|role| (role, count)).into_iter().chain([("bootstrap", 1)]) {
        let there = up(cluster, role).len();
        holds(there == wanted, format!("{there} of {wanted} {role} are up"))?;
    }
    holds(voters(cluster).len() == count, format!("{} vote", voters(cluster).len()))?;
    holds(cluster["queue"]["moving"] == 0, format!("partitions move: {}", cluster["queue"]["moving"]))?;
    holds(cluster["cache"]["moving"] == 0, format!("slots move: {}", cluster["cache"]["moving"]))?;
    let keepers = up(cluster, "queue-node");
    let mut primaries = BTreeSet::new();
    for partition in cluster["queue"]["partitions"].as_array().unwrap() {
        let in_sync = peers(partition, "in_sync");
        let is_so = partition["status"] == "serving"
            && in_sync.len() == COPIES
            && in_sync == peers(partition, "replicas")
            && in_sync.is_subset(&keepers);
        holds(is_so, partition)?;
        primaries.insert(partition["primary"].as_str().unwrap().to_owned());
    }
    holds(primaries == keepers, format!("{} of {count} queue nodes are primaries", primaries.len()))
}

impl Project {
    fn api(&self) -> &Api {
        &self.gateway.api
    }

    /// Waits until so many of each scaled service serve, docker finds all containers healthy, and an operation of each
    /// kind succeeds.
    pub(crate) async fn serves(&self, count: usize) -> Duration {
        let took = settles(&format!("{count} of each serve"), async || {
            let ready =
                self.api().call(reqwest::Method::GET, "/readyz", None).await.map_err(|error| error.to_string())?;
            holds(ready.status == 200, &ready.body)?;
            let cluster = cluster(self.api()).await?;
            is_whole(&cluster, count).map_err(|why| format!("{why} of {}", cluster["members"]))?;
            let caches =
                self.api().call(reqwest::Method::GET, "/v1/cache", None).await.map_err(|error| error.to_string())?;
            let answer = caches.body["nodes"].as_array().map(Vec::len);
            holds(answer == Some(count), format!("{answer:?} caches answer: {}", caches.body))
        })
        .await;
        self.is_healthy().await;
        self.works().await;
        took
    }

    /// Waits until docker, which asks each container itself, finds all of them healthy.
    pub(crate) async fn is_healthy(&self) {
        settles("all containers are healthy", async || {
            for service in SCALED.into_iter().chain(["bootstrap", "redis"]) {
                for container in self.containers(service).await {
                    let health = docker(&["inspect", "--format", "{{.State.Health.Status}}", &container]).await;
                    holds(health == "healthy", format!("{service} {container}: {health}"))?;
                }
            }
            Ok(())
        })
        .await;
    }

    /// One operation of each kind.
    async fn works(&self) {
        let granted = self.api().grant("works").await;
        self.api().release("works", &granted.session).await.ok();
        // No two tokens are the same.
        let value = granted.token.to_string();
        let ids = BTreeSet::from([value.clone()]);
        crate::queues::publish(self.api(), "works", &ids).await;
        crate::queues::consume(self.api(), "works", &ids).await;
        let put = self.api().request(reqwest::Method::PUT, "/v1/cache/works").body(value.clone());
        Api::send(put).await.unwrap().ok();
        let read = self.api().get("/v1/cache/works").await;
        assert_eq!(read.body, serde_json::from_str::<Value>(&value).unwrap(), "{read:?}");
    }

    /// The containers of a service by the peer ids of their nodes.
    pub(crate) async fn peers(&self, service: &str) -> BTreeMap<String, String> {
        let mut peers = BTreeMap::new();
        for container in self.containers(service).await {
            let info = self.inside(&container, &["peer-info", "--output", "json"]).await;
            let info: Value = serde_json::from_str(&info).unwrap();
            peers.insert(info["peer_id"].as_str().unwrap().to_owned(), container);
        }
        peers
    }
}
