//! All services are scaled up and down at once, under load.

use std::{collections::BTreeSet, time::Instant};

use crate::{
    compose::{FORGET_S, Project},
    harness::holds,
    load::Load,
    serving::{cluster, settles, up},
};

const FEW: usize = 3;
const MANY: usize = 5;

/// From three of each to five and back: nothing acknowledged is lost, nothing stale is read, and no value is gone.
pub(crate) async fn up_and_down(project: &Project) {
    let load = Load::start(project, "scaled").await;
    let told = project.up(MANY).await;
    let took = project.serves(MANY).await;
    println!("from {FEW} to {MANY} of each: docker-compose took {told:.1?}, all in place {took:.1?} later");
    load.works_after(Instant::now()).await;

    let before = everybody(project).await;
    let told = project.up(FEW).await;
    let took = project.serves(FEW).await;
    println!("from {MANY} to {FEW} of each: docker-compose took {told:.1?}, all in place {took:.1?} later");
    load.works_after(Instant::now()).await;
    let gone = load.checked("scaled from 3 to 5 to 3").await;
    assert_eq!(gone, 0, "reads missed: who is told to go gives back what it has");
    are_forgotten(project, &before).await;
}

async fn everybody(project: &Project) -> BTreeSet<String> {
    members(&cluster(&project.gateway.api).await.unwrap())
}

fn members(cluster: &serde_json::Value) -> BTreeSet<String> {
    let members = cluster["members"].as_array().unwrap().iter();
    members.map(|member| member["peer_id"].as_str().unwrap().to_owned()).collect()
}

/// Those who were scaled away are listed as down, and not for ever.
async fn are_forgotten(project: &Project, before: &BTreeSet<String>) {
    let took = settles("only those who are there are listed", async || {
        let cluster = cluster(&project.gateway.api).await?;
        let there: BTreeSet<String> = ["bootstrap", "lock-manager", "queue-node", "cache-node"]
            .iter()
            .flat_map(|role| up(&cluster, role))
            .collect();
        assert!(there.is_subset(before), "nobody is new: {there:?} {before:?}");
        holds(members(&cluster) == there, format!("{} are listed, {} are up", members(&cluster).len(), there.len()))
    })
    .await;
    println!("who was scaled away was no longer listed {took:.1?} later (MEMBER_FORGET_TIMEOUT={FORGET_S})");
}
