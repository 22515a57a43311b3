//! A real Chromium without a window, driven by `chromedriver` over the WebDriver protocol (W3C).

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{eventually, holds, skipped};

/// Where pictures of the page go, when somebody wants to look at it.
const PICTURES: &str = "DASHBOARD_PICTURES";
/// For an answer of the driver.
const ANSWER: Duration = Duration::from_secs(60);

/// Keys, as WebDriver names them.
pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";

/// A browser with one page, closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Browser {
    http: reqwest::Client,
    /// Of the driver.
    address: String,
    session: String,
    driver: Child,
    profile: TempDir,
}

impl Browser {
    /// Starts one; `None` where this machine has none.
    pub(crate) async fn start() -> Option<Self> {
        for (program, package) in [("chromium", "chromium"), ("chromedriver", "chromium-driver")] {
            if !is_installed(program) {
                let reason = format!("the dashboard in a browser: {program} is not installed ({package})");
                assert!(env::var_os("REQUIRE_ALL").is_none(), "{reason}");
                skipped(&reason);
                return None;
            }
        }
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{}", port_of(&mut driver));
        let profile = TempDir::new().unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().unwrap();
        let mut browser = Self { http, address, session: String::new(), driver, profile };
        let arguments = [
            "--headless=new".to_owned(),
            // Chromium has none for root, and /dev/shm is small in containers.
            "--no-sandbox".into(),
            "--disable-dev-shm-usage".into(),
            "--no-proxy-server".into(),
            format!("--user-data-dir={}", browser.profile.path().display()),
        ];
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let started = browser.call(Method::POST, "/session", json!({"capabilities": {"alwaysMatch": wanted}})).await;
        browser.session = format!("/session/{}", started["sessionId"].as_str().unwrap());
        Some(browser)
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("http://{}{path}", self.address);
        let answer = self.http.request(method, url).json(&body).send().await.unwrap();
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{path} {body}: {answer}");
        answer["value"].clone()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.call(Method::POST, &format!("{}{path}", self.session), body).await
    }

    /// A command of the DevTools protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    /// Opens a page.
    pub(crate) async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// What a script returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// The text that somebody sees at a place.
    pub(crate) async fn text(&self, selector: &str) -> String {
        // A picture has no inner text, and what is hidden has all of it.
        let script = format!(
            "const place = document.querySelector({});
             if (!place?.checkVisibility()) return '';
             return place instanceof SVGElement ? place.textContent : place.innerText;",
            json!(selector)
        );
        self.run(&script).await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the text at a place has this in it.
    pub(crate) async fn shows(&self, selector: &str, words: &str) {
        eventually(&format!("{selector} shows '{words}'"), async || {
            let text = self.text(selector).await;
            holds(text.contains(words), format!("it shows '{text}'"))
        })
        .await;
    }

    /// Presses keys, one after the other.
    pub(crate) async fn press(&self, keys: &[&str]) {
        let strokes = keys.iter().flat_map(|key| [("keyDown", key), ("keyUp", key)]);
        let strokes: Vec<_> = strokes.map(|(kind, key)| json!({"type": kind, "value": key})).collect();
        self.post("/actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})).await;
    }

    /// Types a text into what has the focus.
    pub(crate) async fn write(&self, text: &str) {
        let keys: Vec<String> = text.chars().map(String::from).collect();
        self.press(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// As if the screen were so large.
    pub(crate) async fn resize(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// As if the person preferred `light` or `dark`.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.devtools("Emulation.setEmulatedMedia", json!({"features": [feature]})).await;
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        self.post("/se/log", json!({"type": kind})).await.as_array().unwrap().clone()
    }

    /// What the console has been told since it was asked last, warnings and errors.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let entries = self.log("browser").await;
        let bad = entries.iter().filter(|entry| ["WARNING", "SEVERE"].contains(&entry["level"].as_str().unwrap()));
        bad.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// What the page has asked for since it was asked last: URLs.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let mut urls = Vec::new();
        for entry in self.log("performance").await {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let event = &event["message"];
            // The browser shows a page of its own before it is told where to go.
            let is_its_own = event["params"]["documentURL"].as_str().is_some_and(|url| url.starts_with("chrome://"));
            if event["method"] == "Network.requestWillBeSent" && !is_its_own {
                urls.push(event["params"]["request"]["url"].as_str().unwrap().to_owned());
            }
        }
        urls
    }

    /// Keeps a picture of the page, where somebody asked for pictures.
    pub(crate) async fn picture(&self, name: &str) {
        let Some(directory) = env::var_os(PICTURES) else { return };
        let taken = self.devtools("Page.captureScreenshot", json!({"format": "png"})).await;
        let png = STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with its session; a driver that is killed leaves it behind.
        if let (Ok(mut driver), false) = (TcpStream::connect(&self.address), self.session.is_empty()) {
            let _ = driver.set_read_timeout(Some(Duration::from_secs(10)));
            let request =
                format!("DELETE {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.session, self.address);
            let _ = driver.write_all(request.as_bytes());
            let _ = driver.read(&mut [0; 64]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}

/// The port that the driver has taken, from what it prints once it listens.
fn port_of(driver: &mut Child) -> u16 {
    const SAYS: &str = "started successfully on port ";
    let lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut told = lines.filter_map(|line| Some(line.split_once(SAYS)?.1.trim_end_matches('.').parse().unwrap()));
    told.next().expect("the driver ended before it listened")
}
