//! The requests of this node that are under way: their ids, and below which none is open any more.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::ids::{Incarnation, NodeId, RequestId};

#[derive(Debug, Default)]
struct Open {
    next: u64,
    seqs: BTreeSet<u64>,
}

/// Draws request ids and knows which are open. The lock is held for one operation on a set of
/// numbers, never across an await.
#[derive(Debug)]
pub(crate) struct OpenRequests {
    node: NodeId,
    incarnation: Incarnation,
    open: Mutex<Open>,
}

impl OpenRequests {
    /// None is open yet in this run of the node.
    pub(crate) fn new(node: NodeId, incarnation: Incarnation) -> Arc<Self> {
        Arc::new(Self { node, incarnation, open: Mutex::default() })
    }

    /// A new request, open until the value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> OpenRequest {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.next += 1;
        let seq = open.next;
        open.seqs.insert(seq);
        let id = RequestId { node: self.node, incarnation: self.incarnation, seq };
        OpenRequest { id, all: Arc::clone(self) }
    }
}

/// A request that is under way: its answer must be remembered for as long as this lives.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    id: RequestId,
    all: Arc<OpenRequests>,
}

impl OpenRequest {
    /// Its id.
    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    /// The smallest sequence number that is open now.
    pub(crate) fn done_below(&self) -> u64 {
        let open = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.seqs.first().copied().unwrap_or(self.id.seq)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.all.open.lock().unwrap_or_else(PoisonError::into_inner).seqs.remove(&self.id.seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_open_request_decides_what_may_be_forgotten() {
        let requests = OpenRequests::new(NodeId::default(), Incarnation(1));
        let first = requests.begin();
        let second = requests.begin();
        assert!(first.id().seq < second.id().seq);
        assert_eq!(second.done_below(), first.id().seq);
        drop(first);
        assert_eq!(second.done_below(), second.id().seq);
    }
}
