//! `queue publish`: bodies from the command line, or the lines of stdin in batches.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    io::{self, BufRead, IsTerminal, Read},
    os::{fd::AsFd, unix::ffi::OsStringExt},
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{sync::mpsc, time::sleep};

use super::text;
use crate::{
    api::queue_bodies::{PublishedBody, PublishedList},
    cli::{
        Context, Failure, OnInterrupt,
        output::{Format, Output},
        remote::Remote,
    },
    client::{ClientError, RemoteQueue},
    config::suffixed_duration,
    error::{ErrorCode, Outcome},
    ids::{MessageId, QueueName},
    node::queues::{DEFAULT_PRIORITY, Publish as Message},
    time::millis,
};

/// Most messages of one batch: what the API takes.
const BATCH_MESSAGES: usize = 1000;

/// Bytes after which a batch is sent.
const BATCH_BYTES: usize = 512 * 1024;

/// Most bytes of a line: the greatest MAX_VALUE_BYTES that there is.
const MAX_LINE_BYTES: u64 = 64 * 1024 * 1024;

/// Lines that are read ahead.
const LINES_AHEAD: usize = 4096;

/// For how long a batch is sent again whose answer is missing, and the pause between.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(250);

/// The arguments of `queue publish`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Publish {
    /// The queue: any text of 1 to 512 bytes.
    #[arg(value_name = "NAME")]
    name: QueueName,
    /// What the messages say; - alone: each line of stdin is one. What begins with - comes after --.
    #[arg(value_name = "BODY", required = true)]
    bodies: Vec<OsString>,
    /// The id of the message: a second one of the same id is a duplicate.
    #[arg(long, value_name = "ID")]
    id: Option<MessageId>,
    /// They are not delivered before, up to 7d.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = suffixed_duration)]
    delay: Duration,
    /// 0 to 9, 9 is delivered first.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PRIORITY)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// What the bodies are, such as application/json.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Something that travels with the messages; may be repeated.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Publish {
    pub(super) fn run(self, context: &Context, remote: &Remote) -> Result<(), Failure> {
        let from_stdin = self.bodies.iter().any(|body| body == "-");
        if from_stdin && self.bodies.len() > 1 {
            return Err(Failure::Usage("- stands for the lines of stdin and is given alone".to_owned()));
        }
        if self.id.is_some() && (from_stdin || self.bodies.len() > 1) {
            return Err(Failure::Usage("--id is for one message: give one BODY".to_owned()));
        }
        let queue = remote.client.queue(self.name.clone());
        let template = self.template();
        if from_stdin {
            return context.block_on(OnInterrupt::Fail, publish_lines(&queue, &template, remote.output));
        }
        let mut messages: Vec<Message> =
            self.bodies.into_iter().map(|body| Message { body: body.into_vec().into(), ..template.clone() }).collect();
        context.block_on(OnInterrupt::Fail, async {
            if messages.len() == 1 {
                messages[0].id = self.id;
                let published = queue.publish(&messages[0]).await?;
                return remote.output.result(&published, || text::published(std::slice::from_ref(&published)));
            }
            let mut results = Vec::new();
            for batch in batches(messages) {
                results.extend(publish_whole(&queue, batch).await?);
            }
            let list = PublishedList { results };
            remote.output.result(&list, || text::published(&list.results))
        })
    }

    /// What all messages have in common.
    fn template(&self) -> Message {
        Message {
            content_type: self.content_type.clone(),
            delay_ms: millis(self.delay),
            priority: self.priority,
            attributes: self.attributes.iter().cloned().collect::<BTreeMap<_, _>>(),
            ..Message::new(Vec::new())
        }
    }
}

