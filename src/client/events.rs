//! Server-sent events, read as the WHATWG HTML standard (section 9.2.6) says, within bounds.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::time::timeout;

use super::{Call, Client, ClientError};
use crate::error::{Error, Outcome};

/// Most bytes of one event: the state of a lock with thousands who wait fits in.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// How long a stream may be silent: a node sends a comment each 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// One event of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerEvent {
    /// Its name.
    pub event: String,
    /// Its id, where the stream has given one.
    pub id: Option<String>,
    /// Its data: one line of JSON.
    pub data: String,
}

/// An event, or a line without end, that is too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an event has more than {MAX_EVENT_BYTES} bytes")]
pub struct EventTooLong;

/// Turns bytes, however they are cut, into events.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    event: String,
    id: Option<String>,
    data: String,
    /// The last byte was CR: an LF that follows belongs to it.
    after_cr: bool,
}

impl EventParser {
    /// Takes bytes and gives the events that they complete.
    ///
    /// # Errors
    /// [`EventTooLong`] once an event exceeds its bound; the stream is of no use then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<ServerEvent>, EventTooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let follows_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ if self.line.len() + self.data.len() >= MAX_EVENT_BYTES => return Err(EventTooLong),
                other => self.line.push(other),
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<ServerEvent> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.end_event();
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            // A comment, `retry`, or a field of a later time.
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<ServerEvent> {
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return None;
        }
        data.pop();
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(ServerEvent { event, id: self.id.clone(), data })
    }
}

/// A stream of events from a node.
pub struct ServerEvents {
    url: String,
    chunks: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    parser: EventParser,
    ready: VecDeque<ServerEvent>,
}

impl std::fmt::Debug for ServerEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerEvents").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ServerEvents {
    /// The next event; `None` when the node has ended the stream. Safe to cancel.
    ///
    /// # Errors
    /// `unavailable` when the connection breaks or falls silent.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let broken = |what: &str| {
                let detail = format!("the stream of events from {} {what}: ask again", self.url);
                ClientError::from(Error::unavailable(Outcome::NotApplied, detail))
            };
            match timeout(SILENCE, self.chunks.next()).await {
                Err(_) => return Err(broken("has fallen silent")),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(broken("broke off")),
                Ok(Some(Ok(bytes))) => {
                    let events = self.parser.push(&bytes).map_err(|error| broken(&format!("ended: {error}")))?;
                    self.ready.extend(events);
                }
            }
        }
    }
}

impl Client {
    /// Opens a stream of events ([`Call::watch_lock`], [`Call::events`]).
    ///
    /// # Errors
    /// The node's problem; `unavailable` where there is no connection.
    pub async fn events(&self, call: &Call) -> Result<ServerEvents, ClientError> {
        let opening = timeout(call.timeout, self.request(call).send());
        let silent = || Error::unavailable(Outcome::NotApplied, format!("{} did not answer in time", self.base));
        let response = opening.await.map_err(|_| silent())?.map_err(|error| self.unreachable(&error, &call.method))?;
        let status = response.status();
        if !status.is_success() {
            let body = response.bytes().await.map_err(|error| self.unreachable(&error, &call.method))?;
            return Err(self.problem(status, &body));
        }
        Ok(ServerEvents {
            url: self.base.clone(),
            chunks: Box::pin(response.bytes_stream()),
            parser: EventParser::default(),
            ready: VecDeque::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\n\nevent: granted\nid: 7\ndata: {\"a\":1}\n\n:\n\ndata:x\r\ndata: y\r\n\r\nid: 9\n\nevent: e\ndata\n\n";

    fn event(event: &str, id: &str, data: &str) -> ServerEvent {
        ServerEvent { event: event.to_owned(), id: Some(id.to_owned()), data: data.to_owned() }
    }

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut() {
        let expected = vec![event("granted", "7", "{\"a\":1}"), event("message", "7", "x\ny"), event("e", "9", "")];
        for size in 1..STREAM.len() {
            let mut parser = EventParser::default();
            let events: Vec<_> = STREAM.as_bytes().chunks(size).flat_map(|c| parser.push(c).unwrap()).collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut parser = EventParser::default();
        let piece = vec![b'x'; 1024 * 1024];
        assert!((0..32).any(|_| parser.push(&piece) == Err(EventTooLong)));
    }
}
