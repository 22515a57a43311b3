//! Turns changes of what the whole cluster agrees on into events: members, leaders, placement.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{EventKind, Events};
use crate::{
    clock::Clock,
    ids::{PartitionId, Tick},
    machine::{
        cache::SlotId,
        membership::{Liveness, Member},
        placement::Partition,
    },
    node::{
        observe_queues::{is_filling, state},
        route::Route,
        status::PartitionState,
        wire::{Leader, View},
    },
    telemetry::NodeMetrics,
};

/// Where something is, is told at most once in this time: a member that comes or goes moves hundreds of partitions and
/// slots, a few at a time.
const PACE: Duration = Duration::from_secs(1);

/// Follows view and leader until `stop`.
pub(crate) async fn follow(
    events: Events,
    route: Route,
    clock: Arc<dyn Clock>,
    metrics: NodeMetrics,
    stop: CancellationToken,
) {
    let mut views: watch::Receiver<Arc<View>> = route.views();
    let mut known = views.borrow_and_update().clone();
    let mut leaders = route.leaders();
    let mut leader = route.leader();
    let mut leaderless_since = None;
    let mut whereabouts = Whereabouts::of(known.clone());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = views.changed() => if changed.is_err() { return },
            changed = leaders.changed() => if changed.is_err() { return },
            () = sleep_until(whereabouts.due()), if whereabouts.has_news(&known) => {}
        }
        let view = views.borrow_and_update().clone();
        tell_members(&events, &metrics, clock.wall(), &known, &view);
        whereabouts.tell(&events, clock.wall(), Instant::now(), &view);
        known = view;
        leaders.mark_unchanged();
        match route.leader() {
            // A node that has just started has not lost a leader.
            None if leader.is_some() => _ = leaderless_since.get_or_insert_with(Instant::now),
            None => {}
            Some(now) => {
                if let Some(since) = leaderless_since.take() {
                    metrics.was_leaderless(since.elapsed());
                }
                if leader.replace(now) != Some(now) {
                    metrics.leader_changed();
                    tell_leader(&events, clock.wall(), now);
                }
            }
        }
    }
}

fn tell_leader(events: &Events, at: Tick, leader: Leader) {
    events.push(at, EventKind::LeaderChanged, json!({ "leader": leader.node, "term": leader.term }));
}

fn tell_members(events: &Events, metrics: &NodeMetrics, at: Tick, before: &View, after: &View) {
    let run = |member: &Member| (member.liveness, member.joiner.incarnation);
    for (node, member) in &after.members {
        let earlier = before.members.get(node);
        if earlier.map(run) == Some(run(member)) {
            continue;
        }
        let kind = match member.liveness {
            Liveness::Up => EventKind::MemberUp,
            Liveness::Draining => EventKind::MemberDraining,
            Liveness::Down => EventKind::MemberDown,
            Liveness::Left => EventKind::MemberLeft,
        };
        let mut data = json!({ "peer_id": node, "roles": member.joiner.roles });
        let Some(absence) = earlier.and_then(|earlier| Absence::between(earlier, member)) else {
            events.push(at, kind, data);
            continue;
        };
        data["restarted"] = json!(absence.restarted);
        data["down_ms"] = json!(absence.lasted_ms);
        events.push(at, kind, data);
        metrics.came_back(Duration::from_millis(absence.lasted_ms), absence.restarted);
        if !absence.restarted {
            let data = json!({ "peers": [node], "duration_ms": absence.lasted_ms });
            events.push(at, EventKind::PartitionHealed, data);
        }
    }
    if before.voters != after.voters {
        events.push(at, EventKind::VotersChanged, json!({ "voters": after.voters }));
    }
}

/// The time that a member was down which is up again.
struct Absence {
    lasted_ms: u64,
    /// In another run: its process had died. In the same one it was cut off, or paused.
    restarted: bool,
}

impl Absence {
    fn between(before: &Member, after: &Member) -> Option<Self> {
        let is_back = before.liveness == Liveness::Down && after.liveness == Liveness::Up;
        is_back.then(|| Self {
            lasted_ms: after.since.ms_since(before.since),
            restarted: before.joiner.incarnation != after.joiner.incarnation,
        })
    }
}

/// Where partitions and slots were when that was last told.
struct Whereabouts {
    told: Arc<View>,
    at: Option<Instant>,
}

impl Whereabouts {
    fn of(told: Arc<View>) -> Self {
        Self { told, at: None }
    }

    fn has_news(&self, view: &View) -> bool {
        !Arc::ptr_eq(&self.told.partitions, &view.partitions) || !Arc::ptr_eq(&self.told.slots, &view.slots)
    }

    /// When the next news may be told.
    fn due(&self) -> Instant {
        self.at.map_or_else(Instant::now, |at| at + PACE)
    }

