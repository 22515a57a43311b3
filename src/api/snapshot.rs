//! `/v1/cluster/snapshot`: a backup of the replicated state goes out, or comes back.
//!
//! Neither is held in memory as a whole: what comes from the leader in parts goes out as it comes, and what comes in is
//! checked and handed over part by part.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use futures::StreamExt;
use tokio::time::timeout;
use tracing::warn;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState,
    extract::{NoQuery, refuse_key},
    fields::Fields,
    openapi::{Conflict, Invalid, Unserved},
    problem::Problem,
};
use crate::{
    error::Error,
    node::backup::{Onto, Restoration},
};

/// How long a client may take until the next bytes of a backup come.
const BYTES_TIMEOUT: Duration = Duration::from_secs(30);
/// What a backup is.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.syncmesh.backup");

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default().routes(routes!(save, restore))
}

/// A backup of sessions, locks and the counter of fencing tokens: of one moment, with everything that was acknowledged
/// before the call. Checksummed; a body that ends without its end is no backup.
#[utoipa::path(get, path = "/v1/cluster/snapshot", tag = "cluster", responses(
    (status = 200, content_type = "application/vnd.syncmesh.backup", body = Vec<u8>), Invalid, Unserved))]
async fn save(State(api): State<ApiState>, _: NoQuery) -> Result<Response, Problem> {
    let mut backup = api.node.backup().await?;
    // The first bytes are known already: from here on a failure can only cut the body short.
    let first = backup.next_bytes().await?;
    let rest = futures::stream::unfold(backup, |mut backup| async {
        match backup.next_bytes().await {
            Ok(bytes) => bytes.map(|bytes| (Ok(bytes), backup)),
            Err(error) => {
                warn!(%error, "a backup could not be served to its end");
                Some((Err(std::io::Error::other(error.to_string())), backup))
            }
        }
    });
    let body = Body::from_stream(futures::stream::iter(first.map(Ok)).chain(rest));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    Ok(response)
}

/// Puts a backup back: what it holds takes the place of all sessions and locks, in one step. Fencing tokens count on from
/// above all of before. A cluster with sessions or locks is refused, unless `force` says that they may be given up.
#[utoipa::path(put, path = "/v1/cluster/snapshot", tag = "cluster",
    params(("force" = Option<bool>, Query, description = "Sessions and locks that there are may be given up.")),
    request_body(content = Vec<u8>, content_type = "application/vnd.syncmesh.backup"),
    responses((status = 204), Invalid, Conflict, Unserved))]
async fn restore(State(api): State<ApiState>, Upload { onto, body }: Upload) -> Result<StatusCode, Problem> {
    let mut restoration = api.node.restore(onto);
    match put_back(&mut restoration, body).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => {
            restoration.cancel().await;
            Err(error.into())
        }
    }
}

async fn put_back(restoration: &mut Restoration, body: Body) -> Result<(), Error> {
    let mut stream = body.into_data_stream();
    let late = || Error::bad_request("body", format!("no more of the body came within {} s", BYTES_TIMEOUT.as_secs()));
    while let Some(bytes) = timeout(BYTES_TIMEOUT, stream.next()).await.map_err(|_| late())? {
        let bytes = bytes.map_err(|_| Error::bad_request("body", "the body was cut short"))?;
        restoration.feed(&bytes).await?;
    }
    let restored = restoration.finish().await?;
    warn!(
        sessions = restored.counts.sessions,
        holds = restored.counts.holds,
        sessions_ended = restored.replaced.sessions,
        token = restored.token,
        "the locks and sessions of this cluster are those of a backup now"
    );
    Ok(())
}

/// A backup that comes in.
struct Upload {
    onto: Onto,
    body: Body,
}

impl FromRequest<ApiState> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let Force(onto) = Force::from_request_parts(&mut parts, state).await?;
        Ok(Self { onto, body })
    }
}

/// `force=true` or `false`.
struct Force(Onto);

impl FromRequestParts<ApiState> for Force {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        refuse_key(parts)?;
        let mut fields = Fields::from_query(parts.uri.query().unwrap_or(""))?;
        let onto = match fields.text("force")?.as_deref() {
            None | Some("false") => Onto::EmptyState,
            Some("true") => Onto::AnyState,
            Some(_) => return Err(Error::bad_request("force", "force is 'true' or 'false'").into()),
        };
        fields.finish()?;
        Ok(Self(onto))
    }
}
