//! Dead letters, age, and the way back.

use super::*;

#[test]
fn a_message_that_was_delivered_too_often_is_moved_and_says_why() {
    let mut b = Bench::new();
    b.configure("q", |config| config.max_deliveries = Some(2));
    let sent = NewMessage {
        content_type: Some("text/plain".into()),
        attributes: BTreeMap::from([("k".into(), "v".into())]),
        priority: 7,
        ..message("a")
    };
    b.publish("q", vec![sent.clone()]);
    b.receive("q", 1);
    b.pass(30_000);
    let (_, receipts) = b.receive("q", 1);
    b.nack("q", &receipts, Some(0));
    let why = [("k", "v"), ("x-dead-letter-queue", "q"), ("x-dead-letter-reason", "max-deliveries")];
    let moved = Move {
        offset: 0,
        to: queue("q.dead"),
        message: NewMessage {
            attributes: why.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            origin: Some(Origin { partition: HERE, queue: queue("q"), offset: 0 }),
            ..sent
        },
    };
    assert_eq!(
        b.effects,
        [QueueEffect::Move(moved.clone()), count("q", Counted::Returned, 1), count("q", Counted::DeadLettered, 1)]
    );
    assert_eq!((b.queues.outbox(), b.standing("q")), (vec![moved.clone()], (0, 0, 0)));
    assert_eq!(b.stats("q").dead_lettered, 1);
    b.pass(100_000);
    assert_eq!(b.lease("q", 1), [], "it is not delivered here any more");

    let arrive = Op::Publish { queue: moved.to.clone(), messages: vec![moved.message.clone()] };
    assert_eq!(b.one(arrive.clone()), published(&[("a", 1, false)]));
    assert_eq!(b.one(arrive), published(&[("a", 1, true)]), "it arrives once");
    b.one(Op::Moved { offsets: vec![0, 5] });
    assert_eq!(b.effects, [count("q", Counted::Moved, 1)]);
    assert_eq!(b.queues.outbox(), []);
    let config = b.queues.config(&moved.to).unwrap();
    assert_eq!((config.dead_letter.clone(), config.max_deliveries), (None, None));
    let delivery = b.lease("q.dead", 1).remove(0);
    assert_eq!((delivery.attributes, delivery.deliveries, delivery.priority), (moved.message.attributes, 1, 7));
    assert_eq!((delivery.id, delivery.content_type), (id("a"), Some("text/plain".into())));
}

#[test]
fn a_message_stays_where_there_is_no_dead_letter_queue() {
    let mut b = Bench::new();
    b.configure("q", |config| (config.max_deliveries, config.dead_letter) = (Some(1), None));
    b.publish("q", messages(&["a"]));
    for deliveries in 1..4 {
        assert_eq!(b.receive("q", 1).0, told(&[("a", deliveries)]));
        b.pass(30_000);
    }
}

#[test]
fn a_queue_is_not_its_own_dead_letter_queue() {
    let mut b = Bench::new();
    let config = QueueConfig { dead_letter: Some(queue("q")), ..QueueConfig::defaults(&queue("q"), 60) };
    let answer = b.one(Op::Configure { queue: queue("q"), config: config.clone() });
    assert_eq!(answer, OpAnswer::Configured(QueueConfig { dead_letter: None, ..config }));
}

#[test]
fn dead_letter_queues_are_named_after_their_queues() {
    assert_eq!(dead_letter_name(&queue("orders")), queue("orders.dead"));
    assert_eq!(QueueConfig::defaults(&queue("orders"), 60).dead_letter, Some(queue("orders.dead")));
    assert_eq!(QueueConfig::defaults(&queue("orders.dead"), 60), QueueConfig::of_dead_letters(60));
    assert_eq!(dead_letter_name(&queue(&"n".repeat(507))).as_str().len(), 512);
    let long = ["é".repeat(256), format!("{}n", "é".repeat(255)), "n".repeat(512)].map(|name| queue(&name));
    let names = long.clone().map(|name| dead_letter_name(&name));
    for name in &names {
        assert!((510..=512).contains(&name.as_str().len()) && name.as_str().ends_with(".dead"), "{name}");
    }
    assert_ne!(names[0], names[1]);
    assert_eq!(names[0], dead_letter_name(&long[0]), "the same one each time");
}

