//! `/v1/queues`: from HTTP to the queue service and back.

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
    extract::{NoQuery, PageQuery, QueuePath, check_after},
    openapi::{Conflict, Full, Invalid, Missing, NotDurable, Unserved},
    problem::Problem,
    queue_bodies::{
        MessageBody, MessageList, PublishedBody, PublishedList, PurgedBody, QueueBody, QueueConfigBody, QueueList,
        ReceiptsAnswer, RedrivenBody,
    },
    queue_extract::{Keyless, Query, RawMessage},
    queue_requests::{
        BatchBody, ConfigureBody, ConsumeQuery, Nothing, PeekQuery, ReceiptsBody, ReceiveBody, RecoverBody,
    },
    sse,
};
use crate::{
    error::{Error, Outcome},
    ids::QueueName,
    node::queues::AcceptLoss,
};

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default()
        .routes(routes!(list_queues))
        .routes(routes!(recover))
        .routes(routes!(configure, show_queue, delete_queue))
        .routes(routes!(publish))
        .routes(routes!(publish_batch))
        .routes(routes!(receive))
        .routes(routes!(consume))
        .routes(routes!(acknowledge))
        .routes(routes!(give_back))
        .routes(routes!(extend))
        .routes(routes!(peek))
        .routes(routes!(purge))
        .routes(routes!(redrive))
}

/// Replaces the configuration of a queue, whole; makes the queue where there is none.
#[utoipa::path(put, path = "/v1/queues/{q}", tag = "queues", params(("q" = String, Path)),
    request_body = ConfigureBody, responses((status = 200, body = QueueConfigBody), Invalid, NotDurable))]
async fn configure(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    Keyless { body, _room }: Keyless<ConfigureBody>,
) -> Result<Json<QueueConfigBody>, Problem> {
    let config = api.node.queues().configure(queue, body.into()).await?;
    Ok(Json(config.into()))
}

/// Publishes one message: the body as it is, with its content type. Makes the queue where there is none.
#[utoipa::path(post, path = "/v1/queues/{q}/messages", tag = "queues",
    params(
        ("q" = String, Path),
        ("X-Message-Id" = Option<String>, Header, description = "A second message of the same id within the queue's \
            window is a duplicate; the node makes an id where none is given, and hands it back."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same, under its usual name; not beside \
            X-Message-Id."),
        ("X-Delay-Ms" = Option<u64>, Header, description = "0 to 604,800,000: not delivered before."),
        ("X-Priority" = Option<u8>, Header, description = "0 to 9, 9 first; 4 if left out."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = PublishedBody), Invalid, Full, NotDurable))]
async fn publish(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    RawMessage { message, _room }: RawMessage,
) -> Result<(StatusCode, Json<PublishedBody>), Problem> {
    let published = api.node.queues().publish(queue, vec![message]).await?;
    let one = published.into_iter().next().ok_or_else(|| Error::internal("a publish names no message"))?;
    Ok((StatusCode::CREATED, Json(one.into())))
}

/// Publishes several messages, all or none.
#[utoipa::path(post, path = "/v1/queues/{q}/messages:batch", tag = "queues", params(("q" = String, Path)),
    request_body = BatchBody, responses((status = 201, body = PublishedList), Invalid, Full, NotDurable))]
async fn publish_batch(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    Keyless { body, _room }: Keyless<BatchBody>,
) -> Result<(StatusCode, Json<PublishedList>), Problem> {
    let published = api.node.queues().publish(queue, body.into_messages()).await?;
    let results = published.into_iter().map(PublishedBody::from).collect();
    Ok((StatusCode::CREATED, Json(PublishedList { results })))
}

/// Receives messages, perhaps waits for the first one: each is invisible to others until it is
/// acknowledged, given back, or its visibility is over. A wait that hangs up takes none.
#[utoipa::path(post, path = "/v1/queues/{q}/receive", tag = "queues", params(("q" = String, Path)),
    request_body = ReceiveBody, responses((status = 200, body = MessageList), Invalid, Missing, Unserved))]
async fn receive(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    Keyless { body, _room }: Keyless<ReceiveBody>,
) -> Result<Json<MessageList>, Problem> {
    let queues = api.node.queues();
    // A wait may be longer than a shutdown.
    let messages = tokio::select! {
        biased;
        received = queues.receive(queue, body.into()) => received?,
        () = api.shutdown.cancelled() => return Err(Error::unavailable(
            Outcome::NotApplied,
            "this node is shutting down and has given the request up: ask another node",
        ).into()),
    };
    Ok(Json(messages.into()))
}

/// Messages as they come, at most `prefetch` of them unacknowledged: events `message`. An `error`, which
/// carries a problem, is the last one: the queue was deleted, say. Who hangs up keeps its deliveries until
/// their visibility is over.
#[utoipa::path(get, path = "/v1/queues/{q}/consume", tag = "queues",
    params(
        ("q" = String, Path),
        ("prefetch" = Option<u32>, Query, description = "1 to 1,000; 100 if left out."),
        ("visibility" = Option<String>, Query, description = "A duration with a suffix, such as 30s; at most 12h."),
    ),
    responses((status = 200, content_type = "text/event-stream", body = MessageBody), Invalid, Missing, Unserved))]
