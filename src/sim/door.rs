//! What a service under test is to its clients: one question, one answer, and a door that a dying process
//! slams.
//!
//! [`Api`] is what a node offers, run inside the node's own runtime; [`Door`] is what a client holds. A
//! request that was inside when the process died, or whose client hung up, has an unknown outcome; one
//! that found no process had none.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    ids::NodeId,
    machine::{placement::Partitions, slots::SlotTable},
};

/// Requests that a process may leave lying at its door.
const DOOR_QUEUE: usize = 1_024;

/// A service that is simulated: what its clients ask, and what they are told.
pub trait Service: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// A question.
    type Ask: Clone + Debug + PartialEq + Send + Sync + 'static;
    /// What is said to it.
    type Answer: Clone + Debug + PartialEq + Send + Sync + 'static;

    /// Nobody knows whether it was done.
    const UNKNOWN: Self::Answer;
    /// Nobody was there to be asked: not done, certainly.
    const NOBODY: Self::Answer;

    /// Whether it says that nothing was done, and it may be asked again.
    fn is_refusal(answer: &Self::Answer) -> bool;
}

/// How a process is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Farewell {
    /// It is started again.
    #[default]
    ComesBack,
    /// It leaves the cluster for good.
    ForGood,
}

/// A service at one node, and what faults and observers go by.
pub trait Api<S: Service>: Send + Sync + 'static {
    /// Does what is asked. `key`: the client's own name for the request, the same when it repeats it.
    /// Dropped when the client hangs up.
    fn perform(&self, ask: S::Ask, key: Option<String>) -> BoxFuture<'_, S::Answer>;

    /// Whether this node believes that it leads: what faults that look for the leader go by.
    fn leads(&self) -> bool {
        false
    }

    /// The term that it leads, from the moment of its election.
    fn led_term(&self) -> Option<u64> {
        None
    }

    /// Who votes, as far as this node knows.
    fn voters(&self) -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    /// Who keeps which partition of the queues, as far as this node knows.
    fn placement(&self) -> Partitions {
        Partitions::default()
    }

    /// Who is home to which slot of the cache, as far as this node knows.
    fn slots(&self) -> SlotTable {
        SlotTable::default()
    }

    /// Hands its duties over and ends.
    fn retire(&self, _farewell: Farewell) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    /// Waits until it ends by itself, and says why.
    fn ended(&self) -> BoxFuture<'_, String> {
        std::future::pending().boxed()
    }
}

struct Knock<S: Service> {
    ask: S::Ask,
    key: Option<String>,
    reply: oneshot::Sender<S::Answer>,
}

/// The way into a node, which outlives its processes. Cheap to clone.
pub struct Door<S: Service>(Arc<Mutex<Doorway<S>>>);

struct Doorway<S: Service> {
    knocks: Option<mpsc::Sender<Knock<S>>>,
    api: Option<Arc<dyn Api<S>>>,
    retire: CancellationToken,
    farewell: Farewell,
}

impl<S: Service> Clone for Door<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Service> Default for Door<S> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Doorway::closed())))
    }
}

impl<S: Service> Doorway<S> {
    fn closed() -> Self {
        Self { knocks: None, api: None, retire: CancellationToken::new(), farewell: Farewell::default() }
    }
}

impl<S: Service> Door<S> {
    fn doorway(&self) -> MutexGuard<'_, Doorway<S>> {
        self.0.lock().expect("no panic while locked")
    }

    fn api(&self) -> Option<Arc<dyn Api<S>>> {
        self.doorway().api.clone()
    }

    /// Asks the process behind the door.
    pub async fn perform(&self, ask: S::Ask, key: Option<String>) -> S::Answer {
        let knocks = self.doorway().knocks.clone();
        let (reply, answer) = oneshot::channel();
        match knocks.map(|knocks| knocks.try_send(Knock { ask, key, reply })) {
            Some(Ok(())) => answer.await.unwrap_or(S::UNKNOWN),
            None | Some(Err(_)) => S::NOBODY,
        }
    }

    /// Whether a process is there that believes that it leads.
    pub fn leads(&self) -> bool {
        self.api().is_some_and(|api| api.leads())
    }

    /// The term that the process leads.
    pub fn led_term(&self) -> Option<u64> {
        self.api().and_then(|api| api.led_term())
    }

    /// Who votes, as far as the process knows.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.api().map(|api| api.voters()).unwrap_or_default()
    }

    /// Who keeps which partition of the queues, as far as the process knows.
    pub fn placement(&self) -> Partitions {
        self.api().map(|api| api.placement()).unwrap_or_default()
    }

    /// Who is home to which slot of the cache, as far as the process knows.
    pub fn slots(&self) -> SlotTable {
        self.api().map(|api| api.slots()).unwrap_or_default()
    }

    /// Asks the process to end; it serves until it has handed its duties over.
    pub fn retire(&self, farewell: Farewell) {
        let mut doorway = self.doorway();
        doorway.farewell = farewell;
        doorway.retire.cancel();
    }

    /// Serves at this door, inside the node's runtime, from when `boot` is done until it has retired or
    /// has ended by itself, for the reason that is returned.
    pub fn serve(&self, boot: BoxFuture<'static, Arc<dyn Api<S>>>) -> BoxFuture<'static, Result<(), String>> {
        let (knocks, queue) = mpsc::channel::<Knock<S>>(DOOR_QUEUE);
        let retire = CancellationToken::new();
        *self.doorway() = Doorway { knocks: Some(knocks), retire: retire.clone(), ..Doorway::closed() };
        let door = self.clone();
        async move {
            let api = boot.await;
            door.doorway().api = Some(Arc::clone(&api));
            let retired = async {
                retire.cancelled().await;
                let farewell = door.doorway().farewell;
                api.retire(farewell).await;
            };
            let ended = async {
                let reason = api.ended().await;
                // Who retires ends, too.
                if retire.is_cancelled() { std::future::pending().await } else { reason }
            };
            tokio::select! {
                biased;
                () = retired => Ok(()),
                reason = ended => Err(reason),
                () = answer(Arc::clone(&api), queue) => Ok(()),
            }
        }
        .boxed()
    }

    /// The process is gone: whoever knocks from now on finds nobody.
    pub fn shut(&self) {
        *self.doorway() = Doorway::closed();
    }
}

async fn answer<S: Service>(api: Arc<dyn Api<S>>, mut queue: mpsc::Receiver<Knock<S>>) {
    while let Some(Knock { ask, key, mut reply }) = queue.recv().await {
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            let answer = tokio::select! {
                biased;
                () = reply.closed() => return,
                answer = api.perform(ask, key) => answer,
            };
            // A client that hung up meanwhile does not want it.
            let _ = reply.send(answer);
        });
    }
}
