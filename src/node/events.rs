//! The cluster's events, as this node comes to know them: a ring that streams can resume from.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    EventStream, ResumeFrom,
    observe_queues::{is_filling, state},
    route::Route,
    status::{ClusterEvent, PartitionState},
    wire::{Leader, View},
};
use crate::{
    clock::Clock,
    ids::{NodeId, PartitionId, Tick},
    machine::{membership::Liveness, placement::Partition},
    telemetry::Bounds,
    time::rfc3339,
};

/// Most events that a stream can go back.
const MAX_EVENTS: usize = 4_096;
/// More events than this a node has never had in a millisecond. Ids stay below 2^53 until the year 2255.
const IDS_PER_MS: u64 = 1_000;
/// Events that a reader may be behind before its stream ends.
const STREAM_BUFFER: usize = MAX_EVENTS;

#[derive(Debug, Default)]
struct Ring {
    last_id: u64,
    events: VecDeque<ClusterEvent>,
    streams: Vec<mpsc::Sender<ClusterEvent>>,
}

/// The ring. Cheap to clone. Its lock is held to append or copy, never across an await.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    ring: Arc<Mutex<Ring>>,
    bounds: Bounds,
}

impl Events {
    /// None so far. `bounds` counts the readers that are cut off. Ids begin at the wall clock's time, so
    /// that one of an earlier run, or of another node, is not mistaken for one of this run.
    pub(crate) fn new(bounds: Bounds, now: Tick) -> Self {
        let last_id = now.0.saturating_mul(IDS_PER_MS);
        Self { ring: Arc::new(Mutex::new(Ring { last_id, ..Ring::default() })), bounds }
    }

    /// Appends an event. `data` is an object; the time is added as `at`.
    pub(crate) fn push(&self, at: Tick, event: &str, mut data: Value) {
        data["at"] = json!(rfc3339(at));
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last_id += 1;
        let event = ClusterEvent { id: ring.last_id, event: event.to_owned(), data };
        if ring.events.len() == MAX_EVENTS {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        // Whoever is a whole ring behind is cut off, and told so by its `reset` when it comes back.
        ring.streams.retain(|stream| match stream.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.bounds.hit("node.event-stream");
                false
            }
        });
    }

    /// A stream of the events from there on.
    pub(crate) fn stream(&self, from: ResumeFrom) -> EventStream {
        let (stream, events) = mpsc::channel(STREAM_BUFFER);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let before_oldest = ring.events.front().map_or(ring.last_id, |event| event.id - 1);
        let reset = match from {
            ResumeFrom::Now => None,
            ResumeFrom::After(last) if (before_oldest..=ring.last_id).contains(&last) => {
                for event in ring.events.iter().filter(|event| event.id > last) {
                    // The buffer holds a whole ring.
                    let _ = stream.try_send(event.clone());
                }
                None
            }
            ResumeFrom::After(_) | ResumeFrom::Elsewhere => Some(ring.last_id),
        };
        ring.streams.retain(|stream| !stream.is_closed());
        ring.streams.push(stream);
        EventStream { reset, events }
    }
}

/// Turns changes of view and leader into events, until `stop`.
pub(crate) async fn follow(events: Events, route: Route, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let mut views: watch::Receiver<Arc<View>> = route.views();
    let mut known = views.borrow_and_update().clone();
    let mut leaders = route.leaders();
    let mut leader = route.leader();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
            changed = leaders.changed() => if changed.is_err() { return },
        }
        let view = views.borrow_and_update().clone();
        tell_members(&events, clock.wall(), &known, &view);
        tell_placement(&events, clock.wall(), &known, &view);
        known = view;
        let now = route.leader();
        if now.is_some() && now != leader {
            tell_leader(&events, clock.wall(), now);
            leader = now;
        }
    }
}

fn tell_leader(events: &Events, at: Tick, leader: Option<Leader>) {
    if let Some(leader) = leader {
        events.push(at, "leader-changed", json!({ "leader": leader.node, "term": leader.term }));
    }
}

fn tell_members(events: &Events, at: Tick, before: &View, after: &View) {
    let state = |view: &View, node: &NodeId| view.members.get(node).map(|m| (m.liveness, m.joiner.incarnation));
    let mut roles = BTreeMap::new();
    for (node, member) in &after.members {
        if state(before, node) != state(after, node) {
            roles.insert(*node, member);
        }
    }
    for (node, member) in roles {
        let name = match member.liveness {
            Liveness::Up => "member-up",
            Liveness::Draining => "member-draining",
            Liveness::Down => "member-down",
            Liveness::Left => "member-left",
        };
        events.push(at, name, json!({ "peer_id": node, "roles": member.joiner.roles }));
    }
    if before.voters != after.voters {
        events.push(at, "voters-changed", json!({ "voters": after.voters }));
    }
}

