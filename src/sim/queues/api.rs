//! The queue service as a client reaches it: what is asked, and what is told.

use bytes::Bytes;

use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::{MessageId, PartitionId, QueueName},
    machine::queue::{Receipt, dead_letter_name},
    node::queues::{AcceptLoss, Message, Publish, QueueSettings, Queues, ReceiptsOutcome, Receive},
    sim::door::Service,
};

/// The queue service.
#[derive(Clone, PartialEq, Debug)]
pub enum QueueService {}

impl Service for QueueService {
    type Ask = Ask;
    type Answer = Answer;

    const UNKNOWN: Answer = Answer::Unknown;
    const NOBODY: Answer = Answer::Refused(ErrorCode::Unavailable);

    fn is_refusal(answer: &Answer) -> bool {
        matches!(answer, Answer::Refused(_))
    }
}

/// One operation of one client of the queues.
pub type Record = crate::sim::history::Record<QueueService>;

/// A message as it is published. Its body follows from its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// No other message of the run has it.
    pub id: MessageId,
    /// 0 to 9, 9 first.
    pub priority: u8,
    /// Not delivered before, in milliseconds.
    pub delay_ms: u64,
}

/// A message as it was delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Got {
    /// Its id.
    pub id: MessageId,
    /// Names the delivery.
    pub receipt: Receipt,
    /// As it was published.
    pub priority: u8,
    /// How often it was delivered, this time included.
    pub deliveries: u32,
    /// Whether the body is what was published under that id.
    pub intact: bool,
}

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// After so many deliveries, messages of the queue are dead letters.
    Configure {
        /// Which.
        queue: QueueName,
        /// How many.
        max_deliveries: u32,
    },
    /// Take these.
    Publish {
        /// Where to.
        queue: QueueName,
        /// What.
        letters: Vec<Letter>,
    },
    /// Give me some.
    Receive {
        /// From where.
        queue: QueueName,
        /// At the most so many.
        max: u32,
        /// After so long, in milliseconds, none is an answer.
        wait_ms: u64,
        /// Nobody else is to have them for so long, in milliseconds.
        visibility_ms: u64,
    },
    /// These are done.
    Ack {
        /// Of which queue.
        queue: QueueName,
        /// Which.
        receipts: Vec<Receipt>,
    },
    /// These are not.
    Nack {
        /// Of which queue.
        queue: QueueName,
        /// Which.
        receipts: Vec<Receipt>,
        /// Not to be delivered before so many milliseconds have passed.
        delay_ms: u64,
    },
    /// These take longer.
    Extend {
        /// Of which queue.
        queue: QueueName,
        /// Which.
        receipts: Vec<Receipt>,
        /// How long from now, in milliseconds.
        visibility_ms: u64,
    },
    /// How much is there?
    Stats(QueueName),
    /// Whoever has most of this partition is to serve it: what an operator says of one that waits for a journal
    /// which does not come back.
    Recover(PartitionId),
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The configuration is so.
    Configured,
    /// The messages are taken; their offsets, and whether each had been taken before.
    Published(Vec<(u64, bool)>),
    /// These are yours now.
    Delivered(Vec<Got>),
    /// These were in time, and these were not.
    Settled {
        /// In time.
        done: Vec<Receipt>,
        /// Not.
        failed: Vec<Receipt>,
    },
    /// So many messages are in the queue, wherever they stand.
    Holds(u64),
    /// The partition is served again.
    Recovered,
    /// Not done, certainly.
    Refused(ErrorCode),
    /// Perhaps done.
    Unknown,
}

/// Where dead letters of a queue go.
pub fn dead_letters(queue: &QueueName) -> QueueName {
    dead_letter_name(queue)
}

/// What a message of this id says: some 10 to 200 bytes.
fn body(id: &MessageId) -> Bytes {
    let length = id.as_str().bytes().map(usize::from).sum::<usize>() % 20 + 1;
    id.as_str().repeat(length).into()
}

/// Does what is asked.
pub async fn perform(queues: &Queues, ask: Ask) -> Answer {
    try_to(queues, ask).await.unwrap_or_else(refusal)
}

async fn try_to(queues: &Queues, ask: Ask) -> Result<Answer, Error> {
    Ok(match ask {
        Ask::Configure { queue, max_deliveries } => {
            let settings = QueueSettings { max_deliveries: Some(max_deliveries), ..QueueSettings::default() };
            queues.configure(queue, settings).await?;
            Answer::Configured
        }
        Ask::Publish { queue, letters } => {
            let published = queues.publish(queue, letters.into_iter().map(written).collect()).await?;
            Answer::Published(published.into_iter().map(|taken| (taken.offset, taken.duplicate)).collect())
        }
        Ask::Receive { queue, max, wait_ms, visibility_ms } => {
            let receive = Receive { max, wait_ms, visibility_ms: Some(visibility_ms) };
            Answer::Delivered(queues.receive(queue, receive).await?.into_iter().map(got).collect())
        }
        Ask::Ack { queue, receipts } => settled(queues.ack(queue, texts(&receipts)).await?),
        Ask::Nack { queue, receipts, delay_ms } => settled(queues.nack(queue, texts(&receipts), Some(delay_ms)).await?),
        Ask::Extend { queue, receipts, visibility_ms } => {
            settled(queues.extend(queue, texts(&receipts), Some(visibility_ms)).await?)
        }
        Ask::Stats(queue) => {
            let view = queues.stats(queue).await?;
            Answer::Holds(view.depth + view.in_flight + view.delayed)
        }
        Ask::Recover(partition) => {
            queues.recover(partition, AcceptLoss).await?;
            Answer::Recovered
        }
    })
}

fn written(letter: Letter) -> Publish {
    let body = body(&letter.id);
    let Letter { id, priority, delay_ms } = letter;
    Publish { id: Some(id), delay_ms, priority, ..Publish::new(body) }
}

fn got(message: Message) -> Got {
    let intact = message.body == body(&message.id);
    let receipt = receipt(&message.receipt);
    Got { id: message.id, receipt, priority: message.priority, deliveries: message.deliveries, intact }
}

fn receipt(text: &str) -> Receipt {
    text.parse().unwrap_or_else(|()| panic!("{text} is no receipt"))
}

fn texts(receipts: &[Receipt]) -> Vec<String> {
    receipts.iter().map(ToString::to_string).collect()
}

fn settled(outcome: ReceiptsOutcome) -> Answer {
    let of = |texts: Vec<String>| texts.iter().map(|text| receipt(text)).collect();
    Answer::Settled { done: of(outcome.done), failed: of(outcome.failed) }
}

fn refusal(error: Error) -> Answer {
    match error.code {
        ErrorCode::Unavailable if error.details.outcome != Some(Outcome::NotApplied) => Answer::Unknown,
        ErrorCode::Conflict
        | ErrorCode::DurabilityUnavailable
        | ErrorCode::NoQuorum
        | ErrorCode::NotFound
        | ErrorCode::QueueFull
        | ErrorCode::Unavailable => Answer::Refused(error.code),
        code => panic!("a well-formed request was answered {code}: {error}"),
    }
}
