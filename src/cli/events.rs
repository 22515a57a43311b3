//! `events`: what happens in the cluster, as one node comes to know it, across interruptions.

use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    Context, Failure, OnInterrupt,
    output::{Format, reader_gone},
    remote::{Remote, with_event},
};
use crate::{
    client::{Call, ClientError, ServerEvent},
    error::{Error, ErrorCode, Outcome},
};

/// For how long a stream that broke off is asked for again: a node that is restarted is back by then.
const RESUME_PATIENCE: Duration = Duration::from_secs(60);
/// The pause before it is.
const RESUME_PAUSE: Duration = Duration::from_millis(500);

/// The arguments of `events`.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Begin after the event with this id (`id` in the JSON output) instead of with the next one.
    ///
    /// What the node does not know any more, or never did because another one told it, begins with `reset`.
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
}

impl Events {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        context.block_on(OnInterrupt::Succeed, async {
            tokio::select! {
                biased;
                () = reader_gone() => Err(Failure::ClosedPipe),
                ended = follow(&remote, self.after.map(|id| id.to_string())) => ended,
            }
        })
    }
}

/// Prints events until nobody reads them any more. A stream that ends is resumed after its last event; one that cannot
/// be had at all, or for too long, is a failure.
async fn follow(remote: &Remote, mut last: Option<String>) -> Result<(), Failure> {
    let mut events = remote.client.events(&Call::events_after(last.as_deref())).await?;
    loop {
        match events.next().await {
            Ok(Some(event)) => {
                last = event.id.clone().or(last);
                print(remote, &event)?;
                continue;
            }
            Ok(None) => {}
            Err(error) if is_interruption(&error) => {}
            Err(error) => return Err(error.into()),
        }
        remote.output.note(&format!("the stream of events from {} broke off: it is resumed\n", remote.client.url()));
        events = resume(remote, last.as_deref()).await?;
        remote.output.note("the stream goes on\n");
    }
}

async fn resume(remote: &Remote, last: Option<&str>) -> Result<crate::client::ServerEvents, Failure> {
    let deadline = Instant::now() + RESUME_PATIENCE;
    loop {
        sleep(RESUME_PAUSE).await;
        match remote.client.events(&Call::events_after(last)).await {
            Ok(events) => return Ok(events),
            Err(error) if is_interruption(&error) && Instant::now() < deadline => {}
            Err(error) if is_interruption(&error) => {
                let detail = format!(
                    "{} ended the stream of events and has not been back for {} s: ask another node, or start it again",
                    remote.client.url(),
                    RESUME_PATIENCE.as_secs()
                );
                return Err(Error::unavailable(Outcome::NotApplied, detail).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_interruption(error: &ClientError) -> bool {
    error.error.code == ErrorCode::Unavailable
}

fn print(remote: &Remote, event: &ServerEvent) -> Result<(), Failure> {
    match remote.output.format() {
        Format::Json => remote.output.raw(format!("{}\n", document(event)).as_bytes()),
        Format::Text => remote.output.text(&text(event)),
    }
}

/// The data of an event with its name and its id in it.
fn document(event: &ServerEvent) -> Value {
    let mut document = with_event(event);
    if let (Value::Object(members), Some(id)) = (&mut document, &event.id) {
        // Ids stay below 2^53.
        let id = id.parse::<u64>().map_or_else(|_| Value::from(id.as_str()), Value::from);
        members.insert("id".to_owned(), id);
    }
    document
}

fn text(event: &ServerEvent) -> String {
    let Ok(Value::Object(mut data)) = serde_json::from_str(&event.data) else {
        return format!("{}  {}\n", event.event, event.data);
    };
    let at = data.remove("at").and_then(|at| at.as_str().map(str::to_owned)).unwrap_or_default();
    let rest: Vec<String> = data.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
    format!("{at}  {:<17}  {}\n", event.event, rest.join("  "))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = ServerEvent {
            event: "member-up".to_owned(),
            id: Some("1767225600000001".to_owned()),
            data: r#"{"at":"2026-01-01T00:00:00.000Z","peer_id":"p"}"#.to_owned(),
        };
        assert_eq!(text(&event), "2026-01-01T00:00:00.000Z  member-up          peer_id=p\n");
        let expected = r#"{"at":"2026-01-01T00:00:00.000Z","event":"member-up","id":1767225600000001,"peer_id":"p"}"#;
        assert_eq!(document(&event).to_string(), expected);
    }
}
