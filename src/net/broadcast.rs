//! Broadcasts of one topic travel together.
//!
//! Owns what waits to be published, and the form of a message: each body behind its length, four bytes
//! big-endian. A body that comes when nothing was published for a millisecond is published at once; what comes
//! within a millisecond after that is published together at its end, or when the next one would not fit. So a
//! single body does not wait, and many cost few messages. Driven by the swarm task.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use super::Topic;

/// Most bytes of a message.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Most bytes of one body.
pub(super) const MAX_BODY_BYTES: usize = MAX_MESSAGE_BYTES - LENGTH_BYTES;
/// Most bodies of a message.
const MAX_BODIES: usize = 1024;
/// The time between two messages of a topic, unless they are full.
const GATHER: Duration = Duration::from_millis(1);

const LENGTH_BYTES: usize = size_of::<u32>();

/// What waits to be published under one topic.
#[derive(Debug)]
struct Batch {
    message: Vec<u8>,
    bodies: usize,
    due: Instant,
}

/// What waits to be published.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    batches: BTreeMap<Topic, Batch>,
    /// Until when what comes under a topic waits.
    gather_until: BTreeMap<Topic, Instant>,
}

impl Broadcasts {
    /// Adds a body of at most [`MAX_BODY_BYTES`]. The message that it does not fit into comes out.
    pub(super) fn add(&mut self, now: Instant, topic: Topic, body: &[u8]) -> Option<Vec<u8>> {
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY_BYTES)?;
        let fits = |batch: &Batch| {
            batch.bodies < MAX_BODIES && batch.message.len() + LENGTH_BYTES + body.len() <= MAX_MESSAGE_BYTES
        };
        let full = match self.batches.get(&topic) {
            Some(batch) if !fits(batch) => self.batches.remove(&topic).map(|batch| batch.message),
            _ => None,
        };
        if full.is_some() {
            self.gather_until.insert(topic, now + GATHER);
        }
        let due = self.gather_until.get(&topic).copied().unwrap_or(now).max(now);
        let new = || Batch { message: Vec::new(), bodies: 0, due };
        let batch = self.batches.entry(topic).or_insert_with(new);
        batch.message.extend_from_slice(&length.to_be_bytes());
        batch.message.extend_from_slice(body);
        batch.bodies += 1;
        full
    }

    /// When the next message is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.batches.values().map(|batch| batch.due).min()
    }

    /// A message that is due, of any topic.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(Topic, Vec<u8>)> {
        let topic = self.batches.iter().find(|(_, batch)| now >= batch.due).map(|(topic, _)| *topic)?;
        self.gather_until.insert(topic, now + GATHER);
        self.batches.remove(&topic).map(|batch| (topic, batch.message))
    }
}

/// The bodies of a message that a peer has published; none if it is malformed.
pub(super) fn bodies(mut message: Bytes) -> Option<Vec<Bytes>> {
    let mut bodies = Vec::new();
    while message.has_remaining() {
        let length = usize::try_from(message.try_get_u32().ok()?).ok()?;
        if length > message.len() || bodies.len() == MAX_BODIES {
            return None;
        }
        bodies.push(message.split_to(length));
    }
    Some(bodies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_alone_does_not_wait_and_what_comes_soon_after_travels_together_and_in_order() {
        let mut broadcasts = Broadcasts::default();
        let now = Instant::now();
        assert_eq!(broadcasts.add(now, Topic::View, b"zero"), None);
        assert_eq!(broadcasts.due(), Some(now));
        assert_eq!(bodies(broadcasts.take_due(now).unwrap().1.into()).unwrap(), ["zero"]);
        for body in ["one", "", "three"] {
            assert_eq!(broadcasts.add(now, Topic::View, body.as_bytes()), None);
        }
        assert_eq!(broadcasts.take_due(now), None);
        assert_eq!(broadcasts.due(), Some(now + GATHER));
        let (topic, message) = broadcasts.take_due(now + GATHER).unwrap();
        assert_eq!(topic, Topic::View);
        assert_eq!(bodies(message.into()).unwrap(), ["one", "", "three"]);
        assert_eq!((broadcasts.due(), broadcasts.take_due(now + GATHER)), (None, None));
        let later = now + GATHER * 3;
        broadcasts.add(later, Topic::View, b"alone");
        assert_eq!(broadcasts.due(), Some(later));
    }

    #[test]
    fn topics_do_not_mix() {
        let mut broadcasts = Broadcasts::default();
        let now = Instant::now();
        broadcasts.add(now, Topic::View, b"view");
        broadcasts.add(now, Topic::Invalidations, b"line");
        let taken: Vec<_> = std::iter::from_fn(|| broadcasts.take_due(now + GATHER)).collect();
        assert_eq!(taken.len(), 2);
        assert!(taken.iter().all(|(_, message)| bodies(message.clone().into()).unwrap().len() == 1));
    }

    #[test]
    fn a_message_never_exceeds_its_bounds() {
        let mut broadcasts = Broadcasts::default();
        let now = Instant::now();
        let large = vec![1; MAX_BODY_BYTES];
        assert_eq!(broadcasts.add(now, Topic::View, &large), None);
        let first = broadcasts.add(now, Topic::View, b"x").expect("nothing more fits");
        assert_eq!(first.len(), MAX_MESSAGE_BYTES);
        assert_eq!(bodies(first.into()).unwrap()[0], large);
        assert_eq!(broadcasts.add(now, Topic::View, &vec![1; MAX_BODY_BYTES + 1]), None);
        let mut broadcasts = Broadcasts::default();
        let full = (0..=MAX_BODIES).find_map(|_| broadcasts.add(now, Topic::View, b""));
        assert_eq!(bodies(full.unwrap().into()).unwrap().len(), MAX_BODIES);
    }

    #[test]
    fn malformed_messages_have_no_bodies() {
        for bad in [&[0, 0, 0, 2, 1][..], &[0, 0, 1], &[0xff; 8], &[0; 4 * (MAX_BODIES + 1)]] {
            assert_eq!(bodies(Bytes::copy_from_slice(bad)), None);
        }
        assert_eq!(bodies(Bytes::new()), Some(Vec::new()));
    }
}
