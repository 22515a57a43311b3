//! Extractors: what a handler asks of a request, checked at the edge.
//!
//! Each refuses with a problem document that names the field. They read requests, they call nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, header, request::Parts},
};
use futures::{Stream, StreamExt};
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    ApiState,
    fields::{Canonical, Fields, FromFields, percent_decode},
    problem::Problem,
};
use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::{CacheKey, LockName, NodeId, QueueName, SessionId},
    node::{
        ResumeFrom,
        locks::{IdempotencyKey, PageRequest},
    },
};

/// Most items of one page.
pub(super) const MAX_PAGE: u64 = 1000;

/// Most bytes of an idempotency key.
const MAX_KEY_BYTES: usize = 255;

/// How long a client may take to send a body whose head has arrived.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read at the most of a body that is refused.
const MOST_DISCARDED: usize = 64 << 20;
/// And for how long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What the paths of calls about one member begin with.
const MEMBERS: &str = "/v1/cluster/members/";

/// The one parameter of a path, percent-decoded.
async fn path_parameter(parts: &mut Parts, field: &'static str) -> Result<String, Error> {
    let refuse = || Error::bad_request(field, "the path is not percent-encoded UTF-8; write a '%' in a name as %25");
    // axum takes an escape that is cut short literally: two spellings of one name, or a typing error.
    percent_decode(parts.uri.path()).ok_or_else(refuse)?;
    let Path(parameter) = Path::<String>::from_request_parts(parts, &()).await.map_err(|_| refuse())?;
    Ok(parameter)
}

macro_rules! path_extractor {
    ($(#[$doc:meta])* $name:ident($inner:ty), $field:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name(pub(super) $inner);

        impl FromRequestParts<ApiState> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
                let text = path_parameter(parts, $field).await?;
                let value = <$inner>::new(text).map_err(|error| Error::bad_request($field, error.to_string()))?;
                Ok(Self(value))
            }
        }
    };
}

path_extractor!(
    /// `{name}` in a path.
    LockPath(LockName),
    "name"
);

path_extractor!(
    /// `{id}` in a path.
    SessionPath(SessionId),
    "id"
);

path_extractor!(
    /// `{q}` in a path.
    QueuePath(QueueName),
    "q"
);

path_extractor!(
    /// `{key}` in a path.
    CachePath(CacheKey),
    "key"
);

/// `{peer}` in a path, `any` standing for `None`.
#[derive(Debug)]
pub(super) struct PeerPath(pub(super) Option<NodeId>);

impl PeerPath {
    /// The peer, where `any` makes no sense.
    pub(super) fn one(self) -> Result<NodeId, Error> {
        self.0.ok_or_else(|| Error::bad_request("peer", "'any' is only for transfer-leader: name a peer, or 'self'"))
    }
}

impl FromRequestParts<ApiState> for PeerPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let text = path_parameter(parts, "peer").await?;
        Ok(match text.as_str() {
            "any" => Self(None),
            "self" => Self(Some(state.node.id())),
            peer => {
                Self(Some(peer.parse().map_err(|error: crate::ids::InvalidId| {
                    Error::bad_request("peer", format!("{error}, or 'self'"))
                })?))
            }
        })
    }
}

/// A request whose query string must be empty.
#[derive(Debug)]
pub(super) struct NoQuery;

impl FromRequestParts<ApiState> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        refuse_query(parts)?;
        refuse_key(parts)?;
        Ok(Self)
    }
}

/// What changes nothing has nothing to remember.
pub(super) fn refuse_key(parts: &Parts) -> Result<(), Error> {
    match parts.headers.contains_key(IDEMPOTENCY_KEY) {
        true => Err(Error::bad_request("Idempotency-Key", "this call takes no Idempotency-Key")),
        false => Ok(()),
    }
}

pub(super) fn refuse_query(parts: &Parts) -> Result<(), Error> {
    Fields::from_query(parts.uri.query().unwrap_or(""))?.finish()
}

/// Which page of a list is asked for: `prefix`, `after`, `limit`.
#[derive(Debug)]
pub(super) struct PageQuery(pub(super) PageRequest);

