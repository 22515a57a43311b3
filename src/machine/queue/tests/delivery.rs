//! Publishing, delivering, settling, and what time does to a message.

use super::*;

#[test]
fn a_message_is_published_delivered_and_consumed() {
    let mut b = Bench::new();
    let sent = NewMessage {
        content_type: Some("text/plain".into()),
        attributes: BTreeMap::from([("k".into(), "v".into())]),
        ..message("x")
    };
    assert_eq!(b.publish("q", vec![sent]), published(&[("x", 0, false)]));
    assert_eq!(b.effects, [count("q", Counted::Published, 1), ready("q")]);
    b.pass(10);
    let receipt = Receipt { offset: 0, lease: Position { epoch: Epoch(2), seq: 2 } };
    let delivery = Delivery {
        id: id("x"),
        offset: 0,
        receipt: Some(receipt),
        body: Bytes::from_static(b"x"),
        content_type: Some("text/plain".into()),
        attributes: BTreeMap::from([("k".into(), "v".into())]),
        priority: 4,
        deliveries: 1,
        enqueued_at: Tick(START),
        visible_at: Tick(START + 30_010),
    };
    assert_eq!(b.lease("q", 10), [delivery]);
    assert_eq!(b.effects, [count("q", Counted::Delivered, 1)]);
    assert_eq!(b.standing("q"), (0, 1, 0));
    assert_eq!(b.lease("q", 10), [], "it is delivered to one receiver at a time");
    assert_eq!(b.ack("q", &[receipt]), settled(&[receipt], &[]));
    assert_eq!(b.effects, [count("q", Counted::Acknowledged, 1)]);
    assert_eq!(b.ack("q", &[receipt]), settled(&[receipt], &[]), "an ack that is repeated is done again");
    assert_eq!(b.effects, [], "and counted once");
    b.pass(60_000);
    assert_eq!(b.lease("q", 10), [], "consumed means gone");
}

#[test]
fn the_greater_priority_comes_first_and_the_older_message_within_one() {
    let mut b = Bench::new();
    let with = |text: &str, priority| NewMessage { priority, ..message(text) };
    let sent = vec![with("a", 4), with("b", 9), with("c", 0), with("d", 4), with("e", 200), with("f", 0)];
    b.publish("q", sent);
    let (order, _) = b.receive("q", 10);
    assert_eq!(order, told(&[("b", 1), ("e", 1), ("a", 1), ("d", 1), ("c", 1), ("f", 1)]));
}

#[test]
fn what_is_delivered_again_comes_back_at_its_old_place() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a", "b", "c"]));
    let (_, receipts) = b.receive("q", 1);
    assert_eq!(b.nack("q", &receipts, Some(0)), settled(&receipts, &[]));
    assert_eq!(b.effects, [count("q", Counted::Returned, 1), ready("q")]);
    let (order, _) = b.receive("q", 2);
    assert_eq!(order, told(&[("a", 2), ("b", 1)]));
    assert_eq!(b.effects, [count("q", Counted::Delivered, 2), count("q", Counted::Redelivered, 1)]);
    assert_eq!(b.stats("q").redelivered, 1);
}

#[test]
fn a_delivery_that_is_not_settled_in_time_is_over() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a"]));
    let (_, receipts) = b.receive("q", 1);
    assert_eq!(b.queues.deadline(), Some(Tick(START + 30_000)));
    b.pass(30_000);
    assert_eq!(b.queues.deliverable(&queue("q"), Tick(b.at - 1)), 0);
    assert_eq!(b.queues.deliverable(&queue("q"), Tick(b.at)), 1, "a lease is worth a record now");
    assert_eq!(b.one(Op::Timer), OpAnswer::Done);
    assert_eq!(b.effects, [count("q", Counted::TimedOut, 1), ready("q")]);
    assert_eq!(b.ack("q", &receipts), settled(&[], &receipts));
    assert_eq!(b.receive("q", 1).0, told(&[("a", 2)]));
}

