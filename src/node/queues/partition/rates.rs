//! How many messages a second a queue has taken, delivered and seen acknowledged lately.

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant};

use crate::{ids::QueueName, machine::queue::Counted};

/// The rates are of so many seconds.
const WINDOW: usize = 10;

/// Of one queue, in messages a second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Rate {
    pub(super) published: f64,
    pub(super) delivered: f64,
    pub(super) acknowledged: f64,
}

/// The counts of one queue, by second.
#[derive(Clone, Debug)]
struct Window {
    /// The second of the last bucket.
    last: u64,
    buckets: [[u64; 3]; WINDOW],
}

/// Of all queues of a partition in which something has happened lately.
#[derive(Debug, Default)]
pub(super) struct Rates {
    began: Option<Instant>,
    queues: BTreeMap<QueueName, Window>,
    swept: u64,
}

impl Rates {
    pub(super) fn count(&mut self, queue: &QueueName, what: Counted, messages: u64, now: Instant) {
        let index = match what {
            Counted::Published => 0,
            Counted::Delivered => 1,
            Counted::Acknowledged => 2,
            _ => return,
        };
        let second = now.duration_since(*self.began.get_or_insert(now)).as_secs();
        self.sweep(second);
        let window = self.queues.entry(queue.clone()).or_insert(Window { last: second, buckets: Default::default() });
        window.advance(second);
        window.buckets[bucket(second)][index] += messages;
    }

    pub(super) fn of(&self, queue: &QueueName, now: Instant) -> Rate {
        let (Some(began), Some(window)) = (self.began, self.queues.get(queue)) else { return Rate::default() };
        let mut window = window.clone();
        window.advance(now.duration_since(began).as_secs());
        let rate = |index: usize| {
            let sum: u64 = window.buckets.iter().map(|bucket| bucket[index]).sum();
            let seconds = now.duration_since(began).clamp(Duration::from_secs(1), Duration::from_secs(WINDOW as u64));
            // Counts of ten seconds are far below what a float counts exactly.
            #[allow(clippy::cast_precision_loss)]
            let sum = sum as f64;
            sum / seconds.as_secs_f64()
        };
        Rate { published: rate(0), delivered: rate(1), acknowledged: rate(2) }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets the queues in which nothing happens any more, once a window.
    fn sweep(&mut self, second: u64) {
        if second >= self.swept + WINDOW as u64 {
            self.swept = second;
            self.queues.retain(|_, window| window.last + WINDOW as u64 > second);
        }
    }
}

impl Window {
    fn advance(&mut self, second: u64) {
        for passed in (self.last + 1..=second).take(WINDOW) {
            self.buckets[bucket(passed)] = Default::default();
        }
        if second > self.last + WINDOW as u64 {
            self.buckets = Default::default();
        }
        self.last = self.last.max(second);
    }
}

fn bucket(second: u64) -> usize {
    usize::try_from(second % WINDOW as u64).expect("a remainder of ten fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_of_the_last_seconds() {
        let queue = QueueName::new("q").unwrap();
        let mut rates = Rates::default();
        let began = Instant::now();
        let at = |s| began + Duration::from_secs(s);
        for second in 0..20 {
            rates.count(&queue, Counted::Published, 7, at(second));
        }
        assert_eq!(rates.of(&queue, at(19)), Rate { published: 7.0, ..Rate::default() });
        assert_eq!(rates.of(&queue, at(24)), Rate { published: 3.5, ..Rate::default() });
        assert_eq!(rates.of(&queue, at(60)), Rate::default());
        rates.count(&QueueName::new("other").unwrap(), Counted::Acknowledged, 1, at(60));
        assert_eq!(rates.queues.len(), 1);
    }
}
