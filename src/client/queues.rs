//! Queues from elsewhere: the calls about them, and one queue with typed answers.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use super::{
    Call, Client, ClientError, ServerEvent, ServerEvents,
    calls::{ANSWER_TIMEOUT, encode},
};
use crate::{
    api::{
        problem::Problem,
        queue_bodies::{
            Encoding, MessageBody, MessageList, PublishedBody, PublishedList, PurgedBody, QueueBody, QueueConfigBody,
            QueueList, ReceiptsAnswer, RedrivenBody,
        },
    },
    error::{Error, Outcome},
    ids::{PartitionId, QueueName},
    node::queues::{Consume, Publish, QueueSettings, Receive},
};

fn queue_path(queue: &QueueName, action: &str) -> String {
    format!("/v1/queues/{}{action}", encode(queue.as_str()))
}

/// One message of a batch, as API.md words it.
#[derive(Serialize)]
struct BatchMessage<'a> {
    body: Cow<'a, str>,
    encoding: Encoding,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    delay_ms: u64,
    priority: u8,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Batch<'a> {
    messages: Vec<BatchMessage<'a>>,
}

impl<'a> BatchMessage<'a> {
    fn of(message: &'a Publish) -> Self {
        let (body, encoding) = match std::str::from_utf8(&message.body) {
            Ok(text) => (Cow::Borrowed(text), Encoding::Utf8),
            Err(_) => (Cow::Owned(STANDARD.encode(&message.body)), Encoding::Base64),
        };
        Self {
            body,
            encoding,
            content_type: message.content_type.as_deref(),
            id: message.id.as_ref().map(|id| id.as_str()),
            delay_ms: message.delay_ms,
            priority: message.priority,
            attributes: &message.attributes,
        }
    }
}

/// Whether a header brings this text across as it is.
fn fits_a_header(text: &str) -> bool {
    text.trim() == text && !text.chars().any(char::is_control)
}

impl Call {
    /// `PUT /v1/queues/{q}`.
    pub fn configure_queue(queue: &QueueName, settings: &QueueSettings) -> Self {
        let settings = serde_json::to_value(settings).expect("settings are a plain struct");
        Self::new(Method::PUT, queue_path(queue, "")).with_body(settings)
    }

    /// `POST /v1/queues/{q}/messages`, which has no room for attributes; see [`Call::publish_batch`].
    pub fn publish(queue: &QueueName, message: &Publish) -> Self {
        Self::post(queue_path(queue, "/messages"))
            .with_header("content-type", message.content_type.as_deref())
            .with_header("x-message-id", message.id.as_ref())
            .with_header("x-delay-ms", Some(message.delay_ms))
            .with_header("x-priority", Some(message.priority))
            .with_bytes(message.body.clone())
    }

    /// `POST /v1/queues/{q}/messages:batch`.
    pub fn publish_batch(queue: &QueueName, messages: &[Publish]) -> Self {
        let batch = Batch { messages: messages.iter().map(BatchMessage::of).collect() };
        let body = serde_json::to_vec(&batch).expect("a batch is a plain struct with string keys");
        Self::post(queue_path(queue, "/messages:batch"))
            .with_header("content-type", Some("application/json"))
            .with_bytes(Bytes::from(body))
    }

    /// `POST /v1/queues/{q}/receive`.
    pub fn receive(queue: &QueueName, receive: &Receive) -> Self {
        Self::post(queue_path(queue, "/receive"))
            .with_body(json!({
                "max": receive.max, "wait_ms": receive.wait_ms, "visibility_ms": receive.visibility_ms,
            }))
            .with_timeout(Duration::from_millis(receive.wait_ms).saturating_add(ANSWER_TIMEOUT))
    }

    /// `GET /v1/queues/{q}/consume`, for [`Client::events`].
    pub fn consume(queue: &QueueName, consume: &Consume) -> Self {
        let prefetch = consume.prefetch.to_string();
        let visibility = consume.visibility_ms.map(|ms| format!("{ms}ms"));
        Self::get(queue_path(queue, "/consume"))
            .with_query(&[("prefetch", Some(&prefetch)), ("visibility", visibility.as_deref())])
    }

    /// `POST /v1/queues/{q}/ack`.
    pub fn ack(queue: &QueueName, receipts: &[String]) -> Self {
        Self::post(queue_path(queue, "/ack")).with_body(json!({"receipts": receipts}))
    }

    /// `POST /v1/queues/{q}/nack`.
    pub fn nack(queue: &QueueName, receipts: &[String], delay_ms: Option<u64>) -> Self {
        let body = json!({"receipts": receipts, "delay_ms": delay_ms});
        Self::post(queue_path(queue, "/nack")).with_body(body)
    }

    /// `POST /v1/queues/{q}/extend`.
    pub fn extend(queue: &QueueName, receipts: &[String], visibility_ms: Option<u64>) -> Self {
        let body = json!({"receipts": receipts, "visibility_ms": visibility_ms});
        Self::post(queue_path(queue, "/extend")).with_body(body)
    }