#[test]
fn a_late_ack_counts_until_the_log_says_that_the_delivery_is_over() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a"]));
    let (_, receipts) = b.receive("q", 1);
    b.pass(40_000);
    assert_eq!(b.ack("q", &receipts), settled(&receipts, &[]));
}

#[test]
fn a_lease_does_what_is_due_first() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a", "b"]));
    b.receive("q", 1);
    b.pass(30_000);
    assert_eq!(b.receive("q", 2).0, told(&[("a", 2), ("b", 1)]));
}

#[test]
fn extend_keeps_the_receipt_and_nack_ends_it() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a"]));
    let (_, receipts) = b.receive("q", 1);
    b.pass(29_000);
    let extend = |visibility_ms| Op::Extend { queue: queue("q"), receipts: receipts.clone(), visibility_ms };
    assert_eq!(b.one(extend(None)), settled(&receipts, &[]));
    assert_eq!(b.queues.deadline(), Some(Tick(START + 59_000)));
    assert_eq!(b.one(extend(Some(5))), settled(&receipts, &[]));
    assert_eq!(b.queues.deadline(), Some(Tick(START + 29_005)));
    assert_eq!(b.nack("q", &receipts, Some(0)), settled(&receipts, &[]));
    assert_eq!(b.nack("q", &receipts, Some(0)), settled(&[], &receipts));
    assert_eq!(b.one(extend(None)), settled(&[], &receipts));
    assert_eq!(b.ack("q", &receipts), settled(&[], &receipts));
}

#[test]
fn a_visibility_of_nothing_is_over_at_once() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a", "b"]));
    let deliveries = b.lease_for("q", 2, Some(0));
    assert_eq!(deliveries.len(), 2, "each message once");
    assert_eq!(b.effects, [count("q", Counted::Delivered, 2), count("q", Counted::TimedOut, 2), ready("q")]);
    let receipts: Vec<_> = deliveries.iter().filter_map(|delivery| delivery.receipt).collect();
    assert_eq!(b.ack("q", &receipts), settled(&[], &receipts));
    let (_, receipts) = b.receive("q", 1);
    let extend = Op::Extend { queue: queue("q"), receipts: receipts.clone(), visibility_ms: Some(0) };
    assert_eq!(b.one(extend), settled(&receipts, &[]));
    assert_eq!(b.effects, [count("q", Counted::TimedOut, 1), ready("q")]);
    assert_eq!(b.standing("q"), (2, 0, 0));
}

#[test]
fn a_receipt_of_an_earlier_delivery_does_not_touch_a_later_one() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a"]));
    let (_, first) = b.receive("q", 1);
    b.pass(30_000);
    let (_, second) = b.receive("q", 1);
    assert_ne!(first, second);
    assert_eq!(b.ack("q", &first), settled(&[], &first));
    assert_eq!(b.nack("q", &first, Some(0)), settled(&[], &first));
    assert_eq!(b.ack("q", &second), settled(&second, &[]));
    assert_eq!(b.ack("q", &first), settled(&[], &first));
}

#[test]
fn a_nack_without_a_delay_backs_off_twice_as_long_each_time_up_to_a_limit() {
    let mut b = Bench::new();
    b.configure("q", |config| (config.max_deliveries, config.dedup_window_s) = (None, 0));
    b.publish("q", messages(&["a"]));
    let mut waits = vec![];
    for _ in 0..11 {
        let (_, receipts) = b.receive("q", 1);
        b.nack("q", &receipts, None);
        assert_eq!(b.standing("q"), (0, 0, 1));
        let due = b.queues.deadline().unwrap();
        waits.push(due.ms_since(Tick(b.at)));
        b.at = due.0;
    }
    let seconds = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300];
    assert_eq!(waits, seconds.map(|s| s * 1_000));
}

