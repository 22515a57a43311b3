//! `/v1/sessions` and `/v1/locks`: from HTTP to the lock service and back.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    bodies::{BrokenBody, GrantBody, LockBody, LockEventBody, LockList, MultiGrantBody, SessionBody, SessionList},
    extract::{Command, LockPath, NoBody, NoQuery, PageQuery, SessionPath, check_after},
    openapi::{Conflict, Gone, Invalid, Missing, Unserved},
    problem::Problem,
    requests::{AcquireBody, HolderRequestBody, MultiAcquireBody, OpenSessionBody},
    sse,
};
use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::{LockName, SessionId},
    machine::lock::LockEventKind,
    node::locks::{AcquireRequest, Acquired, IdempotencyKey, WatchItem},
};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(open_session, list_sessions))
        .routes(routes!(keep_alive))
        .routes(routes!(close_session))
        .routes(routes!(list_locks))
        .routes(routes!(acquire_many))
        .routes(routes!(show_lock, break_lock))
        .routes(routes!(acquire))
        .routes(routes!(downgrade))
        .routes(routes!(release))
        .routes(routes!(watch))
}

/// Opens a session.
#[utoipa::path(post, path = "/v1/sessions", tag = "locks", request_body = OpenSessionBody,
    responses((status = 201, body = SessionBody), Invalid, Unserved))]
async fn open_session(
    State(api): State<ApiState>,
    command: Command<OpenSessionBody>,
) -> Result<(StatusCode, Json<SessionBody>), Problem> {
    let Command { body, key } = command;
    let term = api.node.locks().open_session(body.ttl_ms, body.owner, key).await?;
    Ok((StatusCode::CREATED, Json(term.into())))
}

/// Starts the term of a session anew.
#[utoipa::path(post, path = "/v1/sessions/{id}/keepalive", tag = "locks", params(("id" = String, Path)),
    responses((status = 200, body = SessionBody), Invalid, Gone, Unserved))]
async fn keep_alive(
    State(api): State<ApiState>,
    SessionPath(session): SessionPath,
    command: Command<NoBody>,
) -> Result<Json<SessionBody>, Problem> {
    let locks = api.node.locks();
    let term = match command.key {
        Some(key) => locks.keep_alive_once(session, key).await?,
        None => locks.keep_alive(session).await?,
    };
    Ok(Json(term.into()))
}

/// Closes a session: its locks are released, its waits cancelled.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "locks", params(("id" = String, Path)),
    responses((status = 204), Invalid, Gone, Unserved))]
async fn close_session(
    State(api): State<ApiState>,
    SessionPath(session): SessionPath,
    command: Command<NoBody>,
) -> Result<StatusCode, Problem> {
    api.node.locks().close_session(session, command.key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The sessions that are alive.
#[utoipa::path(get, path = "/v1/sessions", tag = "locks",
    params(("after" = Option<String>, Query), ("limit" = Option<u64>, Query)),
    responses((status = 200, body = SessionList), Invalid, Unserved))]
async fn list_sessions(State(api): State<ApiState>, PageQuery(page): PageQuery) -> Result<Json<SessionList>, Problem> {
    if page.prefix.is_some() {
        return Err(Error::bad_request("prefix", "sessions have no prefix to be listed by").into());
    }
    let page = api.node.locks().sessions(check_after::<SessionId>(page)?).await?;
    Ok(Json(SessionList { sessions: page.items.into_iter().map(Into::into).collect(), next: page.next }))
}

/// Acquires, and gives up when this node stops: a wait may be longer than a shutdown.
async fn acquire_until_shutdown(
    api: &ApiState,
    request: AcquireRequest,
    key: Option<IdempotencyKey>,
) -> Result<Acquired, Error> {
    let locks = api.node.locks();
    tokio::select! {
        biased;
        acquired = locks.acquire(request, key) => acquired,
        () = api.shutdown.cancelled() => Err(Error::unavailable(
            Outcome::Unknown,
            "this node is shutting down and has given the request up: ask another node",
        )),
    }
}

/// Acquires one lock, perhaps waits in line for it.
#[utoipa::path(post, path = "/v1/locks/{name}/acquire", tag = "locks", params(("name" = String, Path)),
    request_body = AcquireBody, responses((status = 200, body = GrantBody), Invalid, Conflict, Gone, Unserved))]
async fn acquire(
    State(api): State<ApiState>,
    LockPath(lock): LockPath,
    command: Command<AcquireBody>,
) -> Result<Json<GrantBody>, Problem> {
    let Command { body, key } = command;
    one_grant(acquire_until_shutdown(&api, body.for_lock(lock), key).await?)
}

fn one_grant(acquired: Acquired) -> Result<Json<GrantBody>, Problem> {
    let grant = GrantBody::of_one(acquired).ok_or_else(|| Error::internal("a grant names no lock"))?;
    Ok(Json(grant))
}