impl FromRequestParts<ApiState> for PageQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        refuse_key(parts)?;
        let mut fields = Fields::from_query(parts.uri.query().unwrap_or(""))?;
        let page = read_page(&mut fields)?;
        fields.finish()?;
        Ok(Self(page))
    }
}

/// The page, where `after` is something that a `next` can have been.
pub(super) fn check_after<T: TryFrom<String>>(page: PageRequest) -> Result<PageRequest, Error> {
    let after = page.after.filter(|after| !after.is_empty());
    if after.as_ref().is_some_and(|after| T::try_from(after.clone()).is_err()) {
        return Err(Error::bad_request("after", "after takes the `next` of the page before"));
    }
    Ok(PageRequest { after, ..page })
}

fn read_page(fields: &mut Fields) -> Result<PageRequest, Error> {
    let limit = fields.query_integer("limit")?.unwrap_or(MAX_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Error::bad_request("limit", format!("the limit is {limit}: expected 1 to {MAX_PAGE}")));
    }
    let limit = usize::try_from(limit).expect("a limit of at most 1,000 is a usize");
    Ok(PageRequest { prefix: fields.text("prefix")?, after: fields.text("after")?, limit })
}

/// A mutating call: its fields, and the client's own name for it.
#[derive(Debug)]
pub(super) struct Command<T> {
    /// What the body says.
    pub(super) body: T,
    /// From the `Idempotency-Key` header.
    pub(super) key: Option<IdempotencyKey>,
}

/// The body of a call that takes none.
#[derive(Debug)]
pub(super) struct NoBody;

impl FromFields for NoBody {
    fn from_fields(_: &mut Fields) -> Result<Self, Error> {
        Ok(Self)
    }
}

impl Canonical for NoBody {
    fn canonical(&self) -> Value {
        Value::Object(Map::new())
    }
}

impl<T: Canonical> FromRequest<ApiState> for Command<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        refuse_query(&parts)?;
        check_content_type(&parts.headers)?;
        let key = idempotency_key(&parts.headers)?;
        let bytes = read_body(&parts.headers, body, state.max_json_bytes).await?;
        let mut fields = Fields::from_json(&bytes)?;
        let body = T::from_fields(&mut fields)?;
        fields.finish()?;
        let key = key.map(|key| {
            let path = canonical_path(parts.uri.path(), state.node.id());
            let fingerprint = fingerprint([parts.method.as_str(), &path, &body.canonical().to_string()]);
            IdempotencyKey { key, fingerprint }
        });
        Ok(Self { body, key })
    }
}

/// JSON, no content type, or the one that curl's `-d` sends unasked. A page of another origin could
/// send the latter too, but is refused by its `Origin`.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = value.to_str().unwrap_or("?").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let is_json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    if is_json || kind == "application/x-www-form-urlencoded" || kind.is_empty() {
        return Ok(());
    }
    Err(Error::bad_request("content-type", "the content type is not supported here: send application/json"))
}

/// The key in the header: 1 to 255 visible ASCII characters.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let refuse = |detail: &str| Err(Error::bad_request("Idempotency-Key", detail));
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return refuse("the Idempotency-Key header is given twice");
    }
    let bytes = value.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_KEY_BYTES || !bytes.iter().all(u8::is_ascii_graphic) {
        return refuse("an Idempotency-Key has 1 to 255 visible ASCII characters");
    }
    Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
}

/// Bytes of the bodies of messages and values that are under way, of all connections together: what a request of many
/// bytes takes is counted, until it is answered.
#[derive(Clone, Debug)]
pub(super) struct BodyRoom {
    left_kib: Arc<Semaphore>,
}

/// What one request has taken of it.
#[derive(Debug, Default)]
pub(super) struct TakenRoom(Option<OwnedSemaphorePermit>);

impl BodyRoom {
    /// Room for so many bytes.
    pub(super) fn of(bytes: usize) -> Self {
        Self { left_kib: Arc::new(Semaphore::new((bytes / 1024).min(Semaphore::MAX_PERMITS))) }
    }