    /// `GET /v1/queues`.
    pub fn queues(prefix: Option<&str>, after: Option<&str>) -> Self {
        Self::get("/v1/queues").with_query(&[("prefix", prefix), ("after", after)])
    }

    /// `GET /v1/queues/{q}`.
    pub fn show_queue(queue: &QueueName) -> Self {
        Self::get(queue_path(queue, ""))
    }

    /// `GET /v1/queues/{q}/peek`.
    pub fn peek(queue: &QueueName, max: u32) -> Self {
        Self::get(queue_path(queue, "/peek")).with_query(&[("max", Some(&max.to_string()))])
    }

    /// `POST /v1/queues/{q}/purge`.
    pub fn purge(queue: &QueueName) -> Self {
        Self::post(queue_path(queue, "/purge"))
    }

    /// `POST /v1/queues/{q}/redrive`.
    pub fn redrive(queue: &QueueName) -> Self {
        Self::post(queue_path(queue, "/redrive"))
    }

    /// `DELETE /v1/queues/{q}`.
    pub fn delete_queue(queue: &QueueName) -> Self {
        Self::new(Method::DELETE, queue_path(queue, ""))
    }

    /// `POST /v1/queues:recover`: what only the lost journals of the partition held is gone then.
    pub fn recover_partition(partition: PartitionId) -> Self {
        Self::post("/v1/queues:recover").with_body(json!({"partition": partition.0, "accept_loss": true}))
    }
}

/// One queue, through a node elsewhere. Cheap to clone. Nothing is repeated by itself: a publish whose
/// outcome is unknown can be, under the message id that the error names.
#[derive(Clone, Debug)]
pub struct RemoteQueue {
    client: Client,
    name: QueueName,
}

impl Client {
    /// One queue.
    pub fn queue(&self, name: QueueName) -> RemoteQueue {
        RemoteQueue { client: self.clone(), name }
    }

    /// One page of the queues.
    ///
    /// # Errors
    /// As [`Client::json`], here and below.
    pub async fn queues(&self, prefix: Option<&str>, after: Option<&str>) -> Result<QueueList, ClientError> {
        self.json(&Call::queues(prefix, after)).await
    }

    /// Has a partition whose journal is lost served again, with what is left of it.
    pub async fn recover_partition(&self, partition: PartitionId) -> Result<(), ClientError> {
        self.text(&Call::recover_partition(partition)).await.map(drop)
    }
}

impl RemoteQueue {
    /// Its name.
    pub fn name(&self) -> &QueueName {
        &self.name
    }

    /// Replaces its configuration, whole; makes it where there is none.
    ///
    /// # Errors
    /// As [`Client::json`], here and below.
    pub async fn configure(&self, settings: &QueueSettings) -> Result<QueueConfigBody, ClientError> {
        self.client.json(&Call::configure_queue(&self.name, settings)).await
    }

    /// Publishes one message.
    pub async fn publish(&self, message: &Publish) -> Result<PublishedBody, ClientError> {
        let texts = message.content_type.as_deref().into_iter().chain(message.id.as_ref().map(|id| id.as_str()));
        if message.attributes.is_empty() && texts.into_iter().all(fits_a_header) {
            return self.client.json(&Call::publish(&self.name, message)).await;
        }
        let mut results = self.publish_all(std::slice::from_ref(message)).await?;
        results.pop().ok_or_else(|| Error::internal("a publish of one message was answered without one").into())
    }

    /// Publishes 1 to 1,000 messages, all or none.
    pub async fn publish_all(&self, messages: &[Publish]) -> Result<Vec<PublishedBody>, ClientError> {
        let list: PublishedList = self.client.json(&Call::publish_batch(&self.name, messages)).await?;
        Ok(list.results)
    }

    /// Receives messages; empty when there are none.
    pub async fn receive(&self, receive: &Receive) -> Result<Vec<MessageBody>, ClientError> {
        let list: MessageList = self.client.json(&Call::receive(&self.name, receive)).await?;
        Ok(list.messages)
    }

    /// Messages as they come.
    pub async fn consume(&self, consume: &Consume) -> Result<RemoteDeliveries, ClientError> {
        let events = self.client.events(&Call::consume(&self.name, consume)).await?;
        Ok(RemoteDeliveries { events })
    }

    /// Consumes deliveries for good.
    pub async fn ack(&self, receipts: &[String]) -> Result<ReceiptsAnswer, ClientError> {
        self.client.json(&Call::ack(&self.name, receipts)).await
    }

    /// Gives deliveries back, to be delivered again after `delay`, or after a back-off.
    pub async fn nack(&self, receipts: &[String], delay: Option<Duration>) -> Result<ReceiptsAnswer, ClientError> {
        self.client.json(&Call::nack(&self.name, receipts, delay.map(crate::time::millis))).await
    }

