//! The state of the queues as a whole, on its way to and from journals and other replicas: made and read piece by
//! piece, so that neither this partition nor another one waits for it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use tokio::task::{spawn_blocking, yield_now};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use super::{Done, PartitionTask};
use crate::{
    ids::{NodeId, PartitionId},
    machine::{
        queue::{Loader, Queues, Snapshot},
        replication::{Input, Position},
    },
    store::{Pieces, State},
};

/// What is saved of the queues, as a journal is given it.
#[derive(Debug)]
struct Saved {
    snapshot: Snapshot,
    /// How many bytes were made of it.
    made: Arc<AtomicU64>,
}

impl Pieces for Saved {
    fn pieces(&self) -> Box<dyn Iterator<Item = Bytes> + Send + '_> {
        self.made.store(0, Ordering::Relaxed);
        let count = |piece: &Bytes| _ = self.made.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Box::new(self.snapshot.pieces().inspect(count))
    }
}

/// The queues as they are now, to be saved; their bytes are counted as they are made.
pub(super) fn saved(queues: &Queues) -> (State, Arc<AtomicU64>) {
    let made = Arc::default();
    (State::new(Saved { snapshot: queues.snapshot(), made: Arc::clone(&made) }), made)
}

async fn whole(snapshot: Snapshot) -> Bytes {
    let mut whole = Vec::new();
    for piece in snapshot.pieces() {
        whole.extend_from_slice(&piece);
        yield_now().await;
    }
    whole.into()
}

/// The queues of which this was saved; new ones where there is nothing.
pub(in crate::node::queues) async fn load(partition: PartitionId, saved: Option<Bytes>) -> Result<Queues, String> {
    let Some(saved) = saved else { return Ok(Queues::new(partition)) };
    let mut loader = Loader::new(partition, saved);
    while loader.step().map_err(|reason| reason.to_string())? {
        yield_now().await;
    }
    loader.finish().map_err(|reason| reason.to_string())
}

/// Frees what may be much, which takes its time, where nobody waits for it.
pub(super) fn free(what: impl Send + 'static) {
    drop(spawn_blocking(move || drop(what)));
}

/// A state that another replica has sent, and that is being read. The task does nothing else meanwhile: whatever
/// follows is about the queues that it makes.
pub(super) struct Loading {
    batch: u64,
    at: Position,
    state: Bytes,
    queues: BoxFuture<'static, Result<Queues, String>>,
}

impl PartitionTask {
    /// Begins to make the state that the replication has asked for.
    pub(super) fn take_state(&mut self, to: NodeId) {
        let (at, snapshot) = (self.applied, self.queues.snapshot());
        let making = AbortOnDropHandle::new(tokio::spawn(whole(snapshot)));
        self.begin(async move {
            let state = making.await.expect("making a state does not panic");
            Done::State { to, at, state }
        });
    }

    pub(super) fn begin_install(&mut self, batch: u64, at: Position, state: Bytes) {
        free(std::mem::replace(&mut self.queues, Queues::new(self.id)));
        let queues = load(self.id, Some(state.clone())).boxed();
        self.loading = Some(Loading { batch, at, state, queues });
    }

    /// Completes when the state is read that is being read; never, if there is none.
    pub(super) async fn loaded(loading: &mut Option<Loading>) -> Result<Queues, String> {
        match loading {
            Some(loading) => (&mut loading.queues).await,
            None => std::future::pending().await,
        }
    }

    /// Goes on with the state that was read.
    pub(super) fn install(&mut self, queues: Result<Queues, String>) {
        let Some(Loading { batch, at, state, .. }) = self.loading.take() else { return };
        match queues {
            Ok(queues) => {
                self.queues = queues;
                self.applied = at;
                let done = self.keeping.reset(at, state);
                self.begin(async move { Done::Journalled { batch, outcome: done.await } });
                self.go_on();
            }
            Err(reason) => {
                error!(partition = self.id.0, %reason, "the state that another replica sent cannot be read");
                self.step(Input::JournalFailed);
            }
        }
    }
}
