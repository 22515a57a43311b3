//! Raft's messages on the mesh: how they are written, sent, split and answered.
//!
//! Owns the wire format of the `raft` protocol. Openraft calls [`Peer`] to send; what arrives comes
//! in through the handle (`raft::inbound`). One exchange is under way per peer and purpose; what is
//! proposed meanwhile travels together in the next one.

use std::{
    fmt::{self, Debug},
    future::Future,
    io,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    EmptyNode, RaftNetworkFactory, RaftNetworkV2,
    error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{
    codec,
    ids::NodeId,
    net::{CallError, Lane, Mesh, Protocol},
    raft::{
        apply::Image,
        types::{Replicated, Types, Vote},
    },
    telemetry::RaftMetrics,
};

/// The version of the wire format, the first byte of each message.
const VERSION: u8 = 1;
/// Bytes of a snapshot in one request, where the protocol's limit allows them.
const CHUNK_BYTES: usize = 512 << 10;
/// What a request carries beside the entries or the chunk, at most.
pub(crate) const ENVELOPE_BYTES: usize = 4096;

/// A question of one lock manager to another.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum Request<S: Replicated> {
    Vote(VoteRequest<Types<S>>),
    PreVote(VoteRequest<Types<S>>),
    Append(AppendEntriesRequest<Types<S>>),
    Chunk(Chunk),
    Transfer(TransferLeaderRequest<Types<S>>),
}

/// A piece of a snapshot. The image carries its own checksum.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// The leader's vote.
    pub(crate) vote: Vote,
    /// Counts the transfers of this sender.
    pub(crate) transfer: u64,
    /// Where in the image it belongs.
    pub(crate) offset: u64,
    /// The length of the image.
    pub(crate) total: u64,
    /// The piece.
    pub(crate) data: Bytes,
}

/// The answer to a [`Request`].
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum Reply<S: Replicated> {
    Vote(VoteResponse<Types<S>>),
    Append(AppendEntriesResponse<Types<S>>),
    /// The chunk was taken; more are expected.
    Taken,
    /// The snapshot is installed, or the vote was too old.
    Installed(SnapshotResponse<Types<S>>),
    Transfer(TransferLeaderResponse<Types<S>>),
    /// Not acted upon.
    Refused(String),
}

/// A message on the wire.
pub(crate) fn to_wire<T: Serialize>(message: &T) -> Bytes {
    let mut wire = Vec::from([VERSION]);
    wire.extend_from_slice(&codec::encode(message));
    wire.into()
}

/// The message in bytes that somebody sent.
pub(crate) fn from_wire<T: DeserializeOwned>(wire: &[u8]) -> io::Result<T> {
    match wire.split_first() {
        Some((&VERSION, message)) => Ok(codec::decode(message)?),
        Some((version, _)) => {
            Err(io::Error::other(format!("version {version} of the raft protocol is not known here")))
        }
        None => Err(io::Error::other("the message is empty")),
    }
}

/// Counts the elections of this node: all votes that it asks for in one term are one. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Elections {
    last_term: Arc<AtomicU64>,
    metrics: RaftMetrics,
}

impl Elections {
    pub(crate) fn new(metrics: RaftMetrics) -> Self {
        Self { last_term: Arc::default(), metrics }
    }

    fn asks_for_votes(&self, term: u64) {
        if self.last_term.fetch_max(term, Ordering::Relaxed) < term {
            self.metrics.election();
        }
    }
}

/// Makes a [`Peer`] for each purpose and target.
#[derive(Clone, Debug)]
pub(crate) struct Peers<S> {
    pub(crate) mesh: Arc<dyn Mesh>,
    /// Most bytes of a request.
    pub(crate) max_request_bytes: usize,
    /// How long entries and snapshots may take to be answered.
    pub(crate) patience: Duration,
    pub(crate) elections: Elections,
    pub(crate) state: PhantomData<fn() -> S>,
}

impl<S: Replicated> Peers<S> {
    fn peer(&self, target: NodeId, patience: Option<Duration>) -> Peer<S> {
        Peer { net: self.clone_for_peer(), target, patience, transfers: Arc::default() }
    }

    fn clone_for_peer(&self) -> Self {
        Self { mesh: Arc::clone(&self.mesh), elections: self.elections.clone(), state: PhantomData, ..*self }
    }
}

impl<S: Replicated> RaftNetworkFactory<Types<S>> for Peers<S> {
    type Network = Peer<S>;

    async fn new_client(&mut self, target: NodeId, _: &EmptyNode) -> Peer<S> {
        self.peer(target, Some(self.patience))
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _: &EmptyNode) -> Peer<S> {
        self.peer(target, None)
    }
}

/// One lock manager, as seen from another.
pub(crate) struct Peer<S> {
    net: Peers<S>,
    target: NodeId,
    /// How long appending may take, if longer than openraft asks for: openraft's limit is the
    /// heartbeat interval, which a disk may well exceed.
    patience: Option<Duration>,
    transfers: Arc<AtomicU64>,
}

