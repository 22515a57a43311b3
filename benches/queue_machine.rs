//! What the queue machine costs by itself: operations a second, memory for each message, and how long a checkpoint keeps
//! it from its work.
//!
//! `cargo bench --bench queue_machine`. The memory is what the kernel counts for this process (Linux
//! only), before and after a million messages of 256 bytes lie in a queue.
#![allow(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use syncmesh::{
    ids::{Epoch, MessageId, PartitionId, QueueName, Tick},
    machine::{
        queue::{Batch, Loader, MAX_IDS_REMEMBERED, NewMessage, Op, OpAnswer, Queues},
        replication::Position,
    },
};

const MESSAGES: u64 = 1_000_000;
const BODY: usize = 256;
/// Messages of a record, where a checkpoint is looked at.
const RECORD: u64 = 256;
const HERE: PartitionId = PartitionId(0);

/// One record of one operation.
fn apply(queues: &mut Queues, seq: u64, at: u64, op: Op) -> OpAnswer {
    let mut effects = Vec::new();
    let batch = Batch { at: Tick(at), retention_s: 1_209_600, ops: vec![op] };
    let answer = queues.apply(Position { epoch: Epoch(1), seq }, &batch, &mut effects).remove(0);
    black_box(effects);
    answer
}

fn message(n: u64) -> NewMessage {
    message_of(n, BODY)
}

/// As it comes out of a record: id, body and all are its own.
fn message_of(n: u64, body: usize) -> NewMessage {
    NewMessage {
        id: MessageId::new(format!("{n:036}")).expect("digits"),
        body: Bytes::from(vec![7; body]),
        content_type: None,
        attributes: BTreeMap::new(),
        delay_ms: 0,
        priority: 4,
        origin: None,
    }
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line of it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1_024
}

fn tell(what: &str, count: u64, took: Duration) {
    println!(
        "{what}: {:.0}/s ({:.0} ns each)",
        count as f64 / took.as_secs_f64(),
        took.as_nanos() as f64 / count as f64
    );
}

/// Messages are published, leased and acknowledged by so many, over a queue that holds so many others.
fn round_trips(standing: u64, by: u64) {
    let queue = QueueName::new("orders").expect("a name");
    let mut queues = Queues::new(HERE);
    for n in 0..standing {
        let messages = vec![NewMessage { priority: 0, ..message(n) }];
        apply(&mut queues, n, 1_000_000, Op::Publish { queue: queue.clone(), messages });
    }
    let (mut seq, mut took, count) = (standing, [Duration::ZERO; 3], 300_000);
    for n in (0..count).step_by(by as usize) {
        let messages: Vec<_> = (n..n + by).map(|n| message(standing + n)).collect();
        seq += 3;
        let begun = Instant::now();
        apply(&mut queues, seq, 1_000_000 + n / 60, Op::Publish { queue: queue.clone(), messages });
        let published = Instant::now();
        let lease = Op::Lease { queue: queue.clone(), max: by as u32, visibility_ms: None };
        let OpAnswer::Leased(deliveries) = apply(&mut queues, seq + 1, 1_000_000 + n / 60, lease) else {
            panic!("no lease")
        };
        let leased = Instant::now();
        let receipts: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.receipt).collect();
        assert_eq!(receipts.len() as u64, by);
        apply(&mut queues, seq + 2, 1_000_000 + n / 60, Op::Ack { queue: queue.clone(), receipts });
        let acknowledged = Instant::now();
        took[0] += published - begun;
        took[1] += leased - published;
        took[2] += acknowledged - leased;
    }
    println!("{standing} others in the queue, {by} messages a record:");
    for (what, took) in ["  publish", "  lease", "  ack"].into_iter().zip(took) {
        tell(what, count, took);
    }
    tell("  operations", 3 * count, took.iter().sum());
}

