//! What travels in one exchange: the five protocols, their limits, and the codec.
//!
//! Owns the wire form of a call: the request's bytes, the end of the stream, the answer's bytes, the
//! end of the stream. What the bytes mean is for the services (CBOR); this module only counts them.
//! An answer of no bytes says "refused". What has been read and not yet been consumed is bounded too,
//! per protocol: a flood of large messages is refused before it fills the memory. Used by the swarm task and by [`probe`](super::probe).

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    StreamProtocol,
    request_response::{self, ProtocolSupport},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Protocol;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The bounds of one protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most bytes of a request.
    pub request_bytes: usize,
    /// Most bytes of an answer.
    pub response_bytes: usize,
    /// How long a call may take, from when it is made to its answer.
    pub deadline: Duration,
    /// Calls of [`Lane::Ask`](super::Lane::Ask) in flight to one peer.
    pub ask_slots: usize,
    /// Slots for [`Lane::End`](super::Lane::End) beside those, which `Ask` cannot take.
    pub end_slots: usize,
    /// Calls of each lane to one peer that wait for a slot.
    pub queued: usize,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raft, Self::Replication, Self::Coherence, Self::Control, Self::Client];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raft => "/syncmesh/raft/1",
            Self::Replication => "/syncmesh/replication/1",
            Self::Coherence => "/syncmesh/coherence/1",
            Self::Control => "/syncmesh/control/1",
            Self::Client => "/syncmesh/client/1",
        }
    }

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Replication => "replication",
            Self::Coherence => "coherence",
            Self::Control => "control",
            Self::Client => "client",
        }
    }

    /// The bounds. Raft's requests carry log batches and snapshot chunks, replication's and the
    /// client's at most one batch of `MAX_BATCH_BYTES` (8 MiB by default) and its envelope.
    pub const fn limits(self) -> Limits {
        match self {
            Self::Raft => limits(16 * MIB, MIB, 5_000, 32, 32),
            Self::Replication => limits(17 * MIB, 17 * MIB, 5_000, 64, 32),
            Self::Coherence => limits(9 * MIB, 9 * MIB, 2_000, 64, 64),
            Self::Control => limits(2 * MIB, 8 * MIB, 5_000, 32, 16),
            // No exchange waits for work: a peer that has not even deferred a question by then is gone.
            Self::Client => limits(17 * MIB, 17 * MIB, 1_300, 64, 32),
        }
    }
}

const fn limits(
    request_bytes: usize,
    response_bytes: usize,
    deadline_ms: u64,
    ask_slots: usize,
    end_slots: usize,
) -> Limits {
    let deadline = Duration::from_millis(deadline_ms);
    Limits { request_bytes, response_bytes, deadline, ask_slots, end_slots, queued: QUEUED_CALLS }
}

/// Calls that wait for a slot, per peer, protocol and lane.
const QUEUED_CALLS: usize = 1024;

/// Substreams of one protocol on one connection: ours and the peer's slots twice over, because the
/// two ends do not forget an exchange that timed out at the same moment. Above it libp2p fails them.
const fn max_streams(limits: &Limits) -> usize {
    4 * (limits.ask_slots + limits.end_slots)
}

/// Substreams of one connection: more than all protocols' [`max_streams`] together, and below 4096,
/// where yamux's smallest windows would exceed its bound for a connection (1 GiB).
pub(super) const MAX_SUBSTREAMS: usize = 2048;

/// The request-response behaviour of one protocol.
pub(super) type Rpc = request_response::Behaviour<RawCodec>;

/// Its events.
pub(super) type RpcEvent = request_response::Event<Bytes, Bytes>;

/// Makes the behaviour of one protocol.
pub(super) fn behaviour(protocol: Protocol) -> Rpc {
    let limits = protocol.limits();
    let config = request_response::Config::default()
        .with_request_timeout(limits.deadline)
        .with_max_concurrent_streams(max_streams(&limits));
    let names = [(StreamProtocol::new(protocol.name()), ProtocolSupport::Full)];
    let pieces = Arc::new(Semaphore::new(LARGE_BYTES / PIECE));
    request_response::Behaviour::with_codec(RawCodec { limits, pieces }, names, config)
}

