//! `queue consume`: writes messages to stdout and acknowledges what is written.
//!
//! One task writes, another acknowledges: what is written while a call is under way goes together with the next.
//! Ctrl-C ends it once what is written is acknowledged.

use std::time::{Duration, Instant};

use clap::Args;
use tokio::{sync::mpsc, task::JoinError, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    api::queue_bodies::{Encoding, MessageBody, ReceiptsAnswer},
    cli::{
        Context, Failure,
        output::{Format, Output, one_line, to_a_terminal},
        remote::{Remote, with_event},
    },
    client::{Call, ClientError, RemoteQueue, ServerEvent},
    config::suffixed_duration,
    error::{Error, Outcome},
    ids::QueueName,
    node::queues,
    time::millis,
};

/// For how long an acknowledgement is repeated that is not answered, and the pause between.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// How long Ctrl-C waits for the last acknowledgement.
const LAST_ACK: Duration = Duration::from_secs(5);

/// Most receipts of one call.
const MAX_RECEIPTS: usize = 1000;

/// The arguments of `queue consume`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Consume {
    /// The queue.
    #[arg(value_name = "NAME")]
    name: QueueName,
    /// Acknowledge nothing: it ends in silence once --prefetch messages are out, and they all come back.
    #[arg(long)]
    no_ack: bool,
    /// Most messages that are out at a time, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 100)]
    prefetch: u32,
    /// How long a delivery is invisible to others, up to 12h; otherwise as the queue is configured.
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration)]
    visibility: Option<Duration>,
    /// End after so many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
}

impl Consume {
    pub(super) fn run(self, context: &Context, remote: &Remote) -> Result<(), Failure> {
        context.block_on_to_the_end(async {
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            let interrupts = tokio::spawn(async move {
                if tokio::signal::ctrl_c().await.is_ok() {
                    stop.cancel();
                }
            });
            let outcome = self.follow(remote, &stopped).await;
            interrupts.abort();
            outcome
        })
    }

    async fn follow(self, remote: &Remote, stop: &CancellationToken) -> Result<(), Failure> {
        let queue = remote.client.queue(self.name.clone());
        let (receipts, written) = mpsc::channel(MAX_RECEIPTS);
        let mut acking = tokio::spawn(acknowledge(queue, written, remote.output));
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            outcome = self.write_all(remote, receipts) => outcome,
            ended = &mut acking => return acked(ended),
        };
        // What is written is acknowledged, also where nothing more can be.
        let given_up = async {
            stop.cancelled().await;
            sleep(LAST_ACK).await;
        };
        tokio::select! {
            biased;
            ended = acking => outcome.and(acked(ended)),
            () = given_up => outcome,
        }
    }

    /// Writes messages as they come, and passes on what is to be acknowledged.
    async fn write_all(self, remote: &Remote, receipts: mpsc::Sender<String>) -> Result<(), Failure> {
        let most = self.max.unwrap_or(u64::MAX);
        let consume = queues::Consume {
            prefetch: self.prefetch.min(u32::try_from(most).unwrap_or(u32::MAX)),
            visibility_ms: self.visibility.map(millis),
        };
        let mut events = remote.client.events(&Call::consume(&self.name, &consume)).await?;
        for _ in 0..most {
            let event = events.next().await?.ok_or_else(|| ended(remote))?;
            let message = event.message()?;
            write(remote.output, &event, &message)?;
            let receipt = message.receipt.filter(|_| !self.no_ack);
            if let Some(receipt) = receipt
                && receipts.send(receipt).await.is_err()
            {
                // Why nothing is acknowledged any more is what the other task says.
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    }
}

fn acked(ended: Result<Result<(), ClientError>, JoinError>) -> Result<(), Failure> {
    ended.map_err(|error| anyhow::Error::new(error).context("the acknowledgements ended early"))?.map_err(Failure::from)
}

/// Acknowledges what is written, as much as there is at a time, until nothing more is.
async fn acknowledge(
    queue: RemoteQueue,
    mut written: mpsc::Receiver<String>,
    output: Output,
) -> Result<(), ClientError> {
    let mut receipts = Vec::new();
    while written.recv_many(&mut receipts, MAX_RECEIPTS).await > 0 {
        let answer = ack_surely(&queue, &receipts).await?;
        if !answer.failed.is_empty() {
            output.note(&format!(
                "{} messages were acknowledged too late and come again: give a longer --visibility or a smaller --prefetch",
                answer.failed.len()
            ));
        }
        receipts.clear();
    }
    Ok(())
}

fn ended(remote: &Remote) -> Failure {
    let detail = format!("{} has ended the stream: it is shutting down", remote.client.url());
    Error::unavailable(Outcome::NotApplied, detail).into()
}

/// Acknowledges, again where the answer is missing: an ack that is repeated is done again.
async fn ack_surely(queue: &RemoteQueue, receipts: &[String]) -> Result<ReceiptsAnswer, ClientError> {
    let began = Instant::now();
    loop {
        let error = match queue.ack(receipts).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if error.error.code.http_status() != 503 || began.elapsed() > PATIENCE {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

/// Writes one message as one line.
fn write(output: Output, event: &ServerEvent, message: &MessageBody) -> Result<(), Failure> {
    match output.format() {
        Format::Json => output.raw(format!("{}\n", with_event(event)).as_bytes()),
        Format::Text if to_a_terminal() => output.text(&format!("{}\n", one_line(&for_a_terminal(message)))),
        Format::Text => output.raw(&line_of(message.clone())?),
    }
}

fn for_a_terminal(message: &MessageBody) -> String {
    match message.encoding {
        Encoding::Utf8 => message.body.clone(),
        Encoding::Base64 => format!("base64:{}", message.body),
    }
}

/// The body as it is, on one line.
fn line_of(message: MessageBody) -> Result<Vec<u8>, Failure> {
    let body = message.decoded().map_err(|error| Error::internal(format!("a body is not base64: {error}")))?;
    let mut line = Vec::with_capacity(body.len() + 1);
    for byte in body {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            other => line.push(other),
        }
    }
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_it_says() {
        let json = r#"{"id":"m","receipt":"r","body":"BODY","encoding":"ENCODING","content_type":null,"attributes":{},
            "priority":4,"deliveries":1,"enqueued_at":""}"#;
        let line = |body: &str, encoding: &str| {
            let json = json.replace("BODY", body).replace("ENCODING", encoding);
            line_of(serde_json::from_str(&json).unwrap()).unwrap()
        };
        assert_eq!(line("two\\nlines", "utf-8"), b"two\\nlines\n");
        assert_eq!(line("/wA=", "base64"), b"\xff\0\n");
    }
}
