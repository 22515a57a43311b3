//! The one sequence: a project is brought up, looked at, scaled, struck and restarted, and is gone afterwards.

use std::time::Instant;

use serde_json::Value;

use crate::{
    compose::{Project, SCALED},
    engine::docker,
    faults, restarts, scaling,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_of_containers_serves_whatever_is_done_to_it() {
    let Some(project) = Project::new().await else { return };
    let began = Instant::now();
    let told = project.up(3).await;
    let took = project.serves(3).await;
    println!("first start: docker-compose took {told:.1?}, all in place {took:.1?} later");
    has_no_right_it_does_not_need(&project).await;
    tells_no_secret(&project).await;
    scaling::up_and_down(&project).await;
    faults::all(&project).await;
    restarts::all(&project).await;
    println!("all of it took {:.0?} without the image", began.elapsed());
}

/// Often, for what goes wrong seldom.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "on demand: SCALINGS=n times"]
async fn a_project_is_scaled_up_and_down_again_and_again() {
    let Some(project) = Project::new().await else { return };
    let times = std::env::var("SCALINGS").ok().and_then(|times| times.parse().ok()).unwrap_or(10);
    project.up(3).await;
    project.serves(3).await;
    for round in 0..times {
        println!("round {round} of {times}");
        scaling::up_and_down(&project).await;
    }
}

async fn inspect(container: &str) -> Value {
    let shown: Value = serde_json::from_str(&docker(&["inspect", container]).await).unwrap();
    shown[0].clone()
}

/// The containers as the engine runs them, and the image.
async fn has_no_right_it_does_not_need(project: &Project) {
    for service in SCALED.into_iter().chain(["bootstrap", "redis"]) {
        for container in project.containers(service).await {
            let shown = inspect(&container).await;
            let host = &shown["HostConfig"];
            assert_eq!(host["ReadonlyRootfs"], true, "{service}");
            assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]), "{service}");
            assert_eq!(host["Privileged"], false, "{service}");
            let user = shown["Config"]["User"].as_str().unwrap();
            assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{service} runs as '{user}'");
            let published = host["PortBindings"].as_object().is_some_and(|ports| !ports.is_empty());
            assert_eq!(published, service == "bootstrap", "{service} publishes {}", host["PortBindings"]);
        }
    }
    let gateway = inspect(&project.container("bootstrap").await).await;
    for address in gateway["HostConfig"]["PortBindings"]["8080/tcp"].as_array().unwrap() {
        assert_eq!(address["HostIp"], "127.0.0.1");
    }
    let image = inspect(gateway["Image"].as_str().unwrap()).await;
    let labels = &image["Config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert!(labels["org.opencontainers.image.revision"].as_str().is_some_and(|text| !text.is_empty()), "{labels}");
    println!("the image has {} MB", image["Size"].as_u64().unwrap() / 1_000_000);
}

/// The key was made, can be read by its owner only, and is in no log.
async fn tells_no_secret(project: &Project) {
    let bootstrap = project.container("bootstrap").await;
    let listed = docker(&["exec", &bootstrap, "stat", "-c", "%a %u", "/bundle/cluster.key"]).await;
    assert_eq!(listed, "600 10001");
    let key = docker(&["exec", &bootstrap, "cat", "/bundle/cluster.key"]).await;
    let digits = key.lines().last().unwrap();
    assert_eq!(digits.len(), 64, "a key of 32 bytes");
    for service in SCALED.into_iter().chain(["bootstrap"]) {
        for container in project.containers(service).await {
            let logged = crate::ask::run(crate::engine::command(&["docker", "logs", &container])).await;
            assert!(!logged.stderr.is_empty(), "{service} logs");
            assert!(![logged.stdout, logged.stderr].concat().contains(digits), "the key is in the log of a {service}");
        }
    }
}
