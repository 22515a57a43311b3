//! That the checker accepts what is right and finds what is wrong. The histories here are made by hand to test the
//! checker, nothing else.

use super::*;
use crate::{
    error::ErrorCode,
    ids::{Epoch, MessageId, QueueName},
    machine::{queue::Receipt, replication::Position},
    sim::{
        history::Moment,
        queues::api::{Answer, Ask, Got, Letter, dead_letters},
        world::Death,
    },
};

const VISIBILITY_MS: u64 = 1_000;

/// What one client did, one thing after the other, unless a time says otherwise.
#[derive(Default)]
struct Tale(Vec<Record>);

fn queue() -> QueueName {
    QueueName::new("q").unwrap()
}

fn id(name: &str) -> MessageId {
    MessageId::new(name).unwrap()
}

fn receipt(epoch: u64, seq: u64, offset: u64) -> Receipt {
    Receipt { offset, lease: Position { epoch: Epoch(epoch), seq } }
}

fn got(name: &str, receipt: Receipt) -> Got {
    Got { id: id(name), receipt, priority: 4, deliveries: 1, intact: true }
}

fn done(receipts: &[Receipt]) -> Answer {
    Answer::Settled { done: receipts.to_vec(), failed: Vec::new() }
}

impl Tale {
    fn says(mut self, ms: (u64, u64), ask: Ask, answer: Answer) -> Self {
        let order = 2 * self.0.len() as u64 + 1;
        let returned = (answer != Answer::Unknown).then_some(Moment { ms: ms.1, order: order + 1 });
        let invoked = Moment { ms: ms.0, order };
        let unanswered = u32::from(answer == Answer::Unknown);
        self.0.push(Record { client: 0, ask, invoked, returned, answer, unanswered, lease_until_ms: None });
        self
    }

    fn publishes(self, name: &str, answer: Answer) -> Self {
        let letters = vec![Letter { id: id(name), priority: 4, delay_ms: 0 }];
        self.says((0, 10), Ask::Publish { queue: queue(), letters }, answer)
    }

    fn receives_from(self, queue: QueueName, ms: (u64, u64), got: Vec<Got>) -> Self {
        let ask = Ask::Receive { queue, max: 10, wait_ms: 0, visibility_ms: VISIBILITY_MS };
        self.says(ms, ask, Answer::Delivered(got))
    }

    fn receives(self, ms: (u64, u64), got: Vec<Got>) -> Self {
        self.receives_from(queue(), ms, got)
    }

    fn acks(self, ms: (u64, u64), receipts: &[Receipt], answer: Answer) -> Self {
        self.says(ms, Ask::Ack { queue: queue(), receipts: receipts.to_vec() }, answer)
    }

    fn finds(self, messages: u64) -> Self {
        let none = Answer::Refused(ErrorCode::NotFound);
        self.says((9_000, 9_001), Ask::Stats(queue()), Answer::Holds(messages)).says(
            (9_000, 9_001),
            Ask::Stats(dead_letters(&queue())),
            none,
        )
    }

    /// `m` was published, and received once from 20 to 30 ms.
    fn received_once() -> Self {
        Self::default().publishes("m", taken(7)).receives((20, 30), vec![got("m", receipt(1, 5, 7))])
    }

    fn check(&self) -> Vec<Violation> {
        self.check_with(&Circumstances::default())
    }

    fn check_with(&self, circumstances: &Circumstances) -> Vec<Violation> {
        check(&self.0, circumstances)
    }
}

fn taken(offset: u64) -> Answer {
    Answer::Published(vec![(offset, false)])
}

macro_rules! finds {
    ($tale:expr, $kind:pat) => {
        let violations = $tale;
        assert!(matches!(violations.as_slice(), [$kind]), "{violations:?}");
    };
}

#[test]
fn what_was_published_received_and_acknowledged_is_as_it_should_be() {
    let tale = Tale::received_once().acks((40, 50), &[receipt(1, 5, 7)], done(&[receipt(1, 5, 7)])).finds(0);
    assert_eq!(tale.check(), []);
}

