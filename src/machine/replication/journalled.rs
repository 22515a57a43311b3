//! How far the journal of this replica is durable.

use std::collections::VecDeque;

/// What was given to the journal and what came back. Operations on a journal complete in their order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Durable {
    /// Everything up to here is durable, and as the log has it.
    seq: u64,
    /// The number of the last batch.
    batch: u64,
    /// Batches under way, with the number of the last of their records that the log still has.
    under_way: VecDeque<(u64, u64)>,
    failed: bool,
}

impl Durable {
    pub(super) fn new(seq: u64) -> Self {
        Self { seq, batch: 0, under_way: VecDeque::new(), failed: false }
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    /// Records up to this one are being journalled: in which batch.
    pub(super) fn begin(&mut self, last_seq: u64) -> u64 {
        self.batch += 1;
        self.under_way.push_back((self.batch, last_seq));
        self.batch
    }

    /// This batch and those before it are durable.
    pub(super) fn complete(&mut self, batch: u64) {
        while let Some((done, last_seq)) = self.under_way.front().copied()
            && done <= batch
        {
            self.seq = self.seq.max(last_seq);
            self.under_way.pop_front();
        }
    }

    /// The journal is cut after this record: what is under way is durable no further.
    pub(super) fn cut(&mut self, last_seq: u64) {
        self.seq = self.seq.min(last_seq);
        for (_, last) in &mut self.under_way {
            *last = (*last).min(last_seq);
        }
    }

    /// The journal is being replaced by a state up to this record: in which batch.
    pub(super) fn reset(&mut self, seq: u64) -> u64 {
        self.cut(0);
        self.begin(seq)
    }
}
