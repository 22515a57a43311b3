//! What must be true, one rule a function.

use super::facts::{Delivered, Facts, Fate, What};
use crate::{
    error::ErrorCode,
    ids::QueueName,
    sim::{
        queues::api::{Answer, Got, dead_letters},
        run::Circumstances,
        violation::Violation,
    },
};

/// A clock shows whole milliseconds: so much a term may seem shorter.
const ROUNDING_MS: u64 = 2;

/// What was acknowledged to its producer was consumed in the end: everything that can be received was, until the
/// queues said that they were empty.
pub(super) fn nothing_is_lost(facts: &Facts<'_>) -> Vec<Violation> {
    let is_empty = |queue: &QueueName| {
        matches!(facts.holds.get(queue), Some(Answer::Holds(0) | Answer::Refused(ErrorCode::NotFound)))
    };
    let missing = facts.sent.iter().filter(|(id, sent)| {
        let deliveries = facts.everywhere(sent, id);
        sent.fate == Fate::Acknowledged && deliveries.iter().all(|one| facts.acknowledged(one) == Some(false))
    });
    missing
        .map(|(id, sent)| {
            let last = facts.everywhere(sent, id).last().map(|one| one.by.tell());
            let detail = format!("{id} of {}; {}; last delivered: {last:?}", sent.queue, sent.first.tell());
            if is_empty(sent.queue) && is_empty(&dead_letters(sent.queue)) {
                Violation::Lost(detail)
            } else {
                Violation::NoProgress(format!("not drained: {detail}"))
            }
        })
        .collect()
}

/// What was delivered was sent there, before, as it is, and not refused each time.
pub(super) fn nothing_is_invented(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for one in facts.deliveries.values().flatten() {
        let sent = facts.sent.get(&one.got.id);
        let belongs = sent.is_some_and(|sent| *one.queue == *sent.queue || *one.queue == dead_letters(sent.queue));
        let why = match sent {
            None => "nobody sent it",
            Some(_) if !belongs => "it was sent elsewhere",
            Some(_) if !one.got.intact => "it says something else",
            Some(sent) if one.by.returned.is_some_and(|returned| returned < sent.first.invoked) => {
                "it was not sent yet"
            }
            Some(sent) if sent.fate == Fate::Refused => "it was said not to be taken",
            Some(_) => continue,
        };
        violations.push(Violation::Invented(format!("{} in {}, {why}: {}", one.got.id, one.queue, one.by.tell())));
    }
    violations
}

/// What was acknowledged by its receiver is not leased again, nor a dead letter; and what is a dead letter is not
/// leased again where it came from.
pub(super) fn consumed_is_gone(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for ((queue, id), deliveries) in &facts.deliveries {
        let Some(consumed) = deliveries.iter().find(|one| facts.acknowledged(one) == Some(true)) else { continue };
        let mut again: Vec<&Delivered<'_>> =
            deliveries.iter().filter(|one| one.got.receipt.lease > consumed.got.receipt.lease).collect();
        again.extend(facts.of_message(&dead_letters(queue), id));
        for one in again {
            violations.push(Violation::Consumed(format!(
                "{id} of {queue}: acknowledged: {}; and yet: {}",
                consumed.by.tell(),
                one.by.tell()
            )));
        }
    }
    for ((queue, id), deliveries) in &facts.deliveries {
        let dead = dead_letters(queue);
        let Some(dead) = facts.of_message(&dead, id).iter().min_by_key(|one| one.by.returned) else { continue };
        for one in deliveries.iter().filter(|one| Some(one.by.invoked) > dead.by.returned) {
            violations.push(Violation::Consumed(format!(
                "{id} of {queue}: a dead letter: {}; and yet: {}",
                dead.by.tell(),
                one.by.tell()
            )));
        }
    }
    violations
}

/// A message is delivered again only if its last delivery may have ended: given back, over, or forgotten because all
/// processes that knew of it ended.
pub(super) fn one_delivery_at_a_time(facts: &Facts<'_>, circumstances: &Circumstances) -> Vec<Violation> {
    let mut violations = Vec::new();
    for ((queue, id), deliveries) in &facts.deliveries {
        for pair in deliveries.windows(2) {
            let [before, after] = pair else { continue };
            let Some(again) = after.by.returned else { continue };
            let given_back = facts
                .said_of(queue, before.got.receipt)
                .iter()
                .any(|said| said.what == What::Nack && said.done != Some(false));
            let over = again.ms + circumstances.stray_ms + ROUNDING_MS >= lasts_until_ms(facts, before);
            let fails_over = before.got.receipt.lease.epoch != after.got.receipt.lease.epoch;
            let forgotten = circumstances
                .deaths
                .iter()
                .any(|death| !death.spared && (before.by.invoked.ms..=again.ms).contains(&death.at_ms));
            let explained = given_back || over || (fails_over && forgotten);
            if !explained {
                let said = facts.said_of(queue, before.got.receipt).iter().map(|said| said.by.tell());
                violations.push(Violation::Duplicate(format!(
                    "{id} of {queue}: {}, of which was said {:?}; and again: {}",
                    before.by.tell(),
                    said.collect::<Vec<_>>(),
                    after.by.tell()
                )));
            }
        }
    }
    violations
}

/// The earliest moment at which a delivery may be over by itself, in true time.
fn lasts_until_ms(facts: &Facts<'_>, delivery: &Delivered<'_>) -> u64 {
    let leased = delivery.by.invoked.ms + delivery.visibility_ms;
    let said = facts.said_of(delivery.queue, delivery.got.receipt);
    said.iter().fold(leased, |until, said| match (said.what, said.done) {
        (What::Extend { visibility_ms }, Some(true)) => said.by.invoked.ms + visibility_ms,
        (What::Extend { visibility_ms }, None) => until.min(said.by.invoked.ms + visibility_ms),
        _ => until,
    })
}

/// A message has one place in its queue, however often it was published, delivered and moved.
pub(super) fn one_place_each(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for ((queue, id), deliveries) in &facts.deliveries {
        let mut offsets: Vec<u64> = deliveries.iter().map(|one| one.got.receipt.offset).collect();
        let sent = facts.sent.get(id).filter(|sent| sent.queue == queue);
        offsets.extend(sent.into_iter().flat_map(|sent| &sent.offsets));
        offsets.sort_unstable();
        offsets.dedup();
        if offsets.len() > 1 {
            violations.push(Violation::Order(format!("{id} of {queue} has several places: {offsets:?}")));
        }
    }
    for (id, sent) in &facts.sent {
        if sent.offsets.windows(2).any(|pair| pair[0] != pair[1]) {
            let offsets = &sent.offsets;
            violations.push(Violation::Order(format!("{id} of {} was taken at {offsets:?}", sent.queue)));
        }
    }
    violations
}

/// What one receive brings is in order: the greatest priority first, the oldest first within a priority.
pub(super) fn one_receive_is_in_order(facts: &Facts<'_>) -> Vec<Violation> {
    let in_order = |got: &[Got]| {
        got.windows(2).all(|pair| {
            let rank = |one: &Got| (10 - one.priority, one.receipt.offset);
            rank(&pair[0]) < rank(&pair[1])
        })
    };
    let disordered = facts.receives.iter().filter(|(_, got)| !in_order(got));
    disordered.map(|(queue, got)| Violation::Order(format!("one receive of {queue} brought {got:?}"))).collect()
}
