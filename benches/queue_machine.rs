//! What the queue machine costs by itself: operations a second, and memory for each message.
//!
//! `cargo bench --bench queue_machine`. The memory is what the kernel counts for this process (Linux
//! only), before and after a million messages of 256 bytes lie in a queue.
#![allow(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use syncmesh::{
    ids::{Epoch, MessageId, PartitionId, QueueName, Tick},
    machine::{
        queue::{Batch, NewMessage, Op, OpAnswer, Queues},
        replication::Position,
    },
};

const MESSAGES: u64 = 1_000_000;
const BODY: usize = 256;
const HERE: PartitionId = PartitionId(0);

/// One record of one operation.
fn apply(queues: &mut Queues, seq: u64, at: u64, op: Op) -> OpAnswer {
    let mut effects = Vec::new();
    let batch = Batch { at: Tick(at), retention_s: 1_209_600, ops: vec![op] };
    let answer = queues.apply(Position { epoch: Epoch(1), seq }, &batch, &mut effects).remove(0);
    black_box(effects);
    answer
}

/// As it comes out of a record: id, body and all are its own.
fn message(n: u64) -> NewMessage {
    NewMessage {
        id: MessageId::new(format!("{n:036}")).expect("digits"),
        body: Bytes::from(vec![7; BODY]),
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
    let before = resident_bytes();
    let queue = QueueName::new("orders").expect("a name");
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
    black_box(loaded);
}

fn main() {
    memory();
    for (standing, by) in [(0, 1), (0, 100), (500_000, 1), (500_000, 100)] {
        round_trips(standing, by);
    }
}
