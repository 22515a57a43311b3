//! The HTTP edge of a node: reads requests, calls [`Node`], writes answers.
//!
//! [`serve`] is started by whoever owns the node's tasks and ends with its token. Handlers hold no
//! state of their own; every error leaves as a problem document ([`problem`]); the gate before them
//! checks origin and token, counts, and catches what a handler did not expect. No business rule lives
//! here: ranges, sessions and quorums are the services' to judge.

pub mod bodies;
pub mod cache_bodies;
mod cache_requests;
mod caches;
mod cluster;
mod connection;
mod dashboard;
mod extract;
mod fields;
mod gate;
mod locks;
mod openapi;
pub mod problem;
mod process;
pub mod queue_bodies;
mod queue_extract;
mod queue_requests;
mod queues;
mod requests;
mod server;
mod snapshot;
mod sse;
#[cfg(test)]
mod tests;

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{Router, body::Bytes, middleware};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

pub use self::server::serve;
use crate::{
    clock::{Clock, SystemClock},
    config::{Resolved, Secret},
    ids::Tick,
    node::Node,
    telemetry::Metrics,
};

/// Most bytes of a JSON body, unless [`ApiSettings::max_json_bytes`] says otherwise: 64 locks with
/// names of 512 bytes fit in, every byte of them escaped.
pub const MAX_JSON_BYTES: usize = 256 * 1024;

/// Most connections at a time. A lock wait occupies one for as long as it lasts.
pub const MAX_CONNECTIONS: usize = 8192;

/// Most bytes of messages and values that are being stored at a time, unless four batches take more.
pub const MAX_BODIES_BYTES: usize = 256 * 1024 * 1024;

/// How the API is served.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// What `/v1` demands, if anything.
    pub token: Option<Secret>,
    /// What the node's settings have come to, to be shown.
    pub config: Vec<Resolved>,
    /// Most bytes of a JSON body.
    pub max_json_bytes: usize,
    /// Most bytes of the body of one message, and of a value of the cache.
    pub max_value_bytes: usize,
    /// Most bytes of the request that publishes a batch.
    pub max_batch_bytes: usize,
    /// Most connections at a time; more are refused.
    pub max_connections: usize,
    /// How long requests under way may go on after the shutdown began.
    pub drain: Duration,
    /// Where requests, and bounds that were hit, are counted: the node's own.
    pub metrics: Metrics,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            token: None,
            config: Vec::new(),
            max_json_bytes: MAX_JSON_BYTES,
            max_value_bytes: 1024 * 1024,
            max_batch_bytes: 8 * 1024 * 1024,
            max_connections: MAX_CONNECTIONS,
            drain: Duration::from_secs(10),
            metrics: Metrics::default(),
        }
    }
}

/// The [`Api`], cheap to clone: each layer and each extractor of a request has one of its own.
#[derive(Clone, Debug)]
struct ApiState(Arc<Api>);

impl Deref for ApiState {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.0
    }
}

/// What every handler can reach.
#[derive(Debug)]
struct Api {
    node: Node,
    token: Option<Secret>,
    config: Vec<Resolved>,
    max_json_bytes: usize,
    max_value_bytes: usize,
    max_batch_bytes: usize,
    /// For the bodies of messages and values that are under way.
    room: extract::BodyRoom,
    metrics: Metrics,
    templates: extract::RouteTemplates,
    /// The OpenAPI document, written once.
    description: Bytes,
    shutdown: CancellationToken,
}

impl Api {
    /// The wall clock, for `at` in events of the edge's own.
    fn wall(&self) -> Tick {
        SystemClock.wall()
    }
}

/// The routes of this version, with their description.
fn described_routes() -> (Router<ApiState>, utoipa::openapi::OpenApi) {
    let (routes, mut document) = OpenApiRouter::with_openapi(openapi::head())
        .merge(locks::routes())
        .merge(queues::routes())
        .merge(caches::routes())
        .merge(cluster::routes())
        .merge(snapshot::routes())
        .merge(process::routes())
        .merge(dashboard::routes())
        .split_for_parts();
    openapi::add_idempotency_key(&mut document);
    (routes, document)
}

/// The whole API over a node.
fn router(node: Node, settings: &ApiSettings, shutdown: CancellationToken) -> Router {
    let (routes, document) = described_routes();
    let description = document.to_json().expect("an OpenAPI document is plain JSON");
    let state = ApiState(Arc::new(Api {
        node,
        token: settings.token.clone(),
        config: settings.config.clone(),
        max_json_bytes: settings.max_json_bytes,
        max_value_bytes: settings.max_value_bytes,
        max_batch_bytes: settings.max_batch_bytes,
        room: extract::BodyRoom::of(MAX_BODIES_BYTES.max(settings.max_batch_bytes.saturating_mul(4))),
        metrics: settings.metrics.clone(),
        templates: extract::RouteTemplates::new(document.paths.paths.keys().map(String::as_str)),
        description: description.into(),
        shutdown,
    }));
    routes
        .fallback(gate::unknown_route)
        .layer(middleware::from_fn_with_state(state.clone(), gate::gate))
        .with_state(state)
}