    /// Starts the visibility of deliveries anew, for so long or as configured.
    pub async fn extend(
        &self,
        receipts: &[String],
        visibility: Option<Duration>,
    ) -> Result<ReceiptsAnswer, ClientError> {
        self.client.json(&Call::extend(&self.name, receipts, visibility.map(crate::time::millis))).await
    }

    /// Its configuration, its figures, and who keeps it.
    pub async fn show(&self) -> Result<QueueBody, ClientError> {
        self.client.json(&Call::show_queue(&self.name)).await
    }

    /// The next messages, without leasing them.
    pub async fn peek(&self, max: u32) -> Result<Vec<MessageBody>, ClientError> {
        let list: MessageList = self.client.json(&Call::peek(&self.name, max)).await?;
        Ok(list.messages)
    }

    /// Drops all messages; how many.
    pub async fn purge(&self) -> Result<u64, ClientError> {
        let body: PurgedBody = self.client.json(&Call::purge(&self.name)).await?;
        Ok(body.purged)
    }

    /// Sends its dead letters back to it; how many.
    pub async fn redrive(&self) -> Result<u64, ClientError> {
        let body: RedrivenBody = self.client.json(&Call::redrive(&self.name)).await?;
        Ok(body.redriven)
    }

    /// Deletes it with all that is in it.
    pub async fn delete(&self) -> Result<(), ClientError> {
        self.client.text(&Call::delete_queue(&self.name)).await.map(drop)
    }
}

/// Messages as they come. Drop it to stop: what was delivered stays so until its visibility is over.
#[derive(Debug)]
pub struct RemoteDeliveries {
    events: ServerEvents,
}

impl RemoteDeliveries {
    /// The next message; `None` when the node has ended the stream. Safe to cancel.
    ///
    /// # Errors
    /// `unavailable` when the connection breaks or falls silent; what the node says ended the stream.
    pub async fn next(&mut self) -> Result<Option<MessageBody>, ClientError> {
        match self.events.next().await? {
            Some(event) => event.message().map(Some),
            None => Ok(None),
        }
    }
}

impl ServerEvent {
    /// The message that an event of a consumer's stream brings.
    ///
    /// # Errors
    /// What the node says ended the stream; `internal` for an event of another shape.
    pub fn message(&self) -> Result<MessageBody, ClientError> {
        if self.event == "error" {
            let problem = serde_json::from_str::<Problem>(&self.data);
            let error = problem.map_or_else(
                |_| Error::unavailable(Outcome::NotApplied, format!("the stream of messages ended: {}", self.data)),
                Error::from,
            );
            return Err(error.into());
        }
        serde_json::from_str(&self.data)
            .map_err(|error| Error::internal(format!("a message has another shape: {error}")).into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{client::calls::Payload, error::ErrorCode, ids::MessageId};

    fn queue() -> QueueName {
        QueueName::new("a/b").unwrap()
    }

    #[test]
    fn a_message_travels_as_it_is_and_what_is_said_of_it_in_headers() {
        let message = Publish { id: Some(MessageId::new("m 1").unwrap()), priority: 9, ..Publish::new("x\0y") };
        let call = Call::publish(&queue(), &message);
        assert_eq!(call.path, "/v1/queues/a%2Fb/messages");
        assert_eq!(call.body, Some(Payload::Raw("x\0y".into())));
        let headers = [("x-message-id", "m 1"), ("x-delay-ms", "0"), ("x-priority", "9")];
        assert_eq!(call.headers, headers.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn what_no_header_can_carry_travels_in_a_batch() {
        assert!(fits_a_header("zwölf und 1") && !fits_a_header(" a") && !fits_a_header("a\nb"));
        let Some(Payload::Raw(body)) =
            Call::publish_batch(&queue(), &[Publish::new("é"), Publish::new(vec![0xff])]).body
        else {
            panic!("a batch has a body")
        };
        let body: Value = serde_json::from_slice(&body).unwrap();
        let message = |body, encoding| json!({"body": body, "encoding": encoding, "delay_ms": 0, "priority": 4});
        assert_eq!(body, json!({"messages": [message("é", "utf-8"), message("/w==", "base64")]}));
    }

    #[test]
    fn an_error_in_the_stream_is_the_problem_that_ended_it() {
        let data = r#"{"type":"not-found","title":"t","status":404,"detail":"gone"}"#;
        let event = |event: &str, data: &str| ServerEvent { event: event.into(), id: None, data: data.into() };
        assert_eq!(event("error", data).message().unwrap_err().error.code, ErrorCode::NotFound);
        assert_eq!(event("error", "?").message().unwrap_err().error.code, ErrorCode::Unavailable);
        assert_eq!(event("message", "{}").message().unwrap_err().error.code, ErrorCode::Internal);
    }
}