fn memory() {
    let queue = QueueName::new("orders").expect("a name");
    let before = resident_bytes();
    let mut remembered = Course { queues: Queues::new(HERE), seq: 0, next: 0 };
    for _ in 0..MAX_IDS_REMEMBERED as u64 / RECORD {
        remembered.publish(&queue, BODY);
        remembered.consume(&queue);
    }
    let after = resident_bytes();
    println!("{} ids of 36 that are remembered: {} bytes each", remembered.next, (after - before) / remembered.next);
    let before = after;
    let mut queues = Queues::new(HERE);
    for n in 0..MESSAGES {
        apply(&mut queues, n, 1_000_000 + n / 60, Op::Publish { queue: queue.clone(), messages: vec![message(n)] });
    }
    let full = resident_bytes() - before;
    println!("{MESSAGES} messages of {BODY} bytes and an id of 36: {} bytes each", full / MESSAGES);
    let begun = Instant::now();
    let saved = queues.save();
    println!("saved in {:?}: {} bytes each", begun.elapsed(), saved.len() as u64 / MESSAGES);
    drop(queues);
    let begun = Instant::now();
    let loaded = Queues::load(HERE, &saved).expect("what was saved");
    println!("loaded in {:?}", begun.elapsed());
    black_box((loaded, remembered.queues));
}

/// The queues, and where their log and their messages have got to.
struct Course {
    queues: Queues,
    seq: u64,
    next: u64,
}

impl Course {
    fn apply(&mut self, op: Op) -> (OpAnswer, Duration) {
        self.seq += 1;
        let begun = Instant::now();
        let answer = apply(&mut self.queues, self.seq, 1_000_000, op);
        (answer, begun.elapsed())
    }

    fn publish(&mut self, queue: &QueueName, body: usize) -> Duration {
        let messages = (self.next..self.next + RECORD).map(|n| message_of(n, body)).collect();
        self.next += RECORD;
        self.apply(Op::Publish { queue: queue.clone(), messages }).1
    }

    /// Leases and acknowledges as many; the longer of both.
    fn consume(&mut self, queue: &QueueName) -> Duration {
        let lease = Op::Lease { queue: queue.clone(), max: RECORD as u32, visibility_ms: None };
        let (OpAnswer::Leased(deliveries), leased) = self.apply(lease) else { panic!("no lease") };
        let receipts = deliveries.iter().filter_map(|delivery| delivery.receipt).collect();
        leased.max(self.apply(Op::Ack { queue: queue.clone(), receipts }).1)
    }
}

/// Three queues remember as many ids as they may, in a fourth a million messages wait: how long it takes to begin a
/// checkpoint, and the longest record that is applied while it is made by another thread.
fn checkpoint() {
    let [busy @ .., backlog] = ["a", "b", "c", "backlog"].map(|name| QueueName::new(name).expect("a name"));
    let mut course = Course { queues: Queues::new(HERE), seq: 0, next: 0 };
    for queue in &busy {
        for _ in 0..MAX_IDS_REMEMBERED as u64 / RECORD {
            course.publish(queue, BODY);
            course.consume(queue);
        }
    }
    for _ in 0..MESSAGES / RECORD {
        course.publish(&backlog, 1_000);
    }
    for round in 0..2 {
        let begun = Instant::now();
        let snapshot = course.queues.snapshot();
        let began = begun.elapsed();
        let making = thread::spawn(move || snapshot.pieces().map(|piece| piece.len()).sum::<usize>());
        let (mut longest, mut records) = (Duration::ZERO, 0u64);
        while !making.is_finished() {
            for queue in busy.iter().chain([&backlog]) {
                longest = longest.max(course.publish(queue, BODY)).max(course.consume(queue));
                records += 3;
            }
        }
        let (took, bytes) = (begun.elapsed(), making.join().expect("no panic"));
        println!(
            "checkpoint {round} of 4 million ids and a million messages of 1,000 bytes: begun in {began:?}, {bytes} bytes in \
             {took:?}, {records} records of {RECORD} messages meanwhile, the longest in {longest:?}"
        );
    }
    let saved = course.queues.save();
    let (mut loader, mut longest, begun) = (Loader::new(HERE, saved), Duration::ZERO, Instant::now());
    loop {
        let step = Instant::now();
        let more = loader.step().expect("what was saved");
        longest = longest.max(step.elapsed());
        if !more {
            break;
        }
    }
    let last = Instant::now();
    let loaded = loader.finish().expect("what was saved");
    println!("loaded in {:?}, the longest step in {longest:?}, the last in {:?}", begun.elapsed(), last.elapsed());
    black_box(loaded);
}

fn main() {
    memory();
    checkpoint();
    for (standing, by) in [(0, 1), (0, 100), (500_000, 1), (500_000, 100)] {
        round_trips(standing, by);
    }
}
