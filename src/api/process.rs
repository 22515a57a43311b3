//! What is served without a token: liveness, readiness, metrics and the description of the API.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::ApiState;
use crate::node::status::Readiness;

/// The exposition format that `Node::metrics_text` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(health))
        .routes(routes!(readiness))
        .routes(routes!(metrics))
        .routes(routes!(description))
}

/// The answer of a process that lives.
#[derive(Debug, Serialize, ToSchema)]
struct HealthBody {
    /// `ok`.
    status: &'static str,
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "process", security(()), responses((status = 200, body = HealthBody)))]
async fn health() -> Json<HealthBody> {
    Json(HealthBody { status: "ok" })
}

/// Whether the node can serve its roles now.
#[utoipa::path(get, path = "/readyz", tag = "process", security(()), responses(
    (status = 200, body = ref("#/components/schemas/Readiness")),
    (status = 503, body = ref("#/components/schemas/Readiness"))))]
async fn readiness(State(api): State<ApiState>) -> (StatusCode, Json<Readiness>) {
    let readiness = api.node.readiness().await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "process", security(()),
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
async fn metrics(State(api): State<ApiState>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], api.node.metrics_text().await).into_response()
}

/// This description of the API.
#[utoipa::path(get, path = "/openapi.json", tag = "process", security(()),
    responses((status = 200, content_type = "application/json", body = Object)))]
async fn description(State(api): State<ApiState>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], api.description.clone()).into_response()
}