    fn tell(&mut self, events: &Events, at: Tick, now: Instant, view: &Arc<View>) {
        if !self.has_news(view) || self.at.is_some_and(|at| now < at + PACE) {
            return;
        }
        tell_placement(events, at, &self.told, view);
        tell_slots(events, at, &self.told, view);
        (self.told, self.at) = (Arc::clone(view), Some(now));
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
    events.push(at, EventKind::PlacementChanged, data);
}

/// One event for all slots of the cache that have another home, or none any more.
fn tell_slots(events: &Events, at: Tick, before: &View, after: &View) {
    if Arc::ptr_eq(&before.slots, &after.slots) {
        return;
    }
    let home_before = |id: &SlotId| before.slots.get(id).and_then(|slot| slot.home);
    let changed = after.slots.iter().filter(|(id, slot)| home_before(id) != slot.home).count();
    if changed > 0 {
        let homeless = after.slots.values().filter(|slot| slot.home.is_none()).count();
        let data = json!({ "epoch": after.version, "changed": changed, "homeless": homeless });
        events.push(at, EventKind::SlotsChanged, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{Epoch, Incarnation, JournalId, NodeId},
        machine::{
            cache::HomeId,
            membership::Joiner,
            placement::PartitionStatus,
            replication::Replica,
            slots::{self, Came, Slot},
        },
        node::ResumeFrom,
        telemetry::Metrics,
    };

    fn events(metrics: &Metrics) -> Events {
        Events::new(metrics.bounds().clone(), metrics.node().clone(), Tick(7))
    }

    /// Views of a cluster in which one member goes through these states: liveness, run, since when.
    fn views(states: &[(Liveness, u64, u64)]) -> Vec<View> {
        let view = |(liveness, run, since): &(Liveness, u64, u64)| {
            let node = NodeId::default();
            let joiner = Joiner { incarnation: Incarnation(*run), ..Joiner::of_queue_node(node, 1, 1) };
            let member = Member { joiner, liveness: *liveness, since: Tick(*since) };
            View { members: [(node, member)].into(), ..View::default() }
        };
        states.iter().map(view).collect()
    }

    #[tokio::test]
    async fn a_member_that_comes_back_in_the_same_run_was_cut_off() {
        for (run, expected) in
            [(1, vec!["member-down", "member-up", "partition-healed"]), (2, vec!["member-down", "member-up"])]
        {
            let metrics = Metrics::new();
            let events = events(&metrics);
            let mut stream = events.stream(ResumeFrom::Now).events;
            let views = views(&[(Liveness::Up, 1, 0), (Liveness::Down, 1, 1_000), (Liveness::Up, run, 8_500)]);
            for pair in views.windows(2) {
                tell_members(&events, metrics.node(), Tick(0), &pair[0], &pair[1]);
            }
            drop(events);
            let mut told = Vec::new();
            while let Ok(event) = stream.try_recv() {
                told.push(event);
            }
            assert_eq!(told.iter().map(|event| event.event.as_str()).collect::<Vec<_>>(), expected);
            assert_eq!((&told[1].data["restarted"], &told[1].data["down_ms"]), (&json!(run == 2), &json!(7_500)));
            if run == 1 {
                assert_eq!(told[2].data["duration_ms"], 7_500);
            }
            let seen = format!("syncmesh_member_absence_seconds_sum{{restarted=\"{}\"}} 7.5", run == 2);
            assert!(metrics.encode().contains(&seen), "{seen}");
        }
    }

    #[tokio::test]
    async fn a_view_that_places_partitions_otherwise_is_one_event() {
        let events = events(&Metrics::new());
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

    #[tokio::test]
    async fn slots_that_have_another_home_are_one_event_and_those_that_lost_theirs_are_counted() {
        let events = events(&Metrics::new());
        let mut stream = events.stream(ResumeFrom::Now).events;
        let home = |byte| Some(HomeId { node: NodeId::from_bytes([byte; 32]), incarnation: Incarnation(1), group: 0 });
        let view = |version, homes: [Option<HomeId>; 3]| {
            let slot = |home| Slot { epoch: Epoch(version), home, came: Came::Founded, to: None };
            View { version, slots: slots::table((0..).map(SlotId).zip(homes.map(slot))), ..View::default() }
        };
        let homeless = view(1, [None; 3]);
        tell_slots(&events, Tick(0), &View::default(), &homeless);
        let placed = view(2, [home(1), home(1), home(2)]);
        tell_slots(&events, Tick(0), &homeless, &placed);
        tell_slots(&events, Tick(0), &placed, &view(3, [home(1), home(1), home(2)]));
        tell_slots(&events, Tick(0), &placed, &view(4, [home(1), home(3), None]));
        let told = [stream.recv().await.expect("the first"), stream.recv().await.expect("the second")];
        assert!(stream.try_recv().is_err(), "nothing else has changed");
        let figures = told.map(|told| (told.event, told.data["changed"].clone(), told.data["homeless"].clone()));
        let expected = |changed, homeless| ("slots-changed".to_owned(), json!(changed), json!(homeless));
        assert_eq!(figures, [expected(3, 0), expected(2, 1)]);
    }
    #[tokio::test]
    async fn what_moves_a_little_at_a_time_is_told_at_once_and_then_once_a_second() {
        let events = events(&Metrics::new());
        let mut stream = events.stream(ResumeFrom::Now).events;
        let home = |byte| Some(HomeId { node: NodeId::from_bytes([byte; 32]), incarnation: Incarnation(1), group: 0 });
        let view = |version, homes: [u8; 3]| {
            let slot = |byte| Slot { epoch: Epoch(version), home: home(byte), came: Came::Founded, to: None };
            let slots = slots::table((0..).map(SlotId).zip(homes.map(slot)));
            Arc::new(View { version, slots, ..View::default() })
        };
        let began = Instant::now();
        let mut whereabouts = Whereabouts::of(view(1, [1, 1, 1]));
        let homes = [[2, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2], [2, 2, 3]];
        for ((version, homes), ms) in (2..).zip(homes).zip([0, 400, 999, 1_000, 2_500]) {
            whereabouts.tell(&events, Tick(0), began + Duration::from_millis(ms), &view(version, homes));
        }
        let told: Vec<_> = std::iter::from_fn(|| stream.try_recv().ok()).collect();
        let figures: Vec<_> = told.iter().map(|told| (&told.data["epoch"], &told.data["changed"])).collect();
        assert_eq!(figures, [(&json!(2), &json!(1)), (&json!(5), &json!(2)), (&json!(6), &json!(1))]);
        assert_eq!(whereabouts.due(), began + Duration::from_millis(3_500));
    }
}
