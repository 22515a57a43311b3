//! What the edge refuses about the cache, and how.

use super::*;

impl Refused {
    /// It passed the edge: nobody serves the cache where there is no cluster.
    #[track_caller]
    fn has_passed(&self) {
        assert!(["no-quorum", "unavailable"].contains(&self.slug()), "{self:?}");
    }
}

#[tokio::test]
async fn bodies_about_the_cache_are_checked_field_by_field() {
    let edge = open_edge().await;
    let long = format!(r#"{{"prefix":"{}"}}"#, "p".repeat(513));
    for (body, field) in [
        (r#"{"by":"1"}"#, "by"),
        (r#"{"by":1.5}"#, "by"),
        (r#"{"by":9223372036854775808}"#, "by"),
        (r#"{"by":-9223372036854775809}"#, "by"),
        (r#"{"value":1}"#, "value"),
        ("[]", "body"),
    ] {
        edge.post("/v1/cache/k/increment", body).await.is("bad-request", field);
    }
    for (body, field) in [
        ("", "key"),
        ("{}", "key"),
        (r#"{"key":""}"#, "key"),
        (r#"{"key":7}"#, "key"),
        (r#"{"prefix":""}"#, "prefix"),
        (&long, "prefix"),
        (r#"{"all":false}"#, "all"),
        (r#"{"all":1}"#, "all"),
        (r#"{"key":"a","prefix":"b"}"#, "prefix"),
        (r#"{"key":"a","prefix":"b","all":true}"#, "all"),
        (r#"{"all":true,"yes":true}"#, "yes"),
    ] {
        edge.post("/v1/cache:invalidate", body).await.is("bad-request", field);
    }
    refused(edge.request(Method::DELETE, "/v1/cache/k").body(r#"{"all":true}"#)).await.is("bad-request", "all");
}

#[tokio::test]
async fn how_a_value_is_stored_is_checked_in_query_and_headers() {
    let edge = open_edge().await;
    for (query, field) in [
        ("ttl=30", "ttl"),
        ("ttl=0ms", "ttl"),
        ("ttl=366d", "ttl"),
        ("ttl=-1s", "ttl"),
        ("ttl=", "ttl"),
        ("ttl=1s&ttl=1s", "ttl"),
        ("ttl_ms=5", "ttl_ms"),
        ("if_match=x", "if_match"),
    ] {
        edge.put(&format!("/v1/cache/k?{query}"), "x").await.is("bad-request", field);
    }
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("if-match", "*")], "If-Match"),
        (&[("if-match", "unquoted")], "If-Match"),
        (&[("if-match", "W/\"0a\"")], "If-Match"),
        (&[("if-match", "\"a\", \"b\"")], "If-Match"),
        (&[("if-match", "\"a\""), ("if-match", "\"b\"")], "If-Match"),
        (&[("if-none-match", "\"a\"")], "If-None-Match"),
        (&[("if-match", "\"a\""), ("if-none-match", "*")], "If-None-Match"),
        (&[("idempotency-key", "k")], "Idempotency-Key"),
    ];
    for (headers, field) in cases {
        let mut request = edge.request(Method::PUT, "/v1/cache/k").body("x");
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        refused(request).await.is("bad-request", field);
    }
}

#[tokio::test]
async fn a_call_that_is_not_conditional_says_so() {
    let edge = open_edge().await;
    for (method, path) in [(Method::DELETE, "/v1/cache/k"), (Method::POST, "/v1/cache/k/increment")] {
        for (name, value, field) in [("if-match", "\"a\"", "If-Match"), ("if-none-match", "*", "If-None-Match")] {
            refused(edge.request(method.clone(), path).header(name, value)).await.is("bad-request", field);
        }
    }
}

#[tokio::test]
async fn no_call_about_the_cache_takes_a_name_for_itself() {
    let edge = open_edge().await;
    for (method, path) in [
        (Method::GET, "/v1/cache"),
        (Method::GET, "/v1/cache/k"),
        (Method::PUT, "/v1/cache/k"),
        (Method::DELETE, "/v1/cache/k"),
        (Method::POST, "/v1/cache/k/increment"),
        (Method::GET, "/v1/cache/k/state"),
        (Method::POST, "/v1/cache:invalidate"),
    ] {
        let keyed = refused(edge.request(method, path).header("idempotency-key", "k"));
        keyed.await.is("bad-request", "Idempotency-Key");
    }
}

#[tokio::test]
async fn keys_and_queries_of_the_cache_are_checked() {
    let edge = open_edge().await;
    for malformed in ["%ff", "%", "%zz", "a%2"] {
        edge.get(&format!("/v1/cache/{malformed}")).await.is("bad-request", "key");
    }
    edge.get(&format!("/v1/cache/{}", "k".repeat(513))).await.is("bad-request", "key");
    edge.get("/v1/cache/").await.is("bad-request", "key");
    edge.get("/v1/cache//state").await.is("bad-request", "key");
    for dots in ["..", "%2e%2E", "."] {
        let request = format!("GET /v1/cache/{dots} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(edge.raw(request.as_bytes()).await.contains("'.' and '..' are not names"), "{dots}");
    }
    for path in ["/v1/cache?limit=1", "/v1/cache/k?limit=1", "/v1/cache/k/state?limit=1"] {
        edge.get(path).await.is("bad-request", "limit");
    }
    edge.post("/v1/cache:invalidate?all=true", "").await.is("bad-request", "all");
    edge.get("/v1/cache/a/b").await.is("not-found", "");
    edge.post("/v1/cache%3Ainvalidate", "").await.is("not-found", "");
    edge.post("/v1/cache/k", "x").await.is("method-not-allowed", "");
    edge.get("/v1/cache:invalidate").await.is("method-not-allowed", "");
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_with_the_limit() {
    let edge = edge(ApiSettings { max_value_bytes: 100, ..ApiSettings::default() }).await;
    let refusal = edge.put("/v1/cache/k", &"x".repeat(101)).await;
    refusal.is("payload-too-large", "");
    assert_eq!(refusal.problem["limit"], 100);
    let chunks = futures::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 65_536])));
    let chunked = edge.request(Method::PUT, "/v1/cache/k").body(reqwest::Body::wrap_stream(chunks));
    refused(chunked).await.is("payload-too-large", "");
    let refusal = edge.post("/v1/cache/k/increment", &"x".repeat(MAX_JSON_BYTES + 1)).await;
    refusal.is("payload-too-large", "");
    assert_eq!(refusal.problem["limit"], MAX_JSON_BYTES);
}

#[tokio::test]
async fn what_is_well_formed_reaches_the_service() {
    let edge = edge(ApiSettings { max_value_bytes: 100, ..ApiSettings::default() }).await;
    let longest = format!("/v1/cache/{}", "%2F".repeat(512));
    let put = |query: &str| edge.request(Method::PUT, &format!("{longest}{query}")).body(vec![0xff; 100]);
    let post = |path: &str, body: &'static str| edge.request(Method::POST, path).body(body);
    let increment = format!("{longest}/increment");
    let requests = [
        put("?ttl=365d").header("content-type", "multipart/anything; boundary=x"),
        put("?ttl=1ms").header("if-match", "\"what-no-answer-told\""),
        put("").header("if-none-match", "*"),
        // What a browser adds by itself to a read changes nothing.
        edge.request(Method::GET, &longest).header("if-none-match", "\"a\""),
        edge.request(Method::DELETE, &longest),
        post(&increment, r#"{"by":-9223372036854775808}"#),
        post(&increment, ""),
        post("/v1/cache:invalidate", r#"{"key":"a/b"}"#),
        post("/v1/cache:invalidate", r#"{"prefix":"a"}"#),
        post("/v1/cache:invalidate", r#"{"all":true}"#),
    ];
    // A cache may look for a home for a while: all at once.
    for refusal in futures::future::join_all(requests.map(refused)).await {
        refusal.has_passed();
    }
}
