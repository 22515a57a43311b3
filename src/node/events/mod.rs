//! The cluster's events, as this node comes to know them: a ring that streams can resume from.
//!
//! What the whole cluster agrees on (members, leaders, placement) is [followed](follow) in the view that every node
//! installs, and what happens to locks in the log. What only one node can see, it [tells](news) the others: such an
//! event says in `seen_by` whose word it is.

mod contact;
pub(crate) mod follow;
pub(crate) mod news;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{EventStream, ResumeFrom, status::ClusterEvent};
use crate::{
    ids::Tick,
    telemetry::{Bounds, NodeMetrics},
    time::rfc3339,
};

/// Most events that a stream can go back.
const MAX_EVENTS: usize = 4_096;
/// More events than this a node has never had in a millisecond. Ids stay below 2^53 until the year 2255.
const IDS_PER_MS: u64 = 1_000;
/// Events that a reader may be behind before its stream ends.
const STREAM_BUFFER: usize = MAX_EVENTS;

/// What can happen. docs/operations.md tells of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum EventKind {
    MemberUp,
    MemberDraining,
    MemberDown,
    MemberLeft,
    VotersChanged,
    LeaderChanged,
    PlacementChanged,
    SlotsChanged,
    PartitionNoticed,
    PartitionHealed,
    JournalAway,
    JournalBack,
    DirtyLinesLost,
    LockBroken,
}

impl EventKind {
    /// All of them.
    pub(crate) const ALL: [Self; 14] = [
        Self::MemberUp,
        Self::MemberDraining,
        Self::MemberDown,
        Self::MemberLeft,
        Self::VotersChanged,
        Self::LeaderChanged,
        Self::PlacementChanged,
        Self::SlotsChanged,
        Self::PartitionNoticed,
        Self::PartitionHealed,
        Self::JournalAway,
        Self::JournalBack,
        Self::DirtyLinesLost,
        Self::LockBroken,
    ];

    /// Its name in the stream and in the metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::MemberUp => "member-up",
            Self::MemberDraining => "member-draining",
            Self::MemberDown => "member-down",
            Self::MemberLeft => "member-left",
            Self::VotersChanged => "voters-changed",
            Self::LeaderChanged => "leader-changed",
            Self::PlacementChanged => "placement-changed",
            Self::SlotsChanged => "slots-changed",
            Self::PartitionNoticed => "partition-noticed",
            Self::PartitionHealed => "partition-healed",
            Self::JournalAway => "journal-away",
            Self::JournalBack => "journal-back",
            Self::DirtyLinesLost => "dirty-lines-lost",
            Self::LockBroken => "lock-broken",
        }
    }
}

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
    metrics: NodeMetrics,
}

impl Events {
    /// None so far. `bounds` counts the readers that are cut off. Ids begin at the wall clock's time, so
    /// that one of an earlier run, or of another node, is not mistaken for one of this run.
    pub(crate) fn new(bounds: Bounds, metrics: NodeMetrics, now: Tick) -> Self {
        let last_id = now.0.saturating_mul(IDS_PER_MS);
        metrics.know_events(EventKind::ALL.map(EventKind::as_str));
        Self { ring: Arc::new(Mutex::new(Ring { last_id, ..Ring::default() })), bounds, metrics }
    }

    /// Appends an event. `data` is an object; the time is added as `at`.
    pub(crate) fn push(&self, at: Tick, event: EventKind, mut data: Value) {
        data["at"] = json!(rfc3339(at));
        let event = event.as_str();
        self.metrics.event(event);
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
        // How many of the newest it is told first.
        let (reset, known) = match from {
            ResumeFrom::Now => (None, 0),
            ResumeFrom::After(last) if (before_oldest..=ring.last_id).contains(&last) => {
                (None, ring.events.iter().filter(|event| event.id > last).count())
            }
            ResumeFrom::After(_) | ResumeFrom::Elsewhere => (Some(ring.last_id), 0),
            ResumeFrom::Recent(most) => (None, most.min(ring.events.len())),
        };
        for event in ring.events.iter().skip(ring.events.len() - known) {
            // The buffer holds a whole ring.
            let _ = stream.try_send(event.clone());
        }
        ring.streams.retain(|stream| !stream.is_closed());
        ring.streams.push(stream);
        EventStream { reset, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn events(metrics: &Metrics, now: u64) -> Events {
        Events::new(metrics.bounds().clone(), metrics.node().clone(), Tick(now))
    }

    #[tokio::test]
    async fn a_reader_that_falls_a_whole_ring_behind_is_cut_off_and_counted() {
        let metrics = Metrics::new();
        let events = events(&metrics, 0);
        let mut slow = events.stream(ResumeFrom::Now).events;
        for _ in 0..=MAX_EVENTS {
            events.push(Tick(0), EventKind::MemberUp, json!({}));
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
        let events = events(&Metrics::new(), 7);
        for _ in 0..3 {
            events.push(Tick(0), EventKind::MemberUp, json!({}));
        }
        let mut stream = events.stream(ResumeFrom::After(7_001));
        assert_eq!(stream.reset, None);
        assert_eq!(stream.events.recv().await.expect("an event").id, 7_002);
        assert_eq!(events.stream(ResumeFrom::After(7_000)).reset, None, "all of this run's are still known");
    }

    #[tokio::test]
    async fn a_stream_may_begin_with_what_happened_last() {
        let events = events(&Metrics::new(), 7);
        assert_eq!(events.stream(ResumeFrom::Recent(5)).reset, None);
        for _ in 0..3 {
            events.push(Tick(0), EventKind::MemberUp, json!({}));
        }
        for (most, told) in [(1, &[7_003][..]), (2, &[7_002, 7_003]), (5, &[7_001, 7_002, 7_003])] {
            let mut stream = events.stream(ResumeFrom::Recent(most));
            let mut ids = Vec::new();
            while let Ok(event) = stream.events.try_recv() {
                ids.push(event.id);
            }
            assert_eq!((ids.as_slice(), stream.reset), (told, None));
        }
    }

    #[tokio::test]
    async fn a_stream_that_cannot_resume_is_reset_to_an_id_from_which_it_can() {
        let events = events(&Metrics::new(), 7);
        assert_eq!(events.stream(ResumeFrom::Elsewhere).reset, Some(7_000));
        for _ in 0..=MAX_EVENTS {
            events.push(Tick(0), EventKind::MemberUp, json!({}));
        }
        for (lost, why) in [(7_000, "too long ago"), (6_999, "of an earlier run"), (99_999, "of another node")] {
            let reset = events.stream(ResumeFrom::After(lost)).reset.expect(why);
            let mut resumed = events.stream(ResumeFrom::After(reset));
            assert_eq!(resumed.reset, None);
            events.push(Tick(0), EventKind::MemberDown, json!({}));
            assert_eq!(resumed.events.recv().await.expect("the next event").id, reset + 1);
        }
    }
}
