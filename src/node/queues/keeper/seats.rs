//! Which partitions this node keeps: one seat for each, from the opening of its journal to its removal.
//!
//! It acts on views: a partition that names this node among its replicas or its in-sync set is kept, and so is any of
//! which there is a journal here, because it may be the last copy. A journal is removed once all the replicas of its
//! partition are in sync and none of them is here. A task that ends by itself ends no other: its partition is
//! [given up](super::given_up).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    REOPEN,
    condition::Condition,
    departed::{Departed, Forgotten},
    given_up::Resignation,
};
use crate::{
    ids::PartitionId,
    machine::{
        placement::{Partition, PartitionStatus},
        queue::Queues,
        replication::Replica,
    },
    node::queues::{
        hosting::Hosting,
        partition::{Shared, Start, load, partition},
    },
    store::{JournalError, JournalHealth, JournalStore, Opened, Trust},
};

/// Journals that are opened at a time.
const OPENED_AT_ONCE: usize = 4;

/// What is going on with a partition here. Each but the one that rests has a task.
#[derive(Debug)]
pub(super) enum Seat {
    Opening {
        task: Id,
    },
    Running {
        stop: CancellationToken,
        task: Id,
    },
    /// It has gone elsewhere; its journal is removed once the task has ended.
    Ending {
        task: Id,
    },
    Removing {
        task: Id,
    },
    /// It could not be opened.
    Resting {
        until: Instant,
    },
    /// Its task ended by itself. There is no other one for it in this run of the node: it would speak in the name of
    /// the first (node, incarnation, journal), which held records in memory that a second one does not have.
    GivenUp {
        task: Id,
    },
}

impl Seat {
    fn is_of(&self, id: Id) -> bool {
        match self {
            Self::Opening { task }
            | Self::Running { task, .. }
            | Self::Ending { task }
            | Self::Removing { task }
            | Self::GivenUp { task } => *task == id,
            Self::Resting { .. } => false,
        }
    }
}

#[derive(Debug)]
pub(super) enum Work {
    Opened(PartitionId, Result<Box<(Opened, Queues)>, String>),
    Removed(PartitionId, Result<(), JournalError>),
    Ended,
    Forgot(Forgotten),
}

/// The partitions and their tasks.
pub(super) struct Keeping {
    pub(super) me: Replica,
    pub(super) store: Arc<dyn JournalStore>,
    pub(super) shared: Arc<Shared>,
    pub(super) hosting: Hosting,
    /// Journals that are here, wanted or not.
    pub(super) here: BTreeSet<PartitionId>,
    pub(super) seats: BTreeMap<PartitionId, Seat>,
    pub(super) tasks: JoinSet<Work>,
    pub(super) departed: Departed,
    pub(super) condition: Condition,
    pub(super) stop: CancellationToken,
}