impl<S> Debug for Peer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Why there is no answer.
enum Failure {
    Call(CallError),
    /// The peer refused, or one of us does not understand the other.
    Misunderstood(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Misunderstood(error)
    }
}

impl<S: Replicated> From<Failure> for RPCError<Types<S>> {
    /// Openraft backs off from the unreachable and asks the others again at once.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Call(error @ CallError::Timeout(_)) => Self::Network(NetworkError::new(&error)),
            Failure::Call(error) => Self::Unreachable(Unreachable::new(&error)),
            Failure::Misunderstood(error) => Self::Unreachable(Unreachable::new(&error)),
        }
    }
}

impl<S: Replicated> Peer<S> {
    async fn send(&self, body: Bytes, within: Duration) -> Result<Reply<S>, Failure> {
        let call = self.net.mesh.call(self.target, Protocol::Raft, Lane::End, body);
        let answer = timeout(within, call).await.unwrap_or(Err(CallError::Timeout(self.target)));
        match from_wire(&answer.map_err(Failure::Call)?)? {
            Reply::Refused(why) => Err(Failure::Misunderstood(io::Error::other(why))),
            reply => Ok(reply),
        }
    }

    async fn ask(&self, request: &Request<S>, within: Duration) -> Result<Reply<S>, Failure> {
        self.send(to_wire(request), within).await
    }

    fn unexpected(&self) -> Failure {
        Failure::Misunderstood(io::Error::other(format!("{} answered another question", self.target)))
    }

    /// Sends as many of the entries as one request may carry.
    async fn append(
        &self,
        mut rpc: AppendEntriesRequest<Types<S>>,
        within: Duration,
    ) -> Result<AppendEntriesResponse<Types<S>>, Failure> {
        let wanted = rpc.entries.len();
        let (body, sent, last) = loop {
            let (sent, last) = (rpc.entries.len(), rpc.entries.last().map(|entry| entry.log_id));
            let request = Request::Append(rpc);
            let body = to_wire(&request);
            if body.len() <= self.net.max_request_bytes {
                break (body, sent, last);
            }
            let Request::Append(shorter) = request else { return Err(self.unexpected()) };
            rpc = shorter;
            if sent <= 1 {
                let (size, limit) = (body.len(), self.net.max_request_bytes);
                return Err(Failure::Call(CallError::TooLarge { size, limit }));
            }
            rpc.entries.truncate(sent / 2);
        };
        match self.send(body, within).await? {
            Reply::Append(AppendEntriesResponse::Success) if sent < wanted => {
                Ok(AppendEntriesResponse::PartialSuccess(last))
            }
            Reply::Append(response) => Ok(response),
            _ => Err(self.unexpected()),
        }
    }

    async fn vote_reply(
        &self,
        request: Request<S>,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types<S>>, RPCError<Types<S>>> {
        match self.ask(&request, option.soft_ttl()).await? {
            Reply::Vote(response) => Ok(response),
            _ => Err(self.unexpected().into()),
        }
    }

    async fn send_image(
        &self,
        vote: Vote,
        image: &Bytes,
        within: Duration,
    ) -> Result<SnapshotResponse<Types<S>>, Failure> {
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        let size = CHUNK_BYTES.min(self.net.max_request_bytes.saturating_sub(ENVELOPE_BYTES)).max(1);
        let total = image.len() as u64;
        let mut offset = 0;
        loop {
            let end = (offset + size).min(image.len());
            let chunk = Chunk { vote, transfer, offset: offset as u64, total, data: image.slice(offset..end) };
            // The last one is answered after the image was checked and installed.
            let patience = if end == image.len() { within } else { self.net.patience };
            match self.ask(&Request::Chunk(chunk), patience).await? {
                Reply::Taken if end < image.len() => offset = end,
                Reply::Installed(response) => return Ok(response),
                _ => return Err(self.unexpected()),
            }
        }
    }
}

impl<S: Replicated> RaftNetworkV2<Types<S>> for Peer<S> {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<S>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<S>>, RPCError<Types<S>>> {
        Ok(self.append(rpc, self.patience.unwrap_or(option.soft_ttl())).await?)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<S>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<S>>, RPCError<Types<S>>> {
        self.net.elections.asks_for_votes(rpc.vote.leader_id.term);
        self.vote_reply(Request::Vote(rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<S>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<S>>, RPCError<Types<S>>> {
        self.vote_reply(Request::PreVote(rpc), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Image,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<S>>, StreamingError<Types<S>>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_image(vote, &snapshot.snapshot, option.soft_ttl()) => {
                sent.map_err(|failure| RPCError::from(failure).into())
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<S>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<S>>, RPCError<Types<S>>> {
        match self.ask(&Request::Transfer(request), option.soft_ttl()).await? {
            Reply::Transfer(response) => Ok(response),
            _ => Err(self.unexpected().into()),
        }
    }
}
