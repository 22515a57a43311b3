//! The dashboard in a real browser, over clusters of real processes.
//!
//! A Chromium without a window opens the page of one node; what it shows is compared with what is done at the others
//! over HTTP. Without `chromium` and `chromedriver` the tests are skipped with a line that says so; with `REQUIRE_ALL=1`
//! that is a failure. `DASHBOARD_PICTURES=DIR` keeps pictures of what was seen.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and prints what it measured")]

#[allow(dead_code, reason = "the tests of clusters use the rest")]
#[path = "../cluster/ask.rs"]
mod ask;
mod browser;
#[allow(dead_code, reason = "the tests of clusters use the rest")]
#[path = "../cluster/harness.rs"]
mod harness;

use std::time::{Duration, Instant};

use browser::{Browser, ENTER, ESCAPE, TAB};
use harness::{Cluster, eventually, holds};
use reqwest::Method;
use serde_json::{Value, json};

/// How soon something that was done elsewhere is to be seen, at least once in so many times: the page asks every second, and a
/// node that is busy may refuse.
const SOON: Duration = Duration::from_secs(2);
const TIMES: usize = 5;

/// The verdict that a healthy cluster gets.
const WELL: &str = "All is well";

/// Whether a complaint of the browser is about the page. A node that is overloaded refuses for a moment, and other
/// programs on the machine make and remove networks.
fn is_of_the_page(complaint: &&String) -> bool {
    !["status of 503", "ERR_NETWORK_CHANGED"].iter().any(|other| complaint.contains(other))
}

/// What the page complained about that is its own fault.
async fn faults(browser: &Browser) -> Vec<String> {
    browser.complaints().await.iter().filter(is_of_the_page).cloned().collect()
}

/// How much wider than the window the page is.
async fn overflow(browser: &Browser) -> Value {
    browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth").await
}

/// Presses the tabulator until a place has the focus.
async fn tab_to(browser: &Browser, selector: &str) {
    let focused = format!("return document.activeElement.matches({})", json!(selector));
    for _ in 0..60 {
        if browser.run(&focused).await == true {
            return;
        }
        browser.press(&[TAB]).await;
    }
    panic!("60 steps of the keyboard do not lead to {selector}");
}

