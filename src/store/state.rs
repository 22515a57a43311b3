//! A state as it is given to a journal: made piece by piece while it is written, so that it is never in memory as a
//! whole, and whoever gives it does not wait for its making.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};

/// What makes the bytes of a state.
pub trait Pieces: fmt::Debug + Send + Sync + 'static {
    /// All of them, in order: the same ones each time, for what could not be written is written again. Each is made
    /// in some milliseconds.
    fn pieces(&self) -> Box<dyn Iterator<Item = Bytes> + Send + '_>;
}

impl Pieces for Bytes {
    fn pieces(&self) -> Box<dyn Iterator<Item = Bytes> + Send + '_> {
        Box::new(std::iter::once(self.clone()))
    }
}

/// A state to be kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct State(Arc<dyn Pieces>);

impl State {
    /// What is made of these pieces.
    pub fn new(pieces: impl Pieces) -> Self {
        Self(Arc::new(pieces))
    }

    /// Its bytes, so many at a time; the last ones may be fewer.
    pub(super) fn chunks(&self, bytes: usize) -> impl Iterator<Item = Bytes> + Send {
        let (mut pieces, mut held) = (self.0.pieces(), BytesMut::new());
        let mut piece = Bytes::new();
        std::iter::from_fn(move || {
            loop {
                if held.is_empty() && piece.len() >= bytes {
                    return Some(piece.split_to(bytes));
                }
                let some = piece.split_to(piece.len().min(bytes - held.len()));
                held.extend_from_slice(&some);
                if held.len() == bytes {
                    return Some(held.split().freeze());
                }
                match pieces.next() {
                    Some(next) => piece = next,
                    None => return (!held.is_empty()).then(|| held.split().freeze()),
                }
            }
        })
    }
}

impl From<Bytes> for State {
    fn from(bytes: Bytes) -> Self {
        Self::new(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Of(Vec<usize>);

    impl Pieces for Of {
        fn pieces(&self) -> Box<dyn Iterator<Item = Bytes> + Send + '_> {
            let mut next = 0u8;
            Box::new(self.0.iter().map(move |length| {
                let piece: Vec<u8> = (0..*length).map(|n| (n as u8).wrapping_add(next)).collect();
                next = next.wrapping_add(*length as u8);
                piece.into()
            }))
        }
    }

    #[test]
    fn pieces_of_any_lengths_come_in_chunks_of_one() {
        for lengths in [vec![], vec![0], vec![10], vec![3, 0, 4, 3], vec![25, 1], vec![9, 1, 20, 11], vec![1; 30]] {
            let state = State::new(Of(lengths.clone()));
            let total: usize = lengths.iter().sum();
            let whole: Vec<u8> = (0..total).map(|n| n as u8).collect();
            for _again in 0..2 {
                let chunks: Vec<Bytes> = state.chunks(10).collect();
                assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() == 10), "{lengths:?}");
                assert_eq!(chunks.len(), total.div_ceil(10), "{lengths:?}");
                assert_eq!(chunks.concat(), whole, "{lengths:?}");
            }
        }
    }
}
