//! The page at `/`, as it leaves the edge. What it does in a browser: `tests/dashboard`.

use super::*;

#[tokio::test]
async fn the_dashboard_is_served_without_a_token_and_strictly() {
    let edge = edge(ApiSettings { token: Some(Secret::new("s3cret")), ..ApiSettings::default() }).await;
    let page = edge.request(Method::GET, "/").send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let headers = page.headers().clone();
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    let policy = headers["content-security-policy"].to_str().unwrap();
    for directive in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(directive), "{policy}");
    }
    let text = page.text().await.unwrap();
    assert!(text.starts_with("<!doctype html>") && !text.contains("s3cret"), "{}", &text[..200]);
    assert_eq!(edge.get("/v1/cluster").await.slug(), "unauthorized");
}

#[tokio::test]
async fn a_browser_that_has_the_page_is_told_so() {
    let edge = open_edge().await;
    let tag = edge.request(Method::GET, "/").send().await.unwrap().headers()["etag"].clone();
    let tag = tag.to_str().unwrap();
    for (given, status) in [(tag.to_owned(), 304), (format!("\"x\", W/{tag}"), 304), ("\"x\"".into(), 200)] {
        let answer = edge.request(Method::GET, "/").header("if-none-match", &given).send().await.unwrap();
        assert_eq!(answer.status(), status, "{given}");
        assert_eq!(answer.headers()["etag"], tag);
        assert_eq!(answer.text().await.unwrap().is_empty(), status == 304);
    }
    let head = edge.request(Method::HEAD, "/").send().await.unwrap();
    assert_eq!((head.status(), &head.headers()["etag"]), (StatusCode::OK, &tag.parse().unwrap()));
}

#[tokio::test]
async fn how_many_recent_events_to_begin_with_is_checked() {
    let edge = open_edge().await;
    for wrong in ["0", "1001", "-1", "many", ""] {
        edge.get(&format!("/v1/events?recent={wrong}")).await.is("bad-request", "recent");
    }
    edge.get("/v1/events?recents=5").await.is("bad-request", "recents");
    let stream = edge.request(Method::GET, "/v1/events?recent=5").send().await.unwrap();
    assert_eq!(stream.status(), StatusCode::OK);
    edge.shutdown.cancel();
    let text = stream.text().await.unwrap();
    assert!(!text.contains("event: reset"), "{text}");
}