#[test]
fn an_acknowledged_message_that_never_comes_is_lost_and_one_that_is_still_there_is_not_drained() {
    finds!(Tale::default().publishes("m", taken(7)).finds(0).check(), Violation::Lost(_));
    finds!(Tale::default().publishes("m", taken(7)).finds(1).check(), Violation::NoProgress(_));
    finds!(Tale::received_once().finds(0).check(), Violation::Lost(_));
    let expired = Answer::Settled { done: Vec::new(), failed: vec![receipt(1, 5, 7)] };
    finds!(Tale::received_once().acks((40, 50), &[receipt(1, 5, 7)], expired).finds(0).check(), Violation::Lost(_));
}

#[test]
fn of_what_is_unknown_both_outcomes_are_right() {
    assert_eq!(Tale::default().publishes("m", Answer::Unknown).finds(0).check(), []);
    let came = Tale::default().publishes("m", Answer::Unknown).receives((20, 30), vec![got("m", receipt(1, 5, 7))]);
    assert_eq!(came.finds(0).check(), []);
    let perhaps = || Tale::received_once().acks((40, 50), &[receipt(1, 5, 7)], Answer::Unknown);
    assert_eq!(perhaps().finds(0).check(), []);
    let again = perhaps().receives((2_000, 2_010), vec![got("m", receipt(1, 9, 7))]);
    assert_eq!(again.acks((2_020, 2_030), &[receipt(1, 9, 7)], done(&[receipt(1, 9, 7)])).finds(0).check(), []);
}

#[test]
fn what_nobody_sent_or_was_refused_must_not_come() {
    let came = |tale: Tale| tale.receives((20, 30), vec![got("m", receipt(1, 5, 7))]).finds(0).check();
    finds!(came(Tale::default()), Violation::Invented(_));
    let refused = Answer::Refused(ErrorCode::DurabilityUnavailable);
    finds!(came(Tale::default().publishes("m", refused.clone())), Violation::Invented(_));
    assert_eq!(came(Tale::default().publishes("m", refused).publishes("m", Answer::Unknown)), []);
    let elsewhere = QueueName::new("other").unwrap();
    let tale = Tale::default().publishes("m", Answer::Unknown);
    finds!(tale.receives_from(elsewhere, (20, 30), vec![got("m", receipt(1, 5, 7))]).check(), Violation::Invented(_));
    let changed = Got { intact: false, ..got("m", receipt(1, 5, 7)) };
    let tale = Tale::default().publishes("m", Answer::Unknown);
    finds!(tale.receives((20, 30), vec![changed]).check(), Violation::Invented(_));
}

#[test]
fn what_was_leased_after_the_delivery_that_was_acknowledged_was_consumed_before() {
    let acked = || Tale::received_once().acks((40, 2_050), &[receipt(1, 5, 7)], done(&[receipt(1, 5, 7)]));
    // Its lease was over by then: only the ack says that it must not come back, and it was asked for before.
    let again = acked().receives((1_500, 1_600), vec![got("m", receipt(2, 3, 7))]);
    finds!(again.finds(0).check(), Violation::Consumed(_));
    // An earlier delivery whose answer was late.
    let earlier = acked().receives((15, 2_500), vec![got("m", receipt(1, 4, 7))]);
    finds!(earlier.finds(0).check(), Violation::Duplicate(_));
    let dead = acked().receives_from(dead_letters(&queue()), (3_000, 3_010), vec![got("m", receipt(1, 2, 0))]);
    finds!(dead.finds(0).check(), Violation::Consumed(_));
}

#[test]
fn a_dead_letter_does_not_come_back_where_it_came_from() {
    let dead = || {
        Tale::received_once().receives_from(dead_letters(&queue()), (3_000, 3_010), vec![got("m", receipt(1, 2, 0))])
    };
    let acked = |tale: Tale| {
        let receipts = vec![receipt(1, 2, 0)];
        tale.says(
            (3_020, 3_030),
            Ask::Ack { queue: dead_letters(&queue()), receipts: receipts.clone() },
            done(&receipts),
        )
    };
    assert_eq!(acked(dead()).finds(0).check(), []);
    let again = acked(dead()).receives((4_000, 4_010), vec![got("m", receipt(1, 8, 7))]);
    finds!(again.finds(0).check(), Violation::Consumed(_));
}

