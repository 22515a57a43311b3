//! How commands talk to a node: one call, its body printed as it came or as a text for people.

use std::{collections::BTreeSet, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Context, Failure,
    output::{Format, Output, reader_gone},
};
use crate::{
    client::{Call, Client, ClientError, ServerEvent},
    error::Error,
};

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Operation(error.error)
    }
}

/// The node that a command talks to.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) client: Client,
    pub(super) output: Output,
}

impl Remote {
    /// The node that flags, environment and `.env` name.
    pub(super) fn of(context: &Context) -> Result<Self, Failure> {
        let target = context.target()?;
        Ok(Self { client: Client::new(&target.url, target.token)?, output: context.output })
    }

    /// Makes a call and prints its answer.
    pub(super) async fn show<T: DeserializeOwned>(
        &self,
        call: &Call,
        text: impl FnOnce(T) -> String,
    ) -> Result<(), Failure> {
        let body = self.client.text(call).await?;
        self.print(&body, text)
    }

    /// Prints the body of an answer: as it came, or as this text.
    pub(super) fn print<T: DeserializeOwned>(&self, body: &str, text: impl FnOnce(T) -> String) -> Result<(), Failure> {
        match self.output.format() {
            Format::Json => self.output.raw(format!("{body}\n").as_bytes()),
            Format::Text => self.output.text(&text(parse(body)?)),
        }
    }

    /// Prints all pages of a list, whose items stand under this name, as one document.
    pub(super) async fn show_pages<T: DeserializeOwned>(
        &self,
        items: &str,
        page: impl Fn(Option<&str>) -> Call,
        text: impl FnOnce(T) -> String,
    ) -> Result<(), Failure> {
        self.print(&self.pages(items, page).await?, text)
    }

    /// The body of a list of one page, or one made of all pages: of the items, and of the partitions that a page
    /// lacks.
    pub(super) async fn pages(&self, items: &str, page: impl Fn(Option<&str>) -> Call) -> Result<String, Failure> {
        let first = self.client.text(&page(None)).await?;
        let mut document: Value = parse(&first)?;
        if document.get("next").is_none_or(Value::is_null) {
            return Ok(first);
        }
        let (mut all, mut unserved) = (Vec::new(), BTreeSet::new());
        loop {
            if let Some(some) = document.get_mut(items).and_then(Value::as_array_mut) {
                all.append(some);
            }
            let lacks = document.get("unserved").and_then(Value::as_array);
            unserved.extend(lacks.into_iter().flatten().filter_map(Value::as_u64));
            let Some(next) = document.get("next").and_then(Value::as_str) else { break };
            document = parse(&self.client.text(&page(Some(next))).await?)?;
        }
        let mut whole = json!({items: all});
        if !unserved.is_empty() {
            whole["unserved"] = json!(unserved);
        }
        Ok(whole.to_string())
    }

    /// Makes a call whose answer is empty.
    pub(super) async fn act(&self, call: &Call, done: &str) -> Result<(), Failure> {
        self.client.text(call).await?;
        self.output.result(&json!({}), || format!("{done}\n"))
    }

    /// Prints events as they come, until the node ends the stream or nobody reads them any more.
    pub(super) async fn follow(&self, call: &Call, text: impl Fn(&ServerEvent) -> String) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = reader_gone() => Err(Failure::ClosedPipe),
            ended = self.print_events(call, text) => ended,
        }
    }

    async fn print_events(&self, call: &Call, text: impl Fn(&ServerEvent) -> String) -> Result<(), Failure> {
        let mut events = self.client.events(call).await?;
        while let Some(event) = events.next().await? {
            match self.output.format() {
                Format::Json => self.output.raw(format!("{}\n", with_event(&event)).as_bytes())?,
                Format::Text => self.output.text(&text(&event))?,
            }
        }
        let detail = format!("{} has ended the stream: it is shutting down", self.client.url());
        Err(Error::unavailable(crate::error::Outcome::NotApplied, detail).into())
    }
}

/// The body of an answer.
pub(super) fn parse<T: DeserializeOwned>(body: &str) -> Result<T, Failure> {
    serde_json::from_str(body).map_err(|error| Error::internal(format!("the answer has another shape: {error}")).into())
}

/// The data of an event with its name in it.
pub(super) fn with_event(event: &ServerEvent) -> Value {
    let mut data = serde_json::from_str(&event.data).unwrap_or_else(|_| Value::String(event.data.clone()));
    if let Value::Object(members) = &mut data {
        members.insert("event".to_owned(), event.event.clone().into());
        return data;
    }
    json!({"event": event.event, "data": data})
}

/// A duration as people read it: `850ms`, `12.5s`, `3m20s`, `2h5m`, `3d4h`.
pub(super) fn for_people(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A share of 1 as people read it.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

/// A list in a cell of a table.
pub(super) fn cell<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "-".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_carries_its_name_in_its_data() {
        let event = |data: &str| ServerEvent { event: "granted".into(), id: None, data: data.into() };
        assert_eq!(with_event(&event(r#"{"lock":"a"}"#)).to_string(), r#"{"event":"granted","lock":"a"}"#);
        assert_eq!(with_event(&event("nonsense")).to_string(), r#"{"data":"nonsense","event":"granted"}"#);
    }

    #[test]
    fn durations_read_at_a_glance() {
        let shown = |ms| for_people(Duration::from_millis(ms));
        assert_eq!([shown(850), shown(12_500), shown(200_000), shown(7_500_000)], ["850ms", "12.5s", "3m20s", "2h5m"]);
    }
}
