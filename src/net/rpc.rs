//! What travels in one exchange: the five protocols, their limits, and the codec.
//!
//! Owns the wire form of a call: the request's bytes, the end of the stream, the answer's bytes, the
//! end of the stream. What the bytes mean is for the services (CBOR); this module only counts them.
//! An answer of no bytes says "refused". Used by the swarm task and by [`probe`](super::probe).

use std::{io, time::Duration};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    StreamProtocol,
    request_response::{self, ProtocolSupport},
};

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
            Self::Raft => limits(16 * MIB, MIB, 5, 32, 32),
            Self::Replication => limits(17 * MIB, 17 * MIB, 5, 64, 32),
            Self::Coherence => limits(9 * MIB, 9 * MIB, 2, 64, 64),
            Self::Control => limits(2 * MIB, 8 * MIB, 5, 32, 16),
            Self::Client => limits(17 * MIB, 17 * MIB, 10, 64, 32),
        }
    }
}

const fn limits(
    request_bytes: usize,
    response_bytes: usize,
    deadline_s: u64,
    ask_slots: usize,
    end_slots: usize,
) -> Limits {
    let deadline = Duration::from_secs(deadline_s);
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
    request_response::Behaviour::with_codec(RawCodec { limits }, names, config)
}

/// Bytes as they are, up to the protocol's limits. A longer message is an error, never cut.
#[derive(Clone, Debug)]
pub(super) struct RawCodec {
    limits: Limits,
}

async fn read_all<T: AsyncRead + Unpin + Send>(io: &mut T, limit: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX - 1);
    io.take(most + 1).read_to_end(&mut bytes).await?;
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message exceeds {limit} bytes")));
    }
    Ok(bytes.into())
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
        read_all(io, self.limits.request_bytes).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_all(io, self.limits.response_bytes).await
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

    #[tokio::test]
    async fn a_message_of_exactly_the_limit_is_read_and_one_byte_more_is_an_error() {
        assert_eq!(read_all(&mut Cursor::new(vec![7u8; 10]), 10).await.unwrap().len(), 10);
        assert_eq!(read_all(&mut Cursor::new(vec![7u8; 11]), 10).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
