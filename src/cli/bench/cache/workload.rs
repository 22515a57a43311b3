//! What each client of `bench cache` does: one call after the other, until the run is over.
//!
//! Values say how often their key was written. Where one client alone writes a key, a read that finds an older value
//! than was acknowledged to it before is stale, and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use hdrhistogram::Histogram;
use tokio::time::sleep;

use super::zipf::Zipf;
use crate::{
    cli::bench::{FAILURE_PAUSE, histogram, micros},
    client::{ClientError, RemoteCache, StoreOptions},
    ids::CacheKey,
};

/// Digits at the beginning of a value that say how often its key was written.
const DIGITS: usize = 16;

/// What the clients of one run share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) over: AtomicBool,
    pub(super) operations: AtomicU64,
}

/// What one client did.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) reads: Histogram<u64>,
    pub(super) writes: Histogram<u64>,
    pub(super) hits: u64,
    pub(super) absent: u64,
    pub(super) stale: u64,
    pub(super) failures: u64,
}

/// One client: which nodes it goes to, and what it did.
pub(super) struct Flow {
    number: usize,
    /// Its own first.
    nodes: Vec<RemoteCache>,
    keys: Arc<Vec<CacheKey>>,
    size: usize,
    shared: Arc<Shared>,
    tally: Tally,
}

/// A key that one client alone writes.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    key: usize,
    /// The last write that was tried, and the last that was acknowledged.
    tried: u64,
    acknowledged: u64,
}

impl Flow {
    pub(super) fn new(
        number: usize,
        nodes: Vec<RemoteCache>,
        keys: Arc<Vec<CacheKey>>,
        size: usize,
        shared: Arc<Shared>,
    ) -> Self {
        let (reads, writes) = (histogram(), histogram());
        let tally = Tally { reads, writes, hits: 0, absent: 0, stale: 0, failures: 0 };
        Self { number, nodes, keys, size, shared, tally }
    }

    fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Relaxed)
    }

    /// Stores each key that falls to this one of so many clients.
    pub(super) async fn store_share(self, clients: usize) -> Result<(), ClientError> {
        for key in self.keys.iter().skip(self.number).step_by(clients) {
            self.nodes[0].put(key, value(0, self.size), &StoreOptions::default()).await?;
            self.shared.operations.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads keys, of 100 operations writes so many; each as likely as the other, or by a distribution.
    pub(super) async fn mixed(mut self, writes: u32, distribution: Option<Arc<Zipf>>) -> Tally {
        let mut written = 0;
        while !self.is_over() {
            let key = match &distribution {
                Some(zipf) => zipf.draw(rand::random()),
                None => rand::random_range(0..self.keys.len()),
            };
            if rand::random_range(0..100) < writes {
                written += 1;
                self.write(0, key, written).await;
            } else {
                self.read(0, key).await;
            }
        }
        self.tally
    }

    /// Reads and then writes the keys that fall to this one of so many clients, one after the other.
    pub(super) async fn private(mut self, clients: usize) -> Tally {
        let keys = (self.number..self.keys.len()).step_by(clients);
        let mut all: Vec<Own> = keys.map(|key| Own { key, ..Own::default() }).collect();
        while !self.is_over() {
            for own in &mut all {
                self.read_own(0, own).await;
                self.write_own(0, own).await;
                if self.is_over() {
                    break;
                }
            }
        }
        self.tally
    }

    /// Writes a key at its own node, then reads it at each of the others.
    pub(super) async fn producer_consumer(mut self) -> Tally {
        let mut own = Own { key: self.number, ..Own::default() };
        let readers = if self.nodes.len() == 1 { 0..1 } else { 1..self.nodes.len() };
        while !self.is_over() {
            self.write_own(0, &mut own).await;
            for node in readers.clone() {
                self.read_own(node, &own).await;
            }
        }
        self.tally
    }

    /// Reads and then writes a key, at one node after the other.
    pub(super) async fn migratory(mut self) -> Tally {
        let mut own = Own { key: self.number, ..Own::default() };
        for node in (0..self.nodes.len()).cycle() {
            if self.is_over() {
                break;
            }
            self.read_own(node, &own).await;
            self.write_own(node, &mut own).await;
        }
        self.tally
    }

    async fn read_own(&mut self, node: usize, own: &Own) {
        if let Some(found) = self.read(node, own.key).await
            && found < own.acknowledged
        {
            self.tally.stale += 1;
        }
    }

    async fn write_own(&mut self, node: usize, own: &mut Own) {
        own.tried += 1;
        if self.write(node, own.key, own.tried).await {
            own.acknowledged = own.tried;
        }
    }

    /// The count in the value of a key, where there is one.
    async fn read(&mut self, node: usize, key: usize) -> Option<u64> {
        let began = Instant::now();
        let read = self.nodes[node].get(&self.keys[key]).await;
        let took = micros(began.elapsed());
        let Ok(read) = read else {
            self.has_failed().await;
            return None;
        };
        self.tally.reads.saturating_record(took);
        self.shared.operations.fetch_add(1, Ordering::Relaxed);
        let Some(read) = read else {
            self.tally.absent += 1;
            return None;
        };
        self.tally.hits += u64::from(read.hit);
        count_in(&read.body)
    }

    /// Whether it was acknowledged.
    async fn write(&mut self, node: usize, key: usize, count: u64) -> bool {
        let began = Instant::now();
        let stored = self.nodes[node].put(&self.keys[key], value(count, self.size), &StoreOptions::default()).await;
        let took = micros(began.elapsed());
        if stored.is_err() {
            self.has_failed().await;
            return false;
        }
        self.tally.writes.saturating_record(took);
        self.shared.operations.fetch_add(1, Ordering::Relaxed);
        true
    }

    async fn has_failed(&mut self) {
        self.tally.failures += 1;
        sleep(FAILURE_PAUSE).await;
    }
}

/// A value of so many bytes that says how often its key was written.
fn value(count: u64, size: usize) -> Vec<u8> {
    let mut value = format!("{count:0DIGITS$}").into_bytes();
    value.resize(size, b'x');
    value
}

fn count_in(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value.get(..DIGITS)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_how_often_its_key_was_written() {
        for (count, size) in [(0, 16), (41, 128)] {
            let value = value(count, size);
            assert_eq!((value.len(), count_in(&value)), (size, Some(count)));
        }
        assert_eq!((count_in(b"short"), count_in(&[b'x'; 16])), (None, None));
    }
}
