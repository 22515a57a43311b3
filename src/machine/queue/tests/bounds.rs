//! What is bounded, and what is saved.

use super::*;

fn tight(change: impl FnOnce(&mut Limits)) -> Bench {
    let mut limits = Limits::default();
    change(&mut limits);
    Bench::with(limits)
}

fn partition_full() -> OpAnswer {
    OpAnswer::Refused(QueueRefusal::PartitionFull)
}

fn texts(count: usize) -> Vec<NewMessage> {
    (0..count).map(|n| message(&format!("{n}"))).collect()
}

/// A queue whose messages are dead letters after the first delivery.
fn fragile(b: &mut Bench, name: &str, to: &str) {
    b.configure(name, |config| (config.max_deliveries, config.dead_letter) = (Some(1), Some(queue(to))));
}

/// Makes dead letters of so many messages.
fn fail(b: &mut Bench, name: &str, count: u32) {
    let (_, receipts) = b.receive(name, count);
    assert_eq!(receipts.len(), count as usize);
    b.nack(name, &receipts, Some(0));
}

#[test]
fn a_timer_does_so_much_and_the_rest_is_due_at_once() {
    let mut b = tight(|limits| limits.due = 3);
    b.publish("p", texts(4));
    b.publish("q", texts(4));
    b.receive("p", 9);
    b.receive("q", 9);
    b.pass(30_000);
    let mut steps = vec![];
    while b.queues.deadline().is_some_and(|due| due <= Tick(b.at)) {
        b.one(Op::Timer);
        steps.push(b.effects.clone());
    }
    let p = |messages| [count("p", Counted::TimedOut, messages), ready("p")];
    let q = |messages| [count("q", Counted::TimedOut, messages), ready("q")];
    assert_eq!(steps, [p(3).to_vec(), [p(1), q(2)].concat(), q(2).to_vec()]);
    assert_eq!((b.standing("p"), b.standing("q")), ((4, 0, 0), (4, 0, 0)));
}

#[test]
fn a_lease_does_so_much_and_never_delivers_what_is_too_old() {
    let mut b = tight(|limits| limits.due = 2);
    b.configure("q", |config| config.retention_s = 10);
    b.publish("q", texts(5));
    b.pass(10_000);
    for left in [3, 1, 0] {
        b.publish("q", vec![]);
        assert_eq!(b.lease("q", 9), []);
        assert_eq!(b.standing("q").0, left);
    }
}

#[test]
fn a_partition_holds_so_many_queues() {
    let mut b = tight(|limits| limits.queues = 2);
    b.publish("p", texts(1));
    b.publish("q", texts(1));
    let config = QueueConfig::defaults(&queue("r"), 60);
    assert_eq!(b.publish("r", texts(1)), partition_full());
    assert_eq!(b.one(Op::Configure { queue: queue("r"), config }), partition_full());
    assert_eq!(b.publish("q", texts(2)), published(&[("0", 1, true), ("1", 2, false)]));
    b.one(Op::Delete { queue: queue("p") });
    assert_eq!(b.publish("r", texts(1)), published(&[("0", 3, false)]));
}

#[test]
fn a_full_outbox_refuses_what_is_new_and_takes_what_must_be_moved() {
    let mut b = tight(|limits| limits.outbox = 2);
    fragile(&mut b, "q", "q.dead");
    b.publish("q", texts(5));
    fail(&mut b, "q", 3);
    assert_eq!(b.queues.outbox_len(), 3, "none is delivered again, and none is lost");
    assert_eq!(b.publish("p", texts(1)), partition_full());
    b.deliver_moves();
    assert_eq!((b.standing("q.dead"), b.queues.outbox_len()), ((3, 0, 0), 0), "what was moved is taken even so");
    fail(&mut b, "q", 1);
    let redrive = Op::Redrive { queue: queue("q.dead"), to: queue("q") };
    assert_eq!(b.one(redrive.clone()), OpAnswer::Redriven(1), "as far as there is room");
    assert_eq!(b.one(redrive), partition_full());
}