/// Messages in batches that the API takes.
fn batches(messages: Vec<Message>) -> Vec<Vec<Message>> {
    let (mut all, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for message in messages {
        bytes += message.body.len();
        batch.push(message);
        if batch.len() == BATCH_MESSAGES || bytes >= BATCH_BYTES {
            all.push(std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        all.push(batch);
    }
    all
}

/// Publishes a batch, in halves where it is too large for the node.
async fn publish_whole(queue: &RemoteQueue, batch: Vec<Message>) -> Result<Vec<PublishedBody>, ClientError> {
    let (mut results, mut left) = (Vec::with_capacity(batch.len()), VecDeque::from([batch]));
    while let Some(mut batch) = left.pop_front() {
        let answer = match batch.as_slice() {
            [one] => queue.publish(one).await.map(|published| vec![published]),
            several => queue.publish_all(several).await,
        };
        match answer {
            Ok(published) => results.extend(published),
            Err(error) if error.error.code == ErrorCode::PayloadTooLarge && batch.len() > 1 => {
                let second = batch.split_off(batch.len() / 2);
                left.push_front(second);
                left.push_front(batch);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(results)
}

/// What came of the lines so far.
#[derive(Debug)]
struct Told {
    output: Output,
    messages: u64,
    duplicates: u64,
}

impl Told {
    fn begin(output: Output) -> Result<Self, Failure> {
        if output.format() == Format::Json {
            output.raw(b"{\"results\":[")?;
        }
        Ok(Self { output, messages: 0, duplicates: 0 })
    }

    fn add(&mut self, published: &[PublishedBody]) -> Result<(), Failure> {
        if self.output.format() == Format::Json {
            let mut line = Vec::new();
            for (index, message) in published.iter().enumerate() {
                if self.messages > 0 || index > 0 {
                    line.push(b',');
                }
                serde_json::to_writer(&mut line, message).map_err(anyhow::Error::new)?;
            }
            self.output.raw(&line)?;
        }
        self.messages += published.len() as u64;
        self.duplicates += published.iter().filter(|message| message.duplicate).count() as u64;
        Ok(())
    }

    /// Ends the document, also of what failed half way.
    fn end(self) -> Result<(), Failure> {
        match self.output.format() {
            Format::Json => self.output.raw(b"]}\n"),
            Format::Text if self.duplicates > 0 => {
                self.output.text(&format!("published {}, {} of them duplicates\n", self.messages, self.duplicates))
            }
            Format::Text => self.output.text(&format!("published {}\n", self.messages)),
        }
    }
}

/// Publishes each line of stdin, in order.
async fn publish_lines(queue: &RemoteQueue, template: &Message, output: Output) -> Result<(), Failure> {
    let (send, mut lines) = mpsc::channel(LINES_AHEAD);
    // It may wait for a terminal: nobody waits for it at the end.
    std::thread::spawn(move || read_lines(io::stdin().lock(), &send));
    let bar = progress();
    let mut told = Told::begin(output)?;
    let outcome = send_lines(queue, template, &mut lines, &mut told, &bar).await;
    bar.finish_and_clear();
    told.end()?;
    outcome
}

async fn send_lines(
    queue: &RemoteQueue,
    template: &Message,
    lines: &mut mpsc::Receiver<io::Result<Vec<u8>>>,
    told: &mut Told,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    while let Some(first) = lines.recv().await {
        let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        // What has been read already goes together; nothing waits for more.
        while let Some(line) = next {
            let line = line.map_err(|error| anyhow::Error::new(error).context("stdin cannot be read"))?;
            bytes += line.len() + 1;
            let id = MessageId::new(format!("{:032x}", rand::random::<u128>())).expect("32 digits are a name");
            batch.push(Message { body: line.into(), id: Some(id), ..template.clone() });
            next = if batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES { lines.try_recv().ok() } else { None };
        }
        let published = publish_surely(queue, batch, told.messages > 0).await?;
        told.add(&published)?;
        bar.inc(if bar.length().is_some() { bytes as u64 } else { published.len() as u64 });
        bar.set_message(format!("{} messages", told.messages));
    }
    Ok(())
}

/// Publishes messages that have ids, again where the answer is missing: the second time they are duplicates.
async fn publish_surely(
    queue: &RemoteQueue,
    batch: Vec<Message>,
    has_worked: bool,
) -> Result<Vec<PublishedBody>, ClientError> {
    let began = Instant::now();
    loop {
        let error = match publish_whole(queue, batch.clone()).await {
            Ok(published) => return Ok(published),
            Err(error) => error,
        };
        let is_missing = error.error.code == ErrorCode::Unavailable;
        let is_unknown = error.error.details.outcome == Some(Outcome::Unknown);
        if !is_missing || !(has_worked || is_unknown) || began.elapsed() > PATIENCE {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

/// Reads lines without their ends until there are no more, or nobody wants them.
fn read_lines(mut input: impl BufRead, lines: &mpsc::Sender<io::Result<Vec<u8>>>) {
    loop {
        let mut line = Vec::new();
        let read = input.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line);
        let item = match read {
            Ok(0) => return,
            Ok(_) if line.last() == Some(&b'\n') => {
                line.pop();
                Ok(line)
            }
            Ok(_) if line.len() as u64 > MAX_LINE_BYTES => {
                Err(io::Error::other(format!("a line has more than {MAX_LINE_BYTES} bytes")))
            }
            Ok(_) => Ok(line),
            Err(error) => Err(error),
        };
        let is_last = item.is_err();
        if lines.blocking_send(item).is_err() || is_last {
            return;
        }
    }
}

/// By bytes where stdin is a file, else without an end.
fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let file = io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let length = file.and_then(|file| file.metadata()).ok().filter(|file| file.is_file()).map(|file| file.len());
    let style = |template| ProgressStyle::with_template(template).expect("the templates here are valid");
    match length {
        Some(length) => ProgressBar::new(length).with_style(style("{wide_bar} {bytes}/{total_bytes}  {msg}  {eta}")),
        None => ProgressBar::new_spinner().with_style(style("{spinner} {msg}  {per_sec}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(input: &[u8]) -> Vec<Vec<u8>> {
        let (send, mut lines) = mpsc::channel(16);
        read_lines(input, &send);
        drop(send);
        std::iter::from_fn(|| lines.blocking_recv()).map(Result::unwrap).collect()
    }

    #[test]
    fn each_line_is_a_message_the_last_one_too_and_empty_ones() {
        assert_eq!(lines_of(b"a\n\nb\r\n\xff"), [b"a".to_vec(), vec![], b"b\r".to_vec(), vec![0xff]]);
        assert_eq!(lines_of(b""), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn batches_are_what_the_api_takes() {
        let sizes = |messages: Vec<Message>| batches(messages).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![Message::new("x"); 2001]), [1000, 1000, 1]);
        assert_eq!(sizes(vec![Message::new(vec![0; BATCH_BYTES / 2]); 3]), [2, 1]);
        assert_eq!(sizes(Vec::new()), Vec::<usize>::new());
    }

    #[test]
    fn attributes_are_split_at_the_first_equals_sign() {
        assert_eq!(attribute("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(attribute("a").is_err());
    }
}
