//! What other lock managers ask of this one.
//!
//! Checks that a message speaks for the peer that sent it before openraft sees it, and puts the
//! chunks of a snapshot together: at most one image at a time, no longer than announced.

use std::{io, sync::Arc};

use bytes::Bytes;
use openraft::{Raft, Snapshot};
use tokio::sync::Mutex;

use crate::{
    ids::NodeId,
    raft::{
        apply::Machine,
        network::{Chunk, Reply, Request, from_wire, to_wire},
        snapshot::{self, MAX_IMAGE_BYTES},
        types::{Replicated, Types, Vote},
    },
};

/// An image of which chunks have come.
#[derive(Debug)]
struct Incoming {
    from: NodeId,
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

    /// Adds a chunk; the image, if that was the last one.
    async fn collect(&self, from: NodeId, chunk: Chunk) -> io::Result<Option<Bytes>> {
        let mut slot = self.incoming.lock().await;
        if chunk.offset == 0 {
            if chunk.total > MAX_IMAGE_BYTES as u64 {
                return Err(io::Error::other(format!("a snapshot of {} bytes is too large", chunk.total)));
            }
            *slot = Some(Incoming { from, transfer: chunk.transfer, total: chunk.total, bytes: Vec::new() });
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
        if (incoming.bytes.len() as u64) < incoming.total {
            return Ok(None);
        }
        Ok(slot.take().map(|complete| complete.bytes.into()))
    }
}
