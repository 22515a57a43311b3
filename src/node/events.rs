//! The cluster's events, as this node comes to know them: a ring that streams can resume from.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    EventStream,
    route::Route,
    status::ClusterEvent,
    wire::{Leader, View},
};
use crate::{
    clock::Clock,
    ids::{NodeId, Tick},
    machine::membership::Liveness,
    telemetry::Bounds,
    time::rfc3339,
};

/// Most events that a stream can go back.
const MAX_EVENTS: usize = 4_096;
/// Events that a reader may be behind before its stream ends.
const STREAM_BUFFER: usize = MAX_EVENTS;

#[derive(Debug, Default)]
struct Ring {
    next_id: u64,
    events: VecDeque<ClusterEvent>,
    streams: Vec<mpsc::Sender<ClusterEvent>>,
}

/// The ring. Cheap to clone. Its lock is held to append or copy, never across an await.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    ring: Arc<Mutex<Ring>>,
    bounds: Bounds,
}

impl Events {
    /// None so far. `bounds` counts the readers that are cut off.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { ring: Arc::default(), bounds }
    }

    /// Appends an event. `data` is an object; the time is added as `at`.
    pub(crate) fn push(&self, at: Tick, event: &str, mut data: Value) {
        data["at"] = json!(rfc3339(at));
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.next_id += 1;
        let event = ClusterEvent { id: ring.next_id, event: event.to_owned(), data };
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

    /// A stream of the events after `last_id`, or from now on.
    pub(crate) fn stream(&self, last_id: Option<u64>) -> EventStream {
        let (stream, events) = mpsc::channel(STREAM_BUFFER);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = ring.events.front().map_or(ring.next_id + 1, |event| event.id);
        let reset = last_id.is_some_and(|last| last > ring.next_id || last + 1 < oldest);
        if let Some(last) = last_id.filter(|_| !reset) {
            for event in ring.events.iter().filter(|event| event.id > last) {
                // The buffer holds a whole ring.
                let _ = stream.try_send(event.clone());
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn a_reader_that_falls_a_whole_ring_behind_is_cut_off_and_counted() {
        let metrics = Metrics::new();
        let events = Events::new(metrics.bounds().clone());
        let mut slow = events.stream(None).events;
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
    async fn a_stream_resumes_where_it_was_or_is_reset() {
        let events = Events::default();
        for _ in 0..3 {
            events.push(Tick(0), "member-up", json!({}));
        }
        let mut stream = events.stream(Some(1));
        assert!(!stream.reset);
        assert_eq!(stream.events.recv().await.expect("an event").id, 2);
        assert!(events.stream(Some(9)).reset, "an id of another run of the node");
        for _ in 0..MAX_EVENTS {
            events.push(Tick(0), "member-up", json!({}));
        }
        assert!(events.stream(Some(1)).reset, "too long ago");
    }
}
