//! The description of the API: what the `#[utoipa::path]` attributes beside the handlers do not say.
//!
//! Owns the head of the document, the schemas of types that belong to `node` and know nothing of
//! OpenAPI, and the problem responses that operations share.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::{
    IntoResponses, OpenApi,
    openapi::{
        Content, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema, Type,
        path::{ParameterBuilder, ParameterIn},
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::problem::PROBLEM_JSON;

/// The name of the security scheme.
const BEARER: &str = "bearer";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Syncmesh",
        description = "Any node takes any call and forwards it to the peer that serves it. Errors are \
                       application/problem+json; `type` is the slug that programs may rely on."
    ),
    tags(
        (name = "locks", description = "Sessions and locks"),
        (name = "queues", description = "Queues and their messages, delivered at least once"),
        (name = "cache", description = "Values that all cache nodes agree on: MESI, MOSI or MOESI"),
        (name = "cluster", description = "The node, the cluster and its members"),
        (name = "process", description = "Served without a token")
    ),
    security(("bearer" = []))
)]
struct Head;

/// The document without its paths.
pub(super) fn head() -> utoipa::openapi::OpenApi {
    let mut document = Head::openapi();
    let components = document.components.get_or_insert_default();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.security_schemes.insert(BEARER.to_owned(), RefOr::T(scheme));
    for (name, schema) in schemas() {
        let schema: RefOr<Schema> = serde_json::from_value(schema).expect("the schemas below are JSON schemas");
        components.schemas.insert(name.to_owned(), schema);
    }
    document
}

/// Says of every call that changes something that it may be given a name and repeated.
pub(super) fn add_idempotency_key(document: &mut utoipa::openapi::OpenApi) {
    let header = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("A repeat within 10 minutes, at whichever node, gets the first answer and changes nothing."))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255))))
        .build();
    // A backup is put back as a whole or not at all, a message has an id of its own, and what else changes a queue or
    // the cache can be repeated, or is conditional.
    let takes_one =
        |path: &str| !["/v1/queues", "/v1/cache", "/v1/cluster/snapshot"].iter().any(|prefix| path.starts_with(prefix));
    let named = document.paths.paths.iter_mut().filter(|(path, _)| takes_one(path));
    for (_, item) in named {
        for operation in [&mut item.post, &mut item.put, &mut item.delete].into_iter().flatten() {
            operation.parameters.get_or_insert_default().push(RefOr::T(header.clone()));
        }
    }
}

fn text() -> Value {
    json!({"type": "string"})
}

