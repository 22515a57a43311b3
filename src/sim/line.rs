//! A client's line to the nodes: at which of them it asks, how patiently, and how often.

use std::{ops::RangeInclusive, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{sleep, timeout};

use super::door::{Door, Service};

/// How often something is asked at the most, before its outcome is taken as it is.
const ATTEMPTS: u32 = 3;
/// Of 100 attempts without an answer, or that were refused, so many are repeated.
const REPEATED_PERCENT: u32 = 60;

/// One client's.
pub struct Line<S: Service> {
    doors: Vec<Door<S>>,
    dice: StdRng,
    at: usize,
    patience_ms: u64,
}

impl<S: Service> Line<S> {
    /// To any of these; after so long the client hangs up.
    pub fn new(doors: Vec<Door<S>>, mut dice: StdRng, patience_ms: u64) -> Self {
        let at = dice.random_range(0..doors.len());
        Self { doors, dice, at, patience_ms }
    }

    /// Another one, for something that the client does at the same time.
    pub fn fork(&mut self) -> Self {
        let dice = StdRng::seed_from_u64(self.dice.random());
        Self { doors: self.doors.clone(), dice, at: self.at, patience_ms: self.patience_ms }
    }

    /// The client's dice.
    pub fn dice(&mut self) -> &mut StdRng {
        &mut self.dice
    }

    /// One of these.
    pub fn draw(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.dice.random_range(range)
    }

    /// Whether it is one of so many of 100.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.dice.random_ratio(percent, 100)
    }

    /// Lets so many milliseconds pass.
    pub async fn pause(&mut self, range: RangeInclusive<u64>) {
        let ms = self.draw(range);
        sleep(Duration::from_millis(ms)).await;
    }

    /// Asks, perhaps again elsewhere, under the same key: the answer, and how many attempts had none.
    pub async fn ask(&mut self, ask: S::Ask, key: Option<String>) -> (S::Answer, u32) {
        let mut unanswered = 0;
        for attempt in 1..=ATTEMPTS {
            let answer = self.attempt(ask.clone(), key.clone()).await;
            if answer == S::UNKNOWN {
                unanswered += 1;
            } else if !S::is_refusal(&answer) {
                return (answer, unanswered);
            }
            self.go_elsewhere();
            if attempt == ATTEMPTS || !self.chance(REPEATED_PERCENT) {
                return (if unanswered > 0 { S::UNKNOWN } else { answer }, unanswered);
            }
            self.pause(5..=150).await;
        }
        unreachable!("the last attempt returns")
    }

    /// Asks once.
    pub async fn attempt(&mut self, ask: S::Ask, key: Option<String>) -> S::Answer {
        // The way to the node and back; sometimes the client gets to its answer late.
        self.pause(0..=2).await;
        let door = self.doors[self.at].clone();
        let patience = Duration::from_millis(self.patience_ms);
        let answer = timeout(patience, door.perform(ask, key)).await.unwrap_or(S::UNKNOWN);
        if self.chance(1) {
            self.pause(50..=1_500).await
        } else {
            self.pause(0..=2).await
        }
        answer
    }

    /// From now on the client asks another node, or the same.
    pub fn go_elsewhere(&mut self) {
        self.at = self.dice.random_range(0..self.doors.len());
    }
}
