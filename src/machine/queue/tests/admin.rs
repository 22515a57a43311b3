//! What is done to a queue as a whole, and what is shown of it.

use super::*;

#[test]
fn a_purge_drops_what_lies_in_the_queue_and_nothing_that_is_being_moved() {
    let mut b = Bench::new();
    b.configure("q", |config| config.max_deliveries = Some(1));
    b.publish("q", messages(&["a"]));
    let (_, receipts) = b.receive("q", 1);
    b.nack("q", &receipts, None);
    b.publish("q", vec![message("b"), message("c"), NewMessage { delay_ms: 5_000, ..message("d") }]);
    let (_, receipts) = b.receive("q", 1);
    assert_eq!(b.one(Op::Purge { queue: queue("q") }), OpAnswer::Purged(3));
    assert_eq!(b.effects, [count("q", Counted::Purged, 3)]);
    assert_eq!((b.standing("q"), b.stats("q").bytes, b.queues.outbox().len()), ((0, 0, 0), 0, 1));
    assert_eq!(b.ack("q", &receipts), settled(&[], &receipts));
    assert_eq!(b.publish("q", messages(&["b"])), published(&[("b", 1, true)]), "ids are remembered still");
}

#[test]
fn a_deleted_queue_is_gone_and_what_is_being_moved_still_goes() {
    let mut b = Bench::new();
    b.configure("q", |config| config.max_deliveries = Some(1));
    b.publish("q", messages(&["a", "b", "c"]));
    let (_, receipts) = b.receive("q", 3);
    b.nack("q", &receipts[..1], None);
    b.ack("q", &receipts[1..2]);
    assert_eq!(b.one(Op::Delete { queue: queue("q") }), OpAnswer::Done);
    assert_eq!((b.queues.names().count(), b.queues.deadline()), (0, None));
    assert_eq!(b.ack("q", &receipts), settled(&[], &receipts), "of another queue than the one that was");
    assert_eq!(b.deliver_moves().len(), 1);
    b.publish("q", messages(&["a"]));
    assert_eq!(b.ack("q", &receipts), settled(&[], &receipts));
    assert_eq!(b.receive("q", 9).0, told(&[("a", 1)]), "the new one has nothing of the old one");
}

#[test]
fn a_queue_that_does_not_exist_is_said_not_to() {
    let mut b = Bench::new();
    let (q, receipts) = (queue("q"), vec![Receipt { offset: 0, lease: Position::default() }]);
    assert_eq!(b.one(Op::Lease { queue: q.clone(), max: 1, visibility_ms: None }), no_such_queue());
    assert_eq!(b.one(Op::Purge { queue: q.clone() }), no_such_queue());
    assert_eq!(b.one(Op::Delete { queue: q.clone() }), no_such_queue());
    assert_eq!(b.ack("q", &receipts), settled(&[], &receipts));
    assert_eq!(b.nack("q", &receipts, None), settled(&[], &receipts));
    assert_eq!((b.queues.stats(&q, Tick(0)), b.queues.peek(&q, 1), b.queues.config(&q)), (None, None, None));
}

#[test]
fn a_peek_shows_what_would_be_delivered_and_changes_nothing() {
    let mut b = Bench::new();
    b.publish("q", vec![message("a"), NewMessage { priority: 9, ..message("b") }, message("c")]);
    let before = b.queues.clone();
    let shown = b.queues.peek(&queue("q"), 2).unwrap();
    let rows: Vec<_> =
        shown.iter().map(|shown| (shown.offset, shown.receipt, shown.deliveries, shown.visible_at)).collect();
    assert_eq!(rows, [(1, None, 0, Tick(0)), (0, None, 0, Tick(0))]);
    assert_eq!(b.queues, before);
}

#[test]
fn names_come_in_pages() {
    let mut b = Bench::new();
    for name in ["c", "a", "b", "d"] {
        b.publish(name, vec![]);
    }
    assert_eq!(b.queues.range(None, 2), [queue("a"), queue("b")]);
    assert_eq!(b.queues.range(Some(&queue("b")), 9), [queue("c"), queue("d")]);
}

#[test]
fn time_never_goes_back() {
    let mut b = Bench::new();
    b.publish("q", messages(&["a"]));
    b.at = 5;
    let delivery = b.lease("q", 1).remove(0);
    assert_eq!(delivery.visible_at, Tick(START + 30_000));
}