    /// Takes room for so many bytes more.
    fn take(&self, taken: &mut TakenRoom, bytes: usize) -> Result<(), Error> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.left_kib).try_acquire_many_owned(kib).map_err(|_| {
            let detail =
                "this node is taking as many bytes of messages and values as it can at a time: try again, or ask another node";
            Error::unavailable(Outcome::NotApplied, detail)
        })?;
        match &mut taken.0 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// Reads a body of at most `limit` bytes. A longer one is refused, and what is left of it [read and forgotten](discard).
pub(super) async fn read_body(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Error> {
    let (bytes, TakenRoom(_)) = read_into(headers, body, limit, None).await?;
    Ok(bytes)
}

/// Takes what is left of a body that is refused and forgets it, for a while: a client that is still writing when the
/// connection closes may never see the answer. Who waits to be told to send it is not.
async fn discard(headers: &HeaderMap, mut rest: impl Stream<Item = Result<Bytes, axum::Error>> + Unpin) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let mut seen = 0;
    let read = async {
        while let Some(Ok(chunk)) = rest.next().await
            && seen < MOST_DISCARDED
        {
            seen += chunk.len();
        }
    };
    // What does not come in time is cut off.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, read).await;
}

/// The same, where all bodies together have this room.
pub(super) async fn read_into(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    room: Option<&BodyRoom>,
) -> Result<(Bytes, TakenRoom), Error> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    if announced
        .is_some_and(|length: u64| usize::try_from(length).is_ok_and(|l| l > limit) || length > usize::MAX as u64)
    {
        discard(headers, body.into_data_stream()).await;
        return Err(too_large(limit));
    }
    let read = async {
        let mut stream = body.into_data_stream();
        let (mut bytes, mut taken) = (Vec::new(), TakenRoom::default());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| Error::bad_request("body", "the body was cut short"))?;
            if bytes.len() + chunk.len() > limit {
                drop(bytes);
                discard(headers, stream).await;
                return Err(too_large(limit));
            }
            room.map_or(Ok(()), |room| room.take(&mut taken, chunk.len()))?;
            bytes.extend_from_slice(&chunk);
        }
        Ok((Bytes::from(bytes), taken))
    };
    tokio::time::timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| {
        Err(Error::bad_request("body", format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs())))
    })
}

fn too_large(limit: usize) -> Error {
    let mut error = Error::new(ErrorCode::PayloadTooLarge, format!("the body has more than {limit} bytes"));
    error.details.limit = Some(limit as u64);
    error
}

/// A digest that is the same on every node and in every version (FNV-1a, 64 bit; a zero byte ends
/// each part). It tells a repeat from a mistake; it is no defence against a client that forges one.
fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.into_iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// The path of a request with every name in it decoded and behind its length, and `self` as the member
/// that it is at this node: at another it is another.
fn canonical_path(path: &str, me: NodeId) -> String {
    let is_of_member = path.starts_with(MEMBERS);
    let segments = path.split('/').map(|segment| match percent_decode(segment) {
        Some(name) if is_of_member && name == "self" => me.to_string(),
        Some(name) => name,
        // Refused before this.
        None => segment.to_owned(),
    });
    segments.map(|segment| format!("{}:{segment}/", segment.len())).collect()
}

/// Where a stream of events begins: after the client's `Last-Event-ID`, or with the last `recent` ones. The header
/// wins: whoever resumes repeats the query that it came with. What is no number was never an id of ours.
#[derive(Debug)]
pub(super) struct EventsFrom(pub(super) ResumeFrom);

impl FromRequestParts<ApiState> for EventsFrom {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, Problem> {
        refuse_key(parts)?;
        let mut fields = Fields::from_query(parts.uri.query().unwrap_or(""))?;
        let recent = match fields.query_integer("recent")? {
            Some(recent) => Some(fields.in_range("recent", recent, 1..=MAX_PAGE)?),
            None => None,
        };
        fields.finish()?;
        let resumed = parts.headers.get("last-event-id").map(|header| {
            let id = header.to_str().ok().and_then(|text| text.parse().ok());
            id.map_or(ResumeFrom::Elsewhere, ResumeFrom::After)
        });
        let recent = recent.map(|recent| ResumeFrom::Recent(usize::try_from(recent).unwrap_or(usize::MAX)));
        Ok(Self(resumed.or(recent).unwrap_or(ResumeFrom::Now)))
    }
}