#[test]
fn so_many_moves_are_told_for_each_destination() {
    let mut b = tight(|limits| limits.moves_per_destination = 2);
    fragile(&mut b, "p", "full");
    fragile(&mut b, "q", "q.dead");
    b.publish("p", texts(4));
    b.publish("q", texts(1));
    fail(&mut b, "p", 4);
    let offsets = |b: &Bench| b.queues.outbox().iter().map(|moved| moved.offset).collect::<Vec<_>>();
    assert_eq!(offsets(&b), [0, 1]);
    fail(&mut b, "q", 1);
    assert_eq!(offsets(&b), [0, 1, 4], "a destination that takes nothing holds up no other");
    b.one(Op::Moved { offsets: vec![1] });
    let next = b.queues.outbox()[1].clone();
    assert_eq!((next.offset, b.effects.clone()), (2, vec![count("p", Counted::Moved, 1), QueueEffect::Move(next)]));
    b.one(Op::Moved { offsets: vec![0, 2, 4, 9] });
    assert_eq!(offsets(&b), [3]);
    b.one(Op::Moved { offsets: vec![3] });
    assert_eq!((offsets(&b), b.queues.outbox_len()), (vec![], 0));
}

#[test]
fn so_many_ids_and_acks_are_remembered() {
    let mut b = tight(|limits| (limits.ids, limits.acks) = (2, 2));
    b.publish("q", messages(&["a", "b", "c"]));
    assert!(b.effects.contains(&count("q", Counted::ForgottenEarly, 1)), "{:?}", b.effects);
    assert_eq!(b.publish("q", messages(&["b", "c"])), published(&[("b", 1, true), ("c", 2, true)]));
    assert_eq!(b.publish("q", messages(&["a"])), published(&[("a", 3, false)]), "the oldest is forgotten first");
    let (_, receipts) = b.receive("q", 3);
    b.ack("q", &receipts);
    assert_eq!(b.ack("q", &receipts), settled(&receipts[1..], &receipts[..1]));
}

#[test]
fn what_need_not_be_remembered_is_forgotten() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a", "b"]));
    let (_, receipts) = b.receive("q", 2);
    b.ack("q", &receipts);
    assert_eq!(b.queues.deadline(), Some(Tick(START + 300_000 + FORGET_SLACK_MS)));
    b.pass(300_000 + FORGET_SLACK_MS);
    b.one(Op::Timer);
    assert!(b.queues.queues.values().all(|queue| queue.ids == memory::Memory::default()));
    assert_eq!(b.queues.deadline(), None);
}

#[test]
fn an_origin_is_remembered_while_its_message_is_there() {
    let mut b = Bench::new();
    b.configure("q", |config| config.retention_s = 1_000_000);
    let origin = Origin { partition: PartitionId(1), queue: queue("p"), offset: 5 };
    let moved = NewMessage { origin: Some(origin), ..message("a") };
    assert_eq!(b.publish("q", vec![moved.clone(), moved.clone()]), published(&[("a", 0, false), ("a", 0, true)]));
    assert_eq!(b.publish("q", vec![message("a")]), published(&[("a", 1, false)]), "an id is something else");
    b.pass(50 * ORIGIN_WINDOW_S * 1_000);
    b.one(Op::Timer);
    assert_eq!(b.publish("q", vec![moved.clone()]), published(&[("a", 0, true)]));
    let (_, receipts) = b.receive("q", 2);
    b.ack("q", &receipts);
    assert_eq!(b.publish("q", vec![moved]), published(&[("a", 2, false)]));
}

#[test]
fn a_lease_takes_so_many_messages_and_bytes() {
    let mut b = tight(|limits| (limits.leased, limits.leased_bytes) = (3, 5));
    b.publish("q", messages(&["a", "b", "c", "d"]));
    assert_eq!(b.receive("q", u32::MAX).0.len(), 3);
    b.publish("p", messages(&["four", "five5", "six"]));
    assert_eq!(b.receive("p", 9).0, told(&[("four", 1), ("five5", 1)]), "one may go beyond");
}