fn number() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn nullable(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn words(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

fn list(of: Value) -> Value {
    json!({"type": "array", "items": of})
}

/// An object; a name that ends in `?` may be left out.
fn object(fields: &[(&str, Value)]) -> Value {
    let name = |field: &str| field.trim_end_matches('?').to_owned();
    let properties: serde_json::Map<String, Value> = fields.iter().map(|(f, v)| (name(f), v.clone())).collect();
    let required: Vec<&str> = fields.iter().map(|(f, _)| *f).filter(|f| !f.ends_with('?')).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

fn roles() -> Value {
    list(words(&["lock-manager", "queue-node", "cache-node", "bootstrap"]))
}

/// The schemas of the problem document and of what `node::status` defines.
fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("Problem", problem()),
        ("NodeInfo", node_info()),
        ("ClusterView", cluster_view()),
        ("Readiness", readiness()),
        ("RecentLogs", object(&[("lines", list(text())), ("forgotten", number())])),
        ("Settings", settings()),
    ]
}

fn problem() -> Value {
    object(&[
        ("type", text()),
        ("title", text()),
        ("status", number()),
        ("detail", text()),
        ("field?", text()),
        ("holders?", list(text())),
        ("cycle?", list(object(&[("session", text()), ("lock", text())]))),
        ("limit?", number()),
        ("outcome?", words(&["not-applied", "unknown"])),
        ("id?", text()),
        ("version?", nullable("string")),
    ])
}

fn protocol() -> Value {
    words(&["MESI", "MOSI", "MOESI"])
}

/// Lines of the cache by state.
fn lines() -> Value {
    object(&[("M", number()), ("O", number()), ("E", number()), ("S", number())])
}

fn readiness() -> Value {
    let check = object(&[("name", text()), ("ok", flag()), ("detail", text())]);
    object(&[("ready", flag()), ("checks", list(check))])
}

fn settings() -> Value {
    let setting = object(&[
        ("name", text()),
        ("value", json!({})),
        ("source", words(&["flag", "environment", ".env", "default"])),
        ("unit", nullable("string")),
        ("description", text()),
    ]);
    object(&[("settings", list(setting))])
}

fn node_info() -> Value {
    let peer = object(&[
        ("peer_id", text()),
        ("agent", text()),
        ("roles", roles()),
        ("addr", text()),
        ("transport", text()),
        ("direction", words(&["inbound", "outbound"])),
        ("rtt_ms", nullable("integer")),
        ("discovered_by", words(&["bootstrap", "mdns", "kademlia", "members", "inbound"])),
    ]);
    let raft = object(&[
        ("role", text()),
        ("has_quorum?", flag()),
        ("term", number()),
        ("leader", nullable("string")),
        ("last_log_index", number()),
        ("committed_index", number()),
        ("applied_index", number()),
        ("voters", list(text())),
        ("learners", list(text())),
    ]);
    let queue =
        object(&[("journal", text()), ("durable", flag()), ("primaries", list(number())), ("backups", list(number()))]);
    let cache = object(&[
        ("protocol", protocol()),
        ("write_policy", words(&["back", "through"])),
        ("capacity", number()),
        ("entries", number()),
        ("lines", lines()),
        ("hit_rate", nullable("number")),
        ("dirty_lost", number()),
    ]);
    let drain = object(&[
        ("leaves", flag()),
        ("leads", flag()),
        ("votes", flag()),
        ("partitions", number()),
        ("slots", number()),
    ]);
    object(&[
        ("peer_id", text()),
        ("agent", text()),
        ("version", text()),
        ("cluster_id", nullable("string")),
        ("cluster_name", text()),
        ("roles", roles()),
        ("ready", flag()),
        ("uptime_ms", number()),
        ("listen_addrs", list(text())),
        ("announce_addrs", list(text())),
        ("observed_addrs", list(text())),
        ("protocols", list(text())),
        ("peers", list(peer)),
        ("raft?", raft),
        ("queue?", queue),
        ("cache?", cache),
        ("drain?", drain),
        ("leaderless_ms?", number()),
    ])
}

fn cluster_view() -> Value {
    let member = object(&[
        ("peer_id", text()),
        ("roles", roles()),
        ("addrs", list(text())),
        ("status", words(&["up", "down", "left"])),
        ("raft", json!({"type": ["string", "null"], "enum": ["leader", "voter", "learner", null]})),
        ("trails_by", nullable("integer")),
        ("version", text()),
        ("last_seen", nullable("string")),
    ]);
    let partition = object(&[
        ("id", number()),
        ("primary", nullable("string")),
        ("replicas", list(text())),
        ("in_sync", list(text())),
        ("epoch", number()),
        ("status", words(&["unplaced", "serving", "waiting", "journal-lost"])),
    ]);
    object(&[
        ("cluster_id", nullable("string")),
        ("cluster_name", text()),
        ("epoch", number()),
        ("term", number()),
        ("leader", nullable("string")),
        ("leaderless_ms?", number()),
        ("members", list(member)),
        ("queue", object(&[("partitions", list(partition)), ("moving", nullable("integer"))])),
        (
            "cache",
            object(&[
                ("protocol", protocol()),
                ("hit_rate", nullable("number")),
                ("lines", lines()),
                ("dirty_lost", number()),
                ("moving", nullable("integer")),
            ]),
        ),
        ("warnings", list(object(&[("code", text()), ("detail", text())]))),
    ])
}

fn problem_response(description: &str) -> RefOr<Response> {
    let content = Content::new(Some(RefOr::<Schema>::Ref(Ref::from_schema_name("Problem"))));
    RefOr::T(ResponseBuilder::new().description(description).content(PROBLEM_JSON, content).build())
}

macro_rules! problems {
    ($(#[$doc:meta])* $name:ident { $($status:literal => $description:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([$(($status.to_owned(), problem_response($description))),+])
            }
        }
    };
}

problems!(
    /// What may be said to any call of `/v1`.
    Invalid {
        "400" => "bad-request",
        "401" => "unauthorized",
        "403" => "forbidden",
        "413" => "payload-too-large",
        "500" => "internal",
    }
);
problems!(
    /// The thing is not there.
    Missing { "404" => "not-found" }
);
problems!(
    /// The state of the lock or the cluster does not allow it.
    Conflict { "409" => "not-holder, lock-timeout, lock-deadlock or conflict" }
);
problems!(
    /// The key has another version.
    Mismatch { "412" => "version-mismatch" }
);
problems!(
    /// The session is over.
    Gone { "410" => "session-expired" }
);
problems!(
    /// The queue holds as much as it may.
    Full { "429" => "queue-full" }
);
problems!(
    /// It cannot be made durable now, or nobody can serve it now.
    NotDurable { "503" => "durability-unavailable, no-quorum or unavailable" }
);
problems!(
    /// Nobody can serve it now.
    Unserved { "503" => "no-quorum or unavailable" }
);
