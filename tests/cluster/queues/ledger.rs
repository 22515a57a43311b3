//! What the clients of a load were told, and what must be true of it whatever happened meanwhile.
//!
//! * What was acknowledged to a publisher is delivered, and was given a place of its own.
//! * What was refused as having no effect is never delivered.
//! * What a receiver has acknowledged is not delivered to anyone who asks later.
//! * A message comes twice only when the visibility of an earlier delivery is over, or where the memories of all its
//!   copies were lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::load::VISIBILITY;

/// A publish that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) id: String,
    pub(super) queue: String,
    /// The partition, and the number within it.
    pub(super) place: (u64, u64),
    /// When the try that was answered was asked.
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

/// A try that was refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) slug: String,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

/// A message that came.
#[derive(Clone, Debug)]
pub(super) struct Delivered {
    pub(super) id: String,
    /// Its `deliveries`.
    pub(super) nth: u64,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

/// Whether some copy of each partition has kept its memory all the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Memories {
    Kept,
    /// All copies of a partition crashed together: what was delivered may come again at once.
    Lost,
}

/// Everything that was answered.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    began: Instant,
    pub(super) published: Vec<Published>,
    pub(super) refusals: Vec<Refusal>,
    /// Messages of which every try was refused as having no effect.
    pub(super) refused: BTreeSet<String>,
    pub(super) delivered: Vec<Delivered>,
    /// Messages whose consumption was acknowledged, and when that was answered first.
    pub(super) consumed: BTreeMap<String, Instant>,
    /// Receipts that came too late.
    pub(super) expired: usize,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            published: Vec::new(),
            refusals: Vec::new(),
            refused: BTreeSet::new(),
            delivered: Vec::new(),
            consumed: BTreeMap::new(),
            expired: 0,
        }
    }

    /// How many publishes were asked for after a moment and acknowledged.
    pub(super) fn published_after(&self, moment: Instant) -> usize {
        self.published.iter().filter(|published| published.asked > moment).count()
    }

    /// From a moment to the acknowledgement of the first publish that was asked for after it.
    pub(super) fn first_after(&self, moment: Instant) -> Option<Duration> {
        let after = self.published.iter().filter(|published| published.asked > moment);
        after.map(|published| published.answered - moment).min()
    }

    /// Publishes that were refused after a moment because they could not be made as durable as they should be.
    pub(super) fn not_durable(&self, moment: Instant) -> impl Iterator<Item = &Refusal> {
        let after = move |refusal: &&Refusal| refusal.answered > moment;
        self.refusals.iter().filter(|refusal| refusal.slug == "durability-unavailable").filter(after)
    }

    /// Those who were acknowledged and have not come.
    pub(super) fn missing(&self) -> BTreeSet<&str> {
        let delivered: BTreeSet<&str> = self.delivered.iter().map(|delivered| delivered.id.as_str()).collect();
        self.published.iter().map(|published| published.id.as_str()).filter(|id| !delivered.contains(id)).collect()
    }

    /// The longest time in which no publish to one of the queues was acknowledged, where, and how long after the
    /// beginning it began.
    fn longest_gap(&self) -> (Duration, &str, Duration) {
        let mut queues: BTreeMap<&str, Vec<Instant>> = BTreeMap::new();
        for published in &self.published {
            queues.entry(&published.queue).or_insert_with(|| vec![self.began]).push(published.answered);
        }
        let gaps = queues.into_iter().flat_map(|(queue, mut answered)| {
            answered.sort();
            let gaps = answered.windows(2).map(|pair| (pair[1] - pair[0], queue, pair[0] - self.began));
            gaps.collect::<Vec<_>>()
        });
        gaps.max().unwrap_or_default()
    }

    /// Checks everything, and tells the figures.
    #[track_caller]
    pub(super) fn check(&self, what: &str, memories: Memories) {
        let lost = self.missing();
        assert!(lost.is_empty(), "{what}: {} acknowledged messages were lost: {lost:?}", lost.len());
        self.check_places();
        let (over, forgotten) = self.check_deliveries(memories);
        let (gap, queue, at) = self.longest_gap();
        println!(
            "{what}: {} messages acknowledged, 0 lost; {} refused, 0 of them delivered; {} duplicates ({over} after their \
             visibility was over, {forgotten} whose lease was lost with all memories); longest time without an \
             acknowledged publish {gap:?} ({queue}, {at:?} after the beginning)",
            self.published.len(),
            self.refused.len(),
            over + forgotten,
        );
    }

    /// Two primaries that acknowledge at a time give one place twice.
    fn check_places(&self) {
        let mut places = BTreeMap::new();
        for published in &self.published {
            let before = places.insert(published.place, published);
            assert!(before.is_none(), "one place for two: {before:?}, {published:?}");
        }
    }

    /// How many messages came again, because of a visibility that was over and because a lease was forgotten.
    fn check_deliveries(&self, memories: Memories) -> (usize, usize) {
        let mut by_id: BTreeMap<&str, Vec<&Delivered>> = BTreeMap::new();
        for delivered in &self.delivered {
            assert!(!self.refused.contains(&delivered.id), "was refused as having no effect, and came: {delivered:?}");
            if let Some(consumed) = self.consumed.get(&delivered.id) {
                assert!(
                    delivered.asked < *consumed,
                    "consumed {:?} before, and came again: {delivered:?}",
                    delivered.asked - *consumed
                );
            }
            by_id.entry(&delivered.id).or_default().push(delivered);
        }
        let (mut over, mut forgotten) = (0, 0);
        for mut deliveries in by_id.into_values() {
            deliveries.sort_by_key(|delivered| (delivered.nth, delivered.answered));
            for pair in deliveries.windows(2) {
                let [earlier, later] = pair else { unreachable!("windows of two") };
                // Leased at the earliest when it was asked for, again at the latest when that was answered.
                if earlier.nth < later.nth && later.answered - earlier.asked >= VISIBILITY {
                    over += 1;
                } else {
                    assert_eq!(memories, Memories::Lost, "came again while it was out: {earlier:?}, {later:?}");
                    forgotten += 1;
                }
            }
        }
        (over, forgotten)
    }
}
