//! That the simulated mesh keeps the promises of [`Mesh`] and that each fault is what it says.

use std::collections::BTreeSet;

use super::{core::deadline, *};
use crate::sim::world::node_id;

/// Two or more processes on one network, driven by hand on tokio's paused clock.
struct Bench {
    time: WorldTime,
    network: SimNetwork,
    ends: Vec<(Arc<dyn Mesh>, mpsc::Receiver<MeshEvent>)>,
}

type Pending = tokio::task::JoinHandle<Result<Bytes, CallError>>;

impl Bench {
    fn of(nodes: usize, weather: Weather) -> Self {
        let time = WorldTime::default();
        let network = SimNetwork::new(7, time.clone(), weather);
        let ends = (0..nodes).map(|index| network.join(node_id(index))).collect();
        Self { time, network, ends }
    }

    async fn connected(nodes: usize, weather: Weather) -> Self {
        let mut bench = Self::of(nodes, weather);
        bench.run(301).await;
        for index in 0..nodes {
            assert_eq!(bench.events(index), vec!["up"; nodes - 1]);
        }
        bench
    }

    async fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.time.tick();
            self.network.turn();
            tokio::task::yield_now().await;
        }
    }

    /// What a process was told, each in a word; calls are answered with their body.
    fn events(&mut self, index: usize) -> Vec<String> {
        let mut events = Vec::new();
        while let Ok(event) = self.ends[index].1.try_recv() {
            events.push(match event {
                MeshEvent::Up(_) => "up".into(),
                MeshEvent::Down(_) => "down".into(),
                MeshEvent::Gossip { body, .. } => format!("gossip {}", String::from_utf8_lossy(&body)),
                MeshEvent::Call(call) => {
                    let text = format!("call {}", String::from_utf8_lossy(&call.body));
                    let _ = call.reply.send(call.body);
                    text
                }
            });
        }
        events
    }

    fn call(&self, from: usize, to: usize, body: impl Into<Bytes>) -> Pending {
        tokio::spawn(self.ends[from].0.call(node_id(to), Protocol::Raft, Lane::Ask, body.into()))
    }

    /// Runs until the call has ended, `to` answering what it is asked.
    async fn outcome(&mut self, call: Pending, to: usize) -> Result<Bytes, CallError> {
        for _ in 0..20_000 {
            if call.is_finished() {
                break;
            }
            self.run(1).await;
            self.events(to);
        }
        assert!(call.is_finished(), "a call must end");
        call.await.unwrap()
    }
}

#[tokio::test]
async fn a_call_is_answered_and_peers_are_listed() {
    let mut bench = Bench::connected(3, Weather::calm()).await;
    let call = bench.call(0, 1, "hello");
    assert_eq!(bench.outcome(call, 1).await, Ok("hello".into()));
    let status = bench.ends[0].0.status();
    assert_eq!(status.borrow().peers.keys().copied().collect::<Vec<_>>(), vec![node_id(1), node_id(2)]);
}

#[tokio::test]
async fn calls_to_oneself_to_strangers_and_of_too_many_bytes_are_not_delivered() {
    let mut bench = Bench::connected(2, Weather::calm()).await;
    for stranger in [0, 9] {
        let call = bench.call(0, stranger, "x");
        assert_eq!(bench.outcome(call, 1).await, Err(CallError::Unreachable(node_id(stranger))));
    }
    let call = bench.call(0, 1, vec![0; core::MAX_REQUEST_BYTES + 1]);
    assert!(matches!(bench.outcome(call, 1).await, Err(CallError::TooLarge { .. })));
}

#[tokio::test]
async fn a_call_that_is_dropped_unanswered_is_refused() {
    let mut bench = Bench::connected(2, Weather::calm()).await;
    let call = bench.call(0, 1, "x");
    bench.run(20).await;
    let event = bench.ends[1].1.try_recv();
    assert!(matches!(event, Ok(MeshEvent::Call(_))), "{event:?}");
    drop(event);
    assert_eq!(bench.outcome(call, 1).await, Err(CallError::Refused(node_id(1))));
}

