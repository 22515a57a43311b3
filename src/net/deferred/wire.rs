//! The envelope: a batch of messages one way, a batch of replies back, in CBOR.
//!
//! Owns the bounds on what is in one: the number of messages, and the bytes of their bodies.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Serialize,
    de::{SeqAccess, Visitor},
};

use crate::{
    codec::{self, Unreadable},
    ids::{Incarnation, NodeId, RequestId},
};

/// Messages in one exchange.
pub(super) const MAX_BATCH: usize = 256;
/// Bytes of bodies after which no further message joins a batch.
pub(super) const BATCH_BYTES: usize = 256 * 1024;
/// What a message adds to its body in the envelope, at most.
pub(super) const MESSAGE_OVERHEAD: usize = 64;

/// The largest body that fits an exchange of so many bytes.
pub(super) const fn most_body(exchange_bytes: usize) -> usize {
    exchange_bytes - 2 * MESSAGE_OVERHEAD
}

/// A [`RequestId`] without its node, which is always the asker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(super) struct AskId(pub(super) Incarnation, pub(super) u64);

impl AskId {
    pub(super) fn of(id: RequestId) -> Self {
        Self(id.incarnation, id.seq)
    }

    pub(super) fn by(self, node: NodeId) -> RequestId {
        RequestId { node, incarnation: self.0, seq: self.1 }
    }
}

/// What one peer tells the other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// A question.
    Ask(AskId, Bytes),
    /// A question that the peer has deferred, once more. Nobody but who took it up can answer it.
    Repeat(AskId),
    /// The answer to a question that was deferred. None: it was given up.
    Complete(AskId, Option<Bytes>),
    /// Nobody waits for the answer any more.
    Cancel(AskId),
}

impl Message {
    pub(super) fn body_bytes(&self) -> usize {
        match self {
            Self::Ask(_, body) | Self::Complete(_, Some(body)) => body.len(),
            Self::Complete(_, None) | Self::Cancel(_) | Self::Repeat(_) => 0,
        }
    }
}

/// The reply to each message, in order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The final answer to a question.
    Now(Bytes),
    /// The question is open; its answer will come by itself.
    Deferred,
    /// The question was given up, or what is repeated is not known here.
    Refused,
    /// The question was not taken up: too many are open.
    Overloaded,
    /// Taken note of a completion or a cancellation.
    Noted,
}

pub(super) fn encode<T: Serialize>(batch: &[T]) -> Bytes {
    codec::encode(&batch)
}

pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<Vec<T>, Unreadable> {
    codec::decode(bytes).map(|Bounded(batch)| batch)
}

/// A list of at most [`MAX_BATCH`] elements, refused before more are decoded.
struct Bounded<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_BATCH} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() == MAX_BATCH {
                        return Err(serde::de::Error::invalid_length(MAX_BATCH + 1, &self));
                    }
                    elements.push(element);
                }
                Ok(elements)
            }
        }

        deserializer.deserialize_seq(Elements(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(seq: u64, bytes: usize) -> Message {
        Message::Ask(AskId(Incarnation(u64::MAX), seq), vec![0xff; bytes].into())
    }

    #[test]
    fn a_batch_survives_the_wire_and_nothing_may_follow_it() {
        let batch = vec![
            ask(1, 3),
            Message::Complete(AskId(Incarnation(1), 2), None),
            Message::Complete(AskId(Incarnation(1), 2), Some(Bytes::from_static(b"yes"))),
            Message::Cancel(AskId(Incarnation(1), 3)),
            Message::Repeat(AskId(Incarnation(1), 4)),
        ];
        let bytes = encode(&batch);
        assert_eq!(decode::<Message>(&bytes).unwrap(), batch);
        let longer = [&bytes[..], b"\0"].concat();
        assert!(decode::<Message>(&longer).is_err());
        for end in 0..bytes.len() {
            assert!(decode::<Message>(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_batch_is_bounded_before_it_is_decoded() {
        let most = vec![Reply::Noted; MAX_BATCH];
        assert_eq!(decode::<Reply>(&encode(&most)).unwrap().len(), MAX_BATCH);
        let more = vec![Reply::Noted; MAX_BATCH + 1];
        assert!(decode::<Reply>(&encode(&more)).is_err());
    }

    #[test]
    fn the_largest_body_fits_its_exchange() {
        let limit = 1 << 20;
        assert!(encode(&[ask(u64::MAX, most_body(limit))]).len() <= limit);
    }

    fn sent() -> Vec<Bytes> {
        let (id, yes) = (AskId(Incarnation(1), 2), Some(Bytes::from_static(b"yes")));
        let messages = [ask(1, 3), Message::Complete(id, yes), Message::Cancel(id), Message::Repeat(id)];
        let replies = [Reply::Now(Bytes::from_static(b"yes")), Reply::Deferred, Reply::Noted];
        vec![encode(&messages), encode(&replies)]
    }

    proptest::proptest! {
        #[test]
        fn what_was_tampered_with_is_decoded_or_refused(bytes in codec::hostile::bytes(sent())) {
            if let Ok(messages) = decode::<Message>(&bytes) {
                proptest::prop_assert!(messages.len() <= MAX_BATCH);
                let bodies: usize = messages.iter().map(Message::body_bytes).sum();
                proptest::prop_assert!(bodies <= bytes.len());
            }
            if let Ok(replies) = decode::<Reply>(&bytes) {
                proptest::prop_assert!(replies.len() <= MAX_BATCH);
            }
        }
    }
}