/// The path templates of the routes, so that requests are counted by route and not by name.
#[derive(Debug, Default)]
pub(super) struct RouteTemplates(HashMap<usize, Vec<String>>);

impl RouteTemplates {
    /// From templates such as `/v1/locks/{name}`.
    pub(super) fn new<'a>(templates: impl IntoIterator<Item = &'a str>) -> Self {
        let mut by_length: HashMap<usize, Vec<String>> = HashMap::new();
        for template in templates {
            by_length.entry(template.split('/').count()).or_default().push(template.to_owned());
        }
        Self(by_length)
    }

    /// The template that a path belongs to, or `unmatched`.
    pub(super) fn of(&self, path: &str) -> &str {
        let fits = |template: &str| {
            template.split('/').zip(path.split('/')).all(|(t, p)| t == p || (t.starts_with('{') && !p.is_empty()))
        };
        let candidates = self.0.get(&path.split('/').count());
        candidates.into_iter().flatten().find(|template| fits(template)).map_or("unmatched", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_tell_requests_apart_and_never_change() {
        assert_eq!(fingerprint(["a"]), fingerprint(["a"]));
        assert_ne!(fingerprint(["ab", "c"]), fingerprint(["a", "bc"]));
        assert_eq!(fingerprint(["POST", "/v1/sessions", "{}"]), 0xa0b3_73be_9d6c_e68d);
    }

    #[test]
    fn a_name_is_the_same_however_it_is_encoded_and_self_is_another_at_each_node() {
        let [one, two] = [1, 2].map(|n| NodeId::from_bytes([n; 32]));
        let path = |path: &str| canonical_path(path, one);
        assert_eq!(path("/v1/locks/%61/acquire"), path("/v1/locks/a/acquire"));
        assert_ne!(path("/v1/locks/a%2Facquire"), path("/v1/locks/a/acquire"));
        assert_ne!(path("/v1/locks/self"), path(&format!("/v1/locks/{one}")));
        let leave = "/v1/cluster/members/self/leave";
        assert_eq!(path(leave), path(&format!("/v1/cluster/members/{one}/leave")));
        assert_ne!(path(leave), canonical_path(leave, two));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_not_waited_for() {
        let first = futures::stream::iter([Ok::<_, std::io::Error>("{")]);
        let body = Body::from_stream(first.chain(futures::stream::pending()));
        let error = read_body(&HeaderMap::new(), body, 100).await.unwrap_err();
        assert_eq!(error.detail, "the body did not arrive within 30 s");
    }

    #[tokio::test]
    async fn bodies_have_room_together_and_give_it_back() {
        let room = BodyRoom::of(4096);
        let read = |bytes: usize| {
            let room = room.clone();
            async move { read_into(&HeaderMap::new(), Body::from(vec![0; bytes]), 10_000, Some(&room)).await }
        };
        let (_, taken) = read(3000).await.unwrap();
        let (small, _) = read(1024).await.unwrap();
        assert_eq!(small.len(), 1024);
        let refusal = read(1025).await.unwrap_err();
        assert_eq!((refusal.code, refusal.details.outcome), (ErrorCode::Unavailable, Some(Outcome::NotApplied)));
        drop(taken);
        assert_eq!(read(4096).await.unwrap().0.len(), 4096);
    }

    #[test]
    fn paths_are_counted_under_their_template() {
        let templates = RouteTemplates::new(["/v1/locks", "/v1/locks/{name}", "/v1/locks/{name}/acquire"]);
        assert_eq!(templates.of("/v1/locks/a%2Fb/acquire"), "/v1/locks/{name}/acquire");
        assert_eq!(templates.of("/v1/locks"), "/v1/locks");
        assert_eq!(templates.of("/v1/locks/"), "unmatched");
        assert_eq!(templates.of("/v1/locks/a/b/c/d"), "unmatched");
    }
}
