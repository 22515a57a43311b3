//! `queue`: every call about queues, as a command.

mod consume;
mod publish;
mod text;

use std::{ops::RangeInclusive, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::{
    Context, Failure, OnInterrupt,
    remote::{Remote, parse},
};
use crate::{
    api::queue_bodies::{MessageList, PurgedBody, QueueList, ReceiptsAnswer, RedrivenBody},
    client::Call,
    config::suffixed_duration,
    error::{Error, Outcome},
    ids::{PartitionId, QueueName},
    machine::queue::OnExpiry,
    node::queues::{QueueSettings, Receive},
    time::millis,
};

/// Publish, receive and acknowledge messages; look after queues.
#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// Publish messages: one for each BODY, or each line of stdin.
    ///
    /// The queue is made with the first one. Exit code 0 says that each is on the disks of as many nodes as the
    /// cluster keeps copies. Lines of stdin are sent in batches, and again where an answer is missing: that
    /// makes no duplicates.
    Publish(publish::Publish),
    /// Receive messages and print them; exit code 3 if there are none.
    ///
    /// Each is invisible to others until its visibility is over: acknowledge it with `queue ack`, or give it
    /// back with `queue nack`.
    Receive(ReceiveArgs),
    /// Print messages as they come, one a line, and acknowledge what is written, until Ctrl-C.
    ///
    /// A body is written as it is, but for line ends in it, which become \n; JSON has it in full. What was
    /// delivered and not acknowledged when this ends comes back when its visibility is over.
    Consume(consume::Consume),
    /// Acknowledge deliveries: the messages are gone for good. Exit code 4 if one is too late.
    Ack(Receipts),
    /// Give deliveries back, to be delivered again. Exit code 4 if one is too late.
    Nack(Nack),
    /// Start the visibility of deliveries anew. Exit code 4 if one is too late.
    Extend(Extend),
    /// The queues. Exit code 5 if some are missing, because nobody serves their partition now.
    List(List),
    /// One queue: how it is configured, what is in it, who keeps it.
    Show(Named),
    /// The messages that come next, without taking them; exit code 3 if there are none.
    Peek(Peek),
    /// Drop all messages of a queue.
    Purge(Named),
    /// Send the dead letters of a queue back to it.
    Redrive(Named),
    /// Delete a queue with all that is in it.
    Delete(Named),
    /// Configure a queue: what is not given gets its default, also where it was set before.
    Configure(Configure),
    /// Serve a partition again whose journal is lost, with what is left of it.
    ///
    /// The last resort: first bring back the nodes that kept it, or their Redis. Without --accept-loss this names them,
    /// and what would be lost, and does nothing.
    Recover(Recover),
}

/// A queue.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The queue: any text of 1 to 512 bytes.
    #[arg(value_name = "NAME")]
    name: QueueName,
}

/// The arguments of `queue receive`.
#[derive(Debug, Args)]
pub(super) struct ReceiveArgs {
    #[command(flatten)]
    named: Named,
    /// At the most so many, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 1)]
    max: u32,
    /// How long to wait for the first one, up to 60s; 0s: not at all.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = suffixed_duration)]
    wait: Duration,
    /// How long they are invisible to others, up to 12h; otherwise as the queue is configured.
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration)]
    visibility: Option<Duration>,
}

/// Deliveries of a queue.
#[derive(Debug, Args)]
pub(super) struct Receipts {
    #[command(flatten)]
    named: Named,
    /// The receipts that came with the messages.
    #[arg(value_name = "RECEIPT", required = true)]
    receipts: Vec<String>,
}

/// The arguments of `queue nack`.
#[derive(Debug, Args)]
pub(super) struct Nack {
    #[command(flatten)]
    deliveries: Receipts,
    /// After how long they are delivered again, up to 7d; otherwise after a back-off that grows.
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration)]
    delay: Option<Duration>,
}

/// The arguments of `queue extend`.
#[derive(Debug, Args)]
pub(super) struct Extend {
    #[command(flatten)]
    deliveries: Receipts,
    /// For how long from now, up to 12h; otherwise as the queue is configured.
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration)]
    visibility: Option<Duration>,
}

