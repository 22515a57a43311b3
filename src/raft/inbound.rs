//! What other lock managers ask of this one.
//!
//! Checks that a message speaks for the peer that sent it before openraft sees it, and puts the
//! chunks of a snapshot together: at most one image at a time, no longer than announced, of a leader that
//! is not known to be a former one.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{Raft, Snapshot, async_runtime::WatchReceiver as _};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    ids::NodeId,
    raft::{
        apply::Machine,
        network::{Chunk, Reply, Request, from_wire, to_wire},
        snapshot::{self, MAX_IMAGE_BYTES},
        types::{Replicated, Types, Vote},
    },
};

/// An image of which no chunk has come for so long is given up: a sender repeats or begins anew sooner.
const IDLE: Duration = Duration::from_secs(10);

/// An image of which chunks have come.
#[derive(Debug)]
struct Incoming {
    from: NodeId,
    vote: Vote,
    /// When the last chunk came.
    fed: Instant,
    transfer: u64,
    total: u64,
    bytes: Vec<u8>,
}

/// Answers the requests of other lock managers.
#[derive(Debug)]
pub(crate) struct Inbound<S: Replicated> {
    pub(crate) raft: Raft<Types<S>, Machine<S>>,
    incoming: Mutex<Option<Incoming>>,
}

/// The peer that a request speaks for: the candidate or the leader that its vote names.
fn speaker<S: Replicated>(request: &Request<S>) -> NodeId {
    let vote: &Vote = match request {
        Request::Vote(rpc) | Request::PreVote(rpc) => &rpc.vote,
        Request::Append(rpc) => &rpc.vote,
        Request::Chunk(chunk) => &chunk.vote,
        Request::Transfer(rpc) => rpc.from_leader(),
    };
    vote.leader_id.voted_for
}

impl<S: Replicated> Inbound<S> {
    pub(crate) fn new(raft: Raft<Types<S>, Machine<S>>) -> Arc<Self> {
        Arc::new(Self { raft, incoming: Mutex::default() })
    }

    pub(crate) async fn handle(&self, from: NodeId, body: &[u8]) -> Bytes {
        let reply = self.answer(from, body).await.unwrap_or_else(|error| Reply::Refused(error.to_string()));
        to_wire(&reply)
    }

    async fn answer(&self, from: NodeId, body: &[u8]) -> io::Result<Reply<S>> {
        let request: Request<S> = from_wire(body)?;
        let claimed = speaker(&request);
        if claimed != from {
            return Err(io::Error::other(format!("{from} spoke for {claimed}")));
        }
        self.give_up_old().await;
        let raft = &self.raft;
        Ok(match request {
            Request::Vote(rpc) => Reply::Vote(raft.vote(rpc).await.map_err(io::Error::other)?),
            Request::PreVote(rpc) => Reply::Vote(raft.pre_vote(rpc).await.map_err(io::Error::other)?),
            Request::Append(rpc) => Reply::Append(raft.append_entries(rpc).await.map_err(io::Error::other)?),
            Request::Transfer(rpc) => {
                Reply::Transfer(raft.handle_transfer_leader(rpc).await.map_err(io::Error::other)?)
            }
            Request::Chunk(chunk) => self.take(from, chunk).await?,
        })
    }

    async fn take(&self, from: NodeId, chunk: Chunk) -> io::Result<Reply<S>> {
        let vote = chunk.vote;
        let Some(image) = self.collect(from, chunk).await? else { return Ok(Reply::Taken) };
        let copy = image.clone();
        let header = tokio::task::spawn_blocking(move || snapshot::decode_header(&copy)).await;
        let meta = header.map_err(io::Error::other)??.meta;
        let installed = self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: image }).await;
        Ok(Reply::Installed(installed.map_err(io::Error::other)?))
    }

    fn vote(&self) -> Vote {
        self.raft.metrics().borrow_watched().vote
    }

    /// Drops an image that comes no further, or from a former leader.
    async fn give_up_old(&self) {
        let ours = self.vote();
        self.incoming.lock().await.take_if(|incoming| incoming.fed.elapsed() >= IDLE || incoming.vote < ours);
    }

    /// Adds a chunk; the image, if that was the last one.
    async fn collect(&self, from: NodeId, chunk: Chunk) -> io::Result<Option<Bytes>> {
        if chunk.vote < self.vote() {
            return Err(io::Error::other("a former leader sent a snapshot"));
        }
        let mut slot = self.incoming.lock().await;
        if chunk.offset == 0 {
            if slot.as_ref().is_some_and(|incoming| incoming.from != from) {
                return Err(io::Error::other("a snapshot of another sender is coming in"));
            }
            if chunk.total > MAX_IMAGE_BYTES as u64 {
                return Err(io::Error::other(format!("a snapshot of {} bytes is too large", chunk.total)));
            }
            let (vote, fed) = (chunk.vote, Instant::now());
            *slot = Some(Incoming { from, vote, fed, transfer: chunk.transfer, total: chunk.total, bytes: Vec::new() });
        }
        let fits = |incoming: &&mut Incoming| {
            (incoming.from, incoming.transfer, incoming.total) == (from, chunk.transfer, chunk.total)
                && incoming.bytes.len() as u64 == chunk.offset
                && chunk.offset + chunk.data.len() as u64 <= chunk.total
        };
        let Some(incoming) = slot.as_mut().filter(fits) else {
            return Err(io::Error::other("this piece of a snapshot does not follow the one before"));
        };
        incoming.bytes.extend_from_slice(&chunk.data);
        incoming.fed = Instant::now();
        if (incoming.bytes.len() as u64) < incoming.total {
            return Ok(None);
        }
        Ok(slot.take().map(|complete| complete.bytes.into()))
    }
}
