//! The requests of this node that are under way: their ids, and which are finished.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    ids::{Incarnation, NodeId, RequestId},
    machine::requests::{Done, MAX_RANGES_TOLD, Ranges},
};

/// The finished among fewer numbers than this, counted from the oldest open one, need not be told: the
/// memory of answers has room for them.
const NARROW: u64 = 1_024;

#[derive(Debug, Default)]
struct Open {
    next: u64,
    questions: u64,
    seqs: BTreeSet<u64>,
    /// The finished ones above the oldest open one. Every number is open or finished, so that there are
    /// no more ranges than open requests.
    finished: Ranges,
    /// Where to go on telling of them.
    told: u64,
}

impl Open {
    fn done(&mut self) -> Done {
        let below = self.seqs.first().copied().unwrap_or(self.next + 1);
        if self.next.saturating_sub(below) < NARROW {
            return Done { below, ranges: Vec::new() };
        }
        // In turn, for what one request tells may be lost with it.
        let rest = self.finished.starting_at(self.told);
        let again = self.finished.starting_at(0).take_while(|(from, _)| *from < self.told);
        let ranges: Vec<(u64, u64)> = rest.chain(again).take(MAX_RANGES_TOLD).collect();
        self.told = ranges.last().map_or(0, |(from, _)| from + 1);
        Done { below, ranges }
    }

    fn finish(&mut self, seq: u64) {
        self.seqs.remove(&seq);
        self.finished.insert(seq, seq + 1);
        self.finished.cut(self.seqs.first().copied().unwrap_or(self.next + 1));
    }
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

    /// A new id to ask the leader under, of a count of its own: no answer is remembered under it.
    pub(crate) fn question(&self) -> RequestId {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.questions += 1;
        RequestId { node: self.node, incarnation: self.incarnation, seq: open.questions }
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

    /// Which requests of this node are finished now.
    pub(crate) fn done(&self) -> Done {
        self.all.open.lock().unwrap_or_else(PoisonError::into_inner).done()
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.all.open.lock().unwrap_or_else(PoisonError::into_inner).finish(self.id.seq);
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
        assert_eq!(second.done().below, first.id().seq);
        drop(first);
        assert_eq!(second.done().below, second.id().seq);
    }

    #[test]
    fn what_is_finished_above_a_long_wait_is_told_in_turn() {
        let requests = OpenRequests::new(NodeId::default(), Incarnation(1));
        let waits: Vec<OpenRequest> = (0..3)
            .map(|_| {
                let wait = requests.begin();
                (0..NARROW).for_each(|_| drop(requests.begin()));
                wait
            })
            .collect();
        let last = requests.begin();
        let Done { below, ranges } = last.done();
        assert_eq!(below, waits[0].id().seq);
        let seqs: Vec<u64> = waits.iter().chain([&last]).map(|wait| wait.id().seq).collect();
        assert_eq!(ranges, seqs.windows(2).map(|pair| (pair[0] + 1, pair[1])).collect::<Vec<_>>());
        drop(waits);
        assert_eq!(last.done(), Done { below: last.id().seq, ranges: vec![] });
    }

    #[test]
    fn every_range_has_its_turn() {
        let requests = OpenRequests::new(NodeId::default(), Incarnation(1));
        let mut waits = Vec::new();
        for _ in 0..NARROW {
            waits.push(requests.begin());
            drop(requests.begin());
        }
        let last = requests.begin();
        let told = (0..NARROW as usize / MAX_RANGES_TOLD).flat_map(|_| last.done().ranges);
        assert_eq!(told.collect::<BTreeSet<_>>().len(), waits.len());
    }
}