#[tokio::test]
async fn a_lost_request_or_answer_ends_at_the_protocols_deadline() {
    let mut bench = Bench::connected(2, Weather { loss: 1.0, ..Weather::calm() }).await;
    let before = bench.time.now_ms();
    let call = bench.call(0, 1, "x");
    assert_eq!(bench.outcome(call, 1).await, Err(CallError::Timeout(node_id(1))));
    let waited = u128::from(bench.time.now_ms() - before);
    assert!(waited.abs_diff(deadline(Protocol::Raft).as_millis()) <= 2, "{waited} ms");

    bench.network.set_weather(Weather::calm());
    let call = bench.call(0, 1, "x");
    bench.run(20).await;
    bench.network.set_weather(Weather { loss: 1.0, ..Weather::calm() });
    assert_eq!(bench.events(1), ["call x"]);
    assert_eq!(bench.outcome(call, 1).await, Err(CallError::Timeout(node_id(1))));
    let tally = bench.network.tally();
    assert_eq!((tally.of(Happened::RequestLost), tally.of(Happened::AnswerLost)), (1, 1));
}

#[tokio::test]
async fn a_duplicated_request_arrives_twice_and_is_answered_once() {
    let mut bench = Bench::connected(2, Weather { duplicate: 1.0, ..Weather::calm() }).await;
    let call = bench.call(0, 1, "x");
    bench.run(20).await;
    assert_eq!(bench.events(1), ["call x", "call x"]);
    assert_eq!(bench.outcome(call, 1).await, Ok("x".into()));
    assert_eq!(bench.network.tally().of(Happened::Duplicated), 1);
}

#[tokio::test]
async fn messages_overtake_each_other() {
    let mut bench = Bench::connected(2, Weather { slow: 0.5, ..Weather::calm() }).await;
    let calls: Vec<_> = (0..50).map(|n| bench.call(0, 1, format!("{n}"))).collect();
    bench.run(700).await;
    let arrived = bench.events(1);
    assert_eq!(arrived.len(), 50);
    assert_ne!(arrived, (0..50).map(|n| format!("call {n}")).collect::<Vec<_>>());
    assert_eq!(arrived.iter().collect::<BTreeSet<_>>().len(), 50);
    assert!(bench.network.tally().of(Happened::Reordered) > 0);
    assert!(bench.network.tally().of(Happened::DelayedLong) > 0);
    drop(calls);
}

#[tokio::test]
async fn a_killed_process_breaks_its_calls_and_its_peers_hear_of_it_at_once() {
    let mut bench = Bench::connected(2, Weather::calm()).await;
    let call = bench.call(0, 1, "x");
    bench.run(20).await;
    bench.network.kill(node_id(1));
    bench.run(2).await;
    assert_eq!(bench.events(0), ["down"]);
    assert_eq!(bench.outcome(call, 0).await, Err(CallError::Broken(node_id(1))));
    let call = bench.call(0, 1, "y");
    assert_eq!(bench.outcome(call, 0).await, Err(CallError::Unreachable(node_id(1))));

    bench.ends[1] = bench.network.join(node_id(1));
    bench.run(301).await;
    assert_eq!((bench.events(0), bench.events(1)), (vec!["up".to_owned()], vec!["up".to_owned()]));
}

#[tokio::test]
async fn what_was_sent_to_a_process_does_not_reach_the_next_one_under_its_id() {
    let mut bench = Bench::connected(2, Weather { slow: 1.0, slow_us: 400_000..=400_000, ..Weather::calm() }).await;
    let call = bench.call(0, 1, "x");
    bench.run(10).await;
    bench.ends[1] = bench.network.join(node_id(1));
    bench.run(500).await;
    assert_eq!(bench.events(1), ["up"]);
    assert_eq!(bench.events(0), ["down", "up"]);
    assert_eq!(bench.outcome(call, 1).await, Err(CallError::Broken(node_id(1))));
}

