//! Brings an operation to a cache node from a node that is none: to one that is near, and then always to that one, so
//! that its lines stay where they are used.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    setup::Setup,
    wire::{CacheAsk, CacheReply},
};
use crate::{
    codec::{decode, encode},
    error::{Error, Outcome},
    ids::{NodeId, Role},
    machine::membership::Liveness,
    net::{
        CallError, Lane, MeshStatus,
        deferred::{AskError, Exchange},
    },
    node::{requests::OpenRequests, route::Route, wire::ClientAsk},
};

/// The pause before it is looked for a cache node again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a cache node is looked for.
const PATIENCE: Duration = Duration::from_secs(3);

/// A node's way to the cache nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Forward {
    route: Route,
    exchange: Exchange,
    requests: Arc<OpenRequests>,
    mesh: watch::Receiver<Arc<MeshStatus>>,
    /// The one that was asked last.
    near: Arc<watch::Sender<Option<NodeId>>>,
}

/// What came of asking one node once.
#[derive(Debug)]
enum Asked {
    Answered(CacheReply),
    /// It certainly has not got it, or has not begun.
    Undelivered,
    /// It may have.
    Unanswered,
}

impl Forward {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            route: setup.route.clone(),
            exchange: setup.client.clone(),
            requests: Arc::clone(&setup.requests),
            mesh: setup.mesh.status(),
            near: Arc::new(watch::Sender::new(None)),
        }
    }

    /// The cache nodes of the cluster that serve.
    pub(super) fn cache_nodes(&self) -> Vec<NodeId> {
        let view = self.route.view();
        let serves = view.members.iter().filter(|(_, member)| member.serves() && member.has_role(Role::CacheNode));
        serves.map(|(node, _)| *node).collect()
    }

    /// Asks a cache node, and another one where it does not answer and that does no harm.
    pub(super) async fn ask(&self, ask: &CacheAsk, patience: Duration) -> Result<CacheReply, Error> {
        let (until, last_moment) = (Instant::now() + PATIENCE, Instant::now() + PATIENCE + patience);
        let mut tried = BTreeSet::new();
        loop {
            let Some(node) = self.nearest(&tried) else {
                if Instant::now() >= until {
                    return Err(nobody(tried.is_empty()));
                }
                tried.clear();
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            match self.ask_once(node, ask, patience).await {
                Asked::Answered(CacheReply::NoCache) | Asked::Undelivered => {}
                Asked::Answered(reply) => return Ok(reply),
                Asked::Unanswered if ask.changes() => return Err(unknown(node)),
                Asked::Unanswered if Instant::now() >= last_moment => return Err(nobody(false)),
                Asked::Unanswered => {}
            }
            tried.insert(node);
            self.near.send_replace(None);
        }
    }

    /// Asks one node, once; `None` where it does not answer in time.
    pub(super) async fn ask_node(&self, node: NodeId, ask: &CacheAsk, patience: Duration) -> Option<CacheReply> {
        match self.ask_once(node, ask, patience).await {
            Asked::Answered(reply) => Some(reply),
            Asked::Undelivered | Asked::Unanswered => None,
        }
    }

    async fn ask_once(&self, node: NodeId, ask: &CacheAsk, patience: Duration) -> Asked {
        let question = self.requests.question();
        let body = encode(&ClientAsk::Cache(Box::new(ask.clone())));
        match timeout(patience, self.exchange.ask(node, question, Lane::Ask, body)).await {
            Ok(Ok(bytes)) => decode(&bytes).map_or(Asked::Unanswered, Asked::Answered),
            Ok(Err(AskError::Call(error))) if !error.may_have_arrived() && error != CallError::Refused(node) => {
                Asked::Undelivered
            }
            Ok(Err(AskError::TooManyOpen | AskError::Overloaded | AskError::AlreadyOpen)) => Asked::Undelivered,
            // Also what was open when this node stopped may have been done.
            Ok(Err(AskError::Call(_) | AskError::Lost(_) | AskError::Refused | AskError::Stopped)) | Err(_) => {
                Asked::Unanswered
            }
        }
    }

    /// The one that was asked last, or else the nearest by its round trip; who is about to stop comes last.
    fn nearest(&self, tried: &BTreeSet<NodeId>) -> Option<NodeId> {
        let view = self.route.view();
        let usable = |node: &NodeId| {
            let member = view.members.get(node)?;
            let serves = member.serves() && member.has_role(Role::CacheNode) && !tried.contains(node);
            serves.then_some(member.liveness)
        };
        let last = *self.near.borrow();
        if let Some(node) = last.filter(|node| usable(node) == Some(Liveness::Up)) {
            return Some(node);
        }
        let mesh = self.mesh.borrow().clone();
        let rank = |node: &NodeId| {
            let link = mesh.peers.get(node);
            let rtt = link.map(|link| link.rtt.unwrap_or(Duration::from_secs(1)));
            (usable(node) != Some(Liveness::Up), rtt.is_none(), rtt, *node)
        };
        let node = view.members.keys().filter(|node| usable(node).is_some()).min_by_key(|node| rank(node)).copied();
        self.near.send_replace(node);
        node
    }
}

fn nobody(nobody_is_there: bool) -> Error {
    let why = if nobody_is_there {
        "no cache node is up: start nodes with the role cache-node, or wait a moment if they have just started"
    } else {
        "no cache node answers: `syncmesh status` shows who is missing"
    };
    Error::unavailable(Outcome::NotApplied, format!("nothing was changed: {why}"))
}

fn unknown(node: NodeId) -> Error {
    let detail = format!(
        "{node}, which serves the cache for this node, did not answer: it may have been applied; look, or repeat it"
    );
    Error::unavailable(Outcome::Unknown, detail)
}
