//! Server-sent events: one way to number, write and end a stream.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    Sse,
    sse::{Event, KeepAlive},
};
use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often a comment tells a silent client that the stream is alive.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// One event: its name, its id and a line of JSON.
pub(super) fn event(name: &str, id: u64, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).expect("bodies are plain structs with string keys");
    Event::default().event(name).id(id.to_string()).data(data)
}

/// Sends events until they end, the client goes, or the node stops.
pub(super) fn respond(
    events: impl Stream<Item = Event> + Send + 'static,
    shutdown: CancellationToken,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + Send + 'static> {
    let until_shutdown = events.take_until(shutdown.cancelled_owned()).map(Ok);
    // Boxed: the keep-alive wrapper wants a stream that is Unpin.
    Sse::new(until_shutdown.boxed()).keep_alive(KeepAlive::new().interval(COMMENT_INTERVAL))
}

/// What a channel brings, as a stream.
pub(super) fn receiver_stream<T>(mut receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> {
    futures::stream::poll_fn(move |context| receiver.poll_recv(context))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use futures::stream;

    use super::*;

    fn body(
        events: impl Stream<Item = Event> + Send + 'static,
        shutdown: &CancellationToken,
    ) -> axum::body::BodyDataStream {
        respond(events, shutdown.clone()).into_response().into_body().into_data_stream()
    }

    #[tokio::test]
    async fn an_event_is_a_name_an_id_and_one_line() {
        let data = serde_json::json!({"text": "two\nlines"});
        let mut body = body(stream::iter([event("granted", 7, &data)]), &CancellationToken::new());
        let bytes = body.next().await.unwrap().unwrap();
        assert_eq!(bytes, "event: granted\nid: 7\ndata: {\"text\":\"two\\nlines\"}\n\n");
        assert!(body.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_says_each_15_s_that_it_is_alive() {
        let mut body = body(stream::pending(), &CancellationToken::new());
        let began = tokio::time::Instant::now();
        for comment in 1..=3 {
            assert!(body.next().await.unwrap().unwrap().starts_with(b":"));
            assert_eq!(began.elapsed().as_secs(), comment * 15);
        }
    }

    #[tokio::test]
    async fn a_stream_ends_when_the_node_stops() {
        let shutdown = CancellationToken::new();
        let mut body = body(stream::pending(), &shutdown);
        shutdown.cancel();
        assert!(body.next().await.is_none());
    }
}