/// The arguments of `queue list`.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Only names that begin so.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
}

/// The arguments of `queue peek`.
#[derive(Debug, Args)]
pub(super) struct Peek {
    #[command(flatten)]
    named: Named,
    /// At the most so many, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 10)]
    max: u32,
}

/// What happens to a message that is not consumed in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Expiry {
    /// It is dropped.
    Drop,
    /// It goes to the dead-letter queue.
    DeadLetter,
}

/// The arguments of `queue configure`.
#[derive(Debug, Args)]
pub(super) struct Configure {
    #[command(flatten)]
    named: Named,
    /// How long an unconsumed message is kept [default: MESSAGE_RETENTION_PERIOD].
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration)]
    retention: Option<Duration>,
    /// How long a delivery is invisible to others, up to 12h [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration)]
    visibility: Option<Duration>,
    /// After so many deliveries a message goes to the dead-letter queue [default: 16].
    #[arg(long, value_name = "N")]
    max_deliveries: Option<u32>,
    /// Where dead letters go [default: NAME.dead].
    #[arg(long, value_name = "QUEUE")]
    dead_letter: Option<QueueName>,
    /// What happens to a message that is not consumed in time [default: drop].
    #[arg(long, value_enum, value_name = "WHAT")]
    on_expiry: Option<Expiry>,
    /// Publishes beyond so many messages are refused [default: no limit].
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// Publishes beyond so many bytes are refused [default: no limit].
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// How long the id of a message is remembered [default: 5m].
    #[arg(long, value_name = "DURATION", value_parser = suffixed_duration)]
    dedup_window: Option<Duration>,
}

/// As many partitions as a cluster can have: more in one range are a slip of the hand.
const MAX_PARTITIONS: u32 = 1_024;

/// One partition, or the first and the last of some.
fn partitions(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last && last - first < MAX_PARTITIONS => Ok(first..=last),
        _ => Err("expected the number of a partition, or two of them as in 8-13".to_owned()),
    }
}

/// The arguments of `queue recover`.
#[derive(Debug, Args)]
pub(super) struct Recover {
    /// Numbers of partitions, as a warning of `syncmesh status` names those that are not served: 3, or 8-13.
    #[arg(value_name = "PARTITION", required = true, value_parser = partitions)]
    partitions: Vec<RangeInclusive<u32>>,
    /// Messages that only the lost journals held are gone then. Without this, nothing is done (exit code 2).
    #[arg(long)]
    accept_loss: bool,
}

impl QueueCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let remote = Remote::of(context)?;
        match self {
            Self::Publish(publish) => publish.run(context, &remote),
            Self::Consume(consume) => consume.run(context, &remote),
            other => context.block_on(OnInterrupt::Fail, other.call(&remote)),
        }
    }

    async fn call(self, remote: &Remote) -> Result<(), Failure> {
        match self {
            Self::Receive(args) => {
                let receive =
                    Receive { max: args.max, wait_ms: millis(args.wait), visibility_ms: args.visibility.map(millis) };
                messages(remote, &Call::receive(&args.named.name, &receive), "nothing to receive").await
            }
            Self::Peek(Peek { named, max }) => messages(remote, &Call::peek(&named.name, max), "nothing waits").await,
            Self::Ack(Receipts { named, receipts }) => {
                settle(remote, &Call::ack(&named.name, &receipts), "acknowledged").await
            }
            Self::Nack(Nack { deliveries: Receipts { named, receipts }, delay }) => {
                settle(remote, &Call::nack(&named.name, &receipts, delay.map(millis)), "given back").await
            }
            Self::Extend(Extend { deliveries: Receipts { named, receipts }, visibility }) => {
                settle(remote, &Call::extend(&named.name, &receipts, visibility.map(millis)), "extended").await
            }
            Self::List(list) => list.call(remote).await,
            Self::Show(Named { name }) => remote.show(&Call::show_queue(&name), text::queue).await,
            Self::Purge(Named { name }) => {
                remote.show(&Call::purge(&name), |body: PurgedBody| format!("purged {}\n", body.purged)).await
            }
            Self::Redrive(Named { name }) => {
                let text = |body: RedrivenBody| format!("{} dead letters return\n", body.redriven);
                remote.show(&Call::redrive(&name), text).await
            }
            Self::Delete(Named { name }) => remote.act(&Call::delete_queue(&name), "deleted").await,
            Self::Configure(configure) => configure.call(remote).await,
            Self::Recover(recover) => recover.call(remote).await,
            Self::Publish(_) | Self::Consume(_) => unreachable!("run() has taken these"),
        }
    }
}

