//! What the lock machine costs by itself: operations a second, and memory for each held lock.
//!
//! `cargo bench --bench lock_machine`. The memory is what the kernel counts for this process (Linux
//! only), before and after a million locks are held.
#![allow(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::{fs, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group};
use syncmesh::{
    ids::{Incarnation, LockName, NodeId, RequestId, SessionId, Tick},
    machine::lock::{Acquire, LockAnswer, LockRequest, LockTable, Mode, NewSession, Want},
};

fn id(seq: u64) -> RequestId {
    RequestId { node: NodeId::from_bytes([7; 32]), incarnation: Incarnation(1), seq }
}

fn session(n: u64) -> SessionId {
    SessionId::new(format!("s-{n:020}")).expect("digits")
}

fn lock(n: u64) -> LockName {
    LockName::new(format!("lock-{n:011}")).expect("digits")
}

fn ask(table: &mut LockTable, seq: u64, request: LockRequest) -> LockAnswer {
    let mut effects = Vec::new();
    let answer = table.request(Tick(seq), id(seq), request, &mut effects);
    black_box(effects);
    answer
}

fn open(table: &mut LockTable, n: u64) {
    let new = NewSession { session: session(n), ttl_ms: 30_000, owner: "".into() };
    ask(table, 0, LockRequest::OpenSession(new));
}

fn acquire(session: SessionId, lock: LockName, wait_ms: u64) -> LockRequest {
    let wants = vec![Want { lock, mode: Mode::Exclusive }];
    LockRequest::Acquire(Acquire { session, open: None, wants, wait_ms, lock_delay_ms: 0 })
}

/// A table in which each of `sessions` holds its share of `locks`.
fn held(sessions: u64, locks: u64) -> LockTable {
    let mut table = LockTable::new();
    (0..sessions).for_each(|n| open(&mut table, n));
    for n in 0..locks {
        let answer = ask(&mut table, n, acquire(session(n % sessions), lock(n), 0));
        assert!(matches!(answer, LockAnswer::Granted(_)));
    }
    table
}

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("acquire and release");
    group.throughput(Throughput::Elements(1));
    for locks in [0, 100_000] {
        let mut table = held(1_000, locks);
        let mut seq = locks;
        group.bench_function(format!("beside {locks} held locks"), |b| {
            b.iter(|| {
                seq += 1;
                let name = lock(1_000_000 + seq % 1_000);
                let granted = ask(&mut table, seq, acquire(session(7), name.clone(), 0));
                assert!(matches!(granted, LockAnswer::Granted(_)));
                ask(&mut table, seq, LockRequest::Release { session: session(7), lock: name })
            });
        });
    }
    group.finish();
}

fn hand_over(c: &mut Criterion) {
    let mut group = c.benchmark_group("release to the next in line");
    group.throughput(Throughput::Elements(1));
    for waiters in [10, 10_000] {
        let mut table = held(1, 1);
        for n in 1..=waiters {
            open(&mut table, n);
            ask(&mut table, n, acquire(session(n), lock(0), 60_000));
        }
        let mut holder = 0;
        let mut seq = waiters;
        group.bench_function(format!("{waiters} waiters"), |b| {
            b.iter(|| {
                seq += 1;
                ask(&mut table, seq, LockRequest::Release { session: session(holder), lock: lock(0) });
                let waits = ask(&mut table, seq, acquire(session(holder), lock(0), 60_000));
                assert_eq!(waits, LockAnswer::Waiting);
                holder = (holder + 1) % (waiters + 1);
            });
        });
    }
    group.finish();
}

fn wait_while_holding(c: &mut Criterion) {
    // Everyone in line holds something that somebody waits for: the whole line is searched for a
    // cycle. The worst case of an acquire.
    let waiters = 10_000;
    let mut table = held(waiters + 2, waiters + 2);
    for n in 1..=waiters {
        ask(&mut table, n, acquire(session(n), lock(0), 60_000));
    }
    ask(&mut table, waiters + 1, acquire(session(waiters), lock(waiters + 1), 60_000));
    c.bench_function("search for a deadlock through 10000 waiters", |b| {
        b.iter(|| {
            let refused = ask(&mut table, u64::MAX, acquire(session(waiters + 1), lock(0), 60_000));
            assert!(matches!(refused, LockAnswer::Refused(_)));
        });
    });
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1_024)
}

fn tell_memory() {
    const LOCKS: u64 = 1_000_000;
    for sessions in [1_000, LOCKS] {
        let Some(before) = resident_bytes() else { return };
        let table = held(sessions, LOCKS);
        let after = resident_bytes().unwrap_or(before);
        let each = after.saturating_sub(before) / LOCKS;
        println!("{LOCKS} locks held by {sessions} sessions: {each} bytes each, their sessions included");
        // Kept, so that the next figure does not count memory that this one gave back.
        std::mem::forget(table);
    }
}

criterion_group!(machine, pairs, hand_over, wait_while_holding);

fn main() {
    tell_memory();
    machine();
    Criterion::default().configure_from_args().final_summary();
}