/// Bytes of large messages of one protocol that were read and are still in use.
const LARGE_BYTES: usize = 128 * MIB;
/// Messages up to this size are bounded by their number alone. Larger ones are read in such pieces.
const PIECE: usize = 64 * KIB;

/// Bytes as they are, up to the protocol's limits. A longer message is an error, never cut.
#[derive(Clone, Debug)]
pub(super) struct RawCodec {
    limits: Limits,
    /// Pieces of large messages that may still be read.
    pieces: Arc<Semaphore>,
}

/// A message that counts against the bound for large ones for as long as it, or a part of it, is used.
struct Large {
    bytes: Vec<u8>,
    _pieces: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

async fn read_all<T: AsyncRead + Unpin + Send>(io: &mut T, limit: usize, pieces: &Arc<Semaphore>) -> io::Result<Bytes> {
    let (mut bytes, mut held) = (Vec::new(), None::<OwnedSemaphorePermit>);
    loop {
        let more = io.take(PIECE as u64).read_to_end(&mut bytes).await?;
        if bytes.len() > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message exceeds {limit} bytes")));
        }
        if more < PIECE {
            return Ok(match held {
                Some(held) => Bytes::from_owner(Large { bytes, _pieces: held }),
                None => bytes.into(),
            });
        }
        let piece = pieces.clone().try_acquire_owned().map_err(|_| {
            io::Error::new(io::ErrorKind::OutOfMemory, format!("over {LARGE_BYTES} bytes of large messages are in use"))
        })?;
        match &mut held {
            Some(held) => held.merge(piece),
            None => held = Some(piece),
        }
    }
}

async fn write_all<T: AsyncWrite + Unpin + Send>(io: &mut T, bytes: &[u8], limit: usize) -> io::Result<()> {
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a message exceeds {limit} bytes")));
    }
    io.write_all(bytes).await
}

impl request_response::Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Bytes;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_all(io, self.limits.request_bytes, &self.pieces).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_all(io, self.limits.response_bytes, &self.pieces).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_all(io, &request, self.limits.request_bytes).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Bytes) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_all(io, &response, self.limits.response_bytes).await
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    #[test]
    fn all_protocols_fit_the_substreams_of_one_connection() {
        let all: usize = Protocol::ALL.iter().map(|p| max_streams(&p.limits())).sum();
        assert!(all < MAX_SUBSTREAMS, "{all} substreams");
    }

    async fn read(bytes: usize, limit: usize, pieces: &Arc<Semaphore>) -> io::Result<Bytes> {
        read_all(&mut Cursor::new(vec![7u8; bytes]), limit, pieces).await
    }

    #[tokio::test]
    async fn a_message_of_exactly_the_limit_is_read_and_one_byte_more_is_an_error() {
        let pieces = Arc::new(Semaphore::new(10));
        for limit in [0, 10, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            assert_eq!(read(limit, limit, &pieces).await.unwrap().len(), limit);
            assert_eq!(read(limit + 1, limit, &pieces).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(pieces.available_permits(), 10);
    }

    #[tokio::test]
    async fn large_messages_in_use_are_bounded_and_make_room_when_their_last_part_is_dropped() {
        let pieces = Arc::new(Semaphore::new(3));
        let part = read(2 * PIECE + 1, MIB, &pieces).await.unwrap().slice(..10);
        assert_eq!(read(2 * PIECE + 1, MIB, &pieces).await.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert_eq!(read(PIECE - 1, MIB, &pieces).await.unwrap().len(), PIECE - 1, "small ones still pass");
        drop(part);
        assert_eq!(read(2 * PIECE + 1, MIB, &pieces).await.unwrap().len(), 2 * PIECE + 1);
    }
}