async fn consume(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    Query(query): Query<ConsumeQuery>,
) -> Result<Response, Problem> {
    let messages = api.node.queues().consume(queue, query.into()).await?;
    let events = sse::receiver_stream(messages).enumerate().map(|(index, message)| {
        let id = index as u64 + 1;
        match message {
            Ok(message) => sse::event("message", id, &MessageBody::from(message)),
            Err(error) => sse::event("error", id, &Problem::from(error)),
        }
    });
    Ok(sse::respond(events, api.shutdown.clone()).into_response())
}

/// Consumes deliveries for good.
#[utoipa::path(post, path = "/v1/queues/{q}/ack", tag = "queues", params(("q" = String, Path)),
    request_body = ReceiptsBody, responses((status = 200, body = ReceiptsAnswer), Invalid, Unserved))]
async fn acknowledge(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    Keyless { body, _room }: Keyless<ReceiptsBody>,
) -> Result<Json<ReceiptsAnswer>, Problem> {
    Ok(Json(api.node.queues().ack(queue, body.receipts).await?.into()))
}

/// Gives deliveries back, to be delivered again after a delay.
#[utoipa::path(post, path = "/v1/queues/{q}/nack", tag = "queues", params(("q" = String, Path)),
    request_body = ReceiptsBody, responses((status = 200, body = ReceiptsAnswer), Invalid, Unserved))]
async fn give_back(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    Keyless { body, _room }: Keyless<ReceiptsBody>,
) -> Result<Json<ReceiptsAnswer>, Problem> {
    Ok(Json(api.node.queues().nack(queue, body.receipts, body.delay_ms).await?.into()))
}

/// Starts the visibility of deliveries anew.
#[utoipa::path(post, path = "/v1/queues/{q}/extend", tag = "queues", params(("q" = String, Path)),
    request_body = ReceiptsBody, responses((status = 200, body = ReceiptsAnswer), Invalid, Unserved))]
async fn extend(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    Keyless { body, _room }: Keyless<ReceiptsBody>,
) -> Result<Json<ReceiptsAnswer>, Problem> {
    Ok(Json(api.node.queues().extend(queue, body.receipts, body.visibility_ms).await?.into()))
}

/// The queues.
#[utoipa::path(get, path = "/v1/queues", tag = "queues",
    params(("prefix" = Option<String>, Query), ("after" = Option<String>, Query), ("limit" = Option<u64>, Query)),
    responses((status = 200, body = QueueList), Invalid, Unserved))]
async fn list_queues(State(api): State<ApiState>, PageQuery(page): PageQuery) -> Result<Json<QueueList>, Problem> {
    Ok(Json(api.node.queues().list(check_after::<QueueName>(page)?).await?.into()))
}

/// One queue: how it is configured, what is in it, who keeps it.
#[utoipa::path(get, path = "/v1/queues/{q}", tag = "queues", params(("q" = String, Path)),
    responses((status = 200, body = QueueBody), Invalid, Missing, Unserved))]
async fn show_queue(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    _: NoQuery,
) -> Result<Json<QueueBody>, Problem> {
    Ok(Json(api.node.queues().stats(queue).await?.into()))
}

/// The next messages, without leasing them.
#[utoipa::path(get, path = "/v1/queues/{q}/peek", tag = "queues",
    params(("q" = String, Path), ("max" = Option<u32>, Query, description = "1 to 1,000; 10 if left out.")),
    responses((status = 200, body = MessageList), Invalid, Missing, Unserved))]
async fn peek(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    Query(query): Query<PeekQuery>,
) -> Result<Json<MessageList>, Problem> {
    Ok(Json(api.node.queues().peek(queue, query.max).await?.into()))
}

/// Drops all messages of a queue, delayed and delivered ones too.
#[utoipa::path(post, path = "/v1/queues/{q}/purge", tag = "queues", params(("q" = String, Path)),
    responses((status = 200, body = PurgedBody), Invalid, Missing, Unserved))]
async fn purge(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    _: Keyless<Nothing>,
) -> Result<Json<PurgedBody>, Problem> {
    Ok(Json(PurgedBody { purged: api.node.queues().purge(queue).await? }))
}

/// Sends the dead letters of this queue back to it.
#[utoipa::path(post, path = "/v1/queues/{q}/redrive", tag = "queues", params(("q" = String, Path)),
    responses((status = 200, body = RedrivenBody), Invalid, Missing, Unserved))]
async fn redrive(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    _: Keyless<Nothing>,
) -> Result<Json<RedrivenBody>, Problem> {
    Ok(Json(RedrivenBody { redriven: api.node.queues().redrive(queue).await? }))
}

/// Deletes a queue with all that is in it.
#[utoipa::path(delete, path = "/v1/queues/{q}", tag = "queues", params(("q" = String, Path)),
    responses((status = 204), Invalid, Missing, Unserved))]
async fn delete_queue(
    State(api): State<ApiState>,
    QueuePath(queue): QueuePath,
    _: Keyless<Nothing>,
) -> Result<StatusCode, Problem> {
    api.node.queues().delete(queue).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Serves a partition whose journal is lost again, with what is left of it: an operator's last resort.
#[utoipa::path(post, path = "/v1/queues:recover", tag = "queues", request_body = RecoverBody,
    responses((status = 204), Invalid, Missing, Conflict, Unserved))]
async fn recover(
    State(api): State<ApiState>,
    Keyless { body, _room }: Keyless<RecoverBody>,
) -> Result<StatusCode, Problem> {
    api.node.queues().recover(body.partition, AcceptLoss).await?;
    Ok(StatusCode::NO_CONTENT)
}