impl List {
    async fn call(self, remote: &Remote) -> Result<(), Failure> {
        let page = |after: Option<&str>| Call::queues(self.prefix.as_deref(), after);
        let body = remote.pages("queues", page).await?;
        let list: QueueList = parse(&body)?;
        let unserved = list.unserved.clone();
        remote.print(&body, |_: Value| text::queues(list))?;
        if unserved.is_empty() { Ok(()) } else { Err(incomplete(&unserved).into()) }
    }
}

/// What a list lacks.
fn incomplete(unserved: &[PartitionId]) -> Error {
    let detail = format!(
        "the list is not whole: the queues of partitions {} are missing, which nobody serves now; `syncmesh status` shows why",
        PartitionId::ranges(unserved.iter().copied()).join(", ")
    );
    Error::unavailable(Outcome::NotApplied, detail)
}

/// Prints messages; none is exit code 3.
async fn messages(remote: &Remote, call: &Call, none: &str) -> Result<(), Failure> {
    let body = remote.client.text(call).await?;
    let list: MessageList = parse(&body)?;
    let is_empty = list.messages.is_empty();
    if is_empty {
        remote.output.note(none);
    }
    remote.print(&body, |_: Value| if is_empty { String::new() } else { text::messages(list) })?;
    if is_empty { Err(Failure::Exit(3)) } else { Ok(()) }
}

/// Prints what came of receipts; one that failed is exit code 4.
async fn settle(remote: &Remote, call: &Call, done: &str) -> Result<(), Failure> {
    let body = remote.client.text(call).await?;
    let answer: ReceiptsAnswer = parse(&body)?;
    let all_in_time = answer.failed.is_empty();
    remote.print(&body, |_: Value| text::receipts(answer, done))?;
    if all_in_time { Ok(()) } else { Err(Failure::Exit(4)) }
}

impl Configure {
    async fn call(self, remote: &Remote) -> Result<(), Failure> {
        let whole_seconds = |flag: &str, duration: Option<Duration>| match duration {
            Some(duration) if duration.subsec_millis() != 0 => {
                Err(Failure::Usage(format!("--{flag} must be a whole number of seconds")))
            }
            duration => Ok(duration.map(|duration| duration.as_secs())),
        };
        let settings = QueueSettings {
            retention_s: whole_seconds("retention", self.retention)?,
            visibility_ms: self.visibility.map(millis),
            max_deliveries: self.max_deliveries,
            dead_letter: self.dead_letter,
            on_expiry: self.on_expiry.map(|expiry| match expiry {
                Expiry::Drop => OnExpiry::Drop,
                Expiry::DeadLetter => OnExpiry::DeadLetter,
            }),
            max_messages: self.max_messages,
            max_bytes: self.max_bytes,
            dedup_window_s: whole_seconds("dedup-window", self.dedup_window)?,
        };
        remote.show(&Call::configure_queue(&self.named.name, &settings), text::config).await
    }
}

impl Recover {
    async fn call(self, remote: &Remote) -> Result<(), Failure> {
        let Self { partitions, accept_loss } = self;
        if accept_loss {
            for partition in partitions.into_iter().flatten() {
                let call = Call::recover_partition(PartitionId(partition));
                remote.act(&call, &format!("partition {partition} is served with what is left of it")).await?;
            }
            return Ok(());
        }
        let cluster = remote.client.cluster().await?;
        let lost = partitions.into_iter().flatten().map(|partition| {
            let placed = cluster.queue.partitions.iter().find(|placed| placed.id == partition);
            text::what_would_be_lost(partition, placed)
        });
        Err(Failure::Usage(lost.collect::<Vec<_>>().join("\n")))
    }
}
