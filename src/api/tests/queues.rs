//! What the edge refuses about queues, and how.

use super::*;

fn of_length(length: usize, item: &str) -> String {
    vec![item; length].join(",")
}

#[tokio::test]
async fn bodies_about_queues_are_checked_field_by_field() {
    let edge = open_edge().await;
    let too_many_receipts = format!(r#"{{"receipts":[{}]}}"#, of_length(1001, r#""r""#));
    let too_many_messages = format!(r#"{{"messages":[{}]}}"#, of_length(1001, r#"{"body":""}"#));
    let many_attributes = (0..65).map(|nth| format!(r#""{nth}":"""#)).collect::<Vec<_>>().join(",");
    let many_attributes = format!(r#"{{"messages":[{{"body":"","attributes":{{{many_attributes}}}}}]}}"#);
    let cases = [
        ("receive", r#"{"max":0}"#, "max"),
        ("receive", r#"{"max":1001}"#, "max"),
        ("receive", r#"{"max":"1"}"#, "max"),
        ("receive", r#"{"wait_ms":60001}"#, "wait_ms"),
        ("receive", r#"{"visibility_ms":43200001}"#, "visibility_ms"),
        ("receive", r#"{"visibility":5}"#, "visibility"),
        ("receive", "[]", "body"),
        ("ack", "{}", "receipts"),
        ("ack", r#"{"receipts":"r"}"#, "receipts"),
        ("ack", r#"{"receipts":[]}"#, "receipts"),
        ("ack", r#"{"receipts":["r",5]}"#, "receipts[1]"),
        ("ack", &too_many_receipts, "receipts"),
        ("nack", r#"{"receipts":["r"],"delay_ms":604800001}"#, "delay_ms"),
        ("nack", r#"{"receipts":["r"],"delay_ms":-1}"#, "delay_ms"),
        ("extend", r#"{"receipts":["r"],"visibility_ms":43200001}"#, "visibility_ms"),
        ("extend", r#"{"receipts":["r"],"ttl":1}"#, "ttl"),
        ("purge", r#"{"really":true}"#, "really"),
        ("redrive", r#"{"max":1}"#, "max"),
        ("messages:batch", "{}", "messages"),
        ("messages:batch", r#"{"messages":[]}"#, "messages"),
        ("messages:batch", &too_many_messages, "messages"),
        ("messages:batch", r#"{"messages":[{}]}"#, "messages[0].body"),
        ("messages:batch", r#"{"messages":[{"body":5}]}"#, "messages[0].body"),
        ("messages:batch", r#"{"messages":[{"body":"a"},{"body":"%","encoding":"base64"}]}"#, "messages[1].body"),
        ("messages:batch", r#"{"messages":[{"body":"AA","encoding":"base64"}]}"#, "messages[0].body"),
        ("messages:batch", r#"{"messages":[{"body":"","encoding":"hex"}]}"#, "messages[0].encoding"),
        ("messages:batch", r#"{"messages":[{"body":"","id":""}]}"#, "messages[0].id"),
        ("messages:batch", r#"{"messages":[{"body":"","delay_ms":604800001}]}"#, "messages[0].delay_ms"),
        ("messages:batch", r#"{"messages":[{"body":"","priority":10}]}"#, "messages[0].priority"),
        ("messages:batch", r#"{"messages":[{"body":"","attributes":{"a":1}}]}"#, "messages[0].attributes.a"),
        ("messages:batch", r#"{"messages":[{"body":"","attributes":[]}]}"#, "messages[0].attributes"),
        ("messages:batch", &many_attributes, "messages[0].attributes"),
        ("messages:batch", r#"{"messages":[{"body":"","receipt":""}]}"#, "messages[0].receipt"),
        ("messages:batch", r#"{"messages":[{"body":""}],"id":""}"#, "id"),
    ];
    for (action, body, field) in cases {
        edge.post(&format!("/v1/queues/q/{action}"), body).await.is("bad-request", field);
    }
    for (body, field) in [
        (r#"{"retention_s":0}"#, "retention_s"),
        (r#"{"visibility_ms":43200001}"#, "visibility_ms"),
        (r#"{"max_deliveries":0}"#, "max_deliveries"),
        (r#"{"max_deliveries":4294967296}"#, "max_deliveries"),
        (r#"{"dead_letter":".."}"#, "dead_letter"),
        (r#"{"dead_letter":"q"}"#, "dead_letter"),
        (r#"{"on_expiry":"Drop"}"#, "on_expiry"),
        (r#"{"max_messages":0}"#, "max_messages"),
        (r#"{"max_bytes":-5}"#, "max_bytes"),
        (r#"{"dedup_window_s":1.5}"#, "dedup_window_s"),
        (r#"{"queue":"q"}"#, "queue"),
    ] {
        edge.put("/v1/queues/q", body).await.is("bad-request", field);
    }
    for (body, field) in [
        ("{}", "partition"),
        (r#"{"partition":1}"#, "accept_loss"),
        (r#"{"partition":1,"accept_loss":false}"#, "accept_loss"),
        (r#"{"partition":"1","accept_loss":true}"#, "partition"),
    ] {
        edge.post("/v1/queues:recover", body).await.is("bad-request", field);
    }
}

#[tokio::test]
async fn what_describes_a_message_is_checked_header_by_header() {
    let edge = open_edge().await;
    let long = "x".repeat(513);
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("x-priority", "10")], "X-Priority"),
        (&[("x-priority", "-1")], "X-Priority"),
        (&[("x-priority", "")], "X-Priority"),
        (&[("x-priority", "high")], "X-Priority"),
        (&[("x-delay-ms", "604800001")], "X-Delay-Ms"),
        (&[("x-delay-ms", "1.5")], "X-Delay-Ms"),
        (&[("x-delay-ms", "1"), ("x-delay-ms", "2")], "X-Delay-Ms"),
        (&[("x-message-id", "")], "X-Message-Id"),
        (&[("x-message-id", "..")], "X-Message-Id"),
        (&[("x-message-id", &long)], "X-Message-Id"),
        (&[("x-message-id", "a"), ("idempotency-key", "a")], "Idempotency-Key"),
        (&[("idempotency-key", "a b")], "Idempotency-Key"),
        (&[("idempotency-key", "..")], "Idempotency-Key"),
        (&[("content-type", &long)], "content-type"),
    ];
    for (headers, field) in cases {
        let mut request = edge.request(Method::POST, "/v1/queues/q/messages").body("x");
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        refused(request).await.is("bad-request", field);
    }
    edge.post("/v1/queues/q/messages?delay_ms=5", "x").await.is("bad-request", "delay_ms");
    let foreign = reqwest::header::HeaderValue::from_bytes(b"\xff").unwrap();
    let foreign = edge.request(Method::POST, "/v1/queues/q/messages").header("x-message-id", foreign);
    refused(foreign).await.is("bad-request", "X-Message-Id");
}

#[tokio::test]
async fn only_the_publish_of_one_message_takes_a_name_for_itself() {
    let edge = open_edge().await;
    for (method, path) in [
        (Method::PUT, "/v1/queues/q"),
        (Method::DELETE, "/v1/queues/q"),
        (Method::POST, "/v1/queues/q/messages:batch"),
        (Method::POST, "/v1/queues/q/receive"),
        (Method::POST, "/v1/queues/q/ack"),
        (Method::POST, "/v1/queues/q/nack"),
        (Method::POST, "/v1/queues/q/extend"),
        (Method::POST, "/v1/queues/q/purge"),
        (Method::POST, "/v1/queues/q/redrive"),
        (Method::POST, "/v1/queues:recover"),
        (Method::GET, "/v1/queues"),
        (Method::GET, "/v1/queues/q"),
        (Method::GET, "/v1/queues/q/peek"),
        (Method::GET, "/v1/queues/q/consume"),
    ] {
        let keyed = refused(edge.request(method, path).header("idempotency-key", "k"));
        keyed.await.is("bad-request", "Idempotency-Key");
    }
}

#[tokio::test]
async fn names_and_queries_of_queues_are_checked() {
    let edge = open_edge().await;
    for malformed in ["%ff", "%", "%zz", "a%2"] {
        edge.post(&format!("/v1/queues/{malformed}/receive"), "").await.is("bad-request", "q");
    }
    edge.post(&format!("/v1/queues/{}/receive", "n".repeat(513)), "").await.is("bad-request", "q");
    edge.post("/v1/queues//messages", "").await.is("bad-request", "q");
    edge.get("/v1/queues/").await.is("bad-request", "q");
    for dots in ["..", "%2e%2E", "."] {
        let request = format!("GET /v1/queues/{dots} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(edge.raw(request.as_bytes()).await.contains("'.' and '..' are not names"), "{dots}");
    }
    for (query, field) in [
        ("consume?prefetch=0", "prefetch"),
        ("consume?prefetch=1001", "prefetch"),
        ("consume?prefetch=x", "prefetch"),
        ("consume?visibility=30", "visibility"),
        ("consume?visibility=13h", "visibility"),
        ("consume?visibility=-1s", "visibility"),
        ("consume?visibility_ms=5", "visibility_ms"),
        ("peek?max=0", "max"),
        ("peek?max=1001", "max"),
        ("peek?max=1&max=2", "max"),
        ("peek?wait=1s", "wait"),
    ] {
        edge.get(&format!("/v1/queues/q/{query}")).await.is("bad-request", field);
    }
    for (query, field) in [("limit=0", "limit"), ("limit=1001", "limit"), ("after=..", "after"), ("all=1", "all")] {
        edge.get(&format!("/v1/queues?{query}")).await.is("bad-request", field);
    }
    edge.get("/v1/queues/q?verbose=1").await.is("bad-request", "verbose");
    edge.get("/v1/queues/q/messages").await.is("method-not-allowed", "");
    edge.post("/v1/queues/a/b/messages", "").await.is("not-found", "");
    edge.post("/v1/queues/q/messages%3Abatch", "").await.is("not-found", "");
}

#[tokio::test]
async fn bodies_over_the_limits_are_refused_with_the_limit() {
    let settings = ApiSettings { max_value_bytes: 100, max_batch_bytes: 1000, ..ApiSettings::default() };
    let edge = edge(settings).await;
    let refusal = edge.post("/v1/queues/q/messages", &"x".repeat(101)).await;
    refusal.is("payload-too-large", "");
    assert_eq!(refusal.problem["limit"], 100);
    let chunks = futures::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 65_536])));
    let chunked = edge.request(Method::POST, "/v1/queues/q/messages").body(reqwest::Body::wrap_stream(chunks));
    refused(chunked).await.is("payload-too-large", "");
    let batch = format!(r#"{{"messages":[{{"body":"{}"}}]}}"#, "x".repeat(1000));
    let refusal = edge.post("/v1/queues/q/messages:batch", &batch).await;
    refusal.is("payload-too-large", "");
    assert_eq!(refusal.problem["limit"], 1000);
    let refusal = edge.post("/v1/queues/q/receive", &"x".repeat(MAX_JSON_BYTES + 1)).await;
    refusal.is("payload-too-large", "");
    assert_eq!(refusal.problem["limit"], MAX_JSON_BYTES);
}

#[tokio::test]
async fn a_message_may_be_anything_and_as_long_as_the_limit() {
    let edge = edge(ApiSettings { max_value_bytes: 100, ..ApiSettings::default() }).await;
    let longest = "%2F".repeat(512);
    let publish = edge
        .request(Method::POST, &format!("/v1/queues/{longest}/messages"))
        .header("content-type", "multipart/anything; boundary=x")
        .header("x-message-id", reqwest::header::HeaderValue::from_bytes("é".repeat(256).as_bytes()).unwrap())
        .header("x-delay-ms", "604800000")
        .header("x-priority", "9")
        .body(vec![0xff; 100]);
    refused(publish).await.is(PASSED, "");
    let keyed = edge.request(Method::POST, "/v1/queues/q/messages").header("idempotency-key", "k".repeat(255));
    refused(keyed).await.is(PASSED, "");
}
