//! What every request passes: origin, token, a net for panics and for errors that are not problem
//! documents yet, and the count of requests.

use std::{hint::black_box, panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;

use super::{
    ApiState,
    fields::quote,
    problem::{Problem, normalise},
};
use crate::{
    config::Secret,
    error::{Error, ErrorCode},
};

/// The layer around all routes.
pub(super) async fn gate(State(api): State<ApiState>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let checked = check_host(&request).and_then(|()| check(&api, request.uri(), request.headers()));
    let response = match checked {
        Err(error) => Problem::from(error).into_response(),
        Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
            Problem::from(Error::internal(format!("the handler of {method} {path} panicked"))).into_response()
        }),
    };
    let response = normalise(response, &method, &path);
    let status = response.status();
    api.metrics.http_request(method.as_str(), api.templates.of(&path), status.as_u16(), began.elapsed());
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        api.metrics.bounds().hit("api.body-bytes");
    }
    response
}

/// RFC 9112, section 3.2: a request of HTTP/1.1 names its host, once.
fn check_host(request: &Request) -> Result<(), Error> {
    match (request.version(), request.headers().get_all(header::HOST).iter().count()) {
        (Version::HTTP_11, 1) | (Version::HTTP_10, 0 | 1) => Ok(()),
        (_, count) => Err(Error::bad_request("Host", format!("a request has one Host header, not {count}"))),
    }
}

/// Whether the caller may speak to `/v1` at all.
fn check(api: &ApiState, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
    let path = uri.path();
    if path != "/v1" && !path.starts_with("/v1/") {
        return Ok(());
    }
    check_origin(headers)?;
    api.token.as_ref().map_or(Ok(()), |token| check_token(token, headers))
}

/// A browser says which page's script is calling; only this node's own pages may.
fn check_origin(headers: &HeaderMap) -> Result<(), Error> {
    let own = headers.get(header::HOST).map(|host| [b"http://", host.as_bytes()].concat());
    let is_own = |origin: &[u8]| own.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(origin));
    if headers.get_all(header::ORIGIN).iter().all(|origin| is_own(origin.as_bytes())) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::Forbidden, "pages of another origin may not call this API; call it from your server"))
}

fn check_token(token: &Secret, headers: &HeaderMap) -> Result<(), Error> {
    let refuse = |detail: &str| Err(Error::new(ErrorCode::Unauthorized, detail));
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return refuse("this node wants 'Authorization: Bearer …' with its API_TOKEN");
    };
    let credentials = value.as_bytes().split_at_checked(b"Bearer ".len());
    match credentials {
        Some((scheme, given))
            if scheme.eq_ignore_ascii_case(b"Bearer ") && same_secret(given, token.expose().as_bytes()) =>
        {
            Ok(())
        }
        _ => refuse("the bearer token is not this node's API_TOKEN"),
    }
}

/// Compares in a time that depends on the length alone.
fn same_secret(given: &[u8], secret: &[u8]) -> bool {
    if given.len() != secret.len() {
        return false;
    }
    let difference = given.iter().zip(secret).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    difference == 0
}

/// Whatever no route takes, with a hint where the mistake is a common one.
pub(super) async fn unknown_route(uri: Uri) -> Problem {
    let path = quote(uri.path());
    let path = path.as_str();
    let named = [
        ("/v1/locks/", "name"),
        ("/v1/sessions/", "name"),
        ("/v1/queues/", "q"),
        ("/v1/cache/", "key"),
        ("/v1/cluster/members/", "name"),
    ];
    let named = named.into_iter().find(|(prefix, _)| path.starts_with(prefix));
    if let Some((_, field)) = named
        && (path.contains("//") || ["/v1/locks/", "/v1/queues/", "/v1/cache/"].contains(&path))
    {
        return Error::bad_request(field, "the name is empty: expected 1 to 512 bytes").into();
    }
    let hint = match path {
        _ if ["/v1/locks/", "/v1/queues/", "/v1/cache/"].iter().any(|p| path.starts_with(p)) => {
            format!("nothing is served at {path}; write a '/' in a name as %2F")
        }
        _ => format!("nothing is served at {path}; /openapi.json lists what is"),
    };
    Error::new(ErrorCode::NotFound, hint).into()
}