/// Acquires several locks, all or none.
#[utoipa::path(post, path = "/v1/locks:acquire", tag = "locks", request_body = MultiAcquireBody,
    responses((status = 200, body = MultiGrantBody), Invalid, Conflict, Gone, Unserved))]
async fn acquire_many(
    State(api): State<ApiState>,
    command: Command<MultiAcquireBody>,
) -> Result<Json<MultiGrantBody>, Problem> {
    let Command { body, key } = command;
    Ok(Json(acquire_until_shutdown(&api, body.into(), key).await?.into()))
}

/// From exclusive to shared, keeping the token.
#[utoipa::path(post, path = "/v1/locks/{name}/downgrade", tag = "locks", params(("name" = String, Path)),
    request_body = HolderRequestBody, responses((status = 200, body = GrantBody), Invalid, Conflict, Gone, Unserved))]
async fn downgrade(
    State(api): State<ApiState>,
    LockPath(lock): LockPath,
    command: Command<HolderRequestBody>,
) -> Result<Json<GrantBody>, Problem> {
    let Command { body, key } = command;
    one_grant(api.node.locks().downgrade(body.session, lock, key).await?)
}

/// Gives a lock back.
#[utoipa::path(post, path = "/v1/locks/{name}/release", tag = "locks", params(("name" = String, Path)),
    request_body = HolderRequestBody, responses((status = 204), Invalid, Conflict, Gone, Unserved))]
async fn release(
    State(api): State<ApiState>,
    LockPath(lock): LockPath,
    command: Command<HolderRequestBody>,
) -> Result<StatusCode, Problem> {
    let Command { body, key } = command;
    api.node.locks().release(body.session, lock, key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The locks that are held or waited for, linearizable.
#[utoipa::path(get, path = "/v1/locks", tag = "locks",
    params(("prefix" = Option<String>, Query), ("after" = Option<String>, Query), ("limit" = Option<u64>, Query)),
    responses((status = 200, body = LockList), Invalid, Unserved))]
async fn list_locks(State(api): State<ApiState>, PageQuery(page): PageQuery) -> Result<Json<LockList>, Problem> {
    let page = api.node.locks().list(check_after::<LockName>(page)?).await?;
    Ok(Json(LockList { locks: page.items.into_iter().map(Into::into).collect(), next: page.next }))
}

/// One lock, linearizable.
#[utoipa::path(get, path = "/v1/locks/{name}", tag = "locks", params(("name" = String, Path)),
    responses((status = 200, body = LockBody), Invalid, Missing, Unserved))]
async fn show_lock(
    State(api): State<ApiState>,
    LockPath(lock): LockPath,
    _: NoQuery,
) -> Result<Json<LockBody>, Problem> {
    match api.node.locks().show(lock.clone()).await? {
        Some(view) => Ok(Json(view.into())),
        None => {
            let detail = format!("nobody holds the lock '{lock}' and nobody waits for it");
            Err(Error::new(ErrorCode::NotFound, detail).into())
        }
    }
}

/// An operator's force release.
#[utoipa::path(delete, path = "/v1/locks/{name}", tag = "locks", params(("name" = String, Path)),
    responses((status = 200, body = BrokenBody), Invalid, Unserved))]
async fn break_lock(
    State(api): State<ApiState>,
    LockPath(lock): LockPath,
    command: Command<NoBody>,
) -> Result<Json<BrokenBody>, Problem> {
    Ok(Json(BrokenBody { broken: api.node.locks().break_lock(lock, command.key).await? }))
}

/// The state of one lock, then what happens to it: events `state`, `granted`, `released`, `expired`,
/// `waiting`, `broken`.
#[utoipa::path(get, path = "/v1/locks/{name}/watch", tag = "locks", params(("name" = String, Path)),
    responses((status = 200, content_type = "text/event-stream", body = LockEventBody), Invalid, Unserved))]
async fn watch(State(api): State<ApiState>, LockPath(lock): LockPath, _: NoQuery) -> Result<Response, Problem> {
    let items = api.node.locks().watch(lock).await?;
    let events = sse::receiver_stream(items).enumerate().map(|(index, item)| {
        let id = index as u64 + 1;
        match item {
            WatchItem::State(view) => sse::event("state", id, &LockBody::from(view)),
            WatchItem::Event(event) => sse::event(event_name(event.kind), id, &LockEventBody::from(event)),
        }
    });
    Ok(sse::respond(events, api.shutdown.clone()).into_response())
}

fn event_name(kind: LockEventKind) -> &'static str {
    match kind {
        LockEventKind::Granted => "granted",
        LockEventKind::Released => "released",
        LockEventKind::Expired => "expired",
        LockEventKind::Waiting => "waiting",
        LockEventKind::Broken => "broken",
    }
}