/// `m` is received twice, the second time until `ms`, and acknowledged then.
fn twice(before: Tale, ms: u64, epoch: u64) -> Tale {
    let second = receipt(epoch, 9, 7);
    before.receives((35, ms), vec![got("m", second)]).acks((ms, ms + 1), &[second], done(&[second])).finds(0)
}

#[test]
fn a_delivery_that_lasts_is_nobody_elses() {
    finds!(twice(Tale::received_once(), 900, 1).check(), Violation::Duplicate(_));
    assert_eq!(twice(Tale::received_once(), 1_030, 1).check(), []);
    let straying = Circumstances { stray_ms: 200, ..Circumstances::default() };
    assert_eq!(twice(Tale::received_once(), 900, 1).check_with(&straying), []);
    let ask = |visibility_ms| Ask::Extend { queue: queue(), receipts: vec![receipt(1, 5, 7)], visibility_ms };
    let extended = || Tale::received_once().says((31, 32), ask(3_000), done(&[receipt(1, 5, 7)]));
    finds!(twice(extended(), 2_000, 1).check(), Violation::Duplicate(_));
    let perhaps_shorter = Tale::received_once().says((31, 32), ask(100), Answer::Unknown);
    assert_eq!(twice(perhaps_shorter, 200, 1).check(), []);
}

#[test]
fn what_was_given_back_may_come_at_once_and_what_could_not_be_given_back_may_not() {
    let nack = |answer| {
        let ask = Ask::Nack { queue: queue(), receipts: vec![receipt(1, 5, 7)], delay_ms: 0 };
        twice(Tale::received_once().says((31, 32), ask, answer), 50, 1).check()
    };
    assert_eq!(nack(done(&[receipt(1, 5, 7)])), []);
    assert_eq!(nack(Answer::Unknown), []);
    // It was repeated on the way, and found that it had ended the delivery.
    assert_eq!(nack(Answer::Settled { done: Vec::new(), failed: vec![receipt(1, 5, 7)] }), []);
    finds!(nack(Answer::Refused(ErrorCode::Unavailable)), Violation::Duplicate(_));
}

#[test]
fn a_fail_over_forgets_a_delivery_only_if_all_who_knew_of_it_died() {
    let died = |spared| Circumstances { deaths: vec![Death { at_ms: 33, spared }], ..Circumstances::default() };
    assert_eq!(twice(Tale::received_once(), 50, 2).check_with(&died(false)), []);
    finds!(twice(Tale::received_once(), 50, 2).check_with(&died(true)), Violation::Duplicate(_));
    finds!(twice(Tale::received_once(), 50, 1).check_with(&died(false)), Violation::Duplicate(_));
    finds!(twice(Tale::received_once(), 50, 2).check(), Violation::Duplicate(_));
}

#[test]
fn a_message_has_one_place() {
    let acked = |receipt| Tale::default().acks((3_000, 3_010), &[receipt], done(&[receipt])).0;
    let mut moved = Tale::received_once().receives((2_000, 2_010), vec![got("m", receipt(1, 9, 8))]);
    moved.0.extend(acked(receipt(1, 9, 8)));
    finds!(moved.finds(0).check(), Violation::Order(_));
    let mut twice = Tale::default().publishes("m", taken(7)).publishes("m", taken(8));
    twice = twice.receives((20, 30), vec![got("m", receipt(1, 5, 7))]);
    twice.0.extend(acked(receipt(1, 5, 7)));
    let violations = twice.finds(0).check();
    assert!(!violations.is_empty() && violations.iter().all(|v| matches!(v, Violation::Order(_))), "{violations:?}");
}

#[test]
fn one_receive_brings_the_urgent_first_and_then_the_old() {
    let brings = |got: Vec<Got>| {
        let tale = Tale::default().publishes("a", Answer::Unknown).publishes("b", Answer::Unknown);
        tale.receives((20, 30), got).finds(0).check()
    };
    let (a, b) = (got("a", receipt(1, 5, 1)), got("b", receipt(1, 5, 2)));
    assert_eq!(brings(vec![a.clone(), b.clone()]), []);
    finds!(brings(vec![b.clone(), a.clone()]), Violation::Order(_));
    assert_eq!(brings(vec![Got { priority: 9, ..b.clone() }, a.clone()]), []);
    finds!(brings(vec![a, Got { priority: 9, ..b }]), Violation::Order(_));
}
