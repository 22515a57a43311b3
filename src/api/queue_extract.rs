//! Extractors of the calls about queues and the cache, which take no `Idempotency-Key`: messages have ids of their own,
//! and what else changes a queue, or the cache, can be repeated.

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, request::Parts},
};

use super::{
    ApiState,
    extract::{IDEMPOTENCY_KEY, TakenRoom, check_content_type, read_into, refuse_key, refuse_query},
    fields::{Fields, FromFields},
    problem::Problem,
    queue_requests::{KeylessBody, described_message},
};
use crate::{error::Error, node::queues::Publish};

/// The fields of a call that changes something, and is given no name.
#[derive(Debug)]
pub(super) struct Keyless<T> {
    pub(super) body: T,
    /// Kept until the call is answered.
    pub(super) _room: TakenRoom,
}

impl<T: KeylessBody> FromRequest<ApiState> for Keyless<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        refuse_query(&parts)?;
        check_content_type(&parts.headers)?;
        refuse_name(&parts.headers)?;
        let (bytes, room) = read_into(&parts.headers, body, T::max_bytes(api), T::room(api)).await?;
        let mut fields = Fields::from_json(&bytes)?;
        drop(bytes);
        let body = T::from_fields(&mut fields)?;
        fields.finish()?;
        Ok(Self { body, _room: room })
    }
}

pub(super) fn refuse_name(headers: &HeaderMap) -> Result<(), Error> {
    match headers.contains_key(IDEMPOTENCY_KEY) {
        true => Err(Error::bad_request(
            "Idempotency-Key",
            "this call takes no Idempotency-Key (of the queues' calls, the publish of one message does, as the id of the message)",
        )),
        false => Ok(()),
    }
}

/// One message: its body as it is, described by headers.
#[derive(Debug)]
pub(super) struct RawMessage {
    pub(super) message: Publish,
    /// Kept until the call is answered.
    pub(super) _room: TakenRoom,
}

impl FromRequest<ApiState> for RawMessage {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        refuse_query(&parts)?;
        let described = described_message(&parts.headers)?;
        let (body, room) = read_into(&parts.headers, body, api.max_value_bytes, Some(&api.room)).await?;
        Ok(Self { message: Publish { body, ..described }, _room: room })
    }
}

/// What a call that changes nothing says in its query string.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: FromFields> FromRequestParts<ApiState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        refuse_key(parts)?;
        let mut fields = Fields::from_query(parts.uri.query().unwrap_or(""))?;
        let query = T::from_fields(&mut fields)?;
        fields.finish()?;
        Ok(Self(query))
    }
}
