//! Hints that the view has changed: the leader broadcasts them, and who is behind asks it at once.
//!
//! One task on every node. Without it each node would hear of a change with its next heartbeat, as it
//! does where all hints are lost; nothing depends on one. A broadcast may be lost, so the last hint is told
//! again when nothing changes any more. What a hint claims is not believed: the view
//! comes from the answer to a heartbeat, which only a leader with a quorum gives.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    authority::Authority,
    control,
    route::Route,
    wire::{ControlCall, ControlReply, ViewHint},
};
use crate::{
    codec::{decode, encode},
    ids::{Incarnation, NodeId},
    net::{Mesh, Topic},
};

/// Hints that may wait; what is lost comes with the next heartbeat.
pub(super) const INBOX: usize = 16;

/// After a change a hint is told at once, and again after so long each, unless there is another change.
const REPEATS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// A hint and its author, whom the mesh vouches for.
pub(super) type Hinted = (NodeId, Bytes);

/// Has the view asked for now: somebody has heard of a newer one than this node has. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ViewPull(Arc<Notify>);

impl ViewPull {
    /// Asks the leader for its view, unless it is being asked already.
    pub(crate) fn pull(&self) {
        self.0.notify_one();
    }
}

/// What the task is made of.
#[derive(Debug)]
pub(super) struct ViewHints {
    pub(super) pull: ViewPull,
    pub(super) mesh: Arc<dyn Mesh>,
    pub(super) route: Route,
    pub(super) authority: Option<Authority>,
    pub(super) incarnation: Incarnation,
}

impl ViewHints {
    /// Runs until `stop`. Also while the node drains: until others hold its queues, each of their commits waits for
    /// it to know the newest placement.
    pub(super) async fn run(self, mut hints: mpsc::Receiver<Hinted>, stop: CancellationToken) {
        let mut views = self.route.views();
        let mut asking = JoinSet::new();
        // The latest one that came while an answer was awaited.
        let mut next = None;
        let mut repeats = VecDeque::new();
        loop {
            let repeat_at = repeats.front().copied();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = views.changed() => {
                    self.tell_others();
                    repeats = REPEATS.map(|after| Instant::now() + after).into();
                }
                () = sleep_until(repeat_at.unwrap_or_else(Instant::now)), if repeat_at.is_some() => {
                    repeats.pop_front();
                    self.tell_others();
                }
                Some(_) = asking.join_next() => {}
                Some((from, body)) = hints.recv() => next = self.read(from, &body).or(next),
                () = self.pull.0.notified(), if asking.is_empty() => {
                    if let Some(leader) = self.route.leader() {
                        asking.spawn(self.ask(leader.node));
                    }
                }
            }
            if asking.is_empty()
                && let Some((leader, _)) = next.take().filter(|(_, hint)| self.is_news(*hint))
            {
                asking.spawn(self.ask(leader));
            }
        }
    }

    fn tell_others(&self) {
        let Some(leader) = self.route.leader().filter(|leader| leader.node == self.mesh.local()) else { return };
        let hint = ViewHint { term: leader.term, version: self.route.view().version };
        self.mesh.broadcast(Topic::View, encode(&hint));
    }

    fn read(&self, from: NodeId, body: &[u8]) -> Option<(NodeId, ViewHint)> {
        let hint = decode::<ViewHint>(body).ok()?;
        (self.route.is_member(from) && self.is_news(hint)).then_some((from, hint))
    }

    fn is_news(&self, hint: ViewHint) -> bool {
        hint.term >= self.route.term() && hint.version > self.route.view().version
    }

    /// Asks for the view, by the heartbeat that it would have come with.
    fn ask(&self, leader: NodeId) -> impl Future<Output = ()> + Send + use<> {
        let (mesh, route, authority) = (Arc::clone(&self.mesh), self.route.clone(), self.authority.clone());
        let call = ControlCall::Heartbeat { incarnation: self.incarnation, view: self.route.view().version };
        async move {
            match control::tell(&*mesh, authority.as_ref(), mesh.local(), leader, call).await {
                Ok(ControlReply::Alive { view: Some(view), .. }) => _ = route.install(*view),
                outcome => debug!(%leader, ?outcome, "a hint brought no view"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        ids::{Term, Tick},
        machine::membership::{Joiner, Liveness, Member},
        node::{
            recording::{Recording, node},
            wire::{Leader, View},
        },
    };

    fn view(version: u64) -> View {
        let member = |n| (node(n), Member { joiner: Joiner::of(node(n), 1), liveness: Liveness::Up, since: Tick(0) });
        View { version, members: [1, 2].map(member).into(), ..View::default() }
    }

    struct Running {
        mesh: Arc<Recording>,
        route: Route,
        hints: mpsc::Sender<Hinted>,
    }

    impl Running {
        fn start() -> Self {
            let leader = Leader { term: Term(2), node: node(2) };
            let answer = Some(encode(&ControlReply::Alive { leader, version: 9, view: Some(Box::new(view(9))) }));
            let mesh = Arc::new(Recording { answer, ..Recording::default() });
            let route = Route::new();
            route.learn(leader);
            route.install(view(5));
            let task = ViewHints {
                pull: ViewPull::default(),
                mesh: mesh.clone(),
                route: route.clone(),
                authority: None,
                incarnation: Incarnation(1),
            };
            let (hints, inbox) = mpsc::channel(INBOX);
            tokio::spawn(task.run(inbox, CancellationToken::new()));
            Self { mesh, route, hints }
        }

        async fn hint(&self, from: u8, term: u64, version: u64) {
            let hint = encode(&ViewHint { term: Term(term), version });
            self.hints.send((node(from), hint)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }

        fn called(&self) -> Vec<NodeId> {
            self.mesh.called.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_behind_asks_the_leader_at_once_and_installs_its_view() {
        let running = Running::start();
        running.hint(2, 2, 6).await;
        assert_eq!((running.called(), running.route.view().version), (vec![node(2)], 9));
        running.hint(2, 2, 9).await;
        assert_eq!(running.called().len(), 1, "it has that view");
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_deposed_leaders_and_garbage_are_not_believed() {
        let running = Running::start();
        running.hint(7, 2, 6).await;
        running.hint(2, 1, 6).await;
        running.hints.send((node(2), Bytes::from_static(b"\xff\x00garbage"))).await.unwrap();
        running.hint(2, 2, 5).await;
        assert_eq!((running.called(), running.route.view().version), (Vec::new(), 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_that_never_comes_is_asked_for_once_per_hint() {
        let running = Running::start();
        running.hint(2, 2, u64::MAX).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(running.called().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_tells_the_others_of_a_view() {
        let running = Running::start();
        tokio::time::sleep(Duration::from_millis(1)).await;
        running.route.install(view(6));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(running.mesh.told.lock().unwrap().is_empty());
        running.route.set(Term(3), Some(node(1)));
        running.route.install(view(7));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let hint = (Topic::View, encode(&ViewHint { term: Term(3), version: 7 }));
        let told = || running.mesh.told.lock().unwrap().clone();
        assert_eq!(told(), std::slice::from_ref(&hint));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(told(), [hint.clone(), hint.clone(), hint], "it may have been lost");
    }
}