fn percent_encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_elsewhere_is_seen_at_once() {
    let Some(browser) = Browser::start().await else { return };
    let cluster = Cluster::of(3).await;
    let (page, elsewhere) = (&cluster.nodes[0].api.url, &cluster.nodes[1].api);
    browser.resize(1440, 1000).await;
    browser.open(&format!("{page}/")).await;
    browser.shows("#verdict-text", WELL).await;
    browser.shows("#tile-members", "3 of 3").await;
    browser.shows("#events-list", "member-up").await;
    let drawn = "return document.querySelectorAll('#mesh-picture circle.body').length";
    assert_eq!(browser.run(drawn).await, 3, "each member is in the picture");
    browser.shows("#mesh-picture", " ms").await;

    let mut soonest = Duration::MAX;
    for _ in 0..TIMES {
        let session = elsewhere.grant("taken-elsewhere").await.session;
        let taken = Instant::now();
        browser.shows("#locks-rows", "taken-elsewhere").await;
        soonest = soonest.min(taken.elapsed());
        browser.shows("#tile-locks", "1 held").await;
        elsewhere.release("taken-elsewhere", &session).await.ok();
        browser.shows("#locks-empty", "No lock is held").await;
        if soonest < SOON {
            break;
        }
    }
    println!("a lock taken elsewhere is seen after {soonest:?}");
    assert!(soonest < SOON, "a lock taken elsewhere is seen after {soonest:?} at the soonest");

    for nth in 0..40 {
        let answer = elsewhere.post("/v1/queues/filling/messages", json!({ "nth": nth })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let published = Instant::now();
    browser.shows("#queues-rows", "filling").await;
    browser.shows("#queues-rows td[data-label=Ready]", "40").await;
    println!("a queue that fills is seen after {:?}", published.elapsed());
    let curve = "return document.querySelector('#queues-rows .curve.in').getAttribute('d').length > 20";
    eventually("the queue has a curve", async || holds(browser.run(curve).await == true, "not yet")).await;

    browser.shows("#calls-rows", "client").await;
    browser.picture("light").await;
    browser.prefer("dark").await;
    let ground = browser.run("return getComputedStyle(document.body).backgroundColor").await;
    let parts: Vec<u32> = ground.as_str().unwrap().split(|c: char| !c.is_ascii_digit()).flat_map(str::parse).collect();
    assert!(parts.iter().all(|part| *part < 64), "the dark scheme has the ground {ground}");
    browser.picture("dark").await;
    browser.prefer("light").await;
    for width in [360, 700, 1024] {
        browser.resize(width, 760).await;
        assert_eq!(overflow(&browser).await, 0, "the page is wider than {width} pixels");
        browser.picture(&format!("{width}")).await;
    }

    assert_eq!(faults(&browser).await, [""; 0]);
    let requests = browser.requests().await;
    let foreign: Vec<_> = requests.iter().filter(|url| !url.starts_with(page) && !url.starts_with("data:")).collect();
    assert!(requests.len() > 5 && foreign.is_empty(), "the page asked {foreign:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_broken_by_keyboard_and_only_once_confirmed() {
    /// Markup to whoever reads it as that, from right to left, and long.
    const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\">\u{202e}\u{0}</td><script>alert(1)</script>";
    let Some(browser) = Browser::start().await else { return };
    let cluster = Cluster::of(1).await;
    let api = &cluster.nodes[0].api;
    browser.resize(1280, 900).await;
    browser.open(&format!("{}/", api.url)).await;

    let path = format!("/v1/locks/{}", percent_encoded(HOSTILE));
    let owner = "<b onclick=alert(2)>mallory</b>";
    let wanted = json!({"ttl_ms": 600_000, "owner": owner});
    let first = api.post(&format!("{path}/acquire"), wanted.clone()).await.ok();
    let name = "return document.querySelector('#locks-rows th bdi')?.textContent";
    let legible = HOSTILE.replace('\u{202e}', "\\u{202e}").replace('\u{0}', "\\u{0}");
    eventually("the name is shown letter by letter", async || {
        let shown = browser.run(name).await;
        holds(shown == legible, shown)
    })
    .await;
    browser.shows("#locks-rows", owner).await;
    let made = "return document.querySelectorAll('main img, main b[onclick], td script, th script').length";
    assert_eq!(browser.run(made).await, 0, "a name became an element");

    // Somebody waits: who, is shown too.
    let next = tokio::spawn({
        let (api, path) = (api.clone(), path.clone());
        async move {
            api.post(&format!("{path}/acquire"), json!({"ttl_ms": 600_000, "owner": "next", "wait_ms": 60_000})).await
        }
    });
    browser.shows("#locks-rows", "next\u{2069} for").await;

    // Escape is a no, and gives the focus back.
    tab_to(&browser, "#locks-rows button").await;
    browser.press(&[ENTER]).await;
    browser.shows("dialog[open] #break-what", "mallory").await;
    browser.picture("break").await;
    assert_eq!(browser.text("#break-name").await, legible);
    browser.press(&[ESCAPE]).await;
    let closed =
        "return !document.querySelector('dialog').open && document.activeElement.matches('#locks-rows button')";
    eventually("the focus is back", async || holds(browser.run(closed).await == true, "not yet")).await;
    // So is Enter, at first: the safe button has the focus.
    browser.press(&[ENTER]).await;
    browser.shows("dialog[open] #break-what", "mallory").await;
    browser.press(&[ENTER]).await;
    eventually("it is closed", async || holds(browser.run(closed).await == true, "not yet")).await;
    assert_eq!(api.get(&path).await.ok()["holders"][0]["session"], first["session"], "nothing was confirmed");

    browser.press(&[ENTER]).await;
    tab_to(&browser, "#break-yes").await;
    browser.press(&[ENTER]).await;
    let second = next.await.unwrap().ok();
    assert_eq!(api.get(&path).await.ok()["holders"][0]["session"], second["session"]);
    browser.shows("#locks-done", "taken from").await;
    browser.shows("#locks-rows", "next").await;
    assert_eq!(faults(&browser).await, [""; 0]);
    assert_eq!(browser.run("return document.title.includes('owned')").await, false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_is_shown_and_so_is_the_silence_of_the_one_that_is_asked() {
    let Some(browser) = Browser::start().await else { return };
    let mut cluster = Cluster::of(3).await;
    let page = cluster.nodes[0].api.url.clone();
    browser.resize(1440, 1000).await;
    browser.open(&format!("{page}/")).await;
    browser.shows("#verdict-text", WELL).await;

    let killed = cluster.nodes[2].peer_id();
    cluster.nodes[2].kill();
    let began = Instant::now();
    browser.shows("#warnings", "member-down").await;
    browser.shows("#tile-members", "2 of 3").await;
    println!("a node that was killed is shown after {:?}", began.elapsed());
    let row = format!(
        "return [...document.querySelectorAll('#members-rows tr')].find((row) => row.innerText.includes('{killed}'))?.innerText"
    );
    let row = browser.run(&row).await;
    assert!(row.as_str().unwrap_or_default().contains("down"), "{row}");
    browser.shows("#mesh-picture .is-down", "down").await;
    browser.shows("#events-list", "member-down").await;
    browser.picture("down").await;
    cluster.nodes[2].start().await;
    browser.shows("#verdict-text", WELL).await;

    cluster.nodes[0].kill();
    browser.shows("#away-since", "No answer from this node since").await;
    assert_eq!(browser.text("#standing").await, "no answer");
    browser.shows("#away-next", "What is shown is").await;
    browser.picture("away").await;
    // It comes back by itself; whoever cannot wait presses the button, which is gone once it is back.
    tab_to(&browser, "#try-now").await;
    cluster.nodes[0].start().await;
    browser.press(&[ENTER]).await;
    browser.shows("#standing", "live").await;
    browser.shows("#verdict-text", WELL).await;
    assert_eq!(browser.text("#away").await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_asked_for_and_kept_in_this_tab_only() {
    const SECRET: &str = "open-sesame-7";
    let Some(browser) = Browser::start().await else { return };
    let cluster = Cluster::with(1, &[("API_TOKEN", SECRET)]).await;
    let page = format!("{}/", cluster.nodes[0].api.url);
    browser.open(&page).await;
    browser.shows("#token-form", "This node wants its token").await;
    assert_eq!(browser.text("#board").await, "", "nothing is shown without it");
    assert_eq!(browser.text("#token-problem").await, "", "nobody has said a wrong one yet");
    browser.picture("token").await;

    browser.write("wrong").await;
    browser.press(&[ENTER]).await;
    browser.shows("#token-problem", "is not this node's API_TOKEN").await;
    browser.write(SECRET).await;
    browser.press(&[ENTER]).await;
    browser.shows("#tile-members", "1 of 1").await;
    browser.shows("#events-list", "member-up").await;
    assert_eq!(browser.text("#token-form").await, "");

    let elsewhere = "return JSON.stringify([location.href, document.cookie, Object.values(localStorage), document.documentElement.outerHTML])";
    let seen = browser.run(elsewhere).await;
    assert!(!seen.as_str().unwrap().contains(SECRET), "the token is where it should not be");
    let asked = browser.requests().await;
    assert!(asked.len() > 5 && asked.iter().all(|url| !url.contains(SECRET)), "{asked:?}");

    // The same tab still knows it, until it is told to forget.
    browser.open(&page).await;
    browser.shows("#tile-members", "1 of 1").await;
    tab_to(&browser, "#forget").await;
    browser.press(&[ENTER]).await;
    browser.shows("#token-form", "This node wants its token").await;
    assert_eq!(browser.run("return sessionStorage.length").await, 0);
    let answer = cluster.nodes[0].api.call(Method::GET, "/v1/node", None).await.unwrap();
    assert_eq!(answer.slug(), "unauthorized");
}
