//! What the plain model keeps of each queue: its messages, where they stand, and what it remembers.

use super::*;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Stands {
    Ready,
    Delayed(u64),
    Out(u64, Position),
}

#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) offset: u64,
    pub(super) new: NewMessage,
    pub(super) at: u64,
    pub(super) deliveries: u32,
    pub(super) stands: Stands,
    /// A timer has found it too old while it was delivered.
    pub(super) judged: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: QueueName,
    pub(super) number: u64,
    pub(super) config: QueueConfig,
    pub(super) letters: Vec<Letter>,
    /// What was taken lately: the id, the offset, the time.
    pub(super) ids: Vec<(MessageId, u64, u64)>,
    /// What was moved here: the origin, the offset, the time, and whether it is remembered only because
    /// the message is there.
    pub(super) origins: Vec<(Origin, u64, u64, bool)>,
    pub(super) stats: QueueStats,
}

#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) from: QueueName,
    pub(super) to: QueueName,
    pub(super) offset: u64,
    pub(super) message: NewMessage,
    pub(super) told: bool,
}
impl Letter {
    pub(super) fn origin_queue(&self) -> Option<&QueueName> {
        self.new.origin.as_ref().map(|origin| &origin.queue)
    }

    pub(super) fn shown(&self, receipt: Option<Receipt>, visible_at: u64) -> Delivery {
        Delivery {
            id: self.new.id.clone(),
            offset: self.offset,
            receipt,
            body: self.new.body.clone(),
            content_type: self.new.content_type.clone(),
            attributes: self.new.attributes.clone(),
            priority: self.new.priority,
            deliveries: self.deliveries,
            enqueued_at: Tick(self.at),
            visible_at: Tick(visible_at),
        }
    }
}

impl Line {
    pub(super) fn too_old_at(&self, letter: &Letter) -> u64 {
        let at = letter.at + self.config.retention_s * 1_000;
        at.div_ceil(1_000) * 1_000
    }

    pub(super) fn windows_ms(&self) -> (u64, u64) {
        (self.config.dedup_window_s * 1_000, self.config.dedup_window_s.max(ORIGIN_WINDOW_S) * 1_000)
    }

    /// The messages in the order in which they would be delivered.
    pub(super) fn waiting(&self) -> Vec<&Letter> {
        let mut waiting: Vec<_> = self.letters.iter().filter(|letter| letter.stands == Stands::Ready).collect();
        waiting.sort_by_key(|letter| (9 - letter.new.priority, letter.offset));
        waiting
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let ends = self.letters.iter().filter_map(|letter| match letter.stands {
            Stands::Ready => None,
            Stands::Delayed(until) | Stands::Out(until, _) => Some(until),
        });
        let ages = self.letters.iter().filter(|letter| !letter.judged).map(|letter| self.too_old_at(letter));
        let (ids, origins) = self.windows_ms();
        let ids = self.ids.iter().map(|(_, _, at)| at + ids + FORGET_SLACK_MS);
        let origins =
            self.origins.iter().filter(|(.., kept)| !kept).map(|(_, _, at, _)| at + origins + FORGET_SLACK_MS);
        ends.chain(ages).chain(ids).chain(origins).min()
    }

    pub(super) fn exhausted(&self, letter: &Letter) -> bool {
        let most = self.config.max_deliveries.map(|most| most.max(1));
        self.config.dead_letter.is_some() && most.is_some_and(|most| letter.deliveries >= most)
    }

    pub(super) fn find(&self, receipt: Receipt) -> Option<usize> {
        self.letters.iter().position(
            |letter| matches!(letter.stands, Stands::Out(_, lease) if receipt == Receipt { offset: letter.offset, lease }),
        )
    }
}
impl Outgoing {
    pub(super) fn to_tell(&self) -> Move {
        Move { offset: self.offset, to: self.to.clone(), message: self.message.clone() }
    }
}