#[test]
fn a_message_that_nobody_consumed_in_time_is_dropped_and_counted() {
    let mut b = Bench::new();
    b.configure("q", |config| config.retention_s = 60);
    b.pass(1);
    b.publish("q", vec![message("a"), NewMessage { delay_ms: 90_000, ..message("b") }]);
    assert_eq!(b.queues.deadline(), Some(Tick(START + 61_000)), "the first full second after 60 s");
    b.at = START + 60_999;
    b.one(Op::Timer);
    assert_eq!((b.effects.clone(), b.standing("q")), (vec![], (1, 0, 1)));
    b.pass(1);
    b.one(Op::Timer);
    assert_eq!(b.effects, [count("q", Counted::Expired, 2)]);
    assert_eq!((b.standing("q"), b.stats("q").expired), ((0, 0, 0), 2));
}

#[test]
fn a_message_that_nobody_consumed_in_time_is_moved_where_the_queue_says_so() {
    let mut b = Bench::new();
    b.configure("q", |config| (config.retention_s, config.on_expiry) = (60, OnExpiry::DeadLetter));
    b.publish("q", messages(&["a"]));
    b.pass(60_000);
    assert_eq!(b.lease("q", 1), [], "a lease never delivers what is too old");
    let moves = b.deliver_moves();
    assert_eq!(moves[0].message.attributes["x-dead-letter-reason"], "expired");
    assert_eq!((b.standing("q"), b.standing("q.dead"), b.stats("q").expired), ((0, 0, 0), (1, 0, 0), 0));
}

#[test]
fn a_delivery_outlives_the_age_of_its_message_but_not_its_own_end() {
    let mut b = Bench::new();
    b.configure("q", |config| (config.retention_s, config.visibility_ms) = (60, 200_000));
    b.publish("q", messages(&["a", "b", "c"]));
    let (_, receipts) = b.receive("q", 3);
    b.pass(60_000);
    b.one(Op::Timer);
    assert_eq!((b.effects.clone(), b.standing("q")), (vec![], (0, 3, 0)));
    assert_eq!(b.queues.deadline(), Some(Tick(START + 200_000)), "and nothing is due over and over");
    assert_eq!(b.ack("q", &receipts[..1]), settled(&receipts[..1], &[]));
    assert_eq!(b.nack("q", &receipts[1..2], Some(0)), settled(&receipts[1..2], &[]));
    assert_eq!(b.effects, [count("q", Counted::Returned, 1), count("q", Counted::Expired, 1)]);
    b.at = START + 200_000;
    b.one(Op::Timer);
    assert_eq!(b.effects, [count("q", Counted::TimedOut, 1), count("q", Counted::Expired, 1)]);
}

#[test]
fn a_longer_retention_holds_for_what_is_there() {
    let mut b = Bench::new();
    b.configure("q", |config| config.retention_s = 60);
    b.publish("q", messages(&["a"]));
    b.pass(59_000);
    b.configure("q", |config| config.retention_s = 600);
    b.pass(10_000);
    assert_eq!(b.receive("q", 1).0, told(&[("a", 1)]));
    b.configure("q", |config| config.retention_s = 1);
    b.pass(30_000);
    b.one(Op::Timer);
    assert_eq!(b.effects, [count("q", Counted::TimedOut, 1), count("q", Counted::Expired, 1)]);
}

#[test]
fn dead_letters_go_back_to_the_queue_they_came_from_and_no_others() {
    let mut b = Bench::new();
    for name in ["q", "p"] {
        b.configure(name, |config| (config.max_deliveries, config.dead_letter) = (Some(1), Some(queue("dead"))));
        b.publish(name, messages(&[&format!("of {name}"), &format!("also of {name}")]));
        b.receive(name, 2);
    }
    b.publish("dead", messages(&["its own"]));
    b.pass(30_000);
    b.one(Op::Timer);
    assert_eq!(b.deliver_moves().len(), 4);
    let redrive = |to: &str| Op::Redrive { queue: queue("dead"), to: queue(to) };
    assert_eq!(b.one(redrive("nobody")), OpAnswer::Redriven(0));
    assert_eq!(b.one(redrive("q")), OpAnswer::Redriven(2));
    assert_eq!(b.standing("dead"), (3, 0, 0));
    let moves = b.deliver_moves();
    assert!(moves.iter().all(|moved| moved.to == queue("q") && moved.message.attributes.is_empty()));
    assert_eq!(moves[0].message.origin.as_ref().map(|origin| origin.queue.clone()), Some(queue("dead")));
    assert_eq!(b.receive("q", 9).0, told(&[("of q", 1), ("also of q", 1)]), "deliveries start anew");
    assert_eq!(b.one(Op::Redrive { queue: queue("q"), to: queue("dead") }), OpAnswer::Redriven(0));
    assert_eq!(b.one(Op::Redrive { queue: queue("none"), to: queue("q") }), no_such_queue());
    b.pass(30_000);
    b.one(Op::Timer);
    assert_eq!(b.deliver_moves().len(), 2, "and they may become dead letters again");
}
