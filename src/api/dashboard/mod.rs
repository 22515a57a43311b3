//! `GET /`: the dashboard, one page with everything in it.
//!
//! Owns the page and the headers that go with it. The page asks the `/v1` routes and `/metrics` like any other client, so
//! nothing here knows a lock or a queue. It is put together from the files of this folder when the program is
//! compiled; each script file is one part of the picture, and all of them are one script that shares its names.
//!
//! What it shows comes from whoever may name a lock. So the page writes text only, and the browser is told to hold it
//! to that: it runs exactly this script and this style (by hash), refuses to make elements of text
//! (Trusted Types), and talks to this node alone.

use std::sync::LazyLock;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::ApiState;

macro_rules! style {
    () => {
        concat!(include_str!("tokens.css"), include_str!("parts.css"), include_str!("layout.css"))
    };
}

macro_rules! script {
    () => {
        concat!(
            include_str!("text.js"),
            include_str!("dom.js"),
            include_str!("ask.js"),
            include_str!("chart.js"),
            include_str!("mesh.js"),
            include_str!("cluster.js"),
            include_str!("locks.js"),
            include_str!("queues.js"),
            include_str!("cache.js"),
            include_str!("calls.js"),
            include_str!("events.js"),
            include_str!("main.js"),
        )
    };
}

const STYLE: &str = style!();
const SCRIPT: &str = script!();
const PAGE: &str = concat!(
    include_str!("head.html"),
    "<style>",
    style!(),
    "</style>\n",
    include_str!("body.html"),
    "<script>",
    script!(),
    "</script>\n</body>\n</html>\n"
);

/// The name of this page's content, as `ETag` quotes it.
static ETAG: LazyLock<HeaderValue> = LazyLock::new(|| visible(&format!("\"{}\"", hash(PAGE))));

static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    visible(&format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE)
    ))
});

/// SHA-256 in base64, as a Content-Security-Policy names what it allows.
fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("made of visible ASCII")
}

/// The routes of this module.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::default().routes(routes!(dashboard))
}

/// The dashboard, for a browser. It asks for the token where `/v1` wants one.
#[utoipa::path(get, path = "/", tag = "process", security(()), params(("If-None-Match" = Option<String>, Header)),
    responses((status = 200, content_type = "text/html", body = String), (status = 304)))]
async fn dashboard(headers: HeaderMap) -> Response {
    let about: [(HeaderName, HeaderValue); 6] = [
        // A new version of the program is a new page: the browser asks each time, and mostly gets a 304.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::ETAG, ETAG.clone()),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
    ];
    if has_it(&headers) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    (about, PAGE).into_response()
}

/// Whether the client names this very page in `If-None-Match` (RFC 9110, section 13.1.2: a weak comparison).
fn has_it(headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = named.flat_map(|list| list.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == "*" || tag.as_bytes() == ETAG.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is between the first of these tags and its end.
    fn inside(tag: &str) -> &'static str {
        let (_, rest) = PAGE.split_once(&format!("<{tag}>")).unwrap();
        rest.split_once(&format!("</{tag}>")).unwrap().0
    }

    #[test]
    fn the_policy_names_the_very_style_and_script_of_the_page() {
        let policy = POLICY.to_str().unwrap();
        for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
            let allowed = format!("{directive} 'sha256-{}';", hash(inside(tag)));
            assert!(policy.contains(&allowed), "{allowed} in {policy}");
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "a second <{tag}> has no hash");
        }
        // A browser reads a line end as \n, whatever it was, before it hashes.
        assert!(!PAGE.contains('\r'));
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn the_page_names_no_other_place_and_makes_no_element_of_text() {
        let places = PAGE.match_indices("://").map(|(at, _)| &PAGE[at.saturating_sub(5)..(at + 24).min(PAGE.len())]);
        // The name of SVG's vocabulary, which nobody fetches.
        let foreign: Vec<_> = places.filter(|place| !place.contains("://www.w3.org/2000/svg")).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "localStorage", "eval("] {
            assert!(!SCRIPT.contains(sink), "{sink}");
        }
    }
}