/// A state with something of everything.
fn varied() -> Bench {
    let mut b = tight(|limits| limits.moves_per_destination = 1);
    fragile(&mut b, "q", "q.dead");
    b.publish("q", texts(6));
    fail(&mut b, "q", 2);
    b.publish("q", vec![NewMessage { delay_ms: 50, content_type: Some("x".into()), ..message("later") }]);
    let (_, receipts) = b.receive("q", 3);
    b.ack("q", &receipts[..1]);
    let moved = b.queues.outbox().remove(0);
    b.publish("q.dead", vec![moved.message]);
    b
}

#[test]
fn a_state_that_is_cut_short_or_goes_on_is_refused() {
    let b = varied();
    let saved = b.queues.save();
    for length in 0..saved.len() {
        assert!(Queues::load(HERE, &saved.slice(..length)).is_err(), "cut to {length} bytes");
    }
    let longer: Bytes = [&saved[..], &[0]].concat().into();
    assert!(Queues::load(HERE, &longer).is_err());
}

#[test]
fn a_damaged_state_is_refused_or_makes_no_trouble() {
    let b = varied();
    let saved = b.queues.save();
    let limits = b.queues.limits;
    let mut refused = 0;
    for (at, bit) in (0..saved.len()).flat_map(|at| [0, 4, 7].map(|bit| (at, bit))) {
        let mut damaged = saved.to_vec();
        damaged[at] ^= 1 << bit;
        let Ok(queues) = Queues::load_with(HERE, limits, &damaged.into()) else {
            refused += 1;
            continue;
        };
        let mut b = Bench { queues, at: b.at, seq: 1_000, effects: vec![], sound: false };
        for ms in [0, 100_000, 10_000_000] {
            b.pass(ms);
            let names: Vec<_> = b.queues.names().map(|name| name.as_str().to_owned()).collect();
            for name in names {
                b.publish(&name, messages(&["a"]));
                let receipts: Vec<_> = b.lease(&name, 2).iter().filter_map(|delivery| delivery.receipt).collect();
                b.nack(&name, &receipts, None);
                b.one(Op::Redrive { queue: queue(&name), to: queue("q") });
            }
            b.one(Op::Timer);
            b.deliver_moves();
        }
    }
    assert!(refused > saved.len() / 2, "only {refused} of {} flips were noticed", saved.len() * 3);
}

#[test]
fn lengths_that_lie_take_no_memory() {
    let head = Bench::new().queues.snapshot().pieces().next().unwrap();
    for lie in [
        &b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let part = [&b"\xa1\x65Moves"[..], lie].concat();
        let length = (part.len() as u32).to_le_bytes();
        assert!(Queues::load(HERE, &[&head[..], &length, &part].concat().into()).is_err());
    }
    assert!(Queues::load(HERE, &[&head[..], &[0xff; 4]].concat().into()).is_err());
}

#[test]
fn another_partitions_state_is_refused() {
    let saved = varied().queues.save();
    let refused = Queues::load(PartitionId(8), &saved).unwrap_err().to_string();
    assert_eq!(refused, "unreadable encoding: the saved queues are those of partition 7");
}

#[test]
fn more_origins_than_are_remembered_are_known_while_their_messages_are_there() {
    let mut b = tight(|limits| limits.ids = 1);
    let moved = |offset| {
        let origin = Origin { partition: PartitionId(1), queue: queue("p"), offset };
        NewMessage { origin: Some(origin), ..message("a") }
    };
    let all = || (0..3).map(moved).collect();
    assert_eq!(b.publish("q", all()), published(&[("a", 0, false), ("a", 1, false), ("a", 2, false)]));
    assert_eq!(b.publish("q", all()), published(&[("a", 0, true), ("a", 1, true), ("a", 2, true)]));
    let (_, receipts) = b.receive("q", 3);
    b.ack("q", &receipts);
    assert_eq!(b.publish("q", all()), published(&[("a", 3, false), ("a", 4, false), ("a", 2, true)]));
}
