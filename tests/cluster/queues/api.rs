//! What a client asks of queues over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use crate::ask::{Answer, Api};

/// The answer to a call of a node that may be dying.
type Outcome = Result<Answer, reqwest::Error>;

impl Api {
    /// Publishes a message that says its own id.
    pub(super) async fn publish(&self, queue: &str, id: &str) -> Outcome {
        let request = self.request(Method::POST, &format!("/v1/queues/{queue}/messages"));
        Self::send(request.header("x-message-id", id).body(id.to_owned())).await
    }

    pub(super) async fn receive(&self, queue: &str, max: usize, wait_ms: u64) -> Outcome {
        let body = json!({"max": max, "wait_ms": wait_ms});
        self.call(Method::POST, &format!("/v1/queues/{queue}/receive"), Some(body)).await
    }

    pub(super) async fn acknowledge(&self, queue: &str, receipts: &[&str]) -> Outcome {
        let body = json!({"receipts": receipts});
        self.call(Method::POST, &format!("/v1/queues/{queue}/ack"), Some(body)).await
    }

    /// Configures a queue at a node that runs.
    pub(super) async fn configure(&self, queue: &str, settings: Value) -> Answer {
        self.call(Method::PUT, &format!("/v1/queues/{queue}"), Some(settings)).await.unwrap()
    }

    /// The figures of a queue, from a node that runs.
    pub(super) async fn stats(&self, queue: &str) -> Answer {
        self.get(&format!("/v1/queues/{queue}")).await
    }
}
