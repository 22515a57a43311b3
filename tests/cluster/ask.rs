//! Asking a node: over HTTP, and with the commands.

use std::{
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// For an answer that the node itself bounds: reached only by one that does not answer at all.
const ANSWER: Duration = Duration::from_secs(30);
/// The term of a session that outlives its test.
pub(crate) const LONG_TTL_MS: u64 = 600_000;

/// One node's HTTP API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    http: reqwest::Client,
    pub(crate) url: String,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    /// When it was asked.
    pub(crate) asked: Instant,
    /// When it was answered.
    pub(crate) answered: Instant,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "was refused: {self:?}");
        self.body
    }

    /// The slug of a refusal.
    pub(crate) fn slug(&self) -> &str {
        self.body["type"].as_str().unwrap_or_default()
    }

    pub(crate) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn took(&self) -> Duration {
        self.answered - self.asked
    }
}

/// A lock that was granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Granted {
    pub(crate) session: String,
    pub(crate) token: u64,
}

impl From<Value> for Granted {
    fn from(body: Value) -> Self {
        Self {
            session: body["session"].as_str().unwrap().to_owned(),
            token: body["fencing_token"].as_u64().expect("a fencing token"),
        }
    }
}

impl Api {
    pub(crate) fn new(url: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().unwrap();
        Self { http, url: url.to_owned() }
    }

    /// A call that may find nobody there.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer, reqwest::Error> {
        let request = self.request(method, path);
        Self::send(if let Some(body) = &body { request.json(body) } else { request }).await
    }

    /// A call that is not made yet.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Makes a call.
    pub(crate) async fn send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let asked = Instant::now();
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body, asked, answered: Instant::now() })
    }

    /// A call of a node that runs.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    /// Acquires with a session of its own.
    pub(crate) async fn acquire(&self, lock: &str, wait_ms: u64, ttl_ms: u64) -> Answer {
        self.post(&format!("/v1/locks/{lock}/acquire"), json!({"wait_ms": wait_ms, "ttl_ms": ttl_ms})).await
    }

    /// Acquires what must be free, for longer than a test lasts. A machine under load may be without a leader for a moment.
    pub(crate) async fn grant(&self, lock: &str) -> Granted {
        let began = Instant::now();
        loop {
            let answer = self.acquire(lock, 0, LONG_TTL_MS).await;
            if answer.slug() != "no-quorum" || began.elapsed() > ANSWER {
                return answer.ok().into();
            }
        }
    }

    pub(crate) async fn release(&self, lock: &str, session: &str) -> Answer {
        self.post(&format!("/v1/locks/{lock}/release"), json!({"session": session})).await
    }

    pub(crate) async fn keep_alive(&self, session: &str) -> Answer {
        self.call(Method::POST, &format!("/v1/sessions/{session}/keepalive"), None).await.unwrap()
    }

    pub(crate) async fn show(&self, lock: &str) -> Answer {
        self.get(&format!("/v1/locks/{lock}")).await
    }

    /// The one holder of a lock.
    pub(crate) async fn holder(&self, lock: &str) -> Option<Granted> {
        let shown = self.show(lock).await;
        if shown.status == 404 {
            return None;
        }
        let holders = shown.ok()["holders"].as_array().unwrap().clone();
        assert!(holders.len() <= 1, "an exclusive lock has several holders: {holders:?}");
        holders.into_iter().next().map(Granted::from)
    }

    pub(crate) async fn cluster(&self) -> Value {
        self.get("/v1/cluster").await.ok()
    }
}

/// A command of the program, with none of the surroundings' settings.
pub(crate) fn syncmesh(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncmesh"));
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// What a command did.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// Runs a command to its end, off the asynchronous threads.
pub(crate) async fn run(mut command: Command) -> Done {
    let work = move || {
        let began = Instant::now();
        let output: Output = command.output().unwrap();
        Done {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: began.elapsed(),
        }
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}