#[test]
fn a_delayed_message_waits_and_is_counted_apart() {
    let mut b = Bench::new();
    b.publish("q", vec![NewMessage { delay_ms: 500, ..message("a") }]);
    assert_eq!(b.effects, [count("q", Counted::Published, 1)], "nothing is ready");
    assert_eq!((b.standing("q"), b.queues.deadline()), ((0, 0, 1), Some(Tick(START + 500))));
    assert_eq!(b.lease("q", 1), []);
    b.pass(500);
    b.one(Op::Timer);
    assert_eq!((b.effects.clone(), b.standing("q")), (vec![ready("q")], (1, 0, 0)));
}

#[test]
fn what_is_given_back_was_never_delivered() {
    let mut b = Bench::new();
    b.configure("q", |config| config.max_deliveries = Some(1));
    b.publish("q", messages(&["a", "b"]));
    let (_, receipts) = b.receive("q", 1);
    assert_eq!(b.one(Op::GiveBack { queue: queue("q"), receipts: receipts.clone() }), OpAnswer::Done);
    assert_eq!(b.effects, [ready("q")]);
    assert_eq!((b.stats("q").delivered, b.standing("q")), (0, (2, 0, 0)));
    assert_eq!(b.receive("q", 1).0, told(&[("a", 1)]));
    assert_eq!(b.ack("q", &receipts), settled(&[], &receipts));
}

#[test]
fn a_second_message_of_an_id_is_the_first_within_the_window() {
    let mut b = Bench::new();
    assert_eq!(
        b.publish("q", messages(&["a", "b", "a"])),
        published(&[("a", 0, false), ("b", 1, false), ("a", 0, true)])
    );
    assert_eq!(b.effects, [count("q", Counted::Published, 2), count("q", Counted::Duplicate, 1), ready("q")]);
    let (_, receipts) = b.receive("q", 2);
    b.ack("q", &receipts);
    b.pass(299_999);
    assert_eq!(b.publish("q", messages(&["a", "c"])), published(&[("a", 0, true), ("c", 2, false)]));
    b.pass(1);
    assert_eq!(b.publish("q", messages(&["a"])), published(&[("a", 3, false)]));
    assert_eq!(b.publish("other", messages(&["a"])), published(&[("a", 4, false)]), "each queue has its own");
}

#[test]
fn a_window_of_nothing_knows_no_duplicates() {
    let mut b = Bench::new();
    b.configure("q", |config| config.dedup_window_s = 0);
    assert_eq!(b.publish("q", messages(&["a", "a"])), published(&[("a", 0, false), ("a", 1, false)]));
}

#[test]
fn a_publish_is_taken_or_refused_whole_and_all_messages_count() {
    let mut b = Bench::new();
    b.configure("q", |config| config.max_messages = Some(3));
    b.publish("q", vec![message("a"), NewMessage { delay_ms: 9_000, ..message("b") }]);
    b.receive("q", 1);
    assert_eq!(b.publish("q", messages(&["c", "d"])), OpAnswer::Refused(QueueRefusal::QueueFull));
    assert_eq!((b.effects.clone(), b.standing("q")), (vec![], (0, 1, 1)));
    assert_eq!(b.publish("q", messages(&["c", "a"])), published(&[("c", 2, false), ("a", 0, true)]));
    assert_eq!(b.publish("q", messages(&["a"])), published(&[("a", 0, true)]), "a duplicate needs no room");
    b.configure("q", |config| (config.max_messages, config.max_bytes) = (None, Some(4)));
    assert_eq!(b.publish("q", messages(&["dd"])), OpAnswer::Refused(QueueRefusal::QueueFull));
    assert_eq!(b.publish("q", messages(&["d"])), published(&[("d", 3, false)]));
    b.configure("q", |config| config.max_messages = Some(1));
    assert_eq!(b.stats("q").bytes, 4, "a smaller limit drops nothing");
}
