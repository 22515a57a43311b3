//! `/v1/node`, `/v1/cluster`, `/v1/events` and the membership calls.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    extract::{Command, EventsFrom, NoBody, NoQuery, PeerPath},
    openapi::{Conflict, Invalid, Missing, Unserved},
    problem::Problem,
    requests::LeaveBody,
    sse,
};
use crate::{
    node::status::{ClusterView, NodeInfo},
    telemetry::{RecentLogs, recent_logs},
    time::rfc3339,
};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(node))
        .routes(routes!(node_logs))
        .routes(routes!(node_settings))
        .routes(routes!(member_node))
        .routes(routes!(member_logs))
        .routes(routes!(cluster))
        .routes(routes!(events))
        .routes(routes!(remove))
        .routes(routes!(admit))
        .routes(routes!(leave))
        .routes(routes!(transfer_leader))
}

/// What this node says of itself.
#[utoipa::path(get, path = "/v1/node", tag = "cluster",
    responses((status = 200, body = ref("#/components/schemas/NodeInfo")), Invalid))]
async fn node(State(api): State<ApiState>, _: NoQuery) -> Json<NodeInfo> {
    Json(api.node.info().await)
}

/// What the process of this node has logged last.
#[utoipa::path(get, path = "/v1/node/logs", tag = "cluster",
    responses((status = 200, body = ref("#/components/schemas/RecentLogs")), Invalid))]
async fn node_logs(_: NoQuery) -> Json<RecentLogs> {
    Json(recent_logs())
}

/// The settings of this node with where each came from, secrets redacted; none where an application runs it.
#[utoipa::path(get, path = "/v1/node/config", tag = "cluster",
    responses((status = 200, body = ref("#/components/schemas/Settings")), Invalid))]
async fn node_settings(State(api): State<ApiState>, _: NoQuery) -> Json<Value> {
    Json(json!({"settings": *api.config}))
}

/// What a member says of itself; another one than this node is asked over the mesh.
#[utoipa::path(get, path = "/v1/cluster/members/{peer}/node", tag = "cluster", params(("peer" = String, Path)),
    responses((status = 200, body = ref("#/components/schemas/NodeInfo")), Invalid, Missing, Unserved))]
async fn member_node(State(api): State<ApiState>, peer: PeerPath, _: NoQuery) -> Result<Json<NodeInfo>, Problem> {
    Ok(Json(api.node.member_info(peer.one()?).await?))
}

/// What the process of a member has logged last; another one than this node is asked over the mesh.
#[utoipa::path(get, path = "/v1/cluster/members/{peer}/logs", tag = "cluster", params(("peer" = String, Path)),
    responses((status = 200, body = ref("#/components/schemas/RecentLogs")), Invalid, Missing, Unserved))]
async fn member_logs(State(api): State<ApiState>, peer: PeerPath, _: NoQuery) -> Result<Json<RecentLogs>, Problem> {
    Ok(Json(api.node.member_logs(peer.one()?).await?))
}

/// What this node knows of the cluster.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster",
    responses((status = 200, body = ref("#/components/schemas/ClusterView")), Invalid))]
async fn cluster(State(api): State<ApiState>, _: NoQuery) -> Json<ClusterView> {
    Json(api.node.cluster().await)
}

/// The cluster's events as this node comes to know them: `member-up`, `member-down`,
/// `leader-changed`, … `Last-Event-ID` resumes; what is no longer known begins with `reset`. Without one, `recent`
/// (1 to 1,000) begins with as many of the last ones as are still known.
#[utoipa::path(get, path = "/v1/events", tag = "cluster",
    params(("Last-Event-ID" = Option<u64>, Header), ("recent" = Option<u64>, Query)),
    responses((status = 200, content_type = "text/event-stream", body = String), Invalid))]
async fn events(State(api): State<ApiState>, EventsFrom(from): EventsFrom) -> Response {
    let stream = api.node.events(from).await;
    let reset = stream.reset.map(|id| sse::event("reset", id, &serde_json::json!({"at": rfc3339(api.wall())})));
    let events = sse::receiver_stream(stream.events).map(|event| sse::event(&event.event, event.id, &event.data));
    sse::respond(futures::stream::iter(reset).chain(events), api.shutdown.clone()).into_response()
}

/// Removes a member and bars it until it is admitted again.
#[utoipa::path(post, path = "/v1/cluster/members/{peer}/remove", tag = "cluster", params(("peer" = String, Path)),
    responses((status = 204), Invalid, Missing, Conflict, Unserved))]
async fn remove(State(api): State<ApiState>, peer: PeerPath, command: Command<NoBody>) -> Result<StatusCode, Problem> {
    api.node.remove_member(peer.one()?, command.key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lifts the bar.
#[utoipa::path(post, path = "/v1/cluster/members/{peer}/admit", tag = "cluster", params(("peer" = String, Path)),
    responses((status = 204), Invalid, Missing, Conflict, Unserved))]
async fn admit(State(api): State<ApiState>, peer: PeerPath, command: Command<NoBody>) -> Result<StatusCode, Problem> {
    api.node.admit_member(peer.one()?, command.key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A member drains, leaves for good, and its process ends. With `wait_ms` the answer comes once it has left.
#[utoipa::path(post, path = "/v1/cluster/members/{peer}/leave", tag = "cluster", params(("peer" = String, Path)),
    request_body = LeaveBody, responses((status = 204), Invalid, Missing, Conflict, Unserved))]
async fn leave(
    State(api): State<ApiState>,
    peer: PeerPath,
    command: Command<LeaveBody>,
) -> Result<StatusCode, Problem> {
    let LeaveBody { wait_ms, deadline_ms } = command.body;
    api.node.leave(peer.one()?, wait_ms.unwrap_or(0), deadline_ms, command.key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Hands Raft's leadership to a peer, or with `any` to whoever is most up to date.
#[utoipa::path(post, path = "/v1/cluster/members/{peer}/transfer-leader", tag = "cluster",
    params(("peer" = String, Path)), responses((status = 204), Invalid, Missing, Conflict, Unserved))]
async fn transfer_leader(
    State(api): State<ApiState>,
    PeerPath(peer): PeerPath,
    command: Command<NoBody>,
) -> Result<StatusCode, Problem> {
    api.node.transfer_leader(peer, command.key).await?;
    Ok(StatusCode::NO_CONTENT)
}