#[tokio::test]
async fn a_partition_swallows_messages_first_is_noticed_later_and_heals() {
    let mut bench = Bench::connected(2, Weather { detect_ms: 1_000..=1_000, ..Weather::calm() }).await;
    bench.network.set_blocked([(node_id(0), node_id(1)), (node_id(1), node_id(0))]);
    let call = bench.call(0, 1, "x");
    bench.run(900).await;
    assert!(bench.events(0).is_empty() && bench.events(1).is_empty() && !call.is_finished());
    bench.run(200).await;
    assert_eq!((bench.events(0), bench.events(1)), (vec!["down".to_owned()], vec!["down".to_owned()]));
    assert_eq!(bench.outcome(call, 1).await, Err(CallError::Broken(node_id(1))));
    assert_eq!(bench.network.tally().of(Happened::Blocked), 1);
    bench.network.set_blocked([]);
    bench.run(301).await;
    assert_eq!((bench.events(0), bench.events(1)), (vec!["up".to_owned()], vec!["up".to_owned()]));
}

#[tokio::test]
async fn a_one_way_partition_lets_requests_through_and_stops_the_answers() {
    let mut bench = Bench::connected(2, Weather { detect_ms: 60_000..=60_000, ..Weather::calm() }).await;
    bench.network.set_blocked([(node_id(1), node_id(0))]);
    let call = bench.call(0, 1, "x");
    bench.run(20).await;
    assert_eq!(bench.events(1), ["call x"]);
    assert_eq!(bench.outcome(call, 1).await, Err(CallError::Timeout(node_id(1))));
}

#[tokio::test]
async fn a_barred_peer_is_cut_off_until_it_is_admitted() {
    let mut bench = Bench::connected(2, Weather::calm()).await;
    bench.ends[0].0.set_barred(vec![node_id(1)]);
    bench.run(2).await;
    assert_eq!(bench.events(1), ["down"]);
    let call = bench.call(1, 0, "x");
    assert_eq!(bench.outcome(call, 0).await, Err(CallError::Unreachable(node_id(0))));
    bench.ends[0].0.set_barred(Vec::new());
    bench.run(301).await;
    assert_eq!(bench.events(1), ["up"]);
}

#[tokio::test]
async fn a_closed_connection_stays_closed_until_somebody_wants_it() {
    let mut bench = Bench::connected(2, Weather::calm()).await;
    bench.ends[0].0.disconnect(node_id(1));
    bench.run(500).await;
    assert_eq!(bench.events(1), ["down"]);
    bench.ends[1].0.hint(node_id(0), Vec::new(), DiscoveredBy::Bootstrap);
    bench.run(301).await;
    assert_eq!(bench.events(1), ["up"]);
}

#[tokio::test]
async fn broadcasts_reach_the_others_or_are_lost() {
    let mut bench = Bench::connected(3, Weather::calm()).await;
    bench.ends[0].0.broadcast(Topic::View, "v".into());
    bench.run(20).await;
    assert_eq!(
        (bench.events(0).len(), bench.events(1), bench.events(2)),
        (0, vec!["gossip v".into()], vec!["gossip v".into()])
    );
    bench.network.set_weather(Weather { gossip_loss: 1.0, ..Weather::calm() });
    bench.ends[0].0.broadcast(Topic::View, "v".into());
    bench.run(700).await;
    assert!(bench.events(1).is_empty() && bench.network.tally().of(Happened::GossipLost) == 2);
}

#[tokio::test]
async fn the_same_seed_delivers_in_the_same_order() {
    let mut arrivals = Vec::new();
    for _ in 0..2 {
        let mut bench = Bench::connected(2, Weather { slow: 0.3, duplicate: 0.2, loss: 0.1, ..Weather::calm() }).await;
        let calls: Vec<_> = (0..100).map(|n| bench.call(0, 1, format!("{n}"))).collect();
        bench.run(700).await;
        arrivals.push(bench.events(1));
        drop(calls);
    }
    assert_eq!(arrivals[0], arrivals[1]);
}