/// One event for all partitions that changed, with how the whole is now.
fn tell_placement(events: &Events, at: Tick, before: &View, after: &View) {
    if Arc::ptr_eq(&before.partitions, &after.partitions) {
        return;
    }
    let changed = |(id, partition): &(&PartitionId, &Partition)| before.partitions.get(id) != Some(*partition);
    let changed = after.partitions.iter().filter(changed);
    // Partitions that nobody keeps yet are no news.
    let changed: Vec<PartitionId> = changed.filter(|(_, now)| now.is_placed()).map(|(id, _)| *id).collect();
    if changed.is_empty() {
        return;
    }
    let count = |wanted: PartitionState| after.partitions.values().filter(|now| state(now) == wanted).count();
    let mut data = json!({
        "epoch": after.version,
        "changed": changed.len(),
        "serving": count(PartitionState::Serving),
        "waiting": count(PartitionState::Waiting),
        "journal_lost": count(PartitionState::JournalLost),
        "filling": after.partitions.values().filter(|now| is_filling(now)).count(),
    });
    if let [one] = changed[..] {
        data["partition"] = json!(one);
    }
    events.push(at, "placement-changed", data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{Epoch, Incarnation, JournalId},
        machine::{placement::PartitionStatus, replication::Replica},
        telemetry::Metrics,
    };

    #[tokio::test]
    async fn a_reader_that_falls_a_whole_ring_behind_is_cut_off_and_counted() {
        let metrics = Metrics::new();
        let events = Events::new(metrics.bounds().clone(), Tick(0));
        let mut slow = events.stream(ResumeFrom::Now).events;
        for _ in 0..=MAX_EVENTS {
            events.push(Tick(0), "member-up", json!({}));
        }
        let mut read = 0;
        while slow.recv().await.is_some() {
            read += 1;
        }
        assert_eq!(read, MAX_EVENTS);
        let hits = r#"syncmesh_bound_hits_total{bound="node.event-stream"} 1"#;
        assert!(metrics.encode().contains(hits), "{}", metrics.encode());
    }

    #[tokio::test]
    async fn a_stream_resumes_where_it_was() {
        let events = Events::new(Bounds::default(), Tick(7));
        for _ in 0..3 {
            events.push(Tick(0), "member-up", json!({}));
        }
        let mut stream = events.stream(ResumeFrom::After(7_001));
        assert_eq!(stream.reset, None);
        assert_eq!(stream.events.recv().await.expect("an event").id, 7_002);
        assert_eq!(events.stream(ResumeFrom::After(7_000)).reset, None, "all of this run's are still known");
    }

    #[tokio::test]
    async fn a_stream_that_cannot_resume_is_reset_to_an_id_from_which_it_can() {
        let events = Events::new(Bounds::default(), Tick(7));
        assert_eq!(events.stream(ResumeFrom::Elsewhere).reset, Some(7_000));
        for _ in 0..=MAX_EVENTS {
            events.push(Tick(0), "member-up", json!({}));
        }
        for (lost, why) in [(7_000, "too long ago"), (6_999, "of an earlier run"), (99_999, "of another node")] {
            let reset = events.stream(ResumeFrom::After(lost)).reset.expect(why);
            let mut resumed = events.stream(ResumeFrom::After(reset));
            assert_eq!(resumed.reset, None);
            events.push(Tick(0), "member-down", json!({}));
            assert_eq!(resumed.events.recv().await.expect("the next event").id, reset + 1);
        }
    }

    #[tokio::test]
    async fn a_view_that_places_partitions_otherwise_is_one_event() {
        let events = Events::new(Bounds::default(), Tick(7));
        let mut stream = events.stream(ResumeFrom::Now).events;
        let replica = Replica { node: NodeId::default(), incarnation: Incarnation(1), journal: JournalId(1) };
        let placed = |epoch| Partition {
            epoch: Epoch(epoch),
            primary: Some(replica),
            in_sync: vec![replica],
            holders: vec![replica],
            replicas: vec![replica.node],
            status: PartitionStatus::Serving,
        };
        let view = |version, partitions: [Partition; 2]| View {
            version,
            partitions: Arc::new((0..).map(PartitionId).zip(partitions).collect()),
            ..View::default()
        };
        let founded = view(1, [Partition::unplaced(), Partition::unplaced()]);
        tell_placement(&events, Tick(0), &View::default(), &founded);
        let both = view(2, [placed(1), placed(1)]);
        tell_placement(&events, Tick(0), &founded, &both);
        tell_placement(&events, Tick(0), &both, &view(3, [placed(1), placed(1)]));
        tell_placement(&events, Tick(0), &both, &view(4, [placed(1), placed(2)]));
        let told = [stream.recv().await.expect("the first"), stream.recv().await.expect("the second")];
        assert!(stream.try_recv().is_err(), "nothing else has changed");
        assert_eq!((told[0].event.as_str(), &told[0].data["changed"]), ("placement-changed", &json!(2)));
        assert_eq!((&told[1].data["partition"], &told[1].data["serving"]), (&json!(1), &json!(2)));
    }
}
