//! `/v1/cache`: from HTTP to the cache service and back.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    cache_bodies::{
        CacheBody, CountedBody, HIT, InvalidatedBody, KeyStateBody, REMOTE, X_CACHE, X_CACHE_STATE, readable_state,
    },
    cache_requests::{IncrementBody, Invalidate, InvalidateBody, RawValue, Unconditional},
    extract::{CachePath, NoQuery},
    openapi::{Invalid, Mismatch, Missing, Unserved},
    problem::Problem,
    queue_extract::Keyless,
    queue_requests::Nothing,
};
use crate::{
    error::{Error, ErrorCode},
    machine::cache::Version,
};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(show_cache))
        .routes(routes!(invalidate))
        .routes(routes!(read, store, delete))
        .routes(routes!(increment))
        .routes(routes!(show_key))
}

/// A version as an entity tag.
fn entity_tag(version: Version) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("a version has hexadecimal digits only")
}

/// The value of a key: the latest that was acknowledged, or none.
#[utoipa::path(get, path = "/v1/cache/{key}", tag = "cache", params(("key" = String, Path)),
    responses(
        (status = 200, content_type = "application/octet-stream", body = Vec<u8>, headers(
            ("ETag" = String, description = "The version in quotes, for If-Match; opaque."),
            ("X-Cache" = String, description = "`hit`: no message left the node that was called; else `remote`."),
            ("X-Cache-State" = String, description = "M, O, E or S: the state of the line that it came from; I where \
                it was not kept."),
        )),
        Invalid, Missing, Unserved))]
async fn read(State(api): State<ApiState>, CachePath(key): CachePath, _: NoQuery) -> Result<Response, Problem> {
    let absent = || Error::new(ErrorCode::NotFound, "the key is absent from the cache");
    let read = api.node.caches().get(key).await?.ok_or_else(absent)?;
    let headers = [
        (header::ETAG, entity_tag(read.version)),
        (HeaderName::from_static(X_CACHE), HeaderValue::from_static(if read.hit { HIT } else { REMOTE })),
        (HeaderName::from_static(X_CACHE_STATE), HeaderValue::from_static(readable_state(read.state))),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
    ];
    Ok((headers, read.body).into_response())
}

/// Stores a value: the body as it is. Its content type is not kept.
#[utoipa::path(put, path = "/v1/cache/{key}", tag = "cache",
    params(
        ("key" = String, Path),
        ("ttl" = Option<String>, Query, description = "Absent again after so long: a duration with a suffix, such as \
            30s; 1ms to 365d. For ever if left out."),
        ("If-Match" = Option<String>, Header, description = "One version in quotes: stored only if the key has it."),
        ("If-None-Match" = Option<String>, Header, description = "* alone: stored only if the key is absent."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "Stored; the answer is empty.", headers(
            ("ETag" = String, description = "The new version in quotes."),
        )),
        Invalid, Mismatch, Unserved))]
async fn store(
    State(api): State<ApiState>,
    CachePath(key): CachePath,
    RawValue { put, _room }: RawValue,
) -> Result<Response, Problem> {
    let version = api.node.caches().put(key, put).await?;
    Ok((StatusCode::OK, [(header::ETAG, entity_tag(version))]).into_response())
}

/// Makes a key absent, also where it is so already.
#[utoipa::path(delete, path = "/v1/cache/{key}", tag = "cache", params(("key" = String, Path)),
    responses((status = 204), Invalid, Unserved))]
async fn delete(
    State(api): State<ApiState>,
    CachePath(key): CachePath,
    _: Unconditional,
    _: Keyless<Nothing>,
) -> Result<StatusCode, Problem> {
    api.node.caches().delete(key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Adds to a value that is an integer in ASCII; an absent key counts as 0.
#[utoipa::path(post, path = "/v1/cache/{key}/increment", tag = "cache", params(("key" = String, Path)),
    request_body = IncrementBody, responses((status = 200, body = CountedBody), Invalid, Unserved))]
async fn increment(
    State(api): State<ApiState>,
    CachePath(key): CachePath,
    _: Unconditional,
    Keyless { body, _room }: Keyless<IncrementBody>,
) -> Result<Json<CountedBody>, Problem> {
    Ok(Json(api.node.caches().increment(key, body.by.unwrap_or(1)).await?.into()))
}

/// Makes keys absent everywhere, and answers when every copy is gone or its lease is over.
#[utoipa::path(post, path = "/v1/cache:invalidate", tag = "cache", request_body = InvalidateBody,
    responses((status = 200, body = InvalidatedBody), Invalid, Unserved))]
async fn invalidate(
    State(api): State<ApiState>,
    Keyless { body: Invalidate(which), _room }: Keyless<Invalidate>,
) -> Result<Json<InvalidatedBody>, Problem> {
    Ok(Json(api.node.caches().invalidate(which).await?.into()))
}

/// Where a key is: its home, what that knows of it, and the lines that there are.
#[utoipa::path(get, path = "/v1/cache/{key}/state", tag = "cache", params(("key" = String, Path)),
    responses((status = 200, body = KeyStateBody), Invalid, Unserved))]
async fn show_key(
    State(api): State<ApiState>,
    CachePath(key): CachePath,
    _: NoQuery,
) -> Result<Json<KeyStateBody>, Problem> {
    Ok(Json(api.node.caches().state(key).await?.into()))
}

/// The caches of all cache nodes: what they hold and what they did since they started.
#[utoipa::path(get, path = "/v1/cache", tag = "cache", responses((status = 200, body = CacheBody), Invalid, Unserved))]
async fn show_cache(State(api): State<ApiState>, _: NoQuery) -> Result<Json<CacheBody>, Problem> {
    Ok(Json(api.node.caches().stats().await?.into()))
}