impl Keeping {
    /// Runs until the node stops.
    pub(super) async fn run(mut self, mut health: watch::Receiver<JournalHealth>) -> String {
        let mut views = self.shared.route.views();
        views.mark_changed();
        health.mark_changed();
        let mut look = tokio::time::interval(REOPEN);
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.tasks.join_next_with_id() => match done {
                    Ok((task, work)) => self.done(task, work),
                    Err(error) => self.failed(&error),
                },
                Ok(()) = views.changed() => { views.mark_unchanged(); self.look() }
                Ok(()) = health.changed() => self.condition.health(&health.borrow_and_update()),
                _ = look.tick() => {
                    self.look();
                    self.condition.look(self.store.info());
                    if let Some(work) = self.departed.next(Instant::now()) {
                        self.tasks.spawn(async move { Work::Forgot(work.await) });
                    }
                }
            }
        }
        for seat in self.seats.values() {
            if let Seat::Running { stop, .. } = seat {
                stop.cancel();
            }
        }
        // What was begun in the journals is finished.
        while self.tasks.join_next().await.is_some() {}
        "the node stops".to_owned()
    }

    /// Compares what is kept with what is to be kept.
    fn look(&mut self) {
        let view = self.shared.route.view();
        let now = Instant::now();
        let ids: BTreeSet<PartitionId> = view.partitions.keys().copied().chain(self.here.iter().copied()).collect();
        let opening = self.seats.values().filter(|seat| matches!(seat, Seat::Opening { .. })).count();
        let mut free = OPENED_AT_ONCE.saturating_sub(opening);
        for id in ids {
            let placed = view.partitions.get(&id);
            let wanted = placed.is_some_and(|placed| placed.concerns(&self.me.node));
            let gone = placed.is_some_and(|placed| !placed.concerns(&self.me.node) && is_whole(placed));
            match self.seats.get(&id) {
                None if (wanted || (self.here.contains(&id) && !gone)) && free > 0 => {
                    free -= 1;
                    self.open(id);
                }
                Some(Seat::Resting { until }) if *until <= now && free > 0 => {
                    free -= 1;
                    self.open(id);
                }
                None if gone && self.here.contains(&id) => self.remove(id),
                Some(Seat::Running { stop, task }) if gone => {
                    info!(partition = id.0, "has gone elsewhere");
                    let task = *task;
                    stop.cancel();
                    self.hosting.remove(id);
                    self.seats.insert(id, Seat::Ending { task });
                }
                _ => {}
            }
        }
    }

    fn open(&mut self, id: PartitionId) {
        let store = Arc::clone(&self.store);
        let opening = async move {
            let opened = async {
                let opened = store.open(id).await.map_err(|reason| reason.to_string())?;
                let saved = opened.checkpoint.as_ref().map(|(_, state)| state.clone());
                let queues = load(id, saved).await?;
                Ok(Box::new((opened, queues)))
            };
            Work::Opened(id, opened.await)
        };
        let task = self.tasks.spawn(opening).id();
        self.seats.insert(id, Seat::Opening { task });
    }

    fn remove(&mut self, id: PartitionId) {
        let store = Arc::clone(&self.store);
        let task = self.tasks.spawn(async move { Work::Removed(id, store.remove(id).await) }).id();
        self.seats.insert(id, Seat::Removing { task });
    }

    fn done(&mut self, task: Id, work: Work) {
        match work {
            Work::Opened(id, outcome) => {
                match outcome {
                    Ok(opened) => {
                        let (opened, queues) = *opened;
                        self.start(id, opened, queues);
                    }
                    Err(reason) => {
                        error!(partition = id.0, %reason, "a journal cannot be opened: this node cannot keep the partition");
                        self.seats.insert(id, Seat::Resting { until: Instant::now() + REOPEN });
                    }
                }
                self.look();
            }
            Work::Removed(id, outcome) => {
                match outcome {
                    Ok(()) => _ = self.here.remove(&id),
                    Err(reason) => {
                        warn!(partition = id.0, %reason, "a journal that is not needed cannot be removed yet")
                    }
                }
                self.seats.remove(&id);
            }
            Work::Ended => match self.seat_of(task) {
                Some((id, Seat::Ending { .. })) => self.remove(id),
                Some((id, Seat::Running { .. })) => {
                    self.give_up(id, "it returned, and nobody had told it to".to_owned())
                }
                _ => {}
            },
            Work::Forgot(outcome) => self.departed.done(Instant::now(), outcome),
        }
    }

    /// A task panicked.
    fn failed(&mut self, error: &JoinError) {
        let seat = self.seat_of(error.id()).map(|(id, seat)| (id, matches!(seat, Seat::GivenUp { .. })));
        match seat {
            Some((id, false)) => self.give_up(id, error.to_string()),
            Some((id, true)) => error!(partition = id.0, %error, "a partition that was given up cannot be handed over"),
            // It counts as under way for good, so it is not tried again.
            None => error!(%error, "the journals of nodes that have left are removed no longer: this is a bug"),
        }
    }

    fn seat_of(&self, task: Id) -> Option<(PartitionId, &Seat)> {
        self.seats.iter().find(|(_, seat)| seat.is_of(task)).map(|(id, seat)| (*id, seat))
    }

    fn give_up(&mut self, id: PartitionId, reason: String) {
        error!(
            partition = id.0,
            %reason,
            "the task of a partition ended by itself, which is a bug: this node keeps that partition no longer, the others \
             go on. Report what the log says above; to have the partition kept here again, start the node again"
        );
        // Its handle stays, closed: who asks goes elsewhere, and no newer view is asked for because of it.
        self.shared.metrics.gave_up();
        self.condition.gave_up(id, reason);
        let (resignation, stop) = (Resignation::new(id, self.me, Arc::clone(&self.shared)), self.stop.clone());
        let resigning = async move {
            tokio::select! { () = resignation.run() => {}, () = stop.cancelled() => {} }
            Work::Ended
        };
        let task = self.tasks.spawn(resigning).id();
        self.seats.insert(id, Seat::GivenUp { task });
    }

    fn start(&mut self, id: PartitionId, opened: Opened, queues: Queues) {
        match &opened.trust {
            Trust::Verified => {}
            Trust::Unproven(why) => warn!(partition = id.0, %why, "a journal may lack what it acknowledged"),
            Trust::Shortened(why) => error!(
                partition = id.0,
                %why,
                "a journal lacks what it acknowledged: another replica fills it up; if there is none, bring the journal back, or \
                 give up what is lost with `syncmesh queue recover`"
            ),
        }
        let start = Start { id, me: self.me, opened, queues };
        let stop = CancellationToken::new();
        let (handle, run) = partition(Arc::clone(&self.shared), start, stop.clone());
        let running = async move {
            run.await;
            Work::Ended
        };
        let task = self.tasks.spawn(running).id();
        self.here.insert(id);
        self.hosting.insert(id, handle);
        self.seats.insert(id, Seat::Running { stop, task });
    }
}

/// All who are to keep it have it.
pub(super) fn is_whole(placed: &Partition) -> bool {
    placed.status == PartitionStatus::Serving
        && !placed.replicas.is_empty()
        && placed.replicas.iter().all(|node| placed.is_in_sync(node))
}
